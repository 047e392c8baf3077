//! The driver of a client's HTTP/1.1 connection: a head, its answer, the next head.
//!
//! One task drives it, and nothing but the task's own future is made for a request: the handler runs
//! in place, a request's body is read by whoever wants it ([`Incoming`]), an answer's body is polled
//! here. A connection that waits holds no buffer: what comes in is read into one that the worker's
//! connections share, and only what is left over is kept. Timeouts are one place in the worker's table
//! of [deadlines](crate::deadline), for the connection's whole life.
//!
//! While a request is answered the reading side is watched: a client that closes it is gone, and what
//! was begun for it is dropped. Whatever it sends instead waits until the answer is written.

mod answer;
mod incoming;
mod shared;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{Method, Request, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::answer::{Answer, Facts};
use self::incoming::Incoming;
use super::accept::{Opened, Service, answer_plain};
use super::worker::{OpenConnection, Worker};
use crate::burst::BurstStream;
use crate::deadline::Deadline;
use crate::gateway::{Arrival, Body};
use crate::http1::{
    BodyFault, BodyLength, Decoded, Decoder, HeadFault, HeadLimits, HeadSearch, RequestHead, parse_request,
};
use crate::message::body::ClientBody;
use crate::message::inbound::HeadRemark;
use crate::metrics::ConnectionEnd;
use crate::proxy::Peer;
use crate::settings::Limits;

pub(super) use self::shared::Http1Shared;

/// What is read of the next requests while one is being answered.
const AHEAD_MAX: usize = 16 * 1024;
/// What is left of a request's body after its answer is read up to here, to keep the connection.
const DRAIN_BYTES: u64 = 64 * 1024;
/// What is read and thrown away so that an early answer arrives (RFC 9112 section 9.6).
const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// How long each of these may take.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A connection, as its driver and the body that is read from it share it.
struct Connection {
    worker: Rc<Worker>,
    peer: Peer,
    service: Service,
    limits: Limits,
    deadline: Deadline,
    /// On the worker's clock.
    born: u64,
    io: RefCell<Io>,
}

/// The socket, and how far its bytes are understood.
struct Io {
    stream: BurstStream,
    /// What was read and not used yet. Owns nothing while the connection waits.
    buffer: BytesMut,
    search: HeadSearch,
    /// The body of the request that is being answered.
    body: Decoder,
    /// Which request's body that is: who still holds an earlier one has nothing to look for here.
    number: u64,
    /// Somebody has that body and may read on.
    held: bool,
    /// When some of it was last read, on the worker's clock.
    moved: u64,
    /// Waits for that body to be given back: who holds it may be another task.
    waiter: Option<Waker>,
    /// Whether the client still has to be told to send it, and how much of that is written.
    go_ahead: Option<usize>,
    /// The body broke off or never came: nothing can follow it.
    spoilt: bool,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// Everything was answered, and nobody wants more.
    Finished,
    /// After an answer that may have come before its request was read: the client may still be sending.
    Lingering,
    /// The client is gone, or the connection broke.
    Gone(io::ErrorKind),
    /// What it sent is not a request.
    Fault(HeadFault),
    /// A limit was reached.
    Limit(ConnectionEnd),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Gone(error.kind())
    }
}

/// Serves a connection until it ends.
pub(super) fn serve(worker: Rc<Worker>, opened: Opened) -> impl Future<Output = ()> {
    let Opened { open, stream, read, peer, service } = opened;
    let io = Io {
        stream: BurstStream::new(stream, worker.bursts()),
        buffer: read,
        search: HeadSearch::default(),
        body: Decoder::new(BodyLength::None),
        number: 0,
        held: false,
        moved: 0,
        waiter: None,
        go_ahead: None,
        spoilt: false,
    };
    let connection = Rc::new(Connection {
        peer,
        service,
        limits: worker.limits(),
        deadline: worker.deadlines().slot(),
        born: worker.deadlines().millis(),
        io: RefCell::new(io),
        worker,
    });
    drive(connection, open)
}

async fn drive(connection: Rc<Connection>, _open: OpenConnection) {
    // The first head is awaited like one that has begun: there is no reason to connect before.
    connection.deadline.set(connection.limits.header_timeout);
    let mut is_first = true;
    let end = loop {
        match exchange(&connection, is_first).await {
            Ok(()) => is_first = false,
            Err(end) => break end,
        }
    };
    connection.note(&end);
    match end {
        End::Gone(_) | End::Limit(_) => {}
        End::Finished | End::Lingering => Box::pin(close(&connection, matches!(end, End::Lingering))).await,
        End::Fault(fault) => Box::pin(refuse(&connection, fault)).await,
    }
}

