//! Tokens that the app minted before it was behind the gateway: whose they are, until when, and everything
//! that must not pass for one. The upstream never sees a request that was refused.

use std::fs;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::reload::reload;
use crate::support::client::Response;
use crate::support::config::Config;
use crate::support::gateway::Gateway;
use crate::support::jwt;
use crate::support::request::{Request, get, post};
use crate::support::upstream::Upstream;
use crate::support::world::World;

/// The app's, as a tutorial has it.
const APP: &str = "super-secret";
const OURS: &str = "a secret of more than thirty-two bytes, for the tests";

const UNTIL: &str = "until = \"9999-01-01\"";

fn shared(more: &str) -> String {
    let until = if more.contains("until") { "" } else { UNTIL };
    format!("algorithm = \"HS256\"\nsecret = \"{APP}\"\n{until}\n{more}")
}

fn world() -> World {
    World::with(|c| c.legacy(&shared("")))
}

/// As most libraries write it.
fn mint(claims: &Value) -> String {
    undated(&dated(claims))
}

/// As the tutorials do, by hand.
fn undated(claims: &Value) -> String {
    jwt::hs256(APP.as_bytes(), &json!({"alg": "HS256", "typ": "JWT"}), claims)
}

/// With the moment at which it was made, unless it has one.
fn dated(claims: &Value) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().entry("iat").or_insert_with(|| jwt::now().into());
    claims
}

/// As Flask-JWT-Extended does.
fn minted_for(sub: &str) -> String {
    let now = jwt::now();
    mint(&json!({
        "fresh": false, "iat": now, "jti": "79a6bc2c-e2f5-4e4c-9d38-0b8c3b0e7d22", "type": "access",
        "sub": sub, "nbf": now, "exp": now + 3600,
    }))
}

/// Refused wherever a credential is looked at, on a route that asks for one, on one that may have one, and
/// on an endpoint of our own.
#[track_caller]
fn refuses(world: &World, token: &str, code: &str, what: &str) {
    let before = (world.upstream.count(), world.upstream.opened());
    for path in ["/x", "/optional/x", "/auth/me"] {
        let answer = world.ask(get(path).bearer(token));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, code),
            "{what} on {path}: {}",
            answer.text()
        );
        answer.is_problem(401, code);
    }
    world.saw_nothing_since(before, what);
}

fn id_of(gateway: &Gateway, name: &str) -> String {
    let shown = gateway.cli(&["user", "show", name, "--json"]).succeeds();
    serde_json::from_str::<Value>(&shown.stdout).unwrap()["id"].as_str().unwrap().to_owned()
}

fn accounts(gateway: &Gateway) -> usize {
    let listed = gateway.cli(&["user", "list", "--json"]).succeeds();
    serde_json::from_str::<Value>(&listed.stdout).unwrap().as_array().unwrap().len()
}

fn counted(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("gatepost_legacy_tokens_total{{result=\"{result}\"}}")).unwrap()
}

#[test]
fn a_token_of_the_app_means_the_account_that_it_names() {
    let world = world();
    world.register("alice").expect(201);
    let id = id_of(&world, "alice");
    for token in [minted_for("alice"), minted_for(&id), mint(&json!({"sub": id, "exp": jwt::now() + 900}))] {
        let mut client = world.connect();
        for _ in 0..3 {
            let before = world.upstream.count();
            client.send(get("/x").bearer(&token).bytes()).response().expect(200);
            let seen = world.upstream.seen()[before].clone();
            assert_eq!(seen.header("x-auth-user"), Some("alice"));
            assert_eq!(seen.header("x-auth-id"), Some(id.as_str()));
            assert_eq!(seen.header("x-auth-roles"), Some("user"));
            assert_eq!(seen.header("authorization"), None, "as ours are not passed on");
            assert!(seen.header("x-auth-session").is_some());
        }
    }
    // The account is looked up once for a token and worker.
    assert!(counted(&world, "accepted") <= 6.0, "{}", counted(&world, "accepted"));
    assert_eq!(world.me(&minted_for("alice")).expect(200).member("username"), "alice");
    world.ask(get("/auth/protected").bearer(minted_for("alice"))).expect(200);
    // Roles are the account's, whatever the token says of them.
    let wishful = mint(&json!({"sub": id, "roles": ["admin"], "role": "admin", "is_admin": true}));
    world.refuses(get("/admin/x").bearer(wishful), 403, "forbidden");
    world.refuses(get("/u/somebody-else/x").bearer(minted_for("alice")), 403, "forbidden");
    world.passes(get(&format!("/u/{id}/x")).bearer(minted_for("alice"))).0.expect(200);
}

