//! An upstream server that speaks TLS, HTTP/2, WebSocket and gRPC: a proper one, where
//! [`upstream`](super::upstream) is bytes. It says back what it is told.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::config::Config;
use super::gateway::Gateway;
use super::websocket::{self, CLOSE, accept_for};

/// An authority and the certificates that it signs.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(parameters, key),
        }
    }

    /// A certificate for a name, and its key, both PEM.
    pub fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }
}

/// What a server speaks.
#[derive(Clone)]
pub struct Speaks {
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// HTTP/2 without asking; over TLS the handshake says.
    pub http2: bool,
    pub streams: u32,
    /// It leaves after each answer.
    pub leaves: bool,
}

impl Speaks {
    pub fn h2c() -> Self {
        Self { tls: None, http2: true, streams: 100, leaves: false }
    }

    pub fn tls(authority: &Authority, name: &str, alpn: &[&str], clients: Option<&Authority>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (certificate, key) = authority.sign(name);
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(clients.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
                config.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self { tls: Some(Arc::new(config)), ..Self::h2c() }
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub version: Version,
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub connection: usize,
}

impl Seen {
    /// What was asked for, without the query.
    pub fn path(&self) -> String {
        self.uri.parse::<http::Uri>().unwrap().path().to_owned()
    }
}

/// A server that answers with the request's body, piece by piece, and a trailer.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Seen>>,
    opened: AtomicUsize,
    /// Requests for `/public/held` are answered after this.
    go: Notify,
    /// What `/healthz` answers.
    health: AtomicU16,
    /// New connections are closed before anything is said.
    closed: AtomicBool,
    /// Calls whose client went away before their end.
    given_up: AtomicUsize,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            opened: AtomicUsize::default(),
            go: Notify::new(),
            health: AtomicU16::new(200),
            closed: AtomicBool::default(),
            given_up: AtomicUsize::default(),
        }
    }
}

/// What a server says.
enum AnswerBody {
    Text(Option<Bytes>),
    /// What it is told, and then trailers.
    Echo {
        told: Incoming,
        trailers: Option<HeaderMap>,
        shared: Arc<Shared>,
    },
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Echo { told, trailers, .. } => match ready!(Pin::new(told).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_data() => Poll::Ready(Some(Ok(frame))),
                Some(Err(error)) => Poll::Ready(Some(Err(error))),
                _ => Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Text(None))
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Self::Echo { trailers: Some(_), shared, .. } = self {
            shared.given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Server {
    pub fn start(speaks: Speaks) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let here = Arc::clone(&shared);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let connection = here.opened.fetch_add(1, Ordering::SeqCst);
                    if !here.closed.load(Ordering::SeqCst) {
                        tokio::spawn(serve(stream, speaks.clone(), connection, Arc::clone(&here)));
                    }
                }
            });
        });
        Self { address, shared }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn opened(&self) -> usize {
        self.shared.opened.load(Ordering::SeqCst)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What lets held requests go on.
    pub fn go(&self) -> &Notify {
        &self.shared.go
    }

    pub fn set_health(&self, status: u16) {
        self.shared.health.store(status, Ordering::SeqCst);
    }

    /// Whether it hangs up on new connections.
    pub fn set_closed(&self, closed: bool) {
        self.shared.closed.store(closed, Ordering::SeqCst);
    }

    /// Calls whose client went away before their end.
    pub fn given_up(&self) -> usize {
        self.shared.given_up.load(Ordering::SeqCst)
    }

    /// A gateway before it, with one worker.
    pub fn gateway(&self, scheme: &str, more: &str) -> Gateway {
        Gateway::start(&self.config(scheme, more))
    }

    pub fn config(&self, scheme: &str, more: &str) -> Config {
        let server = format!("{scheme}://{}", self.address);
        Config::new()
            .set("server", "workers", "1")
            .upstream_table(&format!("name = \"app\"\nservers = [\"{server}\"]\n{more}"))
    }
}

async fn serve(stream: tokio::net::TcpStream, speaks: Speaks, connection: usize, shared: Arc<Shared>) {
    let Some(tls) = speaks.tls.clone() else {
        return drive(stream, speaks.http2, &speaks, connection, shared).await;
    };
    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    drive(stream, http2, &speaks, connection, shared).await;
}

