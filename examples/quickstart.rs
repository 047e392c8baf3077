//! A gateway and a small app behind it, in one process, to try the five minutes of README.md on.
//!
//! `cargo run --release --example quickstart`; Ctrl-C ends it. The app answers every request with what it
//! was told, so one sees what the gateway added and took away. Everything lives in a temporary folder
//! that is removed at the end.
//!
//! `QUICKSTART_PORT` (8080), `QUICKSTART_ADMIN_PORT` (8081) and `QUICKSTART_APP_PORT` (5000) choose other
//! ports, `QUICKSTART_DATA` a folder that is kept.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let ports = Ports::from_environment()?;
    let temporary = tempfile::Builder::new().prefix("gatepost-quickstart-").tempdir()?;
    let folder = env::var_os("QUICKSTART_DATA").map_or_else(|| temporary.path().to_owned(), PathBuf::from);

    let app = TcpListener::bind(("127.0.0.1", ports.app))
        .map_err(|why| format!("the sample app cannot listen on port {}: {why}", ports.app))?;
    thread::spawn(move || serve_app(&app));

    let config = write_config(&folder, ports)?;
    print_calls(ports, &config);
    // The same way in as the binary's: the gateway runs in this process until it is told to stop.
    let arguments: [OsString; 4] = ["gatepost".into(), "--config".into(), config.into(), "serve".into()];
    Ok(gatepost::cli::run(arguments, gatepost::app::serve))
}

/// Where everybody listens.
#[derive(Clone, Copy)]
struct Ports {
    gateway: u16,
    admin: u16,
    app: u16,
}

impl Ports {
    fn from_environment() -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            gateway: port("QUICKSTART_PORT", 8080)?,
            admin: port("QUICKSTART_ADMIN_PORT", 8081)?,
            app: port("QUICKSTART_APP_PORT", 5000)?,
        })
    }
}

fn port(name: &str, default: u16) -> Result<u16, Box<dyn Error>> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|why| format!("{name} is not a port: {why}").into()),
        Err(_) => Ok(default),
    }
}

fn write_config(folder: &Path, ports: Ports) -> io::Result<PathBuf> {
    let Ports { gateway, admin, app } = ports;
    fs::create_dir_all(folder)?;
    let file = folder.join("config.toml");
    fs::write(
        &file,
        format!(
            r#"# The quickstart's rules: everything wants a login, but for what is public or for admins.
[server]
listen = ["127.0.0.1:{gateway}"]

[admin]
listen = "127.0.0.1:{admin}"

[store]
path = "data"

[auth]
registration = "open"

[log]
level = "error"
decisions = false

[roles]
user = []
admin = ["user"]

[[upstream]]
name = "sample"
servers = ["http://127.0.0.1:{app}"]

[[route]]
path = "/**"
roles = ["user"]

[[route]]
path = "/public/**"
access = "public"

[[route]]
path = "/admin/**"
roles = ["admin"]
"#
        ),
    )?;
    // Nobody else may write to what decides who passes.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn print_calls(ports: Ports, config: &Path) {
    let gateway = format!("localhost:{}", ports.gateway);
    let shown = r"curl -s -w ' %{http_code}\n'";
    let account =
        r#"-H 'Content-Type: application/json' -d '{"username":"alice","password":"correct horse battery"}'"#;
    let bearer = r#"-H "Authorization: Bearer $TOKEN""#;
    println!(
        r#"
The gateway listens on http://{gateway}, a sample app behind it on http://localhost:{app}.
In another terminal:

# a new account: 201, and 409 the second time
{shown} {gateway}/auth/register {account}

# log in, keep the token
TOKEN=$(curl -s {gateway}/auth/login -d username=alice -d 'password=correct horse battery' | sed 's/.*"access_token":"\([^"]*\)".*/\1/')

# the gateway greets; the app shows what it was told; without the token: 401
{shown} {gateway}/auth/protected {bearer}
{shown} {gateway}/hello {bearer}
{shown} {gateway}/hello

# the wrong role: 403
{shown} {gateway}/admin/panel {bearer}

# log out; the same token from now on: 401
{shown} -X POST {gateway}/auth/logout {bearer}
{shown} {gateway}/hello {bearer}

# metrics and readiness are on port {admin}; the configuration is {config}
"#,
        app = ports.app,
        admin = ports.admin,
        config = config.display(),
    );
}

// --- the sample app ---------------------------------------------------------------------------------

/// Answers forever, a thread for each connection: it is an example, not a server.
fn serve_app(listener: &TcpListener) {
    for connection in listener.incoming().flatten() {
        thread::spawn(move || answer(connection));
    }
}

/// Reads one request's head and says what it said; a body is left unread.
fn answer(mut connection: TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request_line = lines.next().transpose()?.unwrap_or_default();
    let mut words = request_line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());

    let mut identity = Map::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.to_ascii_lowercase().starts_with("x-auth-")
        {
            identity.insert(name.to_ascii_lowercase(), Value::from(value.trim()));
        }
    }

    let body = json!({ "app": "sample", "method": method, "path": path, "identity": identity }).to_string();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
