//! The store's one thread: takes what waits, applies it as one batch, makes it durable, answers all.
//!
//! Group commit: while one flush runs, jobs gather; the next group takes them together, so the cost of
//! a flush is shared without any artificial delay. Inside a group each job sees what the jobs before
//! it did and changes all or nothing; the group as a whole is one atomic batch of the backend, so what
//! a crash leaves behind is a whole number of groups. Nothing is answered before its group is durable,
//! reads included: nobody sees what a crash could still take back.
//!
//! A flush that fails is fatal and is not tried again: the kernel may have dropped the dirty pages, and a
//! second flush would succeed without them. The process has to end and to recover from what is on disk.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use super::kv::{Batch, Kv, KvError};
use super::tables::{self, Transaction};
use super::{
    Account, AccountKey, AcmeState, Change, Committed, Outbox, Purged, Reply, Session, Store, StoreError,
    StoredKey,
};
use crate::clock::Timestamp;
use crate::identity::{SessionId, UserId};
use crate::metrics::Metrics;
use crate::token::revocation::Revocation;

/// Jobs that may wait. More than this and the disk is not keeping up: callers are told so.
const QUEUE: usize = 4096;
/// Jobs that share one flush.
const GROUP: usize = 513;

/// What a store tells others about itself.
pub struct StoreOptions {
    /// Where commits are counted.
    pub metrics: Arc<Metrics>,
    /// Called once, on the store's thread, when what was applied could not be made durable. The
    /// process should end: afterwards this store refuses everything.
    pub on_fatal: Box<dyn Fn(&str) + Send>,
}

impl Default for StoreOptions {
    /// Counts into nowhere and tells nobody.
    fn default() -> Self {
        Self { metrics: Arc::default(), on_fatal: Box::new(|_| ()) }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions").finish_non_exhaustive()
    }
}

/// A store over a backend. Dropping it finishes what was accepted, as [`Engine::close`] does.
pub struct Engine<K> {
    queue: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    more_in_outbox: Arc<Notify>,
    backend: PhantomData<fn(K)>,
}

impl<K> fmt::Debug for Engine<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl<K: Kv> Engine<K> {
    /// Starts the store's thread over an open backend.
    pub(super) fn over(kv: K, min_free: u64, options: StoreOptions) -> io::Result<Self> {
        let engine = Self {
            queue: Mutex::new(None),
            thread: Mutex::new(None),
            more_in_outbox: Arc::default(),
            backend: PhantomData,
        };
        engine.go_on(kv, min_free, options)?;
        Ok(engine)
    }

    /// Goes on after a [`close`](Self::close), over a backend that was opened again.
    pub(super) fn go_on(&self, kv: K, min_free: u64, options: StoreOptions) -> io::Result<()> {
        self.close();
        let (queue, jobs) = mpsc::sync_channel(QUEUE);
        let more_in_outbox = Arc::clone(&self.more_in_outbox);
        let worker = Worker { kv, min_free, options, more_in_outbox, broken: None };
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || worker.run(&jobs))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
        Ok(())
    }
}

impl<K> Engine<K> {
    /// Finishes what was accepted, makes it durable and lets go of the backend. Whoever calls later is told
    /// that the store is unavailable. Blocks while it does so.
    pub fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        if thread.thread().id() != thread::current().id() {
            // A panic in there was caught and reported by the thread itself.
            let _: Result<(), Box<dyn Any + Send>> = thread.join();
        }
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<T> {
        let (answer, reply) = Reply::channel();
        self.enqueue(Job::Read(Box::new(Task { work, answer })));
        reply
    }

    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<T> {
        let (answer, reply) = Reply::channel();
        self.enqueue(Job::Write(Box::new(Task { work, answer })));
        reply
    }

    /// Never blocks: a worker that waited for the disk here would stop proxying.
    fn enqueue(&self, job: Job) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a queue, or a thread behind it, the job's end of the reply is dropped: "it has stopped".
        let Some(queue) = queue.as_ref() else { return };
        if let Err(TrySendError::Full(job)) = queue.try_send(job) {
            job.refuse(StoreError::Unavailable("busy".to_owned()));
        }
    }
}

