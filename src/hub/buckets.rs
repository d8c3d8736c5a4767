//! Keeps a bucket there and watched: what anybody else does to it shows here, and the projection puts it right.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config, State, Stream};
use futures_util::StreamExt as _;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::nats::Connection;
use super::projector::Projector;
use super::streams;
use crate::store::epoch::{Reached, Standing};
use crate::store::{Store, StoreError};
use crate::wire::bucket::{Bucket, Key};

/// How often the stream behind the bucket is looked at: a watch notices neither a purge nor a recreated stream.
const LOOK: Duration = Duration::from_secs(2);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Since when the hub has been without its watch of a bucket.
#[derive(Debug)]
pub struct Sight(Mutex<Option<Instant>>);

impl Default for Sight {
    fn default() -> Self {
        Self(Mutex::new(Some(Instant::now())))
    }
}

impl Sight {
    /// Whether the watch is live, or was lost less than `grace` ago.
    #[must_use]
    pub fn within(&self, grace: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|lost| lost.elapsed() < grace)
    }

    fn gained(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lost(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }
}

/// One bucket and what the hub does to keep it true.
pub struct BucketKeeper {
    /// The bucket.
    pub bucket: Bucket,
    /// Settings of the stream behind it.
    pub config: Config,
    /// Name of the bucket.
    pub name: String,
    /// The connection that may write it.
    pub connection: Connection,
    /// The truth.
    pub store: Store,
    /// What brings keys up to date.
    pub projector: Arc<Projector>,
    /// Whether the watch is live.
    pub sight: Arc<Sight>,
}