/// One request and its answer; `Ok` when another one may follow.
async fn exchange(connection: &Rc<Connection>, is_first: bool) -> Result<(), End> {
    let mut is_waiting = !is_first && connection.begin_waiting();
    let head = std::future::poll_fn(|cx| connection.poll_head(cx, &mut is_waiting)).await?;
    let facts = Facts {
        is_head: head.parts.method == Method::HEAD,
        is_old: head.parts.version == Version::HTTP_10,
        keep_alive: head.keep_alive,
    };
    let (parts, body) = respond(connection, head).await?.into_parts();
    if let Body::Tunnel(tunnel) = body {
        answer::switch(connection, &parts).await?;
        let leftover = std::mem::take(&mut connection.io.borrow_mut().buffer).freeze();
        Box::pin(tunnel.run(Handed(Rc::clone(connection)), leftover)).await;
        return Err(End::Finished);
    }
    let mut answer = Answer::new(connection, parts, body, facts);
    std::future::poll_fn(|cx| answer.poll(cx)).await?;
    if answer.stays() && !connection.io.borrow().body.is_ended() {
        await_upload(connection).await?;
    }
    let stays = answer.stays();
    drop(answer);
    if !stays {
        return Err(End::Lingering);
    }
    if !connection.io.borrow().body.is_ended() {
        connection.deadline.set(LINGER_TIME);
        std::future::poll_fn(|cx| connection.poll_drain(cx)).await?;
    }
    Ok(())
}

/// The answer came before its request was read: waits while somebody still reads that.
async fn await_upload(connection: &Rc<Connection>) -> Result<(), End> {
    let clock = connection.worker.deadlines();
    let (deadline, limit) = (clock.slot(), connection.limits.body_idle);
    deadline.set(limit);
    std::future::poll_fn(|cx| {
        let io = &mut *connection.io.borrow_mut();
        if io.body.is_ended() || !io.held {
            return Poll::Ready(Ok(()));
        }
        io.waiter = Some(cx.waker().clone());
        ready!(deadline.poll_passed(cx));
        let still = Duration::from_millis(clock.millis().saturating_sub(io.moved));
        let left = limit.saturating_sub(still);
        if left.is_zero() {
            return Poll::Ready(Err(End::Limit(ConnectionEnd::BodyIdle)));
        }
        deadline.set(left);
        deadline.poll_passed(cx).map(|()| Ok(()))
    })
    .await
}

/// Has the request answered, unless its client goes away before.
fn respond(
    connection: &Rc<Connection>,
    head: RequestHead,
) -> impl Future<Output = Result<Response<Body>, End>> {
    let remark = head.remark;
    if remark == Some(HeadRemark::TooLarge) {
        connection.worker.count_end(ConnectionEnd::HeaderTooLarge);
    }
    let body = match head.length {
        BodyLength::None => ClientBody::Empty,
        _ => ClientBody::streamed(Incoming::new(Rc::clone(connection))),
    };
    let request = Request::from_parts(head.parts, body);
    let plain = answer_plain(&connection.worker, connection.service, &request);
    // What is not in the async block is not kept while it waits.
    async move {
        if let Some(response) = plain {
            return Ok(response);
        }
        let gateway = connection.worker.gateway();
        let arrival = Arrival { peer: &connection.peer, remark };
        let mut handling = std::pin::pin!(gateway.handle(request, arrival));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(response) = handling.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            connection.io.borrow_mut().poll_gone(&connection.worker, cx).map(Err)
        })
        .await
    }
}

impl Connection {
    /// Between two requests; whether nothing of the next one has come yet.
    fn begin_waiting(&self) -> bool {
        let io = &mut *self.io.borrow_mut();
        if io.buffer.is_empty() {
            io.buffer = BytesMut::new();
            let idle = self.limits.idle_timeout;
            self.deadline.set(self.remaining_age().map_or(idle, |age| age.min(idle)));
            return true;
        }
        self.deadline.set(self.limits.header_timeout);
        false
    }

    /// How long the connection may still be given requests; `None` where there is no limit.
    fn remaining_age(&self) -> Option<Duration> {
        let limit = self.limits.connection_age;
        let age = self.worker.deadlines().millis().saturating_sub(self.born);
        (!limit.is_zero()).then(|| limit.saturating_sub(Duration::from_millis(age)))
    }

