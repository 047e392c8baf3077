//! A certificate chain and its key, read from PEM and proved to belong together.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::settings::CertificateFiles;

/// Chains and keys are a few kilobytes; what is larger is something else.
const FILE_MAX: u64 = 1 << 20;

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct FileError {
    /// Which.
    pub file: PathBuf,
    /// Why.
    pub fault: Fault,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// It is no certificate, key or anything else that PEM knows.
    #[error("not PEM: {0}")]
    NotPem(String),
    /// PEM, with something else in it.
    #[error("no certificate in it")]
    NoCertificate,
    /// PEM, with something else in it.
    #[error("no private key in it")]
    NoKey,
    /// The certificate is not X.509 that can be read.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// A key of a kind that is not served.
    #[error("the private key cannot be used: {0}")]
    UnusableKey(String),
    /// The key is for another certificate.
    #[error("the private key does not belong to the certificate in {}", cert.display())]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
    },
}

/// A chain with its key, ready to sign handshakes.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

impl Certificate {
    /// Reads and checks both files. That it has expired is no error: some clients do not care, and the
    /// others say so better than a gateway that does not start.
    ///
    /// # Errors
    /// [`FileError`], naming the one of the two that is to blame.
    pub fn load(files: &CertificateFiles) -> Result<Self, FileError> {
        let cert = read(&files.cert)?;
        let key = read(&files.key)?;
        Self::from_pem(&cert, &key).map_err(|fault| {
            let file = match fault {
                Fault::NoKey | Fault::UnusableKey(_) | Fault::Mismatch { .. } => &files.key,
                _ => &files.cert,
            };
            let fault = match fault {
                Fault::Mismatch { .. } => Fault::Mismatch { cert: files.cert.clone() },
                fault => fault,
            };
            FileError { file: file.clone(), fault }
        })
    }

    /// The same for PEM in memory.
    ///
    /// # Errors
    /// [`Fault`]; a mismatch names no file.
    pub fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, Fault> {
        let chain = certificates(cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => Fault::NoKey,
            error => Fault::UnusableKey(error.to_string()),
        })?;
        let leaf = chain.first().ok_or(Fault::NoCertificate)?.clone();
        let (_, parsed) =
            X509Certificate::from_der(&leaf).map_err(|error| Fault::Malformed(error.to_string()))?;
        let names = names(&parsed);
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Fault::Mismatch { cert: PathBuf::new() },
            rustls::Error::InvalidCertificate(error) => Fault::Malformed(format!("{error:?}")),
            error => Fault::UnusableKey(error.to_string()),
        })?;
        Ok(Self { key: Arc::new(key), names, not_before, not_after })
    }

    /// What handshakes are signed with.
    #[must_use]
    pub const fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// DNS names of the subject alternative names (RFC 6125: the common name does not count), lower case;
    /// a wildcard starts with `*.`.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The beginning of its validity, in seconds since 1970.
    #[must_use]
    pub const fn not_before(&self) -> i64 {
        self.not_before
    }

    /// The end of its validity, in seconds since 1970.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.not_after
    }

    /// What metrics call it: its first name, or its place among the others.
    #[must_use]
    pub fn label(&self, index: usize) -> String {
        self.names.first().cloned().unwrap_or_else(|| format!("certificate {}", index + 1))
    }
}

/// The certificates in a PEM file, at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| Fault::NotPem(error.to_string()))?;
    if all.is_empty() { Err(Fault::NoCertificate) } else { Ok(all) }
}

/// The whole file, wiped when it is dropped: it may hold a key.
pub(super) fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let unreadable = |why: String| FileError { file: file.to_owned(), fault: Fault::Unreadable(why) };
    let opened = File::open(file).map_err(|error| unreadable(error.to_string()))?;
    let length = opened.metadata().map_or(0, |metadata| metadata.len());
    if length > FILE_MAX {
        return Err(unreadable(format!("{length} bytes are too many for a certificate or a key")));
    }
    // Of one piece: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    opened.take(FILE_MAX).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    Ok(bytes)
}

/// The cryptography, named wherever it is needed: a process-wide default could be set by whoever comes
/// first.
pub(super) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}