#[test]
fn who_has_no_account_gets_none() {
    let world = world();
    world.register("alice").expect(201);
    for nobody in ["bob", "17", "bob@example.com", "ALICE", "alice ", "550e8400-e29b-41d4-a716-446655440000"]
    {
        refuses(&world, &minted_for(nobody), "invalid_token", nobody);
    }
    refuses(&world, &mint(&json!({"sub": 17})), "invalid_token", "a number");
    assert_eq!(accounts(&world), 1);
    assert!(counted(&world, "no_account") > 0.0);
    // Nor is a name of digits anybody's whose id is gone.
    world.register("17").expect(201);
    refuses(&world, &minted_for("17"), "invalid_token", "an id");
    refuses(&world, &mint(&json!({"sub": 17})), "invalid_token", "a number");
}

/// A token that was put together by hand says who, and until when, and not since when.
#[test]
fn a_token_without_a_date_is_not_of_whoever_took_the_name() {
    let undated = |sub: &str| undated(&json!({"sub": sub, "exp": jwt::now() + 900}));
    let world = world();
    world.register("victim").expect(201);
    refuses(&world, &undated("victim"), "invalid_token", "registered here, perhaps after it");
    world.passes(get("/x").bearer(minted_for("victim"))).0.expect(200);
    // Whom the app knew before means itself, by name and by id.
    fs::write(
        world.home().join("users.csv"),
        "id,username,password\n7f3a,alice,correct horse battery\n8,bob,correct horse battery\n",
    )
    .unwrap();
    world.cli(&["user", "import", "users.csv", "--format", "csv"]).succeeds();
    for (sub, name) in [("alice", "alice"), ("7f3a", "alice"), ("bob", "bob"), ("8", "bob")] {
        let (_, seen) = world.passes(get("/x").bearer(undated(sub)));
        assert_eq!(seen.header("x-auth-user"), Some(name), "{sub}");
    }
}

/// Registration closes some day. Who took a name while it was open has it still, and is still somebody else.
#[test]
fn closing_registration_gives_nobody_the_tokens_of_another() {
    let upstream = Upstream::echo();
    let open = Config::new().upstream("app", upstream.port()).legacy(&shared(""));
    let world = World { gateway: Gateway::start(&open), upstream };
    world.register("carol").expect(201);
    let hours_ago = jwt::now() - 7200;
    let old = |sub: &str| mint(&json!({"sub": sub, "iat": hours_ago}));
    let undated = |sub: &str| undated(&json!({"sub": sub, "exp": jwt::now() + 900}));
    refuses(&world, &old("carol"), "invalid_token", "while it is open");
    reload(&world.gateway, &open.clone().set("auth", "registration", "\"closed\""));
    world.register("anybody").is_problem(403, "registration_closed");
    for token in [old("carol"), undated("carol")] {
        refuses(&world, &token, "invalid_token", "and when it is closed");
    }
    world.passes(get("/x").bearer(minted_for("carol"))).0.expect(200);
    // Whom an operator adds he means, then and whenever it is open again.
    let add = ["user", "add", "dora", "--password-stdin"];
    world.cli_with(&add, "correct horse battery\n", &[]).succeeds();
    for _ in 0..2 {
        for token in [old("dora"), undated("dora")] {
            let (_, seen) = world.passes(get("/x").bearer(token));
            assert_eq!(seen.header("x-auth-user"), Some("dora"));
        }
        reload(&world.gateway, &open);
    }
    let exported = world.cli(&["user", "export", "--format", "jsonl"]).succeeds().stdout;
    for (name, origin) in [("carol", "registered"), ("dora", "operator")] {
        let line = exported.lines().find(|line| line.contains(name)).unwrap();
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["origin"], origin, "{line}");
    }
}

