//! The codec against what it must take, what it must refuse, and anything else.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, Response};
use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::message::inbound::HeadRemark;

const LIMITS: HeadLimits = HeadLimits { bytes: 1 << 20, count: 100 };

/// A fault in a head or in a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Head(HeadFault),
    Body(BodyFault),
}

type Lines = Vec<(String, Vec<u8>)>;

/// What was read: each request's first line, header lines and body, and how many trailers it had.
#[derive(Default, PartialEq, Eq, Debug)]
struct Read {
    requests: Vec<(String, Lines, Vec<u8>, usize)>,
    fault: Option<Fault>,
}

/// Reads requests as a connection does, from pieces.
fn read_requests<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, limits: HeadLimits) -> Read {
    let (mut buffer, mut read) = (BytesMut::new(), Read::default());
    let (mut search, mut spare, mut body) = (HeadSearch::default(), HeaderMap::new(), None::<Decoder>);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while read.fault.is_none() {
            if let Some(decoder) = &mut body {
                match decoder.decode(&mut buffer) {
                    Ok(Decoded::NeedMore) => break,
                    Ok(Decoded::Data(data)) => read.requests.last_mut().expect("a head").2.extend(&data),
                    Ok(Decoded::Trailers(trailers)) => {
                        read.requests.last_mut().expect("a head").3 = trailers.len();
                    }
                    Ok(Decoded::End) => body = None,
                    Err(fault) => read.fault = Some(Fault::Body(fault)),
                }
                continue;
            }
            match parse_request(&buffer, &mut search, &mut spare, limits) {
                Ok(None) => break,
                Ok(Some((length, head))) => {
                    let _ = buffer.split_to(length);
                    let line = format!(
                        "{} {} {:?} {:?} {} {}",
                        head.parts.method,
                        head.parts.uri,
                        head.parts.version,
                        head.remark,
                        head.keep_alive,
                        head.expects_continue
                    );
                    let lines = head.parts.headers.iter();
                    let lines = lines.map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect();
                    read.requests.push((line, lines, Vec::new(), 0));
                    body = Some(Decoder::new(head.length));
                }
                Err(fault) => read.fault = Some(Fault::Head(fault)),
            }
        }
    }
    read
}

