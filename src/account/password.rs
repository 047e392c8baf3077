//! Password hashing on threads of its own: argon2id takes tens of milliseconds and tens of
//! megabytes, which no worker has to spare.
//!
//! A fixed number of threads, each with one block of memory that it reuses, and a bounded queue in
//! front: the memory is `concurrent × memory` whatever clients do, and who does not fit is told to
//! come back. While there are hashes of other software, each thread may take what the dearest of them
//! needs as well (`foreign` says up to what). What a thread does, and that every check that fails costs the same, is in `engine`.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use argon2::Params;
use tokio::sync::oneshot;

use super::engine::{Engine, Verdict};
use super::error::AccountError;
use super::foreign::Foreign;
use super::passphrase::Passphrase;
use super::phc;
#[cfg(test)]
use super::price::Work;
use super::price::{Price, Tally};
use crate::metrics::Metrics;
use crate::settings::PasswordSettings;
use crate::store::PasswordHash;

enum Job {
    Hash(Passphrase, oneshot::Sender<Result<PasswordHash, AccountError>>),
    Verify(Option<PasswordHash>, Passphrase, oneshot::Sender<Result<Verdict, AccountError>>),
}

impl Job {
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Hash(_, answer) => answer.is_closed(),
            Self::Verify(_, _, answer) => answer.is_closed(),
        }
    }
}

/// The hashing threads and the queue before them. Dropping it lets the threads end, and does not wait: a
/// worker may be the last to hold what a reload has replaced.
pub(super) struct Hasher {
    queue: SyncSender<(Job, Instant)>,
    threads: Vec<JoinHandle<()>>,
    params: Params,
    price: Arc<Price>,
    done: Arc<Tally>,
}

impl Hasher {
    /// Starts `concurrent` threads.
    pub(super) fn start(settings: &PasswordSettings, metrics: &Arc<Metrics>) -> io::Result<Self> {
        Self::start_at(Arc::default(), settings, metrics)
    }

    /// The same by other settings. What the dearest check costs is not forgotten: its hash is still there.
    pub(super) fn restarted(&self, settings: &PasswordSettings, metrics: &Arc<Metrics>) -> io::Result<Self> {
        Self::start_at(Arc::clone(&self.price), settings, metrics)
    }

    fn start_at(price: Arc<Price>, settings: &PasswordSettings, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let params = phc::configured(settings).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let (queue, jobs) = sync_channel(settings.queue);
        let jobs = Arc::new(Mutex::new(jobs));
        price.raise(&phc::work(&params), 0);
        let done = Arc::new(Tally::default());
        let threads = (0..settings.concurrent.max(1))
            .map(|number| {
                let (jobs, metrics) = (Arc::clone(&jobs), Arc::clone(metrics));
                let engine = Engine::new(params.clone(), Arc::clone(&price), Arc::clone(&done));
                thread::Builder::new()
                    .name(format!("hash-{number}"))
                    .spawn(move || work(&jobs, engine, &metrics))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { queue, threads, params, price, done })
    }

    /// Hashes a new password.
    pub(super) async fn hash(&self, password: Passphrase) -> Result<PasswordHash, AccountError> {
        let (answer, waiting) = oneshot::channel();
        self.submit(Job::Hash(password, answer))?;
        waiting.await.unwrap_or(Err(AccountError::Busy))
    }

    /// Checks a password; without a stored hash it is wrong, at the usual price.
    pub(super) async fn verify(
        &self,
        stored: Option<PasswordHash>,
        password: Passphrase,
    ) -> Result<Verdict, AccountError> {
        let (answer, waiting) = oneshot::channel();
        self.submit(Job::Verify(stored, password, answer))?;
        waiting.await.unwrap_or(Err(AccountError::Busy))
    }

    /// Lets every check that fails cost as much as one of `stored` would, before the first of them.
    pub(super) fn learn(&self, stored: &PasswordHash) {
        if let Ok(hash) = Foreign::read(stored.phc(), &self.params) {
            self.price.raise(&hash.work(), hash.scrypt_block());
        }
    }

    /// The work so far, for those who must show that it is equal.
    #[cfg(test)]
    pub(super) fn done(&self) -> Work {
        self.done.sum()
    }

    fn submit(&self, job: Job) -> Result<(), AccountError> {
        self.queue.try_send((job, Instant::now())).map_err(|_| AccountError::Busy)
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher")
            .field("threads", &self.threads.len())
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// Hashes one password here and now, for the command line.
///
/// # Errors
/// [`AccountError::Randomness`] without randomness for the salt; [`AccountError::Invalid`] for
/// parameters that argon2 refuses.
pub fn hash_once(password: &Passphrase, settings: &PasswordSettings) -> Result<PasswordHash, AccountError> {
    Engine::once(settings)?.hash(password.bytes())
}

fn work(jobs: &Mutex<Receiver<(Job, Instant)>>, mut engine: Engine, metrics: &Metrics) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, queued)) = next else { return };
        if job.is_abandoned() {
            continue;
        }
        metrics.hash_wait.observe(queued.elapsed());
        metrics.hashes_in_flight.add(1);
        // An answer that nobody takes any more is no fault.
        match job {
            Job::Hash(password, answer) => drop(answer.send(engine.hash(password.bytes()))),
            Job::Verify(stored, password, answer) => {
                drop(answer.send(engine.verify(stored.as_ref(), &password)));
            }
        }
        metrics.hashes_in_flight.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::testing::{HASHING, phrase};

    #[test]
    fn a_full_queue_is_busy_and_an_abandoned_job_is_skipped() {
        let (queue, jobs) = sync_channel(1);
        let params = phc::configured(&HASHING).expect("parameters");
        let (price, done) = (Arc::default(), Arc::default());
        let hasher = Hasher { queue, threads: Vec::new(), params: params.clone(), price, done };
        let (answer, waiting) = oneshot::channel();
        hasher.submit(Job::Verify(None, phrase("x"), answer)).expect("the first fits");
        let (second, _waiting) = oneshot::channel();
        assert_eq!(hasher.submit(Job::Verify(None, phrase("x"), second)), Err(AccountError::Busy));

        drop(waiting);
        drop(hasher);
        let done = Arc::<Tally>::default();
        let engine = Engine::new(params, Arc::default(), Arc::clone(&done));
        work(&Mutex::new(jobs), engine, &Metrics::default());
        assert_eq!(done.sum(), Work::default());
    }
}
