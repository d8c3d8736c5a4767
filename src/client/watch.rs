//! A watch of keys of a bucket that survives everything: a lost connection, a server that comes back empty, a bucket that
//! is deleted and made again, a consumer that vanished.
//!
//! It reads through a consumer of its own, which is named and filtered, so that the filter stands in the subject of the
//! request and a server can allow one key and nothing else. Each time something looks wrong it opens a new one, which
//! begins with the current value of each key; it never goes on from where an old one was, because a stream that was made
//! anew counts from elsewhere.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::link::{Connection, Link};
use super::task::Task;

/// How often the server says on a quiet watch that it is still there.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(2);

/// Silence after which a watch is taken for dead: two of the server's heartbeats, and a little.
const SILENCE: Duration = Duration::from_millis(4_500);

/// How long the server keeps a consumer whose reader is gone.
const CONSUMER_LINGERS: Duration = Duration::from_secs(10);

/// How long one request to JetStream may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Pauses between watches that couldn't be opened. Each one makes the server work, so they grow.
const REOPEN: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));

/// How often a bucket that can't be watched is looked at, with a read of a key, which costs next to nothing; a watch is
/// opened as soon as that succeeds.
const LOOK: Duration = Duration::from_secs(1);

/// Time over which processes that lost the same server open their watches again.
const SPREAD: Duration = Duration::from_millis(400);

/// How long after a watch was opened a key that it didn't tell counts as gone. A bucket that was made anew is filled
/// within seconds.
const SETTLED: Duration = Duration::from_secs(10);

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A watch was opened: what comes up to [`News::Current`] is all that the bucket holds.
    Opened,
    /// A value stands under a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
    },
    /// A key was removed by somebody who said so.
    Removed {
        /// The key.
        key: String,
    },
    /// All that the bucket holds was told.
    Current,
    /// The watch has been complete for a while.
    Settled,
    /// There is no watch at the moment.
    Lost,
}

/// What is made of the news of a watch.
pub(super) trait Fold: Send + Sync + 'static {
    /// Takes news; whether that changed anything that somebody may wait for.
    fn take(&mut self, news: News) -> bool;
}

/// Which keys to watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Keys {
    /// The bucket.
    pub(super) bucket: String,
    /// A key, or `>` for all.
    pub(super) filter: String,
}

impl Keys {
    fn stream(&self) -> String {
        format!("KV_{}", self.bucket)
    }

    fn prefix(&self) -> String {
        format!("$KV.{}.", self.bucket)
    }

    fn subject(&self) -> String {
        self.prefix() + &self.filter
    }

    /// A key that may be read: the one that is watched, or any.
    fn readable(&self) -> &str {
        if self.filter == ">" { "central-hub.none" } else { &self.filter }
    }
}

/// A watch and what was made of its news.
#[derive(Debug)]
pub(super) struct KeyWatch<S> {
    state: Arc<watch::Sender<S>>,
    doubt: Arc<Notify>,
    _task: Task,
    _beside: Option<Task>,
    _link: Arc<Link>,
}

impl<S: Fold> KeyWatch<S> {
    /// Watches `keys` for as long as this lives, and folds the news into `state`.
    pub(super) fn start(nats: &Client, link: Arc<Link>, keys: Keys, state: S) -> Self {
        let state = Arc::new(watch::Sender::new(state));
        let doubt = Arc::new(Notify::new());
        let watcher = Arc::new(Watcher {
            jetstream: ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(nats.clone()),
            nats: nats.clone(),
            keys,
            state: Arc::clone(&state),
            doubt: Arc::clone(&doubt),
        });
        let connection = link.watch();
        let task = Task::supervised("watch", move || {
            let (watcher, connection) = (Arc::clone(&watcher), connection.clone());
            async move { watcher.run(connection).await }
        });
        Self { state, doubt, _task: task, _beside: None, _link: link }
    }

    /// Has a task run beside the watch, which may change what is made of its news.
    pub(super) fn beside(&mut self, task: impl FnOnce(Arc<watch::Sender<S>>) -> Task) {
        self._beside = Some(task(Arc::clone(&self.state)));
    }

    /// What is known, and each time that it changes.
    pub(super) fn state(&self) -> watch::Receiver<S> {
        self.state.subscribe()
    }

    /// Says that there is something newer than what the watch told: it reads the key, and opens itself anew if that is so.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the connection was lost or made anew")]
    Reconnected,
    #[error("the bucket can't be watched: {0}")]
    NotOpened(Box<dyn std::error::Error + Send + Sync>),
    #[error("the server fell silent")]
    Silent,
    #[error("messages were lost")]
    Gap,
    #[error("it told less than the bucket holds")]
    Stalled,
}

