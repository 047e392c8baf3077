//! `[server]`, `[admin]`, `[log]`, `[store]`.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::super::address::{Listen, Socket, Trusted, private_networks, socket_path};
use super::super::origin::Origin;
use super::super::reader::{Read, Section};
use super::super::value::{OneOrMany, Size, Spot, nearest, quote};
use super::tls::{self, TlsRead};
use super::words::{Allowance, Engine};
use super::{HOUR, between, default_list, lasts, limits};
use crate::route::PathAllowances;
use crate::route::PathCase;
use crate::settings::{AdminSettings, Endpoint, LogFormat, LogSettings, ServerSettings, StoreSettings};

/// More threads than any machine has cores.
const MOST_WORKERS: usize = 1024;

/// Places that clients come to, as they are written.
pub(in super::super) struct Places {
    listen: Read<Vec<Spot<Listen>>>,
    redirect: Read<Vec<Spot<Listen>>>,
}

pub(in super::super) fn read_server(root: &Section<'_>) -> (ServerSettings, Places) {
    let server = root.table("server", "server");
    let places = Places { listen: read_listen(&server), redirect: read_redirect(&server) };
    check_clashes(&server, &places);
    let trusted_proxies = read_trusted(&server);
    let tls = tls::read(&server);
    let h2c = server.get("h2c", false);
    check_tls(&server, &places, tls.as_ref(), &h2c);
    let settings = ServerSettings {
        listen: endpoints(&server, "listen", &places.listen),
        workers: read_workers(&server),
        path_case: server.get("path_case", PathCase::Insensitive).value,
        allow: read_allow(&server),
        drain_delay: server.get_if("drain_delay", Duration::ZERO, lasts(Duration::ZERO, HOUR)).value,
        drain_timeout: server
            .get_if("drain_timeout", Duration::from_secs(20), lasts(Duration::ZERO, HOUR))
            .value,
        limits: limits::read(&server),
        redirect_http: endpoints(&server, "redirect_http", &places.redirect),
        h2c: h2c.value,
        proxy_protocol: read_proxy_protocol(&server, &places, &trusted_proxies),
        trusted_proxies,
        tls: tls.map(|tls| tls.settings),
    };
    server.finish();
    (settings, places)
}

fn read_listen(server: &Section<'_>) -> Read<Vec<Spot<Listen>>> {
    let default = default_list([Listen::Tcp { host: "127.0.0.1".to_owned(), port: 8080 }]);
    server.get_if("listen", default, |listen| match listen.len() {
        0 => Err("at least one place to listen is needed".to_owned()),
        _ => Ok(()),
    })
}

fn read_redirect(server: &Section<'_>) -> Read<Vec<Spot<Listen>>> {
    server.get("redirect_http", Vec::new())
}

/// No place can be taken twice, in one list or in both.
fn check_clashes(server: &Section<'_>, places: &Places) {
    let mut taken: Vec<(&Spot<Listen>, &str)> = Vec::new();
    for (key, list) in [("listen", &places.listen), ("redirect_http", &places.redirect)] {
        for one in &list.value {
            if let Some((_, by)) = taken.iter().find(|(earlier, _)| earlier.value.clashes_with(&one.value)) {
                let text = quote(&one.value.text());
                let message = if *by == key {
                    format!("server.{key}: {text} is taken twice")
                } else {
                    format!("server.{key}: {text} is taken by server.{by}")
                };
                server.reader().error(message, &one.origin);
            }
            taken.push((one, key));
        }
    }
}

/// What makes sense beside TLS only, and what makes none.
fn check_tls(server: &Section<'_>, places: &Places, tls: Option<&TlsRead>, h2c: &Read<bool>) {
    let reader = server.reader();
    match tls {
        Some(tls) => {
            tls::warn_of_ports(server, tls, &places.listen.value, &places.redirect.value);
            if h2c.value {
                let message = "server.h2c: says nothing beside [server.tls], where HTTP/2 is chosen by ALPN";
                reader.warn(message, &h2c.origin);
            }
        }
        None if places.redirect.value.is_empty() => {}
        None => {
            let message = "server.redirect_http: sends people to https, which needs [server.tls]";
            reader.error(message, &places.redirect.origin);
        }
    }
}

/// Somebody has to be believed: a PROXY header is the client's address. A Unix socket's peers always are.
fn read_proxy_protocol(server: &Section<'_>, places: &Places, trusted: &[IpNet]) -> bool {
    let proxy_protocol = server.get("proxy_protocol", false);
    let tcp = |spot: &Spot<Listen>| matches!(spot.value, Listen::Tcp { .. });
    let mut all = places.listen.value.iter().chain(&places.redirect.value);
    if proxy_protocol.value && trusted.is_empty() && all.any(tcp) {
        let message =
            "server.proxy_protocol: needs trusted_proxies: every connection of somebody else is closed";
        server.reader().error(message, &proxy_protocol.origin);
    }
    proxy_protocol.value
}

fn endpoints(server: &Section<'_>, key: &str, places: &Read<Vec<Spot<Listen>>>) -> Vec<Endpoint> {
    let reader = server.reader();
    let endpoint = |spot: &Spot<Listen>| {
        let endpoint = spot.value.endpoint(reader, &spot.origin);
        endpoint.map_err(|message| reader.error(format!("server.{key}: {message}"), &spot.origin)).ok()
    };
    places.value.iter().filter_map(endpoint).collect()
}