    /// Whether this connection is given no further requests.
    fn is_aged(&self) -> bool {
        self.remaining_age().is_some_and(|left| left.is_zero())
    }

    /// The next request's head. `is_waiting`: nothing of it has arrived yet.
    fn poll_head(&self, cx: &mut Context<'_>, is_waiting: &mut bool) -> Poll<Result<RequestHead, End>> {
        let io = &mut *self.io.borrow_mut();
        let shared = self.worker.http1();
        let limits = HeadLimits { bytes: self.limits.header_bytes, count: self.limits.header_count };
        let mut spare = shared.take_map();
        if !io.buffer.is_empty()
            && let Some((length, head)) =
                parse_request(&io.buffer, &mut io.search, &mut spare, limits).map_err(End::Fault)?
        {
            io.buffer.advance(length);
            self.begin(io, &head);
            return Poll::Ready(Ok(head));
        }
        let outcome = loop {
            if self.worker.is_draining() && io.buffer.is_empty() {
                break Poll::Ready(Err(End::Finished));
            }
            let scratch = &mut *shared.scratch();
            let read = match io.poll_read(cx, scratch) {
                Poll::Pending => break self.poll_late(cx, *is_waiting).map(Err),
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error.into())),
                Poll::Ready(Ok(0)) if io.buffer.is_empty() => break Poll::Ready(Err(End::Finished)),
                Poll::Ready(Ok(0)) => {
                    break Poll::Ready(Err(End::Gone(io::ErrorKind::UnexpectedEof)));
                }
                Poll::Ready(Ok(read)) => &scratch[..read],
            };
            if std::mem::take(is_waiting) {
                self.deadline.set(self.limits.header_timeout);
            }
            // Most heads come whole: then they are parsed where they are, and no buffer is made.
            let is_start = io.buffer.is_empty();
            if !is_start {
                io.buffer.extend_from_slice(read);
            }
            let bytes = if is_start { read } else { &io.buffer };
            match parse_request(bytes, &mut io.search, &mut spare, limits) {
                Ok(None) if is_start => io.buffer.extend_from_slice(read),
                Ok(None) => {}
                Ok(Some((length, head))) => {
                    if is_start {
                        io.buffer.extend_from_slice(&read[length..]);
                    } else {
                        io.buffer.advance(length);
                    }
                    self.begin(io, &head);
                    break Poll::Ready(Ok(head));
                }
                Err(fault) => break Poll::Ready(Err(End::Fault(fault))),
            }
        };
        shared.give_map(spare);
        outcome
    }

    /// Nothing has come; whether it had to by now.
    fn poll_late(&self, cx: &Context<'_>, is_waiting: bool) -> Poll<End> {
        ready!(self.deadline.poll_passed(cx));
        Poll::Ready(End::Limit(if !is_waiting {
            ConnectionEnd::HeaderTimeout
        } else if self.is_aged() {
            ConnectionEnd::ConnectionAge
        } else {
            ConnectionEnd::IdleTimeout
        }))
    }

    /// A head has become a request.
    fn begin(&self, io: &mut Io, head: &RequestHead) {
        self.deadline.clear();
        io.body = Decoder::new(head.length);
        io.number += 1;
        io.go_ahead = (head.expects_continue && !io.body.is_ended()).then_some(0);
    }

    /// Reads what is left of a body that nobody wants, to come to the next request.
    fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let io = &mut *self.io.borrow_mut();
        let mut read = 0;
        loop {
            match io.body.decode(&mut io.buffer) {
                Ok(Decoded::Data(data)) => read += data.len() as u64,
                Ok(Decoded::Trailers(_) | Decoded::End) => return Poll::Ready(Ok(())),
                Err(BodyFault::Cut) | Ok(Decoded::NeedMore) if read <= DRAIN_BYTES => {
                    let scratch = &mut *self.worker.http1().scratch();
                    match io.poll_read(cx, scratch) {
                        Poll::Ready(Ok(length)) if length > 0 => {
                            io.buffer.extend_from_slice(&scratch[..length]);
                        }
                        Poll::Ready(_) => return Poll::Ready(Err(End::Lingering)),
                        Poll::Pending => return self.deadline.poll_passed(cx).map(|()| Err(End::Lingering)),
                    }
                }
                Ok(Decoded::NeedMore) | Err(_) => return Poll::Ready(Err(End::Lingering)),
            }
        }
    }

    /// Counts an end that has a reason, and says why.
    fn note(&self, end: &End) {
        let client = self.peer.address;
        match end {
            End::Finished | End::Lingering => {}
            End::Gone(kind) => tracing::debug!(%client, ?kind, "a connection broke off"),
            End::Fault(fault) => {
                self.worker.count_end(match fault {
                    HeadFault::TooLarge => ConnectionEnd::HeaderTooLarge,
                    _ => ConnectionEnd::Rubbish,
                });
                tracing::debug!(%client, %fault, "a connection sent what is not a request");
            }
            End::Limit(reason) => {
                self.worker.count_end(*reason);
                tracing::debug!(%client, ?reason, "a connection reached a limit");
            }
        }
    }
}

