//! The thread that watches the servers: asks how they are, and where their names lead.
//!
//! One for the whole process. A check is an exchange like any other, over a new connection of the same
//! make as those of requests, so that a server that passes can be used: it is good when the head of the
//! answer has a status of 2xx or 3xx and comes in time. What a check or a lookup found goes to the
//! [`Fleet`], where all workers see it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::choice::Chance;
use super::exchange::Exchange;
use super::fleet::{Fleet, Group, Member, millis};
use super::headers::HeaderRules;
use super::pool::{Server, Wanted, Way};
use super::resolve::AGAIN;
use super::{ProxyError, UpstreamRequest, UpstreamRoute};
use crate::burst::Bursts;
use crate::deadline::Deadlines;
use crate::message::client::TrustedProxies;
use crate::message::identity::IdentityRules;
use crate::settings::{HealthSettings, Settings, UpstreamServer, UpstreamSettings};

/// Lookups that may block at once.
const LOOKUPS: usize = 4;

/// Watches the servers of a fleet until it is stopped.
#[derive(Debug)]
pub struct Watch {
    stop: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch. Where no server has a name and none is checked, there is nothing to do.
    ///
    /// # Errors
    /// When the system has no thread or runtime to give.
    pub fn start(fleet: &Arc<Fleet>, settings: &Arc<Settings>) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        if !fleet.groups().iter().any(|group| needs_watching(group)) {
            return Ok(Self { stop, thread: None });
        }
        let (fleet, settings) = (Arc::clone(fleet), Arc::clone(settings));
        let run = move || {
            if let Err(error) = watch(&fleet, &settings, stopped) {
                tracing::error!(%error, "the servers cannot be watched");
            }
        };
        let thread = thread::Builder::new().name("gatepost-health".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops, and waits for what is under way to be given up.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // A panic in it has been printed already.
        drop(self.thread.map(thread::JoinHandle::join));
    }
}

fn needs_watching(group: &Group) -> bool {
    group.health().is_some() || group.members().iter().any(|member| member.addresses().name().is_some())
}

fn watch(fleet: &Arc<Fleet>, settings: &Settings, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUPS)
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let tools = Tools::new(settings, &mut tasks);
        for (index, (group, upstream)) in fleet.groups().iter().zip(&settings.upstreams).enumerate() {
            for (place, (member, server)) in group.members().iter().zip(&upstream.servers).enumerate() {
                if member.addresses().name().is_some() {
                    tasks.spawn_local(look_up(Arc::clone(group), Arc::clone(member)));
                }
                let Some(health) = group.health() else { continue };
                let check = Check {
                    group: Arc::clone(group),
                    place,
                    server: tools.server(
                        upstream,
                        server,
                        Way { addresses: member.addresses(), tls: fleet.tls(index) },
                    ),
                    health: health.clone(),
                };
                tasks.spawn_local(check.repeat(Rc::clone(&tools), Arc::clone(fleet)));
            }
        }
        let _ = stopped.wait_for(|stop| *stop).await;
        tasks.shutdown().await;
    });
    // A lookup may still be blocked; nobody waits for what it finds.
    runtime.shutdown_background();
    Ok(())
}

/// What an exchange needs, as every worker has it.
struct Tools {
    deadlines: Rc<Deadlines>,
    bursts: Rc<Bursts>,
    rules: Rc<HeaderRules>,
    chance: Chance,
}

impl Tools {
    fn new(settings: &Settings, tasks: &mut JoinSet<()>) -> Rc<Self> {
        let (deadlines, bursts) = (Deadlines::new(), Bursts::new());
        tasks.spawn_local(Rc::clone(&deadlines).tick());
        tasks.spawn_local(Rc::clone(&bursts).write());
        let identity = IdentityRules::new(&settings.identity);
        let trusted = TrustedProxies::new(Vec::new());
        let rules = Rc::new(HeaderRules::new(identity, trusted, &settings.tokens.accept));
        Rc::new(Self { deadlines, bursts, rules, chance: Chance::new() })
    }

    fn server(&self, upstream: &UpstreamSettings, server: &UpstreamServer, way: Way<'_>) -> Rc<Server> {
        Rc::new(Server::new(upstream, server, way, &self.deadlines, &self.bursts))
    }

    /// Between nine tenths and eleven tenths of it: who begins together does not stay together.
    fn about(&self, span: Duration) -> Duration {
        span * 9 / 10 + span / 1000 * u32::try_from(self.chance.below(201)).unwrap_or(0)
    }
}

/// One server's checks.
struct Check {
    group: Arc<Group>,
    place: usize,
    server: Rc<Server>,
    health: HealthSettings,
}

impl Check {
    async fn repeat(self, tools: Rc<Tools>, fleet: Arc<Fleet>) {
        let mut next = Instant::now();
        loop {
            let answer = self.ask(&tools).await;
            // No connection is kept: the next check is to show that one can be made.
            self.server.close_idle(u64::MAX);
            self.group.checked(self.place, answer, millis(fleet.start().elapsed()));
            next = Instant::now().max(next + tools.about(self.health.interval));
            tokio::time::sleep_until(next).await;
        }
    }

    async fn ask(&self, tools: &Tools) -> Result<(), String> {
        match tokio::time::timeout(self.health.timeout, self.status(tools)).await {
            Ok(Ok(status)) if status.is_success() || status.is_redirection() => Ok(()),
            Ok(Ok(status)) => Err(format!("it answers {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.health.timeout)),
        }
    }

    async fn status(&self, tools: &Tools) -> Result<StatusCode, ProxyError> {
        let route = UpstreamRoute::own();
        let mut request = UpstreamRequest::check(&route, &self.health.path, &self.server.host);
        let link = self.server.connect(Wanted::Any, self.health.timeout).await?;
        let deadline = tools.deadlines.slot();
        let exchange = Exchange { rules: &tools.rules, deadline: &deadline, timeout: self.health.timeout };
        match exchange.run(link, &self.server, &mut request).await {
            Ok(response) => Ok(response.status()),
            Err(failure) => Err(failure.into_error(&request)),
        }
    }
}

/// Asks again and again where a server's name leads.
async fn look_up(group: Arc<Group>, member: Arc<Member>) {
    let addresses = member.addresses();
    let Some(name) = addresses.name() else { return };
    let upstream = group.name();
    let mut failing = false;
    loop {
        let answer: io::Result<Vec<_>> = tokio::net::lookup_host(name).await.map(Iterator::collect);
        match &answer {
            Err(error) if !failing => tracing::warn!(upstream, name, %error, "the name cannot be resolved"),
            Ok(_) if failing => tracing::info!(upstream, name, "the name can be resolved again"),
            _ => {}
        }
        failing = answer.is_err();
        if addresses.learn(answer) {
            tracing::debug!(upstream, name, "the name leads elsewhere");
        }
        let wait = if addresses.is_known() { group.resolve() } else { group.resolve().min(AGAIN) };
        tokio::time::sleep(wait).await;
    }
}
