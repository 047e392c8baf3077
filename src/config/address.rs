//! Where to listen, where to connect, whom to believe: addresses as they are written.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::origin::Origin;
use super::reader::Reader;
use super::tree::Node;
use super::value::{Fault, Value, parse, quote};
use crate::settings::{Endpoint, UpstreamScheme};

/// `sun_path` holds 108 bytes on Linux, the final NUL among them.
const LONGEST_SOCKET_PATH: usize = 107;

/// `HOST:PORT` or `unix:PATH`, the path not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    Tcp { host: String, port: u16 },
    Unix(String),
}

/// An upstream's server: [`Listen`] written as a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) scheme: UpstreamScheme,
    pub(super) place: Listen,
}

/// How servers are written, for messages.
const SERVER_FORMS: &str =
    "\"http://HOST:PORT\", \"https://HOST:PORT\", \"h2c://HOST:PORT\" or \"unix:PATH\"";

impl Server {
    /// `https://[::1]:443`, `unix:PATH`.
    pub(super) fn text(&self) -> String {
        let scheme = match (&self.place, self.scheme) {
            (Listen::Unix(_), _) => "",
            (Listen::Tcp { .. }, UpstreamScheme::Http) => "http://",
            (Listen::Tcp { .. }, UpstreamScheme::Https) => "https://",
            (Listen::Tcp { .. }, UpstreamScheme::H2c) => "h2c://",
        };
        format!("{scheme}{}", self.place.text())
    }
}

/// `IP:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket(pub(super) std::net::SocketAddr);

/// A network, a single address, or the word `private`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trusted {
    Net(IpNet),
    Private,
}

impl Listen {
    /// `[::1]:80`, `localhost:80`.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(path) => format!("unix:{path}"),
        }
    }

    /// With its path resolved.
    pub(super) fn endpoint(&self, reader: &Reader<'_>, origin: &Origin) -> Result<Endpoint, String> {
        match self {
            Self::Tcp { .. } => Ok(Endpoint::Tcp(self.text())),
            Self::Unix(path) => socket_path(reader.resolve(path, origin)).map(Endpoint::Unix),
        }
    }
}

/// Checks that a socket can have this path.
pub(super) fn socket_path(path: PathBuf) -> Result<PathBuf, String> {
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        return Err(format!(
            "the path of a Unix socket is at most {LONGEST_SOCKET_PATH} bytes long, not {length}"
        ));
    }
    Ok(path)
}

impl Value for Listen {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("\"HOST:PORT\" or \"unix:PATH\"", node, |text| {
            if let Some(path) = text.strip_prefix("unix:") {
                return unix(path);
            }
            if let Some((_, rest)) = text.split_once("://") {
                let meant = rest.trim_end_matches('/');
                return Err(format!("{} is a URL; did you mean {}?", quote(text), quote(meant)));
            }
            if text.starts_with(':') && !text[1..].contains(':') {
                let (all, here) = (quote(&format!("0.0.0.0{text}")), quote(&format!("127.0.0.1{text}")));
                return Err(format!(
                    "{} names no host; write {all} for every address, or {here}",
                    quote(text)
                ));
            }
            host_and_port(text, None)
        })
    }
    fn show(&self) -> String {
        quote(&self.text())
    }
}

impl Value for Server {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse(SERVER_FORMS, node, server)
    }
    fn show(&self) -> String {
        quote(&self.text())
    }
}

