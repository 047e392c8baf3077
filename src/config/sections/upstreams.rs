//! `[[upstream]]`.

use std::time::Duration;

use super::super::address::Server;
use super::super::origin::Origin;
use super::super::reader::Section;
use super::super::value::{Spot, quote};
use super::{DAY, HOUR, MILLISECOND, MINUTE, lasts};
use crate::settings::{Endpoint, UpstreamHost, UpstreamSettings};

/// An upstream and where it stands.
pub(in super::super) struct UpstreamRead {
    pub(in super::super) settings: UpstreamSettings,
    pub(in super::super) origin: Origin,
}

pub(in super::super) fn read(root: &Section<'_>) -> Vec<UpstreamRead> {
    let mut upstreams: Vec<UpstreamRead> = Vec::new();
    for mut table in root.tables("upstream") {
        let Some(read) = read_one(&mut table) else {
            table.finish();
            continue;
        };
        let fold = |name: &str| name.to_ascii_lowercase().replace(['-', '.'], "_");
        let name = &read.settings.name;
        if let Some(other) = upstreams.iter().find(|other| fold(&other.settings.name) == fold(name)) {
            let reader = table.reader();
            let earlier = &other.settings.name;
            // A variable cannot tell `my-app` from `my_app`.
            let message = if earlier == name {
                format!("the upstream {} is there twice", quote(name))
            } else {
                format!("the upstreams {} and {} cannot be told apart", quote(earlier), quote(name))
            };
            reader.push(
                super::super::Problem::error(message, reader.place(&read.origin))
                    .note("the other one", reader.place(&other.origin)),
            );
        }
        table.finish();
        upstreams.push(read);
    }
    upstreams
}

fn read_one(table: &mut Section<'_>) -> Option<UpstreamRead> {
    let written = table.entry("name").and_then(|entry| entry.value.as_text()).unwrap_or_default();
    if judge_name(written).is_ok() {
        table.rename(format!("upstream.{written}"));
    }
    let name = table.required("name", |name: &String| judge_name(name));
    let servers = read_servers(table);
    let host = table.get("host", UpstreamHost::Preserve).value;
    let timeout = table.get_if("timeout", MINUTE, lasts(MILLISECOND, DAY)).value;
    let connect = table.get_if("connect_timeout", Duration::from_secs(5), lasts(MILLISECOND, HOUR)).value;
    let idle = table.get_if("idle", Duration::from_secs(4), lasts(MILLISECOND, DAY)).value;
    let settings =
        UpstreamSettings { name: name?.value, servers, host, timeout, connect_timeout: connect, idle };
    Some(UpstreamRead { settings, origin: table.origin().clone() })
}

fn judge_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(format!("{} is no name: 1 to 64 of the characters A-Z a-z 0-9 _ - .", quote(name)));
    }
    Ok(())
}

fn read_servers(table: &Section<'_>) -> Vec<Endpoint> {
    let reader = table.reader();
    let servers = table.required("servers", |servers: &Vec<Spot<Server>>| match servers.len() {
        0 => Err("at least one server is needed".to_owned()),
        _ => Ok(()),
    });
    let mut endpoints = Vec::new();
    for spot in servers.map(|servers| servers.value).unwrap_or_default() {
        let label = table.label("servers");
        match spot.value.0.endpoint(reader, &spot.origin) {
            Err(message) => reader.error(format!("{label}: {message}"), &spot.origin),
            Ok(endpoint) if endpoints.contains(&endpoint) => {
                let text = quote(&spot.value.0.text());
                reader.error(format!("{label}: {text} is there twice"), &spot.origin);
            }
            Ok(endpoint) => endpoints.push(endpoint),
        }
    }
    endpoints
}