impl Io {
    /// Reads once; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(into);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Ready when the client has closed its side or the connection broke. What comes instead is kept for
    /// later, up to a bound: else one byte would be enough to hide the end behind it.
    fn poll_gone(&mut self, worker: &Worker, cx: &mut Context<'_>) -> Poll<End> {
        // Whoever holds the body reads it, and sees its end.
        if !self.body.is_ended() {
            return Poll::Pending;
        }
        let scratch = &mut *worker.http1().scratch();
        while self.buffer.len() < AHEAD_MAX {
            match ready!(self.poll_read(cx, scratch)) {
                Ok(0) => return Poll::Ready(End::Gone(io::ErrorKind::UnexpectedEof)),
                Ok(read) => self.buffer.extend_from_slice(&scratch[..read]),
                Err(error) => return Poll::Ready(error.into()),
            }
        }
        Poll::Pending
    }
}

/// The bare answer to what is not a request, and the end.
async fn refuse(connection: &Rc<Connection>, fault: HeadFault) {
    let status = match fault {
        HeadFault::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    let facts = Facts { is_head: false, is_old: false, keep_alive: false };
    let mut answer = Answer::new(connection, parts, Body::Own(None), facts);
    if std::future::poll_fn(|cx| answer.poll(cx)).await.is_ok() {
        close(connection, true).await;
    }
}

/// Ends the connection so that the answer arrives: what the client still sends is read and forgotten for
/// a while, since closing on it would take the answer back (RFC 9112 section 9.6).
async fn close(connection: &Rc<Connection>, lingers: bool) {
    connection.deadline.set(connection.limits.write_stall);
    let shut = std::future::poll_fn(|cx| {
        let outcome = Pin::new(&mut connection.io.borrow_mut().stream).poll_shutdown(cx);
        match outcome {
            Poll::Ready(outcome) => Poll::Ready(outcome.is_ok()),
            Poll::Pending => connection.deadline.poll_passed(cx).map(|()| {
                connection.worker.count_end(ConnectionEnd::WriteStall);
                false
            }),
        }
    })
    .await;
    if !shut || !lingers {
        return;
    }
    let expects_more = {
        let io = connection.io.borrow();
        !io.body.is_ended() || !io.buffer.is_empty() || io.spoilt
    };
    connection.io.borrow_mut().buffer = BytesMut::new();
    connection.deadline.set(LINGER_TIME);
    let mut forgotten = 0;
    std::future::poll_fn(|cx| {
        loop {
            let scratch = &mut *connection.worker.http1().scratch();
            match connection.io.borrow_mut().poll_read(cx, scratch) {
                Poll::Ready(Ok(read)) if read > 0 && forgotten < LINGER_BYTES => forgotten += read,
                Poll::Ready(_) => return Poll::Ready(()),
                // Its last word was the request that was answered: nothing is on its way.
                Poll::Pending if forgotten == 0 && !expects_more => return Poll::Ready(()),
                Poll::Pending => return connection.deadline.poll_passed(cx),
            }
        }
    })
    .await;
}

/// The connection, for whoever it is handed over to.
struct Handed(Rc<Connection>);

impl AsyncRead for Handed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.io.borrow_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Handed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.io.borrow_mut().stream).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.io.borrow_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.io.borrow_mut().stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.io.borrow_mut().stream).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_driving<F: Future>(_: impl Fn(Rc<Connection>, OpenConnection) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        // Both are allocated when a connection is accepted and kept while it waits: a kilobyte more here
        // is ten megabytes with ten thousand idle connections. What only some requests need is boxed.
        let (driving, connection) = (size_of_driving(drive), size_of::<Connection>());
        assert!(driving <= 7_500, "{driving} bytes to drive a connection");
        assert!(connection <= 800, "{connection} bytes to know it");
    }
}
