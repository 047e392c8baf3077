//! Writes that leave together.
//!
//! A worker handles many ready connections in a row. If each wrote at once, the process at the other
//! end would wake up, find one message, and go to sleep again before the next: a wake-up for each write,
//! and it is the writer who pays for them. So small writes wait until every connection that is ready has
//! had its turn, and then go out in a row. Nothing waits for time to pass, and nothing waits long:
//! what does not fit is written where it stands.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// What may wait for one connection; more is written at once.
const WAITING_MAX: usize = 16 * 1024;
/// Empty buffers that are kept for the next messages.
const SPARE_MAX: usize = 128;

/// The waiting writes of one worker.
#[derive(Debug, Default)]
pub struct Bursts {
    waiting: RefCell<Vec<Rc<Shared>>>,
    spare: RefCell<Vec<Vec<u8>>>,
    writer: RefCell<Option<Waker>>,
}

impl Bursts {
    /// Nothing waits. Somebody must run [`Bursts::write`].
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Writes what waits, for ever. Its turn comes after those who were ready before it.
    pub async fn write(self: Rc<Self>) {
        let mut stuck: Vec<Rc<Shared>> = Vec::new();
        std::future::poll_fn(|cx| {
            self.remember(cx);
            stuck.append(&mut self.waiting.borrow_mut());
            // A connection that nobody holds any more is closed rather than waited for.
            stuck.retain(|shared| {
                let waits = shared.poll_written(cx, &self).is_pending();
                shared.stuck.set(waits);
                shared.queued.set(waits);
                if !waits && let Some(waiter) = shared.waiter.take() {
                    waiter.wake();
                }
                waits && Rc::strong_count(shared) > 1
            });
            Poll::<()>::Pending
        })
        .await;
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut writer = self.writer.borrow_mut();
        if !writer.as_ref().is_some_and(|writer| writer.will_wake(cx.waker())) {
            *writer = Some(cx.waker().clone());
        }
    }

    fn queue(&self, shared: &Rc<Shared>) {
        if !shared.queued.replace(true) {
            self.waiting.borrow_mut().push(Rc::clone(shared));
        } else if !shared.stuck.get() {
            return;
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(writer) = &*self.writer.borrow() {
            writer.wake_by_ref();
        }
    }

    fn take_buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    fn give_buffer(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX && buffer.capacity() <= WAITING_MAX {
            spare.push(buffer);
        }
    }
}

/// A socket whose small writes wait for the others'.
#[derive(Debug)]
pub struct BurstStream {
    shared: Rc<Shared>,
    bursts: Rc<Bursts>,
}

#[derive(Debug)]
struct Shared {
    stream: RefCell<Stream>,
    /// What waits, and how much of it is written. Empty vectors own nothing: idle connections are many.
    out: RefCell<(Vec<u8>, usize)>,
    /// The writer has it on its list: once, or the list would keep a connection alive by itself.
    queued: Cell<bool>,
    /// It is there because the peer does not read.
    stuck: Cell<bool>,
    failure: Cell<Option<io::ErrorKind>>,
    /// Who waits until the socket takes more. It has one waker for writing, and when what waits here is
    /// written by the writer, that is the writer's.
    waiter: RefCell<Option<Waker>>,
    /// Bytes that the socket has taken since it was opened.
    written: Cell<u64>,
}

impl BurstStream {
    /// Takes a socket over.
    #[must_use]
    pub fn new(stream: Stream, bursts: &Rc<Bursts>) -> Self {
        let shared = Shared {
            stream: RefCell::new(stream),
            out: RefCell::default(),
            queued: Cell::new(false),
            stuck: Cell::new(false),
            failure: Cell::new(None),
            waiter: RefCell::default(),
            written: Cell::new(0),
        };
        Self { shared: Rc::new(shared), bursts: Rc::clone(bursts) }
    }

    /// Lets a message wait that `write` puts behind what waits already. Whoever appends without end has
    /// to see to it that the peer reads; nothing is refused here.
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let (out, _) = &mut *self.shared.out.borrow_mut();
        if out.capacity() == 0 {
            *out = self.bursts.take_buffer();
        }
        write(out);
        self.bursts.queue(&self.shared);
    }

