//! What the table decides, and the properties that hold for any table and any path.

use std::ops::ControlFlow;

use http::Method;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

fn rule(text: &str) -> RouteRule {
    let (methods, rest) = text.split_once(' ').map_or(("", text), |(methods, rest)| (methods, rest));
    let (host, path) = rest.split_at(rest.find('/').expect("a path"));
    let names: Vec<&str> = methods.split(',').filter(|name| !name.is_empty()).collect();
    RouteRule {
        host: (!host.is_empty()).then(|| HostPattern::parse(host).expect("a host")),
        path: PathPattern::parse(path).expect("a pattern"),
        methods: if names.is_empty() { MethodSet::Any } else { MethodSet::parse(&names).expect("methods") },
    }
}

fn rules(texts: &[&str]) -> Vec<(RouteRule, String)> {
    texts.iter().map(|text| (rule(text), (*text).to_owned())).collect()
}

const OWN: &[&str] = &[
    "GET /auth/me",
    "POST /auth/login",
    "POST /auth",
    "GET /.well-known/jwks.json",
    "/auth/**",
    "/.well-known/jwks.json/**",
    "POST /signin",
];

fn table(routes: &[&str]) -> RouteTable<String> {
    RouteTable::build(rules(OWN), rules(routes), PathCase::Insensitive).expect("a table")
}

fn canonical(raw: &str) -> CanonicalPath<'_> {
    CanonicalPath::parse(raw, PathAllowances::default()).expect("a path")
}

fn host(text: &str) -> Host<'_> {
    Host::parse(text).expect("a host")
}

/// `GET a.example/x` → the route's text, `405 ALLOW` or `404`.
fn ask(table: &RouteTable<String>, request: &str) -> String {
    let (method, rest) = request.split_once(' ').expect("a method and a target");
    let (name, path) = rest.split_at(rest.find('/').expect("a path"));
    let name = if name.is_empty() { "localhost" } else { name };
    match table.find(&host(name), &canonical(path), &method.parse().expect("a method")) {
        Found::Route { target, .. } => target.clone(),
        Found::MethodNotAllowed { allow, .. } => format!("405 {allow}"),
        Found::NoRoute => "404".to_owned(),
    }
}

#[test]
fn the_most_specific_pattern_decides() {
    let table = table(&[
        "/**",
        "/admin/**",
        "/admin/public/{file}",
        "/users/{id}",
        "/users/me",
        "/users/{id}/posts/{post}",
        "/users/me/posts",
        "/a/{x}/c",
        "/a/b/d",
        "/a/**",
        "/files/{name}",
    ]);
    for (request, taken) in [
        ("GET /", "/**"),
        ("GET /administrator", "/**"),
        ("GET /admin", "/admin/**"),
        ("GET /admin/", "/admin/**"),
        ("GET /admin/x/y/z", "/admin/**"),
        ("GET /ADMIN/x", "/admin/**"),
        ("GET /%61dmin", "/admin/**"),
        ("GET //admin", "/admin/**"),
        ("GET /x/../admin/./y", "/admin/**"),
        ("GET /admin/public/f", "/admin/public/{file}"),
        ("GET /admin/public/f/", "/admin/public/{file}"),
        ("GET /admin/public/", "/admin/**"),
        ("GET /admin/public/f/g", "/admin/**"),
        ("GET /users/7", "/users/{id}"),
        ("GET /users/me", "/users/me"),
        ("GET /users/Me/", "/users/me"),
        ("GET /users/", "/**"),
        ("GET /users/me/posts", "/users/me/posts"),
        ("GET /users/me/posts/3", "/users/{id}/posts/{post}"),
        ("GET /a/b/c", "/a/{x}/c"),
        ("GET /a/b/d", "/a/b/d"),
        ("GET /a/b/e", "/a/**"),
        ("GET /files", "/**"),
        ("GET /files/%2520", "/files/{name}"),
    ] {
        assert_eq!(ask(&table, request), taken, "{request}");
    }
}

