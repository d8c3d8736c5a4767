//! The infrastructure that a hub watches over: what it finds shows in answers, rows, KV, events and alerts, as components
//! stop and start.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::ask::{Asker, Hub, SOON};
use crate::components::{Silence, clickhouse, free_port, kafka};
use crate::stack::{HubOptions, eventually, nats_url, private_postgres};

/// Looks at once a second, at these components.
async fn watch(hub: &Asker, components: Value) {
    let health = json!({"check_interval_seconds": 1, "infrastructure_components": components});
    hub.ask("config.set.central-hub", json!({"config": {"operational": {"health_monitoring": health}}})).await;
}

async fn component(hub: &Asker, name: &str) -> Result<Value, String> {
    let told = hub.ask("infra.status", "").await;
    let found = told["components"].as_array().unwrap().iter().find(|component| component["component_name"] == name);
    found.cloned().ok_or_else(|| told.to_string())
}

async fn is(hub: &Asker, name: &str, status: &str) -> Value {
    eventually(SOON, || async {
        let found = component(hub, name).await?;
        if found["status"] == status { Ok(found) } else { Err(found.to_string()) }
    })
    .await
}

#[tokio::test]
async fn kafka_and_clickhouse_show_as_they_stop_and_start() {
    let (Some(mut broker), Some(mut clickhouse)) = (kafka(&[]).await, clickhouse("").await) else { return };
    let (brokers, url) = (format!("127.0.0.1:{}", broker.port), format!("http://127.0.0.1:{}", clickhouse.port));
    let options = HubOptions::fresh().await.env("CENTRAL_HUB_KAFKA_BROKERS", &brokers);
    let hub = Hub::start(options.env("CENTRAL_HUB_CLICKHOUSE_URL", &url)).await;
    watch(&hub, json!(["postgresql", "nats", "kafka", "clickhouse"])).await;
    for name in ["postgresql", "nats", "kafka", "clickhouse"] {
        let found = is(&hub, name, "healthy").await;
        assert!(found["response_time_ms"].as_f64() > Some(0.0) && found["error_message"].is_null(), "{found}");
        assert_eq!(found["critical"], name == "postgresql" || name == "nats", "{found}");
    }
    for (name, server) in [("kafka", &mut broker), ("clickhouse", &mut clickhouse)] {
        server.stop().await;
        let found = is(&hub, name, "down").await;
        assert_eq!((&found["error_message"], &found["response_time_ms"]), (&json!("connection refused"), &Value::Null));
        hub.value_once("infra", name, |kept| kept["status"] == "down" && kept.get("uptime_pct_24h").is_none()).await;
        let listed = json!({"active": true, "service_name": name});
        let alerted = || async { hub.ask("alerts.list", &listed).await["alerts"].as_array().unwrap().len() };
        eventually(SOON, || async { alerted().await == 1 }).await;
        server.restart().await;
        let found = is(&hub, name, "healthy").await;
        let uptime = found["uptime_pct_24h"].as_f64().unwrap();
        assert!(uptime > 0.0 && uptime < 100.0, "{found}");
        eventually(SOON, || async { alerted().await == 0 }).await;
        let kinds = hub.events(&format!("infra.{name}.*"), 3).await;
        let kinds: Vec<_> = kinds.iter().map(|event| event.body["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["healthy", "down", "healthy"]);
    }
    // The second query for operators, as it stands.
    let sql = "SELECT component_name, status, response_time_ms, checked_at FROM infrastructure_status
        WHERE checked_at > CURRENT_TIMESTAMP - INTERVAL '1 hour' ORDER BY checked_at DESC";
    let rows = hub.database().await.query(sql, &[]).await.unwrap();
    for (name, status) in [("kafka", "down"), ("kafka", "healthy"), ("clickhouse", "down"), ("nats", "healthy")] {
        let is_it = |row: &&tokio_postgres::Row| row.get::<_, &str>(0) == name && row.get::<_, &str>(1) == status;
        let row = rows.iter().find(is_it).unwrap_or_else(|| panic!("no row says that {name} is {status}"));
        assert_eq!(row.get::<_, Option<f64>>(2).is_some(), status == "healthy");
    }
}

/// Without a target nobody knows; what hangs is down after its timeout, and holds nothing else up; what the settings name no
/// longer is gone.
#[tokio::test]
async fn what_has_no_target_is_unknown_and_what_is_gone_is_gone() {
    let hub = Hub::fresh().await;
    let (silence, closed) = (Silence::listen().await, free_port());
    let hanging = json!({"name": "hanging", "kind": "tcp", "target": format!("127.0.0.1:{closed}")});
    let slow = json!({"name": "slow", "kind": "redis", "target": format!("redis://127.0.0.1:{}", silence.port), "timeout_ms": 300});
    watch(&hub, json!(["nats", "kafka", hanging, slow])).await;
    let unknown = is(&hub, "kafka", "unknown").await;
    assert!(unknown["error_message"].as_str().unwrap().contains("CENTRAL_HUB_KAFKA_BROKERS"), "{unknown}");
    assert!(is(&hub, "slow", "down").await["error_message"].as_str().unwrap().contains("300 ms"));
    is(&hub, "hanging", "down").await;
    is(&hub, "nats", "healthy").await;
    let told = hub.ask("infra.check", "").await;
    assert_eq!(told["components"].as_array().unwrap().len(), 4, "{told}");
    assert_eq!(hub.ask("alerts.list", json!({"service_name": "kafka"})).await["alerts"], json!([]));

    watch(&hub, json!(["nats"])).await;
    eventually(SOON, || async { component(&hub, "slow").await.is_err() }).await;
    hub.value_gone("infra", "slow").await;
    hub.value_gone("infra", "kafka").await;
}

/// The database itself: while it is away a check says so, and when it is back its rows tell of the outage.
#[tokio::test]
async fn an_outage_of_postgres_is_told_and_kept() {
    let mut postgres = private_postgres().await;
    let hub = Hub::start(HubOptions::on(&nats_url(), &postgres.url())).await;
    watch(&hub, json!(["postgresql", "nats"])).await;
    is(&hub, "postgresql", "healthy").await;
    postgres.stop().await;
    eventually(SOON, || async {
        let told = hub.ask("infra.check", "").await;
        let status =
            |name| told["components"].as_array().unwrap().iter().find(|one| one["component_name"] == name).cloned();
        let found = (status("postgresql").unwrap()["status"].clone(), status("nats").unwrap()["status"].clone());
        if found == (json!("down"), json!("healthy")) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    postgres.restart().await.unwrap();
    let down = "SELECT count(*) FROM infrastructure_status WHERE component_name = 'postgresql' AND status = 'down'";
    let down = async || hub.database().await.query_one(down, &[]).await.map(|row| row.get::<_, i64>(0) > 0);
    eventually(SOON, || async { is(&hub, "postgresql", "healthy").await["status"] == "healthy" }).await;
    eventually(SOON, || async { matches!(down().await, Ok(true)) }).await;
}

/// A peer that answers in words of its own: what is told and logged of it is in the hub's.
#[tokio::test]
async fn what_a_peer_says_is_not_repeated() {
    let hub = Hub::fresh().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"-ERR '\x1b[31mhUsh4qZ7'\r\n").await;
                // What was asked is taken, so that the end is one in good order.
                let _ = timeout(Duration::from_secs(1), stream.read(&mut [0; 1_000])).await;
            });
        }
    });
    watch(
        &hub,
        json!([
            {"name": "rude-nats", "kind": "nats", "target": format!("nats://127.0.0.1:{port}")},
            {"name": "rude-postgres", "kind": "postgresql", "target": format!("postgresql://u@127.0.0.1:{port}/x")},
        ]),
    )
    .await;
    for (name, words) in [("rude-nats", "it refuses the connection"), ("rude-postgres", "isn't PostgreSQL's protocol")]
    {
        let found = is(&hub, name, "down").await;
        assert!(found["error_message"].as_str().unwrap().contains(words), "{found}");
    }
    let log = hub.process.log();
    assert!(!log.contains("hUsh4qZ7") && !log.contains("async_nats"), "{log}");
}
