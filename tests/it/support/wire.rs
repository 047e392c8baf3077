//! HTTP/1.1 as bytes, for both ends: heads and bodies read strictly after RFC 9112, so that what the
//! gateway sends is held against the grammar and not against a forgiving library.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::PATIENCE;

/// Header lines in the order and spelling they had.
pub type Fields = Vec<(String, String)>;

/// The values of a header, by name in any case.
pub fn all<'f>(fields: &'f Fields, name: &str) -> Vec<&'f str> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
}

/// A connection with what was read from it and not yet used.
pub struct Wire {
    stream: TcpStream,
    held: Vec<u8>,
    /// Every byte that ever arrived.
    pub arrived: Vec<u8>,
    /// The other side closed or reset.
    pub ended: bool,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, held: Vec::new(), arrived: Vec::new(), ended: false }
    }

    /// Writes; false when the other side is gone.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The same connection, to write from another thread.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// Says that nothing more will be written.
    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection at once, in both directions.
    pub fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.ended = true;
    }

    /// Ends the connection with a reset instead of a proper end.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(self.stream);
    }

    /// Reads once more. False: there will be nothing more. A read that takes longer than [`PATIENCE`]
    /// fails the test.
    pub fn fill(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => self.ended = true,
            Ok(n) => {
                self.held.extend_from_slice(&piece[..n]);
                self.arrived.extend_from_slice(&piece[..n]);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came within {PATIENCE:?}; unused so far: {:?}", show(&self.held))
            }
            Err(_) => self.ended = true,
        }
        !self.ended
    }

    /// The port at this end.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    /// How long a read waits from here on.
    pub fn patience(&mut self, time: Duration) {
        self.stream.set_read_timeout(Some(time)).unwrap();
    }

    /// Whether nothing comes for as long as a read waits, not even the end.
    pub fn is_silent(&mut self) -> bool {
        let outcome = self.stream.read(&mut [0]);
        outcome.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.held)
    }

    /// Up to and with the next `end`; None when the connection ends before it.
    pub fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let mut looked = 0;
        loop {
            if let Some(at) = find(&self.held[looked..], end) {
                return Some(self.held.drain(..looked + at + end.len()).collect());
            }
            looked = self.held.len().saturating_sub(end.len());
            if !self.fill() {
                return None;
            }
        }
    }

    /// Up to `most` bytes, at least one; None at the end.
    pub fn some(&mut self, most: usize) -> Option<Vec<u8>> {
        if self.held.is_empty() && !self.fill() {
            return None;
        }
        let n = most.min(self.held.len());
        Some(self.held.drain(..n).collect())
    }

    /// Exactly so many bytes; None when the connection ends before.
    pub fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.held.len() < length {
            if !self.fill() {
                return None;
            }
        }
        Some(self.held.drain(..length).collect())
    }

    /// What has arrived and was not used.
    pub fn unused(&self) -> &[u8] {
        &self.held
    }
}

/// Where `needle` starts.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

/// Bytes for people.
pub fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(2000)];
    cut.escape_ascii().to_string()
}

/// A head's first line and its fields, or what is wrong with it.
pub fn parse_head(head: &[u8]) -> Result<(String, Fields), String> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or("no end of head")?;
    let mut lines = Vec::new();
    let mut left = text;
    while let Some(at) = find(left, b"\r\n") {
        lines.push(&left[..at]);
        left = &left[at + 2..];
    }
    lines.push(left);
    if let Some(line) = lines.iter().find(|l| l.iter().any(|b| matches!(b, b'\r' | b'\n' | 0))) {
        return Err(format!("bare CR, bare LF or NUL in {:?}", show(line)));
    }
    let mut fields = Fields::new();
    for line in &lines[1..] {
        if line.first().is_some_and(u8::is_ascii_whitespace) {
            return Err(format!("folded line {:?}", show(line)));
        }
        let colon = line.iter().position(|&b| b == b':').ok_or(format!("no colon in {:?}", show(line)))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|&b| is_token(b)) {
            return Err(format!("bad field name {:?}", show(name)));
        }
        fields.push((latin1(name), latin1(value.trim_ascii())));
    }
    Ok((latin1(lines[0]), fields))
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Bytes as text, one character a byte.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

