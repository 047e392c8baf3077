//! `[auth]` and `[auth.throttle]`.

use super::super::origin::Origin;
use super::super::reader::{Read, Section};
use super::super::tree::Node;
use super::super::units::show_duration;
use super::super::value::{Fault, Spot, Value, Word, parse, quote};
use super::{DAY, MILLISECOND, MINUTE, between, default_list, lasts, outbound};
use crate::identity::{Role, Username};
use crate::route::PathPattern;
use crate::settings::{
    ANSWER_MEMBERS, AnswerSource, AuthSettings, EndpointName, ErrorBodies, Ids, LoginName, Rate,
    Registration, ThrottleSettings, UsernameRules,
};

/// A list that anybody can lengthen by logging in is read at each login.
const MOST_SESSIONS: usize = 1000;

/// What later checks need, besides the settings.
pub(in super::super) struct AuthRead {
    pub(in super::super) settings: AuthSettings,
    pub(in super::super) prefix: Origin,
    pub(in super::super) registration: Origin,
    pub(in super::super) ids: Origin,
    pub(in super::super) default_roles: Vec<Spot<Role>>,
    /// Where each of the settings' paths stands.
    pub(in super::super) paths: Vec<Origin>,
    /// Whether the app is asked about registrations, or was meant to be by what is an error.
    pub(in super::super) has_admission: bool,
    /// Where `[auth.migrate]` stands.
    pub(in super::super) migrate: Option<Origin>,
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
    let usernames = auth.get("usernames", UsernameRules::Ascii);
    let reserved = ["admin", "root", "anonymous", "system"].map(|name| Reserved(name.to_owned()));
    let reserved = auth.get("reserved_usernames", default_list(reserved));
    if login_name == LoginName::Email {
        let why = "beside login_name = \"email\": there are no usernames";
        auth.warn_of_idle("usernames", &usernames, why);
        auth.warn_of_idle("reserved_usernames", &reserved, why);
    }
    let ids = auth.get("ids", Ids::Uuid);
    let paths = read_paths(&auth);
    let admission = outbound::read_admission(&auth);
    let has_admission = outbound::has_admission(&auth);
    let migrate = outbound::read_migrate(&auth);
    let (migrate_origin, migrate) = migrate.unzip();
    let settings = AuthSettings {
        prefix: prefix.value,
        registration: registration.value,
        registrations_per_address,
        sessions_per_user,
        default_roles: default_roles.iter().map(|spot| spot.value.clone()).collect(),
        login_name,
        usernames: usernames.value,
        reserved_usernames: reserved.value.into_iter().map(|spot| spot.value.0).collect(),
        ids: ids.value,
        paths: paths.iter().map(|(path, name, _)| (path.clone(), *name)).collect(),
        answer: read_answer(&auth),
        errors: auth.get("errors", ErrorBodies::Problem).value,
        password: super::password::read(&auth),
        throttle: read_throttle(&auth),
        admission,
        migrate: migrate.flatten(),
    };
    auth.finish();
    Some(AuthRead {
        settings,
        prefix: prefix.origin,
        registration: registration.origin,
        ids: ids.origin,
        default_roles,
        paths: paths.into_iter().map(|(.., origin)| origin).collect(),
        has_admission,
        migrate: migrate_origin,
    })
}

/// `paths`, each for itself; whether they get along with the prefix and the routes is `check`'s question.
fn read_paths(auth: &Section<'_>) -> Vec<(PathPattern, EndpointName, Origin)> {
    let judge = |text: &str| match PathPattern::parse(text) {
        Err(error) => Err(error.to_string()),
        Ok(_) if text.contains('%') => Err(format!("{} has characters that need encoding", quote(text))),
        Ok(path) if !path.is_literal() => {
            Err(format!("{}: a path of an endpoint has no parameters and no \"/**\"", quote(text)))
        }
        Ok(path) => Ok(path),
    };
    let members = read_members(auth, "paths", "auth.paths", judge);
    members.into_iter().map(|(path, Spot { value, origin })| (path, value, origin)).collect()
}

/// `answer`: names that the answer does not have yet.
fn read_answer(auth: &Section<'_>) -> Vec<(String, AnswerSource)> {
    let judge = |name: &str| {
        if ANSWER_MEMBERS.contains(&name) {
            return Err(format!("the answer has {} already", quote(name)));
        }
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            return Err("a member's name is 1 to 128 bytes without control characters".to_owned());
        }
        Ok(name.to_owned())
    };
    let members = read_members(auth, "answer", "auth.answer", judge);
    members.into_iter().map(|(name, source)| (name, source.value)).collect()
}

/// A table whose keys are the operator's: each key judged, each value a word. The spot is the key's.
fn read_members<K, T: Word>(
    auth: &Section<'_>,
    key: &'static str,
    kind: &'static str,
    judge: impl Fn(&str) -> Result<K, String>,
) -> Vec<(K, Spot<T>)> {
    auth.by_hand(key);
    let section = auth.table(key, kind);
    let reader = section.reader();
    let mut members = Vec::new();
    for entry in section.entries() {
        let name = judge(&entry.key)
            .map_err(|message| reader.error(format!("{kind}: {message}"), &entry.key_origin));
        let value = T::read(&entry.value).map_err(|faults| {
            for fault in faults {
                reader.error(format!("{}: {}", section.label(&entry.key), fault.message), &fault.origin);
            }
        });
        if let (Ok(name), Ok(value)) = (name, value) {
            section.show(&entry.key, &value, &entry.value.origin);
            members.push((name, Spot { value, origin: entry.key_origin.clone() }));
        }
    }
    if section.entries().next().is_none() {
        auth.show_text(key, "{}".to_owned(), section.origin());
    }
    members
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
