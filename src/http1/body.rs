//! Bodies: how long they are, and their chunks (RFC 9112 sections 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Longest chunk-size line, extensions included. Bounds what a chunk may hide (section 7.1.1).
const CHUNK_LINE_MAX: usize = 256;
/// All trailer lines together, in bytes.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Trailer lines.
const TRAILER_LINES_MAX: usize = 64;

/// How a message's body is framed (RFC 9112 section 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// This many bytes; not 0 where a head was parsed.
    Exact(u64),
    /// Chunks, the last of them empty.
    Chunked,
    /// All that comes until the connection is closed; responses only.
    UntilClose,
}

/// Why a body that is read cannot be read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyFault {
    /// LF without CR before it.
    #[error("a line of the body ends with a bare line feed")]
    BareLineFeed,
    /// A chunk that is not framed as RFC 9112 section 7.1 says.
    #[error("a chunk is framed wrongly")]
    Chunk,
    /// Trailers that are no header lines, or too many of them.
    #[error("the trailers are no header lines, or too many")]
    Trailers,
    /// The connection ended first; see [`Decoder::finish`].
    #[error("the connection ended before the body did")]
    Cut,
}

/// What came out of a buffer.
#[derive(Debug)]
pub enum Decoded {
    /// Part of the body; never empty.
    Data(Bytes),
    /// The body is over, and these came after it.
    Trailers(HeaderMap),
    /// Nothing before more bytes arrive.
    NeedMore,
    /// The body is over.
    End,
}

/// Takes a body out of the bytes that frame it.
#[derive(Clone, Copy, Debug)]
pub struct Decoder(State);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Exact(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Ended,
}

impl Decoder {
    /// For a body of this length.
    #[must_use]
    pub const fn new(length: BodyLength) -> Self {
        Self(match length {
            BodyLength::None | BodyLength::Exact(0) => State::Ended,
            BodyLength::Exact(length) => State::Exact(length),
            BodyLength::Chunked => State::ChunkSize,
            BodyLength::UntilClose => State::UntilClose,
        })
    }

    /// How many of the next bytes are certainly the body's data, whatever they are.
    #[must_use]
    pub const fn opaque(&self) -> u64 {
        match self.0 {
            State::Exact(left) | State::ChunkData(left) => left,
            State::UntilClose => u64::MAX,
            State::ChunkSize | State::ChunkEnd | State::Trailers | State::Ended => 0,
        }
    }

    /// How many bytes are left, where that is known.
    #[must_use]
    pub const fn left(&self) -> Option<u64> {
        match self.0 {
            State::Exact(left) => Some(left),
            State::Ended => Some(0),
            _ => None,
        }
    }

    /// Whether the body is over.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    /// Takes what it can from the start of `buffer`, without copying. To be called until it says
    /// [`Decoded::NeedMore`] or [`Decoded::End`]; bytes after the end stay where they are.
    ///
    /// # Errors
    /// [`BodyFault`]; nothing that follows may be taken for anything.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyFault> {
        loop {
            match self.0 {
                State::Ended => return Ok(Decoded::End),
                _ if buffer.is_empty() => return Ok(Decoded::NeedMore),
                State::Exact(left) => {
                    let (data, left) = take(buffer, left);
                    self.0 = if left == 0 { State::Ended } else { State::Exact(left) };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkData(left) => {
                    let (data, left) = take(buffer, left);
                    self.0 = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return Ok(Decoded::Data(data));
                }
                State::UntilClose => return Ok(Decoded::Data(take(buffer, u64::MAX).0)),
                State::ChunkEnd => match **buffer {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.0 = State::ChunkSize;
                    }
                    [b'\r'] => return Ok(Decoded::NeedMore),
                    _ => return Err(BodyFault::Chunk),
                },
                State::ChunkSize => match chunk_line(buffer)? {
                    None => return Ok(Decoded::NeedMore),
                    Some((line, 0)) => {
                        buffer.advance(line);
                        self.0 = State::Trailers;
                    }
                    Some((line, size)) => {
                        buffer.advance(line);
                        self.0 = State::ChunkData(size);
                    }
                },
                State::Trailers => return self.trailers(buffer),
            }
        }
    }

    /// The connection has ended: whether the body has, too.
    ///
    /// # Errors
    /// [`BodyFault::Cut`] when bytes are missing.
    pub fn finish(&mut self) -> Result<(), BodyFault> {
        match self.0 {
            State::Ended | State::UntilClose => {
                self.0 = State::Ended;
                Ok(())
            }
            _ => Err(BodyFault::Cut),
        }
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyFault> {
        match **buffer {
            [b'\r', b'\n', ..] => {
                buffer.advance(2);
                self.0 = State::Ended;
                return Ok(Decoded::End);
            }
            [b'\r'] => return Ok(Decoded::NeedMore),
            _ => {}
        }
        let mut lines = [httparse::EMPTY_HEADER; TRAILER_LINES_MAX];
        match httparse::parse_headers(buffer, &mut lines) {
            Ok(httparse::Status::Complete((length, lines))) if length <= TRAILER_BYTES_MAX => {
                let trailers = trailer_map(&buffer[..length], lines)?;
                buffer.advance(length);
                self.0 = State::Ended;
                Ok(Decoded::Trailers(trailers))
            }
            Ok(httparse::Status::Partial) if buffer.len() <= TRAILER_BYTES_MAX => Ok(Decoded::NeedMore),
            _ => Err(BodyFault::Trailers),
        }
    }
}

