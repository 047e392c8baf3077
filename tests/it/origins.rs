//! Pages of other origins: what they may read of the gateway's own answers, and what becomes of preflights.

use http::Method;

use crate::support::client::Response;
use crate::support::config::Config;
use crate::support::h2;
use crate::support::request::{Request, get, post};
use crate::support::upstream::Upstream;
use crate::support::world::World;

const PAGE: &str = "https://page.example";
const STRANGER: &str = "https://page.example.evil.test";

fn cors(config: Config) -> Config {
    config
        .set("cors", "origins", "[\"https://page.example\", \"http://localhost:5173\"]")
        .set("cors", "max_age", "\"5m\"")
        .route("path = \"/answered/**\"\npreflight = \"answer\"")
        .route("path = \"/passed/**\"\nroles = [\"admin\"]\npreflight = \"upstream\"")
        .route("path = \"/one/{id}\"\nmethods = [\"GET\"]\npreflight = \"answer\"")
        .route("path = \"/one/{id}\"\nmethods = [\"DELETE\"]\nroles = [\"admin\"]")
}

fn preflight(target: &str, method: &str) -> Request {
    Request::new("OPTIONS", target).header("Origin", PAGE).header("Access-Control-Request-Method", method)
}

/// Every line of the CORS protocol.
fn lines(answer: &Response) -> Vec<(String, String)> {
    let mut found: Vec<_> =
        ["allow-origin", "allow-credentials", "allow-methods", "allow-headers", "max-age"]
            .iter()
            .flat_map(|name| {
                answer.all(&format!("access-control-{name}")).into_iter().map(move |value| (name, value))
            })
            .map(|(name, value)| ((*name).to_owned(), value.to_owned()))
            .collect();
    found.sort();
    found
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn a_known_origin_may_call_our_endpoints_and_read_our_refusals() {
    let world = World::with(cors);
    let let_in = [pair("allow-origin", PAGE)];
    let register = post("/auth/register")
        .header("Origin", PAGE)
        .json(serde_json::json!({"username": "ann", "password": crate::support::PASSWORD}));
    let made = world.ask(register).expect(201);
    assert_eq!(lines(&made), let_in);
    assert_eq!(made.all("vary"), ["origin"]);
    for (request, status, code) in [
        (get("/auth/me"), 401, "missing_token"),
        (get("/auth/nothing"), 404, "not_found"),
        (get("/auth/login"), 405, "method_not_allowed"),
        (get("/x"), 401, "missing_token"),
        (get("/x").bearer("rubbish"), 401, "invalid_token"),
        (get("/a%2fb"), 400, "bad_path"),
    ] {
        let refused = world.refuses(request.clone().header("Origin", PAGE), status, code);
        assert_eq!(lines(&refused), let_in);
        assert!(
            refused.header("access-control-expose-headers").is_some_and(|all| all.contains("Retry-After"))
        );
        for origin in [STRANGER, "null", "http://page.example", "https://page.example:444"] {
            let refused = world.refuses(request.clone().header("Origin", origin), status, code);
            assert_eq!(lines(&refused), [], "{origin}");
            assert_eq!(refused.all("vary"), ["origin"]);
        }
        let refused = world.refuses(request, status, code);
        assert_eq!((lines(&refused), refused.all("vary")), (vec![], vec!["origin"]), "without an origin");
    }
}

#[test]
fn what_the_app_answers_is_the_apps_own() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: https://its.example\r\n\r\nok",
    );
    let world = World::before(upstream, cors);
    let alice = world.user("alice");
    let (answer, seen) = world.passes(get("/answered/x").bearer(&alice.access).header("Origin", PAGE));
    assert_eq!(lines(&answer), [pair("allow-origin", "https://its.example")]);
    assert_eq!(answer.header("vary"), None);
    assert_eq!(seen.header("origin"), Some(PAGE));

    let world = World::with(cors);
    let (answer, _) = world.passes(get("/public/x").header("Origin", PAGE));
    assert_eq!((lines(&answer), answer.header("vary")), (vec![], None));
}

