//! PostgreSQL, the truth. The only room that knows SQL.
//!
//! Statements live in `sql/queries/`, one file each, prepared once per connection. Writes of more than one statement go
//! through [`Store::run_tx`].

pub mod alert_facts;
pub mod alerts;
pub mod config;
pub mod config_care;
pub mod config_schema;
pub mod config_write;
pub mod delivery;
pub mod dependencies;
pub mod epoch;
pub mod error;
pub mod fleet;
pub mod gate;
pub mod heartbeat;
pub mod infra;
pub mod lease;
pub mod metrics;
pub mod migrate;
pub mod options;
pub mod outbox;
pub mod probe;
pub mod reading;
pub mod registry;
pub mod retention;
mod row;
pub mod sql;
pub mod sweep;
pub mod timeline;
pub mod uptime;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use row::Columns as _;

pub use error::StoreError;
pub use options::DatabaseOptions;

/// Parameters of a statement.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How long a caller waits for a free connection, and for a new one to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a transaction's work, and then its COMMIT, may take. Beyond it the connection is given up: a Postgres that
/// is paused answers nothing at all. Shorter than callers wait (5 s), so that they are told.
const TX_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that are kept for what can't wait, at the most.
const KEPT: usize = 3;

/// How often a transaction starts over after a serialization failure, a deadlock or a connection that broke before
/// COMMIT was sent.
const ATTEMPTS: u32 = 5;

/// The pool of connections to Postgres. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    /// Kept free for what can't wait.
    kept: Pool,
    /// Which replica's work this is: it stands in each event.
    replica_id: String,
    /// When Postgres last did what it was asked.
    heard: Arc<Mutex<Instant>>,
    /// Turns of reading what may be long.
    reading: Arc<Semaphore>,
}

/// What a transaction does: a future that borrows the transaction and its input.
pub type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 't>>;

/// One transaction.
pub struct Tx<'a> {
    inner: deadpool_postgres::Transaction<'a>,
    /// Which replica's work this is.
    pub replica_id: &'a str,
}

impl Tx<'_> {
    /// Runs a statement.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let statement = self.inner.prepare_cached(sql).await?;
        Ok(self.inner.query(&statement, params).await?)
    }

    /// Runs a statement that gives one row or none.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, StoreError> {
        let statement = self.inner.prepare_cached(sql).await?;
        Ok(self.inner.query_opt(&statement, params).await?)
    }

    /// Runs a statement that gives one row.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, StoreError> {
        let statement = self.inner.prepare_cached(sql).await?;
        Ok(self.inner.query_one(&statement, params).await?)
    }

    /// Runs a statement for its effect.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, StoreError> {
        let statement = self.inner.prepare_cached(sql).await?;
        Ok(self.inner.execute(&statement, params).await?)
    }
}

/// A right that one replica has at a time, until this is dropped.
#[derive(Debug)]
pub struct Exclusive(Option<Object>);

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

impl Store {
    /// Two pools, of at most `connections` together: see [`Store::urgent`]. Connects when it is first used.
    ///
    /// # Errors
    /// When the TLS settings of `options` can't be used.
    pub fn new(options: &DatabaseOptions, replica_id: &str, connections: usize) -> Result<Self, StoreError> {
        let config = options.postgres_config(options::Purpose::Serve)?;
        let tls = options.tls()?;
        let pool = |size: usize| {
            let config = config.clone();
            let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            let manager = match tls.clone() {
                Some(tls) => Manager::from_config(config, tls, manager_config),
                None => Manager::from_config(config, tokio_postgres::NoTls, manager_config),
            };
            Pool::builder(manager)
                .max_size(size)
                .runtime(Runtime::Tokio1)
                .wait_timeout(Some(CONNECT_TIMEOUT))
                .create_timeout(Some(CONNECT_TIMEOUT))
                .build()
                .map_err(StoreError::defect)
        };
        let kept = (connections / 3).clamp(2, KEPT);
        Ok(Self {
            pool: pool(connections.saturating_sub(kept).max(1))?,
            kept: pool(kept)?,
            replica_id: replica_id.to_owned(),
            heard: Arc::new(Mutex::new(Instant::now())),
            reading: Arc::new(Semaphore::new(reading::turns(connections))),
        })
    }

    /// The same, over connections that nothing else waits for: for heartbeats and for what the leader and the replicas tell
    /// each other by the second. Whoever reads, and however many, holds up none of that.
    #[must_use]
    pub fn urgent(&self) -> Self {
        Self { pool: self.kept.clone(), ..self.clone() }
    }

