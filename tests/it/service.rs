//! A service as the tests of the Rust client write it: its settings, and what it saw of them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use central_hub::client::{ClientOptions, ConfigBuilder, ConfigClient, HubClient, InForce};
use central_hub::domain::config::Position;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::stack::{HubOptions, eventually};

/// The service of these tests.
pub const SERVICE: &str = "tick";

/// How soon after a recovery the newest config is in force, as promised.
pub const NEWEST: Duration = Duration::from_secs(2);

/// Its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub number: i64,
    #[serde(default)]
    pub name: String,
}

/// Its safe defaults.
pub fn defaults() -> Settings {
    Settings { number: 0, name: "default".into() }
}

/// A client of the hub with these options.
pub async fn client(options: &HubOptions) -> HubClient {
    client_at(&options.nats_url, &options.prefix).await
}

pub async fn client_at(url: &str, prefix: &str) -> HubClient {
    let options =
        ClientOptions { subject_prefix: prefix.into(), bucket_prefix: prefix.into(), ..ClientOptions::new(url) };
    HubClient::connect(options).await.unwrap()
}

/// The service's config, not started yet, with a last-good file in `folder`.
pub fn config(hub: &HubClient, folder: &Path) -> ConfigBuilder<Settings> {
    hub.config(SERVICE.parse().unwrap()).safe_defaults(defaults()).cache_dir(folder)
}

/// Waits until this number is in force.
#[track_caller]
pub fn number_is(
    config: &ConfigClient<Settings>,
    number: i64,
    deadline: Duration,
) -> impl Future<Output = InForce<Settings>> {
    let config = config.clone();
    eventually(deadline, move || {
        let now = config.get();
        async move { if now.number == number { Ok(now) } else { Err(format!("{} of {now:?}", now.number)) } }
    })
}

/// What was in force at a time: its position, its number.
type Sight = (Option<Position>, i64);

/// What a service saw of its config, and whether it ever went back.
pub struct Observer {
    seen: Arc<Mutex<Vec<Sight>>>,
    task: JoinHandle<()>,
}

impl Observer {
    pub fn of(config: &ConfigClient<Settings>) -> Observer {
        let seen: Arc<Mutex<Vec<Sight>>> = Arc::default();
        let (sink, mut config) = (Arc::clone(&seen), config.clone());
        let task = tokio::spawn(async move {
            let mut now = config.get();
            loop {
                sink.lock().unwrap().push((now.position, now.number));
                now = config.changed().await;
            }
        });
        Observer { seen, task }
    }

    /// The numbers that it saw, in order.
    pub fn numbers(&self) -> Vec<i64> {
        self.seen.lock().unwrap().iter().map(|(_, number)| *number).collect()
    }

    /// Panics if what was in force ever went back, or was lost once it was there.
    pub fn never_went_back(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
