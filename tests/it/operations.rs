//! Running it: health, readiness, metrics, draining, refusing to start, and what the logs say and never
//! say.

use std::fs;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::config::Config;
use crate::support::gateway::{Gateway, Tokens};
use crate::support::request::{Request, get, post};
use crate::support::upstream::{Upstream, echo};
use crate::support::wire::find;
use crate::support::world::World;
use crate::support::{PASSWORD, closed_port, eventually};

#[test]
fn the_admin_listener_answers_three_questions_and_no_other() {
    let world = World::new();
    assert_eq!(world.ask_admin("/healthz").status, 200);
    assert_eq!(world.ask_admin("/readyz").status, 200);
    assert!(
        world.ask_admin("/metrics").expect(200).header("content-type").unwrap().starts_with("text/plain")
    );
    for path in ["/", "/auth/login", "/public/x", "/debug", "/metrics/x", "/healthzz"] {
        assert_eq!(world.ask_admin(path).status, 404, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = Client::connect(world.admin()).send(post(path).bytes()).response();
        assert_eq!(answer.status, 405, "{path}");
        // And they are the app's on the public listener.
        world.refuses(get(path), 401, "missing_token");
    }
}

#[test]
fn readiness_does_not_depend_on_the_upstream() {
    let port = closed_port();
    let gateway = Gateway::start(&Config::new().upstream("app", port));
    gateway.ask(get("/public/x")).is_problem(502, "upstream_unreachable");
    assert_eq!(gateway.ask_admin("/readyz").status, 200);
}

#[test]
fn every_metric_of_the_contract_is_there() {
    let world = World::new();
    let alice = world.user("alice");
    world.passes(get("/x").bearer(&alice.access)).0.expect(200);
    world.refuses(get("/admin/x").bearer(&alice.access), 403, "forbidden");
    world.refuses(get("/x"), 401, "missing_token");
    Tokens::of(world.refresh(&alice.refresh));
    let text = world.ask_admin("/metrics").text();
    for name in [
        "gatepost_http_requests_total",
        "gatepost_http_request_duration_seconds",
        "gatepost_upstream_errors_total",
        "gatepost_authn_total",
        "gatepost_authz_total",
        "gatepost_tokens_issued_total",
        "gatepost_refresh_total",
        "gatepost_revocations",
        "gatepost_password_hashes_in_flight",
        "gatepost_password_hash_wait_seconds",
        "gatepost_throttled_total",
        "gatepost_store_commit_seconds",
        "gatepost_connections",
        "gatepost_log_lines_dropped_total",
        "gatepost_build_info",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is not in\n{text}");
    }
    eventually("the requests are counted", || {
        let text = world.ask_admin("/metrics").text();
        let counted = |parts: &[&str]| {
            text.lines().any(|l| {
                l.starts_with("gatepost_http_requests_total{") && parts.iter().all(|p| l.contains(p))
            })
        };
        let all = counted(&["route=\"/**\"", "method=\"GET\"", "code=\"200\""])
            && counted(&["route=\"/admin/**\"", "code=\"403\""])
            && counted(&["route=\"/**\"", "code=\"401\""]);
        all.then_some(())
    });
    assert!(world.metric("gatepost_tokens_issued_total{type=\"access\"}").unwrap() >= 2.0);
    assert_eq!(world.metric("gatepost_refresh_total{result=\"rotated\"}"), Some(1.0));
}

#[test]
fn metrics_name_no_user_no_path_and_no_token() {
    let world = World::new();
    let alice = world.user("alicewonder");
    for i in 0..30 {
        world.passes(get(&format!("/secretpath{i}/x?token={}", alice.access)).bearer(&alice.access));
        world.passes(Request::new(&format!("METHOD{i}"), "/odd").bearer(&alice.access));
        let _ = world.ask(get("/x").host(&format!("host{i}.test")));
    }
    world.refuses(get("/auth/nothing-of-ours"), 404, "not_found");
    let text = world.ask_admin("/metrics").text();
    for word in [
        "alicewonder",
        "secretpath",
        "METHOD",
        "nothing-of-ours",
        &alice.text("sub"),
        "host1",
        &alice.access[..20],
    ] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
    assert!(text.contains("method=\"other\""));
}

#[test]
fn sigterm_lets_requests_in_flight_finish_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let (go, wait) = channel();
        let wait = Mutex::new(wait);
        let mut world = World::before(
            Upstream::scripted(move |exchange| {
                exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
                wait.lock().unwrap().recv().unwrap();
                exchange.send("final");
            }),
            |c| c,
        );
        let idle = world.connect();
        let mut busy = world.connect();
        busy.send(get("/public/x").bytes());
        world.upstream.wait_for(1);
        let address = world.address();
        world.signal(signal);
        // Nobody new gets in …
        eventually("the listener is closed", || std::net::TcpStream::connect(address).is_err().then_some(()));
        // … and who is in gets everything.
        go.send(()).unwrap();
        assert_eq!(busy.response().expect(200).text(), "firstfinal");
        busy.ends();
        drop(idle);
        assert_eq!(world.wait_for_exit().code(), Some(0));
    }
}

