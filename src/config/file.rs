//! Finds the configuration file, reads it, and makes a tree of it.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::Sources;
use super::origin::{Origin, Place, SourceFile};
use super::problem::Problem;
use super::tree::{self, Table};

/// Where the file is looked for when nobody says where it is.
pub(super) const PLACES: [&str; 2] = ["config.toml", "/etc/gatepost/config.toml"];

/// A hundred thousand routes fit; a disk image does not.
const LARGEST: u64 = 32 * 1024 * 1024;

/// `--config`, else `$GATEPOST_CONFIG`, else the first of the usual places that exists. A file that was
/// named is never replaced by another one.
pub(super) fn find(sources: &Sources, places: &[&str]) -> Result<PathBuf, Box<Problem>> {
    if let Some(named) = &sources.file {
        return Ok(named.clone());
    }
    let variable = sources.env.iter().find(|(name, value)| name == "GATEPOST_CONFIG" && !value.is_empty());
    if let Some((_, named)) = variable {
        return Ok(PathBuf::from(named));
    }
    if let Some(found) = places.iter().map(Path::new).find(|place| place.exists()) {
        return Ok(found.to_owned());
    }
    let mut tried = String::new();
    for place in places {
        let _ = write!(tried, ", {place}");
    }
    let message = format!("no configuration file; tried --config and $GATEPOST_CONFIG (not given){tried}");
    Err(Box::new(Problem::error(message, Place::Nowhere)))
}

/// Reads the file as text.
pub(super) fn read(path: &Path) -> Result<SourceFile, Box<Problem>> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot read the configuration file {}: {error}", path.display());
        Box::new(Problem::error(message, Place::Nowhere))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        let place = Place::WholeFile(path.to_owned());
        return Err(Box::new(Problem::error("the file is larger than 32 MiB", place)));
    }
    source(path, bytes)
}

/// Bytes as a file's text. A byte-order mark is cut, other encodings are named.
fn source(path: &Path, mut bytes: Vec<u8>) -> Result<SourceFile, Box<Problem>> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(SourceFile::new(path.to_owned(), text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let file = SourceFile::new(path.to_owned(), text);
            let place = file.place(&Origin::File(at..at + 1));
            Err(Box::new(Problem::error("the file is not UTF-8", place)))
        }
    }
}

/// The file's tree, or every syntax error in it.
pub(super) fn parse(file: &mut SourceFile) -> Result<Table, Vec<Problem>> {
    let (document, errors) = DeTable::parse_recoverable(file.text());
    let table = tree::from_toml(document.get_ref(), &Origin::File);
    let problems: Vec<(Option<Origin>, String)> =
        errors.iter().map(|error| (error.span().map(Origin::File), message(error))).collect();
    let mut secrets = Vec::new();
    tree::secret_spans(&table, &mut secrets);
    drop(document);
    if problems.is_empty() {
        file.hide_only(secrets);
        return Ok(table);
    }
    file.hide(secrets);
    let problem = |(origin, message): (Option<Origin>, String)| {
        let place = origin.map_or(Place::WholeFile(file.path().to_owned()), |origin| file.place(&origin));
        Problem::error(message, place)
    };
    Err(problems.into_iter().map(problem).collect())
}

/// The parser says what it expected instead; sometimes that is "nothing".
fn message(error: &toml::de::Error) -> String {
    error.message().trim_end_matches(", expected nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: Option<&str>, env: Option<&str>) -> Sources {
        Sources {
            file: file.map(PathBuf::from),
            env: env.map(|value| ("GATEPOST_CONFIG".to_owned(), value.to_owned())).into_iter().collect(),
            set: Vec::new(),
        }
    }

    #[test]
    fn the_argument_wins_over_the_variable_over_the_usual_places() {
        let directory = tempfile::tempdir().expect("a directory");
        let here = directory.path().join("config.toml");
        std::fs::write(&here, "").expect("written");
        let usual = [here.to_str().expect("text")];
        assert_eq!(find(&sources(Some("a"), Some("b")), &usual), Ok(PathBuf::from("a")));
        assert_eq!(find(&sources(None, Some("b")), &usual), Ok(PathBuf::from("b")));
        assert_eq!(find(&sources(None, Some("")), &usual), Ok(here.clone()));
        assert_eq!(find(&sources(None, None), &usual), Ok(here.clone()));
    }

    #[test]
    fn a_missing_file_names_what_was_tried() {
        let problem = find(&sources(None, None), &["/nowhere/a", "/nowhere/b"]).expect_err("nothing there");
        assert_eq!(
            problem.to_string(),
            "error: no configuration file; tried --config and $GATEPOST_CONFIG (not given), /nowhere/a, /nowhere/b"
        );
        let named = read(Path::new("/nowhere/c")).expect_err("nothing there");
        assert!(named.message.contains("/nowhere/c"), "{named}");
    }

    #[test]
    fn other_encodings_are_named_with_their_place() {
        let problem = source(Path::new("c"), b"a = 1\nb = \"\xe4\"".to_vec()).expect_err("latin 1");
        assert_eq!(problem.place.to_string(), "c:2:6");
        assert!(source(Path::new("c"), b"\xef\xbb\xbfa = 1".to_vec()).is_ok());
    }
}
