//! Answers: where they may go, that they fit into a message, and what the hub tells of itself under `$SRV`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use async_nats::Subscriber;
use central_hub::wire::route::ROUTES;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ask::{Answer, Asker, Hub, SOON};
use crate::stack::{HubOptions, database, eventually, private_nats_with, unique};

/// A subject that is no inbox, and who listens there.
async fn elsewhere(asker: &Asker) -> (String, Subscriber) {
    let subject = format!("elsewhere.{}", unique());
    let listener = asker.nats.subscribe(subject.clone()).await.unwrap();
    asker.nats.flush().await.unwrap();
    (subject, listener)
}

/// Checks that nothing has come: what is sent now is the first.
async fn heard_nothing(asker: &Asker, subject: &str, listener: &mut Subscriber) {
    asker.nats.publish(subject.to_owned(), "mark".into()).await.unwrap();
    let first = tokio::time::timeout(SOON, listener.next()).await.expect("the mark").unwrap();
    assert_eq!(first.payload, "mark");
}

#[tokio::test]
async fn a_request_that_wants_its_answer_elsewhere_is_dropped() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    let bucket = hub.bucket("config").await;
    let before = bucket.entry("a").await.unwrap().unwrap();
    let (subject, mut listener) = elsewhere(&hub).await;
    let others = [
        format!("$JS.API.STREAM.DELETE.KV_{}_config", hub.prefix),
        format!("$JS.API.STREAM.PURGE.KV_{}_config", hub.prefix),
        format!("$KV.{}_config.a", hub.prefix),
        hub.subject("config.set.a"),
        hub.subject("deregister.a"),
        subject.clone(),
        "_INBOX".to_owned(),
        "_INBOX.>".to_owned(),
        "_INBOX.*".to_owned(),
        "_INBOXES.a".to_owned(),
        "_inbox.a".to_owned(),
    ];
    let requests = [
        ("register", json!({"service_name": "b", "instance_id": "i"})),
        ("register.b", json!({"instance_id": "i"})),
        ("heartbeat.a", json!({"status": "degraded"})),
        ("services.drain.a", json!({"draining": true})),
        ("services.list", json!({})),
        ("services.get.a", json!({})),
        ("config.set.a", json!({"config": {"n": 2}})),
        ("config.get.a", json!({})),
        ("config.history.a", json!({})),
        ("config.list", json!({})),
        ("deregister.a", json!({})),
        ("health", json!({})),
        ("health", json!({"refused": true})),
    ];
    for (to, body) in &requests {
        for other in &others {
            hub.nats.publish_with_reply(hub.subject(to), other.clone(), body.to_string().into()).await.unwrap();
        }
    }
    hub.nats.flush().await.unwrap();
    // Each subscription is served in order: after this, all of the above have been looked at.
    for (to, _) in &requests {
        hub.refused(to, "[]", "bad_request", "body").await;
    }
    heard_nothing(&hub, &subject, &mut listener).await;

    let listed = hub.ask("services.list", "").await["services"].as_array().unwrap().clone();
    let listed: Vec<_> = listed.iter().filter(|instance| instance["service_name"] != "central-hub").collect();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["status"], &listed[0]["draining"]), (&json!("healthy"), &json!(false)));
    assert_eq!(hub.ask("config.get.a", "").await["version"], 1);
    let after = bucket.entry("a").await.unwrap().unwrap();
    assert_eq!((after.revision, after.value), (before.revision, before.value));
    let heartbeats = "SELECT count(*) FROM health_metrics WHERE service_name = 'a'";
    assert_eq!(hub.database().await.query_one(heartbeats, &[]).await.unwrap().get::<_, i64>(0), 0);
    let log = hub.process.log();
    assert_eq!(log.matches("wants its answer outside the inboxes").count(), 1, "said once a minute at most");
}

