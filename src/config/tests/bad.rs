//! Every message, with its line and column.

use super::{REST, brief, problems, read_text};

/// A file, and `line:column: message` of each error in it.
type Case = (&'static str, &'static [&'static str]);

#[test]
fn an_error_is_printed_with_its_place_and_a_caret() {
    let text = "[sotre]\npath = \"data\"\n";
    let expected = "error: unknown key \"sotre\", did you mean \"store\"?
 --> config.toml:1:2
  |
1 | [sotre]
  |  ^^^^^

warning: there is no [[route]]: everything outside the prefix is answered with 404";
    assert_eq!(problems(text), expected);
}

#[test]
fn two_places_are_both_shown() {
    let text = "[[upstream]]\nname = \"app\"\nservers = [\"http://a:1\"]\n\n\n[[route]]\npath = \"/a/{x}\"\n\n[[route]]\npath = \"/A/{y}/\"\n";
    let expected = "error: the route \"/A/{y}\" answers the same requests as an earlier one
  --> config.toml:10:8
   |
10 | path = \"/A/{y}/\"
   |        ^^^^^^^^^
note: the earlier one
 --> config.toml:7:8
  |
7 | path = \"/a/{x}\"
  |        ^^^^^^^^";
    assert_eq!(problems(text), expected);
}

#[test]
fn a_problem_is_an_object_for_machines() {
    let refused = read_text("[server]\nworkers = \"x\"\n").map(drop).expect_err("a problem");
    let json = serde_json::to_value(&refused).expect("JSON");
    let expected = serde_json::json!({
        "severity": "error", "message": "server.workers: expected a whole number, found a string",
        "file": "config.toml", "line": 2, "column": 11, "source": null, "notes": [], "help": null,
    });
    assert_eq!(json[0], expected);
    assert_eq!((refused.errors(), json.as_array().map(Vec::len)), (1, Some(2)));
}

#[test]
fn every_mistake_has_its_message() {
    for (text, expected) in CASES {
        let refused = read_text(text).map(drop).expect_err(text);
        assert_eq!(brief(&refused), *expected, "{text}");
    }
    assert!(CASES.len() >= 40, "{}", CASES.len());
}

const CASES: &[Case] = &[
    (
        "[server]
listen = []
",
        &["2:10: server.listen: at least one place to listen is needed"],
    ),
    (
        r#"[server]
listen = "0.0.0.0:80"
"#,
        &["2:10: server.listen: expected an array, found a string"],
    ),
    (
        r#"[server]
listen = ["127.0.0.1", ":8080", "http://localhost:80/", "::1:80", "a b:1", "h:99999", "unix:"]
"#,
        &[
            r#"2:11: server.listen: "127.0.0.1" has no port, as in "127.0.0.1:8080""#,
            r#"2:24: server.listen: ":8080" names no host; write "0.0.0.0:8080" for every address, or "127.0.0.1:8080""#,
            r#"2:33: server.listen: "http://localhost:80/" is a URL; did you mean "localhost:80"?"#,
            r#"2:57: server.listen: "::1:80": write an IPv6 address in brackets, as in "[::1]:8080""#,
            r#"2:67: server.listen: "a b" is no host"#,
            r#"2:76: server.listen: "99999" is no port (0 to 65535)"#,
            r#"2:87: server.listen: a Unix socket needs a path, as in "unix:app.sock""#,
        ],
    ),
    (
        r#"[server]
listen = ["0.0.0.0:8081", "127.0.0.1:9", "127.0.0.1:9"]
"#,
        &[
            r#"2:11: admin.listen: "127.0.0.1:8081" is taken by server.listen"#,
            r#"2:42: server.listen: "127.0.0.1:9" is taken twice"#,
        ],
    ),
    (
        r#"[server]
workers = -1
trusted_proxies = ["private", "10.0.0.1/8", "proxy"]
path_case = "insensitiv"
allow = ["semicolon", "backslash"]
drain_delay = "15"
drain_timeout = "1 minute"
"#,
        &[
            "2:11: server.workers: must not be negative",
            r#"3:31: server.trusted_proxies: "10.0.0.1/8" has bits behind its prefix; did you mean "10.0.0.0/8"?"#,
            r#"3:45: server.trusted_proxies: "proxy" is no network like "10.0.0.0/8", no address and not "private""#,
            r#"4:13: server.path_case: "insensitiv" is none of "insensitive", "sensitive"; did you mean "insensitive"?"#,
            r#"5:23: server.allow: "backslash" is none of "semicolon", "encoded_slash", "non_ascii""#,
            r#"6:15: server.drain_delay: "15" has no unit; did you mean "15s"?"#,
            r#"7:17: server.drain_timeout: "1 minute" is no duration; write a number and a unit (ms, s, m, h, d), as in "15m""#,
        ],
    ),
    (
        r#"[server.limits]
header_bytes = "1KiB"
header_timeout = "0s"
auth_body_bytes = 65536
connections = 0
idle_timeout = "1.5h"
"#,
        &[
            "2:16: server.limits.header_bytes: must be 4KiB to 1MiB, not 1KiB",
            "3:18: server.limits.header_timeout: must be 1ms to 1h, not 0s",
            r#"4:19: server.limits.auth_body_bytes: expected a size with its unit, found the number 65536; did you mean "65536B"?"#,
            "5:15: server.limits.connections: must be 1 to 10000000, not 0",
            r#"6:16: server.limits.idle_timeout: "1.5h" is no duration; write a number and a unit (ms, s, m, h, d), as in "15m""#,
        ],
    ),
    (
        r#"[server.limits]
connections_per_address = -1
header_count = 0
body_idle = "0s"
write_stall = "2d"
connection_age = 60
handshakes = 0
handshake_timeout = "2h"
streams_per_connection = 0
header_list_bytes = "1KiB"
resets = 0
pings = "100"
settings = 0
ping = 1
"#,
        &[
            "2:27: server.limits.connections_per_address: must not be negative",
            "3:16: server.limits.header_count: must be 1 to 10000, not 0",
            "4:13: server.limits.body_idle: must be 1ms to 1d, not 0s",
            "5:15: server.limits.write_stall: must be 1ms to 1d, not 2d",
            r#"6:18: server.limits.connection_age: expected a duration with its unit, found the number 60; did you mean "60s"?"#,
            "7:14: server.limits.handshakes: must be 1 to 10000000, not 0",
            "8:21: server.limits.handshake_timeout: must be 1ms to 1h, not 2h",
            "9:26: server.limits.streams_per_connection: must be 1 to 65536, not 0",
            "10:21: server.limits.header_list_bytes: must be 4KiB to 1MiB, not 1KiB",
            "11:10: server.limits.resets: must be 1 to 1000000, not 0",
            "12:9: server.limits.pings: expected a whole number, found a string",
            "13:12: server.limits.settings: must be 1 to 1000000, not 0",
            r#"14:1: unknown key "ping" in [server.limits], did you mean "pings"?"#,
        ],
    ),
    (
        "[server.tls]
certificates = []
",
        &["2:16: server.tls.certificates: at least one is needed, or [server.tls.acme] to get one"],
    ),
    (
        "[server.tls]
min_version = 1.2
",
        &[
            "1:9: server.tls.certificates: at least one is needed, or [server.tls.acme] to get one",
            "2:15: server.tls.min_version: expected a string, found a float",
        ],
    ),
    (
        r#"[server.tls]
certificates = [{ cert = "a.pem" }, { key = "b.pem" }, { cert = "c", key = "c", keys = "c" }, { cert = "", key = 1 }, "d", { cert = "c", key = "c" }]
min_version = "1.1"
client_auth = "optional"
client-ca = "ca.pem"
"#,
        &[
            "2:17: server.tls.certificates[0].key is missing",
            "2:37: server.tls.certificates[1].cert is missing",
            r#"2:81: unknown key "keys" in [[server.tls.certificates]], did you mean "key"?"#,
            "2:104: server.tls.certificates[3].cert: is no path",
            "2:114: server.tls.certificates[3].key: expected a string, found an integer",
            "2:119: server.tls.certificates: expected a table, found a string",
            "2:124: server.tls.certificates[5] is there twice",
            r#"3:15: server.tls.min_version: "1.1" is none of "1.2", "1.3"; did you mean "1.2"?"#,
            "4:15: server.tls.client_auth: needs client_ca, the authorities whose certificates count",
            r#"5:1: unknown key "client-ca" in [server.tls], did you mean "client_ca"?"#,
        ],
    ),
    (
        r#"[server]
tls = "on"
[[upstream]]
name = "a"
servers = ["http://a"]
health = "/healthz"
"#,
        &[
            "2:7: server.tls: expected a table, found a string",
            "6:10: upstream.a.health: expected a table, found a string",
        ],
    ),
    (
        r#"[server]
listen = ["0.0.0.0:443"]
[server.tls.acme]
domains = ["*.example.com", "https://a.example", "192.0.2.1", "localhost", "A.example", "a.example", "a_b.example"]
email = "me"
directory = "http://acme.example/dir"
"#,
        &[
            "3:13: server.tls.acme.agree_to_terms: must be true: who asks an authority for certificates agrees to its terms of service",
            r#"4:12: server.tls.acme.domains: "*.example.com": a wildcard is proved by DNS only, which the gateway does not change"#,
            r#"4:29: server.tls.acme.domains: "https://a.example" is a URL; write the name alone, as in "app.example.com""#,
            r#"4:50: server.tls.acme.domains: "192.0.2.1" is an address; certificates are for names here"#,
            r#"4:63: server.tls.acme.domains: "localhost" is no full name, as in "app.example.com""#,
            r#"4:89: server.tls.acme.domains: "a.example" is there twice"#,
            r#"4:102: server.tls.acme.domains: "a_b.example" is no full name, as in "app.example.com""#,
            r#"5:9: server.tls.acme.email: "me" is no e-mail address"#,
            r#"6:13: server.tls.acme.directory: "http://acme.example/dir" is no https:// URL"#,
        ],
    ),
    (
        r#"[server.tls.acme]
domain = "a.example"
agree_to_terms = false
directory = "https://me:hunter2@acme.example/"
"#,
        &[
            "1:13: server.tls.acme.domains is missing",
            r#"2:1: unknown key "domain" in [server.tls.acme], did you mean "domains"?"#,
            "3:18: server.tls.acme.agree_to_terms: must be true: who asks an authority for certificates agrees to its terms of service",
            "4:13: server.tls.acme.directory: has no user and password in its URL",
        ],
    ),
    (
        r#"[server]
listen = ["127.0.0.1:80", "127.0.0.1:443"]
redirect_http = ["0.0.0.0:80", "127.0.0.1:8081", "unix:r", "unix:r"]
proxy_protocol = true
h2c = "yes"
"#,
        &[
            "3:17: server.redirect_http: sends people to https, which needs [server.tls]",
            r#"3:18: server.redirect_http: "0.0.0.0:80" is taken by server.listen"#,
            r#"3:32: admin.listen: "127.0.0.1:8081" is taken by server.redirect_http"#,
            r#"3:60: server.redirect_http: "unix:r" is taken twice"#,
            "4:18: server.proxy_protocol: needs trusted_proxies: every connection of somebody else is closed",
            "5:7: server.h2c: expected true or false, found a string",
        ],
    ),
    (
        r#"[[upstream]]
name = "a"
servers = ["http://a", "h2c://b"]
ca = "ca.pem"
cert = "cert.pem"
server_name = "a.example"
[[upstream]]
name = "b"
servers = ["https://b"]
key = "key.pem"
server_name = "b:1"
health = { interval = "1ms", timeout = "0s", healthy = 0, unhealthy = 0, paths = "/" }
ejection = { failures = -1, duration = "0s", time = "1s" }
slow_start = "2h"
resolve = "0s"
[[upstream]]
name = "c"
servers = ["https://c"]
health = { path = "healthz" }
"#,
        &[
            "4:6: upstream.a.ca: none of the servers is https://",
            "5:8: upstream.a.cert: none of the servers is https://",
            "5:8: upstream.a.cert: needs key beside it",
            "6:15: upstream.a.server_name: none of the servers is https://",
            "10:7: upstream.b.key: needs cert beside it",
            r#"11:15: upstream.b.server_name: "b:1" is no name, as in "app.example.com""#,
            "12:1: upstream.b.health.path is missing",
            "12:23: upstream.b.health.interval: must be 10ms to 1d, not 1ms",
            "12:40: upstream.b.health.timeout: must be 1ms to 1h, not 0s",
            "12:56: upstream.b.health.healthy: must be 1 to 1000, not 0",
            "12:71: upstream.b.health.unhealthy: must be 1 to 1000, not 0",
            r#"12:74: unknown key "paths" in [upstream.health], did you mean "path"?"#,
            "13:25: upstream.b.ejection.failures: must not be negative",
            "13:40: upstream.b.ejection.duration: must be 1ms to 1d, not 0s",
            r#"13:46: unknown key "time" in [upstream.ejection]"#,
            "14:14: upstream.b.slow_start: must be 0s to 1h, not 2h",
            "15:11: upstream.b.resolve: must be 1s to 1d, not 0s",
            r#"19:19: upstream.c.health.path: "healthz" is no path, as in "/healthz""#,
        ],
    ),
    (
        r#"[admin]
listen = "localhost:8081"
socket = ""
"#,
        &[
            r#"2:10: admin.listen: "localhost:8081" is no "IP:PORT", as in "127.0.0.1:8081""#,
            "3:10: admin.socket: is no path",
        ],
    ),
    (
        r#"[log]
level = "infoo"
format = "xml"
decisions = "yes"
"#,
        &[
            r#"2:9: log.level: "infoo" is none of error, warn, info, debug, trace, off; did you mean "info"?"#,
            r#"3:10: log.format: "xml" is none of "auto", "text", "json""#,
            "4:13: log.decisions: expected true or false, found a string",
        ],
    ),
    (
        r#"[log]
level = "gatepost=loud"
"#,
        &[
            r#"2:9: log.level: "gatepost=loud" is no filter: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5"#,
        ],
    ),
    (
        r#"[store]
engine = "postgres"
min_free = "64M"
"#,
        &[
            r#"2:10: store.engine: "postgres" is not "sled""#,
            r#"3:12: store.min_free: "64M" is no size; did you mean "64MiB"?"#,
        ],
    ),
    (
        r#"[auth.paths]
"/login" = "signin"
"/auth/login" = "login"
"/.well-known/jwks.json" = "me"
"/u/{id}" = "me"
"/x/**" = "login"
"login" = "login"
"/a%20b" = "login"
"/signup" = "register"
"/SignUp/" = "register"
"/out" = 1
"#,
        &[
            r#"2:12: auth.paths."/login": "signin" is none of "login", "register", "refresh", "logout", "logout-all", "me", "password", "protected""#,
            r#"3:1: auth.paths: "/auth/login" is at or below the prefix, "/auth""#,
            r#"4:1: auth.paths: "/.well-known/jwks.json" is where the public keys are"#,
            r#"5:1: auth.paths: "/u/{id}": a path of an endpoint has no parameters and no "/**""#,
            r#"6:1: auth.paths: "/x/**": a path of an endpoint has no parameters and no "/**""#,
            r#"7:1: auth.paths: a path starts with "/": did you mean "/login"?"#,
            r#"8:1: auth.paths: "/a%20b" has characters that need encoding"#,
            r#"10:1: auth.paths: "/SignUp" is there twice"#,
            r#"11:10: auth.paths."/out": expected a string, found an integer"#,
        ],
    ),
    (
        r#"[auth]
paths = { "/login" = "login", "/account" = "me" }
[[upstream]]
name = "app"
servers = ["http://a:1"]
[[route]]
path = "/Login/"
[[route]]
path = "/login"
methods = ["GET"]
host = "a.example.com"
[[route]]
path = "/account"
methods = ["GET", "PUT"]
[[route]]
path = "/login/help"
[[route]]
path = "/account/**"
"#,
        &[
            r#"7:8: the route "/Login" is the gateway's own for these methods"#,
            r#"9:8: the route "/login" is the gateway's own on every host"#,
            r#"13:8: the route "/account" is the gateway's own for these methods"#,
        ],
    ),
    (
        r#"[auth]
answer = { token = "access", access_token = "id", "" = "id", ok = 1 }
errors = "flask"
"#,
        &[
            r#"2:20: auth.answer.token: "access" is none of "access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in", "id", "username", "email", "name", "roles""#,
            r#"2:30: auth.answer: the answer has "access_token" already"#,
            r"2:51: auth.answer: a member's name is 1 to 128 bytes without control characters",
            r"2:67: auth.answer.ok: expected a string, found an integer",
            r#"3:10: auth.errors: "flask" is none of "problem", "flask-jwt-extended", "flask-jwt""#,
        ],
    ),
    (
        r#"[auth]
prefix = ""
"#,
        &[r#"2:10: auth.prefix: "" would leave no path to the app; a prefix is a path like "/auth""#],
    ),
    (
        r#"[auth]
prefix = "/"
"#,
        &[r#"2:10: auth.prefix: "/" would leave no path to the app; a prefix is a path like "/auth""#],
    ),
    (
        r#"[auth]
prefix = "auth"
"#,
        &[r#"2:10: auth.prefix: a path starts with "/": did you mean "/auth"?"#],
    ),
    (
        r#"[auth]
prefix = "/{x}"
"#,
        &[r#"2:10: auth.prefix: a prefix has no parameters and no "/**""#],
    ),
    (
        r#"[auth]
prefix = "/a/**"
"#,
        &[r#"2:10: auth.prefix: a prefix has no parameters and no "/**""#],
    ),
    (
        r#"[auth]
registration = "opne"
registrations_per_address = "20 per hour"
sessions_per_user = 0
default_roles = ["usr"]
login_name = "phone"
usernames = "utf-8"
reserved_usernames = ["a b"]
ids = "serial"
"#,
        &[
            r#"2:16: auth.registration: "opne" is none of "open", "closed"; did you mean "open"?"#,
            r#"3:29: auth.registrations_per_address: "20 per hour" is no rate; write a number, a slash and s, m, h or d, as in "20/h""#,
            "4:21: auth.sessions_per_user: must be 1 to 1000, not 0",
            r#"5:18: auth.default_roles: unknown role "usr", did you mean "user"?"#,
            r#"6:14: auth.login_name: "phone" is none of "username", "email", "either""#,
            r#"7:13: auth.usernames: "utf-8" is none of "ascii", "unicode""#,
            r#"8:23: auth.reserved_usernames: "a b": a username is 1 to 64 characters, without @, white space or control characters"#,
            r#"9:7: auth.ids: "serial" is none of "uuid", "sequence""#,
        ],
    ),
    (
        r#"[auth.password]
min_length = 300
memory = "1KiB"
iterations = 0
"#,
        &[
            "2:14: auth.password.min_length: must be 1 to 256, not 300",
            "3:10: auth.password.memory: must be 8KiB to 4GiB, not 1KiB",
            "4:14: auth.password.iterations: must be 1 to 100, not 0",
        ],
    ),
    (
        r#"[auth.password]
min_length = 200
max_bytes = 100
memory = "64KiB"
parallelism = 16
"#,
        &[
            "2:14: auth.password.min_length: is larger than max_bytes",
            "4:10: auth.password.memory: argon2 needs 8KiB for each of parallelism",
        ],
    ),
    (
        r#"[auth.throttle]
failures = 0
lockout = "1h"
"#,
        &[
            "2:12: auth.throttle.failures: must be 1 to 1000, not 0",
            "3:11: auth.throttle.lockout_max: 15m is shorter than lockout, 1h",
        ],
    ),
    (
        r#"[roles]
admin = ["usr"]
user = "x"
"a b" = []
"#,
        &[
            r#"2:10: roles.admin: unknown role "usr", did you mean "user"?"#,
            "3:8: roles.user: expected an array, found a string",
            r#"4:1: roles: "a b": a role is 1 to 64 of the characters A-Z a-z 0-9 _ . : -"#,
        ],
    ),
    (
        "[roles]
",
        &[r#"1:2: auth.default_roles: unknown role "user""#],
    ),
    (
        r#"[tokens]
audience = ["a", "a", ""]
algorithm = "HS256"
access_ttl = "1500ms"
refresh_grace = "1h"
accept = []
"#,
        &[
            r#"2:18: tokens.audience: "a" is named twice"#,
            "2:23: tokens.audience: must be 1 to 256 bytes without control characters",
            "3:13: tokens.algorithm: HS256 needs secret or secret_file",
            "4:14: tokens.access_ttl: must be whole seconds",
            "5:17: tokens.refresh_grace: must be 0s to 5m, not 1h",
            "6:10: tokens.accept: nobody could present a token; name at least one form",
        ],
    ),
    (
        r#"[tokens]
access_ttl = "2h"
session_ttl = "1h"
accept = ["bearer", "bearer", "basic"]
claims = { sub = "username", "" = "sub", uid = "id" }
"#,
        &[
            "2:14: tokens.access_ttl: 2h is longer than session_ttl, 1h",
            r#"4:31: tokens.accept: "basic" is none of "bearer", "jwt", "x-access-token""#,
            r#"5:12: tokens.claims: "sub" has a meaning of its own and cannot be set"#,
            "5:30: tokens.claims: a claim's name is 1 to 128 bytes without control characters",
            r#"5:48: tokens.claims.uid: "id" is none of "sub", "sub_number", "username", "email", "name", "roles", "sid"; did you mean "sid"?"#,
        ],
    ),
    (
        r#"[tokens]
algorithm = "HS256"
secret = 5
"#,
        &["3:10: tokens.secret: expected a string, found an integer"],
    ),
    (
        r#"[tokens]
algorithm = "HS256"
secret_file = "/nowhere/at/all"
"#,
        &["3:15: tokens.secret_file: cannot read /nowhere/at/all: No such file or directory (os error 2)"],
    ),
    (
        r#"[identity]
preset = "gatepst"
roles_separator = "-"
unverified_email = true
forward_authorization = "no"
[identity.headers]
user = "X User"
id = "Host"
email = "X-Auth_Name"
name = "Transfer-Encoding"
sub = "X-Sub"
"#,
        &[
            r#"2:10: identity.preset: "gatepst" is none of "gatepost", "oauth2-proxy", "remote-user", "none"; did you mean "gatepost"?"#,
            r#"3:19: identity.roles_separator: "-" can stand in a role's name or its encoding"#,
            "4:20: identity.unverified_email: expected a string, found a boolean",
            "5:25: identity.forward_authorization: expected true or false, found a string",
            r#"7:8: identity.headers.user: "X User" is no header name"#,
            r#"8:6: identity.headers.id: "Host" has a meaning of its own and cannot carry identity"#,
            r#"10:8: identity.headers.name: "Transfer-Encoding" has a meaning of its own and cannot carry identity"#,
            r#"11:1: unknown key "sub" in [identity.headers]"#,
        ],
    ),
    (
        r#"[identity.headers]
user = "X-A"
id = "x_a"
"#,
        &[r#"3:6: identity.headers.id: "x_a" carries user already"#],
    ),
    (
        r#"[[upstream]]
servers = ["https://10.0.0.5:8443", "h2c://a:1", "ftp://a", "http://u:p@a", "http://a/b", "localhost:5000", "rubbish", "unix:"]
"#,
        &[
            "1:1: upstream[0].name is missing",
            r#"2:50: upstream[0].servers: unknown scheme "ftp"; use http://, https://, h2c:// or unix:"#,
            "2:61: upstream[0].servers: a server has no user and password in its URL",
            r#"2:77: upstream[0].servers: a server has no path; did you mean "http://a"? (a route's strip_prefix changes paths)"#,
            r#"2:91: upstream[0].servers: "localhost:5000" has no scheme; did you mean "http://localhost:5000"?"#,
            r#"2:109: upstream[0].servers: "rubbish" is no server; write "http://HOST:PORT", "https://HOST:PORT", "h2c://HOST:PORT" or "unix:PATH""#,
            r#"2:120: upstream[0].servers: a Unix socket needs a path, as in "unix:app.sock""#,
        ],
    ),
    (
        r#"[[upstream]]
name = "a b"
servers = []
timeout = "0s"
"#,
        &[
            r#"2:8: upstream[0].name: "a b" is no name: 1 to 64 of the characters A-Z a-z 0-9 _ - ."#,
            "3:11: upstream[0].servers: at least one server is needed",
            "4:11: upstream[0].timeout: must be 1ms to 1d, not 0s",
        ],
    ),
    (
        r#"[[upstream]]
name = "my-app"
servers = ["http://a:1", "http://a:1"]
[[upstream]]
name = "my_app"
"#,
        &[
            r#"3:26: upstream.my-app.servers: "http://a:1" is there twice"#,
            "4:1: upstream.my_app.servers is missing",
            r#"4:1: the upstreams "my-app" and "my_app" cannot be told apart"#,
        ],
    ),
    (
        r#"[[route]]
path = "/**"
"#,
        &["1:1: there is no [[upstream]] that routes could lead to"],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://a"]
[[upstream]]
name = "api"
servers = ["http://b"]
[[route]]
path = "/a"
[[route]]
path = "/b"
upstream = "apo"
"#,
        &[
            r#"7:1: route[0].upstream is missing, there are several: "app", "api""#,
            r#"11:12: route[1].upstream: unknown upstream "apo", did you mean "api"?"#,
        ],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/{id}/x"
access = "public"
roles = ["admin"]
owner = { id = "sub" }
"#,
        &[
            r#"7:9: route[0].roles: needs a caller, but access is "public""#,
            r#"8:1: route[0].owner: needs a caller, but access is "public""#,
        ],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/{id}/x"
owner = { uid = "sub" }
[[route]]
path = "/{id}/y"
owner = { id = "email" }
[[route]]
path = "/{id}/z"
owner = "id"
[[route]]
path = "/{id}/w"
owner = {}
or_roles = ["admin"]
[[route]]
path = "/v"
or_roles = ["admin"]
roles = []
"#,
        &[
            r#"6:11: route[0].owner: the path "/{id}/x" has no parameter "{uid}", did you mean "id"?"#,
            r#"9:16: route[1].owner.id: "email" is none of "sub", "username""#,
            r#"12:9: route[2].owner: expected one path parameter and "sub" or "username", as in { uid = "sub" }, found a string"#,
            r#"15:9: route[3].owner: expected one path parameter and "sub" or "username", as in { uid = "sub" }, found 0 keys"#,
            r#"19:12: route[4].or_roles: needs an owner beside it; did you mean "roles"?"#,
            "20:9: route[4].roles: an empty list lets nobody through or everybody, depending on who reads it; leave it out",
        ],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/api/{x}"
strip_prefix = "/api/v1"
[[route]]
path = "/b"
strip_prefix = "/"
[[route]]
path = "/c"
strip_prefix = "/{x}"
body_bytes = 5
timeout = "0s"
mode = "reprot"
"#,
        &[
            r#"6:16: route[0].strip_prefix: "/api/v1" is not the start of the route's path, "/api/{x}""#,
            r#"9:16: route[1].strip_prefix: "/" strips nothing; leave it out"#,
            r#"12:16: route[2].strip_prefix: has no parameters and no "/**""#,
            r#"13:14: route[2].body_bytes: expected a size with its unit, found the number 5; did you mean "5B"?"#,
            "14:11: route[2].timeout: must be 1ms to 1d, not 0s",
            r#"15:8: route[2].mode: "reprot" is none of "enforce", "report"; did you mean "report"?"#,
        ],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/a"
methods = ["get"]
[[route]]
path = "/b"
methods = []
[[route]]
path = "/c"
methods = ["GET", "GET"]
[[route]]
path = "/d"
methods = ["*"]
host = "https://example.com"
"#,
        &[
            r#"6:12: route[0].methods: method names are case-sensitive: did you mean "GET" instead of "get"?"#,
            "9:11: route[1].methods: methods must not be empty; leave it out for all methods",
            "12:11: route[2].methods: GET is named twice",
            r#"15:12: route[3].methods: "*" is no method; leave methods out for all of them"#,
            r#"16:8: route[3].host: a host has no scheme, port or path: did you mean "example.com"?"#,
        ],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/users/:id"
[[route]]
path = "users"
[[route]]
path = "/a?b"
"#,
        &[
            r#"5:8: route[0].path: a parameter is written "{name}": did you mean "/users/{id}"?"#,
            r#"7:8: route[1].path: a path starts with "/": did you mean "/users"?"#,
            r#"9:8: route[2].path: only the path is matched, not its query: did you mean "/a"?"#,
        ],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/a/{x}"
[[route]]
path = "/A/{y}/"
"#,
        &[r#"7:8: the route "/A/{y}" answers the same requests as an earlier one"#],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/a"
methods = ["GET", "POST"]
[[route]]
path = "/a"
methods = ["HEAD"]
"#,
        &[r#"8:8: the route "/a" has methods in common with an earlier one"#],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[route]]
path = "/Auth/login"
[[route]]
path = "/.well-known/jwks.json"
"#,
        &[
            r#"5:8: the route "/Auth/login" is at or below the prefix "/auth""#,
            r#"7:8: the route "/.well-known/jwks.json" is the gateway's own path"#,
        ],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://127.0.0.1:5000"]
[[test]]
request = "GET"
roles = ["user"]
expect = 403
[[test]]
request = "get /"
roles = ["usr"]
expect = 42
[[test]]
request = "GET http://a b/"
expect = "fail"
[[test]]
request = "GET /"
expect = "pass"
[[test]]
request = "GET /"
anonymous = true
roles = ["user"]
expect = "pass"
[[test]]
"#,
        &[
            r#"5:11: test[0].request: "GET" is no request; write a method and a path or URL, as in "GET /path""#,
            r#"9:11: test[1].request: methods are upper case: did you mean "GET /"?"#,
            r#"10:10: test[1].roles: unknown role "usr", did you mean "user"?"#,
            r#"11:10: test[1].expect: expected "pass" or a status like 403"#,
            "12:1: test[2].roles is missing: say who asks, with roles = […] or anonymous = true",
            r#"13:11: test[2].request: "GET http://a b/" is no request; write a method and a path or URL, as in "GET /path""#,
            r#"14:10: test[2].expect: expected "pass" or a status like 403"#,
            "15:1: test[3].roles is missing: say who asks, with roles = […] or anonymous = true",
            "21:1: test[4].roles: an anonymous caller has none",
            "23:1: test[5].request is missing",
            "23:1: test[5].roles is missing: say who asks, with roles = […] or anonymous = true",
            "23:1: test[5].expect is missing",
        ],
    ),
    (
        r#"[[route]]
path = "/a"
path = "/b"
"#,
        &["3:1: duplicate key"],
    ),
    (
        "[server
",
        &["1:8: unclosed table, expected `]`"],
    ),
    (
        r#"a = "unclosed
"#,
        &[r#"1:14: invalid basic string, expected `"`"#],
    ),
    (
        "[server]
workers = 99999999999999999999
",
        &["2:11: server.workers: is too large"],
    ),
    (
        "[server]
drain_delay = 2020-01-01
workers = 1.5
",
        &[
            r#"2:15: server.drain_delay: expected a duration like "15m", found a date"#,
            "3:11: server.workers: expected a whole number, found a float",
        ],
    ),
    (
        r#"[upstream]
name = "app"
"#,
        &["1:1: upstream: expected an array of tables ([[upstream]]), found a table"],
    ),
    (
        r#"route = ["/a"]
"#,
        &["1:10: route: expected a table, found a string"],
    ),
    (
        r#"[cors]
origins = ["https://a.example/", "HTTP://A.example:80", "a.example", "https://*.a.example", "null", "https://a:x"]
headers = ["*", "a b"]
credentials = "yes"
max_age = "1500ms"
origin = []
"#,
        &[
            r#"2:12: cors.origins: browsers write "https://a.example/" as "https://a.example""#,
            r#"2:34: cors.origins: browsers write "HTTP://A.example:80" as "http://a.example""#,
            r#"2:57: cors.origins: "a.example" is no origin, as in "https://app.example.com""#,
            r#"2:70: cors.origins: "https://*.a.example": name each origin, or "*" alone for every one"#,
            r#"2:93: cors.origins: "null" is what every sandboxed frame and local file says, anybody's among them"#,
            r#"2:101: cors.origins: "https://a:x" is no origin, as in "https://app.example.com""#,
            r#"3:12: cors.headers: "*" does not cover Authorization: name the headers"#,
            r#"3:17: cors.headers: "a b" is no header name"#,
            "4:15: cors.credentials: expected true or false, found a string",
            "5:11: cors.max_age: must be whole seconds",
            r#"6:1: unknown key "origin" in [cors], did you mean "origins"?"#,
        ],
    ),
    (
        r#"[cors]
origins = ["*"]
credentials = true
"#,
        &[
            "3:15: cors.credentials: with origins = [\"*\"] every page on the web could act for its visitors; name the origins",
        ],
    ),
    (
        r#"[cors]
origins = ["*", "https://a.example"]
"#,
        &[r#"2:11: cors.origins: "*" stands alone: it is every origin"#],
    ),
    (
        r#"[[upstream]]
name = "app"
servers = ["http://a"]
[[route]]
path = "/**"
preflight = "answer"
[[route]]
path = "/a"
preflight = "allow"
"#,
        &[
            r#"6:13: route[0].preflight: "answer" needs [cors] origins: there is nobody to say yes to"#,
            r#"9:13: route[1].preflight: "allow" is none of "deny", "answer", "upstream""#,
        ],
    ),
    (
        r#"[auth]
registration = "open"
admission_url = "https://user:pass@app/may"
[auth.migrate]
url = "ftp://app/login"
body = "user={username}"
ok_status = [200, 404]
until = "31.03.2027"
id = "user..id"
[events]
url = "app/events"
secret_file = "nowhere"
keep = "1s"
"#,
        &[
            "3:17: auth.admission_url: a URL has no name and password in it here",
            r#"5:7: auth.migrate.url: "ftp://app/login" starts with neither http:// nor https://"#,
            "6:8: auth.migrate.body: has no value with {password} in it",
            "7:19: auth.migrate.ok_status: 404 is no status that says yes",
            r#"8:9: auth.migrate.until: "31.03.2027" is no date like "2027-03-31" or "2027-03-31T12:00:00Z""#,
            r#"9:6: auth.migrate.id: "user..id" is no member's name, as in "id" or "user.id""#,
            r#"11:7: events.url: "app/events" is no URL: invalid format"#,
            "12:15: events.secret_file: cannot read nowhere: No such file or directory (os error 2)",
            "13:8: events.keep: must be 1h to 30d, not 1s",
        ],
    ),
    (
        r#"[auth]
registration = "open"
[auth.migrate]
url = "http://app/login"
until = 2027-03-31
"#,
        &[
            "3:7: auth.migrate beside open registration: anybody could register a name that only the app knows",
        ],
    ),
    (
        r#"[auth]
ids = "sequence"
[auth.migrate]
url = "http://app/login"
id = "user.id"
until = 2027-03-31
"#,
        &[
            "3:7: auth.migrate beside ids = \"sequence\": somebody would get a number that the app has given to somebody else",
        ],
    ),
    (
        "[auth]\nregistration = \"open\"\n[auth.migrate]\n[cors]\norigins = [\"https://a.example/\"]\n[[upstream]]\nname = \"app\"\nservers = [\"http://a\"]\n[[route]]\npath = \"/**\"\npreflight = \"answer\"\n",
        &[
            "3:7: auth.migrate.url is missing",
            "3:7: auth.migrate.until is missing",
            "3:7: auth.migrate beside open registration: anybody could register a name that only the app knows",
            "5:12: cors.origins: browsers write \"https://a.example/\" as \"https://a.example\"",
        ],
    ),
    (
        "[auth.migrate]\n[events]\n",
        &[
            "1:7: auth.migrate.url is missing",
            "1:7: auth.migrate.until is missing",
            "2:2: events.url is missing",
            "2:2: events.secret_file is missing",
        ],
    ),
    (
        "legacy_token = 1
",
        &["1:16: legacy_token: expected an array of tables ([[legacy_token]]), found an integer"],
    ),
    (
        "[[legacy_token]]
",
        &["1:1: legacy_token[0].algorithm is missing", "1:1: legacy_token[0].until is missing"],
    ),
    (
        r#"[[legacy_token]]
algorithm = "none"
until = "soon"
[[legacy_token]]
algorithm = "hs256"
user = "sub..name"
account = "name"
ignore_case = "yes"
issuer = ""
audience = 1
sekret = "x"
secret = 1
until = 2027-02-01
"#,
        &[
            "2:13: legacy_token[0].algorithm: \"none\" is none of \"HS256\", \"HS384\", \"HS512\", \"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \"PS512\", \"ES256\", \"ES384\", \"EdDSA\"",
            "3:9: legacy_token[0].until: \"soon\" is no date like \"2027-03-31\" or \"2027-03-31T12:00:00Z\"",
            "5:13: legacy_token[1].algorithm: \"hs256\" is none of \"HS256\", \"HS384\", \"HS512\", \"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \"PS512\", \"ES256\", \"ES384\", \"EdDSA\"; did you mean \"HS256\"?",
            "6:8: legacy_token[1].user: \"sub..name\" is no claim's name, as in \"sub\" or \"sub.username\"",
            "7:11: legacy_token[1].account: \"name\" is none of \"either\", \"id\", \"username\", \"email\"",
            "8:15: legacy_token[1].ignore_case: expected true or false, found a string",
            "9:10: legacy_token[1].issuer: must be 1 to 256 bytes without control characters",
            "10:12: legacy_token[1].audience: expected a string, found an integer",
            "11:1: unknown key \"sekret\" in [[legacy_token]], did you mean \"secret\"?",
            "12:10: legacy_token[1].secret: expected a string, found an integer",
        ],
    ),
    (
        r#"[[legacy_token]]
algorithm = "HS256"
until = "2027-03-31"
[[legacy_token]]
algorithm = "RS256"
until = "2027-03-31"
[[legacy_token]]
algorithm = "HS256"
public_key_file = "app.pub"
until = "2027-03-31"
[[legacy_token]]
algorithm = "ES256"
secret_file = "no such file"
until = "2027-03-31"
"#,
        &[
            "2:13: legacy_token[0].algorithm: HS256 needs secret or secret_file",
            "5:13: legacy_token[1].algorithm: RS256 needs public_key_file",
            "9:19: legacy_token[2].public_key_file: HS256 has a secret and no public key",
            "13:15: legacy_token[3].secret_file: cannot read no such file: No such file or directory (os error 2)",
            "13:15: legacy_token[3].secret: ES256 has a public key and no secret",
        ],
    ),
    (
        r#"[tokens]
previous_secret_files = ["no such file"]
"#,
        &[
            "2:26: tokens.previous_secret_files: cannot read no such file: No such file or directory (os error 2)",
        ],
    ),
];

#[test]
fn keys_whose_parts_are_not_built_do_not_exist() {
    for (table, keys) in [("[store]", &["url"][..])] {
        for key in keys {
            let refused = read_text(&format!("{table}\n{key} = 1\n")).map(drop).expect_err(key);
            let unknown = brief(&refused).iter().any(|line| line.contains(": unknown key "));
            assert!(unknown, "{table} {key}: {refused}");
        }
    }
}

#[test]
fn what_the_gateway_rebuilds_or_drops_cannot_carry_identity_in_any_spelling() {
    for name in crate::message::fold::FORWARDING_NAMES {
        for spelling in [name.to_owned(), name.replace('-', "_").to_uppercase(), name.replace('-', "")] {
            let text = format!("[identity.headers]\nuser = \"{spelling}\"\n{REST}");
            let found = problems(&text);
            assert!(found.contains("has a meaning of its own"), "{spelling}: {found}");
        }
    }
}
