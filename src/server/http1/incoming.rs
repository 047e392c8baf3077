//! A request's body: read from the connection by whoever wants it, as fast as they want it.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};

use super::{Connection, Io};
use crate::http1::{BodyFault, Decoded};
use crate::message::body::BodyError;
use crate::metrics::ConnectionEnd;

/// The most that is read of a body at once.
const PIECE_MAX: u64 = 64 * 1024;
/// From here on a body is read into memory of its own, which is passed on; less is copied.
const PIECE_MIN: u64 = 4 * 1024;

const GO_AHEAD: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The body of the request that its connection is at.
pub(super) struct Incoming {
    connection: Rc<Connection>,
    /// Which request of the connection it belongs to.
    number: u64,
    /// It has come to its end; what the connection reads from here on is somebody else's.
    ended: bool,
    /// The deadline runs: nothing was there when more was wanted.
    is_waiting: bool,
}

impl Incoming {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        let number = {
            let io = &mut *connection.io.borrow_mut();
            io.held = true;
            io.number
        };
        Self { connection, number, ended: false, is_waiting: false }
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let connection = &*self.connection;
        let io = &mut *connection.io.borrow_mut();
        if self.ended {
            return Poll::Ready(None);
        }
        if io.spoilt || io.number != self.number {
            return Poll::Ready(Some(Err(BodyError::Broken(BodyFault::Cut.into()))));
        }
        loop {
            let decoded = io.body.decode(&mut io.buffer);
            if self.is_waiting && !matches!(decoded, Ok(Decoded::NeedMore)) {
                self.is_waiting = false;
                connection.deadline.clear();
            }
            match decoded {
                Ok(Decoded::Data(data)) => {
                    io.moved = connection.worker.deadlines().millis();
                    self.ended = io.body.is_ended();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(fault) => {
                    connection.worker.count_end(ConnectionEnd::Rubbish);
                    return Poll::Ready(Some(Err(io.broken(fault))));
                }
            }
            match io.poll_more(connection, cx) {
                Poll::Ready(true) => {
                    // Something has come: the time starts anew.
                    if self.is_waiting {
                        connection.deadline.set(connection.limits.body_idle);
                    }
                }
                Poll::Ready(false) => return Poll::Ready(Some(Err(io.broken(BodyFault::Cut)))),
                Poll::Pending if !std::mem::replace(&mut self.is_waiting, true) => {
                    connection.deadline.set(connection.limits.body_idle);
                    let _ = connection.deadline.poll_passed(cx);
                    return Poll::Pending;
                }
                Poll::Pending => {
                    ready!(connection.deadline.poll_passed(cx));
                    self.is_waiting = false;
                    connection.deadline.clear();
                    connection.worker.count_end(ConnectionEnd::BodyIdle);
                    io.spoilt = true;
                    return Poll::Ready(Some(Err(BodyError::Idle)));
                }
            }
        }
    }
}

impl Io {
    /// Reads more of the body; false when there will be no more.
    fn poll_more(&mut self, connection: &Connection, cx: &mut Context<'_>) -> Poll<bool> {
        if self.go_ahead.is_some() && !ready!(self.poll_go_ahead(cx)) {
            return Poll::Ready(false);
        }
        let opaque = self.body.opaque();
        if opaque < PIECE_MIN {
            let scratch = &mut *connection.worker.http1().scratch();
            return self.poll_read(cx, scratch).map(|read| match read {
                Ok(read) => {
                    self.buffer.extend_from_slice(&scratch[..read]);
                    read > 0
                }
                Err(_) => false,
            });
        }
        self.buffer.reserve(usize::try_from(opaque.min(PIECE_MAX)).unwrap_or(0));
        let read = pin!(self.stream.read_buf(&mut self.buffer)).poll(cx);
        if read.is_pending() && self.buffer.is_empty() {
            // A client that sends slowly holds no piece while nothing comes.
            self.buffer = bytes::BytesMut::new();
        }
        read.map(|read| read.is_ok_and(|read| read > 0))
    }

    /// Tells a client that waits for it to send the body; false when it cannot be told.
    fn poll_go_ahead(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while let Some(written) = self.go_ahead {
            if written == GO_AHEAD.len() {
                self.go_ahead = None;
                break;
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &GO_AHEAD[written..])) {
                Ok(more) if more > 0 => self.go_ahead = Some(written + more),
                Ok(_) | Err(_) => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    }

    fn broken(&mut self, fault: BodyFault) -> BodyError {
        self.spoilt = true;
        BodyError::Broken(fault.into())
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().poll_decoded(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.connection.io.borrow().body.is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended {
            return SizeHint::with_exact(0);
        }
        self.connection.io.borrow().body.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.is_waiting {
            self.connection.deadline.clear();
        }
        let io = &mut *self.connection.io.borrow_mut();
        if io.number != self.number {
            return;
        }
        io.held = false;
        if let Some(waiter) = io.waiter.take() {
            waiter.wake();
        }
    }
}
