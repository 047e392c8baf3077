//! Where accounts, sessions, revocations and keys are kept.
//!
//! The interface is small on purpose: read a record, or [`commit`](Store::commit) a list of
//! [`Change`]s atomically. The rules (who may change what, when a session ends) are decided outside,
//! in pure code over the records that were read; each change names the version it was made from, so
//! two writers cannot overwrite one another: the later one gets [`StoreError::Conflict`], reads again
//! and decides again. All of a commit is there after a crash, or none of it.
//!
//! Every answer comes *after* what it tells is durable.

#[cfg(test)]
#[expect(clippy::missing_panics_doc, reason = "a test that fails panics")]
pub mod contract;
mod engine;
mod kv;
pub mod memory;
#[cfg(test)]
mod model;
mod record;
pub mod sled;
mod tables;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{Notify, oneshot};

use crate::clock::Timestamp;
use crate::identity::{SessionId, UserId};
use crate::token::revocation::Revocation;

pub use self::sled::{OpenError, SledStore};
pub use engine::{Engine, StoreOptions};
pub use kv::{Batch, Kv, KvError, Row};
pub use record::{
    Account, AccountKey, AcmeCertificate, AcmeOrder, AcmeState, Change, Committed, Event, EventKind,
    EventUser, KeyMaterial, KeyPurpose, Origin, Outbox, PasswordHash, Purged, SecretText, Session, StoredKey,
};

/// Why the store did not do it. Nothing of the commit was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The username (or id) belongs to somebody, or belonged to somebody who was removed.
    #[error("the username is taken")]
    NameTaken,
    /// The e-mail address belongs to another account.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// A record is not in the version that the change was made from.
    #[error("the record was changed by somebody else")]
    Conflict,
    /// Less than `[store] min_free` is left on the file system.
    #[error("the store's file system is nearly full: {free} bytes left, {min_free} wanted")]
    Full {
        /// Bytes that are free.
        free: u64,
        /// `[store] min_free` in bytes.
        min_free: u64,
    },
    /// The store does not answer, or answers rubbish.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// An embedded or remote database of accounts, sessions, revocations and keys.
///
/// Calls return at once; the work is done elsewhere and the [`Reply`] resolves when it is durable.
pub trait Store: Send + Sync + 'static {
    /// One account.
    fn account(&self, key: AccountKey) -> Reply<Option<Account>>;
    /// Accounts in the order of their ids, `after` excluded, at most `limit`.
    fn accounts(&self, after: Option<UserId>, limit: usize) -> Reply<Vec<Account>>;
    /// One session.
    fn session(&self, id: SessionId) -> Reply<Option<Session>>;
    /// A user's sessions, oldest first.
    fn sessions(&self, user: UserId) -> Reply<Vec<Session>>;
    /// Every revocation that is kept.
    fn revocations(&self) -> Reply<Vec<Revocation>>;
    /// Every key that is kept, oldest first.
    fn keys(&self) -> Reply<Vec<StoredKey>>;
    /// What an ACME authority knows us by.
    fn acme(&self) -> Reply<Option<AcmeState>>;
    /// Events that the app was not told yet, from this number on, at most `limit`.
    fn outbox(&self, from: u64, limit: usize) -> Reply<Outbox>;
    /// Notified when there is more in the outbox, whoever has left it and whether or not they still wait.
    fn more_in_outbox(&self) -> Arc<Notify>;
    /// Applies all changes, or none.
    fn commit(&self, changes: Vec<Change>) -> Reply<Committed>;
    /// What a commit of these would answer. Changes nothing.
    fn rehearse(&self, changes: Vec<Change>) -> Reply<Committed>;
    /// Writes a probe row, durably.
    fn probe(&self) -> Reply<()>;
    /// Removes what has run out by `now`, a bounded number at a time.
    fn purge(&self, now: Timestamp) -> Reply<Purged>;
}

/// The answer to a store call, some time later.
#[derive(Debug)]
#[must_use = "the store's answer may be an error"]
pub struct Reply<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Reply<T> {
    /// A reply and the end through which it is given.
    pub fn channel() -> (oneshot::Sender<Result<T, StoreError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    /// Waits for the answer on a thread that may block: the command line, never a worker.
    ///
    /// # Errors
    /// What the store answered; [`StoreError::Unavailable`] when it went away.
    pub fn wait(self) -> Result<T, StoreError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, StoreError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("it has stopped".to_owned())
}
