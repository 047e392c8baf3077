//! What the rows mean: typed records and their indices over a backend's bytes.
//!
//! | first byte | then | value |
//! |---|---|---|
//! | `!` | `schema`, `probe`, `next-id`, `outbox`, `outbox-left` | a decimal number |
//! | `a` | user id | the account, JSON |
//! | `d` | user id | empty: the account was removed, the id stays taken |
//! | `n` | name | the user id that it belongs to, or belonged to |
//! | `e` | e-mail key | user id |
//! | `f` | SHA-256 of an e-mail key | empty: an account had this address, and was removed or got another one |
//! | `s` | session id | the session and where `x` has it, JSON |
//! | `u` | user id, 0, `created_at`, session id | empty: a user's sessions, oldest first |
//! | `x` | end, session id | empty: sessions by their end, or something earlier |
//! | `r` | bucket, rows left in it | packed revocations |
//! | `k` | key id | the key, JSON |
//! | `o` | a number | what the app is to be told, JSON |
//! | `w` | user id | the number in `o` of an update that waits, where nothing came after it |
//! | `c` | a number | a piece of what an ACME authority knows us by, JSON |
//!
//! Numbers in keys are big-endian, so that the order of the bytes is their order. A change checks what
//! it needs first; when a later change of the same commit is refused, the caller throws the transaction
//! away, so nothing of it happened.

pub(super) mod accounts;
pub(super) mod acme;
pub(super) mod keys;
pub(super) mod outbox;
pub(super) mod revocations;
pub(super) mod sessions;
mod transaction;

pub(super) use transaction::Transaction;

use super::{Change, Committed, Purged, StoreError};
use crate::clock::Timestamp;
use crate::identity::{SessionId, UserId};

/// The version of the table above. A store written by a newer one is not opened.
pub(super) const SCHEMA: u64 = 1;

/// The longest value, in bytes. Far below the size from which sled keeps values in files of their own,
/// which it never syncs.
pub(super) const MAX_VALUE: usize = 8 * 1024;

/// Rows that one purge step removes at most, so that the backend's own cleaning keeps up.
const PURGE_ROWS: usize = 1000;

/// What a row is, which is also where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number = b'!' as isize,
    Account = b'a' as isize,
    RemovedId = b'd' as isize,
    Name = b'n' as isize,
    Email = b'e' as isize,
    FormerEmail = b'f' as isize,
    Session = b's' as isize,
    UserSession = b'u' as isize,
    SessionEnd = b'x' as isize,
    Revocations = b'r' as isize,
    Key = b'k' as isize,
    Acme = b'c' as isize,
    Event = b'o' as isize,
    WaitingUpdate = b'w' as isize,
}

impl Kind {
    /// For messages.
    const fn noun(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Account => "account",
            Self::RemovedId => "removed id",
            Self::Name => "username",
            Self::Email => "e-mail address",
            Self::FormerEmail => "former e-mail address",
            Self::Session => "session",
            Self::UserSession => "user's session",
            Self::SessionEnd => "session end",
            Self::Revocations => "revocations",
            Self::Key => "key",
            Self::Acme => "ACME state",
            Self::Event => "event",
            Self::WaitingUpdate => "waiting update",
        }
    }

    /// The key of a row of this kind.
    fn key(self, parts: &[&[u8]]) -> Key {
        let mut bytes = vec![self.prefix()];
        for part in parts {
            bytes.extend_from_slice(part);
        }
        Key { kind: self, bytes }
    }

    const fn prefix(self) -> u8 {
        self as u8
    }
}

/// Where a row is, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    kind: Kind,
    bytes: Vec<u8>,
}

impl Key {
    /// What follows the kind.
    fn tail(&self) -> &[u8] {
        self.bytes.get(1..).unwrap_or_default()
    }

    fn corrupt(&self) -> StoreError {
        StoreError::Unavailable(format!("a row cannot be read: {}", self.kind.noun()))
    }
}

