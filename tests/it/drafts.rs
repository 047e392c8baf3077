//! `gatepost init`: what becomes of an app's route table, and of interpreters that do not give one. The real
//! frameworks are asked in tests/peers/drafts.py; here a shell script takes their interpreter's place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::config::Config;
use crate::support::gateway::{Ended, Gateway};

/// A directory with an interpreter; it is called with a flag, a script, the app and the marker.
struct App {
    place: Gateway,
    interpreter: PathBuf,
}

impl App {
    fn new(script: &str) -> Self {
        let place = Gateway::prepare(&Config::new());
        let interpreter = place.home().join("interpreter");
        fs::write(&interpreter, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o700)).unwrap();
        Self { place, interpreter }
    }

    /// Prints this table.
    fn table(table: &serde_json::Value) -> Self {
        let app = Self::new("echo noise; echo \"$4\" not a table; printf '%s' \"$4\"; cat \"$0.json\"");
        fs::write(app.interpreter.with_file_name("interpreter.json"), table.to_string() + "\n").unwrap();
        app
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.home().join(name)
    }

    fn init(&self, from: &str, output: &str) -> Ended {
        let output = self.path(output);
        let (output, interpreter) = (output.to_str().unwrap(), self.interpreter.to_str().unwrap());
        self.place.cli(&["init", "--from", from, "--output", output, "--interpreter", interpreter])
    }
}

#[test]
fn a_draft_is_written_once_for_its_owner_and_its_tests_pass() {
    let app = App::new("echo noise >&2; echo noise; printf '\\n%s' \"$4\"; cat \"$0.json\"; sleep 1000");
    let table = serde_json::json!({"framework": "Flask 3.1.3", "preflights": false, "remarks": [], "routes": [
        {"path": "/login", "methods": ["POST"], "what": "login"},
        {"path": "/me", "methods": ["GET"], "what": "me", "guard": "authenticated", "why": "jwt_required()"}]});
    fs::write(app.path("interpreter.json"), table.to_string() + "\n").unwrap();

    let said = app.init("flask:shop:app", "draft.toml").exits(0).said();
    assert!(said.contains("2 routes drafted, 1 of them open to anybody"), "{said}");
    assert!(said.contains("3 of its 3 tests pass"), "{said}");
    let text = fs::read_to_string(app.path("draft.toml")).unwrap();
    assert!(text.contains("# GET /me: me, behind jwt_required()\n[[route]]\npath = \"/me\"\n"), "{text}");
    assert_eq!(fs::metadata(app.path("draft.toml")).unwrap().permissions().mode() & 0o777, 0o600);

    let again = app.init("flask:shop:app", "draft.toml").exits(1);
    assert!(again.stderr.contains("never replaces a file"), "{}", again.stderr);
    assert_eq!(fs::read_to_string(app.path("draft.toml")).unwrap(), text);
    // The configuration of the gateway that is there already, which is the default.
    let before = fs::read_to_string(app.place.config()).unwrap();
    app.init("flask:shop:app", "config.toml").exits(1);
    assert_eq!(fs::read_to_string(app.place.config()).unwrap(), before);

    let interpreter = app.interpreter.to_str().unwrap();
    let printed =
        app.place.cli(&["init", "--from", "flask:shop:app", "--output", "-", "--interpreter", interpreter]);
    assert_eq!(printed.exits(0).stdout, text);
}

#[test]
fn what_has_to_be_decided_is_counted_and_closed_until_then() {
    let app = App::new("printf '\\n%s' \"$4\"; cat \"$0.json\"");
    let table = serde_json::json!({"framework": "Flask", "preflights": false, "remarks": [], "routes": [
        {"path": "/fast", "methods": ["GET"], "what": "fast", "guard": "authenticated", "why": "timed",
         "decide": ["what timed asks for is not known"]},
        {"path": "/admin", "methods": ["GET"], "what": "admin", "guard": "authenticated", "roles": ["boss"]}]});
    fs::write(app.path("interpreter.json"), table.to_string() + "\n").unwrap();
    let said = app.init("flask:shop:app", "draft.toml").exits(0).said();
    assert!(said.contains("2 routes drafted, 0 of them open to anybody"), "{said}");
    assert!(said.contains("1 wait for you: look for \"Decide\""), "{said}");
    assert!(said.contains("5 of its 5 tests pass"), "{said}");
    let draft = app.path("draft.toml");
    let draft = draft.to_str().unwrap();
    for (role, verdict) in [("user", "refuse"), ("boss", "pass")] {
        let arguments = ["--config", draft, "explain", "GET", "/admin", "--role", role, "--json"];
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.args(arguments);
        let told = crate::support::gateway::run(command, "").exits(0).json();
        assert_eq!(told["verdict"], verdict, "{role}");
    }
}

