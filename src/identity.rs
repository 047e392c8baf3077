//! Who a request acts for: the validated names and ids that every other module speaks of.
//!
//! Each type here is parsed once, at the door, and cannot hold a wrong value afterwards. Nothing in
//! this file does I/O or knows where a value came from. Canonicalising a *user's input* into a
//! [`Username`] is `account`'s business (it depends on configuration); this file only states what a
//! canonical one looks like.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a string is not the identity value it was meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A user id is 1–64 bytes of visible ASCII (0x21–0x7e).
    #[error("a user id is 1 to 64 visible ASCII characters")]
    UserId,
    /// A canonical username is 1–64 characters, without `@`, control characters or white space.
    #[error("a username is 1 to 64 characters, without @, white space or control characters")]
    Username,
    /// A role name is 1–64 of `A-Z a-z 0-9 _ . : -`.
    #[error("a role is 1 to 64 of the characters A-Z a-z 0-9 _ . : -")]
    Role,
    /// An e-mail address that [RFC 5321] would not route.
    ///
    /// [RFC 5321]: https://www.rfc-editor.org/rfc/rfc5321
    #[error("not an e-mail address")]
    Email,
    /// A session or token id that is no UUID.
    #[error("not a UUID")]
    Uuid,
}

/// Makes a string newtype over `Arc<str>`: parsed, cheap to clone, (de)serialised through the parser.
macro_rules! parsed_str {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The value as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdentityError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0.as_ref().to_owned()
            }
        }
    };
}

parsed_str! {
    /// An account's id: opaque, 1–64 visible ASCII characters, never reused. A `UUIDv4` for accounts
    /// made here; whatever the old system used for imported ones. It is the token's `sub`.
    UserId
}
parsed_str! {
    /// A username in its one canonical spelling: what is stored, compared, throttled and shown.
    Username
}
parsed_str! {
    /// A role name. Its alphabet excludes every character that could separate roles in a header.
    Role
}
parsed_str! {
    /// An e-mail address as its owner wrote it, the domain in lower case. Compare with [`Email::key`].
    Email
}

impl UserId {
    /// A fresh random id (`UUIDv4`).
    #[must_use]
    pub fn random() -> Self {
        Self(Arc::from(Uuid::new_v4().to_string()))
    }
}

