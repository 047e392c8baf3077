//! A password as it is hashed.
//!
//! Two keyboards write `ü` in two ways; NIST SP 800-63B section 3.1.1.2 wants them to be one
//! password. So passwords go through the mappings of PRECIS `OpaqueString` (RFC 8265 section 4.2:
//! other spaces become U+0020, then NFC) when they are chosen and when they are checked. Its
//! *prohibitions* are left out: a control character, NUL too, is data like any other, and a code
//! point that tomorrow's Unicode assigns must not lock its owner out. Nothing is trimmed or cut.

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::Rules;

use super::error::InvalidField;
use crate::secret::Secret;
use crate::settings::PasswordSettings;

/// A password, mapped, of a size that is worth hashing.
#[derive(Clone, Debug)]
pub struct Passphrase {
    mapped: Secret<String>,
    /// As it was typed, where that is something else.
    typed: Option<Secret<String>>,
}

impl Passphrase {
    /// A password that somebody chooses; `field` is the member it came in.
    ///
    /// # Errors
    /// Shorter than `min_length` characters or longer than `max_bytes`.
    pub fn chosen(
        typed: &Secret<String>,
        field: &'static str,
        rules: &PasswordSettings,
    ) -> Result<Self, InvalidField> {
        let Some(mapped) = Self::typed(typed, rules) else {
            let message = format!("a password has at most {} bytes", rules.max_bytes);
            return Err(InvalidField::new(field, "too_long", message));
        };
        if mapped.mapped.expose().chars().count() < rules.min_length.max(1) {
            let message = format!("a password has at least {} characters", rules.min_length);
            return Err(InvalidField::new(field, "too_short", message));
        }
        Ok(mapped)
    }

    /// A password to check. None when it is longer than any that could have been chosen: such a one
    /// is wrong without hashing it, whoever it is for.
    #[must_use]
    pub fn typed(typed: &Secret<String>, rules: &PasswordSettings) -> Option<Self> {
        let text = typed.expose();
        // NFC shortens what a decomposing keyboard sent; four times bounds the work.
        if text.len() > rules.max_bytes.saturating_mul(4) {
            return None;
        }
        let mapped = Secret::new(map(text));
        let changed = mapped.expose() != text;
        (mapped.expose().len() <= rules.max_bytes)
            .then(|| Self { mapped, typed: changed.then(|| typed.clone()) })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.mapped.expose().as_bytes()
    }

    /// Without the mappings, for hashes of software that knows none.
    pub(super) fn as_typed(&self) -> &[u8] {
        self.typed.as_ref().unwrap_or(&self.mapped).expose().as_bytes()
    }
}

fn map(text: &str) -> String {
    let profile = OpaqueString::new();
    let spaced = profile.additional_mapping_rule(text).unwrap_or(text.into());
    profile.normalization_rule(spaced.as_ref()).map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::testing::HASHING;

    const RULES: PasswordSettings = PasswordSettings { max_bytes: 16, ..HASHING };

    fn chosen(text: &str) -> Result<Passphrase, &'static str> {
        Passphrase::chosen(&text.to_owned().into(), "password", &RULES).map_err(|e| e.code)
    }

    #[test]
    fn length_is_counted_in_characters_and_bounded_in_bytes() {
        assert!(chosen("12345678").is_ok());
        assert!(chosen("ääääääää").is_ok(), "8 characters, 16 bytes");
        assert_eq!(chosen("1234567").expect_err("7"), "too_short");
        assert_eq!(chosen("äääääää").expect_err("7 characters, 14 bytes"), "too_short");
        assert_eq!(chosen(&"x".repeat(17)).expect_err("17"), "too_long");
        assert_eq!(chosen(&"x".repeat(10_000_000)).expect_err("much"), "too_long");
    }

    #[test]
    fn two_ways_to_type_a_password_are_one() {
        let bytes = |text: &str| chosen(text).expect("a password").bytes().to_vec();
        assert_eq!(bytes("passwu\u{308}rd"), bytes("passwürd"));
        assert_eq!(bytes("pass\u{a0}word"), bytes("pass word"));
        assert_eq!(chosen("a\u{308}".repeat(8).as_str()).expect("24 bytes become 16").bytes().len(), 16);
    }

    #[test]
    fn nothing_is_trimmed_folded_or_cut_at_nul() {
        let bytes = |text: &str| chosen(text).expect("a password").bytes().to_vec();
        for (a, b) in [("password\0a", "password\0b"), ("password", "password "), ("Password", "password")] {
            assert_ne!(bytes(a), bytes(b));
        }
    }
}