impl BucketKeeper {
    /// Keeps the bucket until it is told to stop.
    pub async fn run(&self, stop: CancellationToken) {
        let mut failures: u32 = 0;
        while !stop.is_cancelled() {
            let kept = tokio::select! {
                kept = self.keep(&mut failures) => kept,
                () = stop.cancelled() => return,
            };
            self.sight.lost();
            if let Err(error) = kept {
                tracing::debug!(bucket = self.name, cause = %error, "watch will be opened again");
            }
            let most = 100u64 << failures.min(5);
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(most / 2 + fastrand::u64(0..=most / 2))) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes sure of the bucket, compares all of it with Postgres, and watches it until something calls for a new start.
    async fn keep(&self, failures: &mut u32) -> Result<(), Failure> {
        let mut generation = self.connection.generation.clone();
        generation.mark_unchanged();
        let jetstream = self.connection.jetstream();
        self.recognise().await?;
        // Before the keys are compared: what changes after this shows at the next look.
        let standing = self.store.standing().await?;
        let mut stream = streams::ensure(&jetstream, &self.config, &self.reached().await?).await?;
        self.catch_up(&mut stream).await?;
        let info = stream.info().await?;
        let (created, mut last) = (info.created, info.state.clone());
        let kv = jetstream.get_key_value(&self.name).await?;
        self.projector.attach(kv.clone(), last.last_sequence);
        let mut watch = kv.watch_with_history(">").await?;
        self.compare_all().await?;
        self.note_sequence(&last).await?;
        self.sight.gained();
        *failures = 0;

        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = watch.next() => match entry {
                    Some(Ok(entry)) => self.note(&jetstream, entry).await,
                    // The watch mends itself after an error; the look below tells when it can't.
                    Some(Err(error)) => tracing::debug!(bucket = self.name, cause = %error, "watch stumbled"),
                    None => return Ok(()),
                },
                _ = generation.changed() => return Ok(()),
                () = self.projector.suspicion.notified() => look.reset_immediately(),
                _ = look.tick() => {
                    let state = self.look(&mut stream, created).await?;
                    if state.last_sequence < last.last_sequence || self.projector.own_writes().rewound().is_some() {
                        return Ok(());
                    }
                    match self.follow(&last, &state, &standing).await {
                        Ok(true) => last = state,
                        Ok(false) => return Ok(()),
                        // Nobody can change anything meanwhile; the next look looks at the same again.
                        Err(error) => tracing::debug!(bucket = self.name, cause = %error.chain(), "not looked at"),
                    }
                }
            }
        }
    }

    /// Does what a look calls for; `false` when only a new start does: Postgres may have gone back, so what KV has in excess
    /// must be found, and the stream may have gone back with it.
    async fn follow(&self, last: &State, state: &State, standing: &Standing) -> Result<bool, StoreError> {
        if self.store.standing().await? != *standing {
            tracing::debug!(bucket = self.name, "PostgreSQL was restarted or restored, or the epoch was raised");
            return Ok(false);
        }
        if state.last_sequence > last.last_sequence {
            self.note_sequence(state).await?;
        }
        if lost_messages(last, state) {
            self.compare_all().await?;
        }
        Ok(true)
    }

    /// Raises the epoch when this is another database than before.
    async fn recognise(&self) -> Result<(), StoreError> {
        if let Some(epoch) = self.store.recognise().await? {
            tracing::warn!(epoch, "another database than before, restored or promoted: the epoch was raised");
        }
        Ok(())
    }

    /// How far the bucket's stream had come, as far as Postgres and this replica know.
    async fn reached(&self) -> Result<Reached, StoreError> {
        let noted = self.store.stream_reached(&self.config.name).await?;
        Ok(Reached { sequence: noted.sequence.max(self.projector.own_writes().last()), ..noted })
    }

    /// Whether the stream is an older copy, or another one, or may be.
    async fn is_behind(&self, stream: &mut Stream) -> Result<Option<Reached>, Failure> {
        // In this order: the stream may only have come further since.
        let reached = self.reached().await?;
        let rewound = self.projector.own_writes().rewound();
        let state = &stream.info().await?.state;
        let behind = streams::is_behind(state.last_sequence, &reached)
            || rewound.is_some_and(|before| state.first_sequence <= before);
        Ok(behind.then_some(reached))
    }

    /// Sees to it that a stream that was restored from an older copy (or made anew by a server before 2.10, or by
    /// somebody else) goes on counting where no stream before it was: watchers of that one would hear nothing until then.
    /// It is filled anew after that. A watcher that stays deaf is no reason to leave the others without the truth.
    async fn catch_up(&self, stream: &mut Stream) -> Result<(), Failure> {
        if self.is_behind(stream).await?.is_none() {
            return Ok(());
        }
        // A purge takes away what others put meanwhile, and with it what tells them that something was put.
        let _alone = self.store.lock_streams().await?;
        let Some(reached) = self.is_behind(stream).await? else { return Ok(()) };
        let (last, next) = (stream.cached_info().state.last_sequence, streams::beyond(&reached));
        let purged = stream.purge().sequence(next).await;
        if last > 0 {
            tracing::warn!(
                bucket = self.name,
                last,
                ?reached,
                next,
                "the stream may have gone back: it goes on after that"
            );
        }
        if let Err(error) = purged {
            tracing::error!(
                bucket = self.name, cause = %error,
                "the stream can't be moved on: clients that watched it may miss what is published, until they look again"
            );
        }
        Ok(())
    }

    async fn note_sequence(&self, state: &State) -> Result<(), StoreError> {
        let sequence = i64::try_from(state.last_sequence).map_err(StoreError::defect)?;
        self.store.note_stream_sequence(&self.config.name, sequence).await
    }

    /// The stream's state.
    ///
    /// # Errors
    /// When it can't be read, or the stream is another than the one that is watched.
    async fn look(&self, stream: &mut Stream, created: OffsetDateTime) -> Result<State, Failure> {
        let info = stream.info().await?;
        if info.created != created {
            return Err("the stream was made anew".into());
        }
        Ok(info.state.clone())
    }

    /// Has every key that Postgres knows compared with KV. (Keys that only KV has come through the watch.)
    async fn compare_all(&self) -> Result<(), StoreError> {
        let keys = match self.bucket {
            Bucket::Config => self.store.config_keys().await?,
            Bucket::Services => self.store.instance_keys().await?,
            Bucket::Infra => self.store.component_keys().await?,
        };
        self.projector.mark_all(keys);
        Ok(())
    }

    async fn note(&self, jetstream: &Context, entry: kv::Entry) {
        if self.projector.own_writes().deliver(entry.revision) {
            return;
        }
        match Key::parse(self.bucket, &entry.key) {
            Some(key) => self.projector.mark_seen(key, entry.revision),
            None if entry.operation == kv::Operation::Put => match self.purge_stranger(jetstream, &entry).await {
                Ok(()) => tracing::warn!(bucket = self.name, "a key that the hub never writes was removed"),
                Err(error) => tracing::warn!(bucket = self.name, cause = %error, "a foreign key can't be removed"),
            },
            None => {}
        }
    }

    /// Removes a key as the client library would, which refuses names that a plain publish can write.
    async fn purge_stranger(&self, jetstream: &Context, entry: &kv::Entry) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "PURGE");
        headers.insert("Nats-Rollup", "sub");
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, entry.revision.to_string());
        let subject = format!("$KV.{}.{}", self.name, entry.key);
        jetstream.publish_with_headers(subject, headers, "".into()).await?.await?;
        Ok(())
    }
}

/// Whether a purge may have taken place between two looks: fewer messages or keys than before, or none of those that
/// were there then. (A purge leaves no message of its own.)
fn lost_messages(before: &State, now: &State) -> bool {
    now.messages < before.messages
        || now.subjects_count < before.subjects_count
        || now.first_sequence > before.last_sequence && before.last_sequence > 0
}
