//! Ending sessions: one, or all of a user, with the access tokens that came from them or that the app minted.

use super::{ATTEMPTS, AccountError, Accounts, ClientContext};
use crate::clock::Timestamp;
use crate::identity::{Principal, SessionId};
use crate::store::{Account, Change, Committed, Session};
use crate::token::access::AccessToken;

impl Accounts {
    /// Ends the session of an access token (verified by the caller of this), of a refresh token, or
    /// of both. A token that the app minted has no session: it is refused from now on, to its own end.
    ///
    /// # Errors
    /// [`AccountError::RefreshToken`] or `RefreshReused` for one that is not worth anything, `DifferentSessions` for two
    /// of two sessions (or of two users), `CallerRevoked` for neither; or a fault of the store.
    pub async fn logout(
        &self,
        access: Option<&AccessToken>,
        refresh: Option<&str>,
        client: &ClientContext,
    ) -> Result<(), AccountError> {
        let by_refresh = match refresh {
            Some(text) => Some(self.session_to_end(text, client).await?),
            None => None,
        };
        let (session, user) = match (access, &by_refresh) {
            (Some(token), Some(session)) if !may_end(token, session) => {
                return Err(AccountError::DifferentSessions);
            }
            (_, Some(session)) => (session.id, &session.user),
            (Some(token), None) => (token.principal.session, &token.principal.id),
            (None, None) => return Err(AccountError::CallerRevoked),
        };
        let now = self.now();
        let legacy = access.and_then(|token| self.refuse_legacy(token, now));
        let has_session = by_refresh.is_some() || legacy.is_none();
        let mut changes: Vec<Change> = legacy.into_iter().collect();
        if has_session {
            changes.extend(self.ending(session, now));
        }
        self.revoker.commit(changes).await?;
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
        Ok(self.revoker.commit(self.ending(session, now).into()).await?)
    }

    /// What ends one session.
    fn ending(&self, session: SessionId, now: Timestamp) -> [Change; 2] {
        [Change::EndSession(session), Change::Revoke(self.revoke_session(&session, now))]
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

/// Whether who has both may end the session together with the token: it is the token's, or, as one that the app
/// minted has none, of the same user.
fn may_end(token: &AccessToken, session: &Session) -> bool {
    match token.refused_until {
        Some(_) => token.principal.id == session.user,
        None => token.principal.session == session.id,
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
