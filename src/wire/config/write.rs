//! Messages that change a config.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::domain::name::ServiceName;
use crate::wire::{Endpoint, Error, Fields, Request};

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

pub(super) fn pointers(fields: &mut Fields<'_>) -> Result<Vec<String>, Error> {
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

pub(super) fn request_id(fields: &mut Fields<'_>) -> Result<Option<String>, Error> {
    let id = fields.text("request_id")?;
    match &id {
        Some(id) if id.chars().count() > MAX_REQUEST_ID => {
            Err(Error::too_large("request_id", MAX_REQUEST_ID, "characters"))
        }
        Some(id) if id.is_empty() => Err(Error::field("request_id", "must not be empty")),
        _ => Ok(id),
    }
}

pub(super) fn deadline(fields: &mut Fields<'_>) -> Result<Option<OffsetDateTime>, Error> {
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

pub(super) fn object(fields: &mut Fields<'_>, name: &'static str) -> Result<Map<String, Value>, Error> {
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
