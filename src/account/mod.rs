//! Accounts and their sessions: register, log in, refresh, log out, change, remove.
//!
//! [`Accounts`] has one verb for each thing that a user or an operator can do. Every verb that
//! changes something has one shape: read the records, decide in pure code, publish what is revoked
//! to memory, commit, answer (see `revoker`). A commit names the versions it was decided on; when
//! somebody else was faster, the verb starts again from reading.
//!
//! HTTP is `api`'s business; what a refresh token may do is `token`'s; when a record is durable is
//! `store`'s.

mod admin;
mod credentials;
mod error;
mod login;
mod logout;
mod names;
mod passphrase;
mod password;
mod phc;
mod profile;
mod refresh;
mod register;
mod revoker;
mod sessions;
mod throttle;
mod view;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::identity::{Principal, UserId};
use crate::metrics::{Metrics, TokenType};
use crate::settings::Settings;
use crate::store::{Account, AccountKey, Session, Store};
use crate::token::access::{Issuer, Verifier};
use crate::token::refresh::RefreshKey;
use crate::token::revocation::{Revocation, RevocationId, RevocationKind, RevocationList};

use crate::identity::{SessionId, TokenId};
use password::Hasher;
use revoker::Revoker;
use throttle::Throttle;

pub use admin::{AccountChange, NewAccount, Revocable};
pub use error::{AccountError, InvalidField};
pub use names::{LoginId, Names};
pub use passphrase::Passphrase;
pub use password::hash_once;
pub use profile::ProfileChange;
pub use register::Registration;
pub use view::{AccountView, ClientContext, FreshAccess, LoginOutcome, SessionView, TokenPair, principal};

/// How often a verb starts again when others change the same record.
const ATTEMPTS: usize = 8;

/// A revocation outlives the last token that it concerns by this much: clocks are read by several
/// threads, and may be set back a little.
const REVOCATION_MARGIN: Duration = Duration::from_mins(1);

/// What [`Accounts`] works with.
pub struct AccountsParts {
    /// Where the records are.
    pub store: Arc<dyn Store>,
    /// What every worker asks about each request.
    pub revocations: Arc<RevocationList>,
    /// Signs access tokens.
    pub issuer: Arc<Issuer>,
    /// Reads access tokens that are to be revoked.
    pub verifier: Arc<Verifier>,
    /// Makes and recognises refresh tokens.
    pub refresh_key: RefreshKey,
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Everything that can be done with accounts. One for all workers; owns the hashing threads.
pub struct Accounts {
    store: Arc<dyn Store>,
    revoker: Revoker,
    issuer: Arc<Issuer>,
    verifier: Arc<Verifier>,
    refresh_key: RefreshKey,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    names: Names,
    hasher: Hasher,
    throttle: Throttle,
}

impl Accounts {
    /// Starts the hashing threads.
    ///
    /// # Errors
    /// When a thread cannot be started, or `[auth.password]` holds parameters that argon2 refuses.
    pub fn new(parts: AccountsParts) -> std::io::Result<Self> {
        let auth = &parts.settings.auth;
        Ok(Self {
            names: Names::new(auth),
            hasher: Hasher::start(&auth.password, &parts.metrics)?,
            throttle: Throttle::new(auth.throttle, auth.registrations_per_address),
            revoker: Revoker::new(Arc::clone(&parts.store), parts.revocations),
            store: parts.store,
            issuer: parts.issuer,
            verifier: parts.verifier,
            refresh_key: parts.refresh_key,
            settings: parts.settings,
            metrics: parts.metrics,
            clock: parts.clock,
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn view(&self, account: &Account) -> AccountView {
        AccountView::new(account, &self.settings.roles)
    }

    /// An access token for `account` in `session`.
    fn issue_access(
        &self,
        account: &Account,
        session: &Session,
        now: Timestamp,
    ) -> Result<FreshAccess, AccountError> {
        let who = principal(account, session.id, &self.settings.roles);
        let issued = self.issuer.issue(&who, &session.amr, now, TokenId::random())?;
        self.metrics.tokens_issued.of(TokenType::Access).add_one();
        Ok(FreshAccess { access: issued.token, expires_at: issued.expires_at, issued_at: now })
    }

    /// The caller's account as it is now. A token of an older generation may get here: it was
    /// checked before, and the account may have changed since.
    async fn caller(&self, caller: &Principal) -> Result<Account, AccountError> {
        let account = self.store.account(AccountKey::Id(caller.id.clone())).await?;
        account
            .filter(|account| !account.disabled && account.generation == caller.generation)
            .ok_or(AccountError::CallerRevoked)
    }

    /// When no token issued up to `now` can be valid any more.
    fn revoked_until(&self, now: Timestamp) -> Timestamp {
        let tokens = &self.settings.tokens;
        now.plus(tokens.access_ttl).plus(tokens.leeway).plus(REVOCATION_MARGIN)
    }

    fn revoke_session(&self, id: &SessionId, now: Timestamp) -> Revocation {
        let until = self.revoked_until(now);
        Revocation { kind: RevocationKind::Session, id: RevocationId::session(id), until }
    }

    fn revoke_generation(&self, user: &UserId, generation: u64, now: Timestamp) -> Revocation {
        let until = self.revoked_until(now);
        Revocation { kind: RevocationKind::Generation, id: RevocationId::generation(user, generation), until }
    }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
