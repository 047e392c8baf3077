//! One client connection of HTTP/1.1: what keeps it, what ends it, and what a slow client can hold.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::request::{get, post};
use crate::support::upstream::Upstream;
use crate::support::world::World;

fn limited(key: &'static str, value: &'static str) -> World {
    World::with(|c| c.set("server.limits", key, value))
}

/// Waits until an end for this reason was counted.
#[track_caller]
fn is_counted(world: &World, reason: &str, least: f64) {
    let name = format!("gatepost_connections_ended_total{{reason=\"{reason}\"}}");
    eventually("the end is counted", || (world.metric(&name)? >= least).then_some(()));
}

#[test]
fn pipelined_requests_are_answered_in_order_however_many_they_are() {
    let world = World::new();
    let mut client = world.connect();
    let requests: Vec<u8> = (0..2000).flat_map(|i| get(&format!("/public/{i}")).bytes()).collect();
    let mut writer = client.wire.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut writer, &requests).unwrap());
        for i in 0..2000 {
            assert_eq!(client.response().expect(200).json()["target"], format!("/public/{i}"));
        }
    });
    assert_eq!(world.upstream.count(), 2000);
}

#[test]
fn http_1_0_is_served_and_kept_open_when_it_asks_for_it() {
    let world = World::before(
        Upstream::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        |c| c,
    );
    let mut client = world.connect();
    let answer =
        client.send("GET /public/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").response();
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("abc", Some("close")));
    assert!(answer.all("transfer-encoding").is_empty(), "it knows no chunks");
    client.ends();
    let world = World::new();
    let mut client = world.connect();
    for _ in 0..2 {
        client.send("GET /public/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.response().expect(200).header("connection"), Some("keep-alive"));
    }
    let answer = client.send("GET /public/x HTTP/1.0\r\nHost: a\r\n\r\n").response().expect(200);
    assert_eq!(answer.header("connection"), Some("close"));
    client.ends();
}

#[test]
fn a_connection_is_closed_when_its_client_says_so() {
    let world = World::new();
    let mut client = world.connect();
    client.send(get("/public/x").bytes());
    assert_eq!(client.response().expect(200).header("connection"), None);
    client.send(get("/public/x").header("Connection", "close").bytes());
    assert_eq!(client.response().expect(200).header("connection"), Some("close"));
    client.ends();
}

#[test]
fn an_answer_has_one_date_and_an_upstreams_is_kept() {
    let world = World::new();
    let answer = world.passes(get("/public/x")).0.expect(200);
    assert!(
        answer.header("date").is_some_and(|date| date.len() == 29 && date.ends_with(" GMT")),
        "{answer:?}"
    );
    let world = World::before(
        Upstream::answering("HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: 0\r\n\r\n"),
        |c| c,
    );
    assert_eq!(world.passes(get("/public/x")).0.expect(200).header("date"), Some("then"));
}

