//! What systemd hears of us (`sd_notify(3)`), where it has started us and wants to know.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// We serve, and this process is the one to watch.
pub(super) fn ready() {
    notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// We stop.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The configuration is about to be loaded again. `Type=notify-reload` wants to know since when.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd could not be told of a reload"),
    }
}

/// It was loaded, or it was not good. Either way the reload is over and we serve.
pub(super) fn reloaded(good: bool) {
    let status = if good {
        "the configuration was loaded again"
    } else {
        "the configuration is not good and the one before stays: see the log"
    };
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Says that we are alive, twice in each span after which systemd would end a process that is silent
/// (`WatchdogSec`). It is asked from the main loop, and speaks when each worker has turned since it last
/// did: a process that only its timers keep going is to be ended.
#[derive(Debug)]
pub(super) struct Watchdog {
    span: Option<Duration>,
    next: Instant,
    /// Each worker's turns when it last spoke.
    turns: Vec<Option<u64>>,
    /// Whether it was said that a worker is stuck.
    warned: bool,
}

impl Watchdog {
    /// With the span that systemd has set for this process, or else `handed`: the one of the process that we
    /// have taken over from, in whose place we are watched.
    pub(super) fn new(handed: Option<Duration>) -> Self {
        Self::with(sd_notify::watchdog_enabled().or(handed).filter(|span| !span.is_zero()))
    }

    fn with(span: Option<Duration>) -> Self {
        Self { span, next: Instant::now(), turns: Vec::new(), warned: false }
    }

    /// What systemd waits for a word at most.
    pub(super) const fn span(&self) -> Option<Duration> {
        self.span
    }

    /// `most`, or less where it would be too late to [`beat`](Self::beat).
    pub(super) fn wait(&self, most: Duration) -> Duration {
        self.span.map_or(most, |span| most.min(span / 4))
    }

    /// Says that we are alive, when it is time and true. `turns` of each worker so far; `None` of one that
    /// has ended, which is for others to mind.
    pub(super) fn beat(&mut self, turns: impl Iterator<Item = Option<u64>>) {
        if self.is_due(Instant::now(), turns) {
            notify(&[NotifyState::Watchdog]);
        }
    }

    fn is_due(&mut self, now: Instant, turns: impl Iterator<Item = Option<u64>>) -> bool {
        let Some(span) = self.span else { return false };
        if now < self.next {
            return false;
        }
        let turns: Vec<_> = turns.collect();
        let stuck = turns.iter().zip(&self.turns).any(|(now, before)| now.is_some() && now == before);
        if stuck {
            // Later than this we would be ended without a word.
            if now >= self.next + span / 4 && !std::mem::replace(&mut self.warned, true) {
                tracing::error!("a worker is stuck: systemd's watchdog is not told that all is well");
            }
            return false;
        }
        (self.turns, self.next, self.warned) = (turns, now + span / 2, false);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(10);

    #[test]
    fn it_speaks_at_half_the_span_while_every_worker_turns() {
        let mut watchdog = Watchdog::with(Some(SPAN));
        let start = Instant::now();
        let mut at = |secs, turns: [Option<u64>; 2]| {
            watchdog.is_due(start + Duration::from_secs(secs), turns.into_iter())
        };
        assert!(at(0, [Some(1), Some(1)]));
        assert!(!at(4, [Some(2), Some(2)]), "not yet");
        assert!(at(5, [Some(2), Some(2)]));
        assert!(!at(10, [Some(3), Some(2)]), "one is stuck");
        assert!(!at(14, [Some(9), Some(2)]), "and stays so");
        assert!(at(15, [Some(9), Some(3)]));
        assert!(at(20, [Some(10), None]), "one has ended, and the other goes on");
        assert!(!at(25, [Some(10), None]));
    }

    #[test]
    fn without_a_watchdog_it_is_silent() {
        let mut watchdog = Watchdog::with(None);
        assert!(!watchdog.is_due(Instant::now() + SPAN, [Some(1)].into_iter()));
        assert_eq!((watchdog.wait(SPAN), watchdog.span()), (SPAN, None));
        assert_eq!(Watchdog::with(Some(SPAN)).wait(SPAN), SPAN / 4);
    }
}
