//! The store on disk: sled 0.34, held by one process.
//!
//! sled is trusted with less than it offers. Its `flush` is no fsync, so every group is followed by
//! `sync_data` on a descriptor of our own on the same file. Its transactions and `flush_async` can
//! dead-lock, so one thread does everything and a group is one `Batch` of one tree, which recovery
//! applies whole or not at all. Values stay small, because long ones go to files that are never
//! synced. A half-written snapshot makes it refuse to open, so such a file is deleted first.

mod directory;

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub use self::directory::holder;

use self::directory::LockFile;
use super::engine::{Engine, StoreOptions};
use super::kv::{Batch, Kv, KvError, Row};
use super::tables::{self, Transaction};
use crate::settings::StoreSettings;

/// In bytes. sled's real use is several times this.
const CACHE: u64 = 32 * 1024 * 1024;

/// How long a lock that somebody holds is asked for again: a process that has just ended may linger.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A store in a directory of its own.
pub type SledStore = Engine<SledKv>;

/// Why the store did not open. Nothing in its directory was changed, save for what a crash had left half
/// done.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error("the store in {} is in use by another process{}", path.display(), name_pid(*pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who, as far as the lock file says.
        pid: Option<u32>,
    },
    /// A newer gatepost wrote it.
    #[error(
        "the store in {} has schema {found}, this gatepost knows up to {known}: \
         it was written by a newer version, start that one again", path.display()
    )]
    NewerSchema {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version that this program knows.
        known: u64,
    },
    /// Others could change its files.
    #[error(
        "the store's directory {} is writable by others (mode {mode:03o}): \
         whoever can write there can log in as anybody; try chmod 700", path.display()
    )]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The database does not recover.
    #[error(
        "the store in {} cannot be opened: {cause}. Its files were left as they are: \
         copy the whole directory before you try anything else", path.display()
    )]
    Corrupt {
        /// The directory.
        path: PathBuf,
        /// What the database says.
        cause: String,
    },
    /// The file system says no.
    #[error("the store in {}: {action}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

fn name_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

impl SledStore {
    /// Opens the store in its directory, or makes one there. Blocks, up to two seconds longer when somebody
    /// holds the lock.
    pub fn open(settings: &StoreSettings, options: StoreOptions) -> Result<Self, OpenError> {
        let kv = SledKv::open(&settings.path)?;
        Self::over(kv, settings.min_free, options).map_err(no_thread(settings))
    }

    /// Opens a store again that was closed: whoever has it can go on. Blocks as [`open`](Self::open) does.
    pub fn open_again(&self, settings: &StoreSettings, options: StoreOptions) -> Result<(), OpenError> {
        let kv = SledKv::open(&settings.path)?;
        self.go_on(kv, settings.min_free, options).map_err(no_thread(settings))
    }
}

/// Whether there is a store in this directory, or what is left of one. Changes nothing.
#[must_use]
pub fn is_made(path: &Path) -> bool {
    directory::is_marked(path) || path.join("db").exists()
}

fn no_thread(settings: &StoreSettings) -> impl FnOnce(io::Error) -> OpenError {
    let path = settings.path.clone();
    move |source| OpenError::Io { path, action: "start its thread", source }
}

/// The open database. The fields' order is the order of their end: the lock goes last.
#[derive(Debug)]
pub struct SledKv {
    db: ::sled::Db,
    /// sled's own file, for the fsync that it leaves out.
    file: File,
    directory: PathBuf,
    _lock: LockFile,
}

impl SledKv {
    fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |action| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, action, source }
        };
        directory::prepare(path)?;
        let lock = LockFile::take(path)?;
        directory::remove_unfinished_snapshots(path).map_err(failed("remove an unfinished snapshot"))?;
        let db = open_database(path)?;
        let file = File::open(path.join("db")).map_err(failed("open its db file"))?;
        let kv = Self { db, file, directory: path.to_owned(), _lock: lock };
        kv.settle_schema()?;
        directory::protect_files(path).map_err(failed("set the permissions of its files"))?;
        directory::mark(path).map_err(failed("mark the directory"))?;
        directory::sync(path).map_err(failed("sync the directory"))?;
        Ok(kv)
    }

    /// Marks a fresh store as ours, refuses what we do not know.
    fn settle_schema(&self) -> Result<(), OpenError> {
        let corrupt = |cause: String| OpenError::Corrupt { path: self.directory.clone(), cause };
        let nothing = Batch::new();
        let mut rows = Transaction::over(self, &nothing);
        match tables::schema(&rows).map_err(|error| corrupt(error.to_string()))? {
            Some(found) if found > tables::SCHEMA => {
                Err(OpenError::NewerSchema { path: self.directory.clone(), found, known: tables::SCHEMA })
            }
            Some(_) => Ok(()),
            None if !self.db.is_empty() => Err(corrupt("it holds rows of something else".to_owned())),
            // sled recovers what it can, which may be nothing: no accounts, and every revocation forgotten.
            None if directory::is_marked(&self.directory) => Err(corrupt("its rows are gone".to_owned())),
            None => {
                tables::set_schema(&mut rows, tables::SCHEMA).map_err(|error| corrupt(error.to_string()))?;
                let batch = rows.into_changes();
                let done = self.apply(&batch).and_then(|()| self.sync());
                done.map_err(|error| corrupt(error.to_string()))
            }
        }
    }
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.db.get(key).map_err(|error| fault(&error))?.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        let mut found = Vec::new();
        for row in self.db.range(start.max(prefix)..).take(limit) {
            let (key, value) = row.map_err(|error| fault(&error))?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.to_vec(), value.to_vec()));
        }
        Ok(found)
    }

    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        let mut changes = ::sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => changes.insert(key.as_slice(), value.as_slice()),
                None => changes.remove(key.as_slice()),
            }
        }
        self.db.apply_batch(changes).map_err(|error| fault(&error))
    }

    fn sync(&self) -> Result<(), KvError> {
        self.db.flush().map_err(|error| fault(&error))?;
        self.file.sync_data().map_err(|error| KvError(format!("sync the db file: {error}")))
    }

    fn free(&self) -> Result<Option<u64>, KvError> {
        let found = rustix::fs::statvfs(&self.directory).map_err(|error| KvError(error.to_string()))?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }
}

fn fault(error: &::sled::Error) -> KvError {
    KvError(error.to_string())
}

fn open_database(path: &Path) -> Result<::sled::Db, OpenError> {
    let started = Instant::now();
    loop {
        // Its flusher stays on although every group is flushed here: space is only reclaimed by it.
        let config = ::sled::Config::new()
            .path(path)
            .cache_capacity(CACHE)
            .mode(::sled::Mode::LowSpace)
            .flush_every_ms(Some(500));
        // Some damage makes it panic instead of saying so.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let cause = match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) if is_lock(&error) && started.elapsed() < LOCK_PATIENCE => {
                thread::sleep(LOCK_PAUSE);
                continue;
            }
            Ok(Err(error)) if is_lock(&error) => {
                return Err(OpenError::Locked { path: path.to_owned(), pid: None });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database panicked while it recovered".to_owned(),
        };
        return Err(OpenError::Corrupt { path: path.to_owned(), cause });
    }
}

/// sled wraps it so that only the text is left to tell it by.
fn is_lock(error: &::sled::Error) -> bool {
    matches!(error, ::sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

#[cfg(test)]
mod tests;
