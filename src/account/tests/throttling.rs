//! Failed passwords and registrations are counted, by account and by source.

use std::time::Duration;

use crate::account::testing::{PASSWORD, World, client, registration, secret};
use crate::account::{AccountError, ProfileChange, Registration};
use crate::metrics::ThrottleScope;

fn scope(error: Option<&AccountError>) -> Option<ThrottleScope> {
    match error {
        Some(AccountError::Throttled { scope, retry_after }) => {
            assert!(*retry_after > Duration::ZERO);
            Some(*scope)
        }
        _ => None,
    }
}

#[tokio::test]
async fn name_and_address_share_one_count_and_unknown_names_are_counted_alike() {
    let world = World::new();
    let alice = Registration { email: Some("a@b.de".to_owned()), ..registration("alice") };
    world.accounts.register(alice, &client("192.0.2.1")).await.unwrap();
    for names in [["alice", "ALICE", "a@b.de", "A@B.de", "Alice"], ["nobody"; 5], ["ghost@b.de"; 5]] {
        for name in names {
            assert_eq!(world.try_login(name, "wrong").await.err(), Some(AccountError::Credentials));
        }
        let sixth = world.try_login(names[0], PASSWORD).await.err();
        assert_eq!(scope(sixth.as_ref()), Some(ThrottleScope::Account), "{names:?}");
    }
    assert_eq!(world.metrics.throttled.of(ThrottleScope::Account).value(), 3);
    assert!(world.login_from("alice", PASSWORD, "192.0.2.2").await.is_ok(), "from elsewhere");
    world.clock.advance(Duration::from_mins(1));
    assert!(world.try_login("alice", PASSWORD).await.is_ok(), "the lockout is over");
}

#[tokio::test]
async fn unlocking_forgets_the_failures() {
    let world = World::new();
    world.register("alice").await;
    for _ in 0..5 {
        assert!(world.try_login("alice", "wrong").await.is_err());
    }
    assert!(world.try_login("alice", PASSWORD).await.is_err());
    world.accounts.unlock("alice").await.unwrap();
    assert!(world.try_login("alice", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn spraying_one_password_over_many_names_is_throttled_by_address() {
    let world = World::new();
    world.register("alice").await;
    for n in 0..50 {
        let result = world.try_login(&format!("user{n}"), "wrong").await;
        assert_eq!(result.err(), Some(AccountError::Credentials));
    }
    assert_eq!(scope(world.try_login("alice", PASSWORD).await.err().as_ref()), Some(ThrottleScope::Address));
}

#[tokio::test]
async fn guesses_at_the_same_time_learn_no_more_than_one_after_the_other() {
    let world = World::new();
    world.register("alice").await;
    let guesses: Vec<_> = (0..20)
        .map(|_| {
            let accounts = std::sync::Arc::clone(&world.accounts);
            tokio::spawn(async move {
                accounts.login("alice", &secret("wrong"), &client("192.0.2.1")).await.err()
            })
        })
        .collect();
    let mut told = 0;
    for guess in guesses {
        match guess.await.unwrap() {
            Some(AccountError::Credentials) => told += 1,
            error => assert_eq!(scope(error.as_ref()), Some(ThrottleScope::Account)),
        }
    }
    assert_eq!(told, 5);
}

#[tokio::test]
async fn a_password_asked_for_again_is_throttled_as_a_login() {
    let world = World::new();
    world.register("alice").await;
    let caller = world.caller(&world.login("alice").await);
    let from = client("192.0.2.1");
    let change = || ProfileChange {
        email: Some(Some("a@b.de".to_owned())),
        current_password: Some(secret("wrong")),
        ..Default::default()
    };
    for _ in 0..2 {
        assert_eq!(
            world.accounts.delete_me(&caller, &secret("wrong"), &from).await,
            Err(AccountError::Credentials)
        );
        assert_eq!(world.accounts.update_me(&caller, change(), &from).await, Err(AccountError::Credentials));
    }
    assert!(world.try_login("alice", "wrong").await.is_err());
    let result =
        world.accounts.change_password(&caller, &secret(PASSWORD), &secret("another horse"), &from).await;
    assert_eq!(scope(result.err().as_ref()), Some(ThrottleScope::Account));
    assert_eq!(
        scope(world.accounts.delete_me(&caller, &secret(PASSWORD), &from).await.err().as_ref()),
        Some(ThrottleScope::Account)
    );
}

#[tokio::test]
async fn registrations_are_limited_by_address() {
    let world = World::with(|s| s.auth.registrations_per_address.count = 2);
    world.register("a").await;
    let taken = world.accounts.register(registration("a"), &client("192.0.2.1")).await;
    assert_eq!(taken, Err(AccountError::NameTaken));
    let third = world.accounts.register(registration("c"), &client("192.0.2.1")).await;
    assert_eq!(scope(third.err().as_ref()), Some(ThrottleScope::Registration));
    assert!(world.accounts.register(registration("c"), &client("192.0.2.2")).await.is_ok());
}
