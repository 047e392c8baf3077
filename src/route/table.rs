//! Every route, ready to be asked which one a request takes.
//!
//! The order: the gateway's own endpoints; then the host (exact, the longest wildcard, none) and the
//! path, segment by segment; then, among the rules of that one pattern, the method. The order of the
//! file never decides: rules that would tie are refused when the table is built.

use std::ops::ControlFlow;

use http::Method;
use rustc_hash::FxHashMap;

use super::host::{Host, HostPattern};
use super::method::{MethodSet, allow_text};
use super::params::{Params, Values};
use super::path::CanonicalPath;
use super::pattern::{PathCase, PathPattern};
use super::trie::{NodeId, PatternId, Trie};

/// What a route answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// On which hosts; `None`: on every host.
    pub host: Option<HostPattern>,
    /// Which paths.
    pub path: PathPattern,
    /// Which methods.
    pub methods: MethodSet,
}

/// Which rule: of the gateway's own, or of the routes, by its place in the list given to
/// [`RouteTable::build`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteIndex {
    /// One of the gateway's own endpoints.
    Own(usize),
    /// A route.
    Route(usize),
}

/// Why rules make no table. Indices are places in the list of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Same host, same pattern (names of parameters aside), same methods.
    #[error("routes {a} and {b} answer the same requests")]
    Tie {
        /// The earlier one.
        a: usize,
        /// The later one.
        b: usize,
    },
    /// Same host, same pattern, and some methods in common.
    #[error("routes {a} and {b} have methods in common")]
    MethodsOverlap {
        /// The earlier one.
        a: usize,
        /// The later one.
        b: usize,
    },
    /// Equal to or below one of the gateway's own paths.
    #[error("route {route} is at or below one of the gateway's own paths")]
    UnderPrefix {
        /// The route.
        route: usize,
        /// The own rule.
        own: usize,
    },
    /// Takes methods, or one host's requests, of a path that is the gateway's own.
    #[error("route {route} takes requests of one of the gateway's own paths")]
    OwnPath {
        /// The route.
        route: usize,
        /// The own rule.
        own: usize,
    },
    /// Two of the gateway's own rules answer the same requests: a fault of the program.
    #[error("own rules {a} and {b} answer the same requests")]
    Own {
        /// The earlier one.
        a: usize,
        /// The later one.
        b: usize,
    },
}

/// Why a rule was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// Another host.
    Host,
    /// Another path.
    Path,
    /// It matches host and path, but the rule with this index is more specific.
    LessSpecific(RouteIndex),
    /// It has the pattern that decides, but not the method.
    Method,
}

/// Which route takes a request.
#[derive(Debug)]
pub enum Found<'t, 'p, T> {
    /// This one.
    Route {
        /// Its place.
        index: RouteIndex,
        /// What it carries.
        target: &'t T,
        /// What stood in the places of its parameters.
        params: Params<'t, 'p>,
    },
    /// A pattern matches, but none of its rules names the method: 405.
    MethodNotAllowed {
        /// The `Allow` header's text.
        allow: &'t str,
        /// The pattern's first rule.
        index: RouteIndex,
    },
    /// Nothing matches: 404.
    NoRoute,
}

/// Every route, and the gateway's own endpoints before them.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    entries: Vec<Entry<T>>,
    patterns: Vec<Pattern>,
    trie: Trie,
    own_root: NodeId,
    hosts: Hosts,
    case: PathCase,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    index: RouteIndex,
    rule: RouteRule,
    names: Box<[Box<str>]>,
    target: T,
}

/// The rules that share host and path: the method tells them apart.
#[derive(Clone, Debug, Default)]
struct Pattern {
    /// Places in [`RouteTable::entries`]; never empty.
    entries: Vec<usize>,
    /// The `Allow` header.
    allow: String,
}

/// The root of each host's tree.
#[derive(Clone, Debug, Default)]
struct Hosts {
    exact: FxHashMap<Box<str>, NodeId>,
    below: FxHashMap<Box<str>, NodeId>,
    every: Option<NodeId>,
}