#[test]
fn what_was_forged_or_minted_for_something_else_is_refused() {
    let world = world();
    world.register("alice").expect(201);
    let now = jwt::now();
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let claims = json!({"sub": "alice", "iat": now, "exp": now + 900});
    let signed = |header: Value| jwt::hs256(APP.as_bytes(), &header, &claims);
    let unsigned = |alg: &str| {
        let header = json!({"alg": alg, "typ": "JWT"}).to_string();
        format!("{}.{}.", jwt::encode(header), jwt::encode(claims.to_string()))
    };
    let good = mint(&claims);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let changed = format!("{}.{}.{signature}", jwt::part(&good, 0), jwt::encode("{\"sub\":\"admin\"}"));
    for (what, token) in [
        ("another secret", jwt::hs256(b"super-secret2", &header, &claims)),
        ("our own secret", jwt::hs256(OURS.as_bytes(), &header, &claims)),
        ("no secret", jwt::hs256(b"", &header, &claims)),
        ("alg none", unsigned("none")),
        ("alg None", unsigned("None")),
        ("no signature", unsigned("HS256")),
        ("alg none, signed", signed(json!({"alg": "none", "typ": "JWT"}))),
        ("another alg", signed(json!({"alg": "HS512", "typ": "JWT"}))),
        ("alg of a public key", signed(json!({"alg": "RS256", "typ": "JWT"}))),
        ("our typ", signed(json!({"alg": "HS256", "typ": "at+jwt"}))),
        ("our typ and a kid", signed(json!({"alg": "HS256", "typ": "at+jwt", "kid": "x"}))),
        ("crit", signed(json!({"alg": "HS256", "crit": ["exp"]}))),
        ("jwk", signed(json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "c3VwZXItc2VjcmV0"}}))),
        ("jku", signed(json!({"alg": "HS256", "jku": "https://evil.example"}))),
        ("other claims under its signature", changed),
        ("a cut signature", format!("{message}.{}", &signature[..20])),
        ("a refresh token", mint(&json!({"sub": "alice", "type": "refresh", "exp": now + 900}))),
        ("simplejwt's", mint(&json!({"sub": "alice", "token_type": "refresh"}))),
        ("an ID token", mint(&json!({"sub": "alice", "token_use": "id"}))),
        ("a link", mint(&json!({"reset_password": "alice", "exp": now + 900}))),
        ("another issuer", mint(&json!({"sub": "alice", "iss": "elsewhere"}))),
        ("our issuer", mint(&json!({"sub": "alice", "iss": "gatepost"}))),
        ("our audience", mint(&json!({"sub": "alice", "aud": "app"}))),
        ("a list", mint(&json!({"sub": ["alice"]}))),
        ("an object", mint(&json!({"sub": {"username": "alice"}}))),
        ("not yet", mint(&json!({"sub": "alice", "nbf": now + 600}))),
        ("from the future", mint(&json!({"sub": "alice", "iat": now + 600}))),
        ("an end as text", mint(&json!({"sub": "alice", "exp": "never"}))),
    ] {
        refuses(&world, &token, "invalid_token", what);
    }
    refuses(&world, &mint(&json!({"sub": "alice", "exp": now - 1})), "expired_token", "expired");
    world.passes(get("/x").bearer(&good)).0.expect(200);
    let twice = get("/x").bearer(&good).header("Authorization", format!("Bearer {good}"));
    world.refuses(twice, 400, "ambiguous_credentials");
    // Without a table, there is no such thing.
    let strict = World::new();
    strict.register("alice").expect(201);
    refuses(&strict, &good, "invalid_token", "no table");
}