fn server(text: &str) -> Result<Server, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map(|place| Server { scheme: UpstreamScheme::Http, place });
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(match host_and_port(text, None) {
            Ok(_) => {
                format!("{} has no scheme; did you mean {}?", quote(text), quote(&format!("http://{text}")))
            }
            Err(_) => format!("{} is no server; write {SERVER_FORMS}", quote(text)),
        });
    };
    let (known, default_port) = match scheme {
        "http" => (UpstreamScheme::Http, 80),
        "https" => (UpstreamScheme::Https, 443),
        "h2c" => (UpstreamScheme::H2c, 80),
        _ => {
            let scheme = quote(scheme);
            return Err(format!("unknown scheme {scheme}; use http://, https://, h2c:// or unix:"));
        }
    };
    // A password in a URL must not be repeated.
    if rest.contains('@') {
        return Err("a server has no user and password in its URL".to_owned());
    }
    if let Some(at) = rest.find(['/', '?', '#']) {
        let meant = quote(&format!("{scheme}://{}", &rest[..at]));
        return Err(format!(
            "a server has no path; did you mean {meant}? (a route's strip_prefix changes paths)"
        ));
    }
    host_and_port(rest, Some(default_port)).map(|place| Server { scheme: known, place })
}

fn unix(path: &str) -> Result<Listen, String> {
    if path.is_empty() || path.contains('\0') {
        return Err("a Unix socket needs a path, as in \"unix:app.sock\"".to_owned());
    }
    if path.starts_with("//") {
        return Err(format!("did you mean {}?", quote(&format!("unix:/{}", path.trim_start_matches('/')))));
    }
    Ok(Listen::Unix(path.to_owned()))
}

fn host_and_port(text: &str, default_port: Option<u16>) -> Result<Listen, String> {
    let no_port = || format!("{} has no port, as in {}", quote(text), quote(&format!("{text}:8080")));
    let bracketed_end = if text.starts_with('[') { text.rfind(']').map_or(0, |at| at + 1) } else { 0 };
    let (host, port) = match text[bracketed_end..].rsplit_once(':') {
        Some((host, port)) => (&text[..bracketed_end + host.len()], Some(port)),
        None => (text, None),
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(format!("{}: write an IPv6 address in brackets, as in \"[::1]:8080\"", quote(text)));
    }
    let port = match (port, default_port) {
        (Some(port), _) => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            let number = digits.then(|| port.parse().ok()).flatten();
            number.ok_or_else(|| format!("{} is no port (0 to 65535)", quote(port)))?
        }
        (None, Some(port)) => port,
        (None, None) => return Err(no_port()),
    };
    if !is_host(host) {
        return Err(format!("{} is no host", quote(host)));
    }
    Ok(Listen::Tcp { host: host.to_ascii_lowercase(), port })
}

/// An address, an IPv6 one in brackets, or a name as DNS and container networks have it.
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    is_name(host)
}

/// A name as DNS and container networks have it.
pub(super) fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(plain)
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

impl Value for Socket {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("\"IP:PORT\"", node, |text| {
            let fault = || format!("{} is no \"IP:PORT\", as in \"127.0.0.1:8081\"", quote(text));
            text.parse().map(Socket).map_err(|_| fault())
        })
    }
    fn show(&self) -> String {
        quote(&self.0.to_string())
    }
}

impl Value for Trusted {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a network like \"10.0.0.0/8\", an address, or \"private\"", node, |text| {
            if text == "private" {
                return Ok(Self::Private);
            }
            if let Ok(address) = text.parse::<IpAddr>() {
                return Ok(Self::Net(IpNet::from(address.to_canonical())));
            }
            let fault = || {
                format!("{} is no network like \"10.0.0.0/8\", no address and not \"private\"", quote(text))
            };
            let net: IpNet = text.parse().map_err(|_| fault())?;
            if net.addr() != net.network() {
                let meant = quote(&net.trunc().to_string());
                return Err(format!("{} has bits behind its prefix; did you mean {meant}?", quote(text)));
            }
            Ok(Self::Net(net))
        })
    }
    fn show(&self) -> String {
        match self {
            Self::Net(net) => quote(&net.to_string()),
            Self::Private => quote("private"),
        }
    }
}

/// What `private` stands for: RFC 1918, loopback, unique local and link-local addresses.
pub(super) fn private_networks() -> Vec<IpNet> {
    [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ]
    .iter()
    .filter_map(|net| net.parse().ok())
    .collect()
}
