//! `Host` and the authority: one, well-formed, and the same in both places.

use crate::support::world::World;

#[test]
fn a_bad_host_is_400_on_every_route() {
    let world = World::new();
    for host in [
        "",
        " ",
        "a b",
        "a/b",
        "a@b",
        "user@a",
        "user:pw@a",
        "a?b",
        "a#b",
        "a,b",
        "a\\b",
        "a:x",
        "a:",
        "a:99999",
        "a:-1",
        "a:80:80",
        "[::1",
        "::1",
        "[::1]x",
        "[zz]",
        "a..b",
        ".",
        "..",
        "a_b\"",
        "<a>",
        "a%00b",
        "http://a",
        "a;b",
        "a|b",
        "-",
        "a\tb",
        "é",
    ] {
        if matches!(host, "a:" | "-" | "a_b\"") {
            // What RFC 3986 allows and what nobody uses: either verdict, nothing odd.
            let answer = world.ask_raw(format!("GET /public/x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert!(matches!(answer.status, 200 | 400), "{host:?} {}", answer.status);
            continue;
        }
        for path in ["/public/x", "/x", "/auth/me", "/.well-known/jwks.json"] {
            let before = (world.upstream.count(), world.upstream.opened());
            let answer = world.ask_raw(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(answer.status, 400, "{host:?} on {path}: {}", answer.text());
            answer.is_problem(400, "bad_host");
            world.saw_nothing_since(before, host);
        }
    }
}

#[test]
fn no_host_and_several_hosts_are_400() {
    let world = World::new();
    for lines in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host:\r\nHost: a\r\n",
        "X-Host: a\r\n",
        "Host_: a\r\n",
    ] {
        world.refuses_raw(format!("GET /public/x HTTP/1.1\r\n{lines}\r\n"), 400, "bad_host");
        world.refuses_raw(format!("GET /auth/me HTTP/1.1\r\n{lines}\r\n"), 400, "bad_host");
    }
}

#[test]
fn http_1_0_without_a_host_is_400_too() {
    let world = World::new();
    let before = (world.upstream.count(), world.upstream.opened());
    assert_eq!(world.ask_raw("GET /public/x HTTP/1.0\r\n\r\n").status, 400);
    world.saw_nothing_since(before, "HTTP/1.0");
}

#[test]
fn the_absolute_form_and_host_agree_or_it_is_400() {
    let world = World::new();
    for (target, host) in
        [("http://a/public/x", "b"), ("http://a/public/x", ""), ("http://a@b/public/x", "a")]
    {
        world.refuses_raw(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400, "bad_host");
    }
    world.refuses_raw("GET http://a/public/x HTTP/1.1\r\n\r\n", 400, "bad_host");
    let (_, seen) = world.passes_raw("GET http://a/public/x HTTP/1.1\r\nHost: A\r\n\r\n");
    assert!(seen.header("host").is_some_and(|h| h.eq_ignore_ascii_case("a")));
}

#[test]
fn good_hosts_pass_as_the_client_wrote_them() {
    let world = World::new();
    for host in [
        "a",
        "app.example.com",
        "App.Example.COM",
        "a:80",
        "a:65535",
        "127.0.0.1:5000",
        "[::1]",
        "[2001:db8::1]:443",
        "xn--bcher-kva.example",
        "a-b.c",
        "a_b",
        "example.com.",
    ] {
        let (_, seen) = world.passes_raw(format!("GET /public/x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(seen.header("host"), Some(host));
        assert_eq!(seen.header("x-forwarded-host"), Some(host));
    }
}
