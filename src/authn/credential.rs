//! Where in a request a token stands (RFC 6750 section 2, RFC 9110 section 11.6.2), and whether there is
//! exactly one. Whether it is any good is the verifier's question.
//!
//! Absent, malformed and ambiguous are three answers: only the first may ever become an anonymous caller.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::settings::CredentialForm;

/// The header of [`CredentialForm::XAccessToken`].
pub const X_ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

/// What a request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'h> {
    /// Nothing in a form that is accepted here. Another scheme is the app's business, not a credential.
    Absent,
    /// An accepted form, but no token in it.
    Malformed,
    /// More than one, so that two readers could pick different ones. Equal ones count too.
    Ambiguous,
    /// This token, not yet looked at.
    Token(&'h str),
}

/// The token of the plain case: one `Authorization` line, `Bearer` and one space, and no other place to
/// look. Nothing was checked of it: it is only good for finding a token that was checked before. `None`
/// says nothing; [`find`] does.
#[must_use]
pub fn plain<'h>(headers: &'h HeaderMap, accept: &[CredentialForm]) -> Option<&'h [u8]> {
    if accept != [CredentialForm::Bearer] {
        return None;
    }
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (scheme, token) = lines.next()?.as_bytes().split_at_checked(7)?;
    (lines.next().is_none() && scheme.eq_ignore_ascii_case(b"bearer ")).then_some(token)
}

/// Whether a header line presents a credential in an accepted form, of whatever worth.
#[must_use]
pub fn is_presented(name: &HeaderName, value: &HeaderValue, accept: &[CredentialForm]) -> bool {
    if name == AUTHORIZATION {
        return after_scheme(trim(value.as_bytes()), accept).is_some();
    }
    *name == X_ACCESS_TOKEN && accept.contains(&CredentialForm::XAccessToken)
}

/// Looks for the one credential among the accepted forms.
#[must_use]
pub fn find<'h>(headers: &'h HeaderMap, accept: &[CredentialForm]) -> Credential<'h> {
    let mut lines = 0;
    let mut ours = 0;
    let mut found = Credential::Absent;
    for value in headers.get_all(AUTHORIZATION) {
        lines += 1;
        match in_authorization(value, accept) {
            Credential::Absent => {}
            credential => {
                ours += 1;
                found = credential;
            }
        }
    }
    if ours > 0 && lines > 1 {
        return Credential::Ambiguous;
    }
    if accept.contains(&CredentialForm::XAccessToken) {
        for value in headers.get_all(X_ACCESS_TOKEN) {
            ours += 1;
            found = in_own_header(value);
        }
    }
    if ours > 1 { Credential::Ambiguous } else { found }
}

/// Everything in one header line that could be read as a token in an accepted form, however lenient the
/// reader; for deciding whether the line may travel on, never for letting somebody in.
pub fn pieces<'h>(
    name: &HeaderName,
    value: &'h HeaderValue,
    accept: &[CredentialForm],
) -> impl Iterator<Item = &'h str> {
    let credential = if name == AUTHORIZATION {
        in_authorization(value, accept)
    } else if *name == X_ACCESS_TOKEN && accept.contains(&CredentialForm::XAccessToken) {
        in_own_header(value)
    } else {
        Credential::Absent
    };
    let (whole, text) = match credential {
        Credential::Absent => (None, &[][..]),
        Credential::Token(token) => (Some(token), &[][..]),
        Credential::Malformed | Credential::Ambiguous => (None, value.as_bytes()),
    };
    // Padding is not part of a token of ours; a reader may well cut it off, or take `=` for a blank.
    let pieces = text.split(|b| !is_b64token(&[*b])).filter(|piece| !piece.is_empty());
    whole.into_iter().chain(pieces.filter_map(|piece| std::str::from_utf8(piece).ok()))
}

fn in_authorization<'h>(value: &'h HeaderValue, accept: &[CredentialForm]) -> Credential<'h> {
    let value = trim(value.as_bytes());
    let rest = after_scheme(value, accept);
    // A proxy may have joined two lines into one; a comma is in no token of ours.
    if value.contains(&b',') {
        let mut others = value.split(|b| *b == b',').skip(1);
        if others.any(|element| after_scheme(trim(element), accept).is_some()) {
            return Credential::Ambiguous;
        }
    }
    match rest {
        None => Credential::Absent,
        Some([b' ', token @ ..]) => token_or_malformed(trim_spaces(token)),
        Some(_) => Credential::Malformed,
    }
}

fn in_own_header(value: &HeaderValue) -> Credential<'_> {
    let value = trim(value.as_bytes());
    if value.contains(&b',') {
        return Credential::Ambiguous;
    }
    token_or_malformed(value)
}

