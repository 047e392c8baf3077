//! Accounts from elsewhere.

use proptest::prelude::*;

use crate::account::testing::{PASSWORD, World, client, registration, role, secret};
use crate::account::{AccountChange, AccountError, ImportUser, Imported};
use crate::settings::{Ids, LoginName};

/// Made by werkzeug 2.3: `generate_password_hash("correct horse", "pbkdf2:sha256:1000")` has this shape; the
/// value is nobody's.
const SLOW: &str = "pbkdf2:sha256:1000$salt$0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn line(username: &str) -> ImportUser {
    ImportUser {
        username: Some(username.to_owned()),
        password_hash: Some(secret(SLOW)),
        ..ImportUser::default()
    }
}

fn with_id(id: &str, username: &str) -> ImportUser {
    ImportUser { id: Some(id.to_owned()), ..line(username) }
}

async fn import(world: &World, lines: Vec<ImportUser>) -> Vec<Imported> {
    world.accounts.import(lines, false, false).await.unwrap()
}

fn codes(fates: &[Imported]) -> Vec<&str> {
    let word = |fate| match fate {
        &Imported::Created(_) => "created",
        &Imported::Unchanged(_) => "unchanged",
        Imported::Refused(why) => why.code,
    };
    fates.iter().map(word).collect()
}

#[tokio::test]
async fn an_imported_account_is_what_its_line_says() {
    let world = World::new();
    let given = ImportUser {
        email: Some("Al@example.com".to_owned()),
        email_verified: true,
        name: Some("Al".to_owned()),
        roles: Some(vec!["editor".to_owned()]),
        password: Some(secret("short")),
        password_hash: None,
        created_at: Some("2020-02-03 04:05:06.5".to_owned()),
        ..with_id("41", "Al")
    };
    let off = ImportUser { disabled: true, roles: Some(Vec::new()), ..line("admin") };
    assert_eq!(codes(&import(&world, vec![given, off]).await), ["created", "created"]);
    let al = world.accounts.show("al").await.unwrap();
    assert_eq!((al.id.as_str(), al.username.as_str(), al.name.as_deref()), ("41", "al", Some("Al")));
    assert_eq!(al.created_at.rfc3339_millis(), "2020-02-03T04:05:06.500Z");
    assert!(al.email_verified && !al.disabled);
    assert_eq!(al.granted_roles.into_iter().collect::<Vec<_>>(), [role("editor")]);
    let pair = world.try_login("al", "short").await.unwrap();
    assert_eq!(world.caller(&pair).id.as_str(), "41");
    let admin = world.accounts.show("admin").await.unwrap();
    assert!(admin.disabled && admin.granted_roles.is_empty());
}

#[tokio::test]
async fn a_line_that_cannot_be_is_named_and_the_others_are_imported() {
    let world = World::new();
    let hash = |text: &str| ImportUser { password_hash: Some(secret(text)), ..line("x") };
    let bad = [
        ("invalid_input", line("a b")),
        ("missing_username", ImportUser { username: None, ..line("x") }),
        ("invalid_input", with_id("a b", "x")),
        ("invalid_input", ImportUser { email: Some("nowhere".to_owned()), ..line("x") }),
        ("unknown_role", ImportUser { roles: Some(vec!["wizard".to_owned()]), ..line("x") }),
        ("missing_password", ImportUser { password_hash: None, ..line("x") }),
        ("invalid_input", ImportUser { password: Some(secret("p")), ..line("x") }),
        ("password_hash", hash("$9$unheard$of")),
        ("password_hash", hash("scrypt:1073741824:8:1$salt$00")),
        // Django's mark in the wrong column is nobody's password.
        (
            "password_hash",
            ImportUser {
                password: Some(secret(&format!("!{}", "x".repeat(40)))),
                password_hash: None,
                ..line("x")
            },
        ),
        // In the wrong column: who knew the hash could log in.
        ("password_hash", ImportUser { password: Some(secret(SLOW)), password_hash: None, ..line("x") }),
        ("invalid_input", ImportUser { created_at: Some("yesterday".to_owned()), ..line("x") }),
    ];
    let mut lines: Vec<_> = bad.iter().map(|(_, line)| line.clone()).collect();
    lines.push(line("good"));
    let fates = import(&world, lines.clone()).await;
    let mut expected: Vec<_> = bad.iter().map(|(code, _)| *code).collect();
    expected.push("created");
    assert_eq!(codes(&fates), expected);
    let why = format!("{fates:?}");
    assert!(!why.contains("unheard") && !why.contains("0123456789abcdef"), "{why}");
    assert_eq!(world.accounts.list(None, 10).await.unwrap().len(), 1);
    // Where it shall stop, nothing after the first is looked at.
    let fates = world.accounts.import(lines.into_iter().rev().collect(), false, true).await.unwrap();
    assert_eq!(codes(&fates), ["unchanged", "invalid_input"]);
}

