//! Who is silent is down in time; who beats never is, whatever happens to the hub; and one replica leads.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use central_hub::client::HubClient;
use central_hub::domain::name::ServiceName;
use central_hub::domain::status::Status;
use central_hub::wire::health::Health;
use central_hub::wire::registry::{Heartbeat, Register, ServicesGet};
use serde_json::json;
use time::OffsetDateTime;

use crate::ask::Asker;
use crate::fleet::{Fleet, LATEST};
use crate::stack::{HubOptions, HubProcess, eventually};
use crate::witness::{SOON, Truth, connect, healed, replicas};

#[tokio::test]
async fn who_is_silent_is_down_in_time_and_back_with_its_next_heartbeat() {
    let options = HubOptions::fresh().await;
    let _hubs = replicas(&options, 1).await;
    let asker = Asker::of(&options).await;
    let hub = HubClient::new(asker.nats.clone()).with_prefix(options.prefix.clone());
    let intervals = [0.1, 0.4, 0.7, 1.0];
    for (number, interval) in intervals.into_iter().enumerate() {
        let (instance_id, heartbeat_interval_seconds) = (Some("only".parse().unwrap()), Some(interval));
        let register = Register::new(format!("service-{number}").parse().unwrap());
        let registered = hub.call(&Register { instance_id, heartbeat_interval_seconds, ..register }).await.unwrap();
        assert!((registered.service_timeout_seconds - interval * 3.0).abs() < 1e-9);
    }
    for (number, interval) in intervals.into_iter().enumerate() {
        let service = format!("service-{number}");
        let event = asker.events(&format!("service.{service}.down"), 1).await.remove(0).body;
        let details = &event["details"];
        assert_eq!((&details["reason"], &details["from"]), (&json!("silent"), &json!("healthy")));
        let silent = details["silent_seconds"].as_f64().unwrap();
        let allowed = interval * 3.0..=interval * 3.0 + LATEST.as_secs_f64();
        assert!(allowed.contains(&silent), "{service}: after {silent} s of silence, not {allowed:?}");
        asker.value_once("services", &format!("{service}.only"), |value| value["status"] == "down").await;
        let service_name: ServiceName = service.parse().unwrap();
        assert_eq!(hub.call(&ServicesGet { service_name }).await.unwrap().status, Status::Down);
    }
    for number in 0..intervals.len() {
        let service = format!("service-{number}");
        let heard = hub.call(&Heartbeat::new(service.parse().unwrap())).await.unwrap();
        assert_eq!(heard.status, Status::Healthy);
        let event = asker.events(&format!("service.{service}.healthy"), 1).await.remove(0).body;
        assert_eq!(event["details"]["from"], "down");
        asker.value_once("services", &format!("{service}.only"), |value| value["status"] == "healthy").await;
    }
}

#[tokio::test]
async fn a_restart_of_the_hub_marks_nobody_who_beats() {
    let options = HubOptions::fresh().await;
    let mut hub = replicas(&options, 1).await.remove(0);
    let mut fleet = Fleet::start(&options, 3, 12, Duration::from_millis(500), 41).await;
    for killed in [false, true] {
        if killed {
            hub.kill9().await;
        } else {
            hub.stop().await;
        }
        fleet.all_are_due().await;
        let dead = fleet.silence_one().key();
        hub.restart().await;
        hub.ready().await;
        fleet.only_the_dead_goes_down_in_time(dead).await;
    }
}

#[tokio::test]
async fn a_pause_of_the_hub_marks_nobody_who_beats() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let mut hub = replicas(&options, 1).await.remove(0);
    let mut fleet = Fleet::start(&options, 3, 12, Duration::from_millis(500), 42).await;
    // Longer than a timeout; and so long that its lease has run out as well.
    for out_of_office in [false, true] {
        hub.pause().await;
        fleet.all_are_due().await;
        if out_of_office {
            eventually(SOON, || async { truth.leader().await.is_none().then_some(()) }).await;
        }
        let dead = fleet.silence_one().key();
        hub.resume();
        hub.ready().await;
        fleet.only_the_dead_goes_down_in_time(dead).await;
    }
}

/// Pauses that are hardly longer than the shortest timeouts, at any moment of a sweep's second.
#[tokio::test]
async fn short_pauses_of_the_hub_mark_nobody_who_beats_fast() {
    let options = HubOptions::fresh().await;
    let mut hub = replicas(&options, 1).await.remove(0);
    let mut fleet = Fleet::start(&options, 3, 12, Duration::from_millis(200), 43).await;
    for _ in 0..8 {
        hub.pause().await;
        fleet.all_are_due().await;
        hub.resume();
        fleet.heard().await;
        fleet.never_wronged().await;
    }
    fleet.only_the_silent_goes_down(SOON).await;
}

