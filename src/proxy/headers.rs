//! Header hygiene: what a client may not say, what ends at this hop, and what only we may say.
//!
//! The order is the security: strip the client's copies, then obey `Connection`, then set our own
//! (Apache CVE-2022-31813, Traefik CVE-2024-45410: a `Connection` header that names the proxy's own
//! headers away). Names are compared folded, see [`crate::message::fold`].

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::http1::write_line;
use crate::message::client::{Scheme, TrustedProxies, forwarded_for};
use crate::message::fold::{FORWARDING_NAMES, FoldedNames};
use crate::message::forwarded::{self, Element, OwnElement};
use crate::message::identity::IdentityRules;
use crate::message::lines::HeaderLines;
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

/// What browsers put into a preflight (Fetch standard, section 4.9), beside `access-control-request-*` and
/// `sec-fetch-*`. They bring no credentials, and nobody was asked for any, so an app must not act on
/// what somebody else puts there.
const OF_A_PREFLIGHT: [&str; 15] = [
    "host",
    "origin",
    "accept",
    "accept-encoding",
    "accept-language",
    "user-agent",
    "referer",
    "content-length",
    "cache-control",
    "pragma",
    "dnt",
    "sec-gpc",
    "priority",
    "traceparent",
    "tracestate",
];

/// What the connection knows of itself, made once for each connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The other end.
    pub address: IpAddr,
    /// The other end, as a header value.
    pub address_value: HeaderValue,
    /// The port that it came in on, as a header value; a Unix socket has none.
    pub port_value: Option<HeaderValue>,
    /// Whether it came over TLS.
    pub scheme: Scheme,
    /// What `Forwarded` says of it.
    pub forwarded: OwnElement,
    /// What its last request's forwarding headers were.
    pub direct: DirectLines,
}

/// The forwarding headers of a client that no trusted proxy speaks for: for one host they are the same
/// again and again, and most connections ask for one.
#[derive(Clone, Debug, Default)]
pub struct DirectLines(RefCell<Option<(Option<HeaderValue>, Rc<HeaderLines>)>>);

impl DirectLines {
    fn of(&self, peer: &Peer, host: Option<&HeaderValue>) -> Rc<HeaderLines> {
        if let Some((made_for, lines)) = &*self.0.borrow()
            && made_for.as_ref() == host
        {
            return Rc::clone(lines);
        }
        let lines = Rc::new(ForwardingHeaders::direct(peer, host).into_lines());
        self.0.replace(Some((host.cloned(), Rc::clone(&lines))));
        lines
    }
}

/// What a request's forwarding headers will say.
#[derive(Debug)]
struct ForwardingHeaders {
    forwarded: HeaderValue,
    forwarded_for: HeaderValue,
    proto: HeaderValue,
    host: Option<HeaderValue>,
    port: Option<HeaderValue>,
    real_ip: HeaderValue,
}

/// What only we say to an upstream. The client's copies are stripped before, so that this is apart from
/// what the client says, and added to it where it is sent.
pub(super) struct OwnHeaders {
    /// Kept by whoever made them, together with what else is known of the caller.
    pub(super) identity: Option<Rc<dyn AsRef<HeaderLines>>>,
    pub(super) forwarding: Rc<HeaderLines>,
    pub(super) request_id: HeaderValue,
    pub(super) prefix: Option<HeaderValue>,
}

impl OwnHeaders {
    /// As lines of an HTTP/1 head.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if let Some(identity) = &self.identity {
            out.extend_from_slice((**identity).as_ref().as_bytes());
        }
        out.extend_from_slice(self.forwarding.as_bytes());
        write_line(out, &X_REQUEST_ID, &self.request_id);
        if let Some(prefix) = &self.prefix {
            write_line(out, &X_FORWARDED_PREFIX, prefix);
        }
    }

    /// Sets them, each exactly once.
    pub(super) fn set(&self, headers: &mut HeaderMap) {
        if let Some(identity) = &self.identity {
            (**identity).as_ref().set(headers);
        }
        self.forwarding.set(headers);
        headers.insert(X_REQUEST_ID.clone(), self.request_id.clone());
        if let Some(prefix) = &self.prefix {
            headers.insert(X_FORWARDED_PREFIX.clone(), prefix.clone());
        }
    }
}

