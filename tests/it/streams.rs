//! What goes on after its request was judged ends with its token, within a second or so, and nobody
//! else's does.

use std::time::Duration;

use serde_json::json;

use super::support::PASSWORD;
use super::support::client::{Client, Response};
use super::support::gateway::Tokens;
use super::support::h2::{self, H2};
use super::support::request::{get, post};
use super::support::upstream::{Exchange, Upstream};
use super::support::wire::BodyReader;
use super::support::world::World;

/// Far more than a second, for busy machines; and far less than any timeout that would end it as well.
const SOON: Duration = Duration::from_secs(10);

/// Answers that begin and do not end, each in its way.
fn endless(exchange: &mut Exchange<'_>) {
    let target = exchange.request().target.clone();
    let start = |kind: &str, length: &str, first: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{length}\r\n\r\n{first}")
    };
    match target.as_str() {
        "/x/events" | "/public/events" => {
            let event = "data: one\n\n";
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            exchange.send(start("text/event-stream", "Transfer-Encoding: chunked", &chunk));
        }
        "/x/chunked" => {
            exchange.send(start("text/plain", "Transfer-Encoding: chunked", "5\r\nfirst\r\n"));
        }
        "/x/close" => {
            exchange.send(start("text/plain", "Connection: close", "first"));
        }
        "/x/fixed" => {
            exchange.send(start("text/plain", "Content-Length: 1000", "first"));
        }
        "/x/grpc" => {
            exchange.send(start("application/grpc+proto", "Transfer-Encoding: chunked", "5\r\nfirst\r\n"));
        }
        "/x/torrent" => {
            // More than anybody reads, and never at rest.
            exchange.send(start("text/plain", "Transfer-Encoding: chunked", ""));
            let chunk = [b"1000\r\n" as &[u8], &[b'x'; 4096], b"\r\n"].concat();
            while exchange.send(&chunk) {}
        }
        _ => {}
    }
    exchange.wait_until_closed();
    exchange.close();
}

fn world() -> World {
    World::before(Upstream::scripted(endless), |c| c)
}

/// An answer whose first bytes have arrived.
struct Running {
    client: Client,
    head: Response,
    body: BodyReader,
}

impl Running {
    #[track_caller]
    fn start(world: &World, target: &str, token: &str) -> Self {
        let mut client = world.connect();
        let head = client.send(get(target).bearer(token).bytes()).head().expect("an answer");
        assert_eq!(head.status, 200, "{head:?}");
        let mut body = head.body_reader("GET");
        assert!(body.piece(&mut client.wire).is_some(), "the first bytes come at once");
        Self { client, head, body }
    }

    /// Reads to the end; why it is not whole, if so.
    fn end(mut self) -> (Option<String>, BodyReader) {
        self.body.whole(&mut self.client.wire);
        (self.body.fault.clone(), self.body)
    }
}

fn logout(world: &World, tokens: &Tokens) {
    world.ask(post("/auth/logout").bearer(&tokens.access)).expect(200);
}

