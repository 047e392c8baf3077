//! Tables and JSON on standard output.

use std::io::{self, Write};

use serde::Serialize;

use super::CliError;

/// Rows under headings, the columns as wide as they must be. For people; programs take `--json`.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// A table of names and values without headings.
    pub(super) fn of_pairs() -> Self {
        Self { rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        self.rows.push(cells.into_iter().map(|cell| printable(cell.as_ref())).collect());
    }

    pub(super) fn pair(&mut self, name: &str, value: impl AsRef<str>) {
        self.row([name, value.as_ref()]);
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// What people registered (names, user agents) must not reach the operator's terminal as commands, nor
/// turn a line's direction around.
pub(super) fn printable(text: &str) -> String {
    let risky = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    if !text.contains(risky) {
        return text.to_owned();
    }
    let escape = |c: char| if risky(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Prints a value as JSON, indented.
pub(super) fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// A size in bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((unit, scale)) = UNITS.into_iter().find(|(_, scale)| bytes >= *scale) else {
        return format!("{bytes} B");
    };
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        rest => format!("{}.{rest} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_spaces() {
        let mut table = Table::new(&["USERNAME", "ROLES"]);
        table.row(["alice", "admin, user"]);
        table.row(["ünïcödé-name", ""]);
        let mut out = Vec::new();
        table.print(&mut out).expect("printed");
        let text = String::from_utf8(out).expect("UTF-8");
        assert_eq!(text, "USERNAME      ROLES\nalice         admin, user\nünïcödé-name\n");
    }

    #[test]
    fn hostile_cells_do_not_reach_the_terminal() {
        let mut table = Table::of_pairs();
        table.pair("client", "\u{1b}[2Jcurl\r\nx\u{202e}y");
        let mut out = Vec::new();
        table.print(&mut out).expect("printed");
        assert_eq!(out, b"client  \\u{1b}[2Jcurl\\r\\nx\\u{202e}y\n");
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (19 << 20, "19 MiB"), (3 << 29, "1.5 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
