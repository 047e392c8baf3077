//! Answers commands from the accounts, the keys and the revocations: for the admin socket of a running
//! gateway, and for the command line on a store that nobody else has open.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::command::{
    Answer, CallerView, Command, Confidential, ImportFate, KeyView, Refusal, Revoke, SessionView,
    TokenReport, UserRecord, UserView,
};
use super::server::Handle;
use crate::account::{
    self, AccountChange, AccountError, AccountView, Accounts, AccountsChange, AccountsParts, ImportUser,
    Imported, LegacyError, NewAccount, Outside, Revocable,
};
use crate::authn::{self, AuthnError};
use crate::clock::{Clock, Timestamp};
use crate::identity::{SessionId, UserId};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::store::{Account, Change, Store, StoreError};
use crate::token::access::{AccessToken, IssueError, Issuer, Verifier};
use crate::token::keyring::{KeyError, KeyPurpose, KeyRing, StoredKey};
use crate::token::legacy::LegacyKeyError;
use crate::token::refresh::RefreshToken;
use crate::token::revocation::RevocationList;

/// Accounts in one answer.
const PAGE: usize = 500;

/// The code of a refusal that names whom it looked for.
const NO_SUCH_ACCOUNT: &str = "no_such_account";

/// What a desk works with.
pub struct DeskParts {
    /// The open store.
    pub store: Arc<dyn Store>,
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who else has a say in accounts.
    pub outside: Outside,
}

impl std::fmt::Debug for DeskParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeskParts").finish_non_exhaustive()
    }
}

