//! One gateway follows another: no proxied request is lost, no acknowledged account, no revocation.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::{Client, Response};
use crate::support::config::Config;
use crate::support::gateway::Gateway;
use crate::support::h2::{self, H2};
use crate::support::jwt;
use crate::support::request::{get, post};
use crate::support::upstream::{Exchange, Upstream};
use crate::support::websocket::{self, Socket, TEXT, frame, handshake, masked};
use crate::support::wire::BodyReader;
use crate::support::{PASSWORD, eventually};

fn base(upstream: &Upstream) -> Config {
    Config::new().upstream("app", upstream.port()).set("server", "drain_timeout", "\"20s\"")
}

pub(super) fn says_close(response: &Response) -> bool {
    response.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
}

/// Threads that work until they are told to stop. One that fails fails the test.
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    pub(super) fn new() -> Self {
        Self { stop: Arc::default(), done: Arc::default(), threads: Vec::new() }
    }

    /// Repeats `work`, which gets the number of the turn.
    pub(super) fn join(&mut self, mut work: impl FnMut(usize) + Send + 'static) {
        let (stop, done) = (Arc::clone(&self.stop), Arc::clone(&self.done));
        self.threads.push(thread::spawn(move || {
            let mut turn = 0;
            while !stop.load(Ordering::SeqCst) {
                work(turn);
                turn += 1;
                done.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }

    /// Waits until a good deal more was done.
    pub(super) fn goes_on(&self) {
        let before = self.done.load(Ordering::SeqCst);
        eventually("the work goes on", || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "one of the crowd has failed");
            (self.done.load(Ordering::SeqCst) > before + 100).then_some(())
        });
    }

    pub(super) fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("nothing fails");
        }
    }
}

