//! When so many fall silent at once that it is hardly they who died: a network that broke, or the hub that can't hear.
//!
//! Where over half of a service's instances, or of the fleet, and at least [`LEAST`], would be marked down in one window,
//! the hub holds them: it says so and waits. Those that are heard again end the hold without anybody going down; the
//! others are let go when the hold runs out.
//!
//! *One window*: those that are due, those that are late (they will be due within one interval), and those that silence
//! marked down and that were last heard no longer than one timeout before the first of the due. So a mass death that
//! trickles in over several sweeps is seen by the first of them, and somebody who dies long after one, alone, is no part
//! of it.

use std::collections::{BTreeMap, BTreeSet};

use time::{Duration, OffsetDateTime};

use super::name::ServiceName;
use super::settings::ServiceDiscovery;

/// Fewer are never held: so many may well die at once.
pub const LEAST: usize = 5;

/// How many timeouts a hold lasts, where the settings don't say.
const HOLD_TIMEOUTS: f64 = 2.0;

/// How far an instance that isn't heard has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fall {
    /// It will be due within one interval.
    Late,
    /// It would be marked down now.
    Due,
    /// Silence marked it down.
    Down,
}

/// An instance that isn't heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallen {
    /// Its service.
    pub service: ServiceName,
    /// How far it has come.
    pub fall: Fall,
    /// When it was last heard.
    pub last_heard: OffsetDateTime,
    /// Its timeout in seconds.
    pub timeout_seconds: f64,
}

/// What is held: one service, or with `None` the whole fleet.
pub type Scope = Option<ServiceName>;

/// A mass expiry that is held back, or was until it ran out.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// How many of its instances weren't heard, at the most so far.
    pub instances: usize,
    /// When it began, by Postgres' clock.
    pub since: OffsetDateTime,
    /// When those that aren't heard by then are let go.
    pub until: OffsetDateTime,
}

impl Hold {
    /// Whether it still holds at `now`: not after its end, nor when the clock stepped back behind its beginning. One that
    /// ran out stays until all that it held have gone, so that these aren't held again.
    #[must_use]
    pub fn is_on(&self, now: OffsetDateTime) -> bool {
        (self.since..self.until).contains(&now)
    }
}

/// Holds by what they hold.
pub type Holds = BTreeMap<Scope, Hold>;

/// The hold that an instance of `service` falls under, on or run out. The hub's own replicas fall under none: their
/// silence is no news of the fleet.
#[must_use]
pub fn hold_of<'a>(holds: &'a Holds, service: &ServiceName) -> Option<&'a Hold> {
    let own = holds.get(&Some(service.clone())).or_else(|| holds.get(&None));
    own.filter(|_| service.as_str() != ServiceName::HUB)
}

/// Whether `holds` hold an instance of `service` at `now`.
#[must_use]
pub fn is_held(holds: &Holds, service: &ServiceName, now: OffsetDateTime) -> bool {
    let on = |scope: &Scope| holds.get(scope).is_some_and(|hold| hold.is_on(now));
    service.as_str() != ServiceName::HUB && (on(&None) || on(&Some(service.clone())))
}

/// The holds after a look at `now`, given those before it, all that aren't heard, and how many instances of each service
/// aren't down.
#[must_use]
pub fn look(
    before: &Holds,
    fallen: &[Fallen],
    up: &BTreeMap<ServiceName, usize>,
    now: OffsetDateTime,
    settings: &ServiceDiscovery,
) -> Holds {
    let counted = || fallen.iter().filter(|one| one.service.as_str() != ServiceName::HUB);
    let look_at = |scope: Option<&ServiceName>, before: Option<&Hold>| {
        let within = |service: &ServiceName| scope.is_none_or(|only| only == service);
        let members: Vec<&Fallen> = counted().filter(|one| within(&one.service)).collect();
        let up = up.iter().filter(|(service, _)| service.as_str() != ServiceName::HUB && within(service));
        next(before, &members, up.map(|(_, count)| count).sum(), now, settings)
    };
    let fleet = look_at(None, before.get(&None));
    let due = counted().filter(|one| one.fall == Fall::Due).map(|one| &one.service);
    let services: BTreeSet<&ServiceName> = due.chain(before.keys().flatten()).collect();
    let mut after = Holds::new();
    for service in services {
        let scope = Some(service.clone());
        // What the hold of the fleet covers needs none of its own; what is left of that one isn't held any longer for it.
        let own = before.get(&scope).or_else(|| before.get(&None));
        if let Some(hold) = look_at(Some(service), own).filter(|_| fleet.is_none() || before.contains_key(&scope)) {
            after.insert(scope, hold);
        }
    }
    after.extend(fleet.map(|hold| (None, hold)));
    after
}

