//! Brings together what may tell of a config: the watch of its key, the hub's answers to heartbeats, and, when KV can't
//! be read, the hub itself.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::HubClient;
use super::backoff::Backoff;
use super::entry::{Entry, Offer};
use super::follower::{Follower, Saved};
use super::watch::{Fold, KeyWatch, News};
use crate::domain::config::Position;
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::ErrorCode;
use crate::wire::config::ConfigGet;

/// How long a push may take to arrive after an answer to a heartbeat told of it.
const PUSH_PATIENCE: Duration = Duration::from_millis(500);

/// How often a watch may be doubted. Under a change freeze the hub knows something newer for as long as that lasts.
const DOUBT_PAUSE: Duration = Duration::from_secs(5);

/// Pauses between questions to the hub itself, while KV can't be read.
const ASK: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// How far a start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The last-good file and the safe defaults are being looked at.
    Beginning,
    /// What there is without the hub is in force.
    Begun,
    /// What the hub says is in force, or was refused; or the hub said that it has nothing.
    Settled,
}

/// Whether the key is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// Not yet.
    Opening,
    /// It is, and what KV holds of it was told.
    Complete,
    /// Not at the moment.
    Lost,
}

/// What KV tells of a service's config.
#[derive(Debug)]
pub(super) struct ConfigKey {
    service: ServiceName,
    sight: Sight,
    newest: Option<Arc<Entry>>,
}

impl ConfigKey {
    pub(super) fn new(service: ServiceName) -> Self {
        Self { service, sight: Sight::Opening, newest: None }
    }
}

impl ConfigKey {
    /// The newest entry that was told.
    #[cfg(test)]
    pub(super) fn newest(&self) -> Option<&Arc<Entry>> {
        self.newest.as_ref()
    }
}

impl Fold for ConfigKey {
    fn take(&mut self, news: News) -> bool {
        match news {
            News::Put { value, .. } => {
                let Some(entry) = Entry::read(&value, &self.service) else {
                    let service = self.service.as_str();
                    tracing::warn!(service, "a value in KV can't be read as a config; it is ignored");
                    return false;
                };
                // A bucket that came back from an older copy may tell old things before the hub has put it right.
                let held = self.newest.as_ref();
                if held.is_some_and(|held| held.position() > entry.position() || **held == entry) {
                    return false;
                }
                self.newest = Some(Arc::new(entry));
                true
            }
            News::Current => std::mem::replace(&mut self.sight, Sight::Complete) != Sight::Complete,
            News::Lost => std::mem::replace(&mut self.sight, Sight::Lost) != Sight::Lost,
            // A key that is missing or removed never erases a config.
            News::Removed { .. } | News::Opened | News::Settled => false,
        }
    }
}

