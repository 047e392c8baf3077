//! What good files come to.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;

use super::{REST, read_text, shown};
use crate::authz::{Access, OwnerClaim};
use crate::route::{MethodSet, PathCase};
use crate::settings::{
    AcmeSettings, AnswerSource, CertificateFiles, ClaimSource, ClientAuth, CorsOrigins, CorsSettings,
    CredentialForm, EjectionSettings, Endpoint, EndpointName, ErrorBodies, Expectation, HealthSettings, Ids,
    Limits, PreflightMode, Registration, RouteMode, Settings, SigningAlgorithm, TestCaller, TlsSettings,
    TlsVersion, UpstreamHost, UpstreamTls,
};

fn settings(text: &str) -> Settings {
    read_text(text).unwrap_or_else(|problems| panic!("{problems}")).settings
}

#[test]
fn an_empty_file_is_closed_and_forwards_nothing() {
    let read = read_text("").unwrap_or_else(|problems| panic!("{problems}"));
    let settings = &read.settings;
    assert!(settings.routes.is_empty() && settings.upstreams.is_empty());
    assert_eq!(settings.auth.registration, Registration::Closed);
    assert_eq!(settings.server.listen, [Endpoint::Tcp("127.0.0.1:8080".to_owned())]);
    assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(settings.admin.socket, PathBuf::from("data/gatepost.sock"));
    assert_eq!(settings.server.path_case, PathCase::Insensitive);
    assert!(settings.server.trusted_proxies.is_empty());
    assert!(settings.server.workers >= 1 && settings.auth.password.concurrent >= 1);
    assert!(matches!(settings.tokens.algorithm, SigningAlgorithm::EdDsa));
    assert_eq!(read.warnings.len(), 1);
    assert!(read.warnings[0].message.starts_with("there is no [[route]]"));
}

