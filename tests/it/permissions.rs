//! The users that ship: each can do its part, and none can do another's.

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, pull, push};
use async_nats::jetstream::{self, kv};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::identities::{Caller, Guarded, PATIENCE};
use crate::stack::eventually;

/// The service that the shipped file has a user for.
const SERVICE: &str = "tick-aggregator";

/// A watch of a key, or of several, as our clients open it: a consumer with a name, so that the filter stands in the
/// subject, where the server checks it.
async fn watch(caller: &Caller, bucket: &str, keys: &str) -> push::Ordered {
    let config = push::OrderedConfig {
        name: Some(nuid::next().to_string()),
        deliver_subject: caller.client.new_inbox(),
        filter_subject: format!("$KV.{bucket}.{keys}"),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ..Default::default()
    };
    let consumer = caller.jetstream().create_consumer_on_stream(config, format!("KV_{bucket}")).await.unwrap();
    consumer.messages().await.unwrap()
}

async fn next(watch: &mut push::Ordered) -> Value {
    let message = timeout(PATIENCE, watch.next()).await.expect("in time").expect("the watch goes on").unwrap();
    serde_json::from_slice(&message.payload).unwrap()
}

/// All values of a bucket, as somebody sees them who may read it all.
async fn entries(store: &kv::Store) -> Vec<(String, String)> {
    let mut keys: Vec<String> = store.keys().await.unwrap().try_collect().await.unwrap();
    keys.sort_unstable();
    let mut all = Vec::new();
    for key in keys {
        // A record that changes while it is looked at is looked at again by the caller.
        if let Some(value) = store.get(&key).await.unwrap() {
            all.push((key, String::from_utf8_lossy(&value).into_owned()));
        }
    }
    all
}

