//! What the upstream is told about the connection: rebuilt here, believed from nobody but listed proxies.

use crate::support::request::get;
use crate::support::world::World;

const SPOOFS: &[(&str, &str)] = &[
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Proto", "evil"),
    ("X-Forwarded-Host", "evil.test"),
    ("X-Forwarded-Port", "evil-port"),
    ("X-Real-IP", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6;host=evil.test;proto=evil"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Uri", "/evil"),
    ("X-Forwarded-Method", "EVIL"),
    ("X-Original-URL", "/evil"),
    ("X-Original-Method", "EVIL"),
    ("X-Rewrite-URL", "/evil"),
    ("X-HTTP-Method-Override", "EVIL"),
    ("X-HTTP-Method", "EVIL"),
    ("X-Method-Override", "EVIL"),
];

#[test]
fn the_connection_is_described_by_us() {
    let world = World::new();
    let (_, seen) = world.passes(get("/public/x").host("app.example.com:8443"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("app.example.com:8443"));
    assert!(seen.header("x-forwarded-port").is_some_and(|p| p.parse::<u16>().is_ok()), "{}", seen.text());
    assert!(seen.header("x-request-id").is_some_and(|id| id.len() >= 16), "{}", seen.text());
    assert_eq!(seen.header("host"), Some("app.example.com:8443"));
    assert_eq!(seen.header("forwarded"), Some("for=127.0.0.1;proto=http;host=\"app.example.com:8443\""));
}

#[test]
fn forwarded_follows_the_host_from_request_to_request() {
    let world = World::new();
    let mut client = world.connect();
    for host in ["a.example", "a.example", "b.example:80", "a.example"] {
        let before = world.upstream.count();
        client.send(get("/public/x").host(host).bytes()).response().expect(200);
        let quoted = if host.contains(':') { format!("\"{host}\"") } else { host.to_owned() };
        let expected = format!("for=127.0.0.1;proto=http;host={quoted}");
        assert_eq!(world.upstream.seen()[before].header("forwarded"), Some(expected.as_str()));
    }
}

#[test]
fn an_ipv6_address_stands_in_brackets_and_quotes() {
    let world = World::with(|c| c.set("server", "listen", "[\"[::1]:0\"]"));
    let (_, seen) = world.passes(get("/public/x").host("[::1]:8080"));
    assert_eq!(seen.header("x-forwarded-for"), Some("::1"));
    assert_eq!(seen.header("forwarded"), Some("for=\"[::1]\";proto=http;host=\"[::1]:8080\""));
}

/// What a trusted proxy says, and `X-Forwarded-For`, `X-Real-IP`, `-Proto`, `-Host` and `Forwarded` as the
/// upstream gets them.
type Told = (&'static [(&'static str, &'static str)], [&'static str; 5]);

