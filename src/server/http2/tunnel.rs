//! One HTTP/2 stream as a stream of bytes, for what is no message any more (RFC 8441 section 5).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Link;
use super::exchange::Outflow;

/// Both directions of a stream.
pub(super) struct StreamIo {
    outflow: Outflow,
    inflow: RecvStream,
    /// Read and not yet taken.
    held: Bytes,
    shut: bool,
}

impl StreamIo {
    pub(super) fn new(link: &Rc<Link>, send: SendStream<Bytes>, inflow: RecvStream) -> Self {
        Self { outflow: Outflow::new(link, send), inflow, held: Bytes::new(), shut: false }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.held.is_empty() {
            match ready!(this.inflow.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.held = data.map_err(io::Error::other)?,
            }
        }
        let count = this.held.len().min(buf.remaining());
        buf.put_slice(&this.held[..count]);
        this.held.advance(count);
        this.inflow.flow_control().release_capacity(count).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(this.outflow.poll_room(cx, bytes.len())).map_err(io::Error::other)?;
        let count = room.min(bytes.len());
        this.outflow.send(Bytes::copy_from_slice(&bytes[..count]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    /// The connection writes by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.shut, true) {
            this.outflow.send(Bytes::new(), true).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}