impl Hosts {
    fn root(&mut self, host: Option<&HostPattern>, trie: &mut Trie) -> NodeId {
        match host {
            Some(HostPattern::Exact(name)) => {
                *self.exact.entry(name.clone()).or_insert_with(|| trie.add_root())
            }
            Some(HostPattern::Below(name)) => {
                *self.below.entry(name.clone()).or_insert_with(|| trie.add_root())
            }
            None => *self.every.get_or_insert_with(|| trie.add_root()),
        }
    }

    /// The trees that answer `host`: its own, the wildcards from the longest, the one for all.
    fn roots(&self, host: &str) -> impl Iterator<Item = NodeId> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        let wild = if self.below.is_empty() { "" } else { host };
        let below = wild.match_indices('.').filter_map(|(dot, _)| self.below.get(&host[dot + 1..]));
        exact.into_iter().chain(below).chain(&self.every).copied()
    }
}

impl<T> RouteTable<T> {
    /// Builds the table, or says everything that is wrong.
    ///
    /// `own` are the gateway's endpoints: they are tried first, on every host. Those that end in `/**`
    /// reserve what they cover, and a route there is refused: give the prefix's `/**` too, as the place
    /// for requests to nothing. A route of exactly the path of another own rule has to be for every
    /// host and for other methods; then it stands beside that rule, and decides for these methods.
    pub fn build(
        own: Vec<(RouteRule, T)>,
        routes: Vec<(RouteRule, T)>,
        case: PathCase,
    ) -> Result<Self, Vec<TableError>> {
        let mut errors = under_own_paths(&own, &routes, case);
        let mut trie = Trie::new(case);
        let own_root = trie.add_root();
        let mut table =
            Self { entries: Vec::new(), patterns: Vec::new(), trie, own_root, hosts: Hosts::default(), case };
        let shared: Vec<Option<usize>> =
            routes.iter().map(|(rule, _)| shared_own_path(&own, rule, case)).collect();
        for (nth, (rule, target)) in own.into_iter().enumerate() {
            table.insert(own_root, RouteIndex::Own(nth), rule, target, &mut errors);
        }
        for (nth, ((rule, target), shared)) in routes.into_iter().zip(shared).enumerate() {
            let root = match shared {
                Some(own) if rule.host.is_some() => {
                    errors.push(TableError::OwnPath { route: nth, own });
                    continue;
                }
                Some(_) => own_root,
                None => table.hosts.root(rule.host.as_ref(), &mut table.trie),
            };
            table.insert(root, RouteIndex::Route(nth), rule, target, &mut errors);
        }
        for pattern in &mut table.patterns {
            let methods: Vec<_> = pattern.entries.iter().map(|&at| &table.entries[at].rule.methods).collect();
            pattern.allow = allow_text(&methods);
        }
        if errors.is_empty() { Ok(table) } else { Err(errors) }
    }

    fn insert(
        &mut self,
        root: NodeId,
        index: RouteIndex,
        rule: RouteRule,
        target: T,
        errors: &mut Vec<TableError>,
    ) {
        let terminal = self.trie.terminal(root, &rule.path);
        let pattern = *terminal.get_or_insert_with(|| {
            self.patterns.push(Pattern::default());
            self.patterns.len() - 1
        });
        for &at in &self.patterns[pattern].entries {
            errors.extend(conflict(&self.entries[at], index, &rule));
        }
        self.patterns[pattern].entries.push(self.entries.len());
        let names = rule.path.param_names().map(Into::into).collect();
        self.entries.push(Entry { index, rule, names, target });
    }

    /// The route that takes the request: the most specific pattern of the most specific host, and
    /// of its rules the one that names the method.
    pub fn find<'t, 'p>(
        &'t self,
        host: &Host<'_>,
        path: &'p CanonicalPath<'_>,
        method: &Method,
    ) -> Found<'t, 'p, T> {
        let mut values = Values::default();
        let Some(pattern) = self.deciding(host, path, &mut values) else { return Found::NoRoute };
        match self.by_method(pattern, method) {
            Some(Entry { index, names, target, .. }) => {
                Found::Route { index: *index, target, params: Params::new(names, values) }
            }
            None => Found::MethodNotAllowed { allow: &pattern.allow, index: self.first(pattern) },
        }
    }

