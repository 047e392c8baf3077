//! A client connection that speaks HTTP/2 (RFC 9113): its life, its time limits, its streams.
//!
//! The h2 crate frames and judges; [`WatchedIo`] looks at the bytes before it; here it is decided how long
//! anything may take, and what happens when it took too long. The crate is used directly because an
//! answer's bytes are then handed over only when the client has opened its window for them: a client
//! that does not is noticed at its own stream, and what waits for it is bounded.

mod exchange;
mod io;
mod request;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::task::JoinSet;

use self::io::WatchedIo;
use super::accept::Opened;
use super::frames::{FrameCounter, Offence};
use super::worker::Worker;
use crate::deadline::Deadline;
use crate::metrics::ConnectionEnd;
use crate::proxy::Peer;
use crate::settings::Limits;

/// Request bytes of one stream that nobody has taken yet.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all streams of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Response bytes of one stream that wait for the socket.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest frame that we take (RFC 9113 section 6.5.2: the least that is allowed).
const FRAME: u32 = 16 * 1024;
/// How long the last words of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a connection, its bytes and its streams share.
struct Link {
    worker: Rc<Worker>,
    limits: Limits,
    peer: Peer,
    frames: RefCell<FrameCounter>,
    offence: Cell<Option<Offence>>,
    /// DATA frames that were handed over, about.
    data_frames: Cell<u64>,
    /// Bytes that were read in this turn.
    turn: Cell<usize>,
    /// Streams whose tasks run.
    streams: Cell<usize>,
    /// For the greeting, and for each head: header by header, it has to end.
    head: Deadline,
    /// For the next request.
    idle: Deadline,
    /// For a client that takes nothing of what was written.
    write: Deadline,
    /// For a connection's age, then for its end.
    age: Deadline,
}

impl Link {
    /// A stream has begun; it has ended when the guard is dropped.
    fn stream(self: &Rc<Self>) -> OpenStream {
        self.streams.set(self.streams.get() + 1);
        self.idle.clear();
        OpenStream(Rc::clone(self))
    }
}

