//! Identity headers: what the upstream is told of the caller, and which names belong to us alone.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::lines::HeaderLines;
use crate::identity::Principal;
use crate::message::fold::FoldedNames;
use crate::settings::{IdentityHeaderNames, IdentitySettings};

/// Names of every preset. All of them are ours whichever preset is in use: an app that trusts
/// `Remote-User` today may be told by `X-Auth-User` tomorrow.
pub const PRESET_NAMES: [&str; 16] = [
    "x-auth-user",
    "x-auth-id",
    "x-auth-email",
    "x-auth-name",
    "x-auth-roles",
    "x-auth-session",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
    "x-forwarded-access-token",
    "remote-user",
    "remote-email",
    "remote-name",
    "remote-groups",
    "x-remote-user",
];

/// What is not visible ASCII, and `%` itself.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// How identity is told.
#[derive(Clone, Debug)]
pub struct IdentityRules {
    names: IdentityHeaderNames,
    roles_separator: String,
    send_unverified_email: bool,
    owned: FoldedNames,
}

/// The identity headers of one principal, ready to be set. Made once for each token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityHeaders(HeaderLines);

impl IdentityRules {
    /// The rules for these settings.
    #[must_use]
    pub fn new(settings: &IdentitySettings) -> Self {
        let names = settings.headers.clone();
        let configured = [
            &names.user,
            &names.user_too,
            &names.id,
            &names.email,
            &names.name,
            &names.roles,
            &names.session,
        ];
        let configured = configured.into_iter().flatten().map(HeaderName::as_str);
        let owned = FoldedNames::new(PRESET_NAMES.into_iter().chain(configured));
        Self {
            names,
            roles_separator: settings.roles_separator.clone(),
            send_unverified_email: settings.send_unverified_email,
            owned,
        }
    }

    /// Whether a header of this name, in any spelling, may only be set by us.
    #[must_use]
    pub fn owns(&self, name: &HeaderName) -> bool {
        self.owned.contains(name)
    }

    /// The headers that tell of `principal`. An absent value is an absent header.
    #[must_use]
    pub fn render(&self, principal: &Principal) -> IdentityHeaders {
        let email = principal.email.as_ref().filter(|email| email.verified || self.send_unverified_email);
        let roles: Vec<&str> = principal.roles.iter().map(crate::identity::Role::as_str).collect();
        let session = principal.session.to_string();
        let values: [(&Option<HeaderName>, Option<&str>); 7] = [
            (&self.names.user, Some(&principal.username)),
            (&self.names.user_too, Some(&principal.username)),
            (&self.names.id, Some(principal.id.as_str())),
            (&self.names.email, email.map(|email| email.address.as_str())),
            (&self.names.name, principal.name.as_deref()),
            (&self.names.roles, None),
            (&self.names.session, Some(&session)),
        ];
        let mut headers = Vec::with_capacity(values.len());
        for (name, value) in values {
            if let (Some(name), Some(value)) = (name, value) {
                headers.extend(encode(value).map(|value| (name.clone(), value)));
            }
        }
        if let Some(name) = &self.names.roles
            && !roles.is_empty()
        {
            // The separator comes from the file and no role can hold it; only the names are encoded.
            let joined = roles.iter().map(|role| utf8_percent_encode(role, ENCODED).to_string());
            let joined = joined.collect::<Vec<_>>().join(&self.roles_separator);
            headers.extend(HeaderValue::from_str(&joined).ok().map(|value| (name.clone(), value)));
        }
        IdentityHeaders(HeaderLines::new(headers))
    }
}

impl AsRef<HeaderLines> for IdentityHeaders {
    fn as_ref(&self) -> &HeaderLines {
        &self.0
    }
}

/// A header value of visible ASCII; the empty value is no value.
fn encode(value: &str) -> Option<HeaderValue> {
    if value.is_empty() {
        return None;
    }
    HeaderValue::from_str(&utf8_percent_encode(value, ENCODED).to_string()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::identity::{PrincipalEmail, Role, SessionId};

    fn rules(send_unverified_email: bool) -> IdentityRules {
        let name = |text: &'static str| Some(HeaderName::from_static(text));
        IdentityRules::new(&IdentitySettings {
            headers: IdentityHeaderNames {
                user: name("x-auth-user"),
                user_too: None,
                id: name("x-auth-id"),
                email: name("x-auth-email"),
                name: name("x-auth-name"),
                roles: name("x-auth-roles"),
                session: name("x-custom-session"),
            },
            roles_separator: ",".to_owned(),
            send_unverified_email,
            forward_authorization: false,
        })
    }

    fn principal() -> Principal {
        let roles = ["user", "admin"].map(|role| role.parse::<Role>().expect("a role"));
        Principal {
            id: "42".parse().expect("an id"),
            username: "alice".into(),
            name: Some("Älice 100%\r\nX: y".into()),
            email: Some(PrincipalEmail {
                address: "a@b.example".parse().expect("an address"),
                verified: false,
            }),
            roles: roles.into_iter().collect(),
            session: SessionId::from_bytes([7; 16]),
            generation: 1,
        }
    }

    #[test]
    fn values_are_visible_ascii_and_absent_ones_are_absent() {
        let mut headers = HeaderMap::new();
        rules(false).render(&principal()).as_ref().set(&mut headers);
        assert_eq!(headers["x-auth-user"], "alice");
        assert_eq!(headers["x-auth-id"], "42");
        assert_eq!(headers["x-auth-name"], "%C3%84lice%20100%25%0D%0AX:%20y");
        assert_eq!(headers["x-auth-roles"], "admin,user");
        assert_eq!(headers["x-custom-session"], SessionId::from_bytes([7; 16]).to_string());
        assert!(!headers.contains_key("x-auth-email"), "nobody has proved the address");
    }

    #[test]
    fn an_unproved_address_is_sent_only_where_the_file_says_so() {
        let mut headers = HeaderMap::new();
        rules(true).render(&principal()).as_ref().set(&mut headers);
        assert_eq!(headers["x-auth-email"], "a@b.example");
    }

    #[test]
    fn names_of_every_preset_and_of_the_file_are_owned_in_any_spelling() {
        let rules = rules(false);
        for name in ["x_auth_user", "remote-user", "x-forwarded.groups", "X_Custom-Session", "xauthroles"] {
            assert!(rules.owns(&HeaderName::try_from(name).expect("a header name")), "{name}");
        }
        assert!(!rules.owns(&HeaderName::from_static("x-custom")));
    }
}