/// Why there is no desk.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The store does not give its keys or revocations, or does not take a new key.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key is damaged, or cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key of `[[legacy_token]]` does not fit its algorithm.
    #[error("[[legacy_token]]: {0}")]
    Legacy(#[from] LegacyKeyError),
    /// `[tokens]` and the keys do not fit.
    #[error(transparent)]
    Issuer(#[from] IssueError),
    /// A hashing thread does not start.
    #[error("the password threads do not start: {0}")]
    Threads(#[from] io::Error),
}

/// Everything about accounts and tokens, over one open store. `serve` takes its parts from here too, so
/// that there is one way to put them together.
pub struct Desk {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    keys: Arc<KeyRing>,
    verifier: ArcSwap<Verifier>,
    revocations: Arc<RevocationList>,
    accounts: ArcSwap<Accounts>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Loads keys and revocations, makes the keys that are missing, starts the hashing threads. Blocks.
    pub fn open(parts: DeskParts) -> Result<Self, DeskError> {
        let DeskParts { store, settings, metrics, clock, outside } = parts;
        let keys = Arc::new(load_keys(&*store, &settings, clock.now())?);
        let stored = store.revocations().wait()?;
        let revocations = Arc::new(RevocationList::with_capacity(stored.len()));
        for revocation in stored {
            revocations.insert(revocation);
        }
        revocations.purge(clock.now());
        let verifier = Arc::new(Verifier::new(&keys, &settings.tokens)?);
        let accounts = Accounts::new(AccountsParts {
            store: Arc::clone(&store),
            revocations: Arc::clone(&revocations),
            issuer: Arc::new(Issuer::new(&keys, &settings.tokens)?),
            verifier: Arc::clone(&verifier),
            refresh_key: keys.refresh_key().clone(),
            settings,
            metrics,
            clock: Arc::clone(&clock),
            outside,
        })?;
        let (verifier, accounts) = (ArcSwap::new(verifier), ArcSwap::from_pointee(accounts));
        Ok(Self { store, clock, keys, verifier, revocations, accounts })
    }

    /// Works by other settings from here on; the store, the keys and the algorithm stay what they are.
    ///
    /// # Errors
    /// [`DeskError`]; nothing has changed then.
    pub fn change(&self, settings: &Arc<Settings>, outside: Outside) -> Result<(), DeskError> {
        let issuer = Arc::new(Issuer::new(&self.keys, &settings.tokens)?);
        let known = self.verifier.load_full();
        // The same one as before: then what it has verified stays verified.
        let same = known.is_by(&settings.tokens);
        let verifier = if same { known } else { Arc::new(Verifier::new(&self.keys, &settings.tokens)?) };
        let change = AccountsChange {
            settings: Arc::clone(settings),
            issuer,
            verifier: Arc::clone(&verifier),
            outside,
        };
        let accounts = self.accounts.load().reconfigured(change)?;
        self.accounts.store(Arc::new(accounts));
        self.verifier.store(verifier);
        Ok(())
    }

    /// The verbs.
    #[must_use]
    pub fn accounts(&self) -> Arc<Accounts> {
        self.accounts.load_full()
    }
    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }
    /// Checks access tokens.
    #[must_use]
    pub fn verifier(&self) -> Arc<Verifier> {
        self.verifier.load_full()
    }
    /// What is refused although its signature is good.
    #[must_use]
    pub fn revocations(&self) -> &Arc<RevocationList> {
        &self.revocations
    }

    /// Does what is asked.
    pub async fn answer(&self, command: Command) -> Result<Answer, Refusal> {
        let who = command.user().map(str::to_owned);
        self.carry_out(command).await.map_err(|refusal| match who {
            Some(who) if refusal.code == NO_SUCH_ACCOUNT => {
                Refusal::new(NO_SUCH_ACCOUNT, format!("there is no account {who:?}"))
            }
            _ => refusal,
        })
    }

    async fn carry_out(&self, command: Command) -> Result<Answer, Refusal> {
        let accounts = &*self.accounts.load_full();
        match command {
            Command::UserAdd { username, email, name, roles, password } => {
                let password = password.into_secret();
                let new = NewAccount { username, email, name, roles, password };
                Ok(user(accounts.add(new).await?))
            }
            Command::UserList { after } => self.list(after).await,
            Command::UserShow { user: who } => Ok(user(accounts.show(&who).await?)),
            Command::UserSet { user: who, username, email, name, roles } => {
                let email = email.map(unless_empty);
                let name = name.map(unless_empty);
                let change = AccountChange { roles, email, name, username };
                Ok(user(accounts.set(&who, &change).await?))
            }
            Command::UserPasswd { user: who, password } => {
                Ok(user(accounts.set_password(&who, &password.into_secret()).await?))
            }
            Command::UserDisable { user: who } => Ok(user(accounts.disable(&who).await?)),
            Command::UserEnable { user: who } => Ok(user(accounts.enable(&who).await?)),
            Command::UserUnlock { user: who } => Ok(user(accounts.unlock(&who).await?)),
            Command::UserRemove { user: who } => {
                accounts.remove(&who).await?;
                Ok(Answer::Done)
            }
            Command::UserImport { users, dry_run, stop } => {
                let users = users.into_iter().map(ImportUser::from).collect();
                let fates = accounts.import(users, dry_run, stop).await?;
                Ok(Answer::Imported(fates.into_iter().map(ImportFate::from).collect()))
            }
            Command::UserExport { after } => {
                let page = accounts.export(after, PAGE).await?;
                let more = page.len() == PAGE;
                Ok(Answer::Exported { users: page.into_iter().map(UserRecord::from).collect(), more })
            }
            Command::UserSessions { user: who } => {
                let sessions = accounts.sessions_of(&who).await?;
                Ok(Answer::Sessions(sessions.into_iter().map(SessionView::from).collect()))
            }
            Command::UserLogout { user: who, session } => self.log_out(&who, session).await,
            Command::KeyList => self.list_keys().await,
            Command::KeyExport => match serde_json::from_str(self.keys.jwks()) {
                Ok(jwks) => Ok(Answer::Jwks(jwks)),
                Err(error) => Err(Refusal::new("failed", format!("the JWK set is not JSON: {error}"))),
            },
            Command::TokenInspect { token } => {
                Ok(Answer::Token(Box::new(self.inspect(token.expose()).await?)))
            }
            Command::TokenRevoke { what } => self.revoke(what).await,
            // Whoever serves takes it before it comes here.
            Command::TakeOver => Err(Refusal::new("not_serving", "this gateway serves nobody")),
        }
    }

    async fn list(&self, after: Option<UserId>) -> Result<Answer, Refusal> {
        let page = self.accounts().list(after, PAGE).await?;
        let more = page.len() == PAGE;
        Ok(Answer::Users { users: page.into_iter().map(UserView::from).collect(), more })
    }

    async fn log_out(&self, who: &str, session: Option<SessionId>) -> Result<Answer, Refusal> {
        let Some(session) = session else {
            return Ok(Answer::Ended { sessions: self.accounts().end_all_sessions(who).await? });
        };
        let theirs = self.accounts().sessions_of(who).await?.iter().any(|theirs| theirs.id == session);
        if !theirs {
            return Err(AccountError::NoSuchSession.into());
        }
        self.accounts().revoke(&Revocable::Session(session)).await?;
        Ok(Answer::Ended { sessions: 1 })
    }

    async fn revoke(&self, what: Revoke) -> Result<Answer, Refusal> {
        let what = match what {
            Revoke::Token(token) => Revocable::Text(token.into_secret()),
            Revoke::Jti(id) => Revocable::Token(id),
            Revoke::Session(id) => Revocable::Session(id),
            Revoke::User(who) => {
                return Ok(Answer::Ended { sessions: self.accounts().end_all_sessions(&who).await? });
            }
        };
        self.accounts().revoke(&what).await?;
        Ok(Answer::Done)
    }

    async fn list_keys(&self) -> Result<Answer, Refusal> {
        let stored = self.store.keys().await.map_err(AccountError::from)?;
        let mut views: Vec<_> = stored.iter().map(|key| self.key_view(key)).collect();
        let configured = self.keys.kids().filter(|kid| stored.iter().all(|key| key.id != *kid));
        views.extend(configured.map(|kid| KeyView {
            id: kid.to_owned(),
            purpose: KeyPurpose::SignAccess.to_string(),
            algorithm: "HS256".to_owned(),
            in_use: true,
            created_at: None,
        }));
        views.extend(self.keys.previous_kids().map(|kid| KeyView {
            id: kid.to_owned(),
            purpose: "verifying".to_owned(),
            algorithm: "HS256".to_owned(),
            in_use: true,
            created_at: None,
        }));
        Ok(Answer::Keys(views))
    }

    fn key_view(&self, key: &StoredKey) -> KeyView {
        let (algorithm, in_use) = match key.purpose {
            KeyPurpose::SignAccess => ("EdDSA", self.keys.kids().any(|kid| kid == key.id)),
            KeyPurpose::Refresh => ("HMAC-SHA-256", true),
        };
        KeyView {
            id: key.id.clone(),
            purpose: key.purpose.to_string(),
            algorithm: algorithm.to_owned(),
            in_use,
            created_at: Some(key.created_at.rfc3339()),
        }
    }

    async fn inspect(&self, token: &str) -> Result<TokenReport, Refusal> {
        let unknown = TokenReport {
            valid: false,
            state: "invalid_token".to_owned(),
            detail: None,
            header: part(token, 0),
            claims: part(token, 1),
            issued_at: None,
            expires_at: None,
            caller: None,
        };
        let unknown =
            TokenReport { issued_at: unknown.time("iat"), expires_at: unknown.time("exp"), ..unknown };
        if let Some(refresh) = RefreshToken::parse(self.keys.refresh_key(), token) {
            let detail = format!("it is a refresh token, of session {}", refresh.session());
            return Ok(TokenReport { detail: Some(detail), ..unknown });
        }
        let refused = |state: &str, detail: &str| TokenReport {
            state: state.to_owned(),
            detail: Some(detail.to_owned()),
            ..unknown.clone()
        };
        let checked = authn::check(&self.verifier.load(), &self.revocations, token, self.clock.now());
        let checked = match checked {
            Err(AuthnError::Unresolved) => self.look_up(token).await?,
            checked => checked,
        };
        Ok(match checked {
            Err(error) => refused(error.code(), error.description()),
            Ok(AccessToken { principal, .. }) => TokenReport {
                valid: true,
                state: "valid".to_owned(),
                caller: Some(CallerView {
                    id: principal.id,
                    username: principal.username.to_string(),
                    name: principal.name.as_deref().map(str::to_owned),
                    email_verified: principal.email.as_ref().is_some_and(|email| email.verified),
                    email: principal.email.map(|email| email.address),
                    roles: principal.roles.iter().cloned().collect(),
                    session: principal.session,
                }),
                ..unknown
            },
        })
    }

    /// What a token is worth that the app minted.
    async fn look_up(&self, token: &str) -> Result<Result<AccessToken, AuthnError>, Refusal> {
        match self.accounts().admit_legacy(token).await {
            Ok(token) => Ok(Ok(token)),
            Err(LegacyError::Token(error)) => Ok(Err(error.into())),
            Err(LegacyError::Revoked) => Ok(Err(AuthnError::Revoked)),
            Err(LegacyError::Store(error)) => Err(AccountError::Store(error).into()),
        }
    }
}

impl Handle for Desk {
    async fn handle(&self, command: Command) -> Result<Answer, Refusal> {
        self.answer(command).await
    }
}

fn load_keys(store: &dyn Store, settings: &Settings, now: Timestamp) -> Result<KeyRing, DeskError> {
    let algorithm = &settings.tokens.algorithm;
    let mut stored = store.keys().wait()?;
    let made =
        KeyRing::missing(algorithm, &stored).into_iter().map(|purpose| StoredKey::generate(purpose, now));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    if !made.is_empty() {
        // Stored before they are used: a token must not outlive the only copy of its key.
        store.commit(made.iter().cloned().map(Change::InsertKey).collect()).wait()?;
        stored.extend(made);
    }
    Ok(KeyRing::load(algorithm, &stored)?.with_previous(&settings.tokens.previous_secrets)?)
}

fn unless_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn user(account: AccountView) -> Answer {
    Answer::User(Box::new(account.into()))
}

/// A part of a token as JSON, not believed.
fn part(token: &str, index: usize) -> Option<serde_json::Value> {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(index)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl TokenReport {
    /// A `NumericDate` of the claims, as text.
    fn time(&self, claim: &str) -> Option<String> {
        self.claims.as_ref()?.get(claim)?.as_u64().map(|secs| Timestamp::from_secs(secs).rfc3339())
    }
}

impl From<AccountView> for UserView {
    fn from(account: AccountView) -> Self {
        Self {
            id: account.id,
            username: account.username,
            email: account.email,
            email_verified: account.email_verified,
            name: account.name,
            roles: account.granted_roles.into_iter().collect(),
            effective_roles: account.roles,
            disabled: account.disabled,
            created_at: account.created_at.rfc3339(),
            updated_at: account.updated_at.rfc3339(),
        }
    }
}

impl From<UserRecord> for ImportUser {
    fn from(record: UserRecord) -> Self {
        Self {
            id: record.id,
            username: record.username,
            email: record.email,
            email_verified: record.email_verified,
            name: record.name,
            roles: record.roles,
            password_hash: record.password_hash.map(Confidential::into_secret),
            password: record.password.map(Confidential::into_secret),
            disabled: record.disabled,
            generation: record.generation,
            origin: record.origin,
            created_at: record.created_at,
        }
    }
}

impl From<Account> for UserRecord {
    fn from(account: Account) -> Self {
        Self {
            id: Some(account.id.to_string()),
            username: account.username.map(|name| name.to_string()),
            email: account.email.map(|email| email.to_string()),
            email_verified: account.email_verified,
            name: account.name,
            roles: Some(account.roles.iter().map(ToString::to_string).collect()),
            password_hash: Some(String::from(account.password).into()),
            password: None,
            disabled: account.disabled,
            // To the millisecond: by it an account is known again.
            created_at: Some(account.created_at.rfc3339_millis()),
            generation: account.generation,
            origin: Some(account.origin),
        }
    }
}

impl From<Imported> for ImportFate {
    fn from(fate: Imported) -> Self {
        match fate {
            Imported::Created(id) => Self::Created { id },
            Imported::Unchanged(id) => Self::Unchanged { id },
            Imported::Refused(why) => Self::Refused { code: why.code.to_owned(), message: why.message },
        }
    }
}

impl From<account::SessionView> for SessionView {
    fn from(session: account::SessionView) -> Self {
        Self {
            id: session.id,
            created_at: session.created_at.rfc3339(),
            last_used_at: session.last_used_at.rfc3339(),
            address: session.address,
            client: session.client,
        }
    }
}

impl From<AccountError> for Refusal {
    fn from(error: AccountError) -> Self {
        let code = match &error {
            AccountError::Invalid(_) => "invalid_input",
            AccountError::NameTaken => "user_exists",
            AccountError::EmailTaken => "email_taken",
            AccountError::UnknownRole(_) => "unknown_role",
            AccountError::NoSuchAccount => NO_SUCH_ACCOUNT,
            AccountError::TwoAccounts(_) => "ambiguous",
            AccountError::NoSuchSession => "no_such_session",
            AccountError::ForeignToken => "invalid_token",
            AccountError::Busy => "busy",
            AccountError::Contended => "conflict",
            AccountError::Store(_) => "store_unavailable",
            _ => "failed",
        };
        Self::new(code, error.to_string())
    }
}

impl Confidential {
    fn into_secret(self) -> crate::secret::Secret<String> {
        crate::secret::Secret::new(self.into())
    }
}
