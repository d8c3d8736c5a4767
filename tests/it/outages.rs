//! Postgres or NATS goes away and comes back: the hub says so, keeps what it can, recovers by itself and wrongs nobody.

use std::time::{Duration, Instant};

use central_hub::cli::stack::{NatsServer, Postgres};
use central_hub::client::{CallError, HubClient};
use central_hub::domain::name::ServiceName;
use central_hub::domain::status::Status;
use central_hub::wire::config::{ConfigGet, ConfigHistory, ConfigList, ConfigSet};
use central_hub::wire::health::Health;
use central_hub::wire::registry::{Deregister, Heartbeat, Register, ServicesGet, ServicesList};
use central_hub::wire::{Error, ErrorCode, Request};
use serde_json::json;

use crate::fleet::Fleet;
use crate::stack::{HubOptions, HubProcess, database, eventually, nats_url, private_nats, private_postgres};
use crate::witness::{HEALED, SOON, Truth, Watcher, connect, healed, healed_within, replicas};

/// How a server goes away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// In good order.
    Stopped,
    /// By SIGKILL.
    Killed,
    /// By SIGSTOP: its connections stay open and nothing answers.
    Paused,
}

async fn strike_postgres(postgres: &mut Postgres, fault: Fault) {
    match fault {
        Fault::Stopped => postgres.stop().await,
        Fault::Killed => postgres.kill9().await,
        Fault::Paused => postgres.pause().await,
    }
}

async fn strike_nats(nats: &mut NatsServer, fault: Fault) {
    match fault {
        Fault::Stopped => nats.stop().await,
        Fault::Killed => nats.kill9().await,
        Fault::Paused => nats.pause().await,
    }
}

fn set(number: u32) -> ConfigSet {
    let content = json!({ "number": number });
    ConfigSet::new("config-0".parse().unwrap(), content.as_object().unwrap().clone())
}

fn get() -> ConfigGet {
    ConfigGet { service_name: "config-0".parse().unwrap(), version: None, min_revision: None }
}

/// Asks what needs Postgres while it is away, and gives what the caller was told and when.
async fn refusal<R: Request>(hub: &HubClient, request: R) -> (String, Duration, Error) {
    let asked = Instant::now();
    match hub.call(&request).await {
        Err(CallError::Refused(refusal)) => (R::ENDPOINT.route().name.to_owned(), asked.elapsed(), refusal),
        Err(error) => panic!("{}: {error} after {:?}", R::ENDPOINT.route().name, asked.elapsed()),
        Ok(_) => panic!("{} succeeded without Postgres", R::ENDPOINT.route().name),
    }
}