#[test]
fn three_rolling_restarts_under_load_lose_nothing() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&base(&upstream));
    let alice = gateway.user("alice");
    let address = gateway.address();
    let asked = Arc::new(AtomicUsize::new(0));
    let mut crowd = Crowd::new();
    for _ in 0..4 {
        let (token, asked) = (alice.access.clone(), Arc::clone(&asked));
        let mut client = Client::connect(address);
        crowd.join(move |_| {
            let answer = client.send(get("/kept").bearer(&token).bytes()).response().expect(200);
            asked.fetch_add(1, Ordering::SeqCst);
            if says_close(&answer) {
                client.ends();
                client = Client::connect(address);
            }
        });
    }
    for _ in 0..2 {
        let (token, asked) = (alice.access.clone(), Arc::clone(&asked));
        crowd.join(move |turn| {
            let request = post("/fresh").bearer(&token).json(json!({"turn": turn}));
            Client::connect(address).send(request.bytes()).response().expect(200);
            asked.fetch_add(1, Ordering::SeqCst);
        });
    }
    let (made, refused) = (Arc::<std::sync::Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
    for number in 0..2 {
        let (made, refused) = (Arc::clone(&made), Arc::clone(&refused));
        crowd.join(move |turn| {
            let name = format!("user-{number}-{turn}");
            let request = post("/auth/register").json(json!({"username": name, "password": PASSWORD}));
            let answer = Client::connect(address).send(request.bytes()).response();
            if answer.status == 201 {
                made.lock().unwrap().push(name);
            } else {
                answer.is_problem(503, "store_unavailable");
                refused.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    crowd.goes_on();
    let mut before = vec![gateway.pid()];
    for _ in 0..3 {
        let mut old = gateway.take_over();
        assert_eq!(gateway.address(), address);
        assert!(!before.contains(&gateway.pid()));
        before.push(gateway.pid());
        crowd.goes_on();
        let status = old.wait_for_exit();
        assert_eq!(status.code(), Some(0), "{}", old.log());
    }
    crowd.goes_on();
    crowd.end();
    assert_eq!(upstream.count(), asked.load(Ordering::SeqCst), "each request went out once");
    upstream.saw_no_bad_head();
    let made = made.lock().unwrap();
    assert!(!made.is_empty());
    for name in made.iter() {
        gateway.try_login(name, PASSWORD).expect(200);
    }
    // Who was told to come back later has no account, or one that can be used.
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn what_the_new_one_revokes_the_old_one_refuses() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&base(&upstream));
    let (alice, bob) = (gateway.user("alice"), gateway.user("bob"));
    let ask = |client: &mut Client, token: &str| client.send(get("/x").bearer(token).bytes()).response();
    let mut connections: Vec<Client> = (0..20).map(|_| gateway.connect()).collect();
    for client in &mut connections {
        ask(client, &alice.access).expect(200);
    }
    let mut old = gateway.take_over();
    // Idle connections stay with the old process, which judges their next request.
    let mut first = connections.pop().unwrap();
    let answer = ask(&mut first, &alice.access).expect(200);
    assert!(says_close(&answer), "{:?}", answer.headers);
    first.ends();
    assert!(!old.has_ended());

    gateway.ask(post("/auth/logout").json(json!({"refresh_token": alice.refresh}))).expect(200);
    let revoked = Instant::now();
    let refusal = loop {
        let mut client = connections.pop().expect("it is refused before twenty were asked");
        let answer = ask(&mut client, &alice.access);
        if answer.status != 200 {
            break answer;
        }
        thread::park_timeout(Duration::from_millis(20));
    };
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    refusal.is_problem(401, "revoked_token");
    assert!(says_close(&refusal));
    let seen = upstream.count();
    ask(&mut connections.pop().unwrap(), &alice.access).is_problem(401, "revoked_token");
    assert_eq!(upstream.count(), seen, "nothing of it reached the upstream");
    ask(&mut connections.pop().unwrap(), &bob.access).expect(200);
    // What needs the store is for the new process.
    let login = post("/auth/login").json(json!({"username": "bob", "password": PASSWORD}));
    let answer = connections.pop().unwrap().send(login.bytes()).response();
    answer.is_problem(503, "store_unavailable");
    assert!(says_close(&answer));
    gateway.login("bob");

    drop(connections);
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
}

#[test]
fn an_old_one_that_is_alone_begins_nothing_new() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&base(&upstream));
    let alice = gateway.user("alice");
    let mut idle = gateway.connect();
    idle.send(get("/x").bearer(&alice.access).bytes()).response().expect(200);
    let mut old = gateway.take_over();
    assert!(!old.has_ended());
    gateway.kill();
    // Nobody tells it any more what is revoked.
    idle.ends();
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
    assert_eq!(upstream.count(), 1);
    gateway.start_again();
    gateway.login("alice");
}

#[test]
fn what_is_under_way_finishes_in_the_old_one() {
    let released = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&released);
    let upstream = Upstream::scripted(move |exchange| {
        if exchange.request().target.ends_with("slow") {
            eventually("the test goes on", || waits.load(Ordering::SeqCst).then_some(()));
        }
        crate::support::upstream::echo(exchange);
    });
    let config = base(&upstream).set("server", "h2c", "true");
    let mut gateway = Gateway::start(&config);
    let mut h2 = H2::connect(gateway.address());
    let mut stream = h2.open(h2::get("/public/slow"), true);
    let mut client = gateway.connect();
    client.send(get("/public/slow").bytes());
    eventually("both are under way", || (upstream.count() == 2).then_some(()));
    let mut old = gateway.take_over();
    // HTTP/2 is told at once that nothing new is taken, and loses nothing of what it has begun.
    assert!(!old.has_ended());
    released.store(true, Ordering::SeqCst);
    assert_eq!(stream.answer().unwrap().status(), 200);
    assert!(h2.end().is_ok());
    let answer = client.response().expect(200);
    assert!(says_close(&answer), "{:?}", answer.headers);
    client.ends();
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
    let mut again = H2::connect(gateway.address());
    assert_eq!(again.get("/public/x").status, 200);
}

/// A process that begins to take over.
struct Half {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Half {
    fn of(gateway: &Gateway) -> Self {
        let stream = UnixStream::connect(gateway.home().join("data/gatepost.sock")).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Self { stream, lines }
    }

    fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Reads until a line has this in it.
    fn hears(&mut self, what: &str) {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the conversation ended before {what}");
        }
    }
}

