//! What may follow what: nothing older than what was seen is ever taken.

use crate::domain::config::Position;

/// What a client has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// What is in force; `None` while that is the safe defaults because nothing else was there.
    pub(super) in_force: Option<Position>,
    /// What was refused after that.
    pub(super) refused: Option<Position>,
}

/// What to do with something that stands at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is new: check it.
    Check,
    /// It is what is in force.
    Confirm,
    /// It was refused before.
    AlreadyRefused,
    /// It is older than something that was seen.
    Older,
}

impl Seen {
    /// The newest position, whether or not that was refused.
    pub(super) fn newest(&self) -> Option<Position> {
        self.in_force.max(self.refused)
    }

    /// Weighs something that stands at `position`.
    pub(super) fn weigh(&self, position: Position) -> Verdict {
        if self.in_force == Some(position) {
            Verdict::Confirm
        } else if self.refused == Some(position) {
            Verdict::AlreadyRefused
        } else if Some(position) < self.newest() {
            Verdict::Older
        } else {
            Verdict::Check
        }
    }

    /// Notes that what stands at `position` is in force.
    pub(super) fn take(&mut self, position: Position) {
        *self = Self { in_force: Some(position), refused: None };
    }

    /// Notes that what stands at `position` was refused.
    pub(super) fn refuse(&mut self, position: Position) {
        self.refused = Some(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_in_force_never_goes_back(steps in proptest::collection::vec(((0i64..4, 0i64..6), any::<bool>()), 0..60)) {
            let mut seen = Seen::default();
            let mut taken: Vec<Position> = Vec::new();
            for ((epoch, revision), is_fine) in steps {
                let position = Position { epoch, revision };
                let before = seen;
                match seen.weigh(position) {
                    Verdict::Check if is_fine => {
                        prop_assert!(taken.iter().all(|earlier| *earlier < position));
                        taken.push(position);
                        seen.take(position);
                    }
                    Verdict::Check => seen.refuse(position),
                    Verdict::Confirm => prop_assert_eq!(taken.last(), Some(&position)),
                    Verdict::AlreadyRefused => prop_assert!(!taken.contains(&position)),
                    Verdict::Older => prop_assert!(Some(position) < before.newest()),
                }
                prop_assert!(seen.newest() >= before.newest());
                prop_assert_eq!(seen.in_force, taken.last().copied());
            }
        }
    }
}
