//! What one worker counts for each request.
//!
//! Each worker owns one [`WorkerMetrics`] and takes its lock once a request; nobody but the scraper ever
//! contends for it. `ops` sums the workers up. Labels are indices into [`RouteLabels`], made once from
//! the configuration: a request chooses among them and cannot add one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use rustc_hash::FxHashMap;

use super::{AuthnResult, AuthzResult, BUCKETS_MICROS, Label, MethodLabel, UpstreamErrorKind};

/// A value of the label `route`: an index into [`RouteLabels`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RouteLabel(u32);

impl RouteLabel {
    /// No route: what was refused before one was found, or matched none.
    pub const NONE: Self = Self(0);
}

/// Every value of the label `route`. Routes of one pattern (they differ in methods) share a value.
#[derive(Clone, Debug)]
pub struct RouteLabels {
    texts: Vec<String>,
    own: Vec<RouteLabel>,
    routes: Vec<RouteLabel>,
}

impl RouteLabels {
    /// From the patterns of our own endpoints and of the configured routes, each in table order. A route
    /// with a host is written `host/path`.
    pub fn new(own: impl IntoIterator<Item = String>, routes: impl IntoIterator<Item = String>) -> Self {
        let mut texts = vec!["none".to_owned()];
        let mut known = FxHashMap::default();
        let mut label = |text: String| {
            *known.entry(text).or_insert_with_key(|text| {
                texts.push(text.clone());
                RouteLabel(u32::try_from(texts.len() - 1).unwrap_or(0))
            })
        };
        let own = own.into_iter().map(&mut label).collect();
        let routes = routes.into_iter().map(&mut label).collect();
        Self { texts, own, routes }
    }

    /// The label of our own endpoint `index`.
    #[must_use]
    pub fn own(&self, index: usize) -> RouteLabel {
        self.own.get(index).copied().unwrap_or(RouteLabel::NONE)
    }
    /// The label of configured route `index`.
    #[must_use]
    pub fn route(&self, index: usize) -> RouteLabel {
        self.routes.get(index).copied().unwrap_or(RouteLabel::NONE)
    }
    /// The label as text.
    #[must_use]
    pub fn text(&self, label: RouteLabel) -> &str {
        self.texts.get(label.0 as usize).map_or("none", String::as_str)
    }
}

/// One request, as it is counted when its response head is known.
#[derive(Clone, Copy, Debug)]
pub struct RequestCount<'a> {
    /// Which route decided.
    pub route: RouteLabel,
    /// The request's method.
    pub method: &'a Method,
    /// The response's status.
    pub status: StatusCode,
    /// From the request's head to the response's.
    pub duration: Duration,
    /// How looking for a caller ended; `None` where nobody looked.
    pub authn: Option<AuthnResult>,
    /// What the policy said; `None` when it was not asked.
    pub authz: Option<AuthzResult>,
    /// Which upstream (index into the settings) failed, and how.
    pub upstream_error: Option<(usize, UpstreamErrorKind)>,
}

/// A histogram without atomics; the worker's lock guards it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many fell into each bucket of [`BUCKETS_MICROS`]; the last is "more".
    pub buckets: [u64; BUCKETS_MICROS.len() + 1],
    /// The sum, in microseconds.
    pub sum_micros: u64,
}

impl Durations {
    fn observe(&mut self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BUCKETS_MICROS.partition_point(|&bound| bound < micros)] += 1;
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }
    fn add(&mut self, other: &Self) {
        for (sum, n) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += n;
        }
        self.sum_micros = self.sum_micros.saturating_add(other.sum_micros);
    }
}

/// The key of `gatepost_http_requests_total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RequestKey {
    /// Which route decided.
    pub route: RouteLabel,
    /// Index into [`MethodLabel::VALUES`].
    pub method: u8,
    /// The response's status.
    pub code: u16,
}

/// The counts of one worker, or of several added up.
#[derive(Clone, Debug, Default)]
pub struct RequestTotals {
    /// `gatepost_http_requests_total`
    pub requests: FxHashMap<RequestKey, u64>,
    /// `gatepost_http_request_duration_seconds`
    pub durations: FxHashMap<RouteLabel, Durations>,
    /// `gatepost_authn_total`, in the order of [`AuthnResult::VALUES`]
    pub authn: [u64; AuthnResult::VALUES.len()],
    /// `gatepost_authz_total`, in the order of [`AuthzResult::VALUES`]
    pub authz: FxHashMap<RouteLabel, [u64; AuthzResult::VALUES.len()]>,
    /// `gatepost_upstream_errors_total` by upstream, in the order of [`UpstreamErrorKind::VALUES`]
    pub upstream_errors: FxHashMap<usize, [u64; UpstreamErrorKind::VALUES.len()]>,
}

