//! Making an account: what is asked of a new one, and that a name goes to one person only.

use super::error::InvalidField;
use super::names::{self, Names};
use super::outside::{Admitted, Applicant};
use super::passphrase::Passphrase;
use super::{AccountError, AccountView, Accounts, ClientContext};
use crate::clock::Timestamp;
use crate::identity::{Email, Role, UserId, Username};
use crate::secret::Secret;
use crate::settings::{Ids, LoginName, PasswordSettings, Registration as Registering};
use crate::store::{Account, AccountKey, Change, Origin, PasswordHash};

/// What somebody sends to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Asked for unless `[auth] login_name = "email"`.
    pub username: Option<String>,
    /// Asked for when `[auth] login_name = "email"`.
    pub email: Option<String>,
    /// For people to read.
    pub name: Option<String>,
    /// The password.
    pub password: Option<Secret<String>>,
}

/// A registration whose every part is good.
pub(super) struct Draft {
    /// The one that the app has given; a new one when absent.
    pub(super) id: Option<UserId>,
    pub(super) username: Option<Username>,
    pub(super) email: Option<Email>,
    pub(super) name: Option<String>,
    pub(super) password: Passphrase,
}

impl Accounts {
    /// Makes an account with the default roles and an address that nobody has proved.
    ///
    /// # Errors
    /// [`AccountError::RegistrationClosed`], `Invalid`, `NameTaken`, `EmailTaken`, `NotAdmitted`,
    /// `AdmissionUnavailable`, `Throttled`, `Busy`, or a fault of the store.
    pub async fn register(
        &self,
        registration: Registration,
        client: &ClientContext,
    ) -> Result<AccountView, AccountError> {
        let auth = &self.settings.auth;
        if auth.registration == Registering::Closed {
            return Err(AccountError::RegistrationClosed);
        }
        let draft = Draft::check(registration, &self.names, auth.login_name, &auth.password)?;
        // Before the name is looked up: a 409 tells that somebody has it, so those count as well.
        self.throttle.register(client.address, self.now()).map_err(|hit| self.throttled(hit))?;
        if draft.username.as_ref().is_some_and(|name| self.names.is_reserved(name)) {
            return Err(AccountError::NameTaken);
        }
        self.refuse_taken(&draft).await?;
        self.ask_admission(&draft, client).await?;
        let roles = auth.default_roles.iter().cloned();
        let account = self.insert(draft, roles, EmailProof::None).await?;
        tracing::info!(target: "gatepost::audit", event = "register", user = %account.id, client = %client.address);
        Ok(self.view(&account))
    }

    /// Asks the app, where it wants to be asked, before any hashing.
    async fn ask_admission(&self, draft: &Draft, client: &ClientContext) -> Result<(), AccountError> {
        self.ask_about(Applicant {
            username: draft.username.as_ref().map(Username::as_str),
            email: draft.email.as_ref().map(Email::as_str),
            name: draft.name.as_deref(),
            from: client.address,
        })
        .await
    }

    /// The same for an address that somebody wants to have: it may be of somebody whom only the app knows.
    pub(super) async fn ask_for_address(
        &self,
        account: &Account,
        email: &Email,
        client: &ClientContext,
    ) -> Result<(), AccountError> {
        if self.outside.admission.is_none() && self.outside.migration.is_some() {
            let why = "addresses do not change while accounts move in";
            return Err(AccountError::Invalid(vec![InvalidField::new("email", "unavailable", why)]));
        }
        let applicant = Applicant {
            username: account.username.as_ref().map(Username::as_str),
            email: Some(email.as_str()),
            name: account.name.as_deref(),
            from: client.address,
        };
        match self.ask_about(applicant).await {
            Err(AccountError::NameTaken) => Err(AccountError::EmailTaken),
            answer => answer,
        }
    }

    async fn ask_about(&self, applicant: Applicant<'_>) -> Result<(), AccountError> {
        let from = applicant.from;
        let Some(admission) = &self.outside.admission else { return Ok(()) };
        let answer = admission.admit(applicant).await.map_err(|_| AccountError::AdmissionUnavailable)?;
        let reason = match answer {
            Admitted::Yes => return Ok(()),
            Admitted::Taken => return Err(AccountError::NameTaken),
            Admitted::No(reason) => reason,
        };
        tracing::info!(target: "gatepost::audit", event = "register_refused", client = %from, reason = "admission");
        Err(AccountError::NotAdmitted(reason))
    }

