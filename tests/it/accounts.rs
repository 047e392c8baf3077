//! Registering, logging in, and one's own account: what is accepted, in which forms, and that a refusal
//! stores nothing.

use std::thread;

use serde_json::json;

use crate::support::PASSWORD;
use crate::support::gateway::{Gateway, Tokens};
use crate::support::request::{Request, get, post};
use crate::support::world::World;

fn registration(name: &str) -> serde_json::Value {
    json!({"username": name, "password": PASSWORD})
}

/// Nobody of this name: the name can still be registered.
#[track_caller]
fn is_free(gateway: &Gateway, name: &str) {
    gateway.register(name).expect(201);
}

#[test]
fn registering_answers_201_with_the_account_and_no_secret() {
    let world = World::new();

    let answer = world.ask(post("/auth/register").json(json!({
        "username": "Alice", "password": PASSWORD, "email": "Alice@example.com", "name": "Alice Liddell",
    })));

    let answer = answer.expect(201);
    let json = answer.json();
    assert_eq!(json["username"], "alice", "the canonical name");
    assert_eq!(json["email"].as_str().unwrap().to_lowercase(), "alice@example.com");
    assert_eq!(json["email_verified"], false);
    assert_eq!(json["name"], "Alice Liddell");
    assert_eq!(json["roles"], json!(["user"]));
    assert_eq!(json["message"], "User registered successfully!");
    assert_eq!(json["id"].as_str().unwrap().len(), 36, "a UUID");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(!answer.text().contains("argon2") && !answer.text().contains(PASSWORD));
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn signup_is_register_and_the_prefix_itself_is_login() {
    let world = World::new();
    world.ask(post("/auth/signup").json(registration("alice"))).expect(201);
    for path in ["/auth/login", "/auth", "/auth/"] {
        Tokens::of(world.ask(post(path).json(registration("alice"))));
    }
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn json_forms_and_multipart_all_register_and_log_in() {
    let world = World::new();
    let members = |name| [("username", name), ("password", PASSWORD)];
    world.ask(post("/auth/register").form(&members("form"))).expect(201);
    world.ask(post("/auth/register").multipart(&members("parts"))).expect(201);
    let json = registration("json").to_string();
    world.ask(post("/auth/register").body("application/json; charset=utf-8", json)).expect(201);

    for name in ["form", "parts", "json"] {
        Tokens::of(world.ask(post("/auth/login").form(&members(name))));
        Tokens::of(world.ask(post("/auth/login").multipart(&members(name))));
        Tokens::of(world.ask(post("/auth/login").json(registration(name))));
    }
}

#[test]
fn an_unknown_member_is_ignored_in_forms_and_refused_in_json() {
    let world = World::new();
    let form = [("username", "carol"), ("password", PASSWORD), ("confirm_password", PASSWORD)];
    world.ask(post("/auth/signup").form(&form)).expect(201);

    let mut body = registration("dave");
    body["roles"] = json!(["admin"]);
    let answer = world.refuses(post("/auth/register").json(body), 422, "invalid_input");
    assert_eq!(answer.json()["errors"][0]["field"], "roles");
    is_free(&world, "dave");

    // Login, refresh and logout are sent whole form states by clients.
    let mut body = registration("carol");
    body["remember"] = json!(true);
    Tokens::of(world.ask(post("/auth/login").json(body)));
}

#[test]
fn a_form_cannot_grant_roles() {
    let world = World::new();
    let form = [("username", "mallory"), ("password", PASSWORD), ("roles", "admin"), ("sub", "x")];
    let answer = world.ask(post("/auth/register").form(&form)).expect(201);
    assert_eq!(answer.json()["roles"], json!(["user"]));
    let tokens = world.login("mallory");
    world.refuses(get("/admin/x").bearer(&tokens.access), 403, "forbidden");
}

#[test]
fn a_name_is_taken_in_every_spelling_and_reserved_names_look_taken() {
    let world = World::new();
    world.register("alice").expect(201);
    for name in ["alice", "ALICE", "Alice", "admin", "ROOT", "anonymous", "system"] {
        let answer = world.refuses(post("/auth/register").json(registration(name)), 409, "user_exists");
        assert_eq!(answer.member("message"), "User already exists!", "{name}");
    }
}

#[test]
fn an_address_belongs_to_one_account() {
    let world = World::new();
    let with = |name: &str, email: &str| {
        post("/auth/register").json(json!({"username": name, "password": PASSWORD, "email": email}))
    };
    world.ask(with("alice", "a@example.com")).expect(201);
    world.refuses(with("bob", "a@example.com"), 409, "email_taken");
    world.refuses(with("bob", "A@EXAMPLE.COM"), 409, "email_taken");
    is_free(&world, "bob");
}

#[test]
fn a_bad_member_is_422_with_its_name_and_stores_nothing() {
    let world = World::new();
    let long = "a".repeat(65);
    let huge = "p".repeat(257);
    for (member, value) in [
        ("password", json!("short")),
        ("password", json!("")),
        ("password", json!(huge)),
        ("password", json!(12_345_678)),
        ("password", json!(null)),
        ("password", json!(["correct horse battery"])),
        ("email", json!("not an address")),
        ("email", json!("a@b\r\nX-Auth-Roles: admin")),
        ("email", json!(7)),
        ("name", json!({"a": 1})),
    ] {
        let mut body = registration("bob");
        body[member] = value.clone();
        let answer = world.refuses(post("/auth/register").json(body), 422, "invalid_input");
        assert_eq!(answer.json()["errors"][0]["field"], member, "{value}: {}", answer.text());
        assert!(answer.json()["errors"][0]["code"].is_string());
        assert!(answer.json()["errors"][0]["message"].is_string());
    }
    is_free(&world, "bob");

    for name in [
        json!(""),
        json!(long),
        json!("a b"),
        json!("a@b"),
        json!("a/b"),
        json!("é"),
        json!("\u{212a}im"),
        json!("a\u{0}b"),
        json!("a\r\nb"),
        json!(7),
        json!(null),
        json!("ａｌｉｃｅ"),
        json!(" alice"),
        json!("al\u{200b}ice"),
    ] {
        let body = json!({"username": name, "password": PASSWORD});
        let answer = world.refuses(post("/auth/register").json(body), 422, "invalid_input");
        assert_eq!(answer.json()["errors"][0]["field"], "username", "{name}");
    }
}

#[test]
fn every_wrong_member_is_named_at_once() {
    let world = World::new();
    let body = json!({"password": "x", "email": "nope"});
    let answer = world.refuses(post("/auth/register").json(body), 422, "invalid_input");
    let json = answer.json();
    let fields: Vec<&str> =
        json["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    for field in ["username", "password", "email"] {
        assert!(fields.contains(&field), "{field} is not in {fields:?}");
    }
}

#[test]
fn a_body_that_is_not_an_object_is_400_on_every_endpoint() {
    let world = World::new();
    let tokens = world.user("alice");
    let pairs = format!(r#"{{"username":"bob","username":"eve","password":"{PASSWORD}"}}"#);
    let deep = "[".repeat(5000);
    let bodies: &[&[u8]] = &[
        b"",
        b" ",
        b"{",
        b"{bad",
        b"[]",
        b"null",
        b"true",
        b"7",
        b"\"alice\"",
        b"{\"username\":\"bob\"}x",
        b"{'username':'bob'}",
        b"{\"username\":\"\xff\"}",
        b"\xef\xbb\xbf{}x",
        b"{\"username\":\"\\ud800\"}",
        deep.as_bytes(),
        pairs.as_bytes(),
    ];
    for path in ["/auth/register", "/auth/signup", "/auth/login", "/auth", "/auth/password"] {
        for body in bodies {
            if body.is_empty() && path != "/auth/register" {
                continue;
            }
            let request = post(path).bearer(&tokens.access).body("application/json", body);
            // A token where none is asked for takes nothing away: these are the public endpoints.
            let answer = world.ask(request);
            assert!(
                answer.status == 400 && answer.code() == "malformed_json"
                    || body.is_empty() && answer.status == 422,
                "{path} {:?}: {} {}",
                body.escape_ascii().to_string(),
                answer.status,
                answer.text()
            );
        }
    }
    is_free(&world, "bob");
    is_free(&world, "eve");
}

#[test]
fn other_media_types_are_415_and_large_bodies_413() {
    let world = World::new();
    let body = registration("bob").to_string();
    for media_type in [
        "text/plain",
        "application/xml",
        "application/octet-stream",
        "image/png",
        "json",
        "application/jsonp",
    ] {
        world.refuses(post("/auth/register").body(media_type, &body), 415, "unsupported_media_type");
    }
    let large = format!(r#"{{"username":"bob","password":"{PASSWORD}","name":"{}"}}"#, "n".repeat(200_000));
    world.refuses(post("/auth/register").body("application/json", &large), 413, "body_too_large");
    // The same without a length that tells it in advance.
    let chunked = format!(
        "POST /auth/register HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    world.refuses_raw(chunked, 413, "body_too_large");
    is_free(&world, "bob");
}

#[test]
fn a_file_in_a_multipart_form_is_refused() {
    let world = World::new();
    let body = format!(
        "--b\r\nContent-Disposition: form-data; name=\"username\"\r\n\r\nbob\r\n--b\r\nContent-Disposition: form-data; name=\"password\"; filename=\"p.bin\"\r\nContent-Type: application/octet-stream\r\n\r\n{PASSWORD}\r\n--b--\r\n"
    );
    let answer = world.ask(post("/auth/register").body("multipart/form-data; boundary=b", body));
    assert!((400..=422).contains(&answer.status), "{} {}", answer.status, answer.text());
    is_free(&world, "bob");
}

#[test]
fn closed_registration_is_403_and_the_default() {
    let world = World::with(|c| c.unset("auth", "registration"));
    world.refuses(post("/auth/register").json(registration("bob")), 403, "registration_closed");
    world.refuses(
        post("/auth/signup").form(&[("username", "bob"), ("password", PASSWORD)]),
        403,
        "registration_closed",
    );
    world.refuses(post("/auth/login").json(registration("bob")), 401, "invalid_credentials");
}

#[test]
fn login_is_by_name_in_any_case_or_by_address() {
    let world = World::new();
    let email = "alice@example.com";
    world
        .ask(post("/auth/register").json(json!({"username": "alice", "password": PASSWORD, "email": email})))
        .expect(201);
    for (member, value) in [
        ("username", "alice"),
        ("username", "ALICE"),
        ("email", email),
        ("email", "ALICE@example.com"),
        ("username", email),
    ] {
        let tokens =
            Tokens::of(world.ask(post("/auth/login").json(json!({member: value, "password": PASSWORD}))));
        assert_eq!(tokens.claim("username"), "alice");
    }
}

#[test]
fn login_answers_with_a_token_pair() {
    let world = World::new();
    world.register("alice").expect(201);
    let answer = world.try_login("alice", PASSWORD).expect(200);
    let json = answer.json();
    assert_eq!(json["token_type"], "Bearer");
    assert_eq!(json["expires_in"], 900);
    assert_eq!(json["refresh_expires_in"], 30 * 24 * 3600);
    assert!(json["refresh_token"].as_str().unwrap().starts_with("gpr_"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[test]
fn every_wrong_login_gets_the_same_answer() {
    let world = World::new();
    world.user("alice");
    world.user("disabled");
    world.cli(&["user", "disable", "disabled"]).succeeds();
    let long = "x".repeat(5000);
    let mut answers = Vec::new();
    for (name, password) in [
        ("alice", "wrong password 1"),
        ("nobody", PASSWORD),
        ("disabled", "wrong password 1"),
        ("", PASSWORD),
        ("alice", ""),
        ("alice", "x"),
        (&long, PASSWORD),
        ("alice", &long),
        ("a b", PASSWORD),
        ("é", PASSWORD),
        ("nobody@example.com", PASSWORD),
        ("alice\u{0}", PASSWORD),
        ("\u{212a}", PASSWORD),
        ("admin", PASSWORD),
    ] {
        let request = post("/auth/login").json(json!({"username": name, "password": password}));
        let answer = world.refuses(request, 401, "invalid_credentials");
        assert_eq!(answer.member("message"), "Invalid credentials!");
        let mut json = answer.json();
        json.as_object_mut().unwrap().remove("request_id");
        answers.push((json, answer.header("www-authenticate").map(str::to_owned)));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:#?}");
}

#[test]
fn login_without_a_member_or_with_a_wrong_type_is_422() {
    let world = World::new();
    for body in [
        json!({}),
        json!({"username": "alice"}),
        json!({"password": "x"}),
        json!({"username": 1, "password": "x"}),
        json!({"username": "alice", "password": null}),
        json!({"username": ["alice"], "password": "x"}),
    ] {
        world.refuses(post("/auth/login").json(body), 422, "invalid_input");
    }
}

#[test]
fn a_password_is_exactly_what_was_sent() {
    let world = World::new();
    let password =
        "  pässwörd \u{0} with NUL, spaces and 72 bytes and more: 0123456789012345678901234567890123456789  ";
    world.ask(post("/auth/register").json(json!({"username": "alice", "password": password}))).expect(201);
    Tokens::of(world.try_login("alice", password));
    for near in [
        password.trim(),
        &password[..72],
        &password[..password.len() - 1],
        &password.replace('\u{0}', ""),
        &password.to_uppercase(),
    ] {
        world.try_login("alice", near).is_problem(401, "invalid_credentials");
    }
}

#[test]
fn eight_registrations_of_one_name_make_one_account() {
    let world = World::new();
    let statuses: Vec<(u16, String)> = thread::scope(|scope| {
        let attempts: Vec<_> = (0..8)
            .map(|i| {
                let world = &world;
                scope.spawn(move || {
                    let password = format!("{PASSWORD} {i}");
                    let body = json!({"username": "alice", "password": password});
                    (world.ask(post("/auth/register").json(body)).status, password)
                })
            })
            .collect();
        attempts.into_iter().map(|a| a.join().unwrap()).collect()
    });
    let made: Vec<_> = statuses.iter().filter(|(s, _)| *s == 201).collect();
    assert_eq!(made.len(), 1, "{statuses:?}");
    for (status, password) in &statuses {
        let login = world.try_login("alice", password).status;
        assert_eq!(login, if *status == 201 { 200 } else { 401 });
    }
}

#[test]
fn me_shows_and_changes_the_account() {
    let world = World::new();
    let tokens = world.user("alice");
    let me = world.me(&tokens.access).expect(200).json();
    assert_eq!(
        (me["username"].as_str(), me["id"].as_str()),
        (Some("alice"), Some(tokens.text("sub").as_str()))
    );
    let patch = |body| Request::new("PATCH", "/auth/me").bearer(&tokens.access).json(body);

    assert_eq!(world.ask(patch(json!({"name": "Alice"}))).expect(200).json()["name"], "Alice");
    // An address needs the password.
    let answer = world.ask(patch(json!({"email": "a@example.com"})));
    assert!(matches!(answer.status, 401 | 403 | 422), "{} {}", answer.status, answer.text());
    world
        .ask(patch(json!({"email": "a@example.com", "current_password": "wrong password"})))
        .is_problem(401, "invalid_credentials");
    assert!(world.me(&tokens.access).json()["email"].is_null());
    let me =
        world.ask(patch(json!({"email": "a@example.com", "current_password": PASSWORD}))).expect(200).json();
    assert_eq!((me["email"].as_str(), me["email_verified"].as_bool()), (Some("a@example.com"), Some(false)));

    world.refuses(patch(json!({"roles": ["admin"]})), 422, "invalid_input");
    world.refuses(patch(json!({"username": "root"})), 422, "invalid_input");
    world.refuses(patch(json!({"name": 7})), 422, "invalid_input");
    assert_eq!(world.me(&tokens.access).json()["roles"], json!(["user"]));
}

#[test]
fn a_changed_name_shows_in_the_next_token() {
    let world = World::new();
    let tokens = world.user("alice");
    world
        .ask(Request::new("PATCH", "/auth/me").bearer(&tokens.access).json(json!({"name": "Alice"})))
        .expect(200);
    let (_, seen) = world.passes(get("/x").bearer(&tokens.access));
    assert_eq!(seen.header("x-auth-name"), None, "identity headers come from the token alone");
    let next = Tokens::of(world.refresh(&tokens.refresh));
    let (_, seen) = world.passes(get("/x").bearer(&next.access));
    assert_eq!(seen.header("x-auth-name"), Some("Alice"));
}

#[test]
fn a_deleted_account_is_gone_at_once_and_its_name_stays_taken() {
    let world = World::new();
    let tokens = world.user("alice");
    let delete = |body| Request::new("DELETE", "/auth/me").bearer(&tokens.access).json(body);
    world.refuses(delete(json!({"password": "wrong password"})), 401, "invalid_credentials");
    world.me(&tokens.access).expect(200);

    let answer = world.ask(delete(json!({"password": PASSWORD}))).expect(204);
    assert!(answer.body.is_empty());
    world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
    world.refresh(&tokens.refresh).is_problem(401, "invalid_grant");
    world.try_login("alice", PASSWORD).is_problem(401, "invalid_credentials");
    world.register("alice").is_problem(409, "user_exists");
}

#[test]
fn protected_greets_who_is_logged_in() {
    let world = World::new();
    let tokens = world.user("alice");
    let answer = world.ask(get("/auth/protected").bearer(&tokens.access)).expect(200);
    assert_eq!(answer.member("message"), "Hello, alice!");
    world.refuses(get("/auth/protected"), 401, "missing_token");
}

#[test]
fn endpoints_for_callers_refuse_everybody_else() {
    let world = World::new();
    for (method, path) in [
        ("GET", "/auth/me"),
        ("PATCH", "/auth/me"),
        ("DELETE", "/auth/me"),
        ("GET", "/auth/protected"),
        ("POST", "/auth/password"),
        ("GET", "/auth/sessions"),
        ("POST", "/auth/logout-all"),
        ("DELETE", "/auth/sessions/3c2bd1de-0000-4000-8000-000000000000"),
    ] {
        world.refuses(Request::new(method, path), 401, "missing_token");
        world.refuses(Request::new(method, path).bearer("rubbish"), 401, "invalid_token");
    }
}

#[test]
fn an_unknown_path_under_the_prefix_is_404_and_a_wrong_method_405() {
    let world = World::new();
    for path in ["/auth/nothing", "/auth/login/x", "/auth/me/x", "/auth/sessions/a/b", "/auth/token/rotate"] {
        world.refuses(get(path), 404, "not_found");
        world.refuses(post(path), 404, "not_found");
    }
    for (method, path, allowed) in [
        ("GET", "/auth/login", "POST"),
        ("GET", "/auth/register", "POST"),
        ("PUT", "/auth/me", "PATCH"),
        ("POST", "/auth/jwks.json", "GET"),
        ("POST", "/.well-known/jwks.json", "GET"),
        ("DELETE", "/auth/login", "POST"),
        ("get", "/auth/me", "GET"),
        ("OPTIONS", "/auth/login", "POST"),
        ("PURGE", "/auth/me", "GET"),
    ] {
        let answer = world.refuses(Request::new(method, path), 405, "method_not_allowed");
        assert!(answer.header("allow").unwrap().contains(allowed), "{method} {path}: {:?}", answer.headers);
    }
}

#[test]
fn the_prefix_can_move() {
    let world = World::with(|c| c.set("auth", "prefix", "\"/id/api\""));
    world.ask(post("/id/api/register").json(registration("alice"))).expect(201);
    let tokens = Tokens::of(world.ask(post("/id/api").json(registration("alice"))));
    world.ask(get("/id/api/me").bearer(&tokens.access)).expect(200);
    world.ask(get("/.well-known/jwks.json")).expect(200);
    // The old place is the app's.
    world.refuses(post("/auth/login").json(registration("alice")), 401, "missing_token");
    world.passes(get("/auth/login").bearer(&tokens.access));
}

#[test]
fn with_login_by_address_no_username_is_asked_for() {
    let world = World::with(|c| c.set("auth", "login_name", "\"email\""));
    let body = json!({"email": "a@example.com", "password": PASSWORD});
    let account = world.ask(post("/auth/register").json(body.clone())).expect(201).json();
    assert_eq!(account["username"], account["id"], "until the address is proved, the username is the id");
    let tokens = Tokens::of(world.ask(post("/auth/login").json(body)));
    let (_, seen) = world.passes(get("/x").bearer(&tokens.access));
    assert_eq!(seen.header("x-auth-user"), account["id"].as_str());
    assert_eq!(seen.header("x-auth-email"), None);
    world.refuses(post("/auth/register").json(json!({"password": PASSWORD})), 422, "invalid_input");
}

#[test]
fn unicode_names_have_one_canonical_form() {
    let world = World::with(|c| c.set("auth", "usernames", "\"unicode\""));
    world.register("Jürgen").expect(201);
    // Composed, decomposed and full-width spellings are one name.
    for name in ["jürgen", "JÜRGEN", "ju\u{308}rgen"] {
        world.register(name).is_problem(409, "user_exists");
        world.login(name);
    }
    world.register("a@b").is_problem(422, "invalid_input");
    world.register("a b").is_problem(422, "invalid_input");
    let tokens = world.login("jürgen");
    let (_, seen) = world.passes(get("/x").bearer(&tokens.access));
    assert_eq!(seen.header("x-auth-user"), Some("j%C3%BCrgen"), "not visible ASCII: percent-encoded");
}
