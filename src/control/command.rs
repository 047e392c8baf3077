//! The language of the admin socket, as data. Times are RFC 3339 text in UTC: every answer is shown.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::identity::{Email, Role, SessionId, TokenId, UserId};
use crate::secret::Secret;
use crate::store::Origin;

/// A password or a token on its way: masked in `Debug`, written out by serde.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Confidential(Secret<String>);

impl Confidential {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl From<String> for Confidential {
    fn from(text: String) -> Self {
        Self(Secret::new(text))
    }
}

impl From<Confidential> for String {
    fn from(text: Confidential) -> Self {
        text.expose().to_owned()
    }
}

impl fmt::Debug for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What can be asked. `user` is a username, an address or an id.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// A new account. Answers [`Answer::User`].
    UserAdd {
        /// Absent only where people log in with their address.
        username: Option<String>,
        /// Counts as proved.
        email: Option<String>,
        /// For people to read.
        name: Option<String>,
        /// Instead of the default roles.
        roles: Option<Vec<Role>>,
        /// Has to follow `[auth.password]`.
        password: Confidential,
    },
    /// A page of accounts in the order of their ids. Answers [`Answer::Users`].
    UserList {
        /// The last id of the page before.
        after: Option<UserId>,
    },
    /// Answers [`Answer::User`].
    UserShow {
        /// Whom.
        user: String,
    },
    /// Changes what is given. Answers [`Answer::User`].
    UserSet {
        /// Whom.
        user: String,
        /// Another username.
        username: Option<String>,
        /// The new address, counts as proved; empty: none.
        email: Option<String>,
        /// The new name; empty: none.
        name: Option<String>,
        /// All granted roles.
        roles: Option<Vec<Role>>,
    },
    /// Sets a password and ends all sessions. Answers [`Answer::User`].
    UserPasswd {
        /// Whose.
        user: String,
        /// The new one.
        password: Confidential,
    },
    /// Refuses logins and every token at once. Answers [`Answer::User`].
    UserDisable {
        /// Whom.
        user: String,
    },
    /// Allows logins again. Answers [`Answer::User`].
    UserEnable {
        /// Whom.
        user: String,
    },
    /// Forgets failed logins. Answers [`Answer::User`].
    UserUnlock {
        /// Whom.
        user: String,
    },
    /// Removes the account; the name stays taken. Answers [`Answer::Done`].
    UserRemove {
        /// Whom.
        user: String,
    },
    /// Answers [`Answer::Sessions`].
    UserSessions {
        /// Whose.
        user: String,
    },
    /// Ends one session, or all. Answers [`Answer::Ended`].
    UserLogout {
        /// Whose.
        user: String,
        /// Only this one.
        session: Option<SessionId>,
    },
    /// Accounts from elsewhere, in one commit. Answers [`Answer::Imported`].
    UserImport {
        /// Lines of a file.
        users: Vec<UserRecord>,
        /// Changes nothing.
        dry_run: bool,
        /// Ends at the first line that is refused.
        stop: bool,
    },
    /// A page of accounts with their hashes, in the order of their ids. Answers [`Answer::Exported`].
    UserExport {
        /// The last id of the page before.
        after: Option<UserId>,
    },
    /// Answers [`Answer::Keys`].
    KeyList,
    /// Answers [`Answer::Jwks`].
    KeyExport,
    /// Answers [`Answer::Token`].
    TokenInspect {
        /// The access token.
        token: Confidential,
    },
    /// Answers [`Answer::Done`]; from then on the connection speaks as [`handover`](super::handover) does.
    TakeOver,
    /// Answers [`Answer::Done`] or [`Answer::Ended`].
    TokenRevoke {
        /// What.
        what: Revoke,
    },
}

/// What is to be revoked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoke {
    /// One access token.
    Token(Confidential),
    /// One access token, by its `jti`.
    Jti(TokenId),
    /// A session with all its tokens.
    Session(SessionId),
    /// All sessions of a user.
    User(String),
}

