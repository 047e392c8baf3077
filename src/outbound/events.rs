//! `[events]`: tells the app of accounts, from the outbox in the store.
//!
//! An event is in the store before anybody hears of what it tells, and leaves it when the app has answered
//! with 2xx. So it comes at least once: a process that dies in between tells it again, under the same
//! id. Of one account one event is under way at a time, the next one after it was taken; how accounts do not wait
//! for each other is in `line.rs`.

mod line;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::line::{Line, Turn};
use super::caller::{Call, Caller, Wants};
use super::signature;
use crate::clock::Clock;
use crate::identity::UserId;
use crate::metrics::{EventResult, Metrics};
use crate::settings::EventSettings;
use crate::store::{Change, Event, EventKind, EventUser, Store, StoreError};

/// Calls under way.
const AT_ONCE: usize = 8;
/// The pause when the store cannot be read: while another process has it, or it is full.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What it works with.
pub struct EventsParts {
    /// `[events]`
    pub settings: EventSettings,
    /// Where the outbox is.
    pub store: Arc<dyn Store>,
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
            runtime.block_on(Dispatcher::new(parts).run(stopped));
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

/// How telling one event ended.
struct Delivered {
    user: UserId,
    /// Whether it needs not be told any more.
    done: bool,
}

/// What telling needs, shared by the calls under way.
struct Delivery {
    caller: Caller,
    parts: EventsParts,
}

struct Dispatcher {
    delivery: Arc<Delivery>,
    line: Line,
    /// The number from which the outbox was not read yet.
    next: u64,
    /// Whether there may be more to read, and from when on.
    look: Option<Instant>,
    calls: JoinSet<Delivered>,
}

impl Dispatcher {
    fn new(parts: EventsParts) -> Self {
        let delivery = Arc::new(Delivery { caller: Caller::new(), parts });
        Self { delivery, line: Line::default(), next: 0, look: Some(Instant::now()), calls: JoinSet::new() }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let woken = self.delivery.parts.store.more_in_outbox();
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
                        if let Ok(delivered) = ended {
                            self.settle(&delivered);
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
        if let Err(error) = self.read_on().await {
            tracing::debug!(%error, "the outbox cannot be read");
            self.look = Some(Instant::now() + STORE_PAUSE);
        }
    }

    async fn read_on(&mut self) -> Result<(), StoreError> {
        let EventsParts { store, metrics, .. } = &self.delivery.parts;
        let room = self.line.room();
        let outbox = store.outbox(self.next, room).await?;
        metrics.events_pending.set(i64::try_from(outbox.pending).unwrap_or(i64::MAX));
        let full_page = room > 0 && outbox.events.len() == room;
        let superseded = self.line.superseded(&outbox.events);
        let recount = !superseded.is_empty();
        if recount {
            // Most are gone already; those that are not must be before the newer one is told and forgotten, or
            // they would be told after it by the next process.
            store.commit(superseded.into_iter().map(|number| Change::Told { number }).collect()).await?;
        }
        if let Some(last) = outbox.events.last() {
            self.next = last.number + 1;
        }
        self.line.load(outbox.events);
        let more = full_page && self.line.room() > 0;
        self.look = (more || recount).then(Instant::now);
        Ok(())
    }

    /// Starts as many calls as may be under way.
    fn begin(&mut self) {
        while self.calls.len() < AT_ONCE {
            let Some(Turn { event, failures }) = self.line.take_turn(Instant::now()) else { return };
            let delivery = Arc::clone(&self.delivery);
            self.calls.spawn(async move {
                let done = delivery.deliver(&event, failures).await.is_ok();
                Delivered { user: event.user.id, done }
            });
        }
    }

    fn settle(&mut self, delivered: &Delivered) {
        self.line.settle(&delivered.user, delivered.done, Instant::now());
        // There may be room now. And what waits is counted anew: what was told may have been replaced meanwhile,
        // by one that waits.
        self.look = Some(Instant::now());
    }

    /// When something is to be done that nobody wakes us for.
    fn next_wake(&self) -> Option<Instant> {
        let turn = (self.calls.len() < AT_ONCE).then(|| self.line.next_turn(Instant::now())).flatten();
        turn.into_iter().chain(self.look).min()
    }
}

impl Delivery {
    /// Tells one event, and takes it out of the outbox.
    async fn deliver(&self, event: &Event, failures: u32) -> Result<(), String> {
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
            wants: Wants::Status,
        };
        let answer = self.caller.call(call).await.map_err(|error| error.to_string())?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status)) }
    }
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
    use std::sync::mpsc;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::secret::Secret;
    use crate::store::contract::{Backend as _, START, account};
    use crate::store::memory::{MemoryKv, MemoryStore};
    use crate::store::{Account, AccountKey, Kv as _};

    /// An app that answers each body as it is told to, on a thread that ends with the process.
    fn app(answer: impl Fn(&str) -> &'static str + Send + 'static) -> String {
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
                let text = String::from_utf8(seen).unwrap();
                let status = answer(text.split_once("\r\n\r\n").unwrap().1);
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        });
        url
    }

    fn parts(url: &str, now: Timestamp, store: MemoryStore) -> EventsParts {
        EventsParts {
            settings: EventSettings {
                url: url.parse().unwrap(),
                secret: Secret::new(b"secret".to_vec()),
                timeout: Duration::from_secs(20),
                keep: Duration::from_hours(1),
            },
            store: Arc::new(store),
            metrics: Arc::default(),
            clock: Arc::new(ManualClock::at(now)),
        }
    }

    fn insert(store: &dyn Store, text: &str) {
        let changes = vec![Change::Tell { at: START }, Change::InsertAccount(account(text))];
        store.commit(changes).wait().unwrap();
    }

    fn rename(store: &dyn Store, text: &str) {
        let known = store.account(AccountKey::Id(account("alice").id)).wait().unwrap().unwrap();
        let named = Account { name: Some(text.to_owned()), ..known };
        store.commit(vec![Change::Tell { at: START }, Change::UpdateAccount(named)]).wait().unwrap();
    }

    /// What waits, by the names that it tells of.
    fn waiting(store: &dyn Store) -> Vec<String> {
        let events = store.outbox(0, 9999).wait().unwrap().events;
        events.into_iter().map(|event| event.user.name.unwrap_or_default()).collect()
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
            let parts = parts(&app(|_| "500 Oh"), START.plus(later), MemoryStore::new());
            let (store, metrics) = (Arc::clone(&parts.store), Arc::clone(&parts.metrics));
            insert(&*store, "alice");
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
    fn an_update_that_is_replaced_while_it_is_under_way_is_followed_by_the_newer_one() {
        let ((came, told), (go_on, held)) = (mpsc::channel(), mpsc::channel::<()>());
        let url = app(move |body| {
            came.send(body.to_owned()).unwrap();
            held.recv().unwrap();
            "200 OK"
        });
        let parts = parts(&url, START, MemoryStore::new());
        let (store, metrics) = (Arc::clone(&parts.store), Arc::clone(&parts.metrics));
        insert(&*store, "alice");
        store.commit(vec![Change::Told { number: 0 }]).wait().unwrap();
        rename(&*store, "first");
        let _events = Events::start(parts).unwrap();
        assert!(told.recv().unwrap().contains("first"));
        rename(&*store, "second");
        rename(&*store, "third");
        assert_eq!(waiting(&*store), ["third"]);
        go_on.send(()).unwrap();
        assert!(told.recv().unwrap().contains("third"));
        until(|| metrics.events.of(EventResult::Sent).value() == 1);
        assert_eq!(waiting(&*store), ["third"], "what was told was the first one");
        until(|| metrics.events_pending.value() == 1);
        go_on.send(()).unwrap();
        until(|| metrics.events_pending.value() == 0);
        assert_eq!(waiting(&*store), [""; 0]);
    }

    /// The outbox of a store that was written when each change left one more.
    #[test]
    fn what_is_superseded_is_out_of_the_store_before_the_newer_one_is_told() {
        let kv = MemoryKv::default();
        let store = kv.open();
        insert(&store, "alice");
        for n in 0..1200 {
            rename(&store, &n.to_string());
            let index = [b"w", account("alice").id.as_str().as_bytes()].concat();
            kv.apply(&[(index, None)].into()).unwrap();
        }
        insert(&store, "bob");
        assert_eq!(waiting(&store).len(), 1202);
        let (came, told) = mpsc::channel();
        let url = app(move |body| {
            came.send(body.to_owned()).unwrap();
            if body.contains("user.updated") { "500 Oh" } else { "200 OK" }
        });
        let parts = parts(&url, START, store);
        let (store, metrics) = (Arc::clone(&parts.store), Arc::clone(&parts.metrics));
        let _events = Events::start(parts).unwrap();
        until(|| metrics.events_pending.value() == 1);
        assert_eq!(waiting(&*store), ["1199"], "although no update was taken");
        let told: Vec<String> = told.try_iter().collect();
        assert!(told.iter().take(3).any(|body| body.contains(r#""username":"bob""#)), "{told:?}");
        assert!(told.len() < 50, "{} calls", told.len());
    }

    #[test]
    fn a_full_line_is_read_on_when_an_account_is_refused() {
        let parts = parts("http://127.0.0.1:1/", START, MemoryStore::new());
        insert(&*parts.store, "bob");
        let mut dispatcher = Dispatcher::new(parts);
        let room = dispatcher.line.room() as u64;
        let event = |number: u64| {
            let user = EventUser::of(&account(&format!("user{number}")));
            Event { number, id: number.to_string(), kind: EventKind::Created, at: START, user }
        };
        dispatcher.line.load((100..100 + room).map(event).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            dispatcher.read().await;
            assert_eq!((dispatcher.line.room(), dispatcher.look), (0, None));
            let turn = dispatcher.line.take_turn(Instant::now()).unwrap();
            dispatcher.settle(&Delivered { user: turn.event.user.id, done: false });
            assert!(dispatcher.look.is_some());
            dispatcher.read().await;
            assert_eq!((dispatcher.line.room(), dispatcher.next), (0, 1), "there was room for bob");
        });
    }
}
