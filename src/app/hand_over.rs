//! A gateway follows another one without a request being lost, although the store has one owner.
//!
//! The new process has read its configuration before it asks. It gets the listening sockets, then the old
//! one closes the store and answers account calls with 503 for the moment in which the new one opens it;
//! what is proxied is judged from memory and goes on. When the new one serves, the old one stops to
//! accept, ends each connection with its next answer, and refuses what the new one revokes meanwhile.
//! Should the new one go away before it serves, the old one opens the store again and goes on.

use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::start::{StartError, store_options};
use super::{App, Signals};
use crate::control::Control;
use crate::control::handover::{Channel, HandOverError, Message, Sockets};
use crate::settings::Settings;
use crate::store::Store as _;
use crate::token::revocation::{Revocation, RevocationList};

/// What the admin listener's socket is called.
const ADMIN: &str = "(admin)";
/// For everything that is quick.
const PATIENCE: Duration = Duration::from_secs(10);
/// For opening the store and starting to serve.
const OPENING: Duration = Duration::from_mins(5);
/// How often a waiting gateway looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Streams and idle connections get this long to end when the time of all others is over.
const LAST: Duration = Duration::from_secs(2);

/// The gateway that is to be followed, as the new one sees it.
#[derive(Debug)]
pub(super) struct Predecessor {
    channel: Channel,
    sockets: Sockets,
}

impl Predecessor {
    /// Asks the gateway that runs by these settings. For it nothing has changed when this returns.
    pub(super) fn ask(settings: &Settings) -> Result<Self, HandOverError> {
        let mut channel = Channel::ask(&settings.admin.socket, PATIENCE)?;
        let (sockets, store) = channel.receive(PATIENCE)?;
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if real(&store) != real(&settings.store.path) {
            return Err(HandOverError::OtherStore {
                running: store,
                configured: settings.store.path.clone(),
            });
        }
        Ok(Self { channel, sockets })
    }

    /// The admin listener's socket.
    pub(super) fn admin(&mut self) -> Option<std::net::TcpListener> {
        self.sockets.remove(ADMIN)?.pop().map(Into::into)
    }

    /// Everything else that is listened on.
    pub(super) fn sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// Has the store closed: it can be opened when this returns.
    pub(super) fn close_store(&mut self) -> Result<(), HandOverError> {
        self.channel.say(&Message::CloseStore)?;
        self.channel.wait_for(&Message::StoreClosed, "that its store is closed", PATIENCE)
    }

    /// Says that we serve. From here on the other one is told of each of `revocations`, for as long as it
    /// is there.
    ///
    /// Answers within which span systemd wants to hear from it, and now from us.
    pub(super) fn serving(
        mut self,
        revocations: mpsc::Receiver<Revocation>,
    ) -> Result<Option<Duration>, StartError> {
        self.channel.say(&Message::Serving).map_err(HandOverError::from)?;
        let watched = match self.channel.hear(Some(PATIENCE))? {
            Message::Leaving { watchdog_usec } => watchdog_usec.map(Duration::from_micros),
            said => {
                let unexpected = HandOverError::Unexpected { said: Box::new(said), wanted: "that it leaves" };
                return Err(unexpected.into());
            }
        };
        let tell = move || {
            for revocation in revocations {
                if self.channel.say(&Message::from(revocation)).is_err() {
                    // It has ended, as it should.
                    return;
                }
            }
        };
        thread::Builder::new().name("gatepost-tell".to_owned()).spawn(tell).map_err(StartError::System)?;
        Ok(watched)
    }
}

/// The gateway that follows, as the old one sees it: it serves.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
}

/// Whether somebody wants this process to stop, asked now and then.
pub(super) type Asked<'a> = &'a mut dyn FnMut() -> bool;

impl App {
    /// Hands everything to the process at the other end. When that fails, this gateway goes on, if need be
    /// as soon as it has its store again.
    pub(super) fn hand_over(&mut self, stream: UnixStream, asked: Asked<'_>) -> Option<Successor> {
        let outcome = Channel::over(stream, PATIENCE).map_err(HandOverError::from);
        let outcome = outcome.and_then(|mut channel| {
            self.offer(&mut channel)?;
            channel.wait_for(&Message::CloseStore, "that the store is to be closed", PATIENCE)?;
            self.give_up_store();
            channel.say(&Message::StoreClosed)?;
            let (server, watchdog) = (&self.server, &mut self.watchdog);
            let asked = || {
                watchdog.beat(server.turns());
                asked()
            };
            wait_until_it_serves(&mut channel, asked)?;
            let watchdog_usec = self.watchdog.span().and_then(|span| u64::try_from(span.as_micros()).ok());
            channel.say(&Message::Leaving { watchdog_usec })?;
            Ok(Successor { channel })
        });
        match outcome {
            Ok(successor) => Some(successor),
            Err(error) => {
                tracing::error!(%error, "the other process does not take over: this one goes on");
                self.take_store_back();
                None
            }
        }
    }

