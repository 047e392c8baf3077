//! Faults that were found once and must not come back, each test under the name of what was found.
//!
//! What belongs to a subject has a file of that subject; here is what was missed there. A test that
//! depends on how bytes are cut into packets waits for a sign that the piece before has been read.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::request::{Request, get};
use crate::support::upstream::{Upstream, echo};
use crate::support::wire::show;
use crate::support::world::World;
use crate::support::{PATIENCE, eventually};

/// An upstream that reads requests whole and answers each when the test says so, or has ended.
fn patient() -> (mpsc::Sender<()>, Upstream) {
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let upstream = Upstream::scripted(move |exchange| {
        exchange.read_body();
        let _ = wait.lock().unwrap().recv();
        echo(exchange);
    });
    (go, upstream)
}

#[test]
fn bytes_behind_a_bare_line_feed_in_the_next_head_are_not_read() {
    let (go, upstream) = patient();
    let world = World::before(upstream, |c| c);
    let mut client = world.connect();
    client.send("POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    world.upstream.wait_for(1);
    client.send("helloGET / HTTP/1.1\nHost: a");
    world.upstream.wait_until_complete(0);
    client.send("AAAA");
    go.send(()).unwrap();

    client.response().expect(200);
    if let Some(answer) = client.try_response("GET") {
        assert_eq!(answer.status, 400);
    }
    client.ends();
    let seen = world.upstream.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].body, b"hello");
    world.upstream.saw_only_proper_requests();
}

#[test]
fn bytes_behind_a_broken_chunk_are_neither_body_nor_request() {
    let forged = "POST /public/forged HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n";
    for fault in ["zz\r\n", "5\nhello", "5\r\nhelloX", "0\r\nX : y\r\n\r\n"] {
        let world = World::new();
        let mut client = world.connect();
        client.send("POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        world.upstream.wait_for(1);
        client.send("5\r\nhel");
        world.upstream.wait_until(|seen| seen[0].body == b"hel");
        client.send(format!("lo\r\n{fault}"));
        client.send(forged).send("x".repeat(10_000));

        if let Some(answer) = client.try_response("POST") {
            assert_eq!(answer.status, 400, "{fault:?}: {}", answer.text());
        }
        client.send(forged).send("GET /public/forged HTTP/1.1\r\nHost: a\r\n\r\n");
        client.wire.half_close();
        client.ends();
        world.upstream.wait_until_all_closed();
        let seen = world.upstream.seen();
        assert_eq!(seen.len(), 1, "{fault:?}: {seen:?}");
        assert!(!seen[0].complete, "{fault:?} reached the upstream as a whole request");
        let body = &seen[0].body;
        assert!(b"hellohello".starts_with(body), "{fault:?}: {}", show(body));
    }
}

#[test]
fn an_answer_before_the_body_was_read_does_not_lose_the_upstream_connection() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        exchange.read_body();
    });
    let port = upstream.port();
    let world = World::before(upstream, |c| c.upstream_with("app", port, "idle = \"1s\""));
    let mut client = world.connect();
    let mut answered = 0;
    for _ in 0..100 {
        client.send("POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        let answer = client.try_response("POST");
        answered += usize::from(answer.is_some());
        // The gateway may close after an early answer, and does not when it has read the rest.
        if answer.is_none() || !client.wire.send(b"hello") {
            client = world.connect();
        }
        if answered == 50 {
            break;
        }
    }
    assert_eq!(answered, 50);
    assert!(world.upstream.opened() <= 10, "{} connections", world.upstream.opened());
    // The client's stays open: what is closed is closed for having been idle.
    world.upstream.wait_until_all_closed();
    drop(client);
}

#[test]
fn an_answer_that_breaks_off_in_the_packet_of_its_head_arrives_as_far_as_it_came() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nX-Here: yes\r\nContent-Length: 50\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nX-Here: yes\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nX-Here: yes\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
    ] {
        let world = World::before(Upstream::answering_and_closing(bytes), |c| c);
        let mut client = world.connect();
        let answer = client.send(get("/public/x").bytes()).response();
        assert_eq!((answer.status, answer.text().as_str()), (200, "half"), "{bytes:?}");
        assert_eq!(answer.header("x-here"), Some("yes"), "{bytes:?}");
        assert!(answer.fault.is_some(), "{bytes:?} looked whole");
        client.ends();
    }
}

#[test]
fn a_stalled_upload_is_the_clients_timeout_and_no_error_of_the_upstream() {
    let world = World::with(|c| c.route("path = \"/slow/**\"\naccess = \"public\"\ntimeout = \"1s\""));
    for body in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut client = world.connect();
        client.send(format!("POST /slow/x HTTP/1.1\r\nHost: a\r\n{body}"));
        client.response().is_problem(408, "request_timeout");
        client.wire.half_close();
        client.ends();
    }
    let metrics = world.ask_admin("/metrics").text();
    let errors = metrics.lines().filter(|line| line.starts_with("gatepost_upstream_errors_total{"));
    let counted: Vec<_> = errors.filter(|line| !line.ends_with(" 0")).collect();
    assert!(counted.is_empty(), "{counted:?}");
    assert!(world.upstream.seen().iter().all(|request| !request.complete));
}

