//! The documents say what is so: their rules load, their commands and endpoints exist, their links lead
//! somewhere, and every test that SECURITY.md points to is there.
//!
//! README.md's console sessions are run by `.ci/run`, which has the time to build a release.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::support::tls::Authority;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// The fenced blocks of one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    page.split(&open).skip(1).filter_map(|rest| rest.split_once("\n```")).map(|(b, _)| b.to_owned()).collect()
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The lines of a table that follow the heading `## title`.
fn table_rows<'p>(page: &'p str, title: &str) -> Vec<&'p str> {
    let (_, rest) = page.split_once(&format!("## {title}\n")).unwrap_or_else(|| panic!("no chapter {title}"));
    let chapter = rest.split("\n## ").next().unwrap_or_default();
    chapter.lines().filter(|line| line.starts_with('|')).skip(2).collect()
}

fn write_private(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn gatepost(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GATEPOST") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().unwrap()
}

fn check(file: &Path) -> Output {
    gatepost(&["--config", file.to_str().unwrap(), "check"])
}

/// Every file below a folder whose name ends so.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("node_modules") && !path.ends_with(".venv") {
                found.extend(files(&path, end));
            }
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_rules_that_the_readme_shows_load() {
    let shown = blocks(&page("README.md"), "toml");
    assert!(!shown.is_empty(), "the page shows no rules");
    let authority = Authority::new();
    let certificate = authority.issue(&["app.example.com"]);
    for rules in shown {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config.toml");
        // The files that the page names.
        for (name, pem) in [
            ("fullchain.pem", &certificate.cert),
            ("key.pem", &certificate.key),
            ("ca.pem", &authority.pem()),
        ] {
            write_private(&home.path().join(name), pem);
        }
        let app = if rules.contains("[[upstream]]") {
            ""
        } else {
            "[[upstream]]\nname = \"app\"\nservers = [\"http://127.0.0.1:5000\"]\n"
        };
        let text = format!("[roles]\nuser = []\nadmin = []\nauditor = []\n{app}{rules}\n");
        write_private(&file, &text);
        let output = check(&file);
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_configurations_that_ship_load_and_their_tests_hold() {
    let mut shipped = files(&Path::new(ROOT).join("examples"), ".toml");
    assert!(shipped.len() >= 2, "the examples have lost their configurations: {shipped:?}");
    shipped.push(Path::new(ROOT).join("config.toml"));
    for file in shipped {
        // A checkout may leave files writable by a group; the copy is what is judged.
        let home = tempfile::tempdir().unwrap();
        let copy = home.path().join("config.toml");
        fs::copy(&file, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
        // The secret that an app shares is not shipped.
        write_private(&home.path().join("jwt.key"), "ZpX4tq0mWn7Vb2Lr9Kc5Yh8Gd1Jf6Sa3");
        let output = check(&copy);
        let shown =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {shown}", file.display());
    }
}

/// Not an argument, and not the `--` before another program's.
fn is_command(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

#[test]
fn every_command_that_the_readme_names_exists() {
    let readme = page("README.md");
    let rows = table_rows(&readme, "Command line");
    assert!(rows.len() > 5, "the table of commands is gone");
    for row in rows {
        let first = row.split('|').nth(1).unwrap_or_default();
        let mut group = "";
        for words in quoted(first) {
            // "user add", then "list", "show" … of the same group.
            let named: Vec<&str> = words.split(' ').filter(|w| is_command(w)).collect();
            let command = match named[..] {
                [first, second] => {
                    group = first;
                    vec![first, second]
                }
                // Another way to write an argument.
                [] => continue,
                [only] if group.is_empty() => vec![only],
                [only] => vec![group, only],
                _ => panic!("not a command: {words}"),
            };
            let mut arguments = command.clone();
            arguments.push("--help");
            assert!(gatepost(&arguments).status.success(), "no such command: {}", command.join(" "));
        }
    }
}

#[test]
fn every_endpoint_is_in_the_readme() {
    let readme = page("README.md");
    let rows = table_rows(&readme, "What a client calls").join("\n");
    assert!(!gatepost::api::ENDPOINTS.is_empty());
    for spec in gatepost::api::ENDPOINTS {
        let call = if spec.path.is_empty() {
            "`POST` on the prefix".to_owned()
        } else {
            format!("`{} {}`", spec.method, spec.path)
        };
        let with_body = call.replace('`', "") + " ";
        assert!(
            rows.contains(&call) || rows.contains(&with_body) || rows.contains(&call.replace('`', "")),
            "README.md does not name {call}"
        );
    }
}

/// What stands behind a status in the code: `StatusCode::FORBIDDEN, "forbidden"`.
fn codes_in(source: &str) -> impl Iterator<Item = &str> {
    source.split("StatusCode::").skip(1).filter_map(|rest| {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '_').trim_start();
        let code = rest.strip_prefix(',')?.trim_start().strip_prefix('"')?.split('"').next()?;
        code.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some(code)
    })
}

#[test]
fn every_code_of_a_refusal_is_in_the_readme() {
    let readme = page("README.md");
    let (_, refusals) = readme.split_once("### Refusals\n").unwrap();
    let named: BTreeSet<&str> = quoted(refusals.split("\n## ").next().unwrap_or_default()).collect();
    let mut codes = 0;
    for file in files(&Path::new(ROOT).join("src"), ".rs") {
        for code in codes_in(&fs::read_to_string(&file).unwrap()) {
            codes += 1;
            assert!(named.contains(code), "{}: README.md does not list {code}", file.display());
        }
    }
    assert!(codes > 15, "the codes were not found");
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut pages: Vec<PathBuf> = files(&Path::new(ROOT).join("examples"), ".md");
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"] {
        pages.push(Path::new(ROOT).join(name));
    }
    let mut links = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default().split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            assert!(
                page.parent().unwrap().join(target).exists(),
                "{}: {target} is not there",
                page.display()
            );
        }
    }
    assert!(links > 5, "no links were found");
}

#[test]
fn every_test_that_the_security_page_points_to_exists() {
    let security = page("SECURITY.md");
    let rows = table_rows(&security, "What is promised");
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        for file in files(&Path::new(ROOT).join(folder), ".rs") {
            sources += &fs::read_to_string(file).unwrap();
        }
    }
    let named: BTreeSet<&str> =
        rows.iter().flat_map(|row| quoted(row.split('|').nth(2).unwrap_or_default())).collect();
    assert!(named.len() > 10, "the table of promises is gone");
    for test in named {
        if test.contains('/') {
            assert!(Path::new(ROOT).join(test).exists(), "SECURITY.md points to {test}, which is not there");
            continue;
        }
        assert!(sources.contains(&format!("fn {test}(")), "SECURITY.md points to {test}, which is no test");
    }
}
