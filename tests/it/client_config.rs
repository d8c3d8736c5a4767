//! The config of a service on the Rust client: layers, checks, references, the last-good file, and what the hub hears of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use central_hub::client::{ConfigError, HubClient, Source};
use central_hub::wire::registry::Register;
use serde_json::{Map, Value, json};

use crate::ask::{Asker, Hub};
use crate::service::{Observer, SERVICE, Settings, client, client_at, config, defaults, number_is};
use crate::stack::{eventually, private_nats, unique};
use crate::witness::SOON;

const QUICK: Duration = Duration::from_millis(200);

async fn set(asker: &Asker, config: Value) {
    asker.ask(&format!("config.set.{SERVICE}"), json!({"config": config})).await;
}

/// A client that reaches nothing.
async fn lonely() -> HubClient {
    client_at("nats://127.0.0.1:9", "hub").await
}

#[tokio::test]
async fn a_change_is_in_force_within_a_push() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    // The hub says at once that it has none: no need to wait for more.
    let mut config = config(&service, folder.path()).patience(2 * SOON).start().await.unwrap();
    assert_eq!((config.get().source, config.get().position), (Source::Defaults, None));
    set(&hub, json!({"number": 1})).await;
    let now = config.changed().await;
    assert_eq!((now.source, now.version, now.number, now.name.as_str()), (Source::Hub, Some(1), 1, "default"));
    assert_eq!(now.value(), Arc::new(Settings { number: 1, name: "default".into() }));

    // Handles hear for themselves, and share a watch.
    let mut other = config.clone();
    set(&hub, json!({"number": 2, "name": "two"})).await;
    assert_eq!((config.changed().await.number, other.changed().await.number), (2, 2));
    let again = crate::service::config(&service, folder.path()).start().await.unwrap();
    assert_eq!(again.get().number, 2);
    let stream = jetstream::new(hub.nats.clone()).get_stream(format!("KV_{}_config", hub.prefix)).await.unwrap();
    let consumers: Vec<_> = futures_util::TryStreamExt::try_collect(stream.consumers()).await.unwrap();
    let of_clients = consumers
        .iter()
        .filter(|consumer| consumer.config.description.as_deref() == Some("central-hub client"))
        .count();
    assert_eq!(of_clients, 1);

    // A tombstone leaves the defaults, and a rollback brings it back.
    hub.ask(&format!("config.delete.{SERVICE}"), "").await;
    let now = config.changed().await;
    assert_eq!((now.source, now.version, &*now), (Source::Defaults, None, &defaults()));
    assert_eq!(now.position.map(|position| position.revision), Some(3));
    hub.ask(&format!("config.rollback.{SERVICE}"), "").await;
    let now = config.changed().await;
    assert_eq!((now.version, now.number), (Some(2), 2));
    // Content that is in force already is no change.
    hub.ask(&format!("config.rollback.{SERVICE}"), json!({"to_version": 1})).await;
    assert_eq!(config.changed().await.number, 1);
}

#[tokio::test]
async fn what_is_refused_never_comes_into_force_and_the_hub_hears_why() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    set(&hub, json!({"number": 1})).await;
    let check = |settings: &Settings| match settings.number {
        13 => Err("number: thirteen is unlucky"),
        14 => panic!("fourteen is worse"),
        _ => Ok(()),
    };
    let config = config(&service, folder.path()).validate(check).start().await.unwrap();
    let seen = Observer::of(&config);
    let me = service.register(Register::new(SERVICE.parse().unwrap())).await.unwrap();
    me.report_config(&config);
    let status = async |state: &str| {
        eventually(SOON, || async {
            let status = hub.ask(&format!("config.status.{SERVICE}"), "").await;
            let instance = status["instances"][0].clone();
            if instance["state"] == state { Ok(instance) } else { Err(status) }
        })
        .await
    };
    assert_eq!(status("current").await["config_revision"], 1);

    for (content, complaint) in [
        (json!({"number": 13}), "thirteen is unlucky"),
        (json!({"number": 14}), "panicked: fourteen is worse"),
        (json!({"number": "one"}), "number: invalid type: string \"one\", expected i64"),
        (json!({"name": "${env:CENTRAL_HUB_NO_SUCH_VARIABLE}"}), "/name: the environment variable CENTRAL_HUB_NO_SUCH"),
    ] {
        set(&hub, content).await;
        let instance = eventually(SOON, || async {
            let instance = status("failed").await;
            let fine = instance["config_error"].as_str().is_some_and(|error| error.contains(complaint));
            if fine { Ok(instance) } else { Err(instance) }
        })
        .await;
        assert_eq!(instance["config_revision"], 1, "the last good one stays");
        assert_eq!((config.get().number, config.get().version), (1, Some(1)));
        assert!(config.refusal().is_some_and(|refusal| refusal.contains(complaint)));
    }
    set(&hub, json!({"number": 15})).await;
    number_is(&config, 15, SOON).await;
    let instance = status("current").await;
    assert_eq!((&instance["config_revision"], &instance["config_error"]), (&json!(6), &Value::Null));
    assert_eq!((config.refusal(), seen.numbers()), (None, vec![1, 15]));
    seen.never_went_back();
    me.deregister().await.unwrap();
}

