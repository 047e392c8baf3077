//! What the store keeps: one struct a row. Plain data; the rules about it live in `account` and `token`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::identity::{Email, Role, SessionId, UserId, Username};
use crate::secret::Secret;
use crate::token::refresh::RefreshChain;
use crate::token::revocation::Revocation;

pub use crate::token::keyring::{KeyMaterial, KeyPurpose, StoredKey};

/// An account. `password` is a hash; nothing here is a plain secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Account {
    /// Never reused, also after the account is gone.
    pub id: UserId,
    /// Set by the store: 1 when inserted, one more at each update. An update states the version that
    /// it was made from and fails with [`StoreError::Conflict`](super::StoreError) when that is not the newest.
    pub version: u64,
    /// Canonical; absent only where `[auth] login_name = "email"`.
    pub username: Option<Username>,
    /// The address, unique among accounts by [`Email::key`].
    pub email: Option<Email>,
    /// Whether the address is proved.
    pub email_verified: bool,
    /// A name for people to read.
    pub name: Option<String>,
    /// Granted roles, not the implied ones.
    pub roles: BTreeSet<Role>,
    /// The password's hash.
    pub password: PasswordHash,
    /// A disabled account cannot log in, refresh or use a token.
    pub disabled: bool,
    /// Access tokens of an older generation are refused.
    pub generation: u64,
    /// Where it came from.
    #[serde(flatten, with = "origin_row")]
    pub origin: Origin,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When this row last changed.
    pub updated_at: Timestamp,
}

/// Where an account came from, and so by which of its names the app means it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Its owner made it here. The app may have called somebody else so.
    #[default]
    Registered,
    /// An operator made it here, and knows whom he means by its name.
    Operator,
    /// It came by a first login that the app vouched for: it is the one that the app means by that name.
    Migrated,
    /// The same, and the app said by which id it knows it: the app means it by that, too.
    MigratedWithId,
    /// It came by an import that gave it no id: as [`Origin::Migrated`].
    Imported,
    /// It came by an import with its id: the app means it by that, too.
    ImportedWithId,
}

impl Origin {
    /// Every origin.
    pub const ALL: [Self; 6] = [
        Self::Registered,
        Self::Operator,
        Self::Migrated,
        Self::MigratedWithId,
        Self::Imported,
        Self::ImportedWithId,
    ];

    /// As exports and rows name it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Operator => "operator",
            Self::Migrated => "migrated",
            Self::MigratedWithId => "migrated_with_id",
            Self::Imported => "imported",
            Self::ImportedWithId => "imported_with_id",
        }
    }

    /// Whether the app had the account before: then its name is the app's name for it.
    #[must_use]
    pub const fn is_the_app(self) -> bool {
        match self {
            Self::Registered | Self::Operator => false,
            Self::Migrated | Self::MigratedWithId | Self::Imported | Self::ImportedWithId => true,
        }
    }

    /// Whether its name was chosen by somebody who knows whom the app means by it.
    #[must_use]
    pub const fn is_named_for_the_app(self) -> bool {
        match self {
            Self::Registered => false,
            Self::Operator
            | Self::Migrated
            | Self::MigratedWithId
            | Self::Imported
            | Self::ImportedWithId => true,
        }
    }

    /// Whether its id is the app's id for it.
    #[must_use]
    pub const fn brought_its_id(self) -> bool {
        match self {
            Self::Registered | Self::Operator | Self::Migrated | Self::Imported => false,
            Self::MigratedWithId | Self::ImportedWithId => true,
        }
    }
}

/// An [`Origin`] in a row: nothing for the usual one. Rows of before have two switches instead.
mod origin_row {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Origin;

