//! Where a value came from, and how people are shown that place.
//!
//! Positions are 1-based; columns count characters. An excerpt never shows a secret: the file knows
//! where its secrets stand and blanks them before a line is quoted.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// In the place of a secret.
const MASK: &str = "***";

/// The longest excerpt, in characters.
const WIDEST: usize = 120;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file, at these bytes.
    File(Range<usize>),
    /// An environment variable, by name.
    Env(String),
    /// `--set`, by the key it names.
    Set(String),
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// Whether the value was given in the environment or on the command line.
    pub(super) fn is_overlay(&self) -> bool {
        matches!(self, Self::Env(_) | Self::Set(_))
    }
}

/// An [`Origin`] that stands on its own: what to print without having the file at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// As it was opened.
        file: PathBuf,
        /// 1-based.
        line: usize,
        /// 1-based, in characters.
        column: usize,
        /// The line, without secrets.
        excerpt: String,
        /// Where the caret stands: so many characters of the excerpt come before it.
        caret: usize,
        /// How many characters are meant; at least 1.
        width: usize,
    },
    /// A whole file.
    WholeFile(PathBuf),
    /// An environment variable.
    Env(String),
    /// A `--set` argument, by its key.
    Set(String),
    /// A default, or nowhere in particular.
    Nowhere,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { file, line, column, .. } => write!(f, "{}:{line}:{column}", file.display()),
            Self::WholeFile(file) => write!(f, "{}", file.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Set(key) => write!(f, "--set {key}"),
            Self::Nowhere => f.write_str("default"),
        }
    }
}

/// The configuration file's text, and what is needed to point into it.
#[derive(Debug)]
pub(super) struct SourceFile {
    path: PathBuf,
    text: String,
    /// The byte at which each line starts.
    lines: Vec<usize>,
    /// Byte ranges that hold secrets.
    secrets: Vec<Range<usize>>,
}

impl SourceFile {
    pub(super) fn new(path: PathBuf, text: String) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        let secrets = super::secrets::secret_lines(&text);
        Self { path, text, lines, secrets }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Blanks these bytes too.
    pub(super) fn hide(&mut self, spans: Vec<Range<usize>>) {
        self.secrets.extend(spans);
    }

    /// Blanks these bytes and no other: for a text that is understood.
    pub(super) fn hide_only(&mut self, spans: Vec<Range<usize>>) {
        self.secrets = spans;
    }

    /// What to print for an origin.
    pub(super) fn place(&self, origin: &Origin) -> Place {
        match origin {
            Origin::File(span) => self.place_at(span),
            Origin::Env(name) => Place::Env(name.clone()),
            Origin::Set(key) => Place::Set(key.clone()),
            Origin::Default => Place::Nowhere,
        }
    }

    fn place_at(&self, span: &Range<usize>) -> Place {
        let start = self.boundary(span.start);
        let index = self.lines.partition_point(|line| *line <= start) - 1;
        let from = self.lines[index];
        let until = self.lines.get(index + 1).map_or(self.text.len(), |next| next - 1);
        let line = self.text[from..until].trim_end_matches('\r');
        let end = self.boundary(span.end).max(start);
        let column = self.text[from..start].chars().count() + 1;
        let (excerpt, caret, width) = self.excerpt(from, line, start..end);
        Place::File { file: self.path.clone(), line: index + 1, column, excerpt, caret, width }
    }

    /// The line as it may be shown, and which of its characters `span` means. Tabs become spaces, so
    /// that the caret stands where it should; control characters become dots, so that a file cannot
    /// write to somebody's terminal; a secret becomes three asterisks.
    fn excerpt(&self, from: usize, line: &str, span: Range<usize>) -> (String, usize, usize) {
        let mut shown = String::with_capacity(line.len());
        let mut length = 0;
        let (mut caret, mut end) = (None, None);
        let mut hidden = false;
        for (at, c) in line.char_indices() {
            let at = from + at;
            let secret = self.secrets.iter().any(|secret| secret.contains(&at));
            let mark = if hidden && secret { length - MASK.len() } else { length };
            caret = caret.or((at >= span.start).then_some(mark));
            end = end.or((at >= span.end).then_some(length));
            match (secret, hidden) {
                (true, false) => shown.push_str(MASK),
                (true, true) => {}
                (false, _) => shown.push(if c == '\t' {
                    ' '
                } else if c.is_control() {
                    '.'
                } else {
                    c
                }),
            }
            length += match (secret, hidden) {
                (true, false) => MASK.len(),
                (true, true) => 0,
                (false, _) => 1,
            };
            hidden = secret;
        }
        let caret = caret.unwrap_or(length);
        let width = end.unwrap_or(length).saturating_sub(caret).max(1);
        crop(&shown, caret, width)
    }

    fn boundary(&self, at: usize) -> usize {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// Cuts a long line to the part around the caret.
fn crop(line: &str, caret: usize, width: usize) -> (String, usize, usize) {
    let length = line.chars().count();
    if length <= WIDEST {
        return (line.to_owned(), caret, width);
    }
    let skipped = caret.saturating_sub(WIDEST / 2).min(length - WIDEST);
    let cropped: String = line.chars().skip(skipped).take(WIDEST).collect();
    let before = if skipped > 0 { "…" } else { "" };
    let after = if skipped + WIDEST < length { "…" } else { "" };
    let caret = caret - skipped + before.chars().count();
    (format!("{before}{cropped}{after}"), caret, width.min(WIDEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, span: Range<usize>) -> (String, String) {
        let file = SourceFile::new(PathBuf::from("c"), text.to_owned());
        let place = file.place(&Origin::File(span));
        let Place::File { excerpt, caret, width, .. } = &place else { panic!("{place:?}") };
        let under = format!("{}{}", " ".repeat(*caret), "^".repeat(*width));
        (place.to_string(), format!("{excerpt}\n{under}"))
    }

    #[test]
    fn a_caret_stands_under_what_is_meant() {
        for (text, span, position, picture) in [
            ("a = 1", 4..5, "c:1:5", "a = 1\n    ^"),
            ("x\r\n\tä = 1\r\n", 4..6, "c:2:2", " ä = 1\n ^"),
            ("x\n", 2..2, "c:2:1", "\n^"),
            ("", 0..0, "c:1:1", "\n^"),
            ("ab", 1..99, "c:1:2", "ab\n ^"),
            ("a\x1b[31m", 0..1, "c:1:1", "a.[31m\n^"),
            ("secret = 'abc'", 9..14, "c:1:10", "secret = ***\n         ^^^"),
            ("secret = 'abc'", 12..14, "c:1:13", "secret = ***\n         ^^^"),
        ] {
            assert_eq!(place(text, span), (position.to_owned(), picture.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn long_lines_are_cropped_around_the_caret() {
        let text = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let (_, picture) = place(&text, 500..501);
        let (line, under) = picture.split_once('\n').expect("two lines");
        let caret = under.find('^').expect("a caret");
        assert_eq!(line.chars().nth(caret), Some('X'));
        assert!(line.chars().count() <= WIDEST + 2);
    }
}
