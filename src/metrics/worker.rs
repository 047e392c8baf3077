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

/// A value of the label `upstream`: an index into [`RouteLabels`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UpstreamLabel(u32);

/// Every value of the labels `route` and `upstream`. Routes of one pattern (they differ in methods) share
/// a value. A value keeps its number when the configuration is loaded again, and so do those that are no
/// longer used: what was counted under them stays, and requests in flight still count.
#[derive(Clone, Debug)]
pub struct RouteLabels {
    texts: Vec<String>,
    own: Vec<RouteLabel>,
    routes: Vec<RouteLabel>,
    upstream_texts: Vec<String>,
    upstreams: Vec<UpstreamLabel>,
}

/// What the values of the labels are made from, each list in the order of the settings.
#[derive(Clone, Debug, Default)]
pub struct LabelTexts {
    /// The patterns of our own endpoints.
    pub own: Vec<String>,
    /// The patterns of the configured routes; one with a host is written `host/path`.
    pub routes: Vec<String>,
    /// The upstreams' names.
    pub upstreams: Vec<String>,
}

impl RouteLabels {
    /// The values of a configuration.
    #[must_use]
    pub fn new(texts: LabelTexts) -> Self {
        let none = Self {
            texts: vec!["none".to_owned()],
            own: Vec::new(),
            routes: Vec::new(),
            upstream_texts: Vec::new(),
            upstreams: Vec::new(),
        };
        none.followed_by(texts)
    }

    /// The values of the configuration that comes after this one.
    #[must_use]
    pub fn followed_by(&self, new: LabelTexts) -> Self {
        let mut texts = Numbered::of(&self.texts);
        let own = new.own.into_iter().map(|text| RouteLabel(texts.number(text))).collect();
        let routes = new.routes.into_iter().map(|text| RouteLabel(texts.number(text))).collect();
        let mut names = Numbered::of(&self.upstream_texts);
        let upstreams = new.upstreams.into_iter().map(|text| UpstreamLabel(names.number(text))).collect();
        Self { texts: texts.texts, own, routes, upstream_texts: names.texts, upstreams }
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
    /// The label of configured upstream `index`.
    #[must_use]
    pub fn upstream(&self, index: usize) -> Option<UpstreamLabel> {
        self.upstreams.get(index).copied()
    }
    /// An upstream's label as text.
    #[must_use]
    pub fn upstream_text(&self, label: UpstreamLabel) -> &str {
        self.upstream_texts.get(label.0 as usize).map_or("none", String::as_str)
    }
}

/// Texts, each with its place.
struct Numbered {
    texts: Vec<String>,
    places: FxHashMap<String, u32>,
}

impl Numbered {
    fn of(texts: &[String]) -> Self {
        let mut numbered = Self { texts: Vec::new(), places: FxHashMap::default() };
        for text in texts {
            numbered.number(text.clone());
        }
        numbered
    }

    fn number(&mut self, text: String) -> u32 {
        let next = u32::try_from(self.texts.len()).unwrap_or(0);
        *self.places.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            next
        })
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
    /// Whether the route refused and only reports that.
    pub would_deny: bool,
    /// Which upstream failed, and how.
    pub upstream_error: Option<(UpstreamLabel, UpstreamErrorKind)>,
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
    /// `gatepost_would_deny_total`
    pub would_deny: FxHashMap<RouteLabel, u64>,
    /// `gatepost_upstream_errors_total` by upstream, in the order of [`UpstreamErrorKind::VALUES`]
    pub upstream_errors: FxHashMap<UpstreamLabel, [u64; UpstreamErrorKind::VALUES.len()]>,
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
        if request.would_deny {
            *self.would_deny.entry(request.route).or_default() += 1;
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
        for (route, n) in &other.would_deny {
            *self.would_deny.entry(*route).or_default() += n;
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
            would_deny: true,
            upstream_error: Some((UpstreamLabel(1), UpstreamErrorKind::Reset)),
        }
    }

    #[test]
    fn routes_of_one_pattern_share_a_label() {
        let labels = RouteLabels::new(LabelTexts {
            own: vec!["/auth/login".to_owned()],
            routes: ["/a", "app.example.com/a", "/a"].map(str::to_owned).to_vec(),
            upstreams: Vec::new(),
        });
        assert_eq!(labels.route(0), labels.route(2));
        assert_ne!(labels.route(0), labels.route(1));
        assert_eq!(labels.text(labels.own(0)), "/auth/login");
        assert_eq!(labels.text(labels.route(1)), "app.example.com/a");
        assert_eq!(labels.route(99), RouteLabel::NONE);
        assert_eq!(labels.text(RouteLabel::NONE), "none");
    }

    #[test]
    fn labels_keep_their_numbers_when_the_configuration_changes() {
        let texts = |routes: &[&str], upstreams: &[&str]| LabelTexts {
            own: vec!["/auth/login".to_owned()],
            routes: routes.iter().map(|&text| text.to_owned()).collect(),
            upstreams: upstreams.iter().map(|&text| text.to_owned()).collect(),
        };
        let old = RouteLabels::new(texts(&["/a", "/b"], &["one", "two"]));
        let new = old.followed_by(texts(&["/b", "/c"], &["three", "two"]));
        assert_eq!(new.own(0), old.own(0));
        assert_eq!(new.route(0), old.route(1));
        assert_eq!((new.text(old.route(0)), new.text(new.route(1))), ("/a", "/c"));
        assert!([old.route(0), old.route(1), old.own(0)].iter().all(|label| *label != new.route(1)));
        assert_eq!(new.upstream(1), old.upstream(1));
        let text = |label: Option<UpstreamLabel>| label.map(|label| new.upstream_text(label));
        assert_eq!((text(old.upstream(0)), text(new.upstream(0))), (Some("one"), Some("three")));
        assert_eq!(new.upstream(2), None);
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
        assert_eq!(sum.would_deny[&RouteLabel(1)], 2);
        assert_eq!(sum.upstream_errors[&UpstreamLabel(1)], [0, 0, 0, 3]);
    }
}
