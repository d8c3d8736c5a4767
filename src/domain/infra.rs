//! Infrastructure components that the hub probes: what they are, where they are, and when they count as slow.
//!
//! They stand in the hub's own settings, `operational.health_monitoring.infrastructure_components`: as plain names
//! (`"kafka"`), whose target the hub's environment tells, or in full.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::Violation;
use super::name::ServiceName;
use super::status::Status;
use super::target::{BadTarget, Target};

/// What a component is, and so how it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A query on a connection of its own. Without a target: the hub's own database.
    Postgresql,
    /// A round trip and JetStream's account. Without a target: the hub's own NATS.
    Nats,
    /// The brokers' metadata.
    Kafka,
    /// `SELECT 1` over HTTP.
    Clickhouse,
    /// `PING`.
    Redis,
    /// GET: any answer of 200 to 399 is healthy.
    Http,
    /// A connection.
    Tcp,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::Postgresql, Self::Nats, Self::Kafka, Self::Clickhouse, Self::Redis, Self::Http, Self::Tcp];

    /// The kind as it stands in settings, on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::Nats => "nats",
            Self::Kafka => "kafka",
            Self::Clickhouse => "clickhouse",
            Self::Redis => "redis",
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }

    /// The environment variable of the hub that tells the target of a component that has none in the settings.
    #[must_use]
    pub fn target_variable(self) -> Option<&'static str> {
        match self {
            Self::Kafka => Some("CENTRAL_HUB_KAFKA_BROKERS"),
            Self::Clickhouse => Some("CENTRAL_HUB_CLICKHOUSE_URL"),
            Self::Redis => Some("CENTRAL_HUB_REDIS_URL"),
            Self::Postgresql | Self::Nats | Self::Http | Self::Tcp => None,
        }
    }

    /// Whether a component without a target is one that the hub itself stands on.
    #[must_use]
    pub fn is_the_hubs_own(self) -> bool {
        matches!(self, Self::Postgresql | Self::Nats)
    }

    /// The kind that a plain name stands for.
    fn of_name(name: &str) -> Option<Self> {
        let known = |kind: &Self| kind.is_the_hubs_own() || kind.target_variable().is_some();
        Self::ALL.into_iter().filter(known).find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A component to probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct Component {
    /// Its name: one KV key token and one subject token, unique among the components.
    pub name: ServiceName,
    /// What it is.
    pub kind: Kind,
    /// Where it is; `None`: the hub's own, or what the environment tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// How long one probe may take as a whole, in milliseconds.
    pub timeout_ms: u32,
    /// A probe that took longer than this found it degraded, in milliseconds.
    pub degraded_ms: u32,
    /// Whether the fleet can't do without it.
    pub critical: bool,
}

impl Component {
    /// The timeout of a component that says nothing else, in milliseconds: a server on a busy machine answers within it, and
    /// a caller of `hub.infra.check` (5 s) is still there.
    pub const TIMEOUT_MS: u32 = 2_000;

    /// Bounds of a timeout, in milliseconds. Below, a handshake with TLS has no chance; above, an outage is old news.
    pub const TIMEOUTS_MS: std::ops::RangeInclusive<u32> = 50..=30_000;

    /// The component of this kind that a plain name stands for.
    #[must_use]
    pub fn well_known(name: ServiceName, kind: Kind) -> Self {
        Self {
            name,
            kind,
            target: None,
            timeout_ms: Self::TIMEOUT_MS,
            degraded_ms: Self::TIMEOUT_MS / 2,
            critical: kind.is_the_hubs_own(),
        }
    }

    /// How long one probe may take as a whole.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    /// How well a component is that answered after `took`.
    #[must_use]
    pub fn judge(&self, took: Duration) -> Status {
        if took > Duration::from_millis(self.degraded_ms.into()) { Status::Degraded } else { Status::Healthy }
    }
}

/// What is probed unless the settings say otherwise.
#[must_use]
pub fn defaults() -> Vec<Component> {
    [Kind::Postgresql, Kind::Nats, Kind::Kafka, Kind::Clickhouse]
        .into_iter()
        .filter_map(|kind| Some(Component::well_known(kind.as_str().parse().ok()?, kind)))
        .collect()
}

/// Reads a list of components; `path` is its JSON pointer in the config.
///
/// # Errors
/// Each item that breaks a rule, with its place.
pub fn read(items: &[Value], path: &str) -> Result<Vec<Component>, Vec<Violation>> {
    let (mut components, mut violations, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        let place = |field: &str| format!("{path}/{index}{field}");
        match read_one(item) {
            Err(broken) => violations.push(Violation { path: place(broken.field), message: broken.rule }),
            Ok(component) if !names.insert(component.name.clone()) => {
                let field = if item.is_object() { "/name" } else { "" };
                violations.push(Violation { path: place(field), message: "another component has this name".into() });
            }
            Ok(component) => components.push(component),
        }
    }
    if violations.is_empty() { Ok(components) } else { Err(violations) }
}

/// JSON pointers of the targets in a list of components that show a credential; `path` is the list's own.
#[must_use]
pub fn open_targets(items: &[Value], path: &str) -> Vec<String> {
    let shows = |item: &Value| {
        let kind = item.get("kind").and_then(|kind| Kind::deserialize(kind).ok());
        let kind = kind.or_else(|| Kind::of_name(item.get("name")?.as_str()?));
        let target = item.get("target").and_then(Value::as_str);
        // Of an unknown kind it is looked at as what is the least allowed.
        target
            .is_some_and(|text| matches!(Target::new(kind.unwrap_or(Kind::Http), text), Err(BadTarget::Credential(_))))
    };
    items.iter().enumerate().filter(|(_, item)| shows(item)).map(|(at, _)| format!("{path}/{at}/target")).collect()
}

/// A rule that an item breaks, and where in it: `/target`; empty: the whole item. Never holds a value.
#[derive(Debug)]
struct Broken {
    field: &'static str,
    rule: String,
}

fn broken(field: &'static str, rule: impl Into<String>) -> Broken {
    Broken { field, rule: rule.into() }
}

/// A component in full, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    kind: Option<Kind>,
    target: Option<String>,
    timeout_ms: Option<u32>,
    degraded_ms: Option<u32>,
    critical: Option<bool>,
}

