//! One request through the gateway's rules, without a connection: what `explain` and `check` share.
//!
//! The steps are the gateway's own ([`decide`]); this file follows them, notes what people want to know,
//! and stops before the target. It never reads the store: who asks is given.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::str::FromStr as _;

use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use serde::Serialize;

use super::CliError;
use crate::authz::{Access, OwnerClaim, Permit, Policy};
use crate::gateway::{Asked, Decided, Decision, Rejection, Rules, Target, Witness, decide};
use crate::identity::{Authentication, Principal, Role, RoleSet, SessionId, UserId};
use crate::message::client::Scheme;
use crate::message::forwarded::OwnElement;
use crate::message::identity::IdentityRules;
use crate::message::inbound::{HeadRemark, Inbound};
use crate::message::wording::{self, CredentialFault};
use crate::proxy::{DirectLines, Inward, Peer, Preview, UpstreamRoute};
use crate::route::{CanonicalPath, RouteIndex, WhyNot};
use crate::settings::{ErrorBodies, PreflightMode, RouteMode, Settings};

/// The mode of a route that lets pass whom it refuses.
const REPORT: &str = "report";
/// What a route does with preflights, where it does anything.
const ANSWER: &str = "answer";
const UPSTREAM: &str = "upstream";
/// Asked about when the URL names no host.
const ANY_HOST: &str = "localhost";

/// A request, as far as it decides anything.
#[derive(Debug)]
pub(super) struct Question {
    method: Method,
    url: String,
    uri: Option<Uri>,
    headers: HeaderMap,
    fragment: bool,
}

impl Question {
    /// From a method and a path or an http(s) URL, as a client would send them.
    pub(super) fn parse(method: &str, url: &str) -> Result<Self, String> {
        let method = Method::from_str(method).map_err(|_| format!("{method:?} is no method"))?;
        let (host, target) = match url.split_once("://") {
            Some((scheme, rest))
                if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
            {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                rest.split_at(end)
            }
            Some((scheme, _)) if !scheme.contains('/') => {
                return Err(format!("{scheme}: is not http or https"));
            }
            _ if url.starts_with('/') => (ANY_HOST, url),
            _ => return Err(format!("{url:?} is neither a path that starts with / nor an http URL")),
        };
        let (target, fragment) = target.split_once('#').map_or((target, false), |(before, _)| (before, true));
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_str(host).map_err(|_| format!("{host:?} is no host"))?;
        headers.insert(HOST, host);
        Ok(Self { method, url: url.to_owned(), uri: target.parse().ok(), headers, fragment })
    }

    pub(super) fn method(&self) -> &str {
        self.method.as_str()
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// Who asks.
#[derive(Debug)]
pub(super) enum Who {
    /// Nobody; perhaps because somebody could not log in.
    Anonymous { note: Option<String> },
    /// Somebody.
    Caller { principal: Principal, how: String },
    /// Somebody with a credential that is no good.
    Bad { code: String, detail: String },
}

/// A principal that exists nowhere.
pub(super) fn principal(roles: RoleSet, id: Option<UserId>, username: Option<&str>) -> Principal {
    let id = id.unwrap_or_else(UserId::random);
    let username = username.unwrap_or(id.as_str()).into();
    Principal { username, id, name: None, email: None, roles, session: SessionId::random(), generation: 0 }
}

/// What would happen.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) route: Option<RouteRow>,
    pub(super) others: Vec<OtherRow>,
    pub(super) looked_at_credential: bool,
    /// What it would be refused for, if its route did more than report it.
    pub(super) would_deny: Option<Refused>,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// It goes to the upstream.
    Pass(Forwarded),
    /// One of our endpoints answers.
    Answer,
    /// It is refused.
    Refuse(Refused),
}

impl Outcome {
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Answer => "answer",
            Self::Refuse(_) => "refuse",
        }
    }
    pub(super) const fn refusal(&self) -> Option<&Refused> {
        if let Self::Refuse(refused) = self { Some(refused) } else { None }
    }
    pub(super) const fn forwarded(&self) -> Option<&Forwarded> {
        if let Self::Pass(forwarded) = self { Some(forwarded) } else { None }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) reason: String,
}