#[test]
fn when_the_new_one_dies_half_way_the_old_one_goes_on() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&base(&upstream));
    let alice = gateway.user("alice");

    // Before the store is closed: nobody notices.
    let mut half = Half::of(&gateway);
    half.say(r#"{"version":1,"command":{"do":"take_over"}}"#);
    half.hears("offered");
    drop(half);
    let log = gateway.log_lines();
    assert!(log.wait(|line| line.contains("does not take over")), "{}", log.text());
    gateway.login("alice");

    // After: what is proxied goes on, and when the store is there again, so does the rest.
    let mut half = Half::of(&gateway);
    half.say(r#"{"version":1,"command":{"do":"take_over"}}"#);
    half.hears("offered");
    half.say(r#"{"say":"close_store"}"#);
    half.hears("store_closed");
    let mut kept = gateway.connect();
    let answer = kept.send(get("/x").bearer(&alice.access).bytes()).response().expect(200);
    assert!(!says_close(&answer));
    gateway.try_login("alice", PASSWORD).is_problem(503, "store_unavailable");
    drop(half);
    assert!(log.wait(|line| line.contains("the store is open again")), "{}", log.text());
    kept.send(get("/x").bearer(&alice.access).bytes()).response().expect(200);
    gateway.login("alice");
    gateway.register("bob").expect(201);
    gateway.cli(&["user", "disable", "alice"]).succeeds();
    kept.send(get("/x").bearer(&alice.access).bytes()).response().is_problem(401, "revoked_token");
    assert_eq!(upstream.count(), 2);
}

/// Whose a token of the app's is stands in the store. While nobody can look, its bearer is neither that
/// account nor nobody: not even where refusals are only reported.
#[test]
fn whose_token_cannot_be_looked_up_passes_nowhere() {
    let secret = "the secret that the app signs with, for the tests";
    let legacy = format!("algorithm = \"HS256\"\nsecret = \"{secret}\"\nuntil = \"9999-01-01\"");
    let upstream = Upstream::echo();
    let config = base(&upstream)
        .legacy(&legacy)
        .route("path = \"/watched/**\"\nmode = \"report\"")
        .route("path = \"/maybe/watched/**\"\naccess = \"optional\"\nmode = \"report\"");
    let gateway = Gateway::start(&config);
    gateway.register("alice").expect(201);
    let mut half = Half::of(&gateway);
    half.say(r#"{"version":1,"command":{"do":"take_over"}}"#);
    half.hears("offered");
    half.say(r#"{"say":"close_store"}"#);
    half.hears("store_closed");

    let header = json!({"alg": "HS256", "typ": "JWT"});
    let claims = json!({"sub": "alice", "iat": jwt::now(), "exp": jwt::now() + 900});
    let token = jwt::hs256(secret.as_bytes(), &header, &claims);
    let ask = |path: &str| gateway.ask(get(path).bearer(&token));
    let before = (upstream.count(), upstream.opened());
    for path in ["/watched/x", "/maybe/watched/x", "/optional/x", "/x", "/auth/me"] {
        let answer = ask(path);
        assert_eq!((answer.status, answer.code().as_str()), (503, "store_unavailable"), "{path}");
        answer.is_problem(503, "store_unavailable");
    }
    assert_eq!((upstream.count(), upstream.opened()), before, "nothing of it reached the upstream");
    assert!(gateway.metric("gatepost_would_deny_total{route=\"/watched/**\"}").is_none_or(|n| n < 1.0));
    // Where nobody is asked who he is, nothing has to be looked up, and nothing is said of him.
    ask("/public/x").expect(200);
    let seen = upstream.seen().last().cloned().unwrap();
    assert_eq!((seen.header("x-auth-user"), seen.header("authorization")), (None, None));

    drop(half);
    let log = gateway.log_lines();
    assert!(log.wait(|line| line.contains("the store is open again")), "{}", log.text());
    ask("/watched/x").expect(200);
    assert_eq!(upstream.seen().last().unwrap().header("x-auth-user"), Some("alice"));
}

#[test]
fn a_new_one_that_cannot_serve_changes_nothing() {
    let upstream = Upstream::echo();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&base(&upstream));
    let alice = gateway.user("alice");
    let port = taken.local_addr().unwrap().port();
    // The file that runs stays: another one is what the new process would serve.
    let other = format!("server.listen=[\"127.0.0.1:0\", \"127.0.0.1:{port}\"]");
    let ended = gateway.cli(&["--set", &other, "serve", "--take-over"]).exits(1);
    assert!(ended.stderr.contains("cannot listen on"), "{ended:?}");
    let ended = gateway.cli(&[
        "--set",
        "store.path=elsewhere",
        "--set",
        "admin.socket=data/gatepost.sock",
        "serve",
        "--take-over",
    ]);
    assert!(ended.exits(1).stderr.contains("the running gateway's store is"));
    gateway.ask(get("/x").bearer(&alice.access)).expect(200);
    gateway.login("alice");
    assert!(!gateway.log_lines().text().contains("the store is handed over"));
}

#[test]
fn with_nobody_there_it_says_so() {
    let upstream = Upstream::echo();
    let gateway = Gateway::prepare(&base(&upstream));
    let ended = gateway.does_not_take_over();
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("gatepost.sock") && ended.stderr.contains("no running gateway"),
        "{ended:?}"
    );
}

#[test]
fn listeners_may_come_and_go() {
    let upstream = Upstream::echo();
    let listen = |more: &str| base(&upstream).set("server", "listen", &format!("[\"127.0.0.1:0\"{more}]"));
    let mut gateway = Gateway::start(&listen(", \"unix:one.sock\""));
    let at = |name: &str| gateway.home().join(name);
    let (one, two) = (at("one.sock"), at("two.sock"));
    let alice = gateway.user("alice");
    let ask = |socket: &std::path::Path| {
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.write_all(&get("/x").bearer(&alice.access).bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line)
    };
    assert!(ask(&one).unwrap().contains(" 200 "));
    gateway.configure(&listen(", \"unix:one.sock\", \"unix:two.sock\"").text());
    let address = gateway.address();
    let mut old = gateway.take_over();
    old.wait_for_exit();
    assert_eq!(gateway.address(), address);
    assert!(ask(&one).unwrap().contains(" 200 "), "it is still there when the old one has gone");
    assert!(ask(&two).unwrap().contains(" 200 "));
    gateway.configure(&listen(", \"unix:two.sock\"").text());
    gateway.take_over().wait_for_exit();
    eventually("nobody listens", || ask(&one).is_none().then_some(()));
    assert!(ask(&two).unwrap().contains(" 200 "));
}

#[test]
fn a_second_signal_ends_the_waiting() {
    let upstream = Upstream::scripted(crate::support::upstream::hang);
    let mut gateway = Gateway::start(&base(&upstream).set("server", "drain_timeout", "\"10m\""));
    let alice = gateway.user("alice");
    let mut client = gateway.connect();
    client.send(get("/x").bearer(&alice.access).bytes());
    eventually("the request is under way", || (upstream.count() == 1).then_some(()));
    gateway.signal(Signal::TERM);
    eventually("it accepts no more", || std::net::TcpStream::connect(gateway.address()).err());
    gateway.signal(Signal::INT);
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    assert!(client.try_response("GET").is_none());
}

/// Tunnels say back what they hear; events begin and do not end.
fn endless() -> Upstream {
    let sender = std::sync::Mutex::new(std::sync::mpsc::channel().0);
    Upstream::scripted(move |exchange: &mut Exchange<'_>| {
        let target = exchange.request().target.clone();
        if target.ends_with("chat") {
            let sender = sender.lock().unwrap().clone();
            websocket::agree(exchange);
            websocket::echo_frames(exchange, &sender);
            exchange.close();
        } else if target.ends_with("events") {
            exchange.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            exchange.send("b\r\ndata: one\n\n\r\n");
            exchange.wait_until_closed();
            exchange.close();
        } else {
            crate::support::upstream::echo(exchange);
        }
    })
}

/// An event stream whose first event has come.
fn events(gateway: &Gateway, token: &str) -> (Client, BodyReader) {
    let mut client = gateway.connect();
    let head = client.send(get("/events").bearer(token).bytes()).head().expect("an answer");
    assert_eq!(head.status, 200, "{head:?}");
    let mut body = head.body_reader("GET");
    assert_eq!(body.piece(&mut client.wire).unwrap(), b"data: one\n\n");
    (client, body)
}

/// What goes on for ever, one of each kind.
struct Endless {
    socket: Socket,
    events: (Client, BodyReader),
    /// A connection of HTTP/2 with a tunnel and an event stream.
    h2: H2,
    call: h2::Call,
    tunnel: h2::Incoming,
    stream: h2::Incoming,
}

impl Endless {
    fn start(gateway: &Gateway, token: &str) -> Self {
        let bearer = format!("Bearer {token}").parse::<http::HeaderValue>().unwrap();
        let mut h2 = H2::connect(gateway.address());
        let mut open = h2::websocket("/chat");
        open.headers_mut().insert("authorization", bearer.clone());
        let mut call = h2.open(open, false);
        let tunnel = call.answer().unwrap();
        assert_eq!(tunnel.status(), 200);
        let mut listen = h2::get("/events");
        listen.headers_mut().insert("authorization", bearer);
        let mut stream = h2.open(listen, true).answer().unwrap();
        assert_eq!(&stream.piece().unwrap().unwrap()[..], b"data: one\n\n");
        let socket = Socket::open(gateway, "/chat", token);
        Self { socket, events: events(gateway, token), h2, call, tunnel, stream }
    }

    fn goes_on(&mut self) {
        self.socket.says("hello");
        self.call.send(&masked(TEXT, "hello"), false);
        let expected = frame(TEXT, "hello");
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            heard.extend(self.tunnel.piece().expect("more comes").unwrap());
        }
        assert_eq!(heard, expected);
    }

    /// Reads each to its end, which is a proper one.
    fn ends_properly(mut self) {
        assert_eq!(self.socket.read().closed(), (1001, "going away".to_owned()));
        self.socket.ends_after_close();
        let (mut client, mut body) = self.events;
        assert!(body.whole(&mut client.wire).is_empty());
        assert_eq!(body.fault, None, "a whole body");
        client.ends();
        let close = frame(websocket::CLOSE, [&[3, 0xe9], b"going away" as &[u8]].concat());
        let mut heard = Vec::new();
        while heard.len() < close.len() {
            heard.extend(self.tunnel.piece().expect("more comes").unwrap());
        }
        assert_eq!(heard, close);
        self.call.send(&masked(websocket::CLOSE, [3, 0xe9]), true);
        assert!(self.tunnel.whole().expect("END_STREAM").body.is_empty());
        assert!(self.stream.whole().expect("END_STREAM").body.is_empty());
        assert!(self.h2.end().is_ok());
    }
}

