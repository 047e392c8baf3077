//! What waits to be told, as far as it is in memory: whose turn it is, and what there is room for.
//!
//! Nobody holds up the others. Accounts take turns by what waits longest; an update that waits makes way for the
//! next one of its account; and an account whose event was refused has room and calls of its own, beside those of
//! the others.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::UserId;
use crate::store::Event;

/// Calls for accounts whose last call failed. There are more than these: an app that hangs over some events has
/// calls left for the others.
const AT_ONCE_REFUSED: usize = 4;
/// Events in memory of accounts that were not refused.
const WINDOW: usize = 1000;
/// Events in memory of accounts that were. Beyond them nothing is read: who comes later waits.
const REFUSED: usize = 10_000;
/// From one call to the next, after one that failed.
const PACE: Duration = Duration::from_millis(10);
/// The pause of an account after a first failure; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Everybody's events.
#[derive(Default)]
pub(super) struct Line {
    queues: BTreeMap<UserId, Queue>,
    /// Who may have a turn at once, by place.
    ready: BTreeMap<u64, UserId>,
    /// Who was refused and waits, by when that ends, and by place.
    pausing: BTreeMap<(Instant, u64), UserId>,
    /// Events of accounts that were not refused, and of those that were.
    loaded: usize,
    loaded_refused: usize,
    /// Calls for accounts that were refused.
    refused_under_way: usize,
    /// Whether the last call that has ended failed.
    down: bool,
    /// When the last call began.
    last_began: Option<Instant>,
}

/// One account's events.
#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Where it stands: the number of the event that came first. One that supersedes it does not lose the place.
    place: u64,
    /// Failures of the first one in a row.
    failures: u32,
    /// Not before this. Of a queue that was refused, and of no other.
    after: Option<Instant>,
    under_way: bool,
    /// Whether it had a turn before its time because the app came back. The next time it waits: who is refused
    /// for ever must not be called whenever another is taken.
    spared: bool,
}

/// An event whose turn it is.
pub(super) struct Turn {
    pub(super) event: Event,
    /// How often it failed before.
    pub(super) failures: u32,
}

impl Line {
    /// How many events may be loaded.
    pub(super) fn room(&self) -> usize {
        let all = (WINDOW + REFUSED).saturating_sub(self.loaded + self.loaded_refused);
        WINDOW.saturating_sub(self.loaded).min(all)
    }

    /// The numbers of events that these supersede, in here or among themselves.
    pub(super) fn superseded(&self, events: &[Event]) -> Vec<u64> {
        let mut last: BTreeMap<&UserId, &Event> = BTreeMap::new();
        let mut numbers = Vec::new();
        for event in events {
            let user = &event.user.id;
            let known = || self.queues.get(user).and_then(|queue| queue.events.back());
            let before = last.insert(user, event).or_else(known);
            numbers.extend(before.filter(|before| event.supersedes(before)).map(|before| before.number));
        }
        numbers
    }

    /// Adds events, which follow all that were added before.
    pub(super) fn load(&mut self, events: Vec<Event>) {
        for event in events {
            let user = event.user.id.clone();
            let fresh = || Queue { place: event.number, ..Queue::default() };
            let mut queue = self.take(&user).unwrap_or_else(fresh);
            queue.push(event);
            self.put(user, queue);
        }
    }

    /// The next event to be told, if one is due. Its account has no other turn until this one is settled.
    pub(super) fn take_turn(&mut self, now: Instant) -> Option<Turn> {
        if self.paced().is_some_and(|until| until > now) {
            return None;
        }
        let refused = self.next_refused().filter(|(after, _)| *after <= now).map(|(_, user)| user);
        let user = refused.or_else(|| self.ready.values().next())?.clone();
        let mut queue = self.take(&user)?;
        queue.under_way = true;
        let turn = queue.events.front().cloned().map(|event| Turn { event, failures: queue.failures });
        self.put(user, queue);
        self.last_began = Some(now);
        turn
    }

