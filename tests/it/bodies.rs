//! Bodies in both directions: whole, unchanged, and passed on while they come.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::support::request::{Request, get, post};
use crate::support::upstream::{Upstream, echo};
use crate::support::world::World;

/// Bytes that are not the same anywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}

#[test]
fn three_megabytes_go_up_unchanged() {
    let world = World::new();
    let body = noise(3_000_000);
    let (answer, _) = world.passes(post("/public/x").body("application/octet-stream", &body));
    assert_eq!(answer.expect(200).json()["length"], 3_000_000);
    let seen = world.upstream.wait_until_complete(0);
    assert!(seen.body == body, "the body changed");
    assert_eq!(seen.header("content-length"), Some("3000000"));
    assert!(seen.all("transfer-encoding").is_empty());
}

#[test]
fn three_megabytes_come_down_unchanged() {
    let body = noise(3_000_000);
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    let world = World::before(Upstream::answering(bytes), |c| c);
    let (answer, _) = world.passes(get("/public/x"));
    assert!(answer.expect(200).body == body, "the body changed");
}

#[test]
fn chunks_go_up_as_chunks_with_their_trailers() {
    let world = World::new();
    let body = noise(200_000);
    let mut bytes =
        b"POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n"
            .to_vec();
    for chunk in body.chunks(7001) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\nX-Checksum: 42\r\n\r\n");
    world.ask_raw(bytes).expect(200);
    let seen = world.upstream.wait_until_complete(0);
    assert!(seen.body == body);
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.header("trailer"), Some("X-Checksum"));
    assert_eq!(
        seen.trailers,
        [("x-checksum".to_owned(), "42".to_owned())]
            .map(|(n, v)| (seen.trailers.first().map_or(n, |(n, _)| n.clone()), v))
            .to_vec()
    );
}

#[test]
fn chunks_come_down_as_chunks_with_their_trailers() {
    let bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 42\r\n\r\n";
    let world = World::before(Upstream::answering(bytes), |c| c);
    let (answer, _) = world.passes(get("/public/x").header("TE", "trailers"));
    assert_eq!(answer.text(), "hello world");
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert!(answer.trailers.iter().any(|(n, v)| n.eq_ignore_ascii_case("x-sum") && v == "42"), "{answer:?}");
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    let world = World::before(Upstream::answering_and_closing("HTTP/1.1 200 OK\r\n\r\nto the end"), |c| c);
    let (answer, _) = world.passes(get("/public/x"));
    assert_eq!(answer.text(), "to the end");
    assert_eq!(answer.fault, None);
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    for (method, bytes, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", None),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
        ("POST", "HTTP/1.1 204 No Content\r\n\r\n", None),
    ] {
        let world = World::before(Upstream::answering(bytes), |c| c);
        let mut client = world.connect();
        for _ in 0..2 {
            let answer = client.send(Request::new(method, "/public/x").bytes()).response_to(method);
            assert!(bytes.contains(&answer.status.to_string()), "{bytes:?} {}", answer.status);
            assert!(answer.body.is_empty());
            if length.is_some() {
                assert_eq!(answer.header("content-length"), length, "{method} {bytes:?}");
            }
        }
        assert_eq!(world.upstream.count(), 2);
    }
}

