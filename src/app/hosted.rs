//! The app as a process of ours: `gatepost run -- COMMAND`.
//!
//! It gets a place that nobody else reaches (a Unix socket in a private directory, or a loopback port),
//! which takes the place of its upstream's servers in memory. The gateway begins to listen when the app has
//! answered, and neither outlives the other: an app that ends makes the gateway drain and end with its exit
//! code, and a gateway that is to stop drains first, then ends the app.

mod answer;
mod listeners;
mod owner;
mod place;
mod process;
mod program;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::time::Duration;

use http::Uri;
use rustix::process::Signal;
use tokio::time::Instant;

pub use self::process::become_app;

use self::answer::Question;
use self::owner::{Port, Stranger, Watch};
use self::place::{Place, PlaceError};
use self::process::{End, Process};
use super::Signals;
use crate::settings::{Endpoint, Settings, UpstreamScheme, UpstreamServer};

/// How often an app that starts is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What is to be run, and how.
#[derive(Clone, Debug)]
pub struct HostedCommand {
    /// The program and its arguments, placeholders and all.
    pub words: Vec<OsString>,
    /// The upstream that it is.
    pub upstream: String,
    /// How long it may take to answer.
    pub start_timeout: Duration,
    /// How long it may take to end when it is asked to.
    pub stop_timeout: Duration,
    /// Whether its port may be open to other machines.
    pub allow_exposed: bool,
}

/// Why there is no app to be in front of.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// The words contradict each other, or there is no place to be had.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// It cannot be run.
    #[error("{program}: {source}")]
    Spawn {
        /// What was to be run.
        program: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It has ended, and had not answered.
    #[error("the app ended before it answered on {place}: {end}{}", in_the_foreground(*.end))]
    Ended {
        /// Where it should have answered.
        place: String,
        /// How.
        end: End,
    },
    /// It runs and does not answer.
    #[error(
        "the app does not answer on {place} within {within:?} (--start-timeout): {why}; \
         does it listen where {{bind}}, {{socket}}, {{port}} or $PORT says?"
    )]
    Silent {
        /// Where it should answer.
        place: String,
        /// For so long.
        within: Duration,
        /// What the last attempt met.
        why: String,
    },
    /// Somebody else answers in its place.
    #[error(
        "whoever listens on {place} is no process of the app (user id {uid}), and is sent nothing: another user \
         or program has taken the port; on a Unix socket ({{bind}}) nobody else can be"
    )]
    Taken {
        /// Where the app should answer.
        place: String,
        /// Who has made the socket that takes connections there.
        uid: u32,
    },
    /// Others reach it, too.
    #[error(
        "the app listens on {address}, where others reach it without the gateway: have it listen on \
         127.0.0.1, or on a Unix socket ({{bind}}), or say --allow-exposed"
    )]
    Exposed {
        /// Where it listens.
        address: String,
    },
}

impl HostedError {
    /// What a shell would say of such a command.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Ended { end, .. } if end.code() != 0 => end.code(),
            Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Spawn { .. } => 126,
            _ => 1,
        }
    }
}

/// Who ends without a complaint has gone to the background, or was no server.
fn in_the_foreground(end: End) -> &'static str {
    if end == End::Exited(0) { " (it has to stay in the foreground)" } else { "; it may have said why above" }
}

/// The name of the upstream that a command is: the one that is `asked` for, or the only one.
///
/// # Errors
/// A sentence that names the upstreams there are.
pub fn upstream_of(settings: &Settings, asked: Option<&str>) -> Result<String, String> {
    let names: Vec<&str> = settings.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let all = names.join(", ");
    match (asked, names.as_slice()) {
        (Some(asked), names) if names.contains(&asked) => Ok(asked.to_owned()),
        (Some(asked), _) => Err(format!("there is no upstream {asked:?} in the file; there is: {all}")),
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => Err("the file has no [[upstream]] that the command could be".to_owned()),
        (None, _) => Err(format!("which upstream is the command? Say --upstream NAME: {all}")),
    }
}

/// How waiting for an app ended that did not fail.
pub(super) enum Started {
    /// It answers.
    Answers(Hosted),
    /// A signal to stop came first, and it has ended with this exit code.
    Stopped(u8),
}

/// The app, which answers.
pub(super) struct Hosted {
    upstream: String,
    process: Process,
    stop_timeout: Duration,
    place: Place,
    /// Whose its port is, once it has one and where that can be known.
    watch: Option<Watch>,
    /// Who has taken its port.
    stranger: Option<Stranger>,
}

