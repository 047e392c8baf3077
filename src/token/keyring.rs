//! The keys: which ones there must be, how one is made, and what they are as JSON Web Keys (RFC 7517).
//!
//! Several signing keys may exist: the newest signs, all of them verify. A key belongs to exactly one
//! algorithm (RFC 8725 section 3.1) and is found by its exact `kid`, never by anything else a token says.

use aws_lc_rs::signature::KeyPair as _;
use aws_lc_rs::{digest, hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::refresh::RefreshKey;
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::settings::{MIN_SECRET_BYTES, SigningAlgorithm};

/// A key that the gateway made for itself, by what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// The JWK thumbprint (RFC 7638) of a signing key; a fixed name for others. Unique.
    pub id: String,
    /// What the key may be used for.
    pub purpose: KeyPurpose,
    /// When it was made.
    pub created_at: Timestamp,
    /// base64url: PKCS#8 DER of a signing key, the bytes of a symmetric one.
    pub material: KeyMaterial,
}

/// What a stored key is for; a key is used for one thing only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPurpose {
    /// Signs access tokens (Ed25519).
    SignAccess,
    /// Derives and authenticates refresh tokens (HMAC-SHA-256, 32 bytes).
    Refresh,
}

impl std::fmt::Display for KeyPurpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SignAccess => "signing",
            Self::Refresh => "refresh",
        })
    }
}

/// Secret key bytes, base64url in the store, masked in `Debug`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyMaterial(Secret<Vec<u8>>);

impl KeyMaterial {
    /// Takes the key's bytes.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(Secret::new(bytes))
    }
    /// The key's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.expose()
    }
}

impl TryFrom<String> for KeyMaterial {
    type Error = base64::DecodeError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        URL_SAFE_NO_PAD.decode(text).map(Self::new)
    }
}

impl From<KeyMaterial> for String {
    fn from(key: KeyMaterial) -> Self {
        URL_SAFE_NO_PAD.encode(key.bytes())
    }
}

/// The id of the one stored refresh key.
const REFRESH_KEY_ID: &str = "refresh";

/// Keeps the hash that names a shared secret apart from every other use of that secret.
const HS256_KID_LABEL: &[u8] = b"gatepost hs256 kid v1";

/// Why the keys are unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The store has no key for this.
    #[error("there is no {0} key")]
    Missing(KeyPurpose),
    /// The bytes are no key of the kind that they should be.
    #[error("the stored key {id} is damaged: {cause}")]
    Damaged {
        /// Which.
        id: String,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// RFC 7518 section 3.2 wants as many bits as the hash has.
    #[error("a token secret needs at least {MIN_SECRET_BYTES} bytes")]
    ShortSecret,
    /// The operating system gave no randomness.
    #[error("no randomness for a new key")]
    Randomness,
}

impl StoredKey {
    /// Makes a key. The caller stores it before it is used.
    pub fn generate(purpose: KeyPurpose, now: Timestamp) -> Result<Self, KeyError> {
        let (id, material) = match purpose {
            KeyPurpose::SignAccess => {
                // The seed comes from the operating system, as all our randomness does. The library's own
                // generator takes a tenth of a second to gather its first entropy.
                let mut seed = Zeroizing::new([0; 32]);
                getrandom::fill(&mut *seed).map_err(|_| KeyError::Randomness)?;
                let pair = signature::Ed25519KeyPair::from_seed_unchecked(&*seed);
                let pair = pair.map_err(|_| KeyError::Randomness)?;
                let material = pair.to_pkcs8().map_err(|_| KeyError::Randomness)?.as_ref().to_vec();
                let public = ed25519_public(&material).map_err(|_| KeyError::Randomness)?;
                (thumbprint(&public), material)
            }
            KeyPurpose::Refresh => {
                let mut material = vec![0; 32];
                getrandom::fill(&mut material).map_err(|_| KeyError::Randomness)?;
                (REFRESH_KEY_ID.to_owned(), material)
            }
        };
        Ok(Self { id, purpose, created_at: now, material: KeyMaterial::new(material) })
    }
}

/// The keys in use: all that verify, the newest of which signs, and the refresh key.
#[derive(Debug)]
pub struct KeyRing {
    /// Newest first; never empty.
    keys: Vec<AccessKey>,
    /// Secrets of before.
    previous: Vec<VerifyKey>,
    refresh: RefreshKey,
    jwks: String,
}

/// What checks access tokens, with the one algorithm that it is for. It cannot sign.
#[derive(Clone, Debug)]
pub struct VerifyKey {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) verifying: DecodingKey,
}

/// One key for access tokens.
#[derive(Clone, Debug)]
pub struct AccessKey {
    pub(super) verify: VerifyKey,
    pub(super) signing: EncodingKey,
    /// The Ed25519 public key; a symmetric key has nothing to publish.
    public: Option<[u8; 32]>,
}

