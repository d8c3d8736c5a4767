//! The leader's sweep: who is marked down, who is removed, who is held.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;

use super::lease::Patience;
use super::outbox::NewEvent;
use super::registry::{instance_in, service_in, status_in};
use super::row::{Columns as _, readable};
use super::{Store, StoreError, Tx, sql};
use crate::domain::lease::Token;
use crate::domain::liveness::{self, Observed, Tick, Verdict};
use crate::domain::mass_expiry::{self, Fall, Fallen, Hold, Holds, Scope};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::overheard::Overheard;
use crate::domain::settings::ServiceDiscovery;
use crate::domain::status::Status;
use crate::wire::bucket::Key;
use crate::wire::event::{Kind, Topic};

/// What the leader knows when it sweeps.
#[derive(Clone, Copy, Debug)]
pub struct Vantage<'a> {
    /// Its leadership.
    pub token: Token,
    /// When it last knew that it hears: what time passes until the sweep runs is nobody's silence.
    pub tick: Tick,
    /// Since when it has heard without a break, by Postgres' clock.
    pub hearing_since: OffsetDateTime,
    /// What it heard.
    pub overheard: &'a Overheard,
    /// Timeouts.
    pub settings: &'a ServiceDiscovery,
}

/// What a sweep did.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Instances that were marked down.
    pub downed: Vec<Key>,
    /// Instances whose records were removed.
    pub removed: Vec<Key>,
    /// Holds that began.
    pub began: Holds,
    /// Holds that ended.
    pub ended: Holds,
}

struct Candidate {
    id: i64,
    service_name: ServiceName,
    instance_id: InstanceId,
    incarnation: i64,
    observed: Observed,
}

impl Store {
    /// One sweep by the leader: marks the silent as down and removes those that stay down, save for mass expiries that
    /// are held. `None` when its token isn't in force any more; then nothing was written.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn sweep(&self, vantage: Vantage<'_>) -> Result<Option<Swept>, StoreError> {
        self.run_tx("sweep", vantage, |tx, vantage| Box::pin(sweep_in(tx, vantage))).await
    }
}

async fn sweep_in(tx: &Tx<'_>, vantage: &Vantage<'_>) -> Result<Option<Swept>, StoreError> {
    if !tx.leads(vantage.token, Patience::Sweep).await? {
        return Ok(None);
    }
    let (now, settings) = (vantage.tick.now, vantage.settings);
    let (mut due, mut gone, mut heard) = (Vec::new(), Vec::new(), Vec::new());
    for candidate in candidates(tx, vantage).await? {
        if candidate.observed.read_at < now {
            // The clock stepped back since the leader looked at it; from the next look on that is known.
            return Ok(Some(Swept::default()));
        }
        match liveness::judge(&candidate.observed, now, vantage.hearing_since, settings) {
            Verdict::MarkDown => due.push(candidate),
            Verdict::Remove => gone.push(candidate),
            Verdict::Keep => heard.extend(candidate.correction()),
        }
    }
    let (ids, times): (Vec<i64>, Vec<OffsetDateTime>) = heard.into_iter().unzip();
    if !ids.is_empty() {
        tx.execute(sql::SWEEP_HEARD, &[&ids, &times]).await?;
    }

    let before = holds(tx).await?;
    let holds = look(tx, vantage, &due, &before).await?;
    let down: Vec<Candidate> =
        due.into_iter().filter(|one| !mass_expiry::is_held(&holds, &one.service_name, now)).collect();
    if !down.is_empty() {
        tx.execute(sql::SWEEP_DOWN, &[&ids_of(&down)]).await?;
    }
    if !gone.is_empty() {
        tx.execute(sql::INSTANCE_DELETE, &[&ids_of(&gone)]).await?;
    }
    let downed = down.iter().map(|candidate| candidate.event(Kind::Down, now, settings, &holds));
    let removed = gone.iter().map(|candidate| candidate.event(Kind::Deregistered, now, settings, &Holds::new()));
    tx.record(&downed.chain(removed).collect::<Vec<_>>()).await?;
    let without = |some: &Holds, others: &Holds| {
        some.iter().filter(|(scope, _)| !others.contains_key(*scope)).map(|(s, h)| (s.clone(), h.clone())).collect()
    };
    Ok(Some(Swept {
        downed: keys(&down),
        removed: keys(&gone),
        began: without(&holds, &before),
        ended: without(&before, &holds),
    }))
}

async fn candidates(tx: &Tx<'_>, vantage: &Vantage<'_>) -> Result<Vec<Candidate>, StoreError> {
    let settings = vantage.settings;
    let factor = liveness::factor(settings);
    let params: super::Params<'_> =
        &[&settings.heartbeat_interval_seconds, &factor, &settings.deregister_after_seconds];
    let rows = tx.query(sql::SWEEP_SILENT, params).await?;
    Ok(readable("instances", &rows, |row| candidate_from(row, vantage)))
}

fn candidate_from(row: &Row, vantage: &Vantage<'_>) -> Result<Candidate, StoreError> {
    let (service_name, instance_id): (ServiceName, InstanceId) = (service_in(row)?, instance_in(row)?);
    let incarnation = row.read("incarnation")?;
    let overheard = vantage.overheard.last(&service_name, &instance_id, incarnation, row.read("alone")?);
    let observed = Observed {
        status: status_in(row)?,
        last_heartbeat: row.read("last_heartbeat")?,
        overheard: overheard.map(|at| vantage.tick.now - vantage.tick.monotonic.saturating_sub(at)),
        status_since: row.read("status_since")?,
        interval_seconds: row.read("interval_seconds")?,
        read_at: row.read("read_at")?,
    };
    Ok(Candidate { id: row.read("id")?, service_name, instance_id, incarnation, observed })
}

