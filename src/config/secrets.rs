//! Secrets in the configuration: given in place or in a file of their own, long enough, no placeholder,
//! readable by nobody else; and never shown.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::secret::Secret;
use crate::settings::MIN_SECRET_BYTES;

/// A file of secrets larger than this is something else.
const LARGEST_FILE: u64 = 64 * 1024;

/// What people copy from tutorials, without everything that is not a letter or digit.
const PLACEHOLDERS: &[&str] = &[
    "changeme",
    "changethis",
    "changeit",
    "replaceme",
    "replacethis",
    "yoursecret",
    "yourjwtsecret",
    "yoursupersecret",
    "your256bitsecret",
    "placeholder",
    "supersecret",
    "djangoinsecure",
    "donttellanyone",
    "thisisasecret",
    "0123456789abcdef0123456789abcdef",
    "abcdefghijklmnopqrstuvwxyz",
];

/// Who may do what with a file that holds secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    /// Its owner only.
    Private,
    /// The group or everybody may read it.
    Readable(u32),
    /// The group or everybody may change it.
    Writable(u32),
}

/// What a file's mode says about the secrets in it.
pub(super) fn exposure(path: &Path) -> std::io::Result<Exposure> {
    Ok(exposure_of(std::fs::metadata(path)?.permissions().mode()))
}

fn exposure_of(mode: u32) -> Exposure {
    let mode = mode & 0o777;
    if mode & 0o022 != 0 {
        Exposure::Writable(mode)
    } else if mode & 0o044 != 0 {
        Exposure::Readable(mode)
    } else {
        Exposure::Private
    }
}

/// Reads a secret's file. One line end at its end belongs to the editor, not to the secret.
pub(super) fn read(path: &Path) -> Result<Secret<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    let mut bytes = Vec::with_capacity(1024);
    File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    let mut secret = Secret::new(bytes);
    if secret.expose().len() as u64 > LARGEST_FILE {
        return Err(format!("{} is larger than 64 KiB", path.display()));
    }
    let kept = secret.expose().strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest).len());
    if let Some(kept) = kept {
        secret = Secret::new(secret.expose()[..kept].to_vec());
    }
    Ok(secret)
}

/// Why a secret is none. The message never quotes it.
pub(super) fn judge(secret: &[u8]) -> Result<(), String> {
    if secret.len() < MIN_SECRET_BYTES {
        return Err(format!(
            "is {} bytes long; at least {MIN_SECRET_BYTES} are needed (try `openssl rand -base64 48`)",
            secret.len()
        ));
    }
    let folded: String = secret
        .iter()
        .filter(|b| b.is_ascii_alphanumeric())
        .map(|b| char::from(b.to_ascii_lowercase()))
        .collect();
    let distinct = secret.iter().collect::<std::collections::BTreeSet<_>>().len();
    if distinct < 8 || PLACEHOLDERS.iter().any(|known| folded.contains(known)) {
        return Err("is a well-known placeholder; make one with `openssl rand -base64 48`".to_owned());
    }
    Ok(())
}

/// Whether a key holds a secret, misspelt or not.
pub(super) fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    if key.ends_with("file") || key.ends_with("files") {
        return false;
    }
    key.contains("secr") || strsim::damerau_levenshtein(&key, "secret") <= 1
}

/// The bytes of a text that look like a secret's value, whether the text is TOML or not: from the `=`
/// behind a secret's key to the end of the line, and the lines below until one that opens something new.
/// The tree knows better, but a file with a syntax error has no tree to trust.
pub(super) fn secret_lines(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut within = false;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches(['\n', '\r']);
        let trimmed = body.trim_start();
        if trimmed.starts_with('#') {
            at += line.len();
            continue;
        }
        let opens = trimmed.is_empty() || trimmed.starts_with('[') || assigned_key(trimmed).is_some();
        within = within && !opens;
        if within {
            found.push(at..at + body.len());
        } else if let Some(value) = secret_value(body) {
            found.push(at + value..at + body.len());
            within = true;
        }
        at += line.len();
    }
    found
}

/// The key of a line that reads `key = something`.
fn assigned_key(line: &str) -> Option<&str> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c);
    (!key.is_empty() && key.chars().all(plain) && value.starts_with([' ', '"', '\''])).then_some(key)
}

/// Where in a line a secret's value begins.
fn secret_value(line: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(equals) = line[from..].find('=') {
        let equals = from + equals;
        let before = line[..equals].trim_end_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'');
        let key_at = before
            .rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-')
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        if is_secret_key(&before[key_at..]) {
            let value = &line[equals + 1..];
            return Some(equals + 1 + (value.len() - value.trim_start().len()));
        }
        from = equals + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_well_known_secrets_are_refused() {
        for bad in [
            "",
            "short",
            "changeme-changeme-changeme-changeme",
            "CHANGE_ME_please_this_is_not_a_real_one_1234",
            "secretsecretsecretsecretsecretsecret",
            "your-256-bit-secret-your-256-bit-secret",
            "django-insecure-w!k2#9x7qz0l1m8n5v3b6c4",
        ] {
            assert!(judge(bad.as_bytes()).is_err(), "{bad}");
        }
        for good in ["0f8fad5b-d9cb-469f-a165-70867728950e", "kx0WVQ3nqRrJ5oJ2ZC1vK3C3F0s0o4Zp8t7Y2b1="] {
            assert_eq!(judge(good.as_bytes()), Ok(()), "{good}");
        }
    }

    #[test]
    fn modes_tell_who_else_can_reach_a_secret() {
        for (mode, expected) in [
            (0o600, Exposure::Private),
            (0o400, Exposure::Private),
            (0o100_700, Exposure::Private),
            (0o644, Exposure::Readable(0o644)),
            (0o640, Exposure::Readable(0o640)),
            (0o660, Exposure::Writable(0o660)),
            (0o602, Exposure::Writable(0o602)),
        ] {
            assert_eq!(exposure_of(mode), expected, "{mode:o}");
        }
    }

    #[test]
    fn one_line_end_is_cut() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        for (written, expected) in
            [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), (" a ", " a ")]
        {
            std::fs::write(&path, written).expect("written");
            assert_eq!(read(&path).expect("read").expose(), expected.as_bytes());
        }
        assert!(read(directory.path()).is_err(), "a directory");
        assert!(read(&directory.path().join("none")).is_err());
    }

    #[test]
    fn secrets_are_found_in_text_that_is_not_toml() {
        for (text, hidden) in [
            ("secret = \"abc\"\nx = 1", vec!["\"abc\""]),
            ("tokens = { secret = 'abc' }", vec!["'abc' }"]),
            ("tokens.secret='abc", vec!["'abc"]),
            ("secert = \"abc", vec!["\"abc"]),
            ("secret = \"\"\"\nZm9v==\nabc=\n\"\"\"\n[x]\ny = 1", vec!["\"\"\"", "Zm9v==", "abc=", "\"\"\""]),
            ("\"secret\" = \"abc\"", vec!["\"abc\""]),
            ("secret_file = \"abc\"", vec![]),
            ("# secret = \"abc\"", vec![]),
            ("ä = 1 # secret", vec![]),
        ] {
            let found: Vec<_> = secret_lines(text).into_iter().map(|span| &text[span]).collect();
            assert_eq!(found, hidden, "{text:?}");
        }
    }
}
