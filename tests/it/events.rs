//! What the hub tells by itself: events on the stream, each once and in order, and the buckets that clients watch.

use std::collections::BTreeSet;

use async_nats::jetstream::stream::StorageType;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ask::{Hub, SOON};
use crate::stack::{HubOptions, database, eventually, private_nats_with};

/// The last tokens of these events' subjects.
fn kinds(events: &[crate::ask::Event]) -> Vec<&str> {
    events.iter().map(|event| event.subject.rsplit('.').next().unwrap()).collect()
}

#[tokio::test]
async fn each_change_is_one_event_and_what_changes_nothing_is_none() {
    let hub = Hub::fresh().await;
    let incarnation = hub
        .ask("register.a", json!({"instance_id": "i", "host": "h", "port": 1, "version": "1.2"}))
        .await["incarnation"]
        .clone();
    hub.ask("heartbeat.a", "").await;
    for _ in 0..2 {
        hub.ask("heartbeat.a", json!({"status": "degraded", "metrics": {"n": 1}})).await;
        hub.ask("services.drain.a", json!({"draining": true, "reason": "repair"})).await;
        hub.ask("heartbeat.a", json!({"instance_id": "i", "status": "degraded"})).await;
    }
    // Which config it runs stands in the timeline, and isn't sent.
    hub.ask("heartbeat.a", json!({"status": "degraded", "config_revision": 1})).await;
    hub.ask("services.drain.a", json!({"draining": false})).await;
    hub.ask("heartbeat.a", json!({"status": "down"})).await;
    hub.ask("heartbeat.a", "").await;
    let again = hub.ask("register.a", json!({"instance_id": "i"})).await["incarnation"].clone();
    hub.refused("deregister.a", json!({"incarnation": incarnation}), "stale_incarnation", "incarnation").await;
    hub.ask("deregister.a", "").await;

    let expected =
        ["registered", "degraded", "draining", "undraining", "down", "healthy", "registered", "deregistered"];
    let events = hub.events("service.a.*", expected.len()).await;
    assert_eq!(kinds(&events), expected);
    let details = [
        json!({"incarnation": incarnation, "status": "healthy", "version": "1.2", "host": "h", "port": 1}),
        json!({"from": "healthy", "reason": "heartbeat", "incarnation": incarnation}),
        json!({"reason": "repair"}),
        json!({"reason": null}),
        json!({"from": "degraded", "reason": "heartbeat", "incarnation": incarnation}),
        json!({"from": "down", "reason": "heartbeat", "incarnation": incarnation}),
        json!({"incarnation": again, "status": "healthy", "version": null, "host": null, "port": null}),
        json!({"reason": "goodbye", "incarnation": again}),
    ];
    let mut before = OffsetDateTime::UNIX_EPOCH;
    for (event, (kind, details)) in events.iter().zip(expected.iter().zip(details)) {
        let at = OffsetDateTime::parse(event.body["at"].as_str().unwrap(), &Rfc3339).unwrap();
        assert!(at >= before, "in order");
        before = at;
        let whole = json!({
            "id": event.id, "at": event.body["at"], "topic": "service", "kind": kind, "service_name": "a",
            "instance_id": "i", "details": details,
        });
        assert_eq!(event.body, whole);
    }

    let epoch =
        hub.ask("config.set.a", json!({"config": {"n": 1}, "created_by": "ann", "comment": "first"})).await["epoch"]
            .clone();
    hub.ask("config.set.a", json!({"config": {"n": 1}, "created_by": "bob"})).await;
    hub.ask("config.set.a", json!({"config": {"n": 3}, "dry_run": true})).await;
    hub.ask("config.set.a", json!({"config": {"n": 2}})).await;
    let events = hub.events("config.a.*", 2).await;
    assert_eq!(kinds(&events), ["published", "published"]);
    let said = |version: i64, replaces: Value, by: &str, comment: Value| {
        json!({
            "version": version, "revision": version, "epoch": epoch, "replaces": replaces, "by": by, "comment": comment,
        })
    };
    assert_eq!(events[0].body["details"], said(1, Value::Null, "ann", json!("first")));
    assert_eq!(events[1].body["details"], said(2, json!(1), "unknown", Value::Null));
    assert_eq!(events[0].body.get("instance_id"), None);

    // And there is nothing left to send, nor anything else on the stream.
    eventually(SOON, || async { hub.ask("health", "").await["projection"]["pending"] == 0 }).await;
    let sql = "SELECT count(*) FROM hub_events WHERE kind <> 'applied'";
    let committed: i64 = hub.database().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(hub.event_stream().await.info().await.unwrap().state.messages, u64::try_from(committed).unwrap());
}

