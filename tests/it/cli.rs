//! The command line: the same accounts whether the gateway serves or not, the same engine as `serve`,
//! and exit codes that a script can rely on.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::PASSWORD;
use crate::support::config::Config;
use crate::support::gateway::{Ended, Gateway, Tokens};
use crate::support::jwt;
use crate::support::request::{get, post};
use crate::support::world::World;

/// A configuration on disk and nothing running.
fn offline(change: impl FnOnce(Config) -> Config) -> Gateway {
    Gateway::prepare(&change(Config::new().upstream("app", 1)))
}

/// The first place in a JSON answer where this member is, at any depth.
fn dig<'j>(json: &'j Value, name: &str) -> Option<&'j Value> {
    match json {
        Value::Object(members) => members.get(name).or_else(|| members.values().find_map(|v| dig(v, name))),
        Value::Array(items) => items.iter().find_map(|v| dig(v, name)),
        _ => None,
    }
}

fn add(gateway: &Gateway, name: &str) -> Ended {
    gateway.cli_with(&["user", "add", name, "--password-stdin"], &format!("{PASSWORD}\n"), &[])
}

#[test]
fn wrong_usage_is_exit_2_and_help_is_0() {
    let gateway = offline(|c| c);
    for arguments in [
        &[][..],
        &["rubbish"],
        &["user"],
        &["user", "rubbish"],
        &["check", "--rubbish"],
        &["explain"],
        &["explain", "GET"],
        &["user", "add"],
        &["completions", "rubbish"],
        &["user", "add", "alice", "--password", "in-argv"],
        &["user", "passwd", "alice", "--password", "in-argv"],
    ] {
        let ended = gateway.cli(arguments).exits(2);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
    }
    for arguments in
        [&["--help"][..], &["--version"], &["user", "--help"], &["serve", "--help"], &["explain", "--help"]]
    {
        gateway.cli(arguments).succeeds();
    }
    assert!(gateway.cli(&["--version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_command_of_the_contract_exists() {
    let gateway = offline(|c| c);
    for command in [
        "serve",
        "run",
        "check",
        "explain",
        "config show",
        "user add",
        "user import",
        "user export",
        "user list",
        "user show",
        "user set",
        "user passwd",
        "user disable",
        "user enable",
        "user unlock",
        "user remove",
        "user sessions",
        "user logout",
        "user import",
        "user export",
        "key list",
        "key export",
        "token inspect",
        "token revoke",
        "hash-password",
        "init",
        "health",
        "completions",
    ] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.push("--help");
        gateway.cli(&arguments).succeeds();
    }
    // What does nothing yet does not exist yet.
    for later in ["key rotate", "key retire", "token mint"] {
        let mut arguments: Vec<&str> = later.split(' ').collect();
        arguments.push("--help");
        gateway.cli(&arguments).exits(2);
    }
}

#[test]
fn check_passes_a_good_file_and_takes_no_port_and_no_lock() {
    let world = World::new();
    let ended = world.cli(&["check"]).succeeds();
    assert!(
        ended.said().contains("KiB") || ended.said().contains("MiB"),
        "the argon2 memory budget: {ended:?}"
    );
    let gateway = offline(|c| c.set("server", "listen", &format!("[\"{}\"]", world.address())));
    gateway.cli(&["check"]).succeeds();
    assert!(!gateway.home().join("data").join("conf").exists(), "no store was made");
}

#[test]
fn check_names_every_problem_with_its_place_and_a_suggestion() {
    let gateway = offline(|c| {
        c.set("server", "wrokers", "2")
            .set("auth", "registration", "\"opened\"")
            .set("tokens", "access_ttl", "\"15 parsecs\"")
            .route("path = \"/a/*\"")
            .route("path = \"/b/:id\"")
            .route("path = \"/c\"\nroles = [\"amdin\"]")
            .route("path = \"/d\"\naccess = \"publick\"")
            .route("path = \"/e\"\nupstream = \"nope\"")
            .route("path = \"/auth/login\"")
            .route("path = \"/public/**\"\naccess = \"public\"")
            .route("path = \"/f\"\naccess = \"public\"\nroles = [\"admin\"]")
            .route("path = \"/g/{id}\"\nowner = { uid = \"sub\" }")
    });
    let ended = gateway.cli(&["check"]).exits(1);
    let said = ended.said();
    for word in [
        "wrokers",
        "workers",
        "registration",
        "access_ttl",
        "/a/*",
        "/a/**",
        ":id",
        "{id}",
        "amdin",
        "admin",
        "publick",
        "nope",
        "/auth/login",
        "/public/**",
        "uid",
    ] {
        assert!(said.contains(word), "{word} is not in\n{said}");
    }
    let file = gateway.config().display().to_string();
    let places = said.lines().filter(|l| l.contains(&file) || l.contains("config.toml:")).count();
    assert!(places >= 10, "{places} places in\n{said}");
    assert!(said.contains('^'), "a caret:\n{said}");
    assert!(said.contains("did you mean"), "{said}");
    let line = 1 + fs::read_to_string(gateway.config())
        .unwrap()
        .lines()
        .position(|l| l.starts_with("wrokers"))
        .unwrap();
    assert!(said.contains(&format!("config.toml:{line}:")), "line {line} in\n{said}");
}

#[test]
fn check_refuses_what_would_be_unsafe() {
    for (what, change) in [
        (
            "prefix",
            Box::new(|c: Config| c.set("auth", "prefix", "\"/\"")) as Box<dyn FnOnce(Config) -> Config>,
        ),
        ("prefix", Box::new(|c| c.set("auth", "prefix", "\"\""))),
        ("secret", Box::new(|c| c.hs256("short"))),
        ("secret", Box::new(|c| c.set("tokens", "algorithm", "\"HS256\""))),
        ("algorithm", Box::new(|c| c.set("tokens", "algorithm", "\"none\""))),
        (
            "secret_file",
            Box::new(|c| {
                c.hs256("a secret of more than thirty-two bytes").set("tokens", "secret_file", "\"s\"")
            }),
        ),
        ("trusted_proxies", Box::new(|c| c.set("server", "trusted_proxies", "[\"everybody\"]"))),
        ("or_roles", Box::new(|c| c.route("path = \"/x\"\nor_roles = [\"admin\"]"))),
        (
            "methods",
            Box::new(|c| {
                c.route("path = \"/m\"\nmethods = [\"GET\"]")
                    .route("path = \"/m\"\nmethods = [\"HEAD\", \"POST\"]")
            }),
        ),
        ("owner", Box::new(|c| c.route("path = \"/o/{u}\"\naccess = \"optional\"\nowner = { u = \"sub\" }"))),
        ("all_roles", Box::new(|c| c.route("path = \"/o\"\naccess = \"public\"\nall_roles = [\"admin\"]"))),
        ("upstream", Box::new(|c| c.upstream("other", 2))),
        ("ftp", Box::new(|c| c.upstream_table("name = \"tls\"\nservers = [\"ftp://127.0.0.1:1\"]"))),
        ("mode", Box::new(|c| c.route("path = \"/x\"\nmode = \"watch\""))),
        ("redirect_http", Box::new(|c| c.set("server", "redirect_http", "[\"127.0.0.1:1\"]"))),
        ("engine", Box::new(|c| c.set("store", "engine", "\"mysql\""))),
        ("roles", Box::new(|c| c.roles("user = [\"nobody\"]\nadmin = []\neditor = []"))),
        ("default_roles", Box::new(|c| c.set("auth", "default_roles", "[\"nobody\"]"))),
    ] {
        let ended = offline(change).cli(&["check"]);
        assert_eq!(ended.code, Some(1), "{what}: {}", ended.said());
        assert!(ended.said().contains(what), "{what} is not in\n{}", ended.said());
    }
}

#[test]
fn check_reads_the_files_that_are_named_and_says_where() {
    let written = Config::new()
        .set("server.tls", "certificates", "[{ cert = \"gone.pem\", key = \"gone.key\" }]")
        .upstream_table("name = \"secure\"\nservers = [\"https://127.0.0.1:1\"]\nca = \"empty.pem\"");
    let gateway = Gateway::prepare(&written);
    fs::write(gateway.home().join("empty.pem"), "").unwrap();
    let config = fs::read_to_string(gateway.config()).unwrap();
    let line = |text: &str| config.lines().position(|line| line.contains(text)).unwrap() + 1;
    let text = gateway.cli(&["check"]);
    for (key, file, at) in [
        ("server.tls.certificates[0].cert", "gone.pem", line("gone.pem")),
        ("upstream.secure.ca", "empty.pem", line("empty.pem")),
    ] {
        let path = gateway.home().join(file);
        let said = format!("error: {key}: {}: ", path.display());
        assert!(text.stdout.contains(&said), "{said} is not in {}", text.stdout);
        let place = format!("{}:{at}:", gateway.config().display());
        assert!(text.stdout.contains(&place), "{place} is not in {}", text.stdout);
    }
    let json = gateway.cli(&["check", "--json"]).exits(1).json();
    assert_eq!(json["ok"], false);
    let errors = json["problems"].as_array().unwrap().iter().filter(|problem| problem["severity"] == "error");
    assert!(errors.count() >= 2, "{json}");
}

#[test]
fn check_runs_the_tests_of_the_file() {
    let good = "request = \"GET /admin/users\"\nroles = [\"user\"]\nexpect = 403";
    let gateway = offline(|c| {
        c.test(good)
            .test("request = \"GET /admin/users\"\nroles = [\"admin\"]\nexpect = \"pass\"")
            .test("request = \"GET /x\"\nanonymous = true\nexpect = 401")
            .test("request = \"GET http://shop.test/public/x\"\nanonymous = true\nexpect = \"pass\"")
            .test("request = \"GET /u/7/x\"\nuser_id = \"7\"\nroles = [\"user\"]\nexpect = \"pass\"")
            .test("request = \"GET /u/7/x\"\nuser_id = \"8\"\nroles = [\"user\"]\nexpect = 403")
            .test("request = \"DELETE /read/x\"\nroles = [\"user\"]\nexpect = 405")
            .test("request = \"GET /a/%2e%2e/b\"\nroles = [\"user\"]\nexpect = 400")
    });
    gateway.cli(&["check"]).succeeds();
    let gateway = offline(|c| {
        c.test(good).test("request = \"GET /admin/users\"\nroles = [\"user\"]\nexpect = \"pass\"")
    });
    let ended = gateway.cli(&["check"]).exits(1);
    assert!(ended.said().contains("/admin/users") && ended.said().contains("403"), "{}", ended.said());
}

#[test]
fn check_warns_of_open_registration_before_a_plain_route() {
    let strong = |c: Config| c.unset("auth.password", "memory").unset("auth.password", "iterations");
    let said = offline(strong).cli(&["check"]).succeeds().said();
    assert!(said.contains("warning") && said.contains("register"), "{said}");
    let closed = |c: Config| strong(c).unset("auth", "registration");
    let roles_only = |c: Config| strong(c).no_routes().route("path = \"/**\"\nroles = [\"admin\"]");
    for said in [
        offline(closed).cli(&["check"]).succeeds().said(),
        offline(roles_only).cli(&["check"]).succeeds().said(),
    ] {
        assert!(!said.contains("warning:"), "{said}");
    }
}

#[test]
fn secret_files_are_read_and_their_permissions_checked() {
    let gateway = offline(|c| {
        c.set("tokens", "algorithm", "\"HS256\"").set("tokens", "secret_file", "\"token.secret\"")
    });
    let file = gateway.home().join("token.secret");
    fs::write(&file, "a secret of more than thirty-two bytes\n").unwrap();
    for (mode, code) in [(0o600, 0), (0o400, 0), (0o644, 0), (0o620, 1), (0o602, 1), (0o666, 1)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let ended = gateway.cli(&["check"]).exits(code);
        assert_eq!(
            ended.said().contains("token.secret"),
            mode != 0o600 && mode != 0o400,
            "{mode:o}: {}",
            ended.said()
        );
        assert!(!ended.said().contains("more than thirty-two"), "{}", ended.said());
    }
    fs::remove_file(&file).unwrap();
    gateway.cli(&["check"]).exits(1);
}

#[test]
fn explain_is_the_engine_that_serves() {
    let world = World::new();
    let alice = world.user("alice");
    for (arguments, verdict) in [
        (vec!["GET", "/admin/x", "--role", "user"], 403),
        (vec!["GET", "/admin/x", "--anonymous"], 401),
        (vec!["GET", "/x", "--anonymous"], 401),
        (vec!["POST", "/read/x", "--role", "user"], 405),
        (vec!["GET", "/public/%2e%2e/admin", "--role", "user"], 400),
        (vec!["TRACE", "/public/x", "--anonymous"], 405),
        (vec!["GET", "/auth/nothing", "--anonymous"], 404),
        (vec!["GET", "/x", "--token", "rubbish"], 401),
    ] {
        let mut all = vec!["explain"];
        all.extend(arguments.iter());
        let text = world.cli(&all).succeeds().stdout;
        assert!(text.contains(&verdict.to_string()), "{arguments:?}: {text}");
        all.push("--json");
        let json = world.cli(&all).succeeds().json();
        assert_eq!(dig(&json, "status").and_then(Value::as_u64), Some(verdict), "{arguments:?}: {json}");
        // What it says is what happens.
        let mut request = crate::support::request::Request::new(arguments[0], arguments[1]);
        if arguments.contains(&"--role") {
            request = request.bearer(&alice.access);
        } else if arguments.contains(&"--token") {
            request = request.bearer("rubbish");
        }
        assert_eq!(u64::from(world.ask(request).status), verdict, "{arguments:?}");
    }
    let text = world.cli(&["explain", "GET", "/admin/x", "--role", "admin"]).succeeds().stdout;
    for word in ["/admin/**", "/**", "app"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let json = world.cli(&["explain", "GET", "/x", "--token", &alice.access, "--json"]).succeeds().json();
    assert!(
        json.to_string().to_lowercase().contains("x-auth-user") && json.to_string().contains("alice"),
        "{json}"
    );
    world.ask(post("/auth/logout").bearer(&alice.access)).expect(200);
    let json = world.cli(&["explain", "GET", "/x", "--token", &alice.access, "--json"]).succeeds().json();
    assert!(json.to_string().contains("revoked"), "{json}");
    assert_eq!(world.upstream.count(), 0, "explaining asks nobody");
}

#[test]
fn explain_as_a_user_is_as_if_they_logged_in_now() {
    let world = World::new();
    let ids = [world.user("alice").text("sub"), world.user_with("boss", &["admin"]).text("sub")];
    let verdict = |path: &str, user: &str| {
        let json = world.cli(&["explain", "GET", path, "--user", user, "--json"]).succeeds().json();
        json.to_string()
    };
    assert!(verdict("/admin/x", "alice").contains("403"));
    assert!(verdict("/admin/x", "boss").contains("admin,editor,user"));
    assert!(verdict(&format!("/u/{}/x", ids[0]), "alice").contains(&ids[0]));
    assert!(verdict(&format!("/u/{}/x", ids[1]), "alice").contains("403"));
    world.cli(&["explain", "GET", "/x", "--user", "nobody"]).exits(1);
}

#[test]
fn config_show_masks_secrets_and_tells_origins() {
    let gateway =
        offline(|c| c.hs256("canary-secret-of-more-than-thirty-two-bytes").set("log", "level", "\"debug\""));
    let shown = gateway.cli(&["config", "show"]).succeeds();
    assert!(!shown.said().contains("canary-secret"), "{}", shown.said());
    assert!(shown.stdout.contains("access_ttl") && shown.stdout.contains("15m"), "{}", shown.stdout);
    let environment = [("GATEPOST__TOKENS__ACCESS_TTL", "5m"), ("GATEPOST__SERVER__WORKERS", "3")];
    let origin = gateway
        .cli_with(&["--set", "server.workers=5", "config", "show", "--origin"], "", &environment)
        .succeeds()
        .stdout;
    let line = |key: &str| {
        origin.lines().find(|l| l.contains(key)).unwrap_or_else(|| panic!("{key} in {origin}")).to_owned()
    };
    assert!(
        line("access_ttl").contains("5m") && line("access_ttl").contains("GATEPOST__TOKENS__ACCESS_TTL"),
        "{origin}"
    );
    assert!(line("workers").contains('5') && line("workers").contains("--set"), "{origin}");
    assert!(line("level").contains("debug") && line("level").contains("config.toml:"), "{origin}");
    assert!(line("refresh_ttl").contains("30d") && line("refresh_ttl").contains("default"), "{origin}");
    assert!(!origin.contains("canary-secret"));
}

#[test]
fn the_environment_addresses_array_tables_by_name_and_unknown_variables_are_errors() {
    let world = World::new();
    let server = format!("[\"http://127.0.0.1:{}\"]", world.upstream.port());
    let gateway = offline(|c| c);
    let shown = gateway
        .cli_with(&["config", "show"], "", &[("GATEPOST__UPSTREAM__APP__SERVERS", &server)])
        .succeeds()
        .stdout;
    assert!(shown.contains(&world.upstream.port().to_string()), "{shown}");
    let ended = gateway.cli_with(&["check"], "", &[("GATEPOST__SERVER__WROKERS", "3")]).exits(1);
    assert!(ended.said().contains("GATEPOST__SERVER__WROKERS"), "{}", ended.said());
    // A Kubernetes service called gatepost injects these: none of ours.
    gateway
        .cli_with(
            &["check"],
            "",
            &[("GATEPOST_PORT", "tcp://10.0.0.1:80"), ("GATEPOST_SERVICE_HOST", "10.0.0.1")],
        )
        .succeeds();
    let ended = gateway.cli(&["--set", "server.wrokers=3", "check"]).exits(1);
    assert!(ended.said().contains("wrokers"), "{}", ended.said());
}

/// Everything that `user` does, over a gateway that serves or over its store alone.
fn accounts_by_command(gateway: &Gateway) {
    add(gateway, "alice").succeeds();
    add(gateway, "alice").exits(1);
    add(gateway, "ALICE").exits(1);
    add(gateway, "a b").exits(1);
    gateway.cli_with(&["user", "add", "bob", "--password-stdin"], "short\n", &[]).exits(1);
    gateway.cli(&["user", "show", "bob"]).exits(1);
    let list = gateway.cli(&["user", "list", "--json"]).succeeds().json();
    assert!(list.to_string().contains("alice") && !list.to_string().contains("argon2"), "{list}");
    assert!(gateway.cli(&["user", "list"]).succeeds().stdout.contains("alice"));

    gateway
        .cli(&[
            "user",
            "set",
            "alice",
            "--role",
            "admin",
            "--role",
            "auditor",
            "--email",
            "alice@example.com",
            "--name",
            "Alice",
        ])
        .succeeds();
    let shown = gateway.cli(&["user", "show", "alice", "--json"]).succeeds().json();
    assert_eq!(dig(&shown, "username"), Some(&json!("alice")), "{shown}");
    assert_eq!(dig(&shown, "email"), Some(&json!("alice@example.com")), "{shown}");
    assert_eq!(
        dig(&shown, "email_verified"),
        Some(&json!(true)),
        "an address set here counts as proved: {shown}"
    );
    assert_eq!(dig(&shown, "name"), Some(&json!("Alice")), "{shown}");
    assert!(shown.to_string().contains("auditor"), "{shown}");
    gateway.cli(&["user", "set", "alice", "--role", "user"]).succeeds();
    let shown = gateway.cli(&["user", "show", "alice", "--json"]).succeeds().json();
    assert!(!shown.to_string().contains("auditor"), "roles are replaced: {shown}");
    let ended = gateway.cli(&["user", "set", "alice", "--role", "amdin"]).exits(1);
    assert!(ended.stderr.contains("amdin"), "{ended:?}");

    gateway
        .cli_with(&["user", "passwd", "alice", "--password-stdin"], "another password 1\n", &[])
        .succeeds();
    gateway.cli_with(&["user", "passwd", "alice", "--password-stdin"], "short\n", &[]).exits(1);
    gateway.cli(&["user", "disable", "alice"]).succeeds();
    gateway.cli(&["user", "enable", "alice"]).succeeds();
    gateway.cli(&["user", "unlock", "alice"]).succeeds();
    gateway.cli(&["user", "sessions", "alice"]).succeeds();
    gateway.cli(&["user", "logout", "alice"]).succeeds();
    for command in ["show", "disable", "enable", "unlock", "sessions", "logout", "remove"] {
        let ended = gateway.cli(&["user", command, "nobody"]).exits(1);
        assert!(!ended.stderr.is_empty(), "{command}: {ended:?}");
    }
    gateway.cli(&["user", "set", "nobody", "--role", "user"]).exits(1);
    gateway.cli_with(&["user", "passwd", "nobody", "--password-stdin"], "another password 1\n", &[]).exits(1);
    add(gateway, "carol").succeeds();
    gateway.cli(&["user", "remove", "carol"]).succeeds();
    gateway.cli(&["user", "show", "carol"]).exits(1);
}

#[test]
fn accounts_are_kept_on_the_command_line_while_serving() {
    let world = World::new();
    accounts_by_command(&world);
    Tokens::of(world.try_login("alice", "another password 1"));
    world.try_login("alice", PASSWORD).is_problem(401, "invalid_credentials");
    world.try_login("carol", PASSWORD).is_problem(401, "invalid_credentials");
}

#[test]
fn accounts_are_kept_on_the_command_line_while_nobody_serves() {
    let mut gateway = offline(|c| c);
    accounts_by_command(&gateway);
    gateway.start_again();
    let tokens = Tokens::of(gateway.try_login("alice", "another password 1"));
    assert_eq!(tokens.claim("email"), "alice@example.com");
    assert_eq!(tokens.claim("email_verified"), true);
}

#[test]
fn reserved_names_are_for_the_command_line() {
    let world = World::new();
    world.register("admin").is_problem(409, "user_exists");
    add(&world, "admin").succeeds();
    world.login("admin");
}

#[test]
fn a_password_set_on_the_command_line_ends_every_session() {
    let world = World::new();
    let tokens = world.user("alice");
    world.cli_with(&["user", "passwd", "alice", "--password-stdin"], "another password 1\n", &[]).succeeds();
    world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
    world.refresh(&tokens.refresh).is_problem(401, "invalid_grant");
}

#[test]
fn sessions_are_shown_and_ended_on_the_command_line() {
    let world = World::new();
    let tokens = [world.user("alice"), world.login("alice")];
    let sessions = world.cli(&["user", "sessions", "alice", "--json"]).succeeds().json();
    for tokens in &tokens {
        assert!(sessions.to_string().contains(&tokens.text("sid")), "{sessions}");
    }
    world.cli(&["user", "logout", "alice"]).succeeds();
    for tokens in &tokens {
        world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
    }
    world.login("alice");
}

#[test]
fn what_is_done_while_nobody_serves_holds_when_somebody_does() {
    let mut world = World::new();
    let tokens = [world.user("alice"), world.user("bob"), world.user("carol"), world.user("dave")];
    world.stop();
    world.cli(&["user", "disable", "alice"]).succeeds();
    world.cli(&["user", "set", "bob", "--role", "admin"]).succeeds();
    world.cli(&["user", "logout", "carol"]).succeeds();
    world.cli(&["token", "revoke", &tokens[3].access]).succeeds();
    world.start_again();
    for tokens in &tokens {
        world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
    }
    let bob = Tokens::of(world.refresh(&tokens[1].refresh));
    world.passes(get("/admin/x").bearer(&bob.access)).0.expect(200);
    world.refresh(&tokens[2].refresh).is_problem(401, "invalid_grant");
}

#[test]
fn tokens_are_inspected_and_revoked_by_every_handle() {
    let world = World::new();
    let tokens = world.user("alice");
    for text in [
        world.cli(&["token", "inspect", &tokens.access]).succeeds().stdout,
        world.cli(&["token", "inspect", &tokens.access, "--json"]).succeeds().json().to_string(),
    ] {
        assert!(text.contains("alice") && text.contains(&tokens.text("jti")), "{text}");
        assert!(!text.contains(jwt::part(&tokens.access, 2)), "the signature is not repeated");
    }
    let said = world.cli(&["token", "inspect", "rubbish"]).said();
    assert!(!said.is_empty());

    let (by_token, by_jti, by_session, kept) =
        (world.login("alice"), world.login("alice"), world.login("alice"), world.login("alice"));
    let help = world.cli(&["token", "revoke", "--help"]).succeeds().stdout;
    for handle in ["jti", "session", "user"] {
        assert!(help.contains(handle), "{handle} in {help}");
    }
    world.cli(&["token", "revoke", &by_token.access]).succeeds();
    world.cli(&["token", "revoke", "--jti", &by_jti.text("jti")]).succeeds();
    world.cli(&["token", "revoke", "--session", &by_session.text("sid")]).succeeds();
    for tokens in [&by_token, &by_jti, &by_session] {
        world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
    }
    world.refresh(&by_session.refresh).is_problem(401, "invalid_grant");
    Tokens::of(world.refresh(&by_jti.refresh));
    world.passes(get("/x").bearer(&kept.access)).0.expect(200);
    world.cli(&["token", "revoke", "--user", "alice"]).succeeds();
    world.refuses(get("/x").bearer(&kept.access), 401, "revoked_token");
    assert!(world.cli(&["token", "inspect", &kept.access]).stdout.contains("revoked"));
    world.cli(&["token", "revoke", "rubbish"]).exits(1);
    world.cli(&["token", "revoke", "--user", "nobody"]).exits(1);
}

#[test]
fn keys_are_listed_and_exported_without_their_private_half() {
    let world = World::new();
    let tokens = world.user("alice");
    let kid = jwt::header(&tokens.access)["kid"].as_str().unwrap().to_owned();
    assert!(world.cli(&["key", "list"]).succeeds().stdout.contains(&kid));
    let exported = world.cli(&["key", "export"]).succeeds().json();
    assert_eq!(exported, world.ask(get("/auth/jwks.json")).json());
    assert!(dig(&exported, "d").is_none());
}

#[test]
fn hash_password_prints_a_phc_string_and_not_the_password() {
    let gateway = offline(|c| c);
    let ended = gateway.cli_with(&["hash-password"], &format!("{PASSWORD}\n"), &[]).succeeds();
    assert!(ended.stdout.starts_with("$argon2id$v=19$"), "{ended:?}");
    assert_eq!(ended.stdout.trim().lines().count(), 1);
    assert!(!ended.said().contains(PASSWORD));
    let again = gateway.cli_with(&["hash-password"], &format!("{PASSWORD}\n"), &[]).succeeds();
    assert_ne!(ended.stdout, again.stdout, "a salt of its own");
}

#[test]
fn health_is_0_when_ready_and_1_when_not() {
    let mut world = World::new();
    // The probe runs beside the process and reads the same file: the file must name the port.
    let text = fs::read_to_string(world.config()).unwrap();
    let admin = world.admin();
    let named =
        text.replacen("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{admin}\""), 1);
    assert_ne!(named, text);
    world.configure(&named);
    world.cli(&["health"]).succeeds();
    world.stop();
    world.cli(&["health"]).exits(1);
}

#[test]
fn completions_are_scripts() {
    let gateway = offline(|c| c);
    for shell in ["bash", "zsh", "fish"] {
        let script = gateway.cli(&["completions", shell]).succeeds().stdout;
        assert!(script.contains("gatepost") && script.contains("explain"), "{shell}");
    }
}

#[test]
fn without_its_socket_a_held_store_is_exit_1_naming_the_pid() {
    let world = World::new();
    world.user("alice");
    fs::remove_file(world.home().join("data/gatepost.sock")).unwrap();
    let ended = world.cli(&["user", "list"]).exits(1);
    assert!(ended.stderr.contains(&world.pid().to_string()), "{ended:?}");
}

#[test]
fn a_stale_socket_is_no_hindrance() {
    let mut world = World::new();
    world.user("alice");
    world.kill();
    assert!(world.home().join("data/gatepost.sock").exists(), "a killed process leaves its socket");
    assert!(world.cli(&["user", "list"]).succeeds().stdout.contains("alice"));
    world.start_again();
    assert!(world.cli(&["user", "list"]).succeeds().stdout.contains("alice"));
    world.login("alice");
}

#[test]
fn the_configuration_is_found_by_option_then_variable_then_directory() {
    let gateway = offline(|c| c.set("log", "level", "\"debug\""));
    let other = gateway.home().join("other.toml");
    fs::copy(gateway.config(), &other).unwrap();
    let text = fs::read_to_string(&other).unwrap().replace("\"debug\"", "\"warn\"");
    fs::write(&other, text).unwrap();
    let level = |arguments: &[&str], variable: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command
            .current_dir(gateway.home())
            .args(arguments)
            .args(["config", "show"])
            .env_remove("GATEPOST_CONFIG");
        if let Some(value) = variable {
            command.env("GATEPOST_CONFIG", value);
        }
        let shown = crate::support::gateway::run(command, "").succeeds().stdout;
        shown.lines().find(|l| l.contains("level")).unwrap_or_else(|| panic!("{shown}")).to_owned()
    };
    assert!(level(&[], None).contains("debug"));
    assert!(level(&[], Some("other.toml")).contains("warn"));
    assert!(level(&["--config", "config.toml"], Some("other.toml")).contains("debug"));
    let missing = gateway.cli(&["--config", "/nonexistent/config.toml", "check"]);
    assert!(matches!(missing.code, Some(1 | 2)), "{missing:?}");
}
