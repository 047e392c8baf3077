//! What arrives and what is answered, as data: no policy, no connection, no I/O.

pub mod client;
pub mod fold;
pub mod identity;
pub mod inbound;
pub mod reply;
