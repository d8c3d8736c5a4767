//! Who stays down is removed, unless it isn't silent or the settings say otherwise; and an operator's word outlasts all of it.

use std::time::Duration;

use central_hub::client::HubClient;
use central_hub::domain::name::ServiceName;
use central_hub::domain::status::Status;
use central_hub::wire::config::ConfigSet;
use central_hub::wire::registry::{Heartbeat, Register, ServicesDrain};
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;

use crate::ask::Asker;
use crate::stack::{HubOptions, eventually};
use crate::witness::{SOON, Truth, replicas};

/// A hub that removes the dead after two seconds, or never.
async fn hub_with(removes: bool) -> (Asker, HubClient, Truth, Vec<crate::stack::HubProcess>) {
    let options = HubOptions::fresh().await;
    let hubs = replicas(&options, 1).await;
    let asker = Asker::of(&options).await;
    let hub = HubClient::new(asker.nats.clone()).with_prefix(options.prefix.clone());
    let settings = json!({"operational": {"service_discovery":
        {"deregister_after_seconds": 2, "auto_deregister_dead_services": removes}}});
    hub.call(&ConfigSet::new(ServiceName::hub(), settings.as_object().unwrap().clone())).await.unwrap();
    eventually(SOON, || async { hubs[0].log().contains("the hub's own settings are in force") }).await;
    (asker, hub, Truth::of(&options), hubs)
}

async fn register(hub: &HubClient, service: &str) {
    let (instance_id, heartbeat_interval_seconds) = (Some("only".parse().unwrap()), Some(0.1));
    let register = Register::new(service.parse().unwrap());
    hub.call(&Register { instance_id, heartbeat_interval_seconds, ..register }).await.unwrap();
}

async fn says(hub: &HubClient, service: &str, status: Status) -> Result<Status, String> {
    let heartbeat = Heartbeat { status: Some(status), ..Heartbeat::new(service.parse().unwrap()) };
    hub.call(&heartbeat).await.map(|heard| heard.status).map_err(|error| error.to_string())
}

async fn record(truth: &Truth, service: &str) -> Option<(String, bool)> {
    let params: &[&(dyn ToSql + Sync)] = &[&service];
    let rows =
        truth.rows("SELECT status, draining FROM service_registry WHERE service_name = $1", params).await.unwrap();
    rows.first().map(|row| (row.get(0), row.get(1)))
}

#[tokio::test]
async fn the_dead_are_removed_and_those_who_say_so_themselves_are_not() {
    let (asker, hub, truth, _hubs) = hub_with(true).await;
    register(&hub, "dead").await;
    register(&hub, "ill").await;
    let beats = async {
        loop {
            says(&hub, "ill", Status::Down).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let removed = async {
        let event = asker.events("service.dead.deregistered", 1).await.remove(0).body;
        assert_eq!((&event["details"]["reason"], &event["details"]["from"]), (&json!("silent"), &json!("down")));
        asker.value_gone("services", "dead.only").await;
        assert_eq!(record(&truth, "dead").await, None);
        // Down for longer than it took the other to be removed.
        let sql = "SELECT clock_timestamp() - status_since > interval '4 seconds' FROM service_registry
                   WHERE service_name = 'ill'";
        eventually(SOON, || async { truth.one::<bool>(sql, &[]).await }).await;
        assert_eq!(record(&truth, "ill").await, Some(("down".to_owned(), false)));
    };
    tokio::select! {
        () = beats => {}
        () = removed => {}
    }
    let refusal = says(&hub, "dead", Status::Healthy).await.unwrap_err();
    assert!(refusal.contains("not_registered"), "a heartbeat brings nobody back: {refusal}");
    // It falls silent as well.
    asker.value_gone("services", "ill.only").await;
}

#[tokio::test]
async fn nobody_is_removed_where_the_settings_say_so() {
    let (asker, hub, truth, _hubs) = hub_with(false).await;
    register(&hub, "dead").await;
    asker.value_once("services", "dead.only", |value| value["status"] == "down").await;
    let sql = "SELECT clock_timestamp() - status_since > interval '5 seconds' FROM service_registry
               WHERE service_name = 'dead'";
    eventually(SOON, || async { truth.one::<bool>(sql, &[]).await }).await;
    assert_eq!(record(&truth, "dead").await, Some(("down".to_owned(), false)));
    assert_eq!(says(&hub, "dead", Status::Healthy).await, Ok(Status::Healthy), "it may come back at any time");
}

#[tokio::test]
async fn draining_outlasts_silence_heartbeats_and_restarts() {
    let (asker, hub, _truth, _hubs) = hub_with(false).await;
    let service_name: ServiceName = "worn".parse().unwrap();
    let is = async |status: &str, draining: bool| {
        let fine = |value: &Value| value["status"] == status && value["draining"] == draining;
        asker.value_once("services", "worn.only", fine).await;
    };
    register(&hub, "worn").await;
    let drain = ServicesDrain { service_name, instance_id: None, draining: true, reason: None };
    hub.call(&drain).await.unwrap();
    is("down", true).await;
    says(&hub, "worn", Status::Healthy).await.unwrap();
    is("healthy", true).await;
    is("down", true).await;
    register(&hub, "worn").await;
    is("healthy", true).await;
    hub.call(&ServicesDrain { draining: false, ..drain }).await.unwrap();
    says(&hub, "worn", Status::Healthy).await.unwrap();
    is("healthy", false).await;
}
