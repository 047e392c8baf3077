//! Where an app listens so that only its gateway reaches it, and how it is told.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use http::Uri;

use crate::outbound::socket;
use crate::settings::Endpoint;

/// `sun_path` holds 108 bytes on Linux, the final NUL among them.
const LONGEST: usize = 107;
/// Below the range that the system gives to outgoing connections: the app may open some before it listens.
const PORTS: std::ops::Range<u16> = 10_240..32_768;
/// So many are tried.
const TRIES: usize = 100;
/// What the socket is called in its directory.
const SOCKET: &str = "app.sock";

const BIND: &str = "{bind}";
const UNIX: &str = "{socket}";
const PORT: &str = "{port}";

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A socket and a port.
    #[error("{{socket}} and {{port}} in one command: an app has one place")]
    Both,
    /// No directory for the socket.
    #[error("no private directory {}: {source}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The temporary directory is too deep for a socket.
    #[error("{} is too long for the path of a Unix socket ({LONGEST} bytes): set TMPDIR", .0.display())]
    TooLong(PathBuf),
    /// Every port is taken.
    #[error("no free port on 127.0.0.1")]
    NoPort,
}

/// Where an app listens.
#[derive(Debug)]
pub(in super::super) enum Place {
    /// A socket in a directory that is removed in the end.
    Unix(PrivateDirectory),
    /// On loopback.
    Port(u16),
}

impl Place {
    /// As the placeholders in a command want it; a port when there are none.
    pub(super) fn choose(words: &[OsString]) -> Result<Self, PlaceError> {
        let has = |name: &str| words.iter().any(|word| contains(word, name));
        match (has(UNIX), has(PORT), has(BIND)) {
            (true, true, _) => Err(PlaceError::Both),
            (true, ..) | (_, false, true) => PrivateDirectory::new().map(Self::Unix),
            (false, ..) => free_port().map(Self::Port),
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Unix(directory) => Endpoint::Unix(directory.socket()),
            Self::Port(port) => Endpoint::Tcp(format!("127.0.0.1:{port}")),
        }
    }

    /// The same path and query here.
    pub(super) fn url(&self, url: &Uri) -> Option<Uri> {
        match self {
            Self::Unix(directory) => socket::at(&directory.socket(), url),
            Self::Port(port) => {
                let target = url.path_and_query().map_or("/", |target| target.as_str());
                let authority = format!("127.0.0.1:{port}");
                Uri::builder().scheme("http").authority(authority).path_and_query(target).build().ok()
            }
        }
    }

    pub(super) const fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(_) => None,
            Self::Port(port) => Some(*port),
        }
    }

    /// The command with its placeholders filled.
    pub(super) fn fill(&self, words: &[OsString]) -> Vec<OsString> {
        let (bind, socket, port) = match self {
            Self::Unix(directory) => {
                let socket = directory.socket().into_os_string();
                let mut bind = OsString::from("unix:");
                bind.push(&socket);
                (bind, socket, OsString::new())
            }
            Self::Port(port) => {
                (format!("127.0.0.1:{port}").into(), OsString::new(), OsString::from(port.to_string()))
            }
        };
        let fill = |word: &OsString| {
            [(BIND, &bind), (UNIX, &socket), (PORT, &port)]
                .into_iter()
                .fold(word.clone(), |word, (name, value)| replace(&word, name, value))
        };
        words.iter().map(fill).collect()
    }

    /// What the app finds in its environment; `None` is removed from it. Some servers have variables of
    /// their own, or would take `PORT` for leave to listen on every address.
    pub(super) fn environment(&self) -> Vec<(&'static str, Option<OsString>)> {
        let Self::Port(port) = self else {
            // What our own environment may say is the gateway's port, not the app's.
            return vec![("PORT", None)];
        };
        let text = OsString::from(port.to_string());
        let mut gunicorn = std::env::var_os("GUNICORN_CMD_ARGS").unwrap_or_default();
        gunicorn.push(if gunicorn.is_empty() { "" } else { " " });
        gunicorn.push(format!("--bind=127.0.0.1:{port}"));
        vec![
            ("PORT", Some(text.clone())),
            ("GUNICORN_CMD_ARGS", Some(gunicorn)),
            ("UVICORN_PORT", Some(text.clone())),
            ("FLASK_RUN_PORT", Some(text)),
        ]
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(directory) => write!(f, "unix:{}", directory.socket().display()),
            Self::Port(port) => write!(f, "http://127.0.0.1:{port}"),
        }
    }
}

fn contains(word: &OsStr, name: &str) -> bool {
    word.as_bytes().windows(name.len()).any(|part| part == name.as_bytes())
}

fn replace(word: &OsStr, name: &str, value: &OsStr) -> OsString {
    let (bytes, mut filled, mut at) = (word.as_bytes(), Vec::new(), 0);
    while let Some(found) = memchr::memmem::find(&bytes[at..], name.as_bytes()) {
        filled.extend_from_slice(&bytes[at..at + found]);
        filled.extend_from_slice(value.as_bytes());
        at += found + name.len();
    }
    filled.extend_from_slice(&bytes[at..]);
    OsString::from_vec(filled)
}

