//! Exchanging a refresh token for the next pair (RFC 9700 section 4.14.2: rotation with reuse
//! detection). What a token is to its session is decided by [`RefreshChain::present`]; this file
//! makes what follows from it durable.
//!
//! [`RefreshChain::present`]: crate::token::refresh::RefreshChain::present

use super::{ATTEMPTS, AccountError, Accounts, ClientContext, TokenPair};
use crate::clock::Timestamp;
use crate::metrics::{RefreshResult, TokenType};
use crate::store::{Account, AccountKey, Change, Session};
use crate::token::refresh::{Presented, RefreshChain, RefreshToken};

/// A session that may go on, with its account.
struct Live {
    session: Session,
    account: Account,
}

impl Accounts {
    /// The next pair for the refresh token `text`.
    ///
    /// # Errors
    /// [`AccountError::RefreshToken`] for one that is not worth anything, `RefreshReused` for one that
    /// was used up and has ended its session. Faults of the store leave the token as it was.
    pub async fn refresh(&self, text: &str, client: &ClientContext) -> Result<TokenPair, AccountError> {
        let result = self.exchange(text, client).await;
        if matches!(result, Err(AccountError::RefreshToken)) {
            self.metrics.refreshes.of(RefreshResult::Refused).add_one();
        }
        result
    }

    async fn exchange(&self, text: &str, client: &ClientContext) -> Result<TokenPair, AccountError> {
        let token = RefreshToken::parse(&self.refresh_key, text).ok_or(AccountError::RefreshToken)?;
        for _ in 0..ATTEMPTS {
            let now = self.now();
            let live = self.live_session(&token, now).await?;
            let grace = self.settings.tokens.refresh_grace;
            let result = match live.session.chain.present(&self.refresh_key, &token, now, grace) {
                Presented::Current { child, chain } => self.rotate(live, &child, chain, now).await,
                Presented::Repeat { child } => self.repeat(&live, &child, now),
                Presented::Spent => return Err(self.reused(&live.session, client, now).await),
                Presented::Unknown => Err(AccountError::RefreshToken),
            };
            match result {
                // Somebody rotated, ended or changed it at the same moment. Look again.
                Err(AccountError::Contended) => {}
                other => return other,
            }
        }
        Err(AccountError::Contended)
    }

    /// The session of a genuine token, and its account, if both are alive.
    async fn live_session(&self, token: &RefreshToken, now: Timestamp) -> Result<Live, AccountError> {
        let session = self.store.session(token.session()).await?;
        let session =
            session.filter(|s| s.expires_at > now && s.ends_at > now).ok_or(AccountError::RefreshToken)?;
        let account = self.store.account(AccountKey::Id(session.user.clone())).await?;
        let account = account.filter(|a| !a.disabled).ok_or(AccountError::RefreshToken)?;
        Ok(Live { session, account })
    }

    async fn rotate(
        &self,
        live: Live,
        child: &RefreshToken,
        chain: RefreshChain,
        now: Timestamp,
    ) -> Result<TokenPair, AccountError> {
        let Live { session, account } = live;
        let expires_at = now.plus(self.settings.tokens.refresh_ttl).min(session.ends_at);
        let session = Session { chain, last_used_at: now, expires_at, ..session };
        let pair = self.pair(&account, &session, child, now)?;
        // The account too: a token of a generation that has just ended would be worth nothing.
        let expected = Change::ExpectAccount { id: account.id.clone(), version: account.version };
        self.revoker.commit(vec![expected, Change::UpdateSession(session)]).await?;
        self.metrics.tokens_issued.of(TokenType::Refresh).add_one();
        self.metrics.refreshes.of(RefreshResult::Rotated).add_one();
        Ok(pair)
    }

    /// The same child again. Nothing to store: a session that ends at this moment is in the
    /// revocations, and so is the access token that goes out.
    fn repeat(&self, live: &Live, child: &RefreshToken, now: Timestamp) -> Result<TokenPair, AccountError> {
        let pair = self.pair(&live.account, &live.session, child, now)?;
        self.metrics.refreshes.of(RefreshResult::Repeated).add_one();
        Ok(pair)
    }

    /// Two parties hold tokens of this session: it ends, with every access token of it.
    async fn reused(&self, session: &Session, client: &ClientContext, now: Timestamp) -> AccountError {
        self.metrics.refreshes.of(RefreshResult::Reused).add_one();
        tracing::warn!(target: "gatepost::audit", event = "refresh_reuse", user = %session.user, session = %session.id, client = %client.address);
        match self.end(session.id, now).await {
            Ok(_) => AccountError::RefreshReused,
            Err(error) => error,
        }
    }

    fn pair(
        &self,
        account: &Account,
        session: &Session,
        refresh: &RefreshToken,
        now: Timestamp,
    ) -> Result<TokenPair, AccountError> {
        let access = self.issue_access(account, session, now)?;
        Ok(TokenPair {
            access: access.access,
            access_expires_at: access.expires_at,
            refresh: refresh.text(&self.refresh_key),
            refresh_expires_at: session.expires_at,
            issued_at: now,
            account: self.view(account),
        })
    }

    /// The session that a refresh token may end: of a token that could still be exchanged, or has
    /// just been. A spent one ends it as well, and is refused all the same.
    pub(super) async fn session_to_end(
        &self,
        text: &str,
        client: &ClientContext,
    ) -> Result<Session, AccountError> {
        let token = RefreshToken::parse(&self.refresh_key, text).ok_or(AccountError::RefreshToken)?;
        let now = self.now();
        let Live { session, .. } = self.live_session(&token, now).await?;
        match session.chain.present(&self.refresh_key, &token, now, self.settings.tokens.refresh_grace) {
            Presented::Current { .. } | Presented::Repeat { .. } => Ok(session),
            Presented::Unknown => Err(AccountError::RefreshToken),
            Presented::Spent => Err(self.reused(&session, client, now).await),
        }
    }
}
