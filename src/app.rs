//! The composition root: makes every part once and hands it to those who use it.
//!
//! The accounts, keys and revocations of a store come from one [`Desk`], which is also what the admin
//! socket answers from; this file adds the rules, the listeners and the threads around it.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::account::Accounts;
use crate::api::{Api, ApiParts};
use crate::clock::{Clock, SystemClock};
use crate::config::Loaded;
use crate::control::{Control, ControlError, Desk, DeskError, DeskParts};
use crate::gateway::{Rules, Shared};
use crate::metrics::Metrics;
use crate::metrics::worker::WorkerMetrics;
use crate::ops::admin::{Admin, AdminParts};
use crate::ops::log::{self, LogError, LogHandle};
use crate::ops::prometheus::Sources;
use crate::ops::readiness::Readiness;
use crate::server::{self, Server};
use crate::settings::Settings;
use crate::store::{OpenError, SledStore, Store, StoreOptions};

/// How often what has run out is removed.
const PURGE_EVERY: Duration = Duration::from_mins(1);
/// How often a serving process looks whether its workers are alive.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Why the process does not start. Each message names the thing.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store opens, and then its keys, revocations or accounts cannot be used.
    #[error(transparent)]
    Desk(#[from] DeskError),
    /// The rules contradict each other; `check` says where.
    #[error("the routes contradict each other: {0}")]
    Rules(String),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The admin socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The admin listener.
    #[error("cannot listen on {address} for [admin]: {source}")]
    Admin {
        /// Where it should have listened.
        address: std::net::SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The listeners and workers.
    #[error(transparent)]
    Server(#[from] server::StartError),
    /// Signals or threads.
    #[error("the system refuses: {0}")]
    System(#[source] io::Error),
}

/// What was applied could not be made durable: nothing that is said from here on could be trusted, and
/// a retried fsync lies. The next start recovers what is on the disk.
#[expect(clippy::disallowed_methods, reason = "the one fault that ends the process on the spot")]
fn end_process(reason: &str) {
    let _ = writeln!(io::stderr(), "gatepost: the store cannot write: {reason}; stopping");
    std::process::exit(1);
}

/// A gateway that is being served.
pub struct App {
    settings: Arc<Settings>,
    store: Arc<SledStore>,
    desk: Arc<Desk>,
    server: Server,
    admin: Admin,
    control: Control,
    readiness: Arc<Readiness>,
    purge: Purge,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("server", &self.server).finish_non_exhaustive()
    }
}

impl App {
    /// Starts everything: the store, the admin socket and listener, then the workers.
    ///
    /// # Errors
    /// [`StartError`]; whatever had started is stopped again.
    pub fn start(settings: Settings, metrics: &Arc<Metrics>, log: LogHandle) -> Result<Self, StartError> {
        let settings = Arc::new(settings);
        raise_file_limit();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let options = StoreOptions { metrics: Arc::clone(metrics), on_fatal: Box::new(end_process) };
        let store = Arc::new(SledStore::open(&settings.store, options)?);
        let desk = Arc::new(Desk::open(DeskParts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            settings: Arc::clone(&settings),
            metrics: Arc::clone(metrics),
            clock: Arc::clone(&clock),
        })?);
        let control = Control::start(&settings.admin.socket, Arc::clone(&desk))?;

        let readiness = Arc::new(Readiness::new(Arc::clone(&clock)));
        readiness.keys_loaded();
        let rules = Rules::new(&settings).map_err(|errors| {
            StartError::Rules(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        let shared = Arc::new(Shared {
            labels: rules.labels(),
            rules,
            api: Api::new(ApiParts {
                accounts: Arc::clone(desk.accounts()),
                verifier: Arc::clone(desk.verifier()),
                revocations: Arc::clone(desk.revocations()),
                jwks: desk.keys().jwks().to_owned(),
                body_bytes: settings.server.limits.auth_body_bytes,
                accept: settings.tokens.accept.clone(),
                clock: Arc::clone(&clock),
            }),
            verifier: Arc::clone(desk.verifier()),
            revocations: Arc::clone(desk.revocations()),
            clock: Arc::clone(&clock),
            log,
            settings: Arc::clone(&settings),
        });
        let counts: Vec<_> =
            (0..settings.server.workers).map(|_| Arc::new(WorkerMetrics::default())).collect();
        let sources = Sources {
            metrics: Arc::clone(metrics),
            workers: counts.clone(),
            routes: shared.labels.clone(),
            upstreams: settings.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
            revocations: {
                let revocations = Arc::clone(desk.revocations());
                Box::new(move || revocations.counts())
            },
        };
        let admin = start_admin(settings.admin.listen, &store, &readiness, sources)?;
        let server = Server::start(&shared, metrics, &counts)?;
        let purge = Purge::start(Arc::clone(&store), Arc::clone(&desk), clock).map_err(StartError::System)?;
        Ok(Self { settings, store, desk, server, admin, control, readiness, purge })
    }

    /// Where clients connect, as URLs.
    #[must_use]
    pub fn listening(&self) -> &[String] {
        self.server.names()
    }

    /// Where `/readyz` and `/metrics` are.
    #[must_use]
    pub fn admin_address(&self) -> std::net::SocketAddr {
        self.admin.address()
    }

    /// The verbs, for a program that embeds the gateway.
    #[must_use]
    pub fn accounts(&self) -> &Arc<Accounts> {
        self.desk.accounts()
    }

    /// Waits for a signal or the death of a worker. True when it was a signal.
    pub fn wait(&self, signals: Signals) -> bool {
        let Signals { runtime, mut terminate, mut interrupt } = signals;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return true,
                    _ = interrupt.recv() => return true,
                    () = tokio::time::sleep(WATCH_EVERY) => if self.server.has_failed() {
                        return false;
                    },
                }
            }
        })
    }

    /// Says "not ready", waits `drain_delay`, lets requests finish, then closes the store.
    pub fn stop(self) {
        self.readiness.drain();
        thread::sleep(self.settings.server.drain_delay);
        self.server.drain(self.settings.server.drain_timeout);
        self.purge.stop();
        self.control.stop();
        self.admin.stop();
        self.store.close();
    }
}

