//! Who passes where: access, roles, owners, methods, hosts, and that nothing falls through.

use serde_json::json;

use crate::support::request::{Request, get, post};
use crate::support::upstream::Upstream;
use crate::support::world::World;

#[test]
fn without_a_token_an_authenticated_route_is_401() {
    let world = World::new();
    for request in [
        get("/"),
        get("/x"),
        post("/x"),
        get("/x?access=public"),
        Request::new("PROPFIND", "/x"),
        Request::new("get", "/x"),
        Request::new("OPTIONS", "/x")
            .header("Origin", "https://a")
            .header("Access-Control-Request-Method", "GET"),
        get("/x").header("User-Agent", "ELB-HealthChecker/2.0"),
        get("/x").header("User-Agent", "kube-probe/1.30"),
        get("/x").header("X-Original-URL", "/public/x"),
        get("/x").header("X-Forwarded-Uri", "/public/x"),
        get("/x").header("X-Rewrite-URL", "/public/x"),
        get("/x").header("X-Forwarded-For", "127.0.0.1"),
    ] {
        world.refuses(request, 401, "missing_token");
    }
    world.refuses(Request::new("HEAD", "/x"), 401, "");
}

#[test]
fn a_user_passes_an_authenticated_route_with_identity() {
    let world = World::new();
    let alice = world.user("alice");
    let (answer, seen) = world.passes(get("/things?x=1&y=%20a").bearer(&alice.access));
    answer.expect(200);
    assert_eq!(seen.target, "/things?x=1&y=%20a");
    assert_eq!(seen.header("x-auth-user"), Some("alice"));
    assert_eq!(seen.header("x-auth-id"), Some(alice.text("sub").as_str()));
}

#[test]
fn a_public_route_takes_no_notice_of_credentials() {
    let world = World::new();
    let alice = world.user("alice");
    for request in [
        get("/public"),
        get("/public/"),
        get("/public/x"),
        get("/public/x").bearer("rubbish"),
        get("/public/x").bearer(&alice.access),
    ] {
        let (answer, seen) = world.passes(request);
        answer.expect(200);
        assert_eq!(seen.header("x-auth-user"), None);
        assert_eq!(seen.header("x-auth-id"), None);
    }
    world.refuses(get("/publicity"), 401, "missing_token");
}

#[test]
fn an_optional_route_passes_anonymous_callers_but_no_bad_token() {
    let world = World::new();
    let alice = world.user("alice");
    let (_, seen) = world.passes(get("/optional/x"));
    assert_eq!(seen.header("x-auth-user"), None);
    let (_, seen) = world.passes(get("/optional/x").bearer(&alice.access));
    assert_eq!(seen.header("x-auth-user"), Some("alice"));
    world.refuses(get("/optional/x").bearer("rubbish"), 401, "invalid_token");
    world.ask(post("/auth/logout").bearer(&alice.access)).expect(200);
    world.refuses(get("/optional/x").bearer(&alice.access), 401, "revoked_token");
}

#[test]
fn a_role_is_needed_where_one_is_named_and_implied_roles_count() {
    let world = World::new();
    let (user, editor, admin) =
        (world.user("u"), world.user_with("e", &["editor"]), world.user_with("a", &["admin"]));
    for path in ["/admin", "/admin/", "/admin/x/y"] {
        world.refuses(get(path), 401, "missing_token");
        world.refuses(get(path).bearer(&user.access), 403, "forbidden");
        world.refuses(get(path).bearer(&editor.access), 403, "forbidden");
        world.passes(get(path).bearer(&admin.access)).0.expect(200);
    }
    world.refuses(get("/edit/x").bearer(&user.access), 403, "forbidden");
    world.passes(get("/edit/x").bearer(&editor.access)).0.expect(200);
    let (_, seen) = world.passes(get("/edit/x").bearer(&admin.access));
    assert_eq!(seen.header("x-auth-roles"), Some("admin,editor,user"));
    // A prefix of a segment is another path.
    world.passes(get("/administrator").bearer(&user.access)).0.expect(200);
    world.passes(get("/admin-old").bearer(&user.access)).0.expect(200);
}

#[test]
fn all_roles_asks_for_every_one_and_is_anded_with_roles() {
    let world = World::with(|c| {
        c.route("path = \"/both/**\"\nall_roles = [\"admin\", \"auditor\"]")
            .route("path = \"/mixed/**\"\nroles = [\"editor\"]\nall_roles = [\"auditor\"]")
    });
    let (admin, auditor) = (world.user_with("a", &["admin"]), world.user_with("b", &["auditor"]));
    let (both, mixed) =
        (world.user_with("c", &["admin", "auditor"]), world.user_with("d", &["editor", "auditor"]));
    for (path, tokens, passes) in [
        ("/both/x", &admin, false),
        ("/both/x", &auditor, false),
        ("/both/x", &both, true),
        ("/both/x", &mixed, false),
        ("/mixed/x", &admin, false),
        ("/mixed/x", &auditor, false),
        ("/mixed/x", &both, true),
        ("/mixed/x", &mixed, true),
    ] {
        if passes {
            world.passes(get(path).bearer(&tokens.access)).0.expect(200);
        } else {
            world.refuses(get(path).bearer(&tokens.access), 403, "forbidden");
        }
    }
}

