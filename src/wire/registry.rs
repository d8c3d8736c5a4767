//! Registry messages: register, heartbeat, deregister, list, get, drain.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::config::check_schema_size;
use super::error::Error;
use super::{Endpoint, Fields, Request};
use crate::domain::limits::HEARTBEAT_INTERVAL_SECONDS;
use crate::domain::name::{InstanceId, ServiceName, check_metric_name};
use crate::domain::status::Status;

/// Which config an instance should run. All `null` but revision and epoch after a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRef {
    /// Active version; `None` after a delete.
    pub version: Option<i64>,
    /// Newest activation.
    pub revision: i64,
    /// Epoch of the revision.
    pub epoch: i64,
}

/// An instance as others see it. In KV it stands without `last_heartbeat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its service.
    pub service_name: ServiceName,
    /// Which process of the service.
    pub instance_id: InstanceId,
    /// Its newest registration.
    pub incarnation: i64,
    /// How well it is.
    pub status: Status,
    /// Whether an operator takes it out of use.
    pub draining: bool,
    /// Its software version.
    pub version: Option<String>,
    /// Where it listens.
    pub host: Option<String>,
    /// Where it listens.
    pub port: Option<u16>,
    /// Names of services and infrastructure components that it needs.
    pub dependencies: Vec<ServiceName>,
    /// What it says of itself.
    pub metadata: Map<String, Value>,
    /// When it was last heard.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<OffsetDateTime>,
    /// When it registered last.
    #[serde(with = "time::serde::rfc3339")]
    pub registered_at: OffsetDateTime,
    /// The config revision that it said it runs.
    pub config_revision: Option<i64>,
    /// The config version that it said it runs.
    pub config_version: Option<i64>,
    /// Why it refused a newer config.
    pub config_error: Option<String>,
}

/// `hub.register.<service>`: a process says that it runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Register {
    /// Its service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Its id; left out, it is derived from host and port, else made up.
    pub instance_id: Option<InstanceId>,
    /// Its software version.
    pub version: Option<String>,
    /// Where others reach it.
    pub host: Option<String>,
    /// Where others reach it, 1 to 65535.
    pub port: Option<u16>,
    /// Names of services and infrastructure components that it needs.
    pub dependencies: Vec<ServiceName>,
    /// Anything else worth knowing of it.
    pub metadata: Map<String, Value>,
    /// How well it is; left out, healthy.
    pub status: Option<Status>,
    /// How often it will beat, 0.1 to 3600 seconds; left out, the hub's setting.
    pub heartbeat_interval_seconds: Option<f64>,
    /// A JSON Schema of the configs that it can read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<Value>,
    /// Refuse unless each dependency is known and not down.
    pub require_dependencies: bool,
}

impl Register {
    /// A registration of `service_name` that says nothing more.
    #[must_use]
    pub fn new(service_name: ServiceName) -> Self {
        Self {
            service_name,
            instance_id: None,
            version: None,
            host: None,
            port: None,
            dependencies: Vec::new(),
            metadata: Map::new(),
            status: None,
            heartbeat_interval_seconds: None,
            config_schema: None,
            require_dependencies: false,
        }
    }
}

/// State of a dependency: of the best instance of the service, not counting those that are draining while others aren't;
/// else of the infrastructure component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DependencyStatus {
    /// It does its work.
    Healthy,
    /// It works, but less well than it should.
    Degraded,
    /// It doesn't work: all its instances are down, or the component's last check failed.
    Down,
    /// Nobody registered under that name and no component has it, or the component can't be checked.
    Unknown,
}

impl DependencyStatus {
    /// The status as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Option<Status>> for DependencyStatus {
    fn from(status: Option<Status>) -> Self {
        match status {
            Some(Status::Healthy) => Self::Healthy,
            Some(Status::Degraded) => Self::Degraded,
            Some(Status::Down) => Self::Down,
            None => Self::Unknown,
        }
    }
}

/// A dependency and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The service or component.
    pub name: ServiceName,
    /// Its state.
    pub status: DependencyStatus,
}

