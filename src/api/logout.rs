//! `POST /logout`: ends the session of the access token, of the refresh token, or of both.
//!
//! It judges the access token by itself: one that has run out, or was refused since, does not keep a
//! client with a good refresh token from leaving.

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use serde::Serialize;

use super::body::members;
use super::error::{account_problem, authn_problem, legacy_refusal, missing_token};
use super::members::Unknown;
use super::{Api, ApiCall};
use crate::authn::credential::{self, Credential};
use crate::authn::{self, AuthnError};
use crate::message::reply::{Problem, Reply, json};
use crate::secret::Secret;
use crate::token::access::AccessToken;
use crate::token::refresh::RefreshToken;

#[derive(Serialize)]
struct Response {
    message: &'static str,
}

/// What was presented.
struct Request {
    access: Option<AccessToken>,
    refresh: Option<Secret<String>>,
}

pub(super) async fn handle<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Reply, Problem>
where
    B: Body<Data = Bytes>,
{
    let mut members = members(api, call, body).await?;
    let member = members.any_text("refresh_token").map(Secret::new);
    members.finish(Unknown::Ignored)?;
    let Request { access, refresh } = Request::read(api, call, member).await?;
    let refresh = refresh.as_ref().map(|token| token.expose().as_str());
    api.accounts.logout(access.as_ref(), refresh, &call.client).await.map_err(account_problem)?;
    Ok(json(StatusCode::OK, &Response { message: "Successfully logged out!" }))
}

impl Request {
    async fn read(api: &Api, call: &ApiCall<'_>, member: Option<Secret<String>>) -> Result<Self, Problem> {
        let header = match credential::find(call.headers, &api.accept) {
            Credential::Absent if member.is_none() => return Err(missing_token()),
            Credential::Absent => return Ok(Self { access: None, refresh: member }),
            Credential::Malformed => return Err(authn_problem(&AuthnError::Malformed)),
            Credential::Ambiguous => return Err(authn_problem(&AuthnError::Ambiguous)),
            Credential::Token(token) => token,
        };
        if member.is_none() && RefreshToken::looks_like(header) {
            return Ok(Self { access: None, refresh: Some(Secret::new(header.to_owned())) });
        }
        let checked = match authn::check(&api.verifier, &api.revocations, header, api.clock.now()) {
            Err(AuthnError::Unresolved) => match api.accounts.admit_legacy(header).await {
                Ok(token) => Ok(token),
                Err(error) => Err(legacy_refusal(error)?),
            },
            checked => checked,
        };
        match checked {
            Ok(token) => Ok(Self { access: Some(token), refresh: member }),
            Err(AuthnError::Expired | AuthnError::Revoked) if member.is_some() => {
                Ok(Self { access: None, refresh: member })
            }
            Err(error) => Err(authn_problem(&error)),
        }
    }
}
