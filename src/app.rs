//! The composition root: makes every part once and hands it to those who use it.
//!
//! The accounts, keys and revocations of a store come from one [`Desk`], which is also what the admin
//! socket answers from; this file adds the rules, the listeners and the threads around it.

mod hand_over;
mod hosted;
pub(crate) mod outside;
mod reload;
mod systemd;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::Signal as ProcessSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use self::hand_over::{Predecessor, Successor};
use self::hosted::{Hosted, Started};
use self::outside::Outgoing;
use self::reload::FileWatch;
use self::systemd::Watchdog;
use crate::account::Accounts;
use crate::acme::{self, Acme, AcmeParts};
use crate::api::{Api, ApiParts};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Loaded};
use crate::control::handover::HandOverError;
use crate::control::{Control, ControlError, Desk, DeskError, DeskParts, Successors};
use crate::gateway::{Rules, Shared};
use crate::metrics::Metrics;
use crate::metrics::worker::{RouteLabels, WorkerMetrics};
use crate::ops::admin::{Admin, AdminParts};
use crate::ops::log::{self, LogError, LogHandle};
use crate::ops::prometheus::Sources;
use crate::ops::readiness::Readiness;
use crate::outbound::Events;
use crate::proxy::tls::{ClientTls, TlsFileError};
use crate::proxy::{Fleet, Watch};
use crate::server::{self, Inherited, Listeners, Server};
use crate::settings::{Settings, UpstreamSettings};
use crate::store::{OpenError, SledStore, Store, StoreOptions};
use crate::tls::{self, Tls, TlsError};

pub use self::hosted::{HostedCommand, HostedError, become_app, upstream_of};

