//! `init --from FRAMEWORK:APP`: a first configuration from the routes that an app has already.
//!
//! The app is loaded by its own interpreter in a child process ([`child`]), which prints its route table; that
//! becomes patterns of ours ([`table`]) and a file to be read and corrected by people ([`draft`]). Who may
//! pass is guessed from decorators and middleware, so whatever is guessed says why, and what is not known is
//! closed. Never over a file.

mod child;
mod draft;
mod table;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use self::draft::Draft;
use super::check::run_tests;
use super::{CliError, Shell, Verdict};
use crate::config::{self, Sources};

/// Printed to standard output instead of a file.
const STANDARD_OUTPUT: &str = "-";

#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// The app
    #[arg(long, value_name = "FRAMEWORK:APP")]
    #[arg(
        help = "flask:MODULE:APP, as in flask:shop:app or flask:shop:create_app(); or express:FILE, as in \
                express:server.js. The app is imported in a process of its own, and not started"
    )]
    from: Origin,
    /// Where the draft goes; never over a file. - is standard output
    #[arg(long, value_name = "FILE", default_value = "config.toml")]
    output: PathBuf,
    /// What runs the app [default: python3 or node]
    #[arg(long, value_name = "PROGRAM")]
    interpreter: Option<OsString>,
}

/// An app whose routes can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Origin {
    /// `MODULE:APP`.
    Flask(String),
    /// A file.
    Express(PathBuf),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("flask", app)) if !app.is_empty() && !app.starts_with(':') => {
                Ok(Self::Flask(app.to_owned()))
            }
            Some(("express", file)) if !file.is_empty() => Ok(Self::Express(file.into())),
            _ => Err("expected flask:MODULE:APP or express:FILE".to_owned()),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flask(app) => write!(f, "flask:{app}"),
            Self::Express(file) => write!(f, "express:{}", file.display()),
        }
    }
}

impl Init {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let printed = self.output == Path::new(STANDARD_OUTPUT);
        // Before the app is run for nothing; what counts is how the file is opened.
        if !printed && self.output.symlink_metadata().is_ok() {
            return Err(there_already(&self.output));
        }
        let folder = self.output.parent().filter(|folder| !printed && !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let message = format!(
                "{}: there is no folder {}; make it, or name another with --output",
                self.output.display(),
                folder.display()
            );
            return Err(CliError::Failed(message));
        }
        let found = child::ask(&self.from, self.interpreter.as_deref()).map_err(CliError::Failed)?;
        let draft = Draft::new(&self.from, &found);
        if draft.routes() == 0 {
            return Err(CliError::Failed(format!(
                "{}: the app has no routes that could be drafted",
                self.from
            )));
        }
        let text = draft.text();
        if printed {
            shell.out.write_all(text.as_bytes())?;
            return Ok(Verdict::Good);
        }
        write_new(&self.output, &text)?;
        let (open, all) = (draft.open(), draft.routes());
        writeln!(
            shell.out,
            "{}: {all} routes drafted, {open} of them open to anybody",
            self.output.display()
        )?;
        if draft.undecided() > 0 {
            writeln!(shell.out, "{} wait for you: look for \"Decide\" in the file", draft.undecided())?;
        }
        if draft.left_out() > 0 {
            writeln!(shell.out, "{} could not be drafted: the file names them", draft.left_out())?;
        }
        self.check(shell)
    }

    /// Whether the draft holds what it says, by the engine that serves.
    fn check(&self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let sources = Sources { file: Some(self.output.clone()), ..Sources::default() };
        let loaded = match config::load(&sources) {
            Ok(loaded) => loaded,
            Err(problems) => {
                writeln!(shell.out, "{problems}\n\nThe draft needs a hand: correct what is said above")?;
                return Ok(Verdict::Bad);
            }
        };
        let tests = run_tests(&loaded.settings)?;
        for failed in tests.iter().filter(|test| !test.passed) {
            writeln!(shell.out, "test failed: {} ({}): {}", failed.request, failed.place, failed.got)?;
        }
        let passed = tests.iter().filter(|test| test.passed).count();
        writeln!(shell.out, "{passed} of its {} tests pass", tests.len())?;
        writeln!(
            shell.out,
            "Who may pass is guessed: read it, then gatepost --config {} check",
            self.output.display()
        )?;
        Ok(if passed == tests.len() { Verdict::Good } else { Verdict::Bad })
    }
}

/// Secrets may come to stand in it: only its owner reads it.
fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => there_already(path),
        _ => CliError::Failed(format!("{}: {error}", path.display())),
    })?;
    file.write_all(text.as_bytes()).map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))
}

fn there_already(path: &Path) -> CliError {
    CliError::Failed(format!(
        "{} is there already, and a draft never replaces a file; --output names another",
        path.display()
    ))
}

#[cfg(test)]
mod tests;