/// What is read of `bytes`, in one piece, in every other way to cut them in two, and byte by byte.
#[track_caller]
fn judge(bytes: &[u8]) -> Read {
    let whole = read_requests([bytes], LIMITS);
    for cut in 0..bytes.len() {
        let parts = read_requests([&bytes[..cut], &bytes[cut..]], LIMITS);
        assert_eq!(parts, whole, "cut at {cut}: {:?}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(read_requests(bytes.chunks(1), LIMITS), whole, "{:?}", String::from_utf8_lossy(bytes));
    whole
}

fn one(bytes: &[u8], limits: HeadLimits) -> Result<Option<(usize, RequestHead)>, HeadFault> {
    parse_request(bytes, &mut HeadSearch::default(), &mut HeaderMap::new(), limits)
}

fn answer(bytes: &[u8], asked: &Method) -> Result<Option<(usize, ResponseHead)>, HeadFault> {
    let limits = HeadLimits { bytes: 4096, count: 16 };
    parse_response(bytes, &mut HeadSearch::default(), &mut HeaderMap::new(), limits, asked)
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
        let read = judge(request.as_bytes());
        assert_eq!((read.requests.len(), read.fault), (1, None), "{request}");
    }
    let read = judge(requests.concat().as_bytes());
    assert_eq!((read.requests.len(), read.fault), (5, None));
    assert_eq!(read.requests[1].2, b"a\nb\nc");
    assert_eq!((read.requests[3].2.as_slice(), read.requests[3].3), (b"a\nb0123456789".as_slice(), 1));
}

#[test]
fn what_two_servers_could_read_differently_is_a_fault() {
    use BodyFault::{BareLineFeed as BodyLf, Chunk, Trailers};
    use Fault::{Body, Head};
    use HeadFault::*;
    let cases: &[(&str, Fault)] = &[
        ("GET / HTTP/1.1\nHost: a\n\n", Head(BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Head(BareLineFeed)),
        ("GET / HTTP/1.1\nHost: a\r\nX: y\r\n\r\n", Head(BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n", Head(BareLineFeed)),
        ("GET / HTTP/1.1\n\r\n", Head(BareLineFeed)),
        ("\nGET / HTTP/1.1\r\n\r\n", Head(BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Head(BareLineFeed)),
        ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Head(Syntax)),
        ("GET / HTTP/1.1\r\n\tA: b\r\n\r\n", Head(Syntax)),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Head(LengthAndCoding)),
        ("POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\ncontent-length:1\r\n\r\n", Head(LengthAndCoding)),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Head(ContentLength)),
        ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", Head(ContentLength)),
        ("POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", Head(ContentLength)),
        ("POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", Head(ContentLength)),
        ("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", Head(ContentLength)),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", Head(ContentLength)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Head(TransferEncoding)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Head(TransferEncoding)),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Head(TransferEncoding),
        ),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", Head(TransferEncoding)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", Head(TransferEncoding)),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Head(TransferEncoding)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\rX0\r\n\r\n", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n", Body(BodyLf)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", Body(Chunk)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n", Body(BodyLf)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\n", Body(BodyLf)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", Body(Trailers)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n x: y\r\n\r\n", Body(Trailers)),
    ];
    for (request, fault) in cases {
        assert_eq!(judge(request.as_bytes()).fault, Some(*fault), "{request:?}");
    }
    let endless = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}", "x".repeat(300));
    assert_eq!(judge(endless.as_bytes()).fault, Some(Body(Chunk)));
    let padded = format!("POST / HTTP/1.1\r\nTransfer-Encoding:{}chunked\r\n\r\n", " ".repeat(400));
    assert_eq!(judge(padded.as_bytes()).fault, Some(Head(TransferEncoding)));
    let trailers = "X: y\r\n".repeat(65);
    let flood = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n");
    assert_eq!(judge(flood.as_bytes()).fault, Some(Body(Trailers)));
}

