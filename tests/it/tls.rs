//! TLS towards clients: certificates, versions, client certificates, limits, the way there from clear text, and
//! what becomes of it when the gateway changes while it serves.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::reload::{load, reload};
use super::support::client::Client;
use super::support::config::Config;
use super::support::eventually;
use super::support::gateway::Gateway;
use super::support::h2::{self, H2};
use super::support::request::{Request, get, post};
use super::support::tls::{Authority, Issued, TlsClient, tcp};
use super::support::upstream::Upstream;
use super::take_over::{Crowd, says_close};

/// A gateway with certificates `one` (one.test, the default) and `two` (two.test, *.wild.test).
struct Site {
    authority: Authority,
    one: Issued,
    two: Issued,
    upstream: Upstream,
    gateway: Gateway,
}

impl Site {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(change: impl FnOnce(Config) -> Config) -> Self {
        let authority = Authority::new();
        let (one, two) = (authority.issue(&["one.test"]), authority.issue(&["two.test", "*.wild.test"]));
        let upstream = Upstream::echo();
        let certificates =
            r#"[{ cert = "one.pem", key = "one.key" }, { cert = "two.pem", key = "two.key" }]"#;
        let config =
            Config::new().upstream("app", upstream.port()).set("server.tls", "certificates", certificates);
        let mut gateway = Gateway::prepare(&change(config));
        one.write(gateway.home(), "one");
        two.write(gateway.home(), "two");
        fs::write(gateway.home().join("ca.pem"), authority.pem()).unwrap();
        gateway.start_again();
        Self { authority, one, two, upstream, gateway }
    }

    fn connect_as(&self, name: &str) -> Result<TlsClient, String> {
        let config = Arc::new(self.authority.client(&[], None));
        TlsClient::connect(self.gateway.address(), name, &config)
    }

    fn connect(&self) -> TlsClient {
        self.connect_as("one.test").unwrap()
    }

    /// A configuration with the certificates in these files, the first by default.
    fn config(&self, names: &[&str]) -> Config {
        let files = names.iter().map(|name| format!("{{ cert = \"{name}.pem\", key = \"{name}.key\" }}"));
        let files = format!("[{}]", files.collect::<Vec<_>>().join(", "));
        Config::new().upstream("app", self.upstream.port()).set("server.tls", "certificates", &files)
    }

    fn get(&self, own: Option<&Issued>) -> Result<u16, String> {
        let config = Arc::new(self.authority.client(&[], own));
        let mut client = TlsClient::connect(self.gateway.address(), "one.test", &config)?;
        client.ask(&get("/public/x").bytes()).map(|response| response.status)
    }

    fn handshakes(&self, result: &str) -> f64 {
        let name = format!("gatepost_tls_handshakes_total{{result=\"{result}\"}}");
        self.gateway.metric(&name).unwrap()
    }
}

#[test]
fn the_name_that_is_asked_for_chooses_the_certificate() {
    let site = Site::new();
    for (name, expected) in [("one.test", &site.one), ("two.test", &site.two), ("a.wild.test", &site.two)] {
        let client = site.connect_as(name).unwrap();
        assert_eq!(client.certificate(), expected.der, "{name}");
    }
    // The client finds that this is not whom it asked for: everybody else gets the first.
    for unknown in ["three.test", "a.b.wild.test"] {
        let error = site.connect_as(unknown).err().unwrap();
        assert!(error.contains("one.test"), "{error}");
    }
    // An address is never sent as a name.
    let error = site.connect_as("127.0.0.1").err().unwrap();
    assert!(error.contains("one.test"), "{error}");
    // A client of TLS 1.3 is done before the server has heard that it is.
    eventually("successes are counted", || (site.handshakes("ok") >= 3.0).then_some(()));
    eventually("failures are counted", || (site.handshakes("failed") >= 3.0).then_some(()));
}

#[test]
fn a_request_over_tls_says_so_to_the_app() {
    let site = Site::new();
    let response = site.connect().ask(&get("/public/x").bytes()).unwrap();
    assert_eq!(response.status, 200);
    let seen = site.upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen[0].header("x-forwarded-port"), Some(&*site.gateway.address().port().to_string()));
    // And what is refused in clear text is refused here.
    let response = site.connect().ask(&get("/private").bytes()).unwrap();
    assert_eq!((response.status, response.code()), (401, "missing_token".to_owned()));
    assert_eq!(site.upstream.count(), 1);
}

