//! `[auth] admission_url`: whether the app admits a registration.
//!
//! Yes is 204, or 200 with the JSON member `"admit": true`; no is 403, or 200 with `"admit": false`, and
//! may bring a `message`; 409 says that the name belongs to somebody. Nothing else is an answer: a page
//! that greets everybody must not open the door.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::caller::{Answer, Call, Wants};
use super::calls::Calls;
use super::migrate::on_behalf_of;
use super::signature;
use crate::account::{Admission, Admitted, Applicant, Asked, NoAnswer};
use crate::clock::Clock;
use crate::metrics::{AnswerOfApp, Metrics};
use crate::secret::Secret;
use crate::settings::AdmissionSettings;

/// The longest reason that is passed on, in characters.
const MESSAGE: usize = 200;

#[derive(Serialize)]
struct Question<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    username: Option<&'a str>,
    email: Option<&'a str>,
    name: Option<&'a str>,
}

#[derive(Default, Deserialize)]
struct Body {
    admit: Option<bool>,
    message: Option<String>,
}

/// Asks the app.
pub struct AskApp {
    settings: AdmissionSettings,
    secret: Option<Secret<Vec<u8>>>,
    calls: Arc<Calls>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for AskApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AskApp").field("url", &self.settings.url).finish_non_exhaustive()
    }
}

impl AskApp {
    /// By these settings; signed where there is a secret to sign with.
    pub fn new(
        settings: AdmissionSettings,
        secret: Option<Secret<Vec<u8>>>,
        calls: Arc<Calls>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { settings, secret, calls, metrics, clock }
    }

    async fn ask(&self, applicant: Applicant<'_>) -> Result<Admitted, NoAnswer> {
        let Applicant { username, email, name, from } = applicant;
        let question = Question { kind: "user.admission", username, email, name };
        let body = serde_json::to_vec(&question).map_err(|error| refuse(&error.to_string()))?;
        let mut headers = on_behalf_of(from);
        if let Some(secret) = &self.secret {
            let id = format!("adm_{}", uuid::Uuid::new_v4().simple());
            headers.extend(signature::headers(secret, &id, self.clock.now(), &body));
        }
        let call = Call {
            url: self.settings.url.clone(),
            content_type: "application/json",
            headers,
            body: Zeroizing::new(body),
            timeout: self.settings.timeout,
            wants: Wants::Body,
        };
        judge(self.calls.call(call, from).await.map_err(|error| refuse(&error.to_string()))?)
    }
}

impl Admission for AskApp {
    fn admit<'a>(&'a self, applicant: Applicant<'a>) -> Asked<'a, Admitted> {
        Box::pin(async move {
            let answer = self.ask(applicant).await;
            let counted = match &answer {
                Ok(Admitted::Yes) => AnswerOfApp::Yes,
                Ok(Admitted::Taken | Admitted::No(_)) => AnswerOfApp::No,
                Err(NoAnswer) => AnswerOfApp::None,
            };
            self.metrics.admissions.of(counted).add_one();
            answer
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an answer is judged once")]
fn judge(answer: Answer) -> Result<Admitted, NoAnswer> {
    let body: Option<Body> = serde_json::from_slice(&answer.body).ok();
    let admit = body.as_ref().and_then(|body| body.admit);
    match (answer.status, admit) {
        (StatusCode::NO_CONTENT, _) | (StatusCode::OK, Some(true)) => Ok(Admitted::Yes),
        (StatusCode::OK, Some(false)) | (StatusCode::FORBIDDEN, None | Some(false)) => {
            Ok(Admitted::No(body.and_then(|body| body.message).filter(|text| is_plain(text))))
        }
        (StatusCode::CONFLICT, _) => Ok(Admitted::Taken),
        (status, _) => Err(refuse(&format!("{status} with what it said is neither yes nor no"))),
    }
}

/// One line that is fit to be shown.
fn is_plain(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= MESSAGE && !text.contains(char::is_control)
}

fn refuse(why: &str) -> NoAnswer {
    tracing::error!(why, "the app (auth.admission_url) gave no clear answer");
    NoAnswer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &'static str) -> Result<Admitted, NoAnswer> {
        let status = StatusCode::from_u16(status).unwrap();
        judge(Answer { status, body: bytes::Bytes::from_static(body.as_bytes()) })
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        assert_eq!(judged(204, ""), Ok(Admitted::Yes));
        assert_eq!(judged(200, r#"{"admit": true, "more": 1}"#), Ok(Admitted::Yes));
        for (status, body) in [
            (200, ""),
            (200, "<html>welcome</html>"),
            (200, "{}"),
            (200, r#"{"admit": "true"}"#),
            (200, r#"{"admit": 1}"#),
            (200, "true"),
            (201, r#"{"admit": true}"#),
            (302, ""),
            (400, ""),
            (401, ""),
            (403, r#"{"admit": true}"#),
            (404, ""),
            (429, ""),
            (500, r#"{"admit": true}"#),
        ] {
            assert_eq!(judged(status, body), Err(NoAnswer), "{status} {body}");
        }
    }

    #[test]
    fn a_no_may_bring_a_line_for_people() {
        assert_eq!(judged(403, ""), Ok(Admitted::No(None)));
        assert_eq!(judged(403, "no"), Ok(Admitted::No(None)));
        assert_eq!(judged(200, r#"{"admit": false}"#), Ok(Admitted::No(None)));
        let said = judged(403, r#"{"message": "Invited guests only."}"#);
        assert_eq!(said, Ok(Admitted::No(Some("Invited guests only.".to_owned()))));
        assert_eq!(judged(403, r#"{"message": "two\nlines"}"#), Ok(Admitted::No(None)));
        assert_eq!(judged(409, ""), Ok(Admitted::Taken));
    }
}
