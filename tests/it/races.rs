//! Two things at once: whichever comes first, nobody keeps what was taken away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use crate::support::gateway::Tokens;
use crate::support::request::{get, post};
use crate::support::world::World;
use crate::support::{PASSWORD, eventually};

#[test]
fn after_logout_and_refresh_at_once_no_token_of_the_session_is_good() {
    let world = World::new();
    world.register("alice").expect(201);
    for _ in 0..25 {
        let tokens = world.login("alice");
        let renewed = thread::scope(|scope| {
            let refresh = scope.spawn(|| world.refresh(&tokens.refresh));
            let logout = scope.spawn(|| world.ask(post("/auth/logout").bearer(&tokens.access)));
            logout.join().unwrap().expect(200);
            refresh.join().unwrap()
        });
        if renewed.status == 200 {
            let renewed = Tokens::of(renewed);
            world.refuses(get("/x").bearer(&renewed.access), 401, "revoked_token");
            world.refresh(&renewed.refresh).is_problem(401, "invalid_grant");
        } else {
            renewed.is_problem(401, "invalid_grant");
        }
        world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
    }
}

#[test]
fn no_login_outlives_a_disable() {
    let world = World::new();
    world.register("alice").expect(201);
    let stop = AtomicBool::new(false);
    let mut got: Vec<Tokens> = Vec::new();
    thread::scope(|scope| {
        let logins: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut got = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        let answer = world.try_login("alice", PASSWORD);
                        match answer.status {
                            200 => got.push(Tokens::of(answer)),
                            403 => {}
                            _ => assert_eq!(answer.status, 503, "{}", answer.text()),
                        }
                    }
                    got
                })
            })
            .collect();
        let metric = "gatepost_tokens_issued_total{type=\"access\"}";
        eventually("somebody is in", || (world.metric(metric)? >= 20.0).then_some(()));
        world.cli(&["user", "disable", "alice"]).succeeds();
        stop.store(true, Ordering::SeqCst);
        for login in logins {
            got.extend(login.join().unwrap());
        }
    });
    assert!(got.len() >= 10);
    for tokens in got {
        world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
        world.refresh(&tokens.refresh).is_problem(401, "invalid_grant");
    }
}

#[test]
fn no_login_with_the_old_password_outlives_its_change() {
    let world = World::new();
    let me = world.user("alice");
    let stop = AtomicBool::new(false);
    let mut got: Vec<Tokens> = Vec::new();
    thread::scope(|scope| {
        let logins: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut got = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        let answer = world.try_login("alice", PASSWORD);
                        if answer.status == 200 {
                            got.push(Tokens::of(answer));
                        }
                    }
                    got
                })
            })
            .collect();
        let metric = "gatepost_tokens_issued_total{type=\"access\"}";
        eventually("somebody is in", || (world.metric(metric)? >= 20.0).then_some(()));
        let change = json!({"current_password": PASSWORD, "new_password": "another password 1"});
        world.ask(post("/auth/password").bearer(&me.access).json(change)).expect(200);
        stop.store(true, Ordering::SeqCst);
        for login in logins {
            got.extend(login.join().unwrap());
        }
    });
    for tokens in got {
        world.refuses(get("/x").bearer(&tokens.access), 401, "revoked_token");
        world.refresh(&tokens.refresh).is_problem(401, "invalid_grant");
    }
    // The session that changed it goes on.
    Tokens::of(world.refresh(&me.refresh));
}

#[test]
fn one_address_registered_eight_times_at_once_belongs_to_one() {
    let world = World::new();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|i| {
                let world = &world;
                scope.spawn(move || {
                    let body = json!({"username": format!("user{i}"), "password": PASSWORD, "email": "one@example.com"});
                    world.ask(post("/auth/register").json(body)).status
                })
            })
            .collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|s| **s == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|s| **s == 409).count(), 7, "{statuses:?}");
}

#[test]
fn hashing_passwords_holds_no_request_up() {
    let world = World::with(|c| {
        c.set("auth.password", "memory", "\"64MiB\"").set("auth.password", "iterations", "3").set(
            "auth.password",
            "concurrent",
            "1",
        )
    });
    let tokens = world.user("alice");
    let mut waiting: Vec<_> = (0..12)
        .map(|_| {
            let mut client = world.connect();
            client.send(post("/auth/login").json(json!({"username": "alice", "password": PASSWORD})).bytes());
            client
        })
        .collect();
    eventually("they are being hashed", || {
        (world.metric("gatepost_password_hashes_in_flight")? >= 1.0).then_some(())
    });
    for _ in 0..10 {
        world.passes(get("/x").bearer(&tokens.access)).0.expect(200);
    }
    // A dozen hashes on one thread take longer than ten requests that need none.
    let hashing = world.metric("gatepost_password_hashes_in_flight").unwrap();
    assert!(hashing >= 1.0, "all hashes were done before ten requests were answered");
    for client in &mut waiting {
        client.response().expect(200);
    }
}

#[test]
fn an_unknown_name_takes_as_long_as_a_wrong_password() {
    let world = World::with(|c| {
        c.set("auth.password", "memory", "\"16MiB\"").set("auth.password", "iterations", "2")
    });
    world.register("alice").expect(201);
    world.register("disabled").expect(201);
    world.cli(&["user", "disable", "disabled"]).succeeds();
    let mut times: [Vec<u128>; 3] = Default::default();
    for i in 0..15 {
        for (slot, name) in ["alice", &format!("nobody{i}"), "disabled"].into_iter().enumerate() {
            let started = std::time::Instant::now();
            world.try_login(name, "wrong password").is_problem(401, "invalid_credentials");
            times[slot].push(started.elapsed().as_micros());
        }
    }
    let [known, unknown, disabled] = times.map(|mut t| {
        t.sort_unstable();
        t[t.len() / 2]
    });
    // Leaving the hash out would make it a tenth; what is finer than a busy machine is not for here.
    for other in [unknown, disabled] {
        assert!(
            other * 2 > known && other < known * 2,
            "known {known} µs, unknown {unknown} µs, disabled {disabled} µs"
        );
    }
}

#[test]
fn logins_at_once_all_succeed_while_the_hash_is_renewed() {
    let mut world = World::new();
    world.register("alice").expect(201);
    world.stop();
    let text = std::fs::read_to_string(world.config()).unwrap();
    world.configure(&text.replace("iterations = 1", "iterations = 2"));
    world.start_again();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let asked: Vec<_> =
            (0..12).map(|_| scope.spawn(|| world.try_login("alice", PASSWORD).status)).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 12]);
}