#[tokio::test]
async fn srv_answers_into_inboxes_only() {
    let hub = Hub::fresh().await;
    let id = &hub.process.options().replica_id;
    let (subject, mut listener) = elsewhere(&hub).await;
    for verb in ["PING", "INFO", "STATS"] {
        for question in
            [format!("$SRV.{verb}"), format!("$SRV.{verb}.central-hub"), format!("$SRV.{verb}.central-hub.{id}")]
        {
            hub.nats.publish_with_reply(question.clone(), subject.clone(), "".into()).await.unwrap();
            hub.nats.publish(question.clone(), "".into()).await.unwrap();
            let answer = described(&hub, &question).await;
            assert_eq!(answer["type"], format!("io.nats.micro.v1.{}_response", verb.to_lowercase()));
        }
    }
    heard_nothing(&hub, &subject, &mut listener).await;
    assert_eq!(hub.process.log().matches("wants its answer outside the inboxes").count(), 1);
}

#[tokio::test]
async fn inboxes_are_a_setting() {
    let options = HubOptions::fresh().await.env("CENTRAL_HUB_INBOXES", "_INBOX.>,answers.*.of.>");
    let hub = Hub::start(options).await;
    let (allowed, refused) = (format!("answers.{}.of.me", unique()), format!("answers.{}.by.me", unique()));
    let mut answers = hub.nats.subscribe(allowed.clone()).await.unwrap();
    let mut nothing = hub.nats.subscribe(refused.clone()).await.unwrap();
    hub.nats.publish_with_reply(hub.subject("health"), refused.clone(), "".into()).await.unwrap();
    hub.nats.publish_with_reply(hub.subject("health"), allowed, "".into()).await.unwrap();
    let answer = tokio::time::timeout(SOON, answers.next()).await.expect("an answer").unwrap();
    assert_eq!(Answer::of(answer).result().unwrap()["status"], "healthy");
    heard_nothing(&hub, &refused, &mut nothing).await;
}

/// Two accounts of one server: where a service is imported, the server itself makes the reply subject (`_R_.…`).
#[tokio::test]
async fn requests_from_another_account_are_answered() {
    let accounts = r#"
        no_auth_user: hub
        accounts {
            HUB { jetstream: enabled, users: [{user: hub, password: hub}], exports: [{service: ">"}] }
            APP { users: [{user: app, password: app}], imports: [{service: {account: HUB, subject: ">"}}] }
        }"#;
    let nats = private_nats_with(accounts).await;
    let hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    let app = async_nats::ConnectOptions::with_user_and_password("app".into(), "app".into());
    let app = app.connect(nats.url()).await.unwrap();
    let request = json!({"service_name": "a", "instance_id": "i"}).to_string();
    let answer = app.request(hub.subject("register"), request.into()).await.expect("an answer");
    assert_eq!(Answer::of(answer).result().unwrap()["instance_id"], "i");
}

#[tokio::test]
async fn who_wants_no_answer_is_served_too() {
    let hub = Hub::fresh().await;
    let tell = async |to: &str, body: Value| hub.nats.publish(hub.subject(to), body.to_string().into()).await.unwrap();
    let count = async |sql: &str| hub.database().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    let has = async |sql: &str, wanted: i64| {
        eventually(SOON, || async {
            let found = count(sql).await;
            if found == wanted { Ok(()) } else { Err(found) }
        })
        .await;
    };
    tell("register", json!({"service_name": "a", "instance_id": "i"})).await;
    has("SELECT count(*) FROM service_registry WHERE service_name = 'a'", 1).await;
    tell("heartbeat.a", json!({"status": "degraded"})).await;
    has("SELECT count(*) FROM health_metrics WHERE service_name = 'a' AND status = 'degraded'", 1).await;
    tell("services.drain.a", json!({"draining": true})).await;
    has("SELECT count(*) FROM service_registry WHERE service_name = 'a' AND draining", 1).await;
    tell("config.set.a", json!({"config": {"n": 1}})).await;
    hub.value_once("config", "a", |value| value["config"] == json!({"n": 1})).await;
    tell("deregister.a", json!({})).await;
    has("SELECT count(*) FROM service_registry WHERE service_name = 'a'", 0).await;
    // One that is refused is counted, and that is all.
    tell("deregister.a", json!({})).await;
    eventually(SOON, || async { stats(&hub, "deregister").await["num_errors"] == 1 }).await;
}

