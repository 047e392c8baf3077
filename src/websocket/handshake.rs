//! Who asks for a WebSocket, and whether the answer agrees (RFC 6455 section 4).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Version, request};

/// What every server puts behind the key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client's wish to open a WebSocket.
#[derive(Clone, Debug)]
pub struct Handshake {
    key: HeaderValue,
}

impl Handshake {
    /// The handshake that a request is, if it is one in every respect (RFC 6455 section 4.2.1). Anything
    /// less is an ordinary request.
    #[must_use]
    pub fn of(parts: &request::Parts) -> Option<Self> {
        let headers = &parts.headers;
        let protocol = only(headers, &UPGRADE)?;
        let asks = protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
            && parts.method == Method::GET
            && parts.version == Version::HTTP_11
            && names_upgrade(headers)
            && !headers.contains_key(TRANSFER_ENCODING)
            && headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
            && only(headers, &SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
        let key = only(headers, &SEC_WEBSOCKET_KEY)?;
        (asks && is_key(key)).then(|| Self { key: key.clone() })
    }

    /// One of our own, for a client that speaks HTTP/2 and needs none (RFC 8441 section 5.1).
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn own() -> Result<Self, getrandom::Error> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        Ok(Self { key: base64_value(&nonce) })
    }

    /// Says it to the next hop: whatever the headers were stripped of before, they ask now.
    pub fn ask(&self, headers: &mut HeaderMap) {
        agree(headers);
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, self.key.clone());
    }

    /// Whether the head of a 101 agrees to this very handshake.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        if only(headers, &UPGRADE).is_none_or(|it| !it.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Err("it switches to another protocol than the one asked for");
        }
        if !names_upgrade(headers) {
            return Err("it switches protocols without Connection: upgrade");
        }
        let accept = only(headers, &SEC_WEBSOCKET_ACCEPT);
        if accept.is_none_or(|accept| accept.as_bytes() != self.accept().as_bytes()) {
            return Err("its Sec-WebSocket-Accept does not belong to the request");
        }
        Ok(())
    }

    /// What the server has to say to the key.
    fn accept(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        context.update(self.key.as_bytes());
        context.update(GUID);
        STANDARD.encode(context.finish())
    }
}

/// The two lines of a handshake that end at each hop, and are said anew at the next.
/// Neither has a length: what follows is no longer HTTP.
pub(crate) fn agree(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.remove(CONTENT_LENGTH);
}

/// The one line of this name.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?;
    lines.next().is_none().then_some(line)
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let mut names = headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Sixteen bytes in base64.
fn is_key(value: &HeaderValue) -> bool {
    value.len() == 24 && STANDARD.decode(value).is_ok_and(|nonce| nonce.len() == 16)
}

fn base64_value(bytes: &[u8]) -> HeaderValue {
    HeaderValue::try_from(STANDARD.encode(bytes)).expect("base64 is made of visible characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    /// RFC 6455 section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn parts(lines: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder();
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn good() -> Vec<(&'static str, &'static str)> {
        vec![
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ]
    }

    #[test]
    fn a_handshake_is_one_in_every_respect() {
        assert!(Handshake::of(&parts(&good())).is_some());
        let lines: &[(&str, &[&str])] = &[
            ("upgrade", &["", "h2c", "websocket, h2c", "websockets"]),
            ("connection", &["", "close", "upgrade-insecure"]),
            ("sec-websocket-version", &["", "8", "13, 8"]),
            ("sec-websocket-key", &["", "short", "dGhlIHNhbXBsZSBub25jZQ=!", "dGhlIHNhbXBsZSBub25jZTE="]),
        ];
        for (name, values) in lines {
            for value in *values {
                let others = good().into_iter().filter(|(other, _)| other != name);
                let lines: Vec<_> = others.chain([(*name, *value)]).collect();
                assert!(Handshake::of(&parts(&lines)).is_none(), "{name}: {value}");
            }
            let twice: Vec<_> =
                good().into_iter().chain(good().into_iter().filter(|(n, _)| n == name)).collect();
            assert_eq!(Handshake::of(&parts(&twice)).is_some(), *name == "connection", "{name} twice");
        }
        for (name, value) in [("content-length", "1"), ("transfer-encoding", "chunked")] {
            let lines: Vec<_> = good().into_iter().chain([(name, value)]).collect();
            assert!(Handshake::of(&parts(&lines)).is_none(), "{name}");
        }
        let with = |change: fn(&mut request::Parts)| {
            let mut parts = parts(&good());
            change(&mut parts);
            Handshake::of(&parts)
        };
        assert!(with(|parts| parts.method = Method::POST).is_none());
        assert!(with(|parts| parts.version = Version::HTTP_10).is_none());
    }

    #[test]
    fn only_the_answer_to_this_key_agrees() {
        let handshake = Handshake::of(&parts(&good())).expect("it is good");
        let check = |lines: &[(&str, &str)]| handshake.check(&parts(lines).headers);
        let (upgrade, connection) = (("upgrade", "websocket"), ("connection", "Upgrade"));
        check(&[upgrade, connection, ("sec-websocket-accept", ACCEPT)]).expect("it agrees");
        for (what, lines) in [
            ("another protocol", vec![("upgrade", "h2c"), connection, ("sec-websocket-accept", ACCEPT)]),
            ("no connection", vec![upgrade, ("sec-websocket-accept", ACCEPT)]),
            ("no accept", vec![upgrade, connection]),
            ("the key itself", vec![upgrade, connection, ("sec-websocket-accept", KEY)]),
        ] {
            check(&lines).expect_err(what);
        }
    }

    #[test]
    fn a_handshake_of_ours_is_one() {
        let own = Handshake::own().expect("there is randomness");
        let mut request = parts(&[]);
        own.ask(&mut request.headers);
        let read = Handshake::of(&request).expect("it is one");
        assert_eq!(read.key, own.key);
        assert_ne!(Handshake::own().expect("there is randomness").key, own.key);
    }
}
