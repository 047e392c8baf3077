//! What an ACME authority comes and looks for: a file over clear text (RFC 8555 section 8.3), or a
//! certificate in a handshake (RFC 8737).
//!
//! Kept apart from what clients are served: a challenge's certificate is given to nobody who does not
//! ask for `acme-tls/1`, and such a connection carries no request.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustc_hash::FxHashMap;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::certificate::provider;

/// The protocol of RFC 8737 in ALPN.
pub const ACME_ALPN: &[u8] = b"acme-tls/1";
/// Where RFC 8555 has the file.
const PATH: &str = "/.well-known/acme-challenge/";

/// How a name is proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChallengeKind {
    /// A file over clear text, on port 80.
    File,
    /// A certificate in a handshake, on port 443.
    Handshake,
}

impl ChallengeKind {
    /// As the RFCs call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "http-01",
            Self::Handshake => "tls-alpn-01",
        }
    }
}

/// A certificate for a challenge could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no challenge certificate for {domain}: {reason}")]
pub struct ChallengeError {
    domain: String,
    reason: String,
}

/// The challenges that are open now; mostly none. Read without locks.
#[derive(Debug, Default)]
pub struct Challenges(ArcSwap<Open>);

#[derive(Clone, Debug, Default)]
struct Open {
    /// Token to key authorization.
    files: FxHashMap<String, String>,
    /// Domain to what its handshakes are served with.
    handshakes: FxHashMap<String, Arc<ServerConfig>>,
}

impl Challenges {
    /// Answers for a token.
    pub fn open_file(&self, token: &str, key_authorization: &str) {
        self.change(|open| {
            open.files.insert(token.to_owned(), key_authorization.to_owned());
        });
    }

    /// Answers for a domain. `digest` is the key authorization's SHA-256.
    ///
    /// # Errors
    /// [`ChallengeError`] when the domain is none that a certificate can have.
    pub fn open_handshake(&self, domain: &str, digest: &[u8]) -> Result<(), ChallengeError> {
        let config = challenge_config(domain, digest)
            .map_err(|reason| ChallengeError { domain: domain.to_owned(), reason })?;
        self.change(|open| {
            open.handshakes.insert(domain.to_ascii_lowercase(), Arc::new(config.clone()));
        });
        Ok(())
    }

    /// The authority has looked.
    pub fn close_all(&self) {
        self.0.store(Arc::default());
    }

    /// The key authorization that is to be found at a request's path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(PATH)?;
        self.0.load().files.get(token).cloned()
    }

    /// What an authority's handshake is served with; `None` for everybody else's.
    #[must_use]
    pub fn handshake(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let open = self.0.load();
        if open.handshakes.is_empty() || !hello.alpn()?.eq([ACME_ALPN]) {
            return None;
        }
        open.handshakes.get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }

    fn change(&self, change: impl Fn(&mut Open)) {
        self.0.rcu(|open| {
            let mut open = Open::clone(open);
            change(&mut open);
            open
        });
    }
}

/// A self-signed certificate for the domain with the digest in a critical extension (RFC 8737 section 3).
fn challenge_config(domain: &str, digest: &[u8]) -> Result<ServerConfig, String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = CertificateParams::new([domain.to_owned()]).map_err(|error| error.to_string())?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = provider();
    // Not checked against the key: the extension is critical, and known to authorities only.
    let key = provider.key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    let key = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ACME_ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_for_one_domain_and_one_protocol() {
        let challenges = Challenges::default();
        challenges.open_handshake("A.example.com", &[7; 32]).expect("a name");
        assert!(challenges.open_handshake("no name: \u{e9}", &[7; 32]).is_err());
        let found = |name: &str, protocols: &[&[u8]]| {
            let roots = rustls::RootCertStore::empty();
            let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
            let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).expect("bytes");
            }
            let mut acceptor = rustls::server::Acceptor::default();
            acceptor.read_tls(&mut &bytes[..]).expect("read");
            let hello = acceptor.accept().ok().flatten().expect("whole");
            challenges.handshake(&hello.client_hello())
        };
        let config = found("a.example.com", &[ACME_ALPN]).expect("it is open");
        assert_eq!(config.alpn_protocols, [ACME_ALPN]);
        assert!(found("b.example.com", &[ACME_ALPN]).is_none());
        assert!(found("a.example.com", &[b"h2"]).is_none());
        assert!(found("a.example.com", &[b"h2", ACME_ALPN]).is_none());
        challenges.close_all();
        assert!(found("a.example.com", &[ACME_ALPN]).is_none());
    }

    #[test]
    fn a_file_is_found_under_its_token_until_it_is_closed() {
        let challenges = Challenges::default();
        assert_eq!(challenges.file("/.well-known/acme-challenge/abc"), None);
        challenges.open_file("abc", "abc.thumb");
        challenges.open_file("def", "def.thumb");
        assert_eq!(challenges.file("/.well-known/acme-challenge/abc").as_deref(), Some("abc.thumb"));
        assert_eq!(challenges.file("/.well-known/acme-challenge/def").as_deref(), Some("def.thumb"));
        for path in ["/.well-known/acme-challenge/", "/.well-known/acme-challenge/ab", "/abc", "abc"] {
            assert_eq!(challenges.file(path), None, "{path}");
        }
        challenges.close_all();
        assert_eq!(challenges.file("/.well-known/acme-challenge/abc"), None);
    }
}
