//! All of it at once: two hubs, a fleet of 200, and a seeded script of kills, pauses and restarts of instances, hubs, NATS
//! and PostgreSQL. Nobody who keeps beating is marked down, everybody who stopped is in time, and the timeline tells the
//! story in order.

use std::collections::BTreeMap;
use std::time::Duration;

use central_hub::cli::stack::{NatsServer, Postgres};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};

use crate::fleet::Fleet;
use crate::stack::{HubOptions, HubProcess, eventually, private_nats, private_postgres};
use crate::witness::{SOON, Truth, connect, healed, replicas};

const MEMBERS: usize = 200;
const SERVICES: usize = 20;
const INTERVAL: Duration = Duration::from_millis(700);

/// Decides the whole script; another one may be given to look for trouble.
fn seed() -> u64 {
    std::env::var("STORM_SEED").ok().map_or(4, |seed| seed.parse().expect("a number"))
}

/// How a thing goes away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Stopped,
    Killed,
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    Leader,
    Other,
    BothHubs,
    Nats,
    Postgres,
    /// A number in the fleet.
    Member(usize),
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Strike(Target, How),
    Mend(Target, How),
}

/// One deed of the script and when it is done, counted from the beginning of its round.
#[derive(Clone, Copy, Debug)]
struct Deed {
    at: Duration,
    act: Act,
}

/// A round: what befalls hubs, what befalls servers, and which members meet which fate.
#[derive(Debug)]
struct Round {
    deeds: Vec<Deed>,
    killed: Vec<usize>,
    /// Stands still for longer than its timeout.
    paused: usize,
    restarted: usize,
}

/// The script of a seed.
fn script(random: &mut fastrand::Rng) -> Vec<Round> {
    let mut hub_faults = [
        (Target::Leader, How::Killed),
        (Target::Leader, How::Paused),
        (Target::Leader, How::Stopped),
        (Target::Other, How::Killed),
        (Target::Other, How::Paused),
        (Target::BothHubs, How::Killed),
    ];
    let servers = [Target::Nats, Target::Postgres];
    let mut server_faults: Vec<(Target, How)> =
        servers.iter().flat_map(|server| [How::Stopped, How::Killed, How::Paused].map(|how| (*server, how))).collect();
    random.shuffle(&mut hub_faults);
    random.shuffle(&mut server_faults);
    // Of each service in turn, so that none loses half of its instances.
    let mut members: Vec<usize> = (0..MEMBERS).collect();
    random.shuffle(&mut members);
    members.sort_by_key(|number| number % SERVICES);
    let mut victims = (0..).flat_map(|turn| (0..SERVICES).map(move |service| (service, turn))).map({
        let per_service = MEMBERS / SERVICES;
        move |(service, turn): (usize, usize)| members[service * per_service + turn]
    });
    let mut rounds = Vec::new();
    for (hub_fault, server_fault) in hub_faults.into_iter().zip(server_faults) {
        let mut ms = |range: std::ops::Range<u64>| Duration::from_millis(random.u64(range));
        let mut victim = || victims.next().expect("a member");
        let mut deeds = Vec::new();
        let mut strike = |target, how, at, lasts: Option<Duration>| {
            deeds.push(Deed { at, act: Act::Strike(target, how) });
            deeds.extend(lasts.map(|lasts| Deed { at: at + lasts, act: Act::Mend(target, how) }));
        };
        for (target, how) in [hub_fault, server_fault] {
            // A leader that stands still for longer than its lease runs.
            let long = (target, how) == (Target::Leader, How::Paused);
            strike(target, how, ms(0..1_000), Some(if long { ms(5_000..6_000) } else { ms(800..2_500) }));
        }
        let killed = vec![victim(), victim()];
        for member in &killed {
            strike(Target::Member(*member), How::Killed, ms(0..2_500), None);
        }
        let (paused, restarted) = (victim(), victim());
        strike(Target::Member(paused), How::Paused, ms(0..2_500), None);
        // For so short a time that nobody may notice.
        strike(Target::Member(victim()), How::Paused, ms(0..2_500), Some(ms(300..1_000)));
        strike(Target::Member(restarted), How::Stopped, ms(0..2_500), None);
        deeds.sort_by_key(|deed| deed.at);
        rounds.push(Round { deeds, killed, paused, restarted });
    }
    rounds
}