/// The claims of ours, with a session, a generation and an administrator's roles, under the app's secret.
#[test]
fn a_token_of_the_apps_cannot_be_made_to_look_like_ours() {
    let world = World::with(|c| c.hs256(OURS).legacy(&shared("").replace(APP, OURS)));
    let tokens = world.user("alice");
    world.user("mallory");
    let mut claims = jwt::claims(&tokens.access);
    claims["roles"] = json!(["admin", "editor", "user"]);
    let kid = jwt::header(&tokens.access)["kid"].clone();
    let sign = |header: Value, claims: &Value| jwt::hs256(OURS.as_bytes(), &header, claims);
    let legacy = dated(&json!({"sub": "mallory"}));
    for (what, token) in [
        ("our claims as theirs", sign(json!({"alg": "HS256", "typ": "JWT"}), &claims)),
        ("our claims without typ", sign(json!({"alg": "HS256"}), &claims)),
        ("our claims and kid as theirs", sign(json!({"alg": "HS256", "typ": "JWT", "kid": kid}), &claims)),
        ("our claims without kid", sign(json!({"alg": "HS256", "typ": "at+jwt"}), &claims)),
        ("their claims as ours", sign(json!({"alg": "HS256", "typ": "at+jwt", "kid": kid}), &legacy)),
        ("their claims with our kid", sign(json!({"alg": "HS256", "typ": "JWT", "kid": kid}), &legacy)),
    ] {
        refuses(&world, &token, "invalid_token", what);
    }
    // One secret for both, which is what people do: each passes as what it is.
    world.passes(get("/x").bearer(&tokens.access)).0.expect(200);
    let theirs = sign(json!({"alg": "HS256", "typ": "JWT"}), &legacy);
    assert_eq!(world.passes(get("/x").bearer(theirs)).1.header("x-auth-user"), Some("mallory"));
}

#[test]
fn a_public_key_checks_and_never_signs() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let der = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec();
    let text = STANDARD.encode(&der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
    let upstream = Upstream::echo();
    let config = Config::new()
        .upstream("app", upstream.port())
        .legacy(&format!("algorithm = \"ES256\"\npublic_key_file = \"app.pub\"\n{UNTIL}"))
        .legacy(&shared(""));
    let mut gateway = Gateway::prepare(&config);
    fs::write(gateway.home().join("app.pub"), &pem).unwrap();
    gateway.start_again();
    let world = World { gateway, upstream };
    world.register("alice").expect(201);
    let claims = dated(&json!({"sub": "alice"}));
    let header = json!({"alg": "ES256", "typ": "JWT"});
    let message = format!("{}.{}", jwt::encode(header.to_string()), jwt::encode(claims.to_string()));
    let tag = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    world.passes(get("/x").bearer(format!("{message}.{}", jwt::encode(tag)))).0.expect(200);
    for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), &der, text.as_bytes()] {
        for alg in ["HS256", "ES256"] {
            let forged = jwt::hs256(secret, &json!({"alg": alg, "typ": "JWT"}), &claims);
            refuses(&world, &forged, "invalid_token", "signed with the public key");
        }
    }
    // Nor does the app's secret sign for the other key.
    let crossed = jwt::hs256(APP.as_bytes(), &header, &claims);
    refuses(&world, &crossed, "invalid_token", "a secret under the other's algorithm");
}

#[test]
fn the_end_of_the_table_ends_its_tokens() {
    let world = World::with(|c| c.legacy(&shared("until = \"2020-01-01\"")));
    world.register("alice").expect(201);
    refuses(&world, &minted_for("alice"), "expired_token", "the table has ended");
    refuses(&world, &mint(&json!({"sub": "alice"})), "expired_token", "without an end of its own");
    let checked = world.cli(&["check"]);
    assert!(checked.stdout.contains("legacy_token[0].until: it has passed"), "{}", checked.stdout);
    let said = world.log_lines();
    assert!(said.wait(|line| line.contains("legacy_token[0].until: it has passed")), "{}", said.text());
}

