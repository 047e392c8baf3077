//! One call: a POST to an `http://` or `https://` URL, or to the Unix socket of an app that we run.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::socket;

/// The greatest head of an answer, in bytes.
const HEAD_BYTES: usize = 32 * 1024;
/// The greatest body of an answer that is read, in bytes.
const BODY_BYTES: usize = 16 * 1024;

/// How we call ourselves.
const AGENT: &str = concat!("gatepost/", env!("CARGO_PKG_VERSION"));

/// What is sent where.
pub(super) struct Call {
    pub(super) url: Uri,
    pub(super) content_type: &'static str,
    pub(super) headers: HeaderMap,
    /// May hold a password: our copy is wiped.
    pub(super) body: Zeroizing<Vec<u8>>,
    /// For all of it, from looking up the name to the end of the answer.
    pub(super) timeout: Duration,
    /// Whose body is looked at. Others may have any length.
    pub(super) wants: Wants,
}

/// Which answers are more than a status.
#[derive(Clone, Debug)]
pub(super) enum Wants {
    /// None.
    Status,
    /// All of them.
    Body,
    /// Those with one of these statuses.
    BodyOf(Vec<u16>),
}

impl Wants {
    fn body_of(&self, status: StatusCode) -> bool {
        match self {
            Self::Status => false,
            Self::Body => true,
            Self::BodyOf(these) => these.contains(&status.as_u16()),
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why nothing did.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// As many calls are under way as may be.
    #[error("too many calls to the app are under way")]
    Busy,
    /// As many as may be are under way for clients of this address.
    #[error("too many calls to the app are under way for this client's address")]
    BusyFor,
    /// It took longer than it may.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection, or an answer that is not HTTP.
    #[error("{0}")]
    Failed(String),
    /// The answer's body is longer than anything that is asked for, or broke off.
    #[error("the answer's body is longer than {BODY_BYTES} bytes or broke off")]
    Body,
    /// `https://`, and nobody to believe.
    #[error("TLS cannot be used: {0}")]
    Tls(String),
    /// The thread for calls is gone, or could not be started.
    #[error("calls to the app have stopped")]
    Stopped,
}

type Plain = Client<HttpConnector, Full<Bytes>>;
type Secure = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes calls on the runtime that it is used on.
pub(super) struct Caller {
    plain: Plain,
    /// Made when the first URL asks for it: the system's authorities are files to read.
    secure: OnceLock<Result<Secure, String>>,
}

impl Caller {
    pub(super) fn new() -> Self {
        let plain = builder().build(connector());
        Self { plain, secure: OnceLock::new() }
    }

    pub(super) async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let timeout = call.timeout;
        let answer = tokio::time::timeout(timeout, self.exchange(call)).await;
        answer.unwrap_or(Err(CallError::Timeout(timeout)))
    }

    async fn exchange(&self, call: Call) -> Result<Answer, CallError> {
        let wants = call.wants.clone();
        let (socket, secure) = (socket::path_of(&call.url), call.url.scheme_str() == Some("https"));
        let request = request(call)?;
        let answer = if let Some(socket) = socket {
            over_socket(&socket, request).await.map_err(|error| CallError::Failed(causes(&*error)))
        } else if secure {
            let client = self.secure.get_or_init(secure_client).as_ref();
            let client = client.map_err(|error| CallError::Tls(error.clone()))?;
            client.request(request).await.map_err(|error| CallError::Failed(causes(&error)))
        } else {
            self.plain.request(request).await.map_err(|error| CallError::Failed(causes(&error)))
        };
        let (head, body) = answer?.into_parts();
        if !wants.body_of(head.status) {
            return Ok(Answer { status: head.status, body: Bytes::new() });
        }
        let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|_| CallError::Body)?;
        Ok(Answer { status: head.status, body: body.to_bytes() })
    }
}

/// Over a connection of its own, as all calls are.
async fn over_socket(
    path: &std::path::Path,
    mut request: Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TokioIo::new(UnixStream::connect(path).await?);
    let mut builder = http1::Builder::new();
    let (mut sender, connection) = builder.max_buf_size(HEAD_BYTES).handshake(stream).await?;
    // It ends with the answer, or with whoever waits for it.
    drop(tokio::spawn(connection));
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).parse()?;
    *request.uri_mut() = target;
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    Ok(sender.send_request(request).await?)
}

