//! `GET /protected`: a smoke test for a new installation. Says what the token says; asks nobody.

use http::StatusCode;
use serde::Serialize;

use super::ApiCall;
use crate::message::reply::{Problem, Reply, json};

#[derive(Serialize)]
struct Response<'a> {
    message: String,
    user: &'a str,
}

pub(super) fn handle(call: &ApiCall<'_>) -> Result<Reply, Problem> {
    let user = &*call.caller()?.principal.username;
    Ok(json(StatusCode::OK, &Response { message: format!("Hello, {user}!"), user }))
}
