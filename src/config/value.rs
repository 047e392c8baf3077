//! How each type is read from a value and written back as TOML.
//!
//! A wrong value gives one [`Fault`] or, in a list, one for each wrong member.

use std::fmt::Write as _;
use std::time::Duration;

use super::origin::Origin;
use super::tree::{Kind, Node};
use super::units;
use crate::settings::Rate;

/// What is wrong with a value, and where exactly.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) origin: Origin,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, node: &Node) -> Self {
        Self { message: message.into(), origin: node.origin.clone() }
    }

    fn wrong_type(expected: &str, node: &Node) -> Vec<Self> {
        vec![Self::new(format!("expected {expected}, found {}", node.type_name()), node)]
    }
}

/// Something that a key's value is read as.
pub(super) trait Value: Sized {
    /// Reads it, or says everything that is wrong with it.
    fn read(node: &Node) -> Result<Self, Vec<Fault>>;
    /// As TOML.
    fn show(&self) -> String;
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Spot<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// Text, with what it is for when something else is found.
pub(super) fn text<'n>(expected: &str, node: &'n Node) -> Result<&'n str, Vec<Fault>> {
    node.as_text().ok_or_else(|| Fault::wrong_type(expected, node))
}

/// Reads text through a parser.
pub(super) fn parse<T>(
    expected: &str,
    node: &Node,
    parser: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, Vec<Fault>> {
    parser(text(expected, node)?).map_err(|message| vec![Fault::new(message, node)])
}

/// A TOML basic string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

impl Value for String {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        text("a string", node).map(str::to_owned)
    }
    fn show(&self) -> String {
        quote(self)
    }
}

impl Value for bool {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        match node.kind {
            Kind::Boolean(value) => Ok(value),
            _ => Err(Fault::wrong_type("true or false", node)),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// Whole numbers that cannot be negative.
macro_rules! number {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn read(node: &Node) -> Result<Self, Vec<Fault>> {
                let Kind::Integer(value) = node.kind else {
                    return Err(Fault::wrong_type("a whole number", node));
                };
                let fault = match value {
                    Some(value) if value < 0 => "must not be negative",
                    _ => "is too large",
                };
                let value = value.and_then(|value| value.try_into().ok());
                value.ok_or_else(|| vec![Fault::new(fault, node)])
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
number!(u32);

impl Value for usize {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        u32::read(node).map(|value| value as Self)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Duration {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        if let Kind::Integer(Some(number)) = node.kind {
            let message = format!(
                "expected a duration with its unit, found the number {number}; did you mean \"{number}s\"?"
            );
            return Err(vec![Fault::new(message, node)]);
        }
        parse("a duration like \"15m\"", node, units::parse_duration)
    }
    fn show(&self) -> String {
        quote(&units::show_duration(*self))
    }
}

impl Value for Size {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        if let Kind::Integer(Some(number)) = node.kind {
            let message = format!(
                "expected a size with its unit, found the number {number}; did you mean \"{number}B\"?"
            );
            return Err(vec![Fault::new(message, node)]);
        }
        parse("a size like \"64KiB\"", node, units::parse_size).map(Size)
    }
    fn show(&self) -> String {
        quote(&units::show_size(self.0))
    }
}

impl Value for Rate {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a rate like \"20/h\"", node, units::parse_rate)
    }
    fn show(&self) -> String {
        quote(&units::show_rate(*self))
    }
}

/// A list. From the environment or `--set`, one string is a list of one: nobody writes brackets in
/// `GATEPOST__SERVER__LISTEN=0.0.0.0:8080`.
impl<T: Value> Value for Vec<Spot<T>> {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        let items = match &node.kind {
            Kind::Array(items) => items.as_slice(),
            Kind::String(text) if node.origin.is_overlay() && text.is_empty() => &[],
            Kind::String(_) if node.origin.is_overlay() => std::slice::from_ref(node),
            _ => return Err(Fault::wrong_type("an array", node)),
        };
        let mut values = Vec::with_capacity(items.len());
        let mut faults = Vec::new();
        for item in items {
            match T::read(item) {
                Ok(value) => values.push(Spot { value, origin: item.origin.clone() }),
                Err(found) => faults.extend(found),
            }
        }
        if faults.is_empty() { Ok(values) } else { Err(faults) }
    }
    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| item.value.show()).collect();
        format!("[{}]", items.join(", "))
    }
}

/// A list that may be written as its only member.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(pub(super) Vec<Spot<T>>);

impl<T: Value> Value for OneOrMany<T> {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        if !node.origin.is_overlay() && matches!(node.kind, Kind::String(_)) {
            let value = T::read(node)?;
            return Ok(Self(vec![Spot { value, origin: node.origin.clone() }]));
        }
        Vec::<Spot<T>>::read(node).map(Self)
    }
    fn show(&self) -> String {
        self.0.show()
    }
}

/// A value that is written as one of a few words.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// Every word and what it stands for.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Word> Value for T {
    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        parse("a string", node, |text| {
            let known = T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            known.ok_or_else(|| {
                let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
                unknown_word(text, &words)
            })
        })
    }
    fn show(&self) -> String {
        let word = T::WORDS.iter().find(|(_, value)| value == self).map_or("", |(word, _)| *word);
        quote(word)
    }
}

/// `"clsed" is not one of "open", "closed"; did you mean "closed"?`
fn unknown_word(text: &str, words: &[&str]) -> String {
    let listed: Vec<String> = words.iter().map(|word| quote(word)).collect();
    let suggestion =
        nearest(text, words.iter().copied()).map(|word| format!("; did you mean {}?", quote(word)));
    let listed = match listed.as_slice() {
        [one] => format!("is not {one}"),
        many => format!("is none of {}", many.join(", ")),
    };
    format!("{} {listed}{}", quote(text), suggestion.unwrap_or_default())
}

/// The known word that somebody most likely meant.
pub(super) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // Distances are quadratic in the lengths, and no key of ours is long.
    if text.len() > 64 {
        return None;
    }
    let folded = text.to_lowercase().replace('-', "_");
    let distance = |word: &&str| strsim::damerau_levenshtein(&folded, &word.to_lowercase().replace('-', "_"));
    let longest = |word: &str| (word.len().max(text.len()) / 3).max(1);
    words
        .map(|word| (distance(&word), word))
        .filter(|(distance, word)| *distance <= longest(word))
        .min()
        .map(|(_, word)| word)
}
