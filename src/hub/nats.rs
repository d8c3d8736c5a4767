//! Connections to NATS: one answers requests, one writes KV and events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{Client, Event};
use tokio::sync::watch;

use crate::nats::{NatsOptions, explain};

/// How long a JetStream request may take.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages that wait in one subscription at the most. Beyond it the client library drops the newest.
const SUBSCRIPTION_CAPACITY: usize = 16_384;

/// What breaks a connection's hearing: counts only go up.
#[derive(Debug, Default)]
pub struct Interruptions(AtomicU64);

impl Interruptions {
    /// Notes that heartbeats may have been missed.
    pub fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection and what happens to it.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Grows with each (re)connect.
    pub generation: watch::Receiver<u64>,
}

impl Connection {
    /// Whether the server can be talked to now, as far as this side knows.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// JetStream on this connection.
    #[must_use]
    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::context::ContextBuilder::new().timeout(JETSTREAM_TIMEOUT).build(self.client.clone())
    }

    /// A message to the server and back.
    ///
    /// # Errors
    /// A text for people, when it didn't come back in time.
    pub async fn round_trip(&self, deadline: Duration) -> Result<Duration, String> {
        let asking = async {
            let started = std::time::Instant::now();
            let inbox = self.client.new_inbox();
            let mut inbound = self.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
            self.client.publish(inbox, "".into()).await.map_err(|error| error.to_string())?;
            futures_util::StreamExt::next(&mut inbound).await.ok_or("the subscription ended")?;
            Ok(started.elapsed())
        };
        if !self.is_up() {
            return Err("not connected".into());
        }
        tokio::time::timeout(deadline, asking).await.unwrap_or_else(|_| Err("no answer in time".into()))
    }
}

/// Connects once.
///
/// # Errors
/// What the client library or the credentials file says.
pub async fn connect(
    options: &NatsOptions,
    purpose: &'static str,
    replica_id: &str,
    interruptions: Arc<Interruptions>,
) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let (connected, generation) = watch::channel(0);
    let connect = options
        .connect_options()
        .await?
        .name(format!("central-hub {purpose} {replica_id}"))
        .connection_timeout(Duration::from_secs(2))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .ping_interval(Duration::from_secs(5))
        .max_reconnects(None)
        // Subjects come from the table and from inboxes that were checked.
        .skip_subject_validation(true)
        .reconnect_delay_callback(|attempt| {
            let base = 50u64.saturating_mul(1 << attempt.min(5));
            Duration::from_millis(base / 2 + fastrand::u64(0..=base / 2))
        })
        .event_callback(move |event| {
            note_event(purpose, &event, &interruptions, &connected);
            std::future::ready(())
        });
    let client = connect.connect(options.urls.clone()).await.map_err(explain)?;
    Ok(Connection { client, generation })
}

fn note_event(purpose: &str, event: &Event, interruptions: &Interruptions, connected: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            interruptions.note();
            connected.send_modify(|generation| *generation += 1);
            tracing::info!(connection = purpose, "connected to NATS");
        }
        Event::Disconnected => {
            interruptions.note();
            tracing::warn!(connection = purpose, "lost NATS; reconnecting");
        }
        Event::SlowConsumer(_) => {
            interruptions.note();
            tracing::warn!(connection = purpose, "requests arrive faster than they are taken: the newest were lost");
        }
        // A permission that is missing shows here and nowhere else.
        Event::ServerError(error) => tracing::error!(connection = purpose, cause = %error, "NATS refused something"),
        Event::ClientError(error) => tracing::warn!(connection = purpose, cause = %error, "NATS client error"),
        other => tracing::info!(connection = purpose, event = %other, "NATS connection"),
    }
}
