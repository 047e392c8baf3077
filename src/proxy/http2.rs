//! Connections to upstream servers that speak HTTP/2 (RFC 9113).
//!
//! Requests of one worker share a connection, up to as many as the server allows. Here a task of its own
//! moves the bytes, since they are everybody's; a request that is given up resets its stream only.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::{HOST, TE};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::RequestBody;
use super::exchange::Failure;
use crate::burst::BurstStream;
use crate::deadline::Deadlines;

/// What one answer may have on its way to a client that does not read, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all answers of a connection.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// What one request may have on its way to a server that does not read, in bytes.
const SEND_BUFFER: usize = 256 << 10;
/// The largest frame that is taken: fewer and larger ones cost less.
const FRAME_MAX: u32 = 64 << 10;
/// An answer's header list, as RFC 9113 section 6.5.2 counts.
const HEADER_LIST_MAX: u32 = 64 << 10;
/// A connection with requests is asked whether it is alive when nothing has come for this long.
const PING_EVERY: Duration = Duration::from_secs(20);
/// And is given up when it does not say so in this time.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

type Driver = Connection<TokioIo<BurstStream>, RequestBody, Here>;

/// A connection that requests share.
pub(super) struct Http2Connection {
    sender: SendRequest<RequestBody>,
    /// What its task polls; none when the connection has ended. Requests that still wait in it are told.
    driver: Rc<RefCell<Option<Driver>>>,
    streams: Cell<usize>,
    /// It takes no more requests: it said so, or refused one.
    retired: Cell<bool>,
    /// Since when it has no stream, on the worker's clock.
    idle_since: Cell<u64>,
    clock: Rc<Deadlines>,
}

/// A place for one request on a connection.
#[derive(Debug)]
pub(super) struct Http2Link {
    connection: Rc<Http2Connection>,
}

/// Runs hyper's tasks on this worker.
#[derive(Clone, Copy, Debug)]
struct Here;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Http2Connection {
    /// Takes over a connection that nothing was said on.
    pub(super) async fn open(stream: BurstStream, clock: &Rc<Deadlines>) -> hyper::Result<Rc<Self>> {
        let (sender, connection) = Builder::new(Here)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_frame_size(FRAME_MAX)
            .max_header_list_size(HEADER_LIST_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = Rc::new(RefCell::new(Some(connection)));
        tokio::task::spawn_local(drive(Rc::clone(&driver)));
        Ok(Rc::new(Self {
            sender,
            driver,
            streams: Cell::new(0),
            retired: Cell::new(false),
            idle_since: Cell::new(clock.millis()),
            clock: Rc::clone(clock),
        }))
    }

    /// Whether it may be kept: it is open, and somebody uses it or may soon.
    pub(super) fn is_alive(&self) -> bool {
        !self.retired.get() && !self.sender.is_closed()
    }

    /// For how long nobody has used it, in milliseconds.
    pub(super) fn idle_for(&self, now: u64) -> u64 {
        if self.streams.get() > 0 { 0 } else { now.saturating_sub(self.idle_since.get()) }
    }

    /// A place on it, when there is one.
    pub(super) fn reserve(self: &Rc<Self>) -> Option<Http2Link> {
        let driver = self.driver.borrow();
        if !self.is_alive() || self.streams.get() >= driver.as_ref()?.current_max_send_streams() {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(Http2Link { connection: Rc::clone(self) })
    }
}

/// Moves a connection's bytes until it ends.
async fn drive(driver: Rc<RefCell<Option<Driver>>>) {
    let end = std::future::poll_fn(|cx| match &mut *driver.borrow_mut() {
        Some(connection) => Pin::new(connection).poll(cx),
        None => Poll::Ready(Ok(())),
    });
    if let Err(error) = end.await {
        tracing::debug!(%error, "an HTTP/2 connection to an upstream broke off");
    }
    driver.take();
}

impl std::fmt::Debug for Http2Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2Connection").field("streams", &self.streams).finish_non_exhaustive()
    }
}

impl Http2Link {
    pub(super) fn sender(&self) -> SendRequest<RequestBody> {
        self.connection.sender.clone()
    }

    /// The connection is for nobody new any more; its other requests go on.
    pub(super) fn retire(&self) {
        self.connection.retired.set(true);
    }
}

impl Drop for Http2Link {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.streams.set(connection.streams.get() - 1);
        connection.idle_since.set(connection.clock.millis());
    }
}

/// The request as HTTP/2 has it (RFC 9113 section 8.3.1): its host is a part of the target.
pub(super) fn request(
    parts: &Parts,
    body: RequestBody,
    scheme: &Scheme,
    takes_trailers: bool,
) -> Result<Request<RequestBody>, Failure> {
    let host = parts.headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let authority = Authority::try_from(host);
    let authority = authority.map_err(|_| Failure::Unacceptable("it has no name to be asked by"))?;
    let mut target = parts.uri.clone().into_parts();
    target.scheme = Some(scheme.clone());
    target.authority = Some(authority);
    let target = Uri::from_parts(target).map_err(|_| Failure::Unacceptable("it cannot be asked for this"))?;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = target;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = parts.headers.clone();
    request.headers_mut().remove(HOST);
    if takes_trailers {
        // The only value that HTTP/2 knows (section 8.2.2); gRPC servers ask for it.
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// What an error of the connection says about the request. `whole`: nothing of it is lost.
pub(super) fn classify(error: hyper::Error, link: &Http2Link, whole: bool) -> Failure {
    match cause(&error) {
        // Streams that the server has not looked at, by its own word (RFC 9113 sections 6.8 and 8.7).
        Some(h2) if is_unprocessed(h2) => {
            link.retire();
            if whole { Failure::NotSent } else { Failure::Closed(error.into()) }
        }
        Some(h2) if h2.is_io() || h2.is_go_away() => {
            link.retire();
            Failure::Closed(error.into())
        }
        Some(_) => Failure::Invalid(error.into()),
        None => {
            link.retire();
            Failure::Closed(error.into())
        }
    }
}

fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let leaving = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || leaving)
}

fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}
