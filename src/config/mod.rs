//! The configuration: a file, environment variables and `--set` arguments become [`Settings`].
//!
//! Three stages: a tree of values, each knowing its [`Origin`] (`file`, `overlay`); a typed reader
//! over it (`reader`, `sections`) that knows every key and collects every problem instead of stopping
//! at the first; and checks across keys (`check`). What a value means at run time is its module's
//! business, how it may be written is decided here.
//!
//! A value is taken from `--set` before `GATEPOST__SECTION__KEY` before the file before the default.
//! Tables are merged key by key, lists replace one another. Relative paths are relative to the file
//! they stand in; those from the environment or `--set` to the working directory; defaults to the
//! file's directory, since that is where an installation keeps its data.

mod address;
mod check;
mod file;
mod fit;
mod origin;
mod overlay;
mod problem;
mod reader;
mod secrets;
mod sections;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::settings::Settings;
use origin::SourceFile;
use reader::Reader;
use sections::{auth, cors, identity, legacy, outbound, roles, routes, server, tokens, trials, upstreams};

pub use origin::{Origin, Place};
pub use problem::{Problem, Problems, Severity};
pub(crate) use units::parse_duration;

/// Where to look.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`
    pub file: Option<PathBuf>,
    /// Each `--set`, as `KEY=VALUE`.
    pub set: Vec<String>,
    /// The environment. Only `GATEPOST_CONFIG` and names that start with `GATEPOST__` are looked at.
    pub env: Vec<(String, String)>,
}

/// Values may be secrets: only what is set is shown, not to what.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("set", &self.set.len())
            .field("env", &names)
            .finish()
    }
}

/// A good configuration.
#[derive(Debug)]
pub struct Loaded {
    /// What everybody else reads.
    pub settings: Settings,
    /// What somebody should look at.
    pub warnings: Vec<Problem>,
    /// Every key with its effective value, in the order of the reference; secrets masked.
    pub shown: Vec<ShownValue>,
    /// The file that was read.
    pub path: PathBuf,
    /// What [`fingerprint`] said of it.
    pub fingerprint: u64,
}

impl Loaded {
    /// A warning for each table whose last day has come, at `now` in seconds since 1970: it does nothing any more.
    #[must_use]
    pub fn ended(&self, now: u64) -> Vec<Problem> {
        let migrate = self
            .settings
            .auth
            .migrate
            .as_ref()
            .map(|migrate| ("auth.migrate.until".to_owned(), migrate.until, "nobody is asked any more"));
        let legacy = self.settings.tokens.legacy.iter().enumerate().map(|(index, legacy)| {
            (format!("legacy_token[{index}].until"), legacy.until, "none of these tokens is accepted")
        });
        let ended = migrate.into_iter().chain(legacy).filter(|(_, until, _)| now >= *until);
        let warning = |(key, _, so): (String, u64, &str)| {
            let shown = self.shown.iter().find(|shown| shown.key == key);
            let place = shown.map_or(Place::Nowhere, |shown| shown.place.clone());
            Problem::warning(format!("{key}: it has passed: {so}, and the table can go"), place)
        };
        ended.map(warning).collect()
    }
}

/// One key's effective value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownValue {
    /// `server.listen`, `upstream.app.timeout`, `route[0].path` (from 0, in the order of the file).
    pub key: String,
    /// As TOML; a secret is `"***"`.
    pub value: String,
    /// Whether nobody said anything.
    pub default: bool,
    /// `config.toml:12:1`, `environment variable GATEPOST__…`, `--set …` or `default`.
    pub origin: String,
    /// The same, for problems that are found later.
    #[serde(skip)]
    pub place: Place,
}

impl Sources {
    /// This process's environment beside what the command line said.
    pub fn from_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(name, _)| name == "GATEPOST_CONFIG" || name.starts_with("GATEPOST__"));
        Self { file, set, env: env.collect() }
    }
}

