//! Both backends against a model: random commits, purges and restarts must show the same to everyone.
//!
//! The model keeps plain maps and works every rule out anew from the documentation of [`Change`]; it has
//! no rows, no indices and no batches.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::contract::{Backend, account, at, email, key, name, revocation, session, sid, user};
use super::{Account, AccountKey, Change, Committed, EventKind, EventUser, Origin};
use super::{Session, Store, StoreError, StoredKey};
use crate::clock::Timestamp;
use crate::identity::{Email, SessionId, UserId};
use crate::settings::StoreSettings;
use crate::store::StoreOptions;
use crate::store::memory::MemoryKv;
use crate::store::sled::SledStore;
use crate::token::revocation::Revocation;

const IDS: [&str; 4] = ["1", "2", "3", "a"];
/// Some are ids as well.
const NAMES: [&str; 5] = ["a", "b", "c", "1", "2"];
const ADDRESSES: [&str; 4] = ["x@example.com", "X@example.com", "y@example.com", "z@example.com"];
const SESSIONS: u8 = 6;

#[derive(Clone, Debug, Default)]
struct Model {
    accounts: BTreeMap<UserId, Account>,
    removed: BTreeSet<UserId>,
    /// Who has, or had, a name.
    names: BTreeMap<String, UserId>,
    /// Addresses that somebody had.
    former: BTreeSet<String>,
    sessions: BTreeMap<SessionId, Session>,
    revocations: BTreeMap<u128, Timestamp>,
    keys: BTreeMap<String, StoredKey>,
    /// What waits to be told, by its number.
    outbox: BTreeMap<u64, (EventKind, EventUser)>,
    next_event: u64,
    /// Whether this commit's changes are told.
    telling: bool,
}

impl Model {
    fn commit(&mut self, changes: &[Change]) -> Result<Committed, StoreError> {
        let mut next = Self { telling: false, ..self.clone() };
        let mut done = Committed::default();
        for change in changes {
            next.apply(change, &mut done)?;
        }
        *self = next;
        Ok(done)
    }

    fn apply(&mut self, change: &Change, done: &mut Committed) -> Result<(), StoreError> {
        match change {
            Change::InsertAccount(account) => {
                if self.accounts.contains_key(&account.id) || self.removed.contains(&account.id) {
                    return Err(StoreError::NameTaken);
                }
                if self.names.get(account.id.as_str()).is_some_and(|owner| *owner != account.id) {
                    return Err(StoreError::NameTaken);
                }
                self.put(Account { version: 1, ..account.clone() })?;
                let vouched = account.origin.is_the_app();
                self.former.extend(account.email.as_ref().filter(|_| vouched).map(Email::key));
                self.leave(EventKind::Created, account);
                Ok(())
            }
            Change::UpdateAccount(account) => {
                self.expect(&account.id, account.version)?;
                let before = self.accounts[&account.id].clone();
                let gone = before.email.as_ref().map(Email::key);
                let kept = gone == account.email.as_ref().map(Email::key);
                self.former.extend(gone.filter(|_| before.email_verified && !kept));
                self.put(Account { version: account.version + 1, ..account.clone() })?;
                if account.disabled && !before.disabled {
                    self.leave(EventKind::Disabled, account);
                } else if EventUser::of(&before) != EventUser::of(account) {
                    self.leave(EventKind::Updated, account);
                }
                Ok(())
            }
            Change::RemoveAccount { id, version } => {
                self.expect(id, *version)?;
                if let Some(gone) = self.accounts.remove(id) {
                    self.former.extend(gone.email.as_ref().filter(|_| gone.email_verified).map(Email::key));
                    self.leave(EventKind::Deleted, &gone);
                }
                self.removed.insert(id.clone());
                self.end(|session| session.user == *id, done);
                Ok(())
            }
            Change::ExpectAccount { id, version } => self.expect(id, *version),
            Change::ExpectNewAddress(email) => {
                let has = |account: &Account| account.email.as_ref().map(Email::key) == Some(email.key());
                let taken = self.former.contains(&email.key()) || self.accounts.values().any(has);
                if taken { Err(StoreError::EmailTaken) } else { Ok(()) }
            }
            Change::InsertSession(session) => {
                if self.sessions.contains_key(&session.id) {
                    return Err(StoreError::Conflict);
                }
                self.sessions.insert(session.id, Session { version: 1, ..session.clone() });
                Ok(())
            }
            Change::UpdateSession(session) => {
                let newest = self.sessions.get(&session.id).map(|s| s.version);
                if newest != Some(session.version) {
                    return Err(StoreError::Conflict);
                }
                let next = Session { version: session.version + 1, ..session.clone() };
                self.sessions.insert(session.id, next);
                Ok(())
            }
            Change::EndSession(id) => {
                self.end(|session| session.id == *id, done);
                Ok(())
            }
            Change::EndSessions { user, except } => {
                self.end(|session| session.user == *user && Some(session.id) != *except, done);
                Ok(())
            }
            Change::Revoke(revocation) => {
                let until = self.revocations.entry(revocation.id.0).or_default();
                *until = revocation.until.max(*until);
                Ok(())
            }
            // One record and no index, or a list: the contract's own tests say it all.
            Change::InsertNumbered(_) | Change::PutAcme(_) => unreachable!("none is drawn"),
            Change::Tell { .. } => {
                self.telling = true;
                Ok(())
            }
            Change::Told { number } => {
                self.outbox.remove(number);
                Ok(())
            }
            Change::InsertKey(key) => {
                if self.keys.contains_key(&key.id) {
                    return Err(StoreError::Conflict);
                }
                self.keys.insert(key.id.clone(), key.clone());
                Ok(())
            }
        }
    }

