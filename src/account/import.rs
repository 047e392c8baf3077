//! Accounts that come from elsewhere, many at a time, and the way out again.
//!
//! A line is imported once: when its account is there already, it is left as it is (roles, addresses and
//! passwords that have changed here since are newer than the file), so an import that was interrupted is
//! finished by running it again. An account that was *not* imported is never taken for the one of a line
//! with its name: somebody may have registered the name to be taken for its owner.
//!
//! The app is not told of imported accounts: it had them first.

use std::collections::BTreeSet;
use std::thread;

use tokio::sync::oneshot;

use super::error::InvalidField;
use super::foreign::{Foreign, ForeignError, no_password, stored_hash};
use super::passphrase::Passphrase;
use super::password::hash_once;
use super::{AccountError, Accounts, names};
use crate::clock::Timestamp;
use crate::identity::{Email, Role, UserId, Username};
use crate::secret::Secret;
use crate::settings::{LoginName, PasswordSettings, Settings};
use crate::store::{Account, AccountKey, Change, Committed, Origin, PasswordHash, Reply, StoreError};

/// An account as a file has it: text that nobody has judged.
#[derive(Clone, Debug, Default)]
pub struct ImportUser {
    /// Kept as it is; a new one when absent.
    pub id: Option<String>,
    /// As for a registration, and reserved names too. With an `@`, where people log in with addresses only,
    /// the address.
    pub username: Option<String>,
    /// The address.
    pub email: Option<String>,
    /// Whether the address is proved.
    pub email_verified: bool,
    /// For people to read.
    pub name: Option<String>,
    /// Granted roles; `[auth] default_roles` when absent.
    pub roles: Option<Vec<String>>,
    /// A hash that [`Foreign`] knows; empty, or a mark such as Django's `!…`, for an account that has no
    /// password.
    pub password_hash: Option<Secret<String>>,
    /// Instead of a hash: the password. `[auth.password] min_length` is not asked of it.
    pub password: Option<Secret<String>>,
    /// Whether it cannot log in.
    pub disabled: bool,
    /// RFC 3339, or `2024-01-31 12:00:00.5` in UTC, or seconds since the epoch; now when absent.
    pub created_at: Option<String>,
    /// How often everything of the account was ended before: an export says so.
    pub generation: u64,
    /// Where it came from, as an export says. When absent it comes from the app, with its id if it has one.
    pub origin: Option<Origin>,
}

/// What has become of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// There is an account more. The id, unless it is one that only the store can give.
    Created(Option<UserId>),
    /// It had been imported before.
    Unchanged(UserId),
    /// It was not imported.
    Refused(ImportRefusal),
}

/// Why a line was not imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImportRefusal {
    /// A stable word.
    pub code: &'static str,
    /// A sentence. Never holds a password or a hash.
    pub message: String,
}

