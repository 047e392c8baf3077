//! The paths that a route answers, as a configuration writes them.
//!
//! Literal segments, `{name}` for one segment that is not empty, `/**` at the end for everything
//! below. Spellings of other tools are refused with a suggestion: read as literals they would match
//! nothing, and a rule that matches nothing protects nothing.

use std::fmt;

use super::path::{CanonicalPath, PathAllowances, PathError};

/// Whether ASCII letters of a pattern's literals match in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathCase {
    /// `/Admin` is another path than `/admin`.
    Sensitive,
    /// `/Admin` is `/admin`: the safe one, since many app servers think so.
    #[default]
    Insensitive,
}

impl PathCase {
    pub(super) fn same(self, a: &str, b: &str) -> bool {
        match self {
            Self::Sensitive => a == b,
            Self::Insensitive => a.eq_ignore_ascii_case(b),
        }
    }
}

/// Why a text is no path pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Written the way another tool wants it.
    #[error("{problem}: did you mean \"{suggestion}\"?")]
    Foreign {
        /// What is wrong with it here.
        problem: &'static str,
        /// The same in our spelling.
        suggestion: String,
    },
    /// `{}`, or a name with other characters than letters, digits, `_` and `-`.
    #[error("\"{{{0}}}\" is no parameter: a name is letters, digits, _ and -, and starts with a letter or _")]
    ParamName(String),
    /// One name for two segments.
    #[error("the parameter {{{0}}} is named twice")]
    RepeatedParam(String),
    /// A brace that is not around a whole segment.
    #[error("\"{0}\": a parameter takes a whole segment, as in \"/{{name}}/\"")]
    PartialParam(String),
    /// `.` or `..`: no canonical path holds one.
    #[error("a path has no \".\" and \"..\" segments here: write where it leads to")]
    DotSegment,
    /// A query or fragment: only the path is matched.
    #[error("only the path is matched, not its query: did you mean \"{suggestion}\"?")]
    Query {
        /// What stands before it.
        suggestion: String,
    },
    /// No request can have such a literal.
    #[error("no request path matches \"{segment}\": {cause}")]
    Literal {
        /// As written.
        segment: String,
        /// Why.
        cause: PathError,
    },
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    /// This text, after one percent-decoding.
    Literal(Box<str>),
    /// Any text that is not empty.
    Param(Box<str>),
}

/// The paths that a route answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    text: Box<str>,
    segments: Box<[Segment]>,
    everything_below: bool,
}

impl PathPattern {
    /// Reads `/users/{id}`, `/admin/**` and the like. A final slash means nothing.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        refuse_foreign_forms(text)?;
        let body = text.trim_end_matches('/');
        let (body, everything_below) = body.strip_suffix("/**").map_or((body, false), |body| (body, true));
        let mut segments = Vec::new();
        for segment in body.split('/').skip(1) {
            segments.push(parse_segment(segment, text)?);
        }
        refuse_repeated_names(&segments)?;
        let text = match (body, everything_below) {
            ("", false) => "/".into(),
            (body, false) => body.into(),
            (body, true) => format!("{body}/**").into(),
        };
        Ok(Self { text, segments: segments.into(), everything_below })
    }

    /// The pattern as text, without a final slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// This pattern followed by `suffix`, which starts with `/` or is empty.
    pub fn join(&self, suffix: &str) -> Result<Self, PatternError> {
        let base = if &*self.text == "/" { "" } else { &self.text };
        Self::parse(&format!("{base}{suffix}"))
    }

    /// The names of its parameters, from left to right.
    pub fn param_names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// Whether it ends in `/**`.
    pub const fn everything_below(&self) -> bool {
        self.everything_below
    }

    /// Whether it is literals only: exactly one path, give or take case and a final slash.
    pub fn is_literal(&self) -> bool {
        !self.everything_below && self.param_names().next().is_none()
    }

    /// Whether every path of this pattern is equal to or below `prefix` (its `/**` is implied).
    pub fn is_at_or_below(&self, prefix: &Self, case: PathCase) -> bool {
        self.segments.len() >= prefix.segments.len()
            && prefix.segments.iter().zip(&self.segments).all(|(p, s)| segment_covers(p, s, case))
    }

    /// Whether every path that matches `other` matches this pattern too.
    pub fn covers(&self, other: &Self, case: PathCase) -> bool {
        let same_length = self.segments.len() == other.segments.len() && !other.everything_below;
        (self.everything_below || same_length) && other.is_at_or_below(self, case)
    }

    /// Whether some path matches both.
    pub fn overlaps(&self, other: &Self, case: PathCase) -> bool {
        let shared = self.segments.iter().zip(&other.segments);
        let lengths_meet = match self.segments.len().cmp(&other.segments.len()) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => self.everything_below,
            std::cmp::Ordering::Greater => other.everything_below,
        };
        lengths_meet
            && shared.into_iter().all(|(a, b)| segment_covers(a, b, case) || segment_covers(b, a, case))
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn segment_covers(wide: &Segment, narrow: &Segment, case: PathCase) -> bool {
    match (wide, narrow) {
        (Segment::Param(_), _) => true,
        (Segment::Literal(a), Segment::Literal(b)) => case.same(a, b),
        (Segment::Literal(_), Segment::Param(_)) => false,
    }
}

