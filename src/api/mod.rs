//! Our own endpoints under `[auth] prefix`: HTTP in, a verb on [`Accounts`], HTTP out.
//!
//! One endpoint a file, each with what it reads, what it answers and the call between. `body` is
//! the one place that reads a request's body, `error` the one that turns refusals into answers.
//! What an account may do is decided in `account`; who may call is decided before, by the gateway.

mod body;
mod end_session;
mod endpoints;
mod error;
mod json;
mod jwks;
mod login;
mod logout;
mod logout_all;
mod me;
mod members;
mod multipart;
mod password;
mod protected;
mod refresh;
mod register;
mod sessions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::account::{Accounts, ClientContext};
use crate::clock::Clock;
use crate::message::reply::{Problem, Reply};
use crate::settings::{AnswerSource, CredentialForm};
use crate::token::access::{AccessToken, Verifier};
use crate::token::revocation::RevocationList;

pub use endpoints::{ENDPOINTS, Endpoint, EndpointSpec, SESSION_PARAM};
pub use error::{account_problem, authn_problem, legacy_refusal, missing_token};

/// A call of one of our endpoints: everything about the request but its body.
#[derive(Clone, Debug)]
pub struct ApiCall<'a> {
    /// Which endpoint.
    pub endpoint: Endpoint,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The path parameter [`SESSION_PARAM`], decoded, where the endpoint has one.
    pub session_param: Option<&'a str>,
    /// Where it came from.
    pub client: ClientContext,
    /// Who calls; always there for endpoints with [`Access::Authenticated`](crate::authz::Access).
    pub caller: Option<&'a AccessToken>,
}

/// What [`Api`] works with.
pub struct ApiParts {
    /// The verbs.
    pub accounts: Arc<Accounts>,
    /// Judges what `logout` is shown.
    pub verifier: Arc<Verifier>,
    /// Judges what `logout` is shown.
    pub revocations: Arc<RevocationList>,
    /// The public keys, as a JWK set.
    pub jwks: String,
    /// `[server.limits] auth_body_bytes`
    pub body_bytes: usize,
    /// `[tokens] accept`
    pub accept: Vec<CredentialForm>,
    /// `[auth] answer`
    pub answer: Vec<(String, AnswerSource)>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Our own endpoints. One for all workers.
pub struct Api {
    accounts: Arc<Accounts>,
    verifier: Arc<Verifier>,
    revocations: Arc<RevocationList>,
    jwks: Bytes,
    body_bytes: usize,
    body_timeout: Duration,
    accept: Vec<CredentialForm>,
    answer: Vec<(String, AnswerSource)>,
    clock: Arc<dyn Clock>,
}

impl Api {
    /// The endpoints over these parts.
    #[must_use]
    pub fn new(parts: ApiParts) -> Self {
        Self {
            accounts: parts.accounts,
            verifier: parts.verifier,
            revocations: parts.revocations,
            jwks: Bytes::from(parts.jwks),
            body_bytes: parts.body_bytes,
            body_timeout: body::READ_TIMEOUT,
            accept: parts.accept,
            answer: parts.answer,
            clock: parts.clock,
        }
    }

    /// Answers one call.
    ///
    /// # Errors
    /// The refusal; the caller of this function puts the request id into it.
    pub async fn handle<B>(&self, call: ApiCall<'_>, body: B) -> Result<Reply, Problem>
    where
        B: http_body::Body<Data = Bytes>,
    {
        match call.endpoint {
            Endpoint::Register => register::handle(self, &call, body).await,
            Endpoint::Login => login::handle(self, &call, body).await,
            Endpoint::Refresh => refresh::handle(self, &call, body).await,
            Endpoint::Logout => logout::handle(self, &call, body).await,
            Endpoint::LogoutAll => logout_all::handle(self, &call).await,
            Endpoint::ShowMe => me::show(self, &call).await,
            Endpoint::UpdateMe => me::update(self, &call, body).await,
            Endpoint::DeleteMe => me::delete(self, &call, body).await,
            Endpoint::Protected => protected::handle(&call),
            Endpoint::Password => password::handle(self, &call, body).await,
            Endpoint::ListSessions => sessions::handle(self, &call).await,
            Endpoint::EndSession => end_session::handle(self, &call).await,
            Endpoint::Jwks => Ok(jwks::handle(&self.jwks)),
        }
    }
}

/// 204, for no cache to keep.
fn no_content() -> Reply {
    let mut reply = Reply::new(Bytes::new());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl<'a> ApiCall<'a> {
    /// Who calls. The gateway lets nobody through without; should it, nobody is who it is.
    fn caller(&self) -> Result<&'a AccessToken, Problem> {
        self.caller.ok_or_else(missing_token)
    }
}

#[cfg(test)]
mod tests;
