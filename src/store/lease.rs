//! Leadership, and the sweep that only a leader may write.

use time::OffsetDateTime;

use super::outbox::NewEvent;
use super::registry::{instance_in, service_in, status_in};
use super::{Store, StoreError, Tx, sql};
use crate::domain::lease::{DURATION, Token};
use crate::domain::liveness::{self, Observed, Verdict};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::settings::ServiceDiscovery;
use crate::wire::bucket::Key;
use crate::wire::event::Kind;

/// What a sweep did.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Instances that were marked down.
    pub downed: Vec<Key>,
    /// Instances whose records were removed.
    pub removed: Vec<Key>,
}

struct Candidate {
    id: i64,
    service_name: ServiceName,
    instance_id: InstanceId,
    incarnation: i64,
    observed: Observed,
}

impl Store {
    /// Takes or renews the leadership for [`DURATION`]; `None` while another replica leads.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn acquire_lease(&self) -> Result<Option<Token>, StoreError> {
        let rows = self.query(sql::LEASE_ACQUIRE, &[&self.replica_id, &DURATION.as_secs_f64()]).await?;
        Ok(rows.first().map(|row| Token(row.get("token"))))
    }

    /// Gives the leadership up, so that another replica leads at once.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn release_lease(&self) -> Result<(), StoreError> {
        self.query(sql::LEASE_RELEASE, &[&self.replica_id]).await.map(|_| ())
    }

    /// One sweep by the leader with `token`: marks the silent as down and removes those that stay down, as of `now`
    /// (Postgres' clock when the hub last knew that it hears: what time passes until this runs is nobody's silence).
    /// `None` when the token isn't in force any more; then nothing was written.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn sweep(
        &self,
        token: Token,
        now: OffsetDateTime,
        hearing_since: OffsetDateTime,
        settings: &ServiceDiscovery,
    ) -> Result<Option<Swept>, StoreError> {
        let input = (token, now, hearing_since, settings);
        let work = self.run_tx("sweep", input, |tx, (token, now, since, settings)| {
            Box::pin(sweep_in(tx, *token, *now, *since, settings))
        });
        work.await
    }
}

async fn sweep_in(
    tx: &Tx<'_>,
    token: Token,
    now: OffsetDateTime,
    hearing_since: OffsetDateTime,
    settings: &ServiceDiscovery,
) -> Result<Option<Swept>, StoreError> {
    if tx.query_opt(sql::LEASE_FENCE, &[&tx.replica_id, &token.0]).await?.is_none() {
        return Ok(None);
    }
    let (mut down, mut gone) = (Vec::new(), Vec::new());
    for candidate in candidates(tx, settings).await? {
        match liveness::judge(&candidate.observed, now, hearing_since, settings) {
            Verdict::MarkDown => down.push(candidate),
            Verdict::Remove => gone.push(candidate),
            Verdict::Keep => {}
        }
    }
    if !down.is_empty() {
        tx.execute(sql::SWEEP_DOWN, &[&ids(&down)]).await?;
    }
    if !gone.is_empty() {
        tx.execute(sql::INSTANCE_DELETE, &[&ids(&gone)]).await?;
    }
    let downed = down.iter().map(|candidate| candidate.event(Kind::Down, now, settings));
    let removed = gone.iter().map(|candidate| candidate.event(Kind::Deregistered, now, settings));
    tx.record(&downed.chain(removed).collect::<Vec<_>>()).await?;
    Ok(Some(Swept { downed: keys(&down), removed: keys(&gone) }))
}

async fn candidates(tx: &Tx<'_>, settings: &ServiceDiscovery) -> Result<Vec<Candidate>, StoreError> {
    let factor = liveness::factor(settings);
    let params: super::Params<'_> =
        &[&settings.heartbeat_interval_seconds, &factor, &settings.deregister_after_seconds];
    let rows = tx.query(sql::SWEEP_SILENT, params).await?;
    rows.iter()
        .map(|row| {
            Ok(Candidate {
                id: row.get("id"),
                service_name: service_in(row)?,
                instance_id: instance_in(row)?,
                incarnation: row.get("incarnation"),
                observed: Observed {
                    status: status_in(row)?,
                    last_heartbeat: row.get("last_heartbeat"),
                    status_since: row.get("status_since"),
                    interval_seconds: row.get("heartbeat_interval_seconds"),
                },
            })
        })
        .collect()
}

impl Candidate {
    fn event(&self, kind: Kind, now: OffsetDateTime, settings: &ServiceDiscovery) -> NewEvent {
        let timeout = liveness::timeout_seconds(self.observed.interval_seconds, settings);
        let silent = (now - self.observed.last_heartbeat).as_seconds_f64();
        let facts = serde_json::json!({
            "from": self.observed.status,
            "reason": "silent",
            "incarnation": self.incarnation,
            "silent_seconds": (silent * 1000.0).round() / 1000.0,
            "timeout_seconds": timeout,
        });
        NewEvent {
            kind,
            service_name: self.service_name.clone(),
            instance_id: Some(self.instance_id.clone()),
            details: super::object(facts),
        }
    }
}

fn ids(candidates: &[Candidate]) -> Vec<i64> {
    candidates.iter().map(|candidate| candidate.id).collect()
}

fn keys(candidates: &[Candidate]) -> Vec<Key> {
    candidates
        .iter()
        .map(|candidate| Key::Instance(candidate.service_name.clone(), candidate.instance_id.clone()))
        .collect()
}
