//! Operators who write configs by SQL are served like anybody else.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::ask::{Asker, Hub, SOON};
use crate::bad_input::unharmed;
use crate::stack::eventually;

fn insert(service: &str, config: &str) -> String {
    format!("INSERT INTO service_configs (service_name, config_data) VALUES ('{service}', '{config}')")
}

fn activate(service: &str, version: i64, active: bool) -> String {
    format!("UPDATE service_configs SET active = {active} WHERE service_name = '{service}' AND version = {version}")
}

/// What Postgres says to a statement that must fail.
async fn refusal(database: &Client, sql: &str) -> String {
    let error = database.batch_execute(sql).await.expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).message().to_owned()
}

async fn newest(hub: &Asker, service: &str) -> Value {
    hub.ask(&format!("config.history.{service}"), "").await["activations"][0].clone()
}

#[tokio::test]
async fn a_row_that_is_inserted_or_activated_is_published() {
    let mut hub = Hub::fresh().await;
    let database = hub.database().await;
    let role: String = database.query_one("SELECT 'sql:' || session_user", &[]).await.unwrap().get(0);
    hub.ask("register.a", json!({"instance_id": "i"})).await;

    // The first config of a service, and a further one after the hub's.
    database.batch_execute(&insert("a", r#"{"n": 1}"#)).await.unwrap();
    let kept = hub.value_once("config", "a", |kept| kept["revision"] == 1).await;
    assert_eq!((&kept["version"], &kept["config"], &kept["created_by"]), (&json!(1), &json!({"n": 1}), &json!(role)));
    let activation = newest(&hub, "a").await;
    assert_eq!((&activation["action"], &activation["by"]), (&json!("published"), &json!(role)));
    hub.ask("config.set.a", json!({"config": {"n": 2}})).await;
    let commented = "INSERT INTO service_configs (service_name, config_data, created_by, comment)
                     VALUES ('a', '{\"n\": 3}', 'ann', 'by hand')";
    database.batch_execute(commented).await.unwrap();
    hub.value_once("config", "a", |kept| kept["revision"] == 3 && kept["version"] == 3).await;
    eventually(SOON, || async { hub.ask("config.get.a", "").await["version"] == 3 }).await;
    let config = hub.ask("config.get.a", "").await;
    assert_eq!((&config["created_by"], &config["comment"]), (&json!("ann"), &json!("by hand")));
    assert_eq!(newest(&hub, "a").await["by"], json!(role), "who says so is one thing, who did it another");
    assert_eq!(hub.ask("heartbeat.a", "").await["config"]["revision"], 3);

    // An older one again; none; and that one again.
    database.batch_execute(&activate("a", 1, true)).await.unwrap();
    hub.value_once("config", "a", |kept| kept["revision"] == 4 && kept["version"] == 1).await;
    database.batch_execute(&activate("a", 1, false)).await.unwrap();
    hub.value_once("config", "a", |kept| kept["revision"] == 5 && kept["config"].is_null()).await;
    eventually(SOON, || async { hub.send("config.get.a", "").await.result().is_err() }).await;
    assert_eq!(newest(&hub, "a").await["action"], "deleted");
    database.batch_execute(&activate("a", 1, true)).await.unwrap();
    hub.value_once("config", "a", |kept| kept["revision"] == 6 && kept["version"] == 1).await;
    let events = hub.events("config.a.*", 6).await;
    let told: Vec<_> = events.iter().map(|event| (&event.body["kind"], &event.body["details"]["by"])).collect();
    assert_eq!(told[0], (&json!("published"), &json!(role)));
    assert_eq!(told[3], (&json!("rolled_back"), &json!(role)));
    assert_eq!(told[4], (&json!("deleted"), &json!(role)));

    // The hub's calls take back what was done by hand, step by step, and numbers go on.
    let back = async || hub.ask("config.rollback.a", "").await["version"].clone();
    assert_eq!([back().await, back().await, back().await, back().await], [Value::Null, json!(1), json!(3), json!(2)]);
    assert_eq!(hub.ask("config.set.a", json!({"config": {"n": 4}})).await["version"], 4);
    // A version that waits, and comes into force later.
    let waiting = "INSERT INTO service_configs (service_name, config_data, active) VALUES ('a', '{\"n\": 5}', false)";
    database.batch_execute(waiting).await.unwrap();
    assert_eq!(hub.ask("config.get.a", "").await["version"], 4);
    assert_eq!(hub.ask("config.get.a", json!({"version": 5})).await["config"], json!({"n": 5}));
    assert_eq!(hub.ask("config.set.a", json!({"config": {"n": 6}})).await["version"], 6, "its number is taken");
    assert_eq!(hub.ask("config.rollback.a", json!({"to_version": 5})).await["config"], Value::Null);
    assert_eq!(hub.ask("config.get.a", "").await["config"], json!({"n": 5}));
    // Several at once, and what was done in a transaction that didn't hold.
    let several =
        format!("BEGIN; {}; {}; {}; COMMIT", insert("b", "{}"), insert("b", r#"{"n": 2}"#), insert("c", "{}"));
    database.batch_execute(&several).await.unwrap();
    database.batch_execute(&format!("BEGIN; {}; ROLLBACK", insert("d", "{}"))).await.unwrap();
    hub.value_once("config", "b", |kept| kept["version"] == 2 && kept["revision"] == 2).await;
    hub.value_once("config", "c", |kept| kept["version"] == 1).await;
    hub.refused("config.get.d", "", "not_found", None).await;
    unharmed(&mut hub).await;
}

#[tokio::test]
async fn what_would_break_a_history_is_refused() {
    let mut hub = Hub::fresh().await;
    let database = hub.database().await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    hub.ask("config.set.a", json!({"config": {"n": 2}})).await;
    let before = hub.ask("config.history.a", "").await;
    let of_a = "WHERE service_name = 'a' AND version = 1";
    for (sql, says) in [
        (format!("UPDATE service_configs SET config_data = '{{}}' {of_a}"), "immutable"),
        (format!("UPDATE service_configs SET version = 9 {of_a}"), "immutable"),
        (format!("UPDATE service_configs SET service_name = 'b' {of_a}"), "immutable"),
        (
            "INSERT INTO service_configs (service_name, config_data, version) VALUES ('a', '{}', 7)".into(),
            "next version",
        ),
        (
            "INSERT INTO service_configs (service_name, config_data, version) VALUES ('a', '{}', 2)".into(),
            "next version",
        ),
        (insert("a.b", "{}"), "service name"),
        (insert("", "{}"), "service name"),
        (insert("a", "[]"), "service_configs_config_data_check"),
        (insert("a", "5"), "service_configs_config_data_check"),
        ("DELETE FROM service_configs WHERE service_name = 'a' AND version = 2".into(), "active"),
    ] {
        let said = refusal(&database, &sql).await;
        assert!(said.contains(says), "{sql}: {said}");
    }
    assert_eq!(hub.ask("config.history.a", "").await, before);
    // What isn't in force may go; a rollback says so.
    database.batch_execute(&format!("DELETE FROM service_configs {of_a}")).await.unwrap();
    hub.refused("config.rollback.a", "", "not_found", None).await;
    hub.refused("config.get.a", json!({"version": 1}), "not_found", "version").await;
    unharmed(&mut hub).await;
}

/// An alert about a forced config ends however the next one comes.
#[tokio::test]
async fn what_is_written_by_hand_replaces_what_was_forced() {
    let hub = Hub::fresh().await;
    let database = hub.database().await;
    hub.ask("register.a", json!({"instance_id": "i", "config_schema": {"maxProperties": 0}})).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}, "force": true})).await;
    let up = "SELECT count(*) FROM hub_alerts WHERE resolved_at IS NULL";
    assert_eq!(database.query_one(up, &[]).await.unwrap().get::<_, i64>(0), 1);
    database.batch_execute(&insert("a", "{}")).await.unwrap();
    eventually(SOON, || async { database.query_one(up, &[]).await.unwrap().get::<_, i64>(0) == 0 }).await;
}