#[test]
fn without_origins_nothing_is_said_and_a_preflight_is_a_request() {
    let world = World::new();
    let refused = world.refuses(get("/auth/me").header("Origin", PAGE), 401, "missing_token");
    assert_eq!((lines(&refused), refused.header("vary")), (vec![], None));
    world.refuses(preflight("/auth/login", "POST"), 405, "method_not_allowed");
    world.refuses(preflight("/x", "GET"), 401, "missing_token");
    world.passes(preflight("/public/x", "GET")).0.expect(200);
}

#[test]
fn our_endpoints_answer_preflights() {
    let world = World::with(cors);
    let before = (world.upstream.count(), world.upstream.opened());
    for (path, method) in [
        ("/auth/login", "POST"),
        ("/auth", "POST"),
        ("/auth/me", "PATCH"),
        ("/auth/me", "DELETE"),
        ("/auth/sessions/x", "DELETE"),
        ("/.well-known/jwks.json", "GET"),
    ] {
        let asked = preflight(path, method).header("Access-Control-Request-Headers", "authorization,x-evil");
        let answer = world.ask(asked).expect(204);
        let expected = [
            pair("allow-headers", "authorization, content-type"),
            pair("allow-methods", method),
            pair("allow-origin", PAGE),
            pair("max-age", "300"),
        ];
        assert_eq!(lines(&answer), expected, "{path} {method}");
    }
    world.saw_nothing_since(before, "preflights for our own endpoints");
    for (path, method, status, code) in [
        ("/auth/login", "DELETE", 405, "method_not_allowed"),
        ("/auth/nothing", "GET", 404, "not_found"),
        ("/auth/../auth/%2e%2e%2f", "GET", 400, "bad_path"),
    ] {
        world.refuses(preflight(path, method), status, code);
    }
    let from = |origin: &str| {
        Request::new("OPTIONS", "/auth/login")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
    };
    let other = world.ask(from("http://localhost:5173")).expect(204);
    assert_eq!(lines(&other)[2], pair("allow-origin", "http://localhost:5173"));
    for origin in [STRANGER, "null", "https://PAGE.example"] {
        let refused = world.refuses(from(origin), 403, "origin_not_allowed");
        assert_eq!(lines(&refused), [], "{origin}");
    }
}

#[test]
fn a_route_says_what_becomes_of_its_preflights() {
    let world = World::with(cors);
    let before = (world.upstream.count(), world.upstream.opened());
    assert_eq!(
        lines(&world.ask(preflight("/answered/x", "PUT")).expect(204))[1],
        pair("allow-methods", "PUT")
    );
    // The rule is that of the method which the browser has in mind.
    assert_eq!(lines(&world.ask(preflight("/one/1", "GET")).expect(204))[1], pair("allow-methods", "GET"));
    world.saw_nothing_since(before, "preflights that are answered");
    world.refuses(preflight("/one/1", "DELETE"), 405, "method_not_allowed");
    world.refuses(preflight("/one/1", "PUT"), 405, "method_not_allowed");
    world.refuses(preflight("/x", "GET"), 401, "missing_token");
    // Without a token none of them is open.
    world.refuses(get("/answered/x").header("Origin", PAGE), 401, "missing_token");
    world.refuses(get("/passed/x").header("Origin", PAGE), 401, "missing_token");
}

