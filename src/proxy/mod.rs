//! To the upstream and back: what is sent, over which connection, and what may be tried again.
//!
//! [`UpstreamRequest`] can only be made with a [`Permit`], and [`Proxy::forward`]
//! takes nothing else. The one who forwards drives the upstream's connection himself (see `pool`), so
//! dropping the future is all it takes to cancel: the connection goes with it.

mod body;
mod headers;
mod pool;
mod replay;
mod request;

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::task::unconstrained;

use self::body::{BodyFailure, Progress};
use self::headers::HeaderRules;
use self::pool::{Link, Server, Upstream, poll_without_waker};
use crate::authz::Permit;
use crate::burst::Bursts;
use crate::deadline::{Deadline, Deadlines};
use crate::message::client::TrustedProxies;
use crate::message::identity::IdentityRules;
use crate::settings::{RouteSettings, Settings, UpstreamHost, UpstreamSettings};

pub use self::body::{BodyError, RequestBody, ResponseBody};
pub use self::headers::Peer;
pub use self::pool::ConnectError;
pub use self::request::{Inward, UpstreamRequest};

/// Where a route leads, and how.
#[derive(Clone, Debug)]
pub struct UpstreamRoute {
    /// Index into `[[upstream]]`.
    pub upstream: usize,
    strip_prefix: Option<StripPrefix>,
    timeout: Option<Duration>,
    body_bytes: Option<u64>,
    forward_authorization: bool,
}

#[derive(Clone, Debug)]
struct StripPrefix {
    value: HeaderValue,
    segments: usize,
}

impl UpstreamRoute {
    /// The target of a configured route.
    #[must_use]
    pub fn new(route: &RouteSettings) -> Self {
        let strip_prefix = route.strip_prefix.as_deref().and_then(|prefix| {
            let segments = prefix.split('/').filter(|segment| !segment.is_empty()).count();
            HeaderValue::from_str(prefix).ok().map(|value| StripPrefix { value, segments })
        });
        Self {
            upstream: route.upstream,
            strip_prefix,
            timeout: route.timeout,
            body_bytes: route.body_bytes,
            forward_authorization: route.forward_authorization,
        }
    }

    /// Whether the app sees the token.
    #[must_use]
    pub const fn forwards_authorization(&self) -> bool {
        self.forward_authorization
    }

    /// Whether the matched path has to be known to build the target.
    #[must_use]
    pub const fn needs_path(&self) -> bool {
        self.strip_prefix.is_some()
    }
}

/// What a request would look like at its upstream: for `explain`, from the code that forwards.
#[derive(Debug)]
pub struct Preview {
    rules: HeaderRules,
    upstreams: Vec<UpstreamSettings>,
}

impl Preview {
    /// A preview by these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let trusted = TrustedProxies::new(settings.server.trusted_proxies.clone());
        let rules =
            HeaderRules::new(IdentityRules::new(&settings.identity), trusted, &settings.tokens.accept);
        Self { rules, upstreams: settings.upstreams.clone() }
    }

    /// The head that would be sent.
    #[must_use]
    pub fn head(&self, permit: &Permit<'_, UpstreamRoute>, inward: Inward<'_>) -> Parts {
        let mut parts = request::head(permit, &self.rules, inward);
        let upstream = self.upstreams.get(permit.target().upstream);
        if let Some(upstream) = upstream.filter(|upstream| upstream.host == UpstreamHost::Upstream) {
            let host =
                upstream.servers.first().map_or(HeaderValue::from_static("localhost"), pool::host_value);
            parts.headers.insert(HOST, host);
        }
        parts
    }
}

/// Why there is no answer from the upstream.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No connection: 502, or 504 when it took too long.
    #[error("the upstream cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    /// No response head within the timeout: 504.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The client stopped sending its body, and nothing came for the timeout: 408.
    #[error("the request's body did not arrive in time")]
    ClientTimeout,
    /// It closed the connection, or what it said is not HTTP: 502.
    #[error("the upstream's answer is invalid: {0}")]
    Invalid(#[source] hyper::Error),
    /// What it said is HTTP that a gateway must not pass on: 502.
    #[error("the upstream's answer is invalid: {0}")]
    Unacceptable(&'static str),
    /// The client broke off, or its body is framed wrongly: 400.
    #[error("the request's body broke off")]
    ClientBody,
    /// The client's body is longer than the route allows: 413.
    #[error("the request's body is longer than the route allows")]
    BodyTooLarge,
}

impl From<BodyError> for ProxyError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Broken(_) => Self::ClientBody,
            BodyError::TooLarge => Self::BodyTooLarge,
        }
    }
}

