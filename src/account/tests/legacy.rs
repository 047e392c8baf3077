//! What a token that the app minted is worth: the account that it names, while that is as it was.

use std::time::Duration;

use crate::account::testing::{World, client, registration, secret};
use crate::account::{AccountError, LegacyError, NewAccount, Revocable};
use crate::clock::Clock as _;
use crate::identity::SessionId;
use crate::secret::Secret;
use crate::settings::{LegacyAccount, LegacyAlgorithm, LegacyKey, LegacyTokenSettings, Registration};
use crate::store::{Account, AccountKey, Change, Origin, Store as _, StoreError};
use crate::token::access::TokenError;
use crate::token::revocation::RevocationKind;
use crate::token::testing::{Forger, NOW};

const SECRET: &[u8] = b"super-secret";
/// Of the table.
const DAYS: u64 = 100;

fn world() -> World {
    World::with(|settings| settings.tokens.legacy = vec![table(DAYS)])
}

fn table(days: u64) -> LegacyTokenSettings {
    LegacyTokenSettings {
        algorithm: LegacyAlgorithm::Hs256,
        key: LegacyKey::Secret(Secret::new(SECRET.to_vec())),
        user: vec!["sub".to_owned()],
        account: LegacyAccount::Either,
        ignore_case: false,
        issuer: None,
        audience: None,
        until: NOW + days * 86_400,
    }
}

fn token(sub: &str) -> String {
    minted(sub, NOW)
}