/// How often what has run out is removed.
const PURGE_EVERY: Duration = Duration::from_mins(1);
/// How often a process that stops looks whether its workers are done.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Long enough to see a signal that has come.
const GLANCE: Duration = Duration::from_millis(1);
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
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What TLS towards an upstream is made of.
    #[error("[[upstream]] {upstream}: {source}")]
    UpstreamTls {
        /// The upstream.
        upstream: String,
        /// Which file, and why.
        #[source]
        source: TlsFileError,
    },
    /// Certificates and what belongs to them.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Certificates from an authority.
    #[error(transparent)]
    Acme(#[from] acme::StartError),
    /// The listeners and workers.
    #[error(transparent)]
    Server(#[from] server::StartError),
    /// The app that is to be run.
    #[error(transparent)]
    Hosted(#[from] HostedError),
    /// The configuration has lost the app that runs.
    #[error("{0}")]
    NoUpstream(String),
    /// The gateway to take over from.
    #[error("cannot take over: {0}")]
    HandOver(#[from] HandOverError),
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
    /// What requests are judged by now.
    current: Arc<ArcSwap<Shared>>,
    metrics: Arc<Metrics>,
    store: Arc<SledStore>,
    /// Whether the store is open: not while another process may have it.
    has_store: bool,
    desk: Arc<Desk>,
    server: Server,
    admin: Admin,
    control: Control,
    successors: Successors,
    /// A process that wants to follow this one.
    waiting: mpsc::Receiver<UnixStream>,
    readiness: Arc<Readiness>,
    purge: Purge,
    tls: Option<Arc<Tls>>,
    /// Ends with the last certificate that could be served.
    certificates: Option<tls::Watch>,
    acme: Option<Acme>,
    watch: Watch,
    watchdog: Watchdog,
    outgoing: Outgoing,
    /// Tells the app of accounts.
    events: Option<Events>,
    /// The app, where this process runs it.
    hosted: Option<Hosted>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why a gateway does not run any more.
#[derive(Debug)]
pub enum Ended {
    /// A signal asked for it.
    Asked,
    /// A worker has ended by itself.
    Failed,
    /// The app that runs behind it has ended.
    AppEnded,
    /// Another process serves in its place.
    Followed(Box<Successor>),
}

/// Where a gateway's sockets come from.
enum Origin {
    /// It opens them, or somebody has opened them for it.
    Fresh(Inherited),
    /// From the gateway that it takes over from.
    Predecessor(Predecessor),
}

/// Open sockets, and who else has them.
struct Opened {
    listeners: Listeners,
    admin: Option<std::net::TcpListener>,
    predecessor: Option<Predecessor>,
}

impl Origin {
    fn open(self, settings: &Settings) -> Result<Opened, StartError> {
        let (inherited, admin, predecessor) = match self {
            Self::Fresh(inherited) => (inherited, None, None),
            Self::Predecessor(mut predecessor) => {
                let admin = predecessor.admin();
                (Inherited::handed(predecessor.sockets()), admin, Some(predecessor))
            }
        };
        // An admin listener that is to be elsewhere is opened there.
        let asked = settings.admin.listen;
        let fits =
            |here: SocketAddr| here.ip() == asked.ip() && (asked.port() == 0 || here.port() == asked.port());
        let admin = admin.filter(|listener| listener.local_addr().is_ok_and(fits));
        let listeners = Listeners::open(settings, inherited).map_err(server::StartError::from)?;
        Ok(Opened { listeners, admin, predecessor })
    }
}

impl App {
    /// Starts everything: the store, the admin socket and listener, then the workers.
    ///
    /// # Errors
    /// [`StartError`]; whatever had started is stopped again.
    pub fn start(
        settings: Settings,
        metrics: &Arc<Metrics>,
        log: LogHandle,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        Self::start_from(Origin::Fresh(inherited), settings, metrics, log)
    }

    fn start_from(
        origin: Origin,
        settings: Settings,
        metrics: &Arc<Metrics>,
        log: LogHandle,
    ) -> Result<Self, StartError> {
        let settings = Arc::new(settings);
        let upstream_tls = load_upstream_tls(&settings)?;
        raise_file_limit();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let rules = rules_of(&settings)?;
        // What can fail for another reason than the store fails before the other process lets go of it.
        let mut origin = origin.open(&settings)?;
        if let Some(predecessor) = &mut origin.predecessor {
            predecessor.close_store()?;
        }
        let store = Arc::new(SledStore::open(&settings.store, store_options(metrics))?);
        let outgoing = Outgoing::new(Arc::clone(metrics), Arc::clone(&clock));
        let desk = Arc::new(Desk::open(DeskParts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            settings: Arc::clone(&settings),
            metrics: Arc::clone(metrics),
            clock: Arc::clone(&clock),
            outside: outgoing.outside(&settings),
        })?);
        let revoked = desk.revocations().follow();
        let (successors, waiting) = mpsc::channel(1);
        let socket = &settings.admin.socket;
        let mut control = Control::prepare(socket, Arc::clone(&desk), Some(successors.clone()))?;

        let tls = settings.server.tls.as_ref().map(|tls| Tls::new(tls, Arc::clone(metrics))).transpose()?;
        let acme = match (&tls, settings.server.tls.as_ref().and_then(|tls| tls.acme.clone())) {
            (Some(tls), Some(acme)) => Some(Acme::start(AcmeParts {
                settings: acme,
                answers_http: !settings.server.redirect_http.is_empty(),
                tls: Arc::clone(tls),
                store: Arc::clone(&store) as Arc<dyn Store>,
                metrics: Arc::clone(metrics),
                clock: Arc::clone(&clock),
            })?),
            _ => None,
        };
        let certificates = tls.clone().map(tls::Watch::start).transpose().map_err(StartError::System)?;

        let readiness = Arc::new(Readiness::new(Arc::clone(&clock)));
        readiness.keys_loaded();
        let common = Common { desk: &desk, log, clock: Arc::clone(&clock) };
        let fleet = Fleet::new(&settings.upstreams).with_tls(upstream_tls);
        let labels = RouteLabels::new(rules.label_texts(&settings));
        let shared = Arc::new(common.share(Arc::clone(&settings), rules, labels, fleet));
        let current = Arc::new(ArcSwap::new(Arc::clone(&shared)));
        let counts: Vec<_> =
            (0..settings.server.workers).map(|_| Arc::new(WorkerMetrics::default())).collect();
        let sources = sources(metrics, &counts, &current, tls.clone());
        let admin = start_admin(origin.admin, settings.admin.listen, &store, &readiness, sources)?;
        let watch = Watch::start(&shared.fleet, &settings).map_err(StartError::System)?;
        let server = Server::start(origin.listeners, &shared, metrics, &counts, tls.as_ref())?;
        let events =
            outgoing.events(&settings, Arc::clone(&store) as Arc<dyn Store>).map_err(StartError::System)?;
        let purge = Purge::start(Arc::clone(&store), Arc::clone(&desk), clock).map_err(StartError::System)?;
        let watched = match origin.predecessor {
            Some(predecessor) => predecessor.serving(revoked)?,
            None => None,
        };
        control.publish()?;
        loaded_well(metrics);
        let metrics = Arc::clone(metrics);
        Ok(Self {
            current,
            metrics,
            store,
            has_store: true,
            desk,
            server,
            admin,
            control,
            successors,
            waiting,
            readiness,
            purge,
            tls,
            certificates,
            acme,
            watch,
            watchdog: Watchdog::new(watched),
            outgoing,
            events,
            hosted: None,
        })
    }

    /// Opens the admin socket again, which a process that wanted to follow may have put its own in place of.
    fn republish(&mut self) {
        let (socket, desk) = (self.settings().admin.socket.clone(), Arc::clone(&self.desk));
        match Control::start(&socket, desk, Some(self.successors.clone())) {
            Ok(control) => {
                let mut old = std::mem::replace(&mut self.control, control);
                old.disown();
                old.stop();
            }
            Err(error) => tracing::error!(%error, "the admin socket cannot be opened again"),
        }
    }

    /// Where clients connect, as URLs.
    #[must_use]
    pub fn listening(&self) -> &[String] {
        self.server.names()
    }

    /// Where `/readyz` and `/metrics` are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// The verbs, for a program that embeds the gateway. A reload may bring others.
    #[must_use]
    pub fn accounts(&self) -> Arc<Accounts> {
        self.desk.accounts()
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.current.load().settings)
    }

    /// Waits for a signal to stop, a process that takes over, or the death of a worker. Meanwhile loads the
    /// configuration from `sources` again when SIGHUP says so, or the file has other content than when its
    /// fingerprint was `known`.
    pub fn wait(&mut self, signals: &mut Signals, sources: &config::Sources, mut known: u64) -> Ended {
        let path = sources.file.as_deref().unwrap_or(Path::new(""));
        let mut file = FileWatch::start(path, known)
            .inspect_err(|error| tracing::warn!(%error, "the configuration file is not watched"))
            .ok();
        loop {
            self.watchdog.beat(self.server.turns());
            let tick = self.watchdog.wait(WATCH_EVERY);
            let Signals { runtime, terminate, interrupt, hangup, passed } = signals;
            let (waiting, hosted) = (&mut self.waiting, self.hosted.as_mut());
            let event = runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => Event::Stop,
                    _ = interrupt.recv() => Event::Stop,
                    _ = hangup.recv() => Event::Reload,
                    signal = first_of(passed) => Event::PassOn(signal),
                    () = app_ended(hosted) => Event::AppEnded,
                    () = changed(file.as_mut()) => Event::Changed,
                    Some(stream) = waiting.recv() => Event::Followed(stream),
                    () = tokio::time::sleep(tick) => Event::Tick,
                }
            });
            match event {
                Event::Stop => return Ended::Asked,
                Event::AppEnded => {
                    if let Some(hosted) = &self.hosted {
                        hosted.say_ended();
                    }
                    return Ended::AppEnded;
                }
                Event::PassOn(signal) => {
                    if let Some(hosted) = &self.hosted {
                        hosted.pass_on(signal);
                    }
                }
                Event::Tick if self.server.has_failed() => return Ended::Failed,
                Event::Tick => self.take_store_back(),
                Event::Followed(stream) => {
                    let mut stop = false;
                    let mut asked = || {
                        stop |= signals.stop_within(GLANCE, || false);
                        stop
                    };
                    if let Some(successor) = self.hand_over(stream, &mut asked) {
                        return Ended::Followed(Box::new(successor));
                    }
                    if stop {
                        return Ended::Asked;
                    }
                }
                Event::Changed if config::fingerprint(path).is_none_or(|now| now == known) => {}
                Event::Reload | Event::Changed => {
                    known = config::fingerprint(path).unwrap_or(known);
                    systemd::reloading();
                    systemd::reloaded(self.reload(sources));
                }
            }
        }
    }

    /// Loads the configuration again. False: it is not good and changes nothing, and the log says why.
    pub fn reload(&mut self, sources: &config::Sources) -> bool {
        let outcome = match config::load(sources) {
            Ok(loaded) => {
                let fingerprint = format!("{:016x}", loaded.fingerprint);
                self.apply(loaded).map(|()| fingerprint).map_err(|error| vec![error.to_string()])
            }
            Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        };
        match outcome {
            // Which content it was: it may be written once more before anybody reads this.
            Ok(fingerprint) => {
                tracing::info!(fingerprint, "the configuration was loaded again");
                true
            }
            Err(problems) => {
                self.metrics.reload_success.set(0);
                for problem in problems {
                    tracing::error!(problem, "the configuration is not good");
                }
                tracing::error!("the configuration was not loaded again: the one before stays");
                false
            }
        }
    }

    /// Judges by another configuration from here on. Nothing has changed when this fails.
    fn apply(&mut self, mut loaded: Loaded) -> Result<(), StartError> {
        let old = self.current.load_full();
        if let Some(hosted) = &self.hosted {
            hosted.put(&mut loaded.settings).map_err(StartError::NoUpstream)?;
        }
        let (settings, kept) = reload::keep_fixed(&old.settings, loaded.settings);
        let settings = Arc::new(settings);
        let rules = rules_of(&settings)?;
        let upstream_tls = load_upstream_tls(&settings)?;
        if let Some(tls) = &settings.server.tls {
            // Tried before anything changes.
            drop(Tls::new(tls, Arc::clone(&self.metrics))?);
        }
        let fleet = Fleet::after(&old.fleet, &settings.upstreams).with_tls(upstream_tls);
        let fleet = Arc::new(fleet);
        let watch = Watch::start(&fleet, &settings).map_err(StartError::System)?;
        let changed = self.desk.change(&settings, self.outgoing.outside(&settings)).map_err(StartError::from);
        let changed = changed.and_then(|()| Ok(old.log.set_level(&settings.log.level)?));
        if let Err(error) = changed {
            watch.stop();
            return Err(error);
        }

        if let Some((tls, settings)) = self.tls.as_ref().zip(settings.server.tls.as_ref())
            && let Err(error) = tls.replace(settings)
        {
            tracing::error!(%error, "the certificates before stay");
        }
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.message);
        }
        for key in kept {
            tracing::warn!(key, "this key cannot change while the gateway runs: it keeps its value");
        }
        let common = Common { desk: &self.desk, log: old.log.clone(), clock: Arc::clone(&old.clock) };
        let labels = old.labels.followed_by(rules.label_texts(&settings));
        let shared = Arc::new(common.share(settings, rules, labels, fleet));
        // First: whatever is counted from here on can be named.
        self.current.store(Arc::clone(&shared));
        if !self.server.replace(shared) {
            tracing::warn!("a worker is slow to take up the configuration");
        }
        std::mem::replace(&mut self.watch, watch).stop();
        self.retell(&old.settings);
        loaded_well(&self.metrics);
        Ok(())
    }

    /// Tells the app by the settings that there are now, where these are not as before.
    fn retell(&mut self, old: &Settings) {
        // Without a store there is nothing to tell: it is begun when there is one again.
        if self.settings().events != old.events && self.has_store {
            self.start_telling();
        }
    }

    fn start_telling(&mut self) {
        // The one before ends first: two would tell everything twice.
        drop(self.events.take());
        match self.outgoing.events(&self.settings(), Arc::clone(&self.store) as Arc<dyn Store>) {
            Ok(events) => self.events = events,
            Err(error) => tracing::error!(%error, "the app is not told of accounts until the next start"),
        }
    }

    /// Says "not ready", waits `drain_delay`, lets requests finish for up to `drain_timeout`, ends the app if
    /// there is one, then closes the store. Another signal to stop ends the waiting. Without its app a gateway
    /// does not wait `drain_delay`: whoever still came would be told that there is none.
    ///
    /// Answers the app's exit code.
    pub fn stop(mut self, signals: &mut Signals) -> Option<u8> {
        let settings = self.settings();
        systemd::stopping();
        self.readiness.drain();
        let hosted = self.hosted.take();
        let (server, watchdog) = (&mut self.server, &mut self.watchdog);
        let delay = || {
            watchdog.beat(server.turns());
            false
        };
        let has_app = hosted.as_ref().is_none_or(|hosted| !hosted.has_ended());
        if !(has_app && signals.stop_within(settings.server.drain_delay, delay)) {
            server.drain();
            let done = || {
                watchdog.beat(server.turns());
                server.is_done()
            };
            signals.stop_within(settings.server.drain_timeout, done);
        }
        let code = hosted.map(|hosted| hosted.stop(signals, || watchdog.beat(server.turns())));
        self.finish();
        code
    }

    /// Ends what still goes on; sockets' files and the store belong to the process that follows.
    fn finish_left(self) {
        self.server.finish();
        drop((self.certificates, self.acme, self.events));
        self.purge.stop();
        self.watch.stop();
        self.control.stop();
        self.admin.stop();
    }

    /// Ends what still goes on, and the store last.
    fn finish(self) {
        let store = Arc::clone(&self.store);
        self.finish_left();
        store.close();
    }
}

