//! Where a user is logged in.

use super::{AccountError, Accounts, ClientContext, SessionView};
use crate::identity::{Principal, SessionId, UserId};
use crate::store::Session;

impl Accounts {
    /// The caller's live sessions, oldest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn sessions(&self, caller: &Principal) -> Result<Vec<SessionView>, AccountError> {
        let live = self.live_sessions(&caller.id).await?;
        Ok(live.into_iter().map(|session| SessionView::new(session, Some(caller.session))).collect())
    }

    /// Ends one of the caller's sessions; it may be the current one.
    ///
    /// # Errors
    /// [`AccountError::NoSuchSession`] also for one that is somebody else's; or a fault of the store.
    pub async fn end_session(
        &self,
        caller: &Principal,
        session: SessionId,
        client: &ClientContext,
    ) -> Result<(), AccountError> {
        let found = self.store.session(session).await?;
        let now = self.now();
        if !found.is_some_and(|s| s.user == caller.id && s.expires_at > now) {
            return Err(AccountError::NoSuchSession);
        }
        self.end(session, now).await?;
        tracing::info!(target: "gatepost::audit", event = "session_ended", user = %caller.id, %session, client = %client.address);
        Ok(())
    }

    pub(super) async fn live_sessions(&self, user: &UserId) -> Result<Vec<Session>, AccountError> {
        let mut sessions = self.store.sessions(user.clone()).await?;
        let now = self.now();
        sessions.retain(|session| session.expires_at > now);
        Ok(sessions)
    }
}