#[test]
fn requests_and_large_answers_go_through_one_connection() {
    let body = "x".repeat(300_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let upstream = Upstream::answering(answer);
    let site = Site::with(|config| {
        let large = "path = \"/large/**\"\naccess = \"public\"\nupstream = \"large\"";
        let small = "path = \"/small/**\"\naccess = \"public\"\nupstream = \"app\"";
        config.upstream("large", upstream.port()).no_routes().route(large).route(small)
    });
    let mut client = site.connect();
    for _ in 0..3 {
        let response = client.ask(&get("/large/x").bytes()).unwrap();
        assert_eq!(response.body.len(), body.len());
        let response = client.ask(&get("/small/x").bytes()).unwrap();
        assert_eq!(response.status, 200);
    }
}

#[test]
fn the_protocol_is_agreed_upon() {
    let site = Site::new();
    let speak = |protocols: &[&str]| {
        let config = Arc::new(site.authority.client(protocols, None));
        TlsClient::connect(site.gateway.address(), "one.test", &config).map(|client| client.protocol())
    };
    assert_eq!(speak(&["h2", "http/1.1"]).unwrap().as_deref(), Some("h2"));
    assert_eq!(speak(&["http/1.1", "h2"]).unwrap().as_deref(), Some("h2"));
    assert_eq!(speak(&["http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(speak(&[]).unwrap(), None);
    assert!(speak(&["spdy/3"]).is_err());
    // Nobody but an authority that was asked to come is let in by this name.
    assert!(speak(&["acme-tls/1"]).is_err());
    assert_eq!(site.upstream.opened(), 0);
}

#[test]
fn old_versions_are_spoken_unless_they_are_not() {
    let versions = [&rustls::version::TLS12];
    let site = Site::new();
    let config = Arc::new(site.authority.client_of(&versions, &[], None));
    let mut client = TlsClient::connect(site.gateway.address(), "one.test", &config).unwrap();
    assert_eq!(client.ask(&get("/public/x").bytes()).unwrap().status, 200);

    let site = Site::with(|config| config.set("server.tls", "min_version", "\"1.3\""));
    let config = Arc::new(site.authority.client_of(&versions, &[], None));
    assert!(TlsClient::connect(site.gateway.address(), "one.test", &config).is_err());
    assert_eq!(site.get(None).unwrap(), 200);
    assert_eq!(site.upstream.count(), 1);
}

#[test]
fn client_certificates_are_required_or_optional_or_not_looked_at() {
    let stranger = Authority::new().issue(&["mallory"]);
    let with = |auth: &str| {
        let auth = format!("\"{auth}\"");
        Site::with(|config| {
            config.set("server.tls", "client_ca", "\"ca.pem\"").set("server.tls", "client_auth", &auth)
        })
    };
    let required = with("required");
    assert!(required.get(None).is_err());
    assert!(required.get(Some(&stranger)).is_err());
    assert_eq!((required.upstream.count(), required.upstream.opened()), (0, 0));
    let alice = required.authority.issue(&["alice"]);
    assert_eq!(required.get(Some(&alice)).unwrap(), 200);
    assert_eq!(required.upstream.count(), 1);

    let optional = with("optional");
    assert!(optional.get(Some(&stranger)).is_err());
    assert_eq!(optional.upstream.count(), 0);
    assert_eq!(optional.get(None).unwrap(), 200);
    let alice = optional.authority.issue(&["alice"]);
    assert_eq!(optional.get(Some(&alice)).unwrap(), 200);

    assert_eq!(Site::new().get(Some(&stranger)).unwrap(), 200);
}

#[test]
fn a_session_resumes_on_whichever_worker() {
    let site = Site::new();
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let config = Arc::new(site.authority.client_of(versions, &[], None));
        for round in 0..12 {
            let mut client = TlsClient::connect(site.gateway.address(), "one.test", &config).unwrap();
            // Tickets come with the answer at the latest.
            assert_eq!(client.ask(&get("/public/x").bytes()).unwrap().status, 200);
            assert_eq!(client.resumed(), round > 0, "round {round}");
        }
    }
}

#[test]
fn a_client_that_says_nothing_or_half_is_closed() {
    let site = Site::with(|config| config.set("server.limits", "handshake_timeout", "\"1s\""));
    let mut silent = tcp(site.gateway.address());
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
    let mut half = tcp(site.gateway.address());
    half.write_all(&hello()[..50]).unwrap();
    assert_eq!(half.read(&mut [0; 16]).unwrap(), 0);
    eventually("both are counted", || (site.handshakes("timeout") > 1.0).then_some(()));
    assert_eq!(site.get(None).unwrap(), 200);
}

/// A whole first message.
fn hello() -> Vec<u8> {
    let config = Arc::new(Authority::new().client(&[], None));
    let mut connection = ClientConnection::new(config, ServerName::try_from("one.test").unwrap()).unwrap();
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn handshakes_wait_for_their_turn_and_silent_connections_take_none() {
    let site = Site::with(|config| config.set("server.limits", "handshakes", "1"));
    let in_flight = || site.gateway.metric("gatepost_tls_handshakes_in_flight").unwrap();
    let silent: Vec<TcpStream> = (0..5).map(|_| tcp(site.gateway.address())).collect();
    assert_eq!(site.get(None).unwrap(), 200);
    let mut slow = tcp(site.gateway.address());
    slow.write_all(&hello()).unwrap();
    eventually("it is in flight", || (in_flight() > 0.0).then_some(()));
    let before = site.upstream.count();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| site.get(None));
        eventually("it is connected", || (site.gateway.metric("gatepost_connections")? >= 7.0).then_some(()));
        assert_eq!((in_flight().to_string(), site.upstream.count()), ("1".to_owned(), before));
        assert!(!waiting.is_finished());
        drop(slow);
        assert_eq!(waiting.join().unwrap().unwrap(), 200);
    });
    drop(silent);
    eventually("nothing is held", || (in_flight() < 1.0).then_some(()));
}

#[test]
fn clear_text_is_told_that_this_is_the_other_port() {
    let site = Site::new();
    let response = Client::connect(site.gateway.address()).send(get("/public/x").bytes()).response();
    assert_eq!(response.status, 400);
    assert_eq!(response.text(), "The plain HTTP request was sent to HTTPS port.\n");
    // What is neither gets no answer.
    let mut rubbish = tcp(site.gateway.address());
    rubbish.write_all(&[0, 1, 2, 3]).unwrap();
    let mut answer = Vec::new();
    let _ = rubbish.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(site.upstream.opened(), 0);
    eventually("both are counted", || (site.handshakes("failed") >= 2.0).then_some(()));
}

#[test]
fn a_redirecting_listener_leads_to_the_same_place_over_tls() {
    let site = Site::with(|config| config.set("server", "redirect_http", "[\"127.0.0.1:0\"]"));
    let (https, http) = (site.gateway.listener(0), site.gateway.listener(1));
    let ask = |request: Request| Client::connect(http).send(request.bytes()).response();
    let to = |place: &str| format!("https://app.test:{}{place}", https.port());
    for request in [get("/a/b?c=d"), post("/a/b?c=d").body("text/plain", "hello")] {
        let response = ask(request);
        assert_eq!((response.status, response.header("location")), (308, Some(&*to("/a/b?c=d"))));
    }
    // With a token or without, known to the routes or not: nobody looks.
    assert_eq!(ask(get("/admin/x").bearer("x")).header("location"), Some(&*to("/admin/x")));
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
    ] {
        let response = Client::connect(http).send(format!("{head}\r\n")).response();
        assert_eq!((response.status, response.header("location")), (400, None), "{head}");
    }
    assert_eq!(ask(get("/.well-known/acme-challenge/x")).status, 308);
    assert_eq!(site.upstream.opened(), 0);
    let redirects =
        |result: &str| site.gateway.metric(&format!("gatepost_redirects_total{{result=\"{result}\"}}"));
    assert_eq!(redirects("redirected"), Some(4.0));
}

