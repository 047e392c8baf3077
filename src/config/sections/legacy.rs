//! `[[legacy_token]]`.

use std::path::Path;

use rustls::pki_types::pem::{self, PemObject as _, SectionKind};

use super::super::origin::Origin;
use super::super::problem::Problem;
use super::super::reader::Section;
use super::super::secrets;
use super::super::value::{Spot, quote};
use super::tokens::{judge_name, read_secret};
use super::until::Until;
use crate::settings::{LegacyAccount, LegacyAlgorithm, LegacyKey, LegacyTokenSettings};
use crate::token::legacy::judge_key;

/// As deep as anything that names a user.
const DEEPEST: usize = 4;

/// A table and where it stands.
pub(in super::super) struct LegacyRead {
    pub(in super::super) settings: LegacyTokenSettings,
    pub(in super::super) origin: Origin,
    /// Of the key.
    pub(in super::super) key: Origin,
}

pub(in super::super) fn read(root: &Section<'_>) -> Vec<LegacyRead> {
    let mut found: Vec<LegacyRead> = Vec::new();
    for table in root.tables("legacy_token") {
        let read = read_one(&table);
        table.finish();
        let Some(read) = read else { continue };
        // One key, one meaning: the first that fits is the one that counts.
        let same = |other: &&LegacyRead| {
            let (this, that) = (&read.settings, &other.settings);
            this.key == that.key && this.algorithm == that.algorithm
        };
        if let Some(other) = found.iter().find(same) {
            let reader = root.reader();
            let problem =
                Problem::error("the same key and algorithm are there twice", reader.place(&read.key))
                    .note("the other one", reader.place(&other.key));
            reader.push(problem);
        }
        found.push(read);
    }
    found
}

fn read_one(table: &Section<'_>) -> Option<LegacyRead> {
    let algorithm = table.required::<LegacyAlgorithm>("algorithm", |_| Ok(()));
    let key = read_key(table, algorithm.as_ref());
    let user = table.get_if("user", "sub".to_owned(), |path| claim_path(path).map(drop)).value;
    let account = table.get("account", LegacyAccount::Either).value;
    let ignore_case = table.get("ignore_case", false);
    if account == LegacyAccount::Id && ignore_case.value {
        table.warn_of_idle("ignore_case", &ignore_case, "beside account = \"id\": ids are taken as they are");
    }
    let issuer = table.optional::<String>("issuer", |name| judge_name(name));
    let audience = table.optional::<String>("audience", |name| judge_name(name));
    let until = table.required::<Until>("until", |_| Ok(()));
    let (key, key_origin) = key?;
    let settings = LegacyTokenSettings {
        algorithm: algorithm?.value,
        key,
        user: claim_path(&user).ok()?,
        account,
        ignore_case: ignore_case.value,
        issuer: issuer.map(|spot| spot.value),
        audience: audience.map(|spot| spot.value),
        until: until?.value.secs,
    };
    Some(LegacyRead { settings, origin: table.origin().clone(), key: key_origin })
}

/// `sub`, or `sub.username` for a claim that is an object.
fn claim_path(text: &str) -> Result<Vec<String>, String> {
    let no_claim = || format!("{} is no claim's name, as in \"sub\" or \"sub.username\"", quote(text));
    dotted(text).ok_or_else(no_claim)
}

/// The names of members within one another, the outermost first.
pub(super) fn dotted(text: &str) -> Option<Vec<String>> {
    let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
    let good = |part: &String| !part.is_empty() && !part.chars().any(char::is_control);
    (parts.len() <= DEEPEST && text.len() <= 128 && parts.iter().all(good)).then_some(parts)
}

