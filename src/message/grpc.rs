//! Refusals as gRPC clients read them: HTTP 200, no body, and the status in the trailers' place.
//!
//! A gRPC client takes any other HTTP status for a broken proxy in between and loses the reason, so a
//! call that the gateway refuses is answered "trailers-only" (gRPC over HTTP/2, section Responses). What
//! is logged and counted stays the HTTP status. The mapping is gRPC's own for HTTP statuses where that
//! says enough, and its status code definitions where it does not.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::reply::{Problem, Reply};

/// What `grpc-message` has to escape: all but printable ASCII, and the percent sign.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A call's content type, when it is one of gRPC's: `application/grpc`, with a suffix (`+proto`), with
/// parameters, or `application/grpc-web`.
#[must_use]
pub fn content_type(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(CONTENT_TYPE)?;
    let (kind, rest) = value.as_bytes().split_at_checked("application/grpc".len())?;
    let ends = matches!(rest.first(), None | Some(b'+' | b';' | b'-' | b' '));
    (kind.eq_ignore_ascii_case(b"application/grpc") && ends).then(|| value.clone())
}

/// The refusal as an answer to a call of this content type.
#[must_use]
pub fn refusal(content_type: HeaderValue, problem: &Problem, request_id: &HeaderValue) -> Reply {
    let text = format!("{}: {}", problem.code, problem.detail);
    let message = percent_encode(text.as_bytes(), ESCAPED).to_string();
    let mut reply = Response::new(Bytes::new());
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(GRPC_STATUS.clone(), HeaderValue::from(status(problem.status)));
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert(GRPC_MESSAGE.clone(), message);
    }
    headers.insert(X_REQUEST_ID.clone(), request_id.clone());
    reply
}

/// gRPC's status for one of HTTP's.
const fn status(http: StatusCode) -> u16 {
    match http.as_u16() {
        400 | 500 => 13,       // INTERNAL
        401 => 16,             // UNAUTHENTICATED
        403 => 7,              // PERMISSION_DENIED
        404 | 405 | 501 => 12, // UNIMPLEMENTED
        408 | 504 => 4,        // DEADLINE_EXCEEDED
        413 | 429 | 431 => 8,  // RESOURCE_EXHAUSTED
        502 | 503 => 14,       // UNAVAILABLE
        _ => 2,                // UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_content_type() {
        let cases = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("APPLICATION/GRPC;x=y", true),
            ("application/grpc-web", true),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ];
        for (value, is_call) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(content_type(&headers).is_some(), is_call, "{value}");
        }
        assert_eq!(content_type(&HeaderMap::new()), None);
    }

    #[test]
    fn a_refusal_has_a_status_and_an_escaped_message_and_no_body() {
        let cases = [
            (StatusCode::BAD_REQUEST, "13"),
            (StatusCode::UNAUTHORIZED, "16"),
            (StatusCode::FORBIDDEN, "7"),
            (StatusCode::NOT_FOUND, "12"),
            (StatusCode::METHOD_NOT_ALLOWED, "12"),
            (StatusCode::PAYLOAD_TOO_LARGE, "8"),
            (StatusCode::TOO_MANY_REQUESTS, "8"),
            (StatusCode::BAD_GATEWAY, "14"),
            (StatusCode::SERVICE_UNAVAILABLE, "14"),
            (StatusCode::GATEWAY_TIMEOUT, "4"),
            (StatusCode::IM_A_TEAPOT, "2"),
        ];
        for (status, expected) in cases {
            let problem = Problem::new(status, "some_code", "100% ümlaut\n");
            let kind = HeaderValue::from_static("application/grpc");
            let reply = refusal(kind, &problem, &HeaderValue::from_static("id-1"));
            assert_eq!(reply.status(), 200);
            assert_eq!(reply.headers()["grpc-status"], expected, "{status}");
            assert_eq!(reply.headers()["grpc-message"], "some_code: 100%25 %C3%BCmlaut%0A");
            assert_eq!(reply.headers()["x-request-id"], "id-1");
            assert!(reply.body().is_empty());
        }
    }
}
