//! The configuration loaded again: what changes, what does not, and that no request notices.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::Client;
use crate::support::config::Config;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::request::{get, post};
use crate::support::upstream::Upstream;

const SUCCESS: &str = "gatepost_config_reload_success";

/// How often the log says this.
fn said(gateway: &Gateway, what: &str) -> usize {
    gateway.log().iter().filter(|line| line.contains(what)).count()
}

/// Writes the file, sends SIGHUP and waits until the log says how it went.
#[track_caller]
pub(super) fn reload(gateway: &Gateway, config: &Config) {
    let mut hasher = DefaultHasher::new();
    config.text().hash(&mut hasher);
    // The watch may see the file before the signal comes: which content was loaded is what counts.
    load(gateway, config, &format!("\"fingerprint\":\"{:016x}\"", hasher.finish()));
}

/// The same, for another outcome.
#[track_caller]
pub(super) fn load(gateway: &Gateway, config: &Config, outcome: &str) {
    let before = said(gateway, outcome);
    // In one step, so that the watch finds what SIGHUP finds.
    let new = gateway.home().join("config.new");
    fs::write(&new, config.text()).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, gateway.config()).unwrap();
    gateway.signal(Signal::HUP);
    eventually(outcome, || (said(gateway, outcome) > before).then_some(()));
}

fn base(upstream: &Upstream) -> Config {
    Config::new().upstream("app", upstream.port())
}

#[test]
fn routes_come_and_go_on_one_connection() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    let mut client = gateway.connect();
    client.send(get("/new/x").bytes()).response().is_problem(401, "missing_token");
    assert_eq!(upstream.count(), 0);

    reload(&gateway, &base(&upstream).route("path = \"/new/**\"\naccess = \"public\""));
    client.send(get("/new/x").bytes()).response().expect(200);

    reload(&gateway, &base(&upstream));
    client.send(get("/new/x").bytes()).response().is_problem(401, "missing_token");
    assert_eq!(upstream.count(), 1);
    // What was counted under the route that is gone is still counted.
    let allowed = r#"gatepost_authz_total{route="/new/**",result="allow"}"#;
    assert_eq!(gateway.metric(allowed), Some(1.0));
    assert_eq!(gateway.metric(SUCCESS), Some(1.0));
    assert!(gateway.metric("gatepost_config_last_reload_success_timestamp_seconds") > Some(1e9));
}

#[test]
fn roles_apply_from_the_next_token_on() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    let auditor = gateway.user_with("alice", &["auditor"]);
    gateway.ask(get("/edit/x").bearer(&auditor.access)).is_problem(403, "forbidden");

    let roles = "user = []\neditor = [\"user\"]\nadmin = [\"editor\"]\nauditor = [\"editor\"]";
    reload(&gateway, &base(&upstream).roles(roles).set("auth", "default_roles", "[\"editor\"]"));
    // The token says what it said when it was issued.
    gateway.ask(get("/edit/x").bearer(&auditor.access)).is_problem(403, "forbidden");
    assert_eq!(upstream.count(), 0);
    gateway.ask(get("/edit/x").bearer(&gateway.login("alice").access)).expect(200);
    // And new accounts get what they are to get.
    gateway.ask(get("/edit/x").bearer(&gateway.user("bob").access)).expect(200);
}

#[test]
fn upstreams_change_and_unchanged_ones_keep_their_connections() {
    let (one, two) = (Upstream::echo(), Upstream::echo());
    let plain = |second: &Upstream| {
        base(&one)
            .set("server", "workers", "1")
            .upstream("second", second.port())
            .no_routes()
            .route("path = \"/second/**\"\naccess = \"public\"\nupstream = \"second\"")
            .route("path = \"/first/**\"\naccess = \"public\"\nupstream = \"app\"")
    };
    let gateway = Gateway::start(&plain(&one));
    gateway.ask(get("/first/x")).expect(200);
    gateway.ask(get("/second/x")).expect(200);
    let opened = one.opened();
    assert_eq!((one.count(), two.count()), (2, 0));

    reload(&gateway, &plain(&two));
    gateway.ask(get("/first/x")).expect(200);
    gateway.ask(get("/second/x")).expect(200);
    assert_eq!((one.count(), two.count()), (3, 1));
    assert_eq!(one.opened(), opened, "the connection to what has not changed is used again");
}

