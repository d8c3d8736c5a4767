//! A fleet of processes that behave as the contract asks: register, beat, repeat what got no answer. Such a process is
//! never marked down, whatever happens to the hub.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::connection::State;
use central_hub::client::{CallError, HubClient};
use central_hub::domain::name::{InstanceId, ServiceName};
use central_hub::wire::ErrorCode;
use central_hub::wire::registry::{Heartbeat, Register};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use crate::stack::{HubOptions, eventually};
use crate::witness::{Down, SOON, Truth, connect};

/// How long after its timeout a silent instance may still be up.
pub const LATEST: Duration = Duration::from_secs(2);

/// Timeouts are this many intervals, by the hub's default settings.
pub const TIMEOUT_INTERVALS: f64 = 3.0;

/// How long a member waits for the answer to its registration. Not repeated in haste: of two that are under way at once
/// the hub may take the first last, and then it is the one in force.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(10);

/// How long a member waits for an answer before it repeats its heartbeat.
const PATIENCE: Duration = Duration::from_millis(150);

/// How much later than the end of a silence a sweep may still commit what it found in it.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Processes that beat until they are silenced or dropped.
pub struct Fleet {
    pub members: Vec<Member>,
    truth: Truth,
    interval: Duration,
    strain: Strain,
}

/// How late this process wakes, at the worst: on a machine that is overworked the hub, too, sees gaps, and gives grace.
struct Strain {
    worst_ms: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Strain {
    const PERIOD: Duration = Duration::from_millis(50);

    fn watch() -> Strain {
        let worst_ms: Arc<AtomicU64> = Arc::default();
        let worst = Arc::clone(&worst_ms);
        let task = tokio::spawn(async move {
            loop {
                let began = Instant::now();
                sleep(Self::PERIOD).await;
                worst.fetch_max((began.elapsed() - Self::PERIOD).as_millis() as u64, Ordering::Relaxed);
            }
        });
        Strain { worst_ms, task }
    }

    fn worst(&self) -> Duration {
        Duration::from_millis(self.worst_ms.load(Ordering::Relaxed))
    }
}

/// One process of a fleet.
pub struct Member {
    pub service: ServiceName,
    pub instance: InstanceId,
    seat: Seat,
    vitals: Arc<Vitals>,
    /// When it was silent on purpose, by the clock of this machine.
    pub silences: Vec<Silence>,
    task: JoinHandle<()>,
}

/// A time in which a member doesn't beat.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    pub from: OffsetDateTime,
    /// `None`: it is dead.
    pub to: Option<OffsetDateTime>,
}

/// What it takes to start a member, or to start it again.
#[derive(Clone)]
struct Seat {
    hub: HubClient,
    interval: Duration,
    random: fastrand::Rng,
}

/// How a member fares.
#[derive(Default)]
struct Vitals {
    acknowledged: AtomicU64,
    repeated: AtomicU64,
    /// The longest time between two tries to beat, in milliseconds: above the timeout, its own machine starved it.
    longest_pause_ms: AtomicU64,
    /// Stands still, on purpose.
    paused: AtomicBool,
    wrongs: Mutex<Vec<String>>,
}

impl Member {
    fn start(service: ServiceName, instance: InstanceId, mut seat: Seat) -> Member {
        let vitals: Arc<Vitals> = Arc::default();
        let heart = Heart {
            hub: seat.hub.clone(),
            service: service.clone(),
            instance: instance.clone(),
            interval: seat.interval,
            random: seat.random.fork(),
            vitals: Arc::clone(&vitals),
        };
        Member { service, instance, seat, vitals, silences: Vec::new(), task: tokio::spawn(heart.live()) }
    }

    pub fn key(&self) -> (String, String) {
        (self.service.to_string(), self.instance.to_string())
    }

    /// Whether it beats now.
    pub fn beats(&self) -> bool {
        self.silences.last().is_none_or(|silence| silence.to.is_some())
    }

    /// Ends without a goodbye.
    pub fn kill(&mut self) {
        self.task.abort();
        self.silences.push(Silence { from: OffsetDateTime::now_utc(), to: None });
    }

    /// Stands still until [`resume`](Self::resume).
    pub fn pause(&mut self) {
        self.vitals.paused.store(true, Ordering::SeqCst);
        self.silences.push(Silence { from: OffsetDateTime::now_utc(), to: None });
    }

    pub fn resume(&mut self) {
        self.vitals.paused.store(false, Ordering::SeqCst);
        self.silences.last_mut().expect("a pause").to = Some(OffsetDateTime::now_utc());
    }

    /// Ends without a goodbye and starts again, as a new process of the same name. Until it is heard, it is silent.
    pub fn restart(&mut self) {
        self.task.abort();
        let next = Member::start(self.service.clone(), self.instance.clone(), self.seat.clone());
        let silences = std::mem::take(&mut self.silences);
        *self = Member { silences, ..next };
        self.silences.push(Silence { from: OffsetDateTime::now_utc(), to: None });
    }

