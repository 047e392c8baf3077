//! Path patterns as a tree of segments, with one root for each host.
//!
//! Literal before `{name}` before the end of `/**`, with backtracking: the walk visits every pattern
//! that matches, the most specific first, and its caller says when to stop. So deciding (the first)
//! and explaining (all of them) are one engine. A literal child is found by hash, in one table for
//! the whole tree: ten routes cost what ten thousand do. A walk visits no node twice.

use std::hash::Hasher;
use std::ops::ControlFlow;

use rustc_hash::FxHasher;

use super::params::Values;
use super::pattern::{PathCase, PathPattern, Segment};

/// A place in the tree.
pub(super) type NodeId = usize;
/// A host's pattern: what one or more rules share that differ in methods only.
pub(super) type PatternId = usize;

#[derive(Clone, Debug, Default)]
struct Node {
    /// The literal on the edge that leads here, decoded; empty otherwise.
    label: Box<str>,
    has_literals: bool,
    param: Option<NodeId>,
    exact: Option<PatternId>,
    everything_below: Option<PatternId>,
}

/// An edge under a literal. Open addressing, half empty.
#[derive(Clone, Copy, Debug)]
struct Edge {
    hash: u64,
    parent: NodeId,
    child: NodeId,
}

/// The tree.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    edges: Vec<Option<Edge>>,
    edge_count: usize,
    case: PathCase,
}

impl Trie {
    pub(super) fn new(case: PathCase) -> Self {
        Self { nodes: Vec::new(), edges: vec![None; 16], edge_count: 0, case }
    }

    pub(super) fn add_root(&mut self) -> NodeId {
        self.add_node("")
    }

    /// The place where `pattern` ends, made when it is not there yet.
    pub(super) fn terminal(&mut self, root: NodeId, pattern: &PathPattern) -> &mut Option<PatternId> {
        let mut node = root;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Literal(text) => self.literal_child(node, text),
                Segment::Param(_) => self.param_child(node),
            };
        }
        let node = &mut self.nodes[node];
        if pattern.everything_below() { &mut node.everything_below } else { &mut node.exact }
    }

    /// Visits the patterns below `root` that match `path`, the most specific first. During a visit,
    /// and after one that breaks off, `values` are that pattern's; after a whole walk they are as
    /// before.
    pub(super) fn walk<'p, B>(
        &self,
        root: NodeId,
        path: &'p str,
        values: &mut Values<'p>,
        visit: &mut impl FnMut(PatternId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let rest = path.strip_prefix('/').unwrap_or(path);
        self.walk_from(root, rest.strip_suffix('/').unwrap_or(rest), values, visit)
    }

    fn walk_from<'p, B>(
        &self,
        node: NodeId,
        rest: &'p str,
        values: &mut Values<'p>,
        visit: &mut impl FnMut(PatternId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node_id = node;
        let node = &self.nodes[node_id];
        if rest.is_empty() {
            if let Some(pattern) = node.exact {
                visit(pattern)?;
            }
        } else if node.has_literals || node.param.is_some() {
            let (segment, below) = split_segment(rest);
            if let Some(child) = self.find_literal(node_id, segment) {
                self.walk_from(child, below, values, visit)?;
            }
            if let Some(child) = node.param {
                values.push(segment);
                self.walk_from(child, below, values, visit)?;
                values.pop();
            }
        }
        node.everything_below.map_or(ControlFlow::Continue(()), visit)
    }

    /// Patterns that no path can end at: a `/**` below whose node other patterns take everything.
    pub(super) fn unreachable(&self) -> impl Iterator<Item = PatternId> {
        self.nodes
            .iter()
            .filter(|node| self.takes_everything_but_tail(node))
            .filter_map(|n| n.everything_below)
    }

    fn takes_everything_but_tail(&self, node: &Node) -> bool {
        let takes_all = |child: NodeId| {
            let child = &self.nodes[child];
            child.everything_below.is_some() || self.takes_everything_but_tail(child)
        };
        node.exact.is_some() && node.param.is_some_and(takes_all)
    }

    fn add_node(&mut self, label: &str) -> NodeId {
        self.nodes.push(Node { label: label.into(), ..Node::default() });
        self.nodes.len() - 1
    }

    fn param_child(&mut self, node: NodeId) -> NodeId {
        if let Some(child) = self.nodes[node].param {
            return child;
        }
        let child = self.add_node("");
        self.nodes[node].param = Some(child);
        child
    }

    fn literal_child(&mut self, node: NodeId, literal: &str) -> NodeId {
        let hash = hash_bytes(node, literal.as_bytes());
        if let Some(child) = self.probe(hash, node, |label| self.case.same(label, literal)) {
            return child;
        }
        let child = self.add_node(literal);
        self.nodes[node].has_literals = true;
        self.edge_count += 1;
        if self.edge_count * 2 > self.edges.len() {
            let grown = vec![None; self.edges.len() * 2];
            for edge in std::mem::replace(&mut self.edges, grown).into_iter().flatten() {
                self.place(edge);
            }
        }
        self.place(Edge { hash, parent: node, child });
        child
    }

    fn place(&mut self, edge: Edge) {
        let mut slot = self.slot(edge.hash);
        while self.edges[slot].is_some() {
            slot = (slot + 1) & (self.edges.len() - 1);
        }
        self.edges[slot] = Some(edge);
    }

    /// A request's segment may hold encodings that survive canonicalisation; literals are compared
    /// with what it decodes to, as the app will.
    fn find_literal(&self, node: NodeId, segment: &str) -> Option<NodeId> {
        if !self.nodes[node].has_literals {
            return None;
        }
        if !segment.as_bytes().contains(&b'%') {
            let hash = hash_bytes(node, segment.as_bytes());
            return self.probe(hash, node, |label| self.case.same(label, segment));
        }
        let decoded = || percent_encoding::percent_decode_str(segment);
        self.probe(hash_iter(node, decoded()), node, |label| match self.case {
            PathCase::Sensitive => label.bytes().eq(decoded()),
            PathCase::Insensitive => {
                label.bytes().map(|b| b.to_ascii_lowercase()).eq(decoded().map(|b| b.to_ascii_lowercase()))
            }
        })
    }

    #[inline]
    fn probe(&self, hash: u64, parent: NodeId, same: impl Fn(&str) -> bool) -> Option<NodeId> {
        let mut slot = self.slot(hash);
        while let Some(edge) = &self.edges[slot] {
            if edge.hash == hash && edge.parent == parent && same(&self.nodes[edge.child].label) {
                return Some(edge.child);
            }
            slot = (slot + 1) & (self.edges.len() - 1);
        }
        None
    }

    #[expect(clippy::cast_possible_truncation, reason = "the mask keeps the low bits anyway")]
    const fn slot(&self, hash: u64) -> usize {
        hash as usize & (self.edges.len() - 1)
    }
}

