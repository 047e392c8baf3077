//! What the upstream is told about the caller, byte for byte, and that nobody else can say it.

use std::fmt::Write;

use crate::support::gateway::Tokens;
use crate::support::request::{Request, get};
use crate::support::upstream::{Recorded, Upstream};
use crate::support::world::World;
use crate::support::{PASSWORD, jwt};

const SECRET: &str = "a secret of more than thirty-two bytes, for the tests";

/// Every name of every preset.
const OWNED: &[&str] = &[
    "X-Auth-User",
    "X-Auth-Id",
    "X-Auth-Email",
    "X-Auth-Name",
    "X-Auth-Roles",
    "X-Auth-Session",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Groups",
    "Remote-User",
    "Remote-Email",
    "Remote-Name",
    "Remote-Groups",
];

/// Spellings of a name that some app folds into it.
fn spellings(name: &str) -> Vec<String> {
    let under = name.replace('-', "_");
    vec![
        name.to_owned(),
        name.to_lowercase(),
        name.to_uppercase(),
        under.clone(),
        under.to_lowercase(),
        name.replace('-', "."),
        name.replace('-', "--"),
        name.replace('-', ""),
        name.replacen('-', "_", 1),
        name.replace('-', "-_"),
        format!("{name}_"),
        format!("_{name}"),
        format!("{name}-"),
        name.replace('-', "~"),
        name.replace('-', "!"),
        name.replace('-', "'"),
        format!("{name}."),
        name.replace('-', "+"),
        name.replace('-', "|"),
    ]
}

/// An account with everything set, its address proved.
fn alice(world: &World) -> Tokens {
    let body = serde_json::json!({"username": "Alice", "password": PASSWORD, "email": "alice@example.com", "name": "Älice 100%"});
    world.ask(crate::support::request::post("/auth/register").json(body)).expect(201);
    world
        .cli(&[
            "user",
            "set",
            "alice",
            "--email",
            "alice@example.com",
            "--role",
            "admin",
            "--role",
            "auditor",
        ])
        .succeeds();
    world.login("alice")
}

/// The lines whose name, folded, is an identity header's.
fn identity_lines(seen: &Recorded) -> Vec<String> {
    let fold = |n: &str| n.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let owned: Vec<String> = OWNED.iter().map(|n| fold(n)).collect();
    let mut lines: Vec<String> = seen
        .headers
        .iter()
        .filter(|(n, _)| owned.contains(&fold(n)))
        .map(|(n, v)| format!("{}: {v}", n.to_lowercase()))
        .collect();
    lines.sort();
    lines
}

#[test]
fn each_preset_sends_exactly_its_headers() {
    for (preset, expected) in [
        (
            "gatepost",
            vec![
                "x-auth-email: alice@example.com",
                "x-auth-id: SUB",
                "x-auth-name: %C3%84lice%20100%25",
                "x-auth-roles: admin,auditor,editor,user",
                "x-auth-session: SID",
                "x-auth-user: alice",
            ],
        ),
        (
            "oauth2-proxy",
            vec![
                "x-forwarded-email: alice@example.com",
                "x-forwarded-groups: admin,auditor,editor,user",
                "x-forwarded-preferred-username: alice",
                "x-forwarded-user: SUB-OR-NAME",
            ],
        ),
        (
            "remote-user",
            vec![
                "remote-email: alice@example.com",
                "remote-groups: admin,auditor,editor,user",
                "remote-name: %C3%84lice%20100%25",
                "remote-user: alice",
            ],
        ),
        ("none", vec![]),
    ] {
        let world = World::with(|c| c.set("identity", "preset", &format!("\"{preset}\"")));
        let tokens = alice(&world);
        let (_, seen) = world.passes(get("/x").bearer(&tokens.access));
        let lines = identity_lines(&seen);
        let expected: Vec<String> = expected
            .iter()
            .map(|l| {
                l.replace("SUB-OR-NAME", "")
                    .replace("SUB", &tokens.text("sub"))
                    .replace("SID", &tokens.text("sid"))
            })
            .collect();
        assert_eq!(lines.len(), expected.len(), "{preset}: {lines:#?}");
        for (line, expected) in lines.iter().zip(&expected) {
            assert!(
                line == expected || expected.ends_with(": ") && line.starts_with(expected.as_str()),
                "{preset}: {line:?} is not {expected:?}"
            );
        }
    }
}

#[test]
fn single_headers_are_renamed_over_the_preset() {
    let world = World::with(|c| {
        c.set("identity", "headers", "{ user = \"X-WEBAUTH-USER\", roles = \"X-Groups\" }").set(
            "identity",
            "roles_separator",
            "\";\"",
        )
    });
    let tokens = alice(&world);
    let spoof = get("/x")
        .bearer(&tokens.access)
        .header("x_webauth_user", "evil")
        .header("X-GROUPS", "evil")
        .header("X-Auth-User", "evil");
    let (_, seen) = world.passes(spoof);
    assert_eq!(seen.header("x-webauth-user"), Some("alice"));
    assert_eq!(seen.header("x-groups"), Some("admin;auditor;editor;user"));
    assert_eq!(seen.header("x-auth-id"), Some(tokens.text("sub").as_str()));
    assert_eq!(seen.header("x-auth-user"), None);
    assert!(!seen.text().contains("evil"), "{}", seen.text());
    let (_, seen) =
        world.passes(get("/public/x").header("X-WEBAUTH-USER", "evil").header("x.groups", "evil"));
    assert!(!seen.text().contains("evil"), "{}", seen.text());
}