/// What this replica answers to a question under `$SRV`, which others of other tests may answer too.
async fn described(hub: &Hub, question: &str) -> Value {
    let id = &hub.process.options().replica_id;
    let inbox = hub.nats.new_inbox();
    let mut answers = hub.nats.subscribe(inbox.clone()).await.unwrap();
    hub.nats.publish_with_reply(question.to_owned(), inbox, "".into()).await.unwrap();
    loop {
        let answer = tokio::time::timeout(SOON, answers.next()).await.expect("an answer").unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        if answer["id"] == **id {
            return answer;
        }
    }
}

/// The statistics of an endpoint.
async fn stats(hub: &Hub, endpoint: &str) -> Value {
    let all = described(hub, &format!("$SRV.STATS.central-hub.{}", hub.process.options().replica_id)).await;
    all["endpoints"].as_array().unwrap().iter().find(|found| found["name"] == endpoint).unwrap().clone()
}

/// Checks that an object has exactly these members.
fn has_exactly(object: &Value, names: &[&str]) {
    let found: BTreeSet<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, names.iter().copied().collect(), "{object}");
}

fn is_text_map(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.values().all(Value::is_string))
}

/// The NATS service API, ADR-32: what the `nats micro` commands read.
#[tokio::test]
async fn the_hub_is_a_nats_service() {
    let hub = Hub::fresh().await;
    let id = hub.process.options().replica_id.clone();
    let name = |text: &Value| {
        let text = text.as_str().unwrap();
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{text}");
        text.to_owned()
    };
    for suffix in ["", ".central-hub", &format!(".central-hub.{id}")] {
        let ping = described(&hub, &format!("$SRV.PING{suffix}")).await;
        has_exactly(&ping, &["type", "name", "id", "version", "metadata"]);
        assert_eq!((&ping["type"], &ping["name"]), (&json!("io.nats.micro.v1.ping_response"), &json!("central-hub")));
        assert!(is_text_map(&ping["metadata"]), "{ping}");
        assert_eq!(ping["version"].as_str().unwrap().split('.').count(), 3, "a semantic version");

        let info = described(&hub, &format!("$SRV.INFO{suffix}")).await;
        has_exactly(&info, &["type", "name", "id", "version", "metadata", "description", "endpoints"]);
        assert_eq!(info["type"], "io.nats.micro.v1.info_response");
        assert!(!info["description"].as_str().unwrap().is_empty());
        let endpoints = info["endpoints"].as_array().unwrap();
        let mut subjects = BTreeSet::new();
        for endpoint in endpoints {
            has_exactly(endpoint, &["name", "subject", "queue_group", "metadata"]);
            assert!(is_text_map(&endpoint["metadata"]));
            name(&endpoint["queue_group"]);
            subjects.insert((name(&endpoint["name"]), endpoint["subject"].as_str().unwrap().to_owned()));
        }
        let expected = ROUTES.iter().map(|route| (route.name.to_owned(), hub.subject(route.pattern)));
        assert_eq!(subjects, expected.collect(), "every route, and nothing else");

        let stats = described(&hub, &format!("$SRV.STATS{suffix}")).await;
        has_exactly(&stats, &["type", "name", "id", "version", "metadata", "started", "endpoints"]);
        assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
        let started = OffsetDateTime::parse(stats["started"].as_str().unwrap(), &Rfc3339).unwrap();
        assert!(started < OffsetDateTime::now_utc() && started.offset().is_utc());
        for endpoint in stats["endpoints"].as_array().unwrap() {
            let counts = ["num_requests", "num_errors", "processing_time", "average_processing_time"];
            has_exactly(endpoint, &[&["name", "subject", "queue_group", "last_error"][..], &counts].concat());
            assert!(counts.iter().all(|count| endpoint[count].is_u64()), "{endpoint}");
        }
        assert_eq!(stats["endpoints"].as_array().unwrap().len(), ROUTES.len());
    }
    let nobody = hub.nats.request(format!("$SRV.PING.central-hub.{id}x"), "".into()).await;
    assert!(nobody.is_err(), "another replica's questions aren't answered");
}

