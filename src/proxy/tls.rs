//! TLS towards upstream servers: whom we believe, what we show, and under which name.
//!
//! The files are read when the configuration is, and again when it is reloaded: a [`ClientTls`] does
//! not change. It is shared by all workers, so that a session one of them made can be resumed by the
//! others. The protocol is agreed in the handshake (ALPN, RFC 7301): HTTP/2 or HTTP/1.1.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pool::Wanted;
use crate::settings::{
    CertificateFiles, Endpoint, UpstreamScheme, UpstreamServer, UpstreamSettings, UpstreamTls,
};

/// HTTP/2 in ALPN (RFC 9113 section 3.2).
pub(super) const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1 in ALPN (RFC 7301 section 6).
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// How one upstream's servers are spoken to over TLS.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// The same, without HTTP/2.
    http1: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

/// A file, or what is in it, that TLS towards an upstream cannot be made with.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not PEM.
    #[error("{}: not PEM: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// It is PEM, but what is wanted is not in it.
    #[error("{}: there is no {wanted} in it", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
    },
    /// A certificate or key that cannot be used.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// `ca` is not set, and the system believes nobody.
    #[error("the system has no certificates of authorities; set ca ({0})")]
    NoSystemRoots(String),
    /// No certificate can have this name.
    #[error("{name:?} is not a name that a certificate can have")]
    Name {
        /// The host, or `server_name`.
        name: String,
        /// Why.
        source: InvalidDnsNameError,
    },
}

