//! The thread under faults: backends that fail, stand still or fill up.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use super::*;
use crate::store::contract::{Backend, account, account_at, at, key, revocation, session, sid, user};
use crate::store::kv::Row;
use crate::store::memory::MemoryKv;

/// Where a sync says that it began, and what it then waits for.
type Gate = (Sender<()>, Receiver<()>);

/// Rows in memory behind a backend that misbehaves as told. Clones share everything.
#[derive(Clone, Default)]
struct Faulty {
    rows: MemoryKv,
    calls: Arc<AtomicUsize>,
    /// The call that fails, counted from 1; 0: none.
    fail_at: Arc<AtomicUsize>,
    full: Arc<AtomicBool>,
    syncs: Arc<AtomicUsize>,
    /// Of every batch: how many rows it removed and wrote.
    batches: Arc<Mutex<Vec<(usize, usize)>>>,
    /// While somebody listens here, a sync says that it began and waits to be let go.
    gate: Arc<Mutex<Option<Gate>>>,
}

impl Faulty {
    fn call(&self) -> Result<(), KvError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if self.fail_at.load(Ordering::SeqCst) == call {
            return Err(KvError("input/output error".to_owned()));
        }
        Ok(())
    }

    fn start(&self, min_free: u64, options: StoreOptions) -> Engine<Self> {
        Engine::over(self.clone(), min_free, options).unwrap()
    }

    /// Stops the next sync; what is received tells that it began, what is sent lets it go.
    fn stop_syncs(&self) -> (Receiver<()>, Sender<()>) {
        let (began, seen) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        *self.gate.lock().unwrap() = Some((began, wait));
        (seen, go)
    }
}

impl Kv for Faulty {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.call()?;
        self.rows.get(key)
    }
    fn scan(&self, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        self.call()?;
        self.rows.scan(prefix, start, limit)
    }
    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        self.call()?;
        let removed = batch.values().filter(|value| value.is_none()).count();
        self.batches.lock().unwrap().push((removed, batch.len() - removed));
        self.rows.apply(batch)
    }
    fn sync(&self) -> Result<(), KvError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if let Some((began, wait)) = &*self.gate.lock().unwrap() {
            // Once the test has dropped its ends, syncs pass.
            let _: Result<(), mpsc::SendError<()>> = began.send(());
            let _: Result<(), mpsc::RecvError> = wait.recv();
        }
        self.call()
    }
    fn free(&self) -> Result<Option<u64>, KvError> {
        Ok(Some(if self.full.load(Ordering::SeqCst) { 10 } else { 1000 }))
    }
}

/// Everything that a store shows.
fn everything(store: &impl Store) -> String {
    let accounts = store.accounts(None, usize::MAX).wait().unwrap();
    let sessions: Vec<_> =
        accounts.iter().map(|account| store.sessions(account.id.clone()).wait().unwrap()).collect();
    let addresses: Vec<_> = ["a@example.com", "b@example.com"]
        .map(|address| store.account(AccountKey::Email(address.parse().unwrap())).wait().unwrap())
        .into();
    let (revocations, keys) = (store.revocations().wait().unwrap(), store.keys().wait().unwrap());
    format!("{accounts:?} {sessions:?} {addresses:?} {revocations:?} {keys:?}")
}

/// Commits that together use every kind of change.
fn commits() -> Vec<Vec<Change>> {
    let (alice, bob) = (account_at("alice", "a@example.com"), account_at("bob", "b@example.com"));
    let (a, b) = (alice.id.clone(), bob.id.clone());
    vec![
        vec![
            Change::InsertAccount(alice.clone()),
            Change::InsertSession(session(&a, 1)),
            Change::InsertKey(key("k", at(1))),
        ],
        vec![Change::InsertAccount(bob), Change::InsertSession(session(&b, 2))],
        vec![
            Change::UpdateAccount(Account { version: 1, email: None, generation: 1, ..alice }),
            Change::Revoke(revocation(1, at(60))),
            Change::EndSessions { user: a.clone(), except: None },
        ],
        vec![Change::InsertSession(session(&a, 3)), Change::InsertSession(session(&a, 4))],
        vec![
            Change::UpdateSession(Session { version: 1, ends_at: at(2), ..session(&a, 3) }),
            Change::EndSession(sid(4)),
        ],
        vec![Change::RemoveAccount { id: b, version: 1 }, Change::Revoke(revocation(2, at(60)))],
    ]
}

