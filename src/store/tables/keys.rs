//! The gateway's own keys.

use super::transaction::parse;
use super::{Key, Kind, Transaction};
use crate::store::{StoreError, StoredKey};

fn row(id: &str) -> Key {
    Kind::Key.key(&[id.as_bytes()])
}

pub(super) fn insert(rows: &mut Transaction<'_>, key: &StoredKey) -> Result<(), StoreError> {
    if rows.exists(&row(&key.id))? {
        return Err(StoreError::Conflict);
    }
    rows.write(&row(&key.id), key)
}

/// Oldest first; of one age, by id.
pub(in crate::store) fn all(rows: &Transaction<'_>) -> Result<Vec<StoredKey>, StoreError> {
    let within = Kind::Key.key(&[]);
    let found = rows.scan(&within, &within, usize::MAX)?;
    let mut keys: Vec<StoredKey> =
        found.iter().map(|(key, value)| parse(key, value)).collect::<Result<_, _>>()?;
    keys.sort_by(|a, b| a.created_at.cmp(&b.created_at).then_with(|| a.id.cmp(&b.id)));
    Ok(keys)
}