    fn offer(&self, channel: &mut Channel) -> Result<(), HandOverError> {
        for (place, sockets) in self.server.sockets() {
            let sockets: Vec<_> = sockets.iter().map(std::os::fd::AsFd::as_fd).collect();
            channel.hand(place, &sockets)?;
        }
        channel.hand(ADMIN, &[self.admin.socket().as_fd()])?;
        let store = &self.settings().store.path;
        let store = store.canonicalize().unwrap_or_else(|_| store.clone());
        Ok(channel.say(&Message::Offered { store })?)
    }

    fn give_up_store(&mut self) {
        tracing::info!("the store is handed over: calls that need it are answered with 503");
        self.has_store = false;
        // The other one tells from here on: two would tell one account's events in two orders.
        drop(self.events.take());
        self.store.close();
    }

    /// Opens the store again, if this gateway has none. Not having it is no reason to stop what is proxied.
    pub(super) fn take_store_back(&mut self) {
        if self.has_store {
            return;
        }
        let options = store_options(&self.metrics);
        let opened =
            self.store.open_again(&self.settings().store, options).map_err(|error| error.to_string());
        let known = opened.and_then(|()| self.store.revocations().wait().map_err(|error| error.to_string()));
        match known {
            Ok(revocations) => {
                // The other one may have revoked something before it went away.
                for revocation in revocations {
                    self.desk.revocations().insert(revocation);
                }
                self.has_store = true;
                self.start_telling();
                self.republish();
                tracing::warn!("the store is open again: everything is answered");
            }
            Err(error) => {
                self.store.close();
                tracing::error!(error, "the store cannot be opened again yet");
            }
        }
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

    /// Lets connections end while the process that follows serves, then stops. With a signal to stop, or the
    /// end of that process, only requests under way are waited for; another signal ends that, too. Then the
    /// app is ended, if there is one; answers its exit code.
    pub fn leave(mut self, successor: Successor, signals: &mut Signals) -> Option<u8> {
        let settings = self.settings();
        self.readiness.drain();
        self.control.disown();
        // Certificates are the other one's to ask for.
        drop(self.acme.take());
        let listening = Listening::start(successor.channel, Arc::clone(self.desk.revocations()));
        if !self.server.leave() {
            tracing::warn!("a worker is slow to leave");
        }
        tracing::info!("another process has taken over");
        let server = &self.server;
        let over = || server.is_done() || listening.has_ended();
        let until = Instant::now() + settings.server.drain_timeout;
        signals.stop_within(settings.server.drain_timeout, over);
        if !self.server.is_done() {
            // Alone, we do not know what is revoked: nothing new is begun. Or we are to stop, or it is time.
            self.server.drain();
            let server = &self.server;
            let left = until.saturating_duration_since(Instant::now()).max(LAST);
            signals.stop_within(left, || server.is_done());
        }
        let code = self.hosted.take().map(|hosted| hosted.stop(signals, || {}));
        listening.stop();
        self.finish_left();
        code
    }
}

fn wait_until_it_serves(channel: &mut Channel, mut asked: impl FnMut() -> bool) -> Result<(), HandOverError> {
    let until = Instant::now() + OPENING;
    loop {
        match channel.wait_for(&Message::Serving, "that it serves", LOOK) {
            Err(HandOverError::Silent) if Instant::now() < until && !asked() => {}
            other => return other,
        }
    }
}

/// Hears what the process that follows has revoked.
struct Listening {
    stream: Option<UnixStream>,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Listening {
    fn start(mut channel: Channel, revocations: Arc<RevocationList>) -> Self {
        let (stream, ended) = (channel.handle().ok(), Arc::new(AtomicBool::new(false)));
        let says_ended = Arc::clone(&ended);
        let listen = move || {
            while let Ok(message) = channel.hear(None) {
                if let Some(revocation) = message.as_revocation() {
                    revocations.insert(revocation);
                }
            }
            says_ended.store(true, Ordering::SeqCst);
        };
        let thread = thread::Builder::new().name("gatepost-listen".to_owned()).spawn(listen);
        // Who hears nothing has to act as if the other one were gone.
        ended.fetch_or(thread.is_err(), Ordering::SeqCst);
        Self { stream, ended, thread: thread.ok() }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn stop(mut self) {
        if let (Some(stream), Some(thread)) = (self.stream.take(), self.thread.take()) {
            // It may be shut already.
            let _ = stream.shutdown(Shutdown::Both);
            drop(thread.join());
        }
    }
}
