//! Paths as bytes on the wire: what is ambiguous is refused, and what passes is forwarded in the very
//! form that was matched.

use crate::support::request::get;
use crate::support::world::World;

fn request(target: &str, token: Option<&str>) -> Vec<u8> {
    let mut bytes = b"GET ".to_vec();
    bytes.extend(target.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
    bytes.extend(b" HTTP/1.1\r\nHost: a\r\n");
    if let Some(token) = token {
        bytes.extend(format!("Authorization: Bearer {token}\r\n").bytes());
    }
    bytes.extend(b"\r\n");
    bytes
}

#[test]
fn ambiguous_paths_are_400_with_and_without_a_token() {
    let world = World::new();
    let alice = world.user("alice");
    for path in [
        "/public/%2e%2e/admin",
        "/public/%2E%2E/admin",
        "/public/.%2e/admin",
        "/public/%2e./admin",
        "/public/%2e",
        "/%2e%2e",
        "/public/..%2fadmin",
        "/public/..%2Fadmin",
        "/public%2f..%2fadmin",
        "/public/%2fadmin",
        "/a%2fb",
        "/a%5cb",
        "/a%5Cb",
        "/public/..%5cadmin",
        "/public\\..\\admin",
        "/public/..\\admin",
        "/\\admin",
        "/public/..;/admin",
        "/public/..;x=1/admin",
        "/public;/x",
        "/public/x;jsessionid=1",
        "/public/%2e%2e;/admin",
        "/public/%00",
        "/public/x%00.html",
        "/public/%01",
        "/public/%1f",
        "/public/%7f",
        "/public/%0d%0aX-Evil:1",
        "/public/%0A",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%%",
        "/a%u002e",
        "/public/%u2215admin",
        "/a%2x",
        "/public/%252e%252e/admin",
        "/public/%25252e%25252e/admin",
        "/public/%252e",
        "/public/%25%32%65%25%32%65/admin",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%c0%af",
        "/public/%ff",
        "/public/%e0%80%ae",
        "/public/%ed%a0%80",
        "/public/%c3",
        "/public/\u{e9}",
        "/public/\u{ff}",
        "/public/a\"b",
        "/public/<b>",
        "/public/a^b",
        "/public/a`b",
        "/public/{a}",
        "/public/a|b",
        "/public/x#y",
        "/admin#/public",
        "/public/#/../admin",
        "/..",
        "/../admin",
        "/public/../../admin",
        "/a/../../b",
        "/./../x",
        "/public/.../../../../x",
        "/public/%2e%2e%2fadmin",
        "/.%00./admin",
        "/public/%3b/../admin/%2e%2e",
    ] {
        for token in [None, Some(alice.access.as_str())] {
            let before = (world.upstream.count(), world.upstream.opened());
            let answer = world.ask_raw(request(path, token));
            assert_eq!(answer.status, 400, "{path:?} {}", answer.text());
            if !answer.body.is_empty() {
                answer.is_problem(400, "bad_path");
            }
            world.saw_nothing_since(before, path);
        }
    }
}

#[test]
fn what_is_matched_is_what_is_forwarded() {
    let world = World::new();
    for (sent, forwarded) in [
        ("/public/x", "/public/x"),
        ("/public//x", "/public/x"),
        ("//public/x", "/public/x"),
        ("/public/./x", "/public/x"),
        ("/public/x/.", "/public/x/"),
        ("/public/a/../x", "/public/x"),
        ("/other/../public/x", "/public/x"),
        ("/public/x/..", "/public/"),
        ("/%70ublic/x", "/public/x"),
        ("/public/%7Ex", "/public/~x"),
        ("/public/a%2cb", "/public/a%2Cb"),
        ("/public/%c3%a9", "/public/%C3%A9"),
        ("/public/a%20b", "/public/a%20b"),
        ("/public/a+b", "/public/a+b"),
        ("/public///", "/public/"),
        ("/public/x?a=../b&c=%2f;#", "/public/x?a=../b&c=%2f;"),
        ("/public/x?", "/public/x?"),
        ("/public/x?/../admin", "/public/x?/../admin"),
        ("/public/a:b@c!$&'()*,=", "/public/a:b@c!$&'()*,="),
        ("/PUBLIC/X", "/PUBLIC/X"),
        ("/public/...", "/public/..."),
        ("/public/%25", "/public/%25"),
    ] {
        let before = world.upstream.count();
        let answer = world.ask_raw(request(sent, None));
        if sent.ends_with('#') {
            assert!(matches!(answer.status, 200 | 400), "{sent}");
            continue;
        }
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        assert_eq!(world.upstream.wait_for(before + 1).target, forwarded, "{sent}");
    }
    world.upstream.saw_only_proper_requests();
}

#[test]
fn every_way_into_admin_is_the_admin_route() {
    let world = World::new();
    let user = world.user("u");
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "//admin",
        "//admin/x",
        "///admin//x",
        "/./admin",
        "/admin/.",
        "/ADMIN/x",
        "/%61dmin/x",
        "/%41DMIN",
        "/public/../admin/x",
        "/public/./../admin",
        "/public/x/../../admin",
        "/admin/./x",
        "/a/b/../../admin",
        "/admin/x/..",
        "/admin?x=/public",
        "/admin/?/public/..",
        "/adm%69n",
        "http://a/admin",
        "http://a//admin",
        "http://a/public/../admin",
        "HTTP://A/admin",
    ] {
        let before = (world.upstream.count(), world.upstream.opened());
        world.ask_raw(request(path, Some(&user.access))).is_problem(403, "forbidden");
        world.ask_raw(request(path, None)).is_problem(401, "missing_token");
        world.saw_nothing_since(before, path);
    }
    // These are other paths, under the general route: a token is needed all the same.
    for path in [
        "/admin..",
        "/admin.",
        "/adminx",
        "/admin~",
        "/admin%20",
        "/admin%3f",
        "/.admin",
        "/admin,x",
        "/public../admin",
        "/publicx/admin",
    ] {
        world.refuses_raw(request(path, None), 401, "missing_token");
    }
}

