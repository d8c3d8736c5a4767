//! When silence means that an instance is down.
//!
//! Only silence that the hub was able to hear counts. [`Hearing`] tells since when that is; [`judge`] never counts
//! silence from before. And it counts every heartbeat that the leader heard itself ([`overheard`](super::overheard)),
//! whether or not the replica that it was for could take it.

use std::time::Duration;

use time::OffsetDateTime;

use super::settings::ServiceDiscovery;
use super::status::Status;

/// A gap between two sweeps, or a step between Postgres' clock and the monotonic one, above which the hub counts itself
/// as having been away (paused, starved, or its time base moved).
pub const TROUBLE: Duration = Duration::from_millis(500);

/// How much longer than its timeout an instance may be silent before it is marked down, in seconds: a break of the hub's
/// hearing that is shorter than [`TROUBLE`] goes unnoticed, and costs nobody who beats.
const ALLOWANCE: f64 = 0.5;

/// How many of its intervals an instance is silent at the least before it counts as late.
const LATE_INTERVALS: f64 = 1.25;

/// How long an instance may be silent: its interval × max(2, timeout / interval of the settings), in seconds.
#[must_use]
pub fn timeout_seconds(interval_seconds: Option<f64>, settings: &ServiceDiscovery) -> f64 {
    interval_seconds.unwrap_or(settings.heartbeat_interval_seconds) * factor(settings)
}

/// How many intervals make a timeout; at least two, so that one lost heartbeat is never fatal.
#[must_use]
pub fn factor(settings: &ServiceDiscovery) -> f64 {
    (settings.service_timeout_seconds / settings.heartbeat_interval_seconds).max(2.0)
}

/// What the sweep knows of an instance. All times are Postgres'.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Its status.
    pub status: Status,
    /// Its last heartbeat that was taken.
    pub last_heartbeat: OffsetDateTime,
    /// Its last heartbeat that the leader heard, taken or not.
    pub overheard: Option<OffsetDateTime>,
    /// Since when it has its status.
    pub status_since: OffsetDateTime,
    /// Its own interval in seconds, if it asked for one.
    pub interval_seconds: Option<f64>,
    /// When this was read.
    pub read_at: OffsetDateTime,
}

impl Observed {
    /// When it was last heard. A time that lies ahead is from before the clock stepped back: all that is known is that it
    /// isn't later than now.
    #[must_use]
    pub fn last_heard(&self) -> OffsetDateTime {
        let taken = self.last_heartbeat.min(self.read_at);
        self.overheard.map_or(taken, |overheard| overheard.max(taken))
    }

    /// Whether it has been silent for so long, at `now`, that one of its heartbeats is missing and it will be due within
    /// one interval. Whether the hub could hear doesn't matter here.
    #[must_use]
    pub fn is_late(&self, now: OffsetDateTime, settings: &ServiceDiscovery) -> bool {
        let interval = self.interval_seconds.unwrap_or(settings.heartbeat_interval_seconds);
        let tolerated = (interval * (factor(settings) - 1.0)).max(interval * LATE_INTERVALS);
        self.status != Status::Down && (now - self.last_heard()).as_seconds_f64() > tolerated
    }
}

/// What the sweep does with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// It was silent for longer than its timeout.
    MarkDown,
    /// It has been down for so long that its record goes.
    Remove,
}

/// Judges one instance at `now` by a hub that has been able to hear since `hearing_since`, all by Postgres' clock.
#[must_use]
pub fn judge(
    instance: &Observed,
    now: OffsetDateTime,
    hearing_since: OffsetDateTime,
    settings: &ServiceDiscovery,
) -> Verdict {
    let silence = (now - instance.last_heard().max(hearing_since)).as_seconds_f64();
    if instance.status == Status::Down {
        // A process that reports itself as down still beats: only silence removes a record.
        let gone = (now - instance.status_since.min(instance.read_at)).as_seconds_f64().min(silence);
        let due = settings.auto_deregister_dead_services && gone > settings.deregister_after_seconds;
        return if due { Verdict::Remove } else { Verdict::Keep };
    }
    let due = silence > timeout_seconds(instance.interval_seconds, settings) + ALLOWANCE;
    if due { Verdict::MarkDown } else { Verdict::Keep }
}

