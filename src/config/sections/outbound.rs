//! What calls out: `[auth.migrate]`, `[auth] admission_url` and `[events]`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::Uri;

use super::super::origin::Origin;
use super::super::problem::Problem;
use super::super::reader::{Read, Section};
use super::super::secrets;
use super::super::tree::Node;
use super::super::value::{Fault, Value, parse, quote};
use super::legacy::dotted;
use super::tokens::check_exposure;
use super::until::Until;
use super::{DAY, HOUR, MINUTE, SECOND, default_list, lasts};
use crate::secret::Secret;
use crate::settings::{AdmissionSettings, EventSettings, LoginTemplate, MigrateSettings};

/// Where values go in a template.
const PLACES: [&str; 2] = ["{username}", "{password}"];
/// What most logins read.
const USUAL_BODY: &str = r#"{"username": "{username}", "password": "{password}"}"#;
/// In front of a secret that is written as Standard Webhooks has it.
const WEBHOOK_SECRET: &str = "whsec_";

/// Padded or not, as the libraries for webhooks read it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A place to call.
#[derive(Clone, Debug)]
struct Url(Uri);

impl Value for Url {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a URL like \"http://127.0.0.1:5000/login\"", node, |text| url(text).map(Self))
    }
    fn show(&self) -> String {
        quote(&self.0.to_string())
    }
}

fn url(text: &str) -> Result<Uri, String> {
    let shown = quote(text);
    let uri: Uri = text.parse().map_err(|error| format!("{shown} is no URL: {error}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!("{shown} starts with neither http:// nor https://"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(format!("{shown} names no host"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("a URL has no name and password in it here".to_owned());
    }
    if text.contains('#') {
        return Err(format!("{shown} has a fragment, which is never sent"));
    }
    Ok(uri)
}

/// A template, with its text.
#[derive(Clone, Debug)]
struct Body(LoginTemplate, String);

impl Value for Body {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a JSON object or a form in a string", node, body)
    }
    fn show(&self) -> String {
        quote(&self.1)
    }
}

fn body(text: &str) -> Result<Body, String> {
    let (template, texts) = if text.trim_start().starts_with('{') {
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        let mut texts = Vec::new();
        collect_texts(&json, &mut texts);
        (LoginTemplate::Json(json), texts)
    } else {
        let pairs: Option<Vec<(String, String)>> = text
            .split('&')
            .map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        let pairs = pairs.ok_or("is neither a JSON object nor a form like \"a={username}&b={password}\"")?;
        let texts = pairs.iter().map(|(_, value)| value.clone()).collect();
        (LoginTemplate::Form(pairs), texts)
    };
    for place in PLACES {
        if !texts.iter().any(|text| text.contains(place)) {
            return Err(format!("has no value with {place} in it"));
        }
    }
    Ok(Body(template, text.to_owned()))
}

fn collect_texts(json: &serde_json::Value, found: &mut Vec<String>) {
    match json {
        serde_json::Value::String(text) => found.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_texts(item, found)),
        serde_json::Value::Object(members) => {
            members.values().for_each(|member| collect_texts(member, found));
        }
        _ => {}
    }
}

fn timeout(section: &Section<'_>, key: &'static str, usual: Duration) -> Read<Duration> {
    section.get_if(key, usual, lasts(Duration::from_millis(100), MINUTE))
}

/// Whether there is an `[auth] admission_url`, good or not.
pub(in super::super) fn has_admission(auth: &Section<'_>) -> bool {
    auth.entry("admission_url").is_some_and(|entry| entry.value.as_text() != Some(""))
}

/// `[auth] admission_url` and `admission_timeout`.
pub(in super::super) fn read_admission(auth: &Section<'_>) -> Option<AdmissionSettings> {
    let timeout = timeout(auth, "admission_timeout", 5 * SECOND);
    let off = !has_admission(auth);
    if off {
        let entry = auth.by_hand("admission_url");
        let origin = entry.map_or(Origin::Default, |entry| entry.value.origin.clone());
        auth.show("admission_url", &String::new(), &origin);
        auth.warn_of_idle("admission_timeout", &timeout, "without auth.admission_url");
        return None;
    }
    let url = auth.optional::<Url>("admission_url", |_| Ok(()))?;
    Some(AdmissionSettings { url: url.value.0, timeout: timeout.value })
}

/// Where `[auth.migrate]` stands, and what is in it, if that is good.
pub(in super::super) fn read_migrate(auth: &Section<'_>) -> Option<(Origin, Option<MigrateSettings>)> {
    let migrate = auth.optional_table("migrate", "auth.migrate")?;
    Some((migrate.origin().clone(), read_migration(migrate)))
}

fn read_migration(migrate: Section<'_>) -> Option<MigrateSettings> {
    let url = migrate.required::<Url>("url", |_| Ok(()));
    let usual = body(USUAL_BODY).ok()?;
    let body = migrate.get("body", usual).value.0;
    let ok_status = read_ok_status(&migrate);
    let id = migrate.get_if("id", String::new(), |path| member_path(path).map(drop)).value;
    let until = migrate.required::<Until>("until", |_| Ok(()));
    let timeout = timeout(&migrate, "timeout", 5 * SECOND).value;
    migrate.finish();
    Some(MigrateSettings {
        url: url?.value.0,
        body,
        ok_status,
        id: member_path(&id).ok()?,
        until: until?.value.secs,
        timeout,
    })
}

