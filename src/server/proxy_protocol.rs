//! The PROXY header, versions 1 and 2: what a proxy in front of us says of the client, before all else.
//!
//! The header is read with exactly its length: what follows it (a TLS handshake, a request) stays in the
//! socket for those who understand it. There is no length in front of version 1, so that one is read in
//! steps that cannot go beyond its end; at most [`V1_MAX`] bytes. Version 2 says its length; at most
//! [`V2_MAX`]. Who is believed is decided before: a header is a client address that anybody could make up.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Version 1's longest line, its CRLF included.
const V1_MAX: usize = 107;
/// Version 2's longest header with all that proxies add to it, as nginx takes it.
const V2_MAX: usize = 4096;
/// What version 2 starts with. Version 1 is longer than this, too.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2's signature, command, family and length.
const V2_FIXED: usize = 16;
/// Type of the checksum over a version 2 header.
const V2_CRC32C: u8 = 0x03;

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// The connection is the proxy's own (a health check), or has no address that we know: it stays
    /// what it is.
    Nothing,
    /// Who connected to the proxy.
    Client {
        /// The client.
        address: IpAddr,
        /// The port that it connected to.
        port: u16,
    },
}

/// Why there is no header. The connection is closed: nothing on it can be trusted to be a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// It ended, or broke.
    #[error("the connection broke off in its PROXY header: {0}")]
    Broken(#[from] io::Error),
    /// Nothing came at all.
    #[error("the connection was not used")]
    Unused,
    /// It starts with something else.
    #[error("there is no PROXY header")]
    Missing,
    /// It is longer than any header.
    #[error("the PROXY header is too long")]
    TooLong,
    /// It starts as one.
    #[error("the PROXY header is malformed")]
    Malformed,
}

/// Reads a header, and not a byte more.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Told, HeaderError> {
    let mut start = [0; V2_SIGNATURE.len()];
    let first = stream.read(&mut start).await?;
    if first == 0 {
        return Err(HeaderError::Unused);
    }
    stream.read_exact(&mut start[first..]).await?;
    if start == V2_SIGNATURE {
        read_v2(stream, start).await
    } else if start.starts_with(b"PROXY ") {
        read_v1(stream, &start).await
    } else {
        Err(HeaderError::Missing)
    }
}

async fn read_v1(stream: &mut (impl AsyncRead + Unpin), start: &[u8]) -> Result<Told, HeaderError> {
    let mut line = [0; V1_MAX];
    let mut length = start.len();
    line[..length].copy_from_slice(start);
    loop {
        let left = v1_least_left(&line[..length]);
        if left == 0 {
            return parse_v1(&line[..length]);
        }
        let room = line.get_mut(length..length + left).ok_or(HeaderError::TooLong)?;
        stream.read_exact(room).await?;
        length += left;
    }
}

/// How many bytes are missing at least: a separator and a character for each field, and CRLF.
fn v1_least_left(line: &[u8]) -> usize {
    if let Some(at) = memchr::memchr(b'\r', line) {
        return usize::from(at + 1 == line.len());
    }
    if line.starts_with(b"PROXY U") {
        return 2; // with or without fields
    }
    let fields = 5_usize.saturating_sub(memchr::memchr_iter(b' ', line).count());
    fields * 2 + usize::from(line.ends_with(b" ")) + 2
}

fn parse_v1(line: &[u8]) -> Result<Told, HeaderError> {
    use ppp::v1::{Addresses, Header};
    let fields = line.strip_suffix(b"\r\n").ok_or(HeaderError::Malformed)?;
    if fields == b"PROXY UNKNOWN" || fields.starts_with(b"PROXY UNKNOWN ") {
        return Ok(Told::Nothing);
    }
    // A number with a sign is one for Rust.
    if memchr::memchr2(b'+', b'\n', fields).is_some() {
        return Err(HeaderError::Malformed);
    }
    let header = Header::try_from(line).map_err(|_| HeaderError::Malformed)?;
    Ok(match header.addresses {
        Addresses::Unknown => Told::Nothing,
        Addresses::Tcp4(ip) => Told::Client { address: ip.source_address.into(), port: ip.destination_port },
        Addresses::Tcp6(ip) => Told::Client { address: ip.source_address.into(), port: ip.destination_port },
    })
}

async fn read_v2(
    stream: &mut (impl AsyncRead + Unpin),
    start: [u8; V2_SIGNATURE.len()],
) -> Result<Told, HeaderError> {
    let mut fixed = [0; V2_FIXED];
    fixed[..start.len()].copy_from_slice(&start);
    stream.read_exact(&mut fixed[start.len()..]).await?;
    let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > V2_MAX {
        return Err(HeaderError::TooLong);
    }
    let mut header = vec![0; length];
    header[..V2_FIXED].copy_from_slice(&fixed);
    stream.read_exact(&mut header[V2_FIXED..]).await?;
    parse_v2(&header)
}

