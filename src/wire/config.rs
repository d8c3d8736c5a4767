//! Config messages.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::Error;
use super::{Endpoint, Fields, Request};
use crate::domain::config::{Convergence, Violation};
use crate::domain::name::{InstanceId, ServiceName};

/// `hub.config.get.<service>`: the active config, or any version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigGet {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Left out, the active version.
    pub version: Option<i64>,
    /// The answer is of this revision or a newer one of the same epoch: read your writes on any replica.
    pub min_revision: Option<i64>,
}

/// Answer to [`ConfigGet`]: one version of a config.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The service.
    pub service_name: ServiceName,
    /// Its number: 1, 2, 3, …
    pub version: i64,
    /// Its latest activation.
    pub revision: i64,
    /// Epoch of the revision.
    pub epoch: i64,
    /// Whether it is in force.
    pub active: bool,
    /// The content, a JSON object, as PostgreSQL normalises its text.
    pub config: Box<RawValue>,
    /// Opaque: the same content has the same.
    pub checksum: String,
    /// Who wrote it, as the writer said.
    pub created_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Why.
    pub comment: Option<String>,
}

impl Request for ConfigGet {
    const ENDPOINT: Endpoint = Endpoint::ConfigGet;
    type Reply = Config;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            version: fields.integer("version", 1)?,
            min_revision: fields.integer("min_revision", 0)?,
        })
    }
}

/// What every config call that changes something may say beside what it changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WriteOptions {
    /// Who writes; left out, `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Refuse unless this version is active; 0: unless none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<i64>,
    /// Refuse unless this revision is the newest; 0: unless there never was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_revision: Option<i64>,
    /// Answer what would happen, and do nothing.
    pub dry_run: bool,
    /// Publish although a live instance can't read it; recorded.
    pub force: bool,
    /// JSON pointers of values that look like secrets and aren't; recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_secret: Vec<String>,
    /// The same id, subject and body again within ten minutes gets the first answer and does nothing twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Refuse when the hub gets to it later than this.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<OffsetDateTime>,
}

/// Characters of a request id at the most.
const MAX_REQUEST_ID: usize = 64;

/// Pointers of `not_secret` at the most.
const MAX_NOT_SECRET: usize = 100;

impl WriteOptions {
    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            created_by: fields.author("created_by")?,
            comment: fields.remark("comment")?,
            expected_version: fields.integer("expected_version", 0)?,
            expected_revision: fields.integer("expected_revision", 0)?,
            dry_run: fields.flag("dry_run")?.unwrap_or(false),
            force: fields.flag("force")?.unwrap_or(false),
            not_secret: pointers(fields)?,
            request_id: request_id(fields)?,
            deadline: deadline(fields)?,
        })
    }
}

fn pointers(fields: &mut Fields<'_>) -> Result<Vec<String>, Error> {
    const RULE: &str = "must be a list of JSON pointers, such as \"/operational/token\"";
    let pointers = fields.typed("not_secret", RULE, |value| {
        let items = value.as_array()?.iter();
        items
            .map(|item| item.as_str().filter(|text| text.starts_with('/')).map(str::to_owned))
            .collect::<Option<Vec<_>>>()
    })?;
    let pointers = pointers.unwrap_or_default();
    if pointers.len() > MAX_NOT_SECRET {
        return Err(Error::too_large("not_secret", MAX_NOT_SECRET, "pointers"));
    }
    Ok(pointers)
}

fn request_id(fields: &mut Fields<'_>) -> Result<Option<String>, Error> {
    let id = fields.text("request_id")?;
    match &id {
        Some(id) if id.chars().count() > MAX_REQUEST_ID => {
            Err(Error::too_large("request_id", MAX_REQUEST_ID, "characters"))
        }
        Some(id) if id.is_empty() => Err(Error::field("request_id", "must not be empty")),
        _ => Ok(id),
    }
}

