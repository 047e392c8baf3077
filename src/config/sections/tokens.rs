//! `[tokens]`.

use std::path::Path;
use std::time::Duration;

use super::super::origin::Origin;
use super::super::reader::{Read, Section};
use super::super::secrets::{self, Exposure};
use super::super::tree::Node;
use super::super::units::show_duration;
use super::super::value::{OneOrMany, Size, Spot, Value, quote};
use super::words::Algorithm;
use super::{DAY, MINUTE, SECOND, default_list, lasts};
use crate::secret::Secret;
use crate::settings::{ClaimSource, CredentialForm, RESERVED_CLAIMS, SigningAlgorithm, TokenSettings};

/// What was read, and where its keys stand that have to fit to others.
pub(in super::super) struct TokensRead {
    pub(in super::super) settings: TokenSettings,
    pub(in super::super) algorithm: Origin,
    pub(in super::super) accept: Origin,
    /// Whether somebody wrote the audience.
    pub(in super::super) audience_given: bool,
}

pub(in super::super) fn read(root: &Section<'_>) -> TokensRead {
    let tokens = root.table("tokens", "tokens");
    let issuer = tokens.get_if("issuer", "gatepost".to_owned(), |text| judge_name(text)).value;
    let audience = read_audience(&tokens);
    let audience_given = tokens.entry("audience").is_some();
    let (algorithm, algorithm_origin) = read_algorithm(&tokens);
    let previous_secrets = read_previous(&tokens, &algorithm);
    let access_ttl = tokens.get_if("access_ttl", 15 * MINUTE, |ttl| {
        lasts(SECOND, 3650 * DAY)(ttl)?;
        // A token's times are whole seconds (RFC 7519 section 2, NumericDate as we write it).
        if ttl.subsec_nanos() == 0 { Ok(()) } else { Err("must be whole seconds".to_owned()) }
    });
    let refresh_ttl = tokens.get_if("refresh_ttl", 30 * DAY, lasts(SECOND, 3650 * DAY));
    let session_ttl = tokens.get_if("session_ttl", 90 * DAY, lasts(SECOND, 3650 * DAY));
    check_lives(&tokens, &access_ttl, &refresh_ttl, &session_ttl);
    let grace = tokens.get_if("refresh_grace", Duration::from_secs(10), lasts(Duration::ZERO, 5 * MINUTE));
    let leeway = tokens.get_if("leeway", Duration::from_secs(5), lasts(Duration::ZERO, 5 * MINUTE));
    let (claims, fixed_claims) = read_claims(&tokens);
    let (accept, accept_origin) = read_accept(&tokens);
    let settings = TokenSettings {
        issuer,
        audience,
        algorithm,
        access_ttl: access_ttl.value,
        refresh_ttl: refresh_ttl.value,
        session_ttl: session_ttl.value,
        refresh_grace: grace.value,
        leeway: leeway.value,
        accept,
        claims,
        fixed_claims,
        cache_bytes: tokens.get("cache", Size(64 << 20)).value.0,
        previous_secrets,
        legacy: Vec::new(),
    };
    tokens.finish();
    TokensRead { settings, algorithm: algorithm_origin, accept: accept_origin, audience_given }
}

pub(super) fn judge_name(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        return Err("must be 1 to 256 bytes without control characters".to_owned());
    }
    Ok(())
}

fn read_audience(tokens: &Section<'_>) -> Vec<String> {
    let audience = tokens.get("audience", OneOrMany(default_list(["app".to_owned()]))).value.0;
    for (index, spot) in audience.iter().enumerate() {
        if let Err(message) = judge_name(&spot.value) {
            tokens.reader().error(format!("tokens.audience: {message}"), &spot.origin);
        }
        if audience[..index].iter().any(|earlier| earlier.value == spot.value) {
            let message = format!("tokens.audience: {} is named twice", quote(&spot.value));
            tokens.reader().error(message, &spot.origin);
        }
    }
    audience.into_iter().map(|spot| spot.value).collect()
}

