//! Certificates from an authority (ACME, RFC 8555): ordered, kept in the store, renewed in time.
//!
//! One thread with a runtime of its own does it; workers never wait for an authority. What has been
//! ordered is written down before the next step is taken, so a restart goes on where the last one was:
//! with the same account, the same order and the same key.

mod exchange;
mod schedule;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;

use self::exchange::{AcmeError, Exchange};
use self::schedule::{Schedule, Step};
use crate::clock::Clock;
use crate::metrics::{Metrics, OrderResult};
use crate::settings::AcmeSettings;
use crate::store::{AcmeCertificate, AcmeState, Store, StoreError};
use crate::tls::{Certificate, Tls};

/// An order that takes longer is given up, and begun again later.
const ORDER_TIMEOUT: Duration = Duration::from_mins(5);

/// What it works with.
pub struct AcmeParts {
    /// `[server.tls.acme]`
    pub settings: AcmeSettings,
    /// Whether clear text is answered, where an authority may look for a file.
    pub answers_http: bool,
    /// Where certificates go, and challenges.
    pub tls: Arc<Tls>,
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Where orders are counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for AcmeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcmeParts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("what is known of ACME cannot be read: {0}")]
    Store(#[from] StoreError),
    /// A thread, or its runtime.
    #[error("the thread for ACME cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// The thread that keeps a certificate. Ends when it is dropped, in the middle of an order if need be.
#[derive(Debug)]
pub struct Acme {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Acme {
    /// Serves the certificate that the store has, if it has one, and starts to look after it. To be called
    /// before anybody can connect, and not on a runtime.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(parts: AcmeParts) -> Result<Self, StartError> {
        let mut state = parts.store.acme().wait()?.unwrap_or_default();
        if state.directory != parts.settings.directory {
            // Another authority: its predecessor's certificate is good until there is a new one.
            let AcmeState { version, certificate, .. } = state;
            let directory = parts.settings.directory.clone();
            state = AcmeState { version, directory, account: None, order: None, certificate };
        }
        let served = state.certificate.as_ref().and_then(|kept| serve(&parts.tls, kept));
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let keeper = Keeper { parts, state, served };
        let run = move || runtime.block_on(keeper.keep(stopped));
        let thread = thread::Builder::new().name("gatepost-acme".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            drop(thread.join());
        }
    }
}

/// Makes a kept certificate the one that is served. What cannot be used is ordered anew.
fn serve(tls: &Tls, kept: &AcmeCertificate) -> Option<Arc<Certificate>> {
    match Certificate::from_pem(kept.chain.as_bytes(), kept.key.expose().as_bytes()) {
        Ok(certificate) => {
            let certificate = Arc::new(certificate);
            tls.install(Arc::clone(&certificate));
            Some(certificate)
        }
        Err(error) => {
            tracing::error!(%error, "the certificate in the store cannot be used");
            None
        }
    }
}

struct Keeper {
    parts: AcmeParts,
    state: AcmeState,
    served: Option<Arc<Certificate>>,
}

impl Keeper {
    async fn keep(mut self, mut stopped: watch::Receiver<bool>) {
        let mut schedule = Schedule::default();
        loop {
            let now = self.parts.clock.now().secs();
            let kept = self.state.certificate.as_ref().zip(self.served.as_deref());
            let validity = kept
                .filter(|(kept, _)| kept.domains == self.parts.settings.domains)
                .map(|(_, served)| (served.not_before(), served.not_after()));
            let work = async {
                match schedule.next(now.cast_signed(), validity, jitter()) {
                    Step::Wait(time) => {
                        tokio::time::sleep(time).await;
                        None
                    }
                    Step::Order { attempt } => Some(self.order(attempt).await),
                }
            };
            let outcome = tokio::select! {
                outcome = work => outcome,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            let Some(outcome) = outcome else { continue };
            self.parts.tls.challenges().close_all();
            match outcome {
                Ok(()) => {
                    self.parts.metrics.acme_orders.of(OrderResult::Ok).add_one();
                    schedule.succeeded();
                }
                Err(error) => {
                    self.parts.metrics.acme_orders.of(OrderResult::Failed).add_one();
                    let wait = schedule.failed(error.is_rate_limit(), jitter());
                    tracing::error!(%error, retry_in = ?wait, "no certificate was issued");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = stopped.wait_for(|stop| *stop) => return,
                    }
                }
            }
        }
    }

    async fn order(&mut self, attempt: u32) -> Result<(), AcmeError> {
        let exchange = Exchange { parts: &self.parts, attempt };
        let obtained = tokio::time::timeout(ORDER_TIMEOUT, exchange.obtain(&mut self.state)).await;
        obtained.map_err(|_| AcmeError::Timeout)??;
        let kept = self.state.certificate.as_ref().ok_or(AcmeError::Unusable)?;
        let certificate = serve(&self.parts.tls, kept).ok_or(AcmeError::Unusable)?;
        let until = certificate.not_after();
        tracing::info!(domains = ?kept.domains, not_after = until, "a certificate was issued");
        self.served = Some(certificate);
        Ok(())
    }
}

/// A number below 1, so that not everybody renews at once.
fn jitter() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / (f64::from(u32::MAX) + 1.0)
}