impl RequestTotals {
    fn count(&mut self, request: &RequestCount<'_>) {
        let method = u8::try_from(MethodLabel::from(request.method).index()).unwrap_or(u8::MAX);
        let key = RequestKey { route: request.route, method, code: request.status.as_u16() };
        *self.requests.entry(key).or_default() += 1;
        self.durations.entry(request.route).or_default().observe(request.duration);
        if let Some(result) = request.authn {
            self.authn[result.index()] += 1;
        }
        if let Some(result) = request.authz {
            self.authz.entry(request.route).or_default()[result.index()] += 1;
        }
        if let Some((upstream, kind)) = request.upstream_error {
            self.upstream_errors.entry(upstream).or_default()[kind.index()] += 1;
        }
    }

    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Self) {
        for (key, n) in &other.requests {
            *self.requests.entry(*key).or_default() += n;
        }
        for (route, durations) in &other.durations {
            self.durations.entry(*route).or_default().add(durations);
        }
        add_each(&mut self.authn, &other.authn);
        for (route, counts) in &other.authz {
            add_each(self.authz.entry(*route).or_default(), counts);
        }
        for (upstream, counts) in &other.upstream_errors {
            add_each(self.upstream_errors.entry(*upstream).or_default(), counts);
        }
    }
}

fn add_each(sums: &mut [u64], counts: &[u64]) {
    for (sum, n) in sums.iter_mut().zip(counts) {
        *sum += n;
    }
}

/// What one worker counts. Shared (`Arc`) between that worker and the scraper only.
#[derive(Debug, Default)]
pub struct WorkerMetrics(Mutex<RequestTotals>);

impl WorkerMetrics {
    /// Counts one request.
    pub fn record(&self, request: &RequestCount<'_>) {
        self.lock().count(request);
    }

    /// Adds these counts to `sum`.
    pub fn add_to(&self, sum: &mut RequestTotals) {
        sum.add(&self.lock());
    }

    /// Counts are whole after every step: a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, RequestTotals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(route: RouteLabel, method: &Method) -> RequestCount<'_> {
        RequestCount {
            route,
            method,
            status: StatusCode::OK,
            duration: Duration::from_micros(300),
            authn: Some(AuthnResult::Ok),
            authz: Some(AuthzResult::Allow),
            upstream_error: Some((1, UpstreamErrorKind::Reset)),
        }
    }

    #[test]
    fn routes_of_one_pattern_share_a_label() {
        let labels = RouteLabels::new(
            ["/auth/login".to_owned()],
            ["/a".to_owned(), "app.example.com/a".to_owned(), "/a".to_owned()],
        );
        assert_eq!(labels.route(0), labels.route(2));
        assert_ne!(labels.route(0), labels.route(1));
        assert_eq!(labels.text(labels.own(0)), "/auth/login");
        assert_eq!(labels.text(labels.route(1)), "app.example.com/a");
        assert_eq!(labels.route(99), RouteLabel::NONE);
        assert_eq!(labels.text(RouteLabel::NONE), "none");
    }

    #[test]
    fn made_up_methods_share_a_label() {
        let brew = Method::from_bytes(b"BREW").expect("a method");
        assert_eq!(MethodLabel::from(&brew), MethodLabel::Other);
        assert_eq!(MethodLabel::VALUES[MethodLabel::from(&Method::PATCH).index()], "PATCH");
    }

    #[test]
    fn workers_add_up() {
        let (one, two) = (WorkerMetrics::default(), WorkerMetrics::default());
        one.record(&request(RouteLabel(1), &Method::GET));
        two.record(&request(RouteLabel(1), &Method::GET));
        two.record(&request(RouteLabel::NONE, &Method::POST));
        let mut sum = RequestTotals::default();
        one.add_to(&mut sum);
        two.add_to(&mut sum);
        let key = RequestKey { route: RouteLabel(1), method: 0, code: 200 };
        assert_eq!(sum.requests[&key], 2);
        assert_eq!(sum.durations[&RouteLabel(1)].buckets[2], 2);
        assert_eq!(sum.durations[&RouteLabel(1)].sum_micros, 600);
        assert_eq!(sum.authn[AuthnResult::Ok.index()], 3);
        assert_eq!(sum.authz[&RouteLabel(1)], [2, 0]);
        assert_eq!(sum.upstream_errors[&1], [0, 0, 0, 3]);
    }
}
