//! HTTP/2 from a client's side: a proper client, and bare frames for what no proper client sends.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use super::PATIENCE;
use super::wire::Wire;

/// A connection of a proper client, moved by a thread of its own. Dropping it closes it.
pub struct H2 {
    handle: Handle,
    requests: SendRequest<Bytes>,
    /// How the connection ended.
    ended: Option<oneshot::Receiver<Result<(), h2::Error>>>,
    _stop: oneshot::Sender<()>,
}

/// What HTTP/2 is spoken on.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An answer with its whole body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

/// One stream that is under way.
pub struct Call {
    handle: Handle,
    pub response: ResponseFuture,
    pub send: SendStream<Bytes>,
}

/// An answer whose body is still coming.
pub struct Incoming {
    handle: Handle,
    pub head: Response<()>,
    body: RecvStream,
}

impl H2 {
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, h2::client::Builder::new())
    }

    /// With windows and the like as the builder has them.
    pub fn connect_with(address: SocketAddr, builder: h2::client::Builder) -> Self {
        Self::connect_over(address, builder, None)
    }

    /// Over TLS, to a server of this name.
    pub fn connect_tls(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::clone(config));
        Self::connect_over(address, h2::client::Builder::new(), Some((connector, name)))
    }

    fn connect_over(
        address: SocketAddr,
        builder: h2::client::Builder,
        tls: Option<(TlsConnector, ServerName<'static>)>,
    ) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (say, hear) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                let stream: Box<dyn Stream> = match tls {
                    None => Box::new(stream),
                    Some((connector, name)) => Box::new(connector.connect(name, stream).await.unwrap()),
                };
                let (requests, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
                say.send((Handle::current(), requests)).unwrap();
                tokio::select! {
                    result = connection => { let _ = end.send(result); }
                    _ = &mut stopped => return,
                }
                // What has come is still read, with this runtime's clock.
                let _ = stopped.await;
            });
        });
        let (handle, requests) = hear.recv_timeout(PATIENCE).unwrap();
        Self { handle, requests, ended: Some(ended), _stop: stop }
    }

    /// Waits until a stream may be opened, and opens it.
    #[track_caller]
    pub fn try_open(&mut self, request: Request<()>, ends: bool) -> Result<Call, h2::Error> {
        let requests = self.requests.clone();
        let opening = async {
            let mut ready = within(requests.ready()).await?;
            ready.send_request(request, ends)
        };
        let (response, send) = self.handle.block_on(opening)?;
        Ok(Call { handle: self.handle.clone(), response, send })
    }

    #[track_caller]
    pub fn open(&mut self, request: Request<()>, ends: bool) -> Call {
        self.try_open(request, ends).unwrap()
    }

    /// Sends a request with its body, and reads the answer.
    #[track_caller]
    pub fn try_ask(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let mut call = self.try_open(request, body.is_empty())?;
        if !body.is_empty() {
            call.send(body, true);
        }
        call.answer()?.whole()
    }

    #[track_caller]
    pub fn ask(&mut self, request: Request<()>, body: &[u8]) -> Answer {
        self.try_ask(request, body).unwrap()
    }

    /// A GET of this path.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask(get(path), b"")
    }

    /// Waits for the connection's end.
    #[track_caller]
    pub fn end(&mut self) -> Result<(), h2::Error> {
        let ended = self.ended.take().unwrap();
        self.handle.block_on(within(ended)).unwrap_or(Ok(()))
    }

    /// The code of the GOAWAY that ends the connection; `None`: it ended without.
    #[track_caller]
    pub fn end_reason(&mut self) -> Option<Reason> {
        self.end().err().and_then(|e| e.reason())
    }
}

/// Waits for so long as anything may take.
async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

impl Call {
    /// Sends a part of the body when the other side has opened its window for it.
    #[track_caller]
    pub fn send(&mut self, data: &[u8], ends: bool) {
        let (handle, send) = (self.handle.clone(), &mut self.send);
        handle.block_on(within(async {
            let mut left = Bytes::copy_from_slice(data);
            while !left.is_empty() {
                send.reserve_capacity(left.len());
                while send.capacity() == 0 {
                    let Some(room) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                    if room.is_err() {
                        return;
                    }
                }
                let piece = left.split_to(send.capacity().min(left.len()));
                let last = ends && left.is_empty();
                if send.send_data(piece, last).is_err() {
                    return;
                }
            }
        }));
        if data.is_empty() && ends {
            let _ = self.send.send_data(Bytes::new(), true);
        }
    }

    pub fn trailers(&mut self, trailers: HeaderMap) {
        self.send.send_trailers(trailers).unwrap();
    }

    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Whether the other side resets the stream, and why.
    #[track_caller]
    pub fn reset_reason(&mut self) -> Option<Reason> {
        let (handle, send) = (self.handle.clone(), &mut self.send);
        handle.block_on(within(std::future::poll_fn(|cx| send.poll_reset(cx)))).ok()
    }

    /// The answer's head.
    #[track_caller]
    pub fn answer(&mut self) -> Result<Incoming, h2::Error> {
        let (head, body) = self.handle.block_on(within(&mut self.response))?.into_parts();
        Ok(Incoming { handle: self.handle.clone(), head: Response::from_parts(head, ()), body })
    }
}

