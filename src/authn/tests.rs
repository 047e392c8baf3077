//! The cached judgement is the uncached one: each refusal is shown on a first and on a later request.

use std::time::Duration;

use super::*;
use crate::settings::TokenSettings;
use crate::token::access::Issuer;
use crate::token::keyring::KeyRing;
use crate::token::revocation::{Revocation, RevocationId, RevocationKind};
use crate::token::testing::{JTI, NOW, eddsa, now, principal, ring, stored_keys};

struct Scene {
    settings: TokenSettings,
    keys: KeyRing,
    revocations: Arc<RevocationList>,
    authenticator: Authenticator<String>,
}

impl Scene {
    fn new(cache_bytes: u64) -> Self {
        let settings = eddsa();
        let keys = ring(&settings, &stored_keys());
        let revocations = Arc::new(RevocationList::new());
        let authenticator = Authenticator::new(AuthenticatorParts {
            verifier: Arc::new(Verifier::new(&keys, &settings).unwrap()),
            revocations: Arc::clone(&revocations),
            accept: vec![CredentialForm::Bearer, CredentialForm::XAccessToken],
            cache_bytes,
            attach: Box::new(|principal| format!("attached to {}", principal.id)),
        });
        Self { settings, keys, revocations, authenticator }
    }

    fn token_of(&self, id: &str) -> String {
        let issuer = Issuer::new(&self.keys, &self.settings).unwrap();
        issuer.issue(&principal(id), &[], now(), JTI.parse().unwrap()).unwrap().token.expose().clone()
    }

    fn ask(&self, token: &str, at: Timestamp) -> Result<String, AuthnError> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        match self.authenticator.authenticate(&headers, at)? {
            Authentication::Anonymous => panic!("a credential was presented"),
            Authentication::Authenticated(caller) => {
                assert_eq!(caller.attachment, format!("attached to {}", caller.token.principal.id));
                Ok(caller.token.principal.id.to_string())
            }
        }
    }

    fn cached(&self) -> usize {
        self.authenticator.cache.borrow().len()
    }

    fn revoke(&self, id: RevocationId) {
        let until = now().plus(Duration::from_hours(1));
        assert!(self.revocations.insert(Revocation { kind: RevocationKind::Token, id, until }));
    }
}

#[test]
fn a_token_is_verified_once_and_then_found() {
    let scene = Scene::new(1 << 20);
    let token = scene.token_of("u-1");
    let first = scene.authenticator.caller(&token, now()).unwrap();
    let second = scene.authenticator.caller(&token, now()).unwrap();
    assert!(Rc::ptr_eq(&first, &second));
    assert_eq!(scene.cached(), 1);
}

#[test]
fn without_a_cache_the_answers_are_the_same() {
    let scene = Scene::new(0);
    let token = scene.token_of("u-1");
    assert_eq!(scene.ask(&token, now()), Ok("u-1".to_owned()));
    assert_eq!(scene.ask(&token, now()), Ok("u-1".to_owned()));
    scene.revoke(RevocationId::token(&JTI.parse().unwrap()));
    assert_eq!(scene.ask(&token, now()), Err(AuthnError::Revoked));
    assert_eq!(scene.cached(), 0);
}

#[test]
fn each_caller_is_found_by_their_own_token_only() {
    let scene = Scene::new(1 << 20);
    let names: Vec<String> = (0..50).map(|n| format!("u-{n}")).collect();
    let tokens: Vec<String> = names.iter().map(|name| scene.token_of(name)).collect();
    for _ in 0..3 {
        for (name, token) in names.iter().zip(&tokens) {
            assert_eq!(scene.ask(token, now()).as_ref(), Ok(name));
        }
    }
    // One user's claims with another one's signature are nobody's, however well the parts are known.
    let (claims, _) = tokens[0].rsplit_once('.').unwrap();
    let (_, signature) = tokens[1].rsplit_once('.').unwrap();
    let mixed = scene.ask(&format!("{claims}.{signature}"), now());
    assert_eq!(mixed, Err(AuthnError::Invalid(TokenError::Signature)));
}

