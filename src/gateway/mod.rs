//! The steps of a request, in order; each is somebody else's, this is where they meet.
//!
//! Read the target and the host, find the rule, find the caller, ask the policy, then answer with one
//! of our endpoints or forward. The target stays locked until its own policy has said yes
//! ([`Guarded`](crate::authz::Guarded)), and an upstream takes only what was made with the permit, so a
//! skipped step does not compile. There is one exit: an answer or a [`Rejection`], one decision line
//! and one count.

mod record;
mod rejection;
mod request_id;
mod rules;
mod steps;
mod stream;

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, USER_AGENT};
use http::request::Parts;
use http::response;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Frame, SizeHint};

use self::record::Record;
use self::request_id::RequestIds;
use crate::account::{Accounts, ClientContext};
use crate::api::{Api, ApiCall, Endpoint, legacy_refusal};
use crate::authn::{Authenticator, AuthenticatorParts, AuthnError, Caller};
use crate::authz::{Access, Permit, Policy};
use crate::burst::Bursts;
use crate::clock::{Clock, Timestamp};
use crate::deadline::Deadlines;
use crate::identity::{Authentication, Principal};
use crate::lease::{Lease, Leases};
use crate::message::body::{BodyError, ClientBody};
use crate::message::client::TrustedProxies;
use crate::message::cors::{Admission, Cors, preflight};
use crate::message::identity::{IdentityHeaders, IdentityRules};
use crate::message::inbound::{HeadRemark, Inbound, is_server_options, read_host};
use crate::message::wording::Presented;
use crate::metrics::worker::{RouteLabels, WorkerMetrics};
use crate::metrics::{AuthnResult, AuthzResult};
use crate::ops::decision::DecisionLog;
use crate::ops::log::LogHandle;
use crate::proxy::{Fleet, Inward, Peer, Proxy, ResponseBody, UpstreamRequest, UpstreamRoute};
use crate::route::{CanonicalPath, PathAllowances, RouteIndex};
use crate::settings::{ErrorBodies, Settings};
use crate::token::access::Verifier;
use crate::token::revocation::RevocationList;
use crate::websocket::Tunnel;

pub use rejection::Rejection;
pub use rules::{Rules, Target};
pub use steps::{Asked, Decided, Decision, Witness, decide};
pub use stream::HeldBody;

/// What all workers share: nothing of it changes or is locked while requests are judged.
pub struct Shared {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// The rules.
    pub rules: Rules,
    /// Their names for metrics.
    pub labels: RouteLabels,
    /// Our endpoints.
    pub api: Api,
    /// The verbs, for what a token of the app's is worth.
    pub accounts: Arc<Accounts>,
    /// What is known of the upstreams' servers.
    pub fleet: Arc<Fleet>,
    /// Checks access tokens.
    pub verifier: Arc<Verifier>,
    /// What is refused although its signature is good.
    pub revocations: Arc<RevocationList>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where decision lines go.
    pub log: LogHandle,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// One worker's gateway: the shared rules, with a cache, connections and counters of its own.
pub struct Gateway {
    shared: Arc<Shared>,
    authn: Authenticator<IdentityHeaders>,
    proxy: Proxy,
    leases: Rc<Leases>,
    metrics: Arc<WorkerMetrics>,
    decisions: Option<RefCell<DecisionLog>>,
    ids: RequestIds,
    trusted: TrustedProxies,
    /// `None`: pages of other origins are not let in.
    cors: Option<Cors>,
    allow: PathAllowances,
}

/// What a connection knows of a request besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The other end.
    pub peer: &'a Peer,
    /// What was odd about the head.
    pub remark: Option<HeadRemark>,
}

