//! Heartbeats: what they change, what they tell, what they leave behind, and what their absence means.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::ask::{Asker, Hub};
use crate::stack::eventually;

/// The only instance of a service, as the list shows it.
async fn instance(hub: &Asker, service: &str) -> Value {
    hub.ask("services.list", json!({"service_name": service})).await["services"][0].clone()
}

/// Rows of `health_metrics`.
async fn rows(hub: &Asker) -> Vec<(String, String, String, Option<Value>)> {
    let sql =
        "SELECT service_name, instance_id, status, metrics FROM health_metrics WHERE service_name <> 'central-hub'
               AND metric_type = 'heartbeat' ORDER BY id";
    let rows = hub.database().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

#[tokio::test]
async fn the_answer_tells_which_config_should_be_in_force() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i", "heartbeat_interval_seconds": 2.5})).await;
    let plain = hub.ask("heartbeat.a", "").await;
    assert_eq!(
        plain,
        json!({
            "service_name": "a", "instance_id": "i", "status": "healthy", "config": null,
            "heartbeat_interval_seconds": 2.5,
        })
    );
    let epoch = hub.ask("config.set.a", json!({"config": {"n": 1}})).await["epoch"].clone();
    hub.ask("config.set.other", json!({"config": {}})).await;
    for revision in 2..=3 {
        hub.ask("config.set.a", json!({"config": {"n": revision}})).await;
        let current = json!({"version": revision, "revision": revision, "epoch": epoch});
        // The hot path, the path of those that change something, and the registration say the same.
        for body in [json!({}), json!({"instance_id": "i"}), json!({"instance_id": "i", "status": "degraded"})] {
            assert_eq!(hub.ask("heartbeat.a", body).await["config"], current);
        }
        let again = hub.ask("register.a", json!({"instance_id": "i"})).await;
        assert_eq!(again["config"], current);
    }
}

#[tokio::test]
async fn what_an_instance_says_of_its_config_is_kept_until_it_says_more() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    let said = async |body: Value| {
        hub.ask("heartbeat.a", body).await;
        let instance = instance(&hub, "a").await;
        let columns = ["config_revision", "config_version", "config_error"].map(|name| instance[name].clone());
        let in_kv = hub.value_once("services", "a.i", |value| {
            columns == ["config_revision", "config_version", "config_error"].map(|name| value[name].clone())
        });
        in_kv.await;
        columns
    };
    assert_eq!(said(json!({})).await, [Value::Null, Value::Null, Value::Null]);
    assert_eq!(said(json!({"config_revision": 4, "config_version": 3})).await, [json!(4), json!(3), Value::Null]);
    assert_eq!(said(json!({"instance_id": "i"})).await, [json!(4), json!(3), Value::Null], "left out is unchanged");
    let named = json!({"instance_id": "i", "config_revision": 4, "config_version": 3, "config_error": "not yet"});
    assert_eq!(said(named.clone()).await, [json!(4), json!(3), json!("not yet")], "an error alone is something new");
    assert_eq!(said(named).await, [json!(4), json!(3), json!("not yet")]);
    assert_eq!(said(json!({"config_error": "no"})).await, [json!(4), json!(3), json!("no")]);
    assert_eq!(said(json!({"instance_id": "i"})).await, [json!(4), json!(3), json!("no")]);
    assert_eq!(said(json!({"config_version": 3})).await, [json!(4), json!(3), json!("no")]);
    // The same revision again is word that it is in force, without error.
    assert_eq!(said(json!({"instance_id": "i", "config_revision": 4})).await, [json!(4), json!(3), Value::Null]);
    assert_eq!(said(json!({"config_revision": 5, "config_error": "no 5"})).await, [json!(5), json!(3), json!("no 5")]);
    assert_eq!(said(json!({"config_revision": 6, "config_version": 6})).await, [json!(6), json!(6), Value::Null]);
    // As clients speak: they name themselves, and say what runs and what they refuse.
    let refuses =
        |error: &str| json!({"instance_id": "i", "config_revision": 6, "config_version": 6, "config_error": error});
    assert_eq!(said(refuses("no 7")).await, [json!(6), json!(6), json!("no 7")]);
    assert_eq!(said(refuses("no 7")).await, [json!(6), json!(6), json!("no 7")]);
    assert_eq!(said(refuses("no 8")).await, [json!(6), json!(6), json!("no 8")]);
    assert_eq!(said(json!({"instance_id": "i", "config_error": "no 9"})).await, [json!(6), json!(6), json!("no 9")]);
    assert_eq!(said(json!({"instance_id": "i"})).await, [json!(6), json!(6), json!("no 9")]);
    assert_eq!(said(json!({"instance_id": "i", "config_revision": 6})).await, [json!(6), json!(6), Value::Null]);
}

