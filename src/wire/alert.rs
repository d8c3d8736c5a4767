//! Alert messages: what needs a person's attention, until it is over.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::error::Error;
use super::{Endpoint, Fields, Request};
use crate::domain::alert::Severity;
use crate::domain::name::{InstanceId, ServiceName};

/// The longest silence: 30 days, in seconds.
pub const MAX_SILENCE_SECONDS: f64 = 30.0 * 86_400.0;

/// `hub.alerts.list`: newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AlertsList {
    /// Only those that are not over (`true`), or only those that are (`false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Only those of this severity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Only those about this service or component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<ServiceName>,
    /// Rows of the page.
    pub limit: Option<u32>,
    /// Where the page before ended: its `next_cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its number.
    pub id: i64,
    /// How much it matters.
    pub severity: Severity,
    /// Which part of the hub raised it: `service`, `liveness`, `infra` or `config`.
    pub source: String,
    /// What it is about, within its source: `down`, `flapping`, `mass_expiry`, `behind`, `forced`, …
    pub kind: String,
    /// The service or component; `fleet` for the whole.
    pub name: ServiceName,
    /// The instance, where it is about a single one: alerts of older hubs. `details.instances` names those that are meant.
    pub instance_id: Option<InstanceId>,
    /// What people read.
    pub message: String,
    /// The service or component that most probably is behind it.
    pub cause: Option<ServiceName>,
    /// Facts by name; `affects` lists who depends on it, `explains` whose alerts it is the cause of.
    pub details: Map<String, Value>,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub raised_at: OffsetDateTime,
    /// When it was over.
    #[serde(with = "time::serde::rfc3339::option")]
    pub resolved_at: Option<OffsetDateTime>,
    /// When somebody said that they saw it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub acked_at: Option<OffsetDateTime>,
    /// Who.
    pub acked_by: Option<String>,
    /// Until when the same alert, should it come again, is kept and not sent.
    #[serde(with = "time::serde::rfc3339::option")]
    pub silenced_until: Option<OffsetDateTime>,
}

/// Answer to [`AlertsList`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertsPage {
    /// Alerts, newest first.
    pub alerts: Vec<Alert>,
    /// There when more follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// `hub.alerts.ack`: somebody saw it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlertsAck {
    /// Which.
    pub id: i64,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// For how long the same alert, should it come again, is kept and not sent, in seconds; 0: no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence_seconds: Option<f64>,
}

impl Request for AlertsList {
    const ENDPOINT: Endpoint = Endpoint::AlertsList;
    type Reply = AlertsPage;

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            active: fields.flag("active")?,
            severity: fields.parsed("severity")?,
            service_name: fields.parsed("service_name")?,
            limit: Some(fields.page_limit()?),
            cursor: fields.text("cursor")?,
        })
    }
}

impl Request for AlertsAck {
    const ENDPOINT: Endpoint = Endpoint::AlertsAck;
    type Reply = Alert;

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            id: fields.integer("id", 1)?.ok_or_else(|| Error::field("id", "is missing; hub.alerts.list tells it"))?,
            by: fields.author("by")?,
            silence_seconds: fields.seconds("silence_seconds", 0.0..=MAX_SILENCE_SECONDS)?,
        })
    }
}
