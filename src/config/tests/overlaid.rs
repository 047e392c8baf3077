//! The environment and `--set` over the file.

use std::path::PathBuf;

use super::super::{Sources, load};
use super::{REST, brief, read_with, shown};

fn sources(env: &[(&str, &str)], set: &[&str]) -> Sources {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Sources {
        file: None,
        env: env.iter().map(pair).collect(),
        set: set.iter().map(|argument| (*argument).to_owned()).collect(),
    }
}

#[test]
fn an_argument_wins_over_a_variable_over_the_file_over_the_default() {
    let file = format!("[server]\nworkers = 2\n{REST}");
    let env = ("GATEPOST__SERVER__WORKERS", "3");
    for (env, set, workers, origin) in [
        (&[][..], &[][..], "2", "config.toml:2:11"),
        (&[env], &[], "3", "environment variable GATEPOST__SERVER__WORKERS"),
        (&[env], &["server.workers=4"], "4", "--set server.workers"),
        (&[env], &["server.workers=4", "server.workers = 5"], "5", "--set server.workers"),
    ] {
        let read = read_with(&file, &sources(env, set)).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(shown(&read, "server.workers"), Some((workers.to_owned(), origin.to_owned())));
    }
}

#[test]
fn values_are_toml_where_they_can_be() {
    for (argument, key, value) in [
        ("server.listen=0.0.0.0:80", "server.listen", "[\"0.0.0.0:80\"]"),
        ("server.listen=[\"a:1\", \"b:2\"]", "server.listen", "[\"a:1\", \"b:2\"]"),
        ("server.trusted_proxies=", "server.trusted_proxies", "[]"),
        ("tokens.issuer=42", "tokens.issuer", "\"42\""),
        ("tokens.issuer=\"42\"", "tokens.issuer", "\"42\""),
        ("tokens.issuer=true", "tokens.issuer", "\"true\""),
        ("tokens.issuer=a=b", "tokens.issuer", "\"a=b\""),
        ("tokens.access_ttl=5m", "tokens.access_ttl", "\"5m\""),
        ("tokens.claims.uid=sub", "tokens.claims.uid", "\"sub\""),
        ("server.limits={connections = 9}", "server.limits.connections", "9"),
        ("upstream.app.servers=http://b:2", "upstream.app.servers", "[\"http://b:2\"]"),
        ("upstream.app={timeout = \"9s\"}", "upstream.app.timeout", "\"9s\""),
        ("log.decisions=false", "log.decisions", "false"),
        ("roles.auditor=[\"user\"]", "roles.auditor", "[\"user\"]"),
        ("roles.\"a.b\"=[]", "roles.\"a.b\"", "[]"),
    ] {
        let file = format!("[roles]\nuser = []\nadmin = []\n{REST}");
        let read =
            read_with(&file, &sources(&[], &[argument])).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(shown(&read, key).map(|shown| shown.0).as_deref(), Some(value), "{argument}");
    }
}

#[test]
fn a_variable_finds_tables_by_name() {
    let file = "[[upstream]]\nname = \"my-app\"\nservers = [\"http://a:1\"]\n[[route]]\npath = \"/**\"\n";
    let env = [("GATEPOST__UPSTREAM__MY_APP__SERVERS", "[\"http://b:2\"]")];
    let read = read_with(file, &sources(&env, &[])).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(read.settings.upstreams.len(), 1);
    assert_eq!(
        shown(&read, "upstream.my-app.servers").map(|shown| shown.0).as_deref(),
        Some("[\"http://b:2\"]")
    );

    let new = [("GATEPOST__UPSTREAM__APP__SERVERS", "http://b:2"), ("GATEPOST__ROUTE", "[{path = \"/**\"}]")];
    let read = read_with("", &sources(&new, &[])).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(read.settings.upstreams[0].name, "app");
    assert_eq!(read.settings.routes[0].place, "environment variable GATEPOST__ROUTE");
}

#[test]
fn problems_name_the_variable_or_argument() {
    let env = [
        ("GATEPOST__SERVER__LISTNE", "a:1"),
        ("GATEPOST__SOTRE__PATH", "x"),
        ("GATEPOST__SERVER__WORKERS", "many"),
        ("GATEPOST__", "x"),
        ("GATEPOST__ROUTE__ADMIN__PATH", "/x"),
        ("GATEPOST__UPSTREAM__APP", "x"),
        // One underscore: Kubernetes injects these for a service called gatepost.
        ("GATEPOST_PORT", "tcp://10.0.0.1:80"),
        ("GATEPOST_SERVICE_HOST", "10.0.0.1"),
    ];
    let set = ["server.workers", "server..workers=1", "log.level=loud", "\"a=1"];
    let problems = read_with(REST, &sources(&env, &set)).map(drop).expect_err("all wrong");
    assert_eq!(
        brief(&problems),
        [
            "environment variable GATEPOST__: a part of the key is empty",
            "environment variable GATEPOST__ROUTE__ADMIN__PATH: the tables of route have no names; give the whole list, as route = [{…}]",
            "environment variable GATEPOST__UPSTREAM__APP: upstream.app is a table; name one of its keys",
            "environment variable GATEPOST__SERVER__WORKERS: server.workers: expected a whole number, found a string",
            "environment variable GATEPOST__SERVER__LISTNE: unknown key \"listne\" in [server], did you mean \"listen\"?",
            "environment variable GATEPOST__SOTRE__PATH: unknown key \"sotre\", did you mean \"store\"?",
            "--set server.workers: --set takes KEY=VALUE, as in --set server.workers=4",
            "--set server..workers: a part of the key is empty",
            "--set \"a: a quoted key part is not closed",
            "--set log.level: log.level: \"loud\" is none of error, warn, info, debug, trace, off",
        ]
    );
}

#[test]
fn relative_paths_start_at_the_file_or_at_the_working_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.toml");
    std::fs::write(&file, "[store]\npath = \"here\"\n").expect("written");
    let load = |set: &[&str]| {
        let sources = Sources { file: Some(file.clone()), ..sources(&[], set) };
        load(&sources).unwrap_or_else(|problems| panic!("{problems}")).settings
    };
    assert_eq!(load(&[]).store.path, directory.path().join("here"));
    assert_eq!(load(&[]).admin.socket, directory.path().join("here/gatepost.sock"));
    assert_eq!(load(&["store.path=there"]).store.path, PathBuf::from("there"));
    assert_eq!(load(&["store.path=/there"]).admin.socket, PathBuf::from("/there/gatepost.sock"));
    std::fs::write(&file, "").expect("written");
    assert_eq!(load(&[]).store.path, directory.path().join("data"));
}
