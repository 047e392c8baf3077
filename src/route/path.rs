//! A request's path in its one canonical spelling: the same bytes are matched and forwarded.
//!
//! RFC 3986 section 6.2.2 (case, unreserved characters, dot segments), plus merged slashes. Whatever
//! two servers are known to read differently is refused instead of guessed at.

use std::borrow::Cow;

/// Ambiguities that an operator opened by name (`[server] allow`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathAllowances {
    /// `;` parameters, raw or as `%3B`. Never beside a dot segment.
    pub semicolon: bool,
    /// `%2F` inside a segment. Never beside a dot segment.
    pub encoded_slash: bool,
    /// Raw UTF-8; it is matched and forwarded percent-encoded.
    pub non_ascii: bool,
}

impl PathAllowances {
    pub(super) const ALL: Self = Self { semicolon: true, encoded_slash: true, non_ascii: true };
}

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("the path does not start with \"/\"")]
    NotAbsolute,
    /// More `..` than segments.
    #[error("the path leaves the root")]
    AboveRoot,
    /// `%` without two hexadecimal digits.
    #[error("a percent sign without two hexadecimal digits")]
    BadPercent,
    /// `%2F`
    #[error("an encoded slash")]
    EncodedSlash,
    /// `\` or `%5C`
    #[error("a backslash")]
    Backslash,
    /// A segment that is `.` or `..` only after decoding (or cutting parameters).
    #[error("an encoded dot segment")]
    EncodedDotSegment,
    /// An encoding of an encoding: `%252e`.
    #[error("a doubly encoded character")]
    DoublyEncoded,
    /// A control character, raw or encoded.
    #[error("a control character")]
    Control,
    /// A raw byte above 0x7f.
    #[error("a raw byte above 0x7f")]
    NonAscii,
    /// One of `"<>^{|}#?`, a back quote or a space, raw.
    #[error("a character that has to be encoded")]
    Forbidden,
    /// `;` or `%3B`
    #[error("a path parameter (\";\")")]
    Semicolon,
    /// Encoded bytes that are not UTF-8.
    #[error("invalid UTF-8 after decoding")]
    Utf8,
}

/// A path that cannot be misread: absolute, without dot segments, empty segments or needless
/// encodings. It is borrowed when the raw path was canonical already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

impl<'a> CanonicalPath<'a> {
    /// Canonicalises a raw path (without its query), or refuses it. Idempotent: what comes out goes
    /// in again unchanged, and is then borrowed.
    pub fn parse(raw: &'a str, allow: PathAllowances) -> Result<Self, PathError> {
        let mut out = Output { raw, written: None };
        if raw.as_bytes().first() != Some(&b'/') {
            return Err(PathError::NotAbsolute);
        }
        let mut start = 1;
        while start < raw.len() {
            let (end, kind) = scan_segment(raw.as_bytes(), start, allow)?;
            let segment = &raw[start..end];
            let next = (end + 1).min(raw.len());
            match (segment, kind) {
                ("", _) | (".", Kind::Plain) => out.skip(start),
                ("..", Kind::Plain) => out.pop(start)?,
                (_, Kind::Plain) => out.keep(start, next),
                (_, Kind::Special) => {
                    let canonical = canonical_segment(segment, allow)?;
                    out.push(start, next, &canonical, segment);
                }
            }
            start = next;
        }
        Ok(Self(out.written.map_or(Cow::Borrowed(raw), Cow::Owned)))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the raw path was canonical already.
    pub const fn is_borrowed(&self) -> bool {
        matches!(self.0, Cow::Borrowed(_))
    }

    /// The same path, owning its text.
    pub fn into_owned(self) -> CanonicalPath<'static> {
        CanonicalPath(Cow::Owned(self.0.into_owned()))
    }

    /// The path without its first `count` segments; `/` when nothing is left. This is how a prefix
    /// is stripped: by segments, since the prefix matched by segments and not by bytes.
    pub fn without_segments(&self, count: usize) -> &str {
        let mut rest = self.as_str();
        for _ in 0..count {
            rest = rest[1..].find('/').map_or("/", |at| &rest[1 + at..]);
        }
        rest
    }
}

