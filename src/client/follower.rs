//! Follows the config of one service: weighs what comes, checks it, and puts it in force.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::cache::CacheFile;
use super::check::{self, Hook};
use super::config::{InForce, Source};
use super::entry::{Entry, Offer};
use super::layers::{Environment, Secrets, Unresolved, fill_in};
use super::order::{Seen, Verdict};
use super::task::on_a_thread;
use crate::domain::config::Position;
use crate::domain::name::{InstanceId, ServiceName};

/// How long a check may take before the hub is told that it takes long.
const LONG_CHECK: Duration = Duration::from_secs(5);

/// How long the start waits for the last-good file.
const LONG_READ: Duration = Duration::from_secs(2);

/// Characters of an error that the hub is told; it takes 1,000.
const ERROR_CHARS: usize = 900;

/// What an instance's heartbeats say of its config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The revision in force.
    pub(super) revision: Option<i64>,
    /// The version in force.
    pub(super) version: Option<i64>,
    /// Why a newer config isn't.
    pub(super) error: Option<String>,
}

/// What became of something that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in force.
    Taken,
    /// It was in force already, and the hub says so.
    Confirmed,
    /// It is older than something that was seen.
    Older,
    /// It can't be in force; what was stays.
    Refused,
    /// It was refused before and isn't looked at again.
    AlreadyRefused,
}

/// What is known of one service's config, and who hears of it.
pub(super) struct Follower<T> {
    pub(super) service: ServiceName,
    pub(super) defaults: Map<String, Value>,
    pub(super) environment: Environment,
    pub(super) hook: Option<Hook<T>>,
    pub(super) cache: Option<CacheFile>,
    /// What is in force, for the application.
    pub(super) in_force: watch::Sender<Option<InForce<T>>>,
    /// The same for the hub.
    pub(super) report: watch::Sender<Report>,
    seen: Seen,
    /// What is in force, as JSON.
    content: Option<Map<String, Value>>,
    /// What the last-good file should hold.
    unsaved: Option<Offer>,
    /// Whether the last-good file couldn't be written, and that was said.
    is_unwritable: bool,
}

impl<T> std::fmt::Debug for Follower<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("service", &self.service).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Follower<T> {
    pub(super) fn new(service: ServiceName, defaults: Map<String, Value>, environment: Environment) -> Self {
        Self {
            service,
            defaults,
            environment,
            hook: None,
            cache: None,
            in_force: watch::Sender::new(None),
            report: watch::Sender::new(Report::default()),
            seen: Seen::default(),
            content: None,
            unsaved: None,
            is_unwritable: false,
        }
    }

    /// The newest position that was seen, whether or not it is in force.
    pub(super) fn newest(&self) -> Option<Position> {
        self.seen.newest()
    }

    /// Puts in force what there is without the hub: the last-good file, else the safe defaults.
    pub(super) async fn begin(&mut self) {
        if let Some(offer) = self.load().await {
            match self.compose(&offer).await {
                Ok((value, content)) => {
                    let source = if offer.config.is_some() { Source::File } else { Source::Defaults };
                    return self.put_in_force(&offer, source, value, content);
                }
                Err(error) => self.warn(offer.version, &error, "the last-good file can't be used"),
            }
        }
        match self.checked(self.defaults.clone(), &Secrets::default()).await {
            Ok(value) => {
                let value = Arc::new(value);
                self.content = Some(self.defaults.clone());
                self.report.send_replace(Report::default());
                self.in_force.send_replace(Some(InForce {
                    value,
                    source: Source::Defaults,
                    version: None,
                    position: None,
                    is_canary: false,
                }));
            }
            Err(error) => {
                tracing::debug!(service = self.service.as_str(), error, "the safe defaults alone can't be in force");
                self.report.send_modify(|report| report.error = Some(error));
            }
        }
    }

    /// Weighs what the hub says, as `instance`.
    pub(super) async fn see(&mut self, entry: &Entry, instance: Option<&InstanceId>) -> Outcome {
        let offer = entry.offer(instance);
        match self.seen.weigh(offer.position) {
            Verdict::Older => Outcome::Older,
            Verdict::AlreadyRefused => Outcome::AlreadyRefused,
            Verdict::Confirm => {
                self.confirm(offer);
                Outcome::Confirmed
            }
            Verdict::Check => match self.compose(offer).await {
                Ok((value, content)) => {
                    let source = if offer.config.is_some() { Source::Hub } else { Source::Defaults };
                    self.put_in_force(offer, source, value, content);
                    self.unsaved = Some(offer.clone()).filter(|offer| !offer.is_canary);
                    Outcome::Taken
                }
                Err(error) => {
                    self.warn(offer.version, &error, "a config was refused; the last good one stays");
                    self.seen.refuse(offer.position);
                    self.report.send_modify(|report| report.error = Some(error));
                    Outcome::Refused
                }
            },
        }
    }

