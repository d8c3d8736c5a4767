//! The hub's own settings, which live in the hub itself as the config of the service `central-hub`.
//!
//! A partial document is merged over the defaults. A document that the built-in schema refuses never comes into force.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::Violation;
use super::infra::{self, Component};
use super::limits::Limits;

/// Settings of the running hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Registry and liveness.
    pub service_discovery: ServiceDiscovery,
    /// What is measured and kept.
    pub health_monitoring: HealthMonitoring,
    /// How configs are kept and pushed.
    pub config_management: ConfigManagement,
    /// Bounds on requests.
    pub limits: Limits,
}

/// Registry and liveness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceDiscovery {
    /// The interval of an instance that asks for none, in seconds.
    pub heartbeat_interval_seconds: f64,
    /// The timeout of an instance with the interval above, in seconds. Other intervals scale with it.
    pub service_timeout_seconds: f64,
    /// Whether instances that stay down are removed.
    pub auto_deregister_dead_services: bool,
    /// How long an instance is down before it is removed, in seconds.
    pub deregister_after_seconds: f64,
    /// How long a mass expiry is held back, in seconds; left out: for two timeouts of those that are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mass_expiry_hold_seconds: Option<f64>,
}

impl Default for ServiceDiscovery {
    fn default() -> Self {
        Self {
            heartbeat_interval_seconds: 30.0,
            service_timeout_seconds: 90.0,
            auto_deregister_dead_services: true,
            deregister_after_seconds: 600.0,
            mass_expiry_hold_seconds: None,
        }
    }
}

/// What is measured and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthMonitoring {
    /// How often infrastructure is probed, in seconds.
    pub check_interval_seconds: f64,
    /// What is probed.
    pub infrastructure_components: Vec<Component>,
    /// Whether each accepted heartbeat leaves a row in `health_metrics`.
    pub record_heartbeats: bool,
    /// How many days rows are kept.
    pub retention_days: u32,
    /// The time in which three changes of status count as flapping, in seconds; and how long something must be quiet for
    /// that to be over.
    pub flapping_window_seconds: f64,
}

impl Default for HealthMonitoring {
    fn default() -> Self {
        Self {
            check_interval_seconds: 60.0,
            infrastructure_components: infra::defaults(),
            record_heartbeats: true,
            retention_days: 7,
            flapping_window_seconds: 300.0,
        }
    }
}

impl HealthMonitoring {
    /// How long what flaps must have had its status for it to count, and how long what fails may need to follow its cause
    /// when that is well again, in seconds: a fifth of the window, a minute by default.
    #[must_use]
    pub fn settled_after_seconds(&self) -> f64 {
        self.flapping_window_seconds / 5.0
    }
}

/// How configs are kept and pushed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigManagement {
    /// Off: only the active version of each config is kept.
    pub enable_versioning: bool,
    /// Off: a change freeze. Commits are stored, KV stays as it is until it is on again.
    pub enable_hot_reload: bool,
    /// How long memory may answer after the hub lost its own watch, in seconds.
    pub config_cache_ttl_seconds: f64,
    /// How many versions of each config are kept; 0: all.
    pub keep_versions: u32,
}

impl Default for ConfigManagement {
    fn default() -> Self {
        Self { enable_versioning: true, enable_hot_reload: true, config_cache_ttl_seconds: 300.0, keep_versions: 0 }
    }
}

impl ConfigManagement {
    /// Which versions of each config are kept; `None`: all.
    #[must_use]
    pub fn retention(&self) -> Option<Retention> {
        match (self.enable_versioning, self.keep_versions) {
            (false, _) => Some(Retention { newest: 1, undo: false }),
            (true, 0) => None,
            (true, newest) => Some(Retention { newest: newest.into(), undo: true }),
        }
    }
}

/// Which versions of each config are kept, beside the active one and what instances are to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// This many of the newest.
    pub newest: i64,
    /// Whether what a rollback without argument goes back to is kept too.
    pub undo: bool,
}