#[tokio::test]
async fn nobody_gets_the_account_of_a_line_by_its_name() {
    let world = World::new();
    world.register("bob").await;
    let fates = import(&world, vec![line("Bob"), with_id("7", "bob"), with_id("8", "eve")]).await;
    assert_eq!(codes(&fates), ["name_taken", "name_taken", "created"]);
    // And who was imported keeps the name.
    let taken = world.accounts.register(registration("EVE"), &client("192.0.2.1")).await;
    assert_eq!(taken, Err(AccountError::NameTaken));
    assert!(world.try_login("bob", PASSWORD).await.is_ok(), "bob is who registered");
    // Another id, another name, a name of before, an address of another: each is somebody else.
    world.accounts.remove("bob").await.unwrap();
    let address = |name: &str| ImportUser { email: Some("e@example.com".to_owned()), ..line(name) };
    let lines = vec![
        with_id("8", "mallory"),
        with_id("9", "eve"),
        line("bob"),
        address("fay"),
        ImportUser { email: Some("E@example.com".to_owned()), ..line("gus") },
    ];
    let fates = import(&world, lines).await;
    assert_eq!(codes(&fates), ["id_taken", "name_taken", "name_taken", "created", "email_taken"]);
}

#[tokio::test]
async fn what_has_changed_since_is_not_undone() {
    let world = World::new();
    let given = ImportUser { password: Some(secret(PASSWORD)), password_hash: None, ..line("al") };
    import(&world, vec![given.clone(), line("bo")]).await;
    world.accounts.set_password("al", &secret("another horse")).await.unwrap();
    world.accounts.disable("bo").await.unwrap();
    let before = world.contents();
    assert_eq!(codes(&import(&world, vec![given, line("bo")]).await), ["unchanged", "unchanged"]);
    assert_eq!(world.contents(), before);
}

#[tokio::test]
async fn a_dry_run_says_the_same_and_changes_nothing() {
    let world = World::new();
    world.register("bob").await;
    let before = world.contents();
    let lines = vec![line("al"), line("bob"), with_id("5", "x")];
    let fates = world.accounts.import(lines, true, false).await.unwrap();
    assert_eq!(codes(&fates), ["created", "name_taken", "created"]);
    assert_eq!(world.contents(), before);
}

#[tokio::test]
async fn with_stop_nothing_behind_a_refused_line_is_made() {
    let world = World::new();
    world.register("emil").await;
    world.accounts.remove("emil").await.unwrap();
    let lines = ["dora", "emil", "fritz", "gina"].map(line).to_vec();
    let fates = world.accounts.import(lines, false, true).await.unwrap();
    assert_eq!(codes(&fates), ["created", "name_taken"]);
    let names = world.accounts.export(None, 10).await.unwrap().into_iter().filter_map(|made| made.username);
    assert_eq!(names.map(|name| name.to_string()).collect::<Vec<_>>(), ["dora"]);
}

