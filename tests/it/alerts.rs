//! Alerts: one for each failure, as severe as it deserves, sent once, and over when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ask::{Asker, Event, Hub, SOON};
use crate::dependencies::{component, unprobed};
use crate::stack::{HubOptions, eventually};
use crate::witness::{Truth, replicas};

/// A registration of an instance that beats so rarely that it never falls silent here.
async fn register(hub: &Asker, service: &str, instance: &str, needs: Value) {
    hub.ask(&format!("register.{service}"), json!({"instance_id": instance, "dependencies": needs})).await;
}

/// What an instance says of itself.
async fn says(hub: &Asker, service: &str, instance: &str, status: &str) {
    hub.ask(&format!("heartbeat.{service}"), json!({"instance_id": instance, "status": status})).await;
}

/// Three changes of status within `seconds` are flapping; what is to settle has a fifth of it.
async fn flapping_window(hub: &Asker, seconds: f64) {
    let config = json!({"operational": {"health_monitoring": {"flapping_window_seconds": seconds}}});
    hub.ask("config.set.central-hub", json!({ "config": config })).await;
}

/// The alerts that are not over, as `severity source/kind name` → alert. (The hub's own are left out: its replicas may go.)
async fn active(hub: &Asker) -> BTreeMap<String, Value> {
    let listed = hub.ask("alerts.list", json!({"active": true, "limit": 1000})).await;
    let text = |alert: &Value, field: &str| alert[field].as_str().unwrap().to_owned();
    let named = |alert: &Value| {
        let [severity, source, kind, name] = ["severity", "source", "kind", "name"].map(|field| text(alert, field));
        (format!("{severity} {source}/{kind} {name}"), alert.clone())
    };
    let ours = |alert: &&Value| alert["name"] != "central-hub";
    listed["alerts"].as_array().unwrap().iter().filter(ours).map(named).collect()
}

/// Waits until these and no others are active.
#[track_caller]
fn active_once<'a>(hub: &'a Asker, expected: &'a [&'a str]) -> impl Future<Output = Vec<Value>> + 'a {
    let ready = eventually(SOON, move || async move {
        let active = active(hub).await;
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        if active.keys().eq(expected.iter()) { Ok(active) } else { Err(active.into_keys().collect::<Vec<_>>()) }
    });
    async move {
        let active = ready.await;
        expected.iter().map(|name| active[*name].clone()).collect()
    }
}

/// All alerts that were sent, in the order in which they were committed.
async fn sent(hub: &Asker) -> Vec<Event> {
    eventually(SOON, || async { hub.ask("health", "").await["projection"]["pending"] == 0 }).await;
    let stream = hub.event_stream().await;
    let state = stream.get_info().await.unwrap().state;
    let mut events = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let subject = message.subject[hub.prefix.len() + 1..].to_owned();
        if subject.starts_with("alerts.") {
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(body["topic"], "alert");
            events.push(Event { subject, id: body["id"].as_str().unwrap().to_owned(), body });
        }
    }
    events.sort_by_key(|event| event.id.rsplit('-').next().unwrap().parse::<i64>().unwrap());
    events
}

/// What was sent of alerts about these names: `+critical.service.a` for one that began, `-…` for one that is over.
async fn told(hub: &Asker, names: &[&str]) -> Vec<String> {
    let sign = |event: &Event| if event.body["kind"] == "raised" { '+' } else { '-' };
    let told = |event: &Event| format!("{}{}", sign(event), event.subject.strip_prefix("alerts.").unwrap());
    let about = |event: &&Event| names.contains(&event.body["service_name"].as_str().unwrap());
    sent(hub).await.iter().filter(about).map(told).collect()
}

