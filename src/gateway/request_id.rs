//! Request ids: one for each request, in the log, in refusals and at the upstream.

use std::cell::Cell;

use http::HeaderMap;
use http::header::HeaderValue;
use uuid::Uuid;

/// Makes request ids for one worker: a random start and a count, so that a request costs no random
/// bytes. An id names a request and is no secret.
#[derive(Debug)]
pub(super) struct RequestIds {
    prefix: u64,
    next: Cell<u64>,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        let (prefix, next) = Uuid::new_v4().as_u64_pair();
        Self { prefix, next: Cell::new(next) }
    }

    /// The id that a trusted proxy gave, else a new one: 32 hex digits.
    pub(super) fn of(&self, headers: &HeaderMap, trusted: bool) -> RequestId {
        let given = if trusted { headers.get("x-request-id") } else { None };
        let usable = |value: &&HeaderValue| {
            !value.is_empty() && value.len() <= 128 && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        match given.filter(usable) {
            Some(value) => RequestId::Given(value.clone()),
            None => RequestId::Own(self.make()),
        }
    }

    fn make(&self) -> [u8; 32] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let count = self.next.get();
        self.next.set(count.wrapping_add(1));
        let mut text = [0; 32];
        for (half, number) in text.chunks_exact_mut(16).zip([self.prefix, count]) {
            for (digits, byte) in half.chunks_exact_mut(2).zip(number.to_be_bytes()) {
                digits[0] = HEX[usize::from(byte >> 4)];
                digits[1] = HEX[usize::from(byte & 15)];
            }
        }
        text
    }
}

/// A request's id.
#[derive(Clone, Debug)]
pub(super) enum RequestId {
    /// Ours, as hex digits.
    Own([u8; 32]),
    /// A trusted proxy's.
    Given(HeaderValue),
}

impl RequestId {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Own(text) => std::str::from_utf8(text).unwrap_or_default(),
            Self::Given(value) => value.to_str().unwrap_or_default(),
        }
    }

    pub(super) fn to_value(&self) -> HeaderValue {
        match self {
            Self::Own(text) => HeaderValue::from_bytes(text).expect("hex digits are a header value"),
            Self::Given(value) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_only_a_trusted_one_is_kept() {
        let ids = RequestIds::new();
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("abc-1"));
        assert_eq!(ids.of(&headers, true).as_str(), "abc-1");
        let (first, second) = (ids.of(&headers, false), ids.of(&headers, false));
        assert_ne!(first.as_str(), second.as_str());
        assert_eq!((first.as_str().len(), first.to_value().len()), (32, 32));
        headers.insert("x-request-id", HeaderValue::from_static("two words"));
        assert_eq!(ids.of(&headers, true).as_str().len(), 32);
    }
}
