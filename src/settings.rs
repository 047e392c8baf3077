//! The configuration as it is needed: typed, checked, with every default filled in.
//!
//! `config` makes these from the file, the environment and the command line; everybody else only
//! reads them. Plain data: durations are `Duration`, sizes are bytes, names are already parsed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method, Uri};
use ipnet::IpNet;

use crate::authz::Policy;
use crate::identity::{Role, RoleTable};
use crate::route::{PathAllowances, PathCase, PathPattern, RouteRule};
use crate::secret::Secret;

/// Where public keys are looked for, besides the prefix (RFC 8615 registers the first segment).
pub const WELL_KNOWN_JWKS: &str = "/.well-known/jwks.json";

/// The least that a token secret may have, in bytes: as many as HMAC-SHA-256's hash (RFC 7518
/// section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// Claims that `[tokens] claims` cannot set: the gateway writes them itself, or other parties would
/// give them a meaning of their own (`cnf`: RFC 7800, `act`: RFC 8693).
pub const RESERVED_CLAIMS: [&str; 17] = [
    "iss",
    "aud",
    "sub",
    "iat",
    "nbf",
    "exp",
    "jti",
    "sid",
    "gen",
    "username",
    "roles",
    "amr",
    "name",
    "email",
    "email_verified",
    "cnf",
    "act",
];

/// What the answer to a login has anyway; `[auth] answer` adds others (RFC 6749 section 5.1).
pub const ANSWER_MEMBERS: [&str; 5] =
    ["access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in"];

/// Everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[store]`
    pub store: StoreSettings,
    /// `[auth]`
    pub auth: AuthSettings,
    /// `[roles]`
    pub roles: RoleTable,
    /// `[tokens]`
    pub tokens: TokenSettings,
    /// `[identity]`
    pub identity: IdentitySettings,
    /// `[cors]`
    pub cors: CorsSettings,
    /// `[events]`
    pub events: Option<EventSettings>,
    /// `[[upstream]]`, in the order of the file
    pub upstreams: Vec<UpstreamSettings>,
    /// `[[route]]`, in the order of the file
    pub routes: Vec<RouteSettings>,
    /// `[[test]]`
    pub tests: Vec<TestSettings>,
}

/// Where to listen or to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `HOST:PORT`, the host an address or a name; resolved at start.
    Tcp(String),
    /// `unix:PATH`
    Unix(PathBuf),
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where clients connect.
    pub listen: Vec<Endpoint>,
    /// Worker threads; never 0 here (0 in the file is one per core).
    pub workers: usize,
    /// Whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether letters of route literals (and the prefix) match in either case.
    pub path_case: PathCase,
    /// What `allow` opened.
    pub allow: PathAllowances,
    /// Readiness says no this long before the listeners close.
    pub drain_delay: Duration,
    /// Requests in flight get this long.
    pub drain_timeout: Duration,
    /// `[server.limits]`
    pub limits: Limits,
    /// Plain listeners that only send people to https.
    pub redirect_http: Vec<Endpoint>,
    /// Whether clear text may be HTTP/2 by prior knowledge (RFC 9113 section 3.3).
    pub h2c: bool,
    /// Whether trusted proxies open each connection with a PROXY header (v1 or v2).
    pub proxy_protocol: bool,
    /// `[server.tls]`; without it, `listen` is clear text.
    pub tls: Option<TlsSettings>,
}

/// `[server.tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Chosen by SNI; the first is for everybody else. May be empty when there is `acme`.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// The authorities whose client certificates are accepted.
    pub client_ca: Option<PathBuf>,
    /// Whether clients need a certificate.
    pub client_auth: ClientAuth,
    /// `[server.tls.acme]`
    pub acme: Option<AcmeSettings>,
}

/// A certificate chain and its private key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the end entity first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Whether clients need a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    Off,
    /// One that is shown must be good.
    Optional,
    /// Nobody gets in without.
    Required,
}