#[tokio::test]
async fn a_dry_run_knows_who_was_here_before() {
    let world = World::new();
    world.register("emil").await;
    let gone = world.accounts.remove("emil").await;
    assert!(gone.is_ok());
    world.register("old-name").await;
    let renamed = AccountChange { username: Some("new-name".to_owned()), ..AccountChange::default() };
    world.accounts.set("old-name", &renamed).await.unwrap();
    let taken = world.accounts.show("new-name").await.unwrap().id;
    let lines: Vec<_> = ["dora", "emil", "old-name", taken.as_str()].map(line).to_vec();
    for stop in [false, true] {
        let before = world.contents();
        let said = world.accounts.import(lines.clone(), true, stop).await.unwrap();
        assert_eq!(world.contents(), before);
        let expected = ["created", "name_taken", "name_taken", "name_taken"];
        assert_eq!(codes(&said), expected[..if stop { 2 } else { 4 }]);
    }
    let done = world.accounts.import(lines, false, false).await.unwrap();
    assert_eq!(codes(&done), ["created", "name_taken", "name_taken", "name_taken"]);
}

#[tokio::test]
async fn fast_hashes_are_never_stored() {
    let world = World::new();
    let sha = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
    let given = ImportUser { password_hash: Some(secret(sha)), ..line("al") };
    assert_eq!(codes(&import(&world, vec![given.clone()]).await), ["created"]);
    assert!(!world.contents().contains("W6ph5Mm5Pz8GgiULbPgzG37mj9g"));
    assert!(world.try_login("al", "password").await.is_ok());
    assert_eq!(codes(&import(&world, vec![given]).await), ["unchanged"]);
}

#[tokio::test]
async fn who_has_no_password_logs_in_when_an_operator_has_set_one() {
    let world = World::with(|s| s.auth.throttle.failures = 0);
    let marks = ["", "!", "!WxTfqBB7Ln0mY2H3c0", "*"];
    let given = |(place, mark): (usize, &&str)| ImportUser {
        password_hash: Some(secret(mark)),
        ..line(&format!("user{place}"))
    };
    let lines: Vec<_> = marks.iter().enumerate().map(given).collect();
    assert_eq!(codes(&import(&world, lines.clone()).await), ["created"; 4]);
    assert_eq!(codes(&import(&world, lines).await), ["unchanged"; 4]);
    world.register("new").await;
    let mut price = None;
    for name in ["nobody", "new", "user0", "user1", "user2", "user3"] {
        for typed in ["wrong", "!", "*", "", "!WxTfqBB7Ln0mY2H3c0"] {
            let before = world.accounts.hasher.done();
            assert_eq!(world.try_login(name, typed).await.err(), Some(AccountError::Credentials), "{name}");
            let spent = world.accounts.hasher.done().less(&before);
            assert_eq!(*price.get_or_insert(spent), spent, "{name} with {typed:?}");
        }
    }
    world.accounts.set_password("user2", &secret("a horse at last")).await.unwrap();
    assert!(world.try_login("user2", "a horse at last").await.is_ok());
    let exported = world.accounts.export(None, 10).await.unwrap();
    let without = exported.iter().filter(|account| account.password.phc() == "!");
    assert_eq!(without.count(), 3);
}

#[tokio::test]
async fn numbers_go_on_after_the_imported_ones() {
    let world = World::with(|settings| settings.auth.ids = Ids::Sequence);
    import(&world, vec![with_id("41", "al"), with_id("7", "bo"), line("cy")]).await;
    assert_eq!(world.accounts.show("cy").await.unwrap().id.as_str(), "42");
    assert_eq!(world.register("di").await.id.as_str(), "43");
    let pair = world.login("di").await;
    assert_eq!(world.caller(&pair).id.as_str(), "43");
}

#[tokio::test]
async fn where_people_log_in_with_addresses_they_are_known_by_them() {
    let world = World::with(|settings| settings.auth.login_name = LoginName::Email);
    let address = |text: &str| ImportUser { username: None, email: Some(text.to_owned()), ..line("x") };
    let both = ImportUser { email: Some("a@example.com".to_owned()), ..line("al") };
    let lines = vec![line("b@example.com"), address("c@example.com"), both, line("al")];
    let fates = import(&world, lines.clone()).await;
    assert_eq!(codes(&fates), ["created", "created", "invalid_input", "invalid_input"]);
    assert_eq!(codes(&import(&world, lines).await)[..2], ["unchanged", "unchanged"]);
}

