//! The gateway's end of the admin socket, on a thread of its own.
//!
//! Only the holder of the store's lock starts it, so a socket file that is there already is stale and is
//! replaced. Access is by the file's mode (0600) and, since the file exists for a moment before its mode
//! is set, by the peer's user id as the kernel tells it.

use std::fs::{self, DirBuilder, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::command::{Answer, Command, Outcome, Refusal, Request, RequestVersion, Response};
use super::{REQUEST_BYTES, VERSION};

/// Connections at once; more wait.
const CONNECTIONS: usize = 16;
/// A request has to arrive, and an answer be taken, within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Working on a request takes at most this: a password in a full hashing queue, a slow disk.
const WORK: Duration = Duration::from_mins(1);

/// Answers commands.
pub trait Handle: Send + Sync + 'static {
    /// Does it.
    fn handle(&self, command: Command) -> impl Future<Output = Result<Answer, Refusal>>;
}

/// Where processes that want to take over wait: one at a time.
pub type Successors = mpsc::Sender<std::os::unix::net::UnixStream>;

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Something that is no socket has the name.
    #[error("{} is no socket: it is not replaced", .0.display())]
    NoSocket(PathBuf),
    /// The file system says no.
    #[error("the admin socket {}: {action}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

/// The running admin socket. Stops when it is told to, or on drop; the file is removed, unless another
/// process has put its own in its place.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    /// The file that is ours to remove: beside its place until it is published, then there.
    file: Option<PathBuf>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Opens the socket and answers on it. The caller holds the store's lock. A process that wants to take
    /// over is handed to `successors`.
    pub fn start(
        path: &Path,
        handler: Arc<impl Handle>,
        successors: Option<Successors>,
    ) -> Result<Self, ControlError> {
        let mut control = Self::prepare(path, handler, successors)?;
        control.publish()?;
        Ok(control)
    }

    /// The same, but nobody finds the socket before it is [published](Self::publish).
    pub fn prepare(
        path: &Path,
        handler: Arc<impl Handle>,
        successors: Option<Successors>,
    ) -> Result<Self, ControlError> {
        let beside = beside(path);
        let listener = bind(path, &beside)?;
        let failed = |action| move |source| ControlError::Io { path: path.to_owned(), action, source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed("start its runtime"))?;
        let (stop, stopped) = watch::channel(false);
        let run = move || {
            let local = LocalSet::new();
            if let Err(error) = local.block_on(&runtime, run(listener, handler, successors, stopped)) {
                tracing::error!(error = &error as &dyn std::error::Error, "the admin socket failed");
            }
        };
        let thread = thread::Builder::new().name("gatepost-control".to_owned()).spawn(run);
        let thread = Some(thread.map_err(failed("start its thread"))?);
        Ok(Self { path: path.to_owned(), file: Some(beside), stop, thread })
    }

    /// Puts the socket where it is looked for, in one step: whoever connects reaches this process or the
    /// one before.
    ///
    /// # Errors
    /// What the file system says.
    pub fn publish(&mut self) -> Result<(), ControlError> {
        let failed = |source| ControlError::Io { path: self.path.clone(), action: "put it in place", source };
        fs::rename(beside(&self.path), &self.path).map_err(failed)?;
        self.file = Some(self.path.clone());
        Ok(())
    }

    /// Leaves the file to whoever has put its own in its place.
    pub fn disown(&mut self) {
        self.file = None;
    }

    /// Closes every connection and removes the file.
    pub fn stop(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop.send_replace(true);
        // A panic in it has been printed already; a file that is left behind is replaced at the next start.
        drop(thread.join());
        drop(self.file.take().map(fs::remove_file));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Where the socket is made: renamed, it replaces the one before without a gap.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("~");
    PathBuf::from(name)
}

