//! What is refused although its signature is good: the revocations, in memory.
//!
//! One set for every worker. Readers take no lock and allocate nothing: an open-addressing table of
//! atomics stands behind an [`ArcSwap`]; the one writer at a time adds to it in place and swaps in a new
//! table to grow. Keeping revocations over a restart is the store's business, when they end is `account`'s.
//!
//! The order that makes it safe: a writer publishes the entry, then raises [`RevocationList::epoch`];
//! a reader reads the epoch, then looks up. Who finds the epoch unchanged since a clean look-up has
//! missed nothing.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::identity::{SessionId, TokenId, UserId};

/// What a revocation is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationKind {
    /// One access token, by `jti`.
    Token,
    /// Every access token of a session, by `sid`.
    Session,
    /// Every access token of one generation of an account, by (`sub`, `gen`).
    Generation,
}

/// The 128-bit name of something revoked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RevocationId(pub u128);

impl RevocationId {
    /// One access token.
    #[must_use]
    pub fn token(id: &TokenId) -> Self {
        Self::derive(RevocationKind::Token, 0, id.as_bytes())
    }
    /// Every access token of a session.
    #[must_use]
    pub fn session(id: &SessionId) -> Self {
        Self::derive(RevocationKind::Session, 0, id.as_bytes())
    }
    /// Every access token of one generation of an account.
    #[must_use]
    pub fn generation(user: &UserId, generation: u64) -> Self {
        Self::derive(RevocationKind::Generation, generation, user.as_str().as_bytes())
    }

    /// Half of SHA-256 over kind and name: an equal name of another kind is another thing, and nobody
    /// can choose where in the table an entry falls.
    fn derive(kind: RevocationKind, number: u64, name: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&[kind as u8]);
        context.update(&number.to_be_bytes());
        context.update(name);
        let hash = context.finish();
        let half = hash.as_ref().first_chunk().expect("SHA-256 is 32 bytes long");
        Self(u128::from_be_bytes(*half))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    const fn halves(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }
}

/// One revocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// What kind of thing.
    pub kind: RevocationKind,
    /// Which one.
    pub id: RevocationId,
    /// When no token that it concerns can be valid any more.
    pub until: Timestamp,
}

/// Everything that is revoked now.
pub struct RevocationList {
    table: ArcSwap<Table>,
    epoch: AtomicU64,
    counts: [AtomicU64; 3],
    /// Held while the table changes.
    writer: Mutex<Writer>,
}

/// What only the writer needs to know.
#[derive(Default)]
struct Writer {
    /// Slots of the current table that are not empty, removed ones included.
    used: usize,
    /// Slots that hold a revocation.
    live: usize,
    /// Told of everything that is revoked.
    followers: Vec<mpsc::Sender<Revocation>>,
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationList")
            .field("epoch", &self.epoch())
            .field("counts", &self.counts())
            .finish()
    }
}

impl Default for RevocationList {
    fn default() -> Self {
        Self::new()
    }
}