#[test]
fn a_fault_ends_the_reading_after_what_came_before_it() {
    let read = judge(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\n\nGET /c HTTP/1.1\r\n\r\n");
    assert_eq!(read.requests.len(), 1);
    let read = judge(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nX\r\n");
    assert_eq!(
        (read.requests[0].2.as_slice(), read.fault),
        (b"a".as_slice(), Some(Fault::Body(BodyFault::Chunk)))
    );
}

#[test]
fn what_is_refused_with_an_answer_is_remarked() {
    let remark = |bytes: &[u8], limits| one(bytes, limits).map(|head| head.map(|(_, head)| head.remark));
    let small = HeadLimits { bytes: 40, count: 2 };
    assert_eq!(remark(b"GET /a HTTP/1.1\r\nReferer: /x#y\r\n\r\n", small), Ok(Some(None)));
    assert_eq!(remark(b"GET /b#c HTTP/1.1\r\n\r\n", small), Ok(Some(Some(HeadRemark::Fragment))));
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(30));
    assert_eq!(remark(long.as_bytes(), small), Ok(Some(Some(HeadRemark::TooLarge))));
    let longer = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(80));
    assert_eq!(remark(longer.as_bytes(), small), Err(HeadFault::TooLarge));
    assert_eq!(remark(&longer.as_bytes()[..81], small), Err(HeadFault::TooLarge), "before it ends");
    assert_eq!(remark(&longer.as_bytes()[..80], small), Ok(None));
    assert_eq!(remark(b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n", small), Ok(Some(None)));
    let many = b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\nE: f\r\n\r\n";
    assert_eq!(remark(many, small), Ok(Some(Some(HeadRemark::TooLarge))));
    let (_, head) = one(many, small).expect("a head").expect("whole");
    assert!(!head.keep_alive, "what follows it is not read");
    let roomy = HeadLimits { bytes: 1 << 20, count: 1000 };
    let lines = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
    assert_eq!(one(lines.as_bytes(), roomy).expect("a head").expect("whole").1.parts.headers.len(), 1000);
}

#[test]
fn a_connection_stays_when_its_client_wants_it_to() {
    for (lines, stays) in [
        ("1.1\r\n", true),
        ("1.1\r\nConnection: close\r\n", false),
        ("1.1\r\nConnection: x, Close\r\n", false),
        ("1.1\r\nConnection: keep-alive\r\n", true),
        ("1.1\r\nConnection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0\r\n", false),
        ("1.0\r\nConnection: Keep-Alive\r\n", true),
        ("1.0\r\nConnection: keep-alive, close\r\n", false),
    ] {
        let bytes = format!("GET / HTTP/{lines}\r\n");
        assert_eq!(
            one(bytes.as_bytes(), LIMITS).expect("a head").expect("whole").1.keep_alive,
            stays,
            "{lines}"
        );
    }
    let expecting = |version: &str| {
        let bytes = format!("POST / HTTP/{version}\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n");
        one(bytes.as_bytes(), LIMITS).expect("a head").expect("whole").1.expects_continue
    };
    assert!(expecting("1.1") && !expecting("1.0"));
}

#[test]
fn a_responses_body_is_as_long_as_the_rfc_says() {
    let get = Method::GET;
    let cases: &[(&str, &Method, BodyLength, bool)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &get, BodyLength::Exact(5), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &get, BodyLength::None, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &get, BodyLength::Chunked, true),
        ("HTTP/1.1 200\r\n\r\n", &get, BodyLength::UntilClose, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", &get, BodyLength::Exact(5), false),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n",
            &get,
            BodyLength::Exact(5),
            true,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &Method::HEAD, BodyLength::None, true),
        ("HTTP/1.1 200 OK\r\n\r\n", &Method::HEAD, BodyLength::None, true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", &get, BodyLength::None, true),
        ("HTTP/1.1 204 No Content\r\n\r\n", &get, BodyLength::None, true),
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", &get, BodyLength::None, true),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n",
            &get,
            BodyLength::Exact(1),
            false,
        ),
    ];
    for (bytes, asked, length, keep_alive) in cases {
        let (read, head) = answer(bytes.as_bytes(), asked).expect("a head").expect("whole");
        assert_eq!((read, head.length, head.keep_alive), (bytes.len(), *length, *keep_alive), "{bytes}");
    }
}

#[test]
fn a_response_that_could_be_read_in_two_ways_is_a_fault() {
    use HeadFault::*;
    let flood = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(17));
    let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(4096));
    for (bytes, fault) in [
        ("HTTP/1.1 200 OK\nA: b\n\n", BareLineFeed),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\n", BareLineFeed),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Syntax),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Syntax),
        ("HTTP/1.1 99 OK\r\n\r\n", Syntax),
        ("HTTP/2 200 OK\r\n\r\n", Syntax),
        ("rubbish\r\n\r\n", Syntax),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndCoding),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", ContentLength),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 1, 2\r\n\r\n", ContentLength),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", TransferEncoding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding),
        (flood.as_str(), TooLarge),
        (large.as_str(), TooLarge),
    ] {
        for asked in [Method::GET, Method::HEAD] {
            assert_eq!(answer(bytes.as_bytes(), &asked).err(), Some(fault), "{bytes:?}");
        }
    }
}

#[test]
fn a_body_ends_with_its_connection_only_where_that_is_its_end() {
    for (length, whole) in
        [(BodyLength::UntilClose, true), (BodyLength::Exact(9), false), (BodyLength::Chunked, false)]
    {
        let mut decoder = Decoder::new(length);
        let mut buffer = BytesMut::from(&b"3\r\nabc\r\n"[..]);
        while !matches!(decoder.decode(&mut buffer).expect("it is framed well"), Decoded::NeedMore) {}
        assert_eq!(decoder.finish().is_ok(), whole, "{length:?}");
        assert_eq!(decoder.is_ended(), whole);
    }
}

