//! Reads along with hyper, more strictly: what two readers could frame differently never gets to be
//! a request.
//!
//! hyper repairs some requests instead of refusing them: it takes a bare LF for a line end, drops a
//! `Content-Length` beside a `Transfer-Encoding`, accepts one length given twice, and cuts a
//! fragment off the target. Each of these is a difference of opinion between two servers, the raw
//! material of request smuggling (RFC 9112 sections 2.2, 3.2, 6.1 and 6.3). The tracker sees every
//! byte in order, knows where heads and bodies end, and says when a client has left the strict
//! syntax. It does not judge what hyper judges already (names, values, sizes of a head).

use crate::message::inbound::HeadRemark;

/// Longest chunk-size line, extensions included. Bounds what a chunk may hide (RFC 9112 section 7.1.1).
const CHUNK_LINE_MAX: usize = 256;
/// What is kept of a header line: enough for any sane length or transfer coding.
const LINE_KEPT: usize = 64;

/// Why a connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Violation {
    /// LF without CR before it.
    BareLf,
    /// A header line that continues the one before.
    ObsoleteFolding,
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndCoding,
    /// `Content-Length` twice, or not a plain number.
    ContentLength,
    /// A `Transfer-Encoding` other than one `chunked`.
    TransferEncoding,
    /// A chunk that is not framed as RFC 9112 section 7.1 says.
    Chunk,
}

/// Where the syntax was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) violation: Violation,
    /// How many of the bytes came before it, in whole lines.
    pub(super) good: usize,
    /// In a head, or else in a body.
    pub(super) in_head: bool,
}

/// Follows the requests of one connection through its bytes.
#[derive(Debug)]
pub(super) struct FramingTracker {
    state: State,
    /// The start of the line that is being read, and its length so far.
    line: Vec<u8>,
    line_length: usize,
    last: u8,
    head: Head,
    head_limit: usize,
    heads_ended: u64,
    remarks: Vec<(u64, HeadRemark)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    RequestLine,
    Headers,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd(u8),
    Trailers,
}

#[derive(Clone, Copy, Default, Debug)]
struct Head {
    bytes: usize,
    length: Option<u64>,
    chunked: bool,
    fragment: bool,
}

impl FramingTracker {
    /// A tracker at the start of a connection; `head_limit` is `[server.limits] header_bytes`.
    pub(super) const fn new(head_limit: usize) -> Self {
        Self {
            state: State::RequestLine,
            line: Vec::new(),
            line_length: 0,
            last: 0,
            head: Head { bytes: 0, length: None, chunked: false, fragment: false },
            head_limit,
            heads_ended: 0,
            remarks: Vec::new(),
        }
    }

    /// How many of the next bytes are certainly body, whatever they are.
    pub(super) const fn opaque(&self) -> u64 {
        match self.state {
            State::Length(left) | State::ChunkData(left) => left,
            _ => 0,
        }
    }

    /// Whether the next byte would be the first of a request.
    pub(super) const fn is_between_requests(&self) -> bool {
        matches!(self.state, State::RequestLine) && self.line_length == 0
    }

    /// What was odd about the head of request number `n` of this connection (from 0). Asked once for
    /// each request, in order.
    pub(super) fn take_remark(&mut self, n: u64) -> Option<HeadRemark> {
        if self.remarks.is_empty() {
            return None;
        }
        let remark = self.remarks.iter().find(|(head, _)| *head == n).map(|(_, remark)| *remark);
        self.remarks.retain(|(head, _)| *head > n);
        remark
    }

    /// Takes note of `n` bytes of body that nobody looked at; `n` is at most [`Self::opaque`].
    pub(super) fn skip(&mut self, n: u64) {
        match &mut self.state {
            State::Length(left) => {
                *left = left.saturating_sub(n);
                if *left == 0 {
                    self.state = State::RequestLine;
                }
            }
            State::ChunkData(left) => {
                *left = left.saturating_sub(n);
                if *left == 0 {
                    self.state = State::ChunkEnd(b'\r');
                }
            }
            _ => {}
        }
    }