    /// The rule that takes the request and says so of this very method, not of every one.
    pub fn naming(&self, host: &Host<'_>, path: &CanonicalPath<'_>, method: &Method) -> Option<RouteIndex> {
        let pattern = self.deciding(host, path, &mut Values::default())?;
        let entry = self.by_method(pattern, method)?;
        (entry.rule.methods != MethodSet::Any).then_some(entry.index)
    }

    /// For every rule that does not take the request: why. From the same walk as
    /// [`RouteTable::find`], which only stops earlier.
    pub fn explain(
        &self,
        host: &Host<'_>,
        path: &CanonicalPath<'_>,
        method: &Method,
    ) -> Vec<(RouteIndex, WhyNot)> {
        let mut matching = Vec::new();
        let _: ControlFlow<()> = self.walk(host, path, &mut Values::default(), |pattern| {
            matching.push(pattern);
            ControlFlow::Continue(())
        });
        let decides = matching.first().map(|&pattern| &self.patterns[pattern]);
        let taken = decides.and_then(|pattern| self.by_method(pattern, method)).map(|entry| entry.index);
        let winner = taken.or_else(|| decides.map(|pattern| self.first(pattern)));
        let mut reasons: Vec<Option<WhyNot>> = vec![None; self.entries.len()];
        for &pattern in &matching {
            for &at in &self.patterns[pattern].entries {
                let same_pattern = decides.is_some_and(|decides| decides.entries.contains(&at));
                reasons[at] =
                    if same_pattern { Some(WhyNot::Method) } else { winner.map(WhyNot::LessSpecific) };
            }
        }
        let reason = |(entry, reason): (&Entry<T>, Option<WhyNot>)| {
            let elsewhere = || {
                let host_matches = entry.rule.host.as_ref().is_none_or(|pattern| pattern.matches(host));
                if host_matches { WhyNot::Path } else { WhyNot::Host }
            };
            (Some(entry.index) != taken).then(|| (entry.index, reason.unwrap_or_else(elsewhere)))
        };
        self.entries.iter().zip(reasons).filter_map(reason).collect()
    }

    /// Pairs `(a, b)` of routes where `a`, on its hosts, takes requests away from `b`, which answers
    /// more hosts. Whether `b` is the stricter one is for the caller to say. Not for the request
    /// path: it compares each with each.
    pub fn hidden_by_host(&self) -> Vec<(usize, usize)> {
        let routes: Vec<(usize, &RouteRule)> = self.entries.iter().filter_map(Entry::route).collect();
        let mut by_host: FxHashMap<&HostPattern, Vec<&RouteRule>> = FxHashMap::default();
        for &(_, rule) in &routes {
            if let Some(host) = &rule.host {
                by_host.entry(host).or_default().push(rule);
            }
        }
        let mut pairs = Vec::new();
        for &(a, bound) in &routes {
            let Some(host) = &bound.host else { continue };
            // Not each with each and each: a host has few routes, a file may have ten thousand.
            let narrower: Vec<_> = by_host[host]
                .iter()
                .filter(|other| {
                    bound.path.covers(&other.path, self.case) && !other.path.covers(&bound.path, self.case)
                })
                .collect();
            for &(b, hidden) in &routes {
                let takes_away = is_wider(hidden.host.as_ref(), bound.host.as_ref())
                    && bound.path.overlaps(&hidden.path, self.case)
                    && bound.methods.overlaps(&hidden.methods);
                if takes_away && !narrower.iter().any(|other| other.path.covers(&hidden.path, self.case)) {
                    pairs.push((a, b));
                }
            }
        }
        pairs
    }

    /// Routes that no request can reach: a `/**` of which others take every path.
    pub fn unreachable(&self) -> Vec<usize> {
        let patterns = self.trie.unreachable().map(|pattern| &self.patterns[pattern]);
        let entries = patterns.flat_map(|pattern| &pattern.entries).map(|&at| &self.entries[at]);
        let mut routes: Vec<usize> = entries.filter_map(Entry::route).map(|(index, _)| index).collect();
        routes.sort_unstable();
        routes
    }