/// Each of these ends our own tokens, and theirs too, on connections that have used them and on others, and
/// for good.
#[test]
fn what_ends_an_accounts_tokens_ends_those_of_the_app() {
    let world = world();
    let ends: [(&str, &[&str]); 5] = [
        ("disabled", &["user", "disable", "USER"]),
        ("roles", &["user", "set", "USER", "--role", "editor"]),
        ("loggedout", &["user", "logout", "USER"]),
        ("revoked", &["token", "revoke", "--user", "USER"]),
        ("removed", &["user", "remove", "USER"]),
    ];
    for (name, command) in ends {
        world.register(name).expect(201);
        let token = minted_for(name);
        let mut client = world.connect();
        client.send(get("/x").bearer(&token).bytes()).response().expect(200);
        world.passes(get("/x").bearer(&token)).0.expect(200);
        let command: Vec<_> = command.iter().map(|part| if *part == "USER" { name } else { part }).collect();
        world.cli(&command).succeeds();
        let before = (world.upstream.count(), world.upstream.opened());
        let answer = client.send(get("/x").bearer(&token).bytes()).response();
        assert_eq!((answer.status, answer.code().as_str()), (401, "revoked_token"), "{name}");
        world.saw_nothing_since(before, name);
        // Whichever worker is asked, and whether it has seen the token before or has to look.
        for _ in 0..6 {
            let answer = world.ask(get("/x").bearer(&token));
            assert_eq!(answer.status, 401, "{name}: {}", answer.text());
        }
        world.saw_nothing_since(before, name);
        refuses(
            &world,
            &minted_for(name),
            if name == "removed" { "invalid_token" } else { "revoked_token" },
            name,
        );
    }
    world.cli(&["user", "enable", "disabled"]).succeeds();
    refuses(&world, &minted_for("disabled"), "revoked_token", "enabled again: they log in");
    world.login("disabled");

    let passwd = |name: &str| {
        let tokens = world.user(name);
        let body =
            json!({"current_password": crate::support::PASSWORD, "new_password": "another horse entirely"});
        world.ask(post("/auth/password").bearer(&tokens.access).json(body)).expect(200);
    };
    passwd("changer");
    refuses(&world, &minted_for("changer"), "revoked_token", "a new password");
    world.register("everywhere").expect(201);
    let token = minted_for("everywhere");
    world.passes(get("/x").bearer(&token)).0.expect(200);
    world.ask(post("/auth/logout-all").bearer(&token)).expect(200);
    refuses(&world, &token, "revoked_token", "logged out everywhere");
}

/// What a second gateway is told by an export: what has ended the app's tokens at the first one, and by which
/// of its names the app means an account.
#[test]
fn what_ended_the_apps_tokens_at_one_gateway_has_ended_them_at_the_next() {
    let one = world();
    let hours_ago = jwt::now() - 7200;
    let old = |sub: &str| mint(&json!({"sub": sub, "iat": hours_ago}));
    for name in ["everywhere", "changer", "operator", "enabled", "same"] {
        let line = json!({"id": format!("{name}-1"), "username": name, "password": crate::support::PASSWORD});
        one.cli_with(&["user", "import", "-", "--format", "jsonl"], &line.to_string(), &[]).succeeds();
        one.passes(get("/x").bearer(old(name))).0.expect(200);
    }
    one.ask(post("/auth/logout-all").bearer(one.login("everywhere").access)).expect(200);
    let body =
        json!({"current_password": crate::support::PASSWORD, "new_password": "another horse entirely"});
    one.ask(post("/auth/password").bearer(one.login("changer").access).json(body)).expect(200);
    one.cli(&["user", "logout", "operator"]).succeeds();
    one.cli(&["user", "disable", "enabled"]).succeeds();
    one.cli(&["user", "enable", "enabled"]).succeeds();
    // Whoever took a name after the token was minted is somebody else, there as here.
    one.register("newcomer").expect(201);
    refuses(&one, &old("newcomer"), "invalid_token", "minted before there was such an account");

    for format in ["jsonl", "csv"] {
        let exported = one.cli(&["user", "export", "--format", format]).succeeds().stdout;
        let next = world();
        let import = ["user", "import", "-", "--format", format];
        let said = next.cli_with(&import, &exported, &[]).succeeds().stdout;
        assert!(said.ends_with("6 created, 0 unchanged, 0 refused\n"), "{said}");
        for name in ["everywhere", "changer", "operator", "enabled"] {
            for sub in [name.to_owned(), format!("{name}-1")] {
                refuses(&one, &old(&sub), "revoked_token", &sub);
                refuses(&next, &old(&sub), "revoked_token", &sub);
            }
        }
        refuses(&next, &old("newcomer"), "invalid_token", "registered since, at the first one");
        for sub in ["same", "same-1"] {
            next.passes(get("/x").bearer(old(sub))).0.expect(200);
        }
        next.login("everywhere");
        // And the next end is one, too.
        next.cli(&["user", "logout", "same"]).succeeds();
        refuses(&next, &old("same"), "revoked_token", "logged out by the second one");
        let said = next.cli_with(&import, &exported, &[]).succeeds().stdout;
        assert_eq!(said, "0 created, 6 unchanged, 0 refused\n");
        refuses(&next, &old("same"), "revoked_token", "an import undoes nothing");
    }
}

