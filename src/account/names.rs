//! The one place that turns what people type into names: for register, log in, throttling and the
//! command line alike, so that no two of them can see two names where the others see one.
//!
//! `ascii` names are lower-cased by ASCII rules only: Unicode's would turn U+212A (KELVIN SIGN) into
//! `k`, a second spelling of somebody else's name. `unicode` names follow RFC 8265 section 3.3
//! (`UsernameCaseMapped`), which refuses such look-alikes, mixed directions and invisible characters.

use precis_profiles::UsernameCaseMapped;
use precis_profiles::precis_core::profile::PrecisFastInvocation;

use super::error::InvalidField;
use crate::identity::{Email, Username};
use crate::settings::{AuthSettings, LoginName, UsernameRules};

/// The longest name for people to read, in characters.
const MAX_DISPLAY_NAME: usize = 200;

/// How names are read, by `[auth]`.
#[derive(Clone, Debug)]
pub struct Names {
    rules: UsernameRules,
    login: LoginName,
    reserved: Vec<Username>,
}

/// What somebody typed to log in, recognised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoginId {
    /// A username.
    Username(Username),
    /// An address.
    Email(Email),
    /// Nothing that an account could have; kept only to count failures by.
    Nobody(String),
}

impl LoginId {
    /// By what failures are counted when no account has the name.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Username(name) => name.to_string(),
            Self::Email(email) => email.key(),
            Self::Nobody(typed) => typed.to_lowercase(),
        }
    }
}

impl Names {
    /// The rules of this configuration. A reserved name that breaks them reserves nothing.
    #[must_use]
    pub fn new(auth: &AuthSettings) -> Self {
        let mut names = Self { rules: auth.usernames, login: auth.login_name, reserved: Vec::new() };
        names.reserved =
            auth.reserved_usernames.iter().filter_map(|name| names.username(name).ok()).collect();
        names
    }

    /// A username in its canonical spelling.
    pub fn username(&self, typed: &str) -> Result<Username, InvalidField> {
        let canonical = match self.rules {
            UsernameRules::Ascii => ascii(typed),
            UsernameRules::Unicode => unicode(typed),
        };
        canonical.and_then(|name| name.parse().ok()).ok_or_else(|| {
            let message = match self.rules {
                UsernameRules::Ascii => {
                    "a username is 1 to 64 of the letters a to z, digits, dot, underscore and hyphen"
                }
                UsernameRules::Unicode => {
                    "a username is 1 to 64 letters, digits and ASCII signs other than @, in one direction"
                }
            };
            InvalidField::new("username", "invalid", message)
        })
    }

    /// Whether nobody may register the name.
    #[must_use]
    pub fn is_reserved(&self, name: &Username) -> bool {
        self.reserved.contains(name)
    }

    /// What somebody typed to log in. An `@` makes it an address: no username has one.
    #[must_use]
    pub fn login(&self, typed: &str) -> LoginId {
        let nobody = || LoginId::Nobody(typed.chars().take(320).collect());
        let is_address = typed.contains('@');
        match self.login {
            LoginName::Username if is_address => nobody(),
            LoginName::Email if !is_address => nobody(),
            _ if is_address => typed.parse().map_or_else(|_| nobody(), LoginId::Email),
            _ => self.username(typed).map_or_else(|_| nobody(), LoginId::Username),
        }
    }

    /// What an operator typed to name an account: its username or address, whatever people log in
    /// with. What is neither may still be an id.
    #[must_use]
    pub fn operator(&self, typed: &str) -> LoginId {
        if let Ok(name) = self.username(typed) {
            return LoginId::Username(name);
        }
        typed.parse().map_or_else(|_| LoginId::Nobody(typed.to_owned()), LoginId::Email)
    }
}

/// An address, by [`Email`]'s rules.
pub(super) fn email(typed: &str) -> Result<Email, InvalidField> {
    typed.parse().map_err(|_| InvalidField::new("email", "invalid", "this is not an e-mail address"))
}

/// A name for people to read: any text of one line, without characters that reorder or hide others.
pub(super) fn display_name(typed: &str) -> Result<String, InvalidField> {
    let length = typed.chars().count();
    if length > MAX_DISPLAY_NAME {
        return Err(InvalidField::new("name", "too_long", "a name has at most 200 characters"));
    }
    if length == 0 || typed.trim().is_empty() || typed.contains(is_deceptive) {
        let message = "a name is text without control characters and direction marks";
        return Err(InvalidField::new("name", "invalid", message));
    }
    Ok(typed.to_owned())
}

/// Control characters, line separators, bidirectional controls (Unicode TR 36 section 2.6) and the
/// invisible marks that make two names look alike.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

