//! One thread's hashing: argon2id with memory that it keeps, and the check of any hash that the store
//! may hold.
//!
//! A check that fails costs the same whoever it was for: unknown names are checked against nothing, at
//! full price (see `price`), and a stored hash that is cheaper is topped up.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;

use super::error::AccountError;
use super::foreign::{self, Check, Foreign, ForeignError};
use super::passphrase::Passphrase;
use super::phc::{self, OUTPUT_BYTES, SALT_BYTES, StoredHash};
use super::price::{Kind, Price, Tally, Work};
use crate::settings::PasswordSettings;
use crate::store::PasswordHash;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the password. `stale`: today's configuration would hash it otherwise.
    Right { stale: bool },
    /// It is not.
    Wrong,
    /// The stored hash cannot be used; nobody can log in with it.
    Unusable(ForeignError),
}

/// One thread's parameters and memory, and what it has in common with the others.
pub(super) struct Engine {
    params: Params,
    memory: Vec<Block>,
    price: Arc<Price>,
    done: Arc<Tally>,
}

impl Engine {
    pub(super) fn new(params: Params, price: Arc<Price>, done: Arc<Tally>) -> Self {
        Self { params, memory: Vec::new(), price, done }
    }

    /// One for the thread that calls.
    pub(super) fn once(settings: &PasswordSettings) -> Result<Self, AccountError> {
        let params = phc::configured(settings).map_err(|_| AccountError::Invalid(Vec::new()))?;
        Ok(Self::new(params, Arc::default(), Arc::default()))
    }

