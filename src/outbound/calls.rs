//! Calls for workers, on a thread of their own: a worker asks, and goes on with other requests.
//!
//! The thread is started by the first call. Who has gone away meanwhile is not called for any more.

use std::sync::Arc;
use std::sync::OnceLock;
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::caller::{Answer, Call, CallError, Caller};

/// Calls under way; the next one is told to come back.
const AT_ONCE: usize = 64;
/// Threads for looking up names, which blocks.
const LOOKUPS: usize = 4;

struct Job {
    call: Call,
    answer: oneshot::Sender<Result<Answer, CallError>>,
    permit: OwnedSemaphorePermit,
}

/// The way to the thread. It ends when the last handle does.
pub struct Calls {
    jobs: OnceLock<Option<mpsc::UnboundedSender<Job>>>,
    free: Arc<Semaphore>,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").field("free", &self.free.available_permits()).finish_non_exhaustive()
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self { jobs: OnceLock::new(), free: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Calls {
    pub(super) async fn call(&self, call: Call) -> Result<Answer, CallError> {
        // Bounds the queue as well: who has a permit is in it, or called for.
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| CallError::Busy)?;
        let jobs = self.jobs.get_or_init(start).as_ref().ok_or(CallError::Stopped)?;
        let (answer, answered) = oneshot::channel();
        jobs.send(Job { call, answer, permit }).map_err(|_| CallError::Stopped)?;
        answered.await.unwrap_or(Err(CallError::Stopped))
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
    let Job { call, mut answer, permit } = job;
    let result = tokio::select! {
        result = caller.call(call) => result,
        () = answer.closed() => return,
    };
    drop(permit);
    // Who asked may have gone away at this moment.
    drop(answer.send(result));
}
