//! A request's body on its way out over HTTP/1.1.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::Body as _;
use tokio::io::AsyncWrite as _;
use tokio::task::AbortHandle;

use super::body::{BodyFailure, Progress, RequestBody};
use super::link::{Http1Link, Link};
use super::pool::Server;
use crate::burst::BurstStream;
use crate::http1::{BodyLength, Encoder, Outgoing, write_trailers};

/// A request's body that is being sent.
#[derive(Debug)]
pub(super) struct Upload {
    body: RequestBody,
    progress: Rc<Progress>,
    encoder: Encoder,
    out: Outgoing,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing of the body was taken.
    Untouched,
    /// It flows.
    Flowing,
    /// All of it is in `out`.
    Read,
    /// All of it was written.
    Whole,
    /// It will not be: the server does not take it.
    Broken,
}

/// Why a body cannot be sent.
#[derive(Debug)]
pub(super) enum UploadFault {
    /// It does not come; [`Progress::failure`] says why.
    Client,
    /// The server does not take it. It may have answered all the same.
    Server,
}

impl Upload {
    pub(super) fn new(body: RequestBody, progress: &Rc<Progress>, length: BodyLength) -> Self {
        Self {
            body,
            progress: Rc::clone(progress),
            encoder: Encoder::new(length),
            out: Outgoing::default(),
            state: State::Untouched,
        }
    }

    /// The body, when nothing of it was taken.
    pub(super) fn take_back(self) -> Option<RequestBody> {
        (self.state == State::Untouched).then_some(self.body)
    }

    /// Whether all of it was written.
    pub(super) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// Whether nothing more will be written.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Whole | State::Broken)
    }

    /// Sends what there is, until all of it is sent.
    pub(super) fn poll(
        &mut self,
        stream: &mut BurstStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadFault>> {
        loop {
            if ready!(self.poll_write(stream, cx)).is_err() {
                self.state = State::Broken;
                return Poll::Ready(Err(UploadFault::Server));
            }
            if self.state == State::Read {
                self.state = State::Whole;
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_frame(cx)).is_none() {
                self.state = State::Broken;
                return Poll::Ready(Err(UploadFault::Client));
            }
        }
    }

    fn poll_write(&mut self, stream: &mut BurstStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &self.out.slices()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.out.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece of the body. `None`: there is none, and it is not the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.state = State::Flowing;
        let pushed = match frame {
            None => self.push_end(),
            // The body has noted why.
            Some(Err(_)) => return Poll::Ready(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => Some(()),
                Ok(data) => self.encoder.frame(data.len()).ok().map(|around| self.out.push(data, &around)),
                Err(frame) => self.push_trailers(frame),
            },
        };
        if pushed.is_none() {
            // Longer or shorter than its head says: what its framing should have said is not there.
            self.progress.failure.set(Some(BodyFailure::Broken));
        }
        Poll::Ready(pushed)
    }

    fn push_end(&mut self) -> Option<()> {
        let end = self.encoder.end().ok()?;
        self.out.small().extend_from_slice(end);
        self.state = State::Read;
        Some(())
    }

    fn push_trailers(&mut self, frame: http_body::Frame<bytes::Bytes>) -> Option<()> {
        match frame.into_trailers() {
            Ok(trailers) if self.encoder.takes_trailers() => {
                write_trailers(self.out.small(), &trailers);
                self.state = State::Read;
                Some(())
            }
            _ => self.push_end(),
        }
    }
}

/// What is left of an upload whose answer has come already. It moves on its own: a client that only
/// writes and a server that only writes would wait for each other otherwise. It is given up when this is
/// dropped.
#[derive(Debug)]
pub(super) struct Rest {
    shared: Rc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    end: Cell<Option<End>>,
    /// The connection, when the answer has ended first.
    then: RefCell<Option<(Box<Http1Link>, Rc<Server>)>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Whole,
    Broken,
}

impl Rest {
    /// Lets the rest of `upload` flow. Once the answer has ended it has to move within `timeout`.
    pub(super) fn start(
        mut upload: Box<Upload>,
        link: &mut Http1Link,
        server: &Rc<Server>,
        timeout: Duration,
    ) -> Self {
        let shared = Rc::new(Shared::default());
        let mut stream = link.stream().share();
        let deadline = server.clock().slot();
        let end = Rc::clone(&shared);
        let task = tokio::task::spawn_local(async move {
            deadline.set(timeout);
            let sent = std::future::poll_fn(|cx| {
                if !upload.is_over()
                    && let Poll::Ready(Err(_)) = upload.poll(&mut stream, cx)
                {
                    return Poll::Ready(false);
                }
                // The last of it may still wait for a server that is slow to take it.
                if upload.is_whole()
                    && let Poll::Ready(written) = stream.poll_all_written(cx)
                {
                    return Poll::Ready(written.is_ok());
                }
                if upload.progress.moved.take() {
                    deadline.set(timeout);
                }
                while deadline.poll_passed(cx).is_ready() {
                    if end.then.borrow().is_some() {
                        return Poll::Ready(false);
                    }
                    deadline.set(timeout);
                }
                Poll::Pending
            });
            let sent = sent.await;
            drop(stream);
            end.end.set(Some(if sent { End::Whole } else { End::Broken }));
            if let Some((link, server)) = end.then.take()
                && sent
            {
                server.put(Link::Http1(link));
            }
        });
        Self { shared, task: task.abort_handle() }
    }

    /// The answer has ended: the connection can be used again when the request has, too.
    pub(super) fn give_back(self, link: Box<Http1Link>, server: Rc<Server>) {
        match self.shared.end.get() {
            Some(End::Whole) => server.put(Link::Http1(link)),
            Some(End::Broken) => {}
            None => {
                self.shared.then.replace(Some((link, server)));
            }
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.shared.then.borrow().is_none() {
            self.task.abort();
        }
    }
}
