//! Counters that anyone may count with: a leaf of the module graph, without locks or allocation.
//!
//! The set is fixed and its labels are enums, so no value of a request (a path, a user, a token) can
//! become a label. What is counted per request is in [`worker`], one instance a worker; this file
//! holds the rarer events. `ops` renders both.

pub mod worker;

use std::array;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn add_one(&self) {
        self.add(1);
    }
    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// The count.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Sets the number.
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }
    /// The number.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the histogram buckets, in microseconds; a last bucket takes the rest.
pub const BUCKETS_MICROS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Durations, counted into [`BUCKETS_MICROS`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MICROS.partition_point(|&bound| bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }
    /// How many fell into each bucket (not cumulative; the last is "more").
    #[must_use]
    pub fn buckets(&self) -> [u64; BUCKETS_MICROS.len() + 1] {
        array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed))
    }
    /// The sum of all durations, in microseconds.
    #[must_use]
    pub fn sum_micros(&self) -> u64 {
        self.sum_micros.load(Ordering::Relaxed)
    }
}

/// A label with a fixed set of values.
pub trait Label: Copy {
    /// Every value as Prometheus shows it, in the order of [`Label::index`].
    const VALUES: &'static [&'static str];
    /// Which of [`Label::VALUES`] this is.
    fn index(self) -> usize;
}

/// One counter for each value of a label.
#[derive(Debug)]
pub struct Family<L: Label> {
    counters: Box<[Counter]>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L: Label> Default for Family<L> {
    fn default() -> Self {
        Self {
            counters: L::VALUES.iter().map(|_| Counter::default()).collect(),
            label: std::marker::PhantomData,
        }
    }
}

impl<L: Label> Family<L> {
    /// The counter for this value.
    #[must_use]
    pub fn of(&self, value: L) -> &Counter {
        &self.counters[value.index()]
    }
    /// Every value with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        L::VALUES.iter().zip(&self.counters).map(|(name, counter)| (*name, counter.value()))
    }
}

/// Declares a label: its enum, the values as shown, and the order of both in one place.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl Label for $name {
            const VALUES: &'static [&'static str] = &[$($text),+];
            fn index(self) -> usize { self as usize }
        }
    };
}

label! {
    /// What was issued.
    TokenType {
        /// An access token.
        Access = "access",
        /// A refresh token.
        Refresh = "refresh",
    }
}
label! {
    /// What became of a good token that the app had minted, when its account was looked up.
    LegacyResult {
        /// There is such an account.
        Accepted = "accepted",
        /// There is none.
        NoAccount = "no_account",
        /// The account has changed since, or is disabled, or the token was revoked.
        Revoked = "revoked",
    }
}
label! {
    /// How a refresh ended.
    RefreshResult {
        /// The next token was issued.
        Rotated = "rotated",
        /// The parent repeated its answer within the grace.
        Repeated = "repeated",
        /// A spent token came back: the session was ended.
        Reused = "reused",
        /// Unknown, expired or of an ended session.
        Refused = "refused",
    }
}
label! {
    /// Which limit throttled.
    ThrottleScope {
        /// Failures for one account from one address.
        Account = "account",
        /// Failures from one address.
        Address = "address",
        /// Registrations from one address.
        Registration = "registration",
    }
}
label! {
    /// How looking for a caller ended, on routes that look.
    AuthnResult {
        /// No credential.
        Anonymous = "anonymous",
        /// A good one.
        Ok = "ok",
        /// Two credentials.
        Ambiguous = "ambiguous",
        /// A credential that is no token.
        Malformed = "malformed",
        /// Bad signature, wrong issuer and the like.
        Invalid = "invalid",
        /// Past its `exp`.
        Expired = "expired",
        /// Revoked, or of an ended session or an old generation.
        Revoked = "revoked",
    }
}
label! {
    /// What the route's policy said.
    AuthzResult {
        /// May pass.
        Allow = "allow",
        /// May not.
        Deny = "deny",
    }
}
label! {
    /// How an upstream failed.
    UpstreamErrorKind {
        /// No connection.
        Connect = "connect",
        /// No answer in time.
        Timeout = "timeout",
        /// An answer that is not HTTP, or an unasked 101.
        Invalid = "invalid",
        /// The connection ended in the middle.
        Reset = "reset",
    }
}
label! {
    /// The methods that have a name here; a client can make up any number of others.
    MethodLabel {
        /// GET
        Get = "GET",
        /// HEAD
        Head = "HEAD",
        /// POST
        Post = "POST",
        /// PUT
        Put = "PUT",
        /// DELETE
        Delete = "DELETE",
        /// PATCH
        Patch = "PATCH",
        /// OPTIONS
        Options = "OPTIONS",
        /// TRACE
        Trace = "TRACE",
        /// CONNECT
        Connect = "CONNECT",
        /// Any other.
        Other = "other",
    }
}

impl From<&Method> for MethodLabel {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::DELETE => Self::Delete,
            Method::PATCH => Self::Patch,
            Method::OPTIONS => Self::Options,
            Method::TRACE => Self::Trace,
            Method::CONNECT => Self::Connect,
            _ => Self::Other,
        }
    }
}
label! {
    /// Why a connection ended, where it was not its client's will.
    ConnectionEnd {
        /// The head did not arrive in time.
        HeaderTimeout = "header_timeout",
        /// Not HTTP, or more than the limits allow.
        Rubbish = "rubbish",
        /// More than `[server.limits] connections`.
        Refused = "refused",
        /// A head larger than `[server.limits] header_bytes`, or with more lines than `header_count`.
        HeaderTooLarge = "header_too_large",
        /// No request for `idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// Nothing of a request's body for `body_idle`.
        BodyIdle = "body_idle",
        /// Nothing of an answer was taken for `write_stall`.
        WriteStall = "write_stall",
        /// It was `connection_age` old while it waited.
        ConnectionAge = "connection_age",
        /// More than `[server.limits] connections_per_address`.
        AddressLimit = "address_limit",
        /// No PROXY header, not in time, or a malformed one.
        ProxyHeader = "proxy_header",
        /// A peer that is not in `trusted_proxies`, where PROXY headers are expected.
        UntrustedPeer = "untrusted_peer",
        /// More HTTP/2 frames of a kind than `[server.limits]` allows.
        H2Flood = "h2_flood",
    }
}