/// What a store shows after exactly these of the [`commits`].
fn everything_after(which: &[bool]) -> String {
    let store = MemoryKv::default().open();
    for (changes, _) in commits().into_iter().zip(which).filter(|(_, done)| **done) {
        store.commit(changes).wait().unwrap();
    }
    everything(&store)
}

#[test]
fn whichever_call_fails_a_commit_is_there_whole_or_not_at_all() {
    let healthy = Faulty::default();
    let store = healthy.start(0, StoreOptions::default());
    for changes in commits() {
        store.commit(changes).wait().unwrap();
    }
    let calls = healthy.calls.load(Ordering::SeqCst);
    assert!(calls > 30, "{calls} calls");
    for failing in 1..=calls {
        let kv = Faulty::default();
        kv.fail_at.store(failing, Ordering::SeqCst);
        let store = kv.start(0, StoreOptions::default());
        let results: Vec<_> = commits().into_iter().map(|changes| store.commit(changes).wait()).collect();
        drop(store);
        let mut answered: Vec<bool> = results.iter().map(Result::is_ok).collect();
        let failed = answered.iter().position(|done| !done).unwrap();
        assert!(matches!(&results[failed], Err(StoreError::Unavailable(_))), "call {failing}");
        // Opened again, it shows what was answered, and of what failed everything or nothing.
        let found = everything(&kv.rows.open());
        let without = everything_after(&answered);
        answered[failed] = true;
        let applied_at_least =
            kv.batches.lock().unwrap().len() > results.iter().filter(|r| r.is_ok()).count();
        let expected = if applied_at_least { everything_after(&answered) } else { without };
        assert_eq!(found, expected, "call {failing}");
    }
}

#[test]
fn a_failed_read_refuses_its_job_and_the_store_goes_on() {
    let kv = Faulty::default();
    let store = kv.start(0, StoreOptions::default());
    kv.fail_at.store(1, Ordering::SeqCst);
    let refused = store.commit(vec![Change::InsertAccount(account("alice"))]).wait();
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(store.accounts(None, 10).wait(), Ok(vec![]));
    assert!(store.commit(vec![Change::InsertAccount(account("alice"))]).wait().is_ok());
}

#[test]
fn a_failed_flush_is_told_once_and_nothing_is_done_afterwards() {
    let kv = Faulty::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let on_fatal = Box::new(move |text: &str| hear.lock().unwrap().push(text.to_owned()));
    let store = kv.start(0, StoreOptions { on_fatal, ..StoreOptions::default() });
    assert_eq!(store.probe().wait(), Ok(()));
    // The next probe: a get, the batch, the flush.
    kv.fail_at.store(kv.calls.load(Ordering::SeqCst) + 3, Ordering::SeqCst);
    let failed = store.probe().wait();
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    assert_eq!(*told.lock().unwrap(), ["a commit failed: input/output error"]);
    let (syncs, calls) = (kv.syncs.load(Ordering::SeqCst), kv.calls.load(Ordering::SeqCst));
    assert!(matches!(store.probe().wait(), Err(StoreError::Unavailable(_))));
    assert!(matches!(store.keys().wait(), Err(StoreError::Unavailable(_))));
    assert_eq!(kv.syncs.load(Ordering::SeqCst), syncs, "a failed flush is not tried again");
    assert_eq!(kv.calls.load(Ordering::SeqCst), calls);
    assert_eq!(told.lock().unwrap().len(), 1);
}