#[test]
fn every_key_reaches_its_setting() {
    let settings = settings(
        r#"
        [server]
        listen = ["0.0.0.0:80", "[::1]:81", "unix:run/gatepost.sock", "LOCALHOST:82"]
        workers = 3
        trusted_proxies = ["10.0.0.0/8", "192.0.2.7", "private", "::ffff:192.0.2.8"]
        path_case = "sensitive"
        allow = ["semicolon", "non_ascii"]
        drain_delay = "3s"
        drain_timeout = "1m"
        [server.limits]
        header_bytes = "16KiB"
        connections = 7
        [admin]
        listen = "[::1]:9"
        socket = "/run/gatepost.sock"
        [log]
        level = "warn,gatepost::gateway=debug"
        decisions = false
        [store]
        path = "/var/lib/gatepost"
        min_free = "0B"
        [auth]
        prefix = "/accounts/"
        registrations_per_address = "1/m"
        default_roles = ["reader"]
        reserved_usernames = ["Postmaster"]
        ids = "sequence"
        paths = { "/login/" = "login", "/users/me" = "me" }
        answer = { token = "access_token", user = "username" }
        errors = "flask-jwt"
        [auth.password]
        memory = "64MiB"
        [auth.throttle]
        lockout_max = "1m"
        [roles]
        reader = ["writer"]
        writer = ["reader"]
        [tokens]
        audience = "one"
        access_ttl = "5m"
        accept = ["jwt", "x-access-token"]
        claims = { identity = "sub", groups = "roles", token_type = "=access" }
        cache = "1MiB"
        [identity]
        preset = "remote-user"
        headers = { id = "X-Id", name = "" }
        roles_separator = ", "
        unverified_email = "send"
        forward_authorization = true
        [[upstream]]
        name = "app"
        servers = ["http://app", "http://10.0.0.1:81", "unix:app.sock", "http://[::1]:5000"]
        host = "upstream"
        timeout = "5s"
        [[upstream]]
        name = "api"
        servers = ["http://api:1"]
        [[route]]
        path = "/v1/{uid}/**"
        host = "*.example.com"
        methods = ["GET", "PURGE"]
        upstream = "api"
        strip_prefix = "/v1"
        timeout = "1ms"
        body_bytes = "1MB"
        roles = ["reader"]
        all_roles = ["writer", "reader"]
        owner = { uid = "username" }
        or_roles = ["writer"]
        mode = "report"
        forward_authorization = false
        [[route]]
        path = "/open"
        upstream = "app"
        access = "optional"
        [[test]]
        request = "PURGE http://a.example.com/v1/7/x?y"
        roles = ["reader"]
        user_id = "7"
        username = "alice"
        expect = 403
        "#,
    );
    let server = &settings.server;
    assert_eq!(
        server.listen,
        [
            Endpoint::Tcp("0.0.0.0:80".to_owned()),
            Endpoint::Tcp("[::1]:81".to_owned()),
            Endpoint::Unix(PathBuf::from("run/gatepost.sock")),
            Endpoint::Tcp("localhost:82".to_owned()),
        ]
    );
    assert_eq!((server.workers, server.path_case), (3, PathCase::Sensitive));
    let trusted = |text: &str| {
        let address: std::net::IpAddr = text.parse().expect("an address");
        server.trusted_proxies.iter().any(|net| net.contains(&address))
    };
    for believed in
        ["10.1.2.3", "192.0.2.7", "192.0.2.8", "127.0.0.1", "172.16.0.1", "::1", "fd00::1", "fe80::1"]
    {
        assert!(trusted(believed), "{believed}");
    }
    for stranger in ["11.0.0.1", "192.0.2.9", "172.32.0.1", "2001:db8::1"] {
        assert!(!trusted(stranger), "{stranger}");
    }
    assert!(server.allow.semicolon && server.allow.non_ascii && !server.allow.encoded_slash);
    assert_eq!((server.drain_delay, server.drain_timeout), (Duration::from_secs(3), Duration::from_mins(1)));
    assert_eq!((server.limits.header_bytes, server.limits.connections), (16 << 10, 7));
    assert_eq!(settings.admin.socket, PathBuf::from("/run/gatepost.sock"));
    assert_eq!(settings.auth.prefix.as_str(), "/accounts");
    let paths: Vec<_> = settings.auth.paths.iter().map(|(path, name)| (path.as_str(), *name)).collect();
    assert_eq!(paths, [("/login", EndpointName::Login), ("/users/me", EndpointName::Me)]);
    let answer = [("token", AnswerSource::AccessToken), ("user", AnswerSource::Username)];
    assert_eq!(settings.auth.answer, answer.map(|(name, source)| (name.to_owned(), source)));
    assert_eq!(settings.auth.errors, ErrorBodies::FlaskJwt);
    assert_eq!(settings.auth.reserved_usernames, ["postmaster"]);
    assert_eq!(settings.auth.ids, Ids::Sequence);
    assert_eq!(settings.auth.password.memory_kib, 64 << 10);
    assert_eq!(settings.auth.throttle.lockout_max, Duration::from_mins(1));
    let granted = settings.roles.expand(&settings.auth.default_roles);
    assert_eq!(granted.iter().count(), 2, "a cycle makes roles equal");
    let tokens = &settings.tokens;
    assert_eq!(tokens.audience, ["one"]);
    assert_eq!(tokens.accept, [CredentialForm::Jwt, CredentialForm::XAccessToken]);
    assert_eq!(
        tokens.claims,
        [("identity".to_owned(), ClaimSource::Sub), ("groups".to_owned(), ClaimSource::Roles)]
    );
    assert_eq!(tokens.fixed_claims, [("token_type".to_owned(), "access".to_owned())]);
    let headers = &settings.identity.headers;
    let name = |header: &Option<http::HeaderName>| header.as_ref().map(ToString::to_string);
    assert_eq!(name(&headers.user).as_deref(), Some("remote-user"));
    assert_eq!(name(&headers.id).as_deref(), Some("x-id"));
    assert_eq!(name(&headers.roles).as_deref(), Some("remote-groups"));
    assert_eq!((name(&headers.name), name(&headers.session)), (None, None));
    assert!(settings.identity.send_unverified_email && settings.identity.forward_authorization);

    let app = &settings.upstreams[0];
    assert_eq!(
        app.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["http://app:80", "http://10.0.0.1:81", "unix:app.sock", "http://[::1]:5000"]
    );
    assert_eq!((app.host, app.timeout), (UpstreamHost::Upstream, Duration::from_secs(5)));

    let route = &settings.routes[0];
    assert_eq!(route.upstream, 1);
    assert!(matches!(&route.rule.methods, MethodSet::Only(methods) if methods.len() == 2));
    assert_eq!(route.strip_prefix.as_deref(), Some("/v1"));
    assert_eq!((route.timeout, route.body_bytes), (Some(Duration::from_millis(1)), Some(1_000_000)));
    assert_eq!((route.mode, settings.routes[1].mode), (RouteMode::Report, RouteMode::Enforce));
    assert!(!route.forward_authorization && settings.routes[1].forward_authorization);
    assert_eq!((route.policy.any_of().len(), route.policy.all_of().len()), (1, 2));
    let owner = route.policy.owner().expect("an owner");
    assert_eq!((owner.param.as_str(), owner.claim, owner.or_roles.len()), ("uid", OwnerClaim::Username, 1));
    assert_eq!(settings.routes[1].policy.access(), Access::Optional);
    assert!(route.place.starts_with("config.toml:"), "{}", route.place);

    let test = &settings.tests[0];
    assert_eq!(
        (test.method.clone(), test.expect),
        (Method::from_bytes(b"PURGE").unwrap(), Expectation::Status(403))
    );
    assert!(matches!(&test.caller, TestCaller::User { user_id: Some(id), .. } if id == "7"));
}