impl KeyRing {
    /// Which keys have to be made and stored before [`load`](Self::load) can work. Pure.
    #[must_use]
    pub fn missing(algorithm: &SigningAlgorithm, stored: &[StoredKey]) -> Vec<KeyPurpose> {
        let wanted: &[KeyPurpose] = match algorithm {
            SigningAlgorithm::EdDsa => &[KeyPurpose::SignAccess, KeyPurpose::Refresh],
            SigningAlgorithm::Hs256(_) => &[KeyPurpose::Refresh],
        };
        let absent = |purpose: &&KeyPurpose| stored.iter().all(|key| key.purpose != **purpose);
        wanted.iter().filter(absent).copied().collect()
    }

    /// The ring of the configured algorithm. Keys of another algorithm neither sign nor verify.
    pub fn load(algorithm: &SigningAlgorithm, stored: &[StoredKey]) -> Result<Self, KeyError> {
        let of = |purpose| {
            let mut keys: Vec<_> = stored.iter().filter(|key| key.purpose == purpose).collect();
            keys.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
            keys
        };
        let keys = match algorithm {
            SigningAlgorithm::EdDsa => {
                let stored = of(KeyPurpose::SignAccess);
                stored.into_iter().map(AccessKey::ed25519).collect::<Result<Vec<_>, _>>()?
            }
            SigningAlgorithm::Hs256(secret) => vec![AccessKey::hs256(secret.expose())?],
        };
        if keys.is_empty() {
            return Err(KeyError::Missing(KeyPurpose::SignAccess));
        }
        let refresh = of(KeyPurpose::Refresh);
        let refresh = refresh.first().ok_or(KeyError::Missing(KeyPurpose::Refresh))?;
        let jwks = jwks(&keys);
        Ok(Self { keys, previous: Vec::new(), refresh: RefreshKey::from_stored(refresh)?, jwks })
    }

    /// The ring with shared secrets of before, which verify what they have signed and sign nothing more.
    ///
    /// # Errors
    /// [`KeyError::ShortSecret`]
    pub fn with_previous(mut self, secrets: &[Secret<Vec<u8>>]) -> Result<Self, KeyError> {
        let previous = secrets.iter().map(|secret| VerifyKey::hs256(secret.expose()));
        self.previous = previous.collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// The key set to publish (RFC 7517 section 5): public keys only, so `{"keys":[]}` for HS256.
    #[must_use]
    pub fn jwks(&self) -> &str {
        &self.jwks
    }
    /// The `kid` of each key, the signing one first.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.verify.kid.as_str())
    }
    /// The `kid` of each secret of before.
    pub fn previous_kids(&self) -> impl Iterator<Item = &str> {
        self.previous.iter().map(|key| key.kid.as_str())
    }
    /// The key that derives and authenticates refresh tokens.
    #[must_use]
    pub fn refresh_key(&self) -> &RefreshKey {
        &self.refresh
    }
    /// The key that signs.
    pub(super) fn newest(&self) -> &AccessKey {
        self.keys.first().expect("load() refuses an empty ring")
    }
    /// Everything that verifies, newest first.
    pub(super) fn verifying(&self) -> impl Iterator<Item = &VerifyKey> {
        self.keys.iter().map(|key| &key.verify).chain(&self.previous)
    }
}

impl AccessKey {
    fn ed25519(stored: &StoredKey) -> Result<Self, KeyError> {
        let damaged = |cause| KeyError::Damaged { id: stored.id.clone(), cause };
        let public = ed25519_public(stored.material.bytes()).map_err(damaged)?;
        if thumbprint(&public) != stored.id {
            return Err(damaged("its id is not its thumbprint"));
        }
        Ok(Self {
            verify: VerifyKey {
                kid: stored.id.clone(),
                algorithm: Algorithm::EdDSA,
                verifying: DecodingKey::from_ed_der(&public),
            },
            signing: EncodingKey::from_ed_der(stored.material.bytes()),
            public: Some(public),
        })
    }

    fn hs256(secret: &[u8]) -> Result<Self, KeyError> {
        let verify = VerifyKey::hs256(secret)?;
        Ok(Self { verify, signing: EncodingKey::from_secret(secret), public: None })
    }
}

impl VerifyKey {
    fn hs256(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(KeyError::ShortSecret);
        }
        // Label as the key, secret as the message: the signing key itself never signs anything but JWS.
        let label = hmac::Key::new(hmac::HMAC_SHA256, HS256_KID_LABEL);
        let name = hmac::sign(&label, secret);
        Ok(Self {
            kid: URL_SAFE_NO_PAD.encode(&name.as_ref()[..16]),
            algorithm: Algorithm::HS256,
            verifying: DecodingKey::from_secret(secret),
        })
    }

    /// The algorithm's name in a header (RFC 8037 section 3.1, RFC 7518 section 3.1).
    pub(super) const fn algorithm_name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::EdDSA => "EdDSA",
            // No other algorithm gets into a ring.
            _ => "HS256",
        }
    }
}

impl RefreshKey {
    fn from_stored(stored: &StoredKey) -> Result<Self, KeyError> {
        let bytes: Result<[u8; 32], _> = stored.material.bytes().try_into();
        match bytes {
            Ok(bytes) => Ok(Self::new(&Secret::new(bytes))),
            Err(_) => Err(KeyError::Damaged { id: stored.id.clone(), cause: "it is not 32 bytes long" }),
        }
    }
}

