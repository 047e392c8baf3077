//! The metrics as Prometheus reads them: [text exposition format] 0.0.4.
//!
//! Names and labels are the contract with dashboards. Nothing is counted here.
//!
//! [text exposition format]: https://prometheus.io/docs/instrumenting/exposition_formats/

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use crate::metrics::worker::{RequestTotals, RouteLabels, WorkerMetrics};
use crate::metrics::{
    AuthnResult, AuthzResult, BUCKETS_MICROS, Family, Label, MethodLabel, Metrics, UpstreamErrorKind,
    UpstreamSample,
};

/// The `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where the numbers come from.
pub struct Sources {
    /// What is counted across workers.
    pub metrics: Arc<Metrics>,
    /// What each worker counts.
    pub workers: Vec<Arc<WorkerMetrics>>,
    /// The values of the labels `route` and `upstream`, as they are now.
    pub labels: Box<dyn Fn() -> RouteLabels + Send + Sync>,
    /// The upstreams' servers as they are now.
    pub servers: Box<dyn Fn() -> Vec<UpstreamSample> + Send + Sync>,
    /// Revocations in memory: of tokens, sessions, generations.
    pub revocations: Box<dyn Fn() -> [u64; 3] + Send + Sync>,
    /// Certificates that are served: a name each, and its end in seconds since 1970.
    pub certificates: Box<dyn Fn() -> Vec<(String, i64)> + Send + Sync>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

impl Sources {
    /// Renders everything.
    #[must_use]
    pub fn render(&self) -> String {
        let mut totals = RequestTotals::default();
        for worker in &self.workers {
            worker.add_to(&mut totals);
        }
        let mut page = Page::default();
        // After the counts: these know every label that was counted.
        let names = (self.labels)();
        self.requests(&mut page, &totals, &names);
        Self::would_deny(&mut page, &totals, &names);
        self.events(&mut page);
        page.0
    }

    fn requests(&self, page: &mut Page, totals: &RequestTotals, names: &RouteLabels) {
        page.family("gatepost_http_requests_total", "counter", "Requests answered.");
        let mut requests: Vec<_> = totals.requests.iter().collect();
        requests.sort_unstable();
        for (key, count) in requests {
            let method = MethodLabel::VALUES.get(usize::from(key.method)).copied().unwrap_or("other");
            let code = key.code.to_string();
            let labels = [("route", names.text(key.route)), ("method", method), ("code", &code)];
            page.sample("gatepost_http_requests_total", &labels, count);
        }

        let name = "gatepost_http_request_duration_seconds";
        page.family(name, "histogram", "From a request's head to its response's head.");
        let mut durations: Vec<_> = totals.durations.iter().collect();
        durations.sort_unstable_by_key(|(route, _)| **route);
        for (route, durations) in durations {
            let labels = [("route", names.text(*route))];
            page.histogram(name, &labels, &durations.buckets, durations.sum_micros);
        }

        let name = "gatepost_upstream_errors_total";
        page.family(name, "counter", "Requests that an upstream failed to answer.");
        let mut errors: Vec<_> = totals.upstream_errors.iter().collect();
        errors.sort_unstable();
        for (upstream, counts) in errors {
            let upstream = names.upstream_text(*upstream);
            for (kind, count) in UpstreamErrorKind::VALUES.iter().zip(counts) {
                page.sample(name, &[("upstream", upstream), ("kind", kind)], count);
            }
        }

        let samples = (self.servers)();
        let name = "gatepost_upstream_up";
        page.family(name, "gauge", "Whether a server takes requests: 0 while it is unhealthy or ejected.");
        for sample in &samples {
            for server in &sample.servers {
                let labels = [("upstream", sample.upstream.as_str()), ("server", server.server.as_str())];
                page.sample(name, &labels, u8::from(server.up));
            }
        }
        let name = "gatepost_upstream_ejections_total";
        page.family(
            name,
            "counter",
            "Servers left out for a while because requests failed on them in a row.",
        );
        for sample in &samples {
            page.sample(name, &[("upstream", &sample.upstream)], sample.ejections);
        }

        page.family("gatepost_authn_total", "counter", "How looking for a caller ended.");
        for (result, count) in AuthnResult::VALUES.iter().zip(totals.authn) {
            page.sample("gatepost_authn_total", &[("result", result)], count);
        }

        page.family("gatepost_authz_total", "counter", "What the routes' policies said.");
        let mut verdicts: Vec<_> = totals.authz.iter().collect();
        verdicts.sort_unstable();
        for (route, counts) in verdicts {
            for (result, count) in AuthzResult::VALUES.iter().zip(counts) {
                let labels = [("route", names.text(*route)), ("result", result)];
                page.sample("gatepost_authz_total", &labels, count);
            }
        }
    }

    fn would_deny(page: &mut Page, totals: &RequestTotals, names: &RouteLabels) {
        let name = "gatepost_would_deny_total";
        page.family(name, "counter", "Requests that passed because their route only reports refusals.");
        let mut reported: Vec<_> = totals.would_deny.iter().collect();
        reported.sort_unstable();
        for (route, count) in reported {
            page.sample(name, &[("route", names.text(*route))], count);
        }
    }

