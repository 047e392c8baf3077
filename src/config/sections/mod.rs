//! Every key of the configuration, a file for each group of tables. Each function reads one table,
//! reports what is wrong in it and returns its settings, with defaults in place of what was wrong.

pub(super) mod auth;
pub(super) mod cors;
pub(super) mod identity;
pub(super) mod legacy;
mod limits;
pub(super) mod outbound;
pub(super) mod password;
pub(super) mod roles;
pub(super) mod routes;
pub(super) mod server;
mod tls;
pub(super) mod tokens;
pub(super) mod trials;
mod until;
pub(super) mod upstreams;
mod words;

use std::fmt::Display;
use std::time::Duration;

use super::origin::Origin;
use super::units::{show_duration, show_size};
use super::value::{Size, Spot};

/// A condition: at least, at most.
fn between<T: PartialOrd + Display>(least: T, most: T) -> impl FnOnce(&T) -> Result<(), String> {
    move |value| {
        if *value < least || *value > most {
            return Err(format!("must be {least} to {most}, not {value}"));
        }
        Ok(())
    }
}

/// A condition: at least, at most.
fn lasts(least: Duration, most: Duration) -> impl FnOnce(&Duration) -> Result<(), String> {
    move |value| {
        if *value < least || *value > most {
            let (least, most, value) = (show_duration(least), show_duration(most), show_duration(*value));
            return Err(format!("must be {least} to {most}, not {value}"));
        }
        Ok(())
    }
}

/// A condition: at least, at most, in bytes.
fn sized(least: u64, most: u64) -> impl FnOnce(&Size) -> Result<(), String> {
    move |value| {
        if value.0 < least || value.0 > most {
            let (least, most, value) = (show_size(least), show_size(most), show_size(value.0));
            return Err(format!("must be {least} to {most}, not {value}"));
        }
        Ok(())
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// A list that nobody wrote.
fn default_list<T>(values: impl IntoIterator<Item = T>) -> Vec<Spot<T>> {
    values.into_iter().map(|value| Spot { value, origin: Origin::Default }).collect()
}
