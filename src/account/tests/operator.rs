//! What an operator can do.

use crate::account::testing::{PASSWORD, World, client, registration, role, secret};
use crate::account::{AccountChange, AccountError, NewAccount, Registration, Revocable};
use crate::store::{Account, AccountKey, Change, Store as _};

fn new(username: &str) -> NewAccount {
    NewAccount {
        username: Some(username.to_owned()),
        email: Some(format!("{username}@example.com")),
        name: None,
        roles: Some(vec![role("editor")]),
        password: secret(PASSWORD),
    }
}

#[tokio::test]
async fn an_added_account_has_its_roles_and_a_proved_address() {
    let world = World::new();
    let added = world.accounts.add(new("admin")).await.unwrap();
    assert!(added.email_verified, "and a reserved name is for the operator to give");
    assert_eq!(added.roles, [role("editor"), role("user")]);
    let unknown = NewAccount { roles: Some(vec![role("wizard")]), ..new("bob") };
    assert_eq!(world.accounts.add(unknown).await, Err(AccountError::UnknownRole(role("wizard"))));
    assert_eq!(world.accounts.add(new("Admin")).await, Err(AccountError::NameTaken));
    for who in ["admin", "ADMIN", "admin@EXAMPLE.com", added.id.as_str()] {
        assert_eq!(world.accounts.show(who).await.as_ref(), Ok(&added), "{who}");
    }
    for who in ["", "nobody", "\0", "x@y.de"] {
        assert_eq!(world.accounts.show(who).await, Err(AccountError::NoSuchAccount), "{who:?}");
    }
    assert_eq!(world.accounts.list(None, 10).await.unwrap(), [added]);
}

#[tokio::test]
async fn an_operator_who_could_mean_two_accounts_is_asked() {
    let world = World::new();
    let victim = world.accounts.add(new("victim")).await.unwrap();
    let decoy = Registration { username: Some(victim.id.as_str().to_uppercase()), ..registration("decoy") };
    let refused = world.accounts.register(decoy, &client("192.0.2.1")).await;
    assert_eq!(refused.err(), Some(AccountError::NameTaken), "nobody is called by another's id");
    // Ids that others have given may look like anything.
    let template = world.store.account(AccountKey::Id(victim.id.clone())).await.unwrap().unwrap();
    for (id, username) in [("ABC", "imported"), ("bob@example.com", "addressed")] {
        let other = Account {
            id: id.parse().unwrap(),
            username: Some(username.parse().unwrap()),
            email: None,
            ..template.clone()
        };
        world.store.commit(vec![Change::InsertAccount(other)]).await.unwrap();
    }
    let bob = world.accounts.add(new("bob")).await.unwrap();
    let abc = world.accounts.add(new("abc")).await.unwrap();
    for (who, id, name) in [("ABC", "ABC", &abc), ("bob@example.com", "bob@example.com", &bob)] {
        assert_eq!(world.accounts.disable(who).await, Err(AccountError::TwoAccounts(who.to_owned())));
        assert_eq!(world.accounts.show(&format!("id:{who}")).await.unwrap().id.as_str(), id);
        assert_eq!(world.accounts.show(&format!("name:{who}")).await.as_ref(), Ok(name));
    }
    assert_eq!(world.accounts.show("abc").await.as_ref(), Ok(&abc), "ids are exact");
    assert_eq!(world.accounts.show("imported").await.unwrap().id.as_str(), "ABC");
}

#[tokio::test]
async fn new_roles_refuse_old_tokens_at_once_and_sessions_go_on() {
    let world = World::new();
    world.accounts.add(new("bob")).await.unwrap();
    let pair = world.login("bob").await;
    let set = |roles: &[&str]| {
        let change =
            AccountChange { roles: Some(roles.iter().map(|r| role(r)).collect()), ..Default::default() };
        let world = &world;
        async move { world.accounts.set("bob", &change).await }
    };
    assert_eq!(set(&["nope"]).await, Err(AccountError::UnknownRole(role("nope"))));
    set(&["editor"]).await.unwrap();
    assert!(world.accepted(&pair.access).is_some(), "the same roles change nothing");
    let changed = set(&["user"]).await.unwrap();
    assert_eq!(changed.roles, [role("user")]);
    assert!(world.accepted(&pair.access).is_none());
    let next = world.refresh(&pair).await.unwrap();
    assert!(!world.caller(&next).roles.contains(&role("editor")));
}

#[tokio::test]
async fn a_password_that_an_operator_sets_ends_all_sessions() {
    let world = World::new();
    world.accounts.add(new("bob")).await.unwrap();
    let pair = world.login("bob").await;
    assert!(matches!(
        world.accounts.set_password("bob", &secret("short")).await,
        Err(AccountError::Invalid(_))
    ));
    world.accounts.set_password("bob", &secret("another horse")).await.unwrap();
    assert!(world.accepted(&pair.access).is_none() && world.refresh(&pair).await.is_err());
    assert!(world.try_login("bob", "another horse").await.is_ok());
}

#[tokio::test]
async fn a_rename_keeps_the_id_and_shows_in_the_next_token() {
    let world = World::new();
    let bob = world.accounts.add(new("bob")).await.unwrap();
    let rename = AccountChange { username: Some("Robert".to_owned()), ..Default::default() };
    assert_eq!(world.accounts.set("bob", &rename).await.unwrap().username, "robert");
    let caller = world.caller(&world.login("robert").await);
    assert_eq!((caller.id, &*caller.username), (bob.id, "robert"));
}

#[tokio::test]
async fn tokens_sessions_and_users_are_revoked() {
    let world = World::new();
    world.accounts.add(new("bob")).await.unwrap();
    let revoke = |what| {
        let world = &world;
        async move { world.accounts.revoke(&what).await }
    };
    let (one, two, three) = (world.login("bob").await, world.login("bob").await, world.login("bob").await);
    revoke(Revocable::Text(one.access.clone())).await.unwrap();
    assert!(world.accepted(&one.access).is_none());
    let next = world.refresh(&one).await.expect("only the token was revoked");
    revoke(Revocable::Text(next.refresh.clone())).await.unwrap();
    assert!(world.accepted(&next.access).is_none() && world.refresh(&next).await.is_err());

    revoke(Revocable::Session(world.caller(&two).session)).await.unwrap();
    assert!(world.accepted(&two.access).is_none());
    revoke(Revocable::Token(world.accepted(&three.access).unwrap().id)).await.unwrap();
    assert!(world.accepted(&three.access).is_none());
    let four = world.login("bob").await;
    assert_eq!(world.accounts.end_all_sessions("BOB").await, Ok(2));
    assert!(world.accepted(&four.access).is_none() && world.refresh(&three).await.is_err());

    assert_eq!(world.accounts.end_all_sessions("nobody").await, Err(AccountError::NoSuchAccount));
    for what in [Revocable::Text(secret("x.y.z")), Revocable::Session(crate::identity::SessionId::random())] {
        assert!(revoke(what).await.is_err());
    }
}

#[tokio::test]
async fn a_removed_account_is_gone() {
    let world = World::new();
    world.accounts.add(new("bob")).await.unwrap();
    let pair = world.login("bob").await;
    assert_eq!(world.accounts.sessions_of("bob").await.unwrap().len(), 1);
    world.accounts.remove("bob").await.unwrap();
    assert!(world.accepted(&pair.access).is_none());
    assert_eq!(world.accounts.show("bob").await, Err(AccountError::NoSuchAccount));
    assert_eq!(world.accounts.add(new("bob")).await, Err(AccountError::NameTaken));
}
