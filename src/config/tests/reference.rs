//! The shipped `config.toml` is the reference: it loads, it knows every key, and it does not lie.

use std::collections::BTreeSet;

use super::super::Sources;
use super::{read_text, read_with};

const REFERENCE: &str = include_str!("../../../config.toml");

/// A line that starts with `#` and no space shows a default.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    REFERENCE.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Every key that occurs, commented or not, with the table it stands in.
fn keys() -> BTreeSet<String> {
    let mut table = String::new();
    let mut found = BTreeSet::new();
    for line in REFERENCE.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if line.starts_with('[') && line.ends_with(']') {
            table = line.trim_matches(['[', ']']).to_owned();
            found.insert(table.clone());
            continue;
        }
        // Prose names keys as "key = value" or, for tests, as "key: what it is".
        let key = line.split([' ', ':', '=']).next().unwrap_or_default();
        let separator = line[key.len()..].trim_start().starts_with(['=', ':']);
        if separator && !table.is_empty() {
            found.insert(format!("{table}.{key}"));
            // `health = { path = "/healthz", interval = "5s" }`
            let inner = line.split_once('{').map_or("", |(_, inner)| inner);
            let names = inner.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.trim());
            found.extend(names.map(|name| format!("{table}.{key}.{name}")));
        }
    }
    found
}

#[test]
fn the_shipped_file_loads() {
    let read = read_text(REFERENCE).unwrap_or_else(|problems| panic!("{problems}"));
    let warnings: Vec<_> = read.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warnings, ["anybody can register, and every account passes the route \"/**\""]);
    assert!(!read.settings.routes.is_empty() && !read.settings.tests.is_empty());
}

/// With a file that is there: the repository's own will do for a secret.
const EVENTS: &str =
    r#"events={ url = "http://127.0.0.1:5000/gatepost-events", secret_file = "ARCHITECTURE.md" }"#;

/// Tables that have no default, with what they need.
fn with_optional_tables() -> Sources {
    let set = [
        r#"server.tls.certificates=[{ cert = "fullchain.pem", key = "key.pem" }]"#,
        r#"server.tls.acme={ domains = ["app.example.com"], agree_to_terms = true }"#,
        r#"upstream.app.health={ path = "/healthz" }"#,
        r#"auth.admission_url="http://127.0.0.1:5000/may-register""#,
        r#"auth.migrate={ url = "http://127.0.0.1:5000/login", until = "2027-03-31" }"#,
        EVENTS,
    ];
    Sources { set: set.map(str::to_owned).to_vec(), ..Sources::default() }
}

/// The examples of these tables: whole blocks, commented out.
fn examples() -> String {
    let mut found = String::new();
    let mut inside = false;
    for line in REFERENCE.lines() {
        inside = match line {
            "# [server.tls]" | "# [server.tls.acme]" | "# [auth.migrate]" => true,
            "#" | "" => false,
            _ => inside || line.starts_with("# health = "),
        };
        if inside {
            let line = line.trim_start_matches("# ");
            let line =
                if line.starts_with("health") { format!("upstream.app.{line}") } else { line.to_owned() };
            found.push_str(&line);
            found.push('\n');
        }
        inside &= !line.starts_with("# health = ");
    }
    found
}

#[test]
fn the_shipped_examples_show_the_defaults() {
    let there = examples();
    let (health, tls): (Vec<&str>, Vec<&str>) = there.lines().partition(|line| line.contains(".health = "));
    assert!(health.len() == 1 && tls.len() > 10, "{there}");
    let health = health[0].replace("upstream.app.health = ", "upstream.app.health=");
    let admission = r#"auth.admission_url="http://127.0.0.1:5000/may-register""#;
    let sources =
        Sources { set: vec![health, admission.to_owned(), EVENTS.to_owned()], ..Sources::default() };
    // As the shipped file, with the tables in place of their comments.
    let text = REFERENCE.replacen("[server.limits]", &format!("{}\n[server.limits]", tls.join("\n")), 1);
    let written = read_with(&text, &sources).unwrap_or_else(|problems| panic!("{problems}"));
    let least = read_with(REFERENCE, &with_optional_tables()).unwrap_or_else(|problems| panic!("{problems}"));
    let values = |read: &super::ReadAll| -> Vec<String> {
        read.shown.iter().map(|shown| format!("{} = {}", shown.key, shown.value)).collect()
    };
    assert_eq!(values(&written), values(&least));
    let written = written.shown.iter().filter(|shown| {
        let tables = ["server.tls", "upstream.app.health", "auth.migrate"];
        tables.iter().any(|table| shown.key.starts_with(table)) && shown.default
    });
    assert_eq!(written.count(), 0, "every key of these tables is in the example");
}

#[test]
fn the_shipped_file_names_every_key_that_is_read() {
    let read = read_with(REFERENCE, &with_optional_tables()).unwrap_or_else(|problems| panic!("{problems}"));
    let there = keys();
    assert!(read.known.len() > 125, "{}", read.known.len());
    let missing: Vec<_> = read.known.iter().filter(|key| !there.contains(*key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_shipped_file_names_no_key_that_is_not_read() {
    let read = read_with(&uncommented(), &Sources::default());
    let read = read.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(!read.shown.is_empty());
}

#[test]
fn every_commented_default_is_the_default() {
    let as_shipped = read_text(REFERENCE).unwrap_or_else(|problems| panic!("{problems}"));
    let uncommented = read_text(&uncommented()).unwrap_or_else(|problems| panic!("{problems}"));
    let values = |read: &super::ReadAll| -> Vec<String> {
        read.shown.iter().map(|shown| format!("{} = {}", shown.key, shown.value)).collect()
    };
    assert_eq!(values(&as_shipped), values(&uncommented));
    let defaults = uncommented.shown.iter().filter(|shown| shown.default).map(|shown| shown.key.as_str());
    // What cannot be written down: it depends on the machine, or repeats another key.
    let expected: Vec<_> = defaults.filter(|key| !key.starts_with("route[")).collect();
    assert_eq!(expected, ["auth.password.concurrent"]);
}