fn request(call: Call) -> Result<Request<Full<Bytes>>, CallError> {
    let mut request = Request::post(call.url)
        .body(Full::new(Bytes::from_owner(call.body)))
        .map_err(|error| CallError::Failed(error.to_string()))?;
    let headers = request.headers_mut();
    headers.extend(call.headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(call.content_type));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    Ok(request)
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_max_idle_per_host(0).http1_max_buf_size(HEAD_BYTES).retry_canceled_requests(false);
    builder
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector
}

fn secure_client() -> Result<Secure, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // The system's store may hold what this library does not know; what it knows is enough.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no certificates of authorities".to_owned());
    }
    Ok(secure_with(roots))
}

fn secure_with(roots: RootCertStore) -> Secure {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .wrap_connector(connector());
    builder().build(connector)
}

/// An error with everything behind it: "client error (Connect)" helps nobody.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::ServerConfig;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn call(url: &str) -> Call {
        Call {
            url: url.parse().unwrap(),
            content_type: "application/json",
            headers: HeaderMap::new(),
            body: Zeroizing::new(b"{}".to_vec()),
            timeout: Duration::from_secs(20),
            wants: Wants::Body,
        }
    }

    /// A server with a certificate for 127.0.0.1, and who vouches for it.
    async fn server() -> (String, RootCertStore) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut seen = Vec::new();
                while !seen.ends_with(b"{}") {
                    let mut piece = [0; 1024];
                    let read = stream.read(&mut piece).await.unwrap();
                    seen.extend_from_slice(&piece[..read]);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        (url, roots)
    }

    fn caller(roots: RootCertStore) -> Caller {
        let caller = Caller::new();
        assert!(caller.secure.set(Ok(secure_with(roots))).is_ok());
        caller
    }

    #[tokio::test]
    async fn over_tls_only_who_is_vouched_for_is_told() {
        let (url, roots) = server().await;
        let caller = caller(roots);
        let answer = caller.call(call(&url)).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"ok"[..]));
        let (stranger, _) = server().await;
        let error = caller.call(call(&stranger)).await.unwrap_err();
        assert!(matches!(&error, CallError::Failed(why) if why.contains("certificate")), "{error}");
        let named = caller.call(call(&url.replace("127.0.0.1", "localhost"))).await.unwrap_err();
        assert!(matches!(named, CallError::Failed(_)), "a certificate is for a name");
    }

    #[tokio::test]
    async fn a_socket_is_called_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let app = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"{}") {
                assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
            }
            stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        let url = socket::at(&path, &"http://127.0.0.1:5000/login?x=1".parse().unwrap()).unwrap();
        let answer = Caller::new().call(Call { url, ..call("http://a/") }).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::FORBIDDEN, &b"no"[..]));
        let seen = app.await.unwrap();
        assert!(seen.starts_with("POST /login?x=1 HTTP/1.1\r\n"), "{seen}");
        assert!(seen.to_lowercase().contains("\r\nhost: localhost\r\n"), "{seen}");

        let gone = socket::at(&directory.path().join("gone"), &"http://a/".parse().unwrap()).unwrap();
        let error = Caller::new().call(Call { url: gone, ..call("http://a/") }).await.unwrap_err();
        assert!(matches!(error, CallError::Failed(_)), "{error}");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // An answer before its question would be none.
                    drop(stream.read(&mut [0; 4096]).await);
                    // A byte now and then would keep a timeout for silence from running out.
                    let mut more = &b"HTTP/1.1 200 OK\r\nX: "[..];
                    while stream.write_all(more).await.is_ok() {
                        more = b"x";
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                });
            }
        });
        let call = Call { timeout: Duration::from_millis(200), ..call(&url) };
        let error = Caller::new().call(call).await.unwrap_err();
        assert!(matches!(error, CallError::Timeout(_)), "{error}");
    }
}
