//! Accounts, and the names and addresses that lead to them.
//!
//! A name is given once: after a rename or a removal it still belongs to the account that had it, so that an
//! app which knows its users by name never takes a newcomer for somebody else. An account without a username
//! goes by its id, so the id counts as its name; and nobody is called by the id of somebody else.
//!
//! An address becomes free for whoever registers next. But it is remembered, as a hash, that it was here: an
//! app that had the same people may still say yes to it, and must not bring back whom this store let go.

use aws_lc_rs::digest;

use super::transaction::parse;
use super::{Key, Kind, Transaction};
use crate::identity::{Email, UserId};
use crate::store::{Account, AccountKey, StoreError};

/// An id that is no smaller number is text like any other. JavaScript and many a column end at twice that: who
/// counts on from any smaller one will not get there.
const FOLLOWED: u64 = 1 << 52;

fn row(id: &UserId) -> Key {
    Kind::Account.key(&[id.as_str().as_bytes()])
}

fn removed(id: &UserId) -> Key {
    Kind::RemovedId.key(&[id.as_str().as_bytes()])
}

fn name_row(name: &str) -> Key {
    Kind::Name.key(&[name.as_bytes()])
}

fn email_row(email: &Email) -> Key {
    Kind::Email.key(&[email.key().as_bytes()])
}

/// That an address was an account's, for good. Whether it is somebody's now is another row.
fn former_email_row(email: &Email) -> Key {
    Kind::FormerEmail.key(&[digest::digest(&digest::SHA256, email.key().as_bytes()).as_ref()])
}

/// The next number that may become an id.
fn next_number() -> Key {
    Kind::Number.key(&[b"next-id"])
}

/// What the account is called where a username is asked for.
fn name_of(account: &Account) -> &str {
    account.username.as_ref().map_or(account.id.as_str(), |name| name.as_str())
}

pub(in crate::store) fn find(rows: &Transaction<'_>, by: &AccountKey) -> Result<Option<Account>, StoreError> {
    match by {
        AccountKey::Id(id) => rows.read(&row(id)),
        AccountKey::Name(name) => {
            let Some(id) = rows.text(&name_row(name.as_str()))? else { return Ok(None) };
            let account: Option<Account> = rows.read(&row(&id))?;
            // The name may be one that the account had before, or its id.
            Ok(account.filter(|account| account.username.as_ref() == Some(name)))
        }
        AccountKey::Email(email) => match rows.text(&email_row(email))? {
            Some(id) => rows.read(&row(&id)),
            None => Ok(None),
        },
    }
}

pub(in crate::store) fn list(
    rows: &Transaction<'_>,
    after: Option<&UserId>,
    limit: usize,
) -> Result<Vec<Account>, StoreError> {
    let within = Kind::Account.key(&[]);
    let start = after.map_or_else(|| within.clone(), |id| Kind::Account.key(&[id.as_str().as_bytes(), &[0]]));
    let found = rows.scan(&within, &start, limit)?;
    found.iter().map(|(key, value)| parse(key, value)).collect()
}

pub(super) fn insert(rows: &mut Transaction<'_>, mut account: Account) -> Result<(), StoreError> {
    if rows.exists(&row(&account.id))? || rows.exists(&removed(&account.id))? {
        return Err(StoreError::NameTaken);
    }
    if rows.text::<UserId>(&name_row(account.id.as_str()))?.is_some_and(|owner| owner != account.id) {
        return Err(StoreError::NameTaken);
    }
    take_name(rows, &account)?;
    take_email(rows, &account)?;
    if let Some(email) = account.email.as_ref().filter(|_| account.origin.is_the_app()) {
        rows.put(&former_email_row(email), Vec::new())?;
    }
    pass_number(rows, &account.id)?;
    account.version = 1;
    rows.write(&row(&account.id), &account)
}

/// Gives back the account with its id.
pub(super) fn insert_numbered(
    rows: &mut Transaction<'_>,
    mut account: Account,
) -> Result<Account, StoreError> {
    let mut number = rows.number(&next_number())?.unwrap_or(1);
    loop {
        let id: UserId = number.to_string().parse().map_err(|_| next_number().corrupt())?;
        // A name that looks like it would make two users of one.
        let free = !rows.exists(&row(&id))?
            && !rows.exists(&removed(&id))?
            && !rows.exists(&name_row(id.as_str()))?;
        if free {
            account.id = id;
            insert(rows, account.clone())?;
            rows.put(&next_number(), (number + 1).to_string().into_bytes())?;
            return Ok(account);
        }
        number += 1;
    }
}

