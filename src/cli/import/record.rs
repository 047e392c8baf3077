//! One line as an account, by the format of the file.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};

use super::super::CliError;
use super::super::output::printable;
use super::lines::Text;
use super::table::cells;
use super::{FIELDS, Form};
use crate::control::command::{Confidential, UserRecord};
use crate::store::Origin;

/// Columns or members without a use that are named; a file may have more.
const NAMED: usize = 32;

/// `--map FIELD=COLUMN`: where a field stands when it is called otherwise.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    field: &'static str,
    column: String,
    /// `FIELD=!COLUMN`: the column says the opposite.
    inverted: bool,
}

impl FromStr for Mapping {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (field, column) =
            text.split_once('=').ok_or("write FIELD=COLUMN, such as username=login".to_owned())?;
        let (field, column) = (field.trim(), column.trim());
        let known = FIELDS.iter().find(|known| **known == field);
        let field = *known.ok_or_else(|| format!("no field {field:?}; there are {}", FIELDS.join(", ")))?;
        let (inverted, column) = match column.strip_prefix('!') {
            Some(_) if !is_switch(field) => return Err(format!("{field} has no opposite")),
            Some(column) => (true, column.trim_start()),
            None => (false, column),
        };
        if column.is_empty() {
            return Err(format!("{field}: which column?"));
        }
        Ok(Self { field, column: column.to_owned(), inverted })
    }
}

/// What stands between two columns of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delimiter(char);

impl Default for Delimiter {
    fn default() -> Self {
        Self(',')
    }
}

impl FromStr for Delimiter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "," | ";" | "|" | "\t" => Ok(Self(text.chars().next().unwrap_or(','))),
            "\\t" | "tab" => Ok(Self('\t')),
            _ => Err("one of , ; | and \\t".to_owned()),
        }
    }
}

impl Delimiter {
    /// As it is written on the command line.
    fn argument(self) -> &'static str {
        match self.0 {
            ';' => "';'",
            '|' => "'|'",
            '\t' => "'\\t'",
            _ => "','",
        }
    }
}

fn is_switch(field: &str) -> bool {
    matches!(field, "email_verified" | "disabled")
}

/// Makes accounts of lines.
pub(super) struct Reader {
    form: Form,
    map: Vec<Mapping>,
    delimiter: Delimiter,
    /// Of CSV, once it was read.
    heading: Option<Vec<String>>,
    /// Whether a line was read.
    begun: bool,
    unused: BTreeSet<String>,
    /// Columns of `--map` that no line has had.
    unseen: BTreeSet<String>,
}

impl Reader {
    pub(super) fn new(form: Form, map: Vec<Mapping>, delimiter: Option<Delimiter>) -> Result<Self, CliError> {
        if form != Form::Csv && delimiter.is_some() {
            return Err(CliError::Usage("--delimiter: only CSV has one".to_owned()));
        }
        if form == Form::Htpasswd && !map.is_empty() {
            return Err(CliError::Usage("--map: a password file of htpasswd has no columns".to_owned()));
        }
        let twice = map.iter().enumerate().find(|(n, one)| map.iter().take(*n).any(|b| b.field == one.field));
        if let Some((_, Mapping { field, .. })) = twice {
            return Err(CliError::Usage(format!("--map: {field} is given twice")));
        }
        let delimiter = delimiter.unwrap_or_default();
        let unseen = map.iter().map(|mapping| mapping.column.clone()).collect();
        Ok(Self { form, map, delimiter, heading: None, begun: false, unused: BTreeSet::new(), unseen })
    }

    /// A column of `--map` that was in no line.
    pub(super) fn unseen(&self) -> Option<&str> {
        self.unseen.first().map(String::as_str).filter(|_| self.begun)
    }

    /// What the file has and nobody asked for.
    pub(super) fn unused(&self) -> &BTreeSet<String> {
        &self.unused
    }