impl RevocationList {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// An empty list with room for so many, to be filled from the store without growing on the way.
    #[must_use]
    pub fn with_capacity(entries: usize) -> Self {
        Self {
            table: ArcSwap::from_pointee(Table::with_capacity(entries)),
            epoch: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; 3],
            writer: Mutex::default(),
        }
    }

    /// Everything that is revoked from here on, until the receiver is dropped.
    pub fn follow(&self) -> mpsc::Receiver<Revocation> {
        let (follower, news) = mpsc::channel();
        self.lock().followers.push(follower);
        news
    }

    /// Whether this is revoked. Lock-free. An entry counts until it is purged, whatever the time.
    #[must_use]
    pub fn contains(&self, id: RevocationId) -> bool {
        self.table.load().find(id).is_some()
    }

    /// A number that has changed whenever something was revoked. Read it *before* looking up.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Revokes: every look-up that begins after this returns finds it. True when it was not revoked
    /// already; otherwise the later end of the two counts, and [`withdraw`](Self::withdraw) does nothing
    /// any more, since now somebody else relies on the entry too.
    pub fn insert(&self, revocation: Revocation) -> bool {
        let mut writer = self.lock();
        writer.followers.retain(|follower| follower.send(revocation).is_ok());
        let table = self.table.load_full();
        if let Some(slot) = table.find(revocation.id) {
            let old = Entry::unpack(slot.entry.load(Ordering::Relaxed));
            let until = old.until.max(revocation.until.millis());
            slot.entry.store(Entry { until, shared: true, ..old }.pack(), Ordering::Release);
            return false;
        }
        let table = if table.is_full(writer.used) { self.rebuild(&mut writer, &table) } else { table };
        let entry = Entry { kind: revocation.kind, shared: false, until: revocation.until.millis() };
        table.insert(revocation.id, entry);
        writer.used += 1;
        writer.live += 1;
        self.counts[revocation.kind as usize].fetch_add(1, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Release);
        true
    }

    /// Takes back what [`insert`](Self::insert) said was new, because it could not be stored. Nothing
    /// happens when it was inserted again meanwhile.
    pub fn withdraw(&self, id: RevocationId) {
        let mut writer = self.lock();
        let table = self.table.load();
        let Some(slot) = table.find(id) else { return };
        let entry = Entry::unpack(slot.entry.load(Ordering::Relaxed));
        if !entry.shared {
            self.remove(&mut writer, slot, entry);
        }
    }

    /// Forgets what ended before or at `now`. Returns how many that were.
    pub fn purge(&self, now: Timestamp) -> usize {
        let mut writer = self.lock();
        let table = self.table.load_full();
        let before = writer.live;
        for slot in &table.slots {
            let packed = slot.entry.load(Ordering::Relaxed);
            if Entry::is_live(packed) {
                let entry = Entry::unpack(packed);
                if entry.until <= now.millis() {
                    self.remove(&mut writer, slot, entry);
                }
            }
        }
        // Removed slots lengthen every search that passes them.
        if (writer.used - writer.live) * 4 > table.slots.len() {
            self.rebuild(&mut writer, &table);
        }
        before - writer.live
    }

    /// How many there are of each [`RevocationKind`], in its order.
    #[must_use]
    pub fn counts(&self) -> [u64; 3] {
        self.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, writer: &mut Writer, slot: &Slot, entry: Entry) {
        slot.entry.store(REMOVED, Ordering::Release);
        writer.live -= 1;
        self.counts[entry.kind as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Swaps in a table of the right size, without the removed slots. A reader that still holds the old
    /// one sees what was revoked when it began.
    fn rebuild(&self, writer: &mut Writer, old: &Table) -> Arc<Table> {
        // Room to spare, so that the next few do not rebuild it again.
        let new = Table::with_capacity(writer.live + writer.live / 4 + 1);
        for slot in &old.slots {
            let packed = slot.entry.load(Ordering::Relaxed);
            if Entry::is_live(packed) {
                new.insert(slot.id(), Entry::unpack(packed));
            }
        }
        writer.used = writer.live;
        let new = Arc::new(new);
        self.table.store(Arc::clone(&new));
        new
    }
}

/// 24 bytes a slot, at most three in four used: a million entries take 48 MiB.
struct Table {
    /// A power of two of them, at least one always empty, so that every search ends.
    slots: Box<[Slot]>,
}

/// Written once, id first; only `entry` changes afterwards. A reader that sees an entry therefore sees
/// the id that belongs to it. Removed slots are not used again before the next table.
#[derive(Default)]
struct Slot {
    entry: AtomicU64,
    high: AtomicU64,
    low: AtomicU64,
}

const EMPTY: u64 = 0;
/// Kind 0 does not exist.
const REMOVED: u64 = 1 << 3;

/// An entry's word: kind + 1 in two bits, `shared` in one, the end in the rest (milliseconds).
#[derive(Clone, Copy)]
struct Entry {
    kind: RevocationKind,
    shared: bool,
    until: u64,
}

impl Entry {
    const fn pack(self) -> u64 {
        let until = if self.until > u64::MAX >> 3 { u64::MAX >> 3 } else { self.until };
        until << 3 | (self.shared as u64) << 2 | (self.kind as u64 + 1)
    }
    const fn is_live(packed: u64) -> bool {
        packed & 3 != 0
    }
    const fn unpack(packed: u64) -> Self {
        let kind = match packed & 3 {
            1 => RevocationKind::Token,
            2 => RevocationKind::Session,
            _ => RevocationKind::Generation,
        };
        Self { kind, shared: packed & 4 != 0, until: packed >> 3 }
    }
}

impl Slot {
    fn id(&self) -> RevocationId {
        let (high, low) = (self.high.load(Ordering::Relaxed), self.low.load(Ordering::Relaxed));
        RevocationId(u128::from(high) << 64 | u128::from(low))
    }
}

impl Table {
    fn with_capacity(entries: usize) -> Self {
        let slots = (entries.saturating_mul(4) / 3 + 1).next_power_of_two().max(1024);
        Self { slots: std::iter::repeat_with(Slot::default).take(slots).collect() }
    }

    /// Whether another entry would leave too few empty slots.
    fn is_full(&self, used: usize) -> bool {
        (used + 1) * 4 > self.slots.len() * 3
    }

    /// The slots in the order in which `id` may be found.
    fn probe(&self, id: RevocationId) -> impl Iterator<Item = &Slot> {
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "masked")]
        let start = id.halves().1 as usize & mask;
        self.slots[start..].iter().chain(&self.slots[..start])
    }

    fn find(&self, id: RevocationId) -> Option<&Slot> {
        for slot in self.probe(id) {
            let entry = slot.entry.load(Ordering::Acquire);
            if entry == EMPTY {
                return None;
            }
            if Entry::is_live(entry) && slot.id() == id {
                return Some(slot);
            }
        }
        None
    }

    /// Only by the writer, and only for an id that is not there.
    fn insert(&self, id: RevocationId, entry: Entry) {
        let empty = self.probe(id).find(|slot| slot.entry.load(Ordering::Relaxed) == EMPTY);
        let slot = empty.expect("is_full() keeps a slot empty");
        let (high, low) = id.halves();
        slot.high.store(high, Ordering::Relaxed);
        slot.low.store(low, Ordering::Relaxed);
        slot.entry.store(entry.pack(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn revocation(id: u128, until: u64) -> Revocation {
        Revocation { kind: RevocationKind::Token, id: RevocationId(id), until: Timestamp::from_secs(until) }
    }

    #[test]
    fn ids_differ_by_kind_name_and_number() {
        let bytes = [7; 16];
        let user: UserId = "alice".parse().unwrap();
        let ids = [
            RevocationId::token(&TokenId::from_bytes(bytes)),
            RevocationId::session(&SessionId::from_bytes(bytes)),
            RevocationId::token(&TokenId::from_bytes([8; 16])),
            RevocationId::generation(&user, 0),
            RevocationId::generation(&user, 1),
            RevocationId::generation(&"alicf".parse().unwrap(), 0),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert_eq!(ids[3], RevocationId::generation(&user, 0), "and nothing else goes into them");
    }

    #[test]
    fn what_is_inserted_is_found_and_counted_by_kind() {
        let list = RevocationList::new();
        assert!(!list.contains(RevocationId(1)));
        assert!(list.insert(revocation(1, 10)));
        assert!(list.insert(Revocation { kind: RevocationKind::Generation, ..revocation(2, 10) }));
        assert!(list.contains(RevocationId(1)) && list.contains(RevocationId(2)));
        assert!(!list.contains(RevocationId(3)));
        assert_eq!(list.counts(), [1, 0, 1]);
    }

    #[test]
    fn ids_of_zeros_and_ids_that_collide_are_ordinary() {
        let list = RevocationList::new();
        // Given ids that all start their search in the last slot, zero among them.
        let collide: Vec<u128> = (0..50).map(|n: u128| n << 64 | 0xffff).collect();
        assert!(!list.contains(RevocationId(0)));
        assert!(list.insert(revocation(0, 10)));
        for id in &collide {
            assert!(!list.contains(RevocationId(*id)));
            assert!(list.insert(revocation(*id, 10)));
        }
        // Then each is found, half-equal ones are not, and removing one hides none of the others.
        assert!(list.contains(RevocationId(0)));
        assert!(!list.contains(RevocationId(50 << 64 | 0xffff)));
        list.withdraw(RevocationId(collide[10]));
        for (n, id) in collide.iter().enumerate() {
            assert_eq!(list.contains(RevocationId(*id)), n != 10, "{n}");
        }
    }

    #[test]
    fn each_new_revocation_raises_the_epoch() {
        let list = RevocationList::new();
        let start = list.epoch();
        list.insert(revocation(1, 10));
        let after_one = list.epoch();
        assert_ne!(after_one, start);
        list.insert(revocation(2, 10));
        assert_ne!(list.epoch(), after_one);
    }

    #[test]
    fn it_grows_and_loses_nothing() {
        let list = RevocationList::new();
        let ids: Vec<_> =
            (0..20_000_u64).map(|n| RevocationId::generation(&"u".parse().unwrap(), n)).collect();
        for id in &ids {
            assert!(list.insert(Revocation {
                kind: RevocationKind::Session,
                id: *id,
                until: Timestamp::from_secs(1)
            }));
        }
        assert!(ids.iter().all(|id| list.contains(*id)));
        assert!(!list.contains(RevocationId::generation(&"u".parse().unwrap(), 20_000)));
        assert_eq!(list.counts(), [0, 20_000, 0]);
    }

    #[test]
    fn a_million_entries_fit_into_48_mib() {
        assert_eq!(size_of::<Slot>(), 24);
        let table = Table::with_capacity(1_000_000);
        assert!(!table.is_full(999_999));
        assert!(table.slots.len() * size_of::<Slot>() <= 48 << 20);
        // Grown, not sized: the last growth happens at three quarters of half of that.
        assert_eq!(Table::with_capacity(786_432 + 786_432 / 4 + 1).slots.len(), table.slots.len());
    }

    #[test]
    fn purge_forgets_what_ended_and_nothing_else() {
        let list = RevocationList::new();
        for n in 0..10_000 {
            list.insert(revocation(n, u64::try_from(n % 100).unwrap()));
        }
        let purged = list.purge(Timestamp::from_secs(49));
        assert_eq!(purged, 5_000);
        for n in 0..10_000 {
            assert_eq!(list.contains(RevocationId(n)), n % 100 > 49, "{n}");
        }
        assert_eq!(list.counts(), [5_000, 0, 0]);
        assert_eq!(list.purge(Timestamp::from_secs(49)), 0);
        assert!(list.insert(revocation(0, 1_000)), "what was purged can be revoked anew");
        assert!(list.contains(RevocationId(0)));
    }

    #[test]
    fn a_repeated_insert_keeps_the_later_end() {
        for (first, second) in [(10, 100), (100, 10)] {
            let list = RevocationList::new();
            assert!(list.insert(revocation(1, first)));
            assert!(!list.insert(revocation(1, second)));
            assert_eq!(list.counts(), [1, 0, 0]);
            list.purge(Timestamp::from_secs(99));
            assert!(list.contains(RevocationId(1)), "{first}, {second}");
        }
    }

    #[test]
    fn withdraw_takes_back_what_was_new() {
        let list = RevocationList::new();
        assert!(list.insert(revocation(1, 10)));
        list.withdraw(RevocationId(1));
        assert!(!list.contains(RevocationId(1)));
        assert_eq!(list.counts(), [0, 0, 0]);
        list.withdraw(RevocationId(1));
        list.withdraw(RevocationId(2));
        assert!(list.insert(revocation(1, 10)), "and it can be revoked again");
        assert!(list.contains(RevocationId(1)));
    }

    #[test]
    fn withdraw_leaves_what_somebody_else_revoked_meanwhile() {
        // Given A, who revoked first, and B, who did too and whose commit went well.
        let list = RevocationList::new();
        assert!(list.insert(revocation(1, 10)));
        assert!(!list.insert(revocation(1, 10)));
        // When A's commit fails, then B's revocation stands.
        list.withdraw(RevocationId(1));
        assert!(list.contains(RevocationId(1)));
    }

    #[test]
    fn removed_slots_do_not_fill_the_table() {
        let list = RevocationList::new();
        for n in 0..100_000 {
            assert!(list.insert(revocation(n, 10)));
            list.withdraw(RevocationId(n));
        }
        assert_eq!(list.table.load().slots.len(), 1024);
        assert_eq!(list.counts(), [0, 0, 0]);
    }

    #[test]
    fn an_end_beyond_the_calendar_is_kept() {
        let list = RevocationList::new();
        list.insert(Revocation { until: Timestamp::from_millis(u64::MAX), ..revocation(1, 0) });
        assert_eq!(list.counts(), [1, 0, 0]);
        list.purge(Timestamp::from_secs(1 << 40));
        assert!(list.contains(RevocationId(1)));
    }

    /// One writer grows, purges and withdraws; readers look all the while. What was there before they
    /// began is always found, what was never inserted never is, and who sees an epoch sees its entry.
    #[test]
    fn readers_are_right_while_the_writer_works() {
        const NEW: u64 = 30_000;
        let list = RevocationList::new();
        let fixed: Vec<u128> = (0..500).map(|n| n * 0x1_0000_0000_0000_0001 + 1).collect();
        for id in &fixed {
            list.insert(revocation(*id, u64::MAX));
        }
        let base = list.epoch();
        // The n-th insertion after `base` has this id.
        let nth = |n: u64| RevocationId::generation(&"w".parse().unwrap(), n);
        let ids: Vec<RevocationId> = (0..NEW).map(nth).collect();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let seen = usize::try_from(list.epoch() - base).unwrap();
                        if seen > 0 {
                            assert!(list.contains(ids[seen - 1]), "epoch {seen} without its entry");
                        }
                        for id in &fixed {
                            assert!(list.contains(RevocationId(*id)));
                            assert!(!list.contains(RevocationId(*id + 1)));
                        }
                    }
                });
            }
            for (n, id) in ids.iter().enumerate() {
                assert!(list.insert(Revocation { id: *id, ..revocation(0, 1_000) }));
                if n % 5_000 == 4_999 {
                    list.purge(Timestamp::from_secs(5));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(ids.iter().all(|id| list.contains(*id)));
    }
}
