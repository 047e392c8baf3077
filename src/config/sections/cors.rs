//! `[cors]`: which pages of other origins may call.

use http::HeaderName;

use super::super::origin;
use super::super::reader::Section;
use super::super::tree::Node;
use super::super::value::{Fault, Spot, Value, parse, quote};
use super::{DAY, MINUTE, default_list, lasts};
use crate::settings::{CorsOrigins, CorsSettings};

/// More would be a list that nobody looks through, and it is looked through at each request.
const MOST_ORIGINS: usize = 100;

/// An origin as browsers write it: scheme, host, and a port that is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Any,
    This(String),
}

/// A header that a script may ask to set.
#[derive(Debug)]
struct Settable(HeaderName);

impl Value for Origin {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("an origin", node, parse_origin)
    }
    fn show(&self) -> String {
        match self {
            Self::Any => quote("*"),
            Self::This(origin) => quote(origin),
        }
    }
}

impl Value for Settable {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a header name", node, |text| match text {
            // Fetch standard: the wildcard does not cover Authorization, and with credentials it is none.
            "*" => Err("\"*\" does not cover Authorization: name the headers".to_owned()),
            _ => text.parse().map(Self).map_err(|_| format!("{} is no header name", quote(text))),
        })
    }
    fn show(&self) -> String {
        quote(self.0.as_str())
    }
}

/// Browsers write origins in one way only (RFC 6454 section 6.2), and they are compared byte by byte.
fn parse_origin(text: &str) -> Result<Origin, String> {
    if text == "*" {
        return Ok(Origin::Any);
    }
    if text == "null" {
        return Err(
            "\"null\" is what every sandboxed frame and local file says, anybody's among them".to_owned()
        );
    }
    let form = || format!("{} is no origin, as in \"https://app.example.com\"", quote(text));
    if text.contains('*') {
        return Err(format!("{}: name each origin, or \"*\" alone for every one", quote(text)));
    }
    let (scheme, authority) = text.split_once("://").ok_or_else(form)?;
    let scheme_is_good = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let host_is_good = |host: &str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
            || host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
    };
    let bare = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match bare.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (bare, None),
    };
    if !scheme_is_good || !host_is_good(host) || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(form());
    }
    let scheme = scheme.to_ascii_lowercase();
    let own_port = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let port = port.and_then(|port| port.parse::<u16>().ok()).filter(|port| Some(*port) != own_port);
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    let written = format!("{scheme}://{}{port}", host.to_ascii_lowercase());
    if written != text {
        return Err(format!("browsers write {} as {}", quote(text), quote(&written)));
    }
    Ok(Origin::This(written))
}

/// What was read, and where its keys stand that have to fit to others.
pub(in super::super) struct CorsRead {
    pub(in super::super) settings: CorsSettings,
    pub(in super::super) headers: origin::Origin,
    /// Whether somebody may call, or was meant to by what is an error.
    pub(in super::super) is_meant: bool,
}

pub(in super::super) fn read(root: &Section<'_>) -> CorsRead {
    let cors = root.table("cors", "cors");
    let origins = cors.get_if("origins", Vec::<Spot<Origin>>::new(), |origins| judge_origins(origins));
    let names = ["authorization", "content-type"].map(|name| Settable(HeaderName::from_static(name)));
    let headers = cors.get("headers", default_list(names));
    let credentials = cors.get("credentials", false);
    let max_age = cors.get_if("max_age", 10 * MINUTE, |age| {
        lasts(std::time::Duration::ZERO, DAY)(age)?;
        if age.subsec_nanos() == 0 { Ok(()) } else { Err("must be whole seconds".to_owned()) }
    });
    let any = origins.value.iter().any(|spot| spot.value == Origin::Any);
    if any && credentials.value {
        let message = "cors.credentials: with origins = [\"*\"] every page on the web could act for its \
                       visitors; name the origins";
        cors.reader().error(message, &credentials.origin);
    }
    let origins_broken = origins.broken;
    if origins.value.is_empty() && !origins_broken {
        let why = "without cors.origins";
        cors.warn_of_idle("headers", &headers, why);
        cors.warn_of_idle("credentials", &credentials, why);
        cors.warn_of_idle("max_age", &max_age, why);
    }
    cors.finish();
    let settings = CorsSettings {
        origins: if any {
            CorsOrigins::Any
        } else {
            let listed = origins.value.into_iter().filter_map(|spot| match spot.value {
                Origin::Any => None,
                Origin::This(origin) => Some(origin),
            });
            CorsOrigins::These(listed.collect())
        },
        headers: headers.value.into_iter().map(|spot| spot.value.0).collect(),
        credentials: credentials.value,
        max_age: max_age.value,
    };
    let is_meant = settings.is_on() || origins_broken;
    CorsRead { settings, headers: headers.origin, is_meant }
}

fn judge_origins(origins: &[Spot<Origin>]) -> Result<(), String> {
    let any = origins.iter().any(|spot| spot.value == Origin::Any);
    if any && origins.len() > 1 {
        return Err("\"*\" stands alone: it is every origin".to_owned());
    }
    if origins.len() > MOST_ORIGINS {
        return Err(format!("must be at most {MOST_ORIGINS}"));
    }
    Ok(())
}
