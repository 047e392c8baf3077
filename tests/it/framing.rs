//! Where one request ends and the next begins: whatever a client writes, the upstream sees nothing or
//! exactly one proper request for each, and nothing of a body is ever taken for a request.

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};

use crate::support::request::{get, post};
use crate::support::wire::show;
use crate::support::world::World;

/// A request hidden where a body or rubbish should be.
const SMUGGLED: &str = "GET /public/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// How bytes on a fresh connection went.
struct Outcome {
    statuses: Vec<u16>,
    closed: bool,
}

/// Sends the bytes and a canary after them, and holds what must hold for any bytes.
#[track_caller]
fn probe(world: &World, bytes: &[u8]) -> Outcome {
    let before = world.upstream.count();
    let mut client = world.connect();
    client.send(bytes);
    client.send("GET /public/canary HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut outcome = Outcome { statuses: Vec::new(), closed: true };
    while let Some(answer) = client.try_response("GET") {
        outcome.statuses.push(answer.status);
        if answer.text().contains("/public/canary") && answer.status == 200 {
            outcome.closed = false;
        }
    }
    let seen = &world.upstream.seen()[before..];
    for request in seen {
        assert!(!request.target.contains("smuggled"), "{} became {}", show(bytes), request.text());
        assert!(
            !request.text().to_lowercase().contains("smuggled"),
            "{} became {}",
            show(bytes),
            request.text()
        );
    }
    assert!(seen.len() <= 2, "{} became {} requests", show(bytes), seen.len());
    world.upstream.saw_only_proper_requests();
    outcome
}

/// The bytes are refused with 400, or another 4xx or 501, and the connection closes.
#[track_caller]
fn refused(world: &World, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    let before = (world.upstream.count(), world.upstream.opened());
    let outcome = probe(world, bytes);
    assert!(outcome.closed, "{} kept the connection: {:?}", show(bytes), outcome.statuses);
    let status = outcome.statuses.first().copied();
    assert!(status.is_none_or(|s| (400..500).contains(&s) || s == 501), "{}: {status:?}", show(bytes));
    assert!(outcome.statuses.len() <= 1, "{}: {:?}", show(bytes), outcome.statuses);
    world.saw_nothing_since(before, &show(bytes));
}

fn with(lines: &str, body: &str) -> String {
    format!("POST /public/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}")
}

#[test]
fn a_canary_passes() {
    // The negative control for all below: the probe itself finds a second request.
    let world = World::new();
    let outcome = probe(&world, with("Content-Length: 3\r\n", "abc").as_bytes());
    assert_eq!((outcome.statuses.as_slice(), outcome.closed), ([200, 200].as_slice(), false));
    assert_eq!(world.upstream.count(), 2);
}

#[test]
fn content_length_beside_transfer_encoding_is_refused_or_closes() {
    let world = World::new();
    let chunked = "0\r\n\r\n";
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 48\r\n",
        "content-length: 5\r\ntransfer-encoding: Chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding:\tchunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        refused(&world, with(lines, &format!("{chunked}{SMUGGLED}")));
    }
}

#[test]
fn an_unclear_content_length_is_refused() {
    let world = World::new();
    for length in [
        "+5",
        "-5",
        "5 5",
        "5,6",
        "0x5",
        "5_0",
        "5.0",
        "5e0",
        "five",
        "",
        " ",
        ",",
        "5,",
        "\"5\"",
        "99999999999999999999999999",
        "18446744073709551616",
        "18446744073709551621",
        "5;q",
        "5\u{0}",
        "\u{664}",
    ] {
        let mut bytes = b"POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: ".to_vec();
        bytes.extend_from_slice(length.as_bytes());
        bytes.extend_from_slice(format!("\r\n\r\nhello{SMUGGLED}").as_bytes());
        refused(&world, bytes);
    }
    refused(&world, with("Content-Length: 5\r\nContent-Length: 6\r\n", &format!("hello{SMUGGLED}")));
    refused(&world, with("Content-Length: 0\r\nContent-Length: 5\r\n", &format!("hello{SMUGGLED}")));
    refused(&world, with("Content-Length : 5\r\n", &format!("hello{SMUGGLED}")));
    refused(&world, with("Content-Length\t: 5\r\n", "hello"));
}

#[test]
fn a_repeated_equal_content_length_is_one_or_refused() {
    let world = World::new();
    for lines in
        ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5, 5\r\n", "Content-Length: 005\r\n"]
    {
        let before = world.upstream.count();
        let outcome = probe(&world, with(lines, "hello").as_bytes());
        match outcome.statuses.first() {
            Some(200) => assert_eq!(world.upstream.seen()[before].body, b"hello"),
            // Bytes that follow a refusal may reset the connection before its answer is read.
            other => {
                assert!(
                    outcome.closed && other.is_none_or(|s| (400..500).contains(s)),
                    "{lines:?} {other:?}"
                );
            }
        }
    }
}

