//! `GET /jwks.json`: the public keys (RFC 7517), for apps that check tokens themselves.

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use crate::message::reply::Reply;

/// Keys change seldom, and a new one is shown before it is used.
const CACHEABLE: &str = "public, max-age=300";

pub(super) fn handle(jwks: &Bytes) -> Reply {
    let mut reply = Reply::new(jwks.clone());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(CACHEABLE));
    reply
}
