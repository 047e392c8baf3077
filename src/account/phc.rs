//! PHC strings (`$argon2id$v=19$m=…,t=…,p=…$salt$hash`): made with the configured parameters, read
//! with bounds. A restored or forged row must not make us allocate what it says.

use argon2::password_hash::phc::{Output, ParamsString, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHash as Phc, Version};

use super::price::{Kind, Work};
use crate::settings::PasswordSettings;

/// The hash's length, in bytes.
pub(super) const OUTPUT_BYTES: usize = 32;
/// The salt's length, in bytes (RFC 9106 section 4).
pub(super) const SALT_BYTES: usize = 16;

/// The most that a stored hash may ask for, unless the configuration asks for more.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
const MAX_ITERATIONS: u32 = 16;
const MAX_PARALLELISM: u32 = 8;

/// Why a stored hash is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PhcError {
    /// It is no PHC string of argon2.
    #[error("the stored password hash is not an argon2 PHC string")]
    Unreadable,
    /// It asks for more work than we ever would.
    #[error("the stored password hash asks for too much memory or time")]
    Excessive,
}

/// What one hash costs: the blocks of 1 KiB that it fills, all passes together. Time is proportional.
pub(super) fn work(params: &Params) -> Work {
    Work::of(Kind::Argon2, u64::from(params.m_cost()) * u64::from(params.t_cost()))
}

/// The configured parameters.
pub(super) fn configured(settings: &PasswordSettings) -> Result<Params, argon2::Error> {
    Params::new(settings.memory_kib, settings.iterations, settings.parallelism, Some(OUTPUT_BYTES))
}

/// A stored hash, read.
#[derive(Debug)]
pub(super) struct StoredHash {
    pub(super) algorithm: Algorithm,
    pub(super) version: Version,
    pub(super) params: Params,
    pub(super) salt: Salt,
    pub(super) expected: Output,
}

impl StoredHash {
    /// Reads `phc`; refuses what asks for more than the bounds or `configured`, whichever is greater.
    pub(super) fn parse(phc: &str, configured: &Params) -> Result<Self, PhcError> {
        let hash = Phc::new(phc).map_err(|_| PhcError::Unreadable)?;
        let params = Params::try_from(&hash).map_err(|_| PhcError::Unreadable)?;
        let version = match hash.version {
            Some(number) => Version::try_from(number).map_err(|_| PhcError::Unreadable)?,
            None => Version::V0x10,
        };
        if params.m_cost() > MAX_MEMORY_KIB.max(configured.m_cost())
            || params.t_cost() > MAX_ITERATIONS.max(configured.t_cost())
            || params.p_cost() > MAX_PARALLELISM.max(configured.p_cost())
        {
            return Err(PhcError::Excessive);
        }
        Ok(Self {
            algorithm: Algorithm::try_from(hash.algorithm.as_str()).map_err(|_| PhcError::Unreadable)?,
            version,
            params,
            salt: hash.salt.ok_or(PhcError::Unreadable)?,
            expected: hash.hash.ok_or(PhcError::Unreadable)?,
        })
    }

    /// Whether today's configuration would have made another one.
    pub(super) fn is_stale(&self, configured: &Params) -> bool {
        self.algorithm != Algorithm::Argon2id
            || self.version != Version::V0x13
            || self.params.m_cost() != configured.m_cost()
            || self.params.t_cost() != configured.t_cost()
            || self.params.p_cost() != configured.p_cost()
            || self.expected.len() != OUTPUT_BYTES
            || self.salt.as_ref().len() < SALT_BYTES
    }

    pub(super) fn argon2(&self) -> Argon2<'static> {
        Argon2::new(self.algorithm, self.version, self.params.clone())
    }
}

/// Writes a fresh hash as text.
pub(super) fn write(params: &Params, salt: &[u8], hash: &[u8]) -> Result<String, PhcError> {
    let phc = Phc {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(|_| PhcError::Unreadable)?,
        salt: Some(Salt::new(salt).map_err(|_| PhcError::Unreadable)?),
        hash: Some(Output::new(hash).map_err(|_| PhcError::Unreadable)?),
    };
    Ok(phc.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "c29tZXNhbHRzb21lc2FsdA$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn parse(phc: &str) -> Result<StoredHash, PhcError> {
        StoredHash::parse(phc, &Params::new(8, 1, 1, Some(32)).expect("parameters"))
    }

    #[test]
    fn stored_parameters_are_bounded() {
        for (params, expected) in [
            ("m=19456,t=2,p=1", None),
            ("m=262144,t=16,p=8", None),
            ("m=4194304,t=2,p=1", Some(PhcError::Excessive)),
            ("m=19456,t=1000000,p=1", Some(PhcError::Excessive)),
            ("m=262144,t=2,p=16", Some(PhcError::Excessive)),
            ("m=1,t=0,p=0", Some(PhcError::Unreadable)),
        ] {
            let phc = format!("$argon2id$v=19${params}${REST}");
            assert_eq!(parse(&phc).err(), expected, "{params}");
        }
    }

    #[test]
    fn what_is_no_argon2_hash_is_unreadable() {
        for bad in [
            String::new(),
            "plain".to_owned(),
            "$2b$12$abcdefghijklmnopqrstuv".to_owned(),
            "$argon2id$v=19$m=8,t=1,p=1".to_owned(),
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ".to_owned(),
            format!("$scrypt$ln=1,r=8,p=1${REST}"),
            format!("$argon2id$v=77$m=8,t=1,p=1${REST}"),
        ] {
            assert_eq!(parse(&bad).err(), Some(PhcError::Unreadable), "{bad}");
        }
    }

    #[test]
    fn staleness_is_any_difference_from_the_configuration() {
        let configured = Params::new(16, 2, 1, Some(32)).expect("parameters");
        for (head, stale) in [
            ("$argon2id$v=19$m=16,t=2,p=1", false),
            ("$argon2id$v=19$m=8,t=2,p=1", true),
            ("$argon2id$v=19$m=32,t=2,p=1", true),
            ("$argon2id$v=19$m=16,t=1,p=1", true),
            ("$argon2i$v=19$m=16,t=2,p=1", true),
            ("$argon2id$v=16$m=16,t=2,p=1", true),
        ] {
            let stored = StoredHash::parse(&format!("{head}${REST}"), &configured).expect("readable");
            assert_eq!(stored.is_stale(&configured), stale, "{head}");
        }
    }
}
