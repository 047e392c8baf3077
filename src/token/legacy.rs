//! Tokens that the app minted before: verified, never issued, and worth nothing until an account is found.
//!
//! A [`LegacyToken`] is no [`AccessToken`]: it names somebody in the app's own words, and becomes one only
//! together with the account that these words mean ([`LegacyToken::of`]). The two kinds cannot be taken for
//! one another: ours have `typ: at+jwt` and one of our `kid`s, these have `typ: JWT` or none, and neither
//! verifier reads the other's.
//!
//! Each key has its one algorithm, and is of a kind that no other algorithm can use (RFC 8725 sections 2.1
//! and 3.1): a public key is never a secret to sign with.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::access::{AccessToken, MAX_TOKEN_BYTES, TokenError, header_json, parts};
use super::claims::Object;
use super::revocation::RevocationId;
use crate::clock::Timestamp;
use crate::identity::{Principal, SessionId, TokenId};
use crate::settings::{LegacyAccount, LegacyAlgorithm, LegacyKey, LegacyTokenSettings};

/// Keeps the hash that names a token apart from every other use of its text.
const ID_LABEL: &[u8] = b"gatepost legacy token v1";

/// Claims that say what a token is for. Apps sign other things with the same key: refresh tokens, links
/// that confirm an address or reset a password. None of them lets anybody in (RFC 8725 section 3.12).
const PURPOSE_CLAIMS: [&str; 12] = [
    "type",
    "token_type",
    "tokentype",
    "typ",
    "token_use",
    "tokenuse",
    "use",
    "purpose",
    "kind",
    "action",
    "intent",
    "refresh",
];
const ACCESS_PURPOSES: [&str; 3] = ["access", "sliding", "bearer"];
/// Where some frameworks' tutorials put the purpose beside what is allowed, and how it begins there.
const SCOPE_CLAIMS: [&str; 3] = ["scope", "scopes", "scp"];
const SCOPE_PURPOSES: [&str; 8] =
    ["refresh", "reset", "forgot", "verify", "verification", "confirm", "email_token", "activat"];

/// No claim that names somebody is longer, in bytes: as long as an address may be.
const MAX_SUBJECT_BYTES: usize = 254;

/// The generation that an account must still be in. A legacy token carries none, so it is older than any
/// change that ends tokens: a new password, other roles, a logout everywhere, having been disabled.
pub const GENERATION: u64 = 0;

/// Whom a legacy token names, in the app's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The claim's value. A number is written in decimal.
    pub value: String,
    /// Whether it was a number: then it is an id.
    pub is_number: bool,
    /// What it may be of an account.
    pub account: LegacyAccount,
    /// Whether names and addresses are taken in any case.
    pub ignore_case: bool,
}

/// A token of the app's whose signature and times are good. Whether there is such an account is another
/// question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyToken {
    /// Whom it names.
    pub subject: Subject,
    /// Made from its signed bytes, as it may have none of its own: revoking it is by this.
    pub id: TokenId,
    /// The same, as the session that a login would have made.
    pub session: SessionId,
    /// Its `iat`; tokens that were put together by hand often have none. Then nobody knows how old it is.
    pub issued_at: Option<Timestamp>,
    not_before: Timestamp,
    expires_at: Timestamp,
    /// When the token itself ends, whatever is accepted here.
    ends_at: Timestamp,
}

impl LegacyToken {
    /// What the token is worth: `principal`, the account that it names.
    #[must_use]
    pub fn of(self, principal: Principal) -> AccessToken {
        AccessToken {
            revocable_by: [
                RevocationId::token(&self.id),
                RevocationId::session(&self.session),
                RevocationId::generation(&principal.id, principal.generation),
            ],
            principal,
            id: self.id,
            amr: Box::default(),
            issued_at: self.issued_at.unwrap_or_default(),
            not_before: self.not_before,
            expires_at: self.expires_at,
            refused_until: Some(self.ends_at),
        }
    }

