//! What waits to be written: small parts gathered, a large one left where it is.

use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::body::Frame;

/// Data up to this long is copied behind what waits already; longer data is written from where it lies.
const COPIED_MAX: usize = 8 * 1024;

/// Bytes on their way out. It holds one large part at most: when it has one, it has to be written before
/// more data is added, so a peer that does not read holds the sender back and no memory.
#[derive(Debug, Default)]
pub struct Outgoing {
    small: Small,
    large: Bytes,
    /// What comes after the large part: little, and only while there is one.
    after: Small,
}

#[derive(Debug, Default)]
struct Small {
    bytes: Vec<u8>,
    written: usize,
}

impl Small {
    fn left(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Up to `count` bytes were written; how many of these.
    fn advance(&mut self, count: usize) -> usize {
        let written = count.min(self.left().len());
        self.written += written;
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
        }
        written
    }
}

impl Outgoing {
    /// Nothing, with room for small parts.
    #[must_use]
    pub fn with_room(room: Vec<u8>) -> Self {
        Self { small: Small { bytes: room, written: 0 }, ..Self::default() }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.small.left().is_empty() && self.large.is_empty() && self.after.left().is_empty()
    }

    /// Whether it has to be written before data is added: it has a large part, or much of small ones.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_divided() || self.small.bytes.len() > COPIED_MAX
    }

    fn is_divided(&self) -> bool {
        !self.large.is_empty() || !self.after.left().is_empty()
    }

    /// Where a head, or what comes at the end of a body, is added: behind all that waits.
    pub fn small(&mut self) -> &mut Vec<u8> {
        if self.is_divided() { &mut self.after.bytes } else { &mut self.small.bytes }
    }

    /// Adds data and what frames it. Not while [`Outgoing::is_full`].
    pub fn push(&mut self, data: Bytes, frame: &Frame) {
        self.small.bytes.extend_from_slice(frame.before());
        if data.len() <= COPIED_MAX {
            self.small.bytes.extend_from_slice(&data);
            self.small.bytes.extend_from_slice(frame.after);
        } else {
            self.large = data;
            self.after.bytes.extend_from_slice(frame.after);
        }
    }

    /// What waits, in order; empty parts included.
    #[must_use]
    pub fn slices(&self) -> [IoSlice<'_>; 3] {
        [self.small.left(), &self.large, self.after.left()].map(IoSlice::new)
    }

    /// The small parts, when there is nothing else.
    #[must_use]
    pub fn only_small(&self) -> Option<&[u8]> {
        (!self.is_divided()).then(|| self.small.left())
    }

    /// The first `count` bytes were written.
    pub fn advance(&mut self, count: usize) {
        let mut left = count - self.small.advance(count);
        if left == 0 {
            return;
        }
        let large = left.min(self.large.len());
        self.large.advance(large);
        if self.large.is_empty() {
            // Not even an empty slice keeps what it was cut from.
            self.large = Bytes::new();
        }
        left -= large;
        self.after.advance(left);
    }

    /// Takes the room of the small parts away, for others to use; nothing may wait.
    pub fn take_room(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.small).bytes
    }
}
