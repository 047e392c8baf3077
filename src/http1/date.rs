//! `Date` (RFC 9110 section 5.6.7): a time as HTTP writes it.

use crate::clock::Timestamp;

/// A time as in `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpDate([u8; 29]);

impl HttpDate {
    /// The second that `time` lies in. Years past 9999 are written as 9999.
    #[must_use]
    pub fn new(time: Timestamp) -> Self {
        let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
        write_date(&mut text, time.secs().min(253_402_300_799));
        Self(text)
    }

    /// The text.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 29] {
        &self.0
    }
}

/// Writes the time, in seconds since the epoch, into a text of the right form.
fn write_date(text: &mut [u8; 29], secs: u64) {
    const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
    const MONTHS: &[u8; 36] = b"MarAprMayJunJulAugSepOctNovDecJanFeb";
    let (days, time) = (secs / 86_400, secs % 86_400);
    // Years that begin in March and eras of 400 of them: leap days come last, and all eras are alike.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    copy_word(&mut text[0..3], DAYS, days % 7);
    write_two(&mut text[5..7], day);
    copy_word(&mut text[8..11], MONTHS, month);
    write_two(&mut text[12..14], year / 100);
    write_two(&mut text[14..16], year % 100);
    write_two(&mut text[17..19], time / 3_600);
    write_two(&mut text[20..22], time / 60 % 60);
    write_two(&mut text[23..25], time % 60);
}

fn copy_word(text: &mut [u8], words: &[u8], index: u64) {
    let start = usize::try_from(index).unwrap_or_default() * 3;
    text.copy_from_slice(&words[start..start + 3]);
}

fn write_two(text: &mut [u8], number: u64) {
    let number = u8::try_from(number).unwrap_or_default();
    text.copy_from_slice(&[b'0' + number / 10, b'0' + number % 10]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_rfc_has_them() {
        for (secs, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_795_305_600, "Sun, 22 Nov 2026 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX / 1000, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            let date = HttpDate::new(Timestamp::from_secs(secs));
            assert_eq!(std::str::from_utf8(date.as_bytes()), Ok(text), "{secs}");
        }
    }
}
