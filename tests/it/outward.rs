//! The app is asked who may move in and who may register, and told of accounts: what it says counts when
//! it is clear, and nothing that it does (or does not) makes an account by accident.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Response;
use crate::support::config::Config;
use crate::support::gateway::{Gateway, Tokens};
use crate::support::jwt;
use crate::support::request::{Request, get, post};
use crate::support::upstream::{Exchange, Recorded, Upstream, hang, reset};
use crate::support::{PASSWORD, eventually};

const SECRET: &str = "kx0WVQ3nqRrJ5oJ2ZC1vK3C3F0s0o4Zp8t7Y2b1=";

fn answer(exchange: &mut Exchange<'_>, status: &str, body: &str) {
    let length = body.len();
    exchange.send(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"));
}

fn body_of(request: &Recorded) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

/// Asks for the JSON of a request and answers what `judge` says of it.
fn app(judge: impl Fn(&Value) -> (&'static str, &'static str) + Send + Sync + 'static) -> Upstream {
    Upstream::scripted(move |exchange| {
        let body = serde_json::from_slice(&exchange.read_body()).unwrap_or_default();
        let (status, text) = judge(&body);
        answer(exchange, status, text);
    })
}

/// An app that knows alice, and nobody else.
fn app_with_alice() -> Upstream {
    app(|login| {
        let known = login["username"] == "alice" && login["password"] == PASSWORD;
        if known { ("200 OK", "{}") } else { ("401 Unauthorized", "{}") }
    })
}

fn base(upstream: &Upstream) -> Config {
    Config::new().upstream("app", upstream.port())
}

fn migrating(config: Config, login: &Upstream) -> Config {
    config
        .set("auth", "registration", "\"closed\"")
        .set("auth.migrate", "url", &format!("\"http://127.0.0.1:{}/login\"", login.port()))
        .set("auth.migrate", "until", "2999-12-31")
        .set("auth.migrate", "timeout", "\"10s\"")
}

fn asking(config: Config, app: &Upstream) -> Config {
    config.set("auth", "admission_url", &format!("\"http://127.0.0.1:{}/may?x=1\"", app.port())).set(
        "auth",
        "admission_timeout",
        "\"10s\"",
    )
}

fn no_account(gateway: &Gateway) {
    let list = gateway.cli(&["user", "list", "--json"]).succeeds().json();
    assert_eq!(list, json!([]), "an account by accident");
}

// --- [auth.migrate] -----------------------------------------------------------------------------

#[test]
fn who_is_known_to_the_app_moves_in_once() {
    let (upstream, login) = (Upstream::echo(), app_with_alice());
    let gateway = Gateway::start(&migrating(base(&upstream), &login));
    let tokens = Tokens::of(gateway.try_login("ALICE", PASSWORD));
    assert_eq!(tokens.text("username"), "alice");
    let me = gateway.me(&tokens.access).expect(200).json();
    assert_eq!((&me["roles"], &me["email"]), (&json!(["user"]), &Value::Null));

    // Once with what came, under the name as it is here, and once with what nobody has.
    let asked = login.seen();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("POST", "/login"));
    assert_eq!(asked[0].header("content-type"), Some("application/json"));
    assert_eq!(asked[0].header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(body_of(&asked[0]), json!({"username": "alice", "password": PASSWORD}));
    assert_eq!(body_of(&asked[1])["username"], "alice");
    assert_ne!(body_of(&asked[1])["password"], PASSWORD);
    login.saw_only_proper_requests();

    // From now on it is ours: the app is not asked, whatever comes.
    Tokens::of(gateway.try_login("alice", PASSWORD));
    gateway.try_login("alice", "another password").is_problem(401, "invalid_credentials");
    assert_eq!(login.count(), 2);
    assert_eq!(gateway.metric("gatepost_migrate_total{result=\"yes\"}"), Some(1.0));
    assert_eq!(upstream.count(), 0, "logins are not forwarded");
    for text in ["password", PASSWORD] {
        assert!(!gateway.log_lines().text().contains(&format!("{text}\"")), "{text} is in the log");
    }
}

#[test]
fn whom_the_app_does_not_know_gets_the_usual_answer_and_is_slowed_down() {
    let (upstream, login) = (Upstream::echo(), app_with_alice());
    let config = migrating(base(&upstream), &login).set("auth.throttle", "failures", "3");
    let gateway = Gateway::start(&config);
    for _ in 0..3 {
        gateway.try_login("alice", "wrong password").is_problem(401, "invalid_credentials");
    }
    assert_eq!(login.count(), 3);
    gateway.try_login("alice", PASSWORD).is_problem(429, "throttled");
    assert_eq!(login.count(), 3, "who is throttled is not asked for");
    // Names that are kept for operators, and what is no name, are not asked for either.
    for name in ["admin", "root", "a b", "", "\u{0}"] {
        gateway.try_login(name, PASSWORD).is_problem(401, "invalid_credentials");
    }
    assert_eq!(login.count(), 3);
    no_account(&gateway);
}

#[test]
fn forms_are_filled_in_and_a_redirect_is_a_status_like_any_other() {
    let upstream = Upstream::echo();
    let login = Upstream::scripted(|exchange| {
        let body = String::from_utf8(exchange.read_body()).unwrap();
        let good = body == "user=bob&pass=p%26w%3D%20%C3%BC&go=1";
        let status = if good { "302 Found\r\nLocation: /evil" } else { "200 OK" };
        answer(exchange, status, "<html>");
    });
    let config = migrating(base(&upstream), &login)
        .set("auth.migrate", "body", "'user={username}&pass={password}&go=1'")
        .set("auth.migrate", "ok_status", "[302]");
    let gateway = Gateway::start(&config);
    gateway.try_login("bob", "p&w= u").is_problem(401, "invalid_credentials");
    // Shorter than what is asked of new passwords: it is the one that he has.
    Tokens::of(gateway.try_login("bob", "p&w= ü"));
    assert_eq!(login.seen()[0].header("content-type"), Some("application/x-www-form-urlencoded"));
    assert!(login.seen().iter().all(|request| request.target == "/login"), "nothing is followed");
}

#[test]
fn a_page_that_greets_everybody_makes_no_account() {
    let upstream = Upstream::echo();
    for status in ["200 OK", "204 No Content"] {
        let login = app(move |_| (status, ""));
        let config = migrating(base(&upstream), &login).set("auth.migrate", "ok_status", "[200, 204]");
        let gateway = Gateway::start(&config);
        gateway.try_login("alice", PASSWORD).is_problem(503, "migration_unavailable");
        assert!(gateway.log_lines().wait(|line| line.contains("a password that nobody has")));
        no_account(&gateway);
    }
}

#[test]
fn a_login_that_fails_in_whatever_way_makes_no_account() {
    let upstream = Upstream::echo();
    let long = |exchange: &mut Exchange<'_>| {
        exchange.read_body();
        exchange.send(format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(200_000)));
    };
    let apps: [(&str, Upstream, u16, &str); 10] = [
        ("hangs", Upstream::scripted(hang), 503, "migration_unavailable"),
        ("resets", Upstream::scripted(reset), 503, "migration_unavailable"),
        ("rubbish", Upstream::answering_and_closing("rubbish\r\n\r\n"), 503, "migration_unavailable"),
        ("nothing", Upstream::answering_and_closing(""), 503, "migration_unavailable"),
        ("a long head", Upstream::scripted(long), 503, "migration_unavailable"),
        ("an error", app(|_| ("500 Internal Server Error", "")), 503, "migration_unavailable"),
        ("too many", app(|_| ("429 Too Many Requests", "")), 503, "migration_unavailable"),
        ("redirects", app(|_| ("302 Found\r\nLocation: /login", "")), 401, "invalid_credentials"),
        ("not there", app(|_| ("404 Not Found", "")), 401, "invalid_credentials"),
        ("another yes", app(|_| ("201 Created", "")), 401, "invalid_credentials"),
    ];
    for (what, login, status, code) in apps {
        let config = migrating(base(&upstream), &login);
        let config =
            if what == "hangs" { config.set("auth.migrate", "timeout", "\"300ms\"") } else { config };
        let gateway = Gateway::start(&config);
        let response = gateway.try_login("alice", PASSWORD);
        assert_eq!((response.status, response.code().as_str()), (status, code), "{what}");
        response.is_problem(status, code);
        assert!(login.count() <= 1, "{what}: it was asked again");
        if status == 503 {
            assert!(gateway.log_lines().wait(|line| line.contains("gave no clear answer")), "{what}");
            assert_eq!(gateway.metric("gatepost_migrate_total{result=\"none\"}"), Some(1.0), "{what}");
        }
        no_account(&gateway);
        assert_eq!(upstream.count(), 0);
    }
}

