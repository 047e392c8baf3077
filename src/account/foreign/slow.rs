//! Slow functions other than argon2: PBKDF2 (RFC 8018), scrypt (RFC 7914), bcrypt.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, pbkdf2};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::fast;
use crate::account::price::{Kind, Work};

/// How many bytes of a password bcrypt looks at.
const BCRYPT_BYTES: usize = 72;
/// The block size at which missing scrypt is made up for.
const SCRYPT_R: u32 = 8;

/// Which digest PBKDF2 is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::account) enum Pbkdf2 {
    Sha1,
    Sha256,
    Sha512,
}

impl Pbkdf2 {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "sha1" => Some(Self::Sha1),
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// The length of the digest, and of the hashes that are made with it.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Sha1 => Kind::Pbkdf2Sha1,
            Self::Sha256 => Kind::Pbkdf2Sha256,
            Self::Sha512 => Kind::Pbkdf2Sha512,
        }
    }

    fn derive(self, iterations: NonZeroU32, salt: &[u8], password: &[u8], out: &mut [u8]) {
        let algorithm = match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        pbkdf2::derive(algorithm, iterations, salt, password, out);
    }
}

/// The function with its parameters.
pub(super) enum Function {
    Pbkdf2 {
        over: Pbkdf2,
        iterations: NonZeroU32,
        salt: Vec<u8>,
    },
    Scrypt {
        params: scrypt::Params,
        salt: Vec<u8>,
    },
    /// `sha256`: over the hexadecimal digest of the password, as Django does.
    Bcrypt {
        cost: u32,
        salt: [u8; 16],
        sha256: bool,
    },
}

/// A slow hash: a function, and what it has to give.
pub(in crate::account) struct Slow {
    pub(super) function: Function,
    pub(super) expected: Vec<u8>,
}

impl Slow {
    pub(super) fn scheme(&self) -> &'static str {
        match &self.function {
            Function::Pbkdf2 { over: Pbkdf2::Sha1, .. } => "PBKDF2-SHA1",
            Function::Pbkdf2 { over: Pbkdf2::Sha256, .. } => "PBKDF2-SHA256",
            Function::Pbkdf2 { over: Pbkdf2::Sha512, .. } => "PBKDF2-SHA512",
            Function::Scrypt { .. } => "scrypt",
            Function::Bcrypt { sha256: false, .. } => "bcrypt",
            Function::Bcrypt { sha256: true, .. } => "bcrypt over SHA-256",
        }
    }

    /// What checking it costs.
    pub(in crate::account) fn work(&self) -> Work {
        match &self.function {
            Function::Pbkdf2 { over, iterations, .. } => Work::of(over.kind(), u64::from(iterations.get())),
            Function::Scrypt { params, .. } => {
                Work::of(Kind::Scrypt, params.n() * u64::from(params.r()) * u64::from(params.p()))
            }
            Function::Bcrypt { cost, .. } => Work::of(Kind::Bcrypt, 1 << cost),
        }
    }

    /// N·r of scrypt: an eighth of the KiB that it fills.
    pub(in crate::account) fn scrypt_block(&self) -> u64 {
        match &self.function {
            Function::Scrypt { params, .. } => params.n() * u64::from(params.r()),
            _ => 0,
        }
    }

    /// Whether `password` is the one. All three functions end or pad their input with NUL, so that a
    /// password with one can be taken for another without: such a one is wrong, at the same cost.
    pub(in crate::account) fn is_right(&self, password: &[u8]) -> bool {
        let mut out = Zeroizing::new(vec![0; self.expected.len()]);
        let made = self.derive(password, &mut out);
        bool::from(out.ct_eq(&self.expected)) && made && !password.contains(&0)
    }

    fn derive(&self, password: &[u8], out: &mut [u8]) -> bool {
        match &self.function {
            Function::Pbkdf2 { over, iterations, salt } => over.derive(*iterations, salt, password, out),
            Function::Scrypt { params, salt } => return scrypt::scrypt(password, salt, params, out).is_ok(),
            Function::Bcrypt { cost, salt, sha256: false } => bcrypt(*cost, *salt, password, out),
            Function::Bcrypt { cost, salt, sha256: true } => {
                let hashed = Zeroizing::new(hex(digest::digest(&digest::SHA256, password).as_ref()));
                bcrypt(*cost, *salt, hashed.as_bytes(), out);
            }
        }
        true
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The key is the password, cut, and the NUL that ends it in C.
fn bcrypt(cost: u32, salt: [u8; 16], password: &[u8], out: &mut [u8]) {
    let mut key = Zeroizing::new([0; BCRYPT_BYTES]);
    let length = password.len().min(BCRYPT_BYTES);
    for (to, from) in key.iter_mut().zip(password) {
        *to = *from;
    }
    let used = (length + 1).min(BCRYPT_BYTES);
    let made = Zeroizing::new(bcrypt::bcrypt(cost, salt, key.get(..used).unwrap_or(key.as_slice())));
    for (to, from) in out.iter_mut().zip(made.iter()) {
        *to = *from;
    }
}

/// Spends `missing` of every kind but argon2, so that a failed check costs what the dearest has cost.
/// `scrypt_block` bounds the memory: the most that a hash of scrypt has filled at once. Tells what it spent.
pub(in crate::account) fn top_up(missing: &Work, scrypt_block: u64, password: &[u8]) -> Work {
    let mut spent = Work::default();
    for over in [Pbkdf2::Sha1, Pbkdf2::Sha256, Pbkdf2::Sha512] {
        let amount = missing.get(over.kind());
        if let Some(iterations) = u32::try_from(amount).ok().and_then(NonZeroU32::new) {
            over.derive(iterations, &[0; 16], password, &mut vec![0; over.len()]);
            spent = spent.and(&Work::of(over.kind(), amount));
        }
    }
    // A power of two at a time; below 2^4 it is no work.
    let rounds = missing.get(Kind::Bcrypt);
    for cost in (4..32).filter(|cost| rounds >> cost & 1 == 1) {
        bcrypt(cost, [0; 16], password, &mut [0; 24]);
        spent = spent.and(&Work::of(Kind::Bcrypt, 1 << cost));
    }
    spent = spent.and(&top_up_scrypt(missing.get(Kind::Scrypt), scrypt_block, password));
    for _ in 0..missing.get(Kind::Apr1) {
        fast::apr1(password, &[0; 8]);
        spent = spent.and(&Work::of(Kind::Apr1, 1));
    }
    spent
}

/// In pieces no larger than the largest that was ever asked for.
fn top_up_scrypt(missing: u64, block: u64, password: &[u8]) -> Work {
    let (mut left, mut spent) = (missing, Work::default());
    loop {
        let log_n = (left.min(block) / u64::from(SCRYPT_R)).checked_ilog2().unwrap_or(0);
        let params = u8::try_from(log_n).ok().and_then(|log_n| scrypt::Params::new(log_n, SCRYPT_R, 1).ok());
        let Some(params) = params.filter(|_| log_n > 0) else { return spent };
        if scrypt::scrypt(password, &[0; 16], &params, &mut [0; 64]).is_err() {
            return spent;
        }
        let units = params.n() * u64::from(SCRYPT_R);
        left -= units;
        spent = spent.and(&Work::of(Kind::Scrypt, units));
    }
}
