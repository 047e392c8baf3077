//! The store in memory: for tests, and for whoever wants to look at the rules without a disk.
//!
//! The same engine and tables as the durable one, over a `BTreeMap`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::engine::{Engine, StoreOptions};
use super::kv::{Batch, Kv, KvError, Row};

/// A store that is gone when the last handle to its rows is.
pub type MemoryStore = Engine<MemoryKv>;

impl MemoryStore {
    /// An empty store.
    ///
    /// # Panics
    /// When the system has no thread left.
    #[must_use]
    pub fn new() -> Self {
        Self::over(MemoryKv::default(), 0, StoreOptions::default()).expect("a thread can be started")
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

/// The rows. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryKv(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl MemoryKv {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.rows().get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        let rows = self.rows();
        let from = (Bound::Included(start.max(prefix)), Bound::Unbounded);
        let found = rows.range::<[u8], _>(from).take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<(), KvError> {
        let mut rows = self.rows();
        for (key, value) in batch {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        Ok(())
    }

    fn free(&self) -> Result<Option<u64>, KvError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{self, each_behaviour};

    impl contract::Backend for MemoryKv {
        type Store = MemoryStore;
        fn open(&self) -> MemoryStore {
            Engine::over(self.clone(), 0, StoreOptions::default()).unwrap()
        }
    }

    each_behaviour!(MemoryKv::default());
}
