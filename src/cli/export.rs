//! `user export`: every account, in a form that `user import` takes.

use super::ask::Connection;
use super::{CliError, Shell};
use crate::control::command::{Confidential, UserRecord};
use crate::control::{Answer, Command};
use crate::store::Origin;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Jsonl,
    Csv,
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// One JSON object a line, or a table with a heading
    #[arg(long, value_enum, default_value_t = Form::Jsonl)]
    format: Form,
    /// Leave the password hashes out: nobody can log in with what is left
    #[arg(long)]
    without_hashes: bool,
}

impl Export {
    pub(super) fn run(self, shell: &mut Shell<'_>, gateway: &mut Connection) -> Result<(), CliError> {
        if self.format == Form::Csv {
            let heading = super::import::FIELDS.iter().map(|field| (*field).to_owned());
            shell.out.write_all(&csv_line(&self.chosen(heading))?)?;
        }
        let mut after = None;
        loop {
            let Answer::Exported { users, more } = gateway.ask(Command::UserExport { after })? else {
                return Err(CliError::Mismatch);
            };
            let last = users.last().and_then(|user| user.id.clone()?.parse().ok());
            for mut user in users {
                if self.without_hashes {
                    user.password_hash = None;
                }
                let line = match self.format {
                    Form::Jsonl => [serde_json::to_vec(&user)?, b"\n".to_vec()].concat(),
                    Form::Csv => csv_line(&self.chosen(cells(&user)))?,
                };
                shell.out.write_all(&line)?;
            }
            if !more || last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }
}

impl Export {
    /// What is there of a line, whose cells are in the order of the fields of an import. A column without a hash in
    /// it would say that nobody has a password.
    fn chosen(&self, cells: impl IntoIterator<Item = String>) -> Vec<String> {
        let is_left_out =
            |field: &str| field == "password" || (field == "password_hash" && self.without_hashes);
        let named = super::import::FIELDS.iter().zip(cells);
        named.filter(|(field, _)| !is_left_out(field)).map(|(_, cell)| cell).collect()
    }
}

/// In the order of the fields of an import.
fn cells(user: &UserRecord) -> Vec<String> {
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    vec![
        or_empty(&user.id),
        or_empty(&user.username),
        or_empty(&user.email),
        user.email_verified.to_string(),
        or_empty(&user.name),
        // Nothing would be the default roles.
        user.roles.as_ref().map_or_else(String::new, |roles| match roles.as_slice() {
            [] => "-".to_owned(),
            [role] if role == "-" => "-,".to_owned(),
            roles => roles.join(","),
        }),
        user.password_hash.as_ref().map_or_else(String::new, |hash: &Confidential| hash.expose().to_owned()),
        user.disabled.to_string(),
        or_empty(&user.created_at),
        user.generation.to_string(),
        user.origin.map_or("", Origin::word).to_owned(),
        // No gateway knows a password.
        String::new(),
    ]
}

fn csv_line(cells: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, CliError> {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(cells).map_err(|error| CliError::Failed(error.to_string()))?;
    writer.into_inner().map_err(|error| CliError::Failed(error.to_string()))
}
