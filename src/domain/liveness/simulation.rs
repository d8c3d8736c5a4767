//! The rules of liveness in thousands of seeded schedules: replicas that die, hang or lose Postgres, NATS and Postgres that
//! go away or stand still, a clock that steps; and instances of all intervals, some of which die.
//!
//! Who beats and repeats what got no answer is never marked down; who died is, within its timeout and two seconds of the
//! hub being well.

use std::time::Duration;

use super::*;
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::overheard::{Overheard, Speaker};

const SCHEDULES: u64 = 2_000;
const STEP_MS: i64 = 50;
const LENGTH_MS: i64 = 45_000;
const PASS_MS: i64 = 1_000;
const LEASE_MS: i64 = 4_000;
/// How long an instance waits for an answer before it repeats a heartbeat.
const PATIENCE_MS: i64 = 150;
/// How much longer than its timeout a dead instance may be up.
const LATEST_MS: i64 = 2_000;

fn at(ms: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1_000_000_000_000 + ms)
}

fn ms(at: OffsetDateTime) -> i64 {
    i64::try_from((at - self::at(0)).whole_milliseconds()).unwrap_or(0)
}

fn monotonic(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Up,
    Down,
    Paused,
}

struct Instance {
    id: InstanceId,
    interval: i64,
    dies: Option<i64>,
    next: i64,
    last_heartbeat: i64,
    /// The same by the true clock.
    taken: i64,
    status: Status,
    status_since: i64,
}

impl Instance {
    fn timeout(&self, settings: &ServiceDiscovery) -> i64 {
        (timeout_seconds(Some(self.interval as f64 / 1_000.0), settings) * 1_000.0) as i64
    }

    fn lives(&self, now: i64) -> bool {
        self.dies.is_none_or(|dies| now < dies)
    }
}

struct Replica {
    state: Server,
    has_postgres: bool,
    token: Option<i64>,
    hearing: Hearing,
    overheard: Overheard,
    /// What waits in its subscription beside the queue group while it stands still; `None` without one.
    listens: Option<Vec<Speaker>>,
    /// Instances whose heartbeats wait in its queue group while it stands still.
    swallowed: Vec<usize>,
    interrupted: bool,
    next_pass: i64,
}

struct World {
    random: fastrand::Rng,
    now: i64,
    /// Postgres' clock against the true one.
    skew: i64,
    nats: Server,
    /// Instances whose heartbeats wait while NATS stands still.
    waiting: Vec<usize>,
    postgres: Server,
    lease: Option<(usize, i64, i64)>,
    replicas: Vec<Replica>,
    instances: Vec<Instance>,
    /// Since when nothing that concerns the leader is amiss.
    well_since: i64,
    /// Whether the clock stepped, or NATS came back, and no pass has seen it yet.
    unseen: bool,
    /// When each server, and each replica, is mended.
    mends: Vec<(i64, Mend)>,
    service: ServiceName,
    settings: ServiceDiscovery,
}

