//! Sends committed events: brings KV to what they changed, puts them on the stream, and notes it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::nats::Connection;
use super::projector::Projector;
use super::streams;
use super::throttle::Throttle;
use crate::store::Store;
use crate::store::epoch::Reached;
use crate::store::outbox::Unpublished;
use crate::wire::bucket::Bucket;
use crate::wire::event::Event;

/// How often it looks without being woken: for events of a replica that died before it sent them.
const PERIOD: Duration = Duration::from_secs(1);

/// Events that are sent together.
const BATCH: i64 = 256;

/// How long a batch waits for KV before the others get their turn.
const PROJECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Room for the header of an event, which counts as part of its message, in bytes.
const HEADER_ROOM: usize = 128;

/// Failures in a row that are said: the first ones are ordinary, when the stream is yet to be made.
const STUCK_AFTER: u32 = 5;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The sender of events.
pub struct Outbox {
    /// Where they are.
    pub store: Store,
    /// The connection that may send them.
    pub connection: Connection,
    /// First token of their subjects.
    pub prefix: String,
    /// Settings of their stream.
    pub config: Config,
    /// What brings configs to KV.
    pub configs: Arc<Projector>,
    /// What brings instances to KV.
    pub services: Arc<Projector>,
    /// What brings components to KV.
    pub infra: Arc<Projector>,
    /// Wakes it after a commit.
    pub wake: Arc<Notify>,
    /// Bounds how often it is said that nothing can be sent.
    pub stuck: Throttle,
}

impl Outbox {
    /// Sends until it is told to stop, and then once more what is committed by then, unless `give_up` is cancelled.
    pub async fn run(&self, stop: CancellationToken, give_up: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            let last_round = stop.is_cancelled();
            let sent = tokio::select! {
                sent = self.send_all() => sent,
                () = give_up.cancelled() => return,
            };
            match sent {
                Ok(()) if last_round => return,
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures >= STUCK_AFTER
                        && let Some(unsaid) = self.stuck.pass()
                    {
                        tracing::warn!(unsaid, cause = %error, "events can't be sent: they are kept, and sent later");
                    } else {
                        tracing::debug!(cause = %error, "events will be sent later");
                    }
                }
            }
            let pause =
                if failures > 0 { Duration::from_millis(fastrand::u64(50..=100) << failures.min(4)) } else { PERIOD };
            tokio::select! {
                () = self.wake.notified(), if failures == 0 => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled(), if failures == 0 => {}
                () = give_up.cancelled() => return,
            }
        }
    }

    async fn send_all(&self) -> Result<(), Failure> {
        let jetstream = self.connection.jetstream();
        let mut after = 0;
        loop {
            let batch = self.store.unpublished(after, BATCH).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.row;
            self.project(&batch).await?;
            let sent = join_all(
                batch.iter().filter(|item| item.event.is_sent()).map(|item| self.send(&jetstream, &item.event)),
            )
            .await;
            if let Some(Err(error)) = sent.into_iter().find(Result::is_err) {
                // The stream may be gone: make sure of it for the next round.
                streams::ensure(&jetstream, &self.config, &Reached::default()).await?;
                return Err(error);
            }
            let rows: Vec<i64> = batch.iter().map(|item| item.row).collect();
            let reached: Vec<_> =
                [&self.configs, &self.services, &self.infra].into_iter().filter_map(|p| p.reached()).collect();
            self.store.mark_published(&rows, &reached).await?;
        }
    }

    /// Waits until KV shows what the events changed.
    async fn project(&self, batch: &[Unpublished]) -> Result<(), Failure> {
        let waiting = batch.iter().filter_map(Unpublished::key).map(|key| match key.bucket() {
            Bucket::Config => self.configs.project(key),
            Bucket::Services => self.services.project(key),
            Bucket::Infra => self.infra.project(key),
        });
        let projected = tokio::time::timeout(PROJECTION_TIMEOUT, join_all(waiting.collect::<Vec<_>>())).await?;
        projected.into_iter().collect::<Result<Vec<bool>, _>>()?;
        Ok(())
    }

    async fn send(&self, jetstream: &Context, event: &Event) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, event.id.as_str());
        let mut body = serde_json::to_vec(event)?;
        let most = self.connection.client.max_payload().saturating_sub(HEADER_ROOM);
        if body.len() > most {
            // It would never be sent, nor anything after it.
            body = serde_json::to_vec(&event.clone().fitting(most))?;
        }
        jetstream.publish_with_headers(event.subject(&self.prefix), headers, body.into()).await?.await?;
        Ok(())
    }
}
