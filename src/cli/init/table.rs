//! An app's route table as its framework tells it, and its paths as patterns of ours.
//!
//! A framework's path can say more than a pattern: a number, a part of a segment, an expression. The pattern
//! is then wider, and says so ([`Fit`]): what is wider and open could open somebody else's path.

use std::fmt::Write as _;

use serde::Deserialize;

use crate::route::PathPattern;

/// More variants than this of one path are nobody's intention.
const MOST_VARIANTS: usize = 16;

/// What the child prints.
#[derive(Deserialize, Debug)]
pub(super) struct FoundTable {
    /// `Flask 3.1.3`
    pub(super) framework: String,
    /// Whether the app answers preflights itself.
    pub(super) preflights: bool,
    pub(super) remarks: Vec<String>,
    pub(super) routes: Vec<FoundRoute>,
}

/// One route of the app.
#[derive(Deserialize, Debug)]
pub(super) struct FoundRoute {
    pub(super) path: String,
    /// No path but an expression.
    #[serde(default)]
    pub(super) regexp: bool,
    /// Everything below, too.
    #[serde(default)]
    pub(super) below: bool,
    /// Every method without it.
    #[serde(default)]
    pub(super) methods: Option<Vec<String>>,
    #[serde(default)]
    pub(super) guard: Guard,
    /// What asks for a caller.
    #[serde(default)]
    pub(super) why: Option<String>,
    /// Roles of which any one is asked for.
    #[serde(default)]
    pub(super) roles: Vec<String>,
    /// Roles that are all asked for.
    #[serde(default)]
    pub(super) all_roles: Vec<String>,
    /// What only people can decide, a sentence each.
    #[serde(default)]
    pub(super) decide: Vec<String>,
    /// What else is known.
    #[serde(default)]
    pub(super) note: Option<String>,
    /// What answers.
    pub(super) what: String,
    #[serde(default)]
    pub(super) host: Option<String>,
    /// Parameters that take more than one segment.
    #[serde(default)]
    pub(super) deep: Vec<String>,
    /// Parameters that take any text.
    #[serde(default)]
    pub(super) plain: Option<Vec<String>>,
}

/// Who may pass, from the one who asks for least.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub(super) enum Guard {
    #[default]
    Public,
    Optional,
    Authenticated,
}

/// How a pattern of ours relates to the app's path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fit {
    /// The same requests.
    Exact,
    /// Parameters take more values here.
    Values,
    /// More paths.
    Shape,
}

/// How a framework writes paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    Flask,
    Express,
}

/// A pattern of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Path {
    pub(super) pattern: PathPattern,
    pub(super) fit: Fit,
}

/// A piece of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Literal(String),
    /// With whether it takes any text.
    Param(String, bool),
    /// Any number of segments.
    Deep,
    /// What no pattern can say.
    Odd,
}

impl FoundRoute {
    /// The route's path in patterns of ours; several, when parts of it may be left out.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn paths(&self, dialect: Dialect) -> Result<Vec<Path>, String> {
        if self.regexp {
            return Err("a regular expression".to_owned());
        }
        let variants = match dialect {
            Dialect::Flask => vec![self.path.clone()],
            Dialect::Express => variants(&self.path)?,
        };
        variants.iter().map(|path| self.path_of(path, dialect)).collect()
    }

    fn path_of(&self, path: &str, dialect: Dialect) -> Result<Path, String> {
        let segments = match dialect {
            Dialect::Flask => self.flask_segments(path),
            Dialect::Express => express_segments(path),
        };
        let (mut text, fit) = assemble(&segments);
        if self.below && !text.ends_with("/**") {
            text.push_str("/**");
        }
        let text = if text.is_empty() { "/" } else { &text };
        let pattern = PathPattern::parse(text).map_err(|error| error.to_string())?;
        Ok(Path { pattern, fit })
    }

    /// `/users/<int:id>`, `/files/<path:name>` (werkzeug's rules).
    fn flask_segments(&self, path: &str) -> Vec<Vec<Piece>> {
        let mut segments = vec![Vec::new()];
        let mut rest = path;
        while let Some(c) = rest.chars().next() {
            let parameter = rest.strip_prefix('<').and_then(|inner| inner.split_once('>'));
            if let Some((inside, after)) = parameter {
                let name = inside.rsplit_once(':').map_or(inside, |(_, name)| name);
                let is_plain =
                    self.plain.as_ref().is_none_or(|plain| plain.iter().any(|known| known == name));
                push(
                    &mut segments,
                    match self.deep.iter().any(|deep| deep == name) {
                        true if is_plain => Piece::Deep,
                        true => Piece::Odd,
                        false => Piece::Param(name.to_owned(), is_plain),
                    },
                );
                rest = after;
            } else {
                push_char(&mut segments, c);
                rest = &rest[c.len_utf8()..];
            }
        }
        segments
    }
}

