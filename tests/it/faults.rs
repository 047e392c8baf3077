//! Upstreams that fail, lie or vanish, and clients that go: one answer each, nobody hangs, nothing is
//! told twice.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::config::Config;
use crate::support::gateway::Gateway;
use crate::support::request::{Request, get, post};
use crate::support::upstream::{Upstream, echo, hang, reset};
use crate::support::wire::show;
use crate::support::world::World;
use crate::support::{closed_port, eventually};

#[test]
fn an_upstream_that_refuses_is_502_and_leaks_no_address() {
    let port = closed_port();
    let gateway = Gateway::start(&Config::new().upstream("app", port));
    for method in ["GET", "POST", "PUT"] {
        let answer = gateway.ask(Request::new(method, "/public/x"));
        answer.is_problem(502, "upstream_unreachable");
        assert!(
            !answer.text().contains("127.0.0.1") && !answer.text().contains(&port.to_string()),
            "{}",
            answer.text()
        );
    }
    // A call with a body gets its answer too, and the gateway's own endpoints go on.
    gateway
        .ask(post("/public/x").body("text/plain", "b".repeat(500_000)))
        .is_problem(502, "upstream_unreachable");
    gateway.user("alice");
}

#[test]
fn an_upstream_behind_a_unix_socket_comes_and_goes() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("app.sock");
    let gateway = Gateway::start(
        &Config::new().upstream_table(&format!("name = \"app\"\nservers = [\"unix:{}\"]", path.display())),
    );
    gateway.ask(get("/public/x")).is_problem(502, "upstream_unreachable");

    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                    head.push(byte[0]);
                }
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nunix");
            });
        }
    });
    assert_eq!(gateway.ask(get("/public/x")).expect(200).text(), "unix");
}

#[test]
fn rubbish_from_the_upstream_is_502() {
    for bytes in [
        &b"rubbish\r\n\r\n"[..],
        b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"",
    ] {
        let world = World::before(Upstream::answering_and_closing(bytes), |c| c);
        for method in ["GET", "POST"] {
            let mut client = world.connect();
            let answer = client.send(Request::new(method, "/public/x").bytes()).try_response(method);
            let answer = answer.unwrap_or_else(|| panic!("no answer to {method} with {}", show(bytes)));
            assert_eq!(answer.status, 502, "{method} {}: {} {}", show(bytes), answer.status, answer.text());
            assert!(
                answer.code() == "upstream_invalid" || answer.code() == "upstream_unreachable",
                "{} {}",
                show(bytes),
                answer.text()
            );
            answer.is_problem(502, &answer.code());
        }
        let mut client = world.connect();
        assert_eq!(
            client.send(Request::new("HEAD", "/public/x").bytes()).response_to("HEAD").status,
            502,
            "HEAD {}",
            show(bytes)
        );
        world.ask(get("/auth/nothing")).is_problem(404, "not_found");
    }
}

#[test]
fn an_unasked_101_is_502() {
    let bytes = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nPOISON";
    let world = World::before(Upstream::answering(bytes), |c| c);
    for request in
        [get("/public/x"), get("/public/x").header("Connection", "Upgrade").header("Upgrade", "websocket")]
    {
        let answer = world.ask(request);
        answer.is_problem(502, "upstream_invalid");
        assert!(!answer.text().contains("POISON"));
    }
}

#[test]
fn a_head_bomb_from_the_upstream_is_502() {
    for lines in ["X-Bomb: ".to_owned() + &"b".repeat(2_000_000) + "\r\n", "X-A: b\r\n".repeat(50_000)] {
        let world = World::before(
            Upstream::answering_and_closing(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n")),
            |c| c,
        );
        world.ask(get("/public/x")).is_problem(502, "upstream_invalid");
    }
}

#[test]
fn an_upstream_that_never_answers_is_504() {
    let upstream = Upstream::scripted(hang);
    let port = upstream.port();
    let world = World::before(upstream, |c| c.upstream_with("app", port, "timeout = \"1s\""));
    world.ask(get("/public/x")).is_problem(504, "upstream_timeout");
    world.ask(post("/public/x").body("text/plain", "b")).is_problem(504, "upstream_timeout");
    world.upstream.wait_until_all_closed();
    assert_eq!(world.upstream.count(), 2, "a request that timed out is not sent again");
}

#[test]
fn half_a_head_is_504_and_a_routes_timeout_counts() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nX-Half");
        exchange.wait_until_closed();
    });
    let world =
        World::before(upstream, |c| c.route("path = \"/slow/**\"\naccess = \"public\"\ntimeout = \"1s\""));
    world.ask(get("/slow/x")).is_problem(504, "upstream_timeout");
}

