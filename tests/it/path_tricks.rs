//! Paths that the gateway and an app could read differently.
//!
//! Each accepted path is forwarded in its canonical spelling, and apps read that in their own ways.
//! Four models of how they do: whatever a model would serve, the gateway must have asked for at
//! least as much as the rules ask for *that* path. Every model is first shown to catch gateways that
//! are naive in the way the model is about; an oracle that never complains proves nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use gatepost::authz::{Access, Guarded, Policy};
use gatepost::identity::{Authentication, Principal, SessionId};
use gatepost::route::{
    CanonicalPath, Found, Host, MethodSet, PathAllowances, PathCase, PathPattern, RouteIndex, RouteRule,
    RouteTable,
};
use http::Method;

/// What it takes to pass. In ascending order of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asks {
    Nothing,
    ACaller,
    AnAdmin,
}

/// What the gateway does with a raw target.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Sends this path to the app, to those who satisfy this.
    Forwards(String, Asks),
    /// Answers itself: 400, 404, 405, or one of its own endpoints.
    Keeps,
}

// ---- the gateway, and gateways that are naive ------------------------------------------------

fn rule(path: &str) -> RouteRule {
    RouteRule { host: None, path: PathPattern::parse(path).expect("a pattern"), methods: MethodSet::Any }
}

fn rules(case: PathCase) -> RouteTable<Guarded<()>> {
    let admin = vec!["admin".parse().expect("a role")];
    let admin = Policy::new(Access::Authenticated, admin, Vec::new(), None).expect("a policy");
    let own = vec![(rule("/auth/**"), Guarded::new(Policy::of(Access::Public), ()))];
    let routes = vec![
        (rule("/**"), Guarded::new(Policy::of(Access::Authenticated), ())),
        (rule("/public/**"), Guarded::new(Policy::of(Access::Public), ())),
        (rule("/admin/**"), Guarded::new(admin, ())),
    ];
    RouteTable::build(own, routes, case).expect("a table")
}

fn caller(roles: &[&str]) -> Principal {
    Principal {
        id: "1".parse().expect("an id"),
        username: Arc::from("alice"),
        name: None,
        email: None,
        roles: roles.iter().map(|name| name.parse().expect("a role")).collect(),
        session: SessionId::from_bytes([1; 16]),
        generation: 0,
    }
}

