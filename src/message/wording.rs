//! Refusals in the words of the libraries that an app's clients know: Flask-JWT-Extended 4 and
//! Flask-JWT 0.3, with their statuses and members, taken from their source.
//!
//! A library has words for a bad credential only. What else is refused stays a problem (RFC 9457), with
//! the members that its clients look for beside the usual ones.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::reply::{Document, Reply, json};
use crate::settings::ErrorBodies;

/// What was wrong with a credential, as finely as a library says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialFault {
    /// There is none.
    Missing,
    /// An accepted scheme without a token.
    Malformed,
    /// No JWT.
    Shape,
    /// The header's algorithm is not the key's.
    Algorithm,
    /// The signature does not fit, or is of an unknown key.
    Signature,
    /// `iss`
    Issuer,
    /// `aud`
    Audience,
    /// `nbf` or `iat`
    NotYetValid,
    /// `exp`
    Expired,
    /// It was revoked.
    Revoked,
    /// What no library checks.
    Other,
    /// A name and a password that are not an account's.
    Password,
}

/// What a request's `Authorization` looked like, for refusals that tell these cases apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presented {
    /// Nothing.
    #[default]
    Nothing,
    /// Another scheme than the library's.
    OtherScheme,
    /// The scheme alone.
    SchemeAlone,
    /// One text after the scheme.
    OneToken,
    /// Several texts after the scheme.
    Spaces,
}

impl Presented {
    /// Looks for the scheme that the library takes by default.
    #[must_use]
    pub fn of(headers: &HeaderMap, bodies: ErrorBodies) -> Self {
        let scheme = match bodies {
            ErrorBodies::Problem => return Self::Nothing,
            ErrorBodies::FlaskJwtExtended => "bearer",
            ErrorBodies::FlaskJwt => "jwt",
        };
        let Some(value) = headers.get(AUTHORIZATION) else { return Self::Nothing };
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut parts = text.split_ascii_whitespace();
        match parts.next() {
            None => Self::Nothing,
            Some(first) if !first.eq_ignore_ascii_case(scheme) => Self::OtherScheme,
            Some(_) => match parts.count() {
                0 => Self::SchemeAlone,
                1 => Self::OneToken,
                _ => Self::Spaces,
            },
        }
    }
}

/// The status that a refusal has in these words; `None` where it keeps its own.
#[must_use]
pub const fn status(bodies: ErrorBodies, fault: CredentialFault) -> Option<StatusCode> {
    use CredentialFault as Fault;
    match (bodies, fault) {
        (ErrorBodies::Problem, _) | (ErrorBodies::FlaskJwtExtended, Fault::Password) => None,
        (ErrorBodies::FlaskJwtExtended, Fault::Missing | Fault::Expired | Fault::Revoked)
        | (ErrorBodies::FlaskJwt, _) => Some(StatusCode::UNAUTHORIZED),
        (ErrorBodies::FlaskJwtExtended, _) => Some(StatusCode::UNPROCESSABLE_ENTITY),
    }
}

/// A refused credential in a library's words; `None` where it has none. `detail` is said where only
/// the gateway knows the case.
#[must_use]
pub fn refusal(
    bodies: ErrorBodies,
    fault: CredentialFault,
    presented: Presented,
    detail: &str,
) -> Option<Reply> {
    let status = status(bodies, fault)?;
    match bodies {
        ErrorBodies::Problem => None,
        ErrorBodies::FlaskJwtExtended => {
            Some(json(status, &Extended { msg: extended(fault, presented, detail) }))
        }
        ErrorBodies::FlaskJwt => {
            let (error, description) = flask_jwt(fault, presented, detail);
            Some(json(status, &Plain { status_code: status.as_u16(), error, description }))
        }
    }
}

/// Any other problem, with the members that the library's clients look for.
pub(super) fn beside(bodies: ErrorBodies, document: &Document<'_>) -> Option<Reply> {
    let status = StatusCode::from_u16(document.status).ok()?;
    match bodies {
        ErrorBodies::Problem => None,
        ErrorBodies::FlaskJwtExtended => Some(json(status, &WithMsg { document, msg: document.detail })),
        ErrorBodies::FlaskJwt => {
            let plain =
                Plain { status_code: document.status, error: document.title, description: document.detail };
            Some(json(status, &WithPlain { document, plain }))
        }
    }
}

