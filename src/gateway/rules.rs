//! The rules: every route with its policy and its target, in one table.
//!
//! `serve`, `check` and `explain` all decide with this table; there is no second reading of the file.
//! Our own endpoints are rows of the same table and take the same steps as any request.

use http::Method;

use crate::api::{ENDPOINTS, Endpoint, EndpointSpec};
use crate::authz::{Access, Guarded, Policy};
use crate::metrics::worker::LabelTexts;
use crate::proxy::UpstreamRoute;
use crate::route::{
    CanonicalPath, Found, Host, MethodSet, PathPattern, RouteIndex, RouteRule, RouteTable, TableError,
};
use crate::settings::{AuthSettings, PreflightMode, RouteMode, RouteSettings, Settings, WELL_KNOWN_JWKS};

/// What stands behind a policy.
#[derive(Clone, Debug)]
pub enum Target {
    /// One of our endpoints.
    Endpoint(Endpoint),
    /// Under our prefix, but no endpoint: 404.
    Nothing,
    /// An upstream.
    Upstream(UpstreamRoute),
}

impl Target {
    /// The upstream that it is, if it is one.
    #[must_use]
    pub const fn as_upstream(&self) -> Option<&UpstreamRoute> {
        match self {
            Self::Upstream(route) => Some(route),
            Self::Endpoint(_) | Self::Nothing => None,
        }
    }
}

/// Every rule.
#[derive(Debug)]
pub struct Rules {
    table: RouteTable<Guarded<Target>>,
    patterns: Patterns,
}

/// What rules are called in logs and metrics, by their place in the table.
#[derive(Clone, Debug)]
struct Patterns {
    own: Vec<String>,
    routes: Vec<String>,
}

impl Rules {
    /// The rules of a configuration.
    ///
    /// # Errors
    /// What makes two rules contradict each other; `config` has refused such files before.
    pub fn new(settings: &Settings) -> Result<Self, Vec<TableError>> {
        let own = own_rules(&settings.auth, settings.cors.is_on());
        let routes: Vec<_> = settings.routes.iter().map(guard).collect();
        let patterns = Patterns {
            own: own.iter().map(|(rule, _)| rule.path.as_str().to_owned()).collect(),
            routes: settings.routes.iter().map(name).collect(),
        };
        let table = RouteTable::build(own, routes, settings.server.path_case)?;
        Ok(Self { table, patterns })
    }

    /// The table itself.
    #[must_use]
    pub const fn table(&self) -> &RouteTable<Guarded<Target>> {
        &self.table
    }

    /// The rule that takes the preflight of a request with this method, whoever asks; `None` where it is
    /// judged like any other OPTIONS: where the rule says so, and where another one names OPTIONS.
    #[must_use]
    pub fn preflight(
        &self,
        host: &Host<'_>,
        path: &CanonicalPath<'_>,
        method: &Method,
    ) -> Option<(RouteIndex, &Guarded<Target>)> {
        let Found::Route { index, target, .. } = self.table.find(host, path, method) else { return None };
        if target.preflight() == PreflightMode::Deny {
            return None;
        }
        // What is said of OPTIONS in so many words counts for more than what another rule says of its kind.
        let named = self.table.naming(host, path, &Method::OPTIONS);
        named.is_none_or(|named| named == index).then_some((index, target))
    }

    /// What a rule is called: its pattern, with the host in front when it has one.
    #[must_use]
    pub fn name(&self, index: RouteIndex) -> &str {
        let name = match index {
            RouteIndex::Own(index) => self.patterns.own.get(index),
            RouteIndex::Route(index) => self.patterns.routes.get(index),
        };
        name.map_or("none", String::as_str)
    }

    /// What the metrics call the rules and the upstreams.
    #[must_use]
    pub fn label_texts(&self, settings: &Settings) -> LabelTexts {
        LabelTexts {
            own: self.patterns.own.clone(),
            routes: self.patterns.routes.clone(),
            upstreams: settings.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
        }
    }
}

/// The rules of our own endpoints, under the prefix and under other paths; the last one catches what is
/// below the prefix and none of them. With `[cors]`, the gateway answers for them when a browser asks.
fn own_rules(auth: &AuthSettings, cors: bool) -> Vec<(RouteRule, Guarded<Target>)> {
    let below = |suffix: &str| {
        auth.prefix.join(suffix).expect("endpoint paths are patterns, and so is a checked prefix")
    };
    let rule = |path, methods| RouteRule { host: None, path, methods };
    let preflight = if cors { PreflightMode::Answer } else { PreflightMode::Deny };
    let endpoint = |spec: &EndpointSpec, path| {
        let methods = MethodSet::Only(vec![spec.method.clone()]);
        let guarded = Guarded::new(Policy::of(spec.access), Target::Endpoint(spec.endpoint));
        (rule(path, methods), guarded.with_preflight(preflight))
    };
    let mut rules: Vec<_> = ENDPOINTS.iter().map(|spec| endpoint(spec, below(spec.path))).collect();
    for (path, name) in &auth.paths {
        let named = ENDPOINTS.iter().filter(|spec| spec.path == name.path());
        rules.extend(named.map(|spec| endpoint(spec, path.clone())));
    }
    let public = |target| Guarded::new(Policy::of(Access::Public), target);
    rules.push((
        rule(jwks_path(), MethodSet::Only(vec![Method::GET])),
        public(Target::Endpoint(Endpoint::Jwks)).with_preflight(preflight),
    ));
    let beyond = jwks_path().join("/**").expect("a literal path and /** are a pattern");
    rules.push((rule(beyond, MethodSet::Any), public(Target::Nothing)));
    rules.push((rule(below("/**"), MethodSet::Any), public(Target::Nothing)));
    rules
}

fn jwks_path() -> PathPattern {
    PathPattern::parse(WELL_KNOWN_JWKS).expect("a literal path is a pattern")
}

fn guard(route: &RouteSettings) -> (RouteRule, Guarded<Target>) {
    let target = Target::Upstream(UpstreamRoute::new(route));
    let guarded = match route.mode {
        RouteMode::Enforce => Guarded::new(route.policy.clone(), target),
        RouteMode::Report => Guarded::reporting(route.policy.clone(), target),
    };
    (route.rule.clone(), guarded.with_preflight(route.preflight))
}

fn name(route: &RouteSettings) -> String {
    let host = route.rule.host.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("{host}{}", route.rule.path.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::EndpointName;

    #[test]
    fn an_endpoint_that_can_be_elsewhere_has_the_methods_that_it_says() {
        use EndpointName as Name;
        let names = [
            Name::Login,
            Name::Register,
            Name::Refresh,
            Name::Logout,
            Name::LogoutAll,
            Name::Me,
            Name::Password,
            Name::Protected,
        ];
        for name in names {
            let rows = ENDPOINTS.iter().filter(|spec| spec.path == name.path());
            let methods: Vec<Method> = rows.map(|spec| spec.method.clone()).collect();
            assert_eq!(methods, name.methods(), "{name:?}");
        }
    }
}
