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
mod engine;
mod error;
pub mod foreign;
mod import;
mod legacy;
mod login;
mod logout;
mod migrate;
mod names;
mod outside;
mod passphrase;
mod password;
mod phc;
mod price;
mod profile;
mod refresh;
mod register;
mod revoker;
mod sessions;
mod throttle;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
pub use foreign::{Foreign, ForeignError, stored_hash};
pub use import::{ImportRefusal, ImportUser, Imported};
pub use legacy::LegacyError;
pub use names::{LoginId, Names};
pub use outside::{Admission, Admitted, Applicant, Asked, Migration, NoAnswer, Outside, Vouch};
pub use passphrase::Passphrase;
pub use password::hash_once;
pub use profile::ProfileChange;
pub use register::Registration;
pub use throttle::Source;
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
    /// Who else has a say.
    pub outside: Outside,
}

/// Everything that can be done with accounts. One for all workers; owns the hashing threads.
pub struct Accounts {
    store: Arc<dyn Store>,
    revoker: Arc<Revoker>,
    issuer: Arc<Issuer>,
    verifier: Arc<Verifier>,
    refresh_key: RefreshKey,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    names: Names,
    hasher: Arc<Hasher>,
    throttle: Arc<Throttle>,
    outside: Outside,
    /// The longest that any token could be used, in milliseconds, by all settings so far.
    longest: Arc<AtomicU64>,
    /// The latest end of tokens that the app minted, in milliseconds, by all settings so far.
    legacy_end: Arc<AtomicU64>,
}

/// What may change while accounts are in use.
#[derive(Debug)]
pub struct AccountsChange {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Signs access tokens.
    pub issuer: Arc<Issuer>,
    /// Reads access tokens that are to be revoked.
    pub verifier: Arc<Verifier>,
    /// Who else has a say.
    pub outside: Outside,
}

impl Accounts {
    /// Starts the hashing threads.
    ///
    /// # Errors
    /// When a thread cannot be started, or `[auth.password]` holds parameters that argon2 refuses.
    pub fn new(parts: AccountsParts) -> std::io::Result<Self> {
        let auth = &parts.settings.auth;
        let revoker = Revoker::new(Arc::clone(&parts.store), parts.revocations, Arc::clone(&parts.clock));
        revoker.tell(parts.outside.is_told);
        Ok(Self {
            names: Names::new(auth),
            hasher: Arc::new(Hasher::start(&auth.password, &parts.metrics)?),
            throttle: Arc::new(Throttle::new(auth.throttle, auth.registrations_per_address)),
            revoker: Arc::new(revoker),
            longest: Arc::new(AtomicU64::new(usable_for(&parts.settings))),
            legacy_end: Arc::new(AtomicU64::new(legacy_end(&parts.settings))),
            store: parts.store,
            issuer: parts.issuer,
            verifier: parts.verifier,
            outside: parts.outside,
            refresh_key: parts.refresh_key,
            settings: parts.settings,
            metrics: parts.metrics,
            clock: parts.clock,
        })
    }

    /// The same accounts by other settings: one store, one throttle with what it remembers, one order of
    /// revocations. Calls that are under way on `self` end as they began.
    ///
    /// # Errors
    /// As [`Accounts::new`]; nothing has changed then.
    pub fn reconfigured(&self, change: AccountsChange) -> std::io::Result<Self> {
        let AccountsChange { settings, issuer, verifier, outside } = change;
        let auth = &settings.auth;
        let hasher = if self.settings.auth.password == auth.password {
            Arc::clone(&self.hasher)
        } else {
            Arc::new(self.hasher.restarted(&auth.password, &self.metrics)?)
        };
        self.throttle.set(auth.throttle, auth.registrations_per_address);
        self.revoker.tell(outside.is_told);
        self.longest.fetch_max(usable_for(&settings), Ordering::SeqCst);
        self.legacy_end.fetch_max(legacy_end(&settings), Ordering::SeqCst);
        Ok(Self {
            names: Names::new(auth),
            hasher,
            throttle: Arc::clone(&self.throttle),
            revoker: Arc::clone(&self.revoker),
            outside,
            store: Arc::clone(&self.store),
            issuer,
            verifier,
            refresh_key: self.refresh_key.clone(),
            settings,
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(&self.clock),
            longest: Arc::clone(&self.longest),
            legacy_end: Arc::clone(&self.legacy_end),
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

    /// When no token issued up to `now` can be valid any more, by whatever settings it was issued: a call
    /// that began before they changed may revoke what one after it has issued.
    fn revoked_until(&self, now: Timestamp) -> Timestamp {
        let longest = Duration::from_millis(self.longest.load(Ordering::SeqCst));
        let legacy = Timestamp::from_millis(self.legacy_end.load(Ordering::SeqCst));
        now.plus(longest).max(legacy).plus(REVOCATION_MARGIN)
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

/// How long a token can be used from when it is issued, in milliseconds.
fn usable_for(settings: &Settings) -> u64 {
    let tokens = &settings.tokens;
    u64::try_from((tokens.access_ttl + tokens.leeway).as_millis()).unwrap_or(u64::MAX)
}

/// When the last token that the app minted cannot be used any more, in milliseconds since the epoch; 0 when
/// none is accepted.
fn legacy_end(settings: &Settings) -> u64 {
    let ends = settings.tokens.legacy.iter().map(|legacy| Timestamp::from_secs(legacy.until).millis());
    ends.max().unwrap_or_default()
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