fn minted(sub: &str, at: u64) -> String {
    let claims = format!(r#"{{"sub":"{sub}","iat":{at}}}"#);
    Forger::Hmac(SECRET.to_vec()).sign(r#"{"alg":"HS256","typ":"JWT"}"#, claims)
}

/// As the tutorials do it.
fn undated(sub: &str) -> String {
    let claims = format!(r#"{{"sub":"{sub}","exp":{}}}"#, NOW + 86_400);
    Forger::Hmac(SECRET.to_vec()).sign(r#"{"alg":"HS256","typ":"JWT"}"#, claims)
}

async fn who(world: &World, sub: &str) -> Result<String, LegacyError> {
    let admitted = world.accounts.admit_legacy(&token(sub)).await?;
    assert_eq!(admitted.principal.generation, 0);
    Ok(admitted.principal.id.to_string())
}

fn is_nobody(outcome: &Result<String, LegacyError>) -> bool {
    matches!(outcome, Err(LegacyError::Token(TokenError::NoAccount)))
}

async fn account(world: &World, name: &str) -> Account {
    let key = AccountKey::Name(name.parse().unwrap());
    world.store.account(key).await.unwrap().unwrap()
}

/// An account as an import makes it.
async fn import(world: &World, like: &str, id: &str, name: &str) {
    let template = account(world, like).await;
    let (id, username) = (id.parse().unwrap(), Some(name.parse().unwrap()));
    let imported = Account { id, username, email: None, origin: Origin::ImportedWithId, ..template };
    world.store.commit(vec![Change::InsertAccount(imported)]).await.unwrap();
}

#[tokio::test]
async fn one_token_never_means_two_accounts() {
    let world = world();
    let alice = world.register("alice").await;
    import(&world, "alice", "bob", "robert").await;
    assert_eq!(who(&world, "bob").await.unwrap(), "bob", "an id of his own");
    assert_eq!(who(&world, "robert").await.unwrap(), "bob");
    let another = world.accounts.register(registration("bob"), &client("192.0.2.1")).await;
    assert_eq!(another.err(), Some(AccountError::NameTaken), "the token would mean two");
    import(&world, "alice", "carol", "carol").await;
    assert_eq!(who(&world, "carol").await.unwrap(), "carol", "one that is called by its id");
    assert_eq!(who(&world, "alice").await.unwrap(), alice.id.as_str());
}

#[tokio::test]
async fn an_id_that_is_gone_is_nobodys_name() {
    let world = world();
    world.register("alice").await;
    for id in ["17", "507f1f77bcf86cd799439011", "550e8400-e29b-41d4-a716-446655440000"] {
        assert!(is_nobody(&who(&world, id).await));
        world.register(id).await;
        assert!(is_nobody(&who(&world, id).await), "{id}");
    }
    import(&world, "alice", "18", "eighteen").await;
    assert_eq!(who(&world, "18").await.unwrap(), "18", "by id");
}

#[tokio::test]
async fn a_name_that_was_taken_after_the_token_was_minted_is_another_persons() {
    let open = world();
    let alice = open.register("alice").await;
    let created = alice.created_at.secs();
    let admit = async |world: &World, token: String| world.accounts.admit_legacy(&token).await.is_ok();
    open.clock.advance(Duration::from_mins(10));
    assert!(!admit(&open, minted("alice", created - 60)).await);
    assert!(admit(&open, minted("alice", created + 60)).await);
    assert!(admit(&open, minted(alice.id.as_str(), created - 60)).await, "an id is nobody else's");
    // But a number may be: unless it came along, the app may have given it to somebody who did not come.
    let template = account(&open, "alice").await;
    for (id, origin) in [("8", Origin::Imported), ("9", Origin::ImportedWithId)] {
        let username = Some(format!("number{id}").parse().unwrap());
        let given = Account { id: id.parse().unwrap(), username, origin, ..template.clone() };
        open.store.commit(vec![Change::InsertAccount(given)]).await.unwrap();
        assert_eq!(admit(&open, minted(id, created - 60)).await, origin.brought_its_id(), "{id}");
    }
    // One that came from the app is the app's, whenever it came.
    let template = account(&open, "alice").await;
    let username = Some("carol".parse().unwrap());
    let carol = Account { id: "c-1".parse().unwrap(), username, origin: Origin::Migrated, ..template };
    open.store.commit(vec![Change::InsertAccount(carol)]).await.unwrap();
    assert!(admit(&open, minted("carol", created - 60)).await);
    // Nobody knows how old these are.
    assert!(!admit(&open, undated("alice")).await);
    assert!(admit(&open, undated("carol")).await);
    assert!(admit(&open, undated(alice.id.as_str())).await, "an id is nobody else's");
    // An operator knows whom he means.
    let new = NewAccount {
        username: Some("dora".to_owned()),
        email: None,
        name: None,
        roles: None,
        password: secret("another horse"),
    };
    open.accounts.add(new).await.unwrap();
    // That nobody can register any more does not say who could when the name was taken.
    let closed = open.restarted(|settings| {
        settings.auth.registration = Registration::Closed;
        settings.tokens.legacy = vec![table(DAYS)];
    });
    for (name, means) in [("alice", false), ("carol", true), ("dora", true)] {
        assert_eq!(admit(&closed, minted(name, created - 60)).await, means, "{name}");
        assert_eq!(admit(&closed, undated(name)).await, means, "{name}");
    }
    assert!(admit(&closed, minted("alice", created + 60)).await);
}

#[tokio::test]
async fn a_fault_of_the_store_is_none_of_the_token() {
    let world = world();
    world.register("alice").await;
    for n in 0..2 {
        world.store.fail_from(n, StoreError::Unavailable("gone".to_owned()));
        assert!(matches!(who(&world, "alice").await, Err(LegacyError::Store(_))), "{n}");
        assert!(world.store.heal());
    }
    let before = world.contents();
    assert!(who(&world, "alice").await.is_ok() && is_nobody(&who(&world, "nobody").await));
    assert_eq!(world.contents(), before, "looking changes nothing");
}

#[tokio::test]
async fn a_revocation_outlives_every_token_that_it_concerns() {
    let world = world();
    world.register("alice").await;
    world.register("bob").await;
    let (alice, bob) = (token("alice"), token("bob"));
    let admitted = world.accounts.admit_legacy(&alice).await.unwrap();
    world.accounts.logout(Some(&admitted), None, &client("192.0.2.1")).await.unwrap();
    world.accounts.revoke(&Revocable::Text(secret(&bob))).await.unwrap();
    world.register("carol").await;
    world.accounts.disable("carol").await.unwrap();
    // Long after any token of ours, and to the last moment of the table.
    world.clock.advance(Duration::from_secs(DAYS * 86_400 - 1));
    world.revocations.purge(world.clock.now());
    let _ = world.store.purge(world.clock.now()).await.unwrap();
    let kept = world.store.revocations().await.unwrap();
    for kind in [RevocationKind::Token, RevocationKind::Session, RevocationKind::Generation] {
        assert!(kept.iter().any(|revocation| revocation.kind == kind), "{kind:?}");
    }
    for sub in ["alice", "bob", "carol"] {
        assert!(matches!(who(&world, sub).await, Err(LegacyError::Revoked)), "{sub}");
    }
    // And should somebody move the table's end: one without an end of its own stays revoked.
    let world = world.restarted(|settings| settings.tokens.legacy = vec![table(100 * DAYS)]);
    world.clock.advance(Duration::from_hours(24 * 50 * DAYS));
    world.revocations.purge(world.clock.now());
    let _ = world.store.purge(world.clock.now()).await.unwrap();
    for sub in ["alice", "bob", "carol"] {
        assert!(who(&world, sub).await.is_err(), "{sub}");
    }
}

#[tokio::test]
async fn a_logout_ends_a_token_of_the_apps_together_with_a_session_of_the_same_user_or_neither() {
    let world = world();
    world.register("alice").await;
    world.register("bob").await;
    let from = client("192.0.2.1");
    let pair = world.login("alice").await;
    let (alice, bob) = (token("alice"), token("bob"));
    let admitted = world.accounts.admit_legacy(&bob).await.unwrap();
    let refused = world.accounts.logout(Some(&admitted), Some(pair.refresh.expose()), &from).await;
    assert_eq!(refused, Err(AccountError::DifferentSessions));
    assert!(world.accounts.admit_legacy(&bob).await.is_ok() && world.accepted(&pair.access).is_some());
    let admitted = world.accounts.admit_legacy(&alice).await.unwrap();
    // A commit that is refused ends neither, and takes both back.
    world.store.fail_from(1, StoreError::Full { free: 1, min_free: 2 });
    assert!(world.accounts.logout(Some(&admitted), Some(pair.refresh.expose()), &from).await.is_err());
    assert!(world.store.heal());
    assert!(world.accounts.admit_legacy(&alice).await.is_ok() && world.accepted(&pair.access).is_some());
    world.accounts.logout(Some(&admitted), Some(pair.refresh.expose()), &from).await.unwrap();
    assert!(matches!(who(&world, "alice").await, Err(LegacyError::Revoked)));
    assert!(world.accepted(&pair.access).is_none());
    assert_eq!(world.refresh(&pair).await.err(), Some(AccountError::RefreshToken));
    // To the token's own end, whatever the table says by then.
    world.clock.advance(Duration::from_secs(DAYS * 86_400 - 1));
    world.revocations.purge(world.clock.now());
    assert!(matches!(who(&world, "alice").await, Err(LegacyError::Revoked)));
}

#[tokio::test]
async fn what_is_being_revoked_is_revoked() {
    let world = world();
    world.register("alice").await;
    let admitted = world.accounts.admit_legacy(&token("alice")).await.unwrap();
    // Published, and the store does not answer: it stays.
    world.store.fail_from(2, StoreError::Unavailable("gone".to_owned()));
    assert!(world.accounts.disable("alice").await.is_err());
    assert!(world.store.heal());
    assert!(!account(&world, "alice").await.disabled, "it was not written");
    assert!(matches!(who(&world, "alice").await, Err(LegacyError::Revoked)));
    assert_ne!(admitted.principal.session, SessionId::from_bytes([0; 16]));
}