#[test]
fn what_never_ends_goes_on_in_the_old_one_until_that_is_to_stop() {
    let upstream = endless();
    let config = base(&upstream).set("server", "drain_timeout", "\"10m\"").set("server", "h2c", "true");
    let mut gateway = Gateway::start(&config);
    let alice = gateway.user("alice");
    let mut running = Endless::start(&gateway, &alice.access);
    running.goes_on();
    let mut old = gateway.take_over();
    running.goes_on();
    // Who comes now gets the new one.
    let mut another = Endless::start(&gateway, &alice.access);
    another.goes_on();
    assert!(!old.has_ended());
    old.signal(Signal::TERM);
    running.ends_properly();
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
    another.goes_on();
    upstream.wait_until_open(4);
    assert_eq!(gateway.metric("gatepost_tunnels"), Some(2.0));
}

#[test]
fn what_never_ends_is_told_to_when_the_time_is_over() {
    let upstream = endless();
    let config = base(&upstream).set("server", "drain_timeout", "\"1s\"").set("server", "h2c", "true");
    let mut gateway = Gateway::start(&config);
    let alice = gateway.user("alice");
    let running = Endless::start(&gateway, &alice.access);
    let mut old = gateway.take_over();
    running.ends_properly();
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
    upstream.wait_until_all_closed();
    Endless::start(&gateway, &alice.access).goes_on();
}

