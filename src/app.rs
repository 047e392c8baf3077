//! The composition root: `start` makes every part once and hands it to those who use it, `serve` is the
//! program around it.
//!
//! The accounts, keys and revocations of a store come from one [`Desk`], which is also what the admin
//! socket answers from; the rest is the rules, the listeners and the threads around it.

mod file_watch;
mod hand_over;
mod hosted;
pub(crate) mod outside;
mod purge;
mod reload;
mod serve;
mod signals;
mod start;
mod systemd;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use self::file_watch::FileWatch;
use self::hand_over::Successor;
use self::hosted::Hosted;
use self::outside::Outgoing;
use self::purge::Purge;
use self::signals::Caught;
use self::systemd::Watchdog;
use crate::account::Accounts;
use crate::acme::Acme;
use crate::config;
use crate::control::{Control, Desk, Successors};
use crate::gateway::Shared;
use crate::metrics::Metrics;
use crate::ops::admin::Admin;
use crate::ops::readiness::Readiness;
use crate::outbound::Events;
use crate::proxy::Watch;
use crate::server::Server;
use crate::settings::Settings;
use crate::store::SledStore;
use crate::tls::{self, Tls};

pub use self::hosted::{HostedCommand, HostedError, become_app, upstream_of};
pub use self::serve::{Serve, serve};
pub use self::signals::Signals;
pub use self::start::StartError;

/// Long enough to see a signal that has come.
const GLANCE: Duration = Duration::from_millis(1);
/// How often a serving process looks whether its workers are alive.
const WATCH_EVERY: Duration = Duration::from_millis(250);

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

impl App {
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
            let (waiting, hosted) = (&mut self.waiting, self.hosted.as_mut());
            let event = signals.next_or(async {
                tokio::select! {
                    () = app_ended(hosted) => Event::AppEnded,
                    () = changed(file.as_mut()) => Event::Changed,
                    Some(stream) = waiting.recv() => Event::Followed(stream),
                    () = tokio::time::sleep(tick) => Event::Tick,
                }
            });
            match event {
                Event::Signal(Caught::Stop) => return Ended::Asked,
                Event::AppEnded => {
                    if let Some(hosted) = &self.hosted {
                        hosted.say_ended();
                    }
                    return Ended::AppEnded;
                }
                Event::Signal(Caught::ForApp(signal)) => {
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
                Event::Signal(Caught::Reload) | Event::Changed => {
                    known = config::fingerprint(path).unwrap_or(known);
                    systemd::reloading();
                    systemd::reloaded(self.reload(sources));
                }
            }
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
    Signal(Caught),
    Changed,
    AppEnded,
    Followed(UnixStream),
    Tick,
}

impl From<Caught> for Event {
    fn from(caught: Caught) -> Self {
        Self::Signal(caught)
    }
}

async fn app_ended(hosted: Option<&mut Hosted>) {
    match hosted {
        Some(hosted) => hosted.ended().await,
        None => std::future::pending().await,
    }
}

async fn changed(file: Option<&mut FileWatch>) {
    match file {
        Some(file) => file.changed().await,
        None => std::future::pending().await,
    }
}
