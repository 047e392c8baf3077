//! One connection to an upstream server, and how it speaks HTTP/1.1.
//!
//! No task of its own drives a connection: whoever uses it polls it, so a request and its answer are
//! moved by one task, with no wake-up from one to another in between. Dropping it closes it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::task::unconstrained;

use super::AnswerFault;
use super::headers::OwnHeaders;
use super::http2::Http2Link;
use crate::burst::BurstStream;
use crate::http1::{
    BodyLength, Decoded, Decoder, HeadLimits, HeadSearch, ResponseHead, parse_response, write_request,
};

/// An upstream's answer is refused when its head is larger.
const HEAD: HeadLimits = HeadLimits { bytes: 64 * 1024, count: 128 };
/// Interim answers (RFC 9110 section 15.2) that are passed over before there is none.
const INTERIM_MAX: u32 = 64;
/// Room to read into: heads and small bodies.
const ROOM: usize = 8 * 1024;
/// Room to read into where more is known or seen to come. Each read moves as much as fits, so the more
/// there is, the fewer calls; yet what is read should still be in the cache when it is written.
const LARGE_ROOM: usize = 128 * 1024;
/// The same where a client may have a hundred answers on one connection and take none of them: each
/// keeps two of these at most.
const STREAM_ROOM: usize = 64 * 1024;

/// One connection to an upstream server, or a place on one that others use too.
#[derive(Debug)]
pub(super) enum Link {
    /// A connection of its own.
    Http1(Box<Http1Link>),
    /// A stream of a shared one.
    Http2(Http2Link),
}

/// A connection that speaks HTTP/1.1.
#[derive(Debug)]
pub(super) struct Http1Link {
    stream: BurstStream,
    /// What was read and nobody has used yet.
    buffer: BytesMut,
    /// The last read left no room: there is more where that came from.
    filled: bool,
    /// Room to read into where there is much to come.
    large_room: usize,
    search: HeadSearch,
    interim: u32,
    /// What the socket had taken before the request that is under way.
    before: u64,
    /// On the worker's clock.
    pub(super) idle_since: u64,
}

/// What an answer is to be read by.
pub(super) struct Asked<'a> {
    /// The request's.
    pub(super) method: &'a Method,
    /// Room for the answer's header lines.
    pub(super) spare: &'a mut HeaderMap,
    /// Whether `spare` was used: what was in it is gone.
    pub(super) spent: &'a mut bool,
}

/// Why there is no answer's head.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The connection ended first.
    Closed(AnswerFault),
    /// What came is no head.
    Invalid(AnswerFault),
    /// It is, but must not be believed.
    Unacceptable(&'static str),
}