#[tokio::test]
async fn the_death_of_the_leader_marks_nobody_who_beats() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let mut hubs = replicas(&options, 2).await;
    let mut fleet = Fleet::start(&options, 3, 12, Duration::from_millis(500), 44).await;
    let (leader, token) = eventually(SOON, || truth.leader()).await;
    let dead = fleet.silence_one().key();
    hub_named(&mut hubs, &leader).kill9().await;
    let (heir, new) = eventually(SOON, || async { truth.leader().await.filter(|(holder, _)| *holder != leader) }).await;
    assert_eq!(new, token + 1, "{heir} after {leader}");
    fleet.only_the_dead_goes_down_in_time(dead).await;
}

/// A replica that stands still swallows its share of the heartbeats; whoever repeats them reaches the other.
#[tokio::test]
async fn a_paused_replica_that_does_not_lead_marks_nobody_who_beats() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let mut hubs = replicas(&options, 2).await;
    let mut fleet = Fleet::start(&options, 3, 12, Duration::from_secs(1), 45).await;
    let (leader, _) = eventually(SOON, || truth.leader()).await;
    let other = hubs.iter_mut().find(|hub| hub.options().replica_id != leader).unwrap();
    other.pause().await;
    let paused: OffsetDateTime = truth.one("SELECT clock_timestamp()", &[]).await;
    let long = (fleet.timeout() + LATEST).as_secs_f64();
    let sql = "SELECT clock_timestamp() - $1 > $2 * interval '1 second'";
    eventually(SOON, || async { truth.one::<bool>(sql, &[&paused, &long]).await }).await;
    assert!(fleet.repeated() > 0, "it swallowed some");
    fleet.never_wronged().await;
    other.resume();
    fleet.only_the_silent_goes_down(SOON).await;
}

/// Two of three replicas stand still, and most heartbeats and their repetitions with them. The leader hears them all the
/// same; and whom it doesn't hear is dead, and down in time.
#[tokio::test]
async fn most_replicas_hang_and_the_leader_still_knows_who_lives() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let mut hubs = replicas(&options, 3).await;
    let mut fleet = Fleet::start(&options, 6, 60, Duration::from_millis(500), 47).await;
    let (leader, _) = eventually(SOON, || truth.leader()).await;
    for hub in hubs.iter_mut().filter(|hub| hub.options().replica_id != leader) {
        hub.pause().await;
    }
    let paused: OffsetDateTime = truth.one("SELECT clock_timestamp()", &[]).await;
    // Somebody was not taken for longer than its timeout; and the leader noted that it heard it.
    let spared = "SELECT clock_timestamp() - $1 > interval '8 seconds'";
    eventually(SOON, || async { truth.one::<bool>(spared, &[&paused]).await }).await;
    fleet.never_wronged().await;
    let dead = fleet.silence_one().key();
    fleet.only_the_dead_goes_down_in_time(dead).await;
    for hub in hubs.iter_mut().filter(|hub| hub.options().replica_id != leader) {
        hub.resume();
    }
    fleet.only_the_silent_goes_down(SOON).await;
}

/// Which replicas say that they lead: all of them, as soon as each has answered.
async fn leaders(hub: &HubClient, replicas: usize) -> Vec<String> {
    let mut answers = BTreeMap::new();
    let ask = || async {
        let health = hub.call(&Health {}).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((health.replica_id, health.leader))
    };
    let until = Instant::now() + SOON;
    while answers.len() < replicas {
        assert!(Instant::now() < until, "only {answers:?} answered");
        if let Ok((replica, leads)) = ask().await {
            answers.insert(replica, leads);
        }
    }
    answers.into_iter().filter(|(_, leads)| *leads).map(|(replica, _)| replica).collect()
}

#[tokio::test]
async fn one_of_three_leads_and_another_follows_within_seconds() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let mut hubs = replicas(&options, 3).await;
    let hub = HubClient::new(connect(&options.nats_url).await).with_prefix(options.prefix.clone());
    let (first, token) = eventually(SOON, || truth.leader()).await;
    let only = async |name: &str, replicas| {
        let alone = || async {
            let leaders = leaders(&hub, replicas).await;
            if leaders == [name] { Ok(()) } else { Err(leaders) }
        };
        eventually(SOON, alone).await;
    };
    only(&first, 3).await;

    // A lease lasts four seconds, and others look for it every second.
    hub_named(&mut hubs, &first).kill9().await;
    let killed = Instant::now();
    let next = || async { truth.leader().await.filter(|(holder, _)| *holder != first) };
    let (second, new) = eventually(SOON, next).await;
    let took = killed.elapsed();
    println!("taken over {took:?} after the leader was killed");
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert_eq!(new, token + 1);
    only(&second, 2).await;

    hub_named(&mut hubs, &second).terminate();
    let told = Instant::now();
    let next = || async { truth.leader().await.filter(|(holder, _)| *holder != second) };
    let (third, newest) = eventually(SOON, next).await;
    let took = told.elapsed();
    println!("handed over {took:?} after the leader was told to stop");
    assert!(took < Duration::from_secs(3), "{took:?}: sooner than the lease runs out");
    assert_eq!(newest, new + 1);
    only(&third, 1).await;
    assert_eq!(hub_named(&mut hubs, &second).ended().await, Some(0));
}

