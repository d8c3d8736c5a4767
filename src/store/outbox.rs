//! Events: the outbox and the timeline in one table.

use serde_json::{Map, Value};
use tokio_postgres::Row;

use super::{Store, StoreError, Tx, sql};
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::bucket::Key;
use crate::wire::event::{Event, Kind, Topic};

/// Something that happened, before it has its id.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// What happened.
    pub kind: Kind,
    /// To which service.
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
        let topics = column(&|event| event.kind.topic().as_str().to_owned());
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
        rows.iter().filter_map(|row| unpublished_from(row).transpose()).collect()
    }

    /// Notes that events are on the stream and that KV has what they changed.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn mark_published(&self, rows: &[i64]) -> Result<(), StoreError> {
        self.query(sql::EVENT_PUBLISHED, &[&rows]).await.map(|_| ())
    }

    /// How many events are committed and not yet published.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn count_unpublished(&self) -> Result<i64, StoreError> {
        let rows = self.query(sql::EVENT_PENDING, &[]).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }
}

/// `None` for a kind that only a newer hub knows: that hub publishes it.
fn unpublished_from(row: &Row) -> Result<Option<Unpublished>, StoreError> {
    let Some(kind) = Kind::from_text(row.get("kind")) else { return Ok(None) };
    let id: i64 = row.get("id");
    let instance_id = row.get::<_, Option<String>>("instance_id").map(InstanceId::try_from).transpose();
    let event = Event {
        id: format!("{}-{id}", row.get::<_, i64>("epoch")),
        at: row.get("at"),
        topic: kind.topic(),
        kind,
        service_name: ServiceName::try_from(row.get::<_, String>("service_name")).map_err(StoreError::defect)?,
        instance_id: instance_id.map_err(StoreError::defect)?,
        details: super::object(row.get("details")),
    };
    Ok(Some(Unpublished { row: id, event }))
}
