//! What an operator does, by the command line over the admin socket or on the store itself.
//!
//! An account is named by its username, its address or its id. An address that an operator sets
//! counts as proved. Reserved names are for operators to give; nothing here is throttled.

use std::collections::BTreeSet;

use super::error::InvalidField;
use super::logout::Sessions;
use super::names::{self, LoginId};
use super::passphrase::Passphrase;
use super::profile::optional;
use super::register::{Draft, EmailProof, Registration};
use super::{ATTEMPTS, AccountError, AccountView, Accounts, SessionView};
use crate::clock::Timestamp;
use crate::identity::{Role, SessionId, TokenId, UserId};
use crate::secret::Secret;
use crate::store::{Account, AccountKey, Change};
use crate::token::access::Judged;
use crate::token::refresh::RefreshToken;
use crate::token::revocation::{Revocation, RevocationId, RevocationKind};

/// An account as an operator makes it.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// As for a registration.
    pub username: Option<String>,
    /// As for a registration, but proved.
    pub email: Option<String>,
    /// For people to read.
    pub name: Option<String>,
    /// Granted roles; `[auth] default_roles` when absent.
    pub roles: Option<Vec<Role>>,
    /// The password.
    pub password: Secret<String>,
}

/// What an operator changes of an account. `Some(None)` removes a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// Instead of the granted roles. Ends the access tokens of before, not the sessions.
    pub roles: Option<Vec<Role>>,
    /// The address, proved.
    pub email: Option<Option<String>>,
    /// The name for people to read.
    pub name: Option<Option<String>>,
    /// Another username; the next token shows it.
    pub username: Option<String>,
}

/// What an operator takes the worth from.
#[derive(Clone, Debug)]
pub enum Revocable {
    /// An access token (only it) or a refresh token (its session), by its text.
    Text(Secret<String>),
    /// One access token.
    Token(TokenId),
    /// A session with its tokens.
    Session(SessionId),
}

impl Accounts {
    /// Makes an account.
    ///
    /// # Errors
    /// [`AccountError::Invalid`], `UnknownRole`, `NameTaken`, `EmailTaken`, `Busy`, or a fault of the store.
    pub async fn add(&self, new: NewAccount) -> Result<AccountView, AccountError> {
        let auth = &self.settings.auth;
        let roles = new.roles.unwrap_or_else(|| auth.default_roles.clone());
        self.known_roles(&roles)?;
        let registration = Registration {
            username: new.username,
            email: new.email,
            name: new.name,
            password: Some(new.password),
        };
        let draft = Draft::check(registration, &self.names, auth.login_name, &auth.password)?;
        self.refuse_taken(&draft).await?;
        let account = self.insert(draft, roles, EmailProof::Operator).await?;
        audit("account_added", &account);
        Ok(self.view(&account))
    }