fn bind(path: &Path, beside: &Path) -> Result<UnixListener, ControlError> {
    let failed = |action| move |source| ControlError::Io { path: path.to_owned(), action, source };
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed("make its directory"))?;
    }
    for place in [path, beside] {
        match fs::symlink_metadata(place) {
            Ok(file) if !file.file_type().is_socket() => {
                return Err(ControlError::NoSocket(place.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at it")(error)),
        }
    }
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove a stale one")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(beside).map_err(failed("bind"))?;
    fs::set_permissions(beside, Permissions::from_mode(0o600)).map_err(failed("set its mode"))?;
    listener.set_nonblocking(true).map_err(failed("set it non-blocking"))?;
    Ok(listener)
}

async fn run(
    listener: UnixListener,
    handler: Arc<impl Handle>,
    successors: Option<Successors>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let accept = async {
        loop {
            // Closed only when this function is gone.
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: wait for some to be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (handler, successors) = (Arc::clone(&handler), successors.clone());
            tokio::task::spawn_local(async move {
                // Given back by its drop: a command that panics must not keep the seat.
                let _seat = seat;
                if let Err(error) = serve(stream, &*handler, successors.as_ref()).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "admin socket");
                }
            });
        }
    };
    tokio::select! {
        () = accept => {}
        // An error says that the owner is gone, which is a stop as well.
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

/// Answers on one connection, and gives it away when a successor asks for it.
async fn serve(
    mut stream: UnixStream,
    handler: &impl Handle,
    successors: Option<&Successors>,
) -> io::Result<()> {
    if let Some(place) = converse(&mut stream, handler, successors).await? {
        place.send(stream.into_std()?);
    }
    Ok(())
}

type Place<'a> = mpsc::Permit<'a, std::os::unix::net::UnixStream>;

/// Answers until the other end has gone, or asks to take over.
async fn converse<'a>(
    stream: &mut UnixStream,
    handler: &impl Handle,
    successors: Option<&'a Successors>,
) -> io::Result<Option<Place<'a>>> {
    let peer = stream.peer_cred()?.uid();
    let ours = rustix::process::geteuid().as_raw();
    let (reading, mut writing) = stream.split();
    if peer != ours && peer != 0 {
        tracing::warn!(uid = peer, "a foreign user on the admin socket was refused");
        let refusal = Refusal::new("forbidden", "this socket belongs to another user");
        return send(&mut writing, Outcome::Refusal(refusal)).await.map(|()| None);
    }
    let mut reading = BufReader::new(reading);
    loop {
        let mut line = Zeroizing::new(Vec::new());
        let limit = u64::try_from(REQUEST_BYTES).unwrap_or(u64::MAX);
        let mut bounded = (&mut reading).take(limit);
        let read = timeout(PATIENCE, bounded.read_until(b'\n', &mut line));
        if read.await.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            let refusal = Refusal::new("too_long", format!("a request has at most {REQUEST_BYTES} bytes"));
            return send(&mut writing, Outcome::Refusal(refusal)).await.map(|()| None);
        }
        if let Some(successors) = successors.filter(|_| wants_to_take_over(&line)) {
            let Ok(place) = successors.try_reserve() else {
                let refusal = Refusal::new("busy", "another process is taking over already");
                return send(&mut writing, Outcome::Refusal(refusal)).await.map(|()| None);
            };
            tracing::info!(uid = peer, "another process wants to take over");
            send(&mut writing, Outcome::Answer(Answer::Done)).await?;
            return Ok(Some(place));
        }
        let outcome = match answer(&line, handler, peer).await {
            Ok(answer) => Outcome::Answer(answer),
            Err(refusal) => Outcome::Refusal(refusal),
        };
        send(&mut writing, outcome).await?;
    }
}

fn wants_to_take_over(line: &[u8]) -> bool {
    let request = serde_json::from_slice::<Request<Command>>(line);
    request.is_ok_and(|request| request.version == VERSION && matches!(request.command, Command::TakeOver))
}

async fn answer(line: &[u8], handler: &impl Handle, peer: u32) -> Result<Answer, Refusal> {
    let rubbish = |error: serde_json::Error| Refusal::new("malformed", format!("not a request: {error}"));
    let RequestVersion { version } = serde_json::from_slice(line).map_err(rubbish)?;
    if version != VERSION {
        let why =
            format!("the running gateway speaks version {VERSION} of the admin language, not {version}");
        return Err(Refusal::new("version", why));
    }
    let Request { command, .. }: Request<Command> = serde_json::from_slice(line).map_err(rubbish)?;
    let (name, user, changes) = (command.name(), command.user().map(str::to_owned), command.changes());
    let work = timeout(WORK, handler.handle(command)).await;
    let outcome = work.unwrap_or_else(|_| Err(Refusal::new("timeout", "it took too long")));
    if changes {
        let outcome = outcome.as_ref().err().map_or("done", |refusal| refusal.code.as_str());
        tracing::info!(command = name, user, uid = peer, outcome, "operator");
    }
    outcome
}

