//! Infrastructure messages: the components that the fleet stands on, and how they are.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::error::Error;
use super::registry::DependencyStatus;
use super::{Endpoint, Fields, Request};
use crate::domain::name::ServiceName;

/// `hub.infra.status`: how each component was when it was last checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InfraStatus {}

/// `hub.infra.check`: checks every component now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InfraCheck {}

/// A component and its last check; with everything but `uptime_pct_24h` the value of its key in the bucket `hub_infra`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Its name: what dependencies call it.
    pub component_name: ServiceName,
    /// What it is: `postgresql`, `nats`, `kafka`, `clickhouse`, `redis`, `http` or `tcp`.
    pub kind: String,
    /// `unknown` when it is named but has no target.
    pub status: DependencyStatus,
    /// Of the last check; `None` when there was no answer.
    pub response_time_ms: Option<f64>,
    /// What went wrong; never a credential.
    pub error_message: Option<String>,
    /// When it was last checked, by PostgreSQL's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub checked_at: OffsetDateTime,
    /// Whether the fleet can't do without it: its alert is `critical`.
    pub critical: bool,
    /// Share of the last 24 hours in which it was up, of the time for which it is known; `None` before the first check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_pct_24h: Option<f64>,
}

/// Answer to [`InfraStatus`] and [`InfraCheck`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Infra {
    /// All components, by name.
    pub components: Vec<Component>,
}

impl Request for InfraStatus {
    const ENDPOINT: Endpoint = Endpoint::InfraStatus;
    type Reply = Infra;

    fn decode(_: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {})
    }
}

impl Request for InfraCheck {
    const ENDPOINT: Endpoint = Endpoint::InfraCheck;
    type Reply = Infra;

    fn decode(_: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {})
    }
}
