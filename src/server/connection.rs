//! One client connection: its bytes, its time limits, and hyper in between.
//!
//! hyper's own header timeout makes and drops a timer for each request, and it has none for what
//! comes after the head. Here a connection has one place in its worker's table of
//! [deadlines](crate::deadline) for its whole life; a request moves it and costs nothing more.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Fault, FramingTracker};
use super::worker::Worker;
use crate::burst::BurstStream;
use crate::deadline::Deadline;
use crate::gateway::{Arrival, Body};
use crate::message::inbound::HeadRemark;
use crate::metrics::ConnectionEnd;
use crate::proxy::{BodyError, Peer};
use crate::settings::Limits;
use crate::stream::Stream;

/// Bytes that are looked at before hyper gets them, at a time.
const SCRATCH: usize = 8 * 1024;
/// Response bytes that may wait for a slow reader, and request bytes that hyper reads ahead.
const BUFFER_MAX: usize = 64 * 1024;
/// What is read and thrown away so that an early answer arrives (RFC 9112 section 9.6).
const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// How long that may take.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// What a connection is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of its head.
    Head,
    /// Its answer.
    Request,
    /// The client to stop sending.
    Linger,
}

/// What the connection, its requests and its bytes share.
#[derive(Debug)]
struct State {
    peer: Peer,
    phase: Cell<Phase>,
    deadline: Deadline,
    limits: Limits,
    framing: RefCell<FramingTracker>,
    requests: Cell<u64>,
}

