//! Good tokens pass; every forged one that we could think of is refused, most of them properly signed.

use proptest::prelude::*;

use super::*;
use crate::settings::{ClaimSource, SigningAlgorithm};
use crate::token::keyring::StoredKey;
use crate::token::refresh::RefreshToken;
use crate::token::testing::*;

/// A verifier, and somebody who holds its keys.
struct Scene {
    stored: Vec<StoredKey>,
    settings: TokenSettings,
    keys: KeyRing,
    verifier: Verifier,
    forger: Forger,
}

impl Scene {
    fn new(settings: TokenSettings) -> Self {
        let stored = stored_keys();
        let keys = ring(&settings, &stored);
        let verifier = Verifier::new(&keys, &settings).unwrap();
        let forger = Forger::with(&settings, &stored);
        Self { stored, settings, keys, verifier, forger }
    }

    fn kid(&self) -> String {
        self.keys.kids().next().unwrap().to_owned()
    }

    fn algorithm(&self) -> &'static str {
        self.keys.newest().verify.algorithm_name()
    }

    fn header(&self) -> String {
        format!(r#"{{"typ":"at+jwt","alg":"{}","kid":"{}"}}"#, self.algorithm(), self.kid())
    }

    fn good(&self) -> String {
        self.forger.sign(self.header(), object(&good_claims()))
    }

    fn verify(&self, token: &str) -> Result<AccessToken, TokenError> {
        self.verifier.verify(token, now())
    }

    /// Properly signed claims under a good header.
    fn verify_claims(&self, payload: impl AsRef<[u8]>) -> Result<AccessToken, TokenError> {
        self.verify(&self.forger.sign(self.header(), payload))
    }
}

fn scenes() -> [Scene; 2] {
    [Scene::new(eddsa()), Scene::new(hs256())]
}

fn decoded(token: &str) -> (serde_json::Value, serde_json::Value) {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    let mut json = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (json(), json())
}

#[test]
fn what_is_issued_is_what_is_verified() {
    for scene in scenes() {
        let issuer = Issuer::new(&scene.keys, &scene.settings).unwrap();
        let principal = principal("u-1");
        let amr = ["pwd".to_owned()];
        let later = Timestamp::from_millis(NOW * 1000 + 999);
        let fresh = issuer.issue(&principal, &amr, later, token_id()).unwrap();
        let token = scene.verifier.verify(fresh.token.expose(), later).unwrap();
        assert_eq!(token.principal, principal);
        assert_eq!((token.id, &*token.amr), (token_id(), &amr[..]));
        assert_eq!((token.issued_at, token.not_before), (now(), now()));
        assert_eq!((token.expires_at, fresh.expires_at), (Timestamp::from_secs(NOW + 900), token.expires_at));
        assert_eq!(
            token.revocable_by,
            [
                RevocationId::token(&token.id),
                RevocationId::session(&principal.session),
                RevocationId::generation(&principal.id, 3),
            ]
        );
    }
}

#[test]
fn header_and_claims_are_those_of_the_contract() {
    for scene in scenes() {
        let mut settings = scene.settings.clone();
        settings.claims = vec![
            ("identity".to_owned(), ClaimSource::Sub),
            ("login".to_owned(), ClaimSource::Username),
            ("mail".to_owned(), ClaimSource::Email),
            ("display".to_owned(), ClaimSource::Name),
            ("groups".to_owned(), ClaimSource::Roles),
            ("session".to_owned(), ClaimSource::Sid),
            ("number".to_owned(), ClaimSource::SubNumber),
        ];
        settings.fixed_claims = vec![("token_type".to_owned(), "access".to_owned())];
        let issuer = Issuer::new(&scene.keys, &settings).unwrap();
        let fresh = issuer.issue(&principal("u-1"), &["pwd".to_owned()], now(), token_id()).unwrap();
        let (header, claims) = decoded(fresh.token.expose());
        let expected = serde_json::json!({ "typ": "at+jwt", "alg": scene.algorithm(), "kid": scene.kid() });
        assert_eq!(header, expected);
        let expected = serde_json::json!({
            "iss": "gatepost", "aud": "app", "sub": "u-1", "iat": NOW, "nbf": NOW, "exp": NOW + 900,
            "jti": JTI, "sid": SID, "gen": 3, "username": "alice", "roles": ["editor", "user"],
            "amr": ["pwd"], "name": "Alice Ä. Example", "email": "alice@example.com", "email_verified": true,
            "identity": "u-1", "login": "alice", "mail": "alice@example.com", "display": "Alice Ä. Example",
            "groups": ["editor", "user"], "session": SID, "number": "u-1", "token_type": "access",
        });
        assert_eq!(claims, expected);
        assert!(Verifier::new(&scene.keys, &settings).unwrap().verify(fresh.token.expose(), now()).is_ok());
    }
}

