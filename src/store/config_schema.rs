//! What services' configs must look like.

use serde_json::{Map, Value};

use super::config::active_from;
use super::delivery::Delivery;
use super::outbox::NewEvent;
use super::row::Columns as _;
use super::{Store, StoreError, Tx, gate, sql};
use crate::domain::name::ServiceName;
use crate::domain::schema;
use crate::wire::config::ServiceSchema;
use crate::wire::event::{Kind, Topic};

/// A schema to give to a service.
#[derive(Clone, Debug)]
pub struct SchemaWrite {
    /// The service.
    pub service_name: ServiceName,
    /// Its schema; `null` takes it away.
    pub schema: Value,
    /// Whom NATS vouches for.
    pub authenticated_as: Option<String>,
    /// By what it is recognised when it comes again.
    pub delivery: Delivery,
}

impl Store {
    /// A service's schema.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn config_schema(&self, service: &ServiceName) -> Result<Option<Value>, StoreError> {
        let rows = self.query(sql::CONFIG_SCHEMA_GET, &[&service.as_str()]).await?;
        rows.first().map(|row| row.read("schema")).transpose()
    }

    /// Gives a service a schema, or takes it away.
    ///
    /// # Errors
    /// What a rule refuses; what Postgres says.
    pub async fn set_config_schema(&self, write: &SchemaWrite) -> Result<ServiceSchema, StoreError> {
        self.run_tx("schema write", write, |tx, write| Box::pin(set_in(tx, write))).await
    }
}

/// Under the lock of the service's config, so that what is published meanwhile is held against it, or looked at here.
async fn set_in(tx: &Tx<'_>, write: &SchemaWrite) -> Result<ServiceSchema, StoreError> {
    let service = write.service_name.as_str();
    tx.execute(sql::CONFIG_HEAD_LOCK, &[&service]).await?;
    let answer = match tx.first_answer(&write.delivery).await? {
        Some(answer) => answer,
        None => set_now(tx, write).await?,
    };
    tx.execute(sql::CONFIG_HEAD_FORGET, &[&service]).await?;
    Ok(answer)
}

async fn set_now(tx: &Tx<'_>, write: &SchemaWrite) -> Result<ServiceSchema, StoreError> {
    let service = write.service_name.as_str();
    let mut warnings = Vec::new();
    if write.schema.is_null() {
        tx.execute(sql::CONFIG_SCHEMA_DROP, &[&service]).await?;
    } else {
        tx.execute(sql::CONFIG_SCHEMA_SET, &[&service, &write.schema]).await?;
        warnings.extend(schema::dialect_warning(&write.schema));
        warnings.extend(active_breaks(tx, write).await?);
    }
    let mut details = Map::from_iter([("removed".to_owned(), write.schema.is_null().into())]);
    details.extend(write.authenticated_as.iter().map(|name| ("authenticated_as".to_owned(), name.as_str().into())));
    let service_name = write.service_name.clone();
    let event = NewEvent { topic: Topic::Config, kind: Kind::SchemaChanged, service_name, instance_id: None, details };
    tx.record(&[event]).await?;
    let answer = ServiceSchema { service_name: write.service_name.clone(), schema: write.schema.clone(), warnings };
    tx.keep_answer(&write.delivery, &answer).await?;
    Ok(answer)
}

/// A warning when what is in force breaks the schema.
async fn active_breaks(tx: &Tx<'_>, write: &SchemaWrite) -> Result<Option<String>, StoreError> {
    let row = tx.query_opt(sql::CONFIG_ACTIVE, &[&vec![write.service_name.as_str()]]).await?;
    let Some(active) = row.as_ref().map(active_from).transpose()?.and_then(|active| active.config) else {
        return Ok(None);
    };
    let config = gate::parsed(active.config.get())?;
    let violations = gate::violations(write.schema.clone(), config).await?;
    let first = violations.first();
    Ok(first.map(|first| {
        let version = active.version;
        format!("the active config, version {version}, doesn't satisfy it: at {:?}, {}", first.path, first.message)
    }))
}
