//! Password hashing on threads of its own: argon2id takes tens of milliseconds and tens of
//! megabytes, which no worker has to spare.
//!
//! A fixed number of threads, each with one block of memory that it reuses, and a bounded queue in
//! front: the memory is `concurrent × memory` whatever clients do, and who does not fit is told to
//! come back. A check that fails costs the same whoever it was for: unknown names are checked
//! against nothing, at full price, and a stored hash with cheaper parameters is topped up.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

use super::error::AccountError;
use super::passphrase::Passphrase;
use super::phc::{self, OUTPUT_BYTES, PhcError, SALT_BYTES, StoredHash};
use crate::metrics::Metrics;
use crate::settings::PasswordSettings;
use crate::store::PasswordHash;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the password. `stale`: today's configuration would hash it otherwise.
    Right { stale: bool },
    /// It is not.
    Wrong,
    /// The stored hash cannot be used; nobody can log in with it.
    Unusable(PhcError),
}

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
    filled: Arc<AtomicU64>,
}

impl Hasher {
    /// Starts `concurrent` threads.
    pub(super) fn start(settings: &PasswordSettings, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let params = phc::configured(settings).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let (queue, jobs) = sync_channel(settings.queue);
        let jobs = Arc::new(Mutex::new(jobs));
        let peak = Arc::new(AtomicU64::new(phc::cost(&params)));
        let filled = Arc::new(AtomicU64::new(0));
        let threads = (0..settings.concurrent.max(1))
            .map(|number| {
                let (jobs, metrics) = (Arc::clone(&jobs), Arc::clone(metrics));
                let engine = Engine::new(params.clone(), Arc::clone(&peak), Arc::clone(&filled));
                thread::Builder::new()
                    .name(format!("hash-{number}"))
                    .spawn(move || work(&jobs, engine, &metrics))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { queue, threads, filled })
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

    /// Blocks of memory filled so far: the work, for those who must show that it is equal.
    #[cfg(test)]
    pub(super) fn filled(&self) -> u64 {
        self.filled.load(Ordering::SeqCst)
    }

    fn submit(&self, job: Job) -> Result<(), AccountError> {
        self.queue.try_send((job, Instant::now())).map_err(|_| AccountError::Busy)
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher")
            .field("threads", &self.threads.len())
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

/// Hashes one password here and now, for the command line.
///
/// # Errors
/// [`AccountError::Randomness`] without randomness for the salt; [`AccountError::Invalid`] for
/// parameters that argon2 refuses.
pub fn hash_once(password: &Passphrase, settings: &PasswordSettings) -> Result<PasswordHash, AccountError> {
    let params = phc::configured(settings).map_err(|_| AccountError::Invalid(Vec::new()))?;
    let (peak, filled) = (Arc::default(), Arc::default());
    Engine::new(params, peak, filled).hash(password)
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
            Job::Hash(password, answer) => drop(answer.send(engine.hash(&password))),
            Job::Verify(stored, password, answer) => {
                drop(answer.send(engine.verify(stored.as_ref(), &password)));
            }
        }
        metrics.hashes_in_flight.add(-1);
    }
}

/// One thread's argon2: parameters, and memory that it keeps.
struct Engine {
    params: Params,
    memory: Vec<Block>,
    /// The cost of the dearest check that failed: what each one that fails is topped up to.
    peak: Arc<AtomicU64>,
    filled: Arc<AtomicU64>,
}

impl Engine {
    fn new(params: Params, peak: Arc<AtomicU64>, filled: Arc<AtomicU64>) -> Self {
        Self { params, memory: Vec::new(), peak, filled }
    }

    fn hash(&mut self, password: &Passphrase) -> Result<PasswordHash, AccountError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone());
        let mut hash = [0; OUTPUT_BYTES];
        if !self.run(&argon2, password.bytes(), &salt, &mut hash) {
            return Err(AccountError::Busy);
        }
        let text = phc::write(&self.params, &salt, &hash).map_err(|_| AccountError::Busy)?;
        Ok(PasswordHash::from(text))
    }

    fn verify(
        &mut self,
        stored: Option<&PasswordHash>,
        password: &Passphrase,
    ) -> Result<Verdict, AccountError> {
        let Some(stored) = stored else {
            self.top_up(0, password);
            return Ok(Verdict::Wrong);
        };
        let hash = match StoredHash::parse(stored.phc(), &self.params) {
            Ok(hash) => hash,
            Err(error) => {
                self.top_up(0, password);
                return Ok(Verdict::Unusable(error));
            }
        };
        let mut buffer = [0; 64];
        let Some(out) = buffer.get_mut(..hash.expected.len()) else {
            return Ok(Verdict::Unusable(PhcError::Unreadable));
        };
        if !self.run(&hash.argon2(), password.bytes(), hash.salt.as_ref(), out) {
            return Err(AccountError::Busy);
        }
        if bool::from(out.ct_eq(hash.expected.as_bytes())) {
            return Ok(Verdict::Right { stale: hash.is_stale(&self.params) });
        }
        self.top_up(phc::cost(&hash.params), password);
        Ok(Verdict::Wrong)
    }

