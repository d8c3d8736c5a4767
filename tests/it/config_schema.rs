//! What a config must look like: the service's schema, and what live instances declared that they can read.

use serde_json::{Map, Value, json};

use crate::ask::{Asker, Hub};
use crate::bad_input::unharmed;

fn object(config: Value) -> Value {
    json!({ "config": config })
}

/// The violations of a refusal, as `(path, message)`.
fn violations(details: &Value) -> Vec<(String, String)> {
    let text = |violation: &Value, field: &str| violation[field].as_str().unwrap().to_owned();
    let all = details["violations"].as_array().unwrap().iter();
    all.map(|violation| (text(violation, "path"), text(violation, "message"))).collect()
}

fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": { "symbol": { "type": "string", "pattern": "^[A-Z]{3,6}$" } },
        "type": "object",
        "required": ["operational"],
        "properties": {
            "operational": {
                "type": "object",
                "required": ["interval"],
                "additionalProperties": false,
                "properties": {
                    "interval": { "type": "integer", "minimum": 1 },
                    "symbols": { "type": "array", "uniqueItems": true, "items": { "$ref": "#/$defs/symbol" } },
                    "mode": { "enum": ["live", "paper"] },
                },
            },
        },
    })
}

#[tokio::test]
async fn set_patch_and_rollback_satisfy_the_schema_or_say_where_not() {
    let mut hub = Hub::fresh().await;
    assert_eq!(hub.ask("config.schema.get.a", "").await["schema"], Value::Null);
    let before_it = json!({"operational": {"interval": "often"}});
    hub.ask("config.set.a", object(before_it.clone())).await;
    let given = hub.ask("config.schema.set.a", json!({ "schema": schema() })).await;
    assert_eq!((&given["service_name"], &given["schema"]), (&json!("a"), &schema()));
    let warning = given["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("version 1") && !warning.contains("often"), "{warning}");
    assert_eq!(hub.ask("config.schema.get.a", "").await["schema"], schema());
    assert_eq!(hub.ask("config.get.a", "").await["config"], before_it, "what is in force stays in force");

    let good = json!({"operational": {"interval": 5, "symbols": ["EURUSD"], "mode": "live"}});
    hub.ask("config.set.a", object(good.clone())).await;
    let hush = "hush-hush";
    let broken =
        json!({"operational": {"interval": 0, "symbols": ["EURUSD", hush, "EURUSD"], "mode": hush, "x~/y": hush}});
    for dry in [false, true] {
        let body = json!({"config": broken, "dry_run": dry});
        let answer = hub.send("config.set.a", body.to_string()).await;
        assert!(!String::from_utf8_lossy(&answer.body).contains(hush), "{answer:?}");
        let details = hub.refused("config.set.a", body, "schema_violation", "config").await;
        let found = violations(&details);
        for path in ["", "/interval", "/symbols", "/symbols/1", "/mode"].map(|path| format!("/operational{path}")) {
            assert!(found.iter().any(|(at, message)| *at == path && !message.is_empty()), "{path}: {found:?}");
        }
    }
    let validation = hub.ask("config.validate.a", object(broken)).await;
    assert_eq!(validation["valid"], false);
    assert!(validation["violations"].as_array().unwrap().len() >= 5 && !validation.to_string().contains(hush));
    let fine = json!({"valid": true, "violations": [], "secrets": [], "incompatible_instances": []});
    assert_eq!(hub.ask("config.validate.a", object(good.clone())).await, fine);

    let patch = json!({"patch": {"operational": {"interval": null}}});
    let details = hub.refused("config.patch.a", patch, "schema_violation", "config").await;
    assert_eq!(violations(&details)[0].0, "/operational");
    for back in [json!({}), json!({"to_version": 1}), json!({"force": true})] {
        hub.refused("config.rollback.a", back, "schema_violation", "config").await;
    }
    assert_eq!(hub.ask("config.get.a", "").await["version"], 2, "nothing came of any of it");
    // A delete needs no schema; nor does a service whose schema was taken away.
    hub.ask("config.delete.a", "").await;
    assert_eq!(hub.ask("config.schema.set.a", json!({"schema": null})).await["schema"], Value::Null);
    assert_eq!(hub.ask("config.rollback.a", json!({"to_version": 1})).await["version"], 1);
    assert_eq!(hub.ask("config.schema.set.a", json!({"schema": true})).await["schema"], true);
    hub.refused("config.set.b", object(json!([])), "bad_request", "config").await;
    unharmed(&mut hub).await;
}

#[tokio::test]
async fn what_is_no_schema_is_refused_and_what_is_hostile_costs_nothing() {
    let mut hub = Hub::fresh().await;
    hub.ask("config.schema.set.a", json!({"schema": {"maxProperties": 3}})).await;
    let secret = "s3cr3t-default";
    for bad in [
        json!(5),
        json!("x"),
        json!([]),
        json!({"type": "no-such-type"}),
        json!({"properties": {"a": {"minimum": "1"}}}),
        json!({"properties": []}),
        json!({"pattern": "("}),
        json!({"pattern": "(?=a)b"}),
        json!({"pattern": "(?<!a)b"}),
        json!({"patternProperties": {"(a)\\1": true}}),
        json!({"pattern": "(a{1000}){1000}"}),
        json!({"$ref": "https://json-schema.org/draft/2020-12/schema"}),
        json!({"$ref": "https://127.0.0.1/other.json"}),
        json!({"$ref": "file:///etc/passwd"}),
        json!({"$ref": "other.json#/a"}),
        json!({"properties": {"a": {"anyOf": [{"$ref": "urn:x:y"}]}}}),
        json!({"$ref": "#/$defs/missing"}),
        json!({"default": secret, "$ref": "#missing"}),
    ] {
        let answer = hub.send("config.schema.set.a", json!({ "schema": bad }).to_string()).await;
        assert!(!String::from_utf8_lossy(&answer.body).contains(secret), "{answer:?}");
        hub.refused("config.schema.set.a", json!({ "schema": bad }), "bad_request", "schema").await;
        if !bad.is_null() {
            hub.refused("register.a", json!({ "config_schema": bad }), "bad_request", "config_schema").await;
        }
    }
    let long = json!({"description": "d".repeat(64 * 1024)});
    assert_eq!(
        hub.refused("config.schema.set.a", json!({"schema": long}), "too_large", "schema").await["limit"],
        65_536
    );
    hub.refused("register.a", json!({"config_schema": long}), "too_large", "config_schema").await;
    let deep = (0..64).fold(json!({}), |inner, _| json!({ "not": inner }));
    hub.refused("config.schema.set.a", json!({ "schema": deep }), "bad_request", "schema").await;
    let kept = hub.ask("config.schema.get.a", "").await;
    assert_eq!(kept["schema"], json!({"maxProperties": 3}), "none of it was taken");

    // Taken, and cheap: each of these is answered well within a request's patience.
    let evil = json!({"properties": {"a": {"pattern": "^(a+)+$"}, "b": {"pattern": "^(a|aa)*(b?b?)*$"}}});
    hub.ask("config.schema.set.a", json!({ "schema": evil })).await;
    let matched = "a".repeat(100_000);
    hub.ask("config.set.a", object(json!({ "a": matched }))).await;
    for key in ["a", "b"] {
        let config = json!({key: format!("{matched}!")});
        let details = hub.refused("config.set.a", object(config), "schema_violation", "config").await;
        assert_eq!(violations(&details)[0].0, format!("/{key}"));
    }
    // References in a circle, and references that double with each step: by themselves, or with the config's depth.
    hub.ask("config.schema.set.a", json!({"schema": {"allOf": [{"$ref": "#"}, {"$ref": "#/allOf/0"}]}})).await;
    hub.ask("config.set.a", object(json!({"n": 1}))).await;
    let twice = |at: &str| json!([{ "$ref": at }, { "$ref": at }]);
    let doubling: Map<String, Value> =
        (0..60).map(|n| (format!("d{n}"), json!({"allOf": twice(&format!("#/$defs/d{}", n + 1))}))).collect();
    let mut doubling = json!({"$defs": doubling, "$ref": "#/$defs/d0"});
    doubling["$defs"]["d60"] = json!({});
    hub.refused("config.schema.set.a", json!({ "schema": doubling }), "bad_request", "schema").await;
    let deep = (0..62).fold(json!(5), |inner, _| json!({ "a": inner }));
    for keyword in ["allOf", "anyOf", "oneOf"] {
        let doubling = json!({"type": "object", "properties": {"a": {(keyword): twice("#")}}});
        hub.ask("config.schema.set.a", json!({ "schema": doubling })).await;
        let details = hub.refused("config.set.a", object(deep.clone()), "schema_violation", "config").await;
        assert!(violations(&details)[0].1.contains("steps"), "{details}");
        assert_eq!(hub.ask("config.validate.a", object(deep.clone())).await["valid"], false);
    }
    // A tree may be described by itself.
    let tree = json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}}});
    hub.ask("config.schema.set.a", json!({ "schema": tree })).await;
    let leaf = |n: Value| json!({ "n": n });
    let full = (0..11).fold(leaf(json!(0)), |inner, _| json!({"left": inner, "right": inner}));
    hub.ask("config.set.a", object(full)).await;
    hub.refused("config.set.a", object(json!({"left": leaf(json!("1"))})), "schema_violation", "config").await;
    unharmed(&mut hub).await;
}

