//! `[[route]]`: each by itself. Whether they get along is `check`'s question.

use http::Method;

use super::super::origin::{Origin, Place};
use super::super::reader::{Read, Section};
use super::super::tree::{Kind, Node};
use super::super::value::{Fault, Size, Spot, Value, nearest, parse, quote};
use super::roles::Roles;
use super::upstreams::UpstreamRead;
use super::{DAY, MILLISECOND, lasts};
use crate::authz::{Access, OwnerClaim, Ownership, Policy};
use crate::identity::Role;
use crate::route::{HostPattern, MethodSet, PathCase, PathPattern, RouteRule};
use crate::settings::{PreflightMode, RouteMode, RouteSettings};

/// What routes refer to.
pub(in super::super) struct Surroundings<'a> {
    pub(in super::super) roles: &'a Roles,
    pub(in super::super) upstreams: &'a [UpstreamRead],
    /// Whether `[cors]` lets anybody in.
    pub(in super::super) cors: bool,
    /// `[identity] forward_authorization`
    pub(in super::super) forward_authorization: bool,
}

/// A route and where it stands.
pub(in super::super) struct RouteRead {
    pub(in super::super) settings: RouteSettings,
    pub(in super::super) origin: Origin,
    /// Where its path stands.
    pub(in super::super) path: Origin,
    /// Where its mode stands.
    pub(in super::super) mode: Origin,
    /// Where its preflight stands.
    pub(in super::super) preflight: Origin,
}

/// A host as a route names it.
#[derive(Debug)]
struct HostName(HostPattern, String);

impl Value for HostName {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a host", node, |text| {
            HostPattern::parse(text)
                .map(|host| Self(host, text.to_owned()))
                .map_err(|error| error.to_string())
        })
    }
    fn show(&self) -> String {
        quote(&self.1)
    }
}

/// Routes that can be read, and how many there are.
pub(in super::super) fn read(root: &Section<'_>, around: &Surroundings<'_>) -> (Vec<RouteRead>, usize) {
    let tables = root.tables("route");
    let written = tables.len();
    let mut routes = Vec::with_capacity(written);
    for table in tables {
        let path = table.required("path", |_: &PathPattern| Ok(()));
        routes.extend(read_one(&table, path, around));
        table.finish();
    }
    (routes, written)
}

fn read_one(
    table: &Section<'_>,
    path: Option<Spot<PathPattern>>,
    around: &Surroundings<'_>,
) -> Option<RouteRead> {
    let pattern = path.as_ref().map(|path| &path.value);
    let host = table.optional("host", |_: &HostName| Ok(())).map(|host| host.value.0);
    let methods = read_methods(table);
    let upstream = read_upstream(table, around.upstreams);
    let strip_prefix = read_strip_prefix(table, pattern);
    let timeout = table.optional("timeout", lasts(MILLISECOND, DAY)).map(|timeout| timeout.value);
    let body_bytes = table.optional("body_bytes", |_: &Size| Ok(())).map(|size| size.value.0);
    let forward_authorization = table.get("forward_authorization", around.forward_authorization).value;
    let policy = read_policy(table, pattern, around.roles);
    let mode = table.get("mode", RouteMode::Enforce);
    let preflight = read_preflight(table, around.cors);
    let path = path?;
    let settings = RouteSettings {
        rule: RouteRule { host, path: path.value, methods },
        policy,
        upstream,
        strip_prefix,
        timeout,
        body_bytes,
        forward_authorization,
        mode: mode.value,
        preflight: preflight.value,
        place: place_of(table),
    };
    let preflight = preflight.origin;
    Some(RouteRead {
        settings,
        origin: table.origin().clone(),
        path: path.origin,
        mode: mode.origin,
        preflight,
    })
}

/// `FILE:LINE`, or who named it.
pub(super) fn place_of(table: &Section<'_>) -> String {
    match table.reader().place(table.origin()) {
        Place::File { file, line, .. } => format!("{}:{line}", file.display()),
        other => other.to_string(),
    }
}

fn read_preflight(table: &Section<'_>, cors: bool) -> Read<PreflightMode> {
    let preflight = table.get("preflight", PreflightMode::Deny);
    if preflight.value == PreflightMode::Answer && !cors {
        let label = table.label("preflight");
        let message = format!("{label}: \"answer\" needs [cors] origins: there is nobody to say yes to");
        table.reader().error(message, &preflight.origin);
    }
    preflight
}

fn read_methods(table: &Section<'_>) -> MethodSet {
    let Some(names) = table.optional("methods", |_: &Vec<Spot<String>>| Ok(())) else {
        return MethodSet::Any;
    };
    let texts: Vec<&str> = names.value.iter().map(|spot| spot.value.as_str()).collect();
    MethodSet::parse(&texts).unwrap_or_else(|error| {
        // Point at the one that is wrong by itself, otherwise at the list.
        let alone = |spot: &&Spot<String>| MethodSet::parse(&[spot.value.as_str()]).is_err();
        let at = names.value.iter().find(alone).map_or(&names.origin, |spot| &spot.origin);
        table.reader().error(format!("{}: {error}", table.label("methods")), at);
        MethodSet::Only(vec![Method::GET])
    })
}

