//! `POST /login`, and `POST` on the prefix itself: a session.

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use serde::Serialize;

use super::body::needed_members;
use super::error::account_problem;
use super::members::{Members, Unknown};
use super::{Api, ApiCall};
use crate::account::{LoginOutcome, TokenPair};
use crate::message::reply::{Problem, Reply, json};
use crate::secret::Secret;

struct Request {
    name: String,
    password: Secret<String>,
}

/// A pair of tokens (RFC 6749 section 5.1); what `refresh` answers too.
#[derive(Serialize)]
pub(super) struct Response<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    refresh_token: &'a str,
    refresh_expires_in: u64,
}

pub(super) async fn handle<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Reply, Problem>
where
    B: Body<Data = Bytes>,
{
    let members = needed_members(api, call, body).await?;
    let Request { name, password } = Request::read(members)?;
    let outcome = api.accounts.login(&name, &password, &call.client).await.map_err(account_problem)?;
    match outcome {
        LoginOutcome::Session(pair) => Ok(answer(&pair)),
    }
}

/// A pair of tokens as an answer.
pub(super) fn answer(pair: &TokenPair) -> Reply {
    let response = Response {
        access_token: pair.access.expose(),
        token_type: "Bearer",
        expires_in: pair.access_expires_at.secs().saturating_sub(pair.issued_at.secs()),
        refresh_token: pair.refresh.expose(),
        refresh_expires_in: pair.refresh_expires_at.since(pair.issued_at).as_secs(),
    };
    json(StatusCode::OK, &response)
}

impl Request {
    fn read(mut members: Members) -> Result<Self, Problem> {
        let (username, email) = (members.any_text("username"), members.any_text("email"));
        let password = members.any_text("password");
        if username.is_some() && email.is_some() {
            members.refuse("email", "ambiguous", "give a username or an address, not both");
        }
        let name = username.or(email);
        if name.is_none() {
            members.refuse("username", "missing", "is needed, or email");
        }
        if password.is_none() {
            members.refuse("password", "missing", "is needed");
        }
        members.finish(Unknown::Ignored)?;
        Ok(Self { name: name.unwrap_or_default(), password: Secret::new(password.unwrap_or_default()) })
    }
}
