//! Strict JSON: what the hub takes is kept exactly or refused, never altered silently.
//!
//! On top of the grammar it refuses duplicate keys at any depth (also in another Unicode form), `\u0000` (PostgreSQL can't keep it), nesting beyond a
//! bound, and numbers that neither fit 64-bit integers nor survive a round trip through an f64.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use unicode_normalization::UnicodeNormalization as _;

/// A rule that the text breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The member of the outermost object; `body` when the text as a whole is meant.
    pub field: String,
    /// JSON pointer to the offending value.
    pub path: String,
    /// The rule.
    pub rule: &'static str,
}

/// Parses an object whose members nest at most `depth` deep; an object or a list adds one.
///
/// # Errors
/// The first rule that the text breaks.
pub fn parse_object(text: &[u8], depth: usize) -> Result<Map<String, Value>, Violation> {
    let whole = |rule| Violation { field: "body".into(), path: String::new(), rule };
    let text = std::str::from_utf8(text).map_err(|_| whole("must be UTF-8"))?;
    let state = State { literals: RefCell::new(Literals { rest: text.as_bytes() }), ..State::default() };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Node { state: &state, room: depth + 1 }.deserialize(&mut deserializer);
    let parsed = parsed.and_then(|value| deserializer.end().map(|()| value));
    match (parsed, state.violation.into_inner()) {
        (_, Some(violation)) => Err(violation),
        (Ok(Value::Object(map)), None) => Ok(map),
        (Ok(_), None) => Err(whole(NO_OBJECT_RULE)),
        (Err(_), None) => Err(whole("must be valid JSON")),
    }
}

const NUMBER_RULE: &str = "a number must fit a 64-bit integer or be exactly what an f64 prints";

#[derive(Default)]
struct State<'a> {
    path: RefCell<Vec<String>>,
    literals: RefCell<Literals<'a>>,
    violation: RefCell<Option<Violation>>,
}

impl State<'_> {
    /// Remembers the violation here, and ends the parse.
    fn refuse<E: serde::de::Error>(&self, rule: &'static str) -> E {
        let path = self.path.borrow();
        let field = path.first().cloned().unwrap_or_else(|| "body".into());
        self.violation.borrow_mut().get_or_insert(Violation { field, path: pointer(&path), rule });
        E::custom(rule)
    }
}

/// One value; `room` is how many levels may still open.
#[derive(Clone, Copy)]
struct Node<'s, 'a> {
    state: &'s State<'a>,
    room: usize,
}

impl Node<'_, '_> {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.room.checked_sub(1) {
            Some(room) => Ok(Self { room, ..self }),
            None => Err(self.state.refuse("is nested too deep")),
        }
    }

    fn text<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        if text.contains('\0') { Err(self.state.refuse(NUL_RULE)) } else { Ok(Value::from(text)) }
    }

    fn number<E: serde::de::Error>(self, number: impl Into<Number>) -> Result<Value, E> {
        let literal = self.state.literals.borrow_mut().next().unwrap_or_default();
        let number = number.into();
        if number.is_f64() && !survives(literal, &number) {
            return Err(self.state.refuse(NUMBER_RULE));
        }
        Ok(Value::Number(number))
    }
}

const OTHER_FORM_RULE: &str = "stands twice in its object, in another Unicode form";

const NO_OBJECT_RULE: &str = "must be a JSON object";

