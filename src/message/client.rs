//! Who is at the other end: the client's address, and what a trusted proxy says of it.
//!
//! Nobody is believed by default. When the peer is listed, the address is the right-most one of
//! `X-Forwarded-For` that is not itself listed; anything left of it was written by the client. A proxy
//! that sends no `X-Forwarded-For` may say the same in [`Forwarded`](super::forwarded).

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HeaderValue;
use ipnet::IpNet;

use super::forwarded;

/// How a client's connection is protected: what the app is told as `X-Forwarded-Proto`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Clear text.
    Http,
    /// TLS, ended here.
    Https,
}

impl Scheme {
    /// `http` or `https`, in any case.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
    }

    /// As URLs have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// As a header value; nothing is allocated.
    #[must_use]
    pub fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.as_str())
    }
}

/// Whose `X-Forwarded-*` are believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// These networks.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether `address` is in one of the networks; an IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address, given the peer's and the request's headers.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return peer;
        }
        let hops = if headers.contains_key("x-forwarded-for") {
            forwarded_for(headers).iter().map(|hop| hop_address(hop)).collect()
        } else {
            forwarded::read(headers).iter().map(|element| element.node).collect::<Vec<_>>()
        };
        self.edge(&hops).and_then(|at| hops[at]).unwrap_or(peer)
    }

    /// Which hop of a trusted peer's chain is the client: the right-most that is no proxy of ours. A hop
    /// without an address ends the search, since what stands left of it was written by nobody known.
    #[must_use]
    pub fn edge(&self, hops: &[Option<IpAddr>]) -> Option<usize> {
        let mut edge = None;
        for (at, hop) in hops.iter().enumerate().rev() {
            let Some(address) = hop else { break };
            edge = Some(at);
            if !self.contains(*address) {
                break;
            }
        }
        edge
    }
}

/// The hops of `X-Forwarded-For`, from the first to the last, empty ones left out. By bytes: a hop that is no text keeps its
/// place, or what stands left of it would be believed.
#[must_use]
pub fn forwarded_for(headers: &HeaderMap) -> Vec<&str> {
    let lines = headers.get_all("x-forwarded-for").iter();
    let hops = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let text = |hop| std::str::from_utf8(hop).ok().filter(|hop: &&str| hop.is_ascii());
    hops.map(|hop| text(hop).map_or("unknown", str::trim)).filter(|hop| !hop.is_empty()).collect()
}

/// An address as proxies write it: bare, with a port, or an IPv6 one in brackets.
pub(super) fn hop_address(hop: &str) -> Option<IpAddr> {
    let parsed =
        hop.parse::<IpAddr>().or_else(|_| hop.parse::<std::net::SocketAddr>().map(|socket| socket.ip()));
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    parsed.ok().or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_proxies_wrote_is_believed() {
        let trusted = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a network")]);
        let cases: &[(&str, &[&str], &str)] = &[
            ("192.0.2.1", &["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1, rubbish, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            // What is no text hides neither the hop beside it nor the lines before it.
            ("10.0.0.1", &["1.1.1.1", "\u{ff}, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1", "\u{ff}"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1", "\u{ff}, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["198.51.100.7:5555"], "198.51.100.7"),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append("x-forwarded-for", HeaderValue::from_bytes(line.as_bytes()).expect("a value"));
            }
            let client = trusted.client(peer.parse().expect("an address"), &headers);
            assert_eq!(client, expected.parse::<IpAddr>().expect("an address"), "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_believed_where_there_is_no_x_forwarded_for() {
        let trusted = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a network")]);
        for (peer, x_forwarded_for, lines, expected) in [
            ("192.0.2.1", None, &["for=198.51.100.7"][..], "192.0.2.1"),
            ("10.0.0.1", None, &["for=198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", None, &["for=1.1.1.1, for=198.51.100.7;proto=https, for=10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", None, &["for=1.1.1.1", "for=\"[2001:db8::1]:5\""], "2001:db8::1"),
            ("10.0.0.1", None, &["for=1.1.1.1, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
            // An open quote swallows what the proxy appended: then nobody knows.
            ("10.0.0.1", None, &["for=1.1.1.1;x=\", for=198.51.100.7"], "10.0.0.1"),
            ("10.0.0.1", Some("198.51.100.8"), &["for=198.51.100.7"], "198.51.100.8"),
            ("10.0.0.1", Some(""), &["for=198.51.100.7"], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("forwarded", HeaderValue::from_static(line));
            }
            if let Some(value) = x_forwarded_for {
                headers.insert("x-forwarded-for", HeaderValue::from_static(value));
            }
            let client = trusted.client(peer.parse().expect("an address"), &headers);
            assert_eq!(client, expected.parse::<IpAddr>().expect("an address"), "{peer} {lines:?}");
        }
    }
}
