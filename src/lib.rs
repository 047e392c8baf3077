//! Gatepost: a reverse-proxy authentication gateway.
//!
//! # The life of a request
//!
//! A worker thread ([`server`]) accepts the connection on a listener of its own, reads along with hyper
//! and refuses what two servers could frame differently. Each head becomes a call of
//! [`gateway::Gateway::handle`], and there the steps are taken in one order:
//!
//! 1. [`message::inbound`] makes the target and the `Host` into one [`route::CanonicalPath`] and one
//!    [`route::Host`], or refuses them. What is matched from here on is what will be forwarded.
//! 2. [`route::RouteTable`] finds the rule: the host, then the path, then the method. The gateway's own
//!    endpoints are rows of the same table and take the same steps.
//! 3. [`authn`] finds out who asks, unless the rule is public: no credential is an anonymous caller, a
//!    bad one is a refusal. It reads memory only: the keys, a cache of verified tokens, and the
//!    revocations ([`token::revocation`]).
//! 4. [`authz::Guarded`] holds the target behind its policy and gives it out as an [`authz::Permit`].
//! 5. The target is one of ours, and [`api`] reads the body and calls a verb of [`account::Accounts`],
//!    which reads, decides, publishes what it revokes, commits to the [`store`], and answers. Or it is
//!    an upstream: then [`proxy`] makes an `UpstreamRequest`, for which it wants the permit. It strips
//!    what the client may not say, obeys `Connection`, and sets what we say of the caller last.
//! 6. There is one exit: an answer or a [`gateway::Rejection`], one decision line ([`ops::decision`]) and
//!    one count ([`metrics`]).
//!
//! Steps 1 to 4 are one function, [`gateway::decide`]. `gatepost explain` and the `[[test]]`s of
//! `gatepost check` call it too, so what they say is what would happen.
//!
//! # The modules, in reading order
//!
//! First the words that all others use, then the decisions, then what moves bytes, last what puts it
//! together. Who may import whom is in ARCHITECTURE.md, and a test holds the sources to it.

// Words.
pub mod clock;
pub mod identity;
pub mod secret;
pub mod settings;

// Decisions: no I/O, no runtime.
pub mod authz;
pub mod message;
pub mod route;
pub mod tls;
pub mod token;

// Accounts and where they are kept.
pub mod account;
pub mod acme;
pub mod api;
pub mod authn;
pub mod store;

// Requests on their way.
pub mod burst;
pub mod deadline;
pub mod gateway;
pub mod http1;
pub mod lease;
pub mod outbound;
pub mod proxy;
pub mod server;
pub mod stream;
pub mod websocket;

// Who runs it.
pub mod config;
pub mod control;
pub mod metrics;
pub mod ops;

// The whole.
pub mod app;
pub mod cli;
