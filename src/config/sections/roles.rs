//! `[roles]`, and the question whether a role is one of them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::origin::Origin;
use super::super::reader::{Reader, Section};
use super::super::tree::Node;
use super::super::value::{Fault, Spot, Value, nearest, parse, quote};
use crate::identity::{Role, RoleTable};

impl Value for Role {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a role's name", node, |text| text.parse().map_err(|error| format!("{}: {error}", quote(text))))
    }
    fn show(&self) -> String {
        quote(self.as_str())
    }
}

/// The roles that there are.
pub(in super::super) struct Roles {
    pub(in super::super) table: RoleTable,
    /// Where the table stands, for roles that a default names.
    origin: Origin,
}

/// Cycles make roles equal: allowed, and seldom meant.
pub(in super::super) fn read(root: &Section<'_>) -> Roles {
    let written = root.by_hand("roles").is_some();
    let section = root.table("roles", "roles");
    if !written {
        return Roles { table: usual(&section), origin: Origin::Default };
    }
    let reader = section.reader();
    let mut implied = BTreeMap::new();
    let mut named = Vec::new();
    for entry in section.entries() {
        let role: Role = match entry.key.parse() {
            Ok(role) => role,
            Err(error) => {
                reader.error(format!("roles: {}: {error}", quote(&entry.key)), &entry.key_origin);
                continue;
            }
        };
        let below = match Vec::<Spot<Role>>::read(&entry.value) {
            Ok(below) => below,
            Err(faults) => {
                for fault in faults {
                    reader.error(format!("{}: {}", section.label(&entry.key), fault.message), &fault.origin);
                }
                Vec::new()
            }
        };
        section.show(&entry.key, &below, &entry.value.origin);
        implied.insert(role, below.iter().map(|spot| spot.value.clone()).collect::<BTreeSet<_>>());
        named.push((section.label(&entry.key), below));
    }
    let roles = Roles { table: RoleTable::new(implied), origin: section.origin().clone() };
    for (label, below) in named {
        roles.check(reader, &label, &below);
    }
    roles.warn_of_equals(reader);
    roles
}

/// Without a table: `user`, and `admin` above it.
fn usual(section: &Section<'_>) -> RoleTable {
    let role = |name: &str| name.parse::<Role>().ok();
    let mut implied = BTreeMap::new();
    for (name, below) in [("user", None), ("admin", role("user"))] {
        let shown: Vec<Spot<Role>> = super::default_list(below.clone());
        section.show(name, &shown, &Origin::Default);
        implied.extend(role(name).map(|role| (role, below.into_iter().collect())));
    }
    RoleTable::new(implied)
}

impl Roles {
    /// `user = ["admin"]` beside `admin = ["user"]` makes everybody an admin.
    fn warn_of_equals(&self, reader: &Reader<'_>) {
        let mut told: Vec<&Role> = Vec::new();
        for role in self.table.names() {
            if told.contains(&role) {
                continue;
            }
            let implies = |other: &&Role| self.table.expand([*other]).contains(role);
            let below = self.table.expand([role]);
            let equal: Vec<&Role> =
                self.table.names().filter(|other| below.contains(other)).filter(implies).collect();
            if equal.len() > 1 {
                let names: Vec<String> = equal.iter().map(|role| quote(role.as_str())).collect();
                reader.warn(
                    format!("roles: {} imply one another: who has one has all", names.join(", ")),
                    &self.origin,
                );
            }
            told.extend(equal);
        }
    }

    /// Reports every role that the table does not name.
    pub(in super::super) fn check(&self, reader: &Reader<'_>, label: &str, roles: &[Spot<Role>]) {
        for spot in roles {
            if self.table.contains(&spot.value) {
                continue;
            }
            let suggestion = nearest(spot.value.as_str(), self.table.names().map(Role::as_str));
            let suggestion =
                suggestion.map_or(String::new(), |name| format!(", did you mean {}?", quote(name)));
            let message = format!("{label}: unknown role {}{suggestion}", quote(spot.value.as_str()));
            let origin = if spot.origin == Origin::Default { &self.origin } else { &spot.origin };
            reader.error(message, origin);
        }
    }
}