/// What follows an accepted scheme. The scheme is a `token` (RFC 9110 section 5.6.2), in any case.
fn after_scheme<'v>(value: &'v [u8], accept: &[CredentialForm]) -> Option<&'v [u8]> {
    // What nearly all clients send, without a look at each byte.
    if accept.contains(&CredentialForm::Bearer)
        && let Some((scheme, rest)) = value.split_at_checked(6)
        && rest.first() == Some(&b' ')
        && scheme.eq_ignore_ascii_case(b"bearer")
    {
        return Some(rest);
    }
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let end = value.iter().position(|b| !is_token(b)).unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    let accepted = accept.iter().any(|form| match form {
        CredentialForm::Bearer => scheme.eq_ignore_ascii_case(b"bearer"),
        CredentialForm::Jwt => scheme.eq_ignore_ascii_case(b"jwt"),
        CredentialForm::XAccessToken => false,
    });
    accepted.then_some(rest)
}

/// `b64token` of RFC 6750 section 2.1: it says nothing about what kind of token it is.
fn token_or_malformed(value: &[u8]) -> Credential<'_> {
    let body = value.iter().rposition(|b| *b != b'=').map_or(0, |last| last + 1);
    if body == 0 || !is_b64token(&value[..body]) {
        return Credential::Malformed;
    }
    std::str::from_utf8(value).map_or(Credential::Malformed, Credential::Token)
}

/// Looks at every byte of every token of every request, so without a branch per byte.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "lazy operators are branches, which keep it from being vectorised"
)]
fn is_b64token(body: &[u8]) -> bool {
    let in_alphabet = |b: u8| {
        ((b | 0x20).wrapping_sub(b'a') < 26)
            | (b.wrapping_sub(b'0') < 10)
            | (b == b'-')
            | (b == b'.')
            | (b == b'_')
            | (b == b'~')
            | (b == b'+')
            | (b == b'/')
    };
    body.iter().fold(true, |all, b| all & in_alphabet(*b))
}

