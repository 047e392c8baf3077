//! `[events]`: tells the app of accounts, from the outbox in the store.
//!
//! An event is in the store before anybody hears of what it tells, and leaves it when the app has answered
//! with 2xx. So it comes at least once: a process that dies in between tells it again, under the same
//! id. Of one account one event is under way at a time, the next one after it was taken; accounts do not wait
//! for each other, as long as no more than [`WINDOW`] events wait.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::caller::{Call, Caller};
use super::signature;
use crate::clock::Clock;
use crate::identity::UserId;
use crate::metrics::{EventResult, Metrics};
use crate::settings::EventSettings;
use crate::store::{Change, Event, EventKind, EventUser, Store, StoreError};

/// Calls under way.
const AT_ONCE: usize = 8;
/// Events in memory.
const WINDOW: usize = 1000;
/// The pause after a first failure; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The pause when the store cannot be read: while another process has it, or it is full.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What it works with.
pub struct EventsParts {
    /// `[events]`
    pub settings: EventSettings,
    /// Where the outbox is.
    pub store: Arc<dyn Store>,
    /// Notified when there is something new in it.
    pub woken: Arc<Notify>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for EventsParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventsParts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The thread that tells. Ends when it is dropped; what was not told stays in the outbox.
#[derive(Debug)]
pub struct Events {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Starts to tell what is in the outbox. Not to be called on a runtime.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(parts: EventsParts) -> io::Result<Self> {
        // Counted before anybody can ask; a store that does not answer is asked again soon.
        if let Ok(outbox) = parts.store.outbox(0, 0).wait() {
            parts.metrics.events_pending.set(i64::try_from(outbox.pending).unwrap_or(i64::MAX));
        }
        let (stop, stopped) = watch::channel(false);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
        let run = move || {
            runtime.block_on(Teller::new(parts).run(stopped));
            // A name's lookup that hangs must not keep the process.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("gatepost-events".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            drop(thread.join());
        }
    }
}

/// What is sent.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(rename = "type")]
    kind: EventKind,
    timestamp: String,
    data: &'a EventUser,
}

/// One account's events.
#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Failures of the first one in a row.
    failures: u32,
    /// Not before this; `None` is at once.
    after: Option<Instant>,
    under_way: bool,
}

/// How telling one event ended.
struct Told {
    user: UserId,
    result: Result<(), String>,
}

/// What telling needs, shared by the calls under way.
struct Means {
    caller: Caller,
    parts: EventsParts,
}

struct Teller {
    means: Arc<Means>,
    queues: BTreeMap<UserId, Queue>,
    loaded: usize,
    /// The number from which the outbox was not read yet.
    next: u64,
    /// Whether there may be more to read, and from when on.
    look: Option<Instant>,
    /// Whether the last call failed.
    down: bool,
    calls: JoinSet<Told>,
}

