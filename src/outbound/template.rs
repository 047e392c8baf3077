//! A login's body with a name and a password in it.

use std::io::{self, Write};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::settings::LoginTemplate;

/// What stays as it is in a form (WHATWG URL, `application/x-www-form-urlencoded` percent-encode set); a
/// space becomes `%20`, which every parser reads.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// The media type and the body.
///
/// # Errors
/// None that memory could give.
pub(super) fn fill(
    template: &LoginTemplate,
    username: &str,
    password: &str,
) -> io::Result<(&'static str, Zeroizing<Vec<u8>>)> {
    // Measured first: what grows leaves what it was behind, with the password in it.
    let mut length = Length(0);
    let media_type = write(template, username, password, &mut length)?;
    let mut filled = Zeroizing::new(Vec::with_capacity(length.0));
    write(template, username, password, &mut *filled)?;
    Ok((media_type, filled))
}

/// Counts what is written to it.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(
    template: &LoginTemplate,
    username: &str,
    password: &str,
    out: &mut impl Write,
) -> io::Result<&'static str> {
    let put = |text: &str| put(text, username, password);
    match template {
        LoginTemplate::Json(json) => {
            write_json(json, &put, out)?;
            Ok("application/json")
        }
        LoginTemplate::Form(pairs) => {
            for (index, (name, value)) in pairs.iter().enumerate() {
                let and = if index > 0 { "&" } else { "" };
                let (name, value) = (utf8_percent_encode(name, FORM), put(value));
                write!(out, "{and}{name}={}", utf8_percent_encode(&value, FORM))?;
            }
            Ok("application/x-www-form-urlencoded")
        }
    }
}

/// Left to right, so that what was put in is not looked at again: a password may read `{username}`.
fn put(text: &str, username: &str, password: &str) -> Zeroizing<String> {
    let places = [("{username}", username), ("{password}", password)];
    let more: usize = places.iter().map(|(place, value)| text.matches(place).count() * value.len()).sum();
    let mut filled = Zeroizing::new(String::with_capacity(text.len() + more));
    let mut rest = text;
    loop {
        let next = places
            .into_iter()
            .filter_map(|(place, value)| rest.find(place).map(|at| (at, place.len(), value)))
            .min();
        let Some((at, length, value)) = next else { break };
        filled.push_str(rest.get(..at).unwrap_or_default());
        filled.push_str(value);
        rest = rest.get(at + length..).unwrap_or_default();
    }
    filled.push_str(rest);
    filled
}

/// JSON by hand, so that no copy of a password is left in a tree.
fn write_json(
    json: &Value,
    put: &impl Fn(&str) -> Zeroizing<String>,
    out: &mut impl Write,
) -> io::Result<()> {
    match json {
        Value::String(value) => serde_json::to_writer(out, put(value).as_str())?,
        Value::Array(items) => {
            out.write_all(b"[")?;
            for (index, item) in items.iter().enumerate() {
                out.write_all(if index > 0 { b"," } else { b"" })?;
                write_json(item, put, out)?;
            }
            out.write_all(b"]")?;
        }
        Value::Object(members) => {
            out.write_all(b"{")?;
            for (index, (name, value)) in members.iter().enumerate() {
                out.write_all(if index > 0 { b"," } else { b"" })?;
                serde_json::to_writer(&mut *out, name)?;
                out.write_all(b":")?;
                write_json(value, put, out)?;
            }
            out.write_all(b"}")?;
        }
        plain => serde_json::to_writer(out, plain)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &LoginTemplate, username: &str, password: &str) -> String {
        String::from_utf8(fill(template, username, password).unwrap().1.to_vec()).unwrap()
    }

    #[test]
    fn json_is_escaped_and_keeps_its_shape() {
        let json =
            serde_json::json!({"user": {"name": "{username}", "n": [1, null, "x"]}, "p": "a{password}b"});
        let text = filled(&LoginTemplate::Json(json), "al\"ice", "{username}\\\n\u{0}é");
        let read: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "user": {"name": "al\"ice", "n": [1, null, "x"]}, "p": "a{username}\\\n\u{0}éb"
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn forms_are_encoded() {
        let pairs = [("user name", "{username}"), ("pw", "{password}"), ("go", "1")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let text = filled(&LoginTemplate::Form(pairs), "a@b.c", "x&admin=1 ü+%");
        assert_eq!(text, "user%20name=a%40b.c&pw=x%26admin%3D1%20%C3%BC%2B%25&go=1");
        let read: Vec<_> = form_urlencoded::parse(text.as_bytes()).collect();
        assert_eq!(read[1].1, "x&admin=1 ü+%");
    }

    /// A buffer that grows is copied, and what it was is freed with a password in it.
    #[test]
    fn nothing_grows_once_a_password_is_in_it() {
        let password = "\u{1}\"ü% ".repeat(50);
        let text = "{password}-{username}-{password}{password}";
        assert_eq!(put(text, "al", &password).capacity(), text.len() + 3 * password.len() + 2);
        let json = serde_json::json!({"a": [text, 1, {"b": text}], "c": "{username}"});
        let form = vec![("a".to_owned(), text.to_owned()), ("b".to_owned(), text.to_owned())];
        for template in [LoginTemplate::Json(json), LoginTemplate::Form(form)] {
            let filled = fill(&template, "al", &password).unwrap().1;
            assert!(filled.len() > 6 * password.len());
            assert_eq!(filled.capacity(), filled.len(), "{template:?}");
        }
    }
}
