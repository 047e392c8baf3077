//! Header lines that are made once and sent many times: as bytes for HTTP/1, as a map for HTTP/2.
//!
//! What a request gets from us is the same for every request of a token or of a connection. Putting a
//! dozen headers into a map, only to write them out of it again, costs more than all that is decided.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Headers, each of a name of its own, and how they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderLines {
    /// The values are pieces of `wire`: what is kept for each token should be small and in one place.
    headers: Box<[(HeaderName, HeaderValue)]>,
    wire: Bytes,
}

impl HeaderLines {
    /// These headers. No name may be there twice.
    #[must_use]
    pub fn new(mut headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        let length = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let mut wire = Vec::with_capacity(length);
        for (name, value) in &headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                wire.extend_from_slice(part);
            }
        }
        let wire = Bytes::from(wire);
        let mut end = 0;
        for (name, value) in &mut headers {
            end += name.as_str().len() + value.len() + 4;
            let piece = wire.slice(end - 2 - value.len()..end - 2);
            if let Ok(piece) = HeaderValue::from_maybe_shared(piece) {
                *value = piece;
            }
        }
        Self { headers: headers.into_boxed_slice(), wire }
    }

    /// Sets them, each exactly once.
    pub fn set(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// The lines of an HTTP/1 head (RFC 9112 section 5), each with its end.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.wire
    }

    /// The headers and their values.
    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.headers.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_say_what_the_map_says() {
        let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let lines =
            HeaderLines::new(vec![header("x-auth-user", "alice"), header("x-auth-roles", "admin,user")]);
        assert_eq!(lines.as_bytes(), b"x-auth-user: alice\r\nx-auth-roles: admin,user\r\n");
        let mut map = HeaderMap::new();
        map.insert("x-auth-user", HeaderValue::from_static("mallory"));
        lines.set(&mut map);
        assert_eq!(
            (map.len(), &map["x-auth-user"], &map["x-auth-roles"]),
            (2, &"alice".parse().expect("a value"), &"admin,user".parse().expect("a value"))
        );
    }
}
