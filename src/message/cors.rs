//! Pages of other origins: the [Fetch] standard's CORS protocol, for what the gateway itself answers.
//!
//! It opens what a browser closes, and protects nothing: who is no browser needs no leave. So no decision
//! about a request depends on it; it only says which pages may read the answer. An origin is never
//! repeated unless it stands in the configuration, and with "every origin" there are no credentials.
//!
//! [Fetch]: https://fetch.spec.whatwg.org/#http-cors-protocol

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Body as _;

use super::body::ClientBody;
use super::reply::Reply;
use crate::settings::{CorsOrigins, CorsSettings};

/// What scripts may read of our answers, beside what they always may.
const EXPOSED: HeaderValue = HeaderValue::from_static("Retry-After, WWW-Authenticate");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// `[cors]`, as it is sent.
#[derive(Debug)]
pub struct Cors {
    /// `None`: every one.
    origins: Option<Vec<HeaderValue>>,
    headers: HeaderValue,
    credentials: bool,
    max_age: HeaderValue,
}

/// What one request's origin is told.
#[derive(Debug)]
pub struct Admission<'c> {
    cors: &'c Cors,
    /// `None`: it is not let in, or is none.
    origin: Option<HeaderValue>,
}

impl Cors {
    /// `None` when nobody is let in.
    #[must_use]
    pub fn new(settings: &CorsSettings) -> Option<Self> {
        if !settings.is_on() {
            return None;
        }
        let origins = match &settings.origins {
            CorsOrigins::Any => None,
            // What is no header value is nobody's origin.
            CorsOrigins::These(origins) => {
                Some(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect())
            }
        };
        let names: Vec<&str> = settings.headers.iter().map(HeaderName::as_str).collect();
        Some(Self {
            credentials: settings.credentials && origins.is_some(),
            origins,
            headers: HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static("")),
            max_age: HeaderValue::from(settings.max_age.as_secs()),
        })
    }

    /// Looks at a request's `Origin`; one that is there twice is none.
    #[must_use]
    pub fn admit(&self, headers: &HeaderMap) -> Admission<'_> {
        let origin = match &self.origins {
            None => Some(ANY),
            Some(known) => {
                only(headers, &ORIGIN).and_then(|origin| known.iter().find(|known| *known == origin)).cloned()
            }
        };
        Admission { cors: self, origin }
    }
}

impl Admission<'_> {
    /// Writes it into an answer of ours. What depends on the origin says so, to whomever it was given: a
    /// cache must not hand it to others.
    pub fn mark(self, headers: &mut HeaderMap) {
        if self.cors.origins.is_some() {
            headers.append(VARY, HeaderValue::from_name(ORIGIN));
        }
        let Some(origin) = self.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if self.cors.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
    }

    /// The answer to a preflight for `method`, still to be marked; `None` when the origin is not let in.
    #[must_use]
    pub fn answer(&self, method: &Method) -> Option<Reply> {
        self.origin.as_ref()?;
        let mut reply = Reply::new(Bytes::new());
        *reply.status_mut() = StatusCode::NO_CONTENT;
        let headers = reply.headers_mut();
        let method = HeaderValue::from_str(method.as_str()).ok()?;
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
        if !self.cors.headers.is_empty() {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.cors.headers.clone());
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.cors.max_age.clone());
        headers.append(VARY, HeaderValue::from_name(ACCESS_CONTROL_REQUEST_METHOD));
        Some(reply)
    }
}

/// The method that a browser asks leave for. Only what is a preflight is one: OPTIONS with one `Origin`, one
/// `Access-Control-Request-Method` that can be asked for, and no body. Nor is one whose `Connection` names what makes
/// it one: the app would get a plain OPTIONS.
#[must_use]
pub fn preflight(method: &Method, headers: &HeaderMap, body: &ClientBody) -> Option<Method> {
    if *method != Method::OPTIONS || !body.is_end_stream() || ends_here(headers) {
        return None;
    }
    only(headers, &ORIGIN).filter(|origin| !origin.is_empty())?;
    let wanted = only(headers, &ACCESS_CONTROL_REQUEST_METHOD)?;
    let wanted = Method::from_bytes(wanted.as_bytes()).ok()?;
    // Forbidden to scripts, and never served.
    (wanted != Method::TRACE && wanted != Method::CONNECT).then_some(wanted)
}