impl<K> Drop for Engine<K> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<K: 'static> Store for Engine<K> {
    fn account(&self, key: AccountKey) -> Reply<Option<Account>> {
        self.read(move |rows| tables::accounts::find(rows, &key))
    }

    fn accounts(&self, after: Option<UserId>, limit: usize) -> Reply<Vec<Account>> {
        self.read(move |rows| tables::accounts::list(rows, after.as_ref(), limit))
    }

    fn session(&self, id: SessionId) -> Reply<Option<Session>> {
        self.read(move |rows| tables::sessions::find(rows, id))
    }

    fn sessions(&self, user: UserId) -> Reply<Vec<Session>> {
        self.read(move |rows| tables::sessions::of_user(rows, &user))
    }

    fn revocations(&self) -> Reply<Vec<Revocation>> {
        self.read(|rows| tables::revocations::all(rows))
    }

    fn keys(&self) -> Reply<Vec<StoredKey>> {
        self.read(|rows| tables::keys::all(rows))
    }

    fn acme(&self) -> Reply<Option<AcmeState>> {
        self.read(|rows| tables::acme::find(rows))
    }

    fn outbox(&self, from: u64, limit: usize) -> Reply<Outbox> {
        self.read(move |rows| tables::outbox::read(rows, from, limit))
    }

    fn more_in_outbox(&self) -> Arc<Notify> {
        Arc::clone(&self.more_in_outbox)
    }

    fn commit(&self, changes: Vec<Change>) -> Reply<Committed> {
        self.write(move |rows| tables::commit(rows, changes))
    }

    fn rehearse(&self, changes: Vec<Change>) -> Reply<Committed> {
        self.read(move |rows| tables::commit(&mut rows.rehearsal(), changes))
    }

    fn probe(&self) -> Reply<()> {
        self.write(tables::probe)
    }

    fn purge(&self, now: Timestamp) -> Reply<Purged> {
        let (answer, reply) = Reply::channel();
        self.enqueue(Job::Purge(Purge { now, so_far: Purged::default(), answer }));
        reply
    }
}

/// Something to do and somebody to tell.
enum Job {
    /// Changes nothing, and is done even when the disk is full.
    Read(Box<dyn Work>),
    /// May change rows.
    Write(Box<dyn Work>),
    /// Changes rows, in as many groups as it needs.
    Purge(Purge),
}

struct Purge {
    now: Timestamp,
    so_far: Purged,
    answer: oneshot::Sender<Result<Purged, StoreError>>,
}

impl Job {
    fn refuse(self, error: StoreError) {
        match self {
            Self::Read(work) | Self::Write(work) => work.refuse(error),
            // Who asked may have gone away; that is no concern of the store.
            Self::Purge(purge) => drop(purge.answer.send(Err(error))),
        }
    }
}

/// An answer that waits for its group to be durable; or for the reason why it never will be.
type Pending = Box<dyn FnOnce(Result<(), StoreError>)>;

