//! The draft: an app's routes as rules that do not contradict each other, written for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Origin;
use super::table::{Dialect, Fit, FoundRoute, FoundTable, Guard};
use crate::cli::output::printable;
use crate::identity::Role;
use crate::route::{HostPattern, MethodSet, PathCase, PathPattern};

/// Where our own endpoints are, unless the app has something there.
const PREFIX: &str = "/auth";
/// Where they are then.
const OTHER_PREFIX: &str = "/gatepost";
/// The role that everybody has.
const USER: &str = "user";
/// What stands for parameters in tests; the first that is no segment of any route.
const SAMPLES: [&str; 5] = ["1", "some", "some-name", "any-name-1", "a1b2c3d4"];

/// A configuration in the making.
pub(super) struct Draft<'a> {
    origin: &'a Origin,
    found: &'a FoundTable,
    rules: Vec<Rule>,
    left_out: Vec<String>,
}

/// A `[[route]]`.
#[derive(Clone, Debug)]
struct Rule {
    host: Option<String>,
    path: PathPattern,
    /// Every one without it.
    methods: Option<Vec<String>>,
    demand: Demand,
    fit: Fit,
    /// What it was made from, a line each.
    notes: Vec<String>,
    /// What only people can decide.
    decide: Vec<String>,
}

/// What is asked of a caller; what is greater is stricter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Demand {
    guard: Guard,
    all_of: Vec<String>,
    any_of: Vec<String>,
}

impl Demand {
    /// What satisfies both.
    fn join(&mut self, other: &Self) {
        self.guard = self.guard.max(other.guard);
        if self.any_of.is_empty() {
            self.any_of.clone_from(&other.any_of);
        }
        // One list of which any will do is all that a rule can have.
        let more = if self.any_of == other.any_of { &[] } else { other.any_of.as_slice() };
        for role in other.all_of.iter().chain(more) {
            if !self.all_of.contains(role) {
                self.all_of.push(role.clone());
            }
        }
        self.all_of.sort();
    }

    fn has_roles(&self) -> bool {
        !self.any_of.is_empty() || !self.all_of.is_empty()
    }

    fn is_stricter_than(&self, other: &Self) -> bool {
        self.guard > other.guard || (self.guard == other.guard && self.has_roles() && self != other)
    }

    /// Roles that pass.
    fn enough(&self) -> Vec<String> {
        let any = self.any_of.first().filter(|first| !self.all_of.contains(first));
        self.all_of.iter().chain(any).cloned().collect()
    }

