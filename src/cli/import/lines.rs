//! A file line by line, none longer than it may be in memory.

use std::io::{self, BufRead};

/// The longest line, in bytes. The longest account is far shorter.
pub(super) const LONGEST: usize = 16 * 1024;

/// What stands on a line, or why it cannot be read.
pub(super) type Text = Result<String, &'static str>;

/// Lines and their numbers, from 1.
pub(super) struct Lines<R> {
    input: R,
    number: u64,
    /// Bytes read so far.
    pub(super) bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, number: 0, bytes: 0 }
    }

    /// The next line without its end, and without a byte order mark at the start of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Text)>> {
        let mut line = Vec::new();
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
        Ok(Some((self.number, if too_long { Err("longer than 16 KiB") } else { text(line) })))
    }
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
    if text.contains('\0') { Err("it has a NUL character") } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<(u64, Text)> {
        // A small buffer: lines come in pieces.
        let mut lines = Lines::new(io::BufReader::with_capacity(7, input));
        std::iter::from_fn(|| lines.next().expect("readable")).collect()
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
    fn another_encoding_is_named() {
        let mut lines = Lines::new(&b"\xff\xfea\0\n\0"[..]);
        assert!(lines.next().expect_err("UTF-16").to_string().contains("UTF-16"));
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut lines = Lines::new(io::BufReader::new(io::Read::take(io::repeat(b'x'), 64 << 20)));
        assert!(matches!(lines.next(), Ok(Some((1, Err(_))))));
        assert_eq!((lines.bytes, lines.next().expect("readable")), (64 << 20, None));
    }
}
