//! Behaviours of accounts as a whole, over a store in memory.

mod faults;
mod lifecycle;
mod operator;
mod races;
mod throttling;
