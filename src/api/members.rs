//! The members of a request, whatever they came in: JSON, a form, or multipart. Endpoints take the
//! ones they know, and everything that is wrong is told at once.

use std::borrow::Cow;
use std::collections::HashSet;

use super::error::invalid_input;
use super::json::Value;
use crate::message::reply::{FieldError, Problem};
use crate::secret::Secret;

/// Wrong members that an answer names; a body can hold thousands.
const MOST_ERRORS: usize = 32;

/// Where members came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Json,
    Form,
}

/// What becomes of members that an endpoint does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unknown {
    /// An error in JSON: who sends `roles` to register must not believe that they were granted. Forms
    /// carry all kinds of extra fields (`confirm_password`), so there they are ignored.
    Refused,
    /// No matter.
    Ignored,
}

/// Members that have not been taken yet, and what was wrong so far.
pub(super) struct Members {
    source: Source,
    left: Vec<(String, Value)>,
    errors: Vec<FieldError>,
}

impl Members {
    pub(super) fn json(members: Vec<(String, Value)>) -> Self {
        Self { source: Source::Json, left: members, errors: Vec::new() }
    }

    /// Members of a form. One that comes twice is an error: which one counts? A set finds it, since a
    /// body has room for tens of thousands of names, and comparing each with each is a way to stop a
    /// worker.
    pub(super) fn form(fields: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut members = Self { source: Source::Form, left: Vec::new(), errors: Vec::new() };
        let mut seen = HashSet::new();
        for (name, text) in fields {
            if seen.insert(name.clone()) {
                members.left.push((name, Value::Text(text)));
            } else {
                members.refuse(name, "repeated", "comes twice");
            }
        }
        members
    }

    /// A text that may be absent or, in JSON, null. Not empty; except that a form's blank field is
    /// how browsers say that nothing was filled in.
    pub(super) fn optional(&mut self, name: &'static str) -> Option<String> {
        self.nullable(name).flatten()
    }

    /// A text that may be absent, or null: `Some(None)`.
    #[expect(clippy::option_option, reason = "absent, removed and set are three things")]
    pub(super) fn nullable(&mut self, name: &'static str) -> Option<Option<String>> {
        match self.take(name)? {
            Value::Null => Some(None),
            Value::Text(text) if text.is_empty() && self.source == Source::Form => None,
            Value::Text(text) if text.is_empty() => {
                self.refuse(name, "empty", "must not be empty");
                None
            }
            Value::Text(text) => Some(Some(text)),
            Value::Object(_) | Value::Other => {
                self.refuse(name, "wrong_type", "must be a string");
                None
            }
        }
    }

    /// A text that must be there and not empty.
    pub(super) fn required(&mut self, name: &'static str) -> String {
        let before = self.errors.len();
        let text = self.optional(name);
        if text.is_none() && self.errors.len() == before {
            self.refuse(name, "missing", "is needed");
        }
        text.unwrap_or_default()
    }

    /// A password: as [`Members::required`], and wiped when it is dropped.
    pub(super) fn password(&mut self, name: &'static str) -> Secret<String> {
        Secret::new(self.required(name))
    }

    /// A text that must be there; an empty one is a text like any other, to be found wrong later.
    pub(super) fn any_text(&mut self, name: &'static str) -> Option<String> {
        match self.take(name)? {
            Value::Text(text) => Some(text),
            Value::Null => None,
            Value::Object(_) | Value::Other => {
                self.refuse(name, "wrong_type", "must be a string");
                None
            }
        }
    }

    /// Notes what is wrong with a member; the first few are told.
    pub(super) fn refuse(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        code: &'static str,
        why: &'static str,
    ) {
        if self.errors.len() >= MOST_ERRORS {
            return;
        }
        // A name is the client's text; a hostile one need not be repeated at length.
        let name = match name.into() {
            Cow::Owned(name) => name.chars().filter(|c| !c.is_control()).take(64).collect::<String>().into(),
            Cow::Borrowed(own) => Cow::Borrowed(own),
        };
        self.errors.push(FieldError { field: name, code, message: why.into() });
    }

    /// All that was wrong, if anything was.
    pub(super) fn finish(mut self, unknown: Unknown) -> Result<(), Problem> {
        if unknown == Unknown::Refused && self.source == Source::Json {
            for (name, _) in std::mem::take(&mut self.left) {
                self.refuse(name, "unknown", "is not known here");
            }
        }
        if self.errors.is_empty() { Ok(()) } else { Err(invalid_input(self.errors)) }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.left.iter().position(|(member, _)| member == name)?;
        Some(self.left.swap_remove(index).1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_form_of_very_many_names_costs_what_its_length_does() {
        let names = (0..200_000).map(|n| (format!("{n}"), String::new()));
        let started = Instant::now();
        let members = Members::form(names);
        // Compared each with each these are twenty thousand million comparisons.
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(members.left.len(), 200_000);
    }

    #[test]
    fn few_errors_are_told_and_names_only_in_part() {
        let long = format!("{}\n", "x".repeat(1000));
        let mut fields = vec![(long.clone(), String::new()); 2];
        fields.extend(
            (0..100).flat_map(|n| [(format!("{n}"), String::new()), (format!("{n}"), String::new())]),
        );
        let problem = Members::form(fields).finish(Unknown::Ignored).expect_err("names come twice");
        assert_eq!(problem.errors.len(), MOST_ERRORS);
        assert_eq!(problem.errors[0].field, "x".repeat(64));
        assert_eq!(problem.errors[0].code, "repeated");
    }
}