struct Watcher<S> {
    nats: Client,
    jetstream: jetstream::Context,
    keys: Keys,
    state: Arc<watch::Sender<S>>,
    doubt: Arc<Notify>,
}

impl<S: Fold> Watcher<S> {
    fn tell(&self, news: News) -> bool {
        self.state.send_if_modified(|state| state.take(news))
    }

    async fn run(&self, mut connection: watch::Receiver<Connection>) {
        let mut reopen = REOPEN;
        let mut first = true;
        loop {
            let Ok(made) = connection.wait_for(|now| now.is_up).await.map(|now| now.made) else { return };
            if !std::mem::take(&mut first) {
                sleep(SPREAD.mul_f64(fastrand::f64())).await;
            }
            let ended = tokio::select! {
                ended = self.follow(&mut reopen) => ended,
                _ = connection.wait_for(|now| !now.is_up || now.made != made) => Ended::Reconnected,
            };
            tracing::debug!(bucket = self.keys.bucket, filter = self.keys.filter, cause = %ended, "watch ended");
            self.tell(News::Lost);
            match ended {
                Ended::Reconnected => reopen.reset(),
                Ended::NotOpened(_) => {
                    tokio::select! {
                        () = self.wait_for_bucket(reopen.pause()) => {}
                        _ = connection.wait_for(|now| !now.is_up || now.made != made) => reopen.reset(),
                    }
                }
                Ended::Silent | Ended::Gap | Ended::Stalled => sleep(reopen.pause()).await,
            }
        }
    }

    /// Waits until the bucket can be read, if it can't be now, but no longer than `most`. (It may be that reading is
    /// what isn't allowed.)
    async fn wait_for_bucket(&self, most: Duration) {
        let deadline = Instant::now() + most;
        // Looked at before the first pause: it may be made in that.
        let mut was_away = self.read().await.is_err();
        while Instant::now() < deadline {
            let look = LOOK.mul_f64(0.5 + fastrand::f64() / 2.0);
            sleep(look.min(deadline.saturating_duration_since(Instant::now()))).await;
            match self.read().await {
                Ok(_) if was_away => return,
                Ok(_) => {}
                Err(_) => was_away = true,
            }
        }
    }

    /// Opens a watch and tells its news until something is wrong with it.
    async fn follow(&self, reopen: &mut Backoff) -> Ended {
        let (mut inbound, pending) = match timeout(2 * REQUEST_TIMEOUT, self.open()).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Ended::NotOpened(error),
            Err(late) => return Ended::NotOpened(late.into()),
        };
        self.tell(News::Opened);
        if pending == 0 {
            self.tell(News::Current);
        }
        let mut is_current = pending == 0;
        let mut delivered = 0;
        let (opened, mut is_settled) = (Instant::now(), false);
        let mut silent_at = opened + SILENCE;
        loop {
            tokio::select! {
                message = inbound.next() => {
                    let Some(message) = message else { return Ended::Gap };
                    silent_at = Instant::now() + SILENCE;
                    match read(message, &self.keys) {
                        Delivery::Value { number, pending, news } => {
                            if number != delivered + 1 {
                                return Ended::Gap;
                            }
                            delivered = number;
                            // It works: the next trouble is a new one.
                            reopen.reset();
                            if let Some(news) = news {
                                self.tell(news);
                            }
                            if pending == 0 && !is_current {
                                is_current = true;
                                self.tell(News::Current);
                            }
                        }
                        Delivery::Idle { last } if last.is_some_and(|last| last != delivered) => return Ended::Gap,
                        Delivery::Idle { .. } => reopen.reset(),
                        Delivery::FlowControl { reply } => {
                            let _ = self.nats.publish(reply, Bytes::new()).await;
                        }
                        Delivery::Other => {}
                    }
                }
                () = sleep_until(silent_at) => return Ended::Silent,
                () = sleep_until(opened + SETTLED), if is_current && !is_settled => {
                    is_settled = true;
                    self.tell(News::Settled);
                }
                () = self.doubt.notified() => {
                    match self.read().await {
                        Ok(Some(news)) => if self.tell(news) { return Ended::Stalled },
                        Ok(None) => {}
                        Err(error) => return Ended::NotOpened(error),
                    }
                }
            }
        }
    }

    /// Opens a watch; tells how many values it begins with.
    async fn open(&self) -> Result<(Subscriber, u64), Box<dyn std::error::Error + Send + Sync>> {
        let inbox = self.nats.new_inbox();
        let name = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
        let inbound = self.nats.subscribe(inbox.clone()).await?;
        let consumer = push::Config {
            name: Some(name),
            description: Some("central-hub client".into()),
            deliver_subject: inbox,
            filter_subject: self.keys.subject(),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            flow_control: true,
            idle_heartbeat: IDLE_HEARTBEAT,
            inactive_threshold: CONSUMER_LINGERS,
            num_replicas: 1,
            memory_storage: true,
            ..push::Config::default()
        };
        let made = self.jetstream.create_consumer_on_stream(consumer, self.keys.stream()).await?;
        Ok((inbound, made.cached_info().num_pending))
    }

    /// Reads a key past the watch: its value, or that it was removed; `None` when there is no such key.
    async fn read(&self) -> Result<Option<News>, Box<dyn std::error::Error + Send + Sync>> {
        let key = self.keys.readable();
        let subject = format!("$JS.API.DIRECT.GET.{}.{}{key}", self.keys.stream(), self.keys.prefix());
        // With an inbox of its own: the client library never forgets a request that got no answer.
        let request = async_nats::Request::new().inbox(self.nats.new_inbox()).timeout(None);
        let message = timeout(REQUEST_TIMEOUT, self.nats.send_request(subject, request)).await??;
        match message.status {
            None => Ok(Some(news_of(key.to_owned(), message.headers.as_ref(), message.payload))),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(format!("{status} {}", message.description.unwrap_or_default()).into()),
        }
    }
}