const NUL_RULE: &str = "must not hold \\u0000: PostgreSQL can't keep it";

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.text(text)
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.number(value)
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.number(value)
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) => self.number(number),
            None => Err(self.state.refuse(NUMBER_RULE)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        if self.state.path.borrow().is_empty() {
            // What lies in it has no field to be told by.
            return Err(self.state.refuse(NO_OBJECT_RULE));
        }
        let inner = self.inner()?;
        let mut items = Vec::new();
        loop {
            self.state.path.borrow_mut().push(items.len().to_string());
            let item = access.next_element_seed(inner)?;
            self.state.path.borrow_mut().pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        let mut names = HashSet::new();
        while let Some(key) = access.next_key::<String>()? {
            self.state.path.borrow_mut().push(key.clone());
            if key.contains('\0') {
                return Err(self.state.refuse(NUL_RULE));
            }
            if map.contains_key(&key) {
                return Err(self.state.refuse("stands twice in its object"));
            }
            if !is_new_name(&mut names, &key) {
                return Err(self.state.refuse(OTHER_FORM_RULE));
            }
            let value = access.next_value_seed(inner).map_err(|error| {
                // serde_json refuses 1e999 by itself, as a syntax error; the literal tells that it was a number.
                if self.state.violation.borrow().is_none() && self.state.literals.borrow().next_is_out_of_range() {
                    return self.state.refuse(NUMBER_RULE);
                }
                error
            })?;
            self.state.path.borrow_mut().pop();
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Checks that no two keys of an object, at any depth, are one name in two Unicode forms. [`parse_object`] lets no such text
/// in, but two texts may make one together.
///
/// # Errors
/// The first key whose name is taken.
pub fn check_forms(object: &Map<String, Value>) -> Result<(), Violation> {
    let mut path = Vec::new();
    if has_own_names(object, &mut path) {
        return Ok(());
    }
    let field = path.first().cloned().unwrap_or_default();
    Err(Violation { field, path: pointer(&path), rule: OTHER_FORM_RULE })
}

/// Whether each key has a name of its own; if not, `path` leads to the one that doesn't.
fn has_own_names(object: &Map<String, Value>, path: &mut Vec<String>) -> bool {
    let mut names = HashSet::new();
    object.iter().all(|(key, value)| {
        path.push(key.clone());
        let fine = is_new_name(&mut names, key) && holds_own_names(value, path);
        if fine {
            path.pop();
        }
        fine
    })
}

fn holds_own_names(value: &Value, path: &mut Vec<String>) -> bool {
    match value {
        Value::Object(object) => has_own_names(object, path),
        Value::Array(items) => items.iter().enumerate().all(|(index, item)| {
            path.push(index.to_string());
            let fine = holds_own_names(item, path);
            if fine {
                path.pop();
            }
            fine
        }),
        _ => true,
    }
}

/// Notes a key's name; `false` when another form of it was noted before. Most keys are ASCII, which has one form only.
fn is_new_name(names: &mut HashSet<String>, key: &str) -> bool {
    key.is_ascii() || names.insert(key.nfc().collect())
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect()
}

/// The number literals of a JSON text, in document order, which is the order in which they are visited.
#[derive(Clone, Copy, Default)]
struct Literals<'a> {
    rest: &'a [u8],
}

impl<'a> Literals<'a> {
    fn next_is_out_of_range(mut self) -> bool {
        self.next().and_then(|literal| literal.parse::<f64>().ok()).is_some_and(f64::is_infinite)
    }
}

impl<'a> Iterator for Literals<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let start = self.rest.iter().position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9'))?;
            let token = self.rest.get(start..)?;
            if token.first() == Some(&b'"') {
                self.rest = token.get(string_len(token)..)?;
                continue;
            }
            let end = token
                .iter()
                .position(|byte| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))
                .unwrap_or(token.len());
            let (literal, rest) = token.split_at(end);
            self.rest = rest;
            return std::str::from_utf8(literal).ok();
        }
    }
}

/// How many bytes the string literal at the start of `token` takes, quotes included.
fn string_len(token: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = token.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    token.len()
}

/// Whether `literal` denotes exactly the decimal number that `number` prints. (The sign of a negative zero would be
/// lost in PostgreSQL's numeric, so it doesn't survive.)
fn survives(literal: &str, number: &Number) -> bool {
    let negative_zero = number.as_f64().is_some_and(|value| value == 0.0 && value.is_sign_negative());
    !negative_zero && decimal(literal) == decimal(&number.to_string())
}