    /// The account on a line; `None` where there is none to be.
    ///
    /// # Errors
    /// A heading that cannot be used ends the import, and so does a file of another form; the inner error is
    /// the line's.
    pub(super) fn read(&mut self, line: Text) -> Result<Option<Result<UserRecord, String>>, CliError> {
        let line = match line {
            Ok(line) => line,
            Err(why) if self.form == Form::Csv && self.heading.is_none() => return Err(no_heading(why)),
            Err(why) => return Ok(Some(Err(why.to_owned()))),
        };
        let line = line.as_str();
        let blank = line.trim().is_empty();
        let first = !blank && !self.begun;
        self.begun |= first;
        if first && self.form == Form::Jsonl && line.trim_start().starts_with('[') {
            let why = "this is a JSON array; each line has to be one object (jq -c '.[]' makes them so)";
            return Err(CliError::Failed(why.to_owned()));
        }
        match self.form {
            _ if blank => Ok(None),
            Form::Htpasswd if line.starts_with('#') => Ok(None),
            Form::Htpasswd => Ok(Some(htpasswd(line))),
            Form::Jsonl => Ok(Some(self.json(line))),
            Form::Csv => match self.heading.take() {
                None => self.read_heading(line).map(|()| None),
                Some(heading) => {
                    let read = self.csv(line, &heading);
                    self.heading = Some(heading);
                    Ok(Some(read))
                }
            },
        }
    }

    fn json(&mut self, line: &str) -> Result<UserRecord, String> {
        // Its own message may quote the line, and with it a hash.
        let read = serde_json::from_str(line).map_err(|error| match error.classify() {
            Category::Data => "no JSON object".to_owned(),
            Category::Eof => {
                "JSON that goes on after the line; one object a line (jq -c makes them so)".to_owned()
            }
            Category::Syntax | Category::Io => format!("not JSON, at column {}", error.column()),
        });
        match read? {
            Members { twice: Some(twice), .. } => Err(format!("two members are called {twice:?}")),
            Members { members, .. } => self.record(&members),
        }
    }

    fn read_heading(&mut self, line: &str) -> Result<(), CliError> {
        let refused = |why: String| Err(no_heading(&why));
        let heading = match cells(line, self.delimiter.0) {
            Ok(heading) => heading.iter().map(|cell| cell.trim().to_owned()).collect::<Vec<_>>(),
            Err(why) => return refused(why.to_owned()),
        };
        if let [only] = heading.as_slice() {
            return refused(Self::one_column(only));
        }
        if let Some(lost) = self.map.iter().find(|mapping| !heading.contains(&mapping.column)) {
            return refused(format!("there is no column {:?}", lost.column));
        }
        let has = |field: &str| heading.iter().any(|cell| self.column(field).0 == Some(cell));
        if !has("username") && !has("email") {
            return refused("neither username nor email; name the columns with --map".to_owned());
        }
        if !has("password") && !has("password_hash") {
            return refused("neither password_hash nor password; name the columns with --map".to_owned());
        }
        if let Some((_, twice)) =
            heading.iter().enumerate().find(|(n, cell)| heading.iter().take(*n).any(|b| b == *cell))
        {
            return refused(format!("two columns are called {twice:?}"));
        }
        self.heading = Some(heading);
        Ok(())
    }

    fn csv(&mut self, line: &str, heading: &[String]) -> Result<UserRecord, String> {
        let cells = cells(line, self.delimiter.0)?;
        if cells.len() != heading.len() {
            return Err(format!("{} columns where the heading has {}", cells.len(), heading.len()));
        }
        let value = |cell: String| if cell.is_empty() { Value::Null } else { Value::String(cell) };
        self.record(&heading.iter().cloned().zip(cells).map(|(column, cell)| (column, value(cell))).collect())
    }

    fn one_column(heading: &str) -> String {
        let candidates = [',', ';', '\t', '|'].map(Delimiter);
        let found = candidates.into_iter().find(|other| heading.contains(other.0));
        let hint = found.map_or_else(
            || {
                "an account has at least a name and a password, and columns are separated by commas"
                    .to_owned()
            },
            |other| format!("say --delimiter {} if that separates columns here", other.argument()),
        );
        let shown: String = heading.chars().take(60).collect();
        format!("it is one column only, {:?}: {hint}", printable(&shown))
    }