fn parse_v2(bytes: &[u8]) -> Result<Told, HeaderError> {
    use ppp::v2::{Addresses, Header, Protocol};
    // LOCAL: whatever else it says is not for us.
    if bytes.get(V2_SIGNATURE.len()) == Some(&0x20) {
        return Ok(Told::Nothing);
    }
    let header = Header::try_from(bytes).map_err(|_| HeaderError::Malformed)?;
    check_sum(&header)?;
    let told = match header.addresses {
        Addresses::Unspecified | Addresses::Unix(_) => return Ok(Told::Nothing),
        Addresses::IPv4(ip) => Told::Client { address: ip.source_address.into(), port: ip.destination_port },
        Addresses::IPv6(ip) => Told::Client { address: ip.source_address.into(), port: ip.destination_port },
    };
    // Nobody's datagrams come in over a stream.
    if header.protocol == Protocol::Datagram { Err(HeaderError::Malformed) } else { Ok(told) }
}

/// A checksum that is there has to be right (section 2.2.3).
fn check_sum(header: &ppp::v2::Header<'_>) -> Result<(), HeaderError> {
    let bytes = header.as_bytes();
    let mut at = bytes.len() - header.tlv_bytes().len();
    for tlv in header.tlvs() {
        let tlv = tlv.map_err(|_| HeaderError::Malformed)?;
        let value = at + 3;
        at = value + tlv.value.len();
        if tlv.kind != V2_CRC32C {
            continue;
        }
        let told = <[u8; 4]>::try_from(tlv.value.as_ref()).map_err(|_| HeaderError::Malformed)?;
        let mut summed = bytes.to_vec();
        summed[value..at].fill(0);
        if crc32c(&summed) != u32::from_be_bytes(told) {
            return Err(HeaderError::Malformed);
        }
    }
    Ok(())
}

