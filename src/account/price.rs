//! What a check costs, so that every one that fails can cost the same.
//!
//! Functions differ: a block of argon2 is not so many iterations of PBKDF2 on every machine. So work
//! is counted by kind, and a check that fails is topped up kind by kind to the dearest of each that was
//! ever seen. While accounts from elsewhere still have their old hashes, a failed login costs one check
//! of each kind, known name or not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

impl Kind {
    const ALL: [Self; KINDS] = [
        Self::Argon2,
        Self::Scrypt,
        Self::Bcrypt,
        Self::Pbkdf2Sha1,
        Self::Pbkdf2Sha256,
        Self::Pbkdf2Sha512,
        Self::Apr1,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Argon2 => "argon2",
            Self::Scrypt => "scrypt",
            Self::Bcrypt => "bcrypt",
            Self::Pbkdf2Sha1 => "PBKDF2-SHA1",
            Self::Pbkdf2Sha256 => "PBKDF2-SHA256",
            Self::Pbkdf2Sha512 => "PBKDF2-SHA512",
            Self::Apr1 => "apr1",
        }
    }

    /// Units in a millisecond, on a server's processor of some years: to tell a tenth of a second from ten.
    const fn in_a_millisecond(self) -> u64 {
        match self {
            Self::Argon2 => 1500,
            Self::Scrypt => 2500,
            Self::Bcrypt => 16,
            Self::Pbkdf2Sha1 | Self::Pbkdf2Sha256 => 3000,
            Self::Pbkdf2Sha512 => 2000,
            Self::Apr1 => 3,
        }
    }
}

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

    fn time(&self, kind: Kind) -> Duration {
        Duration::from_millis(self.get(kind) / kind.in_a_millisecond())
    }

    /// The kind that takes longest, and how long about.
    pub(super) fn dearest(&self) -> Option<(&'static str, Duration)> {
        let dearest = Kind::ALL.into_iter().max_by_key(|kind| self.time(*kind))?;
        Some((dearest.name(), self.time(dearest)))
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