/// What the upstream would get.
#[derive(Debug, Serialize)]
pub(super) struct Forwarded {
    pub(super) name: String,
    pub(super) servers: Vec<String>,
    pub(super) target: String,
    #[serde(serialize_with = "as_object")]
    pub(super) headers: Vec<(String, String)>,
    pub(super) with_authorization: bool,
}

fn as_object<S: serde::Serializer>(headers: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| (name, value)))
}

/// The rule that decides.
#[derive(Debug, Serialize)]
pub(super) struct RouteRow {
    pattern: String,
    /// `FILE:LINE`; absent for our own endpoints.
    place: Option<String>,
    access: &'static str,
    mode: &'static str,
    preflight: &'static str,
    roles: Vec<Role>,
    all_roles: Vec<Role>,
    owner: Option<String>,
}

impl fmt::Display for RouteRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pattern, self.place.as_deref().unwrap_or("gatepost's own"))?;
        write!(f, ", {}", self.access)?;
        let list = |roles: &[Role]| roles.iter().map(Role::as_str).collect::<Vec<_>>().join(", ");
        if !self.roles.is_empty() {
            write!(f, ", any of: {}", list(&self.roles))?;
        }
        if !self.all_roles.is_empty() {
            write!(f, ", all of: {}", list(&self.all_roles))?;
        }
        if let Some(owner) = &self.owner {
            write!(f, ", owner: {owner}")?;
        }
        if self.mode == REPORT {
            write!(f, ", only reports refusals")?;
        }
        match self.preflight {
            ANSWER => write!(f, ", answers preflights")?,
            UPSTREAM => write!(f, ", preflights go to the app")?,
            _ => {}
        }
        Ok(())
    }
}

/// A rule that was not taken.
#[derive(Debug, Serialize)]
pub(super) struct OtherRow {
    pattern: String,
    place: String,
    why: String,
}

impl fmt::Display for OtherRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.pattern, self.place, self.why)
    }
}

/// The rules of a configuration, to be asked.
pub(super) struct Judge<'s> {
    settings: &'s Settings,
    rules: Rules,
    identity: IdentityRules,
    preview: Preview,
}

impl<'s> Judge<'s> {
    pub(super) fn new(settings: &'s Settings) -> Result<Self, CliError> {
        let rules = Rules::new(settings).map_err(|errors| {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            CliError::Failed(errors.join("; "))
        })?;
        Ok(Self {
            settings,
            rules,
            identity: IdentityRules::new(&settings.identity),
            preview: Preview::new(settings),
        })
    }

    pub(super) fn judge(&self, question: &Question, who: &Who) -> Judgement {
        let mut notes = Notes {
            judge: self,
            method: &question.method,
            who,
            rule: None,
            preflight: PreflightMode::Deny,
            judgement: Judgement {
                host: None,
                path: None,
                route: None,
                others: Vec::new(),
                looked_at_credential: false,
                would_deny: None,
                outcome: Outcome::Answer,
            },
        };
        let outcome = self.outcome(question, &mut notes).unwrap_or_else(|stop| Outcome::Refuse(stop.told()));
        Judgement { outcome, ..notes.judgement }
    }

    fn outcome(&self, question: &Question, notes: &mut Notes<'_>) -> Result<Outcome, Stop> {
        let remark = question.fragment.then_some(HeadRemark::Fragment);
        let Some(uri) = &question.uri else { return Err(Stop::Refused(unparsed(remark))) };
        let preflight = None;
        let asked = Asked { method: &question.method, uri, headers: &question.headers, remark, preflight };
        let decided = match decide(&self.rules, self.settings.server.allow, &asked, notes)? {
            Decision::Pass(decided) => decided,
            Decision::Preflight(_) => return Ok(Outcome::Answer),
        };
        if let Target::Endpoint(_) = decided.permit.target() {
            return Ok(Outcome::Answer);
        }
        let Decided { permit, caller, path, .. } = decided;
        let permit = permit.project(Target::as_upstream).ok_or(Rejection::NotFound)?;
        let caller = match caller {
            Authentication::Anonymous => None,
            Authentication::Authenticated(caller) => Some(caller),
        };
        Ok(Outcome::Pass(self.forwarded(&permit, question, uri, path.into_owned(), caller)))
    }

