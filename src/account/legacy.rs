//! Whose tokens the app minted: from the name in such a token to the account that it means today.
//!
//! Nothing is made here: who has no account has none. A legacy token carries neither generation nor roles,
//! so the account has to be as old as the token is: enabled, and still in its first generation. A new
//! password, other roles or a logout everywhere end it, as they end our own.

use super::{Accounts, view};
use crate::clock::Timestamp;
use crate::identity::{Email, UserId};
use crate::metrics::LegacyResult;
use crate::settings::LegacyAccount;
use crate::store::{Account, AccountKey, Change, StoreError};
use crate::token::access::{AccessToken, TokenError};
use crate::token::legacy::{GENERATION, LegacyToken, Subject};
use crate::token::revocation::{Revocation, RevocationId, RevocationKind};

/// Why a token that the app minted lets nobody in.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// The token is no good, or of nobody.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The account or the token was revoked, or the account is disabled.
    #[error("the token has been revoked")]
    Revoked,
    /// It is not the token's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Accounts {
    /// What a token that the app minted is worth now: its account, as it is in the store.
    ///
    /// # Errors
    /// [`LegacyError`]
    pub async fn admit_legacy(&self, text: &str) -> Result<AccessToken, LegacyError> {
        let admitted = self.look_up_legacy(text).await;
        let result = match &admitted {
            Ok(_) => Some(LegacyResult::Accepted),
            Err(LegacyError::Token(TokenError::NoAccount)) => Some(LegacyResult::NoAccount),
            Err(LegacyError::Revoked) => Some(LegacyResult::Revoked),
            Err(LegacyError::Token(_) | LegacyError::Store(_)) => None,
        };
        if let Some(result) = result {
            self.metrics.legacy_tokens.of(result).add_one();
        }
        admitted
    }

    async fn look_up_legacy(&self, text: &str) -> Result<AccessToken, LegacyError> {
        let token = self.verifier.verify_legacy(text, self.now())?;
        let account = self.legacy_account(&token).await?.ok_or(TokenError::NoAccount)?;
        if account.disabled || account.generation != GENERATION {
            return Err(LegacyError::Revoked);
        }
        let principal = view::principal(&account, token.session, &self.settings.roles);
        let token = token.of(principal);
        // After the account was read: what changed it since was published before.
        if self.revoker.has_any(&token.revocable_by) {
            return Err(LegacyError::Revoked);
        }
        Ok(token)
    }

    /// What refuses a token from now on to its own end, if the app minted it: it has no session to end.
    pub(super) fn refuse_legacy(&self, token: &AccessToken, now: Timestamp) -> Option<Change> {
        let until = self.revoked_until(now).max(token.refused_until?);
        let id = RevocationId::session(&token.principal.session);
        Some(Change::Revoke(Revocation { kind: RevocationKind::Session, id, until }))
    }

    async fn legacy_account(&self, token: &LegacyToken) -> Result<Option<Account>, StoreError> {
        let Subject { value, is_number, account, .. } = &token.subject;
        match account {
            LegacyAccount::Id => self.by_id(value).await,
            LegacyAccount::Username => self.by_username(token).await,
            LegacyAccount::Email => self.by_email(token).await,
            LegacyAccount::Either => {
                let by_id = self.by_id(value).await?;
                // An id of somebody who is gone must not become somebody's name.
                if *is_number || looks_like_an_id(value) {
                    return Ok(by_id);
                }
                let by_name = if value.contains('@') {
                    self.by_email(token).await?
                } else {
                    self.by_username(token).await?
                };
                Ok(one_of(by_id, by_name))
            }
        }
    }

    async fn by_id(&self, value: &str) -> Result<Option<Account>, StoreError> {
        let Ok(id) = value.parse::<UserId>() else { return Ok(None) };
        // A random id of ours is nobody else's. A number of ours may be one that the app had given, to
        // somebody who was not imported or is gone.
        let is_theirs =
            |account: &Account| account.origin.brought_its_id() || !is_numeric(account.id.as_str());
        Ok(self.store.account(AccountKey::Id(id)).await?.filter(is_theirs))
    }

    async fn by_username(&self, token: &LegacyToken) -> Result<Option<Account>, StoreError> {
        let subject = &token.subject;
        let Ok(name) = self.names.username(&subject.value) else { return Ok(None) };
        // In an app that tells them apart, Alice is not alice, and may be anybody.
        if name.as_str() != subject.value && !subject.ignore_case {
            return Ok(None);
        }
        let account = self.store.account(AccountKey::Name(name)).await?;
        Ok(account.filter(|account| self.was_there(account, token)))
    }

    async fn by_email(&self, token: &LegacyToken) -> Result<Option<Account>, StoreError> {
        let subject = &token.subject;
        let Ok(email) = subject.value.parse::<Email>() else { return Ok(None) };
        let account = self.store.account(AccountKey::Email(email)).await?;
        let is_theirs = |account: &Account| {
            let exact = account.email.as_ref().is_some_and(|email| email.as_str() == subject.value);
            account.email_verified && (exact || subject.ignore_case)
        };
        Ok(account.filter(|account| is_theirs(account) && self.was_there(account, token)))
    }

    /// Whether the account can be whom the app meant. A name that somebody took here after the token was minted
    /// is somebody else's, and a token that does not say when that was may be older than any registration.
    /// Whether anybody can register today says nothing about who could when the name was taken.
    fn was_there(&self, account: &Account, token: &LegacyToken) -> bool {
        let leeway = self.settings.tokens.leeway;
        let before = |minted: Timestamp| account.created_at.secs() <= minted.plus(leeway).secs();
        account.origin.is_named_for_the_app() || token.issued_at.is_some_and(before)
    }
}

/// Numbers, UUIDs and the ids of document stores. Nobody is called that, but anybody may register it.
fn looks_like_an_id(value: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    is_numeric(value)
        || (value.len() == 24 && hex(value))
        || (matches!(value.len(), 32 | 36) && hex(&value.replace('-', "")))
}

fn is_numeric(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_digit())
}

/// Two accounts for one token is one too many.
fn one_of(one: Option<Account>, other: Option<Account>) -> Option<Account> {
    match (one, other) {
        (Some(one), Some(other)) if one.id != other.id => None,
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_usual_kinds_are_no_names() {
        for id in [
            "0",
            "17",
            "507f1f77bcf86cd799439011",
            "550e8400-e29b-41d4-a716-446655440000",
            "550E8400E29B41D4A716446655440000",
        ] {
            assert!(looks_like_an_id(id), "{id}");
        }
        for name in ["alice", "a17", "deadbeef", "507f1f77bcf86cd79943901", "zz7f1f77bcf86cd799439011"] {
            assert!(!looks_like_an_id(name), "{name}");
        }
    }
}