async fn drive<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    http2: bool,
    speaks: &Speaks,
    connection: usize,
    shared: Arc<Shared>,
) {
    let service = service_fn(move |request| answer(request, connection, Arc::clone(&shared)));
    let io = TokioIo::new(stream);
    if !http2 {
        let served = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        let _ = served.with_upgrades().await;
        return;
    }
    let mut builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    builder.max_concurrent_streams(speaks.streams);
    let mut served = std::pin::pin!(builder.serve_connection(io, service));
    if speaks.leaves {
        // GOAWAY: the streams that are open are the last.
        let first = std::future::poll_fn(|cx| {
            if served.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        });
        let _ = tokio::time::timeout(std::time::Duration::from_millis(300), first).await;
        served.as_mut().graceful_shutdown();
    }
    let _ = served.await;
}

async fn answer(
    mut request: Request<Incoming>,
    connection: usize,
    shared: Arc<Shared>,
) -> Result<Response<AnswerBody>, Infallible> {
    shared.seen.lock().unwrap().push(Seen {
        version: request.version(),
        method: request.method().to_string(),
        uri: request.uri().to_string(),
        headers: request.headers().clone(),
        connection,
    });
    if let Some(key) = request.headers().get("sec-websocket-key") {
        let accept = accept_for(key.to_str().unwrap());
        tokio::spawn(echo_frames(hyper::upgrade::on(&mut request)));
        let head = Response::builder().status(101).header("upgrade", "websocket");
        let head = head.header("connection", "upgrade").header("sec-websocket-accept", accept);
        return Ok(head.body(AnswerBody::Text(None)).unwrap());
    }
    let (parts, told) = request.into_parts();
    let is_grpc = parts.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
    let head = Response::builder().header("x-app", "yes");
    let answer = match parts.uri.path() {
        path if is_grpc => call(path, told, shared),
        "/healthz" => {
            let head = head.status(shared.health.load(Ordering::SeqCst));
            head.body(AnswerBody::Text(Some(Bytes::from_static(b"health")))).unwrap()
        }
        "/public/echo" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("42"));
            trailers.insert("x-auth-user", HeaderValue::from_static("evil"));
            head.body(AnswerBody::Echo { told, trailers: Some(trailers), shared }).unwrap()
        }
        path => {
            if path == "/public/held" {
                shared.go.notified().await;
            }
            head.body(AnswerBody::Text(Some(Bytes::from_static(b"ok")))).unwrap()
        }
    };
    Ok(answer)
}

/// A gRPC method: `Refuse` says no at once and in its head (Trailers-Only), `Abort` says back what it is told
/// and then fails; the others say it back and are content.
fn call(path: &str, told: Incoming, shared: Arc<Shared>) -> Response<AnswerBody> {
    let head = Response::builder().header("content-type", "application/grpc");
    if path.ends_with("/Refuse") {
        let head = head.header("grpc-status", "5").header("grpc-message", "no such thing");
        return head.body(AnswerBody::Text(None)).unwrap();
    }
    let (status, message) = if path.ends_with("/Abort") { ("10", "aborted") } else { ("0", "") };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers.insert("x-cost-bin", HeaderValue::from_static("AAEC"));
    head.body(AnswerBody::Echo { told, trailers: Some(trailers), shared }).unwrap()
}

/// Says back each frame that comes, until a Close or the end.
async fn echo_frames(upgrade: hyper::upgrade::OnUpgrade) {
    let Ok(stream) = upgrade.await else { return };
    let mut stream = TokioIo::new(stream);
    while let Ok((first, payload)) = read_frame(&mut stream).await {
        let sent = stream.write_all(&websocket::frame(first, payload)).await;
        if sent.is_err() || stream.flush().await.is_err() || first == CLOSE {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

/// A client's frame of at most 125 bytes.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let (first, length) = (stream.read_u8().await?, stream.read_u8().await?);
    assert!((0x80..0x80 + 126).contains(&length), "a client masks, and the test is short");
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await?;
    let mut payload = vec![0; usize::from(length - 0x80)];
    stream.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((first, payload))
}

/// A file for a gateway to read, and its path.
pub fn write(home: &Path, name: &str, text: &str) -> String {
    let path = home.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}