#[test]
fn an_id_is_a_number_only_when_it_reads_back_as_the_same() {
    let scene = Scene::new(eddsa());
    let mut settings = eddsa();
    settings.claims = vec![("identity".to_owned(), ClaimSource::SubNumber)];
    let issuer = Issuer::new(&scene.keys, &settings).unwrap();
    let identity = |id: &str| {
        let fresh = issuer.issue(&principal(id), &[], now(), token_id()).unwrap();
        decoded(fresh.token.expose()).1["identity"].clone()
    };
    assert_eq!(identity("17"), 17);
    assert_eq!(identity("0"), 0);
    assert_eq!(identity("9007199254740991"), 9_007_199_254_740_991_u64);
    for text in ["017", "+1", "-1", "1.0", "9007199254740992", "u-1"] {
        assert_eq!(identity(text), text, "{text}");
    }
}

#[test]
fn a_fixed_claim_cannot_be_one_of_ours_or_be_there_twice() {
    let scene = Scene::new(eddsa());
    let refused = |fixed: &str| {
        let mut settings = eddsa();
        settings.claims = vec![("identity".to_owned(), ClaimSource::Sub)];
        settings.fixed_claims = vec![(fixed.to_owned(), "x".to_owned())];
        Issuer::new(&scene.keys, &settings).map(drop).unwrap_err()
    };
    assert!(matches!(refused("roles"), IssueError::ReservedClaim(_)));
    assert!(matches!(refused("identity"), IssueError::RepeatedClaim(_)));
}

#[test]
fn what_is_not_set_is_left_out() {
    let scene = Scene::new(eddsa());
    let mut settings = eddsa();
    settings.audience.clear();
    settings.claims = vec![("mail".to_owned(), ClaimSource::Email), ("n".to_owned(), ClaimSource::Name)];
    let nobody = Principal { name: None, email: None, ..principal("u-1") };
    let issuer = Issuer::new(&scene.keys, &settings).unwrap();
    let fresh = issuer.issue(&nobody, &[], now(), token_id()).unwrap();
    let (_, claims) = decoded(fresh.token.expose());
    for absent in ["aud", "name", "email", "email_verified", "mail", "n"] {
        assert!(claims.get(absent).is_none(), "{absent}");
    }
    let token = Verifier::new(&scene.keys, &settings).unwrap().verify(fresh.token.expose(), now()).unwrap();
    assert_eq!(token.principal, nobody);
}

#[test]
fn several_audiences_are_a_list_and_one_of_them_is_enough() {
    let scene = Scene::new(eddsa());
    let mut both = eddsa();
    both.audience = vec!["app".to_owned(), "api".to_owned()];
    let issuer = Issuer::new(&scene.keys, &both).unwrap();
    let fresh = issuer.issue(&principal("u-1"), &[], now(), token_id()).unwrap();
    assert_eq!(decoded(fresh.token.expose()).1["aud"], serde_json::json!(["app", "api"]));
    let accepted_by = |audience: &[&str]| {
        let mut settings = eddsa();
        settings.audience = audience.iter().map(|name| (*name).to_owned()).collect();
        Verifier::new(&scene.keys, &settings).unwrap().verify(fresh.token.expose(), now()).map(|_| ())
    };
    assert_eq!(accepted_by(&["api"]), Ok(()));
    assert_eq!(accepted_by(&["app", "other"]), Ok(()));
    assert_eq!(accepted_by(&["other"]), Err(TokenError::Audience));
    assert_eq!(accepted_by(&[]), Err(TokenError::Audience), "meant for somebody, who is not us");
}

#[test]
fn extra_claims_cannot_take_a_name_of_ours() {
    let scene = Scene::new(eddsa());
    for name in ["sub", "roles", "exp", "jti", "email_verified"] {
        let mut settings = eddsa();
        settings.claims = vec![(name.to_owned(), ClaimSource::Username)];
        assert!(
            matches!(Issuer::new(&scene.keys, &settings), Err(IssueError::ReservedClaim(n)) if n == name)
        );
    }
    let mut settings = eddsa();
    settings.claims = vec![("a".to_owned(), ClaimSource::Sub), ("a".to_owned(), ClaimSource::Sid)];
    assert!(matches!(Issuer::new(&scene.keys, &settings), Err(IssueError::RepeatedClaim(_))));
}

#[test]
fn a_token_that_would_be_refused_for_its_length_is_not_issued() {
    let scene = Scene::new(eddsa());
    let mut who = principal("u-1");
    who.roles = (0..200).map(|n| format!("role-{n:040}").parse().unwrap()).collect();
    let issuer = Issuer::new(&scene.keys, &scene.settings).unwrap();
    assert!(matches!(issuer.issue(&who, &[], now(), token_id()), Err(IssueError::TooLong)));
}

