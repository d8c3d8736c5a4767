//! Config messages: get, set, history, list.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::Error;
use super::{Endpoint, Fields, Request};
use crate::domain::name::ServiceName;

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

/// `hub.config.set.<service>`: publish a config.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigSet {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// The content.
    pub config: Map<String, Value>,
    /// Who writes it; left out, `unknown`.
    pub created_by: Option<String>,
    /// Why.
    pub comment: Option<String>,
    /// Refuse unless this version is active; 0: unless none is.
    pub expected_version: Option<i64>,
    /// Refuse unless this revision is the newest; 0: unless there never was one.
    pub expected_revision: Option<i64>,
    /// Answer what would happen, and do nothing.
    pub dry_run: bool,
    /// Refuse when the hub gets to it later than this.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
}

impl ConfigSet {
    /// Sets `config` for `service_name`, unconditionally.
    #[must_use]
    pub fn new(service_name: ServiceName, config: Map<String, Value>) -> Self {
        Self {
            service_name,
            config,
            created_by: None,
            comment: None,
            expected_version: None,
            expected_revision: None,
            dry_run: false,
            deadline: None,
        }
    }
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
        Ok(Self {
            service_name: fields.service()?,
            config: config(fields)?,
            created_by: fields.text("created_by")?,
            comment: fields.text("comment")?,
            expected_version: fields.integer("expected_version", 0)?,
            expected_revision: fields.integer("expected_revision", 0)?,
            dry_run: fields.flag("dry_run")?.unwrap_or(false),
            deadline: fields.typed("deadline", "must be an RFC 3339 time", |value| {
                value.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
            })?,
        })
    }
}

fn config(fields: &mut Fields<'_>) -> Result<Map<String, Value>, Error> {
    const NAME: &str = "config";
    let limits = fields.limits();
    let config = fields.typed(NAME, "must be an object", |value| match value {
        Value::Object(map) => Some(map),
        _ => None,
    })?;
    let config = config.ok_or_else(|| Error::field(NAME, "is missing"))?;
    if count_keys(&config) > limits.config_keys {
        return Err(Error::too_large(NAME, limits.config_keys, "keys"));
    }
    Ok(config)
}

fn count_keys(map: &Map<String, Value>) -> usize {
    fn within(value: &Value) -> usize {
        match value {
            Value::Object(map) => count_keys(map),
            Value::Array(items) => items.iter().map(within).sum(),
            _ => 0,
        }
    }
    map.len() + map.values().map(within).sum::<usize>()
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

/// How an activation came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A new version was published.
    Published,
}

impl Action {
    /// The action as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
        }
    }
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
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Why.
    pub comment: Option<String>,
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
