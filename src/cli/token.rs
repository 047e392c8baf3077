//! `token inspect` and `token revoke`.

use std::io::{BufRead, Read as _};

use super::ask::Connection;
use super::output::{self, Table, printable};
use super::user::{ended, names};
use super::{CliError, Format, Shell, Verdict};
use crate::control::command::{Confidential, Revoke, TokenReport};
use crate::control::{Answer, Command};
use crate::identity::{SessionId, TokenId};

/// Longer than any token, in bytes.
const LONGEST: u64 = 64 * 1024;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Token {
    /// Show what an access token says, and whether it is good
    Inspect(Inspect),
    /// Refuse an access token, or all of a session or of a user, from now on
    Revoke(RevokeArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The token; without it, or as -, it is read from standard input
    token: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArguments {
    /// The token; without it, or as -, it is read from standard input
    #[arg(conflicts_with_all = ["jti", "session", "user"])]
    token: Option<String>,
    /// One access token, by its id
    #[arg(long, value_name = "ID", conflicts_with_all = ["session", "user"])]
    jti: Option<TokenId>,
    /// A session: its refresh token and all its access tokens
    #[arg(long, value_name = "ID", conflicts_with = "user")]
    session: Option<SessionId>,
    /// All sessions of a user
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    format: Format,
}

impl Token {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let mut gateway = Connection::new(&shell.load()?);
        match self {
            Self::Inspect(Inspect { token, format }) => {
                let token = read(token, shell.input)?;
                let Answer::Token(report) = gateway.ask(Command::TokenInspect { token })? else {
                    return Err(CliError::Mismatch);
                };
                if format.json {
                    output::json(shell.out, &report)?;
                } else {
                    print(shell, &report)?;
                }
                // Any verdict is an answer, but what cannot even be read is no token.
                Ok(if report.claims.is_some() { Verdict::Good } else { Verdict::Bad })
            }
            Self::Revoke(RevokeArguments { token, jti, session, user, format }) => {
                let what = match (jti, session, user) {
                    (Some(id), _, _) => Revoke::Jti(id),
                    (_, Some(id), _) => Revoke::Session(id),
                    (_, _, Some(user)) => Revoke::User(user),
                    (None, None, None) => Revoke::Token(read(token, shell.input)?),
                };
                ended(shell, format, &gateway.ask(Command::TokenRevoke { what })?, "revoked")?;
                Ok(Verdict::Good)
            }
        }
    }
}

/// The token from the command line or standard input, without white space around it, nor the `Bearer`
/// that people copy with it.
pub(super) fn read(token: Option<String>, input: &mut dyn BufRead) -> Result<Confidential, CliError> {
    let text = match token {
        Some(token) if token != "-" => token,
        _ => {
            let mut text = String::new();
            input.take(LONGEST).read_to_string(&mut text)?;
            text
        }
    };
    let token = text.trim();
    let bare = match token.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
        _ => token,
    };
    if bare.is_empty() {
        return Err(CliError::Failed("there is no token".to_owned()));
    }
    Ok(Confidential::from(bare.to_owned()))
}

fn print(shell: &mut Shell<'_>, report: &TokenReport) -> Result<(), CliError> {
    let mut table = Table::of_pairs();
    match &report.detail {
        Some(detail) => table.pair("state", format!("{}: {detail}", report.state)),
        None => table.pair("state", &report.state),
    }
    if let Some(caller) = &report.caller {
        table.pair("user", format!("{} ({})", caller.username, caller.id));
        table.pair("roles", names(&caller.roles));
        table.pair("session", caller.session.to_string());
    }
    if let Some(time) = &report.issued_at {
        table.pair("issued", time);
    }
    if let Some(time) = &report.expires_at {
        table.pair("expires", time);
    }
    table.print(shell.out)?;
    for (name, value) in [("header", &report.header), ("claims", &report.claims)] {
        if let Some(value) = value {
            let text = serde_json::to_string_pretty(value)?;
            let lines: Vec<_> = text.lines().map(printable).collect();
            writeln!(shell.out, "{name} {}", lines.join("\n"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_as_people_paste_it() {
        for (argument, input, token) in [
            (Some("a.b.c"), "", "a.b.c"),
            (None, "a.b.c\n", "a.b.c"),
            (Some("-"), "  a.b.c \r\n", "a.b.c"),
            (Some("Bearer a.b.c"), "", "a.b.c"),
            (None, "bearer  a.b.c", "a.b.c"),
        ] {
            let read = read(argument.map(str::to_owned), &mut input.as_bytes()).expect("a token");
            assert_eq!(read.expose(), token);
        }
        assert!(read(None, &mut "\n".as_bytes()).is_err());
    }
}
