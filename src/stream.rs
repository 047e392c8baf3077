//! A byte stream that is a TCP or a Unix socket, or TLS over one of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// Bytes that may wait in the system for a peer that is slow to take them; one write may go beyond it.
#[cfg(target_os = "linux")]
const UNSENT_MAX: u32 = 128 * 1024;

/// A connection whose bytes mean something to HTTP.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS that a client began. Boxed: its state is a kilobyte, and most connections have none.
    ServerTls(Box<server::TlsStream<Self>>),
    /// TLS that we began.
    ClientTls(Box<client::TlsStream<TcpStream>>),
}

/// Asks after a peer that says nothing, so that one that has vanished does not keep its place for ever:
/// after a minute, then four times within another. A listening socket gives this to what it accepts.
///
/// # Errors
/// When the system refuses.
pub fn keep_alive<S: std::os::fd::AsFd>(socket: &S) -> io::Result<()> {
    let quarter = Duration::from_secs(15);
    let manner = TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(quarter).with_retries(4);
    SockRef::from(socket).set_tcp_keepalive(&manner)
}

/// Keeps what waits in the system for a slow peer near 128 KiB on Linux, beside what is on its way. Without it
/// the system would hold megabytes for each peer that does not read. A listening socket gives this to what
/// it accepts.
///
/// # Errors
/// When the system refuses.
pub fn bound_unsent<S: std::os::fd::AsFd>(socket: &S) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_MAX)?;
    let _ = socket;
    Ok(())
}

/// Calls the same method on whichever it is.
macro_rules! either {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($socket) => $call,
            Self::Unix($socket) => $call,
            Self::ServerTls($socket) => $call,
            Self::ClientTls($socket) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, socket => Pin::new(socket).poll_write(cx, bytes))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, socket => Pin::new(socket).poll_write_vectored(cx, slices))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
}
