//! `hash-password`: a PHC string, as the store keeps it.

use std::io::IsTerminal as _;

use super::password::from_input;
use super::{CliError, Shell, Verdict};
use crate::account::{Passphrase, hash_once};
use crate::secret::Secret;
use crate::settings::PasswordSettings;

#[derive(Debug, clap::Args)]
pub(super) struct HashPassword {}

impl HashPassword {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let Self {} = self;
        let settings = settings(shell)?;
        if std::io::stdin().is_terminal() {
            write!(shell.err, "Password, then Ctrl-D (it is shown): ")?;
            shell.err.flush()?;
        }
        let password = Secret::new(String::from(from_input(shell.input)?));
        let failed = |why: String| CliError::Failed(why);
        let chosen = Passphrase::chosen(&password, "password", &settings);
        let chosen = chosen.map_err(|invalid| failed(invalid.message.into_owned()))?;
        let hash = hash_once(&chosen, &settings).map_err(|error| failed(error.to_string()))?;
        writeln!(shell.out, "{}", hash.phc())?;
        Ok(Verdict::Good)
    }
}

/// Without a configuration (in a container, say) the defaults do: the hash says how it was made.
fn settings(shell: &mut Shell<'_>) -> Result<PasswordSettings, CliError> {
    match shell.load() {
        Ok(loaded) => Ok(loaded.settings.auth.password),
        Err(error) if shell.sources.file.is_some() => Err(error),
        Err(_) => {
            writeln!(shell.err, "gatepost: no usable configuration: hashed with the default parameters")?;
            Ok(PasswordSettings::default())
        }
    }
}
