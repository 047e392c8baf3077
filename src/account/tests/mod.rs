//! Behaviours of accounts as a whole, over a store in memory.

mod faults;
mod foreign;
mod import;
mod legacy;
mod lifecycle;
mod operator;
mod outside;
mod races;
mod throttling;