#[tokio::test]
async fn one_alert_names_the_instances_and_rises_with_the_last() {
    let hub = Hub::fresh().await;
    for instance in ["1", "2", "3"] {
        register(&hub, "a", instance, json!([])).await;
    }
    register(&hub, "b", "1", json!(["a"])).await;
    says(&hub, "a", "2", "down").await;
    let first = active_once(&hub, &["warning service/down a"]).await.remove(0);
    assert_eq!(first["message"], "1 of 3 instances of a is down: 2");
    assert_eq!(first["details"], json!({"down": 1, "in_use": 3, "instances": ["2"]}));
    let nothing = [&first["instance_id"], &first["cause"], &first["resolved_at"], &first["acked_at"]];
    assert!(nothing.iter().all(|field| field.is_null()), "{first}");

    says(&hub, "a", "1", "down").await;
    eventually(SOON, || async { active(&hub).await["warning service/down a"]["details"]["down"] == 2 }).await;
    let same = active_once(&hub, &["warning service/down a"]).await.remove(0);
    assert_eq!((&same["id"], &same["raised_at"]), (&first["id"], &first["raised_at"]));
    assert_eq!(same["message"], "2 of 3 instances of a are down: 1, 2");

    says(&hub, "a", "3", "down").await;
    let all = active_once(&hub, &["critical service/down a"]).await.remove(0);
    assert_eq!(all["message"], "a is down: none of its 3 instances is up");
    assert_eq!((&all["details"]["replaces"], &all["details"]["affects"]), (&first["id"], &json!(["b"])));
    says(&hub, "a", "3", "degraded").await;
    active_once(&hub, &["warning service/down a", "warning service/degraded a"]).await;
    // (A third change within five minutes would be flapping.)
    hub.ask("deregister.a", json!({"instance_id": "3"})).await;
    for instance in ["1", "2"] {
        says(&hub, "a", instance, "healthy").await;
    }
    active_once(&hub, &[]).await;

    let expected = [
        "+warning.service.a",
        "-warning.service.a",
        "+critical.service.a",
        "-critical.service.a",
        "+warning.service.a",
        "+warning.service.a",
        "-warning.service.a",
        "-warning.service.a",
    ];
    assert_eq!(told(&hub, &["a", "b"]).await, expected);
    let events = sent(&hub).await;
    let details = |at: usize| events[at].body["details"].clone();
    assert_eq!(
        details(0),
        json!({
            "alert_id": first["id"], "severity": "warning", "source": "service", "alert": "down", "cause": null,
            "message": "1 of 3 instances of a is down: 2", "down": 1, "in_use": 3, "instances": ["2"],
        })
    );
    assert_eq!((&details(1)["alert_id"], &details(1)["replaced"]), (&first["id"], &json!(true)));
    assert_eq!((&details(2)["alert_id"], &details(2)["replaces"]), (&all["id"], &first["id"]));
    assert_eq!(details(7)["replaced"], false);
    let ids: std::collections::BTreeSet<_> = events.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len(), events.len());
}

#[tokio::test]
async fn silence_is_told_and_a_goodbye_or_a_drain_is_not() {
    let hub = Hub::fresh().await;
    register(&hub, "left", "1", json!([])).await;
    register(&hub, "drained", "1", json!([])).await;
    hub.ask("services.drain.drained", json!({"draining": true})).await;
    register(&hub, "shrunk", "1", json!([])).await;
    register(&hub, "shrunk", "2", json!([])).await;
    says(&hub, "shrunk", "2", "down").await;
    active_once(&hub, &["warning service/down shrunk"]).await;
    hub.ask("deregister.left", "").await;
    hub.ask("deregister.shrunk", json!({"instance_id": "2"})).await;
    says(&hub, "drained", "1", "down").await;
    hub.ask("register.silent", json!({"instance_id": "1", "heartbeat_interval_seconds": 0.2})).await;
    let silent = active_once(&hub, &["critical service/down silent"]).await.remove(0);
    assert_eq!(silent["message"], "silent is down: its only instance is");
    // The last one in use goes; and comes back into use where another is well.
    hub.ask("services.drain.silent", json!({"draining": true})).await;
    active_once(&hub, &[]).await;
    hub.ask("services.drain.drained", json!({"draining": false})).await;
    active_once(&hub, &["critical service/down drained"]).await;
    assert_eq!(told(&hub, &["left"]).await, [""; 0]);
}

#[tokio::test]
async fn one_failure_is_one_page_whatever_depends_on_it() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    flapping_window(&hub, 5.0).await;
    register(&hub, "ticks", "1", json!(["kafka"])).await;
    register(&hub, "features", "1", json!(["ticks"])).await;
    register(&hub, "other", "1", json!(["kafka"])).await;
    component(&hub, "kafka", "down", false).await;
    let kafka = active_once(&hub, &["warning infra/down kafka"]).await.remove(0);
    assert_eq!(kafka["message"], "kafka is down: connection refused");
    assert_eq!(kafka["details"]["affects"], json!(["other", "ticks", "features"]), "the nearest first");

    says(&hub, "ticks", "1", "down").await;
    says(&hub, "features", "1", "down").await;
    let all = ["critical infra/down kafka", "info service/down features", "info service/down ticks"];
    let alerts = active_once(&hub, &all).await;
    assert_eq!(alerts[0]["details"]["replaces"], kafka["id"]);
    eventually(SOON, || async { active(&hub).await[all[0]]["details"]["explains"] == json!(["features", "ticks"]) })
        .await;
    for alert in &alerts[1..] {
        assert_eq!(alert["cause"], "kafka");
        assert!(alert["message"].as_str().unwrap().ends_with("(probably because of kafka)"), "{alert}");
    }

    // Who doesn't follow its cause within a fifth of the window has a trouble of its own.
    component(&hub, "kafka", "healthy", false).await;
    active_once(&hub, &["info service/down features", "info service/down ticks"]).await;
    says(&hub, "ticks", "1", "healthy").await;
    active_once(&hub, &["critical service/down features"]).await;
    let database = hub.database().await;
    let sql = "SELECT extract(epoch FROM (SELECT max(raised_at) FROM hub_alerts WHERE name = 'features')
                   - (SELECT max(resolved_at) FROM hub_alerts WHERE name = 'kafka'))::float8";
    let grace: f64 = database.query_one(sql, &[]).await.unwrap().get(0);
    assert!(grace >= 1.0, "it had {grace} s");
    says(&hub, "features", "1", "healthy").await;
    active_once(&hub, &[]).await;

    let critical: Vec<_> = sent(&hub)
        .await
        .into_iter()
        .map(|event| event.subject)
        .filter(|subject| subject.contains("critical"))
        .collect();
    let expected = ["alerts.critical.infra.kafka"; 2].into_iter().chain(["alerts.critical.service.features"; 2]);
    assert_eq!(critical, expected.collect::<Vec<_>>(), "raised and resolved");
}

