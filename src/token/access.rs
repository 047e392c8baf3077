//! Access tokens: issuing and verifying (RFC 9068, under the rules of RFC 8725).
//!
//! `jsonwebtoken` does the JWS. It lets pass what a gateway must not (`crit`, any `typ`, any lifetime, an
//! `iss` that is a list), so a front door of our own stands before it and a typed look at the claims
//! behind it. Time is checked here, by the clock that the caller hands in.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::de::DeserializeOwned;

use super::claims::{self, ClaimsIn, ClaimsOut, HeaderIn, Object};
use super::keyring::{AccessKey, KeyRing, VerifyKey};
use super::legacy::{LegacyKeyError, LegacyKeys, LegacyToken};
use super::revocation::RevocationId;
use crate::clock::Timestamp;
use crate::identity::{Principal, PrincipalEmail, TokenId, Username};
use crate::secret::Secret;
use crate::settings::{RESERVED_CLAIMS, TokenSettings};

/// No access token is longer, in bytes. One that would be is not issued.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Our own headers are about 110 bytes; a longer one, decoded, is not read.
const MAX_HEADER_BYTES: usize = 512;

/// Why no token was issued. None of these is the client's doing.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// `[tokens] claims` names a claim that the gateway writes itself.
    #[error("the claim {0:?} is one that the gateway writes itself")]
    ReservedClaim(String),
    /// Two extra claims have one name.
    #[error("the claim {0:?} is given twice")]
    RepeatedClaim(String),
    /// The verifier would refuse it.
    #[error("the token would be longer than {MAX_TOKEN_BYTES} bytes: too many or too long roles")]
    TooLong,
    /// The signature could not be made.
    #[error("signing failed")]
    Signing(#[source] jsonwebtoken::errors::Error),
}

/// Why a token is refused. [`description`](Self::description) is safe to show to whoever sent it: it
/// names the check, never a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More than [`MAX_TOKEN_BYTES`].
    #[error("the token is too long")]
    TooLong,
    /// Not three parts of unpadded base64url.
    #[error("the token is not a JWT")]
    Shape,
    /// The header is not JSON, repeats a member, or has one that is not `alg`, `typ` or `kid`.
    #[error("the token header is not acceptable")]
    Header,
    /// `typ` is not `at+jwt`.
    #[error("the token is not an access token")]
    Type,
    /// No key of ours has this `kid`.
    #[error("the token was signed with an unknown key")]
    UnknownKey,
    /// `alg` is not what the key is for.
    #[error("the token algorithm is not the one of its key")]
    Algorithm,
    /// The signature does not fit.
    #[error("the token signature is invalid")]
    Signature,
    /// A claim is missing, repeated, or not of its type.
    #[error("the token claims are not acceptable")]
    Claims,
    /// `iss` is somebody else.
    #[error("the token issuer is wrong")]
    Issuer,
    /// `aud` does not name us.
    #[error("the token audience is wrong")]
    Audience,
    /// It would be valid for longer than we issue, or for no time at all.
    #[error("the token lifetime is not acceptable")]
    Lifetime,
    /// `nbf` or `iat` is in the future by more than the leeway.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// The app minted it, for somebody who has no account here.
    #[error("the token is of nobody who has an account here")]
    NoAccount,
}

impl TokenError {
    /// One short sentence for people, made of the characters of a quoted string (RFC 6750 section 3).
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::TooLong => "the token is too long",
            Self::Shape => "the token is not a JWT",
            Self::Header => "the token header is not acceptable",
            Self::Type => "the token is not an access token",
            Self::UnknownKey => "the token was signed with an unknown key",
            Self::Algorithm => "the token algorithm is not the one of its key",
            Self::Signature => "the token signature is invalid",
            Self::Claims => "the token claims are not acceptable",
            Self::Issuer => "the token issuer is wrong",
            Self::Audience => "the token audience is wrong",
            Self::Lifetime => "the token lifetime is not acceptable",
            Self::NotYetValid => "the token is not valid yet",
            Self::Expired => "the token has expired",
            Self::NoAccount => "the token is of nobody who has an account here",
        }
    }
}

