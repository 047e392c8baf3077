//! What the app is to be told of accounts: written with the change that it tells of, removed when it was told.

use super::transaction::parse;
use super::{Key, Kind, Transaction};
use crate::clock::Timestamp;
use crate::store::{Account, Event, EventKind, EventUser, Outbox, StoreError};

fn row(number: u64) -> Key {
    Kind::Event.key(&[&number.to_be_bytes()])
}

/// The number of the next event.
fn next() -> Key {
    Kind::Number.key(&[b"outbox"])
}

/// How many have left the outbox.
fn left() -> Key {
    Kind::Number.key(&[b"outbox-left"])
}

/// Leaves an event: of an account that is `before` and becomes `after`. What nobody can see leaves none.
pub(super) fn leave(
    rows: &mut Transaction<'_>,
    before: Option<&Account>,
    after: Option<&Account>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let (kind, account) = match (before, after) {
        (None, Some(made)) => (EventKind::Created, made),
        (Some(gone), None) => (EventKind::Deleted, gone),
        (Some(old), Some(new)) if EventUser::of(old) == EventUser::of(new) => return Ok(()),
        (Some(old), Some(new)) if new.disabled && !old.disabled => (EventKind::Disabled, new),
        (Some(_), Some(new)) => (EventKind::Updated, new),
        (None, None) => return Ok(()),
    };
    let number = rows.number(&next())?.unwrap_or(0);
    let id = format!("evt_{}", uuid::Uuid::new_v4().simple());
    let event = Event { number, id, kind, at, user: EventUser::of(account) };
    rows.put(&next(), (number + 1).to_string().into_bytes())?;
    rows.write(&row(number), &event)
}

/// Forgets an event. Fine when it is gone already.
pub(super) fn forget(rows: &mut Transaction<'_>, number: u64) -> Result<(), StoreError> {
    if !rows.exists(&row(number))? {
        return Ok(());
    }
    let gone = rows.number(&left())?.unwrap_or(0);
    rows.put(&left(), (gone + 1).to_string().into_bytes())?;
    rows.remove(&row(number));
    Ok(())
}

/// Events in the order of their numbers, from `from` on, and how many there are in all.
pub(in crate::store) fn read(rows: &Transaction<'_>, from: u64, limit: usize) -> Result<Outbox, StoreError> {
    let found = rows.scan(&Kind::Event.key(&[]), &row(from), limit)?;
    let events = found.iter().map(|(key, value)| parse(key, value)).collect::<Result<_, _>>()?;
    let made = rows.number(&next())?.unwrap_or(0);
    let gone = rows.number(&left())?.unwrap_or(0);
    Ok(Outbox { events, pending: made.saturating_sub(gone) })
}
