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
        &[HASH, "!", "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c29tZWhhc2hzb21laGFzaA"][..],
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
                assert_eq!((ran.code, ran.out.lines().last()), (0, Some(&*format!("{told}, 0 refused"))), "{}\n{out}", ran.err);
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
        (
            "\"origin\": \"heaven\"",
            "origin: none of registered, operator, migrated, migrated_with_id, imported, imported_with_id",
        ),
        ("\"origin\": \"imported_with_id\"", "origin: imported_with_id, and no id"),
        ("\"origin\": \"migrated_with_id\"", "origin: migrated_with_id, and no id"),
        (
            "\"origin\": \"registered\", \"id\": \"1\"",
            "origin: who registered or was added at another gateway",
        ),
        ("\"origin\": \"operator\", \"id\": \"1\"", "origin: who registered or was added at another gateway"),
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

#[test]
fn nothing_that_a_field_holds_becomes_an_account() {
    let site = Site::new(FILE);
    // What somebody has written into his own field, with line breaks and as an exporter quotes it.
    let bio = format!("hi\r\neve,{HASH},admin,x\r\nmallory,{HASH},admin,\"\"x");
    let long = "x".repeat(20_000);
    let input = format!(
        "username,password_hash,roles,bio\r\nal,{HASH},user,\"{bio}\"\r\nbo,{HASH},user,\"{long}\r\n{bio}\"\r\n\
         cy,{HASH},user,plain\r\ndi,{HASH},user,\"{bio}\"x\r\ned,{HASH},user,\"{bio}\"\"\r\nfi,{HASH},user,y\r\n"
    );
    let ran = site.run_with("user import - --format csv", input.as_bytes());
    let expected = "line 5: longer than 16 KiB (of lines 5 to 8, which a quotation mark keeps together)\n\
         line 10: text behind the quotation mark that ends a field (of lines 10 to 12, which a quotation mark keeps together)\n\
         line 13: a quotation mark that is not closed before the file ends; nothing that comes after it was read \
         (of lines 13 to 16, which a quotation mark keeps together)\n\
         not used: bio\nroles that the file gives: user 2\n2 created, 0 unchanged, 3 refused\n";
    assert_eq!((ran.code, ran.out.as_str()), (1, expected), "{}", ran.err);
    let listed = site.json("user list");
    let names: Vec<_> =
        listed.as_array().into_iter().flatten().map(|user| user["username"].clone()).collect();
    assert!(names.len() == 2 && names.contains(&"al".into()) && names.contains(&"cy".into()), "{names:?}");
}

#[test]
fn who_is_not_said_to_be_active_is_disabled() {
    let site = Site::new(FILE);
    let table = format!("username,password_hash,is_active\nal,{HASH},\nbo,{HASH},1\ncy,{HASH},0\n");
    let ran = site.run_with("user import - --format csv --map disabled=!is_active", table.as_bytes());
    let told =
        "disabled: 2; nobody can log in there until \"user enable\"\n3 created, 0 unchanged, 0 refused\n";
    assert_eq!(ran.out, told, "{}", ran.err);
    let member =
        |name: &str, rest: &str| format!("{{\"username\":\"{name}\",\"password_hash\":\"{HASH}\"{rest}}}\n");
    let input = [
        member("di", ",\"is_active\":null"),
        member("ed", ",\"is_active\":\"\""),
        member("fi", ",\"active\":false"),
        member("gi", ",\"is_active\":true"),
    ]
    .concat();
    let ran = site.run_with("user import - --format jsonl --map disabled=!is_active", input.as_bytes());
    assert!(
        ran.code == 1 && ran.out.starts_with("line 3: disabled: there is no \"is_active\"\n"),
        "{}",
        ran.out
    );
    for (name, disabled) in
        [("al", true), ("bo", false), ("cy", true), ("di", true), ("ed", true), ("gi", false)]
    {
        assert_eq!(site.json(&format!("user show {name}"))["disabled"], disabled, "{name}");
    }
}