/// A token that was just made.
#[derive(Debug)]
pub struct IssuedAccess {
    /// The token. It goes to the client and nowhere else.
    pub token: Secret<String>,
    /// Its `jti`.
    pub id: TokenId,
    /// Its `exp`.
    pub expires_at: Timestamp,
}

/// A token that was verified: what it says, in types. Whether it was revoked since is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// Who it speaks for.
    pub principal: Principal,
    /// Its `jti`.
    pub id: TokenId,
    /// How its owner was authenticated (RFC 8176).
    pub amr: Box<[String]>,
    /// Its `iat`.
    pub issued_at: Timestamp,
    /// Its `nbf`.
    pub not_before: Timestamp,
    /// Its `exp`.
    pub expires_at: Timestamp,
    /// What would revoke it: itself, its session, its generation.
    pub revocable_by: [RevocationId; 3],
    /// A legacy token's own end: what revokes it has to be remembered until then. Absent for ours, which
    /// end soon.
    pub refused_until: Option<Timestamp>,
}

/// A good token, of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// One of ours.
    Own(AccessToken),
    /// One that the app minted; its account has to be found.
    Legacy(LegacyToken),
}

/// Issues access tokens.
#[derive(Debug)]
pub struct Issuer {
    key: AccessKey,
    header: Header,
    settings: TokenSettings,
}

impl Issuer {
    /// An issuer that signs with the ring's newest key.
    pub fn new(keys: &KeyRing, settings: &TokenSettings) -> Result<Self, IssueError> {
        let fixed = settings.fixed_claims.iter().map(|(name, _)| name);
        let names: Vec<&String> = settings.claims.iter().map(|(name, _)| name).chain(fixed).collect();
        for (index, name) in names.iter().enumerate() {
            if RESERVED_CLAIMS.contains(&name.as_str()) {
                return Err(IssueError::ReservedClaim((*name).clone()));
            }
            if names[..index].contains(name) {
                return Err(IssueError::RepeatedClaim((*name).clone()));
            }
        }
        let key = keys.newest().clone();
        let header = header_of(&key.verify);
        Ok(Self { key, header, settings: settings.clone() })
    }

    /// A token for `principal`, valid from `now` (in whole seconds, rounded down) for the configured time.
    pub fn issue(
        &self,
        principal: &Principal,
        amr: &[String],
        now: Timestamp,
        id: TokenId,
    ) -> Result<IssuedAccess, IssueError> {
        let issued_at = now.secs();
        let expires_at = issued_at.saturating_add(lifetime_secs(self.settings.access_ttl));
        let claims = ClaimsOut { settings: &self.settings, principal, amr, id, issued_at, expires_at };
        let token =
            jsonwebtoken::encode(&self.header, &claims, &self.key.signing).map_err(IssueError::Signing)?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(IssueError::TooLong);
        }
        Ok(IssuedAccess { token: Secret::new(token), id, expires_at: Timestamp::from_secs(expires_at) })
    }
}

/// Verifies access tokens. Shared by all workers.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<VerifyingKey>,
    issuer: String,
    audience: Vec<String>,
    lifetime_secs: u64,
    leeway: Duration,
    legacy: LegacyKeys,
}

/// A key with the one validation that fits it.
#[derive(Debug)]
struct VerifyingKey {
    key: VerifyKey,
    validation: Validation,
    /// How every token that [`Issuer`] signs with this key begins: the encoded header and the dot.
    beginning: String,
}

impl Verifier {
    /// A verifier for tokens signed with any key of the ring, and for those that the app minted.
    ///
    /// # Errors
    /// A key of `[[legacy_token]]` that does not fit its algorithm.
    pub fn new(keys: &KeyRing, settings: &TokenSettings) -> Result<Self, LegacyKeyError> {
        let with_validation = |key: &VerifyKey| VerifyingKey {
            validation: validation(key.algorithm, settings),
            beginning: beginning_of(key),
            key: key.clone(),
        };
        let keys: Vec<VerifyingKey> = keys.verifying().map(with_validation).collect();
        let legacy = LegacyKeys::load(&settings.legacy, keys.iter().map(|known| known.key.kid.as_str()))?;
        Ok(Self {
            keys,
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            lifetime_secs: lifetime_secs(settings.access_ttl),
            leeway: settings.leeway,
            legacy,
        })
    }

