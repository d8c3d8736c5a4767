//! How well an instance is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How well an instance is, best first. *Draining* is no status: it is a flag beside it, set by an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Does its work.
    Healthy,
    /// Works, but less well than it should.
    Degraded,
    /// Silent for longer than its timeout, or says so itself.
    Down,
}

/// A text that names no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a status is healthy, degraded or down")]
pub struct BadStatus;

impl Status {
    /// The status as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }

    /// A service is as well as the best of its instances; `None` when it has none.
    #[must_use]
    pub fn best(statuses: impl IntoIterator<Item = Status>) -> Option<Status> {
        statuses.into_iter().min()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = BadStatus;
    fn from_str(text: &str) -> Result<Self, BadStatus> {
        match text {
            "healthy" => Ok(Self::Healthy),
            "degraded" => Ok(Self::Degraded),
            "down" => Ok(Self::Down),
            _ => Err(BadStatus),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_status() -> impl Strategy<Value = Status> {
        prop_oneof![Just(Status::Healthy), Just(Status::Degraded), Just(Status::Down)]
    }

    proptest! {
        #[test]
        fn a_service_is_as_well_as_its_best_instance(statuses in proptest::collection::vec(any_status(), 0..8)) {
            let best = Status::best(statuses.iter().copied());
            prop_assert_eq!(best.is_none(), statuses.is_empty());
            if let Some(best) = best {
                prop_assert!(statuses.contains(&best));
                prop_assert!(statuses.iter().all(|status| best <= *status));
            }
        }

        #[test]
        fn text_and_status_agree(status in any_status()) {
            prop_assert_eq!(status.as_str().parse(), Ok(status));
            prop_assert_eq!(serde_json::to_string(&status).ok(), Some(format!("\"{status}\"")));
        }
    }
}
