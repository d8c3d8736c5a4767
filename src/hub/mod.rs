//! The daemon: serving requests, background passes, the projection of Postgres to KV.
//!
//! [`run`] wires it: connect, migrate, start the passes, serve, and at the end drain in the order that loses nothing.

pub mod alert_calls;
pub mod alerts;
pub mod buckets;
pub mod calls;
pub mod config_calls;
mod cursor;
pub mod dependency_calls;
pub mod discovery;
pub mod due;
pub mod evidence;
mod graph;
pub mod heartbeats;
pub mod history_calls;
pub mod infra_calls;
pub mod inspector;
pub mod leader;
pub mod listener;
pub mod memory;
pub mod nats;
pub mod options;
pub mod outbox;
pub mod peers;
pub mod presence;
pub mod probe;
pub mod projector;
pub mod retention;
mod running;
pub mod serve;
pub mod settings;
pub mod streams;
pub mod throttle;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::settings::Settings;
use crate::store::migrate::SchemaError;
use crate::store::{Store, StoreError};
use buckets::Sight;
use graph::GraphReader;
use heartbeats::HeartbeatQueue;
use inspector::Inspector;
use memory::Memory;
use nats::Connection;
pub use options::Options;
use projector::Projector;
use running::Running;
use serve::Responder;

/// Why a hub couldn't run. NATS or Postgres being away is no reason: it waits for them.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The schema can't be served, or not be brought up to date.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The database options can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A subscription couldn't be made.
    #[error("the subjects can't be subscribed")]
    Subscribe(#[from] async_nats::SubscribeError),
}

/// What all requests of a hub share.
pub struct Hub {
    options: Options,
    store: Store,
    /// The connection that answers.
    requests: Connection,
    /// The connection that writes KV and events.
    writer: Connection,
    responder: Responder,
    memory: Arc<Memory>,
    /// Whether the watch that keeps memory fresh is live.
    config_sight: Arc<Sight>,
    configs: Arc<Projector>,
    inspector: Arc<Inspector>,
    graph: Arc<GraphReader>,
    heartbeats: HeartbeatQueue,
    settings: watch::Receiver<Settings>,
    /// Wakes the outbox.
    committed: Arc<Notify>,
    leads: Arc<AtomicBool>,
    /// Whether this replica takes part in the queue groups.
    takes_part: watch::Sender<bool>,
    /// Whether this replica, as the leader, listens to all heartbeats.
    listens: watch::Sender<bool>,
    started: Instant,
}

/// Runs a hub until `shutdown`, then drains it. `ready` hears when it serves.
///
/// # Errors
/// What can't get better by waiting; for NATS and Postgres it waits, and says so.
pub async fn run(options: Options, ready: oneshot::Sender<()>, shutdown: CancellationToken) -> Result<(), HubError> {
    tokio::select! {
        started = Running::start(options) => {
            let running = started?;
            let _ = ready.send(());
            shutdown.cancelled().await;
            running.stop().await;
            Ok(())
        }
        () = shutdown.cancelled() => Ok(()),
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
