//! Coarse deadlines: one ticker a worker instead of one timer a request.
//!
//! Timeouts here are seconds long, so being a tick late does not matter, and a deadline is then a
//! number in a table that a single task looks through. Setting, moving and clearing one costs a few
//! nanoseconds; a timer of the runtime costs a registration each time, and hyper's a boxed future.
//! A table belongs to one worker thread and never leaves it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How often the table is looked through. A deadline is noticed up to two of these late.
const TICK: Duration = Duration::from_millis(50);

/// The deadlines of one worker, and its coarse clock.
#[derive(Debug)]
pub struct Deadlines {
    start: Instant,
    /// Milliseconds after `start`, as of the last tick.
    now: Cell<u64>,
    slots: RefCell<Slots>,
    used: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Entry>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Milliseconds after the table's start; `None` while nothing is awaited.
    due: Option<u64>,
    waker: Option<Waker>,
}

impl Deadlines {
    /// An empty table. Somebody must run [`Deadlines::tick`].
    #[must_use]
    pub fn new() -> Rc<Self> {
        let (now, used) = (Cell::new(0), Notify::new());
        Rc::new(Self { start: Instant::now(), now, slots: RefCell::default(), used })
    }

    /// A deadline that is not set yet.
    #[must_use]
    pub fn slot(self: &Rc<Self>) -> Deadline {
        if self.is_empty() {
            // Nobody has looked at the clock while there was nothing to wait for.
            self.read_clock();
            self.used.notify_one();
        }
        let mut slots = self.slots.borrow_mut();
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.entries.push(Entry::default());
            slots.entries.len() - 1
        });
        Deadline { table: Rc::clone(self), index }
    }

    /// Milliseconds on the worker's own clock: up to a tick old while there is any deadline.
    #[must_use]
    pub fn millis(&self) -> u64 {
        self.now.get()
    }

    /// Wakes whoever's deadline has passed, for ever; sleeps while there is no deadline at all.
    pub async fn tick(self: Rc<Self>) {
        loop {
            if self.is_empty() {
                self.used.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.read_clock();
            let now = self.now.get();
            self.wake(|entry| entry.due.is_some_and(|due| due <= now));
        }
    }

    /// Wakes everybody, to look at something other than the time (a drain has begun).
    pub fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, wanted: impl Fn(&Entry) -> bool) {
        for entry in &mut self.slots.borrow_mut().entries {
            if wanted(entry)
                && let Some(waker) = entry.waker.take()
            {
                waker.wake();
            }
        }
    }

    fn is_empty(&self) -> bool {
        let slots = self.slots.borrow();
        slots.entries.len() == slots.free.len()
    }

    /// Reads the clock. The ticker does while there is a deadline; who goes by [`Deadlines::millis`] at
    /// other times has to.
    pub fn read_clock(&self) {
        self.now.set(millis(self.start.elapsed()));
    }
}

/// One deadline. Dropping it frees its place.
#[derive(Debug)]
pub struct Deadline {
    table: Rc<Deadlines>,
    index: usize,
}

impl Deadline {
    /// Sets it to `span` from now, never sooner.
    pub fn set(&self, span: Duration) {
        let due = self.table.now.get().saturating_add(millis(span)).saturating_add(millis(TICK));
        self.table.slots.borrow_mut().entries[self.index].due = Some(due);
    }

    /// Takes it back.
    pub fn clear(&self) {
        self.table.slots.borrow_mut().entries[self.index].due = None;
    }

    /// Ready when the deadline has passed; else the task is woken when it has.
    pub fn poll_passed(&self, cx: &Context<'_>) -> Poll<()> {
        let entry = &mut self.table.slots.borrow_mut().entries[self.index];
        if entry.due.is_some_and(|due| due <= self.table.now.get()) {
            return Poll::Ready(());
        }
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.table.slots.borrow_mut();
        slots.entries[self.index] = Entry::default();
        slots.free.push(self.index);
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_when_its_time_has_come_and_not_before() {
        let table = Deadlines::new();
        let deadline = table.slot();
        let cx = Context::from_waker(Waker::noop());
        assert!(deadline.poll_passed(&cx).is_pending(), "not set");
        deadline.set(Duration::from_secs(1));
        table.now.set(1000);
        assert!(deadline.poll_passed(&cx).is_pending(), "the clock may have been a tick old");
        table.now.set(1000 + millis(TICK));
        assert!(deadline.poll_passed(&cx).is_ready(), "due");
        deadline.clear();
        assert!(deadline.poll_passed(&cx).is_pending(), "cleared");
    }

    #[test]
    fn places_are_used_again() {
        let table = Deadlines::new();
        let first = table.slot();
        let index = first.index;
        first.set(Duration::ZERO);
        drop(first);
        let second = table.slot();
        assert_eq!(second.index, index);
        table.now.set(u64::MAX);
        assert!(second.poll_passed(&Context::from_waker(Waker::noop())).is_pending(), "nothing is inherited");
        drop(second);
        assert!(table.is_empty());
    }
}
