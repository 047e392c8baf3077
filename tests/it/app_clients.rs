//! Clients of an app that has moved in: their paths, their names for things, and the words of the
//! libraries that they know.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Response;
use crate::support::jwt;
use crate::support::request::{Request, get, post};
use crate::support::world::World;
use crate::support::{PASSWORD, config::Config, eventually};

const PATHS: &str =
    r#"{ "/login" = "login", "/signup" = "register", "/logout" = "logout", "/account" = "me" }"#;

fn credentials(name: &str) -> Value {
    json!({"username": name, "password": PASSWORD})
}

/// An answer that came from the gateway itself.
#[track_caller]
fn own(world: &World, request: Request) -> Response {
    let before = (world.upstream.count(), world.upstream.opened());
    let what = format!("{} {}", request.method, request.target);
    let answer = world.ask(request);
    world.saw_nothing_since(before, &what);
    answer
}

fn with_paths() -> World {
    World::with(|config| config.set("auth", "paths", PATHS))
}

#[test]
fn endpoints_answer_on_the_apps_paths_and_under_the_prefix() {
    let world = with_paths();
    own(&world, post("/signup").json(credentials("alice"))).expect(201);
    own(&world, post("/auth/register").json(credentials("alice"))).expect(409);
    for path in ["/login", "/Login/", "/auth/login", "//login"] {
        let answer = own(&world, post(path).json(credentials("alice"))).expect(200);
        let token = answer.member("access_token");
        own(&world, get("/account").bearer(&token)).expect(200);
        own(&world, post("/logout").bearer(&token)).expect(200);
        world.refuses(get("/account").bearer(&token), 401, "revoked_token");
    }
    world.refuses(get("/account"), 401, "missing_token");
}

#[test]
fn forms_register_and_log_in_by_address() {
    let world =
        World::with(|config| config.set("auth", "paths", PATHS).set("auth", "login_name", "\"email\""));
    let form = [("name", "Alice Liddell"), ("email", "alice@example.com"), ("password", PASSWORD)];
    own(&world, post("/signup").form(&form)).expect(201);
    let login = [("email", "Alice@example.com"), ("password", PASSWORD), ("submit", "Log in")];
    let token = own(&world, post("/login").form(&login)).expect(200).member("access_token");
    let account = own(&world, get("/account").bearer(token)).expect(200).json();
    assert_eq!(account["name"], "Alice Liddell");
}