struct OpenStream(Rc<Link>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        let left = self.0.streams.get() - 1;
        self.0.streams.set(left);
        if left == 0 {
            self.0.idle.set(self.0.limits.idle_timeout);
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum Stage {
    /// Everything is served.
    Serving,
    /// A GOAWAY was sent: what is under way ends, and what the client had sent already is served.
    Leaving,
    /// The client has had time to read it. Whatever comes now is refused.
    Left,
    /// The last GOAWAY; nothing is read any more.
    Ending,
}

/// Why a connection ended.
enum End {
    /// Properly.
    Closed,
    /// The time for it was over.
    TimedOut,
    /// By the client, or for what it sent.
    Broken(h2::Error),
}

/// Serves a connection until it ends.
pub(super) async fn serve(worker: Rc<Worker>, opened: Opened) {
    let Opened { open: _open, stream, read, peer, .. } = opened;
    let limits = worker.limits();
    let deadlines = worker.deadlines();
    let link = Rc::new(Link {
        limits,
        peer,
        frames: RefCell::new(FrameCounter::new(&limits, deadlines.millis())),
        offence: Cell::new(None),
        data_frames: Cell::new(0),
        turn: Cell::new(0),
        streams: Cell::new(0),
        head: deadlines.slot(),
        idle: deadlines.slot(),
        write: deadlines.slot(),
        age: deadlines.slot(),
        worker: Rc::clone(&worker),
    });
    let io = WatchedIo::new(stream, read, &link);
    let Some(connection) = greet(&link, io).await else { return };
    link.idle.set(limits.idle_timeout);
    if !limits.connection_age.is_zero() {
        link.age.set(limits.connection_age);
    }
    let mut driver = Driver { link, connection, streams: JoinSet::new(), stage: Stage::Serving };
    match poll_fn(|cx| driver.poll(cx)).await {
        End::Broken(error) if error.is_library() => {
            // The crate has bounds of its own, for what it can judge better: empty DATA, CONTINUATION.
            let calm = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
            worker.count_end(if calm { ConnectionEnd::H2Flood } else { ConnectionEnd::Rubbish });
            tracing::debug!(client = %driver.link.peer.address, %error, "a connection broke the rules of HTTP/2");
        }
        End::Broken(error) => {
            tracing::debug!(client = %driver.link.peer.address, %error, "a connection broke off");
        }
        End::Closed | End::TimedOut => {}
    }
}

/// Waits for the preface and says hello. Until then there is nothing to finish.
async fn greet(link: &Rc<Link>, io: WatchedIo) -> Option<Connection<WatchedIo, Bytes>> {
    let limits = &link.limits;
    let resets = limits.resets as usize;
    let mut handshake = pin!(
        Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(u32::try_from(limits.header_list_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(resets)
            .max_local_error_reset_streams(Some(resets))
            .enable_connect_protocol()
            .handshake(io)
    );
    link.head.set(limits.header_timeout);
    poll_fn(|cx| {
        link.turn.set(0);
        if let Poll::Ready(greeted) = handshake.as_mut().poll(cx) {
            if let Err(error) = &greeted {
                if !error.is_io() {
                    link.worker.count_end(ConnectionEnd::Rubbish);
                }
                tracing::debug!(client = %link.peer.address, %error, "no HTTP/2 connection came about");
            }
            return Poll::Ready(greeted.ok());
        }
        if link.head.poll_passed(cx).is_ready() {
            link.worker.count_end(ConnectionEnd::HeaderTimeout);
            return Poll::Ready(None);
        }
        if link.worker.is_draining() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// Moves a connection. Its streams end with it.
struct Driver {
    link: Rc<Link>,
    connection: Connection<WatchedIo, Bytes>,
    streams: JoinSet<()>,
    stage: Stage,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.link.turn.set(0);
        while let Poll::Ready(Some(_)) = self.streams.poll_join_next(cx) {}
        if self.link.worker.is_leaving() {
            self.leave();
        }
        if let Poll::Ready(end) = self.poll_deadlines(cx) {
            return Poll::Ready(end);
        }
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond),
                Poll::Ready(Some(Err(error))) if self.stage < Stage::Ending => {
                    return Poll::Ready(End::Broken(error));
                }
                Poll::Ready(_) => return Poll::Ready(End::Closed),
                Poll::Pending => match self.link.offence.take() {
                    Some(offence) => self.punish(offence),
                    None => return Poll::Pending,
                },
            }
        }
    }

    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if self.stage >= Stage::Left {
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        let stream = self.link.stream();
        let link = Rc::clone(&self.link);
        self.streams.spawn_local(async move {
            let _open = stream;
            exchange::serve(&link, request, respond).await;
        });
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let link = Rc::clone(&self.link);
        if link.write.poll_passed(cx).is_ready() {
            // It would not take a farewell either.
            link.worker.count_end(ConnectionEnd::WriteStall);
            return Poll::Ready(End::TimedOut);
        }
        if link.head.poll_passed(cx).is_ready() {
            link.head.clear();
            link.worker.count_end(ConnectionEnd::HeaderTimeout);
            self.end(Reason::NO_ERROR);
        }
        if link.idle.poll_passed(cx).is_ready() {
            link.idle.clear();
            if self.stage == Stage::Serving {
                link.worker.count_end(ConnectionEnd::IdleTimeout);
            }
            self.leave();
        }
        if link.age.poll_passed(cx).is_ready() {
            match self.stage {
                Stage::Serving => {
                    link.worker.count_end(ConnectionEnd::ConnectionAge);
                    self.leave();
                }
                Stage::Leaving => self.stage = Stage::Left,
                Stage::Left if link.streams.get() == 0 => self.end(Reason::NO_ERROR),
                // What is under way may take its time; the end of it wakes this task.
                Stage::Left => {}
                Stage::Ending => return Poll::Ready(End::TimedOut),
            }
            if self.stage == Stage::Left && link.streams.get() == 0 {
                self.end(Reason::NO_ERROR);
            }
            // Registered again, as its time may have been set anew.
            let _ = link.age.poll_passed(cx);
        }
        Poll::Pending
    }

    /// Says that no new requests are wanted, and lets the ones under way end.
    fn leave(&mut self) {
        if self.stage == Stage::Serving {
            self.stage = Stage::Leaving;
            self.connection.graceful_shutdown();
            self.link.age.set(self.link.limits.header_timeout);
        }
    }

    /// Ends it here.
    fn end(&mut self, reason: Reason) {
        if self.stage < Stage::Ending {
            self.stage = Stage::Ending;
            self.streams.abort_all();
            self.connection.abrupt_shutdown(reason);
            self.link.age.set(GOODBYE);
        }
    }

    fn punish(&mut self, offence: Offence) {
        let (end, reason) = match offence {
            Offence::Greeting => (ConnectionEnd::Rubbish, Reason::PROTOCOL_ERROR),
            _ => (ConnectionEnd::H2Flood, Reason::ENHANCE_YOUR_CALM),
        };
        if self.stage < Stage::Ending {
            self.link.worker.count_end(end);
            tracing::debug!(client = %self.link.peer.address, frames = %offence, "too many frames, or wrong ones");
        }
        self.end(reason);
    }
}