    /// Reads the next bytes. After a fault the tracker knows nothing any more: nothing that follows may
    /// be taken for a request.
    pub(super) fn read(&mut self, all: &[u8]) -> Result<(), Fault> {
        let mut bytes = all;
        while !bytes.is_empty() {
            let used = match self.state {
                State::Length(left) | State::ChunkData(left) => {
                    let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.skip(n as u64);
                    n
                }
                State::ChunkEnd(expected) => {
                    if bytes[0] != expected {
                        return Err(Fault {
                            violation: Violation::Chunk,
                            good: all.len() - bytes.len(),
                            in_head: false,
                        });
                    }
                    self.state = if expected == b'\r' { State::ChunkEnd(b'\n') } else { State::ChunkSize };
                    1
                }
                _ => {
                    let (good, in_head) = (all.len() - bytes.len(), self.is_in_head());
                    self.read_line(bytes).map_err(|violation| Fault { violation, good, in_head })?
                }
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    const fn is_in_head(&self) -> bool {
        matches!(self.state, State::RequestLine | State::Headers)
    }

    /// Reads up to the end of the line or of the bytes; acts on a whole line.
    fn read_line(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.keep(bytes);
            return self.bounded().map(|()| bytes.len());
        };
        let before = if end == 0 { self.last } else { bytes[end - 1] };
        if before != b'\r' || (end == 0 && self.line_length == 0) {
            return Err(Violation::BareLf);
        }
        self.keep(&bytes[..end]);
        self.bounded()?;
        let length = self.line_length - 1;
        let mut line = std::mem::take(&mut self.line);
        line.truncate(length);
        let outcome = self.end_line(&line, length);
        line.clear();
        self.line = line;
        self.line_length = 0;
        self.last = 0;
        outcome.map(|()| end + 1)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = if self.state == State::RequestLine { 0 } else { LINE_KEPT.max(CHUNK_LINE_MAX) };
        let n = room.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..n]);
        self.line_length += bytes.len();
        self.head.bytes = self.head.bytes.saturating_add(bytes.len() + 1);
        self.last = bytes.last().copied().unwrap_or(self.last);
        if self.state == State::RequestLine && bytes.contains(&b'#') {
            self.head.fragment = true;
        }
    }

    fn bounded(&self) -> Result<(), Violation> {
        let too_long = self.state == State::ChunkSize && self.line_length > CHUNK_LINE_MAX;
        if too_long { Err(Violation::Chunk) } else { Ok(()) }
    }

    /// `line` is the kept start of a line of `length` bytes, its end cut off.
    fn end_line(&mut self, line: &[u8], length: usize) -> Result<(), Violation> {
        match self.state {
            // Empty lines before a request are tolerated (RFC 9112 section 2.2), as hyper does.
            State::RequestLine if length == 0 => {}
            State::RequestLine => self.state = State::Headers,
            State::Headers if length == 0 => self.end_head(),
            State::Headers => return self.header(line, length),
            State::ChunkSize => self.state = chunk_size(line).ok_or(Violation::Chunk)?,
            State::Trailers if length == 0 => self.state = State::RequestLine,
            State::Trailers => {
                if matches!(line.first(), Some(b' ' | b'\t')) {
                    return Err(Violation::ObsoleteFolding);
                }
            }
            State::Length(_) | State::ChunkData(_) | State::ChunkEnd(_) => {}
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8], length: usize) -> Result<(), Violation> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Violation::ObsoleteFolding);
        }
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            return Ok(()); // not a header that could frame anything; hyper refuses it
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        let is_coding = name.eq_ignore_ascii_case(b"transfer-encoding");
        if !is_length && !is_coding {
            return Ok(());
        }
        if is_length {
            if self.head.length.is_some() || length > LINE_KEPT {
                return Err(Violation::ContentLength);
            }
            self.head.length = Some(number(value, 10).ok_or(Violation::ContentLength)?);
        } else {
            let plain = value.eq_ignore_ascii_case(b"chunked");
            if self.head.chunked || !plain || length > LINE_KEPT {
                return Err(Violation::TransferEncoding);
            }
            self.head.chunked = true;
        }
        if self.head.length.is_some() && self.head.chunked {
            return Err(Violation::LengthAndCoding);
        }
        Ok(())
    }

    fn end_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        if head.bytes > self.head_limit {
            self.remarks.push((self.heads_ended, HeadRemark::TooLarge));
        } else if head.fragment {
            self.remarks.push((self.heads_ended, HeadRemark::Fragment));
        }
        self.heads_ended += 1;
        self.state = match head {
            Head { chunked: true, .. } => State::ChunkSize,
            Head { length: Some(n), .. } if n > 0 => State::Length(n),
            Head { .. } => State::RequestLine,
        };
    }
}

/// The state after a chunk-size line: 1–16 hex digits, then nothing or an extension.
fn chunk_size(line: &[u8]) -> Option<State> {
    let digits = line.iter().position(|&b| b == b';').unwrap_or(line.len());
    let extension = &line[digits..];
    if extension.iter().any(|&b| b == b'\r' || b == 0) {
        return None;
    }
    match number(&line[..digits], 16)? {
        0 => Some(State::Trailers),
        size => Some(State::ChunkData(size)),
    }
}

