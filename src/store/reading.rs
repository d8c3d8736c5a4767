//! Reading what may be long: row by row, and few at a time.

use std::pin::pin;

use deadpool_postgres::Object;
use futures_util::TryStreamExt as _;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::{CONNECT_TIMEOUT, Params, Store, StoreError, TX_TIMEOUT};

/// How many may read at once, of so many connections: the others are left to what can't wait, heartbeats before all.
pub(super) fn turns(connections: usize) -> usize {
    (connections / 4).max(1)
}

impl Store {
    /// Waits for a turn to read what may be long; it ends when this is dropped.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when too many read.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        match timeout(CONNECT_TIMEOUT, self.reading.acquire()).await {
            Ok(turn) => turn.map_err(StoreError::unavailable),
            Err(_) => Err(self.waited_in_vain()),
        }
    }

    /// Runs one statement and folds its rows one by one as they arrive, into what `start` makes; anew when the connection
    /// broke and the statement starts over.
    ///
    /// # Errors
    /// What `step` gives, and what Postgres says.
    pub(super) async fn fold<A>(
        &self,
        sql: &str,
        params: Params<'_>,
        start: impl Fn() -> A,
        step: impl Fn(&mut A, &Row) -> Result<(), StoreError>,
    ) -> Result<A, StoreError> {
        match self.attempt_fold(sql, params, start(), &step).await {
            Err(error) if error.may_start_over() => self.attempt_fold(sql, params, start(), &step).await,
            done => done,
        }
    }

    async fn attempt_fold<A>(
        &self,
        sql: &str,
        params: Params<'_>,
        mut folded: A,
        step: &impl Fn(&mut A, &Row) -> Result<(), StoreError>,
    ) -> Result<A, StoreError> {
        let connection = self.connection().await?;
        let folding = async {
            let statement = connection.prepare_cached(sql).await?;
            let mut rows = pin!(connection.query_raw(&statement, params.iter().copied()).await?);
            while let Some(row) = rows.try_next().await? {
                step(&mut folded, &row)?;
            }
            Ok(folded)
        };
        let result = timeout(TX_TIMEOUT, folding).await.unwrap_or(Err(StoreError::TimedOut));
        match &result {
            Ok(_) => self.note_heard(),
            // Rows may still be on their way: close it rather than have the next caller wait for them.
            Err(_) => drop(Object::take(connection)),
        }
        result
    }
}
