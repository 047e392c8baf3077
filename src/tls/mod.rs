//! TLS towards clients (RFC 8446, RFC 5246): certificates, how one is chosen, and when they change.
//!
//! Whoever accepts connections asks [`Tls::config`] for each; certificates are swapped behind it, so a
//! renewal concerns new connections only. Bytes and sockets are `server`'s, getting certificates from an
//! authority is `acme`'s.

mod certificate;
mod challenge;
mod check;
mod choice;
mod parameters;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use self::choice::{Certificates, Choice};
use self::parameters::Parameters;
use crate::metrics::{Metrics, ReloadResult};
use crate::settings::TlsSettings;

pub use certificate::{Certificate, Fault, FileError};
pub use challenge::{ACME_ALPN, ChallengeError, ChallengeKind, Challenges};
pub use check::{Finding, check};
pub use parameters::HTTP2;
pub use watch::Watch;

/// Why TLS cannot be served: everything that is wrong, each naming its file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificates, keys or authorities.
    #[error("{}", join(.0))]
    Files(Vec<FileError>),
    /// The library refuses the combination.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

fn join(errors: &[FileError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The state of TLS: what new connections are served with.
#[derive(Debug)]
pub struct Tls {
    config: ArcSwap<ServerConfig>,
    choice: Arc<Choice>,
    challenges: Challenges,
    metrics: Arc<Metrics>,
    /// Who changes something holds it, and nobody else looks.
    source: Mutex<Source>,
}

/// What the present state was made from.
#[derive(Debug)]
struct Source {
    settings: TlsSettings,
    parameters: Parameters,
    /// What the files held when they were last looked at, good or bad.
    seen: [u8; 32],
    configured: Vec<Arc<Certificate>>,
    issued: Option<Arc<Certificate>>,
}

impl Tls {
    /// Loads everything that the settings name.
    ///
    /// # Errors
    /// [`TlsError`], with every file that cannot be used.
    pub fn new(settings: &TlsSettings, metrics: Arc<Metrics>) -> Result<Arc<Self>, TlsError> {
        let seen = watch::digest(settings);
        let configured = load(settings)?;
        let parameters = Parameters::load(settings)?;
        let choice = Arc::new(Choice::new(Certificates::new(&configured, None)));
        let config = parameters.config(Arc::clone(&choice))?;
        let source = Source { settings: settings.clone(), parameters, seen, configured, issued: None };
        Ok(Arc::new(Self {
            config: ArcSwap::from(config),
            choice,
            challenges: Challenges::default(),
            metrics,
            source: Mutex::new(source),
        }))
    }

    /// What a connection that begins now is served with. Without locks.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// What an ACME authority may come and look for.
    #[must_use]
    pub const fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Serves by other settings from now on: versions, authorities, certificates. Open connections stay.
    ///
    /// # Errors
    /// [`TlsError`]; then everything stays as it was.
    pub fn replace(&self, settings: &TlsSettings) -> Result<(), TlsError> {
        let mut source = self.source();
        let outcome = self.apply(&mut source, settings);
        if outcome.is_ok() {
            source.seen = watch::digest(settings);
        }
        outcome
    }

    /// Looks at the files again. True when they held something new and it is served now.
    ///
    /// # Errors
    /// [`TlsError`] when they hold something new that cannot be used; it is said once, and what was served
    /// before is still served.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let mut source = self.source();
        let settings = source.settings.clone();
        // Before they are read: what changes in between is found different the next time.
        let seen = watch::digest(&settings);
        if seen == source.seen {
            return Ok(false);
        }
        source.seen = seen;
        let outcome = self.apply(&mut source, &settings);
        let result = if outcome.is_ok() { ReloadResult::Ok } else { ReloadResult::Failed };
        self.metrics.certificate_reloads.of(result).add_one();
        outcome.map(|()| true)
    }

    /// Serves a certificate that an authority has issued; for its names it comes before configured ones.
    pub fn install(&self, issued: Arc<Certificate>) {
        let mut source = self.source();
        source.issued = Some(issued);
        self.choice.set(Certificates::new(&source.configured, source.issued.as_ref()));
    }

    /// The certificates' names and ends, in seconds since 1970, the default one first.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, i64)> {
        let source = self.source();
        let mut all: Vec<(String, i64)> = Vec::new();
        for (index, certificate) in source.configured.iter().chain(&source.issued).enumerate() {
            let mut label = certificate.label(index);
            // Two series of one name are none: the scraper would refuse the page.
            if all.iter().any(|(other, _)| *other == label) {
                label = format!("{label} ({})", index + 1);
            }
            all.push((label, certificate.not_after()));
        }
        all
    }

    fn apply(&self, source: &mut Source, settings: &TlsSettings) -> Result<(), TlsError> {
        let configured = load(settings)?;
        let parameters = Parameters::load(settings)?;
        if parameters != source.parameters {
            // With a new key for tickets: a session that began under other rules is not resumed.
            self.config.store(parameters.config(Arc::clone(&self.choice))?);
        }
        self.choice.set(Certificates::new(&configured, source.issued.as_ref()));
        source.configured = configured;
        source.parameters = parameters;
        source.settings = settings.clone();
        Ok(())
    }

    /// Nothing in there is left half done by a panic.
    fn source(&self) -> std::sync::MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(settings: &TlsSettings) -> Result<Vec<Arc<Certificate>>, TlsError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for files in &settings.certificates {
        match Certificate::load(files) {
            Ok(certificate) => good.push(Arc::new(certificate)),
            Err(error) => bad.push(error),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(TlsError::Files(bad)) }
}

#[cfg(test)]
mod tests;
