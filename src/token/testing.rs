//! What the tests of tokens have in common: settings, a principal, and a forger that signs anything.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keyring::{KeyPurpose, KeyRing, StoredKey};
use crate::clock::Timestamp;
use crate::identity::{Principal, PrincipalEmail, SessionId, TokenId};
use crate::secret::Secret;
use crate::settings::{CredentialForm, SigningAlgorithm, TokenSettings};

/// When the tests happen, in seconds.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
pub(crate) const JTI: &str = "4ab2bb3f-19bb-4f2a-8ee1-0c2f1f0a6c11";
pub(crate) const SID: &str = "c7e1f2d0-5a50-4e4c-9d38-0b8c3b0e7d22";

pub(crate) fn now() -> Timestamp {
    Timestamp::from_secs(NOW)
}

pub(crate) fn settings(algorithm: SigningAlgorithm) -> TokenSettings {
    TokenSettings {
        issuer: "gatepost".to_owned(),
        audience: vec!["app".to_owned()],
        algorithm,
        access_ttl: Duration::from_mins(15),
        refresh_ttl: Duration::from_hours(720),
        session_ttl: Duration::from_hours(2160),
        refresh_grace: Duration::from_secs(10),
        leeway: Duration::from_secs(5),
        accept: vec![CredentialForm::Bearer],
        claims: Vec::new(),
        cache_bytes: 1 << 20,
        fixed_claims: Vec::new(),
        previous_secrets: Vec::new(),
        legacy: Vec::new(),
    }
}

pub(crate) fn eddsa() -> TokenSettings {
    settings(SigningAlgorithm::EdDsa)
}

pub(crate) fn hs256() -> TokenSettings {
    settings(SigningAlgorithm::Hs256(Secret::new(SECRET.to_vec())))
}

/// A signing key and a refresh key.
pub(crate) fn stored_keys() -> Vec<StoredKey> {
    [KeyPurpose::SignAccess, KeyPurpose::Refresh]
        .map(|purpose| StoredKey::generate(purpose, now()).unwrap())
        .to_vec()
}

pub(crate) fn ring(settings: &TokenSettings, stored: &[StoredKey]) -> KeyRing {
    KeyRing::load(&settings.algorithm, stored).unwrap()
}

pub(crate) fn principal(id: &str) -> Principal {
    Principal {
        id: id.parse().unwrap(),
        username: Arc::from("alice"),
        name: Some(Arc::from("Alice Ä. Example")),
        email: Some(PrincipalEmail { address: "alice@example.com".parse().unwrap(), verified: true }),
        roles: ["user", "editor"].map(|role| role.parse().unwrap()).into_iter().collect(),
        session: SID.parse::<SessionId>().unwrap(),
        generation: 3,
    }
}

pub(crate) fn token_id() -> TokenId {
    JTI.parse().unwrap()
}

/// Signs whatever it is told to with a key that the verifier trusts, or should not.
pub(crate) enum Forger {
    Ed25519(Vec<u8>),
    Hmac(Vec<u8>),
}

impl Forger {
    pub(crate) fn with(settings: &TokenSettings, stored: &[StoredKey]) -> Self {
        match &settings.algorithm {
            SigningAlgorithm::EdDsa => Self::Ed25519(stored[0].material.bytes().to_vec()),
            SigningAlgorithm::Hs256(secret) => Self::Hmac(secret.expose().clone()),
        }
    }

    pub(crate) fn sign(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.signature(&message);
        format!("{message}.{signature}")
    }

    pub(crate) fn signature(&self, message: &str) -> String {
        match self {
            Self::Ed25519(pkcs8) => {
                let key = signature::Ed25519KeyPair::from_pkcs8(pkcs8).unwrap();
                URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()))
            }
            Self::Hmac(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()))
            }
        }
    }
}

/// A JSON object from pairs of name and raw value, in this order, repeats included.
pub(crate) fn object(members: &[(String, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// The claims of a good token, raw.
pub(crate) fn good_claims() -> Vec<(String, String)> {
    [
        ("iss", "\"gatepost\"".to_owned()),
        ("aud", "\"app\"".to_owned()),
        ("sub", "\"u-1\"".to_owned()),
        ("iat", NOW.to_string()),
        ("nbf", NOW.to_string()),
        ("exp", (NOW + 900).to_string()),
        ("jti", format!("\"{JTI}\"")),
        ("sid", format!("\"{SID}\"")),
        ("gen", "3".to_owned()),
        ("username", "\"alice\"".to_owned()),
        ("roles", "[\"user\"]".to_owned()),
        ("amr", "[\"pwd\"]".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The good claims with one of them replaced or, where there was none, added.
pub(crate) fn claims_with(name: &str, raw: &str) -> String {
    let mut claims = good_claims();
    match claims.iter_mut().find(|(known, _)| known == name) {
        Some((_, value)) => raw.clone_into(value),
        None => claims.push((name.to_owned(), raw.to_owned())),
    }
    object(&claims)
}

/// The good claims without one of them.
pub(crate) fn claims_without(name: &str) -> String {
    let mut claims = good_claims();
    claims.retain(|(known, _)| known != name);
    object(&claims)
}

/// The good claims and one more member at the end, whatever was there.
pub(crate) fn claims_and(name: &str, raw: &str) -> String {
    let mut claims = good_claims();
    claims.push((name.to_owned(), raw.to_owned()));
    object(&claims)
}