    /// How many bytes the socket has taken so far. What waits, or was lost, is not among them.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.get()
    }

    /// Whether everything was written, and writing may go on.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        !self.has_failed() && self.shared.out.borrow().0.is_empty()
    }

    /// Ready when everything that waits was written.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_all_written(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_clear(cx, &self.bursts)
    }

    /// Whether writing has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.failure.get().is_some()
    }

    /// Never writes what waits.
    pub fn forget(&self) {
        let (out, written) = &mut *self.shared.out.borrow_mut();
        out.clear();
        *written = 0;
    }

    /// The same socket once more, for somebody else to write to or to read from. It is closed when
    /// nobody has it any more.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { shared: Rc::clone(&self.shared), bursts: Rc::clone(&self.bursts) }
    }

    /// Lets `bytes` wait if they fit; the writer takes them along at the end of this turn.
    fn wait_with<'b>(&self, length: usize, parts: impl Iterator<Item = &'b [u8]>) -> bool {
        let (out, _) = &mut *self.shared.out.borrow_mut();
        if out.len() + length > WAITING_MAX {
            return false;
        }
        if out.capacity() == 0 {
            *out = self.bursts.take_buffer();
        }
        for part in parts {
            out.extend_from_slice(part);
        }
        self.bursts.queue(&self.shared);
        true
    }
}

impl Drop for BurstStream {
    /// What its peer does not read is not waited for any longer.
    fn drop(&mut self) {
        if self.shared.stuck.get() {
            self.bursts.wake();
        }
    }
}

