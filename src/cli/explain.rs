//! `explain METHOD URL`: what would happen to a request, step by step, and why.

use serde::Serialize;

use super::ask::Connection;
use super::judge::{Judge, Judgement, Question, Who, principal};
use super::output::{self, Table};
use super::token;
use super::{CliError, Format, Shell, Verdict};
use crate::config::Loaded;
use crate::control::command::{CallerView, UserView};
use crate::control::{Answer, Command};
use crate::identity::{Principal, PrincipalEmail, Role, SessionId};

/// The id of a caller who is known by roles only.
const SOMEBODY: &str = "somebody";
/// So many routes that were not taken are shown to people.
const OTHERS: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// The request's method
    method: String,
    /// A path, or a URL that names a host
    url: String,
    /// Ask with this access token; as - it is read from standard input
    #[arg(long, group = "who")]
    token: Option<String>,
    /// Ask as if this user logged in now: a username, an e-mail address or an id
    #[arg(long, group = "who")]
    user: Option<String>,
    /// Ask as somebody with this role (repeatable)
    #[arg(long = "role", value_name = "ROLE", group = "who")]
    roles: Vec<Role>,
    /// Ask without a credential (the default)
    #[arg(long, group = "who")]
    anonymous: bool,
    #[command(flatten)]
    format: Format,
}

impl Explain {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let question = Question::parse(&self.method, &self.url).map_err(CliError::Usage)?;
        let loaded = shell.load()?;
        let who = self.who(shell, &loaded)?;
        let judge = Judge::new(&loaded.settings)?;
        let judgement = judge.judge(&question, &who);
        let report = Report::new(&question, &judgement, &who);
        if self.format.json {
            output::json(shell.out, &report)?;
        } else {
            print(shell, &report)?;
        }
        Ok(Verdict::Good)
    }

    fn who(&self, shell: &mut Shell<'_>, loaded: &Loaded) -> Result<Who, CliError> {
        if let Some(token) = &self.token {
            let token = token::read(Some(token.clone()), shell.input)?;
            let answer = Connection::new(loaded).ask(Command::TokenInspect { token })?;
            let Answer::Token(report) = answer else { return Err(CliError::Mismatch) };
            return Ok(match report.caller {
                Some(caller) => Who::Caller { principal: of_token(caller), how: "a good token".to_owned() },
                None => Who::Bad { code: report.state, detail: report.detail.unwrap_or_default() },
            });
        }
        if let Some(user) = &self.user {
            let answer = Connection::new(loaded).ask(Command::UserShow { user: user.clone() })?;
            let Answer::User(user) = answer else { return Err(CliError::Mismatch) };
            if user.disabled {
                return Ok(Who::Anonymous {
                    note: Some(format!("{} is disabled and cannot log in", user.username)),
                });
            }
            let how = format!("as if {} logged in now", user.username);
            return Ok(Who::Caller { principal: of_user(*user, loaded), how });
        }
        if self.roles.is_empty() {
            return Ok(Who::Anonymous { note: None });
        }
        let known = &loaded.settings.roles;
        if let Some(unknown) = self.roles.iter().find(|role| !known.contains(role)) {
            return Err(CliError::Failed(format!("there is no role {unknown} in [roles]")));
        }
        let principal = principal(known.expand(&self.roles), SOMEBODY.parse().ok(), None);
        Ok(Who::Caller { principal, how: "as somebody with these roles".to_owned() })
    }
}

/// Whom the token speaks for; its own roles count.
fn of_token(caller: CallerView) -> Principal {
    let verified = caller.email_verified;
    Principal {
        id: caller.id,
        username: caller.username.into(),
        name: caller.name.map(Into::into),
        email: caller.email.map(|address| PrincipalEmail { address, verified }),
        roles: caller.roles.into_iter().collect(),
        session: caller.session,
        generation: 0,
    }
}

/// Whom the next token would speak for: the granted roles come from the store, what they imply from the
/// file.
fn of_user(user: UserView, loaded: &Loaded) -> Principal {
    let verified = user.email_verified;
    Principal {
        id: user.id,
        username: user.username.into(),
        name: user.name.map(Into::into),
        email: user.email.map(|address| PrincipalEmail { address, verified }),
        roles: loaded.settings.roles.expand(&user.roles),
        session: SessionId::random(),
        generation: 0,
    }
}