    /// Whether these settings would make the same of every token, the keys being the same.
    #[must_use]
    pub fn is_by(&self, settings: &TokenSettings) -> bool {
        self.issuer == settings.issuer
            && self.audience == settings.audience
            && self.lifetime_secs == lifetime_secs(settings.access_ttl)
            && self.leeway == settings.leeway
            && self.legacy.is_by(&settings.legacy)
    }

    /// What a token of either kind says. One of ours is never tried as the app's, nor the other way round:
    /// the header says which it claims to be.
    ///
    /// # Errors
    /// The first check that does not pass.
    pub fn judge(&self, token: &str, now: Timestamp) -> Result<Judged, TokenError> {
        match self.verify(token, now) {
            Err(TokenError::Header | TokenError::Type) if !self.legacy.is_empty() => {
                self.verify_legacy(token, now).map(Judged::Legacy)
            }
            own => own.map(Judged::Own),
        }
    }

    /// What a token says that the app minted.
    ///
    /// # Errors
    /// The first check that does not pass; each, when there is no `[[legacy_token]]`.
    pub fn verify_legacy(&self, token: &str, now: Timestamp) -> Result<LegacyToken, TokenError> {
        let token = self.legacy.verify(token, now)?;
        token.timely(now, self.leeway)?;
        Ok(token)
    }

    /// For how long what was looked up of a legacy token's account may be used: as long as a token of ours.
    #[must_use]
    pub const fn lookup_lasts(&self) -> Duration {
        Duration::from_secs(self.lifetime_secs)
    }

    /// What the token says, if every check passes. The signature comes before the claims and the time,
    /// so that only a token of ours is ever called expired.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<AccessToken, TokenError> {
        let known = self.front_door(token)?;
        let decoded =
            jsonwebtoken::decode::<Object<ClaimsIn>>(token, &known.key.verifying, &known.validation);
        let Object(claims) = decoded.map_err(|error| refusal(error.kind()))?.claims;
        self.check_parties(&claims)?;
        self.check_time(&claims, now)?;
        accept(claims)
    }

    /// Whether a token says that it is one of ours, an access token under one of our keys (the signature
    /// is not looked at), or is one that the app minted and that is accepted here. For deciding what must not travel on, never for letting somebody in.
    #[must_use]
    pub fn recognises(&self, token: &str) -> bool {
        // Asked for every request whose `Authorization` may travel on, so the usual answer comes cheaply.
        self.keys.iter().any(|known| token.starts_with(&known.beginning))
            || self.front_door(token).is_ok()
            || self.legacy.recognises(token)
    }

    /// Whether a token that was verified before may still be used at this time. Neither keys nor
    /// revocations are looked at.
    pub(crate) fn still_timely(&self, token: &AccessToken, now: Timestamp) -> Result<(), TokenError> {
        if now >= token.expires_at {
            return Err(TokenError::Expired);
        }
        if token.not_before > now.plus(self.leeway) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }

    /// What can be said without cryptography: size, shape, header, key.
    fn front_door(&self, token: &str) -> Result<&VerifyingKey, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let [header, ..] = parts(token)?;
        let Object(header): Object<HeaderIn> = header_json(header)?;
        if !header.is_access_token() {
            return Err(TokenError::Type);
        }
        let mut keys = self.keys.iter();
        let known = keys.find(|known| known.key.kid == header.kid).ok_or(TokenError::UnknownKey)?;
        if header.alg != known.key.algorithm_name() {
            return Err(TokenError::Algorithm);
        }
        Ok(known)
    }

    fn check_parties(&self, claims: &ClaimsIn) -> Result<(), TokenError> {
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        match &claims.aud {
            // RFC 7519 section 4.1.3: an audience that does not name us is not us.
            Some(audience) if !audience.names_one_of(&self.audience) => Err(TokenError::Audience),
            None if !self.audience.is_empty() => Err(TokenError::Audience),
            _ => Ok(()),
        }
    }

    fn check_time(&self, claims: &ClaimsIn, now: Timestamp) -> Result<(), TokenError> {
        let lifetime = claims.exp.checked_sub(claims.iat).ok_or(TokenError::Lifetime)?;
        if lifetime == 0 || lifetime > self.lifetime_secs {
            return Err(TokenError::Lifetime);
        }
        let soon = now.plus(self.leeway);
        if Timestamp::from_secs(claims.nbf) > soon || Timestamp::from_secs(claims.iat) > soon {
            return Err(TokenError::NotYetValid);
        }
        if now >= Timestamp::from_secs(claims.exp) {
            return Err(TokenError::Expired);
        }
        Ok(())
    }
}