impl Shared {
    /// Writes what waits.
    fn poll_written(&self, cx: &mut Context<'_>, bursts: &Bursts) -> Poll<io::Result<()>> {
        if let Some(failure) = self.failure.get() {
            return Poll::Ready(Err(failure.into()));
        }
        let (out, written) = &mut *self.out.borrow_mut();
        while *written < out.len() {
            let outcome = Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &out[*written..]);
            match ready!(outcome) {
                Ok(0) => return self.fail(io::ErrorKind::WriteZero),
                Ok(n) => {
                    *written += n;
                    self.count(n);
                }
                Err(error) => return self.fail(error.kind()),
            }
        }
        // TLS keeps what the socket did not take; it would leave with the next write only.
        if let Err(error) = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)) {
            return self.fail(error.kind());
        }
        *written = 0;
        if out.capacity() > 0 {
            bursts.give_buffer(std::mem::take(out));
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Shared::poll_written`], for whoever waits for it.
    fn poll_clear(&self, cx: &mut Context<'_>, bursts: &Bursts) -> Poll<io::Result<()>> {
        let clear = self.poll_written(cx, bursts);
        if clear.is_pending() && self.queued.get() {
            *self.waiter.borrow_mut() = Some(cx.waker().clone());
            // And the writer asks the socket again: its place there is ours now, and we may not come back.
            bursts.wake();
        }
        clear
    }

    /// Writes at once, behind what waits.
    fn poll_direct(
        &self,
        cx: &mut Context<'_>,
        bursts: &Bursts,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_clear(cx, bursts))?;
        let written = ready!(write(Pin::new(&mut *self.stream.borrow_mut()), cx))?;
        self.count(written);
        Poll::Ready(Ok(written))
    }

    fn count(&self, written: usize) {
        self.written.set(self.written.get() + written as u64);
    }

    fn fail(&self, kind: io::ErrorKind) -> Poll<io::Result<()>> {
        self.failure.set(Some(kind));
        Poll::Ready(Err(kind.into()))
    }
}

impl AsyncRead for BurstStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for BurstStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.wait_with(bytes.len(), std::iter::once(bytes)) {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.shared.poll_direct(cx, &self.bursts, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.wait_with(length, slices.iter().map(|slice| &**slice)) {
            return Poll::Ready(Ok(length));
        }
        self.shared.poll_direct(cx, &self.bursts, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is queued needs nobody to wait for it; what the peer does not take, does.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let on_its_way = self.shared.queued.get() && !self.shared.stuck.get();
        if on_its_way && self.shared.failure.get().is_none() {
            return Poll::Ready(Ok(()));
        }
        self.shared.poll_clear(cx, &self.bursts)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.shared.poll_clear(cx, &self.bursts))?;
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::task::LocalSet;

    use super::*;

    /// Runs a test with a burst stream, its writer's task still to be started, and the other end.
    fn with_pair<F: Future<Output = ()>>(test: impl FnOnce(BurstStream, Rc<Bursts>, UnixStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let bursts = Bursts::new();
            test(BurstStream::new(Stream::Unix(ours), &bursts), bursts, theirs).await;
        });
    }

    #[test]
    fn small_writes_wait_for_their_turn_and_then_all_arrive() {
        with_pair(|mut stream, bursts, mut peer| async move {
            stream.write_all(b"one").await.expect("it waits");
            stream.write_all(b"two").await.expect("it waits");
            let early = peer.try_read(&mut [0; 8]).expect_err("nothing was written yet");
            assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
            tokio::task::spawn_local(bursts.write());
            let mut read = [0; 6];
            peer.read_exact(&mut read).await.expect("both");
            assert_eq!(&read, b"onetwo");
            assert_eq!(stream.shared.out.borrow().0.capacity(), 0, "an idle connection holds no buffer");
        });
    }

    #[test]
    fn large_writes_keep_their_place_behind_small_ones() {
        with_pair(|mut stream, bursts, mut peer| async move {
            tokio::task::spawn_local(bursts.write());
            let large = vec![b'x'; 3 * 1024 * 1024];
            let sent = large.clone();
            tokio::task::spawn_local(async move {
                stream.write_all(b"head").await.expect("it waits");
                stream.write_all(&sent).await.expect("the peer reads");
                stream.write_all(b"tail").await.expect("it waits");
                stream.shutdown().await.expect("what waits goes first");
            });
            let mut read = Vec::new();
            peer.read_to_end(&mut read).await.expect("everything");
            assert!(read.starts_with(b"head") && read.ends_with(b"tail"));
            assert_eq!(read.len(), large.len() + 8);
        });
    }

    #[test]
    fn who_waits_behind_small_writes_is_woken_when_the_writer_has_written_them() {
        with_pair(|mut stream, bursts, mut peer| async move {
            tokio::task::spawn_local(bursts.write());
            let large = vec![b'x'; 64 * 1024];
            let full = std::time::Duration::from_millis(200);
            let mut accepted = 0;
            while let Ok(written) = tokio::time::timeout(full, stream.write(&large)).await {
                accepted += written.expect("the peer is there");
            }
            let sent = large.clone();
            let sending = tokio::task::spawn_local(async move {
                stream.write_all(b"small").await.expect("it waits");
                stream.write_all(&sent).await.expect("the peer reads");
            });
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let mut read = vec![0; accepted + 5 + large.len()];
            tokio::time::timeout(std::time::Duration::from_secs(10), peer.read_exact(&mut read))
                .await
                .expect("nobody was forgotten")
                .expect("all that was sent");
            sending.await.expect("it is over");
        });
    }

    #[test]
    fn a_peer_that_does_not_read_holds_the_writer_back_and_nobody_else() {
        with_pair(|mut stream, bursts, mut peer| async move {
            let (other, mut other_peer) = UnixStream::pair().expect("a pair");
            let mut other = BurstStream::new(Stream::Unix(other), &bursts);
            tokio::task::spawn_local(bursts.write());
            let chunk = [b'x'; 8 * 1024];
            let mut accepted = 0;
            let full = std::time::Duration::from_millis(200);
            while let Ok(written) = tokio::time::timeout(full, stream.write(&chunk)).await {
                accepted += written.expect("the peer is there");
                stream.flush().await.ok();
                assert!(accepted < 64 * 1024 * 1024, "there has to be an end");
            }
            other.write_all(b"hello").await.expect("it waits");
            let mut read = [0; 5];
            other_peer.read_exact(&mut read).await.expect("its own turn");
            let mut read = vec![0; accepted];
            peer.read_exact(&mut read).await.expect("all that was accepted");
        });
    }

    #[test]
    fn a_connection_that_is_given_up_ends_although_its_peer_does_not_read() {
        with_pair(|mut stream, bursts, mut peer| async move {
            tokio::task::spawn_local(bursts.write());
            let full = std::time::Duration::from_millis(200);
            while let Ok(written) = tokio::time::timeout(full, stream.write(&[b'x'; 1024])).await {
                written.expect("the peer is there");
                tokio::task::yield_now().await;
            }
            let held = Rc::downgrade(&stream.shared);
            drop(stream);
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            assert!(held.upgrade().is_none(), "nobody keeps the socket");
            let mut read = Vec::new();
            tokio::time::timeout(std::time::Duration::from_secs(10), peer.read_to_end(&mut read))
                .await
                .expect("it ends")
                .expect("with the end of the stream");
        });
    }

    #[test]
    fn a_failed_write_is_told_at_the_next_one() {
        with_pair(|mut stream, bursts, peer| async move {
            drop(peer);
            tokio::task::spawn_local(bursts.write());
            stream.write_all(b"lost").await.expect("it waits");
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            stream.flush().await.expect_err("nobody is there");
        });
    }
}
