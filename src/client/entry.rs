//! What stands under a service's key of the config bucket, as an instance reads it.
//!
//! Read leniently: fields that don't matter here may be missing, and unknown ones may come. What can't be read is never
//! taken for a tombstone.

use serde_json::{Map, Value};

use crate::domain::config::Position;
use crate::domain::name::{InstanceId, ServiceName};

/// One config that the hub offers, or that the last-good file holds. References aren't resolved in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Offer {
    /// What it is ordered by.
    pub(super) position: Position,
    /// Its version; `None` with the tombstone.
    pub(super) version: Option<i64>,
    /// Opaque: the same content has the same.
    pub(super) checksum: Option<String>,
    /// Its content; `None` is the tombstone.
    pub(super) config: Option<Map<String, Value>>,
    /// Whether it is on trial here, and not for all instances.
    pub(super) is_canary: bool,
}

impl Offer {
    /// Reads position, version, checksum and config from an object's fields.
    pub(super) fn of(fields: &mut Map<String, Value>) -> Option<Self> {
        let epoch = credible(fields.get("epoch"))?;
        Self::at(epoch, fields)
    }

    /// As [`Offer::of`], with an epoch that stands elsewhere.
    fn at(epoch: i64, fields: &mut Map<String, Value>) -> Option<Self> {
        let revision = credible(fields.get("revision"))?;
        let (config, version) = match fields.remove("config")? {
            Value::Null => (None, None),
            Value::Object(config) => (Some(config), Some(natural(fields.get("version"))?)),
            _ => return None,
        };
        let checksum = fields.get("checksum").and_then(Value::as_str).map(str::to_owned);
        Some(Self { position: Position { epoch, revision }, version, checksum, config, is_canary: false })
    }
}

fn natural(value: Option<&Value>) -> Option<i64> {
    value?.as_i64().filter(|number| *number >= 0)
}

/// An epoch or a revision. One that is forged would keep out all that comes later.
fn credible(value: Option<&Value>) -> Option<i64> {
    natural(value).filter(|number| *number < Position::FORGED)
}

/// A value of the config bucket.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// For all.
    active: Offer,
    /// For some.
    canary: Option<(Offer, Vec<String>)>,
}

impl Entry {
    /// Reads the value under the key of `service`; `None` when it can't be read.
    pub(super) fn read(value: &[u8], service: &ServiceName) -> Option<Self> {
        let Value::Object(mut fields) = serde_json::from_slice(value).ok()? else { return None };
        if fields.get("service_name")?.as_str()? != service.as_str() {
            return None;
        }
        let active = Offer::of(&mut fields)?;
        let canary = fields.remove("canary").and_then(|canary| read_canary(active.position.epoch, canary));
        Some(Self { active, canary })
    }

    /// What a hub's answer to `hub.config.get` amounts to.
    pub(super) fn plain(active: Offer) -> Self {
        Self { active, canary: None }
    }

    /// Where the config for all stands.
    pub(super) fn position(&self) -> Position {
        self.active.position
    }

    /// What it offers to `instance`; a process that isn't registered is no canary.
    pub(super) fn offer(&self, instance: Option<&InstanceId>) -> &Offer {
        let is_listed =
            |instances: &[String]| instance.is_some_and(|id| instances.iter().any(|one| one == id.as_str()));
        match &self.canary {
            Some((canary, instances)) if is_listed(instances) => canary,
            _ => &self.active,
        }
    }
}

fn read_canary(epoch: i64, canary: Value) -> Option<(Offer, Vec<String>)> {
    let Value::Object(mut fields) = canary else { return None };
    let Value::Array(instances) = fields.remove("instances")? else { return None };
    let instances = instances.into_iter().map(|id| match id {
        Value::String(id) => Some(id),
        _ => None,
    });
    let offer = Offer::at(epoch, &mut fields).filter(|offer| offer.config.is_some())?;
    Some((Offer { is_canary: true, ..offer }, instances.collect::<Option<_>>()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::cache;

    #[test]
    fn what_is_forged_cannot_be_read() {
        let service: ServiceName = "tick".parse().unwrap();
        for (epoch, revision, credible) in [
            (Position::FORGED - 1, Position::FORGED - 1, true),
            (Position::FORGED, 1, false),
            (1, Position::FORGED, false),
            (i64::MAX, i64::MAX, false),
        ] {
            let value = json!({
                "format": 1, "service_name": "tick", "epoch": epoch, "revision": revision, "version": 1, "config": {},
            });
            let text = value.to_string();
            assert_eq!(Entry::read(text.as_bytes(), &service).is_some(), credible, "{text}");
            assert_eq!(cache::parse(text.as_bytes(), &service).is_ok(), credible, "{text}");
        }
    }
}
