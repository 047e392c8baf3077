//! One stream: its request in, its answer out, and both bodies as they come.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue};
use http::header::{SEC_WEBSOCKET_ACCEPT, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version, response};
use http_body::{Body as _, Frame, SizeHint};

use super::request::{self, Wish};
use super::tunnel::StreamIo;
use super::{FRAME, Link, SEND_BUFFER};
use crate::deadline::Deadline;
use crate::gateway::{Arrival, Body};
use crate::http1::HttpDate;
use crate::message::body::{BodyError, ClientBody};
use crate::metrics::ConnectionEnd;

/// Answers one request, unless its client takes it back before.
pub(super) async fn serve(link: &Rc<Link>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (mut parts, inflow) = request.into_parts();
    let wish = request::adopt(&mut parts, link.limits.header_count);
    let is_head = parts.method == Method::HEAD;
    let (body, inflow) = match wish {
        Wish::Answer(_) => (ClientBody::streamed(Inflow::new(link, inflow, &parts.headers)), None),
        Wish::Tunnel(_) => (ClientBody::Empty, Some(inflow)),
    };
    let arrival = Arrival { peer: &link.peer, remark: wish.remark() };
    let answered = {
        let gateway = link.worker.gateway();
        let mut answer = pin!(gateway.handle(Request::from_parts(parts, body), arrival));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            // Dropping the answer is all it takes to cancel what is being done for it.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(response) = answered else { return };
    match (response.into_parts(), inflow) {
        ((parts, Body::Tunnel(tunnel)), Some(inflow)) => {
            let head = tunnel_head(link, parts);
            if let Ok(send) = respond.send_response(head, false) {
                tunnel.run(StreamIo::new(link, send, inflow), Bytes::new()).await;
            }
        }
        ((parts, _), Some(_)) if parts.status.is_success() => {
            // The client would take any success for the tunnel (RFC 8441 section 5).
            let mut head = head(link, response::Builder::new().body(()).unwrap_or_default().into_parts().0);
            *head.status_mut() = StatusCode::BAD_GATEWAY;
            let _ = respond.send_response(head, true);
        }
        ((parts, body), _) => {
            let empty = is_head || body.is_end_stream() || has_no_body(parts.status);
            let head = head(link, parts);
            if let Ok(send) = respond.send_response(head, empty)
                && !empty
            {
                Outflow::new(link, send).send_body(body).await;
            }
        }
    }
}

const fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// An answer's head as HTTP/2 has it.
fn head(link: &Link, mut parts: response::Parts) -> Response<()> {
    remove_connection_fields(&mut parts.headers);
    if parts.status == StatusCode::NO_CONTENT {
        // RFC 9110 section 8.6.
        parts.headers.remove(CONTENT_LENGTH);
    }
    if !parts.headers.contains_key(DATE) {
        let date = HttpDate::new(link.worker.gateway().now());
        if let Ok(date) = HeaderValue::from_bytes(date.as_bytes()) {
            parts.headers.insert(DATE, date);
        }
    }
    parts.version = Version::HTTP_2;
    Response::from_parts(parts, ())
}

/// The application has agreed, which is a 200 here; its key was ours (RFC 8441 section 5.1).
fn tunnel_head(link: &Link, mut parts: response::Parts) -> Response<()> {
    parts.status = StatusCode::OK;
    parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
    parts.headers.remove(CONTENT_LENGTH);
    head(link, parts)
}

/// What concerns one connection only has no place in HTTP/2 (RFC 9113 section 8.2.2).
fn remove_connection_fields(headers: &mut HeaderMap) {
    static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    for name in [&CONNECTION, &TRANSFER_ENCODING, &UPGRADE, &TE, &KEEP_ALIVE, &PROXY_CONNECTION] {
        headers.remove(name);
    }
}

/// A request's body as it comes.
struct Inflow {
    stream: RecvStream,
    /// What `Content-Length` says is to come; the h2 crate holds the client to it.
    left: Option<u64>,
    link: Rc<Link>,
    idle: Option<Deadline>,
    data_ended: bool,
}

impl Inflow {
    fn new(link: &Rc<Link>, stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, left: length, link: Rc::clone(link), idle: None, data_ended: false }
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.stream.poll_trailers(cx) {
            Poll::Ready(Ok(None)) => Poll::Ready(None),
            Poll::Ready(Ok(Some(trailers))) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(BodyError::Broken(error.into())))),
            Poll::Pending => self.poll_idle(cx),
        }
    }

    /// Nothing is here; has it been so for too long?
    fn poll_idle(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let idle = self.idle.get_or_insert_with(|| {
            let idle = self.link.worker.deadlines().slot();
            idle.set(self.link.limits.body_idle);
            idle
        });
        ready!(idle.poll_passed(cx));
        self.link.worker.count_end(ConnectionEnd::BodyIdle);
        Poll::Ready(Some(Err(BodyError::Idle)))
    }
}

