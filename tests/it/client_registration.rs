//! A process of the Rust client in the registry: it stays there whatever happens, and leaves when it says so.

use std::collections::BTreeSet;
use std::time::Duration;

use central_hub::client::{CallError, ClientOptions, HubClient};
use central_hub::domain::status::Status;
use central_hub::wire::ErrorCode;
use central_hub::wire::health::Health;
use central_hub::wire::registry::Register;
use serde_json::{Value, json};

use crate::ask::{Asker, Hub};
use crate::service::{SERVICE, client};
use crate::stack::{HubOptions, HubProcess, database, eventually, private_nats};
use crate::witness::{SOON, Truth};

fn request(interval: f64) -> Register {
    Register { heartbeat_interval_seconds: Some(interval), ..Register::new(SERVICE.parse().unwrap()) }
}

/// The service's instances.
async fn instances(asker: &Asker) -> Vec<Value> {
    let page = asker.ask("services.list", json!({"service_name": SERVICE})).await;
    page["services"].as_array().unwrap().clone()
}

/// The only instance, once it is as it should be.
async fn instance_once(asker: &Asker, fine: impl Fn(&Value) -> bool) -> Value {
    eventually(SOON, || async {
        let found = instances(asker).await;
        match found.as_slice() {
            [one] if fine(one) => Ok(one.clone()),
            _ => Err(found),
        }
    })
    .await
}

/// Heartbeats that the hub has recorded.
async fn heartbeats(truth: &Truth) -> i64 {
    truth.one("SELECT count(*) FROM health_metrics WHERE service_name = $1", &[&SERVICE]).await
}

#[tokio::test]
async fn it_beats_says_how_it_is_and_says_goodbye() {
    let hub = Hub::fresh().await;
    let truth = Truth::of(hub.process.options());
    let service = client(hub.process.options()).await;
    let placed = Register {
        host: Some("10.0.0.5".into()),
        port: Some(8002),
        version: Some("1.2.3".into()),
        dependencies: vec!["central-hub".parse().unwrap()],
        ..request(0.2)
    };
    let me = service.register(placed).await.unwrap();
    assert_eq!(me.instance_id().as_str(), "10_0_0_5-8002");
    assert_eq!(me.registered().heartbeat_interval_seconds, 0.2);
    eventually(SOON, || async { heartbeats(&truth).await >= 3 }).await;

    me.set_status(Status::Degraded);
    instance_once(&hub, |instance| instance["status"] == "degraded").await;
    me.set_metric("queue", 7.0);
    me.set_metric("nonsense", f64::NAN);
    me.measure(|| [("load", 0.5), ("queue", 8.0)]);
    let metrics = "SELECT count(*) FROM health_metrics WHERE metrics = '{\"load\": 0.5, \"queue\": 8.0}'";
    eventually(SOON, || async { truth.one::<i64>(metrics, &[]).await >= 2 }).await;
    // A name that the hub doesn't take, and a measurement that panics, silence nobody.
    me.set_metric("no such name", 1.0);
    let before = heartbeats(&truth).await;
    eventually(SOON, || async { heartbeats(&truth).await > before + 2 }).await;
    me.measure(|| -> [(&str, f64); 0] { panic!("broken gauge") });
    let before = heartbeats(&truth).await;
    eventually(SOON, || async { heartbeats(&truth).await > before + 2 }).await;
    me.set_status(Status::Healthy);
    instance_once(&hub, |instance| instance["status"] == "healthy").await;

    me.deregister().await.unwrap();
    assert_eq!(instances(&hub).await, Vec::<Value>::new());
    let goodbyes = "SELECT count(*) FROM hub_events WHERE kind = 'deregistered' AND service_name = $1";
    assert_eq!(truth.one::<i64>(goodbyes, &[&SERVICE]).await, 1);
    assert_eq!(hub.errors_logged(), Vec::<String>::new());
}

#[tokio::test]
async fn who_is_dropped_falls_silent() {
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    let me = service.register(request(0.2)).await.unwrap();
    instance_once(&hub, |instance| instance["status"] == "healthy").await;
    drop(me);
    instance_once(&hub, |instance| instance["status"] == "down").await;
}

#[tokio::test]
async fn who_was_removed_registers_again() {
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    let me = service.register(request(0.2)).await.unwrap();
    me.set_status(Status::Degraded);
    let first = instance_once(&hub, |instance| instance["status"] == "degraded").await;
    for _ in 0..3 {
        hub.ask(&format!("deregister.{SERVICE}"), "").await;
        let again = instance_once(&hub, |instance| instance["status"] == "degraded").await;
        assert_eq!(again["instance_id"], first["instance_id"]);
        assert!(again["incarnation"].as_i64() > first["incarnation"].as_i64());
    }
    eventually(SOON, || async {
        Some(me.registered().incarnation) == instances(&hub).await[0]["incarnation"].as_i64()
    })
    .await;
    me.deregister().await.unwrap();
    assert_eq!(instances(&hub).await, Vec::<Value>::new());
}

