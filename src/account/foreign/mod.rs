//! Password hashes that other software has made, read so that their owners keep their passwords.
//!
//! [`Foreign::parse`] knows the text of each scheme, names what it does not take, and bounds what a
//! hash may cost. Slow schemes are kept in the store as they are. Fast ones (a digest or a thousand
//! of them) are not: argon2id goes over the digest at once, and the store keeps
//! `$wrapped-SCHEME$SALT$argon2id$…`, where SALT is the digest's own in URL-safe base64. Either is
//! replaced by a plain argon2id hash at the first login; checking is the business of `engine`.
//!
//! | software | text | limit |
//! |---|---|---|
//! | werkzeug | `scrypt:N:r:p$salt$hex`, `pbkdf2:sha1\|sha256\|sha512:N$salt$hex` | as below |
//! | werkzeug before 3 | `md5$…`, `sha1$…`, `sha256$…`, `sha384$…`, `sha512$salt$hex` | wrapped |
//! | Django | `pbkdf2_sha256$`, `pbkdf2_sha1$`, `scrypt$`, `bcrypt_sha256$`, `bcrypt$`, `argon2$` | as below |
//! | Django, old | `md5$salt$hex`, `sha1$salt$hex` | wrapped |
//! | passlib | `$pbkdf2$`, `$pbkdf2-sha256$`, `$pbkdf2-sha512$` | 4,000,000 iterations |
//! | any | `$2a$`, `$2b$`, `$2y$` (bcrypt) | cost 15 |
//! | any | `$argon2id$`, `$argon2i$`, `$argon2d$` | 256 MiB, 16 passes, 8 lanes |
//! | htpasswd | `$apr1$`, `{SHA}` | wrapped |
//!
//! scrypt: 128 MiB, N·r·p up to 4,194,304.

mod fast;
mod read;
mod slow;
#[cfg(test)]
mod vectors;

use std::fmt;
use std::time::Duration;

use argon2::Params;
use zeroize::Zeroizing;

use super::engine::Engine;
use super::phc::{self, StoredHash};
use super::price::{Kind, Work};
use crate::settings::PasswordSettings;
use crate::store::PasswordHash;

pub(super) use fast::Fast;
pub(super) use slow::{Slow, top_up};

/// Characters of the longest text that is read.
const MAX_LENGTH: usize = 1024;

