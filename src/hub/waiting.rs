//! Waiting, at the start of a hub, for what it can't be without: however long it takes, and said.

use std::sync::Arc;
use std::time::Duration;

use super::nats::{self, Connection, Interruptions};
use super::options::Options;
use crate::domain::name::ServiceName;
use crate::nats::NatsOptions;
use crate::store::config::Active;
use crate::store::migrate::{self, SchemaError};
use crate::store::{Store, StoreError};

/// A connection to NATS.
pub async fn nats_connection(
    options: &NatsOptions,
    purpose: &'static str,
    replica_id: &str,
    interruptions: &Arc<Interruptions>,
) -> Connection {
    let mut wait = Backoff::default();
    loop {
        match nats::connect(options, purpose, replica_id, Arc::clone(interruptions)).await {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::warn!(connection = purpose, urls = ?options.urls, cause = %error, "waiting for NATS");
                wait.pause().await;
            }
        }
    }
}

/// The schema, brought up to date unless the options say otherwise.
///
/// # Errors
/// What isn't an outage.
pub async fn schema(options: &Options) -> Result<(), SchemaError> {
    let mut wait = Backoff::default();
    loop {
        let ready = if options.migrate {
            migrate::migrate(&options.database).await
        } else {
            migrate::verify(&options.database).await.map(|()| Vec::new())
        };
        match ready {
            Ok(applied) => {
                for migration in applied {
                    tracing::info!(migration, "migrated");
                }
                return Ok(());
            }
            Err(SchemaError::Store(error)) if error.is_outage() => {
                tracing::warn!(database = options.database.address(), cause = %error.chain(), "waiting for PostgreSQL");
                wait.pause().await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The hub's own settings as they are in force, after the database was recognised.
///
/// # Errors
/// What isn't an outage.
pub async fn own_config(store: &Store, options: &Options) -> Result<Vec<Active>, StoreError> {
    let mut wait = Backoff::default();
    loop {
        let read = async {
            if let Some(epoch) = store.recognise().await? {
                tracing::warn!(epoch, "another database than before, restored or promoted: the epoch was raised");
            }
            store.configs_active(&[ServiceName::HUB]).await
        };
        match read.await {
            Err(error) if error.is_passing() => {
                tracing::warn!(database = options.database.address(), cause = %error.chain(), "waiting for PostgreSQL");
                wait.pause().await;
            }
            done => return done,
        }
    }
}

/// Pauses between tries: 100 ms, doubling to 5 s, with jitter.
#[derive(Default)]
struct Backoff {
    tries: u32,
}

impl Backoff {
    async fn pause(&mut self) {
        let most = (100u64 << self.tries.min(6)).min(5_000);
        self.tries += 1;
        tokio::time::sleep(Duration::from_millis(most / 2 + fastrand::u64(0..=most / 2))).await;
    }
}
