//! From a route table to a draft that loads, and whose tests pass.

use serde_json::json;

use super::super::check::run_tests;
use super::draft::Draft;
use super::table::{Dialect, Fit, FoundRoute, FoundTable};
use super::{Origin, write_new};
use crate::config::{self, Sources};
use crate::identity::Role;
use crate::settings::Settings;

fn route(value: serde_json::Value) -> FoundRoute {
    serde_json::from_value(value).expect("a route")
}

fn drafted(origin: &str, table: serde_json::Value) -> (String, Settings) {
    let found: FoundTable = serde_json::from_value(table).expect("a table");
    let origin: Origin = origin.parse().expect("an origin");
    let text = Draft::new(&origin, &found).text();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.toml");
    write_new(&file, &text).expect("written");
    let sources = Sources { file: Some(file), ..Sources::default() };
    let loaded = config::load(&sources).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert!(loaded.warnings.is_empty(), "{:?}\n{text}", loaded.warnings);
    let tests = run_tests(&loaded.settings).expect("rules");
    assert!(!tests.is_empty() && tests.iter().all(|test| test.passed), "{text}");
    (text, loaded.settings)
}

/// `path methods access`, for each route.
fn rules(settings: &Settings) -> Vec<String> {
    let rule = |route: &crate::settings::RouteSettings| {
        let rule = &route.rule;
        let access = format!("{:?}", route.policy.access()).to_lowercase();
        format!("{} [{}] {access}", rule.path, rule.methods.allow())
    };
    settings.routes.iter().map(rule).collect()
}

#[test]
fn an_apps_name_says_its_framework() {
    assert_eq!("flask:shop.web:app".parse(), Ok(Origin::Flask("shop.web:app".to_owned())));
    assert_eq!("flask:shop:create_app()".parse(), Ok(Origin::Flask("shop:create_app()".to_owned())));
    assert_eq!("express:src/server.js".parse(), Ok(Origin::Express("src/server.js".into())));
    for bad in ["", "flask", "flask:", "flask::app", "express:", "django:shop:app", "shop:app", "Flask:a:b"] {
        assert!(bad.parse::<Origin>().is_err(), "{bad}");
    }
}

#[test]
fn paths_of_flask_become_patterns() {
    // Path, what its parameters are → pattern, fit.
    let cases = [
        ("/", vec![], "/", Fit::Exact),
        ("/a/b/", vec![], "/a/b", Fit::Exact),
        ("/users/<name>", vec![], "/users/{name}", Fit::Exact),
        ("/users/<int:id>/x", vec!["int"], "/users/{id}/x", Fit::Values),
        ("/static/<path:filename>", vec!["deep"], "/static/**", Fit::Exact),
        ("/<path:a>/end", vec!["deep"], "/**", Fit::Shape),
        ("/files/<name>.json", vec![], "/files/{name}", Fit::Shape),
        ("/<a>-<b>", vec![], "/{a}", Fit::Shape),
        ("/u/<any(x,y):z>", vec!["int"], "/u/{z}", Fit::Values),
        ("/größe/a b/{x}/*", vec![], "/gr%C3%B6%C3%9Fe/a%20b/%7Bx%7D/%2A", Fit::Exact),
        ("/<user_id>/<userid>", vec![], "/{user_id}/{userid}", Fit::Exact),
        ("/<größe>", vec![], "/{gr__e}", Fit::Exact),
    ];
    for (path, kinds, pattern, fit) in cases {
        let names: Vec<&str> = ["filename", "a"].to_vec();
        let deep = if kinds.contains(&"deep") { names.clone() } else { vec![] };
        let plain = if kinds.contains(&"int") { Some(vec!["none"]) } else { None };
        let route = route(json!({"path": path, "what": "w", "deep": deep, "plain": plain}));
        let found = route.paths(Dialect::Flask).unwrap_or_else(|why| panic!("{path}: {why}"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pattern.as_str(), found[0].fit), (pattern, fit), "{path}");
    }
}

