//! The hub in its own registry: each replica is an instance of the service `central-hub`, under the same sweep.

use std::time::Duration;

use serde_json::Map;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::heartbeats::HeartbeatQueue;
use crate::domain::heartbeat::{Applied, Report};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::store::Store;
use crate::store::heartbeat::Beat;
use crate::wire::ErrorCode;
use crate::wire::registry::{Deregister, Register};

/// How often a replica beats.
const INTERVAL: Duration = Duration::from_secs(5);

/// Keeps this replica in the registry.
pub struct Presence {
    /// Where it registers.
    pub store: Store,
    /// Where it beats, as everybody does.
    pub heartbeats: HeartbeatQueue,
    /// Its name.
    pub replica_id: InstanceId,
    /// The host it runs on.
    pub host: Option<String>,
    /// The config of its own service that it runs.
    pub applied: watch::Receiver<Applied>,
    /// Wakes the outbox.
    pub committed: std::sync::Arc<tokio::sync::Notify>,
}

impl Presence {
    /// Runs until `stop`, then says goodbye.
    pub async fn run(&self, stop: CancellationToken) {
        let mut incarnation = None;
        let mut applied = self.applied.clone();
        let mut beat = tokio::time::interval(INTERVAL);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                Ok(()) = applied.changed() => {}
                () = stop.cancelled() => break,
            }
            let registered = match incarnation {
                None => self.register().await,
                Some(current) => Some(current),
            };
            incarnation = match registered {
                None => None,
                Some(current) => self.beat(current).await,
            };
        }
        if incarnation.is_some() {
            let goodbye = Deregister {
                service_name: ServiceName::hub(),
                instance_id: Some(self.replica_id.clone()),
                incarnation,
            };
            if let Err(error) = self.store.deregister(&goodbye).await {
                tracing::debug!(cause = %error.chain(), "the replica's own record stays until the sweep removes it");
            }
            self.committed.notify_one();
        }
    }

    async fn register(&self) -> Option<i64> {
        let request = Register {
            instance_id: Some(self.replica_id.clone()),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            host: self.host.clone(),
            metadata: Map::from_iter([("pid".to_owned(), std::process::id().into())]),
            heartbeat_interval_seconds: Some(INTERVAL.as_secs_f64()),
            ..Register::new(ServiceName::hub())
        };
        match self.store.register(&request, &self.replica_id, INTERVAL.as_secs_f64()).await {
            Ok(made) => {
                self.committed.notify_one();
                Some(made.incarnation)
            }
            Err(error) => {
                tracing::debug!(cause = %error.chain(), "the replica will register itself later");
                None
            }
        }
    }

    /// Beats; `None` when it has to register anew.
    async fn beat(&self, incarnation: i64) -> Option<i64> {
        let report = Report {
            instance_id: Some(self.replica_id.clone()),
            incarnation: Some(incarnation),
            status: Status::Healthy,
            applied: self.applied.borrow().clone(),
        };
        match self.heartbeats.take(Beat { service_name: ServiceName::hub(), report, metrics: None }).await {
            Err(error) if error.code == ErrorCode::NotRegistered => None,
            Err(error) if error.code == ErrorCode::StaleIncarnation => {
                tracing::error!(
                    replica = self.replica_id.as_str(),
                    "another hub runs under this replica id: give each its own with --replica-id"
                );
                None
            }
            _ => Some(incarnation),
        }
    }
}
