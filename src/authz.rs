//! Who may pass: a policy, and the lock that holds a target until its own policy has said yes.
//!
//! No I/O and no HTTP. A [`Permit`] can only be had from [`Guarded::authorize`], so what takes a
//! permit cannot be reached without a decision. Whether a credential is good was settled before, by
//! `authn`; a bad one never comes here as "anonymous". The one other way to a permit is
//! [`Guarded::authorize_reporting`], and only what was locked by [`Guarded::reporting`] has it; and
//! [`Guarded::authorize_preflight`], for questions that come before a request and carry no credential.

use std::borrow::Cow;

use crate::identity::{Authentication, Principal, Role};
use crate::settings::PreflightMode;

/// Whether a caller is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// No notice is taken of credentials.
    Public,
    /// Anonymous callers pass; a credential that is present must be good.
    Optional,
    /// A caller is needed.
    #[default]
    Authenticated,
}

/// What an owner is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerClaim {
    /// The user id.
    Sub,
    /// The canonical username.
    Username,
}

/// A path parameter, decoded once, must equal the caller's id or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The parameter's name, without braces.
    pub param: String,
    /// What it is compared with.
    pub claim: OwnerClaim,
    /// One of these instead will do.
    pub or_roles: Vec<Role>,
}

/// Why a combination is no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// `roles` or `all_roles` beside public or optional.
    #[error("roles need access = \"authenticated\"")]
    RolesWithoutCaller,
    /// `owner` beside public or optional.
    #[error("owner needs access = \"authenticated\"")]
    OwnerWithoutCaller,
}

/// Who may pass. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    access: Access,
    any_of: Vec<Role>,
    all_of: Vec<Role>,
    owner: Option<Ownership>,
}

impl Policy {
    /// A policy with conditions; an empty list asks for nothing. Conditions need a caller, so beside
    /// [`Access::Public`] and [`Access::Optional`] there must be none: they would look like a lock
    /// and be none.
    pub fn new(
        access: Access,
        any_of: Vec<Role>,
        all_of: Vec<Role>,
        owner: Option<Ownership>,
    ) -> Result<Self, PolicyError> {
        if access != Access::Authenticated {
            if !any_of.is_empty() || !all_of.is_empty() {
                return Err(PolicyError::RolesWithoutCaller);
            }
            if owner.is_some() {
                return Err(PolicyError::OwnerWithoutCaller);
            }
        }
        Ok(Self { access, any_of, all_of, owner })
    }

    /// A policy that only says whether a caller is needed.
    pub const fn of(access: Access) -> Self {
        Self { access, any_of: Vec::new(), all_of: Vec::new(), owner: None }
    }

    /// Whether a caller is needed.
    pub const fn access(&self) -> Access {
        self.access
    }

    /// One of these roles is needed, when there are any.
    pub fn any_of(&self) -> &[Role] {
        &self.any_of
    }

    /// All of these roles are needed.
    pub fn all_of(&self) -> &[Role] {
        &self.all_of
    }

    /// The ownership that is needed.
    pub const fn owner(&self) -> Option<&Ownership> {
        self.owner.as_ref()
    }

    fn check<'v>(
        &self,
        caller: &Principal,
        owner_value: impl FnOnce(&str) -> Option<Cow<'v, str>>,
    ) -> Result<(), Missing> {
        let has = |role: &Role| caller.roles.contains(role);
        if !self.any_of.is_empty() && !self.any_of.iter().any(has) {
            return Err(Missing::AnyOf(self.any_of.clone()));
        }
        if !self.all_of.iter().all(has) {
            let missing = self.all_of.iter().filter(|role| !has(role)).cloned().collect();
            return Err(Missing::AllOf(missing));
        }
        match &self.owner {
            None => Ok(()),
            Some(owner) if owner.or_roles.iter().any(has) => Ok(()),
            Some(owner) if owner.is(caller, owner_value(&owner.param).as_deref()) => Ok(()),
            Some(_) => Err(Missing::Ownership),
        }
    }
}

