//! `POST /password`: another password. All other sessions end; the answer has the access token with
//! which this one goes on, since every one from before is refused.

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use serde::Serialize;

use super::body::needed_members;
use super::error::account_problem;
use super::members::Unknown;
use super::{Api, ApiCall};
use crate::message::reply::{Problem, Reply, json};

#[derive(Serialize)]
struct Response<'a> {
    message: &'static str,
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
}

pub(super) async fn handle<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Reply, Problem>
where
    B: Body<Data = Bytes>,
{
    let caller = &call.caller()?.principal;
    let mut members = needed_members(api, call, body).await?;
    let (current, new) = (members.password("current_password"), members.password("new_password"));
    members.finish(Unknown::Refused)?;
    let changed = api.accounts.change_password(caller, &current, &new, &call.client).await;
    let fresh = changed.map_err(account_problem)?;
    let response = Response {
        message: "Password changed!",
        access_token: fresh.access.expose(),
        token_type: "Bearer",
        expires_in: fresh.expires_at.secs().saturating_sub(fresh.issued_at.secs()),
    };
    Ok(json(StatusCode::OK, &response))
}
