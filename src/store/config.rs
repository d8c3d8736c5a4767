//! Configs: the active one, any version, publishing, history.

use serde_json::Value;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::outbox::NewEvent;
use super::registry::service_in;
use super::{Store, StoreError, Tx, object, sql};
use crate::domain::config::{self, Change, Expectation, Head, Position};
use crate::domain::name::ServiceName;
use crate::wire::bucket::{ConfigEntry, Key};
use crate::wire::config::{Action, Activation, Config, ConfigSet, ConfigSummary, Version};
use crate::wire::event::Kind;
use crate::wire::{Error, ErrorCode};

/// What is in force for a service.
#[derive(Clone, Debug)]
pub struct Active {
    /// The service.
    pub service_name: ServiceName,
    /// Its newest activation.
    pub position: Position,
    /// The active version; `None` after a delete.
    pub config: Option<Config>,
    /// Who activated it.
    pub activated_by: String,
    /// When.
    pub updated_at: OffsetDateTime,
}

impl Active {
    /// The value that KV must hold.
    #[must_use]
    pub fn entry(&self) -> ConfigEntry {
        ConfigEntry {
            service_name: self.service_name.clone(),
            epoch: self.position.epoch,
            revision: self.position.revision,
            version: self.config.as_ref().map(|config| config.version),
            checksum: self.config.as_ref().map(|config| config.checksum.clone()),
            config: self.config.as_ref().map(|config| config.config.clone()),
            created_by: self.config.as_ref().map_or_else(|| self.activated_by.clone(), |c| c.created_by.clone()),
            updated_at: self.updated_at,
        }
    }
}

/// What a set did, or would do.
#[derive(Clone, Debug)]
pub struct SetOutcome {
    /// Whether anything changed.
    pub changed: bool,
    /// The active version after it.
    pub version: Option<i64>,
    /// The newest activation after it.
    pub position: Position,
    /// What is in force after it; `None` after a dry run.
    pub active: Option<Active>,
}

impl Store {
    /// Publishes a config, unless it is what is active already.
    ///
    /// # Errors
    /// [`ErrorCode::VersionConflict`], [`ErrorCode::TooLarge`] (more than `max_bytes` as Postgres prints it); what
    /// Postgres says.
    pub async fn config_set(&self, request: &ConfigSet, max_bytes: usize) -> Result<SetOutcome, StoreError> {
        let text = Value::Object(request.config.clone()).to_string();
        let input = (request, text, max_bytes);
        self.run_tx("config set", input, |tx, (request, text, most)| Box::pin(config_set_in(tx, request, text, *most)))
            .await
    }

    /// What is in force for these services, as far as they ever had a config.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn configs_active(&self, services: &[&str]) -> Result<Vec<Active>, StoreError> {
        self.query(sql::CONFIG_ACTIVE, &[&services]).await?.iter().map(active_from).collect()
    }

    /// One version of a config.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn config_version(&self, service: &ServiceName, version: i64) -> Result<Option<Config>, StoreError> {
        let rows = self.query(sql::CONFIG_VERSION, &[&service.as_str(), &version]).await?;
        rows.first().map(|row| config_from(row, service.clone(), row.get("active"))).transpose()
    }

    /// Activations before `before` (all when it is `None`), newest first, and the versions that they name.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn config_history(
        &self,
        service: &ServiceName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<(Vec<Activation>, Vec<Version>), StoreError> {
        let rows = self.query(sql::CONFIG_HISTORY, &[&service.as_str(), &before, &i64::from(limit)]).await?;
        let activations: Vec<Activation> = rows.iter().map(activation_from).collect();
        let named: Vec<i64> = activations.iter().filter_map(|activation| activation.version).collect();
        let rows = self.query(sql::CONFIG_VERSIONS, &[&service.as_str(), &named]).await?;
        Ok((activations, rows.iter().map(version_from).collect()))
    }

    /// A page of configs after a service; one more than `limit`, to tell whether more follow.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn configs_page(&self, after: &str, limit: u32) -> Result<Vec<ConfigSummary>, StoreError> {
        let rows = self.query(sql::CONFIG_PAGE, &[&after, &(i64::from(limit) + 1)]).await?;
        let summary = |row: &Row| {
            Ok(ConfigSummary {
                service_name: service_in(row)?,
                version: row.get("version"),
                revision: row.get("revision"),
                updated_at: row.get("updated_at"),
            })
        };
        rows.iter().map(summary).collect()
    }

    /// The KV keys of all configs.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn config_keys(&self) -> Result<Vec<Key>, StoreError> {
        self.query(sql::CONFIG_NAMES, &[]).await?.iter().map(|row| Ok(Key::Config(service_in(row)?))).collect()
    }
}

