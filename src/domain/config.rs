//! Versions, revisions and epochs of a config, and what a write does to them.

use serde::{Deserialize, Serialize};

use super::heartbeat::Applied;

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

impl Position {
    /// Neither number ever comes here, so one from here on can only be forged: beyond it numbers would run out, and
    /// readers of JSON that count in floating point would lose digits.
    pub const FORGED: i64 = 1 << 53;
}

/// A service's config before a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Newest activation; 0 when there never was one.
    pub revision: i64,
    /// Active version; `None` when there is none.
    pub version: Option<i64>,
    /// Highest version ever made; 0 when there is none. Numbers are never reused.
    pub last_version: i64,
    /// Top of the undo stack: what a rollback without argument goes back to.
    pub undo: Option<Undo>,
}

/// An entry of the undo stack: an earlier activation, whose own entry lies below it. So the stack is a list through the
/// activations, and an activation's stack never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undo {
    /// The activation to go back to.
    pub revision: i64,
    /// What it had put in force; `None`: a delete.
    pub version: Option<i64>,
    /// The entry below, by its activation.
    pub below: Option<i64>,
}

/// A place where a config breaks its schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// JSON pointer into the config.
    pub path: String,
    /// The rule, without the value.
    pub message: String,
}

/// How far an instance is with the newest activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Convergence {
    /// It runs it.
    Current,
    /// It runs another one.
    Behind,
    /// It refused it.
    Failed,
    /// It never said what it runs.
    Unknown,
}

impl Convergence {
    /// How far an instance is that said this of itself, when `revision` is the newest activation.
    #[must_use]
    pub fn of(applied: &Applied, revision: i64) -> Self {
        match (&applied.error, applied.revision) {
            (Some(_), _) => Self::Failed,
            (None, None) => Self::Unknown,
            (None, Some(said)) if said == revision => Self::Current,
            (None, Some(_)) => Self::Behind,
        }
    }
}

/// What the writer expects to replace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// The version that must be active; 0 means that none may be.
    pub version: Option<i64>,
    /// The revision that must be the newest; 0 means that there never was one.
    pub revision: Option<i64>,
}

/// How an activation came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A new version was published, by a set or a patch.
    Published,
    /// An older version, or a delete, was put back in force.
    RolledBack,
    /// Nothing is in force any more.
    Deleted,
}

impl Action {
    /// The action as it stands on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::RolledBack => "rolled_back",
            Self::Deleted => "deleted",
        }
    }
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// What is asked for is in force already: nothing happens.
    Unchanged,
    /// A new activation.
    Activate(Activation),
}

/// A new activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// Its revision.
    pub revision: i64,
    /// The version that it puts in force; `None`: a delete.
    pub version: Option<i64>,
    /// Whether that version is new.
    pub is_new: bool,
    /// How it comes about.
    pub action: Action,
    /// The activation that a rollback from it goes back to.
    pub undo: Option<i64>,
}

/// Why a write can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The active version isn't the one that the writer expected.
    OtherVersion,
    /// The newest revision isn't the one that the writer expected.
    OtherRevision,
    /// There never was a config.
    NoConfig,
    /// The undo stack is empty.
    NothingToUndo,
}

impl Head {
    /// Whether this is what the writer expected.
    ///
    /// # Errors
    /// [`Refusal::OtherVersion`], [`Refusal::OtherRevision`].
    pub fn check(&self, expected: Expectation) -> Result<(), Refusal> {
        let version_holds = expected.version.is_none_or(|version| version == self.version.unwrap_or(0));
        let revision_holds = expected.revision.is_none_or(|revision| revision == self.revision);
        match (version_holds, revision_holds) {
            (true, true) => Ok(()),
            (false, _) => Err(Refusal::OtherVersion),
            (true, false) => Err(Refusal::OtherRevision),
        }
    }

    /// Where the state of this head stands on the undo stack of what replaces it. A first set has none before it.
    fn pushed(&self) -> Option<i64> {
        (self.revision > 0).then_some(self.revision)
    }

    /// New content, by a set or a patch; `same_content`: it equals the active version's.
    #[must_use]
    pub fn publish(&self, same_content: bool) -> Change {
        if same_content && self.version.is_some() {
            return Change::Unchanged;
        }
        Change::Activate(Activation {
            revision: self.revision + 1,
            version: Some(self.last_version + 1),
            is_new: true,
            action: Action::Published,
            undo: self.pushed(),
        })
    }

    /// Puts an older version back in force: the state before goes on the undo stack.
    #[must_use]
    pub fn roll_back_to(&self, version: i64) -> Change {
        if self.version == Some(version) {
            return Change::Unchanged;
        }
        Change::Activate(Activation {
            revision: self.revision + 1,
            version: Some(version),
            is_new: false,
            action: Action::RolledBack,
            undo: self.pushed(),
        })
    }