#[test]
fn all_keys_verify_and_the_newest_signs() {
    let mut stored = stored_keys();
    let old = ring(&eddsa(), &stored);
    let by_old =
        Issuer::new(&old, &eddsa()).unwrap().issue(&principal("u-1"), &[], now(), token_id()).unwrap();
    stored.push(
        StoredKey::generate(crate::token::keyring::KeyPurpose::SignAccess, Timestamp::from_secs(NOW + 1))
            .unwrap(),
    );
    let both = ring(&eddsa(), &stored);
    let by_new =
        Issuer::new(&both, &eddsa()).unwrap().issue(&principal("u-1"), &[], now(), token_id()).unwrap();
    let verifier = Verifier::new(&both, &eddsa()).unwrap();
    assert_eq!(decoded(by_new.token.expose()).0["kid"], serde_json::json!(stored[2].id));
    assert!(verifier.verify(by_old.token.expose(), now()).is_ok());
    assert!(verifier.verify(by_new.token.expose(), now()).is_ok());
    let unaware = Verifier::new(&old, &eddsa()).unwrap();
    assert_eq!(unaware.verify(by_new.token.expose(), now()), Err(TokenError::UnknownKey));
}

/// What makes the refusals below mean something: the same forger's unchanged token passes.
#[test]
fn the_unforged_token_is_accepted() {
    for scene in scenes() {
        let token = scene.verify(&scene.good()).unwrap();
        assert_eq!(token.principal.id.as_str(), "u-1");
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
            let header =
                format!(r#"{{"alg":"{}","kid":"{}","typ":"{typ}"}}"#, scene.algorithm(), scene.kid());
            assert!(scene.verify(&scene.forger.sign(header, object(&good_claims()))).is_ok(), "{typ}");
        }
        assert!(scene.verify_claims(claims_with("x", r#"{"any":[1,null,"thing"]}"#)).is_ok());
        assert!(scene.verify_claims(claims_with("username", "\"u-1\"")).is_ok(), "the id as the name");
        assert!(scene.verify_claims(claims_with("aud", r#"["other","app"]"#)).is_ok());
        assert!(scene.verify_claims(claims_with("roles", "[]")).is_ok());
    }
}

#[test]
fn unsigned_tokens_are_refused() {
    let nones = [
        "none",
        "None",
        "NONE",
        "nOnE",
        "noNe",
        "none ",
        " none",
        "none\\u0000",
        "\\u006eone",
        "n\\u006fne",
        "null",
        "",
        "no",
        "nonee",
        "NoNe",
        "HS0",
    ];
    for scene in scenes() {
        let good = scene.good();
        let signature = good.rsplit('.').next().unwrap();
        for alg in nones {
            let header = format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"{}"}}"#, scene.kid());
            let signed = scene.forger.sign(&header, object(&good_claims()));
            let message = signed.rsplit_once('.').unwrap().0;
            for token in [
                signed.clone(),
                format!("{message}."),
                message.to_owned(),
                format!("{message}.AA"),
                format!("{message}.{signature}"),
            ] {
                let refused = scene.verify(&token).unwrap_err();
                assert!(matches!(refused, TokenError::Algorithm | TokenError::Shape), "{alg:?}: {refused:?}");
            }
        }
    }
}

#[test]
fn headers_of_any_other_kind_are_refused() {
    use TokenError as E;
    for scene in scenes() {
        let (alg, kid) = (scene.algorithm(), scene.kid());
        let member = |name: &str, raw: &str| {
            let base = [
                ("typ", "\"at+jwt\"".to_owned()),
                ("alg", format!("\"{alg}\"")),
                ("kid", format!("\"{kid}\"")),
            ];
            let mut members: Vec<_> = base.map(|(n, v)| (n.to_owned(), v)).to_vec();
            match members.iter_mut().find(|(known, _)| known == name) {
                Some((_, value)) => raw.clone_into(value),
                None => members.push((name.to_owned(), raw.to_owned())),
            }
            object(&members)
        };
        let good = scene.header();
        let other = if alg == "EdDSA" { "HS256" } else { "EdDSA" };
        let mut cases: Vec<(String, E)> = Vec::new();
        for raw in ["null", "1", "true", "[\"EdDSA\"]", "{}", "[]"] {
            cases.extend(["alg", "typ", "kid"].map(|name| (member(name, raw), E::Header)));
        }
        for name in ["alg", "typ", "kid"] {
            let without = good.replace(&format!("\"{name}\":"), &format!("\"x{name}\":"));
            cases.push((without, E::Header));
            let twice = good.replace('}', &format!(",\"{name}\":\"none\"}}"));
            cases.push((twice, E::Header));
            let escaped = format!("\\u00{:02x}{}", name.as_bytes()[0], &name[1..]);
            cases.push((good.replace('}', &format!(",\"{escaped}\":\"none\"}}")), E::Header));
        }
        for wrong in
            [other, "Ed25519", "ES256", "RS256", "PS256", "HS384", "HS512", "ES256K", "eddsa", "hs256"]
        {
            cases.push((member("alg", &format!("\"{wrong}\"")), E::Algorithm));
        }
        for wrong in [
            "JWT",
            "jwt",
            "rt+jwt",
            "reset+jwt",
            "",
            "at+jwt ",
            "at",
            "at+jwt;v=1",
            "text/at+jwt",
            "application/",
            "äää+jwt",
        ] {
            cases.push((member("typ", &format!("\"{wrong}\"")), E::Type));
        }
        for wrong in [
            "",
            "x",
            "../../dev/null",
            "' OR 1=1 --",
            "|id",
            "0",
            &kid[1..],
            &format!("{kid}\\u0000"),
            &kid.to_lowercase(),
        ] {
            cases.push((member("kid", &format!("\"{wrong}\"")), E::UnknownKey));
        }
        for (name, raw) in [
            ("crit", "[]"),
            ("crit", "[\"exp\"]"),
            ("crit", "[\"b64\"]"),
            ("crit", "\"exp\""),
            ("crit", "null"),
            ("b64", "false"),
            ("b64", "true"),
            ("zip", "\"DEF\""),
            ("enc", "\"A128GCM\""),
            ("cty", "\"JWT\""),
            ("jku", "\"http://127.0.0.1:1/jwks.json\""),
            ("x5u", "\"http://127.0.0.1:1/c.pem\""),
            ("jwk", "{\"kty\":\"oct\",\"k\":\"AA\"}"),
            ("jwk", "null"),
            ("x5c", "[\"MIIB\"]"),
            ("x5t", "\"AA\""),
            ("x5t#S256", "\"AA\""),
            ("url", "\"x\""),
            ("nonce", "\"x\""),
            ("p2c", "1"),
            ("epk", "{}"),
            ("", "1"),
            ("iss", "\"gatepost\""),
            ("extras", "{}"),
            ("ALG", "\"none\""),
        ] {
            cases.push((member(name, raw), E::Header));
        }
        for text in [
            String::new(),
            "{}".to_owned(),
            "null".to_owned(),
            "[]".to_owned(),
            "\"at+jwt\"".to_owned(),
            "1".to_owned(),
            format!(r#"["{alg}","at+jwt","{kid}"]"#),
            format!("[{good}]"),
            format!("\u{feff}{good}"),
            format!("{good}x"),
            format!("{good}{good}"),
            format!("{good}\0"),
            good.replace('"', "'"),
            good.replace('}', ",}"),
            good[..good.len() - 1].to_owned(),
            format!("//c\n{good}"),
            "[".repeat(300),
            "{\"a\":".repeat(80),
        ] {
            let expected = if text.is_empty() { E::Shape } else { E::Header };
            cases.push((text, expected));
        }
        cases.push((format!("{good}{}", " ".repeat(MAX_HEADER_BYTES)), E::Header));
        assert!(cases.len() > 80);
        for (header, expected) in cases {
            let token = scene.forger.sign(&header, object(&good_claims()));
            assert_eq!(scene.verify(&token), Err(expected), "{header}");
            assert!(!scene.verifier.recognises(&token), "{header}");
        }
        let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(scene.verify(&scene.forger.sign(utf16, object(&good_claims()))), Err(E::Header));
        assert_eq!(scene.verify(&scene.forger.sign(b"\xff\xfe{}", object(&good_claims()))), Err(E::Header));
    }
}

#[test]
fn claims_of_the_wrong_kind_are_refused() {
    let kinds = [
        "null",
        "true",
        "\"\"",
        "\"x\"",
        "1",
        "-1",
        "1.5",
        "[]",
        "{}",
        "[\"gatepost\"]",
        "[[]]",
        "{\"a\":1}",
    ];
    for scene in scenes() {
        let mut tried = 0;
        for (name, good) in good_claims() {
            assert!(scene.verify_claims(claims_without(&name)).is_err(), "no {name}");
            assert!(scene.verify_claims(claims_and(&name, &good)).is_err(), "{name} twice");
            assert!(scene.verify_claims(claims_and(&name, "null")).is_err(), "{name} twice");
            for kind in kinds {
                let fine = matches!(
                    (name.as_str(), kind),
                    ("gen" | "nbf", "1")
                        | ("username" | "sub", "\"x\"")
                        | ("roles" | "amr", "[]" | "[\"gatepost\"]")
                );
                let refused = scene.verify_claims(claims_with(&name, kind)).is_err();
                assert!(refused != fine, "{name}: {kind}");
                tried += 1;
            }
        }
        assert_eq!(tried, 12 * kinds.len());
        let long = format!("\"{}\"", "a".repeat(65));
        let longer = format!("\"{}\"", "a".repeat(5_000));
        let cases: &[(&str, &[&str])] = &[
            ("iss", &["\"Gatepost\"", "\"gatepost \"", "\"gatepost\\u0000\"", "[\"gatepost\",\"x\"]"]),
            (
                "aud",
                &[
                    "\"APP\"",
                    "\"app,other\"",
                    "[\"other\"]",
                    "[1]",
                    "[\"app\",1]",
                    "[[\"app\"]]",
                    "[\"app\",null]",
                ],
            ),
            (
                "sub",
                &[
                    "\"a b\"",
                    "\"u\\r\\nX-Auth-Roles: admin\"",
                    "\"u\\u0000\"",
                    "\"ü\"",
                    "\"\\u007f\"",
                    &long,
                    &longer,
                ],
            ),
            (
                "jti",
                &[
                    "\"4AB2BB3F-19BB-4F2A-8EE1-0C2F1F0A6C11\"",
                    "\"4ab2bb3f19bb4f2a8ee10c2f1f0a6c11\"",
                    "\"{4ab2bb3f-19bb-4f2a-8ee1-0c2f1f0a6c11}\"",
                    "\"urn:uuid:4ab2bb3f-19bb-4f2a-8ee1-0c2f1f0a6c11\"",
                    &longer,
                ],
            ),
            ("sid", &["\"C7E1F2D0-5A50-4E4C-9D38-0B8C3B0E7D22\"", "\"c7e1f2d0\"", "16"]),
            ("gen", &["-0", "3.0", "3e0", "18446744073709551616", "\"3\""]),
            ("username", &["\"a\\r\\nb\"", "\"a b\"", "\"a@b\"", "\"a\\u0000\"", "\"a\\u2028\"", &long]),
            (
                "roles",
                &[
                    "\"admin\"",
                    "\"admin,user\"",
                    "[[\"admin\"]]",
                    "[\"a\\r\\nX-A: b\"]",
                    "[\"a,b\"]",
                    "[\"\"]",
                    "[null]",
                    "[1]",
                    "{\"admin\":true}",
                    "[\"user\",null]",
                    "[\"ä\"]",
                    "null",
                ],
            ),
            ("amr", &["\"pwd\"", "[1]", "[null]"]),
            ("name", &["null", "1", "[]", "{}"]),
            ("email", &["null", "\"\"", "\"a\"", "\"a@b\\r\\nc\"", "1", "[\"a@example.com\"]"]),
            ("email_verified", &["true", "\"true\"", "1", "null"]),
        ];
        for (name, raws) in cases {
            for raw in *raws {
                assert!(scene.verify_claims(claims_with(name, raw)).is_err(), "{name}: {raw}");
            }
        }
        for (name, value) in [("name", "\"A\""), ("email", "\"a@example.com\""), ("email_verified", "false")]
        {
            let mut claims = good_claims();
            claims.push((name.to_owned(), value.to_owned()));
            assert!(scene.verify_claims(object(&claims)).is_ok(), "{name} once");
            claims.push((name.to_owned(), value.to_owned()));
            assert!(scene.verify_claims(object(&claims)).is_err(), "{name} twice");
        }
    }
}

#[test]
fn payloads_that_are_no_claims_are_refused() {
    for scene in scenes() {
        let good = object(&good_claims());
        let values: Vec<String> = good_claims().into_iter().map(|(_, value)| value).collect();
        let payloads = [
            "{}".to_owned(),
            "null".to_owned(),
            "[]".to_owned(),
            "1".to_owned(),
            "\"x\"".to_owned(),
            format!("[{}]", values.join(",")),
            format!("[{good}]"),
            format!("\u{feff}{good}"),
            format!("{good}{good}"),
            format!("{good}x"),
            good.replace('}', ",}"),
            good[..good.len() - 1].to_owned(),
            format!("{good}\0"),
            "[".repeat(5_000),
            "{\"a\":".repeat(1_100),
            claims_with("roles", &"[".repeat(4_000)),
        ];
        for payload in payloads {
            assert_eq!(scene.verify_claims(&payload).unwrap_err(), TokenError::Claims, "{payload:.80}");
        }
        let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(scene.verify_claims(utf16), Err(TokenError::Claims));
        assert_eq!(scene.verify_claims([0x78, 0x9c, 0xab, 0x56]), Err(TokenError::Claims), "deflated");
        assert_eq!(scene.verify_claims(good.replace("alice", "al\u{1}ice")), Err(TokenError::Claims));
    }
}

#[test]
fn times_are_whole_seconds_and_in_order() {
    use TokenError as E;
    let at = |offset: i64| (i64::try_from(NOW).unwrap() + offset).to_string();
    let table: Vec<(&str, String, E)> = vec![
        ("exp", at(0), E::Lifetime), // equal to iat
        ("exp", at(-1), E::Lifetime),
        ("exp", "0".to_owned(), E::Lifetime),
        ("exp", at(901), E::Lifetime),
        ("exp", at(100 * 365 * 86_400), E::Lifetime),
        ("exp", "9223372036854775808".to_owned(), E::Lifetime),
        ("exp", u64::MAX.to_string(), E::Lifetime),
        ("exp", "18446744073709551616".to_owned(), E::Claims),
        ("nbf", at(6), E::NotYetValid),
        ("nbf", u64::MAX.to_string(), E::NotYetValid),
        ("iat", at(6), E::NotYetValid),
        ("iat", at(-1), E::Lifetime), // 901 s
        ("iat", "0".to_owned(), E::Lifetime),
        ("iat", u64::MAX.to_string(), E::Lifetime), // after exp
    ];
    for scene in scenes() {
        for (name, raw, expected) in &table {
            assert_eq!(scene.verify_claims(claims_with(name, raw)), Err(*expected), "{name}: {raw}");
        }
        for name in ["exp", "nbf", "iat"] {
            let odd = [
                "-1",
                "-0",
                "1e400",
                "1e30",
                "1.8e9",
                "1800000000.0",
                "1800000000.5",
                "\"1800000000\"",
                "null",
                "true",
                "[1800000000]",
                "{}",
                "01800000000",
                "+1800000000",
                "0x6b49d200",
                "NaN",
                "Infinity",
                "18446744073709551616",
                "340282366920938463463374607431768211456",
            ];
            for raw in odd {
                assert_eq!(scene.verify_claims(claims_with(name, raw)), Err(E::Claims), "{name}: {raw}");
            }
        }
        assert!(scene.verify_claims(claims_with("nbf", &at(5))).is_ok(), "within the leeway");
        assert!(scene.verify_claims(claims_with("nbf", "0")).is_ok(), "nbf says nothing about the lifetime");
    }
}

#[test]
fn expiry_is_to_the_millisecond_and_without_leeway() {
    for scene in scenes() {
        let token = scene.good();
        let at = |millis: u64| scene.verifier.verify(&token, Timestamp::from_millis(millis)).map(|_| ());
        assert_eq!(at((NOW + 900) * 1000 - 1), Ok(()));
        assert_eq!(at((NOW + 900) * 1000), Err(TokenError::Expired));
        assert_eq!(at(u64::MAX), Err(TokenError::Expired));
        assert_eq!(at((NOW - 5) * 1000), Ok(()), "iat and nbf have leeway");
        assert_eq!(at((NOW - 5) * 1000 - 1), Err(TokenError::NotYetValid));
        assert_eq!(at(0), Err(TokenError::NotYetValid));
    }
}

#[test]
fn only_a_token_of_ours_is_ever_called_expired() {
    for scene in scenes() {
        let late = Timestamp::from_secs(NOW + 10_000);
        let good = scene.good();
        assert_eq!(scene.verifier.verify(&good, late), Err(TokenError::Expired));
        let (message, _) = good.rsplit_once('.').unwrap();
        let stranger = Forger::Hmac(vec![1; 64]).signature(message);
        let unsigned = scene.verifier.verify(&format!("{message}.{stranger}"), late);
        assert_eq!(unsigned, Err(TokenError::Signature));
        let elsewhere = scene.forger.sign(scene.header(), claims_with("iss", "\"other\""));
        assert_eq!(scene.verifier.verify(&elsewhere, late), Err(TokenError::Issuer));
    }
}

#[test]
fn a_shorter_ttl_applies_to_tokens_that_are_out() {
    let scene = Scene::new(eddsa());
    let mut settings = eddsa();
    settings.access_ttl = Duration::from_secs(899);
    assert_eq!(
        Verifier::new(&scene.keys, &settings).unwrap().verify(&scene.good(), now()),
        Err(TokenError::Lifetime)
    );
    settings.access_ttl = Duration::from_millis(899_001);
    assert!(Verifier::new(&scene.keys, &settings).unwrap().verify(&scene.good(), now()).is_ok());
}

#[test]
fn what_is_not_compact_jws_is_refused() {
    for scene in scenes() {
        let good = scene.good();
        let parts: Vec<&str> = good.split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("three parts") };
        let json = format!(r#"{{"protected":"{header}","payload":"{payload}","signature":"{signature}"}}"#);
        let flat = format!(
            r#"{{"payload":"{payload}","signatures":[{{"protected":"{header}","signature":"{signature}"}}]}}"#
        );
        let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
        let mut tokens = vec![
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            "...".to_owned(),
            header.to_owned(),
            format!("{header}.{payload}"),
            format!("{header}.{payload}."),
            format!("{header}..{signature}"),
            format!(".{payload}.{signature}"),
            format!("{good}."),
            format!(".{good}"),
            format!("{good}.{signature}"),
            format!("{header}.{payload}.{signature}.{signature}.{signature}"),
            format!("{header}.{header}.{payload}.{payload}.{signature}"),
            json,
            flat,
            format!("Bearer {good}"),
            format!(" {good}"),
            format!("{good} "),
            format!("{good}\n"),
            format!("{good}\0"),
            format!("{header}=.{payload}.{signature}"),
            format!("{header}.{payload}=.{signature}"),
            format!("{good}="),
            format!("{good}=="),
            format!("{header}.{payload}.{zeros}"),
            format!("{header}.{payload}.{signature}{signature}"),
            format!("{header}.{payload}.{}", &signature[1..]),
            format!("{good}A"),
            format!("{good}AAAA"),
            format!("{header}.{payload}.{}", &signature[..signature.len() / 2]),
            format!("{header}.{payload}.A"),
            good.replacen('.', "%2E", 1),
            good.replace('.', "\u{ff0e}"),
            good.replacen('.', ".\r\n", 1),
            "é.é.é".to_owned(),
            good.to_uppercase(),
            good.to_lowercase(),
            ".".repeat(MAX_TOKEN_BYTES),
            "a.".repeat(500_000),
            "a".repeat(1 << 20),
            format!("{header}.{}.{signature}", "A".repeat(100 << 10)),
        ];
        for cut in 1..signature.len() {
            tokens.push(good[..good.len() - cut].to_owned());
        }
        for at in [0, 10, signature.len() - 1] {
            for standard in ['+', '/'] {
                let mut changed = signature.to_owned();
                changed.replace_range(at..=at, standard.encode_utf8(&mut [0; 4]));
                tokens.push(format!("{header}.{payload}.{changed}"));
            }
        }
        // The last character has bits to spare; a decoder that ignores them gives one token several texts.
        for last in ('a'..='z').chain('A'..='Z').chain('0'..='9').chain(['-', '_']) {
            let changed = format!("{}{last}", &good[..good.len() - 1]);
            if changed != good {
                tokens.push(changed);
            }
        }
        assert!(tokens.len() > 100);
        for token in tokens {
            assert!(scene.verify(&token).is_err(), "{token:.200}");
        }
    }
}

#[test]
fn keys_are_not_confused() {
    let ed = Scene::new(eddsa());
    let hs = Scene::new(hs256());
    let other = Scene::new(eddsa());
    let claims = object(&good_claims());
    let jwks: serde_json::Value = serde_json::from_str(ed.keys.jwks()).unwrap();
    let x = jwks["keys"][0]["x"].as_str().unwrap();
    let public = URL_SAFE_NO_PAD.decode(x).unwrap();
    // The public key as a shared secret, in every spelling, and empty and well-known secrets.
    let pem = format!("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA{x}\n-----END PUBLIC KEY-----\n");
    let der =
        [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..], &public].concat();
    for secret in [
        public.clone(),
        x.as_bytes().to_vec(),
        pem.into_bytes(),
        der,
        ed.kid().into_bytes(),
        vec![],
        b"secret".to_vec(),
        vec![0; 32],
    ] {
        for alg in ["HS256", "EdDSA", "HS512"] {
            let header = format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"{}"}}"#, ed.kid());
            assert!(ed.verify(&Forger::Hmac(secret.clone()).sign(header, &claims)).is_err(), "{alg}");
            let header = format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"{}"}}"#, hs.kid());
            assert!(hs.verify(&Forger::Hmac(secret.clone()).sign(header, &claims)).is_err(), "{alg}");
        }
    }
    // Another installation's key under our key's name, and under its own.
    assert_eq!(ed.verify(&other.forger.sign(ed.header(), &claims)), Err(TokenError::Signature));
    assert_eq!(ed.verify(&other.good()), Err(TokenError::UnknownKey));
    assert_eq!(ed.verify(&hs.good()), Err(TokenError::UnknownKey));
    assert_eq!(hs.verify(&ed.good()), Err(TokenError::UnknownKey));
    // A signature of ours, over something else.
    let mine = ed.forger.sign(ed.header(), claims_with("sub", "\"u-2\""));
    let theirs = ed.good();
    let (message, _) = theirs.rsplit_once('.').unwrap();
    let (_, signature) = mine.rsplit_once('.').unwrap();
    assert_eq!(ed.verify(&format!("{message}.{signature}")), Err(TokenError::Signature));
    // A ring whose algorithm was changed knows the other kind of key no more.
    let changed = Verifier::new(&ring(&hs256(), &ed.stored), &hs256()).unwrap();
    assert_eq!(changed.verify(&ed.good(), now()), Err(TokenError::UnknownKey));
}