#[test]
fn forwarded_and_x_forwarded_for_say_the_same_of_a_trusted_proxys_chain() {
    let world = World::with(|c| c.set("server", "trusted_proxies", "[\"127.0.0.1/32\", \"10.0.0.0/8\"]"));
    let cases: &[Told] = &[
        // Nothing: the proxy is the client.
        (&[], ["127.0.0.1", "127.0.0.1", "http", "app.test", "for=127.0.0.1;proto=http;host=app.test"]),
        // Only Forwarded: believed, kept and extended.
        (
            &[(
                "Forwarded",
                "for=6.6.6.6;proto=http, For=203.0.113.7;proto=https;host=shop.example;by=_x, for=10.0.0.2",
            )],
            [
                "6.6.6.6, 203.0.113.7, 10.0.0.2, 127.0.0.1",
                "203.0.113.7",
                "https",
                "shop.example",
                "for=6.6.6.6;proto=http, For=203.0.113.7;proto=https;host=shop.example;by=_x, for=10.0.0.2, for=127.0.0.1;proto=http;host=app.test",
            ],
        ),
        (
            &[("Forwarded", "for=_hidden"), ("Forwarded", "for=\"[2001:db8::7]:99\"")],
            [
                "unknown, 2001:db8::7, 127.0.0.1",
                "2001:db8::7",
                "http",
                "app.test",
                "for=_hidden, for=\"[2001:db8::7]:99\", for=127.0.0.1;proto=http;host=app.test",
            ],
        ),
        // What the client wrote before the edge does not speak for it.
        (
            &[("Forwarded", "for=6.6.6.6;proto=https;host=evil.test, for=203.0.113.7")],
            [
                "6.6.6.6, 203.0.113.7, 127.0.0.1",
                "203.0.113.7",
                "http",
                "app.test",
                "for=6.6.6.6;proto=https;host=evil.test, for=203.0.113.7, for=127.0.0.1;proto=http;host=app.test",
            ],
        ),
        // A malformed line says nothing, and nothing before it is believed.
        (
            &[("Forwarded", "for=6.6.6.6, for=\"6.6.6.7, for=203.0.113.7")],
            [
                "unknown, 127.0.0.1",
                "127.0.0.1",
                "http",
                "app.test",
                "for=unknown, for=127.0.0.1;proto=http;host=app.test",
            ],
        ),
        // Only X-Forwarded-*: Forwarded is made of it.
        (
            &[
                ("X-Forwarded-For", "6.6.6.6, 2001:db8::7, 10.0.0.2"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "shop.example:444"),
            ],
            [
                "6.6.6.6, 2001:db8::7, 10.0.0.2, 127.0.0.1",
                "2001:db8::7",
                "https",
                "shop.example:444",
                "for=6.6.6.6, for=\"[2001:db8::7]\";proto=https;host=\"shop.example:444\", for=10.0.0.2, for=127.0.0.1;proto=http;host=app.test",
            ],
        ),
        // Both, and they agree: both are kept.
        (
            &[
                ("X-Forwarded-For", "203.0.113.7"),
                ("Forwarded", "for=\"203.0.113.7:99\";proto=https;by=10.0.0.9"),
            ],
            [
                "203.0.113.7, 127.0.0.1",
                "203.0.113.7",
                "https",
                "app.test",
                "for=\"203.0.113.7:99\";proto=https;by=10.0.0.9, for=127.0.0.1;proto=http;host=app.test",
            ],
        ),
        // Both, and they differ: X-Forwarded-For counts.
        (
            &[("X-Forwarded-For", "203.0.113.7"), ("Forwarded", "for=6.6.6.6;proto=https;host=evil.test")],
            [
                "203.0.113.7, 127.0.0.1",
                "203.0.113.7",
                "http",
                "app.test",
                "for=203.0.113.7, for=127.0.0.1;proto=http;host=app.test",
            ],
        ),
        (
            &[("X-Forwarded-For", ""), ("Forwarded", "for=6.6.6.6")],
            ["127.0.0.1", "127.0.0.1", "http", "app.test", "for=127.0.0.1;proto=http;host=app.test"],
        ),
    ];
    for (said, expected) in cases {
        let request =
            said.iter().fold(get("/public/x"), |request, (name, value)| request.header(name, value));
        let (answer, seen) = world.passes(request);
        answer.expect(200);
        let names = ["x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host", "forwarded"];
        assert_eq!(names.map(|name| seen.header(name).unwrap_or_default()), *expected, "{said:?}");
        let id = seen.header("x-request-id").unwrap();
        assert_eq!(world.decision(id)["client"], expected[1], "{said:?}");
    }
}

#[test]
fn nothing_that_a_client_says_about_it_gets_through() {
    let world = World::new();
    for (name, value) in SPOOFS {
        for spelling in [
            (*name).to_owned(),
            name.to_lowercase(),
            name.replace('-', "_"),
            name.replace('-', "."),
            name.replace('-', "--"),
            format!("{name}_"),
        ] {
            let request =
                get("/public/x").header(&spelling, value).header(&spelling, value).header("Connection", name);
            let (_, seen) = world.passes(request);
            assert!(!seen.text().contains(value), "{spelling}: {}", seen.text());
            assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{spelling}");
            assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"), "{spelling}");
        }
    }
}