/// The challenge of these words, for every 401 (RFC 9110 section 15.5.2); `None`: the gateway's own.
#[must_use]
pub fn challenge(bodies: ErrorBodies, status: StatusCode) -> Option<(http::HeaderName, HeaderValue)> {
    let theirs = bodies == ErrorBodies::FlaskJwt && status == StatusCode::UNAUTHORIZED;
    theirs.then(|| (WWW_AUTHENTICATE, HeaderValue::from_static(r#"JWT realm="Login Required""#)))
}

#[derive(Serialize)]
struct Extended<'a> {
    msg: Cow<'a, str>,
}

#[derive(Serialize)]
struct Plain<'a> {
    status_code: u16,
    error: &'a str,
    description: &'a str,
}

#[derive(Serialize)]
struct WithMsg<'a> {
    #[serde(flatten)]
    document: &'a Document<'a>,
    msg: &'a str,
}

#[derive(Serialize)]
struct WithPlain<'a> {
    #[serde(flatten)]
    document: &'a Document<'a>,
    #[serde(flatten)]
    plain: Plain<'a>,
}

/// What Flask-JWT-Extended 4.7 says, in places with `PyJWT` 2's words.
fn extended(fault: CredentialFault, presented: Presented, detail: &str) -> Cow<'_, str> {
    use CredentialFault as Fault;
    let text = match (fault, presented) {
        (Fault::Missing, Presented::Nothing) => "Missing Authorization Header",
        (Fault::Missing, _) => {
            "Missing 'Bearer' type in 'Authorization' header. Expected 'Authorization: Bearer <JWT>'"
        }
        (Fault::Malformed, Presented::SchemeAlone | Presented::Spaces) => {
            "Bad Authorization header. Expected 'Authorization: Bearer <JWT>'"
        }
        (Fault::Malformed | Fault::Shape, _) => "Not enough segments",
        (Fault::Algorithm, _) => "The specified alg value is not allowed",
        (Fault::Signature, _) => "Signature verification failed",
        (Fault::Issuer, _) => "Invalid issuer",
        (Fault::Audience, _) => "Audience doesn't match",
        (Fault::NotYetValid, _) => "The token is not yet valid (nbf)",
        (Fault::Expired, _) => "Token has expired",
        (Fault::Revoked, _) => "Token has been revoked",
        (Fault::Other | Fault::Password, _) => return Cow::Borrowed(detail),
    };
    Cow::Borrowed(text)
}