fn deadline(fields: &mut Fields<'_>) -> Result<Option<OffsetDateTime>, Error> {
    fields.typed("deadline", "must be an RFC 3339 time", |value| {
        value.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
    })
}

/// `hub.config.set.<service>`: publish a config.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigSet {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// The content.
    pub config: Map<String, Value>,
    /// How.
    #[serde(flatten)]
    pub options: WriteOptions,
}

impl ConfigSet {
    /// Sets `config` for `service_name`, unconditionally.
    #[must_use]
    pub fn new(service_name: ServiceName, config: Map<String, Value>) -> Self {
        Self { service_name, config, options: WriteOptions::default() }
    }
}

/// `hub.config.patch.<service>`: publish what a JSON merge patch (RFC 7396) makes of the active config.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigPatch {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// What to change; `null` removes a key.
    pub patch: Map<String, Value>,
    /// How.
    #[serde(flatten)]
    pub options: WriteOptions,
}

/// `hub.config.rollback.<service>`: put an older version back in force, or take back the newest change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigRollback {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Left out, what was in force before the newest change that isn't taken back yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_version: Option<i64>,
    /// How.
    #[serde(flatten)]
    pub options: WriteOptions,
}

/// `hub.config.delete.<service>`: take the config out of force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigDelete {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// How.
    #[serde(flatten)]
    pub options: WriteOptions,
}

/// Answer to a config call that changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The service.
    pub service_name: ServiceName,
    /// The active version.
    pub version: Option<i64>,
    /// The newest activation.
    pub revision: i64,
    /// Epoch of the revision.
    pub epoch: i64,
    /// Whether anything changed; the content that is active already changes nothing.
    pub changed: bool,
    /// Whether KV holds it; when not, the hub goes on trying.
    pub published: bool,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

impl Request for ConfigSet {
    const ENDPOINT: Endpoint = Endpoint::ConfigSet;
    type Reply = ConfigChange;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        let service_name = fields.service()?;
        let config = object(fields, "config")?;
        check_keys("config", &config, fields.limits().config_keys)?;
        Ok(Self { service_name, config, options: WriteOptions::decode(fields)? })
    }
}

impl Request for ConfigPatch {
    const ENDPOINT: Endpoint = Endpoint::ConfigPatch;
    type Reply = ConfigChange;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            patch: object(fields, "patch")?,
            options: WriteOptions::decode(fields)?,
        })
    }
}

impl Request for ConfigRollback {
    const ENDPOINT: Endpoint = Endpoint::ConfigRollback;
    type Reply = ConfigChange;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            to_version: fields.integer("to_version", 1)?,
            options: WriteOptions::decode(fields)?,
        })
    }
}

impl Request for ConfigDelete {
    const ENDPOINT: Endpoint = Endpoint::ConfigDelete;
    type Reply = ConfigChange;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self { service_name: fields.service()?, options: WriteOptions::decode(fields)? })
    }
}

fn object(fields: &mut Fields<'_>, name: &'static str) -> Result<Map<String, Value>, Error> {
    let object = fields.typed(name, "must be an object", |value| match value {
        Value::Object(map) => Some(map),
        _ => None,
    })?;
    object.ok_or_else(|| Error::field(name, "is missing"))
}

/// Checks how many keys a config has, counted at every depth.
///
/// # Errors
/// [`super::ErrorCode::TooLarge`] when there are more than `most`.
pub fn check_keys(field: &str, config: &Map<String, Value>, most: usize) -> Result<(), Error> {
    fn count(map: &Map<String, Value>) -> usize {
        map.len() + map.values().map(within).sum::<usize>()
    }
    fn within(value: &Value) -> usize {
        match value {
            Value::Object(map) => count(map),
            Value::Array(items) => items.iter().map(within).sum(),
            _ => 0,
        }
    }
    if count(config) > most { Err(Error::too_large(field, most, "keys")) } else { Ok(()) }
}

/// A config of more than `most` bytes.
#[must_use]
pub fn too_large(most: usize) -> Error {
    Error::too_large("config", most, "bytes as PostgreSQL prints it")
}