    #[derive(Serialize, Deserialize)]
    struct Row {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
        #[serde(default, skip_serializing)]
        imported: bool,
        #[serde(default, skip_serializing)]
        id_given: bool,
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(origin: &Origin, to: S) -> Result<S::Ok, S::Error> {
        let origin = Some(*origin).filter(|origin| *origin != Origin::default());
        Row { origin, imported: false, id_given: false }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Origin, D::Error> {
        let Row { origin, imported, id_given } = Row::deserialize(from)?;
        let before = match (imported, id_given) {
            (_, true) => Origin::ImportedWithId,
            (true, false) => Origin::Imported,
            (false, false) => Origin::Registered,
        };
        Ok(origin.unwrap_or(before))
    }
}

/// A password's PHC string (`$argon2id$v=19$…`), or the text that other software has made of it
/// (`account::foreign`). Masked in `Debug`, written out by serde.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct PasswordHash(Secret<String>);

impl PasswordHash {
    /// The text.
    #[must_use]
    pub fn phc(&self) -> &str {
        self.0.expose()
    }
}

impl From<String> for PasswordHash {
    fn from(phc: String) -> Self {
        Self(Secret::new(phc))
    }
}

impl From<PasswordHash> for String {
    fn from(hash: PasswordHash) -> Self {
        hash.phc().to_owned()
    }
}

/// One login.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// The `sid` of its tokens.
    pub id: SessionId,
    /// Set by the store, as with [`Account::version`].
    pub version: u64,
    /// Whose login.
    pub user: UserId,
    /// When the password was right.
    pub created_at: Timestamp,
    /// The last refresh.
    pub last_used_at: Timestamp,
    /// The refresh token's end; moves at each rotation, never beyond `ends_at`.
    pub expires_at: Timestamp,
    /// The session's absolute end.
    pub ends_at: Timestamp,
    /// How it was authenticated (RFC 8176 values), for `amr`.
    pub amr: Vec<String>,
    /// `User-Agent` at login, shortened, for the owner to recognise it.
    pub client: String,
    /// The client's address at login.
    pub address: String,
    /// Hashes of the refresh tokens that are still worth anything.
    pub chain: RefreshChain,
}

/// What an ACME authority (RFC 8555) knows us by, and what it has given us. There is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeState {
    /// Set by the store, as with [`Account::version`].
    pub version: u64,
    /// The authority's directory. Another one knows nothing of what follows.
    pub directory: String,
    /// The account there.
    pub account: Option<SecretText>,
    /// An order that has not come to its end.
    pub order: Option<AcmeOrder>,
    /// The newest certificate.
    pub certificate: Option<AcmeCertificate>,
}

/// An order at an authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeOrder {
    /// Where it is.
    pub url: String,
    /// The names that it is for.
    pub domains: Vec<String>,
    /// The key that the certificate will have, PEM.
    pub key: SecretText,
}

/// A certificate from an authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeCertificate {
    /// The names that were asked for.
    pub domains: Vec<String>,
    /// The chain, PEM, the end entity first.
    pub chain: String,
    /// Its key, PEM.
    pub key: SecretText,
}

/// Text that is a secret: masked in `Debug`, written out by serde.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct SecretText(Secret<String>);

impl SecretText {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Secret::new(text))
    }
}

impl From<SecretText> for String {
    fn from(text: SecretText) -> Self {
        text.expose().to_owned()
    }
}

/// Something about an account that the app is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Where it stands in the outbox: events of one account follow each other as their commits did.
    pub number: u64,
    /// Names it for good, also when it is told twice.
    pub id: String,
    /// What has happened.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// The account as it was then; one that was deleted, as it was last.
    pub user: EventUser,
}

impl Event {
    /// Whether nothing is lost when this one is told and not the one that came right before it of the same
    /// account: an update says how the account is, all of it.
    #[must_use]
    pub fn supersedes(&self, before: &Self) -> bool {
        (before.kind, self.kind) == (EventKind::Updated, EventKind::Updated)
    }
}

/// What can happen to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// There is one more.
    #[serde(rename = "user.created")]
    Created,
    /// A name, an address or roles are others, or it may log in again.
    #[serde(rename = "user.updated")]
    Updated,
    /// It cannot log in any more.
    #[serde(rename = "user.disabled")]
    Disabled,
    /// It is gone.
    #[serde(rename = "user.deleted")]
    Deleted,
}

/// What the app is told of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventUser {
    /// `sub` of its tokens.
    pub id: UserId,
    /// The canonical username.
    pub username: Option<Username>,
    /// The address.
    pub email: Option<Email>,
    /// Whether the address is proved.
    pub email_verified: bool,
    /// For people to read.
    pub name: Option<String>,
    /// Granted roles, not the implied ones.
    pub roles: BTreeSet<Role>,
    /// Whether it cannot log in.
    pub disabled: bool,
}