#[test]
fn a_body_that_ends_early_ends_the_answer_visibly() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nrubbish\r\n",
    ] {
        let world = World::before(Upstream::answering_and_closing(bytes), |c| c);
        let mut client = world.connect();
        client.send(get("/public/x").bytes());
        let answer = client.try_response("GET");
        if let Some(answer) = answer {
            assert!(answer.fault.is_some() || answer.status == 502, "{bytes:?} looked whole: {answer:?}");
        }
        client.ends();
        assert_eq!(world.upstream.count(), 1);
    }
}

#[test]
fn a_reset_before_the_head_is_502() {
    let world = World::before(Upstream::scripted(reset), |c| c);
    for request in [get("/public/x"), post("/public/x").body("text/plain", "x")] {
        assert_eq!(world.ask(request).status, 502);
    }
}

#[test]
fn what_follows_an_answer_poisons_nobody() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n",
    ] {
        let world = World::before(Upstream::answering(format!("{answer}{poison}")), |c| c);
        for method in ["GET", "HEAD", "POST"] {
            let mut client = world.connect();
            let got = client.send(Request::new(method, "/public/x").bytes()).response_to(method);
            assert!(!got.text().contains("POISON"), "{method} {answer:?}: {got:?}");
            let next = client.send(get("/auth/nothing").bytes()).try_response("GET");
            if let Some(next) = next {
                next.is_problem(404, "not_found");
            }
            let other = world.ask(get("/public/y"));
            assert!(!other.text().contains("POISON"), "{method} {answer:?}: {other:?}");
        }
    }
}

