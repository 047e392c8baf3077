//! The commands as people run them, on a store of their own or through an admin socket.

mod moving;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use clap::CommandFactory as _;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::account::Outside;
use crate::clock::SystemClock;
use crate::control::{Control, Desk, DeskParts};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::sled::SledStore;

/// The cheapest hashing that there may be: these tests are about other things.
const FILE: &str = r#"
[auth.password]
memory = "8MiB"
iterations = 1
[roles]
user = []
admin = ["user"]
[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/**"
[[route]]
path = "/admin/**"
roles = ["admin"]
[[route]]
path = "/api/**"
methods = ["GET"]
access = "public"
strip_prefix = "/api"
[[route]]
path = "/users/{name}"
owner = { name = "username" }
or_roles = ["admin"]
"#;

/// An installation in a directory.
struct Site {
    directory: TempDir,
}

/// What a command did.
struct Ran {
    code: u8,
    out: String,
    err: String,
}

impl Site {
    fn new(file: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("config.toml"), file).expect("written");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run_with(&self, line: &str, mut input: &[u8]) -> Ran {
        let arguments = Arguments::try_parse_from(["gatepost"].into_iter().chain(line.split_whitespace()));
        let arguments = arguments.unwrap_or_else(|error| panic!("{error}"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let sources = Sources { file: Some(self.path("config.toml")), set: arguments.set, env: Vec::new() };
        let mut shell = Shell { sources, input: &mut input, out: &mut out, err: &mut err };
        let code = execute(arguments.command, &mut shell);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Ran { code, out: text(out), err: text(err) }
    }

    fn run(&self, line: &str) -> Ran {
        self.run_with(line, b"")
    }

    /// Runs a command that must go well.
    fn good(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "{line}: {}{}", ran.out, ran.err);
        ran.out
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.good(&format!("{line} --json"))).expect("JSON")
    }

    fn add_alice(&self) {
        let ran =
            self.run_with("user add alice --email a@example.com --role admin --password-stdin", PASSWORD);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }

    fn loaded(&self) -> Loaded {
        let sources = Sources { file: Some(self.path("config.toml")), ..Sources::default() };
        config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
    }
}

const PASSWORD: &[u8] = b"correct horse battery\n";

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_parses() {
    for line in [
        "serve",
        "--config x.toml --set a.b=1 --set c=2 check --json",
        "check --config x.toml",
        "explain GET /a --anonymous",
        "explain GET https://a.example/x?y --user alice --json",
        "explain POST /a --role admin --role user",
        "explain GET /a --token abc",
        "config show --origin",
        "init --from flask:shop:app --output drafted.toml",
        "init --from express:server.js --interpreter /usr/bin/node",
        "user add alice --email a@b.de --role admin --password-stdin",
        "user list --json",
        "user show alice",
        "user set alice --role a --role b",
        "user passwd alice --password-stdin",
        "user disable alice",
        "user enable alice",
        "user unlock alice",
        "user remove alice",
        "user sessions alice",
        "user logout alice",
        "key list",
        "key export",
        "token inspect",
        "token revoke --user alice",
        "token revoke --jti 0191d3c5-2a57-4b5e-9d0c-1c1d0a0b0c0d",
        "hash-password",
        "health",
        "completions bash",
    ] {
        let parsed = Arguments::try_parse_from(["gatepost"].into_iter().chain(line.split(' ')));
        assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("not parsed"));
    }
}

#[test]
fn usage_errors_have_exit_code_2() {
    for line in [
        "",
        "frobnicate",
        "explain GET",
        "explain GET /a --anonymous --role admin",
        "user add",
        "user set alice --password x",
        "token revoke --user a --jti b",
        "--set",
    ] {
        let line = ["gatepost"].into_iter().chain(line.split_whitespace());
        let error = Arguments::try_parse_from(line).expect_err("usage");
        assert_eq!(error.exit_code(), 2);
    }
    let site = Site::new(FILE);
    for line in ["user set alice", "explain GET admin", "explain GET ftp://x/", "explain G(T /"] {
        assert_eq!(site.run(line).code, 2, "{line}");
    }
}

#[test]
fn passwords_are_never_arguments() {
    fn walk(command: &clap::Command) {
        for argument in command.get_arguments() {
            let takes_value = argument.get_action().takes_values();
            assert!(!takes_value || !argument.get_id().as_str().contains("password"), "{argument}");
        }
        command.get_subcommands().for_each(walk);
    }
    walk(&Arguments::command());
}

#[test]
fn accounts_are_managed_on_the_store_when_no_gateway_runs() {
    let site = Site::new(FILE);
    site.add_alice();
    let users = site.json("user list");
    assert_eq!(users[0]["username"], "alice");
    assert_eq!(users[0]["roles"], serde_json::json!(["admin"]));
    assert_eq!(users[0]["email_verified"], true);
    let table = site.good("user list");
    assert!(table.starts_with("USERNAME  EMAIL"), "{table}");
    assert_eq!(table.lines().count(), 2);

    let again = site.run_with("user add alice --password-stdin", PASSWORD);
    assert_eq!((again.code, again.err.as_str()), (1, "gatepost: the username is taken\n"));
    let unknown = site.run("user set alice --role boss");
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("boss"), "{}", unknown.err);

    site.good("user set a@example.com --role user --name Alice");
    let alice = site.json("user show alice");
    assert_eq!((&alice["name"], &alice["roles"][0]), (&"Alice".into(), &"user".into()));
    assert_eq!(site.good("user disable alice"), "disabled\n");
    assert_eq!(site.json("user show alice")["disabled"], true);
    assert_eq!(site.good("user enable alice"), "enabled\n");
    assert_eq!(site.good("user unlock alice"), "unlocked\n");
    let set = site.run_with("user passwd alice --password-stdin", b"another good password");
    assert_eq!(set.out, "password set\n");
    assert_eq!(site.json("user sessions alice"), serde_json::json!([]));
    assert_eq!(site.good("user logout alice"), "logged out; 0 sessions ended\n");
    assert_eq!(site.json("token revoke --user alice")["sessions_ended"], 0);
    assert_eq!(site.good("user remove alice"), "removed\n");
    let gone = site.run("user show alice");
    assert_eq!((gone.code, gone.err.as_str()), (1, "gatepost: there is no account \"alice\"\n"));
}

#[test]
fn a_running_gateway_is_asked_before_the_store_is_touched() {
    let site = Site::new(FILE);
    let settings = Arc::new(site.loaded().settings);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let parts = DeskParts {
        store,
        settings: Arc::clone(&settings),
        metrics: Arc::default(),
        clock: Arc::new(SystemClock),
        outside: Outside::default(),
    };
    let desk = Arc::new(Desk::open(parts).expect("a desk"));
    let control = Control::start(&settings.admin.socket, desk, None).expect("a socket");
    site.add_alice();
    assert_eq!(site.json("user list")[0]["username"], "alice");
    control.stop();
    // What was added went to the gateway's store, not to the one on disk.
    assert_eq!(site.json("user list"), serde_json::json!([]));
}

#[test]
fn a_store_that_somebody_holds_is_named_with_its_process() {
    let site = Site::new(FILE);
    let held = SledStore::open(&site.loaded().settings.store, crate::store::StoreOptions::default());
    let held = held.expect("the store");
    let ran = site.run("user list");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(&format!("pid {}", std::process::id())), "{}", ran.err);
    assert!(ran.err.contains("gatepost.sock does not answer"), "{}", ran.err);
    drop(held);
}

#[test]
fn keys_are_listed_and_exported_without_their_secrets() {
    let site = Site::new(FILE);
    let keys = site.json("key list");
    assert_eq!(keys.as_array().map(Vec::len), Some(2));
    let jwks: Value = serde_json::from_str(&site.good("key export")).expect("JSON");
    assert_eq!(jwks["keys"][0]["kty"], "OKP");
    assert!(jwks["keys"][0].get("d").is_none());
    assert!(keys.as_array().expect("a list").iter().any(|key| key["id"] == jwks["keys"][0]["kid"]));
}

#[test]
fn a_token_that_is_no_good_is_shown_and_rubbish_gives_exit_code_1() {
    let site = Site::new(FILE);
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjoxfQ.";
    let ran = site.run(&format!("token inspect {token} --json"));
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((ran.code, &report["valid"]), (0, &false.into()));
    assert_eq!(report["header"]["alg"], "none");
    assert_eq!(report["expires_at"], "1970-01-01T00:00:01Z");
    let ran = site.run_with("token inspect", b"rubbish\n");
    assert_eq!(ran.code, 1);
    assert!(ran.out.starts_with("state  invalid_token: "), "{}", ran.out);
    assert_eq!(site.run_with("token revoke", b"rubbish\n").code, 1);
}

#[test]
fn hash_password_prints_a_phc_string() {
    let site = Site::new(FILE);
    let ran = site.run_with("hash-password", PASSWORD);
    assert!(ran.out.starts_with("$argon2id$v=19$m=8192,t=1,p=1$"), "{}{}", ran.out, ran.err);
    assert_eq!(site.run_with("hash-password", b"short\n").code, 1);
}

#[test]
fn explain_says_which_route_decides_and_why() {
    let site = Site::new(FILE);
    let explained = |line: &str| site.json(&format!("explain {line}"));

    let anonymous = explained("GET /admin/x");
    assert_eq!((&anonymous["status"], &anonymous["code"]), (&401.into(), &"missing_token".into()));
    assert_eq!(anonymous["route"]["pattern"], "/admin/**");
    let other = |pattern: &str| {
        let others = anonymous["others"].as_array().expect("a list").iter();
        others.clone().find(|other| other["pattern"] == pattern).map(|other| other["why"].clone())
    };
    assert_eq!(other("/**"), Some("less specific than /admin/**".into()));
    assert_eq!(other("/api/**"), Some("another path".into()));

    let user = explained("GET /admin/x --role user");
    assert_eq!((&user["status"], &user["code"]), (&403.into(), &"forbidden".into()));
    assert_eq!(user["reason"], "one of these roles is needed: admin");

    let admin = explained("GET https://app.example.com/a/../admin/x?q=1 --role admin");
    assert_eq!((&admin["verdict"], &admin["status"]), (&"pass".into(), &Value::Null));
    assert_eq!((&admin["host"], &admin["path"]), (&"app.example.com".into(), &"/admin/x".into()));
    assert_eq!(admin["upstream"]["target"], "/admin/x?q=1");
    assert_eq!(admin["upstream"]["headers"]["x-auth-roles"], "admin,user");

    let public = explained("GET /api/v1 --role user");
    assert_eq!(public["credential"]["looked_at"], false);
    assert_eq!(public["upstream"]["target"], "/v1");
    let headers = public["upstream"]["headers"].as_object().expect("an object");
    assert_eq!(headers["x-forwarded-prefix"], "/api");
    assert_eq!((&headers["host"], &headers["x-forwarded-for"]), (&"localhost".into(), &"(client)".into()));
    assert!(!headers.keys().any(|name| name.starts_with("x-auth-")), "{headers:?}");

    for (line, status, code) in [
        ("POST /api/v1", 405, "method_not_allowed"),
        ("GET /a%2fb", 400, "bad_path"),
        ("GET http://a@b/", 400, "bad_host"),
        ("GET /a#b", 400, "bad_path"),
        ("TRACE /", 405, "method_not_allowed"),
        ("GET /auth/nothing", 404, "not_found"),
        ("GET /auth/me", 401, "missing_token"),
    ] {
        let report = explained(line);
        assert_eq!((&report["status"], &report["code"]), (&status.into(), &code.into()), "{line}");
    }
    assert_eq!(explained("GET /auth/me --role user")["verdict"], "answer");
    assert_eq!(site.run("explain GET / --role boss").code, 1);
    // Only these questions need the store.
    assert!(!site.path("data").exists());
}

#[test]
fn a_route_that_only_reports_passes_and_says_what_it_would_deny() {
    let report = "[[route]]\npath = \"/new/**\"\nroles = [\"admin\"]\nmode = \"report\"\n";
    let test = "[[test]]\nrequest = \"GET /new/x\"\nroles = [\"user\"]\nexpect = ";
    let site = Site::new(&format!("{FILE}{report}{test}\"pass\"\n"));
    let user = site.json("explain GET /new/x --role user");
    assert_eq!((&user["verdict"], &user["status"]), (&"pass".into(), &Value::Null));
    assert_eq!(user["route"]["mode"], "report");
    let denied = &user["would_deny"];
    assert_eq!((&denied["status"], &denied["code"]), (&403.into(), &"forbidden".into()));
    assert_eq!(denied["reason"], "one of these roles is needed: admin");
    assert_eq!(user["upstream"]["headers"]["x-auth-roles"], "user", "the token is good");
    let told = site.good("explain GET /new/x");
    assert!(told.contains("would deny") && told.contains("401 missing_token"), "{told}");
    let bad = site.json("explain GET /new/x --token a.b.c");
    assert_eq!((&bad["verdict"], &bad["would_deny"]["code"]), (&"pass".into(), &"invalid_token".into()));
    let headers = bad["upstream"]["headers"].as_object().expect("an object");
    assert!(!headers.keys().any(|name| name.starts_with("x-auth-")), "{headers:?}");
    let admin = site.json("explain GET /new/x --role admin");
    assert_eq!((&admin["verdict"], &admin["would_deny"]), (&"pass".into(), &Value::Null));
    assert_eq!(site.json("explain GET /new/a%2fb --role admin")["status"], 400);

    let checked = site.json("check");
    assert_eq!(
        checked["tests"][0]["got"],
        "pass (would deny: 403 forbidden, one of these roles is needed: admin)"
    );
    let warnings = checked["problems"].as_array().expect("a list");
    assert!(warnings.iter().any(|warning| warning.to_string().contains("does not enforce")), "{warnings:?}");
    let site = Site::new(&format!("{FILE}{report}{test}403\n"));
    assert_eq!(site.run("check").code, 1, "what happens counts");
}

#[test]
fn explain_takes_users_and_tokens_from_the_store() {
    let site = Site::new(FILE);
    site.add_alice();
    let alice = site.json("explain GET /users/alice --user a@example.com");
    assert_eq!(alice["verdict"], "pass");
    assert_eq!(alice["upstream"]["headers"]["x-auth-email"], "a@example.com");
    site.good("user set alice --no-roles");
    assert_eq!(site.json("explain GET /users/bob --user alice")["reason"], "only the owner may pass");
    site.good("user disable alice");
    let disabled = site.json("explain GET /x --user alice");
    assert_eq!((&disabled["status"], &disabled["credential"]["state"]), (&401.into(), &"none".into()));
    assert_eq!(site.run("explain GET /x --user nobody").code, 1);
    let token = site.json("explain GET /x --token a.b.c");
    assert_eq!((&token["status"], &token["code"]), (&401.into(), &"invalid_token".into()));
}

#[test]
fn check_runs_the_tests_in_the_file() {
    let tests = r#"
[[test]]
request = "GET /admin/users"
roles = ["user"]
expect = 403
[[test]]
request = "GET /users/alice"
roles = []
username = "alice"
expect = "pass"
[[test]]
request = "GET /x"
anonymous = true
expect = 401
"#;
    let site = Site::new(&format!("{FILE}{tests}"));
    let report = site.json("check");
    assert_eq!(report["ok"], true);
    assert_eq!(report["tests"].as_array().map(Vec::len), Some(3));
    assert!(report["passwords"]["total_bytes"].as_u64() >= Some(8 << 20));
    let text = site.good("check");
    assert!(text.contains("3 tests passed"), "{text}");
    assert!(text.contains("password hashing: "), "{text}");

    let wrong = "[[test]]\nrequest = \"GET /admin/x\"\nanonymous = true\nexpect = \"pass\"\n";
    let site = Site::new(&format!("{FILE}{tests}{wrong}"));
    let ran = site.run("check");
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("test failed: GET /admin/x as anonymous"), "{}", ran.out);
    assert!(ran.out.contains("expected pass\n  got      401 missing_token"), "{}", ran.out);
    assert!(ran.out.contains("not ok ("), "{}", ran.out);
    assert!(!site.path("data").exists(), "it takes no lock");
}

#[test]
fn check_names_every_problem() {
    let site = Site::new(&format!("{FILE}\n[server]\nlissen = 1\nworkers = \"many\"\n"));
    let ran = site.run("check");
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("lissen") && ran.out.contains("workers"), "{}", ran.out);
    assert!(ran.out.ends_with("2 errors\n"), "{}", ran.out);
    let ran = site.run("check --json");
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(report["ok"], false);
    let errors = report["problems"].as_array().expect("a list").iter();
    assert_eq!(errors.filter(|problem| problem["severity"] == "error").count(), 2);
    // Other commands say the same on standard error.
    let ran = site.run("user list");
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("lissen"));
}

#[test]
fn config_show_tells_where_a_value_comes_from() {
    let site = Site::new(FILE);
    let shown = site.good("config show");
    assert!(shown.lines().any(|line| line == r#"tokens.issuer = "gatepost""#), "{shown}");
    let shown = site.good("config show --origin --set log.level=debug");
    let line = shown.lines().find(|line| line.starts_with("log.level")).expect("the line");
    assert!(line.starts_with(r#"log.level = "debug""#) && line.ends_with("# --set log.level"), "{line}");
    let values = site.json("config show --origin");
    assert!(values.as_array().is_some_and(|values| values.iter().all(|value| value["origin"].is_string())));
}

#[test]
fn health_fails_when_nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let site = Site::new(&format!("[admin]\nlisten = \"{address}\"\n{FILE}"));
    let ran = site.run("health");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("/readyz"), "{}", ran.err);
}

#[test]
fn completions_are_printed_for_every_shell() {
    let site = Site::new(FILE);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(site.good(&format!("completions {shell}")).contains("gatepost"));
    }
}

const HASH: &str = "pbkdf2:sha256:1000$salt$0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn accounts_are_imported_from_every_format_and_once() {
    let site = Site::new(FILE);
    let users = format!(
        "login,mail,is_active,is_admin,hash,signup\n\
         al,al@example.com,1,1,{HASH},2020-01-02\n\
         \n\
         bo,\"bo@example.com\",0,0,{HASH},\n"
    );
    fs::write(site.path("users.csv"), users).expect("written");
    let line = format!(
        "user import {} --format csv --map username=login,email=mail,password_hash=hash --map disabled=!is_active,created_at=signup",
        site.path("users.csv").display()
    );
    let dry = site.good(&format!("{line} --dry-run"));
    assert_eq!(
        dry,
        "not used: is_admin\ndisabled: 1; nobody can log in there until \"user enable\"\n2 would be created, 0 unchanged, 0 refused\n"
    );
    assert_eq!(site.good("user list --json").trim(), "[]");
    assert!(site.good(&line).ends_with("2 created, 0 unchanged, 0 refused\n"));
    assert!(site.good(&line).ends_with("0 created, 2 unchanged, 0 refused\n"));
    let bo = site.json("user show bo");
    assert_eq!((&bo["disabled"], &bo["email_verified"]), (&true.into(), &false.into()));
    assert_eq!(site.json("user show al")["created_at"], "2020-01-02T00:00:00Z");

    let ran = site
        .run_with("user import - --format htpasswd", b"# ours\ncy:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\ndi\n");
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (1, "line 3: no colon between a name and a hash\n1 created, 0 unchanged, 1 refused\n")
    );

    let lines = format!(
        "{{\"id\": 41, \"username\": \"ed\", \"password_hash\": \"{HASH}\", \"roles\": [\"admin\"]}}\n\
         {{\"_id\": {{\"$oid\": \"x\"}}, \"username\": \"fi\", \"password\": \"short\"}}\n"
    );
    let ran = site.run_with("user import - --format jsonl --json", lines.as_bytes());
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let reported: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(reported[0], serde_json::json!({"line": 1, "user": "ed", "outcome": "created", "id": "41"}));
    assert_eq!(reported[2]["summary"]["created"], 2);
    assert_eq!(reported[2]["summary"]["unused"], serde_json::json!(["_id"]));

    // All of it goes out, and in elsewhere.
    for format in ["jsonl", "csv"] {
        let out = site.good(&format!("user export --format {format}"));
        let other = Site::new(FILE);
        let ran = other.run_with(&format!("user import - --format {format}"), out.as_bytes());
        assert_eq!(
            (ran.code, ran.out.lines().last()),
            (0, Some("5 created, 0 unchanged, 0 refused")),
            "{}",
            ran.err
        );
        assert_eq!(other.good(&format!("user export --format {format}")), out);
        let ran = site.run_with(&format!("user import - --format {format}"), out.as_bytes());
        assert_eq!(ran.out, "0 created, 5 unchanged, 0 refused\n");
    }
    let bare = site.good("user export --without-hashes");
    assert!(!bare.contains("password_hash") && bare.lines().count() == 5, "{bare}");
}

#[test]
fn bad_lines_are_named_and_the_rest_is_imported() {
    let site = Site::new(FILE);
    let good =
        |name: &str| format!("{{\"username\": \"{name}\", \"password_hash\": \"{HASH}\"}}\n").into_bytes();
    let text = |text: &str| format!("{text}\n").into_bytes();
    let input = [
        good("al"),
        good("AL"),
        text("{broken"),
        text("[]"),
        vec![b'x'; 100_000],
        text(""),
        b"{\"username\": \"\xe4\"}\n".to_vec(),
        text("{\"username\": \"bo\", \"password_hash\": \"$9$x\"}"),
        text("{\"username\": \"cy\", \"password_hash\": \"$2b$31$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu\"}"),
        text("{\"username\": \"di\", \"disabled\": \"perhaps\", \"password\": \"secret-secret\"}"),
        good("ed"),
    ]
    .concat();
    let ran = site.run_with("user import - --format jsonl", &input);
    let named: Vec<_> =
        ran.out.lines().filter_map(|line| line.split_once(':')).map(|(line, _)| line).collect();
    let expected = [2, 3, 4, 5, 6, 7, 8, 9].map(|line| format!("line {line}"));
    assert_eq!((ran.code, named), (1, expected.iter().map(String::as_str).collect()), "{}", ran.out);
    assert!(ran.out.contains("line 2: AL: line 1 has the same username\n"), "{}", ran.out);
    assert!(ran.out.ends_with("2 created, 0 unchanged, 8 refused\n"), "{}", ran.out);
    assert!(!ran.out.contains("secret-secret") && !ran.out.contains("abcdefghij"), "{}", ran.out);

    let site = Site::new(FILE);
    let ran = site.run_with("user import - --format jsonl --on-error stop", &input);
    assert_eq!(ran.code, 1);
    assert!(ran.out.ends_with("1 created, 0 unchanged, 1 refused\n"), "{}", ran.out);
    assert_eq!(site.json("user list").as_array().map(Vec::len), Some(1));
}

#[test]
fn a_file_that_is_none_changes_nothing() {
    let site = Site::new(FILE);
    for (format, input, why) in [
        ("csv", &b"name,age\nal,3\n"[..], "neither username nor email"),
        ("csv", b"username,age\nal,3\n", "neither password_hash nor password"),
        ("csv", b"username,password,username\n", "two columns are called \"username\""),
        ("jsonl", b"\xff\xfe{\0", "UTF-16"),
        ("csv --map username=login", b"username,password\n", "there is no column \"login\""),
    ] {
        let ran = site.run_with(&format!("user import - --format {format}"), input);
        assert_eq!(ran.code, 1, "{format}");
        assert!(ran.err.contains(why), "{}", ran.err);
    }
    assert_eq!(site.run("user import nowhere.csv --format csv").code, 1);
    assert_eq!(site.run("user import - --format htpasswd --map id=x").code, 2);
    assert_eq!(site.good("user list --json").trim(), "[]");
    // A line of CSV that is broken takes no other with it, unless nobody can tell where it ends.
    let input = b"username,password\na\"l\",secret-1\nbo,secret-2\ncy\n";
    let ran = site.run_with("user import - --format csv", input);
    assert!(ran.out.contains("line 2: a quotation mark in the middle"), "{}", ran.out);
    assert!(ran.out.contains("line 4: 1 columns where the heading has 2\n1 created,"), "{}", ran.out);
}
