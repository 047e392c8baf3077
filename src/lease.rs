//! Streams end when their token does.
//!
//! A token is judged when a request arrives. What goes on after that (a tunnel, an event stream, a long
//! poll, an upload) holds a [`Lease`], and its worker looks through all of its leases a few times a
//! second: has the token expired, was anything revoked since, does that concern it? Holding one is a
//! line in a table and costs an ordinary request a few nanoseconds. A table belongs to one worker thread.
//!
//! A request that was judged, and got its lease in the same turn of its task, cannot miss a revocation:
//! whatever was revoked after the judgement raised the list's epoch after the last look.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::clock::{Clock, Timestamp};
use crate::metrics::{Metrics, StreamEnd};
use crate::token::revocation::{RevocationId, RevocationList};

/// Looks that a lease is spared at first. An ordinary request that is under way when its session ends
/// may finish: what it did at the application would be done all the same, and nobody would know.
const SPARED: u32 = 4;

/// For how long somebody may go on: until a time, or until one of these is revoked.
#[derive(Clone, Copy, Debug)]
pub struct Tenure {
    /// What would revoke it.
    pub revocable_by: [RevocationId; 3],
    /// When it is over.
    pub expires_at: Timestamp,
}

/// The leases of one worker.
pub struct Leases {
    clock: Arc<dyn Clock>,
    revocations: Arc<RevocationList>,
    metrics: Arc<Metrics>,
    table: RefCell<Table>,
    /// The revocations' epoch at the last look.
    epoch: Cell<u64>,
    /// No lease ends by itself before this.
    soonest: Cell<Timestamp>,
    /// Looks so far.
    looks: Cell<u32>,
    /// One was spared at the last look.
    spared: Cell<bool>,
    draining: Cell<bool>,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    free: Vec<usize>,
}

/// One lease, or a free place.
#[derive(Default)]
struct Entry {
    /// Absent for callers without a token: only a drain ends theirs.
    tenure: Option<Tenure>,
    /// It ends as soon as the gateway stops.
    endless: bool,
    /// The look after which it was given.
    since: u32,
    ended: Option<StreamEnd>,
    waker: Option<Waker>,
}

impl Leases {
    /// No leases. Somebody must [look](Self::look) a few times a second.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, revocations: Arc<RevocationList>, metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            clock,
            revocations,
            metrics,
            table: RefCell::default(),
            epoch: Cell::new(0),
            soonest: Cell::new(NEVER),
            looks: Cell::new(0),
            spared: Cell::new(false),
            draining: Cell::new(false),
        })
    }

    /// A lease for somebody, or for nobody in particular. To be taken in the turn in which the token was
    /// found good.
    #[must_use]
    pub fn hold(self: &Rc<Self>, tenure: Option<Tenure>) -> Lease {
        if let Some(tenure) = &tenure
            && tenure.expires_at < self.soonest.get()
        {
            self.soonest.set(tenure.expires_at);
        }
        let mut table = self.table.borrow_mut();
        let index = table.free.pop().unwrap_or_else(|| {
            table.entries.push(Entry::default());
            table.entries.len() - 1
        });
        let entry = &mut table.entries[index];
        (entry.tenure, entry.since) = (tenure, self.looks.get());
        Lease { leases: Rc::clone(self), index }
    }

    /// What opened tunnels are counted with.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Ends the leases whose time is over, and wakes their holders.
    pub fn look(&self) {
        // Before looking anything up: what is revoked from here on raises it.
        let epoch = self.revocations.epoch();
        let now = self.clock.now();
        let looks = self.looks.get().wrapping_add(1);
        self.looks.set(looks);
        let revoked_more = epoch != self.epoch.replace(epoch) || self.spared.get();
        if !revoked_more && now < self.soonest.get() {
            return;
        }
        let (mut soonest, mut spared) = (NEVER, false);
        for entry in &mut self.table.borrow_mut().entries {
            let (Some(tenure), None) = (&entry.tenure, entry.ended) else { continue };
            soonest = soonest.min(tenure.expires_at);
            let why = if now >= tenure.expires_at {
                StreamEnd::Expired
            } else if revoked_more && tenure.revocable_by.iter().any(|id| self.revocations.contains(*id)) {
                StreamEnd::Revoked
            } else {
                continue;
            };
            if looks.wrapping_sub(entry.since) <= SPARED {
                spared = true;
            } else {
                entry.end(why, &self.metrics);
            }
        }
        self.soonest.set(soonest);
        self.spared.set(spared);
    }

    /// The gateway stops: what would never end by itself ends now.
    pub fn drain(&self) {
        self.draining.set(true);
        for entry in &mut self.table.borrow_mut().entries {
            if entry.endless && entry.ended.is_none() {
                entry.end(StreamEnd::Drain, &self.metrics);
            }
        }
    }
}

/// Past every time that a token can have.
const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

