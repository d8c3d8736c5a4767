//! The simulated fleet: the services of a trading system, as `fleet.json` describes them.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::gauges::Load;
use crate::domain::name::ServiceName;

/// A service of the fleet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its software version.
    pub version: String,
    /// One process runs on each of these hosts. Nobody listens there.
    pub hosts: Vec<String>,
    /// The port of each process.
    pub port: u16,
    /// What it needs: services of the fleet, or the hub.
    pub dependencies: Vec<ServiceName>,
    /// What it says of itself.
    pub metadata: Map<String, Value>,
    /// How busy one process is.
    pub load: Load,
    /// Its first config.
    pub config: Map<String, Value>,
}

/// Reads the fleet.
///
/// # Errors
/// When `fleet.json` doesn't describe one, which a test rules out.
pub fn services() -> serde_json::Result<Vec<Service>> {
    serde_json::from_str(include_str!("fleet.json"))
}

/// The services in the order of their starts: each wave needs only those before it.
///
/// Services that need each other, or somebody who isn't there, come in a last wave of their own.
#[must_use]
pub fn waves(services: &[Service]) -> Vec<Vec<&Service>> {
    let mut waves: Vec<Vec<&Service>> = Vec::new();
    let mut waiting: Vec<&Service> = services.iter().collect();
    while !waiting.is_empty() {
        let started = |name: &ServiceName| {
            name.as_str() == ServiceName::HUB || waves.iter().flatten().any(|service| service.name == *name)
        };
        let (wave, rest): (Vec<_>, Vec<_>) =
            waiting.iter().copied().partition(|service| service.dependencies.iter().all(started));
        if wave.is_empty() {
            waves.push(rest);
            break;
        }
        waves.push(wave);
        waiting = rest;
    }
    waves
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_fleet_is_a_whole() {
        let fleet = services().unwrap();
        assert_eq!(fleet.len(), 18);
        let names: BTreeSet<_> = fleet.iter().map(|service| &service.name).collect();
        let ports: BTreeSet<_> = fleet.iter().map(|service| service.port).collect();
        assert_eq!((names.len(), ports.len()), (18, 18), "each has its own name and port");
        for service in &fleet {
            assert!(!service.hosts.is_empty() && !service.config.is_empty(), "{}", service.name);
            let hub = ServiceName::hub();
            assert!(service.dependencies.iter().all(|name| *name == hub || names.contains(name)), "{}", service.name);
        }
    }

    #[test]
    fn each_wave_needs_only_those_before_it() {
        let fleet = services().unwrap();
        let mut started = BTreeSet::from([ServiceName::hub()]);
        for wave in waves(&fleet) {
            assert!(wave.iter().flat_map(|service| &service.dependencies).all(|name| started.contains(name)));
            started.extend(wave.iter().map(|service| service.name.clone()));
        }
        assert_eq!(started.len(), 19);
    }

    #[test]
    fn a_cycle_ends_the_waves() {
        let mut fleet = services().unwrap();
        fleet[0].dependencies = vec![fleet[17].name.clone()];
        let waves = waves(&fleet);
        assert_eq!(waves.iter().map(Vec::len).sum::<usize>(), 18);
        assert!(waves.last().unwrap().iter().any(|service| service.name == fleet[0].name));
    }
}
