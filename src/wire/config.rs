//! Config messages. What is read stands here; `write` holds what changes configs, `schema` what they must look like.

mod schema;
mod write;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::error::Error;
use super::{Endpoint, Fields, Request};
use crate::domain::config::Convergence;
use crate::domain::name::{InstanceId, ServiceName};
pub use schema::{
    ConfigValidate, MAX_SCHEMA_BYTES, SchemaGet, SchemaSet, ServiceSchema, Validation, check_schema_size,
};
pub use write::{
    ConfigChange, ConfigDelete, ConfigPatch, ConfigRollback, ConfigSet, WriteOptions, check_keys, too_large,
};

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