/// A decimal literal as its sign, its significant digits and the power of ten of the last one.
fn decimal(literal: &str) -> Option<(bool, String, i64)> {
    let (negative, magnitude) = literal.strip_prefix('-').map_or((false, literal), |rest| (true, rest));
    let (mantissa, exponent) = magnitude.split_once(['e', 'E']).unwrap_or((magnitude, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some((negative, String::new(), 0));
    }
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    let exponent: i64 = exponent.parse().ok()?;
    let power =
        exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(i64::try_from(trailing).ok()?)?;
    Some((negative, significant.to_owned(), power))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(text: &str) -> (String, &'static str) {
        match parse_object(text.as_bytes(), 4) {
            Err(violation) => (violation.path, violation.rule),
            Ok(value) => panic!("{text} was taken as {value:?}"),
        }
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        let deep = "[".repeat(5_000);
        for text in [
            deep.as_str(),
            "[[1e999]]",
            "[{\"a\":1,\"a\":2}]",
            "",
            "[1]",
            "3",
            "null",
            "\"a\"",
            "{",
            "{}x",
            "{\"a\":}",
            "{'a':1}",
            "{\"a\":NaN}",
            "{\"a\":01}",
        ] {
            let violation = parse_object(text.as_bytes(), 4).unwrap_err();
            assert_eq!(violation.field, "body", "{text}");
        }
        assert_eq!(parse_object(b"{\"a\":\"\xff\"}", 4).unwrap_err().rule, "must be UTF-8");
    }

    #[test]
    fn duplicate_keys_are_found_at_any_depth() {
        assert_eq!(rule(r#"{"a":1,"a":2}"#), ("/a".into(), "stands twice in its object"));
        assert_eq!(rule(r#"{"a":[{"b/c":{"d":1,"\u0064":2}}]}"#), ("/a/0/b~1c/d".into(), "stands twice in its object"));
    }

    #[test]
    fn keys_that_differ_by_their_unicode_form_are_duplicates() {
        let rule_of = rule("{\"a\":{\"\u{e9}\":1,\"e\u{301}\":2}}");
        assert_eq!(rule_of.1, "stands twice in its object, in another Unicode form");
        assert!(parse_object("{\"\u{e9}\":1,\"e\":2}".as_bytes(), 4).is_ok());
    }

    #[test]
    fn forms_are_compared_at_any_depth() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let twice = serde_json::json!({ "\u{e9}": 1, "e\u{301}": 2 });
        assert_eq!(check_forms(&object(twice.clone())).unwrap_err().rule, OTHER_FORM_RULE);
        let deep = check_forms(&object(serde_json::json!({ "a": [{ "e": 1 }, { "b/c": twice }] }))).unwrap_err();
        assert!(deep.field == "a" && deep.path.starts_with("/a/1/b~1c/"), "{deep:?}");
        assert_eq!(check_forms(&object(serde_json::json!({ "\u{e9}": { "e\u{301}": [] }, "e": [1, {}] }))), Ok(()));
    }

    #[test]
    fn nul_is_refused_in_keys_and_texts() {
        assert_eq!(rule(r#"{"a":{"b":"x\u0000"}}"#), ("/a/b".into(), NUL_RULE));
        assert_eq!(rule(r#"{"a":{"b\u0000":1}}"#).1, NUL_RULE);
    }

    #[test]
    fn depth_is_bounded() {
        assert!(parse_object(br#"{"a":[[[[1]]]]}"#, 4).is_ok());
        assert_eq!(rule(r#"{"a":[[[[[1]]]]]}"#).1, "is nested too deep");
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
        assert_eq!(rule(&deep).1, "is nested too deep");
    }

    #[test]
    fn numbers_are_exact_or_refused() {
        for text in
            ["18446744073709551616", "0.1000000000000000055", "1e999", "-1e999", "-0", "-0.0", "9007199254740993.0"]
        {
            assert_eq!(rule(&format!("{{\"a\":{{\"b\":[7,\"1.5\",{text}]}}}}")).1, NUMBER_RULE, "{text}");
        }
        for text in [
            "18446744073709551615",
            "-9223372036854775808",
            "0.1",
            "1.10",
            "1e2",
            "1E+2",
            "5e-324",
            "1.7976931348623157e308",
            "0",
            "0.0",
        ] {
            assert!(parse_object(format!("{{\"a\":{text}}}").as_bytes(), 4).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_f64_survives(value: f64) {
            prop_assume!(value.is_finite() && !(value == 0.0 && value.is_sign_negative()));
            let text = serde_json::json!({ "a": [value, "-1.5e3\\\"", {"2": value}] }).to_string();
            let parsed = parse_object(text.as_bytes(), 4).map(Value::Object);
            prop_assert_eq!(parsed, Ok(serde_json::from_str::<Value>(&text).unwrap()));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_object(&bytes, 4);
        }

        #[test]
        fn no_jsonish_text_panics(text in r#"[{}\[\]",:0-9eE.+\-\\u ]{0,80}"#) {
            let _ = parse_object(text.as_bytes(), 4);
        }
    }
}