impl Teller {
    fn new(parts: EventsParts) -> Self {
        let means = Arc::new(Means { caller: Caller::new(), parts });
        Self {
            means,
            queues: BTreeMap::new(),
            loaded: 0,
            next: 0,
            look: Some(Instant::now()),
            down: false,
            calls: JoinSet::new(),
        }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let woken = Arc::clone(&self.means.parts.woken);
        loop {
            let step = async {
                if self.look.is_some_and(|at| at <= Instant::now()) {
                    self.read().await;
                }
                self.begin();
                let wake = self.next_wake();
                tokio::select! {
                    () = woken.notified() => self.look = Some(Instant::now()),
                    Some(ended) = self.calls.join_next() => {
                        // A panic in it has been printed; its account waits for the next start.
                        if let Ok(told) = ended {
                            self.settle(&told);
                        }
                    }
                    () = sleep_until(wake) => {}
                }
            };
            tokio::select! {
                () = step => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn read(&mut self) {
        let parts = &self.means.parts;
        let room = WINDOW.saturating_sub(self.loaded);
        let outbox = match parts.store.outbox(self.next, room).await {
            Ok(outbox) => outbox,
            Err(error) => {
                tracing::debug!(%error, "the outbox cannot be read");
                self.look = Some(Instant::now() + STORE_PAUSE);
                return;
            }
        };
        parts.metrics.events_pending.set(i64::try_from(outbox.pending).unwrap_or(i64::MAX));
        // A full page: there may be more, when there is room for it.
        self.look = (room > 0 && outbox.events.len() == room).then(Instant::now);
        for event in outbox.events {
            self.next = event.number + 1;
            self.loaded += 1;
            self.queues.entry(event.user.id.clone()).or_default().events.push_back(event);
        }
        if self.loaded >= WINDOW {
            self.look = None;
        }
    }

    /// Starts as many calls as may be under way.
    fn begin(&mut self) {
        let now = Instant::now();
        for (user, queue) in &mut self.queues {
            if self.calls.len() >= AT_ONCE {
                return;
            }
            let due = !queue.under_way && queue.after.is_none_or(|after| after <= now);
            let Some(event) = queue.events.front().filter(|_| due) else { continue };
            queue.under_way = true;
            let (means, event, user, failures) =
                (Arc::clone(&self.means), event.clone(), user.clone(), queue.failures);
            self.calls.spawn(async move { Told { user, result: means.tell(&event, failures).await } });
        }
    }

    /// When something is to be done that nobody wakes us for.
    fn next_wake(&self) -> Option<Instant> {
        let full = self.calls.len() >= AT_ONCE;
        let waiting = self.queues.values().filter(|queue| !full && !queue.under_way);
        waiting.filter_map(|queue| queue.after).chain(self.look).min()
    }

    fn settle(&mut self, told: &Told) {
        let Some(queue) = self.queues.get_mut(&told.user) else { return };
        queue.under_way = false;
        if told.result.is_err() {
            queue.failures = queue.failures.saturating_add(1);
            queue.after = Some(Instant::now() + pause(queue.failures));
            self.down = true;
            return;
        }
        queue.events.pop_front();
        (queue.failures, queue.after) = (0, None);
        if queue.events.is_empty() {
            self.queues.remove(&told.user);
        }
        self.loaded = self.loaded.saturating_sub(1);
        // Also to count anew: what was told may have been replaced meanwhile, and counts as one that waits.
        self.look = Some(Instant::now());
        // The app is there again: the others need not wait any longer.
        if std::mem::take(&mut self.down) {
            self.queues.values_mut().for_each(|queue| queue.after = None);
        }
    }
}

impl Means {
    /// Tells one event, and takes it out of the outbox.
    async fn tell(&self, event: &Event, failures: u32) -> Result<(), String> {
        let EventsParts { settings, store, metrics, clock, .. } = &self.parts;
        let result = match self.post(event).await {
            Ok(()) => EventResult::Sent,
            Err(error) => {
                metrics.events.of(EventResult::Failed).add_one();
                let (id, kind, user) = (&event.id, event.kind, &event.user.id);
                if clock.now().since(event.at) < settings.keep {
                    // Loud at first, and now and then: it may go on for days.
                    if failures.is_multiple_of(10) {
                        tracing::warn!(id, ?kind, %user, error, failures, "the app did not take an event; it is tried again");
                    }
                    return Err(error);
                }
                tracing::error!(id, ?kind, %user, error, "the app did not take an event for too long: it is given up");
                EventResult::GivenUp
            }
        };
        // Until this is durable it is told again, under the same id.
        let forgotten = store.commit(vec![Change::Told { number: event.number }]).await;
        forgotten.map_err(|error: StoreError| error.to_string())?;
        metrics.events.of(result).add_one();
        Ok(())
    }

    async fn post(&self, event: &Event) -> Result<(), String> {
        let EventsParts { settings, clock, .. } = &self.parts;
        let payload = Payload { kind: event.kind, timestamp: event.at.rfc3339_millis(), data: &event.user };
        let body = serde_json::to_vec(&payload).map_err(|error| error.to_string())?;
        let call = Call {
            url: settings.url.clone(),
            content_type: "application/json",
            headers: signature::headers(&settings.secret, &event.id, clock.now(), &body),
            body: Zeroizing::new(body),
            timeout: settings.timeout,
            wants_body: false,
        };
        let answer = self.caller.call(call).await.map_err(|error| error.to_string())?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status)) }
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::secret::Secret;
    use crate::store::contract::{START, account};
    use crate::store::memory::MemoryStore;

    /// An app that answers everything with this status, on a thread that ends with the process.
    fn app(status: &'static str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut seen = Vec::new();
                let mut piece = [0; 4096];
                // The body ends with the payload's last brace.
                while !seen.ends_with(b"}}") {
                    let read = stream.read(&mut piece).unwrap();
                    seen.extend_from_slice(&piece[..read]);
                }
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        });
        url
    }

    fn parts(url: &str, now: Timestamp) -> EventsParts {
        let store = MemoryStore::new();
        let changes = vec![Change::Tell { at: START }, Change::InsertAccount(account("alice"))];
        store.commit(changes).wait().unwrap();
        EventsParts {
            settings: EventSettings {
                url: url.parse().unwrap(),
                secret: Secret::new(b"secret".to_vec()),
                timeout: Duration::from_secs(20),
                keep: Duration::from_hours(1),
            },
            store: Arc::new(store),
            woken: Arc::default(),
            metrics: Arc::default(),
            clock: Arc::new(ManualClock::at(now)),
        }
    }

    fn until(is_so: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(std::time::Instant::now() < deadline);
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_nobody_takes_is_given_up_in_the_end_and_not_before() {
        for (later, given_up) in [(Duration::from_mins(59), 0), (Duration::from_mins(61), 1)] {
            let parts = parts(&app("500 Oh"), START.plus(later));
            let (store, metrics) = (Arc::clone(&parts.store), Arc::clone(&parts.metrics));
            let events = Events::start(parts).unwrap();
            until(|| metrics.events.of(EventResult::Failed).value() == 1);
            until(|| metrics.events_pending.value() == 1 - given_up);
            drop(events);
            assert_eq!(metrics.events.of(EventResult::GivenUp).value(), given_up.cast_unsigned());
            assert_eq!(metrics.events.of(EventResult::Sent).value(), 0);
            let left = store.outbox(0, 10).wait().unwrap();
            assert_eq!(left.events.len(), usize::from(given_up == 0));
        }
    }

    #[test]
    fn of_one_account_one_event_is_under_way() {
        let parts = parts("http://127.0.0.1:1/", START);
        let mut teller = Teller::new(parts);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for n in 0..20_u8 {
                let name = ["a", "b"][usize::from(n % 2)];
                let event = Event {
                    number: n.into(),
                    id: n.to_string(),
                    kind: EventKind::Updated,
                    at: START,
                    user: EventUser::of(&account(name)),
                };
                teller.queues.entry(event.user.id.clone()).or_default().events.push_back(event);
            }
            teller.begin();
            teller.begin();
            assert_eq!(teller.calls.len(), 2, "one for each account");
            teller.settle(&Told { user: account("a").id, result: Err("no".to_owned()) });
            teller.begin();
            assert_eq!(teller.calls.len(), 2, "a failed one has to wait");
            assert_eq!(teller.queues[&account("a").id].events[0].number, 0, "and is the next again");
            teller.settle(&Told { user: account("b").id, result: Ok(()) });
            teller.begin();
            assert_eq!(teller.calls.len(), 4, "the app is there: nobody waits");
            assert_eq!(teller.queues[&account("b").id].events[0].number, 3);
        });
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let secs: Vec<u64> = (1..=9).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