#[test]
fn expiry_is_noticed_on_a_hit() {
    let scene = Scene::new(1 << 20);
    let token = scene.token_of("u-1");
    let end = (NOW + 900) * 1000;
    assert!(scene.ask(&token, now()).is_ok());
    assert!(scene.ask(&token, Timestamp::from_millis(end - 1)).is_ok());
    assert_eq!(scene.cached(), 1);
    assert_eq!(scene.ask(&token, Timestamp::from_millis(end)), Err(AuthnError::Expired));
    assert_eq!(scene.cached(), 0, "it cannot become good again");
    assert_eq!(
        scene.ask(&token, Timestamp::from_millis(end)),
        Err(AuthnError::Expired),
        "nor without the cache"
    );
}

#[test]
fn not_before_is_noticed_on_a_hit() {
    let scene = Scene::new(1 << 20);
    let token = scene.token_of("u-1");
    assert!(scene.ask(&token, now()).is_ok());
    assert!(scene.ask(&token, Timestamp::from_secs(NOW - 5)).is_ok());
    let early = scene.ask(&token, Timestamp::from_secs(NOW - 6));
    assert_eq!(early, Err(AuthnError::Invalid(TokenError::NotYetValid)));
    assert!(scene.ask(&token, now()).is_ok());
}

#[test]
fn each_kind_of_revocation_is_noticed_on_the_next_request() {
    for kind in 0..3 {
        for seen_before in [true, false] {
            let scene = Scene::new(1 << 20);
            let token = scene.token_of("u-1");
            let ids = check(&scene.authenticator.parts.verifier, &scene.revocations, &token, now());
            let id = ids.unwrap().revocable_by[kind];
            if seen_before {
                assert!(scene.ask(&token, now()).is_ok());
            }
            scene.revoke(id);
            for _ in 0..2 {
                assert_eq!(scene.ask(&token, now()), Err(AuthnError::Revoked), "{kind} {seen_before}");
            }
            let uncached = check(&scene.authenticator.parts.verifier, &scene.revocations, &token, now());
            assert_eq!(uncached, Err(AuthnError::Revoked));
            // What was taken back (its commit failed) lets the token pass again.
            scene.revocations.withdraw(id);
            assert!(scene.ask(&token, now()).is_ok());
        }
    }
}

#[test]
fn somebody_elses_revocation_changes_nothing() {
    let scene = Scene::new(1 << 20);
    let token = scene.token_of("u-1");
    assert!(scene.ask(&token, now()).is_ok());
    for n in 0..100 {
        scene.revoke(RevocationId(n));
        assert!(scene.ask(&token, now()).is_ok());
    }
    assert_eq!(scene.cached(), 1);
}

#[test]
fn failures_are_not_kept() {
    let scene = Scene::new(1 << 20);
    let token = scene.token_of("u-1");
    for bad in ["a.b.c", "x", &format!("{token}x")] {
        assert!(matches!(scene.ask(bad, now()), Err(AuthnError::Invalid(_))), "{bad}");
    }
    assert_eq!(scene.ask(&token, Timestamp::from_secs(NOW + 901)), Err(AuthnError::Expired));
    scene.revoke(RevocationId::token(&JTI.parse().unwrap()));
    assert_eq!(scene.ask(&token, now()), Err(AuthnError::Revoked));
    assert_eq!(scene.cached(), 0);
}

