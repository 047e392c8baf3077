//! From a request's headers to who it acts for. No I/O: everything is judged from memory.
//!
//! [`Authenticator`] is the gateway's way in, one per worker, with a cache of verified tokens. [`check`]
//! is the same judgement without a cache. Whether a route wants a caller at all is `authz`'s business.

pub mod credential;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use self::credential::Credential;
use crate::clock::Timestamp;
use crate::identity::{Authentication, Principal, RoleSet};
use crate::settings::CredentialForm;
use crate::token::access::{AccessToken, Judged, TokenError, Verifier};
use crate::token::cache::TokenCache;
use crate::token::refresh::RefreshToken;
use crate::token::revocation::RevocationList;

/// Why a credential that was presented is not accepted. None of these is ever an anonymous caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthnError {
    /// More than one credential. The request is at fault, not the caller: 400.
    #[error("the request carries more than one credential")]
    Ambiguous,
    /// An accepted scheme without a token.
    #[error("the credential is malformed")]
    Malformed,
    /// Not a valid access token.
    #[error("{0}")]
    Invalid(TokenError),
    /// It was valid once.
    #[error("the token has expired")]
    Expired,
    /// It would be valid, but the token, its session or its generation was revoked.
    #[error("the token has been revoked")]
    Revoked,
    /// A good token that the app minted, whose account has not been looked up: whoever can do that has to,
    /// and judge again. For everybody else it is a refusal.
    #[error("the token's account is not known yet")]
    Unresolved,
}

impl AuthnError {
    /// The problem's stable `code`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous_credentials",
            Self::Malformed | Self::Invalid(_) | Self::Unresolved => "invalid_token",
            Self::Expired => "expired_token",
            Self::Revoked => "revoked_token",
        }
    }

    /// One short sentence for people, made of the characters of a quoted string (RFC 6750 section 3).
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Ambiguous => "the request carries more than one credential",
            Self::Malformed => "the credential is malformed",
            Self::Invalid(error) => error.description(),
            Self::Expired => "the token has expired",
            Self::Revoked => "the token has been revoked",
            Self::Unresolved => "the account of the token is not known yet",
        }
    }
}

impl From<TokenError> for AuthnError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => Self::Expired,
            other => Self::Invalid(other),
        }
    }
}

/// Judges one token from scratch: its signature, its claims, the time, the revocations. One that the app
/// minted is [`AuthnError::Unresolved`] at best: accounts are none of this module's business.
pub fn check(
    verifier: &Verifier,
    revocations: &RevocationList,
    token: &str,
    now: Timestamp,
) -> Result<AccessToken, AuthnError> {
    let token = match verifier.judge(token, now)? {
        Judged::Own(token) => token,
        Judged::Legacy(_) => return Err(AuthnError::Unresolved),
    };
    if is_revoked(revocations, &token) {
        return Err(AuthnError::Revoked);
    }
    Ok(token)
}

fn is_revoked(revocations: &RevocationList, token: &AccessToken) -> bool {
    token.revocable_by.iter().any(|id| revocations.contains(*id))
}

/// A caller whose token is good, with what a worker keeps beside it (such as ready-made header values).
#[derive(Debug)]
pub struct Caller<A> {
    /// What the token says.
    pub token: AccessToken,
    /// Made once per token and worker, by the authenticator's `attach`.
    pub attachment: A,
    /// The epoch of the revocations at which none concerned this token.
    clean_at: Cell<u64>,
    /// When another look at the account is due, where it was not the token that said who this is.
    stale_at: Timestamp,
}

/// What an upstream is told of the caller goes along with the caller: one thing to find in memory, not two.
impl<A: AsRef<T>, T: ?Sized> AsRef<T> for Caller<A> {
    fn as_ref(&self) -> &T {
        self.attachment.as_ref()
    }
}

/// A token that says who it speaks for needs no second look.
const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

/// How many revocations there had been, before something was looked up.
#[derive(Clone, Copy, Debug)]
pub struct Epoch(u64);

/// What an [`Authenticator`] is made of.
pub struct AuthenticatorParts<A> {
    /// Checks signatures and claims.
    pub verifier: Arc<Verifier>,
    /// What is refused all the same.
    pub revocations: Arc<RevocationList>,
    /// How a token may be presented.
    pub accept: Vec<CredentialForm>,
    /// What this worker's verified tokens may weigh, in bytes.
    pub cache_bytes: u64,
    /// What to keep beside a verified token.
    pub attach: Box<dyn Fn(&Principal) -> A>,
}

impl<A> fmt::Debug for AuthenticatorParts<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticatorParts").finish_non_exhaustive()
    }
}

/// Finds out who a request acts for. One per worker; keys and settings are those it was made with.
pub struct Authenticator<A> {
    parts: AuthenticatorParts<A>,
    cache: RefCell<TokenCache<Caller<A>>>,
    roles: RefCell<KnownRoles>,
}

/// Combinations of roles that were seen: there are few, and many callers have each.
#[derive(Debug, Default)]
struct KnownRoles(Vec<RoleSet>);

impl KnownRoles {
    /// As many as are compared with for each token that is verified.
    const MAX: usize = 32;

    /// The same roles, in one place for all who have them.
    fn share(&mut self, roles: &mut RoleSet) {
        if let Some(known) = self.0.iter().find(|known| *known == roles) {
            *roles = known.clone();
        } else if self.0.len() < Self::MAX {
            self.0.push(roles.clone());
        }
    }
}