/// The holds after a look at who isn't heard; what changed in them is written.
async fn look(tx: &Tx<'_>, vantage: &Vantage<'_>, due: &[Candidate], before: &Holds) -> Result<Holds, StoreError> {
    if due.is_empty() && before.is_empty() {
        return Ok(Holds::new());
    }
    let (now, settings) = (vantage.tick.now, vantage.settings);
    let fallen = fallen(tx, vantage, due).await?;
    let rows = tx.query(sql::SWEEP_UP, &[]).await?;
    let up = readable("services", &rows, |row| {
        let instances = usize::try_from(row.read::<i64>("instances")?).map_err(StoreError::defect)?;
        Ok((service_in(row)?, instances))
    });
    let up: BTreeMap<_, _> = up.into_iter().collect();
    let after = mass_expiry::look(before, &fallen, &up, now, settings);
    for (scope, hold) in after.iter().filter(|(scope, hold)| before.get(*scope) != Some(*hold)) {
        let instances = i32::try_from(hold.instances).map_err(StoreError::defect)?;
        tx.execute(sql::HOLD_KEEP, &[&name_of(scope), &instances, &hold.since, &hold.until]).await?;
    }
    let ended: Vec<&str> = before.keys().filter(|scope| !after.contains_key(*scope)).map(name_of).collect();
    if !ended.is_empty() {
        tx.execute(sql::HOLD_END, &[&ended]).await?;
    }
    Ok(after)
}

/// All that aren't heard: those that are due, those that are late, and those that went down shortly before.
async fn fallen(tx: &Tx<'_>, vantage: &Vantage<'_>, due: &[Candidate]) -> Result<Vec<Fallen>, StoreError> {
    let (now, settings) = (vantage.tick.now, vantage.settings);
    let mut fallen: Vec<Fallen> = due.iter().map(|one| one.fallen(Fall::Due, settings)).collect();
    let longest = fallen.iter().map(|one| one.timeout_seconds).fold(0.0, f64::max);
    let first = fallen.iter().map(|one| one.last_heard).min().unwrap_or(now);
    let window = first - Duration::seconds_f64(longest);
    let params: super::Params<'_> =
        &[&settings.heartbeat_interval_seconds, &liveness::factor(settings), &window, &ids_of(due)];
    let rows = tx.query(sql::SWEEP_FALLEN, params).await?;
    for one in readable("instances", &rows, |row| candidate_from(row, vantage)) {
        if one.observed.status == Status::Down {
            fallen.push(one.fallen(Fall::Down, settings));
        } else if one.observed.is_late(now, settings) {
            fallen.push(one.fallen(Fall::Late, settings));
        }
    }
    Ok(fallen)
}

async fn holds(tx: &Tx<'_>) -> Result<Holds, StoreError> {
    let rows = tx.query(sql::HOLD_LIST, &[]).await?;
    let holds = readable("holds", &rows, |row| {
        let name: String = row.read("service_name")?;
        let scope: Scope = (!name.is_empty()).then(|| name.try_into()).transpose().map_err(StoreError::defect)?;
        let instances = usize::try_from(row.read::<i32>("instances")?).map_err(StoreError::defect)?;
        Ok((scope, Hold { instances, since: row.read("since")?, until: row.read("until")? }))
    });
    Ok(holds.into_iter().collect())
}

/// What stands in the table for a scope.
fn name_of(scope: &Scope) -> &str {
    scope.as_ref().map_or("", ServiceName::as_str)
}

impl Candidate {
    /// When it was last heard, where its record says something else.
    fn correction(&self) -> Option<(i64, OffsetDateTime)> {
        let heard = self.observed.last_heard();
        (heard != self.observed.last_heartbeat).then_some((self.id, heard))
    }

    fn fallen(&self, fall: Fall, settings: &ServiceDiscovery) -> Fallen {
        let timeout_seconds = liveness::timeout_seconds(self.observed.interval_seconds, settings);
        Fallen { service: self.service_name.clone(), fall, last_heard: self.observed.last_heard(), timeout_seconds }
    }

    fn event(&self, kind: Kind, now: OffsetDateTime, settings: &ServiceDiscovery, holds: &Holds) -> NewEvent {
        let timeout = liveness::timeout_seconds(self.observed.interval_seconds, settings);
        let facts = serde_json::json!({
            "from": self.observed.status,
            "reason": "silent",
            "incarnation": self.incarnation,
            "silent_seconds": rounded(now - self.observed.last_heard()),
            "timeout_seconds": timeout,
        });
        let mut details = super::object(facts);
        if let Some(hold) = mass_expiry::hold_of(holds, &self.service_name) {
            details.insert("held_seconds".to_owned(), rounded(now - hold.since).into());
        }
        NewEvent {
            topic: Topic::Service,
            kind,
            service_name: self.service_name.clone(),
            instance_id: Some(self.instance_id.clone()),
            details,
        }
    }
}

/// Seconds with milliseconds.
fn rounded(duration: Duration) -> f64 {
    (duration.as_seconds_f64() * 1000.0).round() / 1000.0
}

fn ids_of(candidates: &[Candidate]) -> Vec<i64> {
    candidates.iter().map(|candidate| candidate.id).collect()
}

fn keys(candidates: &[Candidate]) -> Vec<Key> {
    candidates
        .iter()
        .map(|candidate| Key::Instance(candidate.service_name.clone(), candidate.instance_id.clone()))
        .collect()
}