    fn is_met_by(&self, role: &str) -> bool {
        let all = self.all_of.iter().all(|needed| needed == role);
        all && (self.any_of.is_empty() || self.any_of.iter().any(|one| one == role))
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(origin: &'a Origin, found: &'a FoundTable) -> Self {
        let dialect = match origin {
            Origin::Flask(_) => Dialect::Flask,
            Origin::Express(_) => Dialect::Express,
        };
        let mut draft = Self { origin, found, rules: Vec::new(), left_out: Vec::new() };
        for route in &found.routes {
            match rules_of(route, dialect) {
                Ok(rules) => rules.iter().for_each(|rule| draft.add(rule)),
                Err(why) => draft.left_out.push(format!("{}: {why}", route.path)),
            }
        }
        draft.join_methods();
        draft.close_what_is_too_wide();
        draft
    }

    pub(super) fn routes(&self) -> usize {
        self.rules.len()
    }

    /// How many of them take anybody.
    pub(super) fn open(&self) -> usize {
        self.rules.iter().filter(|rule| rule.demand.guard != Guard::Authenticated).count()
    }

    /// How many of them wait for somebody's decision.
    pub(super) fn undecided(&self) -> usize {
        self.rules.iter().filter(|rule| !rule.decide.is_empty()).count()
    }

    pub(super) fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// Two routes of the app can be one here (`<int:id>` and `<name>`, `/a` and `/A/`): then the one that
    /// asks for more holds.
    fn add(&mut self, rule: &Rule) {
        let same = |other: &&mut Rule| other.is_where(rule);
        let Some(methods) = &rule.methods else {
            // It takes what all others of its path take.
            let mut whole = rule.clone();
            for other in self.rules.iter_mut().filter(same) {
                whole.join(other);
            }
            self.rules.retain(|other| !other.is_where(rule));
            self.rules.push(whole);
            return;
        };
        if let Some(any) = self.rules.iter_mut().filter(same).find(|other| other.methods.is_none()) {
            any.join(rule);
            return;
        }
        for method in methods {
            let alone = Rule { methods: Some(vec![method.clone()]), ..rule.clone() };
            let there = self.rules.iter_mut().filter(same).find(|other| other.methods == alone.methods);
            match there {
                Some(there) => there.join(&alone),
                None => self.rules.push(alone),
            }
        }
    }

    /// Methods of one path that ask for the same become one rule; GET takes HEAD along.
    fn join_methods(&mut self) {
        let mut joined: Vec<Rule> = Vec::new();
        for rule in self.rules.drain(..) {
            let there = joined.iter_mut().find(|other| {
                other.is_where(&rule)
                    && other.demand == rule.demand
                    && other.methods.is_some()
                    && rule.methods.is_some()
            });
            match there {
                Some(there) => {
                    let more = rule.methods.clone().unwrap_or_default();
                    there.methods.get_or_insert_default().extend(more);
                    there.join(&rule);
                }
                None => joined.push(rule),
            }
        }
        let has_get: Vec<Rule> = joined.iter().filter(|rule| rule.takes("GET")).cloned().collect();
        for rule in &mut joined {
            if has_get.iter().any(|get| get.is_where(rule)) {
                rule.methods.iter_mut().for_each(|methods| methods.retain(|method| method != "HEAD"));
            }
        }
        joined.retain(|rule| rule.methods.as_ref().is_none_or(|methods| !methods.is_empty()));
        self.rules = joined;
    }

    /// A pattern that is wider than the app's path could open what another route of the app protects.
    fn close_what_is_too_wide(&mut self) {
        let all = self.rules.clone();
        for rule in &mut self.rules {
            if rule.fit == Fit::Exact {
                continue;
            }
            let stricter = all.iter().filter(|other| {
                other.demand.is_stricter_than(&rule.demand)
                    && other.shares_hosts(rule)
                    && other.path.overlaps(&rule.path, PathCase::Insensitive)
                    // What lies within is more specific, and decides for itself.
                    && !rule.path.covers(&other.path, PathCase::Insensitive)
            });
            for other in stricter.collect::<Vec<_>>() {
                let before = rule.demand.clone();
                rule.demand.join(&other.demand);
                if rule.demand != before {
                    let text =
                        format!("closed: as a pattern it also takes paths of {}, which is", other.path);
                    rule.notes.push(text);
                }
            }
        }
    }

    /// Every role that there has to be, when there is one that there would not be anyhow.
    fn roles(&self) -> BTreeSet<&str> {
        let named = self.rules.iter().flat_map(|rule| rule.demand.all_of.iter().chain(&rule.demand.any_of));
        let mut roles: BTreeSet<&str> = named.map(String::as_str).collect();
        if !roles.is_empty() {
            // New accounts have it.
            roles.insert(USER);
        }
        roles
    }

    fn prefix(&self) -> &'static str {
        let taken = |prefix: &str| {
            let prefix = PathPattern::parse(prefix);
            prefix.is_ok_and(|prefix| {
                self.rules.iter().any(|rule| rule.path.is_at_or_below(&prefix, PathCase::Insensitive))
            })
        };
        if taken(PREFIX) { OTHER_PREFIX } else { PREFIX }
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        let line = |text: &mut String, words: &str| {
            text.push_str(words);
            text.push('\n');
        };
        line(
            text,
            &comment(&format!("A draft, made by `gatepost init --from {}` from the routes of", self.origin)),
        );
        line(
            text,
            &comment(&format!(
                "{}. Read it before you use it: who may pass is guessed from decorators",
                self.found.framework
            )),
        );
        line(
            text,
            "# and middleware, and only you know what each route is for. What no route names is answered with 404",
        );
        line(
            text,
            "# and never reaches the app. `gatepost --config FILE check` tries the tests that follow each route.",
        );
        if self.open() < self.routes() {
            line(text, "#");
            line(
                text,
                "# The app sees who calls in X-Auth-User and other headers, not the token. As long as it checks tokens",
            );
            line(
                text,
                "# itself it needs [identity] forward_authorization = true, and in [tokens] a secret of at least 32",
            );
            line(text, "# bytes that both share.");
        }
        for remark in &self.found.remarks {
            line(text, "#");
            line(text, &comment(remark));
        }
        for left_out in &self.left_out {
            line(text, "#");
            line(text, &comment(&format!("Not drafted, and so not forwarded: {left_out}")));
        }
        line(text, "\n[auth]");
        if self.prefix() != PREFIX {
            line(text, "# The app has an /auth of its own.");
            line(text, &format!("prefix = {}", quoted(self.prefix())));
        }
        line(text, "# \"open\" lets anybody register; closed, accounts are made with `gatepost user add`.");
        line(text, "registration = \"closed\"");
        let paths = self.our_paths();
        if !paths.is_empty() {
            line(
                text,
                "# The app answers these itself. To have Gatepost answer in its place, where clients call already, delete",
            );
            line(text, "# their routes below and take this in:");
            line(text, &format!("# paths = {{ {} }}", paths.join(", ")));
        }
        let roles = self.roles();
        if !roles.is_empty() {
            line(
                text,
                "\n# Those that the app's decorators name, each by itself: admin = [\"user\"] would imply another.",
            );
            line(text, "[roles]");
            for role in roles {
                line(text, &format!("{} = []", quoted(role)));
            }
        }
        line(text, "\n[[upstream]]\nname = \"app\"");
        line(text, "# Where the app listens. Nobody else should be able to reach it there.");
        let port = if matches!(self.origin, Origin::Flask(_)) { 5000 } else { 3000 };
        line(text, &format!("servers = [\"http://127.0.0.1:{port}\"]"));
        let sample = self.sample();
        for rule in &self.rules {
            text.push('\n');
            rule.write(text, self.found.preflights, self.prefix());
            rule.write_tests(text, sample);
        }
    }