#[test]
fn the_other_methods_of_a_path_are_a_routes_or_nobodys() {
    let world = World::with(|config| {
        let page = "path = \"/login\"\nmethods = [\"GET\"]\naccess = \"public\"";
        config.set("auth", "paths", PATHS).route(page)
    });
    let (answer, seen) = world.passes(get("/login"));
    assert_eq!((answer.status, seen.target.as_str()), (200, "/login"));
    // The usual route `/**` does not get what the gateway's path leaves.
    let answer = world.refuses(get("/signup"), 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    world.refuses(Request::new("DELETE", "/login"), 405, "method_not_allowed");
    // Below it begins the app.
    world.register("alice").expect(201);
    let token = world.login("alice").access;
    world.passes(post("/login/help").bearer(&token));
}

#[test]
fn no_spelling_of_an_own_path_reaches_the_app() {
    let world = with_paths();
    for target in
        ["/login", "/LOGIN", "/login/", "//login", "/./login", "/x/../login", "/%6cogin", "/login?x=1"]
    {
        let answer = own(&world, post(target).json(credentials("nobody")));
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_credentials"), "{target}");
    }
    for target in ["/login%2f", "/login;x", "/public/..%2flogin"] {
        world.refuses(post(target).json(credentials("nobody")), 400, "bad_path");
    }
}

#[test]
fn a_login_answers_under_further_names() {
    let world = World::with(|config| {
        config.set(
            "auth",
            "answer",
            r#"{ token = "access_token", accessToken = "access_token", id = "id", user = "username", roles = "roles", mail = "email", ttl = "expires_in" }"#,
        )
    });
    world.register("alice").expect(201);
    let answer = world.ask(post("/auth/login").json(credentials("alice"))).expect(200).json();
    assert_eq!(answer["token"], answer["access_token"]);
    assert_eq!(answer["accessToken"], answer["access_token"]);
    assert_eq!(answer["id"], jwt::claims(answer["token"].as_str().unwrap())["sub"]);
    assert_eq!((&answer["user"], &answer["roles"]), (&json!("alice"), &json!(["user"])));
    assert_eq!((&answer["mail"], &answer["ttl"]), (&Value::Null, &answer["expires_in"]));
    let again = world.refresh(answer["refresh_token"].as_str().unwrap()).expect(200).json();
    assert_eq!(again["token"], again["access_token"]);
    assert_eq!(again["user"], "alice");
}

/// Four ways to be refused, and what each is told in the words of a library.
fn in_words(words: &str, accept: &str) -> (World, String) {
    let world = World::with(|config| {
        config.set("auth", "errors", &format!("{words:?}")).set("tokens", "accept", accept)
    });
    world.register("alice").expect(201);
    let token = world.login("alice").access;
    (world, token)
}

#[test]
fn bad_tokens_are_told_as_flask_jwt_extended_does() {
    let (world, token) = in_words("flask-jwt-extended", r#"["bearer"]"#);
    let forged = format!("{}A", &token[..token.len() - 2]);
    let msg = |request: Request| {
        let answer = own(&world, request);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("www-authenticate").is_some(), answer.status == 401);
        let body = answer.json();
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
        (answer.status, body["msg"].as_str().unwrap().to_owned())
    };
    let told = |status: u16, text: &str| (status, text.to_owned());
    let missing = told(401, "Missing Authorization Header");
    assert_eq!(msg(get("/x")), missing);
    assert_eq!(msg(get("/auth/me")), missing);
    assert_eq!(msg(post("/auth/logout")), missing);
    let other = "Missing 'Bearer' type in 'Authorization' header. Expected 'Authorization: Bearer <JWT>'";
    assert_eq!(msg(get("/x").header("Authorization", "Basic eA==")), told(401, other));
    let bad = "Bad Authorization header. Expected 'Authorization: Bearer <JWT>'";
    assert_eq!(msg(get("/x").header("Authorization", "Bearer")), told(422, bad));
    assert_eq!(msg(get("/x").header("Authorization", "Bearer a b")), told(422, bad));
    assert_eq!(msg(get("/x").bearer("rubbish")), told(422, "Not enough segments"));
    assert_eq!(msg(get("/x").bearer(&forged)).0, 422);
    world.ask(post("/auth/logout").bearer(&token)).expect(200);
    assert_eq!(msg(get("/x").bearer(&token)), told(401, "Token has been revoked"));

    // What the library has no words for stays a problem, and says `msg` too.
    let wrong = json!({"username": "alice", "password": "not the password"});
    let answer = world.refuses(post("/auth/login").json(wrong), 401, "invalid_credentials");
    assert_eq!(answer.member("msg"), answer.member("message"));
    let fresh = world.login("alice").access;
    assert_eq!(
        world.refuses(get("/admin/x").bearer(fresh), 403, "forbidden").member("msg"),
        "a role is missing"
    );
}

#[test]
fn bad_tokens_are_told_as_flask_jwt_does() {
    let (world, token) = in_words("flask-jwt", r#"["jwt"]"#);
    let told = |request: Request| {
        let answer = own(&world, request).expect(401);
        assert_eq!(answer.header("www-authenticate"), Some(r#"JWT realm="Login Required""#));
        let body = answer.json();
        assert_eq!(body["status_code"], 401);
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(3), "{body}");
        (answer.member("error"), answer.member("description"))
    };
    let pair = |error: &str, description: &str| (error.to_owned(), description.to_owned());
    let with = |value: &str| get("/x").header("Authorization", value);
    assert_eq!(told(get("/x")), pair("Authorization Required", "Request does not contain an access token"));
    assert_eq!(told(with("Bearer x")), pair("Invalid JWT header", "Unsupported authorization type"));
    assert_eq!(told(with("JWT")), pair("Invalid JWT header", "Token missing"));
    assert_eq!(told(with("JWT a b")), pair("Invalid JWT header", "Token contains spaces"));
    assert_eq!(told(with("JWT rubbish")), pair("Invalid token", "Not enough segments"));
    let wrong = json!({"username": "alice", "password": "not the password"});
    let no_name = json!({"password": PASSWORD});
    for body in [wrong, no_name] {
        assert_eq!(told(post("/auth").json(body)), pair("Bad Request", "Invalid credentials"));
    }
    world.passes(with(&format!("JWT {token}")));
    let answer = world.refuses(post("/auth/register").json(credentials("alice")), 409, "user_exists");
    assert_eq!(
        (answer.member("error"), answer.member("description")),
        pair("Conflict", "User already exists!")
    );
}

#[test]
fn explain_and_serve_agree_on_the_status_of_a_bad_token() {
    let (world, token) = in_words("flask-jwt-extended", r#"["bearer"]"#);
    let forged = format!("{token}.x");
    let status = |token: &str| world.cli(&["explain", "GET", "/x", "--token", token, "--json"]).json();
    assert_eq!(status(&forged)["status"], world.ask(get("/x").bearer(&forged)).status);
    assert_eq!(world.ask(get("/x").bearer(&forged)).status, 422);
}

#[test]
fn a_path_can_come_and_go_with_a_reload_and_a_clash_changes_nothing() {
    let world = with_paths();
    world.register("alice").expect(201);
    let config = |paths: &str, route: &str| {
        let config = Config::new().upstream("app", world.upstream.port()).set("auth", "paths", paths);
        if route.is_empty() { config } else { config.route(route) }.text()
    };
    let clash = config(PATHS, "path = \"/login\"\naccess = \"public\"");
    let moved = config(r#"{ "/signin" = "login" }"#, "");
    world.gateway.configure(&clash);
    let ended = world.cli(&["check"]).exits(1);
    assert!(
        ended.said().contains("the route \"/login\" is the gateway's own for these methods"),
        "{}",
        ended.said()
    );
    own(&world, post("/login").json(credentials("alice"))).expect(200);
    world.gateway.configure(&moved);
    world.gateway.signal(Signal::HUP);
    let reloaded = || (world.ask(post("/signin").json(credentials("alice"))).status == 200).then_some(());
    eventually("the new path answers", reloaded);
    world.refuses(post("/login").json(credentials("alice")), 401, "missing_token");
}