#[test]
fn no_spelling_of_an_identity_header_gets_through_anywhere() {
    let world = World::new();
    let tokens = world.user("alice");
    for name in OWNED {
        let mut lines = String::new();
        for spelling in spellings(name) {
            let _ = write!(lines, "{spelling}: evil\r\n");
        }
        let _ = write!(lines, "{name}:\r\n{name}: evil, evil\r\n");
        for (path, credential) in [
            ("/x", format!("Authorization: Bearer {}\r\n", tokens.access)),
            ("/optional/x", String::new()),
            ("/public/x", String::new()),
            ("/public/x", format!("Authorization: Bearer {}\r\n", tokens.access)),
        ] {
            let (_, seen) =
                world.passes_raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}{credential}\r\n"));
            assert!(!seen.text().contains("evil"), "{name} on {path}: {}", seen.text());
            let expected = if path == "/x" { 4 } else { 0 };
            assert_eq!(identity_lines(&seen).len(), expected, "{name} on {path}: {}", seen.text());
        }
    }
    world.upstream.saw_only_proper_requests();
}

#[test]
fn connection_cannot_name_identity_away() {
    let world = World::new();
    let tokens = alice(&world);
    let named = [
        "X-Auth-User",
        "x-auth-user, keep-alive",
        "X-Auth-User,X-Auth-Roles,X-Auth-Id",
        "close, X-Auth-User",
        "x-auth-user\r\nConnection: x-auth-roles",
        "X_Auth_User",
        " , x-auth-user ,",
        "host, x-auth-user, x-forwarded-for",
    ];
    for value in named {
        let (_, seen) = world.passes_raw(format!(
            "GET /x HTTP/1.1\r\nHost: a\r\nConnection: {value}\r\nX-Auth-User: evil\r\nAuthorization: Bearer {}\r\n\r\n",
            tokens.access
        ));
        assert_eq!(identity_lines(&seen).len(), 6, "{value}: {}", seen.text());
        assert_eq!(seen.header("x-auth-user"), Some("alice"));
        assert_eq!(seen.all("x-forwarded-for").len(), 1, "{value}");
        assert!(!seen.text().contains("evil"));
    }
}

#[test]
fn trailers_carry_no_identity() {
    let world = World::new();
    let tokens = world.user("alice");
    let bytes = format!(
        "POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Checksum, X-Auth-User, X_Auth_Roles\r\n\r\n3\r\nabc\r\n0\r\nX-Checksum: 1\r\nX-Auth-User: evil\r\nX_Auth_Roles: evil\r\nRemote.User: evil\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\nAuthorization: evil\r\nHost: evil\r\nX-Forwarded-For: evil\r\n\r\n",
        tokens.access
    );
    let before = world.upstream.count();
    world.ask_raw(bytes).expect(200);
    let seen = world.upstream.wait_until_complete(before);
    assert_eq!(seen.body, b"abc");
    assert!(!format!("{:?}", seen.trailers).contains("evil"), "{:?}", seen.trailers);
    assert!(
        !seen.text().contains("X_Auth_Roles")
            && !seen.all("trailer").concat().to_lowercase().contains("x-auth-user"),
        "{}",
        seen.text()
    );
    world.upstream.saw_only_proper_requests();
}

#[test]
fn answers_lose_identity_headers_too() {
    // Each path is answered with one name in all its spellings.
    let upstream = Upstream::scripted(|exchange| {
        let index: usize = exchange.request().target.rsplit('/').next().unwrap().parse().unwrap();
        let mut head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Kept: yes\r\n".to_owned();
        for spelling in spellings(OWNED[index]) {
            let _ = write!(head, "{spelling}: evil\r\n");
        }
        exchange.send(head + "\r\nok");
    });
    let world = World::before(upstream, |c| c);
    for index in 0..OWNED.len() {
        let (answer, _) = world.passes(get(&format!("/public/{index}")));
        assert_eq!((answer.status, answer.header("x-kept")), (200, Some("yes")), "{}", answer.text());
        assert!(!format!("{:?}", answer.headers).contains("evil"), "{:?}", answer.headers);
    }
}

#[test]
fn trailers_of_an_answer_lose_identity_headers() {
    let bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Auth-User\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Auth-User: evil\r\nremote_user: evil\r\n\r\n";
    let world = World::before(Upstream::answering(bytes), |c| c);
    let (answer, _) = world.passes(get("/public/x").header("TE", "trailers"));
    assert_eq!(answer.text(), "ok");
    assert!(
        !format!("{:?}{:?}", answer.headers, answer.trailers).to_lowercase().contains("evil"),
        "{answer:?}"
    );
    assert!(!answer.all("trailer").concat().to_lowercase().contains("x-auth-user"));
}