#[tokio::test]
async fn a_status_left_out_means_healthy() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i", "status": "down"})).await;
    for (said, means) in [
        (json!({}), "healthy"),
        (json!({"status": "degraded"}), "degraded"),
        (json!({"status": "degraded", "instance_id": "i"}), "degraded"),
        (json!({"status": "down"}), "down"),
        (json!({"instance_id": "i"}), "healthy"),
        (json!({"status": null}), "healthy"),
    ] {
        assert_eq!(hub.ask("heartbeat.a", &said).await["status"], means, "{said}");
        assert_eq!(instance(&hub, "a").await["status"], means, "{said}");
    }
}

#[tokio::test]
async fn each_accepted_heartbeat_leaves_one_row_and_a_refused_one_none() {
    let hub = Hub::fresh().await;
    hub.refused("heartbeat.a", json!({"metrics": {"cpu": 1}}), "not_registered", None).await;
    let incarnation = hub.ask("register.a", json!({"instance_id": "i"})).await["incarnation"].clone();
    let began = instance(&hub, "a").await["last_heartbeat"].clone();
    let metrics = json!({
        "cpu": 0.93, "lag_ms": 1840, "a.b:c-d_e": -1e-3, "max": 1.7976931348623157e308, "least": 5e-324,
        "large": 18446744073709551615u64, "small": -9223372036854775808i64,
    });
    hub.ask("heartbeat.a", json!({"metrics": metrics})).await;
    hub.ask("heartbeat.a", json!({"instance_id": "i", "incarnation": incarnation, "metrics": {"cpu": 0.5}})).await;
    hub.ask("heartbeat.a", json!({"status": "degraded", "metrics": {}})).await;
    hub.refused("heartbeat.a", json!({"instance_id": "j"}), "not_registered", None).await;
    hub.refused("heartbeat.a", json!({"incarnation": incarnation.as_i64().unwrap() + 1}), "not_registered", None).await;
    hub.refused("heartbeat.a", json!({"metrics": {"cpu": "hot"}}), "bad_request", "metrics").await;

    let row = |status: &str, metrics| ("a".to_owned(), "i".to_owned(), status.to_owned(), metrics);
    let expected = [row("healthy", Some(metrics)), row("healthy", Some(json!({"cpu": 0.5}))), row("degraded", None)];
    assert_eq!(rows(&hub).await, expected);
    assert!(instance(&hub, "a").await["last_heartbeat"].as_str() > began.as_str());

    let sql = "SELECT metric_type, metric_value, status FROM health_metric_values
               WHERE service_name = 'a' AND instance_id = 'i' AND timestamp > now() - interval '1 minute'
               ORDER BY timestamp, metric_type COLLATE \"C\"";
    let values = hub.database().await.query(sql, &[]).await.unwrap();
    let values: Vec<(String, f64, String)> = values.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let value = |name: &str, value: f64| (name.to_owned(), value, "healthy".to_owned());
    let expected = [
        value("a.b:c-d_e", -1e-3),
        value("cpu", 0.93),
        value("lag_ms", 1840.0),
        value("large", 18446744073709551615.0),
        value("least", 5e-324),
        value("max", f64::MAX),
        value("small", -9223372036854775808.0),
        value("cpu", 0.5),
    ];
    assert_eq!(values, expected);
}

