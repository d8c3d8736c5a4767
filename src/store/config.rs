//! Configs: the active one, any version, history, who runs what.

use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::registry::{instance_in, service_in};
use super::row::{Columns as _, readable};
use super::{Store, StoreError, sql};
use crate::domain::config::{Convergence, Position};
use crate::domain::heartbeat::Applied;
use crate::domain::name::ServiceName;
use crate::wire::bucket::{ConfigEntry, Key};
use crate::wire::config::{Activation, Config, ConfigSummary, InstanceConfig, Version};

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
    /// Whether the instances are to run it already; if not, they are to stay with what they run.
    pub pushed: bool,
}

impl Active {
    /// It as a value in KV.
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

impl Store {
    /// What is in force for these services, as far as they ever had a config.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn configs_active(&self, services: &[&str]) -> Result<Vec<Active>, StoreError> {
        self.query(sql::CONFIG_ACTIVE, &[&services]).await?.iter().map(active_from).collect()
    }

    /// What the instances of these services are to run, where that isn't what is in force.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn configs_pushed(&self, services: &[&str]) -> Result<Vec<Active>, StoreError> {
        self.query(sql::CONFIG_PUSHED, &[&services]).await?.iter().map(active_from).collect()
    }

    /// One version of a config.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn config_version(&self, service: &ServiceName, version: i64) -> Result<Option<Config>, StoreError> {
        let rows = self.query(sql::CONFIG_VERSION, &[&service.as_str(), &version]).await?;
        rows.first().map(|row| config_from(row, service.clone(), row.read("active")?)).transpose()
    }

    /// Activations before `before` (all when it is `None`), newest first, and the versions that they name.
    ///
    /// # Errors
    /// What Postgres says, and that too many read.
    pub async fn config_history(
        &self,
        service: &ServiceName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<(Vec<Activation>, Vec<Version>), StoreError> {
        let _turn = self.turn().await?;
        let rows = self.query(sql::CONFIG_HISTORY, &[&service.as_str(), &before, &i64::from(limit)]).await?;
        let activations = rows.iter().map(activation_from).collect::<Result<Vec<_>, _>>()?;
        let named: Vec<i64> = activations.iter().filter_map(|activation| activation.version).collect();
        let rows = self.query(sql::CONFIG_VERSIONS, &[&service.as_str(), &named]).await?;
        Ok((activations, rows.iter().map(version_from).collect::<Result<_, _>>()?))
    }

    /// A page of configs after a service; one more than `limit`, to tell whether more follow.
    ///
    /// # Errors
    /// What Postgres says, and that too many read.
    pub async fn configs_page(&self, after: &str, limit: u32) -> Result<Vec<ConfigSummary>, StoreError> {
        let _turn = self.turn().await?;
        let rows = self.query(sql::CONFIG_PAGE, &[&after, &(i64::from(limit) + 1)]).await?;
        let summary = |row: &Row| {
            Ok(ConfigSummary {
                service_name: service_in(row)?,
                version: row.read("version")?,
                revision: row.read("revision")?,
                updated_at: row.read("updated_at")?,
            })
        };
        rows.iter().map(summary).collect()
    }

    /// What the live instances of a service say that they run; `head` is the newest activation and `since` its time.
    ///
    /// # Errors
    /// What Postgres says, and that too many read.
    pub async fn config_reports(
        &self,
        service: &ServiceName,
        head: i64,
        since: OffsetDateTime,
    ) -> Result<Vec<InstanceConfig>, StoreError> {
        let _turn = self.turn().await?;
        let rows = self.query(sql::CONFIG_STATUS, &[&service.as_str()]).await?;
        rows.iter().map(|row| report_from(row, head, since)).collect()
    }

    /// The KV keys of all configs.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn config_keys(&self) -> Result<Vec<Key>, StoreError> {
        let rows = self.query(sql::CONFIG_NAMES, &[]).await?;
        Ok(readable("configs", &rows, |row| Ok(Key::Config(service_in(row)?))))
    }
}

/// From columns `version`, `revision`, `epoch`, `config`, `checksum`, `created_by`, `created_at` and `comment`.
fn config_from(row: &Row, service_name: ServiceName, active: bool) -> Result<Config, StoreError> {
    Ok(Config {
        service_name,
        version: row.read("version")?,
        revision: row.read::<Option<i64>>("revision")?.unwrap_or(0),
        epoch: row.read("epoch")?,
        active,
        config: RawValue::from_string(row.read("config")?).map_err(StoreError::defect)?,
        checksum: row.read("checksum")?,
        created_by: row.read("created_by")?,
        created_at: row.read("created_at")?,
        comment: row.read("comment")?,
    })
}

pub(super) fn active_from(row: &Row) -> Result<Active, StoreError> {
    let service_name = service_in(row)?;
    let version: Option<i64> = row.read("version")?;
    let config = version.map(|_| config_from(row, service_name.clone(), true)).transpose()?;
    Ok(Active {
        service_name,
        position: Position { epoch: row.read("epoch")?, revision: row.read("revision")? },
        config,
        activated_by: row.read("activated_by")?,
        updated_at: row.read("updated_at")?,
        pushed: row.read("pushed")?,
    })
}

fn activation_from(row: &Row) -> Result<Activation, StoreError> {
    Ok(Activation {
        revision: row.read("revision")?,
        version: row.read("version")?,
        action: row.read("action")?,
        by: row.read("activated_by")?,
        authenticated_as: row.read("authenticated_as")?,
        at: row.read("activated_at")?,
        comment: row.read("comment")?,
        forced: row.read("forced")?,
    })
}

fn version_from(row: &Row) -> Result<Version, StoreError> {
    Ok(Version {
        version: row.read("version")?,
        checksum: row.read("checksum")?,
        created_by: row.read("created_by")?,
        created_at: row.read("created_at")?,
        active: row.read("active")?,
        size_bytes: row.read("size_bytes")?,
    })
}

fn report_from(row: &Row, head: i64, activated_at: OffsetDateTime) -> Result<InstanceConfig, StoreError> {
    let applied = Applied {
        revision: row.read("config_revision")?,
        version: row.read("config_version")?,
        error: row.read("config_error")?,
    };
    let registered_at: OffsetDateTime = row.read("registered_at")?;
    let reported_at: Option<OffsetDateTime> = row.read("config_reported_at")?;
    let state = Convergence::of(&applied, head);
    let since = match state {
        Convergence::Current | Convergence::Failed => reported_at.unwrap_or(registered_at),
        Convergence::Behind | Convergence::Unknown => activated_at.max(registered_at),
    };
    Ok(InstanceConfig {
        instance_id: instance_in(row)?,
        config_version: applied.version,
        config_revision: applied.revision,
        state,
        config_error: applied.error,
        since,
    })
}
