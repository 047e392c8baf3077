//! `[auth.migrate]`: whether the app's own login takes a name and a password.
//!
//! A status in `ok_status` says yes, and every other below 500 says no: the app's login was reached, and
//! did not do what it does for a good one. 408, 425, 429 and 5xx say nothing. A yes counts when the same
//! name with a password that nobody has gets a no: a page that greets everybody, an error page
//! with status 200 or a URL that is no login would otherwise let everybody in as anybody.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::caller::Call;
use super::calls::Calls;
use super::template;
use crate::account::{Asked, Migration, NoAnswer, Vouch};
use crate::metrics::{AnswerOfApp, Metrics};
use crate::secret::Secret;
use crate::settings::MigrateSettings;

/// Asks the app's login.
pub struct AskApp {
    settings: MigrateSettings,
    calls: Arc<Calls>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for AskApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AskApp").field("url", &self.settings.url).finish_non_exhaustive()
    }
}

impl AskApp {
    /// By these settings.
    pub fn new(settings: MigrateSettings, calls: Arc<Calls>, metrics: Arc<Metrics>) -> Self {
        Self { settings, calls, metrics }
    }

    async fn ask(&self, name: &str, password: &Secret<String>, from: IpAddr) -> Result<Vouch, NoAnswer> {
        if self.login(name, password, from).await? == Vouch::No {
            return Ok(Vouch::No);
        }
        let nobodys = Secret::new(uuid::Uuid::new_v4().simple().to_string());
        match self.login(name, &nobodys, from).await? {
            Vouch::No => Ok(Vouch::Yes),
            Vouch::Yes => Err(refuse(
                "it says yes to a password that nobody has: auth.migrate.url is no login, or ok_status is \
                 what its refusals have, too",
            )),
        }
    }

    async fn login(&self, name: &str, password: &Secret<String>, from: IpAddr) -> Result<Vouch, NoAnswer> {
        let (content_type, body) = template::fill(&self.settings.body, name, password.expose());
        let call = Call {
            url: self.settings.url.clone(),
            content_type,
            headers: on_behalf_of(from),
            body,
            timeout: self.settings.timeout,
            wants_body: false,
        };
        let answer = self.calls.call(call).await.map_err(|error| refuse(&error.to_string()))?;
        self.judge(answer.status)
    }

    fn judge(&self, status: StatusCode) -> Result<Vouch, NoAnswer> {
        if self.settings.ok_status.contains(&status.as_u16()) {
            return Ok(Vouch::Yes);
        }
        match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(refuse(&format!("it answered {status}")))
            }
            _ if status.is_server_error() || status.is_informational() => {
                Err(refuse(&format!("it answered {status}")))
            }
            _ => {
                // Most often a URL that is not quite the login's.
                if status.is_redirection() || status == StatusCode::NOT_FOUND {
                    let (status, url) = (status.as_u16(), &self.settings.url);
                    tracing::warn!(status, %url, "the app's login answered what is not in auth.migrate.ok_status: that is a no");
                }
                Ok(Vouch::No)
            }
        }
    }
}

impl Migration for AskApp {
    fn vouch<'a>(&'a self, name: &'a str, password: &'a Secret<String>, from: IpAddr) -> Asked<'a, Vouch> {
        Box::pin(async move {
            let answer = self.ask(name, password, from).await;
            self.metrics
                .migrations
                .of(answer.map_or(AnswerOfApp::None, |vouch| match vouch {
                    Vouch::Yes => AnswerOfApp::Yes,
                    Vouch::No => AnswerOfApp::No,
                }))
                .add_one();
            answer
        })
    }
}

fn refuse(why: &str) -> NoAnswer {
    tracing::error!(why, "the app's login (auth.migrate) gave no clear answer");
    NoAnswer
}

/// For whom the call is, so that the app can count logins by address.
pub(super) fn on_behalf_of(from: IpAddr) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&from.to_canonical().to_string()) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), value);
    }
    headers
}