#[test]
fn values_are_shown_with_their_origin() {
    let read =
        read_text(&format!("[server]\nworkers = 2\n{REST}")).unwrap_or_else(|problems| panic!("{problems}"));
    for (key, value, origin) in [
        ("server.workers", "2", "config.toml:2:11"),
        ("server.drain_timeout", "\"20s\"", "default"),
        ("tokens.refresh_ttl", "\"30d\"", "default"),
        ("roles.admin", "[\"user\"]", "default"),
        ("upstream.app.servers", "[\"http://127.0.0.1:5000\"]", "config.toml:5:11"),
        ("upstream.app.timeout", "\"1m\"", "default"),
        ("route[0].path", "\"/**\"", "config.toml:7:8"),
        ("route[0].access", "\"authenticated\"", "default"),
        ("route[0].upstream", "\"app\"", "default"),
        ("identity.headers.user", "\"X-Auth-User\"", "default"),
        ("store.path", "\"data\"", "default"),
    ] {
        assert_eq!(shown(&read, key), Some((value.to_owned(), origin.to_owned())), "{key}");
    }
    let keys: Vec<_> = read.shown.iter().map(|shown| &shown.key).collect();
    let unique: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(unique.len(), keys.len(), "{keys:?}");
}

#[test]
fn every_shown_value_is_toml() {
    let read = read_text(REST).unwrap_or_else(|problems| panic!("{problems}"));
    for shown in &read.shown {
        let parsed = toml::de::DeValue::parse(&shown.value);
        assert!(parsed.is_ok(), "{} = {}", shown.key, shown.value);
    }
}

#[test]
fn one_value_is_a_list_of_one_where_it_reads_well() {
    let server = settings("[server]\ntrusted_proxies = \"private\"\n").server;
    assert!(server.trusted_proxies.len() > 1);
    assert_eq!(settings("[tokens]\naudience = []\n").tokens.audience, [""; 0]);
}

