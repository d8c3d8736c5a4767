//! Whatever anybody does to KV, the hub brings it back to what Postgres says, and never believes it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{self, kv, stream};
use bytes::Bytes;
use central_hub::client::HubClient;
use central_hub::domain::name::ServiceName;
use central_hub::wire::bucket::Bucket;
use central_hub::wire::config::{ConfigGet, ConfigSet};
use central_hub::wire::event;
use central_hub::wire::registry::Register;
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};

use crate::ask::Asker;
use crate::restores::raise_by_hand;
use crate::stack::{HubOptions, HubProcess, database, eventually, private_nats};
use crate::traffic::{Burst, nothing_was_lost};
use crate::witness::{HEALED, SOON, Truth, Watcher, connect, healed, replicas};

/// How many configs and instances a [`World`] has.
const SIZE: usize = 8;

/// A hub with configs `config-<n>` and instances `service-<n>.only`, all of them in KV.
struct World {
    options: HubOptions,
    nats: async_nats::Client,
    hub: HubClient,
    process: HubProcess,
}

impl World {
    async fn new(options: HubOptions) -> World {
        let nats = connect(&options.nats_url).await;
        let mut process = HubProcess::start(options.clone()).await;
        process.ready().await;
        let hub = HubClient::new(nats.clone()).with_prefix(options.prefix.clone());
        for number in 0..SIZE {
            let content = json!({ "number": number, "limits": { "position": 5 } });
            let service: ServiceName = format!("config-{number}").parse().unwrap();
            hub.call(&ConfigSet::new(service, content.as_object().unwrap().clone())).await.unwrap();
            let instance_id = Some("only".parse().unwrap());
            let register = Register::new(format!("service-{number}").parse().unwrap());
            hub.call(&Register { instance_id, ..register }).await.unwrap();
        }
        healed(&nats, &options).await;
        World { options, nats, hub, process }
    }

    async fn bucket(&self, bucket: Bucket) -> kv::Store {
        jetstream::new(self.nats.clone()).get_key_value(bucket.name(&self.options.prefix)).await.unwrap()
    }

    async fn stream(&self, bucket: Bucket) -> stream::Stream {
        jetstream::new(self.nats.clone()).get_stream(bucket.stream(&self.options.prefix)).await.unwrap()
    }

    /// All values of both buckets, byte by byte. (Those of components change with each check.)
    async fn bytes(&self) -> BTreeMap<String, Bytes> {
        let mut all = BTreeMap::new();
        for bucket in [Bucket::Config, Bucket::Services] {
            let kv = self.bucket(bucket).await;
            for key in kv.keys().await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
                let value = kv.get(&key).await.unwrap().unwrap();
                all.insert(format!("{bucket:?} {key}"), but_for_the_epoch(&value));
            }
        }
        all
    }

    async fn set(&self, service: &str, content: Value) {
        let content = content.as_object().unwrap().clone();
        self.hub.call(&ConfigSet::new(service.parse().unwrap(), content)).await.unwrap();
    }

    /// A config that Postgres never had, `by` revisions away from the true one.
    async fn forgery(&self, service: &str, by: i64) -> Bytes {
        let value = self.bucket(Bucket::Config).await.get(service).await.unwrap().unwrap();
        let mut value: Value = serde_json::from_slice(&value).unwrap();
        value["revision"] = json!(value["revision"].as_i64().unwrap() + by);
        value["config"] = json!({ "forged": true });
        value.to_string().into()
    }
}