#[tokio::test]
async fn two_replicas_send_each_event_once() {
    let one = Hub::fresh().await;
    let _other = Hub::start(one.process.options().replica()).await;
    let calls = (0..60).map(|index| {
        let one = &one;
        async move {
            one.ask("register.a", json!({"instance_id": format!("{:02}", index % 20)})).await["incarnation"]
                .as_i64()
                .unwrap()
        }
    });
    let mut made = join_all(calls).await;
    eventually(SOON, || async { one.ask("health", "").await["projection"]["pending"] == 0 }).await;
    let events = one.events("service.a.registered", 60).await;
    assert_eq!(events.iter().map(|event| &event.id).collect::<BTreeSet<_>>().len(), 60, "each has its own id");
    let mut told: Vec<_> = events.iter().map(|event| event.body["details"]["incarnation"].as_i64().unwrap()).collect();
    told.sort_unstable();
    made.sort_unstable();
    assert_eq!(told, made);
    let info = one.event_stream().await.info_with_subjects(one.subject("events.service.a.>")).await.unwrap();
    let counts: Vec<_> = info.map(|subject| subject.unwrap().1).collect().await;
    assert_eq!(counts, [60], "and no event lies there twice");
}

/// An event of a replica that is gone is sent by another, and KV gets what it changed.
#[tokio::test]
async fn what_another_left_unsent_is_sent() {
    let hub = Hub::fresh().await;
    let database = hub.database().await;
    let left = "INSERT INTO service_registry (service_name, instance_id, status) VALUES ('left', 'i', 'degraded');
        INSERT INTO hub_events (topic, kind, service_name, instance_id, origin) VALUES
            ('service', 'of-a-newer-hub', 'left', 'i', 'gone'), ('service', 'registered', 'left', 'i', 'gone')";
    database.batch_execute(left).await.unwrap();
    let events = hub.events("service.left.*", 1).await;
    assert_eq!(kinds(&events), ["registered"]);
    assert_eq!(hub.value_once("services", "left.i", |_| true).await["status"], "degraded");
    hub.ask("register.left", json!({"instance_id": "j"})).await;
    let events = hub.events("service.left.*", 2).await;
    assert_eq!(events[1].body["instance_id"], "j", "what only a newer hub knows holds nothing up");
}

#[tokio::test]
async fn the_services_bucket_holds_each_instance() {
    let hub = Hub::fresh().await;
    let body = json!({
        "instance_id": "i", "host": "10.0.0.5", "port": 8002, "version": "1.0", "dependencies": ["b"],
        "metadata": {"zone": {"a": 1}},
    });
    hub.ask("register.a", body).await;
    let same_as_listed = async |fine: &dyn Fn(&Value) -> bool| {
        let mut listed = hub.ask("services.list", json!({"service_name": "a"})).await["services"][0].clone();
        assert!(fine(&listed), "{listed}");
        listed.as_object_mut().unwrap().remove("last_heartbeat").unwrap();
        let kept = hub.value_once("services", "a.i", |kept| fine(kept)).await;
        assert_eq!(kept, listed, "the record, without the time that every heartbeat changes");
    };
    same_as_listed(&|instance| instance["metadata"]["zone"]["a"] == 1).await;

    // Heartbeats that change nothing write nothing: the first update that a watcher sees is the drain.
    let mut watch = hub.bucket("services").await.watch("a.*").await.unwrap();
    for _ in 0..10 {
        hub.ask("heartbeat.a", json!({"metrics": {"cpu": 0.5}})).await;
    }
    hub.ask("services.drain.a", json!({"draining": true})).await;
    let update = tokio::time::timeout(SOON, watch.next()).await.expect("an update").unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&update.value).unwrap()["draining"], true);
    same_as_listed(&|instance| instance["draining"] == true).await;
    hub.ask(
        "heartbeat.a",
        json!({"status": "degraded", "config_version": 2, "config_revision": 3, "config_error": "no"}),
    )
    .await;
    same_as_listed(&|instance| instance["config_error"] == "no" && instance["status"] == "degraded").await;
    hub.ask("deregister.a", "").await;
    hub.value_gone("services", "a.i").await;
}