#[test]
fn draining_is_over_at_its_timeout_with_exit_0() {
    let mut world = World::before(Upstream::scripted(crate::support::upstream::hang), |c| {
        c.set("server", "drain_timeout", "\"1s\"")
    });
    let mut client = world.connect();
    client.send(get("/public/x").bytes());
    world.upstream.wait_for(1);
    assert_eq!(world.stop().code(), Some(0));
}

#[test]
fn readiness_goes_first_when_draining_is_delayed() {
    let mut world = World::with(|c| c.set("server", "drain_delay", "\"3s\""));
    world.signal(Signal::TERM);
    let answer =
        eventually("readyz says no", || Some(world.ask_admin("/readyz")).filter(|a| a.status == 503));
    assert!(answer.text().contains("drain"), "{}", answer.text());
    // The listeners are still open: that is what the delay is for.
    world.ask(get("/public/x")).expect(200);
    assert_eq!(world.wait_for_exit().code(), Some(0));
}

#[test]
fn a_port_in_use_is_a_problem_that_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = Config::new().upstream("app", 1).set("server", "listen", &format!("[{address:?}]"));
    let ended = Gateway::prepare(&config).does_not_start().exits(1);
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    let config = Config::new().upstream("app", 1).set("admin", "listen", &format!("{address:?}"));
    let ended = Gateway::prepare(&config).does_not_start().exits(1);
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
}

#[test]
fn a_broken_configuration_is_exit_1_with_every_problem() {
    let config = Config::new()
        .upstream("app", 1)
        .set("server", "wrokers", "2")
        .set("log", "level", "7")
        .route("path = \"admin\"")
        .route("path = \"/y\"\nroles = [\"amdin\"]");
    let ended = Gateway::prepare(&config).does_not_start().exits(1);
    for word in ["wrokers", "workers", "level", "admin", "amdin"] {
        assert!(ended.stderr.contains(word), "{word} is not in {}", ended.stderr);
    }
    // As people like it: no configuration at all.
    let mut gateway = Gateway::prepare(&Config::new());
    fs::remove_file(gateway.config()).unwrap();
    gateway.does_not_start().exits(1);
}

#[test]
fn a_second_instance_over_the_same_store_names_the_first() {
    let world = World::new();
    let text = fs::read_to_string(world.config()).unwrap();
    let mut second = Gateway::prepare(&Config::new());
    let data = world.home().join("data");
    second.configure(&text.replace("path = \"data\"", &format!("path = {data:?}")));
    let ended = second.does_not_start().exits(1);
    assert!(ended.stderr.contains(&world.pid().to_string()), "{}", ended.stderr);
    // The first is none the worse for it.
    world.user("alice");
    world.cli(&["user", "list"]).succeeds();
}

