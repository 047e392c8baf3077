//! What the tests of accounts and of their endpoints have in common: accounts over a store in memory
//! that can be told to fail, a clock that stands still, and hashing that costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::account::passphrase::Passphrase;
use crate::account::{
    AccountError, AccountView, Accounts, AccountsParts, ClientContext, LoginOutcome, Outside, Registration,
    TokenPair,
};
use crate::clock::{ManualClock, Timestamp};
use crate::identity::SessionId;
use crate::identity::{Principal, Role, RoleTable, UserId};
use crate::metrics::Metrics;
use crate::route::{PathAllowances, PathCase, PathPattern};
use crate::secret::Secret;
use crate::settings::{
    AdminSettings, AuthSettings, CorsOrigins, CorsSettings, ErrorBodies, IdentityHeaderNames,
    IdentitySettings, Ids, Limits, LogFormat, LogSettings, LoginName, PasswordSettings, Rate,
    Registration as Registering, ServerSettings, Settings, StoreSettings, ThrottleSettings, UsernameRules,
};
use crate::store::memory::MemoryStore;
use crate::store::{
    Account, AccountKey, Change, Committed, Purged, Reply, Session, Store, StoreError, StoredKey,
};
use crate::token::access::{AccessToken, Issuer, Verifier};
use crate::token::revocation::{Revocation, RevocationList};
use crate::token::testing::{eddsa, now, ring, stored_keys};

pub(crate) const PASSWORD: &str = "correct horse";

/// Hashing that costs nothing.
pub(crate) const HASHING: PasswordSettings = PasswordSettings {
    min_length: 8,
    max_bytes: 256,
    memory_kib: 8,
    iterations: 1,
    parallelism: 1,
    concurrent: 1,
    queue: 4,
};

/// As somebody types it who has it from another time: however short.
pub(crate) fn phrase(text: &str) -> Passphrase {
    Passphrase::typed(&text.to_owned().into(), &HASHING).expect("short enough")
}

pub(crate) fn role(name: &str) -> Role {
    name.parse().unwrap()
}

pub(crate) fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

pub(crate) fn client(address: &str) -> ClientContext {
    ClientContext { address: address.parse().unwrap(), user_agent: "test\n/1".to_owned() }
}

pub(crate) fn registration(username: &str) -> Registration {
    Registration {
        username: Some(username.to_owned()),
        email: None,
        name: None,
        password: Some(secret(PASSWORD)),
    }
}

pub(crate) fn settings() -> Settings {
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let roles = [("user", &[][..]), ("editor", &["user"]), ("admin", &["editor"])];
    let implied = |names: &[&str]| names.iter().map(|name| role(name)).collect::<BTreeSet<_>>();
    let roles: BTreeMap<_, _> = roles.iter().map(|(name, implies)| (role(name), implied(implies))).collect();
    Settings {
        server: ServerSettings {
            listen: Vec::new(),
            workers: 1,
            trusted_proxies: Vec::new(),
            path_case: PathCase::Insensitive,
            allow: PathAllowances::default(),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            limits: Limits { connections: 10, ..Limits::default() },
            redirect_http: Vec::new(),
            h2c: false,
            proxy_protocol: false,
            tls: None,
        },
        admin: AdminSettings { listen: local, socket: "gatepost.sock".into() },
        log: LogSettings { level: "info".to_owned(), format: LogFormat::Auto, decisions: true },
        store: StoreSettings { path: "data".into(), min_free: 0 },
        auth: AuthSettings {
            prefix: PathPattern::parse("/auth").unwrap(),
            registration: Registering::Open,
            registrations_per_address: Rate { count: 100, per: Duration::from_hours(1) },
            sessions_per_user: 50,
            default_roles: vec![role("user")],
            login_name: LoginName::Either,
            usernames: UsernameRules::Ascii,
            ids: Ids::Uuid,
            paths: Vec::new(),
            answer: Vec::new(),
            errors: ErrorBodies::Problem,
            reserved_usernames: vec!["admin".to_owned()],
            password: PasswordSettings { concurrent: 2, queue: 64, ..HASHING },
            throttle: ThrottleSettings {
                failures: 5,
                per_address: 50,
                window: Duration::from_mins(15),
                lockout: Duration::from_mins(1),
                lockout_max: Duration::from_mins(15),
            },
            admission: None,
            migrate: None,
        },
        events: None,
        roles: RoleTable::new(roles),
        tokens: eddsa(),
        identity: IdentitySettings {
            headers: IdentityHeaderNames::default(),
            roles_separator: ",".to_owned(),
            send_unverified_email: false,
            forward_authorization: false,
        },
        cors: CorsSettings {
            origins: CorsOrigins::These(Vec::new()),
            headers: Vec::new(),
            credentials: false,
            max_age: Duration::ZERO,
        },
        upstreams: Vec::new(),
        routes: Vec::new(),
        tests: Vec::new(),
    }
}

