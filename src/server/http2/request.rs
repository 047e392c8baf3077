//! An HTTP/2 request's head as the steps know requests: one `Host`, one `Cookie`, no protocol of its own.
//!
//! The h2 crate has refused what is malformed (RFC 9113 section 8.2: upper case, connection-specific
//! fields, `TE` other than `trailers`; section 8.3: pseudo-header fields that are missing, repeated,
//! unknown or late). What could be read in two ways is made to be refused here.

use bytes::{BufMut as _, BytesMut};
use h2::ext::Protocol;
use http::header::{COOKIE, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Version};

use crate::message::inbound::HeadRemark;
use crate::websocket::Handshake;

/// What a stream asks for.
pub(super) enum Wish {
    /// An answer.
    Answer(Option<HeadRemark>),
    /// A WebSocket (RFC 8441).
    Tunnel(Option<HeadRemark>),
}

impl Wish {
    pub(super) const fn remark(&self) -> Option<HeadRemark> {
        match self {
            Self::Answer(remark) | Self::Tunnel(remark) => *remark,
        }
    }
}

/// Makes a head an ordinary one, and says what is wanted.
pub(super) fn adopt(parts: &mut Parts, header_count: usize) -> Wish {
    set_host(parts);
    join_cookies(&mut parts.headers);
    let remark = (parts.headers.len() > header_count).then_some(HeadRemark::TooLarge);
    let websocket = parts.method == Method::CONNECT
        && parts.extensions.remove::<Protocol>().is_some_and(|it| it.as_str() == "websocket");
    if websocket && let Ok(handshake) = Handshake::own() {
        parts.method = Method::GET;
        parts.version = Version::HTTP_11;
        handshake.ask(&mut parts.headers);
        return Wish::Tunnel(remark);
    }
    // Any other CONNECT stays one, and no CONNECT is served.
    Wish::Answer(remark)
}

/// `:authority` is the host (RFC 9113 section 8.3.1). Where there is a `Host` as well that says something
/// else, both stay, and are refused like any two hosts.
fn set_host(parts: &mut Parts) {
    let Some(authority) = parts.uri.authority() else { return };
    let Ok(host) = HeaderValue::from_str(authority.as_str()) else { return };
    let mut lines = parts.headers.get_all(HOST).iter();
    let differs = lines.any(|line| !line.as_bytes().eq_ignore_ascii_case(host.as_bytes()));
    if differs {
        parts.headers.append(HOST, host);
    } else if parts.headers.get_all(HOST).iter().nth(1).is_none() {
        parts.headers.insert(HOST, host);
    }
}

/// Clients may send each cookie by itself; elsewhere there is one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = BytesMut::from(first.as_bytes());
    for line in std::iter::once(second).chain(lines) {
        joined.put_slice(b"; ");
        joined.put_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(joined.freeze()) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(uri: &str, lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri).version(Version::HTTP_2);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn hosts(mut parts: Parts) -> Vec<String> {
        adopt(&mut parts, 100);
        let lines = parts.headers.get_all(HOST).iter();
        lines.map(|line| line.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn the_authority_is_the_host_unless_another_is_named() {
        assert_eq!(hosts(parts("http://a.example:80/x", &[])), ["a.example:80"]);
        assert_eq!(hosts(parts("/x", &[("host", "a.example")])), ["a.example"]);
        assert_eq!(hosts(parts("http://a.example/x", &[("host", "A.example")])), ["a.example"]);
        assert_eq!(hosts(parts("/x", &[])), Vec::<String>::new());
        for others in [&["b.example"][..], &["a.example:1"], &["a.example", "b.example"]] {
            let lines: Vec<_> = others.iter().map(|other| ("host", *other)).collect();
            assert!(hosts(parts("http://a.example/x", &lines)).len() > 1, "{others:?}");
        }
        let twice = [("host", "a.example"), ("host", "a.example")];
        assert_eq!(hosts(parts("http://a.example/x", &twice)).len(), 2, "repeated is repeated");
    }

    #[test]
    fn cookies_become_one_line_and_lines_are_counted() {
        let mut head = parts("http://a/", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        assert_eq!(adopt(&mut head, 2).remark(), None);
        assert_eq!(head.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        assert_eq!(adopt(&mut head, 1).remark(), Some(HeadRemark::TooLarge));
    }

    #[test]
    fn only_connect_for_a_websocket_becomes_a_handshake() {
        let mut connect = parts("https://a/chat", &[]);
        connect.method = Method::CONNECT;
        connect.extensions.insert(Protocol::from("websocket"));
        assert!(matches!(adopt(&mut connect, 100), Wish::Tunnel(None)));
        assert!(Handshake::of(&connect).is_some());
        for protocol in ["connect-udp", "WebSocket", ""] {
            let mut connect = parts("https://a/chat", &[]);
            connect.method = Method::CONNECT;
            connect.extensions.insert(Protocol::from(protocol));
            assert!(matches!(adopt(&mut connect, 100), Wish::Answer(None)), "{protocol}");
            assert_eq!(connect.method, Method::CONNECT);
        }
    }
}