    fn leave(&mut self, kind: EventKind, account: &Account) {
        if !self.telling {
            return;
        }
        let last = self.outbox.iter().rfind(|(_, (_, known))| known.id == account.id);
        if let Some((&number, (EventKind::Updated, _))) = last
            && kind == EventKind::Updated
        {
            self.outbox.remove(&number);
        }
        self.outbox.insert(self.next_event, (kind, EventUser::of(account)));
        self.next_event += 1;
    }

    fn put(&mut self, account: Account) -> Result<(), StoreError> {
        let called = account.username.as_ref().map_or(account.id.to_string(), ToString::to_string);
        let an_id = called.parse().is_ok_and(|id: UserId| {
            id != account.id && (self.accounts.contains_key(&id) || self.removed.contains(&id))
        });
        let owner = self.names.get(&called);
        if owner.is_some_and(|owner| *owner != account.id) || (owner.is_none() && an_id) {
            return Err(StoreError::NameTaken);
        }
        let address = account.email.as_ref().map(Email::key);
        let others = self.accounts.values().filter(|other| other.id != account.id);
        let mut taken = others.filter_map(|other| other.email.as_ref()).map(Email::key);
        if taken.any(|other| Some(other) == address) {
            return Err(StoreError::EmailTaken);
        }
        self.names.insert(called, account.id.clone());
        self.accounts.insert(account.id.clone(), account);
        Ok(())
    }

    fn expect(&self, id: &UserId, version: u64) -> Result<(), StoreError> {
        match self.accounts.get(id) {
            Some(account) if account.version == version => Ok(()),
            _ => Err(StoreError::Conflict),
        }
    }

    fn end(&mut self, which: impl Fn(&Session) -> bool, done: &mut Committed) {
        let mut ended: Vec<Session> = self.sessions.values().filter(|s| which(s)).cloned().collect();
        ended.sort_by_key(|session| (session.created_at, session.id));
        for session in ended {
            self.sessions.remove(&session.id);
            done.ended.push(session.id);
        }
    }

