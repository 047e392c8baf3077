//! Text that came from outside, written so that it stays one value on one line.
//!
//! Escaped in both formats: control characters (newlines, ANSI sequences), DEL, the C1 controls and the
//! line and paragraph separators U+2028 and U+2029 (ECMA-262 took them for line ends until 2019, and
//! viewers still do). Values over [`LONGEST`] bytes are cut.

use std::net::IpAddr;
use std::time::Duration;

/// The greatest length of a value in a log line, in bytes before escaping.
pub(super) const LONGEST: usize = 1024;

/// Appends `text` as a JSON string (RFC 8259 section 7), with quotes.
pub(super) fn json(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let (text, cut) = shorten(text);
    if text.bytes().all(|b| matches!(b, 0x20..=0x7e) && b != b'"' && b != b'\\') {
        out.extend_from_slice(text.as_bytes());
    } else {
        for c in text.chars() {
            escaped(out, c);
        }
    }
    if cut {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

/// Appends `text` for people: bare when nothing in it could be misread, else as [`json`].
pub(super) fn word(out: &mut Vec<u8>, text: &str) {
    let bare = |b: u8| matches!(b, 0x21..=0x7e) && !matches!(b, b'"' | b'\\' | b'=');
    if !text.is_empty() && text.len() <= LONGEST && text.bytes().all(bare) {
        out.extend_from_slice(text.as_bytes());
    } else {
        json(out, text);
    }
}

/// Appends a message for people: unquoted, on one line.
pub(super) fn sentence(out: &mut Vec<u8>, text: &str) {
    let (text, cut) = shorten(text);
    for c in text.chars() {
        if matches!(c, '"' | '\\') { out.push(c as u8) } else { escaped(out, c) }
    }
    if cut {
        out.extend_from_slice("…".as_bytes());
    }
}

fn escaped(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
            const HEX: [u8; 16] = *b"0123456789abcdef";
            let code = u32::from(c);
            out.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                out.push(HEX[(code >> shift & 0xf) as usize]);
            }
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn shorten(text: &str) -> (&str, bool) {
    if text.len() <= LONGEST {
        return (text, false);
    }
    (&text[..text.floor_char_boundary(LONGEST)], true)
}

/// Appends a decimal number.
pub(super) fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends milliseconds with three decimals.
pub(super) fn millis(out: &mut Vec<u8>, span: Duration) {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1000);
    let rest = micros % 1000;
    out.extend_from_slice(&[b'.', b'0' + (rest / 100) as u8, b'0' + (rest / 10 % 10) as u8]);
    out.push(b'0' + (rest % 10) as u8);
}

/// Appends an address.
pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        IpAddr::V6(v6) => out.extend_from_slice(v6.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn hostile_text_stays_one_json_string_on_one_line() {
        for text in [
            "plain",
            "",
            "a\"b\\c",
            "line\r\nlevel=error forged",
            "\u{1b}[31mred",
            "nul\0del\u{7f}c1\u{85}\u{9b}",
            "ls\u{2028}ps\u{2029}",
            "snow ☃ and 😀",
        ] {
            let line = with(|out| json(out, text));
            assert_eq!(serde_json::from_str::<String>(&line).expect("JSON"), text);
            let visible = |c: char| !c.is_control() && c != '\u{2028}' && c != '\u{2029}';
            assert!(line.chars().all(visible), "{line:?}");
        }
    }

    #[test]
    fn words_are_bare_only_when_they_cannot_be_misread() {
        for (text, shown) in [
            ("GET", "GET"),
            ("/a/b", "/a/b"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a=b", "\"a=b\""),
            ("ä", "\"ä\""),
            ("x\ny", "\"x\\ny\""),
        ] {
            assert_eq!(with(|out| word(out, text)), shown);
        }
        assert_eq!(with(|out| sentence(out, "he said \"no\"\n\u{1b}[2J")), "he said \"no\"\\n\\u001b[2J");
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = "☃".repeat(1000);
        let shown: String = serde_json::from_str(&with(|out| json(out, &long))).expect("JSON");
        assert_eq!(shown, "☃".repeat(341) + "…");
        assert!(with(|out| word(out, &"x".repeat(5000))).len() < 1100);
        assert!(with(|out| sentence(out, &"x".repeat(5000))).len() < 1100);
    }

    #[test]
    fn numbers_are_written_in_full() {
        assert_eq!(with(|out| number(out, 0)), "0");
        assert_eq!(with(|out| number(out, u64::MAX)), u64::MAX.to_string());
        assert_eq!(with(|out| millis(out, Duration::from_micros(12_034))), "12.034");
        assert_eq!(with(|out| millis(out, Duration::from_nanos(999))), "0.000");
        for text in ["127.0.0.1", "255.0.10.200", "::1", "2001:db8::7"] {
            assert_eq!(with(|out| address(out, text.parse().expect("an address"))), text);
        }
    }
}
