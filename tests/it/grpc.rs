//! gRPC calls: refusals in gRPC's words.

use http::{HeaderValue, Request};

use crate::support::h2::{Answer, H2, post};
use crate::support::upstream::Upstream;
use crate::support::world::World;

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
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
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
