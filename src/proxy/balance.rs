//! One worker's side of an upstream: its connections to each server, and what it has under way there.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::choice::{Chance, choose};
use super::fleet::{Fleet, Group, millis};
use super::pool::{Server, Way};
use crate::burst::Bursts;
use crate::deadline::Deadlines;
use crate::settings::{UpstreamHost, UpstreamSettings};

/// The servers of one `[[upstream]]`.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) name: Rc<str>,
    pub(super) timeout: Duration,
    /// Whether the app sees the client's `Host`, or else the server's own name.
    pub(super) preserve_host: bool,
    pub(super) connect_timeout: Duration,
    settings: UpstreamSettings,
    servers: Vec<Rc<Server>>,
    /// This worker's requests at each server, to the end of their answers.
    busy: Box<[Cell<usize>]>,
    group: Arc<Group>,
    chance: Chance,
    /// Time zero of the fleet's clock.
    start: Instant,
}

impl Upstream {
    /// The upstream at this place of the settings, without connections.
    pub(super) fn new(
        settings: &UpstreamSettings,
        place: usize,
        fleet: &Fleet,
        clock: &Rc<Deadlines>,
        bursts: &Rc<Bursts>,
    ) -> Self {
        let group = Arc::clone(&fleet.groups()[place]);
        let servers = settings.servers.iter().zip(group.members());
        let servers: Vec<_> = servers
            .map(|(server, member)| {
                let way = Way { addresses: member.addresses(), tls: fleet.tls(place) };
                Server::new(settings, server, way, clock, bursts)
            })
            .map(Rc::new)
            .collect();
        Self {
            name: settings.name.as_str().into(),
            timeout: settings.timeout,
            preserve_host: settings.host == UpstreamHost::Preserve,
            connect_timeout: settings.connect_timeout,
            settings: settings.clone(),
            busy: servers.iter().map(|_| Cell::new(0)).collect(),
            servers,
            group,
            chance: Chance::new(),
            start: fleet.start(),
        }
    }

    /// Whether it could stand in for the other one, its connections included.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let files = self.settings.tls.ca.is_some() || self.settings.tls.client.is_some();
        !files && self.settings == other.settings && Arc::ptr_eq(&self.group, &other.group)
    }

    /// The server for a request, among those that were not tried yet.
    pub(super) fn choose(&self, tried: &[usize]) -> Option<usize> {
        if self.is_lone() {
            return tried.is_empty().then_some(0);
        }
        choose(&self.group, tried, &self.chance, |server| self.busy[server].get(), || self.now())
    }

    /// Whether there is nothing to choose.
    pub(super) const fn is_lone(&self) -> bool {
        self.servers.len() == 1
    }

    pub(super) fn server(&self, server: usize) -> &Rc<Server> {
        &self.servers[server]
    }

    /// What a server is called.
    pub(super) fn text(&self, server: usize) -> &str {
        self.group.members()[server].text()
    }

    pub(super) fn close_idle(&self, now: u64) {
        for server in &self.servers {
            server.close_idle(now);
        }
    }

    /// A server could not be reached, or its answer was broken or late.
    pub(super) fn failed(&self, server: usize, why: &dyn std::fmt::Display) {
        if !self.is_lone() {
            self.group.failed(server, why, self.now());
        }
    }

    /// On the fleet's clock.
    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }
}

/// A request that keeps a server busy, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy {
    upstream: Rc<Upstream>,
    server: usize,
}

impl Busy {
    /// One more request at a server; `None` where nobody has a choice that it could matter to.
    pub(super) fn at(upstream: &Rc<Upstream>, server: usize) -> Option<Self> {
        if upstream.is_lone() {
            return None;
        }
        let busy = &upstream.busy[server];
        busy.set(busy.get() + 1);
        Some(Self { upstream: Rc::clone(upstream), server })
    }

    /// The server's answer is whole.
    pub(super) fn ended(self) {
        self.upstream.group.succeeded(self.server);
    }

    /// The server's answer broke off.
    pub(super) fn broke(self, why: &dyn std::fmt::Display) {
        self.upstream.failed(self.server, why);
    }

    /// A connection that speaks another protocol now, and keeps the server busy until it is closed.
    pub(super) fn with<C>(self, connection: C) -> Counted<C> {
        self.upstream.group.succeeded(self.server);
        Counted { connection, _busy: self }
    }
}

/// A connection that counts as a request for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted<C> {
    connection: C,
    _busy: Busy,
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(cx)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let busy = &self.upstream.busy[self.server];
        busy.set(busy.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::upstream;
    use super::*;
    use crate::settings::CertificateFiles;

    const SERVERS: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

    fn made(settings: &UpstreamSettings, fleet: &Fleet) -> Rc<Upstream> {
        Rc::new(Upstream::new(settings, 0, fleet, &Deadlines::new(), &Bursts::new()))
    }

    #[test]
    fn only_an_unchanged_upstream_keeps_its_connections() {
        let settings = upstream(&SERVERS);
        let fleet = Fleet::new(std::slice::from_ref(&settings));
        let old = made(&settings, &fleet);
        let after = |settings: &UpstreamSettings| {
            let fleet = Fleet::after(&fleet, std::slice::from_ref(settings));
            made(settings, &fleet).is_as(&old)
        };
        assert!(after(&settings));
        let changed = |change: fn(&mut UpstreamSettings)| {
            let mut changed = settings.clone();
            change(&mut changed);
            after(&changed)
        };
        assert!(!changed(|settings| settings.name = "other".to_owned()));
        assert!(!changed(|settings| settings.timeout = Duration::from_secs(1)));
        assert!(!changed(|settings| settings.servers.reverse()));
        assert!(!changed(|settings| settings.ejection.failures = 9));
        assert!(!changed(|settings| settings.tls.server_name = Some("app".to_owned())));
        // The same files may hold something else by now.
        let files = CertificateFiles { cert: "cert.pem".into(), key: "key.pem".into() };
        let mut with_files = settings.clone();
        with_files.tls.client = Some(files);
        let fleet = Fleet::new(std::slice::from_ref(&with_files));
        let (one, two) = (made(&with_files, &fleet), made(&with_files, &fleet));
        assert!(!one.is_as(&two));
    }

    #[test]
    fn requests_count_until_they_end() {
        let settings = upstream(&SERVERS);
        let upstream = made(&settings, &Fleet::new(std::slice::from_ref(&settings)));
        let loads = || [upstream.busy[0].get(), upstream.busy[1].get()];
        let (one, two) = (Busy::at(&upstream, 1), Busy::at(&upstream, 1));
        assert_eq!(loads(), [0, 2]);
        // A worker whose one server is busy asks the other.
        assert!((0..50).all(|_| upstream.choose(&[]) == Some(0)));
        one.expect("two servers").ended();
        drop(two);
        assert_eq!(loads(), [0, 0]);

        let lone = super::super::fleet::tests::upstream(&SERVERS[..1]);
        let lone = made(&lone, &Fleet::new(std::slice::from_ref(&lone)));
        assert!(Busy::at(&lone, 0).is_none());
        assert_eq!((lone.choose(&[]), lone.choose(&[0])), (Some(0), None));
    }
}
