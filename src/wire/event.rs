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
    /// Something that needs a person's attention.
    Alert,
}

impl Topic {
    /// The topic as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Config => "config",
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
    /// An instance became healthy.
    Healthy,
    /// An instance became degraded.
    Degraded,
    /// An instance went down.
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
    /// An alert is over.
    Resolved,
}

impl Kind {
    const ALL: [(Self, &'static str, Topic); 16] = [
        (Self::Registered, "registered", Topic::Service),
        (Self::Healthy, "healthy", Topic::Service),
        (Self::Degraded, "degraded", Topic::Service),
        (Self::Down, "down", Topic::Service),
        (Self::Deregistered, "deregistered", Topic::Service),
        (Self::Draining, "draining", Topic::Service),
        (Self::Undraining, "undraining", Topic::Service),
        (Self::Applied, "applied", Topic::Service),
        (Self::Published, "published", Topic::Config),
        (Self::RolledBack, "rolled_back", Topic::Config),
        (Self::Deleted, "deleted", Topic::Config),
        (Self::Rejected, "rejected", Topic::Config),
        (Self::Pushed, "pushed", Topic::Config),
        (Self::SchemaChanged, "schema_changed", Topic::Config),
        (Self::Raised, "raised", Topic::Alert),
        (Self::Resolved, "resolved", Topic::Alert),
    ];

    fn entry(self) -> (&'static str, Topic) {
        match Self::ALL.iter().find(|(kind, ..)| *kind == self) {
            Some((_, text, topic)) => (text, *topic),
            None => ("", Topic::Service),
        }
    }

    /// The kind as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.entry().0
    }

    /// What it is about.
    #[must_use]
    pub fn topic(self) -> Topic {
        self.entry().1
    }

    /// The kind with this text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == text).map(|(kind, ..)| *kind)
    }

    /// Whether it goes to the stream, or only stands in the timeline.
    #[must_use]
    pub fn is_sent(self) -> bool {
        !matches!(self, Self::Applied | Self::Pushed | Self::SchemaChanged)
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
    /// Unique for ever: the epoch and the number of its row.
    pub id: String,
    /// When it was committed, to the nearest that one statement can tell.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What it is about.
    pub topic: Topic,
    /// What happened.
    pub kind: Kind,
    /// To which service.
    pub service_name: ServiceName,
    /// To which instance, for topic `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// Facts by name.
    pub details: Map<String, Value>,
}

impl Event {
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
    fn each_kind_has_one_text() {
        for (kind, text, _) in Kind::ALL {
            assert_eq!(Kind::from_text(text), Some(kind));
            assert_eq!(serde_json::to_value(kind).ok(), Some(Value::from(text)));
        }
    }
}
