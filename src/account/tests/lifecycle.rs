//! What a user can do, one after the other.

use std::time::Duration;

use crate::account::testing::{PASSWORD, World, client, registration, role, secret};
use crate::account::{AccountError, ProfileChange, Registration};
use crate::clock::Clock as _;
use crate::metrics::{RefreshResult, TokenType};
use crate::settings::{LoginName, Registration as Registering, UsernameRules};

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_registered_user_logs_in_and_the_token_says_who_it_is() {
    let world = World::new();
    let account = world.register("Alice").await;
    assert_eq!((account.username.as_str(), account.email_verified), ("alice", false));
    assert_eq!(account.roles, [role("user")]);

    let pair = world.login("ALICE").await;
    let token = world.accepted(&pair.access).expect("accepted");
    assert_eq!(token.principal.id, account.id);
    assert_eq!(&*token.principal.username, "alice");
    assert_eq!(*token.amr, ["pwd".to_owned()]);
    assert_eq!(pair.access_expires_at.since(pair.issued_at), 15 * MINUTE);
    assert_eq!(pair.refresh_expires_at.since(pair.issued_at), Duration::from_hours(720));
    assert_eq!(world.metrics.tokens_issued.of(TokenType::Refresh).value(), 1);
    let sessions = world.accounts.sessions(&token.principal).await.unwrap();
    assert_eq!((sessions[0].client.as_str(), sessions[0].address.as_str()), ("test/1", "192.0.2.1"));
    assert!(sessions[0].current);
}

#[tokio::test]
async fn a_registration_that_breaks_rules_is_told_everything_and_stores_nothing() {
    let world = World::new();
    world.register("taken").await;
    let before = world.contents();
    let bad = Registration {
        username: Some("a b".to_owned()),
        email: Some("nowhere".to_owned()),
        name: Some("a\u{202e}b".to_owned()),
        password: Some(secret("short")),
    };
    let Err(AccountError::Invalid(errors)) = world.accounts.register(bad, &client("192.0.2.1")).await else {
        panic!("refused as invalid");
    };
    let told: Vec<_> = errors.iter().map(|e| (e.field, e.code)).collect();
    let expected =
        [("username", "invalid"), ("email", "invalid"), ("name", "invalid"), ("password", "too_short")];
    assert_eq!(told, expected);
    for (username, refusal) in [("TAKEN", AccountError::NameTaken), ("Admin", AccountError::NameTaken)] {
        let result = world.accounts.register(registration(username), &client("192.0.2.1")).await;
        assert_eq!(result, Err(refusal), "{username}");
    }
    assert_eq!(world.contents(), before);
}

