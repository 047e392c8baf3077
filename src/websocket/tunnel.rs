//! A WebSocket after its handshake: bytes both ways, until one side ends it or the lease does.
//!
//! Nothing is unpacked, so extensions and subprotocols are between the endpoints, and what is invalid
//! is theirs to judge. Frames are only followed, so that at the end of the lease a Close can be said
//! where a frame may stand. Nothing waits here but what a slow reader has not taken yet: one read's worth
//! in each direction, then the other side is no longer read.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{FrameTracker, close};
use crate::lease::Lease;
use crate::metrics::{Metrics, StreamEnd};

/// What is read at a time, and what may wait for a slow reader.
const SCRATCH: usize = 16 * 1024;
/// Reads in a row before others have their turn.
const TURNS: usize = 16;
/// How long an ending tunnel waits for the end of a frame and for the answers to its Close.
const CLOSING: Duration = Duration::from_secs(1);
/// How long one direction goes on after the other has ended. An end that does not read cannot answer,
/// and nobody is left to say Close.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// A connection as a tunnel needs it.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Unpin + std::fmt::Debug> Duplex for T {}

/// The application's side of a WebSocket, waiting for the client's.
pub struct Tunnel {
    upstream: Box<dyn Duplex>,
    /// What the application sent right after its 101.
    early: Bytes,
    lease: Lease,
    _open: Open,
}

impl Tunnel {
    /// A tunnel to an application that has agreed. It ends with its lease, also when the gateway stops.
    #[must_use]
    pub fn new(upstream: Box<dyn Duplex>, early: Bytes, lease: Lease) -> Self {
        lease.is_endless();
        let open = Open::count(lease.leases().metrics());
        Self { upstream, early, lease, _open: open }
    }