#[test]
fn an_owner_passes_and_others_do_not() {
    let world = World::with(|c| {
        c.route("path = \"/by-name/{name}/**\"\nowner = { name = \"username\" }")
            .route("path = \"/or/{uid}/**\"\nowner = { uid = \"sub\" }\nor_roles = [\"admin\"]")
            .route("path = \"/and/{uid}/**\"\nowner = { uid = \"sub\" }\nroles = [\"editor\"]")
    });
    let (alice, bob, admin) = (world.user("alice"), world.user("bob"), world.user_with("boss", &["admin"]));
    let id = alice.text("sub");
    let pass = |path: &str, who: &str| {
        let (_, seen) = world.passes(get(path).bearer(who));
        assert_eq!(seen.target, path);
    };
    let refuse = |path: &str, who: &str| {
        world.refuses(get(path).bearer(who), 403, "forbidden");
    };
    pass(&format!("/u/{id}/x"), &alice.access);
    pass(&format!("/u/{id}"), &alice.access);
    for path in [format!("/u/{id}/x"), format!("/u/{id}")] {
        refuse(&path, &bob.access);
        refuse(&path, &admin.access);
        world.refuses(get(&path), 401, "missing_token");
    }
    refuse("/u/someone-else/x", &alice.access);
    refuse(&format!("/u/{}/x", id.to_uppercase()), &alice.access);
    refuse(&format!("/u/{id}%20/x"), &alice.access);
    refuse(&format!("/u/%7B{id}%7D/x"), &alice.access);
    pass("/by-name/alice/x", &alice.access);
    refuse("/by-name/ALICE/x", &alice.access);
    refuse("/by-name/alice/x", &bob.access);
    pass(&format!("/or/{id}/x"), &alice.access);
    pass(&format!("/or/{id}/x"), &admin.access);
    refuse(&format!("/or/{id}/x"), &bob.access);
    refuse(&format!("/and/{id}/x"), &alice.access);
    refuse(&format!("/and/{id}/x"), &admin.access);
    // Without its segment the pattern does not match: the general route decides.
    world.passes(get("/u/").bearer(&alice.access));
}

#[test]
fn the_owners_parameter_is_decoded_once() {
    let world = World::with(|c| c.route("path = \"/by-name/{name}/**\"\nowner = { name = \"username\" }"));
    let alice = world.user("al.ice");
    // %2e is undone by the canonical form; %6c too.
    let (_, seen) = world.passes(get("/by-name/a%6c%2eice/x").bearer(&alice.access));
    assert_eq!(seen.target, "/by-name/al.ice/x");
    let answer = world.ask(get("/by-name/al%252eice/x").bearer(&alice.access));
    assert!(matches!(answer.status, 400 | 403), "decoded twice: {}", answer.status);
}

#[test]
fn a_method_that_no_route_names_is_405_with_allow_and_falls_nowhere() {
    let world = World::with(|c| c.route("path = \"/read/**\"\nmethods = [\"PUT\"]\nroles = [\"admin\"]"));
    let alice = world.user("alice");
    world.passes(get("/read/x")).0.expect(200);
    let (answer, seen) = world.passes(Request::new("HEAD", "/read/x"));
    assert_eq!((answer.status, seen.method.as_str()), (200, "HEAD"));
    for method in ["POST", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "get", "GETX"] {
        let answer =
            world.refuses(Request::new(method, "/read/x").bearer(&alice.access), 405, "method_not_allowed");
        let allow = answer.header("allow").unwrap();
        for allowed in ["GET", "HEAD", "PUT"] {
            assert!(allow.split(", ").any(|m| m == allowed), "{allowed} in {allow:?}");
        }
    }
    world.refuses(Request::new("PUT", "/read/x"), 401, "missing_token");
    world.refuses(Request::new("PUT", "/read/x").bearer(&alice.access), 403, "forbidden");
}

#[test]
fn method_override_headers_change_nothing_and_do_not_arrive() {
    let world = World::new();
    let alice = world.user("alice");
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x_http_method_override"] {
        let (_, seen) = world.passes(get("/read/x").header(name, "DELETE"));
        assert_eq!(seen.method, "GET");
        assert!(!seen.text().contains("DELETE"), "{}", seen.text());
        world.refuses(post("/read/x").bearer(&alice.access).header(name, "GET"), 405, "method_not_allowed");
    }
}