impl Command {
    /// Its name in the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::UserAdd { .. } => "user add",
            Self::UserList { .. } => "user list",
            Self::UserShow { .. } => "user show",
            Self::UserSet { .. } => "user set",
            Self::UserPasswd { .. } => "user passwd",
            Self::UserDisable { .. } => "user disable",
            Self::UserEnable { .. } => "user enable",
            Self::UserUnlock { .. } => "user unlock",
            Self::UserRemove { .. } => "user remove",
            Self::UserSessions { .. } => "user sessions",
            Self::UserLogout { .. } => "user logout",
            Self::UserImport { .. } => "user import",
            Self::UserExport { .. } => "user export",
            Self::KeyList => "key list",
            Self::KeyExport => "key export",
            Self::TokenInspect { .. } => "token inspect",
            Self::TokenRevoke { .. } => "token revoke",
            Self::TakeOver => "serve --take-over",
        }
    }

    /// Whom it is about, as the operator wrote it; for the log.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::UserShow { user }
            | Self::UserSet { user, .. }
            | Self::UserPasswd { user, .. }
            | Self::UserDisable { user }
            | Self::UserEnable { user }
            | Self::UserUnlock { user }
            | Self::UserRemove { user }
            | Self::UserSessions { user }
            | Self::UserLogout { user, .. }
            | Self::TokenRevoke { what: Revoke::User(user) } => Some(user),
            Self::UserAdd { username, email, .. } => username.as_deref().or(email.as_deref()),
            Self::UserList { .. }
            | Self::UserImport { .. }
            | Self::UserExport { .. }
            | Self::KeyList
            | Self::KeyExport
            | Self::TakeOver
            | Self::TokenInspect { .. }
            | Self::TokenRevoke { .. } => None,
        }
    }

    /// Whether it changes something.
    #[must_use]
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Self::UserList { .. }
                | Self::UserShow { .. }
                | Self::UserSessions { .. }
                | Self::UserExport { .. }
                | Self::UserImport { dry_run: true, .. }
                | Self::KeyList
                | Self::KeyExport
                | Self::TokenInspect { .. }
        )
    }
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// It is done, and so many sessions ended.
    Ended {
        /// How many.
        sessions: usize,
    },
    /// One account.
    User(Box<UserView>),
    /// A page of accounts.
    Users {
        /// In the order of their ids.
        users: Vec<UserView>,
        /// Whether there are more.
        more: bool,
    },
    /// What has become of the lines, in their order; fewer than were sent when it stopped.
    Imported(Vec<ImportFate>),
    /// A page of accounts with their hashes.
    Exported {
        /// In the order of their ids.
        users: Vec<UserRecord>,
        /// Whether there are more.
        more: bool,
    },
    /// A user's sessions, oldest first.
    Sessions(Vec<SessionView>),
    /// The keys, oldest first.
    Keys(Vec<KeyView>),
    /// The public keys as a JWK set.
    Jwks(serde_json::Value),
    /// What a token is.
    Token(Box<TokenReport>),
}

/// An account on its way in or out: what a line of a file says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRecord {
    /// Becomes `sub` and the identity header of ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// As people type it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether it is proved.
    #[serde(default)]
    pub email_verified: bool,
    /// For people to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Granted roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// The text of a hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<Confidential>,
    /// Instead of a hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Confidential>,
    /// Whether it cannot log in.
    #[serde(default)]
    pub disabled: bool,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// How often everything of it was ended before.
    #[serde(default)]
    pub generation: u64,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// What has become of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ImportFate {
    /// There is an account more, or would be.
    Created {
        /// Its id; a dry run may not know it.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<UserId>,
    },
    /// It was imported before.
    Unchanged {
        /// Its id.
        id: UserId,
    },
    /// It was not imported.
    Refused {
        /// A stable word.
        code: String,
        /// A sentence.
        message: String,
    },
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// Never changes.
    pub id: UserId,
    /// What the app is told.
    pub username: String,
    /// The address.
    pub email: Option<Email>,
    /// Whether it is proved.
    pub email_verified: bool,
    /// For people to read.
    pub name: Option<String>,
    /// Granted roles.
    pub roles: Vec<Role>,
    /// Granted roles and what they imply.
    pub effective_roles: Vec<Role>,
    /// Whether it cannot log in.
    pub disabled: bool,
    /// When it was made.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Its `sid`.
    pub id: SessionId,
    /// When the password was right.
    pub created_at: String,
    /// The last refresh.
    pub last_used_at: String,
    /// The address at login.
    pub address: String,
    /// `User-Agent` at login.
    pub client: String,
}

/// A key; never its material.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The `kid`, or a fixed name.
    pub id: String,
    /// `signing` or `refresh`.
    pub purpose: String,
    /// How it is used.
    pub algorithm: String,
    /// Whether `[tokens] algorithm` has a use for it.
    pub in_use: bool,
    /// When it was made; absent for one that the configuration holds.
    pub created_at: Option<String>,
}

/// What an access token is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenReport {
    /// Whether it would be accepted now.
    pub valid: bool,
    /// `valid`, or the code of the refusal: `invalid_token`, `expired_token`, `revoked_token`.
    pub state: String,
    /// Why not.
    pub detail: Option<String>,
    /// Its header, decoded but not believed.
    pub header: Option<serde_json::Value>,
    /// Its claims, decoded; to be believed only when the state is not `invalid_token`.
    pub claims: Option<serde_json::Value>,
    /// Its `iat`.
    pub issued_at: Option<String>,
    /// Its `exp`.
    pub expires_at: Option<String>,
    /// Whom it speaks for, when it is valid.
    pub caller: Option<CallerView>,
}

/// Whom a valid token speaks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerView {
    /// The account.
    pub id: UserId,
    /// What the app is told.
    pub username: String,
    /// For people to read.
    pub name: Option<String>,
    /// The address.
    pub email: Option<Email>,
    /// Whether it is proved.
    pub email_verified: bool,
    /// Effective roles.
    pub roles: Vec<Role>,
    /// The session.
    pub session: SessionId,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// A stable word.
    pub code: String,
    /// A sentence.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

/// A request as it goes over the socket.
#[derive(Serialize, Deserialize)]
pub(super) struct Request<C> {
    pub(super) version: u32,
    pub(super) command: C,
}

/// Only the version, to tell a newer language from rubbish.
#[derive(Deserialize)]
pub(super) struct RequestVersion {
    pub(super) version: u32,
}

/// An answer as it goes over the socket.
#[derive(Serialize, Deserialize)]
pub(super) struct Response {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Answer(Answer),
    Refusal(Refusal),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_in_debug_output() {
        let password = Confidential::from("correct horse".to_owned());
        let command = Command::UserPasswd { user: "alice".to_owned(), password };
        assert!(!format!("{command:?}").contains("horse"));
        assert!(serde_json::to_string(&command).expect("JSON").contains("horse"));
    }
}
