//! Who is at the other end: the client's address, and what a trusted proxy says of it.
//!
//! Nobody is believed by default. When the peer is listed, the address is the right-most one of
//! `X-Forwarded-For` that is not itself listed; anything left of it was written by the client.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HeaderValue;
use ipnet::IpNet;

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
        let mut client = peer;
        let lines: Vec<&HeaderValue> = headers.get_all("x-forwarded-for").iter().collect();
        // By bytes: a line that is no text is not passed over, or what stands left of it would be believed.
        let hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
        for hop in hops {
            let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| hop_address(hop.trim())) else {
                break;
            };
            client = address;
            if !self.contains(address) {
                break;
            }
        }
        client
    }
}

/// An address as proxies write it: bare, with a port, or an IPv6 one in brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
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
}