impl Gateway {
    /// A gateway with an empty cache and no connections.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        metrics: Arc<WorkerMetrics>,
        deadlines: Rc<Deadlines>,
        bursts: &Rc<Bursts>,
        leases: Rc<Leases>,
    ) -> Self {
        let settings = &shared.settings;
        let identity = IdentityRules::new(&settings.identity);
        let trusted = TrustedProxies::new(settings.server.trusted_proxies.clone());
        let proxy = Proxy::new(settings, &shared.fleet, identity.clone(), trusted.clone(), deadlines, bursts);
        let authn = Authenticator::new(AuthenticatorParts {
            verifier: Arc::clone(&shared.verifier),
            revocations: Arc::clone(&shared.revocations),
            accept: settings.tokens.accept.clone(),
            cache_bytes: settings.tokens.cache_bytes / settings.server.workers.max(1) as u64,
            attach: Box::new(move |principal| identity.render(principal)),
        });
        let decisions = settings.log.decisions.then(|| RefCell::new(DecisionLog::new(&shared.log)));
        let allow = settings.server.allow;
        let cors = Cors::new(&settings.cors);
        Self {
            authn,
            proxy,
            leases,
            metrics,
            decisions,
            ids: RequestIds::new(),
            trusted,
            cors,
            allow,
            shared,
        }
    }

    /// Goes on with what the gateway of the configuration before knows, as far as it is still right: the
    /// tokens that it has verified, and the connections to upstreams that have not changed.
    pub fn take_over(&mut self, old: &Self) {
        let (new_settings, old_settings) = (&self.shared.settings, &old.shared.settings);
        let same_keys = Arc::ptr_eq(&self.shared.verifier, &old.shared.verifier);
        let same_size = new_settings.tokens.cache_bytes == old_settings.tokens.cache_bytes;
        if same_keys && same_size && new_settings.identity == old_settings.identity {
            self.authn.take_over(&old.authn);
        }
        self.proxy.take_over(&old.proxy);
        old.tidy();
    }

    /// Whose word on clients is believed.
    #[must_use]
    pub const fn trusted_proxies(&self) -> &TrustedProxies {
        &self.trusted
    }

    /// Whether connections open with a PROXY header.
    #[must_use]
    pub fn expects_proxy_header(&self) -> bool {
        self.shared.settings.server.proxy_protocol
    }

    /// Hands over the decision lines that wait, and closes upstream connections that waited too long.
    /// To be called a few times a second.
    pub fn tidy(&self) {
        self.proxy.close_idle();
        if let Some(log) = &self.decisions {
            log.borrow_mut().flush();
        }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<ClientBody>, arrival: Arrival<'_>) -> Response<Body> {
        let started = Instant::now();
        let now = self.shared.clock.now();
        let (parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        let trusted = self.trusted.contains(arrival.peer.address);
        let mut record = Record::new(started, now, &parts, self.ids.of(&parts.headers, trusted));
        record.client = self.trusted.client(arrival.peer.address, &parts.headers);
        let bodies = self.shared.settings.auth.errors;
        if bodies != ErrorBodies::Problem {
            record.presented = Presented::of(&parts.headers, bodies);
        }
        let admission = self.cors.as_ref().map(|cors| cors.admit(&parts.headers));
        let answer = self.answer(parts, body, &uri, arrival, admission.as_ref(), &mut record).await;
        let (mut response, status) = match answer {
            Ok(response) => {
                let status = response.status();
                (response, status)
            }
            Err(rejection) => record.refuse(rejection, bodies),
        };
        if let Some(admission) = admission
            && response.body().is_own()
        {
            admission.mark(response.headers_mut());
        }
        self.count(&record, &uri, status);
        response
    }

    /// The steps.
    async fn answer<'s>(
        &'s self,
        mut parts: Parts,
        body: ClientBody,
        uri: &Uri,
        arrival: Arrival<'_>,
        admission: Option<&Admission<'_>>,
        record: &mut Record<'s>,
    ) -> Result<Response<Body>, Rejection> {
        if arrival.remark.is_none() && is_server_options(&parts.method, uri) {
            read_host(uri, &parts.headers)?;
            return Ok(record.answered(options_reply()));
        }
        let asked = Asked {
            method: &parts.method,
            uri,
            headers: &parts.headers,
            remark: arrival.remark,
            preflight: preflight(&parts.method, &parts.headers, &body),
        };
        let mut live = Live { gateway: self, headers: &parts.headers, record, looked_up: None };
        let mut decided = decide(&self.shared.rules, self.allow, &asked, &mut live);
        if decided.as_ref().is_err_and(Rejection::is_undecided) {
            live.looked_up = Some(Box::pin(self.look_up(&parts.headers)).await);
            decided = decide(&self.shared.rules, self.allow, &asked, &mut live);
        }
        let decided = match decided.inspect_err(|rejection| record.rejected(rejection))? {
            Decision::Pass(decided) => decided,
            Decision::Preflight(method) => {
                record.reason = "preflight";
                let admission = admission.ok_or(Rejection::Origin)?;
                let reply = admission.answer(&method).ok_or(Rejection::Origin)?;
                return Ok(record.answered(reply));
            }
        };
        let Decided { permit, access, caller, path, session, preflight } = decided;
        if !record.would_deny {
            record.authz = Some(AuthzResult::Allow);
            record.reason = match (access, &caller) {
                _ if preflight => "preflight",
                (Access::Public, _) => "public",
                (_, Authentication::Anonymous) => "anonymous",
                (_, Authentication::Authenticated(_)) => "authenticated",
            };
        }

        match permit.target() {
            Target::Nothing => Err(Rejection::NotFound),
            Target::Endpoint(endpoint) => {
                let call =
                    Box::pin(self.call(*endpoint, parts.headers, body, &caller, session, record.client));
                let reply = call.await.map_err(Rejection::Endpoint)?;
                Ok(record.answered(reply))
            }
            Target::Upstream(route) => {
                record.upstream = self.proxy.upstream_name(route.upstream).map(|name| (route.upstream, name));
                let path =
                    if path.is_borrowed() && !route.needs_path() { None } else { Some(path.into_owned()) };
                let permit = permit.project(Target::as_upstream).ok_or(Rejection::NotFound)?;
                if parts.method == Method::OPTIONS && is_last_hop(&mut parts.headers) {
                    return Ok(record.answered(options_reply()));
                }
                let about = (&caller, preflight);
                let mut request = self.prepare(&permit, parts, body, path, arrival, about, record)?;
                self.forward(&mut request, &caller, record).await
            }
        }
    }

    /// Finds the account of a token that the app minted: once for a token and worker, and again now and
    /// then. The only look into the store that a request may cost.
    async fn look_up(&self, headers: &HeaderMap) -> Result<Rc<Caller<IdentityHeaders>>, Rejection> {
        let (text, epoch) = self.authn.unresolved(headers).ok_or(AuthnError::Unresolved)?;
        match self.shared.accounts.admit_legacy(text).await {
            Ok(token) => Ok(self.authn.admit(text, token, epoch, self.now())),
            Err(error) => Err(legacy_refusal(error).map_or_else(Rejection::Endpoint, Rejection::Authn)),
        }
    }

    async fn call(
        &self,
        endpoint: Endpoint,
        headers: HeaderMap,
        body: ClientBody,
        caller: &Authentication<Rc<Caller<IdentityHeaders>>>,
        session: Option<String>,
        client: std::net::IpAddr,
    ) -> Result<crate::message::reply::Reply, crate::message::reply::Problem> {
        let user_agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let call = ApiCall {
            endpoint,
            headers: &headers,
            session_param: session.as_deref(),
            client: ClientContext { address: client, user_agent: user_agent.to_owned() },
            caller: match caller {
                Authentication::Anonymous => None,
                Authentication::Authenticated(caller) => Some(&caller.token),
            },
        };
        self.shared.api.handle(call, body).await
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what one request consists of; it is taken apart right here"
    )]
    fn prepare<'p>(
        &self,
        permit: &Permit<'p, UpstreamRoute>,
        parts: Parts,
        body: ClientBody,
        path: Option<CanonicalPath<'static>>,
        arrival: Arrival<'_>,
        (caller, is_preflight): (&Authentication<Rc<Caller<IdentityHeaders>>>, bool),
        record: &Record<'_>,
    ) -> Result<UpstreamRequest<'p>, Rejection> {
        // A caller was found: then the request has one credential, and it is that line. Elsewhere each
        // line has to be looked into.
        let authenticated = matches!(caller, Authentication::Authenticated(_));
        let is_ours = |name: &HeaderName, value: &HeaderValue| {
            if authenticated {
                self.authn.is_credential(name, value)
            } else {
                self.authn.carries_ours(name, value)
            }
        };
        let inward = Inward {
            parts,
            path,
            peer: arrival.peer,
            identity: match caller {
                Authentication::Anonymous => None,
                Authentication::Authenticated(caller) => Some(Rc::<Caller<_>>::clone(caller)),
            },
            is_ours: &is_ours,
            is_preflight,
            request_id: record.request_id.to_value(),
        };
        Ok(self.proxy.prepare(permit, inward, body)?)
    }

    async fn forward(
        &self,
        request: &mut UpstreamRequest<'_>,
        caller: &Authentication<Rc<Caller<IdentityHeaders>>>,
        record: &mut Record<'_>,
    ) -> Result<Response<Body>, Rejection> {
        let sent = Instant::now();
        // Pinned here: what is moved through an async function is kept twice by it.
        let forwarded = std::pin::pin!(self.proxy.forward(request));
        let outcome = stream::while_leased(&self.leases, stream::tenure(caller), forwarded).await;
        record.upstream(sent, Instant::now());
        let (outcome, lease) = outcome?;
        Ok(self.respond(outcome?, lease))
    }

    /// The upstream's answer, held by the caller's token when it outlasts this moment.
    fn respond(&self, response: Response<ResponseBody>, lease: Option<Lease>) -> Response<Body> {
        let (head, body) = response.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.connect(head, body, lease);
        }
        if http_body::Body::is_end_stream(&body) {
            return Response::from_parts(head, Body::Upstream(body));
        }
        let lease = lease.or_else(|| {
            let endless = http_body::Body::size_hint(&body).exact().is_none();
            (endless && stream::is_event_stream(&head.headers)).then(|| self.leases.hold(None))
        });
        let body = match lease {
            Some(lease) => Body::Held(HeldBody::new(&head.headers, body, lease)),
            None => Body::Upstream(body),
        };
        Response::from_parts(head, body)
    }

    /// The upstream has agreed to a WebSocket, and the proxy has made sure that it was asked to.
    fn connect(&self, head: response::Parts, body: ResponseBody, lease: Option<Lease>) -> Response<Body> {
        let lease = lease.unwrap_or_else(|| self.leases.hold(None));
        let body = match body.into_switched() {
            Some((upstream, early)) => Body::Tunnel(Box::new(Tunnel::new(upstream, early, lease))),
            None => Body::Own(None),
        };
        Response::from_parts(head, body)
    }

    /// One decision line, one count.
    fn count(&self, record: &Record<'_>, uri: &Uri, status: StatusCode) {
        let duration = record.duration();
        self.metrics.record(&record.as_count(&self.shared.labels, status, duration));
        if let Some(log) = &self.decisions {
            log.borrow_mut().record(&record.as_decision(uri, status, duration));
        }
    }

    /// The time by the gateway's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

