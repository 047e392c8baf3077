//! `POST /register`, `POST /signup`: a new account.

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use serde::Serialize;

use super::body::needed_members;
use super::error::account_problem;
use super::me::Me;
use super::members::Unknown;
use super::{Api, ApiCall};
use crate::account::Registration;
use crate::message::reply::{Problem, Reply, json};
use crate::secret::Secret;

#[derive(Serialize)]
struct Response {
    #[serde(flatten)]
    account: Me,
    message: &'static str,
}

pub(super) async fn handle<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Reply, Problem>
where
    B: Body<Data = Bytes>,
{
    let mut members = needed_members(api, call, body).await?;
    let request = Registration {
        username: members.optional("username"),
        email: members.optional("email"),
        name: members.optional("name"),
        password: members.optional("password").map(Secret::new),
    };
    members.finish(Unknown::Refused)?;
    let account = api.accounts.register(request, &call.client).await.map_err(account_problem)?;
    let response = Response { account: account.into(), message: "User registered successfully!" };
    Ok(json(StatusCode::CREATED, &response))
}
