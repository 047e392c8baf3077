//! `POST /login`, and `POST` on the prefix itself: a session.

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::body::needed_members;
use super::error::account_problem;
use super::members::{Members, Unknown};
use super::{Api, ApiCall};
use crate::account::{LoginOutcome, TokenPair};
use crate::message::reply::{Problem, Reply, json};
use crate::message::wording::CredentialFault;
use crate::secret::Secret;
use crate::settings::AnswerSource;

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
        LoginOutcome::Session(pair) => Ok(answer(api, &pair)),
    }
}

/// A pair of tokens as an answer, with what `[auth] answer` adds.
pub(super) fn answer(api: &Api, pair: &TokenPair) -> Reply {
    let response = Response {
        access_token: pair.access.expose(),
        token_type: "Bearer",
        expires_in: pair.access_expires_at.secs().saturating_sub(pair.issued_at.secs()),
        refresh_token: pair.refresh.expose(),
        refresh_expires_in: pair.refresh_expires_at.since(pair.issued_at).as_secs(),
    };
    if api.answer.is_empty() {
        return json(StatusCode::OK, &response);
    }
    let more: Vec<_> = api.answer.iter().map(|(name, source)| (&**name, *source)).collect();
    json(StatusCode::OK, &Extended { pair, response, more })
}

/// The answer with further members.
struct Extended<'a> {
    pair: &'a TokenPair,
    response: Response<'a>,
    more: Vec<(&'a str, AnswerSource)>,
}

impl Serialize for Extended<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { pair, response, more } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("access_token", response.access_token)?;
        map.serialize_entry("token_type", response.token_type)?;
        map.serialize_entry("expires_in", &response.expires_in)?;
        map.serialize_entry("refresh_token", response.refresh_token)?;
        map.serialize_entry("refresh_expires_in", &response.refresh_expires_in)?;
        for (name, source) in more {
            let account = &pair.account;
            match source {
                AnswerSource::AccessToken => map.serialize_entry(name, response.access_token)?,
                AnswerSource::TokenType => map.serialize_entry(name, response.token_type)?,
                AnswerSource::ExpiresIn => map.serialize_entry(name, &response.expires_in)?,
                AnswerSource::RefreshToken => map.serialize_entry(name, response.refresh_token)?,
                AnswerSource::RefreshExpiresIn => map.serialize_entry(name, &response.refresh_expires_in)?,
                AnswerSource::Id => map.serialize_entry(name, &account.id)?,
                AnswerSource::Username => map.serialize_entry(name, &account.username)?,
                AnswerSource::Email => map.serialize_entry(name, &account.email)?,
                AnswerSource::Name => map.serialize_entry(name, &account.name)?,
                AnswerSource::Roles => map.serialize_entry(name, &account.roles)?,
            }
        }
        map.end()
    }
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
        // Who gives no name or no password does not know them, as libraries see it.
        members.finish(Unknown::Ignored).map_err(|problem| problem.credential(CredentialFault::Password))?;
        Ok(Self { name: name.unwrap_or_default(), password: Secret::new(password.unwrap_or_default()) })
    }
}
