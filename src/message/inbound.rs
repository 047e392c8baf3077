//! The parts of a request that decide where it goes: its canonical path and its one host.
//!
//! Everything that could be read in two ways is refused here, before a route is looked for: there is
//! one path (matched and forwarded) and one host (RFC 9112 section 3.2; Oathkeeper GHSA-p224-6x5r-fjpm
//! shows what happens when there are two).

use http::header::{HOST, HeaderMap};
use http::{Method, Uri};

use crate::route::{CanonicalPath, Host, HostError, PathAllowances, PathError};

/// Where a request wants to go.
#[derive(Debug)]
pub struct Inbound<'r> {
    /// The one path.
    pub path: CanonicalPath<'r>,
    /// The one host.
    pub host: Host<'r>,
}

/// What the connection noticed about a request's head while it was read, and the parser does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadRemark {
    /// The target had a fragment, which the parser cuts off.
    Fragment,
    /// The head is larger than `[server.limits] header_bytes`.
    TooLarge,
}

/// Why a request cannot be routed at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InboundError {
    /// The path is ambiguous or malformed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The target has a fragment, which is never sent (RFC 9110 section 7.1).
    #[error("the request target has a fragment")]
    Fragment,
    /// There is no `Host` header.
    #[error("the Host header is missing")]
    HostMissing,
    /// There are several.
    #[error("the Host header is repeated")]
    HostRepeated,
    /// It is not a host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The target names another host than the header.
    #[error("the request target and the Host header name different hosts")]
    HostsDiffer,
    /// The target has a scheme other than http and https, or user information.
    #[error("the request target is not an http URL without user information")]
    Target,
}

impl InboundError {
    /// The stable code: `bad_path` or `bad_host`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Path(_) | Self::Fragment => "bad_path",
            Self::HostMissing | Self::HostRepeated | Self::Host(_) | Self::HostsDiffer | Self::Target => {
                "bad_host"
            }
        }
    }
}

impl<'r> Inbound<'r> {
    /// Reads the target and the host.
    ///
    /// # Errors
    /// [`InboundError`]; each becomes a 400.
    pub fn read(uri: &'r Uri, headers: &'r HeaderMap, allow: PathAllowances) -> Result<Self, InboundError> {
        let host = read_host(uri, headers)?;
        Ok(Self { path: CanonicalPath::parse(uri.path(), allow)?, host })
    }
}

/// The one host that a request names.
///
/// # Errors
/// [`InboundError`] with the code `bad_host`.
pub fn read_host<'r>(uri: &Uri, headers: &'r HeaderMap) -> Result<Host<'r>, InboundError> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next().ok_or(InboundError::HostMissing)?;
    if hosts.next().is_some() {
        return Err(InboundError::HostRepeated);
    }
    let header = header.to_str().map_err(|_| InboundError::Host(HostError::Name))?;
    let host = Host::parse(header)?;
    if uri.scheme().is_some() || uri.authority().is_some() {
        check_absolute(uri, &host)?;
    }
    Ok(host)
}

/// An absolute-form target has to say what the `Host` header says.
fn check_absolute(uri: &Uri, host: &Host<'_>) -> Result<(), InboundError> {
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().ok_or(InboundError::Target)?.as_str();
    if !web || authority.contains('@') {
        return Err(InboundError::Target);
    }
    if Host::parse(authority)? != *host {
        return Err(InboundError::HostsDiffer);
    }
    Ok(())
}

/// `OPTIONS *`: a question to the server itself (RFC 9110 section 9.3.7).
#[must_use]
pub fn is_server_options(method: &Method, uri: &Uri) -> bool {
    method == Method::OPTIONS && uri.path() == "*"
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(target: &str, hosts: &[&str]) -> Result<(String, String), &'static str> {
        let uri: Uri = target.parse().expect("hyper took it");
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).expect("hyper took it"));
        }
        let inbound = Inbound::read(&uri, &headers, PathAllowances::default());
        inbound.map(|it| (it.host.as_str().to_owned(), it.path.as_str().to_owned())).map_err(|e| e.code())
    }

    #[test]
    fn there_is_one_host_and_one_path() {
        let ok = |host: &str, path: &str| Ok((host.to_owned(), path.to_owned()));
        assert_eq!(read("/a", &["Example.COM:8080"]), ok("example.com", "/a"));
        assert_eq!(read("http://example.com/a?b", &["example.com"]), ok("example.com", "/a"));
        assert_eq!(read("/a/../b", &["a"]), ok("a", "/b"));
    }

    #[test]
    fn a_host_that_could_be_read_in_two_ways_is_refused() {
        let cases: &[(&str, &[&str])] = &[
            ("/", &[]),
            ("/", &["a", "a"]),
            ("/", &["a", "b"]),
            ("/", &[""]),
            ("/", &["a b"]),
            ("/", &["a@b"]),
            ("/", &["a/b"]),
            ("/", &["a,b"]),
            ("/", &["a:b"]),
            ("http://b/", &["a"]),
            ("http://a@b/", &["b"]),
            ("ftp://a/", &["a"]),
        ];
        for (target, hosts) in cases {
            assert_eq!(read(target, hosts), Err("bad_host"), "{target} {hosts:?}");
        }
    }

    #[test]
    fn an_ambiguous_path_is_refused() {
        assert_eq!(read("/a/%2e%2e/b", &["a"]), Err("bad_path"));
    }
}