    /// Takes back the newest change that isn't taken back yet: pops the undo stack.
    ///
    /// # Errors
    /// [`Refusal::NothingToUndo`].
    pub fn roll_back(&self) -> Result<Change, Refusal> {
        let top = self.undo.ok_or(Refusal::NothingToUndo)?;
        Ok(Change::Activate(Activation {
            revision: self.revision + 1,
            version: top.version,
            is_new: false,
            action: Action::RolledBack,
            undo: top.below,
        }))
    }

    /// Takes the config out of force. Versions stay, and numbers go on.
    ///
    /// # Errors
    /// [`Refusal::NoConfig`].
    pub fn delete(&self) -> Result<Change, Refusal> {
        match (self.revision, self.version) {
            (0, _) => Err(Refusal::NoConfig),
            (_, None) => Ok(Change::Unchanged),
            (_, Some(_)) => Ok(Change::Activate(Activation {
                revision: self.revision + 1,
                version: None,
                is_new: false,
                action: Action::Deleted,
                undo: self.pushed(),
            })),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// A service's whole history, kept by the rules alone, beside a plain stack that says what they should do.
    #[derive(Default)]
    struct Model {
        head: Head,
        activations: HashMap<i64, Activation>,
        active_content: Option<u8>,
        contents: HashMap<i64, u8>,
        stack: Vec<Option<i64>>,
    }

    impl Model {
        fn take(&mut self, change: Change, content: Option<u8>) -> bool {
            let Change::Activate(activation) = change else { return false };
            assert_eq!(activation.revision, self.head.revision + 1, "revisions grow by one");
            if activation.is_new {
                assert_eq!(activation.version, Some(self.head.last_version + 1), "versions have no gaps");
                self.contents.insert(self.head.last_version + 1, content.unwrap());
                self.head.last_version += 1;
            }
            self.activations.insert(activation.revision, activation);
            let below = activation.undo.map(|revision| {
                let earlier = self.activations[&revision];
                Undo { revision, version: earlier.version, below: earlier.undo }
            });
            self.head = Head { revision: activation.revision, version: activation.version, undo: below, ..self.head };
            self.active_content = activation.version.map(|version| self.contents[&version]);
            true
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish(u8),
        RollBack,
        RollBackTo(i64),
        Delete,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..4).prop_map(Step::Publish),
            3 => Just(Step::RollBack),
            1 => (1i64..6).prop_map(Step::RollBackTo),
            1 => Just(Step::Delete),
        ]
    }

    proptest! {
        /// Against any run of writes the rules do what a plain stack of states says.
        #[test]
        fn the_undo_stack_is_a_stack(steps in proptest::collection::vec(any_step(), 1..80)) {
            let mut model = Model::default();
            for step in steps {
                let before = (model.head.revision > 0).then_some(model.head.version);
                match step {
                    Step::Publish(content) => {
                        let same = model.active_content == Some(content);
                        let change = model.head.publish(same);
                        prop_assert_eq!(change == Change::Unchanged, same);
                        if model.take(change, Some(content)) {
                            model.stack.extend(before);
                        }
                    }
                    Step::RollBackTo(version) if version <= model.head.last_version => {
                        let change = model.head.roll_back_to(version);
                        if model.take(change, None) {
                            model.stack.extend(before);
                        }
                        prop_assert_eq!(model.head.version, Some(version));
                    }
                    Step::RollBackTo(_) => {}
                    Step::RollBack => match (model.head.roll_back(), model.stack.pop()) {
                        (Ok(change), Some(expected)) => {
                            model.take(change, None);
                            prop_assert_eq!(model.head.version, expected);
                        }
                        (decided, expected) => {
                            prop_assert_eq!(decided, Err(Refusal::NothingToUndo));
                            prop_assert_eq!(expected, None);
                        }
                    },
                    Step::Delete => match model.head.delete() {
                        Ok(change) => {
                            if model.take(change, None) {
                                model.stack.extend(before);
                            }
                            prop_assert_eq!(model.head.version, None);
                        }
                        Err(refusal) => {
                            prop_assert_eq!(refusal, Refusal::NoConfig);
                            prop_assert_eq!(model.head.revision, 0);
                        }
                    },
                }
            }
        }

        #[test]
        fn an_expectation_that_does_not_hold_is_a_conflict(expected in 0i64..5, active in proptest::option::of(1i64..5)) {
            let head = Head { revision: 9, version: active, last_version: 5, undo: None };
            let held = head.check(Expectation { version: Some(expected), revision: None });
            prop_assert_eq!(held.is_ok(), active.unwrap_or(0) == expected);
            prop_assert_eq!(head.check(Expectation { version: None, revision: Some(expected) }), Err(Refusal::OtherRevision));
        }

        #[test]
        fn the_epoch_outranks_the_revision(a: (i64, i64), b: (i64, i64)) {
            let position = |(epoch, revision)| Position { epoch, revision };
            prop_assert_eq!(position(a).cmp(&position(b)), a.cmp(&b));
        }
    }
}