impl Hosted {
    /// Runs the command and waits until it answers.
    pub(super) fn start(
        command: &HostedCommand,
        settings: &Settings,
        signals: &mut Signals,
    ) -> Result<Started, HostedError> {
        let place = Place::choose(&command.words)?;
        let process = Process::spawn(&place.fill(&command.words), &place.environment())?;
        let mut hosted = Self::new(command.upstream.clone(), place, process, command.stop_timeout);
        tracing::info!(pid = hosted.process.pid(), place = %hosted.place, "the app is started");
        match hosted.wait_until_it_answers(command, settings, signals) {
            Ok(true) => Ok(Started::Answers(hosted)),
            Ok(false) => Ok(Started::Stopped(hosted.stop(signals, || {}))),
            Err(error) => {
                hosted.stop(signals, || {});
                Err(error)
            }
        }
    }

    const fn new(upstream: String, place: Place, process: Process, stop_timeout: Duration) -> Self {
        Self { upstream, process, stop_timeout, place, watch: None, stranger: None }
    }

    /// False: a signal to stop came first.
    fn wait_until_it_answers(
        &mut self,
        command: &HostedCommand,
        settings: &Settings,
        signals: &mut Signals,
    ) -> Result<bool, HostedError> {
        let within = command.start_timeout;
        let scheme = self.scheme(settings);
        let health = settings.upstreams.iter().find(|upstream| upstream.name == self.upstream);
        let question = Question::new(&self.place, scheme, health.and_then(|u| u.health.as_ref()));
        let port = self.place.port();
        let process = &mut self.process;
        let waited = signals.unless_stopped(async {
            let until = Instant::now() + within;
            loop {
                let answer = tokio::select! {
                    end = process.ended() => return Err(Waited::Ended(end)),
                    answer = question.ask(until) => answer,
                };
                // Whoever has answered listens.
                let why = match answer.map(|()| port.map(|port| Port::ask(port, process.pid()))) {
                    Err(why) => why,
                    Ok(Some(Port::Taken(stranger))) => return Err(Waited::Taken(stranger)),
                    Ok(Some(Port::TheApps(sockets))) => return Ok(sockets),
                    Ok(None | Some(Port::Unknown)) => return Ok(Vec::new()),
                    Ok(Some(Port::Free)) => "nobody can be seen to listen there".to_owned(),
                };
                if Instant::now() + ASK_EVERY >= until {
                    return Err(Waited::Silent(why));
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        });
        let place = self.place.to_string();
        match waited {
            None => Ok(false),
            Some(Err(Waited::Ended(end))) => Err(HostedError::Ended { place, end }),
            Some(Err(Waited::Silent(why))) => {
                // Perhaps for that reason.
                match port.map(|port| Port::ask(port, self.process.pid())) {
                    Some(Port::Taken(Stranger { uid })) => Err(HostedError::Taken { place, uid }),
                    _ => Err(HostedError::Silent { place, within, why }),
                }
            }
            Some(Err(Waited::Taken(stranger))) => Err(HostedError::Taken { place, uid: stranger.uid }),
            Some(Ok(sockets)) => {
                let known = port.filter(|_| !sockets.is_empty());
                self.watch = known.map(|port| Watch::new(port, self.process.pid(), sockets));
                let listeners = port.and_then(listeners::on).unwrap_or_default();
                let Some(exposed) = listeners.iter().find(|listener| listener.is_exposed()) else {
                    return Ok(true);
                };
                let address = exposed.address.to_string();
                if !command.allow_exposed {
                    return Err(HostedError::Exposed { address });
                }
                tracing::warn!(address, "the app can be reached without the gateway");
                Ok(true)
            }
        }
    }

    /// Of the upstream's servers in the file only how they are spoken to stays.
    fn scheme(&self, settings: &Settings) -> UpstreamScheme {
        let upstream = settings.upstreams.iter().find(|upstream| upstream.name == self.upstream);
        let is_h2c = |server: &UpstreamServer| server.scheme == UpstreamScheme::H2c;
        match upstream {
            Some(upstream) if upstream.servers.iter().all(is_h2c) => UpstreamScheme::H2c,
            _ => UpstreamScheme::Http,
        }
    }

    /// Where it is, for people.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Puts the app in the place of its upstream's servers, also where it is called by a URL of theirs.
    ///
    /// # Errors
    /// When there is no such upstream.
    pub(super) fn put(&self, settings: &mut Settings) -> Result<(), String> {
        let scheme = self.scheme(settings);
        let server = UpstreamServer { scheme, endpoint: self.place.endpoint() };
        let upstream = settings.upstreams.iter_mut().find(|upstream| upstream.name == self.upstream);
        let Some(upstream) = upstream else {
            return Err(format!(
                "there is no upstream {:?} any more, which is the app that runs",
                self.upstream
            ));
        };
        let before = std::mem::replace(&mut upstream.servers, vec![server]);
        for url in urls(settings) {
            if before.iter().any(|server| is_at(url, server)) {
                *url =
                    self.place.url(url).ok_or_else(|| format!("{url} cannot lead to the app that runs"))?;
            }
        }
        Ok(())
    }

    /// Waits until it has ended by itself, or somebody else has its port: it is then as good as gone.
    pub(super) async fn ended(&mut self) {
        let taken = async {
            match (self.stranger, &mut self.watch) {
                (Some(stranger), _) => stranger,
                (None, Some(watch)) => watch.taken().await,
                (None, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.process.ended() => {}
            stranger = taken => self.stranger = Some(stranger),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.process.end().is_some() || self.stranger.is_some()
    }

    /// Says that it has ended, and how.
    pub(super) fn say_ended(&self) {
        if let (None, Some(stranger)) = (self.process.end(), self.stranger) {
            let error = HostedError::Taken { place: self.place.to_string(), uid: stranger.uid };
            tracing::error!("{error}");
            let _ = writeln!(io::stderr(), "gatepost: {error}; stopping");
            return;
        }
        let Some(end) = self.process.end() else { return };
        tracing::error!(code = end.code(), "the app has ended: {end}");
        let _ = writeln!(io::stderr(), "gatepost: the app has ended: {end}; stopping");
    }

    /// Hands it a signal that is its own business.
    pub(super) fn pass_on(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it, if it has not ended, and all that it has started: it is asked to, and after a while, or with
    /// another signal to stop, made to. Meanwhile calls `beat` now and then. Answers the exit code of both.
    pub(super) fn stop(mut self, signals: &mut Signals, beat: impl FnMut()) -> u8 {
        let by_itself = self.process.end();
        self.process.stop(self.stop_timeout, signals, beat);
        match by_itself.or_else(|| self.process.end()) {
            _ if self.stranger.is_some() && by_itself.is_none() => 1,
            Some(end) if by_itself.is_none() && end.is_as_asked() => 0,
            Some(end) => end.code(),
            // It cannot be ended, and we do not stay for it.
            None => 1,
        }
    }
}

/// Where the gateway calls apps by itself.
fn urls(settings: &mut Settings) -> impl Iterator<Item = &mut Uri> {
    let admission = settings.auth.admission.as_mut().map(|admission| &mut admission.url);
    let migrate = settings.auth.migrate.as_mut().map(|migrate| &mut migrate.url);
    let events = settings.events.as_mut().map(|events| &mut events.url);
    admission.into_iter().chain(migrate).chain(events)
}

/// Whether a URL leads to this server.
fn is_at(url: &Uri, server: &UpstreamServer) -> bool {
    let Endpoint::Tcp(authority) = &server.endpoint else { return false };
    let (scheme, default_port) = match server.scheme {
        UpstreamScheme::Https => ("https", 443),
        UpstreamScheme::Http | UpstreamScheme::H2c => ("http", 80),
    };
    let host = url.host().unwrap_or_default();
    let asked = format!("{host}:{}", url.port_u16().unwrap_or(default_port));
    url.scheme_str() == Some(scheme) && asked.eq_ignore_ascii_case(authority)
}

/// Why an app does not answer.
enum Waited {
    Ended(End),
    Taken(Stranger),
    Silent(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[[upstream]]
name = "app"
servers = ["http://10.0.0.1:5000", "http://10.0.0.2:5000"]
timeout = "7s"
[[upstream]]
name = "rpc"
servers = ["h2c://127.0.0.1:50051"]
[[route]]
path = "/**"
upstream = "app"
"#;

    fn settings(text: &str) -> Settings {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config.toml");
        std::fs::write(&file, text).expect("written");
        let sources = crate::config::Sources { file: Some(file), ..Default::default() };
        crate::config::load(&sources).expect("a good file").settings
    }

    #[test]
    fn the_upstream_is_the_only_one_or_the_one_that_is_named() {
        let mut two = settings(FILE);
        assert_eq!(upstream_of(&two, Some("rpc")).as_deref(), Ok("rpc"));
        let which = upstream_of(&two, None).expect_err("two");
        assert!(which.contains("--upstream") && which.contains("app, rpc"), "{which}");
        let none = upstream_of(&two, Some("web")).expect_err("none such");
        assert!(none.contains("\"web\"") && none.contains("app, rpc"), "{none}");
        two.upstreams.truncate(1);
        assert_eq!(upstream_of(&two, None).as_deref(), Ok("app"));
        two.upstreams.clear();
        assert!(upstream_of(&two, None).is_err());
    }

    #[test]
    fn a_command_that_ended_or_cannot_be_run_has_a_shells_exit_code() {
        let ended = |end| HostedError::Ended { place: "here".to_owned(), end };
        let spawn = |kind: io::ErrorKind| HostedError::Spawn { program: "x".to_owned(), source: kind.into() };
        for (error, code) in [
            (ended(End::Exited(3)), 3),
            (ended(End::Exited(0)), 1),
            (ended(End::Killed(9)), 137),
            (spawn(io::ErrorKind::NotFound), 127),
            (spawn(io::ErrorKind::PermissionDenied), 126),
            (HostedError::Exposed { address: "0.0.0.0:1".to_owned() }, 1),
        ] {
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }

    #[test]
    fn the_app_takes_the_place_of_its_upstreams_servers_and_of_nothing_else() {
        let mut settings = settings(FILE);
        for (upstream, scheme) in [("app", UpstreamScheme::Http), ("rpc", UpstreamScheme::H2c)] {
            let hosted = Hosted::new(upstream.to_owned(), Place::Port(4711), Process::none(), Duration::ZERO);
            hosted.put(&mut settings).expect("there is one");
            let put = settings.upstreams.iter().find(|u| u.name == upstream).expect("it stays");
            let server = UpstreamServer { scheme, endpoint: Endpoint::Tcp("127.0.0.1:4711".to_owned()) };
            assert_eq!(put.servers, [server]);
            settings.upstreams.retain(|u| u.name != upstream || u.name == "app");
            if upstream == "rpc" {
                assert!(hosted.put(&mut settings).is_err(), "a reload may have lost it");
            }
        }
        assert_eq!(settings.upstreams[0].timeout, Duration::from_secs(7));
    }

    #[test]
    fn what_calls_the_app_by_its_servers_url_calls_the_app_that_runs() {
        let file = r#"
[auth]
admission_url = "http://10.0.0.2:5000/admit?x=1"
[auth.migrate]
url = "http://10.0.0.3:5000/login"
until = 2999-01-01
[[upstream]]
name = "app"
servers = ["http://10.0.0.1:5000", "http://10.0.0.2:5000"]
[[route]]
path = "/**"
"#;
        for place in [Place::Port(4711), Place::choose(&["{bind}".into()]).expect("a place")] {
            let mut settings = settings(file);
            let there = place.url(&"http://x/admit?x=1".parse().expect("a URL")).expect("a URL");
            let process = Process::none();
            let hosted = Hosted::new("app".to_owned(), place, process, Duration::ZERO);
            hosted.put(&mut settings).expect("there is one");
            assert_eq!(settings.auth.admission.expect("asked").url, there);
            let elsewhere = settings.auth.migrate.expect("asked").url;
            assert_eq!(elsewhere, "http://10.0.0.3:5000/login", "which is no server of the upstream");
        }
    }

    #[test]
    fn a_url_leads_to_a_server_by_its_port_too() {
        let server = |scheme, authority: &str| UpstreamServer {
            scheme,
            endpoint: Endpoint::Tcp(authority.to_owned()),
        };
        for (url, scheme, authority, leads) in [
            ("http://app/x", UpstreamScheme::Http, "app:80", true),
            ("http://APP:80/x", UpstreamScheme::Http, "app:80", true),
            ("http://[::1]:5000/x", UpstreamScheme::Http, "[::1]:5000", true),
            ("https://app/x", UpstreamScheme::Https, "app:443", true),
            ("https://app:80/x", UpstreamScheme::Http, "app:80", false),
            ("http://app:81/x", UpstreamScheme::Http, "app:80", false),
            ("http://apps/x", UpstreamScheme::Http, "app:80", false),
        ] {
            assert_eq!(is_at(&url.parse().expect("a URL"), &server(scheme, authority)), leads, "{url}");
        }
    }
}
