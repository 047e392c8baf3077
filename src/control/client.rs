//! The command line's end of the admin socket: blocking, one question at a time.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::command::{Answer, Command, Outcome, Refusal, Request, Response};
use super::{ANSWER_BYTES, VERSION};

/// Longer than the gateway may work on a request.
const PATIENCE: Duration = Duration::from_secs(70);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no socket, or nobody behind it.
    #[error("nobody answers")]
    NobodyAnswers,
    /// It is not ours to use.
    #[error("permission denied")]
    Permission,
    /// The gateway says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The conversation broke off. Whether the command was carried out is not known.
    #[error("the conversation broke off: {0}")]
    Broken(#[source] io::Error),
}

/// Asks the gateway behind the socket.
pub fn ask(path: &Path, command: &Command) -> Result<Answer, AskError> {
    let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NobodyAnswers,
        io::ErrorKind::PermissionDenied => AskError::Permission,
        _ => AskError::Broken(error),
    })?;
    match converse(&stream, command).map_err(AskError::Broken)? {
        Outcome::Answer(answer) => Ok(answer),
        Outcome::Refusal(refusal) => Err(AskError::Refused(refusal)),
    }
}

fn converse(mut stream: &UnixStream, command: &Command) -> io::Result<Outcome> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Zeroizing::new(serde_json::to_vec(&Request { version: VERSION, command })?);
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES)).read_until(b'\n', &mut answer)?;
    if answer.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let Response { version, outcome } = serde_json::from_slice(&answer)?;
    if version != VERSION {
        return Err(io::Error::other(format!("the running gateway answers in version {version}")));
    }
    Ok(outcome)
}
