//! What services and tools link to talk to a hub.
//!
//! A service needs three things of it, and each survives whatever happens to the hub, to NATS and to the network between:
//!
//! - its [config](HubClient::config): always there, always the newest good one, swapped in one step;
//! - its [registration](HubClient::register), with heartbeats for as long as it lives;
//! - the [others](HubClient::watch_services), where they are and how they are.
//!
//! ```no_run
//! use central_hub::client::{ClientOptions, HubClient};
//! use central_hub::domain::status::Status;
//! use central_hub::wire::registry::Register;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Settings {
//!     interval_seconds: f64,
//!     symbols: Vec<String>,
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // CENTRAL_HUB_NATS_URL and so on. It returns at once, whether or not NATS is there.
//! let hub = HubClient::connect(ClientOptions::from_env()?).await?;
//!
//! // The hub's config, else the last-good file, else these defaults, which also fill in what the hub's config lacks.
//! let mut config = hub
//!     .config::<Settings>("tick-aggregator".parse()?)
//!     .safe_defaults(Settings { interval_seconds: 60.0, symbols: vec!["EURUSD".into()] })
//!     .validate(|settings: &Settings| match settings.interval_seconds {
//!         seconds if seconds > 0.0 => Ok(()),
//!         _ => Err("interval_seconds: must be positive"),
//!     })
//!     .start()
//!     .await?;
//!
//! // Tries until a hub answers; then beats until it is dropped.
//! let me = Register {
//!     host: Some("10.0.0.5".into()),
//!     port: Some(8002),
//!     ..Register::new("tick-aggregator".parse()?)
//! };
//! let me = hub.register(me).await?;
//! me.report_config(&config);
//!
//! loop {
//!     let pause = std::time::Duration::from_secs_f64(config.get().interval_seconds);
//!     tokio::select! {
//!         () = tokio::time::sleep(pause) => me.set_status(Status::Healthy),
//!         now = config.changed() => println!("version {:?} from the {}", now.version, now.source),
//!         _ = tokio::signal::ctrl_c() => break,
//!     }
//! }
//! me.deregister().await?;
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::domain::name::ServiceName;
use crate::wire::bucket::Bucket;

mod backoff;
mod cache;
mod call;
#[cfg(test)]
mod cases;
mod check;
mod config;
mod connect;
mod discovery;
mod entry;
mod follow;
mod follower;
mod heartbeat;
mod layers;
mod link;
mod order;
mod registration;
mod task;
mod watch;

pub use call::CallError;
pub use config::{ConfigBuilder, ConfigClient, ConfigError, InForce, Source};
pub use connect::ClientOptions;
pub use discovery::ServicesView;
pub use registration::Registration;

use discovery::Services;
use follow::ConfigKey;
use link::Link;
use watch::{Fold, KeyWatch, Keys};

/// How long a call waits for its answer unless it is told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A hub, as its clients see it. Clones share the connection and the watches.
#[derive(Clone)]
pub struct HubClient {
    nats: async_nats::Client,
    prefix: String,
    bucket_prefix: String,
    timeout: Duration,
    shared: Arc<Shared>,
}

/// What all clones of a client share.
#[derive(Default)]
struct Shared {
    link: OnceLock<Arc<Link>>,
    configs: Watches<ConfigKey>,
    services: Watches<Services>,
}

impl fmt::Debug for HubClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("HubClient");
        shown.field("prefix", &self.prefix).field("bucket_prefix", &self.bucket_prefix).finish_non_exhaustive()
    }
}

impl HubClient {
    /// Calls over `nats` to the hub whose subjects, and buckets, begin with `hub`. How it reconnects is up to whoever made
    /// it; [`HubClient::connect`] makes one that suits.
    #[must_use]
    pub fn new(nats: async_nats::Client) -> Self {
        Self { nats, prefix: "hub".into(), bucket_prefix: "hub".into(), timeout: TIMEOUT, shared: Arc::default() }
    }

    /// Calls the hub with another subject prefix.
    #[must_use]
    pub fn with_prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Watches buckets with another prefix.
    #[must_use]
    pub fn with_bucket_prefix(self, prefix: impl Into<String>) -> Self {
        Self { bucket_prefix: prefix.into(), ..self }
    }

    /// Waits this long for an answer.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The connection.
    #[must_use]
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    fn link(&self) -> Arc<Link> {
        Arc::clone(self.shared.link.get_or_init(|| Arc::new(Link::of(&self.nats))))
    }

    /// The watch of a service's config: one for all who follow it. (One for all services would need the right to read
    /// them all.)
    fn watch_config(&self, service: &ServiceName) -> Arc<KeyWatch<ConfigKey>> {
        let keys = Keys { bucket: Bucket::Config.name(&self.bucket_prefix), filter: service.to_string() };
        self.shared.configs.get(self, keys, || ConfigKey::new(service.clone()), |_| {})
    }

    /// The watch of all instances: one for all who look.
    fn watch_instances(&self) -> Arc<KeyWatch<Services>> {
        let keys = Keys { bucket: Bucket::Services.name(&self.bucket_prefix), filter: ">".into() };
        self.shared.services.get(self, keys, Services::default, |watch| discovery::confirm(self, watch))
    }
}

/// Watches in use, by what they watch.
struct Watches<S>(Mutex<HashMap<Keys, Weak<KeyWatch<S>>>>);

impl<S> Default for Watches<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Fold> Watches<S> {
    /// The watch of `keys`, started if nobody has it.
    fn get(
        &self,
        hub: &HubClient,
        keys: Keys,
        state: impl FnOnce() -> S,
        prepare: impl FnOnce(&mut KeyWatch<S>),
    ) -> Arc<KeyWatch<S>> {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watches.get(&keys).and_then(Weak::upgrade) {
            return watch;
        }
        watches.retain(|_, watch| watch.strong_count() > 0);
        let mut watch = KeyWatch::start(&hub.nats, hub.link(), keys.clone(), state());
        prepare(&mut watch);
        let watch = Arc::new(watch);
        watches.insert(keys, Arc::downgrade(&watch));
        watch
    }
}
