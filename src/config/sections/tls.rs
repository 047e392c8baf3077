//! `[server.tls]` and `[server.tls.acme]`. What the files hold is judged where they are used; here it is
//! whether the keys say something that can work.

use std::path::PathBuf;

use super::super::address::{Listen, is_name};
use super::super::origin::Origin;
use super::super::reader::Section;
use super::super::tree::{Kind, Node};
use super::super::value::{OneOrMany, Spot, quote};
use crate::settings::{AcmeSettings, CertificateFiles, ClientAuth, TlsSettings, TlsVersion};

/// Where certificates come from when nobody says otherwise.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// As many names as Let's Encrypt puts on one certificate.
const MOST_DOMAINS: usize = 100;

/// `[server.tls]`, and what the checks across tables point at.
pub(super) struct TlsRead {
    pub(super) settings: TlsSettings,
    /// Where `[server.tls.acme]` opens.
    acme: Origin,
}

/// Only a table that is there: TLS needs certificates, so it has no default.
pub(super) fn read(server: &Section<'_>) -> Option<TlsRead> {
    let tls = server.optional_table("tls", "server.tls")?;
    let certificates = read_certificates(&tls);
    let min_version = tls.get("min_version", TlsVersion::Tls12).value;
    let (client_ca, client_auth) = read_clients(&tls);
    let acme = read_acme(&tls);
    let written = tls.entry("certificates").map(|entry| &entry.value);
    let none = |node: &Node| matches!(&node.kind, Kind::Array(items) if items.is_empty());
    if written.is_none_or(none) && tls.entry("acme").is_none() {
        let message = "server.tls.certificates: at least one is needed, or [server.tls.acme] to get one";
        tls.reader().error(message, written.map_or(tls.origin(), |node| &node.origin));
    }
    let acme_origin = tls.entry("acme").map_or(Origin::Default, |entry| entry.key_origin.clone());
    tls.finish();
    let settings = TlsSettings { certificates, min_version, client_ca, client_auth, acme };
    Some(TlsRead { settings, acme: acme_origin })
}

fn read_certificates(tls: &Section<'_>) -> Vec<CertificateFiles> {
    tls.by_hand("certificates");
    let mut certificates: Vec<CertificateFiles> = Vec::new();
    for table in tls.tables_as("certificates", "server.tls.certificates") {
        let cert = table.required_path("cert");
        let key = table.required_path("key");
        if let (Some(cert), Some(key)) = (cert, key) {
            let files = CertificateFiles { cert: cert.value, key: key.value };
            if certificates.contains(&files) {
                table.reader().error(format!("{} is there twice", table.label_of_table()), table.origin());
            }
            certificates.push(files);
        }
        table.finish();
    }
    certificates
}

/// Whose certificates are believed, and whether they are asked for: one says nothing without the other.
fn read_clients(tls: &Section<'_>) -> (Option<PathBuf>, ClientAuth) {
    let client_ca = tls.optional_path("client_ca");
    let auth = tls.get("client_auth", ClientAuth::Off);
    match (&client_ca, auth.value) {
        (None, ClientAuth::Optional | ClientAuth::Required) => {
            let message = "server.tls.client_auth: needs client_ca, the authorities whose certificates count";
            tls.reader().error(message, &auth.origin);
        }
        (Some(ca), ClientAuth::Off) if !auth.broken => {
            let message =
                "server.tls.client_ca: no client is asked for a certificate; client_auth is \"off\"";
            tls.reader().warn(message, &ca.origin);
        }
        (_, ClientAuth::Off | ClientAuth::Optional | ClientAuth::Required) => {}
    }
    (client_ca.map(|ca| ca.value), auth.value)
}

