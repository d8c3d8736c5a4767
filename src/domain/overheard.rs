//! Heartbeats that the leader heard itself, whichever replica they were for.
//!
//! NATS hands each heartbeat to one replica. One that is paused, or can't reach Postgres, swallows its share, and the
//! process that sent it looks silent in Postgres. So the leader listens beside the queue group, and what it heard counts
//! for an instance whose silence would otherwise mark it down.

use std::collections::HashMap;
use std::time::Duration;

use super::name::{InstanceId, ServiceName};

/// How many speakers are remembered at the most: some ten megabytes.
const MOST: usize = 100_000;

/// How long a heartbeat is remembered. Who got no answer repeats it long before that.
const KEPT: Duration = Duration::from_secs(3600);

/// The same when there is no room: somebody makes speakers up.
const KEPT_WHEN_FULL: Duration = Duration::from_secs(60);

/// For whom a heartbeat speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Speaker {
    /// Its service.
    pub service: ServiceName,
    /// The instance that it names, if any.
    pub instance: Option<InstanceId>,
    /// The incarnation that it names, if any.
    pub incarnation: Option<i64>,
}

/// When whom was last heard, by the leader's monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Overheard(HashMap<Speaker, Duration>);

impl Overheard {
    /// Remembers a heartbeat; `false` when there is no room for one more speaker.
    pub fn note(&mut self, speaker: Speaker, at: Duration) -> bool {
        if let Some(last) = self.0.get_mut(&speaker) {
            *last = (*last).max(at);
            return true;
        }
        let room = self.0.len() < MOST;
        if room {
            self.0.insert(speaker, at);
        }
        room
    }

    /// When the registration `incarnation` of an instance was last heard; `alone`: it is its service's only instance, so
    /// that heartbeats that name none speak for it. A heartbeat that the hub would refuse counts for nothing.
    #[must_use]
    pub fn last(
        &self,
        service: &ServiceName,
        instance: &InstanceId,
        incarnation: i64,
        alone: bool,
    ) -> Option<Duration> {
        let heard = |instance, incarnation| self.0.get(&Speaker { service: service.clone(), instance, incarnation });
        let named = [Some(incarnation), None].map(|incarnation| heard(Some(instance.clone()), incarnation));
        let unnamed = [Some(incarnation), None].map(|incarnation| heard(None, incarnation).filter(|_| alone));
        named.into_iter().chain(unnamed).flatten().max().copied()
    }

    /// Forgets what was heard too long before `now`.
    pub fn forget_old(&mut self, now: Duration) {
        let kept = if self.0.len() < MOST { KEPT } else { KEPT_WHEN_FULL };
        self.0.retain(|_, heard| now.saturating_sub(*heard) <= kept);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn speaker(instance: Option<&str>, incarnation: Option<i64>) -> Speaker {
        let instance = instance.map(|instance| instance.parse().unwrap());
        Speaker { service: "s".parse().unwrap(), instance, incarnation }
    }

    #[test]
    fn only_what_the_hub_would_take_counts() {
        let seconds = Duration::from_secs;
        let (service, me): (ServiceName, InstanceId) = ("s".parse().unwrap(), "i".parse().unwrap());
        for (instance, incarnation, alone, counts) in [
            (Some("i"), Some(7), false, true),
            (Some("i"), None, false, true),
            (Some("i"), Some(6), true, false),
            (Some("i"), Some(8), true, false),
            (Some("j"), Some(7), true, false),
            (None, Some(7), true, true),
            (None, None, true, true),
            (None, None, false, false),
            (None, Some(6), true, false),
        ] {
            let mut overheard = Overheard::default();
            assert!(overheard.note(speaker(instance, incarnation), seconds(5)));
            let last = overheard.last(&service, &me, 7, alone);
            assert_eq!(last.is_some(), counts, "{instance:?} {incarnation:?} alone: {alone}");
            overheard.forget_old(seconds(3_605));
            assert_eq!(overheard.last(&service, &me, 7, alone).is_some(), counts);
            overheard.forget_old(seconds(3_606));
            assert_eq!(overheard.last(&service, &me, 7, alone), None);
        }
    }

    #[test]
    fn the_newest_counts_and_there_is_an_end_to_it() {
        let mut overheard = Overheard::default();
        let (service, me): (ServiceName, InstanceId) = ("s".parse().unwrap(), "i".parse().unwrap());
        for (incarnation, at) in [(Some(7), 3), (None, 5), (Some(7), 4)] {
            overheard.note(speaker(Some("i"), incarnation), Duration::from_secs(at));
        }
        assert_eq!(overheard.last(&service, &me, 7, false), Some(Duration::from_secs(5)));
        for number in 0.. {
            if !overheard.note(speaker(None, Some(number)), Duration::ZERO) {
                break;
            }
        }
        assert_eq!(overheard.0.len(), MOST);
        assert!(overheard.note(speaker(Some("i"), None), Duration::from_secs(90)), "who is known already is heard");
        overheard.forget_old(Duration::from_secs(90));
        assert_eq!(overheard.0.len(), 1, "and the others soon make room");
    }
}