    pub(super) fn timely(&self, now: Timestamp, leeway: Duration) -> Result<(), TokenError> {
        if now >= self.expires_at {
            return Err(TokenError::Expired);
        }
        if self.not_before > now.plus(leeway) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }

    /// When nobody can use it any more, whatever the configuration says by then.
    #[must_use]
    pub const fn ends_at(&self) -> Timestamp {
        self.ends_at
    }
}

/// Why a key does not check tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegacyKeyError {
    /// A secret for a public-key algorithm, or the other way round.
    #[error("the key is of the wrong kind")]
    Kind,
    /// Not a public key of the algorithm: another curve, another type, or RSA of less than 2048 bits.
    #[error("it is of another type, another curve, or shorter than 2048 bits")]
    Unusable,
}

/// Whether `key` can check tokens of `algorithm`.
///
/// # Errors
/// [`LegacyKeyError`]
pub fn judge_key(algorithm: LegacyAlgorithm, key: &LegacyKey) -> Result<(), LegacyKeyError> {
    Key::load(algorithm, key).map(drop)
}

/// The keys of `[[legacy_token]]`.
#[derive(Debug, Default)]
pub struct LegacyKeys {
    entries: Vec<Entry>,
    /// Never in a legacy token's header.
    own_kids: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    settings: LegacyTokenSettings,
    key: Key,
}

/// A key that can verify by one algorithm, and sign nothing.
enum Key {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(***)",
            Self::Public(_) => "Public(..)",
        })
    }
}

impl Key {
    fn load(algorithm: LegacyAlgorithm, key: &LegacyKey) -> Result<Self, LegacyKeyError> {
        match (by(algorithm), key) {
            (By::Hmac(hash), LegacyKey::Secret(secret)) => {
                Ok(Self::Secret(Box::new(hmac::Key::new(hash, secret.expose()))))
            }
            (By::Signature(algorithm), LegacyKey::Public(der)) => {
                ParsedPublicKey::new(algorithm, der).map(Self::Public).map_err(|_| LegacyKeyError::Unusable)
            }
            (By::Hmac(_), LegacyKey::Public(_)) | (By::Signature(_), LegacyKey::Secret(_)) => {
                Err(LegacyKeyError::Kind)
            }
        }
    }

    fn fits(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
            Self::Public(key) => key.verify_sig(signed, signature).is_ok(),
        }
    }
}

/// What an algorithm is done by.
enum By {
    Hmac(hmac::Algorithm),
    Signature(&'static dyn VerificationAlgorithm),
}

fn by(algorithm: LegacyAlgorithm) -> By {
    match algorithm {
        LegacyAlgorithm::Hs256 => By::Hmac(hmac::HMAC_SHA256),
        LegacyAlgorithm::Hs384 => By::Hmac(hmac::HMAC_SHA384),
        LegacyAlgorithm::Hs512 => By::Hmac(hmac::HMAC_SHA512),
        LegacyAlgorithm::Rs256 => By::Signature(&signature::RSA_PKCS1_2048_8192_SHA256),
        LegacyAlgorithm::Rs384 => By::Signature(&signature::RSA_PKCS1_2048_8192_SHA384),
        LegacyAlgorithm::Rs512 => By::Signature(&signature::RSA_PKCS1_2048_8192_SHA512),
        LegacyAlgorithm::Ps256 => By::Signature(&signature::RSA_PSS_2048_8192_SHA256),
        LegacyAlgorithm::Ps384 => By::Signature(&signature::RSA_PSS_2048_8192_SHA384),
        LegacyAlgorithm::Ps512 => By::Signature(&signature::RSA_PSS_2048_8192_SHA512),
        LegacyAlgorithm::Es256 => By::Signature(&ECDSA_P256_SHA256_FIXED),
        LegacyAlgorithm::Es384 => By::Signature(&ECDSA_P384_SHA384_FIXED),
        LegacyAlgorithm::EdDsa => By::Signature(&ED25519),
    }
}

/// A header of another's. `kid` is passed over (apps have one key); what would change the meaning of the
/// signature, or brings a key along, is refused with everything else that is not known.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderIn {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
}