/// Leaves of a preflight's headers what browsers put there, and so nothing that could say who asks.
pub(super) fn strip_to_preflight(headers: &mut HeaderMap) {
    let is_usual = |name: &HeaderName| {
        let name = name.as_str();
        OF_A_PREFLIGHT.contains(&name)
            || ["access-control-request-", "sec-fetch-"].iter().any(|start| name.starts_with(start))
    };
    let mut doomed = Doomed::default();
    headers.keys().filter(|name| !is_usual(name)).for_each(|name| doomed.push(name.clone()));
    doomed.remove_from(headers);
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
        trailers.remove(&X_ACCESS_TOKEN);
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
    pub(super) fn forwarding(&self, peer: &Peer, headers: &HeaderMap) -> Rc<HeaderLines> {
        if self.trusted.contains(peer.address) {
            return Rc::new(self.chained(peer, headers).into_lines());
        }
        peer.direct.of(peer, headers.get(header::HOST))
    }

    /// What a trusted proxy says, and we after it.
    fn chained(&self, peer: &Peer, headers: &HeaderMap) -> ForwardingHeaders {
        let host = headers.get(header::HOST).cloned();
        let own = peer.forwarded.value(&peer.address_value, peer.scheme, host.as_ref());
        // The line of the proxy next to us is the last one: what stands before it the client may have written.
        let kept = |name: &HeaderName| headers.get_all(name).iter().next_back().and_then(last_of_list);
        let proto = kept(&X_FORWARDED_PROTO).filter(|proto| *proto == "http" || *proto == "https");
        let told_host = kept(&X_FORWARDED_HOST);
        let chain = Chain::read(headers);
        let edge = self.trusted.edge(&chain.hops);
        let client = edge.and_then(|at| chain.hops[at]);
        let told = edge.and_then(|at| chain.elements.get(at));
        let (proto, told_host) = match told {
            Some(element) if chain.is_forwarded => (
                proto.or_else(|| element.scheme.map(Scheme::value)),
                told_host.or_else(|| HeaderValue::from_str(element.host.as_ref()?).ok().filter(is_plain)),
            ),
            _ => (proto, told_host),
        };
        let forwarded = chain.extend(edge, proto.as_ref(), told_host.as_ref(), &own);
        ForwardingHeaders {
            forwarded,
            forwarded_for: chain.extend_forwarded_for(peer),
            proto: proto.unwrap_or_else(|| peer.scheme.value()),
            host: told_host.or(host),
            port: kept(&X_FORWARDED_PORT).or_else(|| peer.port_value.clone()),
            real_ip: client
                .and_then(|client| HeaderValue::from_str(&client.to_string()).ok())
                .unwrap_or_else(|| peer.address_value.clone()),
        }
    }
}

/// What a trusted proxy says of those before it, in either of the two forms.
struct Chain<'a> {
    /// As `X-Forwarded-For` has it.
    texts: Vec<Cow<'a, str>>,
    /// The same as addresses.
    hops: Vec<Option<IpAddr>>,
    /// The same as `Forwarded` has it.
    elements: Vec<Element<'a>>,
    /// Whether the proxy wrote these elements, or we do.
    is_forwarded: bool,
}

impl<'a> Chain<'a> {
    /// `X-Forwarded-For` is what counts when there are both; `Forwarded` is made anew if it differs.
    fn read(headers: &'a HeaderMap) -> Self {
        let elements = forwarded::read(headers);
        let nodes = || elements.iter().map(|element| element.node).collect::<Vec<_>>();
        if !headers.contains_key(&X_FORWARDED_FOR) {
            let texts = elements.iter().map(Element::hop).collect();
            return Self { texts, hops: nodes(), elements, is_forwarded: true };
        }
        let texts = forwarded_for(headers);
        let made: Vec<Element<'a>> = texts.iter().map(|hop| Element::of_hop(hop)).collect();
        let hops: Vec<_> = made.iter().map(|element| element.node).collect();
        let agree = !elements.is_empty() && nodes() == hops;
        let elements = if agree { elements } else { made };
        Self { texts: texts.into_iter().map(Cow::Borrowed).collect(), hops, elements, is_forwarded: agree }
    }

    /// `Forwarded` with the peer at its end. Elements that we make say what the edge said elsewhere.
    fn extend(
        &self,
        edge: Option<usize>,
        proto: Option<&HeaderValue>,
        host: Option<&HeaderValue>,
        own: &HeaderValue,
    ) -> HeaderValue {
        let mut elements = self.elements.clone();
        if let Some(element) = edge.filter(|_| !self.is_forwarded).and_then(|at| elements.get_mut(at)) {
            element.add(proto, host);
        }
        forwarded::write(&elements, own)
    }

    /// `X-Forwarded-For` with the peer at its end. A hop that is no text keeps its place: whoever counts
    /// hops from the right, or passes over known proxies, must not come to one that the client wrote.
    fn extend_forwarded_for(&self, peer: &Peer) -> HeaderValue {
        let own = peer.address.to_string();
        let mut hops: Vec<&str> = self.texts.iter().map(AsRef::as_ref).collect();
        hops.push(&own);
        HeaderValue::from_str(&hops.join(", ")).unwrap_or_else(|_| peer.address_value.clone())
    }
}

impl ForwardingHeaders {
    fn direct(peer: &Peer, host: Option<&HeaderValue>) -> Self {
        Self {
            forwarded: peer.forwarded.value(&peer.address_value, peer.scheme, host),
            forwarded_for: peer.address_value.clone(),
            proto: peer.scheme.value(),
            host: host.cloned(),
            port: peer.port_value.clone(),
            real_ip: peer.address_value.clone(),
        }
    }

    fn into_lines(self) -> HeaderLines {
        let headers = [
            (header::FORWARDED, Some(self.forwarded)),
            (X_FORWARDED_FOR.clone(), Some(self.forwarded_for)),
            (X_FORWARDED_PROTO.clone(), Some(self.proto)),
            (X_FORWARDED_HOST.clone(), self.host),
            (X_FORWARDED_PORT.clone(), self.port),
            (X_REAL_IP.clone(), Some(self.real_ip)),
        ];
        HeaderLines::new(headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
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

/// The last element of a list; most lists are one value, which is not copied.
fn last_of_list(value: &HeaderValue) -> Option<HeaderValue> {
    let bytes = value.as_bytes();
    let last = bytes.rsplit(|&byte| byte == b',').next().unwrap_or(bytes).trim_ascii();
    let value = if last.len() == bytes.len() { value.clone() } else { HeaderValue::from_bytes(last).ok()? };
    is_plain(&value).then_some(value)
}

fn is_plain(value: &HeaderValue) -> bool {
    value.len() <= 256 && value.as_bytes().iter().all(u8::is_ascii_graphic)
}
