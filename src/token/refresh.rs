//! Refresh tokens: opaque, rotated at each use, kept as hashes only.
//!
//! A token is `gpr_` and base64url of session id (16 bytes), position (4), secret (32) and a MAC (16).
//! The MAC is what lets a *spent* token end its session: without it, whoever knows a session's id could
//! end it with a made-up one. A child's secret is derived from its parent's, so that a client whose
//! answer got lost gets the very same child again (within the grace) and a chain never forks.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::identity::SessionId;
use crate::secret::Secret;

const PREFIX: &str = "gpr_";
const SECRET_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const BODY_BYTES: usize = 16 + 4 + SECRET_BYTES;

/// What a session remembers of its refresh tokens: hashes (SHA-256), never the tokens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefreshChain {
    /// The position of the current token; the first is 0.
    pub counter: u32,
    /// SHA-256 of the current token's secret.
    pub current: [u8; 32],
    /// Its parent, while that may still repeat its answer.
    pub parent: Option<SpentRefresh>,
}

/// A refresh token that was exchanged for the current one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SpentRefresh {
    /// SHA-256 of the token's secret.
    pub hash: [u8; 32],
    /// When it was exchanged.
    pub spent_at: Timestamp,
}

/// Derives children and authenticates tokens. One per installation, kept in the store.
#[derive(Clone)]
pub struct RefreshKey(hmac::Key);

impl std::fmt::Debug for RefreshKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl RefreshKey {
    /// The key with these bytes.
    #[must_use]
    pub fn new(bytes: &Secret<[u8; 32]>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes.expose()))
    }

    fn mac(&self, label: &[u8], body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(label);
        context.update(body);
        context.sign()
    }
}

/// A genuine refresh token: one that this gateway made, whether or not it is still worth anything.
#[derive(Clone, Debug)]
pub struct RefreshToken {
    session: SessionId,
    counter: u32,
    secret: Secret<[u8; SECRET_BYTES]>,
}

/// What a genuine token is to the session that it names.
#[derive(Clone, Debug)]
pub enum Presented {
    /// The current token: the session goes on with `child`, once `chain` is stored.
    Current {
        /// The next token.
        child: RefreshToken,
        /// What the session remembers from now on.
        chain: RefreshChain,
    },
    /// The current token's parent, soon enough after its exchange: the same child again.
    Repeat {
        /// The current token.
        child: RefreshToken,
    },
    /// Used up: two parties hold tokens of this session, so it has to end (RFC 9700 section 4.14.2).
    Spent,
    /// Not of this chain's past, such as a token from after the backup that was restored. Refuse, and
    /// leave the session alone.
    Unknown,
}

impl RefreshToken {
    /// The first token of a session, from 32 random bytes.
    #[must_use]
    pub fn first(session: SessionId, random: Secret<[u8; 32]>) -> (Self, RefreshChain) {
        let token = Self { session, counter: 0, secret: random };
        let chain = RefreshChain { counter: 0, current: token.hash(), parent: None };
        (token, chain)
    }

    /// A token from its text; `None` unless this key made it. One token has exactly one text.
    #[must_use]
    pub fn parse(key: &RefreshKey, text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; BODY_BYTES + TAG_BYTES]);
        let encoded = text.strip_prefix(PREFIX)?;
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, bytes.as_mut_slice()).ok()?;
        if length != bytes.len() {
            return None;
        }
        let (body, tag) = bytes.split_at(BODY_BYTES);
        let genuine = key.mac(b"tag", body).as_ref()[..TAG_BYTES].ct_eq(tag);
        if !bool::from(genuine) {
            return None;
        }
        let (session, rest) = body.split_first_chunk()?;
        let (counter, secret) = rest.split_first_chunk()?;
        Some(Self {
            session: SessionId::from_bytes(*session),
            counter: u32::from_be_bytes(*counter),
            secret: Secret::new(secret.try_into().ok()?),
        })
    }

    /// Whether a text claims to be a refresh token; says nothing about it being one.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// The token as the client gets it.
    #[must_use]
    pub fn text(&self, key: &RefreshKey) -> Secret<String> {
        let body = self.body();
        let tag = key.mac(b"tag", body.as_slice());
        let mut bytes = Zeroizing::new([0; BODY_BYTES + TAG_BYTES]);
        bytes[..BODY_BYTES].copy_from_slice(body.as_slice());
        bytes[BODY_BYTES..].copy_from_slice(&tag.as_ref()[..TAG_BYTES]);
        let mut text = String::with_capacity(PREFIX.len() + bytes.len().div_ceil(3) * 4);
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        Secret::new(text)
    }

    /// The session that the token belongs to.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The token's position in its chain.
    #[must_use]
    pub fn counter(&self) -> u32 {
        self.counter
    }

    fn body(&self) -> Zeroizing<[u8; BODY_BYTES]> {
        let mut body = Zeroizing::new([0; BODY_BYTES]);
        body[..16].copy_from_slice(self.session.as_bytes());
        body[16..20].copy_from_slice(&self.counter.to_be_bytes());
        body[20..].copy_from_slice(self.secret.expose());
        body
    }

    fn hash(&self) -> [u8; 32] {
        let hash = digest::digest(&digest::SHA256, self.secret.expose());
        hash.as_ref().try_into().expect("SHA-256 is 32 bytes long")
    }

    /// The next token; `None` at the end of the counter.
    fn child(&self, key: &RefreshKey) -> Option<Self> {
        let counter = self.counter.checked_add(1)?;
        let secret = key.mac(b"child", self.body().as_slice());
        let secret = secret.as_ref().try_into().expect("HMAC-SHA-256 is 32 bytes long");
        Some(Self { session: self.session, counter, secret: Secret::new(secret) })
    }
}

