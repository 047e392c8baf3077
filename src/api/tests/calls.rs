//! Each endpoint's answers, row by row of the table of endpoints.

use std::time::Duration;

use super::{Call, Desk, JSON};
use crate::account::testing::PASSWORD;
use crate::api::{ENDPOINTS, Endpoint, authn_problem, missing_token};
use crate::authn::AuthnError;
use crate::authz::Access;
use crate::settings::Registration;
use crate::store::StoreError;
use crate::token::access::TokenError;

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn the_table_names_every_call_once() {
    let mut rows: Vec<_> = ENDPOINTS.iter().map(|row| format!("{} {}", row.method, row.path)).collect();
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), ENDPOINTS.len());
    assert_eq!(rows.len(), 15);
    for row in ENDPOINTS {
        let public =
            ["/register", "/signup", "/login", "", "/refresh", "/logout", "/jwks.json"].contains(&row.path);
        assert_eq!(matches!(row.access, Access::Public), public, "{}", row.path);
        assert!(row.path.is_empty() || row.path.starts_with('/'));
    }
}

#[tokio::test]
async fn registering_answers_as_the_contract_says() {
    let desk = Desk::new();
    let body = format!(r#"{{"username":"Alice","password":"{PASSWORD}","email":"A@B.de","name":"Al"}}"#);
    let made = desk.json(Endpoint::Register, &body).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body["username"], "alice");
    assert_eq!(made.body["email"], "A@b.de");
    assert_eq!(made.body["email_verified"], false);
    assert_eq!(made.body["name"], "Al");
    assert_eq!(made.body["roles"], serde_json::json!(["user"]));
    assert_eq!(made.body["message"], "User registered successfully!");
    assert_eq!(made.body.as_object().unwrap().len(), 7, "and nothing else");

    let again = desk.json(Endpoint::Register, &body).await;
    assert_eq!(again.told(), (409, "user_exists"));
    assert_eq!(again.body["message"], "User already exists!");
    for (username, email, told) in
        [("root2", "a@b.DE", (409, "email_taken")), ("admin", "x@b.de", (409, "user_exists"))]
    {
        let body = format!(r#"{{"username":"{username}","password":"{PASSWORD}","email":"{email}"}}"#);
        assert_eq!(desk.json(Endpoint::Register, &body).await.told(), told, "{username}");
    }
    let closed = Desk::with(|s| s.auth.registration = Registration::Closed);
    assert_eq!(closed.json(Endpoint::Register, &body).await.told(), (403, "registration_closed"));
}

#[tokio::test]
async fn nobody_registers_with_more_than_is_asked() {
    let desk = Desk::new();
    for extra in ["roles", "is_admin", "sub", "id", "email_verified", "generation", "confirm_password"] {
        let body = format!(r#"{{"username":"eve","password":"{PASSWORD}","{extra}":"admin"}}"#);
        let answer = desk.json(Endpoint::Register, &body).await;
        assert_eq!(answer.told(), (422, "invalid_input"), "{extra}");
        assert_eq!(answer.body["errors"][0]["field"], *extra);
        assert_eq!(answer.body["errors"][0]["code"], "unknown");
    }
    let form = Call { content_type: Some("application/x-www-form-urlencoded"), ..Call::default() };
    let body = "username=eve&password=correct+horse&confirm_password=correct+horse&roles=admin&email=";
    let answer = desk.call(Endpoint::Register, &form, body).await;
    assert_eq!(answer.status, 201, "a form's extra fields are ignored: {}", answer.text);
    assert_eq!(answer.body["roles"], serde_json::json!(["user"]));
    assert!(desk.world.try_login("eve", PASSWORD).await.is_ok(), "a plus is a space");
}

#[tokio::test]
async fn all_three_media_types_log_in() {
    let desk = Desk::new();
    desk.alice().await;
    let multipart = "--XX\r\nContent-Disposition: form-data; name=\"username\"\r\n\r\nalice\r\n--XX\r\nContent-Disposition: form-data; name=\"password\"\r\nContent-Type: text/plain\r\n\r\ncorrect horse\r\n--XX--\r\n";
    for (media_type, body) in [
        ("application/json", r#"{"username":"alice","password":"correct horse","remember":true}"#),
        ("Application/JSON; charset=utf-8", r#"{"username":"ALICE","password":"correct horse"}"#),
        ("application/x-www-form-urlencoded", "username=alice&password=correct%20horse"),
        ("multipart/form-data; boundary=XX", multipart),
    ] {
        let call = Call { content_type: Some(media_type), ..Call::default() };
        let answer = desk.call(Endpoint::Login, &call, body).await;
        assert_eq!(answer.status, 200, "{media_type}: {}", answer.text);
        assert_eq!(answer.body["token_type"], "Bearer");
        assert_eq!(answer.body["expires_in"], 900);
        assert_eq!(answer.body["refresh_expires_in"], 720 * 3600);
        assert!(answer.body["refresh_token"].as_str().unwrap().starts_with("gpr_"));
        assert_eq!(answer.body["access_token"].as_str().unwrap().split('.').count(), 3);
        assert_eq!(answer.body.as_object().unwrap().len(), 5);
    }
}

#[tokio::test]
async fn a_login_that_fails_says_the_same_to_everybody() {
    let desk = Desk::new();
    desk.alice().await;
    desk.world.register("off").await;
    desk.world.accounts.disable("off").await.unwrap();
    let mut first = None;
    for (name, password) in [
        ("alice", "wrong"),
        ("nobody", "wrong"),
        ("off", "wrong"),
        ("", ""),
        (r"a\u0000\u202eb", "x"),
        ("a@b.de", "x"),
    ] {
        let answer =
            desk.json(Endpoint::Login, &format!(r#"{{"username":"{name}","password":"{password}"}}"#)).await;
        assert_eq!(answer.told(), (401, "invalid_credentials"), "{name}");
        assert_eq!(answer.body["message"], "Invalid credentials!");
        assert_eq!(answer.headers["www-authenticate"], r#"Bearer realm="gatepost""#);
        let same = (answer.text, answer.headers);
        assert_eq!(*first.get_or_insert_with(|| same.clone()), same, "{name}");
    }
    let disabled = desk.json(Endpoint::Login, r#"{"username":"off","password":"correct horse"}"#).await;
    assert_eq!(disabled.told(), (403, "account_disabled"));
    for _ in 0..5 {
        desk.json(Endpoint::Login, r#"{"email":"z@b.de","password":"x"}"#).await;
    }
    assert_eq!(
        desk.json(Endpoint::Login, r#"{"email":"z@b.de","password":"x"}"#).await.told(),
        (429, "throttled")
    );
}

#[tokio::test]
async fn a_refresh_token_comes_as_a_member_or_as_bearer() {
    let desk = Desk::new();
    let (pair, _) = desk.alice().await;
    let refresh = |token: String| format!(r#"{{"refresh_token":"{token}"}}"#);
    let next = desk.json(Endpoint::Refresh, &refresh(pair.refresh.expose().clone())).await;
    assert_eq!(next.status, 200, "{}", next.text);
    let token = next.body["refresh_token"].as_str().unwrap();
    let bearer = Call { bearer: Some(token), ..Call::default() };
    let next = desk.call(Endpoint::Refresh, &bearer, "").await;
    assert_eq!(next.status, 200, "{}", next.text);
    let token = next.body["refresh_token"].as_str().unwrap();
    let both = Call { bearer: next.body["access_token"].as_str(), ..JSON };
    let form = Call { content_type: Some("application/x-www-form-urlencoded"), ..both.clone() };
    assert_eq!(desk.call(Endpoint::Refresh, &form, format!("refresh_token={token}")).await.status, 200);

    desk.world.clock.advance(MINUTE);
    assert_eq!(desk.call(Endpoint::Refresh, &bearer, "").await.told(), (401, "invalid_grant"), "spent");
    assert_eq!(desk.json(Endpoint::Refresh, &refresh(token.to_owned())).await.told(), (401, "invalid_grant"));
    assert_eq!(desk.call(Endpoint::Refresh, &both, "{}").await.told(), (401, "invalid_grant"));
    assert_eq!(desk.call(Endpoint::Refresh, &Call::default(), "").await.told(), (401, "invalid_grant"));
    for odd in ["", "null", "\0"] {
        assert_eq!(
            desk.json(
                Endpoint::Refresh,
                &refresh(odd.escape_default().to_string().replace("\\u{0}", "\\u0000"))
            )
            .await
            .told(),
            (401, "invalid_grant")
        );
    }
}

#[tokio::test]
async fn logging_out_takes_an_access_token_a_refresh_token_or_both() {
    let desk = Desk::new();
    desk.world.register("alice").await;
    for (by_access, by_refresh) in [(true, false), (false, true), (true, true)] {
        let (pair, _) = desk.login("alice").await;
        let call = Call {
            bearer: by_access.then_some(pair.access.expose().as_str()),
            content_type: by_refresh.then_some("application/json"),
            ..Call::default()
        };
        let body = if by_refresh {
            format!(r#"{{"refresh_token":"{}"}}"#, pair.refresh.expose())
        } else {
            String::new()
        };
        let answer = desk.call(Endpoint::Logout, &call, body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["message"], "Successfully logged out!");
        assert!(desk.world.accepted(&pair.access).is_none());
        let again = desk.call(Endpoint::Logout, &call, body).await;
        assert_eq!(again.told(), (401, if by_refresh { "invalid_grant" } else { "revoked_token" }));
    }
}

#[tokio::test]
async fn an_expired_access_token_does_not_keep_anybody_from_leaving() {
    let desk = Desk::new();
    let (pair, _) = desk.alice().await;
    desk.world.clock.advance(20 * MINUTE);
    let expired = Call { bearer: Some(pair.access.expose()), ..JSON };
    assert_eq!(desk.call(Endpoint::Logout, &expired, "").await.told(), (401, "expired_token"));
    let body = format!(r#"{{"refresh_token":"{}"}}"#, pair.refresh.expose());
    let forged = Call { bearer: Some("a.b.c"), ..JSON };
    assert_eq!(desk.call(Endpoint::Logout, &forged, body.clone()).await.told(), (401, "invalid_token"));
    assert_eq!(desk.call(Endpoint::Logout, &expired, body).await.status, 200);
    assert_eq!(desk.call(Endpoint::Logout, &Call::default(), "").await.told(), (401, "missing_token"));
    let (one, _) = desk.login("alice").await;
    let (two, _) = desk.login("alice").await;
    let body = format!(r#"{{"refresh_token":"{}"}}"#, one.refresh.expose());
    let mixed = Call { bearer: Some(two.access.expose()), ..JSON };
    assert_eq!(desk.call(Endpoint::Logout, &mixed, body).await.told(), (400, "ambiguous_credentials"));
}

#[tokio::test]
async fn the_account_is_shown_changed_and_removed() {
    let desk = Desk::new();
    let (_, token) = desk.alice().await;
    let call = Call { caller: Some(&token), ..JSON };
    let me = desk.call(Endpoint::ShowMe, &call, "").await;
    assert_eq!((me.status, me.body["username"].as_str()), (200, Some("alice")));
    assert_eq!(desk.call(Endpoint::UpdateMe, &call, r#"{"name":"Al"}"#).await.body["name"], "Al");
    assert!(desk.call(Endpoint::UpdateMe, &call, r#"{"name":null}"#).await.body["name"].is_null());
    for (body, told) in [
        (r#"{"email":"a@b.de"}"#, (422, "invalid_input")),
        (r#"{"name":""}"#, (422, "invalid_input")),
        (r#"{"name":"a\u0000"}"#, (422, "invalid_input")),
        (r#"{"roles":"admin"}"#, (422, "invalid_input")),
        (r#"{"email":"a@b.de","current_password":"wrong"}"#, (401, "invalid_credentials")),
    ] {
        assert_eq!(desk.call(Endpoint::UpdateMe, &call, body).await.told(), told, "{body}");
    }
    let hello = desk.call(Endpoint::Protected, &call, "").await;
    assert_eq!(
        (hello.body["message"].as_str(), hello.body["user"].as_str()),
        (Some("Hello, alice!"), Some("alice"))
    );
    for (body, told) in [
        ("", (400, "malformed_json")),
        ("{}", (422, "invalid_input")),
        (r#"{"password":"x"}"#, (401, "invalid_credentials")),
    ] {
        assert_eq!(desk.call(Endpoint::DeleteMe, &call, body).await.told(), told, "{body}");
    }
    let gone = desk.call(Endpoint::DeleteMe, &call, format!(r#"{{"password":"{PASSWORD}"}}"#)).await;
    assert_eq!((gone.status, gone.text.as_str()), (204, ""));
    assert_eq!(desk.call(Endpoint::ShowMe, &call, "").await.told(), (401, "revoked_token"));
}

#[tokio::test]
async fn a_new_password_brings_a_new_access_token() {
    let desk = Desk::new();
    let (_, token) = desk.alice().await;
    let call = Call { caller: Some(&token), ..JSON };
    let change =
        |current: &str, new: &str| format!(r#"{{"current_password":"{current}","new_password":"{new}"}}"#);
    let wrong = desk.call(Endpoint::Password, &call, change("wrong", "another horse")).await;
    assert_eq!(wrong.told(), (401, "invalid_credentials"));
    let short = desk.call(Endpoint::Password, &call, change(PASSWORD, "x")).await;
    assert_eq!(
        (short.told(), short.body["errors"][0]["field"].as_str()),
        ((422, "invalid_input"), Some("new_password"))
    );
    let done = desk.call(Endpoint::Password, &call, change(PASSWORD, "another horse")).await;
    assert_eq!((done.status, done.body["expires_in"].as_u64()), (200, Some(900)), "{}", done.text);
    let fresh = done.body["access_token"].as_str().unwrap().to_owned().into();
    assert!(desk.world.accepted(&fresh).is_some());
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let desk = Desk::new();
    let (_, token) = desk.alice().await;
    desk.world.clock.advance(MINUTE);
    let (_, other) = desk.login("alice").await;
    let call = Call { caller: Some(&token), ..Call::default() };
    let list = desk.call(Endpoint::ListSessions, &call, "").await;
    assert_eq!(list.body.as_array().unwrap().len(), 2);
    assert_eq!(list.body[0]["current"], true);
    assert_eq!(list.body[0]["created_at"], "2027-01-15T08:00:00Z");
    assert_eq!(list.body[1]["id"], other.principal.session.to_string());
    let sid = other.principal.session.to_string();
    for (session, told) in [
        (sid.as_str(), (204, "")),
        (sid.as_str(), (404, "not_found")),
        ("x", (404, "not_found")),
        ("\0", (404, "not_found")),
    ] {
        let call = Call { session: Some(session), ..call.clone() };
        assert_eq!(desk.call(Endpoint::EndSession, &call, "").await.told(), told, "{session}");
    }
    let all = desk.call(Endpoint::LogoutAll, &call, "").await;
    assert_eq!((all.status, all.body["sessions"].as_u64()), (200, Some(1)));
}

#[tokio::test]
async fn nobody_is_not_a_caller() {
    let desk = Desk::new();
    for row in ENDPOINTS.iter().filter(|row| !matches!(row.access, Access::Public)) {
        assert_eq!(desk.call(row.endpoint, &JSON, "{}").await.told(), (401, "missing_token"), "{}", row.path);
    }
}

#[tokio::test]
async fn public_keys_are_public_and_may_be_kept() {
    let desk = Desk::new();
    let keys = desk.call(Endpoint::Jwks, &Call::default(), "").await;
    assert_eq!(keys.body["keys"][0]["kty"], "OKP");
    assert!(keys.body["keys"][0].get("d").is_none());
    assert_eq!(keys.headers["cache-control"], "public, max-age=300");
}

#[tokio::test]
async fn faults_of_our_own_are_503_and_never_401() {
    for error in [StoreError::Full { free: 1, min_free: 2 }, StoreError::Unavailable("gone".to_owned())] {
        let desk = Desk::new();
        let (pair, token) = desk.alice().await;
        let refresh = format!(r#"{{"refresh_token":"{}"}}"#, pair.refresh.expose());
        let caller = Call { caller: Some(&token), ..JSON };
        desk.world.store.fail_from(0, error);
        for (endpoint, body) in [
            (Endpoint::Register, r#"{"username":"b","password":"correct horse"}"#),
            (Endpoint::Login, r#"{"username":"alice","password":"correct horse"}"#),
            (Endpoint::Refresh, &refresh),
            (Endpoint::Logout, &refresh),
            (Endpoint::LogoutAll, ""),
            (Endpoint::ShowMe, ""),
            (Endpoint::DeleteMe, r#"{"password":"correct horse"}"#),
            (Endpoint::ListSessions, ""),
        ] {
            let answer = desk.call(endpoint, &caller, body.to_owned()).await;
            assert_eq!(answer.told(), (503, "store_unavailable"), "{endpoint:?}");
        }
    }
}

#[test]
fn credentials_that_are_not_good_are_told_apart() {
    for (error, status, code) in [
        (AuthnError::Ambiguous, 400, "ambiguous_credentials"),
        (AuthnError::Malformed, 401, "invalid_token"),
        (AuthnError::Invalid(TokenError::Signature), 401, "invalid_token"),
        (AuthnError::Expired, 401, "expired_token"),
        (AuthnError::Revoked, 401, "revoked_token"),
    ] {
        let reply = authn_problem(&error).into_reply("req");
        let body: serde_json::Value = serde_json::from_slice(reply.body()).unwrap();
        assert_eq!((reply.status().as_u16(), body["code"].as_str()), (status, Some(code)));
        let challenge = reply.headers().get("www-authenticate").map(|v| v.to_str().unwrap());
        assert_eq!(challenge.is_some_and(|text| text.contains(r#"error="invalid_token""#)), status == 401);
    }
    let reply = missing_token().into_reply("req");
    assert_eq!(reply.headers()["www-authenticate"], r#"Bearer realm="gatepost""#);
}
