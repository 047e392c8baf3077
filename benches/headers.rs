//! What a request pays for its headers: a caller's identity made into lines, once for each token, and the
//! head that the upstream gets, once for each request.

use std::fs;
use std::hint::black_box;
use std::rc::Rc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use gatepost::authz::Permit;
use gatepost::config::{self, Sources};
use gatepost::gateway::{Rules, Target};
use gatepost::identity::{Authentication, Principal, RoleSet, SessionId};
use gatepost::message::client::Scheme;
use gatepost::message::forwarded::OwnElement;
use gatepost::message::identity::{IdentityHeaders, IdentityRules};
use gatepost::proxy::{DirectLines, Inward, Peer, Preview, UpstreamRoute};
use gatepost::route::{CanonicalPath, Found, Host, PathAllowances};
use gatepost::settings::Settings;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request};

const CONFIG: &str = r#"
[store]
path = "data"

[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]

[[route]]
path = "/**"
roles = ["user"]
"#;

/// As a browser's, with a token that a script has added.
const LINES: [(&str, &str); 7] = [
    ("host", "app.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "application/json, text/plain, */*"),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "theme=dark; sidebar=open; csrftoken=Zm9vYmFyYmF6cXV4; lang=en"),
    ("connection", "keep-alive"),
];

fn settings() -> Settings {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.toml");
    fs::write(&file, CONFIG).expect("written");
    let sources = Sources { file: Some(file), set: Vec::new(), env: Vec::new() };
    config::load(&sources).expect("a good file").settings
}

fn principal() -> Principal {
    Principal {
        id: "4ab2bb3f-19bb-4f2a-8ee1-0c2f1f0a6c11".parse().expect("a user id"),
        username: "alice".into(),
        name: Some("Alice Example".into()),
        email: None,
        roles: ["user", "editor"].map(|role| role.parse().expect("a role")).into_iter().collect::<RoleSet>(),
        session: SessionId::random(),
        generation: 1,
    }
}

/// 350 characters, as an access token has.
fn bearer() -> HeaderValue {
    HeaderValue::from_str(&format!("Bearer {}", "x".repeat(350))).expect("visible ASCII")
}

fn arrived() -> Parts {
    let mut request = Request::get("/notes/17?sort=date");
    for (name, value) in LINES {
        request = request.header(name, value);
    }
    request.header(AUTHORIZATION, bearer()).body(()).expect("a request").into_parts().0
}

fn permit<'a>(rules: &'a Rules, caller: &Principal) -> Permit<'a, UpstreamRoute> {
    let host = Host::parse("app.example.com").expect("a host");
    let path = CanonicalPath::parse("/notes/17", PathAllowances::default()).expect("a path");
    let Found::Route { target, params, .. } = rules.table().find(&host, &path, &Method::GET) else {
        unreachable!("one route takes everything")
    };
    let permit = target.authorize(Authentication::Authenticated(caller), |name| params.decoded(name));
    permit.expect("the caller has the role").project(Target::as_upstream).expect("it leads upstream")
}

fn inward<'a>(
    parts: Parts,
    peer: &'a Peer,
    identity: &Rc<IdentityHeaders>,
    is_ours: &'a dyn Fn(&HeaderName, &HeaderValue) -> bool,
) -> Inward<'a> {
    let request_id = HeaderValue::from_static("0b9c7f0e5d2a4c7f8e1d3b6a9c0f2e4d");
    Inward {
        parts,
        path: None,
        peer,
        identity: Some(Rc::<IdentityHeaders>::clone(identity)),
        is_ours,
        is_preflight: false,
        request_id,
    }
}

fn headers(c: &mut Criterion) {
    let (settings, caller) = (settings(), principal());
    let rules = Rules::new(&settings).expect("good rules");
    let (identity_rules, preview) = (IdentityRules::new(&settings.identity), Preview::new(&settings));
    let permit = permit(&rules, &caller);
    let peer = Peer {
        address: [192, 0, 2, 7].into(),
        address_value: HeaderValue::from_static("192.0.2.7"),
        port_value: Some(HeaderValue::from(8080)),
        scheme: Scheme::Http,
        forwarded: OwnElement::default(),
        direct: DirectLines::default(),
    };
    let identity = Rc::new(identity_rules.render(&caller));
    let (arrived, token) = (arrived(), bearer());
    // As for a caller who was found: the line of his token is ours.
    let is_ours = |name: &HeaderName, value: &HeaderValue| *name == AUTHORIZATION && *value == token;

    let sent = preview.head(&permit, inward(arrived.clone(), &peer, &identity, &is_ours));
    assert!(sent.headers.contains_key("x-auth-user") && !sent.headers.contains_key(AUTHORIZATION));
    assert!(!sent.headers.contains_key("connection"));

    c.bench_function("headers/identity", |b| b.iter(|| identity_rules.render(black_box(&caller))));
    c.bench_function("headers/head", |b| {
        b.iter_batched(
            || arrived.clone(),
            |parts| preview.head(&permit, inward(parts, &peer, &identity, &is_ours)),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, headers);
criterion_main!(benches);
