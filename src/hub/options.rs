//! What a hub must know before it can read its own settings.

use std::time::Duration;

use crate::domain::name::InstanceId;
use crate::domain::settings::Settings;
use crate::nats::NatsOptions;
use crate::store::DatabaseOptions;
use crate::wire::subject::Inboxes;

/// Options of a hub.
#[derive(Clone, Debug)]
pub struct Options {
    /// The connection that answers requests. It needs to publish to inboxes only.
    pub nats: NatsOptions,
    /// The connection that writes KV and events; `None`: as `nats`.
    pub nats_writer: Option<NatsOptions>,
    /// The truth's keeper.
    pub database: DatabaseOptions,
    /// Connections to Postgres at the most.
    pub database_connections: usize,
    /// Whether missing migrations are run at start; otherwise they are an error.
    pub migrate: bool,
    /// First tokens of all subjects.
    pub subject_prefix: String,
    /// Start of all bucket names.
    pub bucket_prefix: String,
    /// Copies of each stream: 1, 3 or 5.
    pub stream_replicas: usize,
    /// Room for events on their stream, in MiB. The server sets it aside at once.
    pub events_max_mib: u32,
    /// Where answers may go.
    pub inboxes: Inboxes,
    /// This replica's name, unique among the hubs of one database.
    pub replica_id: InstanceId,
    /// The host it runs on, for its own record.
    pub host: Option<String>,
    /// Requests in work at the most, heartbeats and reads from memory not counted.
    pub max_in_flight: usize,
    /// Heartbeats waiting at the most.
    pub max_heartbeats_waiting: usize,
    /// How long a stop waits for what is in flight.
    pub drain_timeout: Duration,
    /// Whether the user in `Nats-Request-Info` is believed: only right where every request comes across an account import
    /// with sharing.
    pub trust_request_info: bool,
    /// Settings that hold while the hub's own config says nothing else.
    pub settings: Settings,
}

impl Options {
    /// Options with their defaults.
    #[must_use]
    pub fn new(nats_url: &str, database: DatabaseOptions, replica_id: InstanceId) -> Self {
        Self {
            nats: NatsOptions::new(nats_url),
            nats_writer: None,
            database,
            database_connections: 10,
            migrate: true,
            subject_prefix: "hub".into(),
            bucket_prefix: "hub".into(),
            stream_replicas: 1,
            events_max_mib: 1_024,
            inboxes: Inboxes::default(),
            replica_id,
            host: None,
            max_in_flight: 512,
            max_heartbeats_waiting: 8_192,
            drain_timeout: Duration::from_secs(10),
            trust_request_info: false,
            settings: Settings::default(),
        }
    }
}