fn read_acme(tls: &Section<'_>) -> Option<AcmeSettings> {
    let acme = tls.optional_table("acme", "server.tls.acme")?;
    let domains = read_domains(&acme);
    let email = acme.get_if("email", String::new(), |text| judge_email(text)).value;
    let directory = acme.get_if("directory", LETS_ENCRYPT.to_owned(), |text| judge_directory(text)).value;
    let agreed = acme.get("agree_to_terms", false);
    if !agreed.value && !agreed.broken {
        let message = "server.tls.acme.agree_to_terms: must be true: who asks an authority for certificates \
                       agrees to its terms of service";
        let at = if agreed.given() { &agreed.origin } else { acme.origin() };
        acme.reader().error(message, at);
    }
    let ca = acme.optional_path("ca").map(|ca| ca.value);
    acme.finish();
    Some(AcmeSettings { domains, email: Some(email).filter(|email| !email.is_empty()), directory, ca })
}

fn read_domains(acme: &Section<'_>) -> Vec<String> {
    let read = acme.required("domains", |domains: &OneOrMany<String>| match domains.0.len() {
        0 => Err("at least one name is needed".to_owned()),
        count if count > MOST_DOMAINS => Err(format!("at most {MOST_DOMAINS} names fit one certificate")),
        _ => Ok(()),
    });
    let mut domains: Vec<String> = Vec::new();
    for Spot { value, origin } in read.map(|read| read.value.0).unwrap_or_default() {
        let name = value.to_ascii_lowercase();
        if let Err(message) = judge_domain(&name) {
            acme.reader().error(format!("server.tls.acme.domains: {message}"), &origin);
        } else if domains.contains(&name) {
            acme.reader().error(format!("server.tls.acme.domains: {} is there twice", quote(&name)), &origin);
        } else {
            domains.push(name);
        }
    }
    domains
}

/// A name that can be proved by answering under it.
fn judge_domain(name: &str) -> Result<(), String> {
    let shown = quote(name);
    if name.starts_with("*.") {
        return Err(format!("{shown}: a wildcard is proved by DNS only, which the gateway does not change"));
    }
    if name.contains("://") {
        return Err(format!("{shown} is a URL; write the name alone, as in \"app.example.com\""));
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("{shown} is an address; certificates are for names here"));
    }
    let full = is_name(name) && name.contains('.') && !name.ends_with('.') && !name.contains('_');
    if full { Ok(()) } else { Err(format!("{shown} is no full name, as in \"app.example.com\"")) }
}

fn judge_email(text: &str) -> Result<(), String> {
    if text.is_empty() || email_address::EmailAddress::is_valid(text) {
        return Ok(());
    }
    Err(format!("{} is no e-mail address", quote(text)))
}

fn judge_directory(text: &str) -> Result<(), String> {
    let url: Option<http::Uri> = text.parse().ok();
    let good = url.as_ref().is_some_and(|url| url.scheme_str() == Some("https") && url.host().is_some());
    // A password in a URL must not be repeated.
    if text.contains('@') {
        return Err("has no user and password in its URL".to_owned());
    }
    if good { Ok(()) } else { Err(format!("{} is no https:// URL", quote(text))) }
}

/// Whether an authority can reach what answers it: tls-alpn-01 (RFC 8737) is always on port 443, http-01
/// (RFC 8555 section 8.3) on port 80. A port may be mapped in front of us, so this is only a warning.
pub(super) fn warn_of_ports(
    server: &Section<'_>,
    tls: &TlsRead,
    listen: &[Spot<Listen>],
    redirect: &[Spot<Listen>],
) {
    let has = |places: &[Spot<Listen>], wanted: u16| {
        places.iter().any(|spot| matches!(spot.value, Listen::Tcp { port, .. } if port == wanted))
    };
    if tls.settings.acme.is_some() && !has(listen, 443) && !has(redirect, 80) {
        let message = "server.tls.acme: authorities ask on port 443 or on port 80, and neither is in listen or \
                       redirect_http; fine if one of them is mapped to here";
        server.reader().warn(message, &tls.acme);
    }
}