    /// Removes ended sessions and says how many. When revocations go is the store's own business
    /// between their end and a minute later.
    fn purge(&mut self, now: Timestamp) -> usize {
        let before = self.sessions.len();
        self.sessions.retain(|_, session| session.expires_at.min(session.ends_at) > now);
        self.revocations.retain(|_, until| *until > now);
        before - self.sessions.len()
    }
}

/// A step, as drawn. Indices are resolved against the model when it is taken.
#[derive(Clone, Debug)]
enum Step {
    /// Told or not.
    Commit(bool, Vec<Draw>),
    Purge(u64),
    Reopen,
}

#[derive(Clone, Debug)]
struct Draw {
    what: u8,
    who: Index,
    name: Option<Index>,
    address: Option<Index>,
    session: u8,
    secs: u64,
    /// Whether the version is not the newest.
    stale: bool,
    disabled: bool,
}

fn draw() -> impl Strategy<Value = Draw> {
    let name = proptest::option::weighted(0.8, any::<Index>());
    let address = proptest::option::weighted(0.6, any::<Index>());
    let stale = proptest::bool::weighted(0.1);
    let disabled = proptest::bool::weighted(0.2);
    (0..17u8, any::<Index>(), name, address, 1..=SESSIONS, 0..600u64, stale, disabled).prop_map(
        |(what, who, name, address, session, secs, stale, disabled)| Draw {
            what,
            who,
            name,
            address,
            session,
            secs,
            stale,
            disabled,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<bool>(), proptest::collection::vec(draw(), 1..4))
            .prop_map(|(told, draws)| Step::Commit(told, draws)),
        2 => (0..700u64).prop_map(Step::Purge),
        1 => Just(Step::Reopen),
    ]
}

impl Draw {
    fn change(&self, model: &Model) -> Change {
        let id = user(self.who.get::<&str>(&IDS));
        let newest = model.accounts.get(&id).map_or(1, |account| account.version);
        let version = newest + u64::from(self.stale);
        let drawn = Account {
            id: id.clone(),
            version,
            username: self.name.map(|index| name(index.get::<&str>(&NAMES))),
            email: self.address.map(|index| email(index.get::<&str>(&ADDRESSES))),
            email_verified: self.secs.is_multiple_of(3),
            origin: if self.secs % 3 == 1 { Origin::Imported } else { Origin::Registered },
            generation: self.secs,
            disabled: self.disabled,
            ..account("drawn")
        };
        let known = model.sessions.get(&sid(self.session));
        match self.what {
            0..=2 => Change::InsertAccount(drawn),
            3..=4 | 11..=12 => Change::UpdateAccount(drawn),
            5 => Change::RemoveAccount { id, version },
            6 => Change::ExpectAccount { id, version },
            7 => {
                let expires_at = at(self.secs);
                Change::InsertSession(Session { expires_at, ..session(&id, self.session) })
            }
            8 => {
                let known = known.cloned().unwrap_or_else(|| session(&id, self.session));
                let version = known.version + u64::from(self.stale);
                Change::UpdateSession(Session { version, expires_at: at(self.secs), ..known })
            }
            9 if self.stale => Change::EndSessions { user: id, except: Some(sid(self.session)) },
            9 => Change::EndSession(sid(self.session)),
            10 => Change::Revoke(revocation(u128::from(self.session), at(self.secs))),
            // One of the events that wait, or one that is gone.
            13 => Change::Told { number: self.who.index(usize::from(self.session) * 4) as u64 },
            14..=15 => {
                let index = self.address.unwrap_or(self.who);
                Change::ExpectNewAddress(email(index.get::<&str>(&ADDRESSES)))
            }
            _ => Change::InsertKey(key(&self.session.to_string(), at(self.secs))),
        }
    }
}