fn ed25519_public(pkcs8: &[u8]) -> Result<[u8; 32], &'static str> {
    let pair = signature::Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| "it is no Ed25519 key in PKCS#8")?;
    pair.public_key().as_ref().try_into().map_err(|_| "its public half is not 32 bytes long")
}

/// RFC 7638 section 3 with the members of RFC 8037 section 2.
fn thumbprint(public: &[u8; 32]) -> String {
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(public));
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, jwk.as_bytes()))
}

fn jwks(keys: &[AccessKey]) -> String {
    let jwk = |key: &AccessKey| {
        let x = URL_SAFE_NO_PAD.encode(key.public?);
        let kid = &key.verify.kid;
        Some(format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{kid}","use":"sig","alg":"EdDSA"}}"#))
    };
    format!(r#"{{"keys":[{}]}}"#, keys.iter().filter_map(jwk).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::testing::{SECRET, eddsa, hs256, now, ring, stored_keys};

    fn key_set(ring: &KeyRing) -> serde_json::Value {
        serde_json::from_str(ring.jwks()).unwrap()
    }

    /// RFC 8037 appendix A.3.
    #[test]
    fn the_thumbprint_is_the_rfcs() {
        let public = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let thumbprint = thumbprint(&public.try_into().unwrap());
        assert_eq!(thumbprint, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn public_keys_are_published_and_nothing_else() {
        let mut stored = stored_keys();
        stored.push(StoredKey::generate(KeyPurpose::SignAccess, Timestamp::from_secs(1)).unwrap());
        let ring = ring(&eddsa(), &stored);
        let keys = key_set(&ring);
        let keys = keys["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 2);
        for (jwk, stored) in keys.iter().zip([&stored[0], &stored[2]]) {
            let jwk = jwk.as_object().unwrap();
            let names: Vec<_> = jwk.keys().map(String::as_str).collect();
            assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x"]);
            let fixed =
                [("kty", "OKP"), ("crv", "Ed25519"), ("use", "sig"), ("alg", "EdDSA"), ("kid", &stored.id)];
            for (name, value) in fixed {
                assert_eq!(jwk[name], value);
            }
            let public = ed25519_public(stored.material.bytes()).unwrap();
            assert_eq!(jwk["x"], URL_SAFE_NO_PAD.encode(public));
        }
        assert_eq!(ring.kids().collect::<Vec<_>>(), [&stored[0].id, &stored[2].id]);
    }

    #[test]
    fn a_shared_secret_is_never_published() {
        let ring = ring(&hs256(), &stored_keys());
        assert_eq!(ring.jwks(), r#"{"keys":[]}"#);
        assert_eq!(ring.kids().count(), 1);
        assert_eq!(ring.newest().verify.kid.len(), 22);
        let other = SigningAlgorithm::Hs256(Secret::new(b"another secret of enough bytes....".to_vec()));
        let other = KeyRing::load(&other, &stored_keys()).unwrap();
        assert_ne!(ring.newest().verify.kid, other.newest().verify.kid);
    }

    #[test]
    fn keys_made_at_one_moment_still_have_one_order() {
        let mut stored = stored_keys();
        stored.push(StoredKey::generate(KeyPurpose::SignAccess, now()).unwrap());
        let signs = ring(&eddsa(), &stored).newest().verify.kid.clone();
        stored.reverse();
        assert_eq!(ring(&eddsa(), &stored).newest().verify.kid, signs);
    }

    #[test]
    fn unusable_keys_are_refused_by_name() {
        let good = stored_keys();
        let load = |change: &dyn Fn(&mut Vec<StoredKey>)| {
            let mut keys = good.clone();
            change(&mut keys);
            KeyRing::load(&SigningAlgorithm::EdDsa, &keys).map(|_| ()).unwrap_err()
        };
        assert_eq!(load(&|keys| drop(keys.remove(0))), KeyError::Missing(KeyPurpose::SignAccess));
        assert_eq!(load(&|keys| drop(keys.remove(1))), KeyError::Missing(KeyPurpose::Refresh));
        assert!(matches!(load(&|keys| keys[0].id.push('x')), KeyError::Damaged { .. }));
        for n in [0, 1] {
            let damaged = load(&|keys| keys[n].material = KeyMaterial::new(vec![1; 31]));
            assert!(matches!(&damaged, KeyError::Damaged { id, .. } if *id == good[n].id), "{damaged}");
        }
        for length in [0, 31] {
            let short = SigningAlgorithm::Hs256(Secret::new(SECRET[..length].to_vec()));
            assert_eq!(KeyRing::load(&short, &good).map(|_| ()), Err(KeyError::ShortSecret));
        }
    }

    #[test]
    fn a_stored_key_survives_the_store() {
        for key in stored_keys() {
            let json = serde_json::to_string(&key).unwrap();
            assert_eq!(serde_json::from_str::<StoredKey>(&json).unwrap(), key);
            assert!(!format!("{key:?}").contains(&URL_SAFE_NO_PAD.encode(key.material.bytes())));
        }
    }
}