    /// argon2id over `secret` by the configuration, with a new salt.
    pub(super) fn hash(&mut self, secret: &[u8]) -> Result<PasswordHash, AccountError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone());
        let mut hash = [0; OUTPUT_BYTES];
        if !self.run(&argon2, secret, &salt, &mut hash) {
            return Err(AccountError::Busy);
        }
        let text = phc::write(&self.params, &salt, &hash).map_err(|_| AccountError::Busy)?;
        Ok(PasswordHash::from(text))
    }

    /// Checks `password`; without a stored hash it is wrong, at the usual price.
    pub(super) fn verify(
        &mut self,
        stored: Option<&PasswordHash>,
        password: &Passphrase,
    ) -> Result<Verdict, AccountError> {
        let Some(stored) = stored else {
            self.top_up(&Work::default(), password);
            return Ok(Verdict::Wrong);
        };
        let hash = match Foreign::read(stored.phc(), &self.params).and_then(storable) {
            Ok(hash) => hash,
            Err(error) => {
                self.top_up(&Work::default(), password);
                return Ok(Verdict::Unusable(error));
            }
        };
        self.price.raise(&hash.work(), hash.scrypt_block());
        if self.is_right(&hash, password)? {
            return Ok(Verdict::Right { stale: hash.is_stale(&self.params) });
        }
        self.top_up(&hash.work(), password);
        Ok(Verdict::Wrong)
    }

    fn is_right(&mut self, hash: &Foreign, password: &Passphrase) -> Result<bool, AccountError> {
        let typed = if hash.as_typed { password.as_typed() } else { password.bytes() };
        match &hash.check {
            Check::Argon2(own) => self.is_argon2(own, typed),
            Check::Slow(slow) => {
                self.done.add(&slow.work());
                Ok(slow.is_right(typed))
            }
            Check::Wrapped(fast, outer) => {
                self.done.add(&fast.work());
                for value in fast.values(typed) {
                    if self.is_argon2(outer, &value)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Check::Fast(..) => Ok(false),
        }
    }

    /// Whether argon2 over `secret` gives `hash`.
    pub(super) fn is_argon2(&mut self, hash: &StoredHash, secret: &[u8]) -> Result<bool, AccountError> {
        let mut buffer = [0; argon2::password_hash::phc::Output::MAX_LENGTH];
        let Some(out) = buffer.get_mut(..hash.expected.len()) else { return Ok(false) };
        if !self.run(&hash.argon2(), secret, hash.salt.as_ref(), out) {
            return Err(AccountError::Busy);
        }
        Ok(bool::from(out.ct_eq(hash.expected.as_bytes())))
    }

    /// Makes a check that failed, and has cost `spent`, as dear as every other one.
    fn top_up(&mut self, spent: &Work, password: &Passphrase) {
        let missing = self.price.missing(spent);
        self.top_up_argon2(missing.get(Kind::Argon2), password);
        self.done.add(&foreign::top_up(&missing, self.price.scrypt_block(), password.bytes()));
    }

    fn top_up_argon2(&mut self, missing: u64, password: &Passphrase) {
        let passes = u64::from(self.params.t_cost());
        let memory = u32::try_from(missing / passes).unwrap_or(u32::MAX);
        let Ok(params) = Params::new(memory, self.params.t_cost(), 1, Some(OUTPUT_BYTES)) else {
            // Less than the smallest hash is missing: nothing that could be measured.
            return;
        };
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        self.run(&argon2, password.bytes(), &[0; SALT_BYTES], &mut [0; OUTPUT_BYTES]);
    }

    /// Fills the memory and writes the hash to `out`. False for lengths that argon2 refuses.
    fn run(&mut self, argon2: &Argon2<'_>, password: &[u8], salt: &[u8], out: &mut [u8]) -> bool {
        let blocks = argon2.params().block_count();
        self.memory.resize(blocks, Block::default());
        self.done.add(&phc::work(argon2.params()));
        let done =
            argon2.hash_password_into_with_memory(password, salt, out, self.memory.as_mut_slice()).is_ok();
        if blocks > self.params.block_count() {
            // One old, dear hash must not keep its memory for good.
            self.memory = Vec::new();
        }
        done
    }
}

/// A fast hash that is not wrapped was not stored by us: whoever reads the store has the password.
fn storable(hash: Foreign) -> Result<Foreign, ForeignError> {
    if hash.is_fast() { Err(ForeignError::Unwrapped(hash.scheme())) } else { Ok(hash) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::testing::{HASHING, phrase};

    fn engine(memory_kib: u32, iterations: u32) -> Engine {
        let params =
            phc::configured(&PasswordSettings { memory_kib, iterations, ..HASHING }).expect("parameters");
        let price = Arc::<Price>::default();
        price.raise(&phc::work(&params), 0);
        Engine::new(params, price, Arc::default())
    }

    fn spent(engine: &mut Engine, stored: Option<&PasswordHash>) -> Work {
        let before = engine.done.sum();
        let verdict = engine.verify(stored, &phrase("wrong")).expect("checked");
        assert!(!matches!(verdict, Verdict::Right { .. }));
        engine.done.sum().less(&before)
    }

    fn blocks(amount: u64) -> Work {
        Work::of(Kind::Argon2, amount)
    }

    #[test]
    fn a_password_is_recognised_and_no_other() {
        let mut engine = engine(8, 1);
        let stored = engine.hash(b"correct horse").expect("hashed");
        assert!(stored.phc().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        for (typed, verdict) in [
            ("correct horse", Verdict::Right { stale: false }),
            ("correct horse\0", Verdict::Wrong),
            ("correct hors", Verdict::Wrong),
            ("", Verdict::Wrong),
        ] {
            assert_eq!(engine.verify(Some(&stored), &phrase(typed)), Ok(verdict), "{typed:?}");
        }
    }

    #[test]
    fn passwords_that_agree_in_72_bytes_are_two() {
        let mut engine = engine(8, 1);
        let common = "x".repeat(72);
        let stored = engine.hash(format!("{common}a").as_bytes()).expect("hashed");
        assert_eq!(engine.verify(Some(&stored), &phrase(&format!("{common}b"))), Ok(Verdict::Wrong));
    }

    #[test]
    fn every_check_that_fails_costs_the_same() {
        let mut now = engine(64, 2);
        let current = now.hash(b"right").expect("hashed");
        let cheap = engine(16, 1).hash(b"right").expect("hashed");
        let broken = PasswordHash::from(
            "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA".to_owned(),
        );
        let full = spent(&mut now, None);
        assert_eq!(full, blocks(128));
        assert_eq!(spent(&mut now, Some(&current)), full);
        assert_eq!(spent(&mut now, Some(&cheap)), full);
        assert_eq!(spent(&mut now, Some(&broken)), full);
    }

    #[test]
    fn dearer_old_hashes_raise_the_price_for_all() {
        let mut now = engine(16, 2);
        let dear = engine(64, 2).hash(b"right").expect("hashed");
        assert_eq!(spent(&mut now, None), blocks(32));
        assert_eq!(spent(&mut now, Some(&dear)), blocks(128));
        assert_eq!(spent(&mut now, None), blocks(128));
        assert!(now.memory.len() <= 64, "the memory of one dear hash is not kept");
    }

    #[test]
    fn a_hash_with_other_parameters_is_right_and_stale() {
        let old = engine(16, 1).hash(b"right").expect("hashed");
        let verdict = engine(8, 1).verify(Some(&old), &phrase("right"));
        assert_eq!(verdict, Ok(Verdict::Right { stale: true }));
    }
}
