//! What is wrong with a configuration, all of it at once, for people and for machines.

use std::fmt;
use std::path::PathBuf;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::origin::Place;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The gateway does not start.
    Error,
    /// The gateway starts; somebody should look.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong; lower case, naming the thing.
    pub message: String,
    /// Where.
    pub place: Place,
    /// Other places that matter, each with what it is.
    pub notes: Vec<(String, Place)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// An error.
    pub fn error(message: impl Into<String>, place: Place) -> Self {
        Self { severity: Severity::Error, message: message.into(), place, notes: Vec::new(), help: None }
    }

    /// A warning.
    pub fn warning(message: impl Into<String>, place: Place) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message, place) }
    }

    /// With another place.
    #[must_use]
    pub fn note(mut self, message: impl Into<String>, place: Place) -> Self {
        self.notes.push((message.into(), place));
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Where to sort it: files by line and column first, then everything else.
    fn order(&self) -> (u8, usize, usize) {
        match &self.place {
            Place::WholeFile(_) => (0, 0, 0),
            Place::File { line, column, .. } => (1, *line, *column),
            Place::Env(_) => (2, 0, 0),
            Place::Set(_) => (3, 0, 0),
            Place::Nowhere => (4, 0, 0),
        }
    }
}

/// `error: …`, the place, the line and a caret, as compilers print it. No final line end.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.message)?;
        show_place(f, &self.place)?;
        for (message, place) in &self.notes {
            write!(f, "\nnote: {message}")?;
            show_place(f, place)?;
        }
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

fn show_place(f: &mut fmt::Formatter<'_>, place: &Place) -> fmt::Result {
    match place {
        Place::Nowhere => Ok(()),
        Place::File { line, excerpt, caret, width, .. } => {
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            write!(f, "\n{gutter}--> {place}\n{gutter} |\n{number} | {excerpt}\n{gutter} | ")?;
            write!(f, "{}{}", " ".repeat(*caret), "^".repeat(*width))
        }
        Place::WholeFile(_) | Place::Env(_) | Place::Set(_) => write!(f, "\n --> {place}"),
    }
}

/// `{severity, message, file, line, column, source, notes, help}`; what is not known is null.
impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Note {
            message: String,
            place: String,
        }
        let (file, line, column): (Option<&PathBuf>, _, _) = match &self.place {
            Place::File { file, line, column, .. } => (Some(file), Some(*line), Some(*column)),
            Place::WholeFile(file) => (Some(file), None, None),
            Place::Env(_) | Place::Set(_) | Place::Nowhere => (None, None, None),
        };
        let source = match &self.place {
            Place::Env(_) | Place::Set(_) => Some(self.place.to_string()),
            Place::File { .. } | Place::WholeFile(_) | Place::Nowhere => None,
        };
        let note =
            |(message, place): &(String, Place)| Note { message: message.clone(), place: place.to_string() };
        let mut out = serializer.serialize_struct("Problem", 8)?;
        out.serialize_field("severity", &self.severity)?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("file", &file.map(|file| file.display().to_string()))?;
        out.serialize_field("line", &line)?;
        out.serialize_field("column", &column)?;
        out.serialize_field("source", &source)?;
        out.serialize_field("notes", &self.notes.iter().map(note).collect::<Vec<_>>())?;
        out.serialize_field("help", &self.help)?;
        out.end()
    }
}

/// Everything that is wrong, in the order of the file; at least one error. Warnings are among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        sort(&mut problems);
        Self(problems)
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.0.iter()
    }

    /// How many are errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|problem| problem.severity == Severity::Error).count()
    }
}

/// In the order of the file; what has no line comes last, in the order it was found.
pub(super) fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(Problem::order);
}

/// All of them, an empty line between two.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
