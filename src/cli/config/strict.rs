//! Configs and schemas that people hand in, read by the hub's own rules: nothing is altered on its way to the hub.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::nats::BadOption;
use crate::wire::json;

/// Levels that a text may nest; the hub's own bound is lower, and its refusal says which it is.
const READABLE_DEPTH: usize = 100;

/// A text that must be a JSON object; `name` is what a message calls it.
///
/// # Errors
/// The rule that it breaks, and where.
pub fn object(name: &str, text: &str) -> Result<Map<String, Value>, BadOption> {
    json::parse_object(text.as_bytes(), READABLE_DEPTH).map_err(|violation| {
        BadOption(match (serde_json::from_str::<IgnoredAny>(text), violation.path.as_str()) {
            // Only the other reader tells line and column.
            (Err(error), _) => format!("{name} is no JSON: {error}"),
            (Ok(_), "") => format!("{name} {}", violation.rule),
            (Ok(_), path) => format!("{name}: {path} {}", violation.rule),
        })
    })
}

/// A text that is a schema, or takes one away: an object, `true`, `false` or `null`.
///
/// # Errors
/// As [`object`].
pub fn schema(name: &str, text: &str) -> Result<Value, BadOption> {
    match text.trim() {
        "null" => Ok(Value::Null),
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        _ => object(name, text).map(Value::Object),
    }
}

/// A text that is JSON, or else stands for itself.
///
/// # Errors
/// What about the JSON would be altered.
pub fn value_or_text(text: &str) -> Result<Value, String> {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Ok(text.into());
    }
    let within = format!("{{\"value\":{text}}}");
    let mut members = json::parse_object(within.as_bytes(), READABLE_DEPTH).map_err(|violation| {
        let path = violation.path.strip_prefix("/value").unwrap_or_default();
        format!("{path} {}; in quotes it is a text", violation.rule).trim_start().to_owned()
    })?;
    Ok(members.remove("value").unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_stands_for_itself() {
        for (text, value) in [
            ("7", serde_json::json!(7)),
            ("[1, true]", serde_json::json!([1, true])),
            ("\"7\"", "7".into()),
            ("1.2.3", "1.2.3".into()),
            ("eu-west", "eu-west".into()),
            ("1},{\"a\":2", "1},{\"a\":2".into()),
            ("", "".into()),
        ] {
            assert_eq!(value_or_text(text).unwrap(), value);
        }
        assert!(value_or_text("12345678901234567890123").unwrap_err().contains("a number must fit"));
        assert!(value_or_text(r#"{"a":1,"a":2}"#).unwrap_err().starts_with("/a stands twice"));
    }

    #[test]
    fn what_would_be_altered_is_refused_where_it_stands() {
        for (text, told) in [
            (r#"{"a":1,"a":2}"#, "f.json: /a stands twice in its object"),
            (r#"{"a":[12345678901234567890123]}"#, "f.json: /a/0 a number must fit"),
            (r#"{"a":0.12345678901234567890123}"#, "f.json: /a a number must fit"),
            ("{", "f.json is no JSON: EOF while parsing an object at line 1"),
            ("[]", "f.json must be a JSON object"),
            ("7", "f.json must be a JSON object"),
        ] {
            for error in [object("f.json", text).unwrap_err(), schema("f.json", text).unwrap_err()] {
                assert!(error.to_string().starts_with(told), "{text}: {error}");
            }
        }
        assert!(object("f.json", "null").is_err());
        assert_eq!(schema("f.json", " null\n").unwrap(), Value::Null);
        assert_eq!(schema("f.json", "true").unwrap(), Value::Bool(true));
    }
}
