//! Checking a password, the one way to do it: throttled before and after, at equal cost.

use super::engine::Verdict;
use super::foreign::ForeignError;
use super::names::LoginId;
use super::passphrase::Passphrase;
use super::throttle::{Attempt, Subject, Throttled};
use super::{ATTEMPTS, AccountError, Accounts, ClientContext, FreshAccess};
use crate::identity::{Principal, UserId};
use crate::secret::Secret;
use crate::store::{Account, AccountKey, Change, PasswordHash, Session, StoreError};

/// Accounts that are read at once.
const PAGE: usize = 256;

/// A password that was right.
#[derive(Clone, Copy, Debug)]
pub(super) struct RightPassword {
    /// Today's configuration would hash it otherwise.
    pub(super) stale: bool,
}

impl Accounts {
    /// The account that somebody names to log in, if there is one.
    pub(super) async fn find_login(&self, id: &LoginId) -> Result<Option<Account>, StoreError> {
        match id {
            LoginId::Username(name) => self.store.account(AccountKey::Name(name.clone())).await,
            LoginId::Email(email) => self.store.account(AccountKey::Email(email.clone())).await,
            LoginId::Nobody(_) => Ok(None),
        }
    }

    /// The subject that failures count for: the account, by whichever name it was found.
    pub(super) fn subject(&self, id: &UserId) -> Subject {
        self.throttle.account(id.as_str())
    }

    /// Checks the password of `account`, or of nobody, for the subject `who`.
    pub(super) async fn check_password(
        &self,
        account: Option<&Account>,
        who: Subject,
        typed: &Secret<String>,
        client: &ClientContext,
    ) -> Result<RightPassword, AccountError> {
        self.throttle.check(who, client.address, self.now()).map_err(|hit| self.throttled(hit))?;
        let verdict = match Passphrase::typed(typed, &self.settings.auth.password) {
            Some(password) => self.hasher.verify(account.map(|a| a.password.clone()), password).await?,
            None => Verdict::Wrong,
        };
        if let (Verdict::Unusable(error), Some(account)) = (verdict, account)
            && error != ForeignError::NoPassword
        {
            tracing::error!(user = %account.id, %error, "nobody can log in to this account");
        }
        let (attempt, answer) = match verdict {
            Verdict::Right { stale } => (Attempt::Right, Ok(RightPassword { stale })),
            Verdict::Wrong | Verdict::Unusable(_) => (Attempt::Wrong, Err(AccountError::Credentials)),
        };
        self.throttle.settle(who, client.address, attempt, self.now()).map_err(|hit| self.throttled(hit))?;
        answer
    }

    /// Reads every stored hash, so that a check that fails costs as much as one of the dearest of each kind
    /// from the first one on: what it costs must not tell who is known.
    ///
    /// # Errors
    /// A fault of the store; what was read until then counts.
    pub async fn learn_prices(&self) -> Result<(), AccountError> {
        let mut after = None;
        loop {
            let page = self.store.accounts(after, PAGE).await?;
            for account in &page {
                self.hasher.learn(&account.password);
            }
            let Some(last) = page.last().filter(|_| page.len() == PAGE) else { return Ok(()) };
            after = Some(last.id.clone());
        }
    }

    /// Checks the password of the caller's own account.
    pub(super) async fn check_own_password(
        &self,
        account: &Account,
        typed: &Secret<String>,
        client: &ClientContext,
    ) -> Result<RightPassword, AccountError> {
        self.check_password(Some(account), self.subject(&account.id), typed, client).await
    }

    /// Changes the caller's password. All other sessions end, and every access token from before;
    /// the answer is a new one for the session that goes on.
    ///
    /// # Errors
    /// As for a login, and [`AccountError::Invalid`] for a new password that breaks the rules.
    pub async fn change_password(
        &self,
        caller: &Principal,
        current: &Secret<String>,
        new: &Secret<String>,
        client: &ClientContext,
    ) -> Result<FreshAccess, AccountError> {
        let rules = &self.settings.auth.password;
        let new = Passphrase::chosen(new, "new_password", rules)
            .map_err(|invalid| AccountError::Invalid(vec![invalid]))?;
        let mut account = self.caller(caller).await?;
        self.check_own_password(&account, current, client).await?;
        let checked = account.password.clone();
        let hash = self.hasher.hash(new).await?;
        for _ in 0..ATTEMPTS {
            let session = self.store.session(caller.session).await?.ok_or(AccountError::CallerRevoked)?;
            match self.store_password(&account, hash.clone(), &session).await {
                Err(AccountError::Contended) => {}
                other => {
                    if other.is_ok() {
                        let (user, client) = (&account.id, client.address);
                        tracing::info!(target: "gatepost::audit", event = "password_changed", %user, %client);
                    }
                    return other;
                }
            }
            account = self.caller(caller).await?;
            if account.password != checked {
                return Err(AccountError::CallerRevoked);
            }
        }
        Err(AccountError::Contended)
    }

    async fn store_password(
        &self,
        account: &Account,
        password: PasswordHash,
        session: &Session,
    ) -> Result<FreshAccess, AccountError> {
        let now = self.now();
        let next = Account {
            password,
            generation: account.generation.saturating_add(1),
            updated_at: now,
            ..account.clone()
        };
        // Signed before the commit: should signing fail, nothing has next.
        let fresh = self.issue_access(&next, session, now)?;
        let changes = vec![
            Change::UpdateAccount(next),
            Change::EndSessions { user: account.id.clone(), except: Some(session.id) },
            Change::Revoke(self.revoke_generation(&account.id, account.generation, now)),
        ];
        self.revoker.commit(changes).await?;
        Ok(fresh)
    }

    /// Counts the refusal on its way out.
    pub(super) fn throttled(&self, hit: Throttled) -> AccountError {
        self.metrics.throttled.of(hit.scope).add_one();
        hit.into()
    }
}
