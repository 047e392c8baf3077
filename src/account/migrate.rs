//! Accounts that trickle in: a name that is not known here, with a password that the app knows.

use std::collections::BTreeSet;

use super::names::LoginId;
use super::outside::Vouch;
use super::passphrase::Passphrase;
use super::register::{Draft, EmailProof};
use super::throttle::Attempt;
use super::{AccountError, Accounts, ClientContext};
use crate::clock::Timestamp;
use crate::identity::UserId;
use crate::secret::Secret;
use crate::settings::LoginName;
use crate::store::{Account, AccountKey};

impl Accounts {
    /// The account of somebody whom nobody knows here, if the app does: made with the password that was
    /// right there, the default roles, and the app's id where it is kept. `None` when the app is not to be asked, or said no: then the
    /// login goes on like one for any unknown name.
    ///
    /// # Errors
    /// [`AccountError::MigrationUnavailable`] without a clear answer, or with the id of somebody else;
    /// `Throttled`, `Busy`, or a fault of the store; `Contended` when the account came to be meanwhile.
    pub(super) async fn move_in(
        &self,
        id: &LoginId,
        password: &Secret<String>,
        client: &ClientContext,
    ) -> Result<Option<Account>, AccountError> {
        let Some(migration) = &self.outside.migration else { return Ok(None) };
        let until = self.settings.auth.migrate.as_ref().map(|migrate| Timestamp::from_secs(migrate.until));
        if until.is_none_or(|until| self.now() >= until) {
            return Ok(None);
        }
        // A password that could not be kept would have to be asked for again and again.
        let Some(passphrase) = Passphrase::typed(password, &self.settings.auth.password) else {
            return Ok(None);
        };
        let (username, email) = match id {
            // Reserved names are an operator's to give.
            LoginId::Username(name) if self.names.is_reserved(name) => return Ok(None),
            LoginId::Username(name) => (Some(name.clone()), None),
            // An app may know one person by a name and an address: he would have two accounts here.
            LoginId::Email(_) if self.settings.auth.login_name == LoginName::Either => return Ok(None),
            LoginId::Email(email) => (None, Some(email.clone())),
            LoginId::Nobody(_) => return Ok(None),
        };
        let who = self.throttle.nobody(&id.key());
        self.throttle.check(who, client.address, self.now()).map_err(|hit| self.throttled(hit))?;
        // The name as it will be: one that the app tells apart from it must not become it here.
        let asked = match (&username, &email) {
            (Some(name), _) => name.as_str(),
            (None, Some(email)) => email.as_str(),
            (None, None) => return Ok(None),
        };
        let vouch = migration.vouch(asked, password, client.address).await;
        let given = match vouch.map_err(|_| AccountError::MigrationUnavailable)? {
            Vouch::No => return Ok(None),
            Vouch::Yes(given) => given,
        };
        let settled = self.throttle.settle(who, client.address, Attempt::Right, self.now());
        settled.map_err(|hit| self.throttled(hit))?;
        let draft = Draft { id: given.clone(), username, email, name: None, password: passphrase };
        let roles: BTreeSet<_> = self.settings.auth.default_roles.iter().cloned().collect();
        match self.insert(draft, roles, EmailProof::App).await {
            Ok(made) => {
                tracing::info!(target: "gatepost::audit", event = "account_moved_in", user = %made.id, client = %client.address);
            }
            // Somebody was faster; or it was somebody's who is gone or called otherwise, and stays theirs.
            Err(AccountError::NameTaken | AccountError::EmailTaken) => {
                if self.find_login(id).await?.is_some() {
                    return Err(AccountError::Contended);
                }
                return self.refuse_anothers_id(given).await.map(|()| None);
            }
            Err(error) => return Err(error),
        }
        Ok(self.find_login(id).await?)
    }

    /// Whether the app has two people under one id, or one under two names: nobody can tell which.
    async fn refuse_anothers_id(&self, given: Option<UserId>) -> Result<(), AccountError> {
        let Some(id) = given else { return Ok(()) };
        if self.store.account(AccountKey::Id(id.clone())).await?.is_none() {
            return Ok(());
        }
        let why = "the id at auth.migrate.id belongs to an account of another name";
        tracing::error!(%id, why, "nobody moves in with it");
        Err(AccountError::MigrationUnavailable)
    }
}