/// The alert about forced configs of `a`: how many there are, and whether it is up.
async fn alerts(hub: &Asker) -> Vec<(Value, bool)> {
    let sql = "SELECT details, resolved_at IS NULL FROM hub_alerts WHERE source = 'config' AND name = 'a' ORDER BY id";
    let rows = hub.database().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_config_that_a_live_instance_cannot_read_needs_force() {
    let mut hub = Hub::fresh().await;
    let reads = |max: i64| json!({"properties": {"n": {"maximum": max}}});
    for (instance, max) in [("old", 1), ("new", 2), ("newest", 3)] {
        hub.ask("register.a", json!({"instance_id": instance, "config_schema": reads(max)})).await;
    }
    hub.ask("register.a", json!({"instance_id": "any"})).await;
    hub.ask("register.b", json!({"instance_id": "other", "config_schema": false})).await;
    let n = |n: i64| json!({"config": {"n": n}});
    hub.ask("config.set.a", n(1)).await;
    for (call, body) in [
        ("config.set.a", n(3)),
        ("config.set.a", json!({"config": {"n": 3}, "dry_run": true})),
        ("config.patch.a", json!({"patch": {"n": 3}})),
    ] {
        let details = hub.refused(call, body, "incompatible", "config").await;
        assert_eq!(details["instances"], json!(["new", "old"]));
    }
    let validation = hub.ask("config.validate.a", n(3)).await;
    assert_eq!((&validation["valid"], &validation["incompatible_instances"]), (&json!(false), &json!(["new", "old"])));

    let dry = hub.ask("config.set.a", json!({"config": {"n": 3}, "force": true, "dry_run": true})).await;
    let forced = hub.ask("config.set.a", json!({"config": {"n": 3}, "force": true, "created_by": "ann"})).await;
    for answer in [&dry, &forced] {
        assert_eq!((&answer["version"], &answer["changed"]), (&json!(2), &json!(true)));
        assert!(answer["warnings"][0].as_str().is_some_and(|text| text.contains('2')), "{answer}");
    }
    let history = hub.ask("config.history.a", "").await;
    assert_eq!((&history["activations"][0]["forced"], history["activations"][1].get("forced")), (&json!(true), None));
    let events = hub.events("config.a.published", 2).await;
    assert_eq!(events[1].body["details"]["forced_upon"], json!(["new", "old"]));
    assert_eq!(events[0].body["details"].get("forced_upon"), None);
    assert_eq!(alerts(&hub).await, [(json!({"instances": ["new", "old"], "revision": 2}), true)]);

    // Back to what all can read ends it, and needs no force; a needless force isn't recorded.
    hub.ask("config.rollback.a", json!({"force": true})).await;
    assert!(alerts(&hub).await.iter().all(|(_, up)| !up));
    assert_eq!(hub.ask("config.history.a", "").await["activations"][0].get("forced"), None);
    // A rollback is held against the gate like any other.
    hub.refused("config.rollback.a", json!({"to_version": 2}), "incompatible", "config").await;
    hub.ask("config.rollback.a", json!({"to_version": 2, "force": true})).await;
    assert_eq!(alerts(&hub).await.iter().map(|(_, up)| *up).collect::<Vec<_>>(), [false, true]);
    hub.ask("config.delete.a", "").await;
    assert!(alerts(&hub).await.iter().all(|(_, up)| !up));
    let alerts = hub.sent("alerts.warning.config.a", 4).await;
    let kinds: Vec<_> = alerts.iter().map(|event| event.body["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["raised", "resolved", "raised", "resolved"]);
    assert!(alerts[0].body["details"]["message"].as_str().unwrap().contains("ann"));

    // Who can't read what is in force is told so when it registers.
    hub.ask("config.set.a", json!({"config": {"n": 3}, "force": true})).await;
    let told = hub.ask("register.a", json!({"instance_id": "old", "config_schema": reads(1)})).await;
    assert!(told["warnings"][0].as_str().unwrap().contains("version 3"), "{told}");
    let told = hub.ask("register.a", json!({"instance_id": "newest", "config_schema": reads(9)})).await;
    assert_eq!(told["warnings"], json!([]));

    // Only the living have a say, and only by what they registered last.
    hub.ask("register.a", json!({"instance_id": "new", "config_schema": reads(9)})).await;
    hub.ask("heartbeat.a", json!({"instance_id": "old", "status": "down"})).await;
    assert_eq!(hub.ask("config.set.a", n(4)).await["warnings"], json!([]));
    hub.ask("heartbeat.a", json!({"instance_id": "old"})).await;
    let details = hub.refused("config.set.a", n(2), "incompatible", "config").await;
    assert_eq!(details["instances"], json!(["old"]));
    hub.ask("deregister.a", json!({"instance_id": "old"})).await;
    hub.ask("config.set.a", n(2)).await;
    unharmed(&mut hub).await;
}

/// A set that waits for a schema to be given is held against it.
#[tokio::test]
async fn a_schema_and_a_config_cannot_pass_each_other_by() {
    let hub = Hub::fresh().await;
    for round in 0..15 {
        let service = format!("s{round}");
        let (schema, config) =
            (json!({"schema": {"required": ["there"]}}).to_string(), json!({"config": {"n": round}}).to_string());
        let (set_schema, set_config) = (format!("config.schema.set.{service}"), format!("config.set.{service}"));
        let (given, set) = tokio::join!(hub.send(&set_schema, schema), hub.send(&set_config, config));
        let given = given.result().unwrap();
        match set.result() {
            Ok(_) => assert_eq!(given["warnings"].as_array().unwrap().len(), 1, "it was there, so it was looked at"),
            Err(refusal) => assert_eq!(refusal.code, "schema_violation"),
        }
    }
    // Given twice under one id, it is given once.
    let body = json!({"schema": {"required": ["x"]}, "request_id": "r"});
    let first = hub.ask("config.schema.set.a", &body).await;
    hub.ask("config.schema.set.a", json!({"schema": null})).await;
    assert_eq!(hub.ask("config.schema.set.a", &body).await, first);
    assert_eq!(hub.ask("config.schema.get.a", "").await["schema"], Value::Null);
    let other = json!({"schema": true, "request_id": "r"});
    hub.refused("config.schema.set.a", other, "bad_request", "request_id").await;
    let rows = hub.database().await.query("SELECT FROM config_heads WHERE service_name = 'a'", &[]).await.unwrap();
    assert!(rows.is_empty(), "a schema makes no config");
}