#[tokio::test]
async fn the_config_bucket_holds_each_active_config() {
    let hub = Hub::fresh().await;
    for (index, author) in [(1, "ann"), (2, "bob")] {
        hub.ask("config.set.a", json!({"config": {"n": index}, "created_by": author})).await;
        let config = hub.ask("config.get.a", "").await;
        let kept = hub.value_once("config", "a", |kept| kept["revision"] == index).await;
        let expected = json!({
            "service_name": "a", "epoch": config["epoch"], "revision": index, "version": index,
            "checksum": config["checksum"], "config": {"n": index}, "created_by": author,
            "updated_at": kept["updated_at"],
        });
        assert_eq!(kept, expected);
        let listed = hub.ask("config.list", "").await["configs"][0].clone();
        assert_eq!(listed["updated_at"], kept["updated_at"]);
    }
    for (name, history) in [("config", 10), ("services", 1)] {
        let status = hub.bucket(name).await.status().await.unwrap();
        let config = &status.info.config;
        assert!(status.history() >= history);
        assert_eq!(config.storage, StorageType::File);
        assert!(config.allow_direct && config.allow_rollup && config.deny_delete && !config.deny_purge);
    }
    let events = hub.event_stream().await;
    let config = &events.cached_info().config;
    // Not alerts.>: the calls of that name are the hub's to answer.
    let subjects = ["events.>", "alerts.critical.>", "alerts.warning.>", "alerts.info.>"].map(|rest| hub.subject(rest));
    assert_eq!(config.subjects, subjects);
    assert_eq!(config.storage, StorageType::File);
}

/// Who hears an event and looks into KV finds what the event tells of, or something newer.
#[tokio::test]
async fn an_event_comes_after_what_it_tells_of() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    let (configs, services) = (hub.bucket("config").await, hub.bucket("services").await);
    hub.event_stream().await;
    let mut events = hub.nats.subscribe(hub.subject("events.*.a.*")).await.unwrap();
    hub.nats.flush().await.unwrap();
    let changes = async {
        for n in 1..=20 {
            hub.ask("config.set.a", json!({"config": {"n": n}})).await;
            hub.ask("services.drain.a", json!({"draining": n % 2 == 1})).await;
        }
    };
    let looks = async {
        let mut seen = 0;
        while seen < 20 {
            let event = tokio::time::timeout(SOON, events.next()).await.expect("an event").unwrap();
            let event: Value = serde_json::from_slice(&event.payload).unwrap();
            if event["topic"] == "config" {
                let kept = configs.get("a").await.unwrap().expect("a config");
                let kept: Value = serde_json::from_slice(&kept).unwrap();
                assert!(kept["revision"].as_i64() >= event["details"]["revision"].as_i64(), "{kept} after {event}");
                seen += 1;
            } else {
                assert!(services.get("a.i").await.unwrap().is_some(), "{event}");
            }
        }
    };
    tokio::join!(changes, looks);
}

/// Where NATS has too little room for events the hub says why, goes on with all else, and sends them when there is room.
#[tokio::test]
async fn events_without_room_are_kept() {
    let limits = r#"
        no_auth_user: hub
        accounts { HUB { jetstream: { max_memory: 0, max_file: 256MB }, users: [{user: hub, password: hub}] } }"#;
    let nats = private_nats_with(limits).await;
    let options = HubOptions::on(&nats.url(), &database().await);
    let hub = Hub::start(options.clone().env("CENTRAL_HUB_EVENTS_MAX_MIB", "1024")).await;
    assert_eq!(hub.ask("config.set.a", json!({"config": {"n": 1}})).await["published"], true);
    eventually(SOON, || async { hub.process.log().contains("insufficient storage") }).await;
    assert!(hub.ask("health", "").await["projection"]["pending"].as_i64() >= Some(1));
    drop(hub);
    let hub = Hub::start(options).await;
    assert_eq!(kinds(&hub.events("config.a.*", 1).await), ["published"]);
}
