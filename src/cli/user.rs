//! `user …`: accounts, through a running gateway or the store itself.

use serde::Serialize;

use super::ask::Connection;
use super::export::Export;
use super::import::Import;
use super::output::{self, Table};
use super::password::PasswordSource;
use super::{CliError, Format, Shell, Verdict};
use crate::control::command::{SessionView, UserView};
use crate::control::{Answer, Command};
use crate::identity::{Email, Role, SessionId};

#[derive(Debug, clap::Subcommand)]
pub(super) enum User {
    /// Make an account; asks for its password
    Add(Add),
    /// List the accounts
    List(Format),
    /// Show an account
    Show(Whom),
    /// Change an account's roles, address or name
    Set(Set),
    /// Set a password; asks for it, and ends all sessions
    Passwd(Passwd),
    /// Refuse its logins and all its tokens, at once
    Disable(Whom),
    /// Allow its logins again
    Enable(Whom),
    /// Forget its failed logins
    Unlock(Whom),
    /// Remove an account; its name stays taken
    Remove(Whom),
    /// Bring in the accounts of another software, with their password hashes, or of another gateway
    Import(Import),
    /// Print all accounts with their password hashes, for `user import` at another gateway
    Export(Export),
    /// List where it is logged in
    Sessions(Whom),
    /// End all its sessions, or one
    Logout(Logout),
}

