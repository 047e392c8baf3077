//! Header hygiene: what a client may not say, what ends at this hop, and what only we may say.
//!
//! The order is the security: strip the client's copies, then obey `Connection`, then set our own
//! (Apache CVE-2022-31813, Traefik CVE-2024-45410: a `Connection` header that names the proxy's own
//! headers away). Names are compared folded, see [`crate::message::fold`].

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::message::client::TrustedProxies;
use crate::message::fold::{FORWARDING_NAMES, FoldedNames};
use crate::message::identity::IdentityRules;
use crate::settings::CredentialForm;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Where clients of some tutorials put their token.
pub(super) static X_ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The rules for every request of a worker.
#[derive(Debug)]
pub(super) struct HeaderRules {
    identity: IdentityRules,
    forwarding: FoldedNames,
    trusted: TrustedProxies,
    /// Other spellings of `x-access-token` where that is accepted: the gateway does not read them, an
    /// app may, and would then see a token that nobody has judged.
    token_aliases: FoldedNames,
}

/// What the connection knows of itself, made once for each connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The other end.
    pub address: IpAddr,
    /// The other end, as a header value.
    pub address_value: HeaderValue,
    /// The port that it came in on, as a header value; a Unix socket has none.
    pub port_value: Option<HeaderValue>,
}

/// What a request's forwarding headers will say.
#[derive(Debug)]
pub(super) struct ForwardingHeaders {
    forwarded_for: HeaderValue,
    proto: HeaderValue,
    host: Option<HeaderValue>,
    port: Option<HeaderValue>,
    real_ip: HeaderValue,
}

impl HeaderRules {
    pub(super) fn new(identity: IdentityRules, trusted: TrustedProxies, accept: &[CredentialForm]) -> Self {
        let own_header = accept.contains(&CredentialForm::XAccessToken);
        let token_aliases = FoldedNames::new(own_header.then_some(X_ACCESS_TOKEN.as_str()));
        Self { identity, forwarding: FoldedNames::new(FORWARDING_NAMES), trusted, token_aliases }
    }

    /// Removes from a request what its client may not say and what ends here.
    pub(super) fn strip_request(&self, headers: &mut HeaderMap) {
        let mut doomed = Doomed::default();
        let mut seen = Seen::default();
        for name in headers.keys() {
            seen.note(name);
            let alias = self.token_aliases.contains(name) && *name != X_ACCESS_TOKEN;
            let ours = self.identity.owns(name) || self.forwarding.contains(name) || alias;
            if ours || is_hop_by_hop(name) || name == header::EXPECT {
                doomed.push(name.clone());
            }
        }
        self.finish(headers, doomed, seen);
    }

    /// Removes from a response what ends here, and identity headers that the app made up.
    pub(super) fn strip_response(&self, headers: &mut HeaderMap) {
        let mut doomed = Doomed::default();
        let mut seen = Seen::default();
        for name in headers.keys() {
            seen.note(name);
            if is_hop_by_hop(name) || self.identity.owns(name) {
                doomed.push(name.clone());
            }
        }
        self.finish(headers, doomed, seen);
    }

    /// Obeys `Connection`, then removes what has to go.
    fn finish(&self, headers: &mut HeaderMap, mut doomed: Doomed, seen: Seen) {
        if seen.connection {
            doomed.push_named_by_connection(headers);
        }
        if seen.trailer {
            self.filter_trailer(headers);
        }
        doomed.remove_from(headers);
    }

    /// Trailers get the same treatment (RFC 9110 section 6.5.1: some could not have been headers).
    pub(super) fn strip_request_trailers(&self, trailers: &mut HeaderMap) {
        self.strip_request(trailers);
        for name in [header::HOST, header::AUTHORIZATION, header::COOKIE, header::CONTENT_LENGTH] {
            trailers.remove(name);
        }
    }

    /// As for requests, with what frames or authenticates an answer.
    pub(super) fn strip_response_trailers(&self, trailers: &mut HeaderMap) {
        self.strip_response(trailers);
        for name in [header::SET_COOKIE, header::CONTENT_LENGTH, header::WWW_AUTHENTICATE] {
            trailers.remove(name);
        }
    }