    /// For `[auth] paths`: what the app does on fixed paths, and the gateway could do there.
    fn our_paths(&self) -> Vec<String> {
        let fixed =
            self.rules.iter().filter(|rule| rule.host.is_none() && !rule.path.as_str().contains(['{', '*']));
        fixed
            .filter_map(|rule| Some(format!("{} = {}", quoted(rule.path.as_str()), quoted(rule.our_own()?))))
            .collect()
    }

    /// A text that no literal segment of any route is.
    fn sample(&self) -> &'static str {
        let taken = |sample: &str| {
            self.rules
                .iter()
                .any(|rule| rule.path.as_str().split('/').any(|part| part.eq_ignore_ascii_case(sample)))
        };
        SAMPLES.into_iter().find(|sample| !taken(sample)).unwrap_or(SAMPLES[0])
    }
}

fn rules_of(route: &FoundRoute, dialect: Dialect) -> Result<Vec<Rule>, String> {
    let (host, host_note) = host_of(route.host.as_deref());
    // Never served, whatever the app says.
    let served = |method: &&String| *method != "TRACE" && *method != "CONNECT";
    let methods: Option<Vec<String>> =
        route.methods.as_ref().map(|methods| methods.iter().filter(served).cloned().collect());
    if let Some(methods) = &methods
        && MethodSet::parse(methods).is_err()
    {
        return Err(format!("its methods are {}", methods.join(", ")));
    }
    let paths = route.paths(dialect)?;
    let (demand, decide) = demand_of(route);
    let rule = |path: super::table::Path| {
        let mut notes = vec![describe(route)];
        notes.extend(host_note.clone());
        if path.fit == Fit::Shape {
            notes.push(format!("wider than the app's {}: look at what else it takes", route.path));
        }
        Rule {
            host: host.clone(),
            path: path.pattern,
            methods: methods.clone(),
            demand: demand.clone(),
            decide: decide.clone(),
            fit: path.fit,
            notes,
        }
    };
    Ok(paths.into_iter().map(rule).collect())
}

/// What a route asks for, as far as it can be said in a rule, and what has to be decided.
fn demand_of(route: &FoundRoute) -> (Demand, Vec<String>) {
    let (mut any_of, mut all_of) = (route.roles.clone(), route.all_roles.clone());
    let mut decide = route.decide.clone();
    let odd = any_of.iter().chain(&all_of).find(|role| role.parse::<Role>().is_err());
    if let Some(odd) = odd {
        decide.push(format!("{odd:?} is a role that cannot be called so here; then add roles = [...]"));
        (any_of, all_of) = (Vec::new(), Vec::new());
    }
    if let [alone] = any_of.as_slice() {
        all_of.push(alone.clone());
        any_of.clear();
    }
    for roles in [&mut any_of, &mut all_of] {
        roles.sort();
        roles.dedup();
    }
    (Demand { guard: route.guard, all_of, any_of }, decide)
}

fn describe(route: &FoundRoute) -> String {
    let what = match &route.methods {
        Some(methods) => format!("{} {}: {}", methods.join(", "), route.path, route.what),
        None => format!("{}: {}", route.path, route.what),
    };
    match (&route.why, route.guard) {
        (Some(why), _) => format!("{what}, behind {why}"),
        (None, Guard::Public) => match &route.note {
            Some(note) => format!("{what}, open in the app as far as can be seen; {note}"),
            None => format!("{what}, open in the app: nothing asks for a caller"),
        },
        (None, _) => what,
    }
}

