//! Reading a request's body: bounded in size and time, then by its media type into [`Members`].

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;

use super::json;
use super::members::Members;
use super::multipart::{self, MultipartError};
use super::{Api, ApiCall};
use crate::message::reply::Problem;

/// From the head to the body's last byte.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The media types that we read.
enum MediaType<'a> {
    Json,
    Form,
    Multipart(&'a str),
    /// The header is absent.
    Unsaid,
}

/// The members of a call's body.
///
/// # Errors
/// 413 beyond `auth_body_bytes`, 408 when it does not arrive, 415 for other media types, 400 for what is
/// not what it says.
pub(super) async fn members<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Members, Problem>
where
    B: Body<Data = Bytes>,
{
    let media_type = media_type(call.headers)?;
    let bytes = read(body, api.body_bytes, api.body_timeout).await?;
    match media_type {
        MediaType::Json | MediaType::Unsaid if bytes.is_empty() => Ok(Members::json(Vec::new())),
        MediaType::Json => json::object(&bytes)
            .map(Members::json)
            .ok_or_else(|| malformed("not one JSON object without repeated members")),
        MediaType::Form => form(&bytes),
        MediaType::Multipart(_) if bytes.is_empty() => Ok(Members::form([])),
        MediaType::Multipart(text) => match multipart::read(text, bytes).await {
            Ok(fields) => Ok(Members::form(fields)),
            Err(MultipartError::Malformed) => Err(malformed("not a multipart form")),
            Err(MultipartError::NotText) => Err(unsupported("files are not taken here")),
        },
        MediaType::Unsaid => Err(unsupported("the body has no Content-Type")),
    }
}

/// As [`members`], for calls that cannot do without: an empty JSON body is malformed.
pub(super) async fn needed_members<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Members, Problem>
where
    B: Body<Data = Bytes>,
{
    if body.is_end_stream() && matches!(media_type(call.headers)?, MediaType::Json) {
        return Err(malformed("the body is empty"));
    }
    members(api, call, body).await
}

fn media_type(headers: &HeaderMap) -> Result<MediaType<'_>, Problem> {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(unsupported("encoded bodies are not taken here"));
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else { return Ok(MediaType::Unsaid) };
    let text = value.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    let known =
        [("application/json", MediaType::Json), ("application/x-www-form-urlencoded", MediaType::Form)]
            .into_iter()
            .chain([("multipart/form-data", MediaType::Multipart(text))])
            .find(|(name, _)| essence.eq_ignore_ascii_case(name));
    match (known, values.next()) {
        (Some((_, media_type)), None) => Ok(media_type),
        _ => Err(unsupported("JSON, a form or a multipart form of texts is taken here")),
    }
}

async fn read<B>(body: B, limit: usize, timeout: Duration) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(timeout, collect(body, limit)).await {
        Ok(result) => result,
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "The body did not arrive in time.",
        )),
    }
}

async fn collect<B>(body: B, limit: usize) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // The client is gone, or its framing is wrong: whatever is answered, nothing is done.
        let frame = frame
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", "The body ended early."))?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > limit {
            return Err(too_large());
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// A form, strictly: the usual decoder replaces what is not UTF-8, and two passwords would be one.
fn form(bytes: &[u8]) -> Result<Members, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("the form is not UTF-8"))?;
    let mut fields = Vec::new();
    for (name, value) in
        text.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    {
        let (Some(name), Some(value)) = (decode(name), decode(value)) else {
            return Err(malformed("the form is not UTF-8"));
        };
        fields.push((name, value));
    }
    Ok(Members::form(fields))
}

fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

fn malformed(why: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed_json", format!("The body cannot be read: {why}."))
}

fn unsupported(why: &'static str) -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("Unsupported media type: {why}."),
    )
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large.")
}
