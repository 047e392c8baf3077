//! Access tokens (JWT), refresh tokens (opaque), and what makes them worthless again.
//!
//! Pure: keys, settings, the time and randomness come in as arguments; nothing here reads a file, opens
//! a socket or waits. Who may have a token is `account`'s business, where a token stands in a request is
//! `authn`'s.

pub mod access;
pub mod cache;
pub mod claims;
pub mod keyring;
pub mod legacy;
pub mod refresh;
pub mod revocation;

#[cfg(test)]
pub(crate) mod testing;