#[tokio::test]
async fn a_check_that_does_not_end_holds_up_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    set(&hub, json!({"number": 1})).await;
    let held = Arc::new(AtomicBool::new(true));
    let holds = Arc::clone(&held);
    let check = move |settings: &Settings| {
        while settings.number == 2 && holds.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok::<_, String>(())
    };
    let config = config(&service, folder.path()).validate(check).start().await.unwrap();
    let seen = Observer::of(&config);
    let me = Register { heartbeat_interval_seconds: Some(0.5), ..Register::new(SERVICE.parse().unwrap()) };
    let me = service.register(me).await.unwrap();
    me.report_config(&config);
    set(&hub, json!({"number": 2})).await;
    set(&hub, json!({"number": 3})).await;
    let instance = eventually(2 * SOON, || async {
        let status = hub.ask(&format!("config.status.{SERVICE}"), "").await;
        let instance = status["instances"][0].clone();
        if instance["state"] == "failed" { Ok(instance) } else { Err(status) }
    })
    .await;
    assert!(instance["config_error"].as_str().unwrap().contains("has taken over 5s"), "{instance}");
    assert_eq!(config.get().number, 1);
    // It beats all the while.
    let found = hub.ask(&format!("services.get.{SERVICE}"), "").await;
    assert_eq!(found["status"], "healthy", "{found}");
    held.store(false, Ordering::Relaxed);
    number_is(&config, 3, SOON).await;
    seen.never_went_back();
    eventually(SOON, || async { hub.ask(&format!("config.status.{SERVICE}"), "").await["converged"] == true }).await;

    // A check that never ends doesn't hold up a start for ever, either, nor the end of the program.
    let stuck = crate::service::config(&service, folder.path()).patience(QUICK).validate(|_: &Settings| {
        loop {
            std::thread::park();
            if false {
                break Ok::<_, String>(());
            }
        }
    });
    let error = stuck.start().await.unwrap_err();
    assert!(matches!(&error, ConfigError::Nothing { .. }), "{error}");
}

#[tokio::test]
async fn references_are_resolved_here_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    // A variable that every process has, and whose value nothing here contains by chance.
    let value = std::env::var("PATH").unwrap();
    set(&hub, json!({"name": "${env:PATH}", "number": 1})).await;
    let config = config(&service, folder.path()).allow_env(["PA*"]).start().await.unwrap();
    assert_eq!(config.get().name, value);
    assert!(!format!("{config:?} {:?}", config.get()).contains(&value), "nor is it shown");
    let file = || async { std::fs::read_to_string(folder.path().join("tick.json")) };
    let file = eventually(SOON, file).await;
    assert!(file.contains("${env:PATH}") && !file.contains(&value), "{file}");

    set(&hub, json!({"name": "n", "number": "${env:PATH}"})).await;
    let refusal = eventually(SOON, || async { config.refusal() }).await;
    assert_eq!(refusal, "number: invalid type: string \"${env:PATH}\", expected i64");
    set(&hub, json!({"name": "${env:HOME}", "number": 2})).await;
    let refusal = eventually(SOON, || async { config.refusal().filter(|refusal| refusal.contains("HOME")) }).await;
    assert_eq!(refusal, "/name: the environment variable HOME is not one that may be used");
    assert_eq!((config.get().number, config.get().name.as_str()), (1, value.as_str()));
}

