//! Durations (`"15m"`), sizes (`"64KiB"`) and rates (`"20/h"`): how they are read and written.
//!
//! A number without a unit is refused, since nobody agrees on which one it would be. There are no
//! months and years: nobody agrees on their length either.

use std::fmt::Write as _;
use std::time::Duration;

use crate::settings::Rate;

/// Longer than any token should live; it keeps sums of times far from overflow.
const LONGEST: Duration = Duration::from_hours(3650 * 24);

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 6] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("MB", 1_000_000), ("KB", 1000), ("B", 1)];

/// `"1h30m"`, `"500ms"`: whole numbers with a unit each, from the largest to the smallest.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault =
        || format!("{text:?} is no duration; write a number and a unit (ms, s, m, h, d), as in \"15m\"");
    if let Ok(number) = text.parse::<u64>() {
        return Err(format!("{text:?} has no unit; did you mean \"{number}s\"?"));
    }
    let mut rest = text;
    let mut total = 0_u64;
    let mut smaller_than = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(fault)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, millis) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(fault)?;
        if millis >= smaller_than {
            return Err(fault());
        }
        smaller_than = millis;
        total = number.checked_mul(millis).and_then(|part| total.checked_add(part)).unwrap_or(u64::MAX);
        rest = after;
    }
    let duration = Duration::from_millis(total);
    match (text.is_empty(), duration > LONGEST) {
        (true, _) => Err(fault()),
        (_, true) => Err(format!("{text:?} is longer than ten years")),
        _ => Ok(duration),
    }
}

/// The shortest spelling that [`parse_duration`] reads back.
pub(super) fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    // One unit where one will do ("90m" is fine as "1h30m", "30d" must not become "720h").
    let mut shown = String::new();
    for (unit, millis) in DURATION_UNITS.into_iter().rev() {
        if rest >= millis {
            let _ = write!(shown, "{}{unit}", rest / millis);
            rest %= millis;
        }
    }
    shown
}

/// `"64KiB"`, `"10MB"`, `"512B"`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let fault = || {
        format!("{text:?} is no size; write a number and a unit (B, KiB, MiB, GiB, KB, MB), as in \"64KiB\"")
    };
    let (number, unit) = split_number(text).ok_or_else(fault)?;
    let unit = unit.trim_start_matches(' ');
    if unit.is_empty() {
        return Err(format!("{text:?} has no unit; did you mean \"{number}B\"?"));
    }
    if let Some((_, factor)) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit) {
        return number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"));
    }
    let meant = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "ki" | "kib" => "KiB",
        "m" | "mb" | "mi" | "mib" => "MiB",
        "g" | "gb" | "gi" | "gib" => "GiB",
        "b" => "B",
        _ => return Err(fault()),
    };
    Err(format!("{text:?} is no size; did you mean \"{number}{meant}\"?"))
}

/// The spelling with the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let exact = |(_, factor): &(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZE_UNITS.into_iter().find(exact).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// `"20/h"`: so many in a second, a minute, an hour or a day.
pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    let fault = || format!("{text:?} is no rate; write a number, a slash and s, m, h or d, as in \"20/h\"");
    let (count, unit) = text.split_once('/').ok_or_else(fault)?;
    let count: u32 = plain_number(count).and_then(|count| count.parse().ok()).ok_or_else(fault)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(fault()),
    };
    if count == 0 {
        return Err("a rate of 0 would let nobody through".to_owned());
    }
    Ok(Rate { count, per: Duration::from_secs(seconds) })
}

/// As [`parse_rate`] reads it.
pub(super) fn show_rate(rate: Rate) -> String {
    let unit = match rate.per.as_secs() {
        1 => "s",
        60 => "m",
        3600 => "h",
        _ => "d",
    };
    format!("{}/{unit}", rate.count)
}

/// A whole number and what stands behind it.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((plain_number(digits)?.parse().ok()?, rest))
}

/// Digits only: `"+5"` parses as a number in Rust.
fn plain_number(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("15m", 900_000),
            ("1h30m", 5_400_000),
            ("30d", 2_592_000_000),
            ("1d1h1m1s1ms", 90_061_001),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["0s", "500ms", "15m", "1h30m", "30d", "1d1h1m1s1ms"] {
            assert_eq!(show_duration(parse_duration(text).expect("a duration")), text);
        }
        for bad in [
            "",
            "s",
            "15",
            "15 m",
            "1.5h",
            "-1s",
            "+1s",
            "1y",
            "1month",
            "1w",
            "1m1h",
            "1s1s",
            "15min",
            "1M",
            "99999999999d",
            "18446744073709551616s",
            "3651d",
            "١s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_duration("15"), Err("\"15\" has no unit; did you mean \"15s\"?".to_owned()));
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes, shown) in [
            ("0B", 0, "0B"),
            ("512B", 512, "512B"),
            ("64KiB", 65_536, "64KiB"),
            ("64 KiB", 65_536, "64KiB"),
            ("19MiB", 19 << 20, "19MiB"),
            ("2GiB", 2 << 30, "2GiB"),
            ("10MB", 10_000_000, "10MB"),
            ("1KB", 1000, "1KB"),
            ("1024KiB", 1 << 20, "1MiB"),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), shown);
        }
        for (bad, message) in [
            ("64", "\"64\" has no unit; did you mean \"64B\"?"),
            ("64k", "\"64k\" is no size; did you mean \"64KiB\"?"),
            ("64mb", "\"64mb\" is no size; did you mean \"64MiB\"?"),
            ("99999999999GiB", "\"99999999999GiB\" is too large"),
        ] {
            assert_eq!(parse_size(bad), Err(message.to_owned()));
        }
        for bad in ["", "B", "-1B", "1.5MiB", "1TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_counts_in_a_span() {
        for (text, count, seconds) in [("20/h", 20, 3600), ("1/s", 1, 1), ("5/m", 5, 60), ("9/d", 9, 86_400)]
        {
            let rate = parse_rate(text).expect("a rate");
            assert_eq!(rate, Rate { count, per: Duration::from_secs(seconds) });
            assert_eq!(show_rate(rate), text);
        }
        for bad in ["", "20", "/h", "20/", "20/w", "0/h", "-1/h", "+1/h", "1 / h", "99999999999/h"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
