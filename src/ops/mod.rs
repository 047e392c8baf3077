//! What an operator sees of a running gateway: logs, the decision line, metrics, health.
//!
//! Everything here observes. It decides nothing about a request and knows no store; the admin listener
//! is told by closures what it cannot know.

pub mod admin;
pub mod decision;
mod escape;
pub mod log;
pub mod prometheus;
pub mod readiness;
