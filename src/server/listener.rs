//! Sockets that listen: one for each worker and address, so that workers share nothing while they accept.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use crate::settings::Endpoint;
use crate::stream::{bound_unsent, keep_alive};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A bound listener, not yet part of a runtime.
#[derive(Debug)]
pub(super) enum Bound {
    /// TCP.
    Tcp(StdTcpListener),
    /// A Unix socket.
    Unix(StdUnixListener),
}

impl Bound {
    /// The same socket once more.
    pub(super) fn again(&self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Tcp(listener) => listener.try_clone()?.into(),
            Self::Unix(listener) => listener.try_clone()?.into(),
        })
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}: {source}")]
pub struct ListenError {
    place: String,
    #[source]
    source: io::Error,
}

/// Everything that one address needs: a listener for each worker, and its name as people write it.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listeners: Vec<Bound>,
    pub(super) name: String,
    /// A Unix socket has none.
    pub(super) port: Option<u16>,
    /// A Unix socket's file, to be removed at the end.
    pub(super) file: Option<PathBuf>,
    /// Whether all listeners are one socket.
    pub(super) is_shared: bool,
    /// What it is called when it is handed to another process.
    pub(super) place: String,
}

impl Listening {
    /// Its sockets once more. All workers share one that was passed: then it is one.
    pub(super) fn again(&self) -> io::Result<Vec<OwnedFd>> {
        let count = if self.is_shared { 1 } else { self.listeners.len() };
        self.listeners.iter().take(count).map(Bound::again).collect()
    }
}

/// Goes on listening on `sockets`, which another process has bound to this endpoint. All of them are kept,
/// for each has a queue of its own; with more workers than sockets, some share.
fn adopt(endpoint: &Endpoint, sockets: Vec<OwnedFd>, workers: usize) -> Result<Vec<Listening>, ListenError> {
    let outcome = match endpoint {
        Endpoint::Tcp(_) => adopt_tcp(sockets, workers),
        Endpoint::Unix(path) => adopt_unix(path, sockets, workers).map(|listening| vec![listening]),
    };
    outcome.map_err(|source| ListenError { place: place(endpoint), source })
}

fn adopt_tcp(sockets: Vec<OwnedFd>, workers: usize) -> io::Result<Vec<Listening>> {
    let mut by_address: Vec<(SocketAddr, Vec<StdTcpListener>)> = Vec::new();
    for socket in sockets.into_iter().map(StdTcpListener::from) {
        socket.set_nonblocking(true)?;
        prepare(&socket);
        let address = socket.local_addr()?;
        match by_address.iter_mut().find(|(known, _)| *known == address) {
            Some((_, known)) => known.push(socket),
            None => by_address.push((address, vec![socket])),
        }
    }
    let listening = |(address, mut sockets): (SocketAddr, Vec<StdTcpListener>)| {
        while sockets.len() < workers {
            let more = socket(address, true).or_else(|_| sockets[0].try_clone())?;
            sockets.push(more);
        }
        let listeners = sockets.into_iter().map(Bound::Tcp).collect();
        Ok(Listening {
            listeners,
            name: format!("http://{address}"),
            port: Some(address.port()),
            file: None,
            is_shared: false,
            place: String::new(),
        })
    };
    by_address.into_iter().map(listening).collect()
}

fn adopt_unix(path: &Path, sockets: Vec<OwnedFd>, workers: usize) -> io::Result<Listening> {
    let mut sockets: Vec<_> = sockets.into_iter().map(StdUnixListener::from).collect();
    while sockets.len() < workers {
        sockets.push(sockets[0].try_clone()?);
    }
    for socket in &sockets {
        socket.set_nonblocking(true)?;
    }
    Ok(on_unix(path, sockets))
}

/// One socket, once for each worker.
fn on_unix(path: &Path, sockets: Vec<StdUnixListener>) -> Listening {
    Listening {
        listeners: sockets.into_iter().map(Bound::Unix).collect(),
        name: format!("unix:{}", path.display()),
        port: None,
        file: Some(path.to_owned()),
        is_shared: true,
        place: String::new(),
    }
}

/// Listens on `endpoints`, or on the sockets that were passed in their place, once for each worker.
/// What a gateway before this one has listened on is taken from `handed`; `passed_as` is where it has
/// kept sockets that were passed to it.
pub(super) fn listen_on(
    endpoints: &[Endpoint],
    mut passed: Vec<OwnedFd>,
    passed_as: &str,
    handed: &mut HashMap<String, Vec<OwnedFd>>,
    workers: usize,
) -> Result<Vec<Listening>, ListenError> {
    let mut all = Vec::new();
    passed.extend(handed.remove(passed_as).unwrap_or_default());
    if passed.is_empty() {
        for endpoint in endpoints {
            let place = place(endpoint);
            let listening = match handed.remove(&place) {
                Some(sockets) => adopt(endpoint, sockets, workers)?,
                None => bind(endpoint, workers)?,
            };
            all.extend(listening.into_iter().map(|l| Listening { place: place.clone(), ..l }));
        }
        return Ok(all);
    }
    for socket in passed {
        let place = || "a socket that was passed to it".to_owned();
        let shared = share(socket, workers).map_err(|source| ListenError { place: place(), source })?;
        all.push(Listening { place: passed_as.to_owned(), ..shared });
    }
    Ok(all)
}

