//! `Forwarded` (RFC 7239): read when a trusted proxy sends it, written beside `X-Forwarded-*`.
//!
//! It is a list, each proxy adds an element at its right end, and a comma may stand in quotes. A client
//! can leave a quote open to swallow what a careless proxy appends, so a line that is not wholly well
//! formed says nothing: it counts as one hop whose address is unknown, and no hop left of it is believed.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;

use http::HeaderMap;
use http::header::{FORWARDED, HeaderValue};

use super::client::{Scheme, hop_address};

/// What one proxy said of the request that it got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Element<'a> {
    text: Cow<'a, str>,
    /// Who asked it; `None` when that is unknown, obfuscated or left out.
    pub node: Option<IpAddr>,
    /// Over what.
    pub scheme: Option<Scheme>,
    /// For which host.
    pub host: Option<String>,
}

impl Element<'_> {
    /// An element that says who asked, as `X-Forwarded-For` has it.
    #[must_use]
    pub fn of_hop(hop: &str) -> Self {
        let node = hop_address(hop);
        Self { text: Cow::Owned(format!("for={}", node_text(node))), node, scheme: None, host: None }
    }

    /// With what the proxy says elsewhere.
    pub fn add(&mut self, scheme: Option<&HeaderValue>, host: Option<&HeaderValue>) {
        let text = self.text.to_mut();
        for (name, value) in [(";proto=", scheme), (";host=", host)] {
            if let Some(value) = value.and_then(|value| value.to_str().ok()) {
                text.push_str(name);
                push_value(text, value);
            }
        }
    }

    /// The hop, as `X-Forwarded-For` has it.
    #[must_use]
    pub fn hop(&self) -> Cow<'static, str> {
        self.node.map_or(Cow::Borrowed("unknown"), |node| Cow::Owned(node.to_string()))
    }

    /// Something stands here, and nobody can tell what.
    const fn unknown() -> Self {
        Self { text: Cow::Borrowed("for=unknown"), node: None, scheme: None, host: None }
    }
}

/// Every element, from the first proxy to the last.
#[must_use]
pub fn read(headers: &HeaderMap) -> Vec<Element<'_>> {
    let mut all = Vec::new();
    for line in headers.get_all(FORWARDED) {
        match line.to_str().ok().and_then(read_line) {
            Some(elements) => all.extend(elements),
            None => all.push(Element::unknown()),
        }
    }
    all
}

/// The elements and one more, as a header's value.
#[must_use]
pub fn write(elements: &[Element<'_>], last: &HeaderValue) -> HeaderValue {
    let mut bytes = Vec::new();
    for element in elements {
        bytes.extend_from_slice(element.text.as_bytes());
        bytes.extend_from_slice(b", ");
    }
    bytes.extend_from_slice(last.as_bytes());
    HeaderValue::from_bytes(&bytes).unwrap_or_else(|_| last.clone())
}

/// `None` when any of it is malformed.
fn read_line(line: &str) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    let mut rest = line;
    loop {
        // Empty members of a list say nothing (RFC 9110 section 5.6.1).
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(elements);
        }
        let (element, after) = read_element(rest)?;
        elements.push(element);
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

/// `for=192.0.2.1;proto=https`, and what stands behind it.
fn read_element(text: &str) -> Option<(Element<'_>, &str)> {
    let mut element = Element { text: Cow::Borrowed(""), node: None, scheme: None, host: None };
    let mut seen: Vec<&str> = Vec::new();
    let mut rest = text;
    loop {
        if rest.starts_with(is_token) {
            let (name, value, after) = read_pair(rest)?;
            // A parameter occurs once (section 4).
            if seen.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                return None;
            }
            seen.push(name);
            match name.to_ascii_lowercase().as_str() {
                "for" => element.node = hop_address(&value),
                "proto" => element.scheme = Scheme::of(&value),
                "host" => element.host = Some(value.into_owned()),
                _ => {}
            }
            rest = after;
        }
        match rest.strip_prefix(';') {
            Some(after) => rest = after,
            None => break,
        }
    }
    element.text = Cow::Borrowed(&text[..text.len() - rest.len()]);
    Some((element, rest))
}

