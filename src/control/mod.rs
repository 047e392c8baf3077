//! The admin socket: what the command line asks of a running gateway, and the same answers without one.
//!
//! [`Command`] and [`Answer`] are the language; [`Desk`] answers it from accounts, keys and revocations.
//! A running gateway serves its desk on a Unix socket ([`Control`]); when nobody answers there, the
//! command line opens the store and asks a desk of its own. So there is one implementation of each verb.
//!
//! One line of JSON a request, one line an answer. Whoever may open the socket may do everything: it is
//! guarded by file permissions and by the peer's user id, as the store's files are.

pub mod client;
pub mod command;
mod desk;
pub mod handover;

mod server;

pub use command::{Answer, Command, Refusal};
pub use desk::{Desk, DeskError, DeskParts};

pub use server::{Control, ControlError, Handle, Successors};

/// The version of the language. Both ends come from one installation, but a gateway may run longer than
/// the files that it was started from.
const VERSION: u32 = 1;

/// A request's greatest length, in bytes.
pub const REQUEST_BYTES: usize = 64 * 1024;

/// An answer's greatest length, in bytes. Lists come in pages.
const ANSWER_BYTES: u64 = 16 * 1024 * 1024;