/// One worker's way to every upstream.
#[derive(Debug)]
pub struct Proxy {
    upstreams: Vec<Upstream>,
    rules: Rc<HeaderRules>,
    deadlines: Rc<Deadlines>,
}

impl Proxy {
    /// A proxy without open connections.
    #[must_use]
    pub fn new(
        settings: &Settings,
        identity: IdentityRules,
        trusted: TrustedProxies,
        deadlines: Rc<Deadlines>,
        bursts: &Rc<Bursts>,
    ) -> Self {
        Self {
            upstreams: settings
                .upstreams
                .iter()
                .map(|upstream| Upstream::new(upstream, &deadlines, bursts))
                .collect(),
            rules: Rc::new(HeaderRules::new(identity, trusted, &settings.tokens.accept)),
            deadlines,
        }
    }

    /// The name of an upstream.
    #[must_use]
    pub fn upstream_name(&self, upstream: usize) -> Option<&str> {
        self.upstreams.get(upstream).map(|upstream| &*upstream.name)
    }

    /// Makes the request that the upstream will get. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ProxyError::BodyTooLarge`] and [`ProxyError::ClientBody`], as far as that can be seen already.
    pub fn prepare<'a>(
        &self,
        permit: &Permit<'a, UpstreamRoute>,
        inward: Inward<'_>,
        body: Incoming,
    ) -> Result<UpstreamRequest<'a>, ProxyError> {
        UpstreamRequest::new(permit, &self.rules, inward, body)
    }

    /// Closes the connections that have waited too long; to be called now and then.
    pub fn close_idle(&self) {
        for upstream in &self.upstreams {
            upstream.close_idle(self.deadlines.millis());
        }
    }

    /// Sends the request and returns the answer's head; its body moves when it is polled.
    ///
    /// A connection that the server closed while it waited is noticed before it is used, or while
    /// nothing was written: then another one is taken. When the server closes it after that, only an
    /// idempotent request without a body is sent again, once.
    pub async fn forward(
        &self,
        mut upstream_request: UpstreamRequest<'_>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let upstream = &self.upstreams[upstream_request.route.upstream];
        let timeout = upstream_request.route.timeout.unwrap_or(upstream.timeout);
        let server = upstream.server();
        if !upstream.preserve_host {
            upstream_request.set_host(&server.host);
        }
        let repeatable = upstream_request.is_repeatable();
        let UpstreamRequest { mut request, progress, .. } = upstream_request;
        let progress = progress.as_deref();
        let deadline = self.deadlines.slot();
        let exchange = Exchange { progress, deadline: &deadline, timeout };
        while let Some(mut link) = server.take(self.deadlines.millis()) {
            link.remember(repeatable);
            match exchange.run(&mut link, request).await {
                Ok(response) => return self.accept(response, link, Rc::clone(server), progress),
                Err(Failure::NotSent(unsent)) => request = *unsent,
                Err(Failure::Closed(error)) => {
                    let again = replay::request(&link.sent());
                    request = again.ok_or(ProxyError::Invalid(error))?;
                    break;
                }
                Err(failure) => return Err(failure.into_error(progress)),
            }
        }
        let (mut link, server) = connect(upstream, server).await?;
        match exchange.run(&mut link, request).await {
            Ok(response) => self.accept(response, link, server, progress),
            Err(failure) => Err(failure.into_error(progress)),
        }
    }

    /// Judges the answer's head and cleans it.
    fn accept(
        &self,
        response: Response<Incoming>,
        link: Box<Link>,
        server: Rc<Server>,
        progress: Option<&Progress>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let (mut parts, incoming) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(ProxyError::Unacceptable("it switches protocols unasked"));
        }
        if parts.status.as_u16() > 599 {
            return Err(ProxyError::Unacceptable("its status is above 599"));
        }
        check_framing(&parts.headers)?;
        self.rules.strip_response(&mut parts.headers);
        let body = if progress.is_none_or(|progress| progress.finished.get()) {
            ResponseBody::new(incoming, link, server, Rc::clone(&self.rules))
        } else {
            ResponseBody::with_task(incoming, link, server, Rc::clone(&self.rules))
        };
        parts.extensions.clear();
        parts.version = http::Version::HTTP_11;
        Ok(Response::from_parts(parts, body))
    }
}