#[test]
fn the_beginning_of_a_head_behind_an_earlier_request_is_under_the_header_timeout() {
    let (go, upstream) = patient();
    let world = World::before(upstream, |c| {
        c.set("server.limits", "header_timeout", "\"1s\"").set("server.limits", "idle_timeout", "\"1h\"")
    });
    let mut client = world.connect();
    client.send("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\nGET /public/y HTTP/1.1\r\nHo");
    go.send(()).unwrap();
    client.response().expect(200);
    client.ends();
    let metric = "gatepost_connections_ended_total{reason=\"header_timeout\"}";
    eventually("it is counted", || (world.metric(metric)? >= 1.0).then_some(()));
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn options_star_needs_one_host_like_any_request() {
    let world = World::new();
    for lines in ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n", "Host: a b\r\n"] {
        world.refuses_raw(format!("OPTIONS * HTTP/1.1\r\n{lines}\r\n"), 400, "bad_host");
    }
}

#[test]
fn max_forwards_of_options_is_counted_down() {
    let world = World::new();
    for (sent, arrives) in [("3", "2"), ("1", "0"), ("many", "many")] {
        let request = Request::new("OPTIONS", "/public/x").header("Max-Forwards", sent);
        let (_, seen) = world.passes(request);
        assert_eq!(seen.header("max-forwards"), Some(arrives), "{sent}");
    }
}

#[test]
fn what_is_below_the_public_keys_is_nobodys() {
    let world = World::new();
    let user = world.user("alice");
    for path in ["/.well-known/jwks.json/x", "/.well-known/jwks.json/x/y"] {
        world.refuses(get(path), 404, "not_found");
        world.refuses(get(path).bearer(&user.access), 404, "not_found");
    }
}

