//! Commits, and the revocations in them: in memory first, durable second, acknowledged last.
//!
//! From the moment that a commit is on its way nobody gets in with what it revokes; when the store
//! answers, it stays so over a restart. Should the store refuse (it is full, or somebody was faster),
//! the revocation is taken back, for nothing has happened. When the outcome is not known it stays:
//! a session that is refused too early does less harm than one that is never refused.
//!
//! Two callers may revoke the same thing at once and only one may be refused. So publications in
//! flight are counted, and one is taken back only when no other stands behind it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::store::{Change, Committed, Store, StoreError};
use crate::token::revocation::{Revocation, RevocationId, RevocationList};

/// The way to the store for everything that changes it.
pub(super) struct Revoker {
    store: Arc<dyn Store>,
    list: Arc<RevocationList>,
    clock: Arc<dyn Clock>,
    /// Whether the app is told of accounts.
    is_told: AtomicBool,
    pending: Mutex<HashMap<RevocationId, Pending>>,
}

/// A revocation whose commits have not all been answered.
struct Pending {
    commits: usize,
    /// It was published before, or one of the commits did not definitely fail.
    stays: bool,
}

impl Revoker {
    pub(super) fn new(store: Arc<dyn Store>, list: Arc<RevocationList>, clock: Arc<dyn Clock>) -> Self {
        Self { store, list, clock, is_told: AtomicBool::new(false), pending: Mutex::default() }
    }

    /// Whether commits tell the app of accounts from here on.
    pub(super) fn tell(&self, is_told: bool) {
        self.is_told.store(is_told, Ordering::SeqCst);
    }

    /// Whether one of these is revoked, or about to be.
    pub(super) fn has_any(&self, ids: &[RevocationId]) -> bool {
        ids.iter().any(|id| self.list.contains(*id))
    }

    /// Publishes the revocations among `changes`, then commits them all.
    pub(super) async fn commit(&self, mut changes: Vec<Change>) -> Result<Committed, StoreError> {
        if self.is_told.load(Ordering::SeqCst) && changes.iter().any(is_of_account) {
            changes.insert(0, Change::Tell { at: self.clock.now() });
        }
        let mut published = self.publish(&changes);
        let answer = self.store.commit(changes).await;
        published.stays = !answer.as_ref().is_err_and(is_definite);
        answer
    }

    fn publish(&self, changes: &[Change]) -> Published<'_> {
        let mut ids = Vec::new();
        for change in changes {
            let Change::Revoke(revocation) = change else { continue };
            self.publish_one(*revocation);
            ids.push(revocation.id);
        }
        Published { revoker: self, ids, stays: true }
    }

    fn publish_one(&self, revocation: Revocation) {
        let mut pending = self.pending();
        // In flight already: it is in the list, and inserting it again would make it stay there.
        let entry = pending
            .entry(revocation.id)
            .or_insert_with(|| Pending { commits: 0, stays: !self.list.insert(revocation) });
        entry.commits += 1;
    }

    fn settle(&self, id: RevocationId, stays: bool) {
        let mut pending = self.pending();
        let Some(entry) = pending.get_mut(&id) else { return };
        entry.commits -= 1;
        entry.stays |= stays;
        if entry.commits > 0 {
            return;
        }
        if !entry.stays {
            self.list.withdraw(id);
        }
        pending.remove(&id);
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<RevocationId, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Revocations of one commit that is under way. Dropped unanswered (the client went away) they stay.
struct Published<'a> {
    revoker: &'a Revoker,
    ids: Vec<RevocationId>,
    stays: bool,
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            self.revoker.settle(id, self.stays);
        }
    }
}

fn is_of_account(change: &Change) -> bool {
    matches!(
        change,
        Change::InsertAccount(_)
            | Change::InsertNumbered(_)
            | Change::UpdateAccount(_)
            | Change::RemoveAccount { .. }
    )
}

/// Whether the store said that nothing was applied, and not merely that it does not know.
fn is_definite(error: &StoreError) -> bool {
    match error {
        StoreError::NameTaken | StoreError::EmailTaken | StoreError::Conflict | StoreError::Full { .. } => {
            true
        }
        StoreError::Unavailable(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::store::memory::MemoryStore;
    use crate::token::revocation::RevocationKind;

    const ID: RevocationId = RevocationId(7);

    fn revoke() -> Vec<Change> {
        vec![Change::Revoke(Revocation {
            kind: RevocationKind::Token,
            id: ID,
            until: Timestamp::from_secs(9),
        })]
    }

    fn revoker() -> (Revoker, Arc<RevocationList>) {
        let list = Arc::new(RevocationList::new());
        let clock = Arc::new(crate::clock::SystemClock);
        (Revoker::new(Arc::new(MemoryStore::new()), Arc::clone(&list), clock), list)
    }

    fn end(mut published: Published<'_>, stays: bool) {
        published.stays = stays;
    }

    #[test]
    fn what_was_refused_is_taken_back() {
        let (revoker, list) = revoker();
        let published = revoker.publish(&revoke());
        assert!(list.contains(ID), "before the store has answered");
        end(published, false);
        assert!(!list.contains(ID));
        assert!(revoker.pending().is_empty());
    }

    #[test]
    fn what_was_committed_or_is_unknown_stays() {
        let (revoker, list) = revoker();
        drop(revoker.publish(&revoke()));
        assert!(list.contains(ID));
        end(revoker.publish(&revoke()), false);
        assert!(list.contains(ID), "it was revoked before");
    }

    #[test]
    fn a_refusal_does_not_take_back_what_another_commit_did() {
        for refused_first in [true, false] {
            let (revoker, list) = revoker();
            let (first, second) = (revoker.publish(&revoke()), revoker.publish(&revoke()));
            end(first, !refused_first);
            assert!(list.contains(ID), "one is still under way");
            end(second, refused_first);
            assert!(list.contains(ID));
        }
        let (revoker, list) = revoker();
        let (first, second) = (revoker.publish(&revoke()), revoker.publish(&revoke()));
        end(first, false);
        end(second, false);
        assert!(!list.contains(ID), "both were refused");
    }
}
