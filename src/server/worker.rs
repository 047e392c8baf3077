//! A worker: one thread, one runtime, its own listeners, connections, cache and counters.
//!
//! Nothing that a request needs is shared with another worker but what never changes, the set of
//! revocations and a count of connections.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::accept::{self, Accepted, Service};
use super::addresses::{Addresses, Holder};
use super::handshake::Handshakes;
use super::http1::Http1Shared;
use super::listener::Bound;
use crate::burst::Bursts;
use crate::deadline::Deadlines;
use crate::gateway::{Gateway, Shared};
use crate::lease::Leases;
use crate::metrics::worker::WorkerMetrics;
use crate::metrics::{ConnectionEnd, Metrics};
use crate::settings::Limits;
use crate::stream::Stream;
use crate::tls::Tls;

/// How often decision lines are handed over when there are few, and idle upstream connections and leases
/// looked at.
const TIDY_EVERY: Duration = Duration::from_millis(100);
/// Tasks that run before the sockets are looked at again: the longer a turn, the longer the bursts.
const TURN: u32 = 512;
/// After a failed accept (no file descriptors left, most likely), wait for connections to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How far the process is with stopping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(super) enum Stage {
    /// Everything is served.
    Serving,
    /// Another process accepts; connections end with their next answer.
    Leaving,
    /// No new connections; the ones there are end with their request.
    Draining,
    /// The time is over.
    Stopping,
}

/// What a worker is started with.
pub(super) struct Start {
    /// Told once, when everything that can fail has not; dropped when it has.
    pub(super) started: mpsc::Sender<()>,
    /// Raised a few times a second, so that others see that the worker is not stuck.
    pub(super) turns: Arc<AtomicU64>,
    /// What all workers share, and what replaces it at a reload.
    pub(super) shared: watch::Receiver<Arc<Shared>>,
    /// Told each time that a replacement is in use.
    pub(super) adopted: mpsc::Sender<()>,
    pub(super) counts: Arc<WorkerMetrics>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) listeners: Vec<(Service, Bound)>,
    pub(super) stage: watch::Receiver<Stage>,
    /// Where TLS listeners get their certificates.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) handshakes: Handshakes,
    /// The port that redirects lead to.
    pub(super) https_port: Option<u16>,
}

/// What a worker's connections share.
pub(super) struct Worker {
    gateway: RefCell<Rc<Gateway>>,
    /// Gateways of earlier configurations that may still have requests.
    retired: RefCell<Vec<Weak<Gateway>>>,
    counts: Arc<WorkerMetrics>,
    deadlines: Rc<Deadlines>,
    bursts: Rc<Bursts>,
    leases: Rc<Leases>,
    http1: Http1Shared,
    limits: Cell<Limits>,
    h2c: Cell<bool>,
    metrics: Arc<Metrics>,
    connections: Arc<AtomicUsize>,
    addresses: Arc<Addresses>,
    own: Cell<usize>,
    leaving: Cell<bool>,
    draining: Cell<bool>,
    tls: Option<Arc<Tls>>,
    handshakes: Handshakes,
    https_port: Option<u16>,
}

