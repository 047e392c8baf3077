//! HTTP/2 frames as they arrive, counted by their nine-byte headers (RFC 9113 section 4.1).
//!
//! A frame costs its sender almost nothing, and some cost us: an answer (PING, SETTINGS), work that is
//! thrown away (`RST_STREAM`: CVE-2023-44487), or just a turn (empty DATA, PRIORITY, CONTINUATION:
//! CVE-2019-9512 to 9518). The HTTP/2 library judges what frames say; here they are only counted, in
//! spans of ten seconds, before the library sees them. Nothing is copied and no payload is looked at.

use std::fmt;

use crate::settings::Limits;

/// What a client opens an HTTP/2 connection with (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long counts last, in milliseconds.
const SPAN: u64 = 10_000;
/// Bytes of a frame's header.
const HEADER: usize = 9;
/// Frames of kinds that have no limit of their own in the configuration: no client needs as many. (How
/// many CONTINUATIONs one head may have follows from its size, and is the library's business.)
const OTHERS: u32 = 1_000;
/// `WINDOW_UPDATE` frames for each DATA frame that was sent: one for the stream, one for the connection,
/// and patience with clients that give their window back in crumbs.
const UPDATES_PER_DATA: u64 = 10;

/// What is wrong: a kind of frame of which too many came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offence {
    EmptyData,
    Priority,
    Reset,
    Settings,
    Ping,
    WindowUpdate,
    Continuation,
    Other,
    /// Not a number of frames: the first was no SETTINGS (RFC 9113 section 3.4).
    Greeting,
}

impl Offence {
    const KINDS: usize = 8;
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyData => "empty DATA",
            Self::Priority => "PRIORITY",
            Self::Reset => "RST_STREAM",
            Self::Settings => "SETTINGS",
            Self::Ping => "PING",
            Self::WindowUpdate => "WINDOW_UPDATE",
            Self::Continuation => "CONTINUATION",
            Self::Other => "other",
            Self::Greeting => "before SETTINGS",
        })
    }
}

/// Where in the stream of bytes the reader is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// So many bytes of the preface are missing. Whether they are right is the library's business.
    Preface(usize),
    /// In a frame's header, of which so many bytes are here.
    Header(usize),
    /// So many bytes of payload are to come.
    Payload(usize),
}

/// The reader of one connection.
#[derive(Debug)]
pub(super) struct FrameCounter {
    place: Place,
    header: [u8; HEADER],
    /// The frame that is being read belongs to a head, or is the one that has to come first.
    head_frame: bool,
    /// A head has begun, and its last frame has not come.
    head_open: bool,
    greeted: bool,
    allowed: [u32; Offence::KINDS],
    counts: [u32; Offence::KINDS],
    span_began: u64,
    /// DATA frames that we had sent when this span began, and the one before.
    sent_before: [u64; 2],
}

impl FrameCounter {
    pub(super) fn new(limits: &Limits, now: u64) -> Self {
        let mut allowed = [OTHERS; Offence::KINDS];
        allowed[Offence::Reset as usize] = limits.resets;
        allowed[Offence::Settings as usize] = limits.settings;
        allowed[Offence::Ping as usize] = limits.pings;
        Self {
            place: Place::Preface(PREFACE.len()),
            header: [0; HEADER],
            head_frame: true,
            head_open: false,
            greeted: false,
            allowed,
            counts: [0; Offence::KINDS],
            span_began: now,
            sent_before: [0; 2],
        }
    }

    /// Whether the client has begun something that it has to finish in the time for heads: its
    /// greeting, or a head.
    pub(super) const fn awaits_head(&self) -> bool {
        !self.greeted || self.head_open || (self.head_frame && matches!(self.place, Place::Payload(_)))
    }

    /// Reads on. `now` is in milliseconds; `sent` is how many DATA frames were sent so far.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: u64, sent: u64) -> Result<(), Offence> {
        if now.saturating_sub(self.span_began) >= SPAN {
            self.span_began = now;
            self.counts = [0; Offence::KINDS];
            self.sent_before = [self.sent_before[1], sent];
        }
        while !bytes.is_empty() {
            match self.place {
                Place::Preface(left) => {
                    let skipped = left.min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.place =
                        if skipped == left { Place::Header(0) } else { Place::Preface(left - skipped) };
                }
                Place::Payload(left) => {
                    let skipped = left.min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.place =
                        if skipped == left { Place::Header(0) } else { Place::Payload(left - skipped) };
                }
                Place::Header(have) => {
                    let taken = (HEADER - have).min(bytes.len());
                    self.header[have..have + taken].copy_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    self.place = Place::Header(have + taken);
                    if have + taken == HEADER {
                        self.frame(sent)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A frame's header is complete.
    fn frame(&mut self, sent: u64) -> Result<(), Offence> {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.place = if length == 0 { Place::Header(0) } else { Place::Payload(length) };
        self.head_frame = matches!(kind, 0x1 | 0x9);
        if !self.greeted && (kind != 0x4 || flags & ACK != 0) {
            return Err(Offence::Greeting);
        }
        self.greeted = true;
        match kind {
            0x0 if length == 0 && flags & END_STREAM == 0 => self.count(Offence::EmptyData),
            0x0 => Ok(()),
            0x1 => {
                self.head_open = flags & END_HEADERS == 0;
                Ok(())
            }
            0x2 => self.count(Offence::Priority),
            0x3 => self.count(Offence::Reset),
            0x4 => self.count(Offence::Settings),
            0x6 => self.count(Offence::Ping),
            0x8 => self.window_update(sent),
            0x9 => {
                self.head_open = flags & END_HEADERS == 0;
                self.count(Offence::Continuation)
            }
            _ => self.count(Offence::Other),
        }
    }

    fn count(&mut self, offence: Offence) -> Result<(), Offence> {
        let count = &mut self.counts[offence as usize];
        *count += 1;
        if *count > self.allowed[offence as usize] { Err(offence) } else { Ok(()) }
    }

    /// These answer what we send, in this span or late in the one before.
    fn window_update(&mut self, sent: u64) -> Result<(), Offence> {
        let count = &mut self.counts[Offence::WindowUpdate as usize];
        *count = count.saturating_add(1);
        let earned = (sent - self.sent_before[0]).saturating_mul(UPDATES_PER_DATA);
        if u64::from(*count) > u64::from(OTHERS).saturating_add(earned) {
            return Err(Offence::WindowUpdate);
        }
        Ok(())
    }
}

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, kind: u8, flags: u8) -> Vec<u8> {
        let [.., high, middle, low] = u32::try_from(length).expect("small").to_be_bytes();
        let mut bytes = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEADER + length, 0xff);
        bytes
    }

    fn greeted() -> FrameCounter {
        let mut counter = FrameCounter::new(&Limits::default(), 0);
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(0, 4, 0));
        counter.read(&bytes, 0, 0).expect("a greeting");
        counter
    }

