//! Calls to the app: bounded in time, in size and in number, and never led elsewhere.
//!
//! Whoever answers is not trusted to be quick, or to be an HTTP server at all. A call has one timeout for
//! all of it, an answer's head and body have limits, redirects are answers like any other, and
//! no connection is used twice, so that a server that closes an idle one cannot spoil a call. What
//! an answer means is decided beside the question: in `migrate`, `admission` and `events`.

mod admission;
mod caller;
mod calls;
mod events;
mod given_id;
mod migrate;
mod signature;
pub mod socket;
mod template;

pub use admission::AskApp as AdmissionByApp;
pub use calls::Calls;
pub use events::{Events, EventsParts};
pub use migrate::AskApp as MigrationByApp;
