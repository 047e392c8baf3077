//! What the app has a say in: whether somebody may move in, whether somebody may register. How it is asked
//! is not known here.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::identity::UserId;
use crate::secret::Secret;

/// An answer some time later.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, NoAnswer>> + Send + 'a>>;

/// There is no answer that counts as one. Why has been logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

/// Whether a name and a password belong together elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vouch {
    /// They do. With the id that this person has there, where ids are kept.
    Yes(Option<UserId>),
    /// They do not.
    No,
}

/// Somebody who knows names and passwords that are not known here.
pub trait Migration: Send + Sync {
    /// Tries a login there.
    fn vouch<'a>(&'a self, name: &'a str, password: &'a Secret<String>, from: IpAddr) -> Asked<'a, Vouch>;
}

/// Who wants to register.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// The canonical username.
    pub username: Option<&'a str>,
    /// The address, which nobody has proved.
    pub email: Option<&'a str>,
    /// For people to read.
    pub name: Option<&'a str>,
    /// The client's address.
    pub from: IpAddr,
}

/// Whether somebody may register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Yes.
    Yes,
    /// The name belongs to somebody there.
    Taken,
    /// No, and what to say to them.
    No(Option<String>),
}

/// Somebody who decides who may register.
pub trait Admission: Send + Sync {
    /// Asks for one.
    fn admit<'a>(&'a self, applicant: Applicant<'a>) -> Asked<'a, Admitted>;
}

/// Everybody outside who has a say, by the configuration.
#[derive(Clone, Default)]
pub struct Outside {
    /// `[auth.migrate]`
    pub migration: Option<Arc<dyn Migration>>,
    /// `[auth] admission_url`
    pub admission: Option<Arc<dyn Admission>>,
    /// `[events]`: whether what happens to accounts is left in the outbox.
    pub is_told: bool,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outside")
            .field("migration", &self.migration.is_some())
            .field("admission", &self.admission.is_some())
            .field("is_told", &self.is_told)
            .finish()
    }
}
