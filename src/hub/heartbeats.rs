//! Group commit of heartbeats: one statement for all that arrived while the last one ran, one reply each after it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::nats::Interruptions;
use super::serve::explain;
use crate::domain::name::InstanceId;
use crate::domain::settings::Settings;
use crate::store::heartbeat::{Beat, Heard, Taking};
use crate::store::{Store, StoreError};
use crate::wire::Error;

/// Heartbeats of one round at the most.
const BATCH: usize = 512;

/// A statement that takes longer means that others' heartbeats wait unheard, so their silence proves nothing.
const SLOW: Duration = Duration::from_secs(1);

/// Where heartbeats are handed in.
#[derive(Clone)]
pub struct HeartbeatQueue(mpsc::Sender<Waiting>);

struct Waiting {
    beat: Beat,
    heard: oneshot::Sender<Result<Heard, Error>>,
}

/// The writer of heartbeats.
pub struct HeartbeatWriter {
    queue: mpsc::Receiver<Waiting>,
    store: Store,
    /// Whether rows are kept.
    settings: watch::Receiver<Settings>,
    /// Told when heartbeats couldn't be taken in time.
    interruptions: Arc<Interruptions>,
    /// Wakes the outbox.
    committed: Arc<Notify>,
}

/// A queue for at most `capacity` heartbeats, and its writer.
#[must_use]
pub fn queue(
    capacity: usize,
    store: Store,
    settings: watch::Receiver<Settings>,
    interruptions: Arc<Interruptions>,
    committed: Arc<Notify>,
) -> (HeartbeatQueue, HeartbeatWriter) {
    let (sender, queue) = mpsc::channel(capacity);
    (HeartbeatQueue(sender), HeartbeatWriter { queue, store, settings, interruptions, committed })
}

impl HeartbeatQueue {
    /// Hands a heartbeat in and waits until it is in Postgres.
    ///
    /// # Errors
    /// What the speaker is told instead; [`Error::overloaded`] when the queue is full.
    pub async fn take(&self, beat: Beat) -> Result<Heard, Error> {
        let (heard, answer) = oneshot::channel();
        self.0.try_send(Waiting { beat, heard }).map_err(|_| Error::overloaded())?;
        answer.await.unwrap_or_else(|_| Err(Error::unavailable("the hub stops; send the heartbeat again")))
    }
}

impl HeartbeatWriter {
    /// Takes heartbeats until `stop`, which is to be cancelled when nobody hands in any more.
    pub async fn run(&mut self, stop: CancellationToken) {
        let mut round = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                _ = self.queue.recv_many(&mut round, BATCH) => {}
                () = stop.cancelled() => return,
            }
            if let Err(outage) = self.write(std::mem::take(&mut round)).await {
                // What waited meanwhile would wait as long again, round after round.
                while let Ok(waiting) = self.queue.try_recv() {
                    let _ = waiting.heard.send(Err(outage.clone()));
                }
            }
        }
    }

    /// Writes a round and answers it.
    ///
    /// # Errors
    /// What was answered, when Postgres is away or has too much to do.
    async fn write(&self, batch: Vec<Waiting>) -> Result<(), Error> {
        let beats: Vec<&Beat> = batch.iter().map(|waiting| &waiting.beat).collect();
        let started = Instant::now();
        let (results, failure) = self.store_all(&beats).await;
        if started.elapsed() > SLOW || failure.is_some() {
            self.interruptions.note();
        }
        for (waiting, result) in batch.into_iter().zip(results) {
            let _ = waiting.heard.send(result);
        }
        match failure {
            Some((error, told)) if error.is_passing() => Err(told),
            _ => Ok(()),
        }
    }

    /// One result per heartbeat; and the failure that some of them share, with what they are told of it.
    async fn store_all(&self, beats: &[&Beat]) -> (Vec<Result<Heard, Error>>, Option<(StoreError, Error)>) {
        let how = {
            let settings = self.settings.borrow();
            Taking {
                record: settings.health_monitoring.record_heartbeats,
                default_interval: settings.service_discovery.heartbeat_interval_seconds,
            }
        };
        let mut failure = None;
        let mut fail = |error: StoreError| {
            let told = explain(&error, "heartbeat", None);
            failure = Some((error, told.clone()));
            told
        };
        let first = firsts(beats.iter().map(|beat| speaker(beat)));
        let firsts: Vec<&Beat> = beats.iter().zip(&first).filter(|(_, first)| **first).map(|(beat, _)| *beat).collect();
        let mut touched = match self.store.touch(&firsts, how).await {
            Ok(touched) => touched.into_iter(),
            Err(error) => {
                let told = fail(error);
                return (beats.iter().map(|_| Err(told.clone())).collect(), failure);
            }
        };
        let touched: Vec<Option<Heard>> =
            first.into_iter().map(|first| if first { touched.next().flatten() } else { None }).collect();
        let others: Vec<&Beat> =
            beats.iter().zip(&touched).filter(|(_, heard)| heard.is_none()).map(|(beat, _)| *beat).collect();
        let mut applied = Vec::new();
        if !others.is_empty() {
            applied = match self.store.apply(&others, how).await {
                Ok(applied) => {
                    if applied.changed {
                        self.committed.notify_one();
                    }
                    applied.results
                }
                Err(error) => {
                    let told = fail(error);
                    others.iter().map(|_| Err(told.clone())).collect()
                }
            };
        }
        let mut applied = applied.into_iter();
        let missing = || Err(Error::unavailable("the heartbeat was not taken"));
        let results = touched.into_iter().map(|heard| heard.map_or_else(|| applied.next().unwrap_or_else(missing), Ok));
        (results.collect(), failure)
    }
}

/// For whom a heartbeat speaks: its service, and its instance if it names one.
fn speaker(beat: &Beat) -> (&str, Option<&str>) {
    (beat.service_name.as_str(), beat.report.instance_id.as_ref().map(InstanceId::as_str))
}

/// Which heartbeats of a round are the first of their instance. Those alone may be taken out of their order; one that
/// names no instance may speak for any of its service, so what comes after it isn't the first either.
fn firsts<'a>(speakers: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Vec<bool> {
    let mut named = HashSet::new();
    let mut unnamed = HashSet::new();
    speakers
        .map(|(service, instance)| match instance {
            Some(instance) => !unnamed.contains(service) && named.insert((service, instance)),
            None => {
                unnamed.insert(service);
                false
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_of_each_instance_may_leave_its_place() {
        let said = [
            ("a", Some("1"), true),
            ("a", Some("2"), true),
            ("a", Some("1"), false),
            ("a", None, false),
            ("a", Some("3"), false),
            ("b", None, false),
            ("b", Some("1"), false),
            ("c", Some("1"), true),
            ("c", None, false),
        ];
        let speakers = said.iter().map(|(service, instance, _)| (*service, *instance));
        assert_eq!(firsts(speakers), said.map(|(.., first)| first));
    }
}
