//! Refusals as answers: every variant to its status, code and headers. The other place that makes
//! problems is the gateway's; both say `missing_token` and its like with what is here.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use crate::account::{AccountError, InvalidField, LegacyError};
use crate::authn::AuthnError;
use crate::message::reply::{FieldError, Problem};
use crate::message::wording::CredentialFault;
use crate::token::access::TokenError;

/// How long a client should wait when all hashing threads are busy.
const BUSY: Duration = Duration::from_secs(1);
/// How long a client should wait when the store does not answer.
const STORE: Duration = Duration::from_secs(5);
/// How long a client should wait when the app does not answer the gateway.
const APP: Duration = Duration::from_secs(5);

/// A verb's refusal.
#[must_use]
pub fn account_problem(error: AccountError) -> Problem {
    use StatusCode as Status;
    match error {
        AccountError::RegistrationClosed => {
            Problem::new(Status::FORBIDDEN, "registration_closed", "Registration is closed.")
        }
        AccountError::NotAdmitted(reason) => {
            let reason = reason.map_or(Cow::Borrowed("This account cannot be registered."), Cow::Owned);
            Problem::new(Status::FORBIDDEN, "not_admitted", reason)
        }
        AccountError::AdmissionUnavailable => Problem::new(
            Status::SERVICE_UNAVAILABLE,
            "admission_unavailable",
            "Whether this account may be registered cannot be told at the moment.",
        )
        .retry_after(APP),
        AccountError::MigrationUnavailable => Problem::new(
            Status::SERVICE_UNAVAILABLE,
            "migration_unavailable",
            "Whether this login is good cannot be told at the moment.",
        )
        .retry_after(APP),
        AccountError::Invalid(fields) => invalid_input(fields.into_iter().map(field).collect()),
        AccountError::NameTaken => Problem::new(Status::CONFLICT, "user_exists", "User already exists!"),
        AccountError::EmailTaken => {
            Problem::new(Status::CONFLICT, "email_taken", "This e-mail address belongs to another account.")
        }
        AccountError::Credentials => {
            Problem::new(Status::UNAUTHORIZED, "invalid_credentials", "Invalid credentials!")
                .challenge(None)
                .credential(CredentialFault::Password)
        }
        AccountError::Disabled => {
            Problem::new(Status::FORBIDDEN, "account_disabled", "This account is disabled.")
        }
        AccountError::Throttled { retry_after, scope: _ } => {
            Problem::new(Status::TOO_MANY_REQUESTS, "throttled", "Too many attempts; try again later.")
                .retry_after(retry_after)
        }
        AccountError::Busy => Problem::new(
            Status::SERVICE_UNAVAILABLE,
            "busy",
            "Too many passwords are being checked at the moment.",
        )
        .retry_after(BUSY),
        // One answer for both: a thief need not learn that the session was alive until now.
        AccountError::RefreshToken | AccountError::RefreshReused => invalid_grant(),
        AccountError::DifferentSessions => Problem::new(
            Status::BAD_REQUEST,
            "ambiguous_credentials",
            "The access token and the refresh token are of different sessions.",
        ),
        AccountError::CallerRevoked => authn_problem(&AuthnError::Revoked),
        AccountError::NoSuchSession => {
            Problem::new(Status::NOT_FOUND, "not_found", "There is no such session.")
        }
        AccountError::NoSuchAccount => {
            Problem::new(Status::NOT_FOUND, "not_found", "There is no such account.")
        }
        AccountError::TwoAccounts(_) => {
            Problem::new(Status::UNPROCESSABLE_ENTITY, "invalid_input", "Two accounts go by that.")
        }
        AccountError::UnknownRole(_) => {
            Problem::new(Status::UNPROCESSABLE_ENTITY, "invalid_input", "There is no such role.")
        }
        AccountError::ForeignToken => {
            Problem::new(Status::UNPROCESSABLE_ENTITY, "invalid_input", "Not a token of this gateway.")
        }
        AccountError::Contended => store_unavailable().retry_after(BUSY),
        AccountError::Store(error) => {
            tracing::error!(%error, "a call needed the store");
            store_unavailable().retry_after(STORE)
        }
        AccountError::Issue(cause) => internal("an access token could not be issued", &cause),
        AccountError::Randomness(cause) => internal("no randomness", &cause),
    }
}

/// A credential that is not good: 401 with the reason, or 400 for two at once.
#[must_use]
pub fn authn_problem(error: &AuthnError) -> Problem {
    let (code, why) = (error.code(), error.description());
    match error {
        AuthnError::Ambiguous => Problem::new(StatusCode::BAD_REQUEST, code, why),
        AuthnError::Malformed
        | AuthnError::Invalid(_)
        | AuthnError::Expired
        | AuthnError::Revoked
        | AuthnError::Unresolved => Problem::new(StatusCode::UNAUTHORIZED, code, why)
            .challenge(Some(("invalid_token", why)))
            .credential(credential_fault(*error)),
    }
}

/// As finely as libraries tell it.
const fn credential_fault(error: AuthnError) -> CredentialFault {
    match error {
        AuthnError::Ambiguous | AuthnError::Unresolved => CredentialFault::Other,
        AuthnError::Malformed => CredentialFault::Malformed,
        AuthnError::Expired => CredentialFault::Expired,
        AuthnError::Revoked => CredentialFault::Revoked,
        AuthnError::Invalid(error) => match error {
            TokenError::Shape | TokenError::Header => CredentialFault::Shape,
            TokenError::Algorithm => CredentialFault::Algorithm,
            TokenError::Signature | TokenError::UnknownKey => CredentialFault::Signature,
            TokenError::Issuer => CredentialFault::Issuer,
            TokenError::Audience => CredentialFault::Audience,
            TokenError::NotYetValid => CredentialFault::NotYetValid,
            TokenError::Expired => CredentialFault::Expired,
            TokenError::TooLong
            | TokenError::Type
            | TokenError::Claims
            | TokenError::Lifetime
            | TokenError::NoAccount => CredentialFault::Other,
        },
    }
}

/// A token that the app minted, and that is not good: as one of ours; or a fault of the store.
///
/// # Errors
/// The fault's answer.
pub fn legacy_refusal(error: LegacyError) -> Result<AuthnError, Problem> {
    match error {
        LegacyError::Token(error) => Ok(error.into()),
        LegacyError::Revoked => Ok(AuthnError::Revoked),
        LegacyError::Store(error) => Err(account_problem(AccountError::Store(error))),
    }
}

/// No credential where one is needed (RFC 6750 section 3.1: a challenge without `error`).
#[must_use]
pub fn missing_token() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "missing_token", "An access token is needed.")
        .challenge(None)
        .credential(CredentialFault::Missing)
}

/// A refresh token that is not worth anything, or is not there.
pub(super) fn invalid_grant() -> Problem {
    let why = "The refresh token is not valid.";
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_grant", why).challenge(Some(("invalid_token", why)))
}

/// Members that are wrong, each with its reason.
pub(super) fn invalid_input(errors: Vec<FieldError>) -> Problem {
    let detail = match errors.as_slice() {
        [only] => format!("{}: {}", only.field, only.message),
        _ => "Some members are missing or not valid.".to_owned(),
    };
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_input", detail).fields(errors)
}

fn field(invalid: InvalidField) -> FieldError {
    FieldError { field: invalid.field.into(), code: invalid.code, message: invalid.message }
}

fn store_unavailable() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "The account store is not available.")
}

fn internal(what: &'static str, cause: &str) -> Problem {
    tracing::error!(cause, "{what}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong here.")
}
