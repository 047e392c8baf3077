//! Clear text that leads to TLS: a permanent redirect for everything, and what an ACME authority looks for.
//!
//! Nothing here reaches the gateway or an upstream. 308 (RFC 9110 section 15.4.9) keeps method and body:
//! a client that posts in clear text once is at least understood.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};

use super::worker::Worker;
use crate::gateway::Body;
use crate::message::inbound::read_host;
use crate::metrics::RedirectResult;

/// The port that URLs leave out (RFC 9110 section 4.2.2).
const HTTPS: u16 = 443;

/// The answer of a redirecting listener.
pub(super) fn answer<B>(worker: &Worker, request: &Request<B>) -> Response<Body> {
    let count = |result| worker.metrics().redirects.of(result).add_one();
    if let Some(response) = challenge(worker, request.uri().path()) {
        return response;
    }
    let Some(location) = location(request, worker.https_port()) else {
        count(RedirectResult::Refused);
        return text(StatusCode::BAD_REQUEST, "This request does not say which host it is for.\n");
    };
    count(RedirectResult::Redirected);
    let mut response = text(StatusCode::PERMANENT_REDIRECT, "This is served over https.\n");
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The answer to an ACME challenge of ours that is open (RFC 8555 section 8.3).
fn challenge(worker: &Worker, path: &str) -> Option<Response<Body>> {
    let file = worker.tls()?.challenges().file(path)?;
    worker.metrics().redirects.of(RedirectResult::Challenge).add_one();
    let mut response = Response::new(Bytes::from(file));
    let content_type = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Some(Body::own(response))
}

/// The same place over TLS; `None` unless there is exactly one well-formed host.
fn location<B>(request: &Request<B>, port: Option<u16>) -> Option<HeaderValue> {
    if request.method() == Method::CONNECT {
        return None;
    }
    let host = read_host(request.uri(), request.headers()).ok()?;
    let place = place(request.uri())?;
    let location = match port {
        None | Some(HTTPS) => format!("https://{}{place}", host.as_str()),
        Some(port) => format!("https://{}:{port}{place}", host.as_str()),
    };
    HeaderValue::from_str(&location).ok()
}

/// Path and query, as they came, when they can stand in a header.
fn place(uri: &Uri) -> Option<&str> {
    let place = uri.path_and_query()?.as_str();
    // An absolute target may have a query and no path, `OPTIONS *` has neither.
    let is_plain = place.bytes().all(|byte| byte.is_ascii_graphic());
    (place.starts_with('/') && is_plain).then_some(place)
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status.is_client_error() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Body::own(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(method: &str, target: &str, hosts: &[&str], port: Option<u16>) -> Option<String> {
        let mut request = Request::builder().method(method).uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        let location = super::location(&request.body(()).expect("a request"), port)?;
        Some(location.to_str().expect("text").to_owned())
    }

    #[test]
    fn the_same_place_over_tls() {
        let to = |place: &str| Some(place.to_owned());
        assert_eq!(location("GET", "/a/b?c=d", &["Example.com:80"], None), to("https://example.com/a/b?c=d"));
        assert_eq!(location("POST", "/", &["example.com"], Some(443)), to("https://example.com/"));
        assert_eq!(location("GET", "/", &["example.com:8080"], Some(8443)), to("https://example.com:8443/"));
        assert_eq!(location("GET", "/", &["[::1]:80"], Some(8443)), to("https://[::1]:8443/"));
        assert_eq!(location("GET", "//evil.org/", &["a"], None), to("https://a//evil.org/"));
        assert_eq!(location("GET", "http://a/b", &["a"], None), to("https://a/b"));
        assert_eq!(location("GET", "/%0d%0aSet-Cookie:x", &["a"], None), to("https://a/%0d%0aSet-Cookie:x"));
    }

    #[test]
    fn nobody_is_sent_to_a_host_that_is_not_certain() {
        for hosts in
            [&[][..], &["a", "b"], &["a", "a"], &[""], &["a b"], &["a@b"], &["a/b"], &["a:b"], &["a,b"]]
        {
            assert_eq!(location("GET", "/", hosts, None), None, "{hosts:?}");
        }
        assert_eq!(location("GET", "http://b/", &["a"], None), None);
        assert_eq!(location("OPTIONS", "*", &["a"], None), None);
        assert_eq!(location("CONNECT", "a:443", &["a:443"], None), None);
    }
}
