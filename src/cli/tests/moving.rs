//! What goes out of one installation and into another.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{FILE, HASH, Site};
use crate::clock::Timestamp;
use crate::settings::StoreSettings;
use crate::store::sled::SledStore;
use crate::store::{Account, Change, Origin, PasswordHash, Store as _, StoreOptions};

/// The last millisecond of the year 9999.
const LATEST: u64 = 253_402_300_799_999;

/// What is drawn of an account; ids, names and addresses are told apart by its place.
fn drawn() -> impl Strategy<Value = Account> {
    let id = proptest::sample::select(&["", "x-", "a,\"b\";'|", "550e8400-e29b-41d4-a716-"][..]);
    let hash = proptest::sample::select(
        &[HASH, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c29tZWhhc2hzb21laGFzaA"][..],
    );
    let name = proptest::option::of("[ -~é🦀]{0,20}[!-~é]");
    let roles = proptest::collection::btree_set(proptest::sample::select(&["user", "admin", "-"][..]), 0..=3);
    let ends = (prop_oneof![Just(0), 0..=u64::from(u32::MAX)], 0..=LATEST);
    let origin = proptest::sample::select(&Origin::ALL[..]);
    (id, hash, name, roles, ends, origin, any::<[bool; 3]>()).prop_map(
        |(id, hash, name, roles, (generation, created_at), origin, [has_address, proved, disabled])| {
            Account {
                id: format!("{id}1").parse().expect("an id"),
                email: has_address.then(|| "Al+x@example.com".parse().expect("an address")),
                email_verified: has_address && proved,
                name,
                roles: roles.into_iter().map(|role| role.parse().expect("a role")).collect::<BTreeSet<_>>(),
                password: PasswordHash::from(hash.to_owned()),
                disabled,
                generation,
                origin,
                created_at: Timestamp::from_millis(created_at),
                ..crate::store::contract::account("x")
            }
        },
    )
}

fn told_apart(place: usize, account: Account) -> Account {
    let id = format!("{}{place}", account.id);
    let email = account.email.map(|email| format!("{place}{}", email.as_str()));
    Account {
        id: id.parse().expect("an id"),
        username: Some(format!("user{place}").parse().expect("a name")),
        email: email.map(|email| email.parse().expect("an address")),
        ..account
    }
}

/// Puts the accounts where `site` looks for them.
fn fill(site: &Site, accounts: Vec<Account>) {
    let settings = StoreSettings { min_free: 0, ..site.loaded().settings.store };
    let store = SledStore::open(&settings, StoreOptions::default()).expect("a store");
    let changes = accounts.into_iter().map(Change::InsertAccount).collect();
    store.commit(changes).wait().expect("stored");
}

/// With a role that is spelled like the empty list.
fn site() -> Site {
    Site::new(&FILE.replace("user = []", "user = []\n\"-\" = []"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_was_exported_and_imported_is_exported_the_same(
        accounts in proptest::collection::vec(drawn(), 1..24),
    ) {
        let one = site();
        let count = accounts.len();
        fill(&one, accounts.into_iter().enumerate().map(|(place, it)| told_apart(place, it)).collect());
        let export = |site: &Site, format: &str| site.good(&format!("user export --format {format}"));
        let all = ["jsonl", "csv"].map(|format| export(&one, format));
        for (format, out) in ["jsonl", "csv"].into_iter().zip(&all) {
            let other = site();
            for told in [format!("{count} created, 0 unchanged"), format!("0 created, {count} unchanged")] {
                let ran = other.run_with(&format!("user import - --format {format}"), out.as_bytes());
                assert_eq!((ran.code, ran.out), (0, format!("{told}, 0 refused\n")), "{}\n{out}", ran.err);
            }
            assert_eq!(["jsonl", "csv"].map(|format| export(&other, format)), all);
        }
    }
}

#[test]
fn what_no_export_says_of_an_account_is_refused() {
    let site = Site::new(FILE);
    let line = |more: &str| format!("{{\"username\":\"al\",\"password_hash\":\"{HASH}\",{more}}}\n");
    for (more, why) in [
        ("\"generation\": -1", "generation: not a whole number"),
        ("\"generation\": 1.5", "generation: not a whole number"),
        ("\"generation\": \"often\"", "generation: not a whole number"),
        ("\"generation\": 18446744073709551615", "generation: at most 4294967295"),
        ("\"origin\": \"heaven\"", "origin: none of registered, migrated, imported, imported_with_id"),
        ("\"origin\": \"imported_with_id\"", "origin: imported_with_id, and no id"),
        ("\"origin\": \"registered\", \"id\": \"1\"", "origin: who registered at another gateway"),
        ("\"created_at\": 1700000000000", "created_at: not a time"),
        ("\"created_at\": \"2024.01.31\"", "created_at: not a time"),
    ] {
        let ran = site.run_with("user import - --format jsonl", line(more).as_bytes());
        assert_eq!(ran.code, 1, "{more}");
        assert!(
            ran.out.contains(why) && ran.out.contains("0 created, 0 unchanged, 1 refused"),
            "{}",
            ran.out
        );
    }
    assert_eq!(site.good("user list --json").trim(), "[]");
}
