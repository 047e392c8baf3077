//! The admin listener: `/healthz`, `/readyz` and `/metrics`, on a thread of its own so that it answers
//! while the workers are busy.
//!
//! It is plain HTTP/1 without authentication and belongs on a loopback or cluster-internal address.
//! It changes nothing; the admin socket (`control`) does that. Each connection carries one request:
//! probes and scrapers do not come often enough for more, and it bounds what a connection can hold.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::prometheus;
use super::readiness::Readiness;
use crate::message::reply::{self, Reply};

/// Connections at once; more are closed unanswered.
const CONNECTIONS: usize = 64;
/// A whole exchange takes at most this long.
const EXCHANGE: Duration = Duration::from_secs(10);
/// A request's head takes at most this long.
const HEAD: Duration = Duration::from_secs(5);
/// How often the store shows that it can write.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Asks the store for a durable write; true when it was done.
pub type Probe = Box<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send>;

/// What the admin listener shows.
pub struct AdminParts {
    /// The checks behind `/readyz`.
    pub readiness: Arc<Readiness>,
    /// The numbers behind `/metrics`.
    pub sources: prometheus::Sources,
    /// Run every two seconds; feeds `readiness`.
    pub probe: Probe,
}

impl std::fmt::Debug for AdminParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminParts").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

/// The running admin listener. Stops when it is told to, or on drop.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    /// The same socket once more, for whoever follows this process.
    socket: TcpListener,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Binds and serves. The address is bound when this returns, so a port in use is an error here.
    pub fn start(listen: SocketAddr, parts: AdminParts) -> io::Result<Self> {
        Self::over(TcpListener::bind(listen)?, parts)
    }

    /// Serves on a socket that listens already.
    pub fn over(listener: TcpListener, parts: AdminParts) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let socket = listener.try_clone()?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let thread = thread::Builder::new().name("gatepost-admin".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(run(listener, parts, stopped)) {
                tracing::error!(error = &error as &dyn std::error::Error, "the admin listener failed");
            }
        })?;
        Ok(Self { address, socket, stop, thread: Some(thread) })
    }

    /// Where it listens: the actual port when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listening socket.
    #[must_use]
    pub const fn socket(&self) -> &TcpListener {
        &self.socket
    }

    /// Closes the listener and every connection.
    pub fn stop(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            drop(thread.join());
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.finish();
    }
}

async fn run(listener: TcpListener, parts: AdminParts, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let AdminParts { readiness, sources, probe } = parts;
    let pages = Arc::new(Pages { readiness: Arc::clone(&readiness), sources });
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::select! {
        () = keep_probing(&readiness, &probe) => {}
        () = accept(&listener, &pages, &seats) => {}
        // An error says that the owner is gone, which is a stop as well.
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

async fn keep_probing(readiness: &Readiness, probe: &Probe) {
    loop {
        // The probe has a timeout so that a stuck store is asked again, not waited for.
        if tokio::time::timeout(EXCHANGE, probe()).await.unwrap_or(false) {
            readiness.store_wrote();
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

async fn accept(listener: &tokio::net::TcpListener, pages: &Arc<Pages>, seats: &Arc<Semaphore>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(seat) = Arc::clone(seats).try_acquire_owned() else { continue };
        let pages = Arc::clone(pages);
        tokio::spawn(async move {
            serve(stream, pages).await;
            drop(seat);
        });
    }
}

async fn serve(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(move |request| {
        let reply = pages.answer(&request);
        async move { Ok::<_, Infallible>(reply.map(Full::new)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // A probe that hangs up or sends rubbish is not worth a log line.
    drop(tokio::time::timeout(EXCHANGE, connection).await);
}

struct Pages {
    readiness: Arc<Readiness>,
    sources: prometheus::Sources,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failing: Vec<&'static str>,
}

impl Pages {
    fn answer<B>(&self, request: &Request<B>) -> Reply {
        let path = request.uri().path();
        if !["/healthz", "/readyz", "/metrics"].contains(&path) {
            return text(StatusCode::NOT_FOUND, "not found\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return reply;
        }
        match path {
            "/healthz" => reply::json(StatusCode::OK, &Status { status: "alive", failing: Vec::new() }),
            "/readyz" => self.readyz(),
            _ => {
                let mut reply = text(StatusCode::OK, self.sources.render());
                let kind = HeaderValue::from_static(prometheus::CONTENT_TYPE);
                reply.headers_mut().insert(CONTENT_TYPE, kind);
                reply
            }
        }
    }

    fn readyz(&self) -> Reply {
        let failing = self.readiness.failing();
        if failing.is_empty() {
            return reply::json(StatusCode::OK, &Status { status: "ready", failing });
        }
        reply::json(StatusCode::SERVICE_UNAVAILABLE, &Status { status: "unready", failing })
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::metrics::worker::{LabelTexts, RouteLabels};

    fn sources() -> prometheus::Sources {
        prometheus::Sources {
            metrics: Arc::default(),
            workers: Vec::new(),
            labels: Box::new(|| RouteLabels::new(LabelTexts::default())),
            servers: Box::new(Vec::new),
            revocations: Box::new(|| [0; 3]),
            certificates: Box::new(Vec::new),
        }
    }

    fn readiness() -> Arc<Readiness> {
        Arc::new(Readiness::new(Arc::new(ManualClock::at(Timestamp::from_secs(1_000_000)))))
    }

    fn ask(pages: &Pages, method: &str, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(()).expect("a request");
        let reply = pages.answer(&request);
        (reply.status().as_u16(), String::from_utf8(reply.body().to_vec()).expect("UTF-8"))
    }

    #[test]
    fn pages_answer_get_and_head_only() {
        let pages = Pages { readiness: readiness(), sources: sources() };
        assert_eq!(ask(&pages, "GET", "/healthz"), (200, r#"{"status":"alive"}"#.to_owned()));
        assert_eq!(ask(&pages, "HEAD", "/healthz").0, 200);
        assert_eq!(ask(&pages, "POST", "/metrics").0, 405);
        assert_eq!(ask(&pages, "GET", "/").0, 404);
        assert_eq!(ask(&pages, "GET", "/metrics/x").0, 404);
        assert!(ask(&pages, "GET", "/metrics").1.contains("gatepost_build_info"));
    }

    #[test]
    fn readyz_names_the_failing_checks() {
        let readiness = readiness();
        let pages = Pages { readiness: Arc::clone(&readiness), sources: sources() };
        let unready = r#"{"status":"unready","failing":["store","keys"]}"#;
        assert_eq!(ask(&pages, "GET", "/readyz"), (503, unready.to_owned()));
        readiness.store_wrote();
        readiness.keys_loaded();
        assert_eq!(ask(&pages, "GET", "/readyz"), (200, r#"{"status":"ready"}"#.to_owned()));
    }

    #[test]
    fn a_probe_makes_it_ready_over_the_wire() {
        let readiness = readiness();
        readiness.keys_loaded();
        let (asked, was_asked) = std::sync::mpsc::channel();
        let probe: Probe = Box::new(move || {
            // The test may be over already.
            let _ = asked.send(());
            Box::pin(async { true })
        });
        let parts = AdminParts { readiness, sources: sources(), probe };
        let admin = Admin::start(SocketAddr::from(([127, 0, 0, 1], 0)), parts).expect("a port");
        was_asked.recv().expect("a probe");

        let mut stream = std::net::TcpStream::connect(admin.address()).expect("a connection");
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("closed after one answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

        let address = admin.address();
        admin.stop();
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