/// What a policy asks for, found out by asking it.
fn asks(lock: &Guarded<()>) -> Asks {
    let passes = |who: Authentication<&Principal>| lock.authorize(who, |_| None::<Cow<'_, str>>).is_ok();
    if passes(Authentication::Anonymous) {
        Asks::Nothing
    } else if passes(Authentication::Authenticated(&caller(&["user"]))) {
        Asks::ACaller
    } else {
        assert!(passes(Authentication::Authenticated(&caller(&["admin"]))));
        Asks::AnAdmin
    }
}

struct Gateway {
    table: RouteTable<Guarded<()>>,
    allow: PathAllowances,
}

impl Gateway {
    fn new(case: PathCase, allow: PathAllowances) -> Self {
        Self { table: rules(case), allow }
    }

    fn judge(&self, raw: &str) -> Verdict {
        let Ok(path) = CanonicalPath::parse(raw, self.allow) else { return Verdict::Keeps };
        let host = Host::parse("app.example").expect("a host");
        match self.table.find(&host, &path, &Method::GET) {
            Found::Route { index: RouteIndex::Route(_), target, .. } => {
                Verdict::Forwards(path.as_str().to_owned(), asks(target))
            }
            Found::Route { .. } | Found::MethodNotAllowed { .. } | Found::NoRoute => Verdict::Keeps,
        }
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn by_prefix(seen: &str) -> Asks {
    if is_below(seen, "/admin") {
        Asks::AnAdmin
    } else if is_below(seen, "/public") {
        Asks::Nothing
    } else {
        Asks::ACaller
    }
}

/// Compares the raw text and forwards it.
fn matches_raw(raw: &str) -> Verdict {
    Verdict::Forwards(raw.to_owned(), by_prefix(raw))
}

/// Decodes once and resolves, compares without case, but forwards what came.
fn matches_decoded_once(raw: &str) -> Verdict {
    let seen = format!("/{}", resolve(&decode(raw), true).join("/")).to_ascii_lowercase();
    Verdict::Forwards(raw.to_owned(), by_prefix(&seen))
}

// ---- apps ------------------------------------------------------------------------------------

/// A way to read a path: the decoded segments that the app looks up.
struct App {
    name: &'static str,
    serves: fn(&str) -> Vec<String>,
    case: PathCase,
}

const APPS: [App; 4] = [
    App { name: "flask", serves: flask, case: PathCase::Sensitive },
    App { name: "express", serves: express, case: PathCase::Insensitive },
    App { name: "cuts parameters", serves: cuts_parameters, case: PathCase::Sensitive },
    App { name: "decodes twice", serves: decodes_twice, case: PathCase::Sensitive },
];

/// The WSGI server decodes the whole path, werkzeug merges slashes, file serving resolves dots.
fn flask(path: &str) -> Vec<String> {
    resolve(&decode(cut_query(path)), true)
}

/// `url.parse` takes `\` for `/`; routes are compared without case, each segment is decoded by itself.
fn express(path: &str) -> Vec<String> {
    let path = cut_query(path).replace('\\', "/");
    resolve(&path, false).iter().map(|segment| decode(segment)).collect()
}

/// Servlet containers: `;…` is cut from each segment, before decoding and (some) after; then dots.
fn cuts_parameters(path: &str) -> Vec<String> {
    let cut = |text: &str| {
        let segments = text.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        segments.collect::<Vec<_>>().join("/")
    };
    resolve(&cut(&decode(&cut(cut_query(path)))), true)
}

/// A proxy of the app's own, or a framework that decodes what was decoded.
fn decodes_twice(path: &str) -> Vec<String> {
    resolve(&decode(&decode(cut_query(path))), true)
}

fn cut_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Lenient, as apps are: a bad `%` stays, overlong UTF-8 is what it was meant to be.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = digits.filter(|_| first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    let mut out = String::new();
    let mut rest = bytes.as_slice();
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail.first()) {
            (0xc0 | 0xc1, Some(&next)) if next & 0xc0 == 0x80 => {
                out.push(char::from((first & 1) << 6 | next & 0x3f));
                rest = &tail[1..];
            }
            _ => {
                out.push(char::from(first));
                rest = tail;
            }
        }
    }
    out
}

fn resolve(path: &str, merge: bool) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "" if merge => {}
            "." => {}
            ".." => drop(out.pop()),
            segment => out.push(segment.to_owned()),
        }
    }
    out
}

impl App {
    fn is(&self, served: &[String], name: &str) -> bool {
        served.first().is_some_and(|first| match self.case {
            PathCase::Sensitive => first == name,
            PathCase::Insensitive => first.eq_ignore_ascii_case(name),
        })
    }

    /// What the rules ask for the thing that this app serves. `public` is public in either case: so
    /// the operator said with `path_case`, and an app that tells cases apart has nothing there.
    fn rules_ask(&self, served: &[String]) -> Asks {
        if self.is(served, "admin") {
            Asks::AnAdmin
        } else if served.first().is_some_and(|first| first.eq_ignore_ascii_case("public")) {
            Asks::Nothing
        } else {
            Asks::ACaller
        }
    }

    /// Whether the gateway asked for less than the rules do for what this app serves.
    fn is_fooled(&self, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Keeps => false,
            Verdict::Forwards(path, asked) => *asked < self.rules_ask(&(self.serves)(path)),
        }
    }
}

fn app(name: &str) -> &'static App {
    APPS.iter().find(|app| app.name == name).expect("a model")
}

// ---- the corpus ------------------------------------------------------------------------------