    /// Connects the two. `leftover` is what the client sent after its request; it waited for this.
    pub async fn run(self, client: impl AsyncRead + AsyncWrite + Unpin, leftover: Bytes) {
        let mut ends = Ends { client, upstream: self.upstream };
        let (mut up, mut down) = (Flow::new(leftover), Flow::new(self.early));
        let lease = &self.lease;
        let mut half_closed = None;
        let ended = poll_fn(|cx| {
            if let Poll::Ready(why) = lease.poll_ended(cx) {
                return Poll::Ready(Some(why));
            }
            up.poll(cx, &mut ends.client, &mut ends.upstream);
            down.poll(cx, &mut ends.upstream, &mut ends.client);
            if (up.is_done() && down.is_done()) || up.is_broken_off() || down.is_broken_off() {
                return Poll::Ready(None);
            }
            if up.is_done() || down.is_done() {
                if up.frames.is_closed() && down.frames.is_closed() {
                    return Poll::Ready(None);
                }
                let limit = half_closed.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
                return limit.as_mut().poll(cx).map(|()| None);
            }
            Poll::Pending
        })
        .await;
        if let Some(why) = ended {
            ends.close(up, down, why).await;
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// One open tunnel, counted.
struct Open(Arc<Metrics>);

impl Open {
    fn count(metrics: &Arc<Metrics>) -> Self {
        metrics.tunnels.add(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.tunnels.add(-1);
    }
}

struct Ends<C> {
    client: C,
    upstream: Box<dyn Duplex>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Ends<C> {
    /// Says Close to both, and waits a little for their answers.
    async fn close(mut self, up: Flow, down: Flow, why: StreamEnd) {
        let (code, reason) = match why {
            StreamEnd::Expired => (1008, "token expired"),
            StreamEnd::Revoked => (1008, "token revoked"),
            StreamEnd::Drain => (1001, "going away"),
        };
        let mut mask = [0; 4];
        if getrandom::fill(&mut mask).is_err() {
            return; // It cannot be said properly (RFC 6455 section 5.3), so it is cut.
        }
        let mut up = Closing::new(up, close(code, reason, Some(mask)));
        let mut down = Closing::new(down, close(code, reason, None));
        let mut limit = pin!(tokio::time::sleep(CLOSING));
        poll_fn(|cx| {
            let up_done = up.poll(cx, &mut self.client, &mut self.upstream).is_ready();
            let down_done = down.poll(cx, &mut self.upstream, &mut self.client).is_ready();
            if up_done && down_done { Poll::Ready(()) } else { limit.as_mut().poll(cx) }
        })
        .await;
        // What was said and not written yet goes out, when the other side takes it at once.
        poll_fn(|cx| {
            let _ = Pin::new(&mut self.upstream).poll_shutdown(cx);
            let _ = Pin::new(&mut self.client).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
    }
}

/// One direction.
#[expect(clippy::struct_excessive_bools, reason = "four things that happen to a direction, in any order")]
struct Flow {
    frames: FrameTracker,
    /// What was read and is not written.
    waiting: Bytes,
    unflushed: bool,
    /// Nothing more can be read.
    ended: bool,
    /// And that was passed on, or nobody takes it.
    shut: bool,
    /// Nothing more can be read because the connection broke: it takes nothing more, either.
    broken: bool,
}

impl Flow {
    /// A direction in which these bytes come first.
    fn new(first: Bytes) -> Self {
        let mut frames = FrameTracker::default();
        frames.pass(&first);
        Self { frames, waiting: first, unflushed: false, ended: false, shut: false, broken: false }
    }

    const fn is_done(&self) -> bool {
        self.shut
    }

    /// Whether what had come before the connection broke was passed on: there is nothing left to do.
    const fn is_broken_off(&self) -> bool {
        self.shut && self.broken
    }

    /// Moves what can be moved. The waker is set for what cannot.
    fn poll<A, B>(&mut self, cx: &mut Context<'_>, from: &mut A, to: &mut B)
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        // Who takes nothing more may have said something before: the other direction goes on.
        if !self.shut && self.pump(cx, from, to).is_err() {
            self.shut = true;
        }
    }

    fn pump<A, B>(&mut self, cx: &mut Context<'_>, from: &mut A, to: &mut B) -> io::Result<()>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        let mut scratch = [const { MaybeUninit::uninit() }; SCRATCH];
        for _ in 0..TURNS {
            if self.poll_write(cx, to)?.is_pending() {
                return Ok(());
            }
            if self.ended {
                self.poll_flush(cx, to)?;
                if Pin::new(&mut *to).poll_shutdown(cx)?.is_ready() {
                    self.shut = true;
                }
                return Ok(());
            }
            let mut read = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Pending => return self.poll_flush(cx, to),
                Poll::Ready(outcome) => self.broken = outcome.is_err(),
            }
            let bytes = read.filled();
            self.ended = bytes.is_empty();
            self.frames.pass(bytes);
            self.write(cx, to, bytes)?;
        }
        cx.waker().wake_by_ref();
        self.poll_flush(cx, to)
    }

    /// Writes what can be written at once; the rest waits.
    fn write<B: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut B,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, bytes)? else {
                self.waiting = Bytes::copy_from_slice(bytes);
                return Ok(());
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.unflushed = true;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Writes what waits.
    fn poll_write<B: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut B,
    ) -> io::Result<Poll<()>> {
        while !self.waiting.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, &self.waiting)? else {
                return Ok(Poll::Pending);
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.unflushed = true;
            self.waiting.advance(written);
        }
        self.waiting = Bytes::new();
        Ok(Poll::Ready(()))
    }

    fn poll_flush<B: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut B) -> io::Result<()> {
        if self.unflushed && Pin::new(&mut *to).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }
}

/// One direction on its way to the end: the rest of a frame, our Close, then nothing more; what comes
/// meanwhile is read until it is the other side's Close.
struct Closing {
    flow: Flow,
    close: Option<Vec<u8>>,
    done: bool,
}

impl Closing {
    fn new(flow: Flow, close: Vec<u8>) -> Self {
        let mut closing = Self { flow, close: Some(close), done: false };
        closing.say_close();
        closing
    }

    /// Lets our Close wait behind what waits already, when a frame may begin there and none has ended it all.
    fn say_close(&mut self) {
        if !self.flow.frames.is_between_frames() {
            return;
        }
        if let Some(close) = self.close.take()
            && !self.flow.frames.is_closed()
        {
            self.flow.waiting = [&*self.flow.waiting, &close].concat().into();
        }
    }

    /// Ready when our Close is out and the other side's Close, or its end, has come in.
    fn poll<A, B>(&mut self, cx: &mut Context<'_>, from: &mut A, to: &mut B) -> Poll<()>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        // Whatever goes wrong now: there is nobody left to say anything to.
        self.done = self.done || !matches!(self.step(cx, from, to), Ok(Poll::Pending));
        if self.done { Poll::Ready(()) } else { Poll::Pending }
    }

    fn step<A, B>(&mut self, cx: &mut Context<'_>, from: &mut A, to: &mut B) -> io::Result<Poll<()>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        if self.flow.shut {
            return Ok(Poll::Ready(()));
        }
        let mut scratch = [const { MaybeUninit::uninit() }; SCRATCH];
        loop {
            let flow = &mut self.flow;
            if flow.poll_write(cx, to)?.is_pending() {
                return Ok(Poll::Pending);
            }
            flow.poll_flush(cx, to)?;
            if flow.ended || flow.frames.is_closed() || flow.frames.is_lost() {
                return Ok(if flow.unflushed { Poll::Pending } else { Poll::Ready(()) });
            }
            let mut read = ReadBuf::uninit(&mut scratch);
            if Pin::new(&mut *from).poll_read(cx, &mut read)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let bytes = read.filled();
            flow.ended = bytes.is_empty();
            let passed = if self.close.is_some() { flow.frames.pass_to_end_of_frame(bytes) } else { 0 };
            flow.write(cx, to, &bytes[..passed])?;
            self.say_close();
            self.flow.frames.pass(&bytes[passed..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::testing::Office;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    /// The two ends of a tunnel, and whether it is over.
    struct Held {
        office: Office,
        client: DuplexStream,
        upstream: DuplexStream,
        running: tokio::task::JoinHandle<()>,
    }

    /// A tunnel between two pipes that hold a kilobyte each.
    fn with_tunnel<F: Future<Output = ()>>(
        early: &'static [u8],
        leftover: &'static [u8],
        test: impl FnOnce(Held) -> F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime.expect("a runtime"), async {
            let office = Office::new();
            let (client, ours) = tokio::io::duplex(1024);
            let (upstream, theirs) = tokio::io::duplex(1024);
            let tunnel = Tunnel::new(Box::new(theirs), Bytes::from_static(early), office.hold(1, 100));
            let running = tokio::task::spawn_local(tunnel.run(ours, Bytes::from_static(leftover)));
            test(Held { office, client, upstream, running }).await;
        });
    }

    async fn read(from: &mut DuplexStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes).await.expect("so many bytes come");
        bytes
    }

    async fn rest(from: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).await.expect("it ends");
        bytes
    }

    /// What a masked Close of ours says.
    fn unmasked(frame: &[u8]) -> Vec<u8> {
        assert_eq!((frame[0], frame[1] & 0x80, usize::from(frame[1] & 0x7f)), (0x88, 0x80, frame.len() - 6));
        frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    const POLICY: &[u8] = b"\x03\xf0";

    #[test]
    fn what_came_early_comes_first() {
        with_tunnel(b"\x81\x02hi", b"\x81\x82aaaabb", |mut held| async move {
            held.client.write_all(b"more").await.expect("written");
            held.upstream.write_all(b"and more").await.expect("written");
            assert_eq!(read(&mut held.client, 12).await, b"\x81\x02hiand more");
            assert_eq!(read(&mut held.upstream, 12).await, b"\x81\x82aaaabbmore");
            assert_eq!(held.office.leases.metrics().tunnels.value(), 1);
            drop(held.client);
            assert_eq!(rest(&mut held.upstream).await, b"");
            drop(held.upstream);
            held.running.await.expect("it ends with its ends");
            assert_eq!(held.office.leases.metrics().tunnels.value(), 0);
        });
    }

    #[test]
    fn when_both_have_said_close_the_first_end_is_the_end() {
        with_tunnel(b"", b"", |mut held| async move {
            held.client.write_all(b"\x88\x80aaaa").await.expect("written");
            read(&mut held.upstream, 6).await;
            held.upstream.write_all(b"\x88\x00").await.expect("written");
            drop(held.upstream);
            assert_eq!(rest(&mut held.client).await, b"\x88\x00");
            held.running.await.expect("it does not wait for the client's end");
        });
    }

    #[test]
    fn what_was_said_before_the_end_arrives_although_nobody_listens_any_more() {
        with_tunnel(b"", b"", |mut held| async move {
            held.upstream.write_all(b"\x81\x05last!").await.expect("written");
            drop(held.upstream);
            // Nobody takes this, which is noticed before the other direction is looked at.
            held.client.write_all(b"\x81\x80aaaa").await.expect("written");
            assert_eq!(rest(&mut held.client).await, b"\x81\x05last!");
            drop(held.client);
            held.running.await.expect("it ends");
        });
    }

    #[test]
    fn a_reader_that_stops_stops_the_writer() {
        with_tunnel(b"", b"", |mut held| async move {
            let block = vec![7; 1024 * 1024];
            let (mut taken, mut refused) = (0, 0);
            while refused < 100 {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                if let Poll::Ready(written) = Pin::new(&mut held.client).poll_write(&mut cx, &block) {
                    (taken, refused) = (taken + written.expect("written"), 0);
                } else {
                    refused += 1;
                    tokio::task::yield_now().await;
                }
            }
            assert!(
                taken <= 2 * 1024 + 2 * SCRATCH,
                "{taken} bytes were taken for a reader that reads nothing"
            );
            let mut got = 0;
            while got < taken {
                got += held.upstream.read(&mut vec![0; 4096]).await.expect("read");
            }
            assert_eq!(got, taken);
            held.client.write_all(&block[..10]).await.expect("and it goes on");
        });
    }

    #[test]
    fn between_frames_the_lease_ends_with_a_close_to_both() {
        with_tunnel(b"", b"", |mut held| async move {
            held.client.write_all(b"\x81\x81aaaab").await.expect("written");
            read(&mut held.upstream, 7).await;
            held.office.revoke(2);
            held.office.look();
            let to_client = read(&mut held.client, 4 + "token revoked".len()).await;
            assert_eq!(to_client, [b"\x88\x0f", POLICY, b"token revoked"].concat());
            let to_upstream = read(&mut held.upstream, 8 + "token revoked".len()).await;
            assert_eq!(unmasked(&to_upstream), [POLICY, b"token revoked"].concat());
            assert!(!held.running.is_finished(), "it waits for the answers");
            held.client.write_all(b"\x88\x80aaaa").await.expect("written");
            held.upstream.write_all(b"\x88\x00").await.expect("written");
            held.running.await.expect("and ends with them");
            assert_eq!(rest(&mut held.client).await, b"", "answers to a gateway's Close go no further");
            assert_eq!(rest(&mut held.upstream).await, b"");
        });
    }

    #[test]
    fn a_frame_under_way_is_finished_first_and_nothing_after_it_passes() {
        with_tunnel(b"\x82\x05ab", b"", |mut held| async move {
            assert_eq!(read(&mut held.client, 4).await, b"\x82\x05ab");
            held.office.set_time(100);
            held.office.look();
            held.upstream.write_all(b"cde\x81\x06secret\x88\x00").await.expect("written");
            let expected = [b"cde\x88\x0f" as &[u8], POLICY, b"token expired"].concat();
            assert_eq!(read(&mut held.client, expected.len()).await, expected);
            drop(held.client);
            held.running.await.expect("it ends");
        });
    }

    #[test]
    fn a_frame_that_does_not_end_is_cut() {
        with_tunnel(b"\x82\x7e\xff\xffab", b"", |mut held| async move {
            read(&mut held.client, 6).await;
            held.office.revoke(1);
            held.office.look();
            held.running.await.expect("it ends within its time, although nobody else does anything");
            assert_eq!(rest(&mut held.client).await, b"", "no Close inside of a frame");
            let to_upstream = rest(&mut held.upstream).await;
            assert_eq!(unmasked(&to_upstream), [POLICY, b"token revoked"].concat());
        });
    }

    #[test]
    fn who_has_said_close_is_not_told_again() {
        with_tunnel(b"", b"", |mut held| async move {
            held.client.write_all(b"\x88\x80aaaa").await.expect("written");
            assert_eq!(read(&mut held.upstream, 6).await, b"\x88\x80aaaa");
            held.office.leases.drain();
            let to_client = read(&mut held.client, 4 + "going away".len()).await;
            assert_eq!(to_client, b"\x88\x0c\x03\xe9going away");
            held.upstream.write_all(b"\x88\x00").await.expect("written");
            held.running.await.expect("both have said it");
            assert_eq!(rest(&mut held.upstream).await, b"");
        });
    }

    #[test]
    fn rubbish_passes_untouched_and_ends_without_a_close() {
        const RUBBISH: &[u8] = b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xffno frame";
        with_tunnel(RUBBISH, b"", |mut held| async move {
            assert_eq!(read(&mut held.client, RUBBISH.len()).await, RUBBISH);
            held.office.revoke(1);
            held.office.look();
            held.upstream.write_all(b"more").await.expect("written");
            held.running.await.expect("it ends");
            assert_eq!(rest(&mut held.client).await, b"");
        });
    }
}