impl LegacyKeys {
    /// The keys of these settings, beside our own, whose names are `own_kids`.
    ///
    /// # Errors
    /// A key that does not fit its algorithm.
    pub fn load<'a>(
        settings: &[LegacyTokenSettings],
        own_kids: impl Iterator<Item = &'a str>,
    ) -> Result<Self, LegacyKeyError> {
        let load = |settings: &LegacyTokenSettings| {
            let key = Key::load(settings.algorithm, &settings.key)?;
            Ok(Entry { settings: settings.clone(), key })
        };
        let entries = settings.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { entries, own_kids: own_kids.map(str::to_owned).collect() })
    }

    /// Whether no such token is accepted at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether these are the keys of `settings`.
    #[must_use]
    pub fn is_by(&self, settings: &[LegacyTokenSettings]) -> bool {
        self.entries.iter().map(|entry| &entry.settings).eq(settings)
    }

    /// What the token says, if every check passes. As with our own, the signature comes first.
    ///
    /// # Errors
    /// The first check that does not pass.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<LegacyToken, TokenError> {
        let (entry, signed) = self.signer(token)?;
        let settings = &entry.settings;
        let until = Timestamp::from_secs(settings.until);
        if now >= until {
            return Err(TokenError::Expired);
        }
        let claims = read_claims(signed)?;
        check_purpose(&claims)?;
        check_party(&claims, "iss", settings.issuer.as_deref()).then_some(()).ok_or(TokenError::Issuer)?;
        check_party(&claims, "aud", settings.audience.as_deref())
            .then_some(())
            .ok_or(TokenError::Audience)?;
        let ends_at = time(&claims, "exp")?.unwrap_or(FOREVER);
        let issued_at = time(&claims, "iat")?;
        let not_before = time(&claims, "nbf")?.max(issued_at).unwrap_or_default();
        let (id, session) = names_of(signed);
        Ok(LegacyToken {
            subject: subject(&claims, settings)?,
            id,
            session,
            issued_at,
            not_before,
            expires_at: ends_at.min(until),
            ends_at,
        })
    }

    /// Whether the signature is that of one of these keys. For deciding what must not travel on.
    #[must_use]
    pub fn recognises(&self, token: &str) -> bool {
        !self.is_empty() && self.signer(token).is_ok()
    }

    /// Whose key has signed the token, and the bytes that are signed.
    fn signer<'t>(&self, token: &'t str) -> Result<(&Entry, &'t str), TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let [header, _, signature] = parts(token)?;
        let Object(header): Object<HeaderIn> = header_json(header)?;
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(TokenError::Type);
        }
        if header.kid.is_some_and(|kid| self.own_kids.contains(&kid)) {
            return Err(TokenError::UnknownKey);
        }
        let mut entries =
            self.entries.iter().filter(|entry| entry.settings.algorithm.name() == header.alg).peekable();
        if entries.peek().is_none() {
            return Err(TokenError::Algorithm);
        }
        let signed = &token[..token.len() - signature.len() - 1];
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Shape)?;
        let entry = entries.find(|entry| entry.key.fits(signed.as_bytes(), &signature));
        entry.map(|entry| (entry, signed)).ok_or(TokenError::Signature)
    }
}

/// A token that does not end by itself.
const FOREVER: Timestamp = Timestamp::from_millis(u64::MAX >> 4);

/// From the signed bytes alone: a signature has more than one spelling, and one of them could outlive the
/// revocation of another.
fn names_of(signed: &str) -> (TokenId, SessionId) {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(ID_LABEL);
    context.update(signed.as_bytes());
    let hash = context.finish();
    let (id, session) = hash.as_ref().split_at(16);
    let bytes = |half: &[u8]| half.try_into().expect("SHA-256 is twice 16 bytes long");
    (TokenId::from_bytes(bytes(id)), SessionId::from_bytes(bytes(session)))
}

fn read_claims(signed: &str) -> Result<Map<String, Value>, TokenError> {
    let payload = signed.split_once('.').map_or("", |(_, payload)| payload);
    let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Shape)?;
    match serde_json::from_slice(&json) {
        Ok(Once(Value::Object(claims))) => Ok(claims),
        _ => Err(TokenError::Claims),
    }
}