fn read_algorithm(tokens: &Section<'_>) -> (SigningAlgorithm, Origin) {
    let algorithm = tokens.get("algorithm", Algorithm::EdDsa);
    let secret = read_secret(tokens, secrets::judge);
    let reader = tokens.reader();
    if algorithm.broken {
        return (SigningAlgorithm::EdDsa, algorithm.origin);
    }
    let signing = match (algorithm.value, secret) {
        (Algorithm::EdDsa, None) | (Algorithm::Hs256, Some((None, _))) => SigningAlgorithm::EdDsa,
        (Algorithm::EdDsa, Some((_, at))) => {
            reader.error("tokens.secret: is for algorithm = \"HS256\"; EdDSA makes its own key", &at);
            SigningAlgorithm::EdDsa
        }
        (Algorithm::Hs256, Some((Some(secret), _))) => SigningAlgorithm::Hs256(secret),
        (Algorithm::Hs256, None) => {
            reader.error("tokens.algorithm: HS256 needs secret or secret_file", &algorithm.origin);
            SigningAlgorithm::EdDsa
        }
    };
    (signing, algorithm.origin)
}

/// Secrets of before: they were good enough to sign once, so the same is asked of them.
fn read_previous(tokens: &Section<'_>, algorithm: &SigningAlgorithm) -> Vec<Secret<Vec<u8>>> {
    let files: Vec<Spot<String>> = tokens.get("previous_secret_files", Vec::new()).value;
    let reader = tokens.reader();
    let label = "tokens.previous_secret_files";
    let mut secrets: Vec<Secret<Vec<u8>>> = Vec::new();
    for file in &files {
        let path = reader.resolve(&file.value, &file.origin);
        let read = secrets::read(&path).and_then(|secret| {
            let judged = secrets::judge(secret.expose());
            judged.map(|()| secret).map_err(|message| format!("the secret in {} {message}", path.display()))
        });
        check_exposure(tokens, label, &path, &file.origin);
        match read {
            Err(message) => reader.error(format!("{label}: {message}"), &file.origin),
            Ok(secret) if matches!(algorithm, SigningAlgorithm::Hs256(now) if *now == secret) => {
                reader.error(format!("{label}: this is the secret that signs now"), &file.origin);
            }
            Ok(secret) if secrets.contains(&secret) => {
                reader.error(format!("{label}: this secret is there twice"), &file.origin);
            }
            Ok(secret) => secrets.push(secret),
        }
    }
    if let (Some(first), SigningAlgorithm::EdDsa) = (files.first(), algorithm)
        && !reader.has_errors()
    {
        reader.error(format!("{label}: is for algorithm = \"HS256\""), &first.origin);
    }
    secrets
}

/// What a secret has to be; the message says why it is not.
type Judge = fn(&[u8]) -> Result<(), String>;

/// `secret` or `secret_file`, judged. The outer `None`: neither; the inner one: not good, and reported.
pub(super) fn read_secret(table: &Section<'_>, judge: Judge) -> Option<(Option<Secret<Vec<u8>>>, Origin)> {
    let reader = table.reader();
    let inline = table.by_hand("secret").map(|entry| &entry.value);
    let named = table.by_hand("secret_file").map(|entry| &entry.value);
    let (label, file_label) = (table.label("secret"), table.label("secret_file"));
    if let (Some(inline), Some(_)) = (inline, named) {
        reader.error(format!("{label} and {file_label} are both given"), &inline.origin);
        return Some((None, inline.origin.clone()));
    }
    if let Some(node) = inline {
        table.show_text("secret", quote("***"), &node.origin);
        let Some(text) = node.as_text() else {
            reader.error(format!("{label}: expected a string, found {}", node.type_name()), &node.origin);
            return Some((None, node.origin.clone()));
        };
        if matches!(node.origin, Origin::File(_)) {
            check_exposure(table, &label, reader.file().path(), &node.origin);
        }
        let secret = Secret::new(text.as_bytes().to_vec());
        return Some((judged(table, &label, secret, (judge, node)), node.origin.clone()));
    }
    let node = named?;
    let path = table.path("secret_file", Path::new(""));
    if path.broken {
        return Some((None, node.origin.clone()));
    }
    let secret = match secrets::read(&path.value) {
        Ok(secret) => secret,
        Err(message) => {
            reader.error(format!("{file_label}: {message}"), &node.origin);
            return Some((None, node.origin.clone()));
        }
    };
    check_exposure(table, &file_label, &path.value, &node.origin);
    Some((judged(table, &file_label, secret, (judge, node)), node.origin.clone()))
}

fn judged(
    table: &Section<'_>,
    label: &str,
    secret: Secret<Vec<u8>>,
    (judge, node): (Judge, &Node),
) -> Option<Secret<Vec<u8>>> {
    match judge(secret.expose()) {
        Ok(()) => Some(secret),
        Err(message) => {
            table.reader().error(format!("{label}: the secret {message}"), &node.origin);
            None
        }
    }
}