impl TlsFileError {
    /// The file, when it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::Pem { path, .. }
            | Self::Missing { path, .. }
            | Self::Unusable { path, .. } => Some(path),
            Self::NoSystemRoots(_) | Self::Name { .. } => None,
        }
    }
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsFileError`] names the file.
    pub fn load(settings: &UpstreamTls) -> Result<Self, TlsFileError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let ca = settings.ca.as_deref();
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsFileError::Unusable { path, source }
        };
        let roots = Arc::new(ca.map_or_else(system_roots, read_roots)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|error| TlsFileError::Unusable {
            path: ca.map(Path::to_owned).unwrap_or_default(),
            source: rustls::Error::General(error.to_string()),
        })?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable(Path::new("TLS")))?
            .with_webpki_verifier(verifier);
        let mut config = match &settings.client {
            None => config.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = read_certificate(files)?;
                config.with_client_auth_cert(chain, key).map_err(unusable(&files.cert))?
            }
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
        let server_name = settings.server_name.as_deref().map(parse_name).transpose()?;
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        Ok(Self { config: Arc::new(config), http1: Arc::new(http1), server_name })
    }

    /// The TLS of an upstream; `None` when none of its servers is behind `https://`.
    ///
    /// # Errors
    /// [`TlsFileError`] names the file, or the name that is none.
    pub fn of(upstream: &UpstreamSettings) -> Result<Option<Self>, TlsFileError> {
        let mut secured = upstream.servers.iter().filter(|server| server.scheme == UpstreamScheme::Https);
        let Some(first) = secured.next() else { return Ok(None) };
        let tls = Self::load(&upstream.tls)?;
        for server in std::iter::once(first).chain(secured) {
            tls.name_of(server)?;
        }
        Ok(Some(tls))
    }

    /// The name that a server's certificate must have: `server_name`, or else the server's host.
    pub(super) fn name_of(&self, server: &UpstreamServer) -> Result<ServerName<'static>, TlsFileError> {
        match (&self.server_name, &server.endpoint) {
            (Some(name), _) => Ok(name.clone()),
            (None, Endpoint::Tcp(authority)) => parse_name(host(authority)),
            (None, Endpoint::Unix(_)) => parse_name("localhost"),
        }
    }

    /// The handshake. The caller sees to it that it ends in time.
    pub(super) async fn connect(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
        wanted: Wanted,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = match wanted {
            Wanted::Any => &self.config,
            Wanted::Http1 => &self.http1,
        };
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// The host in `HOST:PORT`, without the brackets of an IPv6 address.
fn host(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsFileError> {
    let parsed = ServerName::try_from(name.to_owned());
    parsed.map_err(|source| TlsFileError::Name { name: name.to_owned(), source })
}

fn system_roots() -> Result<RootCertStore, TlsFileError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // The system's store may hold what this library does not know; what it knows is enough.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map_or_else(|| "none was found".to_owned(), ToString::to_string);
        return Err(TlsFileError::NoSystemRoots(why));
    }
    Ok(roots)
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        roots.add(certificate).map_err(|source| TlsFileError::Unusable { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

fn read_certificate(
    files: &CertificateFiles,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsFileError> {
    let chain = read_chain(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsFileError::Missing { path: files.key.clone(), wanted: "private key" },
        source => TlsFileError::Pem { path: files.key.clone(), source },
    })?;
    Ok((chain, key))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let text = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|source| TlsFileError::Pem { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(TlsFileError::Missing { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(chain)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    std::fs::read(path).map_err(|source| TlsFileError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that signs itself, and its key, in files.
    fn files(home: &Path) -> CertificateFiles {
        let made = rcgen::generate_simple_self_signed(["app.test".to_owned()]).expect("a certificate");
        let files = CertificateFiles { cert: home.join("cert.pem"), key: home.join("key.pem") };
        std::fs::write(&files.cert, made.cert.pem()).expect("written");
        std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
        files
    }

    #[test]
    fn the_host_of_an_authority_is_what_the_certificate_is_for() {
        for (authority, expected) in
            [("app.example.com:443", "app.example.com"), ("10.0.0.5:8443", "10.0.0.5"), ("[::1]:8443", "::1")]
        {
            assert_eq!(host(authority), expected);
            assert!(parse_name(host(authority)).is_ok(), "{authority}");
        }
        assert!(matches!(parse_name("no host at all"), Err(TlsFileError::Name { .. })));
    }

    #[test]
    fn good_files_are_read() {
        let home = tempfile::tempdir().expect("a directory");
        let files = files(home.path());
        let settings = UpstreamTls {
            ca: Some(files.cert.clone()),
            client: Some(files),
            server_name: Some("app.test".to_owned()),
        };
        let tls = ClientTls::load(&settings).expect("all is there");
        assert_eq!(tls.config.alpn_protocols, [ALPN_H2, ALPN_HTTP1]);
        assert!(tls.config.client_auth_cert_resolver.has_certs());
    }

    #[test]
    fn a_bad_file_is_named() {
        let home = tempfile::tempdir().expect("a directory");
        let good = files(home.path());
        let missing = home.path().join("missing.pem");
        let rubbish = home.path().join("rubbish.pem");
        std::fs::write(&rubbish, "rubbish").expect("written");
        let other = rcgen::generate_simple_self_signed(["other.test".to_owned()]).expect("a certificate");
        let other_key = home.path().join("other.key");
        std::fs::write(&other_key, other.signing_key.serialize_pem()).expect("written");
        let client = |cert: &Path, key: &Path| UpstreamTls {
            ca: Some(good.cert.clone()),
            client: Some(CertificateFiles { cert: cert.to_owned(), key: key.to_owned() }),
            server_name: None,
        };
        let ca = |path: &Path| UpstreamTls { ca: Some(path.to_owned()), ..UpstreamTls::default() };
        for (settings, named) in [
            (ca(&missing), "missing.pem: "),
            (ca(&rubbish), "rubbish.pem: there is no certificate"),
            (ca(&good.key), "key.pem: there is no certificate"),
            (client(&missing, &good.key), "missing.pem: "),
            (client(&good.cert, &missing), "missing.pem: "),
            (client(&good.cert, &rubbish), "rubbish.pem: there is no private key"),
            (client(&good.cert, &other_key), "cert.pem: "),
        ] {
            let error = ClientTls::load(&settings).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
