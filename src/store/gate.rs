//! Holding configs against what they have to pass, on a thread where that may take its time.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_postgres::Row;

use super::registry::instance_in;
use super::row::Columns as _;
use super::{Store, StoreError, Tx, sql};
use crate::domain::config::Violation;
use crate::domain::gate::{Findings, Gate, Reader, breaks};
use crate::domain::name::ServiceName;
use crate::domain::schema::Schema;
use crate::domain::{secrets, settings};
use crate::wire::Error;

impl Store {
    /// What the gate of a service finds in a config.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn check_config(&self, service: &ServiceName, config: Value) -> Result<Findings, StoreError> {
        let rows = self.query(sql::CONFIG_SCHEMA_GET, &[&service.as_str()]).await?;
        let schema = rows.first().map(|row| row.read("schema")).transpose()?;
        let rows = self.query(sql::CONFIG_READERS, &[&service.as_str()]).await?;
        let readers = rows.iter().map(reader_from).collect::<Result<_, _>>()?;
        check(Gate { schema, readers }, service.clone(), config).await
    }

    /// How many bytes a config has as Postgres prints it.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn size_of_config(&self, config: &Value) -> Result<usize, StoreError> {
        let rows = self.query(sql::CONFIG_NORMALISE, &[&config.to_string()]).await?;
        rows.first().map_or(Ok(0), |row| Ok(row.read::<&str>("config")?.len()))
    }
}

impl Tx<'_> {
    /// What the gate of a service with this schema finds in a config.
    pub(super) async fn check_config(
        &self,
        service: &ServiceName,
        schema: Option<Value>,
        config: Value,
    ) -> Result<Findings, StoreError> {
        let rows = self.query(sql::CONFIG_READERS, &[&service.as_str()]).await?;
        let readers = rows.iter().map(reader_from).collect::<Result<_, _>>()?;
        check(Gate { schema, readers }, service.clone(), config).await
    }
}

async fn check(gate: Gate, service: ServiceName, config: Value) -> Result<Findings, StoreError> {
    on_a_thread(move || gate.check(&service, &config)).await
}

/// Checks at a time, of all requests together: each may take a processor, and much memory for the while.
static CHECKS: Semaphore = Semaphore::const_new(4);

/// Works on a thread where that may take its time, when there is one to spare.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    let _permit = CHECKS.acquire().await.map_err(StoreError::defect)?;
    tokio::task::spawn_blocking(work).await.map_err(StoreError::defect)
}

fn reader_from(row: &Row) -> Result<Reader, StoreError> {
    Ok(Reader { instance_id: instance_in(row)?, schema: row.read("config_schema")? })
}

/// A config's content, from its text as Postgres prints it.
///
/// # Errors
/// When it is nested deeper than can be read, which only a write by hand can bring about.
pub fn parsed(text: &str) -> Result<Value, StoreError> {
    let rule = "it was written by SQL and is nested too deep for the hub to read; write another one";
    serde_json::from_str(text).map_err(|_| Error::field("config", rule).into())
}

/// The JSON pointers of a config's secrets, except at and below those that the writer vouches for. Nobody can vouch for the
/// targets of the hub's own config.
///
/// # Errors
/// A pointer of `not_secret` that points nowhere.
pub async fn find_secrets(
    service: &ServiceName,
    config: &Value,
    not_secret: &BTreeSet<String>,
) -> Result<Vec<String>, StoreError> {
    if let Some(stray) = not_secret.iter().find(|pointer| config.pointer(pointer).is_none()) {
        return Err(Error::field("not_secret", format!("{} points nowhere in the config", Error::shown(stray))).into());
    }
    let (config, not_secret) = (config.clone(), not_secret.clone());
    let is_the_hubs = service.as_str() == ServiceName::HUB;
    on_a_thread(move || {
        let mut found = secrets::find(&config, &not_secret);
        if is_the_hubs {
            found.extend(settings::open_targets(&config));
            found.sort();
            found.dedup();
        }
        found
    })
    .await
}

/// Where a config breaks a schema.
///
/// # Errors
/// When the check died, which would be a defect.
pub async fn violations(schema: Value, config: Value) -> Result<Vec<Violation>, StoreError> {
    on_a_thread(move || breaks(&schema, &config)).await
}

/// Checks that a schema can be used, and that no secret stands in it.
///
/// # Errors
/// What is wrong with it, under the name of `field`.
pub async fn compiles(field: &'static str, schema: &Value) -> Result<(), Error> {
    let schema = schema.clone();
    let looked = on_a_thread(move || (Schema::compile(&schema).map(|_| ()), secrets::find_in_schema(&schema))).await;
    let (compiled, secrets) = looked.map_err(|_| Error::field(field, "can't be used as a JSON Schema"))?;
    if !secrets.is_empty() {
        let next = "a schema says what values look like, it needs none";
        return Err(Error::secret_detected(field, next, secrets));
    }
    compiled.map_err(|rule| Error::field(field, rule))
}
