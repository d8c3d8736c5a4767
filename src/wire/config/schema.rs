//! Messages about what configs must look like.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::write::{check_keys, deadline, object, pointers, request_id};
use crate::domain::config::Violation;
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::{Endpoint, Error, Fields, Request};

/// `hub.config.validate.<service>`: would this config be taken? Changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigValidate {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// The content.
    pub config: Map<String, Value>,
    /// As [`WriteOptions::not_secret`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_secret: Vec<String>,
}

/// Answer to [`ConfigValidate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validation {
    /// Whether a set would be taken.
    pub valid: bool,
    /// Where it breaks the service's schema.
    pub violations: Vec<Violation>,
    /// JSON pointers of secrets.
    pub secrets: Vec<String>,
    /// Live instances that declared that they can't read it.
    pub incompatible_instances: Vec<InstanceId>,
}

impl Request for ConfigValidate {
    const ENDPOINT: Endpoint = Endpoint::ConfigValidate;
    type Reply = Validation;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        let service_name = fields.service()?;
        let config = object(fields, "config")?;
        check_keys("config", &config, fields.limits().config_keys)?;
        Ok(Self { service_name, config, not_secret: pointers(fields)? })
    }
}

/// `hub.config.schema.get.<service>`: what the service's configs must look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaGet {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
}

/// `hub.config.schema.set.<service>`: says what the service's configs must look like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SchemaSet {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// A JSON Schema (draft 2020-12); `null` takes it away.
    pub schema: Value,
    /// As [`WriteOptions::request_id`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// As [`WriteOptions::deadline`].
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<OffsetDateTime>,
}

/// Answer to [`SchemaGet`] and [`SchemaSet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceSchema {
    /// The service.
    pub service_name: ServiceName,
    /// Its schema; `null` when it has none.
    pub schema: Value,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

impl Request for SchemaGet {
    const ENDPOINT: Endpoint = Endpoint::SchemaGet;
    type Reply = ServiceSchema;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self { service_name: fields.service()? })
    }
}

impl Request for SchemaSet {
    const ENDPOINT: Endpoint = Endpoint::SchemaSet;
    type Reply = ServiceSchema;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        let service_name = fields.service()?;
        let schema =
            fields.nullable("schema").ok_or_else(|| Error::field("schema", "is missing; null takes it away"))?;
        check_schema_size("schema", &schema)?;
        Ok(Self { service_name, schema, request_id: request_id(fields)?, deadline: deadline(fields)? })
    }
}

/// Bytes of a schema's text at the most.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;

/// Checks the size of a schema.
///
/// # Errors
/// [`super::ErrorCode::TooLarge`].
pub fn check_schema_size(field: &str, schema: &Value) -> Result<(), Error> {
    let size = serde_json::to_vec(schema).map_or(usize::MAX, |text| text.len());
    if size > MAX_SCHEMA_BYTES { Err(Error::too_large(field, MAX_SCHEMA_BYTES, "bytes")) } else { Ok(()) }
}