    fn row(&self, index: RouteIndex, policy: &Policy, preflight: PreflightMode) -> RouteRow {
        let route = match index {
            RouteIndex::Own(_) => None,
            RouteIndex::Route(index) => self.settings.routes.get(index),
        };
        RouteRow {
            pattern: self.rules.name(index).to_owned(),
            place: route.map(|route| route.place.clone()),
            mode: match route.map(|route| route.mode) {
                Some(RouteMode::Report) => REPORT,
                Some(RouteMode::Enforce) | None => "enforce",
            },
            preflight: match preflight {
                PreflightMode::Deny => "deny",
                PreflightMode::Answer => ANSWER,
                PreflightMode::Upstream => UPSTREAM,
            },
            access: match policy.access() {
                Access::Public => "public",
                Access::Optional => "optional",
                Access::Authenticated => "authenticated",
            },
            roles: policy.any_of().to_vec(),
            all_roles: policy.all_of().to_vec(),
            owner: policy.owner().map(|owner| {
                let claim = match owner.claim {
                    OwnerClaim::Sub => "sub",
                    OwnerClaim::Username => "username",
                };
                let or_roles = owner.or_roles.iter().map(Role::as_str);
                let first = format!("{{{}}} = {claim}", owner.param);
                std::iter::once(first.as_str()).chain(or_roles).collect::<Vec<_>>().join(" or ")
            }),
        }
    }

    /// Our own rules that were not taken are of no interest to anybody.
    fn other(&self, index: RouteIndex, why: WhyNot) -> Option<OtherRow> {
        let RouteIndex::Route(route) = index else { return None };
        let route = self.settings.routes.get(route)?;
        let why = match why {
            WhyNot::Host => "another host".to_owned(),
            WhyNot::Path => "another path".to_owned(),
            WhyNot::Method => "it does not name the method".to_owned(),
            WhyNot::LessSpecific(better) => format!("less specific than {}", self.rules.name(better)),
        };
        Some(OtherRow { pattern: self.rules.name(index).to_owned(), place: route.place.clone(), why })
    }

    /// The head as the code that forwards makes it. What a question does not say stands in parentheses.
    fn forwarded(
        &self,
        permit: &Permit<'_, UpstreamRoute>,
        question: &Question,
        uri: &Uri,
        path: CanonicalPath<'static>,
        caller: Option<&Principal>,
    ) -> Forwarded {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = question.method.clone();
        parts.uri = uri.clone();
        parts.headers = question.headers.clone();
        let peer = Peer {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            address_value: HeaderValue::from_static("(client)"),
            port_value: Some(HeaderValue::from_static("(port)")),
            scheme: if self.settings.server.tls.is_some() { Scheme::Https } else { Scheme::Http },
            forwarded: OwnElement::default(),
            direct: DirectLines::default(),
        };
        let identity = caller.map(|principal| Rc::new(self.identity.render(principal)) as Rc<dyn AsRef<_>>);
        let parts = self.preview.head(
            permit,
            Inward {
                parts,
                path: Some(path),
                peer: &peer,
                identity,
                is_ours: &|_, _| true,
                is_preflight: false,
                request_id: HeaderValue::from_static("(id)"),
            },
        );
        let route = permit.target();
        let headers = parts.headers.iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let upstream = self.settings.upstreams.get(route.upstream);
        Forwarded {
            name: upstream.map_or_else(String::new, |upstream| upstream.name.clone()),
            servers: upstream
                .map_or_else(Vec::new, |upstream| upstream.servers.iter().map(ToString::to_string).collect()),
            target: parts.uri.to_string(),
            headers: headers.collect(),
            with_authorization: route.forwards_authorization() && caller.is_some(),
        }
    }
}