    /// Notes that it was heard again after a restart.
    pub fn restarted(&mut self) {
        assert!(self.vitals.acknowledged.load(Ordering::Relaxed) > 0, "{:?} wasn't heard", self.key());
        self.silences.last_mut().expect("a restart").to = Some(OffsetDateTime::now_utc());
    }

    /// Whether it was heard since it was started last.
    pub fn was_heard(&self) -> bool {
        self.vitals.acknowledged.load(Ordering::Relaxed) > 0
    }

    /// Whether a sweep may have found it silent at `at`.
    fn deserved(&self, at: OffsetDateTime) -> bool {
        let timeout = self.seat.interval.mul_f64(TIMEOUT_INTERVALS);
        self.silences.iter().any(|silence| {
            // Its last heartbeat was up to an interval before.
            let long_enough = silence.to.is_none_or(|to| to - silence.from > timeout - self.seat.interval);
            let earliest = silence.from + timeout - self.seat.interval;
            long_enough && at >= earliest && silence.to.is_none_or(|to| at <= to + AFTERWARDS)
        })
    }
}

impl Fleet {
    /// Starts `count` processes of `services` services, which beat every `interval`, and returns when all of them were
    /// heard. `seed` decides when each beats.
    pub async fn start(options: &HubOptions, services: usize, count: usize, interval: Duration, seed: u64) -> Fleet {
        let nats = connect(&options.nats_url).await;
        let mut random = fastrand::Rng::with_seed(seed);
        let members = (0..count)
            .map(|number| {
                let service: ServiceName = format!("fleet-{}", number % services).parse().unwrap();
                let instance: InstanceId = format!("member-{number}").parse().unwrap();
                let hub = HubClient::new(nats.clone()).with_prefix(options.prefix.clone()).with_timeout(PATIENCE);
                Member::start(service, instance, Seat { hub, interval, random: random.fork() })
            })
            .collect();
        let fleet = Fleet { members, truth: Truth::of(options), interval, strain: Strain::watch() };
        fleet.heard().await;
        fleet
    }

    /// After how much silence its members are down.
    pub fn timeout(&self) -> Duration {
        self.interval.mul_f64(TIMEOUT_INTERVALS)
    }

    /// Heartbeats that had to be repeated so far.
    pub fn repeated(&self) -> u64 {
        self.members.iter().map(|member| member.vitals.repeated.load(Ordering::Relaxed)).sum()
    }

    /// The members of a service.
    pub fn of(&mut self, service: &str) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut().filter(move |member| member.service.as_str() == service)
    }

    /// Waits until each member that beats got two more answers; one may belong to a heartbeat from before.
    #[track_caller]
    pub fn heard(&self) -> impl Future<Output = ()> {
        let count = |member: &Member| member.vitals.acknowledged.load(Ordering::Relaxed);
        let before: Vec<u64> = self.members.iter().map(count).collect();
        eventually(SOON, move || {
            let beating = self.members.iter().zip(&before).filter(|(member, _)| member.beats());
            let silent = beating.filter(|(member, before)| count(member) < **before + 2).count();
            async move { if silent == 0 { Ok(()) } else { Err(format!("{silent} members got no answer")) } }
        })
    }

    /// Ends the last member without a goodbye.
    pub fn silence_one(&mut self) -> Member {
        let member = self.members.pop().expect("a member");
        member.task.abort();
        member
    }

    /// Waits until Postgres has not heard any member for so long that each is due: the moment in which a hub that
    /// forgets its grace would mark all of them.
    pub async fn all_are_due(&self) {
        let seconds = self.timeout().as_secs_f64() + 0.1;
        let sql = "SELECT coalesce(bool_and(clock_timestamp() - last_heartbeat > $1 * interval '1 second'), false)
                   FROM service_registry WHERE service_name LIKE 'fleet-%'";
        eventually(self.timeout() + SOON, || async { self.truth.one::<bool>(sql, &[&seconds]).await }).await;
    }

    /// Silences one member, waits until the sweep has marked it down, and so knows that sweeps and their grace are
    /// past; then no other member may ever have been marked.
    pub async fn only_the_silent_goes_down(&mut self, deadline: Duration) -> Member {
        let silent = self.silence_one();
        let downed = || async { self.truth.downed().await.contains(&silent.key()).then_some(()) };
        eventually(self.timeout() + deadline, downed).await;
        self.never_wronged().await;
        silent
    }

    /// After a time in which the hub could not hear, and in which the member `dead` died: it is marked down within its
    /// timeout and [`LATEST`], counted from now, and nobody else is.
    pub async fn only_the_dead_goes_down_in_time(&mut self, dead: (String, String)) {
        self.strain_from_here();
        let hears: OffsetDateTime = self.truth.one("SELECT clock_timestamp()", &[]).await;
        eventually(self.timeout() + SOON, || async { self.truth.downed().await.contains(&dead).then_some(()) }).await;
        let sql = "SELECT at FROM hub_events WHERE kind = 'down' AND service_name = $1 AND instance_id = $2";
        let marked: OffsetDateTime = self.truth.one(sql, &[&dead.0, &dead.1]).await;
        let (took, bound) = (marked - hears, self.bound());
        println!("the dead was marked {took} after the hub could hear again");
        assert!(took <= bound, "{dead:?} was marked {took} after the hub could hear again, not within {bound:?}");
        self.never_wronged().await;
        self.heard().await;
    }

    /// Looks from now on how strained this machine is.
    pub fn strain_from_here(&self) {
        self.strain.worst_ms.store(0, Ordering::Relaxed);
    }

    /// After how much silence, that the hub was able to hear, a member is down at the latest: its timeout and [`LATEST`];
    /// and as much grace as a hub gives itself on a machine as strained as this one was.
    pub fn bound(&self) -> Duration {
        let worst = self.strain.worst();
        let strained = worst > Duration::from_millis(250);
        self.timeout() + LATEST + if strained { self.timeout() + worst } else { Duration::ZERO }
    }

    /// Panics if a member that beats was ever marked down, removed or refused.
    pub async fn never_wronged(&self) {
        let downs = self.truth.downs().await;
        for member in &self.members {
            let vitals = &member.vitals;
            let pause = vitals.longest_pause_ms.load(Ordering::Relaxed);
            let key = member.key();
            let wrong = downs.iter().find(|Down { of, at }| *of == key && !member.deserved(*at));
            // One that the machine kept from beating for so long did fall silent.
            let wrong = wrong.filter(|_| pause < self.timeout().as_millis() as u64);
            assert!(wrong.is_none(), "{wrong:?}; it paused for {pause} ms at most but for {:?}", member.silences);
            let wrongs = vitals.wrongs.lock().unwrap();
            assert!(wrongs.is_empty(), "{:?}: {wrongs:?}", member.key());
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.strain.task.abort();
        self.members.iter().for_each(|member| member.task.abort());
    }
}

