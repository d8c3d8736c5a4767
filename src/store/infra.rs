//! Infrastructure components and their checks.

use std::collections::HashMap;
use std::time::Instant;

use tokio_postgres::Row;

use super::outbox::NewEvent;
use super::row::Columns as _;
use super::{Store, StoreError, Tx, object, sql};
use crate::domain::name::ServiceName;
use crate::domain::status::Status;
use crate::wire::bucket::Key;
use crate::wire::event::Topic;
use crate::wire::infra::Component;
use crate::wire::registry::DependencyStatus;

/// What a check found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The component's name.
    pub name: ServiceName,
    /// What it is.
    pub kind: &'static str,
    /// How it is.
    pub status: DependencyStatus,
    /// How long the answer took, in milliseconds.
    pub response_time_ms: Option<f64>,
    /// What went wrong; never a credential.
    pub error_message: Option<String>,
    /// Whether the fleet can't do without it.
    pub critical: bool,
    /// When it was checked, by the process' monotonic clock.
    pub at: Instant,
}

impl Store {
    /// The components with these names, as far as there are any, as their last checks left them.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn components_by_name(&self, names: &[&str]) -> Result<Vec<Component>, StoreError> {
        self.query(sql::COMPONENTS, &[&names]).await?.iter().map(component_from).collect()
    }

    /// All components, by name, as their last checks left them.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn components(&self) -> Result<Vec<Component>, StoreError> {
        self.query(sql::COMPONENTS, &[&None::<Vec<&str>>]).await?.iter().map(component_from).collect()
    }

    /// The KV keys of all components.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn component_keys(&self) -> Result<Vec<Key>, StoreError> {
        Ok(self.components().await?.into_iter().map(|component| Key::Component(component.component_name)).collect())
    }
}

impl Store {
    /// Keeps a round of checks, with an event for each component that changed. Tells whether any did.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn record_checks(&self, round: &[Checked]) -> Result<bool, StoreError> {
        if round.is_empty() {
            return Ok(false);
        }
        self.run_tx("infrastructure", round, |tx, round| Box::pin(record_in(tx, round))).await
    }

    /// Removes components that are not among these; the keys of those that are gone.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn forget_components(&self, but: &[&str]) -> Result<Vec<Key>, StoreError> {
        let rows = self.query(sql::COMPONENTS_FORGET, &[&but]).await?;
        rows.iter().map(|row| Ok(Key::Component(name_in(row)?))).collect()
    }
}

async fn record_in(tx: &Tx<'_>, round: &[Checked]) -> Result<bool, StoreError> {
    let names: Vec<&str> = round.iter().map(|checked| checked.name.as_str()).collect();
    let before = tx.query(sql::COMPONENTS_LOCK, &[&names]).await?;
    let before = before.iter().map(|row| Ok((row.read("component_name")?, row.read("status")?)));
    let before: HashMap<String, String> = before.collect::<Result<_, StoreError>>()?;
    let kinds: Vec<&str> = round.iter().map(|checked| checked.kind).collect();
    let statuses: Vec<&str> = round.iter().map(|checked| checked.status.as_str()).collect();
    let times: Vec<Option<f64>> = round.iter().map(|checked| checked.response_time_ms).collect();
    let errors: Vec<Option<&str>> = round.iter().map(|checked| checked.error_message.as_deref()).collect();
    let critical: Vec<bool> = round.iter().map(|checked| checked.critical).collect();
    let ages: Vec<f64> = round.iter().map(|checked| checked.at.elapsed().as_secs_f64()).collect();
    let params: super::Params<'_> = &[&names, &kinds, &statuses, &times, &errors, &critical, &ages];
    let newest = tx.query(sql::COMPONENTS_RECORD, params).await?;
    let newest: Vec<&str> = newest.iter().map(|row| row.read("component_name")).collect::<Result<_, _>>()?;
    let changed = round.iter().filter(|checked| newest.contains(&checked.name.as_str()));
    let events: Vec<NewEvent> =
        changed.filter_map(|checked| change(before.get(checked.name.as_str()), checked)).collect();
    tx.record(&events).await?;
    Ok(!events.is_empty())
}

/// The event of a check that found a component otherwise than the one before. (That nobody can tell how it is, for want
/// of a target, is none.)
fn change(before: Option<&String>, checked: &Checked) -> Option<NewEvent> {
    if before.is_some_and(|before| before == checked.status.as_str()) {
        return None;
    }
    let status = match checked.status {
        DependencyStatus::Healthy => Status::Healthy,
        DependencyStatus::Degraded => Status::Degraded,
        DependencyStatus::Down => Status::Down,
        DependencyStatus::Unknown => return None,
    };
    let details = serde_json::json!({
        "from": before,
        "kind": checked.kind,
        "response_time_ms": checked.response_time_ms,
        "error": checked.error_message,
        "critical": checked.critical,
    });
    Some(NewEvent {
        topic: Topic::Infra,
        kind: status.into(),
        service_name: checked.name.clone(),
        instance_id: None,
        details: object(details),
    })
}

fn name_in(row: &Row) -> Result<ServiceName, StoreError> {
    row.read::<String>("component_name")?.try_into().map_err(StoreError::defect)
}

pub(super) fn component_from(row: &Row) -> Result<Component, StoreError> {
    Ok(Component {
        component_name: name_in(row)?,
        kind: row.read("kind")?,
        status: serde_json::from_value(row.read::<String>("status")?.into()).map_err(StoreError::defect)?,
        response_time_ms: row.read("response_time_ms")?,
        error_message: row.read("error_message")?,
        checked_at: row.read("checked_at")?,
        critical: row.read("critical")?,
        uptime_pct_24h: None,
    })
}