#[derive(Serialize)]
struct Report<'a> {
    method: &'a str,
    url: &'a str,
    host: Option<&'a str>,
    path: Option<&'a str>,
    route: Option<&'a super::judge::RouteRow>,
    others: &'a [super::judge::OtherRow],
    credential: Credential<'a>,
    verdict: &'static str,
    status: Option<u16>,
    code: Option<&'a str>,
    reason: Option<&'a str>,
    would_deny: Option<&'a super::judge::Refused>,
    upstream: Option<&'a super::judge::Forwarded>,
}

#[derive(Serialize)]
struct Credential<'a> {
    state: &'a str,
    looked_at: bool,
    detail: Option<&'a str>,
    user: Option<&'a str>,
    id: Option<&'a str>,
    roles: Option<Vec<&'a str>>,
}

impl<'a> Report<'a> {
    fn new(question: &'a Question, judgement: &'a Judgement, who: &'a Who) -> Self {
        let outcome = &judgement.outcome;
        let refusal = outcome.refusal();
        Self {
            method: question.method(),
            url: question.url(),
            host: judgement.host.as_deref(),
            path: judgement.path.as_deref(),
            route: judgement.route.as_ref(),
            others: &judgement.others,
            credential: Credential::new(who, judgement.looked_at_credential),
            verdict: outcome.word(),
            status: refusal.map(|refusal| refusal.status),
            code: refusal.map(|refusal| refusal.code.as_str()),
            reason: refusal.map(|refusal| refusal.reason.as_str()),
            would_deny: judgement.would_deny.as_ref(),
            upstream: outcome.forwarded(),
        }
    }
}

impl<'a> Credential<'a> {
    fn new(who: &'a Who, looked_at: bool) -> Self {
        let none = Self { state: "none", looked_at, detail: None, user: None, id: None, roles: None };
        match who {
            Who::Anonymous { note } => Self { detail: note.as_deref(), ..none },
            Who::Bad { code, detail } => Self { state: code, detail: Some(detail), ..none },
            Who::Caller { principal, how } => Self {
                state: "valid",
                detail: Some(how),
                user: Some(&principal.username),
                id: Some(principal.id.as_str()),
                roles: Some(principal.roles.iter().map(Role::as_str).collect()),
                ..none
            },
        }
    }
}

fn print(shell: &mut Shell<'_>, report: &Report<'_>) -> Result<(), CliError> {
    let mut table = Table::of_pairs();
    table.pair("request", format!("{} {}", report.method, report.url));
    if let (Some(host), Some(path)) = (report.host, report.path) {
        table.pair("matched as", format!("{host} {path}"));
    }
    match report.route {
        Some(route) => table.pair("route", route.to_string()),
        None => table.pair("route", "none"),
    }
    for other in report.others.iter().take(OTHERS) {
        table.pair("  not taken", other.to_string());
    }
    if report.others.len() > OTHERS {
        table.pair("  not taken", format!("and {} more", report.others.len() - OTHERS));
    }
    table.pair("credential", report.credential.text());
    let verdict = match (report.status, report.code) {
        (Some(status), Some(code)) => format!("{} with {status} {code}", report.verdict),
        _ => report.verdict.to_owned(),
    };
    table.pair("verdict", verdict);
    if let Some(reason) = report.reason {
        table.pair("because", reason);
    }
    if let Some(refused) = report.would_deny {
        let text = format!("{} {}: {}", refused.status, refused.code, refused.reason);
        table.pair("would deny", text + "; the route only reports it");
    }
    if let Some(upstream) = report.upstream {
        table.pair("upstream", format!("{} ({})", upstream.name, upstream.servers.join(", ")));
        table.pair("  asked for", format!("{} {}", report.method, upstream.target));
        for (name, value) in &upstream.headers {
            table.pair("  header", format!("{name}: {value}"));
        }
        if upstream.with_authorization {
            table.pair("  header", "authorization: as the client sent it");
        }
    }
    table.print(shell.out)?;
    Ok(())
}

impl Credential<'_> {
    fn text(&self) -> String {
        let mut text = self.state.to_owned();
        if let Some(user) = self.user {
            text.extend([": ", user]);
        }
        if let Some(roles) = &self.roles {
            let roles = if roles.is_empty() { "no roles".to_owned() } else { roles.join(", ") };
            text.extend([" [", &roles, "]"]);
        }
        if let Some(detail) = self.detail {
            text.extend([" (", detail, ")"]);
        }
        if !self.looked_at {
            text.push_str("; not looked at");
        }
        text
    }
}
