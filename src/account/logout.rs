//! Ending sessions: one, or all of a user, with the access tokens that came from them.

use super::{ATTEMPTS, AccountError, Accounts, ClientContext};
use crate::clock::Timestamp;
use crate::identity::{Principal, SessionId};
use crate::store::{Account, Change, Committed};

impl Accounts {
    /// Ends the session of an access token (verified by the caller of this), of a refresh token, or
    /// of both.
    ///
    /// # Errors
    /// [`AccountError::RefreshToken`] or `RefreshReused` for one that is not worth anything, `DifferentSessions` for two
    /// of two sessions, `CallerRevoked` for neither; or a fault of the store.
    pub async fn logout(
        &self,
        access: Option<&Principal>,
        refresh: Option<&str>,
        client: &ClientContext,
    ) -> Result<(), AccountError> {
        let by_refresh = match refresh {
            Some(text) => Some(self.session_to_end(text, client).await?),
            None => None,
        };
        let (session, user) = match (access, &by_refresh) {
            (Some(access), Some(session)) if access.session != session.id => {
                return Err(AccountError::DifferentSessions);
            }
            (_, Some(session)) => (session.id, &session.user),
            (Some(access), None) => (access.session, &access.id),
            (None, None) => return Err(AccountError::CallerRevoked),
        };
        self.end(session, self.now()).await?;
        tracing::info!(target: "gatepost::audit", event = "logout", %user, %session, client = %client.address);
        Ok(())
    }

    /// Ends all sessions of the caller, and says how many there were.
    ///
    /// # Errors
    /// [`AccountError::CallerRevoked`], or a fault of the store.
    pub async fn logout_all(
        &self,
        caller: &Principal,
        client: &ClientContext,
    ) -> Result<usize, AccountError> {
        for _ in 0..ATTEMPTS {
            let account = self.caller(caller).await?;
            match self.end_all(&account).await {
                Err(AccountError::Contended) => {}
                other => {
                    let ended = other?.ended.len();
                    tracing::info!(target: "gatepost::audit", event = "logout_all", user = %account.id, ended, client = %client.address);
                    return Ok(ended);
                }
            }
        }
        Err(AccountError::Contended)
    }

    /// Ends one session, whether or not it is still there.
    pub(super) async fn end(&self, session: SessionId, now: Timestamp) -> Result<Committed, AccountError> {
        let changes = vec![Change::EndSession(session), Change::Revoke(self.revoke_session(&session, now))];
        Ok(self.revoker.commit(changes).await?)
    }

    /// Ends all sessions of an account and the generation of its access tokens.
    pub(super) async fn end_all(&self, account: &Account) -> Result<Committed, AccountError> {
        let next = Account { updated_at: self.now(), ..account.clone() };
        self.replace_generation(account, next, Sessions::End).await
    }

    /// Stores `next` in place of `account` and refuses the access tokens of before.
    pub(super) async fn replace_generation(
        &self,
        account: &Account,
        next: Account,
        sessions: Sessions,
    ) -> Result<Committed, AccountError> {
        let generation = account.generation.saturating_add(1);
        let mut changes = vec![
            Change::UpdateAccount(Account { generation, ..next }),
            Change::Revoke(self.revoke_generation(&account.id, account.generation, self.now())),
        ];
        if sessions == Sessions::End {
            changes.push(Change::EndSessions { user: account.id.clone(), except: None });
        }
        Ok(self.revoker.commit(changes).await?)
    }
}

/// What becomes of the sessions when a generation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sessions {
    /// They end.
    End,
    /// They go on: the next refresh brings a token of the new generation.
    Keep,
}