impl ImportRefusal {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<InvalidField> for ImportRefusal {
    fn from(invalid: InvalidField) -> Self {
        Self::new("invalid_input", format!("{}: {}", invalid.field, invalid.message))
    }
}

/// A line that was judged, but for what the store says.
struct Plan {
    /// `None`: the configuration's way.
    id: Option<UserId>,
    username: Option<Username>,
    email: Option<Email>,
    email_verified: bool,
    name: Option<String>,
    roles: BTreeSet<Role>,
    password: PlannedPassword,
    disabled: bool,
    created_at: Option<Timestamp>,
    generation: u64,
    origin: Origin,
}

/// Where the stored hash comes from.
enum PlannedPassword {
    /// There is none: nobody can log in until an operator sets one.
    Missing,
    /// The text is the hash.
    Kept(PasswordHash),
    /// A fast hash, wrapped in argon2id first.
    Wrapped(Secret<String>),
    /// A password, hashed first.
    Plain(Passphrase),
}

/// Who has, at the moment, what a line asks for.
#[derive(Default)]
struct Holders {
    id: Option<Account>,
    name: Option<Account>,
    email: Option<Account>,
}

/// Those calls of the store, on their way.
struct Looking {
    id: Option<Reply<Option<Account>>>,
    name: Option<Reply<Option<Account>>>,
    email: Option<Reply<Option<Account>>>,
}

impl Accounts {
    /// Imports lines, in one commit; with `dry_run` only says what would become of them. With `stop` the first
    /// line that is refused is the last one of the answer, and nothing after it is looked at.
    ///
    /// Passwords and fast hashes are hashed on threads of their own, `[auth.password] concurrent` at a time,
    /// so that logins keep theirs.
    ///
    /// # Errors
    /// A fault of the store, or [`AccountError::Randomness`]. What was imported until then is found again.
    pub async fn import(
        &self,
        lines: Vec<ImportUser>,
        dry_run: bool,
        stop: bool,
    ) -> Result<Vec<Imported>, AccountError> {
        let plans: Vec<_> = lines.into_iter().map(|line| Plan::judge(line, self)).collect();
        let looking: Vec<_> = plans.iter().map(|plan| plan.as_ref().ok().map(|p| self.look(p))).collect();
        let mut fates = Vec::with_capacity(plans.len());
        let mut fresh = Vec::new();
        for (plan, looking) in plans.into_iter().zip(looking) {
            let decided = match (plan, looking) {
                (Err(refusal), _) => Err(refusal),
                (Ok(plan), None) => Ok((plan, Holders::default())),
                (Ok(plan), Some(looking)) => Ok((plan, looking.found().await?)),
            };
            let fate = decided.and_then(|(plan, holders)| {
                if let Some(id) = plan.known(&holders)? {
                    return Ok(Imported::Unchanged(id));
                }
                let id = plan.id.clone();
                fresh.push((fates.len(), plan));
                Ok(Imported::Created(id))
            });
            fates.push(fate.unwrap_or_else(Imported::Refused));
            if stop && matches!(fates.last(), Some(Imported::Refused(_))) {
                break;
            }
        }
        let (places, plans): (Vec<_>, Vec<_>) = fresh.into_iter().unzip();
        let made = if dry_run { self.rehearse(plans).await? } else { self.insert_all(plans, stop).await? };
        for (place, fate) in places.into_iter().zip(made) {
            if let Some(slot) = fates.get_mut(place) {
                *slot = fate;
            }
        }
        if stop && let Some(last) = fates.iter().position(|fate| matches!(fate, Imported::Refused(_))) {
            fates.truncate(last + 1);
        }
        Ok(fates)
    }

    /// What would become of them: only the store knows which names and ids were somebody's before.
    async fn rehearse(&self, plans: Vec<Plan>) -> Result<Vec<Imported>, AccountError> {
        let now = self.now();
        let rehearsed = |plan: Plan| {
            let id = plan.id.clone();
            let change = self.insertion_of(plan, no_password(), now);
            (id, change.clone(), self.store.rehearse(vec![change]))
        };
        let replies: Vec<_> = plans.into_iter().map(rehearsed).collect();
        let mut fates = Vec::with_capacity(replies.len());
        for (id, change, reply) in replies {
            fates.push(match inserted(&change, reply.await)? {
                Imported::Created(_) => Imported::Created(id),
                other => other,
            });
        }
        Ok(fates)
    }

    /// A page of accounts with their hashes, in the order of their ids; the next one starts after the last id.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn export(&self, after: Option<UserId>, limit: usize) -> Result<Vec<Account>, AccountError> {
        if after.is_none() {
            tracing::info!(target: "gatepost::audit", event = "accounts_exported", by = "operator");
        }
        Ok(self.store.accounts(after, limit).await?)
    }

    fn look(&self, plan: &Plan) -> Looking {
        let find = |key: Option<AccountKey>| key.map(|key| self.store.account(key));
        Looking {
            id: find(plan.id.clone().map(AccountKey::Id)),
            name: find(plan.username.clone().map(AccountKey::Name)),
            email: find(plan.email.clone().map(AccountKey::Email)),
        }
    }

