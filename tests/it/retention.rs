//! How many versions are kept: never fewer than what is in force and what a rollback would need.

use serde_json::{Value, json};

use crate::ask::{Asker, Hub, SOON};
use crate::stack::eventually;

async fn manage(hub: &Asker, settings: Value) {
    let config = json!({"operational": {"config_management": settings}});
    hub.ask("config.set.central-hub", json!({ "config": config })).await;
}

async fn set(hub: &Asker, service: &str, n: i64) {
    hub.ask(&format!("config.set.{service}"), json!({"config": {"n": n}})).await;
}

/// The versions that are kept, oldest first.
async fn kept(hub: &Asker, service: &str) -> Vec<i64> {
    let sql = "SELECT version FROM service_configs WHERE service_name = $1 ORDER BY version";
    hub.database().await.query(sql, &[&service]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_newest_are_kept_with_the_active_one_and_what_a_rollback_needs() {
    let hub = Hub::fresh().await;
    for n in 1..=4 {
        set(&hub, "a", n).await;
        set(&hub, "before", n).await;
    }
    manage(&hub, json!({"keep_versions": 2})).await;
    // Also of services that nobody writes any more.
    eventually(SOON, || async { kept(&hub, "before").await == [3, 4] }).await;
    for n in 5..=7 {
        set(&hub, "a", n).await;
    }
    assert_eq!(kept(&hub, "a").await, [6, 7]);
    let history = hub.ask("config.history.a", "").await;
    assert_eq!(history["activations"].as_array().unwrap().len(), 7, "what happened is remembered");
    assert_eq!(history["versions"].as_array().unwrap().len(), 2);

    // What was removed is said to be.
    for (call, body, field) in [
        ("config.get.a", json!({"version": 5}), "version"),
        ("config.rollback.a", json!({"to_version": 5}), "to_version"),
        ("config.rollback.a", json!({"to_version": 5, "dry_run": true}), "to_version"),
        ("config.diff.a", json!({"from": 5}), "from"),
        ("config.diff.a", json!({"from": 7, "to": 5}), "to"),
    ] {
        hub.refused(call, body, "not_found", field).await;
    }
    let back = hub.ask("config.rollback.a", "").await;
    assert_eq!((&back["version"], &back["revision"]), (&json!(6), &json!(8)));
    let refusal = hub.send("config.rollback.a", "").await.result().expect_err("version 5 is gone");
    assert_eq!((refusal.code.as_str(), refusal.details.get("field")), ("not_found", None));
    assert!(refusal.message.contains('5') && refusal.message.contains("to_version"), "{}", refusal.message);

    // An old version that is in force stays, and so does what was before it.
    set(&hub, "a", 8).await;
    assert_eq!(kept(&hub, "a").await, [6, 7, 8], "6 is what a rollback needs");
    hub.ask("config.rollback.a", json!({"to_version": 6})).await;
    set(&hub, "a", 9).await;
    set(&hub, "a", 10).await;
    assert_eq!(kept(&hub, "a").await, [9, 10]);
    hub.ask("config.rollback.a", json!({"to_version": 9})).await;
    manage(&hub, json!({"keep_versions": 1})).await;
    eventually(SOON, || async { kept(&hub, "a").await == [9, 10] }).await;
    hub.ask("config.delete.a", "").await;
    assert_eq!(kept(&hub, "a").await, [9, 10], "9 is what undoes the delete");
    assert_eq!(hub.ask("config.rollback.a", "").await["version"], 9);
    assert_eq!(hub.ask("config.get.a", "").await["config"], json!({"n": 9}));
}

#[tokio::test]
async fn without_versioning_only_the_active_one_is_kept() {
    let hub = Hub::fresh().await;
    for n in 1..=3 {
        set(&hub, "a", n).await;
    }
    manage(&hub, json!({"enable_versioning": false})).await;
    eventually(SOON, || async { kept(&hub, "a").await == [3] }).await;
    set(&hub, "a", 4).await;
    assert_eq!(kept(&hub, "a").await, [4]);
    assert_eq!(hub.ask("config.get.a", "").await["version"], 4, "numbers go on");
    hub.refused("config.rollback.a", "", "not_found", None).await;
    hub.refused("config.rollback.a", json!({"to_version": 3}), "not_found", "to_version").await;
    // A delete may still be a mistake.
    hub.ask("config.delete.a", "").await;
    assert_eq!(hub.ask("config.rollback.a", "").await["version"], 4);

    // In a freeze the instances run an older one, which KV may need again.
    manage(&hub, json!({"enable_versioning": false, "enable_hot_reload": false})).await;
    set(&hub, "a", 5).await;
    set(&hub, "a", 6).await;
    assert_eq!(kept(&hub, "a").await, [4, 6]);
    hub.bucket("config").await.purge("a").await.unwrap();
    hub.value_once("config", "a", |kept| kept["version"] == 4).await;
    manage(&hub, json!({"enable_versioning": false})).await;
    hub.value_once("config", "a", |kept| kept["version"] == 6).await;
    eventually(SOON, || async { kept(&hub, "a").await == [6] }).await;
}
