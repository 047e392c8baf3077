//! gRPC calls: messages and trailers as they are, refusals in gRPC's words.

use h2::Reason;
use http::{HeaderValue, Request, Version};

use crate::support::gateway::Gateway;
use crate::support::h2::{Answer, H2, Incoming, post};
use crate::support::server::{Authority, Server, Speaks, write};
use crate::support::upstream::Upstream;
use crate::support::world::World;
use crate::support::{closed_port, eventually};

fn world(upstream: Upstream) -> World {
    World::before(upstream, |c| c.set("server", "h2c", "true"))
}

/// A call as gRPC clients make it.
fn call(path: &str, token: Option<&str>) -> Request<()> {
    let mut request = post(path);
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    if let Some(token) = token {
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    }
    request
}

/// A message as it is framed in bodies.
fn message(content: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(content);
    framed
}

#[track_caller]
fn is_refusal(answer: &Answer, status: &str, code: &str) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/grpc+proto"));
    assert_eq!(answer.header("grpc-status"), Some(status), "{:?}", answer.headers);
    let message = answer.header("grpc-message").unwrap();
    assert!(message.starts_with(&format!("{code}: ")), "{message}");
    assert!(answer.body.is_empty() && answer.trailers.is_empty());
}

#[test]
fn a_refused_call_is_told_in_grpcs_words_and_logged_in_https() {
    let world = world(Upstream::echo());
    let user = world.user("alice").access;
    let mut client = H2::connect(world.address());
    let hi = message(b"hi");
    let anonymous = client.ask(call("/pkg.Service/Method", None), &hi);
    is_refusal(&anonymous, "16", "missing_token");
    is_refusal(&client.ask(call("/pkg.Service/Method", Some("rubbish")), &hi), "16", "invalid_token");
    is_refusal(&client.ask(call("/admin/Method", Some(&user)), &hi), "7", "forbidden");
    is_refusal(&client.ask(call("/read/Method", None), &hi), "12", "method_not_allowed");
    is_refusal(&client.ask(call("/a%2fb", None), &hi), "13", "bad_path");
    assert_eq!(world.upstream.count(), 0);

    let id = anonymous.header("x-request-id").unwrap();
    let line = world.decision(id);
    assert_eq!((&line["status"], &line["reason"]), (&401.into(), &"missing_token".into()));
    let text = world.ask_admin("/metrics").expect(200).text();
    let counted = text.lines().any(|l| {
        l.starts_with("gatepost_http_requests_total{") && l.contains("POST") && l.contains("\"401\"")
    });
    assert!(counted, "{text}");
}

#[test]
fn an_upstream_that_fails_is_unavailable_or_late() {
    let gone = closed_port();
    let hanging = Upstream::scripted(crate::support::upstream::hang);
    let port = hanging.port();
    let world = World::before(hanging, |c| {
        c.set("server", "h2c", "true")
            .no_routes()
            .upstream("app", port)
            .upstream("gone", gone)
            .route("path = \"/late/**\"\naccess = \"public\"\ntimeout = \"1s\"\nupstream = \"app\"")
            .route("path = \"/gone/**\"\naccess = \"public\"\nupstream = \"gone\"")
    });
    let mut client = H2::connect(world.address());
    is_refusal(&client.ask(call("/late/Method", None), &message(b"hi")), "4", "upstream_timeout");
    is_refusal(&client.ask(call("/gone/Method", None), &message(b"hi")), "14", "upstream_unreachable");
    is_refusal(&client.ask(call("/nowhere/Method", None), &message(b"hi")), "12", "no_route");
}

#[test]
fn others_are_refused_as_ever() {
    let world = world(Upstream::echo());
    let mut client = H2::connect(world.address());
    for kind in ["application/json", "application/grpcx", "text/plain"] {
        let mut request = post("/x");
        request.headers_mut().insert("content-type", HeaderValue::from_static(kind));
        client.ask(request, b"{}").is_problem(401, "missing_token");
    }
    assert_eq!(world.upstream.count(), 0);
}

/// Calls to a server that speaks gRPC, by each way to speak HTTP/2 with it.
fn each_way(test: impl Fn(&Server, &Gateway)) {
    let (authority, home) = (Authority::new(), tempfile::tempdir().unwrap());
    let ca = write(home.path(), "ca.pem", &authority.pem);
    let https = Speaks::tls(&authority, "127.0.0.1", &["h2", "http/1.1"], None);
    for (scheme, speaks, more) in
        [("https", https, format!("ca = {ca:?}")), ("h2c", Speaks::h2c(), String::new())]
    {
        let server = Server::start(speaks);
        let config = server.config(scheme, &more).set("server", "h2c", "true");
        let gateway = Gateway::start(&config);
        test(&server, &gateway);
        assert_eq!(server.opened(), 1, "{scheme}: all calls share a connection");
        assert!(server.seen().iter().all(|seen| seen.version == Version::HTTP_2), "{scheme}");
    }
}