fn read_one(item: &Value) -> Result<Component, Broken> {
    let parse_name = |field, text: &str| -> Result<ServiceName, Broken> {
        let rule = "a component's name is 1 to 100 of A-Z a-z 0-9 _ - and begins with a letter or a digit";
        text.parse().map_err(|_| broken(field, rule))
    };
    if let Value::String(text) = item {
        let name = parse_name("", text)?;
        let kind = Kind::of_name(text).ok_or_else(|| {
            broken(
                "",
                "a plain name is postgresql, nats, kafka, clickhouse or redis; write others as {name, kind, target}",
            )
        })?;
        return Ok(Component::well_known(name, kind));
    }
    let written = Written::deserialize(item).map_err(|_| {
        broken(
            "",
            "a component is a name or {name, kind, target, timeout_ms, degraded_ms, critical}, all but name optional",
        )
    })?;
    let name = parse_name("/name", &written.name)?;
    let kind = written.kind.or_else(|| Kind::of_name(&written.name)).ok_or_else(|| {
        broken("/kind", "needed with this name: postgresql, nats, kafka, clickhouse, redis, http or tcp")
    })?;
    if name.as_str() == ServiceName::HUB {
        return Err(broken(
            "/name",
            "central-hub is the hub's own service, which is known by its replicas: take another name",
        ));
    }
    let target = written.target.map(|text| Target::new(kind, &text)).transpose();
    let target = target.map_err(|bad| broken("/target", bad.to_string()))?;
    let timeout_ms = written.timeout_ms.unwrap_or(Component::TIMEOUT_MS);
    if !Component::TIMEOUTS_MS.contains(&timeout_ms) {
        return Err(broken("/timeout_ms", "must be 50 to 30000"));
    }
    let degraded_ms = written.degraded_ms.unwrap_or(timeout_ms / 2);
    if !(1..=timeout_ms).contains(&degraded_ms) {
        return Err(broken("/degraded_ms", "must be 1 to timeout_ms"));
    }
    let critical = written.critical.unwrap_or(kind.is_the_hubs_own() && target.is_none());
    Ok(Component { name, kind, target, timeout_ms, degraded_ms, critical })
}

/// A component that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadComponent(String);