/// Reads and checks everything.
///
/// Takes no port and no lock; reads the file and the secrets' files that it names.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let alone = |problem: Box<Problem>| Problems::new(vec![*problem]);
    let path = file::find(sources, &file::PLACES).map_err(alone)?;
    let mut source = file::read(&path).map_err(alone)?;
    let fingerprint = hash(source.text());
    let read = read(&mut source, sources)?;
    Ok(Loaded { settings: read.settings, warnings: read.warnings, shown: read.shown, path, fingerprint })
}

/// A number that tells one content of a file from another; `None` while it cannot be read.
#[must_use]
pub fn fingerprint(file: &Path) -> Option<u64> {
    file::read(file).ok().map(|source| hash(source.text()))
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A file's text, read.
struct ReadAll {
    settings: Settings,
    warnings: Vec<Problem>,
    shown: Vec<ShownValue>,
    /// Every key there is, as documented. The shipped file is held against it.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test of the shipped file"))]
    known: BTreeSet<String>,
}

fn read(source: &mut SourceFile, sources: &Sources) -> Result<ReadAll, Problems> {
    let mut tree = file::parse(source).map_err(Problems::new)?;
    let mut problems = Vec::new();
    overlay::lay(&mut tree, sources, &mut problems);
    let reader = Reader::new(source, problems);
    let settings = read_settings(&reader, &tree);
    let failed = reader.has_errors();
    let (mut problems, shown, known) = reader.finish();
    match settings {
        Some(settings) if !failed => {
            problem::sort(&mut problems);
            Ok(ReadAll { settings, warnings: problems, shown: in_order(shown), known })
        }
        _ => Err(Problems::new(problems)),
    }
}

/// In the order of the reference; the order of reading has reasons of its own.
fn in_order(mut shown: Vec<ShownValue>) -> Vec<ShownValue> {
    const TABLES: [&str; 14] = [
        "server",
        "admin",
        "log",
        "store",
        "auth",
        "roles",
        "tokens",
        "legacy_token",
        "identity",
        "cors",
        "events",
        "upstream",
        "route",
        "test",
    ];
    let rank = |value: &ShownValue| {
        let table = value.key.split(['.', '[']).next().unwrap_or_default();
        TABLES.iter().position(|known| *known == table)
    };
    shown.sort_by_key(rank);
    shown
}

/// Every table, in the order of the reference as far as they do not need one another.
fn read_settings<'a>(reader: &'a Reader<'a>, tree: &'a tree::Table) -> Option<Settings> {
    let root = reader.root(tree);
    let (server, places) = server::read_server(&root);
    let store = server::read_store(&root);
    let admin = server::read_admin(&root, &places, &store.path);
    let log = server::read_log(&root);
    let auth = auth::read(&root)?;
    let roles = roles::read(&root);
    roles.check(reader, "auth.default_roles", &auth.default_roles);
    let mut tokens = tokens::read(&root);
    let legacy = legacy::read(&root);
    tokens.settings.legacy = legacy.iter().map(|token| token.settings.clone()).collect();
    let identity = identity::read(&root);
    let cors = cors::read(&root);
    let events = outbound::read_events(&root);
    let upstreams = upstreams::read(&root);
    let around = routes::Surroundings {
        roles: &roles,
        upstreams: &upstreams,
        cors: cors.is_meant,
        forward_authorization: identity.forward_authorization,
    };
    let (routes, routes_written) = routes::read(&root, &around);
    let tests = trials::read(&root, &roles);
    let parts = check::Parts {
        reader,
        root: &root,
        auth: &auth,
        roles: &roles,
        upstreams: &upstreams,
        cors: &cors.settings,
        routes: &routes,
        routes_written,
        case: server.path_case,
    };
    parts.check();
    fit::check(&fit::Parts {
        reader,
        auth: &auth,
        tokens: &tokens,
        legacy: &legacy,
        cors: &cors,
        routes: &routes,
    });
    root.finish();
    Some(Settings {
        server,
        admin,
        log,
        store,
        auth: auth.settings,
        roles: roles.table,
        tokens: tokens.settings,
        identity,
        cors: cors.settings,
        events,
        upstreams: upstreams.into_iter().map(|upstream| upstream.settings).collect(),
        routes: routes.into_iter().map(|route| route.settings).collect(),
        tests,
    })
}
