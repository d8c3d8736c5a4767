//! What alerts are decided by.

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{Kind, Severity};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;

/// How things are, as far as they aren't as they should be. Nothing else is listed.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Services of which an instance in use isn't well, or flaps.
    pub services: Vec<Service>,
    /// Services of which nothing is left: the last of their dead instances was removed, and nobody has seen the alert.
    pub lost: Vec<ServiceName>,
    /// Components that aren't well, or flap.
    pub components: Vec<Component>,
    /// Expiries that are held back.
    pub holds: Vec<Hold>,
    /// Services of which a live instance doesn't run the config that it should.
    pub configs: Vec<Config>,
    /// Alerts that ended a moment ago: what depends on those services and components may need a moment longer.
    pub recovered: Vec<Active>,
    /// The alerts that are not over.
    pub active: Vec<Active>,
}

/// What is the matter with a service or component as a whole, from bad to worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// It can't settle.
    Flapping,
    /// It works, but less well than it should.
    Degraded,
    /// It doesn't work.
    Down,
}

impl Kind {
    /// Whether an alert of this kind tells how a service or component does.
    #[must_use]
    pub fn is_about_health(self) -> bool {
        self.trouble().is_some()
    }

    /// The trouble that an alert of this kind tells of.
    pub(super) fn trouble(self) -> Option<Trouble> {
        match self {
            Self::ServiceDown | Self::ComponentDown => Some(Trouble::Down),
            Self::ServiceDegraded | Self::ComponentDegraded => Some(Trouble::Degraded),
            Self::Flapping => Some(Trouble::Flapping),
            Self::MassExpiry | Self::ConfigRejected | Self::ConfigBehind | Self::ConfigForced => None,
        }
    }
}

/// How many instances are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Of all.
    pub down: i64,
    /// Of those that are up.
    pub degraded: i64,
}

/// A service's instances in use, which are those that aren't draining.
///
/// While an instance flaps, its status at a moment says little. Seen with good will (`least`), one that hasn't had its
/// status for a while is healthy; seen with suspicion (`most`), it is as it was at its worst. What flaps then neither
/// raises an alert in the good view nor ends one in the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// How many instances are in use; one at least.
    pub in_use: i64,
    /// How they are now.
    pub now: Tally,
    /// How they are at least.
    pub least: Tally,
    /// How they are at the most.
    pub most: Tally,
    /// How many flap.
    pub flapping: i64,
    /// How those changed, if any flaps: the most changes of one, and the last of all.
    pub changes: Option<Changes>,
    /// The first of those that are down, by id.
    pub down_ids: Vec<InstanceId>,
    /// The first of those that are degraded, by id.
    pub degraded_ids: Vec<InstanceId>,
    /// The first of those that flap, by id.
    pub flapping_ids: Vec<InstanceId>,
}

/// Changes of the status of something that flaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changes {
    /// How many there were in a window that ends with the last one.
    pub count: i64,
    /// When the last one was.
    pub last: OffsetDateTime,
}

/// An infrastructure component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name.
    pub name: ServiceName,
    /// What it is.
    pub kind: String,
    /// Whether the fleet can't do without it.
    pub critical: bool,
    /// How it is now; what can't be checked is taken for healthy.
    pub now: Status,
    /// How it is at least, see [`Service`].
    pub least: Status,
    /// How it is at the most.
    pub most: Status,
    /// How it changed, if it flaps.
    pub flapping: Option<Changes>,
    /// What the last check said.
    pub error: Option<String>,
}

/// An expiry that is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Whose; `None`: the whole fleet's.
    pub service: Option<ServiceName>,
    /// How many instances are held.
    pub instances: i64,
    /// Until when.
    pub until: OffsetDateTime,
}

/// Live instances of a service that don't run the config that they should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The service.
    pub name: ServiceName,
    /// The revision that they should run.
    pub revision: i64,
    /// How many refused it.
    pub rejected: i64,
    /// The first of those, by id.
    pub rejected_ids: Vec<InstanceId>,
    /// What the first of those said.
    pub error: Option<String>,
    /// How many run an older one, and didn't refuse.
    pub behind: i64,
    /// The first of those, by id.
    pub behind_ids: Vec<InstanceId>,
    /// How many of those had time enough.
    pub late: i64,
    /// The first of those that had, by id.
    pub late_ids: Vec<InstanceId>,
}

/// An alert that is not over.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    /// Its number.
    pub id: i64,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub kind: Kind,
    /// The service or component; `fleet` for the whole.
    pub name: ServiceName,
    /// The instance; older hubs raised alerts about single ones.
    pub instance_id: Option<InstanceId>,
    /// What people read.
    pub message: String,
    /// Facts by name.
    pub details: Map<String, Value>,
    /// What is probably behind it.
    pub cause: Option<ServiceName>,
}

impl Active {
    /// The trouble that it told of, if that was with the service or component as a whole: with all instances in use.
    pub(super) fn trouble_as_a_whole(&self) -> Option<Trouble> {
        let count = |name: &str| self.details.get(name).and_then(Value::as_i64);
        let whole = match (count("in_use"), count(self.kind.as_str())) {
            (Some(in_use), Some(troubled)) => in_use == troubled,
            _ => true,
        };
        self.kind.trouble().filter(|_| whole)
    }
}