impl Ownership {
    /// A path without the parameter belongs to nobody.
    fn is(&self, caller: &Principal, value: Option<&str>) -> bool {
        let claim = match self.claim {
            OwnerClaim::Sub => caller.id.as_str(),
            OwnerClaim::Username => &caller.username,
        };
        value.is_some_and(|value| !value.is_empty() && value == claim)
    }
}

/// A target behind its policy.
#[derive(Clone, Debug)]
pub struct Guarded<T> {
    policy: Policy,
    target: T,
    enforcement: Enforcement,
    preflight: PreflightMode,
}

/// Whether a policy's no is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Enforcement {
    /// Who may not pass does not.
    Enforce,
    /// Who may not pass is reported, and passes.
    Report,
}

impl<T> Guarded<T> {
    /// Locks `target` behind `policy`.
    pub const fn new(policy: Policy, target: T) -> Self {
        Self { policy, target, enforcement: Enforcement::Enforce, preflight: PreflightMode::Deny }
    }

    /// Shows `target` behind `policy`, for adoption in front of a live app: refusals are to be reported
    /// and are none.
    pub const fn reporting(policy: Policy, target: T) -> Self {
        Self { policy, target, enforcement: Enforcement::Report, preflight: PreflightMode::Deny }
    }

    /// The same lock, with this for preflights; without it they are requests like all others.
    #[must_use]
    pub fn with_preflight(self, preflight: PreflightMode) -> Self {
        Self { preflight, ..self }
    }

    /// What becomes of preflights.
    pub const fn preflight(&self) -> PreflightMode {
        self.preflight
    }

    /// Whether refusals are only reported.
    pub fn is_reporting(&self) -> bool {
        self.enforcement == Enforcement::Report
    }

    /// Who may pass.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Decides whether `who` may have the target. `owner_value` gives a path parameter, decoded
    /// once; it is asked only when the policy needs it. Passing allocates nothing.
    pub fn authorize<'a, 'v>(
        &'a self,
        who: Authentication<&Principal>,
        owner_value: impl FnOnce(&str) -> Option<Cow<'v, str>>,
    ) -> Result<Permit<'a, T>, Deny> {
        let permit = Permit { target: &self.target };
        match (self.policy.access, who) {
            (Access::Public | Access::Optional, _) => Ok(permit),
            (Access::Authenticated, Authentication::Authenticated(caller)) => {
                self.policy.check(caller, owner_value).map(|()| permit).map_err(Deny::Forbidden)
            }
            (Access::Authenticated, Authentication::Anonymous) => Err(Deny::Unauthenticated),
        }
    }
}

impl<T> Guarded<T> {
    /// The permit in spite of a refusal (`authorize`'s, or that of a bad credential), which is for the
    /// caller to report; `None` where refusals are refusals.
    pub fn authorize_reporting(&self) -> Option<Permit<'_, T>> {
        match self.enforcement {
            Enforcement::Report => Some(Permit { target: &self.target }),
            Enforcement::Enforce => None,
        }
    }

    /// The permit for a preflight, which the target is to answer without knowing who asks; `None` where
    /// preflights do not go there unasked. Whether a request is a preflight is for the caller to judge.
    pub fn authorize_preflight(&self) -> Option<Permit<'_, T>> {
        match self.preflight {
            PreflightMode::Upstream => Some(Permit { target: &self.target }),
            PreflightMode::Deny | PreflightMode::Answer => None,
        }
    }
}

/// The proof that a policy was asked and said yes (or that it is one that only reports, or that the question
/// was a preflight which it lets through), and the target that it locked.
#[derive(Debug)]
pub struct Permit<'a, T> {
    target: &'a T,
}

impl<'a, T> Permit<'a, T> {
    /// What was locked.
    pub const fn target(&self) -> &'a T {
        self.target
    }

    /// The permit for a part of what was locked; `None` when it is not such a part.
    pub fn project<U>(self, part: impl FnOnce(&'a T) -> Option<&'a U>) -> Option<Permit<'a, U>> {
        part(self.target).map(|target| Permit { target })
    }
}