impl Incoming {
    pub fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    /// The next piece of the body; None at its end.
    #[track_caller]
    pub fn piece(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let body = &mut self.body;
        let piece = self.handle.block_on(within(body.data()));
        if let Some(Ok(data)) = &piece {
            let _ = self.body.flow_control().release_capacity(data.len());
        }
        piece
    }

    #[track_caller]
    pub fn trailers(&mut self) -> Result<HeaderMap, h2::Error> {
        let body = &mut self.body;
        self.handle.block_on(within(body.trailers())).map(Option::unwrap_or_default)
    }

    #[track_caller]
    pub fn whole(mut self) -> Result<Answer, h2::Error> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece() {
            body.extend(piece?);
        }
        let trailers = self.trailers()?;
        Ok(Answer { status: self.status(), headers: self.head.headers().clone(), body, trailers })
    }
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Fails unless it is a problem with this status and code.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.json()["code"], code);
    }
}

/// A GET of a path at the host `a`.
pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a{path}")).body(()).unwrap()
}

/// A request that opens a WebSocket (RFC 8441).
pub fn websocket(path: &str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://a{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap()
}

pub fn post(path: &str) -> Request<()> {
    Request::post(format!("http://a{path}")).body(()).unwrap()
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields in HPACK, each a literal that is not indexed (RFC 7541 section 6.2.2).
pub fn hpack(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(u8::try_from(length % 128).unwrap() | 128);
                    length /= 128;
                }
                block.push(u8::try_from(length).unwrap());
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The pseudo-header fields of a GET.
pub fn head(path: &str) -> Vec<(&str, &str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]
}

/// A connection on which anything can be said.
pub struct Frames {
    pub wire: Wire,
}

impl Frames {
    /// Connects and says nothing.
    pub fn silent(address: SocketAddr) -> Self {
        Self { wire: Wire::new(TcpStream::connect(address).unwrap()) }
    }

    /// Connects, says the preface and empty SETTINGS, and acknowledges the other side's.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[])
    }

    pub fn connect_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::silent(address);
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &payload));
        bytes.extend(frame(SETTINGS, ACK, 0, &[]));
        frames.wire.send(&bytes);
        frames
    }

    /// Sends bytes. False: the other side is gone.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire.send(bytes)
    }

    /// A whole request without a body.
    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)]) -> bool {
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &hpack(fields)))
    }

    /// The next frame; None when the connection has ended.
    #[track_caller]
    pub fn next(&mut self) -> Option<Frame> {
        let header = self.exactly(9)?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let stream = u32::from_be_bytes(header[5..9].try_into().unwrap());
        let payload = self.exactly(length)?;
        Some(Frame { kind: header[3], flags: header[4], stream, payload })
    }

    /// The next frame that is wanted, or None at the end.
    #[track_caller]
    pub fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        while let Some(frame) = self.next() {
            if wanted(&frame) {
                return Some(frame);
            }
        }
        None
    }

    fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.wire.unused().len() < count {
            if !self.wire.fill() {
                return None;
            }
        }
        if count == 0 { Some(Vec::new()) } else { self.wire.some(count) }
    }

    /// Reads to the end of the connection; the code of the GOAWAY before it, if there was one.
    #[track_caller]
    pub fn ends(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }

    /// What becomes of a stream: the code of its `RST_STREAM`, or the first byte of its head (RFC 7541
    /// appendix A: 0x88 is a 200, 0x8c a 400).
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let found =
            self.find(|f| f.stream == stream && matches!(f.kind, HEADERS | RST_STREAM) || f.kind == GOAWAY);
        match found {
            None => Outcome::Closed,
            Some(frame) if frame.kind == HEADERS => Outcome::Answer(status(&frame.payload)),
            Some(frame) if frame.kind == RST_STREAM => {
                Outcome::Reset(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()))
            }
            Some(frame) => Outcome::GoAway(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap())),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this status.
    Answer(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// The status in a head, which is its first field: indexed, or a literal under an indexed name, whose
/// digits are Huffman-coded (RFC 7541 appendix B) or plain.
fn status(block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block[0] {
        first @ 0x88..=0x8e => INDEXED[usize::from(first - 0x88)],
        0x48 | 0x08 | 0x18 => {
            let (huffman, length) = (block[1] & 0x80 != 0, usize::from(block[1] & 0x7f));
            let text = &block[2..2 + length];
            let digits = if huffman { huffman_digits(text) } else { text.to_vec() };
            String::from_utf8(digits).unwrap().parse().unwrap()
        }
        other => panic!("a head that begins with {other:#x}"),
    }
}

/// Digits out of a Huffman code: 0, 1 and 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let mut digits = Vec::new();
    let mut at = 0;
    while digits.len() < 3 {
        let take = |count: usize| bits[at..at + count].iter().fold(0, |code, bit| code << 1 | bit);
        let five = take(5);
        if five <= 2 {
            digits.push(b'0' + five);
            at += 5;
        } else {
            digits.push(b'3' + (take(6) - 0x19));
            at += 6;
        }
    }
    digits
}