#[test]
fn the_gateways_own_paths_come_first_on_every_host() {
    let table = table(&["/**", "app.example/**", "/{any}/me", "/{a}/{b}"]);
    for (request, taken) in [
        ("GET /auth/me", "GET /auth/me"),
        ("GET app.example/AUTH/me/", "GET /auth/me"),
        ("HEAD /auth/me", "GET /auth/me"),
        ("GET /auth/login", "405 POST"),
        ("DELETE /auth/me", "405 GET, HEAD"),
        ("GET /auth", "405 POST"),
        ("GET /auth/nothing", "/auth/**"),
        ("GET //auth//nothing", "/auth/**"),
        ("GET /%61uth/me", "GET /auth/me"),
        ("GET /public/../auth/me", "GET /auth/me"),
        ("GET /authentic/me", "/{any}/me"),
        ("POST /.well-known/jwks.json", "405 GET, HEAD"),
        ("GET /.well-known/other", "/{a}/{b}"),
    ] {
        assert_eq!(ask(&table, request), taken, "{request}");
    }
}

#[test]
fn the_most_specific_host_with_a_matching_path_decides() {
    let table = table(&["app.example/x", "*.app.example/**", "*.example/**", "/**", "[::1]/x"]);
    for (request, taken) in [
        ("GET app.example/x", "app.example/x"),
        ("GET APP.example.:8080/x", "app.example/x"),
        ("GET app.example/y", "*.example/**"),
        ("GET a.app.example/x", "*.app.example/**"),
        ("GET a.b.app.example/x", "*.app.example/**"),
        ("GET example/x", "/**"),
        ("GET notapp.example.org/x", "/**"),
        ("GET [0::1]:80/x", "[::1]/x"),
    ] {
        assert_eq!(ask(&table, request), taken, "{request}");
    }
}

#[test]
fn the_method_decides_within_the_pattern_and_never_falls_through() {
    let table =
        table(&["GET /doc", "PUT,POST /doc", "/**", "GET app.example/**", "DELETE /u/{a}", "GET /u/{b}"]);
    for (request, taken) in [
        ("GET /doc", "GET /doc"),
        ("HEAD /doc", "GET /doc"),
        ("POST /doc", "PUT,POST /doc"),
        ("DELETE /doc", "405 GET, HEAD, POST, PUT"),
        ("get /doc", "405 GET, HEAD, POST, PUT"),
        ("DELETE /other", "/**"),
        ("DELETE app.example/other", "405 GET, HEAD"),
        ("DELETE /u/1", "DELETE /u/{a}"),
        ("GET /u/1", "GET /u/{b}"),
    ] {
        assert_eq!(ask(&table, request), taken, "{request}");
    }
}

#[test]
fn nothing_matches_without_a_route() {
    let table = table(&["app.example/**"]);
    assert_eq!(ask(&table, "GET other.example/x"), "404");
    assert_eq!(ask(&table, "GET /"), "404");
}

#[test]
fn literals_take_every_encoding_of_themselves() {
    let table = table(&["/@me/**", "/a%20b", "/über/{x}", "/c+d", "/**"]);
    for (request, taken) in [
        ("GET /@me/x", "/@me/**"),
        ("GET /%40me/x", "/@me/**"),
        ("GET /%40ME", "/@me/**"),
        ("GET /a%20b", "/a%20b"),
        ("GET /%C3%BCber/1", "/über/{x}"),
        ("GET /%c3%bcBER/1", "/über/{x}"),
        ("GET /c%2Bd", "/c+d"),
        ("GET /c+d", "/c+d"),
    ] {
        assert_eq!(ask(&table, request), taken, "{request}");
    }
    let same =
        |a, b| PathPattern::parse(a).unwrap().covers(&PathPattern::parse(b).unwrap(), PathCase::Sensitive);
    assert!(same("/a b", "/a%20b"));
}

#[test]
fn a_case_sensitive_table_tells_cases_apart() {
    let table =
        RouteTable::build(rules(OWN), rules(&["/Admin", "/admin", "/Auth/x"]), PathCase::Sensitive).unwrap();
    assert_eq!(ask(&table, "GET /Admin"), "/Admin");
    assert_eq!(ask(&table, "GET /admin"), "/admin");
    assert_eq!(ask(&table, "GET /ADMIN"), "404");
    assert_eq!(ask(&table, "GET /%41dmin"), "/Admin");
}