/// Settings of a hub and what a person should look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads the config of the service `central-hub`, merged over the defaults.
    ///
    /// # Errors
    /// Where it breaks the built-in schema.
    pub fn load(config: &Value) -> Result<Loaded, Vec<Violation>> {
        let violations = violations(config);
        if !violations.is_empty() {
            return Err(violations);
        }
        let operational = config.get("operational").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let settings: Self = serde_json::from_value(operational.clone())
            .map_err(|error| vec![Violation { path: "/operational".into(), message: error.to_string() }])?;
        let mut warnings = Vec::new();
        if operational.get("server_settings").is_some() {
            warnings.push("/operational/server_settings is not used: the hub has no HTTP server".to_owned());
        }
        warnings.extend(settings.timeout_warning());
        Ok(Loaded { settings, warnings })
    }

    /// A timeout below two intervals isn't what holds: one heartbeat that is lost would be a death.
    fn timeout_warning(&self) -> Option<String> {
        let ServiceDiscovery { heartbeat_interval_seconds, service_timeout_seconds, .. } = self.service_discovery;
        let least = 2.0 * heartbeat_interval_seconds;
        (service_timeout_seconds < least).then(|| {
            format!(
                "/operational/service_discovery/service_timeout_seconds: {service_timeout_seconds} is less than two \
                 heartbeat intervals; {least} s of silence count as down"
            )
        })
    }
}

/// The schema of these settings, as it can be looked up like any service's.
#[cfg(feature = "server")]
#[must_use]
#[allow(clippy::expect_used, reason = "the text is a constant; tests parse it")]
pub fn schema() -> Value {
    serde_json::from_str(include_str!("settings.schema.json")).expect("a constant")
}

/// Where the components stand in a config of the service `central-hub`.
const COMPONENTS: &str = "/operational/health_monitoring/infrastructure_components";

/// JSON pointers of the targets in a config of the service `central-hub` that show a credential.
#[must_use]
pub fn open_targets(config: &Value) -> Vec<String> {
    let items = config.pointer(COMPONENTS).and_then(Value::as_array);
    items.map(|items| infra::open_targets(items, COMPONENTS)).unwrap_or_default()
}

