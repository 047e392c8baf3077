//! Others have a say: what becomes of it when the store fails, the clock moves on, or somebody is faster.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::account::testing::{PASSWORD, World, client, registration, secret};
use crate::account::{
    AccountError, Admission, Admitted, Applicant, Asked, Migration, NoAnswer, Outside, ProfileChange, Vouch,
};
use crate::secret::Secret;
use crate::settings::{LoginName, LoginTemplate, MigrateSettings, Settings};
use crate::store::{AccountKey, Change, EventKind, Origin, Store as _, StoreError};
use crate::token::testing::now;

/// Says the same to everybody, and counts.
struct App {
    vouch: Mutex<Result<Vouch, NoAnswer>>,
    asked: AtomicUsize,
}

impl App {
    fn saying(vouch: Result<Vouch, NoAnswer>) -> Arc<Self> {
        Arc::new(Self { vouch: Mutex::new(vouch), asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Migration for App {
    fn vouch<'a>(&'a self, _: &'a str, _: &'a Secret<String>, _: IpAddr) -> Asked<'a, Vouch> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.vouch.lock().unwrap().clone();
        Box::pin(async move { answer })
    }
}

impl Admission for App {
    fn admit<'a>(&'a self, _: Applicant<'a>) -> Asked<'a, Admitted> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.vouch.lock().unwrap().clone();
        Box::pin(async move {
            answer.map(|vouch| if vouch == Vouch::No { Admitted::No(None) } else { Admitted::Yes })
        })
    }
}

/// For an hour from now on.
fn migrate(settings: &mut Settings) {
    settings.auth.migrate = Some(MigrateSettings {
        url: "http://app/login".parse().unwrap(),
        body: LoginTemplate::Form(Vec::new()),
        ok_status: vec![200],
        id: None,
        until: now().secs() + 3600,
        timeout: Duration::from_secs(1),
    });
}

fn migrating(app: &Arc<App>) -> World {
    let migration: Arc<dyn Migration> = Arc::clone(app) as Arc<_>;
    World::with_outside(Outside { migration: Some(migration), ..Outside::default() }, migrate)
}

#[tokio::test]
async fn the_end_date_is_an_end() {
    let app = App::saying(Ok(Vouch::Yes(None)));
    let world = migrating(&app);
    assert!(world.try_login("alice", "short").await.is_ok(), "no rule for new passwords");
    world.clock.advance(Duration::from_hours(1));
    assert_eq!(world.try_login("bob", PASSWORD).await.err(), Some(AccountError::Credentials));
    assert_eq!(app.asked(), 1);
    assert!(world.try_login("alice", "short").await.is_ok(), "who has moved stays");
}

#[tokio::test]
async fn addresses_do_not_change_while_accounts_move_in_and_nobody_else_is_asked() {
    let world = migrating(&App::saying(Ok(Vouch::Yes(None))));
    let pair = world.try_login("alice", PASSWORD).await.unwrap();
    let change = ProfileChange {
        name: None,
        email: Some(Some("victim@example.com".to_owned())),
        current_password: Some(secret(PASSWORD)),
    };
    let refused = world.accounts.update_me(&world.caller(&pair), change, &client("192.0.2.1")).await;
    assert!(matches!(refused, Err(AccountError::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn a_yes_that_cannot_be_kept_makes_no_account() {
    let app = App::saying(Ok(Vouch::Yes(None)));
    let world = migrating(&app);
    let fault = || StoreError::Unavailable("gone".to_owned());
    // At the look-up, at the commit, and at reading it back.
    for call in 0..3 {
        world.store.fail_from(call, fault());
        let refused = world.try_login("alice", PASSWORD).await.err();
        assert_eq!(refused, Some(AccountError::Store(fault())), "{call}");
        assert!(world.store.heal());
        assert_eq!(world.store_is_empty(), call < 2, "{call}");
    }
    assert!(world.try_login("alice", PASSWORD).await.is_ok());
    assert_eq!(world.try_login("alice", "another").await.err(), Some(AccountError::Credentials));
}

#[tokio::test]
async fn without_an_answer_there_is_neither_account_nor_failure() {
    let app = App::saying(Err(NoAnswer));
    let world = migrating(&app);
    for _ in 0..20 {
        let refused = world.try_login("alice", PASSWORD).await.err();
        assert_eq!(refused, Some(AccountError::MigrationUnavailable));
    }
    assert!(world.store_is_empty());
    // None of these was a wrong password.
    *app.vouch.lock().unwrap() = Ok(Vouch::Yes(None));
    assert!(world.try_login("alice", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn what_no_account_could_keep_is_not_asked_about() {
    let app = App::saying(Ok(Vouch::Yes(None)));
    let world = migrating(&app);
    for name in ["admin", "ADMIN", "a b", "x@", ""] {
        assert_eq!(world.try_login(name, PASSWORD).await.err(), Some(AccountError::Credentials), "{name}");
    }
    let long = "x".repeat(300);
    assert_eq!(world.try_login("alice", &long).await.err(), Some(AccountError::Credentials));
    assert_eq!(app.asked(), 0);
    assert!(world.store_is_empty());
    // One person may have an address and a name there.
    assert_eq!(world.try_login("A@b.de", PASSWORD).await.err(), Some(AccountError::Credentials));
    assert_eq!(app.asked(), 0);
    assert!(world.store_is_empty());
    // Where addresses are the names, they are like any other; nobody has proved them.
    let migration: Arc<dyn Migration> = Arc::clone(&app) as Arc<_>;
    let outside = Outside { migration: Some(migration), ..Outside::default() };
    let world = World::with_outside(outside, |settings| {
        migrate(settings);
        settings.auth.login_name = LoginName::Email;
    });
    assert_eq!(world.try_login("alice", PASSWORD).await.err(), Some(AccountError::Credentials));
    assert_eq!(app.asked(), 0);
    let pair = world.try_login("A@b.de", PASSWORD).await.unwrap();
    let caller = world.caller(&pair);
    assert!(!caller.email.unwrap().verified);
}

#[tokio::test]
async fn who_comes_with_the_id_of_somebody_else_is_nobody() {
    let app = App::saying(Ok(Vouch::Yes(Some("7".parse().unwrap()))));
    let world = migrating(&app);
    let pair = world.try_login("alice", PASSWORD).await.unwrap();
    let alice = world.caller(&pair).id;
    assert_eq!(alice.as_str(), "7");
    let kept = world.store.account(AccountKey::Id(alice)).await.unwrap().unwrap();
    assert_eq!(kept.origin, Origin::MigratedWithId, "the app means it by that number");
    // The same id under another name: one of the two has to be wrong.
    let before = world.contents();
    assert_eq!(world.try_login("bob", PASSWORD).await.err(), Some(AccountError::MigrationUnavailable));
    assert_eq!(world.contents(), before);
    assert!(world.try_login("alice", PASSWORD).await.is_ok());
    // An id of somebody who is gone is nobody's, whatever they are called by now.
    world.accounts.remove("alice").await.unwrap();
    for name in ["alice", "alicia"] {
        assert_eq!(world.try_login(name, PASSWORD).await.err(), Some(AccountError::Credentials), "{name}");
    }
    assert!(world.store_is_empty());
}

#[tokio::test]
async fn nobody_registers_without_an_answer_and_no_password_is_hashed_for_a_no() {
    for (answer, expected) in [
        (Err(NoAnswer), AccountError::AdmissionUnavailable),
        (Ok(Vouch::No), AccountError::NotAdmitted(None)),
    ] {
        let app = App::saying(answer);
        let admission: Arc<dyn Admission> = Arc::clone(&app) as Arc<_>;
        let outside = Outside { admission: Some(admission), ..Outside::default() };
        let world = World::with_outside(outside, |_| ());
        let before = world.accounts.hasher.done();
        let refused = world.accounts.register(registration("alice"), &client("192.0.2.1")).await;
        assert_eq!(refused.err(), Some(expected));
        assert_eq!((app.asked(), world.accounts.hasher.done()), (1, before));
        assert!(world.store_is_empty());
    }
}

#[tokio::test]
async fn what_is_refused_is_not_told_and_what_is_done_is() {
    let outside = Outside { is_told: true, ..Outside::default() };
    let world = World::with_outside(outside, |_| ());
    world.store.fail_from(1, StoreError::Unavailable("gone".to_owned()));
    assert!(world.accounts.register(registration("alice"), &client("192.0.2.1")).await.is_err());
    assert!(world.store.heal());
    assert_eq!(world.store.outbox(0, 9).await.unwrap().pending, 0);
    world.register("alice").await;
    world.store.more_in_outbox().notified().await;
    let pair = world.login("alice").await;
    let caller = world.caller(&pair);
    // Sessions come and go, passwords change: nothing that the app could see.
    let new = secret("another password");
    let (old, from) = (secret(PASSWORD), client("192.0.2.1"));
    world.accounts.change_password(&caller, &old, &new, &from).await.unwrap();
    world.accounts.end_all_sessions("alice").await.unwrap();
    world.accounts.disable("alice").await.unwrap();
    let events = world.store.outbox(0, 9).await.unwrap().events;
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Created, EventKind::Disabled]);
    world.store.commit(vec![Change::Told { number: 0 }]).await.unwrap();
    assert_eq!(world.store.outbox(0, 9).await.unwrap().pending, 1);
}