    fn events(&self, page: &mut Page) {
        let metrics = &*self.metrics;
        page.counters("gatepost_tokens_issued_total", "type", "Tokens issued.", &metrics.tokens_issued);
        let help = "Looks at the account of a token that the app minted.";
        page.counters("gatepost_legacy_tokens_total", "result", help, &metrics.legacy_tokens);
        page.counters("gatepost_refresh_total", "result", "Refresh calls.", &metrics.refreshes);

        page.family("gatepost_revocations", "gauge", "Revocations in memory.");
        for (kind, count) in ["token", "session", "generation"].into_iter().zip((self.revocations)()) {
            page.sample("gatepost_revocations", &[("kind", kind)], count);
        }

        let name = "gatepost_password_hashes_in_flight";
        page.family(name, "gauge", "Passwords being hashed.");
        page.sample(name, &[], metrics.hashes_in_flight.value());
        let name = "gatepost_password_hash_wait_seconds";
        page.family(name, "histogram", "From queueing a password to a free hashing thread.");
        page.histogram(name, &[], &metrics.hash_wait.buckets(), metrics.hash_wait.sum_micros());

        page.counters(
            "gatepost_throttled_total",
            "scope",
            "Attempts that a limit refused.",
            &metrics.throttled,
        );

        let name = "gatepost_store_commit_seconds";
        page.family(name, "histogram", "From the first job of a group commit to its answers.");
        page.histogram(name, &[], &metrics.store_commit.buckets(), metrics.store_commit.sum_micros());

        page.family("gatepost_connections", "gauge", "Open client connections.");
        page.sample("gatepost_connections", &[], metrics.connections.value());
        page.counters(
            "gatepost_connections_ended_total",
            "reason",
            "Connections that ended before a request was read.",
            &metrics.connections_ended,
        );

        page.counters("gatepost_tls_handshakes_total", "result", "TLS handshakes.", &metrics.handshakes);
        let name = "gatepost_tls_handshakes_in_flight";
        page.family(name, "gauge", "TLS handshakes that have begun and not ended.");
        page.sample(name, &[], metrics.handshakes_in_flight.value());
        let name = "gatepost_certificate_reloads_total";
        page.counters(name, "result", "Certificate files that have changed.", &metrics.certificate_reloads);
        let name = "gatepost_certificate_expiry_seconds";
        page.family(name, "gauge", "When a certificate ends, in seconds since 1970.");
        for (certificate, end) in (self.certificates)() {
            page.sample(name, &[("name", &certificate)], end);
        }
        let name = "gatepost_acme_orders_total";
        page.counters(name, "result", "Certificates asked for.", &metrics.acme_orders);
        let name = "gatepost_migrate_total";
        page.counters(
            name,
            "result",
            "What the app said of logins of names unknown here.",
            &metrics.migrations,
        );
        let name = "gatepost_admission_total";
        page.counters(name, "result", "What the app said of registrations.", &metrics.admissions);
        let name = "gatepost_events_total";
        page.counters(name, "result", "Calls that tell the app of accounts.", &metrics.events);
        let name = "gatepost_events_pending";
        page.family(name, "gauge", "Events that the app was not told yet.");
        page.sample(name, &[], metrics.events_pending.value());
        let name = "gatepost_redirects_total";
        page.counters(name, "result", "Answers of listeners that send people to https.", &metrics.redirects);

        page.family("gatepost_tunnels", "gauge", "Open WebSocket tunnels.");
        page.sample("gatepost_tunnels", &[], metrics.tunnels.value());
        page.counters(
            "gatepost_streams_ended_total",
            "reason",
            "Streams that ended before their time.",
            &metrics.streams_ended,
        );
        let name = "gatepost_log_lines_dropped_total";
        page.family(name, "counter", "Log lines that standard output did not take in time.");
        page.sample(name, &[], metrics.log_lines_dropped.value());

        let name = "gatepost_config_reload_success";
        page.family(name, "gauge", "Whether the configuration was good when it was last loaded.");
        page.sample(name, &[], metrics.reload_success.value());
        let name = "gatepost_config_last_reload_success_timestamp_seconds";
        page.family(name, "gauge", "When a good configuration was last loaded.");
        page.sample(name, &[], metrics.last_reload_success.value());

        page.family("gatepost_build_info", "gauge", "Which build this is; always 1.");
        page.sample("gatepost_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    }
}

/// The text while it grows. Writing to a `String` cannot fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn counters<L: Label>(&mut self, name: &str, label: &str, help: &str, family: &Family<L>) {
        self.family(name, "counter", help);
        for (value, count) in family.iter() {
            self.sample(name, &[(label, value)], count);
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], buckets: &[u64], sum_micros: u64) {
        let bucket_name = format!("{name}_bucket");
        let bounds = BUCKETS_MICROS.iter().map(|micros| seconds(*micros)).chain(["+Inf".to_owned()]);
        let mut count = 0;
        for (bound, n) in bounds.zip(buckets) {
            count += n;
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&bucket_name, &labels, count);
        }
        self.sample(&format!("{name}_sum"), labels, seconds(sum_micros));
        self.sample(&format!("{name}_count"), labels, count);
    }
}

