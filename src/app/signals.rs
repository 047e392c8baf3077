//! What the system asks of a process: SIGTERM, SIGINT and SIGHUP, and those that are for its app.

use std::io;
use std::time::Duration;

use rustix::process::Signal as ProcessSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often a process that stops looks whether its workers are done.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a signal asks for.
pub(super) enum Caught {
    /// That the process ends.
    Stop,
    /// That the configuration is loaded again.
    Reload,
    /// Something that the app understands.
    ForApp(ProcessSignal),
}

/// SIGTERM, SIGINT and SIGHUP, caught from here on.
#[derive(Debug)]
pub struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Those that are an app's business.
    passed: Vec<(ProcessSignal, Signal)>,
}

impl Signals {
    /// Catches them. To be done before anybody is told that the gateway runs.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hangup, passed: Vec::new() })
    }

    /// Catches those that an app may understand, and we do not.
    pub(super) fn catch_for_app(&mut self) -> io::Result<()> {
        let names = [ProcessSignal::USR1, ProcessSignal::USR2, ProcessSignal::TTIN, ProcessSignal::TTOU];
        let _entered = self.runtime.enter();
        for name in names {
            self.passed.push((name, signal(SignalKind::from_raw(name.as_raw()))?));
        }
        Ok(())
    }

    /// The next signal, or what comes of `other` when that is first.
    pub(super) fn next_or<T: From<Caught>>(&mut self, other: impl Future<Output = T>) -> T {
        let Self { runtime, terminate, interrupt, hangup, passed } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => Caught::Stop.into(),
                _ = interrupt.recv() => Caught::Stop.into(),
                _ = hangup.recv() => Caught::Reload.into(),
                signal = first_of(passed) => Caught::ForApp(signal).into(),
                done = other => done,
            }
        })
    }

    /// What comes of this, unless a signal to stop comes first.
    pub(super) fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let Self { runtime, terminate, interrupt, .. } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                done = work => Some(done),
            }
        })
    }

    /// Waits until it is `done`, for so long at most. True: a signal to stop came first.
    pub(super) fn stop_within(&mut self, span: Duration, mut done: impl FnMut() -> bool) -> bool {
        let Self { runtime, terminate, interrupt, .. } = self;
        let until = async {
            while !done() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        runtime.block_on(async {
            let until = tokio::time::timeout(span, until);
            tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = until => false,
            }
        })
    }
}

/// The next of these signals.
async fn first_of(caught: &mut [(ProcessSignal, Signal)]) -> ProcessSignal {
    std::future::poll_fn(|context| {
        let come = caught
            .iter_mut()
            .find_map(|(name, caught)| caught.poll_recv(context).is_ready().then_some(*name));
        come.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}
