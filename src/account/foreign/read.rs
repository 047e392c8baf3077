//! Texts of other software, read: strictly, and never for more than the limits.

use std::num::NonZeroU32;

use argon2::{Algorithm, Params};
use base64::alphabet;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet::BCRYPT};
use zeroize::Zeroizing;

use super::fast::{Digest, Fast};
use super::slow::{Function, Pbkdf2, Slow};
use super::{Check, ForeignError};
use crate::account::phc::{PhcError, StoredHash};

/// Django's default is 1,500,000 in 2026, and grows by a fifth each year.
const PBKDF2_ITERATIONS: u32 = 4_000_000;
/// Two seconds and more; each step doubles it.
const BCRYPT_COST: u32 = 15;
/// N·r·128 bytes are filled: 128 MiB.
const SCRYPT_BLOCK: u64 = 1 << 20;
/// N·r·p: time is proportional.
const SCRYPT_WORK: u64 = 1 << 22;
/// Shorter values can be met by chance.
const SHORTEST: usize = 16;
const LONGEST: usize = 64;

/// Bits beyond the last byte are noise in what some libraries write.
const LOOSE: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_encode_padding(false)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(&BCRYPT, LOOSE);

type Read = Result<Check, ForeignError>;

/// Which scheme it is, by how it begins.
pub(super) fn check(text: &str, configured: &Params) -> Read {
    match text.as_bytes() {
        [] | [b'!' | b'*', ..] => Err(ForeignError::NoPassword),
        [b'$', ..] => modular(text, configured),
        [b'{', ..] => ldap(text),
        _ => named(text, configured),
    }
}

/// Modular crypt format, PHC strings, and our own wrapping.
fn modular(text: &str, configured: &Params) -> Read {
    const UNSUPPORTED: [(&str, &str); 9] = [
        ("$2x$", "bcrypt with the bug of 2011 ($2x$)"),
        ("$1$", "md5-crypt ($1$)"),
        ("$5$", "sha-crypt ($5$, $6$)"),
        ("$6$", "sha-crypt ($5$, $6$)"),
        ("$y$", "yescrypt"),
        ("$7$", "scrypt in the form of libxcrypt"),
        ("$scrypt$", "scrypt in the form of passlib"),
        ("$P$", "phpass"),
        ("$H$", "phpass"),
    ];
    if text.starts_with("$argon2") {
        return argon2(text, configured).map(Check::Argon2);
    }
    if let Some(rest) = text.strip_prefix("$wrapped-") {
        return wrapped(rest, configured);
    }
    if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
        return bcrypt(text, false);
    }
    if let Some(rest) = text.strip_prefix("$apr1$") {
        return apr1(rest);
    }
    if let Some(rest) = text.strip_prefix("$pbkdf2") {
        return passlib_pbkdf2(rest);
    }
    match UNSUPPORTED.iter().find(|(prefix, _)| text.starts_with(prefix)) {
        Some((_, name)) => Err(ForeignError::Unsupported(name)),
        None => Err(ForeignError::Unknown),
    }
}

fn ldap(text: &str) -> Read {
    if text.starts_with("{PLAIN}") {
        return Err(ForeignError::Plain);
    }
    let Some(value) = text.strip_prefix("{SHA}") else {
        return Err(ForeignError::Unsupported("LDAP other than {SHA}"));
    };
    let value = base64(&STANDARD, value, "{SHA}")?;
    fast(Digest::Sha1, Vec::new(), value, "{SHA}")
}

/// `method$…`, as werkzeug and Django write it.
fn named(text: &str, configured: &Params) -> Read {
    let Some((method, rest)) = text.split_once('$') else { return Err(nameless(text)) };
    match method {
        "plain" => Err(ForeignError::Plain),
        "pbkdf2_sha256" => django_pbkdf2(Pbkdf2::Sha256, rest),
        "pbkdf2_sha1" => django_pbkdf2(Pbkdf2::Sha1, rest),
        "scrypt" => django_scrypt(rest),
        "bcrypt" => bcrypt(rest, false),
        "bcrypt_sha256" => bcrypt(rest, true),
        "argon2" => argon2(&format!("${rest}"), configured).map(Check::Argon2),
        "crypt" => Err(ForeignError::Unsupported("DES crypt, or a plain text")),
        "unsalted_md5" => Err(ForeignError::Unsupported("a digest without salt or name")),
        _ => werkzeug(method, rest),
    }
}

fn nameless(text: &str) -> ForeignError {
    let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let crypt = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./".contains(&byte));
    match text.len() {
        32 | 40 | 64 | 128 if hexadecimal => ForeignError::Unsupported("a digest without salt or name"),
        13 if crypt => ForeignError::Unsupported("DES crypt, or a plain text"),
        _ => ForeignError::Unknown,
    }
}

