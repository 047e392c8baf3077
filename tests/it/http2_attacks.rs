//! Attacks on HTTP/2: the attacker's connection ends, memory is bounded, others are served meanwhile.
//!
//! Each attack runs until the gateway ends it, on several connections at once, while an honest client
//! asks on a connection of its own.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, H2, HEADERS, PING, PREFACE, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, get, head, hpack,
};
use crate::support::upstream::{Upstream, hang};
use crate::support::world::World;
use crate::support::{PATIENCE, eventually};

/// What the gateway may grow by while it is attacked, in KiB. Generous: debug builds are large.
const GROWTH: u64 = 48 * 1024;
const ATTACKERS: usize = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

fn world() -> World {
    World::with(|c| c.set("server", "h2c", "true"))
}

fn resident_kib(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn flooded(world: &World) -> f64 {
    world.metric("gatepost_connections_ended_total{reason=\"h2_flood\"}").unwrap_or_default()
}

/// Sends what `wave` gives, again and again, until the connection is over. Gives the GOAWAY's code.
fn attack(mut frames: Frames, mut wave: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        assert!(Instant::now() < deadline, "the gateway puts up with it");
        if !frames.send(&wave(number)) {
            break;
        }
    }
    frames.ends()
}

/// Runs the attack from several connections beside an honest client, and holds the gateway to its
/// bounds. Gives how each attacker's connection ended.
#[track_caller]
fn withstands(world: &World, attacker: impl Fn() -> Option<u32> + Sync) -> Vec<Option<u32>> {
    let mut honest = H2::connect(world.address());
    assert_eq!(honest.get("/public/before").status, 200);
    let before = resident_kib(world);
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ends = thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS).map(|_| scope.spawn(&attacker)).collect();
        let honest = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) || asked.load(Ordering::Relaxed) < 3 {
                assert_eq!(honest.get("/public/meanwhile").status, 200);
                // And newcomers get in.
                assert_eq!(H2::connect(world.address()).get("/public/new").status, 200);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let ends: Vec<_> = attackers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        honest.join().unwrap();
        ends
    });
    let grown = resident_kib(world).saturating_sub(before);
    assert!(grown < GROWTH, "{grown} KiB more");
    ends.into_iter().map(Result::unwrap).collect()
}

/// The same, for what is counted as a flood.
#[track_caller]
fn is_a_flood(world: &World, attacker: impl Fn() -> Option<u32> + Sync) {
    let ends = withstands(world, attacker);
    // GOAWAY may be lost when the attacker's bytes meet a closed socket; then it is the reset that ends it.
    assert!(ends.iter().all(|end| matches!(end, None | Some(ENHANCE_YOUR_CALM))), "{ends:?}");
    eventually("they are counted", || (flooded(world) >= 4.0).then_some(()));
}

/// A head as a frame, with an odd stream number of its own.
fn request(number: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, number * 2 + 1, &hpack(&head("/public/attack")))
}

#[test]
fn rapid_reset() {
    let world = world();
    let cancel = 8_u32.to_be_bytes();
    let ends = withstands(&world, || {
        attack(Frames::connect(world.address()), |number| {
            let mut bytes = request(number, END_STREAM);
            bytes.extend(frame(RST_STREAM, 0, number * 2 + 1, &cancel));
            bytes
        })
    });
    assert!(ends.iter().all(|end| matches!(end, None | Some(ENHANCE_YOUR_CALM))), "{ends:?}");
    // Whoever counted first.
    let rubbish = "gatepost_connections_ended_total{reason=\"rubbish\"}";
    eventually("they are counted", || (flooded(&world) + world.metric(rubbish)? >= 4.0).then_some(()));
    let seen = world.upstream.seen().iter().filter(|r| r.target == "/public/attack").count();
    assert!(seen <= 4 * 400, "{seen} requests reached the upstream");
}

#[test]
fn streams_that_are_made_to_be_reset() {
    let world = world();
    // Each of these is an error of one stream, which we have to reset: MadeYouReset, CVE-2025-8671.
    let faults: [fn(u32) -> Vec<u8>; 3] = [
        |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]),
        |stream| {
            let most = 0x7fff_ffff_u32.to_be_bytes();
            [frame(WINDOW_UPDATE, 0, stream, &most), frame(WINDOW_UPDATE, 0, stream, &most)].concat()
        },
        |stream| frame(PRIORITY, 0, stream, &[stream.to_be_bytes().as_slice(), &[1]].concat()),
    ];
    for fault in faults {
        let ends = withstands(&world, || {
            attack(Frames::connect(world.address()), |number| {
                let mut bytes = request(number, 0);
                bytes.extend(fault(number * 2 + 1));
                bytes
            })
        });
        assert!(ends.iter().all(|end| *end != Some(0)), "{ends:?}");
    }
}