/// What is written so far: nothing, as long as the raw path is canonical. Otherwise text that ends
/// where the next segment begins (behind a slash) or with the path's last segment.
struct Output<'a> {
    raw: &'a str,
    written: Option<String>,
}

impl Output<'_> {
    /// The canonical text before the segment that starts at `start` of the raw path.
    fn before(&mut self, start: usize) -> &mut String {
        let raw = self.raw;
        self.written.get_or_insert_with(|| {
            let mut text = String::with_capacity(raw.len());
            text.push_str(&raw[..start]);
            text
        })
    }

    fn skip(&mut self, start: usize) {
        self.before(start);
    }

    fn pop(&mut self, start: usize) -> Result<(), PathError> {
        let text = self.before(start);
        let parent = text.strip_suffix('/').and_then(|text| text.rfind('/')).ok_or(PathError::AboveRoot)?;
        text.truncate(parent + 1);
        Ok(())
    }

    fn keep(&mut self, start: usize, next: usize) {
        if let Some(text) = &mut self.written {
            text.push_str(&self.raw[start..next]);
        }
    }

    fn push(&mut self, start: usize, next: usize, canonical: &str, segment: &str) {
        if canonical == segment {
            return self.keep(start, next);
        }
        let slash = &self.raw[start + segment.len()..next];
        let text = self.before(start);
        text.push_str(canonical);
        text.push_str(slash);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    /// Nothing in it needs a second look.
    Plain,
    /// It holds `%`, `;` or non-ASCII bytes.
    Special,
}

const PLAIN: u8 = 0;
const SLASH: u8 = 1;
const SPECIAL: u8 = 2;
const REFUSED: u8 = 3;

/// What each byte means to [`scan_segment`].
const CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "byte is below 256; try_from is not const")]
        let b = byte as u8;
        class[byte] = match b {
            b'/' => SLASH,
            b'%' | b';' | 0x80.. => SPECIAL,
            // Written out: RFC 3986 has them encoded, and `#` and `?` end a path.
            0..=b' ' | b'"' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f => {
                REFUSED
            }
            _ => PLAIN,
        };
        byte += 1;
    }
    class
};

/// The end of the segment that starts at `start`, and whether it needs a second look.
#[inline]
fn scan_segment(raw: &[u8], start: usize, allow: PathAllowances) -> Result<(usize, Kind), PathError> {
    let mut kind = Kind::Plain;
    for (offset, &byte) in raw[start..].iter().enumerate() {
        match CLASS[usize::from(byte)] {
            PLAIN => {}
            SLASH => return Ok((start + offset, kind)),
            SPECIAL if byte == b';' && !allow.semicolon => return Err(PathError::Semicolon),
            SPECIAL if byte >= 0x80 && !allow.non_ascii => return Err(PathError::NonAscii),
            SPECIAL => kind = Kind::Special,
            _ => return Err(refusal(byte)),
        }
    }
    Ok((raw.len(), kind))
}

#[cold]
fn refusal(byte: u8) -> PathError {
    match byte {
        b'\\' => PathError::Backslash,
        0..0x20 | 0x7f => PathError::Control,
        _ => PathError::Forbidden,
    }
}

/// A segment with encodings, in canonical spelling; borrowed when it was canonical.
fn canonical_segment(segment: &str, allow: PathAllowances) -> Result<Cow<'_, str>, PathError> {
    let bytes = segment.as_bytes();
    let mut changed: Option<String> = None;
    let mut at = 0;
    while at < bytes.len() {
        let unit = Unit::read(bytes, at)?;
        let width = unit.check(allow)?;
        if changed.is_none() && !unit.is_canonical(&segment[at..at + width]) {
            changed = Some(segment[..at].to_owned());
        }
        if let Some(text) = &mut changed {
            unit.write(text);
        }
        at += width;
    }
    let canonical = changed.map_or(Cow::Borrowed(segment), Cow::Owned);
    refuse_double_encoding(canonical.as_bytes())?;
    refuse_dot_segments(&canonical)?;
    Ok(canonical)
}