    fn warn(&self, version: Option<i64>, error: &str, what: &'static str) {
        tracing::warn!(service = self.service.as_str(), version, error, "{what}");
    }

    /// The hub says that what is in force is right.
    fn confirm(&mut self, offer: &Offer) {
        self.in_force.send_if_modified(|in_force| {
            if let Some(held) = in_force {
                // It was on trial, and is now for all.
                if held.is_canary && !offer.is_canary {
                    self.unsaved = Some(offer.clone());
                }
                held.is_canary = offer.is_canary;
                if held.source == Source::File {
                    held.source = Source::Hub;
                }
            }
            // The application's config is what it was.
            false
        });
    }

    fn put_in_force(&mut self, offer: &Offer, source: Source, value: T, content: Map<String, Value>) {
        let Offer { position, version, is_canary, .. } = *offer;
        tracing::info!(
            service = self.service.as_str(),
            source = source.as_str(),
            version,
            revision = position.revision,
            epoch = position.epoch,
            is_canary,
            "config in force"
        );
        self.seen.take(position);
        let is_new = self.content.as_ref() != Some(&content);
        self.content = Some(content);
        self.in_force.send_if_modified(|in_force| {
            *in_force = Some(InForce { value: Arc::new(value), source, version, position: Some(position), is_canary });
            is_new
        });
        self.report.send_replace(Report { revision: Some(position.revision), version, error: None });
    }

    /// What `offer` makes of the layers, checked, and as JSON; or why it can't be in force, without values from the
    /// environment.
    async fn compose(&self, offer: &Offer) -> Result<(T, Map<String, Value>), String> {
        let (mut config, secrets) = match &offer.config {
            None => (Map::new(), Secrets::default()),
            Some(config) => {
                let mut config = config.clone();
                let secrets = self.environment.resolve(&mut config).map_err(|unresolved| list(&unresolved))?;
                (config, secrets)
            }
        };
        fill_in(&mut config, &self.defaults);
        Ok((self.checked(config.clone(), &secrets).await?, config))
    }

    async fn checked(&self, config: Map<String, Value>, secrets: &Secrets) -> Result<T, String> {
        let mut check = check::start(config, self.hook.clone());
        let checked = match timeout(LONG_CHECK, &mut check).await {
            Ok(checked) => checked,
            Err(_) => {
                let text = format!("the application's check of a config has taken over {LONG_CHECK:?}");
                self.warn(None, &text, "until it ends nothing changes");
                self.report.send_modify(|report| report.error = Some(text));
                check.await
            }
        };
        let checked = checked.unwrap_or_else(|_| Err("the config can't be checked: no thread could be started".into()));
        checked.map_err(|error| secrets.redact(&error).chars().take(ERROR_CHARS).collect())
    }

    async fn load(&self) -> Option<Offer> {
        let cache = self.cache.clone()?;
        let (service, path) = (self.service.as_str(), cache.path());
        let path = path.display();
        match timeout(LONG_READ, on_a_thread("config-file", move || cache.read())).await {
            Ok(Ok(Ok(found))) => return found,
            Ok(Ok(Err(error))) => tracing::warn!(service, %path, cause = %error, "the last-good file is ignored"),
            Ok(Err(_)) | Err(_) => tracing::warn!(service, %path, "the last-good file can't be read in time"),
        }
        None
    }

    /// Begins to write what is in force into the last-good file, unless it is there. (What is on trial never is: other
    /// instances may share the file.) A disk that hangs holds up nothing but this.
    pub(super) fn save(&mut self) -> Option<oneshot::Receiver<Saved>> {
        let (cache, offer) = (self.cache.clone()?, self.unsaved.take()?);
        Some(on_a_thread("config-file", move || {
            let result = cache.write(&offer, OffsetDateTime::now_utc());
            Saved { offer, result }
        }))
    }

    /// Hears how that went; tells whether it went well. Otherwise it is tried again with the next config.
    pub(super) fn saved(&mut self, saved: Saved) -> bool {
        let Saved { offer, result } = saved;
        let Err(error) = result else {
            self.is_unwritable = false;
            return true;
        };
        if !std::mem::replace(&mut self.is_unwritable, true) {
            let (service, path) = (self.service.as_str(), self.cache.as_ref().map(CacheFile::path).unwrap_or_default());
            tracing::warn!(service, path = %path.display(), cause = %error, "the last-good file can't be written");
        }
        self.unsaved.get_or_insert(offer);
        false
    }
}

/// How writing the last-good file went.
pub(super) struct Saved {
    offer: Offer,
    result: io::Result<()>,
}

fn list(unresolved: &[Unresolved]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = unresolved.iter().take(SHOWN).map(Unresolved::to_string).collect();
    let more = unresolved.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    (shown.join("; ") + &more).chars().take(ERROR_CHARS).collect()
}
