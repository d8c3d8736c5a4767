//! Alerts: what needs a person's attention, until it is over.

use serde_json::{Map, Value};
use tokio_postgres::Row;

use super::lease::Patience;
use super::outbox::NewEvent;
use super::row::Columns as _;
use super::{Store, StoreError, Tx, object, sql};
use crate::domain::alert::Severity;
use crate::domain::alert::plan::{Begin, Plan};
use crate::domain::lease::Token;
use crate::domain::name::ServiceName;
use crate::wire::alert::{Alert, AlertsAck, AlertsList};
use crate::wire::event::{Kind, Topic};
use crate::wire::{Error, ErrorCode};

/// What became of a plan.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// Alerts that began, or came out of a silence, with their messages.
    pub begun: Vec<(Severity, String)>,
    /// Messages of alerts that ended.
    pub ended: Vec<String>,
}

impl Tx<'_> {
    /// Raises alerts, unless they are up already, with their events; the messages of those that weren't.
    pub(super) async fn begin_alerts(&self, begins: &[Begin]) -> Result<Vec<(Severity, String)>, StoreError> {
        if begins.is_empty() {
            return Ok(Vec::new());
        }
        let texts = |read: &dyn Fn(&Begin) -> String| begins.iter().map(read).collect::<Vec<_>>();
        let causes: Vec<Option<&str>> =
            begins.iter().map(|begin| begin.cause.as_ref().map(ServiceName::as_str)).collect();
        let replaces: Vec<Option<i64>> = begins.iter().map(|begin| begin.replaces).collect();
        let params: super::Params<'_> = &[
            &texts(&|begin| begin.severity.to_string()),
            &texts(&|begin| begin.kind.source().to_owned()),
            &texts(&|begin| begin.kind.as_str().to_owned()),
            &texts(&|begin| begin.name.to_string()),
            &texts(&|begin| begin.message.clone()),
            &texts(&|begin| Value::Object(begin.details.clone()).to_string()),
            &causes,
            &replaces,
        ];
        self.tell(Kind::Raised, &self.query(sql::ALERT_BEGIN, params).await?).await
    }

    /// Ends the alerts of forced configs of a service (`None`: of each) that another config has replaced; tells whether
    /// there were any.
    pub(super) async fn end_forced(&self, service: Option<&ServiceName>) -> Result<bool, StoreError> {
        let over = self.query(sql::ALERT_FORCED_END, &[&service.map(ServiceName::as_str)]).await?;
        self.tell(Kind::Resolved, &over).await?;
        Ok(!over.is_empty())
    }

    /// Records the events of alerts; their severities and messages.
    async fn tell(&self, kind: Kind, rows: &[Row]) -> Result<Vec<(Severity, String)>, StoreError> {
        let events = rows.iter().map(|row| event_from(row, kind)).collect::<Result<Vec<_>, _>>()?;
        self.record(&events).await?;
        rows.iter().map(|row| Ok((severity_in(row)?, row.read("message")?))).collect()
    }
}

impl Store {
    /// Carries out a plan by the leader with `token`. `None` when the token isn't in force any more; then nothing was
    /// written.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn carry_out(&self, token: Token, plan: &Plan) -> Result<Option<Carried>, StoreError> {
        self.run_tx("alerts", (token, plan), |tx, (token, plan)| Box::pin(carry_out_in(tx, *token, plan))).await
    }

    /// Ends the alerts of forced configs that a write by hand has replaced (the hub's own writes end them themselves), by
    /// the leader with `token`; tells whether there were any.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn end_overtaken_forced(&self, token: Token) -> Result<bool, StoreError> {
        self.run_tx("forced alerts", token, |tx, token| {
            Box::pin(async {
                if tx.leads(*token, Patience::Brief).await? { tx.end_forced(None).await } else { Ok(false) }
            })
        })
        .await
    }

    /// A page of alerts before `before`, newest first; one more than `limit`, to tell whether more follow.
    ///
    /// # Errors
    /// What Postgres says, and that too many read.
    pub async fn alerts_page(
        &self,
        request: &AlertsList,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Alert>, StoreError> {
        let _turn = self.turn().await?;
        let severity = request.severity.map(Severity::as_str);
        let name = request.service_name.as_ref().map(ServiceName::as_str);
        let rows = i64::from(limit) + 1;
        let params: super::Params<'_> = &[&before, &request.active, &severity, &name, &rows];
        self.query(sql::ALERT_PAGE, params).await?.iter().map(alert_from).collect()
    }

    /// Notes that somebody saw an alert, over or not, and silences it if that is asked for; the alert after it.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`]; what Postgres says.
    pub async fn ack_alert(&self, request: &AlertsAck, authenticated_as: Option<&str>) -> Result<Alert, StoreError> {
        self.run_tx("alert ack", (request, authenticated_as), |tx, (request, name)| {
            Box::pin(ack_in(tx, request, *name))
        })
        .await
    }
}