    /// A page of accounts in the order of their ids; the next one starts after the last id.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn list(&self, after: Option<UserId>, limit: usize) -> Result<Vec<AccountView>, AccountError> {
        let page = self.store.accounts(after, limit).await?;
        Ok(page.iter().map(|account| self.view(account)).collect())
    }

    /// One account.
    ///
    /// # Errors
    /// [`AccountError::NoSuchAccount`], or a fault of the store; so for all that follow.
    pub async fn show(&self, who: &str) -> Result<AccountView, AccountError> {
        Ok(self.view(&self.find(who).await?))
    }

    /// Changes an account.
    ///
    /// # Errors
    /// As for [`Accounts::show`], and `Invalid`, `UnknownRole`, `NameTaken`, `EmailTaken`.
    pub async fn set(&self, who: &str, change: &AccountChange) -> Result<AccountView, AccountError> {
        for _ in 0..ATTEMPTS {
            let account = self.find(who).await?;
            let next = Account { updated_at: self.now(), ..self.changed(&account, change)? };
            let committed = if next.roles == account.roles {
                self.revoker.commit(vec![Change::UpdateAccount(next.clone())]).await.map_err(Into::into)
            } else {
                self.replace_generation(&account, next.clone(), Sessions::Keep).await
            };
            match committed {
                Err(AccountError::Contended) => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    audit("account_changed", &next);
                    return Ok(self.view(&next));
                }
            }
        }
        Err(AccountError::Contended)
    }

    /// Sets a password. All sessions end.
    ///
    /// # Errors
    /// As for [`Accounts::show`], and `Invalid`, `Busy`.
    pub async fn set_password(
        &self,
        who: &str,
        password: &Secret<String>,
    ) -> Result<AccountView, AccountError> {
        let chosen = Passphrase::chosen(password, "password", &self.settings.auth.password)
            .map_err(|invalid| AccountError::Invalid(vec![invalid]))?;
        self.find(who).await?;
        let hash = self.hasher.hash(chosen).await?;
        let set = |account: &mut Account| account.password = hash.clone();
        self.replace(who, Sessions::End, "password_set", set).await
    }

    /// Disables an account: its sessions end, its tokens are refused, it cannot log in.
    ///
    /// # Errors
    /// As for [`Accounts::show`].
    pub async fn disable(&self, who: &str) -> Result<AccountView, AccountError> {
        self.replace(who, Sessions::End, "account_disabled", |account| account.disabled = true).await
    }

    /// Lets a disabled account log in again.
    ///
    /// # Errors
    /// As for [`Accounts::show`].
    pub async fn enable(&self, who: &str) -> Result<AccountView, AccountError> {
        self.replace(who, Sessions::Keep, "account_enabled", |account| account.disabled = false).await
    }

    /// Forgets the failed logins of an account, from every address.
    ///
    /// # Errors
    /// As for [`Accounts::show`].
    pub async fn unlock(&self, who: &str) -> Result<AccountView, AccountError> {
        let account = self.find(who).await?;
        self.throttle.unlock(self.subject(&account.id));
        audit("account_unlocked", &account);
        Ok(self.view(&account))
    }

    /// Removes an account with its sessions. Its name stays taken.
    ///
    /// # Errors
    /// As for [`Accounts::show`].
    pub async fn remove(&self, who: &str) -> Result<(), AccountError> {
        for _ in 0..ATTEMPTS {
            let account = self.find(who).await?;
            match self.erase(&account).await {
                Err(AccountError::Contended) => {}
                other => {
                    if other.is_ok() {
                        audit("account_removed", &account);
                    }
                    return other;
                }
            }
        }
        Err(AccountError::Contended)
    }

    /// The live sessions of an account.
    ///
    /// # Errors
    /// As for [`Accounts::show`].
    pub async fn sessions_of(&self, who: &str) -> Result<Vec<SessionView>, AccountError> {
        let account = self.find(who).await?;
        let live = self.live_sessions(&account.id).await?;
        Ok(live.into_iter().map(|session| SessionView::new(session, None)).collect())
    }

    /// Ends all sessions of an account, refuses its tokens, and says how many sessions there were.
    ///
    /// # Errors
    /// As for [`Accounts::show`].
    pub async fn end_all_sessions(&self, who: &str) -> Result<usize, AccountError> {
        for _ in 0..ATTEMPTS {
            let account = self.find(who).await?;
            match self.end_all(&account).await {
                Err(AccountError::Contended) => {}
                other => {
                    let ended = other?.ended.len();
                    audit("sessions_ended", &account);
                    return Ok(ended);
                }
            }
        }
        Err(AccountError::Contended)
    }

    /// Takes the worth from a token or a session; [`Accounts::end_all_sessions`] from all of an account.
    ///
    /// # Errors
    /// [`AccountError::ForeignToken`] for a text that is no good token of ours, `NoSuchSession`, or a
    /// fault of the store.
    pub async fn revoke(&self, what: &Revocable) -> Result<(), AccountError> {
        match what {
            Revocable::Text(text) => self.revoke_text(text.expose()).await,
            Revocable::Token(id) => self.revoke_token(id, Timestamp::default()).await,
            Revocable::Session(id) => self.revoke_known_session(*id).await,
        }
    }

    async fn revoke_text(&self, text: &str) -> Result<(), AccountError> {
        if let Some(refresh) = RefreshToken::parse(&self.refresh_key, text) {
            return self.revoke_known_session(refresh.session()).await;
        }
        match self.verifier.judge(text, self.now()) {
            Ok(Judged::Own(token)) => self.revoke_token(&token.id, Timestamp::default()).await,
            Ok(Judged::Legacy(token)) => self.revoke_token(&token.id, token.ends_at()).await,
            Err(_) => Err(AccountError::ForeignToken),
        }
    }

    /// Refuses the token, and at least until `end`.
    async fn revoke_token(&self, id: &TokenId, end: Timestamp) -> Result<(), AccountError> {
        let until = self.revoked_until(self.now()).max(end);
        let revocation = Revocation { kind: RevocationKind::Token, id: RevocationId::token(id), until };
        self.revoker.commit(vec![Change::Revoke(revocation)]).await?;
        tracing::info!(target: "gatepost::audit", event = "token_revoked", jti = %id);
        Ok(())
    }

    async fn revoke_known_session(&self, id: SessionId) -> Result<(), AccountError> {
        let found = self.store.session(id).await?;
        // Ended before or not: a second time does no harm, but a wrong id should be told.
        if found.is_none() {
            return Err(AccountError::NoSuchSession);
        }
        self.end(id, self.now()).await?;
        tracing::info!(target: "gatepost::audit", event = "session_ended", session = %id);
        Ok(())
    }

    /// Whom an operator means: by `id:…`, by `name:…` (a username or an address), or by what is only one of them.
    async fn find(&self, who: &str) -> Result<Account, AccountError> {
        let found = match (who.strip_prefix("id:"), who.strip_prefix("name:")) {
            (Some(id), _) => self.with_id(id).await?,
            (None, Some(name)) => self.called(name).await?,
            (None, None) => match (self.with_id(who).await?, self.called(who).await?) {
                (Some(one), Some(other)) if one.id != other.id => {
                    return Err(AccountError::TwoAccounts(who.to_owned()));
                }
                (one, other) => one.or(other),
            },
        };
        found.ok_or(AccountError::NoSuchAccount)
    }

    async fn with_id(&self, id: &str) -> Result<Option<Account>, AccountError> {
        let Ok(id) = id.parse::<UserId>() else { return Ok(None) };
        Ok(self.store.account(AccountKey::Id(id)).await?)
    }

    async fn called(&self, name: &str) -> Result<Option<Account>, AccountError> {
        Ok(match self.names.operator(name) {
            LoginId::Username(name) => self.store.account(AccountKey::Name(name)).await?,
            LoginId::Email(email) => self.store.account(AccountKey::Email(email)).await?,
            LoginId::Nobody(_) => None,
        })
    }

    /// Changes an account in a way that ends its generation.
    async fn replace(
        &self,
        who: &str,
        sessions: Sessions,
        event: &'static str,
        change: impl Fn(&mut Account),
    ) -> Result<AccountView, AccountError> {
        for _ in 0..ATTEMPTS {
            let account = self.find(who).await?;
            let mut next = Account { updated_at: self.now(), ..account.clone() };
            change(&mut next);
            match self.replace_generation(&account, next.clone(), sessions).await {
                Err(AccountError::Contended) => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    audit(event, &next);
                    return Ok(self.view(&next));
                }
            }
        }
        Err(AccountError::Contended)
    }

    fn changed(&self, account: &Account, change: &AccountChange) -> Result<Account, AccountError> {
        let mut errors = Vec::new();
        let mut next = account.clone();
        if let Some(roles) = &change.roles {
            self.known_roles(roles)?;
            next.roles = roles.iter().cloned().collect::<BTreeSet<_>>();
        }
        if let Some(typed) = &change.username {
            match self.names.username(typed) {
                Ok(name) => next.username = Some(name),
                Err(error) => errors.push(error),
            }
        }
        if let Some(email) = optional(change.email.clone(), names::email, &mut errors) {
            next.email_verified = email.is_some();
            next.email = email;
        }
        if let Some(name) = optional(change.name.clone(), names::display_name, &mut errors) {
            next.name = name;
        }
        if next.username.is_none() && next.email.is_none() {
            errors.push(InvalidField::new("email", "missing", "an account needs a name or an address"));
        }
        if errors.is_empty() { Ok(next) } else { Err(AccountError::Invalid(errors)) }
    }

    fn known_roles(&self, roles: &[Role]) -> Result<(), AccountError> {
        match roles.iter().find(|role| !self.settings.roles.contains(role)) {
            None => Ok(()),
            Some(unknown) => Err(AccountError::UnknownRole(unknown.clone())),
        }
    }
}

fn audit(event: &'static str, account: &Account) {
    tracing::info!(target: "gatepost::audit", event, user = %account.id, by = "operator");
}
