//! Uptime: exact, from transitions, over any window; and it says how much of the window is known.

use futures_util::future::join_all;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ask::{Answer, Asker, Hub, SOON};
use crate::stack::eventually;

/// Writes a transition for each `(instance, hours ago, status)`; of a component when the instance is empty.
async fn transitions(hub: &Asker, name: &str, changes: &[(&str, f64, &str)]) {
    let client = hub.database().await;
    // One moment for all of them, so that lengths are exact.
    let now: OffsetDateTime = client.query_one("SELECT clock_timestamp()", &[]).await.unwrap().get(0);
    let sql = "INSERT INTO status_transitions (subject, name, instance_id, status, at)
               VALUES (CASE WHEN $2 = '' THEN 'component' ELSE 'instance' END, $1, $2, $3, $4)";
    // Not in their order: whoever writes late is put where it belongs.
    let (even, odd): (Vec<_>, Vec<_>) = changes.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    for (_, (instance, hours, status)) in odd.into_iter().chain(even) {
        let at = now - time::Duration::seconds_f64(hours * 3_600.0);
        client.execute(sql, &[&name, instance, status, &at]).await.unwrap();
    }
}

/// What is checked of an answer: the share, and how long it was down and known, in hours; to 0.01% of a day.
fn close(uptime: &Value, percent: f64, down: f64, covered: f64) {
    let hours = |name: &str| uptime[name].as_f64().unwrap() / 3_600.0;
    let fine = (uptime["uptime_pct"].as_f64().unwrap() - percent).abs() < 0.01
        && (hours("down_seconds") - down).abs() < 0.0024
        && (hours("covered_seconds") - covered).abs() < 0.0024;
    assert!(fine, "{percent}% with {down} h down of {covered} h known, and not {uptime}");
}

fn statuses(uptime: &Value) -> Vec<Value> {
    uptime["transitions"].as_array().unwrap().iter().map(|transition| transition["status"].clone()).collect()
}

#[tokio::test]
async fn known_outages_are_counted_exactly() {
    let hub = Hub::fresh().await;
    let of_a = [
        ("a", 30.0, "healthy"),
        ("a", 20.0, "down"),
        ("a", 19.0, "healthy"),
        ("a", 10.0, "gone"),
        ("a", 9.0, "healthy"),
        ("a", 5.0, "degraded"),
        ("a", 2.0, "down"),
        ("a", 1.5, "healthy"),
    ];
    let of_b = [("b", 19.5, "degraded"), ("b", 9.5, "gone")];
    transitions(&hub, "web", &[&of_a[..], &of_b[..]].concat()).await;

    // a covers for b and b for a, but for half an hour each at 20, 9.5 and 2 hours ago.
    let web = hub.ask("uptime.web", "").await;
    close(&web, 100.0 * 22.5 / 24.0, 1.5, 24.0);
    assert_eq!(
        (&web["kind"], &web["window_seconds"], web.get("truncated")),
        (&json!("service"), &json!(86400.0), None)
    );
    let seen = ["down", "degraded", "healthy", "degraded", "down", "healthy", "degraded", "down", "healthy"];
    assert_eq!(statuses(&web), seen);
    close(&hub.ask("uptime.web", json!({"instance_id": "a"})).await, 100.0 * 21.5 / 23.0, 1.5, 23.0);
    let of_b = hub.ask("uptime.web", json!({"instance_id": "b"})).await;
    close(&of_b, 100.0, 0.0, 10.0);
    assert_eq!((&of_b["instance_id"], statuses(&of_b)), (&json!("b"), vec![json!("degraded"), Value::Null]));
    // Other windows, some of which begin in the middle of an outage.
    for (hours, down) in [(1.0, 0.0), (1.75, 0.25), (8.0, 0.5), (9.25, 0.75), (19.75, 1.25), (29.0, 1.5)] {
        let body = json!({"window_seconds": hours * 3_600.0});
        close(&hub.ask("uptime.web", body).await, 100.0 * (1.0 - down / hours), down, hours);
    }
    // Of a longer one only what is known counts.
    close(&hub.ask("uptime.web", json!({"window_seconds": 720_000})).await, 95.0, 1.5, 30.0);
}

