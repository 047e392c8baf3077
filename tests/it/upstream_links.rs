//! Connections to upstream servers: over TLS, over HTTP/2, shared, used again, and given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Version;

use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::request::{get, post};
use crate::support::server::{Authority, Server, Speaks, write};
use crate::support::upstream::Upstream;
use crate::support::world::World;

#[test]
fn https_speaks_what_the_handshake_agrees_on_and_keeps_its_connection() {
    let (authority, home) = (Authority::new(), tempfile::tempdir().unwrap());
    let ca = write(home.path(), "ca.pem", &authority.pem);
    for (alpn, version) in [
        (&[][..], Version::HTTP_11),
        (&["http/1.1"], Version::HTTP_11),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1", "h2"], Version::HTTP_11),
    ] {
        let server = Server::start(Speaks::tls(&authority, "127.0.0.1", alpn, None));
        let gateway = server.gateway("https", &format!("ca = {ca:?}"));
        for _ in 0..3 {
            assert_eq!(gateway.ask(get("/public/x?a=b")).expect(200).text(), "ok", "{alpn:?}");
        }
        let body = "b".repeat(300_000);
        let echoed = gateway.ask(post("/public/echo").body("text/plain", &body)).expect(200);
        assert!(echoed.text() == body, "{alpn:?}");
        let seen = server.seen();
        assert!(seen.iter().all(|request| request.version == version), "{alpn:?}: {seen:?}");
        assert_eq!((seen.len(), server.opened()), (4, 1), "{alpn:?}");
        let host = seen[0].headers.get("host").map_or("", |host| host.to_str().unwrap());
        match version {
            // The name by which the client asked is a part of the target.
            Version::HTTP_2 => assert!(host.is_empty() && seen[0].uri.starts_with("https://"), "{seen:?}"),
            _ => assert_eq!(seen[0].uri, "/public/x?a=b"),
        }
    }
}

#[test]
fn a_certificate_that_is_not_believed_is_502_and_says_why() {
    let (authority, other, home) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let ca = write(home.path(), "ca.pem", &authority.pem);
    let other_ca = write(home.path(), "other.pem", &other.pem);
    for (name, more) in [
        ("127.0.0.1", format!("ca = {other_ca:?}")),
        ("app.test", format!("ca = {ca:?}")),
        ("127.0.0.1", format!("ca = {ca:?}\nserver_name = \"app.test\"")),
    ] {
        let server = Server::start(Speaks::tls(&authority, name, &["h2", "http/1.1"], None));
        let gateway = server.gateway("https", &more);
        let answer = gateway.ask(get("/public/x"));
        answer.is_problem(502, "upstream_unreachable");
        assert!(!answer.text().contains("ertificate"), "the reason is the operator's: {}", answer.text());
        let lines = gateway.log_lines();
        assert!(
            lines.wait(|line| line.contains("TLS handshake") && line.contains("invalid peer certificate")),
            "{}",
            lines.text()
        );
        assert!(server.seen().is_empty(), "{more}");
    }
    let server = Server::start(Speaks::tls(&authority, "app.test", &["http/1.1"], None));
    let gateway = server.gateway("https", &format!("ca = {ca:?}\nserver_name = \"app.test\""));
    gateway.ask(get("/public/x")).expect(200);
}