impl Http1Link {
    /// Takes a connection over that nothing was said on.
    pub(super) fn new(stream: BurstStream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            filled: false,
            large_room: LARGE_ROOM,
            search: HeadSearch::default(),
            interim: 0,
            before: 0,
            idle_since: 0,
        }
    }

    pub(super) const fn stream(&mut self) -> &mut BurstStream {
        &mut self.stream
    }

    /// Begins a request: its head leaves at the end of this turn.
    pub(super) fn write_head(&mut self, parts: &Parts, own: Option<&OwnHeaders>, length: BodyLength) {
        self.before = self.stream.written();
        self.interim = 0;
        let more = |out: &mut Vec<u8>| own.into_iter().for_each(|own| own.write(out));
        self.stream.append(|out| write_request(out, parts, length, more));
    }

    /// Whether the server has seen nothing yet of the request that is under way.
    pub(super) fn has_said_nothing(&self) -> bool {
        self.stream.written() == self.before
    }

    /// Takes back the request that is under way, of which nothing was written yet.
    pub(super) fn take_back(&self) {
        self.stream.forget();
    }

    /// The head of the answer; interim answers are passed over.
    pub(super) fn poll_head(
        &mut self,
        asked: &mut Asked<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, NoHead>> {
        loop {
            while let Some(head) = self.take_head(asked)? {
                if !is_interim(head.parts.status) {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Poll::Ready(Err(NoHead::Unacceptable("it has too many interim answers")));
                }
            }
            match ready!(self.poll_fill(ROOM, cx)) {
                Ok(0) => return Poll::Ready(Err(NoHead::Closed("it ended before its answer did".into()))),
                // An answer to something else.
                Ok(_) if self.has_said_nothing() => {
                    return Poll::Ready(Err(NoHead::Closed("it spoke unasked".into())));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(NoHead::Closed(error.into()))),
            }
        }
    }

    fn take_head(&mut self, asked: &mut Asked<'_>) -> Result<Option<ResponseHead>, NoHead> {
        let parsed = parse_response(&self.buffer, &mut self.search, asked.spare, HEAD, asked.method);
        *asked.spent |= !matches!(parsed, Ok(None));
        let Some((length, head)) = parsed.map_err(|fault| NoHead::Invalid(fault.into()))? else {
            return Ok(None);
        };
        self.buffer.advance(length);
        Ok(Some(head))
    }

    /// The next piece of an answer's body; never [`Decoded::NeedMore`].
    pub(super) fn poll_body(
        &mut self,
        decoder: &mut Decoder,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Decoded, AnswerFault>> {
        loop {
            match decoder.decode(&mut self.buffer)? {
                Decoded::NeedMore => {}
                piece => return Poll::Ready(Ok(piece)),
            }
            let much = self.filled || (decoder.opaque() > ROOM as u64 && decoder.left().is_some());
            if ready!(self.poll_fill(if much { self.large_room } else { ROOM }, cx))? == 0 {
                decoder.finish()?;
                return Poll::Ready(Ok(Decoded::End));
            }
        }
    }

    /// Reads what there is, up to `room` bytes; 0 is the end.
    fn poll_fill(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Room that was given away and has come back is used again. While somebody still holds a piece of
        // it the rest will do: a few bytes that wait must not keep a whole room each.
        if !self.buffer.try_reclaim(room) && self.buffer.capacity() - self.buffer.len() < room / 2 {
            self.buffer.reserve(room);
        }
        let read = ready!(pin!(self.stream.read_buf(&mut self.buffer)).poll(cx))?;
        self.filled = self.buffer.len() == self.buffer.capacity();
        Poll::Ready(Ok(read))
    }

    /// Whether nothing of what was sent still waits.
    pub(super) fn is_clear(&self) -> bool {
        self.stream.is_clear()
    }

    /// Whether it is worth keeping. The end of a request may still be waiting for its turn.
    pub(super) fn is_good(&self) -> bool {
        self.buffer.is_empty() && !self.stream.has_failed()
    }

    /// Whether another request may be sent: everything of the last one was written and nothing has come
    /// that nobody asked for, be it an answer or the end.
    ///
    /// As far as is known: the socket is asked only when the runtime has seen it readable by the
    /// beginning of this turn. What arrives between that and the request cannot be told from its answer.
    pub(super) fn is_usable(&mut self) -> bool {
        if !self.buffer.is_empty() || !self.stream.is_clear() {
            return false;
        }
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        // Outside the task's budget: a budget used up elsewhere would look like "nothing has come".
        let look = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, &mut read));
        pin!(unconstrained(look)).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// The room for reading, to be used by others while this link waits.
    pub(super) fn take_room(&mut self) -> BytesMut {
        self.filled = false;
        std::mem::take(&mut self.buffer)
    }

    /// The connection as it is, and what was read and not used, for those who speak something else.
    pub(super) fn into_parts(self) -> (BurstStream, Bytes) {
        (self.stream, self.buffer.freeze())
    }

    /// Room to read into, for an answer to somebody who may have others on the same connection.
    pub(super) fn give_room(&mut self, room: BytesMut, shares_connection: bool) {
        self.buffer = room;
        self.large_room = if shares_connection { STREAM_ROOM } else { LARGE_ROOM };
    }
}