#[tokio::test]
async fn a_cause_that_is_found_later_is_named_and_nothing_is_sent_again() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    register(&hub, "ticks", "1", json!(["pg", "kafka"])).await;
    register(&hub, "features", "1", json!(["ticks"])).await;
    says(&hub, "features", "1", "down").await;
    active_once(&hub, &["critical service/down features"]).await;
    says(&hub, "ticks", "1", "down").await;
    let alerts = active_once(&hub, &["critical service/down features", "critical service/down ticks"]).await;
    eventually(SOON, || async { active(&hub).await["critical service/down features"]["cause"] == "ticks" }).await;
    component(&hub, "pg", "unknown", true).await;
    component(&hub, "kafka", "down", true).await;
    let all = ["critical service/down features", "critical service/down ticks", "critical infra/down kafka"];
    let later = active_once(&hub, &all).await;
    eventually(SOON, || async {
        let active = active(&hub).await;
        all[..2].iter().all(|name| active[*name]["cause"] == "kafka")
    })
    .await;
    assert_eq!((&later[0]["id"], &later[1]["id"]), (&alerts[0]["id"], &alerts[1]["id"]));
    let expected = ["+critical.service.features", "+critical.service.ticks", "+critical.infra.kafka"];
    assert_eq!(told(&hub, &["features", "ticks", "kafka"]).await, expected);
    // What only slows down explains nothing that is down.
    component(&hub, "kafka", "degraded", true).await;
    active_once(
        &hub,
        &["critical service/down features", "critical service/down ticks", "warning infra/degraded kafka"],
    )
    .await;
}

#[tokio::test]
async fn what_flaps_is_told_once() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    flapping_window(&hub, 4.0).await;
    for instance in ["1", "2"] {
        register(&hub, "a", instance, json!([])).await;
    }
    let flaps = "warning liveness/flapping a";
    let mut changes = 0;
    while active(&hub).await.get(flaps).is_none_or(|alert| alert["details"]["changes"].as_i64() < Some(12)) {
        assert!(changes < 1_000, "it flaps");
        says(&hub, "a", "2", ["down", "healthy"][changes % 2]).await;
        component(&hub, "kafka", ["down", "healthy", "degraded"][changes % 3], true).await;
        changes += 1;
    }
    says(&hub, "a", "2", "healthy").await;
    component(&hub, "kafka", "healthy", true).await;
    let alert = active(&hub).await[flaps].clone();
    assert_eq!(alert["details"]["instances"], json!(["2"]));
    active_once(&hub, &[]).await;
    let told = told(&hub, &["a", "kafka"]).await;
    let count = |what: &str| told.iter().filter(|line| *line == what).count();
    for flapping in ["warning.liveness.a", "warning.liveness.kafka"] {
        assert_eq!((count(&format!("+{flapping}")), count(&format!("-{flapping}"))), (1, 1), "{told:?}");
    }
    // Before the third change, one pass may have seen it down, and the next one up.
    assert!(told.len() <= 4 + 2 * 3, "{changes} changes were told as {told:?}");
}

/// What changed three times a while ago, and was told of and over since, doesn't flap because it changes once more.
#[tokio::test]
async fn one_change_long_after_others_is_no_flapping() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    register(&hub, "a", "i", json!([])).await;
    // Within the two windows of 300 s before now, and not within the last one.
    let earlier = "INSERT INTO status_transitions (subject, name, instance_id, previous, status, at, until)
        SELECT 'instance', 'a', 'i', 'healthy', 'down', now() - g * interval '1 second', now()
        FROM generate_series(400, 403) AS g";
    hub.database().await.batch_execute(earlier).await.unwrap();
    says(&hub, "a", "i", "degraded").await;
    active_once(&hub, &["warning service/degraded a"]).await;
    for status in ["healthy", "degraded"] {
        says(&hub, "a", "i", status).await;
    }
    active_once(&hub, &["warning liveness/flapping a", "warning service/degraded a"]).await;
}

