//! Texts that others wrote, as a terminal may show them: what would move its cursor or turn the direction of writing stands
//! there as an escape of JSON.

use crate::domain::text;

/// The text with `\u009b` and the like for control characters; line breaks and tabs stay. In JSON that loses nothing:
/// outside of strings there are none.
#[must_use]
pub fn escaped(text: &str) -> String {
    escape(text, &['\n', '\t'])
}

/// The same of a text that has to stay on its line.
#[must_use]
pub fn line(text: &str) -> String {
    escape(text, &[])
}

fn escape(text: &str, kept: &[char]) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if kept.contains(&c) || text::check_line(c.encode_utf8(&mut [0; 4])).is_ok() {
            shown.push(c);
        } else {
            // All of them lie below U+FFFF.
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    shown
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_is_the_same_json() {
        let value = serde_json::json!({ "a\u{9b}2J": "x\u{202e}y\u{2066}\u{7f}\n\tgrößer" });
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(text, "{\n  \"a\\u009b2J\": \"x\\u202ey\\u2066\\u007f\\n\\tgrößer\"\n}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert_eq!(line("a\nb\u{9b}"), "a\\u000ab\\u009b");
    }
}