#[test]
fn presets_name_their_headers() {
    for (preset, expected) in [
        (
            "gatepost",
            ["x-auth-user", "x-auth-id", "x-auth-email", "x-auth-name", "x-auth-roles", "x-auth-session"],
        ),
        ("oauth2-proxy", ["x-forwarded-user", "", "x-forwarded-email", "", "x-forwarded-groups", ""]),
        ("remote-user", ["remote-user", "", "remote-email", "remote-name", "remote-groups", ""]),
        ("none", [""; 6]),
    ] {
        let headers = settings(&format!("[identity]\npreset = \"{preset}\"")).identity.headers;
        let all = [headers.user, headers.id, headers.email, headers.name, headers.roles, headers.session];
        let names = all.map(|header| header.map(|header| header.to_string()).unwrap_or_default());
        assert_eq!(names, expected, "{preset}");
        let twice = headers.user_too.map(|header| header.to_string());
        assert_eq!(twice.as_deref(), (preset == "oauth2-proxy").then_some("x-forwarded-preferred-username"));
    }
}

#[test]
fn every_key_of_the_data_path_reaches_its_setting() {
    let settings = settings(
        r#"
        [server]
        listen = ["0.0.0.0:443"]
        redirect_http = ["0.0.0.0:80", "unix:redirect.sock"]
        trusted_proxies = ["10.0.0.0/8"]
        proxy_protocol = true
        [server.tls]
        certificates = [{ cert = "a.pem", key = "/etc/a.key" }, { cert = "b.pem", key = "b.key" }]
        min_version = "1.3"
        client_ca = "clients.pem"
        client_auth = "required"
        [server.tls.acme]
        domains = ["App.Example.com", "www.example.com"]
        email = "me@example.com"
        directory = "https://acme.test:14000/dir"
        agree_to_terms = true
        ca = "pebble.pem"
        [server.limits]
        connections_per_address = 1
        header_count = 2
        body_idle = "3s"
        write_stall = "4s"
        connection_age = "5s"
        handshakes = 6
        handshake_timeout = "7s"
        streams_per_connection = 8
        header_list_bytes = "9KiB"
        resets = 10
        pings = 11
        settings = 12
        [[upstream]]
        name = "app"
        servers = ["https://app", "h2c://10.0.0.1:50051", "https://[::1]:8443", "h2c://app", "unix:a.sock"]
        ca = "ca.pem"
        cert = "cert.pem"
        key = "key.pem"
        server_name = "App.internal"
        health = { path = "/healthz?deep=1", interval = "1s", timeout = "2s", healthy = 3, unhealthy = 4 }
        ejection = { failures = 0, duration = "1m" }
        slow_start = "30s"
        resolve = "1m"
        [[upstream]]
        name = "plain"
        servers = ["http://plain"]
        ca = ""
        [[route]]
        path = "/**"
        upstream = "app"
        "#,
    );
    let server = &settings.server;
    let tcp = |text: &str| Endpoint::Tcp(text.to_owned());
    assert_eq!(server.redirect_http, [tcp("0.0.0.0:80"), Endpoint::Unix("redirect.sock".into())]);
    assert!(server.proxy_protocol && !server.h2c);
    let files = |cert: &str, key: &str| CertificateFiles { cert: cert.into(), key: key.into() };
    let expected = TlsSettings {
        certificates: vec![files("a.pem", "/etc/a.key"), files("b.pem", "b.key")],
        min_version: TlsVersion::Tls13,
        client_ca: Some("clients.pem".into()),
        client_auth: ClientAuth::Required,
        acme: Some(AcmeSettings {
            domains: vec!["app.example.com".to_owned(), "www.example.com".to_owned()],
            email: Some("me@example.com".to_owned()),
            directory: "https://acme.test:14000/dir".to_owned(),
            ca: Some("pebble.pem".into()),
        }),
    };
    assert_eq!(server.tls.as_ref(), Some(&expected));
    let expected = Limits {
        connections_per_address: 1,
        header_count: 2,
        body_idle: Duration::from_secs(3),
        write_stall: Duration::from_secs(4),
        connection_age: Duration::from_secs(5),
        handshakes: 6,
        handshake_timeout: Duration::from_secs(7),
        streams_per_connection: 8,
        header_list_bytes: 9 << 10,
        resets: 10,
        pings: 11,
        settings: 12,
        ..Limits::default()
    };
    assert_eq!(server.limits, expected);

    let app = &settings.upstreams[0];
    let servers: Vec<_> = app.servers.iter().map(ToString::to_string).collect();
    assert_eq!(
        servers,
        ["https://app:443", "h2c://10.0.0.1:50051", "https://[::1]:8443", "h2c://app:80", "unix:a.sock"]
    );
    let expected = UpstreamTls {
        ca: Some("ca.pem".into()),
        client: Some(files("cert.pem", "key.pem")),
        server_name: Some("app.internal".to_owned()),
    };
    assert_eq!(app.tls, expected);
    let expected = HealthSettings {
        path: "/healthz?deep=1".to_owned(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
        healthy: 3,
        unhealthy: 4,
    };
    assert_eq!(app.health.as_ref(), Some(&expected));
    assert_eq!(app.ejection, EjectionSettings { failures: 0, duration: Duration::from_mins(1) });
    assert_eq!((app.slow_start, app.resolve), (Duration::from_secs(30), Duration::from_mins(1)));

    let plain = &settings.upstreams[1];
    assert_eq!((&plain.tls, &plain.health), (&UpstreamTls::default(), &None));
    assert_eq!(plain.ejection, EjectionSettings { failures: 5, duration: Duration::from_secs(10) });
    assert_eq!((plain.slow_start, plain.resolve), (Duration::ZERO, Duration::from_secs(30)));
}

#[test]
fn the_data_path_is_plain_by_default() {
    let server = settings("").server;
    assert!(server.tls.is_none() && server.redirect_http.is_empty());
    assert!(!server.h2c && !server.proxy_protocol);
    assert_eq!(server.limits, Limits::default());
}

#[test]
fn peers_on_a_unix_socket_need_no_trusted_network_for_their_proxy_header() {
    assert!(settings("[server]\nlisten = [\"unix:g.sock\"]\nproxy_protocol = true\n").server.proxy_protocol);
}

#[test]
fn origins_and_preflights_reach_their_settings() {
    let text = "[cors]\norigins = [\"https://a.example\", \"capacitor://localhost\", \"http://[::1]:5173\"]\nheaders = [\"X-Access-Token\"]\ncredentials = true\nmax_age = \"1h\"\n[[upstream]]\nname = \"app\"\nservers = [\"http://a\"]\n[[route]]\npath = \"/a\"\npreflight = \"answer\"\n[[route]]\npath = \"/b\"\npreflight = \"upstream\"\n[[route]]\npath = \"/c\"\npreflight = \"deny\"\n";
    let settings = read_text(text).unwrap_or_else(|problems| panic!("{problems}")).settings;
    let origins = ["https://a.example", "capacitor://localhost", "http://[::1]:5173"].map(str::to_owned);
    let expected = CorsSettings {
        origins: CorsOrigins::These(origins.to_vec()),
        headers: vec![http::HeaderName::from_static("x-access-token")],
        credentials: true,
        max_age: Duration::from_hours(1),
    };
    assert_eq!(settings.cors, expected);
    let preflights: Vec<_> = settings.routes.iter().map(|route| route.preflight).collect();
    assert_eq!(preflights, [PreflightMode::Answer, PreflightMode::Upstream, PreflightMode::Deny]);
    let any = read_text("[cors]\norigins = [\"*\"]\n").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(any.settings.cors.origins, CorsOrigins::Any);
}
