//! One attempt: a request over one connection, up to the head of its answer.

use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::response::Parts;
use http::{Response, StatusCode, Version};
use http_body::Body as _;

use super::body::{BodyFailure, Progress, RequestBody, ResponseBody};
use super::headers::HeaderRules;
use super::http2::{self, Http2Link};
use super::link::{Asked, Http1Link, Link, NoHead};
use super::pool::Server;
use super::upload::{Rest, Upload, UploadFault};
use super::{AnswerFault, ProxyError, UpstreamRequest};
use crate::deadline::Deadline;
use crate::http1::{BodyLength, ResponseHead};
use crate::websocket::{Handshake, agree};

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server has seen nothing of it: it may go over another connection, whatever it is.
    NotSent,
    /// The connection ended without an answer: what is repeatable may be sent again.
    Closed(AnswerFault),
    /// The answer is not HTTP, or sending failed.
    Invalid(AnswerFault),
    /// It is HTTP that a gateway must not pass on.
    Unacceptable(&'static str),
    /// The time is over.
    Timeout,
}

impl Failure {
    /// What the client is told. When its own body failed, that is why all else did.
    pub(super) fn into_error(self, request: &UpstreamRequest<'_>) -> ProxyError {
        let progress = request.progress.as_deref();
        match (progress.and_then(|progress| progress.failure.get()), self) {
            (Some(BodyFailure::TooLarge), _) => ProxyError::BodyTooLarge,
            (Some(BodyFailure::Broken), _) => ProxyError::ClientBody,
            (Some(BodyFailure::Idle), _) => ProxyError::ClientTimeout,
            (None, Self::Closed(fault)) => ProxyError::Closed(fault),
            (None, Self::Invalid(fault)) => ProxyError::Invalid(fault),
            (None, Self::Unacceptable(why)) => ProxyError::Unacceptable(why),
            (None, Self::Timeout) if progress.is_some_and(|progress| progress.starved.get()) => {
                ProxyError::ClientTimeout
            }
            (None, Self::Timeout) => ProxyError::Timeout,
            (None, Self::NotSent) => ProxyError::Closed("it closed the connection at once".into()),
        }
    }
}

impl From<NoHead> for Failure {
    fn from(reason: NoHead) -> Self {
        match reason {
            NoHead::Closed(fault) => Self::Closed(fault),
            NoHead::Invalid(fault) => Self::Invalid(fault),
            NoHead::Unacceptable(why) => Self::Unacceptable(why),
        }
    }
}

/// What attempts need besides the request and a connection.
pub(super) struct Exchange<'a> {
    pub(super) rules: &'a Rc<HeaderRules>,
    pub(super) deadline: &'a Deadline,
    /// To the answer's head, from the last movement of the request's body.
    pub(super) timeout: Duration,
}

