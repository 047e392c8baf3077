//! Passwords for the commands that need one: typed twice, or one from standard input. Never an argument,
//! which every user of the machine could read.

use std::io::{BufRead, Read as _};

use super::{CliError, Shell};
use crate::control::command::Confidential;

/// More than any password may have, in bytes.
const LONGEST: u64 = 16 * 1024;

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct PasswordSource {
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

impl PasswordSource {
    pub(super) fn read(self, shell: &mut Shell<'_>) -> Result<Confidential, CliError> {
        if self.password_stdin {
            return from_input(shell.input);
        }
        let ask = |prompt| {
            rpassword::prompt_password(prompt).map_err(|error| {
                CliError::Failed(format!("no terminal to ask for a password ({error}); use --password-stdin"))
            })
        };
        let first = Confidential::from(ask("Password: ")?);
        let second = Confidential::from(ask("Again: ")?);
        if first.expose() != second.expose() {
            return Err(CliError::Failed("the two passwords differ".to_owned()));
        }
        Ok(first)
    }
}

/// Everything that is there; one final line end is cut.
pub(super) fn from_input(input: &mut dyn BufRead) -> Result<Confidential, CliError> {
    let mut text = String::new();
    input.take(LONGEST).read_to_string(&mut text)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(CliError::Failed("standard input has no password".to_owned()));
    }
    Ok(Confidential::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_final_line_end_is_cut() {
        let cases = [("a b", "a b"), (" x\n", " x"), ("x\r\n", "x"), ("x\n\n", "x\n"), ("\rx", "\rx")];
        for (input, password) in cases {
            let read = from_input(&mut input.as_bytes()).expect("a password");
            assert_eq!(read.expose(), password, "{input:?}");
        }
        assert!(from_input(&mut "\n".as_bytes()).is_err());
        assert!(from_input(&mut "".as_bytes()).is_err());
    }
}
