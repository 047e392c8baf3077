//! What the tests are made with: the gateway as a process, an upstream that records, a client that
//! writes bytes. Nothing here judges the product except [`world::World`]'s two verbs, refuse and pass.

pub mod client;
pub mod config;
pub mod gateway;
pub mod h2;
pub mod jwt;
pub mod request;
pub mod server;
pub mod tls;
pub mod upstream;
pub mod websocket;
pub mod wire;
pub mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A password that every rule accepts.
pub const PASSWORD: &str = "correct horse battery staple 9";

/// Asks again until there is an answer; gives up after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A port on which nobody listens, and nobody will: it is taken until the tests end.
pub fn closed_port() -> u16 {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    std::mem::forget(socket);
    port
}