#[test]
fn a_redirecting_listener_has_the_same_limits() {
    let site = Site::with(|config| {
        config.set("server", "redirect_http", "[\"127.0.0.1:0\"]").set(
            "server.limits",
            "header_timeout",
            "\"1s\"",
        )
    });
    let mut slow = Client::connect(site.gateway.listener(1));
    slow.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    slow.wire.rest();
    assert_eq!(site.gateway.metric("gatepost_connections_ended_total{reason=\"header_timeout\"}"), Some(1.0));
}

#[test]
fn certificates_are_renewed_while_connections_stay() {
    let site = Site::new();
    let expiry = "gatepost_certificate_expiry_seconds{name=\"one.test\"}";
    assert!(site.gateway.metric(expiry).unwrap() > 1.7e9);
    let mut open = site.connect();
    assert_eq!(open.ask(&get("/public/x").bytes()).unwrap().status, 200);

    fs::write(site.gateway.home().join("one.pem"), "rubbish").unwrap();
    let reloads = |result: &str| {
        site.gateway.metric(&format!("gatepost_certificate_reloads_total{{result=\"{result}\"}}")).unwrap()
    };
    eventually("the bad one was noticed", || (reloads("failed") >= 1.0).then_some(()));
    assert_eq!(site.connect().certificate(), site.one.der, "the one before is still served");
    let names_it = || site.gateway.log().iter().any(|line| line.contains("one.pem")).then_some(());
    eventually("the log names the file", names_it);

    let next = site.authority.issue(&["one.test"]);
    next.write(site.gateway.home(), "one");
    eventually("the new one is served", || (site.connect().certificate() == next.der).then_some(()));
    assert_eq!(site.connect_as("two.test").unwrap().certificate(), site.two.der);
    assert!(reloads("ok") >= 1.0);
    assert_eq!(open.ask(&get("/public/x").bytes()).unwrap().status, 200);
}

