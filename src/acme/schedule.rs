//! When to order: pure arithmetic over the certificate's validity and the failures so far.

use std::time::Duration;

use crate::tls::ChallengeKind;

/// The longest sleep: a clock that is set in between is noticed.
const LOOK_EVERY: Duration = Duration::from_hours(1);
/// After the first failure, doubling. Let's Encrypt takes five failed validations an hour.
const FIRST_WAIT: Duration = Duration::from_mins(2);
/// After many failures.
const LONGEST_WAIT: Duration = Duration::from_hours(6);
/// After "you have asked too often": their limits are by the hour and longer.
const RATE_LIMIT_WAIT: Duration = Duration::from_hours(1);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing for so long, then ask again.
    Wait(Duration),
    /// Order now; the first attempt after a success is 0.
    Order {
        /// How often it has failed since then.
        attempt: u32,
    },
}

/// The state between orders.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    failures: u32,
    /// When the present certificate is renewed, drawn once for each.
    renewal: Option<((i64, i64), i64)>,
}

impl Schedule {
    /// What to do at `now`, with a certificate of this validity (seconds since 1970), or with none that
    /// would do. `jitter` is a number below 1.
    pub(super) fn next(&mut self, now: i64, validity: Option<(i64, i64)>, jitter: f64) -> Step {
        let Some(validity) = validity else { return self.order() };
        let at = match self.renewal {
            Some((of, at)) if of == validity => at,
            _ => {
                let at = renew_at(validity, jitter);
                self.renewal = Some((validity, at));
                at
            }
        };
        if now >= at {
            return self.order();
        }
        let left = Duration::from_secs(at.saturating_sub(now).unsigned_abs());
        Step::Wait(left.min(LOOK_EVERY))
    }

    fn order(&self) -> Step {
        Step::Order { attempt: self.failures }
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure; how long to wait before the next attempt.
    pub(super) fn failed(&mut self, is_rate_limit: bool, jitter: f64) -> Duration {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let least = if is_rate_limit { RATE_LIMIT_WAIT } else { FIRST_WAIT };
        doubled.min(LONGEST_WAIT).max(least).mul_f64(0.8 + 0.4 * jitter)
    }
}

/// At two thirds of the lifetime, or up to a twelfth of it later.
fn renew_at((begin, end): (i64, i64), jitter: f64) -> i64 {
    let lifetime = Duration::from_secs(end.saturating_sub(begin).max(0).unsigned_abs());
    let age = lifetime * 2 / 3 + (lifetime / 12).mul_f64(jitter);
    begin.saturating_add_unsigned(age.as_secs())
}

/// How a name is proved at this attempt: a file where clear text is answered, a handshake otherwise, and
/// the other one the next time, as something in between may swallow either.
pub(super) const fn challenge(attempt: u32, answers_http: bool) -> ChallengeKind {
    if answers_http && attempt.is_multiple_of(2) { ChallengeKind::File } else { ChallengeKind::Handshake }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let validity = Some((0, 90 * DAY));
        let mut schedule = Schedule::default();
        assert_eq!(schedule.next(0, None, 0.0), Step::Order { attempt: 0 });
        assert_eq!(schedule.next(0, validity, 0.0), Step::Wait(LOOK_EVERY));
        assert_eq!(schedule.next(60 * DAY - 10, validity, 0.0), Step::Wait(Duration::from_secs(10)));
        assert_eq!(schedule.next(60 * DAY, validity, 0.9), Step::Order { attempt: 0 }, "drawn once");
        // The new one is drawn anew; jitter is later, never too late.
        let renewed = Some((60 * DAY, 150 * DAY));
        assert_eq!(schedule.next(60 * DAY, renewed, 0.5), Step::Wait(LOOK_EVERY));
        assert_eq!(schedule.next(120 * DAY, renewed, 0.5), Step::Wait(LOOK_EVERY));
        assert_eq!(schedule.next(124 * DAY, renewed, 0.5), Step::Order { attempt: 0 });
        assert!(renew_at((0, 90 * DAY), 0.999) < 68 * DAY);
        // Nonsense from a broken clock is due at once.
        assert_eq!(Schedule::default().next(0, Some((0, -5)), 0.5), Step::Order { attempt: 0 });
    }

    #[test]
    fn failures_wait_longer_and_longer_and_success_forgets_them() {
        let mut schedule = Schedule::default();
        let waits: Vec<u64> = (0..12).map(|_| schedule.failed(false, 0.5).as_secs() / 60).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360, 360]);
        assert_eq!(schedule.next(0, None, 0.0), Step::Order { attempt: 12 });
        schedule.succeeded();
        assert_eq!(schedule.next(0, None, 0.0), Step::Order { attempt: 0 });
        assert_eq!(schedule.failed(true, 0.5), RATE_LIMIT_WAIT);
        assert!(Schedule::default().failed(false, 0.0) < Schedule::default().failed(false, 0.9));
        for _ in 0..200 {
            assert!(schedule.failed(false, 0.99) < LONGEST_WAIT * 2);
        }
    }

    #[test]
    fn both_ways_are_tried_where_there_are_two() {
        use ChallengeKind::{File, Handshake};
        let tried = |http| (0..4).map(|attempt| challenge(attempt, http)).collect::<Vec<_>>();
        assert_eq!(tried(true), [File, Handshake, File, Handshake]);
        assert_eq!(tried(false), [Handshake; 4]);
    }
}
