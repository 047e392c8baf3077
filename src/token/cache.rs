//! Tokens that were verified, so that a signature is checked once per token and not once per request.
//!
//! One cache a worker, not shared: no lock, no atomic. An entry is found by the *whole* token, compared
//! byte by byte: fast-jwt once handed out another user's claims because two tokens had one cache key
//! (GHSA-rp9m-7r4c-75qg). Only successes are kept; that they still hold is for `authn` to check at each hit.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, Weighter};
use rustc_hash::FxBuildHasher;

/// What an entry costs beside the token and the value.
const OVERHEAD_BYTES: u64 = 160;
/// How long an entry is, roughly; the cache's first allocation goes by it.
const TYPICAL_BYTES: u64 = 2048;

/// Verified tokens and what they stand for, bounded by weight; what is used least goes.
pub struct TokenCache<V> {
    /// `None` when there is no room for anything.
    entries: Option<Cache<WholeToken, Slot<V>, BySlot, FxBuildHasher>>,
}

impl<V> fmt::Debug for TokenCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("entries", &self.len()).finish()
    }
}

impl<V> TokenCache<V> {
    /// A cache that weighs at most so many bytes; 0 keeps nothing.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let estimate = usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX).clamp(1, 1 << 16);
        let entries = (bytes > 0)
            .then(|| Cache::with(estimate, bytes, BySlot, FxBuildHasher, DefaultLifecycle::default()));
        Self { entries }
    }

    /// What was kept for exactly this token.
    #[must_use]
    pub fn find(&self, token: &[u8]) -> Option<&Rc<V>> {
        let slot = self.entries.as_ref()?.get(&Candidate(token))?;
        Some(&slot.value)
    }

    /// Keeps `value`, whose own size is about `bytes`, for this token.
    pub fn insert(&mut self, token: &str, value: Rc<V>, bytes: usize) {
        let Some(entries) = &mut self.entries else { return };
        let weight = (token.len() + bytes) as u64 + OVERHEAD_BYTES;
        entries.insert(WholeToken(Box::from(token.as_bytes())), Slot { value, weight });
    }

    /// Drops the entry of a token that cannot become good again.
    pub fn remove(&mut self, token: &[u8]) {
        if let Some(entries) = &mut self.entries {
            entries.remove(&Candidate(token));
        }
    }

    /// How many tokens are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, Cache::len)
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A key: the token, all of it.
#[derive(PartialEq, Eq)]
struct WholeToken(Box<[u8]>);

/// A token that may be a key.
struct Candidate<'a>(&'a [u8]);

struct Slot<V> {
    value: Rc<V>,
    weight: u64,
}

#[derive(Clone)]
struct BySlot;

impl<V> Weighter<WholeToken, Slot<V>> for BySlot {
    fn weight(&self, _: &WholeToken, slot: &Slot<V>) -> u64 {
        slot.weight
    }
}

/// Where in the cache a token goes is decided by its end, the signature: as good as random, and only
/// verified tokens are in there, so that nobody can fill one place with many. Equality is by all bytes.
fn hash_end<H: Hasher>(token: &[u8], state: &mut H) {
    state.write(&token[token.len().saturating_sub(32)..]);
}

impl Hash for WholeToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_end(&self.0, state);
    }
}

impl Hash for Candidate<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_end(self.0, state);
    }
}

impl Equivalent<WholeToken> for Candidate<'_> {
    fn equivalent(&self, key: &WholeToken) -> bool {
        self.0 == &*key.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_finds_its_value() {
        // Given two tokens that fall into one place, since they end alike.
        let end = "x".repeat(32);
        let (first, second) = (format!("first.{end}"), format!("second.{end}"));
        let mut cache = TokenCache::new(1 << 20);
        cache.insert(&first, Rc::new(1), 0);
        // Then the one is not taken for the other, nor is a part of it or more than it.
        assert_eq!(cache.find(first.as_bytes()).map(|v| **v), Some(1));
        let longer = format!("a{first}");
        for other in [second.as_str(), &end, &first[1..], &longer, ""] {
            assert!(cache.find(other.as_bytes()).is_none(), "{other}");
        }
        cache.insert(&second, Rc::new(2), 0);
        assert_eq!(cache.find(first.as_bytes()).map(|v| **v), Some(1));
        assert_eq!(cache.find(second.as_bytes()).map(|v| **v), Some(2));
        cache.remove(first.as_bytes());
        assert!(cache.find(first.as_bytes()).is_none() && cache.find(second.as_bytes()).is_some());
    }

    #[test]
    fn every_changed_byte_is_a_miss() {
        let token: String = ('0'..='z').filter(char::is_ascii_alphanumeric).collect();
        let mut cache = TokenCache::new(1 << 20);
        cache.insert(&token, Rc::new(()), 0);
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed.replace_range(at..=at, "-");
            assert!(cache.find(changed.as_bytes()).is_none(), "{at}");
        }
        assert!(cache.find(token.as_bytes()).is_some());
    }

    #[test]
    fn weight_is_bounded() {
        let mut cache = TokenCache::new(100_000);
        for n in 0..10_000 {
            cache.insert(&format!("{n:0500}"), Rc::new(n), 340);
        }
        assert!((50..=100).contains(&cache.len()), "{}", cache.len());
        cache.insert(&"z".repeat(200_000), Rc::new(0), 0);
        assert!(cache.len() <= 100);
    }

    #[test]
    fn no_room_keeps_nothing() {
        let mut cache = TokenCache::new(0);
        cache.insert("token", Rc::new(()), 0);
        cache.remove("token".as_bytes());
        assert!(cache.find("token".as_bytes()).is_none() && cache.is_empty());
    }
}