/// What a waiting gateway wakes up for.
enum Event {
    Stop,
    Reload,
    Changed,
    PassOn(ProcessSignal),
    AppEnded,
    Followed(UnixStream),
    Tick,
}

async fn app_ended(hosted: Option<&mut Hosted>) {
    match hosted {
        Some(hosted) => hosted.ended().await,
        None => std::future::pending().await,
    }
}

/// The next of these signals.
async fn first_of(caught: &mut [(ProcessSignal, Signal)]) -> ProcessSignal {
    std::future::poll_fn(|context| {
        let come = caught
            .iter_mut()
            .find_map(|(name, caught)| caught.poll_recv(context).is_ready().then_some(*name));
        come.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}

async fn changed(file: Option<&mut FileWatch>) {
    match file {
        Some(file) => file.changed().await,
        None => std::future::pending().await,
    }
}

fn store_options(metrics: &Arc<Metrics>) -> StoreOptions {
    StoreOptions { metrics: Arc::clone(metrics), on_fatal: Box::new(end_process) }
}

fn rules_of(settings: &Settings) -> Result<Rules, StartError> {
    Rules::new(settings).map_err(|errors| {
        StartError::Rules(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })
}

/// What every configuration is served with.
struct Common<'a> {
    desk: &'a Desk,
    log: LogHandle,
    clock: Arc<dyn Clock>,
}

impl Common<'_> {
    /// What the workers share.
    fn share(
        self,
        settings: Arc<Settings>,
        rules: Rules,
        labels: RouteLabels,
        fleet: impl Into<Arc<Fleet>>,
    ) -> Shared {
        let Self { desk, log, clock } = self;
        Shared {
            fleet: fleet.into(),
            labels,
            rules,
            api: Api::new(ApiParts {
                accounts: desk.accounts(),
                verifier: desk.verifier(),
                revocations: Arc::clone(desk.revocations()),
                jwks: desk.keys().jwks().to_owned(),
                body_bytes: settings.server.limits.auth_body_bytes,
                accept: settings.tokens.accept.clone(),
                answer: settings.auth.answer.clone(),
                clock: Arc::clone(&clock),
            }),
            accounts: desk.accounts(),
            verifier: desk.verifier(),
            revocations: Arc::clone(desk.revocations()),
            clock,
            log,
            settings,
        }
    }
}

/// Where the numbers come from.
fn sources(
    metrics: &Arc<Metrics>,
    counts: &[Arc<WorkerMetrics>],
    current: &Arc<ArcSwap<Shared>>,
    tls: Option<Arc<Tls>>,
) -> Sources {
    let (labels, servers, revocations) = (Arc::clone(current), Arc::clone(current), Arc::clone(current));
    Sources {
        metrics: Arc::clone(metrics),
        workers: counts.to_vec(),
        labels: Box::new(move || labels.load().labels.clone()),
        certificates: Box::new(move || tls.as_ref().map(|tls| tls.expiries()).unwrap_or_default()),
        servers: Box::new(move || servers.load().fleet.samples()),
        revocations: Box::new(move || revocations.load().revocations.counts()),
    }
}

fn loaded_well(metrics: &Metrics) {
    metrics.reload_success.set(1);
    let now = SystemClock.now().secs();
    metrics.last_reload_success.set(i64::try_from(now).unwrap_or(i64::MAX));
}

/// SIGTERM, SIGINT and SIGHUP, caught from here on.
#[derive(Debug)]
pub struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Those that are an app's business.
    passed: Vec<(ProcessSignal, Signal)>,
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
        let hangup = signal(SignalKind::hangup())?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hangup, passed: Vec::new() })
    }

    /// Catches those that an app may understand, and we do not.
    fn catch_for_app(&mut self) -> io::Result<()> {
        let names = [ProcessSignal::USR1, ProcessSignal::USR2, ProcessSignal::TTIN, ProcessSignal::TTOU];
        let _entered = self.runtime.enter();
        for name in names {
            self.passed.push((name, signal(SignalKind::from_raw(name.as_raw()))?));
        }
        Ok(())
    }

    /// What comes of this, unless a signal to stop comes first.
    fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let Self { runtime, terminate, interrupt, .. } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                done = work => Some(done),
            }
        })
    }

    /// Waits until it is `done`, for so long at most. True: a signal to stop came first.
    fn stop_within(&mut self, span: Duration, mut done: impl FnMut() -> bool) -> bool {
        let Self { runtime, terminate, interrupt, .. } = self;
        let until = async {
            while !done() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        runtime.block_on(async {
            let until = tokio::time::timeout(span, until);
            tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = until => false,
            }
        })
    }
}

