//! Tables for people: aligned columns without borders, colours on a terminal only.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use time::OffsetDateTime;

use super::session::Out;
use crate::domain::status::Status;
use crate::wire::registry::DependencyStatus;

/// A table with these headings.
#[must_use]
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| Cell::new(heading.to_uppercase())));
    table
}

/// The table's text: each line without blanks at its end.
#[must_use]
pub fn text(table: &Table) -> String {
    // The first column begins where the line does.
    let lines = table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// A cell that shows a status in its colour.
#[must_use]
pub fn status(status: Status, out: &Out) -> Cell {
    coloured(status.as_str(), colour(Some(status).into()), out)
}

/// A cell that shows a dependency's status in its colour.
#[must_use]
pub fn dependency(status: DependencyStatus, out: &Out) -> Cell {
    coloured(status.as_str(), colour(status), out)
}

/// A cell in a colour, where colours are shown.
#[must_use]
pub fn coloured(text: &str, colour: Color, out: &Out) -> Cell {
    let cell = Cell::new(text);
    if out.colour { cell.fg(colour) } else { cell }
}

fn colour(status: DependencyStatus) -> Color {
    match status {
        DependencyStatus::Healthy => Color::Green,
        DependencyStatus::Degraded => Color::Yellow,
        DependencyStatus::Down => Color::Red,
        DependencyStatus::Unknown => Color::DarkGrey,
    }
}

/// How long ago, in its two largest units: `3s`, `4m 10s`, `2d 3h`. What lies ahead, by a clock that differs, is now.
#[must_use]
pub fn ago(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (now - at).whole_seconds().max(0);
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (length, unit) in units {
        if rest >= length || (unit == "s" && parts.is_empty()) {
            parts.push(format!("{}{unit}", rest / length));
        } else if !parts.is_empty() {
            break;
        }
        rest %= length;
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

/// What is there, or a dash.
#[must_use]
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (250, "4m 10s"), (3_600, "1h"), (183_600, "2d 3h")]
        {
            assert_eq!(ago(at(0), at(seconds)), text);
        }
        assert_eq!(ago(at(5), at(0)), "0s", "another clock");
    }

    #[test]
    fn columns_are_aligned_and_lines_end_where_their_text_does() {
        let mut some = table(&["name", "x"]);
        some.add_row(["a", "1"]).add_row(["longer", ""]);
        assert_eq!(text(&some), "NAME    X\na       1\nlonger");
    }
}
