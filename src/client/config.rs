//! The config of a service, as the application holds it: always there, always the newest good one, swapped in one step.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::HubClient;
use super::cache::{self, CacheFile};
use super::check::Hook;
use super::follow::{Follow, Stage};
use super::follower::{Follower, Report};
use super::layers::Environment;
use super::task::Task;
use crate::domain::config::Position;
use crate::domain::name::{InstanceId, ServiceName};

/// How long [`ConfigBuilder::start`] waits for the hub unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the start waits for the last-good file to be read and checked: far longer than that takes, unless the disk or
/// the application's check hangs.
const LOCAL_PATIENCE: Duration = Duration::from_secs(10);

/// Which layer a config comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The hub.
    Hub,
    /// The last-good file, because the hub hasn't been heard yet.
    File,
    /// The safe defaults: nothing else is there, or the hub says that nothing is in force.
    Defaults,
}

impl Source {
    /// The layer in a word: `hub`, `file` or `defaults`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::File => "file",
            Self::Defaults => "defaults",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A config in force, and where it comes from. It stands for the config itself: `config.get().interval`.
pub struct InForce<T> {
    pub(super) value: Arc<T>,
    /// Which layer it comes from.
    pub source: Source,
    /// Its version; `None` for the safe defaults.
    pub version: Option<i64>,
    /// What it is ordered by; `None` for the safe defaults, unless the hub said that nothing is in force.
    pub position: Option<Position>,
    /// Whether it is on trial here, by a rollout, and not in force everywhere.
    pub is_canary: bool,
}

impl<T> InForce<T> {
    /// The config, to keep.
    #[must_use]
    pub fn value(&self) -> Arc<T> {
        Arc::clone(&self.value)
    }
}

impl<T> Deref for InForce<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Clone for InForce<T> {
    fn clone(&self) -> Self {
        let Self { value, source, version, position, is_canary } = self;
        Self {
            value: Arc::clone(value),
            source: *source,
            version: *version,
            position: *position,
            is_canary: *is_canary,
        }
    }
}

/// Never shows the config: it may hold what references stand for.
impl<T> fmt::Debug for InForce<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("InForce");
        shown.field("source", &self.source).field("version", &self.version).field("position", &self.position);
        shown.field("is_canary", &self.is_canary).finish_non_exhaustive()
    }
}

/// There is no config to begin with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The safe defaults aren't a JSON object.
    #[error("the safe defaults must be a JSON object: {0}")]
    Defaults(String),
    /// The hub gave none in time, there is no last-good file that fits, and the safe defaults alone don't.
    #[error(
        "no config for {service}: nothing of the hub within {patience:?}, no last-good file, and the safe defaults alone can't be in force: {cause}"
    )]
    Nothing {
        /// The service.
        service: ServiceName,
        /// How long the start waited.
        patience: Duration,
        /// What is wrong with the safe defaults, or with what the hub gave.
        cause: String,
    },
}

/// Where the last-good file lies.
#[derive(Clone, Debug)]
enum Folder {
    /// Where the environment says.
    Default,
    /// There.
    At(PathBuf),
    /// Nowhere.
    None,
}

/// How to follow a config; see [`HubClient::config`].
#[must_use = "nothing is followed until it is started"]
pub struct ConfigBuilder<T> {
    hub: HubClient,
    service: ServiceName,
    defaults: Result<Map<String, Value>, String>,
    folder: Folder,
    allow: Option<Vec<String>>,
    hook: Option<Hook<T>>,
    patience: Duration,
}

impl<T> fmt::Debug for ConfigBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigBuilder").field("service", &self.service).finish_non_exhaustive()
    }
}

impl HubClient {
    /// Follows the config of `service`, as a `T` of the application's or as `serde_json::Map<String, Value>`.
    pub fn config<T>(&self, service: ServiceName) -> ConfigBuilder<T>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        ConfigBuilder {
            hub: self.clone(),
            service,
            defaults: Ok(Map::new()),
            folder: Folder::Default,
            allow: None,
            hook: None,
            patience: PATIENCE,
        }
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> ConfigBuilder<T> {
    /// What is in force when there is nothing else, and what fills in the keys that a config lacks: anything that
    /// serializes to a JSON object, such as `Settings::default()`. References in it aren't resolved.
    pub fn safe_defaults(mut self, defaults: impl Serialize) -> Self {
        self.defaults = match serde_json::to_value(defaults) {
            Ok(Value::Object(defaults)) => Ok(defaults),
            Ok(_) => Err("it is something else".into()),
            Err(error) => Err(error.to_string()),
        };
        self
    }

    /// Keeps the last-good file in this folder. Left out, it is `CENTRAL_HUB_CACHE_DIR`, else `central-hub` in the user's
    /// cache folder. Processes may share it.
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Folder::At(folder.into());
        self
    }

    /// Keeps no last-good file.
    pub fn without_cache(mut self) -> Self {
        self.folder = Folder::None;
        self
    }

