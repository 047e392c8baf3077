//! Bodies on their way through: frames pass as they come, trailers are filtered, nothing is held.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::balance::Busy;
use super::headers::HeaderRules;
use super::http2::Http2Link;
use super::link::{Http1Link, Link};
use super::pool::Server;
use super::upload::Rest;
use crate::http1::{BodyLength, Decoded, Decoder};
use crate::message::body::{BodyError, BrokenBody, ClientBody};
use crate::websocket::Duplex;

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    Empty,
    /// It streams. Boxed: most requests have none, and the request is moved a lot.
    Streaming(Box<Streaming>),
}

/// A request body that streams.
#[derive(Debug)]
pub struct Streaming {
    incoming: ClientBody,
    /// A frame that was looked at before the upstream was asked.
    first: Option<Frame<Bytes>>,
    left: u64,
    progress: Rc<Progress>,
    rules: Rc<HeaderRules>,
}

/// What the rest of the exchange needs to know of the request body.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The body was read to its end.
    pub(super) finished: Cell<bool>,
    /// A frame has passed since somebody last asked.
    pub(super) moved: Cell<bool>,
    /// The upstream would take more, and the client has not sent it.
    pub(super) starved: Cell<bool>,
    /// Why it failed, if it did.
    pub(super) failure: Cell<Option<BodyFailure>>,
}

/// How a request body failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BodyFailure {
    /// The client broke off or framed it wrongly.
    Broken,
    /// It exceeds the route's `body_bytes`.
    TooLarge,
    /// Nothing arrived for `body_idle`.
    Idle,
}

impl RequestBody {
    /// Wraps the client's body. When its first frame is here already it is looked at now, so that a
    /// body which is framed wrongly from its start never reaches an upstream.
    pub(super) fn new(
        mut incoming: ClientBody,
        limit: Option<u64>,
        rules: &Rc<HeaderRules>,
    ) -> Result<(Self, Option<Rc<Progress>>), BodyError> {
        if incoming.is_end_stream() {
            return Ok((Self::Empty, None));
        }
        let left = limit.unwrap_or(u64::MAX);
        if incoming.size_hint().lower() > left {
            return Err(BodyError::TooLarge);
        }
        let mut first = None;
        if incoming.size_hint().exact().is_none() {
            let look = Pin::new(&mut incoming).poll_frame(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(Some(frame)) = look {
                first = Some(frame?);
            }
        }
        let (progress, rules) = (Rc::new(Progress::default()), Rc::clone(rules));
        let streaming = Streaming { incoming, first, left, progress: Rc::clone(&progress), rules };
        Ok((Self::Streaming(Box::new(streaming)), Some(progress)))
    }

    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(body) => body.first.is_none() && body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(body) if body.first.is_none() => body.incoming.size_hint(),
            Self::Streaming(_) => SizeHint::default(),
        }
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = if let Some(frame) = self.first.take() {
            Some(Ok(frame))
        } else {
            self.progress.starved.set(true);
            std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx))
        };
        self.progress.starved.set(false);
        self.progress.moved.set(true);
        let Some(frame) = frame else {
            self.progress.finished.set(true);
            return Poll::Ready(None);
        };
        Poll::Ready(Some(frame.and_then(|frame| self.pass(frame)).inspect_err(|error| {
            let failure = match error {
                BodyError::Broken(_) => BodyFailure::Broken,
                BodyError::Idle => BodyFailure::Idle,
                BodyError::TooLarge => BodyFailure::TooLarge,
            };
            self.progress.failure.set(Some(failure));
        })))
    }

    fn pass(&mut self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        if let Some(data) = frame.data_ref() {
            self.left = self.left.checked_sub(data.len() as u64).ok_or(BodyError::TooLarge)?;
        }
        if let Some(trailers) = frame.trailers_mut() {
            self.rules.strip_request_trailers(trailers);
        }
        if self.incoming.is_end_stream() {
            self.progress.finished.set(true);
        }
        Ok(frame)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // Nobody reads on.
        self.progress.finished.set(true);
    }
}

/// A response's body on its way to the client. It drives the connection that it comes from, and
/// gives that connection back when it has ended.
pub struct ResponseBody {
    source: Source,
    /// Why it ends early; told at the poll after the one that found it.
    failure: Option<BrokenBody>,
    rules: Rc<HeaderRules>,
    /// Counted at the server until the end, where there are several.
    busy: Option<Busy>,
}