#[test]
fn an_app_that_is_down_stops_nobody_who_has_moved() {
    let upstream = Upstream::echo();
    // A port where nobody listens: taken, and given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = base(&upstream)
        .set("auth", "registration", "\"closed\"")
        .set("auth.migrate", "url", &format!("\"http://127.0.0.1:{port}/login\""))
        .set("auth.migrate", "until", "\"2999-12-31\"");
    let gateway = Gateway::start(&config);
    gateway.cli_with(&["user", "add", "bob", "--password-stdin"], PASSWORD, &[]).succeeds();
    gateway.login("bob");
    gateway.try_login("bob", "wrong password").is_problem(401, "invalid_credentials");
    gateway.try_login("alice", PASSWORD).is_problem(503, "migration_unavailable");
}

#[test]
fn a_name_of_somebody_who_is_gone_does_not_come_back() {
    let (upstream, login) = (Upstream::echo(), app_with_alice());
    let gateway = Gateway::start(&migrating(base(&upstream), &login));
    Tokens::of(gateway.try_login("alice", PASSWORD));
    gateway.cli(&["user", "remove", "alice"]).succeeds();
    gateway.try_login("alice", PASSWORD).is_problem(401, "invalid_credentials");
    no_account(&gateway);
}

/// An app whose login takes a name or an address says yes to both, and knows one person by them.
#[test]
fn one_person_moves_in_by_one_kind_of_name() {
    let upstream = Upstream::echo();
    let login = app(|login| {
        let hers = login["username"] == "alice" || login["username"] == "alice@example.com";
        if hers && login["password"] == PASSWORD { ("200 OK", "{}") } else { ("401 Unauthorized", "{}") }
    });
    // What people log in with, which of hers moves in, how often the app was asked for the two of them.
    for (login_name, name, address, asked) in
        [("either", 200, 401, 2), ("username", 200, 401, 2), ("email", 401, 200, 2)]
    {
        let before = login.count();
        let config = migrating(base(&upstream), &login).set("auth", "login_name", &format!("{login_name:?}"));
        let gateway = Gateway::start(&config);
        for (typed, status) in [("alice@example.com", address), ("alice", name)] {
            let answer = gateway.try_login(typed, PASSWORD);
            assert_eq!(answer.status, status, "{login_name}: {typed}: {}", answer.text());
            if status == 401 {
                answer.is_problem(401, "invalid_credentials");
            }
        }
        assert_eq!(login.count() - before, asked, "{login_name}: of the other nobody was asked");
        let list = gateway.cli(&["user", "list", "--json"]).succeeds().json();
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{login_name}: {list}");
    }
    assert_eq!(upstream.count(), 0);
}