label! {
    /// How a TLS handshake ended.
    HandshakeResult {
        /// The connection is open.
        Ok = "ok",
        /// Client and gateway did not come together, or the client went away.
        Failed = "failed",
        /// It took too long, or waited too long for its turn.
        Timeout = "timeout",
    }
}
label! {
    /// What became of something that changed while it was in use.
    ReloadResult {
        /// The new one is in use.
        Ok = "ok",
        /// The new one cannot be used; the one before is.
        Failed = "failed",
    }
}
label! {
    /// How asking an authority for a certificate ended.
    OrderResult {
        /// With a certificate.
        Ok = "ok",
        /// Without; it is tried again.
        Failed = "failed",
    }
}
label! {
    /// What the app said when it was asked.
    AnswerOfApp {
        /// Yes.
        Yes = "yes",
        /// No.
        No = "no",
        /// Nothing that counts as an answer.
        None = "none",
    }
}
label! {
    /// What became of an event.
    EventResult {
        /// The app took it.
        Sent = "sent",
        /// It did not; it is tried again.
        Failed = "failed",
        /// It has not for too long, and is not told.
        GivenUp = "given_up",
    }
}
label! {
    /// What a listener that sends people to https answered.
    RedirectResult {
        /// A redirect.
        Redirected = "redirected",
        /// An ACME challenge.
        Challenge = "challenge",
        /// Nobody knows where to.
        Refused = "refused",
    }
}
label! {
    /// Why a stream ended before its time.
    StreamEnd {
        /// Its token has expired.
        Expired = "expired",
        /// Its token, session or account was revoked.
        Revoked = "revoked",
        /// The gateway stops.
        Drain = "drain",
    }
}

/// One upstream's servers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSample {
    /// The upstream's name.
    pub upstream: String,
    /// `gatepost_upstream_ejections_total{upstream}`
    pub ejections: u64,
    /// `gatepost_upstream_up{upstream,server}`
    pub servers: Vec<ServerSample>,
}

/// One server of an upstream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSample {
    /// As the configuration writes it.
    pub server: String,
    /// Whether it takes requests: neither unhealthy nor ejected.
    pub up: bool,
}

/// Everything that is counted across workers.
#[derive(Debug, Default)]
pub struct Metrics {
    /// `gatepost_tokens_issued_total{type}`
    pub tokens_issued: Family<TokenType>,
    /// `gatepost_legacy_tokens_total{result}`
    pub legacy_tokens: Family<LegacyResult>,
    /// `gatepost_refresh_total{result}`
    pub refreshes: Family<RefreshResult>,
    /// `gatepost_throttled_total{scope}`
    pub throttled: Family<ThrottleScope>,
    /// `gatepost_password_hashes_in_flight`
    pub hashes_in_flight: Gauge,
    /// `gatepost_password_hash_wait_seconds`: from queueing to a free hashing thread.
    pub hash_wait: Histogram,
    /// `gatepost_store_commit_seconds`: from the first job of a group to its answers.
    pub store_commit: Histogram,
    /// `gatepost_connections`: open client connections.
    pub connections: Gauge,
    /// `gatepost_connections_ended_total{reason}`: connections that a limit or a fault ended.
    pub connections_ended: Family<ConnectionEnd>,
    /// `gatepost_tls_handshakes_total{result}`
    pub handshakes: Family<HandshakeResult>,
    /// `gatepost_tls_handshakes_in_flight`: from a whole first message to the end of the handshake.
    pub handshakes_in_flight: Gauge,
    /// `gatepost_certificate_reloads_total{result}`: changed files that were noticed.
    pub certificate_reloads: Family<ReloadResult>,
    /// `gatepost_acme_orders_total{result}`
    pub acme_orders: Family<OrderResult>,
    /// `gatepost_migrate_total{result}`: logins that the app was asked about.
    pub migrations: Family<AnswerOfApp>,
    /// `gatepost_admission_total{result}`: registrations that the app was asked about.
    pub admissions: Family<AnswerOfApp>,
    /// `gatepost_events_total{result}`: calls that tell the app of accounts.
    pub events: Family<EventResult>,
    /// `gatepost_events_pending`: events that the app was not told yet.
    pub events_pending: Gauge,
    /// `gatepost_redirects_total{result}`: answers of listeners that send people to https.
    pub redirects: Family<RedirectResult>,
    /// `gatepost_tunnels`: open WebSocket tunnels.
    pub tunnels: Gauge,
    /// `gatepost_streams_ended_total{reason}`: streams that ended before their time.
    pub streams_ended: Family<StreamEnd>,
    /// `gatepost_log_lines_dropped_total`
    pub log_lines_dropped: Counter,
    /// `gatepost_config_reload_success`: whether the configuration was good when it was last loaded, 1 or 0.
    pub reload_success: Gauge,
    /// `gatepost_config_last_reload_success_timestamp_seconds`: when a good one was last loaded.
    pub last_reload_success: Gauge,
}
