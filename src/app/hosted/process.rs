//! The app's process: its own group, its end, and everything else that ends below us.
//!
//! In a container the gateway is process 1, to which every orphan falls, and which has to take their ends
//! or they stay as zombies. It asks for the same outside of one, so that what an app leaves behind when it
//! is asked to end can be waited for.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, test_kill_process_group, wait,
};
use tokio::sync::watch;

use super::{HostedError, program};
use crate::app::Signals;

/// For the end of a process that was killed.
const LAST: Duration = Duration::from_secs(5);
/// Our own business, or somebody's secret, or meant for this very process.
const OURS: [&str; 7] = [
    "GATEPOST_CONFIG",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl End {
    /// As a shell reports it.
    pub(super) fn code(self) -> u8 {
        let code = match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(1)
    }

    /// Whether it is how a process ends that was asked to.
    pub(super) fn is_as_asked(self) -> bool {
        let asked = Signal::TERM.as_raw();
        self == Self::Exited(0) || self == Self::Killed(asked) || self == Self::Exited(128 + asked)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// The app's process, and its process group. Dropping it kills both.
#[derive(Debug)]
pub(super) struct Process {
    pid: Option<Pid>,
    end: watch::Receiver<Option<End>>,
}

impl Process {
    /// Runs the command with these variables on top of our own. To be called from the thread that stays to
    /// the end: with it ends the app, whatever happens to us.
    pub(super) fn spawn(
        words: &[OsString],
        environment: &[(&'static str, Option<OsString>)],
    ) -> Result<Self, HostedError> {
        let (told, end) = watch::channel(None);
        let program = words.first().map(OsString::as_os_str).unwrap_or_default();
        let pid = program::find(program).and_then(|()| spawn(words, environment));
        let pid = pid.map_err(|source| HostedError::Spawn {
            program: program.to_string_lossy().into_owned(),
            source: program::explain(program, source),
        })?;
        let process = Self { pid: Some(pid), end };
        let reap = move || reap(pid, &told);
        thread::Builder::new()
            .name("gatepost-reap".to_owned())
            .spawn(reap)
            .map_err(|source| HostedError::Spawn { program: "a thread".to_owned(), source })?;
        Ok(process)
    }

    /// One that has ended long ago.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        let (_, end) = watch::channel(Some(End::Exited(0)));
        Self { pid: None, end }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.map_or(0, |pid| pid.as_raw_nonzero().get())
    }

    /// How it has ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        *self.end.borrow()
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&mut self) -> End {
        match self.end.wait_for(Option::is_some).await.map(|end| *end) {
            Ok(Some(end)) => end,
            // Nobody knows any more: the thread that takes ends has ended itself.
            _ => End::Exited(1),
        }
    }

    /// Sends it a signal: to it alone, not to its group.
    pub(super) fn signal(&self, signal: Signal) {
        if let (Some(pid), None) = (self.pid, self.end())
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, "the app cannot be sent a signal");
        }
    }

    fn signal_group(&self, signal: Signal) {
        // There may be nobody any more.
        let _ = self.pid.map(|pid| kill_process_group(pid, signal));
    }

    fn has_ended_with_its_group(&self) -> bool {
        self.end().is_some() && self.pid.is_none_or(|pid| test_kill_process_group(pid).is_err())
    }

    /// Asks it and its group to end, waits for so long at most, or until another signal to stop, and then
    /// makes them.
    pub(super) fn stop(&mut self, patience: Duration, signals: &mut Signals, mut beat: impl FnMut()) {
        if self.has_ended_with_its_group() {
            return;
        }
        self.signal_group(Signal::TERM);
        // Who is stopped does not hear.
        self.signal_group(Signal::CONT);
        let mut done = |process: &Self| {
            beat();
            process.has_ended_with_its_group()
        };
        signals.stop_within(patience, || done(self));
        if self.has_ended_with_its_group() {
            return;
        }
        tracing::warn!("the app does not end when it is asked to: it is killed");
        self.signal_group(Signal::KILL);
        let until = Instant::now() + LAST;
        while !done(self) && Instant::now() < until {
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended_with_its_group() {
            self.signal_group(Signal::KILL);
        }
    }
}

fn spawn(words: &[OsString], environment: &[(&'static str, Option<OsString>)]) -> io::Result<Pid> {
    adopt_orphans();
    let prepared = |mut command: Command| {
        for (name, _) in std::env::vars_os() {
            let ours =
                name.to_str().is_some_and(|name| name.starts_with("GATEPOST__") || OURS.contains(&name));
            if ours {
                command.env_remove(name);
            }
        }
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // A terminal's input belongs to the group in its foreground, which is ours. That also gets what
        // is typed to interrupt: the app is to end after its requests.
        command.stdin(Stdio::null()).process_group(0);
        command
    };
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::NotFound)?;
    let direct = || {
        let mut command = Command::new(program);
        command.args(arguments);
        command
    };
    let child = match tied(words).map(|command| prepared(command).spawn()) {
        Some(Ok(child)) => child,
        _ => prepared(direct()).spawn()?,
    };
    Ok(Pid::from_child(&child))
}

/// Makes processes below us whose parents have ended children of ours.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(getpid())) {
        tracing::debug!(%error, "orphans of the app fall to somebody else");
    }
}

/// The command through this very program, which can ask to end with us before it becomes the app.
fn tied(words: &[OsString]) -> Option<Command> {
    cfg!(target_os = "linux").then(|| {
        let mut command = Command::new("/proc/self/exe");
        command.arg("become").arg(getpid().to_string()).arg("--").args(words);
        command
    })
}

/// Becomes the app whose gateway is the process `parent`: asks for SIGTERM with that one's end, then runs
/// the command in its own place.
///
/// # Errors
/// Only when that fails.
pub fn become_app(parent: i32, words: &[OsString]) -> io::Error {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getppid, set_parent_process_death_signal};
        if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
            return error.into();
        }
        // It may have ended before.
        if getppid().is_none_or(|now| now.as_raw_nonzero().get() != parent) {
            return io::Error::other("the gateway has ended");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    match words.split_first() {
        Some((program, arguments)) => program::explain(program, Command::new(program).args(arguments).exec()),
        None => io::ErrorKind::NotFound.into(),
    }
}

/// Takes the ends of all that ends, until there is nobody left, and tells of the app's.
fn reap(app: Pid, told: &watch::Sender<Option<End>>) {
    loop {
        let (pid, status) = match wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        };
        if pid == app {
            let killed = status.terminating_signal().map(End::Killed);
            let end = status.exit_status().map(End::Exited).or(killed);
            told.send_replace(Some(end.unwrap_or(End::Exited(1))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_a_shells_code() {
        for (end, code, as_asked) in [
            (End::Exited(0), 0, true),
            (End::Exited(3), 3, false),
            (End::Exited(143), 143, true),
            (End::Killed(15), 143, true),
            (End::Killed(9), 137, false),
        ] {
            assert_eq!((end.code(), end.is_as_asked()), (code, as_asked), "{end}");
        }
    }
}