/// JSON in which each member is there once, also in what stands inside: of two, the app may have meant the other
/// one (RFC 7519 section 4).
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OnceVisitor)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Once;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Once, E> {
        Ok(Once(Value::Null))
    }

    fn visit_bool<E>(self, is: bool) -> Result<Once, E> {
        Ok(Once(is.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Once, E> {
        Ok(Once(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Once, E> {
        Ok(Once(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Once, E> {
        Ok(Once(number.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Once, E> {
        Ok(Once(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Once, A::Error> {
        let mut items = Vec::new();
        while let Some(Once(item)) = from.next_element()? {
            items.push(item);
        }
        Ok(Once(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Once, A::Error> {
        let mut members = Map::new();
        while let Some((name, Once(value))) = from.next_entry()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        Ok(Once(members.into()))
    }
}

fn check_purpose(claims: &Map<String, Value>) -> Result<(), TokenError> {
    let is_access = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| ACCESS_PURPOSES.iter().any(|known| text.eq_ignore_ascii_case(known)))
    };
    let named = |names: &'static [&'static str]| {
        claims
            .iter()
            .filter(move |(name, _)| names.iter().any(|known| name.eq_ignore_ascii_case(known)))
            .map(|(_, value)| value)
    };
    let is_no_scope = |word: &str| {
        let word = word.to_ascii_lowercase();
        SCOPE_PURPOSES.iter().all(|purpose| !word.starts_with(purpose))
    };
    let allows = |value: &Value| match value {
        Value::String(words) => words.split(' ').all(is_no_scope),
        Value::Array(words) => words.iter().filter_map(Value::as_str).all(is_no_scope),
        _ => true,
    };
    let is_for_access = named(&PURPOSE_CLAIMS).all(is_access) && named(&SCOPE_CLAIMS).all(allows);
    if is_for_access { Ok(()) } else { Err(TokenError::Type) }
}

/// A party that the token names has to be the one that is expected, and one that is expected has to be named.
fn check_party(claims: &Map<String, Value>, claim: &str, expected: Option<&str>) -> bool {
    match (claims.get(claim), expected) {
        (None, None) => true,
        (Some(Value::String(name)), Some(expected)) => name == expected,
        (Some(Value::Array(names)), Some(expected)) if claim == "aud" => {
            names.iter().any(|name| name.as_str() == Some(expected))
        }
        _ => false,
    }
}

/// A `NumericDate` (RFC 7519 section 2), which may have a fraction: apps write what their clock gives them.
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<Timestamp>, TokenError> {
    /// The year 9999: what is later is no date.
    const LATEST: f64 = 253_402_300_799.0;
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let secs = value.as_f64().filter(|secs| (0.0..=LATEST).contains(secs)).ok_or(TokenError::Claims)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within bounds")]
    let secs = secs as u64;
    Ok(Some(Timestamp::from_secs(secs)))
}

fn subject(claims: &Map<String, Value>, settings: &LegacyTokenSettings) -> Result<Subject, TokenError> {
    let (first, deeper) = settings.user.split_first().ok_or(TokenError::Claims)?;
    let found = deeper.iter().try_fold(claims.get(first).ok_or(TokenError::Claims)?, |value, name| {
        value.as_object().and_then(|object| object.get(name)).ok_or(TokenError::Claims)
    })?;
    let (value, is_number) = match found {
        Value::String(text) => (text.clone(), false),
        // Ids are counted from nought; -1 and 1.5 name nobody.
        Value::Number(number) => (number.as_u64().ok_or(TokenError::Claims)?.to_string(), true),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(TokenError::Claims),
    };
    if value.is_empty() || value.len() > MAX_SUBJECT_BYTES {
        return Err(TokenError::Claims);
    }
    Ok(Subject { value, is_number, account: settings.account, ignore_case: settings.ignore_case })
}

#[cfg(test)]
mod tests;
