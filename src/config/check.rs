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
use crate::settings::{CorsSettings, Ids, PreflightMode, Registration, RouteMode, WELL_KNOWN_JWKS};

/// The own rules before those of `[auth] paths`.
const BEFORE_PATHS: usize = 2;

/// Everything that was read and has to fit together.
pub(super) struct Parts<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) root: &'a Section<'a>,
    pub(super) auth: &'a AuthRead,
    pub(super) roles: &'a Roles,
    pub(super) upstreams: &'a [UpstreamRead],
    pub(super) cors: &'a CorsSettings,
    pub(super) routes: &'a [RouteRead],
    /// How many routes are written, broken ones among them.
    pub(super) routes_written: usize,
    pub(super) case: PathCase,
}

impl Parts<'_> {
    pub(super) fn check(&self) {
        self.check_counts();
        self.check_upstreams_used();
        self.check_own_paths();
        self.check_table();
        self.check_unmoved_names();
        self.check_numbers_of_who_moves();
        self.warn_of_numbers_of_others();
        self.warn_of_shared_paths();
        self.warn_of_open_doors();
        self.warn_of_reporting();
        self.warn_of_closed_windows();
        self.warn_of_preflights_of_others();
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

    /// `[auth] paths` against the prefix, the keys' place and one another.
    fn check_own_paths(&self) {
        let auth = &self.auth.settings;
        let keys = PathPattern::parse(WELL_KNOWN_JWKS);
        for (index, ((path, name), origin)) in auth.paths.iter().zip(&self.auth.paths).enumerate() {
            let text = quote(path.as_str());
            if path.is_at_or_below(&auth.prefix, self.case) {
                let message =
                    format!("auth.paths: {text} is at or below the prefix, {}", quote(auth.prefix.as_str()));
                let endpoint = auth.prefix.as_str().to_owned() + name.path();
                let problem = Problem::error(message, self.reader.place(origin)).help(format!(
                    "the endpoint has the path {} there already; [auth] prefix moves it",
                    quote(&endpoint)
                ));
                self.reader.push(problem);
            } else if keys.as_ref().is_ok_and(|keys| path.is_at_or_below(keys, self.case)) {
                self.reader.error(format!("auth.paths: {text} is where the public keys are"), origin);
            }
            let same = |(earlier, _): &(PathPattern, _)| earlier.covers(path, self.case);
            if let Some(earlier) = auth.paths[..index].iter().position(same) {
                let problem =
                    Problem::error(format!("auth.paths: {text} is there twice"), self.reader.place(origin))
                        .note("the earlier one", self.reader.place(&self.auth.paths[earlier]));
                self.reader.push(problem);
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

    /// The prefix and all below it, the well-known place of the keys, and `[auth] paths`, which are at
    /// their place in the list plus [`BEFORE_PATHS`].
    fn own_rules(&self) -> Vec<(RouteRule, ())> {
        let auth = &self.auth.settings;
        let prefix = auth.prefix.join("/**");
        let keys = PathPattern::parse(WELL_KNOWN_JWKS).and_then(|keys| keys.join("/**"));
        let rule = |path, methods| (RouteRule { host: None, path, methods }, ());
        let reserved = [prefix, keys].into_iter().flatten().map(|path| rule(path, MethodSet::Any));
        let paths = auth.paths.iter().map(|(path, name)| rule(path.clone(), MethodSet::Only(name.methods())));
        reserved.chain(paths).collect()
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
            TableError::OwnPath { route, own } => {
                let at = own.saturating_sub(BEFORE_PATHS);
                let rule = &self.routes[route].settings.rule;
                let why = if rule.host.is_some() { "on every host" } else { "for these methods" };
                let message = format!("the route {} is the gateway's own {why}", path(route));
                let names = self.auth.settings.paths.get(at).map(|(_, name)| name.methods());
                let names: Vec<String> = names.into_iter().flatten().map(|name| name.to_string()).collect();
                let names = names.join(", ");
                let problem = Problem::error(message, place(route))
                    .help(format!("delete it, or give it methods other than {names}, and no host"));
                match self.auth.paths.get(at) {
                    Some(origin) => problem.note("the gateway's path", self.reader.place(origin)),
                    None => problem,
                }
            }
            // Said by `check_own_paths`, with the place of both.
            TableError::Own { b, .. } if b >= BEFORE_PATHS => return,
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

    /// A name that has not moved yet belongs to somebody, and only the app knows.
    fn check_unmoved_names(&self) {
        let auth = &self.auth.settings;
        let Some(migrate) = &self.auth.migrate else { return };
        if auth.registration == Registration::Open && !self.auth.has_admission {
            let message = "auth.migrate beside open registration: anybody could register a name that only \
                           the app knows";
            let problem = Problem::error(message, self.reader.place(migrate))
                .note("registration is open", self.reader.place(&self.auth.registration))
                .help("set [auth] admission_url, so that the app is asked; or close registration");
            self.reader.push(problem);
        }
    }

    /// Numbers that the app has given to others.
    fn check_numbers_of_who_moves(&self) {
        let Some(migrate) = self.auth.migrate.as_ref().filter(|_| self.auth.settings.ids == Ids::Sequence)
        else {
            return;
        };
        let message = "auth.migrate beside ids = \"sequence\": somebody would get a number that the app has \
                       given to somebody else";
        let problem = Problem::error(message, self.reader.place(migrate))
            .help("import the accounts with their ids instead, or leave ids at \"uuid\"");
        self.reader.push(problem);
    }

    /// The next number is known when the app's accounts are here, and not before.
    fn warn_of_numbers_of_others(&self) {
        let auth = &self.auth.settings;
        if auth.ids != Ids::Sequence || auth.registration != Registration::Open || auth.admission.is_some() {
            return;
        }
        let message = "auth.ids: \"sequence\" beside open registration: who registers before the app's accounts \
                       are imported gets a number that the app has given to somebody else";
        let problem = Problem::warning(message, self.reader.place(&self.auth.ids))
            .note("registration is open", self.reader.place(&self.auth.registration))
            .help("import first, with registration closed; if that is done, or the app has no accounts, all is well");
        self.reader.push(problem);
    }

    /// A route beside one of `[auth] paths` decides on every host, before the routes for one host.
    fn warn_of_shared_paths(&self) {
        let is_own = |rule: &RouteRule| {
            let own = |(path, _): &(PathPattern, _)| path.covers(&rule.path, self.case);
            rule.host.is_none() && self.auth.settings.paths.iter().any(own)
        };
        for shared in self.routes.iter().filter(|route| is_own(&route.settings.rule)) {
            let rule = &shared.settings.rule;
            let stricter = |route: &&RouteRead| {
                let other = &route.settings;
                other.rule.host.is_some()
                    && other.rule.path.covers(&rule.path, self.case)
                    && other.rule.methods.overlaps(&rule.methods)
                    && asks_for_less(&shared.settings.policy, &other.policy)
            };
            let Some(hidden) = self.routes.iter().find(stricter) else { continue };
            let path = quote(rule.path.as_str());
            let message = format!(
                "the route {path} is beside a path of the gateway's own, decides on every host, and asks for less than one for one host"
            );
            let problem = Problem::warning(message, self.reader.place(&shared.path))
                .note("the stricter one", self.reader.place(&hidden.path));
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

    /// Pages of other origins may log in here, and then call nothing.
    fn warn_of_closed_windows(&self) {
        let asks_in_vain = |route: &&RouteRead| {
            route.settings.preflight == PreflightMode::Deny
                && route.settings.policy.access() == Access::Authenticated
        };
        // A route of its own for OPTIONS says that somebody has thought of it.
        if !self.cors.is_on() || self.routes.iter().any(names_options) {
            return;
        }
        let mut routes = self.routes.iter().filter(asks_in_vain);
        let Some(first) = routes.next() else { return };
        let more = match routes.count() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let path = quote(first.settings.rule.path.as_str());
        let message =
            format!("pages of the origins in [cors] cannot call the route {path}{more} with a token");
        let problem = Problem::warning(message, self.reader.place(&first.path)).help(
            "browsers ask first, without the token, and are refused; preflight = \"answer\" or \"upstream\"",
        );
        self.reader.push(problem);
    }

    /// A route that names OPTIONS decides on preflights of its path, whatever the path's other routes say.
    fn warn_of_preflights_of_others(&self) {
        for naming in self.routes.iter().filter(|route| names_options(route)) {
            let rule = &naming.settings.rule;
            let says_in_vain = |route: &&RouteRead| {
                let other = &route.settings;
                other.preflight != PreflightMode::Deny
                    && !names_options(route)
                    && other.rule.host == rule.host
                    && other.rule.path.covers(&rule.path, self.case)
                    && rule.path.covers(&other.rule.path, self.case)
            };
            let Some(first) = self.routes.iter().find(says_in_vain) else { continue };
            let path = quote(first.settings.rule.path.as_str());
            let message =
                format!("preflight says nothing on the route {path}: another one names OPTIONS there");
            let problem = Problem::warning(message, self.reader.place(&first.preflight))
                .note("that one decides", self.reader.place(&naming.path));
            self.reader.push(problem);
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

fn names_options(route: &RouteRead) -> bool {
    match &route.settings.rule.methods {
        MethodSet::Any => false,
        MethodSet::Only(methods) => methods.contains(&http::Method::OPTIONS),
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
