//! Connections to an upstream's server, and the ones that wait to be used again.
//!
//! A connection that speaks HTTP/1.1 has one request at a time. While it waits here nobody polls it;
//! whether the server has closed it is looked at when it is taken, and now and then. One that speaks
//! HTTP/2 is shared: there is another one only when all of its streams are taken. Pools belong to one
//! worker.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::HeaderValue;
use http::uri::Scheme;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::http2::Http2Connection;
use super::link::{Http1Link, Link};
use super::resolve::Addresses;
use super::tls::{ALPN_H2, ClientTls};
use crate::burst::{BurstStream, Bursts};
use crate::deadline::Deadlines;
use crate::settings::{Endpoint, UpstreamScheme, UpstreamServer, UpstreamSettings};
use crate::stream::{Stream, keep_alive};

/// Connections that wait, per server and worker.
const IDLE_MAX: usize = 256;
/// Room for reading that is kept for the next answers, per server and worker.
const ROOMS_MAX: usize = 16;

/// Which connections will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// Whatever the server prefers.
    Any,
    /// HTTP/1.1: only that is switched to another protocol.
    Http1,
}

/// How a server is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// Where a TCP endpoint leads now.
    pub(super) addresses: &'a Arc<Addresses>,
    /// For `https://`.
    pub(super) tls: Option<&'a ClientTls>,
}

/// One server of an upstream.
#[derive(Debug)]
pub(super) struct Server {
    endpoint: Endpoint,
    addresses: Arc<Addresses>,
    protocol: Protocol,
    /// For `host = "upstream"`.
    pub(super) host: HeaderValue,
    idle_millis: u64,
    #[expect(clippy::vec_box, reason = "links travel through futures; as a pointer they do it for nothing")]
    idle: RefCell<Vec<Box<Http1Link>>>,
    shared: RefCell<Vec<Rc<Http2Connection>>>,
    /// Held while a connection is made that others may want to share.
    opening: Mutex<()>,
    /// What was agreed on last, where that is known only then.
    agreed_http1: Cell<bool>,
    rooms: RefCell<Vec<BytesMut>>,
    clock: Rc<Deadlines>,
    bursts: Rc<Bursts>,
}

/// What is spoken to a server.
#[derive(Debug)]
enum Protocol {
    Http1,
    Http2,
    /// What the handshake agrees on.
    Tls(ClientTls, ServerName<'static>),
    /// TLS that there is no configuration for.
    Impossible(String),
}

impl Protocol {
    fn of(server: &UpstreamServer, tls: Option<&ClientTls>) -> Self {
        match (server.scheme, tls) {
            (UpstreamScheme::Http, _) => Self::Http1,
            (UpstreamScheme::H2c, _) => Self::Http2,
            (UpstreamScheme::Https, None) => Self::Impossible("nobody is believed".to_owned()),
            (UpstreamScheme::Https, Some(tls)) => match tls.name_of(server) {
                Ok(name) => Self::Tls(tls.clone(), name),
                Err(error) => Self::Impossible(error.to_string()),
            },
        }
    }
}

impl Server {
    /// A server without connections.
    pub(super) fn new(
        settings: &UpstreamSettings,
        server: &UpstreamServer,
        way: Way<'_>,
        clock: &Rc<Deadlines>,
        bursts: &Rc<Bursts>,
    ) -> Self {
        Self {
            endpoint: server.endpoint.clone(),
            addresses: Arc::clone(way.addresses),
            protocol: Protocol::of(server, way.tls),
            host: host_value(&server.endpoint),
            idle_millis: u64::try_from(settings.idle.as_millis()).unwrap_or(u64::MAX),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: Mutex::default(),
            agreed_http1: Cell::new(false),
            rooms: RefCell::default(),
            clock: Rc::clone(clock),
            bursts: Rc::clone(bursts),
        }
    }

    pub(super) const fn clock(&self) -> &Rc<Deadlines> {
        &self.clock
    }

    /// The scheme of targets, where those have one.
    pub(super) const fn http_scheme(&self) -> &Scheme {
        match self.protocol {
            Protocol::Tls(..) | Protocol::Impossible(_) => &Scheme::HTTPS,
            Protocol::Http1 | Protocol::Http2 => &Scheme::HTTP,
        }
    }

    /// Closes the connections that have waited too long, and those that were closed by the server.
    pub(super) fn close_idle(&self, now: u64) {
        let millis = self.idle_millis;
        self.idle
            .borrow_mut()
            .retain_mut(|link| now.saturating_sub(link.idle_since) <= millis && link.is_usable());
        self.shared.borrow_mut().retain(|shared| shared.is_alive() && shared.idle_for(now) <= millis);
    }

    /// A connection that waits and is still good, the one used last first; or a place on a shared one.
    pub(super) fn take(&self, wanted: Wanted, now: u64) -> Option<Link> {
        if self.may_share(wanted)
            && let Some(link) = self.take_shared(now)
        {
            return Some(link);
        }
        let mut idle = self.idle.borrow_mut();
        while let Some(mut link) = idle.pop() {
            if now.saturating_sub(link.idle_since) > self.idle_millis {
                idle.clear(); // the others have waited longer
                return None;
            }
            if link.is_usable() {
                return Some(Link::Http1(link));
            }
        }
        None
    }

    /// Whether a connection that others use too would do.
    const fn may_share(&self, wanted: Wanted) -> bool {
        match self.protocol {
            Protocol::Http1 | Protocol::Impossible(_) => false,
            Protocol::Http2 | Protocol::Tls(..) => matches!(wanted, Wanted::Any),
        }
    }

