//! Which route a request takes: host, path and method, compared in one canonical spelling.
//!
//! Plain data and pure functions. This module knows neither who may pass ([`crate::authz`]) nor what
//! stands behind a route: a [`RouteTable`] carries any target.

mod host;
mod method;
mod params;
mod path;
mod pattern;
mod table;
mod trie;

pub use host::{Host, HostError, HostPattern, HostPatternError};
pub use method::{MethodError, MethodSet};
pub use params::Params;
pub use path::{CanonicalPath, PathAllowances, PathError};
pub use pattern::{PathCase, PathPattern, PatternError};
pub use table::{Found, RouteIndex, RouteRule, RouteTable, TableError, WhyNot};

#[cfg(test)]
mod tests;
