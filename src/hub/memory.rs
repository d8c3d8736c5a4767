//! The active configs in memory, from which `hub.config.get` is answered.
//!
//! What stands here came from Postgres. A change elsewhere shows as a change in KV, upon which the projection reads
//! Postgres and [`Memory::offer`]s what it says; a value that somebody forged in KV never gets here.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::watch;

use crate::domain::config::Position;
use crate::domain::name::ServiceName;
use crate::store::config::Active;

/// A service's active config, ready to be sent.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Its newest activation.
    pub position: Position,
    /// The whole answer of `hub.config.get`; `None` after a delete.
    pub answer: Option<Bytes>,
}

#[derive(Default)]
struct Contents {
    by_service: HashMap<String, Arc<Remembered>>,
    bytes: usize,
}

/// Bounded memory of active configs.
pub struct Memory {
    contents: RwLock<Contents>,
    max_bytes: usize,
    /// The hub's own config, whenever it changes.
    own: watch::Sender<Option<Active>>,
}

impl Memory {
    /// Keeps `max_bytes` of answers at the most.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { contents: RwLock::default(), max_bytes, own: watch::Sender::new(None) }
    }

    /// The hub's own config and its changes.
    #[must_use]
    pub fn own_config(&self) -> watch::Receiver<Option<Active>> {
        self.own.subscribe()
    }

    /// What is remembered of a service.
    #[must_use]
    pub fn get(&self, service: &str) -> Option<Arc<Remembered>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner).by_service.get(service).cloned()
    }

    /// All services of which something is remembered.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceName> {
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        contents.by_service.keys().filter_map(|service| service.parse().ok()).collect()
    }

    /// Forgets a service that Postgres says has no config, nor ever had one.
    pub fn forget(&self, service: &str) {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(forgotten) = contents.by_service.remove(service) {
            contents.bytes -= size(&forgotten);
            if service == ServiceName::HUB {
                self.own.send_replace(None);
            }
        }
    }

    /// Takes what Postgres said, unless something newer is remembered.
    pub fn offer(&self, active: &Active) -> Arc<Remembered> {
        let answer = active.config.as_ref().and_then(|config| serde_json::to_vec(config).ok()).map(Bytes::from);
        let offered = Arc::new(Remembered { position: active.position, answer });
        let service = active.service_name.as_str();
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = contents.by_service.get(service).filter(|kept| kept.position > offered.position) {
            return Arc::clone(kept);
        }
        if service == ServiceName::HUB {
            self.own.send_replace(Some(active.clone()));
        }
        contents.bytes += size(&offered);
        if let Some(replaced) = contents.by_service.insert(service.to_owned(), Arc::clone(&offered)) {
            contents.bytes -= size(&replaced);
        }
        while contents.bytes > self.max_bytes {
            let Some(victim) = contents.by_service.keys().find(|key| *key != service).cloned() else { break };
            if let Some(evicted) = contents.by_service.remove(&victim) {
                contents.bytes -= size(&evicted);
            }
        }
        offered
    }
}

fn size(remembered: &Remembered) -> usize {
    remembered.answer.as_ref().map_or(0, Bytes::len) + 128
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::config::Config;
    use time::OffsetDateTime;

    fn active(service: &str, revision: i64, filler: usize) -> Active {
        let position = Position { epoch: 1, revision };
        let config = Config {
            service_name: service.parse().unwrap(),
            version: revision,
            revision,
            epoch: 1,
            active: true,
            config: serde_json::value::RawValue::from_string(format!("{{\"a\":\"{}\"}}", "x".repeat(filler))).unwrap(),
            checksum: String::new(),
            created_by: String::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            comment: None,
        };
        Active {
            service_name: service.parse().unwrap(),
            position,
            config: Some(config),
            activated_by: String::new(),
            updated_at: OffsetDateTime::UNIX_EPOCH,
            pushed: true,
        }
    }

    #[test]
    fn it_never_goes_back() {
        let memory = Memory::new(10_000);
        memory.offer(&active("a", 2, 1));
        assert_eq!(memory.offer(&active("a", 1, 1)).position.revision, 2);
        assert_eq!(memory.get("a").unwrap().position.revision, 2);
        memory.offer(&active("a", 3, 1));
        assert_eq!(memory.get("a").unwrap().position.revision, 3);
    }

    #[test]
    fn what_is_forgotten_may_come_back_older() {
        let memory = Memory::new(10_000);
        memory.offer(&active(ServiceName::HUB, 2, 1));
        memory.forget(ServiceName::HUB);
        assert!(memory.get(ServiceName::HUB).is_none() && memory.own_config().borrow().is_none());
        assert_eq!(memory.contents.read().unwrap().bytes, 0);
        assert_eq!(memory.offer(&active(ServiceName::HUB, 1, 1)).position.revision, 1);
    }

    #[test]
    fn it_is_bounded() {
        let memory = Memory::new(10_000);
        for index in 0..100 {
            memory.offer(&active(&format!("s{index}"), 1, 1_000));
        }
        let contents = memory.contents.read().unwrap();
        assert!(contents.bytes <= 10_000 && contents.by_service.contains_key("s99"));
        assert_eq!(contents.bytes, contents.by_service.values().map(|kept| size(kept)).sum::<usize>());
    }
}