#[test]
fn our_own_endpoints_cannot_be_reached_or_passed_by_tricks() {
    let world = World::new();
    let alice = world.user("alice");
    // Spellings that are the endpoint: it answers, the upstream never.
    for path in [
        "//auth/login",
        "/Auth/login",
        "/AUTH/LOGIN",
        "/./auth/login",
        "/x/../auth/login",
        "/auth//login",
        "/%61uth/login",
        "/auth/./login",
        "/auth/login/",
        "/public/../auth/login",
    ] {
        let before = (world.upstream.count(), world.upstream.opened());
        for token in [None, Some(alice.access.as_str())] {
            world.ask_raw(request(path, token)).is_problem(405, "method_not_allowed");
        }
        world.saw_nothing_since(before, path);
    }
    // Spellings that are nothing of ours but below the prefix.
    for path in [
        "/auth/x",
        "/auth/login/x",
        "/AUTH/x",
        "//auth//x",
        "/auth/login.",
        "/auth/login%20",
        "/auth/login%3f",
        "/auth/.well-known/jwks.json",
    ] {
        for token in [None, Some(alice.access.as_str())] {
            world.refuses_raw(request(path, token), 404, "not_found");
        }
    }
    // Spellings that mean one thing here and another thing there.
    for path in [
        "/auth%2flogin",
        "/auth;x/login",
        "/auth\\login",
        "/auth%5clogin",
        "/auth/..%2flogin",
        "/auth/%2e%2e/auth/login",
        "/auth%00/login",
        "/public/..%2fauth/login",
    ] {
        world.refuses_raw(request(path, Some(&alice.access)), 400, "bad_path");
    }
    // And neighbours, which are the app's.
    for path in [
        "/authx/login",
        "/auth.login",
        "/auth-login",
        "/authentication",
        "/x/auth/login",
        "/.well-known/other",
        "/.well-known/jwks.json.bak",
    ] {
        world.refuses_raw(request(path, None), 401, "missing_token");
        world.passes_raw(request(path, Some(&alice.access))).0.expect(200);
    }
    for path in ["/.well-known//jwks.json", "/.WELL-KNOWN/jwks.json", "/x/../.well-known/jwks.json"] {
        let before = (world.upstream.count(), world.upstream.opened());
        assert_eq!(world.ask_raw(request(path, None)).status, 200, "{path}");
        world.saw_nothing_since(before, path);
    }
}