/// Ways to write `..` (or to be taken for it).
const UPS: &[&str] = &[
    "..",
    "%2e%2e",
    "%2E%2E",
    ".%2e",
    "%2e.",
    "%252e%252e",
    "%25252e%25252e",
    "%25%32%65%25%32%65",
    "%%32%65%%32%65",
    ".%252e",
    "..;",
    "..;x=y",
    ";/..",
    "..%3b",
    "..%3Bx",
    "..%253b",
    "%2e%2e;",
    "..%00",
    "..%09",
    "..%20",
    "..%0d",
    "..\\",
    "..%5c",
    "..%255c",
    "...",
    "....",
    "..%2f..",
    "..%252f..",
    "%c0%ae%c0%ae",
    "%c0%2e%c0%2e",
    "%e0%80%ae%e0%80%ae",
    "%f0%80%80%ae%f0%80%80%ae",
    "%u002e%u002e",
    "%uff0e%uff0e",
    "%ef%bc%8e%ef%bc%8e",
    "．．",
    ".",
    "%2e",
    "./..",
    "//..",
    "x/../..",
    "..//",
    ".//..",
];

/// Ways to write `/` (or to be taken for it), between `..` and `admin`.
const SLASHES: &[&str] =
    &["/", "//", "/./", "%2f", "%2F", "%252f", "\\", "%5c", "%c0%af", "%ef%bc%8f", ";/", "%3b/"];

/// Ways to write `admin` (or to be taken for it).
const ADMINS: &[&str] = &[
    "admin",
    "ADMIN",
    "aDmIn",
    "%61dmin",
    "%41dmin",
    "adm%69n",
    "%61%64%6d%69%6e",
    "%2561dmin",
    "%252561dmin",
    "%25%36%31dmin",
    "%%361dmin",
    "adm%2569n",
    "%c1%a1dmin",
    "%e0%81%a1dmin",
    "%ef%bd%81dmin",
    "ａdmin",
    "%u0061dmin",
    "adm%C4%B1n",
    "admin.",
    "admin%2e",
    "admin%20",
    "%20admin",
    "admin%00",
    "admin%00.css",
    "admin%0a",
    "admin;",
    "admin;x=y",
    "admin%3b",
    "admin%3bx=y",
    "admin%253b",
    "admin%2f",
    "admin%252f",
    "admin%5c",
    "admin\\",
    "admin#",
    "admin?",
    "admin%23",
    "admin%3f",
    "administrator",
    "admin..",
    "admin;/x",
];

/// What fits no pattern.
const ODD: &[&str] = &[
    "",
    "*",
    "admin",
    "http://app.example/admin",
    "/",
    "//",
    "/..",
    "/../admin",
    "/../../admin",
    "/.",
    "/./admin",
    "/%2e/admin",
    "/%2e%2fadmin",
    "/.;/admin",
    "/;/admin",
    "/;x/admin",
    "/%3b/admin",
    "//app.example/admin",
    "//admin",
    "///admin///users",
    "/\\admin",
    "/%5cadmin",
    "/%2fadmin",
    "/%2f/admin",
    "/%252fadmin",
    "/public",
    "/PUBLIC/x",
    "/%70ublic/x",
    "/%2570ublic/x",
    "/public%2fadmin",
    "/public%2f..%2fadmin",
    "/public%252f..%252fadmin",
    "/public..",
    "/public../admin",
    "/public..%2fadmin",
    "/public;/../admin",
    "/public;x=/../admin",
    "/public/;/../admin",
    "/public/..admin",
    "/public/x/../y",
    "/public/%23/../../admin",
    "/public?/../admin",
    "/public#/../admin",
    "/publicadmin",
    "/public%00/../admin",
    "/public/..%u2215admin",
    "/admin/..",
    "/admin/../public",
    "/admin/../public/x",
    "/admin/%2e%2e/public",
    "/admin/..;/public",
    "/admin/x/../../public/y",
    "/admin/..%2fpublic",
    "/x/../admin",
    "/x/..//admin",
    "/x/%2e%2e/admin",
    "/x%2f..%2fadmin",
    "/x/..%2f..%2fadmin",
    "/%",
    "/%a",
    "/%zz/../admin",
    "/admin%",
    "/admin%zz",
    "/admin%u0000",
    "/auth/../admin",
    "/public/../auth/login",
];

