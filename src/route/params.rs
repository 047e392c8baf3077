//! What stood in the places of a pattern's `{name}`s.

use std::borrow::Cow;

/// Path parameters: names and raw values, in the client's case.
#[derive(Clone, Debug)]
pub struct Params<'t, 'p> {
    names: &'t [Box<str>],
    values: Values<'p>,
}

impl<'t, 'p> Params<'t, 'p> {
    pub(super) const fn new(names: &'t [Box<str>], values: Values<'p>) -> Self {
        Self { names, values }
    }

    /// The raw value: a whole segment of the canonical path, never empty.
    pub fn get(&self, name: &str) -> Option<&'p str> {
        self.names.iter().position(|known| **known == *name).and_then(|at| self.values.at(at))
    }

    /// The value after one percent-decoding. `None` for a name that the pattern does not have.
    pub fn decoded(&self, name: &str) -> Option<Cow<'p, str>> {
        percent_encoding::percent_decode_str(self.get(name)?).decode_utf8().ok()
    }

    /// Names and raw values, from left to right.
    pub fn iter(&self) -> impl Iterator<Item = (&'t str, &'p str)> {
        self.names.iter().enumerate().filter_map(|(at, name)| Some((&**name, self.values.at(at)?)))
    }
}

const INLINE: usize = 4;

/// What stood in the places of parameters, from left to right. The first few need no allocation.
#[derive(Clone, Debug, Default)]
pub(super) struct Values<'p> {
    inline: [&'p str; INLINE],
    len: usize,
    more: Vec<&'p str>,
}

impl<'p> Values<'p> {
    pub(super) fn push(&mut self, value: &'p str) {
        if let Some(place) = self.inline.get_mut(self.len) {
            *place = value;
        } else {
            self.more.push(value);
        }
        self.len += 1;
    }

    pub(super) fn pop(&mut self) {
        self.len -= 1;
        self.more.truncate(self.len.saturating_sub(INLINE));
    }

    pub(super) fn at(&self, index: usize) -> Option<&'p str> {
        if index >= self.len {
            return None;
        }
        self.inline.get(index).or_else(|| self.more.get(index - INLINE)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_inline_ones_come_back_in_order() {
        let mut values = Values::default();
        for value in ["a", "b", "c", "d"] {
            values.push(value);
        }
        assert_eq!(values.more.capacity(), 0, "four need no allocation");
        values.push("e");
        values.push("f");
        values.pop();
        values.push("g");
        let all: Vec<_> = (0..7).map(|index| values.at(index)).collect();
        assert_eq!(all, [Some("a"), Some("b"), Some("c"), Some("d"), Some("e"), Some("g"), None]);
        for _ in 0..6 {
            values.pop();
        }
        assert_eq!(values.at(0), None);
    }
}
