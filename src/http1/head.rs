//! Heads: the first line and the header lines (RFC 9112 sections 2 to 6).
//!
//! A head is parsed where the bytes were read to and copied once, into an allocation of its own size
//! that its target and its values share. So what was read needs no buffer that lives on, and a
//! connection that waits holds none.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HeaderMap, HeaderName, HeaderValue};
use http::header::{TRAILER, TRANSFER_ENCODING};
use http::uri::Uri;
use http::{Method, Request, Response, StatusCode, Version, request, response};

use super::body::{BodyLength, number};
use crate::message::inbound::HeadRemark;

/// Header lines for which there is room on the stack.
const LINES_USUAL: usize = 128;
/// Longest line that says how a body is framed: enough for any sane length or coding.
const FRAMING_LINE_MAX: usize = 64;
/// Header lines that a map has room for from its start.
const MAP_LINES: usize = 24;

/// What a head may be at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Bytes from its first line to its empty one. Up to twice as many are read, so that a head which is
    /// too large can be answered for what it is.
    pub bytes: usize,
    /// Header lines.
    pub count: usize,
}

/// Why bytes are not a head that may be taken for one. The connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadFault {
    /// The first line, a name or a value is not as RFC 9112 has it.
    #[error("the head's syntax is wrong")]
    Syntax,
    /// LF without CR before it (section 2.2).
    #[error("a line ends with a bare line feed")]
    BareLineFeed,
    /// Both `Content-Length` and `Transfer-Encoding` (section 6.1).
    #[error("it has both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// `Content-Length` twice, or not a plain number (section 6.3).
    #[error("its Content-Length is not one number")]
    ContentLength,
    /// A `Transfer-Encoding` other than one `chunked`, or one in HTTP/1.0 (section 6.1).
    #[error("its Transfer-Encoding is not chunked alone")]
    TransferEncoding,
    /// More than the limits allow by far.
    #[error("the head is too large")]
    TooLarge,
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target, version and header lines as they came.
    pub parts: request::Parts,
    /// How its body is framed; never [`BodyLength::UntilClose`].
    pub length: BodyLength,
    /// Whether the client would send another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for 100 (Continue) before it sends the body.
    pub expects_continue: bool,
    /// What has to be refused, but by an answer that says so.
    pub remark: Option<HeadRemark>,
}

/// A response's head; also a 1xx one, which has no body and is followed by another.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status, version and header lines as they came.
    pub parts: response::Parts,
    /// How its body is framed.
    pub length: BodyLength,
    /// Whether the server would take another request on this connection.
    pub keep_alive: bool,
}

/// How far the end of a head was looked for, so that a head that drips in is not parsed anew for each
/// byte of it. One for each direction that is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadSearch(usize);

