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
        link.give_room(server.take_room(), request.shares_connection);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::super::UpstreamRoute;
    use super::super::fleet::tests::upstream;
    use super::super::pool::{Wanted, Way};
    use super::super::resolve::Addresses;
    use super::*;
    use crate::burst::{BurstStream, Bursts};
    use crate::deadline::Deadlines;
    use crate::message::body::{BodyError, ClientBody};
    use crate::message::client::TrustedProxies;
    use crate::message::identity::IdentityRules;
    use crate::settings::{IdentityHeaderNames, IdentitySettings};
    use crate::stream::Stream;

    const PATIENCE: Duration = Duration::from_secs(30);
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    /// A client's body, as the test sends it.
    struct Pieces(UnboundedReceiver<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
        }
    }

    /// Both ends of an upload, and what is between them.
    struct Scene {
        server: Rc<Server>,
        /// Where the server reads and answers.
        theirs: UnixStream,
        /// The connection once more, to look at.
        link: BurstStream,
        client: UnboundedSender<Bytes>,
        sent: usize,
    }

    impl Scene {
        /// Has the client send until the server's socket is full, and end with what still waits for it.
        async fn send_until_the_last_piece_waits(&mut self) {
            while self.link.is_clear() {
                self.client.send(Bytes::from_static(&[b'x'; 4096])).expect("somebody reads it");
                self.sent += 4096;
                self.let_others_run().await;
            }
            let (ended, _) = unbounded_channel();
            self.client = ended;
            self.let_others_run().await;
            assert!(!self.link.is_clear(), "the server has not read anything");
        }

        async fn let_others_run(&self) {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }

        /// The server reads at last: all of the body is there, and then the connection can be used again.
        async fn the_rest_arrives_and_the_connection_stays(mut self) {
            drop(self.link);
            // Another request comes meanwhile; it gets no connection whose own request is not over.
            assert!(self.server.take(Wanted::Any, 0).is_none(), "it was given back too early");
            self.server.close_idle(0);
            let (mut read, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
            while !read.ends_with(b"\r\n0\r\n\r\n") {
                let more = timeout(PATIENCE, self.theirs.read(&mut piece)).await.expect("something comes");
                let more = more.expect("the connection is there");
                assert!(more > 0, "cut off after {} bytes", read.len());
                read.extend_from_slice(&piece[..more]);
            }
            let body = memchr::memchr_iter(b'x', &read).count();
            assert_eq!(body, self.sent);
            let used_again = async {
                while self.server.take(Wanted::Any, 0).is_none() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, used_again).await.expect("it is given back");
        }
    }

    /// Runs a test with a request whose head has reached the server, and whose body has just begun.
    fn with_upload<'t, F: Future<Output = ()> + 't>(
        test: impl FnOnce(Scene, std::pin::Pin<Box<dyn Future<Output = ResponseBody>>>) -> F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let (clock, bursts) = (Deadlines::new(), Bursts::new());
            tokio::task::spawn_local(Rc::clone(&bursts).write());
            let stream = BurstStream::new(Stream::Unix(ours), &bursts);
            let link = stream.share();
            let settings = upstream(&["127.0.0.1:1"]);
            let addresses = std::sync::Arc::new(Addresses::of(&settings.servers[0].endpoint));
            let way = Way { addresses: &addresses, tls: None };
            let server = Rc::new(Server::new(&settings, &settings.servers[0], way, &clock, &bursts));
            let (client, pieces) = unbounded_channel();
            let answer = Box::pin(answer(Http1Link::new(stream), Rc::clone(&server), Pieces(pieces)));
            let mut answer: std::pin::Pin<Box<dyn Future<Output = ResponseBody>>> = answer;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                tokio::select! {
                    _ = &mut answer => unreachable!("nobody has answered"),
                    read = theirs.read_u8() => head.push(read.expect("a head")),
                }
            }
            test(Scene { server, theirs, link, client, sent: 0 }, answer).await;
        });
    }

    /// Asks, and gives the answer's body.
    async fn answer(link: Http1Link, server: Rc<Server>, body: Pieces) -> ResponseBody {
        let identity = IdentitySettings {
            headers: IdentityHeaderNames::default(),
            roles_separator: ",".to_owned(),
            send_unverified_email: false,
            forward_authorization: false,
        };
        let identity = IdentityRules::new(&identity);
        let rules = Rc::new(HeaderRules::new(identity, TrustedProxies::default(), &[]));
        let route = UpstreamRoute::own();
        let mut request = UpstreamRequest::check(&route, "/", &HeaderValue::from_static("a"));
        (request.body, request.progress) =
            RequestBody::new(ClientBody::streamed(body), None, &rules).expect("a body");
        let deadline = server.clock().slot();
        let exchange = Exchange { rules: &rules, deadline: &deadline, timeout: PATIENCE };
        let answered = exchange.run(Link::Http1(Box::new(link)), &server, &mut request).await;
        answered.expect("an answer").into_body()
    }

    #[test]
    fn the_last_piece_of_an_upload_that_was_all_sent_arrives_after_its_answer() {
        with_upload(|mut scene, answer| async move {
            let answer = tokio::task::spawn_local(answer);
            scene.send_until_the_last_piece_waits().await;
            scene.theirs.write_all(ANSWER).await.expect("written");
            let body = timeout(PATIENCE, answer).await.expect("an answer").expect("no panic");
            let body = timeout(PATIENCE, body.collect()).await.expect("it ends").expect("it is whole");
            assert_eq!(body.to_bytes(), "ok");
            scene.the_rest_arrives_and_the_connection_stays().await;
        });
    }

    #[test]
    fn the_last_piece_of_an_upload_that_outlives_its_answer_arrives() {
        with_upload(|mut scene, answer| async move {
            scene.theirs.write_all(ANSWER).await.expect("written");
            let body = timeout(PATIENCE, answer).await.expect("an answer");
            let body = timeout(PATIENCE, body.collect()).await.expect("it ends").expect("it is whole");
            assert_eq!(body.to_bytes(), "ok");
            scene.send_until_the_last_piece_waits().await;
            scene.the_rest_arrives_and_the_connection_stays().await;
        });
    }
}