/// A name, its value, and what stands behind them.
fn read_pair(text: &str) -> Option<(&str, Cow<'_, str>, &str)> {
    let (name, rest) = text.split_once('=').filter(|(name, _)| name.chars().all(is_token))?;
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, after) = read_quoted(quoted)?;
        return Some((name, Cow::Owned(value), after));
    }
    let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
    let (value, after) = rest.split_at(end);
    (!value.is_empty()).then_some((name, Cow::Borrowed(value), after))
}

/// The inside of a quoted string whose first quote has been read.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// RFC 9110 section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn node_text(node: Option<IpAddr>) -> Cow<'static, str> {
    match node {
        None => Cow::Borrowed("unknown"),
        Some(IpAddr::V4(address)) => Cow::Owned(address.to_string()),
        Some(IpAddr::V6(address)) => Cow::Owned(format!("\"[{address}]\"")),
    }
}

/// A token as it is, anything else in quotes.
fn push_value(text: &mut String, value: &str) {
    if !value.is_empty() && value.chars().all(is_token) {
        text.push_str(value);
        return;
    }
    text.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

/// A connection's own element. Only the host can change from request to request, and it seldom does: the
/// last one is kept. (Not the request's own host value: that would keep its whole head in memory.)
#[derive(Clone, Debug, Default)]
pub struct OwnElement(RefCell<Option<(HeaderValue, Range<usize>)>>);

impl OwnElement {
    /// `for=192.0.2.1;proto=https;host=app.example.com`
    pub fn value(&self, address: &HeaderValue, scheme: Scheme, host: Option<&HeaderValue>) -> HeaderValue {
        let wanted = host.map_or(&[][..], HeaderValue::as_bytes);
        if let Some((value, host)) = &*self.0.borrow()
            && &value.as_bytes()[host.clone()] == wanted
        {
            return value.clone();
        }
        let (value, place) = Self::make(address, scheme, wanted);
        if place.len() == wanted.len() {
            self.0.replace(Some((value.clone(), place)));
        }
        value
    }

    /// The value, and where the host stands in it as it was given.
    fn make(address: &HeaderValue, scheme: Scheme, host: &[u8]) -> (HeaderValue, Range<usize>) {
        let address = address.to_str().unwrap_or("unknown");
        let mut text = String::from("for=");
        match address.parse::<IpAddr>() {
            Ok(address) => text.push_str(&node_text(Some(address))),
            Err(_) => push_value(&mut text, address),
        }
        text.push_str(";proto=");
        text.push_str(scheme.as_str());
        let mut place = 0..0;
        if let Ok(host) = std::str::from_utf8(host)
            && !host.is_empty()
        {
            text.push_str(";host=");
            push_value(&mut text, host);
            // What had to be escaped is not found again; no host that is served has any of it.
            place = text.rfind(host).map_or(0..0, |start| start..start + host.len());
        }
        (HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("for=unknown")), place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shown = (Option<String>, Option<Scheme>, Option<String>);

    fn line(text: &str) -> Option<Vec<Shown>> {
        let show =
            |element: Element<'_>| (element.node.map(|node| node.to_string()), element.scheme, element.host);
        read_line(text).map(|elements| elements.into_iter().map(show).collect())
    }

    fn nodes(text: &str) -> Option<Vec<String>> {
        let node = |(node, _, _): (Option<String>, _, _)| node.unwrap_or_else(|| "unknown".to_owned());
        line(text).map(|elements| elements.into_iter().map(node).collect())
    }

    #[test]
    fn elements_are_read_as_rfc_7239_writes_them() {
        for (text, expected) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60"][..]),
            ("For=\"[2001:db8:cafe::17]:4711\"", &["2001:db8:cafe::17"]),
            ("for=192.0.2.43, for=198.51.100.17", &["192.0.2.43", "198.51.100.17"]),
            (
                "for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown",
                &["192.0.2.43", "2001:db8:cafe::17", "unknown"],
            ),
            ("for=_hidden, for=_SEVKISEK, for=\"_gazonk\"", &["unknown", "unknown", "unknown"]),
            ("for=\"192.0.2.43:47011\"", &["192.0.2.43"]),
            ("for=\"\\1\\9\\2.0.2.1\"", &["192.0.2.1"]),
            ("for=\"::ffff:192.0.2.1\"", &["192.0.2.1"]),
            ("proto=https", &["unknown"]),
            ("for=192.0.2.1;;proto=http;", &["192.0.2.1"]),
            ("for=192.0.2.1;ext=\"a, for=6.6.6.6\"", &["192.0.2.1"]),
            (" , for=192.0.2.1 ,\t, for=192.0.2.2,", &["192.0.2.1", "192.0.2.2"]),
            ("", &[]),
        ] {
            assert_eq!(
                nodes(text).as_deref(),
                Some(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
        assert_eq!(
            line("proto=HTTPS;host=\"app.example.com:8443\";for=192.0.2.1"),
            Some(vec![(
                Some("192.0.2.1".to_owned()),
                Some(Scheme::Https),
                Some("app.example.com:8443".to_owned())
            )])
        );
        assert_eq!(line("for=192.0.2.1;proto=ftp"), Some(vec![(Some("192.0.2.1".to_owned()), None, None)]));
    }

    #[test]
    fn a_line_that_is_not_wholly_well_formed_says_nothing() {
        for bad in [
            "for=\"6.6.6.6, for=192.0.2.1",
            "for=\", for=192.0.2.1",
            "for=\"\\",
            "for",
            "for=",
            "for=;proto=http",
            "=192.0.2.1",
            "for = 192.0.2.1",
            "for=192.0.2.1 for=192.0.2.2",
            "for=192.0.2.1;for=6.6.6.6",
            "for=192.0.2.1;For=6.6.6.6",
            "for=[2001:db8::1]",
            "for=2001:db8::1",
            "for=192.0.2.1:80",
            "for=192.0.2.1, <script>",
        ] {
            assert_eq!(nodes(bad), None, "{bad}");
        }
        let mut headers = HeaderMap::new();
        for text in ["for=6.6.6.6, for=\"", "for=192.0.2.1"] {
            headers.append(FORWARDED, HeaderValue::from_static(text));
        }
        let own = HeaderValue::from_static("for=10.0.0.1");
        assert_eq!(write(&read(&headers), &own), "for=unknown, for=192.0.2.1, for=10.0.0.1");
    }

    #[test]
    fn an_element_is_kept_as_it_was_written() {
        let mut headers = HeaderMap::new();
        let text = "For=192.0.2.1;BY=\"[::1]\";x=\"a,b\";, for=_b";
        headers.insert(FORWARDED, HeaderValue::from_static(text));
        let own = HeaderValue::from_static("for=10.0.0.1");
        assert_eq!(write(&read(&headers), &own), &format!("{text}, for=10.0.0.1")[..]);
        let mut element = Element::of_hop("[2001:db8::1]:80");
        element.add(Some(&HeaderValue::from_static("https")), Some(&HeaderValue::from_static("a\"b:1")));
        assert_eq!(
            write(&[element], &own),
            "for=\"[2001:db8::1]\";proto=https;host=\"a\\\"b:1\", for=10.0.0.1"
        );
    }

    #[test]
    fn the_own_element_follows_the_host() {
        let own = OwnElement::default();
        let value = |address: &'static str, host: Option<&'static str>| {
            let host = host.map(HeaderValue::from_static);
            own.value(&HeaderValue::from_static(address), Scheme::Http, host.as_ref())
        };
        let first = value("192.0.2.1", Some("app.test"));
        assert_eq!(first, "for=192.0.2.1;proto=http;host=app.test");
        // The same one, not another of the same text.
        assert_eq!(value("192.0.2.1", Some("app.test")).as_bytes().as_ptr(), first.as_bytes().as_ptr());
        for (host, expected) in [
            (Some("app.test:80"), "for=192.0.2.1;proto=http;host=\"app.test:80\""),
            (Some("[::1]:80"), "for=192.0.2.1;proto=http;host=\"[::1]:80\""),
            (Some("http"), "for=192.0.2.1;proto=http;host=http"),
            (Some("app"), "for=192.0.2.1;proto=http;host=app"),
            (Some(""), "for=192.0.2.1;proto=http"),
            (None, "for=192.0.2.1;proto=http"),
            (Some("a\"b"), "for=192.0.2.1;proto=http;host=\"a\\\"b\""),
            (None, "for=192.0.2.1;proto=http"),
            (Some("app.test"), "for=192.0.2.1;proto=http;host=app.test"),
        ] {
            assert_eq!(value("192.0.2.1", host), expected);
            assert_eq!(value("192.0.2.1", host), expected);
        }
        let other = OwnElement::default();
        let address = HeaderValue::from_static("2001:db8::1");
        assert_eq!(other.value(&address, Scheme::Https, None), "for=\"[2001:db8::1]\";proto=https");
    }
}