#[test]
fn a_transfer_encoding_that_is_not_chunked_alone_is_refused() {
    let world = World::new();
    for coding in [
        "gzip",
        "identity",
        "chunked, identity",
        "chunked, gzip",
        "x-chunked",
        "chunkedx",
        "chunk",
        "\"chunked\"",
        "chunked;q=1",
        "chunked x",
        "",
        "cow, chunked, cow",
        "chunke\u{0}d",
        "xchunked",
        "identity, chunked, identity",
    ] {
        refused(&world, with(&format!("Transfer-Encoding: {coding}\r\n"), &format!("0\r\n\r\n{SMUGGLED}")));
    }
    for lines in [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: cow\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
    ] {
        refused(&world, with(lines, &format!("0\r\n\r\n{SMUGGLED}")));
    }
    // Codings that some servers take for chunked.
    for lines in [
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        refused(&world, with(lines, &format!("0\r\n\r\n{SMUGGLED}")));
    }
    // Other names that some take for the header: here they are headers like any other.
    for lines in [
        "Transfer-Encoding: CHUNKED\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer.Encoding: chunked\r\n",
        "Transfer--Encoding: chunked\r\n",
        "X-Transfer-Encoding: chunked\r\n",
        "Content_Length: 40\r\n",
        "Content.Length: 40\r\n",
    ] {
        probe(&world, with(lines, "0\r\n\r\n").as_bytes());
    }
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    let world = World::new();
    for line in ["Connection: keep-alive\r\n", ""] {
        let bytes = format!(
            "POST /public/x HTTP/1.0\r\nHost: a\r\n{line}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
        );
        refused(&world, bytes);
    }
}

#[test]
fn broken_chunks_end_the_request_with_400_and_the_connection() {
    let world = World::new();
    for body in [
        "g\r\nabc\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabcX0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3\r\rabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nX : y\r\n\r\n",
        "3\r\nabc\r\n0\r\n bad\r\n\r\n",
    ] {
        let before = world.upstream.count();
        let bytes = with("Transfer-Encoding: chunked\r\n", &format!("{body}{SMUGGLED}"));
        let outcome = probe(&world, bytes.as_bytes());
        let first = outcome.statuses.first().copied();
        assert!(first.is_none_or(|s| (400..500).contains(&s)), "{body:?}: {:?}", outcome.statuses);
        assert!(outcome.closed, "{body:?} kept the connection");
        for request in &world.upstream.seen()[before..] {
            assert!(!request.complete, "{body:?} reached the upstream as a whole request");
        }
    }
}

#[test]
fn chunk_extensions_and_case_do_not_reach_the_upstream_as_they_came() {
    let world = World::new();
    for body in [
        "3;ext=1\r\nabc\r\n0\r\n\r\n",
        "3;ext=\"a;b\"\r\nabc\r\n0;last\r\n\r\n",
        "003\r\nabc\r\n000\r\n\r\n",
        "3\r\nabc\r\n0\r\nX-Trailer: y\r\n\r\n",
    ] {
        let before = world.upstream.count();
        let outcome = probe(&world, with("Transfer-Encoding: chunked\r\n", body).as_bytes());
        if outcome.statuses.first() == Some(&200) {
            assert_eq!(world.upstream.seen()[before].body, b"abc", "{body:?}");
        }
    }
    // A flood of extensions is not a way around body limits.
    let body = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1_000_000));
    let outcome = probe(&world, with("Transfer-Encoding: chunked\r\n", &body).as_bytes());
    assert!(outcome.closed);
}

#[test]
fn rubbish_before_or_in_a_head_is_refused() {
    let world = World::new();
    for bytes in [
        "GET /public/x\r\n\r\n",
        "GET /public/x HTTP/0.9\r\nHost: a\r\n\r\n",
        "GET /public/x HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET /public/x HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /public/x HTTP/1.1x\r\nHost: a\r\n\r\n",
        "GET /public/x http/1.1\r\nHost: a\r\n\r\n",
        "GET  /public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public/x  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public/x HTTP/1.1 \r\nHost: a\r\n\r\n",
        " GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public/x y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/public/x\tHTTP/1.1\r\nHost: a\r\n\r\n",
        "GE(T /public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GE\u{0}T /public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "/public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ?x HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "rubbish\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-A: b\r\n folded\r\n\r\n",
        "GET /public/x HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX(A): b\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-A: b\u{0}c\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX A: b\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-\u{e9}: b\r\n\r\n",
        "GET /public/x HTTP/1.1\rHost: a\r\r",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-A: b\u{1}c\r\n\r\n",
    ] {
        let before = (world.upstream.count(), world.upstream.opened());
        let bytes: Vec<u8> = bytes.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        refused(&world, &bytes);
        world.saw_nothing_since(before, &show(&bytes));
    }
}

