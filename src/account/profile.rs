//! The caller's own account: shown, changed, removed.

use super::error::InvalidField;
use super::names;
use super::{ATTEMPTS, AccountError, AccountView, Accounts, ClientContext};
use crate::identity::{Email, Principal};
use crate::secret::Secret;
use crate::settings::LoginName;
use crate::store::{Account, Change};

/// What a user changes of the own account. `Some(None)` removes a value.
#[derive(Clone, Debug, Default)]
pub struct ProfileChange {
    /// The name for people to read.
    pub name: Option<Option<String>>,
    /// The address.
    pub email: Option<Option<String>>,
    /// Needed for a change of the address: it is what a password will be reset by.
    pub current_password: Option<Secret<String>>,
}

/// A change whose every part is good.
#[expect(clippy::option_option, reason = "absent, removed and set are three things")]
struct Checked {
    name: Option<Option<String>>,
    email: Option<Option<Email>>,
}

impl Accounts {
    /// The caller's account as it is now.
    ///
    /// # Errors
    /// [`AccountError::CallerRevoked`], or a fault of the store.
    pub async fn me(&self, caller: &Principal) -> Result<AccountView, AccountError> {
        Ok(self.view(&self.caller(caller).await?))
    }

    /// Changes the caller's account. A new address is not proved.
    ///
    /// # Errors
    /// [`AccountError::Invalid`], `EmailTaken`; for an address whatever a login may answer; or a fault
    /// of the store.
    pub async fn update_me(
        &self,
        caller: &Principal,
        change: ProfileChange,
        client: &ClientContext,
    ) -> Result<AccountView, AccountError> {
        let password = change.current_password.clone();
        let change = change.check(self.settings.auth.login_name)?;
        let mut account = self.caller(caller).await?;
        if let (Some(_), Some(password)) = (&change.email, &password) {
            self.check_own_password(&account, password, client).await?;
        }
        if let Some(Some(email)) = &change.email
            && account.email.as_ref().map(Email::key) != Some(email.key())
        {
            self.ask_for_address(&account, email, client).await?;
        }
        let checked = account.password.clone();
        for _ in 0..ATTEMPTS {
            let next = change.apply(&account);
            if next == account {
                return Ok(self.view(&account));
            }
            let next = Account { updated_at: self.now(), ..next };
            match self.revoker.commit(vec![Change::UpdateAccount(next.clone())]).await.map_err(Into::into) {
                Err(AccountError::Contended) => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    tracing::info!(target: "gatepost::audit", event = "profile_changed", user = %account.id, client = %client.address);
                    return Ok(self.view(&next));
                }
            }
            account = self.caller(caller).await?;
            if account.password != checked && change.email.is_some() {
                return Err(AccountError::CallerRevoked);
            }
        }
        Err(AccountError::Contended)
    }

    /// Removes the caller's account with all its sessions. Its name stays taken.
    ///
    /// # Errors
    /// Whatever a login may answer, or a fault of the store.
    pub async fn delete_me(
        &self,
        caller: &Principal,
        password: &Secret<String>,
        client: &ClientContext,
    ) -> Result<(), AccountError> {
        for _ in 0..ATTEMPTS {
            let account = self.caller(caller).await?;
            self.check_own_password(&account, password, client).await?;
            match self.erase(&account).await {
                Err(AccountError::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    tracing::info!(target: "gatepost::audit", event = "account_removed", user = %account.id, client = %client.address);
                    return Ok(());
                }
            }
        }
        Err(AccountError::Contended)
    }

    /// Removes an account, its sessions, and whatever its access tokens are worth.
    pub(super) async fn erase(&self, account: &Account) -> Result<(), AccountError> {
        let changes = vec![
            Change::RemoveAccount { id: account.id.clone(), version: account.version },
            Change::Revoke(self.revoke_generation(&account.id, account.generation, self.now())),
        ];
        self.revoker.commit(changes).await?;
        Ok(())
    }
}

impl ProfileChange {
    fn check(self, login: LoginName) -> Result<Checked, AccountError> {
        let mut errors = Vec::new();
        if self.email.is_some() && self.current_password.is_none() {
            let message = "the current password is needed to change the address";
            errors.push(InvalidField::new("current_password", "missing", message));
        }
        if self.email == Some(None) && login == LoginName::Email {
            errors.push(InvalidField::new("email", "missing", "an account needs its address to log in"));
        }
        let name = optional(self.name, names::display_name, &mut errors);
        let email = optional(self.email, names::email, &mut errors);
        if errors.is_empty() { Ok(Checked { name, email }) } else { Err(AccountError::Invalid(errors)) }
    }
}

impl Checked {
    fn apply(&self, account: &Account) -> Account {
        let mut next = account.clone();
        if let Some(name) = &self.name {
            next.name.clone_from(name);
        }
        if let Some(email) = &self.email
            && account.email != *email
        {
            next.email.clone_from(email);
            next.email_verified = false;
        }
        next
    }
}

/// Checks a value that may be there, and may be a removal.
#[expect(clippy::option_option, reason = "absent, removed and set are three things")]
pub(super) fn optional<T>(
    value: Option<Option<String>>,
    check: impl Fn(&str) -> Result<T, InvalidField>,
    errors: &mut Vec<InvalidField>,
) -> Option<Option<T>> {
    match value? {
        None => Some(None),
        Some(typed) => check(&typed).map_err(|error| errors.push(error)).ok().map(Some),
    }
}
