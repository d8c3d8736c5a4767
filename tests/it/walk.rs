//! The first walk through the hub, as its documentation describes it: everything by hand, with raw subjects and bodies.

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::ask::{Hub, SOON};
use crate::stack::HubOptions;

#[tokio::test]
async fn a_service_registers_beats_is_found_and_is_configured() {
    let hub = Hub::fresh().await;

    let registered = hub.ask("register", r#"{"service_name":"tick-aggregator","host":"10.0.0.5","port":8002}"#).await;
    assert_eq!(registered["service_name"], "tick-aggregator");
    assert_eq!(registered["instance_id"], "10_0_0_5-8002");
    assert_eq!(registered["status"], "healthy");
    assert_eq!(registered["heartbeat_interval_seconds"], 30.0);
    assert_eq!(registered["service_timeout_seconds"], 90.0);
    assert_eq!(registered["config"], Value::Null);
    assert_eq!((&registered["dependencies"], &registered["warnings"]), (&json!([]), &json!([])));

    let heard = hub.ask("heartbeat.tick-aggregator", "").await;
    assert_eq!(
        heard,
        json!({
            "service_name": "tick-aggregator", "instance_id": "10_0_0_5-8002", "status": "healthy", "config": null,
            "heartbeat_interval_seconds": 30.0,
        })
    );

    let service = hub.ask("services.get.tick-aggregator", "").await;
    assert_eq!(
        (&service["status"], &service["host"], &service["port"]),
        (&json!("healthy"), &json!("10.0.0.5"), &json!(8002))
    );
    assert_eq!(service["instances"][0]["incarnation"], registered["incarnation"]);

    let mut watch = hub.bucket("config").await.watch("tick-aggregator").await.unwrap();
    let set = hub.ask("config.set.tick-aggregator", r#"{"config":{"operational":{"interval":5}}}"#).await;
    assert_eq!((&set["version"], &set["changed"], &set["published"]), (&json!(1), &json!(true), &json!(true)));
    let config = hub.ask("config.get.tick-aggregator", "").await;
    assert_eq!(config["config"], json!({"operational": {"interval": 5}}));
    assert_eq!(
        (&config["version"], &config["active"], &config["created_by"]),
        (&json!(1), &json!(true), &json!("unknown"))
    );

    hub.ask("config.set.tick-aggregator", r#"{"config":{"operational":{"interval":10}},"created_by":"admin"}"#).await;
    for (version, interval, author) in [(1, 5, "unknown"), (2, 10, "admin")] {
        let entry = tokio::time::timeout(SOON, watch.next()).await.expect("a push").unwrap().unwrap();
        let value: Value = serde_json::from_slice(&entry.value).unwrap();
        assert_eq!((&value["version"], &value["revision"]), (&json!(version), &json!(version)));
        assert_eq!(value["config"], json!({"operational": {"interval": interval}}));
        assert_eq!(value["created_by"], author);
        assert_eq!(value["epoch"], set["epoch"]);
    }
    let heard = hub.ask("heartbeat.tick-aggregator", "").await;
    assert_eq!(heard["config"], json!({"version": 2, "revision": 2, "epoch": set["epoch"]}));
}

/// Several fleets share one NATS by prefixes of their own; one of subjects may have several tokens.
#[tokio::test]
async fn a_fleet_may_have_a_prefix_of_several_tokens() {
    let mut options = HubOptions::fresh().await;
    let bucket_prefix = options.prefix.clone();
    options.prefix = format!("fleets.{bucket_prefix}.north");
    let hub = Hub::start(options.env("CENTRAL_HUB_BUCKET_PREFIX", &bucket_prefix)).await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    assert_eq!(hub.ask("config.set.a", json!({"config": {"n": 1}})).await["published"], true);
    let jetstream = async_nats::jetstream::new(hub.nats.clone());
    let bucket = jetstream.get_key_value(format!("{bucket_prefix}_config")).await.unwrap();
    assert!(bucket.get("a").await.unwrap().is_some());
    assert_eq!(hub.events("config.a.published", 1).await[0].subject, "events.config.a.published");
}