fn refuse_foreign_forms(text: &str) -> Result<(), PatternError> {
    let foreign = |problem, suggestion: String| Err(PatternError::Foreign { problem, suggestion });
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        return foreign(
            "a route's path has no scheme and host (there is a key for the host)",
            path.to_owned(),
        );
    }
    if text.starts_with('^') || text.ends_with('$') {
        let plain = text.trim_start_matches('^').trim_end_matches('$').trim_start_matches('/');
        return foreign("a path pattern is no regular expression", suggest(&format!("/{plain}")));
    }
    if !text.starts_with('/') {
        return foreign("a path starts with \"/\"", suggest(&format!("/{text}")));
    }
    if let Some(at) = query_start(text) {
        return Err(PatternError::Query { suggestion: suggest(&text[..at]) });
    }
    if text.trim_end_matches('/').contains("//") {
        return foreign("doubled slashes are merged before matching", suggest(text));
    }
    Ok(())
}

fn parse_segment(segment: &str, whole: &str) -> Result<Segment, PatternError> {
    let foreign = |problem| Err(PatternError::Foreign { problem, suggestion: suggest(whole) });
    if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        if name.starts_with('*') || name.ends_with('*') {
            return foreign("everything below is written \"/**\"");
        }
        if name.contains([':', '?', '<']) {
            return foreign("a parameter has a name only");
        }
        return parse_name(name).map(Segment::Param);
    }
    if segment == "**" {
        return foreign("\"/**\" stands at the end only");
    }
    if segment.contains('*') {
        return foreign(
            "\"*\" alone means nothing here (\"{name}\" is one segment, \"/**\" everything below)",
        );
    }
    if segment.starts_with(':') || segment.contains(['<', '>']) {
        return foreign("a parameter is written \"{name}\"");
    }
    if segment.contains(['{', '}']) {
        return Err(PatternError::PartialParam(segment.to_owned()));
    }
    parse_literal(segment).map(Segment::Literal)
}

fn parse_name(name: &str) -> Result<Box<str>, PatternError> {
    let head = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let tail = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if head && tail { Ok(name.into()) } else { Err(PatternError::ParamName(name.to_owned())) }
}

/// A literal is kept decoded: `/@me` has to take a request for `/%40me`, because the app will.
fn parse_literal(segment: &str) -> Result<Box<str>, PatternError> {
    if segment == "." || segment == ".." {
        return Err(PatternError::DotSegment);
    }
    // People write `/my files`; a request can only say `/my%20files`.
    let spelled = segment
        .replace(' ', "%20")
        .replace('"', "%22")
        .replace('^', "%5E")
        .replace('`', "%60")
        .replace('|', "%7C");
    let absolute = format!("/{spelled}");
    let path = CanonicalPath::parse(&absolute, PathAllowances::ALL)
        .map_err(|cause| PatternError::Literal { segment: segment.to_owned(), cause })?;
    Ok(percent_encoding::percent_decode_str(&path.as_str()[1..]).decode_utf8_lossy().into())
}

fn refuse_repeated_names(segments: &[Segment]) -> Result<(), PatternError> {
    let mut seen: Vec<&str> = Vec::new();
    for segment in segments {
        let Segment::Param(name) = segment else { continue };
        if seen.contains(&&**name) {
            return Err(PatternError::RepeatedParam(name.to_string()));
        }
        seen.push(name);
    }
    Ok(())
}

/// Where a query or fragment begins; the `?` of `{id?}` begins none.
fn query_start(text: &str) -> Option<usize> {
    let outside = |at: usize| text[..at].matches('{').count() == text[..at].matches('}').count();
    text.match_indices(['?', '#']).map(|(at, _)| at).find(|&at| outside(at))
}

/// The nearest pattern in our spelling.
fn suggest(text: &str) -> String {
    let text = &text[..query_start(text).unwrap_or(text.len())];
    let segments: Vec<&str> = text.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut out = String::new();
    for (nth, segment) in segments.iter().enumerate() {
        let last = nth + 1 == segments.len();
        if let Some(literal) = glob_stem(segment) {
            if !literal.is_empty() {
                out.push('/');
                out.push_str(literal);
            }
            out.push_str(if last { "/**" } else { "/{name}" });
        } else {
            out.push('/');
            out.push_str(&suggest_segment(segment));
        }
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

/// What stands before the `*` of a glob or a catch-all: `*`, `**`, `admin*`, `(.*)`, `{*rest}`.
fn glob_stem(segment: &str) -> Option<&str> {
    if segment.starts_with("{*") || segment.starts_with(":path*") || segment.ends_with("*}") {
        return Some("");
    }
    let at = segment.find('*')?;
    Some(segment[..at].trim_end_matches(['(', '.', '[', '^', '/', ']', ')']))
}

/// `:id`, `<id>`, `<int:id>`, `{id:int}`, `{id?}`, `{id<int>}` → `{id}`.
fn suggest_segment(segment: &str) -> String {
    let name_of = |text: &str| -> String {
        text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect()
    };
    let inner = if let Some(name) = segment.strip_prefix(':') {
        name
    } else if let Some(inner) = segment.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
        inner.rsplit(':').next().unwrap_or_default()
    } else if let Some(inner) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        inner.split([':', '?', '<']).next().unwrap_or_default()
    } else {
        return segment.to_owned();
    };
    format!("{{{}}}", name_of(inner))
}
