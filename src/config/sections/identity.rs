//! `[identity]`: which header tells the app what.

use http::HeaderName;

use super::super::origin::Origin;
use super::super::reader::Section;
use super::super::value::quote;
use super::words::{Preset, UnverifiedEmail};
use crate::message::fold::{FORWARDING_NAMES, fold};
use crate::settings::{IdentityHeaderNames, IdentitySettings};

/// Values and what each preset calls them: `gatepost`, `oauth2-proxy`, `remote-user`. oauth2-proxy has a
/// second name for the username, [`PREFERRED_USERNAME`].
const PRESETS: [(&str, [&str; 3]); 6] = [
    ("user", ["X-Auth-User", "X-Forwarded-User", "Remote-User"]),
    ("id", ["X-Auth-Id", "", ""]),
    ("email", ["X-Auth-Email", "X-Forwarded-Email", "Remote-Email"]),
    ("name", ["X-Auth-Name", "", "Remote-Name"]),
    ("roles", ["X-Auth-Roles", "X-Forwarded-Groups", "Remote-Groups"]),
    ("session", ["X-Auth-Session", "", ""]),
];

/// Where oauth2-proxy says the username again; apps read either.
const PREFERRED_USERNAME: HeaderName = HeaderName::from_static("x-forwarded-preferred-username");

/// Headers that HTTP or every client gives a meaning to, beside those that the gateway rebuilds
/// ([`FORWARDING_NAMES`]). Identity in one of these would break messages, or be broken by those who
/// rebuild it.
const TAKEN: [&str; 42] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "host",
    "authorization",
    "www-authenticate",
    "x-access-token",
    "cookie",
    "set-cookie",
    "content-length",
    "content-type",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-disposition",
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-charset",
    "expect",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "date",
    "via",
    "origin",
    "referer",
    "user-agent",
    "location",
    "max-forwards",
    "cache-control",
    "server",
];

pub(in super::super) fn read(root: &Section<'_>) -> IdentitySettings {
    let identity = root.table("identity", "identity");
    let preset = identity.get("preset", Preset::Gatepost).value;
    let headers = read_headers(&identity, preset);
    let separator = identity.get_if("roles_separator", ",".to_owned(), |text| judge_separator(text)).value;
    let unverified = identity.get("unverified_email", UnverifiedEmail::Omit).value;
    let forward_authorization = identity.get("forward_authorization", false).value;
    identity.finish();
    IdentitySettings {
        headers,
        roles_separator: separator,
        send_unverified_email: unverified == UnverifiedEmail::Send,
        forward_authorization,
    }
}

fn read_headers(identity: &Section<'_>, preset: Preset) -> IdentityHeaderNames {
    identity.by_hand("headers");
    let section = identity.table("headers", "identity.headers");
    let mut taken: Vec<(String, &str)> = Vec::new();
    let names = PRESETS.map(|(key, presets)| {
        let default = match preset {
            Preset::Gatepost => presets[0],
            Preset::OAuth2Proxy => presets[1],
            Preset::RemoteUser => presets[2],
            Preset::None => "",
        };
        let header = section.get_if(key, default.to_owned(), |name| judge_header(name));
        let name: HeaderName = header.value.parse().ok()?;
        let folded = fold(name.as_str());
        if header.broken {
            return Some(name);
        }
        if let Some((_, other)) = taken.iter().find(|(earlier, _)| *earlier == folded) {
            let message = format!("identity.headers.{key}: {} carries {other} already", quote(&header.value));
            let at = if header.origin == Origin::Default { section.origin() } else { &header.origin };
            section.reader().error(message, at);
        }
        taken.push((folded, key));
        Some(name)
    });
    section.finish();
    let [user, id, email, name, roles, session] = names;
    let twice = preset == Preset::OAuth2Proxy
        && !taken.iter().any(|(name, _)| *name == fold(PREFERRED_USERNAME.as_str()));
    let user_too = twice.then_some(PREFERRED_USERNAME);
    IdentityHeaderNames { user, user_too, id, email, name, roles, session }
}

/// `""` is a value that is not sent.
fn judge_header(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    if name.parse::<HeaderName>().is_err() {
        return Err(format!("{} is no header name", quote(name)));
    }
    let folded = fold(name);
    if folded.is_empty() {
        return Err(format!("{} is told apart from no other header: no letter or digit in it", quote(name)));
    }
    if TAKEN.into_iter().chain(FORWARDING_NAMES).any(|taken| fold(taken) == folded) {
        return Err(format!("{} has a meaning of its own and cannot carry identity", quote(name)));
    }
    Ok(())
}

/// It must not be possible to read one role as two, or two as one.
fn judge_separator(text: &str) -> Result<(), String> {
    let visible = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    if text.is_empty() || text.len() > 8 || !visible {
        return Err("must be 1 to 8 visible ASCII characters or spaces".to_owned());
    }
    let in_role = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    match text.chars().find(|c| in_role(*c) || *c == '%') {
        Some(c) => Err(format!("{} can stand in a role's name or its encoding", quote(&c.to_string()))),
        None => Ok(()),
    }
}