/// The key that the algorithm is for, from the one key of the table that may hold it.
fn read_key(table: &Section<'_>, algorithm: Option<&Spot<LegacyAlgorithm>>) -> Option<(LegacyKey, Origin)> {
    let reader = table.reader();
    let secret = read_secret(table, judge_secret);
    let public = table.by_hand("public_key_file");
    let algorithm = algorithm?;
    let name = algorithm.value.name();
    match (algorithm.value.is_symmetric(), secret, public) {
        (true, Some((secret, at)), None) => {
            let secret = secret?;
            warn_of_weak(table, secret.expose(), &at);
            Some((LegacyKey::Secret(secret), at))
        }
        (false, None, Some(entry)) => {
            let at = entry.value.origin.clone();
            Some((read_public(table, algorithm.value, &at)?, at))
        }
        (true, None, None) => {
            let message = format!("{}: {name} needs secret or secret_file", table.label("algorithm"));
            reader.error(message, &algorithm.origin);
            None
        }
        (false, None, None) => {
            let message = format!("{}: {name} needs public_key_file", table.label("algorithm"));
            reader.error(message, &algorithm.origin);
            None
        }
        // Whoever has the public key could sign with it, were it taken for a secret.
        (true, _, Some(entry)) => {
            let message =
                format!("{}: {name} has a secret and no public key", table.label("public_key_file"));
            reader.error(message, &entry.value.origin);
            None
        }
        (false, Some((_, at)), _) => {
            let message = format!("{}: {name} has a public key and no secret", table.label("secret"));
            reader.error(message, &at);
            None
        }
    }
}

/// Any secret that the app has used, but nothing that is no secret.
fn judge_secret(secret: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(secret);
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    let begins = |mark: &str| text.trim_start().starts_with(mark);
    if text.contains("-----BEGIN") || begins("ssh-") || begins("ecdsa-") || begins("{") {
        return Err("is a key file; a public key checks tokens as public_key_file only".to_owned());
    }
    Ok(())
}

fn warn_of_weak(table: &Section<'_>, secret: &[u8], at: &Origin) {
    let Err(why) = secrets::judge(secret) else { return };
    let why = why.split(';').next().unwrap_or_default();
    let message = format!(
        "{}: the secret {why}: whoever guesses it can be anybody until the end of this table",
        table.label("secret")
    );
    table.reader().warn(message, at);
}

fn read_public(table: &Section<'_>, algorithm: LegacyAlgorithm, at: &Origin) -> Option<LegacyKey> {
    let path = table.path("public_key_file", Path::new(""));
    if path.broken {
        return None;
    }
    let label = table.label("public_key_file");
    let file = path.value.display();
    let key = secrets::read(&path.value).and_then(|text| {
        let der = public_der(text.expose()).map_err(|why| format!("{file} {why}"))?;
        let key = LegacyKey::Public(der);
        judge_key(algorithm, &key)
            .map_err(|why| format!("{file} is no key for {}: {why}", algorithm.name()))?;
        Ok(key)
    });
    if matches!(secrets::exposure(&path.value), Ok(secrets::Exposure::Writable(_))) {
        table.reader().error(format!("{label}: others can change {file}; chmod 644 it"), at);
    }
    key.map_err(|message| table.reader().error(format!("{label}: {message}"), at)).ok()
}

/// The one public key of a PEM file.
fn public_der(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let sections: Result<Vec<(SectionKind, Vec<u8>)>, pem::Error> = pem_sections(text);
    let sections = sections.map_err(|_| "is no PEM")?;
    if sections.iter().any(|(kind, _)| {
        matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
    }) {
        return Err("holds a private key, which only who signs should have; give the public one");
    }
    match <[_; 1]>::try_from(sections) {
        Ok([(SectionKind::PublicKey, der)]) => Ok(der),
        Ok([(SectionKind::Certificate, _)]) => {
            Err("is a certificate; take its key with `openssl x509 -pubkey -noout`")
        }
        Ok(_) => Err("is no public key (-----BEGIN PUBLIC KEY-----)"),
        Err(several) if several.is_empty() => Err("has no public key (-----BEGIN PUBLIC KEY-----)"),
        Err(_) => Err("holds more than one key"),
    }
}

fn pem_sections(text: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, pem::Error> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text).collect()
}
