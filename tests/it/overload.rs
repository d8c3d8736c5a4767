//! More than the hub takes: told at once, and what was accepted is finished.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::ask::{Answer, Hub};
use crate::stack::{HubOptions, eventually};
use crate::witness::SOON;

/// How long a refusal may take on a busy machine; the hub's own pause before Postgres gives up is longer.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Sends a burst while nobody can write the registry, and lets go once all that wouldn't be taken have been told so.
/// Gives the answers of those that were taken.
async fn burst(hub: &Hub, requests: Vec<(String, Value)>, taken: usize) -> Vec<Value> {
    let mut holder = hub.database().await;
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE service_registry IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let began = Instant::now();
    let count = requests.len();
    let mut waiting: Vec<_> =
        requests.iter().map(|(subject, body)| hub.send(subject, body.to_string()).boxed_local()).collect();
    let mut refused: Vec<Answer> = Vec::new();
    while refused.len() < count - taken {
        let (answer, _, rest) = futures_util::future::select_all(waiting).await;
        refused.push(answer);
        waiting = rest;
    }
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    for answer in refused {
        let refusal = answer.result().expect_err("nobody could write");
        assert_eq!(refusal.code, "overloaded");
        assert!(refusal.details["retry_after_ms"].as_u64().is_some_and(|pause| (1..=10_000).contains(&pause)));
    }
    // What memory knows and how the hub is can be asked all the same.
    assert_eq!(hub.ask("config.get.a", "").await["version"], 1);
    assert_eq!(hub.ask("health", "").await["status"], "healthy");
    held.rollback().await.unwrap();
    join_all(waiting).await.into_iter().map(|answer| answer.result().expect("it was accepted")).collect()
}

#[tokio::test]
async fn requests_over_the_bound_are_told_at_once() {
    let hub = Hub::start(HubOptions::fresh().await.env("CENTRAL_HUB_MAX_IN_FLIGHT", "1")).await;
    hub.ask("config.set.a", json!({"config": {}})).await;
    let requests = (0..60).map(|index| ("register.s".to_owned(), json!({"instance_id": index.to_string()}))).collect();
    let accepted = burst(&hub, requests, 1).await;
    let listed = hub.ask("services.list", json!({"service_name": "s"})).await;
    assert_eq!(listed["services"].as_array().unwrap().len(), 1, "who was told to come again left nothing");
    assert_eq!(listed["services"][0]["incarnation"], accepted[0]["incarnation"]);
    hub.ask("register.s", json!({"instance_id": "again"})).await;
}

#[tokio::test]
async fn heartbeats_over_the_bound_are_told_at_once() {
    // The hub's own heartbeat may take one of the places.
    let hub = Hub::start(HubOptions::fresh().await.env("CENTRAL_HUB_MAX_HEARTBEATS_WAITING", "8")).await;
    hub.ask("config.set.a", json!({"config": {}})).await;
    join_all((0..100).map(|index| {
        let body = json!({"instance_id": index.to_string()}).to_string();
        let hub = &hub;
        async move { hub.ask("register.s", body).await }
    }))
    .await;
    let beats = (0..60).map(|index| ("heartbeat.s".to_owned(), json!({"instance_id": index.to_string()}))).collect();
    let accepted = burst(&hub, beats, 8).await;
    let sql = "SELECT instance_id FROM health_metrics WHERE service_name = 's' ORDER BY instance_id";
    let rows = hub.database().await.query(sql, &[]).await.unwrap();
    let heard: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut told: Vec<_> = accepted.iter().map(|heard| heard["instance_id"].as_str().unwrap().to_owned()).collect();
    told.sort();
    assert_eq!(heard, told, "what was accepted was finished, and nothing else was taken");
    hub.ask("heartbeat.s", json!({"instance_id": "0"})).await;
}

/// All connections to a Postgres that is there are taken: that is too much at once, and no outage.
#[tokio::test]
async fn without_a_free_connection_it_is_overload() {
    let hub = Hub::start(HubOptions::fresh().await.env("CENTRAL_HUB_DB_CONNECTIONS", "4")).await;
    let mut holder = hub.database().await;
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE config_heads IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let set = async |index: usize| hub.send(&format!("config.set.s{index}"), json!({"config": {}}).to_string()).await;
    let refused = join_all((0..60).map(set)).await;
    let refused: Vec<_> = refused.into_iter().map(|answer| answer.result().expect_err("nobody could write")).collect();
    held.rollback().await.unwrap();
    let overloaded: Vec<_> = refused.iter().filter(|refusal| refusal.code == "overloaded").collect();
    assert!(overloaded.len() > 30, "{refused:?}");
    for refusal in &overloaded {
        assert!(refusal.details["retry_after_ms"].as_u64().is_some_and(|pause| pause > 0), "{refusal:?}");
    }
    // Those who had a connection waited for the lock in vain.
    assert!(
        refused.iter().all(|refusal| ["overloaded", "unavailable"].contains(&refusal.code.as_str())),
        "{refused:?}"
    );
    hub.ask("config.set.a", json!({"config": {}})).await;
    assert_eq!(hub.ask("health", "").await["postgres"]["status"], "healthy");
}

/// Heartbeats and the leader wait for none of those connections: who beats is heard, and who fell silent is down.
#[tokio::test]
async fn without_a_free_connection_heartbeats_are_heard_and_the_dead_are_found() {
    let hub = Hub::start(HubOptions::fresh().await.env("CENTRAL_HUB_DB_CONNECTIONS", "4")).await;
    for service in ["dead", "well"] {
        hub.ask(&format!("register.{service}"), json!({"instance_id": "i", "heartbeat_interval_seconds": 0.5})).await;
    }
    let (mut holder, witness) = (hub.database().await, hub.database().await);
    let held = holder.transaction().await.unwrap();
    // The second is one that the leader writes, too.
    let lock = "LOCK TABLE config_schemas, config_heads IN SHARE ROW EXCLUSIVE MODE";
    held.batch_execute(lock).await.unwrap();
    let crowd = async {
        loop {
            let set = async |index: usize| {
                hub.send(&format!("config.schema.set.s{index}"), json!({"schema": {}}).to_string()).await
            };
            let told = join_all((0..20).map(set)).await;
            for answer in told {
                let refusal = answer.result().expect_err("nobody could write");
                assert!(["overloaded", "unavailable"].contains(&refusal.code.as_str()), "{refusal:?}");
            }
        }
    };
    let found = eventually(SOON, || async {
        hub.ask("heartbeat.well", "").await;
        let sql = "SELECT service_name FROM service_registry WHERE status = 'down'";
        let down: Vec<String> = witness.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        if down.is_empty() { Err(down) } else { Ok(down) }
    });
    let found = tokio::select! {
        found = found => found,
        () = crowd => unreachable!(),
    };
    assert_eq!(found, ["dead"]);
    held.rollback().await.unwrap();
}