/// Services feel that a component is down long before it is looked at again: it is looked at for their sake.
#[tokio::test]
async fn a_component_that_fails_is_one_page_even_if_others_say_so_first() {
    let hub = Hub::fresh().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let cache = json!([{"name": "cache", "kind": "tcp", "target": address.to_string(), "timeout_ms": 500}]);
    let health = json!({"operational": {"health_monitoring": {"infrastructure_components": cache}}});
    hub.ask("config.set.central-hub", json!({"config": health})).await;
    let seen_as = async |status: &'static str| {
        eventually(2 * SOON, || async { hub.ask("infra.status", "").await["components"][0]["status"] == status }).await
    };
    seen_as("healthy").await;
    register(&hub, "s", "i", json!(["cache"])).await;
    register(&hub, "t", "i", json!(["s"])).await;
    drop(listener);
    for service in ["s", "t"] {
        says(&hub, service, "i", "down").await;
    }
    active_once(&hub, &["critical infra/down cache", "info service/down s", "info service/down t"]).await;
    let told = told(&hub, &["cache", "s", "t"]).await;
    let pages = told.iter().filter(|line| line.starts_with("+critical") || line.starts_with("+warning"));
    assert_eq!(pages.collect::<Vec<_>>(), ["+critical.infra.cache"], "{told:?}");
    // What is down is looked at often, so that its end is seen.
    let _listener = std::net::TcpListener::bind(address).unwrap();
    seen_as("healthy").await;
}

/// Who needs what flaps may stay down while that is up for a moment: one page tells of both.
#[tokio::test]
async fn who_fails_with_what_flaps_is_no_page_of_its_own() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    register(&hub, "a", "i", json!([])).await;
    register(&hub, "b", "i", json!(["a"])).await;
    let earlier = "INSERT INTO status_transitions (subject, name, instance_id, previous, status, at, until)
        VALUES ('instance', 'a', 'i', 'healthy', 'down', now() - interval '10 seconds', now() - interval '5 seconds'),
               ('instance', 'a', 'i', 'down', 'healthy', now() - interval '5 seconds', now())";
    let database = hub.database().await;
    database.batch_execute(earlier).await.unwrap();
    says(&hub, "a", "i", "down").await;
    active_once(&hub, &["warning liveness/flapping a"]).await;
    says(&hub, "b", "i", "down").await;
    let both = ["critical liveness/flapping a", "info service/down b"];
    active_once(&hub, &both).await;
    says(&hub, "a", "i", "healthy").await;
    let flapping = eventually(SOON, || async {
        let alert = active(&hub).await.get(both[0]).cloned();
        alert.filter(|alert| alert["details"]["changes"] == 4)
    })
    .await;
    active_once(&hub, &both).await;
    let sql = "SELECT to_char(max(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM status_transitions WHERE name = 'a'";
    let last: String = database.query_one(sql, &[]).await.unwrap().get(0);
    let told = flapping["details"]["last_change"].as_str().unwrap();
    assert!(last.starts_with(&told.replace('T', " ").replace('Z', "")), "{told} is {last}");
    assert_eq!(flapping["details"]["explains"], json!(["b"]));
}

/// Flapping holds back, and doesn't hide: what stays down is told.
#[tokio::test]
async fn what_flapped_and_stays_down_is_told() {
    let hub = Hub::fresh().await;
    flapping_window(&hub, 10.0).await;
    register(&hub, "a", "1", json!([])).await;
    for status in ["down", "healthy", "down", "healthy", "down"] {
        says(&hub, "a", "1", status).await;
    }
    active_once(&hub, &["warning liveness/flapping a", "critical service/down a"]).await;
    active_once(&hub, &["critical service/down a"]).await;
    says(&hub, "a", "1", "healthy").await;
    active_once(&hub, &[]).await;
}

