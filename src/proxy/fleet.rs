//! What all workers know of the upstreams' servers: who is left out and until when, how far a server
//! that came back has got, and where names lead.
//!
//! A server is left out for two reasons. The health checker found it unhealthy, until it finds it
//! healthy again; or requests failed on it so often in a row that it is ejected for a while. Each change
//! is made under the server's lock by whoever noticed; whoever chooses a server only reads numbers, and
//! while all is well one flag for the whole upstream. Times are milliseconds on the fleet's own clock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::resolve::Addresses;
use super::tls::ClientTls;
use crate::metrics::{Counter, ServerSample, UpstreamSample};
use crate::settings::{EjectionSettings, HealthSettings, UpstreamServer, UpstreamSettings};

/// A whole share of the requests, as [`Member::share`] counts.
pub(super) const FULL: u32 = 1 << 16;
/// The share that a server starts with when it comes back: a hundredth.
const LEAST: u32 = FULL / 100;
/// An ejection is never longer than so many times the first.
const LONGEST: u32 = 10;
/// When a server is left out until the checker says otherwise.
const DOWN: u64 = u64::MAX;

/// Every upstream's servers, as all workers see them.
#[derive(Debug)]
pub struct Fleet {
    start: Instant,
    groups: Vec<Arc<Group>>,
    /// Of each upstream; none where TLS is not spoken.
    tls: Vec<Option<ClientTls>>,
}

impl Fleet {
    /// Servers of which nothing is known yet: all of them take requests.
    #[must_use]
    pub fn new(upstreams: &[UpstreamSettings]) -> Self {
        Self {
            start: Instant::now(),
            groups: upstreams.iter().map(|u| Arc::new(Group::new(u, None))).collect(),
            tls: Vec::new(),
        }
    }

    /// The same with the TLS of each upstream, in the same order. Servers behind `https://` cannot be
    /// reached without.
    #[must_use]
    pub fn with_tls(mut self, tls: Vec<Option<ClientTls>>) -> Self {
        self.tls = tls;
        self
    }

    /// How TLS is spoken to the servers of the upstream at this place.
    pub(super) fn tls(&self, place: usize) -> Option<&ClientTls> {
        self.tls.get(place)?.as_ref()
    }

    /// The fleet of changed settings: what is known of a server stays known when an upstream of the same
    /// name still has a server that is written the same.
    #[must_use]
    pub fn after(old: &Self, upstreams: &[UpstreamSettings]) -> Self {
        let group = |upstream: &UpstreamSettings| {
            let before = old.groups.iter().find(|group| group.name == upstream.name);
            match before {
                Some(group) if group.is_of(upstream) => Arc::clone(group),
                Some(group) => Arc::new(Group::new(upstream, Some(group))),
                None => Arc::new(Group::new(upstream, None)),
            }
        };
        Self { start: old.start, groups: upstreams.iter().map(group).collect(), tls: Vec::new() }
    }

    /// Each upstream's servers, in the order of the settings.
    pub(super) fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// When it was made: time zero of all its times.
    pub(super) const fn start(&self) -> Instant {
        self.start
    }

    /// For the metrics.
    #[must_use]
    pub fn samples(&self) -> Vec<UpstreamSample> {
        let now = millis(self.start.elapsed());
        self.groups.iter().map(|group| group.sample(now)).collect()
    }
}

/// The servers of one upstream.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    members: Vec<Arc<Member>>,
    ejection: EjectionSettings,
    health: Option<HealthSettings>,
    slow_start: u64,
    resolve: Duration,
    /// Whether some server may not take its full share; while nobody does, there is nothing to look at.
    /// Shared with the group of changed settings, whose servers these may be.
    attention: Arc<AtomicBool>,
    /// Whether it was said that every server is out.
    all_out: AtomicBool,
    ejections: Arc<Counter>,
}

impl Group {
    fn new(upstream: &UpstreamSettings, before: Option<&Self>) -> Self {
        let member = |server: &UpstreamServer| {
            let text = server.to_string();
            let known = before.and_then(|group| group.members.iter().find(|member| member.text == text));
            known.map_or_else(|| Arc::new(Member::new(text, server)), Arc::clone)
        };
        let group = Self {
            name: upstream.name.clone(),
            members: upstream.servers.iter().map(member).collect(),
            ejection: upstream.ejection,
            health: upstream.health.clone(),
            slow_start: millis(upstream.slow_start),
            resolve: upstream.resolve,
            attention: before.map_or_else(Arc::default, |group| Arc::clone(&group.attention)),
            all_out: AtomicBool::new(false),
            ejections: before.map_or_else(Arc::default, |group| Arc::clone(&group.ejections)),
        };
        group.attention.store(true, Ordering::SeqCst);
        for member in &group.members {
            member.forgive(!group.ejects(), group.health.is_none());
        }
        group
    }