impl TryFrom<Value> for Component {
    type Error = BadComponent;
    fn try_from(item: Value) -> Result<Self, BadComponent> {
        read_one(&item).map_err(|broken| BadComponent(format!("{}: {}", broken.field, broken.rule)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn one(item: Value) -> Component {
        read(&[item], "").unwrap().remove(0)
    }

    #[test]
    fn plain_names_stand_for_what_the_hub_knows() {
        let names = ["postgresql", "nats", "kafka", "clickhouse", "redis"];
        let components = read(&names.map(Value::from), "").unwrap();
        for (component, name) in components.iter().zip(names) {
            assert_eq!((component.name.as_str(), component.kind.as_str()), (name, name));
            assert_eq!((&component.target, component.timeout_ms, component.degraded_ms), (&None, 2_000, 1_000));
            assert_eq!(component.critical, ["postgresql", "nats"].contains(&name), "what the hub itself stands on");
        }
        assert_eq!(defaults(), components[..4]);
    }

    #[test]
    fn what_is_left_out_follows_from_what_is_written() {
        let component =
            one(json!({ "name": "cache", "kind": "redis", "target": "redis://cache:6379", "timeout_ms": 500 }));
        assert_eq!((component.kind, component.timeout_ms, component.degraded_ms), (Kind::Redis, 500, 250));
        assert!(!component.critical);
        assert_eq!(one(json!({ "name": "kafka", "degraded_ms": 100 })).kind, Kind::Kafka);
        assert!(one(json!({ "name": "db", "kind": "postgresql" })).critical, "the hub's own under another name");
        let other = json!({ "name": "postgresql", "target": "postgresql://reports/x" });
        assert!(!one(other.clone()).critical, "another database");
        let mut other = other;
        other["critical"] = json!(true);
        assert!(one(other).critical);
        assert_eq!(one(json!({ "name": "web", "kind": "http" })).target, None, "it will be unknown, never down");
    }

    #[test]
    fn what_breaks_a_rule_is_told_with_its_place() {
        let hush = "hush-hush";
        for (items, places) in [
            (json!(["mysql"]), &["/0"][..]),
            (json!(["http"]), &["/0"]),
            (json!(["a.b"]), &["/0"]),
            (json!([5, null, []]), &["/0", "/1", "/2"]),
            (json!([{ "name": "a.b", "kind": "tcp" }]), &["/0/name"]),
            (json!([{ "kind": "tcp" }]), &["/0"]),
            (json!([{ "name": "cache", "target": "redis://cache" }]), &["/0/kind"]),
            (json!([{ "name": "http", "target": "http://x" }]), &["/0/kind"]),
            (json!([{ "name": "a", "kind": hush }]), &["/0"]),
            (json!([{ "name": "a", "kind": "tcp", "password": hush }]), &["/0"]),
            (json!([{ "name": "a", "kind": "tcp", "timeout_ms": hush }]), &["/0"]),
            (json!([{ "name": "a", "kind": "tcp", "timeout_ms": 49 }]), &["/0/timeout_ms"]),
            (json!([{ "name": "a", "kind": "tcp", "timeout_ms": 30_001 }]), &["/0/timeout_ms"]),
            (json!([{ "name": "a", "kind": "tcp", "degraded_ms": 0 }]), &["/0/degraded_ms"]),
            (json!([{ "name": "a", "kind": "tcp", "timeout_ms": 100, "degraded_ms": 101 }]), &["/0/degraded_ms"]),
            (json!([{ "name": "a", "kind": "http", "target": "ftp://x" }]), &["/0/target"]),
            (json!([{ "name": "a", "kind": "tcp", "target": "${env:HOME}:1" }]), &["/0/target"]),
            (json!([{ "name": "a", "kind": "http", "target": "http://hush-hush@a" }]), &["/0/target"]),
            (json!([{ "name": "central-hub", "kind": "tcp", "target": "a:1" }]), &["/0/name"]),
            (json!(["nats", "kafka", "nats"]), &["/2"]),
            (json!(["nats", { "name": "nats", "kind": "tcp" }, "mysql"]), &["/1/name", "/2"]),
        ] {
            let violations = read(items.as_array().unwrap(), "").unwrap_err();
            let found: Vec<&str> = violations.iter().map(|violation| violation.path.as_str()).collect();
            assert_eq!(found, places, "{items}: {violations:?}");
            assert!(violations.iter().all(|violation| !violation.message.contains(hush)), "{violations:?}");
        }
    }

    #[test]
    fn targets_with_credentials_are_found_whatever_else_is_wrong() {
        let items = json!([
            "nats",
            5,
            { "name": "a", "kind": "http", "target": "http://u@a/" },
            { "name": "b", "kind": "postgresql", "target": "postgresql://u@a/" },
            { "name": "redis", "target": "redis://u@a/", "timeout_ms": "x" },
            { "name": "c", "kind": "mysql", "target": "u:p@a:1" },
            { "name": "d", "kind": "http", "target": "ftp://a" },
            { "name": "e", "target": "${env:CENTRAL_HUB_PROBE_X}" },
        ]);
        assert_eq!(open_targets(items.as_array().unwrap(), ""), ["/2/target", "/4/target", "/5/target"]);
    }

    #[test]
    fn slower_than_the_threshold_is_degraded() {
        let component = one(json!({ "name": "a", "kind": "tcp", "degraded_ms": 250 }));
        for (micros, status) in [
            (0, Status::Healthy),
            (250_000, Status::Healthy),
            (250_001, Status::Degraded),
            (u64::MAX, Status::Degraded),
        ] {
            assert_eq!(component.judge(Duration::from_micros(micros)), status);
        }
    }

    proptest! {
        #[test]
        fn a_component_reads_as_it_is_written(
            name in "[a-z][a-z0-9_-]{0,20}",
            kind in proptest::sample::select(&Kind::ALL[..]),
            timeout_ms in 50u32..=30_000,
            share in 0.0f64..1.0,
            critical: bool,
        ) {
            let degraded_ms = 1 + (f64::from(timeout_ms - 1) * share) as u32;
            let component =
                Component { name: name.parse().unwrap(), kind, target: None, timeout_ms, degraded_ms, critical };
            let written = serde_json::to_value(&component).unwrap();
            prop_assert_eq!(read(std::slice::from_ref(&written), ""), Ok(vec![component.clone()]));
            prop_assert_eq!(serde_json::from_value::<Component>(written).unwrap(), component);
        }
    }
}