    /// The most specific pattern, of which one rule takes the request or none does.
    fn deciding<'p>(
        &self,
        host: &Host<'_>,
        path: &'p CanonicalPath<'_>,
        values: &mut Values<'p>,
    ) -> Option<&Pattern> {
        match self.walk(host, path, values, ControlFlow::Break) {
            ControlFlow::Break(pattern) => Some(&self.patterns[pattern]),
            ControlFlow::Continue(()) => None,
        }
    }

    /// Visits the patterns that match, in the order in which they decide; see [`Trie::walk`].
    fn walk<'p, B>(
        &self,
        host: &Host<'_>,
        path: &'p CanonicalPath<'_>,
        values: &mut Values<'p>,
        mut visit: impl FnMut(PatternId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        for root in std::iter::once(self.own_root).chain(self.hosts.roots(host.as_str())) {
            self.trie.walk(root, path.as_str(), values, &mut visit)?;
        }
        ControlFlow::Continue(())
    }

    fn by_method(&self, pattern: &Pattern, method: &Method) -> Option<&Entry<T>> {
        pattern.entries.iter().map(|&at| &self.entries[at]).find(|entry| entry.rule.methods.contains(method))
    }

    fn first(&self, pattern: &Pattern) -> RouteIndex {
        self.entries[pattern.entries[0]].index
    }
}

impl<T> Entry<T> {
    fn route(&self) -> Option<(usize, &RouteRule)> {
        match self.index {
            RouteIndex::Route(index) => Some((index, &self.rule)),
            RouteIndex::Own(_) => None,
        }
    }
}

fn is_wider(wide: Option<&HostPattern>, narrow: Option<&HostPattern>) -> bool {
    match (wide, narrow) {
        (None, Some(_)) => true,
        (Some(wide), Some(narrow)) => wide.is_wider_than(narrow),
        (_, None) => false,
    }
}

fn under_own_paths<T>(own: &[(RouteRule, T)], routes: &[(RouteRule, T)], case: PathCase) -> Vec<TableError> {
    let below = |(route, (rule, _)): (usize, &(RouteRule, T))| {
        let reserves = |own: &PathPattern| own.everything_below() && own.covers(&rule.path, case);
        let own = own.iter().position(|(own, _)| reserves(&own.path))?;
        Some(TableError::UnderPrefix { route, own })
    };
    routes.iter().enumerate().filter_map(below).collect()
}

/// The own rule of exactly this path, outside what others reserve.
fn shared_own_path<T>(own: &[(RouteRule, T)], rule: &RouteRule, case: PathCase) -> Option<usize> {
    let covers = |own: &PathPattern| own.covers(&rule.path, case);
    let reserved = own.iter().any(|(own, _)| own.path.everything_below() && covers(&own.path));
    let same = |own: &PathPattern| own.is_literal() && covers(own);
    if reserved { None } else { own.iter().position(|(own, _)| same(&own.path)) }
}

/// Of two rules with one host and one pattern: whether a method would have to choose.
fn conflict<T>(earlier: &Entry<T>, index: RouteIndex, rule: &RouteRule) -> Option<TableError> {
    if !earlier.rule.methods.overlaps(&rule.methods) {
        return None;
    }
    Some(match (earlier.index, index) {
        (RouteIndex::Route(a), RouteIndex::Route(b)) if earlier.rule.methods.is_same(&rule.methods) => {
            TableError::Tie { a, b }
        }
        (RouteIndex::Route(a), RouteIndex::Route(b)) => TableError::MethodsOverlap { a, b },
        (RouteIndex::Own(own), RouteIndex::Route(route))
        | (RouteIndex::Route(route), RouteIndex::Own(own)) => TableError::OwnPath { route, own },
        (RouteIndex::Own(a), RouteIndex::Own(b)) => TableError::Own { a, b },
    })
}