/// What beats in a member.
struct Heart {
    hub: HubClient,
    service: ServiceName,
    instance: InstanceId,
    interval: Duration,
    random: fastrand::Rng,
    vitals: Arc<Vitals>,
}

impl Heart {
    async fn live(mut self) {
        let mut incarnation = None;
        let first = Instant::now() + self.interval.mul_f64(self.random.f64());
        let mut beat = interval_at(first, self.interval);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_try = None;
        loop {
            if incarnation.is_some() {
                beat.tick().await;
            }
            loop {
                while self.vitals.paused.load(Ordering::SeqCst) {
                    sleep(Duration::from_millis(10)).await;
                    last_try = None;
                }
                let now = Instant::now();
                let pause = last_try.replace(now).map_or(Duration::ZERO, |last| now - last);
                self.vitals.longest_pause_ms.fetch_max(pause.as_millis() as u64, Ordering::Relaxed);
                match self.say(incarnation).await {
                    Ok(known) => {
                        incarnation = known;
                        self.vitals.acknowledged.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Err(()) => {
                        self.vitals.repeated.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(self.random.u64(20..60))).await;
                    }
                }
            }
        }
    }

    /// Registers, or beats; an error asks for a repetition.
    async fn say(&self, incarnation: Option<i64>) -> Result<Option<i64>, ()> {
        // The client library would keep it and send it when the server is back.
        if self.hub.nats().connection_state() != State::Connected {
            return Err(());
        }
        let asked = timeout(REGISTRATION_PATIENCE * 2, async {
            match incarnation {
                None => {
                    let register = Register {
                        instance_id: Some(self.instance.clone()),
                        heartbeat_interval_seconds: Some(self.interval.as_secs_f64()),
                        ..Register::new(self.service.clone())
                    };
                    let hub = self.hub.clone().with_timeout(REGISTRATION_PATIENCE);
                    hub.call(&register).await.map(|registered| Some(registered.incarnation))
                }
                Some(_) => {
                    let instance_id = Some(self.instance.clone());
                    let heartbeat = Heartbeat { instance_id, incarnation, ..Heartbeat::new(self.service.clone()) };
                    self.hub.call(&heartbeat).await.map(|_| incarnation)
                }
            }
        });
        match asked.await {
            Ok(Ok(known)) => Ok(known),
            Ok(Err(CallError::Refused(refusal)))
                if !matches!(refusal.code, ErrorCode::Unavailable | ErrorCode::Overloaded) =>
            {
                self.vitals.wrongs.lock().unwrap().push(format!("refused: {refusal}"));
                // As the contract asks; it stands among the wrongs all the same.
                if refusal.code == ErrorCode::NotRegistered { Ok(None) } else { Err(()) }
            }
            _ => Err(()),
        }
    }
}