    /// Limits the variables that `${env:…}` may name: each entry is a name, or the beginning of names before a final `*`.
    /// Left out, every name may be used by whoever may write the config.
    pub fn allow_env(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.allow = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Looks at each config before it is in force, the safe defaults alone and the last-good file included. What is
    /// refused never comes into force: the last good one stays, and heartbeats tell the hub why. It runs on a thread of
    /// its own, and while it runs nothing changes; what it says may quote values, those from the environment are removed.
    pub fn validate<E: fmt::Display>(mut self, check: impl Fn(&T) -> Result<(), E> + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(move |value| check(value).map_err(|error| error.to_string())));
        self
    }

    /// Waits no longer than this for the hub at the start, 5 s when left out.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Waits for the hub's config, a moment; without it begins with the last-good file, else with the safe defaults. From
    /// then on it follows what the hub says, over whatever happens to either of them, until the last clone of the client
    /// is dropped.
    ///
    /// # Errors
    /// [`ConfigError`], when not even the safe defaults can be in force.
    pub async fn start(self) -> Result<ConfigClient<T>, ConfigError> {
        let Self { hub, service, defaults, folder, allow, hook, patience } = self;
        let defaults = defaults.map_err(ConfigError::Defaults)?;
        let variable = |name: &str| std::env::var(name).ok();
        let folder = match folder {
            Folder::Default => cache::folder(None, variable),
            Folder::At(folder) => cache::folder(Some(&folder), variable),
            Folder::None => None,
        };
        let environment = Environment { allow, read: Arc::new(variable) };
        let mut follower = Follower::new(service.clone(), defaults, environment);
        follower.hook = hook;
        follower.cache = folder.map(|folder| CacheFile::new(folder, service.clone()));
        let (in_force, report) = (follower.in_force.subscribe(), follower.report.subscribe());
        let (should, me) = (watch::Sender::new(None), watch::Sender::new(None));
        let (follow, mut stage) = Follow::new(hub, follower, should.subscribe(), me.subscribe());
        // Behind a lock so that a supervised restart finds what was in force.
        let follow = Arc::new(tokio::sync::Mutex::new(follow));
        let task = Task::supervised("config", move || {
            let follow = Arc::clone(&follow);
            async move { follow.lock().await.run().await }
        });
        let hub_by = Instant::now() + patience;
        // However little patience there is for the hub: what is here must be looked at.
        let _ = timeout(LOCAL_PATIENCE, stage.wait_for(|stage| *stage >= Stage::Begun)).await;
        let _ = timeout_at(hub_by, stage.wait_for(|stage| *stage == Stage::Settled)).await;
        let mut in_force = in_force;
        let first = in_force.borrow_and_update().clone();
        let Some(first) = first else {
            let cause = report.borrow().error.clone().unwrap_or_else(|| "the application's check has not ended".into());
            return Err(ConfigError::Nothing { service, patience, cause });
        };
        let convergence = Convergence { report, should: Arc::new(should), me: Arc::new(me) };
        Ok(ConfigClient { first, in_force, shared: Arc::new(Shared { convergence, _task: task }) })
    }
}

/// What a registration and a config tell each other.
#[derive(Clone, Debug)]
pub(super) struct Convergence {
    /// What is in force, for heartbeats.
    pub(super) report: watch::Receiver<Report>,
    /// What should be, as answers to heartbeats say.
    pub(super) should: Arc<watch::Sender<Option<Position>>>,
    /// Which instance this is, for canaries.
    pub(super) me: Arc<watch::Sender<Option<InstanceId>>>,
}

#[derive(Debug)]
struct Shared {
    convergence: Convergence,
    _task: Task,
}

/// A config that is followed. Clones share it; each hears of [changes](ConfigClient::changed) for itself. When the last one
/// is dropped it is followed no more.
pub struct ConfigClient<T> {
    first: InForce<T>,
    in_force: watch::Receiver<Option<InForce<T>>>,
    shared: Arc<Shared>,
}

impl<T> Clone for ConfigClient<T> {
    fn clone(&self) -> Self {
        let Self { first, in_force, shared } = self;
        Self { first: first.clone(), in_force: in_force.clone(), shared: Arc::clone(shared) }
    }
}

impl<T> fmt::Debug for ConfigClient<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigClient").field("in_force", &self.get()).finish_non_exhaustive()
    }
}

impl<T> ConfigClient<T> {
    /// What is in force now. Cheap; take it anew wherever it is used, so that a change takes effect.
    #[must_use]
    pub fn get(&self) -> InForce<T> {
        self.in_force.borrow().clone().unwrap_or_else(|| self.first.clone())
    }

    /// Waits until something else is in force than this handle has told before, and gives it. Several changes in a row
    /// may show as one. A new revision with the same content is none.
    pub async fn changed(&mut self) -> InForce<T> {
        if self.in_force.changed().await.is_err() {
            // Only for the moment in which the task that follows is started anew after a defect.
            std::future::pending::<()>().await;
        }
        self.get()
    }

    /// Why something newer than what is in force isn't; heartbeats tell the hub.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.shared.convergence.report.borrow().error.clone()
    }

    pub(super) fn convergence(&self) -> Convergence {
        self.shared.convergence.clone()
    }
}