#[test]
fn a_refresh_token_is_no_access_token() {
    for scene in scenes() {
        let (token, _) = RefreshToken::first(SID.parse().unwrap(), Secret::new([7; 32]));
        let text = token.text(scene.keys.refresh_key());
        assert_eq!(scene.verify(text.expose()), Err(TokenError::Shape));
        assert_eq!(scene.verify(&format!("{0}.{0}.{0}", text.expose())), Err(TokenError::Header));
    }
}

#[test]
fn a_token_is_recognised_by_its_header_alone() {
    for scene in scenes() {
        let good = scene.good();
        let (message, _) = good.rsplit_once('.').unwrap();
        assert!(scene.verifier.recognises(&good));
        assert!(scene.verifier.recognises(&format!("{message}.AAAA")), "also when it is no good");
        let issuer = Issuer::new(&scene.keys, &scene.settings).unwrap();
        let fresh = issuer.issue(&principal("u-1"), &[], now(), token_id()).unwrap();
        assert!(scene.verifier.recognises(fresh.token.expose()));
        assert!(fresh.token.expose().starts_with(&scene.verifier.keys[0].beginning), "the short way");
        assert!(!scene.verifier.recognises("some.other.token"));
        assert!(!scene.verifier.recognises("opaque"));
    }
}