#[test]
fn trace_and_connect_are_405() {
    let world = World::new();
    let alice = world.user("alice");
    world.refuses(Request::new("TRACE", "/public/x").bearer(&alice.access), 405, "method_not_allowed");
    let before = (world.upstream.count(), world.upstream.opened());
    for target in ["127.0.0.1:22", "app.test:443"] {
        let bytes = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nAuthorization: Bearer {}\r\n\r\n",
            alice.access
        );
        let answer = world.ask_raw(bytes);
        assert_eq!(answer.status, 405, "{}", answer.text());
    }
    world.saw_nothing_since(before, "CONNECT");
}

#[test]
fn what_no_route_names_is_404_and_not_forwarded() {
    let world = World::with(|c| {
        c.no_routes()
            .route("path = \"/app/**\"\naccess = \"public\"")
            .route("path = \"/exact\"\naccess = \"public\"")
    });
    let alice = world.user("alice");
    for path in ["/", "/ap", "/app2", "/exact/x", "/other"] {
        world.refuses(get(path), 404, "no_route");
        world.refuses(get(path).bearer(&alice.access), 404, "no_route");
    }
    for path in ["/app", "/app/", "/app/x", "/exact", "/exact/"] {
        assert_eq!(world.passes(get(path)).1.target, path, "what is forwarded keeps the client's slash");
    }
}

#[test]
fn the_most_specific_route_decides_whatever_the_order() {
    let world = World::with(|c| {
        c.no_routes()
            .route("path = \"/**\"\naccess = \"public\"")
            .route("path = \"/api/**\"\nroles = [\"admin\"]")
            .route("path = \"/api/{id}\"\nroles = [\"editor\"]")
            .route("path = \"/api/{id}/open\"\naccess = \"public\"")
            .route("path = \"/api/health\"\naccess = \"public\"")
    });
    let editor = world.user_with("e", &["editor"]);
    world.passes(get("/x")).0.expect(200);
    world.passes(get("/api/health")).0.expect(200);
    world.passes(get("/api/7/open")).0.expect(200);
    world.passes(get("/api/health/open")).0.expect(200);
    world.passes(get("/api/7").bearer(&editor.access)).0.expect(200);
    world.refuses(get("/api/7/closed").bearer(&editor.access), 403, "forbidden");
    world.refuses(get("/api/health/closed").bearer(&editor.access), 403, "forbidden");
    world.refuses(get("/api").bearer(&editor.access), 403, "forbidden");
}

#[test]
fn hosts_pick_exact_then_the_longest_wildcard_then_none() {
    let world = World::with(|c| {
        c.no_routes()
            .route("path = \"/**\"\naccess = \"authenticated\"")
            .route("path = \"/**\"\nhost = \"open.example.com\"\naccess = \"public\"")
            .route("path = \"/**\"\nhost = \"*.example.com\"\nroles = [\"editor\"]")
            .route("path = \"/**\"\nhost = \"*.admin.example.com\"\nroles = [\"admin\"]")
            .route("path = \"/only\"\nhost = \"part.example.com\"\naccess = \"public\"")
    });
    let (user, editor) = (world.user("u"), world.user_with("e", &["editor"]));
    for host in [
        "open.example.com",
        "OPEN.Example.COM",
        "open.example.com:8080",
        "open.example.com.",
        "open.example.com.:80",
    ] {
        world.passes(get("/x").host(host)).0.expect(200);
    }
    for host in ["a.example.com", "a.b.example.com"] {
        world.refuses(get("/x").host(host).bearer(&user.access), 403, "forbidden");
        world.passes(get("/x").host(host).bearer(&editor.access)).0.expect(200);
    }
    for host in ["x.admin.example.com", "x.y.admin.example.com"] {
        world.refuses(get("/x").host(host).bearer(&editor.access), 403, "forbidden");
    }
    for host in [
        "example.com",
        "other.test",
        "open.example.com.evil.test",
        "xopen.example.org",
        "127.0.0.1",
        "[::1]:80",
    ] {
        world.refuses(get("/x").host(host), 401, "missing_token");
        world.passes(get("/x").host(host).bearer(&user.access)).0.expect(200);
    }
    // Where the host's own table has no pattern, the less specific ones are asked.
    world.passes(get("/only").host("part.example.com")).0.expect(200);
    world.refuses(get("/x").host("part.example.com").bearer(&user.access), 403, "forbidden");
}