fn agrees(store: &impl Store, model: &Model, now: Timestamp) {
    let accounts: Vec<_> = model.accounts.values().cloned().collect();
    assert_eq!(store.accounts(None, 100).wait().unwrap(), accounts);
    for id in IDS.map(user) {
        let found = store.account(AccountKey::Id(id.clone())).wait().unwrap();
        assert_eq!(found.as_ref(), model.accounts.get(&id));
        let mut sessions: Vec<_> = model.sessions.values().filter(|s| s.user == id).cloned().collect();
        sessions.sort_by_key(|session| (session.created_at, session.id));
        assert_eq!(store.sessions(id).wait().unwrap(), sessions);
    }
    for name in NAMES.map(name) {
        let found = store.account(AccountKey::Name(name.clone())).wait().unwrap();
        let known = accounts.iter().find(|account| account.username.as_ref() == Some(&name));
        assert_eq!(found.as_ref(), known, "{name}");
    }
    for address in ADDRESSES.map(email) {
        let found = store.account(AccountKey::Email(address.clone())).wait().unwrap();
        let is_it = |other: &Email| other.key() == address.key();
        let known = accounts.iter().find(|account| account.email.as_ref().is_some_and(is_it));
        assert_eq!(found.as_ref(), known, "{address}");
    }
    for n in 1..=SESSIONS {
        let found = store.session(sid(n)).wait().unwrap();
        assert_eq!(found.as_ref(), model.sessions.get(&sid(n)));
    }
    let outbox = store.outbox(0, 1000).wait().unwrap();
    assert_eq!(outbox.pending, outbox.events.len() as u64);
    let told = outbox.events.into_iter().map(|event| (event.number, (event.kind, event.user)));
    assert_eq!(told.collect::<BTreeMap<_, _>>(), model.outbox);
    let live = |r: &Revocation| r.until > now;
    let found: BTreeMap<_, _> =
        store.revocations().wait().unwrap().into_iter().filter(live).map(|r| (r.id.0, r.until)).collect();
    assert_eq!(found, model.revocations);
    let mut keys: Vec<_> = model.keys.values().cloned().collect();
    keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    assert_eq!(store.keys().wait().unwrap(), keys);
}

fn follow<B: Backend>(backend: &B, steps: &[Step]) {
    let mut store = Some(backend.open());
    let mut model = Model::default();
    let mut latest = at(0);
    for step in steps {
        let open = store.as_ref().expect("it is opened again at once");
        match step {
            Step::Commit(told, draws) => {
                let tell = told.then_some(Change::Tell { at: at(0) });
                let changes = draws.iter().map(|draw| draw.change(&model));
                let changes: Vec<_> = tell.into_iter().chain(changes).collect();
                let expected = model.commit(&changes);
                let told = |done: &Result<Committed, StoreError>| done.clone().map(|done| done.numbered);
                assert_eq!(told(&open.rehearse(changes.clone()).wait()), told(&expected));
                assert_eq!(open.commit(changes).wait(), expected);
                // A revocation of the past is no matter of the model.
                model.revocations.retain(|_, until| *until > latest);
            }
            Step::Purge(secs) => {
                let now = at(*secs).max(latest);
                latest = now;
                let purged = open.purge(now).wait().unwrap();
                assert_eq!(purged.sessions, model.purge(now));
            }
            Step::Reopen => {
                drop(store.take());
                store = Some(backend.open());
            }
        }
        agrees(store.as_ref().expect("it is open"), &model, latest);
    }
}

struct Temporary(tempfile::TempDir);

impl Backend for Temporary {
    type Store = SledStore;
    fn open(&self) -> SledStore {
        let settings = StoreSettings { path: self.0.path().join("data"), min_free: 0 };
        SledStore::open(&settings, StoreOptions::default()).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_memory_store_follows_the_model(steps in proptest::collection::vec(step(), 1..40)) {
        follow(&MemoryKv::default(), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_sled_store_follows_the_model(steps in proptest::collection::vec(step(), 1..30)) {
        follow(&Temporary(tempfile::TempDir::new().unwrap()), &steps);
    }
}
