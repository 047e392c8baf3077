//! `completions SHELL`

use clap::CommandFactory as _;
use clap_complete::Shell as Dialect;

use super::{Arguments, CliError, Shell, Verdict};

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Which shell
    shell: Dialect,
}

impl Completions {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        // The generator panics when it cannot write, which a closed pipe would make it do.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "gatepost", &mut script);
        shell.out.write_all(&script)?;
        Ok(Verdict::Good)
    }
}