    #[test]
    fn each_kind_has_its_limit_and_payloads_are_not_frames() {
        let limits = Limits::default();
        let cases = [
            (frame(0, 0, 0), OTHERS, Offence::EmptyData),
            (frame(5, 2, 0), OTHERS, Offence::Priority),
            (frame(4, 3, 0), limits.resets, Offence::Reset),
            (frame(0, 4, 1), limits.settings - 1, Offence::Settings),
            (frame(8, 6, 0), limits.pings, Offence::Ping),
            (frame(4, 8, 0), OTHERS, Offence::WindowUpdate),
            (frame(300, 77, 0), OTHERS, Offence::Other),
        ];
        for (frame, allowed, offence) in cases {
            let mut counter = greeted();
            for number in 0..allowed {
                assert_eq!(counter.read(&frame, 9_999, 0), Ok(()), "{offence} {number}");
            }
            assert_eq!(counter.read(&frame, 9_999, 0), Err(offence));
        }
        let mut counter = greeted();
        for _ in 0..5_000 {
            assert_eq!(counter.read(&frame(0, 0, END_STREAM), 0, 0), Ok(()), "an end is no flood");
            assert_eq!(counter.read(&frame(1, 0, 0), 0, 0), Ok(()), "nor is data");
            assert_eq!(counter.read(&frame(1, 1, END_HEADERS), 0, 0), Ok(()), "nor are requests");
        }
    }

    #[test]
    fn the_first_frame_is_settings() {
        for frame in [frame(8, 6, 0), frame(10, 1, END_HEADERS), frame(0, 4, ACK)] {
            let mut counter = FrameCounter::new(&Limits::default(), 0);
            counter.read(PREFACE, 0, 0).expect("a preface");
            assert_eq!(counter.read(&frame, 0, 0), Err(Offence::Greeting));
        }
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(0, 4, 0));
        for _ in 0..Limits::default().pings {
            bytes.extend(frame(8, 6, 0));
            bytes.extend(frame(100, 0, 0));
        }
        for size in [1, 2, 8, 9, 10, 23, 24, 25, 1000] {
            let mut counter = FrameCounter::new(&Limits::default(), 0);
            for piece in bytes.chunks(size) {
                assert_eq!(counter.read(piece, 0, 0), Ok(()), "pieces of {size}");
            }
            assert_eq!(counter.read(&frame(8, 6, 0), 0, 0), Err(Offence::Ping), "pieces of {size}");
        }
    }

    #[test]
    fn counts_begin_again_after_ten_seconds() {
        let mut counter = greeted();
        for span in 0..10 {
            for _ in 0..Limits::default().pings {
                assert_eq!(counter.read(&frame(8, 6, 0), span * SPAN, 0), Ok(()));
            }
        }
    }

    #[test]
    fn a_head_is_open_until_its_last_frame() {
        let mut counter = greeted();
        assert!(!counter.awaits_head());
        let head = frame(10, 1, 0);
        counter.read(&head[..5], 0, 0).expect("a part of a frame's header is nothing yet");
        counter.read(&head[5..], 0, 0).expect("a head");
        assert!(counter.awaits_head());
        for _ in 0..OTHERS {
            assert_eq!(counter.read(&frame(0, 9, 0), 0, 0), Ok(()));
        }
        assert!(counter.awaits_head());
        assert_eq!(counter.read(&frame(0, 9, 0), 0, 0), Err(Offence::Continuation));

        let mut counter = greeted();
        counter.read(&frame(10, 1, 0), 0, 0).expect("a head");
        counter.read(&frame(10, 9, END_HEADERS), 0, 0).expect("its end");
        assert!(!counter.awaits_head());
        let whole = frame(10, 1, END_HEADERS);
        counter.read(&whole[..12], 0, 0).expect("most of a head");
        assert!(counter.awaits_head(), "it drips");
    }

    #[test]
    fn who_is_sent_much_may_give_much_window_back() {
        let mut counter = greeted();
        for sent in 0..10_000 {
            for _ in 0..2 {
                assert_eq!(counter.read(&frame(4, 8, 0), 0, sent), Ok(()));
            }
        }
        // What was sent long ago earns nothing.
        let updates = |counter: &mut FrameCounter, now| {
            (0..100_000).find_map(|_| counter.read(&frame(4, 8, 0), now, 10_000).err())
        };
        assert_eq!(updates(&mut counter, 3 * SPAN), None, "the answers to the last ones may be late");
        assert_eq!(updates(&mut counter, 4 * SPAN), Some(Offence::WindowUpdate));
    }
}