/// The hold of one scope after a look.
fn next(
    before: Option<&Hold>,
    members: &[&Fallen],
    up: usize,
    now: OffsetDateTime,
    settings: &ServiceDiscovery,
) -> Option<Hold> {
    let count = |fall| members.iter().filter(|one| one.fall == fall).count();
    let silent = count(Fall::Due) + count(Fall::Late);
    let due = || members.iter().filter(|one| one.fall == Fall::Due);
    let longest = due().map(|one| one.timeout_seconds).fold(0.0, f64::max);
    let Some(first) = due().map(|one| one.last_heard).min() else {
        // Nobody is due, perhaps only because the hub couldn't hear for a while: the hold goes on for those still silent.
        return before.filter(|_| silent > 0).cloned();
    };
    let window = first - Duration::seconds_f64(longest);
    let gone = members.iter().filter(|one| one.fall == Fall::Down && one.last_heard >= window).count();
    let all = silent + gone;
    if all < LEAST || all * 2 <= up + gone {
        return None;
    }
    match before {
        Some(hold) => Some(Hold { instances: hold.instances.max(silent), ..hold.clone() }),
        None => {
            let seconds = settings.mass_expiry_hold_seconds.unwrap_or(longest * HOLD_TIMEOUTS);
            let hold = Hold { instances: silent, since: now, until: now + Duration::seconds_f64(seconds) };
            (seconds > 0.0).then_some(hold)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::seconds_f64(1_000_000.0 + seconds)
    }

    fn fallen(service: &str, fall: Fall, count: usize, last_heard: f64) -> Vec<Fallen> {
        let one = Fallen { service: service.parse().unwrap(), fall, last_heard: at(last_heard), timeout_seconds: 3.0 };
        vec![one; count]
    }

    fn up(counts: &[(&str, usize)]) -> BTreeMap<ServiceName, usize> {
        counts.iter().map(|(service, count)| (service.parse().unwrap(), *count)).collect()
    }

    fn settings() -> ServiceDiscovery {
        ServiceDiscovery::default()
    }

    /// Services that are held for the first time at time 3, of those that aren't heard; "" is the fleet.
    fn held(fallen: &[Fallen], counts: &[(&str, usize)]) -> Vec<String> {
        let holds = look(&Holds::new(), fallen, &up(counts), at(3.0), &settings());
        assert!(holds.values().all(|hold| hold.since == at(3.0) && hold.until == at(9.0)));
        holds.keys().map(|scope| scope.as_ref().map_or(String::new(), ToString::to_string)).collect()
    }

    #[test]
    fn over_half_and_at_least_five_are_held() {
        let others = ("other", 100);
        assert_eq!(held(&fallen("s", Fall::Due, 6, 0.0), &[("s", 10), others]), ["s"]);
        assert!(held(&fallen("s", Fall::Due, 5, 0.0), &[("s", 10), others]).is_empty(), "half is not over half");
        assert_eq!(held(&fallen("s", Fall::Due, 5, 0.0), &[("s", 9), others]), ["s"]);
        assert!(held(&fallen("s", Fall::Due, 4, 0.0), &[("s", 4), others]).is_empty(), "so few may well die at once");
        // Of a fleet of small services.
        let many: Vec<Fallen> = ["a", "b", "c"].iter().flat_map(|name| fallen(name, Fall::Due, 2, 0.0)).collect();
        let counts = [("a", 2), ("b", 2), ("c", 2), ("d", 5)];
        assert_eq!(held(&many, &counts), [""]);
        assert!(held(&many, &[counts.as_slice(), &[("e", 1)]].concat()).is_empty());
        assert_eq!(held(&many, &[counts.as_slice(), &[("central-hub", 9)]].concat()), [""], "the hub doesn't count");
        assert!(held(&fallen("central-hub", Fall::Due, 9, 0.0), &[("central-hub", 9)]).is_empty());
    }

    #[test]
    fn a_mass_death_is_seen_by_the_first_sweep_that_finds_any_of_it() {
        let mut trickle = fallen("s", Fall::Due, 1, -0.6);
        trickle.extend(fallen("s", Fall::Late, 5, 0.3));
        assert_eq!(held(&trickle, &[("s", 10), ("other", 100)]), ["s"]);
        assert!(held(&fallen("s", Fall::Late, 9, 0.0), &[("s", 10)]).is_empty(), "nobody is due");
    }

    #[test]
    fn those_who_went_down_just_before_are_part_of_it() {
        let mut trickle = fallen("s", Fall::Due, 3, 0.0);
        trickle.extend(fallen("s", Fall::Down, 3, -2.9));
        let counts = [("s", 7), ("other", 100)];
        assert_eq!(held(&trickle, &counts), ["s"]);
        trickle.iter_mut().filter(|one| one.fall == Fall::Down).for_each(|one| one.last_heard = at(-3.1));
        assert!(held(&trickle, &counts).is_empty(), "long before");
    }

    #[test]
    fn a_hold_ends_when_they_are_heard_again_or_when_it_runs_out_and_is_not_repeated() {
        let counts = up(&[("s", 10), ("other", 100)]);
        let s: ServiceName = "s".parse().unwrap();
        let step = |holds: &Holds, fallen: &[Fallen], now: f64| look(holds, fallen, &counts, at(now), &settings());
        let began = step(&Holds::new(), &fallen("s", Fall::Due, 6, 0.0), 3.0);
        assert!(is_held(&began, &s, at(3.0)) && !is_held(&began, &"other".parse().unwrap(), at(3.0)));

        let grown = step(&began, &fallen("s", Fall::Due, 8, 0.0), 4.0);
        assert_eq!(grown[&Some(s.clone())].instances, 8);
        assert_eq!(grown[&Some(s.clone())].until, at(9.0), "it lasts no longer for that");
        assert!(step(&grown, &[], 5.0).is_empty(), "all are heard again");
        assert!(step(&grown, &fallen("s", Fall::Due, 2, 0.0), 5.0).is_empty(), "and the other two are no mass");
        // A new leader, who hasn't heard for a timeout, finds nobody due.
        assert_eq!(step(&grown, &fallen("s", Fall::Late, 8, 0.0), 5.0), grown);

        assert!(is_held(&grown, &s, at(8.9)) && !is_held(&grown, &s, at(9.0)));
        let spent = step(&grown, &fallen("s", Fall::Due, 8, 0.0), 9.0);
        assert!(!is_held(&spent, &s, at(9.0)), "it ran out, and no other one began");
        // Down at once but for one, which was late; it isn't held either.
        let mut rest = fallen("s", Fall::Due, 1, 0.5);
        rest.extend(fallen("s", Fall::Down, 8, 0.0));
        let spent = look(&spent, &rest, &up(&[("s", 2), ("other", 100)]), at(9.0), &settings());
        assert!(spent.contains_key(&Some(s.clone())) && !is_held(&spent, &s, at(9.0)));
        assert!(step(&spent, &fallen("s", Fall::Down, 9, 0.0), 10.0).is_empty(), "then it is over");
        // Somebody who dies alone, later, while they still lie there.
        let mut later = fallen("s", Fall::Due, 1, 8.0);
        later.extend(fallen("s", Fall::Down, 9, 0.0));
        assert!(look(&Holds::new(), &later, &up(&[("s", 1)]), at(11.0), &settings()).is_empty());
    }

    #[test]
    fn a_step_of_the_clock_makes_no_hold_longer() {
        let hold = Hold { instances: 6, since: at(3.0), until: at(9.0) };
        assert!(!hold.is_on(at(-600.0)) && !hold.is_on(at(600.0)) && hold.is_on(at(3.0)));
    }

    #[test]
    fn the_hold_is_a_setting() {
        let due = fallen("s", Fall::Due, 6, 0.0);
        for (setting, until) in [(None, Some(9.0)), (Some(30.0), Some(33.0)), (Some(0.0), None)] {
            let settings = ServiceDiscovery { mass_expiry_hold_seconds: setting, ..settings() };
            let holds = look(&Holds::new(), &due, &up(&[("s", 6), ("other", 9)]), at(3.0), &settings);
            assert_eq!(holds.values().next().map(|hold| hold.until), until.map(at));
        }
    }

    #[test]
    fn one_hold_of_the_fleet_says_it_all_and_leaves_no_second_one_behind() {
        let (a, b): (ServiceName, ServiceName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let counts = up(&[("a", 10), ("b", 10)]);
        let both = [fallen("a", Fall::Due, 10, 0.0), fallen("b", Fall::Due, 10, 0.0)].concat();
        let holds = look(&Holds::new(), &both, &counts, at(3.0), &settings());
        assert_eq!(holds.keys().collect::<Vec<_>>(), [&None]);
        assert!(is_held(&holds, &a, at(3.0)) && is_held(&holds, &b, at(3.0)));
        let left = look(&holds, &fallen("a", Fall::Due, 10, 0.0), &counts, at(6.0), &settings());
        assert_eq!(left.keys().collect::<Vec<_>>(), [&Some(a)], "{left:?}");
        assert_eq!(left.values().next().unwrap().until, at(9.0), "it began with the other");
    }
}