/// Applies the changes one after the other, each on top of the ones before it.
pub(super) fn commit(rows: &mut Transaction<'_>, changes: Vec<Change>) -> Result<Committed, StoreError> {
    let (mut ended, mut numbered) = (Vec::new(), Vec::new());
    // Since when changes of accounts are told, if they are.
    let mut told = None;
    for change in changes {
        match change {
            Change::Tell { at } => told = Some(at),
            Change::InsertAccount(account) => {
                accounts::insert(rows, account.clone())?;
                if let Some(at) = told {
                    outbox::leave(rows, None, Some(&account), at)?;
                }
            }
            Change::InsertNumbered(account) => {
                let account = accounts::insert_numbered(rows, account)?;
                if let Some(at) = told {
                    outbox::leave(rows, None, Some(&account), at)?;
                }
                numbered.push(account.id);
            }
            Change::UpdateAccount(account) => {
                let before = accounts::update(rows, account.clone())?;
                if let Some(at) = told {
                    outbox::leave(rows, Some(&before), Some(&account), at)?;
                }
            }
            Change::RemoveAccount { id, version } => {
                let gone = accounts::remove(rows, &id, version)?;
                if let Some(at) = told {
                    outbox::leave(rows, Some(&gone), None, at)?;
                }
                end_sessions(rows, &id, None, &mut ended)?;
            }
            Change::ExpectAccount { id, version } => {
                accounts::expect(rows, &id, version)?;
            }
            Change::ExpectNewAddress(email) => accounts::expect_new_address(rows, &email)?,
            Change::InsertSession(session) => sessions::insert(rows, session)?,
            Change::UpdateSession(session) => sessions::update(rows, session)?,
            Change::EndSession(id) => ended.extend(sessions::end(rows, id)?),
            Change::EndSessions { user, except } => end_sessions(rows, &user, except, &mut ended)?,
            Change::Revoke(revocation) => revocations::insert(rows, revocation)?,
            Change::InsertKey(key) => keys::insert(rows, &key)?,
            Change::Told { number } => outbox::forget(rows, number)?,
            Change::PutAcme(state) => acme::put(rows, *state)?,
        }
    }
    Ok(Committed { ended, numbered })
}

fn end_sessions(
    rows: &mut Transaction<'_>,
    user: &UserId,
    except: Option<SessionId>,
    ended: &mut Vec<SessionId>,
) -> Result<(), StoreError> {
    for id in sessions::ids_of_user(rows, user)? {
        if Some(id) != except {
            ended.extend(sessions::end(rows, id)?);
        }
    }
    Ok(())
}

/// What one bounded part of a purge did.
pub(super) struct PurgeStep {
    pub(super) purged: Purged,
    /// Whether something that has run out may be left.
    pub(super) more: bool,
}

/// Removes what has run out by `now`, at most [`PURGE_ROWS`] rows of it.
pub(super) fn purge_step(rows: &mut Transaction<'_>, now: Timestamp) -> Result<PurgeStep, StoreError> {
    let mut budget = PURGE_ROWS;
    let sessions = sessions::purge(rows, now, &mut budget)?;
    let revocations = revocations::purge(rows, now, &mut budget)?;
    let more = sessions.more || revocations.more;
    Ok(PurgeStep { purged: Purged { sessions: sessions.removed, revocations: revocations.removed }, more })
}

/// A purge of one table.
struct Removal {
    removed: usize,
    more: bool,
}

/// Writes a row that says nothing, to see whether that works.
pub(super) fn probe(rows: &mut Transaction<'_>) -> Result<(), StoreError> {
    let key = Kind::Number.key(&[b"probe"]);
    let before = rows.number(&key)?.unwrap_or(0);
    rows.put(&key, before.wrapping_add(1).to_string().into_bytes())
}

/// The version that wrote the store; `None` in one that nobody has written yet.
pub(super) fn schema(rows: &Transaction<'_>) -> Result<Option<u64>, StoreError> {
    rows.number(&Kind::Number.key(&[b"schema"]))
}

/// Marks the store as written by this version.
pub(super) fn set_schema(rows: &mut Transaction<'_>, version: u64) -> Result<(), StoreError> {
    rows.put(&Kind::Number.key(&[b"schema"]), version.to_string().into_bytes())
}
