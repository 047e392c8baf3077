//! `user import`: a file of accounts, line by line, in batches that the gateway commits one by one.
//!
//! What was done before an interruption is found again by the next run of the same command.

mod lines;
mod record;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use self::lines::{Lines, Record};
use self::record::{Delimiter, Mapping, Reader};
use super::ask::Connection;
use super::output::printable;
use super::{CliError, Shell, Verdict};
use crate::account::{Foreign, ForeignError, Names};
use crate::control::command::{ImportFate, UserRecord};
use crate::control::{Answer, Command, REQUEST_BYTES};
use crate::identity::Email;
use crate::settings::Settings;

/// What a file may say of an account.
pub(super) const FIELDS: [&str; 12] = [
    "id",
    "username",
    "email",
    "email_verified",
    "name",
    "roles",
    "password_hash",
    "disabled",
    "created_at",
    "generation",
    "origin",
    "password",
];

/// Bytes of accounts in one request; the rest of it is its frame.
const BATCH_BYTES: usize = REQUEST_BYTES - 1024;
/// Accounts in one request that take an argon2id hash each: they must not outlast the gateway's patience.
const BATCH_HASHES: usize = 32;
/// Milliseconds of a processor from which on a failed login is worth a word.
const DEAR_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    Jsonl,
    Csv,
    Htpasswd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    /// Go on with the next line
    Skip,
    /// Leave what follows alone
    Stop,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file; - for standard input
    file: PathBuf,
    /// JSON objects, one a line; a table with a heading (RFC 4180); or a password file of htpasswd
    #[arg(long, value_enum)]
    format: Form,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// What to do about a line that is refused
    #[arg(long, value_enum, default_value_t = OnError::Skip)]
    on_error: OnError,
    #[arg(help = "Where fields stand that are called otherwise: username=login,disabled=!is_active")]
    #[arg(long, value_name = "FIELD=COLUMN", value_delimiter = ',')]
    map: Vec<Mapping>,
    /// What separates the columns of CSV: , ; | or \t
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<Delimiter>,
    /// Print one JSON object for every line of the file, and one for all at the end
    #[arg(long)]
    json: bool,
}

#[derive(Default, Debug, Serialize)]
struct Summary {
    created: u64,
    unchanged: u64,
    refused: u64,
    /// Of those that were created: nobody can log in to them yet.
    without_password: u64,
    /// Of those that were created.
    disabled: u64,
    /// Of those that were created: how many the file gives a role.
    roles: BTreeMap<String, u64>,
    /// What a failed login costs while these hashes are there, in milliseconds of a processor, about.
    failed_login_ms: u64,
    dry_run: bool,
    /// Columns or members that nobody asked for.
    unused: Vec<String>,
}

impl Import {
    pub(super) fn run(
        self,
        shell: &mut Shell<'_>,
        settings: &Settings,
        gateway: &mut Connection,
    ) -> Result<Verdict, CliError> {
        let mut reader = Reader::new(self.format, self.map.clone(), self.delimiter)?;
        if self.dry_run {
            gateway.only_look();
        }
        let mut desk = Intake::new(&self, settings, gateway);
        let opened = (self.file.as_os_str() != "-").then(|| File::open(&self.file)).transpose();
        let named = |error| CliError::Failed(format!("{}: {error}", self.file.display()));
        let opened = opened.map_err(named)?;
        let size = opened.as_ref().and_then(|file| file.metadata().ok()).map(|about| about.len());
        let bar = progress(size.filter(|size| *size > 0));
        let Shell { input, out, .. } = shell;
        let input: &mut dyn BufRead = match opened {
            Some(file) => &mut BufReader::with_capacity(64 * 1024, file),
            None => *input,
        };
        let mut lines = Lines::new(input, self.format == Form::Csv);
        let ended = desk.take_all(&mut lines, &mut reader, &bar, *out);
        bar.finish_and_clear();
        let dearest = std::mem::take(&mut desk.dearest);
        let mut summary = desk.summary;
        summary.failed_login_ms = in_all(&dearest);
        summary.unused = reader.unused().iter().cloned().collect();
        // Also after a fault: what was done is done.
        summary.print(self.json, &dearest, *out)?;
        out.flush()?;
        match ended {
            Err(CliError::Io(error)) => Err(named(error)),
            Err(CliError::Usage(why)) => Err(CliError::Usage(why)),
            Err(error) if summary.created > 0 && !self.dry_run => {
                let why = format!(
                    "{error}; it is safe to run the same command again: it goes on where this one stopped"
                );
                Err(CliError::Failed(why))
            }
            Err(error) => Err(error),
            Ok(()) if summary.is_empty() => {
                Err(CliError::Failed(format!("{}: nothing to import", self.file.display())))
            }
            Ok(()) => match reader.unseen() {
                Some(column) => Err(CliError::Failed(format!("--map: no line has {column:?}"))),
                None if summary.refused > 0 => Ok(Verdict::Bad),
                None => Ok(Verdict::Good),
            },
        }
    }
}