impl HeadSearch {
    /// Whether to parse: at the first look, and when an empty line has come since the last one.
    fn is_worth_parsing(&mut self, bytes: &[u8]) -> bool {
        let seen = std::mem::replace(&mut self.0, bytes.len());
        if seen == 0 {
            return true;
        }
        let fresh = &bytes[seen.saturating_sub(2).min(bytes.len())..];
        memchr::memchr_iter(b'\n', fresh)
            .any(|at| matches!(fresh[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
    }
}

/// Reads a request's head from the start of `bytes`: how many of them it takes, and what it says. `None`
/// when more are needed; then call again with these and more, and the same `search`. `spare` is taken
/// for the header lines; its room is used again, its contents are not.
///
/// # Errors
/// [`HeadFault`]: nothing that follows may be taken for a request.
pub fn parse_request(
    bytes: &[u8],
    search: &mut HeadSearch,
    spare: &mut HeaderMap,
    limits: HeadLimits,
) -> Result<Option<(usize, RequestHead)>, HeadFault> {
    let blank = empty_lines(bytes)?;
    let text = &bytes[blank..];
    if text.is_empty() || !search.is_worth_parsing(bytes) {
        return waits(bytes, limits);
    }
    let mut few = [const { MaybeUninit::uninit() }; LINES_USUAL];
    let mut many = Vec::new();
    let lines = room(&mut few, &mut many, limits.count);
    let mut head = httparse::Request::new(&mut []);
    let length = match head.parse_with_uninit_headers(text, lines) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return waits(bytes, limits),
        Err(httparse::Error::TooManyHeaders) => {
            let head = too_many_lines(&head)?;
            *search = HeadSearch::default();
            return Ok(Some((bytes.len(), head)));
        }
        Err(_) => return Err(HeadFault::Syntax),
    };
    if length > limits.bytes.saturating_mul(2) {
        return Err(HeadFault::TooLarge);
    }
    *search = HeadSearch::default();
    check_line_ends(&text[..length], head.headers)?;
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Err(HeadFault::Syntax);
    };
    let shared = Bytes::copy_from_slice(&text[..length]);
    let uri = Uri::from_maybe_shared(shared.slice(place(text, target.as_bytes())));
    let uri = uri.map_err(|_| HeadFault::Syntax)?;
    let mut parts = request_parts(method, uri, version(minor))?;
    let mut framing = Framing::default();
    parts.headers = framing.read_lines(text, &shared, head.headers, spare)?;
    if framing.chunked && minor == 0 {
        return Err(HeadFault::TransferEncoding);
    }
    let remark = if length > limits.bytes {
        Some(HeadRemark::TooLarge)
    } else if memchr::memchr(b'#', target.as_bytes()).is_some() {
        Some(HeadRemark::Fragment)
    } else {
        None
    };
    let head = RequestHead {
        parts,
        length: framing.request_length(),
        keep_alive: framing.keep_alive(minor),
        expects_continue: framing.expects_continue && minor == 1,
        remark,
    };
    Ok(Some((blank + length, head)))
}

/// Reads a response's head, as [`parse_request`] does a request's. What frames it has to be beyond doubt
/// also where it has no body (RFC 9112 section 6.3).
///
/// # Errors
/// [`HeadFault`]; also for a head over `limits`, without grace.
pub fn parse_response(
    bytes: &[u8],
    search: &mut HeadSearch,
    spare: &mut HeaderMap,
    limits: HeadLimits,
    asked: &Method,
) -> Result<Option<(usize, ResponseHead)>, HeadFault> {
    if bytes.is_empty() || !search.is_worth_parsing(bytes) {
        return waits(bytes, limits);
    }
    if matches!(bytes[0], b'\r' | b'\n') {
        return Err(HeadFault::Syntax);
    }
    let mut few = [const { MaybeUninit::uninit() }; LINES_USUAL];
    let mut many = Vec::new();
    let lines = room(&mut few, &mut many, limits.count);
    let mut head = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut head, bytes, lines) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return waits(bytes, limits),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadFault::TooLarge),
        Err(_) => return Err(HeadFault::Syntax),
    };
    if length > limits.bytes {
        return Err(HeadFault::TooLarge);
    }
    *search = HeadSearch::default();
    check_line_ends(&bytes[..length], head.headers)?;
    let (Some(code), Some(minor)) = (head.code, head.version) else { return Err(HeadFault::Syntax) };
    let shared = Bytes::copy_from_slice(&bytes[..length]);
    let mut framing = Framing::default();
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(code).map_err(|_| HeadFault::Syntax)?;
    parts.version = version(minor);
    parts.headers = framing.read_lines(bytes, &shared, head.headers, spare)?;
    if framing.chunked && minor == 0 {
        return Err(HeadFault::TransferEncoding);
    }
    let length_of_body = framing.response_length(asked, parts.status);
    let keep_alive = framing.keep_alive(minor) && length_of_body != BodyLength::UntilClose;
    Ok(Some((length, ResponseHead { parts, length: length_of_body, keep_alive })))
}

/// Empty lines before a request are tolerated (RFC 9112 section 2.2).
fn empty_lines(bytes: &[u8]) -> Result<usize, HeadFault> {
    let mut blank = 0;
    loop {
        match bytes[blank..] {
            [b'\r', b'\n', ..] => blank += 2,
            [b'\r'] => return Ok(bytes.len()),
            [b'\n', ..] => return Err(HeadFault::BareLineFeed),
            _ => return Ok(blank),
        }
    }
}

/// More bytes are needed, unless there are too many already.
const fn waits<T>(bytes: &[u8], limits: HeadLimits) -> Result<Option<T>, HeadFault> {
    if bytes.len() > limits.bytes.saturating_mul(2) { Err(HeadFault::TooLarge) } else { Ok(None) }
}

