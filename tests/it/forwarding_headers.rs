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
    for (name, value) in &SPOOFS[5..] {
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
