//! Digests that cost nothing: what old software took for password hashing. Kept under argon2id only.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use crate::account::price::{Kind, Work};

/// What apr1 begins with, in text and in its first digest.
const APR1: &str = "$apr1$";
/// The block of MD5 and of HMAC over it (RFC 2104), in bytes.
const MD5_BLOCK: usize = 64;

/// A digest by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::account) enum Digest {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
    /// Apache's variant of md5-crypt: a thousand rounds of MD5.
    Apr1,
}

const NAMES: [(&str, Digest); 6] = [
    ("md5", Digest::Md5),
    ("sha1", Digest::Sha1),
    ("sha256", Digest::Sha256),
    ("sha384", Digest::Sha384),
    ("sha512", Digest::Sha512),
    ("apr1", Digest::Apr1),
];

impl Digest {
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, digest)| *digest)
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, digest)| *digest == self).map_or("", |(name, _)| name)
    }

    /// The length of its value, in bytes; apr1's is kept as its 22 characters.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
            Self::Apr1 => 22,
        }
    }

    fn over(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let algorithm = match self {
            Self::Md5 | Self::Apr1 => return md5(parts),
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        let mut context = digest::Context::new(algorithm);
        for part in parts {
            context.update(part);
        }
        Zeroizing::new(context.finish().as_ref().to_vec())
    }

    fn hmac(self, key: &[u8], message: &[u8]) -> Zeroizing<Vec<u8>> {
        let algorithm = match self {
            Self::Md5 | Self::Apr1 => return hmac_md5(key, message),
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        Zeroizing::new(hmac::sign(&hmac::Key::new(algorithm, key), message).as_ref().to_vec())
    }
}

/// How a digest is made of a password: everything but its value.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::account) struct Fast {
    pub(in crate::account) digest: Digest,
    pub(in crate::account) salt: Vec<u8>,
}

impl Fast {
    pub(super) fn scheme(&self) -> &'static str {
        match self.digest {
            Digest::Md5 => "salted MD5",
            Digest::Sha1 => "salted SHA-1",
            Digest::Sha256 => "salted SHA-256",
            Digest::Sha384 => "salted SHA-384",
            Digest::Sha512 => "salted SHA-512",
            Digest::Apr1 => "apr1",
        }
    }

    /// What `password` may have been made into. Werkzeug keyed HMAC with the salt; Django put the salt
    /// before the password, and both wrote `sha1$salt$hex`: then it is one of two.
    pub(in crate::account) fn values(&self, password: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
        match self.digest {
            Digest::Apr1 => vec![apr1(password, &self.salt)],
            digest if self.salt.is_empty() => vec![digest.over(&[password])],
            digest @ (Digest::Md5 | Digest::Sha1) => {
                vec![digest.hmac(&self.salt, password), digest.over(&[&self.salt, password])]
            }
            digest => vec![digest.hmac(&self.salt, password)],
        }
    }

    /// How many values there are to compare with.
    pub(in crate::account) fn candidates(&self) -> u64 {
        match self.digest {
            Digest::Md5 | Digest::Sha1 if !self.salt.is_empty() => 2,
            _ => 1,
        }
    }

    /// What making the values costs: a digest is nothing that could be measured, a thousand are.
    pub(in crate::account) fn work(&self) -> Work {
        if self.digest == Digest::Apr1 { Work::of(Kind::Apr1, 1) } else { Work::default() }
    }

    /// The text that the store keeps, `outer` being the PHC string over the value.
    pub(super) fn wrapped(&self, outer: &str) -> String {
        format!("$wrapped-{}${}{outer}", self.digest.name(), URL_SAFE_NO_PAD.encode(&self.salt))
    }
}

fn md5(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut context = Md5::new();
    for part in parts {
        context.update(part);
    }
    Zeroizing::new(context.finalize().to_vec())
}

/// RFC 2104; the library that makes the others has none over MD5.
fn hmac_md5(key: &[u8], message: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut block = Zeroizing::new([0; MD5_BLOCK]);
    let short = if key.len() > MD5_BLOCK { md5(&[key]) } else { Zeroizing::new(key.to_vec()) };
    for (to, from) in block.iter_mut().zip(short.iter()) {
        *to = *from;
    }
    let inner = md5(&[&block.map(|byte| byte ^ 0x36), message]);
    md5(&[&block.map(|byte| byte ^ 0x5c), &inner])
}

/// The 22 characters of `$apr1$salt$…` (`apr_md5_encode` of the Apache Portable Runtime).
pub(super) fn apr1(password: &[u8], salt: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut sum = apr1_start(password, salt);
    for round in 0..1000 {
        let odd = round % 2 == 1;
        let mut parts: Vec<&[u8]> = vec![if odd { password } else { &sum }];
        if round % 3 != 0 {
            parts.push(salt);
        }
        if round % 7 != 0 {
            parts.push(password);
        }
        parts.push(if odd { &sum } else { password });
        sum = md5(&parts);
    }
    apr1_text(&sum)
}

fn apr1_start(password: &[u8], salt: &[u8]) -> Zeroizing<Vec<u8>> {
    let other = md5(&[password, salt, password]);
    let mut context = Md5::new();
    context.update(password);
    context.update(APR1);
    context.update(salt);
    for at in (0..password.len()).step_by(16) {
        let left = (password.len() - at).min(16);
        context.update(other.get(..left).unwrap_or_default());
    }
    let mut bits = password.len();
    while bits != 0 {
        context.update(if bits & 1 == 1 { &[0] } else { password.get(..1).unwrap_or_default() });
        bits >>= 1;
    }
    Zeroizing::new(context.finalize().to_vec())
}

fn apr1_text(sum: &[u8]) -> Zeroizing<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let byte = |at: usize| u32::from(sum.get(at).copied().unwrap_or_default());
    let mut text = Zeroizing::new(Vec::with_capacity(22));
    let mut put = |mut value: u32, characters: usize| {
        for _ in 0..characters {
            text.push(ALPHABET[(value & 63) as usize]);
            value >>= 6;
        }
    };
    for at in 0..5 {
        let last = if at == 4 { 5 } else { at + 12 };
        put(byte(at) << 16 | byte(at + 6) << 8 | byte(last), 4);
    }
    put(byte(11), 2);
    text
}

#[cfg(test)]
mod tests {
    use super::super::slow::hex;
    use super::*;

    #[test]
    fn hmac_over_md5_is_rfc_2202() {
        for (key, message, expected) in [
            (vec![0x0b; 16], b"Hi There".to_vec(), "9294727a3638bb1c13f48ef8158bfc9d"),
            (b"Jefe".to_vec(), b"what do ya want for nothing?".to_vec(), "750c783e6ab0b503eaa86e310a5db738"),
            (
                vec![0xaa; 80],
                b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
                "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd",
            ),
        ] {
            assert_eq!(hex(&hmac_md5(&key, &message)), expected);
        }
    }
}
