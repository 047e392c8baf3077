//! A request's body as it comes in, whichever protocol brings it.
//!
//! The connection that reads it stands behind a trait object: only a request that has a body pays for
//! it, and those who pass bodies on need not know what a connection is.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// What a peer's connection says when a body does not come to its end.
pub type BrokenBody = Box<dyn std::error::Error + Send + Sync>;

/// Why a body could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer that sends it broke off, or its framing is wrong.
    #[error("the body broke off: {0}")]
    Broken(#[source] BrokenBody),
    /// It is longer than the route allows.
    #[error("the body is longer than the route allows")]
    TooLarge,
    /// Nothing of it arrived for `[server.limits] body_idle`.
    #[error("nothing of the body arrived in time")]
    Idle,
}

/// A client's request body.
pub enum ClientBody {
    /// There is none.
    Empty,
    /// It comes as it comes.
    Streamed(Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>),
}

impl ClientBody {
    /// A body that is read from a connection.
    pub fn streamed(body: impl Body<Data = Bytes, Error = BodyError> + 'static) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Streamed(Box::pin(body)) }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streamed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(body) => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for ClientBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Streamed(_) => "Streamed",
        })
    }
}