impl Worker {
    /// The gateway for a request that begins now. It is taken once a request: a reload puts another one
    /// in its place, and the request keeps the one that it began with.
    pub(super) fn gateway(&self) -> Rc<Gateway> {
        Rc::clone(&self.gateway.borrow())
    }
    pub(super) const fn deadlines(&self) -> &Rc<Deadlines> {
        &self.deadlines
    }
    pub(super) const fn bursts(&self) -> &Rc<Bursts> {
        &self.bursts
    }
    pub(super) const fn http1(&self) -> &Http1Shared {
        &self.http1
    }
    /// The limits for a connection that begins now.
    pub(super) const fn limits(&self) -> Limits {
        self.limits.get()
    }
    pub(super) const fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }
    pub(super) const fn handshakes(&self) -> &Handshakes {
        &self.handshakes
    }
    pub(super) const fn https_port(&self) -> Option<u16> {
        self.https_port
    }
    pub(super) const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
    /// Whether clear text may be HTTP/2.
    pub(super) const fn speaks_h2c(&self) -> bool {
        self.h2c.get()
    }
    /// Whether answers are to be the last on their connection, though it may stay open until then.
    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving.get()
    }
    pub(super) const fn is_draining(&self) -> bool {
        self.draining.get()
    }
    pub(super) fn count_end(&self, end: ConnectionEnd) {
        self.metrics.connections_ended.of(end).add_one();
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn count_connection(self: &Rc<Self>) -> OpenConnection {
        self.own.set(self.own.get() + 1);
        self.metrics.connections.add(1);
        OpenConnection { worker: Rc::clone(self), holder: None }
    }

    /// Requests that begin from here on are judged by `shared`.
    fn adopt(&self, shared: Arc<Shared>) {
        let old = self.gateway();
        self.limits.set(shared.settings.server.limits);
        self.h2c.set(shared.settings.server.h2c);
        let counts = Arc::clone(&self.counts);
        let mut new =
            Gateway::new(shared, counts, Rc::clone(&self.deadlines), &self.bursts, Rc::clone(&self.leases));
        new.take_over(&old);
        self.retired.borrow_mut().push(Rc::downgrade(&old));
        self.gateway.replace(Rc::new(new));
    }

    /// Writes out what waits, in every gateway that still has requests.
    fn tidy(&self) {
        self.deadlines.read_clock();
        self.leases.look();
        self.gateway().tidy();
        if self.retired.borrow().is_empty() {
            return;
        }
        self.retired.borrow_mut().retain(|old| {
            let old = old.upgrade();
            old.inspect(|old| old.tidy()).is_some()
        });
    }

    fn has_room(&self) -> bool {
        // The count is taken before the connection is, so that workers cannot overshoot together.
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let room = before < self.limits().connections;
        if !room {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            self.count_end(ConnectionEnd::Refused);
        }
        room
    }
}

/// One open connection, counted.
pub(super) struct OpenConnection {
    worker: Rc<Worker>,
    /// Whose it is, where that is counted.
    holder: Option<Holder>,
}

impl OpenConnection {
    /// Counts the connection for its address, too. False: the address has too many.
    pub(super) fn belongs_to(&mut self, address: IpAddr) -> bool {
        let most = self.worker.limits().connections_per_address;
        if most == 0 || self.worker.gateway.borrow().trusted_proxies().contains(address) {
            return true;
        }
        let holder = Holder::of(address);
        let room = self.worker.addresses.enter(holder, most);
        if room {
            self.holder = Some(holder);
        }
        room
    }
}

impl std::fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenConnection")
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.own.set(worker.own.get() - 1);
        worker.metrics.connections.add(-1);
        worker.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(holder) = self.holder {
            worker.addresses.leave(holder);
        }
    }
}

/// Runs a worker until it has stopped.
///
/// # Errors
/// When there is no runtime to be had, or a listener cannot be used.
pub(super) fn run(start: Start) -> io::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime
        .event_interval(TURN)
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?
        .block_on(serve(start))
}

