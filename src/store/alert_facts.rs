//! What alerts are decided by, read in one snapshot.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::registry::service_in;
use super::row::{Columns as _, readable};
use super::{Store, StoreError, Tx, object, sql};
use crate::domain::alert::Kind;
use crate::domain::alert::facts::{Active, Changes, Component, Config, Facts, Hold, Service, Tally};
use crate::domain::name::InstanceId;
use crate::domain::settings::Settings;
use crate::domain::status::Status;

/// How many instances the details of an alert name.
const IDS: i32 = 20;

/// How things are.
#[derive(Clone, Debug)]
pub struct Situation {
    /// What isn't as it should be.
    pub facts: Facts,
    /// Whether an alert outlasts the silence in which it was raised.
    pub outlasted: bool,
    /// Which registrations there are: the graph of dependencies is the same while this is.
    pub registrations: Registrations,
}

/// Stands for a set of registrations: each has a number that none had before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrations {
    count: i64,
    sum: String,
}

impl Store {
    /// How things are.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn situation(&self, settings: &Settings) -> Result<Situation, StoreError> {
        self.run_tx("situation", settings, |tx, settings| Box::pin(situation_in(tx, settings))).await
    }
}

async fn situation_in(tx: &Tx<'_>, settings: &Settings) -> Result<Situation, StoreError> {
    tx.execute(sql::SNAPSHOT, &[]).await?;
    let (window, settled) =
        (settings.health_monitoring.flapping_window_seconds, settings.health_monitoring.settled_after_seconds());
    let default_interval = settings.service_discovery.heartbeat_interval_seconds;
    let services = tx.query(sql::ALERT_SERVICES, &[&window, &settled, &IDS]).await?;
    let components = tx.query(sql::ALERT_COMPONENTS, &[&window, &settled]).await?;
    let configs = tx.query(sql::ALERT_CONFIGS, &[&default_interval, &IDS]).await?;
    let holds = tx.query(sql::ALERT_HOLDS, &[]).await?;
    let lost = tx.query(sql::ALERT_LOST, &[]).await?;
    let recovered = tx.query(sql::ALERT_RECOVERED, &[&settled]).await?;
    let active = tx.query(sql::ALERT_ACTIVE, &[]).await?;
    let registrations = tx.query_one(sql::REGISTRATIONS, &[]).await?;
    Ok(Situation {
        facts: Facts {
            services: readable("services", &services, service_from),
            lost: readable("services", &lost, service_in),
            components: readable("components", &components, component_from),
            holds: readable("holds", &holds, hold_from),
            configs: readable("configs", &configs, config_from),
            recovered: readable("alerts", &recovered, active_from).into_iter().flatten().collect(),
            active: readable("alerts", &active, active_from).into_iter().flatten().collect(),
        },
        outlasted: tx.query_one(sql::ALERT_SILENT, &[]).await?.read("outlasted")?,
        registrations: Registrations { count: registrations.read("count")?, sum: registrations.read("sum")? },
    })
}

fn service_from(row: &Row) -> Result<Service, StoreError> {
    let tally = |down: &str, degraded: &str| {
        Ok::<_, StoreError>(Tally { down: row.read(down)?, degraded: row.read(degraded)? })
    };
    Ok(Service {
        name: service_in(row)?,
        in_use: row.read("in_use")?,
        now: tally("down", "degraded")?,
        least: tally("least_down", "least_degraded")?,
        most: tally("most_down", "most_degraded")?,
        flapping: row.read("flapping")?,
        changes: changes_in(row)?,
        down_ids: ids_in(row, "down_ids")?,
        degraded_ids: ids_in(row, "degraded_ids")?,
        flapping_ids: ids_in(row, "flapping_ids")?,
    })
}

fn component_from(row: &Row) -> Result<Component, StoreError> {
    let status = |column: &str| {
        Ok::<_, StoreError>(match row.read::<i32>(column)? {
            1 => Status::Healthy,
            2 => Status::Degraded,
            _ => Status::Down,
        })
    };
    Ok(Component {
        name: service_in(row)?,
        kind: row.read("kind")?,
        critical: row.read("critical")?,
        now: status("rank")?,
        least: status("least")?,
        most: status("most")?,
        flapping: changes_in(row)?,
        error: row.read("error_message")?,
    })
}

fn changes_in(row: &Row) -> Result<Option<Changes>, StoreError> {
    let (count, last): (Option<i64>, Option<OffsetDateTime>) = (row.read("changes")?, row.read("last_change")?);
    Ok(count.zip(last).map(|(count, last)| Changes { count, last }))
}

fn config_from(row: &Row) -> Result<Config, StoreError> {
    Ok(Config {
        name: service_in(row)?,
        revision: row.read("revision")?,
        rejected: row.read("rejected")?,
        rejected_ids: ids_in(row, "rejected_ids")?,
        error: row.read("error")?,
        behind: row.read("behind")?,
        late: row.read("late")?,
        behind_ids: ids_in(row, "behind_ids")?,
        late_ids: ids_in(row, "late_ids")?,
    })
}

fn hold_from(row: &Row) -> Result<Hold, StoreError> {
    let whole_fleet = row.read::<&str>("service_name")?.is_empty();
    Ok(Hold {
        service: if whole_fleet { None } else { Some(service_in(row)?) },
        instances: row.read::<i32>("instances")?.into(),
        until: row.read("until")?,
    })
}

/// `None` for an alert of a kind that only a newer hub knows: that hub ends it.
fn active_from(row: &Row) -> Result<Option<Active>, StoreError> {
    let Some(kind) = Kind::from_texts(row.read("source")?, row.read("kind")?) else { return Ok(None) };
    let instance: String = row.read("instance_id")?;
    let instance = (!instance.is_empty()).then(|| InstanceId::try_from(instance)).transpose();
    let cause: Option<String> = row.read("cause")?;
    let details: Map<String, Value> = object(row.read("details")?);
    Ok(Some(Active {
        id: row.read("id")?,
        severity: row.read::<&str>("severity")?.parse().map_err(StoreError::defect)?,
        kind,
        name: row.read::<String>("name")?.try_into().map_err(StoreError::defect)?,
        instance_id: instance.map_err(StoreError::defect)?,
        message: row.read("message")?,
        details,
        cause: cause.map(TryInto::try_into).transpose().map_err(StoreError::defect)?,
    }))
}

fn ids_in(row: &Row, column: &str) -> Result<Vec<InstanceId>, StoreError> {
    let ids = row.read::<Option<Vec<String>>>(column)?.unwrap_or_default();
    ids.into_iter().map(|id| id.try_into().map_err(StoreError::defect)).collect()
}
