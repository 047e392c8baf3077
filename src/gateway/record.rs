//! What is noted about a request on its way, for the one decision line and the one count at its end.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HOST, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri};

use super::request_id::RequestId;
use super::{Body, Rejection};
use crate::clock::Timestamp;
use crate::message::grpc;
use crate::message::inbound::HeadRemark;
use crate::message::reply::Reply;
use crate::message::wording::Presented;
use crate::metrics::worker::{RequestCount, RouteLabel, RouteLabels};
use crate::metrics::{AuthnResult, AuthzResult, UpstreamErrorKind};
use crate::ops::decision::{Decision, Outcome};
use crate::proxy::ProxyError;
use crate::route::{CanonicalPath, Host, RouteIndex};
use crate::settings::ErrorBodies;

/// The notes.
pub(super) struct Record<'s> {
    started: Instant,
    /// When the upstream had answered, or not.
    ended: Option<Instant>,
    pub(super) now: Timestamp,
    pub(super) request_id: RequestId,
    pub(super) client: IpAddr,
    pub(super) reason: &'static str,
    pub(super) user: Option<Arc<str>>,
    pub(super) upstream: Option<(usize, &'s str)>,
    upstream_duration: Option<Duration>,
    pub(super) authn: Option<AuthnResult>,
    pub(super) authz: Option<AuthzResult>,
    /// The rule refused and only reports it; `reason` is why.
    pub(super) would_deny: bool,
    /// Where it differs from the one in the request's target.
    pub(super) path: Option<CanonicalPath<'static>>,
    method: Method,
    host: Option<HeaderValue>,
    /// Where it differs from what was sent.
    canonical_host: Option<Box<str>>,
    route: Option<(RouteIndex, &'s str)>,
    outcome: Outcome,
    upstream_error: Option<UpstreamErrorKind>,
    /// What its `Authorization` looked like, where the refusal's words depend on it.
    pub(super) presented: Presented,
    /// The content type of a gRPC call.
    grpc: Option<HeaderValue>,
}

impl<'s> Record<'s> {
    pub(super) fn new(started: Instant, now: Timestamp, parts: &Parts, request_id: RequestId) -> Self {
        Self {
            started,
            ended: None,
            now,
            request_id,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            reason: "",
            user: None,
            upstream: None,
            upstream_duration: None,
            authn: None,
            authz: None,
            would_deny: false,
            path: None,
            method: parts.method.clone(),
            host: parts.headers.get(HOST).cloned(),
            canonical_host: None,
            route: None,
            outcome: Outcome::Allow,
            upstream_error: None,
            presented: Presented::Nothing,
            // Every call of gRPC is a POST; others need not be searched.
            grpc: if parts.method == Method::POST { grpc::content_type(&parts.headers) } else { None },
        }
    }

    pub(super) fn canonical_host(&mut self, host: &Host<'_>) {
        if self.host.as_ref().is_none_or(|sent| sent.as_bytes() != host.as_str().as_bytes()) {
            self.canonical_host = Some(host.as_str().into());
        }
    }

    pub(super) fn found(&mut self, index: RouteIndex, name: &'s str) {
        self.route = Some((index, name));
    }

    /// What the steps that decide said no to; the policy was asked only by the last of them.
    pub(super) fn rejected(&mut self, rejection: &Rejection) {
        if matches!(rejection, Rejection::Denied(_)) {
            self.authz = Some(AuthzResult::Deny);
        }
    }

    /// What a rule refuses that only reports it: the request goes on.
    pub(super) fn would_deny(&mut self, rejection: Rejection) {
        self.rejected(&rejection);
        self.would_deny = true;
        self.outcome = Outcome::WouldDeny;
        self.reason = rejection.problem().code;
    }

    /// The upstream was asked, and has answered or failed.
    pub(super) fn upstream(&mut self, asked: Instant, ended: Instant) {
        self.upstream_duration = Some(ended.duration_since(asked));
        self.ended = Some(ended);
    }

    /// From the request's head to the answer's.
    pub(super) fn duration(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now).duration_since(self.started)
    }

    /// An answer of our own.
    pub(super) fn answered(&mut self, reply: Reply) -> Response<Body> {
        self.outcome = Outcome::Answer;
        Body::own(reply)
    }

    /// A refusal, and its status; a gRPC call is told in gRPC's words, with an HTTP status of 200.
    pub(super) fn refuse(
        &mut self,
        rejection: Rejection,
        bodies: ErrorBodies,
    ) -> (Response<Body>, StatusCode) {
        self.outcome = rejection.outcome();
        self.upstream_error = rejection.upstream_error();
        if self.upstream_error.is_some() {
            let upstream = self.upstream.map(|(_, name)| name);
            let request_id = self.request_id.as_str();
            tracing::warn!(request_id, upstream, error = ?rejection, "the upstream failed");
        }
        let closes = matches!(
            rejection,
            Rejection::Head(HeadRemark::TooLarge)
                | Rejection::Inbound(_)
                | Rejection::Proxy(ProxyError::ClientBody)
        );
        let problem = rejection.problem();
        self.reason = problem.code;
        let (mut reply, status) = if let Some(call) = self.grpc.take() {
            (grpc::refusal(call, &problem, &self.request_id.to_value()), problem.status)
        } else {
            let reply = problem.into_reply_in(bodies, self.presented, self.request_id.as_str());
            let status = reply.status();
            (reply, status)
        };
        if closes {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        (Body::own(reply), status)
    }

    pub(super) fn as_count(
        &self,
        labels: &RouteLabels,
        status: StatusCode,
        duration: Duration,
    ) -> RequestCount<'_> {
        let route = match self.route {
            None => RouteLabel::NONE,
            Some((RouteIndex::Own(index), _)) => labels.own(index),
            Some((RouteIndex::Route(index), _)) => labels.route(index),
        };
        let failed = self.upstream.and_then(|(index, _)| labels.upstream(index)).zip(self.upstream_error);
        RequestCount {
            route,
            method: &self.method,
            status,
            duration,
            authn: self.authn,
            authz: self.authz,
            would_deny: self.would_deny,
            upstream_error: failed,
        }
    }

    pub(super) fn as_decision<'r>(
        &'r self,
        uri: &'r Uri,
        status: StatusCode,
        duration: Duration,
    ) -> Decision<'r> {
        Decision {
            time: self.now,
            request_id: self.request_id.as_str(),
            client: self.client,
            method: self.method.as_str(),
            host: match &self.canonical_host {
                Some(host) => host,
                None => self.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
            },
            path: self.path.as_ref().map_or_else(|| uri.path(), CanonicalPath::as_str),
            route: self.route.map(|(_, name)| name),
            status: status.as_u16(),
            decision: self.outcome,
            reason: self.reason,
            user: self.user.as_deref(),
            upstream: self.upstream.map(|(_, name)| name),
            duration,
            upstream_duration: self.upstream_duration,
        }
    }
}