fn werkzeug(method: &str, rest: &str) -> Read {
    let (name, arguments) = method.split_once(':').unwrap_or((method, ""));
    let digest = Digest::named(method).filter(|digest| *digest != Digest::Apr1);
    let scheme = match (name, digest) {
        ("scrypt", _) => "werkzeug's scrypt",
        ("pbkdf2", _) => "werkzeug's PBKDF2",
        (_, Some(_)) => "werkzeug's salted digest",
        _ => return Err(ForeignError::Unknown),
    };
    let (salt, value) = rest.split_once('$').ok_or(broken(scheme, "a part is missing"))?;
    let (salt, value) = (salt.as_bytes().to_vec(), hexadecimal(value, scheme)?);
    if let Some(digest) = digest {
        return fast(digest, salt, value, scheme);
    }
    let arguments: Vec<&str> = arguments.split(':').collect();
    match (name, arguments.as_slice()) {
        ("scrypt", [n, r, p]) => scrypt((n, r, p), salt, value, scheme),
        ("pbkdf2", [over, iterations]) => {
            let over = Pbkdf2::named(over).ok_or(broken(scheme, "not over SHA-1, SHA-256 or SHA-512"))?;
            pbkdf2(over, iterations, salt, value, scheme)
        }
        // Which number was meant depends on the version that has made it.
        ("pbkdf2", _) => Err(broken(scheme, "it does not say how many iterations")),
        _ => Err(broken(scheme, "it does not have three parameters")),
    }
}

fn django_pbkdf2(over: Pbkdf2, rest: &str) -> Read {
    const SCHEME: &str = "Django's PBKDF2";
    let [iterations, salt, value] = parts(rest, SCHEME)?;
    pbkdf2(over, iterations, salt.as_bytes().to_vec(), base64(&STANDARD, value, SCHEME)?, SCHEME)
}

fn django_scrypt(rest: &str) -> Read {
    const SCHEME: &str = "Django's scrypt";
    let [n, salt, r, p, value] = parts(rest, SCHEME)?;
    scrypt((n, r, p), salt.as_bytes().to_vec(), base64(&STANDARD, value, SCHEME)?, SCHEME)
}

/// `$pbkdf2$…`, `$pbkdf2-sha256$…`, `$pbkdf2-sha512$…`; base64 with `.` for `+`.
fn passlib_pbkdf2(rest: &str) -> Read {
    const SCHEME: &str = "passlib's PBKDF2";
    let [over, iterations, salt, value] = parts(rest, SCHEME)?;
    let over = match over {
        "" => Pbkdf2::Sha1,
        "-sha256" => Pbkdf2::Sha256,
        "-sha512" => Pbkdf2::Sha512,
        _ => return Err(broken(SCHEME, "not over SHA-1, SHA-256 or SHA-512")),
    };
    let plain = GeneralPurpose::new(&alphabet::STANDARD, LOOSE);
    let decode = |text: &str| base64(&plain, &text.replace('.', "+"), SCHEME);
    pbkdf2(over, iterations, decode(salt)?, decode(value)?, SCHEME)
}

fn pbkdf2(over: Pbkdf2, iterations: &str, salt: Vec<u8>, expected: Vec<u8>, scheme: &'static str) -> Read {
    let iterations = number(iterations, scheme)?;
    if iterations > u64::from(PBKDF2_ITERATIONS) {
        return Err(ForeignError::Excessive { scheme, limit: "at most 4000000 iterations" });
    }
    let iterations = u32::try_from(iterations).ok().and_then(NonZeroU32::new);
    let iterations = iterations.ok_or(broken(scheme, "no iterations"))?;
    if salt.is_empty() {
        return Err(broken(scheme, "no salt"));
    }
    if expected.len() != over.len() {
        return Err(broken(scheme, "the value is not as long as the digest"));
    }
    Ok(Check::Slow(Slow { function: Function::Pbkdf2 { over, iterations, salt }, expected }))
}

fn scrypt((n, r, p): (&str, &str, &str), salt: Vec<u8>, expected: Vec<u8>, scheme: &'static str) -> Read {
    let (n, r, p) = (number(n, scheme)?, number(r, scheme)?, number(p, scheme)?);
    if n.saturating_mul(r) > SCRYPT_BLOCK || n.saturating_mul(r).saturating_mul(p) > SCRYPT_WORK {
        return Err(ForeignError::Excessive {
            scheme,
            limit: "at most 128 MiB (N times r 1048576), N times r times p at most 4194304",
        });
    }
    if !n.is_power_of_two() || n < 2 {
        return Err(broken(scheme, "N is not a power of two"));
    }
    if !(SHORTEST..=LONGEST).contains(&expected.len()) {
        return Err(broken(scheme, "the value is not 16 to 64 bytes long"));
    }
    let params = match (u8::try_from(n.ilog2()), u32::try_from(r), u32::try_from(p)) {
        (Ok(log_n), Ok(r), Ok(p)) => scrypt::Params::new(log_n, r, p).ok(),
        _ => None,
    };
    let params = params.ok_or(broken(scheme, "parameters out of range"))?;
    Ok(Check::Slow(Slow { function: Function::Scrypt { params, salt }, expected }))
}

