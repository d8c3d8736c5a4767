//! A replica that can't reach Postgres leaves the requests to those that can, loses none in doing so, and is there when
//! nobody else is.

use std::collections::BTreeSet;
use std::time::Duration;

use central_hub::client::{CallError, HubClient};
use central_hub::domain::status::Status;
use central_hub::wire::ErrorCode;
use central_hub::wire::config::{ConfigGet, ConfigSet};
use central_hub::wire::health::{Health, HubHealth};
use central_hub::wire::registry::{Register, ServicesList};
use serde_json::json;

use crate::fleet::Fleet;
use crate::proxy::{Proxy, Wire};
use crate::stack::{HubOptions, HubProcess, database, eventually, nats_url, private_postgres, shared};
use crate::traffic::Load;
use crate::witness::{SOON, Truth, connect, healed, replicas};

const LEFT: &str = "leaves it the requests meanwhile";
const BACK: &str = "takes its share of the requests again";

/// Two replicas; the second one's wire to Postgres can be cut.
struct Pair {
    options: HubOptions,
    wire: Proxy,
    whole: HubProcess,
    cut: HubProcess,
    hub: HubClient,
}

impl Pair {
    async fn start() -> Pair {
        let options = HubOptions::on(&nats_url(), &database().await);
        let port = shared().postgres.port();
        let wire = Proxy::to(port).await;
        let through = HubOptions { database_url: wire.through(&options.database_url, port), ..options.replica() };
        let mut whole = HubProcess::start(options.clone()).await;
        whole.ready().await;
        let mut cut = HubProcess::start(through).await;
        cut.ready().await;
        let hub = HubClient::new(connect(&options.nats_url).await).with_prefix(options.prefix.clone());
        Pair { options, wire, whole, cut, hub }
    }

    /// Does something, and waits until the replica whose wire can be cut has said this after it. (A machine that is
    /// overworked makes it say so more often.)
    async fn says(&self, what: &str, after: impl AsyncFnOnce()) {
        let before = self.cut.log().len();
        after().await;
        eventually(SOON, || async { self.cut.log().get(before..).is_some_and(|log| log.contains(what)) }).await;
    }

    /// What the replica says of itself whose wire can be cut.
    async fn health_of_cut(&self) -> HubHealth {
        eventually(SOON, || async {
            let health = self.hub.call(&Health {}).await.map_err(|error| error.to_string())?;
            if health.replica_id == self.cut.options().replica_id { Ok(health) } else { Err("the other".to_owned()) }
        })
        .await
    }

    /// Registers until the replica whose wire can be cut has done one of it.
    async fn cut_serves(&self) {
        let truth = Truth::of(&self.options);
        let sql = "SELECT count(*) FROM hub_events WHERE service_name = 'asked' AND origin = $1";
        let before: i64 = truth.one(sql, &[&self.cut.options().replica_id]).await;
        eventually(SOON, || async {
            let _ = self.hub.call(&Register::new("asked".parse().unwrap())).await;
            truth.one::<i64>(sql, &[&self.cut.options().replica_id]).await > before
        })
        .await;
    }
}