#[tokio::test]
async fn what_was_removed_for_its_silence_stays_until_it_is_back_or_somebody_saw_it() {
    let hub = Hub::fresh().await;
    let discovery = json!({"service_discovery": {"deregister_after_seconds": 1}});
    hub.ask("config.set.central-hub", json!({"config": {"operational": discovery}})).await;
    for service in ["a", "b"] {
        hub.ask("register", json!({"service_name": service, "instance_id": "1", "heartbeat_interval_seconds": 0.1}))
            .await;
    }
    let both = ["critical service/down a", "critical service/down b"];
    eventually(SOON, || async {
        let active = active(&hub).await;
        both.iter().all(|name| active.get(*name).is_some_and(|alert| alert["details"]["removed"] == true))
    })
    .await;
    hub.refused("services.get.a", "", "not_found", None).await;
    let alerts = active_once(&hub, &both).await;
    assert!(alerts[0]["message"].as_str().unwrap().contains("acknowledge this"), "{}", alerts[0]);
    hub.ask("alerts.ack", json!({"id": alerts[0]["id"], "by": "ann"})).await;
    active_once(&hub, &both[1..]).await;
    register(&hub, "b", "2", json!([])).await;
    active_once(&hub, &[]).await;
    assert_eq!(told(&hub, &["a"]).await, ["+critical.service.a", "-critical.service.a"]);
}

#[tokio::test]
async fn what_somebody_silenced_is_kept_and_not_sent_unless_it_is_worse() {
    let hub = Hub::fresh().await;
    flapping_window(&hub, 1.0).await;
    register(&hub, "a", "1", json!([])).await;
    register(&hub, "a", "2", json!([])).await;
    says(&hub, "a", "1", "down").await;
    let alert = active_once(&hub, &["warning service/down a"]).await.remove(0);
    let acked = hub.ask("alerts.ack", json!({"id": alert["id"], "by": "ann", "silence_seconds": 3600})).await;
    assert_eq!((&acked["acked_by"], &acked["id"]), (&json!("ann"), &alert["id"]));
    assert!(acked["silenced_until"].as_str() > acked["acked_at"].as_str());
    says(&hub, "a", "1", "healthy").await;
    active_once(&hub, &[]).await;
    let before = ["+warning.service.a", "-warning.service.a"];
    assert_eq!(told(&hub, &["a"]).await, before, "that it is over is sent, as its beginning was");

    says(&hub, "a", "1", "down").await;
    let silent = active_once(&hub, &["warning service/down a"]).await.remove(0);
    assert_eq!(silent["details"]["silenced"], true);
    assert!(silent["acked_at"].is_null() && silent["id"] != alert["id"], "{silent}");
    says(&hub, "a", "1", "healthy").await;
    active_once(&hub, &[]).await;
    assert_eq!(told(&hub, &["a"]).await, before);

    // Worse than what was silenced.
    says(&hub, "a", "1", "down").await;
    active_once(&hub, &["warning service/down a"]).await;
    says(&hub, "a", "2", "down").await;
    active_once(&hub, &["critical service/down a"]).await;
    assert_eq!(told(&hub, &["a"]).await.last().unwrap(), "+critical.service.a");
    says(&hub, "a", "2", "healthy").await;
    let silent = active_once(&hub, &["warning service/down a"]).await.remove(0);
    assert_eq!(silent["details"]["silenced"], true);

    // The newest word holds: no more silence.
    let count = told(&hub, &["a"]).await.len();
    hub.ask("alerts.ack", json!({"id": silent["id"], "silence_seconds": 0})).await;
    eventually(SOON, || async { told(&hub, &["a"]).await.len() > count }).await;
    let spoken = active_once(&hub, &["warning service/down a"]).await.remove(0);
    assert_eq!(spoken["id"], silent["id"]);
    assert_eq!(spoken["details"].get("silenced"), None);
    assert_eq!(told(&hub, &["a"]).await[count..], ["+warning.service.a"]);

    // It outlasts a silence, and is sent then.
    hub.ask("alerts.ack", json!({"id": spoken["id"], "silence_seconds": 3600})).await;
    says(&hub, "a", "1", "healthy").await;
    active_once(&hub, &[]).await;
    says(&hub, "a", "1", "down").await;
    active_once(&hub, &["warning service/down a"]).await;
    assert_eq!(told(&hub, &["a"]).await.len(), count + 2);
    let passes = "UPDATE hub_alerts SET silenced_until = clock_timestamp() WHERE silenced_until IS NOT NULL";
    hub.database().await.execute(passes, &[]).await.unwrap();
    eventually(SOON, || async { told(&hub, &["a"]).await.len() == count + 3 }).await;
}

