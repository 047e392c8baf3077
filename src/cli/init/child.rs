//! The process that loads the app: bounded in time and in what it may say.
//!
//! Loading an app runs its code, with the rights and the environment of whoever asks; it is no sandbox.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::Origin;
use super::table::FoundTable;
use crate::cli::output::printable;

/// Importing an app with its libraries takes seconds on a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Ten thousand routes are 3 MiB.
const MOST_OUTPUT: u64 = 64 << 20;
/// Of what went wrong, the end.
const MOST_COMPLAINT: usize = 4096;

const FLASK: &str = include_str!("flask.py");
const EXPRESS: &str = include_str!("express.js");

/// Loads the app, and gives its route table.
///
/// # Errors
/// A sentence: no interpreter, an app that does not load, none in time.
pub(super) fn ask(origin: &Origin, interpreter: Option<&OsStr>) -> Result<FoundTable, String> {
    // Nothing that the app prints by itself can be taken for its table.
    let marker = format!("gatepost-init-{}:", uuid::Uuid::new_v4().simple());
    let (program, flag, script, app) = match origin {
        Origin::Flask(app) => ("python3", "-c", FLASK, OsString::from(app)),
        // In full: one that starts with a dash would be an option.
        Origin::Express(file) => ("node", "-e", EXPRESS, absolute(file)?),
    };
    let program = interpreter.unwrap_or(OsStr::new(program));
    let mut command = Command::new(program);
    command.arg(flag).arg(script).arg(app).arg(&marker);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Only the app's own files are read.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    // What it starts ends with it.
    command.process_group(0);
    let child = command.spawn();
    let mut child = child.map_err(|error| cannot_run(origin, program, &error))?;
    let answer = listen(&mut child, &marker);
    // It may have threads, timers and connections that would keep it alive.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    drop(child.wait());
    let line = answer.map_err(|why| format!("{origin}: {why}"))?;
    if let Some(failed) = line.strip_prefix('!') {
        let why: String = serde_json::from_str(failed).unwrap_or_else(|_| failed.to_owned());
        return Err(format!("{origin}: {}", lines(&why)));
    }
    serde_json::from_str(&line).map_err(|error| format!("{origin}: its route table cannot be read: {error}"))
}

fn absolute(file: &Path) -> Result<OsString, String> {
    let path = std::path::absolute(file).ok().filter(|path| path.is_file());
    let missing = || {
        format!(
            "{}: there is no such file; name the one that makes the app, as in express:src/server.js",
            file.display()
        )
    };
    path.map(Into::into).ok_or_else(missing)
}

fn cannot_run(origin: &Origin, program: &OsStr, error: &io::Error) -> String {
    let in_path = !program.as_bytes().contains(&b'/');
    let why = match error.kind() {
        ErrorKind::NotFound if in_path => "there is no such program in PATH".to_owned(),
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::PermissionDenied => "it is not executable".to_owned(),
        _ => error.to_string(),
    };
    let example = match origin {
        Origin::Flask(_) => "venv/bin/python",
        Origin::Express(_) => "/usr/local/bin/node",
    };
    format!(
        "cannot run {}: {why}; --interpreter names the one that runs the app, as in --interpreter {example}",
        program.display()
    )
}

/// The marked line, or why there is none.
fn listen(child: &mut Child, marker: &str) -> Result<String, String> {
    let (Some(output), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("its output cannot be read".to_owned());
    };
    let (found, line) = mpsc::channel();
    let wanted = marker.to_owned();
    // These end with the process, whose end of the pipes is the only one left.
    thread::spawn(move || found.send(find_line(output, &wanted)));
    let (complained, complaint) = mpsc::channel();
    thread::spawn(move || complained.send(last_words(complaints)));
    match line.recv_timeout(PATIENCE) {
        Ok(Some(line)) => Ok(line),
        Ok(None) => {
            let words = complaint.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
            Err(format!(
                "the app cannot be loaded; --interpreter names the one that has its libraries\n{words}"
            ))
        }
        Err(_) => Err(format!(
            "the app has not loaded within {} s; does it wait for something that does not run, as a database?",
            PATIENCE.as_secs()
        )),
    }
}

fn find_line(output: impl Read, marker: &str) -> Option<String> {
    let mut output = BufReader::new(output.take(MOST_OUTPUT));
    let mut line = Vec::new();
    loop {
        line.clear();
        if output.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        if let Some(table) = line.strip_prefix(marker.as_bytes()) {
            return String::from_utf8(table.to_vec()).ok();
        }
    }
}

fn last_words(mut complaints: impl Read) -> String {
    let mut kept = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = complaints.read(&mut piece) {
        kept.extend_from_slice(&piece[..count]);
        let surplus = kept.len().saturating_sub(MOST_COMPLAINT);
        kept.drain(..surplus);
    }
    lines(&String::from_utf8_lossy(&kept))
}

/// Nothing that the app says does anything to a terminal.
fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
