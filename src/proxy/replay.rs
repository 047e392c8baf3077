//! A request once more, from the bytes that were sent the first time.
//!
//! A server may close a connection at the moment at which a request is written to it. When that can be
//! repeated (RFC 9112 section 9.3.1: idempotent, without a body), it is sent on another connection. This
//! is rare, so nothing is kept for it but the bytes.

use http::Request;

use super::body::RequestBody;

/// Header lines of a request of ours: what hyper read from the client, and what was added.
const HEADERS_MAX: usize = 256;

/// The request whose head these bytes are; `None` when they are not a whole head.
pub(super) fn request(head: &[u8]) -> Option<Request<RequestBody>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    if !parsed.parse(head).ok()?.is_complete() {
        return None;
    }
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for header in parsed.headers.iter() {
        request = request.header(header.name, header.value);
    }
    request.body(RequestBody::Empty).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_gives_the_request_that_it_was() {
        let head =
            b"DELETE /a?b=%20 HTTP/1.1\r\nhost: x\r\ncookie: a\r\ncookie: b\r\nx-auth-name: %C3%84\r\n\r\n";
        let request = request(head).expect("a whole head");
        assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("DELETE", "/a?b=%20"));
        let lines: Vec<_> = request.headers().iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        let expected: [(&str, &[u8]); 4] =
            [("host", b"x"), ("cookie", b"a"), ("cookie", b"b"), ("x-auth-name", b"%C3%84")];
        assert_eq!(lines, expected);
    }

    #[test]
    fn half_a_head_gives_nothing() {
        assert!(request(b"GET / HTTP/1.1\r\nhost: x\r\n").is_none());
        assert!(request(b"").is_none());
    }
}