/// A value without its epoch, which a forgery that looks newer than Postgres raises.
fn but_for_the_epoch(value: &Bytes) -> Bytes {
    let text = String::from_utf8(value.to_vec()).unwrap();
    match text.split_once("\"epoch\":") {
        Some((before, rest)) => format!("{before}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())).into(),
        None => value.clone(),
    }
}

/// What anybody with the right to write may do to eight keys of each bucket.
async fn meddle(world: &World) {
    let configs = world.bucket(Bucket::Config).await;
    for (service, by) in [("config-0", 1), ("config-1", 1_000_000), ("config-2", 0), ("config-3", -1)] {
        configs.put(service, world.forgery(service, by).await).await.unwrap();
    }
    configs.put("config-4", "not JSON".into()).await.unwrap();
    configs.put("config-5", "".into()).await.unwrap();
    configs.delete("config-6").await.unwrap();
    configs.purge("config-7").await.unwrap();

    let services = world.bucket(Bucket::Services).await;
    let record = services.get("service-0.only").await.unwrap().unwrap();
    let down = String::from_utf8(record.to_vec()).unwrap().replace("healthy", "down");
    services.put("service-0.only", down.into()).await.unwrap();
    services.put("service-1.only", record).await.unwrap();
    services.put("service-2.only", "not JSON".into()).await.unwrap();
    services.put("service-3.only", "".into()).await.unwrap();
    services.delete("service-4.only").await.unwrap();
    services.purge("service-5.only").await.unwrap();
}

#[tokio::test]
async fn keys_that_are_edited_deleted_or_purged_by_hand_are_put_right() {
    let world = World::new(HubOptions::fresh().await).await;
    let (watcher, truth) = (Watcher::ordering(&world.options).await, Truth::of(&world.options));
    watcher.caught_up(SOON, &truth).await;
    let before = world.bytes().await;
    meddle(&world).await;
    healed(&world.nats, &world.options).await;
    assert_eq!(world.bytes().await, before, "to the byte");
    // Who took a forgery that looked newer, or as new, takes the truth all the same.
    watcher.caught_up(SOON, &truth).await;

    // Nobody wins by trying harder.
    let configs = world.bucket(Bucket::Config).await;
    let forgery = world.forgery("config-0", 1).await;
    for _ in 0..100 {
        configs.put("config-0", forgery.clone()).await.unwrap();
    }
    healed(&world.nats, &world.options).await;
    assert_eq!(world.bytes().await, before);
    watcher.caught_up(SOON, &truth).await;
}

#[tokio::test]
async fn what_was_done_to_keys_while_no_hub_ran_is_put_right_at_its_start() {
    let mut world = World::new(HubOptions::fresh().await).await;
    world.process.kill9().await;
    let mut before = world.bytes().await;
    meddle(&world).await;
    world.bucket(Bucket::Config).await.put("a.stranger", "{}".into()).await.unwrap();
    world.bucket(Bucket::Services).await.put("ghost.only", "{}".into()).await.unwrap();
    world.process.restart().await;
    healed(&world.nats, &world.options).await;
    let mut after = world.bytes().await;
    // The replica's own record is new.
    for records in [&mut before, &mut after] {
        records.retain(|key, _| !key.contains("central-hub"));
    }
    assert_eq!(after, before);
}

#[tokio::test]
async fn foreign_keys_are_removed() {
    let world = World::new(HubOptions::fresh().await).await;
    let before = world.bytes().await;
    // A name without a config, names that no service has, and what only a raw publish can write.
    let foreign = [
        (Bucket::Config, ["ghost", "two.tokens", "-dash", "a=b", "bad!key", "wörld"]),
        (Bucket::Services, ["ghost", "service-0.nobody", "service-0.only.more", "nobody.only", "a.bad!key", "ö.ö"]),
    ];
    let context = jetstream::new(world.nats.clone());
    for (bucket, keys) in foreign {
        for key in keys {
            let subject = format!("$KV.{}.{key}", bucket.name(&world.options.prefix));
            context.publish(subject, "{\"forged\":true}".into()).await.unwrap().await.unwrap();
        }
    }
    for (bucket, keys) in foreign {
        let stream = world.stream(bucket).await;
        for key in keys {
            let subject = format!("$KV.{}.{key}", bucket.name(&world.options.prefix));
            eventually(HEALED, || async {
                match stream.get_last_raw_message_by_subject(&subject).await {
                    Ok(message) if message.headers.get("KV-Operation").is_none() => Err(format!("{key} is there")),
                    _ => Ok(()),
                }
            })
            .await;
        }
    }
    healed(&world.nats, &world.options).await;
    assert_eq!(world.bytes().await, before);
}

#[tokio::test]
async fn a_purged_stream_is_filled_again() {
    let world = World::new(HubOptions::fresh().await).await;
    let watcher = Watcher::start(&world.options).await;
    let before = world.bytes().await;
    for bucket in Bucket::ALL {
        world.stream(bucket).await.purge().await.unwrap();
    }
    healed(&world.nats, &world.options).await;
    assert_eq!(world.bytes().await, before);
    world.set("config-0", json!({ "after": "the purge" })).await;
    watcher.caught_up(SOON, &Truth::of(&world.options)).await;
    watcher.never_went_back();
}

#[tokio::test]
async fn deleted_buckets_and_a_deleted_event_stream_are_made_again() {
    let world = World::new(HubOptions::fresh().await).await;
    let watcher = Watcher::start(&world.options).await;
    // So many that the new stream would have fewer messages than the watcher has seen.
    for number in 0..40 {
        world.set("config-0", json!({ "number": number })).await;
    }
    watcher.caught_up(SOON, &Truth::of(&world.options)).await;
    let before = world.bytes().await;
    let context = jetstream::new(world.nats.clone());
    for bucket in Bucket::ALL {
        context.delete_key_value(bucket.name(&world.options.prefix)).await.unwrap();
    }
    context.delete_stream(event::stream_name(&world.options.prefix)).await.unwrap();
    healed(&world.nats, &world.options).await;
    assert_eq!(world.bytes().await, before);
    let config = world.stream(Bucket::Config).await.get_info().await.unwrap().config;
    assert!(config.max_messages_per_subject >= 10 && config.allow_rollup && config.deny_delete, "{config:?}");

    world.set("config-0", json!({ "after": "the deletion" })).await;
    let events = Asker::of(&world.options).await.events("config.config-0.>", 1).await;
    assert_eq!(events[0].body["details"]["version"], 42);
    watcher.caught_up(SOON, &Truth::of(&world.options)).await;
    watcher.never_went_back();
}

#[tokio::test]
async fn a_nats_that_lost_all_its_data_is_filled_again() {
    let mut nats_server = private_nats().await;
    let options = HubOptions::on(&nats_server.url(), &database().await);
    let world = World::new(options).await;
    let watcher = Watcher::start(&world.options).await;
    let truth = Truth::of(&world.options);
    watcher.caught_up(SOON, &truth).await;
    let before = world.bytes().await;
    for round in 0..2 {
        nats_server.kill9().await;
        std::fs::remove_dir_all(nats_server.folder().join("store")).unwrap();
        nats_server.restart().await.unwrap();
        eventually(SOON, || async { world.nats.connection_state() == async_nats::connection::State::Connected }).await;
        healed(&world.nats, &world.options).await;
        if round == 0 {
            assert_eq!(world.bytes().await, before);
        }
        world.set("config-0", json!({ "round": round })).await;
        let sets = Burst::start(&world.options, &world.nats, 3, 40, 8, round).ended().await;
        assert_eq!(nothing_was_lost(&truth, &sets).await, 40);
    }
    watcher.caught_up(SOON, &truth).await;
    watcher.never_went_back();
}

#[tokio::test]
async fn an_epoch_that_is_raised_by_hand_makes_all_configs_new() {
    let world = World::new(HubOptions::fresh().await).await;
    let _other = replicas(&world.options, 1).await;
    let (truth, watcher) = (Truth::of(&world.options), Watcher::start(&world.options).await);
    watcher.caught_up(SOON, &truth).await;
    let (contents, before) = (world.bytes().await, watcher.position("config-0").unwrap());
    raise_by_hand(&world.options).await;
    healed(&world.nats, &world.options).await;
    watcher.caught_up(SOON, &truth).await;
    let after = watcher.position("config-0").unwrap();
    assert!(after.epoch > before.epoch && after.revision == before.revision, "{after:?} after {before:?}");
    world.set("config-0", json!({ "after": "the raise" })).await;
    watcher.caught_up(SOON, &truth).await;
    watcher.never_went_back();
    let mut now = world.bytes().await;
    now.retain(|key, _| !key.ends_with("config-0"));
    assert!(now.iter().all(|(key, value)| contents.get(key) == Some(value)), "nothing else is new");
}

#[tokio::test]
async fn a_forged_value_is_never_answered() {
    let options = HubOptions::fresh().await;
    let world = World::new(options.clone()).await;
    let _others = replicas(&options, 1).await;
    let configs = world.bucket(Bucket::Config).await;
    let forging = tokio::spawn({
        let mut forgeries = Vec::new();
        for service in ["config-0", "config-1"] {
            for by in [-1, 0, 1, 50] {
                forgeries.push((service, world.forgery(service, by).await));
            }
        }
        async move {
            for (service, forgery) in forgeries.iter().cycle().take(400) {
                configs.put(service, forgery.clone()).await.unwrap();
            }
        }
    });
    let mut answers = 0;
    while !forging.is_finished() || answers < 500 {
        for service in ["config-0", "config-1"] {
            // With a wish it is answered on the slower path.
            for min_revision in [None, Some(1)] {
                let service_name: ServiceName = service.parse().unwrap();
                let got = world.hub.call(&ConfigGet { service_name, version: None, min_revision }).await.unwrap();
                assert_eq!((got.version, got.revision), (1, 1));
                assert!(!got.config.get().contains("forged"), "{}", got.config);
                answers += 1;
            }
        }
    }
    forging.await.unwrap();
    healed(&world.nats, &world.options).await;
}

#[tokio::test]
async fn a_bucket_whose_settings_were_changed_is_mended_in_place() {
    let mut world = World::new(HubOptions::fresh().await).await;
    let context = jetstream::new(world.nats.clone());
    let mut config = world.stream(Bucket::Config).await.get_info().await.unwrap().config;
    let wanted = config.clone();
    (config.max_messages_per_subject, config.allow_direct, config.max_age) = (2, false, Duration::from_secs(3600));
    context.update_stream(&config).await.unwrap();
    let created = world.stream(Bucket::Config).await.get_info().await.unwrap().created;
    world.process.restart().await;
    world.process.ready().await;
    eventually(HEALED, || async {
        let found = world.stream(Bucket::Config).await.get_info().await.unwrap();
        assert_eq!(found.created, created, "never deleted");
        let same = found.config.max_messages_per_subject == wanted.max_messages_per_subject
            && found.config.allow_direct == wanted.allow_direct
            && found.config.max_age == wanted.max_age;
        if same { Ok(()) } else { Err(format!("{:?}", found.config)) }
    })
    .await;
    assert!(world.process.log().contains("drifted"));
    healed(&world.nats, &world.options).await;
}
