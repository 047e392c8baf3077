//! `DELETE /sessions/{sid}`: ends one of the caller's sessions.

use super::error::account_problem;
use super::{Api, ApiCall, no_content};
use crate::account::AccountError;
use crate::message::reply::{Problem, Reply};

pub(super) async fn handle(api: &Api, call: &ApiCall<'_>) -> Result<Reply, Problem> {
    let caller = &call.caller()?.principal;
    let id = call.session_param.and_then(|text| text.parse().ok());
    let session = id.ok_or(AccountError::NoSuchSession).map_err(account_problem)?;
    api.accounts.end_session(caller, session, &call.client).await.map_err(account_problem)?;
    Ok(no_content())
}