/// The leader is paused in the middle of a sweep, with the verdict over a silent instance in its hands. When it wakes,
/// another leads.
#[tokio::test]
async fn a_leader_that_slept_through_its_lease_writes_nothing() {
    let options = HubOptions::fresh().await;
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let mut hubs = replicas(&options, 2).await;
    let mut fleet = Fleet::start(&options, 2, 8, Duration::from_millis(500), 46).await;
    let (old, token) = eventually(SOON, || truth.leader()).await;

    let row = truth.session().await.unwrap();
    let dead = fleet.silence_one().key();
    let lock = "SELECT FROM service_registry WHERE service_name = $1 AND instance_id = $2 FOR UPDATE";
    row.batch_execute("BEGIN").await.unwrap();
    row.execute(lock, &[&dead.0, &dead.1]).await.unwrap();
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                 AND query LIKE '%may be due%'";
    eventually(SOON, || async { truth.one::<i64>(stuck, &[]).await == 1 }).await;
    let leader = hub_named(&mut hubs, &old);
    leader.pause().await;
    let paused = Instant::now();
    row.batch_execute("ROLLBACK").await.unwrap();

    let (heir, new) = eventually(SOON, || async { truth.leader().await.filter(|(holder, _)| *holder != old) }).await;
    assert_eq!(new, token + 1, "{heir} after {old}");
    println!("taken over {:?} after the leader was paused in a transaction", paused.elapsed());
    let marks = "SELECT count(*), min(origin) FROM hub_events WHERE kind = 'down' AND instance_id = $1";
    let marks = async || {
        let row = truth.rows(marks, &[&dead.1]).await.unwrap().remove(0);
        (row.get::<_, i64>(0), row.get::<_, Option<String>>(1))
    };
    eventually(SOON, || async { (marks().await.0 > 0).then_some(()) }).await;

    leader.resume();
    leader.ready().await;
    let second = fleet.only_the_silent_goes_down(SOON).await;
    assert_eq!(marks().await, (1, Some(heir.clone())), "of {dead:?}");
    assert_eq!(truth.leader().await, Some((heir.clone(), new)), "it leads on, undisturbed");
    let sql = "SELECT count(*) FROM hub_events WHERE kind = 'down' AND origin = $1";
    assert_eq!(truth.one::<i64>(sql, &[&old]).await, 0, "nor did it mark {:?}", second.key());
    healed(&nats, &options).await;
}

fn hub_named<'a>(hubs: &'a mut [HubProcess], replica_id: &str) -> &'a mut HubProcess {
    hubs.iter_mut().find(|hub| hub.options().replica_id == replica_id).unwrap()
}

/// A shorter default reaches those who beat by the one before only with their next heartbeat: they aren't silent until then.
#[tokio::test]
async fn a_new_default_interval_counts_from_when_it_is_told() {
    let options = HubOptions::fresh().await;
    let _hubs = replicas(&options, 1).await;
    let (hub, truth) = (Asker::of(&options).await, Truth::of(&options));
    let defaults = |interval: f64| {
        let discovery = json!({"heartbeat_interval_seconds": interval, "service_timeout_seconds": 3.0 * interval});
        json!({"config": {"operational": {"service_discovery": discovery}}})
    };
    hub.ask("config.set.central-hub", defaults(600.0)).await;
    let told = async || hub.ask("heartbeat.told", "").await["heartbeat_interval_seconds"].as_f64();
    hub.ask("register.told", json!({"instance_id": "i"})).await;
    eventually(SOON, || async { told().await == Some(600.0) }).await;
    hub.ask("config.set.central-hub", defaults(0.4)).await;
    hub.ask("register.other", json!({"instance_id": "i", "heartbeat_interval_seconds": 0.4})).await;
    let down = async |service: &str| truth.downed().await.contains(&(service.to_owned(), "i".to_owned()));
    eventually(SOON, || async { down("other").await }).await;
    assert!(!down("told").await, "it was told to beat each 600 s");
    eventually(SOON, || async { told().await == Some(0.4) }).await;
    eventually(SOON, || async { down("told").await }).await;
}