#[test]
fn limits_ttls_passwords_and_the_log_level_change() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    let alice = gateway.user("alice");
    assert_eq!(said(&gateway, "\"level\":\"debug\""), 0);
    let lifetime = |tokens: &crate::support::gateway::Tokens| {
        tokens.claim("exp").as_u64().unwrap() - tokens.claim("iat").as_u64().unwrap()
    };
    assert_ne!(lifetime(&alice), 77);

    let changed = base(&upstream)
        .set("tokens", "access_ttl", "\"77s\"")
        .set("auth.password", "min_length", "40")
        .set("server.limits", "header_bytes", "\"4KiB\"")
        .set("log", "level", "\"debug\"");
    reload(&gateway, &changed);
    assert_eq!(lifetime(&gateway.login("alice")), 77);
    gateway.register("bob").is_problem(422, "invalid_input");
    let before = upstream.count();
    let large = gateway.ask(get("/public/x").header("X-Large", "x".repeat(6000)));
    assert_eq!((large.status, upstream.count()), (431, before));
    gateway.ask_raw("rubbish\r\n\r\n").expect(400);
    eventually("a debug line", || (said(&gateway, "\"level\":\"debug\"") > 0).then_some(()));
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    let alice = gateway.user("alice");
    let bad = base(&upstream)
        .route("path = \"/new/**\"\naccess = \"public\"")
        .set("server", "drain_timeout", "\"soon\"")
        .set("tokens", "access_ttl", "\"never\"");
    load(&gateway, &bad, "the configuration was not loaded again");
    let log = gateway.log().join("\n");
    assert!(log.contains("drain_timeout") && log.contains("access_ttl"), "every problem: {log}");
    gateway.ask(get("/new/x")).is_problem(401, "missing_token");
    assert_eq!(upstream.count(), 0);
    gateway.ask(get("/x").bearer(&alice.access)).expect(200);
    assert_eq!(gateway.metric(SUCCESS), Some(0.0));

    reload(&gateway, &base(&upstream));
    assert_eq!(gateway.metric(SUCCESS), Some(1.0));
}

#[test]
fn what_cannot_change_is_named_and_the_rest_applies() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    let changed = base(&upstream)
        .set("server", "listen", "[\"127.0.0.1:1\"]")
        .set("server", "workers", "3")
        .set("admin", "listen", "\"127.0.0.1:2\"")
        .set("store", "path", "\"elsewhere\"")
        .set("auth", "prefix", "\"/elsewhere\"")
        .set("log", "format", "\"text\"")
        .hs256("a secret that is long enough to be one, 0123")
        .route("path = \"/new/**\"\naccess = \"public\"");
    reload(&gateway, &changed);
    let log = gateway.log();
    for key in [
        "server.listen",
        "server.workers",
        "admin.listen",
        "store.path",
        "auth.prefix",
        "log.format",
        "tokens.algorithm",
    ] {
        let named = format!("\"key\":\"{key}\"");
        let line = log.iter().find(|line| line.contains(&named)).unwrap_or_else(|| panic!("{key}: {log:?}"));
        assert!(line.contains("\"level\":\"warn\"") && line.contains("cannot change"), "{line}");
    }
    gateway.ask(get("/new/x")).expect(200);
    let alice = gateway.user("alice");
    gateway.ask(get("/x").bearer(&alice.access)).expect(200);
    assert!(!gateway.home().join("elsewhere").exists());
}

#[test]
fn throttling_changes_and_remembers() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    gateway.register("alice").expect(201);
    gateway.try_login("alice", "wrong wrong wrong").is_problem(401, "invalid_credentials");
    gateway.try_login("alice", "wrong wrong wrong").is_problem(401, "invalid_credentials");
    reload(&gateway, &base(&upstream).set("auth.throttle", "failures", "3"));
    gateway.try_login("alice", "wrong wrong wrong").is_problem(401, "invalid_credentials");
    assert_eq!(gateway.try_login("alice", "wrong wrong wrong").status, 429);
}

#[test]
fn a_changed_file_is_noticed_without_a_signal() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    let open = |path: &str| format!("path = \"{path}/**\"\naccess = \"public\"");
    // Written in place,
    gateway.configure(&base(&upstream).route(&open("/one")).text());
    eventually("the first change applies", || (gateway.ask(get("/one/x")).status == 200).then_some(()));
    // put in its place,
    let new = gateway.home().join("config.new");
    fs::write(&new, base(&upstream).route(&open("/two")).text()).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, gateway.config()).unwrap();
    eventually("the second change applies", || (gateway.ask(get("/two/x")).status == 200).then_some(()));
    assert_eq!(gateway.ask(get("/one/x")).status, 401);
    // and written again as it was: nothing to do.
    let loads = said(&gateway, "the configuration was loaded again");
    assert_eq!(loads, 2);
}

