//! Reads a tree's tables key by key; collects what is wrong, what was asked for, and what it came to.
//!
//! A [`Section`] remembers which keys it was asked for. What is left at its end is unknown, and the
//! keys that it knows are what somebody may have meant. A wrong value is reported and replaced by its
//! default, so that reading goes on and finds the next problem.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::ShownValue;
use super::origin::{Origin, Place, SourceFile};
use super::problem::{Problem, Severity};
use super::tree::{Entry, Kind, Node, Table};
use super::value::{Fault, Spot, Value, nearest, quote};

/// What is found on the way.
pub(super) struct Reader<'a> {
    file: &'a SourceFile,
    problems: RefCell<Vec<Problem>>,
    shown: RefCell<Vec<ShownValue>>,
    known: RefCell<BTreeSet<String>>,
}

/// A table that is being read.
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    /// As shown: `server.limits`, `route[0]`.
    path: String,
    /// As documented: `server.limits`, `route`.
    kind: &'static str,
    table: Option<&'a Table>,
    origin: Origin,
    asked: RefCell<Vec<&'static str>>,
}

/// A key's value, or the default in its place.
#[derive(Clone, Debug)]
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
    /// The value could not be read, and this is the default instead.
    pub(super) broken: bool,
}

impl<T> Read<T> {
    /// Whether somebody wrote this very value.
    pub(super) fn given(&self) -> bool {
        self.origin != Origin::Default && !self.broken
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a SourceFile, problems: Vec<Problem>) -> Self {
        Self { file, problems: RefCell::new(problems), shown: RefCell::default(), known: RefCell::default() }
    }

    pub(super) fn file(&self) -> &SourceFile {
        self.file
    }

    /// Whether anything is wrong so far that stops the gateway.
    pub(super) fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|problem| problem.severity == Severity::Error)
    }

    pub(super) fn place(&self, origin: &Origin) -> Place {
        self.file.place(origin)
    }

    pub(super) fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn error(&self, message: impl Into<String>, origin: &Origin) {
        self.push(Problem::error(message, self.place(origin)));
    }

    pub(super) fn warn(&self, message: impl Into<String>, origin: &Origin) {
        self.push(Problem::warning(message, self.place(origin)));
    }

    /// Problems, shown values, documented keys.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<ShownValue>, BTreeSet<String>) {
        (self.problems.into_inner(), self.shown.into_inner(), self.known.into_inner())
    }

    /// Where a path that stands in `origin` starts.
    pub(super) fn resolve(&self, path: &str, origin: &Origin) -> PathBuf {
        let base = self.file.path().parent().unwrap_or_else(|| Path::new(""));
        if origin.is_overlay() { PathBuf::from(path) } else { base.join(path) }
    }

    /// The whole tree.
    pub(super) fn root(&'a self, table: &'a Table) -> Section<'a> {
        self.section("", String::new(), Some(table), Origin::Default)
    }

    fn section(
        &'a self,
        kind: &'static str,
        path: String,
        table: Option<&'a Table>,
        origin: Origin,
    ) -> Section<'a> {
        Section { reader: self, path, kind, table, origin, asked: RefCell::default() }
    }

    fn show(&self, key: String, value: String, origin: &Origin) {
        let place = self.place(origin);
        let default = *origin == Origin::Default;
        let shown = ShownValue { key, value, default, origin: place.to_string(), place };
        self.shown.borrow_mut().push(shown);
    }
}

impl<'a> Section<'a> {
    pub(super) fn reader(&self) -> &'a Reader<'a> {
        self.reader
    }

    /// Where the table opens.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What a message calls a key of this table.
    pub(super) fn label(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{}", self.path, bare_or_quoted(key)) }
    }

    /// What a message calls the table itself.
    pub(super) fn label_of_table(&self) -> &str {
        &self.path
    }

    /// The key as documented.
    fn documented(&self, key: &str) -> String {
        if self.kind.is_empty() { key.to_owned() } else { format!("{}.{key}", self.kind) }
    }

    /// The key as written, if it was. Asking makes it known.
    pub(super) fn entry(&self, key: &'static str) -> Option<&'a Entry> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        self.table.and_then(|table| table.find(key))
    }

