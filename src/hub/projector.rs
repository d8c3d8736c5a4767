//! The projection of Postgres to a KV bucket: each key is brought to what Postgres says now.
//!
//! Always in this order: read the key's KV revision, *then* Postgres, then put by compare-and-set on that KV revision.
//! Whatever else was written to the key before the first read was put from an older or equal reading of Postgres, and
//! whatever is written after it makes the put fail; so what lands is never older than what it replaces.
//!
//! The same pass serves a change, a crash between commit and publish, and a value that somebody edited by hand.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::kv::{self, Operation};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::memory::Memory;
use crate::store::{Store, StoreError};
use crate::wire::bucket::{Bucket, Key};
use crate::wire::registry::Instance;

/// Keys that are brought up to date together.
const BATCH: usize = 64;

/// How many of our own writes a watch may lag behind before it has to look at them as at anybody's.
const MAX_UNSEEN: usize = 100_000;

/// Brings the keys of one bucket to what Postgres says.
pub struct Projector {
    bucket: Bucket,
    store: Store,
    memory: Arc<Memory>,
    dirty: Mutex<HashMap<Key, Vec<oneshot::Sender<()>>>>,
    wake: Notify,
    /// The bucket, while it is known to be there.
    kv: watch::Sender<Option<kv::Store>>,
    /// KV revisions that this replica wrote and its watch hasn't delivered yet.
    unseen: Mutex<HashSet<u64>>,
}

/// What to do with a key.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Put(Bytes),
    Purge,
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
}

impl Projector {
    /// A projector of `bucket`, which works once [`Projector::run`] runs and [`Projector::attach`] gave it the bucket.
    #[must_use]
    pub fn new(bucket: Bucket, store: Store, memory: Arc<Memory>) -> Self {
        Self {
            bucket,
            store,
            memory,
            dirty: Mutex::default(),
            wake: Notify::new(),
            kv: watch::Sender::new(None),
            unseen: Mutex::default(),
        }
    }

    /// Gives it the bucket, or takes it away.
    pub fn attach(&self, kv: Option<kv::Store>) {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.kv.send_replace(kv);
    }

    /// Asks for keys to be brought up to date.
    pub fn mark(&self, keys: impl IntoIterator<Item = Key>) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            dirty.entry(key).or_default();
        }
        self.wake.notify_one();
    }

    /// Asks for a key to be brought up to date; the receiver hears when KV has it.
    pub fn project(&self, key: Key) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(done);
        self.wake.notify_one();
        receiver
    }

    /// Whether a KV revision is a write of this replica, which its watch needn't look at.
    pub fn is_own(&self, revision: u64) -> bool {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).remove(&revision)
    }

    /// Works until it is told to stop and nothing is left to do, or `give_up` is cancelled.
    pub async fn run(&self, stop: CancellationToken, give_up: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            let batch = self.take_batch();
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

    fn take_batch(&self) -> Vec<(Key, Vec<oneshot::Sender<()>>)> {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<Key> = dirty.keys().take(BATCH).cloned().collect();
        keys.into_iter().filter_map(|key| dirty.remove_entry(&key)).collect()
    }

    fn put_back(&self, key: Key, waiting: Vec<oneshot::Sender<()>>) {
        let waiting = waiting.into_iter().filter(|waiter| !waiter.is_closed());
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().extend(waiting);
    }

    /// One pass over a batch; tells whether any key was left for another.
    async fn pass(&self, batch: Vec<(Key, Vec<oneshot::Sender<()>>)>) -> bool {
        let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
        let kv = self.kv.borrow().clone();
        let done = match kv {
            None => vec![false; batch.len()],
            Some(kv) => match self.bring(&kv, &keys).await {
                Ok(done) => done,
                Err(error) => {
                    tracing::debug!(bucket = ?self.bucket, cause = %error, "projection will try again");
                    vec![false; batch.len()]
                }
            },
        };
        let mut left = false;
        for ((key, waiting), done) in batch.into_iter().zip(done) {
            if done {
                for waiter in waiting {
                    let _ = waiter.send(());
                }
            } else {
                left = true;
                self.put_back(key, waiting);
            }
        }
        left
    }

    async fn bring(&self, kv: &kv::Store, keys: &[Key]) -> Result<Vec<bool>, PassError> {
        let mut revisions = Vec::with_capacity(keys.len());
        for entry in join_all(keys.iter().map(|key| kv.entry(key.text()))).await {
            let entry = entry?;
            let value =
                entry.as_ref().filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value.clone());
            revisions.push((entry.map_or(0, |entry| entry.revision), value));
        }
        let mut wanted = self.wanted(keys).await?;
        let steps = keys.iter().zip(revisions).map(|(key, (revision, found))| {
            let step = step(found.as_ref(), wanted.remove(key));
            self.take_step(kv, key, revision, step)
        });
        Ok(join_all(steps).await)
    }

    /// What Postgres says of the keys, as the values that KV must hold.
    async fn wanted(&self, keys: &[Key]) -> Result<HashMap<Key, Bytes>, PassError> {
        let mut wanted = HashMap::with_capacity(keys.len());
        match self.bucket {
            Bucket::Config => {
                let names: Vec<String> = keys.iter().map(Key::text).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                for active in self.store.configs_active(&names).await? {
                    self.memory.offer(&active);
                    let value = serde_json::to_vec(&active.entry())?;
                    wanted.insert(Key::Config(active.service_name), value.into());
                }
            }
            Bucket::Services => {
                let pairs: Vec<(&str, &str)> = keys
                    .iter()
                    .filter_map(|key| match key {
                        Key::Instance(service, instance) => Some((service.as_str(), instance.as_str())),
                        Key::Config(_) => None,
                    })
                    .collect();
                for instance in self.store.instances_by_key(&pairs).await? {
                    let record = Instance { last_heartbeat: None, ..instance };
                    let value = serde_json::to_vec(&record)?;
                    wanted.insert(Key::Instance(record.service_name, record.instance_id), value.into());
                }
            }
        }
        Ok(wanted)
    }

    /// Takes a step; `false` when somebody else wrote first or KV is away, and the key needs another look.
    async fn take_step(&self, kv: &kv::Store, key: &Key, revision: u64, step: Step) -> bool {
        let text = key.text();
        match step {
            Step::Nothing => true,
            Step::Put(value) => match kv.update(&text, value, revision).await {
                Ok(written) => {
                    let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
                    if unseen.len() < MAX_UNSEEN {
                        unseen.insert(written);
                    }
                    true
                }
                Err(error) => {
                    tracing::debug!(key = text, cause = %error, "put will be tried again");
                    false
                }
            },
            Step::Purge => match kv.purge_expect_revision(&text, Some(revision)).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!(key = text, cause = %error, "purge will be tried again");
                    false
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
