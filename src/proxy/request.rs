//! The request as the upstream will get it. There is one way to make one of a client's request: with a
//! permit.

use std::rc::Rc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use super::body::{Progress, RequestBody};
use super::headers::{HeaderRules, OwnHeaders, Peer, X_ACCESS_TOKEN, strip_to_preflight};
use super::pool::Wanted;
use super::{ProxyError, UpstreamRoute};
use crate::authz::Permit;
use crate::message::body::ClientBody;
use crate::message::lines::HeaderLines;
use crate::route::CanonicalPath;
use crate::websocket::Handshake;

/// What the client sent, but for the body, and what is known of it.
pub struct Inward<'a> {
    /// The request's head.
    pub parts: Parts,
    /// The path that was matched, when it differs from the one in `parts`.
    pub path: Option<CanonicalPath<'static>>,
    /// The connection that it came in on.
    pub peer: &'a Peer,
    /// Who asks, if anybody; absent on public routes.
    pub identity: Option<Rc<dyn AsRef<HeaderLines>>>,
    /// Which header lines hold a token of ours.
    pub is_ours: &'a dyn Fn(&HeaderName, &HeaderValue) -> bool,
    /// Whether it passes as a preflight: without asking who asks, and so without anything that says it.
    pub is_preflight: bool,
    /// The request's id.
    pub request_id: HeaderValue,
}

/// A head for an upstream: what is the client's in it, and what is ours.
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) own: OwnHeaders,
    pub(super) handshake: Option<Handshake>,
}

/// A request that may go to an upstream.
pub struct UpstreamRequest<'a> {
    pub(super) route: &'a UpstreamRoute,
    pub(super) parts: Parts,
    /// What is added to `parts` where it is sent; the gateway's own requests have nothing of it.
    pub(super) own: Option<OwnHeaders>,
    pub(super) body: RequestBody,
    /// `None`: there is no body.
    pub(super) progress: Option<Rc<Progress>>,
    /// Whether the client takes trailers, and said so in the way that only HTTP/2 passes on.
    pub(super) takes_trailers: bool,
    /// Whether the client may have other requests on the connection that it came in on.
    pub(super) shares_connection: bool,
    /// Whether the header map was used for the answer.
    pub(super) spent: bool,
    /// It asks for a WebSocket: the one 101 that may come is the one that agrees to this.
    pub(super) handshake: Option<Handshake>,
}

/// The head that the upstream will get. Strips, obeys `Connection`, then adds: in this order nobody
/// else's word for the caller arrives upstream, and nobody can make ours disappear.
///
/// A WebSocket's handshake is asked anew, as `Upgrade` goes from hop to hop; any other is not passed on.
pub(super) fn head(permit: &Permit<'_, UpstreamRoute>, rules: &HeaderRules, inward: Inward<'_>) -> Head {
    let route = permit.target();
    let mut parts = inward.parts;
    let handshake = Handshake::of(&parts);
    let forwarding = rules.forwarding(inward.peer, &parts.headers);
    rules.strip_request(&mut parts.headers);
    if inward.is_preflight {
        strip_to_preflight(&mut parts.headers);
    } else if !route.forward_authorization {
        strip_credentials(&mut parts.headers, inward.is_ours);
    }
    let own = OwnHeaders {
        identity: inward.identity,
        forwarding,
        request_id: inward.request_id,
        prefix: route.strip_prefix.as_ref().map(|strip| strip.value.clone()),
    };
    parts.uri = target(&parts.uri, inward.path.as_ref(), route);
    parts.version = Version::HTTP_11;
    if let Some(handshake) = &handshake {
        handshake.ask(&mut parts.headers);
    }
    Head { parts, own, handshake }
}

