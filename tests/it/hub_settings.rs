//! The hub's own settings: the config of the service `central-hub`, in force on every replica without a restart.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::ask::{Asker, Hub, SOON};
use crate::stack::eventually;

fn operational(section: &str, settings: Value) -> Value {
    json!({"config": {"operational": {(section): settings}}})
}

async fn set_own(hub: &Asker, section: &str, settings: Value) -> Value {
    hub.ask("config.set.central-hub", operational(section, settings)).await
}

/// The timeout that a registration is told, by whichever replica takes it.
async fn timeout(hub: &Asker) -> f64 {
    hub.ask("register.probe", json!({"instance_id": "p"})).await["service_timeout_seconds"].as_f64().unwrap()
}

/// Waits until every replica has it.
async fn in_force(hub: &Asker, seconds: f64) {
    eventually(SOON, || async {
        let told = join_all((0..8).map(|_| timeout(hub))).await;
        if told.iter().all(|told| *told == seconds) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_timeout_holds_for_the_sweep_at_once_and_on_every_replica() {
    let mut one = Hub::fresh().await;
    let other = Hub::start(one.process.options().replica()).await;
    assert_eq!(timeout(&one).await, 90.0);
    set_own(&one, "service_discovery", json!({"service_timeout_seconds": 6000})).await;
    in_force(&one, 6000.0).await;
    // It beats twice a second, or says so: with 6000 s for 30 it has 100 s, with 60 s for 30 it has one.
    hub_of_silence(&one).await;
    // What needs a restart elsewhere, or another minute, shows long before those 100 s.
    set_own(&one, "service_discovery", json!({"service_timeout_seconds": 60})).await;
    other.value_once("services", "silent.i", |instance| instance["status"] == "down").await;
    in_force(&one, 60.0).await;

    // An invalid one is refused, with its place, and changes nothing; a typo is invalid.
    for (config, path) in [
        (
            operational("service_discovery", json!({"service_timeout_seconds": "60"})),
            "/operational/service_discovery/service_timeout_seconds",
        ),
        (
            operational("service_discovery", json!({"service_timeout_seconds": 0})),
            "/operational/service_discovery/service_timeout_seconds",
        ),
        (operational("service_discovery", json!({"service_timeout": 60})), "/operational/service_discovery"),
        (operational("service_discovry", json!({})), "/operational"),
        (
            operational("config_management", json!({"keep_versions": -1})),
            "/operational/config_management/keep_versions",
        ),
        (operational("limits", json!({"depth": 2})), "/operational/limits/depth"),
        (operational("limits", json!({"page_max": 10})), "/operational/limits/page_default"),
        (
            operational("health_monitoring", json!({"infrastructure_components": [{"name": "x"}]})),
            "/operational/health_monitoring/infrastructure_components/0/kind",
        ),
        (json!({"config": {"operation": {}}}), ""),
    ] {
        let details = one.refused("config.set.central-hub", &config, "schema_violation", "config").await;
        let paths: Vec<_> = details["violations"].as_array().unwrap().iter().map(|found| &found["path"]).collect();
        assert!(paths.contains(&&json!(path)), "{config}: {details}");
        let validation = one.ask("config.validate.central-hub", &config).await;
        assert_eq!(validation["valid"], false, "{config}");
    }
    let patch = json!({"patch": {"operational": {"service_discovery": {"service_timeout_seconds": []}}}});
    one.refused("config.patch.central-hub", patch, "schema_violation", "config").await;
    in_force(&one, 60.0).await;

    // What an operator writes by SQL passes the gate by; the settings before stay in force, and it is said.
    let database = one.database().await;
    let insert = |config: &Value| {
        format!("INSERT INTO service_configs (service_name, config_data) VALUES ('central-hub', '{config}')")
    };
    database.batch_execute(&insert(&json!({"operational": {"service_discovery": 5}}))).await.unwrap();
    eventually(SOON, || async { one.process.log().contains("the hub's own config can't be used") }).await;
    assert_eq!(timeout(&one).await, 60.0);
    database
        .batch_execute(&insert(&json!({"operational": {"service_discovery": {"service_timeout_seconds": 75}}})))
        .await
        .unwrap();
    in_force(&one, 75.0).await;

    // Kept over a restart, and gone with a delete.
    one.process.restart().await;
    one.process.ready().await;
    in_force(&one, 75.0).await;
    assert_eq!(one.ask("config.delete.central-hub", "").await["version"], Value::Null);
    in_force(&one, 90.0).await;
    assert_eq!(one.ask("config.rollback.central-hub", "").await["published"], true);
    in_force(&one, 75.0).await;

    // Each replica says what it runs, as every instance does.
    eventually(SOON, || async {
        let status = one.ask("config.status.central-hub", "").await;
        if status["converged"] == true && status["instances"].as_array().unwrap().len() == 2 {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    // What documents of older hubs hold is taken, and said to be of no use.
    let old = json!({"operational": {"server_settings": {"host": "0.0.0.0", "port": 8001, "workers": 4}, "service_discovery": {"service_timeout_seconds": 80}}});
    for dry in [true, false] {
        let set = one.ask("config.set.central-hub", json!({"config": old, "dry_run": dry, "request_id": "old"})).await;
        let warnings = set["warnings"].as_array().unwrap();
        assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("server_settings"), "{set}");
    }
    in_force(&one, 80.0).await;
}

/// Registers an instance that never beats, and sees that nothing comes of it for longer than a second and a sweep.
async fn hub_of_silence(hub: &Asker) {
    let registered = hub.ask("register.silent", json!({"instance_id": "i", "heartbeat_interval_seconds": 0.5})).await;
    assert_eq!(registered["service_timeout_seconds"], 100.0);
    let database = hub.database().await;
    let silence = "SELECT clock_timestamp() - last_heartbeat > interval '2.5 seconds', status FROM service_registry
                   WHERE service_name = 'silent'";
    eventually(SOON, || async { database.query_one(silence, &[]).await.unwrap().get::<_, bool>(0) }).await;
    assert_eq!(database.query_one(silence, &[]).await.unwrap().get::<_, &str>(1), "healthy");
}

#[tokio::test]
async fn limits_hold_from_then_on() {
    let hub = Hub::fresh().await;
    let many: serde_json::Map<String, Value> =
        (0..120).map(|index| (format!("k{index}"), json!("x".repeat(9)))).collect();
    let sizeable = json!({ "config": many });
    hub.ask("config.set.a", &sizeable).await;
    for name in ["b", "c"] {
        hub.ask(&format!("config.set.{name}"), json!({"config": {}})).await;
    }
    for (limits, call, body, code, field) in [
        (json!({"config_keys": 119}), "config.set.a", &sizeable, "too_large", "config"),
        (json!({"config_bytes": 1024}), "config.set.a", &sizeable, "too_large", "config"),
        (json!({"config_bytes": 1024}), "config.validate.a", &sizeable, "too_large", "config"),
        (json!({"config_bytes": 1024}), "config.patch.b", &json!({"patch": many}), "too_large", "config"),
        (json!({"body_bytes": 1024}), "config.set.a", &sizeable, "too_large", "body"),
        (json!({"depth": 8}), "config.set.a", &json!({"config": {"1": [[[[[[[[]]]]]]]]}}), "bad_request", "config"),
        (json!({"metrics": 1}), "heartbeat.a", &json!({"metrics": {"a": 1, "b": 2}}), "too_large", "metrics"),
        (json!({"text_chars": 128}), "config.delete.a", &json!({"comment": "c".repeat(129)}), "too_large", "comment"),
        (json!({"page_max": 150}), "config.list", &json!({"limit": 1_001}), "bad_request", "limit"),
    ] {
        set_own(&hub, "limits", limits).await;
        hub.refused(call, body, code, field).await;
    }
    set_own(&hub, "limits", json!({"page_default": 2})).await;
    let page = hub.ask("config.list", "").await;
    assert_eq!((page["configs"].as_array().unwrap().len(), &page["next_cursor"]), (2, &json!("config/b")));
    // Clients that know of no lower limits are served within them.
    set_own(&hub, "limits", json!({"page_default": 2, "page_max": 2, "text_chars": 128})).await;
    let page = hub.ask("config.list", json!({"limit": 1_000})).await;
    assert_eq!(page["configs"].as_array().unwrap().len(), 2);
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    hub.ask("heartbeat.a", json!({"config_error": "e".repeat(1_000)})).await;
    let reported = hub.ask("services.get.a", "").await["instances"][0]["config_error"].clone();
    assert_eq!(reported, "e".repeat(128));
    // No limit can lock its own way back.
    let least = json!({"config_keys": 100, "depth": 8, "body_bytes": 1024, "config_bytes": 1024, "text_chars": 128, "page_default": 1, "page_max": 1});
    set_own(&hub, "limits", least).await;
    set_own(&hub, "limits", json!({"config_keys": 20_000})).await;
    hub.ask("config.delete.central-hub", "").await;
    assert_eq!(hub.ask("config.set.a", &sizeable).await["changed"], false);
}

#[tokio::test]
async fn in_a_change_freeze_commits_are_stored_and_nothing_is_pushed() {
    let mut hub = Hub::fresh().await;
    let other = Hub::start(hub.process.options().replica()).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    let pushed = hub.value_once("config", "a", |kept| kept["revision"] == 1).await;
    let frozen = set_own(&hub, "config_management", json!({"enable_hot_reload": false})).await;
    assert_eq!(frozen["published"], true, "the hub's own config is what ends a freeze, so it is never frozen");
    // When every replica knows.
    eventually(SOON, || async {
        let dry = json!({"config": {"n": 0}, "dry_run": true});
        let told = join_all((0..8).map(|_| other.ask("config.set.a", &dry))).await;
        told.iter().all(|told| told["warnings"].to_string().contains("freeze"))
    })
    .await;
    hub.ask("register.a", json!({"instance_id": "i", "heartbeat_interval_seconds": 60})).await;

    let stored = hub.ask("config.set.a", json!({"config": {"n": 2}})).await;
    assert_eq!((&stored["version"], &stored["revision"]), (&json!(2), &json!(2)));
    assert_eq!((&stored["changed"], &stored["published"]), (&json!(true), &json!(false)));
    assert!(stored["warnings"][0].as_str().unwrap().contains("enable_hot_reload"), "{stored}");
    hub.ask("config.set.first", json!({"config": {"n": 1}})).await;
    hub.ask("config.set.gone", json!({"config": {"n": 1}})).await;
    hub.ask("config.delete.gone", "").await;
    // Every replica answers with what is committed, and tells instances to stay as they are.
    for _ in 0..6 {
        assert_eq!(other.ask("config.get.a", "").await["config"], json!({"n": 2}));
        let beat = hub.ask("heartbeat.a", json!({"instance_id": "i", "config_revision": 1})).await;
        assert_eq!((&beat["config"]["revision"], &beat["config"]["version"]), (&json!(1), &json!(1)));
        assert_eq!(hub.ask("register.first", json!({"instance_id": "i"})).await["config"], Value::Null);
    }
    let status = hub.ask("config.status.a", "").await;
    assert_eq!((&status["version"], &status["revision"]), (&json!(2), &json!(2)));
    assert_eq!((&status["published"], &status["converged"]), (&json!(false), &json!(false)));
    assert_eq!(status["instances"][0]["state"], "behind");

    // KV stays as it is, whatever is done to it; a restart changes nothing.
    let bucket = hub.bucket("config").await;
    for forged in [r#"{"forged":true}"#, &pushed.to_string().replace("\"n\":1", "\"n\":7")] {
        bucket.put("a", forged.to_owned().into()).await.unwrap();
        bucket.put("first", forged.to_owned().into()).await.unwrap();
        let healed = hub.value_once("config", "a", |kept| kept["config"] == json!({"n": 1})).await;
        assert_eq!((&healed["revision"], &healed["version"]), (&json!(1), &json!(1)));
        hub.value_gone("config", "first").await;
    }
    hub.process.restart().await;
    hub.process.ready().await;
    bucket.purge("a").await.unwrap();
    hub.value_once("config", "a", |kept| kept["config"] == json!({"n": 1})).await;
    assert_eq!(hub.ask("config.get.a", "").await["config"], json!({"n": 2}));
    hub.value_gone("config", "first").await;

    // A heartbeat long after the commit, so that from the commit on it would be behind for more than three.
    let database = hub.database().await;
    let long_ago = "UPDATE config_heads SET updated_at = updated_at - interval '1 hour' WHERE service_name = 'a'";
    database.batch_execute(long_ago).await.unwrap();
    set_own(&hub, "config_management", json!({"enable_hot_reload": true})).await;
    let thawed = hub.value_once("config", "a", |kept| kept["revision"] == 2).await;
    assert_eq!(thawed["config"], json!({"n": 2}));
    assert!(thawed["epoch"].as_i64() >= pushed["epoch"].as_i64());
    hub.value_once("config", "first", |kept| kept["config"] == json!({"n": 1})).await;
    hub.value_once("config", "gone", |kept| kept["revision"] == 2 && kept["config"].is_null()).await;
    let beat = hub.ask("heartbeat.a", json!({"instance_id": "i", "config_revision": 1})).await;
    assert_eq!(beat["config"]["revision"], 2);
    eventually(SOON, || async {
        let answers = join_all((0..6).map(|_| other.ask("config.get.a", ""))).await;
        answers.iter().all(|answer| answer["revision"] == 2)
    })
    .await;
    assert_eq!(hub.ask("config.set.a", json!({"config": {"n": 3}})).await["published"], true);
    let alerts = database.query("SELECT FROM hub_alerts WHERE source = 'config'", &[]).await.unwrap();
    assert!(alerts.is_empty(), "nobody is behind who was told a moment ago");
}
