//! The host that a request asks for, and the hosts that a route answers.
//!
//! One spelling: lower case, no port, no final dot, an IPv6 address in its shortest form (RFC 5952).
//! Whether a request named its host in `Host`, in the target or in both is `message`'s business.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Why an authority names no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing before the port.
    #[error("the host is empty")]
    Empty,
    /// `user@host`.
    #[error("the host carries user information")]
    UserInfo,
    /// A port that is no number up to 65535.
    #[error("the port is not a number up to 65535")]
    Port,
    /// A byte that no host name has, an empty label, or more than 253 bytes.
    #[error("not a host name")]
    Name,
    /// Brackets without an IPv6 address, or one with a zone.
    #[error("not an IPv6 address in brackets")]
    Ipv6,
}

/// A request's host in its canonical spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<'a>(Cow<'a, str>);

impl<'a> Host<'a> {
    /// Reads the host out of `HOST[:PORT]`. Allocates only when the spelling has to change.
    pub fn parse(authority: &'a str) -> Result<Self, HostError> {
        let parsed = if authority.starts_with('[') { parse_ipv6(authority) } else { parse_name(authority) };
        parsed.map_err(|error| if authority.contains('@') { HostError::UserInfo } else { error })
    }

    /// The host as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same host, owning its text.
    pub fn into_owned(self) -> Host<'static> {
        Host(Cow::Owned(self.0.into_owned()))
    }
}

/// An empty port is allowed by RFC 3986 section 3.2.3 and by nobody's need: `host:` is refused.
fn check_port(port: &str) -> Result<(), HostError> {
    if port.is_empty() {
        return Ok(());
    }
    let digits = port.strip_prefix(':').ok_or(HostError::Name)?;
    let numeric = digits.bytes().all(|b| b.is_ascii_digit());
    if !numeric || digits.len() > 5 || digits.parse::<u16>().is_err() {
        return Err(HostError::Port);
    }
    Ok(())
}

fn parse_ipv6(authority: &str) -> Result<Host<'_>, HostError> {
    let end = authority.find(']').ok_or(HostError::Ipv6)?;
    let (bracketed, port) = authority.split_at(end + 1);
    check_port(port)?;
    let address: Ipv6Addr = bracketed[1..end].parse().map_err(|_| HostError::Ipv6)?;
    let canonical = format!("[{address}]");
    Ok(Host(if canonical == bracketed { Cow::Borrowed(bracketed) } else { Cow::Owned(canonical) }))
}

/// One pass, since every request pays for it.
fn parse_name(authority: &str) -> Result<Host<'_>, HostError> {
    let mut upper = false;
    let mut label_length = 0;
    let mut end = authority.len();
    for (at, byte) in authority.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label_length += 1,
            b'A'..=b'Z' => {
                upper = true;
                label_length += 1;
            }
            b'.' if label_length > 0 => label_length = 0,
            b':' => {
                end = at;
                break;
            }
            _ => return Err(HostError::Name),
        }
    }
    let (name, port) = authority.split_at(end);
    check_port(port)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.len() {
        0 => Err(HostError::Empty),
        1..=253 if upper => Ok(Host(Cow::Owned(name.to_ascii_lowercase()))),
        1..=253 => Ok(Host(Cow::Borrowed(name))),
        _ => Err(HostError::Name),
    }
}

/// Why a text is no host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// `*`
    #[error("\"*\" is no host; leave host out for every host")]
    Everything,
    /// A port, a scheme or a path came along.
    #[error("a host has no scheme, port or path: did you mean \"{suggestion}\"?")]
    TooMuch {
        /// The host in it.
        suggestion: String,
    },
    /// `*` anywhere but as the whole first label.
    #[error("\"*\" stands for the first labels only: did you mean \"{suggestion}\"?")]
    Wildcard {
        /// A pattern of the right form.
        suggestion: String,
    },
    /// `.example.com`
    #[error("did you mean \"*{text}\"?")]
    LeadingDot {
        /// As written.
        text: String,
    },
    /// Letters beyond ASCII.
    #[error("write an international name in its ASCII form (xn--…)")]
    NonAscii,
    /// Not a host at all.
    #[error("{0}")]
    Host(#[from] HostError),
}

/// The hosts that a route answers: one name, or every name below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host.
    Exact(Box<str>),
    /// One or more labels before this name: `example.com` of `*.example.com`.
    Below(Box<str>),
}