/// One character of a segment, as it is spelled.
enum Unit {
    /// A raw character.
    Raw(char),
    /// An encoded character, in this many bytes of UTF-8 (three of the spelling for each).
    Encoded(char),
}

impl Unit {
    fn read(bytes: &[u8], at: usize) -> Result<Self, PathError> {
        if bytes[at] != b'%' {
            let width = utf8_width(bytes[at]);
            return decode_char(&bytes[at..at + width]).map(Self::Raw);
        }
        let first = encoded_byte(bytes, at)?;
        let mut utf8 = [first, 0, 0, 0];
        let width = utf8_width(first);
        for (nth, byte) in utf8.iter_mut().enumerate().take(width).skip(1) {
            *byte = match encoded_byte(bytes, at + 3 * nth) {
                Ok(byte) => byte,
                // A bad `%xx` is named as such; the end of the segment, or a raw character, is a
                // UTF-8 sequence that breaks off.
                Err(error) if bytes.get(at + 3 * nth) == Some(&b'%') => return Err(error),
                Err(_) => return Err(PathError::Utf8),
            };
        }
        decode_char(&utf8[..width]).map(Self::Encoded)
    }

    /// Refuses what is ambiguous; otherwise, how many bytes the spelling has.
    fn check(&self, allow: PathAllowances) -> Result<usize, PathError> {
        match *self {
            Self::Encoded('/') if !allow.encoded_slash => Err(PathError::EncodedSlash),
            Self::Encoded(';') if !allow.semicolon => Err(PathError::Semicolon),
            Self::Encoded('\\') => Err(PathError::Backslash),
            Self::Raw(c) | Self::Encoded(c) if c.is_control() => Err(PathError::Control),
            Self::Raw(c) => Ok(c.len_utf8()),
            Self::Encoded(c) => Ok(3 * c.len_utf8()),
        }
    }

    /// Whether `source`, its spelling, is the canonical one.
    fn is_canonical(&self, source: &str) -> bool {
        match *self {
            Self::Raw(c) => c.is_ascii(),
            Self::Encoded(c) => !is_unreserved(c) && !source.bytes().any(|b| b.is_ascii_lowercase()),
        }
    }

    fn write(&self, out: &mut String) {
        match *self {
            Self::Raw(c) if c.is_ascii() => out.push(c),
            Self::Encoded(c) if is_unreserved(c) => out.push(c),
            Self::Raw(c) | Self::Encoded(c) => {
                let mut utf8 = [0; 4];
                for byte in c.encode_utf8(&mut utf8).bytes() {
                    out.push_str(percent_encoding::percent_encode_byte(byte));
                }
            }
        }
    }
}

fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
}

/// How many bytes the character has that starts with `first`; 1 for a byte that starts none, which
/// [`decode_char`] then refuses.
const fn utf8_width(first: u8) -> usize {
    match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    }
}

/// Strict: overlong forms and surrogates are no UTF-8.
fn decode_char(utf8: &[u8]) -> Result<char, PathError> {
    let text = std::str::from_utf8(utf8).map_err(|_| PathError::Utf8)?;
    text.chars().next().ok_or(PathError::Utf8)
}