#[test]
fn interim_answers_are_passed_or_swallowed_and_a_flood_of_them_ends() {
    let world = World::before(
        Upstream::answering(
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Auth-User: evil\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        |c| c,
    );
    let answer = world.ask(get("/public/x"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));

    let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100_000);
    let world = World::before(
        Upstream::answering(format!("{flood}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
        |c| c,
    );
    let answer = world.ask(get("/public/x"));
    assert!(matches!(answer.status, 200 | 502), "{}", answer.text());
}

#[test]
fn an_endless_flood_of_interim_answers_times_out() {
    let upstream =
        Upstream::scripted(|exchange| while exchange.send("HTTP/1.1 102 Processing\r\n\r\n".repeat(100)) {});
    let port = upstream.port();
    let world = World::before(upstream, |c| c.upstream_with("app", port, "timeout = \"1s\""));
    let answer = world.ask(get("/public/x"));
    assert!(matches!(answer.status, 502 | 504), "{}", answer.text());
}

#[test]
fn a_client_that_goes_takes_its_upstream_request_along() {
    for bytes in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"] {
        let world = World::before(
            Upstream::scripted(move |exchange| {
                exchange.send(bytes);
                exchange.wait_until_closed();
            }),
            |c| c,
        );
        let mut client = world.connect();
        client.send(get("/public/x").bytes());
        world.upstream.wait_for(1);
        drop(client);
        world.upstream.wait_until_all_closed();
    }
}

#[test]
fn a_client_that_half_closes_is_gone() {
    let world = World::before(Upstream::scripted(hang), |c| c);
    let mut client = world.connect();
    client.send(get("/public/x").bytes());
    world.upstream.wait_for(1);
    client.wire.half_close();
    world.upstream.wait_until_all_closed();
}

#[test]
fn a_pooled_connection_that_the_upstream_closed_is_not_used() {
    // Answers as if it would keep the connection, and closes it.
    let world = World::before(
        Upstream::scripted(|exchange| {
            echo(exchange);
            exchange.close();
        }),
        |c| c,
    );
    for i in 0..10 {
        let request =
            if i % 2 == 0 { get("/public/x") } else { post("/public/x").body("text/plain", "once") };
        world.ask(request).expect(200);
        world.upstream.wait_until_all_closed();
    }
    assert_eq!(world.upstream.count(), 10, "each arrived exactly once");
}

#[test]
fn a_post_that_was_written_is_not_repeated() {
    for request in [
        post("/public/pay").body("text/plain", "once"),
        post("/public/pay"),
        Request::new("PATCH", "/public/pay"),
    ] {
        // Takes the second request of its first connection and ends without an answer.
        let world = World::before(dies_on_the_second(), |c| c.set("server", "workers", "1"));
        world.ask(get("/public/first")).expect(200);
        let answer = world.ask(request);
        assert_eq!(answer.status, 502, "{}", answer.text());
        let paid = world.upstream.seen().iter().filter(|r| r.target == "/public/pay").count();
        assert_eq!(paid, 1);
    }
}

#[test]
fn a_get_may_be_repeated_on_a_fresh_connection_and_no_more_than_once() {
    let world = World::before(dies_on_the_second(), |c| c.set("server", "workers", "1"));
    world.ask(get("/public/first")).expect(200);
    let answer = world.ask(get("/public/again"));
    assert!(matches!(answer.status, 200 | 502), "{}", answer.text());
    let asked = world.upstream.seen().iter().filter(|r| r.target == "/public/again").count();
    assert!(asked <= 2, "asked {asked} times");
}

fn dies_on_the_second() -> Upstream {
    let seen = AtomicUsize::new(0);
    Upstream::scripted(move |exchange| {
        let first_of_all = seen.fetch_add(1, Ordering::SeqCst) == 0;
        if first_of_all || exchange.request().connection > 0 {
            echo(exchange);
        } else {
            exchange.read_body();
            exchange.close();
        }
    })
}

#[test]
fn a_pooled_connection_is_given_back_when_it_has_been_idle() {
    let upstream = Upstream::echo();
    let port = upstream.port();
    let world = World::before(upstream, |c| c.upstream_with("app", port, "idle = \"1s\""));
    world.ask(get("/public/x")).expect(200);
    world.upstream.wait_until_all_closed();
}

#[test]
fn an_upstream_asking_to_close_is_asked_on_a_fresh_connection() {
    let world = World::before(
        Upstream::answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        |c| c,
    );
    let mut client = world.connect();
    for _ in 0..3 {
        client.send(get("/public/x").bytes()).response().expect(200);
    }
    assert_eq!(world.upstream.opened(), 3, "and the client's own connection is kept");
}

#[test]
fn a_slow_upstream_holds_nobody_else_up() {
    let world = World::before(
        Upstream::scripted(|exchange| {
            if exchange.request().target == "/public/slow" {
                exchange.wait_until_closed();
            } else {
                echo(exchange);
            }
        }),
        |c| c,
    );
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut client = world.connect();
            client.send(get("/public/slow").bytes());
            client
        })
        .collect();
    world.upstream.wait_for(20);
    for _ in 0..20 {
        world.ask(get("/public/x")).expect(200);
    }
    drop(waiting);
    // Only those stay that are kept for the next request: one a worker.
    world.upstream.wait_until_open(2);
}

#[test]
fn faults_are_counted_by_kind() {
    let world = World::before(Upstream::answering_and_closing("rubbish\r\n\r\n"), |c| c);
    world.ask(get("/public/x")).is_problem(502, "upstream_invalid");
    let metrics = world.ask_admin("/metrics").text();
    let line = metrics
        .lines()
        .find(|l| l.starts_with("gatepost_upstream_errors_total{upstream=\"app\"") && l.ends_with(" 1"));
    assert!(line.is_some(), "{metrics}");
}

#[test]
fn after_a_storm_of_faults_everything_is_given_back() {
    let world = World::before(
        Upstream::scripted(|exchange| match exchange.request().target.as_str() {
            "/public/reset" => exchange.reset(),
            "/public/rubbish" => {
                exchange.send("rubbish\r\n\r\n");
                exchange.close();
            }
            "/public/half" => {
                exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                exchange.close();
            }
            _ => echo(exchange),
        }),
        |c| c,
    );
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for path in ["/public/reset", "/public/rubbish", "/public/half", "/public/x"] {
                    let mut client = world.connect();
                    client.send(get(path).bytes());
                    let answer = client.try_response("GET");
                    if path == "/public/x" {
                        answer.unwrap().expect(200);
                    }
                }
            });
        }
    });
    eventually("all client connections are gone", || {
        (world.metric("gatepost_connections")? <= 1.0).then_some(())
    });
    world.ask(get("/public/x")).expect(200);
}
