//! The conversation in which a running gateway hands its sockets and its store to the process that
//! follows it. It begins as any other on the admin socket, with [`Command::TakeOver`], so it is guarded
//! as they are.
//!
//! The sockets themselves travel (`SCM_RIGHTS`, unix(7)), and with them the connections that wait to be
//! accepted: none is refused or reset while both processes hold them. One line of JSON a message.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::VERSION;
use super::command::{Command, Outcome, Refusal, Request, Response};
use crate::clock::Timestamp;
use crate::token::revocation::{Revocation, RevocationId, RevocationKind};

/// Descriptors in one message; the kernel takes 253.
const BATCH: usize = 64;
/// A line's greatest length, in bytes.
const LINE: usize = 64 * 1024;

/// What the two processes say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Message {
    /// The old one: so many listening sockets of one place come with this.
    Sockets {
        /// As the configuration writes it.
        place: String,
        /// How many.
        count: usize,
    },
    /// The old one: those were all, and the store is here.
    Offered {
        /// Its directory.
        store: PathBuf,
    },
    /// The new one: everything that can be known before is good; close the store.
    CloseStore,
    /// The old one: everything acknowledged is on the disk, and the store is free.
    StoreClosed,
    /// The new one: it accepts connections.
    Serving,
    /// The old one: it does not accept any more.
    Leaving {
        /// In which time systemd wants to hear from whoever serves, in microseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        watchdog_usec: Option<u64>,
    },
    /// The new one: refuse this too.
    Revoked {
        /// What it is about.
        kind: RevocationKind,
        /// Its name, in hexadecimal.
        id: String,
        /// When it ends, in milliseconds since the epoch.
        until: u64,
    },
}

impl From<Revocation> for Message {
    fn from(revocation: Revocation) -> Self {
        let Revocation { kind, id, until } = revocation;
        Self::Revoked { kind, id: format!("{:032x}", id.0), until: until.millis() }
    }
}

impl Message {
    /// The revocation that it is, if it is one.
    #[must_use]
    pub fn as_revocation(&self) -> Option<Revocation> {
        let Self::Revoked { kind, id, until } = self else { return None };
        let id = RevocationId(u128::from_str_radix(id, 16).ok()?);
        Some(Revocation { kind: *kind, id, until: Timestamp::from_millis(*until) })
    }
}

