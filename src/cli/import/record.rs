//! One line as an account, by the format of the file.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::super::CliError;
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
        let known = FIELDS.iter().find(|known| **known == field);
        let field = *known.ok_or_else(|| format!("no field {field:?}; there are {}", FIELDS.join(", ")))?;
        let (inverted, column) = match column.strip_prefix('!') {
            Some(_) if !is_switch(field) => return Err(format!("{field} has no opposite")),
            Some(column) => (true, column),
            None => (false, column),
        };
        if column.is_empty() {
            return Err(format!("{field}: which column?"));
        }
        Ok(Self { field, column: column.to_owned(), inverted })
    }
}

fn is_switch(field: &str) -> bool {
    matches!(field, "email_verified" | "disabled")
}

/// Makes accounts of lines.
pub(super) struct Reader {
    form: Form,
    map: Vec<Mapping>,
    /// Of CSV, once it was read.
    heading: Option<Vec<String>>,
    unused: BTreeSet<String>,
}

impl Reader {
    pub(super) fn new(form: Form, map: Vec<Mapping>) -> Result<Self, CliError> {
        if form == Form::Htpasswd && !map.is_empty() {
            return Err(CliError::Usage("--map: a password file of htpasswd has no columns".to_owned()));
        }
        let twice = map.iter().enumerate().find(|(n, one)| map.iter().take(*n).any(|b| b.field == one.field));
        if let Some((_, Mapping { field, .. })) = twice {
            return Err(CliError::Usage(format!("--map: {field} is given twice")));
        }
        Ok(Self { form, map, heading: None, unused: BTreeSet::new() })
    }

    /// What the file has and nobody asked for.
    pub(super) fn unused(&self) -> &BTreeSet<String> {
        &self.unused
    }

    /// The account on a line; `None` where there is none to be.
    ///
    /// # Errors
    /// A heading that cannot be used ends the import; the inner error is the line's.
    pub(super) fn read(&mut self, line: &str) -> Result<Option<Result<UserRecord, String>>, CliError> {
        let blank = line.trim().is_empty();
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
        let value: Value =
            serde_json::from_str(line).map_err(|error| format!("not JSON, at column {}", error.column()))?;
        let Value::Object(members) = value else { return Err("no JSON object".to_owned()) };
        self.record(&members)
    }

    fn read_heading(&mut self, line: &str) -> Result<(), CliError> {
        let refused = |why: String| Err(CliError::Failed(format!("the heading of the CSV file: {why}")));
        let heading = match cells(line) {
            Ok(heading) => heading.iter().map(|cell| cell.trim().to_owned()).collect::<Vec<_>>(),
            Err(why) => return refused(why),
        };
        if let Some(lost) = self.map.iter().find(|mapping| !heading.contains(&mapping.column)) {
            return refused(format!("there is no column {:?}", lost.column));
        }
        if let Some((_, twice)) =
            heading.iter().enumerate().find(|(n, cell)| heading.iter().take(*n).any(|b| b == *cell))
        {
            return refused(format!("two columns are called {twice:?}"));
        }
        let has = |field: &str| heading.iter().any(|cell| cell == self.column(field).0);
        if !has("username") && !has("email") {
            return refused("neither username nor email; name the columns with --map".to_owned());
        }
        if !has("password") && !has("password_hash") {
            return refused("neither password_hash nor password; name the columns with --map".to_owned());
        }
        self.heading = Some(heading);
        Ok(())
    }

    fn csv(&mut self, line: &str, heading: &[String]) -> Result<UserRecord, String> {
        let cells = cells(line)?;
        if cells.len() != heading.len() {
            return Err(format!("{} columns where the heading has {}", cells.len(), heading.len()));
        }
        let filled = heading.iter().cloned().zip(cells).filter(|(_, cell)| !cell.is_empty());
        self.record(&filled.map(|(column, cell)| (column, Value::String(cell))).collect())
    }

    /// Where a field stands, and whether it says the opposite.
    fn column<'a>(&'a self, field: &'a str) -> (&'a str, bool) {
        let mapped = self.map.iter().find(|mapping| mapping.field == field);
        mapped.map_or((field, false), |mapping| (&mapping.column, mapping.inverted))
    }

    fn record(&mut self, members: &Map<String, Value>) -> Result<UserRecord, String> {
        let used: Vec<_> = FIELDS.iter().map(|field| self.column(field).0).collect();
        let unused: Vec<_> = members.keys().filter(|name| !used.contains(&name.as_str())).cloned().collect();
        for name in unused {
            if self.unused.len() < NAMED {
                self.unused.insert(name);
            }
        }
        let text = |field: &str| text(field, members.get(self.column(field).0));
        let switch = |field: &str| {
            let (column, inverted) = self.column(field);
            switch(field, members.get(column)).map(|given| given.is_some_and(|is| is != inverted))
        };
        Ok(UserRecord {
            id: text("id")?,
            username: text("username")?,
            email: text("email")?,
            email_verified: switch("email_verified")?,
            name: text("name")?,
            roles: roles(members.get(self.column("roles").0))?,
            password_hash: text("password_hash")?.map(Confidential::from),
            password: text("password")?.map(Confidential::from),
            disabled: switch("disabled")?,
            created_at: text("created_at")?,
            generation: whole("generation", members.get(self.column("generation").0))?,
            origin: origin(text("origin")?)?,
        })
    }
}

fn htpasswd(line: &str) -> Result<UserRecord, String> {
    let (username, hash) = line.split_once(':').ok_or("no colon between a name and a hash")?;
    // What follows another colon is a comment of some servers; no hash has one.
    let hash = hash.split(':').next().unwrap_or_default();
    Ok(UserRecord {
        username: Some(username.to_owned()),
        password_hash: Some(hash.to_owned()).filter(|hash| !hash.is_empty()).map(Confidential::from),
        ..UserRecord::default()
    })
}

/// The cells of one line. A cell with a line break in it is no account's.
fn cells(line: &str) -> Result<Vec<String>, String> {
    if line.bytes().filter(|byte| *byte == b'"').count() % 2 == 1 {
        return Err("a quotation mark that is not closed on the same line".to_owned());
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(line.as_bytes());
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => Ok(record.iter().map(str::to_owned).collect()),
        Ok(false) => Err("nothing on it".to_owned()),
        Err(_) => Err("not CSV".to_owned()),
    }
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
        Some(Value::Number(number)) if matches!(field, "id" | "created_at") => Ok(Some(number.to_string())),
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

fn switch(field: &str, value: Option<&Value>) -> Result<Option<bool>, String> {
    let refused = || Err(format!("{field}: neither true nor false"));
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(is)) => Ok(Some(*is)),
        Some(Value::Number(number)) => match number.as_u64() {
            Some(1) => Ok(Some(true)),
            Some(0) => Ok(Some(false)),
            _ => refused(),
        },
        Some(Value::String(text)) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" => Ok(Some(true)),
            "false" | "f" | "no" | "n" | "0" | "" => Ok(Some(false)),
            _ => refused(),
        },
        Some(_) => refused(),
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