/// Without the optional white space around a field value (RFC 9110 section 5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 11.4: any number of spaces, no tab, between a scheme and its token.
fn trim_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::Credential::{Absent, Ambiguous, Malformed, Token};
    use super::CredentialForm::{Bearer, Jwt, XAccessToken};
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    #[test]
    fn one_authorization_line_is_read_by_its_scheme() {
        let table: &[(&str, &[CredentialForm], Credential<'static>)] = &[
            ("Bearer abc", &[Bearer], Token("abc")),
            ("bearer abc", &[Bearer], Token("abc")),
            ("BEARER abc", &[Bearer], Token("abc")),
            ("bEaReR   abc", &[Bearer], Token("abc")),
            ("  Bearer abc\t", &[Bearer], Token("abc")),
            ("Bearer a.b-c_d~e+f/g==", &[Bearer], Token("a.b-c_d~e+f/g==")),
            ("Bearer gpr_AAAA", &[Bearer], Token("gpr_AAAA")),
            ("JWT abc", &[Bearer, Jwt], Token("abc")),
            ("jwt abc", &[Jwt], Token("abc")),
            // Not ours.
            ("", &[Bearer], Absent),
            ("Basic dXNlcjpwdw==", &[Bearer], Absent),
            ("Negotiate YII=", &[Bearer], Absent),
            ("JWT abc", &[Bearer], Absent),
            ("Bearer abc", &[Jwt], Absent),
            ("Bearer abc", &[XAccessToken], Absent),
            ("Bearerabc", &[Bearer], Absent),
            ("Bearer-abc", &[Bearer], Absent),
            ("Token abc", &[Bearer], Absent),
            ("abc", &[Bearer], Absent),
            ("\"Bearer\" abc", &[Bearer], Absent),
            ("Digest username=\"u\", realm=\"r\", uri=\"/\"", &[Bearer], Absent),
            // Ours, and no token in it.
            ("Bearer", &[Bearer], Malformed),
            ("Bearer ", &[Bearer], Malformed),
            ("Bearer =", &[Bearer], Malformed),
            ("Bearer a b", &[Bearer], Malformed),
            ("Bearer a\tb", &[Bearer], Malformed),
            ("Bearer\tabc", &[Bearer], Malformed),
            ("Bearer  \tabc", &[Bearer], Malformed),
            ("Bearer:abc", &[Bearer], Malformed),
            ("Bearer=abc", &[Bearer], Malformed),
            ("Bearer,abc", &[Bearer], Malformed),
            ("Bearer \"abc\"", &[Bearer], Malformed),
            ("Bearer a=b", &[Bearer], Malformed),
            ("Bearer äbc", &[Bearer], Malformed),
            ("Bearer abc,", &[Bearer], Malformed),
            ("Bearer abc, def", &[Bearer], Malformed),
            ("Bearer {\"a\":1}", &[Bearer], Malformed),
            ("Bearer a%20b", &[Bearer], Malformed),
            ("Bearer a;b", &[Bearer], Malformed),
            ("Bearer Bearer abc", &[Bearer], Malformed),
            // Lines that somebody joined.
            ("Bearer abc, Bearer abc", &[Bearer], Ambiguous),
            ("Bearer abc,bearer def", &[Bearer], Ambiguous),
            ("Basic dTpw, Bearer abc", &[Bearer], Ambiguous),
            ("Bearer abc, JWT abc", &[Bearer, Jwt], Ambiguous),
            ("Bearer abc, Bearer", &[Bearer], Ambiguous),
            ("Bearer abc, Basic dTpw", &[Bearer], Malformed),
        ];
        for (value, accept, expected) in table {
            assert_eq!(
                find(&headers(&[("authorization", value)]), accept),
                *expected,
                "{value:?} {accept:?}"
            );
        }
    }

    #[test]
    fn there_is_one_credential_or_a_refusal() {
        type Lines = &'static [(&'static str, &'static str)];
        let both: &[CredentialForm] = &[Bearer, XAccessToken];
        let table: &[(Lines, &[CredentialForm], Credential<'static>)] = &[
            (&[], both, Absent),
            (&[("cookie", "token=abc"), ("token", "abc"), ("x-auth-token", "abc")], both, Absent),
            (&[("x-access-token", "abc")], both, Token("abc")),
            (&[("x-access-token", " abc ")], both, Token("abc")),
            (&[("x-access-token", "abc")], &[Bearer], Absent),
            (&[("x_access_token", "abc")], both, Absent),
            (&[("xaccesstoken", "abc")], both, Absent),
            (&[("x-access-token", "")], both, Malformed),
            (&[("x-access-token", "Bearer abc")], both, Malformed),
            (&[("x-access-token", "a,b")], both, Ambiguous),
            (&[("x-access-token", "abc"), ("x-access-token", "abc")], both, Ambiguous),
            (&[("x-access-token", "abc"), ("x-access-token", "")], both, Ambiguous),
            (&[("authorization", "Bearer abc"), ("x-access-token", "abc")], both, Ambiguous),
            (&[("authorization", "Bearer abc"), ("x-access-token", "abc")], &[Bearer], Token("abc")),
            (&[("authorization", "Bearer"), ("x-access-token", "abc")], both, Ambiguous),
            (&[("authorization", "Bearer abc"), ("x-access-token", "")], both, Ambiguous),
            (&[("authorization", "Basic dTpw"), ("x-access-token", "abc")], both, Token("abc")),
            (&[("authorization", "Bearer abc"), ("authorization", "Bearer abc")], both, Ambiguous),
            (&[("authorization", "Bearer abc"), ("authorization", "Basic dTpw")], both, Ambiguous),
            (&[("authorization", "Basic dTpw"), ("authorization", "bearer abc")], both, Ambiguous),
            (&[("authorization", "Bearer abc"), ("authorization", "")], both, Ambiguous),
            (&[("authorization", "Basic dTpw"), ("authorization", "Basic dTpw")], both, Absent),
            (&[("authorization", "JWT abc"), ("authorization", "Basic dTpw")], both, Absent),
            (&[("authorization", "Bearer abc")], &[], Absent),
        ];
        for (lines, accept, expected) in table {
            assert_eq!(find(&headers(lines), accept), *expected, "{lines:?} {accept:?}");
        }
    }

    #[test]
    fn the_alphabet_is_that_of_the_rfc() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            assert_eq!(is_b64token(&[b'a', byte, b'a']), expected, "{byte}");
        }
    }

    #[test]
    fn a_line_that_travels_on_is_searched_for_tokens() {
        let table: &[(HeaderName, &str, &[&str])] = &[
            (AUTHORIZATION, "Bearer abc", &["abc"]),
            (AUTHORIZATION, "bearer a.b.c junk", &["bearer", "a.b.c", "junk"]),
            (AUTHORIZATION, "Basic dTpw, Bearer \"a.b.c\"", &["Basic", "dTpw", "Bearer", "a.b.c"]),
            (AUTHORIZATION, "Bearer=a.b.c", &["Bearer", "a.b.c"]),
            (AUTHORIZATION, "Basic a.b.c", &[]),
            (AUTHORIZATION, "JWT a.b.c", &[]),
            (X_ACCESS_TOKEN, "a.b.c", &["a.b.c"]),
            (X_ACCESS_TOKEN, "Bearer a.b.c", &["Bearer", "a.b.c"]),
            (http::header::COOKIE, "Bearer abc", &[]),
        ];
        for (name, value, expected) in table {
            let value = HeaderValue::from_str(value).unwrap();
            let found: Vec<_> = pieces(name, &value, &[Bearer, XAccessToken]).collect();
            assert_eq!(found, *expected, "{name}: {value:?}");
        }
        let value = HeaderValue::from_static("abc");
        assert_eq!(pieces(&X_ACCESS_TOKEN, &value, &[Bearer]).count(), 0);
    }
}
