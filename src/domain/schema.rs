//! JSON Schema: which configs a service can read.
//!
//! Draft 2020-12. References stay inside the document (no network, no files), and regular expressions run in linear
//! time: look-around and back-references are refused when the schema is set. What would take too many
//! [steps](super::schema_steps) isn't begun. No message ever holds a value of a config, or one that a schema names.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::config::Violation;
use super::schema_steps;
use super::secrets::has_a_form;

/// Violations that are listed at the most.
const MAX_VIOLATIONS: usize = 100;

/// A schema that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSchema(pub String);

/// The draft that schemas are read as.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// A compiled schema.
pub struct Schema {
    document: Value,
    validator: Validator,
    /// Whether messages may quote what it says that values must be: the hub's own schema is no secret.
    is_ours: bool,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schema")
    }
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// What is wrong with it: it isn't a schema, refers to another document, has an expression that isn't linear, or takes
    /// too many steps even for an empty config.
    pub fn compile(schema: &Value) -> Result<Self, BadSchema> {
        if !schema.is_object() && !schema.is_boolean() {
            return Err(BadSchema("a schema is an object, true or false".into()));
        }
        let own = schema.get("$id").and_then(Value::as_str).map_or("", |id| id.trim_end_matches('#'));
        stays_inside(schema, own, &mut String::new())?;
        schema_steps::count(schema, &Value::Object(serde_json::Map::new()))
            .map_err(|error| BadSchema(error.to_string()))?;
        let options =
            jsonschema::options().with_draft(Draft::Draft202012).with_pattern_options(PatternOptions::regex());
        options.build(schema).map(|validator| Self { document: schema.clone(), validator, is_ours: false }).map_err(
            |error| {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
                BadSchema(format!("{place}{}", error.masked()))
            },
        )
    }

    /// Compiles a schema of the hub itself: messages may quote it.
    ///
    /// # Errors
    /// As [`Schema::compile`].
    pub fn compile_ours(schema: &Value) -> Result<Self, BadSchema> {
        Ok(Self { is_ours: true, ..Self::compile(schema)? })
    }

    /// Where `config` breaks the schema, [`MAX_VIOLATIONS`] places at the most.
    #[must_use]
    pub fn violations(&self, config: &Value) -> Vec<Violation> {
        let violation = |error: ValidationError<'_>| {
            let message = if self.is_ours { error.masked().to_string() } else { message(&error) };
            without_secret_keys(error.instance_path().as_str(), message)
        };
        if let Err(error) = schema_steps::count(&self.document, config) {
            return vec![Violation { path: String::new(), message: format!("can't be checked: {error}") }];
        }
        self.validator.iter_errors(config).take(MAX_VIOLATIONS).map(violation).collect()
    }
}

/// A violation that tells no key that is a secret itself: the path ends before it.
fn without_secret_keys(path: &str, message: String) -> Violation {
    let is_secret = |key: &&str| has_a_form(&key.replace("~1", "/").replace("~0", "~"));
    let kept: Vec<&str> = path.split('/').take_while(|key| !is_secret(key)).collect();
    let message = if has_a_form(&message) { "a name in it is a secret itself".into() } else { message };
    Violation { path: kept.join("/"), message }
}

/// What is wrong, without the value, and without the values that the schema names: a constant or a default may be secret.
fn message(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::Constant { .. } => "value is not the one that the schema's 'const' names".into(),
        ValidationErrorKind::Enum { .. } => "value is not one of those that the schema's 'enum' lists".into(),
        ValidationErrorKind::Not { .. } => "value is what the schema's 'not' excludes".into(),
        // The library masks the name in no message about it.
        ValidationErrorKind::PropertyNames { error } => format!("the name of a property: {}", message(error)),
        _ => error.masked().to_string(),
    }
}