/// A port that nobody listens on, on either loopback address.
fn free_port() -> Result<u16, PlaceError> {
    let is_free = |port: &u16| {
        let v4 = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)));
        let v6 = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, *port)));
        // A machine may have no IPv6 at all.
        v4.is_ok() && v6.map_or_else(|error| error.kind() != io::ErrorKind::AddrInUse, |_| true)
    };
    let mut any = (0..TRIES).map_while(|_| getrandom::u32().ok()).map(|random| {
        let span = u32::from(PORTS.end - PORTS.start);
        PORTS.start + u16::try_from(random % span).unwrap_or(0)
    });
    any.find(is_free).ok_or(PlaceError::NoPort)
}

/// A directory of this process that nobody else may look into, until it is dropped.
#[derive(Debug)]
pub(in super::super) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    fn new() -> Result<Self, PlaceError> {
        Self::under(&std::env::temp_dir())
    }

    fn under(parent: &Path) -> Result<Self, PlaceError> {
        let random = getrandom::u64().map_err(|error| PlaceError::Directory {
            path: parent.to_owned(),
            source: io::Error::other(error),
        })?;
        // The app may have another working directory.
        let parent = std::path::absolute(parent).unwrap_or_else(|_| parent.to_owned());
        let path = parent.join(format!("gatepost-app-{random:016x}"));
        if path.join(SOCKET).as_os_str().len() > LONGEST {
            return Err(PlaceError::TooLong(path));
        }
        // It must not exist: whoever has made it could look into it.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| PlaceError::Directory { path: path.clone(), source })?;
        Ok(Self(path))
    }

    fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "the app's directory cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn placeholders_decide_between_a_socket_and_a_port() {
        for (text, is_socket) in [
            ("gunicorn --bind {bind} app:app", true),
            ("gunicorn --bind={bind} app:app", true),
            ("uvicorn --uds {socket} app:app", true),
            ("server --listen {bind} --socket {socket}", true),
            ("server --listen {bind} --port {port}", false),
            ("server --listen 127.0.0.1:{port}", false),
            ("node app.js", false),
        ] {
            let place = Place::choose(&words(text)).expect("a place");
            assert_eq!(matches!(place, Place::Unix(_)), is_socket, "{text}");
        }
        assert!(matches!(Place::choose(&words("server {socket} {port}")), Err(PlaceError::Both)));
    }

    #[test]
    fn placeholders_are_filled_wherever_they_stand_and_once() {
        let filled = Place::Port(4711).fill(&words("a {bind} x{port}y{port} {BIND} {} {{port}}"));
        assert_eq!(filled, words("a 127.0.0.1:4711 x4711y4711 {BIND} {} {4711}"));
        let place = Place::Unix(PrivateDirectory::new().expect("a directory"));
        let Endpoint::Unix(socket) = place.endpoint() else { panic!("no socket") };
        let socket = socket.display();
        assert_eq!(place.fill(&words("a {bind} {socket}")), words(&format!("a unix:{socket} {socket}")));
        let strange = OsString::from_vec(b"\xff{port}\xfe".to_vec());
        assert_eq!(Place::Port(1).fill(&[strange]), [OsString::from_vec(b"\xff1\xfe".to_vec())]);
    }

    #[test]
    fn the_directory_is_private_and_goes_away_with_what_is_in_it() {
        let directory = PrivateDirectory::new().expect("a directory");
        let mode = fs::metadata(&directory.0).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(directory.socket(), "").expect("ours");
        let path = directory.0.clone();
        drop(directory);
        assert!(!path.exists());
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(100)));
        assert!(matches!(PrivateDirectory::under(&long), Err(PlaceError::TooLong(_))));
        let none = PrivateDirectory::under(Path::new("/proc/self/no-such"));
        assert!(matches!(none, Err(PlaceError::Directory { .. })));
    }

    #[test]
    fn a_port_is_told_and_with_a_socket_our_own_is_taken_away() {
        let told = Place::Port(4711).environment();
        let value = |name: &str| {
            told.iter().find(|(told, _)| *told == name).and_then(|(_, value)| value.clone()).expect("told")
        };
        for name in ["PORT", "UVICORN_PORT", "FLASK_RUN_PORT"] {
            assert_eq!(value(name), "4711");
        }
        assert!(value("GUNICORN_CMD_ARGS").to_string_lossy().ends_with("--bind=127.0.0.1:4711"));
        let place = Place::Unix(PrivateDirectory::new().expect("a directory"));
        assert_eq!(place.environment(), [("PORT", None)]);
    }

    #[test]
    fn a_port_is_free_on_both_loopback_addresses() {
        let port = free_port().expect("a port");
        assert!(PORTS.contains(&port));
    }
}