#[test]
fn parameters_keep_the_clients_spelling_and_decode_once() {
    let table = table(&["/u/{uid}/f/{file}", "/{a}/{b}/{c}/{d}/{e}/{f}"]);
    let path = canonical("/u/Al%C3%AF%25ce/f/x%2520y/");
    let Found::Route { params, .. } = table.find(&host("h"), &path, &Method::GET) else { panic!("no route") };
    assert_eq!(params.get("uid"), Some("Al%C3%AF%25ce"));
    assert_eq!(params.decoded("uid").as_deref(), Some("Alï%ce"));
    assert_eq!(params.decoded("file").as_deref(), Some("x%20y"));
    assert_eq!(params.get("nothing"), None);
    assert_eq!(params.decoded("nothing"), None);

    let path = canonical("/1/2/3/4/5/6");
    let Found::Route { params, .. } = table.find(&host("h"), &path, &Method::GET) else { panic!("no route") };
    let all: Vec<_> = params.iter().collect();
    assert_eq!(all, [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"), ("f", "6")]);
}

#[test]
fn backtracking_forgets_the_parameters_of_dead_ends() {
    let table = table(&["/{a}/x/{b}/y", "/{c}/{d}/z"]);
    let path = canonical("/1/x/z");
    let Found::Route { params, .. } = table.find(&host("h"), &path, &Method::GET) else { panic!("no route") };
    assert_eq!(params.iter().collect::<Vec<_>>(), [("c", "1"), ("d", "x")]);
}

#[test]
fn rules_that_would_need_the_files_order_are_refused() {
    use TableError::{MethodsOverlap, OwnPath, Tie, UnderPrefix};
    let cases: &[(&[&str], TableError)] = &[
        (&["/a", "/b", "/a"], Tie { a: 0, b: 2 }),
        (&["/a", "/a/"], Tie { a: 0, b: 1 }),
        (&["/a", "/A"], Tie { a: 0, b: 1 }),
        (&["/@a", "/%40a"], Tie { a: 0, b: 1 }),
        (&["/{a}", "/{b}"], Tie { a: 0, b: 1 }),
        (&["/**", "/**"], Tie { a: 0, b: 1 }),
        (&["h.example/a", "H.example./a"], Tie { a: 0, b: 1 }),
        (&["GET,POST /a", "POST,GET /a"], Tie { a: 0, b: 1 }),
        (&["GET /a", "/a"], MethodsOverlap { a: 0, b: 1 }),
        (&["GET /{x}", "HEAD /{y}"], MethodsOverlap { a: 0, b: 1 }),
        (&["GET,PUT /a", "PUT,POST /a"], MethodsOverlap { a: 0, b: 1 }),
        (&["/auth"], UnderPrefix { route: 0, own: 4 }),
        (&["/Auth/x"], UnderPrefix { route: 0, own: 4 }),
        (&["/**", "/%61uth/**"], UnderPrefix { route: 1, own: 4 }),
        (&["h.example/auth/{x}"], UnderPrefix { route: 0, own: 4 }),
        (&["/.well-known/JWKS.json"], UnderPrefix { route: 0, own: 5 }),
        (&["/.well-known/jwks.json/x"], UnderPrefix { route: 0, own: 5 }),
        (&["/signin"], OwnPath { route: 0, own: 6 }),
        (&["/a", "GET,POST /SignIn/"], OwnPath { route: 1, own: 6 }),
        (&["GET h.example/signin"], OwnPath { route: 0, own: 6 }),
        (&["GET /signin", "HEAD /signin"], MethodsOverlap { a: 0, b: 1 }),
    ];
    for (routes, error) in cases {
        let errors = RouteTable::build(rules(OWN), rules(routes), PathCase::Insensitive).unwrap_err();
        assert_eq!(errors, [*error], "{routes:?}");
    }
}

#[test]
fn every_refusal_is_named_at_once() {
    let errors = RouteTable::build(rules(OWN), rules(&["/a", "/auth/x", "GET /a"]), PathCase::Insensitive);
    let errors = errors.unwrap_err();
    assert!(errors.contains(&TableError::UnderPrefix { route: 1, own: 4 }), "{errors:?}");
    assert!(errors.contains(&TableError::MethodsOverlap { a: 0, b: 2 }), "{errors:?}");
}

#[test]
fn neighbours_of_the_own_paths_are_fine() {
    table(&["/authentic/**", "/{x}/login", "/.well-known/**", "/**", "/a", "a.example/a", "*.example/a"]);
}

#[test]
fn a_route_may_have_the_other_methods_of_an_own_path() {
    let routes = ["GET /signin", "PUT /signin/", "/signin/help", "/{x}", "a.example/**"];
    let with = table(&routes);
    for (request, taken) in [
        ("POST /signin", "POST /signin"),
        ("POST a.example/SignIn/", "POST /signin"),
        ("GET /signin", "GET /signin"),
        ("GET a.example/signin", "GET /signin"),
        ("HEAD /signin", "GET /signin"),
        ("PUT /signin", "PUT /signin/"),
        ("DELETE /signin", "405 GET, HEAD, PUT, POST"),
        ("GET /signin/help", "/signin/help"),
        ("POST a.example/signin/help", "a.example/**"),
    ] {
        let told = ask(&with, request);
        let sorted = |text: &str| {
            let mut words: Vec<String> = text.split([' ', ',']).map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&told), sorted(taken), "{request}: {told}");
    }
    // Without a route of that path its other methods are nobody's: a wider route does not get them.
    let without = table(&["/{x}", "/**"]);
    assert_eq!(ask(&without, "GET /signin"), "405 POST");
    assert_eq!(ask(&without, "GET /signin/help"), "/**");
    assert_eq!(without.unreachable(), [0_usize; 0]);
}

#[test]
fn two_own_rules_for_one_request_are_refused() {
    let errors = RouteTable::build(rules(&["GET /x", "/x"]), Vec::new(), PathCase::Sensitive).unwrap_err();
    assert_eq!(errors, [TableError::Own { a: 0, b: 1 }]);
}

#[test]
fn explain_says_why_each_other_rule_was_not_taken() {
    use WhyNot::{Host as OtherHost, Method as OtherMethod, Path};

    let routes = [
        "GET /admin/{x}",
        "POST /admin/{y}",
        "/admin/**",
        "/**",
        "h.example/**",
        "/other",
        "h.example/admin/{z}/q",
    ];
    let table = table(&routes);
    let explain = |name: &str, path: &str, method: Method| {
        let why = table.explain(&host(name), &canonical(path), &method);
        let routes = why.into_iter().filter_map(|(index, why)| match index {
            RouteIndex::Route(index) => Some((index, why)),
            RouteIndex::Own(_) => None,
        });
        routes.collect::<Vec<_>>()
    };
    let less = |index| WhyNot::LessSpecific(RouteIndex::Route(index));

    let why = explain("x", "/admin/1", Method::GET);
    let expected = [(1, OtherMethod), (2, less(0)), (3, less(0)), (4, OtherHost), (5, Path), (6, OtherHost)];
    assert_eq!(why, expected);

    let why = explain("x", "/admin/1", Method::PUT);
    assert_eq!(why[..3], [(0, OtherMethod), (1, OtherMethod), (2, less(0))]);

    let why = explain("h.example", "/admin/1", Method::GET);
    assert_eq!(why, [(0, less(4)), (1, less(4)), (2, less(4)), (3, less(4)), (5, Path), (6, Path)]);

    let own = WhyNot::LessSpecific(RouteIndex::Own(0));
    let why = explain("x", "/auth/me", Method::GET);
    assert_eq!(why, [(0, Path), (1, Path), (2, Path), (3, own), (4, OtherHost), (5, Path), (6, OtherHost)]);
}

#[test]
fn a_host_route_that_takes_from_a_wider_one_is_found() {
    for (routes, pairs) in [
        (&["app.example/**", "/admin/**"][..], &[(0, 1)][..]),
        (&["app.example/{x}", "/admin/**"], &[(0, 1)]),
        (&["app.example/x", "/admin/**"], &[]),
        (&["*.example/**", "/admin", "a.example/admin"], &[(0, 1), (2, 0), (2, 1)]),
        (&["app.example/**", "app.example/Admin/**", "/admin/**"], &[(1, 2)]),
        (&["app.example/admin/**", "*.example/admin/x"], &[(0, 1)]),
        (&["app.example/**", "other.example/**"], &[]),
        (&["GET app.example/**", "POST /admin"], &[]),
        (&["/**", "/admin/**"], &[]),
    ] {
        assert_eq!(table(routes).hidden_by_host(), pairs, "{routes:?}");
    }
}

#[test]
fn a_route_that_others_cover_wholly_is_unreachable() {
    for (routes, unreachable) in [
        (&["/a/**", "/a", "/a/{x}/**"][..], &[0][..]),
        (&["/a/{x}", "/a/**", "/a/{x}/{y}/**", "/a"], &[1]),
        (&["/**", "/", "/{x}/**"], &[0]),
        (&["/a/**", "/a/{x}/**"], &[]),
        (&["/a/**", "/a", "/a/{x}"], &[]),
        (&["/a/**", "h.example/a", "/a/{x}/**"], &[]),
        (&["/**", "/a", "/{x}"], &[]),
    ] {
        assert_eq!(table(routes).unreachable(), unreachable, "{routes:?}");
    }
}

#[test]
fn foreign_spellings_get_a_suggestion() {
    for (text, suggestion) in [
        ("admin", "/admin"),
        ("", "/"),
        ("/admin/*", "/admin/**"),
        ("/admin*", "/admin/**"),
        ("*", "/**"),
        ("**", "/**"),
        ("/*", "/**"),
        ("/a/*/b", "/a/{name}/b"),
        ("/a/**/b", "/a/{name}/b"),
        ("/**/*.php", "/{name}/**"),
        ("/users/:id", "/users/{id}"),
        ("/users/<id>", "/users/{id}"),
        ("/users/<int:id>/x", "/users/{id}/x"),
        ("/users/{id:int}", "/users/{id}"),
        ("/users/{id?}", "/users/{id}"),
        ("/files/{*path}", "/files/**"),
        ("/files/{path*}", "/files/**"),
        ("^/admin", "/admin"),
        ("/admin$", "/admin"),
        ("^/admin/.*$", "/admin/**"),
        ("/admin(.*)", "/admin/**"),
        ("//admin", "/admin"),
        ("https://app.example/admin", "/admin"),
        ("/a?x=1", "/a"),
        ("/a#top", "/a"),
    ] {
        let error = PathPattern::parse(text).unwrap_err();
        let says = error.to_string();
        assert!(says.contains(&format!("did you mean \"{suggestion}\"?")), "{text}: {says}");
        assert!(PathPattern::parse(suggestion).is_ok(), "{text}: the suggestion {suggestion} is refused");
    }
}

#[test]
fn patterns_that_mean_nothing_are_refused() {
    for (text, says) in [
        ("/{}", "no parameter"),
        ("/{a b}", "no parameter"),
        ("/{1}", "no parameter"),
        ("/x{a}", "whole segment"),
        ("/{a}.json", "whole segment"),
        ("/{a}/{a}", "twice"),
        ("/a/../b", "leads to"),
        ("/./a", "leads to"),
        ("/a\\b", "backslash"),
        ("/a%zz", "percent"),
        ("/%2e%2e", "dot segment"),
        ("/a\0", "control"),
    ] {
        let error = PathPattern::parse(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn patterns_compare_by_what_they_take() {
    let parse = |text: &str| PathPattern::parse(text).unwrap();
    for (a, b, covers, overlaps) in [
        ("/**", "/a/{x}", true, true),
        ("/a/**", "/a", true, true),
        ("/a/**", "/A/b/**", true, true),
        ("/a", "/a/**", false, true),
        ("/a/{x}", "/a/b", true, true),
        ("/a/b", "/a/{x}", false, true),
        ("/{x}/b", "/a/{y}", false, true),
        ("/a/b", "/a/c", false, false),
        ("/a", "/a/b", false, false),
        ("/a/{x}/**", "/a", false, false),
        ("/a/{x}/**", "/a/b/**", true, true),
        ("/ab/**", "/a/**", false, false),
    ] {
        let (a, b) = (parse(a), parse(b));
        assert_eq!(a.covers(&b, PathCase::Insensitive), covers, "{a} covers {b}");
        assert_eq!(a.overlaps(&b, PathCase::Insensitive), overlaps, "{a} overlaps {b}");
        assert_eq!(b.overlaps(&a, PathCase::Insensitive), overlaps, "{b} overlaps {a}");
    }
    assert!(!parse("/A").covers(&parse("/a"), PathCase::Sensitive));
    assert!(parse("/Auth/x").is_at_or_below(&parse("/auth"), PathCase::Insensitive));
    assert!(!parse("/authx").is_at_or_below(&parse("/auth"), PathCase::Insensitive));
}

#[test]
fn a_pattern_shows_as_written_without_its_final_slash() {
    for (text, shown) in
        [("/", "/"), ("/a/", "/a"), ("/**", "/**"), ("/**/", "/**"), ("/a/{b}/**", "/a/{b}/**")]
    {
        let pattern = PathPattern::parse(text).unwrap();
        assert_eq!(pattern.as_str(), shown);
        assert_eq!(PathPattern::parse(pattern.as_str()), Ok(pattern));
    }
    let prefix = PathPattern::parse("/auth").unwrap();
    assert_eq!(prefix.join("/sessions/{sid}").unwrap().as_str(), "/auth/sessions/{sid}");
    assert_eq!(prefix.join("").unwrap().as_str(), "/auth");
    assert_eq!(PathPattern::parse("/").unwrap().join("/x").unwrap().as_str(), "/x");
}

/// The contract read aloud, one rule against one path: no tree, no hash.
mod reference {
    use super::*;

    /// How well a pattern fits, segment by segment: 0 literal, 1 parameter, 2 the end of `/**`.
    /// `None`: not at all. The smaller, the more specific.
    pub(super) fn fit(pattern: &str, path: &str, case: PathCase) -> Option<Vec<u8>> {
        let wanted: Vec<&str> = pattern.split('/').filter(|s| !s.is_empty()).collect();
        let given: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let mut fit = Vec::new();
        for (at, want) in wanted.iter().enumerate() {
            if *want == "**" {
                fit.push(2);
                return Some(fit);
            }
            let have = percent_encoding::percent_decode_str(given.get(at)?).decode_utf8_lossy();
            let literal = percent_encoding::percent_decode_str(want).decode_utf8_lossy();
            let same = match case {
                PathCase::Sensitive => literal == have,
                PathCase::Insensitive => literal.eq_ignore_ascii_case(&have),
            };
            match (want.starts_with('{'), same) {
                (true, _) => fit.push(1),
                (false, true) => fit.push(0),
                (false, false) => return None,
            }
        }
        (wanted.len() == given.len()).then_some(fit)
    }

    /// 0 exact, then wildcards from the longest, then none.
    fn host_fit(rule: &RouteRule, host: &Host<'_>) -> Option<usize> {
        match &rule.host {
            None => Some(usize::MAX),
            Some(pattern) if !pattern.matches(host) => None,
            Some(HostPattern::Exact(_)) => Some(0),
            Some(HostPattern::Below(name)) => Some(1000 - name.len()),
        }
    }

    /// The index of the rule, or the pattern's methods.
    pub(super) fn find(
        rules: &[RouteRule],
        host: &Host<'_>,
        path: &str,
        method: &Method,
        case: PathCase,
    ) -> Result<usize, Option<String>> {
        let rank = |rule: &RouteRule| Some((host_fit(rule, host)?, fit(rule.path.as_str(), path, case)?));
        let Some(best) = rules.iter().filter_map(rank).min() else { return Err(None) };
        let decide: Vec<usize> =
            (0..rules.len()).filter(|&at| rank(&rules[at]).as_ref() == Some(&best)).collect();
        let taken = decide.iter().find(|&&at| rules[at].methods.contains(method));
        taken.copied().ok_or_else(|| {
            Some(method::allow_text(&decide.iter().map(|&at| &rules[at].methods).collect::<Vec<_>>()))
        })
    }
}

fn segment() -> impl Strategy<Value = String> {
    const LITERALS: &[&str] =
        &["a", "b", "A", "ab", "%40", "@", "x%20y", "long-segment-name", "Long-Segment-Name"];
    prop_oneof![4 => select(LITERALS).prop_map(str::to_owned), 1 => Just("{p}".to_owned())]
}

fn pattern() -> impl Strategy<Value = String> {
    (prop::collection::vec(segment(), 0..4), any::<bool>()).prop_map(|(segments, below)| {
        let mut text = String::new();
        for (nth, segment) in segments.iter().enumerate() {
            text.push('/');
            text.push_str(&segment.replace("{p}", &format!("{{p{nth}}}")));
        }
        match (text.is_empty(), below) {
            (_, true) => text + "/**",
            (true, false) => "/".to_owned(),
            (false, false) => text,
        }
    })
}

fn any_rule() -> impl Strategy<Value = RouteRule> {
    const HOSTS: &[&str] = &["", "", "", "h.example", "*.example", "*.h.example"];
    const METHODS: &[&str] = &["", "", "GET ", "POST ", "PUT,DELETE "];
    (select(METHODS), select(HOSTS), pattern())
        .prop_map(|(methods, host, path)| rule(&format!("{methods}{host}{path}")))
}

fn any_request() -> impl Strategy<Value = (String, String, Method)> {
    const HOSTS: &[&str] = &["other", "h.example", "x.example", "a.h.example", "a.b.h.example"];
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::OPTIONS];
    let segments = prop::collection::vec(segment(), 0..5).prop_map(|segments| segments.join("/"));
    (select(HOSTS), segments, any::<bool>(), select(methods.to_vec())).prop_map(
        |(host, path, slash, method)| {
            let path = path.replace(['{', '}'], "");
            (host.to_owned(), format!("/{path}{}", if slash { "/" } else { "" }), method)
        },
    )
}

/// Rules without ties: each candidate that the table would refuse is left out.
fn without_ties(candidates: Vec<RouteRule>, case: PathCase) -> Vec<RouteRule> {
    let mut kept: Vec<RouteRule> = Vec::new();
    for candidate in candidates {
        let mut tried: Vec<(RouteRule, ())> = kept.iter().cloned().map(|rule| (rule, ())).collect();
        tried.push((candidate.clone(), ()));
        if RouteTable::build(Vec::new(), tried, case).is_ok() {
            kept.push(candidate);
        }
    }
    kept
}

fn case() -> impl Strategy<Value = PathCase> {
    select(&[PathCase::Sensitive, PathCase::Insensitive][..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_canonical_path_stays_as_it_is(raw in "(/|//|\\.|\\.\\.|%2e|%25|%2f|%C3%A4|%c3%a4|%20|;|%3b|[a-zA-Z0-9%~]|ä){0,12}", open in any::<[bool; 3]>()) {
        let allow = PathAllowances { semicolon: open[0], encoded_slash: open[1], non_ascii: open[2] };
        let raw = format!("/{raw}");
        let Ok(first) = CanonicalPath::parse(&raw, allow) else { return Ok(()) };
        let again = CanonicalPath::parse(first.as_str(), allow);
        prop_assert!(again.as_ref().is_ok_and(CanonicalPath::is_borrowed), "{} {:?}", first.as_str(), again);
        prop_assert_eq!(again.as_ref().map(CanonicalPath::as_str), Ok(first.as_str()));
        prop_assert_eq!(first.is_borrowed(), first.as_str() == raw);
        prop_assert!(first.as_str().is_ascii());
        prop_assert!(!first.as_str().contains("//"));
        prop_assert!(!first.as_str().split('/').any(|segment| matches!(segment, "." | "..")));
    }

    #[test]
    fn any_text_is_a_path_or_an_error(raw in any::<String>()) {
        for raw in [raw.clone(), format!("/{raw}"), format!("/{}", percent_encoding::utf8_percent_encode(&raw, percent_encoding::CONTROLS))] {
            if let Ok(path) = CanonicalPath::parse(&raw, PathAllowances::ALL) {
                let again = CanonicalPath::parse(path.as_str(), PathAllowances::ALL);
                prop_assert!(again.as_ref().is_ok_and(CanonicalPath::is_borrowed), "{path:?} {again:?}");
            }
            let _ = (PathPattern::parse(&raw), Host::parse(&raw), HostPattern::parse(&raw));
        }
    }

    #[test]
    fn the_table_agrees_with_the_contract_read_aloud(
        candidates in prop::collection::vec(any_rule(), 0..24),
        requests in prop::collection::vec(any_request(), 1..16),
        case in case(),
    ) {
        let rules = without_ties(candidates, case);
        let table = RouteTable::build(Vec::new(), rules.iter().cloned().map(|r| (r, ())).collect(), case).unwrap();
        for (name, raw, method) in &requests {
            let (host, path) = (host(name), canonical(raw));
            let found = match table.find(&host, &path, method) {
                Found::Route { index: RouteIndex::Route(at), params, .. } => {
                    prop_assert!(params.iter().all(|(_, value)| !value.is_empty()));
                    Ok(at)
                }
                Found::Route { index: RouteIndex::Own(_), .. } => unreachable!("there are none"),
                Found::MethodNotAllowed { allow, .. } => Err(Some(allow.to_owned())),
                Found::NoRoute => Err(None),
            };
            prop_assert_eq!(&found, &reference::find(&rules, &host, path.as_str(), method, case));

            let why = table.explain(&host, &path, method);
            prop_assert_eq!(why.len(), rules.len() - usize::from(found.is_ok()));
            prop_assert!(why.iter().all(|(index, _)| found.as_ref().ok().map(|&at| RouteIndex::Route(at)) != Some(*index)));
        }
    }

    #[test]
    fn the_order_of_the_file_never_decides(
        candidates in prop::collection::vec(any_rule(), 0..16),
        swaps in prop::collection::vec((any::<Index>(), any::<Index>()), 0..16),
        requests in prop::collection::vec(any_request(), 1..16),
        case in case(),
    ) {
        let rules = without_ties(candidates, case);
        let mut shuffled = rules.clone();
        for (a, b) in swaps {
            if !rules.is_empty() {
                shuffled.swap(a.index(rules.len()), b.index(rules.len()));
            }
        }
        let build = |rules: &[RouteRule]| {
            RouteTable::build(Vec::new(), rules.iter().cloned().map(|r| (r.clone(), r)).collect(), case).unwrap()
        };
        let (one, other) = (build(&rules), build(&shuffled));
        for (name, raw, method) in &requests {
            let (host, path) = (host(name), canonical(raw));
            let show = |table: &RouteTable<RouteRule>| match table.find(&host, &path, method) {
                Found::Route { target, .. } => format!("{target:?}"),
                Found::MethodNotAllowed { allow, .. } => allow.to_owned(),
                Found::NoRoute => "404".to_owned(),
            };
            prop_assert_eq!(show(&one), show(&other));
        }
    }

    #[test]
    fn what_is_matched_is_what_is_forwarded(
        candidates in prop::collection::vec(any_rule(), 1..16),
        raw in "(/|/a|/b|/%61|/%41|/\\.|/\\.\\.|/%40|/@|//|/ab|/x%20y){0,6}",
        case in case(),
    ) {
        let raw = format!("/{raw}");
        let Ok(path) = CanonicalPath::parse(&raw, PathAllowances::default()) else { return Ok(()) };
        let rules = without_ties(candidates, case);
        let table = RouteTable::build(Vec::new(), rules.into_iter().map(|r| (r, ())).collect(), case).unwrap();
        // The app takes the forwarded bytes for a raw path of its own: same decision.
        let forwarded = path.as_str().to_owned();
        let again = CanonicalPath::parse(&forwarded, PathAllowances::default()).unwrap();
        let decide = |path: &CanonicalPath<'_>| match table.find(&host("h.example"), path, &Method::GET) {
            Found::Route { index, params, .. } => {
                let inside = params.iter().all(|(_, value)| path.as_str().contains(value));
                ControlFlow::Continue((index, inside))
            }
            Found::MethodNotAllowed { index, .. } => ControlFlow::Break(Some(index)),
            Found::NoRoute => ControlFlow::Break(None),
        };
        prop_assert_eq!(decide(&path), decide(&again));
        prop_assert!(!matches!(decide(&path), ControlFlow::Continue((_, false))));
    }

    #[test]
    fn covers_and_overlaps_speak_of_the_paths_that_match(
        a in pattern(), b in pattern(), (_, raw, _) in any_request(), case in case(),
    ) {
        let matches = |text: &str| reference::fit(text, &raw, case).is_some();
        let (one, other) = (PathPattern::parse(&a).unwrap(), PathPattern::parse(&b).unwrap());
        if one.covers(&other, case) {
            prop_assert!(!matches(&b) || matches(&a), "{a} {b} {raw}");
            prop_assert!(one.overlaps(&other, case));
        }
        if !one.overlaps(&other, case) {
            prop_assert!(!(matches(&a) && matches(&b)), "{a} {b} {raw}");
        }
    }
}
