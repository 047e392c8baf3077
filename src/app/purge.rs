//! What has run out is removed from the store, now and then.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::control::Desk;
use crate::store::{SledStore, Store as _};

/// How often what has run out is removed.
const PURGE_EVERY: Duration = Duration::from_mins(1);

/// Looks through the stored hashes once, and removes what has run out now and then.
pub(super) struct Purge {
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
}

impl Purge {
    pub(super) fn start(store: Arc<SledStore>, desk: Arc<Desk>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let (stop, mut stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let run = move || {
            runtime.block_on(async {
                learn_prices(&desk, &mut stopped).await;
                while tokio::time::timeout(PURGE_EVERY, stopped.wait_for(|stop| *stop)).await.is_err() {
                    let now = clock.now();
                    desk.revocations().purge(now);
                    match store.purge(now).await {
                        Ok(purged) => tracing::debug!(?purged, "purged what has run out"),
                        Err(error) => tracing::warn!(%error, "what has run out could not be purged"),
                    }
                }
            });
        };
        let thread = thread::Builder::new().name("gatepost-purge".to_owned()).spawn(run)?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) {
        self.stop.send_replace(true);
        // A panic in it has been printed already.
        drop(self.thread.join());
    }
}

/// Lets failed logins cost from the start what the stored hashes cost. It takes a second or two for a
/// hundred thousand accounts, beside what the gateway serves.
async fn learn_prices(desk: &Desk, stopped: &mut watch::Receiver<bool>) {
    let accounts = desk.accounts();
    let learned = tokio::select! {
        learned = accounts.learn_prices() => learned,
        _ = stopped.wait_for(|stop| *stop) => return,
    };
    if let Err(error) = learned {
        tracing::warn!(%error, "what the stored password hashes cost could not be read");
    }
}