#[test]
fn a_panic_in_the_backend_is_told_and_nobody_waits_for_ever() {
    struct Panicking;
    impl Kv for Panicking {
        fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
            panic!("a bug in the backend")
        }
        fn scan(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<Row>, KvError> {
            Ok(vec![])
        }
        fn apply(&self, _: &Batch) -> Result<(), KvError> {
            Ok(())
        }
        fn sync(&self) -> Result<(), KvError> {
            Ok(())
        }
        fn free(&self) -> Result<Option<u64>, KvError> {
            Ok(None)
        }
    }
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let on_fatal = Box::new(move |_: &str| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let store = Engine::over(Panicking, 0, StoreOptions { on_fatal, ..StoreOptions::default() }).unwrap();
    assert!(matches!(store.probe().wait(), Err(StoreError::Unavailable(_))));
    assert!(matches!(store.keys().wait(), Err(StoreError::Unavailable(_))));
    store.close();
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

#[test]
fn jobs_that_gather_during_a_flush_share_the_next_one() {
    let kv = Faulty::default();
    let metrics = Arc::new(Metrics::default());
    let options = StoreOptions { metrics: Arc::clone(&metrics), ..StoreOptions::default() };
    let store = kv.start(0, options);
    let (began, go) = kv.stop_syncs();
    let first = store.probe();
    began.recv().unwrap();
    let names: BTreeSet<_> = (0..100).map(|n| format!("user{n}")).collect();
    let gathered: Vec<_> =
        names.iter().map(|text| store.commit(vec![Change::InsertAccount(account(text))])).collect();
    let again = store.commit(vec![Change::InsertAccount(account("user7"))]);
    let seen = store.accounts(None, 1000);
    go.send(()).unwrap();
    assert_eq!(first.wait(), Ok(()));
    began.recv().unwrap();
    go.send(()).unwrap();
    assert!(gathered.into_iter().all(|reply| reply.wait().is_ok()));
    assert_eq!(again.wait(), Err(StoreError::NameTaken), "seen within the group");
    assert_eq!(seen.wait().unwrap().len(), 100, "reads see the group's own changes");
    assert_eq!(kv.syncs.load(Ordering::SeqCst), 2);
    assert_eq!(metrics.store_commit.buckets().iter().sum::<u64>(), 2);
}

#[test]
fn a_refused_commit_leaves_no_trace_in_its_group() {
    let kv = Faulty::default();
    let store = kv.start(0, StoreOptions::default());
    let (began, go) = kv.stop_syncs();
    let first = store.probe();
    began.recv().unwrap();
    let nobody = Change::ExpectAccount { id: user("nobody"), version: 1 };
    let refused = store.commit(vec![Change::InsertAccount(account("alice")), nobody]);
    let taken_after_all = store.commit(vec![Change::InsertAccount(account("alice"))]);
    go.send(()).unwrap();
    began.recv().unwrap();
    go.send(()).unwrap();
    assert!(first.wait().is_ok());
    assert_eq!(refused.wait(), Err(StoreError::Conflict));
    assert!(taken_after_all.wait().is_ok());
}

#[test]
fn what_only_reads_or_is_refused_does_not_flush() {
    let kv = Faulty::default();
    let store = kv.start(0, StoreOptions::default());
    store.accounts(None, 10).wait().unwrap();
    store.keys().wait().unwrap();
    store.purge(at(0)).wait().unwrap();
    let nobody = Change::ExpectAccount { id: user("nobody"), version: 1 };
    store.commit(vec![Change::InsertAccount(account("alice")), nobody]).wait().unwrap_err();
    assert_eq!(kv.syncs.load(Ordering::SeqCst), 0);
    assert!(kv.batches.lock().unwrap().is_empty());
}

#[test]
fn a_full_queue_says_busy_at_once_and_what_was_accepted_is_done() {
    let kv = Faulty::default();
    let store = kv.start(0, StoreOptions::default());
    let (began, go) = kv.stop_syncs();
    let mut accepted = vec![store.probe()];
    began.recv().unwrap();
    accepted.extend((0..QUEUE).map(|_| store.probe()));
    let busy = StoreError::Unavailable("busy".to_owned());
    assert_eq!(store.probe().wait(), Err(busy.clone()));
    assert_eq!(store.keys().wait(), Err(busy.clone()));
    assert_eq!(store.purge(at(0)).wait(), Err(busy));
    drop(go);
    assert!(accepted.into_iter().all(|reply| reply.wait().is_ok()));
}

#[test]
fn below_min_free_writes_are_refused_and_reads_go_on() {
    let kv = Faulty::default();
    let store = kv.start(100, StoreOptions::default());
    assert_eq!(store.probe().wait(), Ok(()));
    kv.full.store(true, Ordering::SeqCst);
    let full = StoreError::Full { free: 10, min_free: 100 };
    assert_eq!(store.commit(vec![Change::InsertAccount(account("alice"))]).wait(), Err(full.clone()));
    assert_eq!(store.probe().wait(), Err(full.clone()));
    assert_eq!(store.purge(at(0)).wait(), Err(full));
    assert_eq!(store.accounts(None, 10).wait(), Ok(vec![]));
    kv.full.store(false, Ordering::SeqCst);
    assert!(store.commit(vec![Change::InsertAccount(account("alice"))]).wait().is_ok());
}

#[test]
fn a_purge_goes_in_bounded_steps_and_lets_others_in_between() {
    let kv = Faulty::default();
    let store = kv.start(0, StoreOptions::default());
    for half in 0..2u8 {
        let sessions = (0..=255u8).map(|n| {
            let mut id = [half; 16];
            id[0] = n;
            Change::InsertSession(Session { id: SessionId::from_bytes(id), ..session(&user("a"), n) })
        });
        store.commit(sessions.collect()).wait().unwrap();
    }
    // Two thousand minutes, a row each.
    let revocations = (0..2000).map(|n| Change::Revoke(revocation(u128::from(n), at(60 * n))));
    store.commit(revocations.collect()).wait().unwrap();
    kv.batches.lock().unwrap().clear();
    let (one, other) = (store.purge(at(1_000_000)), store.purge(at(1_000_000)));
    let purged = [one.wait().unwrap(), other.wait().unwrap()];
    assert_eq!(purged.iter().map(|p| p.sessions).sum::<usize>(), 512);
    assert_eq!(purged.iter().map(|p| p.revocations).sum::<usize>(), 2000);
    let removed: Vec<_> = kv.batches.lock().unwrap().iter().map(|(removed, _)| *removed).collect();
    assert!(removed.len() >= 4 && removed.iter().all(|&rows| rows <= 1000), "{removed:?}");
    assert_eq!(removed.iter().sum::<usize>(), 3 * 512 + 2000);
}

#[test]
fn twenty_thousand_revocations_are_a_few_rows() {
    let kv = MemoryKv::default();
    let store = kv.open();
    let given: Vec<_> = (0..20_000).map(|n| revocation(n, at(u64::try_from(n % 900).unwrap()))).collect();
    for chunk in given.chunks(1000) {
        store.commit(chunk.iter().copied().map(Change::Revoke).collect()).wait().unwrap();
    }
    assert_eq!(store.revocations().wait().unwrap().len(), 20_000);
    let rows = kv.scan(b"r", b"r", usize::MAX).unwrap();
    assert!(rows.len() <= 100, "{} rows", rows.len());
    assert!(rows.iter().all(|(_, value)| value.len() <= tables::MAX_VALUE));
}

#[test]
fn a_row_that_does_not_parse_is_named_by_its_kind_and_shows_nothing_of_itself() {
    let kv = MemoryKv::default();
    let store = kv.open();
    let alice = account_at("alice", "a@example.com");
    store.commit(vec![Change::InsertAccount(alice.clone())]).wait().unwrap();
    store.commit(vec![Change::InsertSession(session(&alice.id, 1))]).wait().unwrap();
    store.commit(vec![Change::InsertSession(session(&alice.id, 2))]).wait().unwrap();
    store.commit(vec![Change::InsertKey(key("k", at(0)))]).wait().unwrap();
    store.commit(vec![Change::Revoke(revocation(1, at(0)))]).wait().unwrap();
    let spoil = |first: &[u8]| {
        let (row, _) = kv.scan(first, first, 1).unwrap().remove(0);
        kv.apply(&Batch::from([(row, Some(b"\"$argon2id$secret\"".to_vec()))])).unwrap();
    };
    for first in [b"a".as_slice(), b"s", b"k", b"r"] {
        spoil(first);
    }
    let told = [
        ("account", store.accounts(None, 10).wait().map(drop)),
        ("account", store.account(AccountKey::Email("a@example.com".parse().unwrap())).wait().map(drop)),
        (
            "account",
            store.commit(vec![Change::UpdateAccount(Account { version: 1, ..alice })]).wait().map(drop),
        ),
        ("session", store.session(sid(1)).wait().map(drop)),
        ("session", store.commit(vec![Change::EndSession(sid(1))]).wait().map(drop)),
        ("key", store.keys().wait().map(drop)),
        ("revocations", store.revocations().wait().map(drop)),
    ];
    for (kind, result) in told {
        let expected = StoreError::Unavailable(format!("a row cannot be read: {kind}"));
        assert_eq!(result, Err(expected));
    }
    // One bad session does not keep the others from being purged.
    assert_eq!(store.purge(at(9999)).wait().map(|purged| purged.sessions), Ok(1));
}
