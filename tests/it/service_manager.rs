//! What a service manager is told (`NOTIFY_SOCKET`, `sd_notify(3)`): that we serve, reload, live and stop.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::process::Signal;
use sd_notify::NotifyState;

use crate::support::PATIENCE;
use crate::support::config::Config;
use crate::support::gateway::Gateway;
use crate::support::request::get;
use crate::support::upstream::{Upstream, hang};

const LIVES: &[&str] = &["WATCHDOG=1"];

/// A gateway that is not started yet, and its manager.
struct Managed {
    gateway: Gateway,
    told: Receiver<Vec<String>>,
}

impl Managed {
    fn new(upstream: &Upstream, environment: &[(&str, &str)]) -> Self {
        let config = Config::new().upstream("app", upstream.port());
        let mut gateway = Gateway::prepare(&config.set("server", "drain_timeout", "\"10m\""));
        let path = gateway.home().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        gateway.environment = environment.collect();
        gateway.environment.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        let (tell, told) = channel();
        thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let lines = String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned).collect();
                if tell.send(lines).is_err() {
                    return;
                }
            }
        });
        Self { gateway, told }
    }

    /// The next message, line by line.
    #[track_caller]
    fn hears(&self) -> Vec<String> {
        let Ok(message) = self.told.recv_timeout(PATIENCE) else { panic!("nothing more was said") };
        message
    }

    /// The next message that is no sign of life.
    #[track_caller]
    fn hears_news(&self) -> Vec<String> {
        loop {
            let message = self.hears();
            if message != LIVES {
                return message;
            }
        }
    }

    /// Starts and hears of it.
    #[track_caller]
    fn start(&mut self) {
        self.gateway.start_again();
        assert_eq!(self.hears(), self.ready());
    }

    fn ready(&self) -> [String; 2] {
        [format!("MAINPID={}", self.gateway.pid()), "READY=1".to_owned()]
    }

    /// Hears that a reload begins, and when; then that it is over, and how it went.
    #[track_caller]
    fn hears_of_a_reload(&self) -> (i128, String) {
        let begins = self.hears_news();
        assert_eq!((begins.len(), begins[0].as_str()), (2, "RELOADING=1"), "{begins:?}");
        let since = begins[1].strip_prefix("MONOTONIC_USEC=").and_then(|usec| usec.parse().ok());
        let over = self.hears_news();
        assert_eq!((over.len(), over[0].as_str()), (2, "READY=1"), "{over:?}");
        (since.unwrap_or_else(|| panic!("{begins:?}")), over[1].strip_prefix("STATUS=").unwrap().to_owned())
    }
}

/// The system's monotonic clock, in microseconds.
fn monotonic() -> i128 {
    match NotifyState::monotonic_usec_now() {
        Ok(NotifyState::MonotonicUsec(usec)) => usec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_told_of_the_start_of_reloads_and_of_the_end() {
    let upstream = Upstream::echo();
    let mut managed = Managed::new(&upstream, &[]);
    managed.start();
    let before = monotonic();
    managed.gateway.signal(Signal::HUP);
    let (since, status) = managed.hears_of_a_reload();
    assert!((before..=monotonic()).contains(&since), "{before} {since}");
    assert!(status.contains("loaded again"), "{status}");

    // A file that is not good is the end of a reload as well, and a change needs no signal.
    let new = managed.gateway.home().join("config.new");
    fs::write(&new, "[server]\nno_such_key = 1\n").unwrap();
    fs::rename(&new, managed.gateway.config()).unwrap();
    let (again, status) = managed.hears_of_a_reload();
    assert!(again > since);
    assert!(status.contains("not good"), "{status}");
    managed.gateway.ask(get("/public/x")).expect(200);

    assert_eq!(managed.gateway.stop().code(), Some(0));
    assert_eq!(managed.hears(), ["STOPPING=1"]);
    assert!(managed.told.try_recv().is_err(), "nobody asked for a sign of life");
}

#[test]
fn it_hears_that_we_live_while_we_serve_and_while_we_stop() {
    let upstream = Upstream::scripted(hang);
    let mut managed = Managed::new(&upstream, &[("WATCHDOG_USEC", "1000000")]);
    managed.start();
    for _ in 0..3 {
        assert_eq!(managed.hears(), LIVES);
    }
    let mut client = managed.gateway.connect();
    client.send(get("/public/x").bytes());
    upstream.wait_for(1);
    managed.gateway.signal(Signal::TERM);
    assert_eq!(managed.hears_news(), ["STOPPING=1"]);
    for _ in 0..3 {
        assert_eq!(managed.hears(), LIVES);
    }
    managed.gateway.signal(Signal::TERM);
    assert_eq!(managed.gateway.wait_for_exit().code(), Some(0));
}

#[test]
fn a_watchdog_that_is_for_another_process_is_not_ours() {
    let upstream = Upstream::echo();
    // The first sign would come with the start, and the next ones between the reloads.
    let mut managed = Managed::new(&upstream, &[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")]);
    managed.start();
    for _ in 0..2 {
        managed.gateway.signal(Signal::HUP);
        for first in ["RELOADING=1", "READY=1"] {
            assert_eq!(managed.hears()[0], first);
        }
    }
    assert_eq!(managed.gateway.stop().code(), Some(0));
    assert_eq!(managed.hears(), ["STOPPING=1"]);
}

#[test]
fn who_takes_over_is_watched_instead() {
    let upstream = Upstream::echo();
    let mut managed = Managed::new(&upstream, &[("WATCHDOG_USEC", "1000000")]);
    managed.start();
    assert_eq!(managed.hears(), LIVES);
    // Who is not started as the service's main process is told of no watchdog.
    managed.gateway.environment.retain(|(name, _)| name != "WATCHDOG_USEC");
    for _ in 0..2 {
        let mut old = managed.gateway.take_over();
        assert_eq!(managed.hears_news(), managed.ready(), "and nobody says that it stops");
        assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
        while let Ok(message) = managed.told.try_recv() {
            assert_eq!(message, LIVES);
        }
        // What was on its way when the old one ended is one message at most.
        for _ in 0..3 {
            assert_eq!(managed.hears(), LIVES);
        }
    }
}