/// Waits for the store on another thread: the one of a runtime must not block.
fn wait<T: Send>(reply: Reply<T>) -> Result<T, StoreError> {
    std::thread::scope(|scope| scope.spawn(|| reply.wait()).join().unwrap())
}

/// A store in memory, one call of which can be made to fail.
pub(crate) struct FlakyStore {
    store: MemoryStore,
    fault: Mutex<Option<Fault>>,
}

struct Fault {
    calls_left: usize,
    error: StoreError,
    struck: bool,
}

impl FlakyStore {
    /// Lets the `n`th call from now fail (0 is the next one), and all that follow.
    pub(crate) fn fail_from(&self, n: usize, error: StoreError) {
        *self.fault.lock().unwrap() = Some(Fault { calls_left: n, error, struck: false });
    }
    /// All is well again. Says whether the fault had come.
    pub(crate) fn heal(&self) -> bool {
        self.fault.lock().unwrap().take().is_some_and(|fault| fault.struck)
    }
    fn call<T>(&self, call: impl FnOnce(&MemoryStore) -> Reply<T>) -> Reply<T> {
        let mut fault = self.fault.lock().unwrap();
        match &mut *fault {
            Some(fault) if fault.calls_left == 0 => {
                fault.struck = true;
                let (answer, reply) = Reply::channel();
                let _ = answer.send(Err(fault.error.clone()));
                reply
            }
            Some(fault) => {
                fault.calls_left -= 1;
                call(&self.store)
            }
            None => call(&self.store),
        }
    }
}

impl Store for FlakyStore {
    fn account(&self, key: AccountKey) -> Reply<Option<Account>> {
        self.call(|store| store.account(key))
    }
    fn accounts(&self, after: Option<UserId>, limit: usize) -> Reply<Vec<Account>> {
        self.call(|store| store.accounts(after, limit))
    }
    fn session(&self, id: SessionId) -> Reply<Option<Session>> {
        self.call(|store| store.session(id))
    }
    fn sessions(&self, user: UserId) -> Reply<Vec<Session>> {
        self.call(|store| store.sessions(user))
    }
    fn revocations(&self) -> Reply<Vec<Revocation>> {
        self.call(Store::revocations)
    }
    fn keys(&self) -> Reply<Vec<StoredKey>> {
        self.call(Store::keys)
    }
    fn acme(&self) -> Reply<Option<crate::store::AcmeState>> {
        self.call(Store::acme)
    }
    fn commit(&self, changes: Vec<Change>) -> Reply<Committed> {
        self.call(|store| store.commit(changes))
    }
    fn outbox(&self, from: u64, limit: usize) -> Reply<crate::store::Outbox> {
        self.call(|store| store.outbox(from, limit))
    }
    fn rehearse(&self, changes: Vec<Change>) -> Reply<Committed> {
        self.call(|store| store.rehearse(changes))
    }
    fn more_in_outbox(&self) -> Arc<tokio::sync::Notify> {
        self.store.more_in_outbox()
    }
    fn probe(&self) -> Reply<()> {
        self.call(Store::probe)
    }
    fn purge(&self, now: Timestamp) -> Reply<Purged> {
        self.call(|store| store.purge(now))
    }
}