/// Ways into the gateway's own namespace.
const OWN: &[&str] = &[
    "/auth/login",
    "//auth/login",
    "/Auth/login",
    "/AUTH",
    "/./auth/login",
    "/x/../auth/login",
    "/%61uth/login",
    "/%41uth/login",
    "/%2561uth/login",
    "/auth%2flogin",
    "/auth%252flogin",
    "/auth;x/login",
    "/auth%3bx/login",
    "/;/auth/login",
    "/auth\\login",
    "/auth%5clogin",
    "/auth//login",
    "/auth/./login",
    "/public/..;/auth/login",
    "/public/%2e%2e/auth/login",
    "/%c1%a1uth/login",
];

fn corpus() -> Vec<String> {
    let mut targets: BTreeSet<String> = ODD.iter().chain(OWN).map(|target| (*target).to_owned()).collect();
    for admin in ADMINS {
        for prefix in ["/", "//", "/public/../", "/public/", "/public/x/../../"] {
            for suffix in ["", "/", "/users", "/../admin"] {
                targets.insert(format!("{prefix}{admin}{suffix}"));
            }
        }
    }
    for up in UPS {
        for slash in SLASHES {
            for prefix in ["/public/", "/public/x/", "/", "/public", "/admin/"] {
                for admin in ["admin", "admin/users", "Admin", "%61dmin", "public/x"] {
                    targets.insert(format!("{prefix}{up}{slash}{admin}"));
                }
            }
        }
    }
    targets.into_iter().collect()
}

fn fooled(app: &App, judge: impl Fn(&str) -> Verdict) -> Vec<String> {
    corpus().into_iter().filter(|raw| app.is_fooled(&judge(raw))).collect()
}

// ---- the tests -------------------------------------------------------------------------------

#[test]
fn the_corpus_is_large_and_reaches_both_answers() {
    let gateway = Gateway::new(PathCase::Insensitive, PathAllowances::default());
    let (forwarded, kept): (Vec<_>, Vec<_>) =
        corpus().into_iter().partition(|raw| matches!(gateway.judge(raw), Verdict::Forwards(..)));
    assert!(forwarded.len() >= 150, "only {} targets are forwarded", forwarded.len());
    assert!(kept.len() >= 150, "only {} targets are refused", kept.len());
    for asked in [Asks::Nothing, Asks::ACaller, Asks::AnAdmin] {
        let some =
            forwarded.iter().any(|raw| matches!(gateway.judge(raw), Verdict::Forwards(_, a) if a == asked));
        assert!(some, "nothing in the corpus is judged as {asked:?}");
    }
}

#[test]
fn no_app_serves_more_than_the_gateway_asked_for() {
    let gateway = Gateway::new(PathCase::Insensitive, PathAllowances::default());
    for app in &APPS {
        let fooled = fooled(app, |raw| gateway.judge(raw));
        assert!(fooled.is_empty(), "{}: {fooled:?}", app.name);
    }
}

#[test]
fn every_model_catches_a_gateway_that_does_not_canonicalise() {
    for app in &APPS {
        let fooled = fooled(app, matches_raw);
        assert!(fooled.len() >= 20, "{} is no oracle: it caught {fooled:?}", app.name);
    }
}