/// Why somebody may not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Deny {
    /// Nobody is calling: 401.
    #[error("a caller is needed")]
    Unauthenticated,
    /// The caller lacks something: 403.
    #[error(transparent)]
    Forbidden(Missing),
}

/// What a caller lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// One of these roles.
    #[error("one of these roles is needed: {}", names(.0))]
    AnyOf(Vec<Role>),
    /// Each of these roles; those that the caller has are left out.
    #[error("these roles are missing: {}", names(.0))]
    AllOf(Vec<Role>),
    /// It belongs to somebody else.
    #[error("only the owner may pass")]
    Ownership,
}

fn names(roles: &[Role]) -> String {
    roles.iter().map(Role::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::SessionId;

    fn role(name: &str) -> Role {
        name.parse().expect("a role")
    }

    fn roles(names: &[&str]) -> Vec<Role> {
        names.iter().map(|name| role(name)).collect()
    }

    fn caller(names: &[&str]) -> Principal {
        Principal {
            id: "id-1".parse().expect("an id"),
            username: Arc::from("alice"),
            name: None,
            email: None,
            roles: roles(names).into_iter().collect(),
            session: SessionId::from_bytes([7; 16]),
            generation: 0,
        }
    }

    fn owner(claim: OwnerClaim, or_roles: &[&str]) -> Ownership {
        Ownership { param: "uid".to_owned(), claim, or_roles: roles(or_roles) }
    }

    fn policy(any_of: &[&str], all_of: &[&str], owner: Option<Ownership>) -> Policy {
        Policy::new(Access::Authenticated, roles(any_of), roles(all_of), owner).expect("a policy")
    }

    fn decide(policy: Policy, who: Option<&Principal>, param: Option<&str>) -> Result<&'static str, Deny> {
        let who = who.map_or(Authentication::Anonymous, Authentication::Authenticated);
        let guarded = Guarded::new(policy, "target");
        let owner_value = |name: &str| {
            assert_eq!(name, "uid");
            param.map(|value| Cow::Owned(value.to_owned()))
        };
        guarded.authorize(who, owner_value).map(|permit| *permit.target())
    }

    #[test]
    fn the_default_needs_a_caller() {
        assert_eq!(Policy::default(), Policy::of(Access::Authenticated));
        assert_eq!(decide(Policy::default(), None, None), Err(Deny::Unauthenticated));
        assert_eq!(decide(Policy::default(), Some(&caller(&[])), None), Ok("target"));
    }

    #[test]
    fn public_and_optional_pass_anybody() {
        for access in [Access::Public, Access::Optional] {
            assert_eq!(decide(Policy::of(access), None, None), Ok("target"));
            assert_eq!(decide(Policy::of(access), Some(&caller(&[])), None), Ok("target"));
        }
    }

    #[test]
    fn conditions_without_a_caller_are_no_policy() {
        for access in [Access::Public, Access::Optional] {
            let refused = [
                (roles(&["admin"]), roles(&[]), None, PolicyError::RolesWithoutCaller),
                (roles(&[]), roles(&["admin"]), None, PolicyError::RolesWithoutCaller),
                (roles(&[]), roles(&[]), Some(owner(OwnerClaim::Sub, &[])), PolicyError::OwnerWithoutCaller),
            ];
            for (any_of, all_of, owner, error) in refused {
                assert_eq!(Policy::new(access, any_of, all_of, owner), Err(error), "{access:?}");
            }
            assert!(Policy::new(access, Vec::new(), Vec::new(), None).is_ok());
        }
    }

    #[test]
    fn anonymous_callers_never_meet_a_condition() {
        for policy in [
            policy(&["admin"], &[], None),
            policy(&[], &["admin"], None),
            policy(&[], &[], Some(owner(OwnerClaim::Sub, &[]))),
        ] {
            assert_eq!(decide(policy, None, Some("id-1")), Err(Deny::Unauthenticated));
        }
    }

    #[test]
    fn role_conditions_are_anded() {
        let any_of = |names: &[&str]| Err(Deny::Forbidden(Missing::AnyOf(roles(names))));
        let all_of = |names: &[&str]| Err(Deny::Forbidden(Missing::AllOf(roles(names))));
        for (any, all, has, result) in [
            (&["admin", "auditor"][..], &[][..], &["auditor"][..], Ok("target")),
            (&["admin", "auditor"], &[], &["user"], any_of(&["admin", "auditor"])),
            (&["admin"], &[], &[], any_of(&["admin"])),
            (&["admin"], &[], &["Admin"], any_of(&["admin"])),
            (&[], &["a", "b"], &["a", "b", "c"], Ok("target")),
            (&[], &["a", "b"], &["a"], all_of(&["b"])),
            (&["x"], &["a"], &["a"], any_of(&["x"])),
            (&["x"], &["a"], &["x"], all_of(&["a"])),
            (&["x"], &["a"], &["a", "x"], Ok("target")),
        ] {
            assert_eq!(
                decide(policy(any, all, None), Some(&caller(has)), None),
                result,
                "{any:?} {all:?} {has:?}"
            );
        }
    }

    #[test]
    fn ownership_compares_the_whole_decoded_value() {
        let stranger = Err(Deny::Forbidden(Missing::Ownership));
        for (claim, value, result) in [
            (OwnerClaim::Sub, Some("id-1"), Ok("target")),
            (OwnerClaim::Sub, Some("ID-1"), stranger.clone()),
            (OwnerClaim::Sub, Some("id-1 "), stranger.clone()),
            (OwnerClaim::Sub, Some("id-"), stranger.clone()),
            (OwnerClaim::Sub, Some(""), stranger.clone()),
            (OwnerClaim::Sub, Some("alice"), stranger.clone()),
            (OwnerClaim::Sub, None, stranger.clone()),
            (OwnerClaim::Username, Some("alice"), Ok("target")),
            (OwnerClaim::Username, Some("id-1"), stranger.clone()),
        ] {
            let policy = policy(&[], &[], Some(owner(claim, &[])));
            assert_eq!(decide(policy, Some(&caller(&["admin"])), value), result, "{claim:?} {value:?}");
        }
    }

    #[test]
    fn or_roles_stand_in_for_the_owner_and_for_nothing_else() {
        let owned = || Some(owner(OwnerClaim::Sub, &["admin"]));
        assert_eq!(decide(policy(&[], &[], owned()), Some(&caller(&["admin"])), Some("other")), Ok("target"));
        assert_eq!(decide(policy(&[], &[], owned()), Some(&caller(&[])), Some("id-1")), Ok("target"));
        let denied = decide(policy(&[], &[], owned()), Some(&caller(&["user"])), Some("other"));
        assert_eq!(denied, Err(Deny::Forbidden(Missing::Ownership)));
        let denied = decide(policy(&["editor"], &[], owned()), Some(&caller(&["admin"])), Some("id-1"));
        assert_eq!(denied, Err(Deny::Forbidden(Missing::AnyOf(roles(&["editor"])))));
    }

    #[test]
    fn only_what_reports_gives_a_permit_in_spite_of_a_refusal() {
        for access in [Access::Public, Access::Optional, Access::Authenticated] {
            let enforced = Guarded::new(Policy::of(access), "target");
            assert!(!enforced.is_reporting());
            assert!(enforced.authorize_reporting().is_none(), "{access:?}");
        }
        let reporting = Guarded::reporting(policy(&["admin"], &[], None), "target");
        assert!(reporting.is_reporting());
        let denied = reporting.authorize(Authentication::Anonymous, |_| None);
        assert_eq!(
            denied.map(|permit| *permit.target()),
            Err(Deny::Unauthenticated),
            "the policy still says no"
        );
        assert_eq!(reporting.authorize_reporting().map(|permit| *permit.target()), Some("target"));
    }

    #[test]
    fn a_denial_names_what_is_missing() {
        let deny = Deny::Forbidden(Missing::AnyOf(roles(&["admin", "auditor"])));
        assert_eq!(deny.to_string(), "one of these roles is needed: admin, auditor");
    }
}