#[test]
fn paths_of_express_become_patterns() {
    let cases: [(&str, &[(&str, Fit)]); 15] = [
        ("/", &[("/", Fit::Exact)]),
        ("/users/:id", &[("/users/{id}", Fit::Exact)]),
        (r"/num/:n(\d+)", &[("/num/{n}", Fit::Values)]),
        ("/flights/:from-:to", &[("/flights/{from}", Fit::Shape)]),
        ("/files/*", &[("/files/**", Fit::Exact)]),
        ("/files/*rest", &[("/files/**", Fit::Exact)]),
        ("/files/*rest/end", &[("/files/**", Fit::Shape)]),
        ("/opt/:x?", &[("/opt", Fit::Exact), ("/opt/{x}", Fit::Exact)]),
        ("/opt{/:x}", &[("/opt", Fit::Exact), ("/opt/{x}", Fit::Exact)]),
        ("/opt{/:x{/:y}}", &[("/opt", Fit::Exact), ("/opt/{x}", Fit::Exact), ("/opt/{x}/{y}", Fit::Exact)]),
        ("/ab?cd", &[("/**", Fit::Shape)]),
        ("/a(bc)?d", &[("/**", Fit::Shape)]),
        (r"/a\:b", &[("/a:b", Fit::Exact)]),
        ("/:id/:id", &[("/{id}/{id_}", Fit::Exact)]),
        (r#"/:"my name""#, &[("/{my_name}", Fit::Exact)]),
    ];
    for (path, expected) in cases {
        let found = route(json!({"path": path, "what": "w"})).paths(Dialect::Express);
        let found = found.unwrap_or_else(|why| panic!("{path}: {why}"));
        let mut found: Vec<_> = found.iter().map(|path| (path.pattern.as_str(), path.fit)).collect();
        found.sort_by_key(|(pattern, _)| pattern.len());
        assert_eq!(found, expected, "{path}");
    }
    assert!(route(json!({"path": "/ /x/", "regexp": true, "what": "w"})).paths(Dialect::Express).is_err());
    let many = "/a{/:b}".repeat(8);
    assert!(route(json!({"path": many, "what": "w"})).paths(Dialect::Express).is_err());
}

#[test]
fn what_is_decorated_is_authenticated_and_the_rest_is_open_and_says_so() {
    let (text, settings) = drafted(
        "flask:shop:app",
        json!({"framework": "Flask 3.1.3", "preflights": false, "remarks": ["Look out."], "routes": [
            {"path": "/login", "methods": ["POST"], "what": "login"},
            {"path": "/users/<int:id>", "methods": ["DELETE", "GET"], "what": "user", "guard": "authenticated",
             "why": "jwt_required()", "plain": []},
            {"path": "/feed", "methods": ["GET"], "what": "feed", "guard": "optional", "why": "jwt_required(optional=True)"},
            {"path": "/b", "methods": ["GET"], "what": "b", "note": "its code mentions current_user"},
            {"path": "/static/<path:f>", "methods": ["GET"], "what": "static files", "deep": ["f"]}]}),
    );
    assert_eq!(
        rules(&settings),
        [
            "/login [POST] public",
            "/users/{id} [GET, HEAD, DELETE] authenticated",
            "/feed [GET, HEAD] optional",
            "/b [GET, HEAD] public",
            "/static/** [GET, HEAD] public",
        ]
    );
    for line in [
        "# Look out.",
        "# POST /login: login, open in the app: nothing asks for a caller",
        "# Gatepost has its own: POST /auth/login",
        "# paths = { \"/login\" = \"login\" }",
        "# DELETE, GET /users/<int:id>: user, behind jwt_required()",
        "# GET /b: b, open in the app as far as can be seen; its code mentions current_user",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(settings.tests.len(), 6, "one for each open route, two for the other");
    assert!(!text.contains("preflight"), "{text}");
}

#[test]
fn roles_that_an_app_names_are_asked_for_and_what_is_not_known_waits_closed() {
    let (text, settings) = drafted(
        "flask:shop:app",
        json!({"framework": "Flask 3.1.3", "preflights": false, "remarks": [], "routes": [
            {"path": "/admin", "methods": ["GET"], "what": "a", "guard": "authenticated", "why": "roles_required('admin')",
             "all_roles": ["admin"]},
            {"path": "/admin", "methods": ["POST"], "what": "b", "guard": "authenticated", "roles": ["editor", "admin"]},
            {"path": "/both", "methods": ["GET"], "what": "c", "guard": "authenticated", "roles": ["user"]},
            {"path": "/Both/", "methods": ["GET"], "what": "d", "guard": "authenticated", "roles": ["editor"],
             "all_roles": ["shop:staff"]},
            {"path": "/members", "methods": ["GET"], "what": "e", "guard": "authenticated", "roles": ["user", "x"]},
            {"path": "/odd", "methods": ["GET"], "what": "f", "guard": "authenticated", "roles": ["admin", "Head of sales"]},
            {"path": "/wide/<name>.json", "methods": ["GET"], "what": "g", "guard": "authenticated"},
            {"path": "/wide/<int:number>", "methods": ["GET"], "what": "h", "guard": "authenticated", "plain": [],
             "all_roles": ["admin"]},
            {"path": "/fast", "methods": ["GET"], "what": "i", "guard": "authenticated", "why": "timed",
             "decide": ["what timed asks for is not known\n[[route]]"]}]}),
    );
    let demands: Vec<_> = settings
        .routes
        .iter()
        .map(|route| {
            let roles = |roles: &[Role]| roles.iter().map(Role::as_str).collect::<Vec<_>>().join("+");
            format!("{} {}|{}", route.rule.path, roles(route.policy.any_of()), roles(route.policy.all_of()))
        })
        .collect();
    assert_eq!(
        demands,
        [
            "/admin admin|",
            "/admin admin+editor|",
            "/both |editor+shop:staff+user",
            "/members user+x|",
            "/odd |",
            "/wide/{name} admin|",
            "/fast |",
        ]
    );
    let known: Vec<&str> = settings.roles.names().map(Role::as_str).collect();
    assert_eq!(known, ["admin", "editor", "shop:staff", "user", "x"]);
    assert!(settings.routes.iter().all(|route| route.policy.access() == crate::authz::Access::Authenticated));
    for line in [
        "# GET /fast: i, behind timed",
        "# Decide: what timed asks for is not known\\n[[route]]",
        "# Decide: \"Head of sales\" is a role that cannot be called so here; then add roles = [...]",
        "roles = [\"admin\"]",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn routes_that_are_one_here_ask_for_what_the_stricter_asks() {
    let (_, settings) = drafted(
        "express:app.js",
        json!({"framework": "Express 5.3.0", "preflights": true, "remarks": [], "routes": [
            {"path": "/a/:x", "methods": ["GET"], "what": "one"},
            {"path": "/A/:y/", "methods": ["GET"], "what": "two", "guard": "authenticated", "why": "check"},
            {"path": "/a/:z", "methods": ["POST"], "what": "three"},
            {"path": "/b", "methods": ["GET"], "what": "four", "guard": "authenticated", "why": "check"},
            {"path": "/b", "what": "five"},
            {"path": "/c", "what": "six"},
            {"path": "/c", "methods": ["PUT"], "what": "seven", "guard": "authenticated", "why": "check"},
            {"path": "/d", "methods": ["HEAD"], "what": "eight", "guard": "authenticated"},
            {"path": "/d", "methods": ["GET"], "what": "nine"}]}),
    );
    assert_eq!(
        rules(&settings),
        [
            "/a/{x} [GET, HEAD] authenticated",
            "/a/{z} [POST] public",
            "/b [] authenticated",
            "/c [] authenticated",
            "/d [GET, HEAD] public",
        ]
    );
    assert!(settings.routes.iter().all(|route| route.preflight == crate::settings::PreflightMode::Upstream));
}

#[test]
fn what_is_wider_than_the_apps_path_does_not_open_its_neighbours() {
    let (text, settings) = drafted(
        "flask:shop:app",
        json!({"framework": "Flask", "preflights": false, "remarks": [], "routes": [
            {"path": "/<path:any>", "methods": ["GET"], "what": "any", "deep": ["any"], "guard": "authenticated", "why": "check"},
            {"path": "/<name>.html", "methods": ["GET"], "what": "page"},
            {"path": "/u/<int:id>", "methods": ["GET"], "what": "user", "plain": []},
            {"path": "/u/<name>/x", "methods": ["GET"], "what": "exact"}]}),
    );
    assert_eq!(
        rules(&settings),
        [
            "/** [GET, HEAD] authenticated",
            "/{name} [GET, HEAD] authenticated",
            "/u/{id} [GET, HEAD] authenticated",
            "/u/{name}/x [GET, HEAD] public",
        ]
    );
    assert!(text.contains("# wider than the app's /<name>.html: look at what else it takes"), "{text}");
    assert!(text.contains("# closed: as a pattern it also takes paths of /**, which is"), "{text}");
}

#[test]
fn what_cannot_be_drafted_is_named_and_nothing_breaks_out_of_its_comment() {
    let evil = "x\n[[route]]\npath = \"/**\"\naccess = \"public\"";
    let (text, settings) = drafted(
        "express:app.js",
        json!({"framework": evil, "preflights": false, "remarks": [evil], "routes": [
            {"path": "/ /.*fly$/", "regexp": true, "what": "a regular expression"},
            {"path": "/auth/me", "methods": ["GET"], "what": evil, "guard": "authenticated", "why": evil},
            {"path": "/a\"b", "methods": ["GET"], "what": evil, "note": evil},
            {"path": "/t", "methods": ["BAD METHOD"], "what": "t"},
            {"path": "/h", "methods": ["GET"], "what": "h", "host": "api.example.com:80"},
            {"path": "/h", "methods": ["GET"], "what": "h", "host": "<sub>.example.com"},
            {"path": "/1/:id", "methods": ["GET"], "what": "h", "host": "<sub>example.<tld>"}]}),
    );
    assert_eq!(
        rules(&settings),
        [
            "/auth/me [GET, HEAD] authenticated",
            "/a%22b [GET, HEAD] public",
            "/h [GET, HEAD] public",
            "/h [GET, HEAD] public",
            "/1/{id} [GET, HEAD] public"
        ]
    );
    let hosts: Vec<_> =
        settings.routes.iter().map(|route| route.rule.host.as_ref().map(ToString::to_string)).collect();
    assert_eq!(hosts[2..4], [Some("api.example.com".to_owned()), Some("*.example.com".to_owned())]);
    assert_eq!(settings.auth.prefix.as_str(), "/gatepost");
    assert!(text.contains("# Not drafted, and so not forwarded: / /.*fly$/: a regular expression"), "{text}");
    assert!(text.contains("# Not drafted, and so not forwarded: /t: its methods are BAD METHOD"), "{text}");
    assert!(text.contains("# on every host; in the app only on <sub>example.<tld>"), "{text}");
}

#[test]
fn a_file_is_never_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.toml");
    std::fs::write(&file, "mine").expect("written");
    assert!(write_new(&file, "a draft").is_err());
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "mine");
    let link = directory.path().join("link.toml");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).expect("linked");
    assert!(write_new(&link, "a draft").is_err());
    assert!(!directory.path().join("nowhere").exists());
}
