//! What lies between an accepted connection and HTTP: a PROXY header, a TLS handshake, and the choice of a driver.
//!
//! A driver ([`http1`]) gets an [`Opened`] connection and need not know how it came about. Before
//! that, nothing of a request has been read, so whoever fails here is closed without an answer.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::header::HeaderValue;
use http::{Request, Response};

use super::handshake::{self, Protocol};
use super::proxy_protocol::{self, HeaderError, Told};
use super::worker::{OpenConnection, Worker};
use super::{http1, http2, preface, redirect};
use crate::gateway::Body;
use crate::message::client::Scheme;
use crate::message::forwarded::OwnElement;
use crate::metrics::ConnectionEnd;
use crate::proxy::{DirectLines, Peer};
use crate::stream::Stream;

/// What a listener is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Service {
    /// Requests in clear text.
    Clear,
    /// Requests over TLS.
    Tls,
    /// Clear text that leads to TLS.
    Redirect,
}

impl Service {
    /// A listener's name as people write it, given the name for clear text.
    pub(super) fn shown(self, name: &str) -> String {
        match (self, name.strip_prefix("http://")) {
            (Self::Clear, _) => name.to_owned(),
            (Self::Tls, Some(address)) => format!("https://{address}"),
            (Self::Tls, None) => format!("{name} (https)"),
            (Self::Redirect, _) => format!("{name} (redirects to https)"),
        }
    }
}

/// A connection of which nothing has been read.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: Stream,
    /// The other end; loopback for a Unix socket.
    pub(super) address: IpAddr,
    /// The port that it came in on; a Unix socket has none.
    pub(super) port: Option<u16>,
    pub(super) service: Service,
    /// Whether the address is what a PROXY header says.
    pub(super) told: bool,
}

/// A connection that speaks HTTP: what a driver is given.
#[derive(Debug)]
pub(super) struct Opened {
    /// Counts the connection; to be held until it ends.
    pub(super) open: OpenConnection,
    pub(super) stream: Stream,
    /// What was read of it while looking which protocol it is; comes before what the stream still has.
    pub(super) read: BytesMut,
    pub(super) peer: Peer,
    pub(super) service: Service,
}

/// Starts the task that serves a connection until it ends, or closes the connection.
pub(super) fn start(worker: &Rc<Worker>, accepted: Accepted) {
    let open = worker.count_connection();
    let gateway = worker.gateway();
    if !gateway.expects_proxy_header() {
        return begin(worker, open, accepted);
    }
    // Who connects over a Unix socket is let in by the file's permissions.
    if !accepted.is_local() && !gateway.trusted_proxies().contains(accepted.address) {
        worker.count_end(ConnectionEnd::UntrustedPeer);
        tracing::debug!(peer = %accepted.address, "not a trusted proxy: no PROXY header is taken from it");
        return;
    }
    tokio::task::spawn_local(introduce(Rc::clone(worker), open, accepted));
}

/// Reads the PROXY header; from there on the connection is the client's.
async fn introduce(worker: Rc<Worker>, open: OpenConnection, mut accepted: Accepted) {
    let limit = worker.limits().handshake_timeout;
    let told = within(&worker, limit, proxy_protocol::read(&mut accepted.stream)).await;
    match told {
        Some(Ok(Told::Nothing)) => {}
        Some(Ok(Told::Client { address, port })) => {
            accepted.address = address;
            accepted.port = Some(port);
            accepted.told = true;
        }
        // Load balancers look whether the port answers.
        Some(Err(HeaderError::Unused)) => return,
        Some(Err(error)) => {
            worker.count_end(ConnectionEnd::ProxyHeader);
            tracing::debug!(peer = %accepted.address, %error, "a connection was closed");
            return;
        }
        None => return worker.count_end(ConnectionEnd::ProxyHeader),
    }
    begin(&worker, open, accepted);
}

/// Waits for `future` until `limit` has passed, or the worker has begun to stop.
async fn within<T>(worker: &Worker, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let deadline = worker.deadlines().slot();
    deadline.set(limit);
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if worker.is_draining() => Poll::Ready(None),
        Poll::Pending => deadline.poll_passed(cx).map(|()| None),
    })
    .await
}

/// Goes on when it is known who is at the other end.
///
/// Clear text needs nothing before its driver, and its task is the driver's and no larger.
fn begin(worker: &Rc<Worker>, mut open: OpenConnection, accepted: Accepted) {
    if !accepted.is_local() && !open.belongs_to(accepted.address) {
        worker.count_end(ConnectionEnd::AddressLimit);
        tracing::debug!(client = %accepted.address, "too many connections of one address");
        return;
    }
    match accepted.service {
        Service::Clear | Service::Redirect => {
            let Accepted { stream, address, port, service, .. } = accepted;
            let opened = Opened {
                open,
                stream,
                read: BytesMut::new(),
                peer: peer(address, port, Scheme::Http),
                service,
            };
            if service == Service::Clear && worker.speaks_h2c() {
                tokio::task::spawn_local(preface::serve(Rc::clone(worker), opened));
            } else {
                tokio::task::spawn_local(http1::serve(Rc::clone(worker), opened));
            }
        }
        Service::Tls => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                // Boxed: a handshake needs much for a short time, a connection little for a long one.
                let shaken = Box::pin(handshake::shake(Rc::clone(&worker), accepted, open)).await;
                match shaken {
                    Some((opened, Protocol::Http1)) => http1::serve(worker, opened).await,
                    Some((opened, Protocol::Http2)) => Box::pin(http2::serve(worker, opened)).await,
                    None => {}
                }
            });
        }
    }
}

impl Accepted {
    /// Whether all that is known of the other end is that it is on this machine.
    fn is_local(&self) -> bool {
        matches!(self.stream, Stream::Unix(_)) && !self.told
    }
}

/// The answer to a request that is none for the gateway: all of a redirecting listener's. Drivers ask
/// before they ask the gateway; it costs a comparison.
pub(super) fn answer_plain<B>(
    worker: &Worker,
    service: Service,
    request: &Request<B>,
) -> Option<Response<Body>> {
    match service {
        Service::Clear | Service::Tls => None,
        Service::Redirect => Some(redirect::answer(worker, request)),
    }
}

pub(super) fn peer(address: IpAddr, port: Option<u16>, scheme: Scheme) -> Peer {
    let address = address.to_canonical();
    Peer {
        address,
        address_value: header_value(&address.to_string()),
        port_value: port.map(HeaderValue::from),
        scheme,
        forwarded: OwnElement::default(),
        direct: DirectLines::default(),
    }
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}