#[test]
fn a_refusal_keeps_the_connection_when_little_of_the_body_is_left() {
    let world = World::new();
    let mut client = world.connect();
    let refused = post("/x").body("text/plain", "b".repeat(20_000)).bytes();
    let (first, rest) = refused.split_at(5_000);
    let answer = client.send(first).response().expect(401);
    assert_eq!(answer.header("connection"), None);
    client.send(rest).send(get("/public/x").bytes());
    assert_eq!(client.response().expect(200).json()["target"], "/public/x");
    // With much left it says that it closes, and does.
    let mut client = world.connect();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nstart");
    assert_eq!(client.response().expect(401).header("connection"), Some("close"));
    client.ends();
    // A client that waits to be told may send the body or not; so nothing can follow.
    let mut client = world.connect();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.response().expect(401);
    assert_eq!((answer.header("connection"), answer.interim.len()), (Some("close"), 0));
    client.ends();
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn more_header_lines_than_allowed_are_431() {
    let world = limited("header_count", "10");
    let lines = |count: usize| {
        let lines = "X-A: b\r\n".repeat(count);
        format!("GET /public/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
    };
    world.ask_raw(lines(9)).expect(200);
    let mut client = world.connect();
    let before = (world.upstream.count(), world.upstream.opened());
    let answer = client.send(lines(10)).send(get("/public/x").bytes()).response();
    answer.is_problem(431, "header_too_large");
    client.ends();
    world.saw_nothing_since(before, "eleven header lines");
    is_counted(&world, "header_too_large", 1.0);
}

#[test]
fn heads_beyond_the_limit_are_counted() {
    let world = limited("header_bytes", "\"4KiB\"");
    world.refuses(get("/public/x").header("X-Large", "b".repeat(4100)), 431, "header_too_large");
    let mut client = world.connect();
    client.send(format!("GET /public/x HTTP/1.1\r\nHost: a\r\nX-Large: {}", "b".repeat(9000)));
    assert_eq!(client.response().expect(431).body, b"");
    client.ends();
    is_counted(&world, "header_too_large", 2.0);
    let mut client = world.connect();
    client.send("rubbish\r\n\r\n").response().expect(400);
    client.ends();
    is_counted(&world, "rubbish", 1.0);
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn a_body_of_which_nothing_comes_is_408_and_the_end() {
    let world = limited("body_idle", "\"1s\"");
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let before = world.upstream.count();
        let mut client = world.connect();
        client.send(format!("POST /public/x HTTP/1.1\r\nHost: a\r\n{framing}"));
        client.response().is_problem(408, "request_timeout");
        client.ends();
        assert!(world.upstream.seen()[before..].iter().all(|request| !request.complete), "{framing}");
    }
    is_counted(&world, "body_idle", 2.0);
}

#[test]
fn a_body_may_take_its_time_while_it_comes() {
    let world = limited("body_idle", "\"1s\"");
    let mut client = world.connect();
    client.send("POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let begun = Instant::now();
    let mut sent = 0;
    // Each byte waits until the upstream has the one before, and a while longer than a tick.
    while begun.elapsed() < Duration::from_millis(2500) {
        client.send("1\r\na\r\n");
        sent += 1;
        world.upstream.wait_until(|seen| seen.last().is_some_and(|r| r.body.len() == sent));
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_millis(100) {
            assert!(world.metric("gatepost_connections").is_some());
        }
    }
    client.send("0\r\n\r\n").response().expect(200);
    assert_eq!(world.upstream.wait_until_complete(0).body.len(), sent);
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let length = 64 << 20;
    let world = World::before(
        Upstream::scripted(move |exchange| {
            exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..64 {
                if !exchange.send(&piece) {
                    break;
                }
            }
        }),
        |c| c.set("server.limits", "write_stall", "\"1s\""),
    );
    let mut client = world.connect();
    client.send(get("/public/x").bytes());
    is_counted(&world, "write_stall", 1.0);
    world.upstream.wait_until_all_closed();
    let head = client.head().unwrap();
    let mut body = head.body_reader("GET");
    let got = body.whole(&mut client.wire).len();
    assert!(got < length && body.fault.is_some(), "{got} bytes arrived");
}

/// The gateway's resident memory, in bytes.
fn resident(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn slow_readers_hold_the_upstream_back_and_no_memory() {
    let world = World::before(
        Upstream::scripted(|exchange| {
            if exchange.request().target == "/public/x" {
                exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                return;
            }
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n");
            let piece = vec![b'x'; 1 << 20];
            while exchange.send(&piece) {}
        }),
        |c| c,
    );
    world.ask(get("/public/x")).expect(200);
    let before = resident(&world);
    let mut slow: Vec<Client> = (0..60)
        .map(|_| {
            let mut client = world.connect();
            client.send(get("/public/large").bytes());
            client
        })
        .collect();
    for client in &mut slow {
        assert_eq!(client.head().unwrap().status, 200);
    }
    // Others are served; and what is read for those who do not read is bounded.
    for _ in 0..50 {
        world.ask(get("/public/x")).expect(200);
    }
    let grown = resident(&world).saturating_sub(before);
    assert!(grown < 60 * 400 * 1024, "{} KiB each", grown / 1024 / 60);
}

#[test]
fn an_idle_connection_is_counted_when_its_time_is_over() {
    let world = limited("idle_timeout", "\"1s\"");
    let mut client = world.connect();
    client.send(get("/public/x").bytes()).response().expect(200);
    client.ends();
    is_counted(&world, "idle_timeout", 1.0);
}

#[test]
fn an_old_connection_gets_no_new_requests() {
    let world = limited("connection_age", "\"1s\"");
    // One that is used is told with the first answer after its time.
    let mut used = world.connect();
    let mut idle = world.connect();
    idle.send(get("/public/x").bytes()).response().expect(200);
    let begun = Instant::now();
    loop {
        let answer = used.send(get("/public/x").bytes()).response().expect(200);
        if answer.header("connection") == Some("close") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it has to age");
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    used.ends();
    // One that waits is closed.
    idle.ends();
    is_counted(&world, "connection_age", 1.0);
}

#[test]
fn what_a_client_sends_while_it_waits_is_kept_for_later() {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let world = World::before(
        Upstream::scripted(move |exchange| {
            if exchange.request().target == "/public/first" {
                wait.lock().unwrap().recv().unwrap();
            }
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }),
        |c| c,
    );
    let mut client = world.connect();
    client.send(get("/public/first").bytes());
    world.upstream.wait_for(1);
    client.send("POST /public/second HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    go.send(()).unwrap();
    assert_eq!(client.response().expect(200).text(), "ok");
    assert_eq!(client.send("lo").response().expect(200).text(), "ok");
    assert_eq!(world.upstream.wait_until_complete(1).body, b"hello");
}
