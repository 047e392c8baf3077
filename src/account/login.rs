//! Starting a session.

use zeroize::Zeroizing;

use super::names::LoginId;
use super::passphrase::Passphrase;
use super::{ATTEMPTS, AccountError, Accounts, ClientContext, LoginOutcome, TokenPair};
use crate::clock::Timestamp;
use crate::identity::SessionId;
use crate::metrics::TokenType;
use crate::secret::Secret;
use crate::store::{Account, Change, Session};
use crate::token::refresh::RefreshToken;

/// How a password login is named in `amr` (RFC 8176 section 2).
const PASSWORD: &str = "pwd";

/// Characters of `User-Agent` that a session keeps.
const CLIENT_LENGTH: usize = 256;

impl Accounts {
    /// Logs in with a username or an address, whichever `[auth] login_name` allows.
    ///
    /// # Errors
    /// [`AccountError::Credentials`] for whatever is not a name and its password; `Disabled` only to
    /// who knew it; `Throttled`, `Busy`, or a fault of the store.
    pub async fn login(
        &self,
        typed: &str,
        password: &Secret<String>,
        client: &ClientContext,
    ) -> Result<LoginOutcome, AccountError> {
        let id = self.names.login(typed);
        for _ in 0..ATTEMPTS {
            let known = self.find_login(&id).await?;
            let moved_in = match &known {
                Some(_) => None,
                None => match self.move_in(&id, password, client).await {
                    Err(AccountError::Contended) => continue,
                    moved_in => moved_in?,
                },
            };
            let (account, stale) = match moved_in {
                Some(account) => (account, false),
                None => self.check_login(known, &id, password, client).await?,
            };
            match self.start_session(&account, client).await {
                // The account was changed meanwhile: disabled, or its password. Look again.
                Err(AccountError::Contended) => {}
                Err(error) => return Err(error),
                Ok(pair) => {
                    tracing::info!(target: "gatepost::audit", event = "login", user = %account.id, client = %client.address);
                    if stale {
                        self.rehash(&account, password).await;
                    }
                    return Ok(LoginOutcome::Session(pair));
                }
            }
        }
        Err(AccountError::Contended)
    }

    async fn check_login(
        &self,
        account: Option<Account>,
        id: &LoginId,
        password: &Secret<String>,
        client: &ClientContext,
    ) -> Result<(Account, bool), AccountError> {
        let who = match &account {
            Some(account) => self.subject(&account.id),
            None => self.throttle.nobody(&id.key()),
        };
        let checked = self.check_password(account.as_ref(), who, password, client).await;
        if let Err(error) = &checked {
            let user = account.as_ref().map(|a| tracing::field::display(a.id.clone()));
            tracing::info!(target: "gatepost::audit", event = "login_failed", user, client = %client.address, reason = %error);
        }
        let stale = checked?.stale;
        let account = account.ok_or(AccountError::Credentials)?;
        if account.disabled {
            tracing::info!(target: "gatepost::audit", event = "login_failed", user = %account.id, client = %client.address, reason = "disabled");
            return Err(AccountError::Disabled);
        }
        Ok((account, stale))
    }

    /// Makes a session for who is known; the oldest ones go when there are too many.
    async fn start_session(
        &self,
        account: &Account,
        client: &ClientContext,
    ) -> Result<TokenPair, AccountError> {
        let now = self.now();
        let (session, refresh) = self.new_session(account, client, now)?;
        let access = self.issue_access(account, &session, now)?;
        let refresh_expires_at = session.expires_at;
        let mut changes = vec![Change::ExpectAccount { id: account.id.clone(), version: account.version }];
        for oldest in self.surplus_sessions(account, now).await? {
            changes.push(Change::EndSession(oldest));
            changes.push(Change::Revoke(self.revoke_session(&oldest, now)));
        }
        changes.push(Change::InsertSession(session));
        self.revoker.commit(changes).await?;
        self.metrics.tokens_issued.of(TokenType::Refresh).add_one();
        Ok(TokenPair {
            access: access.access,
            access_expires_at: access.expires_at,
            refresh: refresh.text(&self.refresh_key),
            refresh_expires_at,
            issued_at: now,
            account: self.view(account),
        })
    }

    fn new_session(
        &self,
        account: &Account,
        client: &ClientContext,
        now: Timestamp,
    ) -> Result<(Session, RefreshToken), AccountError> {
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(random.as_mut_slice())?;
        let id = SessionId::random();
        let (token, chain) = RefreshToken::first(id, Secret::new(*random));
        let tokens = &self.settings.tokens;
        let ends_at = now.plus(tokens.session_ttl);
        let session = Session {
            id,
            version: 0,
            user: account.id.clone(),
            created_at: now,
            last_used_at: now,
            expires_at: now.plus(tokens.refresh_ttl).min(ends_at),
            ends_at,
            amr: vec![PASSWORD.to_owned()],
            client: client.user_agent.chars().filter(|c| !c.is_control()).take(CLIENT_LENGTH).collect(),
            address: client.address.to_canonical().to_string(),
            chain,
        };
        Ok((session, token))
    }

    /// The oldest live sessions, so many that one more fits.
    async fn surplus_sessions(
        &self,
        account: &Account,
        now: Timestamp,
    ) -> Result<Vec<SessionId>, AccountError> {
        let mut live = self.store.sessions(account.id.clone()).await?;
        live.retain(|session| session.expires_at > now);
        let allowed = self.settings.auth.sessions_per_user.max(1) - 1;
        let surplus = live.len().saturating_sub(allowed);
        Ok(live.iter().take(surplus).map(|session| session.id).collect())
    }

    /// Hashes a password that was right with today's parameters. Should that fail it is tried at the
    /// next login; this one has succeeded.
    async fn rehash(&self, account: &Account, password: &Secret<String>) {
        let Some(password) = Passphrase::typed(password, &self.settings.auth.password) else { return };
        let stored = match self.hasher.hash(password).await {
            Ok(hash) => {
                let account = Account { password: hash, ..account.clone() };
                self.revoker.commit(vec![Change::UpdateAccount(account)]).await.map_err(AccountError::from)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            tracing::debug!(user = %account.id, %error, "the password keeps its old parameters for now");
        }
    }
}
