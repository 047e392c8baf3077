//! Revocations, a few hundred to a row: a million of them are some three thousand rows to load.
//!
//! They are gathered by the minute in which they run out, so that what has run out is whole rows; a
//! revocation stays until its minute is over. New ones go into the newest row of their minute, which
//! comes first in the order of the keys. Whether something is revoked is never asked here: all of
//! it is in memory (`token::revocation`), this is only what a restart finds.

use super::{Key, Kind, Removal, Transaction};
use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::token::revocation::{Revocation, RevocationId, RevocationKind};

/// The span of one bucket, in milliseconds.
const BUCKET: u64 = 60_000;
/// A revocation in bytes: kind, id, end.
const PACKED: usize = 1 + 16 + 8;
/// Revocations in a row; below [`MAX_VALUE`](super::MAX_VALUE).
const PER_ROW: usize = 300;
/// Rows that are looked at in one go.
const PAGE: usize = 256;

fn bucket_rows(bucket: u64) -> Key {
    Kind::Revocations.key(&[&bucket.to_be_bytes()])
}

/// The newest row has the smallest `left`.
fn row(bucket: u64, left: u32) -> Key {
    Kind::Revocations.key(&[&bucket.to_be_bytes(), &left.to_be_bytes()])
}

fn pack(revocation: &Revocation) -> [u8; PACKED] {
    let mut packed = [0; PACKED];
    packed[0] = match revocation.kind {
        RevocationKind::Token => b't',
        RevocationKind::Session => b's',
        RevocationKind::Generation => b'g',
    };
    packed[1..17].copy_from_slice(&revocation.id.0.to_be_bytes());
    packed[17..].copy_from_slice(&revocation.until.millis().to_be_bytes());
    packed
}

fn unpack(packed: &[u8]) -> Option<Revocation> {
    let (kind, rest) = packed.split_first()?;
    let kind = match kind {
        b't' => RevocationKind::Token,
        b's' => RevocationKind::Session,
        b'g' => RevocationKind::Generation,
        _ => return None,
    };
    let (id, until) = rest.split_first_chunk()?;
    let until = Timestamp::from_millis(u64::from_be_bytes(until.try_into().ok()?));
    Some(Revocation { kind, id: RevocationId(u128::from_be_bytes(*id)), until })
}

pub(super) fn insert(rows: &mut Transaction<'_>, revocation: Revocation) -> Result<(), StoreError> {
    let bucket = revocation.until.millis() / BUCKET;
    let packed = pack(&revocation);
    let within = bucket_rows(bucket);
    let newest = rows.scan(&within, &within, 1)?.pop();
    let Some((key, mut value)) = newest else { return rows.put(&row(bucket, u32::MAX), packed.to_vec()) };
    if value.chunks(PACKED).any(|other| other == packed) {
        return Ok(());
    }
    if value.len() + PACKED <= PER_ROW * PACKED {
        value.extend_from_slice(&packed);
        return rows.put(&key, value);
    }
    let left = key.tail().last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let left = left.and_then(|left| left.checked_sub(1)).ok_or_else(|| key.corrupt())?;
    rows.put(&row(bucket, left), packed.to_vec())
}

/// Each once. One that was revoked twice is there until the later end.
pub(in crate::store) fn all(rows: &Transaction<'_>) -> Result<Vec<Revocation>, StoreError> {
    let within = Kind::Revocations.key(&[]);
    let mut start = within.clone();
    let mut found = Vec::new();
    loop {
        let page = rows.scan(&within, &start, PAGE)?;
        for (key, value) in &page {
            let unpacked = value.chunks(PACKED).map(|packed| unpack(packed).ok_or_else(|| key.corrupt()));
            for revocation in unpacked {
                found.push(revocation?);
            }
        }
        let Some((last, _)) = page.into_iter().next_back() else { break };
        start = last;
        start.bytes.push(0);
    }
    found.sort_unstable_by_key(|r| (r.kind, r.id, std::cmp::Reverse(r.until)));
    found.dedup_by_key(|r| (r.kind, r.id));
    Ok(found)
}

/// Removes rows whose minute is over by `now`, at most `budget`.
pub(super) fn purge(
    rows: &mut Transaction<'_>,
    now: Timestamp,
    budget: &mut usize,
) -> Result<Removal, StoreError> {
    let within = Kind::Revocations.key(&[]);
    let mut removed = 0;
    loop {
        let page = rows.scan(&within, &within, PAGE)?;
        for (key, value) in &page {
            let bucket = key.tail().first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            let bucket = bucket.ok_or_else(|| key.corrupt())?;
            // The bucket's last millisecond: what ends then has run out then.
            let last = bucket.saturating_mul(BUCKET).saturating_add(BUCKET - 1);
            if last > now.millis() {
                return Ok(Removal { removed, more: false });
            }
            if *budget == 0 {
                return Ok(Removal { removed, more: true });
            }
            *budget -= 1;
            removed += value.len() / PACKED;
            rows.remove(key);
        }
        if page.is_empty() {
            return Ok(Removal { removed, more: false });
        }
    }
}
