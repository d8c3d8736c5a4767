//! How many steps it takes to hold a config against a schema, told before it is done.
//!
//! A validator follows every reference wherever it leads. References that branch at each level (`oneOf` of two that lead
//! back to where they stand) double the work with each level of the config: a schema of a hundred bytes can keep a
//! validator busy for years, with memory to match. And what follows references recursively has a stack that can run out.

use std::collections::HashMap;

use serde_json::Value;

/// Steps at the most: pairs of a subschema and a value that it is held against, each counted as often as it is reached. A
/// list of 100,000 numbers whose items have a schema takes 100,001. A step that leads to a refusal may keep close to a
/// kilobyte until all of them are known.
pub const MAX_STEPS: usize = 200_000;

/// Steps inside each other at the most: far more than the levels of a config, of which each takes one to three.
pub const MAX_NESTING: usize = 400;

/// Why a schema and a config are not to be brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// More than [`MAX_STEPS`].
    #[error("it takes more than {MAX_STEPS} steps: avoid references that branch at each level")]
    Steps,
    /// More than [`MAX_NESTING`].
    #[error("it takes more than {MAX_NESTING} steps inside each other: avoid long chains of references")]
    Nesting,
}

/// Counts the steps.
///
/// # Errors
/// [`TooMuch`].
pub fn count(schema: &Value, config: &Value) -> Result<usize, TooMuch> {
    let mut walk = Walk { root: schema, anchors: HashMap::new(), known: HashMap::new(), nesting: 0 };
    walk.find_anchors(schema);
    walk.hold(schema, config)
}

struct Walk<'a> {
    root: &'a Value,
    anchors: HashMap<&'a str, &'a Value>,
    /// By the addresses of subschema and value; `None` while they are being counted.
    known: HashMap<(*const Value, *const Value), Option<usize>>,
    nesting: usize,
}

impl<'a> Walk<'a> {
    fn find_anchors(&mut self, schema: &'a Value) {
        match schema {
            Value::Object(keywords) => {
                for keyword in ["$anchor", "$dynamicAnchor"] {
                    if let Some(Value::String(name)) = keywords.get(keyword) {
                        self.anchors.insert(name, schema);
                    }
                }
                keywords.values().for_each(|inner| self.find_anchors(inner));
            }
            Value::Array(items) => items.iter().for_each(|inner| self.find_anchors(inner)),
            _ => {}
        }
    }

    /// The subschema that a reference leads to.
    fn target(&self, reference: &Value) -> Option<&'a Value> {
        let (_, fragment) = reference.as_str()?.split_once('#')?;
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.root.pointer(&percent_decoded(fragment));
        }
        self.anchors.get(fragment).copied()
    }

    /// The steps to hold `value` against `schema`. A validator stops where it comes full circle, and so does this.
    fn hold(&mut self, schema: &'a Value, value: &'a Value) -> Result<usize, TooMuch> {
        let Value::Object(keywords) = schema else { return Ok(1) };
        let key = (std::ptr::from_ref(schema), std::ptr::from_ref(value));
        if let Some(known) = self.known.get(&key) {
            return Ok(known.unwrap_or(1));
        }
        if self.known.len() >= MAX_STEPS {
            return Err(TooMuch::Steps);
        }
        if self.nesting >= MAX_NESTING {
            return Err(TooMuch::Nesting);
        }
        self.known.insert(key, None);
        self.nesting += 1;
        let mut steps = Steps(1);
        for (keyword, inner) in keywords {
            self.follow(keyword, inner, value, &mut steps)?;
        }
        // What was left over is found by holding the value against its neighbours once more.
        if keywords.contains_key("unevaluatedProperties") || keywords.contains_key("unevaluatedItems") {
            steps.add(steps.0)?;
        }
        self.nesting -= 1;
        self.known.insert(key, Some(steps.0));
        Ok(steps.0)
    }

    fn follow(&mut self, keyword: &str, inner: &'a Value, value: &'a Value, steps: &mut Steps) -> Result<(), TooMuch> {
        match (keyword, inner, value) {
            ("not" | "if" | "then" | "else", inner, _) => steps.add(self.hold(inner, value)?),
            ("allOf" | "anyOf" | "oneOf", Value::Array(all), _) => {
                all.iter().try_for_each(|inner| steps.add(self.hold(inner, value)?))
            }
            ("dependentSchemas", Value::Object(all), _) => {
                all.values().try_for_each(|inner| steps.add(self.hold(inner, value)?))
            }
            ("$ref" | "$dynamicRef", reference, _) => match self.target(reference) {
                Some(target) => steps.add(self.hold(target, value)?),
                None => Ok(()),
            },
            ("properties", Value::Object(named), Value::Object(members)) => {
                named.iter().try_for_each(|(name, inner)| match members.get(name) {
                    Some(member) => steps.add(self.hold(inner, member)?),
                    None => Ok(()),
                })
            }
            ("patternProperties", Value::Object(all), Value::Object(members)) => all
                .values()
                .try_for_each(|inner| members.values().try_for_each(|member| steps.add(self.hold(inner, member)?))),
            ("additionalProperties" | "unevaluatedProperties", inner, Value::Object(members)) => {
                members.values().try_for_each(|member| steps.add(self.hold(inner, member)?))
            }
            // Names are texts: what follows from a text is followed for any of them.
            ("propertyNames", inner, Value::Object(members)) => {
                members.values().try_for_each(|_| steps.add(self.hold(inner, &Value::Null)?))
            }
            ("prefixItems", Value::Array(all), Value::Array(items)) => {
                all.iter().zip(items).try_for_each(|(inner, item)| steps.add(self.hold(inner, item)?))
            }
            ("items" | "contains" | "unevaluatedItems", inner, Value::Array(items)) => {
                items.iter().try_for_each(|item| steps.add(self.hold(inner, item)?))
            }
            _ => Ok(()),
        }
    }
}

