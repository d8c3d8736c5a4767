//! The projection of Postgres to a KV bucket: each key is brought to what Postgres says now.
//!
//! Always in this order: read the key's KV revision, *then* Postgres, then put by compare-and-set on that KV revision.
//! Whatever else was written to the key before the first read was put from an older or equal reading of Postgres, and
//! whatever is written after it makes the put fail; so what lands is never older than what it replaces.
//!
//! The same pass serves a change, a crash between commit and publish, and a value that somebody edited by hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::{self, Operation};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::due::{Due, DueKeys, OwnWrites};
use super::evidence;
use super::memory::Memory;
use super::nats::Connection;
use crate::domain::config::Position;
use crate::store::config::Active;
use crate::store::{Store, StoreError};
use crate::wire::bucket::{Bucket, Key};
use crate::wire::registry::Instance;

/// Keys that are brought up to date together.
const BATCH: usize = 64;

/// Room that a put needs in a message beside the value, in bytes.
const HEADERS: usize = 1_024;

/// Brings the keys of one bucket to what Postgres says.
pub struct Projector {
    bucket: Bucket,
    store: Store,
    memory: Arc<Memory>,
    due: DueKeys,
    wake: Notify,
    /// The connection that writes: it knows how much a message may carry.
    connection: Connection,
    /// Woken when Postgres or the bucket went back, so that the bucket's keeper looks at once.
    pub suspicion: Notify,
    /// The bucket, while it is known to be there.
    kv: watch::Sender<Option<kv::Store>>,
    own: OwnWrites,
}

/// What to do with a key.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Put(Bytes),
    Purge,
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// KV has what it should.
    Yes,
    /// Somebody else wrote first, or KV is away: it needs another look.
    Later,
    /// No message can carry it, which only a write by hand can bring about: another look would find the same.
    Never,
}

/// Brings `found` (a key's value in KV) to `wanted` (what Postgres says).
fn step(found: Option<&Bytes>, wanted: Option<Bytes>) -> Step {
    match (found, wanted) {
        (Some(found), Some(wanted)) if *found == wanted => Step::Nothing,
        (_, Some(wanted)) => Step::Put(wanted),
        (Some(_), None) => Step::Purge,
        (None, None) => Step::Nothing,
    }
}

