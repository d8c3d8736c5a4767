//! Configs: numbers without gaps, expectations, dry runs, deadlines, history, exact texts, concurrent writers.

use std::time::Duration;

use central_hub::wire::config::Config;
use futures_util::future::join_all;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::ask::{Asker, Hub, SOON};
use crate::stack::{HubOptions, eventually};

/// Sets a config and gives `(version, revision, changed)`.
async fn set(hub: &Asker, service: &str, config: Value) -> (i64, i64, bool) {
    numbers(&hub.ask(&format!("config.set.{service}"), json!({ "config": config })).await)
}

fn numbers(change: &Value) -> (i64, i64, bool) {
    (change["version"].as_i64().unwrap(), change["revision"].as_i64().unwrap(), change["changed"].as_bool().unwrap())
}

#[tokio::test]
async fn versions_count_up_and_the_same_content_makes_none() {
    let hub = Hub::fresh().await;
    assert_eq!(set(&hub, "a", json!({"x": 1, "y": [1, 2]})).await, (1, 1, true));
    let first = hub.ask("config.get.a", "").await;
    // Neither the order of keys nor white space is content.
    let same = hub.ask("config.set.a", "{ \"config\" : {\"y\": [1 ,2],\n\"x\": 1} , \"comment\": \"the same\"}").await;
    assert_eq!(numbers(&same), (1, 1, false));
    assert_eq!(same["published"], true);
    assert_eq!(hub.ask("config.get.a", "").await, first, "nothing was touched");

    assert_eq!(set(&hub, "a", json!({"x": 2})).await, (2, 2, true));
    // What was active once before is a new version all the same; numbers are never reused.
    assert_eq!(set(&hub, "a", json!({"x": 1, "y": [1, 2]})).await, (3, 3, true));
    assert_eq!(hub.ask("config.get.a", "").await["checksum"], first["checksum"], "the same content has the same");
    assert_eq!(set(&hub, "b", json!({})).await, (1, 1, true), "each service counts by itself");
}

#[tokio::test]
async fn any_version_can_be_read() {
    let hub = Hub::fresh().await;
    hub.refused("config.get.a", "", "not_found", None).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}, "created_by": "ann", "comment": "first"})).await;
    hub.ask("config.set.a", json!({"config": {"n": 2}})).await;

    let old = hub.ask("config.get.a", json!({"version": 1})).await;
    assert_eq!((&old["version"], &old["revision"], &old["active"]), (&json!(1), &json!(1), &json!(false)));
    assert_eq!((&old["created_by"], &old["comment"]), (&json!("ann"), &json!("first")));
    assert_eq!(old["config"], json!({"n": 1}));
    let new = hub.ask("config.get.a", json!({"version": 2})).await;
    assert_eq!(new, hub.ask("config.get.a", "").await, "by its number or as the active one");
    assert_eq!((&new["created_by"], &new["comment"]), (&json!("unknown"), &Value::Null));
    assert_ne!(old["checksum"], new["checksum"]);
    hub.refused("config.get.a", json!({"version": 3}), "not_found", "version").await;
    hub.refused("config.get.b", json!({"version": 1}), "not_found", "version").await;
}

