//! Sessions: by id, by user, and by when they end.
//!
//! The index of ends is lazy: a refresh that extends a session does not move its entry, the purge does when
//! it comes upon it. So an entry is never later than its session's end, and most refreshes write one row.

use serde::{Deserialize, Serialize};

use super::transaction::parse;
use super::{Key, Kind, Removal, Transaction};
use crate::clock::Timestamp;
use crate::identity::{SessionId, UserId};
use crate::store::{Session, StoreError};

/// Entries that the purge looks at in one go.
const PAGE: usize = 256;
/// Rows that a session has: itself and its two index entries.
const ROWS: usize = 3;

#[derive(Serialize, Deserialize)]
struct SessionRow {
    /// Where the index of ends has it.
    indexed: Timestamp,
    session: Session,
}

fn row(id: SessionId) -> Key {
    Kind::Session.key(&[id.as_bytes()])
}

fn user_rows(user: &UserId) -> Key {
    // No user id holds a 0, so none is the beginning of another one's keys.
    Kind::UserSession.key(&[user.as_str().as_bytes(), &[0]])
}

fn user_row(session: &Session) -> Key {
    let created = session.created_at.millis().to_be_bytes();
    Kind::UserSession.key(&[session.user.as_str().as_bytes(), &[0], &created, session.id.as_bytes()])
}

fn end_row(end: Timestamp, id: SessionId) -> Key {
    Kind::SessionEnd.key(&[&end.millis().to_be_bytes(), id.as_bytes()])
}

fn end_of(session: &Session) -> Timestamp {
    session.expires_at.min(session.ends_at)
}

/// The id at the end of an index entry's key.
fn id_in(key: &Key) -> Result<SessionId, StoreError> {
    key.tail().last_chunk().map(|bytes| SessionId::from_bytes(*bytes)).ok_or_else(|| key.corrupt())
}

pub(in crate::store) fn find(rows: &Transaction<'_>, id: SessionId) -> Result<Option<Session>, StoreError> {
    let found: Option<SessionRow> = rows.read(&row(id))?;
    Ok(found.map(|found| found.session))
}

pub(in crate::store) fn of_user(rows: &Transaction<'_>, user: &UserId) -> Result<Vec<Session>, StoreError> {
    let ids = ids_of_user(rows, user)?;
    let found: Result<Vec<_>, _> = ids.into_iter().map(|id| find(rows, id)).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// Oldest first.
pub(super) fn ids_of_user(rows: &Transaction<'_>, user: &UserId) -> Result<Vec<SessionId>, StoreError> {
    let within = user_rows(user);
    let entries = rows.scan(&within, &within, usize::MAX)?;
    entries.iter().map(|(key, _)| id_in(key)).collect()
}

pub(super) fn insert(rows: &mut Transaction<'_>, mut session: Session) -> Result<(), StoreError> {
    if rows.exists(&row(session.id))? {
        return Err(StoreError::Conflict);
    }
    session.version = 1;
    let indexed = end_of(&session);
    rows.put(&user_row(&session), Vec::new())?;
    rows.put(&end_row(indexed, session.id), Vec::new())?;
    rows.write(&row(session.id), &SessionRow { indexed, session })
}

pub(super) fn update(rows: &mut Transaction<'_>, mut session: Session) -> Result<(), StoreError> {
    let before: Option<SessionRow> = rows.read(&row(session.id))?;
    let before = before.filter(|before| before.session.version == session.version);
    let Some(SessionRow { mut indexed, session: old }) = before else { return Err(StoreError::Conflict) };
    if user_row(&old) != user_row(&session) {
        rows.remove(&user_row(&old));
        rows.put(&user_row(&session), Vec::new())?;
    }
    let end = end_of(&session);
    if end < indexed {
        rows.remove(&end_row(indexed, session.id));
        rows.put(&end_row(end, session.id), Vec::new())?;
        indexed = end;
    }
    session.version += 1;
    rows.write(&row(session.id), &SessionRow { indexed, session })
}

/// Ends a session; says which if it was alive.
pub(super) fn end(rows: &mut Transaction<'_>, id: SessionId) -> Result<Option<SessionId>, StoreError> {
    let found: Option<SessionRow> = rows.read(&row(id))?;
    let Some(SessionRow { indexed, session }) = found else { return Ok(None) };
    rows.remove(&user_row(&session));
    rows.remove(&end_row(indexed, id));
    rows.remove(&row(id));
    Ok(Some(id))
}

/// Removes sessions that have ended by `now`, for at most `budget` rows.
pub(super) fn purge(
    rows: &mut Transaction<'_>,
    now: Timestamp,
    budget: &mut usize,
) -> Result<Removal, StoreError> {
    let within = Kind::SessionEnd.key(&[]);
    let mut start = within.clone();
    let mut removed = 0;
    loop {
        let entries = rows.scan(&within, &start, PAGE)?;
        for (key, _) in &entries {
            let end =
                key.tail().first_chunk().map(|bytes| Timestamp::from_millis(u64::from_be_bytes(*bytes)));
            if end.ok_or_else(|| key.corrupt())? > now {
                return Ok(Removal { removed, more: false });
            }
            if *budget < ROWS {
                return Ok(Removal { removed, more: true });
            }
            removed += usize::from(purge_entry(rows, key, now, budget)?);
        }
        let Some((last, _)) = entries.into_iter().next_back() else {
            return Ok(Removal { removed, more: false });
        };
        start = last;
        start.bytes.push(0);
    }
}

/// Whether the entry's session had ended; otherwise the entry moved to where it belongs.
fn purge_entry(
    rows: &mut Transaction<'_>,
    entry: &Key,
    now: Timestamp,
    budget: &mut usize,
) -> Result<bool, StoreError> {
    let id = id_in(entry)?;
    let found = match rows.get(&row(id))? {
        Some(value) => match parse::<SessionRow>(&row(id), &value) {
            Ok(found) => Some(found),
            // Nobody can tell when it ends. One bad row must not keep all others from being purged.
            Err(_) => return Ok(false),
        },
        None => None,
    };
    *budget -= ROWS;
    rows.remove(entry);
    let Some(SessionRow { session, .. }) = found else { return Ok(false) };
    let indexed = end_of(&session);
    if indexed <= now {
        return Ok(end(rows, id)?.is_some());
    }
    rows.put(&end_row(indexed, id), Vec::new())?;
    rows.write(&row(id), &SessionRow { indexed, session })?;
    Ok(false)
}