#[tokio::test]
async fn acks_are_kept_and_bad_ones_refused() {
    let hub = Hub::fresh().await;
    register(&hub, "a", "1", json!([])).await;
    says(&hub, "a", "1", "down").await;
    let id = active_once(&hub, &["critical service/down a"]).await[0]["id"].clone();
    let acked = hub.ask("alerts.ack", json!({ "id": id })).await;
    assert_eq!((&acked["acked_by"], &acked["silenced_until"]), (&json!("unknown"), &Value::Null));
    says(&hub, "a", "1", "healthy").await;
    active_once(&hub, &[]).await;
    let again = hub.ask("alerts.ack", json!({"id": id, "by": "bob"})).await;
    assert!(again["resolved_at"].is_string() && again["acked_by"] == "bob", "also when it is over: {again}");
    let sql = "SELECT details FROM hub_events WHERE kind = 'acked' ORDER BY id";
    let rows = hub.database().await.query(sql, &[]).await.unwrap();
    let by: Vec<Value> = rows.iter().map(|row| row.get::<_, Value>(0)["by"].clone()).collect();
    assert_eq!(by, ["unknown", "bob"]);
    assert_eq!(told(&hub, &["a"]).await, ["+critical.service.a", "-critical.service.a"], "acks aren't sent");

    hub.refused("alerts.ack", json!({"id": 999}), "not_found", "id").await;
    hub.refused("alerts.ack", json!({"by": "ann"}), "bad_request", "id").await;
    for (field, value) in
        [("id", json!("7")), ("silence_seconds", json!(-1)), ("silence_seconds", json!(2_592_001)), ("by", json!(7))]
    {
        let mut body = json!({ "id": id });
        body[field] = value;
        hub.refused("alerts.ack", body, "bad_request", field).await;
    }
}

#[tokio::test]
async fn the_list_is_filtered_and_paged_newest_first() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    for service in ["a", "b", "c"] {
        register(&hub, service, "1", json!([])).await;
        says(&hub, service, "1", "down").await;
    }
    component(&hub, "kafka", "degraded", false).await;
    active_once(
        &hub,
        &["critical service/down a", "critical service/down b", "critical service/down c", "info infra/degraded kafka"],
    )
    .await;
    says(&hub, "b", "1", "healthy").await;
    active_once(&hub, &["critical service/down a", "critical service/down c", "info infra/degraded kafka"]).await;
    let list = async |body: Value| {
        let listed = hub.ask("alerts.list", body).await["alerts"].as_array().unwrap().clone();
        let ids: Vec<i64> = listed.iter().map(|alert| alert["id"].as_i64().unwrap()).collect();
        assert!(ids.is_sorted_by(|newer, older| newer > older), "{ids:?}");
        let mut names: Vec<_> = listed.iter().map(|alert| alert["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names.concat()
    };
    assert_eq!(list(json!({})).await, "abckafka");
    assert_eq!(list(json!({"active": true})).await, "ackafka");
    assert_eq!(list(json!({"active": false})).await, "b");
    assert_eq!(list(json!({"severity": "critical"})).await, "abc");
    assert_eq!(list(json!({"severity": "critical", "active": true, "service_name": "c"})).await, "c");
    assert_eq!(list(json!({"service_name": "nobody"})).await, "");

    let (mut found, mut request) = (Vec::new(), json!({"limit": 3}));
    loop {
        let page = hub.ask("alerts.list", &request).await;
        found.extend(page["alerts"].as_array().unwrap().iter().map(|alert| alert["id"].clone()));
        match page.get("next_cursor") {
            Some(cursor) => request["cursor"] = cursor.clone(),
            None => break,
        }
        assert!(found.len() < 10, "it comes to an end");
    }
    assert_eq!(found, [4, 3, 2, 1].map(Value::from));
    hub.refused("alerts.list", json!({"severity": "loud"}), "bad_request", "severity").await;
    hub.refused("alerts.list", json!({"cursor": "x"}), "bad_request", "cursor").await;
    hub.refused("alerts.list", json!({"limit": 1001}), "bad_request", "limit").await;
}

#[tokio::test]
async fn configs_that_are_refused_or_not_taken_raise_one_alert_each() {
    let hub = Hub::fresh().await;
    for instance in ["1", "2", "3"] {
        hub.ask("register.a", json!({"instance_id": instance, "heartbeat_interval_seconds": 1})).await;
    }
    let set = async |n: i64| hub.ask("config.set.a", json!({"config": {"n": n}})).await;
    let runs = async |instance: &str, revision: i64, error: Value| {
        let body = json!({"instance_id": instance, "config_revision": revision, "config_error": error});
        hub.ask("heartbeat.a", body).await;
    };
    let all_beat = async |names: &'static [&'static str]| {
        eventually(SOON, || async {
            runs("1", 1, Value::Null).await;
            runs("2", 1, json!("n must be odd")).await;
            runs("3", 2, Value::Null).await;
            active(&hub).await.keys().eq(names.iter())
        })
        .await;
    };
    set(1).await;
    set(2).await;
    all_beat(&["warning config/behind a", "warning config/rejected a"]).await;
    let alerts = active(&hub).await;
    let (behind, rejected) = (&alerts["warning config/behind a"], &alerts["warning config/rejected a"]);
    assert_eq!(behind["details"], json!({"behind": 1, "instances": ["1"], "revision": 2}));
    let expected = json!({"rejected": 1, "instances": ["2"], "revision": 2, "error": "n must be odd"});
    assert_eq!(rejected["details"], expected);
    assert_eq!(rejected["message"], "1 instance of a refuses config revision 2: 2");
    assert!(!hub.process.log().contains("n must be odd"), "what it said may quote the config");
    // They take it, and one of them leaves.
    eventually(SOON, || async {
        runs("1", 2, Value::Null).await;
        runs("3", 2, Value::Null).await;
        says(&hub, "a", "2", "down").await;
        active(&hub).await.keys().eq(["warning service/down a"].iter())
    })
    .await;
    let expected = ["+warning.config.a", "+warning.config.a", "-warning.config.a", "-warning.config.a"];
    let told: Vec<_> = told(&hub, &["a"]).await.into_iter().filter(|line| line.contains("config")).collect();
    assert_eq!(
        {
            let mut told = told.clone();
            told.sort();
            told
        },
        {
            let mut e = expected.to_vec();
            e.sort();
            e
        }
    );
}

