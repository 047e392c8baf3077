//! The bytes of an HTTP/2 connection on their way to and from the h2 crate, watched as they pass.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Link;
use crate::burst::BurstStream;
use crate::stream::Stream;

/// Bytes that one connection may have read before others have their turn: frames are small, and the
/// crate would go through all that the socket has.
const TURN: usize = 64 * 1024;
/// What is read and thrown away at the end, so that the last GOAWAY is not lost in a reset.
const LINGER: usize = 256 * 1024;

/// A socket that is read along.
pub(super) struct WatchedIo {
    stream: BurstStream,
    /// What was read before it was known to be HTTP/2.
    ahead: BytesMut,
    link: Rc<Link>,
    /// The header time of a head that has begun is running.
    timing_head: bool,
    /// The client takes nothing at the moment.
    stalled: bool,
    /// What was read last was not passed on, so nothing that follows it means anything.
    cut: bool,
    /// After the last byte was written: what was read and thrown away since.
    lingered: Option<usize>,
}

impl WatchedIo {
    pub(super) fn new(stream: Stream, ahead: BytesMut, link: &Rc<Link>) -> Self {
        Self {
            stream: BurstStream::new(stream, link.worker.bursts()),
            ahead,
            link: Rc::clone(link),
            timing_head: true,
            stalled: false,
            cut: false,
            lingered: None,
        }
    }

    /// Looks at what was read. False: it was too much, and nothing of it is passed on.
    fn look(&mut self, bytes: &[u8]) -> bool {
        let link = &self.link;
        link.turn.set(link.turn.get() + bytes.len());
        let mut frames = link.frames.borrow_mut();
        let now = link.worker.deadlines().millis();
        if let Err(offence) = frames.read(bytes, now, link.data_frames.get()) {
            link.offence.set(Some(offence));
            return false;
        }
        let awaits = frames.awaits_head();
        if awaits != self.timing_head {
            self.timing_head = awaits;
            if awaits {
                link.head.set(link.limits.header_timeout);
            } else {
                link.head.clear();
            }
        }
        true
    }

    /// Times a client that takes nothing.
    fn time<T>(&mut self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_pending() != self.stalled {
            self.stalled = outcome.is_pending();
            if self.stalled {
                self.link.write.set(self.link.limits.write_stall);
            } else {
                self.link.write.clear();
            }
        }
        outcome
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [const { MaybeUninit::uninit() }; 8 * 1024];
        let discarded = self.lingered.get_or_insert(0);
        while *discarded < LINGER {
            let mut read = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                break;
            }
            *discarded += read.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for WatchedIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut {
            // The driver sees why when the crate has done with what it has, and ends the connection.
            return Poll::Pending;
        }
        if this.link.turn.get() >= TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.ahead.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        } else {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(count));
        }
        if this.look(&buf.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        this.cut = true;
        buf.set_filled(before);
        Poll::Pending
    }
}

impl AsyncWrite for WatchedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.time(outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.time(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.time(outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingered.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        this.poll_linger(cx)
    }
}
