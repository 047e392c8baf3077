//! What every store must show, as functions over a backend that can be opened again.
//!
//! `each_behaviour!` makes a test of each of them; its argument makes a fresh backend. A new backend starts with that line.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::{Account, AccountKey, AcmeCertificate, AcmeState, Origin, SecretText};
use super::{Change, Committed, EventKind, EventUser, KeyMaterial, KeyPurpose, Outbox, PasswordHash, Purged};
use super::{Session, Store, StoreError, StoredKey};
use crate::clock::Timestamp;
use crate::identity::{Email, SessionId, UserId, Username};
use crate::token::refresh::{RefreshChain, SpentRefresh};
use crate::token::revocation::{Revocation, RevocationId, RevocationKind};

/// Where a store's rows stay while it is opened and closed.
pub trait Backend {
    /// The store over it.
    type Store: Store + Closes;
    /// Opens what is there. The store that was open before is closed.
    fn open(&self) -> Self::Store;
}

/// Can be closed by hand.
pub trait Closes {
    /// As dropping it.
    fn close(&self);
}

impl<K> Closes for super::Engine<K> {
    fn close(&self) {
        Self::close(self);
    }
}

/// The moment at which the tests' records were made.
pub const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// So many seconds after [`START`].
pub fn at(secs: u64) -> Timestamp {
    START.plus(Duration::from_secs(secs))
}

/// An id.
pub fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

/// A username.
pub fn name(text: &str) -> Username {
    text.parse().unwrap()
}

/// An address.
pub fn email(text: &str) -> Email {
    text.parse().unwrap()
}

/// An account with the id `id-NAME`, that username, and no address.
pub fn account(text: &str) -> Account {
    Account {
        id: user(&format!("id-{text}")),
        version: 0,
        username: Some(name(text)),
        email: None,
        email_verified: false,
        name: None,
        roles: BTreeSet::from(["user".parse().unwrap()]),
        password: PasswordHash::from("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA".to_owned()),
        disabled: false,
        generation: 0,
        origin: Origin::Registered,
        created_at: START,
        updated_at: START,
    }
}

/// The same with an address.
pub fn account_at(text: &str, address: &str) -> Account {
    Account { email: Some(email(address)), ..account(text) }
}

/// A commit that ended these sessions.
fn ended(sessions: &[SessionId]) -> Committed {
    Committed { ended: sessions.to_vec(), ..Committed::default() }
}