/// A request on its way: its credential is looked for, and what becomes of it is noted.
struct Live<'a, 's> {
    gateway: &'s Gateway,
    headers: &'a HeaderMap,
    record: &'a mut Record<'s>,
    /// What came of looking up the account that the credential speaks for.
    looked_up: Option<Result<Rc<Caller<IdentityHeaders>>, Rejection>>,
}

impl Witness for Live<'_, '_> {
    type Caller = Rc<Caller<IdentityHeaders>>;
    type Refusal = Rejection;

    fn arrived(&mut self, Inbound { path, host }: &Inbound<'_>) {
        self.record.canonical_host(host);
        if !path.is_borrowed() {
            self.record.path = Some(path.clone().into_owned());
        }
    }

    fn matched(&mut self, rule: RouteIndex, _: Option<&Policy>) {
        self.record.found(rule, self.gateway.shared.rules.name(rule));
    }

    fn caller(&mut self) -> Result<Authentication<Self::Caller>, Rejection> {
        let outcome = match self.looked_up.take() {
            Some(found) => found.map(Authentication::Authenticated),
            None => self.gateway.authn.authenticate(self.headers, self.record.now).map_err(Rejection::Authn),
        };
        self.record.authn = match &outcome {
            Ok(Authentication::Anonymous) => Some(AuthnResult::Anonymous),
            Ok(Authentication::Authenticated(_)) => Some(AuthnResult::Ok),
            Err(Rejection::Authn(error)) => Some(AuthnResult::from(error)),
            // A fault of ours says nothing about the credential.
            Err(_) => None,
        };
        let caller = outcome?;
        if let Authentication::Authenticated(caller) = &caller {
            self.record.user = Some(Arc::clone(&caller.token.principal.username));
        }
        Ok(caller)
    }