impl Entry {
    fn end(&mut self, why: StreamEnd, metrics: &Metrics) {
        self.ended = Some(why);
        metrics.streams_ended.of(why).add_one();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The right to go on. Dropping it gives its place back.
pub struct Lease {
    leases: Rc<Leases>,
    index: usize,
}

impl Lease {
    /// Says that what it is for has no end of its own, so that stopping the gateway must not wait for it.
    pub fn is_endless(&self) {
        let entry = &mut self.leases.table.borrow_mut().entries[self.index];
        entry.endless = true;
        if self.leases.draining.get() && entry.ended.is_none() {
            entry.end(StreamEnd::Drain, &self.leases.metrics);
        }
    }

    /// Why it is over, if it is.
    #[must_use]
    pub fn ended(&self) -> Option<StreamEnd> {
        self.leases.table.borrow().entries[self.index].ended
    }

    /// Ready when it is over; else the task is woken then.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<StreamEnd> {
        let entry = &mut self.leases.table.borrow_mut().entries[self.index];
        if let Some(why) = entry.ended {
            return Poll::Ready(why);
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The leases of this worker.
    #[must_use]
    pub const fn leases(&self) -> &Rc<Leases> {
        &self.leases
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.leases.table.borrow_mut();
        // The waker goes as well: it would keep a task's memory.
        table.entries[self.index] = Entry::default();
        table.free.push(self.index);
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.table.borrow();
        f.debug_struct("Leases")
            .field("held", &(table.entries.len() - table.free.len()))
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("ended", &self.ended()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::token::revocation::{Revocation, RevocationKind};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock that stands still.
    #[derive(Default)]
    pub(crate) struct Stopped(AtomicU64);

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    /// Leases with their clock and their revocations.
    pub(crate) struct Office {
        pub(crate) leases: Rc<Leases>,
        clock: Arc<Stopped>,
        revocations: Arc<RevocationList>,
    }

    impl Office {
        pub(crate) fn new() -> Self {
            let (clock, revocations) = (Arc::new(Stopped::default()), Arc::new(RevocationList::new()));
            let leases = Leases::new(
                Arc::<Stopped>::clone(&clock),
                Arc::clone(&revocations),
                Arc::new(Metrics::default()),
            );
            Self { leases, clock, revocations }
        }

        /// A lease until a second, revocable by `first` and the two numbers after it.
        pub(crate) fn hold(&self, first: u128, until: u64) -> Lease {
            self.leases.hold(Some(Tenure {
                revocable_by: [first, first + 1, first + 2].map(RevocationId),
                expires_at: Timestamp::from_secs(until),
            }))
        }

        pub(crate) fn revoke(&self, id: u128) {
            let until = Timestamp::from_secs(1_000_000);
            let revocation = Revocation { kind: RevocationKind::Session, id: RevocationId(id), until };
            assert!(self.revocations.insert(revocation), "it is new");
        }

        pub(crate) fn set_time(&self, secs: u64) {
            self.clock.0.store(secs, Ordering::Relaxed);
        }

        /// Looks as often as it takes for a young lease to count.
        pub(crate) fn look(&self) {
            for _ in 0..=SPARED {
                self.leases.look();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Office;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_lease_ends_when_its_token_expires_and_not_before() {
        let office = Office::new();
        let (short, long) = (office.hold(1, 100), office.hold(10, 200));
        office.set_time(99);
        office.look();
        assert_eq!(short.ended(), None);
        office.set_time(100);
        office.look();
        assert_eq!((short.ended(), long.ended()), (Some(StreamEnd::Expired), None));
        drop(short);
        office.set_time(200);
        office.look();
        assert_eq!(long.ended(), Some(StreamEnd::Expired), "and so does the next one");
    }

    #[test]
    fn each_of_its_three_revocations_ends_a_lease_and_nobody_elses() {
        for which in 1..=3 {
            let office = Office::new();
            let (concerned, other) = (office.hold(1, 100), office.hold(10, 100));
            office.look();
            office.revoke(which);
            office.leases.look();
            assert_eq!(concerned.ended(), Some(StreamEnd::Revoked), "{which}");
            assert_eq!(other.ended(), None);
            assert_eq!(office.leases.metrics().streams_ended.of(StreamEnd::Revoked).value(), 1);
        }
    }

    #[test]
    fn what_was_revoked_before_the_first_look_counts() {
        let office = Office::new();
        let lease = office.hold(1, 100);
        office.revoke(2);
        office.look();
        assert_eq!(lease.ended(), Some(StreamEnd::Revoked));
    }

    #[test]
    fn a_young_lease_is_spared_for_a_while_and_not_for_ever() {
        let office = Office::new();
        office.look();
        let lease = office.hold(1, 100);
        office.revoke(1);
        for _ in 0..SPARED {
            office.leases.look();
            assert_eq!(lease.ended(), None);
        }
        office.leases.look();
        assert_eq!(lease.ended(), Some(StreamEnd::Revoked));
    }

    #[test]
    fn a_drain_ends_what_is_endless() {
        let office = Office::new();
        let (tunnel, request) = (office.leases.hold(None), office.hold(1, 100));
        tunnel.is_endless();
        office.leases.drain();
        assert_eq!((tunnel.ended(), request.ended()), (Some(StreamEnd::Drain), None));
        let late = office.leases.hold(None);
        late.is_endless();
        assert_eq!(late.ended(), Some(StreamEnd::Drain), "one that comes during the drain, too");
    }

    #[test]
    fn whoever_holds_it_is_woken_once_and_a_place_is_used_again_clean() {
        let office = Office::new();
        let lease = office.hold(1, 100);
        let woken = Arc::new(Counting::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(lease.poll_ended(&Context::from_waker(&waker)).is_pending());
        office.set_time(100);
        office.look();
        office.look();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        let index = lease.index;
        drop(lease);
        let next = office.leases.hold(None);
        assert_eq!((next.index, next.ended()), (index, None));
    }
}