#[test]
fn a_forwarded_for_that_is_no_text_does_not_choose_the_client_address() {
    let world = World::with(|c| c.set("server", "trusted_proxies", "[\"127.0.0.1/32\"]"));
    // What a client may write, and what the proxy in front of us makes of it when it adds the address.
    for (lines, client, chain) in [
        (&b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: \xff, 198.51.100.7\r\n"[..], "198.51.100.7", 4),
        (b"X-Forwarded-For: 6.6.6.6, \xff, 198.51.100.7\r\n", "198.51.100.7", 4),
        (b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: \xff\r\n", "127.0.0.1", 3),
    ] {
        let head = [&b"GET /public/x HTTP/1.1\r\nHost: a\r\n"[..], lines, b"\r\n"].concat();
        let (answer, seen) = world.passes_raw(head);
        assert_eq!(seen.header("x-real-ip"), Some(client), "{}", show(lines));
        let forwarded = seen.header("x-forwarded-for").unwrap();
        let hops: Vec<_> = forwarded.split(", ").collect();
        assert_eq!(hops.len(), chain, "no hop may vanish from {forwarded:?}, or one left of it is believed");
        assert_eq!(hops[hops.len() - 1], "127.0.0.1");
        let id = answer.header("x-request-id").or_else(|| seen.header("x-request-id")).unwrap();
        assert_eq!(world.decision(id)["client"], client, "{}", show(lines));
    }
}

#[test]
fn a_transfer_coding_that_is_not_chunked_from_the_upstream_is_502() {
    for coding in ["gzip", "chunked, gzip", "gzip\r\nTransfer-Encoding: chunked", "Gzip"] {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\nnot text");
        let world = World::before(Upstream::answering_and_closing(bytes), |c| c);
        for method in ["GET", "POST"] {
            world.ask(Request::new(method, "/public/x")).is_problem(502, "upstream_invalid");
        }
        let head = world.ask(Request::new("HEAD", "/public/x"));
        assert_eq!(head.status, 502, "{coding}");
    }
}

#[test]
fn the_last_word_on_host_and_proto_is_the_trusted_proxys() {
    // It appends to what its client sent, in a line of its own or behind a comma.
    let world = World::with(|c| c.set("server", "trusted_proxies", "[\"127.0.0.1/32\"]"));
    let apart =
        get("/public/x").header("X-Forwarded-Host", "evil.test").header("X-Forwarded-Host", "app.test");
    let listed = get("/public/x").header("X-Forwarded-Host", "evil.test, app.test");
    for request in [apart, listed] {
        let request = request.header("X-Forwarded-Proto", "http").header("X-Forwarded-Proto", "https");
        let (_, seen) = world.passes(request.header("X-Forwarded-For", "192.0.2.1"));
        assert_eq!(seen.all("x-forwarded-host"), ["app.test"], "{}", seen.text());
        assert_eq!(seen.all("x-forwarded-proto"), ["https"], "{}", seen.text());
        assert!(!seen.all("forwarded").concat().contains("evil"), "{}", seen.text());
    }
}

#[test]
fn a_token_in_a_trailer_does_not_reach_the_upstream() {
    let world = World::new();
    let head = "POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let tail = "2\r\nhi\r\n0\r\nX-Access-Token: forged\r\nAuthorization: Bearer x\r\nX-Sum: 1\r\n\r\n";
    world.ask_raw(format!("{head}{tail}").into_bytes()).expect(200);
    let seen = world.upstream.wait_until_complete(0);
    let names: Vec<_> = seen.trailers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert_eq!(names, ["x-sum"]);
}

#[test]
fn a_client_that_leaves_is_noticed_behind_bytes_that_it_has_sent_ahead() {
    let (_go, upstream) = patient();
    let world = World::before(upstream, |c| c);
    let mut client = world.connect();
    client.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\nGET /pub");
    world.upstream.wait_for(1);
    drop(client);
    eventually("the connection ends", || (world.metric("gatepost_connections")? < 1.0).then_some(()));
}

/// Begins to answer each head at once, and ends that when nothing more of the body comes. Reads it when the
/// test says so, and tells it.
fn answer_and_read_later(
    mut stream: UnixStream,
    go: &Mutex<mpsc::Receiver<()>>,
    tell: &mpsc::Sender<Vec<u8>>,
) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").unwrap();
    let (mut waiting, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(100) {
        let now = rustix::io::ioctl_fionread(&stream).unwrap();
        if now != waiting {
            (waiting, since) = (now, Instant::now());
        }
        thread::yield_now();
    }
    stream.write_all(b"k").unwrap();
    let _ = go.lock().unwrap().recv();
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let length: u64 = length.unwrap().parse().unwrap();
    let mut body = Vec::new();
    let _ = stream.take(length).read_to_end(&mut body);
    let _ = tell.send(body);
}

#[test]
fn an_upload_that_outlives_its_answer_does_not_read_the_next_requests_body() {
    // A Unix socket takes little while nobody reads, and always the same: somewhere on the way up, the
    // gateway has all of the first body from its client and has not got rid of its last piece.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    thread::spawn(move || {
        let wait = Arc::new(Mutex::new(wait));
        for stream in listener.incoming().map_while(Result::ok) {
            let (tell, wait) = (tell.clone(), Arc::clone(&wait));
            thread::spawn(move || answer_and_read_later(stream, &wait, &tell));
        }
    });
    let upstream = Upstream::echo();
    let port = upstream.port();
    let world = World::before(upstream, |c| {
        c.no_routes()
            .upstream("app", port)
            .route("path = \"/public/**\"\naccess = \"public\"\nupstream = \"app\"")
            .upstream_table(&format!("name = \"later\"\nservers = [\"unix:{}\"]", path.display()))
            .route("path = \"/later/**\"\naccess = \"public\"\nupstream = \"later\"")
    });
    let head = |target: &str, length: usize| {
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
    };
    for step in 1..256 {
        let length = step * 12 * 1024;
        let mut client = world.connect();
        client.send(head("/later/x", length));
        assert_eq!(client.head().unwrap().status, 200);
        let mut writer = client.wire.writer();
        let (sent, next) = (vec![b'a'; length], head("/public/x", 10));
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.write_all(next.as_bytes()).unwrap();
        });
        assert_eq!(client.wire.exactly(2).unwrap(), b"ok");
        // The next request is on its way when the first body is the gateway's. When it is not, because
        // that is more than it and the socket hold together, longer ones will not be either.
        let until = Instant::now() + Duration::from_secs(2);
        while world.upstream.count() < step && Instant::now() < until {
            thread::yield_now();
        }
        let all_taken = world.upstream.count() == step;
        go.send(()).unwrap();
        writing.join().unwrap();
        let body = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(body.len(), length);
        assert!(body.iter().all(|&byte| byte == b'a'), "{length}");
        client.send("hello");
        world.upstream.wait_until(|seen| seen.get(step - 1).is_some_and(|next| next.body == b"hello"));
        client.send("world");
        client.response().expect(200);
        assert_eq!(world.upstream.wait_until_complete(step - 1).body, b"helloworld", "{length}");
        if !all_taken {
            return;
        }
    }
}

#[test]
fn a_client_that_is_gone_when_its_connection_is_closed_has_not_stalled() {
    let (go, upstream) = patient();
    let world = World::before(upstream, |c| c);
    let mut client = world.connect();
    // With so much sent ahead the gateway does not watch whether the client stays.
    let ahead = "x".repeat(20 * 1024);
    client.send(format!("GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{ahead}"));
    world.upstream.wait_for(1);
    client.wire.reset();
    go.send(()).unwrap();
    eventually("the connection ends", || (world.metric("gatepost_connections")? < 1.0).then_some(()));
    let stalled = world.metric("gatepost_connections_ended_total{reason=\"write_stall\"}");
    assert_eq!(stalled, Some(0.0));
}