/// Postgres goes away under a hub with a fleet, for longer than the fleet's timeout. A request that needs it is to be
/// refused within `quick`.
async fn postgres_goes_away(fault: Fault, quick: Duration) {
    let mut postgres = private_postgres().await;
    let options = HubOptions::on(&nats_url(), &postgres.url());
    let nats = connect(&options.nats_url).await;
    let _hubs = replicas(&options, 1).await;
    let hub = HubClient::new(nats.clone()).with_prefix(options.prefix.clone()).with_timeout(SOON);
    let watcher = Watcher::start(&options).await;
    hub.call(&set(1)).await.unwrap();
    let mut fleet = Fleet::start(&options, 2, 8, Duration::from_millis(500), 51).await;

    strike_postgres(&mut postgres, fault).await;
    let away = Instant::now();
    for round in 0..2 {
        let name = |text: &str| text.parse::<ServiceName>().unwrap();
        let page = ConfigHistory { service_name: name("config-0"), limit: None, before_revision: None };
        let goodbye = Deregister { service_name: name("fleet-0"), instance_id: None, incarnation: None };
        let refusals = tokio::join!(
            refusal(&hub, set(7)),
            refusal(&hub, Register::new(name("late"))),
            refusal(&hub, Heartbeat::new(name("late"))),
            refusal(&hub, goodbye),
            refusal(&hub, ServicesList::default()),
            refusal(&hub, ServicesGet { service_name: name("fleet-1") }),
            refusal(&hub, ConfigList::default()),
            refusal(&hub, page),
        );
        let refusals: [_; 8] = refusals.into();
        let slowest = refusals.iter().map(|(_, took, _)| *took).max().unwrap();
        println!("{fault:?}, round {round}: all were refused after {slowest:?}");
        for (name, took, refusal) in refusals {
            assert_eq!(refusal.code, ErrorCode::Unavailable, "{name}: {refusal}");
            assert!(refusal.details["retry_after_ms"].as_u64().is_some_and(|pause| pause > 0), "{name}");
            assert!(took < quick, "{name} was refused only after {took:?}");
        }
        // What memory knows is answered as ever.
        for _ in 0..20 {
            let asked = Instant::now();
            assert_eq!(hub.call(&get()).await.unwrap().config.get(), r#"{"number": 1}"#);
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        }
        let asked = Instant::now();
        let health = hub.call(&Health {}).await.unwrap();
        assert_eq!((health.status, health.postgres.status), (Status::Degraded, Status::Down));
        assert_eq!((health.postgres.response_time_ms, health.nats.status), (None, Status::Healthy));
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    }
    eventually(SOON, || async { away.elapsed() > fleet.timeout() + Duration::from_millis(500) }).await;

    match fault {
        Fault::Paused => postgres.resume(),
        _ => postgres.restart().await.unwrap(),
    }
    let back = Instant::now();
    let dead = fleet.silence_one().key();
    let change = eventually(SOON, || async { hub.call(&set(2)).await }).await;
    println!("{fault:?}: a set succeeded {:?} after Postgres was back", back.elapsed());
    assert_eq!(change.version, Some(2), "what was refused was not done");
    eventually(SOON, || async { hub.call(&Health {}).await.unwrap().status == Status::Healthy }).await;
    fleet.only_the_dead_goes_down_in_time(dead).await;
    healed(&nats, &options).await;
    watcher.caught_up(HEALED, &Truth::of(&options)).await;
    watcher.never_went_back();
}

#[tokio::test]
async fn postgres_stops_and_comes_back() {
    postgres_goes_away(Fault::Stopped, Duration::from_secs(2)).await;
}

#[tokio::test]
async fn postgres_is_killed_and_comes_back() {
    postgres_goes_away(Fault::Killed, Duration::from_secs(2)).await;
}

/// Sooner than our own clients give up.
#[tokio::test]
async fn postgres_stands_still_and_goes_on() {
    postgres_goes_away(Fault::Paused, Duration::from_millis(4500)).await;
}

/// NATS goes away under a hub with a fleet, for longer than the fleet's timeout.
async fn nats_goes_away(fault: Fault) {
    let mut server = private_nats().await;
    let options = HubOptions::on(&server.url(), &database().await);
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let hubs = replicas(&options, 2).await;
    let hub = HubClient::new(nats.clone()).with_prefix(options.prefix.clone());
    let watcher = Watcher::start(&options).await;
    hub.call(&set(1)).await.unwrap();
    let mut fleet = Fleet::start(&options, 2, 8, Duration::from_millis(500), 52).await;

    strike_nats(&mut server, fault).await;
    fleet.all_are_due().await;
    // Some sweeps later.
    let (_, token) = eventually(SOON, || truth.leader()).await;
    let due: time::OffsetDateTime = truth.one("SELECT clock_timestamp()", &[]).await;
    let sql = "SELECT clock_timestamp() - $1 > interval '2.2 seconds'";
    eventually(SOON, || async { truth.one::<bool>(sql, &[&due]).await }).await;
    assert_eq!(truth.downed().await, [], "while the hub could not hear");
    assert_eq!(truth.leader().await.map(|(_, token)| token), Some(token), "leadership is no matter of NATS");

    match fault {
        Fault::Paused => server.resume(),
        _ => server.restart().await.unwrap(),
    }
    let back = Instant::now();
    let dead = fleet.silence_one().key();
    let change = eventually(SOON, || async { hub.call(&set(2)).await }).await;
    println!("{fault:?}: a set succeeded {:?} after NATS was back", back.elapsed());
    assert_eq!(change.version, Some(2));
    healed_within(HEALED, &nats, &options).await;
    println!("{fault:?}: KV agreed {:?} after NATS was back", back.elapsed());
    eventually(SOON, || async { hub.call(&Health {}).await.unwrap().status == Status::Healthy }).await;
    fleet.only_the_dead_goes_down_in_time(dead).await;
    watcher.caught_up(SOON, &truth).await;
    watcher.never_went_back();
    if fault != Fault::Paused {
        assert!(hubs.iter().all(|hub| hub.log().contains("lost NATS")), "each says so");
    }
}

#[tokio::test]
async fn nats_stops_and_comes_back() {
    nats_goes_away(Fault::Stopped).await;
}

#[tokio::test]
async fn nats_is_killed_and_comes_back() {
    nats_goes_away(Fault::Killed).await;
}

#[tokio::test]
async fn nats_stands_still_and_goes_on() {
    nats_goes_away(Fault::Paused).await;
}

#[tokio::test]
async fn a_hub_that_is_there_before_nats_waits_for_it() {
    let mut server = private_nats().await;
    server.stop().await;
    let mut hub = HubProcess::start(HubOptions::on(&server.url(), &database().await)).await;
    eventually(SOON, || async { hub.log().contains("waiting for NATS") }).await;
    assert!(hub.log().contains(&server.port().to_string()), "it says where it looks");
    server.restart().await.unwrap();
    hub.ready().await;
    healed(&connect(&server.url()).await, hub.options()).await;
}

#[tokio::test]
async fn a_hub_that_is_there_before_postgres_waits_for_it() {
    let mut postgres = private_postgres().await;
    postgres.stop().await;
    let mut hub = HubProcess::start(HubOptions::on(&nats_url(), &postgres.url())).await;
    eventually(SOON, || async { hub.log().contains("waiting for PostgreSQL") }).await;
    assert!(hub.log().contains(&postgres.port().to_string()), "it says where it looks");
    let password = postgres.url().split(['@', ':']).nth(2).unwrap().to_owned();
    assert!(!hub.log().contains(&password), "but not the password");
    postgres.restart().await.unwrap();
    hub.ready().await;
    healed(&connect(&nats_url()).await, hub.options()).await;
}

#[tokio::test]
async fn a_hub_that_finds_a_postgres_that_stands_still_says_so() {
    let mut postgres = private_postgres().await;
    postgres.pause().await;
    let mut hub = HubProcess::start(HubOptions::on(&nats_url(), &postgres.url())).await;
    eventually(SOON, || async { hub.log().contains("waiting for PostgreSQL") }).await;
    postgres.resume();
    hub.ready().await;
}
