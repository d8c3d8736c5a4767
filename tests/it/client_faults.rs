//! A service on the Rust client while everything around it breaks: its config stays in force throughout, never goes back,
//! and the newest is there soon after a recovery.

use std::time::Duration;

use async_nats::jetstream;
use central_hub::client::Source;
use central_hub::wire::registry::Register;
use serde_json::json;

use crate::ask::{Asker, Hub};
use crate::service::{NEWEST, Observer, SERVICE, client, client_at, config, defaults, number_is};
use crate::stack::{HubOptions, HubProcess, database, eventually, private_nats, unique};
use crate::witness::SOON;

async fn set(asker: &Asker, number: i64) -> i64 {
    let answer = asker.ask(&format!("config.set.{SERVICE}"), json!({"config": {"number": number}})).await;
    assert_eq!(answer["changed"], true, "{answer}");
    answer["revision"].as_i64().unwrap()
}

#[tokio::test]
async fn a_killed_hub_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::fresh().await;
    set(&hub, 1).await;
    let service = client(hub.process.options()).await;
    let config = config(&service, folder.path()).start().await.unwrap();
    let seen = Observer::of(&config);
    number_is(&config, 1, SOON).await;

    for number in 2..5 {
        hub.process.kill9().await;
        assert_eq!(config.get().number, number - 1);
        // Who starts meanwhile finds it in KV.
        let other = crate::service::config(&client(hub.process.options()).await, &folder.path().join("other"));
        let other = other.start().await.unwrap();
        assert_eq!((other.get().number, other.get().source), (number - 1, Source::Hub));
        hub.process.restart().await;
        hub.process.ready().await;
        set(&hub, number).await;
        number_is(&config, number, NEWEST).await;
        number_is(&other, number, NEWEST).await;
    }
    seen.never_went_back();
    assert_eq!(seen.numbers(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_start_with_nothing_reachable() {
    let folder = tempfile::tempdir().unwrap();
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    nats.kill9().await;

    // No NATS, no hub, no file: the defaults.
    let patience = Duration::from_millis(300);
    let service = client(&options).await;
    let config = config(&service, folder.path()).patience(patience).start().await.unwrap();
    assert_eq!((config.get().source, &*config.get()), (Source::Defaults, &defaults()));
    let seen = Observer::of(&config);

    // NATS comes, then the hub.
    nats.restart().await.unwrap();
    eventually(SOON, || async { service.nats().connection_state() == async_nats::connection::State::Connected }).await;
    let mut hub = HubProcess::start(options.clone()).await;
    hub.ready().await;
    let asker = Asker::of(&options).await;
    set(&asker, 7).await;
    let now = number_is(&config, 7, NEWEST).await;
    assert_eq!((now.source, now.version, now.name.as_str()), (Source::Hub, Some(1), "default"), "filled in");

    // Again without anything, but with the file.
    eventually(SOON, || async { folder.path().join("tick.json").exists() }).await;
    hub.kill9().await;
    nats.kill9().await;
    drop(config);
    let later = crate::service::config(&client(&options).await, folder.path());
    let later = later.patience(patience).start().await.unwrap();
    assert_eq!((later.get().source, later.get().number, later.get().version), (Source::File, 7, Some(1)));
    let seen_later = Observer::of(&later);
    nats.restart().await.unwrap();
    hub.restart().await;
    hub.ready().await;
    eventually(NEWEST, || async { later.get().source == Source::Hub }).await;
    set(&asker, 8).await;
    number_is(&later, 8, NEWEST).await;
    seen.never_went_back();
    seen_later.never_went_back();
    assert_eq!(seen_later.numbers(), [7, 8], "that the hub says the same is no change");
}

#[tokio::test]
async fn a_nats_that_comes_back_empty() {
    let folder = tempfile::tempdir().unwrap();
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    let mut hub = Hub::start(options.clone()).await;
    set(&hub, 1).await;
    let service = client(&options).await;
    let config = config(&service, folder.path()).start().await.unwrap();
    let seen = Observer::of(&config);
    for round in 1..4 {
        number_is(&config, round, SOON).await;
        nats.kill9().await;
        std::fs::remove_dir_all(nats.folder().join("store")).unwrap();
        assert_eq!(config.get().number, round);
        nats.restart().await.unwrap();
        hub.process.ready().await;
        assert_eq!(config.get().number, round, "a bucket that is empty erases nothing");
        set(&hub, round + 1).await;
        number_is(&config, round + 1, NEWEST).await;
    }
    seen.never_went_back();
    assert_eq!(seen.numbers(), [1, 2, 3, 4]);
}

/// NATS comes back empty while the hub is away, and only later the hub: nothing but the bucket tells the service so.
#[tokio::test]
async fn a_bucket_that_comes_back_long_after_nats() {
    let folder = tempfile::tempdir().unwrap();
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    let mut hub = Hub::start(options.clone()).await;
    set(&hub, 1).await;
    let service = client(&options).await;
    let config = config(&service, folder.path()).start().await.unwrap();
    let seen = Observer::of(&config);
    hub.process.kill9().await;
    nats.kill9().await;
    std::fs::remove_dir_all(nats.folder().join("store")).unwrap();
    nats.restart().await.unwrap();
    // Long enough for the pauses between tries to have grown.
    let away = tokio::time::Instant::now() + Duration::from_secs(8);
    eventually(2 * SOON, || async {
        assert_eq!(config.get().number, 1);
        tokio::time::Instant::now() > away
    })
    .await;
    hub.process.restart().await;
    hub.process.ready().await;
    set(&hub, 2).await;
    number_is(&config, 2, NEWEST).await;
    seen.never_went_back();
}

#[tokio::test]
async fn a_bucket_that_is_deleted_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::fresh().await;
    set(&hub, 1).await;
    let service = client(hub.process.options()).await;
    let config = config(&service, folder.path()).start().await.unwrap();
    let seen = Observer::of(&config);
    let context = jetstream::new(hub.nats.clone());
    for number in 2..5 {
        context.delete_key_value(format!("{}_config", hub.prefix)).await.unwrap();
        hub.value_once("config", SERVICE, |value| value["config"]["number"] == number - 1).await;
        set(&hub, number).await;
        // No connection was lost: that the old watch is dead shows by its silence.
        number_is(&config, number, NEWEST + Duration::from_secs(5)).await;
    }
    seen.never_went_back();
    assert_eq!(seen.numbers(), [1, 2, 3, 4]);
}

/// A bucket that somebody restored from an older copy, or wrote by hand, takes nobody back.
#[tokio::test]
async fn old_and_forged_values_take_nobody_back() {
    let folder = tempfile::tempdir().unwrap();
    let nats = private_nats().await;
    let prefix = unique();
    let service = client_at(&nats.url(), &prefix).await;
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let bucket = |name: String| jetstream::kv::Config { bucket: name, history: 10, ..Default::default() };
    let kv = context.create_key_value(bucket(format!("{prefix}_config"))).await.unwrap();
    let value = |epoch: i64, revision: i64| {
        json!({"service_name": SERVICE, "epoch": epoch, "revision": revision, "version": revision, "checksum": null,
            "config": {"number": 100 * epoch + revision}})
        .to_string()
    };
    kv.put(SERVICE, value(1, 3).into()).await.unwrap();
    let config = config(&service, folder.path()).start().await.unwrap();
    let seen = Observer::of(&config);
    assert_eq!(config.get().number, 103);
    for old in [value(1, 2), value(0, 9), "forged".into(), String::new(), value(1, 3)] {
        kv.put(SERVICE, old.into()).await.unwrap();
    }
    kv.delete(SERVICE).await.unwrap();
    kv.purge(SERVICE).await.unwrap();
    kv.put(SERVICE, value(1, 4).into()).await.unwrap();
    number_is(&config, 104, SOON).await;

    // Deleted, and made again with an old value first.
    context.delete_key_value(format!("{prefix}_config")).await.unwrap();
    let kv = context.create_key_value(bucket(format!("{prefix}_config"))).await.unwrap();
    kv.put(SERVICE, value(1, 1).into()).await.unwrap();
    kv.put(SERVICE, value(2, 1).into()).await.unwrap();
    number_is(&config, 201, SOON).await;
    seen.never_went_back();
    assert_eq!(seen.numbers(), [103, 104, 201]);
}

/// Without JetStream nothing can be watched: the hub itself is asked.
#[tokio::test]
async fn without_kv_the_hub_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::fresh().await;
    set(&hub, 5).await;
    let options = hub.process.options();
    let service = client_at(&options.nats_url, &options.prefix).await.with_bucket_prefix(unique());
    let config = config(&service, folder.path()).start().await.unwrap();
    assert_eq!((config.get().number, config.get().source), (5, Source::Hub));
    // A service that has no config, and one whose last-good file lies there.
    let nothing = service.config::<serde_json::Map<_, _>>("other".parse().unwrap()).without_cache().start().await;
    assert_eq!(nothing.unwrap().get().source, Source::Defaults);
    set(&hub, 6).await;
    number_is(&config, 6, 2 * SOON).await;
}