fn write_answer(response: Response<()>, length: BodyLength, persistence: Persistence) -> String {
    let (parts, ()) = response.into_parts();
    let date = HttpDate::new(Timestamp::from_secs(0));
    let mut out = Vec::new();
    write_response(&mut out, &parts, &Answering { length, persistence, date: &date });
    String::from_utf8(out).expect("text")
}

#[test]
fn a_response_head_says_how_its_body_is_framed_and_nothing_else_does() {
    let date = "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
    let response = |status: u16, lines: &[(&'static str, &'static str)]| {
        let mut response = Response::builder().status(status);
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        response.body(()).expect("a response")
    };
    for (written, expected) in [
        (
            write_answer(response(200, &[("content-length", "5")]), BodyLength::Exact(5), Persistence::Stays),
            format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n{date}\r\n"),
        ),
        (
            write_answer(response(200, &[]), BodyLength::Exact(0), Persistence::Closes),
            format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{date}connection: close\r\n\r\n"),
        ),
        (
            write_answer(
                response(200, &[("content-length", "5"), ("transfer-encoding", "gzip"), ("connection", "x")]),
                BodyLength::Chunked,
                Persistence::StaysForOld,
            ),
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{date}connection: keep-alive\r\n\r\n"),
        ),
        (
            write_answer(
                response(200, &[("content-length", "5")]),
                BodyLength::UntilClose,
                Persistence::Closes,
            ),
            format!("HTTP/1.1 200 OK\r\n{date}connection: close\r\n\r\n"),
        ),
        (
            write_answer(
                response(304, &[("content-length", "5"), ("date", "then")]),
                BodyLength::None,
                Persistence::Stays,
            ),
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\ndate: then\r\n\r\n".to_owned(),
        ),
        (
            write_answer(response(204, &[("content-length", "0")]), BodyLength::None, Persistence::Stays),
            format!("HTTP/1.1 204 No Content\r\n{date}\r\n"),
        ),
        (
            write_answer(
                response(101, &[("connection", "upgrade"), ("upgrade", "websocket")]),
                BodyLength::None,
                Persistence::Switches,
            ),
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                .to_owned(),
        ),
    ] {
        assert_eq!(written, expected);
    }
}

/// Encodes `pieces` as a body of `length`.
fn encode(pieces: &[Bytes], length: BodyLength, trailers: Option<&HeaderMap>) -> Vec<u8> {
    let (mut encoder, mut out, mut bytes) = (Encoder::new(length), Outgoing::default(), Vec::new());
    let drain = |out: &mut Outgoing, bytes: &mut Vec<u8>| {
        while !out.is_empty() {
            // In steps, as a socket that takes little at a time.
            let waiting = out.slices().iter().flat_map(|part| part.to_vec()).collect::<Vec<_>>();
            let step = waiting.len().min(1000);
            bytes.extend_from_slice(&waiting[..step]);
            out.advance(step);
        }
    };
    for piece in pieces {
        let frame = encoder.frame(piece.len()).expect("it fits");
        if out.is_full() {
            drain(&mut out, &mut bytes);
        }
        out.push(piece.clone(), &frame);
    }
    drain(&mut out, &mut bytes);
    match trailers {
        Some(trailers) if encoder.takes_trailers() => write_trailers(out.small(), trailers),
        _ => out.small().extend_from_slice(encoder.end().expect("it is whole")),
    }
    drain(&mut out, &mut bytes);
    bytes
}