/// However many logins hang, and from wherever: registering is another question, and nobody has all places.
#[test]
fn logins_that_hang_keep_nobody_from_registering() {
    let (upstream, login) = (Upstream::echo(), Upstream::scripted(hang));
    let admission = app(|_| ("204 No Content", ""));
    let config = asking(migrating(base(&upstream), &login), &admission)
        .set("auth", "registration", "\"open\"")
        .set("auth.migrate", "timeout", "\"60s\"")
        .set("server", "trusted_proxies", "[\"127.0.0.1\"]");
    let gateway = Gateway::start(&config);
    let ask_in = |name: &str, from: &str| {
        let mut client = gateway.connect();
        let body = json!({"username": name, "password": PASSWORD});
        client.send(post("/auth/login").header("X-Forwarded-For", from).json(body).bytes());
        client
    };
    let under_way = |count: usize| {
        eventually("the logins are under way", || (login.count() == count).then_some(()));
    };
    // One address has sixteen of the places.
    let mut hanging: Vec<_> = (0..16).map(|n| ask_in(&format!("a{n}"), "192.0.2.1")).collect();
    under_way(16);
    ask_in("another", "192.0.2.1").response().is_problem(503, "migration_unavailable");
    // All of them have sixty-four.
    hanging.extend((0..48).map(|n| ask_in(&format!("b{n}"), &format!("198.51.100.{n}"))));
    under_way(64);
    ask_in("c", "203.0.113.1").response().is_problem(503, "migration_unavailable");
    let body = json!({"username": "new", "password": PASSWORD});
    gateway.ask(post("/auth/register").json(body)).expect(201);
    // Who goes away gives the place back, and nobody is locked out afterwards.
    drop(hanging.remove(0));
    login.wait_until_open(63);
    let again = ask_in("another", "192.0.2.1");
    under_way(65);
    assert_eq!(upstream.count(), 0);
    drop((again, hanging));
    login.wait_until_all_closed();
    let list = gateway.cli(&["user", "list", "--json"]).succeeds().json();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
}

/// The app goes on saying yes to whoever it knew.
#[test]
fn nor_does_an_address_of_somebody_who_is_gone_or_called_otherwise() {
    let upstream = Upstream::echo();
    let login = app(|login| {
        let known = login["password"] == PASSWORD;
        if known { ("200 OK", "{}") } else { ("401 Unauthorized", "{}") }
    });
    let config = migrating(base(&upstream), &login).set("auth", "login_name", "\"email\"");
    let gateway = Gateway::start(&config);
    let moved = ["removed@example.com", "left@example.com", "changed@example.com"];
    for address in moved {
        Tokens::of(gateway.try_login(address, PASSWORD));
    }
    gateway.cli(&["user", "remove", moved[0]]).succeeds();
    let left = gateway.login(moved[1]);
    let goodbye = Request::new("DELETE", "/auth/me").bearer(&left.access);
    gateway.ask(goodbye.json(json!({"password": PASSWORD}))).expect(204);
    gateway.cli(&["user", "set", moved[2], "--email", "new@example.com"]).succeeds();
    for address in moved.into_iter().chain(["REMOVED@example.com"]) {
        gateway.try_login(address, PASSWORD).is_problem(401, "invalid_credentials");
    }
    gateway.login("new@example.com");
    let list = gateway.cli(&["user", "list", "--json"]).succeeds().json();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    // It is free for everybody else, and an operator may bring them back.
    let add = ["user", "add", moved[0], "--password-stdin"];
    gateway.cli_with(&add, "another long password", &[]).succeeds();
    Tokens::of(gateway.try_login(moved[0], "another long password"));
    assert_eq!(upstream.count(), 0);

    // The same where people have names as well.
    let gateway = Gateway::start(&migrating(base(&upstream), &login));
    let add = ["user", "add", "dave", "--email", "dave@example.com", "--password-stdin"];
    gateway.cli_with(&add, PASSWORD, &[]).succeeds();
    gateway.cli(&["user", "remove", "dave"]).succeeds();
    for name in ["dave", "dave@example.com"] {
        gateway.try_login(name, PASSWORD).is_problem(401, "invalid_credentials");
    }
    no_account(&gateway);
}

