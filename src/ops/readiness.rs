//! Whether this instance should get requests: the checks behind `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};

/// The store must have shown that it can write within this span.
const STORE_WITHIN: Duration = Duration::from_secs(5);

/// What readiness depends on. Upstreams do not count: an instance whose app is down still logs in people,
/// and taking all instances out of rotation would turn a 502 into nothing at all.
pub struct Readiness {
    clock: Arc<dyn Clock>,
    store_wrote_at: AtomicU64,
    keys: AtomicBool,
    draining: AtomicBool,
}

impl Readiness {
    /// Nothing is ready yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            store_wrote_at: AtomicU64::new(0),
            keys: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }
    /// The store has just written something durably.
    pub fn store_wrote(&self) {
        self.store_wrote_at.store(self.clock.now().millis(), Ordering::Relaxed);
    }
    /// The signing keys are there.
    pub fn keys_loaded(&self) {
        self.keys.store(true, Ordering::Relaxed);
    }
    /// The process is about to stop.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
    /// The checks that fail; none: ready.
    #[must_use]
    pub fn failing(&self) -> Vec<&'static str> {
        let wrote = Timestamp::from_millis(self.store_wrote_at.load(Ordering::Relaxed));
        let checks = [
            ("store", self.clock.now().since(wrote) > STORE_WITHIN),
            ("keys", !self.keys.load(Ordering::Relaxed)),
            ("draining", self.draining.load(Ordering::Relaxed)),
        ];
        checks.into_iter().filter_map(|(name, fails)| fails.then_some(name)).collect()
    }
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness").field("failing", &self.failing()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn readiness_names_what_is_missing() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000_000)));
        let readiness = Readiness::new(Arc::clone(&clock) as Arc<dyn Clock>);
        assert_eq!(readiness.failing(), ["store", "keys"]);
        readiness.keys_loaded();
        readiness.store_wrote();
        assert!(readiness.failing().is_empty());
        clock.advance(STORE_WITHIN);
        assert!(readiness.failing().is_empty());
        clock.advance(Duration::from_millis(1));
        assert_eq!(readiness.failing(), ["store"]);
        readiness.store_wrote();
        readiness.drain();
        assert_eq!(readiness.failing(), ["draining"]);
    }
}