#[test]
fn an_absent_value_is_an_absent_header() {
    let world = World::new();
    let tokens = world.user("bob");
    let (_, seen) = world.passes(
        get("/x")
            .bearer(&tokens.access)
            .header("X-Auth-Email", "evil@example.com")
            .header("X-Auth-Name", "evil"),
    );
    assert_eq!(identity_lines(&seen).len(), 4, "{}", seen.text());
    assert!(seen.header("x-auth-email").is_none() && seen.header("x-auth-name").is_none());
}

#[test]
fn an_unproved_address_is_not_sent_unless_asked_for() {
    let register = |world: &World| {
        let body = serde_json::json!({"username": "bob", "password": PASSWORD, "email": "bob@example.com"});
        world.ask(crate::support::request::post("/auth/register").json(body)).expect(201);
        world.login("bob")
    };
    let world = World::new();
    let tokens = register(&world);
    assert_eq!(world.passes(get("/x").bearer(&tokens.access)).1.header("x-auth-email"), None);
    assert_eq!(tokens.claim("email_verified"), false);
    let world = World::with(|c| c.set("identity", "unverified_email", "\"send\""));
    let tokens = register(&world);
    assert_eq!(
        world.passes(get("/x").bearer(&tokens.access)).1.header("x-auth-email"),
        Some("bob@example.com")
    );
}

#[test]
fn the_token_is_kept_from_the_app_unless_asked_for() {
    let world = World::with(|c| c.route("path = \"/told/**\"\nforward_authorization = true"));
    let tokens = world.user("alice");
    for path in ["/x", "/optional/x", "/public/x"] {
        let (_, seen) = world.passes(get(path).bearer(&tokens.access));
        assert_eq!(seen.header("authorization"), None, "{path}");
        assert!(!seen.text().contains(&tokens.access), "{path}");
    }
    let (_, seen) = world.passes(get("/told/x").bearer(&tokens.access));
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", tokens.access).as_str()));

    let world = World::with(|c| {
        c.set("identity", "forward_authorization", "true")
            .route("path = \"/untold/**\"\nforward_authorization = false")
    });
    let tokens = world.user("alice");
    let (_, seen) = world.passes(get("/x").bearer(&tokens.access));
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", tokens.access).as_str()));
    assert_eq!(world.passes(get("/untold/x").bearer(&tokens.access)).1.header("authorization"), None);
}

#[test]
fn on_public_routes_the_apps_own_authorization_passes() {
    let world = World::new();
    for value in [
        "Basic YWxpY2U6c2VjcmV0",
        "Digest username=\"a\"",
        "Bearer opaque-token-of-the-app",
        "Token abc",
        "AWS4-HMAC-SHA256 Credential=x",
    ] {
        let (_, seen) = world.passes(get("/public/x").header("Authorization", value));
        assert_eq!(seen.header("authorization"), Some(value));
    }
}

#[test]
fn odd_values_are_percent_encoded_byte_for_byte() {
    let world = World::with(|c| c.hs256(SECRET));
    let token = world.user("alice").access;
    for (name, sent) in [
        ("Zoë", "Zo%C3%AB"),
        ("100%", "100%25"),
        ("a\tb", "a%09b"),
        ("a\r\nX-Auth-Roles: admin", "a%0D%0AX-Auth-Roles:%20admin"),
        ("\u{0}", "%00"),
        ("a,b;c", "a,b;c"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("%41", "%2541"),
        ("\u{7f}", "%7F"),
        ("a b", "a%20b"),
        (" x ", "%20x%20"),
        ("\"q\"", "\"q\""),
    ] {
        let mut claims = jwt::claims(&token);
        claims["name"] = name.into();
        let (_, seen) =
            world.passes(get("/x").bearer(jwt::hs256(SECRET.as_bytes(), &jwt::header(&token), &claims)));
        let line =
            seen.text().lines().find(|l| l.to_lowercase().starts_with("x-auth-name:")).unwrap().to_owned();
        let value = line.split_once(':').unwrap().1.trim();
        assert_eq!(value, sent, "{name:?}");
        assert!(value.bytes().all(|b| (0x21..0x7f).contains(&b)));
    }
    world.upstream.saw_only_proper_requests();
}

#[test]
fn identity_is_each_callers_own_on_one_connection() {
    let world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let mut client = world.connect();
    for _ in 0..3 {
        for (tokens, name) in [(&alice, Some("alice")), (&bob, Some("bob"))] {
            let before = world.upstream.count();
            client.send(get("/x").bearer(&tokens.access).bytes()).response().expect(200);
            assert_eq!(world.upstream.wait_for(before + 1).header("x-auth-user"), name);
        }
        let before = world.upstream.count();
        client.send(get("/optional/x").bytes()).response().expect(200);
        assert_eq!(world.upstream.wait_for(before + 1).header("x-auth-user"), None);
    }
    // HEAD and unknown methods carry it as well.
    for method in ["HEAD", "DELETE", "PROPFIND"] {
        assert_eq!(
            world.passes(Request::new(method, "/x").bearer(&alice.access)).1.header("x-auth-user"),
            Some("alice")
        );
    }
}