impl<A> fmt::Debug for Authenticator<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl<A> Authenticator<A> {
    /// An authenticator with an empty cache.
    #[must_use]
    pub fn new(parts: AuthenticatorParts<A>) -> Self {
        let cache = RefCell::new(TokenCache::new(parts.cache_bytes));
        Self { parts, cache, roles: RefCell::default() }
    }

    /// Takes the tokens that another authenticator has verified, which then starts with none. To be
    /// called only when both verify alike and attach alike.
    pub fn take_over(&self, other: &Self) {
        let cache = other.cache.replace(TokenCache::new(other.parts.cache_bytes));
        self.cache.replace(cache);
    }

    /// Who the request acts for: nobody when it brought no credential, an error when it brought a bad one.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Authentication<Rc<Caller<A>>>, AuthnError> {
        let plain = credential::plain(headers, &self.parts.accept);
        if let Some(caller) = plain.and_then(|token| self.known(token, now)) {
            return caller.map(Authentication::Authenticated);
        }
        match credential::find(headers, &self.parts.accept) {
            Credential::Absent => Ok(Authentication::Anonymous),
            Credential::Malformed => Err(AuthnError::Malformed),
            Credential::Ambiguous => Err(AuthnError::Ambiguous),
            Credential::Token(token) => self.caller(token, now).map(Authentication::Authenticated),
        }
    }

    /// The caller that a token speaks for.
    pub fn caller(&self, token: &str, now: Timestamp) -> Result<Rc<Caller<A>>, AuthnError> {
        self.known(token.as_bytes(), now).unwrap_or_else(|| self.verify(token, now))
    }

    /// The caller of a token that was verified before, if it still is what it was.
    fn known(&self, token: &[u8], now: Timestamp) -> Option<Result<Rc<Caller<A>>, AuthnError>> {
        // Before any look-up: what is revoked from here on raises it.
        let epoch = self.parts.revocations.epoch();
        let caller = self.cache.borrow().find(token).cloned()?;
        if now >= caller.stale_at {
            self.cache.borrow_mut().remove(token);
            return None;
        }
        let judged = self.judge_again(&caller, now, epoch);
        if judged.is_err() {
            // An early token becomes good, and a clock may step back; a revoked one takes its chances anew.
            self.cache.borrow_mut().remove(token);
        }
        Some(judged.map(|()| caller))
    }

    /// Whether a header line holds a token of ours, good or not, in an accepted form: such a line does
    /// not travel on. Anything else in `Authorization` is between client and app.
    #[must_use]
    pub fn carries_ours(&self, name: &HeaderName, value: &HeaderValue) -> bool {
        let ours = |token| RefreshToken::looks_like(token) || self.parts.verifier.recognises(token);
        credential::pieces(name, value, &self.parts.accept).any(ours)
    }

    /// Whether a header line is a credential in an accepted form, of whatever worth.
    #[must_use]
    pub fn is_credential(&self, name: &HeaderName, value: &HeaderValue) -> bool {
        credential::is_presented(name, value, &self.parts.accept)
    }

    fn verify(&self, token: &str, now: Timestamp) -> Result<Rc<Caller<A>>, AuthnError> {
        let epoch = self.parts.revocations.epoch();
        let mut verified = check(&self.parts.verifier, &self.parts.revocations, token, now)?;
        self.roles.borrow_mut().share(&mut verified.principal.roles);
        Ok(self.keep(token, verified, epoch, NEVER))
    }

    fn keep(&self, token: &str, verified: AccessToken, epoch: u64, stale_at: Timestamp) -> Rc<Caller<A>> {
        let attachment = (self.parts.attach)(&verified.principal);
        let caller = Rc::new(Caller { token: verified, attachment, clean_at: Cell::new(epoch), stale_at });
        // Names and roles of the token stand in it decoded once more, and again in the attachment.
        let bytes = size_of::<Caller<A>>() + 2 * token.len();
        self.cache.borrow_mut().insert(token, Rc::clone(&caller), bytes);
        caller
    }

    /// The one token that a request brought, to look up the account of an
    /// [unresolved](AuthnError::Unresolved) one; and the epoch to [admit](Self::admit) it with.
    #[must_use]
    pub fn unresolved<'h>(&self, headers: &'h HeaderMap) -> Option<(&'h str, Epoch)> {
        // Read first: whatever is revoked while the account is looked up raises it.
        let epoch = Epoch(self.parts.revocations.epoch());
        match credential::find(headers, &self.parts.accept) {
            Credential::Token(token) => Some((token, epoch)),
            Credential::Absent | Credential::Malformed | Credential::Ambiguous => None,
        }
    }

    /// Takes in what a token that the app minted is worth, as it was found after `epoch`.
    #[must_use]
    pub fn admit(&self, text: &str, token: AccessToken, epoch: Epoch, now: Timestamp) -> Rc<Caller<A>> {
        let stale_at = now.plus(self.parts.verifier.lookup_lasts());
        self.keep(text, token, epoch.0, stale_at)
    }

    /// What may have changed since the token was verified: the time and the revocations.
    fn judge_again(&self, caller: &Caller<A>, now: Timestamp, epoch: u64) -> Result<(), AuthnError> {
        self.parts.verifier.still_timely(&caller.token, now)?;
        if caller.clean_at.get() == epoch {
            return Ok(());
        }
        if is_revoked(&self.parts.revocations, &caller.token) {
            return Err(AuthnError::Revoked);
        }
        caller.clean_at.set(epoch);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