/// Answer to [`Register`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// The service.
    pub service_name: ServiceName,
    /// The id under which the instance is known: name it in each heartbeat.
    pub instance_id: InstanceId,
    /// This registration: name it too, so that a delayed message of yours can't touch your successor.
    pub incarnation: i64,
    /// The status it starts with.
    pub status: Status,
    /// How often to beat.
    pub heartbeat_interval_seconds: f64,
    /// Silence after which it is marked down.
    pub service_timeout_seconds: f64,
    /// The config that should be in force; `None` if there never was one.
    pub config: Option<ConfigRef>,
    /// State of each dependency.
    pub dependencies: Vec<Dependency>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

impl Request for Register {
    const ENDPOINT: Endpoint = Endpoint::RegisterAs;
    type Reply = Registered;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            instance_id: fields.parsed("instance_id")?,
            version: fields.text("version")?,
            host: fields.text("host")?,
            port: fields.typed("port", "must be an integer from 1 to 65535", |value| {
                value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
            })?,
            dependencies: dependencies(fields)?,
            metadata: metadata(fields)?.unwrap_or_default(),
            status: fields.parsed("status")?,
            heartbeat_interval_seconds: fields.typed(
                "heartbeat_interval_seconds",
                "must be a number from 0.1 to 3600",
                |value| value.as_f64().filter(|seconds| HEARTBEAT_INTERVAL_SECONDS.contains(seconds)),
            )?,
            config_schema: config_schema(fields)?,
            require_dependencies: fields.flag("require_dependencies")?.unwrap_or(false),
        })
    }
}

fn dependencies(fields: &mut Fields<'_>) -> Result<Vec<ServiceName>, Error> {
    const NAME: &str = "dependencies";
    let limits = fields.limits();
    let names = fields.typed(NAME, "must be a list of names", |value| match value {
        Value::Array(items) => Some(items),
        _ => None,
    })?;
    let names = names.unwrap_or_default();
    if names.len() > limits.dependencies {
        return Err(Error::too_large(NAME, limits.dependencies, "names"));
    }
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let name = name.as_str().ok_or_else(|| Error::field(NAME, "must be a list of names"));
            name.and_then(|name| name.parse().map_err(|rule| Error::field(NAME, rule)))
                .map_err(|error| error.with("path", format!("/{NAME}/{index}")))
        })
        .collect()
}

fn config_schema(fields: &mut Fields<'_>) -> Result<Option<Value>, Error> {
    let schema = fields.take("config_schema");
    if let Some(schema) = &schema {
        check_schema_size("config_schema", schema)?;
    }
    Ok(schema)
}

fn metadata(fields: &mut Fields<'_>) -> Result<Option<Map<String, Value>>, Error> {
    const NAME: &str = "metadata";
    let most = fields.limits().metadata_bytes;
    let map = fields.typed(NAME, "must be an object", |value| match value {
        Value::Object(map) => Some(map),
        _ => None,
    })?;
    match map {
        Some(map) if serde_json::to_vec(&map).map_or(usize::MAX, |text| text.len()) > most => {
            Err(Error::too_large(NAME, most, "bytes"))
        }
        map => Ok(map),
    }
}

/// `hub.heartbeat.<service>`: an instance is alive, and says how well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heartbeat {
    /// Its service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Which instance; may be left out while it is the only one.
    pub instance_id: Option<InstanceId>,
    /// The registration that it got.
    pub incarnation: Option<i64>,
    /// Left out, healthy.
    pub status: Option<Status>,
    /// Measurements by name; finite numbers.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metrics: Map<String, Value>,
    /// The config revision in force; without `config_error` it clears the error.
    pub config_revision: Option<i64>,
    /// The config version in force.
    pub config_version: Option<i64>,
    /// Why the newest config was refused.
    pub config_error: Option<String>,
}

impl Heartbeat {
    /// A heartbeat of `service_name` that says nothing more.
    #[must_use]
    pub fn new(service_name: ServiceName) -> Self {
        Self {
            service_name,
            instance_id: None,
            incarnation: None,
            status: None,
            metrics: Map::new(),
            config_revision: None,
            config_version: None,
            config_error: None,
        }
    }
}

/// Answer to [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatAck {
    /// The service.
    pub service_name: ServiceName,
    /// The instance that was heard.
    pub instance_id: InstanceId,
    /// Its status now.
    pub status: Status,
    /// The config that should be in force; `None` if there never was one.
    pub config: Option<ConfigRef>,
    /// How often to beat.
    pub heartbeat_interval_seconds: f64,
}