#[test]
fn bad_certificates_are_named_and_nothing_starts() {
    let site = Site::new();
    let home = site.gateway.home();
    fs::write(home.join("one.pem"), "rubbish").unwrap();
    fs::remove_file(home.join("two.key")).unwrap();
    let checked = site.gateway.cli(&["check"]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    for word in ["one.pem", "no certificate", "two.key", "No such file"] {
        assert!(checked.stdout.contains(word), "{word} in {}", checked.stdout);
    }
    let mut again = site.gateway;
    again.stop();
    let ended = again.does_not_start();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("one.pem") && ended.stderr.contains("two.key"), "{}", ended.stderr);
}

#[test]
fn a_reload_brings_other_certificates_and_open_connections_stay() {
    let site = Site::new();
    let mut open = site.connect();
    assert_eq!(open.ask(&get("/public/x").bytes()).unwrap().status, 200);
    let h2_config = Arc::new(site.authority.client(&["h2"], None));
    let mut h2 = H2::connect_tls(site.gateway.address(), "one.test", &h2_config);
    assert_eq!(h2.get("/public/x").status, 200);
    let held = TlsClient::begin(site.gateway.address(), "one.test", &h2_config);

    let (next, three) = (site.authority.issue(&["one.test"]), site.authority.issue(&["three.test"]));
    next.write(site.gateway.home(), "next");
    three.write(site.gateway.home(), "three");
    reload(&site.gateway, &site.config(&["next", "three"]));
    assert_eq!(site.connect().certificate(), next.der);
    assert_eq!(site.connect_as("three.test").unwrap().certificate(), three.der);
    let gone = site.connect_as("two.test").err().unwrap();
    assert!(gone.contains("one.test"), "what is no longer named is no longer served: {gone}");
    // A handshake that had begun gets whichever, and succeeds.
    let certificate = held.finish().unwrap().certificate();
    assert!(certificate == next.der || certificate == site.one.der);
    let names = |name: &str| {
        site.gateway.metric(&format!("gatepost_certificate_expiry_seconds{{name=\"{name}\"}}")).is_some()
    };
    assert!(names("one.test") && names("three.test") && !names("two.test"));

    // What is in the new files counts from now on, without another signal.
    let renewed = site.authority.issue(&["three.test"]);
    renewed.write(site.gateway.home(), "three");
    let shown = || site.connect_as("three.test").unwrap().certificate();
    eventually("the renewed one is served", || (shown() == renewed.der).then_some(()));

    assert_eq!(open.ask(&get("/public/x").bytes()).unwrap().status, 200);
    assert_eq!(h2.get("/public/x").status, 200);
}