/// A message of a watch.
enum Delivery {
    /// Of a key.
    Value {
        /// Which message of this watch it is, from 1.
        number: u64,
        /// How many more are waiting.
        pending: u64,
        /// What it tells; `None` when it is of no key.
        news: Option<News>,
    },
    /// Nothing happens; `last` is the number of the last message that was sent.
    Idle { last: Option<u64> },
    /// The server waits for a word before it sends more.
    FlowControl { reply: async_nats::Subject },
    /// Something from the future.
    Other,
}

fn read(message: Message, keys: &Keys) -> Delivery {
    let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name));
    match (message.status, &message.reply) {
        (Some(StatusCode::IDLE_HEARTBEAT), Some(reply)) => Delivery::FlowControl { reply: reply.clone() },
        (Some(StatusCode::IDLE_HEARTBEAT), None) => match header("Nats-Consumer-Stalled") {
            Some(stalled) => Delivery::FlowControl { reply: stalled.as_str().into() },
            None => Delivery::Idle { last: header("Nats-Last-Consumer").and_then(|last| last.as_str().parse().ok()) },
        },
        (Some(_), _) => Delivery::Other,
        (None, reply) => {
            let Some((number, pending)) = reply.as_deref().and_then(numbers) else { return Delivery::Other };
            let key = message.subject.strip_prefix(&keys.prefix()).map(str::to_owned);
            let news = key.map(|key| news_of(key, message.headers.as_ref(), message.payload));
            Delivery::Value { number, pending, news }
        }
    }
}

/// What the reply subject of a delivered message tells (ADR-15): which message of its consumer it is, and how many wait.
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`, or with domain and
/// account hash before the stream, and perhaps more at the end.
fn numbers(reply: &str) -> Option<(u64, u64)> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let at = if tokens.len() >= 9 { 2 } else { 0 };
    Some((tokens.get(at + 4)?.parse().ok()?, tokens.get(at + 6)?.parse().ok()?))
}

/// A value, or the marker that stands in the place of one that was removed.
fn news_of(key: String, headers: Option<&HeaderMap>, value: Bytes) -> News {
    let has = |name: &str| headers.is_some_and(|headers| headers.get(name).is_some());
    if has("KV-Operation") || has("Nats-Marker-Reason") { News::Removed { key } } else { News::Put { key, value } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_both_forms_of_a_reply() {
        assert_eq!(numbers("$JS.ACK.KV_hub_config.name.1.4711.3.1700000000000000000.2"), Some((3, 2)));
        assert_eq!(numbers("$JS.ACK._.hash.KV_hub_config.name.1.4711.3.1700000000000000000.2"), Some((3, 2)));
        assert_eq!(numbers("$JS.ACK._.hash.KV_hub_config.name.1.4711.3.1700000000000000000.2.token"), Some((3, 2)));
        for reply in ["", "_INBOX.a", "$JS.ACK.a.b.c", "$JS.ACK.s.c.1.x.y.z.w"] {
            assert_eq!(numbers(reply), None, "{reply}");
        }
    }
}