async fn serve(start: Start) -> io::Result<()> {
    let (deadlines, bursts) = (Deadlines::new(), Bursts::new());
    let (mut stage, mut replacements) = (start.stage, start.shared);
    let shared = Arc::clone(&replacements.borrow_and_update());
    let limits = Cell::new(shared.settings.server.limits);
    let h2c = Cell::new(shared.settings.server.h2c);
    let leases =
        Leases::new(Arc::clone(&shared.clock), Arc::clone(&shared.revocations), Arc::clone(&start.metrics));
    let gateway =
        Gateway::new(shared, Arc::clone(&start.counts), Rc::clone(&deadlines), &bursts, Rc::clone(&leases));
    let worker = Rc::new(Worker {
        http1: Http1Shared::default(),
        limits,
        h2c,
        gateway: RefCell::new(Rc::new(gateway)),
        retired: RefCell::default(),
        counts: start.counts,
        deadlines: Rc::clone(&deadlines),
        bursts: Rc::clone(&bursts),
        leases: Rc::clone(&leases),
        metrics: start.metrics,
        connections: start.connections,
        addresses: start.addresses,
        own: Cell::new(0),
        leaving: Cell::new(false),
        draining: Cell::new(false),
        tls: start.tls,
        handshakes: start.handshakes,
        https_port: start.https_port,
    });
    let mut helpers = tokio::task::JoinSet::new();
    helpers.spawn_local(Rc::clone(&deadlines).tick());
    helpers.spawn_local(bursts.write());
    helpers.spawn_local(tidy(Rc::clone(&worker), start.turns));
    helpers.spawn_local(follow(Rc::clone(&worker), replacements, start.adopted.clone()));
    let mut accepting = tokio::task::JoinSet::new();
    for (service, listener) in start.listeners {
        let worker = Rc::clone(&worker);
        match listener {
            Bound::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                accepting.spawn_local(accept_tcp(worker, listener, service));
            }
            Bound::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                accepting.spawn_local(accept_unix(worker, listener, service));
            }
        }
    }
    // Who is no longer there does not wait, either.
    let _ = start.started.send(());
    drop(start.started);
    reached(&mut stage, Stage::Leaving).await;
    accepting.shutdown().await;
    worker.leaving.set(true);
    // Nobody may wait for it: there is a drain without a process that follows.
    let _ = start.adopted.send(());
    deadlines.wake_all();
    tokio::select! {
        () = all_ended(&worker), if *stage.borrow() == Stage::Leaving => {}
        () = reached(&mut stage, Stage::Draining) => {}
    }
    worker.draining.set(true);
    leases.drain();
    deadlines.wake_all();
    tokio::select! {
        () = all_ended(&worker) => {}
        () = reached(&mut stage, Stage::Stopping) => {}
    }
    worker.tidy();
    Ok(())
}

/// Waits until no connection is left.
async fn all_ended(worker: &Worker) {
    while worker.own.get() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a stage; a sender that is gone means the last one.
async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    let _ = stage.wait_for(|now| *now >= wanted).await;
}

async fn tidy(worker: Rc<Worker>, turns: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        worker.tidy();
        turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// Puts each new configuration to use.
async fn follow(
    worker: Rc<Worker>,
    mut replacements: watch::Receiver<Arc<Shared>>,
    adopted: mpsc::Sender<()>,
) {
    while replacements.changed().await.is_ok() {
        let shared = Arc::clone(&replacements.borrow_and_update());
        worker.adopt(shared);
        // Nobody waits for it when the server is stopping.
        let _ = adopted.send(());
    }
}

async fn accept_tcp(worker: Rc<Worker>, listener: TcpListener, service: Service) {
    let port = listener.local_addr().ok().map(|address| address.port());
    let mut failing = false;
    loop {
        let Some((stream, address)) = accepted(listener.accept(), &mut failing).await else { continue };
        if stream.set_nodelay(true).is_ok() {
            let address = address.ip();
            let accepted = Accepted { stream: Stream::Tcp(stream), address, port, service, told: false };
            start_connection(&worker, accepted);
        }
    }
}

async fn accept_unix(worker: Rc<Worker>, listener: UnixListener, service: Service) {
    let mut failing = false;
    loop {
        let Some((stream, _)) = accepted(listener.accept(), &mut failing).await else { continue };
        // Who connects over a Unix socket is on this machine.
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        start_connection(
            &worker,
            Accepted { stream: Stream::Unix(stream), address, port: None, service, told: false },
        );
    }
}

/// `failing`: whether the one before failed, too. Then it has been said; twenty times a second is no help.
async fn accepted<T>(accept: impl Future<Output = io::Result<T>>, failing: &mut bool) -> Option<T> {
    match accept.await {
        Ok(connection) => {
            *failing = false;
            Some(connection)
        }
        Err(error) => {
            if !std::mem::replace(failing, true) {
                tracing::warn!(%error, "a connection could not be accepted");
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn start_connection(worker: &Rc<Worker>, accepted: Accepted) {
    if worker.has_room() {
        accept::start(worker, accepted);
    }
}
