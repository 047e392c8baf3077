//! `key list` and `key export`.

use super::ask::Connection;
use super::output::{self, Table};
use super::{CliError, Format, Shell, Verdict};
use crate::control::{Answer, Command};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// List the keys
    List(Format),
    /// Print the public keys as a JWK set, for apps that verify tokens themselves
    Export(Format),
}

impl Key {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let mut gateway = Connection::new(&shell.load()?);
        match self {
            Self::List(format) => {
                let Answer::Keys(keys) = gateway.ask(Command::KeyList)? else {
                    return Err(CliError::Mismatch);
                };
                if format.json {
                    output::json(shell.out, &keys)?;
                } else {
                    let mut table = Table::new(&["ID", "PURPOSE", "ALGORITHM", "IN USE", "CREATED"]);
                    for key in keys {
                        let created = key.created_at.unwrap_or_else(|| "configured".to_owned());
                        let in_use = if key.in_use { "yes" } else { "no" };
                        table.row([&*key.id, &key.purpose, &key.algorithm, in_use, &created]);
                    }
                    table.print(shell.out)?;
                }
            }
            // A JWK set is JSON anyway.
            Self::Export(Format { json: _ }) => {
                let Answer::Jwks(keys) = gateway.ask(Command::KeyExport)? else {
                    return Err(CliError::Mismatch);
                };
                output::json(shell.out, &keys)?;
            }
        }
        Ok(Verdict::Good)
    }
}
