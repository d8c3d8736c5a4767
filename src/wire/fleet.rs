//! The fleet at a glance.

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::infra::Component;
use super::{Endpoint, Fields, Request};
use crate::domain::name::ServiceName;

/// `hub.status`: the fleet at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FleetStatus {}

/// How many of something are how well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All of them.
    pub total: i64,
    /// Those that are healthy.
    pub healthy: i64,
    /// Those that are degraded.
    pub degraded: i64,
    /// Those that are down.
    pub down: i64,
}

/// Alerts that are not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertCounts {
    /// Look at it now.
    pub critical: i64,
    /// Look at it soon.
    pub warning: i64,
    /// Good to know.
    pub info: i64,
    /// Those of the above that somebody has seen.
    pub acked: i64,
}

/// Configs, and how far they have come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigCounts {
    /// Services with a config in force.
    pub total: i64,
    /// Services of which a live instance doesn't run what it should, or didn't say so.
    pub not_converged: i64,
    /// The first of those, by name.
    pub services: Vec<ServiceName>,
}

/// Answer to [`FleetStatus`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// Services: each is as well as its best instance.
    pub services: Counts,
    /// Instances.
    pub instances: Counts,
    /// Instances that an operator took out of use.
    pub draining: i64,
    /// Infrastructure components.
    pub infra: Vec<Component>,
    /// Alerts that are not over.
    pub alerts: AlertCounts,
    /// Configs.
    pub configs: ConfigCounts,
}

impl Request for FleetStatus {
    const ENDPOINT: Endpoint = Endpoint::Status;
    type Reply = Fleet;

    fn decode(_: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {})
    }
}