#[tokio::test]
async fn a_window_says_what_it_covers() {
    let hub = Hub::fresh().await;
    transitions(&hub, "young", &[("i", 1.0, "healthy")]).await;
    transitions(&hub, "old", &[("i", 700.0, "healthy")]).await;
    transitions(&hub, "left", &[("i", 40.0, "healthy"), ("i", 30.0, "gone")]).await;
    transitions(&hub, "queue", &[("", 6.0, "healthy"), ("", 4.0, "down"), ("", 3.5, "unknown"), ("", 2.5, "degraded")])
        .await;
    transitions(&hub, "cache", &[("", 40.0, "down"), ("", 30.0, "gone")]).await;

    let young = hub.ask("uptime.young", "").await;
    close(&young, 100.0, 0.0, 1.0);
    let since = OffsetDateTime::parse(young["covered_since"].as_str().unwrap(), &Rfc3339).unwrap();
    assert_eq!(young["transitions"][0]["at"], young["covered_since"], "it begins with the first registration");
    assert!((OffsetDateTime::now_utc() - since).whole_seconds().abs_diff(3_600) < 60);
    close(&hub.ask("uptime.old", "").await, 100.0, 0.0, 24.0);
    close(&hub.ask("uptime.left", "").await, 0.0, 24.0, 24.0);
    close(&hub.ask("uptime.left", json!({"window_seconds": 40 * 3_600})).await, 25.0, 30.0, 40.0);
    let gone = hub.ask("uptime.left", json!({"instance_id": "i"})).await;
    let nothing = [&gone["uptime_pct"], &gone["covered_seconds"], &gone["covered_since"], &gone["transitions"]];
    assert_eq!(nothing, [&json!(null), &json!(0.0), &json!(null), &json!([])]);
    let queue = hub.ask("uptime.queue", "").await;
    close(&queue, 90.0, 0.5, 5.0);
    assert_eq!((&queue["kind"], statuses(&queue)[2].clone()), (&json!("component"), Value::Null));
    assert_eq!(hub.ask("uptime.cache", "").await["uptime_pct"], Value::Null);

    let down = "INSERT INTO status_transitions (subject, name, status, at) VALUES
        ('component', 'postgresql', 'healthy', now() - interval '12 hours'), ('component', 'postgresql', 'down', now() - interval '6 hours')";
    eventually(SOON, || async {
        (hub.ask("infra.status", "").await["components"].as_array()?.len() >= 4).then_some(())
    })
    .await;
    hub.database().await.batch_execute(down).await.unwrap();
    let components = hub.ask("infra.status", "").await["components"].clone();
    let component =
        |name: &str| components.as_array().unwrap().iter().find(|c| c["component_name"] == name).unwrap().clone();
    let share = component("postgresql")["uptime_pct_24h"].as_f64().unwrap();
    assert!((share - 50.0).abs() < 0.01 * 50.0, "{components}");
    assert_eq!(component("kafka").get("uptime_pct_24h"), None, "it has no target here: nobody knows");

    hub.refused("uptime.nobody", "", "not_found", None).await;
    hub.refused("uptime.young", json!({"instance_id": "j"}), "not_found", "instance_id").await;
    hub.refused("uptime.queue", json!({"instance_id": "i"}), "not_found", "instance_id").await;
    for window in [json!(0), json!(0.5), json!(34_560_001), json!("1h")] {
        hub.refused("uptime.young", json!({"window_seconds": window}), "bad_request", "window_seconds").await;
    }

    // All at once: who was there within the window, by name, the hub itself among them.
    let own = ["clickhouse", "kafka", "nats", "postgresql"];
    let all = eventually(SOON, || async {
        let all = hub.ask("uptime", "").await;
        if all["components"].as_array().unwrap().len() > own.len() { Ok(all) } else { Err(all) }
    })
    .await;
    let names = |all: &Value, list: &str| -> Vec<String> {
        all[list].as_array().unwrap().iter().map(|row| row["service_name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&all, "services"), ["central-hub", "old", "young"]);
    assert_eq!(names(&all, "components"), [&own[..], &["queue"]].concat(), "the hub's own components, too");
    let mut same = young;
    same.as_object_mut().unwrap().remove("transitions");
    close(&all["services"][2], 100.0, 0.0, 1.0);
    assert_eq!(all["services"][2]["covered_since"], same["covered_since"]);
    assert_eq!(all["services"][2].as_object().unwrap().len(), same.as_object().unwrap().len());
    let wide = json!({"window_seconds": 34 * 3_600});
    assert_eq!(names(&hub.ask("uptime", wide).await, "components"), [&["cache"], &own[..], &["queue"]].concat());

    // Page by page, over both lists.
    for limit in [1, 2, 3, 4, 7, 8] {
        let (mut found, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let page = hub.ask("uptime", json!({"limit": limit, "cursor": cursor})).await;
            found.extend(names(&page, "services").into_iter().chain(names(&page, "components")));
            match page.get("next_cursor") {
                Some(next) => cursor = next.clone(),
                None => break,
            }
        }
        assert_eq!(found, [&["central-hub", "old", "young"], &own[..], &["queue"]].concat(), "{limit} a page");
    }
    for cursor in ["nowhere", "service.old", "metric/cpu", "1767607200123456-42"] {
        hub.refused("uptime", json!({"cursor": cursor}), "bad_request", "cursor").await;
    }
}

/// What the hub itself writes: each change of a status by registrations, heartbeats and goodbyes is one transition.
#[tokio::test]
async fn what_happens_to_an_instance_is_its_history() {
    let hub = Hub::fresh().await;
    hub.refused("uptime.a", "", "not_found", None).await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    for status in ["healthy", "degraded", "degraded", "down", "healthy"] {
        hub.ask("heartbeat.a", json!({"status": status})).await;
    }
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    hub.ask("services.drain.a", json!({"draining": true})).await;
    hub.ask("deregister.a", "").await;
    hub.ask("register.a", json!({"instance_id": "i", "status": "down"})).await;
    hub.ask("heartbeat.a", "").await;

    let service = hub.ask("uptime.a", "").await;
    let seen = ["healthy", "degraded", "down", "healthy", "down", "healthy"].map(Value::from);
    assert_eq!(statuses(&service), seen, "down from the goodbye on, until it is back and says that it is well");
    let instance = hub.ask("uptime.a", json!({"instance_id": "i"})).await;
    let seen = json!(["healthy", "degraded", "down", "healthy", null, "down", "healthy"]);
    assert_eq!(json!(statuses(&instance)), seen);

    // Down exactly as long as lies between the transitions.
    let at = |uptime: &Value, index: usize| {
        OffsetDateTime::parse(uptime["transitions"][index]["at"].as_str().unwrap(), &Rfc3339).unwrap()
    };
    for (uptime, outages) in [(&service, [(2, 3), (4, 5)]), (&instance, [(2, 3), (5, 6)])] {
        let down: time::Duration = outages.map(|(from, to)| at(uptime, to) - at(uptime, from)).into_iter().sum();
        assert_eq!(uptime["down_seconds"].as_f64(), Some(down.as_seconds_f64()));
    }
    assert!(service["uptime_pct"].as_f64().unwrap() < 100.0);

    // By hand, too: whatever changes a status leaves its transition.
    let by_hand =
        "UPDATE service_registry SET status = 'degraded' WHERE service_name = 'a'; DELETE FROM service_registry";
    hub.database().await.batch_execute(by_hand).await.unwrap();
    assert_eq!(statuses(&hub.ask("uptime.a", "").await)[6..], ["degraded", "down"]);
    let intervals = "SELECT count(*) FROM status_transitions t WHERE name = 'a' AND until IS DISTINCT FROM (
        CASE WHEN status = 'gone' THEN at ELSE coalesce(
            (SELECT min(at) FROM status_transitions n WHERE n.name = 'a' AND n.id > t.id), 'infinity') END)";
    let odd: i64 = hub.database().await.query_one(intervals, &[]).await.unwrap().get(0);
    assert_eq!(odd, 0, "each holds until the next");
}

/// A fleet that flaps: the answer stays exact and bounded, and what would be too much is refused with a way on.
#[tokio::test]
async fn flapping_is_bounded() {
    let hub = Hub::fresh().await;
    // Every five seconds for three hours, by four instances in turn; each is down for half of the time, all at once for
    // an eighth of it: the last five seconds of each forty.
    let flaps = "INSERT INTO status_transitions (subject, name, instance_id, status, at)
        SELECT 'instance', 'restless', 'i' || g % 4, CASE WHEN g / 4 % 2 = 0 THEN 'healthy' ELSE 'down' END,
               clock_timestamp() - interval '3 hours' + g * interval '5 seconds'
        FROM (SELECT g FROM generate_series(0, 2159) AS g ORDER BY g) AS g";
    let client = hub.database().await;
    // One clock for all.
    client.batch_execute(&flaps.replace("clock_timestamp()", "now()")).await.unwrap();
    let uptime = hub.ask("uptime.restless", json!({"window_seconds": 9_000})).await;
    assert!((uptime["uptime_pct"].as_f64().unwrap() - 87.5).abs() < 0.2, "{}", uptime["uptime_pct"]);
    let listed = uptime["transitions"].as_array().unwrap().len();
    assert!((445..=451).contains(&listed) && uptime.get("truncated").is_none(), "{listed}");
    let uptime = hub.ask("uptime.restless", json!({"instance_id": "i1", "window_seconds": 7_200})).await;
    assert!((uptime["uptime_pct"].as_f64().unwrap() - 50.0).abs() < 0.3, "{uptime}");

    let more = "ALTER TABLE status_transitions DISABLE TRIGGER status_transitions_end;
        INSERT INTO status_transitions (subject, name, instance_id, status, at, until)
        SELECT 'instance', 'rest' || g % 2, 'i', CASE WHEN g / 2 % 2 = 0 THEN 'healthy' ELSE 'down' END,
               now() - g * interval '100 ms', now() - (g - 2) * interval '100 ms'
        FROM generate_series(2, 2501) AS g";
    client.batch_execute(more).await.unwrap();
    let uptime = hub.ask("uptime.rest0", "").await;
    let transitions = uptime["transitions"].as_array().unwrap();
    assert_eq!((transitions.len(), &uptime["truncated"]), (1_000, &json!(true)));
    assert!(transitions[0]["at"].as_str() < transitions[999]["at"].as_str(), "the newest ones, oldest first");
    assert!((uptime["down_seconds"].as_f64().unwrap() - 125.0).abs() < 1.0, "{}", uptime["down_seconds"]);

    // A page ends before one that changed too often; that one alone is refused.
    let too_many = "INSERT INTO status_transitions (subject, name, instance_id, status, at, until)
        SELECT 'instance', 'crowd', 'i' || g, 'healthy', now() - interval '1 minute', 'infinity'
        FROM generate_series(0, 50000) AS g";
    client.batch_execute(too_many).await.unwrap();
    // On a machine that is busy Postgres may need longer for so many than the hub waits for it.
    let answered = async |subject: &str, body: Value| {
        eventually(SOON * 2, || async {
            let answer = hub.send(subject, body.to_string()).await.result();
            if matches!(&answer, Err(refusal) if refusal.code == "unavailable") { Err(answer) } else { Ok(answer) }
        })
        .await
    };
    let page = answered("uptime", json!({})).await.unwrap();
    let hub_alone = (page["services"].as_array().unwrap().len(), &page["services"][0]["service_name"]);
    assert_eq!((hub_alone, &page["next_cursor"]), ((1, &json!("central-hub")), &json!("service/central-hub")));
    for (subject, body) in [("uptime.crowd", json!({})), ("uptime", json!({"cursor": page["next_cursor"]}))] {
        let refusal = answered(subject, body).await.expect_err("too many");
        assert_eq!(refusal.code, "too_large", "{}", refusal.message);
        assert_eq!((&refusal.details["field"], &refusal.details["limit"]), (&json!("window_seconds"), &json!(50_000)));
    }
    assert_eq!(hub.ask("uptime", json!({"cursor": "service/crowd"})).await["services"][0]["service_name"], "rest0");
    let one = hub.ask("uptime.crowd", json!({"instance_id": "i7"})).await;
    assert_eq!(one["uptime_pct"], 100.0, "of one instance it can be told");
}

/// However many ask for what takes long, there are connections left for heartbeats.
#[tokio::test]
async fn no_heartbeat_waits_for_those_who_read_history() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    let mut holder = hub.database().await;
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE status_transitions").await.unwrap();
    let reads = join_all((0..60).map(|number| {
        let subject = if number % 2 == 0 { "uptime" } else { "uptime.a" };
        hub.nats.request(hub.subject(subject), "".into())
    }));
    let beats = async {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                     AND query LIKE '%status_transitions%'";
        let observer = hub.database().await;
        eventually(SOON, || async { observer.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0 }).await;
        for _ in 0..20 {
            hub.ask("heartbeat.a", "").await;
        }
        held.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::join!(reads, beats);
    // Whoever got no turn was told to come again.
    for answer in answers {
        if let Err(refusal) = Answer::of(answer.unwrap()).result() {
            assert!(["overloaded", "unavailable"].contains(&refusal.code.as_str()), "{refusal:?}");
        }
    }
    hub.ask("uptime", "").await;
}