/// Since when the leader has been able to hear heartbeats without a break.
#[derive(Clone, Debug, Default)]
pub struct Hearing {
    since: Option<OffsetDateTime>,
    last: Option<Tick>,
}

/// One look at the clocks, taken by the sweep.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Postgres' clock.
    pub now: OffsetDateTime,
    /// The process' monotonic clock, since any fixed point.
    pub monotonic: Duration,
}

impl Hearing {
    /// The hub can't hear (NATS or Postgres is away, heartbeats can't be stored, leadership changed): whatever silence
    /// there was until the next tick counts for nothing.
    pub fn interrupt(&mut self) {
        *self = Self::default();
    }

    /// Takes a look at the clocks and tells since when the hub has heard without a break. `period` is the time that
    /// should lie between two ticks.
    pub fn tick(&mut self, tick: Tick, period: Duration) -> OffsetDateTime {
        if let Some(last) = self.last {
            let passed = tick.monotonic.saturating_sub(last.monotonic);
            let by_postgres = tick.now - last.now;
            let step = (by_postgres - passed).unsigned_abs();
            if passed > period + TROUBLE || step > TROUBLE {
                self.since = None;
            }
        }
        self.last = Some(tick);
        *self.since.get_or_insert(tick.now)
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::Duration as Span;

    const PERIOD: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Span::seconds_f64(1_000_000.0 + seconds)
    }

    fn defaults() -> ServiceDiscovery {
        super::super::settings::Settings::default().service_discovery
    }

    fn beating(last: f64, interval: f64) -> Observed {
        Observed {
            status: Status::Healthy,
            last_heartbeat: at(last),
            overheard: None,
            status_since: at(last),
            interval_seconds: Some(interval),
            read_at: at(1e9),
        }
    }

    #[test]
    fn timeouts_scale_with_the_interval() {
        assert_eq!(timeout_seconds(None, &defaults()), 90.0);
        assert_eq!(timeout_seconds(Some(0.5), &defaults()), 1.5);
        let tight = ServiceDiscovery { service_timeout_seconds: 30.0, ..defaults() };
        assert_eq!(timeout_seconds(Some(10.0), &tight), 20.0);
    }

    proptest! {
        /// An instance that beats at its interval is never marked down, whatever breaks the hub's hearing has.
        #[test]
        fn who_keeps_beating_is_never_down(
            interval in 0.1f64..5.0,
            steps in proptest::collection::vec((0.05f64..3.0, proptest::bool::ANY, 0.0f64..0.49), 1..80),
        ) {
            let (mut now, mut hearing) = (0.0, Hearing::default());
            // Heartbeats during a break are lost on the way: the record keeps the last one that was heard.
            let mut last_heard = 0.0;
            for (step, broken, late) in steps {
                now += step;
                if broken {
                    hearing.interrupt();
                    continue;
                }
                let tick = Tick { now: at(now), monotonic: Duration::from_secs_f64(now) };
                let since = hearing.tick(tick, PERIOD);
                // What was sent a moment ago is still on its way: an unnoticed pause held it up.
                let arrived = now - late;
                if arrived - (since - at(0.0)).as_seconds_f64() >= interval {
                    last_heard = f64::max(last_heard, arrived - arrived % interval);
                }
                prop_assert_eq!(judge(&beating(last_heard, interval), at(now), since, &defaults()), Verdict::Keep);
            }
        }

        /// An instance that stopped is marked down by the first sweep after its timeout and the allowance.
        #[test]
        fn who_stopped_is_down_after_its_timeout(interval in 0.1f64..5.0) {
            let (mut hearing, mut now) = (Hearing::default(), 0.0);
            loop {
                let tick = Tick { now: at(now), monotonic: Duration::from_secs_f64(now) };
                let since = hearing.tick(tick, PERIOD);
                let verdict = judge(&beating(0.0, interval), at(now), since, &defaults());
                prop_assert_eq!(verdict == Verdict::MarkDown, now > interval * 3.0 + ALLOWANCE + 1e-6, "at {}", now);
                if verdict == Verdict::MarkDown {
                    break;
                }
                now += 1.0;
            }
        }
    }