/// Why a text is not taken as a password hash. Never contains the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    /// Nothing that is known begins like this.
    #[error("no known kind of password hash")]
    Unknown,
    /// A kind that is known by name only.
    #[error("a hash of {0}, which is not supported")]
    Unsupported(&'static str),
    /// A password as it is typed.
    #[error("a password in plain text, not a hash")]
    Plain,
    /// The other software says with it that no password is right (empty, or Django's `!…`).
    #[error("a mark that the account has no password")]
    NoPassword,
    /// It begins like one and is none.
    #[error("a broken hash of {scheme}: {reason}")]
    Broken {
        /// What it begins like.
        scheme: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// Checking it would cost more than anybody may ask for.
    #[error("a hash of {scheme} that costs too much: {limit}")]
    Excessive {
        /// The kind of hash.
        scheme: &'static str,
        /// What is allowed.
        limit: &'static str,
    },
    /// A fast hash in the store, where only wrapped ones belong.
    #[error("a hash of {0} that was stored as it is")]
    Unwrapped(&'static str),
    /// The operating system gave no randomness for wrapping it.
    #[error("no randomness from the operating system")]
    Randomness,
}

/// How a password is checked.
pub(super) enum Check {
    /// argon2, of whichever variant: also our own hashes.
    Argon2(StoredHash),
    /// Another slow function.
    Slow(Slow),
    /// A digest that somebody else has made, under argon2id.
    Wrapped(Fast, StoredHash),
    /// A digest and its value. It is never stored so.
    Fast(Fast, Zeroizing<Vec<u8>>),
}

/// A password hash that was read.
pub struct Foreign {
    pub(super) check: Check,
    /// How the software that made it treats what is typed: as it comes.
    pub(super) as_typed: bool,
    text: PasswordHash,
}

impl Foreign {
    /// Reads a hash of any known scheme, our own ones and wrapped ones too.
    ///
    /// # Errors
    /// Every [`ForeignError`] but `Unwrapped` and `Randomness`. The limits of argon2 are the module's or
    /// the configured parameters, whichever are greater.
    pub fn parse(text: &str, settings: &PasswordSettings) -> Result<Self, ForeignError> {
        let configured = phc::configured(settings).map_err(|_| ForeignError::Broken {
            scheme: "argon2",
            reason: "[auth.password] is not usable",
        })?;
        Self::read(text, &configured)
    }

    /// As [`Foreign::parse`], beside parameters that were checked.
    pub(super) fn read(text: &str, configured: &Params) -> Result<Self, ForeignError> {
        if text.len() > MAX_LENGTH {
            return Err(ForeignError::Unknown);
        }
        Ok(Self {
            check: read::check(text, configured)?,
            as_typed: !text.starts_with("$argon2"),
            text: PasswordHash::from(text.to_owned()),
        })
    }

    /// What it is called in reports: `werkzeug scrypt`, `bcrypt` …
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match &self.check {
            Check::Argon2(_) => "argon2",
            Check::Slow(slow) => slow.scheme(),
            Check::Wrapped(fast, _) | Check::Fast(fast, _) => fast.scheme(),
        }
    }

    /// Whether storing it takes an argon2id hash, tens of milliseconds.
    #[must_use]
    pub fn is_fast(&self) -> bool {
        matches!(self.check, Check::Fast(..))
    }

    /// What a check that fails costs.
    pub(super) fn work(&self) -> Work {
        match &self.check {
            Check::Argon2(hash) => phc::work(&hash.params),
            Check::Slow(slow) => slow.work(),
            Check::Wrapped(fast, outer) => {
                let blocks = phc::work(&outer.params).get(Kind::Argon2);
                fast.work().and(&Work::of(Kind::Argon2, blocks * fast.candidates()))
            }
            Check::Fast(fast, _) => fast.work(),
        }
    }

    /// What checking it takes of a processor, about, and which kind of work that is. A failed login takes as
    /// much as the dearest hash of each kind. `None` for what is stored as argon2id of today's parameters.
    #[must_use]
    pub fn price(&self) -> Option<(&'static str, Duration)> {
        if self.is_fast() { None } else { self.work().dearest() }
    }

    /// N·r, for a hash of scrypt.
    pub(super) fn scrypt_block(&self) -> u64 {
        if let Check::Slow(slow) = &self.check { slow.scrypt_block() } else { 0 }
    }

    /// Whether today's configuration would make another one.
    pub(super) fn is_stale(&self, configured: &Params) -> bool {
        match &self.check {
            Check::Argon2(hash) => self.as_typed || hash.is_stale(configured),
            Check::Slow(_) | Check::Wrapped(..) | Check::Fast(..) => true,
        }
    }

    /// What the store keeps: the text itself, or a fast hash wrapped here and now, on this thread.
    ///
    /// # Errors
    /// [`ForeignError::Randomness`].
    pub fn into_stored(self, settings: &PasswordSettings) -> Result<PasswordHash, ForeignError> {
        let Check::Fast(fast, digest) = &self.check else { return Ok(self.text) };
        let outer = Engine::once(settings)
            .and_then(|mut engine| engine.hash(digest))
            .map_err(|_| ForeignError::Randomness)?;
        Ok(PasswordHash::from(fast.wrapped(outer.phc())))
    }

    /// Whether `stored` is what [`Foreign::into_stored`] has made of this hash once: the same text, or the
    /// same digest wrapped, which takes an argon2id hash to find out.
    #[must_use]
    pub fn is_stored_as(&self, stored: &PasswordHash, settings: &PasswordSettings) -> bool {
        let Check::Fast(fast, digest) = &self.check else { return *stored == self.text };
        let Ok(Self { check: Check::Wrapped(inner, outer), .. }) = Self::parse(stored.phc(), settings) else {
            return false;
        };
        inner == *fast
            && Engine::once(settings).and_then(|mut engine| engine.is_argon2(&outer, digest)).unwrap_or(false)
    }
}

/// What the store keeps for an account without a password: no text that is typed is right.
pub(super) fn no_password() -> PasswordHash {
    PasswordHash::from("!".to_owned())
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Foreign").field(&self.scheme()).finish()
    }
}

