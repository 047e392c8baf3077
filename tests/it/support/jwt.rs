//! Tokens as an attacker makes them: taken apart, changed, and signed with whatever is at hand.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// One of the three parts.
pub fn part(token: &str, index: usize) -> &str {
    token.split('.').nth(index).unwrap()
}

pub fn header(token: &str) -> Value {
    serde_json::from_slice(&decode(part(token, 0))).unwrap()
}

pub fn claims(token: &str) -> Value {
    serde_json::from_slice(&decode(part(token, 1))).unwrap()
}

/// Header and claims as given, byte for byte, under HMAC-SHA-256.
pub fn hs256_raw(secret: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(tag))
}

pub fn hs256(secret: &[u8], header: &Value, claims: &Value) -> String {
    hs256_raw(secret, &header.to_string(), &claims.to_string())
}

/// Now, in seconds, as tokens have it.
#[expect(clippy::disallowed_methods, reason = "the process under test runs on the machine's clock")]
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
