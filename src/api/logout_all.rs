//! `POST /logout-all`: ends all sessions of the caller.

use http::StatusCode;
use serde::Serialize;

use super::error::account_problem;
use super::{Api, ApiCall};
use crate::message::reply::{Problem, Reply, json};

#[derive(Serialize)]
struct Response {
    message: &'static str,
    sessions: usize,
}

pub(super) async fn handle(api: &Api, call: &ApiCall<'_>) -> Result<Reply, Problem> {
    let caller = &call.caller()?.principal;
    let sessions = api.accounts.logout_all(caller, &call.client).await.map_err(account_problem)?;
    Ok(json(StatusCode::OK, &Response { message: "Successfully logged out everywhere!", sessions }))
}
