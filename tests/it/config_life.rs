//! What becomes of a config: patched, taken back, deleted, compared; and that each of these asks as a set does.

use serde_json::{Map, Value, json};

use crate::ask::{Asker, Hub};

/// Asks a config call that changes something and gives `(version, revision, changed)`.
async fn change(hub: &Asker, call: &str, service: &str, body: Value) -> (Option<i64>, i64, bool) {
    let change = hub.ask(&format!("config.{call}.{service}"), body).await;
    (change["version"].as_i64(), change["revision"].as_i64().unwrap(), change["changed"].as_bool().unwrap())
}

async fn set(hub: &Asker, service: &str, config: Value) -> (Option<i64>, i64, bool) {
    change(hub, "set", service, json!({ "config": config })).await
}

async fn back(hub: &Asker, service: &str, body: Value) -> (Option<i64>, i64, bool) {
    change(hub, "rollback", service, body).await
}

async fn config(hub: &Asker, service: &str) -> Value {
    hub.ask(&format!("config.get.{service}"), "").await["config"].clone()
}

/// `(revision, version, action)` of each activation, newest first.
async fn activations(hub: &Asker, service: &str) -> Vec<(i64, Option<i64>, String)> {
    let history = hub.ask(&format!("config.history.{service}"), "").await;
    let activations = history["activations"].as_array().unwrap().iter();
    activations
        .map(|activation| {
            let action = activation["action"].as_str().unwrap().to_owned();
            (activation["revision"].as_i64().unwrap(), activation["version"].as_i64(), action)
        })
        .collect()
}

/// All that config calls can leave behind.
pub async fn traces(hub: &Asker) -> Vec<i64> {
    let sql = "SELECT count(*) FROM service_configs UNION ALL SELECT count(*) FROM config_heads
        UNION ALL SELECT sum(revision)::bigint FROM config_heads UNION ALL SELECT count(*) FROM config_activations
        UNION ALL SELECT count(*) FROM config_requests UNION ALL SELECT count(*) FROM config_schemas
        UNION ALL SELECT count(*) FROM hub_alerts WHERE source = 'config'
        UNION ALL SELECT count(*) FROM hub_events WHERE topic = 'config'";
    let rows = hub.database().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, Option<i64>>(0).unwrap_or(0)).collect()
}

/// The examples of RFC 7396, one level down, since a config is an object.
#[tokio::test]
async fn a_merge_patch_replaces_what_it_names() {
    let hub = Hub::fresh().await;
    let examples = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (index, (before, patch, after)) in examples.into_iter().enumerate() {
        let service = format!("s{index}");
        set(&hub, &service, json!({"it": before, "kept": 1e300})).await;
        let done = change(&hub, "patch", &service, json!({"patch": {"it": patch}})).await;
        assert_eq!(done, (Some(2), 2, true), "{patch}");
        assert_eq!(config(&hub, &service).await, json!({"it": after, "kept": 1e300}), "{patch}");
    }
    let gone = change(&hub, "patch", "s0", json!({"patch": {"it": null, "absent": null}})).await;
    assert_eq!((gone, config(&hub, "s0").await), ((Some(3), 3, true), json!({"kept": 1e300})));
    for nothing_new in [json!({}), json!({"kept": 1e300}), json!({"absent": null})] {
        assert_eq!(change(&hub, "patch", "s0", json!({"patch": nothing_new})).await, (Some(3), 3, false));
    }
    assert_eq!(activations(&hub, "s0").await[0], (3, Some(3), "published".into()));

    // There must be something to patch, and something must be left of it.
    hub.refused("config.patch.nobody", json!({"patch": {"a": 1}}), "not_found", None).await;
    hub.refused("config.patch.s0", json!({"patch": {"kept": null}}), "bad_request", "patch").await;
    set(&hub, "empty", json!({})).await;
    assert_eq!(change(&hub, "patch", "empty", json!({"patch": {"a": null}})).await, (Some(1), 1, false));
    change(&hub, "delete", "s0", json!({})).await;
    hub.refused("config.patch.s0", json!({"patch": {"a": 1}}), "not_found", None).await;
}

