//! The step about the hub itself: its health, and the events that it has kept.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull::OrderedConfig};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::report::{Findings, Mismatch, check};
use super::story::{PATIENCE, PREFIX, Story, eventually};
use crate::cli::chain;
use crate::domain::name::ServiceName;
use crate::domain::status::Status;
use crate::wire::event::{self, Event, Kind, Topic};
use crate::wire::health::{Health, HubHealth};

/// How long the next event of the stream may take.
const NEXT_EVENT: Duration = Duration::from_secs(5);

impl Story {
    /// Waits until the hub is healthy and has nothing left to publish, and reads all that it has published.
    pub(super) async fn hub_itself(&self) -> Result<Findings, Mismatch> {
        let health = self.healthy_hub().await?;
        let events = read_events(self.hub.nats()).await?;
        let fleet: Vec<&Event> =
            events.iter().filter(|event| event.service_name.as_str() != ServiceName::HUB).collect();
        let of_kind = |kind| fleet.iter().filter(|event| event.kind == kind).count();

        // Everybody once, and the lost process once more; each first config, the hot reload and the rollback.
        let registered = self.fleet.iter().map(|service| service.hosts.len()).sum::<usize>() + 1;
        let changed = self.fleet.len() + 2;
        let configs = fleet.iter().filter(|event| event.topic == Topic::Config).count();
        check(
            of_kind(Kind::Registered) >= registered,
            format!("{registered} registrations"),
            of_kind(Kind::Registered),
        )?;
        check(configs >= changed, format!("{changed} changes of a config"), configs)?;
        let down = fleet.iter().filter(|event| event.kind == Kind::Down && event.service_name == self.hero).count();
        check(down >= 1, format!("{} going down", self.hero), "it isn't told")?;

        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for event in &events {
            *counts.entry(event.kind.as_str()).or_default() += 1;
        }
        let told: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let milliseconds = |time: Option<f64>| time.map_or("?".to_owned(), |time| format!("{time:.1} ms"));
        Ok(Findings::new(format!(
            "healthy; PostgreSQL in {}, NATS in {}; nothing left to publish",
            milliseconds(health.postgres.response_time_ms),
            milliseconds(health.nats.rtt_ms)
        ))
        .line(format!("{}: {}", event::stream_name(PREFIX), told.join(", ")))
        .fact("events", serde_json::to_value(&counts).unwrap_or_default())
        .fact("postgres_ms", health.postgres.response_time_ms)
        .fact("nats_ms", health.nats.rtt_ms))
    }

    /// Waits until the hub is healthy, leads, and has published all that is committed.
    pub(super) async fn healthy_hub(&self) -> Result<HubHealth, Mismatch> {
        eventually(PATIENCE, async || {
            let health = self.hub.call(&Health {}).await?;
            let well = health.status == Status::Healthy && health.leader && health.projection.pending == Some(0);
            check(well, "a healthy hub that leads and has nothing left to publish", format!("{health:?}"))?;
            Ok(health)
        })
        .await
    }
}

/// All events in the stream.
async fn read_events(nats: &async_nats::Client) -> Result<Vec<Event>, Mismatch> {
    let name = event::stream_name(PREFIX);
    let unreadable = |cause: &dyn std::error::Error| Mismatch::new(format!("{name} can be read"), chain(cause));
    let stream = jetstream::new(nats.clone()).get_stream(&name).await.map_err(|error| unreadable(&error))?;
    let config = OrderedConfig { filter_subject: format!("{PREFIX}.events.>"), ..OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await.map_err(|error| unreadable(&error))?;
    let mut messages = consumer.messages().await.map_err(|error| unreadable(&error))?;
    let mut events = Vec::new();
    loop {
        let next = timeout(NEXT_EVENT, messages.next()).await.map_err(|error| unreadable(&error))?;
        let Some(message) = next else { return Ok(events) };
        let message = message.map_err(|error| unreadable(&error))?;
        events.push(serde_json::from_slice(&message.payload).map_err(|error| unreadable(&error))?);
        if message.info().map_err(|error| unreadable(error.as_ref()))?.pending == 0 {
            return Ok(events);
        }
    }
}