impl<'a> UpstreamRequest<'a> {
    /// A request with the [`head`] that the permit gives it.
    pub(super) fn new(
        permit: &Permit<'a, UpstreamRoute>,
        rules: &Rc<HeaderRules>,
        inward: Inward<'_>,
        body: ClientBody,
    ) -> Result<Self, ProxyError> {
        let route = permit.target();
        let (body, progress) = RequestBody::new(body, route.body_bytes, rules)?;
        let takes_trailers = takes_trailers(&inward.parts.headers);
        let shares_connection = inward.parts.version == Version::HTTP_2;
        let Head { mut parts, own, handshake } = head(permit, rules, inward);
        if body.is_empty() && parts.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
            // It would frame what is not there.
            parts.headers.remove(CONTENT_LENGTH);
        }
        Ok(Self {
            route,
            parts,
            own: Some(own),
            body,
            progress,
            takes_trailers,
            shares_connection,
            spent: false,
            handshake,
        })
    }

    /// A request of the gateway's own, in which there is nothing of any client's: asks a server how it is.
    pub(super) fn check(route: &'a UpstreamRoute, path: &str, host: &HeaderValue) -> Self {
        let (mut parts, ()) = Request::new(()).into_parts();
        // The configuration has seen to it that it is a path.
        parts.uri = PathAndQuery::try_from(path).map_or_else(|_| Uri::default(), Uri::from);
        parts.headers.insert(HOST, host.clone());
        parts.headers.insert(USER_AGENT, HeaderValue::from_static("gatepost-health"));
        let body = RequestBody::Empty;
        Self {
            route,
            parts,
            own: None,
            body,
            progress: None,
            takes_trailers: false,
            shares_connection: false,
            spent: false,
            handshake: None,
        }
    }

    /// Whether sending it twice is as good as once, and possible (RFC 9110 section 9.2.2).
    pub(super) fn is_repeatable(&self) -> bool {
        let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
        self.progress.is_none() && !self.spent && idempotent.contains(&self.parts.method)
    }

    /// Which connections will do.
    pub(super) const fn wanted(&self) -> Wanted {
        if self.handshake.is_some() { Wanted::Http1 } else { Wanted::Any }
    }

    pub(super) fn set_host(&mut self, host: &HeaderValue) {
        self.parts.headers.insert(HOST, host.clone());
    }
}

impl std::fmt::Debug for UpstreamRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamRequest").field("method", &self.parts.method).finish_non_exhaustive()
    }
}

/// Whether `TE` has `trailers` (RFC 9110 section 10.1.4): gRPC servers insist on it.
fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get(TE).is_some_and(|codings| {
        let mut codings = codings.as_bytes().split(|&byte| byte == b',');
        codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// Removes the lines that hold a token of ours. Other lines of the same name stay.
fn strip_credentials(headers: &mut HeaderMap, is_ours: &dyn Fn(&HeaderName, &HeaderValue) -> bool) {
    for name in [&AUTHORIZATION, &X_ACCESS_TOKEN] {
        let mut lines = headers.get_all(name).iter();
        let Some(first) = lines.next() else { continue };
        if lines.next().is_none() {
            if is_ours(name, first) {
                headers.remove(name);
            }
            continue;
        }
        let others: Vec<_> =
            headers.get_all(name).iter().filter(|value| !is_ours(name, value)).cloned().collect();
        headers.remove(name);
        for value in others {
            headers.append(name.clone(), value);
        }
    }
}

/// The origin-form target: the canonical path, less what the route strips, and the query untouched.
fn target(uri: &Uri, path: Option<&CanonicalPath<'static>>, route: &UpstreamRoute) -> Uri {
    if path.is_none() && route.strip_prefix.is_none() {
        if uri.authority().is_none() {
            return uri.clone();
        }
        return uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    }
    let path = match (path, &route.strip_prefix) {
        (Some(path), Some(strip)) => path.without_segments(strip.segments),
        (Some(path), None) => path.as_str(),
        (None, Some(_) | None) => uri.path(),
    };
    let path = if path.is_empty() { "/" } else { path };
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // Both parts came out of a parsed target; a canonical path is a stricter one.
    PathAndQuery::try_from(text).map_or_else(|_| Uri::default(), Uri::from)
}