/// 0 is one per core, or what the cgroup grants. Only Linux spreads connections over several
/// listeners on one port.
fn read_workers(server: &Section<'_>) -> usize {
    let workers = server.get_if("workers", 0_usize, between(0, MOST_WORKERS));
    if !cfg!(target_os = "linux") {
        if workers.value > 1 {
            server.reader().warn("server.workers: this system runs with one worker", &workers.origin);
        }
        return 1;
    }
    if workers.value == 0 { cores() } else { workers.value }
}

/// Cores that this process may use; honours affinity and cgroup quotas.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS)
}

fn read_trusted(server: &Section<'_>) -> Vec<IpNet> {
    let trusted = server.get("trusted_proxies", OneOrMany::<Trusted>(Vec::new())).value;
    let mut nets = Vec::new();
    for spot in &trusted.0 {
        match &spot.value {
            Trusted::Private => nets.extend(private_networks()),
            Trusted::Net(net) => {
                if net.prefix_len() == 0 {
                    let message = format!(
                        "server.trusted_proxies: {net} believes anybody: every client can choose its own address"
                    );
                    server.reader().warn(message, &spot.origin);
                }
                nets.push(*net);
            }
        }
    }
    nets
}

fn read_allow(server: &Section<'_>) -> PathAllowances {
    let words = server.get("allow", Vec::<Spot<Allowance>>::new()).value;
    let has = |word| words.iter().any(|spot| spot.value == word);
    PathAllowances {
        semicolon: has(Allowance::Semicolon),
        encoded_slash: has(Allowance::EncodedSlash),
        non_ascii: has(Allowance::NonAscii),
    }
}

/// The socket's default depends on the store, which comes later in the file.
pub(in super::super) fn read_admin(
    root: &Section<'_>,
    places: &Places,
    store: &std::path::Path,
) -> AdminSettings {
    let admin = root.table("admin", "admin");
    let reader = admin.reader();
    let default = Socket(std::net::SocketAddr::from(([127, 0, 0, 1], 8081)));
    let own = admin.get("listen", default);
    if !own.value.0.ip().to_canonical().is_loopback() {
        let message =
            format!("admin.listen: {} is no loopback address: others can read the metrics", own.value.0);
        reader.warn(message, &own.origin);
    }
    let mine = Listen::Tcp { host: host_text(own.value.0.ip()), port: own.value.0.port() };
    for (key, list) in [("listen", &places.listen), ("redirect_http", &places.redirect)] {
        if let Some(clash) = list.value.iter().find(|one| one.value.clashes_with(&mine)) {
            let at = if own.given() { &own.origin } else { &clash.origin };
            reader.error(format!("admin.listen: {} is taken by server.{key}", quote(&mine.text())), at);
        }
    }
    let socket = admin.path("socket", &store.join("gatepost.sock"));
    if let Err(message) = socket_path(socket.value.clone()) {
        reader.error(format!("admin.socket: {message}"), &socket.origin);
    }
    admin.finish();
    AdminSettings { listen: own.value.0, socket: socket.value }
}

fn host_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

pub(in super::super) fn read_log(root: &Section<'_>) -> LogSettings {
    let log = root.table("log", "log");
    let settings = LogSettings {
        level: log.get_if("level", "info".to_owned(), |level| judge_level(level)).value,
        format: log.get("format", LogFormat::Auto).value,
        decisions: log.get("decisions", true).value,
    };
    log.finish();
    settings
}

/// A level, or a filter directive. A lone word that is no level would be read as a module's name and
/// silence everything else, so it is refused.
fn judge_level(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    if LEVELS.contains(&text) {
        return Ok(());
    }
    if text.contains(['=', ',']) {
        let parsed = EnvFilter::builder().parse(text);
        return parsed.map(drop).map_err(|error| format!("{} is no filter: {error}", quote(text)));
    }
    let suggestion =
        nearest(text, LEVELS.into_iter()).map(|level| format!("; did you mean {}?", quote(level)));
    let suggestion = suggestion.unwrap_or_default();
    Err(format!("{} is none of error, warn, info, debug, trace, off{suggestion}", quote(text)))
}

pub(in super::super) fn read_store(root: &Section<'_>) -> StoreSettings {
    let store = root.table("store", "store");
    let base = store.reader().resolve("data", &Origin::Default);
    store.get("engine", Engine::Sled);
    let path = store.path("path", &base).value;
    let min_free = store.get("min_free", Size(64 << 20)).value.0;
    store.finish();
    StoreSettings { path, min_free }
}

impl Listen {
    /// Whether both cannot be bound. Port 0 is another one each time.
    fn clashes_with(&self, other: &Self) -> bool {
        let any = |host: &str| matches!(host, "0.0.0.0" | "[::]");
        match (self, other) {
            (Self::Tcp { host, port }, Self::Tcp { host: other, port: other_port }) => {
                *port != 0 && port == other_port && (host == other || any(host) || any(other))
            }
            (Self::Unix(path), Self::Unix(other)) => path == other,
            (Self::Tcp { .. }, Self::Unix(_)) | (Self::Unix(_), Self::Tcp { .. }) => false,
        }
    }
}