/// Microseconds as decimal seconds, exactly, without a float's rounding.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, StatusCode};

    use super::*;
    use crate::metrics::worker::LabelTexts;
    use crate::metrics::worker::RequestCount;
    use crate::metrics::{ServerSample, TokenType};

    fn labels() -> RouteLabels {
        RouteLabels::new(LabelTexts {
            own: vec!["/auth/login".to_owned()],
            routes: vec!["/a\"\\\n{x}".to_owned()],
            upstreams: vec!["app".to_owned()],
        })
    }

    fn sources() -> Sources {
        Sources {
            metrics: Arc::default(),
            workers: vec![Arc::default(), Arc::default()],
            labels: Box::new(labels),
            servers: Box::new(|| {
                let server = |server: &str, up| ServerSample { server: server.to_owned(), up };
                let servers = vec![server("http://a:1", true), server("http://b:1", false)];
                vec![UpstreamSample { upstream: "app".to_owned(), ejections: 4, servers }]
            }),
            revocations: Box::new(|| [1, 2, 3]),
            certificates: Box::new(|| vec![("app.example.com".to_owned(), 1_800_000_000)]),
        }
    }

    #[test]
    fn workers_are_summed_and_labels_escaped() {
        let sources = sources();
        for worker in &sources.workers {
            worker.record(&RequestCount {
                route: labels().route(0),
                method: &Method::GET,
                status: StatusCode::BAD_GATEWAY,
                duration: Duration::from_micros(250),
                authn: Some(AuthnResult::Ok),
                authz: Some(AuthzResult::Allow),
                would_deny: true,
                upstream_error: labels().upstream(0).map(|upstream| (upstream, UpstreamErrorKind::Connect)),
            });
        }
        sources.metrics.tokens_issued.of(TokenType::Access).add_one();
        let text = sources.render();
        let route = r#"route="/a\"\\\n{x}""#;
        for line in [
            &format!(r#"gatepost_http_requests_total{{{route},method="GET",code="502"}} 2"#),
            &format!(r#"gatepost_http_request_duration_seconds_bucket{{{route},le="0.0001"}} 0"#),
            &format!(r#"gatepost_http_request_duration_seconds_bucket{{{route},le="0.00025"}} 2"#),
            &format!(r#"gatepost_http_request_duration_seconds_bucket{{{route},le="+Inf"}} 2"#),
            &format!(r"gatepost_http_request_duration_seconds_sum{{{route}}} 0.0005"),
            &format!(r"gatepost_http_request_duration_seconds_count{{{route}}} 2"),
            &format!(r#"gatepost_authz_total{{{route},result="allow"}} 2"#),
            &format!(r"gatepost_would_deny_total{{{route}}} 2"),
            r#"gatepost_authn_total{result="ok"} 2"#,
            r#"gatepost_authn_total{result="revoked"} 0"#,
            r#"gatepost_upstream_errors_total{upstream="app",kind="connect"} 2"#,
            r#"gatepost_upstream_up{upstream="app",server="http://a:1"} 1"#,
            r#"gatepost_upstream_up{upstream="app",server="http://b:1"} 0"#,
            r#"gatepost_upstream_ejections_total{upstream="app"} 4"#,
            r#"gatepost_tokens_issued_total{type="access"} 1"#,
            r#"gatepost_certificate_expiry_seconds{name="app.example.com"} 1800000000"#,
            r#"gatepost_tls_handshakes_total{result="timeout"} 0"#,
            r#"gatepost_legacy_tokens_total{result="no_account"} 0"#,
            r#"gatepost_refresh_total{result="reused"} 0"#,
            r#"gatepost_revocations{kind="session"} 2"#,
            r#"gatepost_throttled_total{scope="registration"} 0"#,
            "gatepost_password_hashes_in_flight 0",
            "gatepost_password_hash_wait_seconds_count 0",
            r#"gatepost_store_commit_seconds_bucket{le="5"} 0"#,
            "gatepost_connections 0",
            "gatepost_tunnels 0",
            r#"gatepost_streams_ended_total{reason="revoked"} 0"#,
            "gatepost_log_lines_dropped_total 0",
            concat!("gatepost_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n---\n{text}");
        }
    }

    #[test]
    fn every_family_is_announced_once_and_before_its_samples() {
        let text = sources().render();
        let mut announced = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a kind");
                assert!(!announced.contains(&name), "{name} twice");
                assert!(["counter", "gauge", "histogram"].contains(&kind));
                announced.push(name);
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("a name");
                let family = announced.last().expect("a family");
                assert!(name.starts_with(family), "{name} under {family}");
            }
        }
        assert!(announced.len() >= 18, "{announced:?}");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn seconds_are_exact() {
        for (micros, text) in [(0, "0"), (100, "0.0001"), (2_500_000, "2.5"), (10_000_000, "10")] {
            assert_eq!(seconds(micros), text);
        }
    }
}
