//! A file line by line, or record by record where quotation marks keep lines together; neither is longer
//! than it may be in memory.
//!
//! In a table an odd number of quotation marks leaves a field open (RFC 4180 section 2), so the lines up to
//! the next odd one belong to the same record, also when it is thrown away for being too long. To go on with
//! the line behind a mark would make accounts of what somebody has written into a field of his own.

use std::io::{self, BufRead};

/// The longest line, in bytes. The longest account is far shorter.
pub(super) const LONGEST: usize = 16 * 1024;

const TOO_LONG: &str = "longer than 16 KiB";
const UNCLOSED: &str =
    "a quotation mark that is not closed before the file ends; nothing that comes after it was read";

/// What stands on a line, or why it cannot be read.
pub(super) type Text = Result<String, &'static str>;

/// A line, or the lines of one record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The number of its first line, from 1.
    pub(super) line: u64,
    /// And of its last one.
    pub(super) last: u64,
    pub(super) text: Text,
}

/// A line, and whether it opens or closes what is quoted.
struct Line {
    text: Text,
    turns: bool,
}

/// Reads records.
pub(super) struct Lines<R> {
    input: R,
    /// Whether quotation marks keep lines together.
    quoted: bool,
    number: u64,
    /// Bytes read so far.
    pub(super) bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(input: R, quoted: bool) -> Self {
        Self { input, quoted, number: 0, bytes: 0 }
    }

    /// The next record. Line breaks within it are `\n`.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let Some(first) = self.line()? else { return Ok(None) };
        let line = self.number;
        let mut text = first.text;
        let mut open = self.quoted && first.turns;
        while open {
            let Some(next) = self.line()? else {
                return Ok(Some(Record { line, last: self.number, text: Err(UNCLOSED) }));
            };
            text = joined(text, next.text);
            open = !next.turns;
        }
        Ok(Some(Record { line, last: self.number, text }))
    }

    /// The next line without its end, and without a byte order mark at the start of the file.
    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut turns = false;
        let mut too_long = false;
        let mut any = false;
        loop {
            let chunk = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            turns = piece.iter().fold(turns, |turns, byte| turns ^ (*byte == b'"'));
            if line.len() + piece.len() > LONGEST {
                // The rest is passed over, not kept.
                too_long = true;
            } else if !too_long {
                line.extend_from_slice(piece);
            }
            let used = piece.len() + usize::from(end.is_some());
            self.input.consume(used);
            self.bytes = self.bytes.saturating_add(u64::try_from(used).unwrap_or(u64::MAX));
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        if self.number == 1 {
            start_of_file(&mut line)?;
        }
        Ok(Some(Line { text: if too_long { Err(TOO_LONG) } else { text(line) }, turns }))
    }
}

fn joined(record: Text, line: Text) -> Text {
    let (mut record, line) = (record?, line?);
    if record.len() + line.len() >= LONGEST {
        return Err(TOO_LONG);
    }
    record.push('\n');
    record.push_str(&line);
    Ok(record)
}

fn start_of_file(line: &mut Vec<u8>) -> io::Result<()> {
    if line.starts_with(&[0xff, 0xfe]) || line.starts_with(&[0xfe, 0xff]) {
        return Err(io::Error::other(
            "the file is UTF-16; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)",
        ));
    }
    if line.starts_with(b"\xef\xbb\xbf") {
        line.drain(..3);
    }
    Ok(())
}

fn text(mut line: Vec<u8>) -> Text {
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let text = String::from_utf8(line).map_err(|_| "not UTF-8; convert the file first (iconv -t UTF-8)")?;
    if text.contains('\0') {
        return Err("it has a NUL character");
    }
    // Some programs end lines like that: what one would take for one account is many.
    if text.contains('\r') {
        return Err("a carriage return without a line feed; convert the file first (tr '\\r' '\\n')");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(input: &[u8], quoted: bool) -> Vec<(u64, u64, Text)> {
        // A small buffer: lines come in pieces.
        let mut lines = Lines::new(io::BufReader::with_capacity(7, input), quoted);
        let next = || lines.next().expect("readable");
        std::iter::from_fn(next).map(|record| (record.line, record.last, record.text)).collect()
    }

    fn all(input: &[u8]) -> Vec<(u64, Text)> {
        records(input, false).into_iter().map(|(line, _, text)| (line, text)).collect()
    }

    #[test]
    fn what_is_quoted_stays_together() {
        let good = |text: &str| Ok(text.to_owned());
        let input = b"a,\"b\r\n\n\"\"c\"\r\nd\n\"e\n";
        assert_eq!(
            records(input, true),
            [(1, 3, good("a,\"b\n\n\"\"c\"")), (4, 4, good("d")), (5, 5, Err(UNCLOSED))]
        );
        assert_eq!(records(input, false).len(), 5);
    }

    #[test]
    fn what_is_too_long_or_no_text_is_still_one_record() {
        let long = "x".repeat(LONGEST);
        for inside in
            [format!("{long}\n{long}\neve,hash,admin").into_bytes(), b"\xff\neve,hash,admin".to_vec()]
        {
            let input = [b"a,\"b\n", inside.as_slice(), b"\"\nlast"].concat();
            let found = records(&input, true);
            assert!(
                matches!(found.as_slice(), [(1, _, Err(_)), (_, _, Ok(last))] if last == "last"),
                "{found:?}"
            );
        }
        // A mark in what is not kept of a line counts.
        let input = format!("{long}\"x\neve,hash,admin\n\"\nlast");
        let found = records(input.as_bytes(), true);
        assert_eq!(found, [(1, 3, Err(TOO_LONG)), (4, 4, Ok("last".to_owned()))]);
    }

    #[test]
    fn lines_are_numbered_whatever_is_on_them() {
        let long = "x".repeat(LONGEST + 1);
        let input = format!("\u{feff}one\r\n\n{long}\nfour");
        let found = all(input.as_bytes());
        let good = |text: &str| Ok(text.to_owned());
        assert_eq!(
            found,
            [(1, good("one")), (2, good("")), (3, Err("longer than 16 KiB")), (4, good("four"))]
        );
        assert_eq!(all("x".repeat(LONGEST).as_bytes()), [(1, Ok("x".repeat(LONGEST)))]);
        assert!(matches!(all(b"a\n\xe4b\n\0\n").as_slice(), [(1, Ok(_)), (2, Err(_)), (3, Err(_))]));
        assert_eq!(all(b""), []);
    }

    #[test]
    fn lines_that_a_lone_carriage_return_ends_are_not_one() {
        for quoted in [false, true] {
            let found = records(b"al:x\rbo:y\r\ncy:z\r\n", quoted);
            assert!(
                matches!(found.as_slice(), [(1, 1, Err(why)), (2, 2, Ok(last))]
                    if why.contains("carriage return") && last == "cy:z"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn another_encoding_is_named() {
        let mut lines = Lines::new(&b"\xff\xfea\0\n\0"[..], false);
        assert!(lines.next().expect_err("UTF-16").to_string().contains("UTF-16"));
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut lines = Lines::new(io::BufReader::new(io::Read::take(io::repeat(b'x'), 64 << 20)), true);
        assert!(matches!(lines.next(), Ok(Some(Record { line: 1, last: 1, text: Err(_) }))));
        assert_eq!((lines.bytes, lines.next().expect("readable")), (64 << 20, None));
    }
}