/// What no request could bring, since SQL passes the gates by: it is kept exactly, or said to be too much, and stops
/// nobody else.
#[tokio::test]
async fn what_no_request_could_bring_harms_nothing() {
    let mut hub = Hub::fresh().await;
    let database = hub.database().await;
    let exact = r#"{"n": 123456789012345678901234567890.5, "\u00e9": 1, "e\u0301": 2}"#;
    database.batch_execute(&insert("exact", exact)).await.unwrap();
    hub.value_once("config", "exact", |kept| kept["revision"] == 1).await;
    let raw = String::from_utf8(hub.bucket("config").await.get("exact").await.unwrap().unwrap().to_vec()).unwrap();
    assert!(raw.contains("123456789012345678901234567890.5"), "{raw}");
    let answer = hub.send("config.get.exact", "").await;
    assert!(String::from_utf8_lossy(&answer.body).contains("123456789012345678901234567890.5"), "{answer:?}");
    // A patch would have to alter it.
    let details = hub.refused("config.patch.exact", json!({"patch": {"m": 1}}), "bad_request", "patch").await;
    assert_eq!(details["path"], "/n");
    hub.ask("config.set.exact", json!({"config": {"n": 1}})).await;
    assert_eq!(hub.ask("config.rollback.exact", "").await["version"], 1);
    let answer = hub.send("config.get.exact", "").await;
    assert!(String::from_utf8_lossy(&answer.body).contains("123456789012345678901234567890.5"), "{answer:?}");

    let details = hub.refused("config.diff.exact", json!({"from": 2, "to": 1}), "bad_request", "to").await;
    assert_eq!(details["path"], "/n");
    let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(3_000), "]".repeat(3_000));
    database.batch_execute(&insert("deep", &deep)).await.unwrap();
    let bucket = hub.bucket("config").await;
    eventually(SOON, || async { bucket.get("deep").await.is_ok_and(|kept| kept.is_some()) }).await;
    hub.refused("config.patch.deep", json!({"patch": {"b": 1}}), "bad_request", "patch").await;
    hub.ask("config.set.deep", json!({"config": {}})).await;
    hub.refused("config.rollback.deep", "", "bad_request", "config").await;

    // More than a message can carry.
    let huge = format!(r#"{{"x": "{}"}}"#, "y".repeat(2_000_000));
    database.batch_execute(&insert("huge", &huge)).await.unwrap();
    eventually(SOON, || async { hub.process.log().contains("too large for NATS") }).await;
    hub.refused("config.get.huge", "", "too_large", "reply").await;
    for n in 1..=5 {
        let set = hub.ask("config.set.other", json!({"config": {"n": n}})).await;
        assert_eq!(set["published"], true);
    }
    let events = hub.events("config.other.published", 5).await;
    assert_eq!(events.len(), 5);
    assert_eq!(hub.ask("config.status.huge", "").await["published"], false);
    let set = hub.ask("config.set.huge", json!({"config": {"n": 1}})).await;
    assert_eq!((&set["version"], &set["published"]), (&json!(2), &json!(true)));
    hub.value_once("config", "huge", |kept| kept["config"] == json!({"n": 1})).await;
    assert_eq!(hub.ask("health", "").await["status"], "healthy");
    drop(database);
    assert!(hub.process.is_running());
}