#[test]
fn a_forwarded_host_does_not_pick_a_route() {
    let world = World::with(|c| {
        c.no_routes()
            .route("path = \"/**\"")
            .route("path = \"/**\"\nhost = \"open.example.com\"\naccess = \"public\"")
    });
    world.refuses(get("/x").header("X-Forwarded-Host", "open.example.com"), 401, "missing_token");
    world.refuses(get("/x").header("Forwarded", "host=open.example.com"), 401, "missing_token");
}

#[test]
fn several_upstreams_get_what_is_theirs() {
    let (one, two) = (Upstream::echo(), Upstream::echo());
    let (a, b) = (one.port(), two.port());
    let world = World::before(one, |c| {
        c.no_routes()
            .upstream("one", a)
            .upstream_with("two", b, "host = \"upstream\"")
            .route("path = \"/one/**\"\naccess = \"public\"\nupstream = \"one\"")
            .route("path = \"/two/**\"\naccess = \"public\"\nupstream = \"two\"")
    });
    let (_, seen) = world.passes(get("/one/x"));
    assert_eq!(seen.header("host"), Some("app.test"), "host = preserve is the default");
    assert_eq!(two.count(), 0);
    world.ask(get("/two/x")).expect(200);
    assert_eq!(two.wait_for(1).header("host"), Some(format!("127.0.0.1:{b}").as_str()));
    assert_eq!(world.upstream.count(), 1);
}

#[test]
fn a_stripped_prefix_is_told_to_the_app() {
    let world = World::with(|c| {
        c.no_routes()
            .route("path = \"/api/**\"\naccess = \"public\"\nstrip_prefix = \"/api\"")
            .route("path = \"/**\"\naccess = \"public\"")
    });
    for (asked, forwarded) in [
        ("/api/x", "/x"),
        ("/api/x/?q=1", "/x/?q=1"),
        ("/api", "/"),
        ("/api/", "/"),
        ("/api?q=1", "/?q=1"),
        ("/api/api/x", "/api/x"),
        ("/API/x", "/x"),
        ("/%61pi/x", "/x"),
    ] {
        let (_, seen) = world.passes(get(asked).header("X-Forwarded-Prefix", "/evil"));
        assert_eq!(seen.target, forwarded, "{asked}");
        assert_eq!(seen.header("x-forwarded-prefix"), Some("/api"), "{asked}");
    }
    let (_, seen) = world.passes(get("/other").header("X-Forwarded-Prefix", "/evil"));
    assert_eq!(seen.header("x-forwarded-prefix"), None);
}

#[test]
fn letters_match_in_either_case_unless_told_otherwise() {
    let world = World::new();
    let user = world.user("u");
    world.refuses(get("/ADMIN/x").bearer(&user.access), 403, "forbidden");
    world.refuses(get("/Admin").bearer(&user.access), 403, "forbidden");
    assert_eq!(
        world.passes(get("/Public/X")).1.target,
        "/Public/X",
        "what is forwarded keeps the client's letters"
    );

    let world = World::with(|c| c.set("server", "path_case", "\"sensitive\""));
    let user = world.user("u");
    world.passes(get("/ADMIN/x").bearer(&user.access)).0.expect(200);
    world.refuses(get("/PUBLIC/x"), 401, "missing_token");
}

#[test]
fn options_star_and_max_forwards_zero_are_answered_here() {
    let world = World::new();
    let before = (world.upstream.count(), world.upstream.opened());
    let answer = world.ask_raw("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(matches!(answer.status, 200 | 204), "{} {}", answer.status, answer.text());
    let answer = world.ask(Request::new("OPTIONS", "/public/x").header("Max-Forwards", "0"));
    assert!(matches!(answer.status, 200 | 204), "{} {}", answer.status, answer.text());
    world.saw_nothing_since(before, "OPTIONS");
    // For other methods the header means nothing.
    world.passes(get("/public/x").header("Max-Forwards", "0")).0.expect(200);
}

#[test]
fn an_upstreams_answer_arrives_as_it_was() {
    let bytes = "HTTP/1.1 418 I'm a teapot\r\nContent-Type: text/plain\r\nX-Two: a\r\nX-Two: b\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\nshort";
    let world = World::before(Upstream::answering(bytes), |c| c);
    let (answer, _) = world.passes(get("/public/x"));
    assert_eq!((answer.status, answer.text().as_str()), (418, "short"));
    assert_eq!(answer.all("x-two"), ["a", "b"]);
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.header("etag"), Some("\"x\""));
    assert_eq!(answer.header("content-length"), Some("5"));
}

#[test]
fn each_answer_of_ours_has_the_request_id_that_its_log_line_has() {
    let world = World::new();
    let answer = world.refuses(get("/x"), 401, "missing_token");
    let id = answer.member("request_id");
    assert_eq!(world.decision(&id)["status"], json!(401));
}
