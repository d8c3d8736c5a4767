//! How the layers of a config make one: references are resolved in what came from the hub, and the safe defaults fill in
//! what it lacks.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

/// Fills in what `config` lacks from `defaults`: objects at every depth; anything else that the config says stands.
pub(super) fn fill_in(config: &mut Map<String, Value>, defaults: &Map<String, Value>) {
    for (key, default) in defaults {
        match (config.get_mut(key), default) {
            (None, default) => {
                config.insert(key.clone(), default.clone());
            }
            (Some(Value::Object(config)), Value::Object(defaults)) => fill_in(config, defaults),
            (Some(_), _) => {}
        }
    }
}

/// Gives the value of a variable; `None` when it isn't set.
pub(super) type ReadVariable = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The variables that references may name, and where their values are.
#[derive(Clone)]
pub(super) struct Environment {
    /// Names, or beginnings of names before a final `*`; `None`: every name.
    pub(super) allow: Option<Vec<String>>,
    /// Reads a variable.
    pub(super) read: ReadVariable,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("allow", &self.allow).finish_non_exhaustive()
    }
}

/// Why a reference can't be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The variable isn't set.
    Unset,
    /// The name isn't one of those that the application allows.
    NotAllowed,
}

/// A reference that can't be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// JSON pointer to it.
    pub(super) path: String,
    /// The variable that it names.
    pub(super) name: String,
    /// What is wrong with that.
    pub(super) why: Why,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, name, why } = self;
        match why {
            Why::Unset => write!(f, "{path}: the environment variable {name} is not set"),
            Why::NotAllowed => write!(f, "{path}: the environment variable {name} is not one that may be used"),
        }
    }
}

/// Values that came from the environment, to be kept out of messages.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// A message with each value replaced by its reference. Values also appear as Rust and JSON would quote them.
    pub(super) fn redact(&self, message: &str) -> String {
        let mut text = message.to_owned();
        // The longest first: one may hold another.
        let mut values: Vec<_> = self.0.iter().filter(|(_, value)| !value.is_empty()).collect();
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        for (reference, value) in values {
            let rust = format!("{value:?}");
            let json = Value::from(value.as_str()).to_string();
            for form in [&rust[1..rust.len() - 1], &json[1..json.len() - 1], value] {
                text = text.replace(form, reference);
            }
        }
        text
    }
}

impl Environment {
    /// Resolves the references of `config`: a text that is `${env:NAME}` as a whole becomes the variable's value.
    ///
    /// # Errors
    /// All references that can't be resolved.
    pub(super) fn resolve(&self, config: &mut Map<String, Value>) -> Result<Secrets, Vec<Unresolved>> {
        let mut walk = Walk { environment: self, secrets: Secrets::default(), unresolved: Vec::new() };
        walk.object(config, &mut String::new());
        if walk.unresolved.is_empty() { Ok(walk.secrets) } else { Err(walk.unresolved) }
    }

    fn allows(&self, name: &str) -> bool {
        let fits = |allowed: &String| match allowed.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == allowed,
        };
        self.allow.as_ref().is_none_or(|allow| allow.iter().any(fits))
    }
}

/// The name in `${env:NAME}`, `[A-Za-z_][A-Za-z0-9_]*`.
fn reference(text: &str) -> Option<&str> {
    let name = text.strip_prefix("${env:")?.strip_suffix('}')?;
    let mut bytes = name.bytes();
    let first = bytes.next()?;
    let fine = (first.is_ascii_alphabetic() || first == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    fine.then_some(name)
}

struct Walk<'a> {
    environment: &'a Environment,
    secrets: Secrets,
    unresolved: Vec<Unresolved>,
}

impl Walk<'_> {
    fn object(&mut self, object: &mut Map<String, Value>, path: &mut String) {
        for (key, value) in object {
            self.step(value, path, &key.replace('~', "~0").replace('/', "~1"));
        }
    }

    fn step(&mut self, value: &mut Value, path: &mut String, token: &str) {
        let length = path.len();
        path.push('/');
        path.push_str(token);
        self.value(value, path);
        path.truncate(length);
    }

    fn value(&mut self, value: &mut Value, path: &mut String) {
        match value {
            Value::Object(object) => self.object(object, path),
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.step(item, path, &index.to_string());
                }
            }
            Value::String(text) => {
                if let Some(name) = reference(text).map(str::to_owned) {
                    match self.look_up(&name) {
                        Ok(found) => {
                            let reference = std::mem::replace(text, found);
                            self.secrets.0.push((reference, text.clone()));
                        }
                        Err(why) => self.unresolved.push(Unresolved { path: path.clone(), name, why }),
                    }
                }
            }
            _ => {}
        }
    }

    fn look_up(&self, name: &str) -> Result<String, Why> {
        if !self.environment.allows(name) {
            return Err(Why::NotAllowed);
        }
        (self.environment.read)(name).ok_or(Why::Unset)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_value_from_the_environment_stands_in_a_message() {
        let environment = Environment {
            allow: None,
            read: Arc::new(|name| Some(if name == "A" { "s3cret" } else { "tab\there \"s3cret\"" }.to_owned())),
        };
        let Value::Object(mut config) = json!({"a": "${env:A}", "b": "${env:B}"}) else { unreachable!() };
        let secrets = environment.resolve(&mut config).unwrap();
        let message =
            format!("invalid type: string {:?}, {:?}, {}", "s3cret", config["b"].as_str().unwrap(), config["b"]);
        assert_eq!(secrets.redact(&message), r#"invalid type: string "${env:A}", "${env:B}", "${env:B}""#);
    }
}