#[test]
fn a_file_that_is_there_is_not_replaced_and_the_app_is_not_run() {
    let app = App::new("touch \"$0.ran\"");
    fs::write(app.path("draft.toml"), "mine").unwrap();
    app.init("flask:shop:app", "draft.toml").exits(1);
    assert!(!app.path("interpreter.ran").exists());
    assert_eq!(fs::read_to_string(app.path("draft.toml")).unwrap(), "mine");
}

#[test]
fn an_app_that_gives_no_table_is_named_and_nothing_is_written() {
    for (script, expected) in [
        ("echo 'a \\033[31mred\\033[0m complaint' >&2; exit 3", "the app cannot be loaded"),
        ("printf '%s{\\n' \"$4\"", "its route table cannot be read"),
        ("echo \"{}\"", "the app cannot be loaded"),
        (
            "printf '%s%s\\n' \"$4\" '{\"framework\":\"F\",\"preflights\":false,\"remarks\":[],\"routes\":[]}'",
            "has no routes",
        ),
    ] {
        let app = App::new(script);
        let ended = app.init("flask:shop:app", "draft.toml").exits(1);
        assert!(ended.stderr.contains(expected), "{script}: {}", ended.stderr);
        assert!(!ended.stderr.contains('\u{1b}'), "{script}: {}", ended.stderr);
        assert!(!app.path("draft.toml").exists(), "{script}");
    }
    let app = App::new("true");
    let missing = app.place.cli(&[
        "init",
        "--from",
        "flask:a:b",
        "--output",
        "x.toml",
        "--interpreter",
        "/nowhere/python",
    ]);
    assert!(missing.exits(1).stderr.contains("cannot run /nowhere/python"));
    let ended = app.init("express:nowhere.js", "draft.toml").exits(1);
    assert!(ended.stderr.contains("nowhere.js: there is no such file"), "{}", ended.stderr);
    assert!(ended.stderr.contains("as in express:src/server.js"), "{}", ended.stderr);
    let usage = app.place.cli(&["init", "--from", "django:shop", "--output", "x.toml"]).exits(2);
    assert!(usage.stderr.contains("expected flask:MODULE:APP or express:FILE"), "{}", usage.stderr);
}

#[test]
fn an_apps_own_word_for_what_is_wrong_is_said_and_does_nothing_to_a_terminal() {
    let app =
        App::new("echo noise >&2; printf '%s!\"there is no module shop;\\\\u001b[31m call init\"\\n' \"$4\"");
    let ended = app.init("flask:shop:app", "draft.toml").exits(1);
    let expected = "gatepost: flask:shop:app: there is no module shop;";
    assert!(ended.stderr.starts_with(expected) && ended.stderr.contains("call init"), "{}", ended.stderr);
    assert!(!ended.stderr.contains('\u{1b}') && !ended.stderr.contains("noise"), "{}", ended.stderr);
    assert!(!app.path("draft.toml").exists());
}

#[test]
fn an_interpreter_that_cannot_be_run_is_named_with_what_to_do() {
    let app = App::new("true");
    fs::write(app.path("app.js"), "").unwrap();
    fs::write(app.path("plain"), "").unwrap();
    let nowhere = app.place.home().join("empty").display().to_string();
    for (from, program, why, example) in [
        ("flask:shop:app", None, "cannot run python3: there is no such program in PATH", "venv/bin/python"),
        ("express:app.js", None, "cannot run node: there is no such program in PATH", "/usr/local/bin/node"),
        ("flask:shop:app", Some("./no/python"), "./no/python: there is no such file", "venv/bin/python"),
        ("flask:shop:app", Some("./plain"), "cannot run ./plain: it is not executable", "venv/bin/python"),
    ] {
        let mut arguments = vec!["init", "--from", from, "--output", "draft.toml"];
        arguments.extend(program.into_iter().flat_map(|program| ["--interpreter", program]));
        let ended = app.place.cli_with(&arguments, "", &[("PATH", &nowhere)]).exits(1);
        assert!(ended.stderr.contains(why), "{from}: {}", ended.stderr);
        assert!(ended.stderr.contains(&format!("--interpreter {example}")), "{from}: {}", ended.stderr);
        assert!(!app.path("draft.toml").exists(), "{from}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_said_before_the_app_is_run() {
    let app = App::new("touch \"$0.ran\"");
    let ended = app.init("flask:shop:app", "no/such/draft.toml").exits(1);
    assert!(ended.stderr.contains("there is no folder"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--output"), "{}", ended.stderr);
    assert!(!app.path("interpreter.ran").exists());
}

#[test]
fn only_the_marked_line_is_the_table() {
    let app =
        App::table(&serde_json::json!({"framework": "F", "preflights": false, "remarks": [], "routes": [
        {"path": "/a", "methods": ["GET"], "what": "a", "guard": "authenticated"}]}));
    // A line that starts with the marker by chance is the app's doing, and no table.
    let ended = app.init("flask:shop:app", "draft.toml").exits(1);
    assert!(ended.stderr.contains("cannot be read"), "{}", ended.stderr);
    assert!(!app.path("draft.toml").exists());
}
