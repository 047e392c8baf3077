//! Sockets that listen: one for each worker and address, so that workers share nothing while they accept.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use crate::settings::Endpoint;

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
    /// A Unix socket's file, to be removed at the end.
    pub(super) file: Option<PathBuf>,
}

/// Binds `endpoint` once for each worker.
pub(super) fn bind(endpoint: &Endpoint, workers: usize) -> Result<Vec<Listening>, ListenError> {
    let outcome = match endpoint {
        Endpoint::Tcp(address) => bind_tcp(address, workers),
        Endpoint::Unix(path) => bind_unix(path, workers).map(|listening| vec![listening]),
    };
    outcome.map_err(|source| ListenError { place: place(endpoint), source })
}

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
        all.push(Listening { listeners, name: format!("http://{address}"), file: None });
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
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
    }
    Ok(socket.into())
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<Listening> {
    remove_stale(path)?;
    let first = StdUnixListener::bind(path)?;
    first.set_nonblocking(true)?;
    let mut listeners = Vec::new();
    for _ in 1..workers {
        listeners.push(Bound::Unix(first.try_clone()?));
    }
    listeners.push(Bound::Unix(first));
    Ok(Listening { listeners, name: format!("unix:{}", path.display()), file: Some(path.to_owned()) })
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