impl http_body::Body for Inflow {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.data_ended {
            return this.poll_trailers(cx);
        }
        match this.stream.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                this.idle = None;
                this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                // The window opens as the body is taken: who takes it slowly slows the client down.
                let _ = this.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Broken(error.into())))),
            Poll::Ready(None) => {
                this.data_ended = true;
                this.poll_trailers(cx)
            }
            Poll::Pending => this.poll_idle(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The way of an answer's bytes to the client. Only what it has opened its window for is handed over.
pub(super) struct Outflow {
    stream: SendStream<Bytes>,
    link: Rc<Link>,
    stall: Deadline,
    stalled: bool,
}

/// Why nothing more goes out on a stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum Blocked {
    /// The client does not want it, or is gone.
    #[error("the stream is closed")]
    Closed,
    /// It opened no window for `[server.limits] write_stall`.
    #[error("the client takes nothing")]
    Stalled,
}

impl Outflow {
    pub(super) fn new(link: &Rc<Link>, stream: SendStream<Bytes>) -> Self {
        let stall = link.worker.deadlines().slot();
        Self { stream, link: Rc::clone(link), stall, stalled: false }
    }

    /// Sends a body to its end, or as far as it comes.
    async fn send_body(mut self, body: Body) {
        let mut body = pin!(body);
        loop {
            let frame = poll_fn(|cx| {
                if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
                    return Poll::Ready(Ok(frame));
                }
                self.stream.poll_reset(cx).map(|_| Err(Blocked::Closed))
            });
            let frame = match frame.await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return self.stream.send_reset(Reason::INTERNAL_ERROR),
                Ok(None) => {
                    let _ = self.send(Bytes::new(), true);
                    return;
                }
                Err(_) => return,
            };
            match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    match self.send_data(data, last).await {
                        Ok(()) if last => return,
                        Ok(()) => {}
                        Err(Blocked::Closed) => return,
                        Err(Blocked::Stalled) => {
                            self.link.worker.count_end(ConnectionEnd::WriteStall);
                            tracing::debug!(client = %self.link.peer.address, "a stream's window stays closed");
                            return self.stream.send_reset(Reason::CANCEL);
                        }
                    }
                }
                Err(frame) => {
                    if let Ok(mut trailers) = frame.into_trailers() {
                        remove_connection_fields(&mut trailers);
                        self.stream.reserve_capacity(0);
                        let _ = self.stream.send_trailers(trailers);
                        return;
                    }
                }
            }
        }
    }

    async fn send_data(&mut self, mut data: Bytes, last: bool) -> Result<(), Blocked> {
        if data.is_empty() && last {
            return self.send(data, true);
        }
        while !data.is_empty() {
            let room = poll_fn(|cx| self.poll_room(cx, data.len())).await?;
            let piece = data.split_to(room.min(data.len()));
            self.send(piece, last && data.is_empty())?;
        }
        Ok(())
    }

    /// How much of `wanted` bytes may be sent; at least one.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Blocked>> {
        self.stream.reserve_capacity(wanted.min(SEND_BUFFER));
        loop {
            let room = self.stream.capacity();
            if room > 0 {
                if std::mem::take(&mut self.stalled) {
                    self.stall.clear();
                }
                return Poll::Ready(Ok(room));
            }
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Blocked::Closed)),
                Poll::Pending => break,
            }
        }
        if !self.stalled {
            self.stalled = true;
            self.stall.set(self.link.limits.write_stall);
        }
        ready!(self.stall.poll_passed(cx));
        Poll::Ready(Err(Blocked::Stalled))
    }

    pub(super) fn send(&mut self, data: Bytes, last: bool) -> Result<(), Blocked> {
        let frames = data.len().div_ceil(FRAME as usize).max(1) as u64;
        self.link.data_frames.set(self.link.data_frames.get() + frames);
        self.stream.send_data(data, last).map_err(|_| Blocked::Closed)
    }
}
