//! The Rust client looks at who else is there.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::kv::Store;
use central_hub::cli::stack::NatsServer;
use central_hub::client::ServicesView;
use central_hub::domain::name::ServiceName;
use central_hub::domain::status::Status;
use central_hub::wire::registry::ServicesList;
use serde_json::json;

use crate::ask::{Asker, Hub};
use crate::service::{NEWEST, client};
use crate::stack::{HubOptions, database, eventually, private_nats};
use crate::witness::SOON;

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

async fn register(asker: &Asker, service: &str, id: &str) {
    asker.ask(&format!("register.{service}"), json!({"instance_id": id, "host": id, "port": 1})).await;
}

/// `<service>.<instance>` of a view, without the hub's own replicas.
fn ids(view: &ServicesView) -> BTreeSet<String> {
    let all = view.all();
    let others = all.iter().filter(|instance| instance.service_name.as_str() != ServiceName::HUB);
    others.map(|instance| format!("{}.{}", instance.service_name, instance.instance_id)).collect()
}

#[track_caller]
fn ids_become(view: &ServicesView, expected: &[&str]) -> impl Future<Output = ()> {
    let (view, expected) = (view.clone(), expected.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>());
    eventually(SOON, move || {
        let found = ids(&view);
        let fine = found == expected;
        async move { if fine { Ok(()) } else { Err(found) } }
    })
}

#[tokio::test]
async fn services_are_found_over_all_pages() {
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    for number in 0..7 {
        register(&hub, "many", &format!("i{number}")).await;
    }
    hub.ask("heartbeat.many", json!({"instance_id": "i3", "status": "degraded"})).await;
    let wanted = ServicesList { service_name: Some(name("many")), limit: Some(2), ..ServicesList::default() };
    let found = service.get_services(wanted.clone()).await.unwrap();
    let found: Vec<&str> = found.iter().map(|instance| instance.instance_id.as_str()).collect();
    assert_eq!(found, ["i0", "i1", "i2", "i3", "i4", "i5", "i6"]);
    let healthy = ServicesList { status: Some(Status::Healthy), ..wanted };
    assert_eq!(service.get_services(healthy).await.unwrap().len(), 6);

    let many = service.get_service(name("many")).await.unwrap().expect("it is there");
    assert_eq!((many.status, many.instances.len()), (Status::Healthy, 7));
    assert!(service.get_service(name("nobody")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_view_is_live_and_needs_no_hub_to_be_read() {
    let mut hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    register(&hub, "a", "1").await;
    let mut view = service.watch_services();
    tokio::time::timeout(SOON, view.loaded()).await.expect("in time");
    assert!(view.is_live());
    ids_become(&view, &["a.1"]).await;
    register(&hub, "a", "2").await;
    register(&hub, "b", "1").await;
    ids_become(&view, &["a.1", "a.2", "b.1"]).await;
    assert_eq!(view.of(&name("a")).len(), 2);

    // Who to talk to: not who drains, and rather a healthy one.
    let picks = |view: &ServicesView| -> BTreeSet<String> {
        (0..50).filter_map(|_| Some(view.pick(&name("a"))?.instance_id.to_string())).collect()
    };
    assert_eq!(picks(&view), BTreeSet::from(["1".into(), "2".into()]));
    hub.ask("heartbeat.a", json!({"instance_id": "1", "status": "degraded"})).await;
    eventually(SOON, || async { picks(&view) == BTreeSet::from(["2".into()]) }).await;
    hub.ask("services.drain.a", json!({"instance_id": "2", "draining": true})).await;
    eventually(SOON, || async { picks(&view) == BTreeSet::from(["1".into()]) }).await;
    hub.ask("heartbeat.a", json!({"instance_id": "1", "status": "down"})).await;
    eventually(SOON, || async { picks(&view).is_empty() }).await;
    assert!(view.pick(&name("nobody")).is_none());

    let mut told = view.clone();
    hub.ask("deregister.a", json!({"instance_id": "1"})).await;
    tokio::time::timeout(SOON, told.changed()).await.expect("a goodbye is heard");
    ids_become(&view, &["a.2", "b.1"]).await;
    hub.process.kill9().await;
    assert_eq!(ids(&view).len(), 2);
    let late = client(hub.process.options()).await.watch_services();
    ids_become(&late, &["a.2", "b.1"]).await;
}

/// The hub is killed, and NATS loses its data; then somebody makes the bucket again.
async fn bucket_comes_back_empty(nats: &mut NatsServer, hub: &mut Hub, view: &ServicesView) -> Store {
    hub.process.kill9().await;
    nats.kill9().await;
    std::fs::remove_dir_all(nats.folder().join("store")).unwrap();
    nats.restart().await.unwrap();
    eventually(SOON, || async { !view.is_live() }).await;
    let jetstream = async_nats::jetstream::new(hub.nats.clone());
    let bucket = async_nats::jetstream::kv::Config { bucket: format!("{}_services", hub.prefix), ..Default::default() };
    eventually(SOON, || jetstream.create_key_value(bucket.clone())).await
}

#[tokio::test]
async fn a_bucket_that_is_emptied_or_lost_empties_no_view() {
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    let mut hub = Hub::start(options.clone()).await;
    let service = client(&options).await;
    for id in ["1", "2"] {
        register(&hub, "a", id).await;
    }
    let view = service.watch_services();
    ids_become(&view, &["a.1", "a.2"]).await;

    // NATS comes back empty and without a hub: what was known stays.
    bucket_comes_back_empty(&mut nats, &mut hub, &view).await;
    eventually(2 * NEWEST, || async { view.is_live() }).await;
    assert_eq!(ids(&view).len(), 2, "an empty bucket is no news");

    hub.process.restart().await;
    hub.process.ready().await;
    hub.ask("deregister.a", json!({"instance_id": "1"})).await;
    register(&hub, "b", "1").await;
    // Nothing in the new bucket says that a.1 left; that it isn't there, while others are, does after a while.
    ids_become(&view, &["a.2", "b.1"]).await;
    assert!(view.is_live());
}

/// Nor does one that holds something, while no hub is there to say who is gone.
#[tokio::test]
async fn a_bucket_that_was_filled_in_part_takes_nobody_from_a_view() {
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    let mut hub = Hub::start(options.clone()).await;
    for id in ["1", "2", "3"] {
        register(&hub, "a", id).await;
    }
    let view = client(&options).await.watch_services();
    ids_become(&view, &["a.1", "a.2", "a.3"]).await;
    let record = hub.value_once("services", "a.1", |_| true).await.to_string();

    let bucket = bucket_comes_back_empty(&mut nats, &mut hub, &view).await;
    bucket.put("a.1", record.into()).await.unwrap();
    eventually(2 * NEWEST, || async { view.is_live() }).await;
    // For longer than a bucket that was made anew has to be filled.
    let settled = tokio::time::Instant::now() + Duration::from_secs(11);
    eventually(2 * SOON, || async {
        assert_eq!(ids(&view).len(), 3);
        tokio::time::Instant::now() > settled
    })
    .await;
    let gone = "DELETE FROM service_registry WHERE instance_id = '2'";
    hub.database().await.batch_execute(gone).await.unwrap();
    hub.process.restart().await;
    hub.process.ready().await;
    ids_become(&view, &["a.1", "a.3"]).await;
}