/// A change freeze is nobody's fault: who runs what was pushed isn't behind, nor in the moment when it ends.
#[tokio::test]
async fn the_end_of_a_change_freeze_raises_nothing() {
    let hub = Hub::fresh().await;
    let freeze = async |on: bool| {
        let config = json!({"operational": {"config_management": {"enable_hot_reload": !on}}});
        hub.ask("config.set.central-hub", json!({ "config": config })).await;
    };
    hub.ask("register.a", json!({"instance_id": "1", "heartbeat_interval_seconds": 60})).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    freeze(true).await;
    let frozen = || async {
        let change = hub.ask("config.set.a", json!({"config": {"n": fastrand::u32(..)}})).await;
        change["warnings"].to_string().contains("freeze")
    };
    eventually(SOON, frozen).await;
    let database = hub.database().await;
    let long_ago = "UPDATE config_heads SET updated_at = updated_at - interval '1 hour', pushed_at = pushed_at - interval '1 hour';
                    UPDATE service_registry SET registered_at = registered_at - interval '1 hour' WHERE service_name = 'a'";
    database.batch_execute(long_ago).await.unwrap();
    hub.ask("heartbeat.a", json!({"config_revision": 1})).await;
    freeze(false).await;
    let pushed = "SELECT pushed_revision = revision FROM config_heads WHERE service_name = 'a'";
    eventually(SOON, || async { database.query_one(pushed, &[]).await.unwrap().get::<_, bool>(0) }).await;
    hub.ask("heartbeat.a", json!({"config_revision": 1})).await;
    register(&hub, "sentinel", "1", json!([])).await;
    says(&hub, "sentinel", "1", "down").await;
    active_once(&hub, &["critical service/down sentinel"]).await;
    assert_eq!(told(&hub, &["a"]).await, [""; 0]);
}

#[tokio::test]
async fn a_forced_config_is_told_until_the_next() {
    let hub = Hub::fresh().await;
    let schema = json!({"properties": {"n": {"type": "integer"}}});
    hub.ask("register.a", json!({"instance_id": "1", "config_schema": schema})).await;
    hub.ask("config.set.a", json!({"config": {"n": "x"}, "force": true, "created_by": "ann"})).await;
    let forced = active_once(&hub, &["warning config/forced a"]).await.remove(0);
    assert_eq!(forced["details"], json!({"instances": ["1"], "revision": 1}));
    hub.ask("alerts.ack", json!({"id": forced["id"], "silence_seconds": 3600})).await;
    // The pass leaves it alone.
    register(&hub, "b", "1", json!([])).await;
    says(&hub, "b", "1", "down").await;
    active_once(&hub, &["warning config/forced a", "critical service/down b"]).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    active_once(&hub, &["critical service/down b"]).await;
    hub.ask("config.set.a", json!({"config": {"n": "y"}, "force": true})).await;
    let again = active_once(&hub, &["warning config/forced a", "critical service/down b"]).await.remove(0);
    assert_eq!(again["details"]["silenced"], true);
    assert_eq!(told(&hub, &["a"]).await, ["+warning.config.a", "-warning.config.a"]);
}