/// `[server.tls.acme]` (RFC 8555)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The names on the certificate; at least one.
    pub domains: Vec<String>,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// The directory's URL.
    pub directory: String,
    /// The authority of the directory's own certificate, when the system does not know it.
    pub ca: Option<PathBuf>,
}

/// `[server.limits]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A request head's greatest size, in bytes.
    pub header_bytes: usize,
    /// From the head's first byte to its last.
    pub header_timeout: Duration,
    /// The greatest body of a call to our own endpoints, in bytes.
    pub auth_body_bytes: usize,
    /// Client connections at once, all workers together.
    pub connections: usize,
    /// A kept-alive connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// Client connections at once from one address (IPv6: its /64); 0 is no limit.
    pub connections_per_address: usize,
    /// Header lines in a request's head.
    pub header_count: usize,
    /// A request body of which nothing arrives for this long is given up.
    pub body_idle: Duration,
    /// A client that takes nothing of its answer for this long is given up.
    pub write_stall: Duration,
    /// A connection gets no new requests after this; zero is no limit.
    pub connection_age: Duration,
    /// TLS handshakes at once, all workers together; others wait for their turn.
    pub handshakes: usize,
    /// From a connection's first byte to the end of its TLS handshake (or PROXY header).
    pub handshake_timeout: Duration,
    /// HTTP/2 streams open at once on one connection.
    pub streams_per_connection: u32,
    /// An HTTP/2 request's decoded header list, in bytes as RFC 9113 section 6.5.2 counts.
    pub header_list_bytes: usize,
    /// HTTP/2 streams that a connection may reset (or have reset for its faults) in ten seconds.
    pub resets: u32,
    /// HTTP/2 PING frames in ten seconds.
    pub pings: u32,
    /// HTTP/2 SETTINGS frames in ten seconds.
    pub settings: u32,
}

/// What holds when the file does not say otherwise.
impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 << 10,
            header_timeout: Duration::from_secs(10),
            auth_body_bytes: 64 << 10,
            connections: 10_000,
            idle_timeout: Duration::from_secs(75),
            connections_per_address: 0,
            header_count: 100,
            body_idle: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            connection_age: Duration::ZERO,
            handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            streams_per_connection: 100,
            header_list_bytes: 32 << 10,
            resets: 200,
            pings: 100,
            settings: 50,
        }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where `/healthz`, `/readyz` and `/metrics` are served; a loopback address by default.
    pub listen: SocketAddr,
    /// The Unix socket of the command line.
    pub socket: PathBuf,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A `tracing` level or filter directive.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Whether each request leaves a decision line.
    pub decisions: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON when standard output is no terminal.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The sled directory.
    pub path: PathBuf,
    /// Below this much free space, in bytes, writes are refused.
    pub min_free: u64,
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// Where our endpoints live; starts with `/`, does not end with it.
    pub prefix: PathPattern,
    /// Whether anybody may register.
    pub registration: Registration,
    /// How many accounts one address may make.
    pub registrations_per_address: Rate,
    /// Sessions that a user may have; the oldest goes.
    pub sessions_per_user: usize,
    /// What a new account is granted.
    pub default_roles: Vec<Role>,
    /// What people log in with.
    pub login_name: LoginName,
    /// Which usernames there are.
    pub usernames: UsernameRules,
    /// Canonical names that nobody can register.
    pub reserved_usernames: Vec<String>,
    /// What becomes the id of a new account.
    pub ids: Ids,
    /// Endpoints under other paths, outside the prefix; each a literal.
    pub paths: Vec<(PathPattern, EndpointName)>,
    /// Members that the answer to a login and a refresh has beside its own, by name.
    pub answer: Vec<(String, AnswerSource)>,
    /// How refusals are worded.
    pub errors: ErrorBodies,
    /// `[auth.password]`
    pub password: PasswordSettings,
    /// `[auth.throttle]`
    pub throttle: ThrottleSettings,
    /// `[auth] admission_url`: asked before somebody can register.
    pub admission: Option<AdmissionSettings>,
    /// `[auth.migrate]`: where a name that is not known here may be known.
    pub migrate: Option<MigrateSettings>,
}