/// Before anything is opened: a bad file leaves nothing behind.
fn load_upstream_tls(settings: &Settings) -> Result<Vec<Option<ClientTls>>, StartError> {
    let load = |upstream: &UpstreamSettings| {
        let error = |source| StartError::UpstreamTls { upstream: upstream.name.clone(), source };
        ClientTls::of(upstream).map_err(error)
    };
    settings.upstreams.iter().map(load).collect()
}

fn start_admin(
    inherited: Option<std::net::TcpListener>,
    address: SocketAddr,
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
    let admin = match inherited {
        Some(listener) => Admin::over(listener, parts),
        None => Admin::start(address, parts),
    };
    admin.map_err(|source| StartError::Admin { address, source })
}

/// Looks through the stored hashes once, and removes what has run out now and then.
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
                learn_prices(&desk, &mut stopped).await;
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

/// Lets failed logins cost from the start what the stored hashes cost. It takes a second or two for a
/// hundred thousand accounts, beside what the gateway serves.
async fn learn_prices(desk: &Desk, stopped: &mut watch::Receiver<bool>) {
    let accounts = desk.accounts();
    let learned = tokio::select! {
        learned = accounts.learn_prices() => learned,
        _ = stopped.wait_for(|stop| *stop) => return,
    };
    if let Err(error) = learned {
        tracing::warn!(%error, "what the stored password hashes cost could not be read");
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

/// What `serve` is asked for.
#[derive(Debug)]
pub struct Serve {
    /// The configuration.
    pub loaded: Loaded,
    /// Where it comes from, and comes from again.
    pub sources: config::Sources,
    /// Whether it is to take over from the gateway that runs.
    pub take_over: bool,
    /// The app that is to be run behind it.
    pub hosted: Option<HostedCommand>,
}

/// Serves until told to stop, or until the app ends: the commands `serve` and `run`. To be called from the
/// thread that the program began with.
#[must_use]
pub fn serve(serve: Serve) -> ExitCode {
    match run(serve) {
        Ok(Exit::With(code)) => ExitCode::from(code),
        Ok(Exit::Failed) => {
            let _ = writeln!(io::stderr(), "gatepost: a worker ended; stopping");
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "gatepost: {error}");
            match error {
                StartError::Hosted(error) => ExitCode::from(error.exit_code()),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// How a process ends that has served.
enum Exit {
    /// As it was asked to, or as its app has.
    With(u8),
    Failed,
}

fn run(serve: Serve) -> Result<Exit, StartError> {
    // First: it takes what it reads out of the environment, which no other thread may look at then.
    let inherited = Inherited::from_environment().map_err(server::StartError::from)?;
    let Serve { mut loaded, mut sources, take_over, hosted } = serve;
    // Whatever happens to the usual places and the working directory: it is this file from here on.
    sources.file = Some(std::path::absolute(&loaded.path).unwrap_or_else(|_| loaded.path.clone()));
    let mut signals = Signals::catch().map_err(StartError::System)?;
    let metrics = Arc::new(Metrics::default());
    let log = log::init(&loaded.settings.log, Arc::clone(&metrics))?;
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.message);
    }
    let hosted =
        match hosted.map(|command| start_app(&command, &mut loaded.settings, &mut signals)).transpose()? {
            Some(Started::Stopped(code)) => return Ok(Exit::With(code)),
            Some(Started::Answers(hosted)) => Some(hosted),
            None => None,
        };
    let origin = if take_over {
        Predecessor::ask(&loaded.settings).map(Origin::Predecessor).map_err(StartError::from)
    } else {
        Ok(Origin::Fresh(inherited))
    };
    let started = origin.and_then(|origin| App::start_from(origin, loaded.settings, &metrics, log.clone()));
    let mut app = match (started, hosted) {
        (Ok(app), hosted) => App { hosted, ..app },
        (Err(error), None) => return Err(error),
        (Err(error), Some(hosted)) => {
            hosted.stop(&mut signals, || {});
            return Err(error);
        }
    };
    let mut stderr = io::stderr().lock();
    for place in app.listening() {
        let _ = writeln!(stderr, "gatepost: listening on {place}");
    }
    let _ = writeln!(stderr, "gatepost: admin on http://{}", app.admin_address());
    let _ = writeln!(stderr, "gatepost: ready");
    drop(stderr);
    systemd::ready();
    let exit = match app.wait(&mut signals, &sources, loaded.fingerprint) {
        Ended::Followed(successor) => Exit::With(app.leave(*successor, &mut signals).unwrap_or(0)),
        ended => {
            tracing::info!("stopping");
            let code = app.stop(&mut signals);
            if matches!(ended, Ended::Failed) { Exit::Failed } else { Exit::With(code.unwrap_or(0)) }
        }
    };
    log.close();
    Ok(exit)
}

/// Runs the app, waits until it answers, and puts it in its upstream's place.
fn start_app(
    command: &HostedCommand,
    settings: &mut Settings,
    signals: &mut Signals,
) -> Result<Started, StartError> {
    signals.catch_for_app().map_err(StartError::System)?;
    let started = Hosted::start(command, settings, signals)?;
    if let Started::Answers(hosted) = &started {
        hosted.put(settings).map_err(StartError::NoUpstream)?;
        let _ = writeln!(io::stderr(), "gatepost: the app answers on {}", hosted.place());
    }
    Ok(started)
}