/// What a set refuses can't be put together by a patch either.
#[tokio::test]
async fn a_patch_makes_nothing_that_a_set_would_refuse() {
    let hub = Hub::fresh().await;
    let (composed, decomposed) = ("\u{e9}t\u{e9}", "e\u{301}te\u{301}");
    let both = json!({"config": {"list": [{composed: 1, decomposed: 2}]}});
    assert!(hub.refused("config.set.a", both, "bad_request", "config").await["path"].is_string());
    set(&hub, "a", json!({"at": {composed: 1}})).await;
    let other = json!({"patch": {"at": {decomposed: 2}}});
    let details = hub.refused("config.patch.a", other, "bad_request", "patch").await;
    assert_eq!(details["path"], format!("/at/{composed}"), "one that stands there already has the name");
    change(&hub, "patch", "a", json!({"patch": {"at": {composed: null}}})).await;
    change(&hub, "patch", "a", json!({"patch": {"at": {decomposed: 2}}})).await;
    assert_eq!(config(&hub, "a").await, json!({"at": {decomposed: 2}}), "kept as it was written");

    let keys = |from: usize, to: usize| -> Value {
        (from..to).map(|index| (format!("k{index}"), json!(0))).collect::<Map<_, _>>().into()
    };
    set(&hub, "keys", keys(0, 15_000)).await;
    let details = hub.refused("config.patch.keys", json!({"patch": keys(15_000, 20_001)}), "too_large", "patch").await;
    assert_eq!(details["limit"], 20_000);
    change(&hub, "patch", "keys", json!({"patch": keys(15_000, 20_000)})).await;
    set(&hub, "bytes", json!({"a": "x".repeat(300_000)})).await;
    hub.refused("config.patch.bytes", json!({"patch": {"b": "x".repeat(120_000)}}), "too_large", "config").await;
}

#[tokio::test]
async fn a_rollback_walks_back_not_to_and_fro() {
    let hub = Hub::fresh().await;
    hub.refused("config.rollback.a", "", "not_found", None).await;
    for n in 1..=3 {
        set(&hub, "a", json!({ "n": n })).await;
    }
    assert_eq!(back(&hub, "a", json!({})).await, (Some(2), 4, true));
    assert_eq!(config(&hub, "a").await, json!({"n": 2}));
    assert_eq!(back(&hub, "a", json!({})).await, (Some(1), 5, true));
    hub.refused("config.rollback.a", "", "not_found", None).await;
    assert_eq!(config(&hub, "a").await, json!({"n": 1}), "a first set has nothing before it");

    // A change after it is what a rollback takes back next; numbers go on.
    assert_eq!(set(&hub, "a", json!({"n": 4})).await, (Some(4), 6, true));
    assert_eq!(back(&hub, "a", json!({})).await, (Some(1), 7, true));

    // To a version: a change like any other.
    assert_eq!(back(&hub, "a", json!({"to_version": 3})).await, (Some(3), 8, true));
    assert_eq!(back(&hub, "a", json!({"to_version": 2})).await, (Some(2), 9, true));
    assert_eq!(back(&hub, "a", json!({"to_version": 2})).await, (Some(2), 9, false), "that is in force");
    assert_eq!(back(&hub, "a", json!({})).await, (Some(3), 10, true));
    assert_eq!(back(&hub, "a", json!({})).await, (Some(1), 11, true));
    hub.refused("config.rollback.a", "", "not_found", None).await;
    for nothing in [json!(5), json!(i64::MAX)] {
        hub.refused("config.rollback.a", json!({"to_version": nothing}), "not_found", "to_version").await;
    }
    hub.refused("config.rollback.b", json!({"to_version": 1}), "not_found", "to_version").await;

    let expected: Vec<(i64, Option<i64>, String)> = [1, 3, 2, 3, 1, 4, 1, 2, 3, 2, 1]
        .into_iter()
        .zip((1..=11).rev())
        .map(|(version, revision)| {
            let published = [1, 2, 3, 6].contains(&revision);
            (revision, Some(version), if published { "published" } else { "rolled_back" }.to_owned())
        })
        .collect();
    assert_eq!(activations(&hub, "a").await, expected);
    // Watchers order by revision, and see an older version under a newer one.
    let kept = hub.value_once("config", "a", |kept| kept["revision"] == 11).await;
    assert_eq!((&kept["version"], &kept["config"]), (&json!(1), &json!({"n": 1})));
    let old = hub.ask("config.get.a", json!({"version": 3})).await;
    assert_eq!((&old["revision"], &old["active"]), (&json!(10), &json!(false)), "of its latest activation");
    let kinds: Vec<_> = hub.events("config.a.*", 11).await.iter().map(|event| event.body["kind"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "rolled_back").count(), 7);
    let none = hub.ask("config.list", "").await["configs"].as_array().unwrap().len();
    assert_eq!(none, 1, "what was refused left no trace of the other service");
}

