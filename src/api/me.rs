//! `GET`, `PATCH` and `DELETE /me`: the caller's own account.

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use serde::Serialize;

use super::body::needed_members;
use super::error::account_problem;
use super::members::Unknown;
use super::{Api, ApiCall, no_content};
use crate::account::{AccountView, ProfileChange};
use crate::identity::{Email, Role, UserId};
use crate::message::reply::{Problem, Reply, json};
use crate::secret::Secret;

/// An account as its owner sees it.
#[derive(Serialize)]
pub(super) struct Me {
    id: UserId,
    username: String,
    email: Option<Email>,
    email_verified: bool,
    name: Option<String>,
    roles: Vec<Role>,
}

impl From<AccountView> for Me {
    fn from(account: AccountView) -> Self {
        Self {
            id: account.id,
            username: account.username,
            email: account.email,
            email_verified: account.email_verified,
            name: account.name,
            roles: account.roles,
        }
    }
}

pub(super) async fn show(api: &Api, call: &ApiCall<'_>) -> Result<Reply, Problem> {
    let account = api.accounts.me(&call.caller()?.principal).await.map_err(account_problem)?;
    Ok(json(StatusCode::OK, &Me::from(account)))
}

/// Members that are absent stay as they are; JSON's null removes a value (RFC 7396).
pub(super) async fn update<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Reply, Problem>
where
    B: Body<Data = Bytes>,
{
    let caller = &call.caller()?.principal;
    let mut members = needed_members(api, call, body).await?;
    let request = ProfileChange {
        name: members.nullable("name"),
        email: members.nullable("email"),
        current_password: members.optional("current_password").map(Secret::new),
    };
    members.finish(Unknown::Refused)?;
    let account = api.accounts.update_me(caller, request, &call.client).await.map_err(account_problem)?;
    Ok(json(StatusCode::OK, &Me::from(account)))
}

pub(super) async fn delete<B>(api: &Api, call: &ApiCall<'_>, body: B) -> Result<Reply, Problem>
where
    B: Body<Data = Bytes>,
{
    let caller = &call.caller()?.principal;
    let mut members = needed_members(api, call, body).await?;
    let password = members.password("password");
    members.finish(Unknown::Refused)?;
    api.accounts.delete_me(caller, &password, &call.client).await.map_err(account_problem)?;
    Ok(no_content())
}