/// `[auth] admission_url`, `admission_timeout`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Whom to ask: `http://` or `https://`.
    pub url: Uri,
    /// For the whole call.
    pub timeout: Duration,
}

/// `[auth.migrate]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateSettings {
    /// The app's own login: `http://` or `https://`.
    pub url: Uri,
    /// What it is sent.
    pub body: LoginTemplate,
    /// Which statuses say yes.
    pub ok_status: Vec<u16>,
    /// Where in the JSON of a yes the app's id stands, the outermost member's name first. Without it whoever
    /// moves in gets a new one.
    pub id: Option<Vec<String>>,
    /// From when on it is not asked any more, in seconds since 1970.
    pub until: u64,
    /// For each call.
    pub timeout: Duration,
}

/// The body of a login elsewhere. `{username}` and `{password}` stand in its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginTemplate {
    /// `application/json`
    Json(serde_json::Value),
    /// `application/x-www-form-urlencoded`: names, and values before they are encoded.
    Form(Vec<(String, String)>),
}

/// `[events]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSettings {
    /// Who is told: `http://` or `https://`.
    pub url: Uri,
    /// What calls to the app are signed with.
    pub secret: Secret<Vec<u8>>,
    /// For each call.
    pub timeout: Duration,
    /// How long an event is tried.
    pub keep: Duration,
}

/// An endpoint that can have a path outside the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointName {
    /// Starts a session.
    Login,
    /// Makes an account.
    Register,
    /// Exchanges a refresh token.
    Refresh,
    /// Ends a session.
    Logout,
    /// Ends all sessions of the caller.
    LogoutAll,
    /// The caller's account.
    Me,
    /// Changes the caller's password.
    Password,
    /// Greets the caller.
    Protected,
}

impl EndpointName {
    /// Its path below the prefix.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Login => "/login",
            Self::Register => "/register",
            Self::Refresh => "/refresh",
            Self::Logout => "/logout",
            Self::LogoutAll => "/logout-all",
            Self::Me => "/me",
            Self::Password => "/password",
            Self::Protected => "/protected",
        }
    }

    /// The methods that it answers.
    #[must_use]
    pub fn methods(self) -> Vec<Method> {
        match self {
            Self::Me => vec![Method::GET, Method::PATCH, Method::DELETE],
            Self::Protected => vec![Method::GET],
            _ => vec![Method::POST],
        }
    }
}

/// What an extra member of the answer to a login says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerSource {
    /// The access token.
    AccessToken,
    /// `Bearer`
    TokenType,
    /// The access token's life, in seconds.
    ExpiresIn,
    /// The refresh token.
    RefreshToken,
    /// The refresh token's life, in seconds.
    RefreshExpiresIn,
    /// The user id.
    Id,
    /// The username.
    Username,
    /// The address, or null.
    Email,
    /// The name, or null.
    Name,
    /// The effective roles, a list.
    Roles,
}

/// Whose words a refusal is told in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorBodies {
    /// RFC 9457.
    #[default]
    Problem,
    /// Flask-JWT-Extended 4: `{"msg": …}`, and 422 for tokens that are none.
    FlaskJwtExtended,
    /// Flask-JWT 0.3: `{"status_code": …, "error": …, "description": …}`.
    FlaskJwt,
}

/// What becomes the id of a new account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// A random UUID (version 4).
    Uuid,
    /// The next whole number after all that there were.
    Sequence,
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Anybody.
    Open,
    /// Nobody; accounts are made on the command line.
    Closed,
}

/// So many in a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In which span.
    pub per: Duration,
}

/// What people log in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginName {
    /// A username.
    Username,
    /// An address; no username is asked for.
    Email,
    /// Either of them.
    Either,
}