/// How a message's end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    ToTheEnd,
}

/// The framing that the fields give; both or several are refused, as a smuggler would use them.
pub fn framing(fields: &Fields) -> Result<Framing, String> {
    let (lengths, codings) = (all(fields, "content-length"), all(fields, "transfer-encoding"));
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::None),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| format!("bad content-length {length:?}"))
        }
        ([], [coding]) if *coding == "chunked" => Ok(Framing::Chunked),
        _ => Err(format!("ambiguous framing: content-length {lengths:?}, transfer-encoding {codings:?}")),
    }
}

/// Reads one body in pieces.
pub struct BodyReader {
    framing: Framing,
    left: usize,
    done: bool,
    /// After the last chunk.
    pub trailers: Fields,
    /// What was wrong, when the body did not end as it should.
    pub fault: Option<String>,
}

impl BodyReader {
    pub fn new(framing: Framing) -> Self {
        let left = if let Framing::Length(n) = framing { n } else { 0 };
        let done = matches!(framing, Framing::None | Framing::Length(0));
        Self { framing, left, done, trailers: Fields::new(), fault: None }
    }

    /// The next piece as it arrives; None when the body is over.
    pub fn piece(&mut self, wire: &mut Wire) -> Option<Vec<u8>> {
        if self.done {
            return None;
        }
        let piece = match self.framing {
            Framing::None => None,
            Framing::ToTheEnd => wire.some(usize::MAX),
            Framing::Length(_) => self.counted(wire),
            Framing::Chunked => self.chunked(wire),
        };
        self.done = piece.is_none() || (self.framing != Framing::Chunked && self.left == 0);
        if self.framing == Framing::ToTheEnd {
            self.done = piece.is_none();
        }
        piece
    }

    /// Everything that is left.
    pub fn whole(&mut self, wire: &mut Wire) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(wire) {
            body.extend(piece);
        }
        body
    }

    fn counted(&mut self, wire: &mut Wire) -> Option<Vec<u8>> {
        let Some(piece) = wire.some(self.left) else {
            self.fault = Some(format!("the connection ended {} bytes before the body did", self.left));
            return None;
        };
        self.left -= piece.len();
        Some(piece)
    }

    fn chunked(&mut self, wire: &mut Wire) -> Option<Vec<u8>> {
        if self.left == 0 {
            let Some(line) = wire.until(b"\r\n") else {
                self.fault = Some("the connection ended before the last chunk".to_owned());
                return None;
            };
            let size = latin1(&line[..line.len() - 2]);
            let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_hexdigit());
            let Some(size) = usize::from_str_radix(&size, 16).ok().filter(|_| digits) else {
                self.fault = Some(format!("bad chunk size {size:?}"));
                return None;
            };
            if size == 0 {
                self.trailers(wire);
                return None;
            }
            self.left = size;
        }
        let piece = self.counted(wire)?;
        if self.left == 0 && wire.until(b"\r\n").is_none_or(|end| end != b"\r\n") {
            self.fault = Some("a chunk without its line end".to_owned());
        }
        Some(piece)
    }

    fn trailers(&mut self, wire: &mut Wire) {
        let mut head = b"x\r\n".to_vec();
        loop {
            let Some(line) = wire.until(b"\r\n") else {
                self.fault = Some("the connection ended in the trailers".to_owned());
                return;
            };
            head.extend_from_slice(&line);
            if line == b"\r\n" {
                break;
            }
        }
        match parse_head(&head) {
            Ok((_, fields)) => self.trailers = fields,
            Err(e) => self.fault = Some(e),
        }
    }
}