/// Castagnoli's polynomial, bit by bit: once a connection, over some dozens of bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use ppp::v2::{Builder, Command, Protocol, Version};
    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// Bytes that come in pieces.
    struct Pieces<'a> {
        bytes: &'a [u8],
        size: usize,
    }

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = self.size.min(self.bytes.len()).min(buf.remaining());
            let (now, later) = self.bytes.split_at(count);
            buf.put_slice(now);
            self.bytes = later;
            Poll::Ready(Ok(()))
        }
    }

    /// What is read of `bytes`, and what is left of them.
    fn read_of(bytes: &[u8], size: usize) -> (Result<Told, HeaderError>, &[u8]) {
        let mut pieces = Pieces { bytes, size };
        let told = match pin!(read(&mut pieces)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(told) => told,
            Poll::Pending => panic!("pieces are always ready"),
        };
        (told, pieces.bytes)
    }

    fn told(bytes: &[u8]) -> Option<Told> {
        read_of(bytes, usize::MAX).0.ok()
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside what `told` gives")]
    fn client(address: &str, port: u16) -> Option<Told> {
        Some(Told::Client { address: address.parse().expect("an address"), port })
    }

    fn v2(source: SocketAddr, destination: SocketAddr, tlvs: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let command = Version::Two | Command::Proxy;
        let builder = Builder::with_addresses(command, Protocol::Stream, (source, destination));
        let add =
            |builder: Builder, (kind, value): &(u8, Vec<u8>)| builder.write_tlv(*kind, value).expect("short");
        tlvs.iter().fold(builder, add).build().expect("a header")
    }

    /// A v2 header by hand: the byte of version and command, of family and protocol, and the rest.
    fn by_hand(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn version_1_is_a_line() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 51234 443\r\n", client("192.0.2.7", 443)),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", client("1.1.1.1", 2)),
            ("PROXY TCP6 2001:db8::1 :: 0 65535\r\n", client("2001:db8::1", 65535)),
            ("PROXY TCP6 :: :: 1 2\r\n", client("::", 2)),
            ("PROXY UNKNOWN\r\n", Some(Told::Nothing)),
            (
                "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                Some(Told::Nothing),
            ),
            // Not a header, or not a whole one.
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("PROXY UNKNOWNS\r\n", None),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n\r\n", None),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n", None),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", None),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", None),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", None),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n..........", None),
            ("PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n", None),
            ("PROXY TCP4 ::1 2.2.2.2 1 2\r\n", None),
            ("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", None),
            ("PROXY TCP4\r1.1.1.1 2.2.2.2 1 2\r\n", None),
            ("PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n", None),
            ("proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", None),
            ("PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", None),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2", None),
            ("", None),
        ] {
            assert_eq!(told(line.as_bytes()), expected, "{line:?}");
        }
        let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
        let (refused, left) = read_of(endless.as_bytes(), 7);
        assert!(matches!(refused, Err(HeaderError::TooLong)), "{refused:?}");
        assert!(endless.len() - left.len() <= V1_MAX);
    }

    #[test]
    fn version_2_is_binary() {
        let (source, destination) = ("192.0.2.7:5", "10.0.0.1:443");
        let ipv4 = [192, 0, 2, 7, 10, 0, 0, 1, 0, 5, 1, 187];
        let header = v2(source.parse().expect("a"), destination.parse().expect("b"), &[]);
        assert_eq!(header, by_hand(0x21, 0x11, &ipv4));
        assert_eq!(told(&header), client("192.0.2.7", 443));
        // A health check of the proxy's own, whatever comes with it; and families that are no addresses.
        for local in [
            by_hand(0x20, 0x00, b""),
            by_hand(0x20, 0x11, &ipv4),
            by_hand(0x20, 0x11, b"x"),
            by_hand(0x20, 0xff, b"x"),
            by_hand(0x21, 0x00, b""),
            by_hand(0x21, 0x00, b"\x04\x00\x01x"),
            by_hand(0x21, 0x31, &[7; 216]),
        ] {
            assert_eq!(told(&local), Some(Told::Nothing), "{local:?}");
        }
        for bad in [
            by_hand(0x11, 0x11, &ipv4),
            by_hand(0x22, 0x11, &ipv4),
            by_hand(0x21, 0x41, &ipv4),
            by_hand(0x21, 0x12, &ipv4),
            by_hand(0x21, 0x11, &ipv4[1..]),
            by_hand(0x21, 0x21, &ipv4),
            by_hand(0x21, 0x11, &[&ipv4[..], b"\x04\x00\x09x"].concat()),
        ] {
            assert_eq!(told(&bad), None, "{bad:?}");
        }
        let long = by_hand(0x21, 0x11, &[0; V2_MAX]);
        let (refused, left) = read_of(&long, usize::MAX);
        assert!(matches!(refused, Err(HeaderError::TooLong)), "{refused:?}");
        assert_eq!(long.len() - left.len(), V2_FIXED);
    }

    #[test]
    fn a_checksum_that_is_there_is_right() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let source = "[2001:db8::1]:5".parse().expect("an address");
        let destination = "[::1]:443".parse().expect("an address");
        let mut header = v2(source, destination, &[(4, vec![0; 3]), (V2_CRC32C, vec![0; 4])]);
        let sum = crc32c(&header).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum);
        assert_eq!(told(&header), client("2001:db8::1", 443));
        header[at] ^= 1;
        assert_eq!(told(&header), None);
        assert_eq!(told(&v2(source, destination, &[(V2_CRC32C, vec![0; 3])])), None);
    }

    fn header() -> impl Strategy<Value = (Vec<u8>, Option<Told>)> {
        let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        let tlvs = prop::collection::vec((4_u8..5, prop::collection::vec(any::<u8>(), 0..60)), 0..4);
        (prop_oneof![v4, v6], any::<(u16, u16)>(), tlvs, any::<bool>()).prop_map(
            |((source, destination), (from, port), tlvs, text)| {
                let told = Some(Told::Client { address: source, port });
                if text {
                    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                    let line = format!("PROXY {family} {source} {destination} {from} {port}\r\n");
                    return (line.into_bytes(), told);
                }
                (v2((source, from).into(), (destination, port).into(), &tlvs), told)
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_is_read_with_exactly_its_length(
            (header, expected) in header(),
            payload in prop::collection::vec(any::<u8>(), 0..300),
            size in 1_usize..50,
        ) {
            let bytes = [header, payload.clone()].concat();
            let (told, left) = read_of(&bytes, size);
            prop_assert_eq!(told.ok(), expected);
            prop_assert_eq!(left, payload);
        }

        #[test]
        fn a_header_that_breaks_off_is_none((header, _) in header(), cut in any::<prop::sample::Index>()) {
            let (told, left) = read_of(&header[..cut.index(header.len())], usize::MAX);
            prop_assert!(matches!(told, Err(HeaderError::Broken(_) | HeaderError::Unused)), "{:?}", told);
            prop_assert!(left.is_empty());
        }

        #[test]
        fn rubbish_is_refused_within_the_bound(
            start in prop_oneof![
                Just(b"PROXY ".to_vec()), Just(b"PROXY TCP4 ".to_vec()), Just(b"PROXY UNKNOWN ".to_vec()),
                Just(V2_SIGNATURE.to_vec()), Just([&V2_SIGNATURE[..], &[0x21, 0x11]].concat()), Just(Vec::new()),
            ],
            rest in prop::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'\r'), Just(b'1')], 0..6000),
        ) {
            let bytes = [start, rest].concat();
            let (_, left) = read_of(&bytes, usize::MAX);
            prop_assert!(bytes.len() - left.len() <= V2_MAX);
            if bytes.starts_with(b"PROXY ") {
                prop_assert!(bytes.len() - left.len() <= V1_MAX);
            }
        }

        #[test]
        fn one_changed_byte_is_another_header_or_none(
            (header, expected) in header(), at in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            let mut changed = header.clone();
            let at = at.index(header.len());
            changed[at] = to;
            changed.extend_from_slice(&[b'x'; 5000]);
            let (told, left) = read_of(&changed, usize::MAX);
            if to == header[at] {
                prop_assert_eq!(told.ok(), expected);
                prop_assert_eq!(left.len(), 5000);
            } else {
                prop_assert!(left.len() <= changed.len());
            }
        }
    }
}
