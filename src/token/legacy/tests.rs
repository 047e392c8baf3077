//! What apps have minted is read; what anybody could forge, or apps have minted for something else, is not.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair,
};

use super::*;
use crate::secret::Secret;
use crate::token::access::{Judged, Verifier};
use crate::token::testing::{self, NOW, now, ring, stored_keys};

/// Shorter than ours may be.
const SECRET: &[u8] = b"super-secret";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn entry(algorithm: LegacyAlgorithm, key: LegacyKey) -> LegacyTokenSettings {
    LegacyTokenSettings {
        algorithm,
        key,
        user: vec!["sub".to_owned()],
        account: LegacyAccount::Either,
        ignore_case: false,
        issuer: None,
        audience: None,
        until: NOW + 86_400,
    }
}

fn shared() -> LegacyTokenSettings {
    entry(LegacyAlgorithm::Hs256, LegacyKey::Secret(Secret::new(SECRET.to_vec())))
}

fn keys(settings: &[LegacyTokenSettings]) -> LegacyKeys {
    LegacyKeys::load(settings, ["own-kid"].into_iter()).unwrap()
}

fn hmac_sign(algorithm: hmac::Algorithm, secret: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn sign(header: &str, claims: &str) -> String {
    hmac_sign(hmac::HMAC_SHA256, SECRET, header, claims)
}

/// Reads claims under a good header and a good signature.
fn read(settings: LegacyTokenSettings, claims: &str) -> Result<LegacyToken, TokenError> {
    keys(&[settings]).verify(&sign(HEADER, claims), now())
}

fn named(settings: LegacyTokenSettings, claims: &str) -> Result<(String, bool), TokenError> {
    read(settings, claims).map(|token| (token.subject.value, token.subject.is_number))
}

#[test]
fn a_claim_that_is_there_twice_is_refused() {
    for claims in [
        r#"{"sub":"alice","sub":"bob"}"#,
        r#"{"sub":"alice","type":"refresh","type":"access"}"#,
        r#"{"sub":"alice","exp":1,"\u0065xp":99999999999}"#,
        r#"{"sub":"alice","x":1,"x":1}"#,
        r#"{"sub":"alice","x":[{"y":1,"y":1}]}"#,
    ] {
        assert_eq!(read(shared(), claims), Err(TokenError::Claims), "{claims}");
    }
    let inside = || LegacyTokenSettings { user: vec!["sub".to_owned(), "username".to_owned()], ..shared() };
    let twice = r#"{"sub":{"username":"alice","username":"bob"}}"#;
    assert_eq!(named(inside(), twice), Err(TokenError::Claims));
    let once = r#"{"sub":{"username":"alice"},"x":[null,true,-1,1.5,{"sub":{}}]}"#;
    assert_eq!(named(inside(), once), Ok(("alice".to_owned(), false)));
}

#[test]
fn what_the_usual_libraries_write_is_read() {
    let by =
        |path: &str| LegacyTokenSettings { user: path.split('.').map(str::to_owned).collect(), ..shared() };
    let exp = NOW + 900;
    for (user, claims, value, is_number) in [
        // Flask-JWT-Extended 4.x
        (
            "sub",
            format!(
                r#"{{"fresh":false,"iat":{NOW},"jti":"x","type":"access","sub":"alice","nbf":{NOW},"csrf":"y","exp":{exp}}}"#
            ),
            "alice",
            false,
        ),
        // 3.x
        (
            "identity",
            format!(
                r#"{{"iat":{NOW},"nbf":{NOW},"jti":"x","exp":{exp},"identity":17,"fresh":false,"type":"access"}}"#
            ),
            "17",
            true,
        ),
        // Flask-JWT
        ("identity", format!(r#"{{"exp":{exp},"iat":{NOW},"nbf":{NOW},"identity":1}}"#), "1", true),
        // An identity that is an object
        (
            "sub.username",
            format!(r#"{{"sub":{{"username":"alice","role":"admin"}},"exp":{exp}}}"#),
            "alice",
            false,
        ),
        // By hand, with time.time()
        ("public_id", format!(r#"{{"public_id":"50d0-99","exp":{exp}.75}}"#), "50d0-99", false),
        // djangorestframework-simplejwt
        (
            "user_id",
            format!(r#"{{"token_type":"access","exp":{exp},"iat":{NOW},"jti":"x","user_id":"3"}}"#),
            "3",
            false,
        ),
        // jsonwebtoken for Node
        ("id", format!(r#"{{"id":0,"iat":{NOW}}}"#), "0", true),
    ] {
        assert_eq!(named(by(user), &claims), Ok((value.to_owned(), is_number)), "{claims}");
    }
    let no_typ = sign(r#"{"alg":"HS256"}"#, r#"{"sub":"alice"}"#);
    assert!(keys(&[shared()]).verify(&no_typ, now()).is_ok());
    let other_kid = sign(r#"{"alg":"HS256","typ":"jwt","kid":"theirs"}"#, r#"{"sub":"alice"}"#);
    assert!(keys(&[shared()]).verify(&other_kid, now()).is_ok());
}

#[test]
fn a_header_has_to_be_of_such_a_token() {
    let claims = r#"{"sub":"alice"}"#;
    for (header, refusal) in [
        (r#"{"alg":"none","typ":"JWT"}"#, TokenError::Algorithm),
        (r#"{"alg":"None"}"#, TokenError::Algorithm),
        (r#"{"alg":"hs256","typ":"JWT"}"#, TokenError::Algorithm),
        (r#"{"alg":"HS512","typ":"JWT"}"#, TokenError::Algorithm),
        (r#"{"alg":"RS256","typ":"JWT"}"#, TokenError::Algorithm),
        (r#"{"alg":"EdDSA","typ":"JWT"}"#, TokenError::Algorithm),
        (r#"{"alg":"HS256","typ":"at+jwt"}"#, TokenError::Type),
        (r#"{"alg":"HS256","typ":"application/at+jwt"}"#, TokenError::Type),
        (r#"{"alg":"HS256","typ":"logout+jwt"}"#, TokenError::Type),
        (r#"{"alg":"HS256","typ":"JWT","kid":"own-kid"}"#, TokenError::UnknownKey),
        (r#"{"alg":"HS256","crit":["exp"]}"#, TokenError::Header),
        (r#"{"alg":"HS256","b64":false}"#, TokenError::Header),
        (r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#, TokenError::Header),
        (r#"{"alg":"HS256","jku":"https://evil.example"}"#, TokenError::Header),
        (r#"{"alg":"HS256","x5c":["x"]}"#, TokenError::Header),
        (r#"{"alg":"HS256","alg":"HS256"}"#, TokenError::Header),
        (r#"["HS256","JWT",null]"#, TokenError::Header),
        (r#"{"typ":"JWT"}"#, TokenError::Header),
    ] {
        assert_eq!(keys(&[shared()]).verify(&sign(header, claims), now()), Err(refusal), "{header}");
    }
}

#[test]
fn a_signature_has_to_be_by_the_key_and_in_one_spelling() {
    let good = sign(HEADER, r#"{"sub":"alice"}"#);
    let keys = keys(&[shared()]);
    assert!(keys.verify(&good, now()).is_ok() && keys.recognises(&good));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = hmac_sign(hmac::HMAC_SHA256, b"super-secreT", HEADER, r#"{"sub":"alice"}"#);
    let admin = format!(
        "{}.{}.{signature}",
        URL_SAFE_NO_PAD.encode(HEADER),
        URL_SAFE_NO_PAD.encode(r#"{"sub":"admin"}"#)
    );
    let short = format!("{signed}.{}", &signature[..signature.len() - 2]);
    for (token, refusal) in [
        (other, TokenError::Signature),
        (admin, TokenError::Signature),
        (format!("{signed}."), TokenError::Shape),
        (signed.to_owned(), TokenError::Shape),
        (format!("{good}="), TokenError::Shape),
        (format!("{good}.x"), TokenError::Shape),
        ("x".repeat(MAX_TOKEN_BYTES + 1), TokenError::TooLong),
    ] {
        assert_eq!(keys.verify(&token, now()), Err(refusal), "{token}");
        assert!(!keys.recognises(&token), "{token}");
    }
    assert!(keys.verify(&short, now()).is_err());
    // The last character of 43 has two bits to spare: another spelling of the same bytes is none.
    let last = signature.chars().last().unwrap();
    for spelling in ('A'..='Z').chain('a'..='z').chain('0'..='9').filter(|c| *c != last) {
        let token = format!("{signed}.{}{spelling}", &signature[..signature.len() - 1]);
        assert!(keys.verify(&token, now()).is_err(), "{spelling}");
    }
}

#[test]
fn times_are_checked_and_the_table_ends_them_all() {
    let later = |secs: u64| Timestamp::from_secs(NOW + secs);
    let at = |claims: &str, now: Timestamp| {
        let keys = keys(&[shared()]);
        let token = keys.verify(&sign(HEADER, claims), now)?;
        token.timely(now, Duration::from_secs(5)).map(|()| token)
    };
    let exp = |n: u64| format!(r#"{{"sub":"a","exp":{n}}}"#);
    assert!(at(&exp(NOW + 10), later(9)).is_ok());
    assert_eq!(at(&exp(NOW + 10), later(10)), Err(TokenError::Expired), "no leeway");
    assert_eq!(at(&exp(0), now()), Err(TokenError::Expired));
    // One without an end of its own, and one whose end is later: both end with the table.
    for claims in [r#"{"sub":"a"}"#.to_owned(), exp(NOW + 10_000_000)] {
        let token = at(&claims, later(86_399)).unwrap();
        assert_eq!(token.expires_at, later(86_400));
        assert_eq!(at(&claims, later(86_400)), Err(TokenError::Expired));
        assert!(token.ends_at() > token.expires_at);
    }
    for claim in ["nbf", "iat"] {
        assert!(at(&format!(r#"{{"sub":"a","{claim}":{}}}"#, NOW + 5), now()).is_ok());
        let early = format!(r#"{{"sub":"a","{claim}":{}}}"#, NOW + 6);
        assert_eq!(at(&early, now()), Err(TokenError::NotYetValid));
    }
    for wrong in [r#""1800000900""#, "null", "-1", "true", "[]", "1e300"] {
        for claim in ["exp", "nbf", "iat"] {
            let claims = format!(r#"{{"sub":"a","{claim}":{wrong}}}"#);
            assert_eq!(at(&claims, now()), Err(TokenError::Claims), "{claims}");
        }
    }
}

#[test]
fn what_was_signed_for_something_else_lets_nobody_in() {
    for purpose in [
        r#""type":"refresh""#,
        r#""token_type":"refresh""#,
        r#""tokenType":"refresh""#,
        r#""Kind":"invite""#,
        r#""scope":"refresh_token""#,
        r#""scope":"read email_token""#,
        r#""scopes":["read","Reset-Password"]"#,
        r#""token_use":"id""#,
        r#""typ":"Refresh""#,
        r#""purpose":"reset-password""#,
        r#""type":null"#,
        r#""type":["access"]"#,
        r#""type":"access","purpose":"confirm""#,
    ] {
        let claims = format!(r#"{{"sub":"alice",{purpose}}}"#);
        assert_eq!(read(shared(), &claims), Err(TokenError::Type), "{claims}");
    }
    // Links of other kinds name nobody where a token does.
    for claims in [r#"{"reset_password":7}"#, r#"{"confirm":"alice"}"#, "{}"] {
        assert_eq!(read(shared(), claims), Err(TokenError::Claims), "{claims}");
    }
    for (good, purpose) in
        [("scope", "read write"), ("type", "access"), ("typ", "Bearer"), ("token_type", "sliding")]
    {
        assert!(read(shared(), &format!(r#"{{"sub":"alice","{good}":"{purpose}"}}"#)).is_ok(), "{good}");
    }
}

#[test]
fn parties_are_those_of_the_table_or_none() {
    let for_party = |issuer: Option<&str>, audience: Option<&str>| LegacyTokenSettings {
        issuer: issuer.map(str::to_owned),
        audience: audience.map(str::to_owned),
        ..shared()
    };
    let bare = r#"{"sub":"a"}"#;
    let ours = r#"{"sub":"a","iss":"gatepost","aud":"app"}"#;
    let listed = r#"{"sub":"a","iss":"gatepost","aud":["other","app"]}"#;
    assert!(read(for_party(None, None), bare).is_ok());
    assert_eq!(read(for_party(None, None), ours), Err(TokenError::Issuer));
    assert_eq!(read(for_party(Some("gatepost"), None), ours), Err(TokenError::Audience));
    assert!(read(for_party(Some("gatepost"), Some("app")), ours).is_ok());
    assert!(read(for_party(Some("gatepost"), Some("app")), listed).is_ok());
    assert_eq!(read(for_party(Some("gatepost"), Some("app")), bare), Err(TokenError::Issuer));
    assert_eq!(read(for_party(Some("other"), Some("app")), ours), Err(TokenError::Issuer));
    assert_eq!(read(for_party(Some("gatepost"), Some("x")), listed), Err(TokenError::Audience));
    let list = r#"{"sub":"a","iss":["gatepost"],"aud":"app"}"#;
    assert_eq!(read(for_party(Some("gatepost"), Some("app")), list), Err(TokenError::Issuer));
}

#[test]
fn a_subject_is_text_or_a_whole_number() {
    for value in [r#""""#, "null", "true", "-1", "1.5", "[1]", r#"{"id":1}"#, "1e30"] {
        let claims = format!(r#"{{"sub":{value}}}"#);
        assert_eq!(read(shared(), &claims), Err(TokenError::Claims), "{claims}");
    }
    let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(255));
    assert_eq!(read(shared(), &long), Err(TokenError::Claims));
    for claims in ["[]", "1", r#""sub""#, r#"{"sub":"#] {
        assert_eq!(read(shared(), claims), Err(TokenError::Claims), "{claims}");
    }
}

#[test]
fn every_token_has_a_name_of_its_own() {
    let token = |claims: &str| read(shared(), claims).unwrap();
    let (one, other) = (token(r#"{"sub":"a"}"#), token(r#"{"sub":"a","n":1}"#));
    assert_eq!(one, token(r#"{"sub":"a"}"#));
    assert!(one.id != other.id && one.session != other.session);
    assert_ne!(one.id.as_bytes(), one.session.as_bytes());
}

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Signs with a private key that the test has made.
struct Signer {
    algorithm: LegacyAlgorithm,
    public: Vec<u8>,
    sign: Sign,
}

fn rsa() -> (RsaKeyPair, Vec<u8>) {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec();
    (pair, public)
}

fn signers() -> Vec<Signer> {
    let random = SystemRandom::new;
    let (pkcs1, pkcs1_public) = rsa();
    let (pss, pss_public) = rsa();
    let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let rsa_sign = move |pair: RsaKeyPair, padding: &'static dyn signature::RsaEncoding| {
        move |message: &[u8]| {
            let mut tag = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &random(), message, &mut tag).unwrap();
            tag
        }
    };
    let public = |der: &dyn AsDer<PublicKeyX509Der<'static>>| der.as_der().unwrap().as_ref().to_vec();
    let (p256_public, p384_public, ed_public) =
        (public(p256.public_key()), public(p384.public_key()), public(ed.public_key()));
    vec![
        Signer {
            algorithm: LegacyAlgorithm::Rs256,
            public: pkcs1_public,
            sign: Box::new(rsa_sign(pkcs1, &RSA_PKCS1_SHA256)),
        },
        Signer {
            algorithm: LegacyAlgorithm::Ps512,
            public: pss_public,
            sign: Box::new(rsa_sign(pss, &RSA_PSS_SHA512)),
        },
        Signer {
            algorithm: LegacyAlgorithm::Es256,
            public: p256_public,
            sign: Box::new(move |m| p256.sign(&random(), m).unwrap().as_ref().to_vec()),
        },
        Signer {
            algorithm: LegacyAlgorithm::Es384,
            public: p384_public,
            sign: Box::new(move |m| p384.sign(&random(), m).unwrap().as_ref().to_vec()),
        },
        Signer {
            algorithm: LegacyAlgorithm::EdDsa,
            public: ed_public,
            sign: Box::new(move |m| ed.sign(m).as_ref().to_vec()),
        },
    ]
}

impl Signer {
    fn token(&self, alg: &str) -> String {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(r#"{"sub":"alice"}"#));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode((self.sign)(signed.as_bytes())))
    }

    fn entry(&self) -> LegacyTokenSettings {
        entry(self.algorithm, LegacyKey::Public(self.public.clone()))
    }
}

#[test]
fn each_public_key_verifies_by_its_own_algorithm_only() {
    let signers = signers();
    let all: Vec<_> = signers.iter().map(Signer::entry).collect();
    for signer in &signers {
        let alone = keys(&[signer.entry()]);
        let token = signer.token(signer.algorithm.name());
        assert!(alone.verify(&token, now()).is_ok(), "{:?}", signer.algorithm);
        assert!(keys(&all).verify(&token, now()).is_ok(), "{:?}", signer.algorithm);
        for other in &signers {
            if other.algorithm != signer.algorithm {
                // Signed well, under another's name.
                let token = signer.token(other.algorithm.name());
                assert!(keys(&all).verify(&token, now()).is_err(), "{:?}", other.algorithm);
                assert_eq!(alone.verify(&token, now()), Err(TokenError::Algorithm));
            }
        }
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    let pem = |der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    };
    for signer in signers() {
        // Beside a real secret too, so that HS256 as such is known.
        for keys in [keys(&[signer.entry()]), keys(&[signer.entry(), shared()])] {
            let pem = pem(&signer.public);
            for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), &signer.public, b""] {
                for (name, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
                    let header = format!(r#"{{"alg":"{name}","typ":"JWT"}}"#);
                    let forged = hmac_sign(algorithm, secret, &header, r#"{"sub":"alice"}"#);
                    assert!(keys.verify(&forged, now()).is_err(), "{:?}", signer.algorithm);
                    // The same bytes as "signature" of the real algorithm.
                    let (message, tag) = forged.rsplit_once('.').unwrap();
                    let claims = message.split_once('.').unwrap().1;
                    let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, signer.algorithm.name());
                    let forged = format!("{}.{claims}.{tag}", URL_SAFE_NO_PAD.encode(header));
                    assert_eq!(keys.verify(&forged, now()), Err(TokenError::Signature));
                }
            }
        }
    }
}

#[test]
fn a_key_is_for_its_algorithm() {
    let signers = signers();
    let secret = LegacyKey::Secret(Secret::new(SECRET.to_vec()));
    for signer in &signers {
        let public = LegacyKey::Public(signer.public.clone());
        assert_eq!(judge_key(signer.algorithm, &public), Ok(()));
        assert_eq!(judge_key(signer.algorithm, &secret), Err(LegacyKeyError::Kind));
        assert_eq!(judge_key(LegacyAlgorithm::Hs256, &public), Err(LegacyKeyError::Kind));
        for other in &signers {
            let is_rsa = |s: &Signer| matches!(s.algorithm, LegacyAlgorithm::Rs256 | LegacyAlgorithm::Ps512);
            let same = other.algorithm == signer.algorithm || (is_rsa(signer) && is_rsa(other));
            assert_eq!(judge_key(other.algorithm, &public).is_ok(), same, "{:?}", other.algorithm);
        }
    }
    let rubbish = LegacyKey::Public(b"rubbish".to_vec());
    assert_eq!(judge_key(LegacyAlgorithm::Rs256, &rubbish), Err(LegacyKeyError::Unusable));
}

/// The worst case: the app's secret is our own.
#[test]
fn ours_and_theirs_are_told_apart_under_one_secret() {
    let mut settings = testing::hs256();
    let secret = LegacyKey::Secret(Secret::new(testing::SECRET.to_vec()));
    settings.legacy = vec![entry(LegacyAlgorithm::Hs256, secret)];
    let keys = ring(&settings, &stored_keys());
    let verifier = Verifier::new(&keys, &settings).unwrap();
    let kid = keys.kids().next().unwrap();
    let signed = |header: &str, claims: &str| hmac_sign(hmac::HMAC_SHA256, testing::SECRET, header, claims);
    let own_claims = testing::object(&testing::good_claims());
    let own = signed(&format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"{kid}"}}"#), &own_claims);
    assert!(matches!(verifier.judge(&own, now()), Ok(Judged::Own(_))));
    assert!(verifier.verify_legacy(&own, now()).is_err());
    let theirs = signed(HEADER, r#"{"sub":"alice"}"#);
    assert!(matches!(verifier.judge(&theirs, now()), Ok(Judged::Legacy(_))));
    assert!(verifier.verify(&theirs, now()).is_err(), "never without an account");
    for (header, claims) in [
        // Our claims, with roles and all, in their clothes; and the other way round.
        (HEADER.to_owned(), own_claims.as_str()),
        (r#"{"typ":"at+jwt","alg":"HS256"}"#.to_owned(), r#"{"sub":"alice"}"#),
        (format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"{kid}"}}"#), r#"{"sub":"alice"}"#),
        (format!(r#"{{"typ":"JWT","alg":"HS256","kid":"{kid}"}}"#), r#"{"sub":"alice"}"#),
        (format!(r#"{{"typ":"JWT","alg":"HS256","kid":"{kid}"}}"#), own_claims.as_str()),
        (r#"{"typ":"at+jwt","alg":"HS256","kid":"other"}"#.to_owned(), own_claims.as_str()),
    ] {
        assert!(verifier.judge(&signed(&header, claims), now()).is_err(), "{header} {claims}");
    }
    let without = Verifier::new(&keys, &testing::hs256()).unwrap();
    assert!(without.judge(&theirs, now()).is_err() && !without.recognises(&theirs));
    assert!(verifier.recognises(&theirs) && verifier.is_by(&settings) && !verifier.is_by(&testing::hs256()));
}

#[test]
fn a_secret_of_before_verifies_and_never_signs() {
    let before = b"the secret of before, with enough bytes".to_vec();
    let mut settings = testing::hs256();
    settings.previous_secrets = vec![Secret::new(before.clone())];
    let stored = stored_keys();
    let old = testing::settings(crate::settings::SigningAlgorithm::Hs256(Secret::new(before.clone())));
    let issue = |keys: &crate::token::keyring::KeyRing, settings| {
        let issuer = crate::token::access::Issuer::new(keys, settings).unwrap();
        issuer.issue(&testing::principal("u-1"), &[], now(), testing::token_id()).unwrap()
    };
    let rotated = ring(&settings, &stored).with_previous(&settings.previous_secrets).unwrap();
    let (old_token, new_token) = (issue(&ring(&old, &stored), &old), issue(&rotated, &settings));
    let verifier = Verifier::new(&rotated, &settings).unwrap();
    assert!(verifier.verify(old_token.token.expose(), now()).is_ok());
    assert!(verifier.verify(new_token.token.expose(), now()).is_ok());
    // What signs is the new one alone.
    let only_new = Verifier::new(&ring(&testing::hs256(), &stored), &testing::hs256()).unwrap();
    assert!(only_new.verify(new_token.token.expose(), now()).is_ok());
    assert!(only_new.verify(old_token.token.expose(), now()).is_err());
    assert_eq!((rotated.kids().count(), rotated.previous_kids().count()), (1, 1));
    assert_eq!(rotated.jwks(), r#"{"keys":[]}"#);
    let short = ring(&settings, &stored).with_previous(&[Secret::new(vec![1; 31])]);
    assert!(short.is_err());
}
