//! Uptime: for how much of a window something was up, exactly, from the changes of its status.
//!
//! A change says which status holds from then on. What lies before the first one isn't covered: nobody knows. A service is
//! as well as the best of its instances; once one of them was there, it is down while none is.

use std::collections::{HashMap, VecDeque};

use time::{Duration, OffsetDateTime};

use super::status::Status;

/// For how many days transitions are kept, and so the longest window.
pub const DAYS_KEPT: u16 = 400;

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Where it begins.
    pub since: OffsetDateTime,
    /// Where it ends.
    pub until: OffsetDateTime,
}

/// A change of the whole within the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: OffsetDateTime,
    /// What it became; `None`: nothing is known from then on.
    pub status: Option<Status>,
}

/// What a [`Tally`] comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How much of the window is known.
    pub covered: Duration,
    /// Where what is known begins.
    pub covered_since: Option<OffsetDateTime>,
    /// For how much of it it was down.
    pub down: Duration,
    /// The newest changes within the window, oldest first.
    pub changes: VecDeque<Change>,
    /// How many there were in all.
    pub changed: usize,
}

impl Total {
    /// Share of what is known in which it was up, in percent; `None` when nothing is known.
    #[must_use]
    pub fn up_percent(&self) -> Option<f64> {
        let up = (self.covered - self.down).as_seconds_f64();
        (!self.covered.is_zero()).then(|| up / self.covered.as_seconds_f64() * 100.0)
    }
}

/// What a tally is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    /// An instance or a component: what isn't there is not known.
    One,
    /// A service of which an instance was there: it is down while none is.
    Known,
    /// A service of which none was there yet.
    Unknown,
}

/// Adds changes up, one by one: however many there are, it remembers only who is there and the newest changes.
#[derive(Clone, Debug)]
pub struct Tally {
    window: Window,
    whole: Whole,
    /// Instances that are there; of one instance or component, itself.
    parts: HashMap<String, Status>,
    /// How many of them are healthy, degraded and down.
    counts: [usize; 3],
    /// Up to when it is added up, and how the whole is since then.
    at: OffsetDateTime,
    status: Option<Status>,
    total: Total,
    kept: usize,
}

impl Tally {
    /// Of one instance or component; at most `kept` changes are kept.
    #[must_use]
    pub fn of_one(window: Window, kept: usize) -> Self {
        Self::new(window, Whole::One, kept)
    }

    /// Of a service; `known` tells that an instance was there before the window, and may have left.
    #[must_use]
    pub fn of_service(window: Window, known: bool, kept: usize) -> Self {
        Self::new(window, if known { Whole::Known } else { Whole::Unknown }, kept)
    }

    fn new(window: Window, whole: Whole, kept: usize) -> Self {
        let (parts, counts, total) = (HashMap::new(), [0; 3], Total::default());
        let mut tally = Self { window, whole, parts, counts, at: window.since, status: None, total, kept };
        tally.status = tally.current();
        tally
    }

    /// From `at` on, `part` has this status, or isn't there (`None`). Changes come in the order of time; what holds at the
    /// window's start comes with the time at which it began.
    pub fn change(&mut self, part: &str, at: OffsetDateTime, status: Option<Status>) {
        self.advance(at);
        let before = match status {
            Some(status) => {
                self.counts[status as usize] += 1;
                self.parts.insert(part.to_owned(), status)
            }
            None => self.parts.remove(part),
        };
        if let Some(before) = before {
            self.counts[before as usize] -= 1;
        }
        if self.whole == Whole::Unknown {
            self.whole = Whole::Known;
        }
        let status = self.current();
        if status != self.status {
            self.status = status;
            if at > self.window.since {
                self.keep(Change { at, status });
            }
        }
    }

    /// What it comes to at the window's end.
    #[must_use]
    pub fn total(mut self) -> Total {
        self.advance(self.window.until);
        self.total
    }

    fn current(&self) -> Option<Status> {
        let statuses = [Status::Healthy, Status::Degraded, Status::Down];
        let best = statuses.into_iter().zip(self.counts).find(|(_, count)| *count > 0).map(|(status, _)| status);
        best.or((self.whole == Whole::Known).then_some(Status::Down))
    }

    /// Adds up what held until `to`.
    fn advance(&mut self, to: OffsetDateTime) {
        let to = to.clamp(self.at, self.window.until.max(self.at));
        let span = to - self.at;
        if let Some(status) = self.status
            && !span.is_zero()
        {
            self.total.covered += span;
            self.total.covered_since.get_or_insert(self.at);
            if status == Status::Down {
                self.total.down += span;
            }
        }
        self.at = to;
    }