    fn insertion_of(&self, plan: Plan, hash: PasswordHash, now: Timestamp) -> Change {
        let numbered = plan.id.is_none();
        let account = plan.into_account(hash, now);
        if numbered { self.insertion(account) } else { Change::InsertAccount(account) }
    }

    async fn insert_all(&self, plans: Vec<Plan>, stop: bool) -> Result<Vec<Imported>, AccountError> {
        let now = self.now();
        let mut changes = Vec::with_capacity(plans.len());
        for (plan, hash) in self.hash_all(plans).await? {
            self.hasher.learn(&hash);
            changes.push(self.insertion_of(plan, hash, now));
        }
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        match self.store.commit(changes.clone()).await {
            Ok(done) => {
                let mut numbered = done.numbered.into_iter();
                let next = |change: &Change| match change {
                    Change::InsertNumbered(_) => created(change, numbered.next()),
                    _ => created(change, None),
                };
                let created: Vec<_> = changes.iter().map(next).collect();
                audit(created.len());
                Ok(created)
            }
            // One of them is somebody's, or was: each for itself then.
            Err(StoreError::NameTaken | StoreError::EmailTaken | StoreError::Conflict) => {
                self.insert_each(changes, stop).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// With `stop` none is begun before the one before it is made, and none after a refused one.
    async fn insert_each(&self, changes: Vec<Change>, stop: bool) -> Result<Vec<Imported>, AccountError> {
        // Sent together they are one group of the store's.
        let together = if stop { 1 } else { changes.len().max(1) };
        let mut fates = Vec::with_capacity(changes.len());
        for some in changes.chunks(together) {
            let replies: Vec<_> = some.iter().map(|change| self.store.commit(vec![change.clone()])).collect();
            for (change, reply) in some.iter().zip(replies) {
                fates.push(inserted(change, reply.await)?);
            }
            if stop && matches!(fates.last(), Some(Imported::Refused(_))) {
                break;
            }
        }
        audit(fates.iter().filter(|fate| matches!(fate, Imported::Created(_))).count());
        Ok(fates)
    }

    async fn hash_all(&self, plans: Vec<Plan>) -> Result<Vec<(Plan, PasswordHash)>, AccountError> {
        let at_once = self.settings.auth.password.concurrent.max(1);
        let mut hashed = Vec::with_capacity(plans.len());
        let mut plans = plans.into_iter().peekable();
        while plans.peek().is_some() {
            let batch = plans.by_ref().take(at_once).map(|plan| self.hash_one(plan));
            for hashing in batch.collect::<Result<Vec<_>, _>>()? {
                hashed.push(match hashing {
                    Hashing::Done(plan, hash) => (plan, hash),
                    // A thread that panicked: the line is tried again with the next run.
                    Hashing::Running(plan, answer) => (plan, answer.await.map_err(|_| AccountError::Busy)??),
                });
            }
        }
        Ok(hashed)
    }

    fn hash_one(&self, plan: Plan) -> Result<Hashing, AccountError> {
        let settings = self.settings.auth.password;
        match &plan.password {
            PlannedPassword::Missing => Ok(Hashing::Done(plan, no_password())),
            PlannedPassword::Kept(hash) => {
                let hash = hash.clone();
                Ok(Hashing::Done(plan, hash))
            }
            PlannedPassword::Plain(password) => {
                let password = password.clone();
                let answer = on_a_thread(move || hash_once(&password, &settings))?;
                Ok(Hashing::Running(plan, answer))
            }
            PlannedPassword::Wrapped(text) => {
                let text = text.clone();
                let answer = on_a_thread(move || {
                    stored_hash(text.expose(), &settings)
                        .map_err(|error| AccountError::Randomness(error.to_string()))
                })?;
                Ok(Hashing::Running(plan, answer))
            }
        }
    }
}

type Hashed = Result<PasswordHash, AccountError>;

/// Hashes on a thread that ends with it: an import may be long, and logins keep the hashing threads.
fn on_a_thread(
    hash: impl FnOnce() -> Hashed + Send + 'static,
) -> Result<oneshot::Receiver<Hashed>, AccountError> {
    let (answer, waiting) = oneshot::channel();
    // Nobody may wait any more.
    let work = move || drop(answer.send(hash()));
    thread::Builder::new().name("import-hash".to_owned()).spawn(work).map_err(|_| AccountError::Busy)?;
    Ok(waiting)
}

/// A hash that is there, or on its way.
enum Hashing {
    Done(Plan, PasswordHash),
    Running(Plan, oneshot::Receiver<Hashed>),
}

impl Looking {
    async fn found(self) -> Result<Holders, StoreError> {
        Ok(Holders {
            id: given(self.id).await?,
            name: given(self.name).await?,
            email: given(self.email).await?,
        })
    }
}

async fn given(reply: Option<Reply<Option<Account>>>) -> Result<Option<Account>, StoreError> {
    match reply {
        Some(reply) => reply.await,
        None => Ok(None),
    }
}

fn created(change: &Change, numbered: Option<UserId>) -> Imported {
    Imported::Created(match change {
        Change::InsertAccount(account) => Some(account.id.clone()),
        _ => numbered,
    })
}

fn inserted(change: &Change, done: Result<Committed, StoreError>) -> Result<Imported, AccountError> {
    match done {
        Ok(done) => Ok(created(change, done.numbered.into_iter().next())),
        Err(StoreError::NameTaken | StoreError::Conflict) => Ok(Imported::Refused(ImportRefusal::new(
            "name_taken",
            "the username or the id belongs to another account, or belonged to one before",
        ))),
        Err(StoreError::EmailTaken) => Ok(Imported::Refused(email_taken())),
        Err(error) => Err(error.into()),
    }
}

fn audit(count: usize) {
    tracing::info!(target: "gatepost::audit", event = "accounts_imported", count, by = "operator");
}

fn email_taken() -> ImportRefusal {
    ImportRefusal::new("email_taken", "the e-mail address belongs to another account")
}

impl Plan {
    fn judge(line: ImportUser, accounts: &Accounts) -> Result<Self, ImportRefusal> {
        let settings = &*accounts.settings;
        let (username, email) = called(&line, settings);
        let id = line.id.map(|id| id.parse().map_err(|error| invalid("id", error))).transpose()?;
        let username = username.map(|typed| accounts.names.username(&typed)).transpose()?;
        let email = email.map(|typed| names::email(&typed)).transpose()?;
        match settings.auth.login_name {
            LoginName::Email if username.is_some() => {
                let why = "username: accounts have none here: [auth] login_name is \"email\"";
                return Err(ImportRefusal::new("invalid_input", why));
            }
            LoginName::Email if email.is_none() => {
                return Err(ImportRefusal::new("missing_email", "an e-mail address is needed"));
            }
            LoginName::Username | LoginName::Either if username.is_none() => {
                return Err(ImportRefusal::new("missing_username", "a username is needed"));
            }
            _ => {}
        }
        Ok(Self {
            generation: generation(line.generation)?,
            origin: origin(line.origin, id.is_some(), line.created_at.is_some())?,
            id,
            email_verified: line.email_verified && email.is_some(),
            username,
            email,
            name: line.name.map(|typed| names::display_name(&typed)).transpose()?,
            roles: roles(line.roles, settings)?,
            password: password(line.password_hash, line.password, settings)?,
            disabled: line.disabled,
            created_at: line.created_at.map(|text| time(&text)).transpose()?,
        })
    }

    /// The account that this line has become before, if any; a refusal when somebody else is in its place.
    fn known(&self, holders: &Holders) -> Result<Option<UserId>, ImportRefusal> {
        let by_id = (holders.id.as_ref(), "id_taken", "the id");
        let by_name = (holders.name.as_ref(), "name_taken", "the username");
        let by_email = (holders.email.as_ref(), "email_taken", "the e-mail address");
        let (first, others) = match (&self.id, &self.username) {
            (Some(_), _) => (by_id, [by_name, by_email]),
            (None, Some(_)) => (by_name, [by_email, by_email]),
            (None, None) => (by_email, [by_email, by_email]),
        };
        if let (Some(account), code, what) = first {
            if self.is_called(account) && self.came_from_here(account) {
                return Ok(Some(account.id.clone()));
            }
            let why =
                if self.is_called(account) { "an account that was not imported" } else { "another account" };
            return Err(ImportRefusal::new(code, format!("{what} belongs to {why}")));
        }
        match others.into_iter().find(|(holder, ..)| holder.is_some()) {
            Some((_, code, what)) => {
                Err(ImportRefusal::new(code, format!("{what} belongs to another account")))
            }
            None => Ok(None),
        }
    }

    fn is_called(&self, account: &Account) -> bool {
        match &self.username {
            Some(name) => account.username.as_ref() == Some(name),
            None => account.email.as_ref().map(Email::key) == self.email.as_ref().map(Email::key),
        }
    }

    /// Whether the account is of an import, or this line of an export of this store: nobody chooses when
    /// they registered.
    fn came_from_here(&self, account: &Account) -> bool {
        account.origin.is_the_app() || (self.id.is_some() && self.created_at == Some(account.created_at))
    }

    fn into_account(self, password: PasswordHash, now: Timestamp) -> Account {
        Account {
            id: self.id.unwrap_or_else(UserId::random),
            version: 0,
            username: self.username,
            email: self.email,
            email_verified: self.email_verified,
            name: self.name,
            roles: self.roles,
            password,
            disabled: self.disabled,
            generation: self.generation,
            origin: self.origin,
            created_at: self.created_at.unwrap_or(now),
            updated_at: now,
        }
    }
}

/// Whether somebody would have to know the hash to log in: hashed again, it would be the password.
fn is_a_hash(text: &str, rules: &PasswordSettings) -> bool {
    use ForeignError::{Broken, Excessive, NoPassword, Unsupported, Unwrapped};
    /// `!` and 40 characters, as Django marks who has none.
    const MARK: usize = 41;
    match Foreign::parse(text, rules) {
        Ok(_) | Err(Broken { .. } | Excessive { .. } | Unsupported(_) | Unwrapped(_)) => true,
        Err(NoPassword) => matches!(text.len(), 1 | MARK),
        Err(_) => false,
    }
}

/// The username and the address of a line.
fn called(line: &ImportUser, settings: &Settings) -> (Option<String>, Option<String>) {
    let (username, email) = (line.username.clone(), line.email.clone());
    let is_address = username.as_ref().is_some_and(|name| name.contains('@'));
    if settings.auth.login_name == LoginName::Email
        && is_address
        && email.as_ref().is_none_or(|e| Some(e) == username.as_ref())
    {
        return (None, username);
    }
    (username, email)
}

fn roles(named: Option<Vec<String>>, settings: &Settings) -> Result<BTreeSet<Role>, ImportRefusal> {
    let Some(named) = named else { return Ok(settings.auth.default_roles.iter().cloned().collect()) };
    let known = |name: String| {
        let role: Role = name.parse().map_err(|error| invalid("roles", error))?;
        if settings.roles.contains(&role) {
            return Ok(role);
        }
        Err(ImportRefusal::new("unknown_role", format!("the configuration has no role {:?}", role.as_str())))
    };
    named.into_iter().map(known).collect()
}

/// No account comes near it, and each can still be ended as often again.
const LATEST_GENERATION: u64 = u32::MAX as u64;

fn generation(given: u64) -> Result<u64, ImportRefusal> {
    if given <= LATEST_GENERATION {
        return Ok(given);
    }
    Err(ImportRefusal::new("invalid_input", format!("generation: at most {LATEST_GENERATION}")))
}

/// An account of the app's, unless an export says otherwise; that one has to name what it is known again by.
fn origin(given: Option<Origin>, has_id: bool, has_time: bool) -> Result<Origin, ImportRefusal> {
    let refused = |why: String| Err(ImportRefusal::new("invalid_input", why));
    match given {
        None if has_id => Ok(Origin::ImportedWithId),
        None => Ok(Origin::Imported),
        Some(Origin::Registered | Origin::Operator) if !has_id || !has_time => refused(
            "origin: who registered or was added at another gateway has an id and a created_at".to_owned(),
        ),
        Some(origin) if origin.brought_its_id() && !has_id => {
            refused(format!("origin: {}, and no id", origin.word()))
        }
        Some(origin) => Ok(origin),
    }
}

fn password(
    hash: Option<Secret<String>>,
    plain: Option<Secret<String>>,
    settings: &Settings,
) -> Result<PlannedPassword, ImportRefusal> {
    let rules = &settings.auth.password;
    match (hash, plain) {
        (Some(_), Some(_)) => {
            Err(ImportRefusal::new("invalid_input", "a password and a hash: only one of them can be right"))
        }
        (None, None) => {
            let why = "neither password_hash nor password; an account that has none says so with a password_hash \
                       that is null or empty, and one for it is set with \"user passwd\"";
            Err(ImportRefusal::new("missing_password", why))
        }
        (Some(hash), None) => {
            let read = match Foreign::parse(hash.expose(), rules) {
                Err(ForeignError::NoPassword) => return Ok(PlannedPassword::Missing),
                read => read.map_err(|error| ImportRefusal::new("password_hash", error.to_string()))?,
            };
            if read.is_fast() {
                return Ok(PlannedPassword::Wrapped(hash));
            }
            Ok(PlannedPassword::Kept(PasswordHash::from(hash.expose().clone())))
        }
        (None, Some(plain)) => match Passphrase::typed(&plain, rules) {
            Some(_) if plain.expose().is_empty() => {
                Err(ImportRefusal::new("missing_password", "the password is empty"))
            }
            Some(_) if is_a_hash(plain.expose(), rules) => {
                let why = "password: this is a hash, not a password; name its column with --map password_hash=password";
                Err(ImportRefusal::new("password_hash", why))
            }
            Some(password) => Ok(PlannedPassword::Plain(password)),
            None => {
                let why = format!("password: a password has at most {} bytes", rules.max_bytes);
                Err(ImportRefusal::new("invalid_input", why))
            }
        },
    }
}

/// A time as databases write it. What has no zone is UTC.
fn time(text: &str) -> Result<Timestamp, ImportRefusal> {
    /// The last second of the year 9999: an export can write it, and milliseconds are beyond it.
    const LATEST: u64 = 253_402_300_799;
    let refused = || {
        let why = "created_at: not a time in UTC, like 2024-01-31T12:00:00Z or seconds since the epoch";
        ImportRefusal::new("invalid_input", why)
    };
    let (digits, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits.is_empty() && is_number(digits) && is_number(fraction) {
        let secs = digits.parse().ok().filter(|secs| *secs <= LATEST);
        return secs.map(Timestamp::from_secs).ok_or_else(refused);
    }
    let bare =
        ["Z", "+00:00", "+0000", "+00"].iter().find_map(|zone| text.strip_suffix(zone)).unwrap_or(text);
    let whole = if bare.len() == "2024-01-31".len() { format!("{bare}T00:00:00") } else { bare.to_owned() };
    humantime::parse_rfc3339_weak(&whole).map(Timestamp::from).map_err(|_| refused())
}

fn invalid(field: &str, error: impl std::fmt::Display) -> ImportRefusal {
    ImportRefusal::new("invalid_input", format!("{field}: {error}"))
}