    fn take_shared(&self, now: u64) -> Option<Link> {
        let shared = self.shared.borrow();
        let mut usable = shared.iter().filter(|shared| shared.idle_for(now) <= self.idle_millis);
        usable.find_map(Http2Connection::reserve).map(Link::Http2)
    }

    /// Takes a connection back when it is good for another request; else it is closed.
    pub(super) fn put(&self, link: Link) {
        let Link::Http1(mut link) = link else { return };
        if !link.is_good() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            self.put_room(link.take_room());
            link.idle_since = self.clock.millis();
            idle.push(link);
        }
    }

    /// Room to read an answer into.
    pub(super) fn take_room(&self) -> BytesMut {
        self.rooms.borrow_mut().pop().unwrap_or_default()
    }

    fn put_room(&self, room: BytesMut) {
        let mut rooms = self.rooms.borrow_mut();
        if rooms.len() < ROOMS_MAX {
            rooms.push(room);
        }
    }

    /// A new connection, or a place on a shared one that somebody else has just made.
    pub(super) async fn connect(&self, wanted: Wanted, timeout: Duration) -> Result<Link, ConnectError> {
        let until = Instant::now() + timeout;
        match &self.protocol {
            Protocol::Http1 => self.open(until).await.map(|stream| self.http1(stream)),
            Protocol::Impossible(why) => Err(ConnectError::Handshake(why.clone())),
            Protocol::Http2 if wanted == Wanted::Http1 => Err(ConnectError::NoHttp1),
            // The usual way has no room to spare for the unusual ones.
            Protocol::Http2 | Protocol::Tls(..) => {
                match timeout_at(until, self.connect_shared(wanted, until)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(ConnectError::Timeout),
                }
            }
        }
    }

    /// Whoever comes while a connection is made may find a place on it.
    async fn connect_shared(&self, wanted: Wanted, until: Instant) -> Result<Link, ConnectError> {
        let mut opening = None;
        if self.may_share(wanted) && !self.agreed_http1.get() {
            opening = Some(self.opening.lock().await);
            if let Some(link) = self.take_shared(self.clock.millis()) {
                return Ok(link);
            }
            if self.agreed_http1.get() {
                opening = None;
            }
        }
        let stream = self.open(until).await?;
        let link = match &self.protocol {
            Protocol::Tls(tls, name) => self.secure(tls, name, stream, wanted).await,
            _ => self.http2(stream).await,
        };
        drop(opening);
        link
    }

    async fn secure(
        &self,
        tls: &ClientTls,
        name: &ServerName<'static>,
        stream: Stream,
        wanted: Wanted,
    ) -> Result<Link, ConnectError> {
        let Stream::Tcp(stream) = stream else {
            return Err(ConnectError::Handshake("TLS is spoken over TCP only".to_owned()));
        };
        let stream = tls.connect(name.clone(), stream, wanted).await;
        let stream = match stream {
            Err(error) if wanted == Wanted::Http1 && has_no_protocol(&error) => {
                return Err(ConnectError::NoHttp1);
            }
            other => other.map_err(|error| self.no_handshake(name, &error))?,
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        if wanted == Wanted::Any {
            self.agreed_http1.set(!is_http2);
        }
        let stream = Stream::ClientTls(Box::new(stream));
        if is_http2 { self.http2(stream).await } else { Ok(self.http1(stream)) }
    }

    fn no_handshake(&self, name: &ServerName<'static>, error: &io::Error) -> ConnectError {
        let (server, name) = (self.host.to_str().unwrap_or_default(), name.to_str());
        tracing::warn!(server, %name, %error, "the TLS handshake with the server failed");
        ConnectError::Handshake(format!("the TLS handshake failed: {error}"))
    }

    fn http1(&self, stream: Stream) -> Link {
        Link::Http1(Box::new(Http1Link::new(BurstStream::new(stream, &self.bursts))))
    }

    async fn http2(&self, stream: Stream) -> Result<Link, ConnectError> {
        let stream = BurstStream::new(stream, &self.bursts);
        let connection = Http2Connection::open(stream, &self.clock).await;
        let connection = connection.map_err(|error| ConnectError::Handshake(error.to_string()))?;
        let none = || ConnectError::Handshake("it takes no streams".to_owned());
        let link = connection.reserve().ok_or_else(none)?;
        self.shared.borrow_mut().push(connection);
        Ok(Link::Http2(link))
    }

    async fn open(&self, until: Instant) -> Result<Stream, ConnectError> {
        let opened = match &self.endpoint {
            Endpoint::Tcp(_) => {
                let left = until.saturating_duration_since(Instant::now());
                let stream = self.addresses.connect(left).await;
                stream.and_then(|stream| {
                    stream.set_nodelay(true)?;
                    keep_alive(&stream)?;
                    Ok(Stream::Tcp(stream))
                })
            }
            Endpoint::Unix(path) => match timeout_at(until, UnixStream::connect(path)).await {
                Ok(stream) => stream.map(Stream::Unix),
                Err(_) => return Err(ConnectError::Timeout),
            },
        };
        opened.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => ConnectError::Timeout,
            _ => ConnectError::Io(error),
        })
    }
}

/// Whether the server has none of the protocols that we have offered (RFC 7301 section 3.2).
fn has_no_protocol(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
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
    /// There is a connection, and what is spoken on it could not be agreed on.
    #[error("{0}")]
    Handshake(String),
    /// What is asked for needs HTTP/1.1, and the server speaks HTTP/2 only.
    #[error("a WebSocket needs HTTP/1.1, and the server speaks HTTP/2 only")]
    NoHttp1,
    /// `connect_timeout` has passed.
    #[error("no connection within connect_timeout")]
    Timeout,
}
