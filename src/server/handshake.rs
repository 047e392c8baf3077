//! A TLS handshake: bounded in time, in number, and in what a failure costs.
//!
//! The first message is read before anything is set up for it, so connections that say nothing hold no
//! place among the handshakes; and what is no TLS at all gets an answer that people understand.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use rustls::server::{Accepted as Hello, Acceptor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::accept::{Accepted, Opened, peer};
use super::worker::{OpenConnection, Worker};
use crate::message::client::Scheme;
use crate::metrics::{HandshakeResult, Metrics};
use crate::stream::Stream;
use crate::tls::HTTP2;

/// A usual first message in one piece.
const CHUNK: usize = 2048;
/// The first byte of TLS: a handshake record (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// While the process stops, whoever has connected gets this long to say something.
const LAST_CALL: Duration = Duration::from_secs(1);
/// What nginx answers, and people search for.
const PLAIN: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 47\r\nConnection: close\r\n\r\nThe plain HTTP request was sent to HTTPS port.\n";
/// What is read and thrown away so that this answer is not lost in a reset.
const PLAIN_REST: usize = 64 * 1024;

/// The handshakes of all workers: how many there are, and who waits for one to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Running>);

#[derive(Debug, Default)]
struct Running {
    count: AtomicUsize,
    ended: Notify,
}

/// A place among them.
struct Turn<'w> {
    running: &'w Running,
    metrics: &'w Metrics,
}

impl Handshakes {
    /// Waits until fewer than `limit` are running. Whoever waits longest goes first.
    async fn turn<'w>(&'w self, limit: usize, metrics: &'w Metrics) -> Turn<'w> {
        let running = &*self.0;
        loop {
            let ended = running.ended.notified();
            let one_more = |count| (count < limit.max(1)).then_some(count + 1);
            if running.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
                metrics.handshakes_in_flight.add(1);
                return Turn { running, metrics };
            }
            ended.await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.metrics.handshakes_in_flight.add(-1);
        self.running.count.fetch_sub(1, Ordering::Relaxed);
        self.running.ended.notify_one();
    }
}

/// What was agreed upon (ALPN, RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// HTTP/1.1, also for clients that do not say.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How an attempt ended without a connection.
#[derive(Debug)]
enum Ended {
    /// Nothing was said: a probe, or a browser that connected ahead.
    Silent,
    /// No handshake, or one that failed.
    Failed(io::Error),
    /// An ACME authority has seen what it came for (RFC 8737): there is nothing more to say.
    Challenged,
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Does the handshake of an accepted connection; `None` when there is nothing to serve.
pub(super) async fn shake(
    worker: Rc<Worker>,
    accepted: Accepted,
    open: OpenConnection,
) -> Option<(Opened, Protocol)> {
    let Accepted { stream, address, port, service, .. } = accepted;
    let deadline = worker.deadlines().slot();
    deadline.set(worker.limits().handshake_timeout);
    let mut told = false;
    let outcome = {
        let mut attempt = pin!(attempt(&worker, stream));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = attempt.as_mut().poll(cx) {
                return Poll::Ready(Some(outcome));
            }
            if worker.is_draining() && !told {
                told = true;
                deadline.set(LAST_CALL.min(worker.limits().handshake_timeout));
            }
            deadline.poll_passed(cx).map(|()| None)
        })
        .await
    };
    let result = match &outcome {
        Some(Ok(_) | Err(Ended::Challenged)) => Some(HandshakeResult::Ok),
        Some(Err(Ended::Silent)) => None,
        Some(Err(Ended::Failed(error))) => {
            tracing::debug!(client = %address, %error, "a TLS handshake failed");
            Some(HandshakeResult::Failed)
        }
        None => Some(HandshakeResult::Timeout),
    };
    if let Some(result) = result {
        worker.metrics().handshakes.of(result).add_one();
    }
    let stream = outcome?.ok()?;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(HTTP2) => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let (stream, read) = (Stream::ServerTls(Box::new(stream)), BytesMut::new());
    Some((Opened { open, stream, read, peer: peer(address, port, Scheme::Https), service }, protocol))
}

async fn attempt(worker: &Worker, mut stream: Stream) -> Result<TlsStream<Stream>, Ended> {
    let hello = read_hello(&mut stream).await?;
    let _turn = worker.handshakes().turn(worker.limits().handshakes, worker.metrics()).await;
    let tls = worker.tls().ok_or_else(|| io::Error::other("no certificates"))?;
    let challenge = tls.challenges().handshake(&hello.client_hello());
    let is_challenge = challenge.is_some();
    let config = challenge.unwrap_or_else(|| tls.config());
    let mut stream = StartHandshake::from_parts(hello, stream).into_stream(config).await?;
    if is_challenge {
        stream.shutdown().await?;
        return Err(Ended::Challenged);
    }
    Ok(stream)
}

/// Reads the client's first message.
async fn read_hello(stream: &mut Stream) -> Result<Hello, Ended> {
    let mut acceptor = Acceptor::default();
    let mut chunk = [0; CHUNK];
    let mut is_first = true;
    loop {
        let read = match stream.read(&mut chunk).await {
            Ok(0) | Err(_) if is_first => return Err(Ended::Silent),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(read) => read,
            Err(error) => return Err(error.into()),
        };
        if is_first && chunk[0] != HANDSHAKE_RECORD {
            return Err(refuse_plain(stream, chunk[0]).await.into());
        }
        is_first = false;
        let mut bytes = &chunk[..read];
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes)?;
        }
        match acceptor.accept() {
            Ok(Some(hello)) => return Ok(hello),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                stream.write_all(&bytes).await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error).into());
            }
        }
    }
}

/// Tells somebody who speaks HTTP that this is the other port.
async fn refuse_plain(stream: &mut Stream, first: u8) -> io::Error {
    if first.is_ascii_uppercase() && stream.write_all(PLAIN).await.is_ok() {
        let _ = stream.shutdown().await;
        let mut rest = [0; CHUNK];
        let mut thrown = 0;
        while thrown < PLAIN_REST {
            match stream.read(&mut rest).await {
                Ok(read @ 1..) => thrown += read,
                Ok(0) | Err(_) => break,
            }
        }
    }
    io::Error::new(io::ErrorKind::InvalidData, "no TLS")
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::Context;

    use super::*;

    #[test]
    fn a_turn_waits_for_another_to_end() {
        let (handshakes, metrics) = (Handshakes::default(), Metrics::default());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut first = pin!(handshakes.turn(1, &metrics));
        let Poll::Ready(held) = first.as_mut().poll(&mut cx) else { unreachable!("nobody is there") };
        let mut second = pin!(handshakes.turn(1, &metrics));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert_eq!(metrics.handshakes_in_flight.value(), 1);
        {
            // Somebody who gives up passes the turn on.
            let mut third = Box::pin(handshakes.turn(1, &metrics));
            assert!(third.as_mut().poll(&mut cx).is_pending());
        }
        drop(held);
        let Poll::Ready(held) = second.as_mut().poll(&mut cx) else { unreachable!("it is free again") };
        drop(held);
        assert_eq!(metrics.handshakes_in_flight.value(), 0);
    }

    #[test]
    fn the_plain_answer_is_framed() {
        let text = std::str::from_utf8(PLAIN).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }
}