async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), outcome: Outcome) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Response { version: VERSION, outcome }).map_err(io::Error::other)?;
    line.push(b'\n');
    timeout(PATIENCE, stream.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::super::client::{self, AskError};
    use super::*;

    struct Echo;

    impl Handle for Echo {
        async fn handle(&self, command: Command) -> Result<Answer, Refusal> {
            match command {
                Command::UserUnlock { .. } => Ok(Answer::Done),
                other => Err(Refusal::new("no", other.name())),
            }
        }
    }

    fn unlock() -> Command {
        Command::UserUnlock { user: "alice".to_owned() }
    }

    #[test]
    fn commands_are_answered_and_the_file_is_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("new/gatepost.sock");
        let control = Control::start(&path, Arc::new(Echo), None).expect("a socket");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("a parent")), 0o700);
        assert!(matches!(client::ask(&path, &unlock()), Ok(Answer::Done)));
        match client::ask(&path, &Command::KeyList) {
            Err(AskError::Refused(refusal)) => assert_eq!(refusal, Refusal::new("no", "key list")),
            other => panic!("{other:?}"),
        }
        control.stop();
        assert!(!path.exists());
        assert!(matches!(client::ask(&path, &unlock()), Err(AskError::NobodyAnswers)));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gatepost.sock");
        drop(UnixListener::bind(&path).expect("a socket"));
        assert!(matches!(client::ask(&path, &unlock()), Err(AskError::NobodyAnswers)));
        let control = Control::start(&path, Arc::new(Echo), None).expect("replaced");
        assert!(client::ask(&path, &unlock()).is_ok());
        control.stop();

        fs::write(&path, "precious").expect("written");
        let refused = Control::start(&path, Arc::new(Echo), None).expect_err("no socket");
        assert!(matches!(refused, ControlError::NoSocket(_)), "{refused}");
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    }

    struct Broken;

    impl Handle for Broken {
        async fn handle(&self, command: Command) -> Result<Answer, Refusal> {
            match command {
                Command::UserUnlock { .. } => Ok(Answer::Done),
                other => panic!("a fault in {}", other.name()),
            }
        }
    }

    #[test]
    fn a_command_that_panics_gives_its_seat_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gatepost.sock");
        let _control = Control::start(&path, Arc::new(Broken), None).expect("a socket");
        for _ in 0..=CONNECTIONS {
            let broken = client::ask(&path, &Command::KeyList);
            assert!(broken.is_err(), "{broken:?}");
        }
        assert!(matches!(client::ask(&path, &unlock()), Ok(Answer::Done)));
    }

    #[test]
    fn rubbish_is_refused_and_the_next_request_is_answered() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gatepost.sock");
        let _control = Control::start(&path, Arc::new(Echo), None).expect("a socket");
        let stream = UnixStream::connect(&path).expect("connected");
        let mut answers = io::BufReader::new(stream.try_clone().expect("a clone")).lines();
        let mut say = |line: &str| {
            (&stream).write_all(format!("{line}\n").as_bytes()).expect("written");
            answers.next().expect("an answer").expect("read")
        };
        assert!(say("GET / HTTP/1.1").contains("malformed"));
        assert!(say(r#"{"version":1,"command":{"do":"drop_everything"}}"#).contains("malformed"));
        assert!(say(r#"{"version":2,"command":{"do":"from_the_future"}}"#).contains("\"version\""));
        let done = say(r#"{"version":1,"command":{"do":"user_unlock","user":"a"}}"#);
        assert_eq!(done, r#"{"version":1,"answer":"done"}"#);
        assert!(say(&"x".repeat(REQUEST_BYTES)).contains("too_long"));
    }
}