#[test]
fn a_logout_ends_one_token_and_is_remembered() {
    let mut world = world();
    world.register("alice").expect(201);
    let now = jwt::now();
    let (one, other) = (minted_for("alice"), mint(&json!({"sub": "alice", "iat": now})));
    let endless = mint(&json!({"sub": "alice", "iat": now - 1}));
    for token in [&one, &other, &endless] {
        world.passes(get("/x").bearer(token)).0.expect(200);
    }
    world.ask(post("/auth/logout").bearer(&one)).expect(200);
    world.cli(&["token", "revoke", &endless]).succeeds();
    refuses(&world, &one, "revoked_token", "logged out");
    refuses(&world, &endless, "revoked_token", "revoked");
    world.refuses(post("/auth/logout").bearer(&one), 401, "revoked_token");
    world.refuses(post("/auth/logout").bearer(minted_for("nobody")), 401, "invalid_token");
    world.passes(get("/x").bearer(&other)).0.expect(200);
    world.kill();
    world.start_again();
    refuses(&world, &one, "revoked_token", "after a crash");
    refuses(&world, &endless, "revoked_token", "after a crash");
    world.passes(get("/x").bearer(&other)).0.expect(200);
}

/// A client of before that has logged in here meanwhile, and sends all that it has.
#[test]
fn a_logout_with_a_token_of_the_apps_and_a_session_of_ours_ends_both() {
    let world = world();
    let (ours, token) = (world.user("alice"), minted_for("alice"));
    let bobs = world.user("bob");
    for access in [&ours.access, &token] {
        world.passes(get("/x").bearer(access)).0.expect(200);
    }
    let logout = |refresh: &str| {
        world.ask(post("/auth/logout").bearer(&token).json(json!({"refresh_token": refresh})))
    };
    // Nobody's session ends by another's token, nor his token for it.
    logout(&bobs.refresh).is_problem(400, "ambiguous_credentials");
    for access in [&bobs.access, &ours.access, &token] {
        world.passes(get("/x").bearer(access)).0.expect(200);
    }
    logout(&ours.refresh).expect(200);
    for access in [&ours.access, &token] {
        refuses(&world, access, "revoked_token", "logged out");
    }
    world.refresh(&ours.refresh).is_problem(401, "invalid_grant");
    world.passes(get("/x").bearer(&bobs.access)).0.expect(200);
}

/// What needs a login still needs one.
#[test]
fn a_token_of_the_apps_is_no_session() {
    let world = world();
    world.register("alice").expect(201);
    let token = minted_for("alice");
    let ask = |request: Request| -> Response { world.ask(request) };
    ask(post("/auth/refresh").bearer(&token)).is_problem(401, "invalid_grant");
    ask(post("/auth/refresh").json(json!({"refresh_token": token}))).is_problem(401, "invalid_grant");
    let body =
        json!({"current_password": crate::support::PASSWORD, "new_password": "another horse entirely"});
    ask(post("/auth/password").bearer(&token).json(body)).is_problem(401, "revoked_token");
    assert_eq!(ask(get("/auth/sessions").bearer(&token)).expect(200).json(), json!([]));
    world.login("alice");
}

