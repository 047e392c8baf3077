//! Notices that certificate files have changed: a thread that is told by the system, and looks itself
//! once a minute in case it was not.
//!
//! Folders are watched, not files: a renewal is mostly a rename, and Kubernetes swaps a link to a whole
//! folder. What counts is what the files hold, so being woken for nothing costs a read.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::Tls;
use super::certificate::read;
use crate::settings::TlsSettings;

/// How often the files are looked at although nobody said anything.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// A certificate and its key are two writes; the first is not acted upon before the second had time.
const SETTLE: Duration = Duration::from_millis(200);

#[derive(Debug)]
enum Wake {
    Changed,
    Stop,
}

/// The thread that keeps [`Tls`] up with its files. Ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    wake: mpsc::Sender<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(tls: Arc<Tls>) -> io::Result<Self> {
        let (wake, woken) = mpsc::channel();
        let sender = wake.clone();
        let run = move || {
            let mut folders = Folders::new(sender);
            loop {
                folders.watch(&tls.source().settings);
                // After it is watched, not before: what has changed in between is noticed now.
                match tls.reload() {
                    Ok(true) => tracing::info!("new certificates are served"),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(%error, "changed certificates cannot be used; the ones before are still served");
                    }
                }
                match woken.recv_timeout(LOOK_EVERY) {
                    Ok(Wake::Changed) if settle(&woken) => return,
                    Ok(Wake::Changed) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Ok(Wake::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = thread::Builder::new().name("gatepost-certs".to_owned()).spawn(run)?;
        Ok(Self { wake, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A thread that has ended needs not be told.
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            drop(thread.join());
        }
    }
}

/// Waits until nothing has changed for a moment. True when told to stop.
fn settle(woken: &mpsc::Receiver<Wake>) -> bool {
    loop {
        match woken.recv_timeout(SETTLE) {
            Ok(Wake::Changed) => {}
            Ok(Wake::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return true,
            Err(mpsc::RecvTimeoutError::Timeout) => return false,
        }
    }
}

/// The folders that are watched.
struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Folders {
    fn new(wake: mpsc::Sender<Wake>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an event, too.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = wake.send(Wake::Changed);
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "changed certificates will be noticed within a minute only");
            })
            .ok();
        Self { watcher, watched: BTreeSet::new() }
    }

    fn watch(&mut self, settings: &TlsSettings) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = files(settings).map(folder).collect();
        for folder in self.watched.difference(&wanted) {
            // It may be gone, and its watch with it.
            let _ = watcher.unwatch(folder);
        }
        self.watched.retain(|folder| wanted.contains(folder));
        for folder in wanted {
            if !self.watched.contains(&folder) && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(folder);
            }
        }
    }
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn files(settings: &TlsSettings) -> impl Iterator<Item = &Path> {
    let certificates = settings.certificates.iter();
    certificates.flat_map(|files| [&*files.cert, &*files.key]).chain(settings.client_ca.as_deref())
}

/// What all the files hold, in one number.
pub(super) fn digest(settings: &TlsSettings) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for file in files(settings) {
        match read(file) {
            Ok(bytes) => {
                context.update(&(bytes.len() as u64).to_be_bytes());
                context.update(&bytes);
            }
            Err(error) => context.update(error.to_string().as_bytes()),
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
