//! A response on its way to the client: its head, then its body as it comes.
//!
//! Small pieces leave with the head, large ones from where they lie. There is one piece of the body in
//! memory at a time: a client that does not read holds its upstream back, and for too long ends its
//! connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::CONNECTION;
use http::response::Parts;
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use tokio::io::AsyncWrite as _;

use super::{Connection, DRAIN_BYTES, End, Io};
use crate::deadline::Deadline;
use crate::gateway::Body;
use crate::http1::{Answering, BodyLength, Encoder, Outgoing, Persistence, write_response, write_trailers};
use crate::metrics::ConnectionEnd;

/// What a request says about its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// It wants a head only.
    pub(super) is_head: bool,
    /// It is HTTP/1.0.
    pub(super) is_old: bool,
    /// Its client would send another one.
    pub(super) keep_alive: bool,
}

/// A response that is being written.
pub(super) struct Answer<'c> {
    connection: &'c Connection,
    /// `None` when it has been read to its end.
    body: Option<Body>,
    /// It has, and its request has not: they go together.
    over: Option<Body>,
    encoder: Encoder,
    out: Outgoing,
    stays: bool,
    /// Set while the client takes nothing, with how much it had taken then.
    stall: Option<(Deadline, u64)>,
    broken: bool,
}

impl<'c> Answer<'c> {
    /// Writes the head into memory.
    pub(super) fn new(connection: &'c Connection, mut parts: Parts, body: Body, facts: Facts) -> Self {
        let length = body_length(&parts, &body, facts);
        let stays = facts.keep_alive
            && length != BodyLength::UntilClose
            && !connection.worker.is_leaving()
            && !connection.is_aged()
            && !says_close(&parts.headers)
            && connection.io.borrow().can_go_on();
        let persistence = match (stays, facts.is_old) {
            (true, false) => Persistence::Stays,
            (true, true) => Persistence::StaysForOld,
            (false, _) => Persistence::Closes,
        };
        let shared = connection.worker.http1();
        let mut out = Outgoing::with_room(shared.take_room());
        let answering = Answering { length, persistence, date: &shared.date(&connection.worker) };
        write_response(out.small(), &parts, &answering);
        shared.give_map(std::mem::take(&mut parts.headers));
        // Whoever waited to be told to send the body has its answer.
        connection.io.borrow_mut().go_ahead = None;
        let body = if length == BodyLength::None { None } else { Some(body) };
        Self {
            connection,
            body,
            over: None,
            encoder: Encoder::new(length),
            out,
            stays,
            stall: None,
            broken: false,
        }
    }

    /// Whether another request may follow.
    pub(super) fn stays(&self) -> bool {
        let io = self.connection.io.borrow();
        self.stays && io.can_go_on() && !self.connection.worker.is_draining()
    }