/// The host as a rule names it, and what has to be said of it.
fn host_of(host: Option<&str>) -> (Option<String>, Option<String>) {
    let Some(host) = host else { return (None, None) };
    let host_name = host.split(':').next().unwrap_or_default();
    let pattern = match host_name.strip_prefix('<').and_then(|inner| inner.split_once('>')) {
        Some((_, after)) => format!("*{after}"),
        None => host_name.to_owned(),
    };
    if HostPattern::parse(&pattern).is_ok() {
        (Some(pattern), None)
    } else {
        (None, Some(format!("on every host; in the app only on {host}")))
    }
}

impl Rule {
    /// Whether it answers the same paths, so that only methods can tell them apart.
    fn is_where(&self, other: &Self) -> bool {
        let (one, two) = (&self.path, &other.path);
        self.host == other.host
            && one.covers(two, PathCase::Insensitive)
            && two.covers(one, PathCase::Insensitive)
    }

    fn shares_hosts(&self, other: &Self) -> bool {
        self.host.is_none() || other.host.is_none() || self.host == other.host
    }

    fn takes(&self, method: &str) -> bool {
        self.methods.as_ref().is_some_and(|methods| methods.iter().any(|known| known == method))
    }

    fn join(&mut self, other: &Self) {
        self.demand.join(&other.demand);
        self.fit = self.fit.max(other.fit);
        for (mine, theirs) in [(&mut self.notes, &other.notes), (&mut self.decide, &other.decide)] {
            for note in theirs {
                if !mine.contains(note) {
                    mine.push(note.clone());
                }
            }
        }
    }

    fn write(&self, text: &mut String, preflights: bool, prefix: &str) {
        for note in &self.notes {
            let _ = writeln!(text, "{}", comment(note));
        }
        for question in &self.decide {
            let _ = writeln!(text, "{}", comment(&format!("Decide: {question}")));
        }
        if let Some(own) = self.our_own() {
            let _ = writeln!(text, "# Gatepost has its own: POST {prefix}/{own}");
        }
        let _ = writeln!(text, "[[route]]\npath = {}", quoted(self.path.as_str()));
        if let Some(host) = &self.host {
            let _ = writeln!(text, "host = {}", quoted(host));
        }
        if let Some(methods) = &self.methods {
            let _ = writeln!(text, "methods = {}", list(methods));
        }
        let Demand { any_of, all_of, .. } = &self.demand;
        let all_key = if any_of.is_empty() && all_of.len() == 1 { "roles" } else { "all_roles" };
        for (key, roles) in [("roles", any_of), (all_key, all_of)] {
            if !roles.is_empty() {
                let _ = writeln!(text, "{key} = {}", list(roles));
            }
        }
        text.push_str(match self.demand.guard {
            Guard::Public => "access = \"public\"\n",
            Guard::Optional => "access = \"optional\"\n",
            Guard::Authenticated => "access = \"authenticated\"\n",
        });
        if preflights {
            text.push_str("preflight = \"upstream\" # the app answers them itself\n");
        }
    }

    /// What the app does itself and the gateway could do in its place.
    fn our_own(&self) -> Option<&'static str> {
        let last = self.path.as_str().rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        if !self.takes("POST") {
            return None;
        }
        match last.as_str() {
            "login" | "signin" => Some("login"),
            "register" | "signup" => Some("register"),
            "logout" => Some("logout"),
            "refresh" => Some("refresh"),
            _ => None,
        }
    }

    fn write_tests(&self, text: &mut String, sample: &str) {
        let method = self.methods.as_ref().and_then(|methods| methods.first()).map_or("GET", String::as_str);
        let mut url = match &self.host {
            Some(host) => format!("http://{}", host.replacen('*', sample, 1)),
            None => String::new(),
        };
        for part in self.path.as_str().split('/').skip(1) {
            url.push('/');
            url.push_str(if part.starts_with('{') || part == "**" { sample } else { part });
        }
        let request = quoted(&format!("{method} {url}"));
        let demand = &self.demand;
        let is_closed = demand.guard == Guard::Authenticated;
        let mut write = |who: &str, expected: &str| {
            let _ = writeln!(text, "[[test]]\nrequest = {request}\n{who}\nexpect = {expected}");
        };
        write("anonymous = true", if is_closed { "401" } else { "\"pass\"" });
        if is_closed && !demand.is_met_by(USER) {
            write(&format!("roles = {}", list(&[USER.to_owned()])), "403");
        }
        if is_closed {
            let enough = if demand.has_roles() { demand.enough() } else { vec![USER.to_owned()] };
            write(&format!("roles = {}", list(&enough)), "\"pass\"");
        }
    }
}

/// Whatever the app says stays on its line.
fn comment(words: &str) -> String {
    let words = printable(words);
    format!("# {}", words.trim())
}

fn list(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(", "))
}

fn quoted(words: &str) -> String {
    toml::Value::String(words.to_owned()).to_string()
}