    /// When the next turn is due, if nothing happens before.
    pub(super) fn next_turn(&self, now: Instant) -> Option<Instant> {
        let at = if self.ready.is_empty() { self.next_refused()?.0 } else { now };
        Some(self.paced().map_or(at, |until| until.max(at)))
    }

    /// A turn has ended: whether the event needs not be told any more.
    pub(super) fn settle(&mut self, user: &UserId, done: bool, now: Instant) {
        let Some(mut queue) = self.take(user) else { return };
        if !done {
            queue.fail(now);
            self.put(user.clone(), queue);
            self.down = true;
            return;
        }
        queue.events.pop_front();
        if let Some(place) = queue.events.front().map(|next| next.number) {
            let events = queue.events;
            self.put(user.clone(), Queue { events, place, ..Queue::default() });
        }
        // The app is there again: the others need not wait any longer.
        if std::mem::take(&mut self.down) {
            self.spare(now);
        }
    }

    /// Lets everybody have a turn who waits after failures, once.
    fn spare(&mut self, now: Instant) {
        let is_new = |user: &&UserId| self.queues.get(*user).is_some_and(|queue| !queue.spared);
        let users: Vec<UserId> = self.pausing.values().filter(is_new).cloned().collect();
        for user in users {
            let Some(queue) = self.take(&user) else { continue };
            self.put(user, Queue { after: Some(now), spared: true, ..queue });
        }
    }

    /// Who is next of those who were refused, and not before when. They come before the others, but never have all
    /// calls.
    fn next_refused(&self) -> Option<(Instant, &UserId)> {
        let ((after, _), user) = self.pausing.first_key_value()?;
        (self.refused_under_way < AT_ONCE_REFUSED).then_some((*after, user))
    }

    /// No call before this: an app that takes nothing is not called as often as it can refuse.
    fn paced(&self) -> Option<Instant> {
        self.last_began.filter(|_| self.down).map(|began| began + PACE)
    }

    /// Takes a queue out, and out of all accounts of what there is.
    fn take(&mut self, user: &UserId) -> Option<Queue> {
        let queue = self.queues.remove(user)?;
        match queue.after {
            None => self.loaded -= queue.events.len(),
            Some(_) => self.loaded_refused -= queue.events.len(),
        }
        match queue.after {
            Some(_) if queue.under_way => self.refused_under_way -= 1,
            Some(after) => drop(self.pausing.remove(&(after, queue.place))),
            None => drop(self.ready.remove(&queue.place)),
        }
        Some(queue)
    }

    /// The opposite of [`take`](Self::take).
    fn put(&mut self, user: UserId, queue: Queue) {
        match queue.after {
            None => self.loaded += queue.events.len(),
            Some(_) => self.loaded_refused += queue.events.len(),
        }
        match queue.after {
            Some(_) if queue.under_way => self.refused_under_way += 1,
            Some(after) => drop(self.pausing.insert((after, queue.place), user.clone())),
            None if queue.under_way => {}
            None => drop(self.ready.insert(queue.place, user.clone())),
        }
        self.queues.insert(user, queue);
    }
}

impl Queue {
    fn push(&mut self, event: Event) {
        let waits = self.events.len() > usize::from(self.under_way);
        if waits && self.events.back().is_some_and(|last| event.supersedes(last)) {
            self.events.pop_back();
        }
        self.events.push_back(event);
    }

    fn fail(&mut self, now: Instant) {
        self.under_way = false;
        self.failures = self.failures.saturating_add(1);
        self.after = Some(now + pause(self.failures));
        // What came while it was under way says it all; the pause stays, or changes would be a way around it.
        if self.events.get(1).zip(self.events.front()).is_some_and(|(next, first)| next.supersedes(first)) {
            self.events.pop_front();
        }
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{START, account, user};
    use crate::store::{EventKind, EventUser};

    fn event(number: u64, name: &str, kind: EventKind) -> Event {
        let user = EventUser { id: user(name), ..EventUser::of(&account("unused")) };
        Event { number, id: number.to_string(), kind, at: START, user }
    }

    fn created(number: u64, name: &str) -> Event {
        event(number, name, EventKind::Created)
    }

    fn updated(number: u64, name: &str) -> Event {
        event(number, name, EventKind::Updated)
    }

    /// The numbers of all events whose turn it is.
    fn turns(line: &mut Line, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| line.take_turn(now)).map(|turn| turn.event.number).collect()
    }