/// A whole fleet loses its server, which comes back empty: all of them have the newest config soon, and each has one
/// consumer, not a trail of them.
#[tokio::test]
async fn a_fleet_comes_back_without_a_stampede() {
    const FLEET: usize = 60;
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    let mut hub = Hub::start(options.clone()).await;
    set(&hub, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let start = async || {
        // A connection each, as of processes of their own.
        let service = client(&options).await;
        config(&service, folder.path()).start().await.unwrap()
    };
    let fleet = futures_util::future::join_all((0..FLEET).map(|_| start())).await;
    let (context, stream) = (jetstream::new(hub.nats.clone()), format!("KV_{}_config", hub.prefix));
    let watching = async || {
        let stream = context.get_stream(&stream).await.ok()?;
        let consumers: Vec<_> = futures_util::TryStreamExt::try_collect(stream.consumers()).await.ok()?;
        let of_clients =
            consumers.iter().filter(|one| one.config.description.as_deref() == Some("central-hub client")).count();
        Some(of_clients)
    };
    let watchers_are = async |expected: usize| {
        eventually(2 * SOON, || async {
            let count = watching().await;
            if count == Some(expected) { Ok(()) } else { Err(count) }
        })
        .await;
    };
    watchers_are(FLEET).await;
    for number in 2..4 {
        nats.kill9().await;
        std::fs::remove_dir_all(nats.folder().join("store")).unwrap();
        nats.restart().await.unwrap();
        hub.process.ready().await;
        set(&hub, number).await;
        futures_util::future::join_all(fleet.iter().map(|config| number_is(config, number, 2 * NEWEST))).await;
        // What was opened on the way and given up lingers no longer than ten seconds.
        watchers_are(FLEET).await;
    }
    drop(fleet);
    watchers_are(0).await;
}

/// A watch that seems alive and tells nothing: the server says on it that it is there, and what is put doesn't come. The
/// answers to heartbeats tell that there is something newer.
#[tokio::test]
async fn a_watch_that_is_stalled_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::fresh().await;
    set(&hub, 1).await;
    let start = async || {
        let service = client(hub.process.options()).await;
        let config = config(&service, folder.path()).start().await.unwrap();
        (service, config)
    };
    let ((service, config), (_, unregistered)) = (start().await, start().await);
    let me = Register { heartbeat_interval_seconds: Some(0.3), ..Register::new(SERVICE.parse().unwrap()) };
    let me = service.register(me).await.unwrap();
    me.report_config(&config);
    let context = jetstream::new(hub.nats.clone());
    let stream = format!("KV_{}_config", hub.prefix);
    for number in 2..4 {
        let consumers: Vec<_> =
            futures_util::TryStreamExt::try_collect(context.get_stream(&stream).await.unwrap().consumers())
                .await
                .unwrap();
        let of_clients = consumers.iter().filter(|one| one.config.description.as_deref() == Some("central-hub client"));
        for consumer in of_clients {
            let pause = json!({"pause_until": "2100-01-01T00:00:00Z"});
            let subject = format!("CONSUMER.PAUSE.{stream}.{}", consumer.name);
            let paused: serde_json::Value = context.request(subject, &pause).await.unwrap();
            assert_eq!(paused["paused"], true, "{paused}");
        }
        set(&hub, number).await;
        number_is(&config, number, 2 * SOON).await;
        assert_eq!(unregistered.get().number, 1, "the stall was real");
    }
    me.deregister().await.unwrap();
}