/// A number of digits only: no sign, no blank, no overflow.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(|&b| char::from(b).is_digit(radix));
    if !plain {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tracker says of `bytes`, in one piece and in every other way to cut them in two.
    fn judge(bytes: &[u8]) -> Result<(), Violation> {
        let whole = FramingTracker::new(1 << 20).read(bytes).map_err(|fault| fault.violation);
        for cut in 0..bytes.len() {
            let mut tracker = FramingTracker::new(1 << 20);
            let parts = tracker.read(&bytes[..cut]).and_then(|()| tracker.read(&bytes[cut..]));
            let parts = parts.map_err(|fault| fault.violation);
            assert_eq!(parts, whole, "cut at {cut}: {:?}", String::from_utf8_lossy(bytes));
        }
        whole
    }

    #[test]
    fn strict_requests_pass_one_after_the_other() {
        let requests = [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na\nb\nc",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\nb\r\nA;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
            "GET /last HTTP/1.1\r\n\r\n",
        ];
        for request in requests {
            assert_eq!(judge(request.as_bytes()), Ok(()), "{request}");
        }
        let all = requests.concat();
        assert_eq!(judge(all.as_bytes()), Ok(()));
        let mut tracker = FramingTracker::new(1 << 20);
        tracker.read(all.as_bytes()).expect("strict");
        assert_eq!(tracker.heads_ended, 5);
        assert!(tracker.is_between_requests());
    }

    #[test]
    fn what_two_servers_could_read_differently_is_a_violation() {
        use Violation::*;
        let cases: &[(&str, Violation)] = &[
            ("GET / HTTP/1.1\nHost: a\n\n", BareLf),
            ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", BareLf),
            ("\nGET / HTTP/1.1\r\n\r\n", BareLf),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", ObsoleteFolding),
            ("GET / HTTP/1.1\r\n\tA: b\r\n\r\n", ObsoleteFolding),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndCoding),
            ("POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\ncontent-length:1\r\n\r\n", LengthAndCoding),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", TransferEncoding),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                TransferEncoding,
            ),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Chunk),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", Chunk),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", Chunk),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", Chunk),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX", Chunk),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", Chunk),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n", BareLf),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", Chunk),
        ];
        for (request, violation) in cases {
            assert_eq!(judge(request.as_bytes()), Err(*violation), "{request:?}");
        }
        let endless = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}", "x".repeat(300));
        assert_eq!(judge(endless.as_bytes()), Err(Chunk));
        let padded = format!("POST / HTTP/1.1\r\nTransfer-Encoding:{}chunked\r\n\r\n", " ".repeat(400));
        assert_eq!(judge(padded.as_bytes()), Err(TransferEncoding));
    }

    #[test]
    fn a_fragment_is_remembered_for_its_own_request() {
        let mut tracker = FramingTracker::new(1 << 20);
        tracker.read(b"GET /a HTTP/1.1\r\nReferer: /x#y\r\n\r\nGET /b#c HTTP/1.1\r\n\r\n").expect("strict");
        assert_eq!([tracker.take_remark(0), tracker.take_remark(1)], [None, Some(HeadRemark::Fragment)]);
    }

    #[test]
    fn a_head_beyond_the_limit_is_remembered() {
        let mut tracker = FramingTracker::new(40);
        tracker.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("strict");
        tracker.read(b"GET / HTTP/1.1\r\nHost: a\r\nX: 0123456789\r\n\r\n").expect("strict");
        assert_eq!([tracker.take_remark(0), tracker.take_remark(1)], [None, Some(HeadRemark::TooLarge)]);
    }

    #[test]
    fn a_fault_says_what_came_before_it() {
        let fault = FramingTracker::new(1 << 20)
            .read(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\n")
            .expect_err("bare LF");
        assert_eq!(fault, Fault { violation: Violation::BareLf, good: 18, in_head: true });
        let mut tracker = FramingTracker::new(1 << 20);
        tracker.read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").expect("strict");
        let fault = tracker.read(b"1\r\na\r\nX\r\n").expect_err("no size");
        assert_eq!(fault, Fault { violation: Violation::Chunk, good: 6, in_head: false });
    }

    #[test]
    fn bodies_need_no_look() {
        let mut tracker = FramingTracker::new(1 << 20);
        tracker.read(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc").expect("strict");
        assert_eq!(tracker.opaque(), 997);
        tracker.skip(997);
        assert!(tracker.is_between_requests());
    }
}
