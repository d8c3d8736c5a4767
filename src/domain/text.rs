//! What texts for people may hold: they are shown on terminals and stand in logs and tables.

/// A text that breaks a rule. The message states the rule, never the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadText(&'static str);

/// Checks that a text is one line without control characters.
///
/// # Errors
/// The rule that it breaks.
pub fn check_line(text: &str) -> Result<(), BadText> {
    if text.contains(is_control) { Err(BadText("must be one line without control characters")) } else { Ok(()) }
}

/// Checks that a text holds no control characters but line breaks and tabs.
///
/// # Errors
/// The rule that it breaks.
pub fn check_lines(text: &str) -> Result<(), BadText> {
    let stray = |c: char| is_control(c) && !['\n', '\t'].contains(&c);
    if text.contains(stray) {
        Err(BadText("must not hold control characters but line breaks and tabs"))
    } else {
        Ok(())
    }
}

/// The text with a space for each control character but line breaks and tabs.
#[must_use]
pub fn cleaned(text: &str) -> String {
    let clean = |c: char| if is_control(c) && !['\n', '\t'].contains(&c) { ' ' } else { c };
    text.chars().map(clean).collect()
}

/// Control characters, by which a text could move a terminal's cursor or hide what it says; and those that turn the
/// direction of writing, by which it could be read as another one.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_terminal_or_turns_a_line_is_no_text() {
        for text in ["\u{1b}[31mred", "a\r", "\u{7}", "\u{9b}2J", "\u{7f}", "admin\u{202e}nimda", "a\u{2028}b", "\u{8}"]
        {
            assert!(check_line(text).is_err() && check_lines(text).is_err(), "{text:?}");
            assert!(check_lines(&cleaned(text)).is_ok(), "{text:?}");
        }
        for text in ["", "ann", "größer → weiter", "שלום", "e\u{301}", "👩‍🚀", "a\u{a0}b"] {
            assert!(check_line(text).is_ok() && cleaned(text) == text, "{text:?}");
        }
        for text in ["a\nb", "a\tb"] {
            assert!(check_line(text).is_err() && check_lines(text).is_ok() && cleaned(text) == text, "{text:?}");
        }
    }
}
