//! Where frames begin and end (RFC 6455 section 5.2). Payloads are counted, never looked at.

/// The longest head of a frame: two bytes, eight of length, four of mask.
const HEAD_MAX: usize = 14;
/// The opcode of Close (RFC 6455 section 5.5.1).
const CLOSE: u8 = 0x8;

/// Follows the frames of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameTracker {
    head: [u8; HEAD_MAX],
    /// Bytes of the head that are there.
    have: usize,
    /// Bytes of the payload that are not.
    left: u64,
    closing: bool,
    closed: bool,
    lost: bool,
}

impl FrameTracker {
    /// Whether the next byte begins a frame, so that another one may go before it.
    pub(super) const fn is_between_frames(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.lost
    }

    /// Whether a Close has passed: nothing may follow it.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether what passed is no sequence of frames. The endpoints judge that; we only stop counting.
    pub(super) const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Notes bytes that pass.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            let step = self.step(bytes);
            bytes = &bytes[step..];
        }
    }

    /// Notes bytes up to the end of the frame that is under way; says how many those are.
    pub(super) fn pass_to_end_of_frame(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() && !self.is_between_frames() && !self.lost {
            passed += self.step(&bytes[passed..]);
        }
        passed
    }

    /// One byte of a head, or all that there is of a payload.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let step = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= step as u64;
            if self.left == 0 {
                self.end_frame();
            }
            return step;
        }
        self.head[self.have] = bytes[0];
        self.have += 1;
        if self.have >= 2 && self.have == self.head_length() {
            self.begin_payload();
        }
        1
    }

    /// How long the head is, as its first two bytes say.
    const fn head_length(&self) -> usize {
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + mask
    }

    fn begin_payload(&mut self) {
        let [_, _, bytes @ ..] = &self.head;
        self.left = match self.head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([bytes[0], bytes[1]])),
            127 => bytes[..8].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            length => u64::from(length),
        };
        self.have = 0;
        self.closing = self.head[0] & 0xf == CLOSE;
        // The most significant bit must be 0.
        self.lost = self.left > u64::MAX >> 1;
        if self.left == 0 {
            self.end_frame();
        }
    }

    const fn end_frame(&mut self) {
        self.closed |= self.closing;
    }
}

/// A Close frame. What a client sends is masked (RFC 6455 section 5.3). The reason may be 123 bytes long.
pub(super) fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126);
    let length = length.expect("reasons of ours are short");
    let mut frame = vec![0x80 | CLOSE];
    match mask {
        None => {
            frame.push(length);
            frame.extend(payload);
        }
        Some(mask) => {
            frame.push(0x80 | length);
            frame.extend(mask);
            frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(bytes: &[u8]) -> FrameTracker {
        let mut tracker = FrameTracker::default();
        tracker.pass(bytes);
        tracker
    }

    /// A frame with a payload of zeros, in the shortest form of its length.
    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mut frame = vec![opcode];
        let mask = if masked { 0x80 } else { 0x00 };
        match length {
            0..=125 => frame.push(mask | u8::try_from(length).expect("small")),
            126..=0xffff => {
                frame.push(mask + 126);
                frame.extend(u16::try_from(length).expect("small").to_be_bytes());
            }
            _ => {
                frame.push(mask + 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0; length + if masked { 4 } else { 0 }]);
        frame
    }

    #[test]
    fn frames_of_every_length_end_where_they_end() {
        for masked in [false, true] {
            for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, 0x1_0001] {
                let frame = frame(0x82, length, masked);
                let whole = tracker(&frame);
                assert!(whole.is_between_frames() && !whole.is_closed(), "{length} {masked}");
                for cut in [1, 2, frame.len() - 1] {
                    if cut < frame.len() {
                        assert!(!tracker(&frame[..cut]).is_between_frames(), "{length} {masked} {cut}");
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let frames = [frame(0x01, 200, true), frame(0x89, 3, true), frame(0x80, 0, true)].concat();
        let mut tracker = FrameTracker::default();
        let ends: Vec<_> = frames
            .iter()
            .enumerate()
            .filter_map(|(at, byte)| {
                tracker.pass(&[*byte]);
                tracker.is_between_frames().then_some(at + 1)
            })
            .collect();
        assert_eq!(ends, [208, 217, 223]);
    }

    #[test]
    fn passing_to_the_end_stops_there() {
        let frames = [frame(0x82, 10, false), frame(0x82, 20, false)].concat();
        let mut tracker = tracker(&frames[..5]);
        assert_eq!(tracker.pass_to_end_of_frame(&frames[5..]), 7);
        assert_eq!(
            tracker.pass_to_end_of_frame(&frames[12..]),
            0,
            "between two frames there is nothing left"
        );
    }

    #[test]
    fn a_close_is_noticed_when_all_of_it_has_passed() {
        for frame in [close(1008, "token expired", None), close(1001, "", Some([1, 2, 3, 4])), vec![0x88, 0]]
        {
            assert!(!tracker(&frame[..frame.len() - 1]).is_closed());
            assert!(tracker(&frame).is_closed() && tracker(&frame).is_between_frames());
        }
        assert!(!tracker(&frame(0x82, 8, false)).is_closed());
    }

    #[test]
    fn an_impossible_length_ends_the_counting() {
        let lost = tracker(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x88, 0]);
        assert!(lost.is_lost() && !lost.is_between_frames() && !lost.is_closed());
    }

    #[test]
    fn a_close_of_ours_reads_as_one() {
        assert_eq!(close(1008, "hi", None), b"\x88\x04\x03\xf0hi");
        assert_eq!(close(1001, "", Some([0xff, 0, 0xff, 0])), b"\x88\x82\xff\0\xff\0\xfc\xe9");
    }
}