/// A session id made of a number.
pub fn sid(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

/// A session that was made `n` seconds after [`START`] and ends 1000 seconds after it.
pub fn session(user: &UserId, n: u8) -> Session {
    Session {
        id: sid(n),
        version: 0,
        user: user.clone(),
        created_at: at(u64::from(n)),
        last_used_at: at(u64::from(n)),
        expires_at: at(1000),
        ends_at: at(9000),
        amr: vec!["pwd".to_owned()],
        client: "curl/8".to_owned(),
        address: "192.0.2.1".to_owned(),
        chain: RefreshChain {
            counter: u32::from(n),
            current: [n; 32],
            parent: Some(SpentRefresh { hash: [1; 32], spent_at: START }),
        },
    }
}

/// A revocation of a token.
pub fn revocation(id: u128, until: Timestamp) -> Revocation {
    Revocation { kind: RevocationKind::Token, id: RevocationId(id), until }
}

/// A key.
pub fn key(id: &str, created_at: Timestamp) -> StoredKey {
    let material = KeyMaterial::new(id.as_bytes().to_vec());
    StoredKey { id: id.to_owned(), purpose: KeyPurpose::SignAccess, created_at, material }
}

fn insert(store: &impl Store, account: Account) -> Account {
    let id = account.id.clone();
    store.commit(vec![Change::InsertAccount(account)]).wait().unwrap();
    by_id(store, &id).unwrap()
}

fn insert_session(store: &impl Store, session: Session) -> Session {
    let id = session.id;
    store.commit(vec![Change::InsertSession(session)]).wait().unwrap();
    store.session(id).wait().unwrap().unwrap()
}

fn by_id(store: &impl Store, id: &UserId) -> Option<Account> {
    store.account(AccountKey::Id(id.clone())).wait().unwrap()
}

fn by_name(store: &impl Store, text: &str) -> Option<UserId> {
    store.account(AccountKey::Name(name(text))).wait().unwrap().map(|account| account.id)
}

fn by_email(store: &impl Store, text: &str) -> Option<UserId> {
    store.account(AccountKey::Email(email(text))).wait().unwrap().map(|account| account.id)
}

fn session_ids(store: &impl Store, user: &UserId) -> Vec<SessionId> {
    store.sessions(user.clone()).wait().unwrap().into_iter().map(|session| session.id).collect()
}

fn refused(store: &impl Store, changes: Vec<Change>) -> StoreError {
    store.commit(changes).wait().unwrap_err()
}

/// Declares behaviours, and the macro that makes tests of all of them.
macro_rules! behaviours {
    ($($(#[$doc:meta])* fn $name:ident($store:ident, $backend:ident) $body:block)+) => {
        $($(#[$doc])* #[doc = stringify!($name)] pub fn $name<B: Backend>($backend: &B) {
            let $store = $backend.open();
            $body
        })+
        macro_rules! each_behaviour {
            ($new:expr) => { $(#[test] fn $name() { $crate::store::contract::$name(&$new); })+ };
        }
        // The names, to see that the list is not empty.
        pub(super) const BEHAVIOURS: &[&str] = &[$(stringify!($name)),+];
    };
}

behaviours! {
    fn an_account_is_found_by_id_name_and_address(store, _backend) {
        let given = account_at("alice", "Alice@example.com");
        let kept = insert(&store, given.clone());
        assert_eq!(kept, Account { version: 1, ..given });
        assert_eq!(by_name(&store, "alice"), Some(kept.id.clone()));
        assert_eq!(by_email(&store, "alice@EXAMPLE.com"), Some(kept.id));
    }

    fn what_was_never_inserted_is_not_there(store, _backend) {
        assert_eq!(by_id(&store, &user("nobody")), None);
        assert_eq!(by_name(&store, "nobody"), None);
        assert_eq!(by_email(&store, "nobody@example.com"), None);
        assert_eq!(store.session(sid(1)).wait(), Ok(None));
        assert_eq!(store.sessions(user("nobody")).wait(), Ok(vec![]));
        assert_eq!(store.accounts(None, 10).wait(), Ok(vec![]));
        assert_eq!(store.revocations().wait(), Ok(vec![]));
        assert_eq!(store.keys().wait(), Ok(vec![]));
    }

    /// A number is given once, also beside ids, names and removed accounts that look like one.
    fn ids_in_sequence_pass_what_is_taken(store, backend) {
        let numbered = |store: &B::Store, text: &str| {
            let done = store.commit(vec![Change::InsertNumbered(account(text))]).wait().unwrap();
            done.numbered.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(numbered(&store, "a"), ["1"]);
        let imported = insert(&store, Account { id: user("7"), ..account("b") });
        insert(&store, Account { id: user("005"), ..account("c") });
        insert(&store, account("8"));
        assert_eq!(numbered(&store, "d"), ["9"]);
        store.commit(vec![Change::RemoveAccount { id: user("9"), version: 1 }]).wait().unwrap();
        drop(store);
        let store = backend.open();
        let twice = vec![Change::InsertNumbered(account("e")), Change::InsertNumbered(account("f"))];
        assert_eq!(store.commit(twice).wait().unwrap().numbered, [user("10"), user("11")]);
        assert_eq!(by_name(&store, "f"), Some(user("11")));
        assert_eq!(by_id(&store, &imported.id), Some(imported));
        // The last ones that JavaScript and many a column hold, and what is beyond: not followed.
        for (id, called) in [("18446744073709551615", "g"), ("9007199254740991", "g1"), ("4503599627370496", "g2")] {
            insert(&store, Account { id: user(id), ..account(called) });
        }
        assert_eq!(numbered(&store, "h"), ["12"]);
        // From the last that is, there is a long way to them.
        insert(&store, Account { id: user("4503599627370495"), ..account("i") });
        assert_eq!(numbered(&store, "j"), ["4503599627370497"], "and one is taken");
        assert_eq!(numbered(&store, "k"), ["4503599627370498"]);
    }

    fn a_name_is_taken_once(store, _backend) {
        insert(&store, account("alice"));
        let other = Account { id: user("other"), ..account("alice") };
        assert_eq!(refused(&store, vec![Change::InsertAccount(other)]), StoreError::NameTaken);
        assert_eq!(by_id(&store, &user("other")), None);
        assert_eq!(by_name(&store, "alice"), Some(user("id-alice")));
    }

    fn an_id_is_taken_once(store, _backend) {
        insert(&store, account("alice"));
        let other = Account { username: Some(name("bob")), ..account("alice") };
        assert_eq!(refused(&store, vec![Change::InsertAccount(other)]), StoreError::NameTaken);
        assert_eq!(by_name(&store, "bob"), None);
    }

    fn an_address_is_taken_once_in_whatever_spelling(store, _backend) {
        insert(&store, account_at("alice", "a@example.com"));
        let other = account_at("bob", "A@Example.com");
        assert_eq!(refused(&store, vec![Change::InsertAccount(other)]), StoreError::EmailTaken);
        assert_eq!(by_name(&store, "bob"), None, "nothing of it is there");
        insert(&store, account("bob"));
    }

    fn a_taken_name_is_told_before_a_taken_address(store, _backend) {
        insert(&store, account_at("alice", "a@example.com"));
        let other = Account { id: user("other"), ..account_at("alice", "a@example.com") };
        assert_eq!(refused(&store, vec![Change::InsertAccount(other)]), StoreError::NameTaken);
    }

    fn the_id_of_an_account_without_username_counts_as_its_name(store, _backend) {
        let nameless = Account { id: user("4711"), username: None, ..account("unused") };
        insert(&store, nameless.clone());
        let thief = account("4711");
        assert_eq!(refused(&store, vec![Change::InsertAccount(thief)]), StoreError::NameTaken);
        assert_eq!(by_name(&store, "4711"), None, "but it is no username");
        let named = Account { version: 1, username: Some(name("alice")), ..nameless };
        store.commit(vec![Change::UpdateAccount(named)]).wait().unwrap();
        assert_eq!(by_name(&store, "alice"), Some(user("4711")));
    }

    fn a_removed_account_is_gone_but_its_name_and_id_stay_taken(store, backend) {
        let alice = insert(&store, account("alice"));
        store.commit(vec![Change::RemoveAccount { id: alice.id.clone(), version: 1 }]).wait().unwrap();
        drop(store);
        let store = backend.open();
        assert_eq!(by_id(&store, &alice.id), None);
        assert_eq!(by_name(&store, "alice"), None);
        assert_eq!(store.accounts(None, 10).wait(), Ok(vec![]));
        let same_name = Account { id: user("other"), ..account("alice") };
        let same_id = Account { username: Some(name("other")), ..account("alice") };
        for again in [same_name, same_id, account("alice")] {
            assert_eq!(refused(&store, vec![Change::InsertAccount(again)]), StoreError::NameTaken);
        }
    }

    fn a_removed_accounts_address_is_free(store, _backend) {
        let alice = insert(&store, account_at("alice", "a@example.com"));
        store.commit(vec![Change::RemoveAccount { id: alice.id, version: 1 }]).wait().unwrap();
        assert_eq!(by_email(&store, "a@example.com"), None);
        insert(&store, account_at("bob", "a@example.com"));
        assert_eq!(by_email(&store, "a@example.com"), Some(user("id-bob")));
    }

    fn whose_address_it_was_is_not_forgotten(store, backend) {
        let new = |text: &str| Change::ExpectNewAddress(email(text));
        store.commit(vec![new("a@example.com")]).wait().unwrap();
        let imported = |name: &str| Account {
            origin: Origin::Imported,
            ..account_at(name, &format!("{name}@example.com"))
        };
        let proved = |name: &str| Account {
            email_verified: true,
            ..account_at(name, &format!("{name}@example.com"))
        };
        let alice = insert(&store, account_at("alice", "a@example.com"));
        assert_eq!(refused(&store, vec![new("A@example.com")]), StoreError::EmailTaken, "she has it");
        // Only those that the app or somebody else than their holder vouched for: anybody can claim one.
        store.commit(vec![Change::RemoveAccount { id: alice.id, version: 1 }]).wait().unwrap();
        for gone in [imported("i1"), proved("p1")].map(|account| insert(&store, account)) {
            store.commit(vec![Change::RemoveAccount { id: gone.id, version: 1 }]).wait().unwrap();
        }
        for before in [imported("i2"), proved("p2"), account_at("dave", "d@example.com")] {
            let before = insert(&store, before);
            for (version, kind) in (1..).zip(["claimed", "new"]) {
                let email = Some(email(&format!("{kind}-{}@example.com", before.id)));
                let moved = Account { email, email_verified: false, version, ..before.clone() };
                store.commit(vec![Change::UpdateAccount(moved)]).wait().unwrap();
            }
        }
        drop(store);
        let store = backend.open();
        for gone in ["I1@example.com", "p1@example.com", "i2@example.com", "p2@example.com"] {
            assert_eq!(refused(&store, vec![new(gone)]), StoreError::EmailTaken, "{gone}");
        }
        for free in ["a@example.com", "d@example.com", "claimed-id-i2@example.com", "claimed-id-p2@example.com"] {
            store.commit(vec![new(free)]).wait().unwrap();
        }
        insert(&store, account_at("erin", "a@example.com"));
    }

    fn removing_an_account_ends_its_sessions_and_nobody_elses(store, _backend) {
        let (alice, bob) = (insert(&store, account("alice")), insert(&store, account("bob")));
        for n in [1, 2] {
            insert_session(&store, session(&alice.id, n));
        }
        insert_session(&store, session(&bob.id, 3));
        let done = store.commit(vec![Change::RemoveAccount { id: alice.id.clone(), version: 1 }]).wait();
        assert_eq!(done, Ok(ended(&[sid(1), sid(2)])));
        assert_eq!(session_ids(&store, &alice.id), vec![]);
        assert_eq!(session_ids(&store, &bob.id), vec![sid(3)]);
    }

    fn removing_an_old_version_conflicts(store, _backend) {
        let alice = insert(&store, account("alice"));
        for (id, version) in [(alice.id.clone(), 0), (alice.id.clone(), 2), (user("nobody"), 1)] {
            assert_eq!(refused(&store, vec![Change::RemoveAccount { id, version }]), StoreError::Conflict);
        }
        assert_eq!(by_id(&store, &alice.id), Some(alice));
    }

    fn an_update_raises_the_version(store, _backend) {
        let alice = insert(&store, account("alice"));
        let changed = Account { disabled: true, generation: 7, ..alice.clone() };
        store.commit(vec![Change::UpdateAccount(changed.clone())]).wait().unwrap();
        assert_eq!(by_id(&store, &alice.id), Some(Account { version: 2, ..changed }));
    }

    fn an_update_from_another_version_conflicts_and_changes_nothing(store, _backend) {
        let alice = insert(&store, account("alice"));
        for version in [0, 2, u64::MAX] {
            let changed = Account { version, disabled: true, ..alice.clone() };
            assert_eq!(refused(&store, vec![Change::UpdateAccount(changed)]), StoreError::Conflict);
        }
        assert_eq!(by_id(&store, &alice.id), Some(alice));
    }

    fn an_update_of_nobody_conflicts(store, _backend) {
        for version in [0, 1] {
            let nobody = Account { version, ..account("nobody") };
            assert_eq!(refused(&store, vec![Change::UpdateAccount(nobody)]), StoreError::Conflict);
        }
        assert_eq!(by_name(&store, "nobody"), None);
    }

    fn a_new_address_leads_to_the_account_and_the_old_one_becomes_free(store, _backend) {
        let alice = insert(&store, account_at("alice", "old@example.com"));
        let moved = Account { email: Some(email("new@example.com")), ..alice.clone() };
        store.commit(vec![Change::UpdateAccount(moved)]).wait().unwrap();
        assert_eq!(by_email(&store, "old@example.com"), None);
        assert_eq!(by_email(&store, "new@example.com"), Some(alice.id));
        insert(&store, account_at("bob", "old@example.com"));
    }

    fn a_respelled_address_stays_with_its_account(store, _backend) {
        let alice = insert(&store, account_at("alice", "a@example.com"));
        let respelled = Account { email: Some(email("A@example.com")), ..alice.clone() };
        store.commit(vec![Change::UpdateAccount(respelled)]).wait().unwrap();
        assert_eq!(by_email(&store, "a@example.com"), Some(alice.id.clone()));
        assert_eq!(by_id(&store, &alice.id).unwrap().email, Some(email("A@example.com")));
    }

    fn an_address_that_is_given_up_is_free(store, _backend) {
        let alice = insert(&store, account_at("alice", "a@example.com"));
        store.commit(vec![Change::UpdateAccount(Account { email: None, ..alice })]).wait().unwrap();
        assert_eq!(by_email(&store, "a@example.com"), None);
        insert(&store, account_at("bob", "a@example.com"));
    }

    fn an_update_takes_nobody_elses_name_or_address(store, _backend) {
        insert(&store, account_at("alice", "a@example.com"));
        let bob = insert(&store, account_at("bob", "b@example.com"));
        let renamed = Account { username: Some(name("alice")), ..bob.clone() };
        assert_eq!(refused(&store, vec![Change::UpdateAccount(renamed)]), StoreError::NameTaken);
        let moved = Account { email: Some(email("A@example.com")), ..bob.clone() };
        assert_eq!(refused(&store, vec![Change::UpdateAccount(moved)]), StoreError::EmailTaken);
        assert_eq!(by_id(&store, &bob.id), Some(bob.clone()));
        assert_eq!(by_email(&store, "b@example.com"), Some(bob.id));
    }

    fn a_former_name_finds_nobody_and_stays_with_its_account(store, _backend) {
        let alice = insert(&store, account("alice"));
        let renamed = Account { username: Some(name("alicia")), ..alice.clone() };
        store.commit(vec![Change::UpdateAccount(renamed.clone())]).wait().unwrap();
        assert_eq!(by_name(&store, "alice"), None);
        assert_eq!(by_name(&store, "alicia"), Some(alice.id.clone()));
        let other = Account { id: user("other"), ..account("alice") };
        assert_eq!(refused(&store, vec![Change::InsertAccount(other)]), StoreError::NameTaken);
        store.commit(vec![Change::UpdateAccount(Account { version: 2, ..alice.clone() })]).wait().unwrap();
        assert_eq!(by_name(&store, "alice"), Some(alice.id));
    }

    fn an_expectation_holds_for_one_version_and_changes_nothing(store, _backend) {
        let alice = insert(&store, account("alice"));
        let expect = |version| Change::ExpectAccount { id: alice.id.clone(), version };
        assert_eq!(store.commit(vec![expect(1)]).wait(), Ok(Committed::default()));
        assert_eq!(by_id(&store, &alice.id), Some(alice.clone()));
        assert_eq!(refused(&store, vec![expect(0)]), StoreError::Conflict);
        let guarded = vec![expect(2), Change::InsertSession(session(&alice.id, 1))];
        assert_eq!(refused(&store, guarded), StoreError::Conflict);
        assert_eq!(store.session(sid(1)).wait(), Ok(None));
        let nobody = Change::ExpectAccount { id: user("nobody"), version: 1 };
        assert_eq!(refused(&store, vec![nobody]), StoreError::Conflict);
    }

    fn a_commit_whose_last_change_is_refused_changes_nothing(store, backend) {
        let alice = insert(&store, account_at("alice", "a@example.com"));
        let kept = insert_session(&store, session(&alice.id, 1));
        let changes = vec![
            Change::UpdateAccount(Account { email: None, disabled: true, ..alice.clone() }),
            Change::InsertAccount(account_at("bob", "b@example.com")),
            Change::InsertSession(session(&alice.id, 2)),
            Change::EndSession(sid(1)),
            Change::Revoke(revocation(1, at(60))),
            Change::InsertKey(key("k", START)),
            Change::RemoveAccount { id: alice.id.clone(), version: 2 },
            Change::ExpectAccount { id: alice.id.clone(), version: 1 },
        ];
        assert_eq!(refused(&store, changes), StoreError::Conflict);
        drop(store);
        let store = backend.open();
        assert_eq!(store.accounts(None, 10).wait(), Ok(vec![alice.clone()]));
        assert_eq!(by_name(&store, "bob"), None);
        assert_eq!(by_email(&store, "b@example.com"), None);
        assert_eq!(by_email(&store, "a@example.com"), Some(alice.id.clone()));
        assert_eq!(store.sessions(alice.id).wait(), Ok(vec![kept]));
        assert_eq!(store.revocations().wait(), Ok(vec![]));
        assert_eq!(store.keys().wait(), Ok(vec![]));
    }

    fn a_change_builds_on_the_ones_before_it_in_its_commit(store, _backend) {
        let alice = account_at("alice", "a@example.com");
        let changes = vec![
            Change::InsertAccount(alice.clone()),
            Change::ExpectAccount { id: alice.id.clone(), version: 1 },
            Change::UpdateAccount(Account { version: 1, email: None, ..alice.clone() }),
            Change::InsertAccount(account_at("bob", "a@example.com")),
            Change::InsertSession(session(&alice.id, 1)),
            Change::InsertSession(session(&alice.id, 2)),
            Change::EndSessions { user: alice.id.clone(), except: Some(sid(2)) },
        ];
        assert_eq!(store.commit(changes).wait(), Ok(ended(&[sid(1)])));
        assert_eq!(by_id(&store, &alice.id).unwrap().version, 2);
        assert_eq!(by_email(&store, "a@example.com"), Some(user("id-bob")));
        assert_eq!(session_ids(&store, &alice.id), vec![sid(2)]);
    }

    fn an_empty_commit_is_fine(store, _backend) {
        assert_eq!(store.commit(vec![]).wait(), Ok(Committed::default()));
    }

    fn accounts_are_listed_page_by_page_in_the_order_of_their_ids(store, _backend) {
        for text in ["b", "a", "ab", "c", "aa"] {
            insert(&store, Account { id: user(text), ..account(text) });
        }
        let page = |after: Option<&str>, limit| {
            let found = store.accounts(after.map(user), limit).wait().unwrap();
            found.into_iter().map(|account| account.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(page(None, 10), ["a", "aa", "ab", "b", "c"]);
        assert_eq!(page(None, 2), ["a", "aa"]);
        assert_eq!(page(Some("aa"), 2), ["ab", "b"]);
        assert_eq!(page(Some("a"), 1), ["aa"]);
        assert_eq!(page(Some("abc"), 1), ["b"]);
        assert_eq!(page(Some("c"), 2), [""; 0]);
        assert_eq!(page(None, 0), [""; 0]);
        assert_eq!(page(None, usize::MAX).len(), 5);
    }

    fn a_users_sessions_are_listed_oldest_first_and_only_theirs(store, _backend) {
        // One id is the beginning of the other.
        let (a, ab) = (user("a"), user("ab"));
        for (owner, n) in [(&a, 3), (&ab, 2), (&a, 1), (&ab, 4)] {
            insert_session(&store, session(owner, n));
        }
        assert_eq!(session_ids(&store, &a), vec![sid(1), sid(3)]);
        assert_eq!(session_ids(&store, &ab), vec![sid(2), sid(4)]);
    }

    fn a_session_comes_back_as_it_was_given(store, backend) {
        let given = session(&user("a"), 1);
        insert_session(&store, given.clone());
        drop(store);
        assert_eq!(backend.open().session(sid(1)).wait(), Ok(Some(Session { version: 1, ..given })));
    }

    fn a_session_id_is_taken_once(store, _backend) {
        let kept = insert_session(&store, session(&user("a"), 1));
        let other = session(&user("b"), 1);
        assert_eq!(refused(&store, vec![Change::InsertSession(other)]), StoreError::Conflict);
        assert_eq!(store.session(sid(1)).wait(), Ok(Some(kept)));
        assert_eq!(session_ids(&store, &user("b")), vec![]);
    }

    fn a_session_is_updated_from_its_newest_version_only(store, _backend) {
        let first = insert_session(&store, session(&user("a"), 1));
        let next = Session { last_used_at: at(5), ..first };
        store.commit(vec![Change::UpdateSession(next.clone())]).wait().unwrap();
        assert_eq!(refused(&store, vec![Change::UpdateSession(next.clone())]), StoreError::Conflict);
        let unknown = Session { id: sid(9), ..next.clone() };
        assert_eq!(refused(&store, vec![Change::UpdateSession(unknown)]), StoreError::Conflict);
        assert_eq!(store.session(sid(1)).wait(), Ok(Some(Session { version: 2, ..next })));
    }

    fn an_ended_session_is_gone_and_cannot_come_back_by_an_update(store, _backend) {
        let kept = insert_session(&store, session(&user("a"), 1));
        let done = store.commit(vec![Change::EndSession(sid(1)), Change::EndSession(sid(1))]).wait();
        assert_eq!(done, Ok(ended(&[sid(1)])), "ended once");
        assert_eq!(store.commit(vec![Change::EndSession(sid(1))]).wait(), Ok(Committed::default()));
        assert_eq!(store.session(sid(1)).wait(), Ok(None));
        assert_eq!(session_ids(&store, &user("a")), vec![]);
        assert_eq!(refused(&store, vec![Change::UpdateSession(kept)]), StoreError::Conflict);
    }

    fn all_sessions_of_a_user_end_but_the_excepted_one(store, _backend) {
        let (a, b) = (user("a"), user("b"));
        for n in 1..=3 {
            insert_session(&store, session(&a, n));
        }
        insert_session(&store, session(&b, 4));
        let end = |except| store.commit(vec![Change::EndSessions { user: a.clone(), except }]).wait();
        assert_eq!(end(Some(sid(2))), Ok(ended(&[sid(1), sid(3)])));
        assert_eq!(session_ids(&store, &a), vec![sid(2)]);
        assert_eq!(end(None), Ok(ended(&[sid(2)])));
        assert_eq!(end(None), Ok(Committed::default()));
        assert_eq!(session_ids(&store, &b), vec![sid(4)]);
    }

    fn revocations_are_there_after_a_restart(store, backend) {
        let kinds = [RevocationKind::Token, RevocationKind::Session, RevocationKind::Generation];
        let given: Vec<_> = kinds
            .into_iter()
            .zip([u128::MAX, 0, 1 << 77])
            .map(|(kind, id)| Revocation { kind, id: RevocationId(id), until: at(900) })
            .collect();
        store.commit(given.iter().copied().map(Change::Revoke).collect()).wait().unwrap();
        drop(store);
        assert_eq!(backend.open().revocations().wait(), Ok(given));
    }

    fn a_revocation_is_kept_once_and_until_its_later_end(store, _backend) {
        for until in [at(10), at(10), at(700), at(10), at(300)] {
            store.commit(vec![Change::Revoke(revocation(1, until))]).wait().unwrap();
        }
        assert_eq!(store.revocations().wait(), Ok(vec![revocation(1, at(700))]));
    }

    fn kinds_of_revocation_do_not_hide_one_another(store, _backend) {
        let token = revocation(1, at(10));
        let session = Revocation { kind: RevocationKind::Session, ..token };
        store.commit(vec![Change::Revoke(token), Change::Revoke(session)]).wait().unwrap();
        assert_eq!(store.revocations().wait(), Ok(vec![token, session]));
    }

    fn many_revocations_of_one_minute_are_all_kept(store, backend) {
        let given: Vec<_> = (0..2000).map(|id| revocation(id, at(30))).collect();
        store.commit(given.iter().copied().map(Change::Revoke).collect()).wait().unwrap();
        drop(store);
        assert_eq!(backend.open().revocations().wait(), Ok(given));
    }

    fn keys_are_unique_and_come_oldest_first(store, backend) {
        let (old, new) = (key("z", at(1)), key("a", at(2)));
        store.commit(vec![Change::InsertKey(new.clone()), Change::InsertKey(old.clone())]).wait().unwrap();
        let forged = StoredKey { material: KeyMaterial::new(vec![0; 32]), ..old.clone() };
        assert_eq!(refused(&store, vec![Change::InsertKey(forged)]), StoreError::Conflict);
        drop(store);
        assert_eq!(backend.open().keys().wait(), Ok(vec![old, new]));
    }

    fn what_an_authority_knows_is_one_record_of_any_length(store, backend) {
        assert_eq!(store.acme().wait(), Ok(None));
        let put = |state: &AcmeState| vec![Change::PutAcme(Box::new(state.clone()))];
        let certificate = |length: usize| AcmeCertificate {
            domains: vec!["a.example.com".to_owned()],
            chain: "c".repeat(length),
            key: SecretText::from("k".repeat(200)),
        };
        let first = AcmeState { directory: "https://ca.test/dir".to_owned(), ..AcmeState::default() };
        store.commit(put(&first)).wait().unwrap();
        let long = AcmeState { version: 1, certificate: Some(certificate(60_000)), ..first.clone() };
        store.commit(put(&long)).wait().unwrap();
        assert_eq!(store.acme().wait(), Ok(Some(AcmeState { version: 2, ..long.clone() })));
        // Whoever has read something older is refused, and what is too long as well.
        assert_eq!(refused(&store, put(&long)), StoreError::Conflict);
        assert_eq!(refused(&store, put(&first)), StoreError::Conflict);
        let endless = AcmeState { version: 2, certificate: Some(certificate(200_000)), ..first.clone() };
        assert!(matches!(refused(&store, put(&endless)), StoreError::Unavailable(_)));
        // A shorter one leaves nothing of the longer one behind.
        let short = AcmeState { version: 2, certificate: Some(certificate(10)), ..first };
        store.commit(put(&short)).wait().unwrap();
        drop(store);
        let store = backend.open();
        assert_eq!(store.acme().wait(), Ok(Some(AcmeState { version: 3, ..short })));
        assert_eq!(store.keys().wait(), Ok(vec![]));
    }

    fn a_purge_removes_what_has_ended_and_nothing_else(store, _backend) {
        let a = user("a");
        for (n, expires, ends) in [(1, 100, 900), (2, 101, 900), (3, 900, 100), (4, 900, 101)] {
            insert_session(&store, Session { expires_at: at(expires), ends_at: at(ends), ..session(&a, n) });
        }
        assert_eq!(store.purge(at(99)).wait(), Ok(Purged::default()));
        assert_eq!(store.purge(at(100)).wait(), Ok(Purged { sessions: 2, revocations: 0 }));
        assert_eq!(session_ids(&store, &a), vec![sid(2), sid(4)]);
        assert_eq!(store.session(sid(1)).wait(), Ok(None));
        assert_eq!(store.purge(at(100)).wait(), Ok(Purged::default()));
        assert_eq!(store.purge(at(101)).wait(), Ok(Purged { sessions: 2, revocations: 0 }));
    }

    fn a_purge_spares_a_session_that_was_extended_until_its_new_end(store, _backend) {
        let first = insert_session(&store, session(&user("a"), 1));
        let extended = Session { expires_at: at(5000), ..first };
        store.commit(vec![Change::UpdateSession(extended)]).wait().unwrap();
        assert_eq!(store.purge(at(1000)).wait(), Ok(Purged::default()));
        assert_eq!(store.session(sid(1)).wait().unwrap().map(|s| s.version), Some(2), "as it was");
        assert_eq!(store.purge(at(4999)).wait(), Ok(Purged::default()));
        assert_eq!(store.purge(at(5000)).wait(), Ok(Purged { sessions: 1, revocations: 0 }));
        assert_eq!(session_ids(&store, &user("a")), vec![]);
    }

    fn a_purge_finds_a_session_that_was_shortened(store, _backend) {
        let first = insert_session(&store, session(&user("a"), 1));
        let shortened = Session { ends_at: at(10), ..first };
        store.commit(vec![Change::UpdateSession(shortened)]).wait().unwrap();
        assert_eq!(store.purge(at(10)).wait(), Ok(Purged { sessions: 1, revocations: 0 }));
        assert_eq!(store.purge(at(9999)).wait(), Ok(Purged::default()));
    }

    fn a_purge_does_not_count_what_was_ended_before(store, _backend) {
        insert_session(&store, session(&user("a"), 1));
        store.commit(vec![Change::EndSession(sid(1))]).wait().unwrap();
        assert_eq!(store.purge(at(99_999)).wait(), Ok(Purged::default()));
    }

    fn a_purge_never_removes_a_revocation_before_its_end(store, _backend) {
        let ends: Vec<u64> = (0..300).step_by(7).collect();
        let given: Vec<_> = ends.iter().map(|&end| revocation(u128::from(end), at(end))).collect();
        store.commit(given.iter().copied().map(Change::Revoke).collect()).wait().unwrap();
        for now in (0..400).step_by(13).map(at) {
            store.purge(now).wait().unwrap();
            let left = store.revocations().wait().unwrap();
            for revocation in given.iter().filter(|revocation| revocation.until > now) {
                assert!(left.contains(revocation), "{revocation:?} at {now:?}");
            }
        }
        assert_eq!(store.revocations().wait(), Ok(vec![]), "a minute later everything is gone");
    }

    fn a_large_purge_is_done_to_its_end(store, _backend) {
        let a = user("a");
        for chunk in 0..10u8 {
            let sessions = (0..100u8).map(|n| {
                let mut id = [chunk; 16];
                id[0] = n;
                Change::InsertSession(Session { id: SessionId::from_bytes(id), ..session(&a, n) })
            });
            store.commit(sessions.collect()).wait().unwrap();
        }
        assert_eq!(store.purge(at(1000)).wait(), Ok(Purged { sessions: 1000, revocations: 0 }));
        assert_eq!(session_ids(&store, &a), vec![]);
    }

    fn a_record_that_is_too_long_is_refused_and_leaves_nothing(store, _backend) {
        let long = Account { name: Some("x".repeat(9000)), ..account_at("alice", "a@example.com") };
        let error = refused(&store, vec![Change::InsertAccount(long)]);
        assert!(error.to_string().contains("too long: account"), "{error}");
        assert_eq!(by_email(&store, "a@example.com"), None);
        insert(&store, account_at("alice", "a@example.com"));
    }

    fn a_probe_writes_and_shows_nowhere(store, _backend) {
        for _ in 0..3 {
            assert_eq!(store.probe().wait(), Ok(()));
        }
        assert_eq!(store.accounts(None, 10).wait(), Ok(vec![]));
        assert_eq!(store.keys().wait(), Ok(vec![]));
    }

    fn of_sixteen_who_take_one_name_at_once_one_wins(store, _backend) {
        let start = Barrier::new(16);
        let results: Vec<_> = thread::scope(|scope| {
            let takers: Vec<_> = (0..16)
                .map(|n| {
                    let taker = Account { id: user(&format!("id-{n}")), ..account("alice") };
                    let (store, start) = (&store, &start);
                    scope.spawn(move || {
                        start.wait();
                        store.commit(vec![Change::InsertAccount(taker)]).wait()
                    })
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert_eq!(results.iter().filter(|r| **r == Err(StoreError::NameTaken)).count(), 15);
        assert_eq!(store.accounts(None, 100).wait().unwrap().len(), 1);
    }

    fn of_concurrent_updates_none_is_lost(store, _backend) {
        let alice = insert(&store, account("alice"));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        loop {
                            let mut read = by_id(&store, &alice.id).unwrap();
                            read.generation += 1;
                            match store.commit(vec![Change::UpdateAccount(read)]).wait() {
                                Ok(_) => break,
                                Err(error) => assert_eq!(error, StoreError::Conflict),
                            }
                        }
                    }
                });
            }
        });
        let after = by_id(&store, &alice.id).unwrap();
        assert_eq!((after.generation, after.version), (40, 41));
    }

    fn what_is_told_is_in_the_outbox_with_its_change_and_in_order(store, backend) {
        let kinds = |store: &B::Store, from| {
            let outbox = store.outbox(from, 100).wait().unwrap();
            let kinds = outbox.events.iter().map(|event| (event.number, event.kind)).collect::<Vec<_>>();
            (kinds, outbox.pending)
        };
        insert(&store, account("untold"));
        assert_eq!(store.outbox(0, 10).wait(), Ok(Outbox::default()));
        let tell = || Change::Tell { at: at(5) };
        let alice = Account { version: 1, ..account_at("alice", "a@example.com") };
        store.commit(vec![tell(), Change::InsertAccount(Account { version: 0, ..alice.clone() })]).wait().unwrap();
        // What nobody can see is not told.
        let rehashed = Account { password: PasswordHash::from("other".to_owned()), generation: 9, ..alice.clone() };
        store.commit(vec![tell(), Change::UpdateAccount(rehashed)]).wait().unwrap();
        let renamed = Account { version: 2, name: Some("Alice".to_owned()), ..alice.clone() };
        store.commit(vec![tell(), Change::UpdateAccount(renamed.clone())]).wait().unwrap();
        let disabled = Account { version: 3, disabled: true, ..renamed.clone() };
        store.commit(vec![tell(), Change::UpdateAccount(disabled.clone())]).wait().unwrap();
        let enabled = Account { version: 4, ..renamed };
        store.commit(vec![tell(), Change::UpdateAccount(enabled)]).wait().unwrap();
        let gone = Change::RemoveAccount { id: alice.id.clone(), version: 5 };
        store.commit(vec![tell(), gone]).wait().unwrap();
        // A commit that is refused tells nothing.
        assert_eq!(refused(&store, vec![tell(), Change::InsertAccount(account("untold"))]), StoreError::NameTaken);
        drop(store);
        let store = backend.open();
        let all = vec![
            (0, EventKind::Created),
            (1, EventKind::Updated),
            (2, EventKind::Disabled),
            (3, EventKind::Updated),
            (4, EventKind::Deleted),
        ];
        assert_eq!(kinds(&store, 0), (all.clone(), 5));
        assert_eq!(kinds(&store, 2), (all[2..].to_vec(), 5));
        assert_eq!(store.outbox(0, 0).wait().unwrap().pending, 5);
        let events = store.outbox(0, 2).wait().unwrap().events;
        assert_eq!(events.len(), 2);
        assert_eq!((&events[0].user, events[0].at), (&EventUser::of(&alice), at(5)));
        assert_ne!(events[0].id, events[1].id);
        for _ in 0..2 {
            store.commit(vec![Change::Told { number: 1 }, Change::Told { number: 0 }]).wait().unwrap();
        }
        assert_eq!(kinds(&store, 0), (all[2..].to_vec(), 3));
    }

    fn who_reads_the_outbox_is_woken_also_when_nobody_waits_for_the_commit(store, _backend) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let woken = |within| {
            let notified = store.more_in_outbox();
            runtime.block_on(async { tokio::time::timeout(within, notified.notified()).await.is_ok() })
        };
        drop(store.commit(vec![Change::Tell { at: at(5) }, Change::InsertAccount(account("alice"))]));
        assert!(woken(Duration::from_secs(20)));
        store.commit(vec![Change::InsertAccount(account("bob"))]).wait().unwrap();
        store.commit(vec![Change::Told { number: 0 }]).wait().unwrap();
        assert!(!woken(Duration::ZERO), "nothing was left");
    }

    /// However often an account is changed, one update of it waits: the last one, under a number and an id of its
    /// own, behind what was left meanwhile. Nothing else is ever left out.
    fn of_an_account_one_update_waits_and_it_is_the_newest(store, backend) {
        let tell = || Change::Tell { at: at(5) };
        let change = |store: &B::Store, change: &dyn Fn(Account) -> Account| {
            let alice = change(by_id(store, &user("id-alice")).unwrap());
            store.commit(vec![tell(), Change::UpdateAccount(alice)]).wait().unwrap();
        };
        let call = |store: &B::Store, text: &str| {
            change(store, &|alice| Account { name: Some(text.to_owned()), ..alice });
        };
        let left = |store: &B::Store| {
            let Outbox { events, pending } = store.outbox(0, 100).wait().unwrap();
            assert_eq!(events.len() as u64, pending, "the count is right");
            let told = |event: super::Event| (event.number, event.kind, event.user.name.unwrap_or_default());
            events.into_iter().map(told).collect::<Vec<_>>()
        };
        let entry = |number, kind, text: &str| (number, kind, text.to_owned());
        store.commit(vec![tell(), Change::InsertAccount(account("alice"))]).wait().unwrap();
        call(&store, "a");
        let first = store.outbox(1, 1).wait().unwrap().events.remove(0);
        store.commit(vec![tell(), Change::InsertAccount(account("bob"))]).wait().unwrap();
        call(&store, "b");
        drop(store);
        let store = backend.open();
        call(&store, "c");
        let kept = vec![
            entry(0, EventKind::Created, ""),
            entry(2, EventKind::Created, ""),
            entry(4, EventKind::Updated, "c"),
        ];
        assert_eq!(left(&store), kept);
        assert_ne!(store.outbox(4, 1).wait().unwrap().events[0].id, first.id);
        // It was under way when it was replaced: that it was told is no news, and the newer one stays.
        store.commit(vec![Change::Told { number: first.number }]).wait().unwrap();
        assert_eq!(left(&store), kept);
        // Told: the next one is a new one, also several in one commit.
        store.commit(vec![Change::Told { number: 4 }]).wait().unwrap();
        let (old, both) = (by_id(&store, &user("id-alice")).unwrap(), ["d", "e"]);
        let twice = both.iter().zip(old.version..).map(|(text, version)| {
            Change::UpdateAccount(Account { version, name: Some((*text).to_owned()), ..old.clone() })
        });
        store.commit([tell()].into_iter().chain(twice).collect()).wait().unwrap();
        // What ends a login is told in its place, and what came before it stays.
        change(&store, &|alice| Account { disabled: true, ..alice });
        call(&store, "f");
        change(&store, &|alice| Account { disabled: false, ..alice });
        // A commit that is refused takes nothing out.
        let stale = Account { name: Some("x".to_owned()), ..old.clone() };
        assert_eq!(refused(&store, vec![tell(), Change::UpdateAccount(stale)]), StoreError::Conflict);
        let version = by_id(&store, &old.id).unwrap().version;
        store.commit(vec![tell(), Change::RemoveAccount { id: old.id, version }]).wait().unwrap();
        drop(store);
        let expected = vec![
            entry(0, EventKind::Created, ""),
            entry(2, EventKind::Created, ""),
            entry(6, EventKind::Updated, "e"),
            entry(7, EventKind::Disabled, "e"),
            entry(9, EventKind::Updated, "f"),
            entry(10, EventKind::Deleted, "f"),
        ];
        assert_eq!(left(&backend.open()), expected);
    }

    fn a_commit_is_done_also_when_nobody_waits_for_it(store, backend) {
        drop(store.commit(vec![Change::InsertAccount(account("alice"))]));
        drop(store);
        assert_eq!(by_name(&backend.open(), "alice"), Some(user("id-alice")));
    }

    fn closing_finishes_what_was_accepted_and_refuses_what_comes_later(store, backend) {
        let replies: Vec<_> = (0..200)
            .map(|n| store.commit(vec![Change::InsertAccount(account(&format!("user{n}")))]))
            .collect();
        store.close();
        for reply in replies {
            assert_eq!(reply.wait(), Ok(Committed::default()));
        }
        assert!(matches!(store.keys().wait(), Err(StoreError::Unavailable(_))));
        assert!(matches!(store.probe().wait(), Err(StoreError::Unavailable(_))));
        assert!(matches!(store.purge(START).wait(), Err(StoreError::Unavailable(_))));
        store.close();
        drop(store);
        assert_eq!(backend.open().accounts(None, 1000).wait().unwrap().len(), 200);
    }
}

pub(super) use each_behaviour;

#[test]
fn there_are_behaviours() {
    assert!(BEHAVIOURS.len() >= 25, "{}", BEHAVIOURS.len());
}
