//! The hub's own settings, hot-reloaded like any other config.

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::memory::Memory;
use crate::domain::heartbeat::Applied;
use crate::domain::settings::Settings;
use crate::store::config::Active;

/// Follows the config of the service `central-hub` and puts it in force.
pub struct SettingsKeeper {
    own: watch::Receiver<Option<Active>>,
    /// What holds while there is no such config.
    defaults: Settings,
    settings: watch::Sender<Settings>,
    /// What this replica says of its own config in its heartbeats.
    applied: watch::Sender<Applied>,
}

impl SettingsKeeper {
    /// Follows what `memory` learns.
    #[must_use]
    pub fn new(memory: &Memory, defaults: Settings, settings: watch::Sender<Settings>) -> Self {
        Self { own: memory.own_config(), defaults, settings, applied: watch::Sender::default() }
    }

    /// Which config this replica runs.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Puts what is known now in force. A config that the built-in schema refuses, which only a write by hand can leave,
    /// changes nothing.
    pub fn load(&self) {
        let active = self.own.borrow();
        let config = active.as_ref().and_then(|active| active.config.as_ref());
        let loaded = match config.map(|config| serde_json::from_str::<Value>(config.config.get())) {
            None => Ok(self.defaults.clone()),
            Some(Err(_)) => Err(Vec::new()),
            Some(Ok(value)) => Settings::load(&value).map(|loaded| loaded.settings),
        };
        match loaded {
            Ok(loaded) => {
                let version = config.map(|config| config.version);
                let changed = self.settings.send_if_modified(|settings| {
                    let changed = *settings != loaded;
                    *settings = loaded;
                    changed
                });
                if changed {
                    tracing::info!(version, "the hub's own settings are in force");
                }
                let revision = active.as_ref().map(|active| active.position.revision);
                self.report(Applied { revision, version, error: None });
            }
            Err(violations) => {
                let paths: Vec<&str> = violations.iter().map(|violation| violation.path.as_str()).collect();
                tracing::error!(?paths, "the hub's own config can't be used; the settings before it stay in force");
                let error = Some(format!("it breaks the built-in schema at {}", paths.join(", ")));
                let before = self.applied.borrow().clone();
                self.report(Applied { error, ..before });
            }
        }
    }

    fn report(&self, applied: Applied) {
        self.applied.send_if_modified(|said| {
            let changed = *said != applied;
            *said = applied;
            changed
        });
    }

    /// Follows until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut changes = self.own.clone();
        changes.mark_changed();
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => self.load(),
                    Err(_) => return,
                },
                () = stop.cancelled() => return,
            }
        }
    }
}