#[test]
fn a_swapped_config_map_is_noticed() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::prepare(&base(&upstream));
    let at = |name: &str| gateway.home().join(name);
    let open = "path = \"/new/**\"\naccess = \"public\"";
    for (version, config) in [("..1", base(&upstream)), ("..2", base(&upstream).route(open))] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("config.toml"), config.text()).unwrap();
        fs::set_permissions(at(version).join("config.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    fs::remove_file(gateway.config()).unwrap();
    symlink("..data/config.toml", gateway.config()).unwrap();
    let (link, data) = (at("..data_tmp"), at("..data"));
    gateway.start_again();
    assert_eq!(gateway.ask(get("/new/x")).status, 401);
    symlink("..2", &link).unwrap();
    fs::rename(&link, &data).unwrap();
    eventually("the swap applies", || (gateway.ask(get("/new/x")).status == 200).then_some(()));
}

/// Keep-alive clients that ask until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(gateway: &Gateway, clients: usize, token: &str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let address = gateway.address();
        let ask = |number: usize| {
            let (stop, answered, token) = (Arc::clone(&stop), Arc::clone(&answered), token.to_owned());
            thread::spawn(move || {
                let mut client = Client::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let request = if number.is_multiple_of(2) {
                        get("/x").bearer(&token)
                    } else {
                        post("/x").bearer(&token).json(json!({"number": number}))
                    };
                    // One connection for all of it: a dropped one fails here.
                    client.send(request.bytes()).response().expect(200);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let clients = (0..clients).map(ask).collect();
        Self { stop, answered, clients }
    }

    /// Waits for some more answers.
    fn goes_on(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually("requests are answered", || {
            assert!(!self.clients.iter().any(thread::JoinHandle::is_finished), "a client has failed");
            (self.answered.load(Ordering::SeqCst) > before + 4).then_some(())
        });
    }

    /// How many requests were answered; a client that failed fails the test.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().expect("no request fails");
        }
        self.answered.load(Ordering::SeqCst)
    }
}

#[test]
fn a_hundred_reloads_under_load_lose_nothing() {
    let upstream = Upstream::echo();
    let config = |number: usize| {
        let config =
            base(&upstream).set("log", "decisions", if number.is_multiple_of(2) { "true" } else { "false" });
        let config = config.set("server.limits", "header_bytes", &format!("\"{}KiB\"", 16 + number % 8));
        config.route(&format!("path = \"/route-{number}/**\"\naccess = \"public\""))
    };
    let gateway = Gateway::start(&config(0));
    let alice = gateway.user("alice");
    let load = Load::start(&gateway, 6, &alice.access);
    load.goes_on();
    for number in 1..=100 {
        reload(&gateway, &config(number));
    }
    load.goes_on();
    let answered = load.end();
    assert_eq!(upstream.count(), answered, "each request was forwarded once and answered once");
    upstream.saw_no_bad_head();
    assert_eq!(gateway.ask(get("/route-100/x")).status, 200);
    assert_eq!(gateway.ask(get("/route-99/x")).status, 401);
    // Every request is counted, whichever configuration judged it.
    let text = gateway.ask_admin("/metrics").expect(200).text();
    let counted: usize = text
        .lines()
        .filter(|line| {
            line.starts_with("gatepost_http_requests_total{route=\"/**\"") && line.contains("code=\"200\"")
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(counted, answered);
}

#[test]
fn origins_come_and_go() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    let page = || get("/x").header("Origin", "https://page.example");
    let allowed = |gateway: &Gateway| {
        gateway.ask(page()).expect(401).header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(allowed(&gateway), None);
    reload(&gateway, &base(&upstream).set("cors", "origins", "[\"https://page.example\"]"));
    eventually("the origin is let in", || {
        allowed(&gateway).filter(|origin| origin == "https://page.example")
    });
    reload(&gateway, &base(&upstream));
    eventually("nobody is let in", || allowed(&gateway).is_none().then_some(()));
    assert_eq!(upstream.count(), 0);
}
