//! `config show`: every key with its effective value; secrets are masked by `config`.

use serde::Serialize;

use super::output::{self, Table};
use super::{CliError, Format, Shell, Verdict};
use crate::config::ShownValue;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Config {
    /// Show every key with its effective value
    Show(Show),
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Show where each value comes from: a line of the file, a variable, or the default
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    value: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
}

impl Config {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let Self::Show(Show { origin, format }) = self;
        let shown = shell.load()?.shown;
        if format.json {
            let values = shown.iter().map(|ShownValue { key, value, origin: place, .. }| Row {
                key,
                value,
                origin: origin.then_some(place),
            });
            output::json(shell.out, &values.collect::<Vec<_>>())?;
            return Ok(Verdict::Good);
        }
        let mut table = Table::of_pairs();
        for ShownValue { key, value, origin: place, .. } in &shown {
            let pair = format!("{key} = {value}");
            if origin { table.row([pair, format!("# {place}")]) } else { table.row([pair]) }
        }
        table.print(shell.out)?;
        Ok(Verdict::Good)
    }
}