/// Follows a config until it is dropped.
pub(super) struct Follow<T> {
    hub: HubClient,
    follower: Follower<T>,
    watch: Arc<KeyWatch<ConfigKey>>,
    kv: watch::Receiver<ConfigKey>,
    should: watch::Receiver<Option<Position>>,
    me: watch::Receiver<Option<InstanceId>>,
    stage: watch::Sender<Stage>,
    has_begun: bool,
    saving: Option<oneshot::Receiver<Saved>>,
    ask: Backoff,
    /// When to ask the hub itself.
    ask_at: Option<Instant>,
    /// When to doubt the watch.
    doubt_at: Option<Instant>,
    last_doubt: Option<Instant>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Follow<T> {
    pub(super) fn new(
        hub: HubClient,
        follower: Follower<T>,
        should: watch::Receiver<Option<Position>>,
        me: watch::Receiver<Option<InstanceId>>,
    ) -> (Self, watch::Receiver<Stage>) {
        let watch = hub.watch_config(&follower.service);
        let (stage, is_at) = watch::channel(Stage::Beginning);
        let kv = watch.state();
        let follow = Self {
            hub,
            follower,
            watch,
            kv,
            should,
            me,
            stage,
            has_begun: false,
            saving: None,
            ask: ASK,
            ask_at: None,
            doubt_at: None,
            last_doubt: None,
        };
        (follow, is_at)
    }

    pub(super) async fn run(&mut self) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.follower.begin().await;
            self.stage.send_replace(Stage::Begun);
        }
        loop {
            self.look_at_kv().await;
            tokio::select! {
                changed = self.kv.changed() => if changed.is_err() { return },
                changed = self.me.changed() => if changed.is_err() { return },
                changed = self.should.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if self.lags() {
                        let earliest = self.last_doubt.map_or(Instant::now(), |last| last + DOUBT_PAUSE);
                        let patience = PUSH_PATIENCE.mul_f64(1.0 + fastrand::f64());
                        self.doubt_at.get_or_insert(earliest.max(Instant::now() + patience));
                    }
                }
                () = at(self.doubt_at) => {
                    self.doubt_at = None;
                    if self.lags() {
                        self.last_doubt = Some(Instant::now());
                        match self.ask_at {
                            // There is no watch to doubt.
                            Some(_) => self.ask_at = self.last_doubt,
                            None => self.watch.doubt(),
                        }
                    }
                }
                saved = finished(&mut self.saving) => {
                    self.saving = None;
                    if saved.is_none_or(|saved| self.follower.saved(saved)) {
                        self.saving = self.follower.save();
                    }
                }
                () = at(self.ask_at) => {
                    self.ask_at = Some(Instant::now() + self.ask.pause());
                    self.ask_hub().await;
                }
            }
        }
    }

    /// Whether the hub has said that something newer should be in force than was seen.
    fn lags(&self) -> bool {
        *self.should.borrow() > self.follower.newest()
    }

    async fn look_at_kv(&mut self) {
        let (sight, newest) = {
            let kv = self.kv.borrow_and_update();
            (kv.sight, kv.newest.clone())
        };
        if let Some(entry) = newest {
            self.take(&entry).await;
        }
        match sight {
            Sight::Opening => {}
            Sight::Complete => {
                self.stage.send_replace(Stage::Settled);
                (self.ask, self.ask_at) = (ASK, None);
            }
            Sight::Lost => {
                let pause = &mut self.ask;
                self.ask_at.get_or_insert_with(|| Instant::now() + pause.pause());
            }
        }
    }

    async fn take(&mut self, entry: &Entry) {
        let me = self.me.borrow_and_update().clone();
        self.follower.see(entry, me.as_ref()).await;
        self.stage.send_replace(Stage::Settled);
        if self.saving.is_none() {
            self.saving = self.follower.save();
        }
    }

    /// Asks the hub itself. Only while KV can't be read: what the hub answers may be what a change freeze holds back.
    async fn ask_hub(&mut self) {
        let question = ConfigGet { service_name: self.follower.service.clone(), version: None, min_revision: None };
        let answer = tokio::select! {
            answer = self.hub.call_within(self.hub.timeout, &question) => answer,
            // KV is back, or told something: that comes first.
            _ = self.kv.changed() => return,
        };
        match answer {
            Ok(answer) => {
                let Ok(config) = serde_json::from_str::<Map<String, Value>>(answer.config.get()) else { return };
                let position = Position { epoch: answer.epoch, revision: answer.revision };
                let (version, checksum) = (Some(answer.version), Some(answer.checksum));
                let offer = Offer { position, version, checksum, config: Some(config), is_canary: false };
                self.take(&Entry::plain(offer)).await;
            }
            Err(error) if error.code() == Some(ErrorCode::NotFound) => {
                self.stage.send_replace(Stage::Settled);
            }
            Err(error) => {
                let service = self.follower.service.as_str();
                tracing::debug!(service, cause = %error, "neither KV nor the hub tells the config");
            }
        }
    }
}

/// Returns at that moment; never, when there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Returns when that has finished, `None` if it was given up; never, when there is nothing to wait for.
async fn finished<T>(work: &mut Option<oneshot::Receiver<T>>) -> Option<T> {
    match work {
        Some(work) => work.await.ok(),
        None => std::future::pending().await,
    }
}
