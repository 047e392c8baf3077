//! `[auth]` and `[auth.throttle]`.

use super::super::origin::Origin;
use super::super::reader::{Read, Section};
use super::super::tree::Node;
use super::super::units::show_duration;
use super::super::value::{Fault, Spot, Value, parse, quote};
use super::{DAY, MILLISECOND, MINUTE, between, default_list, lasts};
use crate::identity::{Role, Username};
use crate::route::PathPattern;
use crate::settings::{AuthSettings, LoginName, Rate, Registration, ThrottleSettings, UsernameRules};

/// A list that anybody can lengthen by logging in is read at each login.
const MOST_SESSIONS: usize = 1000;

/// What later checks need, besides the settings.
pub(in super::super) struct AuthRead {
    pub(in super::super) settings: AuthSettings,
    pub(in super::super) prefix: Origin,
    pub(in super::super) registration: Origin,
    pub(in super::super) default_roles: Vec<Spot<Role>>,
}

impl Value for PathPattern {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a path", node, |text| Self::parse(text).map_err(|error| error.to_string()))
    }
    fn show(&self) -> String {
        quote(self.as_str())
    }
}

/// A name that nobody can register, in lower case.
#[derive(Debug)]
struct Reserved(String);

impl Value for Reserved {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a username", node, |text| {
            let name: Username = text.parse().map_err(|error| format!("{}: {error}", quote(text)))?;
            Ok(Self(name.as_str().to_lowercase()))
        })
    }
    fn show(&self) -> String {
        quote(&self.0)
    }
}

/// `None` when even the default prefix is no path, which cannot be.
pub(in super::super) fn read(root: &Section<'_>) -> Option<AuthRead> {
    let auth = root.table("auth", "auth");
    let prefix = read_prefix(&auth)?;
    let registration = auth.get("registration", Registration::Closed);
    let rate = Rate { count: 20, per: super::HOUR };
    let registrations_per_address = auth.get("registrations_per_address", rate).value;
    let sessions_per_user = auth.get_if("sessions_per_user", 50_usize, between(1, MOST_SESSIONS)).value;
    let default_roles = auth.get("default_roles", default_list("user".parse::<Role>().ok())).value;
    let login_name = auth.get("login_name", LoginName::Either).value;
    let usernames = auth.get("usernames", UsernameRules::Ascii).value;
    let reserved = ["admin", "root", "anonymous", "system"].map(|name| Reserved(name.to_owned()));
    let reserved = auth.get("reserved_usernames", default_list(reserved)).value;
    let settings = AuthSettings {
        prefix: prefix.value,
        registration: registration.value,
        registrations_per_address,
        sessions_per_user,
        default_roles: default_roles.iter().map(|spot| spot.value.clone()).collect(),
        login_name,
        usernames,
        reserved_usernames: reserved.into_iter().map(|spot| spot.value.0).collect(),
        password: super::password::read(&auth),
        throttle: read_throttle(&auth),
    };
    auth.finish();
    Some(AuthRead { settings, prefix: prefix.origin, registration: registration.origin, default_roles })
}

fn read_prefix(auth: &Section<'_>) -> Option<Read<PathPattern>> {
    let default = PathPattern::parse("/auth").ok()?;
    // Read as text first: the pattern has forgotten a final slash.
    let judge = |prefix: &PathPattern| match prefix.as_str() {
        "/" => Err("\"/\" would leave no path to the app; a prefix is a path like \"/auth\"".to_owned()),
        text if text.contains('%') => Err(format!("{} has characters that need encoding", quote(text))),
        _ if !prefix.is_literal() => Err("a prefix has no parameters and no \"/**\"".to_owned()),
        _ => Ok(()),
    };
    let empty = auth.entry("prefix").and_then(|entry| entry.value.as_text().map(|text| (entry, text)));
    if let Some((entry, "")) = empty {
        let message = "auth.prefix: \"\" would leave no path to the app; a prefix is a path like \"/auth\"";
        auth.reader().error(message, &entry.value.origin);
        return Some(Read { value: default, origin: entry.value.origin.clone(), broken: true });
    }
    Some(auth.get_if("prefix", default, judge))
}

fn read_throttle(auth: &Section<'_>) -> ThrottleSettings {
    let throttle = auth.table("throttle", "auth.throttle");
    let failures = throttle.get_if("failures", 5_u32, between(1, 1000)).value;
    let per_address = throttle.get_if("per_address", 50_u32, between(1, 100_000)).value;
    let window = throttle.get_if("window", 15 * MINUTE, lasts(MILLISECOND, DAY)).value;
    let lockout = throttle.get_if("lockout", MINUTE, lasts(MILLISECOND, DAY));
    let lockout_max = throttle.get_if("lockout_max", 15 * MINUTE, lasts(MILLISECOND, DAY));
    if lockout_max.value < lockout.value && !lockout.broken && !lockout_max.broken {
        let (longest, first) = (show_duration(lockout_max.value), show_duration(lockout.value));
        let at = if lockout_max.given() { &lockout_max.origin } else { &lockout.origin };
        let message = format!("auth.throttle.lockout_max: {longest} is shorter than lockout, {first}");
        throttle.reader().error(message, at);
    }
    throttle.finish();
    ThrottleSettings { failures, per_address, window, lockout: lockout.value, lockout_max: lockout_max.value }
}
