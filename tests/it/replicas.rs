//! Several replicas of one hub at once: they agree, they don't stand in each other's way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use central_hub::client::{CallError, HubClient};
use central_hub::domain::name::ServiceName;
use central_hub::domain::status::Status;
use central_hub::wire::ErrorCode;
use central_hub::wire::config::ConfigGet;
use central_hub::wire::registry::{Deregister, Heartbeat, Register, ServicesDrain};

use crate::fleet::Fleet;
use crate::stack::{HubOptions, HubProcess, eventually};
use crate::traffic::{Burst, Outcome, nothing_was_lost};
use crate::witness::{HEALED, SOON, Truth, Watcher, connect, healed, replicas};

#[tokio::test]
async fn sets_on_two_replicas_at_once_end_on_what_postgres_says_and_no_watcher_goes_back() {
    let options = HubOptions::fresh().await;
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let hubs = replicas(&options, 2).await;
    let watchers = [Watcher::start(&options).await, Watcher::start(&options).await];

    let mut sets = Vec::new();
    for seed in 1..=3 {
        sets.extend(Burst::start(&options, &nats, 4, 200, 24, seed).ended().await);
    }

    assert_eq!(nothing_was_lost(&truth, &sets).await, 600, "all are acknowledged");
    let sql = "SELECT origin FROM hub_events WHERE kind = 'published' GROUP BY origin HAVING count(*) > 60";
    let origins = truth.rows(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect::<BTreeSet<String>>();
    assert_eq!(origins, hubs.iter().map(|hub| hub.options().replica_id.clone()).collect(), "both took their part");
    healed(&nats, &options).await;
    for watcher in &watchers {
        watcher.caught_up(HEALED, &truth).await;
        watcher.never_went_back();
    }

    // Each replica's memory has come to the same, whichever is asked.
    let hub = HubClient::new(nats).with_prefix(options.prefix.clone());
    for service in 0..4 {
        let service_name: ServiceName = format!("config-{service}").parse().unwrap();
        let revision = watchers[0].position(service_name.as_str()).unwrap().revision;
        eventually(HEALED, || async {
            let ask = ConfigGet { service_name: service_name.clone(), version: None, min_revision: None };
            for _ in 0..20 {
                let got = hub.call(&ask).await.unwrap().revision;
                if got != revision {
                    return Err(format!("{service_name}: {got}, not {revision}"));
                }
            }
            Ok(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_one_replica_acknowledged_another_answers_with_min_revision() {
    let options = HubOptions::fresh().await;
    let nats = connect(&options.nats_url).await;
    let _hubs = replicas(&options, 3).await;
    let hub = HubClient::new(nats.clone()).with_prefix(options.prefix.clone());
    for round in 0..30 {
        let sets = Burst::start(&options, &nats, 1, 1, 1, round).ended().await;
        let Outcome::Acknowledged { revision, .. } = sets[0].outcome else { panic!("{sets:?}") };
        let service_name: ServiceName = "config-0".parse().unwrap();
        for _ in 0..6 {
            let ask = ConfigGet { service_name: service_name.clone(), version: None, min_revision: Some(revision) };
            assert_eq!(hub.call(&ask).await.unwrap().revision, revision);
        }
    }
}

#[tokio::test]
async fn replicas_that_start_at_once_on_an_empty_database_migrate_it_once() {
    let options = HubOptions::fresh().await;
    let hubs = replicas(&options, 3).await;
    let migrated = |hub: &&HubProcess| hub.log().contains("migrated");
    assert_eq!(hubs.iter().filter(migrated).count(), 1, "one of them did the work");
    let truth = Truth::of(&options);
    let sql = "SELECT count(*) = max(version) AND count(*) = count(DISTINCT version) FROM refinery_schema_history";
    assert!(truth.one::<bool>(sql, &[]).await);
    assert_eq!(truth.one::<i64>("SELECT count(*) FROM hub_meta", &[]).await, 1);
    healed(&connect(&options.nats_url).await, &options).await;
}

#[tokio::test]
async fn two_hubs_of_one_replica_id_say_so_and_harm_nobody() {
    let options = HubOptions::fresh().await;
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let mut first = HubProcess::start(options.clone()).await;
    first.ready().await;
    let second_options = HubOptions { replica_id: options.replica_id.clone(), ..options.clone() };
    let second = HubProcess::start(second_options).await;
    let mut fleet = Fleet::start(&options, 2, 6, Duration::from_millis(500), 1).await;

    // Both write to the same log file.
    eventually(SOON, || async { second.log().contains("another hub runs under this replica id") }).await;
    let watcher = Watcher::start(&options).await;
    let sets = Burst::start(&options, &nats, 3, 100, 16, 7).ended().await;
    assert_eq!(nothing_was_lost(&truth, &sets).await, 100);
    fleet.only_the_silent_goes_down(SOON).await;
    healed(&nats, &options).await;
    watcher.caught_up(HEALED, &truth).await;
    watcher.never_went_back();
}

/// A service that is mostly left alone, so that sweeps find instances of it that are due.
const SELDOM: &str = "seldom";

/// Four services with six instances each, and everything that takes locks on them.
#[tokio::test]
async fn replicas_take_heartbeats_for_the_same_instances_without_deadlocks_or_lost_replies() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let mut hubs = replicas(&options, 2).await;
    let hub = HubClient::new(connect(&options.nats_url).await).with_prefix(options.prefix.clone());
    for number in 0..6 {
        let (instance_id, heartbeat_interval_seconds) = (Some(format!("i{number}").parse().unwrap()), Some(0.1));
        let seldom = Register::new(SELDOM.parse().unwrap());
        hub.call(&Register { instance_id, heartbeat_interval_seconds, ..seldom }).await.unwrap();
    }
    let asked = Arc::new(Tally::default());
    let tasks: Vec<_> = (0..16)
        .map(|worker| {
            let (options, asked) = (options.clone(), Arc::clone(&asked));
            tokio::spawn(quarrel(options, worker, asked))
        })
        .collect();

    // Long enough for sweeps to find instances that are due, and for them to come back.
    let downs = "SELECT count(*) FROM hub_events WHERE kind = 'down' AND details->>'reason' = 'silent'";
    let enough = || async {
        let (answers, downs) = (asked.answers.load(Ordering::Relaxed), truth.one::<i64>(downs, &[]).await);
        if answers > 5_000 && downs > 8 { Ok(()) } else { Err(format!("{answers} answers, {downs} downs")) }
    };
    eventually(Duration::from_secs(40), enough).await;
    asked.stop.store(true, Ordering::Relaxed);
    let mut odd = BTreeMap::new();
    for task in tasks {
        for (what, count) in task.await.unwrap() {
            *odd.entry(what).or_insert(0) += count;
        }
    }
    assert!(odd.is_empty(), "beside {} answers: {odd:#?}", asked.answers.load(Ordering::Relaxed));

    // Backends tell their statistics at the latest when they end.
    for hub in &mut hubs {
        hub.terminate();
        assert_eq!(hub.ended().await, Some(0));
    }
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(truth.one::<i64>(sql, &[]).await, 0, "deadlocks");
}

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answers: AtomicU64,
}

/// Calls that lock records, in an order of its own; gives what nobody may get, counted.
async fn quarrel(options: HubOptions, worker: u64, asked: Arc<Tally>) -> BTreeMap<String, u64> {
    let hub = HubClient::new(connect(&options.nats_url).await)
        .with_prefix(options.prefix)
        .with_timeout(Duration::from_secs(10));
    let mut random = fastrand::Rng::with_seed(worker);
    let mut odd = BTreeMap::new();
    while !asked.stop.load(Ordering::Relaxed) {
        let often = format!("s{}", random.u8(..3));
        let service: ServiceName = if random.u8(..200) == 0 { SELDOM } else { &often }.parse().unwrap();
        let instance_id = Some(format!("i{}", random.u8(..6)).parse().unwrap());
        let result = match random.u8(..20) {
            0..=1 => {
                let heartbeat_interval_seconds = Some(0.1);
                let register = Register { instance_id, heartbeat_interval_seconds, ..Register::new(service) };
                hub.call(&register).await.map(drop)
            }
            2 => hub.call(&Deregister { service_name: service, instance_id, incarnation: None }).await.map(drop),
            3..=4 => {
                let draining = random.bool();
                hub.call(&ServicesDrain { service_name: service, instance_id, draining, reason: None }).await.map(drop)
            }
            // Names no instance: all of the service's records are locked.
            5 => hub.call(&Heartbeat::new(service)).await.map(drop),
            // Changes the status: locked, decided and written, not only touched.
            6..=12 => {
                let status = Some(random.choice([Status::Healthy, Status::Degraded]).unwrap());
                hub.call(&Heartbeat { instance_id, status, ..Heartbeat::new(service) }).await.map(drop)
            }
            _ => hub.call(&Heartbeat { instance_id, ..Heartbeat::new(service) }).await.map(drop),
        };
        match result {
            Ok(()) => {}
            Err(CallError::Refused(refusal))
                if matches!(
                    refusal.code,
                    ErrorCode::NotRegistered | ErrorCode::NotFound | ErrorCode::AmbiguousInstance
                ) => {}
            Err(error) => *odd.entry(error.to_string()).or_insert(0) += 1,
        }
        asked.answers.fetch_add(1, Ordering::Relaxed);
    }
    odd
}
