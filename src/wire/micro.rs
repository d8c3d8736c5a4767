//! The NATS service API (ADR-32): what `nats micro ls`, `info` and `stats` ask for.

use serde::Serialize;
use time::OffsetDateTime;

/// The service's name.
pub const NAME: &str = "central-hub";

/// Queue group of all endpoints: each request goes to one replica.
pub const QUEUE_GROUP: &str = "central-hub";

/// A question about the service itself: the second token of `$SRV.<verb>[.<name>[.<id>]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Who is there?
    Ping,
    /// What do you serve?
    Info,
    /// How much did you serve?
    Stats,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 3] = [Self::Ping, Self::Info, Self::Stats];

    /// The subjects on which this verb reaches the replica `id`.
    #[must_use]
    pub fn subjects(self, id: &str) -> [String; 3] {
        let verb = match self {
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::Stats => "STATS",
        };
        [format!("$SRV.{verb}"), format!("$SRV.{verb}.{NAME}"), format!("$SRV.{verb}.{NAME}.{id}")]
    }

    /// The `type` of its answer.
    #[must_use]
    pub fn response_type(self) -> &'static str {
        match self {
            Self::Ping => "io.nats.micro.v1.ping_response",
            Self::Info => "io.nats.micro.v1.info_response",
            Self::Stats => "io.nats.micro.v1.stats_response",
        }
    }
}

/// What every answer begins with.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    /// Which answer this is.
    #[serde(rename = "type")]
    pub response_type: &'static str,
    /// [`NAME`].
    pub name: &'static str,
    /// The replica.
    pub id: String,
    /// Version of the hub.
    pub version: &'static str,
    /// More about the replica.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// Answer to [`Verb::Info`].
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// Who answers.
    #[serde(flatten)]
    pub identity: Identity,
    /// What the service is for.
    pub description: &'static str,
    /// What it serves.
    pub endpoints: Vec<EndpointInfo>,
}

/// An endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointInfo {
    /// Its name.
    pub name: &'static str,
    /// Its subject.
    pub subject: String,
    /// Its queue group.
    pub queue_group: &'static str,
    /// What it does.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// Answer to [`Verb::Stats`].
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Who answers.
    #[serde(flatten)]
    pub identity: Identity,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    pub started: OffsetDateTime,
    /// What it served.
    pub endpoints: Vec<EndpointStats>,
}

/// What an endpoint served.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointStats {
    /// Its name.
    pub name: &'static str,
    /// Its subject.
    pub subject: String,
    /// Its queue group.
    pub queue_group: &'static str,
    /// Requests, refused ones included.
    pub num_requests: u64,
    /// Requests that were refused.
    pub num_errors: u64,
    /// Number and text of the last refusal.
    pub last_error: String,
    /// Nanoseconds spent on requests, waiting included.
    pub processing_time: u64,
    /// Nanoseconds a request.
    pub average_processing_time: u64,
}