#[test]
fn heads_without_an_end() {
    let world = world();
    let block = hpack(&[("x-a", "bbbbbbbb")]);
    is_a_flood(&world, || {
        let mut frames = Frames::connect(world.address());
        frames.send(&frame(HEADERS, END_STREAM, 1, &hpack(&head("/public/attack"))));
        attack(frames, |_| frame(CONTINUATION, 0, 1, &block))
    });
    is_a_flood(&world, || {
        let mut frames = Frames::connect(world.address());
        frames.send(&frame(HEADERS, END_STREAM, 1, &hpack(&head("/public/attack"))));
        attack(frames, |_| frame(CONTINUATION, 0, 1, &[]))
    });
    assert!(world.upstream.seen().iter().all(|r| r.target != "/public/attack"));
}

#[test]
fn frames_that_only_want_an_answer() {
    let world = world();
    is_a_flood(&world, || attack(Frames::connect(world.address()), |_| frame(PING, 0, 0, &[0; 8])));
    is_a_flood(&world, || {
        attack(Frames::connect(world.address()), |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]))
    });
    is_a_flood(&world, || attack(Frames::connect(world.address()), |_| frame(SETTINGS, 0, 0, &[])));
    is_a_flood(&world, || attack(Frames::connect(world.address()), |_| frame(PING, ACK, 0, &[0; 8])));
}

#[test]
fn frames_that_only_cost_time() {
    let world = world();
    is_a_flood(&world, || {
        attack(Frames::connect(world.address()), |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]))
    });
    is_a_flood(&world, || attack(Frames::connect(world.address()), |_| frame(0x42, 0, 0, &[0; 100])));
    is_a_flood(&world, || {
        attack(Frames::connect(world.address()), |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()))
    });
}

#[test]
fn data_without_data() {
    let world = World::before(
        Upstream::scripted(|exchange| {
            if exchange.request().target == "/public/attack" {
                hang(exchange);
            } else {
                crate::support::upstream::echo(exchange);
            }
        }),
        |c| c.set("server", "h2c", "true"),
    );
    let ends = withstands(&world, || {
        let mut frames = Frames::connect(world.address());
        let mut fields = head("/public/attack");
        fields[0].1 = "POST";
        frames.send(&frame(HEADERS, END_HEADERS, 1, &hpack(&fields)));
        attack(frames, |_| frame(DATA, 0, 1, &[]))
    });
    assert!(ends.iter().all(|end| matches!(end, None | Some(ENHANCE_YOUR_CALM))), "{ends:?}");
}

#[test]
fn small_blocks_that_grow_when_they_are_unpacked() {
    let world = world();
    // A field of 4000 bytes goes into the dynamic table; each byte after that means it once more.
    let mut bomb = vec![0x40];
    bomb.extend(&hpack(&[("x-bomb", &"b".repeat(4000))])[1..]);
    bomb.extend([0xbe; 10_000]);
    let mut block = hpack(&head("/public/attack"));
    block.extend(&bomb);
    withstands(&world, || {
        let mut frames = Frames::connect(world.address());
        for stream in 0..50_u32 {
            if !frames.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream * 2 + 1, &block)) {
                break;
            }
        }
        frames.send(&frame(GOAWAY, 0, 0, &[0; 8]));
        frames.wire.half_close();
        frames.ends()
    });
    assert!(world.upstream.seen().iter().all(|r| r.target != "/public/attack"));
}

#[test]
fn fields_without_names_and_values() {
    let world = world();
    let mut block = hpack(&head("/public/attack"));
    for _ in 0..1000 {
        block.extend([0, 0, 0]);
    }
    withstands(&world, || {
        let mut frames = Frames::connect(world.address());
        for stream in 0..50_u32 {
            if !frames.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream * 2 + 1, &block)) {
                break;
            }
        }
        frames.wire.half_close();
        frames.ends()
    });
    assert!(world.upstream.seen().iter().all(|r| r.target != "/public/attack"));
}