#[test]
fn a_bare_line_feed_never_reaches_the_upstream() {
    let world = World::new();
    for bytes in [
        "GET /public/x HTTP/1.1\nHost: a\n\n",
        "GET /public/x HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-A: b\nX-Auth-User: evil\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\n\n",
        "\n\nGET /public/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX-A: b\n X-Auth-User: evil\r\n\r\n",
    ] {
        refused(&world, bytes);
    }
    // Empty lines before a request are tolerated (RFC 9112 section 2.2).
    let outcome = probe(&world, b"\r\n\r\nGET /public/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(outcome.statuses, [200, 200]);
}

#[test]
fn too_large_heads_are_431_or_closed() {
    let world = World::new();
    let before = (world.upstream.count(), world.upstream.opened());
    // Over the limit: a problem of ours. Twice over and more: a bare 431.
    let answer =
        world.refuses(get("/public/x").header("X-Bomb", "b".repeat(33 * 1024)), 431, "header_too_large");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    for lines in [
        format!("X-Bomb: {}\r\n", "b".repeat(200_000)),
        "X-A: b\r\n".repeat(20_000),
        format!("{}: b\r\n", "n".repeat(70_000)),
    ] {
        let mut client = world.connect();
        client.send(format!("GET /public/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        if let Some(answer) = client.try_response("GET") {
            assert_eq!(answer.status, 431, "{}", answer.text());
        }
        client.ends();
    }
    let mut client = world.connect();
    client.send("GET /public/x HTTP/1.1\r\nHost: a\r\n".to_owned() + &"X-A: b\r\n".repeat(500) + "\r\n");
    let status = client.response().status;
    assert!(matches!(status, 431 | 400), "{status}");
    world.saw_nothing_since(before, "header bombs");
    world.passes(get("/public/x")).0.expect(200);
}

#[test]
fn requests_pipelined_behind_a_401_are_judged_for_themselves() {
    let world = World::new();
    let alice = world.user("alice");
    let mut client = world.connect();
    let mut bytes = get("/x").bytes();
    bytes.extend(get("/x").bearer(&alice.access).bytes());
    bytes.extend(get("/admin").bearer(&alice.access).bytes());
    bytes.extend(get("/public/x").bytes());
    bytes.extend(post("/x").body("text/plain", SMUGGLED).bytes());
    bytes.extend(get("/x").bytes());
    client.send(bytes);
    let mut expect = |status| assert_eq!(client.response().status, status);
    expect(401);
    expect(200);
    expect(403);
    expect(200);
    expect(401);
    // After a refusal with a body the connection may close; what follows is never taken from the body.
    if let Some(last) = client.try_response("GET") {
        assert_eq!(last.status, 401);
    }
    let targets: Vec<_> = world.upstream.seen().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/x", "/public/x"]);
}

#[test]
fn expect_100_continue_is_answered_only_when_the_body_is_wanted() {
    let world = World::new();
    let alice = world.user("alice");
    let head = |line: &str| {
        format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n{line}\r\n")
    };
    // Refused: no 100, the final answer at once.
    let mut client = world.connect();
    let answer = client.send(head("")).head().unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(world.upstream.count(), 0);
    // Wanted: the client waits for 100 before it sends the body.
    let mut client = world.connect();
    client.send(head(&format!("Authorization: Bearer {}\r\n", alice.access)));
    let interim = client.head().unwrap();
    assert_eq!(interim.status, 100);
    let answer = client.send("hello").response();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.upstream.wait_until_complete(0).body, b"hello");
    // On our own endpoints the same.
    let body = format!(r#"{{"username":"alice","password":"{}"}}"#, crate::support::PASSWORD);
    let mut client = world.connect();
    client.send(format!("POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len()));
    assert_eq!(client.head().unwrap().status, 100);
    assert_eq!(client.send(body).response().status, 200);
}

#[test]
fn odd_expectations_harm_nobody() {
    let world = World::new();
    for line in [
        "Expect: y 100-continue",
        "Expect: 200-maybe",
        "Expect: 100-continue\r\nExpect: 100-continue",
        "Expect:",
        "Expect: 100-CONTINUE",
    ] {
        probe(&world, with(&format!("{line}\r\nContent-Length: 5\r\n"), "hello").as_bytes());
        probe(&world, format!("GET /public/x HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n").as_bytes());
    }
}

#[test]
fn the_body_of_a_refused_request_is_never_a_request() {
    let world = World::new();
    let large = SMUGGLED.repeat(20_000);
    let before = (world.upstream.count(), world.upstream.opened());
    for body in [SMUGGLED, &large] {
        for (head, status) in [
            ("POST /x HTTP/1.1\r\nHost: a\r\n", 401),
            ("PUT /read/x HTTP/1.1\r\nHost: a\r\n", 405),
            ("POST /auth/nothing HTTP/1.1\r\nHost: a\r\n", 404),
            ("POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n", 415),
            ("GET /x HTTP/1.1\r\nHost: a\r\n", 401),
            ("POST /public/%00 HTTP/1.1\r\nHost: a\r\n", 400),
            ("POST /public/x HTTP/1.1\r\nHost: a b\r\n", 400),
            ("TRACE /public/x HTTP/1.1\r\nHost: a\r\n", 405),
        ] {
            for framing in [
                format!("Content-Length: {}\r\n\r\n{body}", body.len()),
                format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
            ] {
                let mut client = world.connect();
                client.send(format!("{head}{framing}"));
                let answer = client
                    .try_response("GET")
                    .unwrap_or_else(|| panic!("no answer to {head:?} with {} bytes", body.len()));
                assert_eq!(answer.status, status, "{head:?} {}", answer.text());
                // Whether it is kept or closed: the next answer is the canary's.
                client.send(get("/auth/nothing").header("Connection", "close").bytes());
                if let Some(next) = client.try_response("GET") {
                    next.is_problem(404, "not_found");
                }
                client.ends();
            }
        }
    }
    world.saw_nothing_since(before, "refused bodies");
}

#[test]
fn a_get_with_a_body_is_one_request() {
    let world = World::new();
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let mut client = world.connect();
        let before = world.upstream.count();
        client.send(format!(
            "{method} /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
            SMUGGLED.len()
        ));
        let answer = client.response_to(method);
        assert!(answer.status == 200 || (400..500).contains(&answer.status), "{method}");
        if answer.status == 200 {
            assert_eq!(world.upstream.wait_until_complete(before).body, SMUGGLED.as_bytes(), "{method}");
        }
        assert!(world.upstream.seen().iter().all(|r| !r.target.contains("smuggled")));
    }
    world.upstream.saw_only_proper_requests();
}

#[test]
fn a_request_that_ends_early_is_never_whole_at_the_upstream() {
    let world = World::new();
    for bytes in [
        with("Content-Length: 50\r\n", "half"),
        with("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        with("Transfer-Encoding: chunked\r\n", "5\r\nhel"),
    ] {
        let before = world.upstream.count();
        let mut client = world.connect();
        client.send(&bytes);
        world.upstream.wait_for(before + 1);
        drop(client);
        world.upstream.wait_until_all_closed();
        assert!(!world.upstream.seen()[before].complete, "{bytes:?}");
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_one_request() {
    let world = World::new();
    let mut client = world.connect();
    for byte in with("Content-Length: 3\r\n", "abc").bytes() {
        client.send([byte]);
    }
    client.response().expect(200);
    assert_eq!(world.upstream.wait_until_complete(0).body, b"abc");
}

/// A request with a few bytes changed, lost or added.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop::sample::select(vec![
        with("Content-Length: 5\r\n", "hello"),
        with("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        format!("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}"),
        with(&format!("Content-Length: {}\r\nConnection: keep-alive\r\n", SMUGGLED.len()), SMUGGLED),
    ]);
    let byte =
        prop_oneof![prop::sample::select(b"\r\n :;,\t\0/?#%0159afx\xff\x0b\x0c".to_vec()), any::<u8>(),];
    let edit = (any::<prop::sample::Index>(), 0..3_u8, byte);
    (whole, prop::collection::vec(edit, 1..4)).prop_map(|(whole, edits)| {
        let mut bytes = whole.into_bytes();
        for (at, what, byte) in edits {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        bytes
    })
}

#[test]
fn damaged_requests_never_become_other_requests() {
    let world = World::new();
    let mut runner = TestRunner::new(Runs { cases: 400, failure_persistence: None, ..Runs::default() });
    let result = runner.run(&damaged(), |bytes| {
        let before = world.upstream.count();
        let mut client = world.connect();
        client.send(&bytes);
        // Nothing follows: what is incomplete ends here, and nobody waits for it.
        client.wire.half_close();
        client.wire.rest();
        for request in &world.upstream.seen()[before..] {
            // Where the head is cut short the hidden request may be the client's own second one, and
            // then it is public; what must not be is a request that carries parts of another.
            prop_assert!(!request.target.contains("HTTP/"), "{}", request.text());
            prop_assert!(
                !request.text().contains("GET /public/smuggled HTTP/1.1\r\nGET"),
                "{}",
                request.text()
            );
            prop_assert_eq!(request.text().matches(" HTTP/1.1\r\n").count(), 1, "{}", request.text());
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    world.upstream.saw_no_bad_head();
    world.ask(get("/public/x")).expect(200);
}
