//! Bodies that are wrong: refused with a code, and nothing is stored.

use bytes::Bytes;

use super::{Call, Chunked, Desk, JSON, Silent};
use crate::api::Endpoint;

/// The calls that read a body.
const READERS: [Endpoint; 7] = [
    Endpoint::Register,
    Endpoint::Login,
    Endpoint::Refresh,
    Endpoint::Logout,
    Endpoint::UpdateMe,
    Endpoint::DeleteMe,
    Endpoint::Password,
];

const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=XX";

#[tokio::test]
async fn malformed_bodies_are_refused_everywhere_and_store_nothing() {
    let desk = Desk::new();
    let (_, token) = desk.alice().await;
    let before = desk.world.contents();
    let deep = format!(r#"{{"username":{}1{}}}"#, "[".repeat(3000), "]".repeat(3000));
    let file =
        "--XX\r\nContent-Disposition: form-data; name=\"username\"; filename=\"a\"\r\n\r\nx\r\n--XX--\r\n";
    let image = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Type: image/png\r\n\r\nx\r\n--XX--\r\n";
    let latin = b"--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\xff\r\n--XX--\r\n";
    let json = "application/json";
    let bodies: &[(Option<&str>, &[u8], u16)] = &[
        (Some(json), b"{", 400),
        (Some(json), b"[]", 400),
        (Some(json), b"null", 400),
        (Some(json), b"\"x\"", 400),
        (Some(json), b"42", 400),
        (Some(json), b"{}{}", 400),
        (Some(json), b"{'username':'a'}", 400),
        (Some(json), b"\xef\xbb\xbf{}", 400),
        (Some(json), b"{\"username\":\"\xff\"}", 400),
        (Some(json), br#"{"username":"a","username":"b"}"#, 400),
        (Some(json), br#"{"x":{"a":1,"a":2}}"#, 400),
        (Some(json), br#"{"username":"\ud800"}"#, 400),
        (Some(json), br#"{"username":1e999}"#, 400),
        (Some(json), deep.as_bytes(), 400),
        (Some(json), b"username=alice&password=x", 400),
        (Some(json), b"{\0}", 400),
        (Some(FORM), b"username=%ff&password=x", 400),
        (Some(FORM), b"username=\xff", 400),
        (Some(MULTIPART), b"no parts", 400),
        (Some(MULTIPART), b"--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx", 400),
        (Some(MULTIPART), latin, 400),
        (Some("multipart/form-data"), b"--XX--", 400),
        (Some(MULTIPART), file.as_bytes(), 415),
        (Some(MULTIPART), image.as_bytes(), 415),
        (Some("text/plain"), br#"{"username":"a"}"#, 415),
        (Some("application/jsonp"), b"{}", 415),
        (Some(""), b"{}", 415),
        (None, br#"{"username":"a"}"#, 415),
        (Some(FORM), b"username=a&username=b&refresh_token=x&refresh_token=y", 422),
    ];
    for endpoint in READERS {
        for (content_type, body, status) in bodies {
            let call = Call { content_type: *content_type, caller: Some(&token), ..Call::default() };
            let answer = desk.call(endpoint, &call, body.to_vec()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(answer.status, *status, "{endpoint:?} {content_type:?} {shown}: {}", answer.text);
            assert!(!answer.code().is_empty());
        }
    }
    assert_eq!(desk.world.contents(), before);
}

#[tokio::test]
async fn members_of_a_wrong_type_are_named() {
    let desk = Desk::new();
    let (_, token) = desk.alice().await;
    let before = desk.world.contents();
    let call = Call { caller: Some(&token), ..JSON };
    for (endpoint, member) in [
        (Endpoint::Register, "username"),
        (Endpoint::Register, "password"),
        (Endpoint::Register, "email"),
        (Endpoint::Login, "username"),
        (Endpoint::Login, "password"),
        (Endpoint::Refresh, "refresh_token"),
        (Endpoint::Logout, "refresh_token"),
        (Endpoint::UpdateMe, "name"),
        (Endpoint::DeleteMe, "password"),
        (Endpoint::Password, "new_password"),
    ] {
        for value in ["1", "true", "[]", "{}", r#"["a"]"#, r#"{"$ne":null}"#, "1.5"] {
            let answer = desk.call(endpoint, &call, format!(r#"{{"{member}":{value}}}"#)).await;
            assert_eq!(answer.told(), (422, "invalid_input"), "{endpoint:?} {member} {value}");
            let errors = answer.body["errors"].as_array().unwrap();
            assert!(
                errors.iter().any(|e| e["field"] == member && e["code"] == "wrong_type"),
                "{}",
                answer.text
            );
        }
    }
    assert_eq!(desk.world.contents(), before);
}

#[tokio::test]
async fn missing_empty_and_odd_members_are_named_and_not_repeated() {
    let desk = Desk::new();
    for (body, field, code) in [
        ("{}", "username", "missing"),
        (r#"{"username":"bob"}"#, "password", "missing"),
        (r#"{"username":"bob","password":null}"#, "password", "missing"),
        (r#"{"username":"","password":"correct horse"}"#, "username", "empty"),
        (r#"{"username":"bob","password":"correct horse","email":""}"#, "email", "empty"),
        (r#"{"username":"bo\u0000b","password":"correct horse"}"#, "username", "invalid"),
        (r#"{"username":"bo\u202eb","password":"correct horse"}"#, "username", "invalid"),
        (r#"{"username":"bob","password":"correct horse","name":"\u202egnp.exe"}"#, "name", "invalid"),
        (r#"{"username":"bob","password":"seven77"}"#, "password", "too_short"),
        (r#"{"username":"bob","password":"correct horse","email":"sesame@"}"#, "email", "invalid"),
    ] {
        let answer = desk.json(Endpoint::Register, body).await;
        assert_eq!(answer.told(), (422, "invalid_input"), "{body}");
        let errors = answer.body["errors"].as_array().unwrap();
        assert!(errors.iter().any(|e| e["field"] == field && e["code"] == code), "{body}: {}", answer.text);
        assert!(!answer.text.contains("seven77") && !answer.text.contains("sesame"));
    }
    for body in
        ["{}", r#"{"username":"a"}"#, r#"{"password":"a"}"#, r#"{"username":"a","email":"b","password":"c"}"#]
    {
        assert_eq!(desk.json(Endpoint::Login, body).await.told(), (422, "invalid_input"), "{body}");
    }
    assert!(desk.world.store_is_empty());
}

#[tokio::test]
async fn nul_is_a_character_of_a_password() {
    let desk = Desk::new();
    let body = |password: &str| format!(r#"{{"username":"bob","password":"{password}"}}"#);
    assert_eq!(desk.json(Endpoint::Register, &body(r"password\u0000a")).await.status, 201);
    assert_eq!(desk.json(Endpoint::Login, &body(r"password\u0000b")).await.status, 401);
    assert_eq!(desk.json(Endpoint::Login, &body("password")).await.status, 401);
    assert_eq!(desk.json(Endpoint::Login, &body(r"password\u0000a")).await.status, 200);
}

#[tokio::test]
async fn large_bodies_are_refused_whether_their_length_is_told_or_not() {
    let desk = Desk::new();
    let large = format!(r#"{{"username":"bob","password":"{}"}}"#, "x".repeat(10_000_000));
    for endpoint in [Endpoint::Register, Endpoint::Login, Endpoint::Refresh, Endpoint::Logout] {
        let told = desk.json(endpoint, &large).await;
        assert_eq!(told.told(), (413, "body_too_large"), "{endpoint:?}");
        let pieces = Chunked { left: (0..65).map(|_| Ok(Bytes::from(vec![b' '; 1 << 10]))).collect() };
        let answer = desk.call_with(endpoint, &JSON, pieces).await;
        assert_eq!(answer.told(), (413, "body_too_large"), "{endpoint:?} chunked");
    }
    let long = format!(r#"{{"username":"bob","password":"{}"}}"#, "x".repeat(60_000));
    let answer = desk.json(Endpoint::Register, &long).await;
    assert_eq!(answer.body["errors"][0]["code"], "too_long");
    assert_eq!(desk.json(Endpoint::Login, &long).await.told(), (401, "invalid_credentials"));
}

#[tokio::test]
async fn bodies_may_come_in_pieces_but_must_come() {
    let desk = Desk::new();
    desk.alice().await;
    let text = r#"{"username":"alice","password":"correct horse"}"#;
    let pieces = text.bytes().map(|b| Ok(Bytes::copy_from_slice(&[b]))).collect();
    assert_eq!(desk.call_with(Endpoint::Login, &JSON, Chunked { left: pieces }).await.status, 200);
    let broken =
        Chunked { left: vec![Ok(Bytes::from_static(b"{")), Err(std::io::ErrorKind::ConnectionReset)] };
    assert_eq!(desk.call_with(Endpoint::Login, &JSON, broken).await.told(), (400, "incomplete_body"));
}

#[tokio::test]
async fn a_body_that_never_comes_is_not_waited_for() {
    let mut desk = Desk::new();
    desk.api.body_timeout = std::time::Duration::ZERO;
    assert_eq!(desk.call_with(Endpoint::Login, &JSON, Silent).await.told(), (408, "request_timeout"));
}
