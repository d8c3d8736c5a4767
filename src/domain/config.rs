//! Versions, revisions and epochs of a config, and what a write does to them.

use serde::{Deserialize, Serialize};

/// Where a config stands in time. Clients and watchers take nothing that orders before what they have.
///
/// The epoch outranks the revision: it is raised when Postgres went back, so that revisions counted again from an older
/// copy still order after what clients saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which history of the database; starts as the Unix seconds at which it was created.
    pub epoch: i64,
    /// Which activation of the service within the epoch.
    pub revision: i64,
}

/// The numbers of a service's config before a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Newest activation; 0 when there never was one.
    pub revision: i64,
    /// Active version; `None` when there is none.
    pub version: Option<i64>,
    /// Highest version ever made; 0 when there is none. Numbers are never reused.
    pub last_version: i64,
}

/// What the writer expects to replace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// The version that must be active; 0 means that none may be.
    pub version: Option<i64>,
    /// The revision that must be the newest; 0 means that there never was one.
    pub revision: Option<i64>,
}

/// What a set does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The content is what is active already: nothing happens.
    Unchanged,
    /// A new version becomes active under a new revision.
    Publish {
        /// Its number.
        version: i64,
        /// Its first activation.
        revision: i64,
    },
}

/// The active config isn't the one that the writer expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

/// Decides a set. `same_content` tells whether the new content equals the active version's.
///
/// # Errors
/// [`Conflict`] when `head` isn't what the writer expected.
pub fn set(head: Head, expected: Expectation, same_content: bool) -> Result<Change, Conflict> {
    let version_holds = expected.version.is_none_or(|version| version == head.version.unwrap_or(0));
    let revision_holds = expected.revision.is_none_or(|revision| revision == head.revision);
    if !(version_holds && revision_holds) {
        return Err(Conflict);
    }
    if same_content && head.version.is_some() {
        return Ok(Change::Unchanged);
    }
    Ok(Change::Publish { version: head.last_version + 1, revision: head.revision + 1 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Any run of sets gives versions 1, 2, 3, … without gaps, and a revision that grows with each change.
        #[test]
        fn versions_have_no_gaps(contents in proptest::collection::vec(0u8..3, 1..60)) {
            let mut head = Head::default();
            let mut active = None;
            for content in contents {
                match set(head, Expectation::default(), active == Some(content)).unwrap() {
                    Change::Unchanged => prop_assert_eq!(active, Some(content)),
                    Change::Publish { version, revision } => {
                        prop_assert_eq!(version, head.last_version + 1);
                        prop_assert_eq!(revision, head.revision + 1);
                        head = Head { revision, version: Some(version), last_version: version };
                        active = Some(content);
                    }
                }
            }
        }

        #[test]
        fn an_expectation_that_does_not_hold_changes_nothing(expected in 0i64..5, active in proptest::option::of(1i64..5)) {
            let head = Head { revision: 9, version: active, last_version: 5 };
            let decided = set(head, Expectation { version: Some(expected), revision: None }, false);
            prop_assert_eq!(decided.is_ok(), active.unwrap_or(0) == expected);
            let decided = set(head, Expectation { version: None, revision: Some(expected) }, false);
            prop_assert_eq!(decided, Err(Conflict));
        }

        #[test]
        fn the_epoch_outranks_the_revision(a: (i64, i64), b: (i64, i64)) {
            let position = |(epoch, revision)| Position { epoch, revision };
            prop_assert_eq!(position(a).cmp(&position(b)), a.cmp(&b));
        }
    }
}
