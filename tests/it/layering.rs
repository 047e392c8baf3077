//! The direction of the source: which part may know which. The table is the one in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each part and what of ours it may import. Everybody may use `metrics` and `settings`.
const MAY: &[(&str, &[&str])] = &[
    // Data and decisions: no runtime, no files.
    ("identity", &[]),
    ("clock", &[]),
    ("secret", &[]),
    ("metrics", &[]),
    ("route", &[]),
    ("authz", &["identity"]),
    ("settings", &["identity", "route", "authz", "secret"]),
    ("token", &["identity", "clock", "secret"]),
    ("message", &["route", "identity"]),
    // What every connection is made with.
    ("stream", &[]),
    ("deadline", &[]),
    ("burst", &["stream"]),
    ("tls", &[]),
    ("http1", &["message", "clock"]),
    // What goes on after its request was judged.
    ("lease", &["token", "clock"]),
    ("websocket", &["lease"]),
    // Accounts know no HTTP, and requests are judged without a store.
    ("store", &["identity", "token", "clock", "secret"]),
    ("acme", &["tls", "store", "clock"]),
    ("account", &["store", "token", "identity", "clock", "secret"]),
    // The app is asked and told from here; accounts know no HTTP.
    ("outbound", &["account", "store", "identity", "clock", "secret"]),
    ("authn", &["token", "identity", "clock"]),
    ("ops", &["message", "clock"]),
    // The canonical path is what is matched and what is sent.
    ("proxy", &["message", "authz", "route", "http1", "stream", "deadline", "burst", "websocket"]),
    ("api", &["account", "authn", "authz", "token", "message", "identity", "clock", "secret"]),
    ("control", &["account", "authn", "token", "store", "identity", "clock", "secret"]),
    (
        "gateway",
        &[
            "route",
            "authn",
            "authz",
            "api",
            "account",
            "proxy",
            "message",
            "identity",
            "ops",
            "token",
            "clock",
            "deadline",
            "burst",
            "lease",
            "websocket",
        ],
    ),
    // Of the proxy only how a body ended and who is at the other side.
    (
        "server",
        &["gateway", "message", "proxy", "http1", "tls", "stream", "deadline", "burst", "lease", "websocket"],
    ),
    // Of messages only which header names are taken.
    ("config", &["identity", "route", "authz", "token", "secret", "message"]),
];

/// The composition root and the command line may know everything.
const ROOTS: &[&str] = &["app", "cli", "main", "lib"];

/// What everybody may use.
const ANYONE: &[&str] = &["metrics", "settings"];

fn sources(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Unit tests may use everything.
fn is_test(path: &Path) -> bool {
    path.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "tests.rs" | "testing.rs")))
}

/// The part that a file belongs to: the first folder or file name below `src`.
fn part(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The code without comments, strings' contents left alone, and without its unit tests.
fn product_code(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.to_owned() + "\n")
        .collect()
}

/// Every part named after `crate::`, also in groups.
fn imports(code: &str) -> BTreeSet<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let after = &code[at + "crate::".len()..];
        let Some(group) = after.strip_prefix('{') else {
            found.insert(name(after));
            continue;
        };
        let mut depth = 1;
        let mut start = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if start && c.is_alphabetic() => {
                    found.insert(name(&group[i..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn every_part_imports_only_what_stands_to_its_right() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let table: BTreeMap<&str, &[&str]> = MAY.iter().copied().collect();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for path in &files {
        let part = part(path, &src);
        seen.insert(part.clone());
        if ROOTS.contains(&part.as_str()) || is_test(path.strip_prefix(&src).unwrap()) {
            continue;
        }
        let Some(may) = table.get(part.as_str()) else {
            wrong.push(format!("{}: the part {part:?} is not in the table", path.display()));
            continue;
        };
        let text = fs::read_to_string(path).unwrap();
        for import in imports(&product_code(&text)) {
            let ours = table.contains_key(import.as_str()) || ROOTS.contains(&import.as_str());
            let allowed =
                import == part || may.contains(&import.as_str()) || ANYONE.contains(&import.as_str());
            if ours && !allowed {
                wrong.push(format!(
                    "{}: {part} may not import {import}",
                    path.strip_prefix(&src).unwrap().display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A table over nothing would hold, too.
    assert!(files.len() > 40, "only {} files were read", files.len());
    for (part, _) in MAY {
        assert!(seen.contains(*part), "no file of {part} was read");
    }
    for root in ROOTS {
        assert!(seen.contains(*root), "no file of {root} was read");
    }
}

#[test]
fn the_reader_finds_imports_in_every_form() {
    let code = "use crate::route::{Host, path::X};\nuse crate::{identity::Role, token, store::{self, record}};\nlet x = crate::clock::now();\npub(crate) use crate::secret::Secret;\n";
    let found: Vec<_> = imports(&product_code(code)).into_iter().collect();
    assert_eq!(found, ["clock", "identity", "route", "secret", "store", "token"]);
    assert!(
        imports(&product_code(
            "// use crate::app::X\nfn a() {}\n\n#[cfg(test)]\nmod tests { use crate::app; }"
        ))
        .is_empty()
    );
}

#[test]
fn the_deciding_parts_know_no_runtime_no_files_and_no_wall_clock() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let pure = ["identity", "secret", "route", "authz", "token"];
    let banned =
        ["tokio::", "hyper::", "std::fs", "std::net::Tcp", "SystemTime::now", "Instant::now", "sled::"];
    let mut read = 0;
    for path in files.iter().filter(|p| pure.contains(&part(p, &src).as_str())) {
        read += 1;
        let code = product_code(&fs::read_to_string(path).unwrap());
        for word in banned {
            assert!(!code.contains(word), "{} uses {word}", path.display());
        }
    }
    assert!(read >= 10, "only {read} files were read");
    // And http stays out of accounts and the store.
    for path in files.iter().filter(|p| ["account", "store"].contains(&part(p, &src).as_str())) {
        let code = product_code(&fs::read_to_string(path).unwrap());
        for word in ["http::", "hyper::"] {
            assert!(!code.contains(word), "{} uses {word}", path.display());
        }
    }
}