#[test]
fn single_ambiguities_are_allowed_by_name() {
    let world = World::with(|c| c.set("server", "allow", "[\"semicolon\", \"encoded_slash\"]"));
    assert_eq!(world.passes_raw(request("/public/x;v=1", None)).1.target, "/public/x;v=1");
    assert_eq!(world.passes_raw(request("/public/a%2fb", None)).1.target, "/public/a%2Fb");
    for path in ["/public/..;/admin", "/public/..%2fadmin", "/public/%2e%2e/admin", "/public/a%5cb"] {
        world.refuses_raw(request(path, None), 400, "bad_path");
    }

    let world = World::with(|c| c.set("server", "allow", "[\"non_ascii\"]"));
    let (_, seen) = world.passes_raw(request("/public/\u{c3}\u{a9}", None));
    assert!(seen.target.eq_ignore_ascii_case("/public/%c3%a9"), "{}", seen.target);
    let answer = world.ask_raw(request("/public/\u{ff}\u{fe}", None));
    assert_eq!(answer.status, 400);
    world.refuses_raw(request("/public/x;v=1", None), 400, "bad_path");
}

#[test]
fn a_target_in_absolute_form_is_the_same_request() {
    let world = World::new();
    for target in ["http://a/public/x", "HTTP://A/public/x", "http://a:80/public/x?y=1"] {
        let host = target.split('/').nth(2).unwrap().to_owned();
        let (_, seen) = world.passes_raw(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert!(seen.target.starts_with("/public/x"), "origin form goes on: {}", seen.target);
    }
    for (target, host) in [
        ("http://b/public/x", "a"),
        ("http://user@a/public/x", "a"),
        ("http://user:pw@a/public/x", "a"),
        ("ftp://a/public/x", "a"),
        ("ws://a/public/x", "a"),
        ("http://a.evil/public/x", "a"),
        ("file:///public/x", "a"),
        ("http://a@b/public/x", "b"),
    ] {
        let before = (world.upstream.count(), world.upstream.opened());
        let answer = world.ask_raw(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status, 400, "{target}: {}", answer.text());
        world.saw_nothing_since(before, target);
    }
}

#[test]
fn the_query_goes_on_untouched_and_decides_nothing() {
    let world = World::new();
    let user = world.user("u");
    let long = "a=".to_owned()
        + &"%2e%2e%2f;\\'()*!~[]|{}^`".replace(['\\', '`', '|', '^', '{', '}'], "")
        + "&b=%zz%&c";
    let (_, seen) = world.passes(get(&format!("/public/x?{long}")));
    assert_eq!(seen.target, format!("/public/x?{long}"));
    world.refuses(get("/admin?/public/x").bearer(&user.access), 403, "forbidden");
    world.refuses(get("/x?path=/public"), 401, "missing_token");
}

#[test]
fn a_long_target_passes_and_a_longer_one_is_refused() {
    let world = World::new();
    let path = format!("/public/{}", "a".repeat(8000));
    assert_eq!(world.passes(get(&path)).1.target, path);
    let before = (world.upstream.count(), world.upstream.opened());
    let answer = world.ask(get(&format!("/public/{}", "a".repeat(40_000))));
    assert!(matches!(answer.status, 414 | 431), "{}", answer.status);
    world.saw_nothing_since(before, "a long target");
}
