//! No file, however broken, makes the reader panic; and a position is always inside the file.

use std::fmt::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::super::origin::SourceFile;
use super::super::{Place, Sources, read};

const REFERENCE: &str = include_str!("../../../config.toml");

/// Reads and prints; returns nothing, since not panicking is all that is asked.
fn survive(text: &str, sources: &Sources) {
    let mut source = SourceFile::new(PathBuf::from("config.toml"), text.to_owned());
    let problems = match read(&mut source, sources) {
        Ok(read) => read.warnings,
        Err(problems) => {
            assert!(problems.errors() > 0, "refused without an error: {text:?}");
            problems.iter().cloned().collect()
        }
    };
    let lines = text.lines().count().max(1);
    for problem in problems {
        let printed = problem.to_string();
        assert!(printed.starts_with("error: ") || printed.starts_with("warning: "));
        let _ = serde_json::to_string(&problem).expect("JSON");
        if let Place::File { line, column, .. } = problem.place {
            assert!(line >= 1 && line <= lines + 1 && column >= 1, "{printed}");
        }
    }
}

/// A value of any type, in any place.
fn value() -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|value| value.to_string()),
        Just("1.5".to_owned()),
        Just("2020-01-01".to_owned()),
        "[ -~]{0,12}".prop_map(|text| format!("{text:?}")),
        "[0-9]{1,20}(ms|s|m|h|d|KiB|B|/h)?".prop_map(|text| format!("{text:?}")),
        "(http://|unix:|/)?[a-z0-9:./\\[\\]@{}*-]{0,12}".prop_map(|text| format!("{text:?}")),
        Just("\"ä€\u{1F600}\"".to_owned()),
    ];
    plain.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            inner.prop_map(|value| format!("{{ name = {value} }}")),
        ]
    })
}

/// Lines of the reference that set something, commented or not.
fn assignments() -> Vec<usize> {
    let sets = |line: &str| line.trim_start_matches('#').split_once(" = ").is_some();
    REFERENCE.lines().enumerate().filter(|(_, line)| sets(line)).map(|(index, _)| index).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}") {
        survive(&text, &Sources::default());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survive(&String::from_utf8_lossy(&bytes), &Sources::default());
    }

    #[test]
    fn a_damaged_reference_never_panics(
        at in any::<prop::sample::Index>(),
        length in 0_usize..40,
        put in "[\\[\\]{}\"'=,.#\\n a-z0-9ä]{0,6}",
    ) {
        let chars: Vec<char> = REFERENCE.chars().collect();
        let from = at.index(chars.len());
        let until = (from + length).min(chars.len());
        let text: String = chars[..from].iter().copied().chain(put.chars()).chain(chars[until..].iter().copied()).collect();
        survive(&text, &Sources::default());
    }

    #[test]
    fn any_value_for_any_key_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), value()), 1..6)
    ) {
        let mut lines: Vec<String> = REFERENCE.lines().map(str::to_owned).collect();
        let places = assignments();
        for (index, value) in changes {
            let line = &mut lines[places[index.index(places.len())]];
            let key = line.trim_start_matches('#').split(" = ").next().unwrap_or_default().trim().to_owned();
            *line = format!("{key} = {value}");
        }
        survive(&lines.join("\n"), &Sources::default());
    }

    #[test]
    fn any_variable_and_argument_never_panics(
        name in "GATEPOST__[A-Z_]{0,30}",
        section in "(SERVER|UPSTREAM|ROUTE|TOKENS|AUTH)__[A-Z_]{0,20}",
        argument in "[ -~]{0,40}",
        value in value(),
    ) {
        let env = vec![(name, value.clone()), (format!("GATEPOST__{section}"), value.clone())];
        let set = vec![argument.clone(), format!("{argument}={value}")];
        survive(REFERENCE, &Sources { file: None, env, set });
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for text in [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("a{} = 1", ".a".repeat(10_000)),
        format!("[a{}]", ".a".repeat(10_000)),
    ] {
        survive(&text, &Sources::default());
    }
    let set = vec![format!("server.listen={}", "[".repeat(100_000)), format!("a{}=1", ".a".repeat(10_000))];
    survive("", &Sources { set, ..Sources::default() });
}

#[test]
fn ten_thousand_routes_are_read() {
    let mut text = String::from("[[upstream]]\nname = \"app\"\nservers = [\"http://a:1\"]\n");
    for index in 0..10_000 {
        let _ = write!(text, "[[route]]\npath = \"/r{index}/{{id}}/**\"\nroles = [\"admin\"]\n");
    }
    survive(&text, &Sources::default());
}