    /// Hashes the draft's password and commits the account.
    pub(super) async fn insert(
        &self,
        draft: Draft,
        roles: impl IntoIterator<Item = Role>,
        proof: EmailProof,
    ) -> Result<Account, AccountError> {
        let password = self.hasher.hash(draft.password.clone()).await?;
        let is_given = draft.id.is_some();
        let mut account = draft.into_account(password, roles, proof, self.now());
        let mut changes = Vec::new();
        if let (EmailProof::App, Some(email)) = (proof, &account.email) {
            // The app does not know whom we have let go, or who is called otherwise by now.
            changes.push(Change::ExpectNewAddress(email.clone()));
        }
        // Whoever else is hashing for the same name at this moment: the store takes one of us.
        changes.push(if is_given {
            Change::InsertAccount(account.clone())
        } else {
            self.insertion(account.clone())
        });
        let done = self.revoker.commit(changes).await?;
        if let Some(id) = done.numbered.into_iter().next() {
            account.id = id;
        }
        Ok(account)
    }

    /// A new account under its own id, or the next number.
    pub(super) fn insertion(&self, account: Account) -> Change {
        match self.settings.auth.ids {
            Ids::Uuid => Change::InsertAccount(account),
            Ids::Sequence => Change::InsertNumbered(account),
        }
    }

    /// Refuses a name or an address that somebody has, before any hashing.
    pub(super) async fn refuse_taken(&self, draft: &Draft) -> Result<(), AccountError> {
        if let Some(name) = &draft.username
            && self.store.account(AccountKey::Name(name.clone())).await?.is_some()
        {
            return Err(AccountError::NameTaken);
        }
        if let Some(email) = &draft.email
            && self.store.account(AccountKey::Email(email.clone())).await?.is_some()
        {
            return Err(AccountError::EmailTaken);
        }
        Ok(())
    }
}

/// Who vouches for a new account's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EmailProof {
    /// Nobody yet.
    None,
    /// Nobody yet; but the app knows who it is.
    App,
    /// The operator.
    Operator,
}

impl Draft {
    /// Checks every part, and tells everything that is wrong at once.
    pub(super) fn check(
        from: Registration,
        names: &Names,
        login: LoginName,
        password: &PasswordSettings,
    ) -> Result<Self, AccountError> {
        let mut errors = Vec::new();
        let asks_name = login != LoginName::Email;
        if from.username.is_some() && !asks_name {
            errors.push(InvalidField::new("username", "unknown", "accounts have no username here"));
        }
        let username = match from.username.filter(|_| asks_name) {
            Some(typed) => keep(names.username(&typed), &mut errors),
            None if asks_name => missing("username", "a username is needed", &mut errors),
            None => None,
        };
        let email = match from.email {
            Some(typed) => keep(names::email(&typed), &mut errors),
            None if !asks_name => missing("email", "an e-mail address is needed", &mut errors),
            None => None,
        };
        let name = from.name.and_then(|typed| keep(names::display_name(&typed), &mut errors));
        let password = match from.password {
            Some(typed) => keep(Passphrase::chosen(&typed, "password", password), &mut errors),
            None => missing("password", "a password is needed", &mut errors),
        };
        match password {
            Some(password) if errors.is_empty() => Ok(Self { id: None, username, email, name, password }),
            _ => Err(AccountError::Invalid(errors)),
        }
    }

    fn into_account(
        self,
        password: PasswordHash,
        roles: impl IntoIterator<Item = Role>,
        proof: EmailProof,
        now: Timestamp,
    ) -> Account {
        let origin = match (proof, &self.id) {
            (EmailProof::App, Some(_)) => Origin::MigratedWithId,
            (EmailProof::App, None) => Origin::Migrated,
            (EmailProof::Operator, _) => Origin::Operator,
            (EmailProof::None, _) => Origin::Registered,
        };
        Account {
            id: self.id.unwrap_or_else(UserId::random),
            version: 0,
            username: self.username,
            email_verified: proof == EmailProof::Operator && self.email.is_some(),
            email: self.email,
            name: self.name,
            roles: roles.into_iter().collect(),
            password,
            disabled: false,
            generation: 0,
            origin,
            created_at: now,
            updated_at: now,
        }
    }
}

fn keep<T>(result: Result<T, InvalidField>, errors: &mut Vec<InvalidField>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

fn missing<T>(field: &'static str, message: &'static str, errors: &mut Vec<InvalidField>) -> Option<T> {
    errors.push(InvalidField::new(field, "missing", message));
    None
}