/// One passed socket for every worker: unlike our own, it cannot be opened once more.
fn share(socket: OwnedFd, workers: usize) -> io::Result<Listening> {
    let socket = Socket::from(socket);
    if !socket.is_listener()? {
        // `Accept=yes` passes a connection instead.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let is_unix = address.is_unix();
    if !is_unix {
        prepare(&socket);
    }
    let name = match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => format!("http://{address}"),
        (None, path) => format!("unix:{}", path.unwrap_or(Path::new("(no path)")).display()),
    };
    let bound = |socket: Socket| if is_unix { Bound::Unix(socket.into()) } else { Bound::Tcp(socket.into()) };
    let mut listeners = Vec::new();
    for _ in 1..workers {
        listeners.push(bound(socket.try_clone()?));
    }
    listeners.push(bound(socket));
    let port = address.as_socket().map(|address| address.port());
    Ok(Listening { listeners, name, port, file: None, is_shared: true, place: String::new() })
}

/// Binds `endpoint` once for each worker.
fn bind(endpoint: &Endpoint, workers: usize) -> Result<Vec<Listening>, ListenError> {
    let outcome = match endpoint {
        Endpoint::Tcp(address) => bind_tcp(address, workers),
        Endpoint::Unix(path) => bind_unix(path, workers).map(|listening| vec![listening]),
    };
    outcome.map_err(|source| ListenError { place: place(endpoint), source })
}

/// As the configuration writes it.
fn place(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp(address) => address.clone(),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn bind_tcp(address: &str, workers: usize) -> io::Result<Vec<Listening>> {
    let mut all = Vec::new();
    for address in address.to_socket_addrs()? {
        // Sharing a port is for our own workers. Without this look, a second gateway on the same port
        // would silently take half of the connections.
        drop(socket(address, false)?);
        let first = socket(address, true)?;
        let address = first.local_addr()?;
        let mut listeners = vec![Bound::Tcp(first)];
        for _ in 1..workers {
            listeners.push(Bound::Tcp(socket(address, true)?));
        }
        all.push(Listening {
            listeners,
            name: format!("http://{address}"),
            port: Some(address.port()),
            file: None,
            is_shared: false,
            place: String::new(),
        });
    }
    if all.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(all)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if shared {
        prepare(&socket);
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
    }
    Ok(socket.into())
}

/// Gives a socket what the connections that it accepts shall have from their start: they are connected by
/// the system before anybody accepts them, and then it is too late.
fn prepare<S: AsFd>(socket: &S) {
    if let Err(error) = keep_alive(socket) {
        tracing::warn!(%error, "clients that vanish will not be noticed");
    }
    if let Err(error) = bound_unsent(socket) {
        tracing::warn!(%error, "clients that do not read will take more memory");
    }
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<Listening> {
    remove_stale(path)?;
    let first = StdUnixListener::bind(path)?;
    first.set_nonblocking(true)?;
    let mut sockets = Vec::new();
    for _ in 1..workers {
        sockets.push(first.try_clone()?);
    }
    sockets.push(first);
    Ok(on_unix(path, sockets))
}

/// Removes a socket file that nobody listens on any more; anything else in its place is an error.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there")),
        Err(_) => std::fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn connections_have_their_socket_options_even_when_nobody_has_accepted_them_yet() {
        let passed = StdTcpListener::bind("127.0.0.1:0").expect("a port");
        let handed = StdTcpListener::bind("127.0.0.1:0").expect("a port");
        let bound = bind_tcp("127.0.0.1:0", 1).expect("bound").remove(0);
        let shared = share(passed.into(), 1).expect("shared");
        let adopted = adopt_tcp(vec![handed.into()], 1).expect("adopted").remove(0);
        for listening in [bound, shared, adopted] {
            let client = TcpStream::connect(("127.0.0.1", listening.port.expect("TCP"))).expect("connected");
            let Bound::Tcp(listener) = &listening.listeners[0] else { unreachable!("it is TCP") };
            listener.set_nonblocking(false).expect("it may wait");
            let (accepted, _) = listener.accept().expect("a connection");
            let accepted = SockRef::from(&accepted);
            assert!(accepted.keepalive().expect("told"));
            #[cfg(target_os = "linux")]
            assert_eq!(accepted.tcp_notsent_lowat().expect("told"), 128 * 1024, "{}", listening.name);
            drop(client);
        }
    }
}