/// Each model is there for one kind of fault, and finds that kind where nothing else is wrong.
#[test]
fn every_model_catches_its_own_kind_of_fault() {
    let semicolon = PathAllowances { semicolon: true, ..PathAllowances::default() };
    let encoded_slash = PathAllowances { encoded_slash: true, ..PathAllowances::default() };
    let lax = |case, allow| {
        let gateway = Gateway::new(case, allow);
        move |raw: &str| gateway.judge(raw)
    };
    let catches = |name: &str, target: &str, judge: &dyn Fn(&str) -> Verdict| {
        assert!(corpus().iter().any(|raw| raw == target), "{target} is not in the corpus");
        assert!(app(name).is_fooled(&judge(target)), "{name} misses {target}: {:?}", judge(target));
    };
    catches("flask", "/admin%2f/users", &lax(PathCase::Insensitive, encoded_slash));
    catches("express", "/ADMIN", &lax(PathCase::Sensitive, PathAllowances::default()));
    catches("cuts parameters", "/admin;x=y/users", &lax(PathCase::Insensitive, semicolon));
    catches("cuts parameters", "/admin%3b", &lax(PathCase::Insensitive, semicolon));
    catches("cuts parameters", "/;/admin", &lax(PathCase::Insensitive, semicolon));
    catches("cuts parameters", "/public/..;/admin", &matches_decoded_once);
    catches("decodes twice", "/%2561dmin", &matches_decoded_once);
    catches("decodes twice", "/public/%252e%252e/admin", &matches_decoded_once);
}

#[test]
fn no_spelling_carries_the_gateways_own_paths_to_the_app() {
    let gateway = Gateway::new(PathCase::Insensitive, PathAllowances::default());
    let leaks = |judge: &dyn Fn(&str) -> Verdict| {
        let reads_as_own = |raw: &&String| match judge(raw) {
            Verdict::Forwards(path, _) => APPS.iter().any(|app| app.is(&(app.serves)(&path), "auth")),
            Verdict::Keeps => false,
        };
        corpus().iter().filter(reads_as_own).cloned().collect::<Vec<_>>()
    };
    assert_eq!(leaks(&|raw| gateway.judge(raw)), [""; 0]);
    assert!(leaks(&matches_raw).len() >= 10);
}

/// The forwarded path is a canonical one: sent once more, it gets the same answer and stays as it is.
#[test]
fn a_forwarded_path_is_judged_the_same_the_second_time() {
    let gateway = Gateway::new(PathCase::Insensitive, PathAllowances::default());
    for raw in corpus() {
        let verdict = gateway.judge(&raw);
        if let Verdict::Forwards(path, _) = &verdict {
            assert_eq!(gateway.judge(path), verdict, "{raw}");
        }
    }
}

#[test]
fn well_known_attacks_end_as_they_should() {
    let gateway = Gateway::new(PathCase::Insensitive, PathAllowances::default());
    let forwards = |path: &str, asked| Verdict::Forwards(path.to_owned(), asked);
    for (raw, verdict) in [
        ("/public/../admin/secrets", forwards("/admin/secrets", Asks::AnAdmin)),
        ("/public/%2e%2e/admin", Verdict::Keeps),
        ("/public/..%2fadmin", Verdict::Keeps),
        ("/public/..;/admin", Verdict::Keeps),
        ("/public/..%3b/admin", Verdict::Keeps),
        ("/public/%252e%252e/admin", Verdict::Keeps),
        ("//admin/x", forwards("/admin/x", Asks::AnAdmin)),
        ("/ADMIN/x", forwards("/ADMIN/x", Asks::AnAdmin)),
        ("/%61dmin", forwards("/admin", Asks::AnAdmin)),
        ("/admin#x", Verdict::Keeps),
        ("/public\\..\\admin", Verdict::Keeps),
        ("/admin..", forwards("/admin..", Asks::ACaller)),
        ("/public../admin", forwards("/public../admin", Asks::ACaller)),
        ("/administrator", forwards("/administrator", Asks::ACaller)),
        ("/public/x", forwards("/public/x", Asks::Nothing)),
    ] {
        assert_eq!(gateway.judge(raw), verdict, "{raw}");
    }
}
