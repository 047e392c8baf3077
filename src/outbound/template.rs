//! A login's body with a name and a password in it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::settings::LoginTemplate;

/// What stays as it is in a form (WHATWG URL, `application/x-www-form-urlencoded` percent-encode set); a
/// space becomes `%20`, which every parser reads.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// The media type and the body.
pub(super) fn fill(
    template: &LoginTemplate,
    username: &str,
    password: &str,
) -> (&'static str, Zeroizing<Vec<u8>>) {
    let put = |text: &str| put(text, username, password);
    match template {
        LoginTemplate::Json(json) => {
            let mut filled = String::new();
            write(json, &put, &mut filled);
            ("application/json", Zeroizing::new(filled.into_bytes()))
        }
        LoginTemplate::Form(pairs) => {
            let mut filled = Zeroizing::new(Vec::new());
            for (name, value) in pairs {
                if !filled.is_empty() {
                    filled.push(b'&');
                }
                let value = put(value);
                let pair = [utf8_percent_encode(name, FORM), utf8_percent_encode(&value, FORM)];
                let [name, value] = pair.map(|part| Zeroizing::new(part.to_string()));
                filled.extend_from_slice(name.as_bytes());
                filled.push(b'=');
                filled.extend_from_slice(value.as_bytes());
            }
            ("application/x-www-form-urlencoded", filled)
        }
    }
}

/// Left to right, so that what was put in is not looked at again: a password may read `{username}`.
fn put(text: &str, username: &str, password: &str) -> Zeroizing<String> {
    let mut filled = Zeroizing::new(String::with_capacity(text.len() + username.len() + password.len()));
    let mut rest = text;
    loop {
        let next = [("{username}", username), ("{password}", password)]
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
fn write(json: &Value, put: &impl Fn(&str) -> Zeroizing<String>, out: &mut String) {
    let text = |text: &str| Zeroizing::new(serde_json::to_string(text).unwrap_or_default());
    match json {
        Value::String(value) => out.push_str(&text(&put(value))),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, put, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&text(name));
                out.push(':');
                write(value, put, out);
            }
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &LoginTemplate, username: &str, password: &str) -> String {
        String::from_utf8(fill(template, username, password).1.to_vec()).unwrap()
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
}
