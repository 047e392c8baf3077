//! Threads, sockets and connections: everything between the kernel and [`Gateway`](crate::gateway::Gateway).

mod connection;
mod framing;
mod listener;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::worker::{Stage, Start};
use crate::gateway::Shared;
use crate::metrics::Metrics;
use crate::metrics::worker::WorkerMetrics;

pub use self::listener::ListenError;

/// A server whose sockets are bound and whose workers run.
#[derive(Debug)]
pub struct Server {
    names: Vec<String>,
    files: Vec<PathBuf>,
    stage: watch::Sender<Stage>,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[source] io::Error),
}

impl Server {
    /// Binds every address, then starts one worker for each of `counts`.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub fn start(
        shared: &Arc<Shared>,
        metrics: &Arc<Metrics>,
        counts: &[Arc<WorkerMetrics>],
    ) -> Result<Self, StartError> {
        let mut portions: Vec<Vec<listener::Bound>> = counts.iter().map(|_| Vec::new()).collect();
        let (mut names, mut files) = (Vec::new(), Vec::new());
        for endpoint in &shared.settings.server.listen {
            for listening in listener::bind(endpoint, counts.len())? {
                names.push(listening.name);
                files.extend(listening.file);
                for (portion, listener) in portions.iter_mut().zip(listening.listeners) {
                    portion.push(listener);
                }
            }
        }
        let (stage, stages) = watch::channel(Stage::Serving);
        let connections = Arc::new(AtomicUsize::new(0));
        let mut server = Self { names, files, stage, workers: Vec::new() };
        for (number, (listeners, counts)) in portions.into_iter().zip(counts).enumerate() {
            let start = Start {
                shared: Arc::clone(shared),
                counts: Arc::clone(counts),
                metrics: Arc::clone(metrics),
                connections: Arc::clone(&connections),
                listeners,
                stage: stages.clone(),
            };
            let thread = thread::Builder::new().name(format!("gatepost-{number}"));
            server.workers.push(thread.spawn(move || worker::run(start)).map_err(StartError::Thread)?);
        }
        Ok(server)
    }

    /// Where it listens, as URLs; the actual ports when 0 was asked for.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether a worker has ended although nobody asked it to: the process must not go on with less.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
    }

    /// Closes the listeners, lets requests finish for up to `timeout`, and stops.
    pub fn drain(self, timeout: Duration) {
        let until = Instant::now() + timeout;
        self.stage.send_replace(Stage::Draining);
        while Instant::now() < until && !self.workers.iter().all(JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(10));
        }
        self.stage.send_replace(Stage::Stopping);
        for worker in self.workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a worker failed"),
                Err(_) => tracing::error!("a worker panicked"),
            }
        }
        for file in self.files {
            // Somebody may have put another one in its place; that is theirs to remove.
            let _ = std::fs::remove_file(file);
        }
    }
}