#[inline]
fn split_segment(rest: &str) -> (&str, &str) {
    match rest.as_bytes().iter().position(|&b| b == b'/') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, ""),
    }
}

/// Sets the bit that tells ASCII cases apart, so that equal-but-for-case texts share a hash. Other
/// bytes fall together too; the comparison behind the hash is exact.
const FOLD: u64 = 0x2020_2020_2020_2020;

/// The hash of an edge. Keys come from the configuration alone; clients only look up, so a seedless
/// hash gives them nothing to flood.
#[inline]
fn hash_bytes(node: NodeId, bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_usize(node);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hasher.write_u64(u64::from_le_bytes(*word) | FOLD);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hasher.write_u64(u64::from_le_bytes(word) | FOLD);
    }
    hasher.finish()
}

/// [`hash_bytes`] over bytes that are not in one place.
fn hash_iter(node: NodeId, bytes: impl Iterator<Item = u8>) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_usize(node);
    let mut word = [0; 8];
    let mut filled = 0;
    for byte in bytes {
        word[filled] = byte;
        filled += 1;
        if filled == word.len() {
            hasher.write_u64(u64::from_le_bytes(word) | FOLD);
            word = [0; 8];
            filled = 0;
        }
    }
    if filled > 0 {
        hasher.write_u64(u64::from_le_bytes(word) | FOLD);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hashes_agree_and_ignore_case() {
        for text in ["", "a", "admin", "12345678", "123456789", "a-very-long-segment-indeed", "ÄÖ"] {
            assert_eq!(hash_bytes(7, text.as_bytes()), hash_iter(7, text.bytes()), "{text}");
            let upper = text.to_ascii_uppercase();
            assert_eq!(hash_bytes(7, text.as_bytes()), hash_bytes(7, upper.as_bytes()), "{text}");
        }
        assert_ne!(hash_bytes(1, b"a"), hash_bytes(2, b"a"));
    }
}
