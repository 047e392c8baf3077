//! The access token's header and claims (RFC 9068 section 2, RFC 7519 section 4), as written and as read.
//!
//! Reading is stricter than the RFCs ask of a party that meets foreign tokens, because these are all our
//! own: a header member or a claim in any shape that [`access`](super::access) does not write is refused.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::identity::{Email, Principal, Role, SessionId, TokenId, UserId};
use crate::settings::{ClaimSource, TokenSettings};

/// The header's `typ` (RFC 9068 section 2.1): no other kind of JWT, whoever signed it, is an access token.
pub const TYPE: &str = "at+jwt";

/// The claims of a token that is being issued.
pub(super) struct ClaimsOut<'a> {
    pub(super) settings: &'a TokenSettings,
    pub(super) principal: &'a Principal,
    pub(super) amr: &'a [String],
    pub(super) id: TokenId,
    pub(super) issued_at: u64,
    pub(super) expires_at: u64,
}

impl Serialize for ClaimsOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let who = self.principal;
        let roles: Vec<&Role> = who.roles.iter().collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("iss", &self.settings.issuer)?;
        match self.settings.audience.as_slice() {
            [] => {}
            [one] => map.serialize_entry("aud", one)?,
            several => map.serialize_entry("aud", several)?,
        }
        map.serialize_entry("sub", &who.id)?;
        map.serialize_entry("iat", &self.issued_at)?;
        map.serialize_entry("nbf", &self.issued_at)?;
        map.serialize_entry("exp", &self.expires_at)?;
        map.serialize_entry("jti", &self.id)?;
        map.serialize_entry("sid", &who.session)?;
        map.serialize_entry("gen", &who.generation)?;
        map.serialize_entry("username", &*who.username)?;
        map.serialize_entry("roles", &roles)?;
        map.serialize_entry("amr", self.amr)?;
        if let Some(name) = &who.name {
            map.serialize_entry("name", &**name)?;
        }
        if let Some(email) = &who.email {
            map.serialize_entry("email", &email.address)?;
            map.serialize_entry("email_verified", &email.verified)?;
        }
        for (name, source) in &self.settings.claims {
            match source {
                ClaimSource::Sub => map.serialize_entry(name, &who.id)?,
                ClaimSource::SubNumber => match whole_number(who.id.as_str()) {
                    Some(number) => map.serialize_entry(name, &number)?,
                    None => map.serialize_entry(name, &who.id)?,
                },
                ClaimSource::Username => map.serialize_entry(name, &*who.username)?,
                ClaimSource::Roles => map.serialize_entry(name, &roles)?,
                ClaimSource::Sid => map.serialize_entry(name, &who.session)?,
                ClaimSource::Name => {
                    if let Some(value) = &who.name {
                        map.serialize_entry(name, &**value)?;
                    }
                }
                ClaimSource::Email => {
                    if let Some(value) = &who.email {
                        map.serialize_entry(name, &value.address)?;
                    }
                }
            }
        }
        for (name, text) in &self.settings.fixed_claims {
            map.serialize_entry(name, text)?;
        }
        map.end()
    }
}

/// A number in its one decimal spelling, that every reader of JSON has in full (RFC 8259 section 6).
fn whole_number(text: &str) -> Option<u64> {
    let number = text.parse::<u64>().ok()?;
    (number < 1 << 53 && number.to_string() == text).then_some(number)
}

/// A header as read. Everything but these three is refused, and with it `crit` and `b64` (RFC 7797),
/// which change what a signature means, and `jku`, `jwk`, `x5u`, `x5c`, `x5t`, which bring a key along
/// (RFC 8725 section 3.10).
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderIn {
    pub(super) alg: String,
    pub(super) typ: String,
    pub(super) kid: String,
}

impl HeaderIn {
    /// RFC 9068 section 4: `at+jwt` or `application/at+jwt`, in any case (RFC 7515 section 4.1.9).
    pub(super) fn is_access_token(&self) -> bool {
        let (media, short) = (self.typ.get(..12), self.typ.get(12..));
        let short = match (media, short) {
            (Some(media), Some(short)) if media.eq_ignore_ascii_case("application/") => short,
            _ => self.typ.as_str(),
        };
        short.eq_ignore_ascii_case(TYPE)
    }
}

/// The claims as read. Numbers are whole seconds; a string, a fraction or `null` in their place is
/// refused, and so is a claim that stands there twice. Claims of other names are passed over.
#[derive(serde::Deserialize)]
pub(super) struct ClaimsIn {
    pub(super) iss: String,
    #[serde(default, deserialize_with = "present")]
    pub(super) aud: Option<Audience>,
    pub(super) sub: UserId,
    pub(super) iat: u64,
    pub(super) nbf: u64,
    pub(super) exp: u64,
    #[serde(deserialize_with = "parsed")]
    pub(super) jti: TokenId,
    #[serde(deserialize_with = "parsed")]
    pub(super) sid: SessionId,
    pub(super) r#gen: u64,
    pub(super) username: String,
    pub(super) roles: Vec<Role>,
    pub(super) amr: Vec<String>,
    #[serde(default, deserialize_with = "present")]
    pub(super) name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    pub(super) email: Option<Email>,
    #[serde(default)]
    pub(super) email_verified: bool,
}

/// RFC 7519 section 4.1.3: one string, or a list of them.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    /// Whether one of `names` is among them.
    pub(super) fn names_one_of(&self, names: &[String]) -> bool {
        match self {
            Self::One(name) => names.contains(name),
            Self::Several(given) => given.iter().any(|name| names.contains(name)),
        }
    }
}

/// An optional claim that, when it is there, is there: `null` is no way of leaving it out.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// An id in its one spelling. (`uuid`'s own reader takes several, and a revocation knows only one.)
fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr>(deserializer: D) -> Result<T, D::Error>
where
    T::Err: fmt::Display,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// A value that was a JSON object. serde's derived structs take an array of their fields' values too.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}
