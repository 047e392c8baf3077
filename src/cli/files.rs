//! What is in the files that the configuration names: certificates, keys, authorities. The configuration
//! itself knows their paths only; here they are read as `serve` would read them.

use std::path::Path;

use super::output::printable;
use crate::clock::Timestamp;
use crate::config::{Loaded, Place, Problem};
use crate::proxy::tls::ClientTls;
use crate::tls;

/// Everything that is wrong in them, at the place of the key that names the file.
pub(super) fn judge(loaded: &Loaded, now: Timestamp) -> Vec<Problem> {
    let mut problems = listeners(loaded, now);
    problems.extend(loaded.settings.upstreams.iter().filter_map(|upstream| {
        let error = ClientTls::of(upstream).err()?;
        let prefix = format!("upstream.{}.", upstream.name);
        let (key, place) =
            named(loaded, &prefix, error.path()).unwrap_or((prefix + "servers", Place::Nowhere));
        Some(Problem::error(printable(&format!("{key}: {error}")), place))
    }));
    problems
}

fn listeners(loaded: &Loaded, now: Timestamp) -> Vec<Problem> {
    let Some(settings) = &loaded.settings.server.tls else { return Vec::new() };
    let mut problems: Vec<Problem> = Vec::new();
    for finding in tls::check(settings, now.secs().cast_signed()) {
        let file = finding.file.as_deref();
        let (key, place) =
            named(loaded, "server.tls.", file).unwrap_or(("server.tls".to_owned(), Place::Nowhere));
        let message = match file {
            Some(file) => format!("{key}: {}: {}", file.display(), finding.message),
            None => format!("{key}: {}", finding.message),
        };
        let message = printable(&message);
        let problem =
            if finding.is_error { Problem::error(message, place) } else { Problem::warning(message, place) };
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems
}

/// The key below `prefix` that names this file, and where it stands.
fn named(loaded: &Loaded, prefix: &str, file: Option<&Path>) -> Option<(String, Place)> {
    let file = file?.to_string_lossy();
    let names = |value: &str| value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) == Some(&file);
    let shown = loaded.shown.iter().find(|shown| shown.key.starts_with(prefix) && names(&shown.value))?;
    Some((shown.key.clone(), shown.place.clone()))
}