#[tokio::test]
async fn held_expiries_are_told_while_they_are_held() {
    let hub = Hub::fresh().await;
    let discovery = json!({"operational": {"service_discovery": {"mass_expiry_hold_seconds": 3600}}});
    hub.ask("config.set.central-hub", json!({"config": discovery})).await;
    let ids = ["1", "2", "3", "4", "5", "6"];
    for id in ids {
        hub.ask("register.a", json!({"instance_id": id, "heartbeat_interval_seconds": 0.3})).await;
    }
    let held = eventually(SOON, || async {
        let held: Vec<Value> =
            active(&hub).await.into_values().filter(|alert| alert["kind"] == "mass_expiry").collect();
        if held.is_empty() { Err("nothing is held") } else { Ok(held) }
    })
    .await;
    for alert in held {
        assert_eq!((&alert["severity"], &alert["source"]), (&json!("critical"), &json!("liveness")), "{alert}");
        assert_eq!(alert["details"]["held"], 6, "{alert}");
        assert!(alert["message"].as_str().unwrap().starts_with("6 instances of "), "{alert}");
    }
    eventually(SOON, || async {
        for id in ids {
            hub.ask("heartbeat.a", json!({"instance_id": id})).await;
        }
        active(&hub).await.is_empty()
    })
    .await;
}

/// A storm is told bit by bit, the worst first, and ends.
#[tokio::test]
async fn a_storm_is_told_bit_by_bit_the_worst_first() {
    let hub = Hub::fresh().await;
    let database = hub.database().await;
    let storm = "INSERT INTO service_registry (service_name, instance_id, status)
                 SELECT 'part-' || i, 'up', 'healthy' FROM generate_series(1, 120) i
                 UNION ALL SELECT 'part-' || i, 'gone', 'down' FROM generate_series(1, 120) i
                 UNION ALL SELECT 'whole-' || i, 'gone', 'down' FROM generate_series(1, 150) i";
    database.batch_execute(storm).await.unwrap();
    eventually(SOON, || async { active(&hub).await.len() == 270 }).await;
    let sql = "SELECT max(id) FILTER (WHERE severity = 'critical') < min(id) FILTER (WHERE severity = 'warning'),
                      count(DISTINCT date_trunc('second', raised_at)) > 1 FROM hub_alerts";
    let row = database.query_one(sql, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(1), "the worst first, over several passes");
    database.batch_execute("UPDATE service_registry SET status = 'healthy'").await.unwrap();
    active_once(&hub, &[]).await;
    assert_eq!(sent(&hub).await.len(), 540);
}

#[tokio::test]
async fn a_kill_of_the_hub_or_a_change_of_leader_tells_nothing_twice() {
    let options = HubOptions::fresh().await;
    let (asker, truth) = (Asker::of(&options).await, Truth::of(&options));
    let mut hubs = replicas(&options, 2).await;
    for service in ["a", "b", "c"] {
        register(&asker, service, "1", json!([])).await;
    }
    says(&asker, "a", "1", "down").await;
    active_once(&asker, &["critical service/down a"]).await;

    let (leader, _) = eventually(SOON, || truth.leader()).await;
    let at = hubs.iter().position(|hub| hub.options().replica_id == leader).unwrap();
    says(&asker, "b", "1", "down").await;
    let raised = "SELECT count(*) FROM hub_alerts WHERE name = 'b'";
    eventually(SOON, || async { truth.one::<i64>(raised, &[]).await == 1 }).await;
    hubs[at].kill9().await;
    says_until_heard(&asker, "c", "down").await;
    active_once(&asker, &["critical service/down a", "critical service/down b", "critical service/down c"]).await;
    // The hub's own replicas are under the same rules.
    eventually(Duration::from_secs(60), || async {
        let own = asker.ask("alerts.list", json!({"active": true, "service_name": "central-hub"})).await;
        let own = own["alerts"].as_array().unwrap().first().cloned().ok_or("none")?;
        if own["details"]["instances"] == json!([leader]) { Ok(()) } else { Err("another") }
    })
    .await;
    hubs[at].restart().await;
    hubs[at].ready().await;
    for hub in &mut hubs {
        hub.kill9().await;
    }
    for hub in &mut hubs {
        hub.restart().await;
        hub.ready().await;
    }
    for service in ["a", "b", "c"] {
        says_until_heard(&asker, service, "healthy").await;
    }
    active_once(&asker, &[]).await;
    let mut told = told(&asker, &["a", "b", "c"]).await;
    told.sort();
    let expected = ["+", "-"].map(|sign| ["a", "b", "c"].map(|name| format!("{sign}critical.service.{name}")));
    assert_eq!(told, expected.concat());
}

/// As a process would: again, when a hub that was killed took the message with it.
async fn says_until_heard(hub: &Asker, service: &str, status: &str) {
    let subject = hub.subject(&format!("heartbeat.{service}"));
    let body = json!({"instance_id": "1", "status": status}).to_string();
    eventually(SOON, || async {
        let asked = hub.nats.request(subject.clone(), body.clone().into());
        tokio::time::timeout(Duration::from_secs(1), asked).await.is_ok_and(|answer| answer.is_ok())
    })
    .await;
}