    fn known(&self, key: &'static str) {
        self.reader.known.borrow_mut().insert(self.documented(key));
    }

    /// Reports what is wrong with a key's value.
    fn report(&self, key: &str, faults: Vec<Fault>) {
        for fault in faults {
            self.reader.error(format!("{}: {}", self.label(key), fault.message), &fault.origin);
        }
    }

    /// A key with a default.
    pub(super) fn get<T: Value>(&self, key: &'static str, default: T) -> Read<T> {
        self.get_if(key, default, |_| Ok(()))
    }

    /// A key with a default, and a condition on its value (which the default fulfils).
    pub(super) fn get_if<T: Value>(
        &self,
        key: &'static str,
        default: T,
        condition: impl FnOnce(&T) -> Result<(), String>,
    ) -> Read<T> {
        self.known(key);
        let Some(entry) = self.entry(key) else {
            self.show(key, &default, &Origin::Default);
            return Read { value: default, origin: Origin::Default, broken: false };
        };
        match self.checked(key, &entry.value, condition) {
            Some(value) => {
                self.show(key, &value, &entry.value.origin);
                Read { value, origin: entry.value.origin.clone(), broken: false }
            }
            None => Read { value: default, origin: entry.value.origin.clone(), broken: true },
        }
    }

    /// A key that may be left out. Broken counts as left out; it has been reported.
    pub(super) fn optional<T: Value>(
        &self,
        key: &'static str,
        condition: impl FnOnce(&T) -> Result<(), String>,
    ) -> Option<Spot<T>> {
        self.known(key);
        let entry = self.entry(key)?;
        let value = self.checked(key, &entry.value, condition)?;
        self.show(key, &value, &entry.value.origin);
        Some(Spot { value, origin: entry.value.origin.clone() })
    }

    /// A key that must be there.
    pub(super) fn required<T: Value>(
        &self,
        key: &'static str,
        condition: impl FnOnce(&T) -> Result<(), String>,
    ) -> Option<Spot<T>> {
        if self.entry(key).is_none() {
            self.known(key);
            self.reader.error(format!("{} is missing", self.label(key)), &self.origin);
        }
        self.optional(key, condition)
    }

    fn checked<T: Value>(
        &self,
        key: &'static str,
        node: &Node,
        condition: impl FnOnce(&T) -> Result<(), String>,
    ) -> Option<T> {
        let read = T::read(node).and_then(|value| {
            condition(&value).map(|()| value).map_err(|message| vec![Fault::new(message, node)])
        });
        read.map_err(|faults| self.report(key, faults)).ok()
    }

    /// Shows a value that was made from something else, or is not one that has a [`Value`].
    /// Warns of a key that somebody wrote and that does nothing, `why`: beside or without what.
    pub(super) fn warn_of_idle<T>(&self, key: &str, read: &Read<T>, why: &str) {
        if read.given() {
            self.reader.warn(format!("{}: says nothing {why}", self.label(key)), &read.origin);
        }
    }

    pub(super) fn show(&self, key: &str, value: &impl Value, origin: &Origin) {
        self.show_text(key, value.show(), origin);
    }

    /// Shows ready TOML.
    pub(super) fn show_text(&self, key: &str, value: String, origin: &Origin) {
        self.reader.show(self.label(key), value, origin);
    }

    /// A path, resolved. The default is one already.
    pub(super) fn path(&self, key: &'static str, default: &Path) -> Read<PathBuf> {
        self.known(key);
        let not_empty = |text: &String| {
            if text.is_empty() || text.contains('\0') { Err("is no path".to_owned()) } else { Ok(()) }
        };
        let entry = self.entry(key);
        let text = entry.and_then(|entry| self.checked::<String>(key, &entry.value, not_empty));
        let origin = entry.map_or(Origin::Default, |entry| entry.value.origin.clone());
        let broken = entry.is_some() && text.is_none();
        let value = text.map_or_else(|| default.to_owned(), |text| self.reader.resolve(&text, &origin));
        self.show(key, &value.to_string_lossy().into_owned(), &origin);
        Read { value, origin, broken }
    }