/// Whether another answer follows. It does not after 101: then it is another protocol.
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;
    use tokio::task::LocalSet;

    use super::*;
    use crate::burst::Bursts;
    use crate::stream::Stream;

    /// Runs a test with a link, whose writer has its turn when the test yields, and the server's end.
    fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Http1Link, UnixStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let bursts = Bursts::new();
            let link = Http1Link::new(BurstStream::new(Stream::Unix(ours), &bursts));
            tokio::task::spawn_local(bursts.write());
            test(link, theirs).await;
        });
    }

    fn ask(link: &mut Http1Link) {
        let (parts, ()) = Request::get("/a?b").header("host", "x").body(()).expect("a request").into_parts();
        link.write_head(&parts, None, BodyLength::None);
    }

    async fn head(link: &mut Http1Link) -> Result<ResponseHead, NoHead> {
        let (mut spare, mut spent) = (HeaderMap::new(), false);
        std::future::poll_fn(|cx| {
            let mut asked = Asked { method: &Method::GET, spare: &mut spare, spent: &mut spent };
            link.poll_head(&mut asked, cx)
        })
        .await
    }

    /// Until the runtime knows what has come.
    async fn until_heard(link: &Http1Link) {
        let stream = link.stream.share();
        let mut stream = std::pin::pin!(stream);
        let _ = std::future::poll_fn(|cx| stream.as_mut().poll_read(cx, &mut ReadBuf::new(&mut []))).await;
    }

    #[test]
    fn an_answer_is_read_and_the_link_can_be_used_again() {
        with_server(|mut link, mut server| async move {
            for _ in 0..3 {
                ask(&mut link);
                let mut read = *b"                              ";
                server.read_exact(&mut read).await.expect("a request");
                assert_eq!(&read, b"GET /a?b HTTP/1.1\r\nhost: x\r\n\r\n");
                let answer =
                    b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                server.write_all(answer).await.expect("written");
                let head = head(&mut link).await.expect("a head");
                assert_eq!((head.parts.status, head.length), (StatusCode::OK, BodyLength::Exact(2)));
                let mut decoder = Decoder::new(head.length);
                let piece = std::future::poll_fn(|cx| link.poll_body(&mut decoder, cx)).await;
                assert!(matches!(piece, Ok(Decoded::Data(data)) if data == "ok"));
                assert!(decoder.is_ended() && link.is_usable());
            }
        });
    }

    #[test]
    fn what_comes_before_the_request_has_left_is_no_answer_and_the_request_never_leaves() {
        with_server(|mut link, mut server| async move {
            server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("written");
            until_heard(&link).await;
            ask(&mut link);
            assert!(matches!(head(&mut link).await, Err(NoHead::Closed(_))));
            assert!(link.has_said_nothing());
            link.take_back();
            drop(link);
            let mut seen = Vec::new();
            server.read_to_end(&mut seen).await.expect("the end");
            assert!(seen.is_empty(), "{seen:?}");
        });
    }

    #[test]
    fn small_pieces_that_somebody_keeps_share_their_room() {
        with_server(|mut link, mut server| async move {
            ask(&mut link);
            server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").await.expect("written");
            let mut decoder = Decoder::new(head(&mut link).await.expect("a head").length);
            let mut kept = Vec::new();
            for _ in 0..50 {
                server.write_all(&[b'x'; 100]).await.expect("written");
                match std::future::poll_fn(|cx| link.poll_body(&mut decoder, cx)).await {
                    Ok(Decoded::Data(piece)) => kept.push(piece),
                    other => panic!("{other:?}"),
                }
            }
            let next_to_each_other =
                kept.windows(2).filter(|two| two[0].as_ptr().wrapping_add(two[0].len()) == two[1].as_ptr());
            assert!(next_to_each_other.count() >= 48, "more than two rooms");
        });
    }

    #[test]
    fn a_link_that_hears_anything_while_it_waits_is_not_used() {
        with_server(|mut link, mut server| async move {
            assert!(link.is_usable());
            server.write_all(b"H").await.expect("written");
            until_heard(&link).await;
            assert!(!link.is_usable());
        });
        with_server(|mut link, server| async move {
            drop(server);
            until_heard(&link).await;
            assert!(!link.is_usable());
        });
    }

    #[test]
    fn there_are_bounds_to_what_comes_before_an_answer() {
        with_server(|mut link, mut server| async move {
            ask(&mut link);
            tokio::task::yield_now().await;
            let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(INTERIM_MAX as usize + 1);
            server.write_all(many.as_bytes()).await.expect("written");
            assert!(matches!(head(&mut link).await, Err(NoHead::Unacceptable(_))));
        });
        with_server(|mut link, mut server| async move {
            ask(&mut link);
            tokio::task::yield_now().await;
            let endless = format!("HTTP/1.1 200 OK\r\nX-A: {}", "a".repeat(3 * HEAD.bytes));
            tokio::task::spawn_local(async move { server.write_all(endless.as_bytes()).await });
            assert!(matches!(head(&mut link).await, Err(NoHead::Invalid(_))));
        });
    }

    #[test]
    fn half_an_answer_is_a_closed_connection() {
        with_server(|mut link, mut server| async move {
            ask(&mut link);
            tokio::task::yield_now().await;
            server.write_all(b"HTTP/1.1 200 OK\r\nX-A").await.expect("written");
            drop(server);
            assert!(matches!(head(&mut link).await, Err(NoHead::Closed(_))));
            assert!(!link.has_said_nothing());
        });
    }
}
