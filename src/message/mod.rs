//! What arrives and what is answered, as data: no policy, no connection, no I/O.

pub mod body;
pub mod client;
pub mod cors;
pub mod fold;
pub mod forwarded;
pub mod grpc;
pub mod identity;
pub mod inbound;
pub mod lines;
pub mod reply;
pub mod wording;