#[tokio::test]
async fn an_address_belongs_to_one_account() {
    let world = World::new();
    let with = |name: &str, email: &str| Registration { email: Some(email.to_owned()), ..registration(name) };
    world.accounts.register(with("a", "x@Example.com"), &client("192.0.2.1")).await.unwrap();
    let second = world.accounts.register(with("b", "X@example.com"), &client("192.0.2.1")).await;
    assert_eq!(second, Err(AccountError::EmailTaken));
    assert!(world.try_login("X@EXAMPLE.com", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn closed_registration_is_closed() {
    let world = World::with(|s| s.auth.registration = Registering::Closed);
    let result = world.accounts.register(registration("alice"), &client("192.0.2.1")).await;
    assert_eq!(result, Err(AccountError::RegistrationClosed));
}

#[tokio::test]
async fn unicode_names_are_one_in_all_spellings() {
    let world = World::with(|s| s.auth.usernames = UsernameRules::Unicode);
    assert_eq!(world.register("ÄNNE").await.username, "änne");
    assert!(world.try_login("a\u{308}nne", PASSWORD).await.is_ok());
    let again = world.accounts.register(registration("Änne"), &client("192.0.2.1")).await;
    assert_eq!(again, Err(AccountError::NameTaken));
}

#[tokio::test]
async fn an_account_without_username_is_its_id_until_the_address_is_proved() {
    let world = World::with(|s| s.auth.login_name = LoginName::Email);
    let new =
        || Registration { username: None, email: Some("Bo@Example.com".to_owned()), ..registration("") };
    let named = Registration { username: Some("bo".to_owned()), ..new() };
    assert!(matches!(
        world.accounts.register(named, &client("192.0.2.1")).await,
        Err(AccountError::Invalid(_))
    ));
    let account = world.accounts.register(new(), &client("192.0.2.1")).await.unwrap();
    assert_eq!(account.username, account.id.to_string());
    assert_eq!(*world.caller(&world.login("bo@example.com").await).username, account.id.to_string());

    let proved = crate::account::AccountChange {
        email: Some(Some("Bo@Example.com".to_owned())),
        ..Default::default()
    };
    world.accounts.set(account.id.as_str(), &proved).await.unwrap();
    assert_eq!(&*world.caller(&world.login("bo@example.com").await).username, "bo@example.com");
}

#[tokio::test]
async fn whatever_is_no_name_and_its_password_gets_one_answer_at_one_price() {
    let world = World::with(|s| s.auth.throttle.failures = 0);
    world.register("alice").await;
    world.register("off").await;
    world.accounts.disable("off").await.unwrap();
    let long = "x".repeat(10_000);
    let mut price = None;
    for (name, password) in [
        ("alice", "wrong"),
        ("nobody", "wrong"),
        ("off", "wrong"),
        ("\0\u{202e}", "wrong"),
        ("", ""),
        ("a@b", "x"),
    ] {
        let before = world.accounts.hasher.done();
        assert_eq!(world.try_login(name, password).await.err(), Some(AccountError::Credentials), "{name:?}");
        let spent = world.accounts.hasher.done().less(&before);
        assert_eq!(*price.get_or_insert(spent), spent, "{name:?}");
    }
    for name in ["alice", "nobody"] {
        let before = world.accounts.hasher.done();
        assert_eq!(world.try_login(name, &long).await.err(), Some(AccountError::Credentials));
        assert_eq!(world.accounts.hasher.done(), before, "too long for any password");
    }
}

#[tokio::test]
async fn only_who_knows_the_password_learns_that_an_account_is_disabled() {
    let world = World::new();
    world.register("alice").await;
    let pair = world.login("alice").await;
    world.accounts.disable("alice").await.unwrap();
    assert_eq!(world.try_login("alice", PASSWORD).await.err(), Some(AccountError::Disabled));
    assert_eq!(world.try_login("alice", "wrong").await.err(), Some(AccountError::Credentials));
    assert!(world.accepted(&pair.access).is_none());
    assert_eq!(world.refresh(&pair).await.err(), Some(AccountError::RefreshToken));
    world.accounts.enable("alice").await.unwrap();
    assert!(world.accepted(&world.login("alice").await.access).is_some());
}

#[tokio::test]
async fn refreshing_rotates_and_a_spent_token_ends_the_session() {
    let world = World::new();
    world.register("alice").await;
    let first = world.login("alice").await;
    world.clock.advance(MINUTE);
    let second = world.refresh(&first).await.unwrap();
    assert_ne!(first.refresh, second.refresh);
    let again = world.refresh(&first).await.unwrap();
    assert_eq!(again.refresh, second.refresh, "within the grace the same child");
    assert_ne!(again.access, second.access);

    world.clock.advance(MINUTE);
    assert_eq!(world.refresh(&first).await.err(), Some(AccountError::RefreshReused));
    assert_eq!(world.refresh(&second).await.err(), Some(AccountError::RefreshToken));
    for pair in [&first, &second, &again] {
        assert!(world.accepted(&pair.access).is_none());
    }
    for (result, count) in [
        (RefreshResult::Rotated, 1),
        (RefreshResult::Repeated, 1),
        (RefreshResult::Reused, 1),
        (RefreshResult::Refused, 1),
    ] {
        assert_eq!(world.metrics.refreshes.of(result).value(), count, "{result:?}");
    }
}

#[tokio::test]
async fn refresh_tokens_run_out_and_so_does_the_session() {
    let world = World::with(|s| {
        s.tokens.refresh_ttl = 10 * MINUTE;
        s.tokens.session_ttl = 25 * MINUTE;
    });
    world.register("alice").await;
    let idle = world.login("alice").await;
    world.clock.advance(10 * MINUTE);
    assert_eq!(world.refresh(&idle).await.err(), Some(AccountError::RefreshToken));

    let mut pair = world.login("alice").await;
    for left in [10, 7] {
        world.clock.advance(9 * MINUTE);
        pair = world.refresh(&pair).await.unwrap();
        assert_eq!(pair.refresh_expires_at.since(world.clock.now()), left * MINUTE);
    }
    world.clock.advance(7 * MINUTE);
    assert_eq!(world.refresh(&pair).await.err(), Some(AccountError::RefreshToken));
}

#[tokio::test]
async fn what_is_no_refresh_token_of_ours_is_refused() {
    let world = World::new();
    world.register("alice").await;
    let pair = world.login("alice").await;
    let mut forged = pair.refresh.expose().clone();
    forged.pop();
    for text in ["", "gpr_", "x", forged.as_str(), pair.access.expose().as_str(), "gpr_\0"] {
        let result = world.accounts.refresh(text, &client("192.0.2.1")).await;
        assert_eq!(result.err(), Some(AccountError::RefreshToken));
    }
    assert!(world.refresh(&pair).await.is_ok());
}

#[tokio::test]
async fn logging_out_ends_the_session_by_either_token() {
    let world = World::new();
    world.register("alice").await;
    let from = client("192.0.2.1");
    for (by_access, by_refresh) in [(true, false), (false, true), (true, true)] {
        let (pair, other) = (world.login("alice").await, world.login("alice").await);
        let token = world.token(&pair);
        let access = by_access.then_some(&token);
        let refresh = by_refresh.then_some(pair.refresh.expose().as_str());
        world.accounts.logout(access, refresh, &from).await.unwrap();
        assert!(world.accepted(&pair.access).is_none());
        assert_eq!(world.refresh(&pair).await.err(), Some(AccountError::RefreshToken));
        assert!(world.accepted(&other.access).is_some(), "other sessions go on");
    }
}

#[tokio::test]
async fn tokens_of_two_sessions_end_neither() {
    let world = World::new();
    world.register("alice").await;
    let (one, two) = (world.login("alice").await, world.login("alice").await);
    let token = world.token(&one);
    let result = world.accounts.logout(Some(&token), Some(two.refresh.expose()), &client("192.0.2.1")).await;
    assert_eq!(result, Err(AccountError::DifferentSessions));
    assert!(world.refresh(&one).await.is_ok() && world.refresh(&two).await.is_ok());
}

#[tokio::test]
async fn a_logout_holds_over_a_restart() {
    let world = World::new();
    world.register("alice").await;
    let pair = world.login("alice").await;
    world.accounts.logout(Some(&world.token(&pair)), None, &client("192.0.2.1")).await.unwrap();
    let world = world.restarted(|_| ());
    assert!(world.accepted(&pair.access).is_none());
}

#[tokio::test]
async fn logging_out_everywhere_ends_every_session_and_token() {
    let world = World::new();
    world.register("alice").await;
    let pairs = [world.login("alice").await, world.login("alice").await];
    let caller = world.caller(&pairs[0]);
    assert_eq!(world.accounts.logout_all(&caller, &client("192.0.2.1")).await, Ok(2));
    for pair in &pairs {
        assert!(world.accepted(&pair.access).is_none());
        assert!(world.refresh(pair).await.is_err());
    }
    let again = world.accounts.logout_all(&caller, &client("192.0.2.1")).await;
    assert_eq!(again, Err(AccountError::CallerRevoked));
    assert!(world.accepted(&world.login("alice").await.access).is_some());
}

#[tokio::test]
async fn the_oldest_session_goes_when_there_are_too_many() {
    let world = World::with(|s| s.auth.sessions_per_user = 2);
    world.register("alice").await;
    let mut pairs = Vec::new();
    for _ in 0..3 {
        pairs.push(world.login("alice").await);
        world.clock.advance(Duration::from_secs(1));
    }
    assert!(world.accepted(&pairs[0].access).is_none());
    assert!(world.refresh(&pairs[0]).await.is_err());
    assert_eq!(world.accounts.sessions(&world.caller(&pairs[2])).await.unwrap().len(), 2);
    assert!(world.accepted(&pairs[1].access).is_some());
}

#[tokio::test]
async fn one_ends_ones_own_sessions_and_nobody_elses() {
    let world = World::new();
    world.register("alice").await;
    world.register("bob").await;
    let (mine, other, theirs) =
        (world.login("alice").await, world.login("alice").await, world.login("bob").await);
    let caller = world.caller(&mine);
    let from = client("192.0.2.1");
    let end = |pair| world.accounts.end_session(&caller, world.caller(pair).session, &from);
    assert_eq!(end(&theirs).await, Err(AccountError::NoSuchSession));
    let sid = world.caller(&other).session;
    end(&other).await.unwrap();
    assert!(world.accepted(&other.access).is_none() && world.accepted(&theirs.access).is_some());
    let again = world.accounts.end_session(&caller, sid, &client("192.0.2.1")).await;
    assert_eq!(again, Err(AccountError::NoSuchSession));
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions_and_this_one_goes_on() {
    let world = World::new();
    world.register("alice").await;
    let (mine, other) = (world.login("alice").await, world.login("alice").await);
    let (caller, from) = (world.caller(&mine), client("192.0.2.1"));
    let change = |current: &str, new: &str| {
        let (current, new) = (secret(current), secret(new));
        let (world, caller, from) = (&world, &caller, &from);
        async move { world.accounts.change_password(caller, &current, &new, from).await.map(|f| f.access) }
    };
    assert_eq!(change("wrong", "another horse").await, Err(AccountError::Credentials));
    assert!(matches!(change(PASSWORD, "short").await, Err(AccountError::Invalid(_))));
    assert!(world.accepted(&other.access).is_some(), "nothing has changed so far");

    let fresh = change(PASSWORD, "another horse").await.unwrap();
    assert!(world.accepted(&fresh).is_some_and(|token| token.principal.session == caller.session));
    assert!(world.accepted(&mine.access).is_none() && world.accepted(&other.access).is_none());
    assert!(world.refresh(&mine).await.is_ok());
    assert_eq!(world.refresh(&other).await.err(), Some(AccountError::RefreshToken));
    assert_eq!(world.try_login("alice", PASSWORD).await.err(), Some(AccountError::Credentials));
    assert!(world.try_login("alice", "another horse").await.is_ok());
    assert_eq!(
        change("another horse", "third horse").await,
        Err(AccountError::CallerRevoked),
        "an old token"
    );
}

#[tokio::test]
async fn a_new_address_needs_the_password_and_is_not_proved() {
    let world = World::new();
    world.register("alice").await;
    let caller = world.caller(&world.login("alice").await);
    let update = |email: Option<&str>, password: Option<&str>, name: Option<&str>| {
        let change = ProfileChange {
            name: name.map(|n| Some(n.to_owned())),
            email: email.map(|e| Some(e.to_owned())),
            current_password: password.map(secret),
        };
        let (world, caller) = (&world, &caller);
        async move { world.accounts.update_me(caller, change, &client("192.0.2.1")).await }
    };
    assert!(matches!(update(Some("a@b.de"), None, None).await, Err(AccountError::Invalid(_))));
    assert_eq!(update(Some("a@b.de"), Some("wrong"), None).await, Err(AccountError::Credentials));
    let changed = update(Some("a@b.de"), Some(PASSWORD), Some("Alice")).await.unwrap();
    assert_eq!(changed.email.map(|e| e.to_string()).as_deref(), Some("a@b.de"));
    assert!(!changed.email_verified);
    let named = update(None, None, Some("Alice A.")).await.unwrap();
    assert_eq!(named.name.as_deref(), Some("Alice A."));
    assert_eq!(world.accounts.me(&caller).await.unwrap(), named);
    assert_eq!(world.caller(&world.login("a@b.de").await).id, caller.id);
}

#[tokio::test]
async fn a_removed_account_is_gone_and_its_name_stays_taken() {
    let world = World::new();
    world.register("alice").await;
    let pair = world.login("alice").await;
    let (caller, from) = (world.caller(&pair), client("192.0.2.1"));
    let wrong = world.accounts.delete_me(&caller, &secret("wrong"), &from).await;
    assert_eq!(wrong, Err(AccountError::Credentials));
    world.accounts.delete_me(&caller, &secret(PASSWORD), &from).await.unwrap();
    assert!(world.accepted(&pair.access).is_none());
    assert_eq!(world.refresh(&pair).await.err(), Some(AccountError::RefreshToken));
    assert_eq!(world.try_login("alice", PASSWORD).await.err(), Some(AccountError::Credentials));
    assert_eq!(world.accounts.register(registration("alice"), &from).await, Err(AccountError::NameTaken));
    assert_eq!(world.accounts.me(&caller).await, Err(AccountError::CallerRevoked));
}

#[tokio::test]
async fn a_password_is_hashed_again_at_login_when_the_parameters_changed() {
    let world = World::new();
    world.register("alice").await;
    let world = world.restarted(|s| s.auth.password.memory_kib = 16);
    let phc = || world.contents();
    assert!(phc().contains("m=8,t=1,p=1"));
    world.login("alice").await;
    assert!(phc().contains("m=16,t=1,p=1") && !phc().contains("m=8,t=1,p=1"));
    world.login("alice").await;
}
