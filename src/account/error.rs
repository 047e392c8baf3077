//! Why a call on an account was refused. `api` turns each variant into an answer, `control` into a
//! line for the operator; neither needs to look into strings.

use std::borrow::Cow;
use std::time::Duration;

use crate::identity::Role;
use crate::metrics::ThrottleScope;
use crate::store::StoreError;
use crate::token::access::IssueError;

/// What was wrong with one member of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidField {
    /// The member's name as clients write it.
    pub field: &'static str,
    /// A stable word for programs: `missing`, `too_short`, `invalid` …
    pub code: &'static str,
    /// A sentence for people. Never contains what was sent.
    pub message: Cow<'static, str>,
}

impl InvalidField {
    /// One wrong member.
    pub fn new(field: &'static str, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field, code, message: message.into() }
    }
}

/// Why a call on an account was refused. Nothing was changed, except where a variant says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// `[auth] registration = "closed"`.
    #[error("registration is closed")]
    RegistrationClosed,
    /// The app does not want this account; perhaps with a reason for people.
    #[error("the app does not admit this account")]
    NotAdmitted(Option<String>),
    /// The app gave no clear answer whether this account may be made.
    #[error("the app did not say whether this account may be made")]
    AdmissionUnavailable,
    /// The app gave no clear answer whether it knows this name and password.
    #[error("the app did not say whether it knows this name and password")]
    MigrationUnavailable,
    /// Members that are missing or break a rule.
    #[error("the input is not valid: {}", .0.iter().map(|e| e.message.as_ref()).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<InvalidField>),
    /// The name belongs to somebody, belonged to somebody who was removed, or is reserved.
    #[error("the username is taken")]
    NameTaken,
    /// The address belongs to another account.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// The name or the password is wrong; on purpose it does not say which.
    #[error("the name or the password is wrong")]
    Credentials,
    /// The password was right, the account is disabled.
    #[error("the account is disabled")]
    Disabled,
    /// Too many tries.
    #[error("too many tries; try again in {} s", retry_after.as_secs())]
    Throttled {
        /// Which limit was hit.
        scope: ThrottleScope,
        /// When to come back.
        retry_after: Duration,
    },
    /// All hashing threads are busy and enough wait already.
    #[error("too many passwords are being checked at the moment")]
    Busy,
    /// The refresh token is unknown, expired, or of a session that ended.
    #[error("the refresh token is not valid")]
    RefreshToken,
    /// The refresh token had been used up. Its session has been ended, for two parties hold tokens of it.
    #[error("the refresh token was used before; its session has been ended")]
    RefreshReused,
    /// The access token and the refresh token belong to different sessions.
    #[error("the access token and the refresh token are of different sessions")]
    DifferentSessions,
    /// The caller's account is gone, disabled, or has a newer generation than the token.
    #[error("the token's account has changed since")]
    CallerRevoked,
    /// The caller has no session of that id.
    #[error("there is no such session")]
    NoSuchSession,
    /// No account has that name, address or id.
    #[error("there is no such account")]
    NoSuchAccount,
    /// One account has it as its id, and another one as its name or address.
    #[error("this is the id of one account and the name or address of another: say id:{0} or name:{0}")]
    TwoAccounts(String),
    /// `[roles]` does not name it.
    #[error("there is no role {0} in [roles]")]
    UnknownRole(Role),
    /// The access token to revoke is none of ours.
    #[error("not a token of this gateway")]
    ForeignToken,
    /// Others changed the same record again and again.
    #[error("the record keeps being changed by others")]
    Contended,
    /// The store refused or failed.
    #[error(transparent)]
    Store(StoreError),
    /// The access token could not be signed.
    #[error("the access token could not be issued: {0}")]
    Issue(String),
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(String),
}

impl From<StoreError> for AccountError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NameTaken => Self::NameTaken,
            StoreError::EmailTaken => Self::EmailTaken,
            StoreError::Conflict => Self::Contended,
            StoreError::Full { .. } | StoreError::Unavailable(_) => Self::Store(error),
        }
    }
}

impl From<IssueError> for AccountError {
    fn from(error: IssueError) -> Self {
        Self::Issue(error.to_string())
    }
}

impl From<getrandom::Error> for AccountError {
    fn from(error: getrandom::Error) -> Self {
        Self::Randomness(error.to_string())
    }
}
