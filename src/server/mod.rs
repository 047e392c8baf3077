//! Threads, sockets and connections: everything between the kernel and [`Gateway`](crate::gateway::Gateway).

mod accept;
mod addresses;
mod frames;
mod handshake;
mod http1;
mod http2;
mod inherited;
mod listener;
mod preface;
mod proxy_protocol;
mod redirect;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::accept::Service;
use self::addresses::Addresses;
use self::handshake::Handshakes;
use self::listener::Listening;
use self::worker::{Stage, Start};
use crate::gateway::Shared;
use crate::metrics::Metrics;
use crate::metrics::worker::WorkerMetrics;
use crate::settings::Settings;
use crate::tls::Tls;

pub use self::inherited::{Inherited, InheritedError};
pub use self::listener::ListenError;

/// How long workers may take to change over to another configuration.
const ADOPTION: Duration = Duration::from_secs(5);

/// A server whose sockets are bound and whose workers run.
#[derive(Debug)]
pub struct Server {
    names: Vec<String>,
    files: Vec<PathBuf>,
    /// The listening sockets once more, by place, for whoever follows this process.
    held: Vec<(String, Vec<OwnedFd>)>,
    stage: watch::Sender<Stage>,
    shared: watch::Sender<Arc<Shared>>,
    adopted: Mutex<mpsc::Receiver<()>>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    /// How often each of them has turned.
    turns: Vec<Arc<AtomicU64>>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A socket that was passed.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// A redirecting socket, and nowhere to redirect to.
    #[error("LISTEN_FDS: a socket is named redirect_http, which needs [server.tls]")]
    RedirectWithoutTls,
    /// A thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[source] io::Error),
}

/// Where sockets that were passed in place of `listen` are kept for a process that follows.
const PASSED: &str = "(passed)";
/// The same in place of `redirect_http`.
const PASSED_REDIRECT: &str = "(passed redirect_http)";

/// Everything that is listened on.
#[derive(Debug)]
pub struct Listeners {
    listen: Vec<Listening>,
    redirect: Vec<Listening>,
}

impl Listeners {
    /// Listens on every address that no inherited socket stands for, and on those.
    ///
    /// # Errors
    /// The first address that is not to be had.
    pub fn open(settings: &Settings, inherited: Inherited) -> Result<Self, ListenError> {
        let Inherited { listen, redirect, mut handed } = inherited;
        let settings = &settings.server;
        let workers = settings.workers;
        let listen = listener::listen_on(&settings.listen, listen, PASSED, &mut handed, workers)?;
        let to = &settings.redirect_http;
        let redirect = listener::listen_on(to, redirect, PASSED_REDIRECT, &mut handed, workers)?;
        Ok(Self { listen, redirect })
    }
}