/// Accounts and all that they stand on.
pub(crate) struct World {
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) store: Arc<FlakyStore>,
    pub(crate) revocations: Arc<RevocationList>,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) jwks: String,
    keys: Vec<StoredKey>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_outside(Outside::default(), change)
    }

    /// Where others have a say, too.
    pub(crate) fn with_outside(outside: Outside, change: impl FnOnce(&mut Settings)) -> Self {
        let store = FlakyStore { store: MemoryStore::new(), fault: Mutex::default() };
        let clock = Arc::new(ManualClock::at(now()));
        Self::over(Arc::new(store), clock, stored_keys(), outside, change)
    }

    /// The same store, started again with other settings.
    pub(crate) fn restarted(self, change: impl FnOnce(&mut Settings)) -> Self {
        Self::over(self.store, self.clock, self.keys, Outside::default(), change)
    }

    fn over(
        store: Arc<FlakyStore>,
        clock: Arc<ManualClock>,
        keys: Vec<StoredKey>,
        outside: Outside,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let ring = ring(&settings.tokens, &keys);
        let revocations = Arc::new(RevocationList::new());
        for revocation in wait(store.revocations()).unwrap() {
            revocations.insert(revocation);
        }
        let verifier = Arc::new(Verifier::new(&ring, &settings.tokens).unwrap());
        let metrics = Arc::new(Metrics::default());
        let accounts = Accounts::new(AccountsParts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            revocations: Arc::clone(&revocations),
            issuer: Arc::new(Issuer::new(&ring, &settings.tokens).unwrap()),
            verifier: Arc::clone(&verifier),
            refresh_key: ring.refresh_key().clone(),
            settings: Arc::new(settings),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock) as Arc<_>,
            outside,
        });
        let accounts = Arc::new(accounts.unwrap());
        Self { accounts, store, revocations, verifier, metrics, clock, jwks: ring.jwks().to_owned(), keys }
    }

    pub(crate) async fn register(&self, username: &str) -> AccountView {
        self.accounts.register(registration(username), &client("192.0.2.1")).await.unwrap()
    }

    pub(crate) async fn try_login(&self, name: &str, password: &str) -> Result<TokenPair, AccountError> {
        self.login_from(name, password, "192.0.2.1").await
    }

    pub(crate) async fn login_from(
        &self,
        name: &str,
        password: &str,
        from: &str,
    ) -> Result<TokenPair, AccountError> {
        let LoginOutcome::Session(pair) = self.accounts.login(name, &secret(password), &client(from)).await?;
        Ok(pair)
    }

    pub(crate) async fn login(&self, name: &str) -> TokenPair {
        self.try_login(name, PASSWORD).await.unwrap()
    }

    pub(crate) async fn refresh(&self, pair: &TokenPair) -> Result<TokenPair, AccountError> {
        self.accounts.refresh(pair.refresh.expose(), &client("192.0.2.1")).await
    }

    /// What an access token says, unless it is refused.
    pub(crate) fn accepted(&self, token: &Secret<String>) -> Option<AccessToken> {
        let token = self.verifier.verify(token.expose(), crate::clock::Clock::now(&*self.clock)).ok()?;
        let revoked = token.revocable_by.iter().any(|id| self.revocations.contains(*id));
        (!revoked).then_some(token)
    }

    pub(crate) fn token(&self, pair: &TokenPair) -> AccessToken {
        self.accepted(&pair.access).expect("a good token")
    }

    pub(crate) fn caller(&self, pair: &TokenPair) -> Principal {
        self.token(pair).principal
    }

    pub(crate) fn store_is_empty(&self) -> bool {
        wait(self.store.accounts(None, 1)).unwrap().is_empty()
    }

    /// Everything that the store holds, for comparing.
    pub(crate) fn contents(&self) -> String {
        let mut accounts = wait(self.store.accounts(None, 1000)).unwrap();
        let mut text = String::new();
        for account in &mut accounts {
            let sessions = wait(self.store.sessions(account.id.clone())).unwrap();
            writeln!(text, "{account:?} {:?} {sessions:?}", account.password.phc()).unwrap();
        }
        write!(text, "{:?}", wait(self.store.revocations()).unwrap()).unwrap();
        text
    }
}
