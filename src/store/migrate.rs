//! Bringing the schema up to date, and refusing one that this hub can't serve.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::options::Purpose;
use super::row::Columns as _;
use super::{DatabaseOptions, StoreError, sql};

mod embedded {
    refinery::embed_migrations!("sql/migrations");
}

/// Key of the advisory lock under which migrations run: "hub" in ASCII. Replicas that start together take turns.
const LOCK: i64 = 0x0068_7562;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a database can't be served.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Postgres failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A migration failed; Postgres undid it.
    #[error("migration failed")]
    Migration(#[source] Box<refinery::Error>),
    /// Migrations are missing and this hub was told not to run them.
    #[error(
        "the schema is at {found} and this hub needs {needed}: run `central-hub migrate`, or start without --no-migrate"
    )]
    Behind {
        /// Newest migration in the database.
        found: i32,
        /// Newest migration that this hub knows.
        needed: i32,
    },
    /// The schema has moved on.
    #[error(
        "the schema excludes hubs that know migrations up to {known}, it needs one that knows {oldest}: upgrade this hub"
    )]
    TooNew {
        /// Newest migration that this hub knows.
        known: i32,
        /// What the schema asks for.
        oldest: i32,
    },
}

/// The newest migration that this hub knows.
#[must_use]
pub fn newest_known() -> i32 {
    embedded::migrations::runner().get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0)
}

/// Runs the missing migrations, one replica at a time, and tells their names.
///
/// # Errors
/// [`SchemaError`].
pub async fn migrate(options: &DatabaseOptions) -> Result<Vec<String>, SchemaError> {
    let mut client = connect(options).await?;
    // Held until this connection closes, whatever happens.
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(StoreError::from)?;
    check(&client, false).await?;
    let report = embedded::migrations::runner()
        // A newer hub's migrations are no reason to stop: `check` asks the schema itself.
        .set_abort_missing(false)
        .run_async(&mut client)
        .await
        .map_err(|error| SchemaError::Migration(Box::new(error)))?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

/// Checks that this hub may serve the schema as it is.
///
/// # Errors
/// [`SchemaError`].
pub async fn verify(options: &DatabaseOptions) -> Result<(), SchemaError> {
    check(&connect(options).await?, true).await
}

async fn check(client: &Client, complete: bool) -> Result<(), SchemaError> {
    let known = newest_known();
    let table = client.query_one("SELECT to_regclass('refinery_schema_history')::text AS found", &[]).await;
    let exists = table.map_err(StoreError::from)?.read::<Option<&str>>("found")?.is_some();
    let found = if exists {
        let newest =
            client.query_one("SELECT coalesce(max(version), 0) AS newest FROM refinery_schema_history", &[]).await;
        newest.map_err(StoreError::from)?.read("newest")?
    } else {
        0
    };
    if found > 0 {
        let oldest = client.query_one(sql::META, &[]).await.map_err(StoreError::from)?.read("oldest_schema")?;
        if oldest > known {
            return Err(SchemaError::TooNew { known, oldest });
        }
    }
    if complete && found < known { Err(SchemaError::Behind { found, needed: known }) } else { Ok(()) }
}

/// A connection of its own, which closes when the client is dropped. A Postgres that stands still accepts it and then
/// says nothing: that counts as away.
async fn connect(options: &DatabaseOptions) -> Result<Client, StoreError> {
    timeout(CONNECT_TIMEOUT, open(options)).await.unwrap_or(Err(StoreError::TimedOut))
}

async fn open(options: &DatabaseOptions) -> Result<Client, StoreError> {
    let config = options.postgres_config(Purpose::Migrate)?;
    let client = match options.tls()? {
        Some(tls) => {
            let (client, connection) = config.connect(tls).await.map_err(StoreError::while_connecting)?;
            tokio::spawn(connection);
            client
        }
        None => {
            let (client, connection) =
                config.connect(tokio_postgres::NoTls).await.map_err(StoreError::while_connecting)?;
            tokio::spawn(connection);
            client
        }
    };
    Ok(client)
}