#[test]
fn each_way_of_ending_a_token_ends_its_event_stream() {
    type End = fn(&World, &Tokens);
    let ways: [(&str, End); 6] = [
        ("logout", logout),
        ("logout everywhere", |world, tokens| {
            world.ask(post("/auth/logout-all").bearer(&tokens.access)).expect(200);
        }),
        ("the operator", |world, _| {
            world.cli(&["user", "logout", "alice"]).succeeds();
        }),
        ("disabled", |world, _| {
            world.cli(&["user", "disable", "alice"]).succeeds();
        }),
        ("another password", |world, tokens| {
            let change = json!({"current_password": PASSWORD, "new_password": format!("{PASSWORD} more")});
            world.ask(post("/auth/password").bearer(&tokens.access).json(change)).expect(200);
        }),
        ("other roles", |world, _| {
            world.cli(&["user", "set", "alice", "--role", "editor"]).succeeds();
        }),
    ];
    for (what, end) in ways {
        let world = world();
        let (alice, bob) = (world.user("alice"), world.user("bob"));
        let hers = Running::start(&world, "/x/events", &alice.access);
        let mut his = Running::start(&world, "/x/events", &bob.access);
        end(&world, &alice);
        let (fault, _) = hers.end();
        assert_eq!(fault, None, "{what}: it ends with its last chunk");
        world.upstream.wait_until_open(1);
        assert_eq!(world.metric(r#"gatepost_streams_ended_total{reason="revoked"}"#), Some(1.0), "{what}");
        // His goes on: there is nothing to read, and no end.
        his.client.wire.patience(Duration::from_millis(50));
        assert!(his.client.wire.is_silent(), "{what}");
    }
}

#[test]
fn a_stream_ends_when_its_token_expires() {
    let world = World::before(Upstream::scripted(endless), |c| c.set("tokens", "access_ttl", "\"2s\""));
    let alice = world.user("alice");
    let running = Running::start(&world, "/x/events", &alice.access);
    assert_eq!(running.end().0, None);
    world.upstream.wait_until_all_closed();
    assert_eq!(world.metric(r#"gatepost_streams_ended_total{reason="expired"}"#), Some(1.0));
}

#[test]
fn what_has_no_length_ends_and_what_has_one_breaks_off() {
    for (target, fault) in [
        ("/x/chunked", None),
        ("/x/close", None),
        ("/x/fixed", Some("the connection ended 995 bytes before the body did")),
        ("/x/torrent", None),
    ] {
        let world = world();
        let alice = world.user("alice");
        let running = Running::start(&world, target, &alice.access);
        logout(&world, &alice);
        assert_eq!(running.end().0.as_deref(), fault, "{target}");
        world.upstream.wait_until_all_closed();
    }
}

#[test]
fn grpc_is_told_in_trailers() {
    let world = world();
    let alice = world.user("alice");
    let running = Running::start(&world, "/x/grpc", &alice.access);
    logout(&world, &alice);
    let (fault, body) = running.end();
    assert_eq!(fault, None);
    let trailer = |name: &str| super::support::wire::all(&body.trailers, name).join("|");
    assert_eq!(
        (trailer("grpc-status"), trailer("grpc-message")),
        ("16".into(), "the token has been revoked".into())
    );
}

#[test]
fn a_connection_whose_stream_was_ended_is_closed() {
    let world = world();
    let alice = world.user("alice");
    let mut running = Running::start(&world, "/x/events", &alice.access);
    assert_eq!(running.head.header("content-length"), None);
    logout(&world, &alice);
    running.body.whole(&mut running.client.wire);
    running.client.ends();
}

#[test]
fn a_long_poll_is_answered_when_its_session_ends() {
    let world = world();
    let alice = world.user("alice");
    let mut client = world.connect();
    client.send(get("/x/poll").bearer(&alice.access).bytes());
    world.upstream.wait_for(1);
    logout(&world, &alice);
    let answer = client.response();
    answer.is_problem(401, "revoked_token");
    world.upstream.wait_until_all_closed();
}

#[test]
fn a_long_poll_is_answered_when_its_token_expires() {
    let world = World::before(Upstream::scripted(endless), |c| c.set("tokens", "access_ttl", "\"2s\""));
    let alice = world.user("alice");
    let mut client = world.connect();
    client.send(get("/x/poll").bearer(&alice.access).bytes());
    client.response().is_problem(401, "expired_token");
    world.upstream.wait_until_all_closed();
}

#[test]
fn an_upload_ends_with_its_session() {
    let world = world();
    let alice = world.user("alice");
    let mut client = world.connect();
    client.send(format!(
        "POST /x/upload HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        alice.access
    ));
    world.upstream.wait_for(1);
    logout(&world, &alice);
    client.response().is_problem(401, "revoked_token");
    world.upstream.wait_until_all_closed();
}

#[test]
fn what_nobody_in_particular_asked_for_goes_on() {
    let world = world();
    let alice = world.user("alice");
    // A public route looks at no token, so no token ends it.
    let mut running = Running::start(&world, "/public/events", &alice.access);
    logout(&world, &alice);
    let hers = world.ask(get("/x/events").bearer(&alice.access));
    hers.is_problem(401, "revoked_token");
    running.client.wire.patience(Duration::from_millis(1500));
    assert!(running.client.wire.is_silent());
}

#[test]
fn an_event_reaches_the_client_before_the_next_one_is_made() {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    let (next, turn) = channel::<()>();
    let turn = Mutex::new(turn);
    let upstream = Upstream::scripted(move |exchange| {
        let turn = turn.lock().unwrap();
        exchange
            .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for number in 0..3 {
            let event = format!("data: {number}\n\n");
            exchange.send(format!("{:x}\r\n{event}\r\n", event.len()));
            turn.recv_timeout(super::support::PATIENCE).unwrap();
        }
        exchange.send("0\r\n\r\n");
    });
    let world = World::before(upstream, |c| c);
    let alice = world.user("alice");
    let mut client = world.connect();
    let head = client.send(get("/x").bearer(&alice.access).bytes()).head().expect("an answer");
    let mut body = head.body_reader("GET");
    for number in 0..3 {
        let event = body.piece(&mut client.wire).expect("an event");
        assert_eq!(event, format!("data: {number}\n\n").into_bytes());
        next.send(()).unwrap();
    }
    assert_eq!(body.piece(&mut client.wire), None);
    assert_eq!(body.fault, None);
}

#[test]
fn stopping_does_not_wait_for_event_streams() {
    let mut world = world();
    let alice = world.user("alice");
    let hers = Running::start(&world, "/x/events", &alice.access);
    let anybodys = Running::start(&world, "/public/events", "");
    let asked = std::time::Instant::now();
    assert!(world.stop().success());
    assert!(asked.elapsed() < SOON, "it took {:?}", asked.elapsed());
    assert_eq!(hers.end().0, None);
    assert_eq!(anybodys.end().0, None);
}

#[test]
fn over_http_2_each_stream_ends_in_its_way_and_the_connection_stays() {
    let world = World::before(Upstream::scripted(endless), |c| c.set("server", "h2c", "true"));
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let mut client = H2::connect(world.address());
    let mut start = |target: &str, token: &str| {
        let mut request = h2::get(target);
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut call = client.open(request, true);
        let mut stream = call.answer().unwrap();
        assert!(stream.piece().is_some_and(|piece| piece.is_ok()), "the first bytes come at once");
        stream
    };
    let events = start("/x/events", &alice.access);
    let grpc = start("/x/grpc", &alice.access);
    let fixed = start("/x/fixed", &alice.access);
    let his = start("/x/events", &bob.access);
    logout(&world, &alice);
    let events = events.whole().expect("END_STREAM");
    assert!(events.trailers.is_empty());
    let grpc = grpc.whole().expect("trailers");
    assert_eq!(grpc.trailers["grpc-status"], "16");
    assert_eq!(grpc.trailers["grpc-message"], "the token has been revoked");
    fixed.whole().expect_err("it breaks off");
    world.upstream.wait_until_open(1);
    logout(&world, &bob);
    assert!(his.whole().expect("his ends with his own").body.is_empty());
}
