//! The steps that decide: where a request wants to go, which rule takes it, who asks, what the rule's
//! policy says.
//!
//! One function for `serve`, `check` and `explain`, so that an explanation cannot differ from what
//! happens. It does no I/O and keeps nothing. What its callers differ in they say as a [`Witness`]: a
//! live request is searched for its credential and leaves notes for its decision line, a question is
//! told who asks and wants to know why.

use std::borrow::Cow;

use http::{HeaderMap, Method, Uri};

use super::{Rejection, Rules, Target};
use crate::api::SESSION_PARAM;
use crate::authz::{Access, Guarded, Permit, Policy};
use crate::identity::{Authentication, Principal};
use crate::message::inbound::{HeadRemark, Inbound};
use crate::route::{CanonicalPath, Found, PathAllowances, RouteIndex};
use crate::settings::PreflightMode;

/// A request, as far as it decides anything.
#[derive(Clone, Debug)]
pub struct Asked<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Its target.
    pub uri: &'r Uri,
    /// Its headers; the steps look at `Host` only.
    pub headers: &'r HeaderMap,
    /// What was odd about its head.
    pub remark: Option<HeadRemark>,
    /// The method that a browser asks leave for, when this is a preflight and nothing else.
    pub preflight: Option<Method>,
}

/// Who follows the steps of one request, and knows who asks.
pub trait Witness {
    /// Somebody whose credential is good.
    type Caller;
    /// Why the steps end early.
    type Refusal: From<Rejection>;