#[test]
fn every_other_way_of_naming_an_account_is_as_the_table_says() {
    let world = World::with(|c| {
        let table = |secret: &str, more: &str| {
            format!("algorithm = \"HS256\"\nsecret = \"{secret}\"\n{UNTIL}\n{more}")
        };
        c.legacy(&table("one", "user = \"identity\"\naccount = \"id\""))
            .legacy(&table("two", "user = \"sub.username\"\naccount = \"username\""))
            .legacy(&table("three", "account = \"email\""))
            .legacy(&table("four", "account = \"username\"\nignore_case = true"))
            .legacy(&table("five", "issuer = \"app\"\naudience = \"clients\""))
    });
    let add = ["user", "add", "alice", "--email", "alice@example.com", "--password-stdin"];
    world.cli_with(&add, "correct horse battery\n", &[]).succeeds();
    let id = id_of(&world, "alice");
    let mint = |secret: &str, claims: Value| {
        jwt::hs256(secret.as_bytes(), &json!({"alg": "HS256", "typ": "JWT"}), &dated(&claims))
    };
    for (secret, claims) in [
        ("one", json!({"identity": id})),
        ("two", json!({"sub": {"username": "alice", "id": 9}})),
        ("three", json!({"sub": "alice@example.com"})),
        ("four", json!({"sub": "Alice"})),
        ("five", json!({"sub": "alice", "iss": "app", "aud": ["x", "clients"]})),
    ] {
        let (_, seen) = world.passes(get("/x").bearer(mint(secret, claims)));
        assert_eq!(seen.header("x-auth-id"), Some(id.as_str()), "{secret}");
    }
    for (secret, claims) in [
        ("one", json!({"identity": "alice"})),
        ("one", json!({"sub": id})),
        ("two", json!({"sub": "alice"})),
        ("two", json!({"sub": {"username": id}})),
        ("two", json!({"sub": {"username": "Alice"}})),
        ("three", json!({"sub": "Alice@example.com"})),
        ("three", json!({"sub": "alice"})),
        ("four", json!({"sub": id})),
        ("five", json!({"sub": "alice"})),
        ("five", json!({"sub": "alice", "iss": "app"})),
        ("five", json!({"sub": "alice", "iss": "other", "aud": "clients"})),
    ] {
        refuses(&world, &mint(secret, claims.clone()), "invalid_token", &format!("{secret} {claims}"));
    }
    // An address that nobody has proved names nobody.
    let tokens = world.user("mallory");
    let change = json!({"email": "victim@example.com", "current_password": crate::support::PASSWORD});
    world.ask(Request::new("PATCH", "/auth/me").bearer(&tokens.access).json(change)).expect(200);
    refuses(&world, &mint("three", json!({"sub": "victim@example.com"})), "invalid_token", "unproved");
}

#[test]
fn public_routes_and_forwarding_treat_them_as_ours() {
    let world =
        World::with(|c| c.legacy(&shared("")).route("path = \"/seen/**\"\nforward_authorization = true"));
    world.register("alice").expect(201);
    let (token, nobody) = (minted_for("alice"), minted_for("nobody"));
    let (_, seen) = world.passes(get("/seen/x").bearer(&token));
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {token}").as_str()));
    assert_eq!(seen.header("x-auth-user"), Some("alice"));
    for token in [&token, &nobody] {
        let (_, seen) = world.passes(get("/public/x").bearer(token));
        assert_eq!((seen.header("authorization"), seen.header("x-auth-user")), (None, None));
    }
    // Another's business.
    let other = jwt::hs256(b"payments", &json!({"alg": "HS256", "typ": "JWT"}), &json!({"sub": "alice"}));
    let (_, seen) = world.passes(get("/public/x").bearer(&other));
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {other}").as_str()));
    assert_eq!(seen.header("x-auth-user"), None);
}

#[test]
fn a_route_that_only_reports_looks_them_up_first() {
    let world = World::with(|c| {
        c.legacy(&shared("")).route("path = \"/watched/**\"\nmode = \"report\"\nroles = [\"user\"]")
    });
    world.register("alice").expect(201);
    let (answer, seen) = world.passes(get("/watched/x").bearer(minted_for("alice")));
    answer.expect(200);
    assert_eq!(seen.header("x-auth-user"), Some("alice"));
    let would_deny = || world.metric("gatepost_would_deny_total{route=\"/watched/**\"}");
    assert!(would_deny().is_none_or(|count| count < 1.0), "{:?}", would_deny());
    let (answer, seen) = world.passes(get("/watched/x").bearer(minted_for("nobody")));
    answer.expect(200);
    assert_eq!((seen.header("x-auth-user"), seen.header("authorization")), (None, None));
    assert_eq!(would_deny(), Some(1.0));
}