#[test]
fn an_empty_post_stays_empty() {
    let world = World::new();
    for line in ["", "Content-Length: 0\r\n"] {
        let (answer, seen) = world.passes_raw(format!("POST /public/x HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
        answer.expect(200);
        assert!(seen.body.is_empty() && seen.all("transfer-encoding").is_empty(), "{}", seen.text());
    }
}

#[test]
fn the_upstream_sees_the_first_bytes_before_the_client_sent_the_last() {
    let world = World::new();
    for (framing, first, last) in [
        ("Content-Length: 10", "first", "final"),
        ("Transfer-Encoding: chunked", "5\r\nfirst\r\n", "5\r\nfinal\r\n0\r\n\r\n"),
    ] {
        let before = world.upstream.count();
        let mut client = world.connect();
        client.send(format!("POST /public/x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}"));
        world.upstream.wait_until(|seen| seen.get(before).is_some_and(|r| r.body == b"first"));
        client.send(last).response().expect(200);
        assert_eq!(world.upstream.wait_until_complete(before).body, b"firstfinal");
    }
}

#[test]
fn the_client_sees_the_first_bytes_before_the_upstream_sent_the_last() {
    for (framing, first, last) in [
        ("Content-Length: 10\r\n", "first", "final"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nfirst\r\n", "5\r\nfinal\r\n0\r\n\r\n"),
        (
            "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nfirst\r\n",
            "5\r\nfinal\r\n0\r\n\r\n",
        ),
    ] {
        let (go, wait) = channel();
        let wait = Mutex::new(wait);
        let world = World::before(
            Upstream::scripted(move |exchange| {
                exchange.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n{first}"));
                wait.lock().unwrap().recv().unwrap();
                exchange.send(last);
            }),
            |c| c,
        );
        let mut client = world.connect();
        client.send(get("/public/x").bytes());
        let head = client.head().unwrap();
        let mut body = head.body_reader("GET");
        let mut got = Vec::new();
        while got.len() < 5 {
            got.extend(body.piece(&mut client.wire).unwrap());
        }
        assert_eq!(got, b"first");
        go.send(()).unwrap();
        got.extend(body.whole(&mut client.wire));
        assert_eq!((got.as_slice(), body.fault), (b"firstfinal".as_slice(), None));
    }
}

#[test]
fn both_directions_flow_at_once() {
    let world = World::before(
        Upstream::scripted(|exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while let Some(piece) = exchange.read_piece() {
                exchange.send(format!("{:x}\r\n", piece.len()));
                exchange.send(piece);
                exchange.send("\r\n");
            }
            exchange.send("0\r\n\r\n");
        }),
        |c| c,
    );
    let mut client = world.connect();
    client.send("POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n");
    let head = client.head().unwrap();
    let mut body = head.body_reader("POST");
    assert_eq!(body.piece(&mut client.wire).unwrap(), b"ping");
    client.send("4\r\npong\r\n");
    assert_eq!(body.piece(&mut client.wire).unwrap(), b"pong");
    client.send("0\r\n\r\n");
    assert!(body.piece(&mut client.wire).is_none());
    assert_eq!(body.fault, None);
}

#[test]
fn an_early_answer_arrives_though_the_body_is_not_sent() {
    let world = World::before(
        Upstream::scripted(|exchange| {
            exchange
                .send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
            exchange.close();
        }),
        |c| c,
    );
    let mut client = world.connect();
    client.send("POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nstart");
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
}

#[test]
fn a_slow_reader_gets_everything() {
    let body = noise(8_000_000);
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    let world = World::before(Upstream::answering(bytes), |c| c);
    let mut slow = world.connect();
    slow.send(get("/public/slow").bytes());
    world.upstream.wait_for(1);
    // Others are served while its socket buffers are full.
    assert!(world.ask(get("/public/x")).expect(200).body == body);
    assert!(slow.response().expect(200).body == body);
}

#[test]
fn a_compressed_body_is_passed_as_it_is() {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 75, 76, 74, 6, 0, 0xc2, 0x41, 0x24, 0x35, 3, 0, 0, 0];
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", gzip.len())
            .into_bytes();
    bytes.extend_from_slice(&gzip);
    let world = World::before(Upstream::answering(bytes), |c| c);
    let (answer, seen) = world.passes(get("/public/x").header("Accept-Encoding", "gzip"));
    assert_eq!((answer.body.as_slice(), answer.header("content-encoding")), (gzip.as_slice(), Some("gzip")));
    assert_eq!(seen.header("accept-encoding"), Some("gzip"));
}

#[test]
fn hundred_requests_share_a_connection() {
    let world = World::before(Upstream::scripted(echo), |c| c);
    let mut client = world.connect();
    for i in 0..100 {
        let body = noise(i * 37);
        let answer = client
            .send(post("/public/x").body("application/octet-stream", &body).bytes())
            .response()
            .expect(200);
        assert_eq!(answer.json()["length"], body.len());
    }
    assert_eq!(world.upstream.opened(), 1);
}
