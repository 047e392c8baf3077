//! Several servers behind one name: one that dies, hangs, lies or comes back costs the client as little
//! as can be, and never a wait without end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::Version;
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::client::{Client, Response};
use crate::support::config::Config;
use crate::support::gateway::Gateway;
use crate::support::request::{Request, get, post};
use crate::support::server::{self, Authority, Server, Speaks};
use crate::support::upstream::{Upstream, hang, reset};
use crate::support::{closed_port, eventually, wire};

/// A server that can be killed, with every connection that it has, and started again on the same port.
struct Mortal {
    address: SocketAddr,
    life: Mutex<Option<Arc<Life>>>,
    told: Arc<Told>,
}

/// What a server was asked, over all its lives.
struct Told {
    /// What it answers with.
    name: &'static str,
    requests: AtomicUsize,
    checks: AtomicUsize,
    /// What it says of its health.
    health: AtomicU16,
}

struct Life {
    listener: TcpListener,
    streams: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

impl Mortal {
    fn born(name: &'static str) -> Self {
        let told = Told {
            name,
            requests: AtomicUsize::new(0),
            checks: AtomicUsize::new(0),
            health: AtomicU16::new(200),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, life: Mutex::default(), told: Arc::new(told) };
        server.live(listener);
        server
    }

    fn live(&self, listener: TcpListener) {
        let life = Arc::new(Life { listener, streams: Mutex::default(), over: AtomicBool::new(false) });
        *held(&self.life) = Some(Arc::clone(&life));
        let told = Arc::clone(&self.told);
        thread::spawn(move || {
            while let Ok((stream, _)) = life.listener.accept() {
                held(&life.streams).push(stream.try_clone().unwrap());
                if life.over.load(Ordering::SeqCst) {
                    break;
                }
                let told = Arc::clone(&told);
                thread::spawn(move || told.serve(stream));
            }
        });
    }

