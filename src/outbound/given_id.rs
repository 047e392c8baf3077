//! The id in an answer of the app's login: where `[auth.migrate] id` says, and nowhere else.

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::identity::UserId;

/// Why there is none. Says nothing of what there was.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoId {
    /// An HTML page, or a JWT by itself.
    #[error("the answer is no JSON")]
    NotJson,
    /// It is not there; or there twice, and one of them is somebody's who could write it.
    #[error("the answer has no such member, or has it twice")]
    Absent,
    /// `null`, -1, 1.5, `""`, a list.
    #[error("what stands there is neither a whole number nor 1 to 64 visible ASCII characters")]
    Unfit,
}

/// What stands in the JSON object `body` at `path`, the outermost member's name first. A number is written in
/// decimal.
pub(super) fn find(body: &[u8], path: &[String]) -> Result<UserId, NoId> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let found = At(path).deserialize(&mut json);
    let found = found.and_then(|found| json.end().map(|()| found));
    let found = found.map_err(|error| if error.is_data() { NoId::Absent } else { NoId::NotJson })?;
    let text = match found.ok_or(NoId::Absent)? {
        Value::String(text) => text,
        Value::Number(number) => number.as_u64().ok_or(NoId::Unfit)?.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(NoId::Unfit),
    };
    text.parse().map_err(|_| NoId::Unfit)
}

/// What is left of the path.
struct At<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Option<Value>;
    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        match self.0.split_first() {
            None => serde::Deserialize::deserialize(json).map(Some),
            Some((name, deeper)) => json.deserialize_any(Member { name, deeper }),
        }
    }
}

/// One member of an object, and what is in it.
struct Member<'p> {
    name: &'p str,
    deeper: &'p [String],
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<Value>;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<String>()? {
            if name != self.name {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = members.next_value_seed(At(self.deeper))?;
            if found.replace(value).is_some() {
                return Err(A::Error::custom("twice"));
            }
        }
        Ok(found.flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str, path: &str) -> Result<String, NoId> {
        let path: Vec<_> = path.split('.').map(str::to_owned).collect();
        find(body.as_bytes(), &path).map(|id| id.to_string())
    }

    #[test]
    fn an_id_is_a_string_or_a_whole_number_where_the_path_leads() {
        for (body, path, id) in [
            (r#"{"id": 7}"#, "id", "7"),
            (r#" {"id": "7f3a-b"} "#, "id", "7f3a-b"),
            (
                r#"{"x": {"id": 1}, "user": {"a": [{}], "id": 18446744073709551615}}"#,
                "user.id",
                "18446744073709551615",
            ),
            (
                r#"{"a": {"b": {"c": {"_id": "507f1f77bcf86cd799439011"}}}}"#,
                "a.b.c._id",
                "507f1f77bcf86cd799439011",
            ),
        ] {
            assert_eq!(found(body, path).as_deref(), Ok(id), "{body}");
        }
    }

    #[test]
    fn whatever_else_stands_there_is_none() {
        for body in [
            "",
            "<html>",
            "eyJ0eXAi.eyJz.c2ln",
            r#"{"id": 7"#,
            r#"{"id": 7} {"id": 8}"#,
            "{\"id\": \"\u{0}\"}",
        ] {
            assert_eq!(found(body, "id"), Err(NoId::NotJson), "{body}");
        }
        for (body, path) in [
            ("{}", "id"),
            ("[]", "id"),
            ("7", "id"),
            ("null", "id"),
            (r#"{"ID": 7}"#, "id"),
            (r#"{"user": {"id": 7}}"#, "id"),
            (r#"{"user": 7}"#, "user.id"),
            (r#"{"user": null}"#, "user.id"),
            (r#"{"user": [{"id": 7}]}"#, "user.id"),
            // An app that puts its answer together by hand, with somebody's name in it.
            (r#"{"id": 7, "name": "x", "id": 1}"#, "id"),
            (r#"{"user": {"id": 7}, "name": "x", "user": {"id": 1}}"#, "user.id"),
            (r#"{"user": {}, "user": {"id": 1}}"#, "user.id"),
        ] {
            assert_eq!(found(body, path), Err(NoId::Absent), "{body}");
        }
        let long = format!(r#"{{"id": "{}"}}"#, "x".repeat(65));
        for body in [
            r#"{"id": null}"#,
            r#"{"id": true}"#,
            r#"{"id": -1}"#,
            r#"{"id": 1.5}"#,
            r#"{"id": 7e0}"#,
            r#"{"id": 18446744073709551616}"#,
            r#"{"id": ""}"#,
            r#"{"id": "a b"}"#,
            r#"{"id": "a\r\nX-Auth-Roles: admin"}"#,
            r#"{"id": "ä"}"#,
            r#"{"id": [7]}"#,
            r#"{"id": {"id": 7}}"#,
            &long,
        ] {
            assert_eq!(found(body, "id"), Err(NoId::Unfit), "{body}");
        }
    }
}
