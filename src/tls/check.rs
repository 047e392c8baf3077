//! What can be said about certificates before anything is served: the `check` command.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::certificate::Certificate;
use super::parameters::Parameters;
use super::{TlsError, load};
use crate::settings::TlsSettings;

/// A certificate that runs out within this many seconds deserves a word.
const SOON: i64 = 14 * 86_400;

/// Something about a file that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which file; `None` for what is about all of them.
    pub file: Option<PathBuf>,
    /// What.
    pub message: String,
    /// Whether the gateway cannot be started like this.
    pub is_error: bool,
}

impl Finding {
    fn error(file: Option<&Path>, message: impl Into<String>) -> Self {
        Self { file: file.map(Path::to_owned), message: message.into(), is_error: true }
    }
    fn warning(file: &Path, message: impl Into<String>) -> Self {
        Self { file: Some(file.to_owned()), message: message.into(), is_error: false }
    }
}

/// Every problem of the files that the settings name, as of `now` (seconds since 1970).
#[must_use]
pub fn check(settings: &TlsSettings, now: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for files in &settings.certificates {
        let one = TlsSettings { certificates: vec![files.clone()], ..settings.clone() };
        match load(&one) {
            Ok(certificates) => {
                findings.extend(certificates.iter().filter_map(|it| validity(it, &files.cert, now)));
            }
            Err(error) => findings.extend(errors(error)),
        }
        findings.extend(permissions(&files.key));
    }
    if let Err(error) = Parameters::load(settings) {
        findings.extend(errors(error));
    }
    findings
}

fn errors(error: TlsError) -> Vec<Finding> {
    match error {
        TlsError::Files(errors) => errors
            .into_iter()
            .map(|error| Finding::error(Some(&error.file), error.fault.to_string()))
            .collect(),
        TlsError::Setup(why) => vec![Finding::error(None, why)],
    }
}

fn validity(certificate: &Certificate, file: &Path, now: i64) -> Option<Finding> {
    if certificate.not_after() <= now {
        Some(Finding::warning(file, "the certificate has expired"))
    } else if certificate.not_before() > now {
        Some(Finding::warning(file, "the certificate is not valid yet"))
    } else if certificate.not_after() - now < SOON {
        let days = (certificate.not_after() - now) / 86_400;
        Some(Finding::warning(file, format!("the certificate expires in {days} days")))
    } else if certificate.names().is_empty() {
        Some(Finding::warning(file, "the certificate has no DNS name: clients compare nothing else"))
    } else {
        None
    }
}

/// As for other files of secrets: who may write to it may be anybody's server; mounted secrets are often
/// readable for all.
fn permissions(key: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(key).ok()?.permissions().mode();
    if mode & 0o022 != 0 {
        Some(Finding::error(Some(key), "the private key is writable for its group or for everybody"))
    } else if mode & 0o044 != 0 {
        Some(Finding::warning(key, "the private key is readable for its group or for everybody"))
    } else {
        None
    }
}
