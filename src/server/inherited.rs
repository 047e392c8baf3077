//! Sockets that somebody else has opened: a service manager before it started us (`sd_listen_fds(3)`).
//!
//! They take the place of what is configured: whoever runs the gateway this way has said in the socket
//! unit where it listens. Ports below 1024 then need no privilege of ours, and connections that come while
//! nobody runs wait in the socket instead of being refused.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

/// The name (systemd's `FileDescriptorName=`) of sockets that take `redirect_http`'s place.
const REDIRECT: &str = "redirect_http";

/// Listening sockets in place of configured addresses. An empty list takes nothing's place.
#[derive(Debug, Default)]
pub struct Inherited {
    /// For `[server] listen`.
    pub(super) listen: Vec<OwnedFd>,
    /// For `[server] redirect_http`.
    pub(super) redirect: Vec<OwnedFd>,
    /// From a gateway that runs, by the places that it has listened on.
    pub(super) handed: HashMap<String, Vec<OwnedFd>>,
}

/// What was passed cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("LISTEN_FDS: file descriptor {number} is no TCP or Unix stream socket")]
pub struct InheritedError {
    number: usize,
}

impl Inherited {
    /// These sockets.
    #[must_use]
    pub fn new(listen: Vec<OwnedFd>, redirect: Vec<OwnedFd>) -> Self {
        Self { listen, redirect, handed: HashMap::new() }
    }

    /// The sockets of the gateway that this one follows, by the names that [`Server::sockets`] gave them.
    ///
    /// [`Server::sockets`]: super::Server::sockets
    #[must_use]
    pub fn handed(handed: HashMap<String, Vec<OwnedFd>>) -> Self {
        Self { handed, ..Self::default() }
    }

    /// What `LISTEN_FDS` says, when it is meant for this process (`LISTEN_PID`).
    ///
    /// To be called once, and before there are threads: it takes these variables out of the environment.
    ///
    /// # Errors
    /// When one of them is something else than a stream socket.
    pub fn from_environment() -> Result<Self, InheritedError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        for (at, is_redirect) in redirects(&names, passed.len()).into_iter().enumerate() {
            let socket = take(&mut passed, at).ok_or(InheritedError { number: at + 3 })?;
            if is_redirect { &mut inherited.redirect } else { &mut inherited.listen }.push(socket);
        }
        Ok(inherited)
    }
}

fn take(passed: &mut ListenFd, at: usize) -> Option<OwnedFd> {
    if let Ok(Some(listener)) = passed.take_tcp_listener(at) {
        return Some(listener.into());
    }
    passed.take_unix_listener(at).ok().flatten().map(Into::into)
}

/// Which of `count` sockets are for `redirect_http`.
fn redirects(names: &str, count: usize) -> Vec<bool> {
    let names = names.split(':').map(|name| name == REDIRECT);
    names.chain(std::iter::repeat(false)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_apart_by_name() {
        for (names, expected) in [
            ("", [false, false, false]),
            ("https:redirect_http:https", [false, true, false]),
            ("redirect_http", [true, false, false]),
            ("unknown:unknown:redirect_http:redirect_http", [false, false, true]),
        ] {
            assert_eq!(redirects(names, 3), expected, "{names}");
        }
        assert!(redirects("redirect_http", 0).is_empty());
    }
}
