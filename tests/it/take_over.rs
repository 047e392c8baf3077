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
use crate::support::request::{get, post};
use crate::support::upstream::Upstream;
use crate::support::{PASSWORD, eventually};

fn base(upstream: &Upstream) -> Config {
    Config::new().upstream("app", upstream.port()).set("server", "drain_timeout", "\"20s\"")
}

fn says_close(response: &Response) -> bool {
    response.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
}

/// Threads that work until they are told to stop. One that fails fails the test.
struct Crowd {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn new() -> Self {
        Self { stop: Arc::default(), done: Arc::default(), threads: Vec::new() }
    }

    /// Repeats `work`, which gets the number of the turn.
    fn join(&mut self, mut work: impl FnMut(usize) + Send + 'static) {
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
    fn goes_on(&self) {
        let before = self.done.load(Ordering::SeqCst);
        eventually("the work goes on", || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "one of the crowd has failed");
            (self.done.load(Ordering::SeqCst) > before + 100).then_some(())
        });
    }

    fn end(self) {
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