    /// Where a field stands, and whether it says the opposite. Nowhere, when what is called like it is another
    /// field: a column `password` may hold hashes.
    fn column<'a>(&'a self, field: &'a str) -> (Option<&'a str>, bool) {
        if let Some(mapping) = self.map.iter().find(|mapping| mapping.field == field) {
            return (Some(&mapping.column), mapping.inverted);
        }
        let is_another = self.map.iter().any(|mapping| mapping.column == field);
        (Some(field).filter(|_| !is_another), false)
    }

    fn is_mapped(&self, field: &str) -> bool {
        self.map.iter().any(|mapping| mapping.field == field)
    }

    fn no_switch(&self, field: &str, value: &Value) -> String {
        let column = self.column(field).0.unwrap_or_default();
        let holds_a_password =
            ["password", "password_hash"].iter().any(|field| self.column(field).0 == Some(column));
        let value = if holds_a_password { "a password".to_owned() } else { plain(value) };
        if column == field {
            return format!("{field}: {value} is neither true nor false");
        }
        format!("{field}: {value} in {:?} is neither true nor false", printable(column))
    }

    fn record(&mut self, members: &Map<String, Value>) -> Result<UserRecord, String> {
        self.unseen.retain(|column| !members.contains_key(column));
        let used: Vec<_> = FIELDS.iter().filter_map(|field| self.column(field).0).collect();
        let says_something = |name: &&String| members.get(*name).is_some_and(|value| !value.is_null());
        let unused = members.keys().filter(|name| !used.contains(&name.as_str()));
        let unused: Vec<_> = unused.filter(says_something).cloned().collect();
        for name in unused {
            if self.unused.len() < NAMED {
                self.unused.insert(name);
            }
        }
        let member = |field: &str| self.column(field).0.and_then(|column| members.get(column));
        let text = |field: &str| text(field, member(field));
        let switch = |field: &str| {
            let (column, inverted) = self.column(field);
            let read = switch(member(field)).map_err(|value| self.no_switch(field, value));
            match read? {
                Some(is) => Ok(is != inverted),
                // Who has named a member knows of nobody without it.
                None if self.is_mapped(field) && member(field).is_none() => {
                    Err(format!("{field}: there is no {:?}", printable(column.unwrap_or_default())))
                }
                // Of who is not said to be active nobody knows that he is.
                None => Ok(inverted && field == "disabled"),
            }
        };
        let filled = |field: &str| text(field).map(|text| text.filter(|text| !text.is_empty()));
        let (password, hash) = (filled("password")?, filled("password_hash")?);
        // Where one could be and is not, there is none; where there is no such place, it was forgotten.
        let has_place = ["password", "password_hash"].into_iter().any(|field| member(field).is_some());
        let hash = hash.or_else(|| (has_place && password.is_none()).then(String::new));
        Ok(UserRecord {
            id: text("id")?,
            username: text("username")?,
            email: text("email")?,
            email_verified: switch("email_verified")?,
            name: text("name")?,
            roles: roles(member("roles"))?,
            password_hash: hash.map(Confidential::from),
            password: password.map(Confidential::from),
            disabled: switch("disabled")?,
            created_at: text("created_at")?,
            generation: whole("generation", member("generation"))?,
            origin: origin(text("origin")?)?,
        })
    }
}

fn no_heading(why: &str) -> CliError {
    CliError::Failed(format!("the heading of the CSV file: {why}"))
}

/// The members of an object, and the first name that is there twice: which of them is meant is anybody's guess.
struct Members {
    members: Map<String, Value>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Members, A::Error> {
                let (mut members, mut twice) = (Map::new(), None);
                while let Some((name, value)) = from.next_entry::<String, Value>()? {
                    if members.contains_key(&name) {
                        twice = twice.or(Some(name));
                    } else {
                        members.insert(name, value);
                    }
                }
                Ok(Members { members, twice })
            }
        }
        from.deserialize_map(Object)
    }
}