/// Decodes a body that arrives in pieces of `step` bytes: its data and its trailers.
fn decode(bytes: &[u8], length: BodyLength, step: usize) -> (Vec<u8>, Option<HeaderMap>) {
    let (mut decoder, mut buffer) = (Decoder::new(length), BytesMut::new());
    let (mut data, mut trailers) = (Vec::new(), None);
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer).expect("it is framed well") {
                Decoded::Data(piece) => data.extend_from_slice(&piece),
                Decoded::Trailers(found) => trailers = Some(found),
                Decoded::NeedMore | Decoded::End => break,
            }
        }
    }
    assert!(buffer.is_empty());
    decoder.finish().expect("it is whole");
    (data, trailers)
}

#[test]
fn a_body_is_held_to_its_length() {
    let mut encoder = Encoder::new(BodyLength::Exact(3));
    encoder.frame(2).expect("it fits");
    assert_eq!(encoder.end(), Err(EncodeFault::TooShort));
    assert_eq!(encoder.frame(2).err(), Some(EncodeFault::TooLong));
    assert_eq!(Encoder::new(BodyLength::None).frame(1).err(), Some(EncodeFault::TooLong));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bodies_come_out_as_they_went_in(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20_000), 0..5),
        step in 1_usize..5_000,
        chunked in any::<bool>(),
        trailer in proptest::option::of("[a-z]{1,9}"),
    ) {
        let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
        let whole = pieces.concat();
        let length = if chunked { BodyLength::Chunked } else { BodyLength::Exact(whole.len() as u64) };
        let trailers = trailer.filter(|_| chunked).map(|value| {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_str(&value).expect("letters"));
            trailers
        });
        let bytes = encode(&pieces, length, trailers.as_ref());
        prop_assert_eq!(decode(&bytes, length, step), (whole, trailers));
    }

    #[test]
    fn request_heads_come_out_as_they_went_in(
        target in "/[a-z0-9/%.~_-]{0,40}(\\?[a-z=&]{0,20})?",
        lines in proptest::collection::vec(("x-[a-z-]{1,20}", "[!-~]([ -~]{0,30}[!-~])?"), 0..20),
        length in 0_u64..1_000_000,
    ) {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.uri = target.parse().expect("a target");
        for (name, value) in &lines {
            let name = http::HeaderName::try_from(name).expect("a name");
            parts.headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let length = if length == 0 { BodyLength::None } else { BodyLength::Exact(length) };
        let mut out = Vec::new();
        write_request(&mut out, &parts, length, |_| ());
        let (read, head) = one(&out, LIMITS).expect("a head").expect("whole");
        prop_assert_eq!(read, out.len());
        prop_assert_eq!(head.length, length);
        prop_assert_eq!(head.parts.uri, parts.uri);
        if let BodyLength::Exact(length) = length {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        prop_assert_eq!(head.parts.headers, parts.headers);
    }

    #[test]
    fn any_bytes_in_any_pieces_are_read_alike(
        pieces in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            Just(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
            Just(b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"A: b\r\n".to_vec()),
            Just(b"3\r\nabc\r\n".to_vec()),
            Just(b"0\r\n\r\n".to_vec()),
        ], 0..12),
    ) {
        let bytes = pieces.concat();
        let whole = read_requests([bytes.as_slice()], LIMITS);
        let parts = read_requests(pieces.iter().map(Vec::as_slice), LIMITS);
        let single = read_requests(bytes.chunks(1), LIMITS);
        // A head that is wrong is refused at the latest when it ends; until then a part of it may wait.
        if whole.fault.is_some() && single.fault.is_none() {
            prop_assert_eq!(&single.requests, &whole.requests);
        } else {
            prop_assert_eq!(&single, &whole);
        }
        prop_assert!(parts.requests == whole.requests);
    }

    #[test]
    fn any_bytes_are_an_answer_or_not_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = answer(&bytes, &Method::GET);
        let mut start = b"HTTP/1.1 200 OK\r\n".to_vec();
        start.extend_from_slice(&bytes);
        if let Ok(Some((read, _))) = answer(&start, &Method::GET) {
            prop_assert!(start[..read].ends_with(b"\r\n\r\n"));
        }
    }
}