#[test]
fn a_column_that_another_field_stands_in_is_not_that_of_its_name() {
    let site = Site::new(FILE);
    let table = format!("username,password\nal,{HASH}\n");
    let ran = site.run_with("user import - --format csv", table.as_bytes());
    assert!(ran.out.contains("--map password_hash=password"), "{}", ran.out);
    let ran = site.run_with("user import - --format csv --map password_hash=password", table.as_bytes());
    assert_eq!((ran.code, ran.out.as_str()), (0, "1 created, 0 unchanged, 0 refused\n"), "{}", ran.err);
    let line = format!("{{\"username\":\"bo\",\"password\":\"{HASH}\"}}\n");
    let ran = site.run_with("user import - --format jsonl --map password_hash=password", line.as_bytes());
    assert_eq!((ran.code, ran.out.as_str()), (0, "1 created, 0 unchanged, 0 refused\n"), "{}", ran.err);
}

#[test]
fn a_member_that_no_line_has_is_named_and_one_that_locks_people_out_is_missed_at_once() {
    let site = Site::new(FILE);
    let line =
        |name: &str| format!("{{\"username\":\"{name}\",\"password_hash\":\"{HASH}\",\"locked\":true}}\n");
    let run = |name: &str, map: &str| {
        site.run_with(&format!("user import - --format jsonl --map {map}"), line(name).as_bytes())
    };
    let ran = run("al", "email=mail");
    assert_eq!((ran.code, ran.out.lines().last()), (1, Some("1 created, 0 unchanged, 0 refused")));
    assert!(ran.err.contains("--map: no line has \"mail\""), "{}", ran.err);
    let ran = run("bo", "disabled=lockd");
    assert!(
        ran.code == 1 && ran.out.contains("line 1: bo: disabled: there is no \"lockd\"")
            || ran.out.contains("line 1: disabled: there is no \"lockd\""),
        "{}",
        ran.out
    );
    assert_eq!(site.run("user show bo").code, 1, "nobody was let in by a misspelt word");
    assert_eq!(run("cy", "disabled=locked").code, 0);
    assert_eq!(site.json("user show cy")["disabled"], true);
}

#[test]
fn the_roles_that_a_file_gives_are_told() {
    let site = Site::new(FILE);
    let table =
        format!("username,password_hash,roles\nal,{HASH},user\nbo,{HASH},\ncy,{HASH},\"user,admin\"\n");
    for (argument, count) in [(" --dry-run", "3 would be created"), ("", "3 created")] {
        let ran = site.run_with(&format!("user import - --format csv{argument}"), table.as_bytes());
        let told = format!("roles that the file gives: admin 1, user 2\n{count}, 0 unchanged, 0 refused\n");
        assert_eq!((ran.code, ran.out), (0, told), "{}", ran.err);
    }
}

#[test]
fn an_export_without_hashes_makes_nobody_without_a_password() {
    let (site, other) = (Site::new(FILE), Site::new(FILE));
    let table = format!("username,password_hash\nal,{HASH}\n");
    assert_eq!(site.run_with("user import - --format csv", table.as_bytes()).code, 0);
    for (form, why) in
        [("csv", "neither password_hash nor password"), ("jsonl", "neither password_hash nor password")]
    {
        let bare = site.good(&format!("user export --without-hashes --format {form}"));
        let ran = other.run_with(&format!("user import - --format {form}"), bare.as_bytes());
        assert!(ran.code == 1 && (ran.out.contains(why) || ran.err.contains(why)), "{}{}", ran.out, ran.err);
    }
    assert_eq!(other.good("user list --json").trim(), "[]");
}

#[test]
fn a_user_s_line_is_no_heading_and_is_not_shown() {
    let site = Site::new(FILE);
    for input in ["secretive,secretive,hash\n", "username,password\rsecretive,hash\r", "secretive,hash\n"] {
        let ran = site.run_with("user import - --format csv", input.as_bytes());
        assert!(ran.code == 1 && ran.err.contains("the heading of the CSV file"), "{}", ran.err);
        assert!(!ran.err.contains("secretive") && !ran.out.contains("secretive"), "{}", ran.err);
    }
}