struct Scene {
    nats: NatsServer,
    postgres: Postgres,
    hubs: Vec<HubProcess>,
    fleet: Fleet,
    truth: Truth,
    /// Who led when the round began.
    leader: String,
}

impl Scene {
    fn hub(&mut self, leads: bool) -> &mut HubProcess {
        let leader = self.leader.clone();
        self.hubs.iter_mut().find(|hub| (hub.options().replica_id == leader) == leads).expect("such a hub")
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Strike(Target::Nats, How::Stopped) => self.nats.stop().await,
            Act::Strike(Target::Nats, How::Killed) => self.nats.kill9().await,
            Act::Strike(Target::Nats, How::Paused) => self.nats.pause().await,
            Act::Mend(Target::Nats, How::Paused) => self.nats.resume(),
            Act::Mend(Target::Nats, _) => self.nats.restart().await.unwrap(),
            Act::Strike(Target::Postgres, How::Stopped) => self.postgres.stop().await,
            Act::Strike(Target::Postgres, How::Killed) => self.postgres.kill9().await,
            Act::Strike(Target::Postgres, How::Paused) => self.postgres.pause().await,
            Act::Mend(Target::Postgres, How::Paused) => self.postgres.resume(),
            Act::Mend(Target::Postgres, _) => self.postgres.restart().await.unwrap(),
            Act::Strike(Target::Member(number), how) => {
                let member = &mut self.fleet.members[number];
                match how {
                    How::Killed => member.kill(),
                    How::Paused => member.pause(),
                    How::Stopped => member.restart(),
                }
            }
            Act::Mend(Target::Member(number), _) => self.fleet.members[number].resume(),
            Act::Strike(target, how) => {
                for hub in self.hubs_of(target) {
                    match how {
                        How::Killed => hub.kill9().await,
                        How::Paused => hub.pause().await,
                        // It may wait for servers that are away.
                        How::Stopped => hub.terminate(),
                    }
                }
            }
            Act::Mend(target, how) => {
                for hub in self.hubs_of(target) {
                    match how {
                        How::Paused => hub.resume(),
                        _ => hub.restart().await,
                    }
                }
            }
        }
    }

    fn hubs_of(&mut self, target: Target) -> Vec<&mut HubProcess> {
        match target {
            Target::BothHubs => self.hubs.iter_mut().collect(),
            target => vec![self.hub(target == Target::Leader)],
        }
    }

    /// Plays a round, and checks what must hold after it.
    async fn play(&mut self, round: &Round) {
        (self.leader, _) = eventually(SOON, || self.truth.leader()).await;
        self.fleet.strain_from_here();
        let began = Instant::now();
        for deed in &round.deeds {
            sleep_until(began + deed.at).await;
            println!("{:>5} ms: {:?}", began.elapsed().as_millis(), deed.act);
            self.act(deed.act).await;
        }
        for hub in &mut self.hubs {
            hub.ready().await;
        }
        eventually(SOON, || self.truth.leader()).await;
        // When all who live have their answers again, the hub is able to hear.
        self.fleet.heard().await;
        let hears = OffsetDateTime::now_utc();
        println!("{:>5} ms: the hub hears", began.elapsed().as_millis());
        let silent: Vec<usize> = round.killed.iter().copied().chain([round.paused]).collect();
        let mut latest = time::Duration::MIN;
        for number in silent {
            latest = latest.max(self.down_in_time(number, hears).await);
        }
        println!(
            "{:>5} ms: all who stopped are down, the last one after {latest} of {:?}",
            began.elapsed().as_millis(),
            self.fleet.bound()
        );
        self.fleet.never_wronged().await;
        self.fleet.members[round.paused].resume();
    }

    /// A member that stopped is down, since its timeout and two seconds after the hub was able to hear at the latest; tells
    /// since how long after it.
    async fn down_in_time(&self, number: usize, hears: OffsetDateTime) -> time::Duration {
        let member = &self.fleet.members[number];
        let (service, instance) = member.key();
        let sql = "SELECT status FROM service_registry WHERE service_name = $1 AND instance_id = $2";
        let down = || async { self.truth.one::<String>(sql, &[&service, &instance]).await == "down" };
        eventually(self.fleet.bound() + SOON, down).await;
        let downs = self.truth.downs().await;
        let at = downs.iter().rev().find(|down| down.of == member.key()).expect("it was marked").at;
        let since = member.silences.last().expect("it stopped").from.max(hears);
        let bound = self.fleet.bound();
        assert!(at - since <= bound, "{:?} was down {} after {since}, not within {bound:?}", member.key(), at - since);
        at - since
    }

    /// What the timeline tells of each member: the kinds of its events, in order, without repetitions.
    async fn stories(&self) -> BTreeMap<String, Vec<String>> {
        let sql = "SELECT instance_id, kind FROM hub_events WHERE topic = 'service' AND service_name LIKE 'fleet-%' ORDER BY id";
        let mut stories: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in self.truth.rows(sql, &[]).await.unwrap() {
            let (instance, kind): (String, String) = (row.get(0), row.get(1));
            let story = stories.entry(instance).or_default();
            if story.last() != Some(&kind) {
                story.push(kind);
            }
        }
        stories
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_beats_stays_up_and_who_stopped_goes_down_whatever_breaks() {
    let seed = seed();
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let rounds = script(&mut random);
    let faults = |round: &Round| round.deeds.iter().filter(|deed| matches!(deed.act, Act::Strike(..))).count();
    assert!(rounds.iter().map(faults).sum::<usize>() >= 30);
    let (nats, postgres) = (private_nats().await, private_postgres().await);
    // Half of the time one is told to stop while it can't finish.
    let options = HubOptions::on(&nats.url(), &postgres.url()).env("CENTRAL_HUB_DRAIN_TIMEOUT", "1s");
    let (truth, hubs) = (Truth::of(&options), replicas(&options, 2).await);
    let began = Instant::now();
    let fleet = Fleet::start(&options, SERVICES, MEMBERS, INTERVAL, seed).await;
    let mut scene = Scene { nats, postgres, hubs, fleet, truth, leader: String::new() };
    let mut ends = Vec::new();
    for (number, round) in rounds.iter().enumerate() {
        println!("round {number}");
        scene.play(round).await;
        ends.push(scene.truth.one::<i64>("SELECT max(id) FROM hub_events", &[]).await);
    }
    for round in &rounds {
        let member = &mut scene.fleet.members[round.restarted];
        eventually(SOON, || async { member.was_heard() }).await;
        member.restarted();
    }
    scene.fleet.heard().await;
    scene.fleet.never_wronged().await;
    println!("{:?} in all; {} heartbeats were repeated", began.elapsed(), scene.fleet.repeated());

    // The story of each, as it was.
    let stories = scene.stories().await;
    let of = |number: usize| &stories[scene.fleet.members[number].instance.as_str()];
    for round in &rounds {
        for killed in &round.killed {
            let story = of(*killed);
            // A hub that stood still may take a last heartbeat late.
            let late = story.len() == 4 && story[2] == "healthy";
            assert!(story[..2] == ["registered", "down"] && (story.len() == 2 || late), "{killed}: {story:?}");
            assert_eq!(story.last().unwrap(), "down", "{killed}");
        }
        assert_eq!(of(round.paused)[..3], ["registered", "down", "healthy"], "{}", round.paused);
        assert_eq!(of(round.restarted)[0], "registered", "{}", round.restarted);
        assert_ne!(of(round.restarted).last().unwrap(), "down", "{}", round.restarted);
    }
    let beating = scene.fleet.members.iter().filter(|member| member.silences.is_empty());
    let told: Vec<_> = beating.filter(|member| stories[member.instance.as_str()] != ["registered"]).collect();
    assert!(told.is_empty(), "{:?}", told.iter().map(|member| member.key()).collect::<Vec<_>>());
    // And round by round.
    let sql = "SELECT max(id) FROM hub_events WHERE kind = 'down' AND instance_id = $1";
    for (number, round) in rounds.iter().enumerate() {
        for killed in &round.killed {
            let id: i64 = scene.truth.one(sql, &[&scene.fleet.members[*killed].instance.as_str()]).await;
            let from = number.checked_sub(1).map_or(0, |before| ends[before]);
            assert!((from + 1..=ends[number]).contains(&id), "{killed} of round {number} went down in event {id}");
        }
    }
    healed(&connect(&options.nats_url).await, &options).await;
}
