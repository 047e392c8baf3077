//! WebSocket by hand (RFC 6455): frames as bytes, for both ends.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::client::{Client, Response};
use super::gateway::Gateway;
use super::request::{Request, get};
use super::upstream::{Exchange, Upstream};
use super::wire::Wire;

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// FIN, the reserved bits and the opcode.
    pub first: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The next frame; None at the end of the connection.
    pub fn read(wire: &mut Wire) -> Option<Self> {
        let head = wire.exactly(2)?;
        let length = match head[1] & 0x7f {
            126 => wire.exactly(2)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            127 => wire.exactly(8)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            length => usize::from(length),
        };
        let masked = head[1] & 0x80 != 0;
        let mask = if masked { wire.exactly(4)? } else { vec![0; 4] };
        let mut payload = wire.exactly(length)?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Some(Self { first: head[0], masked, payload })
    }

    /// The code and the reason of a Close.
    #[track_caller]
    pub fn closed(&self) -> (u16, String) {
        assert_eq!(self.first, CLOSE, "{self:?}");
        let code = u16::from_be_bytes([self.payload[0], self.payload[1]]);
        (code, String::from_utf8(self.payload[2..].to_vec()).unwrap())
    }
}

/// A frame of a server.
pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    encode(first, payload.as_ref(), None)
}

/// A frame of a client.
pub fn masked(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    encode(first, payload.as_ref(), Some(*b"mask"))
}

fn encode(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0x00 };
    let mut bytes = vec![first];
    if let Ok(short) = u8::try_from(payload.len())
        && short < 126
    {
        bytes.push(bit | short);
    } else if let Ok(medium) = u16::try_from(payload.len()) {
        bytes.push(bit + 126);
        bytes.extend(medium.to_be_bytes());
    } else {
        bytes.push(bit + 127);
        bytes.extend((payload.len() as u64).to_be_bytes());
    }
    bytes.extend(mask.into_iter().flatten());
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// What a server says to a key (RFC 6455 section 4.2.2).
pub fn accept_for(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// A request that opens a WebSocket.
pub fn handshake(target: &str) -> Request {
    get(target)
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY)
}

/// Agrees to the handshake.
pub fn agree(exchange: &mut Exchange<'_>) {
    let key = exchange.request().header("sec-websocket-key").unwrap_or_default().to_owned();
    exchange.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        accept_for(&key)
    ));
}

/// A server that says everything back, and here.
pub fn echo() -> (Upstream, Receiver<Frame>) {
    let (sender, receiver) = channel();
    let sender: Mutex<Sender<Frame>> = Mutex::new(sender);
    let upstream = Upstream::scripted(move |exchange| {
        let sender = sender.lock().unwrap().clone();
        agree(exchange);
        echo_frames(exchange, &sender);
        exchange.close();
    });
    (upstream, receiver)
}

/// Says back what comes, until a Close or the end.
pub fn echo_frames(exchange: &mut Exchange<'_>, sender: &Sender<Frame>) {
    while let Some(read) = exchange.wire().and_then(Frame::read) {
        let first = if read.first == PING { PONG } else { read.first };
        exchange.send(frame(first, &read.payload));
        let _ = sender.send(read.clone());
        if read.first == CLOSE {
            break;
        }
    }
}

/// An open WebSocket, at the client's end.
pub struct Socket {
    pub client: Client,
    pub answer: Response,
}

impl Socket {
    /// Opens one; fails when the answer is not a 101.
    #[track_caller]
    pub fn open(gateway: &Gateway, target: &str, token: &str) -> Self {
        Self::ask(gateway, handshake(target).bearer(token))
    }

    #[expect(clippy::needless_pass_by_value, reason = "requests are made in place")]
    #[track_caller]
    pub fn ask(gateway: &Gateway, request: Request) -> Self {
        let mut client = gateway.connect();
        let answer = client.send(request.bytes()).head().expect("an answer");
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
        assert_eq!(answer.header("sec-websocket-accept"), Some(&*accept_for(KEY)));
        Self { client, answer }
    }

    pub fn send(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.client.send(masked(first, payload));
    }

    /// The next frame; fails when there is none.
    #[track_caller]
    pub fn read(&mut self) -> Frame {
        let Some(frame) = Frame::read(&mut self.client.wire) else { panic!("the tunnel ended") };
        assert!(!frame.masked, "a server does not mask");
        frame
    }

    /// Sends a text and reads it back.
    #[track_caller]
    pub fn says(&mut self, text: &str) {
        self.send(TEXT, text);
        assert_eq!(self.read(), Frame { first: TEXT, masked: false, payload: text.into() });
    }

    /// Says Close, reads the answer, and the connection to its end.
    #[track_caller]
    pub fn ends_after_close_read(&mut self) {
        self.send(CLOSE, [3, 0xe8]);
        assert_eq!(self.read().closed().0, 1000);
        self.client.ends();
    }

    /// Answers a Close, and reads the connection to its end.
    #[track_caller]
    pub fn ends_after_close(&mut self) {
        self.send(CLOSE, [3, 0xe8]);
        self.client.ends();
    }
}