#[test]
fn tables_of_other_separators_are_read_when_told() {
    let site = Site::new(FILE);
    for (place, (delimiter, argument)) in
        [(";", ";"), ("|", "|"), ("\t", "\\t"), ("\t", "tab")].into_iter().enumerate()
    {
        let input = format!("username,password_hash,name\nal{place},{HASH},Al\n").replace(',', delimiter);
        let ran = site.run_with("user import - --format csv", input.as_bytes());
        assert_eq!((ran.code, ran.out.as_str()), (1, "0 created, 0 unchanged, 0 refused\n"));
        let why = "it is one column only, \"username";
        let hint = if delimiter == "\t" {
            "--delimiter '\\t'".to_owned()
        } else {
            format!("--delimiter '{delimiter}'")
        };
        assert!(ran.err.contains(why) && ran.err.contains(&hint), "{}", ran.err);
        let ran =
            site.run_with(&format!("user import - --format csv --delimiter {argument}"), input.as_bytes());
        assert_eq!((ran.code, ran.out.as_str()), (0, "1 created, 0 unchanged, 0 refused\n"), "{}", ran.err);
    }
    let ran = site.run_with("user import - --format csv", b"username\nal\n");
    assert!(ran.err.contains("columns are separated by commas"), "{}", ran.err);
    assert_eq!(site.run("user import - --format jsonl --delimiter ;").code, 2);
}

#[test]
fn a_newcomer_is_told_what_is_wrong_with_a_file() {
    let site = Site::new(FILE);
    for (format, input, why) in [
        ("jsonl", "[\n  {\"username\": \"al\"}\n]\n", "jq -c '.[]'"),
        ("jsonl", "\n[{\"username\": \"al\"}]", "jq -c '.[]'"),
        ("jsonl", "", "-: nothing to import"),
        ("jsonl", "\n \n", "nothing to import"),
        ("htpasswd", "# nobody\n", "nothing to import"),
        ("csv", "username,password\n", "nothing to import"),
        ("csv", "\"username,password\n", "a quotation mark that is not closed"),
    ] {
        let ran = site.run_with(&format!("user import - --format {format}"), input.as_bytes());
        assert_eq!((ran.code, ran.out.as_str()), (1, "0 created, 0 unchanged, 0 refused\n"), "{input}");
        assert!(ran.err.contains(why), "{input}: {}", ran.err);
    }
    for (members, why) in [
        ("\"id\": 1.5", "id: 1.5 is no whole number"),
        ("\"id\": -1", "id: -1 is no whole number"),
        ("\"id\": 12345678901234567890123", "is no whole number"),
        ("\"email\": 5", "email: a number where text belongs"),
        ("\"roles\": \"admin\", \"roles\": \"user\"", "two members are called \"roles\""),
        ("\"disabled\": \"perhaps\"", "disabled: \"perhaps\" is neither true nor false"),
        ("\"disabled\": 2", "disabled: 2 is neither true nor false"),
    ] {
        let line = format!("{{\"username\": \"al\", \"password_hash\": \"{HASH}\", {members}}}");
        let ran = site.run_with("user import - --format jsonl", line.as_bytes());
        assert!(
            ran.code == 1 && ran.out.contains(&format!("line 1: {why}")) || ran.out.contains(why),
            "{}",
            ran.out
        );
        assert!(ran.out.ends_with("0 created, 0 unchanged, 1 refused\n"), "{}", ran.out);
    }
    let ran = site.run_with("user import - --format jsonl", b"{\n\"username\": \"al\"\n}\n");
    assert!(ran.out.starts_with("line 1: JSON that goes on after the line"), "{}", ran.out);
    let table = format!("login,hash,active\nal,{HASH},perhaps\n");
    let map = "user import - --format csv --map username=login,password_hash=hash";
    let ran = site.run_with(&format!("{map},disabled=!active"), table.as_bytes());
    assert!(ran.out.starts_with("line 2: disabled: \"perhaps\" in \"active\" is neither"), "{}", ran.out);
    let ran = site.run_with(&format!("{map},disabled=hash"), table.as_bytes());
    assert!(ran.out.starts_with("line 2: disabled: a password in \"hash\" is neither"), "{}", ran.out);
    assert_eq!(site.good("user list --json").trim(), "[]");
}