    /// Writes until all of it has left.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while let Some(body) = &mut self.body {
            if self.out.is_full() {
                ready!(self.poll_write(cx))?;
                continue;
            }
            let frame = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "an answer broke off");
                    self.broken = true;
                    self.body = None;
                    break;
                }
                Poll::Ready(None) => {
                    self.end(None);
                    break;
                }
                Poll::Pending => return self.poll_wait(cx),
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => match self.encoder.frame(data.len()) {
                    Ok(frame) => self.out.push(data, &frame),
                    Err(fault) => {
                        tracing::warn!(%fault, "an answer does not fit its head");
                        self.broken = true;
                        self.body = None;
                        break;
                    }
                },
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    self.end(trailers.as_ref());
                    break;
                }
            }
            if self.encoder.is_whole() || self.body.as_ref().is_some_and(Body::is_end_stream) {
                self.end(None);
            }
        }
        ready!(self.poll_write(cx))?;
        ready!(self.poll_flush(cx))?;
        if self.broken {
            // There is no other way to say that something is missing.
            return Poll::Ready(Err(End::Finished));
        }
        Poll::Ready(Ok(()))
    }

    /// The body has ended.
    fn end(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(body) = self.body.take() {
            self.stays &= !body.is_cut_short();
            if !self.connection.io.borrow().body.is_ended() {
                self.over = Some(body);
            }
        }
        match (trailers, self.encoder.end()) {
            (Some(trailers), _) if self.encoder.takes_trailers() => {
                write_trailers(self.out.small(), trailers);
            }
            (_, Ok(end)) => self.out.small().extend_from_slice(end),
            (_, Err(fault)) => {
                tracing::warn!(%fault, "an answer does not fit its head");
                self.broken = true;
            }
        }
    }

    /// Nothing more to write yet: what there is leaves, and the client may leave as well.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.poll_write(cx)?.is_ready() {
            let _ = self.poll_flush(cx)?;
        }
        self.connection.io.borrow_mut().poll_gone(&self.connection.worker, cx).map(Err)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while !self.out.is_empty() {
            let io = &mut *self.connection.io.borrow_mut();
            let stream = Pin::new(&mut io.stream);
            let written = match self.out.only_small() {
                Some(small) => stream.poll_write(cx, small),
                None => stream.poll_write_vectored(cx, &self.out.slices()),
            };
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::Gone(std::io::ErrorKind::WriteZero))),
                Poll::Ready(Ok(written)) => {
                    self.out.advance(written);
                    self.stall = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return poll_stalled(self.connection, io, &mut self.stall, cx).map(Err),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let io = &mut *self.connection.io.borrow_mut();
        match Pin::new(&mut io.stream).poll_flush(cx) {
            Poll::Ready(flushed) => Poll::Ready(flushed.map_err(End::from)),
            Poll::Pending => poll_stalled(self.connection, io, &mut self.stall, cx).map(Err),
        }
    }
}

/// Ready when the client has taken nothing for too long.
fn poll_stalled(
    connection: &Connection,
    io: &Io,
    stall: &mut Option<(Deadline, u64)>,
    cx: &Context<'_>,
) -> Poll<End> {
    let taken = io.stream.written();
    let (deadline, noted) = stall.get_or_insert_with(|| {
        let deadline = connection.worker.deadlines().slot();
        deadline.set(connection.limits.write_stall);
        (deadline, taken)
    });
    if *noted != taken {
        *noted = taken;
        deadline.set(connection.limits.write_stall);
    }
    deadline.poll_passed(cx).map(|()| End::Limit(ConnectionEnd::WriteStall))
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.connection.worker.http1().give_room(self.out.take_room());
    }
}

impl Io {
    /// Whether the next request can be found: the body before it is read, or will be.
    fn can_go_on(&self) -> bool {
        if self.body.is_ended() {
            return !self.spoilt;
        }
        let little = self.body.left().is_some_and(|left| left <= DRAIN_BYTES);
        !self.spoilt && self.go_ahead.is_none() && (self.held || little)
    }
}

/// How the body will be framed (RFC 9112 section 6).
fn body_length(parts: &Parts, body: &Body, facts: Facts) -> BodyLength {
    let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if facts.is_head || bodiless {
        return BodyLength::None;
    }
    if body.is_end_stream() {
        return BodyLength::Exact(0);
    }
    match body.size_hint().exact() {
        Some(length) => BodyLength::Exact(length),
        None if facts.is_old => BodyLength::UntilClose,
        None => BodyLength::Chunked,
    }
}

fn says_close(headers: &HeaderMap) -> bool {
    headers.get(CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Writes the head after which the connection is another protocol's.
pub(super) async fn switch(connection: &Connection, parts: &Parts) -> Result<(), End> {
    let shared = connection.worker.http1();
    let mut out = Outgoing::with_room(shared.take_room());
    let date = shared.date(&connection.worker);
    let answering = Answering { length: BodyLength::None, persistence: Persistence::Switches, date: &date };
    write_response(out.small(), parts, &answering);
    let mut answer = Answer {
        connection,
        body: None,
        over: None,
        encoder: Encoder::new(BodyLength::None),
        out,
        stays: false,
        stall: None,
        broken: false,
    };
    std::future::poll_fn(|cx| answer.poll(cx)).await
}
