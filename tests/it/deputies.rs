//! The confused deputy: a caller names, as the place for its answer, a subject that it may not publish to itself. The hub
//! must not do it for him: neither its code nor the rights of the user that answers let it.

use async_nats::HeaderMap;
use async_nats::jetstream::kv;
use central_hub::wire::bucket::Bucket;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::time::timeout;

use crate::identities::{Caller, Guarded, PATIENCE};
use crate::stack::{HubOptions, HubProcess, eventually, nats};

/// Subjects where an answer of the hub, or an empty body, would do something.
const TARGETS: [&str; 8] = [
    "$JS.API.STREAM.DELETE.KV_hub_config",
    "$JS.API.STREAM.PURGE.HUB_EVENTS",
    "$KV.hub_config.x",
    "$KV.hub_config.other",
    "hub.config.set.x",
    "hub.deregister.other",
    "hub.events.service.x.registered",
    "$SRV.PING",
];

/// Sends every request that a service may send, and those of an operator, with each target as the place for the answer.
async fn attack(service: &Caller, operator: &Caller) {
    for (number, target) in TARGETS.iter().enumerate() {
        let register = json!({ "instance_id": format!("t{number}") }).to_string();
        for (subject, body) in [
            ("hub.register.tick-aggregator", register.as_str()),
            ("hub.register.tick-aggregator", "not JSON"),
            ("hub.heartbeat.tick-aggregator", ""),
            ("hub.config.get.tick-aggregator", ""),
            ("hub.services.list", ""),
            ("hub.services.get.other", ""),
        ] {
            service.client.publish_with_reply(subject, *target, body.to_owned().into()).await.unwrap();
        }
        // The server's own courier: it reports the way of a message to a subject that the message names.
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Trace-Dest", *target);
        service.client.publish_with_headers("hub.services.list", headers, "".into()).await.unwrap();
        // A service may not even ask these.
        for subject in ["$SRV.PING", "$SRV.INFO.central-hub", "$SRV.STATS", "hub.health"] {
            operator.client.publish_with_reply(subject, *target, "".into()).await.unwrap();
        }
    }
    service.client.flush().await.unwrap();
    operator.client.flush().await.unwrap();
}

struct Scene {
    guarded: Guarded,
    service: Caller,
    operator: Caller,
    configs: kv::Store,
    /// What must be there afterwards, too: the streams' ages and the keys of the bucket.
    before: Vec<String>,
}