/// SIGTERM and SIGINT, caught from here on.
#[derive(Debug)]
pub struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them. To be done before anybody is told that the gateway runs.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(entered);
        Ok(Self { runtime, terminate, interrupt })
    }
}

fn start_admin(
    address: std::net::SocketAddr,
    store: &Arc<SledStore>,
    readiness: &Arc<Readiness>,
    sources: Sources,
) -> Result<Admin, StartError> {
    // Ready as soon as it listens, not at the first turn of the probe.
    if store.probe().wait().is_ok() {
        readiness.store_wrote();
    }
    let (store, ready) = (Arc::clone(store), Arc::clone(readiness));
    let probe = move || -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> {
        let (probe, ready) = (store.probe(), Arc::clone(&ready));
        Box::pin(async move {
            let wrote = probe.await.is_ok();
            if wrote {
                ready.store_wrote();
            }
            wrote
        })
    };
    let parts = AdminParts { readiness: Arc::clone(readiness), sources, probe: Box::new(probe) };
    Admin::start(address, parts).map_err(|source| StartError::Admin { address, source })
}

/// Removes what has run out, now and then.
struct Purge {
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
}

impl Purge {
    fn start(store: Arc<SledStore>, desk: Arc<Desk>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let (stop, mut stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let run = move || {
            runtime.block_on(async {
                while tokio::time::timeout(PURGE_EVERY, stopped.wait_for(|stop| *stop)).await.is_err() {
                    let now = clock.now();
                    desk.revocations().purge(now);
                    match store.purge(now).await {
                        Ok(purged) => tracing::debug!(?purged, "purged what has run out"),
                        Err(error) => tracing::warn!(%error, "what has run out could not be purged"),
                    }
                }
            });
        };
        let thread = thread::Builder::new().name("gatepost-purge".to_owned()).spawn(run)?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        self.stop.send_replace(true);
        // A panic in it has been printed already.
        drop(self.thread.join());
    }
}

/// As many file descriptors as the system allows: each request in flight needs two.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
}

/// Serves until told to stop: the `serve` command.
#[must_use]
pub fn serve(loaded: Loaded) -> ExitCode {
    match run(loaded) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            let _ = writeln!(io::stderr(), "gatepost: a worker ended; stopping");
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "gatepost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(loaded: Loaded) -> Result<bool, StartError> {
    let signals = Signals::catch().map_err(StartError::System)?;
    let metrics = Arc::new(Metrics::default());
    let log = log::init(&loaded.settings.log, Arc::clone(&metrics))?;
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.message);
    }
    let app = App::start(loaded.settings, &metrics, log.clone())?;
    let mut stderr = io::stderr().lock();
    for place in app.listening() {
        let _ = writeln!(stderr, "gatepost: listening on {place}");
    }
    let _ = writeln!(stderr, "gatepost: admin on http://{}", app.admin_address());
    let _ = writeln!(stderr, "gatepost: ready");
    drop(stderr);
    let asked = app.wait(signals);
    tracing::info!("stopping");
    app.stop();
    log.close();
    Ok(asked)
}