trait Work: Send {
    fn run(self: Box<Self>, rows: &mut Transaction<'_>) -> Outcome;
    fn refuse(self: Box<Self>, error: StoreError);
}

struct Outcome {
    succeeded: bool,
    pending: Pending,
}

struct Task<W, T> {
    work: W,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<W, T> Work for Task<W, T>
where
    W: FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send,
    T: Send + 'static,
{
    fn run(self: Box<Self>, rows: &mut Transaction<'_>) -> Outcome {
        let Self { work, answer } = *self;
        let result = work(rows);
        Outcome { succeeded: result.is_ok(), pending: pending(answer, result) }
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        // Who asked may have gone away; that is no concern of the store.
        drop(self.answer.send(Err(error)));
    }
}

fn pending<T: 'static>(
    answer: oneshot::Sender<Result<T, StoreError>>,
    result: Result<T, StoreError>,
) -> Pending {
    Box::new(move |durable| drop(answer.send(durable.and(result))))
}

struct Worker<K> {
    kv: K,
    min_free: u64,
    options: StoreOptions,
    more_in_outbox: Arc<Notify>,
    /// Why nothing is done any more.
    broken: Option<String>,
}

impl<K: Kv> Worker<K> {
    fn run(mut self, jobs: &Receiver<Job>) {
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(jobs)));
        if served.is_err() {
            // The panic's own message was printed by the hook. A dead store must not look healthy.
            (self.options.on_fatal)("the store's thread panicked");
        }
    }

    fn serve(&mut self, jobs: &Receiver<Job>) {
        let mut unfinished: Vec<Job> = Vec::new();
        loop {
            let mut group = VecDeque::from(std::mem::take(&mut unfinished));
            let mut open = true;
            if group.is_empty() {
                let Ok(first) = jobs.recv() else { return };
                group.push_back(first);
            }
            while group.len() < GROUP {
                match jobs.try_recv() {
                    Ok(job) => group.push_back(job),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => {
                        open = false;
                        break;
                    }
                }
            }
            unfinished = self.do_group(group);
            if !open {
                // Closing: a purge says how far it came, the next start goes on.
                for job in unfinished {
                    let Job::Purge(purge) = job else { continue };
                    drop(purge.answer.send(Ok(purge.so_far)));
                }
                return;
            }
        }
    }

    /// Does the jobs, makes them durable, answers. Returns what needs another group.
    fn do_group(&mut self, group: VecDeque<Job>) -> Vec<Job> {
        if let Some(reason) = &self.broken {
            for job in group {
                job.refuse(StoreError::Unavailable(reason.clone()));
            }
            return Vec::new();
        }
        let started = Instant::now();
        let refusal = self.refuse_writes(&group);
        let mut batch = Batch::new();
        let mut answers: Vec<Pending> = Vec::with_capacity(group.len());
        let mut unfinished = Vec::new();
        let mut purged = false;
        for job in group {
            match (job, &refusal) {
                (job @ (Job::Write(_) | Job::Purge(_)), Some(error)) => job.refuse(error.clone()),
                (Job::Read(work) | Job::Write(work), _) => {
                    let mut rows = Transaction::over(&self.kv, &batch);
                    let outcome = work.run(&mut rows);
                    let changes = rows.into_changes();
                    if outcome.succeeded {
                        batch.extend(changes);
                    }
                    answers.push(outcome.pending);
                }
                // One a group: what bounds a commit is the sum of them.
                (job @ Job::Purge(_), _) if purged => unfinished.push(job),
                (Job::Purge(purge), _) => {
                    purged = true;
                    self.purge(purge, &mut batch, &mut answers, &mut unfinished);
                }
            }
        }
        let durable = self.make_durable(&batch, started);
        if durable.is_ok() && tables::outbox::is_left_by(&batch) {
            self.more_in_outbox.notify_one();
        }
        for answer in answers {
            answer(durable.clone());
        }
        if let Err(error) = durable {
            for job in unfinished.drain(..) {
                job.refuse(error.clone());
            }
        }
        unfinished
    }

    fn purge(&self, purge: Purge, batch: &mut Batch, answers: &mut Vec<Pending>, unfinished: &mut Vec<Job>) {
        let Purge { now, mut so_far, answer } = purge;
        let mut rows = Transaction::over(&self.kv, batch);
        match tables::purge_step(&mut rows, now) {
            Ok(step) => {
                let changes = rows.into_changes();
                batch.extend(changes);
                so_far.sessions += step.purged.sessions;
                so_far.revocations += step.purged.revocations;
                if step.more {
                    unfinished.push(Job::Purge(Purge { now, so_far, answer }));
                } else {
                    answers.push(pending(answer, Ok(so_far)));
                }
            }
            Err(error) => answers.push(pending(answer, Err(error))),
        }
    }

    /// Why writes of this group are refused, if they are. Asked at most once a group.
    fn refuse_writes(&self, group: &VecDeque<Job>) -> Option<StoreError> {
        if self.min_free == 0 || !group.iter().any(|job| !matches!(job, Job::Read(_))) {
            return None;
        }
        match self.kv.free() {
            Ok(Some(free)) if free < self.min_free => {
                Some(StoreError::Full { free, min_free: self.min_free })
            }
            Ok(_) => None,
            Err(error) => Some(StoreError::Unavailable(format!("its free space is unknown: {error}"))),
        }
    }

    fn make_durable(&mut self, batch: &Batch, started: Instant) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let done = self.kv.apply(batch).and_then(|()| self.kv.sync());
        self.options.metrics.store_commit.observe(started.elapsed());
        done.map_err(|error| self.break_down(&error))
    }

    fn break_down(&mut self, error: &KvError) -> StoreError {
        let reason = format!("a commit failed: {error}");
        (self.options.on_fatal)(&reason);
        self.broken = Some(reason.clone());
        StoreError::Unavailable(reason)
    }
}

#[cfg(test)]
mod tests;