/// Times that no calendar has: each call that tells them answers, and nothing else suffers.
#[tokio::test]
async fn a_time_without_end_is_told_as_the_last_one() {
    let mut hub = Hub::fresh().await;
    let database = hub.database().await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    hub.ask("register.a", json!({"instance_id": "i", "status": "down"})).await;
    hub.ask("infra.check", "").await;
    let listed = async || hub.ask("alerts.list", json!({"service_name": "a"})).await["alerts"].clone();
    eventually(SOON, || async { listed().await.as_array().is_some_and(|alerts| !alerts.is_empty()) }).await;
    eventually(SOON, || async { hub.ask("health", "").await["projection"]["pending"] == 0 }).await;
    for sql in [
        "UPDATE hub_alerts SET raised_at = 'infinity', acked_at = '-infinity', silenced_until = '200000-01-01'",
        "UPDATE service_registry SET registered_at = 'infinity', last_heartbeat = 'infinity', config_reported_at = 'infinity'",
        "UPDATE service_configs SET created_at = 'infinity'",
        "UPDATE config_activations SET activated_at = 'infinity'",
        "UPDATE config_heads SET updated_at = 'infinity'",
        "UPDATE hub_events SET at = 'infinity' WHERE id % 2 = 0",
        "UPDATE hub_events SET at = '4713-01-01 BC' WHERE id % 2 = 1",
        "UPDATE infrastructure_components SET checked_at = 'infinity'",
        "UPDATE liveness_holds SET until = 'infinity'",
    ] {
        database.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let last = json!("9999-12-31T23:59:59Z");
    let alert = listed().await[0].clone();
    assert_eq!((&alert["raised_at"], &alert["silenced_until"]), (&last, &last));
    assert_eq!(alert["acked_at"], "0000-01-01T00:00:00Z");
    assert_eq!(hub.ask("services.list", json!({"service_name": "a"})).await["services"][0]["registered_at"], last);
    // (The sweep may have put its last heartbeat right, which lay ahead.)
    assert_eq!(hub.ask("services.get.a", "").await["instances"][0]["registered_at"], last);
    let history = hub.ask("config.history.a", "").await;
    assert_eq!((&history["activations"][0]["at"], &history["versions"][0]["created_at"]), (&last, &last));
    assert_eq!(hub.ask("config.get.a", json!({"version": 1})).await["created_at"], last);
    for (subject, body) in [
        ("config.list", json!({})),
        ("config.status.a", json!({})),
        ("status", json!({})),
        ("timeline", json!({})),
        ("timeline", json!({"service_name": "a"})),
        ("infra.status", json!({})),
        ("uptime", json!({})),
        ("uptime.a", json!({})),
        ("metrics.a", json!({})),
        ("deps.graph", json!({})),
        ("heartbeat.a", json!({"instance_id": "i"})),
        ("config.set.a", json!({"config": {"n": 2}})),
        ("alerts.ack", json!({"id": alert["id"]})),
    ] {
        hub.ask(subject, body).await;
    }
    assert_eq!(hub.errors_logged(), Vec::<String>::new());
    unharmed(&mut hub).await;
}

/// Rows that the hub can't read hold up nothing but themselves: events after them are sent, instances beside them are swept.
#[tokio::test]
async fn a_row_that_cannot_be_read_holds_nobody_up() {
    let hub = Hub::fresh().await;
    let database = hub.database().await;
    let bad = "INSERT INTO hub_events (topic, kind, service_name, details, origin)
                   VALUES ('service', 'registered', 'no name', '{}', 'sql');
               INSERT INTO service_registry (service_name, instance_id, status, incarnation, heartbeat_interval_seconds, last_heartbeat)
                   VALUES ('a', 'no id', 'healthy', 1, 0.1, now() - interval '1 hour')";
    database.batch_execute(bad).await.unwrap_or_else(|error| panic!("{error:?}"));
    hub.ask(
        "config.set.central-hub",
        json!({"config": {"operational": {"service_discovery": {
        "heartbeat_interval_seconds": 0.2, "service_timeout_seconds": 0.4}}}}),
    )
    .await;
    hub.ask("register.a", json!({"instance_id": "i", "heartbeat_interval_seconds": 0.1})).await;
    hub.value_once("services", "a.i", |kept| kept["status"] == "down").await;
    let told = hub.events("service.a.down", 1).await;
    assert_eq!(told[0].body["instance_id"], "i");
    hub.ask("heartbeat.a", json!({"instance_id": "i"})).await;
    hub.value_once("services", "a.i", |kept| kept["status"] == "healthy").await;
    let logged = hub.errors_logged();
    assert!(!logged.is_empty() && logged.iter().all(|line| line.contains("a row can't be read")), "{logged:?}");
}