impl RefreshChain {
    /// What `token` is to this chain. The caller found the chain by [`RefreshToken::session`]; it
    /// answers only after what follows from this is stored.
    #[must_use]
    pub fn present(
        &self,
        key: &RefreshKey,
        token: &RefreshToken,
        now: Timestamp,
        grace: Duration,
    ) -> Presented {
        let hash = token.hash();
        if token.counter > self.counter {
            return Presented::Unknown;
        }
        if token.counter == self.counter {
            if !bool::from(hash.ct_eq(&self.current)) {
                return Presented::Unknown;
            }
            let Some(child) = token.child(key) else { return Presented::Unknown };
            let parent = Some(SpentRefresh { hash, spent_at: now });
            let chain = Self { counter: child.counter, current: child.hash(), parent };
            return Presented::Current { child, chain };
        }
        let Some(parent) = &self.parent else { return Presented::Spent };
        let is_parent = token.counter + 1 == self.counter && bool::from(hash.ct_eq(&parent.hash));
        if !is_parent || now.since(parent.spent_at) >= grace {
            return Presented::Spent;
        }
        match token.child(key) {
            Some(child) if bool::from(child.hash().ct_eq(&self.current)) => Presented::Repeat { child },
            // Another refresh key made the current token: nothing to repeat.
            _ => Presented::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn key(byte: u8) -> RefreshKey {
        RefreshKey::new(&Secret::new([byte; 32]))
    }

    fn session() -> SessionId {
        SessionId::from_bytes([9; 16])
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    /// The first `n` tokens of a session, each exchanged at second 100, 101, …, and the chain at its end.
    fn history(n: usize) -> (Vec<RefreshToken>, RefreshChain) {
        let (first, mut chain) = RefreshToken::first(session(), Secret::new([3; 32]));
        let mut tokens = vec![first];
        for now in 100..99 + n as u64 {
            let Presented::Current { child, chain: next } =
                chain.present(&key(1), tokens.last().unwrap(), at(now), GRACE)
            else {
                panic!("the current token goes on")
            };
            tokens.push(child);
            chain = next;
        }
        (tokens, chain)
    }

    fn name(presented: &Presented) -> &'static str {
        match presented {
            Presented::Current { .. } => "current",
            Presented::Repeat { .. } => "repeat",
            Presented::Spent => "spent",
            Presented::Unknown => "unknown",
        }
    }

    #[test]
    fn text_and_token_are_two_forms_of_one_thing() {
        let (tokens, _) = history(3);
        let text = tokens[2].text(&key(1));
        let parsed = RefreshToken::parse(&key(1), text.expose()).unwrap();
        assert!(text.expose().starts_with("gpr_") && text.expose().len() == 95);
        assert_eq!((parsed.session(), parsed.counter()), (session(), 2));
        assert_eq!(parsed.secret, tokens[2].secret);
        assert!(RefreshToken::looks_like(text.expose()));
    }

    #[test]
    fn only_what_this_key_made_is_genuine() {
        let (tokens, _) = history(1);
        let text = tokens[0].text(&key(1)).expose().clone();
        assert!(RefreshToken::parse(&key(1), &text).is_some());
        assert!(RefreshToken::parse(&key(2), &text).is_none(), "another key");
        // Every other spelling and every forged part, the position and the session id included.
        for (at, old) in text.char_indices() {
            for new in ['A', 'z', '0', '-', '_', '=', '+', ' ', 'é'] {
                let mut forged = text.clone();
                forged.replace_range(at..=at, new.encode_utf8(&mut [0; 4]));
                assert!(new == old || RefreshToken::parse(&key(1), &forged).is_none(), "{at} {new}");
            }
            assert!(RefreshToken::parse(&key(1), &text[..at]).is_none(), "cut at {at}");
        }
        for forged in
            [format!("{text}="), format!("{text}AAAA"), format!(" {text}"), "gpr_".to_owned(), String::new()]
        {
            assert!(RefreshToken::parse(&key(1), &forged).is_none(), "{forged:?}");
        }
        let upper = text.replace("gpr_", "GPR_");
        assert!(RefreshToken::parse(&key(1), &upper).is_none());
    }

    #[test]
    fn a_chain_of_three_knows_each_of_its_tokens() {
        let (tokens, chain) = history(3);
        // tokens[1] was exchanged for tokens[2] at second 101.
        let cases = [
            (2, 101, "current"),
            (2, 999_999, "current"),
            (1, 101, "repeat"),
            (1, 110, "repeat"),
            (1, 111, "spent"),
            (1, 5, "repeat"), // the clock stepped back
            (0, 101, "spent"),
            (0, 999_999, "spent"),
        ];
        for (index, now, expected) in cases {
            let presented = chain.present(&key(1), &tokens[index], at(now), GRACE);
            assert_eq!(name(&presented), expected, "token {index} at {now}");
        }
    }

    #[test]
    fn a_repeat_gives_the_very_same_child() {
        let (tokens, chain) = history(2);
        let Presented::Repeat { child } = chain.present(&key(1), &tokens[0], at(105), GRACE) else {
            panic!("within the grace")
        };
        assert_eq!(child.text(&key(1)), tokens[1].text(&key(1)));
    }

    #[test]
    fn a_parent_is_spent_once_its_child_was_used() {
        let (tokens, chain) = history(2);
        assert_eq!(name(&chain.present(&key(1), &tokens[0], at(101), GRACE)), "repeat");
        let Presented::Current { chain, .. } = chain.present(&key(1), &tokens[1], at(101), GRACE) else {
            panic!("the current token goes on")
        };
        assert_eq!(name(&chain.present(&key(1), &tokens[0], at(101), GRACE)), "spent");
        assert_eq!(name(&chain.present(&key(1), &tokens[1], at(101), GRACE)), "repeat");
    }

    #[test]
    fn without_grace_nothing_is_repeated() {
        let (tokens, chain) = history(2);
        assert_eq!(name(&chain.present(&key(1), &tokens[0], at(100), Duration::ZERO)), "spent");
    }

    #[test]
    fn a_token_from_after_a_restored_backup_ends_nothing() {
        let (tokens, _) = history(3);
        let (_, restored) = history(1);
        assert_eq!(name(&restored.present(&key(1), &tokens[2], at(200), GRACE)), "unknown");
        let (_, other) = RefreshToken::first(session(), Secret::new([4; 32]));
        assert_eq!(name(&other.present(&key(1), &tokens[0], at(200), GRACE)), "unknown");
    }

    #[test]
    fn the_counter_ends_and_does_not_wrap() {
        let token = RefreshToken { session: session(), counter: u32::MAX, secret: Secret::new([3; 32]) };
        let chain = RefreshChain { counter: u32::MAX, current: token.hash(), parent: None };
        assert_eq!(name(&chain.present(&key(1), &token, at(1), GRACE)), "unknown");
        assert_eq!(RefreshToken::parse(&key(1), token.text(&key(1)).expose()).unwrap().counter(), u32::MAX);
    }

    #[test]
    fn children_depend_on_key_session_position_and_secret() {
        let base = RefreshToken { session: session(), counter: 7, secret: Secret::new([3; 32]) };
        let other_session = RefreshToken { session: SessionId::from_bytes([8; 16]), ..base.clone() };
        let other_counter = RefreshToken { counter: 8, ..base.clone() };
        let other_secret = RefreshToken { secret: Secret::new([4; 32]), ..base.clone() };
        let child = |token: &RefreshToken, k| token.child(&key(k)).unwrap().hash();
        let hashes = [
            child(&base, 1),
            child(&base, 2),
            child(&other_session, 1),
            child(&other_counter, 1),
            child(&other_secret, 1),
            base.hash(),
        ];
        assert_eq!(hashes.iter().collect::<std::collections::BTreeSet<_>>().len(), hashes.len());
        assert_eq!(child(&base, 1), child(&base, 1));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let (tokens, chain) = history(2);
        let presented = chain.present(&key(1), &tokens[1], at(1), GRACE);
        let shown = format!("{:?} {:?} {presented:?}", key(1), tokens[0]);
        assert!(shown.contains("***") && !shown.contains("3, 3"), "{shown}");
    }
}
