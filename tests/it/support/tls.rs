//! Certificates of an authority that each test makes, and a TLS client.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::PATIENCE;
use super::client::{Client, Response};

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A certificate with its key.
pub struct Issued {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// For servers and clients alike.
    pub fn issue(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            cert: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            key_der: key.serialize_der(),
        }
    }

    /// A client that believes this authority, with these protocols and perhaps a certificate.
    pub fn client(&self, protocols: &[&str], own: Option<&Issued>) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS, protocols, own)
    }

    pub fn client_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        protocols: &[&str],
        own: Option<&Issued>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key_der.clone()));
                builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

impl Issued {
    /// Writes NAME.pem and NAME.key as a careful program does, by renaming.
    pub fn write(&self, folder: &Path, name: &str) {
        for (file, text) in [(format!("{name}.key"), &self.key), (format!("{name}.pem"), &self.cert)] {
            let next = folder.join(format!("{file}.next"));
            fs::write(&next, text).unwrap();
            fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(&next, folder.join(file)).unwrap();
        }
    }
}

/// A TLS connection whose handshake is done.
pub struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    held: Vec<u8>,
}

/// A TLS connection in the middle of the client's first word.
pub struct HalfClient {
    connection: ClientConnection,
    stream: TcpStream,
    rest: Vec<u8>,
}

impl HalfClient {
    /// Says the rest and does the handshake.
    pub fn finish(self) -> Result<TlsClient, String> {
        let Self { mut connection, mut stream, rest } = self;
        stream.write_all(&rest).map_err(|error| error.to_string())?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(|error| error.to_string())?;
        }
        Ok(TlsClient { stream: StreamOwned::new(connection, stream), held: Vec::new() })
    }
}

/// A connection on which nothing was said yet; reads do not wait for ever.
pub fn tcp(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl TlsClient {
    /// Does the handshake. With TLS 1.3 a server's "no" to the client's certificate comes later, with the
    /// first read.
    pub fn connect(to: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Result<Self, String> {
        Self::begin(to, name, config).finish()
    }

    /// Sends half of the first message.
    pub fn begin(to: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> HalfClient {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let (mut stream, mut hello) = (tcp(to), Vec::new());
        while connection.wants_write() {
            connection.write_tls(&mut hello).unwrap();
        }
        let rest = hello.split_off(hello.len() / 2);
        stream.write_all(&hello).unwrap();
        HalfClient { connection, stream, rest }
    }
    /// Reads the connection to its end, which is said (`close_notify`).
    #[track_caller]
    pub fn ends(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("a proper end");
        assert!(rest.is_empty() && self.held.is_empty(), "more came: {}", super::wire::show(&rest));
    }

    /// The certificate that the server showed.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub fn protocol(&self) -> Option<String> {
        self.stream.conn.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned())
    }

    pub fn resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends and reads the answer, whose body has a length.
    pub fn ask(&mut self, bytes: &[u8]) -> Result<Response, String> {
        self.stream.write_all(bytes).map_err(|error| error.to_string())?;
        let mut response = loop {
            if let Some(at) = super::wire::find(&self.held, b"\r\n\r\n") {
                let head: Vec<u8> = self.held.drain(..at + 4).collect();
                break Client::parse(&head);
            }
            self.fill()?;
        };
        let length: usize = response.header("content-length").unwrap().parse().unwrap();
        while self.held.len() < length {
            self.fill()?;
        }
        response.body = self.held.drain(..length).collect();
        Ok(response)
    }

    fn fill(&mut self) -> Result<(), String> {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => Err("the connection ended".to_owned()),
            Ok(n) => {
                self.held.extend_from_slice(&piece[..n]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came within {PATIENCE:?}")
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
