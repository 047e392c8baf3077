//! Why a program cannot be run, for people: where it was looked for, and what to do.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A first line is not longer (`BINPRM_BUF_SIZE`).
const LONGEST_LINE: u64 = 256;

/// Whether there is such a program, before a process is made for it.
///
/// # Errors
/// As `exec` would say it.
pub(super) fn find(program: &OsStr) -> io::Result<()> {
    find_among(program, &directories())
}

/// The same error with a sentence.
pub(super) fn explain(program: &OsStr, error: io::Error) -> io::Error {
    let name = program.display();
    let sentence = match error.kind() {
        ErrorKind::NotFound if is_looked_for(program) && find(program).is_err() => format!(
            "there is no such program in PATH; one of a virtual environment is named in full \
             (venv/bin/{name}) or found when that is active, and npx finds those of node_modules"
        ),
        ErrorKind::NotFound => not_there(program),
        ErrorKind::PermissionDenied => "it is no file that may be executed".to_owned(),
        _ => return error,
    };
    io::Error::new(error.kind(), sentence)
}

/// The file, or what a script's first line names in its place.
fn not_there(program: &OsStr) -> String {
    if let Some(wanted) = wanted_by_first_line(program) {
        return format!(
            "its first line wants {wanted}, which is not there; was a virtual environment moved?"
        );
    }
    let here = std::env::current_dir().unwrap_or_default();
    format!("there is no such file (in {})", here.display())
}

/// Where the system looks for a name without a slash.
fn directories() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn find_among(program: &OsStr, directories: &[PathBuf]) -> io::Result<()> {
    if !is_looked_for(program) {
        return is_executable(Path::new(program));
    }
    // Without a PATH it is for the system to know where.
    let mut found = if directories.is_empty() { Ok(()) } else { Err(ErrorKind::NotFound.into()) };
    for directory in directories {
        match is_executable(&directory.join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => found = Err(error),
            Err(_) => {}
        }
    }
    found
}

fn is_looked_for(program: &OsStr) -> bool {
    !program.as_bytes().contains(&b'/')
}

fn is_executable(path: &Path) -> io::Result<()> {
    let file = fs::metadata(path)?;
    let may_be = file.is_file() && file.permissions().mode() & 0o111 != 0;
    if may_be { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
}

/// The interpreter that a script's first line names, if that is what is missing.
fn wanted_by_first_line(program: &OsStr) -> Option<String> {
    let candidates = directories().into_iter().map(|directory| directory.join(program));
    let path = if is_looked_for(program) {
        candidates.into_iter().find(|path| is_executable(path).is_ok())?
    } else {
        PathBuf::from(program)
    };
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?.take(LONGEST_LINE)).read_line(&mut line).ok()?;
    let wanted = line.strip_prefix("#!")?.split_ascii_whitespace().next()?;
    (!Path::new(wanted).exists()).then(|| wanted.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        path
    }

    #[test]
    fn a_program_is_looked_for_as_the_system_does() {
        let (one, two) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let path = [one.path().to_owned(), two.path().to_owned()];
        let plain = write(one.path(), "app", "", 0o600);
        let kind = |program: &OsStr| find_among(program, &path).map_err(|error| error.kind());
        assert_eq!(kind("app".as_ref()), Err(ErrorKind::PermissionDenied));
        write(two.path(), "app", "", 0o700);
        assert_eq!(kind("app".as_ref()), Ok(()));
        assert_eq!(kind("other".as_ref()), Err(ErrorKind::NotFound));
        assert_eq!(kind(plain.as_os_str()), Err(ErrorKind::PermissionDenied));
        assert_eq!(kind(one.path().as_os_str()), Err(ErrorKind::PermissionDenied));
        assert_eq!(kind("./no/such".as_ref()), Err(ErrorKind::NotFound));
        assert!(find_among("app".as_ref(), &[]).is_ok());
    }

    #[test]
    fn what_is_missing_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let script = write(directory.path(), "gunicorn", "#!/gone/bin/python -s\n", 0o700);
        let said = |program: &OsStr, kind: ErrorKind| explain(program, kind.into()).to_string();
        let moved = said(script.as_os_str(), ErrorKind::NotFound);
        assert!(moved.contains("wants /gone/bin/python") && moved.contains("moved"), "{moved}");
        let unknown = said("no-such-program".as_ref(), ErrorKind::NotFound);
        assert!(unknown.contains("PATH") && unknown.contains("venv/bin/no-such-program"), "{unknown}");
        let here = said("./no-such".as_ref(), ErrorKind::NotFound);
        assert!(here.contains("there is no such file (in /"), "{here}");
        assert!(said("/etc".as_ref(), ErrorKind::PermissionDenied).contains("may be executed"));
        assert_eq!(explain("x".as_ref(), ErrorKind::NotFound.into()).kind(), ErrorKind::NotFound);
    }
}
