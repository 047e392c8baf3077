//! Fills a store with revocations that have a day to live, for `benches/proxy.sh`: `fill DIRECTORY COUNT`.
//!
//! What a million revocations cost a request cannot be measured without them, and a million logouts
//! would take longer than the measurement.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gatepost::clock::{Clock as _, SystemClock};
use gatepost::identity::TokenId;
use gatepost::metrics::Metrics;
use gatepost::settings::StoreSettings;
use gatepost::store::{Change, SledStore, Store as _, StoreOptions};
use gatepost::token::revocation::{Revocation, RevocationId, RevocationKind};

/// Revocations in one commit.
const BATCH: usize = 1000;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    // Run by `cargo bench` without arguments there is nothing to fill.
    let (Some(path), Some(count)) = (arguments.next(), arguments.next()) else { return };
    let count: usize = count.parse().expect("COUNT is a number");
    let settings = StoreSettings { path: PathBuf::from(path), min_free: 0 };
    let metrics = Arc::new(Metrics::default());
    let options = StoreOptions { metrics, on_fatal: Box::new(|_| ()) }; // the commit fails too
    let store = SledStore::open(&settings, options).expect("the store opens");
    let until = SystemClock.now().plus(Duration::from_hours(24));
    let revocation = || {
        let id = RevocationId::token(&TokenId::random());
        Change::Revoke(Revocation { kind: RevocationKind::Token, id, until })
    };
    for start in (0..count).step_by(BATCH) {
        let changes = (start..count.min(start + BATCH)).map(|_| revocation()).collect();
        store.commit(changes).wait().expect("committed");
    }
    store.close();
}