    /// Refuses all that is due.
    fn refuse_all(line: &mut Line, now: Instant) {
        line.down = false;
        let due: Vec<UserId> =
            std::iter::from_fn(|| line.take_turn(now)).map(|turn| turn.event.user.id).collect();
        for user in due {
            line.settle(&user, false, now);
        }
    }

    #[test]
    fn of_one_account_one_event_is_under_way_and_a_failed_one_waits() {
        let (mut line, now) = (Line::default(), Instant::now());
        line.load((0..20).map(|n| created(n, ["a", "b"][usize::from(n % 2 == 1)])).collect());
        assert_eq!(turns(&mut line, now), [0, 1], "one for each account");
        line.settle(&user("a"), false, now);
        assert!(turns(&mut line, now + PACE).is_empty(), "a failed one has to wait");
        assert_eq!(line.next_turn(now), Some(now + FIRST_PAUSE));
        line.settle(&user("b"), true, now);
        assert_eq!(turns(&mut line, now), [0, 3], "the app is there: nobody waits");
        line.settle(&user("a"), false, now);
        line.settle(&user("b"), true, now);
        assert_eq!(turns(&mut line, now), [5], "but not twice");
        assert_eq!(turns(&mut line, now + FIRST_PAUSE * 2), [0], "only its time");
    }

    #[test]
    fn an_update_that_waits_makes_way_for_the_next_one() {
        let (mut line, now) = (Line::default(), Instant::now());
        let page = vec![created(0, "a"), updated(1, "a"), created(2, "b"), updated(3, "a"), updated(4, "a")];
        assert_eq!(line.superseded(&page), [1, 3]);
        line.load(page);
        assert_eq!(line.room(), WINDOW - 3);
        for expected in [0, 4] {
            assert!(turns(&mut line, now).contains(&expected));
            line.settle(&user("a"), true, now);
        }
        assert_eq!(line.room(), WINDOW - 1, "b is left");
    }

    #[test]
    fn an_update_under_way_stays_and_the_newest_follows() {
        let (mut line, now) = (Line::default(), Instant::now());
        line.load(vec![updated(0, "a")]);
        assert_eq!(turns(&mut line, now), [0]);
        for number in 1..1500 {
            let page = vec![updated(number, "a")];
            assert_eq!(line.superseded(&page), [number - 1]);
            line.load(page);
        }
        assert_eq!(line.room(), WINDOW - 2);
        line.settle(&user("a"), true, now);
        assert_eq!(turns(&mut line, now), [1499]);
        // Had it failed, the newer one would have come instead, at its time.
        line.load(vec![updated(1500, "a")]);
        line.settle(&user("a"), false, now);
        assert_eq!(line.next_turn(now), Some(now + FIRST_PAUSE));
        assert_eq!(turns(&mut line, now + FIRST_PAUSE), [1500]);
        assert_eq!(line.room(), WINDOW);
    }

    #[test]
    fn nothing_but_an_update_is_superseded_and_by_nothing_but_an_update() {
        use EventKind::{Created, Deleted, Disabled, Updated};
        let (mut line, mut now) = (Line::default(), Instant::now());
        let kinds = [Created, Updated, Disabled, Updated, Deleted];
        let page: Vec<_> = (0..).zip(kinds).map(|(number, kind)| event(number, "a", kind)).collect();
        assert!(line.superseded(&page).is_empty());
        line.load(page);
        for number in 0..5 {
            assert_eq!(turns(&mut line, now), [number]);
            line.settle(&user("a"), false, now);
            now += LONGEST_PAUSE;
            assert_eq!(turns(&mut line, now), [number]);
            line.settle(&user("a"), true, now);
        }
        assert!(line.queues.is_empty());
    }

