//! WebSocket (RFC 6455), as far as a gateway has to know it: who asks for one and who agrees, where a
//! frame begins, and how a connection is closed. What is said inside is none of our business.

mod frame;
mod handshake;
mod tunnel;

pub(crate) use self::handshake::agree;

pub use self::handshake::Handshake;
pub use self::tunnel::{Duplex, Tunnel};
