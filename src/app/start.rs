//! Starting: every part is made once, in the order in which it can fail, and handed to those who use it.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::App;
use super::hand_over::Predecessor;
use super::hosted::HostedError;
use super::outside::Outgoing;
use super::purge::Purge;
use super::systemd::Watchdog;
use crate::acme::{self, Acme, AcmeParts};
use crate::api::{Api, ApiParts};
use crate::clock::{Clock, SystemClock};
use crate::control::handover::HandOverError;
use crate::control::{Control, ControlError, Desk, DeskError, DeskParts};
use crate::gateway::{Rules, Shared};
use crate::metrics::Metrics;
use crate::metrics::worker::{RouteLabels, WorkerMetrics};
use crate::ops::admin::{Admin, AdminParts};
use crate::ops::log::{LogError, LogHandle};
use crate::ops::prometheus::Sources;
use crate::ops::readiness::Readiness;
use crate::proxy::tls::{ClientTls, TlsFileError};
use crate::proxy::{Fleet, Watch};
use crate::server::{self, Inherited, Listeners, Server};
use crate::settings::{Settings, UpstreamSettings};
use crate::store::{OpenError, SledStore, Store, StoreOptions};
use crate::tls::{self, Tls, TlsError};

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

/// Where a gateway's sockets come from.
pub(super) enum Origin {
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

    pub(super) fn start_from(
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
}

/// What was applied could not be made durable: nothing that is said from here on could be trusted, and
/// a retried fsync lies. The next start recovers what is on the disk.
#[expect(clippy::disallowed_methods, reason = "the one fault that ends the process on the spot")]
fn end_process(reason: &str) {
    let _ = writeln!(io::stderr(), "gatepost: the store cannot write: {reason}; stopping");
    std::process::exit(1);
}

pub(super) fn store_options(metrics: &Arc<Metrics>) -> StoreOptions {
    StoreOptions { metrics: Arc::clone(metrics), on_fatal: Box::new(end_process) }
}

pub(super) fn rules_of(settings: &Settings) -> Result<Rules, StartError> {
    Rules::new(settings).map_err(|errors| {
        StartError::Rules(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })
}

/// Before anything is opened: a bad file leaves nothing behind.
pub(super) fn load_upstream_tls(settings: &Settings) -> Result<Vec<Option<ClientTls>>, StartError> {
    let load = |upstream: &UpstreamSettings| {
        let error = |source| StartError::UpstreamTls { upstream: upstream.name.clone(), source };
        ClientTls::of(upstream).map_err(error)
    };
    settings.upstreams.iter().map(load).collect()
}

/// What every configuration is served with.
pub(super) struct Common<'a> {
    pub(super) desk: &'a Desk,
    pub(super) log: LogHandle,
    pub(super) clock: Arc<dyn Clock>,
}

impl Common<'_> {
    /// What the workers share.
    pub(super) fn share(
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

pub(super) fn loaded_well(metrics: &Metrics) {
    metrics.reload_success.set(1);
    let now = SystemClock.now().secs();
    metrics.last_reload_success.set(i64::try_from(now).unwrap_or(i64::MAX));
}
