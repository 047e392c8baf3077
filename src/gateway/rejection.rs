//! Everything that a request can be refused for, and what is answered, logged and counted then.

use http::{Method, StatusCode};

use crate::api::{authn_problem, missing_token};
use crate::authn::AuthnError;
use crate::authz::{Deny, Missing};
use crate::message::inbound::{HeadRemark, InboundError};
use crate::message::reply::Problem;
use crate::metrics::{AuthnResult, UpstreamErrorKind};
use crate::ops::decision::Outcome;
use crate::proxy::{ConnectError, ProxyError};

/// Why a request did not pass.
#[derive(Debug)]
pub enum Rejection {
    /// Its head left no doubt before it was looked at.
    Head(HeadRemark),
    /// It cannot be routed.
    Inbound(InboundError),
    /// TRACE or CONNECT.
    Method(Method),
    /// No route.
    NoRoute,
    /// Nothing of ours at this path under the prefix.
    NotFound,
    /// The pattern's rules do not name the method.
    MethodNotAllowed(String),
    /// The credential is not good.
    Authn(AuthnError),
    /// The policy says no.
    Denied(Deny),
    /// A preflight for a page of an origin that may not call.
    Origin,
    /// One of our endpoints refused.
    Endpoint(Problem),
    /// The upstream failed, or the request's body on the way there.
    Proxy(ProxyError),
}

impl From<InboundError> for Rejection {
    fn from(error: InboundError) -> Self {
        Self::Inbound(error)
    }
}

impl From<AuthnError> for Rejection {
    fn from(error: AuthnError) -> Self {
        Self::Authn(error)
    }
}

impl From<Deny> for Rejection {
    fn from(deny: Deny) -> Self {
        Self::Denied(deny)
    }
}

impl From<ProxyError> for Rejection {
    fn from(error: ProxyError) -> Self {
        Self::Proxy(error)
    }
}

impl Rejection {
    /// The refusal as a problem.
    #[must_use]
    pub fn problem(self) -> Problem {
        match self {
            Self::Head(HeadRemark::Fragment) => Self::Inbound(InboundError::Fragment).problem(),
            Self::Head(HeadRemark::TooLarge) => Problem::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header_too_large",
                "the request's head is too large",
            ),
            Self::Inbound(error) => Problem::new(StatusCode::BAD_REQUEST, error.code(), error.to_string()),
            Self::Method(method) => {
                let detail = format!("{method} is not served");
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
                    .allow("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
            }
            Self::NoRoute => Problem::new(StatusCode::NOT_FOUND, "no_route", "no route answers this request"),
            Self::NotFound => Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here"),
            Self::MethodNotAllowed(allow) => Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the method is not allowed here",
            )
            .allow(&allow),
            Self::Authn(error) => authn_problem(&error),
            Self::Denied(Deny::Unauthenticated) => missing_token(),
            Self::Denied(Deny::Forbidden(missing)) => forbidden(&missing),
            Self::Origin => {
                Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", "pages of this origin may not call")
            }
            Self::Endpoint(problem) => problem,
            Self::Proxy(error) => proxy_problem(&error),
        }
    }

    /// What the decision line calls it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Endpoint(problem) if problem.status.is_server_error() => Outcome::Error,
            Self::Endpoint(_) => Outcome::Answer,
            Self::Proxy(ProxyError::ClientBody | ProxyError::ClientTimeout | ProxyError::BodyTooLarge) => {
                Outcome::Deny
            }
            Self::Proxy(_) => Outcome::Error,
            _ => Outcome::Deny,
        }
    }

    /// Whether it speaks against the caller: the credential is no good, or the policy says no. What could not be
    /// found out yet, and what is our own fault, does not.
    #[must_use]
    pub const fn is_the_callers(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Authn(_)) && !self.is_undecided()
    }

    /// Whether the account of a good credential has yet to be looked up.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        matches!(self, Self::Authn(AuthnError::Unresolved))
    }

    /// How the upstream failed, when it did.
    #[must_use]
    pub fn upstream_error(&self) -> Option<UpstreamErrorKind> {
        let Self::Proxy(error) = self else { return None };
        match error {
            ProxyError::Connect(_) => Some(UpstreamErrorKind::Connect),
            ProxyError::Timeout => Some(UpstreamErrorKind::Timeout),
            ProxyError::Closed(_) => Some(UpstreamErrorKind::Reset),
            ProxyError::Invalid(_) | ProxyError::Unacceptable(_) => Some(UpstreamErrorKind::Invalid),
            ProxyError::ClientBody | ProxyError::ClientTimeout | ProxyError::BodyTooLarge => None,
        }
    }
}

fn forbidden(missing: &Missing) -> Problem {
    // Which role would do is the operator's business: the decision line has it.
    let detail = match missing {
        Missing::AnyOf(_) | Missing::AllOf(_) => "a role is missing",
        Missing::Ownership => "this belongs to somebody else",
    };
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).challenge(Some(("insufficient_scope", detail)))
}

/// Says what happened and not where: addresses and versions stay in the log.
fn proxy_problem(error: &ProxyError) -> Problem {
    let (status, code, detail) = match error {
        ProxyError::Connect(ConnectError::Io(_) | ConnectError::Handshake(_) | ConnectError::NoHttp1) => {
            (StatusCode::BAD_GATEWAY, "upstream_unreachable", "the application cannot be reached")
        }
        ProxyError::Connect(ConnectError::Timeout) | ProxyError::Timeout => {
            (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "the application did not answer in time")
        }
        ProxyError::Closed(_) | ProxyError::Invalid(_) | ProxyError::Unacceptable(_) => {
            (StatusCode::BAD_GATEWAY, "upstream_invalid", "the application's answer is invalid")
        }
        ProxyError::ClientTimeout => {
            (StatusCode::REQUEST_TIMEOUT, "request_timeout", "the request's body did not arrive in time")
        }
        ProxyError::ClientBody => {
            (StatusCode::BAD_REQUEST, "incomplete_body", "the request's body broke off")
        }
        ProxyError::BodyTooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the request's body is too large")
        }
    };
    Problem::new(status, code, detail)
}

impl From<&AuthnError> for AuthnResult {
    fn from(error: &AuthnError) -> Self {
        match error {
            AuthnError::Ambiguous => Self::Ambiguous,
            AuthnError::Malformed => Self::Malformed,
            AuthnError::Invalid(_) | AuthnError::Unresolved => Self::Invalid,
            AuthnError::Expired => Self::Expired,
            AuthnError::Revoked => Self::Revoked,
        }
    }
}