    /// Whether it would be made of these settings again.
    fn is_of(&self, upstream: &UpstreamSettings) -> bool {
        self.ejection == upstream.ejection
            && self.health == upstream.health
            && self.slow_start == millis(upstream.slow_start)
            && self.resolve == upstream.resolve
            && self.members.len() == upstream.servers.len()
            && self
                .members
                .iter()
                .zip(&upstream.servers)
                .all(|(member, server)| member.text == server.to_string())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    pub(super) const fn health(&self) -> Option<&HealthSettings> {
        self.health.as_ref()
    }

    /// How often names are looked up again.
    pub(super) const fn resolve(&self) -> Duration {
        self.resolve
    }

    /// Whether some server may not take its full share.
    pub(super) fn needs_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// A lone server is never ejected: there is nothing else to choose.
    const fn ejects(&self) -> bool {
        self.ejection.failures > 0 && self.members.len() > 1
    }

    /// Each server's share at this time. What has run out by now is put away, and said.
    pub(super) fn shares(&self, now: u64) -> impl Iterator<Item = u32> {
        self.members.iter().map(move |member| {
            if member.settle(now, self.slow_start) {
                tracing::info!(upstream = self.name, server = member.text, "the server's ejection is over");
            }
            member.share(now, self.slow_start)
        })
    }

    /// Stops looking when there is nothing to see.
    pub(super) fn all_full(&self) {
        // Cleared first and looked at then: who takes a server out in between sets it again.
        self.attention.store(false, Ordering::SeqCst);
        if self.members.iter().any(|member| !member.is_plain()) {
            self.attention.store(true, Ordering::SeqCst);
        }
        self.some_in();
    }

    /// Every server is out, and they are used all the same. Said once.
    pub(super) fn none_in(&self) {
        if !self.all_out.swap(true, Ordering::Relaxed) {
            tracing::error!(upstream = self.name, "every server is out: all of them are tried nevertheless");
        }
    }

    /// Some server is in.
    pub(super) fn some_in(&self) {
        if self.all_out.load(Ordering::Relaxed) {
            self.all_out.store(false, Ordering::Relaxed);
        }
    }

    /// A server answered.
    pub(super) fn succeeded(&self, server: usize) {
        let failures = &self.members[server].failures;
        if failures.load(Ordering::Relaxed) != 0 {
            failures.store(0, Ordering::Relaxed);
        }
    }

    /// A server could not be reached, or its answer was broken or late.
    pub(super) fn failed(&self, server: usize, why: &dyn std::fmt::Display, now: u64) {
        if !self.ejects() {
            return;
        }
        let member = &self.members[server];
        let failures = member.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < self.ejection.failures {
            return;
        }
        let Some(span) = member.eject(now, self.ejection.duration) else { return };
        self.attention.store(true, Ordering::SeqCst);
        self.ejections.add_one();
        tracing::warn!(
            upstream = self.name,
            server = member.text,
            failures,
            last = %why,
            "the server is ejected for {span:?}"
        );
    }

    /// The health checker asked a server.
    pub(super) fn checked(&self, server: usize, answer: Result<(), String>, now: u64) {
        let Some(health) = &self.health else { return };
        let member = &self.members[server];
        let (upstream, name) = (&self.name, &member.text);
        if !member.note_check(answer.is_ok(), health, self.slow_start, now) {
            return;
        }
        self.attention.store(true, Ordering::SeqCst);
        match answer {
            Ok(()) => tracing::info!(upstream, server = name, "the server is healthy"),
            Err(reason) => tracing::warn!(upstream, server = name, reason, "the server is unhealthy"),
        }
    }

    fn sample(&self, now: u64) -> UpstreamSample {
        let server = |member: &Arc<Member>| ServerSample {
            server: member.text.clone(),
            up: member.share(now, self.slow_start) > 0,
        };
        UpstreamSample {
            upstream: self.name.clone(),
            ejections: self.ejections.value(),
            servers: self.members.iter().map(server).collect(),
        }
    }
}

/// One server.
#[derive(Debug)]
pub(super) struct Member {
    text: String,
    addresses: Arc<Addresses>,
    /// It is out until then; 0: it is in. [`DOWN`]: until the checker says otherwise.
    out_until: AtomicU64,
    /// It came back then, and its share grows; 0: it has its full share.
    back_since: AtomicU64,
    /// Failures in a row.
    failures: AtomicU32,
    standing: Mutex<Standing>,
}

/// What only those look at who change it.
#[derive(Debug, Default)]
struct Standing {
    /// The end of the last ejection.
    ejected_until: u64,
    ejected_for: Duration,
    /// Ejections without a longer rest between them.
    ejections: u32,
    /// The checker found it unhealthy.
    down: bool,
    /// Checks in a row that contradict `down`.
    contrary: u32,
}

impl Member {
    fn new(text: String, server: &UpstreamServer) -> Self {
        Self {
            text,
            addresses: Arc::new(Addresses::of(&server.endpoint)),
            out_until: AtomicU64::new(0),
            back_since: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            standing: Mutex::default(),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) const fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// Nothing is known against it.
    fn is_plain(&self) -> bool {
        self.out_until.load(Ordering::SeqCst) == 0 && self.back_since.load(Ordering::SeqCst) == 0
    }

    /// Its share of the requests at this time: 0 is none, [`FULL`] as much as the others get.
    pub(super) fn share(&self, now: u64, slow_start: u64) -> u32 {
        let until = self.out_until.load(Ordering::SeqCst);
        if until > now {
            return 0;
        }
        let since = until.max(self.back_since.load(Ordering::SeqCst));
        let age = now.saturating_sub(since);
        if since == 0 || age >= slow_start {
            return FULL;
        }
        let grown = u64::from(FULL).saturating_mul(age) / slow_start;
        u32::try_from(grown).unwrap_or(FULL).clamp(LEAST, FULL)
    }

    /// Puts away what has run out. Whether an ejection has.
    fn settle(&self, now: u64, slow_start: u64) -> bool {
        if self.is_plain() {
            return false;
        }
        let standing = self.lock();
        let until = self.out_until.load(Ordering::SeqCst);
        let over = until != 0 && until <= now;
        if over {
            self.come_back(until, slow_start);
        }
        let since = self.back_since.load(Ordering::SeqCst);
        if since != 0 && now.saturating_sub(since) >= slow_start {
            self.back_since.store(0, Ordering::SeqCst);
        }
        drop(standing);
        over
    }

    fn come_back(&self, at: u64, slow_start: u64) {
        let since = if slow_start == 0 { 0 } else { at.max(1) };
        self.back_since.store(since, Ordering::SeqCst);
        self.out_until.store(0, Ordering::SeqCst);
    }

    /// Leaves it out, unless it is already. For how long: the first time `first`, then twice as long each
    /// time that it did not stay for longer than it had been away.
    fn eject(&self, now: u64, first: Duration) -> Option<Duration> {
        let mut standing = self.lock();
        self.failures.store(0, Ordering::Relaxed);
        if standing.down || standing.ejected_until > now {
            return None;
        }
        let stayed = now.saturating_sub(standing.ejected_until);
        let again = standing.ejections > 0 && stayed <= millis(standing.ejected_for);
        standing.ejections = if again { standing.ejections.saturating_add(1) } else { 1 };
        let factor = 1_u32.checked_shl(standing.ejections - 1).map_or(LONGEST, |factor| factor.min(LONGEST));
        standing.ejected_for = first.saturating_mul(factor);
        standing.ejected_until = now.saturating_add(millis(standing.ejected_for)).clamp(1, DOWN - 1);
        self.out_until.store(standing.ejected_until, Ordering::SeqCst);
        Some(standing.ejected_for)
    }

    /// Notes a check. Whether it changed what is thought of the server.
    fn note_check(&self, good: bool, health: &HealthSettings, slow_start: u64, now: u64) -> bool {
        let mut standing = self.lock();
        if good != standing.down {
            standing.contrary = 0;
            return false;
        }
        standing.contrary += 1;
        let needed = if standing.down { health.healthy } else { health.unhealthy };
        if standing.contrary < needed {
            return false;
        }
        standing.contrary = 0;
        standing.down = !good;
        if good {
            // Whoever was asked so often is as good as its requests would show.
            standing.ejected_until = standing.ejected_until.min(now);
            self.failures.store(0, Ordering::Relaxed);
            self.come_back(now, slow_start);
        } else {
            self.out_until.store(DOWN, Ordering::SeqCst);
        }
        true
    }

    /// Forgets what the settings do not know any more.
    fn forgive(&self, ejection: bool, health: bool) {
        let mut standing = self.lock();
        if ejection {
            standing.ejected_until = 0;
            self.failures.store(0, Ordering::Relaxed);
        }
        if health {
            standing.down = false;
            standing.contrary = 0;
        }
        let until = if standing.down { DOWN } else { standing.ejected_until };
        if self.out_until.load(Ordering::SeqCst) != 0 {
            self.out_until.store(until, Ordering::SeqCst);
        }
    }

    /// Every change leaves it whole: a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As the fleet counts time.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::settings::{Endpoint, UpstreamHost, UpstreamScheme, UpstreamTls};

    const SECOND: u64 = 1000;

    /// An upstream `app` with these servers.
    pub(in super::super) fn upstream(servers: &[&str]) -> UpstreamSettings {
        let server = |address: &&str| UpstreamServer {
            scheme: UpstreamScheme::Http,
            endpoint: Endpoint::Tcp((*address).to_owned()),
        };
        UpstreamSettings {
            name: "app".to_owned(),
            servers: servers.iter().map(server).collect(),
            host: UpstreamHost::Preserve,
            timeout: Duration::from_mins(1),
            connect_timeout: Duration::from_secs(5),
            idle: Duration::from_secs(4),
            tls: UpstreamTls::default(),
            health: None,
            ejection: EjectionSettings { failures: 3, duration: Duration::from_secs(10) },
            slow_start: Duration::ZERO,
            resolve: Duration::from_secs(30),
        }
    }

    fn health() -> HealthSettings {
        HealthSettings {
            path: "/healthz".to_owned(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
        }
    }

    const TWO: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

    fn fleet(change: impl FnOnce(&mut UpstreamSettings)) -> Fleet {
        let mut settings = upstream(&TWO);
        change(&mut settings);
        Fleet::new(&[settings])
    }

    fn group(fleet: &Fleet) -> &Group {
        &fleet.groups()[0]
    }

    fn shares(fleet: &Fleet, now: u64) -> Vec<u32> {
        group(fleet).shares(now).collect()
    }

    fn fail(fleet: &Fleet, times: u32, now: u64) {
        for _ in 0..times {
            group(fleet).failed(0, &"refused", now);
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_time_brings_back() {
        let fleet = fleet(|_| {});
        fail(&fleet, 2, SECOND);
        group(&fleet).succeeded(0);
        fail(&fleet, 2, SECOND);
        assert_eq!(shares(&fleet, SECOND), [FULL, FULL], "not three in a row");
        fail(&fleet, 1, SECOND);
        assert!(group(&fleet).needs_attention());
        assert_eq!(shares(&fleet, SECOND), [0, FULL]);
        fail(&fleet, 50, 5 * SECOND);
        assert_eq!(shares(&fleet, 11 * SECOND - 1), [0, FULL], "failures of the ejected do not count");
        assert_eq!(shares(&fleet, 11 * SECOND), [FULL, FULL]);
        assert_eq!(fleet.samples()[0].ejections, 1);
    }

    #[test]
    fn each_ejection_is_twice_as_long_up_to_ten_times_until_the_server_stays() {
        let fleet = fleet(|_| {});
        let mut now = SECOND;
        for seconds in [10, 20, 40, 80, 100, 100] {
            fail(&fleet, 3, now);
            now += seconds * SECOND - 1;
            assert_eq!(shares(&fleet, now)[0], 0, "{seconds}");
            now += 1;
            assert_eq!(shares(&fleet, now)[0], FULL, "{seconds}");
        }
        now += 101 * SECOND;
        fail(&fleet, 3, now);
        assert_eq!(shares(&fleet, now + 9 * SECOND)[0], 0);
        assert_eq!(shares(&fleet, now + 10 * SECOND)[0], FULL);
    }

    #[test]
    fn a_lone_server_and_a_switched_off_ejection_never_eject() {
        let lone = fleet(|settings| settings.servers.truncate(1));
        fail(&lone, 100, SECOND);
        assert_eq!(shares(&lone, SECOND), [FULL]);
        let off = fleet(|settings| settings.ejection.failures = 0);
        fail(&off, 100, SECOND);
        assert_eq!(shares(&off, SECOND), [FULL, FULL]);
        assert_eq!(off.samples()[0].ejections, 0);
    }

    #[test]
    fn so_many_checks_in_a_row_take_out_and_bring_back() {
        let fleet = fleet(|settings| settings.health = Some(health()));
        let check = |good: bool| {
            let answer = if good { Ok(()) } else { Err("it says 500".to_owned()) };
            group(&fleet).checked(0, answer, SECOND);
            shares(&fleet, SECOND)[0] == FULL
        };
        let run: Vec<bool> = [
            false, false, true, false, false, false, // two are not three in a row
            true, false, true, true, false, // one is not two in a row
        ]
        .map(check)
        .to_vec();
        let expected = [true, true, true, true, true, false, false, false, false, true, true];
        assert_eq!(run, expected);
    }

    #[test]
    fn a_server_that_comes_back_gets_a_share_that_grows() {
        let fleet = fleet(|settings| {
            settings.slow_start = Duration::from_secs(10);
            settings.health = Some(health());
        });
        assert_eq!(shares(&fleet, 0), [FULL, FULL], "at the start nobody comes back");
        fail(&fleet, 3, SECOND);
        assert_eq!(shares(&fleet, 11 * SECOND), [LEAST, FULL]);
        assert_eq!(shares(&fleet, 16 * SECOND), [FULL / 2, FULL]);
        assert_eq!(shares(&fleet, 21 * SECOND), [FULL, FULL]);
        for good in [false, false, false, true, true] {
            group(&fleet).checked(1, if good { Ok(()) } else { Err(String::new()) }, 30 * SECOND);
        }
        assert_eq!(shares(&fleet, 35 * SECOND), [FULL, FULL / 2]);
    }

    #[test]
    fn nothing_is_looked_at_when_all_is_well_again() {
        let fleet = fleet(|_| {});
        let group = group(&fleet);
        group.all_full();
        assert!(!group.needs_attention());
        fail(&fleet, 3, SECOND);
        group.all_full();
        assert!(group.needs_attention(), "somebody is out");
        assert_eq!(shares(&fleet, 11 * SECOND), [FULL, FULL]);
        group.all_full();
        assert!(!group.needs_attention());
    }

    #[test]
    fn changed_settings_keep_what_is_known_of_unchanged_servers() {
        let old = fleet(|settings| settings.health = Some(health()));
        fail(&old, 3, SECOND);
        for _ in 0..3 {
            group(&old).checked(1, Err(String::new()), SECOND);
        }
        let mut settings = upstream(&["127.0.0.1:3", "127.0.0.1:2", "127.0.0.1:1"]);
        settings.health = Some(health());
        let mut renamed = settings.clone();
        renamed.name = "other".to_owned();
        let new = Fleet::after(&old, &[renamed, settings.clone()]);
        let known: Vec<_> = new.groups[1].shares(2 * SECOND).collect();
        assert_eq!(known, [FULL, 0, 0]);
        assert_eq!(new.groups[1].ejections.value(), 1);
        assert_eq!(new.groups[0].shares(2 * SECOND).collect::<Vec<_>>(), [FULL; 3], "another upstream");

        // Nobody would ever bring these back.
        settings.health = None;
        settings.ejection.failures = 0;
        let new = Fleet::after(&new, &[settings]);
        assert_eq!(new.groups[0].shares(2 * SECOND).collect::<Vec<_>>(), [FULL; 3]);
    }

    #[test]
    fn metrics_show_who_takes_requests() {
        let fleet = fleet(|_| {});
        for _ in 0..3 {
            group(&fleet).failed(1, &"refused", millis(fleet.start.elapsed()));
        }
        let [sample] = &fleet.samples()[..] else { panic!("one upstream") };
        let up: Vec<_> = sample.servers.iter().map(|server| (server.server.as_str(), server.up)).collect();
        assert_eq!((sample.upstream.as_str(), sample.ejections), ("app", 1));
        assert_eq!(up, [("http://127.0.0.1:1", true), ("http://127.0.0.1:2", false)]);
    }
}