/// Which usernames there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsernameRules {
    /// Letters, digits, `.`, `_`, `-`; 1–64.
    Ascii,
    /// PRECIS `UsernameCaseMapped` (RFC 8265 section 3.3).
    Unicode,
}

/// `[auth.password]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordSettings {
    /// In characters.
    pub min_length: usize,
    /// In bytes of UTF-8.
    pub max_bytes: usize,
    /// argon2id's memory, in KiB.
    pub memory_kib: u32,
    /// argon2id's passes.
    pub iterations: u32,
    /// argon2id's lanes.
    pub parallelism: u32,
    /// Hashing threads.
    pub concurrent: usize,
    /// Hashes that may wait for a thread.
    pub queue: usize,
}

/// What holds when nobody says anything: RFC 9106's first choice is too much memory for small
/// machines, so OWASP's, 19 MiB with 2 passes. `concurrent` is for one machine to say; here it is 1.
impl Default for PasswordSettings {
    fn default() -> Self {
        Self {
            min_length: 8,
            max_bytes: 256,
            memory_kib: 19 * 1024,
            iterations: 2,
            parallelism: 1,
            concurrent: 1,
            queue: 64,
        }
    }
}

/// `[auth.throttle]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleSettings {
    /// Failures per account and address before a lockout.
    pub failures: u32,
    /// Failures per address within `window`.
    pub per_address: u32,
    /// How long a failure counts.
    pub window: Duration,
    /// The first lockout; doubles.
    pub lockout: Duration,
    /// The longest lockout.
    pub lockout_max: Duration,
}

/// `[tokens]`
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// `iss`
    pub issuer: String,
    /// `aud`; empty: none is sent and none is asked for. One value is written as a string.
    pub audience: Vec<String>,
    /// How access tokens are signed.
    pub algorithm: SigningAlgorithm,
    /// An access token's life.
    pub access_ttl: Duration,
    /// A refresh token's life; restarts at each rotation.
    pub refresh_ttl: Duration,
    /// A session's life.
    pub session_ttl: Duration,
    /// A spent refresh token repeats its answer for this long.
    pub refresh_grace: Duration,
    /// For `nbf` and `iat` of other clocks; our own `exp` gets none.
    pub leeway: Duration,
    /// How a token may be presented.
    pub accept: Vec<CredentialForm>,
    /// Extra claims.
    pub claims: Vec<(String, ClaimSource)>,
    /// Extra claims that say the same in every token.
    pub fixed_claims: Vec<(String, String)>,
    /// Verified tokens kept in memory, in bytes, all workers together.
    pub cache_bytes: u64,
    /// Secrets that signed before [`SigningAlgorithm::Hs256`]'s; they verify and never sign.
    pub previous_secrets: Vec<Secret<Vec<u8>>>,
    /// `[[legacy_token]]`
    pub legacy: Vec<LegacyTokenSettings>,
}

/// `[[legacy_token]]`: tokens that the app minted by itself. Nothing here ever signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyTokenSettings {
    /// The one algorithm of the key.
    pub algorithm: LegacyAlgorithm,
    /// What checks the signatures.
    pub key: LegacyKey,
    /// The claim that names the account: one name, or several from the outside in.
    pub user: Vec<String>,
    /// What the claim's value is.
    pub account: LegacyAccount,
    /// Whether names and addresses are taken in any case.
    pub ignore_case: bool,
    /// The `iss` that the tokens have; `None`: they have none.
    pub issuer: Option<String>,
    /// The `aud` that the tokens have; `None`: they have none.
    pub audience: Option<String>,
    /// From then on none of them counts; seconds since the epoch.
    pub until: u64,
}

/// What may have signed a token of the app's (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl LegacyAlgorithm {
    /// Its `alg`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Whether the key is a secret that signer and verifier share.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