    /// How long ago Postgres last did what it was asked.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn note_heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn connection(&self) -> Result<Object, StoreError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => StoreError::while_connecting(error),
            PoolError::Timeout(TimeoutType::Wait) => self.waited_in_vain(),
            other => StoreError::unavailable(other),
        })
    }

    /// Why nothing was free for [`CONNECT_TIMEOUT`]: others have it all, or Postgres served nobody in all that time. (The
    /// replicas ask it something every second, whatever else there is to do.)
    fn waited_in_vain(&self) -> StoreError {
        if self.silence() < CONNECT_TIMEOUT { StoreError::Busy } else { StoreError::TimedOut }
    }

    /// Runs `work` on `input` in a transaction and commits it. It starts over, a bounded number of times, where Postgres
    /// undid it for another's sake or the connection broke before COMMIT was sent; so `work` may run more than once.
    ///
    /// # Errors
    /// What `work` gives; [`StoreError::OutcomeUnknown`] when the answer of the COMMIT was lost.
    pub async fn run_tx<I: Sync, T: Send>(
        &self,
        name: &'static str,
        input: I,
        work: for<'t> fn(&'t Tx<'_>, &'t I) -> Work<'t, T>,
    ) -> Result<T, StoreError> {
        let mut attempt = 1;
        loop {
            match self.attempt_tx(&input, work).await {
                Err(error) if error.may_start_over() && attempt < ATTEMPTS => {
                    tracing::debug!(transaction = name, attempt, cause = %error.chain(), "transaction starts over");
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=10 << attempt))).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn attempt_tx<I: Sync, T: Send>(
        &self,
        input: &I,
        work: for<'t> fn(&'t Tx<'_>, &'t I) -> Work<'t, T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection().await?;
        let working = async {
            let inner = connection.transaction().await?;
            let tx = Tx { inner, replica_id: &self.replica_id };
            let value = work(&tx, input).await?;
            Ok::<_, StoreError>((tx, value))
        };
        let result = match timeout(TX_TIMEOUT, working).await {
            Err(_) => Err(StoreError::TimedOut),
            Ok(Err(error)) => Err(error),
            Ok(Ok((tx, value))) => match timeout(TX_TIMEOUT, tx.inner.commit()).await {
                Ok(Ok(())) => Ok(value),
                Ok(Err(error)) => Err(StoreError::while_committing(error)),
                Err(_) => Err(StoreError::OutcomeUnknown(None)),
            },
        };
        if result.is_ok() {
            self.note_heard();
        }
        if matches!(result, Err(StoreError::TimedOut | StoreError::OutcomeUnknown(_))) {
            // Something may still be under way on it: close it rather than hand it to the next caller.
            drop(Object::take(connection));
        }
        result
    }

    /// Runs one statement by itself: it is its own transaction.
    ///
    /// # Errors
    /// What Postgres says. The statement may have happened when the connection broke; so this is for reads, and for
    /// writes that may happen twice.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        match self.attempt_query(sql, params).await {
            Err(error) if error.may_start_over() => self.attempt_query(sql, params).await,
            done => done,
        }
    }

    async fn attempt_query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let connection = self.connection().await?;
        let asking = async {
            let statement = connection.prepare_cached(sql).await?;
            Ok(connection.query(&statement, params).await?)
        };
        match timeout(TX_TIMEOUT, asking).await {
            Ok(result) => result.inspect(|_| self.note_heard()),
            Err(_) => {
                drop(Object::take(connection));
                Err(StoreError::TimedOut)
            }
        }
    }

    /// Waits for the right to move streams on, which one replica has at a time.
    ///
    /// # Errors
    /// When Postgres can't be asked, or another replica has it for too long.
    pub async fn lock_streams(&self) -> Result<Exclusive, StoreError> {
        // Closed whatever happens: the lock may come when nobody waits for it any more.
        let exclusive = Exclusive(Some(self.connection().await?));
        let locking = async {
            match &exclusive.0 {
                Some(connection) => Ok(connection.execute(sql::STREAMS_LOCK, &[]).await.map(|_| ())?),
                None => Ok(()),
            }
        };
        timeout(TX_TIMEOUT, locking).await.unwrap_or(Err(StoreError::TimedOut))?;
        Ok(exclusive)
    }

    /// Postgres' clock.
    ///
    /// # Errors
    /// When Postgres can't be asked.
    pub async fn now(&self) -> Result<OffsetDateTime, StoreError> {
        let rows = self.query(sql::CLOCK, &[]).await?;
        rows.first().ok_or_else(|| StoreError::defect("the clock gave no row"))?.read("now")
    }

    /// Closes all connections.
    pub fn close(&self) {
        self.pool.close();
        self.kept.close();
    }
}

/// The members of a JSON object; none of what isn't one (the schema sees to it that columns of objects hold objects).
fn object(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    match value {
        serde_json::Value::Object(map) => map,
        _ => serde_json::Map::new(),
    }
}