#[test]
fn descriptions_fit_into_a_quoted_string_and_say_what_errors_say() {
    use TokenError as E;
    let all = [
        E::TooLong,
        E::Shape,
        E::Header,
        E::Type,
        E::UnknownKey,
        E::Algorithm,
        E::Signature,
        E::Claims,
        E::Issuer,
        E::Audience,
        E::Lifetime,
        E::NotYetValid,
        E::Expired,
    ];
    for error in all {
        let text = error.description();
        let plain = |b: u8| matches!(b, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        assert!(text.bytes().all(plain) && text.len() < 80, "{text}");
        assert_eq!(text, error.to_string());
    }
}

#[test]
fn nothing_secret_is_printed() {
    let scene = Scene::new(hs256());
    let issuer = Issuer::new(&scene.keys, &scene.settings).unwrap();
    let fresh = issuer.issue(&principal("u-1"), &[], now(), token_id()).unwrap();
    let shown = format!("{issuer:?} {fresh:?} {:?} {:?}", scene.verifier, scene.keys);
    assert!(!shown.contains("0123456789abcdef") && !shown.contains("48, 49, 50"), "{shown}");
    assert!(!shown.contains(fresh.token.expose().as_str()));
    let ed = Scene::new(eddsa());
    let shown = format!("{:?} {:?} {:?}", ed.verifier, ed.keys, ed.stored);
    let bytes = ed.stored[0].material.bytes();
    assert!(!shown.contains(&format!("{:?}", &bytes[16..24]).replace(['[', ']'], "")), "{shown}");
}

#[test]
fn the_algorithm_setting_decides_which_keys_are_missing() {
    use crate::token::keyring::KeyPurpose::{Refresh, SignAccess};
    let stored = stored_keys();
    let secret = SigningAlgorithm::Hs256(Secret::new(SECRET.to_vec()));
    assert_eq!(KeyRing::missing(&SigningAlgorithm::EdDsa, &[]), [SignAccess, Refresh]);
    assert_eq!(KeyRing::missing(&SigningAlgorithm::EdDsa, &stored[1..]), [SignAccess]);
    assert_eq!(KeyRing::missing(&SigningAlgorithm::EdDsa, &stored), []);
    assert_eq!(KeyRing::missing(&secret, &[]), [Refresh]);
    assert_eq!(KeyRing::missing(&secret, &stored[1..]), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_changed_byte_is_enough(at in any::<prop::sample::Index>(), new in any::<u8>()) {
        for scene in scenes() {
            let good = scene.good();
            let mut bytes = good.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = new;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert_eq!(scene.verify(&changed).is_ok(), changed == good);
            }
        }
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in any::<String>(), dots in "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,5}") {
        let scene = Scene::new(hs256());
        prop_assert!(scene.verify(&text).is_err());
        prop_assert!(scene.verify(&dots).is_err());
    }

    #[test]
    fn any_signed_bytes_are_refused_without_a_panic(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>()) {
        let scene = Scene::new(hs256());
        prop_assert!(scene.verify(&scene.forger.sign(&header, object(&good_claims()))).is_err());
        prop_assert!(scene.verify_claims(&payload).is_err());
    }
}
