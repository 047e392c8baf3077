//! The configuration as written: TOML values that remember where each of them stands.
//!
//! Knows TOML and origins, no key.

use std::ops::Range;

use toml::de::{DeArray, DeTable, DeValue};

use super::origin::Origin;

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) origin: Origin,
    /// The text of a value from the environment or `--set`, for keys that want a string whatever it
    /// looks like (`GATEPOST__TOKENS__ISSUER=42`).
    pub(super) raw: Option<String>,
}

/// What TOML knows.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    String(String),
    /// `None`: does not fit 64 bits.
    Integer(Option<i64>),
    Float,
    Boolean(bool),
    /// As written.
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

/// Keys and values, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

/// One key of a table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_origin: Origin,
    pub(super) value: Node,
}

impl Node {
    pub(super) fn table(origin: Origin) -> Self {
        Self { kind: Kind::Table(Table::default()), origin, raw: None }
    }

    /// "a string", "an integer", …
    pub(super) fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::String(_) => "a string",
            Kind::Integer(_) => "an integer",
            Kind::Float => "a float",
            Kind::Boolean(_) => "a boolean",
            Kind::Datetime(_) => "a date",
            Kind::Array(_) => "an array",
            Kind::Table(_) => "a table",
        }
    }

    /// The value as text, when it is text or comes from where everything is.
    pub(super) fn as_text(&self) -> Option<&str> {
        match (&self.kind, &self.raw) {
            (Kind::String(text), _) => Some(text),
            (Kind::Array(_) | Kind::Table(_), _) => None,
            (_, raw) => raw.as_deref(),
        }
    }
}

impl Table {
    pub(super) fn find(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn find_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }
}

/// A TOML table with its values' places.
pub(super) fn from_toml(table: &DeTable<'_>, origin: &dyn Fn(Range<usize>) -> Origin) -> Table {
    let mut entries: Vec<(usize, Entry)> = table
        .iter()
        .map(|(key, value)| {
            let entry = Entry {
                key: key.get_ref().to_string(),
                key_origin: origin(key.span()),
                value: node(value.get_ref(), value.span(), origin),
            };
            (key.span().start, entry)
        })
        .collect();
    entries.sort_by_key(|(at, _)| *at);
    Table { entries: entries.into_iter().map(|(_, entry)| entry).collect() }
}

/// A TOML value with its places.
pub(super) fn node(value: &DeValue<'_>, span: Range<usize>, origin: &dyn Fn(Range<usize>) -> Origin) -> Node {
    let kind = match value {
        DeValue::String(text) => Kind::String(text.to_string()),
        DeValue::Integer(number) => Kind::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(_) => Kind::Float,
        DeValue::Boolean(value) => Kind::Boolean(*value),
        DeValue::Datetime(date) => Kind::Datetime(date.to_string()),
        DeValue::Array(items) => Kind::Array(array(items, origin)),
        DeValue::Table(table) => Kind::Table(from_toml(table, origin)),
    };
    Node { kind, origin: origin(span), raw: None }
}

fn array(items: &DeArray<'_>, origin: &dyn Fn(Range<usize>) -> Origin) -> Vec<Node> {
    items.iter().map(|item| node(item.get_ref(), item.span(), origin)).collect()
}

/// The places of every value that stands under a secret's key.
pub(super) fn secret_spans(table: &Table, found: &mut Vec<Range<usize>>) {
    for entry in &table.entries {
        visit_secrets(&entry.value, super::secrets::is_secret_key(&entry.key), found);
    }
}

fn visit_secrets(node: &Node, secret: bool, found: &mut Vec<Range<usize>>) {
    match &node.kind {
        Kind::Table(table) if !secret => secret_spans(table, found),
        Kind::Array(items) => items.iter().for_each(|item| visit_secrets(item, secret, found)),
        _ => {
            if let (true, Origin::File(span)) = (secret, &node.origin) {
                found.push(span.clone());
            }
        }
    }
}
