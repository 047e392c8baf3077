//! `[server.limits]`: what one client, or all of them together, may take.

use std::time::Duration;

use super::super::reader::Section;
use super::super::value::Size;
use super::{DAY, HOUR, MILLISECOND, between, lasts, sized};
use crate::settings::Limits;

/// More connections, streams or handshakes than any machine has room for.
const MANY: usize = 10_000_000;
/// More header lines than any request needs; `http::HeaderMap` takes 24,576 at most.
const MANY_HEADERS: usize = 10_000;
/// A year: longer than any connection lives.
const YEAR: Duration = Duration::from_hours(365 * 24);

/// A table within the table.
pub(super) fn read(server: &Section<'_>) -> Limits {
    let limits = server.table("limits", "server.limits");
    let default = Limits::default();
    let waits = lasts(MILLISECOND, DAY);
    let settings = Limits {
        header_bytes: bytes(&limits, "header_bytes", default.header_bytes, sized(4 << 10, 1 << 20)),
        header_timeout: limits
            .get_if("header_timeout", default.header_timeout, lasts(MILLISECOND, HOUR))
            .value,
        auth_body_bytes: bytes(&limits, "auth_body_bytes", default.auth_body_bytes, sized(1 << 10, 16 << 20)),
        connections: limits.get_if("connections", default.connections, between(1, MANY)).value,
        idle_timeout: limits.get_if("idle_timeout", default.idle_timeout, waits).value,
        connections_per_address: limits
            .get_if("connections_per_address", default.connections_per_address, between(0, MANY))
            .value,
        header_count: limits.get_if("header_count", default.header_count, between(1, MANY_HEADERS)).value,
        body_idle: limits.get_if("body_idle", default.body_idle, lasts(MILLISECOND, DAY)).value,
        write_stall: limits.get_if("write_stall", default.write_stall, lasts(MILLISECOND, DAY)).value,
        connection_age: limits
            .get_if("connection_age", default.connection_age, lasts(Duration::ZERO, YEAR))
            .value,
        handshakes: limits.get_if("handshakes", default.handshakes, between(1, MANY)).value,
        handshake_timeout: limits
            .get_if("handshake_timeout", default.handshake_timeout, lasts(MILLISECOND, HOUR))
            .value,
        streams_per_connection: limits
            .get_if("streams_per_connection", default.streams_per_connection, between(1, 1 << 16))
            .value,
        header_list_bytes: bytes(
            &limits,
            "header_list_bytes",
            default.header_list_bytes,
            sized(4 << 10, 1 << 20),
        ),
        resets: limits.get_if("resets", default.resets, between(1, 1_000_000)).value,
        pings: limits.get_if("pings", default.pings, between(1, 1_000_000)).value,
        settings: limits.get_if("settings", default.settings, between(1, 1_000_000)).value,
    };
    limits.finish();
    settings
}

fn bytes(
    limits: &Section<'_>,
    key: &'static str,
    default: usize,
    condition: impl FnOnce(&Size) -> Result<(), String>,
) -> usize {
    let size = limits.get_if(key, Size(default as u64), condition).value.0;
    usize::try_from(size).unwrap_or(usize::MAX)
}
