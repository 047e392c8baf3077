//! What the configuration promises, from the outside: text in, settings or problems out.

mod bad;

mod good;
mod overlaid;
mod properties;
mod reference;
mod secret;
mod warned;

use std::path::PathBuf;

use super::origin::SourceFile;
use super::{Problems, ReadAll, Sources, read};

/// An upstream and a route, so that nothing else is missing.
const REST: &str =
    "[[upstream]]\nname = \"app\"\nservers = [\"http://127.0.0.1:5000\"]\n[[route]]\npath = \"/**\"\n";

/// Reads a text as `config.toml`.
fn read_text(text: &str) -> Result<ReadAll, Problems> {
    read_with(text, &Sources::default())
}

fn read_with(text: &str, sources: &Sources) -> Result<ReadAll, Problems> {
    let mut source = SourceFile::new(PathBuf::from("config.toml"), text.to_owned());
    read(&mut source, sources)
}

/// What is wrong with a text, as people see it.
fn problems(text: &str) -> String {
    match read_text(text) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}

/// `line:column: message` of each error and warning, for what needs no picture.
fn brief(problems: &Problems) -> Vec<String> {
    let line = |problem: &super::Problem| {
        let place = problem.place.to_string();
        let place = place.strip_prefix("config.toml:").unwrap_or(&place);
        format!("{place}: {}", problem.message)
    };
    problems.iter().filter(|problem| problem.severity == super::Severity::Error).map(line).collect()
}

fn shown(read: &ReadAll, key: &str) -> Option<(String, String)> {
    read.shown.iter().find(|value| value.key == key).map(|value| (value.value.clone(), value.origin.clone()))
}