fn encoded_byte(bytes: &[u8], at: usize) -> Result<u8, PathError> {
    match bytes.get(at..at + 3) {
        Some(&[b'%', high, low]) => hex_pair(high, low).ok_or(PathError::BadPercent),
        _ => Err(PathError::BadPercent),
    }
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// `%25` before two hexadecimal digits is the encoding of an encoding. A server that decodes twice
/// would read `%252e%252e` as `..` and `%2561dmin` as `admin`. Only what no rewriting gives another
/// meaning stays: an encoded space, a sub-delimiter, a byte of UTF-8. Looked for in the *canonical*
/// spelling, since the digits may have been encoded themselves (`%25%32e`).
fn refuse_double_encoding(canonical: &[u8]) -> Result<(), PathError> {
    for window in canonical.windows(5) {
        let &[b'%', b'2', b'5', high, low] = window else { continue };
        let Some(inner) = hex_pair(high, low) else { continue };
        let inert = !matches!(inner, b'/' | b'\\' | b'%' | b';' | b'?' | b'#' | 0..0x20 | 0x7f);
        if !inert || is_unreserved(char::from(inner)) {
            return Err(PathError::DoublyEncoded);
        }
    }
    Ok(())
}

/// A segment with encodings (or parameters, or encoded slashes, where those were opened) must not
/// turn out as a dot segment for a server that decodes, cuts or splits it. In the canonical spelling
/// dots are never encoded, so looking for the two separators is enough.
fn refuse_dot_segments(canonical: &str) -> Result<(), PathError> {
    let dots = |part: &str| {
        let parameters = part.find(';').into_iter().chain(part.find("%3B")).min();
        matches!(&part[..parameters.unwrap_or(part.len())], "." | "..")
    };
    if canonical.split("%2F").any(dots) { Err(PathError::EncodedDotSegment) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<String, PathError> {
        CanonicalPath::parse(raw, PathAllowances::default()).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn canonical_paths_are_borrowed() {
        for raw in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/~d-_e",
            "/a%20b",
            "/%C3%A4/",
            "/a:b@c!$&'()*+,=",
            "/...",
            "/.a/a..",
            "/100%25",
            "/[x]",
        ] {
            let path = CanonicalPath::parse(raw, PathAllowances::default()).unwrap();
            assert_eq!(path.as_str(), raw);
            assert!(path.is_borrowed(), "{raw}");
        }
    }

    #[test]
    fn other_spellings_become_canonical() {
        for (raw, canonical) in [
            ("//", "/"),
            ("///a//b///", "/a/b/"),
            ("/.", "/"),
            ("/./a", "/a"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/b/../../c", "/c"),
            ("/a//../b", "/b"),
            ("/%61dmin", "/admin"),
            ("/%41%2D%2e%5f%7E", "/A-._~"),
            ("/a%2eb", "/a.b"),
            ("/%2e%2e%2e", "/..."),
            ("/a%c3%a4%3a", "/a%C3%A4%3A"),
            ("/x/%c3%a4/../%20", "/x/%20"),
            ("/%25", "/%25"),
            ("/100%25%20", "/100%25%20"),
            ("/a%2520b", "/a%2520b"),
        ] {
            assert_eq!(parse(raw).as_deref(), Ok(canonical), "{raw}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for (raw, error) in [
            ("", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("http://a/", PathError::NotAbsolute),
            ("/..", PathError::AboveRoot),
            ("//..", PathError::AboveRoot),
            ("/a/../..", PathError::AboveRoot),
            ("/./..", PathError::AboveRoot),
            ("/%", PathError::BadPercent),
            ("/%a", PathError::BadPercent),
            ("/%zz", PathError::BadPercent),
            ("/%2/f", PathError::BadPercent),
            ("/%u002e", PathError::BadPercent),
            ("/%%34%31", PathError::BadPercent),
            ("/%+1", PathError::BadPercent),
            ("/a%2fb", PathError::EncodedSlash),
            ("/public/..%2Fadmin", PathError::EncodedSlash),
            ("/a\\b", PathError::Backslash),
            ("/a%5cb", PathError::Backslash),
            ("/%2e", PathError::EncodedDotSegment),
            ("/%2e%2e", PathError::EncodedDotSegment),
            ("/.%2E/x", PathError::EncodedDotSegment),
            ("/%2e./x", PathError::EncodedDotSegment),
            ("/%252e%252e/x", PathError::DoublyEncoded),
            ("/%25252e", PathError::DoublyEncoded),
            ("/%25%32%65", PathError::DoublyEncoded),
            ("/%25%32e", PathError::DoublyEncoded),
            ("/%252f", PathError::DoublyEncoded),
            ("/%255C", PathError::DoublyEncoded),
            ("/%2500", PathError::DoublyEncoded),
            ("/%2561dmin", PathError::DoublyEncoded),
            ("/%253badmin", PathError::DoublyEncoded),
            ("/a\0", PathError::Control),
            ("/a\tb", PathError::Control),
            ("/a\x7f", PathError::Control),
            ("/%00", PathError::Control),
            ("/%0d%0a", PathError::Control),
            ("/%7f", PathError::Control),
            ("/%C2%85", PathError::Control),
            ("/ä", PathError::NonAscii),
            ("/a b", PathError::Forbidden),
            ("/a?b", PathError::Forbidden),
            ("/a;b", PathError::Semicolon),
            ("/public/..;/admin", PathError::Semicolon),
            ("/a%3bb", PathError::Semicolon),
            ("/..%3B/x", PathError::Semicolon),
            ("/%ff", PathError::Utf8),
            ("/%c0%ae%c0%ae/", PathError::Utf8),
            ("/%c0%af", PathError::Utf8),
            ("/%e0%80%ae", PathError::Utf8),
            ("/%f0%80%80%ae", PathError::Utf8),
            ("/%ed%a0%80", PathError::Utf8),
            ("/%c3", PathError::Utf8),
            ("/%c3/%a4", PathError::Utf8),
            ("/%c3x", PathError::Utf8),
            ("/%c3%zz", PathError::BadPercent),
            ("/%a4", PathError::Utf8),
        ] {
            assert_eq!(parse(raw), Err(error), "{raw:?}");
        }
        for byte in "\"<>^`{|}#".chars() {
            assert_eq!(parse(&format!("/a{byte}b")), Err(PathError::Forbidden), "{byte}");
        }
    }

    #[test]
    fn an_allowance_opens_one_thing_only() {
        let semicolon = PathAllowances { semicolon: true, ..Default::default() };
        let slash = PathAllowances { encoded_slash: true, ..Default::default() };
        let non_ascii = PathAllowances { non_ascii: true, ..Default::default() };
        for (raw, allow, result) in [
            ("/a;b=c/d", semicolon, Ok("/a;b=c/d")),
            ("/a%3bb", semicolon, Ok("/a%3Bb")),
            ("/public/..;/admin", semicolon, Err(PathError::EncodedDotSegment)),
            ("/public/..;x=y/admin", semicolon, Err(PathError::EncodedDotSegment)),
            ("/public/..%3b/admin", semicolon, Err(PathError::EncodedDotSegment)),
            ("/public/.;/admin", semicolon, Err(PathError::EncodedDotSegment)),
            ("/a%2fb", semicolon, Err(PathError::EncodedSlash)),
            ("/a%2fb", slash, Ok("/a%2Fb")),
            ("/public/..%2fadmin", slash, Err(PathError::EncodedDotSegment)),
            ("/public/x%2f..%2fadmin", slash, Err(PathError::EncodedDotSegment)),
            ("/public/x%2f%2e", slash, Err(PathError::EncodedDotSegment)),
            ("/a%5cb", slash, Err(PathError::Backslash)),
            ("/a%252fb", slash, Err(PathError::DoublyEncoded)),
            ("/a;b", slash, Err(PathError::Semicolon)),
            ("/ä", non_ascii, Ok("/%C3%A4")),
            ("/%ff", non_ascii, Err(PathError::Utf8)),
            ("/a\u{85}", non_ascii, Err(PathError::Control)),
            ("/x/ä/../é", non_ascii, Ok("/x/%C3%A9")),
            ("/a;b", non_ascii, Err(PathError::Semicolon)),
        ] {
            let path = CanonicalPath::parse(raw, allow).map(|path| path.as_str().to_owned());
            assert_eq!(path.as_deref().map_err(|error| *error), result, "{raw}");
        }
    }

    #[test]
    fn prefixes_are_stripped_by_segments() {
        let path = CanonicalPath::parse("/api/v1/x/", PathAllowances::default()).unwrap();
        for (count, rest) in [(0, "/api/v1/x/"), (1, "/v1/x/"), (2, "/x/"), (3, "/"), (4, "/")] {
            assert_eq!(path.without_segments(count), rest);
        }
        let path = CanonicalPath::parse("/api", PathAllowances::default()).unwrap();
        assert_eq!(path.without_segments(1), "/");
    }
}