    fn is_the_callers(refusal: &Rejection) -> bool {
        refusal.is_the_callers()
    }

    fn would_deny(&mut self, refusal: Rejection) {
        self.record.would_deny(refusal);
    }

    fn principal(caller: &Self::Caller) -> &Principal {
        &caller.token.principal
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

/// Counts this hop. `Max-Forwards: 0`: it is the one that is asked (RFC 9110 section 7.6.2).
fn is_last_hop(headers: &mut HeaderMap) -> bool {
    let Some(hops) = headers.get_mut(MAX_FORWARDS) else { return false };
    let Some(left) = hops.to_str().ok().and_then(|hops| hops.parse::<u64>().ok()) else { return false };
    *hops = HeaderValue::from(left.saturating_sub(1));
    left == 0
}

fn options_reply() -> crate::message::reply::Reply {
    let mut reply = Response::new(Bytes::new());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    reply.headers_mut().insert(ALLOW, allow);
    reply
}

/// A response's body: our own, or the upstream's as it comes.
#[derive(Debug)]
pub enum Body {
    /// Ours; `None` when it was sent.
    Own(Option<Bytes>),
    /// The upstream's.
    Upstream(ResponseBody),
    /// The upstream's, for as long as the caller's token is good.
    Held(HeldBody),
    /// None: this is a 101, and when its head is written the connection is the tunnel's.
    Tunnel(Box<Tunnel>),
}

impl Body {
    /// A reply of ours as a response.
    pub(crate) fn own(reply: crate::message::reply::Reply) -> Response<Self> {
        let (mut parts, bytes) = reply.into_parts();
        if parts.status != StatusCode::NO_CONTENT {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        let body = if bytes.is_empty() { None } else { Some(bytes) };
        Response::from_parts(parts, Self::Own(body))
    }

    /// Whether it is an answer of ours.
    const fn is_own(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Upstream(_) | Self::Held(_) | Self::Tunnel(_) => false,
        }
    }

    /// Whether it was ended by us and not by whoever sent it: the connection is then better closed.
    #[must_use]
    pub const fn is_cut_short(&self) -> bool {
        match self {
            Self::Held(body) => body.is_cut_short(),
            Self::Own(_) | Self::Upstream(_) | Self::Tunnel(_) => false,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body) => Pin::new(body).poll_frame(cx),
            Self::Held(body) => Pin::new(body).poll_frame(cx),
            Self::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Upstream(body) => body.is_end_stream(),
            Self::Held(body) => body.is_end_stream(),
            Self::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(body) => body.size_hint(),
            Self::Held(body) => body.size_hint(),
            Self::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}