/// What a last-good file may hold, and what a service begins with then, without anything else.
#[tokio::test]
async fn last_good_files_of_every_kind() {
    let good = json!({"format": 1, "service_name": SERVICE, "epoch": 7, "revision": 3, "version": 2, "checksum": null,
        "config": {"number": 9}, "written_at": "2026-01-05T10:00:00Z"});
    let with = |name: &str, value: Value| {
        let mut file = good.clone();
        file[name] = value;
        file.to_string()
    };
    let whole = good.to_string();
    let cases: &[(&str, String, Source)] = &[
        ("good", whole.clone(), Source::File),
        ("cut off", whole[..whole.len() / 2].to_owned(), Source::Defaults),
        ("empty", String::new(), Source::Defaults),
        ("damaged", "\0".repeat(512), Source::Defaults),
        ("of a newer format", with("format", json!(2)), Source::Defaults),
        ("of another service", with("service_name", json!("tock")), Source::Defaults),
        ("that doesn't fit any more", with("config", json!({"number": "nine"})), Source::Defaults),
        ("refused by the check", with("config", json!({"number": 13})), Source::Defaults),
        ("with a reference into nowhere", with("config", json!({"name": "${env:CENTRAL_HUB_NONE}"})), Source::Defaults),
        ("a tombstone", with("config", json!(null)).replace("\"version\":2", "\"version\":null"), Source::Defaults),
    ];
    let hub = Hub::fresh().await;
    set(&hub, json!({"number": 1})).await;
    let reachable = client(hub.process.options()).await;
    let check = |settings: &Settings| if settings.number == 13 { Err("unlucky") } else { Ok(()) };
    for (name, text, source) in cases {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tick.json");
        std::fs::write(&file, text).unwrap();
        let config = config(&lonely().await, folder.path()).patience(QUICK).validate(check).start().await.unwrap();
        assert_eq!(config.get().source, *source, "{name}");
        assert_eq!(config.get().number, if *source == Source::File { 9 } else { 0 }, "{name}");
        assert_eq!(&std::fs::read_to_string(&file).unwrap(), text, "{name}: it is left alone");

        // With a hub: its epoch is far above 7, and the file becomes good.
        let config = crate::service::config(&reachable, folder.path()).validate(check).start().await.unwrap();
        assert_eq!((config.get().source, config.get().number), (Source::Hub, 1), "{name}");
        eventually(SOON, || async {
            let written: Value =
                serde_json::from_slice(&std::fs::read(&file).unwrap()).map_err(|error| error.to_string())?;
            if written["config"] == json!({"number": 1}) { Ok(()) } else { Err(format!("{name}: {written}")) }
        })
        .await;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_last_good_file_that_cannot_be_written_costs_nothing_else() {
    let hub = Hub::fresh().await;
    set(&hub, json!({"number": 1})).await;
    let service = client(hub.process.options()).await;
    let scratch = tempfile::tempdir().unwrap();
    // A file in the place of a folder, a folder in the place of the file, and a place where nothing can be.
    let in_the_way = scratch.path().join("file");
    std::fs::write(&in_the_way, "").unwrap();
    let taken = scratch.path().join("folder");
    std::fs::create_dir_all(taken.join("tick.json/x")).unwrap();
    for folder in [in_the_way, taken, Path::new("/proc/no/such").to_owned()] {
        let config = config(&service, &folder).start().await.unwrap();
        let number = config.get().number;
        assert_eq!(config.get().source, Source::Hub, "{}", folder.display());
        set(&hub, json!({"number": number + 1})).await;
        number_is(&config, number + 1, SOON).await;
        let fine = |path: &std::path::PathBuf| path.ends_with("tick.json") || path.ends_with("tick.json.lock");
        eventually(SOON, || async {
            let entries = std::fs::read_dir(&folder).into_iter().flatten();
            let left: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| !fine(path)).collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

#[tokio::test]
async fn processes_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::fresh().await;
    set(&hub, json!({"number": 0})).await;
    let mut configs = Vec::new();
    for _ in 0..4 {
        // A connection each, as of processes of their own.
        configs.push(config(&client(hub.process.options()).await, folder.path()).start().await.unwrap());
    }
    for number in 1..20 {
        set(&hub, json!({"number": number})).await;
    }
    for config in &configs {
        number_is(config, 19, SOON).await;
    }
    let revision = configs[0].get().position.unwrap().revision;
    eventually(SOON, || async {
        let file: Value = serde_json::from_slice(&std::fs::read(folder.path().join("tick.json")).unwrap()).unwrap();
        if file["revision"] == revision { Ok(()) } else { Err(file) }
    })
    .await;
    let later = config(&lonely().await, folder.path()).patience(QUICK).start().await.unwrap();
    assert_eq!((later.get().source, later.get().number), (Source::File, 19));
}

#[tokio::test]
async fn without_anything_that_fits_there_is_no_start() {
    let service = lonely().await;
    let builder = || service.config::<Settings>(SERVICE.parse().unwrap()).without_cache().patience(QUICK);
    let error = builder().start().await.unwrap_err();
    let ConfigError::Nothing { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(cause, "missing field `number`");
    let error = builder().safe_defaults([1, 2]).start().await.unwrap_err();
    assert!(matches!(&error, ConfigError::Defaults(_)), "{error}");
    assert_eq!(builder().safe_defaults(json!({"number": 4})).start().await.unwrap().get().number, 4);

    let hub = Hub::fresh().await;
    set(&hub, json!({"number": 1})).await;
    let service = client(hub.process.options()).await;
    let config = service.config::<Settings>(SERVICE.parse().unwrap()).without_cache().start().await.unwrap();
    assert_eq!(config.get().number, 1, "no defaults are needed where the hub has everything");
    // A delete would leave nothing that fits.
    hub.ask(&format!("config.delete.{SERVICE}"), "").await;
    let refusal = eventually(SOON, || async { config.refusal() }).await;
    assert_eq!((refusal.as_str(), config.get().number), ("missing field `number`", 1));
}

/// A rollout puts a config on trial in the key of the service, for the instances that it lists.
#[tokio::test]
async fn an_instance_on_trial_takes_the_canary() {
    let hub = Hub::fresh().await;
    let nats = private_nats().await;
    let folder = tempfile::tempdir().unwrap();
    let prefix = unique();
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let bucket = jetstream::kv::Config { bucket: format!("{prefix}_config"), ..Default::default() };
    let kv = context.create_key_value(bucket).await.unwrap();
    let put = async |revision: i64, number: i64, canary: Value| {
        let value = json!({"service_name": SERVICE, "epoch": 1, "revision": revision, "version": 1, "checksum": "c1",
            "config": {"number": number}, "canary": canary});
        kv.put(SERVICE, value.to_string().into()).await.unwrap();
    };
    put(1, 1, Value::Null).await;
    // Registered at a hub; its config comes from a bucket that this test writes.
    let watches = client_at(&nats.url(), &prefix).await;
    let config = config(&watches, folder.path()).start().await.unwrap();
    let seen = Observer::of(&config);
    let me = client(hub.process.options()).await.register(Register::new(SERVICE.parse().unwrap())).await.unwrap();
    me.report_config(&config);
    let canary = |instances: Vec<String>| json!({"version": 2, "revision": 2, "checksum": "c2", "config": {"number": 2}, "instances": instances});
    put(1, 1, canary(vec!["somebody-else".into()])).await;
    put(1, 1, canary(vec!["somebody-else".into(), me.instance_id().to_string()])).await;
    let now = number_is(&config, 2, SOON).await;
    assert!(now.is_canary && now.version == Some(2), "{now:?}");
    let told = eventually(SOON, || async {
        let found = hub.ask(&format!("services.get.{SERVICE}"), "").await;
        if found["instances"][0]["config_revision"] == 2 { Ok(found) } else { Err(found) }
    })
    .await;
    assert_eq!(told["instances"][0]["config_version"], 2);
    let file: Value = serde_json::from_slice(&std::fs::read(folder.path().join("tick.json")).unwrap()).unwrap();
    assert_eq!(file["revision"], 1, "what is on trial isn't kept");
    put(3, 1, Value::Null).await;
    let now = number_is(&config, 1, SOON).await;
    assert!(!now.is_canary);
    seen.never_went_back();
    me.deregister().await.unwrap();
}

/// The stock way to see all that is there works beside ours: untyped, without any type of one's own.
#[tokio::test]
async fn a_config_without_a_type() {
    let hub = Hub::fresh().await;
    let service = client(hub.process.options()).await;
    let seen = Arc::new(Mutex::new(0));
    let count = Arc::clone(&seen);
    let config = service
        .config::<Map<String, Value>>(SERVICE.parse().unwrap())
        .safe_defaults(json!({"a": {"b": 1}}))
        .without_cache()
        .validate(move |_| {
            *count.lock().unwrap() += 1;
            Ok::<_, String>(())
        });
    let mut config = config.start().await.unwrap();
    set(&hub, json!({"a": {"c": 2}})).await;
    let now = config.changed().await;
    assert_eq!(Value::Object((*now.value()).clone()), json!({"a": {"b": 1, "c": 2}}));
    assert_eq!(now["a"]["c"], 2);
    assert_eq!(*seen.lock().unwrap(), 2, "each is checked once");
}
