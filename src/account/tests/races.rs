//! Things that happen at the same time. The store's thread and the hashing threads run beside the
//! tasks, so every await is a place where another one may overtake.

use std::sync::Arc;

use crate::account::testing::{PASSWORD, World, client, registration, secret};
use crate::account::{AccountError, Registration};

#[tokio::test]
async fn of_eight_registrations_of_one_name_one_wins() {
    let world = World::new();
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let accounts = Arc::clone(&world.accounts);
            let password = Some(secret(&format!("password {n}")));
            let name = if n % 2 == 0 { "alice" } else { "ALICE" };
            let registration = Registration { password, ..registration(name) };
            tokio::spawn(async move { accounts.register(registration, &client("192.0.2.1")).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        match task.await.unwrap() {
            Ok(_) => winners.push(n),
            Err(error) => assert_eq!(error, AccountError::NameTaken),
        }
    }
    assert_eq!(winners.len(), 1);
    for n in 0..8 {
        let works =
            world.login_from("alice", &format!("password {n}"), &format!("192.0.2.{n}")).await.is_ok();
        assert_eq!(works, n == winners[0], "password {n}");
    }
}

#[tokio::test]
async fn eight_refreshes_of_one_token_bring_one_child() {
    let world = World::new();
    world.register("alice").await;
    let pair = world.login("alice").await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (accounts, token) = (Arc::clone(&world.accounts), pair.refresh.clone());
            tokio::spawn(async move { accounts.refresh(token.expose(), &client("192.0.2.1")).await })
        })
        .collect();
    let mut children = Vec::new();
    for task in tasks {
        let next = task.await.unwrap().expect("a pair");
        assert!(world.accepted(&next.access).is_some());
        children.push(next.refresh);
    }
    assert!(children.windows(2).all(|two| two[0] == two[1]), "the same next token for all");
    assert_eq!(world.accounts.sessions(&world.caller(&pair)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn no_session_survives_a_logout_beside_refreshes() {
    for _ in 0..20 {
        let world = World::new();
        world.register("alice").await;
        let pair = world.login("alice").await;
        let token = world.token(&pair);
        let refreshes: Vec<_> = (0..4)
            .map(|_| {
                let (accounts, token) = (Arc::clone(&world.accounts), pair.refresh.clone());
                tokio::spawn(async move { accounts.refresh(token.expose(), &client("192.0.2.1")).await })
            })
            .collect();
        let accounts = Arc::clone(&world.accounts);
        let logout =
            tokio::spawn(async move { accounts.logout(Some(&token), None, &client("192.0.2.1")).await });
        logout.await.unwrap().expect("logged out");
        for refresh in refreshes {
            if let Ok(next) = refresh.await.unwrap() {
                assert!(world.accepted(&next.access).is_none());
                assert!(world.refresh(&next).await.is_err());
            }
        }
        assert!(world.refresh(&pair).await.is_err());
    }
}

#[tokio::test]
async fn no_session_survives_a_disabling_beside_logins() {
    for _ in 0..20 {
        let world = World::new();
        world.register("alice").await;
        let logins: Vec<_> = (0..4)
            .map(|_| {
                let accounts = Arc::clone(&world.accounts);
                tokio::spawn(
                    async move { accounts.login("alice", &secret(PASSWORD), &client("192.0.2.1")).await },
                )
            })
            .collect();
        tokio::task::yield_now().await;
        world.accounts.disable("alice").await.unwrap();
        for login in logins {
            match login.await.unwrap() {
                Ok(crate::account::LoginOutcome::Session(pair)) => {
                    assert!(world.accepted(&pair.access).is_none());
                    assert!(world.refresh(&pair).await.is_err());
                }
                Err(error) => assert_eq!(error, AccountError::Disabled),
            }
        }
        assert!(world.accounts.sessions_of("alice").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn operators_at_the_same_time_lose_no_change() {
    let world = World::new();
    let tasks: Vec<_> = {
        world.register("alice").await;
        let (a, b, c) =
            (Arc::clone(&world.accounts), Arc::clone(&world.accounts), Arc::clone(&world.accounts));
        vec![
            tokio::spawn(async move { a.disable("alice").await }),
            tokio::spawn(async move {
                let name =
                    crate::account::AccountChange { name: Some(Some("Al".to_owned())), ..Default::default() };
                b.set("alice", &name).await
            }),
            tokio::spawn(async move { c.set_password("alice", &secret("another horse")).await }),
        ]
    };
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let alice = world.accounts.show("alice").await.unwrap();
    assert_eq!((alice.disabled, alice.name.as_deref()), (true, Some("Al")));
    assert_eq!(world.try_login("alice", "another horse").await.err(), Some(AccountError::Disabled));
}
