//! Headers of one connection end at it, in both directions.

use crate::support::request::{Request, get};
use crate::support::upstream::Upstream;
use crate::support::world::World;

#[test]
fn a_requests_connection_headers_end_here() {
    let world = World::new();
    let request = get("/public/x")
        .header("Connection", "keep-alive, X-Named, x-other")
        .header("Connection", "X-Third")
        .header("X-Named", "evil")
        .header("X-Other", "evil")
        .header("X-Third", "evil")
        .header("Keep-Alive", "timeout=5, evil")
        .header("Proxy-Connection", "evil")
        .header("Proxy-Authorization", "Basic evil")
        .header("Proxy-Authenticate", "evil")
        .header("TE", "gzip;evil")
        .header("X-Kept", "yes");
    let (_, seen) = world.passes(request);
    assert!(!seen.text().contains("evil"), "{}", seen.text());
    for gone in
        ["keep-alive", "proxy-connection", "proxy-authorization", "upgrade", "x-named", "x-other", "x-third"]
    {
        assert!(seen.all(gone).is_empty(), "{gone}: {}", seen.text());
    }
    assert_eq!(seen.header("x-kept"), Some("yes"));
}

#[test]
fn connection_cannot_name_away_what_the_message_needs() {
    let world = World::new();
    let alice = world.user("alice");
    let request = Request::new("POST", "/x")
        .bearer(&alice.access)
        .header("Connection", "Host, Content-Length, Content-Type, X-Forwarded-For, X-Request-Id, Authorization, Transfer-Encoding")
        .body("text/plain", "hello");
    let (_, seen) = world.passes(request);
    assert_eq!(seen.header("host"), Some("app.test"));
    assert_eq!(seen.body, b"hello");
    assert_eq!(seen.all("x-forwarded-for").len(), 1);
    assert_eq!(seen.header("x-auth-user"), Some("alice"));
    world.upstream.saw_only_proper_requests();
}

#[test]
fn every_upgrade_but_a_websocket_is_dropped_and_the_request_goes_on_as_a_plain_one() {
    let world = World::new();
    for protocol in ["websocket, h2c", "websocket/13", "h2c", "TLS/1.2", "foo/2"] {
        let request = get("/public/x")
            .header("Connection", "Upgrade, HTTP2-Settings")
            .header("Upgrade", protocol)
            .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Version", "13");
        let (answer, seen) = world.passes(request);
        answer.expect(200);
        assert!(seen.all("upgrade").is_empty() && seen.all("http2-settings").is_empty(), "{}", seen.text());
        assert!(!seen.all("connection").concat().to_lowercase().contains("upgrade"));
    }
}

#[test]
fn bytes_after_an_upgrade_are_the_next_request_and_need_a_token_of_their_own() {
    let world = World::new();
    let mut client = world.connect();
    client.send("GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response().expect(200);
    client.response().is_problem(401, "missing_token");
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn an_answers_connection_headers_end_here() {
    let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Secret, keep-alive\r\nX-Secret: evil\r\nKeep-Alive: timeout=evil\r\nProxy-Authenticate: Basic realm=evil\r\nProxy-Connection: evil\r\nUpgrade: evil\r\nX-Kept: yes\r\n\r\nok";
    let world = World::before(Upstream::answering(bytes), |c| c);
    let (answer, _) = world.passes(get("/public/x"));
    assert_eq!((answer.text().as_str(), answer.header("x-kept")), ("ok", Some("yes")));
    assert!(!format!("{:?}", answer.headers).contains("evil"), "{:?}", answer.headers);
}

#[test]
fn the_clients_wish_to_close_is_its_own() {
    let world = World::with(|c| c.set("server", "workers", "1"));
    let mut client = world.connect();
    client.send(get("/public/x").header("Connection", "close").bytes()).response().expect(200);
    client.ends();
    let mut client = world.connect();
    client.send(get("/public/x").bytes()).response().expect(200);
    client.send(get("/public/x").bytes()).response().expect(200);
    assert_eq!(world.upstream.opened(), 1, "the upstream's connection is kept and used again");
}

#[test]
fn an_http_1_0_client_is_served_and_closed() {
    let world = World::new();
    let mut client = world.connect();
    let answer = client.send("GET /public/x HTTP/1.0\r\nHost: a\r\n\r\n").response();
    assert_eq!(answer.status, 200);
    client.ends();
    let seen = world.upstream.wait_for(1);
    assert!(seen.text().starts_with("GET /public/x HTTP/1.1\r\n"));
}

#[test]
fn an_http_1_0_client_gets_no_chunks() {
    let bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let world = World::before(Upstream::answering(bytes), |c| c);
    let mut client = world.connect();
    let answer = client.send("GET /public/x HTTP/1.0\r\nHost: a\r\n\r\n").response();
    assert!(answer.all("transfer-encoding").is_empty(), "{:?}", answer.headers);
    assert_eq!(answer.text(), "abc");
}
