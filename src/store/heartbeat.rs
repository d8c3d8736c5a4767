//! Heartbeats, many at a time.
//!
//! Most heartbeats change nothing but the time: [`Store::touch`] takes all of them in one statement. The others go
//! through [`Store::apply`]: lock, decide, write.

use std::collections::{HashMap, HashSet};

use super::outbox::NewEvent;
use super::registry::config_ref_from;
use super::row::Columns as _;
use super::{Store, StoreError, Tx, object, sql};
use crate::domain::heartbeat::{self, Refusal, Report};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::wire::Error;
use crate::wire::event::{Kind, Topic};
use crate::wire::registry::ConfigRef;

/// One heartbeat.
#[derive(Clone, Debug)]
pub struct Beat {
    /// Whose.
    pub service_name: ServiceName,
    /// What it says.
    pub report: Report,
    /// Its metrics, as the text of a JSON object.
    pub metrics: Option<String>,
}

/// A heartbeat that is in Postgres.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// The instance that was heard.
    pub instance_id: InstanceId,
    /// Its status now.
    pub status: Status,
    /// The interval that it is to beat at, in seconds.
    pub interval_seconds: f64,
    /// The config that should be in force.
    pub config: Option<ConfigRef>,
}

/// How heartbeats are taken.
#[derive(Clone, Copy, Debug)]
pub struct Taking {
    /// Whether a row of each is kept in `health_metrics`.
    pub record: bool,
    /// The interval of those that asked for none, in seconds.
    pub default_interval: f64,
}

/// What [`Store::apply`] did.
#[derive(Debug)]
pub struct AppliedBeats {
    /// One result per heartbeat.
    pub results: Vec<Result<Heard, Error>>,
    /// Whether records changed, so that there are events to publish.
    pub changed: bool,
}

impl Store {
    /// Takes the heartbeats that change nothing but the time; `None` for each of the others, which were not taken.
    /// No two may speak for one instance.
    ///
    /// # Errors
    /// What Postgres says; the heartbeats may have been taken all the same.
    pub async fn touch(&self, beats: &[&Beat], how: Taking) -> Result<Vec<Option<Heard>>, StoreError> {
        if beats.is_empty() {
            return Ok(Vec::new());
        }
        let services: Vec<&str> = beats.iter().map(|beat| beat.service_name.as_str()).collect();
        let instances: Vec<Option<&str>> =
            beats.iter().map(|beat| beat.report.instance_id.as_ref().map(InstanceId::as_str)).collect();
        let incarnations: Vec<Option<i64>> = beats.iter().map(|beat| beat.report.incarnation).collect();
        let statuses: Vec<&str> = beats.iter().map(|beat| beat.report.status.as_str()).collect();
        let metrics: Vec<Option<&str>> = beats.iter().map(|beat| beat.metrics.as_deref()).collect();
        let revisions: Vec<Option<i64>> = beats.iter().map(|beat| beat.report.applied.revision).collect();
        let versions: Vec<Option<i64>> = beats.iter().map(|beat| beat.report.applied.version).collect();
        let errors: Vec<Option<&str>> = beats.iter().map(|beat| beat.report.applied.error.as_deref()).collect();
        let params: super::Params<'_> = &[
            &services,
            &instances,
            &incarnations,
            &statuses,
            &metrics,
            &revisions,
            &versions,
            &errors,
            &how.record,
            &how.default_interval,
        ];
        let rows = self.query(sql::HEARTBEAT_TOUCH, params).await?;
        let mut heard = vec![None; beats.len()];
        for row in rows {
            let position = usize::try_from(row.read::<i64>("position")? - 1).map_err(StoreError::defect)?;
            let Some((slot, beat)) = heard.get_mut(position).zip(beats.get(position)) else { continue };
            let Some(instance_id) = beat.report.instance_id.clone() else { continue };
            *slot = Some(Heard {
                instance_id,
                status: beat.report.status,
                interval_seconds: row.read("told_interval_seconds")?,
                config: match row.read::<Option<i64>>("revision")? {
                    Some(_) => Some(config_ref_from(&row)?),
                    None => None,
                },
            });
        }
        Ok(heard)
    }

    /// Takes heartbeats of any kind, in their order, in one transaction.
    ///
    /// # Errors
    /// What Postgres says; what rules refuse stands in the results.
    pub async fn apply(&self, beats: &[&Beat], how: Taking) -> Result<AppliedBeats, StoreError> {
        let input = (beats, how);
        self.run_tx("heartbeats", input, |tx, (beats, how)| Box::pin(apply_in(tx, beats, *how))).await
    }
}