/// What checks a legacy token. The two are never taken for one another: whoever knows a public key could
/// otherwise sign with it (RFC 8725 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyKey {
    /// Shared with the app. May be shorter than [`MIN_SECRET_BYTES`].
    Secret(Secret<Vec<u8>>),
    /// DER: a `SubjectPublicKeyInfo`, or an `RSAPublicKey`.
    Public(Vec<u8>),
}

/// Which of an account's names a legacy token's claim holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyAccount {
    /// An id; where no account has it, and it does not look like one, a name or a proved address.
    Either,
    /// The id.
    Id,
    /// The username.
    Username,
    /// The address, which must be proved.
    Email,
}

/// How access tokens are signed.
#[derive(Clone, Debug)]
pub enum SigningAlgorithm {
    /// Ed25519, with a key that the gateway makes.
    EdDsa,
    /// HMAC-SHA-256, with a secret that the app shares.
    Hs256(Secret<Vec<u8>>),
}

/// How a token may be presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialForm {
    /// `Authorization: Bearer …`
    Bearer,
    /// `Authorization: JWT …`
    Jwt,
    /// `x-access-token: …`
    XAccessToken,
}

/// Where an extra claim takes its value from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimSource {
    /// The user id.
    Sub,
    /// The user id, as a JSON number when it is one: for apps that compare it with the numbers in a table.
    SubNumber,
    /// The username.
    Username,
    /// The address, when there is one.
    Email,
    /// The name, when there is one.
    Name,
    /// The effective roles, a list.
    Roles,
    /// The session.
    Sid,
}

/// `[identity]`, the preset and overrides resolved: which value goes into which header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    /// Header names by value; a value without a name is not sent.
    pub headers: IdentityHeaderNames,
    /// Between roles.
    pub roles_separator: String,
    /// Whether an unproved address is sent.
    pub send_unverified_email: bool,
    /// Whether the app sees the token.
    pub forward_authorization: bool,
}

/// Which header carries what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityHeaderNames {
    /// The username.
    pub user: Option<HeaderName>,
    /// The username once more, where a preset has two names for it.
    pub user_too: Option<HeaderName>,
    /// The id.
    pub id: Option<HeaderName>,
    /// The address.
    pub email: Option<HeaderName>,
    /// The name.
    pub name: Option<HeaderName>,
    /// The roles.
    pub roles: Option<HeaderName>,
    /// The session.
    pub session: Option<HeaderName>,
}

/// `[cors]`: which pages of other origins may read what the gateway itself answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsSettings {
    /// Which origins.
    pub origins: CorsOrigins,
    /// Which headers their requests may set, besides those that need no leave.
    pub headers: Vec<HeaderName>,
    /// Whether their requests may carry cookies and client certificates. Never beside
    /// [`CorsOrigins::Any`].
    pub credentials: bool,
    /// How long a browser may keep the answer to a preflight; whole seconds.
    pub max_age: Duration,
}

impl CorsSettings {
    /// Whether any page of another origin is let in.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !matches!(&self.origins, CorsOrigins::These(origins) if origins.is_empty())
    }
}

/// Which origins may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Every one.
    Any,
    /// These, as browsers write them (RFC 6454 section 6.2). Empty: none.
    These(Vec<String>),
}

/// `[[upstream]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Its name.
    pub name: String,
    /// Its servers; at least one.
    pub servers: Vec<UpstreamServer>,
    /// Which `Host` it sees.
    pub host: UpstreamHost,
    /// To the response head.
    pub timeout: Duration,
    /// To an established connection.
    pub connect_timeout: Duration,
    /// A pooled connection is not used after this.
    pub idle: Duration,
    /// How its servers' certificates are judged, and what we show them.
    pub tls: UpstreamTls,
    /// Asking servers how they are.
    pub health: Option<HealthSettings>,
    /// When a server that fails is left out.
    pub ejection: EjectionSettings,
    /// A server that has come back gets its full share only after this; zero: at once.
    pub slow_start: Duration,
    /// How often names are resolved again.
    pub resolve: Duration,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// What is spoken.
    pub scheme: UpstreamScheme,
    /// Where.
    pub endpoint: Endpoint,
}