/// What frames an answer has to be beyond doubt, also where it has no body that hyper would frame by it
/// (RFC 9112 section 6.3).
fn check_framing(headers: &HeaderMap) -> Result<(), ProxyError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return Err(ProxyError::Unacceptable("its Transfer-Encoding is not chunked alone"));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let plain = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if !plain || lengths.next().is_some() {
        return Err(ProxyError::Unacceptable("its Content-Length is not one number"));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(ProxyError::Unacceptable("it has both Content-Length and Transfer-Encoding"));
    }
    Ok(())
}

/// A new connection to the server whose turn it is, or to one of the others when that one refuses.
async fn connect(upstream: &Upstream, first: &Rc<Server>) -> Result<(Box<Link>, Rc<Server>), ConnectError> {
    let mut server = Rc::clone(first);
    for _ in 1..upstream.servers() {
        match server.connect(upstream.connect_timeout()).await {
            Ok(link) => return Ok((link, server)),
            Err(error) => tracing::warn!(upstream = &*upstream.name, %error, "a server cannot be reached"),
        }
        server = Rc::clone(upstream.server());
    }
    let link = server.connect(upstream.connect_timeout()).await?;
    Ok((link, server))
}

/// Why one attempt failed.
enum Failure {
    /// Nothing of it was written: here it is again.
    NotSent(Box<Request<RequestBody>>),
    /// The connection ended without an answer.
    Closed(hyper::Error),
    /// The answer is not HTTP, or sending failed.
    Invalid(hyper::Error),
    /// The time is over.
    Timeout,
}

impl Failure {
    fn into_error(self, progress: Option<&Progress>) -> ProxyError {
        match (progress.and_then(|progress| progress.failure.get()), self) {
            (Some(BodyFailure::TooLarge), _) => ProxyError::BodyTooLarge,
            (Some(BodyFailure::Broken), _) => ProxyError::ClientBody,
            (None, Self::Closed(error) | Self::Invalid(error)) => ProxyError::Invalid(error),
            (None, Self::Timeout) if progress.is_some_and(|progress| progress.starved.get()) => {
                ProxyError::ClientTimeout
            }
            (None, Self::Timeout) => ProxyError::Timeout,
            (None, Self::NotSent(_)) => ProxyError::Unacceptable("it closed the connection at once"),
        }
    }
}

/// One attempt to send a request and to read the answer's head.
struct Exchange<'a> {
    progress: Option<&'a Progress>,
    deadline: &'a Deadline,
    timeout: Duration,
}

impl Exchange<'_> {
    async fn run(
        &self,
        link: &mut Link,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        self.deadline.set(self.timeout);
        // The answer can only come out of the link that is polled here, just before: no waker needed,
        // and none that would wake this very task. Outside the task's budget, whose end would need one.
        let mut answer = pin!(unconstrained(link.sender.try_send_request(request)));
        let connection = &mut link.connection;
        let outcome = std::future::poll_fn(|cx| {
            let ended = Pin::new(&mut *connection).poll(cx).is_ready();
            if let Poll::Ready(answer) = poll_without_waker(&mut answer) {
                return Poll::Ready(answer.map_err(|mut error| match error.take_message() {
                    Some(unsent) => Failure::NotSent(Box::new(unsent)),
                    None => classify(error.into_error()),
                }));
            }
            if ended {
                // hyper answers before it ends; should it not, waiting longer would be for ever.
                return Poll::Ready(Err(Failure::Timeout));
            }
            self.poll_timeout(cx)
        })
        .await;
        self.deadline.clear();
        outcome
    }

    /// The timeout runs from the last movement of the request's body.
    fn poll_timeout<T>(&self, cx: &Context<'_>) -> Poll<Result<T, Failure>> {
        if self.progress.is_some_and(|progress| progress.moved.take()) {
            self.deadline.set(self.timeout);
        }
        self.deadline.poll_passed(cx).map(|()| Err(Failure::Timeout))
    }
}

/// Tells a connection that was closed from an answer that is rubbish.
fn classify(error: hyper::Error) -> Failure {
    let closed = error.is_closed() || error.is_canceled() || error.is_incomplete_message();
    let reset = std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
    if (closed || reset) && !error.is_parse() { Failure::Closed(error) } else { Failure::Invalid(error) }
}
