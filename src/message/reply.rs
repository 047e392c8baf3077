//! Answers that the gateway gives itself: JSON, and problems after [RFC 9457].
//!
//! [RFC 9457]: https://www.rfc-editor.org/rfc/rfc9457

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::wording::{self, CredentialFault, Presented};
use crate::settings::ErrorBodies;

/// An answer of our own, whole in memory.
pub type Reply = Response<Bytes>;

/// A JSON answer that no cache may keep.
///
/// # Panics
/// Never for the types that the endpoints answer with: plain structs with string keys.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let text = serde_json::to_vec(body).expect("plain structs with string keys serialise");
    let mut reply = Response::new(Bytes::from(text));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// What was wrong with one member of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FieldError {
    /// The member's name.
    pub field: Cow<'static, str>,
    /// A stable word for programs: `missing`, `too_short`, `unknown` …
    pub code: &'static str,
    /// A sentence for people.
    pub message: Cow<'static, str>,
}

/// A refusal: status, stable code, one sentence, and the headers that go with it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The response status.
    pub status: StatusCode,
    /// The stable code that programs match on.
    pub code: &'static str,
    /// One sentence for people; also given as `message`.
    pub detail: Cow<'static, str>,
    /// Which members were wrong.
    pub errors: Vec<FieldError>,
    /// What was wrong with the caller's credential, if it was that.
    credential: Option<CredentialFault>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem without extra headers.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            credential: None,
            headers: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds `Allow` (RFC 9110 section 10.2.1); `methods` is a comma-separated list.
    #[must_use]
    pub fn allow(self, methods: &str) -> Self {
        let value = HeaderValue::from_str(methods).unwrap_or(HeaderValue::from_static(""));
        self.header(ALLOW, value)
    }

    /// Adds a Bearer challenge (RFC 6750 section 3): bare, or with `error` and a description.
    #[must_use]
    pub fn challenge(self, error: Option<(&'static str, &str)>) -> Self {
        let text = match error {
            None => r#"Bearer realm="gatepost""#.to_owned(),
            Some((error, why)) => {
                format!(r#"Bearer realm="gatepost", error="{error}", error_description="{why}""#)
            }
        };
        let value = HeaderValue::from_str(&text)
            .unwrap_or(HeaderValue::from_static(r#"Bearer realm="gatepost", error="invalid_token""#));
        self.header(WWW_AUTHENTICATE, value)
    }

    /// Adds `Retry-After` in whole seconds, at least one (RFC 9110 section 10.2.3).
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        let secs = wait.as_millis().div_ceil(1000).max(1);
        self.header(RETRY_AFTER, HeaderValue::from(u64::try_from(secs).unwrap_or(u64::MAX)))
    }

    /// Adds what was wrong with single members.
    #[must_use]
    pub fn fields(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// Says what was wrong with the caller's credential.
    #[must_use]
    pub const fn credential(mut self, fault: CredentialFault) -> Self {
        self.credential = Some(fault);
        self
    }

    /// The problem as a response in these words; `presented` is what its request brought.
    #[must_use]
    pub fn into_reply_in(self, bodies: ErrorBodies, presented: Presented, request_id: &str) -> Reply {
        let reply =
            self.credential.and_then(|fault| wording::refusal(bodies, fault, presented, &self.detail));
        let mut reply = reply.unwrap_or_else(|| self.document_in(bodies, request_id));
        let challenge = wording::challenge(bodies, reply.status());
        let unauthorized = reply.status() == StatusCode::UNAUTHORIZED;
        let headers = reply.headers_mut();
        for (name, value) in self.headers {
            // Elsewhere than on a 401 (and a 403 for a scope) a challenge means nothing.
            let told = name != WWW_AUTHENTICATE
                || (challenge.is_none() && (unauthorized || self.status != StatusCode::UNAUTHORIZED));
            if told {
                headers.append(name, value);
            }
        }
        if let Some((name, value)) = challenge {
            headers.insert(name, value);
        }
        reply
    }

    /// The problem as a response.
    #[must_use]
    pub fn into_reply(self, request_id: &str) -> Reply {
        self.into_reply_in(ErrorBodies::Problem, Presented::Nothing, request_id)
    }

    fn document_in(&self, bodies: ErrorBodies, request_id: &str) -> Reply {
        let document = Document {
            r#type: format_args!("urn:gatepost:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            message: &self.detail,
            code: self.code,
            request_id,
            errors: &self.errors,
        };
        let mut reply = wording::beside(bodies, &document).unwrap_or_else(|| json(self.status, &document));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        reply
    }
}

/// The body, with RFC 9457's members first.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    r#type: std::fmt::Arguments<'a>,
    pub(super) title: &'a str,
    pub(super) status: u16,
    pub(super) detail: &'a str,
    message: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_that_clients_read() {
        let reply = Problem::new(StatusCode::UNAUTHORIZED, "invalid_token", "the token is not valid")
            .challenge(Some(("invalid_token", "bad signature")))
            .retry_after(Duration::from_millis(1200))
            .into_reply("req-1");
        let body: serde_json::Value = serde_json::from_slice(reply.body()).expect("JSON");
        assert_eq!(reply.status(), 401);
        assert_eq!(reply.headers()["content-type"], "application/problem+json");
        assert_eq!(reply.headers()["cache-control"], "no-store");
        assert_eq!(reply.headers()["retry-after"], "2");
        assert_eq!(
            reply.headers()["www-authenticate"],
            r#"Bearer realm="gatepost", error="invalid_token", error_description="bad signature""#
        );
        assert_eq!(body["type"], "urn:gatepost:problem:invalid_token");
        assert_eq!(body["message"], body["detail"]);
        assert_eq!(body["code"], "invalid_token");
        assert_eq!(body["request_id"], "req-1");
        assert!(body.get("errors").is_none());
    }
}
