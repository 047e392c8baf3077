//! Bodies on their way through: frames pass as they come, trailers are filtered, nothing is held.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::headers::HeaderRules;
use super::pool::{Link, Server};

/// Why a body could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer that sends it broke off, or its framing is wrong.
    #[error("the body broke off: {0}")]
    Broken(#[source] hyper::Error),
    /// It is longer than the route allows.
    #[error("the body is longer than the route allows")]
    TooLarge,
}

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
    incoming: Incoming,
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
}

impl RequestBody {
    /// Wraps the client's body. When its first frame is here already it is looked at now, so that a
    /// body which is framed wrongly from its start never reaches an upstream.
    pub(super) fn new(
        mut incoming: Incoming,
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
                first = Some(frame.map_err(BodyError::Broken)?);
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
        Poll::Ready(Some(frame.map_err(BodyError::Broken).and_then(|frame| self.pass(frame)).inspect_err(
            |error| {
                let failure = match error {
                    BodyError::Broken(_) => BodyFailure::Broken,
                    BodyError::TooLarge => BodyFailure::TooLarge,
                };
                self.progress.failure.set(Some(failure));
            },
        )))
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
        // Nobody reads on: hyper gives a body up when it has all of it or the exchange is over.
        self.progress.finished.set(true);
    }
}

/// A response's body on its way to the client. It drives the connection that it comes from, and
/// gives that connection back when it has ended.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    source: Source,
    /// Why it ends early; told at the poll after the one that found it.
    failure: Option<hyper::Error>,
    rules: Rc<HeaderRules>,
}

/// Who moves the bytes.
#[derive(Debug)]
enum Source {
    /// This body does.
    Link(Box<Link>, Rc<Server>),
    /// A task of its own, which ends with this body: the request is still being sent.
    Task(tokio::task::AbortHandle),
    /// Nobody any more: the body has ended, or its connection has.
    Ended,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        link: Box<Link>,
        server: Rc<Server>,
        rules: Rc<HeaderRules>,
    ) -> Self {
        let mut body = Self { incoming, source: Source::Link(link, server), failure: None, rules };
        body.settle_if_ended();
        body
    }

    /// For an answer that came before its request was sent: both directions have to move on their
    /// own, or a client that only writes and an upstream that only writes would wait for each other.
    pub(super) fn with_task(
        incoming: Incoming,
        mut link: Box<Link>,
        server: Rc<Server>,
        rules: Rc<HeaderRules>,
    ) -> Self {
        let task = tokio::task::spawn_local(async move {
            let is_free = std::future::poll_fn(|cx| {
                // An error shows in the body as well.
                if Pin::new(&mut link.connection).poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                // Ready when both directions have ended, and not before.
                link.sender.poll_ready(cx).map(|ready| ready.is_ok())
            })
            .await;
            if is_free {
                server.put(link);
            }
        });
        Self { incoming, source: Source::Task(task.abort_handle()), failure: None, rules }
    }

    fn settle_if_ended(&mut self) {
        if !self.incoming.is_end_stream() {
            return;
        }
        if let Source::Link(link, server) = std::mem::replace(&mut self.source, Source::Ended) {
            server.put(link);
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Source::Link(link, _) = &mut self.source else {
            return Pin::new(&mut self.incoming).poll_frame(cx);
        };
        let mut unwoken = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(&mut unwoken) {
            return Poll::Ready(frame);
        }
        if Pin::new(&mut link.connection).poll(cx).is_ready() {
            // What was read is in the channel; the channel's end follows it.
            self.source = Source::Ended;
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
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
        if let Some(error) = this.failure.take() {
            return Poll::Ready(Some(Err(BodyError::Broken(error))));
        }
        match std::task::ready!(this.poll_incoming(cx)) {
            None => {
                if let Source::Link(link, server) = std::mem::replace(&mut this.source, Source::Ended) {
                    server.put(link);
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
            Some(Err(error)) => {
                // hyper drops what it has not written when a body fails. A turn later it has written the
                // head and what came before, so that the client sees how far it got.
                this.source = Source::Ended;
                this.failure = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Source::Task(task) = &self.source {
            task.abort();
        }
    }
}