async fn apply_in(tx: &Tx<'_>, beats: &[&Beat], how: Taking) -> Result<AppliedBeats, StoreError> {
    let named: Vec<_> = beats
        .iter()
        .filter_map(|beat| beat.report.instance_id.as_ref().map(|instance| (&beat.service_name, instance)))
        .collect();
    let unnamed: HashSet<_> =
        beats.iter().filter(|beat| beat.report.instance_id.is_none()).map(|beat| &beat.service_name).collect();
    let unnamed: Vec<_> = unnamed.into_iter().collect();
    let mut rows = tx.lock_instances(&named, &unnamed).await?;
    let mut by_service: HashMap<ServiceName, Vec<usize>> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        by_service.entry(row.service_name.clone()).or_default().push(index);
    }

    let mut events = Vec::new();
    let mut accepted = Accepted::default();
    let mut decided = Vec::with_capacity(beats.len());
    for beat in beats {
        let candidates: Vec<(InstanceId, usize)> = by_service
            .get(&beat.service_name)
            .into_iter()
            .flatten()
            .filter_map(|index| rows.get(*index).map(|row| (row.record.instance_id.clone(), *index)))
            .collect();
        let target = heartbeat::resolve(beat.report.instance_id.as_ref(), &candidates, |(id, _)| id);
        let row = match target.map(|(_, index)| rows.get_mut(*index)) {
            Ok(Some(row)) => row,
            Ok(None) => {
                decided.push(Err(Refusal::NotRegistered));
                continue;
            }
            Err(refusal) => {
                decided.push(Err(refusal));
                continue;
            }
        };
        match heartbeat::apply(&beat.report, &row.record) {
            Err(refusal) => decided.push(Err(refusal)),
            Ok(after) => {
                events.extend(changes(&beat.service_name, &row.record, &after));
                row.record = after;
                accepted.push(beat, row.id, &row.record);
                let interval = row.interval_seconds.unwrap_or(how.default_interval);
                decided.push(Ok((row.record.instance_id.clone(), row.record.status, interval)));
            }
        }
    }

    accepted.write(tx, how).await?;
    tx.record(&events).await?;
    let services: Vec<&str> = beats.iter().map(|beat| beat.service_name.as_str()).collect();
    let configs = tx.config_refs(&services).await?;
    let results = decided
        .into_iter()
        .zip(beats)
        .map(|(decided, beat)| match decided {
            Err(refusal) => Err(Error::from(refusal)),
            Ok((instance_id, status, interval_seconds)) => {
                let config = configs.get(beat.service_name.as_str()).copied();
                Ok(Heard { instance_id, status, interval_seconds, config })
            }
        })
        .collect();
    Ok(AppliedBeats { results, changed: !events.is_empty() })
}

/// What a heartbeat changed, as events.
fn changes(service: &ServiceName, before: &heartbeat::Record, after: &heartbeat::Record) -> Vec<NewEvent> {
    let event = |topic, kind, details| NewEvent {
        topic,
        kind,
        service_name: service.clone(),
        instance_id: Some(after.instance_id.clone()),
        details: object(details),
    };
    let mut events = Vec::new();
    if before.status != after.status {
        let details = serde_json::json!({
            "from": before.status, "reason": "heartbeat", "incarnation": after.incarnation,
        });
        events.push(event(Topic::Service, after.status.into(), details));
    }
    if before.applied != after.applied {
        let details = serde_json::json!({
            "revision": after.applied.revision,
            "version": after.applied.version,
            "error": after.applied.error,
        });
        events.push(event(Topic::Service, Kind::Applied, details.clone()));
        if after.applied.error.is_some() && after.applied.error != before.applied.error {
            events.push(event(Topic::Config, Kind::Rejected, details));
        }
    }
    events
}

/// Accepted heartbeats: each is recorded, and the last record of each instance is written.
#[derive(Default)]
struct Accepted<'a> {
    beats: Vec<(&'a Beat, InstanceId)>,
    records: HashMap<i64, heartbeat::Record>,
}

impl<'a> Accepted<'a> {
    fn push(&mut self, beat: &'a Beat, id: i64, record: &heartbeat::Record) {
        self.beats.push((beat, record.instance_id.clone()));
        self.records.insert(id, record.clone());
    }

    async fn write(&self, tx: &Tx<'_>, how: Taking) -> Result<(), StoreError> {
        if self.beats.is_empty() {
            return Ok(());
        }
        let (ids, records): (Vec<i64>, Vec<&heartbeat::Record>) = self.records.iter().map(|(id, r)| (*id, r)).unzip();
        let statuses: Vec<&str> = records.iter().map(|record| record.status.as_str()).collect();
        let revisions: Vec<Option<i64>> = records.iter().map(|record| record.applied.revision).collect();
        let versions: Vec<Option<i64>> = records.iter().map(|record| record.applied.version).collect();
        let errors: Vec<Option<&str>> = records.iter().map(|record| record.applied.error.as_deref()).collect();
        let params: super::Params<'_> = &[&ids, &statuses, &revisions, &versions, &errors, &how.default_interval];
        tx.execute(sql::HEARTBEAT_APPLY, params).await?;
        if how.record {
            let services: Vec<&str> = self.beats.iter().map(|(beat, _)| beat.service_name.as_str()).collect();
            let instances: Vec<&str> = self.beats.iter().map(|(_, instance)| instance.as_str()).collect();
            let statuses: Vec<&str> = self.beats.iter().map(|(beat, _)| beat.report.status.as_str()).collect();
            let metrics: Vec<Option<&str>> = self.beats.iter().map(|(beat, _)| beat.metrics.as_deref()).collect();
            tx.execute(sql::HEARTBEAT_RECORD, &[&services, &instances, &statuses, &metrics]).await?;
        }
        Ok(())
    }
}
