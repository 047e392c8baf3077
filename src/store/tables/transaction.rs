//! One job's view: the backend, under it what the group has changed so far, under that its own changes.

use std::ops::Bound;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Key, Kind, MAX_VALUE};
use crate::store::StoreError;
use crate::store::kv::{Batch, Kv, KvError};

/// Rows that a scan takes from the backend at a time.
const PAGE: usize = 256;

/// Reads see earlier changes of the group and of the job. Dropped, it leaves no trace.
pub(in crate::store) struct Transaction<'a> {
    kv: &'a dyn Kv,
    group: &'a Batch,
    own: Batch,
}

impl<'a> Transaction<'a> {
    pub(in crate::store) const fn over(kv: &'a dyn Kv, group: &'a Batch) -> Self {
        Self { kv, group, own: Batch::new() }
    }

    /// What the job changed.
    pub(in crate::store) fn into_changes(self) -> Batch {
        self.own
    }

    /// Another one with the same view, whose changes go nowhere. To be taken before anything is changed.
    pub(in crate::store) fn rehearsal(&self) -> Self {
        debug_assert!(self.own.is_empty());
        Self::over(self.kv, self.group)
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        let changed = self.own.get(&key.bytes).or_else(|| self.group.get(&key.bytes));
        match changed {
            Some(value) => Ok(value.clone()),
            None => self.kv.get(&key.bytes).map_err(unreadable),
        }
    }

    pub(super) fn exists(&self, key: &Key) -> Result<bool, StoreError> {
        Ok(self.get(key)?.is_some())
    }

    /// At most `limit` rows of a kind whose keys start with `within` and are not below `start`.
    pub(super) fn scan<'s>(
        &'s self,
        within: &Key,
        start: &Key,
        limit: usize,
    ) -> Result<Vec<(Key, Vec<u8>)>, StoreError> {
        let mut found = Vec::new();
        let mut start = start.bytes.clone();
        while found.len() < limit {
            let wanted = PAGE.min(limit - found.len());
            let page = self.kv.scan(&within.bytes, &start, wanted).map_err(unreadable)?;
            // A full page says nothing about what lies behind its last row, so nor may the changes.
            let last = (page.len() == wanted).then(|| page.last().map(|(key, _)| key.clone())).flatten();
            let end = last.as_deref().map_or(Bound::Unbounded, Bound::Included);
            let changed = |batch: &'s Batch| batch.range::<[u8], _>((Bound::Included(start.as_slice()), end));
            let ours = |row: &(&Vec<u8>, &Option<Vec<u8>>)| row.0.starts_with(&within.bytes);
            let mut kept = page.into_iter().peekable();
            let mut group = changed(self.group).take_while(ours).peekable();
            let mut own = changed(&self.own).take_while(ours).peekable();
            // One row at a time: a group's changes may be many, and a scan often wants one row.
            while found.len() < limit {
                let ahead = [
                    kept.peek().map(|row| &row.0),
                    group.peek().map(|row| row.0),
                    own.peek().map(|row| row.0),
                ];
                let Some(bytes) = ahead.into_iter().flatten().min().cloned() else { break };
                let kept = kept.next_if(|row| row.0 == bytes).map(|row| row.1);
                let group = group.next_if(|row| *row.0 == bytes).map(|row| row.1);
                let own = own.next_if(|row| *row.0 == bytes).map(|row| row.1);
                let value = own.or(group).map_or(kept, Clone::clone);
                found.extend(value.map(|value| (Key { kind: within.kind, bytes }, value)));
            }
            let Some(mut next) = last else { break };
            next.push(0);
            start = next;
        }
        Ok(found)
    }

    /// Refuses what is longer than [`MAX_VALUE`].
    pub(super) fn put(&mut self, key: &Key, value: Vec<u8>) -> Result<(), StoreError> {
        if value.len() > MAX_VALUE {
            let (noun, length) = (key.kind.noun(), value.len());
            let text = format!("a row is too long: {noun}, {length} bytes of at most {MAX_VALUE}");
            return Err(StoreError::Unavailable(text));
        }
        self.own.insert(key.bytes.clone(), Some(value));
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.own.insert(key.bytes.clone(), None);
    }

    /// A row that holds JSON. What does not parse is named by its kind only: it may hold a secret.
    pub(super) fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, StoreError> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        parse(key, &value).map(Some)
    }

    pub(super) fn write<T: Serialize>(&mut self, key: &Key, record: &T) -> Result<(), StoreError> {
        let value = serde_json::to_vec(record).map_err(|error| {
            StoreError::Unavailable(format!("a row cannot be written: {}: {error}", key.kind.noun()))
        })?;
        self.put(key, value)
    }

    /// A row that holds text of another type.
    pub(super) fn text<T: std::str::FromStr>(&self, key: &Key) -> Result<Option<T>, StoreError> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        let parsed = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or_else(|| key.corrupt())
    }

    pub(super) fn number(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        debug_assert_eq!(key.kind, Kind::Number);
        self.text(key)
    }
}

pub(super) fn parse<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|_| key.corrupt())
}

#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
fn unreadable(error: KvError) -> StoreError {
    StoreError::Unavailable(format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::MemoryKv;

    fn changes() -> impl Strategy<Value = Batch> {
        let key = proptest::collection::vec(0..4u8, 0..4).prop_map(|tail| [&b"k"[..], &tail].concat());
        proptest::collection::btree_map(key, proptest::option::of(any::<[u8; 1]>()), 0..40)
            .prop_map(|batch| batch.into_iter().map(|(key, value)| (key, value.map(Vec::from))).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_scan_shows_what_all_layers_together_hold(
            (kept, group, own) in (changes(), changes(), changes()),
            (within, start) in (proptest::collection::vec(0..4u8, 0..2), proptest::collection::vec(0..4u8, 0..3)),
            limit in 0..20usize,
        ) {
            let kv = MemoryKv::default();
            kv.apply(&kept).unwrap();
            let mut rows = Transaction::over(&kv, &group);
            rows.own.clone_from(&own);

            let mut all: BTreeMap<_, _> = kept;
            all.extend(group.clone());
            all.extend(own);
            let (within, start) = (Kind::Key.key(&[&within]), Kind::Key.key(&[&within, &start]));
            let expected: Vec<_> = all
                .into_iter()
                .filter(|(key, _)| key.starts_with(&within.bytes) && *key >= start.bytes)
                .filter_map(|(key, value)| Some((key, value?)))
                .take(limit)
                .collect();
            let found = rows.scan(&within, &start, limit).unwrap();
            let found: Vec<_> = found.into_iter().map(|(key, value)| (key.bytes, value)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
