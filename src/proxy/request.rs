//! The request as the upstream will get it. There is one way to make one: with a permit.

use std::rc::Rc;

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};
use hyper::body::Incoming;

use super::body::{Progress, RequestBody};
use super::headers::{HeaderRules, Peer, X_ACCESS_TOKEN};
use super::{ProxyError, UpstreamRoute};
use crate::authz::Permit;
use crate::message::identity::IdentityHeaders;
use crate::route::CanonicalPath;

/// What the client sent, but for the body, and what is known of it.
pub struct Inward<'a> {
    /// The request's head.
    pub parts: Parts,
    /// The path that was matched, when it differs from the one in `parts`.
    pub path: Option<CanonicalPath<'static>>,
    /// The connection that it came in on.
    pub peer: &'a Peer,
    /// Who asks, if anybody; absent on public routes.
    pub identity: Option<&'a IdentityHeaders>,
    /// Which header lines hold a token of ours.
    pub is_ours: &'a dyn Fn(&HeaderName, &HeaderValue) -> bool,
    /// The request's id.
    pub request_id: HeaderValue,
}

/// A request that may go to an upstream.
pub struct UpstreamRequest<'a> {
    pub(super) route: &'a UpstreamRoute,
    pub(super) request: Request<RequestBody>,
    /// `None`: there is no body.
    pub(super) progress: Option<Rc<Progress>>,
}

/// The head that the upstream will get. Strips, obeys `Connection`, then sets: in this order nobody
/// else's word for the caller arrives upstream, and nobody can make ours disappear.
pub(super) fn head(permit: &Permit<'_, UpstreamRoute>, rules: &HeaderRules, inward: Inward<'_>) -> Parts {
    let route = permit.target();
    let mut parts = inward.parts;
    let forwarding = rules.forwarding(inward.peer, &parts.headers);
    rules.strip_request(&mut parts.headers);
    if !route.forward_authorization {
        strip_credentials(&mut parts.headers, inward.is_ours);
    }
    if let Some(identity) = inward.identity {
        identity.set(&mut parts.headers);
    }
    let prefix = route.strip_prefix.as_ref().map(|strip| &strip.value);
    forwarding.set(&mut parts.headers, inward.request_id, prefix);
    parts.uri = target(&parts.uri, inward.path.as_ref(), route);
    parts.version = Version::HTTP_11;
    parts
}

impl<'a> UpstreamRequest<'a> {
    /// A request with the [`head`] that the permit gives it.
    pub(super) fn new(
        permit: &Permit<'a, UpstreamRoute>,
        rules: &Rc<HeaderRules>,
        inward: Inward<'_>,
        body: Incoming,
    ) -> Result<Self, ProxyError> {
        let route = permit.target();
        let chunked = inward.parts.headers.contains_key(TRANSFER_ENCODING);
        let (body, progress) = RequestBody::new(body, route.body_bytes, rules)?;
        let mut parts = head(permit, rules, inward);
        if chunked && !body.is_empty() {
            // hyper takes a GET without either length or coding for one without a body.
            parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Ok(Self { route, request: Request::from_parts(parts, body), progress })
    }

    /// Whether sending it twice is as good as once, and possible (RFC 9110 section 9.2.2).
    pub(super) fn is_repeatable(&self) -> bool {
        let method = self.request.method();
        let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
        self.request.body().is_empty() && idempotent.contains(method)
    }

    pub(super) fn set_host(&mut self, host: &HeaderValue) {
        self.request.headers_mut().insert(HOST, host.clone());
    }
}

impl std::fmt::Debug for UpstreamRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamRequest").field("method", self.request.method()).finish_non_exhaustive()
    }
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