#[test]
fn a_preflight_goes_to_the_app_without_a_caller_and_everything_else_stays_out() {
    let world = World::with(cors);
    let admin = world.user_with("root-ann", &["admin"]);
    let asked = preflight("/passed/x", "DELETE").bearer(&admin.access).header("X-Auth-User", "root-ann");
    let (answer, seen) = world.passes(asked);
    answer.expect(200);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("OPTIONS", "/passed/x"));
    assert_eq!(seen.header("access-control-request-method"), Some("DELETE"));
    for name in ["authorization", "x-auth-user", "x-auth-id", "x-auth-roles"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    // A stranger's too: whom the app lets in is the app's affair.
    let stranger = Request::new("OPTIONS", "/passed/x")
        .header("Origin", STRANGER)
        .header("Access-Control-Request-Method", "GET");
    world.passes(stranger).0.expect(200);

    let options = || Request::new("OPTIONS", "/passed/x");
    let method = "Access-Control-Request-Method";
    for not_one in [
        options(),
        options().header("Origin", PAGE),
        options().header(method, "GET"),
        options().header("Origin", "").header(method, "GET"),
        options().header("Origin", PAGE).header(method, ""),
        options().header("Origin", PAGE).header(method, "GET, POST"),
        options().header("Origin", PAGE).header(method, "GET").header(method, "GET"),
        options().header("Origin", PAGE).header("Origin", PAGE).header(method, "GET"),
        options().header("Origin", PAGE).header(method, "TRACE"),
        options().header("Origin", PAGE).header(method, "GET").body("text/plain", "a body"),
        Request::new("POST", "/passed/x").header("Origin", PAGE).header(method, "GET"),
        Request::new("GET", "/passed/x").header("Origin", PAGE).header(method, "GET"),
        Request::new("options", "/passed/x").header("Origin", PAGE).header(method, "GET"),
        Request::new("POST", "/passed/x")
            .header("X-HTTP-Method-Override", "OPTIONS")
            .header("Origin", PAGE)
            .header(method, "GET"),
    ] {
        world.refuses(not_one, 401, "missing_token");
    }
    let chunked = "OPTIONS /passed/x HTTP/1.1\r\nHost: app.test\r\nOrigin: https://page.example\r\n\
                   Access-Control-Request-Method: GET\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    world.refuses_raw(chunked, 401, "missing_token");
}

#[test]
fn a_route_that_names_options_decides_before_what_another_says_of_preflights() {
    let world = World::with(|c| {
        cors(c)
            .set("auth", "paths", "{ \"/signin\" = \"login\" }")
            .route("path = \"/a/{id}\"\nmethods = [\"GET\"]\npreflight = \"upstream\"")
            .route("path = \"/a/{id}\"\nmethods = [\"PUT\"]\npreflight = \"answer\"")
            .route("path = \"/a/{id}\"\nmethods = [\"OPTIONS\"]\nroles = [\"admin\"]")
            .route("path = \"/both\"\nmethods = [\"GET\", \"OPTIONS\"]\npreflight = \"upstream\"")
            .route("path = \"/below/**\"\nmethods = [\"OPTIONS\"]\nroles = [\"admin\"]")
            .route("path = \"/below/x\"\nmethods = [\"GET\"]\npreflight = \"upstream\"")
            .route("path = \"/signin\"\nmethods = [\"OPTIONS\"]\nroles = [\"admin\"]")
            .test("request = \"OPTIONS /a/1\"\nanonymous = true\nexpect = 401")
            .test("request = \"OPTIONS /a/1\"\nroles = [\"user\"]\nexpect = 403")
    });
    let (admin, user) = (world.user_with("root-ann", &["admin"]), world.user("alice"));
    for (path, method) in [("/a/1", "GET"), ("/a/1", "PUT"), ("/signin", "POST")] {
        world.refuses(preflight(path, method), 401, "missing_token");
        world.refuses(preflight(path, method).bearer(&user.access), 403, "forbidden");
        let (_, seen) = world.passes(preflight(path, method).bearer(&admin.access));
        assert_eq!(seen.header("x-auth-user"), Some("root-ann"), "{path}: as any other request");
    }
    // One that says both of itself means what it says; one of another pattern says nothing here.
    for (path, method) in [("/both", "GET"), ("/below/x", "GET")] {
        world.passes(preflight(path, method)).0.expect(200);
    }
    for (url, expected) in [("/a/1", "deny"), ("/both", "upstream"), ("/below/x", "upstream")] {
        let told = world.cli(&["explain", "GET", url, "--json"]).exits(0).json();
        assert_eq!(told["route"]["preflight"], expected, "{url}");
    }
    let told = world.cli(&["explain", "OPTIONS", "/a/1", "--json"]).exits(0).json();
    assert_eq!((&told["status"], &told["code"]), (&401.into(), &"missing_token".into()), "{told}");
    let said = world.cli(&["check"]).exits(0).said();
    assert!(said.contains("2 tests passed"), "{said}");
    assert!(said.contains("preflight says nothing on the route \"/a/{id}\""), "{said}");
}

