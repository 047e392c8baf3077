//! Connections to upstream servers, and the ones that wait to be used again.
//!
//! A [`Link`] is a hyper client connection together with the handle that sends on it. No task of its
//! own drives it: whoever uses it polls it, so a request and its answer are moved by one task, with
//! no wake-up from one task to another in between. While a link waits in the pool nobody polls it;
//! whether the server has closed it is looked at when it is taken, and what waits too long is closed.
//! Pools belong to one worker.

use std::cell::{Cell, Ref, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::HeaderValue;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::unconstrained;

use super::body::RequestBody;
use crate::burst::{BurstStream, Bursts};
use crate::deadline::Deadlines;
use crate::settings::{Endpoint, UpstreamSettings};
use crate::stream::Stream;

/// Connections that wait, per server and worker.
const IDLE_MAX: usize = 256;
/// An upstream's response head is refused beyond this.
const HEAD_MAX: usize = 64 * 1024;

/// What was written of a request, while it may have to be sent again. The vector is used again and
/// again: remembering a request is a copy of some hundred bytes, and costs no allocation.
#[derive(Debug, Default)]
pub(super) struct Sent {
    wanted: Cell<bool>,
    bytes: RefCell<Vec<u8>>,
}

impl Sent {
    fn note(&self, bytes: &[u8]) {
        if self.wanted.get() {
            self.bytes.borrow_mut().extend_from_slice(bytes);
        }
    }
}

/// The server's socket, whose writes can be remembered.
#[derive(Debug)]
pub(super) struct ServerIo {
    stream: BurstStream,
    sent: Rc<Sent>,
}

/// One connection to an upstream server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) connection: Connection<TokioIo<ServerIo>, RequestBody>,
    /// On the worker's clock.
    idle_since: u64,
    sent: Rc<Sent>,
}

impl Link {
    /// Whether to remember what is written from here on. What was written before is forgotten.
    pub(super) fn remember(&self, wanted: bool) {
        self.sent.bytes.borrow_mut().clear();
        self.sent.wanted.set(wanted);
    }

    /// What was written since; empty when that was not wanted.
    pub(super) fn sent(&self) -> Ref<'_, Vec<u8>> {
        self.sent.bytes.borrow()
    }

    /// Lets the connection do what it can without waiting; whether it can take a request now.
    fn is_usable(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Outside the task's budget: a budget used up elsewhere would look like "not ready".
        let mut look = unconstrained(std::future::poll_fn(|cx| Pin::new(&mut self.connection).poll(cx)));
        Pin::new(&mut look).poll(&mut cx).is_pending() && self.sender.is_ready()
    }
}

/// The servers of one `[[upstream]]`.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) name: Rc<str>,
    pub(super) timeout: Duration,
    /// Whether the app sees the client's `Host`, or else the server's own name.
    pub(super) preserve_host: bool,
    connect_timeout: Duration,
    servers: Vec<Rc<Server>>,
    next: Cell<usize>,
}

/// One server of an upstream.
#[derive(Debug)]
pub(super) struct Server {
    endpoint: Endpoint,
    /// For `host = "upstream"`.
    pub(super) host: HeaderValue,
    idle_millis: u64,
    #[expect(clippy::vec_box, reason = "links travel through futures; as a pointer they do it for nothing")]
    idle: RefCell<Vec<Box<Link>>>,
    clock: Rc<Deadlines>,
    bursts: Rc<Bursts>,
}

impl Upstream {
    pub(super) fn new(settings: &UpstreamSettings, clock: &Rc<Deadlines>, bursts: &Rc<Bursts>) -> Self {
        let server = |endpoint: &Endpoint| {
            Rc::new(Server {
                endpoint: endpoint.clone(),
                host: host_value(endpoint),
                idle_millis: u64::try_from(settings.idle.as_millis()).unwrap_or(u64::MAX),
                idle: RefCell::default(),
                clock: Rc::clone(clock),
                bursts: Rc::clone(bursts),
            })
        };
        Self {
            name: settings.name.as_str().into(),
            timeout: settings.timeout,
            preserve_host: settings.host == crate::settings::UpstreamHost::Preserve,
            connect_timeout: settings.connect_timeout,
            servers: settings.servers.iter().map(server).collect(),
            next: Cell::new(0),
        }
    }

    /// The server whose turn it is.
    pub(super) fn server(&self) -> &Rc<Server> {
        let turn = self.next.get();
        self.next.set(turn.wrapping_add(1));
        &self.servers[turn % self.servers.len()]
    }

    /// How many servers there are to try.
    pub(super) const fn servers(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn close_idle(&self, now: u64) {
        for server in &self.servers {
            let mut idle = server.idle.borrow_mut();
            idle.retain(|link| now.saturating_sub(link.idle_since) <= server.idle_millis);
        }
    }

    pub(super) const fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }
}

impl Server {
    /// A connection that waits and is still good, the one used last first.
    pub(super) fn take(&self, now: u64) -> Option<Box<Link>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut link) = idle.pop() {
            if now.saturating_sub(link.idle_since) > self.idle_millis {
                idle.clear(); // the others have waited longer
                return None;
            }
            if link.is_usable() {
                return Some(link);
            }
        }
        None
    }

    /// Takes a connection back when it is good for another request; else it is closed.
    pub(super) fn put(&self, mut link: Box<Link>) {
        if !link.is_usable() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            link.idle_since = self.clock.millis();
            idle.push(link);
        }
    }

    /// A new connection.
    pub(super) async fn connect(&self, timeout: Duration) -> Result<Box<Link>, ConnectError> {
        let stream = match tokio::time::timeout(timeout, self.endpoint.connect()).await {
            Ok(stream) => stream?,
            Err(_) => return Err(ConnectError::Timeout),
        };
        let sent = Rc::new(Sent::default());
        let io =
            TokioIo::new(ServerIo { stream: BurstStream::new(stream, &self.bursts), sent: Rc::clone(&sent) });
        let handshake = Builder::new().max_buf_size(HEAD_MAX).handshake(io).await;
        let (sender, connection) = handshake.map_err(|error| ConnectError::Io(io::Error::other(error)))?;
        Ok(Box::new(Link { sender, connection, idle_since: self.clock.millis(), sent }))
    }
}

/// What `host = "upstream"` says to a server.
pub(super) fn host_value(endpoint: &Endpoint) -> HeaderValue {
    let authority = match endpoint {
        Endpoint::Tcp(authority) => HeaderValue::from_str(authority).ok(),
        Endpoint::Unix(_) => None,
    };
    authority.unwrap_or(HeaderValue::from_static("localhost"))
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server refuses, does not exist, or the system has no sockets left.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// `connect_timeout` has passed.
    #[error("no connection within connect_timeout")]
    Timeout,
}

impl AsyncRead for ServerIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.sent.note(&bytes[..written]);
        Poll::Ready(Ok(written))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let n = left.min(slice.len());
            this.sent.note(&slice[..n]);
            left -= n;
        }
        Poll::Ready(Ok(written))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Endpoint {
    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }
}

/// Polls `future` where nothing but the link itself can make it ready, so that no waker is needed.
pub(super) fn poll_without_waker<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