#[derive(Debug, clap::Args)]
pub(super) struct Whom {
    /// A username, an e-mail address or an id; id:ID or name:NAME where it could be both
    user: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The username; an e-mail address where people log in with that
    username: String,
    /// An e-mail address; counts as proved
    #[arg(long)]
    email: Option<String>,
    /// A name for people to read
    #[arg(long)]
    name: Option<String>,
    /// A role instead of the default ones (repeatable)
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<Role>,
    #[command(flatten)]
    password: PasswordSource,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// A username, an e-mail address or an id; id:ID or name:NAME where it could be both
    user: String,
    /// All roles that the account shall have (repeatable)
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<Role>,
    /// Take all roles away
    #[arg(long, conflicts_with = "roles")]
    no_roles: bool,
    /// Another username
    #[arg(long)]
    username: Option<String>,
    /// An e-mail address; counts as proved; empty: none
    #[arg(long)]
    email: Option<String>,
    /// A name for people to read; empty: none
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Passwd {
    /// A username, an e-mail address or an id; id:ID or name:NAME where it could be both
    user: String,
    #[command(flatten)]
    password: PasswordSource,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Logout {
    /// A username, an e-mail address or an id; id:ID or name:NAME where it could be both
    user: String,
    /// Only this one
    #[arg(long, value_name = "ID")]
    session: Option<SessionId>,
    #[command(flatten)]
    format: Format,
}

impl User {
    pub(super) fn run(self, shell: &mut Shell<'_>) -> Result<Verdict, CliError> {
        let loaded = shell.load()?;
        let mut gateway = Connection::new(&loaded);
        match self {
            Self::Add(add) => add.run(shell, &mut gateway)?,
            Self::List(format) => list(format, shell, &mut gateway)?,
            Self::Show(Whom { user, format }) => {
                show(shell, format, gateway.ask(Command::UserShow { user })?)?;
            }
            Self::Set(set) => set.run(shell, &mut gateway)?,
            Self::Passwd(Passwd { user, password, format }) => {
                let password = password.read(shell)?;
                ended(shell, format, &gateway.ask(Command::UserPasswd { user, password })?, "password set")?;
            }
            Self::Disable(Whom { user, format }) => {
                ended(shell, format, &gateway.ask(Command::UserDisable { user })?, "disabled")?;
            }
            Self::Enable(Whom { user, format }) => {
                ended(shell, format, &gateway.ask(Command::UserEnable { user })?, "enabled")?;
            }
            Self::Unlock(Whom { user, format }) => {
                ended(shell, format, &gateway.ask(Command::UserUnlock { user })?, "unlocked")?;
            }
            Self::Remove(Whom { user, format }) => {
                ended(shell, format, &gateway.ask(Command::UserRemove { user })?, "removed")?;
            }
            Self::Import(import) => return import.run(shell, &loaded.settings, &mut gateway),
            Self::Export(export) => export.run(shell, &mut gateway)?,
            Self::Sessions(Whom { user, format }) => {
                let Answer::Sessions(sessions) = gateway.ask(Command::UserSessions { user })? else {
                    return Err(CliError::Mismatch);
                };
                print_sessions(shell, format, sessions)?;
            }
            Self::Logout(Logout { user, session, format }) => {
                let answer = gateway.ask(Command::UserLogout { user, session })?;
                ended(shell, format, &answer, "logged out")?;
            }
        }
        Ok(Verdict::Good)
    }
}

impl Add {
    fn run(self, shell: &mut Shell<'_>, gateway: &mut Connection) -> Result<(), CliError> {
        let Self { username, email, name, roles, password, format } = self;
        // No username contains an @.
        let (username, email) = match email {
            None if username.contains('@') => (None, Some(username)),
            email => (Some(username), email),
        };
        let roles = Some(roles).filter(|roles| !roles.is_empty());
        let password = password.read(shell)?;
        let answer = gateway.ask(Command::UserAdd { username, email, name, roles, password })?;
        show(shell, format, answer)
    }
}

impl Set {
    fn run(self, shell: &mut Shell<'_>, gateway: &mut Connection) -> Result<(), CliError> {
        let Self { user, roles, no_roles, username, email, name, format } = self;
        let roles = Some(roles).filter(|roles| no_roles || !roles.is_empty());
        if roles.is_none() && username.is_none() && email.is_none() && name.is_none() {
            let why = "nothing to set: give --role, --no-roles, --username, --email or --name";
            return Err(CliError::Usage(why.to_owned()));
        }
        show(shell, format, gateway.ask(Command::UserSet { user, username, email, name, roles })?)
    }
}

fn list(format: Format, shell: &mut Shell<'_>, gateway: &mut Connection) -> Result<(), CliError> {
    let mut all: Vec<UserView> = Vec::new();
    loop {
        let after = all.last().map(|user| user.id.clone());
        let Answer::Users { mut users, more } = gateway.ask(Command::UserList { after })? else {
            return Err(CliError::Mismatch);
        };
        let end = users.is_empty() || !more;
        all.append(&mut users);
        if end {
            break;
        }
    }
    all.sort_by(|a, b| a.username.cmp(&b.username));
    if format.json {
        return output::json(shell.out, &all);
    }
    let mut table = Table::new(&["USERNAME", "EMAIL", "ROLES", "STATE", "CREATED", "ID"]);
    for user in &all {
        let email = user.email.as_ref().map_or("-", Email::as_str);
        let roles = names(&user.roles);
        table.row([&user.username, email, &roles, state(user), &user.created_at, user.id.as_str()]);
    }
    table.print(shell.out)?;
    Ok(())
}

fn show(shell: &mut Shell<'_>, format: Format, answer: Answer) -> Result<(), CliError> {
    let Answer::User(user) = answer else { return Err(CliError::Mismatch) };
    if format.json {
        return output::json(shell.out, &user);
    }
    let mut table = Table::of_pairs();
    table.pair("username", &user.username);
    table.pair("id", user.id.as_str());
    if let Some(name) = &user.name {
        table.pair("name", name);
    }
    if let Some(email) = &user.email {
        let proved = if user.email_verified { "" } else { " (not proved)" };
        table.pair("email", format!("{email}{proved}"));
    }
    table.pair("roles", names(&user.roles));
    if user.effective_roles != user.roles {
        table.pair("effective", names(&user.effective_roles));
    }
    table.pair("state", state(&user));
    table.pair("created", &user.created_at);
    table.pair("updated", &user.updated_at);
    table.print(shell.out)?;
    Ok(())
}

fn print_sessions(shell: &mut Shell<'_>, format: Format, sessions: Vec<SessionView>) -> Result<(), CliError> {
    if format.json {
        return output::json(shell.out, &sessions);
    }
    let mut table = Table::new(&["SESSION", "CREATED", "LAST USED", "ADDRESS", "CLIENT"]);
    for session in sessions {
        let id = session.id.to_string();
        table.row([id, session.created_at, session.last_used_at, session.address, session.client]);
    }
    table.print(shell.out)?;
    Ok(())
}

/// Something was done, and sessions may have ended with it.
pub(super) fn ended(
    shell: &mut Shell<'_>,
    format: Format,
    answer: &Answer,
    what: &'static str,
) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Done {
        done: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        sessions_ended: Option<usize>,
    }
    let sessions_ended = match answer {
        Answer::Done | Answer::User(_) => None,
        Answer::Ended { sessions } => Some(*sessions),
        _ => return Err(CliError::Mismatch),
    };
    if format.json {
        return output::json(shell.out, &Done { done: what, sessions_ended });
    }
    match sessions_ended {
        None => writeln!(shell.out, "{what}")?,
        Some(1) => writeln!(shell.out, "{what}; 1 session ended")?,
        Some(n) => writeln!(shell.out, "{what}; {n} sessions ended")?,
    }
    Ok(())
}

fn state(user: &UserView) -> &'static str {
    if user.disabled { "disabled" } else { "active" }
}

pub(super) fn names(roles: &[Role]) -> String {
    if roles.is_empty() {
        return "-".to_owned();
    }
    roles.iter().map(Role::as_str).collect::<Vec<_>>().join(", ")
}
