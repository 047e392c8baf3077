//! A store that fails at each of a verb's calls: the verb says so, nothing is there by half, and what
//! was revoked in memory for a commit that was refused works again.

use std::future::Future;
use std::pin::Pin;

use crate::account::testing::{PASSWORD, World, client, registration, role, secret};
use crate::account::{AccountChange, AccountError, ProfileChange, TokenPair};
use crate::store::StoreError;

type Verb =
    for<'a> fn(&'a World, &'a TokenPair) -> Pin<Box<dyn Future<Output = Result<(), AccountError>> + 'a>>;

const VERBS: &[(&str, Verb)] = &[
    ("register", |w, _| {
        Box::pin(async { w.accounts.register(registration("new"), &client("192.0.2.1")).await.map(drop) })
    }),
    ("login", |w, _| Box::pin(async { w.try_login("alice", PASSWORD).await.map(drop) })),
    ("refresh", |w, pair| Box::pin(async { w.refresh(pair).await.map(drop) })),
    ("logout", |w, pair| {
        Box::pin(async {
            w.accounts.logout(Some(&w.token(pair)), Some(pair.refresh.expose()), &client("192.0.2.1")).await
        })
    }),
    ("logout-all", |w, pair| {
        Box::pin(async { w.accounts.logout_all(&w.caller(pair), &client("192.0.2.1")).await.map(drop) })
    }),
    ("me", |w, pair| Box::pin(async { w.accounts.me(&w.caller(pair)).await.map(drop) })),
    ("update", |w, pair| {
        Box::pin(async {
            let change = ProfileChange {
                email: Some(Some("a@b.de".to_owned())),
                current_password: Some(secret(PASSWORD)),
                ..Default::default()
            };
            w.accounts.update_me(&w.caller(pair), change, &client("192.0.2.1")).await.map(drop)
        })
    }),
    ("password", |w, pair| {
        Box::pin(async {
            let (old, new) = (secret(PASSWORD), secret("another horse"));
            w.accounts.change_password(&w.caller(pair), &old, &new, &client("192.0.2.1")).await.map(drop)
        })
    }),
    ("end session", |w, pair| {
        Box::pin(async {
            let caller = w.caller(pair);
            w.accounts.end_session(&caller, caller.session, &client("192.0.2.1")).await
        })
    }),
    ("delete", |w, pair| {
        Box::pin(async {
            w.accounts.delete_me(&w.caller(pair), &secret(PASSWORD), &client("192.0.2.1")).await
        })
    }),
    ("roles", |w, _| {
        Box::pin(async {
            let change = AccountChange { roles: Some(vec![role("admin")]), ..Default::default() };
            w.accounts.set("alice", &change).await.map(drop)
        })
    }),
    ("disable", |w, _| Box::pin(async { w.accounts.disable("alice").await.map(drop) })),
    ("remove", |w, _| Box::pin(async { w.accounts.remove("alice").await })),
];

/// Lets `verb` fail at its first, second … call, until it gets through. How many calls it makes.
async fn at_each_call(name: &str, verb: Verb, error: &StoreError) -> usize {
    for n in 0..20 {
        let world = World::new();
        world.register("alice").await;
        let pair = world.login("alice").await;
        let before = world.contents();
        world.store.fail_from(n, error.clone());
        let result = verb(&world, &pair).await;
        if !world.store.heal() {
            result.unwrap_or_else(|error| panic!("{name} got through and says {error}"));
            return n;
        }
        assert_eq!(result, Err(AccountError::Store(error.clone())), "{name} at call {n}");
        assert_eq!(world.contents(), before, "{name} at call {n} left something behind");
        let definite = matches!(error, StoreError::Full { .. });
        if definite {
            assert!(world.accepted(&pair.access).is_some(), "{name} at call {n}: still revoked");
            verb(&world, &pair).await.unwrap_or_else(|error| panic!("{name} afterwards: {error}"));
        }
    }
    panic!("{name} does not end");
}

#[tokio::test]
async fn a_verb_that_the_store_refuses_leaves_nothing_behind() {
    for (name, verb) in VERBS {
        let calls = at_each_call(name, *verb, &StoreError::Full { free: 1, min_free: 2 }).await;
        assert!(calls > 0, "{name} asks the store");
    }
}

#[tokio::test]
async fn a_verb_whose_store_is_gone_says_so() {
    for (name, verb) in VERBS {
        at_each_call(name, *verb, &StoreError::Unavailable("gone".to_owned())).await;
    }
}

#[tokio::test]
async fn a_revocation_of_unknown_outcome_stays_in_memory() {
    let world = World::new();
    world.register("alice").await;
    let pair = world.login("alice").await;
    let token = world.token(&pair);
    world.store.fail_from(0, StoreError::Unavailable("gone".to_owned()));
    assert!(world.accounts.logout(Some(&token), None, &client("192.0.2.1")).await.is_err());
    assert!(world.accepted(&pair.access).is_none());
}

#[tokio::test]
async fn a_rehash_that_fails_does_not_fail_the_login() {
    let world = World::new();
    world.register("alice").await;
    let world = world.restarted(|s| s.auth.password.memory_kib = 16);
    // Account, sessions, the session's commit; then the rehash.
    world.store.fail_from(3, StoreError::Full { free: 1, min_free: 2 });
    assert!(world.try_login("alice", PASSWORD).await.is_ok());
    assert!(world.store.heal());
    assert!(world.contents().contains("m=8,t=1,p=1"));
}