/// Before an upstream that has a MiB at `/public/large`; clients may stall for two seconds.
fn world_with_a_large_answer() -> World {
    let body = "z".repeat(1 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let small = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    World::before(
        Upstream::scripted(move |exchange| {
            exchange.read_body();
            let is_large = exchange.request().target == "/public/large";
            exchange.send(if is_large { answer.as_str() } else { small });
        }),
        |c| c.set("server", "h2c", "true").set("server.limits", "write_stall", "\"2s\""),
    )
}

#[test]
fn windows_that_stay_closed() {
    let world = world_with_a_large_answer();
    for window in [0, 1] {
        withstands(&world, || {
            let mut frames = Frames::connect_with(world.address(), &[(4, window)]);
            for stream in 0..50_u32 {
                frames.request(stream * 2 + 1, &head("/public/large"));
            }
            // Each stream is given up by itself; the connection may ask on.
            for stream in 0..50_u32 {
                let reset =
                    frames.find(|f| f.kind == RST_STREAM).unwrap_or_else(|| panic!("{stream} are reset"));
                assert_eq!(reset.payload, [0, 0, 0, 8], "CANCEL");
            }
            None
        });
    }
}

#[test]
fn a_client_that_does_not_read() {
    let world = world_with_a_large_answer();
    let stalled = "gatepost_connections_ended_total{reason=\"write_stall\"}";
    let wide = [(4, 0x7fff_ffff)];
    withstands(&world, || {
        let mut frames = Frames::connect_with(world.address(), &wide);
        frames.send(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()));
        for stream in 0..50_u32 {
            frames.request(stream * 2 + 1, &head("/public/large"));
        }
        eventually("it is ended", || (world.metric(stalled)? >= 4.0).then_some(()));
        None
    });
}

#[test]
fn heads_and_greetings_that_drip() {
    let world =
        World::with(|c| c.set("server", "h2c", "true").set("server.limits", "header_timeout", "\"1s\""));
    let block = hpack(&head("/public/attack"));
    let mut started = Vec::new();
    for kind in 0..6 {
        let mut frames = Frames::silent(world.address());
        match kind {
            0 => {
                frames.send(&PREFACE[..5]);
            }
            1 => {
                frames.send(PREFACE);
            }
            2 => {
                frames.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])[..4]].concat());
            }
            3 => {
                frames = Frames::connect(world.address());
                frames.send(&frame(HEADERS, END_STREAM, 1, &block));
            }
            4 => {
                frames = Frames::connect(world.address());
                frames.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)[..15]);
            }
            _ => {
                frames = Frames::connect(world.address());
                frames.send(&frame(HEADERS, END_STREAM, 1, &block));
                frames.send(&frame(CONTINUATION, 0, 1, &[]));
            }
        }
        started.push(frames);
    }
    let mut honest = H2::connect(world.address());
    for frames in &mut started {
        frames.ends();
        assert_eq!(honest.ask(get("/public/x"), b"").status, 200);
    }
    let late = "gatepost_connections_ended_total{reason=\"header_timeout\"}";
    eventually("they are counted", || (world.metric(late)? >= 6.0).then_some(()));
    assert!(world.upstream.seen().iter().all(|r| r.target != "/public/attack"));
}

#[test]
fn streams_that_are_opened_and_left() {
    let world = World::with(|c| c.set("server", "h2c", "true").set("server.limits", "body_idle", "\"1s\""));
    withstands(&world, || {
        let mut frames = Frames::connect(world.address());
        let mut fields = head("/public/attack");
        fields[0].1 = "POST";
        for stream in 0..300_u32 {
            frames.send(&frame(HEADERS, END_HEADERS, stream * 2 + 1, &hpack(&fields)));
        }
        // A hundred wait for their bodies and get a 408, the others are refused.
        let mut ended = 0;
        while ended < 300 {
            let frame = frames.next().expect("the connection stays");
            ended += usize::from(
                frame.kind == HEADERS || frame.kind == RST_STREAM && frame.payload == [0, 0, 0, 7],
            );
        }
        None
    });
    assert!(world.upstream.seen().iter().all(|r| r.method == "GET" || !r.complete));
}

#[test]
fn the_limits_are_what_the_configuration_says() {
    let world = World::with(|c| {
        let c = c.set("server", "h2c", "true").set("server.limits", "pings", "10");
        c.set("server.limits", "settings", "5").set("server.limits", "resets", "7")
    });
    let mut frames = Frames::connect(world.address());
    for _ in 0..10 {
        frames.send(&frame(PING, 0, 0, &[7; 8]));
    }
    for _ in 0..10 {
        frames.find(|f| f.kind == PING && f.flags == ACK).expect("an answer");
    }
    frames.send(&frame(PING, 0, 0, &[7; 8]));
    assert_eq!(frames.ends(), Some(ENHANCE_YOUR_CALM));

    // The greeting has two.
    let mut frames = Frames::connect(world.address());
    for _ in 0..4 {
        frames.send(&frame(SETTINGS, 0, 0, &[]));
    }
    assert_eq!(frames.ends(), Some(ENHANCE_YOUR_CALM));

    let mut frames = Frames::connect(world.address());
    for number in 0..8 {
        frames.send(&request(number, 0));
        frames.send(&frame(RST_STREAM, 0, number * 2 + 1, &8_u32.to_be_bytes()));
    }
    assert_eq!(frames.ends(), Some(ENHANCE_YOUR_CALM));
    eventually("they are counted", || (flooded(&world) >= 3.0).then_some(()));
}
