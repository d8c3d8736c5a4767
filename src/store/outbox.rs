//! Events: the outbox and the timeline in one table.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::row::{Columns as _, readable};
use super::{Store, StoreError, Tx, sql};
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::bucket::Key;
use crate::wire::event::{Event, Kind, Topic};

/// Something that happened, before it has its id.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// What it is about.
    pub topic: Topic,
    /// What happened.
    pub kind: Kind,
    /// To which service or component.
    pub service_name: ServiceName,
    /// To which instance.
    pub instance_id: Option<InstanceId>,
    /// Facts by name.
    pub details: Map<String, Value>,
}

/// A committed event that isn't published yet.
#[derive(Clone, Debug)]
pub struct Unpublished {
    /// Its row.
    pub row: i64,
    /// What goes to the stream.
    pub event: Event,
}

impl Unpublished {
    /// The KV key that shows what changed.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        let service = self.event.service_name.clone();
        match self.event.topic {
            Topic::Config => Some(Key::Config(service)),
            Topic::Infra => Some(Key::Component(service)),
            Topic::Alert => None,
            Topic::Service => self.event.instance_id.clone().map(|instance| Key::Instance(service, instance)),
        }
    }
}

impl Tx<'_> {
    /// Writes events into this transaction.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn record(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let column = |read: &dyn Fn(&NewEvent) -> String| events.iter().map(read).collect::<Vec<_>>();
        let topics = column(&|event| event.topic.as_str().to_owned());
        let kinds = column(&|event| event.kind.as_str().to_owned());
        let services = column(&|event| event.service_name.to_string());
        let instances: Vec<Option<&str>> =
            events.iter().map(|event| event.instance_id.as_ref().map(InstanceId::as_str)).collect();
        let details = column(&|event| Value::Object(event.details.clone()).to_string());
        self.execute(sql::EVENT_INSERT, &[&topics, &kinds, &services, &instances, &details, &self.replica_id]).await?;
        Ok(())
    }
}

impl Store {
    /// Events to publish after row `after`, oldest first: this replica's own at once, others' after a second.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn unpublished(&self, after: i64, limit: i64) -> Result<Vec<Unpublished>, StoreError> {
        let rows = self.query(sql::EVENT_UNPUBLISHED, &[&self.replica_id, &limit, &after]).await?;
        Ok(readable("events", &rows, unpublished_from).into_iter().flatten().collect())
    }

    /// Notes that events are on the stream and that KV has what they changed, and how far its streams have come with it.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn mark_published(&self, rows: &[i64], reached: &[(String, i64)]) -> Result<(), StoreError> {
        let (streams, sequences): (Vec<&str>, Vec<i64>) =
            reached.iter().map(|(stream, sequence)| (stream.as_str(), *sequence)).unzip();
        self.query(sql::EVENT_PUBLISHED, &[&rows, &streams, &sequences]).await.map(|_| ())
    }

    /// How many events are committed and not yet published.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn count_unpublished(&self) -> Result<i64, StoreError> {
        let rows = self.query(sql::EVENT_PENDING, &[]).await?;
        rows.first().map_or(Ok(0), |row| row.read("pending"))
    }
}

/// Unique for ever, and the same however often it is sent. The number of the row alone wouldn't do: Postgres gives it again
/// after it went back, and that may show only after the event was sent.
fn event_id(at: OffsetDateTime, row: i64) -> String {
    format!("{}-{row}", at.unix_timestamp_nanos() / 1_000)
}

/// `None` for a kind or topic that only a newer hub knows: that hub publishes it.
fn unpublished_from(row: &Row) -> Result<Option<Unpublished>, StoreError> {
    let event = event_from(row)?;
    event.map(|event| Ok(Unpublished { row: row.read("id")?, event })).transpose()
}

/// An event from columns `id`, `at`, `topic`, `kind`, `service_name`, `instance_id` and `details`; `None` for a kind or
/// topic that only a newer hub knows.
pub(super) fn event_from(row: &Row) -> Result<Option<Event>, StoreError> {
    let known = Kind::from_text(row.read("kind")?).zip(Topic::from_text(row.read("topic")?));
    let Some((kind, topic)) = known else { return Ok(None) };
    let (id, at): (i64, OffsetDateTime) = (row.read("id")?, row.read("at")?);
    let instance_id = row.read::<Option<String>>("instance_id")?.map(InstanceId::try_from).transpose();
    Ok(Some(Event {
        id: event_id(at, id),
        at,
        topic,
        kind,
        service_name: ServiceName::try_from(row.read::<String>("service_name")?).map_err(StoreError::defect)?,
        instance_id: instance_id.map_err(StoreError::defect)?,
        details: super::object(row.read("details")?),
    }))
}
