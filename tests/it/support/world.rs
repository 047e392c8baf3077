//! A gateway in front of a recording upstream, and the two verdicts that tests are about.

use std::ops::{Deref, DerefMut};

use super::client::Response;
use super::config::Config;
use super::gateway::Gateway;
use super::request::Request;
use super::upstream::{Recorded, Upstream};

/// A gateway and its upstream.
pub struct World {
    pub gateway: Gateway,
    pub upstream: Upstream,
}

impl Deref for World {
    type Target = Gateway;
    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Gateway {
        &mut self.gateway
    }
}

impl World {
    #[track_caller]
    pub fn new() -> Self {
        Self::with(|config| config)
    }

    /// Over the usual routes and what `change` adds.
    #[track_caller]
    pub fn with(change: impl FnOnce(Config) -> Config) -> Self {
        Self::before(Upstream::echo(), change)
    }

    /// In front of this upstream.
    #[track_caller]
    pub fn before(upstream: Upstream, change: impl FnOnce(Config) -> Config) -> Self {
        let mut config = change(Config::new());
        if !config.has_upstream() {
            config = config.upstream("app", upstream.port());
        }
        Self { gateway: Gateway::start(&config), upstream }
    }

    /// With a hard limit on open files.
    #[track_caller]
    pub fn with_few_files(limit: u32) -> Self {
        let upstream = Upstream::echo();
        let config = Config::new().upstream("app", upstream.port());
        Self { gateway: Gateway::start_limited(&config, limit), upstream }
    }

    /// Fails unless the gateway refuses with this problem and the upstream is not bothered.
    #[track_caller]
    pub fn refuses(&self, request: Request, status: u16, code: &str) -> Response {
        let bytes = request.bytes();
        let before = (self.upstream.count(), self.upstream.opened());
        let what = format!("{} {}", request.method, request.target);
        let response = self.gateway.ask(request);
        if what.starts_with("HEAD") {
            assert_eq!(response.status, status, "{what}");
        } else {
            assert_eq!(
                (response.status, response.code().as_str()),
                (status, code),
                "{}",
                show(&bytes, &response)
            );
            response.is_problem(status, code);
        }
        self.saw_nothing_since(before, &what);
        response
    }

    /// The same for bytes; `code` is not asked of answers without a body of ours (what hyper refuses).
    #[track_caller]
    pub fn refuses_raw(&self, bytes: impl AsRef<[u8]>, status: u16, code: &str) -> Response {
        let before = (self.upstream.count(), self.upstream.opened());
        let what = super::wire::show(bytes.as_ref());
        let response = self.gateway.ask_raw(bytes.as_ref());
        assert_eq!(
            (response.status, response.code().as_str()),
            (status, code),
            "{}",
            show(bytes.as_ref(), &response)
        );
        response.is_problem(status, code);
        self.saw_nothing_since(before, &what);
        response
    }

    #[track_caller]
    pub fn saw_nothing_since(&self, before: (usize, usize), what: &str) {
        let after = (self.upstream.count(), self.upstream.opened());
        assert_eq!(after, before, "the upstream saw {:?} after {what}", self.upstream.seen().last());
    }

    /// Fails unless exactly one request reaches the upstream; gives the answer and that request.
    #[track_caller]
    pub fn passes(&self, request: Request) -> (Response, Recorded) {
        let bytes = request.bytes();
        let before = self.upstream.count();
        let response = self.gateway.ask(request);
        let seen = self.upstream.seen();
        assert_eq!(seen.len(), before + 1, "requests at the upstream; {}", show(&bytes, &response));
        (response, seen[before].clone())
    }

    /// The same for bytes.
    #[track_caller]
    pub fn passes_raw(&self, bytes: impl AsRef<[u8]>) -> (Response, Recorded) {
        let before = self.upstream.count();
        let response = self.gateway.ask_raw(bytes.as_ref());
        let seen = self.upstream.seen();
        assert_eq!(seen.len(), before + 1, "requests at the upstream; {}", show(bytes.as_ref(), &response));
        (response, seen[before].clone())
    }
}

fn show(bytes: &[u8], response: &Response) -> String {
    format!(
        "asked {}\nanswered {} {:?} {}",
        super::wire::show(bytes),
        response.status,
        response.headers,
        response.text()
    )
}
