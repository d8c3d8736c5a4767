//! Events: what happened, on the stream `HUB_EVENTS`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::domain::config::Action;
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;

/// What an event is about: the third token of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// An instance of a service.
    Service,
    /// A service's config.
    Config,
    /// An infrastructure component.
    Infra,
    /// Something that needs a person's attention.
    Alert,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 4] = [Self::Service, Self::Config, Self::Infra, Self::Alert];

    /// The topic with this text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.as_str() == text)
    }

    /// The topic as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Config => "config",
            Self::Infra => "infra",
            Self::Alert => "alert",
        }
    }
}

/// What happened: the last token of an event's subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An instance registered.
    Registered,
    /// An instance or a component became healthy.
    Healthy,
    /// An instance or a component became degraded.
    Degraded,
    /// An instance or a component went down.
    Down,
    /// An instance left, or was removed.
    Deregistered,
    /// An operator takes an instance out of use.
    Draining,
    /// An operator puts an instance back into use.
    Undraining,
    /// An instance said which config it runs. Kept in the timeline, not sent.
    Applied,
    /// A config version became active.
    Published,
    /// An older config version, or a delete, was put back in force.
    RolledBack,
    /// A config was taken out of force.
    Deleted,
    /// An instance refused the newest config.
    Rejected,
    /// What a change freeze held back, or was written by hand, goes to KV. Kept in the timeline, not sent.
    Pushed,
    /// A service's schema was given or taken away. Kept in the timeline, not sent.
    SchemaChanged,
    /// An alert began.
    Raised,
    /// Somebody saw an alert. Kept in the timeline, not sent.
    Acked,
    /// An alert is over.
    Resolved,
}

impl Kind {
    /// All kinds with their texts.
    pub const ALL: [(Self, &'static str); 17] = [
        (Self::Registered, "registered"),
        (Self::Healthy, "healthy"),
        (Self::Degraded, "degraded"),
        (Self::Down, "down"),
        (Self::Deregistered, "deregistered"),
        (Self::Draining, "draining"),
        (Self::Undraining, "undraining"),
        (Self::Applied, "applied"),
        (Self::Published, "published"),
        (Self::RolledBack, "rolled_back"),
        (Self::Deleted, "deleted"),
        (Self::Rejected, "rejected"),
        (Self::Pushed, "pushed"),
        (Self::SchemaChanged, "schema_changed"),
        (Self::Raised, "raised"),
        (Self::Acked, "acked"),
        (Self::Resolved, "resolved"),
    ];

    /// The kind as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, text)| text)
    }

    /// The kind with this text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == text).map(|(kind, _)| *kind)
    }
}

impl From<Action> for Kind {
    fn from(action: Action) -> Self {
        match action {
            Action::Published => Self::Published,
            Action::RolledBack => Self::RolledBack,
            Action::Deleted => Self::Deleted,
        }
    }
}

impl From<Status> for Kind {
    fn from(status: Status) -> Self {
        match status {
            Status::Healthy => Self::Healthy,
            Status::Degraded => Self::Degraded,
            Status::Down => Self::Down,
        }
    }
}

/// One event, as its message's body. The header `Nats-Msg-Id` holds its id, so that a redelivery is recognised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique for ever: the microsecond in which it was recorded and the number of its row.
    pub id: String,
    /// When it was committed, to the nearest that one statement can tell.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What it is about.
    pub topic: Topic,
    /// What happened.
    pub kind: Kind,
    /// To which service, or for topic `infra` and alerts of its: to which component.
    pub service_name: ServiceName,
    /// To which instance, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// Facts by name.
    pub details: Map<String, Value>,
}

impl Event {
    /// Whether it goes to the stream, or only stands in the timeline: what instances say that they run, what was pushed
    /// later, schemas, who saw an alert, and alerts that somebody silenced.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        let silenced = self.details.get("silenced").is_some_and(|silenced| silenced == true);
        !(matches!(self.kind, Kind::Applied | Kind::Pushed | Kind::SchemaChanged | Kind::Acked) || silenced)
    }

    /// The event in `most` bytes of JSON: what doesn't fit is left out of the details, the largest first, and named there
    /// under `left_out`. (An operator who writes a config by SQL may comment on it at any length.)
    #[must_use]
    pub fn fitting(mut self, most: usize) -> Self {
        const LEFT_OUT: &str = "left_out";
        let mut left_out = Vec::new();
        while serde_json::to_vec(&self).is_ok_and(|text| text.len() > most) {
            let members = self.details.iter().filter(|(name, _)| *name != LEFT_OUT);
            let largest = members.max_by_key(|(_, value)| value.to_string().len()).map(|(name, _)| name.clone());
            let Some(largest) = largest else { break };
            self.details.remove(&largest);
            left_out.push(largest);
            self.details.insert(LEFT_OUT.to_owned(), left_out.clone().into());
        }
        self
    }

    /// The subject it is published on.
    #[must_use]
    pub fn subject(&self, prefix: &str) -> String {
        if self.topic == Topic::Alert {
            let part = |name: &str| self.details.get(name).and_then(Value::as_str).unwrap_or("unknown");
            return format!("{prefix}.alerts.{}.{}.{}", part("severity"), part("source"), self.service_name);
        }
        format!("{prefix}.events.{}.{}.{}", self.topic.as_str(), self.service_name, self.kind.as_str())
    }
}

/// The stream that keeps events, for a subject prefix: `hub` → `HUB_EVENTS`.
#[must_use]
pub fn stream_name(prefix: &str) -> String {
    let token: String =
        prefix.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("{token}_EVENTS")
}

/// The subjects that the stream takes: not `<prefix>.alerts.>`, which would have JetStream answer the calls of that name.
#[must_use]
pub fn stream_subjects(prefix: &str) -> Vec<String> {
    let alerts = ["critical", "warning", "info"].map(|severity| format!("{prefix}.alerts.{severity}.>"));
    std::iter::once(format!("{prefix}.events.>")).chain(alerts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn what_does_not_fit_is_left_out_and_named() {
        let text = r#"{"id":"1-2","at":"2026-01-05T10:00:00Z","topic":"config","kind":"published","service_name":"a",
            "details":{"version":3,"comment":"cc","by":"b"}}"#;
        let mut event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(event.clone().fitting(1_000), event);
        event.details.insert("comment".into(), "c".repeat(2_000).into());
        event.details.insert("by".into(), "b".repeat(1_500).into());
        let details = |most| Value::Object(event.clone().fitting(most).details);
        let short = serde_json::json!({ "version": 3, "by": "b".repeat(1_500), "left_out": ["comment"] });
        assert_eq!(details(3_000), short);
        assert_eq!(details(1_000), serde_json::json!({ "version": 3, "left_out": ["comment", "by"] }));
        assert_eq!(details(10), serde_json::json!({ "left_out": ["comment", "by", "version"] }), "as little as can be");
    }

    #[test]
    fn each_kind_has_one_text() {
        for (kind, text) in Kind::ALL {
            assert_eq!(Kind::from_text(text), Some(kind));
            assert_eq!(serde_json::to_value(kind).ok(), Some(Value::from(text)));
        }
    }
}