/// `id`, or `user.id` for a member that is an object. Empty: nowhere.
fn member_path(text: &str) -> Result<Option<Vec<String>>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let no_path = || format!("{} is no member's name, as in \"id\" or \"user.id\"", quote(text));
    dotted(text).map(Some).ok_or_else(no_path)
}

fn read_ok_status(migrate: &Section<'_>) -> Vec<u16> {
    let given = migrate.get("ok_status", default_list([200_u32])).value;
    let reader = migrate.reader();
    if given.is_empty() {
        reader.error("auth.migrate.ok_status: without one nobody could move", migrate.origin());
    }
    for status in given.iter().filter(|status| !(200..400).contains(&status.value)) {
        let message = format!("auth.migrate.ok_status: {} is no status that says yes", status.value);
        reader.error(message, &status.origin);
    }
    given.iter().filter_map(|status| u16::try_from(status.value).ok()).collect()
}

/// `[events]`
pub(in super::super) fn read_events(root: &Section<'_>) -> Option<EventSettings> {
    let events = root.optional_table("events", "events")?;
    let url = events.required::<Url>("url", |_| Ok(()));
    let secret = read_secret(&events);
    let timeout = timeout(&events, "timeout", 10 * SECOND).value;
    let keep = events.get_if("keep", 3 * DAY, lasts(HOUR, 30 * DAY)).value;
    events.finish();
    Some(EventSettings { url: url?.value.0, secret: secret?, timeout, keep })
}

fn read_secret(events: &Section<'_>) -> Option<Secret<Vec<u8>>> {
    let path = events.required_path("secret_file")?;
    let reader = events.reader();
    let found = secrets::read(&path.value).and_then(|secret| {
        secrets::judge(secret.expose()).map_err(|message| format!("the secret {message}"))?;
        key_of(secret)
    });
    let secret = match found {
        Ok(secret) => secret,
        Err(message) => {
            reader.error(format!("events.secret_file: {message}"), &path.origin);
            return None;
        }
    };
    check_exposure(events, "events.secret_file", &path.value, &path.origin);
    if looks_encoded(&secret) {
        let message = "events.secret_file: the secret is used as the text that it is, and looks like base64, which \
                       libraries for Standard Webhooks decode";
        let problem =
            Problem::warning(message, reader.place(&path.origin)).help("write whsec_ in front of it");
        reader.push(problem);
    }
    Some(secret)
}

/// Whether a library would take the text for a key in base64.
fn looks_encoded(secret: &Secret<Vec<u8>>) -> bool {
    let key = BASE64.decode(secret.expose()).map(Secret::new);
    key.is_ok_and(|key| key.expose().len() >= 24)
}

/// The key in a secret: what stands behind `whsec_` in base64, or else the bytes as they are.
fn key_of(secret: Secret<Vec<u8>>) -> Result<Secret<Vec<u8>>, String> {
    let Some(encoded) = secret.expose().strip_prefix(WEBHOOK_SECRET.as_bytes()) else { return Ok(secret) };
    let key = BASE64.decode(encoded).map(Secret::new);
    match key {
        Ok(key) if key.expose().len() >= 24 => Ok(key),
        Ok(_) => Err("the secret behind whsec_ has less than 24 bytes".to_owned()),
        Err(_) => Err("what stands behind whsec_ in the secret is not base64".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_secret_is_decoded() {
        let key = |text: &str| key_of(Secret::new(text.as_bytes().to_vec()));
        let encoded = BASE64.encode([7; 25]);
        assert_eq!(key(&format!("whsec_{encoded}")).expect("a key").expose(), &[7; 25]);
        let unpadded = encoded.trim_end_matches('=');
        assert_eq!(key(&format!("whsec_{unpadded}")).expect("a key").expose(), &[7; 25]);
        assert_eq!(key("as it is").expect("a key").expose(), b"as it is");
        assert!(key("whsec_AAAA").is_err());
        assert!(key("whsec_!").is_err());
    }

    #[test]
    fn templates_are_json_or_forms() {
        assert!(matches!(body(USUAL_BODY).expect("JSON").0, LoginTemplate::Json(_)));
        let form = body("user={username}&pw={password}&submit=1").expect("a form").0;
        let LoginTemplate::Form(pairs) = form else { panic!("{form:?}") };
        assert_eq!(pairs.len(), 3);
        for bad in ["", "{", "{}", r#"{"{username}": "{password}"}"#, "username", "u={username}"] {
            assert!(body(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_that_libraries_would_decode_is_told_from_text() {
        let key = |text: &str| key_of(Secret::new(text.as_bytes().to_vec())).expect("a key");
        let encoded = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
        assert!(looks_encoded(&key(encoded)));
        assert!(looks_encoded(&key(encoded.trim_end_matches('='))));
        assert!(!looks_encoded(&key(&format!("whsec_{encoded}"))));
        for text in ["short and no key", "correct horse battery staple, and so on", "bW9yZSB0aGFuIHRlbg=="] {
            assert!(!looks_encoded(&key(text)), "{text}");
        }
    }
}
