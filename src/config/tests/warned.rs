//! What is allowed, and seldom meant.

use super::{REST, read_text};

const UPSTREAM: &str = "[[upstream]]\nname = \"app\"\nservers = [\"http://a:1\"]\n";

fn warnings(text: &str) -> Vec<String> {
    let read = read_text(text).unwrap_or_else(|problems| panic!("{problems}"));
    read.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn open_registration_before_a_route_for_every_account() {
    let text = format!(
        "auth.registration = \"open\"\n{UPSTREAM}[[route]]\npath = \"/**\"\n[[route]]\npath = \"/b\"\nroles = [\"user\"]\n"
    );
    assert_eq!(
        warnings(&text),
        ["warning: anybody can register, and every account passes the route \"/**\" and 1 more
 --> config.toml:6:8
  |
6 | path = \"/**\"
  |        ^^^^^
note: registration is open
 --> config.toml:1:21
  |
1 | auth.registration = \"open\"
  |                     ^^^^^^"]
    );
    for fine in [
        "auth.registration = \"open\"\n[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[[route]]\npath = \"/**\"\nroles = [\"admin\"]\n",
        "auth.registration = \"open\"\n[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[[route]]\npath = \"/{id}\"\nowner = { id = \"sub\" }\n",
        "auth.registration = \"open\"\n[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[[route]]\npath = \"/**\"\naccess = \"public\"\n",
        REST,
    ] {
        assert_eq!(warnings(fine), [""; 0], "{fine}");
    }
}

#[test]
fn numbers_that_the_app_may_have_given_to_others() {
    let text = |auth: &str| {
        format!(
            "[auth]\nids = \"sequence\"\n{auth}{UPSTREAM}[[route]]\npath = \"/**\"\nroles = [\"admin\"]\n"
        )
    };
    assert_eq!(
        warnings(&text("registration = \"open\"\n")),
        ["warning: auth.ids: \"sequence\" beside open registration: who registers before the app's accounts are imported gets a number that the app has given to somebody else
 --> config.toml:2:7
  |
2 | ids = \"sequence\"
  |       ^^^^^^^^^^
note: registration is open
 --> config.toml:3:16
  |
3 | registration = \"open\"
  |                ^^^^^^
help: import first, with registration closed; if that is done, or the app has no accounts, all is well"]
    );
    for fine in ["", "registration = \"open\"\nadmission_url = \"http://127.0.0.1:5000/may\"\n"] {
        assert_eq!(warnings(&text(fine)), [""; 0], "{fine}");
    }
    let random = text("registration = \"open\"\n").replace("sequence", "uuid");
    assert_eq!(warnings(&random), [""; 0]);
}

#[test]
fn a_route_that_only_reports() {
    let route = |more: &str| format!("{UPSTREAM}[[route]]\npath = \"/**\"\n{more}");
    let found = warnings(&route("roles = [\"admin\"]\nmode = \"report\"\n"));
    assert_eq!(
        found,
        ["warning: the route \"/**\" does not enforce: whoever it would deny is reported, and passes
 --> config.toml:7:8
  |
7 | mode = \"report\"
  |        ^^^^^^^^"]
    );
    let public = warnings(&route("access = \"public\"\nmode = \"report\"\n"));
    assert_eq!(public.len(), 1, "{public:?}");
    assert!(public[0].contains("is public: it refuses nobody whom it could report"), "{}", public[0]);
    assert_eq!(warnings(&route("mode = \"enforce\"\n")), [""; 0]);
}

#[test]
fn origins_that_may_log_in_and_then_call_nothing() {
    let text = |preflight: &str| {
        format!("[cors]\norigins = [\"https://a.example\"]\n{UPSTREAM}[[route]]\npath = \"/**\"\n{preflight}")
    };
    let found = warnings(&text(""));
    assert_eq!(
        found,
        ["warning: pages of the origins in [cors] cannot call the route \"/**\" with a token
 --> config.toml:7:8
  |
7 | path = \"/**\"
  |        ^^^^^
help: browsers ask first, without the token, and are refused; preflight = \"answer\" or \"upstream\""]
    );
    for fine in [
        "preflight = \"answer\"\n",
        "preflight = \"upstream\"\n",
        "access = \"public\"\n",
        "[[route]]\npath = \"/a\"\nmethods = [\"OPTIONS\"]\naccess = \"public\"\n",
    ] {
        assert_eq!(warnings(&text(fine)), [""; 0], "{fine}");
    }
}

#[test]
fn a_token_in_a_header_that_pages_may_not_set() {
    let text = |cors: &str, accept: &str| {
        format!("[cors]\norigins = [\"https://a.example\"]\n{cors}[tokens]\naccept = [{accept}]\n{REST}")
    };
    // Problems come in the order of the file; with the closed window that every default route is.
    let warnings = |text: &str| {
        let mut found = warnings(text);
        found.retain(|warning| warning.contains("present a token"));
        found
    };
    assert_eq!(
        warnings(&text("", "\"bearer\", \"x-access-token\"")),
        ["warning: pages of the origins in [cors] cannot present a token in x-access-token, which tokens.accept takes
 --> config.toml:4:10
  |
4 | accept = [\"bearer\", \"x-access-token\"]
  |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
help: [cors] headers = [\"authorization\", \"content-type\", \"x-access-token\"]"]
    );
    // `*` would not cover it (Fetch standard), and so is not taken: it has to be named.
    assert_eq!(
        warnings(&text("headers = [\"content-type\"]\n", "\"bearer\", \"jwt\"")),
        ["warning: pages of the origins in [cors] cannot present a token in authorization, which tokens.accept takes
 --> config.toml:3:11
  |
3 | headers = [\"content-type\"]
  |           ^^^^^^^^^^^^^^^^
help: [cors] headers = [\"content-type\", \"authorization\"]"]
    );
    assert_eq!(warnings(&text("headers = [\"content-type\"]\n", "\"bearer\", \"x-access-token\"")).len(), 2);
    for fine in [
        text("", "\"bearer\""),
        text("headers = [\"X-Access-Token\"]\n", "\"x-access-token\""),
        text("headers = [\"AUTHORIZATION\"]\n", "\"jwt\""),
        format!("[tokens]\naccept = [\"x-access-token\"]\n{REST}"),
    ] {
        assert_eq!(warnings(&fine), [""; 0], "{fine}");
    }
}

#[test]
fn a_preflight_that_another_route_decides() {
    let text = |methods: &str| {
        format!(
            "{UPSTREAM}[[route]]\npath = \"/a/{{x}}\"\nmethods = [\"GET\"]\npreflight = \"upstream\"\n[[route]]\npath = \"/A/{{y}}\"\nmethods = [{methods}]\n"
        )
    };
    assert_eq!(
        warnings(&text("\"OPTIONS\"")),
        ["warning: preflight says nothing on the route \"/a/{x}\": another one names OPTIONS there
 --> config.toml:7:13
  |
7 | preflight = \"upstream\"
  |             ^^^^^^^^^^
note: that one decides
 --> config.toml:9:8
  |
9 | path = \"/A/{y}\"
  |        ^^^^^^^^"]
    );
    assert_eq!(warnings(&text("\"PUT\"")), [""; 0]);
}

#[test]
fn a_host_route_that_hides_a_stricter_one() {
    let text = format!(
        "{UPSTREAM}[[route]]\npath = \"/admin/**\"\nroles = [\"admin\"]\n[[route]]\npath = \"/**\"\nhost = \"a.example.com\"\n"
    );
    let found = warnings(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("config.toml:8:8") && found[0].contains("config.toml:5:8"), "{}", found[0]);

    let fine = format!(
        "{UPSTREAM}[[route]]\npath = \"/**\"\n[[route]]\npath = \"/**\"\nhost = \"a.example.com\"\nroles = [\"admin\"]\n"
    );
    assert_eq!(warnings(&fine), [""; 0]);
}

#[test]
fn a_route_beside_an_own_path_that_loosens_a_host() {
    let text = |access: &str| {
        format!(
            "auth.paths = {{ \"/login\" = \"login\" }}\n{UPSTREAM}[[route]]\npath = \"/login\"\nmethods = [\"GET\"]\naccess = \"{access}\"\n[[route]]\npath = \"/**\"\nhost = \"a.example.com\"\n"
        )
    };
    let found = warnings(&text("public"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("config.toml:6:8") && found[0].contains("config.toml:10:8"), "{}", found[0]);
    assert!(found[0].contains("beside a path of the gateway's own"), "{}", found[0]);
    assert_eq!(warnings(&text("authenticated")), [""; 0]);
}

#[test]
fn a_host_route_that_hides_many_stricter_ones_is_one_warning() {
    use std::fmt::Write as _;
    let mut text = UPSTREAM.to_owned();
    for n in 0..200 {
        let _ = write!(text, "[[route]]\npath = \"/r{n}\"\nroles = [\"admin\"]\n");
    }
    text += "[[route]]\npath = \"/**\"\nhost = \"a.example.com\"\n";
    let found = warnings(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("\"/r0\" that it hides there (and less than 199 more)"), "{}", found[0]);
}

/// Somebody wrote them because something is to happen, and nothing does.
#[test]
fn keys_that_say_nothing_without_another() {
    let legacy = |more: &str| {
        format!(
            "[[legacy_token]]\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\nuntil = \"9999-01-01\"\n{more}"
        )
    };
    let email = "[auth]\nlogin_name = \"email\"\n";
    for (text, expected) in [
        (
            "[cors]\nheaders = [\"authorization\"]\ncredentials = true\nmax_age = \"1h\"\n".to_owned(),
            vec![
                "cors.headers: says nothing without cors.origins",
                "cors.credentials: says nothing without cors.origins",
                "cors.max_age: says nothing without cors.origins",
            ],
        ),
        (
            "[auth]\nadmission_timeout = \"1s\"\n".to_owned(),
            vec!["auth.admission_timeout: says nothing without auth.admission_url"],
        ),
        (
            "[auth]\nadmission_url = \"\"\nadmission_timeout = \"1s\"\n".to_owned(),
            vec!["auth.admission_timeout: says nothing without auth.admission_url"],
        ),
        (
            legacy("account = \"id\"\nignore_case = true\n"),
            vec![
                "legacy_token[0].ignore_case: says nothing beside account = \"id\": ids are taken as they are",
            ],
        ),
        (
            format!("{email}usernames = \"unicode\"\nreserved_usernames = [\"boss\"]\n"),
            vec![
                "auth.usernames: says nothing beside login_name = \"email\": there are no usernames",
                "auth.reserved_usernames: says nothing beside login_name = \"email\": there are no usernames",
            ],
        ),
    ] {
        let read = read_text(&format!("{text}{REST}")).unwrap_or_else(|problems| panic!("{problems}"));
        let mut found: Vec<_> = read.warnings.iter().map(|warning| warning.message.as_str()).collect();
        found.retain(|message| message.contains("says nothing"));
        assert_eq!(found, expected, "{text}");
    }
    for fine in [
        "[auth]\nadmission_url = \"http://a/may\"\nadmission_timeout = \"1s\"\n".to_owned(),
        legacy("account = \"id\"\nignore_case = false\n"),
        legacy("account = \"either\"\nignore_case = true\n"),
        email.to_owned(),
        "[auth]\nusernames = \"unicode\"\nreserved_usernames = [\"boss\"]\n".to_owned(),
        "[cors]\norigins = []\n".to_owned(),
    ] {
        let found = warnings(&format!("{fine}{REST}"));
        assert!(!found.iter().any(|warning| warning.contains("says nothing")), "{fine}: {found:?}");
    }
}

#[test]
fn each_by_itself() {
    for (text, expected) in [
        (
            "[server]\ntrusted_proxies = [\"0.0.0.0/0\"]\n",
            "server.trusted_proxies: 0.0.0.0/0 believes anybody: every client can choose its own address",
        ),
        (
            "[server]\ntrusted_proxies = [\"::/0\"]\n",
            "server.trusted_proxies: ::/0 believes anybody: every client can choose its own address",
        ),
        (
            "[admin]\nlisten = \"0.0.0.0:9\"\n",
            "admin.listen: 0.0.0.0:9 is no loopback address: others can read the metrics",
        ),
        (
            "[auth.password]\nmemory = \"16MiB\"\n",
            "auth.password: weaker than OWASP's minimum of memory 19MiB with 2 iterations",
        ),
        (
            "[auth.password]\niterations = 1\n",
            "auth.password: weaker than OWASP's minimum of memory 19MiB with 2 iterations",
        ),
        (
            "[auth.password]\nmin_length = 4\n",
            "auth.password.min_length: shorter than 8 characters is guessed",
        ),
        (
            "[server]\nh2c = true\nlisten = [\"0.0.0.0:443\"]\n[server.tls]\ncertificates = [{ cert = \"a\", key = \"b\" }]\n",
            "server.h2c: says nothing beside [server.tls], where HTTP/2 is chosen by ALPN",
        ),
        (
            "[server.tls]\nclient_ca = \"ca.pem\"\ncertificates = [{ cert = \"a\", key = \"b\" }]\n",
            "server.tls.client_ca: no client is asked for a certificate; client_auth is \"off\"",
        ),
        (
            "[server.tls.acme]\ndomains = \"a.example\"\nagree_to_terms = true\n",
            "server.tls.acme: authorities ask on port 443 or on port 80, and neither is in listen or redirect_http; fine if one of them is mapped to here",
        ),
        (
            "[tokens]\naccess_ttl = \"2d\"\n",
            "tokens.access_ttl: longer than a day; who verifies tokens by itself hears of no logout before",
        ),
        (
            "[tokens]\nrefresh_ttl = \"100d\"\n",
            "tokens.refresh_ttl: 100d is longer than session_ttl, 90d: the session ends first",
        ),
        (
            "[roles]\nuser = [\"admin\"]\neditor = [\"user\"]\nadmin = [\"user\"]\n",
            "roles: \"admin\", \"user\" imply one another: who has one has all",
        ),
    ] {
        let read = read_text(&format!("{text}{REST}")).unwrap_or_else(|problems| panic!("{problems}"));
        let found: Vec<_> = read.warnings.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(found, [expected], "{text}");
    }
    for fine in [
        "[tokens]\nsession_ttl = \"1d\"\n",
        "[server]\nredirect_http = [\"0.0.0.0:80\"]\n[server.tls.acme]\ndomains = [\"a.example\"]\nagree_to_terms = true\n",
        "[server]\nlisten = [\"0.0.0.0:443\"]\n[server.tls.acme]\ndomains = [\"a.example\"]\nagree_to_terms = true\n",
        "[auth.password]\nmemory = \"12MiB\"\niterations = 3\n",
        "[server]\ntrusted_proxies = [\"private\"]\n",
        "[admin]\nlisten = \"[::1]:9\"\n",
    ] {
        assert_eq!(warnings(&format!("{fine}{REST}")), [""; 0], "{fine}");
    }
}

#[test]
fn an_upstream_that_no_route_leads_to() {
    let text = format!(
        "{UPSTREAM}[[upstream]]\nname = \"b\"\nservers = [\"http://b\"]\n[[route]]\npath = \"/**\"\nupstream = \"app\"\n"
    );
    let found = warnings(&text);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("warning: no route leads to the upstream \"b\"\n --> config.toml:4:1"),
        "{}",
        found[0]
    );
}
