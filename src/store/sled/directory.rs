//! The store's directory: who may look into it, and who holds it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::Instant;

use super::{LOCK_PATIENCE, LOCK_PAUSE, OpenError};

const LOCK_FILE: &str = "gatepost.lock";
/// Says that a store was made here: an empty database beside it is a loss, no beginning.
const MARK: &str = "gatepost.store";

/// Makes the directory if there is none, for its owner only; refuses one that others may write to.
pub(super) fn prepare(path: &Path) -> Result<(), OpenError> {
    let failed = |action| move |source| OpenError::Io { path: path.to_owned(), action, source };
    if !path.exists() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(failed("create the directory"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new("."))).map_err(failed("sync the directory above it"))?;
    }
    let found = fs::metadata(path).map_err(failed("look at the directory"))?;
    if !found.is_dir() {
        return Err(failed("open the directory")(io::ErrorKind::NotADirectory.into()));
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(OpenError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

/// What sled was writing when it was killed; it would take it for a snapshot and refuse to open.
pub(super) fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled makes its files as the umask says; the ones that hold rows are for the owner only.
pub(super) fn protect_files(path: &Path) -> io::Result<()> {
    for name in ["db", "conf"] {
        fs::set_permissions(path.join(name), Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Whether a store was made here before.
pub(super) fn is_marked(path: &Path) -> bool {
    path.join(MARK).exists()
}

/// Remembers that a store was made here.
pub(super) fn mark(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).open(path.join(MARK)).map(drop)
}

/// Makes what was created in the directory survive a loss of power.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The right to use the directory; ends with the process at the latest.
#[derive(Debug)]
pub(super) struct LockFile(File);

impl LockFile {
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let failed = |action| move |source| OpenError::Io { path: path.to_owned(), action, source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path.join(LOCK_FILE)).map_err(failed("open the lock file"))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                    thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    let pid = pid_in(&mut file);
                    return Err(OpenError::Locked { path: path.to_owned(), pid });
                }
                Err(TryLockError::Error(source)) => return Err(failed("lock the lock file")(source)),
            }
        }
        let written = file.set_len(0).and_then(|()| file.rewind());
        let written = written.and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(failed("write the lock file"))?;
        Ok(Self(file))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // An old pid would only mislead. Closing the file lets go of the lock.
        drop(self.0.set_len(0));
    }
}

/// The process that holds the store in `path`, as far as its lock file says and may be read. For messages.
#[must_use]
pub fn holder(path: &Path) -> Option<u32> {
    pid_in(&mut File::open(path.join(LOCK_FILE)).ok()?)
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
