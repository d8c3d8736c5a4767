//! What a config has to pass, beside the [guard for secrets](super::secrets), before it is published: the service's schema,
//! and what live instances can read.

use serde_json::Value;

use super::config::Violation;
use super::name::{InstanceId, ServiceName};
use super::schema::Schema;
use super::settings;

/// A live instance that declared what it can read.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Which instance.
    pub instance_id: InstanceId,
    /// A JSON Schema of the configs that it can read.
    pub schema: Value,
}

/// What a config is held against.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// The service's schema.
    pub schema: Option<Value>,
    /// Live instances with a schema of their own.
    pub readers: Vec<Reader>,
}

/// What the gate found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Where the config breaks its schema.
    pub violations: Vec<Violation>,
    /// Live instances that can't read it.
    pub incompatible: Vec<InstanceId>,
}

impl Gate {
    /// Holds a service's config against the gate. Takes time with the size of config and schemas.
    #[must_use]
    pub fn check(&self, service: &ServiceName, config: &Value) -> Findings {
        let mut violations = self.schema.as_ref().map_or_else(Vec::new, |schema| breaks(schema, config));
        if service.as_str() == ServiceName::HUB {
            violations.extend(settings::violations(config));
        }
        let unreadable = |reader: &&Reader| !breaks(&reader.schema, config).is_empty();
        let incompatible = self.readers.iter().filter(unreadable).map(|reader| reader.instance_id.clone()).collect();
        Findings { violations, incompatible }
    }
}

/// Where `config` breaks `schema`. A schema that can't be used, which only a write by hand can leave, breaks everywhere.
#[must_use]
pub fn breaks(schema: &Value, config: &Value) -> Vec<Violation> {
    match Schema::compile(schema) {
        Ok(schema) => schema.violations(config),
        Err(error) => vec![Violation { path: String::new(), message: format!("the schema can't be used: {error}") }],
    }
}