async fn carry_out_in(tx: &Tx<'_>, token: Token, plan: &Plan) -> Result<Option<Carried>, StoreError> {
    if !tx.leads(token, Patience::Brief).await? {
        return Ok(None);
    }
    let (ends, replaced): (Vec<i64>, Vec<bool>) = plan.end.iter().map(|end| (end.id, end.replaced)).unzip();
    let ended = tx.tell(Kind::Resolved, &tx.query(sql::ALERT_END, &[&ends, &replaced]).await?).await?;
    let mut begun = tx.begin_alerts(&plan.begin).await?;
    if !plan.change.is_empty() {
        let ids: Vec<i64> = plan.change.iter().map(|change| change.id).collect();
        let messages: Vec<&str> = plan.change.iter().map(|change| change.message.as_str()).collect();
        let details: Vec<String> =
            plan.change.iter().map(|change| Value::Object(change.details.clone()).to_string()).collect();
        let causes: Vec<Option<&str>> =
            plan.change.iter().map(|change| change.cause.as_ref().map(ServiceName::as_str)).collect();
        tx.execute(sql::ALERT_CHANGE, &[&ids, &messages, &details, &causes]).await?;
    }
    begun.extend(tx.tell(Kind::Raised, &tx.query(sql::ALERT_SPEAK, &[]).await?).await?);
    Ok(Some(Carried { begun, ended: ended.into_iter().map(|(_, message)| message).collect() }))
}

async fn ack_in(tx: &Tx<'_>, request: &AlertsAck, authenticated_as: Option<&str>) -> Result<Alert, StoreError> {
    let by = request.by.as_deref().unwrap_or("unknown");
    let row = tx.query_opt(sql::ALERT_ACK, &[&request.id, &by, &request.silence_seconds]).await?;
    let row = row.ok_or_else(|| no_such_alert(request.id))?;
    let mut event = event_from(&row, Kind::Acked)?;
    event.details.insert("by".into(), by.into());
    event.details.extend(authenticated_as.map(|name| ("authenticated_as".to_owned(), name.into())));
    event.details.extend(request.silence_seconds.map(|seconds| ("silence_seconds".to_owned(), seconds.into())));
    tx.record(&[event]).await?;
    alert_from(&row)
}

fn no_such_alert(id: i64) -> Error {
    Error::new(ErrorCode::NotFound, format!("id: there is no alert {id}; hub.alerts.list tells which there are"))
        .with("field", "id")
}

/// An event from the columns that all queries of alerts give, and `replaced` of those that end.
fn event_from(row: &Row, kind: Kind) -> Result<NewEvent, StoreError> {
    let mut details = object(row.read("details")?);
    let mut tell = |name: &str, value: Value| details.insert(name.to_owned(), value);
    tell("alert_id", row.read::<i64>("id")?.into());
    for (name, column) in [("severity", "severity"), ("source", "source"), ("alert", "kind"), ("message", "message")] {
        tell(name, row.read::<&str>(column)?.into());
    }
    tell("cause", row.read::<Option<&str>>("cause")?.into());
    if kind == Kind::Resolved {
        tell("replaced", row.read::<Option<bool>>("replaced")?.unwrap_or(false).into());
    }
    Ok(NewEvent {
        topic: Topic::Alert,
        kind,
        service_name: row.read::<String>("name")?.try_into().map_err(StoreError::defect)?,
        instance_id: optional(row.read("instance_id")?)?,
        details,
    })
}

fn alert_from(row: &Row) -> Result<Alert, StoreError> {
    let details: Map<String, Value> = object(row.read("details")?);
    let cause: Option<String> = row.read("cause")?;
    Ok(Alert {
        id: row.read("id")?,
        severity: severity_in(row)?,
        source: row.read("source")?,
        kind: row.read("kind")?,
        name: row.read::<String>("name")?.try_into().map_err(StoreError::defect)?,
        instance_id: optional(row.read("instance_id")?)?,
        message: row.read("message")?,
        cause: cause.map(TryInto::try_into).transpose().map_err(StoreError::defect)?,
        details,
        raised_at: row.read("raised_at")?,
        resolved_at: row.read("resolved_at")?,
        acked_at: row.read("acked_at")?,
        acked_by: row.read("acked_by")?,
        silenced_until: row.read("silenced_until")?,
    })
}

fn severity_in(row: &Row) -> Result<Severity, StoreError> {
    row.read::<&str>("severity")?.parse().map_err(StoreError::defect)
}

/// Where a table holds an empty text for none.
fn optional<T: TryFrom<String, Error: std::error::Error + Send + Sync + 'static>>(
    text: String,
) -> Result<Option<T>, StoreError> {
    if text.is_empty() { Ok(None) } else { T::try_from(text).map(Some).map_err(StoreError::defect) }
}