fn ascii(typed: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (typed.bytes().all(allowed) && !is_dot_segment(typed)).then(|| typed.to_ascii_lowercase())
}

/// `.` and `..` are steps in a path: no route could name their owner, and an app that makes a directory
/// of a username would leave it.
fn is_dot_segment(name: &str) -> bool {
    matches!(name, "." | "..")
}

/// Enforces the profile until nothing changes: RFC 8264 section 7 warns that once may not be enough,
/// and a key must not have a second spelling.
fn unicode(typed: &str) -> Option<String> {
    // The profile's cost grows with the text; nothing this long is a name.
    if typed.len() > 512 {
        return None;
    }
    let mut name = typed.to_owned();
    for _ in 0..4 {
        let next = UsernameCaseMapped::enforce(name.as_str()).ok()?.into_owned();
        if next == name {
            return (!is_dot_segment(&name)).then_some(name);
        }
        name = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rules: UsernameRules, login: LoginName) -> Names {
        let mut names = Names { rules, login, reserved: Vec::new() };
        names.reserved = vec![names.username("Admin").expect("a name")];
        names
    }

    #[test]
    fn ascii_names_have_one_spelling() {
        let names = names(UsernameRules::Ascii, LoginName::Either);
        for (typed, canonical) in [("Alice", "alice"), ("a.b_c-9", "a.b_c-9"), ("X", "x")] {
            assert_eq!(names.username(typed).expect("a name").as_str(), canonical);
        }
        assert!(names.username(&"x".repeat(64)).is_ok());
        let long = "x".repeat(65);
        for bad in [
            "",
            " ",
            ".",
            "..",
            "al ice",
            "alice\0",
            "alice\u{202e}",
            "a@b",
            "\u{212a}elvin",
            "älice",
            "alice\n",
            "a/b",
            "%41",
            "ａlice",
            "аlice",
            "al\u{200b}ice",
            &long,
        ] {
            let error = names.username(bad).expect_err(bad);
            assert_eq!((error.field, error.code), ("username", "invalid"), "{bad:?}");
            assert!(bad.len() < 3 || !error.message.contains(bad), "what was sent is not repeated");
        }
    }

    #[test]
    fn unicode_names_follow_the_profile() {
        let names = names(UsernameRules::Unicode, LoginName::Either);
        for (typed, canonical) in
            [("Ａlice", "alice"), ("ÄNNE", "änne"), ("a\u{308}nne", "änne"), ("Juliet", "juliet")]
        {
            assert_eq!(names.username(typed).expect(typed).as_str(), canonical, "{typed}");
        }
        for bad in [
            "",
            ".",
            "..",
            "\u{ff0e}\u{ff0e}",
            "a b",
            "a@b",
            "al\u{202e}ice",
            "al\u{200b}ice",
            "al\0ice",
            "\u{212a}elvin",
            "henryⅣ",
            "\u{2060}",
        ] {
            assert!(names.username(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reserved_names_are_recognised_in_every_spelling() {
        let names = names(UsernameRules::Ascii, LoginName::Either);
        assert!(names.is_reserved(&names.username("ADMIN").expect("a name")));
        assert!(!names.is_reserved(&names.username("admins").expect("a name")));
    }

    #[test]
    fn what_is_typed_to_log_in_is_a_name_an_address_or_nobody() {
        let kinds = |login: LoginName, typed: &str| match names(UsernameRules::Ascii, login).login(typed) {
            LoginId::Username(_) => "name",
            LoginId::Email(_) => "address",
            LoginId::Nobody(_) => "nobody",
        };
        for (login, typed, kind) in [
            (LoginName::Either, "Alice", "name"),
            (LoginName::Either, "alice@example.com", "address"),
            (LoginName::Either, "alice@", "nobody"),
            (LoginName::Either, "\0", "nobody"),
            (LoginName::Username, "alice@example.com", "nobody"),
            (LoginName::Username, "alice", "name"),
            (LoginName::Email, "alice", "nobody"),
            (LoginName::Email, "alice@example.com", "address"),
        ] {
            assert_eq!(kinds(login, typed), kind, "{login:?} {typed:?}");
        }
    }

    #[test]
    fn names_for_people_cannot_hide_or_reorder() {
        assert_eq!(display_name("Zoë O’Neil 王").expect("a name"), "Zoë O’Neil 王");
        for bad in ["", "  ", "a\0", "a\r\nb", "a\u{202e}b", "a\u{2028}b", "\u{feff}a"] {
            assert_eq!(display_name(bad).expect_err(bad).code, "invalid", "{bad:?}");
        }
        assert_eq!(display_name(&"x".repeat(201)).expect_err("too long").code, "too_long");
    }
}
