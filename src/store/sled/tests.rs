//! The contract on disk, and what only a disk can do: restarts, locks, leftovers, other people's files.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::store::contract::{Backend, START, account, at, each_behaviour, revocation, session};
use crate::store::{Change, Store, StoreError};

struct Directory(TempDir);

impl Directory {
    fn fresh() -> Self {
        Self(TempDir::new().unwrap())
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }
    fn settings(&self, min_free: u64) -> StoreSettings {
        StoreSettings { path: self.path(), min_free }
    }
    fn try_open(&self) -> Result<SledStore, OpenError> {
        SledStore::open(&self.settings(0), StoreOptions::default())
    }
}

impl Backend for Directory {
    type Store = SledStore;
    fn open(&self) -> SledStore {
        self.try_open().unwrap()
    }
}

each_behaviour!(Directory::fresh());

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_directory_and_its_files_are_for_the_owner_only() {
    let directory = Directory::fresh();
    let store = directory.open();
    assert_eq!(mode(&directory.path()), 0o700);
    for file in ["db", "conf", "gatepost.lock"] {
        assert_eq!(mode(&directory.path().join(file)), 0o600, "{file}");
    }
    drop(store);
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    for exposed in [0o770, 0o707, 0o777, 0o1777, 0o720, 0o702] {
        let directory = Directory::fresh();
        fs::create_dir(directory.path()).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(exposed)).unwrap();
        let error = directory.try_open().unwrap_err();
        assert!(matches!(error, OpenError::Exposed { mode, .. } if mode == exposed), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was written");
    }
}

#[test]
fn a_second_opener_is_refused_and_told_the_pid() {
    let directory = Directory::fresh();
    let store = directory.open();
    let error = directory.try_open().unwrap_err();
    let us = std::process::id();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == us), "{error}");
    assert!(error.to_string().contains(&format!("pid {us}")), "{error}");
    assert_eq!(store.probe().wait(), Ok(()), "the first one goes on");
    drop(store);
    assert!(directory.try_open().is_ok());
}

#[test]
fn a_lock_that_lingers_a_little_is_waited_for() {
    let directory = Directory::fresh();
    let store = directory.open();
    let opened = thread::scope(|scope| {
        let second = scope.spawn(|| directory.try_open().map(drop));
        store.close();
        second.join().unwrap()
    });
    assert!(opened.is_ok(), "{opened:?}");
}

#[test]
fn a_closed_store_leaves_no_pid_behind() {
    let directory = Directory::fresh();
    directory.open().close();
    assert_eq!(fs::read_to_string(directory.path().join("gatepost.lock")).unwrap(), "");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let directory = Directory::fresh();
    directory.open().close();
    let kv = SledKv::open(&directory.path()).unwrap();
    let nothing = Batch::new();
    let mut rows = Transaction::over(&kv, &nothing);
    tables::set_schema(&mut rows, tables::SCHEMA + 1).unwrap();
    let batch = rows.into_changes();
    kv.apply(&batch).unwrap();
    kv.sync().unwrap();
    drop(kv);
    for _ in 0..2 {
        let error = directory.try_open().unwrap_err();
        assert!(matches!(error, OpenError::NewerSchema { found: 2, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("newer version"), "{error}");
    }
}

#[test]
fn a_database_of_something_else_is_refused() {
    let directory = Directory::fresh();
    directory::prepare(&directory.path()).unwrap();
    let other = ::sled::open(directory.path()).unwrap();
    other.insert("k", "v").unwrap();
    other.flush().unwrap();
    drop(other);
    let error = directory.try_open().unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn a_half_written_snapshot_does_not_keep_the_store_from_opening() {
    let directory = Directory::fresh();
    let store = directory.open();
    store.commit(vec![Change::InsertAccount(account("alice"))]).wait().unwrap();
    drop(store);
    let leftover = directory.path().join("snap.00000000000000FF.generating");
    fs::write(&leftover, b"").unwrap();
    let store = directory.open();
    assert!(!leftover.exists());
    assert_eq!(store.accounts(None, 10).wait().unwrap().len(), 1);
}

#[test]
fn a_damaged_store_is_refused_with_advice_and_its_files_are_left_alone() {
    let directory = Directory::fresh();
    directory.open().close();
    let snapshot = directory.path().join("snap.00000000000000FF");
    fs::write(&snapshot, b"rubbish").unwrap();
    let error = directory.try_open().unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("copy the whole directory"), "{error}");
    assert_eq!(fs::read(&snapshot).unwrap(), b"rubbish");
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let directory = Directory::fresh();
    let store = directory.open();
    store.commit(vec![Change::InsertAccount(account("alice"))]).wait().unwrap();
    drop(store);
    let store = SledStore::open(&directory.settings(u64::MAX), StoreOptions::default()).unwrap();
    let writes = [
        store.commit(vec![Change::InsertAccount(account("bob"))]).wait().map(drop),
        store.probe().wait(),
        store.purge(START).wait().map(drop),
    ];
    for refused in writes {
        assert!(
            matches!(refused, Err(StoreError::Full { min_free: u64::MAX, free }) if free > 0),
            "{refused:?}"
        );
    }
    assert_eq!(store.accounts(None, 10).wait().unwrap().len(), 1);
}

#[test]
fn what_was_answered_is_in_the_file_although_the_process_never_closes_it() {
    let directory = Directory::fresh();
    let store = directory.open();
    store.commit(vec![Change::InsertAccount(account("alice"))]).wait().unwrap();
    store.commit(vec![Change::Revoke(revocation(7, at(60)))]).wait().unwrap();
    // As a crash would leave it: the files as they are now, while the store is still open.
    let crashed = Directory::fresh();
    fs::create_dir(crashed.path()).unwrap();
    fs::set_permissions(crashed.path(), Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), crashed.path().join(entry.file_name())).unwrap();
        }
    }
    let recovered = crashed.open();
    assert_eq!(recovered.accounts(None, 10).wait().unwrap().len(), 1);
    assert_eq!(recovered.revocations().wait(), Ok(vec![revocation(7, at(60))]));
}