/// Where the bytes come from.
enum Source {
    /// A connection that is this body's until it ends.
    Http1(Http1Body),
    /// A stream of a connection that moves by itself, and its place there.
    Http2(Incoming, #[expect(dead_code, reason = "it is held, for as long as the stream")] Http2Link),
    /// There is no body: after this head the connection speaks another protocol, and these bytes of it
    /// have come already.
    Switched(Box<dyn Duplex>, Bytes),
    /// Nowhere any more: the body has ended, or its connection has.
    Ended,
}

/// A body that is read from a connection of HTTP/1.1.
#[derive(Debug)]
struct Http1Body {
    link: Box<Http1Link>,
    server: Rc<Server>,
    decoder: Decoder,
    /// Whether the server would take another request.
    keep_alive: bool,
    /// The request is still being sent.
    rest: Option<Rest>,
}

impl Http1Body {
    /// Both directions have ended, or this one has.
    fn give_back(self) {
        match self.rest {
            _ if !self.keep_alive => {}
            None => self.server.put(Link::Http1(self.link)),
            Some(rest) => rest.give_back(self.link, self.server),
        }
    }
}

impl ResponseBody {
    pub(super) fn http1(
        link: Box<Http1Link>,
        server: &Rc<Server>,
        framing: (BodyLength, bool),
        rest: Option<Rest>,
        rules: &Rc<HeaderRules>,
    ) -> Self {
        let (length, keep_alive) = framing;
        let (server, decoder) = (Rc::clone(server), Decoder::new(length));
        let source = Source::Http1(Http1Body { link, server, decoder, keep_alive, rest });
        let mut body = Self { source, failure: None, rules: Rc::clone(rules), busy: None };
        body.settle_if_ended();
        body
    }

    pub(super) fn http2(incoming: Incoming, link: Http2Link, rules: &Rc<HeaderRules>) -> Self {
        let source = if incoming.is_end_stream() { Source::Ended } else { Source::Http2(incoming, link) };
        Self { source, failure: None, rules: Rc::clone(rules), busy: None }
    }

    /// Counts as a request at its server until it ends, and tells how that was.
    pub(super) fn keep_busy(&mut self, busy: Option<Busy>) {
        self.busy = busy;
        if self.is_end_stream() {
            self.ended_well();
        }
    }

    fn ended_well(&mut self) {
        if let Some(busy) = self.busy.take() {
            busy.ended();
        }
    }

    /// For a 101 that was asked for.
    pub(super) fn switched(link: Http1Link, rules: &Rc<HeaderRules>) -> Self {
        let (connection, early) = link.into_parts();
        let source = Source::Switched(Box::new(connection), early);
        Self { source, failure: None, rules: Rc::clone(rules), busy: None }
    }

    /// The connection that has switched protocols with this answer, and what has come over it since.
    #[must_use]
    pub fn into_switched(mut self) -> Option<(Box<dyn Duplex>, Bytes)> {
        match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Switched(connection, early) => match self.busy.take() {
                None => Some((connection, early)),
                Some(busy) => Some((Box::new(busy.with(connection)), early)),
            },
            other => {
                self.source = other;
                None
            }
        }
    }

    /// The connection is for others from the moment on at which the body is known to be over.
    fn settle_if_ended(&mut self) {
        if matches!(self.source, Source::Switched(..)) || !self.is_end_stream() {
            return;
        }
        self.ended_well();
        if let Source::Http1(body) = std::mem::replace(&mut self.source, Source::Ended) {
            body.give_back();
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match &mut self.source {
            Source::Ended | Source::Switched(..) => Poll::Ready(None),
            Source::Http1(body) => {
                let decoded = std::task::ready!(body.link.poll_body(&mut body.decoder, cx));
                Poll::Ready(match decoded {
                    Ok(Decoded::Data(data)) => Some(Ok(Frame::data(data))),
                    Ok(Decoded::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                    Ok(Decoded::End | Decoded::NeedMore) => None,
                    Err(fault) => Some(Err(fault)),
                })
            }
            Source::Http2(incoming, _) => {
                let frame = std::task::ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(fault) = this.failure.take() {
            return Poll::Ready(Some(Err(BodyError::Broken(fault))));
        }
        let frame = std::task::ready!(this.poll_source(cx));
        match frame {
            None => {
                this.settle_if_ended();
                this.ended_well();
                if let Source::Http1(_) | Source::Http2(..) = this.source {
                    this.source = Source::Ended;
                }
                Poll::Ready(None)
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    this.rules.strip_response_trailers(trailers);
                }
                this.settle_if_ended();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(fault)) => {
                // Over HTTP/2 the reset that tells of it would drop what waits for the socket. A turn later the
                // head and what came before have left, so that the client sees how far it got.
                this.source = Source::Ended;
                if let Some(busy) = this.busy.take() {
                    busy.broke(&fault);
                }
                this.failure = Some(fault);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let ended = match &self.source {
            Source::Http1(body) => body.decoder.is_ended(),
            Source::Http2(incoming, _) => incoming.is_end_stream(),
            Source::Switched(..) | Source::Ended => true,
        };
        ended && self.failure.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http1(body) => body.decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Source::Http2(incoming, _) => incoming.size_hint(),
            Source::Switched(..) => SizeHint::with_exact(0),
            Source::Ended if self.failure.is_none() => SizeHint::with_exact(0),
            Source::Ended => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").field("failure", &self.failure).finish_non_exhaustive()
    }
}
