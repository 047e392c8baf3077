//! How often a password may be wrong: per account and address with a lockout that doubles, per
//! address over a window. In memory (a restart forgets it), and bounded: however many sources there
//! are, only so many are remembered, the ones seen again and again longest.
//!
//! Failures of one account count together, whether its name or its address was typed; names that
//! nobody has are counted like the others, or the difference would tell them apart. An attacker can
//! lock an account for his own address only, so its owner gets in from elsewhere.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::unsync::Cache;

use super::error::AccountError;
use crate::clock::Timestamp;
use crate::metrics::ThrottleScope;
use crate::settings::{Rate, ThrottleSettings};

/// Entries that each table remembers.
const CAPACITY: usize = 1 << 16;

/// Whose password was tried: an account or a name that nobody has, hashed with a key of this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Subject(u64);

/// Where from: an IPv4 address, or an IPv6 network of 64 bits, which one customer has to himself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Source(u128);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u128::from(v4.to_ipv6_mapped())),
            IpAddr::V6(v6) => Self(u128::from(v6) >> 64 << 64),
        }
    }
}

/// A limit that was hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Throttled {
    pub(super) scope: ThrottleScope,
    pub(super) retry_after: Duration,
}

impl From<Throttled> for AccountError {
    fn from(hit: Throttled) -> Self {
        Self::Throttled { scope: hit.scope, retry_after: hit.retry_after }
    }
}

/// What a password check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attempt {
    Right,
    Wrong,
}

/// Times within a span, the newest `limit` of them.
#[derive(Clone, Debug, Default)]
struct Recent(VecDeque<Timestamp>);

impl Recent {
    fn forget(&mut self, span: Duration, now: Timestamp) {
        while self.0.front().is_some_and(|&then| now.since(then) >= span) {
            self.0.pop_front();
        }
    }