#[test]
fn a_store_that_cannot_be_read_is_exit_1_and_no_panic() {
    // A file where the directory should be.
    let mut gateway = Gateway::prepare(&Config::new().upstream("app", 1));
    fs::write(gateway.home().join("data"), "not a directory").unwrap();
    let ended = gateway.does_not_start().exits(1);
    assert!(ended.stderr.contains("data") && !ended.stderr.contains("panicked"), "{}", ended.stderr);
    // Rubbish where its files should be.
    let mut world = World::new();
    world.user("alice");
    world.stop();
    let mut spoiled = 0;
    for file in walk(&world.home().join("data")) {
        if matches!(file.file_name().and_then(|n| n.to_str()), Some("db" | "conf")) {
            fs::write(file, [0x5a; 8192]).unwrap();
            spoiled += 1;
        }
    }
    assert!(spoiled > 0, "sled's files have other names now");
    let ended = world.does_not_start().exits(1);
    assert!(!ended.stderr.is_empty() && !ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn text_lines_are_for_people_and_one_line_each() {
    let mut world = World::with(|c| c.set("log", "format", "\"text\""));
    world.ask(get("/public/for-people")).expect(200);
    let _ = world.try_login("eve\r\nforged \u{1b}[31m", PASSWORD);
    let lines = world.log_lines();
    world.stop();
    let text = lines.text();
    assert!(text.contains("/public/for-people") && text.contains("200"), "{text}");
    assert!(!text.contains('\u{1b}') && !text.lines().any(|l| l.starts_with("forged")), "{text}");
}

#[test]
fn every_request_leaves_one_decision_line() {
    let world = World::new();
    let alice = world.user("alice");
    let (_, seen) =
        world.passes(get("/things/7?secret=canary").host("Shop.Example.com:80").bearer(&alice.access));
    let line = world.decision(seen.header("x-request-id").unwrap());
    for (key, value) in [
        ("client", json!("127.0.0.1")),
        ("method", json!("GET")),
        ("path", json!("/things/7")),
        ("route", json!("/**")),
        ("status", json!(200)),
        ("decision", json!("allow")),
        ("user", json!("alice")),
        ("upstream", json!("app")),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert!(line["host"].as_str().unwrap().to_lowercase().starts_with("shop.example.com"), "{line}");
    for key in ["reason", "duration_ms", "upstream_ms"] {
        assert!(!line[key].is_null(), "{key} in {line}");
    }
    for (request, status, reason) in [
        (get("/admin/x").bearer(&alice.access), 403, "forbidden"),
        (get("/x"), 401, "missing_token"),
        (get("/x").bearer("rubbish"), 401, "invalid_token"),
        (get("/auth/nothing"), 404, "not_found"),
        (post("/read/x"), 405, "method_not_allowed"),
    ] {
        let id = world.ask(request).member("request_id");
        let line = world.decision(&id);
        assert_eq!(line["status"], status, "{line}");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{reason} in {line}");
        assert_eq!(line["decision"], "deny", "{line}");
        assert!(line["upstream_ms"].is_null(), "{line}");
        let count = world.log().iter().filter(|l| l.contains(&id) && l.contains("\"decision\"")).count();
        assert_eq!(count, 1, "one line a request");
    }
}

#[test]
fn decision_lines_can_be_turned_off() {
    let mut world = World::with(|c| c.set("log", "decisions", "false"));
    world.ask(get("/public/quiet-path")).expect(200);
    let lines = world.log_lines();
    world.stop();
    assert!(!lines.text().contains("/public/quiet-path"));
}

#[test]
fn log_lines_cannot_be_forged() {
    let mut world = World::new();
    for name in ["eve\r\nforged: line", "eve\u{1b}[31mred", "eve\u{2028}line", "{\"status\":200}"] {
        world.try_login(name, PASSWORD).is_problem(401, "invalid_credentials");
        let _ = world.ask(
            get(&format!("/public/x?{}", "q".repeat(2000)))
                .header("User-Agent", name.replace(['\r', '\n'], " ")),
        );
    }
    let _ = world.ask_raw(b"GET /public/\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = world.ask_raw(b"GET /public/%0aforged HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = world.ask_raw(b"GET /public/x HTTP/1.1\r\nHost: a\"},{\"b\r\n\r\n");
    let lines = world.log_lines();
    world.stop();
    assert!(lines.all().len() >= 8);
    for line in lines.all() {
        let json: Result<Value, _> = serde_json::from_str(&line);
        assert!(json.is_ok_and(|j| j.is_object()), "not one JSON object: {line:?}");
        assert!(!line.contains('\u{1b}') && line.len() < 20_000, "{line:?}");
    }
}

#[test]
fn no_secret_is_ever_logged_even_at_trace_level() {
    const CANARY: &str = "canary-password-Zq7";
    let secret = "canary-secret-of-the-tokens-Zq7-and-thirty-two-bytes";
    let mut world = World::with(|c| {
        c.hs256(secret).set("log", "level", "\"trace\"").set(
            "tokens",
            "accept",
            "[\"bearer\", \"jwt\", \"x-access-token\"]",
        )
    });
    let body =
        |password: &str| json!({"username": "alice", "password": password, "email": "alice@example.com"});
    world.ask(post("/auth/register").json(body(CANARY))).expect(201);
    let first =
        Tokens::of(world.ask(post("/auth/login").json(json!({"username": "alice", "password": CANARY}))));
    let second = Tokens::of(world.refresh(&first.refresh));
    let other = format!("{CANARY}-other");
    for (name, password) in [("alice", &other), ("nobody", &other), (&other, &other)] {
        world.try_login(name, password).is_problem(401, "invalid_credentials");
    }
    let _ =
        world.ask(post("/auth/register").body("application/json", format!("{{\"password\":\"{CANARY}\"")));
    let _ = world.ask(post("/auth/login").form(&[("username", "alice"), ("password", CANARY)]));
    let _ = world.ask(post("/auth/login").multipart(&[("username", "alice"), ("password", CANARY)]));
    let change = json!({"current_password": CANARY, "new_password": other});
    world.ask(post("/auth/password").bearer(&second.access).json(change)).expect(200);
    let third = Tokens::of(world.refresh(&second.refresh));
    for path in ["/x", "/admin", "/public/x", "/optional/x"] {
        let path = format!("{path}?access_token={}&password={CANARY}", third.access);
        let _ = world.ask(get(&path).bearer(&third.access).header("Cookie", format!("session={CANARY}")));
        let _ = world.ask(get(&path).header("X-Access-Token", &third.access));
        let _ = world.ask(get(&path).bearer(&first.access));
        let _ = world.ask(get(&path).bearer(format!("{}x", third.access)));
        let _ = world.ask(get(&path).header("Authorization", format!("Basic {CANARY}")));
    }
    let _ = world.ask(post("/auth/logout").json(json!({"refresh_token": third.refresh})));
    let _ = world.refresh(&first.refresh);
    let _ = world.refresh(&format!("{}x", third.refresh));
    world.cli_with(&["user", "add", "carol", "--password-stdin"], &format!("{CANARY}\n"), &[]);
    world.cli(&["token", "revoke", &second.access]);
    let process = world.process_output();
    world.stop();
    let said = process.text();
    assert!(said.lines().count() > 20, "something was logged");
    let mut secrets = vec![CANARY.to_owned(), secret.to_owned(), "$argon2id".to_owned()];
    for tokens in [&first, &second, &third] {
        secrets.push(tokens.refresh.clone());
        secrets.push(tokens.refresh[4..40].to_owned());
        secrets.push(tokens.access.clone());
        secrets.push(tokens.access.rsplit('.').next().unwrap().to_owned());
    }
    for secret in secrets {
        if let Some(at) = find(said.as_bytes(), secret.as_bytes()) {
            let line = said[..at].matches('\n').count();
            panic!("{secret} was logged: {}", said.lines().nth(line).unwrap_or_default());
        }
    }
    // And what is kept on disk holds no password and no refresh token either.
    let kept = walk(&world.home().join("data"));
    assert!(!kept.is_empty());
    for entry in kept {
        let bytes = fs::read(&entry).unwrap();
        for secret in [CANARY, &third.refresh, &first.refresh] {
            assert!(find(&bytes, secret.as_bytes()).is_none(), "{} holds a secret", entry.display());
        }
    }
}

fn walk(under: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}

#[test]
fn what_is_written_belongs_to_the_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    world.user("alice");
    let mode = |path: &str| fs::metadata(world.home().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data/gatepost.sock"), 0o600);
    assert_eq!(mode("data") & 0o077, 0, "the store's directory is {:o}", mode("data"));
}

#[test]
fn it_listens_on_a_unix_socket_as_well() {
    use std::io::{Read, Write};
    let world = World::with(|c| c.set("server", "listen", "[\"127.0.0.1:0\", \"unix:front.sock\"]"));
    let mut stream = std::os::unix::net::UnixStream::connect(world.home().join("front.sock")).unwrap();
    stream.write_all(&get("/public/x").header("Connection", "close").bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    world.ask(get("/public/x")).expect(200);
}

#[test]
fn a_hundred_clients_at_once_each_get_their_own_answer() {
    let world = World::before(Upstream::scripted(echo), |c| c);
    let alice = world.user("alice");
    std::thread::scope(|scope| {
        for i in 0..100 {
            let (world, alice) = (&world, &alice);
            scope.spawn(move || {
                let mut client = world.connect();
                for j in 0..10 {
                    let target = format!("/mine/{i}/{j}");
                    let answer =
                        client.send(get(&target).bearer(&alice.access).bytes()).response().expect(200);
                    assert_eq!(answer.json()["target"], target);
                }
            });
        }
    });
}