/// Why a pass left keys behind.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("Postgres: {}", .0.chain())]
    Store(#[from] StoreError),
    #[error("a key can't be read: {0}")]
    Read(#[from] kv::EntryError),
    #[error("a record can't be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("the epoch was raised")]
    Raised,
}

impl Projector {
    /// A projector of `bucket`, which works once [`Projector::run`] runs and [`Projector::attach`] gave it the bucket.
    #[must_use]
    pub fn new(bucket: Bucket, store: Store, memory: Arc<Memory>, connection: Connection) -> Self {
        Self {
            bucket,
            store,
            memory,
            due: DueKeys::default(),
            wake: Notify::new(),
            connection,
            suspicion: Notify::new(),
            kv: watch::Sender::new(None),
            own: OwnWrites::default(),
        }
    }

    /// Gives it the bucket, whose stream has come as far as `sequence`.
    pub fn attach(&self, kv: kv::Store, sequence: u64) {
        self.own.begin(sequence);
        self.due.forget_revisions();
        self.kv.send_replace(Some(kv));
    }

    /// The bucket's stream and how far this replica knows it to have come.
    #[must_use]
    pub fn reached(&self) -> Option<(String, i64)> {
        let stream = self.kv.borrow().as_ref()?.stream_name.clone();
        Some((stream, i64::try_from(self.own.last()).ok()?))
    }

    /// Asks for keys to be brought up to date.
    fn mark(&self, keys: impl IntoIterator<Item = Key>) {
        self.due.add(keys);
        self.wake.notify_one();
    }

    /// Asks for all of these keys to be brought up to date, and for those of which memory knows: all that Postgres has, and
    /// all that it may have had.
    pub fn mark_all(&self, keys: Vec<Key>) {
        self.mark(keys);
        if self.bucket == Bucket::Config {
            self.mark(self.memory.services().into_iter().map(Key::Config));
        }
    }

    /// Asks for a key to be brought up to date, of which a watch told a KV revision.
    pub fn mark_seen(&self, key: Key, revision: u64) {
        self.due.add_seen(key, revision);
        self.wake.notify_one();
    }

    /// Asks for a key to be brought up to date; the receiver hears when that is done, and whether KV has what it should.
    pub fn project(&self, key: Key) -> oneshot::Receiver<bool> {
        let receiver = self.due.add_awaited(key);
        self.wake.notify_one();
        receiver
    }

    /// What KV holds of a key.
    ///
    /// # Errors
    /// A text for people, when KV can't be asked.
    pub async fn read(&self, key: &Key) -> Result<Option<Bytes>, String> {
        let Some(kv) = self.kv.borrow().clone() else { return Err("the bucket isn't there yet".into()) };
        kv.get(key.text()).await.map_err(|error| error.to_string())
    }

    /// KV revisions that this replica wrote, which its watch needn't look at.
    pub fn own_writes(&self) -> &OwnWrites {
        &self.own
    }

    /// Works until it is told to stop and nothing is left to do, or `give_up` is cancelled.
    pub async fn run(&self, stop: CancellationToken, give_up: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            let batch = self.due.take(BATCH);
            if batch.is_empty() {
                if stop.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            }
            let left = self.pass(batch).await;
            if !left {
                failures = 0;
                continue;
            }
            let pause = Duration::from_millis(fastrand::u64(10..=20) << failures.min(6));
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = give_up.cancelled() => return,
            }
        }
    }

    /// One pass over a batch; tells whether any key was left for another.
    async fn pass(&self, batch: Vec<(Key, Due)>) -> bool {
        let kv = self.kv.borrow().clone();
        let done = match kv {
            None => vec![Done::Later; batch.len()],
            Some(kv) => match self.bring(&kv, &batch).await {
                Ok(done) => done,
                Err(error) => {
                    tracing::debug!(bucket = ?self.bucket, cause = %error, "projection will try again");
                    vec![Done::Later; batch.len()]
                }
            },
        };
        let mut left = false;
        for ((key, due), done) in batch.into_iter().zip(done) {
            if done == Done::Later {
                left = true;
                self.due.put_back(key, due);
                continue;
            }
            for waiter in due.waiting {
                let _ = waiter.send(done == Done::Yes);
            }
        }
        left
    }

    async fn bring(&self, kv: &kv::Store, batch: &[(Key, Due)]) -> Result<Vec<Done>, PassError> {
        self.own.begin_pass();
        let mut entries = Vec::with_capacity(batch.len());
        for entry in join_all(batch.iter().map(|(key, _)| kv.entry(key.text()))).await {
            entries.push(entry?);
        }
        let mut wanted = match self.bucket {
            Bucket::Config => self.wanted_configs(batch).await?,
            Bucket::Services => self.wanted_instances(batch).await?,
            Bucket::Infra => self.wanted_components(batch).await?,
        };
        let mut steps = Vec::with_capacity(batch.len());
        for ((key, due), entry) in batch.iter().zip(entries) {
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let is_stale = entry.is_some() && revision < due.seen;
            let found = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
            let wanted = wanted.remove(key);
            if self.bucket == Bucket::Config
                && let Some(found) = &found
            {
                self.weigh(key, wanted.as_ref(), found).await?;
            }
            steps.push((key, revision, (!is_stale).then(|| step(found.as_ref(), wanted))));
        }
        let steps = steps.into_iter().map(|(key, revision, step)| async move {
            match step {
                Some(step) => self.take_step(kv, key, revision, step).await,
                None => Done::Later,
            }
        });
        let done = join_all(steps).await;
        if self.own.rewound().is_some() {
            self.suspicion.notify_one();
        }
        Ok(done)
    }

    /// Looks whether what stands in KV tells that Postgres went back.
    async fn weigh(&self, key: &Key, wanted: Option<&Bytes>, found: &Bytes) -> Result<(), PassError> {
        if wanted == Some(found) {
            return Ok(());
        }
        let epoch = match wanted.and_then(|wanted| serde_json::from_slice::<Position>(wanted).ok()) {
            Some(position) => position.epoch,
            None => self.store.epoch().await?,
        };
        match evidence::against(epoch, wanted, found) {
            Some(claimed) => Err(self.went_back(claimed, epoch, &format!("KV has {} at", key.text())).await),
            None => Ok(()),
        }
    }

    /// Raises the epoch above `claimed`: somebody has something newer than what Postgres has in `epoch`, and would take
    /// nothing older. Whether it was raised here or by another, Postgres must be read again.
    async fn went_back(&self, claimed: Position, epoch: i64, who: &str) -> PassError {
        let evidence = format!("{who} {}/{}", claimed.epoch, claimed.revision);
        match self.store.raise_epoch(epoch, claimed.epoch, &evidence).await {
            Err(error) => return error.into(),
            Ok(Some(epoch)) => tracing::warn!(
                epoch,
                evidence,
                "something newer is known than Postgres has: the epoch was raised, all configs are published anew"
            ),
            Ok(None) => {}
        }
        self.suspicion.notify_one();
        PassError::Raised
    }

    /// What Postgres says of configs, as the values that KV must hold: what the instances are to run.
    async fn wanted_configs(&self, batch: &[(Key, Due)]) -> Result<HashMap<Key, Bytes>, PassError> {
        let names: Vec<String> = batch.iter().map(|(key, _)| key.text()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut actives: HashMap<String, Active> = HashMap::with_capacity(names.len());
        for active in self.store.configs_active(&names).await? {
            actives.insert(active.service_name.to_string(), active);
        }
        let (mut pushed, mut held) = (Vec::with_capacity(names.len()), Vec::new());
        for name in names {
            match self.remember(name, actives.remove(name)).await? {
                Some(active) if active.pushed => pushed.push(active),
                Some(_) => held.push(name),
                None => {}
            }
        }
        if !held.is_empty() {
            pushed.extend(self.store.configs_pushed(&held).await?);
        }
        let mut wanted = HashMap::with_capacity(pushed.len());
        for active in pushed {
            let value = serde_json::to_vec(&active.entry())?;
            wanted.insert(Key::Config(active.service_name), value.into());
        }
        Ok(wanted)
    }

    /// Offers memory what Postgres said of a service. What memory has may be newer: either it was changed while it was
    /// read, or Postgres went back.
    async fn remember(&self, service: &str, active: Option<Active>) -> Result<Option<Active>, PassError> {
        let remembered = match &active {
            Some(active) => Some(self.memory.offer(active).position),
            None => self.memory.get(service).map(|remembered| remembered.position),
        };
        let position = |active: &Option<Active>| active.as_ref().map(|active| active.position);
        let Some(remembered) = remembered.filter(|remembered| Some(*remembered) > position(&active)) else {
            return Ok(active);
        };
        let again = self.store.configs_active(&[service]).await?.into_iter().next();
        if position(&again) < Some(remembered) {
            let epoch = match position(&again) {
                Some(position) => position.epoch,
                None => self.store.epoch().await?,
            };
            if remembered.epoch >= epoch {
                return Err(self.went_back(remembered, epoch, &format!("the hub had {service} at")).await);
            }
            self.memory.forget(service);
        }
        if let Some(again) = &again {
            self.memory.offer(again);
        }
        Ok(again)
    }

    /// What Postgres says of instances, as the values that KV must hold.
    async fn wanted_instances(&self, batch: &[(Key, Due)]) -> Result<HashMap<Key, Bytes>, PassError> {
        let pairs: Vec<(&str, &str)> = batch
            .iter()
            .filter_map(|(key, _)| match key {
                Key::Instance(service, instance) => Some((service.as_str(), instance.as_str())),
                Key::Config(_) | Key::Component(_) => None,
            })
            .collect();
        let mut wanted = HashMap::with_capacity(batch.len());
        for instance in self.store.instances_by_key(&pairs).await? {
            let record = Instance { last_heartbeat: None, ..instance };
            let value = serde_json::to_vec(&record)?;
            wanted.insert(Key::Instance(record.service_name, record.instance_id), value.into());
        }
        Ok(wanted)
    }

    /// What Postgres says of components, as the values that KV must hold.
    async fn wanted_components(&self, batch: &[(Key, Due)]) -> Result<HashMap<Key, Bytes>, PassError> {
        let names: Vec<String> = batch.iter().map(|(key, _)| key.text()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut wanted = HashMap::with_capacity(batch.len());
        for component in self.store.components_by_name(&names).await? {
            let value = serde_json::to_vec(&component)?;
            wanted.insert(Key::Component(component.component_name), value.into());
        }
        Ok(wanted)
    }

    async fn take_step(&self, kv: &kv::Store, key: &Key, revision: u64, step: Step) -> Done {
        let text = key.text();
        match step {
            Step::Nothing => Done::Yes,
            Step::Put(value) if value.len() + HEADERS > self.connection.client.max_payload() => {
                tracing::error!(
                    key = text,
                    bytes = value.len(),
                    "a value is too large for NATS, and KV keeps the one before: write a smaller one"
                );
                Done::Never
            }
            Step::Put(value) => match kv.update(&text, value, revision).await {
                Ok(written) => {
                    self.own.note(written);
                    Done::Yes
                }
                Err(error) => {
                    tracing::debug!(key = text, cause = %error, "put will be tried again");
                    Done::Later
                }
            },
            Step::Purge => match kv.purge_expect_revision(&text, Some(revision)).await {
                Ok(()) => Done::Yes,
                Err(error) => {
                    tracing::debug!(key = text, cause = %error, "purge will be tried again");
                    Done::Later
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_always_wins() {
        let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        assert_eq!(step(None, None), Step::Nothing);
        assert_eq!(step(Some(&a), Some(a.clone())), Step::Nothing);
        assert_eq!(step(Some(&b), Some(a.clone())), Step::Put(a.clone()));
        assert_eq!(step(None, Some(a.clone())), Step::Put(a.clone()));
        assert_eq!(step(Some(&a), None), Step::Purge);
    }
}