    fn push(&mut self, now: Timestamp, limit: u32) {
        if self.0.len() >= limit as usize {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// How long until fewer than `limit` are left.
    fn wait(&self, rate: Rate, now: Timestamp) -> Option<Duration> {
        let first = self.0.front().filter(|_| self.0.len() >= rate.count as usize)?;
        Some(first.plus(rate.per).since(now))
    }
}

/// Failures of one subject from one source.
#[derive(Clone, Debug, Default)]
struct Failures {
    recent: Recent,
    /// Lockouts so far; the next one is `lockout` times two to the power of it.
    lockouts: u32,
    locked_until: Timestamp,
}

struct Tables {
    settings: ThrottleSettings,
    /// Registrations from one address.
    rate: Rate,
    accounts: Cache<(Subject, Source), Failures>,
    addresses: Cache<Source, Recent>,
    registrations: Cache<Source, Recent>,
}

/// The tables and their limits. A limit of 0 is none.
pub(super) struct Throttle {
    keyed: RandomState,
    tables: Mutex<Tables>,
}

impl Throttle {
    pub(super) fn new(settings: ThrottleSettings, registrations: Rate) -> Self {
        Self::with_capacity(settings, registrations, CAPACITY)
    }

    fn with_capacity(settings: ThrottleSettings, registrations: Rate, capacity: usize) -> Self {
        let tables = Tables {
            settings,
            rate: registrations,
            accounts: Cache::new(capacity),
            addresses: Cache::new(capacity),
            registrations: Cache::new(capacity),
        };
        Self { keyed: RandomState::new(), tables: Mutex::new(tables) }
    }

    /// Limits by other settings from here on. What was counted stays.
    pub(super) fn set(&self, settings: ThrottleSettings, registrations: Rate) {
        let mut tables = self.tables();
        tables.settings = settings;
        tables.rate = registrations;
    }

    /// The subject of an account that exists, by its id.
    pub(super) fn account(&self, id: &str) -> Subject {
        Subject(self.keyed.hash_one(("account", id)))
    }

    /// The subject of a name that nobody has.
    pub(super) fn nobody(&self, name: &str) -> Subject {
        Subject(self.keyed.hash_one(("nobody", name)))
    }

    /// Whether a password may be tried.
    pub(super) fn check(&self, who: Subject, from: IpAddr, now: Timestamp) -> Result<(), Throttled> {
        self.tables().refusal(who, from.into(), now)
    }

    /// Counts a try. Of tries that ran at the same time, those that end after the limit was hit are
    /// refused, right or wrong: they must not tell more than the limit allows.
    pub(super) fn settle(
        &self,
        who: Subject,
        from: IpAddr,
        attempt: Attempt,
        now: Timestamp,
    ) -> Result<(), Throttled> {
        let (mut tables, from) = (self.tables(), Source::from(from));
        tables.refusal(who, from, now)?;
        match attempt {
            // What the address has on its account stays: one good password of his own must not let
            // somebody try a thousand others.
            Attempt::Right => drop(tables.accounts.remove(&(who, from))),
            Attempt::Wrong => tables.count(who, from, now),
        }
        Ok(())
    }

    /// Forgets all failures of an account.
    pub(super) fn unlock(&self, who: Subject) {
        self.tables().accounts.retain(|(subject, _), _| *subject != who);
    }

    /// Counts a registration.
    pub(super) fn register(&self, from: IpAddr, now: Timestamp) -> Result<(), Throttled> {
        let (mut tables, from) = (self.tables(), Source::from(from));
        let rate = tables.rate;
        if rate.count == 0 {
            return Ok(());
        }
        let mut made = tables.registrations.get(&from).cloned().unwrap_or_default();
        made.forget(rate.per, now);
        if let Some(retry_after) = made.wait(rate, now) {
            return Err(Throttled { scope: ThrottleScope::Registration, retry_after });
        }
        made.push(now, rate.count);
        tables.registrations.insert(from, made);
        Ok(())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn refusal(&self, who: Subject, from: Source, now: Timestamp) -> Result<(), Throttled> {
        let locked = self.accounts.get(&(who, from)).map(|failures| failures.locked_until);
        if let Some(until) = locked.filter(|&until| until > now) {
            return Err(Throttled { scope: ThrottleScope::Account, retry_after: until.since(now) });
        }
        let rate = Rate { count: self.settings.per_address, per: self.settings.window };
        if let Some(mut recent) = self.addresses.get(&from).filter(|_| rate.count > 0).cloned() {
            recent.forget(rate.per, now);
            if let Some(retry_after) = recent.wait(rate, now) {
                return Err(Throttled { scope: ThrottleScope::Address, retry_after });
            }
        }
        Ok(())
    }

    fn count(&mut self, who: Subject, from: Source, now: Timestamp) {
        let ThrottleSettings { failures: limit, per_address, window, .. } = self.settings;
        if limit > 0 {
            let mut failures = self.accounts.get(&(who, from)).cloned().unwrap_or_default();
            failures.recent.forget(window, now);
            if now.since(failures.locked_until) >= window {
                failures.lockouts = 0;
            }
            failures.recent.push(now, limit);
            if failures.recent.0.len() >= limit as usize {
                failures.locked_until = now.plus(self.lockout(failures.lockouts));
                failures.lockouts = failures.lockouts.saturating_add(1);
            }
            self.accounts.insert((who, from), failures);
        }
        if per_address > 0 {
            let mut recent = self.addresses.get(&from).cloned().unwrap_or_default();
            recent.forget(window, now);
            recent.push(now, per_address);
            self.addresses.insert(from, recent);
        }
    }

    fn lockout(&self, earlier: u32) -> Duration {
        let factor = 1u32.checked_shl(earlier).unwrap_or(u32::MAX);
        self.settings.lockout.saturating_mul(factor).min(self.settings.lockout_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const START: Timestamp = Timestamp::from_secs(1_000_000);

    fn throttle() -> Throttle {
        let settings = ThrottleSettings {
            failures: 3,
            per_address: 10,
            window: 15 * MINUTE,
            lockout: MINUTE,
            lockout_max: 5 * MINUTE,
        };
        Throttle::with_capacity(settings, Rate { count: 2, per: 60 * MINUTE }, 100)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn fail(throttle: &Throttle, who: Subject, from: &str, now: Timestamp) -> Result<(), Throttled> {
        throttle.settle(who, ip(from), Attempt::Wrong, now)
    }

    fn retry(result: Result<(), Throttled>) -> Option<(ThrottleScope, u64)> {
        result.err().map(|hit| (hit.scope, hit.retry_after.as_secs()))
    }

    #[test]
    fn lockouts_double_up_to_the_longest() {
        let throttle = throttle();
        let who = throttle.account("1");
        let mut now = START;
        for _ in 0..3 {
            assert_eq!(throttle.check(who, ip("192.0.2.1"), now), Ok(()));
            assert_eq!(fail(&throttle, who, "192.0.2.1", now), Ok(()));
        }
        for minutes in [1, 2, 4, 5, 5] {
            let expected = Some((ThrottleScope::Account, minutes * 60));
            assert_eq!(retry(throttle.check(who, ip("192.0.2.1"), now)), expected);
            now = now.plus(MINUTE * u32::try_from(minutes).expect("small"));
            // The lock is over; the failures before it still count, so the next one locks again.
            assert_eq!(fail(&throttle, who, "192.0.2.1", now), Ok(()), "after {minutes} minutes");
        }
    }

    #[test]
    fn a_failure_counts_for_the_window_only() {
        let throttle = throttle();
        let who = throttle.account("1");
        for n in 0..10 {
            let now = START.plus(8 * MINUTE * n);
            assert_eq!(fail(&throttle, who, "192.0.2.1", now), Ok(()), "failure {n}");
        }
    }

    #[test]
    fn an_account_is_locked_for_one_source_only() {
        let throttle = throttle();
        let (who, other) = (throttle.account("1"), throttle.account("2"));
        for _ in 0..3 {
            assert_eq!(fail(&throttle, who, "192.0.2.1", START), Ok(()));
        }
        for (subject, from, free) in [
            (who, "192.0.2.1", false),
            (who, "::ffff:192.0.2.1", false),
            (who, "192.0.2.2", true),
            (who, "2001:db8::1", true),
            (other, "192.0.2.1", true),
        ] {
            assert_eq!(throttle.check(subject, ip(from), START).is_ok(), free, "{from}");
        }
        throttle.unlock(other);
        assert!(throttle.check(who, ip("192.0.2.1"), START).is_err());
        throttle.unlock(who);
        assert!(throttle.check(who, ip("192.0.2.1"), START).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let throttle = throttle();
        let who = throttle.nobody("ghost");
        for n in 0..3 {
            assert_eq!(fail(&throttle, who, &format!("2001:db8:0:1::{n}"), START), Ok(()));
        }
        assert!(throttle.check(who, ip("2001:db8:0:1:ffff::9"), START).is_err());
        assert!(throttle.check(who, ip("2001:db8:0:2::1"), START).is_ok());
    }

    #[test]
    fn an_address_has_a_limit_over_all_names_and_a_right_password_does_not_lift_it() {
        let throttle = throttle();
        for n in 0..9 {
            let who = throttle.nobody(&n.to_string());
            assert_eq!(fail(&throttle, who, "192.0.2.1", START), Ok(()));
        }
        let own = throttle.account("mine");
        assert_eq!(throttle.settle(own, ip("192.0.2.1"), Attempt::Right, START), Ok(()));
        assert_eq!(fail(&throttle, throttle.nobody("x"), "192.0.2.1", START.plus(MINUTE)), Ok(()));
        let hit = retry(throttle.check(own, ip("192.0.2.1"), START.plus(MINUTE)));
        assert_eq!(hit, Some((ThrottleScope::Address, 14 * 60)));
        assert_eq!(throttle.check(own, ip("192.0.2.2"), START), Ok(()));
        assert_eq!(throttle.check(own, ip("192.0.2.1"), START.plus(15 * MINUTE)), Ok(()));
    }

    #[test]
    fn a_right_password_clears_the_failures_of_its_account() {
        let throttle = throttle();
        let who = throttle.account("1");
        for _ in 0..3 {
            for _ in 0..2 {
                assert_eq!(fail(&throttle, who, "192.0.2.1", START), Ok(()));
            }
            assert_eq!(throttle.settle(who, ip("192.0.2.1"), Attempt::Right, START), Ok(()));
        }
    }

    #[test]
    fn tries_that_end_after_the_limit_learn_nothing() {
        let throttle = throttle();
        let who = throttle.account("1");
        for _ in 0..8 {
            assert_eq!(throttle.check(who, ip("192.0.2.1"), START), Ok(()), "all start before one ends");
        }
        let told = (0..7).filter(|_| fail(&throttle, who, "192.0.2.1", START).is_ok()).count();
        assert_eq!(told, 3);
        assert!(throttle.settle(who, ip("192.0.2.1"), Attempt::Right, START).is_err());
    }

    #[test]
    fn registrations_are_counted_by_source() {
        let throttle = throttle();
        assert_eq!(throttle.register(ip("192.0.2.1"), START), Ok(()));
        assert_eq!(throttle.register(ip("192.0.2.1"), START.plus(MINUTE)), Ok(()));
        let hit = retry(throttle.register(ip("192.0.2.1"), START.plus(2 * MINUTE)));
        assert_eq!(hit, Some((ThrottleScope::Registration, 58 * 60)));
        assert_eq!(throttle.register(ip("192.0.2.2"), START), Ok(()));
        assert_eq!(throttle.register(ip("192.0.2.1"), START.plus(60 * MINUTE)), Ok(()));
    }

    #[test]
    fn a_flood_of_sources_is_not_remembered_and_does_not_free_who_keeps_failing() {
        let throttle = throttle();
        let who = throttle.account("1");
        for _ in 0..3 {
            assert_eq!(fail(&throttle, who, "192.0.2.1", START), Ok(()));
        }
        for n in 0..100_000u32 {
            let from = IpAddr::from(n.to_be_bytes());
            let _ = throttle.settle(throttle.nobody("ghost"), from, Attempt::Wrong, START);
            let _ = throttle.register(from, START);
            if n % 50 == 0 {
                assert!(throttle.check(who, ip("192.0.2.1"), START).is_err(), "after {n} others");
            }
        }
        let tables = throttle.tables();
        assert!(tables.accounts.len() <= 100 && tables.addresses.len() <= 100);
        assert!(tables.registrations.len() <= 100);
    }
}
