//! `WebSockets` through the gateway: the steps come first, then the bytes pass as they are.

use std::thread;
use std::time::Duration;

use http::{HeaderValue, Request, Version};

use super::support::PATIENCE;
use super::support::config::Config;
use super::support::gateway::Gateway;
use super::support::h2::{self, H2, Incoming};
use super::support::request::{get, post};
use super::support::server::{Authority, Server, Speaks, write};
use super::support::upstream::Upstream;
use super::support::websocket::{
    self, BINARY, CLOSE, Frame, PING, PONG, Socket, TEXT, accept_for, agree, frame, handshake, masked,
};
use super::support::world::World;

/// A gateway before an application that says everything back, and what that has read.
fn echo() -> (World, std::sync::mpsc::Receiver<Frame>) {
    let (upstream, frames) = websocket::echo();
    (World::before(upstream, |c| c), frames)
}

#[test]
fn what_is_said_arrives_and_comes_back() {
    let (world, frames) = echo();
    let alice = world.user("alice");
    let mut socket = Socket::open(&world, "/chat?room=1", &alice.access);
    socket.says("hello");
    let read = frames.recv_timeout(PATIENCE).unwrap();
    assert_eq!((read.first, read.masked, read.payload.as_slice()), (TEXT, true, b"hello" as &[u8]));
    // A message in two fragments with a ping between them passes frame by frame.
    socket.client.send([masked(0x01, "one"), masked(PING, "?"), masked(0x80, "two")].concat());
    let back: Vec<_> = (0..3).map(|_| socket.read()).map(|it| (it.first, it.payload)).collect();
    assert_eq!(back, [(0x01, b"one".to_vec()), (PONG, b"?".to_vec()), (0x80, b"two".to_vec())]);
    assert_eq!(world.metric("gatepost_tunnels"), Some(1.0));
    socket.ends_after_close_read();
    super::support::eventually("it is over", || {
        (world.metric("gatepost_tunnels") == Some(0.0)).then_some(())
    });
    world.upstream.wait_until_all_closed();
}

#[test]
fn the_upstream_sees_the_handshake_and_who_asks() {
    let (world, _frames) = echo();
    let alice = world.user("alice");
    let request = handshake("/chat")
        .bearer(&alice.access)
        .header("Origin", "https://app.test")
        .header("Cookie", "theme=dark")
        .header("Sec-WebSocket-Protocol", "chat, superchat")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .header("X-Auth-User", "somebody else");
    let socket = Socket::ask(&world, request);
    assert_eq!(socket.answer.header("content-length"), None);
    let seen = world.upstream.wait_for(1);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/chat"));
    assert_eq!(seen.header("upgrade"), Some("websocket"));
    assert_eq!(seen.header("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(seen.header("sec-websocket-version"), Some("13"));
    for (name, value) in [
        ("origin", "https://app.test"),
        ("cookie", "theme=dark"),
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        assert_eq!(seen.header(name), Some(value));
    }
    assert!(seen.text().contains("alice") && !seen.text().contains("somebody else"), "{}", seen.text());
    assert_eq!(seen.header("authorization"), None);
}

#[test]
fn what_the_connection_line_names_away_is_said_all_the_same() {
    let (world, _frames) = echo();
    let alice = world.user("alice");
    let request = get("/chat")
        .bearer(&alice.access)
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade, Sec-WebSocket-Key, Sec-WebSocket-Version, X-Forwarded-For")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    Socket::ask(&world, request).says("hello");
}

#[test]
fn large_frames_pass_in_both_directions() {
    let (world, _frames) = echo();
    let alice = world.user("alice");
    let mut socket = Socket::open(&world, "/chat", &alice.access);
    for length in [125, 126, 65_535, 65_536, 5_000_000] {
        let payload: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        socket.send(BINARY, &payload);
        let back = socket.read();
        assert!(back.first == BINARY && back.payload == payload, "{length} bytes changed");
    }
}

#[test]
fn without_a_good_token_nothing_reaches_the_upstream() {
    let (world, _frames) = echo();
    let alice = world.user("alice");
    world.refuses(handshake("/chat"), 401, "missing_token");
    world.refuses(handshake("/chat").bearer("rubbish"), 401, "invalid_token");
    world.refuses(handshake("/admin/chat").bearer(&alice.access), 403, "forbidden");
    world.ask(post("/auth/logout").bearer(&alice.access)).expect(200);
    world.refuses(handshake("/chat").bearer(&alice.access), 401, "revoked_token");
}

#[test]
fn a_public_route_tunnels_for_anybody() {
    let (world, _frames) = echo();
    Socket::ask(&world, handshake("/public/chat")).says("hello");
}

#[test]
fn an_answer_that_does_not_agree_is_a_502() {
    let right = accept_for("dGhlIHNhbXBsZSBub25jZQ==");
    for head in [
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: dGhlIHNhbXBsZSBub25jZQ=="
            .to_owned(),
        "Upgrade: websocket\r\nConnection: Upgrade".to_owned(),
        format!("Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {right}"),
        format!("Connection: Upgrade\r\nSec-WebSocket-Accept: {right}"),
        format!("Upgrade: websocket\r\nSec-WebSocket-Accept: {right}"),
    ] {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{head}\r\n\r\n");
        let world = World::before(Upstream::answering(&answer), |c| c);
        let alice = world.user("alice");
        let answer = world.ask(handshake("/chat").bearer(&alice.access));
        assert_eq!(answer.status, 502, "{head}");
        answer.is_problem(502, "upstream_invalid");
        world.upstream.wait_until_all_closed();
    }
}

#[test]
fn an_unasked_101_is_a_502() {
    let upstream = Upstream::scripted(|exchange| {
        agree(exchange);
        exchange.close();
    });
    let world = World::before(upstream, |c| c);
    world.ask(get("/public/x")).is_problem(502, "upstream_invalid");
}

#[test]
fn any_other_answer_is_an_ordinary_one() {
    let answers = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain", 200),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nplain", 403),
        ("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 5\r\nSec-WebSocket-Version: 8\r\n\r\nplain", 426),
    ];
    for (bytes, status) in answers {
        let world = World::before(Upstream::answering(bytes), |c| c);
        let alice = world.user("alice");
        let mut client = world.connect();
        // The connection is HTTP's afterwards, with whatever follows.
        client.send(
            [handshake("/a").bearer(&alice.access).bytes(), get("/auth/me").bearer(&alice.access).bytes()]
                .concat(),
        );
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (status, "plain"));
        assert_eq!(client.response().expect(200).json()["username"], "alice");
        assert_eq!(world.upstream.count(), 1);
    }
}