/// `$2b$12$` and 53 characters: 22 of salt, 31 of hash.
fn bcrypt(text: &str, sha256: bool) -> Read {
    const SCHEME: &str = "bcrypt";
    let [empty, version, cost, data] = parts(text, SCHEME)?;
    if !empty.is_empty() || !["2a", "2b", "2y"].contains(&version) {
        return Err(broken(SCHEME, "it does not begin with $2a$, $2b$ or $2y$"));
    }
    if cost.len() != 2 || data.len() != 53 || !data.is_ascii() {
        return Err(broken(SCHEME, "it does not have 60 characters"));
    }
    let cost = number(cost, SCHEME)?;
    if cost > u64::from(BCRYPT_COST) {
        return Err(ForeignError::Excessive { scheme: SCHEME, limit: "a cost of at most 15" });
    }
    let cost = u32::try_from(cost).ok().filter(|cost| *cost >= 4).ok_or(broken(SCHEME, "a cost below 4"))?;
    let (salt, value) = data.split_at(22);
    let salt = base64(&BCRYPT_BASE64, salt, SCHEME)?;
    let salt = salt.try_into().map_err(|_| broken(SCHEME, "the salt does not have 16 bytes"))?;
    let expected = base64(&BCRYPT_BASE64, value, SCHEME)?;
    Ok(Check::Slow(Slow { function: Function::Bcrypt { cost, salt, sha256 }, expected }))
}

fn argon2(text: &str, configured: &Params) -> Result<StoredHash, ForeignError> {
    const SCHEME: &str = "argon2";
    StoredHash::parse(text, configured).map_err(|error| match error {
        PhcError::Unreadable => broken(SCHEME, "it is no PHC string"),
        PhcError::Excessive => ForeignError::Excessive {
            scheme: SCHEME,
            limit: "at most 256 MiB, 16 iterations and 8 lanes, or as many as [auth.password] says",
        },
    })
}

fn apr1(rest: &str) -> Read {
    const SCHEME: &str = "apr1";
    let [salt, value] = parts(rest, SCHEME)?;
    if salt.len() > 8 {
        return Err(broken(SCHEME, "a salt of more than eight characters"));
    }
    if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./".contains(&byte)) {
        return Err(broken(SCHEME, "other characters than apr1 writes"));
    }
    fast(Digest::Apr1, salt.as_bytes().to_vec(), value.as_bytes().to_vec(), SCHEME)
}

fn fast(digest: Digest, salt: Vec<u8>, value: Vec<u8>, scheme: &'static str) -> Read {
    if value.len() != digest.len() {
        return Err(broken(scheme, "the value is not as long as the digest"));
    }
    Ok(Check::Fast(Fast { digest, salt }, Zeroizing::new(value)))
}

/// What [`Fast::wrapped`] writes, after `$wrapped-`.
fn wrapped(rest: &str, configured: &Params) -> Read {
    const SCHEME: &str = "a wrapped digest";
    let [name, salt, outer] = parts(rest, SCHEME)?;
    let digest = Digest::named(name).ok_or(broken(SCHEME, "no such digest"))?;
    let salt = base64(&URL_SAFE_NO_PAD, salt, SCHEME)?;
    let outer = argon2(&format!("${outer}"), configured)?;
    if outer.algorithm != Algorithm::Argon2id {
        return Err(broken(SCHEME, "it is not wrapped with argon2id"));
    }
    Ok(Check::Wrapped(Fast { digest, salt }, outer))
}

/// The parts between `$`; the last one takes the rest.
fn parts<'t, const N: usize>(text: &'t str, scheme: &'static str) -> Result<[&'t str; N], ForeignError> {
    let parts: Vec<&str> = text.splitn(N, '$').collect();
    parts.try_into().map_err(|_| broken(scheme, "a part is missing"))
}

/// A decimal number as a library writes it. What does not fit is more than any limit.
fn number(text: &str, scheme: &'static str) -> Result<u64, ForeignError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(broken(scheme, "a parameter is not a number"));
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

fn hexadecimal(text: &str, scheme: &'static str) -> Result<Vec<u8>, ForeignError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or(broken(scheme, "the value is not hexadecimal"))
}

fn base64(engine: &GeneralPurpose, text: &str, scheme: &'static str) -> Result<Vec<u8>, ForeignError> {
    engine.decode(text).map_err(|_| broken(scheme, "a part is not base64"))
}

fn broken(scheme: &'static str, reason: &'static str) -> ForeignError {
    ForeignError::Broken { scheme, reason }
}
