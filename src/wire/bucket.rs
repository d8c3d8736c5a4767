//! KV buckets that clients watch. Written only by the hub.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::domain::config::Position;
use crate::domain::name::{InstanceId, ServiceName};

/// A bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// `<service>` → [`ConfigEntry`].
    Config,
    /// `<service>.<instance_id>` → [`super::registry::Instance`] without `last_heartbeat`.
    Services,
    /// `<component>` → [`super::infra::Component`].
    Infra,
}

impl Bucket {
    /// All buckets.
    pub const ALL: [Self; 3] = [Self::Config, Self::Services, Self::Infra];

    /// The bucket's name: `hub` → `hub_config`.
    #[must_use]
    pub fn name(self, prefix: &str) -> String {
        match self {
            Self::Config => format!("{prefix}_config"),
            Self::Services => format!("{prefix}_services"),
            Self::Infra => format!("{prefix}_infra"),
        }
    }

    /// The stream behind the bucket.
    #[must_use]
    pub fn stream(self, prefix: &str) -> String {
        format!("KV_{}", self.name(prefix))
    }

    /// How many values a key keeps.
    #[must_use]
    pub fn history(self) -> i64 {
        match self {
            Self::Config => 10,
            Self::Services | Self::Infra => 1,
        }
    }
}

/// A key of a bucket, and so the thing that stands under it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A service's config.
    Config(ServiceName),
    /// An instance's record.
    Instance(ServiceName, InstanceId),
    /// An infrastructure component's record.
    Component(ServiceName),
}

impl Key {
    /// The bucket it belongs to.
    #[must_use]
    pub fn bucket(&self) -> Bucket {
        match self {
            Self::Config(_) => Bucket::Config,
            Self::Instance(..) => Bucket::Services,
            Self::Component(_) => Bucket::Infra,
        }
    }

    /// The key as it stands in its bucket.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Config(name) | Self::Component(name) => name.to_string(),
            Self::Instance(service, instance) => format!("{service}.{instance}"),
        }
    }

    /// Reads a key of `bucket`; `None` when no such thing can exist.
    #[must_use]
    pub fn parse(bucket: Bucket, text: &str) -> Option<Self> {
        match bucket {
            Bucket::Config => text.parse().ok().map(Self::Config),
            Bucket::Infra => text.parse().ok().map(Self::Component),
            Bucket::Services => {
                let (service, instance) = text.split_once('.')?;
                Some(Self::Instance(service.parse().ok()?, instance.parse().ok()?))
            }
        }
    }
}

/// A service's config in KV. Take it only when `(epoch, revision)` is newer than what you have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// The service.
    pub service_name: ServiceName,
    /// Epoch of the revision.
    pub epoch: i64,
    /// The newest activation.
    pub revision: i64,
    /// Active version; `None` after a delete.
    pub version: Option<i64>,
    /// Opaque: the same content has the same.
    pub checksum: Option<String>,
    /// The content; `None` is the only tombstone.
    pub config: Option<Box<RawValue>>,
    /// Who wrote it.
    pub created_by: String,
    /// When it became active.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl ConfigEntry {
    /// What watchers order by.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, revision: self.revision }
    }
}