#[test]
fn a_trusted_proxy_is_believed_and_extended() {
    let world = World::with(|c| c.set("server", "trusted_proxies", "[\"127.0.0.0/8\"]"));
    let request = get("/public/x")
        .header("X-Forwarded-For", "6.6.6.6, 203.0.113.7")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "shop.example.com")
        .header("X-Request-Id", "from-the-edge-0123456789");
    let (_, seen) = world.passes(request);
    assert_eq!(seen.header("x-forwarded-for"), Some("6.6.6.6, 203.0.113.7, 127.0.0.1"));
    assert_eq!(seen.header("x-real-ip"), Some("203.0.113.7"), "the right-most that is not a proxy of ours");
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("shop.example.com"));
    assert_eq!(seen.header("x-request-id"), Some("from-the-edge-0123456789"));
}

#[test]
fn the_rest_is_dropped_from_a_trusted_proxy_too() {
    let world = World::with(|c| c.set("server", "trusted_proxies", "[\"127.0.0.1/32\"]"));
    for (name, value) in &SPOOFS[6..] {
        let (_, seen) = world.passes(get("/public/x").header(name, value));
        assert!(!seen.text().contains(value), "{name}: {}", seen.text());
    }
    // An alias of a believed header is not the header.
    for alias in ["X_Forwarded_For", "X_Forwarded_Proto", "x.forwarded.host"] {
        let (_, seen) = world.passes(get("/public/x").header(alias, "evil"));
        assert!(!seen.text().contains("evil"), "{}", seen.text());
    }
}

#[test]
fn rubbish_from_a_trusted_proxy_is_not_taken_for_an_address() {
    let world = World::with(|c| c.set("server", "trusted_proxies", "[\"127.0.0.1/32\"]"));
    for value in [
        "rubbish",
        "",
        ", ,",
        "1.2.3.4.5",
        "203.0.113.7, rubbish",
        "<script>",
        "unknown",
        "::ffff:203.0.113.7",
        "[2001:db8::1]:443",
        "203.0.113.7:1234",
    ] {
        let (answer, seen) = world.passes(get("/public/x").header("X-Forwarded-For", value));
        answer.expect(200);
        let address = seen.header("x-real-ip").unwrap();
        assert!(address.parse::<std::net::IpAddr>().is_ok(), "{value:?} became {address:?}");
    }
    for value in ["ftp", "https, http", "javascript:"] {
        let (_, seen) = world.passes(get("/public/x").header("X-Forwarded-Proto", value));
        assert!(
            matches!(seen.header("x-forwarded-proto"), Some("http" | "https")),
            "{value}: {}",
            seen.text()
        );
    }
}

#[test]
fn a_request_id_of_a_stranger_is_replaced() {
    let world = World::new();
    let (_, seen) = world.passes(get("/public/x").header("X-Request-Id", "chosen-by-the-client-1"));
    let id = seen.header("x-request-id").unwrap().to_owned();
    assert_ne!(id, "chosen-by-the-client-1");
    let (_, next) = world.passes(get("/public/x"));
    assert_ne!(next.header("x-request-id"), Some(id.as_str()));
    // The upstream's id is the log line's.
    assert_eq!(world.decision(&id)["status"], 200);
}

#[test]
fn a_request_id_from_a_trusted_proxy_is_taken_only_when_it_is_sane() {
    let world = World::with(|c| c.set("server", "trusted_proxies", "[\"127.0.0.1/32\"]"));
    for value in [&"x".repeat(5000), "a b"] {
        let (_, seen) = world.passes(get("/public/x").header("X-Request-Id", value));
        assert_ne!(seen.header("x-request-id"), Some(value));
    }
}