#[test]
fn a_reload_with_bad_certificates_changes_nothing_and_says_so() {
    let site = Site::new();
    let home = site.gateway.home();
    site.authority.issue(&["one.test"]).write(home, "next");
    site.authority.issue(&["one.test"]).write(home, "other");
    fs::write(home.join("rubbish.pem"), "rubbish").unwrap();
    fs::write(home.join("rubbish.key"), &site.one.key).unwrap();
    fs::copy(home.join("other.key"), home.join("mixed.key")).unwrap();
    fs::copy(home.join("next.pem"), home.join("mixed.pem")).unwrap();
    let stays = "the configuration was not loaded again";
    for (name, said) in [
        ("nowhere", "nowhere.pem"),
        ("rubbish", "rubbish.pem"),
        ("mixed", "does not belong to the certificate"),
    ] {
        let mut open = site.connect();
        // Routes of a file that is not good do not count, either.
        let config = site.config(&["next", name]).no_routes();
        load(&site.gateway, &config, stays);
        // A change of the file and the signal for it may be two loads: the first one's line is not the second's.
        let is_said = || site.gateway.log().iter().any(|line| line.contains(said)).then_some(());
        eventually(&format!("the log names {said}"), is_said);
        assert_eq!(site.gateway.metric("gatepost_config_reload_success"), Some(0.0));
        assert_eq!(site.connect().certificate(), site.one.der, "{name}");
        assert_eq!(site.connect_as("two.test").unwrap().certificate(), site.two.der, "{name}");
        assert_eq!(open.ask(&get("/public/x").bytes()).unwrap().status, 200, "{name}");
    }
    reload(&site.gateway, &site.config(&["two", "one"]));
    assert_eq!(site.gateway.metric("gatepost_config_reload_success"), Some(1.0));
}

#[test]
fn a_session_from_before_client_certificates_were_required_is_not_resumed() {
    let site = Site::new();
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        reload(&site.gateway, &site.config(&["one", "two"]));
        let config = Arc::new(site.authority.client_of(versions, &[], None));
        let connect = || TlsClient::connect(site.gateway.address(), "one.test", &config);
        for round in 0..2 {
            let mut client = connect().unwrap();
            assert_eq!(client.ask(&get("/public/x").bytes()).unwrap().status, 200);
            assert_eq!(client.resumed(), round > 0);
        }
        let before = site.upstream.count();
        let strict = site.config(&["one", "two"]);
        let strict = strict.set("server.tls", "client_ca", "\"ca.pem\"");
        reload(&site.gateway, &strict.set("server.tls", "client_auth", "\"required\""));
        let answer = connect().and_then(|mut client| client.ask(&get("/public/x").bytes()));
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(site.upstream.count(), before);
    }
}

#[test]
fn a_take_over_loses_no_handshake_and_no_request() {
    let mut site = Site::with(|config| config.set("server", "drain_timeout", "\"20s\""));
    let address = site.gateway.address();
    let asked = Arc::new(AtomicUsize::new(0));
    let mut crowd = Crowd::new();
    for (versions, keeps) in [
        (&[&rustls::version::TLS13][..], true),
        (&[&rustls::version::TLS12], true),
        (&[&rustls::version::TLS13], false),
        (&[&rustls::version::TLS12], false),
    ] {
        // Sessions of the one before are offered to the one that follows, too.
        let config = Arc::new(site.authority.client_of(versions, &["http/1.1"], None));
        let connect = move || TlsClient::connect(address, "one.test", &config).expect("a handshake");
        let (asked, mut client) = (Arc::clone(&asked), connect());
        crowd.join(move |_| {
            let answer = client.ask(&get("/public/x").bytes()).expect("an answer").expect(200);
            asked.fetch_add(1, Ordering::SeqCst);
            if says_close(&answer) {
                client.ends();
            }
            if says_close(&answer) || !keeps {
                client = connect();
            }
        });
    }
    let config = Arc::new(site.authority.client(&["h2"], None));
    let connect = move || H2::connect_tls(address, "one.test", &config);
    let (counted, mut client) = (Arc::clone(&asked), connect());
    crowd.join(move |_| {
        match client.try_ask(h2::get("/public/x"), b"") {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                counted.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                // It was told to go elsewhere, and before this request was begun.
                assert!(error.is_go_away() && error.reason() == Some(::h2::Reason::NO_ERROR), "{error}");
                client = connect();
            }
        }
    });
    crowd.goes_on();
    for _ in 0..2 {
        let mut old = site.gateway.take_over();
        crowd.goes_on();
        assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
        crowd.goes_on();
    }
    crowd.end();
    assert_eq!(site.upstream.count(), asked.load(Ordering::SeqCst), "each request went out once");
    assert!(site.handshakes("failed") < 1.0);
}

