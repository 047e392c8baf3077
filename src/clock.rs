//! Time as an argument: everything that decides by time takes a [`Clock`] or a [`Timestamp`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }
    /// From seconds since the epoch, the unit of a token's `exp` (RFC 7519 section 2, `NumericDate`).
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }
    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }
    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }
    /// This much later.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
    /// As RFC 3339 has it, in UTC with whole seconds: enough for people.
    #[must_use]
    pub fn rfc3339(self) -> String {
        humantime::format_rfc3339_seconds(self.in_calendar()).to_string()
    }
    /// As RFC 3339 has it, in UTC with milliseconds.
    #[must_use]
    pub fn rfc3339_millis(self) -> String {
        humantime::format_rfc3339_millis(self.in_calendar()).to_string()
    }
    /// Years past 9999 have no RFC 3339 form; a clock (or a token) that says so is broken, which is no
    /// reason to panic.
    fn in_calendar(self) -> SystemTime {
        self.min(Self::from_secs(253_402_300_799)).into()
    }
    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(time.0)
    }
}

/// Says what time it is.
pub trait Clock: Send + Sync + 'static {
    /// Now, by the wall.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
        SystemTime::now().into()
    }
}

/// A clock that moves when it is told to; for tests.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.millis()))
    }
    /// Moves the clock forward.
    pub fn advance(&self, span: Duration) {
        self.0.store(self.now().plus(span).millis(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc_whatever_the_year() {
        let time = Timestamp::from_millis(1_767_323_045_678);
        assert_eq!(time.rfc3339_millis(), "2026-01-02T03:04:05.678Z");
        assert_eq!(time.rfc3339(), "2026-01-02T03:04:05Z");
        let broken = Timestamp::from_millis(u64::MAX);
        assert_eq!(broken.rfc3339_millis(), "9999-12-31T23:59:59.000Z");
        assert_eq!(broken.rfc3339(), "9999-12-31T23:59:59Z");
    }
}