#[tokio::test]
async fn a_deleted_config_is_a_tombstone_and_comes_back() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    hub.refused("config.delete.a", "", "not_found", None).await;
    let absent = hub.ask("heartbeat.a", "").await;
    assert_eq!(absent["config"], Value::Null, "there never was one");
    set(&hub, "a", json!({"n": 1})).await;
    set(&hub, "a", json!({"n": 2})).await;

    let deleted = hub.ask("config.delete.a", json!({"created_by": "ann", "comment": "retired"})).await;
    let epoch = deleted["epoch"].clone();
    assert_eq!((&deleted["version"], &deleted["revision"]), (&Value::Null, &json!(3)));
    assert_eq!((&deleted["changed"], &deleted["published"]), (&json!(true), &json!(true)));
    let kept = hub.value_once("config", "a", |kept| kept["revision"] == 3).await;
    assert_eq!((&kept["config"], &kept["version"], &kept["checksum"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((&kept["epoch"], &kept["created_by"]), (&epoch, &json!("ann")));
    for body in [json!({}), json!({"min_revision": 3})] {
        hub.refused("config.get.a", body, "not_found", None).await;
    }
    let tombstone = json!({"version": null, "revision": 3, "epoch": epoch});
    assert_eq!(hub.ask("heartbeat.a", "").await["config"], tombstone);
    assert_eq!(hub.ask("register.a", json!({"instance_id": "i"})).await["config"], tombstone);
    assert_eq!(hub.ask("config.status.a", "").await["version"], Value::Null);
    let listed = &hub.ask("config.list", "").await["configs"][0];
    assert_eq!((&listed["version"], &listed["revision"]), (&Value::Null, &json!(3)));
    let history = hub.ask("config.history.a", "").await;
    let newest = &history["activations"][0];
    assert_eq!((&newest["action"], &newest["version"]), (&json!("deleted"), &Value::Null));
    assert_eq!((&newest["by"], &newest["comment"]), (&json!("ann"), &json!("retired")));
    assert!(history["versions"].as_array().unwrap().iter().all(|version| version["active"] == false));
    // Versions stay.
    let old = hub.ask("config.get.a", json!({"version": 2})).await;
    assert_eq!((&old["config"], &old["active"]), (&json!({"n": 2}), &json!(false)));
    hub.refused("config.diff.a", json!({"from": 1}), "not_found", None).await;
    assert_eq!(hub.ask("config.diff.a", json!({"from": 1, "to": 2})).await["patch"].as_array().unwrap().len(), 1);

    assert_eq!(change(&hub, "delete", "a", json!({})).await, (None, 3, false), "it is deleted already");
    assert_eq!(back(&hub, "a", json!({})).await, (Some(2), 4, true));
    assert_eq!(config(&hub, "a").await, json!({"n": 2}));
    assert_eq!(change(&hub, "delete", "a", json!({"expected_version": 2})).await, (None, 5, true));
    // Zero: there must be none in force.
    let again = json!({"config": {"n": 2}, "expected_version": 0, "expected_revision": 5});
    assert_eq!(change(&hub, "set", "a", again).await, (Some(3), 6, true), "numbers go on, whatever the content");
    assert_eq!(back(&hub, "a", json!({})).await, (None, 7, true), "what was before the set was a tombstone");
    assert_eq!(back(&hub, "a", json!({})).await, (Some(2), 8, true));
    assert_eq!(back(&hub, "a", json!({})).await, (Some(1), 9, true));
    let kinds: Vec<_> =
        hub.events("config.a.deleted", 2).await.iter().map(|event| event.body["details"].clone()).collect();
    assert_eq!((&kinds[0]["comment"], &kinds[0]["replaces"]), (&json!("retired"), &json!(2)));
}

#[tokio::test]
async fn a_diff_makes_one_version_of_the_other() {
    let hub = Hub::fresh().await;
    let versions = [
        json!({}),
        json!({"a/b": {"c~d": [1, 2, 3], "": {"": null}}, "é": "x", "kept": [{"deep": [[]]}]}),
        json!({"a/b": {"c~d": [1, 3, {"n": 0.5}], "": {"": false}}, "kept": [{"deep": [[1e300]]}, 5]}),
        json!({"a/b": [], "big": 18446744073709551615u64, "kept": {"deep": 1}}),
        json!({"n": 1}),
        json!({"n": 1.0}),
    ];
    for version in &versions {
        set(&hub, "a", version.clone()).await;
    }
    for (from, before) in (1..).zip(&versions) {
        for (to, after) in (1..).zip(&versions) {
            let diff = hub.ask("config.diff.a", json!({"from": from, "to": to})).await;
            assert_eq!((&diff["from"], &diff["to"]), (&json!(from), &json!(to)));
            let patch: json_patch::Patch = serde_json::from_value(diff["patch"].clone()).unwrap();
            let mut made = before.clone();
            json_patch::patch(&mut made, &patch).unwrap();
            assert_eq!(made, *after, "{diff}");
            assert_eq!(patch.0.is_empty(), from == to, "{diff}");
        }
    }
    let newest = hub.ask("config.diff.a", json!({"from": 2})).await;
    assert_eq!((&newest["from"], &newest["to"]), (&json!(2), &json!(6)), "the active one");
    hub.refused("config.diff.a", json!({"from": 7}), "not_found", "from").await;
    hub.refused("config.diff.a", json!({"from": 1, "to": 7}), "not_found", "to").await;
    hub.refused("config.diff.b", json!({"from": 1}), "not_found", None).await;
    hub.refused("config.diff.b", json!({"from": 1, "to": 1}), "not_found", "from").await;
}

/// Calls that would each change the config of `service`, which is at version 2 after 1.
fn changes(service: &str) -> [(String, Value); 5] {
    [
        ("set", json!({"config": {"n": 9}})),
        ("patch", json!({"patch": {"n": 9}})),
        ("rollback", json!({})),
        ("rollback", json!({"to_version": 1})),
        ("delete", json!({})),
    ]
    .map(|(call, body)| (format!("config.{call}.{service}"), body))
}

fn with(body: &Value, more: Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn every_change_may_be_conditional_and_dry() {
    let hub = Hub::fresh().await;
    set(&hub, "a", json!({"n": 1})).await;
    set(&hub, "a", json!({"n": 2})).await;
    let before = (traces(&hub).await, hub.ask("config.history.a", "").await, hub.ask("config.get.a", "").await);
    for (call, body) in changes("a") {
        for wrong in [
            json!({"expected_version": 1}),
            json!({"expected_version": 0}),
            json!({"expected_revision": 1}),
            json!({"expected_version": 2, "expected_revision": 3}),
        ] {
            let field = if wrong["expected_revision"].is_null() { "expected_version" } else { "expected_revision" };
            for dry in [false, true] {
                let body = with(&with(&body, wrong.clone()), json!({"dry_run": dry}));
                let details = hub.refused(&call, body, "version_conflict", field).await;
                assert_eq!((&details["active_version"], &details["revision"]), (&json!(2), &json!(2)), "{call}");
            }
        }
        let dry = json!({"dry_run": true, "request_id": "dry", "expected_version": 2, "expected_revision": 2});
        let told = hub.ask(&call, with(&body, dry)).await;
        let version = match call.split('.').nth(1) {
            Some("delete") => Value::Null,
            Some("rollback") => json!(1),
            _ => json!(3),
        };
        assert_eq!((&told["version"], &told["revision"]), (&version, &json!(3)), "{call}");
        assert_eq!((&told["changed"], &told["published"]), (&json!(true), &json!(false)), "{call}");
    }
    for (call, body) in changes("never") {
        if !call.contains(".set.") {
            let field = body.get("to_version").map(|_| "to_version");
            hub.refused(&call, with(&body, json!({"dry_run": true})), "not_found", field).await;
        }
    }
    assert_eq!((traces(&hub).await, hub.ask("config.history.a", "").await, hub.ask("config.get.a", "").await), before);

    // What was told comes true; and of many that expect the same, one.
    let (call, body) = &changes("a")[1];
    let fits = with(body, json!({"expected_version": 2, "expected_revision": 2}));
    let race = futures_util::future::join_all((0..8).map(|_| hub.send(call, fits.to_string()))).await;
    let done: Vec<Value> = race.iter().filter_map(|answer| answer.result().ok()).collect();
    assert_eq!(done.len(), 1, "{race:?}");
    assert_eq!((&done[0]["version"], &done[0]["revision"]), (&json!(3), &json!(3)));
}

#[tokio::test]
async fn who_and_why_are_kept() {
    let hub = Hub::fresh().await;
    let said = |n: i64| json!({"created_by": format!("by-{n}"), "comment": format!("since {n} – “wörk”")});
    hub.ask("config.set.a", with(&json!({"config": {"n": 1}}), said(1))).await;
    hub.ask("config.patch.a", with(&json!({"patch": {"n": 2}}), said(2))).await;
    hub.ask("config.rollback.a", said(3)).await;
    hub.ask("config.delete.a", said(4)).await;
    hub.ask("config.rollback.a", "").await;
    hub.ask("config.rollback.a", json!({"to_version": 2})).await;

    let history = hub.ask("config.history.a", "").await;
    let told: Vec<_> = history["activations"].as_array().unwrap().iter().rev().collect();
    for (n, activation) in (1..=4).zip(&told) {
        assert_eq!((&activation["by"], &activation["comment"]), (&said(n)["created_by"], &said(n)["comment"]));
    }
    assert_eq!((&told[4]["by"], &told[4]["comment"]), (&json!("unknown"), &Value::Null));
    // The content's author stays who wrote it, whoever activates it.
    let config = hub.ask("config.get.a", "").await;
    assert_eq!((&config["version"], &config["revision"]), (&json!(2), &json!(6)));
    assert_eq!((&config["created_by"], &config["comment"]), (&json!("by-2"), &said(2)["comment"]));
    let kept = hub.value_once("config", "a", |kept| kept["revision"] == 6).await;
    assert_eq!(kept["created_by"], "by-2");
    let versions = history["versions"].as_array().unwrap();
    assert_eq!((&versions[0]["created_by"], &versions[1]["created_by"]), (&json!("by-2"), &json!("by-1")));
    let events = hub.events("config.a.*", 6).await;
    let by: Vec<_> = events.iter().map(|event| event.body["details"]["by"].as_str().unwrap()).collect();
    assert_eq!(by, ["by-1", "by-2", "by-3", "by-4", "unknown", "unknown"]);
    assert_eq!(events[1].body["details"]["comment"], said(2)["comment"]);
    // Anybody can write this header; unless the hub is told to believe it, it is nobody's word.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Request-Info", r#"{"acc":"FLEET","user":"mallory"}"#);
    let forged = json!({"config": {"n": 3}}).to_string().into();
    hub.nats.request_with_headers(hub.subject("config.set.a"), headers, forged).await.unwrap();
    let rows = hub.database().await.query("SELECT authenticated_as FROM config_activations", &[]).await.unwrap();
    assert!(rows.len() == 7 && rows.iter().all(|row| row.get::<_, Option<String>>(0).is_none()));
}