impl FromStr for UserId {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let visible = text.bytes().all(|b| b.is_ascii_graphic());
        if !visible || text.is_empty() || text.len() > 64 {
            return Err(IdentityError::UserId);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl FromStr for Username {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let count = text.chars().count();
        let foreign = |c: char| c == '@' || c.is_whitespace() || c.is_control();
        if count == 0 || count > 64 || text.contains(foreign) {
            return Err(IdentityError::Username);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl FromStr for Role {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(known) {
            return Err(IdentityError::Role);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl Email {
    /// What two spellings of one mailbox have in common: the whole address in lower case. Local
    /// parts are case-sensitive on paper (RFC 5321 section 2.4) and in no mail system people use.
    #[must_use]
    pub fn key(&self) -> String {
        self.0.to_lowercase()
    }
}

impl FromStr for Email {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let options = email_address::Options::default()
            .without_display_text()
            .without_domain_literal()
            .with_required_tld();
        let tidy = text.len() <= 254 && text.is_ascii() && !text.contains('"');
        if !tidy || email_address::EmailAddress::parse_with_options(text, options).is_err() {
            return Err(IdentityError::Email);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(IdentityError::Email)?;
        Ok(Self(Arc::from(format!("{local}@{}", domain.to_ascii_lowercase()))))
    }
}

/// Makes a UUID newtype.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh random id (`UUIDv4`, 122 random bits from the operating system).
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
            /// The id's 16 bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
            /// The id with these 16 bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = IdentityError;
            /// Takes the hyphenated form only, so that one id has one spelling.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let id = Uuid::parse_str(text).map_err(|_| IdentityError::Uuid)?;
                if text.len() != 36 || id.hyphenated().to_string() != text {
                    return Err(IdentityError::Uuid);
                }
                Ok(Self(id))
            }
        }
    };
}

uuid_id! {
    /// One login. It owns a chain of refresh tokens and is the `sid` of its access tokens.
    SessionId
}
uuid_id! {
    /// One access token: its `jti`.
    TokenId
}

/// Roles, sorted and without repeats. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleSet(Arc<[Role]>);

impl RoleSet {
    /// Whether `role` is in the set.
    #[must_use]
    pub fn contains(&self, role: &Role) -> bool {
        self.0.binary_search(role).is_ok()
    }
    /// The roles in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Role> {
        self.0.iter()
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for RoleSet {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl FromIterator<Role> for RoleSet {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

/// Every role that there is, and what each implies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleTable(BTreeMap<Role, BTreeSet<Role>>);

impl RoleTable {
    /// A table from each role's direct implications. Cycles are fine: they make roles equal.
    #[must_use]
    pub fn new(implied: BTreeMap<Role, BTreeSet<Role>>) -> Self {
        Self(implied)
    }
    /// Whether the table names `role`.
    #[must_use]
    pub fn contains(&self, role: &Role) -> bool {
        self.0.contains_key(role)
    }
    /// The roles, in ascending order.
    pub fn names(&self) -> impl Iterator<Item = &Role> {
        self.0.keys()
    }
    /// The granted roles that the table names, and all that they imply. A role that the table does
    /// not name (any more) grants nothing.
    #[must_use]
    pub fn expand<'a>(&'a self, granted: impl IntoIterator<Item = &'a Role>) -> RoleSet {
        let mut effective = BTreeSet::new();
        let mut open: Vec<&Role> = granted.into_iter().collect();
        while let Some(role) = open.pop() {
            let Some(implied) = self.0.get(role) else { continue };
            if effective.insert(role.clone()) {
                open.extend(implied);
            }
        }
        effective.into_iter().collect()
    }
}

/// An e-mail address and whether its owner has proved it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrincipalEmail {
    /// The address.
    pub address: Email,
    /// Whether somebody has shown to receive mail there (or an operator said so).
    pub verified: bool,
}

/// Who a request acts for, as the token says it. Valid for that token's life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    /// The account.
    pub id: UserId,
    /// The canonical username, or the id while the account has no other name.
    pub username: Arc<str>,
    /// The name for people to read, when the account has one.
    pub name: Option<Arc<str>>,
    /// The address, when the account has one.
    pub email: Option<PrincipalEmail>,
    /// Effective roles: granted ones and what they imply.
    pub roles: RoleSet,
    /// The login that the token came from.
    pub session: SessionId,
    /// The account's generation when the token was issued.
    pub generation: u64,
}

/// The outcome of looking for a caller. A *bad* credential is neither of these: it is an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Authentication<P> {
    /// No credential was presented.
    Anonymous,
    /// A good credential was presented.
    Authenticated(P),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_are_visible_ascii_of_bounded_length() {
        for good in ["1", "a-b", "550e8400-e29b-41d4-a716-446655440000", &"x".repeat(64)] {
            assert!(good.parse::<UserId>().is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "a\r\nX-Auth-Roles: admin", "ä", "\0", &"x".repeat(65)] {
            assert_eq!(bad.parse::<UserId>(), Err(IdentityError::UserId), "{bad:?}");
        }
    }

    #[test]
    fn roles_cannot_hold_a_separator() {
        for bad in ["", "a,b", "a b", "a;b", "a|b", "a\n", "ä"] {
            assert_eq!(bad.parse::<Role>(), Err(IdentityError::Role), "{bad:?}");
        }
        assert!("billing:read-only.v2_x".parse::<Role>().is_ok());
    }

    #[test]
    fn addresses_of_one_mailbox_share_a_key() {
        let a: Email = "Alice@Example.COM".parse().expect("an address");
        let b: Email = "alice@example.com".parse().expect("an address");
        assert_eq!(a.as_str(), "Alice@example.com");
        assert_eq!(a.key(), b.key());
        for bad in [
            "",
            "a",
            "a@",
            "@b",
            "a@b c.de",
            "a@b\r\n.de",
            "Al <a@b.de>",
            "a@[1.2.3.4]",
            "a@b",
            "\"a b\"@c.de",
        ] {
            assert_eq!(bad.parse::<Email>(), Err(IdentityError::Email), "{bad:?}");
        }
    }

    #[test]
    fn a_uuid_has_one_spelling() {
        let id = SessionId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for other in
            [id.to_string().to_uppercase() + "", format!("{{{id}}}"), id.to_string().replace('-', "")]
        {
            let same = other == id.to_string();
            assert!(same || other.parse::<SessionId>().is_err(), "{other}");
        }
    }

    #[test]
    fn granted_roles_expand_to_what_they_imply() {
        let role = |name: &str| name.parse::<Role>().expect("a role");
        let table = RoleTable::new(BTreeMap::from([
            (role("user"), BTreeSet::new()),
            (role("editor"), BTreeSet::from([role("user")])),
            (role("admin"), BTreeSet::from([role("editor")])),
        ]));
        let names =
            |granted: &[Role]| table.expand(granted).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&[role("admin")]), ["admin", "editor", "user"]);
        assert_eq!(names(&[role("gone"), role("user")]), ["user"]);
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn role_sets_are_sorted_and_unique() {
        let roles: RoleSet = ["b", "a", "b"].iter().map(|r| r.parse::<Role>().expect("a role")).collect();
        let names: Vec<_> = roles.iter().map(Role::as_str).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
