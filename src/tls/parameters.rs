//! What all handshakes have in common: versions, client certificates, tickets, protocols.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use super::TlsError;
use super::certificate::{Fault, FileError, certificates, provider, read};
use super::choice::Choice;
use crate::settings::{ClientAuth, TlsSettings, TlsVersion};

/// HTTP/2 in ALPN.
pub const HTTP2: &[u8] = b"h2";
/// Protocols by ALPN (RFC 7301), the better one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
/// Both versions, and the newer one only.
static FROM_12: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
static FROM_13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// Everything but the certificates. When it changes, sessions begin anew.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    min_version: TlsVersion,
    client_auth: ClientAuth,
    authorities: Vec<CertificateDer<'static>>,
}

impl Parameters {
    pub(super) fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        let authorities = match (&settings.client_ca, settings.client_auth) {
            (Some(file), ClientAuth::Optional | ClientAuth::Required) => {
                let outcome = read(file).and_then(|pem| {
                    certificates(&pem)
                        .and_then(usable)
                        .map_err(|fault| FileError { file: file.clone(), fault })
                });
                outcome.map_err(|error| TlsError::Files(vec![error]))?
            }
            (None, ClientAuth::Optional | ClientAuth::Required) => {
                return Err(TlsError::Setup("client_auth needs a client_ca".to_owned()));
            }
            (_, ClientAuth::Off) => Vec::new(),
        };
        Ok(Self { min_version: settings.min_version, client_auth: settings.client_auth, authorities })
    }

    /// A configuration with a ticket key of its own: one for all workers, so that a session resumes
    /// wherever the next connection lands. No early data: it can be replayed (RFC 8446 section 8).
    pub(super) fn config(&self, choice: Arc<Choice>) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(provider());
        let versions = match self.min_version {
            TlsVersion::Tls12 => FROM_12,
            TlsVersion::Tls13 => FROM_13,
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| setup(&error))?;
        let builder = if self.client_auth == ClientAuth::Off {
            builder.with_no_client_auth()
        } else {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&self.authorities)?), provider);
            let verifier = if self.client_auth == ClientAuth::Optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| setup(&error))?)
        };
        let mut config = builder.with_cert_resolver(choice);
        config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Ticketer::new().map_err(|error| setup(&error))?;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }
}

fn usable(authorities: Vec<CertificateDer<'static>>) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).map_err(|error| Fault::Malformed(error.to_string()))?;
    }
    Ok(authorities)
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| setup(&error))?;
    }
    Ok(roots)
}

fn setup(error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}