/// What is noted while the steps are taken.
struct Notes<'w> {
    judge: &'w Judge<'w>,
    method: &'w Method,
    who: &'w Who,
    rule: Option<RouteIndex>,
    /// What becomes of the preflight that a browser would send before.
    preflight: PreflightMode,
    judgement: Judgement,
}

impl<'w> Witness for Notes<'w> {
    type Caller = &'w Principal;
    type Refusal = Stop;

    fn arrived(&mut self, Inbound { path, host }: &Inbound<'_>) {
        self.judgement.host = Some(host.as_str().to_owned());
        self.judgement.path = Some(path.as_str().to_owned());
        let preflight = self.judge.rules.preflight(host, path, self.method);
        self.preflight = preflight.map_or(PreflightMode::Deny, |(_, rule)| rule.preflight());
        let mut others = self.judge.rules.table().explain(host, path, self.method);
        // Those that nearly won come first.
        others.sort_by_key(|(_, why)| match why {
            WhyNot::LessSpecific(_) | WhyNot::Method => 0,
            WhyNot::Host | WhyNot::Path => 1,
        });
        let others = others.into_iter().filter_map(|(index, why)| self.judge.other(index, why));
        self.judgement.others = others.collect();
    }

    fn matched(&mut self, rule: RouteIndex, policy: Option<&Policy>) {
        self.rule = Some(rule);
        self.judgement.route = policy.map(|policy| self.judge.row(rule, policy, self.preflight));
    }

    fn caller(&mut self) -> Result<Authentication<&'w Principal>, Stop> {
        self.judgement.looked_at_credential = true;
        match self.who {
            Who::Anonymous { .. } => Ok(Authentication::Anonymous),
            Who::Caller { principal, .. } => Ok(Authentication::Authenticated(principal)),
            Who::Bad { code, detail } => {
                let status = bad_token_status(self.judge.settings.auth.errors, code);
                Err(Stop::Refused(Refused { status, code: code.clone(), reason: detail.clone() }))
            }
        }
    }

    fn is_the_callers(refusal: &Stop) -> bool {
        match refusal {
            Stop::Rejection(rejection) => rejection.is_the_callers(),
            Stop::Refused(_) => true,
        }
    }

    fn would_deny(&mut self, refusal: Stop) {
        self.judgement.would_deny = Some(refusal.told());
    }

    fn principal<'c>(caller: &'c &'w Principal) -> &'c Principal {
        caller
    }
}

/// What a token of this state is answered with.
fn bad_token_status(bodies: ErrorBodies, state: &str) -> u16 {
    let fault = match state {
        "expired_token" => CredentialFault::Expired,
        "revoked_token" => CredentialFault::Revoked,
        _ => CredentialFault::Other,
    };
    wording::status(bodies, fault).unwrap_or(StatusCode::UNAUTHORIZED).as_u16()
}

/// A target that the HTTP parser would refuse before there is a request; a fragment is told as such.
fn unparsed(remark: Option<HeadRemark>) -> Refused {
    match remark {
        Some(remark) => Stop::Rejection(Rejection::Head(remark)).told(),
        None => Refused {
            status: 400,
            code: "bad_request".to_owned(),
            reason: "the target is no URI: the HTTP parser refuses it".to_owned(),
        },
    }
}

/// Why the steps ended early.
enum Stop {
    Rejection(Rejection),
    Refused(Refused),
}

impl Stop {
    fn told(self) -> Refused {
        let rejection = match self {
            Self::Refused(refused) => return refused,
            Self::Rejection(rejection) => rejection,
        };
        // The answer keeps which role would do to itself; the operator may know.
        let missing = match &rejection {
            Rejection::Denied(deny) => Some(deny.to_string()),
            _ => None,
        };
        let problem = rejection.problem();
        Refused {
            status: problem.status.as_u16(),
            code: problem.code.to_owned(),
            reason: missing.unwrap_or_else(|| problem.detail.into_owned()),
        }
    }
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Rejection(rejection)
    }
}