#[test]
fn a_store_whose_rows_are_gone_is_not_taken_for_a_new_one() {
    let directory = Directory::fresh();
    let store = directory.open();
    store.commit(vec![Change::InsertAccount(account("alice"))]).wait().unwrap();
    drop(store);
    for entry in fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name == "db" || name.starts_with("snap.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    for _ in 0..2 {
        let error = directory.try_open().unwrap_err();
        assert!(error.to_string().contains("its rows are gone"), "{error}");
    }
}

#[test]
fn a_first_start_that_was_cut_short_is_started_again() {
    let directory = Directory::fresh();
    directory::prepare(&directory.path()).unwrap();
    drop(::sled::open(directory.path()).unwrap());
    assert_eq!(directory.open().probe().wait(), Ok(()));
}

/// The part of a process that is killed: registers users and says so, until it is stopped.
#[test]
#[ignore = "only does something as the child of the next test"]
fn register_until_killed() {
    let Ok(path) = std::env::var(KILLED_CHILD) else { return };
    let settings = StoreSettings { path: path.into(), min_free: 0 };
    let store = SledStore::open(&settings, StoreOptions::default()).unwrap();
    let known = store.accounts(None, usize::MAX).wait().unwrap().len();
    for n in known.. {
        let name = format!("user{n}");
        let made = account(&name);
        let first = session(&made.id, 0);
        let first = crate::store::Session { id: crate::identity::SessionId::random(), ..first };
        store.commit(vec![Change::InsertAccount(made), Change::InsertSession(first)]).wait().unwrap();
        println!("done {name}");
    }
}

const KILLED_CHILD: &str = "GATEPOST_TEST_STORE_TO_BE_KILLED";

#[test]
fn what_was_acknowledged_is_there_after_the_process_was_killed() {
    let directory = Directory::fresh();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::sled::tests::register_until_killed", "--ignored", "--nocapture"])
            .env(KILLED_CHILD, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let told = |line: String| line.strip_prefix("done ").map(str::to_owned);
        acknowledged.extend(lines.by_ref().filter_map(told).take(10 + 7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died, and nobody had read yet.
        acknowledged.extend(lines.filter_map(told));

        let store = directory.open();
        let found = store.accounts(None, usize::MAX).wait().unwrap();
        assert!(acknowledged.len() <= found.len(), "one may be durable and not yet acknowledged");
        for name in &acknowledged {
            let id = found.iter().find(|account| account.id.as_str() == format!("id-{name}"));
            let id = id.unwrap_or_else(|| panic!("{name} is lost")).id.clone();
            assert_eq!(store.sessions(id).wait().unwrap().len(), 1, "a commit is there whole");
        }
    }
    assert!(acknowledged.len() >= 100, "{}", acknowledged.len());
}