/// Whether a preflight would lose its own headers on the way (RFC 9110 section 7.6.1).
fn ends_here(headers: &HeaderMap) -> bool {
    let names =
        headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut names = names.map(|name| name.trim_ascii().to_ascii_lowercase());
    names.any(|name| name == b"origin" || name.starts_with(b"access-control-request-"))
}

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?;
    lines.next().is_none().then_some(line)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors(origins: CorsOrigins, credentials: bool) -> Option<Cors> {
        Cors::new(&CorsSettings {
            origins,
            headers: vec![http::header::AUTHORIZATION, http::header::CONTENT_TYPE],
            credentials,
            max_age: Duration::from_mins(10),
        })
    }

    fn these(origins: &[&str], credentials: bool) -> Cors {
        let origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        cors(CorsOrigins::These(origins), credentials).expect("somebody is let in")
    }

    fn request(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn marked(cors: &Cors, lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut answer = HeaderMap::new();
        cors.admit(&request(lines)).mark(&mut answer);
        answer.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect()
    }

    #[test]
    fn without_origins_there_is_nothing() {
        assert!(cors(CorsOrigins::These(Vec::new()), true).is_none());
    }

    #[test]
    fn an_origin_is_repeated_when_it_is_exactly_one_of_those_configured() {
        let cors = these(&["https://a.example", "https://b.example:8443"], true);
        assert_eq!(
            marked(&cors, &[("origin", "https://b.example:8443")]),
            [
                "vary: origin",
                "access-control-allow-origin: https://b.example:8443",
                "access-control-expose-headers: Retry-After, WWW-Authenticate",
                "access-control-allow-credentials: true"
            ]
        );
        let others: [&[(&str, &str)]; 10] = [
            &[],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "https://a.example.evil.test")],
            &[("origin", "https://evil.test/https://a.example")],
            &[("origin", "http://a.example")],
            &[("origin", "https://a.example:443")],
            &[("origin", "https://a.example/")],
            &[("origin", "https://A.example")],
            &[("origin", "https://a.example"), ("origin", "https://a.example")],
        ];
        for lines in others {
            assert_eq!(marked(&cors, lines), ["vary: origin"], "{lines:?}");
            assert!(cors.admit(&request(lines)).answer(&Method::GET).is_none(), "{lines:?}");
        }
    }

    #[test]
    fn every_origin_is_a_star_and_never_with_credentials() {
        // The configuration refuses the combination; should it come all the same, it is harmless.
        let cors = cors(CorsOrigins::Any, true).expect("everybody is let in");
        for lines in [&[][..], &[("origin", "null")], &[("origin", "https://x.example")]] {
            assert_eq!(
                marked(&cors, lines),
                [
                    "access-control-allow-origin: *",
                    "access-control-expose-headers: Retry-After, WWW-Authenticate"
                ]
            );
        }
    }

    #[test]
    fn a_preflights_answer_names_the_method_and_the_headers() {
        let cors = these(&["https://a.example"], false);
        let admission = cors.admit(&request(&[("origin", "https://a.example")]));
        let reply = admission.answer(&Method::PATCH).expect("let in");
        assert_eq!(reply.status(), StatusCode::NO_CONTENT);
        assert_eq!(reply.headers()["access-control-allow-methods"], "PATCH");
        assert_eq!(reply.headers()["access-control-allow-headers"], "authorization, content-type");
        assert_eq!(reply.headers()["access-control-max-age"], "600");
    }

    #[test]
    fn only_what_is_a_preflight_is_one() {
        let both = [("origin", "null"), ("access-control-request-method", "DELETE")];
        let asked = |method: &Method, lines: &[(&'static str, &'static str)], body: &ClientBody| {
            preflight(method, &request(lines), body)
        };
        assert_eq!(asked(&Method::OPTIONS, &both, &ClientBody::Empty), Some(Method::DELETE));
        assert_eq!(asked(&Method::GET, &both, &ClientBody::Empty), None);
        assert_eq!(asked(&Method::from_bytes(b"options").expect("a token"), &both, &ClientBody::Empty), None);
        let others: [&[(&str, &str)]; 8] = [
            &both[..1],
            &both[1..],
            &[both[0], both[0], both[1]],
            &[both[0], both[1], both[1]],
            &[("origin", ""), both[1]],
            &[both[0], ("access-control-request-method", "GET, PUT")],
            &[both[0], ("access-control-request-method", "")],
            &[both[0], ("access-control-request-method", "TRACE")],
        ];
        for lines in others {
            assert_eq!(asked(&Method::OPTIONS, lines, &ClientBody::Empty), None, "{lines:?}");
        }
        let body = http_body_util::Full::new(Bytes::from_static(b"x"));
        let body = ClientBody::streamed(http_body_util::BodyExt::map_err(body, |never| match never {}));
        assert_eq!(asked(&Method::OPTIONS, &both, &body), None, "a body has no place in a preflight");
    }
}
