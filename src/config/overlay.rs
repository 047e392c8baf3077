//! Lays the environment and `--set` over the file's tree.
//!
//! `GATEPOST__SERVER__LISTEN` names `server.listen`. Variables know no lower case, no `-` and no `.`,
//! so a part is compared after folding these, first with what the file has. An array of tables is
//! addressed by its members' `name`; one that does not exist yet is made.

use toml::de::DeValue;

use super::origin::{Origin, Place};
use super::problem::Problem;
use super::tree::{Entry, Kind, Node, Table};
use super::{Sources, tree};

const PREFIX: &str = "GATEPOST__";

/// Deeper than any key.
const DEEPEST: usize = 8;

/// Which spellings of a key part are the same.
#[derive(Clone, Copy)]
enum Spelling {
    Exact,
    Folded,
}

/// Variables first, in the order of their names, then arguments in their own order: the last one wins.
pub(super) fn lay(root: &mut Table, sources: &Sources, problems: &mut Vec<Problem>) {
    let mut variables: Vec<_> = sources.env.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (name, text) in variables {
        let parts: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        let origin = Origin::Env(name.clone());
        if let Err(message) = place_value(root, &parts, Spelling::Folded, &origin, text) {
            problems.push(Problem::error(message, Place::Env(name.clone())));
        }
    }
    for argument in &sources.set {
        if let Err(problem) = set(root, argument) {
            problems.push(*problem);
        }
    }
}

fn set(root: &mut Table, argument: &str) -> Result<(), Box<Problem>> {
    let Some((key, text)) = argument.split_once('=') else {
        let message = "--set takes KEY=VALUE, as in --set server.workers=4";
        return Err(Box::new(Problem::error(message, Place::Set(repeatable(argument)))));
    };
    let key = key.trim();
    let fault = |message: String| Box::new(Problem::error(message, Place::Set(repeatable(key))));
    let parts = key_parts(key).map_err(fault)?;
    place_value(root, &parts, Spelling::Exact, &Origin::Set(key.to_owned()), text.trim()).map_err(fault)
}

/// What of a broken key may be printed: in `tokens.secret:c2VjcmV0=` a secret stands behind it.
fn repeatable(key: &str) -> String {
    key.chars().take_while(|c| is_bare(*c) || matches!(c, '.' | '"')).collect()
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A dotted key. Parts may be quoted, since a role or an upstream may have a dot in its name.
fn key_parts(key: &str) -> Result<Vec<String>, String> {
    let mut parts = Vec::new();
    let mut rest = key;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or("a quoted key part is not closed")?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if !rest.starts_with('"') && !part.chars().all(is_bare) {
            return Err("a key part has characters that need quotes".to_owned());
        }
        parts.push(part.to_owned());
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(parts),
            None => return Err("a key part goes on behind its quotes".to_owned()),
        }
    }
}

fn place_value(
    root: &mut Table,
    parts: &[String],
    spelling: Spelling,
    origin: &Origin,
    text: &str,
) -> Result<(), String> {
    if parts.iter().any(String::is_empty) {
        return Err("a part of the key is empty".to_owned());
    }
    if parts.len() > DEEPEST {
        return Err("the key has too many parts".to_owned());
    }
    let value = value(text, origin);
    insert(root, parts, spelling, origin, value)
}

/// TOML where it is TOML, otherwise the text itself.
fn value(text: &str, origin: &Origin) -> Node {
    let parsed = DeValue::parse(text).map(|value| tree::node(value.get_ref(), 0..0, &|_| origin.clone()));
    let kind = parsed.map_or_else(|_| Kind::String(text.to_owned()), |node| node.kind);
    Node { kind, origin: origin.clone(), raw: Some(text.to_owned()) }
}

fn insert(
    table: &mut Table,
    parts: &[String],
    spelling: Spelling,
    origin: &Origin,
    value: Node,
) -> Result<(), String> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    let at = table.entries.iter().position(|entry| same(&entry.key, part, spelling));
    let index = at.unwrap_or_else(|| {
        let kind = if part == "upstream" && !rest.is_empty() {
            Kind::Array(Vec::new())
        } else {
            Kind::Table(Table::default())
        };
        let value = Node { kind, origin: origin.clone(), raw: None };
        table.entries.push(Entry { key: part.clone(), key_origin: origin.clone(), value });
        table.entries.len() - 1
    });
    let entry = &mut table.entries[index];
    if rest.is_empty() {
        merge(entry, value, origin);
        return Ok(());
    }
    match &mut entry.value.kind {
        Kind::Table(inner) => insert(inner, rest, spelling, origin, value),
        Kind::Array(items) => member(&entry.key, items, rest, spelling, origin, value),
        _ => Err(format!("{} is no table", entry.key)),
    }
}

/// Tables are merged, so that `--set server={…}` leaves the rest of the file's table alone.
fn merge(entry: &mut Entry, value: Node, origin: &Origin) {
    match (&mut entry.value.kind, value.kind) {
        (Kind::Table(old), Kind::Table(new)) => {
            for fresh in new.entries {
                match old.find_mut(&fresh.key) {
                    Some(known) => merge(known, fresh.value, origin),
                    None => old.entries.push(fresh),
                }
            }
        }
        (_, kind) => {
            entry.key_origin = origin.clone();
            entry.value = Node { kind, ..value };
        }
    }
}

/// The member of an array of tables that has this name.
fn member(
    array: &str,
    items: &mut Vec<Node>,
    parts: &[String],
    spelling: Spelling,
    origin: &Origin,
    value: Node,
) -> Result<(), String> {
    let (name, rest) = parts.split_first().ok_or("a part of the key is empty")?;
    if array != "upstream" {
        return Err(format!(
            "the tables of {array} have no names; give the whole list, as {array} = [{{…}}]"
        ));
    }
    let named = |node: &Node| match &node.kind {
        Kind::Table(table) => table
            .find("name")
            .and_then(|entry| entry.value.as_text())
            .is_some_and(|text| same(text, name, spelling)),
        _ => false,
    };
    let index = items.iter().position(named).unwrap_or_else(|| {
        let mut node = Node::table(origin.clone());
        if let Kind::Table(table) = &mut node.kind {
            let name = Node { kind: Kind::String(name.clone()), origin: origin.clone(), raw: None };
            table.entries.push(Entry { key: "name".to_owned(), key_origin: origin.clone(), value: name });
        }
        items.push(node);
        items.len() - 1
    });
    let Kind::Table(table) = &mut items[index].kind else { return Ok(()) };
    if rest.is_empty() {
        return match value.kind {
            Kind::Table(new) => {
                for fresh in new.entries {
                    insert(table, &[fresh.key], Spelling::Exact, origin, fresh.value)?;
                }
                Ok(())
            }
            _ => Err(format!("{array}.{name} is a table; name one of its keys")),
        };
    }
    insert(table, rest, spelling, origin, value)
}

fn same(known: &str, given: &str, spelling: Spelling) -> bool {
    match spelling {
        Spelling::Exact => known == given,
        Spelling::Folded => fold(known) == fold(given),
    }
}

fn fold(part: &str) -> String {
    part.chars().map(|c| if c == '-' || c == '.' { '_' } else { c.to_ascii_lowercase() }).collect()
}
