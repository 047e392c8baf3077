//! Guessing: who is slowed down, who is not, and that nothing else can be told from it.

use serde_json::json;

use crate::support::gateway::Tokens;
use crate::support::request::{Request, post};
use crate::support::world::World;
use crate::support::{PASSWORD, eventually};

fn login(name: &str, password: &str) -> Request {
    post("/auth/login").json(json!({"username": name, "password": password}))
}

fn from(address: &str, request: Request) -> Request {
    request.header("X-Forwarded-For", address)
}

fn throttled_world(failures: u32, per_address: u32) -> World {
    World::with(|c| {
        c.set("auth.throttle", "failures", &failures.to_string())
            .set("auth.throttle", "per_address", &per_address.to_string())
            .set("server", "trusted_proxies", "[\"127.0.0.1/32\"]")
    })
}

#[test]
fn after_five_failures_the_account_is_throttled_for_this_address_only() {
    let world = throttled_world(5, 1000);
    world.register("alice").expect(201);
    for _ in 0..5 {
        world
            .ask(from("203.0.113.1", login("alice", "wrong password")))
            .is_problem(401, "invalid_credentials");
    }
    // The right password does not help from here, in any spelling of the name …
    for name in ["alice", "ALICE"] {
        world.refuses(from("203.0.113.1", login(name, PASSWORD)), 429, "throttled");
    }
    // … and does from elsewhere.
    Tokens::of(world.ask(from("198.51.100.7", login("alice", PASSWORD))));
    assert_eq!(world.metric("gatepost_throttled_total{scope=\"account\"}"), Some(2.0));
}

#[test]
fn unknown_names_are_throttled_alike() {
    let world = throttled_world(3, 1000);
    for _ in 0..3 {
        world.ask(login("nobody", "wrong password")).is_problem(401, "invalid_credentials");
    }
    world.refuses(login("nobody", "wrong password"), 429, "throttled");
}

#[test]
fn one_address_cannot_try_many_names() {
    let world = throttled_world(5, 6);
    world.register("alice").expect(201);
    for i in 0..6 {
        world
            .ask(from("203.0.113.9", login(&format!("name{i}"), "wrong password")))
            .is_problem(401, "invalid_credentials");
    }
    world.refuses(from("203.0.113.9", login("another", "wrong password")), 429, "throttled");
    world.refuses(from("203.0.113.9", login("alice", PASSWORD)), 429, "throttled");
    Tokens::of(world.ask(from("203.0.113.10", login("alice", PASSWORD))));
}

#[test]
fn an_ipv6_address_counts_with_its_64() {
    let world = throttled_world(1000, 4);
    for i in 0..4 {
        world
            .ask(from(&format!("2001:db8:1:2::{i:x}"), login(&format!("n{i}"), "wrong password")))
            .is_problem(401, "invalid_credentials");
    }
    world.refuses(from("2001:db8:1:2:ffff::1", login("other", "wrong password")), 429, "throttled");
    world
        .ask(from("2001:db8:1:3::1", login("other", "wrong password")))
        .is_problem(401, "invalid_credentials");
}

#[test]
fn only_failed_password_checks_count() {
    let world = throttled_world(3, 6);
    world.register("alice").expect(201);
    for _ in 0..10 {
        world.login("alice");
        world
            .ask(post("/auth/login").json(json!({"username": 7, "password": "x"})))
            .is_problem(422, "invalid_input");
    }
    // A success clears the account's own count.
    for _ in 0..2 {
        world.try_login("alice", "wrong password").is_problem(401, "invalid_credentials");
    }
    world.login("alice");
}

#[test]
fn addresses_are_believed_from_trusted_proxies_only() {
    let world = World::with(|c| c.set("auth.throttle", "failures", "3"));
    world.register("alice").expect(201);
    for i in 0..3 {
        let request = from(&format!("203.0.113.{i}"), login("alice", "wrong password"));
        world.ask(request).is_problem(401, "invalid_credentials");
    }
    world.refuses(from("198.51.100.1", login("alice", PASSWORD)), 429, "throttled");
}

#[test]
fn the_lockout_ends_and_unlock_ends_it_sooner() {
    let world =
        World::with(|c| c.set("auth.throttle", "failures", "2").set("auth.throttle", "lockout", "\"2s\""));
    world.register("alice").expect(201);
    let lock = || {
        for _ in 0..2 {
            world.try_login("alice", "wrong password").is_problem(401, "invalid_credentials");
        }
        world.refuses(login("alice", PASSWORD), 429, "throttled")
    };
    let answer = lock();
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    eventually("the lockout ends", || (world.try_login("alice", PASSWORD).status == 200).then_some(()));
}

#[test]
fn unlock_lets_the_user_in_at_once() {
    let world = throttled_world(2, 1000);
    world.register("alice").expect(201);
    for _ in 0..2 {
        world.try_login("alice", "wrong password").is_problem(401, "invalid_credentials");
    }
    world.refuses(login("alice", PASSWORD), 429, "throttled");
    world.cli(&["user", "unlock", "alice"]).succeeds();
    world.login("alice");
}

#[test]
fn a_throttled_wrong_password_and_the_right_one_look_alike() {
    let world = throttled_world(2, 1000);
    world.register("alice").expect(201);
    for _ in 0..2 {
        world.try_login("alice", "wrong password").is_problem(401, "invalid_credentials");
    }
    let strip = |r: crate::support::client::Response| {
        let mut json = r.json();
        json.as_object_mut().unwrap().remove("request_id");
        json
    };
    let right = strip(world.refuses(login("alice", PASSWORD), 429, "throttled"));
    let wrong = strip(world.refuses(login("alice", "wrong password"), 429, "throttled"));
    assert_eq!(right["code"], wrong["code"]);
    assert_eq!(right["title"], wrong["title"]);
}

#[test]
fn registrations_are_limited_by_address() {
    let world = World::with(|c| {
        c.set("auth", "registrations_per_address", "\"3/h\"").set(
            "server",
            "trusted_proxies",
            "[\"127.0.0.1/32\"]",
        )
    });
    let register = |address: &str, name: &str| {
        from(address, post("/auth/register").json(json!({"username": name, "password": PASSWORD})))
    };
    for i in 0..3 {
        world.ask(register("203.0.113.1", &format!("user{i}"))).expect(201);
    }
    world.refuses(register("203.0.113.1", "user3"), 429, "throttled");
    world.ask(register("203.0.113.2", "user3")).expect(201);
}

#[test]
fn wrong_passwords_elsewhere_than_login_are_throttled_too() {
    let world = throttled_world(3, 1000);
    let tokens = world.user("alice");
    let guess = || {
        let body = json!({"current_password": "wrong password", "new_password": "another password 1"});
        post("/auth/password").bearer(&tokens.access).json(body)
    };
    for _ in 0..3 {
        world.ask(guess()).is_problem(401, "invalid_credentials");
    }
    world.refuses(guess(), 429, "throttled");
}