fn read_upstream(table: &Section<'_>, upstreams: &[UpstreamRead]) -> usize {
    let wanted = table.optional("upstream", |_: &String| Ok(()));
    let reader = table.reader();
    let names = || upstreams.iter().map(|upstream| upstream.settings.name.as_str());
    let Some(wanted) = wanted else {
        // A broken name has been reported; none is fine when there is no choice.
        if table.entry("upstream").is_none() {
            match upstreams {
                [] => {}
                [only] => table.show("upstream", &only.settings.name, &Origin::Default),
                _ => {
                    let listed: Vec<String> = names().map(quote).collect();
                    let message = format!(
                        "{} is missing, there are several: {}",
                        table.label("upstream"),
                        listed.join(", ")
                    );
                    reader.error(message, table.origin());
                }
            }
        }
        return 0;
    };
    names().position(|name| name == wanted.value).unwrap_or_else(|| {
        let suggestion = nearest(&wanted.value, names());
        let suggestion = suggestion.map_or(String::new(), |name| format!(", did you mean {}?", quote(name)));
        let label = table.label("upstream");
        reader
            .error(format!("{label}: unknown upstream {}{suggestion}", quote(&wanted.value)), &wanted.origin);
        0
    })
}

/// The start of the route's own path: anything else would strip something that is not always there.
fn read_strip_prefix(table: &Section<'_>, path: Option<&PathPattern>) -> Option<String> {
    let prefix = table.optional("strip_prefix", |prefix: &PathPattern| match prefix {
        prefix if !prefix.is_literal() => Err("has no parameters and no \"/**\"".to_owned()),
        prefix if prefix.as_str() == "/" => Err("\"/\" strips nothing; leave it out".to_owned()),
        _ => Ok(()),
    })?;
    let within = path.is_none_or(|path| path.is_at_or_below(&prefix.value, PathCase::Sensitive));
    if !within {
        let path = path.map(|path| quote(path.as_str())).unwrap_or_default();
        let message = format!(
            "{}: {} is not the start of the route's path, {path}",
            table.label("strip_prefix"),
            quote(prefix.value.as_str())
        );
        table.reader().error(message, &prefix.origin);
    }
    Some(prefix.value.as_str().to_owned())
}

fn read_policy(table: &Section<'_>, path: Option<&PathPattern>, roles: &Roles) -> Policy {
    let reader = table.reader();
    let access = table.get("access", Access::Authenticated);
    let any_of = read_roles(table, "roles", roles);
    let all_of = read_roles(table, "all_roles", roles);
    let owner = read_owner(table, path);
    let or_roles = read_roles(table, "or_roles", roles);
    if let (Some(or_roles), None) = (&or_roles, table.entry("owner")) {
        let label = table.label("or_roles");
        reader.error(format!("{label}: needs an owner beside it; did you mean \"roles\"?"), &or_roles.origin);
    }
    let conditions = [
        ("roles", any_of.as_ref().map(|spot| &spot.origin)),
        ("all_roles", all_of.as_ref().map(|spot| &spot.origin)),
        ("owner", table.entry("owner").map(|entry| &entry.key_origin)),
    ];
    if access.value != Access::Authenticated {
        for (key, origin) in conditions {
            let Some(origin) = origin else { continue };
            let message =
                format!("{}: needs a caller, but access is {}", table.label(key), access.value.show());
            reader.error(message, origin);
        }
        return Policy::of(access.value);
    }
    let listed = |spot: Option<Spot<Vec<Role>>>| spot.map(|spot| spot.value).unwrap_or_default();
    let or_roles = listed(or_roles);
    let owner = owner.map(|(param, claim)| Ownership { param, claim, or_roles });
    Policy::new(access.value, listed(any_of), listed(all_of), owner).unwrap_or_else(|error| {
        reader.error(format!("{}: {error}", table.label("access")), table.origin());
        Policy::of(Access::Authenticated)
    })
}

fn read_roles(table: &Section<'_>, key: &'static str, roles: &Roles) -> Option<Spot<Vec<Role>>> {
    let named = table.optional(key, |named: &Vec<Spot<Role>>| match named.len() {
        0 => Err("an empty list lets nobody through or everybody, depending on who reads it; leave it out"
            .to_owned()),
        _ => Ok(()),
    })?;
    roles.check(table.reader(), &table.label(key), &named.value);
    let value = named.value.into_iter().map(|spot| spot.value).collect();
    Some(Spot { value, origin: named.origin })
}

/// `owner = { uid = "sub" }`
fn read_owner(table: &Section<'_>, path: Option<&PathPattern>) -> Option<(String, OwnerClaim)> {
    let entry = table.by_hand("owner")?;
    let reader = table.reader();
    let label = table.label("owner");
    let form = "one path parameter and \"sub\" or \"username\", as in { uid = \"sub\" }";
    let Kind::Table(owner) = &entry.value.kind else {
        let found = entry.value.type_name();
        reader.error(format!("{label}: expected {form}, found {found}"), &entry.value.origin);
        return None;
    };
    let [pair] = owner.entries.as_slice() else {
        reader.error(
            format!("{label}: expected {form}, found {} keys", owner.entries.len()),
            &entry.value.origin,
        );
        return None;
    };
    if let Some(path) = path.filter(|path| !path.param_names().any(|name| name == pair.key)) {
        let suggestion = nearest(&pair.key, path.param_names());
        let suggestion = suggestion.map_or(String::new(), |name| format!(", did you mean {}?", quote(name)));
        let message = format!(
            "{label}: the path {} has no parameter {}{suggestion}",
            quote(path.as_str()),
            quote(&format!("{{{}}}", pair.key))
        );
        reader.error(message, &pair.key_origin);
    }
    let claim = OwnerClaim::read(&pair.value).map_err(|faults| {
        for fault in faults {
            reader.error(format!("{label}.{}: {}", pair.key, fault.message), &fault.origin);
        }
    });
    let claim = claim.ok()?;
    table.show_text("owner", format!("{{ {} = {} }}", pair.key, claim.show()), &entry.value.origin);
    Some((pair.key.clone(), claim))
}
