//! Answers that outlast the judgement of their request: they go on for as long as their lease does.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use crate::authn::{AuthnError, Caller};
use crate::identity::Authentication;
use crate::lease::{Lease, Leases, Tenure};
use crate::message::body::BodyError;
use crate::message::identity::IdentityHeaders;
use crate::metrics::StreamEnd;
use crate::proxy::ResponseBody;

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// An upstream's body that ends, at the latest, with the token of whoever gets it.
#[derive(Debug)]
pub struct HeldBody {
    /// `None` when it was ended: its connection went with it.
    body: Option<ResponseBody>,
    lease: Lease,
    manner: Manner,
    cut_short: bool,
}

/// How a body can be ended so that its reader knows what happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// It has no length: it ends where it is.
    Clean,
    /// gRPC: its status comes after everything else.
    Grpc,
    /// It has said how long it is, and is not: it breaks off.
    Cut,
}

/// The token of whoever receives a body has ended.
#[derive(Debug, thiserror::Error)]
#[error("the caller's token has ended")]
struct TokenEnded;

impl HeldBody {
    /// A body with the head that came before it.
    pub(super) fn new(head: &HeaderMap, body: ResponseBody, lease: Lease) -> Self {
        // Most answers say how long they are, and need no second look.
        let manner = if body.size_hint().exact().is_some() {
            Manner::Cut
        } else if media_type_begins(head, b"application/grpc") {
            Manner::Grpc
        } else {
            Manner::Clean
        };
        if manner == Manner::Clean && is_event_stream(head) {
            lease.is_endless();
        }
        Self { body: Some(body), lease, manner, cut_short: false }
    }

    /// Whether it was ended before the upstream ended it. What the connection is still sending or
    /// receiving for this request is then of no use to anybody.
    #[must_use]
    pub const fn is_cut_short(&self) -> bool {
        self.cut_short
    }

    fn end(&mut self, why: StreamEnd) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.body = None;
        self.cut_short = true;
        match self.manner {
            Manner::Clean => None,
            Manner::Grpc => Some(Ok(Frame::trailers(grpc_trailers(why)))),
            Manner::Cut => Some(Err(BodyError::Broken(TokenEnded.into()))),
        }
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        // First of all: an upstream that always has more to say would never let it come to that.
        if let Some(why) = this.lease.ended() {
            return Poll::Ready(this.end(why));
        }
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let ended = this.lease.poll_ended(cx);
        ended.map(|why| this.end(why))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// For how long this caller may go on.
pub(super) fn tenure(caller: &Authentication<Rc<Caller<IdentityHeaders>>>) -> Option<Tenure> {
    let Authentication::Authenticated(caller) = caller else { return None };
    Some(Tenure { revocable_by: caller.token.revocable_by, expires_at: caller.token.expires_at })
}

/// Waits for `work` for as long as the caller's token lasts. The lease goes on with the answer.
///
/// By reference: every connection keeps room for what is awaited here, and by value that would be twice.
pub(super) async fn while_leased<T>(
    leases: &Rc<Leases>,
    tenure: Option<Tenure>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<(T, Option<Lease>), AuthnError> {
    let Some(tenure) = tenure else { return Ok((work.await, None)) };
    let mut lease: Option<Lease> = None;
    let outcome = std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        lease.get_or_insert_with(|| leases.hold(Some(tenure))).poll_ended(cx).map(Err)
    })
    .await;
    match outcome {
        Ok(done) => Ok((done, Some(lease.unwrap_or_else(|| leases.hold(Some(tenure)))))),
        Err(StreamEnd::Revoked) => Err(AuthnError::Revoked),
        Err(StreamEnd::Expired | StreamEnd::Drain) => Err(AuthnError::Expired),
    }
}

/// A stream of events has no end of its own (WHATWG HTML, server-sent events); its reader comes again.
pub(super) fn is_event_stream(head: &HeaderMap) -> bool {
    media_type_begins(head, b"text/event-stream")
}

fn media_type_begins(head: &HeaderMap, expected: &[u8]) -> bool {
    let value = head.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    value.get(..expected.len()).is_some_and(|start| start.eq_ignore_ascii_case(expected))
}

/// `UNAUTHENTICATED`, with which a client knows that another token may do.
fn grpc_trailers(why: StreamEnd) -> HeaderMap {
    let message = match why {
        StreamEnd::Expired => "the token has expired",
        StreamEnd::Revoked => "the token has been revoked",
        StreamEnd::Drain => "the gateway stops",
    };
    let mut trailers = HeaderMap::with_capacity(2);
    let status = if why == StreamEnd::Drain { "14" } else { "16" };
    trailers.insert(GRPC_STATUS.clone(), HeaderValue::from_static(status));
    trailers.insert(GRPC_MESSAGE.clone(), HeaderValue::from_static(message));
    trailers
}