impl State {
    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        match phase {
            Phase::Idle => self.deadline.set(self.limits.idle_timeout),
            Phase::Head => self.deadline.set(self.limits.header_timeout),
            Phase::Request => self.deadline.clear(),
            Phase::Linger => self.deadline.set(LINGER_TIME),
        }
    }

    /// A head has become a request.
    fn begin(&self) -> Option<HeadRemark> {
        let number = self.requests.get();
        self.requests.set(number + 1);
        self.enter(Phase::Request);
        self.framing.borrow_mut().take_remark(number)
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve(worker: Rc<Worker>, stream: Stream, address: IpAddr, port: Option<u16>) {
    let _open = worker.count_connection();
    let limits = worker.limits();
    let state = Rc::new(State {
        peer: Peer {
            address: address.to_canonical(),
            address_value: header_value(&address.to_canonical().to_string()),
            port_value: port.map(HeaderValue::from),
        },
        phase: Cell::new(Phase::Head),
        deadline: worker.deadlines().slot(),
        limits,
        framing: RefCell::new(FramingTracker::new(limits.header_bytes)),
        requests: Cell::new(0),
    });
    state.enter(Phase::Head);

    let io = ClientIo {
        stream: TokioIo::new(Counting { stream: BurstStream::new(stream, worker.bursts()), read: 0 }),
        state: Rc::clone(&state),
        fault: None,
        told: false,
        shut: false,
        discarded: 0,
    };
    let service = {
        let (worker, state) = (Rc::clone(&worker), Rc::clone(&state));
        service_fn(move |request| answer(Rc::clone(&worker), Rc::clone(&state), request))
    };
    let mut connection = http1::Builder::new();
    connection
        .half_close(false)
        .header_read_timeout(None)
        .max_buf_size(BUFFER_MAX.max(limits.header_bytes * 2 + 1024))
        .max_header_size(limits.header_bytes * 2);
    let mut connection = std::pin::pin!(connection.serve_connection(io, service));

    let mut told = false;
    let end = std::future::poll_fn(|cx| {
        if worker.is_draining() && !told {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(end) = connection.as_mut().poll(cx) {
            return Poll::Ready(Ok(end));
        }
        state.deadline.poll_passed(cx).map(Err)
    })
    .await;
    match end {
        Ok(Err(error)) if error.is_parse() => {
            worker.count_end(ConnectionEnd::Rubbish);
            tracing::debug!(client = %state.peer.address, %error, "a connection sent what is not a request");
        }
        Ok(Err(error)) => tracing::debug!(client = %state.peer.address, %error, "a connection broke off"),
        Err(()) if state.phase.get() == Phase::Head => worker.count_end(ConnectionEnd::HeaderTimeout),
        Ok(Ok(())) | Err(()) => {}
    }
}

/// Answers one request. hyper keeps the place for this future for as long as the connection is open.
async fn answer(
    worker: Rc<Worker>,
    state: Rc<State>,
    request: Request<Incoming>,
) -> Result<Response<Tracked>, Infallible> {
    let arrival = Arrival { peer: &state.peer, remark: state.begin() };
    let response: Response<Body> = worker.gateway().handle(request, arrival).await;
    let connection = Rc::clone(&state);
    Ok(response.map(|body| Tracked { body, connection }))
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// A socket that counts what is read: hyper's buffers cannot be asked.
struct Counting {
    stream: BurstStream,
    read: u64,
}

impl AsyncRead for Counting {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.read += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

/// The client's socket, read along by the framing tracker.
struct ClientIo {
    stream: TokioIo<Counting>,
    state: Rc<State>,
    fault: Option<Fault>,
    /// Whether hyper was told of the fault.
    told: bool,
    shut: bool,
    discarded: usize,
}

impl ClientIo {
    fn stream(&mut self) -> Pin<&mut BurstStream> {
        Pin::new(&mut self.stream.inner_mut().stream)
    }

    /// Reads through a buffer of our own and looks at every byte.
    fn poll_read_inspected(
        &mut self,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut scratch = [const { MaybeUninit::uninit() }; SCRATCH];
        let room = buf.remaining().min(SCRATCH);
        let mut read = ReadBuf::uninit(&mut scratch[..room]);
        ready!(self.stream().poll_read(cx, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.state.phase.get() == Phase::Idle {
            self.state.enter(Phase::Head);
        }
        let Err(fault) = self.state.framing.borrow_mut().read(bytes) else {
            buf.put_slice(bytes);
            return Poll::Ready(Ok(()));
        };
        tracing::debug!(client = %self.state.peer.address, violation = ?fault.violation, "ambiguous framing");
        self.fault = Some(fault);
        if fault.good == 0 {
            return self.poll_broken(buf, fault);
        }
        buf.put_slice(&bytes[..fault.good]);
        Poll::Ready(Ok(()))
    }

    /// Ends the reading. A NUL belongs into no head, so hyper answers 400 and closes; a body breaks off.
    /// Nothing that comes later is read: hyper and the tracker no longer agree on what it would be.
    fn poll_broken(&mut self, mut buf: ReadBufCursor<'_>, fault: Fault) -> Poll<io::Result<()>> {
        if fault.in_head && !self.told {
            self.told = true;
            buf.put_slice(b"\0");
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "ambiguous framing")))
    }

    /// Reads and forgets, so that the answer is not lost in a reset (RFC 9112 section 9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [const { MaybeUninit::uninit() }; SCRATCH];
        while self.discarded < LINGER_BYTES {
            let mut read = ReadBuf::uninit(&mut scratch);
            ready!(self.stream().poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                break;
            }
            self.discarded += read.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Read for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(fault) = this.fault {
            return this.poll_broken(buf, fault);
        }
        let room = buf.remaining();
        let body = this.state.framing.borrow().opaque();
        if body < room as u64 {
            return this.poll_read_inspected(cx, buf);
        }
        // All of it is body: no look, no copy.
        this.stream.inner_mut().read = 0;
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = this.stream.inner().read;
        this.state.framing.borrow_mut().skip(read);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(self.stream().poll_shutdown(cx))?;
            self.shut = true;
            let whole = self.state.framing.borrow().is_between_requests();
            if whole {
                return Poll::Ready(Ok(()));
            }
            self.state.enter(Phase::Linger);
        }
        self.poll_linger(cx)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, slices)
    }
}

/// A response body that tells its connection when it is over.
struct Tracked {
    body: Body,
    connection: Rc<State>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // The next head may have begun to arrive already.
        let between = self.connection.framing.borrow().is_between_requests();
        self.connection.enter(if between { Phase::Idle } else { Phase::Head });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_serving<F: Future>(_: impl Fn(Rc<Worker>, Stream, IpAddr, Option<u16>) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_answering<F: Future>(_: impl Fn(Rc<Worker>, Rc<State>, Request<Incoming>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        // Both are allocated when a connection is accepted and kept while it waits: a kilobyte more here
        // is ten megabytes with ten thousand idle connections. What only some requests need is boxed.
        let (serving, answering) = (size_of_serving(serve), size_of_answering(answer));
        assert!(serving <= 1_100, "{serving} bytes to serve a connection");
        assert!(answering <= 4_000, "{answering} bytes to answer on it");
    }
}