    /// The target and the host were read.
    fn arrived(&mut self, inbound: &Inbound<'_>);
    /// A pattern takes the request; `policy` is that of its rule, `None` when no rule has the method.
    fn matched(&mut self, rule: RouteIndex, policy: Option<&Policy>);
    /// Who asks. Called at most once, and never for a public rule.
    ///
    /// # Errors
    /// A credential that is no good; it is never an anonymous caller.
    fn caller(&mut self) -> Result<Authentication<Self::Caller>, Self::Refusal>;
    /// Whether this speaks against the caller. A fault of ours does not, nor does a good credential whose
    /// account has yet to be looked up: nothing was decided then, and no rule lets pass.
    fn is_the_callers(refusal: &Self::Refusal) -> bool;
    /// The rule refuses, and only reports it: the request passes, with no caller when it was the
    /// credential that is no good.
    fn would_deny(&mut self, refusal: Self::Refusal);
    /// Whom the caller's token speaks for.
    fn principal(caller: &Self::Caller) -> &Principal;
}

/// What becomes of a request that is not refused.
#[derive(Debug)]
pub enum Decision<'t, 'r, C> {
    /// It passes.
    Pass(Decided<'t, 'r, C>),
    /// It is a preflight for a request with this method, and the gateway answers it.
    Preflight(Method),
}

/// A request that may pass.
#[derive(Debug)]
pub struct Decided<'t, 'r, C> {
    /// The proof, and where to.
    pub permit: Permit<'t, Target>,
    /// Whether the rule wanted a caller.
    pub access: Access,
    /// Who asks; nobody on public rules, whatever was presented.
    pub caller: Authentication<C>,
    /// The one path, matched and to be forwarded.
    pub path: CanonicalPath<'r>,
    /// The path parameter [`SESSION_PARAM`], decoded, of one of our endpoints that has it.
    pub session: Option<String>,
    /// Whether it passes as a preflight: its rule was not asked about the caller.
    pub preflight: bool,
}

/// Takes the steps.
///
/// # Errors
/// The refusal of the step that said no; the later ones were not taken.
pub fn decide<'t, 'r, W: Witness>(
    rules: &'t Rules,
    allow: PathAllowances,
    asked: &Asked<'r>,
    witness: &mut W,
) -> Result<Decision<'t, 'r, W::Caller>, W::Refusal> {
    if let Some(remark) = asked.remark {
        return Err(Rejection::Head(remark).into());
    }
    if asked.method == Method::TRACE || asked.method == Method::CONNECT {
        return Err(Rejection::Method(asked.method.clone()).into());
    }
    let inbound = Inbound::read(asked.uri, asked.headers, allow).map_err(Rejection::from)?;
    witness.arrived(&inbound);
    let Inbound { path, host } = inbound;

    // A preflight is for the rule of the request that it comes before, and that rule may take it. Where it
    // does not, nothing is different from any other OPTIONS.
    if let Some(method) = &asked.preflight
        && let Some((index, target)) = rules.preflight(&host, &path, method)
    {
        let taken = match target.preflight() {
            PreflightMode::Deny => None,
            PreflightMode::Answer => Some(Decision::Preflight(method.clone())),
            PreflightMode::Upstream => target.authorize_preflight().map(|permit| {
                let (access, caller) = (Access::Public, Authentication::Anonymous);
                let path = path.clone();
                Decision::Pass(Decided { permit, access, caller, path, session: None, preflight: true })
            }),
        };
        if let Some(taken) = taken {
            witness.matched(index, Some(target.policy()));
            return Ok(taken);
        }
    }

    let (guarded, params) = match rules.table().find(&host, &path, asked.method) {
        Found::Route { index, target, params } => {
            witness.matched(index, Some(target.policy()));
            (target, params)
        }
        Found::MethodNotAllowed { allow, index } => {
            witness.matched(index, None);
            return Err(Rejection::MethodNotAllowed(allow.to_owned()).into());
        }
        Found::NoRoute => return Err(Rejection::NoRoute.into()),
    };

    let access = guarded.policy().access();
    let found = match access {
        Access::Public => Ok(Authentication::Anonymous),
        Access::Optional | Access::Authenticated => witness.caller(),
    };
    let (caller, permit) = match found {
        Ok(caller) => {
            let who = match &caller {
                Authentication::Anonymous => Authentication::Anonymous,
                Authentication::Authenticated(caller) => Authentication::Authenticated(W::principal(caller)),
            };
            let permit = match guarded.authorize(who, |name| params.decoded(name)) {
                Ok(permit) => permit,
                Err(deny) => only_report(guarded, Rejection::Denied(deny).into(), witness)?,
            };
            (caller, permit)
        }
        // Whoever presented a bad credential is nobody from here on.
        Err(refusal) if W::is_the_callers(&refusal) => {
            (Authentication::Anonymous, only_report(guarded, refusal, witness)?)
        }
        // Not even to report it: nobody knows who asks.
        Err(fault) => return Err(fault),
    };
    let session = match permit.target() {
        Target::Endpoint(_) => params.decoded(SESSION_PARAM).map(Cow::into_owned),
        Target::Nothing | Target::Upstream(_) => None,
    };
    Ok(Decision::Pass(Decided { permit, access, caller, path, session, preflight: false }))
}

/// The permit of a rule that only reports its refusals; of any other the refusal.
fn only_report<'t, W: Witness>(
    guarded: &'t Guarded<Target>,
    refusal: W::Refusal,
    witness: &mut W,
) -> Result<Permit<'t, Target>, W::Refusal> {
    let Some(permit) = guarded.authorize_reporting() else { return Err(refusal) };
    witness.would_deny(refusal);
    Ok(permit)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::config::{self, Sources};
    use crate::message::reply::Problem;
    use crate::settings::Settings;

    fn settings() -> Settings {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config.toml");
        let text = r#"
            upstream = [{ name = "app", servers = ["http://127.0.0.1:1"] }]
            [[route]]
            path = "/**"
            [[route]]
            path = "/open"
            access = "public"
            methods = ["GET"]
            [[route]]
            path = "/watched"
            roles = ["admin"]
            methods = ["GET"]
            mode = "report"
            [[route]]
            path = "/maybe"
            access = "optional"
            [[route]]
            path = "/maybe/watched"
            access = "optional"
            mode = "report"
        "#;
        std::fs::write(&file, text).expect("written");
        config::load(&Sources { file: Some(file), ..Sources::default() }).expect("a good file").settings
    }

    /// Says that the credential is no good or that it cannot tell, and counts how often it was asked.
    #[derive(Default)]
    struct Suspicious {
        fault: bool,
        matched: Vec<Option<Access>>,
        asked: usize,
        reported: Vec<&'static str>,
    }

    impl Witness for Suspicious {
        type Caller = Principal;
        type Refusal = Rejection;

        fn arrived(&mut self, _: &Inbound<'_>) {}
        fn matched(&mut self, _: RouteIndex, policy: Option<&Policy>) {
            self.matched.push(policy.map(Policy::access));
        }
        fn caller(&mut self) -> Result<Authentication<Principal>, Rejection> {
            self.asked += 1;
            if self.fault {
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "away");
                return Err(Rejection::Endpoint(problem));
            }
            Err(Rejection::Authn(crate::authn::AuthnError::Revoked))
        }
        fn is_the_callers(refusal: &Rejection) -> bool {
            refusal.is_the_callers()
        }
        fn would_deny(&mut self, refusal: Rejection) {
            self.reported.push(refusal.problem().code);
        }
        fn principal(caller: &Principal) -> &Principal {
            caller
        }
    }

    #[test]
    fn a_rule_that_reports_lets_pass_whom_it_refuses_and_nothing_else() {
        let rules = Rules::new(&settings()).expect("rules");
        let mut headers = HeaderMap::new();
        headers.insert(http::header::HOST, http::HeaderValue::from_static("app.example.com"));
        // Method, target → status, what was reported.
        let cases = [
            ("GET", "/watched", None, vec!["revoked_token"]),
            ("POST", "/watched", Some(405), vec![]),
            ("GET", "/%2fwatched", Some(400), vec![]),
            ("GET", "/other", Some(401), vec![]),
            ("GET", "/auth/me", Some(401), vec![]),
            ("TRACE", "/watched", Some(405), vec![]),
        ];
        for (method, target, status, reported) in cases {
            let (method, uri) = (method.parse().expect("a method"), target.parse().expect("a target"));
            let request =
                Asked { method: &method, uri: &uri, headers: &headers, remark: None, preflight: None };
            let mut witness = Suspicious::default();
            let decided = decide(&rules, PathAllowances::default(), &request, &mut witness);
            if let Ok(Decision::Pass(decided)) = &decided {
                assert!(matches!(decided.caller, Authentication::Anonymous), "a bad token is nobody's");
            }
            let refused = decided.err().map(|rejection| rejection.problem().status.as_u16());
            assert_eq!((refused, witness.reported), (status, reported), "{method} {target}");
        }
    }

    #[test]
    fn a_fault_of_ours_passes_nowhere() {
        let rules = Rules::new(&settings()).expect("rules");
        let mut headers = HeaderMap::new();
        headers.insert(http::header::HOST, http::HeaderValue::from_static("app.example.com"));
        for target in ["/watched", "/other", "/maybe", "/maybe/watched"] {
            let uri = target.parse().expect("a target");
            let request =
                Asked { method: &Method::GET, uri: &uri, headers: &headers, remark: None, preflight: None };
            let mut witness = Suspicious { fault: true, ..Suspicious::default() };
            let decided = decide(&rules, PathAllowances::default(), &request, &mut witness);
            let refused = decided.err().map(|rejection| rejection.problem().code);
            assert_eq!(refused, Some("store_unavailable"), "{target}");
            assert_eq!((witness.asked, witness.reported), (1, vec![]), "{target}");
        }
    }

    #[test]
    fn each_step_is_the_last_one_when_it_says_no() {
        let rules = Rules::new(&settings()).expect("rules");
        let mut headers = HeaderMap::new();
        headers.insert(http::header::HOST, http::HeaderValue::from_static("app.example.com"));
        let open = Some(Access::Public);
        let closed = Some(Access::Authenticated);
        // Method, target, remark → status, what was matched, whether somebody asked for the credential.
        let cases = [
            ("GET", "/open", None, None, vec![open], 0),
            ("GET", "/auth/login/nothing", None, None, vec![open], 0),
            ("POST", "/open", None, Some(405), vec![None], 0),
            ("GET", "/other", None, Some(401), vec![closed], 1),
            ("GET", "/auth/me", None, Some(401), vec![closed], 1),
            ("GET", "/%2fopen", None, Some(400), vec![], 0),
            ("TRACE", "/open", None, Some(405), vec![], 0),
            ("GET", "/open", Some(HeadRemark::TooLarge), Some(431), vec![], 0),
        ];
        for (method, target, remark, status, matched, asked) in cases {
            let (method, uri) = (method.parse().expect("a method"), target.parse().expect("a target"));
            let request = Asked { method: &method, uri: &uri, headers: &headers, remark, preflight: None };
            let mut witness = Suspicious::default();
            let decided = decide(&rules, PathAllowances::default(), &request, &mut witness);
            let refused = decided.err().map(|rejection| rejection.problem().status.as_u16());
            assert_eq!(
                (refused, witness.matched, witness.asked),
                (status, matched, asked),
                "{method} {target}"
            );
        }
    }
}
