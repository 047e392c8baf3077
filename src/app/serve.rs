//! The commands `serve` and `run`, from the first line on stderr to the exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use super::hand_over::Predecessor;
use super::hosted::{Hosted, HostedCommand, Started};
use super::signals::Signals;
use super::start::{Origin, StartError};
use super::{App, Ended, systemd};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Loaded};
use crate::metrics::Metrics;
use crate::ops::log;
use crate::server::{self, Inherited};
use crate::settings::Settings;

/// What `serve` is asked for.
#[derive(Debug)]
pub struct Serve {
    /// The configuration.
    pub loaded: Loaded,
    /// Where it comes from, and comes from again.
    pub sources: config::Sources,
    /// Whether it is to take over from the gateway that runs.
    pub take_over: bool,
    /// The app that is to be run behind it.
    pub hosted: Option<HostedCommand>,
}

/// Serves until told to stop, or until the app ends: the commands `serve` and `run`. To be called from the
/// thread that the program began with.
#[must_use]
pub fn serve(serve: Serve) -> ExitCode {
    match run(serve) {
        Ok(Exit::With(code)) => ExitCode::from(code),
        Ok(Exit::Failed) => {
            let _ = writeln!(io::stderr(), "gatepost: a worker ended; stopping");
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "gatepost: {error}");
            match error {
                StartError::Hosted(error) => ExitCode::from(error.exit_code()),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// How a process ends that has served.
enum Exit {
    /// As it was asked to, or as its app has.
    With(u8),
    Failed,
}

fn run(serve: Serve) -> Result<Exit, StartError> {
    // First: it takes what it reads out of the environment, which no other thread may look at then.
    let inherited = Inherited::from_environment().map_err(server::StartError::from)?;
    let Serve { mut loaded, mut sources, take_over, hosted } = serve;
    // Whatever happens to the usual places and the working directory: it is this file from here on.
    sources.file = Some(std::path::absolute(&loaded.path).unwrap_or_else(|_| loaded.path.clone()));
    let mut signals = Signals::catch().map_err(StartError::System)?;
    let metrics = Arc::new(Metrics::default());
    let log = log::init(&loaded.settings.log, Arc::clone(&metrics))?;
    for warning in loaded.warnings.iter().chain(&loaded.ended(SystemClock.now().secs())) {
        tracing::warn!("{}", warning.message);
    }
    let hosted =
        match hosted.map(|command| start_app(&command, &mut loaded.settings, &mut signals)).transpose()? {
            Some(Started::Stopped(code)) => return Ok(Exit::With(code)),
            Some(Started::Answers(hosted)) => Some(hosted),
            None => None,
        };
    let origin = if take_over {
        Predecessor::ask(&loaded.settings).map(Origin::Predecessor).map_err(StartError::from)
    } else {
        Ok(Origin::Fresh(inherited))
    };
    let started = origin.and_then(|origin| App::start_from(origin, loaded.settings, &metrics, log.clone()));
    let mut app = match (started, hosted) {
        (Ok(app), hosted) => App { hosted, ..app },
        (Err(error), None) => return Err(error),
        (Err(error), Some(hosted)) => {
            hosted.stop(&mut signals, || {});
            return Err(error);
        }
    };
    let mut stderr = io::stderr().lock();
    for place in app.listening() {
        let _ = writeln!(stderr, "gatepost: listening on {place}");
    }
    let _ = writeln!(stderr, "gatepost: admin on http://{}", app.admin_address());
    let _ = writeln!(stderr, "gatepost: ready");
    drop(stderr);
    systemd::ready();
    let exit = match app.wait(&mut signals, &sources, loaded.fingerprint) {
        Ended::Followed(successor) => Exit::With(app.leave(*successor, &mut signals).unwrap_or(0)),
        ended => {
            tracing::info!("stopping");
            let code = app.stop(&mut signals);
            if matches!(ended, Ended::Failed) { Exit::Failed } else { Exit::With(code.unwrap_or(0)) }
        }
    };
    log.close();
    Ok(exit)
}

/// Runs the app, waits until it answers, and puts it in its upstream's place.
fn start_app(
    command: &HostedCommand,
    settings: &mut Settings,
    signals: &mut Signals,
) -> Result<Started, StartError> {
    signals.catch_for_app().map_err(StartError::System)?;
    let started = Hosted::start(command, settings, signals)?;
    if let Started::Answers(hosted) = &started {
        hosted.put(settings).map_err(StartError::NoUpstream)?;
        let _ = writeln!(io::stderr(), "gatepost: the app answers on {}", hosted.place());
    }
    Ok(started)
}