/// What the store keeps for `text`: any hash that [`Foreign::parse`] reads, fast ones wrapped on this
/// thread (tens of milliseconds).
///
/// # Errors
/// As [`Foreign::parse`] and [`Foreign::into_stored`].
pub fn stored_hash(text: &str, settings: &PasswordSettings) -> Result<PasswordHash, ForeignError> {
    Foreign::parse(text, settings)?.into_stored(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::testing::HASHING;

    const HEX64: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const BCRYPT: &str = "wVHmV0dpoPMsqBSPbAWkPuPzkUyUPEYoxpEoT8BcLdSAdRTFSMc6m";

    fn refusal(text: &str) -> ForeignError {
        match Foreign::parse(text, &HASHING) {
            Ok(read) => panic!("{text} is read as {read:?}"),
            Err(error) => error,
        }
    }

    #[test]
    fn a_failed_login_costs_seconds_at_most_whatever_was_imported() {
        let hex = |digits: usize| "0".repeat(digits);
        let dearest = [
            "$argon2id$v=19$m=262144,t=16,p=8$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
            format!("scrypt:131072:8:4$salt${}", hex(128)),
            format!("$2b$15${BCRYPT}"),
            format!("pbkdf2:sha1:4000000$salt${}", hex(40)),
            format!("pbkdf2:sha256:4000000$salt${}", hex(64)),
            format!("pbkdf2:sha512:4000000$salt${}", hex(128)),
        ];
        let price = |text: &String| Foreign::parse(text, &HASHING).expect("a hash").price().expect("a price");
        let prices = dearest.each_ref().map(price);
        let kinds: std::collections::BTreeSet<_> = prices.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds.len(), dearest.len());
        let all: Duration = prices.iter().map(|(_, span)| *span).sum();
        assert!((8..=12).contains(&all.as_secs()), "{all:?}: the README says 12 s");
    }

    #[test]
    fn what_is_not_read_is_named() {
        use ForeignError::{NoPassword, Plain, Unknown, Unsupported};
        for (text, error) in [
            ("", NoPassword),
            ("!", NoPassword),
            ("!WxTfqBB7Ln0mY2H3c0", NoPassword),
            ("*", NoPassword),
            ("plain$$secret", Plain),
            ("{PLAIN}secret", Plain),
            ("secret", Unknown),
            ("secret$with$dollars", Unknown),
            ("sha3_256$salt$00", Unknown),
            ("$$", Unknown),
            ("🦀", Unknown),
            ("$2x$12$abcdefghijklmnopqrstuv", Unsupported("bcrypt with the bug of 2011 ($2x$)")),
            ("$1$abcdefgh$GeAd7Sq5MGWKmHNJlpIKf/", Unsupported("md5-crypt ($1$)")),
            ("$5$rounds=1000$x$y", Unsupported("sha-crypt ($5$, $6$)")),
            ("$6$x$y", Unsupported("sha-crypt ($5$, $6$)")),
            ("$y$j9T$x$y", Unsupported("yescrypt")),
            ("$P$BPlZgsC", Unsupported("phpass")),
            ("{SSHA}x", Unsupported("LDAP other than {SHA}")),
            ("rqXexS6ZhobKA", Unsupported("DES crypt, or a plain text")),
            ("5f4dcc3b5aa765d61d8327deb882cf99", Unsupported("a digest without salt or name")),
        ] {
            assert_eq!(refusal(text), error, "{text}");
        }
        assert_eq!(refusal(&"x".repeat(5_000_000)), Unknown);
    }

    #[test]
    fn costs_are_bounded_and_the_limit_is_named() {
        for text in [
            format!("pbkdf2:sha256:4000001$salt${HEX64}"),
            format!("pbkdf2:sha256:99999999999999999999$salt${HEX64}"),
            "pbkdf2_sha256$4000001$salt$n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=".to_owned(),
            "$pbkdf2-sha256$4000001$c2FsdA$n4bQgYhMfWWaL.qgxVrQFaO/TxsrC4Is0V1sFbDwCgg".to_owned(),
            format!("scrypt:262144:8:1$salt${HEX64}"),
            format!("scrypt:32768:8:17$salt${HEX64}"),
            format!("scrypt:2:4294967295:4294967295$salt${HEX64}"),
            "scrypt$1048576$salt$8$1$n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=".to_owned(),
            format!("$2b$16${BCRYPT}"),
            format!("$2b$31${BCRYPT}"),
            format!("bcrypt$$2b$16${BCRYPT}"),
            format!("bcrypt_sha256$$2b$16${BCRYPT}"),
            "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
            "argon2$argon2id$v=19$m=102400,t=200,p=8$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
            "$wrapped-sha1$c2FsdA$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA"
                .to_owned(),
        ] {
            assert!(matches!(refusal(&text), ForeignError::Excessive { .. }), "{text}: {}", refusal(&text));
        }
    }

    #[test]
    fn what_is_broken_is_said_to_be_broken() {
        for text in [
            // werkzeug
            "scrypt:32768:8$salt$00".to_owned(),
            "scrypt:32768:8:1$salt".to_owned(),
            format!("scrypt:32767:8:1$salt${HEX64}"),
            format!("scrypt:0:8:1$salt${HEX64}"),
            format!("scrypt:1:8:1$salt${HEX64}"),
            format!("scrypt:1024:0:1$salt${HEX64}"),
            format!("scrypt:1024:8:0$salt${HEX64}"),
            format!("scrypt:+1024:8:1$salt${HEX64}"),
            "scrypt:32768:8:1$salt$zz".to_owned(),
            "scrypt:32768:8:1$salt$".to_owned(),
            "scrypt:32768:8:1$salt$00".to_owned(),
            format!("pbkdf2:sha256$salt${HEX64}"),
            format!("pbkdf2:sha256:0$salt${HEX64}"),
            format!("pbkdf2:sha256:-1$salt${HEX64}"),
            format!("pbkdf2:sha256:1000$${HEX64}"),
            format!("pbkdf2:sha256:1000$salt${}", &HEX64[2..]),
            format!("pbkdf2:whirlpool:1000$salt${HEX64}"),
            format!("sha256$salt${}", &HEX64[1..]),
            format!("sha512$salt${HEX64}"),
            "sha1$salt".to_owned(),
            "sha1".to_owned() + "$",
            // Django
            "pbkdf2_sha256$1000$salt$not base64".to_owned(),
            "pbkdf2_sha256$many$salt$n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=".to_owned(),
            "scrypt$16384$salt$8$5".to_owned(),
            format!("bcrypt$2b$12${BCRYPT}"),
            "bcrypt_sha256$$2b$12$short".to_owned(),
            "argon2$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ".to_owned(),
            // bcrypt, PHC, passlib, htpasswd
            "$2b$12$short".to_owned(),
            format!("$2b$03${BCRYPT}"),
            format!("$2b$1${BCRYPT}1"),
            format!("$2b$12${}", BCRYPT.replace('w', "!")),
            format!("$2b$12${}é", &BCRYPT[2..]),
            "$argon2id$v=19$m=1,t=0,p=0$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
            "$argon2x$v=19$m=8,t=1,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
            "$pbkdf2-sha256$1000$c2FsdA$short".to_owned(),
            "$apr1$salt".to_owned(),
            "$apr1$saltsalts$GeAd7Sq5MGWKmHNJlpIKf/".to_owned(),
            "$apr1$salt$GeAd7Sq5MGWKmHNJlpIKf".to_owned(),
            "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9".to_owned(),
            "$wrapped-sha1$c2FsdA$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ".to_owned(),
            "$wrapped-sha1$c2FsdA$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
            "$wrapped-rot13$c2FsdA$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
            "$wrapped-sha1$$$".to_owned(),
        ] {
            let error = refusal(&text);
            assert!(matches!(error, ForeignError::Broken { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn neither_errors_nor_debug_output_show_the_hash() {
        let text = format!("pbkdf2:sha256:1000$pepper${HEX64}");
        let shown = format!("{:?} {}", Foreign::parse(&text, &HASHING), refusal(&text[..40]));
        assert!(!shown.contains("pepper") && !shown.contains(&HEX64[..8]), "{shown}");
    }

    #[test]
    fn slow_hashes_are_stored_as_they_are_and_fast_ones_wrapped() {
        let slow = format!("pbkdf2:sha256:1000$salt${HEX64}");
        assert_eq!(stored_hash(&slow, &HASHING).expect("stored").phc(), slow);

        let fast = format!("sha256$salt${HEX64}");
        let stored = stored_hash(&fast, &HASHING).expect("stored");
        assert!(stored.phc().starts_with("$wrapped-sha256$c2FsdA$argon2id$v=19$m=8,t=1,p=1$"));
        assert!(!stored.phc().contains(&HEX64[..16]));
        assert_ne!(stored, stored_hash(&fast, &HASHING).expect("stored"), "salted anew");
        // What is wrapped already is stored as it is.
        assert_eq!(stored_hash(stored.phc(), &HASHING).expect("stored"), stored);
    }

    #[test]
    fn a_hash_knows_what_it_was_stored_as() {
        let read = |text: &str| Foreign::parse(text, &HASHING).expect("readable");
        let (fast, slow) = (format!("sha256$salt${HEX64}"), format!("pbkdf2:sha256:1000$salt${HEX64}"));
        for (text, other) in [
            (fast.clone(), format!("sha256$salt${}", HEX64.replace('9', "8"))),
            (fast.clone(), format!("sha256$tlas${HEX64}")),
            (slow.clone(), format!("pbkdf2:sha256:1001$salt${HEX64}")),
            (fast, slow),
        ] {
            let stored = stored_hash(&text, &HASHING).expect("stored");
            assert!(read(&text).is_stored_as(&stored, &HASHING), "{text}");
            assert!(!read(&other).is_stored_as(&stored, &HASHING), "{other}");
        }
    }
}
