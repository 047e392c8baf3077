//! Header names as an application server may read them: without case and without punctuation.
//!
//! CGI, WSGI and PHP turn `-` into `_` and letters into capitals; others drop or merge what they do
//! not like. `X-Auth-User`, `x_auth_user` and `X.Auth--User` are then one name. Who owns a header has
//! to own all of its spellings (oauth2-proxy CVE-2025-64484; Traefik CVE-2026-33433 and the two that
//! followed it), so owned names are compared after dropping everything but letters and digits.

use http::HeaderName;

/// Headers that speak of the connection before this one or override what was asked for. From a
/// client they are lies (oauth2-proxy CVE-2026-40575: `X-Forwarded-Uri` decided what was authorised).
pub const FORWARDING_NAMES: [&str; 19] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-scheme",
    "x-real-ip",
    "x-request-id",
    "forwarded",
    "x-forwarded-prefix",
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-original-url",
    "x-original-uri",
    "x-original-method",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// A set of header names that owns all their spellings.
#[derive(Clone, Debug, Default)]
pub struct FoldedNames {
    /// Folded, sorted.
    names: Vec<Box<str>>,
    /// Bit `c - b'a'` (26 and up: digits) for each first letter of a name: most headers stop here.
    initials: u64,
}

impl FoldedNames {
    /// The set of these names.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = Self::default();
        for name in names {
            let folded = fold(name);
            if let Some(&first) = folded.as_bytes().first() {
                set.initials |= initial(first);
                set.names.push(folded.into());
            }
        }
        set.names.sort_unstable();
        set.names.dedup();
        set
    }

    /// Whether `name` is a spelling of one of the set. Does not allocate.
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        let bytes = name.as_str().as_bytes();
        let Some(&first) = bytes.iter().find(|b| b.is_ascii_alphanumeric()) else { return false };
        if self.initials & initial(first.to_ascii_lowercase()) == 0 {
            return false;
        }
        self.names.iter().any(|folded| folds_to(bytes, folded.as_bytes()))
    }
}

/// `name` in lower case, letters and digits only: what all its spellings have in common.
#[must_use]
pub fn fold(name: &str) -> String {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|b| char::from(b.to_ascii_lowercase())).collect()
}

fn folds_to(name: &[u8], folded: &[u8]) -> bool {
    if name.len() < folded.len() {
        return false;
    }
    let mut rest = folded.iter();
    for byte in name.iter().filter(|b| b.is_ascii_alphanumeric()) {
        if rest.next() != Some(&byte.to_ascii_lowercase()) {
            return false;
        }
    }
    rest.next().is_none()
}

const fn initial(first: u8) -> u64 {
    match first {
        b'a'..=b'z' => 1 << (first - b'a'),
        b'0'..=b'9' => 1 << (26 + first - b'0'),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_owned_name_is_owned() {
        let owned = FoldedNames::new(["X-Auth-User", "Remote-User", "X-Real-IP"]);
        let own = |name: &str| owned.contains(&HeaderName::try_from(name).expect("a header name"));
        for name in [
            "x-auth-user",
            "X_Auth_User",
            "X.Auth.User",
            "x--auth--user",
            "xauthuser",
            "-x-auth-user-",
            "remote_user",
            "x-real_ip",
        ] {
            assert!(own(name), "{name}");
        }
        for name in
            ["x-auth-users", "x-auth-use", "x-auth", "user", "accept", "x-auth-user2", "-", "xx-auth-user"]
        {
            assert!(!own(name), "{name}");
        }
    }
}