#[tokio::test]
async fn the_hub_works_with_an_identity_for_answers_and_one_for_writes() {
    let guarded = Guarded::start(&[]).await;
    let operator = guarded.caller("operator").await;
    let mut live = operator.client.subscribe("hub.events.>").await.unwrap();
    operator.client.flush().await.unwrap();

    let registered = operator.ask("hub.register", r#"{"service_name":"a","instance_id":"i"}"#).await;
    assert_eq!(registered["status"], "healthy", "{registered}");
    assert_eq!(operator.ask("hub.register.a", r#"{"instance_id":"i"}"#).await["instance_id"], "i");
    assert_eq!(operator.ask("hub.heartbeat.a", r#"{"status":"degraded"}"#).await["status"], "degraded");
    assert_eq!(operator.ask("hub.services.list", r#"{"service_name":"a"}"#).await["services"][0]["status"], "degraded");
    assert_eq!(operator.ask("hub.services.get.a", "").await["status"], "degraded");
    assert_eq!(operator.ask("hub.services.drain.a", r#"{"draining":true}"#).await["draining"], true);
    let set = operator.ask("hub.config.set.a", r#"{"config":{"n":1}}"#).await;
    assert_eq!((&set["version"], &set["published"]), (&json!(1), &json!(true)), "{set}");
    assert_eq!(operator.ask("hub.config.get.a", "").await["config"], json!({"n": 1}));
    assert_eq!(operator.ask("hub.config.history.a", "").await["activations"][0]["revision"], set["revision"]);
    assert_eq!(operator.ask("hub.config.list", "").await["configs"][0]["service_name"], "a");
    assert_eq!(operator.ask("hub.deregister.a", "").await["instance_id"], "i");

    // What the hub publishes: live, from the stream, and in KV through the stock clients.
    let expected =
        ["hub.events.service.a.registered", "hub.events.config.a.published", "hub.events.service.a.deregistered"];
    let mut missing = expected.to_vec();
    let all_came = async {
        while !missing.is_empty() {
            let message = live.next().await.expect("the subscription goes on");
            missing.retain(|subject| *subject != message.subject.as_str());
        }
    };
    let all_came = timeout(PATIENCE, all_came).await;
    assert!(all_came.is_ok(), "{missing:?}");
    let jetstream = operator.jetstream();
    let stream = jetstream.get_stream("HUB_EVENTS").await.unwrap();
    let pull =
        pull::Config { ack_policy: AckPolicy::Explicit, filter_subject: expected[1].into(), ..Default::default() };
    let pull: consumer::PullConsumer = stream.create_consumer(pull).await.unwrap();
    let mut pulled = pull.fetch().max_messages(1).messages().await.unwrap();
    let message = pulled.next().await.expect("an event").unwrap();
    message.ack().await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&message.payload).unwrap()["kind"], "published");
    let configs = jetstream.get_key_value("hub_config").await.unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&configs.get("a").await.unwrap().unwrap()).unwrap()["config"],
        json!({"n": 1})
    );
    let mut watch = configs.watch_with_history("a").await.unwrap();
    operator.ask("hub.config.set.a", r#"{"config":{"n":2}}"#).await;
    let saw_both = async {
        while let Some(entry) = watch.next().await {
            if serde_json::from_slice::<Value>(&entry.unwrap().value).unwrap()["config"] == json!({"n": 2}) {
                return;
            }
        }
    };
    timeout(PATIENCE, saw_both).await.expect("the watch brings the new config");

    // Service discovery of NATS itself.
    for verb in ["PING", "INFO", "STATS"] {
        for subject in [format!("$SRV.{verb}"), format!("$SRV.{verb}.central-hub")] {
            assert_eq!(operator.ask(&subject, "").await["name"], "central-hub", "{subject}");
        }
    }
    assert_eq!(operator.refusals(), Vec::<String>::new(), "nothing of this is beyond an operator");
    assert_eq!(guarded.complaints(), Vec::<String>::new(), "the hub needs nothing that it may not do");
}

#[tokio::test]
async fn the_hub_may_put_right_what_somebody_broke() {
    let mut guarded = Guarded::start_open().await;
    let operator = guarded.caller("operator").await;
    let anyone = Caller::connect(&guarded.nats, async_nats::ConnectOptions::new()).await;
    operator.ask("hub.register.a", r#"{"instance_id":"i"}"#).await;
    operator.ask("hub.config.set.a", r#"{"config":{"n":1}}"#).await;
    let jetstream = anyone.jetstream();
    let read = async |bucket: &str, key: &str| {
        let value = jetstream.get_key_value(bucket).await.ok()?.get(key).await.ok()??;
        Some(String::from_utf8_lossy(&value).into_owned())
    };
    let both = async || read("hub_config", "a").await.zip(read("hub_services", "a.i").await);
    let truth = eventually(PATIENCE, &both).await;
    let is_true = || async {
        let found = both().await;
        if found.as_ref() == Some(&truth) { Ok(()) } else { Err(found) }
    };

    let configs = jetstream.get_key_value("hub_config").await.unwrap();
    configs.put("a", "forged".into()).await.unwrap();
    configs.put("no.such.key", "forged".into()).await.unwrap();
    eventually(PATIENCE, is_true).await;
    eventually(PATIENCE, || async { read("hub_config", "no.such.key").await.is_none() }).await;

    // Streams that are gone.
    for stream in ["KV_hub_services", "HUB_EVENTS"] {
        jetstream.delete_stream(stream).await.unwrap();
    }
    eventually(PATIENCE, is_true).await;
    jetstream.delete_stream("KV_hub_config").await.unwrap();
    eventually(PATIENCE, is_true).await;
    operator.ask("hub.heartbeat.a", r#"{"status":"degraded"}"#).await;
    eventually(PATIENCE, || async { jetstream.get_stream("HUB_EVENTS").await.is_ok() }).await;

    // Settings that drifted, and watches that have to be opened again.
    let settings = async || Some(jetstream.get_stream("KV_hub_config").await.ok()?.cached_info().config.clone());
    let wanted = settings().await.unwrap();
    let drifted = jetstream::stream::Config { max_messages_per_subject: 2, ..wanted.clone() };
    jetstream.update_stream(drifted).await.unwrap();
    guarded.nats.restart().await.unwrap();
    eventually(PATIENCE, || async {
        settings().await.filter(|found| found.max_messages_per_subject == wanted.max_messages_per_subject)
    })
    .await;
    configs.put("a", "forged again".into()).await.unwrap();
    eventually(PATIENCE, || async { read("hub_config", "a").await.filter(|value| *value == truth.0) }).await;
    assert_eq!(guarded.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn a_service_speaks_as_itself_and_reads_its_own_config() {
    let guarded = Guarded::start(&[]).await;
    let (service, operator) = (guarded.caller(SERVICE).await, guarded.caller("operator").await);
    operator.ask("hub.register.other", r#"{"instance_id":"o"}"#).await;
    operator.ask("hub.config.set.tick-aggregator", r#"{"config":{"n":1}}"#).await;

    let registered = service.ask("hub.register.tick-aggregator", r#"{"instance_id":"t","host":"h","port":1}"#).await;
    assert_eq!(registered["config"]["version"], 1, "{registered}");
    assert_eq!(service.ask("hub.heartbeat.tick-aggregator", "").await["status"], "healthy");
    assert_eq!(service.ask("hub.config.get.tick-aggregator", "").await["config"], json!({"n": 1}));
    assert_eq!(service.ask("hub.services.get.other", "").await["instances"][0]["instance_id"], "o");
    assert_eq!(
        service.ask("hub.services.list", r#"{"service_name":"other"}"#).await["services"][0]["instance_id"],
        "o"
    );
    let key = "$JS.API.DIRECT.GET.KV_hub_config.$KV.hub_config.tick-aggregator";
    assert_eq!(service.ask(key, "").await["config"], json!({"n": 1}));

    let mut own = watch(&service, "hub_config", SERVICE).await;
    assert_eq!(next(&mut own).await["config"], json!({"n": 1}));
    operator.ask("hub.config.set.tick-aggregator", r#"{"config":{"n":2}}"#).await;
    assert_eq!(next(&mut own).await["config"], json!({"n": 2}));
    let mut others = watch(&service, "hub_services", ">").await;
    let mut seen = Vec::new();
    while !seen.iter().any(|name| name == "other") {
        seen.push(next(&mut others).await["service_name"].as_str().unwrap().to_owned());
    }
    assert_eq!(service.ask("hub.deregister.tick-aggregator", "").await["instance_id"], "t");
    // The bodies of its own subjects can't name another.
    let forged = service.ask("hub.register.tick-aggregator", r#"{"service_name":"other"}"#).await;
    assert_eq!(forged["error"]["code"], "forbidden", "{forged}");
    drop((own, others));
    assert_eq!(service.refusals(), Vec::<String>::new(), "all of this is its part");
}

#[tokio::test]
async fn a_service_can_do_nothing_else() {
    let guarded = Guarded::start(&[]).await;
    let (service, operator) = (guarded.caller(SERVICE).await, guarded.caller("operator").await);
    operator.ask("hub.register.other", r#"{"instance_id":"o"}"#).await;
    operator.ask("hub.config.set.other", r#"{"config":{"n":1}}"#).await;
    operator.ask("hub.config.set.tick-aggregator", r#"{"config":{"n":1}}"#).await;
    let jetstream = operator.jetstream();
    let configs = jetstream.get_key_value("hub_config").await.unwrap();
    let before = entries(&configs).await;

    service
        .cannot_publish(&[
            // As somebody else.
            "hub.register",
            "hub.register.other",
            "hub.heartbeat.other",
            "hub.deregister.other",
            "hub.config.get.other",
            "hub.config.get.*",
            "hub.config.get.>",
            // An operator's part.
            "hub.config.set.tick-aggregator",
            "hub.config.set.other",
            "hub.config.patch.tick-aggregator",
            "hub.config.rollback.tick-aggregator",
            "hub.config.delete.tick-aggregator",
            "hub.config.history.tick-aggregator",
            "hub.config.list",
            "hub.config.schema.set.tick-aggregator",
            "hub.config.rollout.start.tick-aggregator",
            "hub.services.drain.tick-aggregator",
            "hub.alerts.ack",
            "hub.infra.check",
            "hub.health",
            // The hub's part.
            "$KV.hub_config.tick-aggregator",
            "$KV.hub_config.other",
            "$KV.hub_services.tick-aggregator.t",
            "$KV.hub_infra.nats",
            "hub.events.service.tick-aggregator.registered",
            "hub.alerts.critical.service.tick-aggregator",
            "_INBOX.operator.x",
            "_INBOX.tick-aggregator.x",
            "_R_.x",
            // Streams.
            "$JS.API.INFO",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.INFO.KV_hub_config",
            "$JS.API.STREAM.CREATE.mine",
            "$JS.API.STREAM.UPDATE.KV_hub_config",
            "$JS.API.STREAM.DELETE.KV_hub_config",
            "$JS.API.STREAM.PURGE.KV_hub_config",
            "$JS.API.STREAM.SNAPSHOT.KV_hub_config",
            "$JS.API.STREAM.RESTORE.KV_hub_config",
            "$JS.API.STREAM.MSG.DELETE.KV_hub_config",
            "$JS.API.STREAM.MSG.GET.KV_hub_config",
            "$JS.API.STREAM.DELETE.KV_hub_services",
            "$JS.API.STREAM.DELETE.HUB_EVENTS",
            // Others' keys: without the key in the subject, with another's, with all.
            "$JS.API.DIRECT.GET.KV_hub_config",
            "$JS.API.DIRECT.GET.KV_hub_config.$KV.hub_config.other",
            "$JS.API.DIRECT.GET.KV_hub_config.$KV.hub_config.>",
            "$JS.API.CONSUMER.CREATE.KV_hub_config",
            "$JS.API.CONSUMER.CREATE.KV_hub_config.x",
            "$JS.API.CONSUMER.CREATE.KV_hub_config.x.$KV.hub_config.other",
            "$JS.API.CONSUMER.CREATE.KV_hub_config.x.$KV.hub_config.*",
            "$JS.API.CONSUMER.CREATE.KV_hub_config.x.$KV.hub_config.>",
            "$JS.API.CONSUMER.DURABLE.CREATE.KV_hub_config.x",
            "$JS.API.CONSUMER.CREATE.HUB_EVENTS.x.hub.events.>",
            "$JS.API.CONSUMER.LIST.KV_hub_config",
            "$JS.API.CONSUMER.NAMES.KV_hub_config",
            "$JS.API.CONSUMER.INFO.KV_hub_config.x",
            "$JS.API.CONSUMER.MSG.NEXT.KV_hub_config.x",
            "$SRV.PING",
            "$SRV.PING.central-hub",
            "$SYS.REQ.SERVER.PING",
        ])
        .await;
    service
        .cannot_subscribe(&[
            ">",
            "*.>",
            "_INBOX.>",
            "_INBOX.*.>",
            "_INBOX.operator.>",
            "_INBOX.hub-answers.>",
            "_INBOX.hub-writes.>",
            "_R_.>",
            "$KV.>",
            "$KV.hub_config.other",
            "hub.>",
            "hub.config.set.*",
            "hub.events.>",
            "$JS.ACK.>",
            "$JS.EVENT.>",
            "$SRV.PING",
        ])
        .await;
    let _subscription = service.client.queue_subscribe("hub.register.*", "central-hub".to_owned()).await.unwrap();
    service.hears(std::iter::once("hub.register.*".to_owned())).await;

    assert_eq!(entries(&configs).await, before);
    let others = operator.ask("hub.services.list", r#"{"service_name":"other"}"#).await;
    assert_eq!(others["services"][0]["instance_id"], "o");
    for role in ["reader", "health"] {
        let caller = guarded.caller(role).await;
        caller
            .cannot_publish(&[
                "hub.register",
                "hub.register.other",
                "hub.heartbeat.other",
                "hub.deregister.other",
                "hub.services.drain.other",
                "hub.config.set.other",
                "hub.config.rollback.other",
                "hub.config.rollout.start.other",
                "hub.alerts.ack",
                "hub.events.service.other.registered",
                "$KV.hub_config.other",
                "$JS.API.STREAM.DELETE.KV_hub_config",
                "$JS.API.STREAM.CREATE.mine",
                "$JS.API.CONSUMER.CREATE.KV_hub_config",
            ])
            .await;
        caller.cannot_subscribe(&[">", "_INBOX.>", "_INBOX.operator.>", "hub.config.set.*", "$KV.>"]).await;
    }
    operator
        .cannot_publish(&[
            "$KV.hub_config.other",
            "hub.events.service.other.registered",
            "hub.alerts.critical.service.other",
            "$JS.API.STREAM.DELETE.KV_hub_config",
            "$JS.API.STREAM.PURGE.HUB_EVENTS",
            "$JS.API.STREAM.CREATE.mine",
        ])
        .await;
    operator.cannot_subscribe(&[">", "_INBOX.>", "_INBOX.tick-aggregator.>", "hub.config.set.*"]).await;
    assert_eq!(guarded.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn a_dashboard_sees_everything() {
    let guarded = Guarded::start(&[]).await;
    let (reader, operator) = (guarded.caller("reader").await, guarded.caller("operator").await);
    let mut live = reader.client.subscribe("hub.events.>").await.unwrap();
    reader.client.flush().await.unwrap();
    operator.ask("hub.register.other", r#"{"instance_id":"o"}"#).await;
    operator.ask("hub.config.set.other", r#"{"config":{"n":1}}"#).await;

    timeout(PATIENCE, live.next()).await.expect("an event");
    assert_eq!(reader.ask("hub.health", "").await["status"], "healthy");
    assert_eq!(reader.ask("hub.services.get.other", "").await["status"], "healthy");
    assert_eq!(reader.ask("hub.config.get.other", "").await["version"], 1);
    assert_eq!(reader.ask("hub.config.history.other", "").await["versions"][0]["version"], 1);
    assert_eq!(reader.ask("hub.config.list", "").await["configs"][0]["service_name"], "other");
    assert_eq!(reader.ask("$SRV.STATS.central-hub", "").await["name"], "central-hub");
    let mut configs = watch(&reader, "hub_config", ">").await;
    assert_eq!(next(&mut configs).await["service_name"], "other");
    let mut services = watch(&reader, "hub_services", ">").await;
    while next(&mut services).await["service_name"] != "other" {}
    let store = reader.jetstream().get_key_value("hub_config").await.unwrap();
    assert!(store.get("other").await.unwrap().is_some());
    drop((configs, services));
    assert_eq!(reader.refusals(), Vec::<String>::new());
}

/// Who may create a consumer chooses where the server itself delivers, with the server's rights.
#[tokio::test]
async fn a_consumer_reaches_neither_other_keys_nor_subjects_that_do_something() {
    let guarded = Guarded::start(&[]).await;
    let (service, operator) = (guarded.caller(SERVICE).await, guarded.caller("operator").await);
    operator.ask("hub.register.other", r#"{"instance_id":"o"}"#).await;
    operator.ask("hub.config.set.other", r#"{"config":{"n":1}}"#).await;
    operator.ask("hub.config.set.tick-aggregator", r#"{"config":{"n":1}}"#).await;
    let jetstream = operator.jetstream();
    let configs = jetstream.get_key_value("hub_config").await.unwrap();
    let services = jetstream.get_key_value("hub_services").await.unwrap();
    let others = operator.ask("hub.services.list", r#"{"service_name":"other"}"#).await;
    let last_heartbeat = others["services"][0]["last_heartbeat"].clone();
    eventually(PATIENCE, || async { entries(&services).await.len() == 2 }).await;
    let before = (entries(&configs).await, entries(&services).await);

    let own = format!("$KV.hub_config.{SERVICE}");
    let create = async |config: Value| {
        let name = nuid::next().to_string();
        let subject = format!("$JS.API.CONSUMER.CREATE.KV_hub_config.{name}.{own}");
        let mut whole = json!({"name": name, "ack_policy": "none", "deliver_policy": "last_per_subject",
            "filter_subject": own, "deliver_subject": service.client.new_inbox()});
        whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        service.ask(&subject, &json!({"stream_name": "KV_hub_config", "config": whole}).to_string()).await
    };
    // The filter in the body must be the one in the subject.
    let other = "$KV.hub_config.other";
    for config in [
        json!({"filter_subject": other}),
        json!({"filter_subject": ""}),
        json!({"filter_subject": "$KV.hub_config.>"}),
        json!({"filter_subject": "", "filter_subjects": [other]}),
        json!({"filter_subjects": [other]}),
    ] {
        let answer = create(config.clone()).await;
        assert!(answer["error"]["code"].is_number(), "{config}: {answer}");
    }

    // Deliver an empty message again and again where somebody else would be hit by it.
    let literal = ["hub.register", "hub.services.list"];
    for subject in [
        "hub.deregister.other",
        "hub.heartbeat.other",
        "hub.config.set.other",
        "$KV.hub_config.other",
        "$KV.hub_services.other.o",
        "$JS.API.STREAM.DELETE.KV_hub_config",
        "$JS.API.STREAM.PURGE.KV_hub_services",
        "$JS.API.CONSUMER.CREATE.KV_hub_config",
    ]
    .iter()
    .chain(&literal)
    {
        for group in [None, Some("central-hub")] {
            let config = json!({"deliver_subject": subject, "deliver_group": group, "headers_only": true,
                "idle_heartbeat": 100_000_000, "flow_control": true});
            create(config).await;
        }
    }
    // Those that the hub subscribed literally do arrive: so the attack is real.
    eventually(PATIENCE, || async {
        let stats = operator.ask("$SRV.STATS.central-hub", "").await;
        let requests = |subject: &str| {
            let endpoints = stats["endpoints"].as_array().unwrap();
            endpoints.iter().find(|endpoint| endpoint["subject"] == subject).unwrap()["num_requests"].as_u64()
        };
        if literal.iter().all(|subject| requests(subject) > Some(3)) { Ok(()) } else { Err(stats) }
    })
    .await;

    assert_eq!((entries(&configs).await, entries(&services).await), before);
    let others = operator.ask("hub.services.list", r#"{"service_name":"other"}"#).await;
    assert_eq!(others["services"][0]["instance_id"], "o");
    assert_eq!(others["services"][0]["last_heartbeat"], last_heartbeat, "nobody beat for it");
    assert_eq!(operator.ask("hub.services.list", "").await["services"].as_array().unwrap().len(), 2, "it and the hub");
    assert_eq!(guarded.complaints(), Vec::<String>::new());
}