/// Up to `left` bytes, and how many are left then.
fn take(buffer: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    (buffer.split_to(length).freeze(), left - length as u64)
}

/// A whole chunk-size line: its length with its end, and the size that it gives. 1 to 16 hex digits, then
/// nothing or an extension.
fn chunk_line(buffer: &[u8]) -> Result<Option<(usize, u64)>, BodyFault> {
    let Some(end) = memchr::memchr(b'\n', &buffer[..buffer.len().min(CHUNK_LINE_MAX + 1)]) else {
        return if buffer.len() > CHUNK_LINE_MAX { Err(BodyFault::Chunk) } else { Ok(None) };
    };
    let Some(line) = buffer[..end].strip_suffix(b"\r") else { return Err(BodyFault::BareLineFeed) };
    let digits = memchr::memchr(b';', line).unwrap_or(line.len());
    if line[digits..].iter().any(|&byte| byte == b'\r' || byte == 0) {
        return Err(BodyFault::Chunk);
    }
    let size = number(&line[..digits], 16).ok_or(BodyFault::Chunk)?;
    Ok(Some((end + 1, size)))
}

fn trailer_map(bytes: &[u8], lines: &[httparse::Header<'_>]) -> Result<HeaderMap, BodyFault> {
    let mut trailers = HeaderMap::with_capacity(lines.len());
    let mut at = 0;
    for line in lines {
        // Names and values hold no LF, so a line's end is the next one.
        let end = at + memchr::memchr(b'\n', &bytes[at..]).ok_or(BodyFault::Trailers)?;
        if !bytes[..end].ends_with(b"\r") {
            return Err(BodyFault::BareLineFeed);
        }
        at = end + 1;
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| BodyFault::Trailers)?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| BodyFault::Trailers)?;
        trailers.append(name, value);
    }
    if bytes[at..] == *b"\r\n" { Ok(trailers) } else { Err(BodyFault::BareLineFeed) }
}

/// A number of digits only: no sign, no blank, no overflow.
pub(super) fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// Why a body that is written does not fit its head: the connection has to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeFault {
    /// More bytes than the head announced.
    #[error("the body is longer than its head says")]
    TooLong,
    /// Fewer.
    #[error("the body is shorter than its head says")]
    TooShort,
}

/// Frames a body that is written, and holds it to its length.
#[derive(Clone, Copy, Debug)]
pub struct Encoder(Left);

#[derive(Clone, Copy, Debug)]
enum Left {
    Exact(u64),
    Chunked,
    UntilClose,
}

/// What stands around some data.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    digits: [u8; 18],
    start: u8,
    /// What stands after it.
    pub after: &'static [u8],
}

impl Frame {
    /// What stands before the data.
    #[must_use]
    pub fn before(&self) -> &[u8] {
        &self.digits[usize::from(self.start)..]
    }
}

impl Encoder {
    /// For a body of this length.
    #[must_use]
    pub const fn new(length: BodyLength) -> Self {
        Self(match length {
            BodyLength::None => Left::Exact(0),
            BodyLength::Exact(length) => Left::Exact(length),
            BodyLength::Chunked => Left::Chunked,
            BodyLength::UntilClose => Left::UntilClose,
        })
    }

    /// What to write around `length` bytes of data, which are not 0: an empty chunk would be the last.
    ///
    /// # Errors
    /// [`EncodeFault::TooLong`]; the data must not be written.
    pub fn frame(&mut self, length: usize) -> Result<Frame, EncodeFault> {
        match &mut self.0 {
            Left::Exact(left) => {
                *left = left.checked_sub(length as u64).ok_or(EncodeFault::TooLong)?;
                Ok(Frame { digits: [0; 18], start: 18, after: b"" })
            }
            Left::UntilClose => Ok(Frame { digits: [0; 18], start: 18, after: b"" }),
            Left::Chunked => Ok(chunk_frame(length)),
        }
    }

    /// Whether all that was announced is written.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self.0, Left::Exact(0))
    }

    /// What to write after the last of the data, when there are no trailers.
    ///
    /// # Errors
    /// [`EncodeFault::TooShort`].
    pub const fn end(&self) -> Result<&'static [u8], EncodeFault> {
        match self.0 {
            Left::Exact(0) | Left::UntilClose => Ok(b""),
            Left::Chunked => Ok(b"0\r\n\r\n"),
            Left::Exact(_) => Err(EncodeFault::TooShort),
        }
    }

    /// Whether trailers can be written ([`write_trailers`](super::write_trailers)) instead of the end.
    #[must_use]
    pub const fn takes_trailers(&self) -> bool {
        matches!(self.0, Left::Chunked)
    }
}

fn chunk_frame(length: usize) -> Frame {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 18];
    digits[16..].copy_from_slice(b"\r\n");
    let (mut start, mut left) = (16, length);
    loop {
        start -= 1;
        digits[start] = HEX[left & 15];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    Frame { digits, start: u8::try_from(start).unwrap_or_default(), after: b"\r\n" }
}
