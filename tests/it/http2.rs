//! Requests over HTTP/2: the same steps, the same verdicts, one more way in.

use std::io::Write as _;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use crate::support::eventually;
use crate::support::h2::{self as h2c, Frames, GOAWAY, H2, HEADERS, Outcome, get, head, post};
use crate::support::request;
use crate::support::upstream::{Upstream, hang};
use crate::support::world::World;

const PROTOCOL_ERROR: u32 = 1;

fn world() -> World {
    World::with(|c| c.set("server", "h2c", "true"))
}

fn before(upstream: Upstream) -> World {
    World::before(upstream, |c| c.set("server", "h2c", "true"))
}

/// A request with these headers.
fn with(mut request: Request<()>, headers: &[(&'static str, &str)]) -> Request<()> {
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

#[test]
fn a_request_over_http_2_takes_the_same_steps_as_any() {
    let world = world();
    let tokens = world.user("alice");
    let mut client = H2::connect(world.address());
    client.get("/x").is_problem(401, "missing_token");
    client
        .ask(with(get("/x"), &[("authorization", "Bearer nonsense")]), b"")
        .is_problem(401, "invalid_token");
    client
        .ask(with(get("/admin/x"), &[("authorization", &format!("Bearer {}", tokens.access))]), b"")
        .is_problem(403, "forbidden");
    client.get("/a/%2e%2e/public/x").is_problem(400, "bad_path");
    client.get("/a%2fb").is_problem(400, "bad_path");
    client.ask(with(post("/read/x"), &[]), b"").is_problem(405, "method_not_allowed");
    assert_eq!(world.upstream.count(), 0);

    let answer =
        client.ask(with(get("/x?q=1"), &[("authorization", &format!("Bearer {}", tokens.access))]), b"");
    assert_eq!(answer.status, 200);
    assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")));
    let seen = world.upstream.wait_for(1);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/x?q=1"));
    assert_eq!(seen.header("host"), Some("a"));
    assert_eq!(seen.header("x-auth-user"), Some("alice"));
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.header("x-forwarded-host"), Some("a"));
    assert_eq!(seen.header("transfer-encoding"), None);
    world.upstream.saw_only_proper_requests();
}

#[test]
fn our_own_endpoints_answer_over_http_2() {
    let world = world();
    let mut client = H2::connect(world.address());
    let account = serde_json::json!({"username": "alice", "password": crate::support::PASSWORD}).to_string();
    let json = [("content-type", "application/json")];
    let registered = client.ask(with(post("/auth/register"), &json), account.as_bytes());
    assert_eq!(registered.status, 201);
    let login = client.ask(with(post("/auth/login"), &json), account.as_bytes());
    assert_eq!(login.status, 200);
    let token = format!("Bearer {}", login.json()["access_token"].as_str().unwrap());
    let me = client.ask(with(get("/auth/me"), &[("authorization", &token)]), b"");
    assert_eq!(me.json()["username"], "alice");
    assert_eq!(me.header("content-length"), Some(me.body.len().to_string().as_str()));
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn http_1_on_the_same_port_is_still_http_1() {
    let world = world();
    world.ask(request::get("/public/x")).expect(200);
    // Also what begins like the preface, and what comes in pieces.
    world.ask(request::Request::new("PRIX", "/public/x")).expect(200);
    let mut client = world.connect();
    client
        .send("P")
        .send("O")
        .send("ST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .response()
        .expect(200);
    assert_eq!(world.upstream.wait_for(3).body, b"hi");
    world.upstream.saw_only_proper_requests();
}

#[test]
fn without_h2c_the_preface_is_rubbish() {
    let world = World::new();
    let mut frames = Frames::connect(world.address());
    let answer = String::from_utf8_lossy(&frames.wire.rest()).into_owned();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"),
        "{answer}"
    );
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn there_is_one_host_or_none_of_it_passes() {
    let world = world();
    let mut client = H2::connect(world.address());
    for (authority, hosts) in [
        ("a", &["b"][..]),
        ("a", &["a:81"]),
        ("a", &["a", "a"]),
        ("a", &["a", "b"]),
        ("user@a", &[]),
        ("a:b", &[]),
        ("a", &[""]),
    ] {
        let mut frames = Frames::connect(world.address());
        let mut fields = head("/public/x");
        fields[2].1 = authority;
        fields.extend(hosts.iter().map(|host| ("host", *host)));
        frames.request(1, &fields);
        let outcome = frames.outcome(1);
        assert!(
            matches!(outcome, Outcome::Answer(400) | Outcome::Reset(PROTOCOL_ERROR)),
            "{authority} {hosts:?}: {outcome:?}"
        );
    }
    // Neither of them, or a scheme that is none of ours.
    for fields in [
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/public/x")],
        vec![(":method", "GET"), (":scheme", "ftp"), (":authority", "a"), (":path", "/public/x")],
    ] {
        let mut frames = Frames::connect(world.address());
        frames.request(1, &fields);
        assert_eq!(frames.outcome(1), Outcome::Answer(400), "{fields:?}");
    }
    assert_eq!(world.upstream.count(), 0);

    // Host alone is enough, and the same name twice is one.
    let mut frames = Frames::connect(world.address());
    frames.request(
        1,
        &[(":method", "GET"), (":scheme", "http"), (":path", "/public/x"), ("host", "only.test")],
    );
    assert_eq!(frames.outcome(1), Outcome::Answer(200));
    assert_eq!(world.upstream.wait_for(1).header("host"), Some("only.test"));
    client.ask(with(get("/public/x"), &[("host", "A")]), b"");
    assert_eq!(world.upstream.wait_for(2).header("host"), Some("a"));
}

#[test]
fn what_http_1_would_read_differently_never_arrives() {
    let world = world();
    let bad: &[&[(&str, &str)]] = &[
        // Connection-specific fields, and what would frame another request.
        &[("connection", "close")],
        &[("connection", "x-auth-user")],
        &[("keep-alive", "timeout=5")],
        &[("proxy-connection", "keep-alive")],
        &[("transfer-encoding", "chunked")],
        &[("transfer-encoding", "identity")],
        &[("upgrade", "h2c")],
        &[("te", "gzip")],
        &[("te", "trailers, gzip")],
        &[("content-length", "5")],
        &[("content-length", "0"), ("content-length", "5")],
        &[("content-length", "+0")],
        // Bytes that would end a line, and names that are none.
        &[("x-a", "b\r\nx-auth-user: root")],
        &[("x-a", "b\nc")],
        &[("x-a", "b\0c")],
        &[("x-a\r\nx-auth-user", "root")],
        &[("X-Upper", "a")],
        &[("x a", "b")],
        &[("x:a", "b")],
        &[("", "b")],
        // Pseudo-header fields that are late, repeated, unknown or not for requests.
        &[("x-a", "b"), (":path", "/admin")],
        &[(":path", "/admin")],
        &[(":authority", "b")],
        &[(":unknown", "b")],
        &[(":status", "200")],
        &[(":protocol", "websocket")],
    ];
    for fields in bad {
        let mut frames = Frames::connect(world.address());
        let mut all = head("/public/x");
        all.extend_from_slice(fields);
        frames.request(1, &all);
        let outcome = frames.outcome(1);
        assert!(
            matches!(
                outcome,
                Outcome::Answer(400) | Outcome::Reset(PROTOCOL_ERROR) | Outcome::GoAway(PROTOCOL_ERROR)
            ),
            "{fields:?}: {outcome:?}"
        );
    }
    for (at, value) in [
        (0, "GET /admin HTTP/1.1\r\n"),
        (0, ""),
        (0, "GE T"),
        (1, "ht tp"),
        (2, "a\r\nx: y"),
        (2, "a b"),
        (3, ""),
        (3, "/a b"),
        (3, "/a\r\nb"),
        (3, "x"),
        (3, "*"),
        (3, "http://b/"),
    ] {
        let mut frames = Frames::connect(world.address());
        let mut fields = head("/public/x");
        fields[at].1 = value;
        frames.request(1, &fields);
        let outcome = frames.outcome(1);
        assert!(
            matches!(
                outcome,
                Outcome::Answer(400) | Outcome::Reset(PROTOCOL_ERROR) | Outcome::GoAway(PROTOCOL_ERROR)
            ),
            "{value:?}: {outcome:?}"
        );
    }
    for missing in [0, 1, 3] {
        let mut frames = Frames::connect(world.address());
        let mut fields = head("/public/x");
        fields.remove(missing);
        frames.request(1, &fields);
        assert_eq!(frames.outcome(1), Outcome::Reset(PROTOCOL_ERROR), "{fields:?}");
    }
    assert_eq!(world.upstream.count(), 0);
    world.upstream.saw_only_proper_requests();
}

#[test]
fn who_the_caller_is_cannot_be_said_by_the_caller() {
    let world = world();
    let mut client = H2::connect(world.address());
    let request = with(
        get("/public/x"),
        &[
            ("x-auth-user", "root"),
            ("x_auth_user", "root"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("te", "trailers"),
        ],
    );
    assert_eq!(client.ask(request, b"").status, 200);
    let seen = world.upstream.wait_for(1);
    for name in ["x-auth-user", "x_auth_user", "te"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert!(seen.header("forwarded").is_none_or(|said| !said.contains("1.2.3.4")));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
}

#[test]
fn cookies_arrive_in_one_line() {
    let world = world();
    let mut client = H2::connect(world.address());
    client.ask(with(get("/public/x"), &[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]), b"");
    assert_eq!(world.upstream.wait_for(1).header("cookie"), Some("a=1; b=2; c=3; d=4"));
}

#[test]
fn bodies_and_trailers_pass_in_both_directions() {
    let world = before(Upstream::scripted(|exchange| {
        let body = exchange.read_body();
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n");
        for piece in body.chunks(1000) {
            exchange.send(format!("{:x}\r\n", piece.len()));
            exchange.send(piece);
            exchange.send("\r\n");
        }
        exchange.send("0\r\nx-sum: 42\r\n\r\n");
    }));
    let mut client = H2::connect(world.address());
    let body: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();

    let answer = client.ask(post("/public/x"), &body);
    assert_eq!(answer.status, 200);
    assert!(answer.body == body, "{} of {} bytes", answer.body.len(), body.len());
    assert_eq!(answer.trailers["x-sum"], "42");
    assert!(answer.header("transfer-encoding").is_none() && answer.header("connection").is_none());
    let seen = world.upstream.wait_for(1);
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"), "its length was not said");
    assert!(seen.complete && seen.body == body);

    let length = body.len().to_string();
    client.ask(with(post("/public/x"), &[("content-length", &length)]), &body);
    let seen = world.upstream.wait_for(2);
    assert_eq!(seen.header("content-length"), Some(length.as_str()));
    assert_eq!(seen.header("transfer-encoding"), None);

    let mut call = client.open(with(post("/public/x"), &[("trailer", "x-sum")]), false);
    call.send(b"hello", false);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert("x-auth-user", HeaderValue::from_static("root"));
    call.trailers(trailers);
    assert_eq!(call.answer().unwrap().whole().unwrap().body, b"hello");
    let seen = world.upstream.wait_for(3);
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    world.upstream.saw_only_proper_requests();
}

#[test]
fn a_body_that_is_shorter_or_longer_than_it_says_never_ends_well() {
    let world = world();
    for (length, sent) in [("5", "abc"), ("2", "abc")] {
        let mut frames = Frames::connect(world.address());
        let mut fields = head("/public/x");
        fields[0].1 = "POST";
        fields.push(("content-length", length));
        frames.send(&h2c::frame(HEADERS, h2c::END_HEADERS, 1, &h2c::hpack(&fields)));
        frames.send(&h2c::frame(h2c::DATA, h2c::END_STREAM, 1, sent.as_bytes()));
        let outcome = frames.outcome(1);
        assert!(matches!(outcome, Outcome::Reset(PROTOCOL_ERROR) | Outcome::Answer(400)), "{outcome:?}");
    }
    assert!(world.upstream.seen().iter().all(|seen| !seen.complete), "{:?}", world.upstream.seen());
}

#[test]
fn an_answer_without_a_body_has_none() {
    let world = before(Upstream::scripted(|exchange| {
        exchange.read_body();
        let answer = match exchange.request().target.as_str() {
            "/public/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            "/public/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
        };
        exchange.send(answer);
    }));
    let mut client = H2::connect(world.address());
    let mut request = get("/public/x");
    *request.method_mut() = Method::HEAD;
    let answer = client.ask(request, b"");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
    assert!(answer.body.is_empty());
    assert_eq!(client.get("/public/204").status, 204);
    assert_eq!(client.get("/public/304").status, 304);
    let mut refused = get("/x");
    *refused.method_mut() = Method::HEAD;
    let answer = client.ask(refused, b"");
    assert_eq!((answer.status, answer.body.len()), (401, 0));
    assert_eq!(world.upstream.count(), 3);
}

#[test]
fn what_an_answer_without_a_body_says_of_its_length_breaks_no_stream() {
    let world = before(Upstream::scripted(|exchange| {
        let status = exchange.request().target.rsplit('/').next().unwrap_or_default().to_owned();
        exchange.read_body();
        exchange.send(format!("HTTP/1.1 {status} Short\r\nContent-Length: 6\r\nETag: \"x\"\r\n\r\n"));
    }));
    let mut client = H2::connect(world.address());
    // RFC 9110 section 8.6: a 204 has no length, a 304 may tell that of what it stands for.
    for (status, length) in [(204, None), (304, Some("6"))] {
        for method in [Method::GET, Method::HEAD] {
            let mut request = get(&format!("/public/{status}"));
            *request.method_mut() = method.clone();
            let answer = client.try_ask(request, b"");
            let answer = answer.unwrap_or_else(|error| panic!("{method} {status}: {error}"));
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{method}");
            assert_eq!(answer.header("content-length"), length, "{method} {status}");
            assert_eq!(answer.header("etag"), Some("\"x\""), "{method} {status}");
        }
    }
    assert_eq!(world.upstream.count(), 4);
    assert_eq!(world.upstream.opened(), 1, "the upstream's connection is in order, too");
}

#[test]
fn connection_fields_of_the_upstream_end_here() {
    let world = before(Upstream::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-Kept: 1\r\n\r\nhi",
    ));
    let answer = H2::connect(world.address()).get("/public/x");
    assert_eq!(answer.status, 200);
    for name in ["connection", "x-secret", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-kept"), Some("1"));
}

#[test]
fn connect_opens_no_tunnel_but_a_websockets() {
    let world = world();
    let mut frames = Frames::connect(world.address());
    frames.request(1, &[(":method", "CONNECT"), (":authority", "a:443")]);
    assert_eq!(frames.outcome(1), Outcome::Answer(405));
    let mut frames = Frames::connect(world.address());
    let mut fields = head("/public/x");
    fields[0].1 = "CONNECT";
    fields.push((":protocol", "connect-udp"));
    frames.send(&h2c::frame(HEADERS, h2c::END_HEADERS, 1, &h2c::hpack(&fields)));
    assert_eq!(frames.outcome(1), Outcome::Answer(405));
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn many_streams_of_one_connection_are_served_at_once() {
    let world = World::before(
        Upstream::scripted(|exchange| {
            exchange.read_body();
            if exchange.request().target == "/public/slow" {
                exchange.wait_until_closed();
            }
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        }),
        |c| c.set("server", "h2c", "true").set("server.limits", "streams_per_connection", "20"),
    );
    let mut client = H2::connect(world.address());
    client.get("/public/x");
    let slow: Vec<_> = (0..10).map(|_| client.open(get("/public/slow"), true)).collect();
    for _ in 0..50 {
        assert_eq!(client.get("/public/x").status, 200);
    }
    drop(slow);
    assert_eq!(client.get("/public/x").status, 200);
}

#[test]
fn more_streams_than_allowed_are_refused_and_may_be_asked_again() {
    let world = World::before(Upstream::scripted(hang), |c| {
        c.set("server", "h2c", "true").set("server.limits", "streams_per_connection", "3")
    });
    let mut frames = Frames::connect(world.address());
    let settings = frames.find(|f| f.kind == h2c::SETTINGS && f.flags == 0).unwrap();
    let limit: Vec<_> = settings.payload.chunks(6).filter(|s| s[..2] == [0, 3]).map(|s| s[5]).collect();
    assert_eq!(limit, [3], "the limit is said");
    for stream in [1, 3, 5] {
        frames.request(stream, &head("/public/x"));
    }
    world.upstream.wait_for(3);
    frames.request(7, &head("/public/x"));
    assert_eq!(frames.outcome(7), Outcome::Reset(7), "REFUSED_STREAM");
    assert_eq!(world.upstream.count(), 3);
}

#[test]
fn a_client_that_cancels_cancels_the_upstream() {
    let world = before(Upstream::scripted(hang));
    let mut client = H2::connect(world.address());
    let mut call = client.open(get("/public/x"), true);
    world.upstream.wait_for(1);
    call.reset(Reason::CANCEL);
    world.upstream.wait_until_open(0);
}

#[test]
fn an_early_answer_ends_an_upload_and_not_the_connection() {
    let world = world();
    let mut client = H2::connect(world.address());
    let mut call = client.open(post("/x"), false);
    call.send(&[b'x'; 1000], false);
    let answer = call.answer().unwrap().whole().unwrap();
    answer.is_problem(401, "missing_token");
    assert_eq!(call.reset_reason(), Some(Reason::NO_ERROR));
    assert_eq!(client.get("/public/x").status, 200);
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn a_large_answer_waits_for_the_window_and_arrives_whole() {
    let body = vec![b'z'; 3_000_000];
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend(&body);
    let world = before(Upstream::answering(answer));
    let mut builder = h2::client::Builder::new();
    // Room for all of them on the connection, as they are read one after the other; little on a stream.
    builder.initial_connection_window_size(1 << 24).initial_window_size(50_000);
    let mut client = H2::connect_with(world.address(), builder);
    let answers: Vec<_> = (0..4).map(|_| client.open(get("/public/x"), true)).collect();
    for mut call in answers {
        let answer = call.answer().unwrap().whole().unwrap();
        assert!(answer.body == body, "{} bytes", answer.body.len());
    }
}

#[test]
fn an_upstream_that_breaks_off_breaks_one_stream_off() {
    let world = before(Upstream::scripted(|exchange| {
        exchange.read_body();
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        if exchange.request().target == "/public/broken" {
            exchange.close();
        } else {
            exchange.send([b'x'; 96]);
        }
    }));
    let mut client = H2::connect(world.address());
    let broken = client.open(get("/public/broken"), true).answer().unwrap().whole();
    assert_eq!(broken.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(client.get("/public/x").body.len(), 100);
}

#[test]
fn a_drain_says_goodbye_and_lets_streams_end() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let mut world = before(Upstream::scripted(move |exchange| {
        exchange.read_body();
        let _ = held.lock().unwrap().recv();
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    }));
    let mut client = H2::connect(world.address());
    let mut call = client.open(get("/public/x"), true);
    world.upstream.wait_for(1);
    world.gateway.signal(rustix::process::Signal::TERM);
    // GOAWAY has arrived when nothing can be opened any more.
    eventually("the client is told", || client.try_open(get("/public/late"), true).is_err().then_some(()));
    release.send(()).unwrap();
    assert_eq!(call.answer().unwrap().whole().unwrap().body, b"hi");
    assert_eq!(client.end_reason(), None, "a proper end");
    assert!(world.gateway.wait_for_exit().success());
}

#[test]
fn a_drain_does_not_wait_for_a_greeting() {
    let mut world = world();
    let silent = Frames::silent(world.address());
    let mut half = Frames::silent(world.address());
    half.send(&h2c::PREFACE[..20]);
    let mut greeted = Frames::silent(world.address());
    greeted.send(h2c::PREFACE);
    eventually("they are open", || (world.metric("gatepost_connections")? >= 3.0).then_some(()));
    assert!(world.stop().success());
    drop((silent, half, greeted));
}

#[test]
fn an_old_connection_is_told_to_go() {
    let world =
        World::with(|c| c.set("server", "h2c", "true").set("server.limits", "connection_age", "\"1s\""));
    let mut client = H2::connect(world.address());
    assert_eq!(client.get("/public/x").status, 200);
    assert_eq!(client.end_reason(), None, "a proper end");
    let old = "gatepost_connections_ended_total{reason=\"connection_age\"}";
    eventually("it is counted", || (world.metric(old)? >= 1.0).then_some(()));
}

#[test]
fn an_idle_connection_is_closed_with_a_goaway() {
    let world =
        World::with(|c| c.set("server", "h2c", "true").set("server.limits", "idle_timeout", "\"1s\""));
    let mut frames = Frames::connect(world.address());
    frames.request(1, &head("/public/x"));
    assert_eq!(frames.outcome(1), Outcome::Answer(200));
    // It does not even answer the PING that goes with it.
    let goaway = frames.find(|f| f.kind == GOAWAY).expect("a GOAWAY");
    assert_eq!(goaway.payload[4..8], [0; 4], "NO_ERROR");
    eventually("it is closed", || frames.next().is_none().then_some(()));
    let idle = "gatepost_connections_ended_total{reason=\"idle_timeout\"}";
    eventually("it is counted", || (world.metric(idle)? >= 1.0).then_some(()));
}

#[test]
fn a_request_body_that_stops_is_408() {
    let world = World::with(|c| c.set("server", "h2c", "true").set("server.limits", "body_idle", "\"1s\""));
    let mut client = H2::connect(world.address());
    let mut call = client.open(post("/public/x"), false);
    call.send(b"half", false);
    call.answer().unwrap().whole().unwrap().is_problem(408, "request_timeout");
    assert_eq!(client.get("/public/x").status, 200);
    let idle = "gatepost_connections_ended_total{reason=\"body_idle\"}";
    eventually("it is counted", || (world.metric(idle)? >= 1.0).then_some(()));
}

#[test]
fn a_body_over_the_routes_limit_is_413() {
    let world = World::with(|c| {
        c.set("server", "h2c", "true")
            .route("path = \"/small/**\"\naccess = \"public\"\nbody_bytes = \"1KiB\"")
    });
    let mut client = H2::connect(world.address());
    let said = with(post("/small/x"), &[("content-length", "2000")]);
    client.ask(said, &[b'x'; 2000]).is_problem(413, "body_too_large");
    assert_eq!(world.upstream.count(), 0);
    client.ask(post("/small/x"), &[b'x'; 2000]).is_problem(413, "body_too_large");
    assert!(world.upstream.seen().iter().all(|seen| !seen.complete));
    assert_eq!(client.ask(post("/small/x"), &[b'x'; 1000]).status, 200);
}

#[test]
fn heads_have_their_limits() {
    let world = World::with(|c| {
        c.set("server", "h2c", "true").set("server.limits", "header_count", "10").set(
            "server.limits",
            "header_list_bytes",
            "\"8KiB\"",
        )
    });
    let mut client = H2::connect(world.address());
    let mut many = get("/public/x");
    for number in 0..20 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        many.headers_mut().insert(name, HeaderValue::from_static("1"));
    }
    client.ask(many, b"").is_problem(431, "header_too_large");
    let large = "b".repeat(9000);
    let mut frames = Frames::connect(world.address());
    let mut fields = head("/public/x");
    fields.push(("x-large", &large));
    frames.request(1, &fields);
    assert_eq!(frames.outcome(1), Outcome::Answer(431));
    assert_eq!(world.upstream.count(), 0);
    assert_eq!(client.get("/public/x").status, 200);
}

#[test]
fn decision_lines_tell_http_2_requests_like_others() {
    let world = world();
    let mut client = H2::connect(world.address());
    let answer = client.get("/x");
    let id = answer.json()["request_id"].as_str().unwrap().to_owned();
    let line = world.decision(&id);
    assert_eq!((&line["status"], &line["host"], &line["path"]), (&401.into(), &"a".into(), &"/x".into()));
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn bytes_behind_the_preface_in_one_write_are_not_lost() {
    let world = world();
    let mut stream = std::net::TcpStream::connect(world.address()).unwrap();
    let mut bytes = h2c::PREFACE.to_vec();
    bytes.extend(h2c::frame(h2c::SETTINGS, 0, 0, &[]));
    bytes.extend(h2c::frame(HEADERS, 5, 1, &h2c::hpack(&head("/public/x"))));
    // Cut so that the look at the preface ends in the middle of what follows.
    for piece in [&bytes[..10], &bytes[10..40], &bytes[40..]] {
        stream.write_all(piece).unwrap();
    }
    let mut frames = Frames { wire: crate::support::wire::Wire::new(stream) };
    assert_eq!(frames.outcome(1), Outcome::Answer(200));
    assert_eq!(world.upstream.wait_for(1).target, "/public/x");
}

#[test]
fn the_version_is_not_passed_on() {
    let world = world();
    let mut client = H2::connect(world.address());
    let mut call = client.open(get("/public/x"), true);
    let answer = call.answer().unwrap();
    assert_eq!(answer.head.version(), Version::HTTP_2);
    let body: Bytes = answer.whole().unwrap().body.into();
    assert!(!body.is_empty());
    assert!(world.upstream.wait_for(1).text().starts_with("GET /public/x HTTP/1.1\r\n"));
}
