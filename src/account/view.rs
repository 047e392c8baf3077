//! What callers and operators are shown of accounts and sessions: everything but the secrets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::identity::{Email, Principal, PrincipalEmail, Role, RoleSet, RoleTable, SessionId, UserId};
use crate::secret::Secret;
use crate::store::{Account, Session};

/// Where a call came from, as far as the gateway believes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientContext {
    /// The client's address after trusted proxies.
    pub address: IpAddr,
    /// `User-Agent`, as it came.
    pub user_agent: String,
}

/// A fresh pair of tokens.
#[derive(Clone, Debug)]
pub struct TokenPair {
    /// The access token, a JWT.
    pub access: Secret<String>,
    /// When it runs out.
    pub access_expires_at: Timestamp,
    /// The refresh token.
    pub refresh: Secret<String>,
    /// When it runs out, if it is not exchanged.
    pub refresh_expires_at: Timestamp,
    /// When both were issued.
    pub issued_at: Timestamp,
    /// Whose they are.
    pub account: AccountView,
}

/// A fresh access token for a session that goes on.
#[derive(Clone, Debug)]
pub struct FreshAccess {
    /// The access token, a JWT.
    pub access: Secret<String>,
    /// When it runs out.
    pub expires_at: Timestamp,
    /// When it was issued.
    pub issued_at: Timestamp,
}

/// How a login ended that was not refused.
#[derive(Clone, Debug)]
pub enum LoginOutcome {
    /// With a session.
    Session(TokenPair),
}

/// An account as its owner and its operator see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// Never changes.
    pub id: UserId,
    /// What the app is told: the username; without one the proved address, or the id.
    pub username: String,
    /// The address.
    pub email: Option<Email>,
    /// Whether it is proved.
    pub email_verified: bool,
    /// For people to read.
    pub name: Option<String>,
    /// Effective roles: the granted ones and what they imply.
    pub roles: Vec<Role>,
    /// Granted roles.
    pub granted_roles: BTreeSet<Role>,
    /// Whether it may log in.
    pub disabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl AccountView {
    /// What may be shown of `account`.
    #[must_use]
    pub fn new(account: &Account, roles: &RoleTable) -> Self {
        Self {
            id: account.id.clone(),
            username: shown_username(account),
            email: account.email.clone(),
            email_verified: account.email_verified,
            name: account.name.clone(),
            roles: roles.expand(&account.roles).iter().cloned().collect(),
            granted_roles: account.roles.clone(),
            disabled: account.disabled,
            created_at: account.created_at,
            updated_at: account.updated_at,
        }
    }
}

/// A session as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// The `sid`.
    pub id: SessionId,
    /// When the password was right.
    pub created_at: Timestamp,
    /// The last refresh.
    pub last_used_at: Timestamp,
    /// `User-Agent` at login.
    pub client: String,
    /// The address at login.
    pub address: String,
    /// Whether it is the one that asks.
    pub current: bool,
}

impl SessionView {
    /// What may be shown of `session`, to a caller of the session `current`.
    #[must_use]
    pub fn new(session: Session, current: Option<SessionId>) -> Self {
        Self {
            id: session.id,
            created_at: session.created_at,
            last_used_at: session.last_used_at,
            client: session.client,
            address: session.address,
            current: Some(session.id) == current,
        }
    }
}

/// The name that an app is told: the username; without one the address once it is proved (its key,
/// so that it has one spelling), and the id until then. An address that nobody has proved must not
/// become a name: its real owner may be known to the app by it.
#[must_use]
pub(super) fn shown_username(account: &Account) -> String {
    match (&account.username, &account.email) {
        (Some(name), _) => name.to_string(),
        (None, Some(email)) if account.email_verified => email.key(),
        (None, _) => account.id.to_string(),
    }
}

/// Who the tokens of `account` in `session` speak for.
#[must_use]
pub fn principal(account: &Account, session: SessionId, roles: &RoleTable) -> Principal {
    let effective: RoleSet = roles.expand(&account.roles);
    Principal {
        id: account.id.clone(),
        username: shown_username(account).into(),
        name: account.name.as_deref().map(Arc::from),
        email: account
            .email
            .clone()
            .map(|address| PrincipalEmail { address, verified: account.email_verified }),
        roles: effective,
        session,
        generation: account.generation,
    }
}
