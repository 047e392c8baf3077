//! The endpoints, called as the gateway calls them.

mod bodies;
mod calls;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::Full;
use serde_json::Value;

use super::{Api, ApiCall, ApiParts, Endpoint};
use crate::account::TokenPair;
use crate::account::testing::{World, client};
use crate::clock::Clock;
use crate::settings::{CredentialForm, Settings};
use crate::token::access::AccessToken;

/// Endpoints over a world of accounts.
pub(super) struct Desk {
    world: World,
    api: Api,
}

/// An answer or a refusal, in one form.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }
    fn told(&self) -> (u16, &str) {
        (self.status, self.code())
    }
}

/// A call, as far as a test cares.
#[derive(Clone, Default)]
pub(super) struct Call<'a> {
    content_type: Option<&'a str>,
    bearer: Option<&'a str>,
    caller: Option<&'a AccessToken>,
    session: Option<&'a str>,
}

const JSON: Call<'static> =
    Call { content_type: Some("application/json"), bearer: None, caller: None, session: None };

impl Desk {
    pub(super) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut answer = Vec::new();
        let world = World::with(|settings| {
            change(settings);
            answer.clone_from(&settings.auth.answer);
        });
        let api = Api::new(ApiParts {
            accounts: Arc::clone(&world.accounts),
            verifier: Arc::clone(&world.verifier),
            revocations: Arc::clone(&world.revocations),
            jwks: world.jwks.clone(),
            body_bytes: 64 << 10,
            accept: vec![CredentialForm::Bearer],
            answer,
            clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
        });
        Self { world, api }
    }

    pub(super) async fn call(&self, endpoint: Endpoint, call: &Call<'_>, body: impl Into<Bytes>) -> Answer {
        self.call_with(endpoint, call, Full::new(body.into())).await
    }

    pub(super) async fn json(&self, endpoint: Endpoint, body: &str) -> Answer {
        self.call(endpoint, &JSON, body.to_owned()).await
    }

    pub(super) async fn call_with<B>(&self, endpoint: Endpoint, call: &Call<'_>, body: B) -> Answer
    where
        B: http_body::Body<Data = Bytes>,
    {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", call.content_type.map(str::to_owned)),
            ("authorization", call.bearer.map(|t| format!("Bearer {t}"))),
        ] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(&value).unwrap());
            }
        }
        let call = ApiCall {
            endpoint,
            headers: &headers,
            session_param: call.session,
            client: client("192.0.2.1"),
            caller: call.caller,
        };
        let reply = self.api.handle(call, body).await.unwrap_or_else(|problem| problem.into_reply("req"));
        let (head, body) = reply.into_parts();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let cacheable = endpoint == Endpoint::Jwks && head.status == 200;
        assert_eq!(head.headers["cache-control"] == "no-store", !cacheable, "{endpoint:?}");
        assert_eq!(head.status == 401, head.headers.contains_key("www-authenticate"), "{text}");
        assert_eq!(
            matches!(head.status.as_u16(), 429 | 503),
            head.headers.contains_key("retry-after"),
            "{text}"
        );
        assert!(!text.contains(".rs:") && !text.contains("panicked"), "{text}");
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        assert_eq!(
            body["message"],
            if head.status.as_u16() >= 400 { body["detail"].clone() } else { body["message"].clone() }
        );
        Answer { status: head.status.as_u16(), headers: head.headers, text, body }
    }

    /// A registered user's first session.
    pub(super) async fn alice(&self) -> (TokenPair, AccessToken) {
        self.world.register("alice").await;
        self.login("alice").await
    }

    pub(super) async fn login(&self, name: &str) -> (TokenPair, AccessToken) {
        let pair = self.world.login(name).await;
        let caller = self.world.accepted(&pair.access).unwrap();
        (pair, caller)
    }
}

/// A body that comes in pieces and without a length, as chunked ones do; it may break off.
pub(super) struct Chunked {
    left: Vec<Result<Bytes, std::io::ErrorKind>>,
}

impl http_body::Body for Chunked {
    type Data = Bytes;
    type Error = std::io::ErrorKind;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(self.left.remove(0).map(Frame::data)))
    }
}

/// A body that never comes.
pub(super) struct Silent;

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}