/// Sees to it that the next number is above this id, if that is one to be followed.
fn pass_number(rows: &mut Transaction<'_>, id: &UserId) -> Result<(), StoreError> {
    let number = id.as_str().parse::<u64>().ok().filter(|number| number.to_string() == id.as_str());
    let Some(number) = number.filter(|number| *number < FOLLOWED) else { return Ok(()) };
    let next = rows.number(&next_number())?.unwrap_or(1);
    if next > number {
        return Ok(());
    }
    rows.put(&next_number(), (number + 1).to_string().into_bytes())
}

/// Gives back what it was before.
pub(super) fn update(rows: &mut Transaction<'_>, mut account: Account) -> Result<Account, StoreError> {
    let before = expect(rows, &account.id, account.version)?;
    take_name(rows, &account)?;
    take_email(rows, &account)?;
    let kept = account.email.as_ref().map(Email::key);
    if let Some(old) = before.email.as_ref().filter(|old| Some(old.key()) != kept) {
        rows.remove(&email_row(old));
        remember_proved(rows, &before)?;
    }
    account.version += 1;
    rows.write(&row(&account.id), &account)?;
    Ok(before)
}

/// Gives back what it was.
pub(super) fn remove(rows: &mut Transaction<'_>, id: &UserId, version: u64) -> Result<Account, StoreError> {
    let account = expect(rows, id, version)?;
    if let Some(email) = &account.email {
        rows.remove(&email_row(email));
    }
    remember_proved(rows, &account)?;
    rows.remove(&row(id));
    rows.put(&removed(id), Vec::new())?;
    Ok(account)
}

/// Remembers the address that an account had, if it was its own. One that nobody vouched for may be another
/// person's, whom it would keep out; one that the app vouched for is remembered since it came.
fn remember_proved(rows: &mut Transaction<'_>, account: &Account) -> Result<(), StoreError> {
    match account.email.as_ref().filter(|_| account.email_verified) {
        Some(email) => rows.put(&former_email_row(email), Vec::new()),
        None => Ok(()),
    }
}

/// The account, if it exists in this version.
pub(super) fn expect(rows: &Transaction<'_>, id: &UserId, version: u64) -> Result<Account, StoreError> {
    let account: Option<Account> = rows.read(&row(id))?;
    account.filter(|account| account.version == version).ok_or(StoreError::Conflict)
}

/// Refuses an address that an account has, or had when it was removed or given another one.
pub(super) fn expect_new_address(rows: &Transaction<'_>, email: &Email) -> Result<(), StoreError> {
    if rows.exists(&email_row(email))? || rows.exists(&former_email_row(email))? {
        return Err(StoreError::EmailTaken);
    }
    Ok(())
}

/// A name that is new must not be the id of somebody else, who is here or was: an app, an operator or a token that
/// says it would mean two.
fn take_name(rows: &mut Transaction<'_>, account: &Account) -> Result<(), StoreError> {
    let name = name_row(name_of(account));
    let other = name_of(account).parse::<UserId>().ok().filter(|id| *id != account.id);
    if let Some(id) = other
        && !rows.exists(&name)?
        && (rows.exists(&row(&id))? || rows.exists(&removed(&id))?)
    {
        return Err(StoreError::NameTaken);
    }
    take(rows, &name, &account.id, StoreError::NameTaken)
}

fn take_email(rows: &mut Transaction<'_>, account: &Account) -> Result<(), StoreError> {
    match &account.email {
        Some(email) => take(rows, &email_row(email), &account.id, StoreError::EmailTaken),
        None => Ok(()),
    }
}

/// Points an index row at the account, unless it points at another one.
fn take(rows: &mut Transaction<'_>, key: &Key, id: &UserId, taken: StoreError) -> Result<(), StoreError> {
    match rows.text::<UserId>(key)? {
        Some(owner) if owner == *id => Ok(()),
        Some(_) => Err(taken),
        None => rows.put(key, id.as_str().as_bytes().to_vec()),
    }
}