fn header_of(key: &VerifyKey) -> Header {
    let mut header = Header::new(key.algorithm);
    header.typ = Some(claims::TYPE.to_owned());
    header.kid = Some(key.kid.clone());
    header
}

fn beginning_of(key: &VerifyKey) -> String {
    let json = serde_json::to_vec(&header_of(key)).expect("three strings are JSON");
    format!("{}.", URL_SAFE_NO_PAD.encode(json))
}

/// What `jsonwebtoken` is told to check. Time is not among it: it reads the system's clock, and counts
/// its leeway for `exp` too.
fn validation(algorithm: Algorithm, settings: &TokenSettings) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "sub"]);
    validation.validate_exp = false;
    validation.leeway = 0;
    validation.set_issuer(&[&settings.issuer]);
    if settings.audience.is_empty() {
        // `check_parties` has the say.
        validation.validate_aud = false;
    } else {
        validation.set_audience(&settings.audience);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    validation
}

/// Exactly three non-empty parts of the base64url alphabet.
pub(super) fn parts(token: &str) -> Result<[&str; 3], TokenError> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Shape);
    };
    let base64url = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if ![header, payload, signature].into_iter().all(base64url) {
        return Err(TokenError::Shape);
    }
    Ok([header, payload, signature])
}

/// An encoded header as what is read of it.
pub(super) fn header_json<H: DeserializeOwned>(segment: &str) -> Result<H, TokenError> {
    let mut json = [0; MAX_HEADER_BYTES];
    let length = URL_SAFE_NO_PAD.decode_slice(segment, &mut json).map_err(|_| TokenError::Header)?;
    serde_json::from_slice(&json[..length]).map_err(|_| TokenError::Header)
}

/// Which check of `jsonwebtoken` it was. What is not the signature's or a party's fault is the claims'.
fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidToken | ErrorKind::Base64(_) => TokenError::Shape,
        _ => TokenError::Claims,
    }
}

fn accept(claims: ClaimsIn) -> Result<AccessToken, TokenError> {
    // An account without a username is shown by its address, once that is proved, or by its id.
    let proved = claims.email.as_ref().filter(|_| claims.email_verified);
    let named = claims.username.parse::<Username>().is_ok()
        || claims.username == claims.sub.as_str()
        || proved.is_some_and(|email| email.key() == claims.username);
    if !named || (claims.email.is_none() && claims.email_verified) {
        return Err(TokenError::Claims);
    }
    let revocable_by = [
        RevocationId::token(&claims.jti),
        RevocationId::session(&claims.sid),
        RevocationId::generation(&claims.sub, claims.r#gen),
    ];
    let verified = claims.email_verified;
    let principal = Principal {
        id: claims.sub,
        username: Arc::from(claims.username),
        name: claims.name.map(Arc::from),
        email: claims.email.map(|address| PrincipalEmail { address, verified }),
        roles: claims.roles.into_iter().collect(),
        session: claims.sid,
        generation: claims.r#gen,
    };
    Ok(AccessToken {
        principal,
        id: claims.jti,
        amr: claims.amr.into(),
        issued_at: Timestamp::from_secs(claims.iat),
        not_before: Timestamp::from_secs(claims.nbf),
        expires_at: Timestamp::from_secs(claims.exp),
        revocable_by,
        refused_until: None,
    })
}

/// Tokens count whole seconds; a fraction in the setting counts as one.
fn lifetime_secs(ttl: Duration) -> u64 {
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;
