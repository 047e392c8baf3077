//! `run`: the gateway, and the app behind it as a process of its own.

use std::ffi::OsString;
use std::time::Duration;

use super::{CliError, Shell};
use crate::app::{self, HostedCommand, Serve};
use crate::config;

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The upstream that the command is; needed when the file has several
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// How long the app may take to answer
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = config::parse_duration)]
    start_timeout: Duration,
    /// How long the app may take to end when it is asked to; then it is killed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = config::parse_duration)]
    stop_timeout: Duration,
    /// Let the app listen where other machines may reach it without the gateway
    #[arg(long)]
    allow_exposed: bool,
    /// Take over from the gateway that runs, without a request being lost
    #[arg(long)]
    take_over: bool,
    /// The app's command, in which {bind} is `unix:PATH`, {socket} is PATH and {port} is a number; without
    /// them the port is in $PORT
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// What is to be served, once the configuration says that it can be.
    pub(super) fn prepare(self, shell: &Shell<'_>) -> Result<Serve, CliError> {
        let loaded = shell.load()?;
        let upstream = app::upstream_of(&loaded.settings, self.upstream.as_deref());
        let hosted = HostedCommand {
            words: self.command,
            upstream: upstream.map_err(CliError::Usage)?,
            start_timeout: self.start_timeout,
            stop_timeout: self.stop_timeout,
            allow_exposed: self.allow_exposed,
        };
        let sources = shell.sources.clone();
        Ok(Serve { loaded, sources, take_over: self.take_over, hosted: Some(hosted) })
    }
}

/// What `run` starts in the app's process.
#[derive(Debug, clap::Args)]
pub(super) struct Become {
    /// The gateway's process
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Become {
    /// Comes back only when that fails.
    pub(super) fn run(self) -> CliError {
        let program = self.command.first().map(|word| word.to_string_lossy().into_owned());
        let cause = app::become_app(self.parent, &self.command);
        CliError::Command { program: program.unwrap_or_default(), cause }
    }
}