#[test]
fn a_take_over_does_not_concern_an_open_connection_or_a_handshake_that_has_begun() {
    let mut site = Site::with(|config| config.set("server", "drain_timeout", "\"10m\""));
    let address = site.gateway.address();
    let http1 = Arc::new(site.authority.client(&["http/1.1"], None));
    let mut idle = site.connect();
    assert_eq!(idle.ask(&get("/public/x").bytes()).unwrap().status, 200);
    let begun = TlsClient::begin(address, "one.test", &http1);
    let silent = tcp(address);
    eventually("all of them were accepted", || {
        (site.gateway.metric("gatepost_connections")? >= 3.0).then_some(())
    });
    let mut old = site.gateway.take_over();
    for mut client in [idle, begun.finish().unwrap()] {
        let answer = client.ask(&get("/public/x").bytes()).unwrap();
        assert!(answer.status == 200 && says_close(&answer), "{answer:?}");
        client.ends();
    }
    assert!(!old.has_ended());
    drop(silent);
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
    assert_eq!(site.upstream.count(), 3);
}

#[test]
fn a_session_of_the_old_one_begins_anew_in_the_new_one() {
    let mut site = Site::new();
    let configs = [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]]
        .map(|versions| Arc::new(site.authority.client_of(versions, &[], None)));
    let address = site.gateway.address();
    let resumes = |config: &Arc<rustls::ClientConfig>| {
        let mut client = TlsClient::connect(address, "one.test", config).unwrap();
        assert_eq!(client.ask(&get("/public/x").bytes()).unwrap().status, 200);
        client.resumed()
    };
    for config in &configs {
        assert_eq!([resumes(config), resumes(config)], [false, true]);
    }
    site.gateway.take_over().wait_for_exit();
    for config in &configs {
        // Each process has a key of its own for tickets; one of another's costs a whole handshake, and no more.
        assert_eq!([resumes(config), resumes(config)], [false, true]);
    }
    assert!(site.handshakes("failed") < 1.0);
}

#[test]
fn a_take_over_may_bring_tls_and_keeps_both_listeners() {
    let mut site = Site::new();
    let clear = Config::new().upstream("app", site.upstream.port());
    site.gateway.configure(&clear.clone().set("server", "drain_timeout", "\"10m\"").text());
    site.gateway.stop();
    site.gateway.start_again();
    let address = site.gateway.address();
    let mut open = site.gateway.connect();
    open.send(get("/public/x").bytes()).response().expect(200);
    // What a reload cannot change, a take-over can. Sockets go by how their place is written: these two differ.
    let config = site.config(&["one", "two"]).set("server", "redirect_http", "[\"127.0.0.2:0\"]");
    site.gateway.configure(&config.text());
    let mut old = site.gateway.take_over();
    assert_eq!(site.gateway.address(), address);
    // For a moment both accept.
    let shown = eventually("TLS is spoken", || Some(site.connect_as("one.test").ok()?.certificate()));
    assert_eq!(shown, site.one.der);
    let answer = open.send(get("/public/x").bytes()).response().expect(200);
    assert!(says_close(&answer));
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());

    let redirect = site.gateway.listener(1);
    let mut old = site.gateway.take_over();
    assert_eq!(old.wait_for_exit().code(), Some(0), "{}", old.log());
    assert_eq!((site.gateway.address(), site.gateway.listener(1)), (address, redirect));
    let answer = Client::connect(redirect).send(get("/public/x").bytes()).response();
    let to = format!("https://app.test:{}/public/x", address.port());
    assert_eq!((answer.status, answer.header("location")), (308, Some(&*to)));
    assert_eq!(site.connect().ask(&get("/public/x").bytes()).unwrap().status, 200);
}
