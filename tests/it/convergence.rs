//! Who runs which config: what instances say, what `hub.config.status` makes of it, and who is alerted about.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ask::{Asker, Hub, SOON};
use crate::stack::eventually;

/// `instance_id: (state, config_revision, config_error)` by `hub.config.status`, and whether it converged.
async fn status(hub: &Asker, service: &str) -> (Vec<(String, String, Value, Value)>, bool) {
    let status = hub.ask(&format!("config.status.{service}"), "").await;
    let instances = status["instances"].as_array().unwrap().iter();
    let states = instances.map(|instance| {
        let text = |field: &str| instance[field].as_str().unwrap().to_owned();
        (text("instance_id"), text("state"), instance["config_revision"].clone(), instance["config_error"].clone())
    });
    (states.collect(), status["converged"].as_bool().unwrap())
}

async fn states(hub: &Asker, service: &str) -> Vec<String> {
    status(hub, service).await.0.into_iter().map(|(_, state, ..)| state).collect()
}

async fn since(hub: &Asker, service: &str) -> OffsetDateTime {
    let status = hub.ask(&format!("config.status.{service}"), "").await;
    OffsetDateTime::parse(status["instances"][0]["since"].as_str().unwrap(), &Rfc3339).unwrap()
}

#[tokio::test]
async fn the_status_says_what_each_live_instance_runs_and_since_when() {
    let hub = Hub::fresh().await;
    hub.refused("config.status.a", "", "not_found", None).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    let alone = hub.ask("config.status.a", "").await;
    assert_eq!((&alone["version"], &alone["revision"], &alone["published"]), (&json!(1), &json!(1), &json!(true)));
    assert_eq!((&alone["converged"], &alone["instances"]), (&json!(false), &json!([])), "nobody runs it");

    for instance in ["i", "j"] {
        hub.ask("register.a", json!({"instance_id": instance})).await;
    }
    assert_eq!(states(&hub, "a").await, ["unknown", "unknown"]);
    let beat = async |instance: &str, more: Value| {
        let mut body = json!({"instance_id": instance});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hub.ask("heartbeat.a", body).await;
    };
    beat("i", json!({"config_revision": 1, "config_version": 1})).await;
    assert_eq!(status(&hub, "a").await.0[0], ("i".into(), "current".into(), json!(1), Value::Null));
    assert!(!status(&hub, "a").await.1, "one of them never said");
    beat("j", json!({"config_revision": 1})).await;
    assert!(status(&hub, "a").await.1);
    let first = since(&hub, "a").await;
    beat("i", json!({"config_revision": 1})).await;
    assert_eq!(since(&hub, "a").await, first, "it runs it since it said so first");

    // A new one: behind until it says otherwise, since the activation.
    let before = OffsetDateTime::now_utc() - Duration::from_millis(1);
    hub.ask("config.set.a", json!({"config": {"n": 2}})).await;
    assert_eq!(
        status(&hub, "a").await,
        (
            vec![
                ("i".into(), "behind".into(), json!(1), Value::Null),
                ("j".into(), "behind".into(), json!(1), Value::Null),
            ],
            false
        )
    );
    let behind = since(&hub, "a").await;
    assert!(before <= behind && behind <= OffsetDateTime::now_utc());
    beat("j", json!({"config_revision": 2, "config_version": 2})).await;
    // It refuses it: by name or as the only one, with the revision it has or without a word of it.
    for (n, error) in [json!({"config_error": "no interval"}), json!({"config_error": "no", "config_revision": 1})]
        .into_iter()
        .enumerate()
    {
        beat("i", error.clone()).await;
        assert_eq!(
            status(&hub, "a").await.0[0],
            ("i".into(), "failed".into(), json!(1), error["config_error"].clone())
        );
        assert!(since(&hub, "a").await > behind);
        let rejected = hub.events("config.a.rejected", n + 1).await;
        assert_eq!(rejected[n].body["details"]["error"], error["config_error"]);
        beat("i", json!({"config_revision": 1})).await;
        assert_eq!(states(&hub, "a").await[0], "behind", "without an error the error is over");
    }
    beat("i", json!({"config_revision": 2})).await;
    assert!(status(&hub, "a").await.1);
    // A rollback is a new revision of an old version: that it runs the version isn't enough.
    hub.ask("config.rollback.a", "").await;
    beat("i", json!({"config_version": 1})).await;
    assert_eq!(states(&hub, "a").await, ["behind", "behind"]);
    beat("i", json!({"config_revision": 3})).await;

    // The dead and the gone don't count; who comes back has to say it again.
    beat("j", json!({"status": "down"})).await;
    assert_eq!(status(&hub, "a").await, (vec![("i".into(), "current".into(), json!(3), Value::Null)], true));
    beat("j", json!({"status": "degraded"})).await;
    assert_eq!(states(&hub, "a").await, ["current", "behind"]);
    hub.ask("deregister.a", json!({"instance_id": "j"})).await;
    assert!(status(&hub, "a").await.1);
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    assert_eq!(states(&hub, "a").await, ["unknown"]);
    // A tombstone is to be run like anything else.
    hub.ask("config.delete.a", "").await;
    beat("i", json!({"config_revision": 4})).await;
    assert!(status(&hub, "a").await.1);
}