    #[test]
    fn a_pause_or_a_step_of_the_clock_starts_the_grace_again() {
        let mut hearing = Hearing::default();
        let tick = |now: f64, monotonic: f64| Tick { now: at(now), monotonic: Duration::from_secs_f64(monotonic) };
        assert_eq!(hearing.tick(tick(0.0, 0.0), PERIOD), at(0.0));
        assert_eq!(hearing.tick(tick(1.0, 1.0), PERIOD), at(0.0));
        assert_eq!(hearing.tick(tick(9.0, 9.0), PERIOD), at(9.0), "paused for eight seconds");
        assert_eq!(hearing.tick(tick(310.0, 10.0), PERIOD), at(310.0), "Postgres' clock stepped ahead");
        assert_eq!(hearing.tick(tick(11.0, 11.0), PERIOD), at(11.0), "and back");
    }

    #[test]
    fn only_the_silent_are_removed() {
        let mut down = Observed { status: Status::Down, ..beating(0.0, 1.0) };
        assert_eq!(judge(&down, at(599.0), at(0.0), &defaults()), Verdict::Keep);
        assert_eq!(judge(&down, at(601.0), at(0.0), &defaults()), Verdict::Remove);
        assert_eq!(judge(&down, at(601.0), at(300.0), &defaults()), Verdict::Keep, "the hub was away");
        down.last_heartbeat = at(600.0);
        assert_eq!(judge(&down, at(601.0), at(0.0), &defaults()), Verdict::Keep, "it reports itself as down");
        let off = ServiceDiscovery { auto_deregister_dead_services: false, ..defaults() };
        assert_eq!(judge(&Observed { last_heartbeat: at(0.0), ..down }, at(9e6), at(0.0), &off), Verdict::Keep);
    }

    #[test]
    fn what_the_leader_heard_counts_whoever_should_have_taken_it() {
        let mut swallowed = beating(0.0, 1.0);
        assert_eq!(judge(&swallowed, at(4.0), at(-9.0), &defaults()), Verdict::MarkDown);
        swallowed.overheard = Some(at(1.0));
        assert_eq!(judge(&swallowed, at(4.0), at(-9.0), &defaults()), Verdict::Keep);
        assert_eq!(judge(&swallowed, at(4.6), at(-9.0), &defaults()), Verdict::MarkDown);
    }

    #[test]
    fn a_time_from_before_the_clock_stepped_back_is_taken_for_now() {
        let dead = Observed { read_at: at(10.0), ..beating(3_600.0, 1.0) };
        assert_eq!(dead.last_heard(), at(10.0));
        // From then on the sweep's word stands in the record.
        let noted = Observed { last_heartbeat: at(10.0), read_at: at(13.6), ..dead };
        assert_eq!(judge(&noted, at(13.4), at(10.0), &defaults()), Verdict::Keep);
        assert_eq!(judge(&noted, at(13.6), at(10.0), &defaults()), Verdict::MarkDown);
        // Committed a moment after the sweep looked at the clock.
        let fresh = Observed { read_at: at(10.2), ..beating(10.1, 1.0) };
        assert_eq!((fresh.last_heard(), judge(&fresh, at(9.9), at(0.0), &defaults())), (at(10.1), Verdict::Keep));
    }

    #[test]
    fn late_is_who_will_soon_be_due() {
        for (timeout, late) in [(90.0, 2.0), (30.0, 1.25)] {
            let settings = ServiceDiscovery { service_timeout_seconds: timeout, ..defaults() };
            assert!(!beating(0.0, 1.0).is_late(at(late - 0.01), &settings));
            assert!(beating(0.0, 1.0).is_late(at(late + 0.01), &settings));
        }
    }
}