/// A line that waits for the others of its batch.
struct Waiting {
    line: u64,
    who: String,
    /// Under which its line is known, if it was not refused.
    keys: Vec<(&'static str, String)>,
    password: Password,
    judged: Result<UserRecord, ImportFate>,
}

/// What a line says of the password.
#[derive(Clone, Copy, Debug, Default)]
struct Password {
    /// It has none.
    is_missing: bool,
    /// Storing it takes an argon2id hash.
    takes_a_hash: bool,
    /// What it costs to check.
    price: Option<(&'static str, Duration)>,
}

/// The lines that wait for their batch, and what is known of those before.
struct Intake<'a> {
    import: &'a Import,
    settings: &'a Settings,
    gateway: &'a mut Connection,
    names: Names,
    /// Ids, names and addresses of this file, and their lines; not those of refused lines.
    seen: HashMap<(&'static str, String), u64>,
    waiting: Vec<Waiting>,
    bytes: usize,
    hashes: usize,
    stopped: bool,
    /// The dearest hash of each kind, and its line.
    dearest: BTreeMap<&'static str, (Duration, u64)>,
    summary: Summary,
}

impl<'a> Intake<'a> {
    fn new(import: &'a Import, settings: &'a Settings, gateway: &'a mut Connection) -> Self {
        Self {
            import,
            settings,
            gateway,
            names: Names::new(&settings.auth),
            seen: HashMap::new(),
            waiting: Vec::new(),
            bytes: 0,
            hashes: 0,
            stopped: false,
            dearest: BTreeMap::new(),
            summary: Summary { dry_run: import.dry_run, ..Summary::default() },
        }
    }

    fn take_all(
        &mut self,
        lines: &mut Lines<&mut dyn BufRead>,
        reader: &mut Reader,
        bar: &ProgressBar,
        out: &mut dyn std::io::Write,
    ) -> Result<(), CliError> {
        while let Some(Record { line, last, text }) = lines.next()? {
            let Some(read) = reader.read(text)? else { continue };
            let kept_together =
                |why| format!("{why} (of lines {line} to {last}, which a quotation mark keeps together)");
            let read = if last == line { read } else { read.map_err(kept_together) };
            let refused = self.take(line, read, bar, out)?;
            bar.set_position(lines.bytes);
            if refused && self.import.on_error == OnError::Stop {
                break;
            }
            if self.stopped {
                return Ok(());
            }
        }
        self.send(bar, out)
    }

    /// Puts a line into the batch; says whether it was refused already.
    fn take(
        &mut self,
        line: u64,
        read: Result<UserRecord, String>,
        bar: &ProgressBar,
        out: &mut dyn std::io::Write,
    ) -> Result<bool, CliError> {
        let who = read.as_ref().map(shown).unwrap_or_default();
        let mut size = 0;
        let mut hashes = 0;
        let mut keys = Vec::new();
        let mut password = Password::default();
        let judged = match read {
            Err(why) => Err(refusal("broken_line", why)),
            Ok(record) => {
                size = serde_json::to_vec(&record)?.len() + 1;
                password = self.password(&record);
                hashes = usize::from(password.takes_a_hash);
                keys = self.keys(&record);
                self.judge(record, size, &keys, bar, out)?
            }
        };
        if self.bytes + size > BATCH_BYTES || self.hashes + hashes > BATCH_HASHES {
            self.send(bar, out)?;
        }
        self.bytes += size;
        self.hashes += hashes;
        let refused = judged.is_err();
        if !self.stopped {
            if !refused {
                self.seen.extend(keys.iter().map(|key| (key.clone(), line)));
            }
            self.waiting.push(Waiting { line, who, keys, password, judged });
        }
        // A file of nothing but broken lines should not wait for its end.
        if self.waiting.len() >= 1000 {
            self.send(bar, out)?;
        }
        Ok(refused)
    }

