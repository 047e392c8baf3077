//! `[[upstream]]`.

use std::time::Duration;

use super::super::address::{Server, is_name};
use super::super::origin::Origin;
use super::super::reader::Section;
use super::super::value::{Spot, quote};
use super::{DAY, HOUR, MILLISECOND, MINUTE, SECOND, between, lasts};
use crate::settings::{
    CertificateFiles, EjectionSettings, HealthSettings, UpstreamHost, UpstreamScheme, UpstreamServer,
    UpstreamSettings, UpstreamTls,
};

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
    let tls = read_tls(table, &servers);
    let health = read_health(table);
    let ejection = read_ejection(table);
    let slow_start = table.get_if("slow_start", Duration::ZERO, lasts(Duration::ZERO, HOUR)).value;
    let resolve = table.get_if("resolve", Duration::from_secs(30), lasts(SECOND, DAY)).value;
    let settings = UpstreamSettings {
        name: name?.value,
        servers,
        host,
        timeout,
        connect_timeout: connect,
        idle,
        tls,
        health,
        ejection,
        slow_start,
        resolve,
    };
    Some(UpstreamRead { settings, origin: table.origin().clone() })
}

fn judge_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(format!("{} is no name: 1 to 64 of the characters A-Z a-z 0-9 _ - .", quote(name)));
    }
    Ok(())
}

fn read_servers(table: &Section<'_>) -> Vec<UpstreamServer> {
    let reader = table.reader();
    let servers = table.required("servers", |servers: &Vec<Spot<Server>>| match servers.len() {
        0 => Err("at least one server is needed".to_owned()),
        _ => Ok(()),
    });
    let mut all: Vec<UpstreamServer> = Vec::new();
    for spot in servers.map(|servers| servers.value).unwrap_or_default() {
        let label = table.label("servers");
        match spot.value.place.endpoint(reader, &spot.origin) {
            Err(message) => reader.error(format!("{label}: {message}"), &spot.origin),
            Ok(endpoint) if all.iter().any(|other| other.endpoint == endpoint) => {
                let text = quote(&spot.value.text());
                reader.error(format!("{label}: {text} is there twice"), &spot.origin);
            }
            Ok(endpoint) => all.push(UpstreamServer { scheme: spot.value.scheme, endpoint }),
        }
    }
    all
}

/// Keys that say something about TLS, on an upstream that may speak none.
fn read_tls(table: &Section<'_>, servers: &[UpstreamServer]) -> UpstreamTls {
    let ca = table.optional_path("ca");
    let cert = table.optional_path("cert");
    let key = table.optional_path("key");
    let server_name = table.get_if("server_name", String::new(), |name| judge_server_name(name));
    let reader = table.reader();
    let name_given = (server_name.given() && !server_name.value.is_empty()).then_some(&server_name.origin);
    let given = [
        ("ca", ca.as_ref().map(|path| &path.origin)),
        ("cert", cert.as_ref().map(|path| &path.origin)),
        ("key", key.as_ref().map(|path| &path.origin)),
        ("server_name", name_given),
    ];
    if !servers.is_empty() && !servers.iter().any(|server| server.scheme == UpstreamScheme::Https) {
        for (key, origin) in given {
            let Some(origin) = origin else { continue };
            let message = format!("{}: none of the servers is https://", table.label(key));
            reader.error(message, origin);
        }
    }
    for (this, that, present, missing) in [("cert", "key", &cert, &key), ("key", "cert", &key, &cert)] {
        if let (Some(present), None, None) =
            (present, missing, table.entry(that).filter(|entry| entry.value.as_text() != Some("")))
        {
            reader.error(format!("{}: needs {that} beside it", table.label(this)), &present.origin);
        }
    }
    let client = cert.zip(key).map(|(cert, key)| CertificateFiles { cert: cert.value, key: key.value });
    let server_name = Some(server_name.value.to_ascii_lowercase()).filter(|name| !name.is_empty());
    UpstreamTls { ca: ca.map(|ca| ca.value), client, server_name }
}

/// A name or an address, without a port.
fn judge_server_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.parse::<std::net::IpAddr>().is_ok() || is_name(name) {
        return Ok(());
    }
    Err(format!("{} is no name, as in \"app.example.com\"", quote(name)))
}

/// Only a table that is there: nobody knows which path an app answers.
fn read_health(table: &Section<'_>) -> Option<HealthSettings> {
    let health = table.optional_table("health", "upstream.health")?;
    let path = health.required("path", |path: &String| judge_health_path(path));
    let interval = health.get_if("interval", Duration::from_secs(5), lasts(10 * MILLISECOND, DAY)).value;
    let timeout = health.get_if("timeout", SECOND, lasts(MILLISECOND, HOUR)).value;
    let healthy = health.get_if("healthy", 2_u32, between(1, 1000)).value;
    let unhealthy = health.get_if("unhealthy", 3_u32, between(1, 1000)).value;
    health.finish();
    Some(HealthSettings { path: path?.value, interval, timeout, healthy, unhealthy })
}

/// What is sent as it stands: an absolute path, with a query if need be.
fn judge_health_path(path: &str) -> Result<(), String> {
    let visible = path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'<' | b'>'));
    if !path.starts_with('/') || path.starts_with("//") || !visible || path.parse::<http::Uri>().is_err() {
        return Err(format!("{} is no path, as in \"/healthz\"", quote(path)));
    }
    Ok(())
}

fn read_ejection(table: &Section<'_>) -> EjectionSettings {
    let ejection = table.table("ejection", "upstream.ejection");
    let failures = ejection.get_if("failures", 5_u32, between(0, 1_000_000)).value;
    let duration = ejection.get_if("duration", Duration::from_secs(10), lasts(MILLISECOND, DAY)).value;
    ejection.finish();
    EjectionSettings { failures, duration }
}