#[tokio::test]
async fn an_export_is_an_import_elsewhere_and_nothing_new_at_home() {
    let world = World::new();
    world.register("bob").await;
    import(&world, vec![with_id("41", "al"), line("cy")]).await;
    let out = |account: crate::store::Account| ImportUser {
        id: Some(account.id.to_string()),
        username: account.username.map(|name| name.to_string()),
        email: account.email.map(|email| email.to_string()),
        email_verified: account.email_verified,
        name: account.name,
        roles: Some(account.roles.iter().map(ToString::to_string).collect()),
        password_hash: Some(String::from(account.password).into()),
        password: None,
        disabled: account.disabled,
        generation: account.generation,
        origin: Some(account.origin),
        created_at: Some(account.created_at.rfc3339_millis()),
    };
    let lines: Vec<_> = world.accounts.export(None, 10).await.unwrap().into_iter().map(out).collect();
    assert_eq!(codes(&import(&world, lines.clone()).await), ["unchanged"; 3]);
    let other = World::new();
    assert_eq!(codes(&import(&other, lines).await), ["created"; 3]);
    assert!(other.try_login("bob", PASSWORD).await.is_ok());
    assert_eq!(other.accounts.show("al").await.unwrap().id.as_str(), "41");
    // A number that a gateway gave does not become one of the app's on the way.
    let there = other.accounts.export(None, 10).await.unwrap();
    let given: Vec<_> =
        there.iter().filter(|account| account.origin.brought_its_id()).map(|it| it.id.as_str()).collect();
    assert_eq!(given, ["41"]);
}

fn drawn() -> impl Strategy<Value = ImportUser> {
    let maybe = |words: &'static [&'static str]| {
        proptest::option::of(proptest::sample::select(words)).prop_map(|word| word.map(str::to_owned))
    };
    let hash = proptest::sample::select(&[SLOW, "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "rubbish", ""][..]);
    let names = maybe(&["al", "AL", "bo", "cy", "1", "a b"]);
    let emails = maybe(&["a@example.com", "A@example.com", "b@example.com", "b"]);
    (maybe(&["1", "2", "3", "é"]), names, emails, any::<bool>(), hash).prop_map(
        |(id, username, email, disabled, hash)| ImportUser {
            id,
            username,
            email,
            disabled,
            password_hash: Some(secret(hash)),
            ..ImportUser::default()
        },
    )
}

fn has_namesake(lines: &[ImportUser], place: usize) -> bool {
    let name = |line: &ImportUser| line.username.as_ref().map(|name| name.to_lowercase());
    let same = |line: &&ImportUser| name(line) == name(&lines[place]);
    lines.iter().filter(same).count() > 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn importing_twice_is_importing_once(
        lines in proptest::collection::vec(drawn(), 1..12),
        cut in any::<proptest::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            // Interrupted somewhere, then run again from the start, each line a batch of its own, as different
            // as it can be.
            let cut = cut.index(lines.len());
            import(&world, lines[..cut].to_vec()).await;
            let mut first = Vec::new();
            for line in &lines {
                first.extend(import(&world, vec![line.clone()]).await);
            }
            let before = world.contents();
            let again = import(&world, lines.clone()).await;
            assert_eq!(world.contents(), before, "nothing is done twice");
            for (place, (first, again)) in first.iter().zip(&again).enumerate() {
                match (first, again) {
                    (Imported::Created(Some(id)), Imported::Unchanged(found)) => assert_eq!(id, found),
                    (Imported::Unchanged(one), Imported::Unchanged(other)) => assert_eq!(one, other),
                    (Imported::Refused(_), Imported::Refused(_)) => {}
                    // The name's account is another line's; a file with both has the second one refused.
                    (Imported::Refused(_), Imported::Unchanged(_)) if has_namesake(&lines, place) => {}
                    other => panic!("{other:?}"),
                }
            }
        });
    }
}