    /// Like a process that is killed: nobody listens, and every connection is reset.
    fn kill(&self) {
        let Some(life) = held(&self.life).take() else { return };
        life.over.store(true, Ordering::SeqCst);
        let _ = SockRef::from(&life.listener).shutdown(Shutdown::Both);
        for stream in held(&life.streams).drain(..) {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn revive(&self) {
        let listener = eventually("the port is free", || TcpListener::bind(self.address).ok());
        self.live(listener);
    }

    fn requests(&self) -> usize {
        self.told.requests.load(Ordering::SeqCst)
    }

    fn set_health(&self, status: u16) {
        self.told.health.store(status, Ordering::SeqCst);
    }

    fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Told {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        loop {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => return,
                }
            }
            let (status, name) = if head.starts_with(b"GET /healthz ") {
                self.checks.fetch_add(1, Ordering::SeqCst);
                (self.health.load(Ordering::SeqCst), "health")
            } else {
                self.requests.fetch_add(1, Ordering::SeqCst);
                (200, self.name)
            };
            let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One upstream, `app`, with servers at these ports.
fn over(ports: &[u16], more: &str) -> Config {
    over_workers(2, ports, more)
}

fn over_workers(workers: usize, ports: &[u16], more: &str) -> Config {
    let servers: Vec<_> = ports.iter().map(|port| format!("\"http://127.0.0.1:{port}\"")).collect();
    let table = format!("name = \"app\"\nservers = [{}]\n{more}", servers.join(", "));
    Config::new().set("server", "workers", &workers.to_string()).upstream_table(&table)
}

fn is_up(gateway: &Gateway, port: u16) -> bool {
    let name = format!("gatepost_upstream_up{{upstream=\"app\",server=\"http://127.0.0.1:{port}\"}}");
    match gateway.metric(&name) {
        Some(value) => value > 0.5,
        None => panic!("no metric {name}"),
    }
}

/// Asks so often, on one connection each time, and gives each answer's text.
fn ask_often(gateway: &Gateway, times: usize) -> Vec<String> {
    let mut client = gateway.connect();
    let mut answer = |_| client.send(get("/public/x").bytes()).response().expect(200).text();
    (0..times).map(&mut answer).collect()
}

#[test]
fn a_killed_server_costs_no_idempotent_request_and_comes_back() {
    let (one, two) = (Mortal::born("one"), Mortal::born("two"));
    let ejection = "ejection = { failures = 3, duration = \"1s\" }";
    let gateway = Gateway::start(&over(&[one.port(), two.port()], ejection));
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                for _ in 0..150 {
                    client.send(get("/public/x").bytes()).response().expect(200);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        eventually("both work", || (one.requests() > 50 && two.requests() > 50).then_some(()));
        one.kill();
    });
    assert_eq!(answered.load(Ordering::SeqCst), 900);

    one.revive();
    let before = one.requests();
    eventually("the server gets requests again", || {
        ask_often(&gateway, 4);
        (one.requests() > before).then_some(())
    });
    eventually("both are up", || (is_up(&gateway, one.port()) && is_up(&gateway, two.port())).then_some(()));
}

#[test]
fn a_request_that_was_not_sent_goes_to_the_next_server_whatever_it_is() {
    let upstream = Upstream::echo();
    let ports = [closed_port(), upstream.port(), closed_port()];
    let gateway = Gateway::start(&over(&ports, "ejection = { failures = 0, duration = \"1s\" }"));
    for round in 1..=12 {
        let body = "b".repeat(200_000);
        let answer = gateway.ask(post("/public/x").body("text/plain", &body)).expect(200);
        assert_eq!(answer.json()["length"], 200_000);
        assert_eq!(upstream.count(), round, "once each");
    }
    assert!(!gateway.metric("gatepost_upstream_ejections_total{upstream=\"app\"}").is_some_and(|n| n > 0.0));
    upstream.saw_only_proper_requests();
}

#[test]
fn all_servers_down_is_502_at_once() {
    let ports = [closed_port(), closed_port(), closed_port()];
    let gateway = Gateway::start(&over(&ports, "ejection = { failures = 2, duration = \"1h\" }"));
    let started = Instant::now();
    for _ in 0..20 {
        gateway.ask(get("/public/x")).is_problem(502, "upstream_unreachable");
        gateway.ask(post("/public/x").body("text/plain", "b")).is_problem(502, "upstream_unreachable");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    for port in ports {
        eventually("it is ejected", || (!is_up(&gateway, port)).then_some(()));
    }
    // Said once, however many requests meet it.
    let said = |text: &str| gateway.log().iter().filter(|line| line.contains(text)).count();
    eventually("it is said", || (said("every server is out") == 1).then_some(()));
    gateway.ask(get("/public/x")).is_problem(502, "upstream_unreachable");
    assert_eq!(said("every server is out"), 1);
}

#[test]
fn an_unhealthy_server_gets_no_requests_until_it_is_healthy() {
    let (one, two) = (Mortal::born("one"), Mortal::born("two"));
    one.set_health(503);
    let health = "health = { path = \"/healthz\", interval = \"100ms\", timeout = \"5s\", healthy = 2, unhealthy = 2 }";
    let gateway = Gateway::start(&over(&[one.port(), two.port()], health));
    eventually("one is out", || (!is_up(&gateway, one.port())).then_some(()));
    assert!(is_up(&gateway, two.port()));
    let before = one.requests();
    assert!(ask_often(&gateway, 40).iter().all(|answer| answer == "two"));
    assert_eq!(one.requests(), before);
    let why = |line: &String| line.contains("the server is unhealthy") && line.contains("503");
    eventually("the reason is logged", || gateway.log().iter().any(why).then_some(()));
    assert_eq!(gateway.log().iter().filter(|line| line.contains("the server is unhealthy")).count(), 1);

    one.set_health(302);
    eventually("one is back", || is_up(&gateway, one.port()).then_some(()));
    assert!(ask_often(&gateway, 60).iter().any(|answer| answer == "one"));

    // Out again: killed. And back: started.
    one.kill();
    eventually("one is out", || (!is_up(&gateway, one.port())).then_some(()));
    assert!(ask_often(&gateway, 40).iter().all(|answer| answer == "two"));
    one.revive();
    eventually("one is back", || is_up(&gateway, one.port()).then_some(()));
    eventually("one works", || ask_often(&gateway, 10).iter().any(|answer| answer == "one").then_some(()));
}

#[test]
fn when_all_are_unhealthy_all_are_tried() {
    let (one, two) = (Mortal::born("one"), Mortal::born("two"));
    one.set_health(500);
    two.set_health(404);
    let health = "health = { path = \"/healthz\", interval = \"100ms\", timeout = \"5s\", healthy = 1, unhealthy = 1 }";
    let gateway = Gateway::start(&over(&[one.port(), two.port()], health));
    for server in [&one, &two] {
        eventually("it is out", || (!is_up(&gateway, server.port())).then_some(()));
    }
    let answers = ask_often(&gateway, 60);
    assert!(answers.iter().any(|answer| answer == "one") && answers.iter().any(|answer| answer == "two"));
}

#[test]
fn a_check_carries_nothing_but_itself() {
    let upstream = Upstream::echo();
    let health = "health = { path = \"/healthz?deep=1\", interval = \"100ms\", timeout = \"5s\" }";
    let _gateway = Gateway::start(&over(&[upstream.port()], health));
    let check = upstream.wait_for(2);
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/healthz?deep=1"));
    assert_eq!(check.header("host"), Some(format!("127.0.0.1:{}", upstream.port()).as_str()));
    assert_eq!(check.header("user-agent"), Some("gatepost-health"));
    let names: Vec<_> = check.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert!(!names.iter().any(|name| name.starts_with("x-") || name == "authorization"), "{names:?}");
    assert!(check.complete);
    upstream.saw_only_proper_requests();
}

#[test]
fn broken_answers_eject_a_server_and_5xx_do_not() {
    let (bad, good) = (Upstream::scripted(reset), Upstream::echo());
    let ejection = "ejection = { failures = 3, duration = \"1h\" }";
    let gateway = Gateway::start(&over_workers(1, &[bad.port(), good.port()], ejection));
    let ask = |_| gateway.ask(post("/public/x").body("text/plain", "b")).status;
    let statuses: Vec<_> = (0..60).map(ask).collect();
    let failed = statuses.iter().filter(|status| **status == 502).count();
    assert_eq!((failed, bad.count()), (3, 3), "not sent twice: {statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 57);
    assert!(!is_up(&gateway, bad.port()) && is_up(&gateway, good.port()));
    assert_eq!(gateway.metric("gatepost_upstream_ejections_total{upstream=\"app\"}"), Some(1.0));

    let busy = || Upstream::answering("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let (one, two) = (busy(), busy());
    let gateway = Gateway::start(&over_workers(1, &[one.port(), two.port()], ejection));
    for _ in 0..40 {
        assert_eq!(gateway.ask(get("/public/x")).status, 503);
    }
    assert!(is_up(&gateway, one.port()) && is_up(&gateway, two.port()));
    assert!(one.count() > 0 && two.count() > 0 && one.count() + two.count() == 40);
}

#[test]
fn an_answer_that_breaks_off_speaks_against_its_server() {
    let cut = Upstream::answering_and_closing("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    let good = Upstream::echo();
    let ejection = "ejection = { failures = 3, duration = \"1h\" }";
    let gateway = Gateway::start(&over_workers(1, &[cut.port(), good.port()], ejection));
    for _ in 0..60 {
        let _ = gateway.connect().send(get("/public/x").bytes()).try_response("GET");
    }
    assert_eq!(cut.count(), 3);
    assert!(!is_up(&gateway, cut.port()));
}

#[test]
fn a_lone_server_is_never_ejected() {
    let upstream = Upstream::scripted(reset);
    let gateway = Gateway::start(&over(&[upstream.port()], "ejection = { failures = 1, duration = \"1h\" }"));
    for round in 1..=10 {
        let answer = gateway.ask(post("/public/x").body("text/plain", "b"));
        answer.is_problem(502, "upstream_invalid");
        assert_eq!(upstream.count(), round);
    }
    assert!(is_up(&gateway, upstream.port()));
}

#[test]
fn a_slow_head_is_504_and_not_sent_twice() {
    let (one, two) = (Upstream::scripted(hang), Upstream::scripted(hang));
    let ejection = "ejection = { failures = 0, duration = \"1s\" }\ntimeout = \"300ms\"";
    let config = over(&[one.port(), two.port()], ejection)
        .route("path = \"/slower/**\"\naccess = \"public\"\ntimeout = \"600ms\"");
    let gateway = Gateway::start(&config);
    for (round, path) in ["/public/x", "/slower/x", "/public/x"].into_iter().enumerate() {
        let started = Instant::now();
        gateway.ask(get(path)).is_problem(504, "upstream_timeout");
        assert_eq!(one.count() + two.count(), round + 1);
        let least = if path == "/slower/x" { 600 } else { 300 };
        assert!(started.elapsed() >= Duration::from_millis(least), "{path}: {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(20), "{path}: {:?}", started.elapsed());
    }
}

/// A port that neither takes nor refuses connections: its queue is full.
fn deaf_port() -> (Socket, Vec<Socket>, u16) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let fill = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address);
        socket
    };
    let waiting = (0..8).map(fill).collect();
    let port = address.as_socket().unwrap().port();
    (listener, waiting, port)
}

#[test]
fn a_server_that_takes_no_connections_is_passed_over_in_time() {
    let (_listener, _waiting, deaf) = deaf_port();
    let upstream = Upstream::echo();
    let ejection = "ejection = { failures = 2, duration = \"1h\" }\nconnect_timeout = \"300ms\"";
    let gateway = Gateway::start(&over_workers(1, &[deaf, upstream.port()], ejection));
    for round in 1..=40 {
        gateway.ask(post("/public/x").body("text/plain", "b")).expect(200);
        assert_eq!(upstream.count(), round);
    }
    assert!(!is_up(&gateway, deaf), "or each of these took so long");

    let gateway = Gateway::start(&over(&[deaf], "connect_timeout = \"10s\"\ntimeout = \"300ms\""));
    let started = Instant::now();
    gateway.ask(get("/public/x")).is_problem(504, "upstream_timeout");
    assert!(started.elapsed() < Duration::from_secs(8), "timeout covers connecting: {:?}", started.elapsed());
}

#[test]
fn names_lead_to_their_addresses_without_anybody_waiting() {
    let upstream = Upstream::echo();
    let named = |name: &str, port: u16| {
        let table = format!(
            "name = \"app\"\nservers = [\"http://{name}:{port}\"]\nconnect_timeout = \"2s\"\nresolve = \"1s\""
        );
        Gateway::start(&Config::new().upstream_table(&table))
    };
    let gateway = named("localhost", upstream.port());
    for _ in 0..3 {
        gateway.ask(get("/public/x")).expect(200);
    }
    assert_eq!(upstream.count(), 3);
    // RFC 6761 section 6.4: no such name will ever be.
    let gateway = named("app.invalid", upstream.port());
    let answer = gateway.ask(get("/public/x"));
    assert!(answer.status == 502 || answer.status == 504, "{} {}", answer.status, answer.text());
    gateway.ask(get("/auth/nothing")).is_problem(404, "not_found");
    assert_eq!(upstream.count(), 3);
}

#[test]
fn a_routes_limits_hold_for_chunked_bodies_at_several_servers() {
    let (one, two) = (Upstream::echo(), Upstream::echo());
    let config = over(&[one.port(), two.port()], "")
        .route("path = \"/api/{rest}\"\naccess = \"public\"\nbody_bytes = \"10B\"\nstrip_prefix = \"/api\"");
    let gateway = Gateway::start(&config);
    let chunked = |chunks: &[&str]| {
        use std::fmt::Write as _;
        let mut bytes =
            "POST /api/x?q=1 HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for chunk in chunks {
            let _ = write!(bytes, "{:x}\r\n{chunk}\r\n", chunk.len());
        }
        gateway.ask_raw(bytes + "0\r\n\r\n")
    };
    for _ in 0..8 {
        let answer = chunked(&["12345", "67890"]).expect(200);
        assert_eq!((&answer.json()["target"], &answer.json()["length"]), (&"/x?q=1".into(), &10.into()));
        chunked(&["12345", "67890", "!"]).is_problem(413, "body_too_large");
    }
    let all: Vec<_> = one.seen().into_iter().chain(two.seen()).collect();
    assert_eq!(all.iter().filter(|request| request.complete).count(), 8, "what is too long never ends well");
    assert!(all.iter().all(|request| request.header("x-forwarded-prefix") == Some("/api")));
    assert!(one.count() > 0 && two.count() > 0);
    for server in [&one, &two] {
        assert!(is_up(&gateway, server.port()), "a client's fault is not the server's");
    }
}

/// The identity headers of every preset, and one that this test's client makes up.
fn identity_headers(fields: &wire::Fields) -> Vec<String> {
    let names = fields.iter().map(|(name, _)| name.to_ascii_lowercase());
    names.filter(|name| name.starts_with("x-auth") || name.starts_with("remote-")).collect()
}

#[test]
fn a_route_that_only_reports_lets_pass_and_believes_nobody() {
    let upstream = Upstream::echo();
    let config = Config::new()
        .upstream("app", upstream.port())
        .route("path = \"/new/**\"\nroles = [\"admin\"]\nmode = \"report\"")
        .route("path = \"/own/{uid}\"\nowner = { uid = \"sub\" }\nmode = \"report\"\nmethods = [\"GET\"]");
    let gateway = Gateway::start(&config);
    let alice = gateway.user("alice");
    let admin = gateway.user_with("root1", &["admin"]);
    let revoked = gateway.user("carol");
    gateway.ask(post("/auth/logout").bearer(&revoked.access)).expect(200);

    let spoofed = |request: Request| request.header("X-Auth-User", "root1").header("x_auth.roles", "admin");
    let two = get("/new/x").bearer(&alice.access).header("Authorization", "Bearer other");
    let broken = format!("{}x", alice.access);
    // What is asked → why it would be denied, and who the upstream hears of.
    let cases = [
        (get("/new/x"), Some("missing_token"), None),
        (get("/new/x").bearer("a.b.c"), Some("invalid_token"), None),
        (get("/new/x").bearer(&broken), Some("invalid_token"), None),
        (get("/new/x").bearer(&revoked.access), Some("revoked_token"), None),
        (two, Some("ambiguous_credentials"), None),
        (get("/new/x").bearer(&alice.access), Some("forbidden"), Some("alice")),
        (get("/own/somebody").bearer(&alice.access), Some("forbidden"), Some("alice")),
        (get("/new/x").bearer(&admin.access), None, Some("root1")),
    ];
    for (count, (request, reason, user)) in cases.into_iter().enumerate() {
        let answer: Response = gateway.ask(spoofed(request)).expect(200);
        let seen = upstream.wait_for(count + 1);
        assert_eq!(seen.header("x-auth-user"), user, "{reason:?}");
        if user.is_none() {
            assert_eq!(identity_headers(&seen.headers), [""; 0], "{reason:?}");
        }
        assert!(seen.all("x_auth.roles").is_empty());
        assert!(!seen.text().contains(&alice.access) && !seen.text().contains(&revoked.access), "{reason:?}");
        let id = seen.header("x-request-id").unwrap_or_default();
        let line = gateway.decision(id);
        let decision = if reason.is_some() { "would_deny" } else { "allow" };
        assert_eq!(line["decision"], decision, "{line}");
        assert_eq!(line["reason"], reason.unwrap_or("authenticated"), "{line}");
        assert_eq!((line["status"].as_u64(), answer.status), (Some(200), 200));
    }
    assert_eq!(gateway.metric("gatepost_would_deny_total{route=\"/new/**\"}"), Some(6.0));
    assert_eq!(gateway.metric("gatepost_would_deny_total{route=\"/own/{uid}\"}"), Some(1.0));

    // What is no question of who asks is refused as ever, and so is every other route.
    let before = upstream.count();
    gateway.ask(get("/new/a%2fb")).is_problem(400, "bad_path");
    gateway.ask(post("/own/x").bearer(&alice.access)).is_problem(405, "method_not_allowed");
    gateway.ask(get("/admin/x").bearer(&alice.access)).is_problem(403, "forbidden");
    gateway.ask(get("/auth/me")).is_problem(401, "missing_token");
    let hostless = Client::connect(gateway.address()).send("GET /new/x HTTP/1.1\r\n\r\n").response();
    assert_eq!(hostless.status, 400);
    assert_eq!(upstream.count(), before);
}

#[test]
fn a_check_speaks_as_requests_do() {
    let (authority, stranger, home) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let ca = server::write(home.path(), "ca.pem", &authority.pem);
    let health = "health = { path = \"/healthz\", interval = \"100ms\", timeout = \"5s\", healthy = 2, unhealthy = 2 }";
    let tls = |alpn: &[&str]| Speaks::tls(&authority, "127.0.0.1", alpn, None);
    for (scheme, speaks, version) in [
        ("https", tls(&["h2", "http/1.1"]), Version::HTTP_2),
        ("https", tls(&["http/1.1"]), Version::HTTP_11),
        ("h2c", Speaks::h2c(), Version::HTTP_2),
    ] {
        let server = Server::start(speaks);
        let more = if scheme == "https" { format!("ca = {ca:?}\n{health}") } else { health.to_owned() };
        let gateway = server.gateway(scheme, &more);
        let place = format!("{scheme}://{}", server.address());
        let metric = format!("gatepost_upstream_up{{upstream=\"app\",server=\"{place}\"}}");
        let is_up = || gateway.metric(&metric).unwrap_or_else(|| panic!("no metric {metric}")) > 0.5;
        let checks = || server.seen().iter().filter(|seen| seen.path() == "/healthz").count();
        let becomes = |up: bool| {
            eventually(&format!("{place} is up: {up}"), || (is_up() == up).then_some(()));
            let before = checks();
            eventually("it stays so", || (checks() >= before + 3).then_some(()));
            assert_eq!(is_up(), up, "{place}");
        };
        becomes(true);
        let seen = server.seen();
        assert!(seen.iter().all(|seen| seen.version == version && seen.method == "GET"), "{seen:?}");
        assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")), "{seen:?}");
        server.set_health(503);
        becomes(false);
        server.set_health(200);
        becomes(true);
        // A connection that is kept says nothing about whether another one can be made.
        gateway.ask(get("/public/x")).expect(200);
        server.set_closed(true);
        eventually("it is out", || (!is_up()).then_some(()));
        server.set_closed(false);
        becomes(true);
        gateway.ask(get("/public/x")).expect(200);
        let log = gateway.log_lines().text();
        assert!(log.contains("the server is unhealthy") && log.contains("503"), "{log}");
    }
    // Who is not believed is not healthy.
    let server = Server::start(Speaks::tls(&stranger, "127.0.0.1", &["h2"], None));
    let gateway = server.gateway("https", &format!("ca = {ca:?}\n{health}"));
    let why =
        |line: &str| line.contains("the server is unhealthy") && line.contains("invalid peer certificate");
    assert!(gateway.log_lines().wait(why), "{}", gateway.log_lines().text());
    assert!(server.seen().is_empty());
}
