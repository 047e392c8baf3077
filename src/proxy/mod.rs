//! To the upstream and back: what is sent, over which connection, and what may be tried again.
//!
//! [`UpstreamRequest`] can only be made with a [`Permit`], and [`Proxy::forward`]
//! takes nothing else. The one who forwards drives the upstream's connection himself (see `pool`), so
//! dropping the future is all it takes to cancel: the connection goes with it.

mod balance;
mod body;
mod choice;
mod exchange;
mod fleet;
mod headers;
mod health;
mod http2;
mod link;
mod pool;
mod request;
mod resolve;
mod retry;
pub mod tls;
mod upload;

use std::rc::Rc;
use std::time::Duration;

use http::Response;
use http::header::{HOST, HeaderValue};
use http::request::Parts;

use self::balance::Upstream;
use self::headers::HeaderRules;
use self::retry::Attempts;
use crate::authz::Permit;
use crate::burst::Bursts;
use crate::deadline::Deadlines;
use crate::message::body::{BodyError, ClientBody};
use crate::message::client::TrustedProxies;
use crate::message::identity::IdentityRules;
use crate::settings::{RouteSettings, Settings, UpstreamHost, UpstreamSettings};

pub use self::body::{RequestBody, ResponseBody};
pub use self::fleet::Fleet;
pub use self::headers::{DirectLines, Peer};
pub use self::health::Watch;
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

    /// Where the gateway's own requests lead: to whom they are sent is decided elsewhere.
    const fn own() -> Self {
        Self {
            upstream: 0,
            strip_prefix: None,
            timeout: None,
            body_bytes: None,
            forward_authorization: false,
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
        let request::Head { mut parts, own, .. } = request::head(permit, &self.rules, inward);
        own.set(&mut parts.headers);
        let upstream = self.upstreams.get(permit.target().upstream);
        if let Some(upstream) = upstream.filter(|upstream| upstream.host == UpstreamHost::Upstream) {
            let host = upstream
                .servers
                .first()
                .map_or(HeaderValue::from_static("localhost"), |server| pool::host_value(&server.endpoint));
            parts.headers.insert(HOST, host);
        }
        parts
    }
}

/// What was wrong with an answer or its connection, as the protocol says it.
pub type AnswerFault = Box<dyn std::error::Error + Send + Sync>;

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
    /// It closed the connection before it had answered: 502.
    #[error("the upstream closed the connection: {0}")]
    Closed(#[source] AnswerFault),
    /// What it said is not HTTP: 502.
    #[error("the upstream's answer is invalid: {0}")]
    Invalid(#[source] AnswerFault),
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

impl ProxyError {
    /// Whether it speaks against the server, and not against the client or its body.
    const fn is_the_servers(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout | Self::Closed(_) | Self::Invalid(_) | Self::Unacceptable(_) => {
                !matches!(self, Self::Connect(ConnectError::NoHttp1))
            }
            Self::ClientTimeout | Self::ClientBody | Self::BodyTooLarge => false,
        }
    }
}

impl From<BodyError> for ProxyError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Broken(_) => Self::ClientBody,
            BodyError::Idle => Self::ClientTimeout,
            BodyError::TooLarge => Self::BodyTooLarge,
        }
    }
}

/// One worker's way to every upstream.
#[derive(Debug)]
pub struct Proxy {
    upstreams: Vec<Rc<Upstream>>,
    rules: Rc<HeaderRules>,
    deadlines: Rc<Deadlines>,
}

impl Proxy {
    /// A proxy without open connections. `fleet` is made of the same settings.
    #[must_use]
    pub fn new(
        settings: &Settings,
        fleet: &Fleet,
        identity: IdentityRules,
        trusted: TrustedProxies,
        deadlines: Rc<Deadlines>,
        bursts: &Rc<Bursts>,
    ) -> Self {
        Self {
            upstreams: settings
                .upstreams
                .iter()
                .enumerate()
                .map(|(place, upstream)| Upstream::new(upstream, place, fleet, &deadlines, bursts))
                .map(Rc::new)
                .collect(),
            rules: Rc::new(HeaderRules::new(identity, trusted, &settings.tokens.accept)),
            deadlines,
        }
    }

    /// Takes over the connections of every upstream that is the same as in `old`, which goes on with
    /// what it has under way. Where certificates come from files, new connections are made: the files may
    /// have changed.
    pub fn take_over(&mut self, old: &Self) {
        for upstream in &mut self.upstreams {
            if let Some(same) = old.upstreams.iter().find(|before| upstream.is_as(before)) {
                *upstream = Rc::clone(same);
            }
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
        body: ClientBody,
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
    /// nothing was written: then another one is taken. What may be tried beyond that, and at which
    /// server, is in `retry`.
    pub async fn forward(
        &self,
        request: &mut UpstreamRequest<'_>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let upstream = &self.upstreams[request.route.upstream];
        let timeout = request.route.timeout.unwrap_or(upstream.timeout);
        let deadline = self.deadlines.slot();
        let mut attempts = Attempts::new(upstream, &self.rules, &self.deadlines, &deadline, timeout);
        attempts.run(request).await
    }
}