    /// A path that may be left out, as `""` does, too. Broken counts as left out; it has been reported.
    pub(super) fn optional_path(&self, key: &'static str) -> Option<Spot<PathBuf>> {
        let entry = self.entry(key);
        if entry.is_none_or(|entry| entry.value.as_text() == Some("")) {
            self.known(key);
            let origin = entry.map_or(Origin::Default, |entry| entry.value.origin.clone());
            self.show(key, &String::new(), &origin);
            return None;
        }
        let Read { value, origin, broken } = self.path(key, Path::new(""));
        (!broken).then_some(Spot { value, origin })
    }

    /// A path that must be there.
    pub(super) fn required_path(&self, key: &'static str) -> Option<Spot<PathBuf>> {
        if self.entry(key).is_none() {
            self.known(key);
            self.reader.error(format!("{} is missing", self.label(key)), &self.origin);
            return None;
        }
        let Read { value, origin, broken } = self.path(key, Path::new(""));
        (!broken).then_some(Spot { value, origin })
    }

    /// Makes a key known that this section reads by hand.
    pub(super) fn by_hand(&self, key: &'static str) -> Option<&'a Entry> {
        self.known(key);
        self.entry(key)
    }

    /// A table in this one; an empty one when it is not there.
    pub(super) fn table(&self, key: &'static str, kind: &'static str) -> Section<'a> {
        let path = self.label(key);
        let Some(entry) = self.entry(key) else {
            return self.reader.section(kind, path, None, Origin::Default);
        };
        let Kind::Table(table) = &entry.value.kind else {
            self.wrong_table(key, &entry.value, "a table");
            return self.reader.section(kind, path, None, Origin::Default);
        };
        self.reader.section(kind, path, Some(table), entry.key_origin.clone())
    }

    /// A table that has no default. Broken counts as left out; it has been reported.
    pub(super) fn optional_table(&self, key: &'static str, kind: &'static str) -> Option<Section<'a>> {
        self.entry(key)?;
        let section = self.table(key, kind);
        section.table.is_some().then_some(section)
    }

    /// The tables of an array of tables, as `name[0]`, `name[1]`, …
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        self.tables_as(key, key)
    }

    /// The same within a table; `kind` is the whole key.
    pub(super) fn tables_as(&self, key: &'static str, kind: &'static str) -> Vec<Section<'a>> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let Kind::Array(items) = &entry.value.kind else {
            self.wrong_table(key, &entry.value, &format!("an array of tables ([[{kind}]])"));
            return Vec::new();
        };
        let path = self.label(key);
        let open = |(index, item): (usize, &'a Node)| {
            let Kind::Table(table) = &item.kind else {
                self.wrong_table(key, item, "a table");
                return None;
            };
            Some(self.reader.section(kind, format!("{path}[{index}]"), Some(table), item.origin.clone()))
        };
        items.iter().enumerate().filter_map(open).collect()
    }

    fn wrong_table(&self, key: &str, node: &Node, expected: &str) {
        let message = format!("{}: expected {expected}, found {}", self.label(key), node.type_name());
        self.reader.error(message, &node.origin);
    }

    /// Every entry of a table whose keys are not fixed.
    pub(super) fn entries(&self) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.table.map_or(&[][..], |table| table.entries.as_slice()).iter()
    }

    /// From now on shown under another path.
    pub(super) fn rename(&mut self, path: String) {
        self.path = path;
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        for entry in self.table.into_iter().flat_map(|table| &table.entries) {
            if asked.contains(&entry.key.as_str()) {
                continue;
            }
            let suggestion = nearest(&entry.key, asked.iter().copied());
            let suggestion =
                suggestion.map_or(String::new(), |key| format!(", did you mean {}?", quote(key)));
            let mut table = String::new();
            if !self.kind.is_empty() {
                let array = if matches!(
                    self.kind,
                    "upstream" | "route" | "test" | "legacy_token" | "server.tls.certificates"
                ) {
                    ("[[", "]]")
                } else {
                    ("[", "]")
                };
                table = format!(" in {}{}{}", array.0, self.kind, array.1);
            }
            let message = format!("unknown key {}{table}{suggestion}", quote(&entry.key));
            self.reader.error(message, &entry.key_origin);
        }
    }
}

fn bare_or_quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { quote(key) }
}
