//! Alerts: what needs a person's attention, how much, and until when.
//!
//! An alert is about a service or component, not about one instance: fifty instances that fail are one alert that names
//! them. Alerts are a projection of what the hub knows: `facts` say how things are, `diagnosis` what that calls for,
//! `blame` what is probably behind it, and `plan` what has to begin, to change and to end for the alerts to say just that.

#[cfg(feature = "server")]
mod blame;
#[cfg(feature = "server")]
mod diagnosis;
#[cfg(feature = "server")]
pub mod facts;
#[cfg(feature = "server")]
pub mod plan;
#[cfg(all(test, feature = "server"))]
mod plan_tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How much an alert matters, most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Look at it now.
    Critical,
    /// Look at it soon.
    Warning,
    /// Good to know.
    Info,
}

/// A text that names no severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a severity is critical, warning or info")]
pub struct BadSeverity;

impl Severity {
    /// The severity as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = BadSeverity;
    fn from_str(text: &str) -> Result<Self, BadSeverity> {
        match text {
            "critical" => Ok(Self::Critical),
            "warning" => Ok(Self::Warning),
            "info" => Ok(Self::Info),
            _ => Err(BadSeverity),
        }
    }
}

/// What an alert is about. At any time there is one alert of a kind about a name at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Instances of a service are down.
    ServiceDown,
    /// Instances of a service are degraded.
    ServiceDegraded,
    /// A component is down.
    ComponentDown,
    /// A component is degraded.
    ComponentDegraded,
    /// Instances of a service, or a component, can't settle.
    Flapping,
    /// So many instances fell silent at once that the hub doubts it.
    MassExpiry,
    /// Instances refused the config that they should run.
    ConfigRejected,
    /// Instances don't take the config that they should run.
    ConfigBehind,
    /// A config was forced upon instances that can't read it.
    ConfigForced,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::ServiceDown,
        Self::ServiceDegraded,
        Self::ComponentDown,
        Self::ComponentDegraded,
        Self::Flapping,
        Self::MassExpiry,
        Self::ConfigRejected,
        Self::ConfigBehind,
        Self::ConfigForced,
    ];

    /// Which part of the hub raises it: a token of its events' subjects.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Self::ServiceDown | Self::ServiceDegraded => "service",
            Self::ComponentDown | Self::ComponentDegraded => "infra",
            Self::Flapping | Self::MassExpiry => "liveness",
            Self::ConfigRejected | Self::ConfigBehind | Self::ConfigForced => "config",
        }
    }

    /// The kind within its source, as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceDown | Self::ComponentDown => "down",
            Self::ServiceDegraded | Self::ComponentDegraded => "degraded",
            Self::Flapping => "flapping",
            Self::MassExpiry => "mass_expiry",
            Self::ConfigRejected => "rejected",
            Self::ConfigBehind => "behind",
            Self::ConfigForced => "forced",
        }
    }

    /// The kind with these texts; `None` for one that only a newer hub knows.
    #[must_use]
    pub fn from_texts(source: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| (known.source(), known.as_str()) == (source, kind))
    }
}

macro_rules! cases {
    ($($name:ident = $kind:ident, $severity:ident, $when:literal;)*) => {
        /// What calls for an alert, and how severe it is: the one place where severities are decided. (What has a cause,
        /// and what is one, is told in `plan`.)
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Case {
            $(#[doc = $when] $name,)*
        }

        impl Case {
            /// All cases, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What the alert is about.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// How much it matters, if nothing else is behind it.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// When it is raised, for the reference.
            #[must_use]
            pub fn when(self) -> &'static str {
                match self { $(Self::$name => $when,)* }
            }
        }
    };
}

cases! {
    ServiceDown = ServiceDown, Critical, "None of the service's instances in use is up.";
    InstancesDown = ServiceDown, Warning, "Some of its instances are down, others are up.";
    ServiceDegraded = ServiceDegraded, Warning, "It is up, but none of its instances is healthy.";
    InstancesDegraded = ServiceDegraded, Info, "Some of its instances are degraded, others are healthy.";
    CriticalComponentDown = ComponentDown, Critical, "The component is down, and the settings call it critical.";
    ComponentDown = ComponentDown, Warning, "The component is down.";
    CriticalComponentDegraded = ComponentDegraded, Warning, "The component is slow, and the settings call it critical.";
    ComponentDegraded = ComponentDegraded, Info, "The component is slow.";
    Flapping = Flapping, Warning, "An instance of the service, or the component, changed its status three times within `flapping_window_seconds` (300), and once within the last ones.";
    MassExpiry = MassExpiry, Critical, "So many instances of the service, or of the whole fleet (name `fleet`), fell silent at once that the hub waits before it marks them down.";
    ConfigRejected = ConfigRejected, Warning, "A live instance reports a `config_error`.";
    ConfigBehind = ConfigBehind, Warning, "A live instance has beaten for three intervals, and runs an older config than it should.";
    ConfigForced = ConfigForced, Warning, "A config was published with `force` upon live instances that declared that they can't read it; over with the next config.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_texts_of_its_own_and_a_case() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_texts(kind.source(), kind.as_str()), Some(kind));
            assert!(Case::ALL.iter().any(|case| case.kind() == kind));
        }
        assert_eq!(Kind::from_texts("service", "flapping"), None);
    }
}