#[test]
fn absent_is_anonymous_and_bad_never_is() {
    let scene = Scene::new(1 << 20);
    let ask = |lines: &[(&'static str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        scene.authenticator.authenticate(&headers, now()).map(|who| matches!(who, Authentication::Anonymous))
    };
    assert_eq!(ask(&[]), Ok(true));
    assert_eq!(ask(&[("authorization", "Basic dTpw")]), Ok(true));
    assert_eq!(ask(&[("authorization", "Bearer")]), Err(AuthnError::Malformed));
    assert_eq!(ask(&[("authorization", "Bearer x")]), Err(AuthnError::Invalid(TokenError::Shape)));
    assert_eq!(ask(&[("authorization", "Bearer a"), ("x-access-token", "a")]), Err(AuthnError::Ambiguous));
    let token = scene.token_of("u-1");
    assert_eq!(ask(&[("x-access-token", &token)]), Ok(false));
}

#[test]
fn lines_with_a_token_of_ours_are_known() {
    let scene = Scene::new(0);
    let token = scene.token_of("u-1");
    let ours = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).unwrap();
        scene.authenticator.carries_ours(&HeaderName::from_static(name), &value)
    };
    assert!(ours("authorization", &format!("Bearer {token}")));
    assert!(ours("authorization", &format!("bearer {token}x")), "a bad one is ours all the same");
    assert!(ours("authorization", "Bearer gpr_AAAA"));
    assert!(ours("authorization", &format!("Basic dTpw, Bearer {token}")));
    assert!(
        ours("authorization", &format!("Bearer {token} and more")),
        "some reader may take the first word"
    );
    assert!(ours("x-access-token", &token));
    assert!(!ours("authorization", "Basic dTpw, Bearer ghp_somebodyelses"));
    assert!(!ours("authorization", &format!("Basic {token}")), "not a form that is accepted");
    assert!(!ours("authorization", "Basic dTpw"));
    assert!(!ours("authorization", "Bearer ghp_somebodyelses"));
    assert!(!ours("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.AAAA"));
    assert!(!ours("authorization", "JWT eyJhbGciOiJIUzI1NiJ9.e30.AAAA"));
    assert!(!ours("cookie", &token));
}

#[test]
fn codes_and_descriptions_are_stable() {
    let table = [
        (AuthnError::Ambiguous, "ambiguous_credentials"),
        (AuthnError::Malformed, "invalid_token"),
        (AuthnError::Invalid(TokenError::Signature), "invalid_token"),
        (AuthnError::from(TokenError::Expired), "expired_token"),
        (AuthnError::Revoked, "revoked_token"),
    ];
    for (error, code) in table {
        assert_eq!(error.code(), code);
        assert_eq!(error.description(), error.to_string());
        assert!(!error.description().contains(['"', '\\']));
    }
}

mod legacy {
    //! A token that the app minted is nobody's until somebody has looked its account up.

    use super::*;
    use crate::secret::Secret;
    use crate::settings::{LegacyAccount, LegacyAlgorithm, LegacyKey, LegacyTokenSettings};
    use crate::token::access::Judged;
    use crate::token::testing::Forger;

    const SECRET: &[u8] = b"short";

    fn scene(cache_bytes: u64) -> (Scene, Arc<Verifier>) {
        let mut settings = eddsa();
        settings.legacy = vec![LegacyTokenSettings {
            algorithm: LegacyAlgorithm::Hs256,
            key: LegacyKey::Secret(Secret::new(SECRET.to_vec())),
            user: vec!["sub".to_owned()],
            account: LegacyAccount::Either,
            ignore_case: false,
            issuer: None,
            audience: None,
            until: NOW + 10_000,
        }];
        let keys = ring(&settings, &stored_keys());
        let revocations = Arc::new(RevocationList::new());
        let verifier = Arc::new(Verifier::new(&keys, &settings).unwrap());
        let authenticator = Authenticator::new(AuthenticatorParts {
            verifier: Arc::clone(&verifier),
            revocations: Arc::clone(&revocations),
            accept: vec![CredentialForm::Bearer],
            cache_bytes,
            attach: Box::new(|principal| format!("attached to {}", principal.id)),
        });
        (Scene { settings, keys, revocations, authenticator }, verifier)
    }