#[tokio::test]
async fn an_expectation_that_does_not_hold_changes_nothing() {
    let hub = Hub::fresh().await;
    let conflict = async |body: Value, field: &str, active: Value| {
        let details = hub.refused("config.set.a", body, "version_conflict", field).await;
        assert_eq!(details["active_version"], active);
    };
    conflict(json!({"config": {}, "expected_version": 1}), "expected_version", Value::Null).await;
    conflict(json!({"config": {}, "expected_revision": 1}), "expected_revision", Value::Null).await;
    hub.refused("config.get.a", "", "not_found", None).await;
    assert_eq!(hub.ask("config.list", "").await, json!({"configs": []}), "not even a trace");

    let zero = json!({"config": {"n": 1}, "expected_version": 0, "expected_revision": 0});
    assert_eq!(numbers(&hub.ask("config.set.a", &zero).await), (1, 1, true));
    conflict(zero, "expected_version", json!(1)).await;
    conflict(json!({"config": {"n": 2}, "expected_version": 1, "expected_revision": 0}), "expected_revision", json!(1))
        .await;
    conflict(json!({"config": {"n": 1}, "expected_version": 2}), "expected_version", json!(1)).await;
    let fits = json!({"config": {"n": 2}, "expected_version": 1, "expected_revision": 1});
    assert_eq!(numbers(&hub.ask("config.set.a", fits).await), (2, 2, true));
    assert_eq!(hub.ask("config.get.a", "").await["config"], json!({"n": 2}));
    assert_eq!(hub.ask("config.history.a", "").await["activations"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_happen_and_does_nothing() {
    let hub = Hub::fresh().await;
    let dry = async |config: Value| {
        let change = hub.ask("config.set.a", json!({"config": config, "dry_run": true})).await;
        assert_eq!(change["published"], false);
        numbers(&change)
    };
    assert_eq!(dry(json!({"n": 1})).await, (1, 1, true));
    hub.refused("config.get.a", "", "not_found", None).await;
    hub.refused("config.history.a", "", "not_found", None).await;
    let trace = hub.database().await.query("SELECT FROM config_heads", &[]).await.unwrap();
    assert!(trace.is_empty(), "not even a trace");
    assert_eq!(set(&hub, "a", json!({"n": 1})).await, (1, 1, true));
    assert_eq!(dry(json!({"n": 1})).await, (1, 1, false));
    assert_eq!(dry(json!({"n": 2})).await, (2, 2, true));
    let conflict = json!({"config": {"n": 2}, "dry_run": true, "expected_version": 7});
    hub.refused("config.set.a", conflict, "version_conflict", "expected_version").await;
    assert_eq!(hub.ask("config.get.a", "").await["config"], json!({"n": 1}));
    assert_eq!(hub.ask("config.history.a", "").await["activations"].as_array().unwrap().len(), 1);
    let events = hub.database().await.query_one("SELECT count(*) FROM hub_events WHERE topic = 'config'", &[]).await;
    assert_eq!(events.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn after_its_deadline_a_set_does_nothing() {
    let hub = Hub::fresh().await;
    let late = json!({"config": {"n": 1}, "deadline": "2024-02-29T12:00:00.5+01:00"});
    let details = hub.refused("config.set.a", late, "expired", "deadline").await;
    let now = hub.ask("health", "").await["now"].as_str().unwrap().to_owned();
    assert!(details["now"].as_str().unwrap() <= now.as_str(), "{details} tells the hub's own time");
    hub.refused("config.get.a", "", "not_found", None).await;
    let soon_enough = json!({"config": {"n": 1}, "deadline": "2999-12-31T23:59:59Z"});
    assert_eq!(numbers(&hub.ask("config.set.a", soon_enough).await), (1, 1, true));
}

#[tokio::test]
async fn min_revision_reads_what_was_written_on_any_replica() {
    let one = Hub::fresh().await;
    let other = Hub::start(one.process.options().replica()).await;
    for revision in 1..=20 {
        assert_eq!(set(&one, "a", json!({"n": revision})).await.1, revision);
        // Both replicas are asked: each takes its share.
        let answers = join_all((0..8).map(|_| other.ask("config.get.a", json!({"min_revision": revision})))).await;
        assert!(answers.iter().all(|answer| answer["revision"] == revision), "{answers:?}");
    }
    let details = one.refused("config.get.a", json!({"min_revision": 21}), "not_found", "min_revision").await;
    assert_eq!(details["revision"], 20);
    one.refused("config.get.a", json!({"version": 3, "min_revision": 4}), "not_found", "min_revision").await;
    let old = one.ask("config.get.a", json!({"version": 3, "min_revision": 3})).await;
    assert_eq!(old["config"], json!({"n": 3}));
    // Without it, the replica that wasn't told catches up by itself.
    set(&one, "a", json!({"n": 21})).await;
    eventually(SOON, || async {
        let answers = join_all((0..16).map(|_| other.ask("config.get.a", ""))).await;
        answers.iter().all(|answer| answer["revision"] == 21)
    })
    .await;
}

#[tokio::test]
async fn history_tells_what_was_in_force_page_by_page() {
    let hub = Hub::fresh().await;
    hub.refused("config.history.a", "", "not_found", None).await;
    for n in 1..=7 {
        hub.ask(
            "config.set.a",
            json!({"config": {"n": n}, "created_by": format!("by-{n}"), "comment": format!("c{n}")}),
        )
        .await;
    }
    let all = hub.ask("config.history.a", "").await;
    let (activations, versions) = (all["activations"].as_array().unwrap(), all["versions"].as_array().unwrap());
    for (index, n) in (1..=7).rev().enumerate() {
        let (activation, version) = (&activations[index], &versions[index]);
        assert_eq!((&activation["revision"], &activation["version"]), (&json!(n), &json!(n)), "newest first");
        assert_eq!(activation["action"], "published");
        assert_eq!((&activation["by"], &activation["comment"]), (&json!(format!("by-{n}")), &json!(format!("c{n}"))));
        assert_eq!((&version["version"], &version["active"]), (&json!(n), &json!(n == 7)));
        assert_eq!(version["created_by"], format!("by-{n}"));
        assert_eq!(version["size_bytes"], 8, "as PostgreSQL prints it");
        assert_eq!(version["checksum"], hub.ask("config.get.a", json!({"version": n})).await["checksum"]);
    }

    let mut seen = Vec::new();
    let mut request = json!({"limit": 3});
    loop {
        assert!(seen.len() < 100, "it comes to an end");
        let page = hub.ask("config.history.a", &request).await;
        let page = page["activations"].as_array().unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        request["before_revision"] = last["revision"].clone();
        seen.extend(page.iter().cloned());
    }
    assert_eq!(&seen, activations, "without loss or repetition");
}

#[tokio::test]
async fn the_list_pages_through_all_configs() {
    let hub = Hub::fresh().await;
    assert_eq!(hub.ask("config.list", "").await, json!({"configs": []}));
    let mut names: Vec<String> = (0..10).map(|index| format!("{}-{index}", ["b", "A", "c_", "0"][index % 4])).collect();
    for name in &names {
        set(&hub, name, json!({"of": name})).await;
    }
    set(&hub, &names[3], json!({"of": "again"})).await;
    let mut listed = Vec::new();
    let mut request = json!({"limit": 5});
    let mut pages = 0;
    loop {
        assert!(pages < 100, "it comes to an end");
        let page = hub.ask("config.list", &request).await;
        pages += 1;
        listed.extend(page["configs"].as_array().unwrap().iter().cloned());
        match page.get("next_cursor") {
            Some(cursor) => request["cursor"] = cursor.clone(),
            None => break,
        }
    }
    assert_eq!(pages, 2, "a last page that is full says that it is the last");
    assert_eq!(listed.iter().find(|config| config["service_name"] == names[3]).unwrap()["version"], 2);
    let mut found: Vec<_> = listed.iter().map(|config| config["service_name"].as_str().unwrap().to_owned()).collect();
    found.sort();
    names.sort();
    assert_eq!(found, names);
}

/// What is written is what is read, in value and, from then on, in text: by request, in KV and after a restart.
#[tokio::test]
async fn nothing_is_altered() {
    let mut hub = Hub::fresh().await;
    let texts = [
        "{}",
        r#"{"":{"":[]," ":[[],{}]}}"#,
        r#"{"i":[0,-1,9223372036854775807,-9223372036854775808,18446744073709551615]}"#,
        r#"{"f":[0.1,-2.5e-3,1.7976931348623157e308,5e-324,2.2250738585072014e-308,1e23,123456789.12345678]}"#,
        r#"{"u":"zażółć 日本語 🦀 \u00e9\ud83e\udd80","control":"\u0001\t\n\r\"\\\/\u007f\u2028"}"#,
        r#"{"zeta":1,"alpha":{"z":null,"a":[true,false,null]},"Ω":"key"}"#,
        r#"{"operational":{"interval":5,"symbols":["AAPL","MSFT"],"ratio":0.25},"name":"a.b/c~d"}"#,
    ];
    for (index, text) in texts.iter().enumerate() {
        let service = format!("s{index}");
        let sent: Value = serde_json::from_str(text).unwrap();
        hub.ask(&format!("config.set.{service}"), format!("{{\"config\":{text}}}")).await;
        let (read, raw) = read(&hub, &service, "").await;
        assert_eq!(read, sent, "{text}");
        let in_kv = hub.bucket("config").await.get(&service).await.unwrap().expect("it is in KV");
        #[derive(serde::Deserialize)]
        struct Entry {
            config: Box<RawValue>,
        }
        let in_kv: Entry = serde_json::from_slice(&in_kv).unwrap();
        assert_eq!(in_kv.config.get(), raw.get(), "one text everywhere");
        let of_version = self::read(&hub, &service, r#"{"version":1}"#).await;
        assert_eq!(of_version.1.get(), raw.get());
        assert_eq!(set(&hub, &service, sent).await, (1, 1, false), "what was read is what was written");
    }
    let before = hub.ask("config.get.s3", "").await;
    hub.process.restart().await;
    hub.process.ready().await;
    assert_eq!(hub.ask("config.get.s3", "").await, before);
    assert_eq!(set(&hub, "s3", json!({})).await, (2, 2, true), "the numbers go on");
}

/// The active config (or what `body` asks for), parsed and as text.
async fn read(hub: &Asker, service: &str, body: &str) -> (Value, Box<RawValue>) {
    let answer = hub.send(&format!("config.get.{service}"), body.to_owned()).await;
    let config: Config = serde_json::from_slice(&answer.body).unwrap();
    (serde_json::from_str(config.config.get()).unwrap(), config.config)
}

#[tokio::test]
async fn a_config_may_take_400_kib_and_20000_keys() {
    let hub = Hub::fresh().await;
    // PostgreSQL prints {"x": "…"}: nine bytes beside the text.
    let filled = |bytes: usize| {
        let odd = if bytes.is_multiple_of(2) { "a" } else { "" };
        json!({"config": {"x": "é".repeat((bytes - 9) / 2) + odd}})
    };
    let set = hub.ask("config.set.a", filled(400 * 1024)).await;
    assert_eq!(set["version"], 1);
    let details = hub.refused("config.set.a", filled(400 * 1024 + 1), "too_large", "config").await;
    assert_eq!(details["limit"], 409_600);
    let history = hub.ask("config.history.a", "").await;
    assert_eq!(history["versions"][0]["size_bytes"], 409_600);
    assert_eq!(hub.ask("config.get.a", "").await["config"], filled(400 * 1024)["config"]);
    let entry = hub.value_once("config", "a", |value| value["version"] == 1).await;
    assert_eq!(entry["config"], filled(400 * 1024)["config"]);

    // Numbers may grow in print: 1e308 has 309 digits.
    let grown = json!({"config": {"x": vec![1e308; 1_400]}});
    hub.refused("config.set.b", grown, "too_large", "config").await;

    let keys = |count: usize| {
        let inner: serde_json::Map<String, Value> =
            (0..count - 2).map(|index| (format!("k{index}"), json!(0))).collect();
        json!({"config": {"list": [{"inner": inner}]}})
    };
    hub.ask("config.set.c", keys(20_000)).await;
    let details = hub.refused("config.set.c", keys(20_001), "too_large", "config").await;
    assert_eq!(details["limit"], 20_000);
}

#[tokio::test]
async fn writers_at_the_same_time_leave_no_gap() {
    let one = Hub::fresh().await;
    let _other = Hub::start(one.process.options().replica()).await;
    let mut made = join_all((0..40).map(|n| set(&one, "a", json!({ "n": n })))).await;
    made.sort_unstable();
    assert_eq!(made, (1..=40).map(|n| (n, n, true)).collect::<Vec<_>>());

    let race = join_all((0..10).map(|n| {
        let body = json!({"config": {"winner": n}, "expected_version": 40});
        one.send("config.set.a", body.to_string())
    }));
    let outcomes: Vec<_> = race.await.into_iter().map(|answer| answer.result()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    for refusal in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!((refusal.code.as_str(), &refusal.details["active_version"]), ("version_conflict", &json!(41)));
    }
}

/// A set that waited for another decides by what that other left, not by what was there when it began to wait.
#[tokio::test]
async fn a_set_that_waited_compares_with_what_is_active_then() {
    let hub = Hub::fresh().await;
    set(&hub, "a", json!({"n": "old"})).await;
    let mut holder = hub.database().await;
    let held = holder.transaction().await.unwrap();
    held.execute("SELECT FROM config_heads WHERE service_name = 'a' FOR UPDATE", &[]).await.unwrap();
    let observer = hub.database().await;
    let waiting = |count: i64| {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let observer = &observer;
        eventually(Duration::from_secs(4), move || async move {
            let found: i64 = observer.query_one(sql, &[]).await.unwrap().get(0);
            if found == count { Ok(()) } else { Err(found) }
        })
    };
    let new = set(&hub, "a", json!({"n": "new"}));
    let back = async {
        waiting(1).await;
        set(&hub, "a", json!({"n": "old"})).await
    };
    let release = async {
        waiting(2).await;
        held.rollback().await.unwrap();
    };
    let (new, back, ()) = tokio::join!(new, back, release);
    assert_eq!((new, back), ((2, 2, true), (3, 3, true)));
    assert_eq!(hub.ask("config.get.a", "").await["config"], json!({"n": "old"}));
}

#[tokio::test]
async fn configs_are_there_after_a_kill() {
    let options = HubOptions::fresh().await;
    let mut hub = Hub::start(options).await;
    let mut last = (0, 0, true);
    for n in 0..5 {
        last = set(&hub, "a", json!({ "n": n })).await;
    }
    hub.process.kill9().await;
    hub.process.restart().await;
    hub.process.ready().await;
    let config = hub.ask("config.get.a", "").await;
    assert_eq!((config["version"].as_i64(), config["revision"].as_i64()), (Some(last.0), Some(last.1)));
    assert_eq!(config["config"], json!({"n": 4}));
    assert_eq!(set(&hub, "a", json!({"n": 5})).await, (6, 6, true));
}
