//! What commands print on standard output: aligned tables, ages, JSON. A reader that has gone away is no reason to panic.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct StdoutClosed;

/// Writes to standard output at once.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
    }
}

/// Writes a line to standard error; there is nobody to tell when that fails.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a value as indented JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Rows under headings, each column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        // A line break or an escape sequence in a name must not draw on the terminal.
        self.rows.push(cells.iter().map(|cell| one_line(cell)).collect());
    }

    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width_of = |column: usize| {
            self.rows.iter().filter_map(|row: &Vec<String>| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width_of(column).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        };
        self.rows.iter().map(line).collect()
    }
}

/// Names and values, one a line; values that are not there are left out.
pub fn fields(pairs: &[(&str, Option<String>)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let given = pairs.iter().filter_map(|(name, value)| value.as_ref().map(|value| (name, value)));
    given.map(|(name, value)| format!("{name:<width$}  {}\n", one_line(value))).collect()
}

/// The text with control characters replaced.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `2026-11-21T04:00:00Z`.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// `2026-11-21T04:00:00Z (2 hours ago)`.
pub fn instant_and_age(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ({})", instant(at), age(at, now))
}

/// `2 hours ago`, `in 29 days`, `now`.
pub fn age(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - at).num_seconds();
    let (size, unit) = match seconds.unsigned_abs() {
        0..5 => return "now".to_owned(),
        s @ 5..120 => (s, "second"),
        s @ 120..7_200 => (s / 60, "minute"),
        s @ 7_200..172_800 => (s / 3_600, "hour"),
        s => (s / 86_400, "day"),
    };
    let plural = if size == 1 { "" } else { "s" };
    if seconds >= 0 { format!("{size} {unit}{plural} ago") } else { format!("in {size} {unit}{plural}") }
}

#[cfg(test)]
mod tests {
    use chrono::{Duration, TimeZone};

    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_cannot_leave_their_line() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(vec!["a".into(), "Ünal\n\u{1b}[2J".into()]);
        table.row(vec!["longer".into(), "b".into()]);
        assert_eq!(table.render(), "ID      NAME\na       Ünal  [2J\nlonger  b\n");
    }

    #[test]
    fn ages_are_written_for_people() {
        let now = Utc.with_ymd_and_hms(2026, 11, 21, 4, 0, 0).unwrap();
        for (before, expected) in [
            (0, "now"),
            (90, "90 seconds ago"),
            (3_600, "60 minutes ago"),
            (7_200, "2 hours ago"),
            (86_400 * 3, "3 days ago"),
            (-86_400 * 30, "in 30 days"),
        ] {
            assert_eq!(age(now - Duration::seconds(before), now), expected);
        }
        assert_eq!(instant_and_age(now, now), "2026-11-21T04:00:00Z (now)");
    }
}
