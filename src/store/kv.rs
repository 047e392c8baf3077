//! The little that a backend has to do: ordered bytes, read and written in atomic batches.
//!
//! Everything with a meaning (which rows there are, what may be in them) is above, in `tables`; when
//! to make a batch durable is decided in `engine`. A backend is used by one thread at a time.

use std::collections::BTreeMap;

/// A row's key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// What a commit changes: a value to write, or `None` to remove the row.
pub type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A backend's own fault, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KvError(pub String);

/// An ordered map from bytes to bytes.
pub trait Kv: Send + 'static {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    /// Rows whose keys start with `prefix` and are not below `start`, in ascending order, at most `limit`.
    fn scan(&self, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Row>, KvError>;
    /// Applies the batch: after a crash all of it is there, or none.
    fn apply(&self, batch: &Batch) -> Result<(), KvError>;
    /// Returns when everything applied so far survives a loss of power.
    fn sync(&self) -> Result<(), KvError>;
    /// Bytes left where the rows are kept; `None` where that is not known or does not matter.
    fn free(&self) -> Result<Option<u64>, KvError>;
}
