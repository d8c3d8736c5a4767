//! `subjects.md`, rendered from the tables.

use std::fmt::Write as _;

use super::error::ErrorCode;
use super::route::{ROUTES, Route};
use crate::domain::alert::Case;

/// The text of `subjects.md`.
#[must_use]
pub fn render() -> String {
    let mut page = String::from(include_str!("reference.head.md"));
    page.push_str("\n## Subjects\n\n| subject | what it does |\n|---|---|\n");
    for route in ROUTES {
        let _ = writeln!(page, "| [`{}`](#{}) | {} |", subject(route), anchor(route), route.summary);
    }
    page.push_str("\n## Error codes\n\nAny call can get `bad_request`, `forbidden`, `too_large`, `overloaded`, `unavailable` and `internal`.\n\n| code | number | when |\n|---|---|---|\n");
    for code in ErrorCode::ALL {
        let _ = writeln!(page, "| `{code}` | {} | {} |", code.number(), code.when());
    }
    page.push_str("\n## Each subject\n");
    for route in ROUTES {
        render_route(&mut page, route);
    }
    page.push_str(&include_str!("reference.tail.md").replace("<!-- cases -->\n", &cases()));
    page
}

/// What calls for an alert.
fn cases() -> String {
    let mut table = String::from("| source | kind | severity | when |\n|---|---|---|---|\n");
    for case in Case::ALL {
        let (kind, severity) = (case.kind(), case.severity());
        let _ = writeln!(table, "| `{}` | `{}` | `{severity}` | {} |", kind.source(), kind.as_str(), case.when());
    }
    table
}

fn subject(route: &Route) -> String {
    format!("hub.{}", route.pattern.replace('*', "<service>"))
}

/// GitHub's anchor of the heading that is the subject in backquotes.
fn anchor(route: &Route) -> String {
    subject(route).chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
}

fn render_route(page: &mut String, route: &Route) {
    let _ = writeln!(page, "\n### `{}`\n\n{}\n", subject(route), route.summary);
    if route.fields.is_empty() {
        page.push_str("No fields.\n");
    } else {
        page.push_str("| field | type | |\n|---|---|---|\n");
    }
    for field in route.fields {
        let needed = if field.required { "**Required.** " } else { "" };
        let _ = writeln!(page, "| `{}` | {} | {needed}{} |", field.name, field.kind, field.doc);
    }
    if !route.errors.is_empty() {
        let codes: Vec<_> = route.errors.iter().map(|code| format!("`{code}`")).collect();
        let _ = writeln!(page, "\nErrors of its own: {}.", codes.join(", "));
    }
    let example = format!("hub.{}", route.pattern.replace('*', "tick-aggregator"));
    let _ = writeln!(page, "\n```console\n$ nats req {example} '{}'\n{}\n```", route.request, route.reply);
    let _ = writeln!(page, "\nOn the command line: `central-hub {}`", route.command);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::event::Kind;
    use super::*;

    #[test]
    fn each_kind_of_event_is_told() {
        let page = render();
        for (_, kind) in Kind::ALL {
            let told = [format!(".{kind}`"), format!("`{kind}`")];
            assert!(told.iter().any(|word| page.contains(word)), "{kind}");
        }
    }

    /// `UPDATE_REFERENCE=1 cargo test reference` writes the page anew.
    #[test]
    fn subjects_md_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/subjects.md");
        let fresh = render();
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::write(path, &fresh).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == fresh, "subjects.md is stale: run UPDATE_REFERENCE=1 cargo test --lib reference");
    }
}