#[test]
fn a_server_that_wants_a_certificate_gets_ours() {
    let (authority, home) = (Authority::new(), tempfile::tempdir().unwrap());
    let ca = write(home.path(), "ca.pem", &authority.pem);
    let (certificate, key) = authority.sign("gateway.test");
    let cert = write(home.path(), "client.pem", &certificate.pem());
    let key = write(home.path(), "client.key", &key.serialize_pem());
    for alpn in ["h2", "http/1.1"] {
        let server = Server::start(Speaks::tls(&authority, "127.0.0.1", &[alpn], Some(&authority)));
        let gateway = server.gateway("https", &format!("ca = {ca:?}\ncert = {cert:?}\nkey = {key:?}"));
        gateway.ask(get("/public/x")).expect(200);
        let without = server.gateway("https", &format!("ca = {ca:?}"));
        assert_eq!(without.ask(get("/public/x")).status, 502);
        assert_eq!(server.seen().len(), 1);
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let rubbish = write(home.path(), "rubbish.pem", "rubbish");
    let server = Server::start(Speaks::h2c());
    for (more, named) in [
        (format!("ca = {rubbish:?}"), "rubbish.pem: there is no certificate in it"),
        ("ca = \"/nowhere/ca.pem\"".to_owned(), "/nowhere/ca.pem: "),
    ] {
        let mut gateway = Gateway::prepare(&server.config("https", &more));
        let ended = gateway.does_not_start();
        assert!(ended.stderr.contains(named) && ended.stderr.contains("app"), "{}", ended.stderr);
    }
    assert_eq!(server.opened(), 0);
}

#[test]
fn h2c_carries_bodies_and_trailers_and_nothing_of_the_hop() {
    let server = Server::start(Speaks::h2c());
    let gateway = server.gateway("h2c", "");
    let mut client = gateway.connect();
    client.send(
        "POST /public/echo HTTP/1.1\r\nHost: app.example.com\r\nTE: trailers, gzip\r\nConnection: te, x-hop\r\n\
         X-Hop: 1\r\nKeep-Alive: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n",
    );
    // Both directions move at once.
    let head = client.head().unwrap();
    let mut body = head.body_reader("POST");
    assert_eq!(body.piece(&mut client.wire).unwrap(), b"ping");
    client.send("4\r\npong\r\n");
    assert_eq!(body.piece(&mut client.wire).unwrap(), b"pong");
    client.send("0\r\n\r\n");
    assert!(body.piece(&mut client.wire).is_none());
    assert_eq!(body.fault, None);
    assert_eq!(body.trailers.len(), 1, "{:?}", body.trailers);
    assert!(body.trailers[0].0.eq_ignore_ascii_case("x-sum"), "{:?}", body.trailers);

    let seen = server.seen();
    assert_eq!(seen[0].uri, "http://app.example.com/public/echo");
    assert_eq!(seen[0].headers.get("te").unwrap(), "trailers");
    for name in ["connection", "keep-alive", "x-hop", "transfer-encoding", "host", "upgrade"] {
        assert!(!seen[0].headers.contains_key(name), "{name}");
    }
    assert!(gateway.ask(get("/public/x")).expect(200).header("x-app").is_some());
    assert_eq!(server.opened(), 1);
}

#[test]
fn requests_share_a_connection_until_its_streams_are_taken() {
    let server = Server::start(Speaks { streams: 2, ..Speaks::h2c() });
    let gateway = server.gateway("h2c", "");
    gateway.ask(get("/public/x")).expect(200);
    let clients: Vec<_> = (1..=5)
        .map(|count| {
            let mut client = gateway.connect();
            client.send(get("/public/held").bytes());
            eventually("it arrives", || (server.seen().len() > count).then_some(()));
            client
        })
        .collect();
    let held = server.seen();
    let on = |connection: usize| held[1..].iter().filter(|seen| seen.connection == connection).count();
    assert_eq!((on(0), on(1), on(2)), (2, 2, 1), "{held:?}");
    for mut client in clients {
        server.go().notify_one();
        drop(client.try_response("GET").map(|answer| answer.expect(200)));
        server.go().notify_waiters();
    }
}

#[test]
fn a_server_that_leaves_is_asked_on_a_new_connection() {
    let server = Server::start(Speaks { leaves: true, ..Speaks::h2c() });
    let gateway = server.gateway("h2c", "");
    let mut connections = 0;
    eventually("three connections were used and left", || {
        gateway.ask(get("/public/x")).expect(200);
        gateway.ask(post("/public/echo").body("text/plain", "once")).expect(200);
        connections = server.opened();
        (connections >= 3).then_some(())
    });
}

#[test]
fn a_second_answer_that_comes_late_is_nobodys() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let upstream = Upstream::scripted(move |exchange| {
        exchange.read_body();
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON");
        count.fetch_add(1, Ordering::SeqCst);
    });
    let world = World::before(upstream, |c| c.set("server", "workers", "1"));
    for asked in 1..=20 {
        assert_eq!(world.ask(get("/public/x")).expect(200).text(), "ok");
        // What comes after the next request was sent could not be told from its answer by anybody.
        eventually("it was sent", || (sent.load(Ordering::SeqCst) >= asked).then_some(()));
    }
}

#[test]
fn a_large_upload_and_its_large_answer_pass_each_other() {
    let (authority, home) = (Authority::new(), tempfile::tempdir().unwrap());
    let ca = write(home.path(), "ca.pem", &authority.pem);
    let body: String = (0..600_000).map(|n: u32| char::from(b'a' + u8::try_from(n % 23).unwrap())).collect();
    for (scheme, speaks) in [
        ("http", Speaks { http2: false, ..Speaks::h2c() }),
        ("h2c", Speaks::h2c()),
        ("https", Speaks::tls(&authority, "127.0.0.1", &["http/1.1"], None)),
        ("https", Speaks::tls(&authority, "127.0.0.1", &["h2"], None)),
    ] {
        let server = Server::start(speaks);
        let more = if scheme == "https" { format!("ca = {ca:?}") } else { String::new() };
        let gateway = server.gateway(scheme, &more);
        for _ in 0..3 {
            let answer = gateway.ask(post("/public/echo").body("text/plain", &body)).expect(200);
            assert!(answer.text() == body, "{scheme}");
        }
    }
}