    fn judge(
        &mut self,
        record: UserRecord,
        size: usize,
        keys: &[(&'static str, String)],
        bar: &ProgressBar,
        out: &mut dyn std::io::Write,
    ) -> Result<Result<UserRecord, ImportFate>, CliError> {
        if size > BATCH_BYTES / 2 {
            return Ok(Err(refusal("broken_line", "longer than 16 KiB".to_owned())));
        }
        let waits = |before: u64| self.waiting.first().is_some_and(|first| first.line <= before);
        if self.namesake(keys).is_some_and(|(before, _)| waits(before)) {
            // Should that line be refused, this one may have its name.
            self.send(bar, out)?;
        }
        Ok(match self.namesake(keys) {
            Some((before, what)) => Err(refusal("duplicate", format!("line {before} has the same {what}"))),
            None => Ok(record),
        })
    }

    /// An earlier line that has one of these, and which.
    fn namesake(&self, keys: &[(&'static str, String)]) -> Option<(u64, &'static str)> {
        keys.iter().find_map(|key| Some((*self.seen.get(key)?, key.0)))
    }

    fn keys(&self, record: &UserRecord) -> Vec<(&'static str, String)> {
        let name = record.username.as_ref().and_then(|typed| self.names.username(typed).ok());
        let address = |typed: &String| typed.parse::<Email>().ok();
        let email = record.email.as_ref().or(record.username.as_ref()).and_then(address);
        let keys = [
            ("id", record.id.clone()),
            ("username", name.map(|name| name.to_string())),
            ("e-mail address", email.map(|email| email.key())),
        ];
        keys.into_iter().filter_map(|(what, key)| Some((what, key?))).collect()
    }

    fn password(&self, record: &UserRecord) -> Password {
        let takes_a_hash = record.password.is_some();
        let Some(hash) = &record.password_hash else {
            return Password { takes_a_hash, ..Password::default() };
        };
        match Foreign::parse(hash.expose(), &self.settings.auth.password) {
            Ok(hash) => Password { is_missing: false, takes_a_hash: hash.is_fast(), price: hash.price() },
            Err(error) => Password { is_missing: error == ForeignError::NoPassword, ..Password::default() },
        }
    }

    fn learn(&mut self, password: Password, line: u64) {
        let Some((kind, price)) = password.price else { return };
        let dearest = self.dearest.entry(kind).or_insert((price, line));
        if dearest.0 < price {
            *dearest = (price, line);
        }
    }

    /// Sends the batch, and prints what has become of it.
    fn send(&mut self, bar: &ProgressBar, out: &mut dyn std::io::Write) -> Result<(), CliError> {
        let waiting = std::mem::take(&mut self.waiting);
        (self.bytes, self.hashes) = (0, 0);
        let stop = self.import.on_error == OnError::Stop;
        let users: Vec<_> =
            waiting.iter().filter_map(|waiting| waiting.judged.as_ref().ok().cloned()).collect();
        let mut fates = Vec::new().into_iter();
        if !users.is_empty() {
            let command = Command::UserImport { users, dry_run: self.import.dry_run, stop };
            let Answer::Imported(answered) = self.gateway.ask(command)? else {
                return Err(CliError::Mismatch);
            };
            fates = answered.into_iter();
        }
        for Waiting { line, who, keys, password, judged } in waiting {
            let is_known = judged.is_ok();
            let (roles, disabled) = match &judged {
                Ok(record) => (record.roles.clone().unwrap_or_default(), record.disabled),
                Err(_) => (Vec::new(), false),
            };
            let fate = match judged {
                Err(refused) => refused,
                // Fewer than were asked for: it has stopped before.
                Ok(_) => match fates.next() {
                    Some(fate) => fate,
                    None => break,
                },
            };
            if is_known && matches!(fate, ImportFate::Refused { .. }) {
                for key in &keys {
                    self.seen.remove(key);
                }
            }
            self.stopped |= stop && matches!(fate, ImportFate::Refused { .. });
            self.summary.count(&fate);
            if !matches!(fate, ImportFate::Refused { .. }) {
                self.learn(password, line);
            }
            if matches!(fate, ImportFate::Created { .. }) {
                self.summary.without_password += u64::from(password.is_missing);
                self.summary.disabled += u64::from(disabled);
                for role in roles {
                    *self.summary.roles.entry(role).or_default() += 1;
                }
            }
            bar.suspend(|| print_line(line, &who, &fate, self.import.json, out))?;
            if self.stopped {
                break;
            }
        }
        Ok(())
    }
}

fn refusal(code: &str, message: String) -> ImportFate {
    ImportFate::Refused { code: code.to_owned(), message }
}

/// What the line calls itself.
fn shown(record: &UserRecord) -> String {
    record.username.as_ref().or(record.email.as_ref()).or(record.id.as_ref()).cloned().unwrap_or_default()
}

fn print_line(
    line: u64,
    who: &str,
    fate: &ImportFate,
    json: bool,
    out: &mut dyn std::io::Write,
) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Reported<'a> {
        line: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        user: &'a str,
        #[serde(flatten)]
        fate: &'a ImportFate,
    }
    if json {
        writeln!(out, "{}", serde_json::to_string(&Reported { line, user: who, fate })?)?;
        return Ok(());
    }
    let ImportFate::Refused { message, .. } = fate else { return Ok(()) };
    let who = if who.is_empty() { String::new() } else { format!("{}: ", printable(who)) };
    writeln!(out, "line {line}: {who}{}", printable(message))?;
    Ok(())
}

impl Summary {
    /// Whether there was no line at all.
    const fn is_empty(&self) -> bool {
        self.created + self.unchanged + self.refused == 0
    }

    fn count(&mut self, fate: &ImportFate) {
        match fate {
            ImportFate::Created { .. } => self.created += 1,
            ImportFate::Unchanged { .. } => self.unchanged += 1,
            ImportFate::Refused { .. } => self.refused += 1,
        }
    }

    fn print(
        &self,
        json: bool,
        dearest: &BTreeMap<&'static str, (Duration, u64)>,
        out: &mut dyn std::io::Write,
    ) -> Result<(), CliError> {
        if json {
            #[derive(Serialize)]
            struct Last<'a> {
                summary: &'a Summary,
            }
            writeln!(out, "{}", serde_json::to_string(&Last { summary: self })?)?;
            return Ok(());
        }
        if !self.unused.is_empty() {
            let names: Vec<_> = self.unused.iter().map(|name| printable(name)).collect();
            writeln!(out, "not used: {}", names.join(", "))?;
        }
        if self.failed_login_ms >= DEAR_MS {
            let secs = |span: Duration| format!("{:.1} s", span.as_secs_f64());
            let dear = dearest.iter().filter(|(_, (span, _))| *span >= Duration::from_millis(50));
            let each: Vec<_> =
                dear.map(|(kind, (span, line))| format!("{kind} {} (line {line})", secs(*span))).collect();
            let all = secs(Duration::from_millis(self.failed_login_ms));
            writeln!(
                out,
                "while these hashes are there, every failed login costs about {all}: {}",
                each.join(", ")
            )?;
        }
        if !self.roles.is_empty() {
            let each: Vec<_> =
                self.roles.iter().map(|(role, count)| format!("{} {count}", printable(role))).collect();
            writeln!(out, "roles that the file gives: {}", each.join(", "))?;
        }
        if self.disabled > 0 {
            writeln!(out, "disabled: {}; nobody can log in there until \"user enable\"", self.disabled)?;
        }
        if self.without_password > 0 {
            let count = self.without_password;
            writeln!(
                out,
                "without a password: {count}; nobody can log in there until \"user passwd\" sets one"
            )?;
        }
        let Self { created, unchanged, refused, dry_run, .. } = self;
        let what = if *dry_run { "would be created" } else { "created" };
        writeln!(out, "{created} {what}, {unchanged} unchanged, {refused} refused")?;
        Ok(())
    }
}

/// A failed login costs one check of each kind.
fn in_all(dearest: &BTreeMap<&'static str, (Duration, u64)>) -> u64 {
    let all: Duration = dearest.values().map(|(span, _)| *span).sum();
    u64::try_from(all.as_millis()).unwrap_or(u64::MAX)
}

/// On standard error, and only where that is a terminal.
fn progress(size: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
    let template = match size {
        Some(_) => "{bar:40} {percent}% {elapsed} (another {eta})",
        None => "{spinner} {elapsed}",
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
