//! JSON Schema: which configs a service can read.
//!
//! Draft 2020-12. References stay inside the document (no network, no files), and regular expressions run in linear
//! time: look-around and back-references are refused when the schema is set. No message ever holds a value of a config.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use super::config::Violation;

/// Violations that are listed at the most.
const MAX_VIOLATIONS: usize = 100;

/// A schema that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSchema(pub String);

/// A compiled schema.
pub struct Schema(Validator);

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schema")
    }
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// What is wrong with it: it isn't a schema, refers to another document, or has an expression that isn't linear.
    pub fn compile(schema: &Value) -> Result<Self, BadSchema> {
        if !schema.is_object() && !schema.is_boolean() {
            return Err(BadSchema("a schema is an object, true or false".into()));
        }
        let options =
            jsonschema::options().with_draft(Draft::Draft202012).with_pattern_options(PatternOptions::regex());
        options.build(schema).map(Self).map_err(|error| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
            BadSchema(format!("{place}{}", error.masked()))
        })
    }

    /// Where `config` breaks the schema, [`MAX_VIOLATIONS`] places at the most.
    #[must_use]
    pub fn violations(&self, config: &Value) -> Vec<Violation> {
        let violation = |error: jsonschema::ValidationError<'_>| Violation {
            path: error.instance_path().to_string(),
            message: error.masked().to_string(),
        };
        self.0.iter_errors(config).take(MAX_VIOLATIONS).map(violation).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_violations_are_listed_without_their_values() {
        let schema = Schema::compile(&json!({
            "type": "object",
            "properties": {
                "interval": { "type": "integer", "minimum": 1 },
                "symbols": { "type": "array", "items": { "type": "string", "pattern": "^[A-Z]{6}$" } },
                "mode": { "enum": ["a", "b"] },
                "name": true,
            },
            "required": ["interval", "name"],
            "additionalProperties": false,
        }))
        .unwrap();
        let hush = "hush-hush-value";
        let config = json!({ "interval": 0, "symbols": ["EURUSD", hush], "mode": hush, "x": hush });
        let violations = schema.violations(&config);
        let paths: Vec<&str> = violations.iter().map(|violation| violation.path.as_str()).collect();
        for path in ["/interval", "/symbols/1", "/mode", ""] {
            assert!(paths.contains(&path), "{path} in {violations:?}");
        }
        assert!(violations.iter().all(|violation| !violation.message.contains(hush)), "{violations:?}");
        assert_eq!(schema.violations(&json!({ "interval": 1, "name": "n" })), []);
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [
            json!(5),
            json!("x"),
            json!(null),
            json!({ "type": "no-such-type" }),
            json!({ "minimum": "1" }),
            json!({ "pattern": "(" }),
            json!({ "$ref": "https://example.com/other.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "$ref": "#/$defs/missing" }),
            json!({ "pattern": "^(?=a)b" }),
            json!({ "pattern": "(a)\\1" }),
            json!({ "patternProperties": { "(?<!a)b": true } }),
        ] {
            assert!(Schema::compile(&schema).is_err(), "{schema}");
        }
    }

    #[test]
    fn a_catastrophic_expression_costs_nothing() {
        let schema = Schema::compile(&json!({ "properties": { "a": { "pattern": "^(a+)+$" } } })).unwrap();
        let config = json!({ "a": format!("{}!", "a".repeat(100_000)) });
        assert_eq!(schema.violations(&config).len(), 1);
    }

    #[test]
    fn references_inside_the_document_work() {
        let schema = json!({ "$defs": { "n": { "type": "integer" } }, "properties": { "a": { "$ref": "#/$defs/n" } } });
        let schema = Schema::compile(&schema).unwrap();
        assert_eq!(schema.violations(&json!({ "a": 1 })), []);
        assert_eq!(schema.violations(&json!({ "a": "1" })).len(), 1);
    }
}
