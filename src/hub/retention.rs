//! What the leader keeps no longer, and the partitions that it makes ahead. Apart from the sweep, and in small steps: nobody's
//! liveness may hang on it, and no heartbeat may wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::throttle::Throttle;
use crate::domain::settings::Settings;
use crate::store::retention::{BATCH, Old};
use crate::store::{Store, StoreError};

/// How often the leader looks.
const PERIOD: Duration = Duration::from_secs(60);

/// When it looks again after it was cut short: work was left, or somebody reads what it wanted for itself.
const AGAIN: Duration = Duration::from_secs(5);

/// How soon a replica notices that it leads.
const NOTICE: Duration = Duration::from_secs(1);

/// How many days of partitions are made ahead.
const PARTITION_DAYS: i32 = 3;

/// Partitions that one pass drops at the most.
const PARTITIONS: usize = 50;

/// Batches that one pass removes of each table at the most.
const BATCHES: usize = 20;

/// The rest that others get between two batches.
const REST: Duration = Duration::from_millis(20);

/// Removes what is too old, and makes partitions ahead.
pub struct Retention {
    /// Where it is.
    pub store: Store,
    /// For how many days it is kept.
    pub settings: watch::Receiver<Settings>,
    /// Whether this replica leads.
    pub leads: Arc<AtomicBool>,
    /// Bounds how often it is said that a day has no partition.
    pub crowded: Throttle,
}

impl Retention {
    /// Runs until `stop`; looks at once when this replica comes to lead, and when settings change.
    pub async fn run(&self, stop: CancellationToken) {
        let mut settings = self.settings.clone();
        let mut notice = tokio::time::interval(NOTICE);
        notice.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = Instant::now();
        loop {
            tokio::select! {
                _ = notice.tick() => {}
                changed = settings.changed() => match changed {
                    Ok(()) => due = Instant::now(),
                    Err(_) => return,
                },
                () = stop.cancelled() => return,
            }
            if !self.leads.load(Ordering::Relaxed) {
                due = Instant::now();
            } else if due <= Instant::now() {
                let days = settings.borrow_and_update().health_monitoring.retention_days;
                let finished = tokio::select! {
                    finished = self.pass(days) => finished,
                    () = stop.cancelled() => return,
                };
                due = Instant::now() + if finished { PERIOD } else { AGAIN };
            }
        }
    }

    /// One look; false when something is left for the next. What fails doesn't keep the rest from being done.
    async fn pass(&self, days: u32) -> bool {
        let made = self.make_partitions().await;
        let dropped = self.drop_partitions(days).await;
        let mut finished =
            finished("partitions are made later", made) & finished("partitions are dropped later", dropped);
        for old in Old::ALL {
            finished &= self::finished("old rows are removed later", self.remove(old, days).await);
        }
        finished
    }

    async fn make_partitions(&self) -> Result<bool, StoreError> {
        for days in 0..=PARTITION_DAYS {
            let there = self.store.create_partition(days).await?;
            if !there && self.crowded.pass().is_some() {
                tracing::warn!(
                    days_ahead = days,
                    "health_metrics_default holds too many heartbeats of a day for a partition of its own: they stay there"
                );
            }
        }
        Ok(true)
    }

    async fn drop_partitions(&self, days: u32) -> Result<bool, StoreError> {
        for _ in 0..PARTITIONS {
            let Some(partition) = self.store.drop_partition(days).await? else { return Ok(true) };
            tracing::info!(partition, retention_days = days, "dropped the heartbeats of a day");
        }
        Ok(false)
    }

    async fn remove(&self, old: Old, days: u32) -> Result<bool, StoreError> {
        for _ in 0..BATCHES {
            if self.store.remove_old(old, days).await? < BATCH {
                return Ok(true);
            }
            tokio::time::sleep(REST).await;
        }
        Ok(false)
    }
}

/// Whether a step was finished; says why not, where that is no ordinary thing.
fn finished(what: &'static str, step: Result<bool, StoreError>) -> bool {
    match step {
        Ok(finished) => finished,
        Err(error) if error.is_passing() => {
            tracing::debug!(cause = %error.chain(), what);
            false
        }
        Err(error) => {
            tracing::error!(cause = %error.chain(), what);
            false
        }
    }
}