/// Where a config of the service `central-hub` breaks the built-in schema, and the rules between its fields.
#[must_use]
pub fn violations(config: &Value) -> Vec<Violation> {
    use super::schema::Schema;
    use std::sync::LazyLock;

    #[allow(clippy::expect_used, reason = "the schema is a constant; a test compiles it")]
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::compile_ours(&schema()).expect("a constant schema"));
    let mut violations = SCHEMA.violations(config);
    // What the schema found wrong there would be told twice.
    if !violations.iter().any(|violation| violation.path.starts_with(COMPONENTS))
        && let Some(items) = config.pointer(COMPONENTS).and_then(Value::as_array)
        && let Err(broken) = infra::read(items, COMPONENTS)
    {
        violations.extend(broken);
    }
    let number = |pointer: &str| config.pointer(pointer).and_then(Value::as_u64);
    let (default, most) = (number("/operational/limits/page_default"), number("/operational/limits/page_max"));
    let defaults = Limits::default();
    if default.unwrap_or(defaults.page_default.into()) > most.unwrap_or(defaults.page_max.into()) {
        violations.push(Violation {
            path: "/operational/limits/page_default".into(),
            message: "must not be above page_max".into(),
        });
    }
    violations
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_partial_document_is_merged_over_the_defaults() {
        let config = json!({ "operational": { "service_discovery": { "service_timeout_seconds": 45 } } });
        let loaded = Settings::load(&config).unwrap();
        assert_eq!(loaded.settings.service_discovery.service_timeout_seconds, 45.0);
        assert_eq!(loaded.settings.service_discovery.heartbeat_interval_seconds, 30.0);
        assert_eq!(Settings::load(&json!({})).unwrap(), Loaded::default());
    }

    #[test]
    fn the_defaults_satisfy_the_schema_as_written() {
        let written = json!({ "operational": Settings::default() });
        assert_eq!(Settings::load(&written).unwrap().settings, Settings::default());
    }

    #[test]
    fn what_older_documents_say_is_taken_with_a_warning() {
        let config = json!({ "operational": { "server_settings": { "host": "0.0.0.0", "port": 8001, "workers": 4 } } });
        assert_eq!(Settings::load(&config).unwrap().warnings.len(), 1);
    }

    #[test]
    fn a_timeout_that_would_not_hold_is_taken_with_a_warning() {
        let warnings = |discovery: Value| {
            Settings::load(&json!({ "operational": { "service_discovery": discovery } })).unwrap().warnings
        };
        let said = warnings(json!({ "service_timeout_seconds": 45 }));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("/operational/service_discovery/service_timeout_seconds") && said[0].contains("60"),
            "{said:?}"
        );
        assert_eq!(warnings(json!({ "heartbeat_interval_seconds": 60 })).len(), 1, "the other one moved");
        assert_eq!(warnings(json!({ "service_timeout_seconds": 60 })), Vec::<String>::new());
        assert_eq!(warnings(json!({ "service_timeout_seconds": 20, "heartbeat_interval_seconds": 10 })).len(), 0);
    }

    fn components(items: Value) -> Value {
        json!({ "operational": { "health_monitoring": { "infrastructure_components": items } } })
    }

    #[test]
    fn components_are_names_or_objects() {
        let config = components(json!(["nats", { "name": "cache", "kind": "redis", "target": "redis://cache" }]));
        let loaded = Settings::load(&config).unwrap().settings.health_monitoring.infrastructure_components;
        let names: Vec<_> = loaded.iter().map(|component| (component.name.as_str(), component.kind.as_str())).collect();
        assert_eq!(names, [("nats", "nats"), ("cache", "redis")]);
        assert_eq!(
            Settings::load(&components(json!([]))).unwrap().settings.health_monitoring.infrastructure_components,
            []
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for (config, path) in [
            (
                json!({ "operational": { "service_discovery": { "heartbeat_interval_seconds": 0 } } }),
                "/operational/service_discovery/heartbeat_interval_seconds",
            ),
            (
                json!({ "operational": { "service_discovery": { "service_timeout_seconds": "90" } } }),
                "/operational/service_discovery/service_timeout_seconds",
            ),
            (
                json!({ "operational": { "service_discovery": { "mass_expiry_hold_seconds": -1 } } }),
                "/operational/service_discovery/mass_expiry_hold_seconds",
            ),
            (json!({ "operational": { "service_discovry": {} } }), "/operational"),
            (
                json!({ "operational": { "config_management": { "keep_versions": -1 } } }),
                "/operational/config_management/keep_versions",
            ),
            (json!({ "operational": { "limits": { "page_max": 10 } } }), "/operational/limits/page_default"),
            (components(json!([5])), "/operational/health_monitoring/infrastructure_components/0"),
            (components(json!(["mysql"])), "/operational/health_monitoring/infrastructure_components/0"),
            (
                components(json!(["nats", { "name": "db", "kind": "mysql" }])),
                "/operational/health_monitoring/infrastructure_components/1/kind",
            ),
            (
                components(json!([{ "name": "nats", "timeout_ms": "2s" }])),
                "/operational/health_monitoring/infrastructure_components/0/timeout_ms",
            ),
            (
                components(
                    json!([{ "name": "web", "kind": "http", "target": "http://${env:CENTRAL_HUB_DB_PASSWORD}/" }]),
                ),
                "/operational/health_monitoring/infrastructure_components/0/target",
            ),
            (json!({ "operational": [] }), "/operational"),
        ] {
            let violations = Settings::load(&config).unwrap_err();
            assert!(violations.iter().any(|violation| violation.path == path), "{config}: {violations:?}");
        }
    }
}