#[tokio::test]
async fn requests_and_errors_are_counted() {
    let hub = Hub::fresh().await;
    let before = stats(&hub, "heartbeat").await;
    assert_eq!(
        (&before["num_requests"], &before["num_errors"], &before["last_error"]),
        (&json!(0), &json!(0), &json!(""))
    );
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    for _ in 0..3 {
        hub.ask("heartbeat.a", "").await;
    }
    hub.refused("heartbeat.a", "[]", "bad_request", "body").await;
    hub.refused("heartbeat.b", "", "not_registered", None).await;
    let after = stats(&hub, "heartbeat").await;
    assert_eq!((&after["num_requests"], &after["num_errors"]), (&json!(5), &json!(2)), "{after}");
    assert!(after["last_error"].as_str().unwrap().starts_with("404:this instance is not registered"), "{after}");
    let (time, average) =
        (after["processing_time"].as_u64().unwrap(), after["average_processing_time"].as_u64().unwrap());
    assert!(time > 5_000 && average == time / 5, "{after}");
    assert_eq!(stats(&hub, "register-as").await["num_requests"], 1);
    assert_eq!(stats(&hub, "register").await["num_requests"], 0);
    // What memory answers counts as well.
    hub.ask("config.set.a", json!({"config": {}})).await;
    for _ in 0..4 {
        hub.ask("config.get.a", "").await;
    }
    assert_eq!(stats(&hub, "config-get").await["num_requests"], 4);
}

#[tokio::test]
async fn an_answer_larger_than_a_message_is_a_refusal() {
    let nats = private_nats_with("max_payload: 65536").await;
    let hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    for n in 0..20 {
        hub.ask("config.set.a", json!({"config": {"n": n}, "comment": "🦀".repeat(1_000)})).await;
    }
    let details = hub.refused("config.history.a", "", "too_large", "reply").await;
    assert_eq!(details["limit"], 65_536);
    let history = stats(&hub, "config-history").await;
    assert_eq!((&history["num_requests"], &history["num_errors"]), (&json!(1), &json!(1)));
    assert!(history["last_error"].as_str().unwrap().starts_with("413:"), "{history}");
    let page = hub.ask("config.history.a", json!({"limit": 5})).await;
    assert_eq!(page["activations"].as_array().unwrap().len(), 5);

    // A config that no message could carry, to a watcher or to who asks, isn't taken at all: in print it is 72 KiB.
    let grown = json!({"config": {"x": vec![1e308; 236]}});
    hub.refused("config.set.b", grown, "too_large", "config").await;
    let fits = json!({"config": {"x": vec![1e308; 100]}});
    assert_eq!(hub.ask("config.set.b", &fits).await["published"], true);
    assert_eq!(hub.ask("config.get.b", "").await["config"], fits["config"]);
}

#[tokio::test]
async fn health_tells_how_the_hub_is() {
    let one = Hub::fresh().await;
    let other = Hub::start(one.process.options().replica()).await;
    let ids: BTreeSet<_> = [&one, &other].iter().map(|hub| hub.process.options().replica_id.clone()).collect();
    let found = RefCell::new(BTreeMap::new());
    eventually(SOON, || async {
        let health = one.ask("health", "").await;
        let mut found = found.borrow_mut();
        found.insert(health["replica_id"].as_str().unwrap().to_owned(), health);
        let leaders = found.values().filter(|health| health["leader"] == true).count();
        if found.keys().eq(ids.iter()) && leaders == 1 { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    for health in found.into_inner().values() {
        let names =
            ["status", "version", "replica_id", "leader", "uptime_seconds", "now", "postgres", "nats", "projection"];
        has_exactly(health, &names);
        assert!(health["uptime_seconds"].as_f64().unwrap() > 0.0);
        OffsetDateTime::parse(health["now"].as_str().unwrap(), &Rfc3339).unwrap();
        assert_eq!(health["postgres"]["status"], "healthy");
        assert!(health["postgres"]["response_time_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(health["nats"]["status"], "healthy");
        assert!(health["nats"]["rtt_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(health["nats"]["server_version"], one.nats.server_info().version);
        assert!(health["projection"]["pending"].is_i64());
    }
}
