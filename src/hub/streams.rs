//! Streams and buckets: made when they are missing, compared when they are there, never deleted.

use async_nats::jetstream::context::{CreateStreamError, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use std::time::Duration;

use time::OffsetDateTime;

use crate::store::epoch::Reached;
use crate::wire::bucket::Bucket;
use crate::wire::event;

/// How long a stream recognises an event that is sent again; the id in the body tells for ever.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// How long events stay on the stream.
const EVENTS_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A stream couldn't be made or looked at.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Not looked at.
    #[error("the stream can't be read: {0}")]
    Get(#[from] GetStreamError),
    /// Not made.
    #[error("the stream can't be made: {0}")]
    Create(#[from] CreateStreamError),
}

/// The settings of a bucket's stream: those of a NATS KV bucket (ADR-8), in file storage.
#[must_use]
pub fn bucket_config(bucket: Bucket, prefix: &str, replicas: usize) -> Config {
    Config {
        name: bucket.stream(prefix),
        description: Some("central-hub: written by the hub only".into()),
        subjects: vec![format!("$KV.{}.>", bucket.name(prefix))],
        max_messages_per_subject: bucket.history(),
        max_messages: -1,
        max_bytes: -1,
        max_message_size: -1,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

/// The settings of the events' stream, which gets `max_bytes` of room. The server sets that aside at once, and makes no
/// stream when it hasn't as much.
#[must_use]
pub fn events_config(prefix: &str, replicas: usize, max_bytes: i64) -> Config {
    Config {
        name: event::stream_name(prefix),
        description: Some("central-hub: what happened".into()),
        subjects: event::stream_subjects(prefix),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes,
        max_age: EVENTS_MAX_AGE,
        max_message_size: -1,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        num_replicas: replicas,
        allow_direct: true,
        duplicate_window: DUPLICATE_WINDOW,
        ..Config::default()
    }
}

/// The stream with these settings: made when it is missing. One that is there is kept; where it differs, the difference
/// is said and, where the server lets it, mended in place. A new one goes on counting where the one before had come.
///
/// # Errors
/// [`StreamError`].
pub async fn ensure(jetstream: &Context, wanted: &Config, reached: &Reached) -> Result<Stream, StreamError> {
    match jetstream.get_stream(&wanted.name).await {
        Ok(stream) => {
            mend(jetstream, &stream, wanted).await;
            Ok(stream)
        }
        Err(error) if is_missing(&error) => {
            tracing::info!(stream = wanted.name, "makes the stream");
            // A watcher of a stream that was here before says nothing until the new one passes the sequence that it has
            // seen. (Servers before 2.10 ignore this.)
            let first_sequence = Some(beyond(reached));
            Ok(jetstream.create_stream(Config { first_sequence, ..wanted.clone() }).await?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a stream that has come as far as `last` is another one than was here before, or an older copy of it: watchers of
/// that one would hear nothing until it passes what they had seen.
#[must_use]
pub fn is_behind(last: u64, reached: &Reached) -> bool {
    last == 0 || last < reached.sequence || last < reached.raised_ms
}

/// A sequence that no stream of this name ever had. The note is of the last seconds, in which far fewer than a hundred
/// thousand values are written. Where Postgres went back, and the note with it, the clock tells: streams begin at its
/// milliseconds, and take far fewer than a thousand values a second.
#[must_use]
pub fn beyond(reached: &Reached) -> u64 {
    let clock = u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    clock.max(reached.sequence + 100_000).max(reached.raised_ms)
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

async fn mend(jetstream: &Context, stream: &Stream, wanted: &Config) {
    let found = &stream.cached_info().config;
    let differences = differences(found, wanted);
    if differences.is_empty() {
        return;
    }
    let mended = Config {
        subjects: wanted.subjects.clone(),
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_bytes: wanted.max_bytes,
        max_age: wanted.max_age,
        discard: wanted.discard,
        num_replicas: wanted.num_replicas,
        allow_rollup: wanted.allow_rollup,
        allow_direct: wanted.allow_direct,
        duplicate_window: wanted.duplicate_window,
        ..found.clone()
    };
    let name = &wanted.name;
    match jetstream.update_stream(mended).await {
        Ok(_) => tracing::warn!(stream = name, ?differences, "the stream's settings had drifted: mended"),
        Err(error) => tracing::warn!(
            stream = name, ?differences, cause = %error,
            "the stream's settings have drifted and the server won't change them in place"
        ),
    }
}

/// Settings that differ, by name. A bucket may keep more history than was asked for.
fn differences(found: &Config, wanted: &Config) -> Vec<&'static str> {
    let enough_history =
        found.max_messages_per_subject >= wanted.max_messages_per_subject || wanted.max_messages_per_subject < 0;
    let checks = [
        ("subjects", found.subjects == wanted.subjects),
        ("history", enough_history),
        ("max_bytes", found.max_bytes == wanted.max_bytes),
        ("max_age", found.max_age == wanted.max_age),
        ("discard", found.discard == wanted.discard),
        ("storage", found.storage == wanted.storage),
        ("replicas", found.num_replicas == wanted.num_replicas),
        ("rollup", found.allow_rollup == wanted.allow_rollup),
        ("direct get", found.allow_direct == wanted.allow_direct),
        ("duplicate window", found.duplicate_window == wanted.duplicate_window),
    ];
    checks.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_behind_is_moved_to_where_it_no_longer_is() {
        let now = 1_795_000_000_000;
        for (last, sequence, raised_ms, behind) in [
            (0, 0, 0, true),
            (5, 0, 0, false),
            (5, 5, 0, false),
            (5, 6, 0, true),
            (now, now - 5, now - 1, false),
            (now, now - 5, now + 1, true),
            (now, 5_000_000_000_000, 0, true),
        ] {
            let reached = Reached { sequence, raised_ms };
            assert_eq!(is_behind(last, &reached), behind, "{last}, {reached:?}");
            assert!(!is_behind(beyond(&reached), &reached), "{reached:?}");
        }
    }
}