#[test]
fn a_preflight_that_goes_to_the_app_brings_no_credential_of_any_kind() {
    let world = World::with(|c| {
        cors(c).route("path = \"/open/**\"\npreflight = \"upstream\"\nforward_authorization = true")
    });
    let alice = world.user("alice");
    let credentials = |request: Request| {
        request
            .header("Authorization", "Basic dTpw")
            .header("Authorization", format!("Bearer {}", alice.access))
            .header("Cookie", "session=1")
            .header("Cookie", "other=2")
            .header("X-Access-Token", "somebody's")
            .header("x_access_token", &alice.access)
            .header("Proxy-Authorization", "Basic dTpw")
            .header("X-Auth-User", "root-ann")
            .header("X-Api-Key", "key")
            .header("X-CSRF-Token", "token")
            .header("Accept-Api-Key", "key")
            .header("Accept-Language", "en")
            .header("Sec-WebSocket-Protocol", "bearer, token")
            .header("User-Agent", "a browser")
    };
    for path in ["/passed/x?a=1", "/open/x"] {
        let asked = credentials(preflight(path, "DELETE")).header("Access-Control-Request-Headers", "cookie");
        let (_, seen) = world.passes(asked);
        assert_eq!((seen.target.as_str(), seen.body.len()), (path, 0));
        assert_eq!(seen.header("access-control-request-headers"), Some("cookie"));
        for (name, value) in &seen.headers {
            let name = name.to_ascii_lowercase().replace('_', "-");
            let secret = ["authorization", "cookie", "x-access-token", "x-auth-user", "proxy-authorization"];
            assert!(!secret.contains(&name.as_str()), "{path}: {name}: {value}");
            assert!(
                !["x-api-key", "x-csrf-token", "accept-api-key", "sec-websocket-protocol"]
                    .contains(&name.as_str()),
                "{name}"
            );
        }
        assert_eq!((seen.header("user-agent"), seen.header("origin")), (Some("a browser"), Some(PAGE)));
        assert_eq!(seen.header("accept-language"), Some("en"));
    }
    // What is no preflight keeps what is the app's.
    let (_, seen) = world.passes(get("/public/x").header("Origin", PAGE).header("Cookie", "session=1"));
    assert_eq!(seen.header("cookie"), Some("session=1"));
}

#[test]
fn a_preflight_that_would_lose_its_headers_is_none() {
    let world = World::with(cors);
    for connection in ["close, Origin", "Access-Control-Request-Method", "x , access-control-request-headers"]
    {
        world.refuses(preflight("/passed/x", "GET").header("Connection", connection), 401, "missing_token");
    }
    let (_, seen) = world.passes(preflight("/passed/x", "GET").header("Connection", "x-other"));
    assert_eq!(seen.header("access-control-request-method"), Some("GET"));
}

