//! Alerts: what needs a person's attention, until it is over.

use serde_json::{Map, Value};
use tokio_postgres::Row;

use super::outbox::NewEvent;
use super::registry::{instance_in, service_in};
use super::{Store, StoreError, Tx, sql};
use crate::domain::lease::Token;
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::event::Kind;

/// How much an alert matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Look at it soon.
    Warning,
}

impl Severity {
    /// The severity as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
        }
    }
}

/// An alert to raise.
pub(super) struct Alert {
    pub severity: Severity,
    pub source: &'static str,
    pub name: ServiceName,
    pub instance_id: Option<InstanceId>,
    pub message: String,
    pub details: Map<String, Value>,
}

impl Tx<'_> {
    /// Raises an alert, unless it is up already, with its event.
    pub(super) async fn raise(&self, alert: &Alert) -> Result<bool, StoreError> {
        let details = Value::Object(alert.details.clone());
        let params: super::Params<'_> = &[
            &alert.severity.as_str(),
            &alert.source,
            &alert.name.as_str(),
            &alert.instance_id.as_ref().map_or("", InstanceId::as_str),
            &alert.message,
            &details,
        ];
        let Some(row) = self.query_opt(sql::ALERT_RAISE, params).await? else { return Ok(false) };
        let mut facts = alert.details.clone();
        facts.extend(facts_of(row.get("id"), alert.severity.as_str(), alert.source, &alert.message));
        self.record(&[NewEvent {
            kind: Kind::Raised,
            service_name: alert.name.clone(),
            instance_id: alert.instance_id.clone(),
            details: facts,
        }])
        .await?;
        Ok(true)
    }

    /// Ends the alerts of forced configs of a service (`None`: of each) that another config has replaced; tells whether
    /// there were any.
    pub(super) async fn resolve_forced(&self, service: Option<&ServiceName>) -> Result<bool, StoreError> {
        let over = self.query(sql::CONFIG_FORCED_RESOLVE, &[&service.map(ServiceName::as_str)]).await?;
        let events = over.iter().map(resolved).collect::<Result<Vec<_>, _>>()?;
        self.record(&events).await?;
        Ok(!events.is_empty())
    }
}

fn facts_of(id: i64, severity: &str, source: &str, message: &str) -> Map<String, Value> {
    Map::from_iter([
        ("alert_id".to_owned(), id.into()),
        ("severity".to_owned(), severity.into()),
        ("source".to_owned(), source.into()),
        ("message".to_owned(), message.into()),
    ])
}

impl Store {
    /// Raises an alert for each live instance that stays behind with its config for three heartbeats, and ends those of
    /// the others; by the leader with `token`. Tells whether anything changed; nothing is written when the token isn't
    /// in force any more.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn alert_config_behind(&self, token: Token, default_interval: f64) -> Result<bool, StoreError> {
        let input = (token, default_interval);
        self.run_tx("config alerts", input, |tx, (token, interval)| Box::pin(alert_in(tx, *token, *interval))).await
    }
}

async fn alert_in(tx: &Tx<'_>, token: Token, default_interval: f64) -> Result<bool, StoreError> {
    if tx.query_opt(sql::LEASE_FENCE, &[&tx.replica_id, &token.0]).await?.is_none() {
        return Ok(false);
    }
    // The hub's own writes end them by themselves.
    let mut changed = tx.resolve_forced(None).await?;
    for row in tx.query(sql::CONFIG_BEHIND, &[&default_interval]).await? {
        changed |= tx.raise(&behind(&row)?).await?;
    }
    let over = tx.query(sql::CONFIG_BEHIND_RESOLVE, &[]).await?;
    let events = over.iter().map(resolved).collect::<Result<Vec<_>, _>>()?;
    tx.record(&events).await?;
    Ok(changed || !events.is_empty())
}

fn behind(row: &Row) -> Result<Alert, StoreError> {
    let (runs, should): (i64, i64) = (row.get("config_revision"), row.get("revision"));
    let instance_id = instance_in(row)?;
    Ok(Alert {
        severity: Severity::Warning,
        source: "config",
        name: service_in(row)?,
        message: format!("{instance_id} runs config revision {runs} and should run {should}, for three heartbeats"),
        details: Map::from_iter([("config_revision".to_owned(), runs.into()), ("revision".to_owned(), should.into())]),
        instance_id: Some(instance_id),
    })
}

fn resolved(row: &Row) -> Result<NewEvent, StoreError> {
    let name: String = row.get("name");
    let instance: String = row.get("instance_id");
    let instance = (!instance.is_empty()).then(|| instance.try_into()).transpose();
    Ok(NewEvent {
        kind: Kind::Resolved,
        service_name: name.try_into().map_err(StoreError::defect)?,
        instance_id: instance.map_err(StoreError::defect)?,
        details: facts_of(row.get("id"), row.get("severity"), row.get("source"), row.get("message")),
    })
}