    /// Makes a check that failed, and has cost `spent`, as dear as every other one.
    fn top_up(&mut self, spent: u64, password: &Passphrase) {
        let peak = self.peak.fetch_max(spent, Ordering::Relaxed).max(spent);
        let passes = u64::from(self.params.t_cost());
        let memory = u32::try_from((peak - spent) / passes).unwrap_or(u32::MAX);
        let Ok(params) = Params::new(memory, self.params.t_cost(), 1, Some(OUTPUT_BYTES)) else {
            // Less than the smallest hash is missing: nothing that could be measured.
            return;
        };
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        self.run(&argon2, password.bytes(), &[0; SALT_BYTES], &mut [0; OUTPUT_BYTES]);
    }

    /// Fills the memory and writes the hash to `out`. False for lengths that argon2 refuses.
    fn run(&mut self, argon2: &Argon2<'_>, password: &[u8], salt: &[u8], out: &mut [u8]) -> bool {
        let blocks = argon2.params().block_count();
        self.memory.resize(blocks, Block::default());
        self.filled.fetch_add(phc::cost(argon2.params()), Ordering::SeqCst);
        let done =
            argon2.hash_password_into_with_memory(password, salt, out, self.memory.as_mut_slice()).is_ok();
        if blocks > self.params.block_count() {
            // One old, dear hash must not keep its memory for good.
            self.memory = Vec::new();
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(memory_kib: u32, iterations: u32) -> PasswordSettings {
        PasswordSettings {
            min_length: 1,
            max_bytes: 256,
            memory_kib,
            iterations,
            parallelism: 1,
            concurrent: 1,
            queue: 4,
        }
    }

    fn phrase(text: &str) -> Passphrase {
        Passphrase::typed(&text.to_owned().into(), &settings(8, 1)).expect("short enough")
    }

    fn engine(memory_kib: u32, iterations: u32) -> Engine {
        let params = phc::configured(&settings(memory_kib, iterations)).expect("parameters");
        let peak = Arc::new(AtomicU64::new(phc::cost(&params)));
        Engine::new(params, peak, Arc::default())
    }

    fn spent(engine: &mut Engine, stored: Option<&PasswordHash>) -> u64 {
        let before = engine.filled.load(Ordering::SeqCst);
        let verdict = engine.verify(stored, &phrase("wrong")).expect("checked");
        assert!(!matches!(verdict, Verdict::Right { .. }));
        engine.filled.load(Ordering::SeqCst) - before
    }

    #[test]
    fn a_password_is_recognised_and_no_other() {
        let mut engine = engine(8, 1);
        let stored = engine.hash(&phrase("correct horse")).expect("hashed");
        assert!(stored.phc().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        for (typed, verdict) in [
            ("correct horse", Verdict::Right { stale: false }),
            ("correct horse\0", Verdict::Wrong),
            ("correct hors", Verdict::Wrong),
            ("", Verdict::Wrong),
        ] {
            assert_eq!(engine.verify(Some(&stored), &phrase(typed)), Ok(verdict), "{typed:?}");
        }
    }

    #[test]
    fn passwords_that_agree_in_72_bytes_are_two() {
        let mut engine = engine(8, 1);
        let common = "x".repeat(72);
        let stored = engine.hash(&phrase(&format!("{common}a"))).expect("hashed");
        assert_eq!(engine.verify(Some(&stored), &phrase(&format!("{common}b"))), Ok(Verdict::Wrong));
    }

    #[test]
    fn every_check_that_fails_costs_the_same() {
        let mut now = engine(64, 2);
        let current = now.hash(&phrase("right")).expect("hashed");
        let cheap = engine(16, 1).hash(&phrase("right")).expect("hashed");
        let broken = PasswordHash::from(
            "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
        );
        let full = spent(&mut now, None);
        assert_eq!(full, 128);
        assert_eq!(spent(&mut now, Some(&current)), full);
        assert_eq!(spent(&mut now, Some(&cheap)), full);
        assert_eq!(spent(&mut now, Some(&broken)), full);
    }

    #[test]
    fn dearer_old_hashes_raise_the_price_for_all() {
        let mut now = engine(16, 2);
        let dear = engine(64, 2).hash(&phrase("right")).expect("hashed");
        assert_eq!(spent(&mut now, None), 32);
        assert_eq!(spent(&mut now, Some(&dear)), 128);
        assert_eq!(spent(&mut now, None), 128);
        assert!(now.memory.len() <= 64, "the memory of one dear hash is not kept");
    }

    #[test]
    fn a_hash_with_other_parameters_is_right_and_stale() {
        let old = engine(16, 1).hash(&phrase("right")).expect("hashed");
        let verdict = engine(8, 1).verify(Some(&old), &phrase("right"));
        assert_eq!(verdict, Ok(Verdict::Right { stale: true }));
    }

    #[test]
    fn a_full_queue_is_busy_and_an_abandoned_job_is_skipped() {
        let (queue, jobs) = sync_channel(1);
        let hasher = Hasher { queue, threads: Vec::new(), filled: Arc::default() };
        let (answer, waiting) = oneshot::channel();
        hasher.submit(Job::Verify(None, phrase("x"), answer)).expect("the first fits");
        let (second, _waiting) = oneshot::channel();
        assert_eq!(hasher.submit(Job::Verify(None, phrase("x"), second)), Err(AccountError::Busy));

        drop(waiting);
        drop(hasher);
        let engine = engine(8, 1);
        let filled = Arc::clone(&engine.filled);
        work(&Mutex::new(jobs), engine, &Metrics::default());
        assert_eq!(filled.load(Ordering::SeqCst), 0);
    }
}