/// Room for as many header lines as are allowed.
fn room<'l, 'h>(
    few: &'l mut [MaybeUninit<httparse::Header<'h>>; LINES_USUAL],
    many: &'l mut Vec<MaybeUninit<httparse::Header<'h>>>,
    count: usize,
) -> &'l mut [MaybeUninit<httparse::Header<'h>>] {
    if count <= LINES_USUAL {
        return &mut few[..count];
    }
    many.resize_with(count, MaybeUninit::uninit);
    many
}

/// A head that is only known to have too many lines: who asks for what is enough to refuse it.
fn too_many_lines(head: &httparse::Request<'_, '_>) -> Result<RequestHead, HeadFault> {
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Err(HeadFault::TooLarge);
    };
    let uri = Uri::try_from(target).map_err(|_| HeadFault::Syntax)?;
    Ok(RequestHead {
        parts: request_parts(method, uri, version(minor))?,
        length: BodyLength::None,
        keep_alive: false,
        expects_continue: false,
        remark: Some(HeadRemark::TooLarge),
    })
}

fn request_parts(method: &str, uri: Uri, version: Version) -> Result<request::Parts, HeadFault> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadFault::Syntax)?;
    parts.uri = uri;
    parts.version = version;
    Ok(parts)
}

const fn version(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Where `part` lies in `whole`, of which it is a slice.
fn place(whole: &[u8], part: &[u8]) -> std::ops::Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// The parser takes a bare LF for a line end. Names and values cannot contain one, so only the ends of
/// lines have to be looked at: what stands before each name, and the last four bytes.
fn check_line_ends(head: &[u8], lines: &[httparse::Header<'_>]) -> Result<(), HeadFault> {
    let proper = lines.iter().all(|line| {
        let start = place(head, line.name.as_bytes()).start;
        start >= 2 && head[start - 2] == b'\r'
    });
    if proper && head.ends_with(b"\r\n\r\n") { Ok(()) } else { Err(HeadFault::BareLineFeed) }
}

/// What the header lines say of the message and its connection.
#[expect(clippy::struct_excessive_bools, reason = "each is whether a word was said; any of them may be")]
#[derive(Clone, Copy, Default, Debug)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl Framing {
    /// Moves the lines into a map. Their values share `shared`, which is a copy of `text`'s start.
    fn read_lines(
        &mut self,
        text: &[u8],
        shared: &Bytes,
        lines: &[httparse::Header<'_>],
        spare: &mut HeaderMap,
    ) -> Result<HeaderMap, HeadFault> {
        let mut headers = std::mem::take(spare);
        headers.clear();
        if headers.capacity() < lines.len() {
            headers.try_reserve(lines.len().max(MAP_LINES)).map_err(|_| HeadFault::TooLarge)?;
        }
        for line in lines {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeadFault::Syntax)?;
            let bytes = shared.slice(place(text, line.value));
            let value = HeaderValue::from_maybe_shared(bytes).map_err(|_| HeadFault::Syntax)?;
            // Lengths of the names that matter: expect, connection, content-length, transfer-encoding.
            if matches!(line.name.len(), 6 | 10 | 14 | 17) {
                let end = place(text, line.value).end;
                self.note(&name, &value, end - place(text, line.name.as_bytes()).start)?;
            }
            headers.try_append(name, value).map_err(|_| HeadFault::TooLarge)?;
        }
        Ok(headers)
    }

    fn note(&mut self, name: &HeaderName, value: &HeaderValue, line: usize) -> Result<(), HeadFault> {
        if *name == CONTENT_LENGTH {
            if self.length.is_some() || line > FRAMING_LINE_MAX {
                return Err(HeadFault::ContentLength);
            }
            self.length = Some(number(value.as_bytes(), 10).ok_or(HeadFault::ContentLength)?);
        } else if *name == TRANSFER_ENCODING {
            let plain = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            if self.chunked || !plain || line > FRAMING_LINE_MAX {
                return Err(HeadFault::TransferEncoding);
            }
            self.chunked = true;
        } else if *name == CONNECTION {
            for option in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if *name == EXPECT {
            self.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        }
        if self.length.is_some() && self.chunked { Err(HeadFault::LengthAndCoding) } else { Ok(()) }
    }

    const fn keep_alive(&self, minor: u8) -> bool {
        !self.close && (minor == 1 || self.keep_alive)
    }

    /// RFC 9112 section 6.3: a request without either has no body.
    const fn request_length(&self) -> BodyLength {
        match self.length {
            _ if self.chunked => BodyLength::Chunked,
            Some(length) if length > 0 => BodyLength::Exact(length),
            Some(_) | None => BodyLength::None,
        }
    }

    /// RFC 9112 section 6.3: a response without either ends with its connection.
    fn response_length(&self, asked: &Method, status: StatusCode) -> BodyLength {
        let bodiless = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || asked == Method::HEAD;
        match self.length {
            _ if bodiless => BodyLength::None,
            _ if self.chunked => BodyLength::Chunked,
            Some(0) => BodyLength::None,
            Some(length) => BodyLength::Exact(length),
            None => BodyLength::UntilClose,
        }
    }
}

/// Writes a request's head: the target in origin form, what `parts` has of lines, and the line that
/// frames the body. A `Content-Length` that `parts` has stays where there is no body of another framing.
pub fn write_request(
    out: &mut Vec<u8>,
    parts: &request::Parts,
    length: BodyLength,
    more: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    if !target.starts_with(['/', '*']) {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut sized = false;
    for (name, value) in &parts.headers {
        if *name == TRANSFER_ENCODING {
            continue;
        }
        if *name == CONTENT_LENGTH {
            if length == BodyLength::Chunked {
                continue;
            }
            sized = true;
        }
        write_line(out, name, value);
    }
    more(out);
    write_framing(out, length, sized);
    out.extend_from_slice(b"\r\n");
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// It stays; that is what HTTP/1.1 means by saying nothing.
    Stays,
    /// It stays, which an HTTP/1.0 client has to be told.
    StaysForOld,
    /// It is closed.
    Closes,
    /// It is handed over to another protocol: `Connection` and `Upgrade` are the response's own.
    Switches,
}

/// What a response's head says besides what its parts say.
#[derive(Clone, Copy, Debug)]
pub struct Answering<'a> {
    /// How the body is framed. [`BodyLength::None`] keeps the length that `parts` has: an answer to HEAD
    /// says how long the other one would be.
    pub length: BodyLength,
    /// What becomes of the connection.
    pub persistence: Persistence,
    /// The time, for a response that has no `Date`.
    pub date: &'a super::date::HttpDate,
}

/// Writes a response's head.
pub fn write_response(out: &mut Vec<u8>, parts: &response::Parts, answering: &Answering<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let length = answering.length;
    let lengthless = parts.status == StatusCode::NO_CONTENT || parts.status.is_informational();
    let keeps_length = matches!(length, BodyLength::Exact(_) | BodyLength::None) && !lengthless;
    let (mut sized, mut dated) = (false, false);
    for (name, value) in &parts.headers {
        if *name == TRANSFER_ENCODING
            || (*name == CONNECTION && answering.persistence != Persistence::Switches)
            || (*name == TRAILER && length != BodyLength::Chunked)
        {
            continue;
        }
        if *name == CONTENT_LENGTH {
            if !keeps_length {
                continue;
            }
            sized = true;
        }
        dated |= *name == DATE;
        write_line(out, name, value);
    }
    write_framing(out, length, sized);
    if !dated && !parts.status.is_informational() {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(answering.date.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(match answering.persistence {
        Persistence::Stays | Persistence::Switches => b"\r\n".as_slice(),
        Persistence::StaysForOld => b"connection: keep-alive\r\n\r\n",
        Persistence::Closes => b"connection: close\r\n\r\n",
    });
}

/// The line that frames a body, unless `sized` says that there is one already.
fn write_framing(out: &mut Vec<u8>, length: BodyLength, sized: bool) {
    match length {
        BodyLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::Exact(length) if !sized => {
            out.extend_from_slice(b"content-length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        BodyLength::Exact(_) | BodyLength::None | BodyLength::UntilClose => {}
    }
}

/// Writes one header line.
pub fn write_line(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the end of a chunked body that has trailers: the last chunk, the lines, the empty line.
pub fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        write_line(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a number in decimal digits.
fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