struct Steps(usize);

impl Steps {
    fn add(&mut self, more: usize) -> Result<(), TooMuch> {
        self.0 = self.0.saturating_add(more);
        if self.0 > MAX_STEPS { Err(TooMuch::Steps) } else { Ok(()) }
    }
}

/// A fragment of a URI as the text that it stands for; what is no text stays as it is.
fn percent_decoded(fragment: &str) -> String {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| fragment.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `{"a": {"a": … 5 …}}`
    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(5), |inner, _| json!({ "a": inner }))
    }

    fn twice(at: &str) -> Value {
        json!([{ "$ref": at }, { "$ref": at }])
    }

    #[test]
    fn each_step_is_counted() {
        let schema = json!({
            "$defs": { "n": { "$anchor": "number", "type": "integer" }, "a/b": true },
            "properties": { "list": { "items": { "$ref": "#/$defs/n" } }, "x": { "$ref": "#number" }, "absent": {} },
            "propertyNames": { "maxLength": 9 },
            "allOf": [true, { "not": { "$ref": "#/$defs/a~1b" } }],
            "patternProperties": { "^l": {}, "x": {} },
        });
        let config = json!({ "list": [1, 2, 3], "x": 4 });
        // Itself; list, and an item and its reference three times; x and its reference; names; allOf; patterns.
        assert_eq!(count(&schema, &config), Ok(1 + (1 + 3 * 2) + 2 + 2 + (1 + 1 + 1 + 1) + 4));
        assert_eq!(count(&json!(true), &config), Ok(1));
    }

    #[test]
    fn circles_end() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#/allOf/0" }] }),
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        ] {
            assert!(count(&schema, &nested(3)).unwrap() < 10, "{schema}");
        }
    }

    #[test]
    fn what_doubles_at_each_level_is_too_much() {
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let schema = json!({ "properties": { "a": { (keyword): twice("#") } } });
            assert!(count(&schema, &nested(10)).is_ok(), "as long as there are few of them");
            assert_eq!(count(&schema, &nested(30)), Err(TooMuch::Steps));
        }
        let leftover = json!({ "properties": { "a": { "$ref": "#" } }, "unevaluatedProperties": false });
        assert_eq!(count(&leftover, &nested(30)), Err(TooMuch::Steps));
        let many = json!({ "items": { "allOf": vec![json!({}); 1_000] } });
        assert_eq!(count(&many, &json!(vec![0; 1_000])), Err(TooMuch::Steps));
    }

    #[test]
    fn a_chain_is_too_deep() {
        let chain = |length: usize| {
            let links = (0..length).map(|n| (format!("d{n}"), json!({ "$ref": format!("#/$defs/d{}", n + 1) })));
            let mut schema = json!({ "$defs": links.collect::<serde_json::Map<_, _>>(), "$ref": "#/$defs/d0" });
            schema["$defs"][format!("d{length}")] = json!({});
            schema
        };
        assert!(count(&chain(300), &json!({})).is_ok());
        assert_eq!(count(&chain(500), &json!({})), Err(TooMuch::Nesting));
    }

    #[test]
    fn a_tree_and_a_long_list_are_fine() {
        let tree = json!({ "properties": { "left": { "$ref": "#" }, "right": { "$ref": "#" } } });
        let full = (0..12).fold(json!({}), |inner, _| json!({ "left": inner, "right": inner }));
        assert_eq!(count(&tree, &full), Ok(2 * 8_191 - 1));
        let list = json!({ "properties": { "a": { "items": { "type": "integer" } } } });
        assert_eq!(count(&list, &json!({ "a": vec![1; 136_000] })), Ok(136_002));
        assert_eq!(count(&json!({ "$ref": "#/%24defs/x%20y", "$defs": { "x y": {} } }), &json!({})), Ok(2));
    }
}
