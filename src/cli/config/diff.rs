//! The difference between two configs, as people read it.

use similar::{ChangeTag, TextDiff};

use crate::cli::session::Out;

/// Lines that are shown around a change.
const CONTEXT: usize = 3;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// A unified diff of two texts, each with its name; empty when they are the same.
#[must_use]
pub fn unified(before: (&str, &str), after: (&str, &str), out: &Out) -> String {
    let diff = TextDiff::from_lines(before.1, after.1);
    let painted = |colour: &str, text: &str| {
        if out.colour { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    };
    let mut lines = Vec::new();
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        if lines.is_empty() {
            lines.push(painted(RED, &format!("--- {}", before.0)));
            lines.push(painted(GREEN, &format!("+++ {}", after.0)));
        }
        lines.push(painted(CYAN, &hunk.header().to_string()));
        for change in hunk.iter_changes() {
            let text = change.value().trim_end_matches('\n');
            lines.push(match change.tag() {
                ChangeTag::Delete => painted(RED, &format!("-{text}")),
                ChangeTag::Insert => painted(GREEN, &format!("+{text}")),
                ChangeTag::Equal => format!(" {text}"),
            });
        }
    }
    lines.join("\n")
}
