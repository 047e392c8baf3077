//! What is known to a certificate authority: one record, in as many rows as its length needs.

use super::{Key, Kind, MAX_VALUE, Transaction};
use crate::store::{AcmeState, StoreError};

/// A chain for the most names that one certificate can have, with room to spare.
const MAX_ROWS: usize = 16;

fn row(index: usize) -> Key {
    Kind::Acme.key(&[&[u8::try_from(index).unwrap_or(u8::MAX)]])
}

pub(in crate::store) fn find(rows: &Transaction<'_>) -> Result<Option<AcmeState>, StoreError> {
    let within = Kind::Acme.key(&[]);
    let found = rows.scan(&within, &within, MAX_ROWS)?;
    if found.is_empty() {
        return Ok(None);
    }
    let bytes = zeroize::Zeroizing::new(found.into_iter().flat_map(|(_, value)| value).collect::<Vec<_>>());
    serde_json::from_slice(&bytes).map(Some).map_err(|_| within.corrupt())
}

/// Writes the record anew. `version` is the one that was read, 0 for none.
pub(super) fn put(rows: &mut Transaction<'_>, state: AcmeState) -> Result<(), StoreError> {
    let newest = find(rows)?.map_or(0, |state| state.version);
    if newest != state.version {
        return Err(StoreError::Conflict);
    }
    let state = AcmeState { version: newest + 1, ..state };
    let bytes = serde_json::to_vec(&state).map(zeroize::Zeroizing::new).map_err(|error| {
        StoreError::Unavailable(format!("a row cannot be written: {}: {error}", Kind::Acme.noun()))
    })?;
    let pieces: Vec<&[u8]> = bytes.chunks(MAX_VALUE).collect();
    if pieces.len() > MAX_ROWS {
        let text = format!("{} is too long: {} bytes", Kind::Acme.noun(), bytes.len());
        return Err(StoreError::Unavailable(text));
    }
    for (index, piece) in pieces.iter().enumerate() {
        rows.put(&row(index), piece.to_vec())?;
    }
    for index in pieces.len()..MAX_ROWS {
        if rows.exists(&row(index))? {
            rows.remove(&row(index));
        }
    }
    Ok(())
}
