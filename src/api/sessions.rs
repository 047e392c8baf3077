//! `GET /sessions`: where the caller is logged in, oldest first.

use http::StatusCode;
use serde::Serialize;

use super::error::account_problem;
use super::{Api, ApiCall};
use crate::account::SessionView;
use crate::identity::SessionId;
use crate::message::reply::{Problem, Reply, json};

/// A session; times as in RFC 3339.
#[derive(Serialize)]
struct Item {
    id: SessionId,
    created_at: String,
    last_used_at: String,
    client: String,
    address: String,
    current: bool,
}

impl From<SessionView> for Item {
    fn from(session: SessionView) -> Self {
        Self {
            id: session.id,
            created_at: session.created_at.rfc3339(),
            last_used_at: session.last_used_at.rfc3339(),
            client: session.client,
            address: session.address,
            current: session.current,
        }
    }
}

pub(super) async fn handle(api: &Api, call: &ApiCall<'_>) -> Result<Reply, Problem> {
    let sessions = api.accounts.sessions(&call.caller()?.principal).await.map_err(account_problem)?;
    let list: Vec<Item> = sessions.into_iter().map(Item::from).collect();
    Ok(json(StatusCode::OK, &list))
}
