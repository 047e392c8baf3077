//! The command line: one file a command. Each asks the same engine that the server runs and prints what
//! it says; nothing is decided here.
//!
//! Exit codes: 0 fine, 1 a problem that was named, 2 usage.

mod ask;
mod check;
mod completions;
mod config_show;
mod explain;
mod export;
mod files;
mod hash_password;
mod health;
mod import;
mod init;
mod judge;
mod key;
mod memory;
mod output;
mod password;
mod run;
mod token;
mod user;

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::Serve;
use crate::config::{self, Loaded, Problems, Sources};
use crate::control::Refusal;
use crate::store::sled::OpenError;

/// A reverse-proxy authentication gateway: accounts, tokens and rules in front of web apps.
#[derive(Debug, Parser)]
#[command(name = "gatepost", version, propagate_version = true, max_term_width = 100)]
struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", global = true)]
    #[arg(
        help = "Configuration file [default: $GATEPOST_CONFIG, ./config.toml or /etc/gatepost/config.toml]"
    )]
    config: Option<PathBuf>,
    /// Override a value of the file, such as log.level=debug (repeatable)
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Serve(Serving),
    /// Run the gateway and the app behind it: neither outlives the other
    Run(run::Run),
    /// Become the app: what `run` runs
    #[command(hide = true)]
    Become(run::Become),
    /// Check the configuration, and run the tests in it
    Check(check::Check),
    /// Show what would happen to a request, and why
    Explain(explain::Explain),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config_show::Config),
    /// Manage accounts
    #[command(subcommand)]
    User(user::User),
    /// Look at the keys
    #[command(subcommand)]
    Key(key::Key),
    /// Look into a token, or revoke one
    #[command(subcommand)]
    Token(token::Token),
    /// Print the hash of a password from standard input
    HashPassword(hash_password::HashPassword),
    /// Draft a configuration from the routes of an app
    Init(init::Init),
    /// Ask a running gateway whether it is ready (exit code 0) or not (1)
    Health(health::Health),
    /// Print a completion script
    Completions(completions::Completions),
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Serving {
    /// Take over from the gateway that runs, without a request being lost
    #[arg(long)]
    take_over: bool,
}

/// `--json`, for every command that prints a table or a verdict.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Format {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a command that had an answer ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Good,
    Bad,
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Config(#[from] Problems),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the admin socket {}: permission denied: it belongs to another user{}", socket.display(), name_pid(*pid))]
    Permission { socket: PathBuf, pid: Option<u32> },
    #[error("the admin socket {}: {cause}; whether the command was carried out is not known", socket.display())]
    Broken { socket: PathBuf, cause: io::Error },
    #[error("{lock}, and its admin socket {} does not answer", socket.display())]
    Locked { lock: OpenError, socket: PathBuf },
    #[error(transparent)]
    Store(OpenError),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
    #[error("{program}: {cause}")]
    Command { program: String, cause: io::Error },
    #[error("the answer does not fit the question")]
    Mismatch,
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn name_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!("; the store is held by pid {pid}")).unwrap_or_default()
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::Io(error.into())
    }
}

/// What a command works with.
struct Shell<'a> {
    sources: Sources,
    input: &'a mut dyn BufRead,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

impl Shell<'_> {
    fn load(&self) -> Result<Loaded, CliError> {
        Ok(config::load(&self.sources)?)
    }
}

/// Runs the command that `arguments` (the program's name first) ask for. `serve` runs the gateway.
pub fn run<A: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = A>,
    serve: impl FnOnce(Serve) -> ExitCode,
) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" with exit code 0; when nobody reads them there is nothing to do.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut input = io::BufReader::new(io::stdin());
    let mut out = io::BufWriter::new(io::stdout());
    let mut err = io::stderr();
    let sources = Sources::from_process(arguments.config, arguments.set);
    let mut shell = Shell { sources, input: &mut input, out: &mut out, err: &mut err };
    // Their warnings go to the log.
    let prepared = match arguments.command {
        Command::Serve(Serving { take_over }) => shell.load().map(|loaded| {
            let sources = shell.sources.clone();
            Serve { loaded, sources, take_over, hosted: None }
        }),
        Command::Run(command) => command.prepare(&shell),
        command => return ExitCode::from(execute(command, &mut shell)),
    };
    match prepared {
        Ok(prepared) => serve(prepared),
        Err(error) => ExitCode::from(report(&error, &mut shell)),
    }
}

/// Runs a command other than `serve`; gives its exit code.
fn execute(command: Command, shell: &mut Shell<'_>) -> u8 {
    let ended = dispatch(command, shell).and_then(|verdict| {
        shell.out.flush()?;
        Ok(verdict)
    });
    match ended {
        Ok(Verdict::Good) => 0,
        Ok(Verdict::Bad) => 1,
        Err(error) => report(&error, shell),
    }
}

fn dispatch(command: Command, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
    match command {
        // `run` has taken it already: it alone has what serves.
        Command::Serve(_) | Command::Run(_) => Ok(Verdict::Good),
        Command::Become(command) => Err(command.run()),
        Command::Check(command) => command.run(shell),
        Command::Explain(command) => command.run(shell),
        Command::Config(command) => command.run(shell),
        Command::User(command) => command.run(shell),
        Command::Key(command) => command.run(shell),
        Command::Token(command) => command.run(shell),
        Command::HashPassword(command) => command.run(shell),
        Command::Init(command) => command.run(shell),
        Command::Health(command) => command.run(shell),
        Command::Completions(command) => command.run(shell),
    }
}

fn report(error: &CliError, shell: &mut Shell<'_>) -> u8 {
    // `gatepost user list | head` closes the pipe: nobody's fault.
    if matches!(error, CliError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe) {
        return 0;
    }
    // What was printed so far belongs before the error; standard error is the last place to complain at.
    drop(shell.out.flush());
    drop(match error {
        CliError::Config(problems) => writeln!(shell.err, "{problems}"),
        error => writeln!(shell.err, "gatepost: {error}"),
    });
    match error {
        CliError::Usage(_) => 2,
        // As a shell says it.
        CliError::Command { cause, .. } if cause.kind() == io::ErrorKind::NotFound => 127,
        CliError::Command { .. } => 126,
        _ => 1,
    }
}

#[cfg(test)]
mod tests;