/// A call of exactly `application/grpc`.
fn plain_call(path: &str, token: &str) -> Request<()> {
    let mut request = call(path, Some(token));
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("20S"));
    request.headers_mut().insert("x-trace-bin", HeaderValue::from_static("AAEC"));
    request
}

/// Exactly these bytes of a stream that goes on.
#[track_caller]
fn says(incoming: &mut Incoming, expected: &[u8]) {
    let mut heard = Vec::new();
    while heard.len() < expected.len() {
        heard.extend(incoming.piece().expect("more comes").unwrap());
    }
    assert_eq!(heard, expected);
}

#[test]
fn a_unary_call_and_its_trailers_pass() {
    each_way(|server, gateway| {
        let user = gateway.user("alice").access;
        let mut client = H2::connect(gateway.address());
        let large = message(&vec![7; 300_000]);
        for content in [message(b"hi"), message(b""), large] {
            let answer = client.ask(plain_call("/pkg.Service/Method", &user), &content);
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc")));
            assert!(answer.body == content);
            assert_eq!(answer.header("grpc-status"), None, "it is in the trailers");
            let trailer = |name: &str| answer.trailers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!((trailer("grpc-status"), trailer("x-cost-bin")), (Some("0"), Some("AAEC")));
        }
        let seen = &server.seen()[0];
        assert_eq!((seen.method.as_str(), seen.path().as_str()), ("POST", "/pkg.Service/Method"));
        let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!((header("te"), header("grpc-timeout")), (Some("trailers"), Some("20S")));
        assert_eq!((header("x-trace-bin"), header("authorization")), (Some("AAEC"), None));
        assert!(seen.headers.values().any(|value| value == "alice"), "{:?}", seen.headers);
    });
}

#[test]
fn what_the_service_refuses_arrives_as_it_says_it() {
    each_way(|_, gateway| {
        let user = gateway.user("alice").access;
        let mut client = H2::connect(gateway.address());
        // Trailers-Only: there is nothing but a head.
        let refused = client.ask(plain_call("/pkg.Service/Refuse", &user), &message(b"hi"));
        assert_eq!((refused.status, refused.header("grpc-status")), (200, Some("5")));
        assert_eq!(refused.header("grpc-message"), Some("no such thing"));
        assert!(refused.body.is_empty() && refused.trailers.is_empty());
        // A status that comes after messages.
        let aborted = client.ask(plain_call("/pkg.Service/Abort", &user), &message(b"hi"));
        assert_eq!((aborted.status, aborted.body), (200, message(b"hi")));
        assert_eq!(aborted.trailers["grpc-status"], "10");
        assert_eq!(aborted.trailers["grpc-message"], "aborted");
    });
}

#[test]
fn a_stream_in_both_directions_waits_for_nothing() {
    each_way(|_, gateway| {
        let user = gateway.user("alice").access;
        let mut client = H2::connect(gateway.address());
        let mut calls: Vec<_> =
            (0..3).map(|_| client.open(plain_call("/pkg.Service/Chat", &user), false)).collect();
        // Each message is answered before the next one is said, on all streams by turns.
        let mut streams = Vec::new();
        for call in &mut calls {
            call.send(&message(b"first"), false);
            streams.push(call.answer().unwrap());
        }
        for stream in &mut streams {
            says(stream, &message(b"first"));
        }
        for number in 0..20 {
            for (call, stream) in calls.iter_mut().zip(&mut streams) {
                let said = message(format!("message {number}").as_bytes());
                call.send(&said, false);
                says(stream, &said);
            }
        }
        for (mut call, stream) in calls.into_iter().zip(streams) {
            call.send(b"", true);
            let rest = stream.whole().unwrap();
            assert!(rest.body.is_empty());
            assert_eq!(rest.trailers["grpc-status"], "0");
        }
    });
}

#[test]
fn a_call_that_is_cancelled_ends_at_the_service_too() {
    each_way(|server, gateway| {
        let user = gateway.user("alice").access;
        let mut client = H2::connect(gateway.address());
        let mut call = client.open(plain_call("/pkg.Service/Chat", &user), false);
        call.send(&message(b"hi"), false);
        let mut stream = call.answer().unwrap();
        says(&mut stream, &message(b"hi"));
        assert_eq!(server.given_up(), 0);
        call.reset(Reason::CANCEL);
        eventually("the service hears of it", || (server.given_up() == 1).then_some(()));
        // And the connections on both sides are as good as before.
        let answer = client.ask(plain_call("/pkg.Service/Method", &user), &message(b"again"));
        assert_eq!(
            (answer.body, &answer.trailers["grpc-status"]),
            (message(b"again"), &"0".parse().unwrap())
        );
    });
}
