//! Tables for people: aligned columns without borders, colours on a terminal only.

use std::io::IsTerminal as _;

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use time::OffsetDateTime;

use super::session::Out;
use crate::domain::status::Status;
use crate::wire::registry::DependencyStatus;

/// A table with these headings, if any.
#[must_use]
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !headings.is_empty() {
        table.set_header(headings.iter().map(|heading| Cell::new(heading.to_uppercase())));
    }
    table
}

/// The table's text: each line without blanks at its end. On a terminal, a last column that doesn't fit is wrapped.
#[must_use]
pub fn text(table: &mut Table) -> String {
    text_without(&[], table)
}

/// The same, where a terminal that is too narrow doesn't show the columns `dispensable`, the first of them first.
#[must_use]
pub fn text_without(dispensable: &[usize], table: &mut Table) -> String {
    if std::io::stdout().is_terminal()
        && let Ok((width, _)) = ratatui::crossterm::terminal::size()
    {
        narrow(table, dispensable, width);
        fit(table, width);
    }
    // The first column begins where the line does.
    let lines = table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Hides as many of the columns `dispensable` as it takes to be no wider than `width`.
fn narrow(table: &mut Table, dispensable: &[usize], width: u16) {
    let widths = table.column_max_content_widths();
    // Two blanks between columns.
    let mut taken = widths.iter().map(|column| column + 2).sum::<u16>().saturating_sub(2);
    for index in dispensable {
        if taken > width
            && let Some(column) = table.column_mut(*index)
        {
            column.set_constraint(ColumnConstraint::Hidden);
            taken -= widths.get(*index).map_or(0, |column| column + 2);
        }
    }
}

/// Wraps the last column, where free text stands, so that the table is no wider than `width`, if that leaves it some room.
fn fit(table: &mut Table, width: u16) {
    const LEAST: u16 = 20;
    let widths = table.column_max_content_widths();
    let Some((last, others)) = widths.split_last() else { return };
    // Two blanks between columns: one on each side, of which the first line's is cut off and the last one's is none.
    let taken: u16 = others.iter().map(|other| other + 2).sum();
    let room = width.saturating_sub(taken);
    if *last > room
        && room >= LEAST
        && let Some(column) = table.column_mut(widths.len() - 1)
    {
        // The constraint counts the blanks on both sides.
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(room + 2)));
    }
}

/// A cell that shows a status in its colour.
#[must_use]
pub fn status(status: Status, out: &Out) -> Cell {
    coloured(status.as_str(), colour(Some(status).into()), out)
}

/// A status in its colour, outside a table.
#[must_use]
pub fn painted(status: Status, out: &Out) -> String {
    let code = match status {
        Status::Healthy => "32",
        Status::Degraded => "33",
        Status::Down => "31",
    };
    if out.colour { format!("\x1b[{code}m{status}\x1b[0m") } else { status.to_string() }
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
        assert_eq!(text(&mut some), "NAME    X\na       1\nlonger");
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters() {
        let wide = || {
            let mut some = table(&["name", "version", "address", "heard"]);
            some.add_row(["tick", "1.2.3", "10.0.0.5:8002", "3s ago"]);
            some
        };
        for (width, shown) in [
            (80, "NAME  VERSION  ADDRESS        HEARD\ntick  1.2.3    10.0.0.5:8002  3s ago"),
            (36, "NAME  VERSION  ADDRESS        HEARD\ntick  1.2.3    10.0.0.5:8002  3s ago"),
            (35, "NAME  ADDRESS        HEARD\ntick  10.0.0.5:8002  3s ago"),
            (20, "NAME  HEARD\ntick  3s ago"),
        ] {
            let mut some = wide();
            narrow(&mut some, &[1, 2], width);
            assert_eq!(text(&mut some), shown);
        }
    }

    #[test]
    fn what_is_too_wide_is_wrapped_in_its_column() {
        let mut some = table(&["name", "what"]);
        some.add_row(["kafka", "no target: set one in the settings of the hub, or elsewhere"]);
        fit(&mut some, 40);
        let shown = text(&mut some);
        assert_eq!(shown, "NAME   WHAT\nkafka  no target: set one in the\n       settings of the hub, or elsewhere");
        assert!(shown.lines().all(|line| line.len() <= 40), "{shown}");
    }
}