impl EventUser {
    /// What of an account the app may know.
    #[must_use]
    pub fn of(account: &Account) -> Self {
        Self {
            id: account.id.clone(),
            username: account.username.clone(),
            email: account.email.clone(),
            email_verified: account.email_verified,
            name: account.name.clone(),
            roles: account.roles.clone(),
            disabled: account.disabled,
        }
    }
}

/// What is in the outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// In the order of their numbers.
    pub events: Vec<Event>,
    /// How many there are in all.
    pub pending: u64,
}

/// By what an account is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountKey {
    /// By id.
    Id(UserId),
    /// By canonical username.
    Name(Username),
    /// By [`Email::key`].
    Email(Email),
}

/// One part of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new account. Fails with `NameTaken` (also for names of deleted accounts, and for an id that
    /// exists) or `EmailTaken`.
    InsertAccount(Account),
    /// The same, but its id is the next whole number that no account has, had or is called by.
    InsertNumbered(Account),
    /// The account as it should be; `version` is the one that was read. Moves its name and address.
    UpdateAccount(Account),
    /// Removes an account with all its sessions. Its name and id stay taken, its address becomes free, except
    /// for [`Change::ExpectNewAddress`].
    RemoveAccount {
        /// Which.
        id: UserId,
        /// The version that was read.
        version: u64,
    },
    /// Changes nothing; fails with `Conflict` unless the account exists in this version.
    ExpectAccount {
        /// Which.
        id: UserId,
        /// The version that was read.
        version: u64,
    },
    /// Changes nothing; fails with `EmailTaken` when an account has the address, one that had it was removed,
    /// or one that was imported or had proved it has another one now.
    ExpectNewAddress(Email),
    /// A new session.
    InsertSession(Session),
    /// The session as it should be; `version` is the one that was read.
    UpdateSession(Session),
    /// Ends one session. Fine when it is gone already.
    EndSession(SessionId),
    /// Ends all sessions of a user but one. Counted in [`Committed::ended`].
    EndSessions {
        /// Whose.
        user: UserId,
        /// The one that stays.
        except: Option<SessionId>,
    },
    /// Remembers a revocation until it has run out.
    Revoke(Revocation),
    /// A new key. Fails with `Conflict` when the id exists.
    InsertKey(StoredKey),
    /// The changes of accounts that follow in this commit are told to the app: each that anybody could see
    /// leaves an [`Event`] in the outbox. An update that waits and is the account's last event leaves it when
    /// another one comes.
    Tell {
        /// When they happen.
        at: Timestamp,
    },
    /// An event that needs not be told any more. Fine when it is gone already.
    Told {
        /// Its number.
        number: u64,
    },
    /// What an authority knows us by, as it should be; `version` is the one that was read, 0 for none.
    PutAcme(Box<AcmeState>),
}

/// What a commit did, where the caller cannot know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Sessions that `EndSession`, `EndSessions` and `RemoveAccount` found alive and ended.
    pub ended: Vec<SessionId>,
    /// What [`Change::InsertNumbered`] has given as ids, in the order of the changes.
    pub numbered: Vec<UserId>,
}

/// What a purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Sessions past `expires_at` or `ends_at`.
    pub sessions: usize,
    /// Revocations past their end.
    pub revocations: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::account;

    #[test]
    fn where_an_account_came_from_is_kept_and_read_from_rows_of_before() {
        let row = |origin| serde_json::to_value(Account { origin, ..account("al") }).expect("JSON");
        for origin in Origin::ALL {
            assert_eq!(serde_json::to_value(origin).expect("JSON"), origin.word());
            let read: Account = serde_json::from_value(row(origin)).expect("an account");
            assert_eq!(read, Account { origin, ..account("al") });
        }
        assert_eq!(row(Origin::ImportedWithId)["origin"], "imported_with_id");
        for (switches, origin) in [
            (&[][..], Origin::Registered),
            (&["imported"], Origin::Imported),
            (&["imported", "id_given"], Origin::ImportedWithId),
        ] {
            let mut before = row(Origin::Registered);
            for switch in switches {
                before[switch] = true.into();
            }
            let read: Account = serde_json::from_value(before).expect("an account");
            assert_eq!(read.origin, origin, "{switches:?}");
        }
    }
}
