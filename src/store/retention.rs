//! What is kept no longer: in batches, each a statement of its own that writes nothing unless this replica leads.

use super::row::Columns as _;
use super::{Store, StoreError, sql};
use crate::domain::uptime::DAYS_KEPT;

/// Rows of a batch: a fraction of a second's work, so that nobody waits long for what it locks.
pub const BATCH: i64 = 5_000;

/// A table whose old rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// Heartbeats for whose day there was no partition.
    Heartbeats,
    /// Checks of infrastructure.
    Checks,
    /// Published events.
    Events,
    /// Alerts that are over.
    Alerts,
    /// Transitions that others replaced, kept for as long as the longest window of uptime.
    Transitions,
}

impl Old {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Heartbeats, Self::Checks, Self::Events, Self::Alerts, Self::Transitions];

    fn statement(self) -> &'static str {
        match self {
            Self::Heartbeats => sql::RETENTION_HEARTBEATS,
            Self::Checks => sql::RETENTION_CHECKS,
            Self::Events => sql::RETENTION_EVENTS,
            Self::Alerts => sql::RETENTION_ALERTS,
            Self::Transitions => sql::RETENTION_TRANSITIONS,
        }
    }
}

impl Store {
    /// Removes up to [`BATCH`] rows that are older than `days`, and tells how many.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn remove_old(&self, old: Old, days: u32) -> Result<i64, StoreError> {
        let days = if old == Old::Transitions { i32::from(DAYS_KEPT) } else { days_of(days)? };
        let rows = self.query(old.statement(), &[&self.replica_id, &days, &BATCH]).await?;
        rows.first().map_or(Ok(0), |row| row.read("removed"))
    }

    /// Drops the oldest partition of `health_metrics` that ended `days` ago, and tells its name; `None` when there is none.
    ///
    /// # Errors
    /// What Postgres says. Somebody who reads the table counts as an outage: it is given up, so that no heartbeat waits.
    pub async fn drop_partition(&self, days: u32) -> Result<Option<String>, StoreError> {
        let rows = self.query(sql::PARTITION_DROP, &[&self.replica_id, &days_of(days)?]).await?;
        rows.first().map_or(Ok(None), |row| row.read("dropped"))
    }

    /// Makes the partition of `health_metrics` for the day that begins in `days`, unless it is there, with the heartbeats that
    /// came before it. False when those are too many to be moved: that day's stay in `health_metrics_default`.
    ///
    /// # Errors
    /// As [`Store::drop_partition`].
    pub async fn create_partition(&self, days: i32) -> Result<bool, StoreError> {
        let rows = self.query(sql::PARTITION_CREATE, &[&self.replica_id, &days]).await?;
        rows.first().map_or(Ok(true), |row| Ok(row.read::<Option<bool>>("made")?.is_some()))
    }
}

fn days_of(days: u32) -> Result<i32, StoreError> {
    i32::try_from(days).map_err(StoreError::defect)
}