fn htpasswd(line: &str) -> Result<UserRecord, String> {
    let (username, hash) = line.split_once(':').ok_or("no colon between a name and a hash")?;
    // What follows another colon is a comment of some servers; no hash has one.
    let hash = hash.split(':').next().unwrap_or_default();
    Ok(UserRecord {
        username: Some(username.to_owned()),
        password_hash: Some(Confidential::from(hash.to_owned())),
        ..UserRecord::default()
    })
}

fn text(field: &str, value: Option<&Value>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        // MongoDB's tools write an id like that.
        Some(Value::Object(members)) if members.len() == 1 => {
            match members.get("$oid").or(members.get("$date")) {
                Some(inner) => text(field, Some(inner)),
                None => Err(format!("{field}: an object where text belongs")),
            }
        }
        Some(Value::Number(number)) if field == "created_at" => Ok(Some(number.to_string())),
        Some(Value::Number(number)) if field == "id" => match number.as_u64() {
            Some(number) => Ok(Some(number.to_string())),
            None => {
                Err(format!("id: {number} is no whole number from nought on; an id of other digits is text"))
            }
        },
        Some(Value::Number(_)) => {
            Err(format!("{field}: a number where text belongs; write it in quotation marks"))
        }
        Some(_) => Err(format!("{field}: not text")),
    }
}

fn whole(field: &str, value: Option<&Value>) -> Result<u64, String> {
    let number = match value {
        None | Some(Value::Null) => Some(0),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    number.ok_or_else(|| format!("{field}: not a whole number"))
}

fn origin(word: Option<String>) -> Result<Option<Origin>, String> {
    let Some(word) = word else { return Ok(None) };
    let known = Origin::ALL.into_iter().find(|origin| origin.word() == word);
    let words = || Origin::ALL.map(Origin::word).join(", ");
    known.map(Some).ok_or_else(|| format!("origin: none of {}", words()))
}

fn switch(value: Option<&Value>) -> Result<Option<bool>, &Value> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(is)) => Ok(Some(*is)),
        Some(Value::Number(number)) if number.as_u64() == Some(1) => Ok(Some(true)),
        Some(Value::Number(number)) if number.as_u64() == Some(0) => Ok(Some(false)),
        Some(given @ Value::String(text)) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" => Ok(Some(true)),
            "false" | "f" | "no" | "n" | "0" => Ok(Some(false)),
            "" => Ok(None),
            _ => Err(given),
        },
        Some(given) => Err(given),
    }
}

/// A value in a message, where it is short and plain: what stands in a wrong column may be a hash.
fn plain(value: &Value) -> String {
    let is_plain =
        |text: &str| text.len() <= 12 && text.chars().all(|c| c.is_alphanumeric() || c == ' ' || c == '-');
    match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) if is_plain(text) => format!("{text:?}"),
        Value::String(_) => "the text there".to_owned(),
        _ => "what is there".to_owned(),
    }
}

/// A list, or text with separators. `-` is the empty list, where an empty cell is the default roles.
fn roles(value: Option<&Value>) -> Result<Option<Vec<String>>, String> {
    let refused = || Err("roles: not a list of names".to_owned());
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text == "-" => Ok(Some(Vec::new())),
        Some(Value::String(text)) => {
            let names = text.split([',', ';', '|', ' ']).filter(|name| !name.is_empty());
            Ok(Some(names.map(str::to_owned).collect()))
        }
        Some(Value::Array(items)) => {
            let names = items.iter().map(|item| item.as_str().map(str::to_owned));
            names.collect::<Option<Vec<_>>>().map_or_else(refused, |names| Ok(Some(names)))
        }
        Some(_) => refused(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_in_a_map_do_not_count() {
        let read = |text: &str| format!("{:?}", text.parse::<Mapping>().expect("a mapping"));
        assert_eq!(read(" username = login "), read("username=login"));
        assert_eq!(read("disabled = ! is active"), read("disabled=!is active"));
        for bad in ["username", "username= ", "disabled=! ", "username=!login", "user=login"] {
            assert!(bad.parse::<Mapping>().is_err(), "{bad}");
        }
    }
}