/// Who can change a key can make tokens; so can who reads a secret, but Kubernetes mounts secrets 0644.
pub(super) fn check_exposure(table: &Section<'_>, label: &str, path: &Path, origin: &Origin) {
    let reader = table.reader();
    let file = path.display();
    match secrets::exposure(path) {
        Ok(Exposure::Private) | Err(_) => {}
        Ok(Exposure::Readable(mode)) => {
            let message =
                format!("{label}: others can read the secret in {file} (mode {mode:04o}); chmod 600 it");
            reader.warn(message, origin);
        }
        Ok(Exposure::Writable(mode)) => {
            let message =
                format!("{label}: others can change the secret in {file} (mode {mode:04o}); chmod 600 it");
            reader.error(message, origin);
        }
    }
}

fn check_lives(
    tokens: &Section<'_>,
    access: &Read<Duration>,
    refresh: &Read<Duration>,
    session: &Read<Duration>,
) {
    if access.broken || refresh.broken || session.broken {
        return;
    }
    let reader = tokens.reader();
    let lasts = show_duration(session.value);
    if access.value > session.value {
        let at = if access.given() { &access.origin } else { &session.origin };
        let message =
            format!("tokens.access_ttl: {} is longer than session_ttl, {lasts}", show_duration(access.value));
        reader.error(message, at);
    }
    if access.value > DAY {
        let message =
            "tokens.access_ttl: longer than a day; who verifies tokens by itself hears of no logout before";
        reader.warn(message, &access.origin);
    }
    // Harmless when only the session was made short: it ends first.
    if refresh.value > session.value && refresh.given() {
        let message = format!(
            "tokens.refresh_ttl: {} is longer than session_ttl, {lasts}: the session ends first",
            show_duration(refresh.value)
        );
        reader.warn(message, &refresh.origin);
    }
}

fn read_accept(tokens: &Section<'_>) -> (Vec<CredentialForm>, Origin) {
    let accept =
        tokens.get_if("accept", default_list([CredentialForm::Bearer]), |accept| match accept.len() {
            0 => Err("nobody could present a token; name at least one form".to_owned()),
            _ => Ok(()),
        });
    let mut forms = Vec::new();
    for spot in accept.value {
        if forms.contains(&spot.value) {
            tokens
                .reader()
                .error(format!("tokens.accept: {} is named twice", spot.value.show()), &spot.origin);
        } else {
            forms.push(spot.value);
        }
    }
    (forms, accept.origin)
}

/// Claims that come from the account, and claims that are always the same.
type Claims = (Vec<(String, ClaimSource)>, Vec<(String, String)>);

fn read_claims(tokens: &Section<'_>) -> Claims {
    tokens.by_hand("claims");
    let section = tokens.table("claims", "tokens.claims");
    let reader = section.reader();
    let (mut claims, mut fixed) = (Vec::new(), Vec::new());
    for entry in section.entries() {
        let label = section.label(&entry.key);
        if RESERVED_CLAIMS.contains(&entry.key.as_str()) {
            let message =
                format!("tokens.claims: {} has a meaning of its own and cannot be set", quote(&entry.key));
            reader.error(message, &entry.key_origin);
            continue;
        }
        if entry.key.is_empty() || entry.key.len() > 128 || entry.key.chars().any(char::is_control) {
            let message = "tokens.claims: a claim's name is 1 to 128 bytes without control characters";
            reader.error(message, &entry.key_origin);
            continue;
        }
        if let Some(text) = entry.value.as_text().and_then(|text| text.strip_prefix('=')) {
            section.show_text(&entry.key, quote(&format!("={text}")), &entry.value.origin);
            fixed.push((entry.key.clone(), text.to_owned()));
            continue;
        }
        match ClaimSource::read(&entry.value) {
            Ok(source) => {
                section.show(&entry.key, &source, &entry.value.origin);
                claims.push((entry.key.clone(), source));
            }
            Err(faults) => {
                for fault in faults {
                    reader.error(format!("{label}: {}", fault.message), &fault.origin);
                }
            }
        }
    }
    if claims.is_empty() && fixed.is_empty() {
        tokens.show_text("claims", "{}".to_owned(), section.origin());
    }
    (claims, fixed)
}
