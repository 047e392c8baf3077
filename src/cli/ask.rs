//! Who answers a command: the running gateway, or the store itself when there is none.

use std::path::PathBuf;
use std::sync::Arc;

use super::CliError;
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::control::client::{self, AskError};
use crate::control::{Answer, Command, Desk, DeskParts};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::store::memory::MemoryStore;
use crate::store::sled::{self, OpenError, SledStore};
use crate::store::{Store, StoreOptions};

/// The way to an answer. Once the store was opened, it stays open and no gateway can start beside it.
pub(super) struct Connection {
    settings: Arc<Settings>,
    own: Option<Own>,
    only_looks: bool,
}

/// A desk of our own on the store.
struct Own {
    runtime: tokio::runtime::Runtime,
    desk: Desk,
}

impl Connection {
    pub(super) fn new(loaded: &Loaded) -> Self {
        Self { settings: Arc::new(loaded.settings.clone()), own: None, only_looks: false }
    }

    /// From here on nothing is asked that changes anything: where no store is, none is made.
    pub(super) const fn only_look(&mut self) {
        self.only_looks = true;
    }

    /// Asks the running gateway; when there is none, takes the store's lock and does it here.
    pub(super) fn ask(&mut self, command: Command) -> Result<Answer, CliError> {
        if self.own.is_none() {
            let socket = &self.settings.admin.socket;
            match client::ask(socket, &command) {
                Ok(answer) => return Ok(answer),
                Err(AskError::NobodyAnswers) => {}
                Err(AskError::Refused(refusal)) => return Err(refusal.into()),
                Err(AskError::Permission) => {
                    let pid = sled::holder(&self.settings.store.path);
                    return Err(CliError::Permission { socket: socket.clone(), pid });
                }
                Err(AskError::Broken(cause)) => {
                    return Err(CliError::Broken { socket: socket.clone(), cause });
                }
            }
            self.own = Some(Own::open(&self.settings, self.only_looks)?);
        }
        let Some(Own { runtime, desk }) = &self.own else { return Err(CliError::Mismatch) };
        Ok(runtime.block_on(desk.answer(command))?)
    }
}

impl Own {
    fn open(settings: &Arc<Settings>, only_looks: bool) -> Result<Self, CliError> {
        let metrics = Arc::new(Metrics::default());
        // A store that fails answers the command with the reason; there is nobody else to tell.
        let options = StoreOptions { metrics: Arc::clone(&metrics), ..StoreOptions::default() };
        let socket = || -> PathBuf { settings.admin.socket.clone() };
        let store: Arc<dyn Store> = if only_looks && !sled::is_made(&settings.store.path) {
            Arc::new(MemoryStore::new())
        } else {
            let opened = SledStore::open(&settings.store, options).map_err(|error| match error {
                lock @ OpenError::Locked { .. } => CliError::Locked { lock, socket: socket() },
                other => CliError::Store(other),
            });
            Arc::new(opened?)
        };
        let settings = Arc::clone(settings);
        let outside = crate::app::outside::recording(&settings);
        let clock = Arc::new(SystemClock);
        let desk = Desk::open(DeskParts { store, settings, metrics, clock, outside });
        let desk = desk.map_err(|error| CliError::Failed(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, desk })
    }
}
