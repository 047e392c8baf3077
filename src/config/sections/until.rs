//! Dates at which something ends.

use super::super::tree::{Kind, Node};
use super::super::value::{Fault, Value, parse, quote};

/// A day, which counts to its end in UTC, or a moment.
#[derive(Clone, Debug)]
pub(super) struct Until {
    /// Since the epoch.
    pub(super) secs: u64,
    text: String,
}

impl Value for Until {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        let expected = "a date like \"2027-03-31\"";
        if let Kind::Datetime(text) = &node.kind {
            return until(text).map_err(|message| vec![Fault::new(message, node)]);
        }
        parse(expected, node, until)
    }
    fn show(&self) -> String {
        quote(&self.text)
    }
}

fn until(text: &str) -> Result<Until, String> {
    let day = text.len() == "2027-03-31".len();
    let moment = if day { format!("{text}T23:59:59Z") } else { text.to_owned() };
    let parsed = humantime::parse_rfc3339(&moment)
        .map_err(|_| format!("{} is no date like \"2027-03-31\" or \"2027-03-31T12:00:00Z\"", quote(text)))?;
    let since = parsed.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Until { secs: since.as_secs() + u64::from(day), text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_counts_to_its_end_and_a_moment_is_one() {
        assert_eq!(until("2027-03-31").expect("a day").secs, 1_806_537_600);
        assert_eq!(until("2027-03-31T12:00:00Z").expect("a moment").secs, 1_806_494_400);
        for bad in ["", "soon", "2027-3-31", "31.03.2027", "2027-02-30", "2027-03-31T12:00:00", "12:00:00"] {
            assert!(until(bad).is_err(), "{bad}");
        }
    }
}
