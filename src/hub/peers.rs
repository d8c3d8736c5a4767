//! What replicas tell each other: that they serve, with Postgres. One that lost Postgres leaves its share of the requests
//! to those who say so.
//!
//! They speak through an inbox of the writing connection, which the permissions that ship let nobody else publish to or
//! hear, and in words that no answer of a hub can be taken for: a caller may name that inbox as the place for his.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use async_nats::Client;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::nats::Connection;
use crate::domain::membership::{self, FRESH, PERIOD, SERVES};
use crate::domain::name::InstanceId;
use crate::store::Store;

/// How many replicas are remembered at the most.
const MOST: usize = 1_000;

/// What a replica says of itself, before its name.
const SERVING: &str = "serving ";
const LEAVING: &str = "leaving ";

/// What this replica knows of the others, and what follows for it.
pub struct Peers {
    /// What it may lose.
    pub store: Store,
    /// The connection to speak on.
    pub writer: Connection,
    /// Where replicas speak, see [`subject`].
    pub subject: String,
    /// Its name.
    pub replica_id: InstanceId,
    /// Whether it takes part in the queue groups.
    pub takes_part: watch::Sender<bool>,
}

/// Where the replicas of one hub speak: an inbox, by the name of what they serve.
#[must_use]
pub fn subject(writer: &Client, prefix: &str) -> String {
    let inbox = writer.new_inbox();
    let inboxes = inbox.rsplit_once('.').map_or("_INBOX", |(prefix, _)| prefix);
    format!("{inboxes}.replicas.{prefix}")
}

impl Peers {
    /// Speaks, listens and decides until `stop`; then says goodbye, so that the others wait for this one no longer.
    pub async fn run(&self, stop: CancellationToken) {
        let heard = Mutex::default();
        tokio::select! {
            () = self.listen(&heard) => {}
            () = self.speak(&heard) => {}
            () = stop.cancelled() => self.say(LEAVING).await,
        }
    }

    async fn say(&self, word: &str) {
        // What waits for a reconnect would come too late.
        if self.writer.is_up() {
            let said = self.writer.client.publish(self.subject.clone(), format!("{word}{}", self.replica_id).into());
            if let Err(error) = said.await {
                tracing::debug!(cause = %error, "the other replicas could not be told");
            }
        }
    }

    async fn listen(&self, heard: &Mutex<HashMap<InstanceId, Instant>>) {
        let mut words = match self.writer.client.subscribe(self.subject.clone()).await {
            Ok(words) => words,
            Err(error) => {
                tracing::warn!(cause = %error, "the other replicas can't be heard: this one takes part whatever it lost");
                return std::future::pending().await;
            }
        };
        while let Some(message) = words.next().await {
            let Ok(text) = std::str::from_utf8(&message.payload) else { continue };
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.retain(|_, at: &mut Instant| at.elapsed() < FRESH);
            let serving = text.strip_prefix(SERVING).map(str::parse);
            let leaving = text.strip_prefix(LEAVING).map(str::parse);
            match (serving, leaving) {
                (Some(Ok(peer)), _) if peer != self.replica_id && heard.len() < MOST => {
                    heard.insert(peer, Instant::now());
                }
                (_, Some(Ok(peer))) => {
                    heard.remove(&peer);
                }
                _ => {}
            }
        }
    }

    async fn speak(&self, heard: &Mutex<HashMap<InstanceId, Instant>>) {
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            // Whatever else this replica asked of Postgres meanwhile counts as well.
            let _ = tokio::time::timeout(SERVES, self.store.now()).await;
            let silence = self.store.silence();
            if silence < SERVES {
                self.say(SERVING).await;
            }
            let peers: Vec<_> =
                heard.lock().unwrap_or_else(PoisonError::into_inner).values().map(Instant::elapsed).collect();
            let takes_part = membership::takes_part(silence, peers);
            if self.takes_part.send_if_modified(|known| std::mem::replace(known, takes_part) != takes_part) {
                if takes_part {
                    tracing::info!("takes its share of the requests again");
                } else {
                    tracing::warn!("lost PostgreSQL, and another replica hasn't: leaves it the requests meanwhile");
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Answers of a hub are JSON objects.
    #[test]
    fn no_answer_is_a_word_of_a_replica() {
        for word in [SERVING, LEAVING] {
            assert!(serde_json::from_str::<serde_json::Value>(&format!("{word}a")).is_err());
            assert!(!word.starts_with('{'));
        }
    }
}
