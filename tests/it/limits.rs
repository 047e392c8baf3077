//! Slow, large and many: each has a bound, and at the bound others are still served.

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::request::{get, post};
use crate::support::world::World;

/// The gateway is done with this client: it says 4xx or nothing, and closes.
#[track_caller]
fn is_closed(client: &mut Client) {
    if let Some(answer) = client.try_response("GET") {
        assert!((400..500).contains(&answer.status) || answer.status == 503, "{}", answer.status);
    }
    client.ends();
}

#[test]
fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let world = World::with(|c| c.set("server.limits", "header_timeout", "\"1s\""));
    let mut clients: Vec<_> =
        ["", "G", "GET /public/x HTTP/1.1\r\n", "GET /public/x HTTP/1.1\r\nHost: a\r\nX-Slow: "]
            .map(|start| {
                let mut client = world.connect();
                client.send(start);
                client
            })
            .into_iter()
            .collect();
    world.ask(get("/public/x")).expect(200);
    // The first has sent nothing: that is idleness, which has a timeout of its own.
    for client in &mut clients[1..] {
        is_closed(client);
    }
    assert_eq!(world.upstream.count(), 1);
    let metric = "gatepost_connections_ended_total{reason=\"header_timeout\"}";
    eventually("they are counted", || (world.metric(metric)? >= 3.0).then_some(()));
}

#[test]
fn dripping_bytes_do_not_extend_the_header_timeout() {
    let world = World::with(|c| c.set("server.limits", "header_timeout", "\"1s\""));
    let mut client = world.connect();
    client.send("GET /public/x HTTP/1.1\r\nHost: a\r\nX-Slow: ");
    eventually("the gateway closes it", || (!client.wire.send(b"a")).then_some(()));
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn an_idle_connection_is_closed() {
    let world = World::with(|c| {
        c.set("server.limits", "idle_timeout", "\"1s\"").set("server.limits", "header_timeout", "\"2s\"")
    });
    let mut used = world.connect();
    let mut unused = world.connect();
    used.send(get("/public/x").bytes()).response().expect(200);
    used.ends();
    unused.ends();
}

#[test]
fn connections_over_the_limit_are_refused_and_room_comes_back() {
    let world = World::with(|c| c.set("server.limits", "connections", "8"));
    let mut held: Vec<_> = (0..8)
        .map(|_| {
            let mut client = world.connect();
            client.send(get("/public/x").bytes()).response().expect(200);
            client
        })
        .collect();
    let mut one_too_many = world.connect();
    one_too_many.send(get("/public/x").bytes());
    if let Some(answer) = one_too_many.try_response("GET") {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    one_too_many.ends();
    // Those who are in go on.
    held[0].send(get("/public/x").bytes()).response().expect(200);
    drop(held);
    eventually("there is room again", || {
        let mut client = world.connect();
        client.send(get("/public/x").bytes());
        client.try_response("GET").filter(|a| a.status == 200)
    });
}

#[test]
fn a_routes_body_limit_is_413_before_anything_is_forwarded() {
    let world = World::with(|c| c.route("path = \"/small/**\"\naccess = \"public\"\nbody_bytes = \"1KiB\""));
    world.passes(post("/small/x").body("text/plain", "b".repeat(1024))).0.expect(200);
    world.refuses(post("/small/x").body("text/plain", "b".repeat(1025)), 413, "body_too_large");
    world.passes(post("/public/x").body("text/plain", "b".repeat(100_000))).0.expect(200);
}

#[test]
fn a_chunked_body_over_the_limit_never_arrives_whole() {
    let world = World::with(|c| c.route("path = \"/small/**\"\naccess = \"public\"\nbody_bytes = \"1KiB\""));
    let chunk = format!("400\r\n{}\r\n", "b".repeat(1024));
    let head = "POST /small/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    world.ask_raw(format!("{head}{chunk}0\r\n\r\n")).expect(200);
    let answer = world.ask_raw(format!("{head}{}0\r\n\r\n", chunk.repeat(50)));
    answer.is_problem(413, "body_too_large");
    assert!(world.upstream.seen()[1..].iter().all(|r| !r.complete && r.body.len() <= 1024));
}

#[test]
fn the_head_may_be_as_large_as_configured() {
    let world = World::with(|c| c.set("server.limits", "header_bytes", "\"8KiB\""));
    world.passes(get("/public/x").header("X-Large", "b".repeat(7000))).0.expect(200);
    world.refuses(get("/public/x").header("X-Large", "b".repeat(8300)), 431, "header_too_large");
    world.refuses(get("/auth/me").header("X-Large", "b".repeat(8300)), 431, "header_too_large");
}

#[test]
fn a_flood_of_slow_clients_does_not_stop_service() {
    let world = World::with(|c| c.set("server.limits", "header_timeout", "\"2s\""));
    let mut slow: Vec<_> = (0..200)
        .map(|_| {
            let mut client = world.connect();
            client.send("POST /auth/login HTTP/1.1\r\nHost: a\r\n");
            client
        })
        .collect();
    world.user("alice");
    for _ in 0..20 {
        world.ask(get("/public/x")).expect(200);
    }
    for client in &mut slow {
        is_closed(client);
    }
}

#[test]
fn more_logins_at_once_than_the_queue_holds_are_503_busy_and_none_is_401() {
    let world = World::with(|c| {
        c.set("auth.password", "memory", "\"64MiB\"")
            .set("auth.password", "iterations", "2")
            .set("auth.password", "concurrent", "1")
            .set("auth.password", "queue", "2")
    });
    world.register("alice").expect(201);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..24).map(|_| scope.spawn(|| world.try_login("alice", crate::support::PASSWORD))).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    let mut busy = 0;
    for answer in answers {
        match answer.status {
            200 => {}
            503 => {
                answer.is_problem(503, "busy");
                busy += 1;
            }
            other => panic!("{other} {}", answer.text()),
        }
    }
    assert!(busy > 0, "the queue holds 2");
    world.login("alice");
}

#[test]
fn a_password_of_megabytes_is_refused_before_it_is_hashed() {
    let world = World::with(|c| c.set("server.limits", "auth_body_bytes", "\"1KiB\""));
    world.register("alice").expect(201);
    let body = serde_json::json!({"username": "alice", "password": "p".repeat(3_000_000)});
    world.refuses(post("/auth/login").json(body), 413, "body_too_large");
}

#[test]
fn running_out_of_file_descriptors_passes() {
    let world = World::with_few_files(64);
    let held: Vec<_> = (0..80).map(|_| world.connect()).collect();
    drop(held);
    eventually("it serves again", || {
        let mut client = world.connect();
        client.send(get("/public/x").bytes());
        client.try_response("GET").filter(|a| a.status == 200)
    });
    world.user("alice");
}

#[test]
fn a_body_that_never_comes_holds_nobody_up_and_ends_with_its_client() {
    let world = World::new();
    let mut waiting: Vec<_> = (0..50)
        .map(|_| {
            let mut client = world.connect();
            client.send("POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{");
            client
        })
        .collect();
    world.user("alice");
    waiting.truncate(10);
    drop(waiting);
    eventually("all are given back", || (world.metric("gatepost_connections")? <= 1.0).then_some(()));
}