impl Request for Heartbeat {
    const ENDPOINT: Endpoint = Endpoint::Heartbeat;
    type Reply = HeartbeatAck;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            instance_id: fields.parsed("instance_id")?,
            incarnation: fields.integer("incarnation", 1)?,
            status: fields.parsed("status")?,
            metrics: metrics(fields)?,
            config_revision: fields.integer("config_revision", 0)?,
            config_version: fields.integer("config_version", 0)?,
            config_error: fields.report("config_error")?,
        })
    }
}

fn metrics(fields: &mut Fields<'_>) -> Result<Map<String, Value>, Error> {
    const NAME: &str = "metrics";
    const RULE: &str = "must be an object of finite numbers by name";
    let most = fields.limits().metrics;
    let metrics = fields.typed(NAME, RULE, |value| match value {
        Value::Object(map) => Some(map),
        _ => None,
    })?;
    let metrics = metrics.unwrap_or_default();
    if metrics.len() > most {
        return Err(Error::too_large(NAME, most, "metrics"));
    }
    for (name, value) in &metrics {
        let shown: String = name.chars().take(100).collect();
        check_metric_name(name).map_err(|rule| Error::field(NAME, rule).with("metric", shown.as_str()))?;
        if !value.is_number() {
            return Err(Error::field(NAME, RULE).with("metric", shown));
        }
    }
    Ok(metrics)
}

/// `hub.deregister.<service>`: an instance says goodbye.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deregister {
    /// Its service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Which instance; may be left out while it is the only one.
    pub instance_id: Option<InstanceId>,
    /// The registration that it got; a goodbye with an older one is refused.
    pub incarnation: Option<i64>,
}

/// Answer to [`Deregister`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deregistered {
    /// The service.
    pub service_name: ServiceName,
    /// The instance that is gone.
    pub instance_id: InstanceId,
}

impl Request for Deregister {
    const ENDPOINT: Endpoint = Endpoint::Deregister;
    type Reply = Deregistered;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            instance_id: fields.parsed("instance_id")?,
            incarnation: fields.integer("incarnation", 1)?,
        })
    }
}

/// `hub.services.list`: who is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServicesList {
    /// Only instances with this status.
    pub status: Option<Status>,
    /// Only instances of this service.
    pub service_name: Option<ServiceName>,
    /// Only instances whose metadata holds all of this.
    pub metadata: Option<Map<String, Value>>,
    /// Left out, draining instances are listed too.
    pub include_draining: Option<bool>,
    /// Rows of the page.
    pub limit: Option<u32>,
    /// Where the page before ended: its `next_cursor`.
    pub cursor: Option<String>,
}

/// Answer to [`ServicesList`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServicesPage {
    /// Instances, ordered by service and id.
    pub services: Vec<Instance>,
    /// There when more follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl Request for ServicesList {
    const ENDPOINT: Endpoint = Endpoint::ServicesList;
    type Reply = ServicesPage;

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            status: fields.parsed("status")?,
            service_name: fields.parsed("service_name")?,
            metadata: metadata(fields)?,
            include_draining: fields.flag("include_draining")?,
            limit: Some(fields.page_limit()?),
            cursor: fields.text("cursor")?,
        })
    }
}

/// `hub.services.get.<service>`: where a service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicesGet {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
}

/// Answer to [`ServicesGet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The service.
    pub service_name: ServiceName,
    /// As well as its best instance.
    pub status: Status,
    /// Of one healthy instance that isn't draining, spread over calls; else of a degraded one; else `None`.
    pub host: Option<String>,
    /// Of the same instance.
    pub port: Option<u16>,
    /// All its instances.
    pub instances: Vec<Instance>,
}

impl Request for ServicesGet {
    const ENDPOINT: Endpoint = Endpoint::ServicesGet;
    type Reply = Service;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self { service_name: fields.service()? })
    }
}

/// `hub.services.drain.<service>`: an operator takes an instance out of use, or back in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicesDrain {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Which instance; may be left out while it is the only one.
    pub instance_id: Option<InstanceId>,
    /// Out of use, or back in.
    pub draining: bool,
    /// Why.
    pub reason: Option<String>,
}

impl Request for ServicesDrain {
    const ENDPOINT: Endpoint = Endpoint::ServicesDrain;
    type Reply = Instance;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            instance_id: fields.parsed("instance_id")?,
            draining: fields.flag("draining")?.ok_or_else(|| Error::field("draining", "is missing"))?,
            reason: fields.remark("reason")?,
        })
    }
}