#[tokio::test]
async fn many_at_once_are_all_heard() {
    let one = Hub::fresh().await;
    let _other = Hub::start(one.process.options().replica()).await;
    join_all((0..50).map(|index| one.ask("register.s", json!({"instance_id": format!("{index:02}")})).into_future()))
        .await;
    one.ask("register.t", json!({"instance_id": "only"})).await;
    // Each instance says ten things in a row, some of which change its record and some of which don't; and meanwhile
    // somebody beats for the only instance of a service without naming it.
    let beats = (0..500).map(|index| {
        let one = &one;
        async move {
            let status = if index % 7 == 0 { "degraded" } else { "healthy" };
            let body = json!({"instance_id": format!("{:02}", index % 50), "status": status, "metrics": {"n": index}});
            let heard = one.ask("heartbeat.s", body).await;
            assert_eq!(heard["status"], status);
            assert_eq!(one.ask("heartbeat.t", "").await["instance_id"], "only");
        }
    });
    join_all(beats).await;
    let rows = rows(&one).await;
    let mut numbers: Vec<i64> =
        rows.iter().filter_map(|(.., metrics)| metrics.as_ref().map(|m| m["n"].as_i64().unwrap())).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>(), "each once");
    assert_eq!(rows.iter().filter(|(service, ..)| service == "t").count(), 500);
}

/// A silent instance is down within its timeout plus two seconds; one that beats stays; a heartbeat brings it back.
#[tokio::test]
async fn silence_means_down_and_a_heartbeat_means_up_again() {
    let hub = Hub::fresh().await;
    let quick = |id: &str| json!({"instance_id": id, "heartbeat_interval_seconds": 0.2});
    let registered = hub.ask("register.s", quick("silent")).await;
    assert_eq!(registered["heartbeat_interval_seconds"], 0.2);
    let timeout = Duration::from_secs_f64(registered["service_timeout_seconds"].as_f64().unwrap());
    assert!((0.59..0.61).contains(&timeout.as_secs_f64()));
    let began = Instant::now();
    hub.ask("register.s", quick("beating")).await;
    hub.ask("register.s", json!({"instance_id": "patient"})).await;

    let statuses = async || {
        let listed = hub.ask("services.list", json!({"service_name": "s"})).await;
        listed["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["status"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // The grace after the start of the hub is one timeout more; and the machine may be busy.
    eventually(timeout * 2 + Duration::from_secs(8), || async {
        hub.ask("heartbeat.s", json!({"instance_id": "beating"})).await;
        let found = statuses().await;
        assert_eq!(found[..2], ["healthy", "healthy"], "beating, patient");
        if found[2] == "down" { Ok(()) } else { Err(found) }
    })
    .await;
    assert!(began.elapsed() > timeout, "not a moment too early");
    let kept = hub.value_once("services", "s.silent", |value| value["status"] == "down").await;
    assert_eq!(kept["incarnation"], registered["incarnation"]);
    let down = &hub.events("service.s.down", 1).await[0];
    assert_eq!((&down.body["instance_id"], &down.body["details"]["reason"]), (&json!("silent"), &json!("silent")));

    let back = hub.ask("heartbeat.s", json!({"instance_id": "silent", "incarnation": registered["incarnation"]})).await;
    assert_eq!(back["status"], "healthy");
    hub.value_once("services", "s.silent", |value| value["status"] == "healthy").await;
    let up = &hub.events("service.s.healthy", 1).await[0];
    assert_eq!((&up.body["instance_id"], &up.body["details"]["from"]), (&json!("silent"), &json!("down")));
}
