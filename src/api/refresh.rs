//! `POST /refresh`: the next pair of tokens.

use bytes::Bytes;
use http_body::Body;

use super::body::members;
use super::error::{account_problem, authn_problem, invalid_grant};
use super::members::Unknown;
use super::{Api, ApiCall, login};
use crate::authn::AuthnError;
use crate::authn::credential::{self, Credential};
use crate::message::reply::{Problem, Reply};
use crate::secret::Secret;

pub(super) async fn handle<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Reply, Problem>
where
    B: Body<Data = Bytes>,
{
    let mut members = members(api, call, body).await?;
    let member = members.any_text("refresh_token").map(Secret::new);
    members.finish(Unknown::Ignored)?;
    // The member wins: clients add their access token to every request.
    let token = match member {
        Some(token) => token,
        None => presented(api, call)?,
    };
    let pair = api.accounts.refresh(token.expose(), &call.client).await.map_err(account_problem)?;
    Ok(login::answer(api, &pair))
}

fn presented(api: &Api, call: &ApiCall<'_>) -> Result<Secret<String>, Problem> {
    match credential::find(call.headers, &api.accept) {
        Credential::Token(token) => Ok(Secret::new(token.to_owned())),
        Credential::Ambiguous => Err(authn_problem(&AuthnError::Ambiguous)),
        Credential::Absent | Credential::Malformed => Err(invalid_grant()),
    }
}