impl Scene {
    async fn set(env: &[(&str, &str)]) -> Scene {
        let guarded = Guarded::start(env).await;
        let (service, operator) = (guarded.caller("tick-aggregator").await, guarded.caller("operator").await);
        operator.ask("hub.register.other", r#"{"instance_id":"o"}"#).await;
        operator.ask("hub.config.set.other", r#"{"config":{"n":1}}"#).await;
        operator.ask("hub.config.set.tick-aggregator", r#"{"config":{"n":1}}"#).await;
        let configs = operator.jetstream().get_key_value("hub_config").await.unwrap();
        let mut scene = Scene { guarded, service, operator, configs, before: Vec::new() };
        scene.before = scene.state().await;
        scene
    }

    /// The streams' ages, the bucket's content with its revisions, and who else is registered.
    async fn state(&self) -> Vec<String> {
        let jetstream = self.operator.jetstream();
        let mut state = Vec::new();
        for stream in ["KV_hub_config", "KV_hub_services", "HUB_EVENTS"] {
            state.push(format!("{stream} {}", jetstream.get_stream(stream).await.unwrap().cached_info().created));
        }
        let mut keys: Vec<String> = self.configs.keys().await.unwrap().try_collect().await.unwrap();
        keys.sort_unstable();
        for key in keys {
            let entry = self.configs.entry(&key).await.unwrap().unwrap();
            state.push(format!("{key} {} {}", entry.revision, String::from_utf8_lossy(&entry.value)));
        }
        let configs = self.operator.ask("hub.config.list", "").await;
        let others = self.operator.ask("hub.services.list", r#"{"service_name":"other"}"#).await;
        state.extend([configs.to_string(), others.to_string()]);
        state
    }

    /// The instances of the attacker.
    async fn registered(&self) -> usize {
        let listed = self.operator.ask("hub.services.list", r#"{"service_name":"tick-aggregator"}"#).await;
        listed["services"].as_array().unwrap().len()
    }
}

#[tokio::test]
async fn the_hub_does_nothing_for_a_caller_that_wants_its_answer_elsewhere() {
    let scene = Scene::set(&[]).await;
    // An operator may listen to events; nothing may come from an answer.
    let mut events = scene.operator.client.subscribe("hub.events.service.x.registered").await.unwrap();
    attack(&scene.service, &scene.operator).await;
    eventually(PATIENCE, || async {
        scene.guarded.hub.log().contains("dropped a request that wants its answer outside the inboxes")
    })
    .await;
    // Asked behind the attack: the hub has seen all of it.
    assert_eq!(scene.service.ask("hub.heartbeat.tick-aggregator", "").await["error"]["code"], "not_registered");
    assert_eq!(scene.registered().await, 0, "dropped before any side effect");
    assert_eq!(scene.state().await, scene.before);
    let log = scene.guarded.hub.log();
    assert_eq!(log.matches("dropped a request").count(), 1, "one warning, however many there are");
    assert!(!log.contains("NATS refused"), "it didn't even try: {log}");
    assert!(!log.contains("answer could not be sent"), "{log}");
    scene.operator.client.flush().await.unwrap();
    events.unsubscribe().await.unwrap();
    assert!(events.next().await.is_none(), "no answer went there");
}

#[tokio::test]
async fn the_rights_of_the_answering_user_hold_without_the_check_in_the_code() {
    let scene = Scene::set(&[("CENTRAL_HUB_INBOXES", ">")]).await;
    let mut events = scene.operator.client.subscribe("hub.events.service.x.registered").await.unwrap();
    attack(&scene.service, &scene.operator).await;
    eventually(PATIENCE, || async {
        let log = scene.guarded.hub.log();
        let tried = |target: &&&str| log.contains(&format!("Publish to \"{target}\""));
        let left: Vec<_> = TARGETS.iter().filter(|target| !tried(target)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("not refused: {left:?}")) }
    })
    .await;
    eventually(PATIENCE, || async {
        // The requests were served: so the check was off.
        let registered = scene.registered().await;
        if registered == TARGETS.len() { Ok(()) } else { Err(registered) }
    })
    .await;
    assert_eq!(scene.state().await, scene.before);
    scene.operator.client.flush().await.unwrap();
    events.unsubscribe().await.unwrap();
    assert!(events.next().await.is_none(), "no answer went there");
    // And the hub goes on serving.
    assert_eq!(scene.operator.ask("hub.health", "").await["status"], "healthy");
}

/// What the tests above would look like if neither held: they'd fail.
#[tokio::test]
async fn a_hub_that_answers_anywhere_with_all_rights_can_be_misused() {
    let options = HubOptions::fresh().await.env("CENTRAL_HUB_INBOXES", ">");
    let mut hub = HubProcess::start(options).await;
    hub.ready().await;
    let anyone = nats().await;
    let bucket = Bucket::Config.name(&hub.options().prefix);
    let mut answers = anyone.subscribe(format!("$KV.{bucket}.x")).await.unwrap();
    let target = format!("$KV.{bucket}.x");
    anyone.publish_with_reply(hub.subject("services.list"), target, "".into()).await.unwrap();
    let answer = timeout(PATIENCE, answers.next()).await.expect("in time").expect("a subscription that goes on");
    assert!(answer.payload.starts_with(b"{\"services\":["), "{answer:?}");
}