#[test]
fn a_body_makes_no_preflight_with_http2_either() {
    let world = World::with(|c| cors(c).set("server", "h2c", "true"));
    let request = || {
        http::Request::builder()
            .method(Method::OPTIONS)
            .uri("http://app.test/passed/x")
            .header("origin", PAGE)
            .header("access-control-request-method", "GET")
            .body(())
            .unwrap()
    };
    let mut client = h2::H2::connect(world.address());
    let before = (world.upstream.count(), world.upstream.opened());
    client.ask(request(), b"a body").is_problem(401, "missing_token");
    world.saw_nothing_since(before, "OPTIONS with a body");
    assert_eq!(client.ask(request(), b"").status, 200);
    assert_eq!(world.upstream.count(), before.0 + 1);
}

#[test]
fn every_origin_is_a_star_without_credentials_and_named_ones_may_have_them() {
    let world = World::with(|c| c.set("cors", "origins", "[\"*\"]"));
    let refused = world.refuses(get("/x").header("Origin", STRANGER), 401, "missing_token");
    assert_eq!(lines(&refused), [pair("allow-origin", "*")]);
    assert_eq!(refused.header("vary"), None);
    let answer = world.ask(preflight("/auth/login", "POST")).expect(204);
    assert!(lines(&answer).contains(&pair("allow-origin", "*")));

    let world = World::with(|c| cors(c).set("cors", "credentials", "true"));
    let refused = world.refuses(get("/x").header("Origin", PAGE), 401, "missing_token");
    assert_eq!(lines(&refused), [pair("allow-credentials", "true"), pair("allow-origin", PAGE)]);
    let refused = world.refuses(get("/x").header("Origin", STRANGER), 401, "missing_token");
    assert_eq!(lines(&refused), []);

    let bad = Config::new().set("cors", "origins", "[\"*\"]").set("cors", "credentials", "true");
    let ended = crate::support::gateway::Gateway::prepare(&bad.upstream("app", 1)).cli(&["check"]).exits(1);
    assert!(ended.said().contains("every page on the web could act for its visitors"), "{}", ended.said());
}

#[test]
fn a_preflight_leaves_one_decision_line() {
    let world = World::with(cors);
    for (request, status, decision, reason) in [
        (preflight("/answered/x", "GET"), 204, "answer", "preflight"),
        (preflight("/passed/x", "GET"), 200, "allow", "preflight"),
        (preflight("/auth/login", "POST").header("X", "y"), 204, "answer", "preflight"),
    ] {
        world.ask(request).expect(status);
        let line = crate::support::eventually("the decision line", || {
            world.log().into_iter().rev().find(|line| line.contains("\"method\":\"OPTIONS\"")).filter(
                |line| {
                    line.contains(&format!("\"status\":{status}"))
                        && line.contains(&format!("\"decision\":\"{decision}\""))
                },
            )
        });
        assert!(line.contains(&format!("\"reason\":\"{reason}\"")), "{line}");
    }
}

#[test]
fn endpoints_at_paths_of_the_operators_choice_answer_preflights_too() {
    let world = World::with(|c| cors(c).set("auth", "paths", "{ \"/signin\" = \"login\" }"));
    let before = (world.upstream.count(), world.upstream.opened());
    let answer = world.ask(preflight("/signin", "POST")).expect(204);
    assert!(lines(&answer).contains(&pair("allow-methods", "POST")));
    world.saw_nothing_since(before, "a preflight for our own endpoint");
}

#[test]
fn explain_says_what_becomes_of_preflights() {
    let world = World::with(cors);
    for (url, expected, words) in [
        ("/answered/x", "answer", "answers preflights"),
        ("/passed/x", "upstream", "preflights go to the app"),
        ("/x", "deny", "authenticated"),
        ("/auth/me", "answer", "answers preflights"),
    ] {
        let told = world.cli(&["explain", "GET", url, "--json"]).exits(0).json();
        assert_eq!(told["route"]["preflight"], expected, "{url}");
        let told = world.cli(&["explain", "GET", url]).exits(0);
        assert!(told.stdout.contains(words), "{}", told.stdout);
    }
}