async fn leaves_and_comes_back(broken: Wire) {
    let pair = Pair::start().await;
    let nats = connect(&pair.options.nats_url).await;
    pair.cut_serves().await;
    let load = Load::start(&pair.options, &nats, 8, Duration::from_secs(8), 91);
    let mut fleet = Fleet::start(&pair.options, 2, 8, Duration::from_millis(500), 91).await;
    eventually(SOON, || async { load.answered() > 100 }).await;

    pair.says(LEFT, async || pair.wire.set(broken)).await;
    let health = pair.health_of_cut().await;
    assert_eq!((health.status, health.postgres.status), (Status::Degraded, Status::Down), "it says how it is");
    // By now its subscriptions are gone: all requests reach the other.
    let before = load.answered();
    eventually(SOON, || async { load.answered() > before + 200 }).await;
    let account = load.stop().await;
    println!("{broken:?}: {} answered, {:?} refused", account.answered, account.refused);
    assert!(account.unanswered.is_empty(), "{:#?}", account.unanswered);
    assert_eq!(account.undelivered, 0, "somebody listened at all times");
    assert!(account.refused.keys().all(|code| code == "unavailable"), "{:?}", account.refused);
    eventually(SOON, || async {
        for _ in 0..100 {
            pair.hub.call(&ServicesList::default()).await.map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(())
    })
    .await;

    pair.says(BACK, async || pair.wire.set(Wire::Whole)).await;
    pair.cut_serves().await;
    fleet.only_the_silent_goes_down(SOON).await;
    healed(&nats, &pair.options).await;
    assert!(!pair.whole.log().contains(LEFT));
}

#[tokio::test]
async fn a_replica_that_is_cut_off_from_postgres_leaves_the_requests_to_the_other() {
    leaves_and_comes_back(Wire::Cut).await;
}

#[tokio::test]
async fn so_does_one_whose_connections_hang() {
    leaves_and_comes_back(Wire::Stuck).await;
}

/// What a caller is told while no replica has Postgres.
async fn told(hub: &HubClient) -> Option<ErrorCode> {
    match hub.call(&ServicesList::default()).await {
        Err(CallError::Refused(refusal)) => Some(refusal.code),
        _ => None,
    }
}

#[tokio::test]
async fn it_comes_back_to_say_what_is_away_when_the_other_one_ends() {
    let mut pair = Pair::start().await;
    let set = ConfigSet::new("a".parse().unwrap(), json!({"n": 1}).as_object().unwrap().clone());
    pair.hub.call(&set).await.unwrap();
    let get = ConfigGet { service_name: "a".parse().unwrap(), version: None, min_revision: None };
    eventually(SOON, || async {
        let mut all = true;
        for _ in 0..10 {
            all &= pair.hub.call(&get).await.is_ok();
        }
        all
    })
    .await;
    for killed in [true, false] {
        pair.says(LEFT, async || pair.wire.set(Wire::Cut)).await;
        if killed {
            pair.whole.kill9().await;
        } else {
            pair.whole.stop().await;
        }
        eventually(SOON, || async { told(&pair.hub).await == Some(ErrorCode::Unavailable) }).await;
        assert_eq!(pair.hub.call(&get).await.unwrap().config.get(), r#"{"n": 1}"#, "memory knows it");
        pair.whole.restart().await;
        pair.whole.ready().await;
        pair.wire.set(Wire::Whole);
        pair.cut_serves().await;
    }
}

#[tokio::test]
async fn when_all_lost_postgres_all_stay_to_say_so() {
    let mut postgres = private_postgres().await;
    let options = HubOptions::on(&nats_url(), &postgres.url());
    let hubs = replicas(&options, 2).await;
    let hub = HubClient::new(connect(&options.nats_url).await).with_prefix(options.prefix.clone()).with_timeout(SOON);
    for pause in [true, false] {
        let well = std::cell::RefCell::new(BTreeSet::new());
        eventually(SOON, || async {
            let health = hub.call(&Health {}).await.map_err(|error| error.to_string())?;
            if health.postgres.status == Status::Healthy {
                well.borrow_mut().insert(health.replica_id);
            }
            if well.borrow().len() == 2 { Ok(()) } else { Err(format!("only {:?}", well.borrow())) }
        })
        .await;
        let said: Vec<usize> = hubs.iter().map(|hub| hub.log().len()).collect();
        if pause {
            postgres.pause().await;
        } else {
            postgres.stop().await;
        }
        let began = std::time::Instant::now();
        // Longer than it takes to notice, and to believe another's last word.
        while began.elapsed() < Duration::from_secs(6) {
            assert_eq!(told(&hub).await, Some(ErrorCode::Unavailable));
        }
        // (One may well leave when the other has Postgres back a moment before it.)
        assert!(hubs.iter().zip(said).all(|(hub, said)| !hub.log()[said..].contains(LEFT)), "none left");
        if pause {
            postgres.resume();
        } else {
            postgres.restart().await.unwrap();
        }
        eventually(SOON, || async { hub.call(&ServicesList::default()).await.is_ok() }).await;
    }
}