    fn keep(&mut self, change: Change) {
        self.total.changed += 1;
        self.total.changes.push_back(change);
        if self.total.changes.len() > self.kept {
            self.total.changes.pop_front();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LENGTH: i64 = 60;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::seconds(1_000_000 + second)
    }

    fn window() -> Window {
        Window { since: at(0), until: at(LENGTH) }
    }

    /// Changes of a few parts, from before the window to after it.
    fn changes() -> impl Strategy<Value = Vec<(i64, usize, Option<Status>)>> {
        let statuses = [Some(Status::Healthy), Some(Status::Degraded), Some(Status::Down), None];
        let change = (-40..LENGTH + 20, 0usize..4, proptest::sample::select(statuses.to_vec()));
        proptest::collection::vec(change, 0..30).prop_map(|mut changes| {
            changes.sort_by_key(|(second, ..)| *second);
            changes
        })
    }

    /// How each part is in the second that begins at `second`.
    fn parts(changes: &[(i64, usize, Option<Status>)], second: i64) -> [Option<Status>; 4] {
        let mut parts = [None; 4];
        for (_, part, status) in changes.iter().filter(|(begins, ..)| *begins <= second) {
            parts[*part] = *status;
        }
        parts
    }

    /// The same, second by second: `whole` says how the whole is in one.
    fn naive(whole: impl Fn(i64) -> Option<Status>) -> Total {
        let seconds: Vec<_> = (0..LENGTH).map(|second| (second, whole(second))).collect();
        let count = |fits: &dyn Fn(Status) -> bool| {
            Duration::seconds(seconds.iter().filter(|(_, status)| status.is_some_and(fits)).count() as i64)
        };
        Total {
            covered: count(&|_| true),
            covered_since: seconds.iter().find(|(_, status)| status.is_some()).map(|(second, _)| at(*second)),
            down: count(&|status| status == Status::Down),
            ..Total::default()
        }
    }

    fn sums(total: Total) -> Total {
        Total { changes: VecDeque::new(), changed: 0, ..total }
    }

    proptest! {
        #[test]
        fn a_service_is_counted_as_second_by_second(changes in changes(), before in proptest::bool::ANY) {
            let mut tally = Tally::of_service(window(), before, 100);
            for (second, part, status) in &changes {
                tally.change(&part.to_string(), at(*second), *status);
            }
            let whole = |second| {
                let known = before || changes.iter().any(|(begins, ..)| *begins <= second);
                let best = Status::best(parts(&changes, second).into_iter().flatten());
                best.or(known.then_some(Status::Down))
            };
            let total = tally.total();
            for change in &total.changes {
                let second = (change.at - at(0)).whole_seconds();
                if let Some(last) = total.changes.iter().rfind(|other| other.at == change.at) && second < LENGTH {
                    prop_assert_eq!(last.status, whole(second), "since second {}", second);
                }
            }
            prop_assert_eq!(sums(total), naive(whole));
        }

        #[test]
        fn one_is_counted_as_second_by_second(changes in changes()) {
            let mut tally = Tally::of_one(window(), 100);
            let changes: Vec<_> = changes.into_iter().filter(|(_, part, _)| *part == 0).collect();
            for (second, _, status) in &changes {
                tally.change("", at(*second), *status);
            }
            prop_assert_eq!(sums(tally.total()), naive(|second| parts(&changes, second)[0]));
        }

        /// What is left out before the window, because something else replaced it there, changes nothing.
        #[test]
        fn only_what_held_at_the_start_matters_of_before(changes in changes()) {
            let tally = |changes: &[(i64, usize, Option<Status>)]| {
                let known = changes.iter().any(|(second, ..)| *second <= 0);
                let mut tally = Tally::of_service(window(), known, 100);
                changes.iter().for_each(|(second, part, status)| tally.change(&part.to_string(), at(*second), *status));
                tally.total()
            };
            let replaced = |index: usize| {
                let (_, part, _) = changes[index];
                changes[index + 1..].iter().any(|(second, other, _)| *other == part && *second <= 0)
            };
            let needed: Vec<_> =
                (0..changes.len()).filter(|index| !replaced(*index)).map(|index| changes[index]).collect();
            let known = changes.iter().any(|(second, ..)| *second <= 0);
            prop_assume!(known == needed.iter().any(|(second, ..)| *second <= 0));
            prop_assert_eq!(tally(&changes), tally(&needed));
        }

        #[test]
        fn no_more_than_the_newest_changes_are_kept(changes in changes(), kept in 0usize..5) {
            let total = |kept| {
                let mut tally = Tally::of_service(window(), false, kept);
                changes.iter().for_each(|(second, part, status)| tally.change(&part.to_string(), at(*second), *status));
                tally.total()
            };
            let (all, some) = (total(100), total(kept));
            prop_assert_eq!(all.changed, all.changes.len());
            prop_assert_eq!(some.changed, all.changed);
            let skipped = all.changes.len().saturating_sub(kept);
            prop_assert_eq!(some.changes, all.changes.into_iter().skip(skipped).collect::<VecDeque<_>>());
        }
    }

    #[test]
    fn a_service_that_came_lately_is_judged_by_its_own_time() {
        let mut tally = Tally::of_service(window(), false, 100);
        tally.change("a", at(20), Some(Status::Healthy));
        tally.change("a", at(30), Some(Status::Down));
        tally.change("a", at(40), Some(Status::Degraded));
        let total = tally.total();
        assert_eq!(
            (total.covered, total.covered_since, total.down),
            (Duration::seconds(40), Some(at(20)), Duration::seconds(10))
        );
        assert_eq!(total.up_percent(), Some(75.0));
        assert_eq!(Tally::of_service(window(), false, 1).total().up_percent(), None);
        assert_eq!(Tally::of_service(window(), true, 1).total().up_percent(), Some(0.0), "all had left before");
    }
}
