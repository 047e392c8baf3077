//! A worker: one thread, one runtime, its own listeners, connections, cache and counters.
//!
//! Nothing that a request needs is shared with another worker but what never changes, the set of
//! revocations and a count of connections.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::connection;
use super::listener::Bound;
use crate::burst::Bursts;
use crate::deadline::Deadlines;
use crate::gateway::{Gateway, Shared};
use crate::metrics::worker::WorkerMetrics;
use crate::metrics::{ConnectionEnd, Metrics};
use crate::settings::Limits;
use crate::stream::Stream;

/// How often decision lines are handed over when there are few, and idle upstream connections looked at.
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
    /// No new connections; the ones there are end with their request.
    Draining,
    /// The time is over.
    Stopping,
}

/// What a worker is started with.
pub(super) struct Start {
    pub(super) shared: Arc<Shared>,
    pub(super) counts: Arc<WorkerMetrics>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) listeners: Vec<Bound>,
    pub(super) stage: watch::Receiver<Stage>,
}

/// What a worker's connections share.
pub(super) struct Worker {
    gateway: Gateway,
    deadlines: Rc<Deadlines>,
    bursts: Rc<Bursts>,
    limits: Limits,
    metrics: Arc<Metrics>,
    connections: Arc<AtomicUsize>,
    own: Cell<usize>,
    draining: Cell<bool>,
}

impl Worker {
    pub(super) const fn gateway(&self) -> &Gateway {
        &self.gateway
    }
    pub(super) const fn deadlines(&self) -> &Rc<Deadlines> {
        &self.deadlines
    }
    pub(super) const fn bursts(&self) -> &Rc<Bursts> {
        &self.bursts
    }
    pub(super) const fn limits(&self) -> Limits {
        self.limits
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
        OpenConnection(Rc::clone(self))
    }

    fn has_room(&self) -> bool {
        // The count is taken before the connection is, so that workers cannot overshoot together.
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let room = before < self.limits.connections;
        if !room {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            self.count_end(ConnectionEnd::Refused);
        }
        room
    }
}

/// One open connection, counted.
pub(super) struct OpenConnection(Rc<Worker>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.own.set(self.0.own.get() - 1);
        self.0.metrics.connections.add(-1);
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
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
    let mut stage = start.stage;
    let worker = Rc::new(Worker {
        limits: start.shared.settings.server.limits,
        gateway: Gateway::new(start.shared, start.counts, Rc::clone(&deadlines), &bursts),
        deadlines: Rc::clone(&deadlines),
        bursts: Rc::clone(&bursts),
        metrics: start.metrics,
        connections: start.connections,
        own: Cell::new(0),
        draining: Cell::new(false),
    });
    let mut helpers = tokio::task::JoinSet::new();
    helpers.spawn_local(Rc::clone(&deadlines).tick());
    helpers.spawn_local(bursts.write());
    helpers.spawn_local(tidy(Rc::clone(&worker)));
    let mut accepting = tokio::task::JoinSet::new();
    for listener in start.listeners {
        let worker = Rc::clone(&worker);
        match listener {
            Bound::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                accepting.spawn_local(accept_tcp(worker, listener));
            }
            Bound::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                accepting.spawn_local(accept_unix(worker, listener));
            }
        }
    }
    reached(&mut stage, Stage::Draining).await;
    accepting.shutdown().await;
    worker.draining.set(true);
    deadlines.wake_all();
    let drained = async {
        while worker.own.get() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = drained => {}
        () = reached(&mut stage, Stage::Stopping) => {}
    }
    worker.gateway.tidy();
    Ok(())
}

/// Waits for a stage; a sender that is gone means the last one.
async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    let _ = stage.wait_for(|now| *now >= wanted).await;
}

async fn tidy(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        worker.deadlines.read_clock();
        worker.gateway.tidy();
    }
}

async fn accept_tcp(worker: Rc<Worker>, listener: TcpListener) {
    let port = listener.local_addr().ok().map(|address| address.port());
    loop {
        let Some((stream, address)) = accepted(listener.accept()).await else { continue };
        if stream.set_nodelay(true).is_ok() {
            start_connection(&worker, Stream::Tcp(stream), address.ip(), port);
        }
    }
}

async fn accept_unix(worker: Rc<Worker>, listener: UnixListener) {
    loop {
        let Some((stream, _)) = accepted(listener.accept()).await else { continue };
        // Who connects over a Unix socket is on this machine.
        start_connection(&worker, Stream::Unix(stream), IpAddr::V4(Ipv4Addr::LOCALHOST), None);
    }
}

async fn accepted<T>(accept: impl Future<Output = io::Result<T>>) -> Option<T> {
    match accept.await {
        Ok(connection) => Some(connection),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn start_connection(worker: &Rc<Worker>, stream: Stream, address: IpAddr, port: Option<u16>) {
    if worker.has_room() {
        tokio::task::spawn_local(connection::serve(Rc::clone(worker), stream, address, port));
    }
}