/// What Flask-JWT 0.3.2 says, in places with `PyJWT` 1.4's words: `error` and `description`.
fn flask_jwt(fault: CredentialFault, presented: Presented, detail: &str) -> (&'static str, &str) {
    use CredentialFault as Fault;
    const INVALID: &str = "Invalid token";
    match (fault, presented) {
        (Fault::Missing, Presented::Nothing) => {
            ("Authorization Required", "Request does not contain an access token")
        }
        (Fault::Missing, _) => ("Invalid JWT header", "Unsupported authorization type"),
        (Fault::Malformed, Presented::SchemeAlone) => ("Invalid JWT header", "Token missing"),
        (Fault::Malformed, Presented::Spaces) => ("Invalid JWT header", "Token contains spaces"),
        (Fault::Malformed | Fault::Shape, _) => (INVALID, "Not enough segments"),
        (Fault::Algorithm, _) => (INVALID, "The specified alg value is not allowed"),
        (Fault::Signature, _) => (INVALID, "Signature verification failed"),
        (Fault::Issuer, _) => (INVALID, "Invalid issuer"),
        (Fault::Audience, _) => (INVALID, "Invalid audience"),
        (Fault::NotYetValid, _) => (INVALID, "The token is not yet valid (nbf)"),
        (Fault::Expired, _) => (INVALID, "Signature has expired"),
        (Fault::Revoked, _) => (INVALID, "Token has been revoked"),
        (Fault::Other, _) => (INVALID, detail),
        (Fault::Password, _) => ("Bad Request", "Invalid credentials"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::message::reply::Problem;

    fn presented(value: Option<&str>, bodies: ErrorBodies) -> Presented {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
        }
        Presented::of(&headers, bodies)
    }

    fn told(bodies: ErrorBodies, problem: Problem, presented: Presented) -> (u16, Value, HeaderMap) {
        let reply = problem.into_reply_in(bodies, presented, "req-1");
        let body = serde_json::from_slice(reply.body()).expect("JSON");
        (reply.status().as_u16(), body, reply.headers().clone())
    }

    fn bad(fault: CredentialFault) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "invalid_token", "the token is too long")
            .challenge(Some(("invalid_token", "the token is too long")))
            .credential(fault)
    }

    #[test]
    fn an_authorization_line_is_one_of_five() {
        let extended = ErrorBodies::FlaskJwtExtended;
        for (value, expected) in [
            (None, Presented::Nothing),
            (Some(""), Presented::Nothing),
            (Some("Basic x"), Presented::OtherScheme),
            (Some("JWT x"), Presented::OtherScheme),
            (Some("Bearer"), Presented::SchemeAlone),
            (Some("bearer  "), Presented::SchemeAlone),
            (Some("Bearer a"), Presented::OneToken),
            (Some("Bearer a b"), Presented::Spaces),
        ] {
            assert_eq!(presented(value, extended), expected, "{value:?}");
        }
        assert_eq!(presented(Some("JWT x"), ErrorBodies::FlaskJwt), Presented::OneToken);
        assert_eq!(presented(Some("JWT x"), ErrorBodies::Problem), Presented::Nothing);
    }

    #[test]
    fn flask_jwt_extended_says_msg_and_422() {
        use CredentialFault as Fault;
        let bodies = ErrorBodies::FlaskJwtExtended;
        for (fault, seen, status, msg) in [
            (Fault::Missing, Presented::Nothing, 401, "Missing Authorization Header"),
            (
                Fault::Malformed,
                Presented::SchemeAlone,
                422,
                "Bad Authorization header. Expected 'Authorization: Bearer <JWT>'",
            ),
            (Fault::Shape, Presented::OneToken, 422, "Not enough segments"),
            (Fault::Signature, Presented::OneToken, 422, "Signature verification failed"),
            (Fault::Expired, Presented::OneToken, 401, "Token has expired"),
            (Fault::Revoked, Presented::OneToken, 401, "Token has been revoked"),
            (Fault::Other, Presented::OneToken, 422, "the token is too long"),
        ] {
            let (told_status, body, headers) = told(bodies, bad(fault), seen);
            assert_eq!((told_status, body), (status, json!({ "msg": msg })), "{fault:?}");
            assert_eq!(headers["content-type"], "application/json");
            assert_eq!(headers.contains_key("www-authenticate"), status == 401, "{fault:?}");
        }
    }

    #[test]
    fn flask_jwt_says_three_members_and_its_challenge() {
        use CredentialFault as Fault;
        let bodies = ErrorBodies::FlaskJwt;
        for (fault, seen, error, description) in [
            (
                Fault::Missing,
                Presented::Nothing,
                "Authorization Required",
                "Request does not contain an access token",
            ),
            (Fault::Missing, Presented::OtherScheme, "Invalid JWT header", "Unsupported authorization type"),
            (Fault::Malformed, Presented::SchemeAlone, "Invalid JWT header", "Token missing"),
            (Fault::Malformed, Presented::Spaces, "Invalid JWT header", "Token contains spaces"),
            (Fault::Expired, Presented::OneToken, "Invalid token", "Signature has expired"),
            (Fault::Password, Presented::Nothing, "Bad Request", "Invalid credentials"),
        ] {
            let (status, body, headers) = told(bodies, bad(fault), seen);
            let expected = json!({ "status_code": 401, "error": error, "description": description });
            assert_eq!((status, body), (401, expected), "{fault:?}");
            assert_eq!(headers.get_all("www-authenticate").iter().count(), 1);
            assert_eq!(headers["www-authenticate"], r#"JWT realm="Login Required""#);
        }
    }

    #[test]
    fn other_problems_stay_and_have_the_members_too() {
        let problem = || Problem::new(StatusCode::CONFLICT, "user_exists", "User already exists!");
        let (status, body, headers) = told(ErrorBodies::FlaskJwtExtended, problem(), Presented::Nothing);
        assert_eq!(
            (status, &body["msg"], &body["code"]),
            (409, &json!("User already exists!"), &json!("user_exists"))
        );
        assert_eq!(headers["content-type"], "application/problem+json");
        let (_, body, _) = told(ErrorBodies::FlaskJwt, problem(), Presented::Nothing);
        assert_eq!((&body["status_code"], &body["error"]), (&json!(409), &json!("Conflict")));
        assert_eq!(
            (&body["description"], &body["message"]),
            (&body["detail"], &json!("User already exists!"))
        );
        let (status, body, _) = told(ErrorBodies::Problem, bad(CredentialFault::Shape), Presented::Nothing);
        assert_eq!((status, body.get("msg"), &body["code"]), (401, None, &json!("invalid_token")));
    }
}