#[test]
fn a_tunnel_in_the_old_one_ends_with_its_session_in_the_new_one() {
    let upstream = endless();
    let mut gateway = Gateway::start(&base(&upstream).set("server", "drain_timeout", "\"10m\""));
    let alice = gateway.user("alice");
    let mut socket = Socket::ask(&gateway, handshake("/chat").bearer(&alice.access));
    let (mut client, mut body) = events(&gateway, &alice.access);
    let mut old = gateway.take_over();
    socket.says("hello");
    gateway.ask(post("/auth/logout").bearer(&alice.access)).expect(200);
    assert_eq!(socket.read().closed(), (1008, "token revoked".to_owned()));
    socket.ends_after_close();
    assert!(body.whole(&mut client.wire).is_empty());
    client.ends();
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
}

#[test]
fn a_request_under_way_outlives_the_first_signal_to_the_old_one_and_not_the_second() {
    let released = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&released);
    let upstream = Upstream::scripted(move |exchange| {
        if exchange.request().target.ends_with("slow") {
            eventually("the test goes on", || waits.load(Ordering::SeqCst).then_some(()));
            crate::support::upstream::echo(exchange);
        } else {
            crate::support::upstream::hang(exchange);
        }
    });
    let mut gateway = Gateway::start(&base(&upstream).set("server", "drain_timeout", "\"10m\""));
    let (mut idle, mut slow, mut never) = (gateway.connect(), gateway.connect(), gateway.connect());
    slow.send(get("/public/slow").bytes());
    never.send(get("/public/never").bytes());
    upstream.wait_for(2);
    let mut old = gateway.take_over();
    assert!(!old.has_ended());
    old.signal(Signal::TERM);
    // It has heard: nothing new is begun.
    idle.ends();
    released.store(true, Ordering::SeqCst);
    let answer = slow.response().expect(200);
    assert!(says_close(&answer));
    slow.ends();
    assert!(!old.has_ended());
    old.signal(Signal::TERM);
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
    assert!(never.try_response("GET").is_none());
}
