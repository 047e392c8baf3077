//! Who outside has a say in accounts or is told of them, by the configuration.

use std::io;
use std::sync::Arc;

use crate::account::{Admission, Migration, Outside};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::outbound::{AdmissionByApp, Calls, Events, EventsParts, MigrationByApp};
use crate::settings::Settings;
use crate::store::Store;

/// What outlives a reload.
pub(super) struct Outgoing {
    /// Apart, so that logins that hang keep nobody from registering.
    logins: Arc<Calls>,
    admissions: Arc<Calls>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Outgoing {
    pub(super) fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { logins: Arc::default(), admissions: Arc::default(), metrics, clock }
    }

    /// Those who have a say by these settings.
    pub(super) fn outside(&self, settings: &Settings) -> Outside {
        let metrics = &self.metrics;
        let migration = settings.auth.migrate.clone().map(|migrate| -> Arc<dyn Migration> {
            Arc::new(MigrationByApp::new(migrate, Arc::clone(&self.logins), Arc::clone(metrics)))
        });
        let secret = settings.events.as_ref().map(|events| events.secret.clone());
        let admission = settings.auth.admission.clone().map(|admission| -> Arc<dyn Admission> {
            let (metrics, clock) = (Arc::clone(metrics), Arc::clone(&self.clock));
            let calls = Arc::clone(&self.admissions);
            Arc::new(AdmissionByApp::new(admission, secret, calls, metrics, clock))
        });
        Outside { migration, admission, is_told: settings.events.is_some() }
    }

    /// Who tells the app of accounts by these settings.
    pub(super) fn events(&self, settings: &Settings, store: Arc<dyn Store>) -> io::Result<Option<Events>> {
        let start = |events| {
            Events::start(EventsParts {
                settings: events,
                store,
                metrics: Arc::clone(&self.metrics),
                clock: Arc::clone(&self.clock),
            })
        };
        settings.events.clone().map(start).transpose()
    }
}

/// For a command that works on the store itself: what it changes waits in the outbox for the gateway.
pub(crate) fn recording(settings: &Settings) -> Outside {
    Outside { is_told: settings.events.is_some(), ..Outside::default() }
}