    /// `Trailer` passes, but announces nothing that is removed.
    fn filter_trailer(&self, headers: &mut HeaderMap) {
        let Some(value) = headers.get(header::TRAILER) else { return };
        let kept: Vec<&str> = value
            .to_str()
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|name| {
                HeaderName::try_from(*name).is_ok_and(|name| {
                    !self.identity.owns(&name) && !self.forwarding.contains(&name) && !is_hop_by_hop(&name)
                })
            })
            .collect();
        match HeaderValue::from_str(&kept.join(", ")) {
            Ok(value) if !kept.is_empty() => headers.insert(header::TRAILER, value),
            _ => headers.remove(header::TRAILER),
        };
    }

    /// What to say of the client; read before the client's own copies are stripped.
    pub(super) fn forwarding(&self, peer: &Peer, headers: &HeaderMap) -> ForwardingHeaders {
        let host = headers.get(header::HOST).cloned();
        if !self.trusted.contains(peer.address) {
            return ForwardingHeaders {
                forwarded_for: peer.address_value.clone(),
                proto: HeaderValue::from_static("http"),
                host,
                port: peer.port_value.clone(),
                real_ip: peer.address_value.clone(),
            };
        }
        let client = self.trusted.client(peer.address, headers);
        let kept = |name: &HeaderName| headers.get(name).filter(|value| is_plain(value)).cloned();
        let known_proto = kept(&X_FORWARDED_PROTO).filter(|proto| *proto == "http" || *proto == "https");
        ForwardingHeaders {
            forwarded_for: extend_forwarded_for(headers, peer),
            proto: known_proto.unwrap_or(HeaderValue::from_static("http")),
            host: kept(&X_FORWARDED_HOST).or(host),
            port: kept(&X_FORWARDED_PORT).or_else(|| peer.port_value.clone()),
            real_ip: HeaderValue::from_str(&client.to_string())
                .unwrap_or_else(|_| peer.address_value.clone()),
        }
    }
}

impl ForwardingHeaders {
    pub(super) fn set(self, headers: &mut HeaderMap, request_id: HeaderValue, prefix: Option<&HeaderValue>) {
        headers.insert(X_FORWARDED_FOR.clone(), self.forwarded_for);
        headers.insert(X_FORWARDED_PROTO.clone(), self.proto);
        if let Some(host) = self.host {
            headers.insert(X_FORWARDED_HOST.clone(), host);
        }
        if let Some(port) = self.port {
            headers.insert(X_FORWARDED_PORT.clone(), port);
        }
        headers.insert(X_REAL_IP.clone(), self.real_ip);
        headers.insert(X_REQUEST_ID.clone(), request_id);
        if let Some(prefix) = prefix {
            headers.insert(X_FORWARDED_PREFIX.clone(), prefix.clone());
        }
    }
}

/// Whether a message has headers that name others; most have none, and are not searched for them.
#[derive(Clone, Copy, Default)]
struct Seen {
    connection: bool,
    trailer: bool,
}

impl Seen {
    fn note(&mut self, name: &HeaderName) {
        self.connection |= *name == header::CONNECTION;
        self.trailer |= *name == header::TRAILER;
    }
}

/// The names that a message will lose. Most messages lose few; the vector is made for the first.
#[derive(Default)]
struct Doomed(Vec<HeaderName>);

impl Doomed {
    fn push(&mut self, name: HeaderName) {
        self.0.push(name);
    }

    /// `Connection` may end any header at this hop (RFC 9110 section 7.6.1), but not the ones that
    /// say what the message is and where it goes.
    fn push_named_by_connection(&mut self, headers: &HeaderMap) {
        for line in headers.get_all(header::CONNECTION) {
            let Ok(line) = line.to_str() else { continue };
            for name in line.split(',').map(str::trim) {
                if name.eq_ignore_ascii_case("keep-alive") || name.eq_ignore_ascii_case("close") {
                    continue;
                }
                let Ok(name) = HeaderName::try_from(name) else { continue };
                if name != header::HOST && name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
                    self.0.push(name);
                }
            }
        }
    }

    fn remove_from(self, headers: &mut HeaderMap) {
        for name in self.0 {
            headers.remove(name);
        }
    }
}

/// Headers that concern one connection only (RFC 9110 section 7.6.1 and the ones from before it).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

fn is_plain(value: &HeaderValue) -> bool {
    value.len() <= 256 && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// The chain with the peer at its end. A hop that is no text keeps its place: whoever counts hops from
/// the right, or passes over known proxies, must not come to one that the client wrote.
fn extend_forwarded_for(headers: &HeaderMap, peer: &Peer) -> HeaderValue {
    let lines = headers.get_all(&X_FORWARDED_FOR).iter();
    let hops = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let mut hops: Vec<&str> = hops
        .map(|hop| std::str::from_utf8(hop).ok().filter(|hop| hop.is_ascii()).map_or("unknown", str::trim))
        .collect();
    hops.retain(|hop| !hop.is_empty());
    let own = peer.address.to_string();
    hops.push(&own);
    HeaderValue::from_str(&hops.join(", ")).unwrap_or_else(|_| peer.address_value.clone())
}
