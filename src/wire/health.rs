//! Health messages: the hub's own.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::error::Error;
use super::{Endpoint, Fields, Request};
use crate::domain::status::Status;

/// `hub.health`: how the hub itself is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {}

/// Answer to [`Health`], from whichever replica got the question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HubHealth {
    /// Healthy; degraded when Postgres or NATS isn't well, or when KV lags behind.
    pub status: Status,
    /// Version of the hub.
    pub version: String,
    /// Which replica answers.
    pub replica_id: String,
    /// Whether it leads.
    pub leader: bool,
    /// Since it started.
    pub uptime_seconds: f64,
    /// The hub's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub now: OffsetDateTime,
    /// The truth's keeper.
    pub postgres: PostgresHealth,
    /// The messenger.
    pub nats: NatsHealth,
    /// What KV still lacks.
    pub projection: ProjectionHealth,
}

/// PostgreSQL as this replica sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostgresHealth {
    /// Healthy or down.
    pub status: Status,
    /// Of one query; `None` when there was no answer.
    pub response_time_ms: Option<f64>,
}

/// NATS as this replica sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NatsHealth {
    /// Healthy, or down when the connection that writes KV gets no answer.
    pub status: Status,
    /// Of one message to the server and back; `None` when it didn't come back.
    pub rtt_ms: Option<f64>,
    /// Version of the server.
    pub server_version: String,
}

/// The projection of Postgres to KV and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectionHealth {
    /// Events that are committed and not yet published; `None` when Postgres can't say.
    pub pending: Option<i64>,
}

impl Request for Health {
    const ENDPOINT: Endpoint = Endpoint::Health;
    type Reply = HubHealth;

    fn decode(_: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {})
    }
}