/// `hub.config.history.<service>`: what was in force when, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigHistory {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Rows of the page.
    pub limit: Option<u32>,
    /// Only activations before this revision: the last one of the page before.
    pub before_revision: Option<i64>,
}

/// One activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// Its revision.
    pub revision: i64,
    /// The version that it put in force.
    pub version: Option<i64>,
    /// How it came about.
    pub action: String,
    /// Who did it.
    pub by: String,
    /// Whom NATS vouches for, where the hub is told to believe it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_as: Option<String>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Why.
    pub comment: Option<String>,
    /// Whether live instances had declared that they can't read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub version: i64,
    /// Opaque: the same content has the same.
    pub checksum: String,
    /// Who wrote it.
    pub created_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Whether it is in force.
    pub active: bool,
    /// Bytes of its text.
    pub size_bytes: i32,
}

/// Answer to [`ConfigHistory`], newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// What was in force when.
    pub activations: Vec<Activation>,
    /// The versions that those activations name.
    pub versions: Vec<Version>,
}

impl Request for ConfigHistory {
    const ENDPOINT: Endpoint = Endpoint::ConfigHistory;
    type Reply = History;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            limit: Some(fields.page_limit()?),
            before_revision: fields.integer("before_revision", 1)?,
        })
    }
}

/// `hub.config.list`: which services have a config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigList {
    /// Rows of the page.
    pub limit: Option<u32>,
    /// Where the page before ended: its `next_cursor`.
    pub cursor: Option<String>,
}

/// A service's config, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSummary {
    /// The service.
    pub service_name: ServiceName,
    /// The active version; `None` after a delete.
    pub version: Option<i64>,
    /// The newest activation.
    pub revision: i64,
    /// When that was.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// Answer to [`ConfigList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigsPage {
    /// Configs, ordered by service.
    pub configs: Vec<ConfigSummary>,
    /// There when more follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl Request for ConfigList {
    const ENDPOINT: Endpoint = Endpoint::ConfigList;
    type Reply = ConfigsPage;

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self { limit: Some(fields.page_limit()?), cursor: fields.text("cursor")? })
    }
}

/// `hub.config.diff.<service>`: what changes from one version to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigDiff {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// A version.
    pub from: i64,
    /// Another; left out, the active one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
}

/// Answer to [`ConfigDiff`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// The version that the patch applies to.
    pub from: i64,
    /// The version that it makes.
    pub to: i64,
    /// A JSON Patch (RFC 6902).
    pub patch: Vec<Value>,
}

impl Request for ConfigDiff {
    const ENDPOINT: Endpoint = Endpoint::ConfigDiff;
    type Reply = Diff;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            from: fields.integer("from", 1)?.ok_or_else(|| Error::field("from", "is missing"))?,
            to: fields.integer("to", 1)?,
        })
    }
}

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

/// `hub.config.status.<service>`: who runs what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigStatus {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
}

/// An instance and the config it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceConfig {
    /// Which instance.
    pub instance_id: InstanceId,
    /// The version that it said it runs.
    pub config_version: Option<i64>,
    /// The revision that it said it runs.
    pub config_revision: Option<i64>,
    /// How far it is.
    pub state: Convergence,
    /// Why it refused a newer config.
    pub config_error: Option<String>,
    /// Since when it is in that state.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// Answer to [`ConfigStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvergenceStatus {
    /// The active version; `None` after a delete.
    pub version: Option<i64>,
    /// The newest activation.
    pub revision: i64,
    /// Whether KV holds it.
    pub published: bool,
    /// Whether every live instance says that it runs it; `false` when none is live.
    pub converged: bool,
    /// Instances that aren't down.
    pub instances: Vec<InstanceConfig>,
}

impl Request for ConfigStatus {
    const ENDPOINT: Endpoint = Endpoint::ConfigStatus;
    type Reply = ConvergenceStatus;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self { service_name: fields.service()? })
    }
}
