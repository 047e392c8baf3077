//! What a check costs, so that every one that fails can cost the same.
//!
//! Functions differ: a block of argon2 is not so many iterations of PBKDF2 on every machine. So work
//! is counted by kind, and a check that fails is topped up kind by kind to the dearest of each that was
//! ever seen. While accounts from elsewhere still have their old hashes, a failed login costs one check
//! of each kind, known name or not.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of work, and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Blocks of 1 KiB, all passes together.
    Argon2,
    /// N·r·p.
    Scrypt,
    /// Rounds: two to the cost.
    Bcrypt,
    /// Iterations; so for the two that follow.
    Pbkdf2Sha1,
    Pbkdf2Sha256,
    Pbkdf2Sha512,
    /// Whole hashes.
    Apr1,
}

const KINDS: usize = 7;

/// So much of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work([u64; KINDS]);

impl Work {
    pub(super) fn of(kind: Kind, amount: u64) -> Self {
        let mut work = Self::default();
        work.0[kind as usize] = amount;
        work
    }

    pub(super) fn get(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|kind| self.0[kind].saturating_add(other.0[kind])))
    }

    pub(super) fn less(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|kind| self.0[kind].saturating_sub(other.0[kind])))
    }
}

/// Work that all hashing threads count together.
#[derive(Debug, Default)]
pub(super) struct Tally([AtomicU64; KINDS]);

impl Tally {
    pub(super) fn add(&self, work: &Work) {
        for (sum, amount) in self.0.iter().zip(work.0) {
            sum.fetch_add(amount, Ordering::SeqCst);
        }
    }

    fn raise(&self, work: &Work) {
        for (peak, amount) in self.0.iter().zip(work.0) {
            peak.fetch_max(amount, Ordering::Relaxed);
        }
    }

    pub(super) fn sum(&self) -> Work {
        Work(std::array::from_fn(|kind| self.0[kind].load(Ordering::SeqCst)))
    }
}

/// The price of a check that fails: the dearest of each kind so far.
#[derive(Debug, Default)]
pub(super) struct Price {
    peak: Tally,
    scrypt_block: AtomicU64,
}

impl Price {
    /// From now on no check that fails costs less; `scrypt_block` is N·r of a hash of scrypt.
    pub(super) fn raise(&self, work: &Work, scrypt_block: u64) {
        self.peak.raise(work);
        self.scrypt_block.fetch_max(scrypt_block, Ordering::Relaxed);
    }

    /// What is to be added to `spent`.
    pub(super) fn missing(&self, spent: &Work) -> Work {
        self.peak.sum().less(spent)
    }

    /// The most memory that a hash of scrypt has filled, as N·r.
    pub(super) fn scrypt_block(&self) -> u64 {
        self.scrypt_block.load(Ordering::Relaxed)
    }
}