#[test]
fn a_reload_brings_a_table_and_takes_it_away() {
    let upstream = Upstream::echo();
    let base = Config::new().upstream("app", upstream.port());
    let world = World { gateway: Gateway::start(&base), upstream };
    world.register("alice").expect(201);
    let token = minted_for("alice");
    refuses(&world, &token, "invalid_token", "before");
    reload(&world.gateway, &base.clone().legacy(&shared("")));
    let mut client = world.connect();
    client.send(get("/x").bearer(&token).bytes()).response().expect(200);
    // It is in this worker's memory, and worth nothing there either.
    reload(&world.gateway, &base);
    let before = (world.upstream.count(), world.upstream.opened());
    let answer = client.send(get("/x").bearer(&token).bytes()).response();
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_token"));
    world.saw_nothing_since(before, "a table that is gone");
    refuses(&world, &token, "invalid_token", "after");
}

#[test]
fn the_command_line_sees_what_the_gateway_sees() {
    let world = world();
    world.register("alice").expect(201);
    let inspect = |token: &str| -> Value {
        let shown = world.cli(&["token", "inspect", token, "--json"]);
        serde_json::from_str(&shown.stdout).unwrap()
    };
    let good = inspect(&minted_for("alice"));
    assert_eq!((good["valid"].as_bool(), good["caller"]["username"].as_str()), (Some(true), Some("alice")));
    assert_eq!(inspect(&minted_for("nobody"))["state"], "invalid_token");
    let explain = |token: &str| -> Value {
        let shown = world.cli(&["explain", "GET", "/x", "--token", token, "--json"]).succeeds();
        serde_json::from_str(&shown.stdout).unwrap()
    };
    assert_eq!(explain(&minted_for("alice"))["verdict"], "pass");
    assert_eq!(explain(&minted_for("nobody"))["status"], 401);
    world.cli(&["user", "disable", "alice"]).succeeds();
    assert_eq!(inspect(&minted_for("alice"))["state"], "revoked_token");
    assert_eq!(explain(&minted_for("alice"))["status"], 401);
}

/// A new secret is shared with the app while tokens under the old one are out.
#[test]
fn a_shared_secret_is_rotated_without_logging_anybody_out() {
    const NEXT: &str = "the next secret, which is long enough as well";
    let upstream = Upstream::echo();
    let base = Config::new().upstream("app", upstream.port());
    let mut world = World { gateway: Gateway::start(&base.clone().hs256(OURS)), upstream };
    let tokens = world.user("alice");
    world.stop();
    fs::write(world.home().join("old.key"), OURS).unwrap();
    let next = base.clone().hs256(NEXT).set("tokens", "previous_secret_files", "[\"old.key\"]");
    world.configure(&next.text());
    world.start_again();
    world.passes(get("/x").bearer(&tokens.access)).0.expect(200);
    let fresh = crate::support::gateway::Tokens::of(world.refresh(&tokens.refresh));
    world.passes(get("/x").bearer(&fresh.access)).0.expect(200);
    let kid = |token: &str| jwt::header(token)["kid"].clone();
    assert_ne!(kid(&tokens.access), kid(&fresh.access));
    let part = |index| String::from_utf8(jwt::decode(jwt::part(&fresh.access, index))).unwrap();
    assert_eq!(jwt::hs256_raw(NEXT.as_bytes(), &part(0), &part(1)), fresh.access, "the new one signs");
    assert_eq!(world.ask(get("/auth/jwks.json")).expect(200).json(), json!({"keys": []}));
    let keys = world.cli(&["key", "list"]).succeeds().stdout;
    assert!(keys.contains("verifying"), "{keys}");
    // The old secret makes no token under the new one's name, nor the other way round.
    for (secret, token) in [(OURS, &fresh.access), (NEXT, &tokens.access)] {
        let forged = jwt::hs256(secret.as_bytes(), &jwt::header(token), &jwt::claims(token));
        refuses(&world, &forged, "invalid_token", "crossed");
    }
    world.stop();
    world.configure(&base.hs256(NEXT).text());
    world.start_again();
    refuses(&world, &tokens.access, "invalid_token", "the old secret is gone");
    world.passes(get("/x").bearer(&fresh.access)).0.expect(200);
}