#[derive(Clone, Copy)]
enum Mend {
    Nats,
    Postgres,
    Replica(usize),
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let replicas = (0..random.usize(1..4)).map(|_| Replica {
            state: Server::Up,
            has_postgres: true,
            token: None,
            hearing: Hearing::default(),
            overheard: Overheard::default(),
            listens: None,
            swallowed: Vec::new(),
            interrupted: false,
            next_pass: 0,
        });
        let replicas = replicas.collect();
        let instances = (0..10).map(|number| {
            let interval = random.choice([200, 500, 700, 1_000, 2_500]).unwrap_or(700);
            Instance {
                id: format!("i{number}").parse().unwrap_or_else(|_| unreachable!()),
                interval,
                dies: (number < 4).then(|| random.i64(1_000..LENGTH_MS - 20_000)),
                next: random.i64(0..interval),
                last_heartbeat: 0,
                taken: 0,
                status: Status::Healthy,
                status_since: 0,
            }
        });
        let instances = instances.collect();
        // Timeouts of two intervals are the hardest.
        let timeout = random.choice([60.0, 90.0]).unwrap_or(90.0);
        World {
            random,
            now: 0,
            skew: 0,
            nats: Server::Up,
            waiting: Vec::new(),
            postgres: Server::Up,
            lease: None,
            replicas,
            instances,
            well_since: 0,
            unseen: false,
            mends: Vec::new(),
            service: "s".parse().unwrap_or_else(|_| unreachable!()),
            settings: ServiceDiscovery { service_timeout_seconds: timeout, ..ServiceDiscovery::default() },
        }
    }

    fn postgres_now(&self) -> i64 {
        self.now + self.skew
    }

    /// Something goes wrong now and then, and is mended after up to nine seconds.
    fn strike(&mut self) {
        if self.random.i64(0..4_000) >= STEP_MS {
            return;
        }
        let until = self.now + self.random.i64(100..9_000);
        let away = if self.random.bool() { Server::Down } else { Server::Paused };
        let which = self.random.usize(0..self.replicas.len());
        let replica = &mut self.replicas[which];
        match self.random.u8(0..10) {
            0 if self.nats == Server::Up => {
                self.nats = away;
                self.mends.push((until, Mend::Nats));
            }
            1 if self.postgres == Server::Up => {
                self.postgres = away;
                self.mends.push((until, Mend::Postgres));
            }
            2 => {
                self.skew += self.random.choice([-3_600_000, -5_000, -1_500, 1_500, 5_000, 3_600_000]).unwrap_or(0);
                (self.unseen, self.well_since) = (true, self.now);
            }
            3..=4 if replica.has_postgres && replica.state == Server::Up => {
                replica.has_postgres = false;
                self.mends.push((until, Mend::Replica(which)));
            }
            5.. if replica.has_postgres && replica.state == Server::Up => {
                replica.state = away;
                if away == Server::Down {
                    (replica.token, replica.listens) = (None, None);
                    replica.hearing.interrupt();
                }
                self.mends.push((until, Mend::Replica(which)));
            }
            _ => {}
        }
    }

    fn mend(&mut self) {
        let (due, later) = std::mem::take(&mut self.mends).into_iter().partition(|(until, _)| *until <= self.now);
        self.mends = later;
        for (_, mend) in Vec::from_iter::<Vec<(i64, Mend)>>(due) {
            match mend {
                Mend::Nats => {
                    // A connection that stood still goes on as if nothing had been.
                    if self.nats == Server::Down {
                        self.replicas.iter_mut().for_each(|replica| replica.interrupted = true);
                    }
                    (self.nats, self.unseen) = (Server::Up, true);
                    for instance in std::mem::take(&mut self.waiting) {
                        self.deliver(instance);
                    }
                }
                Mend::Postgres => self.postgres = Server::Up,
                Mend::Replica(which) => {
                    let replica = &mut self.replicas[which];
                    (replica.state, replica.has_postgres) = (Server::Up, true);
                    // It goes on where it stood: with what waited, and with its pass, at once.
                    replica.next_pass = replica.next_pass.max(self.now);
                    let waited = std::mem::take(&mut replica.swallowed);
                    if self.postgres == Server::Up {
                        waited.into_iter().for_each(|instance| self.take(instance));
                    }
                }
            }
        }
    }

    /// A heartbeat reaches Postgres.
    fn take(&mut self, which: usize) {
        let now = self.postgres_now();
        let instance = &mut self.instances[which];
        (instance.last_heartbeat, instance.taken) = (now, self.now);
        if instance.status == Status::Down {
            (instance.status, instance.status_since) = (Status::Healthy, now);
        }
    }

    fn beat(&mut self, which: usize) {
        let instance = &self.instances[which];
        if self.now < instance.next || !instance.lives(self.now) {
            return;
        }
        let again = PATIENCE_MS + self.random.i64(20..60);
        let answered = match self.nats {
            Server::Up => self.deliver(which),
            Server::Paused => {
                self.waiting.push(which);
                false
            }
            Server::Down => false,
        };
        let instance = &mut self.instances[which];
        instance.next = self.now + if answered { instance.interval } else { again };
    }

    /// NATS hands a heartbeat to one replica, and to who listens; tells whether it was taken.
    fn deliver(&mut self, which: usize) -> bool {
        let instance = Some(self.instances[which].id.clone());
        let speaker = Speaker { service: self.service.clone(), instance, incarnation: None };
        for replica in &mut self.replicas {
            match (&mut replica.listens, replica.state) {
                (Some(_), Server::Up) => _ = replica.overheard.note(speaker.clone(), monotonic(self.now)),
                (Some(waiting), _) => waiting.push(speaker.clone()),
                (None, _) => {}
            }
        }
        let there: Vec<usize> =
            (0..self.replicas.len()).filter(|one| self.replicas[*one].state != Server::Down).collect();
        let Some(one) = self.random.choice(there) else { return false };
        let replica = &mut self.replicas[one];
        if replica.state == Server::Paused {
            replica.swallowed.push(which);
            return false;
        }
        let takes = replica.has_postgres && self.postgres == Server::Up;
        if takes {
            self.take(which);
        }
        takes
    }

    /// What a replica does once a second, as the leader does it.
    fn pass(&mut self, which: usize) -> Result<(), String> {
        let now = self.postgres_now();
        let has_postgres = self.postgres == Server::Up && self.replicas[which].has_postgres;
        let pause = if has_postgres { self.random.i64(0..100) } else { self.random.i64(0..3_000) };
        let replica = &mut self.replicas[which];
        if replica.state != Server::Up || self.now < replica.next_pass {
            return Ok(());
        }
        replica.next_pass = self.now + PASS_MS + pause;
        if !has_postgres {
            replica.token = None;
            replica.hearing.interrupt();
            return Ok(());
        }
        let free = self.lease.is_none_or(|(_, until, _)| until <= now || until > now + 2 * LEASE_MS);
        let own = self.lease.is_some_and(|(holder, ..)| holder == which);
        if !free && !own {
            (replica.token, replica.listens) = (None, None);
            return Ok(());
        }
        let token = match self.lease {
            Some((_, until, token)) if own && until > now => token,
            before => before.map_or(1, |(.., token)| token + 1),
        };
        self.lease = Some((which, now + LEASE_MS, token));
        if replica.token != Some(token) {
            replica.hearing.interrupt();
            replica.token = Some(token);
        }
        if self.nats != Server::Up {
            replica.hearing.interrupt();
            return Ok(());
        }
        if std::mem::take(&mut replica.interrupted) {
            replica.hearing.interrupt();
        }
        let tick = Tick { now: at(now), monotonic: monotonic(self.now) };
        let since = replica.hearing.tick(tick, Duration::from_millis(PASS_MS.unsigned_abs()));
        for speaker in replica.listens.get_or_insert_default().drain(..) {
            replica.overheard.note(speaker, tick.monotonic);
        }
        self.unseen = false;
        for instance in &mut self.instances {
            // As the sweep does, which leaves out those that can't be due.
            if (0..=2 * instance.interval).contains(&(now - instance.last_heartbeat)) {
                continue;
            }
            let overheard = replica.overheard.last(&self.service, &instance.id, 1, false);
            let observed = Observed {
                status: instance.status,
                last_heartbeat: at(instance.last_heartbeat),
                overheard: overheard.map(|heard| tick.now - (tick.monotonic - heard)),
                status_since: at(instance.status_since),
                interval_seconds: Some(instance.interval as f64 / 1_000.0),
                read_at: tick.now,
            };
            instance.last_heartbeat = ms(observed.last_heard());
            instance.status_since = instance.status_since.min(now);
            if judge(&observed, tick.now, since, &self.settings) == Verdict::MarkDown {
                if instance.lives(self.now) {
                    return Err(format!("{}, which beats, was marked down at {} by {which}", instance.id, self.now));
                }
                (instance.status, instance.status_since) = (Status::Down, now);
            }
        }
        Ok(())
    }

    /// Whether the leader is well, and there is one.
    fn is_well(&self) -> bool {
        let leads = self.lease.is_some_and(|(holder, until, _)| {
            let leader = &self.replicas[holder];
            until > self.postgres_now() && leader.state == Server::Up && leader.has_postgres && leader.token.is_some()
        });
        leads && !self.unseen && self.nats == Server::Up && self.postgres == Server::Up
    }

    fn run(mut self) -> Result<(), String> {
        while self.now < LENGTH_MS {
            self.now += STEP_MS;
            self.mend();
            // Time enough at the end for the last ones to be noticed.
            if self.now < LENGTH_MS - 20_000 {
                self.strike();
            }
            (0..self.instances.len()).for_each(|which| self.beat(which));
            (0..self.replicas.len()).try_for_each(|which| self.pass(which))?;
            if !self.is_well() {
                self.well_since = self.now;
            }
            for instance in &self.instances {
                let Some(died) = instance.dies.filter(|died| *died <= self.now) else { continue };
                // What a replica swallowed and took late was a heartbeat, too.
                let silent_since = died.max(instance.taken).max(self.well_since);
                let due = silent_since + instance.timeout(&self.settings) + LATEST_MS;
                if self.now > due && instance.status != Status::Down {
                    return Err(format!("{} died at {died} and is up at {}", instance.id, self.now));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn who_beats_is_never_down_and_who_died_is_in_time() {
    for seed in 0..SCHEDULES {
        let outcome = World::new(seed).run();
        assert_eq!(outcome, Ok(()), "seed {seed}");
    }
}