    fn token() -> String {
        Forger::Hmac(SECRET.to_vec()).sign(r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"sub":"u-1"}"#)
    }

    fn found(verifier: &Verifier, now: Timestamp) -> AccessToken {
        let Ok(Judged::Legacy(token)) = verifier.judge(&token(), now) else { panic!("it is good") };
        token.of(Principal { generation: 0, ..principal("u-1") })
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        let line = HeaderValue::from_str(&format!("Bearer {}", token())).unwrap();
        headers.insert("authorization", line);
        headers
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(NOW + secs)
    }

    #[test]
    fn it_is_refused_until_it_is_admitted_and_then_known() {
        let (scene, verifier) = scene(1 << 20);
        assert_eq!(scene.ask(&token(), now()), Err(AuthnError::Unresolved));
        assert_eq!(AuthnError::Unresolved.code(), "invalid_token", "for whoever does not look it up");
        assert_eq!(scene.cached(), 0);
        let headers = headers();
        let (text, epoch) = scene.authenticator.unresolved(&headers).unwrap();
        let caller = scene.authenticator.admit(text, found(&verifier, now()), epoch, now());
        assert_eq!(caller.attachment, "attached to u-1");
        assert_eq!(scene.ask(&token(), at(899)), Ok("u-1".to_owned()));
        // What was found is good for as long as a token of ours would be.
        assert_eq!(scene.ask(&token(), at(900)), Err(AuthnError::Unresolved));
        assert_eq!(scene.cached(), 0);
    }

    #[test]
    fn the_end_of_its_table_is_noticed_on_a_hit() {
        let (scene, verifier) = scene(1 << 20);
        let headers = headers();
        let (text, epoch) = scene.authenticator.unresolved(&headers).unwrap();
        let _ = scene.authenticator.admit(text, found(&verifier, at(9500)), epoch, at(9500));
        assert_eq!(scene.ask(&token(), at(9999)), Ok("u-1".to_owned()));
        assert_eq!(scene.ask(&token(), at(10_000)), Err(AuthnError::Expired));
        assert_eq!(scene.ask(&token(), at(10_000)), Err(AuthnError::Expired), "nor without the cache");
    }

    #[test]
    fn what_is_revoked_while_the_account_is_looked_up_is_noticed() {
        let generation = RevocationId::generation(&"u-1".parse().unwrap(), 0);
        let (scene, verifier) = scene(1 << 20);
        let headers = headers();
        let (text, epoch) = scene.authenticator.unresolved(&headers).unwrap();
        let token = found(&verifier, now());
        scene.revoke(generation);
        let _ = scene.authenticator.admit(text, token, epoch, now());
        assert_eq!(scene.ask(text, now()), Err(AuthnError::Revoked));
    }

    #[test]
    fn each_of_its_three_names_revokes_it() {
        for index in 0..3 {
            let (scene, verifier) = scene(1 << 20);
            let headers = headers();
            let (text, epoch) = scene.authenticator.unresolved(&headers).unwrap();
            let token = found(&verifier, now());
            let id = token.revocable_by[index];
            let _ = scene.authenticator.admit(text, token, epoch, now());
            assert!(scene.ask(text, now()).is_ok());
            scene.revoke(id);
            assert_eq!(scene.ask(text, now()), Err(AuthnError::Revoked), "{index}");
        }
    }

    #[test]
    fn without_a_cache_it_is_looked_up_each_time() {
        let (scene, verifier) = scene(0);
        let headers = headers();
        let (text, epoch) = scene.authenticator.unresolved(&headers).unwrap();
        let caller = scene.authenticator.admit(text, found(&verifier, now()), epoch, now());
        assert_eq!(caller.attachment, "attached to u-1");
        assert_eq!(scene.ask(&token(), now()), Err(AuthnError::Unresolved));
    }
}