/// Checks that no reference leads out of the document, whose own name is `own`, and that no part of it has another name, to
/// which references would be relative.
fn stays_inside(schema: &Value, own: &str, path: &mut String) -> Result<(), BadSchema> {
    let length = path.len();
    match schema {
        Value::Object(keywords) => {
            for keyword in ["$ref", "$dynamicRef"] {
                let reference = keywords.get(keyword).and_then(Value::as_str);
                let leaves = |text: &str| !text.strip_prefix(own).unwrap_or(text).starts_with('#');
                if reference.is_some_and(leaves) {
                    return Err(BadSchema(format!(
                        "{path}/{keyword}: a reference stays inside the schema: it begins with #"
                    )));
                }
            }
            if !path.is_empty() && keywords.get("$id").is_some_and(Value::is_string) {
                return Err(BadSchema(format!("{path}/$id: a schema has one name, at its top; use $anchor")));
            }
            for (keyword, inner) in keywords {
                path.push('/');
                path.push_str(&keyword.replace('~', "~0").replace('/', "~1"));
                stays_inside(inner, own, path)?;
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                path.push_str(&format!("/{index}"));
                stays_inside(inner, own, path)?;
                path.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}

/// A warning about a schema that says it is of another draft than the one that it is read as.
#[must_use]
pub fn dialect_warning(schema: &Value) -> Option<String> {
    let named = schema.get("$schema")?.as_str()?.trim_end_matches('#');
    (named != DIALECT).then(|| format!("$schema names another draft; it is read as {DIALECT}"))
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
            json!({ "$ref": "https://json-schema.org/draft/2020-12/schema" }),
            json!({ "$ref": "other" }),
            json!({ "$id": "https://example.com/a", "$ref": "https://example.com/b#" }),
            json!({ "$defs": { "a": { "$id": "https://example.com/a" } }, "properties": { "x": { "$ref": "#/$defs/a" } } }),
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
        for reference in ["#/$defs/n", "#n", "https://example.com/s#/$defs/n", "https://example.com/s#n"] {
            let mut schema = schema.clone();
            (schema["$id"], schema["$defs"]["n"]["$anchor"]) = ("https://example.com/s".into(), "n".into());
            schema["properties"]["a"]["$ref"] = reference.into();
            let schema = Schema::compile(&schema).unwrap();
            assert_eq!(schema.violations(&json!({ "a": 1 })), [], "{reference}");
            assert_eq!(schema.violations(&json!({ "a": "1" })).len(), 1, "{reference}");
        }
    }

    /// Whatever a keyword has to say of a value, it doesn't say the value.
    #[test]
    fn no_message_holds_a_value() {
        let hush = "hush-hush";
        let schemas = [
            json!({ "type": "integer" }),
            json!({ "type": ["integer", "null"] }),
            json!({ "enum": ["a", "b"] }),
            json!({ "const": "a" }),
            json!({ "pattern": "^x" }),
            json!({ "maxLength": 2 }),
            json!({ "minLength": 200 }),
            json!({ "not": {} }),
            json!({ "not": { "type": "string" } }),
            json!({ "allOf": [{ "maxLength": 2 }] }),
            json!({ "anyOf": [{ "type": "integer" }, { "maxLength": 2 }] }),
            json!({ "oneOf": [{ "type": "integer" }, { "maxLength": 2 }] }),
            json!({ "oneOf": [{}, {}] }),
            json!({ "if": {}, "then": { "type": "integer" } }),
            json!(false),
        ];
        let violations_of = |schema: &Value, config: &Value| {
            let found = Schema::compile(schema).unwrap().violations(config);
            assert!(!found.is_empty(), "{schema}");
            found
        };
        for schema in schemas {
            for (schema, config) in [
                (json!({ "properties": { "a": schema } }), json!({ "a": hush })),
                (json!({ "additionalProperties": schema }), json!({ "a": hush })),
                (json!({ "patternProperties": { "a": schema } }), json!({ "a": hush })),
                (json!({ "unevaluatedProperties": schema }), json!({ "a": hush })),
                (json!({ "properties": { "a": { "items": schema } } }), json!({ "a": [hush] })),
                (json!({ "properties": { "a": { "prefixItems": [schema] } } }), json!({ "a": [hush] })),
                (json!({ "properties": { "a": { "contains": schema } } }), json!({ "a": [hush] })),
                (json!({ "properties": { "a": { "unevaluatedItems": schema } } }), json!({ "a": [hush] })),
                (json!({ "dependentSchemas": { "a": { "properties": { "a": schema } } } }), json!({ "a": hush })),
                (
                    json!({ "$defs": { "x": schema }, "properties": { "a": { "$ref": "#/$defs/x" } } }),
                    json!({ "a": hush }),
                ),
            ] {
                let found = violations_of(&schema, &config);
                assert!(!format!("{found:?}").contains(hush), "{schema}: {found:?}");
            }
        }
        for schema in [
            json!({ "uniqueItems": true }),
            json!({ "maxItems": 1 }),
            json!({ "minItems": 3 }),
            json!({ "contains": { "type": "integer" } }),
            json!({ "contains": { "type": "string" }, "maxContains": 1 }),
            json!({ "items": false }),
            json!({ "enum": [[], [1]] }),
            json!({ "const": [] }),
        ] {
            let found = violations_of(&json!({ "properties": { "a": schema } }), &json!({ "a": [hush, hush] }));
            assert!(!format!("{found:?}").contains(hush), "{schema}: {found:?}");
        }
        for schema in [
            json!({ "maxProperties": 0 }),
            json!({ "minProperties": 2 }),
            json!({ "required": ["b"] }),
            json!({ "dependentRequired": { "a": ["b"] } }),
            json!({ "propertyNames": { "minLength": 2 } }),
            json!({ "additionalProperties": false }),
            json!({ "unevaluatedProperties": false }),
            json!({ "enum": [{}] }),
            json!({ "const": {} }),
        ] {
            let found = violations_of(&schema, &json!({ "a": hush }));
            assert!(!format!("{found:?}").contains(hush), "{schema}: {found:?}");
        }
        for schema in [json!({ "minimum": 9 }), json!({ "exclusiveMaximum": 1 }), json!({ "multipleOf": 7 })] {
            let found = violations_of(&json!({ "properties": { "a": schema } }), &json!({ "a": 4.25 }));
            assert!(!format!("{found:?}").contains("4.25"), "{schema}: {found:?}");
        }
    }

    /// Nor what a schema says that a value must be, or must not be.
    #[test]
    fn no_message_holds_what_a_schema_names() {
        let hush = "hush-hush";
        for schema in [
            json!({ "const": hush }),
            json!({ "enum": [hush, "b"] }),
            json!({ "enum": [{ "x": hush }] }),
            json!({ "not": { "enum": ["a", hush] } }),
            json!({ "type": "integer", "default": hush, "examples": [hush] }),
            json!({ "anyOf": [{ "const": hush }, { "enum": [hush] }] }),
            json!({ "oneOf": [{ "const": hush }] }),
        ] {
            for (schema, config) in [
                (json!({ "properties": { "a": schema } }), json!({ "a": "a" })),
                (json!({ "properties": { "a": { "items": schema } } }), json!({ "a": ["a"] })),
                (json!({ "propertyNames": schema }), json!({ "a": "a" })),
            ] {
                let found = Schema::compile(&schema).unwrap().violations(&config);
                assert!(!found.is_empty() && !format!("{found:?}").contains(hush), "{schema}: {found:?}");
            }
        }
        let names = Schema::compile(&json!({ "propertyNames": { "maxLength": 2 } })).unwrap();
        let found = names.violations(&json!({ hush: 1 }));
        assert!(found.len() == 1 && !found[0].message.contains(hush), "{found:?}");
    }

    #[test]
    fn what_goes_as_deep_as_it_may_has_stack_enough() {
        let links = |keyword: &str, count: usize| {
            let next = |n: usize| json!({ "$ref": format!("#/$defs/d{}", n + 1) });
            let link = |n| if keyword == "$ref" { next(n) } else { json!({ (keyword): [next(n)] }) };
            let mut defs: serde_json::Map<_, _> = (0..count).map(|n| (format!("d{n}"), link(n))).collect();
            defs.insert(format!("d{count}"), json!({ "properties": { "a": { "$ref": "#/$defs/tail" } } }));
            defs.insert("tail".into(), json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/tail" } } }));
            json!({ "$defs": defs, "$ref": "#/$defs/d0" })
        };
        for (keyword, count) in [("$ref", 270), ("allOf", 135), ("anyOf", 135), ("oneOf", 135)] {
            let schema = links(keyword, count);
            let deep = (0..62).fold(json!(5), |inner, _| json!({ "a": inner }));
            // In a thread as small as those in which configs are checked.
            let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
            let violations = thread.spawn(move || Schema::compile(&schema).unwrap().violations(&deep));
            let violations = violations.unwrap().join().unwrap();
            assert!(violations.len() == 1 && !violations[0].message.contains("steps"), "{keyword}: {violations:?}");
        }
    }
}