impl Server {
    /// Starts one worker for each of `counts` on sockets that listen already. When this returns, each accepts.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub fn start(
        listeners: Listeners,
        shared: &Arc<Shared>,
        metrics: &Arc<Metrics>,
        counts: &[Arc<WorkerMetrics>],
        tls: Option<&Arc<Tls>>,
    ) -> Result<Self, StartError> {
        let mut portions: Vec<Vec<(Service, listener::Bound)>> = counts.iter().map(|_| Vec::new()).collect();
        let (mut names, mut files, mut held) = (Vec::new(), Vec::new(), Vec::new());
        let main = if tls.is_some() { Service::Tls } else { Service::Clear };
        let Listeners { listen, redirect } = listeners;
        if tls.is_none() && !redirect.is_empty() {
            return Err(StartError::RedirectWithoutTls);
        }
        let redirect = redirect.into_iter().map(|listening| (Service::Redirect, listening));
        let mut https_port = None;
        for (service, listening) in listen.into_iter().map(|listening| (main, listening)).chain(redirect) {
            if service == Service::Tls {
                https_port = https_port.or(listening.port);
            }
            let again = listening.again().map_err(StartError::Thread)?;
            held.push((listening.place, again));
            names.push(service.shown(&listening.name));
            files.extend(listening.file);
            // One each; who is first gets what is more.
            for (number, listener) in listening.listeners.into_iter().enumerate() {
                let worker = number % counts.len().max(1);
                portions[worker].push((service, listener));
            }
        }
        let handshakes = Handshakes::default();
        let (stage, stages) = watch::channel(Stage::Serving);
        let (connections, addresses) = (Arc::new(AtomicUsize::new(0)), Arc::new(Addresses::default()));
        let (current, replacements) = watch::channel(Arc::clone(shared));
        let (adopted, adoptions) = mpsc::channel();
        let adoptions = Mutex::new(adoptions);
        let mut server = Self {
            names,
            files,
            held,
            stage,
            shared: current,
            adopted: adoptions,
            workers: Vec::new(),
            turns: Vec::new(),
        };
        let (started, starts) = mpsc::channel();
        for (number, (listeners, counts)) in portions.into_iter().zip(counts).enumerate() {
            let turns = Arc::new(AtomicU64::new(0));
            server.turns.push(Arc::clone(&turns));
            let start = Start {
                started: started.clone(),
                turns,
                shared: replacements.clone(),
                adopted: adopted.clone(),
                counts: Arc::clone(counts),
                metrics: Arc::clone(metrics),
                connections: Arc::clone(&connections),
                addresses: Arc::clone(&addresses),
                listeners,
                stage: stages.clone(),
                tls: tls.cloned(),
                handshakes: handshakes.clone(),
                https_port,
            };
            let thread = thread::Builder::new().name(format!("gatepost-{number}"));
            server.workers.push(thread.spawn(move || worker::run(start)).map_err(StartError::Thread)?);
        }
        drop(started);
        if server.workers.iter().all(|_| starts.recv().is_ok()) { Ok(server) } else { Err(server.give_up()) }
    }

    /// Ends what has started, since a worker has not, and says why. The sockets' files stay: they may be of
    /// a process that still serves.
    fn give_up(self) -> StartError {
        self.stage.send_replace(Stage::Stopping);
        let outcomes: Vec<_> = self.workers.into_iter().map(JoinHandle::join).collect();
        let error = outcomes.into_iter().find_map(|outcome| outcome.ok()?.err());
        StartError::Thread(error.unwrap_or_else(|| io::Error::other("it panicked")))
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

    /// How often each worker has turned so far, which one that is not stuck does several times a second;
    /// `None` of one that has ended.
    pub fn turns(&self) -> impl Iterator<Item = Option<u64>> {
        let turns = |(worker, turns): (&JoinHandle<_>, &Arc<AtomicU64>)| {
            (!worker.is_finished()).then(|| turns.load(Ordering::Relaxed))
        };
        self.workers.iter().zip(&self.turns).map(turns)
    }

    /// Judges requests by `shared` from here on; those in flight keep what they began with. When this
    /// returns, every worker has changed over. False: one did not in time.
    pub fn replace(&self, shared: Arc<Shared>) -> bool {
        self.change_over(|| {
            self.shared.send_replace(shared);
        })
    }

    fn change_over(&self, change: impl FnOnce()) -> bool {
        let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        // What a slow worker owes from the last time.
        while adopted.try_recv().is_ok() {}
        change();
        let until = Instant::now() + ADOPTION;
        let waits = |_| adopted.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok();
        (0..self.workers.len()).all(waits)
    }

    /// The listening sockets, each with the place that it belongs to.
    pub fn sockets(&self) -> impl Iterator<Item = (&str, &[OwnedFd])> {
        self.held.iter().map(|(place, sockets)| (place.as_str(), sockets.as_slice()))
    }

    /// Leaves the listeners to another process; each connection ends with its next answer. An idle one
    /// stays, since its next request may be on the way. When this returns, every worker does so. False: one
    /// did not in time.
    pub fn leave(&mut self) -> bool {
        self.held.clear();
        self.files.clear();
        self.change_over(|| {
            self.stage.send_replace(Stage::Leaving);
        })
    }

    /// Closes the listeners; each connection ends when its request is answered, an idle one at once.
    pub fn drain(&mut self) {
        self.held.clear();
        self.stage.send_replace(Stage::Draining);
    }

    /// Whether every connection has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Closes every connection that is left, and stops.
    pub fn finish(self) {
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
