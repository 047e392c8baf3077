//! When the configuration file may have changed.
//!
//! The directory of the file is watched, not the file: editors put another file in its place, and
//! Kubernetes swaps a symbolic link beside it. Whatever happens there, the file's content decides.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

use crate::config;

/// The file is looked at this often, where the system does not tell of changes (some network file systems).
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Writing a file takes several steps: it is read when nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(300);
/// But no later than this after the first.
const LATEST: Duration = Duration::from_secs(3);

/// Watches the configuration file on a thread of its own, until it is dropped.
#[derive(Debug)]
pub(super) struct FileWatch {
    /// Raised for each change of the content.
    changes: watch::Receiver<u64>,
    /// The system's watch, and with it the thread's end.
    _events: Option<RecommendedWatcher>,
    _stop: mpsc::Sender<()>,
}

impl FileWatch {
    /// Watches `file`, whose content had the fingerprint `known` when it was loaded.
    ///
    /// # Errors
    /// When there is no thread to be had. A system that does not tell of changes is logged, and asked.
    pub(super) fn start(file: &Path, known: u64) -> std::io::Result<Self> {
        let (raised, changes) = watch::channel(0);
        let (wake, woken) = mpsc::channel();
        let events = watch_directories(file, &wake);
        let path = file.to_owned();
        thread::Builder::new()
            .name("gatepost-config".to_owned())
            .spawn(move || look(&path, known, &woken, &raised))?;
        Ok(Self { changes, _events: events, _stop: wake })
    }

    /// Waits until the content has changed.
    pub(super) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The thread has ended, which it does not do by itself; SIGHUP still works.
            std::future::pending::<()>().await;
        }
    }
}

/// Asks the system to tell of changes beside the file, and beside the one that it is a link to.
fn watch_directories(file: &Path, wake: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let wake = wake.clone();
    let told = move |event: notify::Result<notify::Event>| {
        // Not for our own reading. What is not known may be anything.
        if event.is_ok_and(|event| is_reading(event.kind)) {
            return;
        }
        // The thread is gone when the process ends.
        let _ = wake.send(());
    };
    let mut places = vec![directory(file)];
    places.extend(file.canonicalize().ok().map(|real| directory(&real)));
    places.dedup();
    let watched = notify::recommended_watcher(told).and_then(|mut watcher| {
        for place in &places {
            watcher.watch(place, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    watched
        .inspect_err(|error| {
            tracing::warn!(%error, "changes of the configuration file are seen within a minute only");
        })
        .ok()
}

fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn look(file: &Path, mut known: u64, woken: &mpsc::Receiver<()>, raised: &watch::Sender<u64>) {
    while !raised.is_closed() {
        // A file that is not there is on its way: another event will say that it has come.
        let now = config::fingerprint(file).unwrap_or(known);
        if now != known {
            known = now;
            raised.send_modify(|times| *times += 1);
        }
        match woken.recv_timeout(LOOK_EVERY) {
            Ok(()) => wait_for_quiet(woken),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn wait_for_quiet(woken: &mpsc::Receiver<()>) {
    let latest = Instant::now() + LATEST;
    while woken.recv_timeout(QUIET.min(latest.saturating_duration_since(Instant::now()))).is_ok() {}
}
#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn start(file: &Path) -> std::io::Result<FileWatch> {
        FileWatch::start(file, config::fingerprint(file).expect("a file"))
    }

    fn settled(watch: &FileWatch) -> u64 {
        *watch.changes.borrow()
    }

    /// Waits until the watch has seen so many changes.
    fn until(watch: &FileWatch, times: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while settled(watch) < times {
            assert!(Instant::now() < deadline, "{} changes, not {times}", settled(watch));
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_change_of_the_content_is_seen_and_a_touch_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config.toml");
        fs::write(&file, "one").expect("written");
        let watch = start(&file).expect("a thread");
        fs::write(&file, "one").expect("written");
        fs::write(&file, "two").expect("written");
        until(&watch, 1);
        // As editors do it.
        fs::write(directory.path().join("new"), "three").expect("written");
        fs::rename(directory.path().join("new"), &file).expect("renamed");
        until(&watch, 2);
        assert_eq!(settled(&watch), 2);
    }

    #[test]
    fn a_swapped_link_is_seen() {
        // As Kubernetes does it: config.toml -> ..data/config.toml, ..data -> ..1.
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(at(version)).expect("made");
            fs::write(at(version).join("config.toml"), text).expect("written");
        }
        symlink("..1", at("..data")).expect("linked");
        symlink("..data/config.toml", at("config.toml")).expect("linked");
        let watch = start(&at("config.toml")).expect("a thread");
        symlink("..2", at("..data_tmp")).expect("linked");
        fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
        until(&watch, 1);
    }
}
