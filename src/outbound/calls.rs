//! Calls for workers, on a thread of their own: a worker asks, and goes on with other requests.
//!
//! The thread is started by the first call. Who has gone away meanwhile is not called for any more. Each kind
//! of question has [`Calls`] of its own, so that one that hangs keeps nobody from another; and an address has
//! a few of its places only, so that nobody can hang them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::caller::{Answer, Call, CallError, Caller};
use crate::account::Source;

/// Calls under way; the next one is told to come back.
const AT_ONCE: usize = 64;
/// Those of them that are for clients of one address.
const PER_SOURCE: usize = 16;
/// Threads for looking up names, which blocks.
const LOOKUPS: usize = 4;

struct Job {
    call: Call,
    answer: oneshot::Sender<Result<Answer, CallError>>,
    place: Place,
}

/// The way to the thread. It ends when the last handle does.
pub struct Calls {
    jobs: OnceLock<Option<mpsc::UnboundedSender<Job>>>,
    free: Arc<Semaphore>,
    sources: Arc<Sources>,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").field("free", &self.free.available_permits()).finish_non_exhaustive()
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self { jobs: OnceLock::new(), free: Arc::new(Semaphore::new(AT_ONCE)), sources: Arc::default() }
    }
}

impl Calls {
    /// Calls the app on behalf of a client at this address.
    pub(super) async fn call(&self, call: Call, from: IpAddr) -> Result<Answer, CallError> {
        // Bounds the queue as well: who has a place is in it, or called for.
        let place = self.place(from.into())?;
        let jobs = self.jobs.get_or_init(start).as_ref().ok_or(CallError::Stopped)?;
        let (answer, answered) = oneshot::channel();
        jobs.send(Job { call, answer, place }).map_err(|_| CallError::Stopped)?;
        answered.await.unwrap_or(Err(CallError::Stopped))
    }

    fn place(&self, source: Source) -> Result<Place, CallError> {
        let all = Arc::clone(&self.free).try_acquire_owned().map_err(|_| CallError::Busy)?;
        if !self.sources.enter(source) {
            return Err(CallError::BusyFor);
        }
        Ok(Place { _all: all, sources: Arc::clone(&self.sources), source })
    }
}

/// How many calls are under way for whom; nobody has none.
#[derive(Default)]
struct Sources(Mutex<HashMap<Source, usize>>);

impl Sources {
    fn enter(&self, source: Source) -> bool {
        let mut under_way = self.under_way();
        let count = under_way.entry(source).or_default();
        let may = *count < PER_SOURCE;
        if may {
            *count += 1;
        }
        may
    }

    fn leave(&self, source: Source) {
        let mut under_way = self.under_way();
        if let Some(count) = under_way.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&source);
            }
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place among all, and among those of its address. Dropping it gives both back.
struct Place {
    _all: OwnedSemaphorePermit,
    sources: Arc<Sources>,
    source: Source,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sources.leave(self.source);
    }
}

fn start() -> Option<mpsc::UnboundedSender<Job>> {
    let (jobs, mut waiting) = mpsc::unbounded_channel::<Job>();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(LOOKUPS).build();
    let run = |runtime: tokio::runtime::Runtime| {
        thread::Builder::new().name("gatepost-calls".to_owned()).spawn(move || {
            runtime.block_on(async {
                let caller = Arc::new(Caller::new());
                while let Some(job) = waiting.recv().await {
                    drop(tokio::spawn(carry_out(Arc::clone(&caller), job)));
                }
            });
            // A lookup that hangs must not keep the process.
            runtime.shutdown_background();
        })
    };
    match runtime.and_then(run) {
        Ok(_) => Some(jobs),
        Err(error) => {
            tracing::error!(%error, "the thread for calls to the app cannot be started");
            None
        }
    }
}

async fn carry_out(caller: Arc<Caller>, job: Job) {
    let Job { call, mut answer, place } = job;
    let result = tokio::select! {
        result = caller.call(call) => result,
        () = answer.closed() => return,
    };
    drop(place);
    // Who asked may have gone away at this moment.
    drop(answer.send(result));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_address_has_a_few_of_the_places() {
        let calls = Calls::default();
        let take = |from: &str| calls.place(source(from));
        let mut held: Vec<_> = (0..PER_SOURCE).map(|_| take("2001:db8:0:1::1").unwrap()).collect();
        assert!(matches!(take("2001:db8:0:1:ffff::9"), Err(CallError::BusyFor)), "the same network");
        assert!(take("2001:db8:0:2::1").is_ok());
        assert_eq!(calls.free.available_permits(), AT_ONCE - PER_SOURCE, "who is refused holds nothing");
        held.pop();
        held.push(take("2001:db8:0:1::1").unwrap());
        held.extend((0..AT_ONCE - PER_SOURCE).map(|n| take(&format!("192.0.2.{n}")).unwrap()));
        assert!(matches!(take("198.51.100.1"), Err(CallError::Busy)));
        drop(held);
        assert_eq!(calls.free.available_permits(), AT_ONCE);
        assert!(calls.sources.under_way().is_empty(), "nobody is remembered");
    }
}
