//! `[auth.migrate]`: whether the app's own login takes a name and a password.
//!
//! A status in `ok_status` says yes, and every other below 500 says no: the app's login was reached, and
//! did not do what it does for a good one. 408, 425, 429 and 5xx say nothing. A yes counts when the same
//! name with a password that nobody has gets a no: a page that greets everybody, an error page
//! with status 200 or a URL that is no login would otherwise let everybody in as anybody.
//!
//! Where the app's ids are to be kept, a yes says which one it is, or it is none.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::caller::{Call, Wants};
use super::calls::Calls;
use super::{given_id, template};
use crate::account::{Asked, Migration, NoAnswer, Vouch};
use crate::identity::UserId;
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
        let wants = match self.settings.id {
            Some(_) => Wants::BodyOf(self.settings.ok_status.clone()),
            None => Wants::Status,
        };
        let Some(body) = self.login(name, password, from, wants).await? else { return Ok(Vouch::No) };
        let nobodys = Secret::new(uuid::Uuid::new_v4().simple().to_string());
        if self.login(name, &nobodys, from, Wants::Status).await?.is_some() {
            return Err(refuse(
                "it says yes to a password that nobody has: auth.migrate.url is no login, or ok_status is \
                 what its refusals have, too",
            ));
        }
        self.id_in(&body).map(Vouch::Yes)
    }

    /// The app's id of who has logged in, where there has to be one.
    fn id_in(&self, body: &[u8]) -> Result<Option<UserId>, NoAnswer> {
        let Some(path) = &self.settings.id else { return Ok(None) };
        let found = given_id::find(body, path);
        found
            .map(Some)
            .map_err(|why| refuse(&format!("no id at auth.migrate.id ({}): {why}", path.join("."))))
    }

    /// The answer's body, as far as it is wanted, when it says yes.
    async fn login(
        &self,
        name: &str,
        password: &Secret<String>,
        from: IpAddr,
        wants: Wants,
    ) -> Result<Option<Bytes>, NoAnswer> {
        let filled = template::fill(&self.settings.body, name, password.expose());
        let (content_type, body) = filled.map_err(|error| refuse(&error.to_string()))?;
        let call = Call {
            url: self.settings.url.clone(),
            content_type,
            headers: on_behalf_of(from),
            body,
            timeout: self.settings.timeout,
            wants,
        };
        let answer = self.calls.call(call, from).await.map_err(|error| refuse(&error.to_string()))?;
        Ok(self.says_yes(answer.status)?.then_some(answer.body))
    }

    fn says_yes(&self, status: StatusCode) -> Result<bool, NoAnswer> {
        if self.settings.ok_status.contains(&status.as_u16()) {
            return Ok(true);
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
                Ok(false)
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
                .of(match &answer {
                    Ok(Vouch::Yes(_)) => AnswerOfApp::Yes,
                    Ok(Vouch::No) => AnswerOfApp::No,
                    Err(NoAnswer) => AnswerOfApp::None,
                })
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