/// `(instances, up)` of all alerts about who of `a` is behind.
async fn alerts(hub: &Asker) -> Vec<(String, bool)> {
    let sql =
        "SELECT array_to_string(array(SELECT jsonb_array_elements_text(details -> 'instances')), ','), resolved_at IS NULL
         FROM hub_alerts WHERE source = 'config' AND kind = 'behind' AND name = 'a' ORDER BY id";
    let rows = hub.database().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn who_stays_behind_for_three_heartbeats_is_alerted_about_once() {
    let hub = Hub::fresh().await;
    // So that nobody here dies of a slow machine.
    let patience = json!({"operational": {"service_discovery": {"service_timeout_seconds": 6000}}});
    hub.ask("config.set.central-hub", json!({ "config": patience })).await;
    let beat = async |instance: &str, revision: Value| {
        let mut body = json!({"instance_id": instance});
        if !revision.is_null() {
            body["config_revision"] = revision;
        }
        hub.ask("heartbeat.a", body).await;
    };
    let member = |instance: &str| json!({"instance_id": instance, "heartbeat_interval_seconds": 0.2});
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    for instance in ["good", "late", "mute"] {
        hub.ask("register.a", member(instance)).await;
    }
    for instance in ["good", "late"] {
        beat(instance, json!(1)).await;
    }
    hub.ask("config.set.a", json!({"config": {"n": 2}})).await;
    beat("good", json!(2)).await;
    // Whoever beats and stays behind is told about; who says nothing of its config isn't known to be behind.
    let rounds = async |up: &[(String, bool)]| {
        eventually(SOON, || async {
            beat("good", json!(2)).await;
            beat("late", Value::Null).await;
            beat("mute", Value::Null).await;
            let now = alerts(&hub).await;
            if now == up { Ok(()) } else { Err(now) }
        })
        .await;
    };
    rounds(&[("late".into(), true)]).await;
    let raised = &hub.sent("alerts.warning.config.a", 1).await[0].body;
    assert_eq!((&raised["kind"], &raised["details"]["instances"]), (&json!("raised"), &json!(["late"])));
    assert_eq!((&raised["details"]["behind"], &raised["details"]["revision"]), (&json!(1), &json!(2)));
    // Another config doesn't raise another one; taking it ends it.
    hub.ask("config.set.a", json!({"config": {"n": 3}})).await;
    beat("good", json!(3)).await;
    beat("late", json!(2)).await;
    assert_eq!(alerts(&hub).await, [("late".to_owned(), true)]);
    beat("late", json!(3)).await;
    eventually(SOON, || async { alerts(&hub).await == [("late".to_owned(), false)] }).await;
    let sent = hub.sent("alerts.warning.config.a", 2).await;
    assert_eq!((&sent[1].body["kind"], &sent[1].body["details"]["instances"]), (&json!("resolved"), &json!(["late"])));

    // Whoever comes with an old config has three heartbeats from then on, not from when the new one was set.
    hub.ask("config.set.a", json!({"config": {"n": 4}})).await;
    beat("good", json!(4)).await;
    beat("late", json!(4)).await;
    hub.ask("register.a", json!({"instance_id": "fresh", "heartbeat_interval_seconds": 3600})).await;
    beat("fresh", json!(3)).await;
    hub.ask("register.a", member("second")).await;
    beat("second", json!(3)).await;
    eventually(SOON, || async {
        beat("second", Value::Null).await;
        beat("fresh", Value::Null).await;
        let now = alerts(&hub).await;
        if now.contains(&("second".to_owned(), true)) { Ok(()) } else { Err(now) }
    })
    .await;
    assert!(
        alerts(&hub).await.iter().all(|(instances, _)| !instances.contains("fresh")),
        "its heartbeats are an hour apart"
    );
    // Who leaves, or goes down, takes the alert along.
    for instance in ["second", "fresh"] {
        hub.ask("deregister.a", json!({ "instance_id": instance })).await;
    }
    eventually(SOON, || async { alerts(&hub).await.iter().all(|(_, up)| !up) }).await;
}

/// An alert that stays because another config came names those who are behind that one, and no more those who took it.
#[tokio::test]
async fn the_alert_names_those_who_are_behind_now() {
    let hub = Hub::fresh().await;
    let patience = json!({"operational": {"service_discovery": {"service_timeout_seconds": 6000}}});
    hub.ask("config.set.central-hub", json!({ "config": patience })).await;
    let beat = async |instance: &str, revision: i64| {
        hub.ask("heartbeat.a", json!({"instance_id": instance, "config_revision": revision})).await;
    };
    let set = async |n: i64| hub.ask("config.set.a", json!({"config": {"n": n}})).await;
    set(1).await;
    for (instance, interval) in [("x", 0.2), ("y", 0.2), ("z", 3600.0)] {
        hub.ask("register.a", json!({"instance_id": instance, "heartbeat_interval_seconds": interval})).await;
        beat(instance, 1).await;
    }
    set(2).await;
    eventually(SOON, || async {
        for instance in ["x", "y", "z"] {
            beat(instance, 1).await;
        }
        let now = alerts(&hub).await;
        if now == [("x,y".to_owned(), true)] { Ok(()) } else { Err(now) }
    })
    .await;
    // Those two take the next one, and the third, whose heartbeats are an hour apart, doesn't yet.
    set(3).await;
    beat("x", 3).await;
    beat("y", 3).await;
    eventually(SOON, || async {
        let now = alerts(&hub).await;
        if now == [("z".to_owned(), true)] { Ok(()) } else { Err(now) }
    })
    .await;
    beat("z", 3).await;
    eventually(SOON, || async { alerts(&hub).await == [("z".to_owned(), false)] }).await;
    let sent = hub.sent("alerts.warning.config.a", 2).await;
    assert_eq!((&sent[0].body["kind"], &sent[1].body["kind"]), (&json!("raised"), &json!("resolved")));
}