async fn config_set_in(
    tx: &Tx<'_>,
    request: &ConfigSet,
    text: &str,
    max_bytes: usize,
) -> Result<SetOutcome, StoreError> {
    let service = request.service_name.as_str();
    tx.execute(sql::CONFIG_HEAD_LOCK, &[&service]).await?;
    let row = tx.query_one(sql::CONFIG_HEAD_COMPARE, &[&service, &text]).await?;
    let size = usize::try_from(row.get::<_, i32>("size_bytes")).map_err(StoreError::defect)?;
    if size > max_bytes {
        return Err(Error::too_large("config", max_bytes, "bytes as PostgreSQL prints it").into());
    }
    let head =
        Head { revision: row.get("revision"), version: row.get("version"), last_version: row.get("last_version") };
    let epoch: i64 = row.get("epoch");
    let expected = Expectation { version: request.expected_version, revision: request.expected_revision };
    let change = config::set(head, expected, row.get("same_content")).map_err(|_| conflict(head))?;

    let (changed, version, revision) = match change {
        Change::Unchanged => (false, head.version, head.revision),
        Change::Publish { version, revision } => (true, Some(version), revision),
    };
    let position = Position { epoch, revision };
    if request.dry_run {
        tx.execute(sql::CONFIG_HEAD_FORGET, &[&service]).await?;
        return Ok(SetOutcome { changed, version, position, active: None });
    }
    if let Change::Publish { version, revision } = change {
        let author = request.created_by.as_deref().unwrap_or("unknown");
        let action = Action::Published.as_str();
        tx.execute(sql::CONFIG_DEACTIVATE, &[&service]).await?;
        tx.execute(sql::CONFIG_INSERT, &[&service, &version, &text, &author, &request.comment]).await?;
        tx.execute(sql::CONFIG_ACTIVATE, &[&service, &revision, &version, &action, &author, &request.comment]).await?;
        tx.record(&[NewEvent {
            kind: Kind::Published,
            service_name: request.service_name.clone(),
            instance_id: None,
            details: object(serde_json::json!({
                "version": version,
                "revision": revision,
                "epoch": epoch,
                "replaces": head.version,
                "by": author,
                "comment": request.comment,
            })),
        }])
        .await?;
    }
    let row = tx.query_one(sql::CONFIG_ACTIVE, &[&vec![service]]).await?;
    Ok(SetOutcome { changed, version, position, active: Some(active_from(&row)?) })
}

fn conflict(head: Head) -> Error {
    Error::new(ErrorCode::VersionConflict, "the active config is not the expected one: read it, and decide again")
        .with("active_version", head.version)
        .with("revision", head.revision)
}

/// From columns `version`, `revision`, `epoch`, `config`, `checksum`, `created_by`, `created_at` and `comment`.
fn config_from(row: &Row, service_name: ServiceName, active: bool) -> Result<Config, StoreError> {
    Ok(Config {
        service_name,
        version: row.get("version"),
        revision: row.get::<_, Option<i64>>("revision").unwrap_or(0),
        epoch: row.get("epoch"),
        active,
        config: RawValue::from_string(row.get("config")).map_err(StoreError::defect)?,
        checksum: row.get("checksum"),
        created_by: row.get("created_by"),
        created_at: row.get("created_at"),
        comment: row.get("comment"),
    })
}

fn active_from(row: &Row) -> Result<Active, StoreError> {
    let service_name = service_in(row)?;
    let version: Option<i64> = row.get("version");
    let config = version.map(|_| config_from(row, service_name.clone(), true)).transpose()?;
    Ok(Active {
        service_name,
        position: Position { epoch: row.get("epoch"), revision: row.get("revision") },
        config,
        activated_by: row.get("activated_by"),
        updated_at: row.get("updated_at"),
    })
}

fn activation_from(row: &Row) -> Activation {
    Activation {
        revision: row.get("revision"),
        version: row.get("version"),
        action: row.get("action"),
        by: row.get("activated_by"),
        at: row.get("activated_at"),
        comment: row.get("comment"),
    }
}

fn version_from(row: &Row) -> Version {
    Version {
        version: row.get("version"),
        checksum: row.get("checksum"),
        created_by: row.get("created_by"),
        created_at: row.get("created_at"),
        active: row.get("active"),
        size_bytes: row.get("size_bytes"),
    }
}
