//! The hub's own settings, which live in the hub itself as the config of the service `central-hub`.

/// Settings of the running hub.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Registry and liveness.
    pub service_discovery: ServiceDiscovery,
    /// What is kept of heartbeats.
    pub health_monitoring: HealthMonitoring,
    /// How configs are served.
    pub config_management: ConfigManagement,
}

/// What is kept of heartbeats.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthMonitoring {
    /// Whether each accepted heartbeat leaves a row in `health_metrics`.
    pub record_heartbeats: bool,
}

/// How configs are served.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigManagement {
    /// How long memory may answer after the hub lost its own watch, in seconds.
    pub config_cache_ttl_seconds: f64,
}

/// Registry and liveness.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceDiscovery {
    /// The interval of an instance that asks for none, in seconds.
    pub heartbeat_interval_seconds: f64,
    /// The timeout of an instance with the interval above, in seconds. Other intervals scale with it.
    pub service_timeout_seconds: f64,
    /// Whether instances that stay down are removed.
    pub auto_deregister_dead_services: bool,
    /// How long an instance is down before it is removed, in seconds.
    pub deregister_after_seconds: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_discovery: ServiceDiscovery {
                heartbeat_interval_seconds: 30.0,
                service_timeout_seconds: 90.0,
                auto_deregister_dead_services: true,
                deregister_after_seconds: 600.0,
            },
            health_monitoring: HealthMonitoring { record_heartbeats: true },
            config_management: ConfigManagement { config_cache_ttl_seconds: 300.0 },
        }
    }
}