impl HostPattern {
    /// Reads `app.example.com` or `*.example.com`.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        if text == "*" {
            return Err(HostPatternError::Everything);
        }
        if !text.is_ascii() {
            return Err(HostPatternError::NonAscii);
        }
        refuse_more_than_a_host(text)?;
        let (name, wild) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        if name.contains('*') {
            let tail = text.rsplit('*').next().unwrap_or_default().trim_start_matches(['.', '-']);
            return Err(HostPatternError::Wildcard { suggestion: format!("*.{tail}") });
        }
        if name.starts_with('.') {
            return Err(HostPatternError::LeadingDot { text: text.to_owned() });
        }
        let name = Host::parse(name)?.as_str().into();
        Ok(if wild { Self::Below(name) } else { Self::Exact(name) })
    }

    /// Whether a request for `host` is for this pattern.
    pub fn matches(&self, host: &Host<'_>) -> bool {
        match self {
            Self::Exact(name) => **name == *host.as_str(),
            Self::Below(name) => is_below(host.as_str(), name),
        }
    }

    /// Whether every host of `other` is one of this pattern's, and this pattern has more.
    pub(super) fn is_wider_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Below(mine), Self::Exact(theirs) | Self::Below(theirs)) => is_below(theirs, mine),
            (Self::Exact(_), _) => false,
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
}

fn refuse_more_than_a_host(text: &str) -> Result<(), HostPatternError> {
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = host.split(['/', '?']).next().unwrap_or_default();
    let host = if host.starts_with('[') {
        host.find(']').map_or(host, |end| &host[..=end])
    } else {
        host.split(':').next().unwrap_or_default()
    };
    if host == text { Ok(()) } else { Err(HostPatternError::TooMuch { suggestion: host.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_port_and_final_dot_do_not_count() {
        for (text, host) in [
            ("app.example.com", "app.example.com"),
            ("APP.Example.COM.", "app.example.com"),
            ("app.example.com:8080", "app.example.com"),
            ("app.example.com.:8080", "app.example.com"),
            ("127.0.0.1:5000", "127.0.0.1"),
            ("[::1]:5000", "[::1]"),
            ("[0:0::0:1]", "[::1]"),
            ("[FE80::A]", "[fe80::a]"),
            ("my_service", "my_service"),
        ] {
            assert_eq!(Host::parse(text).unwrap().as_str(), host, "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for (text, error) in [
            ("", HostError::Empty),
            (":80", HostError::Empty),
            (".", HostError::Name),
            ("a..b", HostError::Name),
            ("a.b..", HostError::Name),
            (".a", HostError::Name),
            ("a b", HostError::Name),
            ("a/b", HostError::Name),
            ("a,b", HostError::Name),
            ("a#b", HostError::Name),
            ("a?b", HostError::Name),
            ("a%2eb", HostError::Name),
            ("bücher.example", HostError::Name),
            ("a\0", HostError::Name),
            ("user@a", HostError::UserInfo),
            ("a:", HostError::Port),
            ("a:65536", HostError::Port),
            ("a:+80", HostError::Port),
            ("a:80:90", HostError::Port),
            ("a:000080", HostError::Port),
            ("::1", HostError::Port),
            ("[::1", HostError::Ipv6),
            ("[]", HostError::Ipv6),
            ("[1.2.3.4]", HostError::Ipv6),
            ("[fe80::1%eth0]", HostError::Ipv6),
            ("[::1]x", HostError::Name),
            (&"a".repeat(254), HostError::Name),
        ] {
            assert_eq!(Host::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_takes_one_or_more_labels() {
        let pattern = HostPattern::parse("*.Example.com").unwrap();
        for (host, matches) in [
            ("a.example.com", true),
            ("a.b.example.com:443", true),
            ("example.com", false),
            ("aexample.com", false),
            ("example.com.evil.net", false),
        ] {
            assert_eq!(pattern.matches(&Host::parse(host).unwrap()), matches, "{host}");
        }
        assert_eq!(pattern.to_string(), "*.example.com");
    }

    #[test]
    fn foreign_host_patterns_get_a_suggestion() {
        for (text, says) in [
            ("*", "leave host out"),
            ("app.example.com:8080", "\"app.example.com\""),
            ("https://app.example.com/x", "\"app.example.com\""),
            ("[::1]:80", "\"[::1]\""),
            ("app.*.com", "\"*.com\""),
            ("*app.example.com", "\"*.app.example.com\""),
            ("**.example.com", "\"*.example.com\""),
            (".example.com", "\"*.example.com\""),
            ("bücher.example", "xn--"),
            ("a b", "not a host name"),
            ("", "empty"),
        ] {
            let error = HostPattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