/// What is in the app's tables goes by its ids.
#[test]
fn who_moves_in_keeps_the_id_that_the_app_has_given() {
    let upstream = Upstream::echo();
    let login = app(|login| match (login["username"].as_str(), login["password"] == PASSWORD) {
        (Some("alice"), true) => ("200 OK", r#"{"access_token": "x", "user": {"id": 7, "name": "Alice"}}"#),
        (Some("bob"), true) => ("200 OK", r#"{"user": {"id": "507f1f77bcf86cd799439011"}}"#),
        (Some("mallory"), true) => ("200 OK", r#"{"user": {"id": 7}}"#),
        _ => ("401 Unauthorized", "{}"),
    });
    let config = migrating(base(&upstream), &login)
        .set("auth.migrate", "id", "\"user.id\"")
        .legacy("algorithm = \"HS256\"\nsecret = \"super-secret\"\nuntil = \"9999-01-01\"");
    let gateway = Gateway::start(&config);
    for (name, id) in [("alice", "7"), ("bob", "507f1f77bcf86cd799439011")] {
        let tokens = Tokens::of(gateway.try_login(name, PASSWORD));
        assert_eq!(tokens.text("sub"), id);
        let before = upstream.count();
        gateway.ask(get("/x").bearer(&tokens.access)).expect(200);
        assert_eq!(upstream.seen()[before].header("x-auth-id"), Some(id));
        assert_eq!(Tokens::of(gateway.try_login(name, PASSWORD)).text("sub"), id);
    }
    // It is the one that the app means by that number.
    let minted = jwt::hs256(
        b"super-secret",
        &json!({"alg": "HS256", "typ": "JWT"}),
        &json!({"sub": 7, "exp": jwt::now() + 900}),
    );
    gateway.ask(get("/x").bearer(minted)).expect(200);
    let before = upstream.count();
    gateway.try_login("mallory", PASSWORD).is_problem(503, "migration_unavailable");
    assert!(gateway.log_lines().wait(|line| line.contains("belongs to an account of another name")));
    let list = gateway.cli(&["user", "list", "--json"]).succeeds().json();
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    assert_eq!(upstream.count(), before);
}

#[test]
fn a_yes_without_the_id_that_there_should_be_makes_no_account() {
    let upstream = Upstream::echo();
    let endless = |exchange: &mut Exchange<'_>| {
        exchange.read_body();
        exchange.send("HTTP/1.1 200 OK\r\n\r\n{\"id\": 7, \"x\": \"");
        while exchange.send("x".repeat(10_000)) {}
    };
    let stuck = |exchange: &mut Exchange<'_>| {
        exchange.read_body();
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"id\": 7");
        hang(exchange);
    };
    let saying = |body: &'static str| {
        app(
            move |login| {
                if login["password"] == PASSWORD { ("200 OK", body) } else { ("401 Unauthorized", "") }
            },
        )
    };
    for (what, login) in [
        ("never ends", Upstream::scripted(endless)),
        ("stops half way", Upstream::scripted(stuck)),
        ("nothing", saying("")),
        ("a page", saying("<html>Welcome</html>")),
        ("a token by itself", saying(r#"{"access_token": "eyJ0.eyJzdWIiOjd9.c2ln"}"#)),
        ("null", saying(r#"{"id": null}"#)),
        ("no number of anybody", saying(r#"{"id": -7}"#)),
        ("two", saying(r#"{"id": 7, "id": 1}"#)),
        ("a header in it", saying(r#"{"id": "7\r\nX-Auth-Roles: admin"}"#)),
    ] {
        let config = migrating(base(&upstream), &login).set("auth.migrate", "id", "\"id\"");
        let config = if what == "stops half way" {
            config.set("auth.migrate", "timeout", "\"300ms\"")
        } else {
            config
        };
        let gateway = Gateway::start(&config);
        let response = gateway.try_login("alice", PASSWORD);
        assert_eq!((response.status, response.code().as_str()), (503, "migration_unavailable"), "{what}");
        assert!(gateway.log_lines().wait(|line| line.contains("gave no clear answer")), "{what}");
        assert_eq!(gateway.metric("gatepost_migrate_total{result=\"none\"}"), Some(1.0), "{what}");
        no_account(&gateway);
        assert_eq!(upstream.count(), 0);
    }
    // A no is one without being read.
    let login = Upstream::scripted(|exchange| {
        exchange.read_body();
        answer(exchange, "401 Unauthorized", &"x".repeat(1_000_000));
    });
    let gateway = Gateway::start(&migrating(base(&upstream), &login).set("auth.migrate", "id", "\"id\""));
    gateway.try_login("alice", PASSWORD).is_problem(401, "invalid_credentials");
}

#[test]
fn of_many_first_logins_at_once_all_get_in_and_one_account_is_made() {
    let (upstream, login) = (Upstream::echo(), app_with_alice());
    let gateway = Gateway::start(&migrating(base(&upstream), &login));
    let subjects: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Tokens::of(gateway.try_login("alice", PASSWORD)).text("sub")))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(subjects.iter().all(|subject| *subject == subjects[0]), "{subjects:?}");
}

#[test]
fn after_the_end_date_nobody_is_asked() {
    let (upstream, login) = (Upstream::echo(), app_with_alice());
    let config = migrating(base(&upstream), &login).set("auth.migrate", "until", "\"2020-01-01\"");
    let gateway = Gateway::start(&config);
    gateway.try_login("alice", PASSWORD).is_problem(401, "invalid_credentials");
    assert_eq!(login.opened(), 0);
    assert!(gateway.log_lines().wait(|line| line.contains("auth.migrate.until: it has passed")));
    let checked = gateway.cli(&["check"]).succeeds();
    assert!(checked.said().contains("auth.migrate.until: it has passed"), "{checked:?}");
}

// --- [auth] admission_url -----------------------------------------------------------------------

#[test]
fn a_registration_needs_the_apps_yes() {
    let upstream = Upstream::echo();
    let admission = app(|who| match who["username"].as_str() {
        Some("yes") => ("204 No Content", ""),
        Some("also") => ("200 OK", r#"{"admit": true}"#),
        Some("held") => ("409 Conflict", ""),
        _ => ("403 Forbidden", r#"{"message": "Invited guests only."}"#),
    });
    let gateway = Gateway::start(&asking(base(&upstream), &admission));
    let body = json!({"username": "Yes", "email": "Y@example.com", "name": "Y", "password": PASSWORD});
    gateway.ask(post("/auth/register").json(body)).expect(201);
    let asked = admission.wait_for(1);
    assert_eq!(asked.target, "/may?x=1");
    assert_eq!(
        body_of(&admission.wait_until_complete(0)),
        json!({"type": "user.admission", "username": "yes", "email": "Y@example.com", "name": "Y"}),
        "and never the password"
    );
    assert_eq!(asked.header("webhook-signature"), None, "there is no secret to sign with");
    gateway.register("also").expect(201);
    let refused = gateway.register("no");
    refused.is_problem(403, "not_admitted");
    assert_eq!(refused.member("message"), "Invited guests only.");
    gateway.register("held").is_problem(409, "user_exists");
    // Who is known here already is not asked about.
    gateway.register("yes").is_problem(409, "user_exists");
    gateway.register("admin").is_problem(409, "user_exists");
    assert_eq!(admission.count(), 4);
    gateway.try_login("no", PASSWORD).is_problem(401, "invalid_credentials");
    assert_eq!(gateway.metric("gatepost_admission_total{result=\"no\"}"), Some(2.0));
    // An address that the app may know somebody by is asked about as well, whoever wants to have it.
    let tokens = gateway.login("yes");
    let change = |email: &str| {
        let body = json!({"email": email, "current_password": PASSWORD});
        gateway.ask(Request::new("PATCH", "/auth/me").bearer(&tokens.access).json(body))
    };
    let asked = admission.count();
    change("y@EXAMPLE.com").expect(200);
    assert_eq!(admission.count(), asked, "it is the same one");
    change("z@example.com").expect(200);
    assert_eq!(body_of(&admission.wait_until_complete(asked))["email"], "z@example.com");
    // An operator decides alone.
    gateway.cli_with(&["user", "add", "op", "--password-stdin"], PASSWORD, &[]).succeeds();
    assert_eq!(admission.count(), asked + 1);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn without_a_clear_yes_nobody_registers() {
    let upstream = Upstream::echo();
    let endless = |exchange: &mut Exchange<'_>| {
        exchange.read_body();
        exchange.send("HTTP/1.1 200 OK\r\n\r\n{\"admit\": true, \"x\": \"");
        while exchange.send("x".repeat(10_000)) {}
    };
    let apps = [
        ("hangs", Upstream::scripted(hang)),
        ("resets", Upstream::scripted(reset)),
        ("rubbish", Upstream::answering_and_closing("HTTP/9 yes\r\n\r\n")),
        ("never ends", Upstream::scripted(endless)),
        ("greets everybody", app(|_| ("200 OK", "<html>Welcome</html>"))),
        ("an error", app(|_| ("503 Service Unavailable", r#"{"admit": true}"#))),
        ("not there", app(|_| ("404 Not Found", ""))),
        ("redirects", app(|_| ("307 Temporary Redirect\r\nLocation: /yes", ""))),
    ];
    for (what, admission) in apps {
        let config = asking(base(&upstream), &admission);
        let config =
            if what == "hangs" { config.set("auth", "admission_timeout", "\"300ms\"") } else { config };
        let gateway = Gateway::start(&config);
        let response = gateway.register("alice");
        assert_eq!((response.status, response.code().as_str()), (503, "admission_unavailable"), "{what}");
        response.is_problem(503, "admission_unavailable");
        assert_eq!(admission.count(), 1, "{what}");
        no_account(&gateway);
        assert_eq!(upstream.count(), 0);
    }
}

#[test]
fn nobody_takes_a_name_that_only_the_app_knows() {
    let upstream = Upstream::echo();
    let (login, admission) = (
        app_with_alice(),
        app(|who| if who["username"] == "alice" { ("409 Conflict", "") } else { ("204 No Content", "") }),
    );
    let open = |config: Config| config.set("auth", "registration", "\"open\"");
    // Not without asking …
    let mut gateway = Gateway::prepare(&open(migrating(base(&upstream), &login)));
    let ended = gateway.does_not_start();
    assert!(ended.said().contains("a name that only the app knows"), "{ended:?}");
    // … and then the app says that it is somebody's.
    gateway.configure(&asking(open(migrating(base(&upstream), &login)), &admission).text());
    gateway.start_again();
    let thief = json!({"username": "ALICE", "password": "the thief's own password"});
    gateway.ask(post("/auth/register").json(thief)).is_problem(409, "user_exists");
    gateway.try_login("alice", "the thief's own password").is_problem(401, "invalid_credentials");
    Tokens::of(gateway.try_login("alice", PASSWORD));
    gateway.register("carol").expect(201);
}

// --- [events] -----------------------------------------------------------------------------------

fn telling(gateway: &Gateway, config: Config, app: &Upstream) {
    let secret = gateway.home().join("events.secret");
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let config = config.set("events", "url", &format!("\"http://127.0.0.1:{}/events\"", app.port())).set(
        "events",
        "secret_file",
        "\"events.secret\"",
    );
    gateway.configure(&config.text());
}

fn start_telling(config: &Config, app: &Upstream) -> Gateway {
    let mut gateway = Gateway::prepare(config);
    telling(&gateway, config.clone(), app);
    gateway.start_again();
    gateway
}

/// Whether a request is signed as the specification says.
fn is_signed(request: &Recorded) -> bool {
    let field = |name| request.header(name).unwrap_or_default();
    let (id, time) = (field("webhook-id"), field("webhook-timestamp"));
    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", &request.body].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let expected = format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)));
    field("webhook-signature") == expected && time.parse::<u64>().is_ok_and(|secs| secs > 1_700_000_000)
}

fn kinds(requests: &[Recorded]) -> Vec<(String, String)> {
    let read = |request: &Recorded| {
        let body = body_of(request);
        let name = body["data"]["username"].as_str().unwrap_or_default().to_owned();
        (body["type"].as_str().unwrap().to_owned(), name)
    };
    requests.iter().map(read).collect()
}

/// Waits until the app has had so many calls and nothing is left to tell.
#[track_caller]
fn all_told(gateway: &Gateway, told: &Upstream, calls: usize) {
    told.wait_for(calls);
    pending(gateway, 0);
}

#[track_caller]
fn pending(gateway: &Gateway, count: u32) {
    let there = || gateway.metric("gatepost_events_pending") == Some(f64::from(count));
    eventually("so many events wait", || there().then_some(()));
}

#[test]
fn the_app_hears_what_happens_to_an_account_in_order() {
    let (upstream, told) = (Upstream::echo(), app(|_| ("204 No Content", "")));
    let gateway = start_telling(&base(&upstream), &told);
    gateway.register("alice").expect(201);
    let tokens = gateway.login("alice");
    let id = tokens.text("sub");
    gateway
        .ask(Request::new("PATCH", "/auth/me").bearer(&tokens.access).json(json!({"name": "Al"})))
        .expect(200);
    // One that still waits would make way for the next one.
    told.wait_for(2);
    // Nothing of these can be seen from outside.
    gateway.ask(post("/auth/logout-all").bearer(&tokens.access)).expect(200);
    gateway.cli(&["user", "set", "alice", "--role", "editor"]).succeeds();
    gateway.cli(&["user", "disable", "alice"]).succeeds();
    gateway.cli(&["user", "enable", "alice"]).succeeds();
    gateway.cli(&["user", "remove", "alice"]).succeeds();
    all_told(&gateway, &told, 6);

    let seen = told.seen();
    let expected = ["created", "updated", "updated", "disabled", "updated", "deleted"];
    let expected: Vec<_> = expected.iter().map(|kind| (format!("user.{kind}"), "alice".to_owned())).collect();
    assert_eq!(kinds(&seen), expected);
    for request in &seen {
        assert!(is_signed(request), "{}", request.text());
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/events"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(body_of(request)["data"]["id"], id.as_str());
    }
    let data = body_of(&seen[2])["data"].clone();
    let user = json!({
        "id": id, "username": "alice", "email": null, "email_verified": false, "name": "Al",
        "roles": ["editor"], "disabled": false,
    });
    assert_eq!(data, user);
    assert!(body_of(&seen[3])["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(gateway.metric("gatepost_events_total{result=\"sent\"}"), Some(6.0));
    told.saw_only_proper_requests();
}

#[test]
fn what_was_not_told_is_told_after_kill_9() {
    let upstream = Upstream::echo();
    let up = Arc::new(AtomicBool::new(false));
    let here = Arc::clone(&up);
    let told =
        app(
            move |_| {
                if here.load(Ordering::SeqCst) { ("200 OK", "") } else { ("503 Service Unavailable", "") }
            },
        );
    let mut gateway = start_telling(&base(&upstream), &told);
    for n in 0..20 {
        gateway.register(&format!("user{n}")).expect(201);
    }
    pending(&gateway, 20);
    gateway.kill();
    // What a command does meanwhile is told as well.
    gateway.cli(&["user", "disable", "user3"]).succeeds();
    let before = told.count();
    up.store(true, Ordering::SeqCst);
    gateway.start_again();
    all_told(&gateway, &told, before + 21);
    // A call that was under way when the process was killed may have been read after it.
    let mut after = told.seen().split_off(before);
    let mut ids = BTreeSet::new();
    after.retain(|request| ids.insert(request.header("webhook-id").unwrap().to_owned()));
    let mut found = kinds(&after);
    let place = |kind: &str| found.iter().position(|(k, name)| k == kind && name == "user3").unwrap();
    assert!(place("user.created") < place("user.disabled"), "{found:?}");
    found.sort();
    let mut expected: Vec<_> = (0..20).map(|n| ("user.created".to_owned(), format!("user{n}"))).collect();
    expected.push(("user.disabled".to_owned(), "user3".to_owned()));
    expected.sort();
    assert_eq!(found, expected);
    // Told, and so forgotten: another start tells nothing.
    let before = told.count();
    gateway.kill();
    gateway.start_again();
    gateway.register("last").expect(201);
    all_told(&gateway, &told, before + 1);
    assert_eq!(told.count(), before + 1);
}

#[test]
fn a_failed_event_is_told_again_under_its_id_and_stops_no_other_account() {
    let upstream = Upstream::echo();
    let failures = Arc::new(AtomicUsize::new(0));
    let order = Arc::new(Mutex::new(Vec::new()));
    let (here, log) = (Arc::clone(&failures), Arc::clone(&order));
    let told = Upstream::scripted(move |exchange| {
        let body: Value = serde_json::from_slice(&exchange.read_body()).unwrap();
        let name = body["data"]["username"].as_str().unwrap().to_owned();
        if name == "alice" && here.fetch_add(1, Ordering::SeqCst) < 2 {
            // Not a yes either: an event is taken with 2xx.
            answer(exchange, "302 Found\r\nLocation: /elsewhere", "");
        } else {
            log.lock().unwrap().push((body["type"].as_str().unwrap().to_owned(), name));
            answer(exchange, "200 OK", "");
        }
    });
    let gateway = start_telling(&base(&upstream), &told);
    gateway.register("alice").expect(201);
    gateway.cli(&["user", "disable", "alice"]).succeeds();
    told.wait_for(1);
    gateway.register("bob").expect(201);
    all_told(&gateway, &told, 5);
    let seen = told.seen();
    let of_alice: Vec<&Recorded> =
        seen.iter().filter(|request| body_of(request)["data"]["username"] == "alice").collect();
    assert_eq!(of_alice.len(), 4);
    let id = |request: &Recorded| request.header("webhook-id").unwrap().to_owned();
    assert!(id(of_alice[0]) == id(of_alice[1]) && id(of_alice[1]) == id(of_alice[2]));
    assert_ne!(id(of_alice[2]), id(of_alice[3]));
    assert!(seen.iter().all(|request| is_signed(request) && request.target == "/events"));
    let order = order.lock().unwrap().clone();
    let of =
        |kind: &str, name: &str| order.iter().position(|found| *found == (kind.to_owned(), name.to_owned()));
    assert!(of("user.created", "alice") < of("user.disabled", "alice"), "{order:?}");
    assert!(of("user.created", "bob").is_some());
    assert_eq!(gateway.metric("gatepost_events_total{result=\"failed\"}"), Some(2.0));
}

/// Both calls, member by member.
#[test]
fn the_calls_to_the_app_are_as_the_readme_shows_them() {
    let readme = include_str!("../../README.md");
    let shown = |what: &str| -> Value {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{what}` |"))).unwrap();
        serde_json::from_str(row.split('`').nth(3).unwrap()).unwrap()
    };
    let (upstream, told) = (Upstream::echo(), app(|_| ("200 OK", r#"{"admit": true}"#)));
    let gateway = start_telling(&asking(base(&upstream), &told), &told);
    let body = json!({"username": "carl", "name": "Carl", "password": PASSWORD});
    gateway.ask(post("/auth/register").json(body)).expect(201);
    all_told(&gateway, &told, 2);
    let calls = [0, 1].map(|index| told.wait_until_complete(index));
    assert!(calls.iter().all(is_signed), "{calls:?}");
    assert_eq!(body_of(&calls[0]), shown("admission_url"));
    assert_eq!(calls[0].header("x-forwarded-for"), Some("127.0.0.1"));
    let (mut sent, mut expected) = (body_of(&calls[1]), shown("[events] url"));
    let form = |time: &Value| time.as_str().unwrap().replace(|c: char| c.is_ascii_digit(), "0");
    assert_eq!(form(&sent["timestamp"]), form(&expected["timestamp"]));
    for event in [&mut sent, &mut expected] {
        assert!(event["data"]["id"].take().is_string());
        event["timestamp"].take();
    }
    assert_eq!(sent, expected);
}

#[test]
fn who_changes_all_the_time_holds_up_nobody() {
    let upstream = Upstream::echo();
    let up = Arc::new(AtomicBool::new(true));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (here, log) = (Arc::clone(&up), Arc::clone(&taken));
    let told = app(move |event| {
        if !here.load(Ordering::SeqCst) {
            return ("503 Service Unavailable", "");
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = |name: &str| text(&event["data"][name]);
        log.lock().unwrap().push((text(&event["type"]), of("username"), of("name")));
        ("200 OK", "")
    });
    let mut gateway = start_telling(&base(&upstream), &told);
    let alice = gateway.user("alice");
    all_told(&gateway, &told, 1);
    up.store(false, Ordering::SeqCst);
    let rename = |gateway: &Gateway, numbers: std::ops::Range<u32>| {
        let mut client = gateway.connect();
        for number in numbers {
            let body = json!({"name": format!("name {number}")});
            let change = Request::new("PATCH", "/auth/me").bearer(&alice.access).json(body);
            client.send(change.bytes()).response().expect(200);
        }
    };
    rename(&gateway, 0..1100);
    gateway.register("bob").expect(201);
    pending(&gateway, 2);
    gateway.kill();
    gateway.start_again();
    rename(&gateway, 1100..1500);
    pending(&gateway, 2);
    up.store(true, Ordering::SeqCst);
    pending(&gateway, 0);
    let taken = taken.lock().unwrap().clone();
    let bob = taken.iter().position(|(kind, user, _)| kind == "user.created" && user == "bob");
    assert!(bob.is_some_and(|place| place <= 3), "{bob:?} of {taken:?}");
    let of_alice: Vec<_> = taken.iter().filter(|(_, user, _)| user == "alice").collect();
    assert_eq!(of_alice[0].0, "user.created");
    let numbers: Vec<u32> = of_alice[1..].iter().map(|event| event.2[5..].parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.len() <= 3, "{numbers:?}");
    assert_eq!(numbers.last(), Some(&1499));
}

#[test]
fn an_app_that_hangs_delays_nothing_but_its_events() {
    let (upstream, told) = (Upstream::echo(), Upstream::scripted(hang));
    let mut gateway = start_telling(&base(&upstream), &told);
    let tokens: Vec<Tokens> = (0..12).map(|n| gateway.user(&format!("user{n}"))).collect();
    // Of twelve accounts eight are told of at once, and no more however long it takes.
    told.wait_for(8);
    gateway.ask(get("/x").bearer(&tokens[11].access)).expect(200);
    pending(&gateway, 12);
    gateway.user("onemore");
    pending(&gateway, 13);
    assert_eq!((told.count(), told.opened()), (8, 8), "calls at once");
    assert!(gateway.stop().success(), "and it stops");
}

#[test]
fn telling_is_turned_on_and_off_while_it_runs() {
    let (upstream, told) = (Upstream::echo(), app(|_| ("200 OK", "")));
    let gateway = Gateway::start(&base(&upstream));
    let reload = |config: &dyn Fn()| {
        let said = || gateway.log().iter().filter(|line| line.contains("was loaded again")).count();
        let before = said();
        config();
        gateway.signal(Signal::HUP);
        eventually("it was loaded", || (said() > before).then_some(()));
    };
    gateway.register("before").expect(201);
    reload(&|| telling(&gateway, base(&upstream), &told));
    gateway.register("during").expect(201);
    all_told(&gateway, &told, 1);
    reload(&|| gateway.configure(&base(&upstream).text()));
    gateway.register("after").expect(201);
    // What was done while nobody was told is not told later.
    reload(&|| telling(&gateway, base(&upstream), &told));
    gateway.register("again").expect(201);
    all_told(&gateway, &told, 2);
    let created = |name: &str| ("user.created".to_owned(), name.to_owned());
    assert_eq!(kinds(&told.seen()), [created("during"), created("again")]);
}

#[test]
fn a_process_that_takes_over_goes_on_telling() {
    let upstream = Upstream::echo();
    let up = Arc::new(AtomicBool::new(false));
    let here = Arc::clone(&up);
    let taken = Arc::new(Mutex::new(BTreeSet::new()));
    let names = Arc::clone(&taken);
    let told = app(move |event| {
        if !here.load(Ordering::SeqCst) {
            return ("500 Internal Server Error", "");
        }
        names.lock().unwrap().insert(event["data"]["username"].as_str().unwrap().to_owned());
        ("200 OK", "")
    });
    let mut gateway = start_telling(&base(&upstream), &told);
    gateway.register("alice").expect(201);
    told.wait_for(1);
    let mut old = gateway.take_over();
    // The old one may get it, and has no store any more.
    eventually("bob is there", || (gateway.register("bob").status == 201).then_some(()));
    up.store(true, Ordering::SeqCst);
    eventually("both are told", || (taken.lock().unwrap().len() == 2).then_some(()));
    pending(&gateway, 0);
    assert!(old.wait_for_exit().success());
}

#[test]
fn with_a_secret_the_question_is_signed_too_and_who_moves_in_is_told() {
    let upstream = Upstream::echo();
    let (login, told) = (app_with_alice(), app(|_| ("204 No Content", "")));
    let config = asking(migrating(base(&upstream), &login), &told).set("auth", "registration", "\"open\"");
    let gateway = start_telling(&config, &told);
    let made: Response = gateway.register("bob");
    made.expect(201);
    Tokens::of(gateway.try_login("alice", PASSWORD));
    all_told(&gateway, &told, 3);
    let seen = told.seen();
    assert_eq!(seen.iter().filter(|request| request.target == "/may?x=1").count(), 1);
    assert!(seen.iter().all(is_signed), "{seen:?}");
    let mut told: Vec<_> = kinds(&seen).into_iter().filter(|(kind, _)| kind == "user.created").collect();
    told.sort();
    assert_eq!(
        told,
        [("user.created".to_owned(), "alice".to_owned()), ("user.created".to_owned(), "bob".to_owned())]
    );
}