#[test]
fn a_line_that_was_refused_holds_no_name() {
    for dry_run in ["", " --dry-run"] {
        let site = Site::new(FILE);
        let line = |name: &str, id: u8, hash: &str| {
            format!("{{\"id\": {id}, \"username\": \"{name}\", \"password_hash\": \"{hash}\"}}\n")
        };
        let input = [
            line("al", 1, "$9$unheard"),
            line("AL", 2, HASH),
            line("al", 3, HASH),
            line("bo", 2, HASH),
            line("bo", 4, HASH),
        ]
        .concat();
        let ran = site.run_with(&format!("user import - --format jsonl{dry_run}"), input.as_bytes());
        let created = if dry_run.is_empty() { "created" } else { "would be created" };
        let expected = format!(
            "line 1: al: no known kind of password hash\nline 3: al: line 2 has the same username\n\
             line 4: bo: line 2 has the same id\n2 {created}, 0 unchanged, 3 refused\n"
        );
        assert_eq!(ran.out, expected);
    }
}

#[test]
fn who_has_no_password_is_counted_and_who_has_forgotten_the_column_is_told() {
    let site = Site::new(FILE);
    let lines = "{\"username\": \"al\", \"password_hash\": null}\n\
        {\"username\": \"bo\", \"password\": \"\"}\n\
        {\"username\": \"cy\", \"password_hash\": \"!WxTfqBB7Ln0mY2H3c0\"}\n\
        {\"username\": \"di\", \"hash\": \"x\"}\n";
    for (dry_run, created) in [(" --dry-run", "would be created"), ("", "created")] {
        let ran = site.run_with(&format!("user import - --format jsonl{dry_run}"), lines.as_bytes());
        assert!(ran.out.starts_with("line 4: di: neither password_hash nor password;"), "{}", ran.out);
        let counts = format!(
            "not used: hash\nwithout a password: 3; nobody can log in there until \"user passwd\" sets one\n\
             3 {created}, 0 unchanged, 1 refused\n"
        );
        assert!(ran.out.ends_with(&counts), "{}", ran.out);
    }
    let ran = site.run_with("user import - --format csv --json", b"username,password_hash,password\ned,,\n");
    assert!(ran.code == 0 && ran.out.contains("\"without_password\":1"), "{}{}", ran.out, ran.err);
    let ran = site.run_with("user import - --format htpasswd", b"fi:\n");
    assert!(ran.code == 0 && ran.out.contains("without a password: 1;"), "{}{}", ran.out, ran.err);
    assert_eq!(site.run_with("user passwd al --password-stdin", super::PASSWORD).code, 0);
    // Without hashes is not without passwords.
    let bare = site.good("user export --without-hashes");
    let ran = Site::new(FILE).run_with("user import - --format jsonl", bare.as_bytes());
    assert!(ran.out.ends_with("0 created, 0 unchanged, 5 refused\n"), "{}", ran.out);
}

#[test]
fn what_a_dear_hash_costs_everybody_is_said_with_its_line() {
    let site = Site::new(FILE);
    let bcrypt = |cost: u8| format!("$2b${cost:02}$wVHmV0dpoPMsqBSPbAWkPuPzkUyUPEYoxpEoT8BcLdSAdRTFSMc6m");
    let input = format!("al:{}\nbo:{}\n", bcrypt(10), bcrypt(15));
    for dry_run in [" --dry-run", ""] {
        let ran = site.run_with(&format!("user import - --format htpasswd{dry_run}"), input.as_bytes());
        let said =
            "while these hashes are there, every failed login costs about 2.0 s: bcrypt 2.0 s (line 2)\n";
        assert!(ran.code == 0 && ran.out.starts_with(said), "{}{}", ran.out, ran.err);
    }
    let ran = site.run_with("user import - --format htpasswd", format!("di:{}\n", bcrypt(10)).as_bytes());
    assert_eq!(ran.out, "1 created, 0 unchanged, 0 refused\n");
}

#[test]
fn a_dry_run_leaves_nothing_on_the_disk() {
    let site = Site::new(FILE);
    let files = || {
        let entries = std::fs::read_dir(site.path(".")).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    };
    let line = format!("username,password_hash\nal,{HASH}\n");
    let ran = site.run_with("user import - --format csv --dry-run", line.as_bytes());
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "1 would be created, 0 unchanged, 0 refused\n"),
        "{}",
        ran.err
    );
    assert_eq!(files(), ["config.toml"]);
    assert_eq!(site.run_with("user import - --format csv", line.as_bytes()).code, 0);
    assert_eq!(files().len(), 2);
    // Where there is a store it is asked.
    let ran = site.run_with("user import - --format csv --dry-run", line.as_bytes());
    assert_eq!(ran.out, "0 would be created, 1 unchanged, 0 refused\n");
}