#[tokio::test]
async fn who_is_replaced_goes_on_under_a_fresh_id() {
    let hub = Hub::fresh().await;
    let same = || Register { instance_id: Some("same".parse().unwrap()), ..request(0.2) };
    let one = client(hub.process.options()).await.register(same()).await.unwrap();
    let other = client(hub.process.options()).await.register(same()).await.unwrap();
    let ids = eventually(SOON, || async {
        let ids: BTreeSet<String> =
            instances(&hub).await.iter().map(|one| one["instance_id"].as_str().unwrap().to_owned()).collect();
        if ids.len() == 2 { Ok(ids) } else { Err(ids) }
    })
    .await;
    assert_eq!(other.instance_id().as_str(), "same", "who came last has the place");
    let fresh = eventually(SOON, || async { Some(one.instance_id()).filter(|id| id.as_str() != "same") }).await;
    assert!(fresh.as_str().starts_with("same-"), "{fresh}");
    assert_eq!(ids, BTreeSet::from(["same".into(), fresh.to_string()]));
    one.deregister().await.unwrap();
    other.deregister().await.unwrap();
    assert_eq!(instances(&hub).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_registration_waits_for_nats_and_for_a_hub() {
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    nats.kill9().await;
    let service = client(&options).await;
    assert!(matches!(
        service.clone().with_timeout(Duration::from_millis(100)).call(&Health {}).await,
        Err(CallError::NotConnected { .. })
    ));
    let registering = tokio::spawn({
        let service = service.clone();
        async move { service.register(request(0.5)).await }
    });
    // One that is given up leaves nothing behind.
    let given_up = Register { instance_id: Some("given-up".parse().unwrap()), ..request(0.5) };
    assert!(tokio::time::timeout(Duration::from_millis(300), service.register(given_up)).await.is_err());
    nats.restart().await.unwrap();
    let mut hub = HubProcess::start(options.clone()).await;
    hub.ready().await;
    let me = tokio::time::timeout(SOON, registering).await.expect("in time").unwrap().unwrap();
    let asker = Asker::of(&options).await;
    let found = instance_once(&asker, |instance| instance["status"] == "healthy").await;
    assert_eq!(found["instance_id"], me.instance_id().as_str(), "a try that was repeated left one record");
    me.deregister().await.unwrap();
}

#[tokio::test]
async fn a_refusal_that_waiting_does_not_change_is_told() {
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    let refused = service.register(request(0.001)).await.unwrap_err();
    assert_eq!(
        (refused.code, &refused.details["field"]),
        (ErrorCode::BadRequest, &json!("heartbeat_interval_seconds"))
    );
    // One of the moment is waited out.
    let needy = Register { require_dependencies: true, dependencies: vec!["other".parse().unwrap()], ..request(1.0) };
    let registering = tokio::spawn(async move { service.register(needy).await });
    hub.ask("register.other", "").await;
    let me = tokio::time::timeout(SOON, registering).await.expect("in time").unwrap().unwrap();
    me.deregister().await.unwrap();
}

/// The hub is killed and comes back, NATS is killed and comes back: a process that beats is never taken for dead.
#[tokio::test]
async fn outages_take_nobody_for_dead() {
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    let mut hub = Hub::start(options.clone()).await;
    let truth = Truth::of(&options);
    let service = client(&options).await;
    let me = service.register(request(0.5)).await.unwrap();
    let first = me.registered();
    for _ in 0..2 {
        hub.process.kill9().await;
        // Longer than its timeout.
        let until = tokio::time::Instant::now() + Duration::from_secs(3);
        eventually(SOON, || async { tokio::time::Instant::now() > until }).await;
        hub.process.restart().await;
        hub.process.ready().await;
        nats.kill9().await;
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        eventually(SOON, || async { tokio::time::Instant::now() > until }).await;
        nats.restart().await.unwrap();
        hub.process.ready().await;
        let before = heartbeats(&truth).await;
        eventually(SOON, || async { heartbeats(&truth).await > before + 4 }).await;
    }
    assert_eq!(truth.downed().await, Vec::<(String, String)>::new());
    assert_eq!(me.registered(), first, "it was known all the while");
    me.deregister().await.unwrap();
}

#[tokio::test]
async fn a_goodbye_to_nobody_ends() {
    let mut hub = Hub::fresh().await;
    let service = client(hub.process.options()).await.with_timeout(Duration::from_millis(500));
    let me = service.register(request(0.5)).await.unwrap();
    hub.process.kill9().await;
    let error = tokio::time::timeout(SOON, me.deregister()).await.expect("it ends").unwrap_err();
    assert!(error.is_passing() && error.code().is_none(), "{error}");
}

#[tokio::test]
async fn options_that_can_never_work_are_refused_at_once() {
    let refused = async |options: ClientOptions| HubClient::connect(options).await.unwrap_err().to_string();
    let bucket = ClientOptions { bucket_prefix: "a.b".into(), ..ClientOptions::default() };
    assert!(refused(bucket).await.contains("bucket prefix"));
    let subject = ClientOptions { subject_prefix: "hub.>".into(), ..ClientOptions::default() };
    assert!(refused(subject).await.contains("subject prefix"));
    assert!(refused(ClientOptions::new("nats://me:secret@host")).await.contains("holds a user"));
}