impl std::fmt::Display for UpstreamServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.endpoint, self.scheme) {
            (Endpoint::Unix(path), _) => write!(f, "unix:{}", path.display()),
            (Endpoint::Tcp(address), UpstreamScheme::Http) => write!(f, "http://{address}"),
            (Endpoint::Tcp(address), UpstreamScheme::Https) => write!(f, "https://{address}"),
            (Endpoint::Tcp(address), UpstreamScheme::H2c) => write!(f, "h2c://{address}"),
        }
    }
}

/// What is spoken to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamScheme {
    /// HTTP/1.1 on clear text.
    Http,
    /// TLS; HTTP/2 or HTTP/1.1 by ALPN.
    Https,
    /// HTTP/2 on clear text, by prior knowledge.
    H2c,
}

/// An upstream's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The authorities that are believed, instead of the system's.
    pub ca: Option<PathBuf>,
    /// What we show.
    pub client: Option<CertificateFiles>,
    /// The name that the certificate must have, instead of the server's host.
    pub server_name: Option<String>,
}

/// `health`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// What is asked for with GET; 2xx and 3xx are healthy.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// To the answer's head, connecting included.
    pub timeout: Duration,
    /// So many good answers in a row bring a server back.
    pub healthy: u32,
    /// So many bad ones in a row take it out.
    pub unhealthy: u32,
}

/// `ejection`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionSettings {
    /// Failed connections or broken answers in a row; 0 is never.
    pub failures: u32,
    /// For how long; doubles each time in a row, up to ten times.
    pub duration: Duration,
}

/// Which `Host` an upstream sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamHost {
    /// The client's.
    Preserve,
    /// The server's own `HOST:PORT`.
    Upstream,
}

/// `[[route]]`
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// Host, path and methods.
    pub rule: RouteRule,
    /// Who may pass.
    pub policy: Policy,
    /// Index into [`Settings::upstreams`].
    pub upstream: usize,
    /// Removed from the front of the forwarded path; starts with `/`, does not end with it.
    pub strip_prefix: Option<String>,
    /// Instead of the upstream's `timeout`.
    pub timeout: Option<Duration>,
    /// The greatest request body, in bytes.
    pub body_bytes: Option<u64>,
    /// Whether the app sees the token.
    pub forward_authorization: bool,
    /// Whether a refusal is one.
    pub mode: RouteMode,
    /// What becomes of a preflight.
    pub preflight: PreflightMode,
    /// `FILE:LINE` of the table, for messages.
    pub place: String,
}

/// Whether a route's refusals are refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMode {
    /// Who may not pass does not.
    Enforce,
    /// It is counted and logged, and passes.
    Report,
}

/// What becomes of the preflight of a request that a rule takes (Fetch standard, CORS-preflight request).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreflightMode {
    /// It is judged like any other request: without a token it passes where nobody is asked for one.
    Deny,
    /// The gateway answers it, by `[cors]`.
    Answer,
    /// It goes to the app without a caller.
    Upstream,
}

/// `[[test]]`
#[derive(Clone, Debug)]
pub struct TestSettings {
    /// The request's method.
    pub method: Method,
    /// A path, or an absolute URL that names a host.
    pub url: String,
    /// Who asks.
    pub caller: TestCaller,
    /// What should happen.
    pub expect: Expectation,
    /// `FILE:LINE` of the table, for messages.
    pub place: String,
}

/// Who asks in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestCaller {
    /// Nobody.
    Anonymous,
    /// Somebody with these granted roles.
    User {
        /// Granted, not yet expanded.
        roles: Vec<Role>,
        /// `sub`, for ownership.
        user_id: Option<String>,
        /// The username, for ownership.
        username: Option<String>,
    },
}

/// What a test expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The request goes to the upstream.
    Pass,
    /// The gateway answers with this status.
    Status(u16),
}
