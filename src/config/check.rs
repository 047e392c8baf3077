//! What no table can see by itself: routes that get in each other's way, and combinations that are
//! allowed but seldom meant.

use super::origin::Origin;
use super::problem::Problem;
use super::reader::{Reader, Section};
use super::sections::auth::AuthRead;
use super::sections::roles::Roles;
use super::sections::routes::RouteRead;
use super::sections::upstreams::UpstreamRead;
use super::value::quote;
use crate::authz::{Access, Policy};
use crate::route::{MethodSet, PathCase, PathPattern, RouteRule, RouteTable, TableError};
use crate::settings::{Registration, RouteMode, WELL_KNOWN_JWKS};

/// Everything that was read and has to fit together.
pub(super) struct Parts<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) root: &'a Section<'a>,
    pub(super) auth: &'a AuthRead,
    pub(super) roles: &'a Roles,
    pub(super) upstreams: &'a [UpstreamRead],
    pub(super) routes: &'a [RouteRead],
    /// How many routes are written, broken ones among them.
    pub(super) routes_written: usize,
    pub(super) case: PathCase,
}

impl Parts<'_> {
    pub(super) fn check(&self) {
        self.check_counts();
        self.check_upstreams_used();
        self.check_table();
        self.warn_of_open_doors();
        self.warn_of_reporting();
    }

    /// No route is no mistake that could hurt (nothing is forwarded), but hardly meant.
    fn check_counts(&self) {
        if self.root.entry("route").is_none() {
            let message = "there is no [[route]]: everything outside the prefix is answered with 404";
            self.reader.warn(message, &Origin::Default);
        }
        if let (Some(route), None) = (self.routes.first(), self.root.entry("upstream")) {
            self.reader.error("there is no [[upstream]] that routes could lead to", &route.origin);
        }
    }

    fn check_upstreams_used(&self) {
        if self.routes.len() != self.routes_written || self.reader.has_errors() {
            return;
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let unused = !self.routes.iter().any(|route| route.settings.upstream == index);
            if unused && !self.routes.is_empty() {
                let message = format!("no route leads to the upstream {}", quote(&upstream.settings.name));
                self.reader.warn(message, &upstream.origin);
            }
        }
    }

    /// Builds the table that will decide, and asks it.
    fn check_table(&self) {
        let own = self.own_rules();
        let rules = self.routes.iter().map(|route| (route.settings.rule.clone(), ())).collect();
        match RouteTable::build(own, rules, self.case) {
            Ok(table) => {
                self.warn_of_hidden(&table.hidden_by_host());
                for index in table.unreachable() {
                    let path = quote(self.routes[index].settings.rule.path.as_str());
                    self.reader
                        .warn(format!("no request can reach the route {path}"), &self.routes[index].path);
                }
            }
            Err(errors) => errors.iter().for_each(|error| self.report(*error)),
        }
    }

    /// The prefix and all below it, and the well-known place of the keys.
    fn own_rules(&self) -> Vec<(RouteRule, ())> {
        let prefix = self.auth.settings.prefix.join("/**");
        let keys = PathPattern::parse(WELL_KNOWN_JWKS);
        let rule = |path| (RouteRule { host: None, path, methods: MethodSet::Any }, ());
        [prefix, keys].into_iter().flatten().map(rule).collect()
    }

    fn report(&self, error: TableError) {
        let place = |index: usize| self.reader.place(&self.routes[index].path);
        let path = |index: usize| quote(self.routes[index].settings.rule.path.as_str());
        let problem = match error {
            TableError::Tie { a, b } => {
                let message = format!("the route {} answers the same requests as an earlier one", path(b));
                Problem::error(message, place(b)).note("the earlier one", place(a))
            }
            TableError::MethodsOverlap { a, b } => {
                let message = format!("the route {} has methods in common with an earlier one", path(b));
                Problem::error(message, place(b)).note("the earlier one", place(a))
            }
            TableError::UnderPrefix { route, own } => {
                let message = match own {
                    0 => {
                        let prefix = quote(self.auth.settings.prefix.as_str());
                        format!("the route {} is at or below the prefix {prefix}", path(route))
                    }
                    _ => format!("the route {} is the gateway's own path", path(route)),
                };
                let problem = Problem::error(message, place(route))
                    .help("paths at and below the prefix are the gateway's own; [auth] prefix moves it");
                if own == 0 && self.auth.prefix != Origin::Default {
                    problem.note("the prefix", self.reader.place(&self.auth.prefix))
                } else {
                    problem
                }
            }
            TableError::Own { .. } => {
                let message = "the prefix collides with a path of the gateway's own";
                Problem::error(message, self.reader.place(&self.auth.prefix))
            }
        };
        self.reader.push(problem);
    }

    /// A route for one host takes requests away from one for every host. That is what it is for,
    /// unless it asks for less.
    fn warn_of_hidden(&self, pairs: &[(usize, usize)]) {
        // One warning for each route that hides others: it may hide thousands.
        for same in pairs.chunk_by(|(hiding, _), (next, _)| hiding == next) {
            let stricter = |(hiding, hidden): &&(usize, usize)| {
                let (above, below) = (&self.routes[*hiding].settings, &self.routes[*hidden].settings);
                asks_for_less(&above.policy, &below.policy)
            };
            let mut found = same.iter().filter(stricter);
            let Some((hiding, hidden)) = found.next() else { continue };
            let (above, below) = (&self.routes[*hiding], &self.routes[*hidden]);
            let more = match found.count() {
                0 => String::new(),
                count => format!(" (and less than {count} more)"),
            };
            let message = format!(
                "the route {} for one host asks for less than the route {} that it hides there{more}",
                quote(above.settings.rule.path.as_str()),
                quote(below.settings.rule.path.as_str())
            );
            let problem = Problem::warning(message, self.reader.place(&above.path))
                .note("the stricter one", self.reader.place(&below.path))
                .help("repeat the stricter route with this host, if its paths need the same protection");
            self.reader.push(problem);
        }
    }

    /// "Who is logged in" is no condition where anybody can make an account.
    fn warn_of_open_doors(&self) {
        let auth = &self.auth.settings;
        if auth.registration != Registration::Open {
            return;
        }
        let open = |route: &&RouteRead| self.anybody_passes(&route.settings.policy);
        let mut routes = self.routes.iter().filter(open);
        let Some(first) = routes.next() else { return };
        let more = match routes.count() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let path = quote(first.settings.rule.path.as_str());
        let message = format!("anybody can register, and every account passes the route {path}{more}");
        let problem = Problem::warning(message, self.reader.place(&first.path))
            .note("registration is open", self.reader.place(&self.auth.registration));
        self.reader.push(problem);
    }

    /// Meant for a while, and easily forgotten.
    fn warn_of_reporting(&self) {
        for route in self.routes.iter().filter(|route| route.settings.mode == RouteMode::Report) {
            let path = quote(route.settings.rule.path.as_str());
            let message = match route.settings.policy.access() {
                Access::Public => {
                    format!("the route {path} is public: it refuses nobody whom it could report")
                }
                Access::Optional | Access::Authenticated => format!(
                    "the route {path} does not enforce: whoever it would deny is reported, and passes"
                ),
            };
            self.reader.warn(message, &route.mode);
        }
    }

    /// Whether a fresh account passes.
    fn anybody_passes(&self, policy: &Policy) -> bool {
        if policy.access() != Access::Authenticated || policy.owner().is_some() {
            return false;
        }
        let fresh = self.roles.table.expand(&self.auth.settings.default_roles);
        let any_of = policy.any_of();
        (any_of.is_empty() || any_of.iter().any(|role| fresh.contains(role)))
            && policy.all_of().iter().all(|role| fresh.contains(role))
    }
}

/// Whether somebody may pass `this` who could not pass `that`, as far as the two can be compared.
fn asks_for_less(this: &Policy, that: &Policy) -> bool {
    let rank = |policy: &Policy| match policy.access() {
        Access::Public => 0,
        Access::Optional => 1,
        Access::Authenticated => 2,
    };
    if rank(this) != rank(that) {
        return rank(this) < rank(that);
    }
    let wider_any = !that.any_of().is_empty()
        && (this.any_of().is_empty() || this.any_of().iter().any(|role| !that.any_of().contains(role)));
    let fewer_all = that.all_of().iter().any(|role| !this.all_of().contains(role));
    let no_owner = that.owner().is_some() && this.owner() != that.owner();
    wider_any || fewer_all || no_owner
}