    #[test]
    fn who_changes_all_the_time_neither_passes_nor_loses_the_place() {
        let (mut line, now) = (Line::default(), Instant::now());
        line.load(vec![updated(10, "a"), updated(11, "b"), updated(12, "a")]);
        assert_eq!(turns(&mut line, now), [12, 11]);
        line.load(vec![updated(13, "c"), updated(14, "a")]);
        line.settle(&user("a"), true, now);
        assert_eq!(turns(&mut line, now), [13, 14]);
    }

    #[test]
    fn who_is_refused_for_ever_leaves_room_and_calls_to_the_others() {
        let (mut line, now) = (Line::default(), Instant::now());
        line.load((0..1000).map(|n| created(n, &format!("refused{n}"))).collect());
        assert_eq!(line.room(), 0);
        refuse_all(&mut line, now);
        assert_eq!(line.room(), WINDOW);
        // However many hang: some calls are left.
        let later = now + LONGEST_PAUSE;
        let hanging: Vec<_> = (0..4).map(|n| line.take_turn(later + PACE * n).unwrap()).collect();
        let later = later + PACE * 4;
        assert_eq!((line.next_turn(later), line.take_turn(later).is_none()), (None, true));
        line.load(vec![created(5000, "other")]);
        assert_eq!(turns(&mut line, later), [5000]);
        line.settle(&user("other"), true, later);
        for turn in hanging {
            line.settle(&turn.event.user.id, false, later);
            assert!(line.next_turn(later).is_some());
        }
    }

    #[test]
    fn who_is_refused_for_ever_is_not_called_whenever_another_is_taken() {
        let (mut line, now) = (Line::default(), Instant::now());
        line.load(vec![created(0, "refused"), created(1, "other")]);
        let mut calls = 0;
        for number in 1..100 {
            for turn in turns(&mut line, now) {
                calls += u32::from(turn == 0);
                // The one that is taken comes last: the app seems to be there again each time.
                line.settle(&user(if turn == 0 { "refused" } else { "unknown" }), false, now);
            }
            line.settle(&user("other"), true, now);
            line.load(vec![created(number + 1, "other")]);
        }
        assert_eq!(calls, 2, "the first one, and one because the app was there again");
    }

    #[test]
    fn the_room_has_an_end() {
        let (mut line, now) = (Line::default(), Instant::now());
        let mut number = 0;
        while line.room() > 0 {
            let numbers = number..number + line.room() as u64;
            number = numbers.end;
            line.load(numbers.map(|n| created(n, &format!("user{n}"))).collect());
            refuse_all(&mut line, now);
        }
        assert_eq!(number, (WINDOW + REFUSED) as u64);
        assert!(line.queues.values().all(|queue| queue.events.len() == 1));
        // One that is taken makes room.
        let turn = line.take_turn(now + LONGEST_PAUSE).unwrap();
        line.settle(&turn.event.user.id, true, now);
        assert_eq!(line.room(), 1);
    }

    #[test]
    fn an_app_that_takes_nothing_is_not_called_in_a_rush() {
        let (mut line, now) = (Line::default(), Instant::now());
        line.load((0..20).map(|n| created(n, &format!("user{n}"))).collect());
        assert_eq!((0..8).filter_map(|_| line.take_turn(now)).count(), 8);
        line.settle(&user("user0"), false, now);
        assert!(turns(&mut line, now).is_empty());
        assert_eq!(line.next_turn(now), Some(now + PACE));
        assert_eq!(turns(&mut line, now + PACE), [8]);
        line.settle(&user("user1"), true, now);
        assert_eq!(turns(&mut line, now + PACE).len(), 12, "it takes them again");
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let secs: Vec<u64> = (1..=9).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