impl Exchange<'_> {
    /// Sends the request and reads the answer's head. The connection goes along with the answer's
    /// body, and back to `server` when both directions have ended. After a failure the request is
    /// whole if it [may be sent again](UpstreamRequest::is_repeatable), or was not sent at all.
    pub(super) async fn run(
        &self,
        link: Link,
        server: &Rc<Server>,
        request: &mut UpstreamRequest<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        self.deadline.set(self.timeout);
        let answered = match link {
            Link::Http1(link) => self.run_http1(link, server, request).await,
            // The usual way has no room to spare for the unusual one.
            Link::Http2(link) => Box::pin(self.run_http2(link, server, request)).await,
        };
        self.deadline.clear();
        answered
    }

    async fn run_http1(
        &self,
        mut link: Box<Http1Link>,
        server: &Rc<Server>,
        request: &mut UpstreamRequest<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let length = body_length(&request.body);
        link.give_room(server.take_room());
        link.write_head(&request.parts, request.own.as_ref(), length);
        let mut upload = upload(request, length);
        let answered = std::future::poll_fn(|cx| {
            let UpstreamRequest { parts, progress, spent, .. } = &mut *request;
            let mut asked = Asked { method: &parts.method, spare: &mut parts.headers, spent };
            if let Poll::Ready(head) = link.poll_head(&mut asked, cx) {
                return Poll::Ready(head.map_err(Failure::from));
            }
            if let Some(upload) = upload.as_mut().filter(|upload| !upload.is_over())
                && let Poll::Ready(Err(UploadFault::Client)) = upload.poll(link.stream(), cx)
            {
                return Poll::Ready(Err(Failure::Closed("the request's body broke off".into())));
            }
            // What the server does not take it may answer all the same: it is read until it ends.
            self.poll_timeout(progress.as_deref(), cx)
        })
        .await;
        if link.has_said_nothing() && !matches!(answered, Err(Failure::Timeout)) {
            // Whatever has come, it is no answer to this.
            link.take_back();
            return Err(not_sent(upload, request));
        }
        let ResponseHead { parts, length, keep_alive } = answered?;
        if let Some(handshake) = &request.handshake
            && parts.status == StatusCode::SWITCHING_PROTOCOLS
        {
            return self.switch(parts, *link, handshake);
        }
        let parts = self.accept(parts)?;
        let rest = match upload {
            None => None,
            Some(upload) if upload.is_whole() && link.is_clear() => None,
            Some(upload) => Some(Rest::start(upload, &mut link, server, self.timeout)),
        };
        let body = ResponseBody::http1(link, server, (length, keep_alive), rest, self.rules);
        Ok(Response::from_parts(parts, body))
    }

    async fn run_http2(
        &self,
        link: Http2Link,
        server: &Rc<Server>,
        request: &mut UpstreamRequest<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let body = std::mem::replace(&mut request.body, RequestBody::Empty);
        let mut outgoing =
            http2::request(&request.parts, body, server.http_scheme(), request.takes_trailers)?;
        if let Some(own) = &request.own {
            own.set(outgoing.headers_mut());
        }
        let mut sender = link.sender();
        let mut answer = pin!(sender.try_send_request(outgoing));
        let answered = std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            self.poll_timeout(request.progress.as_deref(), cx)
        })
        .await?;
        let response = answered.map_err(|mut error| {
            if let Some(unsent) = error.take_message() {
                request.body = unsent.into_body();
                link.retire();
                return Failure::NotSent;
            }
            http2::classify(error.into_error(), &link, request.progress.is_none())
        })?;
        let (parts, incoming) = response.into_parts();
        let parts = self.accept(parts)?;
        Ok(Response::from_parts(parts, ResponseBody::http2(incoming, link, self.rules)))
    }

    /// The timeout runs from the last movement of the request's body.
    fn poll_timeout<T>(&self, progress: Option<&Progress>, cx: &Context<'_>) -> Poll<Result<T, Failure>> {
        if progress.is_some_and(|progress| progress.moved.take()) {
            self.deadline.set(self.timeout);
        }
        self.deadline.poll_passed(cx).map(|()| Err(Failure::Timeout))
    }

    /// Judges the answer's head and cleans it.
    fn accept(&self, mut parts: Parts) -> Result<Parts, Failure> {
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Unacceptable("it switches protocols unasked"));
        }
        if parts.status.as_u16() > 599 {
            return Err(Failure::Unacceptable("its status is above 599"));
        }
        self.rules.strip_response(&mut parts.headers);
        parts.extensions.clear();
        parts.version = Version::HTTP_11;
        Ok(parts)
    }

    /// Judges a 101 by what was asked for. From here on the connection speaks that.
    fn switch(
        &self,
        mut parts: Parts,
        link: Http1Link,
        handshake: &Handshake,
    ) -> Result<Response<ResponseBody>, Failure> {
        handshake.check(&parts.headers).map_err(Failure::Unacceptable)?;
        self.rules.strip_response(&mut parts.headers);
        agree(&mut parts.headers);
        Ok(Response::from_parts(parts, ResponseBody::switched(link, self.rules)))
    }
}

/// How a request's body will be framed.
fn body_length(body: &RequestBody) -> BodyLength {
    match (body, body.size_hint().exact()) {
        (RequestBody::Empty, _) => BodyLength::None,
        (RequestBody::Streaming(_), Some(length)) => BodyLength::Exact(length),
        (RequestBody::Streaming(_), None) => BodyLength::Chunked,
    }
}

fn upload(request: &mut UpstreamRequest<'_>, length: BodyLength) -> Option<Box<Upload>> {
    let progress = request.progress.as_ref()?;
    let body = std::mem::replace(&mut request.body, RequestBody::Empty);
    Some(Box::new(Upload::new(body, progress, length)))
}

/// Makes the request whole again, when nothing of it is lost.
fn not_sent(upload: Option<Box<Upload>>, request: &mut UpstreamRequest<'_>) -> Failure {
    let lost = || Failure::Closed("the connection had ended".into());
    if request.spent {
        return lost();
    }
    let Some(upload) = upload else { return Failure::NotSent };
    upload.take_back().map_or_else(lost, |body| {
        request.body = body;
        Failure::NotSent
    })
}