#[test]
fn nothing_behind_the_handshake_is_sent_before_the_101() {
    // The application refuses in its own time; what the client has sent by then must not be there.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::scripted(move |exchange| {
        if exchange.request().target == "/chat" {
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        exchange.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let world = World::before(upstream, |c| c);
    let alice = world.user("alice");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = world.connect();
    client.send([&handshake("/chat").bearer(&alice.access).bytes(), smuggled.as_bytes()].concat());
    world.upstream.wait_for(1);
    go.send(()).unwrap();
    assert_eq!(client.response().status, 400);
    // It is a request of its own, without a token.
    client.response().is_problem(401, "missing_token");
    world.upstream.saw_only_proper_requests();
    assert_eq!(world.upstream.count(), 1, "{:?}", world.upstream.seen());
}

#[test]
fn what_is_not_a_whole_handshake_is_an_ordinary_request() {
    let world = World::new();
    let alice = world.user("alice");
    let lines = |change: &[(&str, &str)], without: &str| {
        let mut request = get("/x").bearer(&alice.access);
        let all = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in all.iter().filter(|(name, _)| *name != without).chain(change) {
            request = request.header(name, value);
        }
        request
    };
    let mut requests = vec![
        lines(&[("Upgrade", "h2c")], "Upgrade"),
        lines(&[("Upgrade", "TLS/1.2")], "Upgrade"),
        lines(&[("Upgrade", "websocket, h2c")], "Upgrade"),
        lines(&[("Upgrade", "h2c")], ""),
        lines(&[], "Connection"),
        lines(&[("Connection", "close")], "Connection"),
        lines(&[("Sec-WebSocket-Version", "8")], "Sec-WebSocket-Version"),
        lines(&[("Sec-WebSocket-Key", "short")], "Sec-WebSocket-Key"),
        lines(&[], "Sec-WebSocket-Key"),
    ];
    let mut posted = handshake("/x").bearer(&alice.access);
    "POST".clone_into(&mut posted.method);
    requests.push(posted);
    requests.push(handshake("/x").bearer(&alice.access).body("text/plain", "a body"));
    for request in requests {
        let shown = String::from_utf8_lossy(&request.bytes()).into_owned();
        let (answer, seen) = world.passes(request);
        assert_eq!(answer.status, 200, "{shown}");
        assert!(seen.all("upgrade").is_empty(), "{shown}");
        assert!(!seen.all("connection").join(",").to_lowercase().contains("upgrade"), "{shown}");
    }
}

#[test]
fn a_tunnel_ends_with_its_session_at_a_frame_boundary() {
    let (world, frames) = echo();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let mut hers = Socket::open(&world, "/chat", &alice.access);
    let mut his = Socket::open(&world, "/chat", &bob.access);
    hers.says("hello");
    his.says("hello");
    world.ask(post("/auth/logout").bearer(&alice.access)).expect(200);
    assert_eq!(hers.read().closed(), (1008, "token revoked".to_owned()));
    let to_upstream = frames.iter().find(|frame| frame.first == CLOSE).unwrap();
    assert!(to_upstream.masked);
    assert_eq!(to_upstream.closed(), (1008, "token revoked".to_owned()));
    hers.ends_after_close();
    world.upstream.wait_until_open(1);
    his.says("still here");
    assert_eq!(world.metric(r#"gatepost_streams_ended_total{reason="revoked"}"#), Some(1.0));
    assert_eq!(world.metric("gatepost_tunnels"), Some(1.0));
}

#[test]
fn a_tunnel_ends_when_its_token_expires() {
    let (upstream, _frames) = websocket::echo();
    let world = World::before(upstream, |c| c.set("tokens", "access_ttl", "\"2s\""));
    let alice = world.user("alice");
    let mut socket = Socket::open(&world, "/chat", &alice.access);
    socket.says("hello");
    assert_eq!(socket.read().closed(), (1008, "token expired".to_owned()));
    socket.ends_after_close();
    world.upstream.wait_until_all_closed();
}

#[test]
fn the_frame_under_way_comes_before_the_close() {
    let (next, turn) = std::sync::mpsc::channel::<()>();
    let turn = std::sync::Mutex::new(turn);
    let upstream = Upstream::scripted(move |exchange| {
        agree(exchange);
        let bytes = frame(BINARY, [7; 1000]);
        exchange.send(&bytes[..500]);
        turn.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        exchange.send([&bytes[500..], &frame(TEXT, "too late")].concat());
        exchange.wait_until_closed();
        exchange.close();
    });
    let world = World::before(upstream, |c| c);
    let alice = world.user("alice");
    let mut socket = Socket::open(&world, "/chat", &alice.access);
    assert!(socket.client.wire.exactly(400).is_some());
    world.ask(post("/auth/logout").bearer(&alice.access)).expect(200);
    super::support::eventually("the lease has ended", || {
        (world.metric(r#"gatepost_streams_ended_total{reason="revoked"}"#) == Some(1.0)).then_some(())
    });
    next.send(()).unwrap();
    assert_eq!(socket.client.wire.exactly(604).map(|rest| rest.ends_with(&[7; 600])), Some(true));
    assert_eq!(socket.read().closed().0, 1008);
    socket.ends_after_close();
}

#[test]
fn a_frame_that_never_ends_is_cut() {
    let upstream = Upstream::scripted(|exchange| {
        agree(exchange);
        exchange.send(&frame(BINARY, [7; 1000])[..500]);
        exchange.wait_until_closed();
        exchange.close();
    });
    let world = World::before(upstream, |c| c);
    let alice = world.user("alice");
    let mut socket = Socket::open(&world, "/chat", &alice.access);
    assert!(socket.client.wire.exactly(500).is_some());
    world.ask(post("/auth/logout").bearer(&alice.access)).expect(200);
    socket.client.ends();
    world.upstream.wait_until_all_closed();
}

#[test]
fn stopping_says_going_away() {
    let (upstream, _frames) = websocket::echo();
    let mut world = World::before(upstream, |c| c);
    let alice = world.user("alice");
    let mut hers = Socket::open(&world, "/chat", &alice.access);
    let mut anybodys = Socket::ask(&world, handshake("/public/chat"));
    hers.says("hello");
    anybodys.says("hello");
    let reading = thread::spawn(move || {
        for socket in [&mut hers, &mut anybodys] {
            assert_eq!(socket.read().closed(), (1001, "going away".to_owned()));
            socket.ends_after_close();
        }
    });
    let asked = std::time::Instant::now();
    assert!(world.stop().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    reading.join().unwrap();
    world.upstream.wait_until_all_closed();
}

#[test]
fn either_end_going_away_ends_the_other() {
    let (world, _frames) = echo();
    let alice = world.user("alice");
    let mut socket = Socket::open(&world, "/chat", &alice.access);
    socket.says("hello");
    socket.client.wire.reset();
    world.upstream.wait_until_all_closed();

    let upstream = Upstream::scripted(|exchange| {
        agree(exchange);
        exchange.reset();
    });
    let world = World::before(upstream, |c| c);
    let alice = world.user("alice");
    Socket::open(&world, "/chat", &alice.access).client.ends();
}

#[test]
fn what_the_application_says_with_its_101_comes_first() {
    let upstream = Upstream::scripted(|exchange| {
        let key = exchange.request().header("sec-websocket-key").unwrap().to_owned();
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
            accept_for(&key)
        );
        exchange.send([head.as_bytes(), &frame(TEXT, "welcome")].concat());
        exchange.wait_until_closed();
        exchange.close();
    });
    let world = World::before(upstream, |c| c);
    let mut socket = Socket::ask(&world, handshake("/public/chat"));
    assert_eq!(socket.answer.header("sec-websocket-protocol"), Some("chat"));
    assert_eq!(socket.read().payload, b"welcome");
}

/// Whether the system's table of sockets has one between these ports with a keep-alive timer; port 0 is any.
fn is_kept_alive(local: u16, remote: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let port = |at: usize| u16::from_str_radix(columns[at].split(':').nth(1).unwrap(), 16).unwrap();
        [(port(1), local), (port(2), remote)].iter().all(|(is, wanted)| *wanted == 0 || is == wanted)
            && columns[5].starts_with("02:")
    })
}

#[test]
fn an_idle_tunnel_asks_after_both_ends() {
    let (world, _frames) = echo();
    let alice = world.user("alice");
    let mut socket = Socket::open(&world, "/chat", &alice.access);
    socket.says("hello");
    let client = socket.client.wire.local_port();
    super::support::eventually("the client's side is kept alive", || {
        is_kept_alive(world.address().port(), client).then_some(())
    });
    let upstream = world.upstream.port();
    super::support::eventually("the upstream's side is kept alive", || {
        is_kept_alive(0, upstream).then_some(())
    });
}

/// A request that opens a WebSocket over HTTP/2 (RFC 8441).
fn extended_connect(path: &str, token: &str) -> Request<()> {
    let mut request = h2::websocket(path);
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// So many bytes of a stream.
fn exactly(incoming: &mut Incoming, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        bytes.extend(incoming.piece().expect("more comes").unwrap());
    }
    assert_eq!(bytes.len(), length, "{bytes:?}");
    bytes
}

#[test]
fn over_http_2_a_websocket_is_a_stream() {
    let (upstream, frames) = websocket::echo();
    let world = World::before(upstream, |c| c.set("server", "h2c", "true"));
    let alice = world.user("alice");
    let mut client = H2::connect(world.address());
    let mut calls: Vec<_> =
        (0..2).map(|_| client.open(extended_connect("/chat?room=1", &alice.access), false)).collect();
    let mut streams: Vec<_> = calls.iter_mut().map(|call| call.answer().unwrap()).collect();
    for (call, stream) in calls.iter_mut().zip(&mut streams) {
        assert_eq!(stream.status(), 200);
        for name in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
            assert!(!stream.head.headers().contains_key(name), "{name}");
        }
        call.send(&masked(TEXT, "hello"), false);
        assert_eq!(exactly(stream, 7), frame(TEXT, "hello"));
    }
    let (first, second) = (world.upstream.wait_for(1), world.upstream.wait_for(2));
    assert_eq!((first.method.as_str(), first.target.as_str()), ("GET", "/chat?room=1"));
    assert_eq!(first.header("upgrade"), Some("websocket"));
    assert_eq!(first.header("sec-websocket-protocol"), Some("chat"));
    assert_ne!(first.header("sec-websocket-key"), second.header("sec-websocket-key"));
    assert!(first.text().contains("alice"), "{}", first.text());

    world.ask(post("/auth/logout").bearer(&alice.access)).expect(200);
    for (call, mut stream) in calls.iter_mut().zip(streams) {
        let close = frame(CLOSE, [&[3, 0xf0], b"token revoked" as &[u8]].concat());
        assert_eq!(exactly(&mut stream, close.len()), close);
        call.send(&masked(CLOSE, [3, 0xe8]), true);
        assert!(stream.whole().expect("END_STREAM").body.is_empty());
    }
    assert_eq!(frames.iter().filter(|frame| frame.first == CLOSE).take(2).count(), 2);
    world.upstream.wait_until_all_closed();
    assert_eq!(client.get("/public/x").status, 502, "the connection lives on; nobody speaks HTTP behind it");
}

#[test]
fn over_http_2_the_steps_come_first_as_well() {
    let (upstream, _frames) = websocket::echo();
    let world = World::before(upstream, |c| c.set("server", "h2c", "true"));
    let alice = world.user("alice");
    let mut client = H2::connect(world.address());
    for (path, token, status) in [
        ("/chat", "rubbish", 401),
        ("/admin/chat", alice.access.as_str(), 403),
        ("/auth/me", &alice.access, 200),
    ] {
        let mut call = client.open(extended_connect(path, token), false);
        let answered = call.answer().unwrap().status();
        // Our own endpoints open no tunnels, and a 200 would be one.
        assert_eq!(answered, if status == 200 { 502 } else { status }, "{path}");
    }
    assert_eq!((world.upstream.count(), world.upstream.opened()), (0, 0));
}

#[test]
fn to_a_server_of_http_2_a_websocket_goes_over_http_1() {
    let (authority, home) = (Authority::new(), tempfile::tempdir().unwrap());
    let ca = write(home.path(), "ca.pem", &authority.pem);
    let server = Server::start(Speaks::tls(&authority, "127.0.0.1", &["h2", "http/1.1"], None));
    let config = server.config("https", &format!("ca = {ca:?}")).set("server", "h2c", "true");
    let gateway = Gateway::start(&config);
    let alice = gateway.user("alice");
    let plain = |path: &str| {
        gateway.ask(get(path).bearer(&alice.access)).expect(200);
        server.seen().last().unwrap().version
    };
    // A tunnel first: what was agreed on for it says nothing about requests.
    let mut socket = Socket::open(&gateway, "/chat", &alice.access);
    socket.says("hello");
    assert_eq!(plain("/one"), Version::HTTP_2);
    let mut another = Socket::open(&gateway, "/chat", &alice.access);
    another.says("over a connection of its own");
    assert_eq!(plain("/two"), Version::HTTP_2);

    let mut client = H2::connect(gateway.address());
    let mut call = client.open(extended_connect("/chat?room=1", &alice.access), false);
    let mut stream = call.answer().unwrap();
    assert_eq!(stream.status(), 200);
    call.send(&masked(TEXT, "hello"), false);
    assert_eq!(exactly(&mut stream, 7), frame(TEXT, "hello"));

    socket.says("still here");
    socket.ends_after_close_read();
    another.ends_after_close_read();
    assert_eq!(plain("/three"), Version::HTTP_2);
    let seen = server.seen();
    let (tunnels, plain): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.path() == "/chat");
    assert_eq!(tunnels.len(), 3);
    assert!(tunnels.iter().all(|seen| seen.version == Version::HTTP_11), "{tunnels:?}");
    assert!(plain.iter().all(|seen| seen.connection == plain[0].connection), "they share one: {plain:?}");
    assert_eq!(server.opened(), 4, "one for requests and one for each tunnel");
}

#[test]
fn a_server_of_nothing_but_http_2_gets_no_websocket_and_stays_in() {
    let (authority, home) = (Authority::new(), tempfile::tempdir().unwrap());
    let ca = write(home.path(), "ca.pem", &authority.pem);
    let tls = || Speaks::tls(&authority, "127.0.0.1", &["h2"], None);
    for (scheme, speaks, ca) in [
        ("https", [tls(), tls()], format!("ca = {ca:?}")),
        ("h2c", [(); 2].map(|()| Speaks::h2c()), String::new()),
    ] {
        let servers = speaks.map(Server::start);
        let urls = [0, 1].map(|at| format!("{scheme}://{}", servers[at].address()));
        let table = format!(
            "name = \"app\"\nservers = {urls:?}\nejection = {{ failures = 2, duration = \"1h\" }}\n{ca}"
        );
        let gateway = Gateway::start(&Config::new().set("server", "workers", "1").upstream_table(&table));
        let alice = gateway.user("alice");
        for _ in 0..10 {
            let answer = gateway.ask(handshake("/chat").bearer(&alice.access));
            answer.is_problem(502, "upstream_unreachable");
        }
        assert!(servers.iter().all(|server| server.seen().is_empty()), "{scheme}: they were asked");
        // What a client asks for in vain does not speak against the servers.
        assert_eq!(
            gateway.metric("gatepost_upstream_ejections_total{upstream=\"app\"}"),
            Some(0.0),
            "{scheme}"
        );
        gateway.ask(get("/x").bearer(&alice.access)).expect(200);
    }
}
