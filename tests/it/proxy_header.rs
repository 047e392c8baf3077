//! PROXY headers: whose word counts, what it changes, and what happens to everybody else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::support::client::{Client, Response};
use crate::support::request::{Request, get, post};
use crate::support::world::World;
use crate::support::{PASSWORD, eventually};

/// Behind a proxy at 127.0.0.1.
fn behind_a_proxy(trusted: &str) -> World {
    World::with(|c| {
        c.set("server", "trusted_proxies", trusted).set("server", "proxy_protocol", "true").set(
            "server.limits",
            "handshake_timeout",
            "\"1s\"",
        )
    })
}

fn v1(client: &str) -> Vec<u8> {
    let (family, proxy) = if client.contains(':') { ("TCP6", "::1") } else { ("TCP4", "10.0.0.1") };
    format!("PROXY {family} {client} {proxy} 51234 8443\r\n").into_bytes()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

/// 203.0.113.9:1 to 10.0.0.1:443, and an ALPN of `h2`.
fn v2_ipv4() -> Vec<u8> {
    v2(0x21, 0x11, b"\xcb\x00\x71\x09\x0a\x00\x00\x01\x00\x01\x01\xbb\x01\x00\x02h2")
}

fn ask(world: &World, header: &[u8], request: &Request) -> Response {
    let mut client = world.connect();
    client.send([header, &request.bytes()].concat());
    client.response_to(&request.method)
}

/// What the upstream is told about the client of one request.
fn told(world: &World, header: &[u8]) -> (String, String) {
    let before = world.upstream.count();
    ask(world, header, &get("/public/x").header("X-Forwarded-For", "6.6.6.6")).expect(200);
    let seen = world.upstream.seen()[before].clone();
    let id = seen.header("x-request-id").unwrap().to_owned();
    let client = seen.header("x-forwarded-for").unwrap().to_owned();
    assert_eq!(seen.header("x-real-ip"), Some(client.as_str()));
    assert_eq!(world.decision(&id)["client"], client.as_str());
    (client, seen.header("x-forwarded-port").unwrap().to_owned())
}

#[test]
fn the_client_is_who_the_trusted_proxy_says() {
    let world = behind_a_proxy("[\"127.0.0.1/32\"]");
    let is = |header: &[u8], client: &str, port: &str| {
        assert_eq!(told(&world, header), (client.to_owned(), port.to_owned()), "{header:?}");
    };
    is(&v1("203.0.113.7"), "203.0.113.7", "8443");
    is(&v1("2001:db8::7"), "2001:db8::7", "8443");
    is(&v1("::ffff:203.0.113.7"), "203.0.113.7", "8443");
    is(&v2_ipv4(), "203.0.113.9", "443");
    world.upstream.saw_only_proper_requests();
}

#[test]
fn a_connection_of_the_proxys_own_stays_the_proxys() {
    let world = behind_a_proxy("[\"127.0.0.1/32\"]");
    for header in
        [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, b""), v2(0x20, 0x11, &[9; 12]), v2(0x21, 0, b"")]
    {
        let before = world.upstream.count();
        ask(&world, &header, &get("/public/x")).expect(200);
        assert_eq!(world.upstream.seen()[before].header("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn a_header_may_come_in_pieces_and_is_there_once() {
    let world = behind_a_proxy("[\"127.0.0.1/32\"]");
    for header in [v1("203.0.113.7"), v2_ipv4()] {
        let mut client = world.connect();
        for piece in header.chunks(5) {
            client.send(piece);
        }
        client.send(get("/public/a").bytes()).response().expect(200);
        client.send(get("/public/b").bytes()).response().expect(200);
        // On an open connection it is rubbish like any other.
        client.send(&header);
        let answer = client.try_response("GET");
        assert!(answer.is_none_or(|answer| answer.status == 400));
        client.ends();
    }
    assert_eq!(world.upstream.count(), 4);
}

#[test]
fn who_is_not_trusted_is_closed_whatever_he_sends() {
    let world = behind_a_proxy("[\"192.0.2.0/24\"]");
    for header in [v1("203.0.113.7"), v2_ipv4(), Vec::new()] {
        let mut client = world.connect();
        client.send([header, get("/public/x").bytes()].concat());
        assert!(client.try_response("GET").is_none());
        client.ends();
    }
    assert_eq!((world.upstream.count(), world.upstream.opened()), (0, 0));
    let counted = world.metric("gatepost_connections_ended_total{reason=\"untrusted_peer\"}");
    assert_eq!(counted, Some(3.0));
    assert_eq!(world.metric("gatepost_connections"), Some(0.0));
}

#[test]
fn without_a_whole_header_there_is_no_request() {
    let world = behind_a_proxy("[\"127.0.0.1/32\"]");
    let bad = [
        get("/public/x").bytes(),
        [b"PROXY TCP4 203.0.113.7 10.0.0.1 1\r\n", &get("/public/x").bytes()[..]].concat(),
        [v2(0x21, 0x11, b"short"), get("/public/x").bytes()].concat(),
        v2(0x21, 0x11, &[0; 5000]),
        // These go on waiting, for a second.
        b"PROXY TCP4 203.0.113.7".to_vec(),
        v2(0x21, 0x11, &[0; 12])[..20].to_vec(),
    ];
    for bytes in &bad {
        let mut client = world.connect();
        client.send(bytes);
        assert!(client.try_response("GET").is_none(), "{bytes:?}");
    }
    assert_eq!((world.upstream.count(), world.upstream.opened()), (0, 0));
    // Who sends nothing and goes is a load balancer that looks whether the port is open.
    drop(world.connect());
    let name = "gatepost_connections_ended_total{reason=\"proxy_header\"}";
    eventually("they are counted", || (world.metric(name)? >= 6.0).then_some(()));
    eventually("they are gone", || (world.metric("gatepost_connections")? == 0.0).then_some(()));
    assert_eq!(world.metric(name), Some(6.0));
    ask(&world, &v1("203.0.113.7"), &get("/public/x")).expect(200);
}

#[test]
fn waiting_for_a_header_does_not_hold_up_the_end() {
    let mut world = World::with(|c| {
        c.set("server", "trusted_proxies", "\"private\"").set("server", "proxy_protocol", "true")
    });
    let mut waiting = world.connect();
    waiting.send("PROXY TCP4 ");
    eventually("it is accepted", || (world.metric("gatepost_connections")? >= 1.0).then_some(()));
    assert!(world.stop().success());
    waiting.ends();
}

#[test]
fn the_throttle_counts_the_told_address() {
    let world =
        World::with(|c| {
            c.set("server", "trusted_proxies", "[\"127.0.0.1/32\"]")
                .set("server", "proxy_protocol", "true")
                .set("auth.throttle", "per_address", "2")
        });
    let login = |from: &str| {
        let wrong = post("/auth/login").json(json!({"username": "nobody", "password": PASSWORD}));
        ask(&world, &v1(from), &wrong)
    };
    for _ in 0..2 {
        login("203.0.113.7").is_problem(401, "invalid_credentials");
    }
    login("203.0.113.7").is_problem(429, "throttled");
    login("203.0.113.8").is_problem(401, "invalid_credentials");
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn a_chain_of_proxies_is_believed_as_far_as_it_is_trusted() {
    let world = behind_a_proxy("[\"127.0.0.1/32\", \"10.0.0.0/8\"]");
    // A layer 4 proxy at 127.0.0.1, in front of it a layer 7 one at 10.1.1.1.
    let request = get("/public/x").header("X-Forwarded-For", "198.51.100.3");
    ask(&world, &v1("10.1.1.1"), &request).expect(200);
    assert_eq!(world.upstream.wait_for(1).header("x-forwarded-for"), Some("198.51.100.3, 10.1.1.1"));
}

#[test]
fn peers_on_a_unix_socket_are_believed() {
    let world = World::with(|c| {
        c.set("server", "listen", "[\"127.0.0.1:0\", \"unix:front.sock\"]")
            .set("server", "trusted_proxies", "[\"192.0.2.0/24\"]")
            .set("server", "proxy_protocol", "true")
    });
    for (header, client) in [(v1("203.0.113.7"), "203.0.113.7"), (v2(0x20, 0, b""), "127.0.0.1")] {
        let before = world.upstream.count();
        let mut stream = UnixStream::connect(world.home().join("front.sock")).unwrap();
        stream.write_all(&[header, get("/public/x").header("Connection", "close").bytes()].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(world.upstream.seen()[before].header("x-forwarded-for"), Some(client));
    }
}

#[test]
fn headers_are_not_read_where_they_are_not_switched_on() {
    let world = World::with(|c| c.set("server", "trusted_proxies", "[\"127.0.0.1/32\"]"));
    let mut client = world.connect();
    client.send([v1("203.0.113.7"), get("/public/x").bytes()].concat());
    let answer = client.try_response("GET");
    assert!(answer.is_none_or(|answer| answer.status == 400));
    client.ends();
    assert_eq!(world.upstream.count(), 0);
}

/// A connection of this client that has had an answer, or none.
fn admitted(world: &World, from: &str) -> Option<Client> {
    let mut client = world.connect();
    client.send([v1(from), get("/public/x").bytes()].concat());
    client.try_response("GET").map(|answer| {
        answer.expect(200);
        client
    })
}

#[test]
fn an_address_has_so_many_connections_and_room_comes_back() {
    let world =
        World::with(|c| {
            c.set("server", "trusted_proxies", "[\"127.0.0.1/32\"]")
                .set("server", "proxy_protocol", "true")
                .set("server.limits", "connections_per_address", "2")
        });
    for (one, same, other) in [
        ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),
    ] {
        let asked = world.upstream.count();
        let held = [admitted(&world, one), admitted(&world, same)];
        assert!(held.iter().all(Option::is_some));
        assert!(admitted(&world, one).is_none() && admitted(&world, same).is_none());
        assert!(admitted(&world, other).is_some());
        assert_eq!(world.upstream.count(), asked + 3, "who is refused is not forwarded");
        drop(held);
        eventually("there is room again", || admitted(&world, one));
    }
    // The proxy itself is not limited.
    let own: Vec<_> = (0..5)
        .map(|_| {
            let mut client = world.connect();
            client.send([&b"PROXY UNKNOWN\r\n"[..], &get("/public/x").bytes()].concat());
            client.response().expect(200);
            client
        })
        .collect();
    assert_eq!(own.len(), 5);
    let counted = world.metric("gatepost_connections_ended_total{reason=\"address_limit\"}");
    assert!(counted.is_some_and(|count| count >= 4.0), "{counted:?}");
}

#[test]
fn the_peers_own_address_is_limited_where_nobody_tells_another() {
    let world = World::with(|c| {
        c.set("server.limits", "connections_per_address", "2").set(
            "server",
            "listen",
            "[\"127.0.0.1:0\", \"unix:front.sock\"]",
        )
    });
    let connected = || {
        let mut client = world.connect();
        client.send(get("/public/x").bytes());
        client.try_response("GET").map(|_| client)
    };
    let held = [connected(), connected()];
    assert!(held.iter().all(Option::is_some));
    assert!(connected().is_none());
    assert_eq!(world.upstream.count(), 2);
    // A Unix socket has no addresses that could be counted.
    let local: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = UnixStream::connect(world.home().join("front.sock")).unwrap();
            stream.write_all(&get("/public/x").bytes()).unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 200");
            stream
        })
        .collect();
    assert_eq!(local.len(), 4);
    drop(held);
    eventually("there is room again", connected);
}