/// Why a hand-over does not go on.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// There is no socket, or nobody behind it.
    #[error("nobody answers on the admin socket {}: there is no running gateway to take over from", .0.display())]
    NobodyAnswers(PathBuf),
    /// The gateway says no.
    #[error("the running gateway refuses: {0}")]
    Refused(#[from] Refusal),
    /// The conversation broke off.
    #[error("the conversation with the other gateway broke off: {0}")]
    Broken(#[from] io::Error),
    /// It took too long.
    #[error("the other gateway did not answer in time")]
    Silent,
    /// The other one says something else than what comes now.
    #[error("the other gateway said {said:?} instead of {wanted}")]
    Unexpected {
        /// What was said.
        said: Box<Message>,
        /// What should have been.
        wanted: &'static str,
    },
    /// The new configuration is of another gateway.
    #[error("the running gateway's store is {}, and not {}", running.display(), configured.display())]
    OtherStore {
        /// Where it is.
        running: PathBuf,
        /// Where the configuration has it.
        configured: PathBuf,
    },
}

/// Listening sockets by the place that they belong to.
pub type Sockets = HashMap<String, Vec<OwnedFd>>;

/// One end of the conversation. Blocking.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    read: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    /// The conversation on a connected stream.
    ///
    /// # Errors
    /// What the system says.
    pub fn over(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, read: Vec::new(), descriptors: VecDeque::new() })
    }

    /// Asks the gateway behind an admin socket to hand over.
    ///
    /// # Errors
    /// [`HandOverError`]; nothing has changed for the other one then.
    pub fn ask(socket: &Path, patience: Duration) -> Result<Self, HandOverError> {
        let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                HandOverError::NobodyAnswers(socket.to_owned())
            }
            _ => HandOverError::Broken(error),
        })?;
        let mut channel = Self::over(stream, patience)?;
        let mut line = serde_json::to_vec(&Request { version: VERSION, command: Command::TakeOver })
            .map_err(io::Error::from)?;
        line.push(b'\n');
        channel.write(&line, &[])?;
        let answer = channel.line(Some(patience))?;
        match serde_json::from_slice::<Response>(&answer).map_err(io::Error::from)?.outcome {
            Outcome::Answer(_) => Ok(channel),
            Outcome::Refusal(refusal) => Err(refusal.into()),
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn say(&self, message: &Message) -> io::Result<()> {
        self.say_with(message, &[])
    }

    /// Hands over the sockets of a place.
    ///
    /// # Errors
    /// When nobody takes them.
    pub fn hand(&self, place: &str, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        for batch in sockets.chunks(BATCH) {
            self.say_with(&Message::Sockets { place: place.to_owned(), count: batch.len() }, batch)?;
        }
        Ok(())
    }

    fn say_with(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.write(&line, sockets)
    }

    /// What comes next. Without `patience` it is waited for as long as the other end is there.
    ///
    /// # Errors
    /// [`HandOverError::Silent`] when nothing came in time: asking again goes on where this stopped.
    pub fn hear(&mut self, patience: Option<Duration>) -> Result<Message, HandOverError> {
        let line = self.line(patience)?;
        Ok(serde_json::from_slice(&line).map_err(io::Error::from)?)
    }

    /// Everything that is handed over, and where the store is.
    ///
    /// # Errors
    /// [`HandOverError`]
    pub fn receive(&mut self, patience: Duration) -> Result<(Sockets, PathBuf), HandOverError> {
        let mut sockets = Sockets::default();
        loop {
            match self.hear(Some(patience))? {
                Message::Sockets { place, count } if count <= self.descriptors.len() => {
                    sockets.entry(place).or_default().extend(self.descriptors.drain(..count));
                }
                Message::Offered { store } => return Ok((sockets, store)),
                said => {
                    return Err(HandOverError::Unexpected { said: Box::new(said), wanted: "its sockets" });
                }
            }
        }
    }

    /// Waits for one message and no other.
    ///
    /// # Errors
    /// [`HandOverError`]
    pub fn wait_for(
        &mut self,
        wanted: &Message,
        name: &'static str,
        patience: Duration,
    ) -> Result<(), HandOverError> {
        let said = self.hear(Some(patience))?;
        if said == *wanted {
            return Ok(());
        }
        Err(HandOverError::Unexpected { said: Box::new(said), wanted: name })
    }

    /// A second handle, to end the conversation while this one waits.
    ///
    /// # Errors
    /// What the system says.
    pub fn handle(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    fn write(&self, mut bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other("too many sockets for one message"));
        }
        while !bytes.is_empty() {
            let sent =
                sendmsg(self.stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
            bytes = bytes.get(sent..).unwrap_or_default();
            // They travel with the first byte.
            control.clear();
        }
        Ok(())
    }

    fn line(&mut self, patience: Option<Duration>) -> Result<Vec<u8>, HandOverError> {
        self.stream.set_read_timeout(patience)?;
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                return Ok(self.read.drain(..=end).collect());
            }
            if self.read.len() > LINE {
                return Err(io::Error::other("a line without an end").into());
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> Result<(), HandOverError> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut pieces = [IoSliceMut::new(&mut bytes)];
            match recvmsg(self.stream.as_fd(), &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Err(HandOverError::Silent),
                other => break other.map_err(io::Error::from)?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received.bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.read.extend(bytes.iter().take(received.bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (Channel::over(one, PATIENCE).expect("a channel"), Channel::over(other, PATIENCE).expect("a channel"))
    }

    #[test]
    fn sockets_arrive_with_the_connections_that_wait() {
        let (old, mut new) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("queued");
        client.write_all(b"hello").expect("written");
        let many = vec![listener.as_fd(); BATCH + 3];
        old.hand("127.0.0.1:0", &many).expect("handed");
        old.hand("admin", &[listener.as_fd()]).expect("handed");
        old.say(&Message::Offered { store: PathBuf::from("/data") }).expect("said");
        drop((old, listener));

        let (mut sockets, store) = new.receive(PATIENCE).expect("received");
        assert_eq!(store, Path::new("/data"));
        assert_eq!(sockets.remove("admin").map(|admin| admin.len()), Some(1));
        let mut mine = sockets.remove("127.0.0.1:0").expect("handed");
        assert_eq!((mine.len(), sockets.len()), (BATCH + 3, 0));
        let listener = TcpListener::from(mine.remove(0));
        let (mut accepted, _) = listener.accept().expect("still in the queue");
        let mut hello = [0; 5];
        accepted.read_exact(&mut hello).expect("read");
        assert_eq!(&hello, b"hello");
        assert!(matches!(new.hear(Some(PATIENCE)), Err(HandOverError::Broken(_))));
    }

    #[test]
    fn what_comes_late_is_waited_for_again() {
        let (old, mut new) = pair();
        assert!(matches!(new.hear(Some(Duration::from_millis(10))), Err(HandOverError::Silent)));
        old.say(&Message::StoreClosed).expect("said");
        new.wait_for(&Message::StoreClosed, "a closed store", PATIENCE).expect("heard");
        old.say(&Message::Leaving { watchdog_usec: None }).expect("said");
        let other = new.wait_for(&Message::StoreClosed, "a closed store", PATIENCE);
        assert!(matches!(other, Err(HandOverError::Unexpected { .. })), "{other:?}");
    }

    #[test]
    fn revocations_arrive_as_they_were() {
        let revocation = Revocation {
            kind: RevocationKind::Session,
            id: RevocationId(u128::MAX - 5),
            until: Timestamp::from_millis(1_700_000_000_123),
        };
        let (old, mut new) = pair();
        old.say(&Message::from(revocation)).expect("said");
        let heard = new.hear(Some(PATIENCE)).expect("heard").as_revocation();
        assert_eq!(heard, Some(revocation));
        let leaving = Message::Leaving { watchdog_usec: None };
        assert_eq!(leaving.as_revocation(), None);
        // As a version says it that knows of no watchdog.
        assert_eq!(serde_json::from_str::<Message>(r#"{"say":"leaving"}"#).expect("known"), leaving);
    }
}