/// `/users/:id`, `/num/:n(\d+)`, `/files/*rest` (path-to-regexp, of Express 4 and 5).
fn express_segments(path: &str) -> Vec<Vec<Piece>> {
    let mut segments = vec![Vec::new()];
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            ':' => {
                let (name, after) = name_of(rest);
                let (is_plain, after) = match after.strip_prefix('(').and_then(closing) {
                    Some(after) => (false, after),
                    None => (true, after),
                };
                rest = after;
                push(&mut segments, if name.is_empty() { Piece::Odd } else { Piece::Param(name, is_plain) });
            }
            '*' => {
                rest = name_of(rest).1;
                push(&mut segments, Piece::Deep);
            }
            '(' => {
                rest = closing(rest).unwrap_or_default();
                push(&mut segments, Piece::Odd);
            }
            '?' | '+' | '{' | '}' | ')' | '[' | ']' | '!' => push(&mut segments, Piece::Odd),
            '\\' => {
                if let Some(escaped) = rest.chars().next() {
                    rest = &rest[escaped.len_utf8()..];
                    push_char(&mut segments, escaped);
                }
            }
            c => push_char(&mut segments, c),
        }
    }
    segments
}

/// A parameter's name (`"in quotes"` with Express 5), and what stands behind it.
fn name_of(text: &str) -> (String, &str) {
    if let Some((name, after)) = text.strip_prefix('"').and_then(|inner| inner.split_once('"')) {
        return (name.to_owned(), after);
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    (name.to_owned(), after)
}

/// What stands behind the bracket that closes this one.
fn closing(text: &str) -> Option<&str> {
    let mut depth = 1;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                escaped = false;
                continue;
            }
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[at + 1..]);
        }
    }
    None
}

/// A path without and with what may be left out: `/a{/:b}` (Express 5), `/a/:b?` (Express 4).
fn variants(path: &str) -> Result<Vec<String>, String> {
    let mut found = vec![path.to_owned()];
    while let Some(at) = found.iter().position(|path| optional_part(path).is_some()) {
        let path = found.remove(at);
        let Some((start, inside, end)) = optional_part(&path) else { break };
        let without = format!("{}{}", &path[..start], &path[end..]);
        let with = format!("{}{inside}{}", &path[..start], &path[end..]);
        found.extend([without, with]);
        if found.len() > MOST_VARIANTS {
            return Err("too many parts of it may be left out".to_owned());
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Where the first such part starts, what is in it, and where it ends.
fn optional_part(path: &str) -> Option<(usize, &str, usize)> {
    if let Some(open) = path.find('{') {
        // The innermost one first.
        let close = open + path[open..].find('}')?;
        let open = path[..close].rfind('{')?;
        return Some((open, &path[open + 1..close], close + 1));
    }
    let mark = path.match_indices('?').map(|(at, _)| at);
    mark.into_iter().find_map(|mark| {
        let start = path[..mark].rfind('/')?;
        let inside = &path[start..mark];
        let ends = path[mark + 1..].is_empty() || path[mark + 1..].starts_with('/');
        (inside.starts_with("/:") && ends && !inside.contains('(')).then_some((start, inside, mark + 1))
    })
}

fn push(segments: &mut [Vec<Piece>], piece: Piece) {
    if let Some(last) = segments.last_mut() {
        last.push(piece);
    }
}

fn push_char(segments: &mut Vec<Vec<Piece>>, c: char) {
    if c == '/' {
        segments.push(Vec::new());
        return;
    }
    let Some(last) = segments.last_mut() else { return };
    match last.last_mut() {
        Some(Piece::Literal(text)) => text.push(c),
        _ => last.push(Piece::Literal(c.to_string())),
    }
}

/// A pattern's text. What cannot be said ends it with `/**`.
fn assemble(segments: &[Vec<Piece>]) -> (String, Fit) {
    let mut text = String::new();
    let mut fit = Fit::Exact;
    let mut names: Vec<String> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        match segment.as_slice() {
            [] => {}
            [Piece::Literal(literal)] => {
                text.push('/');
                encode(literal, &mut text);
            }
            [Piece::Deep] if index + 1 == segments.len() => return (text + "/**", fit),
            pieces if pieces.iter().any(|piece| matches!(piece, Piece::Deep | Piece::Odd)) => {
                return (text + "/**", Fit::Shape);
            }
            pieces => {
                let param = pieces.iter().find_map(|piece| match piece {
                    Piece::Param(name, is_plain) => Some((name, *is_plain)),
                    _ => None,
                });
                let (name, is_plain) = param.map_or(("part", false), |(name, plain)| (name.as_str(), plain));
                fit = fit.max(match (pieces.len(), is_plain) {
                    (1, true) => Fit::Exact,
                    (1, false) => Fit::Values,
                    _ => Fit::Shape,
                });
                let name = unused(name, &names);
                let _ = write!(text, "/{{{name}}}");
                names.push(name);
            }
        }
    }
    (text, fit)
}

/// A name as patterns want it, that is not taken.
fn unused(name: &str, taken: &[String]) -> String {
    let mut name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        name.insert(0, '_');
    }
    while taken.contains(&name) {
        name.push('_');
    }
    name
}

/// As a canonical path has it; what needs encoding is encoded.
fn encode(literal: &str, text: &mut String) {
    for byte in literal.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@:!$&'()+,=".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}
