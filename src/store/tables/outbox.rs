//! What the app is to be told of accounts: written with the change that it tells of, removed when it was told.
//!
//! An account that changes again and again has one update waiting, the newest: it says all that the ones before
//! it did. So what waits of an account is bounded, whatever its user does.

use super::transaction::parse;
use super::{Key, Kind, Transaction};
use crate::clock::Timestamp;
use crate::identity::UserId;
use crate::store::{Account, Batch, Event, EventKind, EventUser, Outbox, StoreError};

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

/// Where the number is of an update that waits and is the account's last event. Not there for what was left
/// before there were such rows: that stays, and is told as it is.
fn waiting_update(user: &UserId) -> Key {
    Kind::WaitingUpdate.key(&[user.as_str().as_bytes()])
}

/// Leaves an event: of an account that is `before` and becomes `after`. What nobody can see leaves none. An
/// update takes the place of one that waits.
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
    let last = waiting_update(&account.id);
    match kind {
        EventKind::Updated => {
            if let Some(earlier) = rows.text(&last)? {
                take_out(rows, earlier)?;
            }
            rows.put(&last, number.to_string().into_bytes())?;
        }
        // No id is given twice.
        EventKind::Created => {}
        EventKind::Disabled | EventKind::Deleted => rows.remove(&last),
    }
    rows.put(&next(), (number + 1).to_string().into_bytes())?;
    rows.write(&row(number), &event)
}

/// Whether there is an event in what was written.
pub(in crate::store) fn is_left_by(batch: &Batch) -> bool {
    let events = batch.range([Kind::Event.prefix()].to_vec()..[Kind::Event.prefix() + 1].to_vec());
    events.into_iter().any(|(_, value)| value.is_some())
}

/// Forgets an event. Fine when it is gone already.
pub(super) fn forget(rows: &mut Transaction<'_>, number: u64) -> Result<(), StoreError> {
    let Some(event) = rows.read::<Event>(&row(number))? else { return Ok(()) };
    let last = waiting_update(&event.user.id);
    if rows.text(&last)? == Some(number) {
        rows.remove(&last);
    }
    take_out(rows, number)
}

fn take_out(rows: &mut Transaction<'_>, number: u64) -> Result<(), StoreError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{account, at};
    use crate::store::kv::Kv as _;
    use crate::store::memory::MemoryKv;

    /// Names that an account gets one after the other, each in a commit.
    fn rename(kv: &MemoryKv, given: &[&str], without_index: bool) {
        for text in given {
            let nothing = Batch::new();
            let mut rows = Transaction::over(kv, &nothing);
            let renamed = Account { name: Some((*text).to_owned()), ..account("alice") };
            leave(&mut rows, Some(&account("alice")), Some(&renamed), at(0)).unwrap();
            let mut changes = rows.into_changes();
            if without_index {
                // As it was written when every change left one more.
                changes.retain(|key, value| value.is_some() && key[0] != Kind::WaitingUpdate.prefix());
            }
            kv.apply(&changes).unwrap();
        }
    }

    fn left_in(kv: &MemoryKv) -> (Vec<String>, u64) {
        let nothing = Batch::new();
        let outbox = read(&Transaction::over(kv, &nothing), 0, 100).unwrap();
        (outbox.events.into_iter().filter_map(|event| event.user.name).collect(), outbox.pending)
    }

    #[test]
    fn an_outbox_of_before_is_kept_whole_and_grows_by_one() {
        let kv = MemoryKv::default();
        rename(&kv, &["a", "b", "c"], true);
        assert_eq!(left_in(&kv), (["a", "b", "c"].map(str::to_owned).to_vec(), 3));
        rename(&kv, &["d", "e", "f"], false);
        assert_eq!(left_in(&kv), (["a", "b", "c", "f"].map(str::to_owned).to_vec(), 4));
    }

    #[test]
    fn nothing_stays_of_what_was_told() {
        let kv = MemoryKv::default();
        rename(&kv, &["a", "b"], false);
        let nothing = Batch::new();
        let mut rows = Transaction::over(&kv, &nothing);
        for number in [0, 1] {
            forget(&mut rows, number).unwrap();
        }
        kv.apply(&rows.into_changes()).unwrap();
        assert_eq!(left_in(&kv), (vec![], 0));
        for kind in [Kind::Event, Kind::WaitingUpdate] {
            assert_eq!(kv.scan(&[kind.prefix()], &[], 10).unwrap(), vec![], "{kind:?}");
        }
    }
}
