//! The registry: who registers under which name, whose word counts, draining, finding, paging.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::ask::{Asker, Hub};
use crate::stack::{HubOptions, database, private_nats_with};

/// Registers and gives the incarnation.
async fn register(hub: &Asker, service: &str, body: Value) -> i64 {
    hub.ask(&format!("register.{service}"), body).await["incarnation"].as_i64().unwrap()
}

/// The instances of a service, in the order of their ids.
async fn instances(hub: &Asker, service: &str) -> Vec<Value> {
    let listed = hub.ask("services.list", json!({"service_name": service, "limit": 1000})).await;
    listed["services"].as_array().unwrap().clone()
}

fn ids(instances: &[Value]) -> Vec<&str> {
    instances.iter().map(|instance| instance["instance_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_restart_replaces_its_own_record() {
    let hub = Hub::fresh().await;
    let body = json!({
        "host": "10.0.0.5", "port": 8002, "version": "1.0", "metadata": {"zone": "a"}, "status": "degraded",
        "dependencies": ["nats", "b"], "heartbeat_interval_seconds": 12.5,
    });
    let first = register(&hub, "a", body).await;
    hub.ask("heartbeat.a", json!({"config_revision": 3, "config_version": 2, "config_error": "bad"})).await;
    let before = &instances(&hub, "a").await[0];
    assert_eq!((&before["config_revision"], &before["config_error"]), (&json!(3), &json!("bad")));

    let answer =
        hub.ask("register", json!({"service_name": "a", "host": "10.0.0.5", "port": 8002, "version": "1.1"})).await;
    assert_eq!(answer["instance_id"], "10_0_0_5-8002");
    assert!(answer["incarnation"].as_i64().unwrap() > first);
    let all = instances(&hub, "a").await;
    let [after] = &all[..] else { panic!("one record, not {all:?}") };
    assert_eq!(after["incarnation"], answer["incarnation"]);
    assert!(after["registered_at"].as_str() > before["registered_at"].as_str());
    // All that it said before is gone: it is another process.
    let expected = json!({
        "service_name": "a", "instance_id": "10_0_0_5-8002", "incarnation": answer["incarnation"], "status": "healthy",
        "draining": false, "version": "1.1", "host": "10.0.0.5", "port": 8002, "dependencies": [], "metadata": {},
        "config_revision": null, "config_version": null, "config_error": null,
        "registered_at": after["registered_at"], "last_heartbeat": after["last_heartbeat"],
    });
    assert_eq!(after, &expected);
}

#[tokio::test]
async fn each_process_has_an_id() {
    let hub = Hub::fresh().await;
    let id = async |body: Value| hub.ask("register.a", body).await["instance_id"].as_str().unwrap().to_owned();
    assert_eq!(id(json!({"instance_id": "_mine-1", "host": "h", "port": 1})).await, "_mine-1");
    assert_eq!(id(json!({"host": "db.example", "port": 65535})).await, "db_example-65535");
    let named = [id(json!({"host": "::1", "port": 80})).await, id(json!({"host": "::1", "port": 80})).await];
    assert_eq!(named[0], named[1], "the same address, the same id");
    assert_ne!(named[0], id(json!({"host": "--1", "port": 80})).await, "another address, another id");
    let made_up = [id(json!({})).await, id(json!({"host": "h"})).await, id(json!({"port": 9})).await];
    let all: BTreeSet<_> = made_up.iter().chain(&named).collect();
    assert_eq!(all.len(), 4, "made up, each its own: {all:?}");
    assert_eq!(instances(&hub, "a").await.len(), 7);
    // The same id under another service is another instance.
    hub.ask("register.b", json!({"instance_id": "_mine-1"})).await;
    assert_eq!(instances(&hub, "a").await.len(), 7);
}

#[tokio::test]
async fn only_the_newest_incarnation_speaks() {
    let hub = Hub::fresh().await;
    let old = register(&hub, "a", json!({"instance_id": "i"})).await;
    let new = register(&hub, "a", json!({"instance_id": "i"})).await;
    let unchanged = instances(&hub, "a").await;
    for call in ["heartbeat.a", "deregister.a"] {
        for named in [json!({"instance_id": "i", "incarnation": old}), json!({"incarnation": old})] {
            let details = hub.refused(call, named, "stale_incarnation", "incarnation").await;
            assert_eq!(details["current_incarnation"], new);
        }
        // One that Postgres doesn't know: it may have been lost with a restored database.
        let unknown = json!({"instance_id": "i", "incarnation": new + 1});
        hub.refused(call, unknown, "not_registered", None).await;
    }
    assert_eq!(instances(&hub, "a").await, unchanged);
    hub.ask("heartbeat.a", json!({"instance_id": "i", "incarnation": new})).await;
    let gone = hub.ask("deregister.a", json!({"instance_id": "i", "incarnation": new})).await;
    assert_eq!(gone, json!({"service_name": "a", "instance_id": "i"}));
    for call in ["heartbeat.a", "deregister.a"] {
        for body in [json!({}), json!({"instance_id": "i"}), json!({"instance_id": "i", "incarnation": new})] {
            hub.refused(call, body, "not_registered", None).await;
        }
    }
    assert_eq!(instances(&hub, "a").await, [] as [Value; 0], "a heartbeat never brings an instance back");
    assert!(register(&hub, "a", json!({"instance_id": "i"})).await > new);
}

#[tokio::test]
async fn of_registrations_at_the_same_time_the_newest_stays() {
    let one = Hub::fresh().await;
    let _other = Hub::start(one.process.options().replica()).await;
    let made = join_all((0..30).map(|_| register(&one, "a", json!({"instance_id": "i"})))).await;
    let distinct: BTreeSet<_> = made.iter().collect();
    assert_eq!(distinct.len(), made.len(), "each registration has its own number");
    let all = instances(&one, "a").await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["incarnation"], *distinct.into_iter().max().unwrap());
}

#[tokio::test]
async fn one_of_several_instances_must_be_named() {
    let hub = Hub::fresh().await;
    for id in ["c", "a", "b"] {
        register(&hub, "s", json!({"instance_id": id})).await;
    }
    register(&hub, "other", json!({"instance_id": "z"})).await;
    for (call, body) in
        [("heartbeat.s", json!({})), ("deregister.s", json!({})), ("services.drain.s", json!({"draining": true}))]
    {
        let details = hub.refused(call, body, "ambiguous_instance", "instance_id").await;
        let mut listed: Vec<_> =
            details["instances"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        listed.sort_unstable();
        assert_eq!(listed, ["a", "b", "c"]);
    }
    assert_eq!(hub.ask("heartbeat.s", json!({"instance_id": "b"})).await["instance_id"], "b");
    for id in ["a", "b"] {
        hub.ask("deregister.s", json!({"instance_id": id})).await;
    }
    assert_eq!(hub.ask("heartbeat.s", "").await["instance_id"], "c", "the only one needn't be named");
    assert_eq!(hub.ask("deregister.s", "").await["instance_id"], "c");
}

#[tokio::test]
async fn draining_is_undone_by_an_operator_only() {
    let hub = Hub::fresh().await;
    hub.refused("services.drain.a", json!({"draining": true}), "not_found", None).await;
    register(&hub, "a", json!({"host": "h", "port": 1})).await;
    hub.refused("services.drain.a", json!({"draining": true, "instance_id": "x"}), "not_found", None).await;
    let drained = hub.ask("services.drain.a", json!({"draining": true, "reason": "host is replaced"})).await;
    assert_eq!(drained, instances(&hub, "a").await[0], "the answer is the instance");
    let is_draining = async || instances(&hub, "a").await[0]["draining"].as_bool().unwrap();
    assert!(is_draining().await);
    hub.ask("heartbeat.a", "").await;
    hub.ask("heartbeat.a", json!({"status": "degraded"})).await;
    assert!(is_draining().await, "heartbeats don't undo it");
    register(&hub, "a", json!({"host": "h", "port": 1})).await;
    assert!(is_draining().await, "a restart doesn't undo it");
    assert_eq!(hub.ask("services.get.a", "").await["host"], Value::Null);
    assert_eq!(hub.ask("services.drain.a", json!({"draining": false})).await["draining"], false);
    assert_eq!(hub.ask("services.get.a", "").await["host"], "h");
}

#[tokio::test]
async fn a_service_is_found_where_it_can_be_used() {
    let hub = Hub::fresh().await;
    hub.refused("services.get.a", "", "not_found", None).await;
    // Asked often enough: a choice that spreads misses one of two in 40 calls once in 10¹².
    let found = async || {
        let answers = join_all((0..40).map(|_| hub.ask("services.get.a", ""))).await;
        let addresses: BTreeSet<_> = answers.iter().map(|a| (a["host"].to_string(), a["port"].to_string())).collect();
        (
            answers[0]["status"].clone(),
            addresses.into_iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>(),
        )
    };
    let say = async |id: &str, status: &str| hub.ask("heartbeat.a", json!({"instance_id": id, "status": status})).await;
    for (index, id) in ["one", "two", "drained", "poor", "dead"].iter().enumerate() {
        register(&hub, "a", json!({"instance_id": id, "host": id, "port": index + 1})).await;
    }
    register(&hub, "a", json!({"instance_id": "nowhere"})).await;
    hub.ask("services.drain.a", json!({"instance_id": "drained", "draining": true})).await;
    say("poor", "degraded").await;
    say("dead", "down").await;
    assert_eq!(found().await, (json!("healthy"), vec!["\"one\":1".to_owned(), "\"two\":2".to_owned()]));
    let instances = hub.ask("services.get.a", "").await["instances"].as_array().unwrap().clone();
    assert_eq!(ids(&instances), ["dead", "drained", "nowhere", "one", "poor", "two"]);

    say("one", "down").await;
    assert_eq!(found().await, (json!("healthy"), vec!["\"two\":2".to_owned()]));
    say("two", "degraded").await;
    say("nowhere", "degraded").await;
    let fallback = vec!["\"poor\":4".to_owned(), "\"two\":2".to_owned()];
    assert_eq!(found().await, (json!("healthy"), fallback.clone()), "healthy is only the drained one");
    say("drained", "down").await;
    assert_eq!(found().await, (json!("degraded"), fallback));
    for id in ["two", "poor", "nowhere"] {
        say(id, "down").await;
    }
    assert_eq!(found().await, (json!("down"), vec!["null:null".to_owned()]));
}

#[tokio::test]
async fn the_list_is_filtered() {
    let hub = Hub::fresh().await;
    let meta = json!({"zone": "a", "rack": {"row": 7, "shelves": [1, 2]}, "weight": 1.5, "tags": ["x", "y"]});
    register(&hub, "s", json!({"instance_id": "1", "metadata": meta})).await;
    register(&hub, "s", json!({"instance_id": "2", "metadata": {"zone": "b", "rack": {"row": 7}}})).await;
    register(&hub, "s", json!({"instance_id": "3", "status": "degraded"})).await;
    register(&hub, "t", json!({"instance_id": "4", "metadata": {"zone": "a"}})).await;
    hub.ask("services.drain.t", json!({"draining": true})).await;
    let list = async |mut filter: Value| {
        filter["limit"] = json!(1000);
        let listed = hub.ask("services.list", filter).await;
        let listed = listed["services"].as_array().unwrap().clone();
        listed
            .iter()
            .filter(|i| i["service_name"] != "central-hub")
            .map(|i| i["instance_id"].as_str().unwrap().to_owned())
            .collect::<String>()
    };
    assert_eq!(list(json!({})).await, "1234");
    assert_eq!(list(json!({"service_name": "s"})).await, "123");
    assert_eq!(list(json!({"service_name": "nobody"})).await, "");
    assert_eq!(list(json!({"status": "healthy"})).await, "124");
    assert_eq!(list(json!({"status": "degraded", "service_name": "s"})).await, "3");
    assert_eq!(list(json!({"status": "down"})).await, "");
    assert_eq!(list(json!({"include_draining": false})).await, "123");
    assert_eq!(list(json!({"include_draining": true})).await, "1234");
    assert_eq!(list(json!({"metadata": {"zone": "a"}})).await, "14");
    assert_eq!(list(json!({"metadata": {"zone": "a"}, "include_draining": false})).await, "1");
    assert_eq!(list(json!({"metadata": {"rack": {"row": 7}}})).await, "12");
    assert_eq!(list(json!({"metadata": {"rack": {"row": 7}, "zone": "b"}})).await, "2");
    assert_eq!(list(json!({"metadata": {"weight": 1.5}})).await, "1");
    assert_eq!(list(json!({"metadata": {"tags": ["y"]}})).await, "1");
    assert_eq!(list(json!({"metadata": {"zone": "c"}})).await, "");
    assert_eq!(list(json!({"metadata": {}})).await, "1234");
}

/// Pages through the list and gives the ids of each page.
async fn pages(hub: &Asker, mut request: Value) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        assert!(pages.len() < 100, "it comes to an end");
        let page = hub.ask("services.list", &request).await;
        pages.push(ids(page["services"].as_array().unwrap()).into_iter().map(str::to_owned).collect());
        match page.get("next_cursor") {
            Some(cursor) => request["cursor"] = cursor.clone(),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn pages_lose_nothing_and_repeat_nothing() {
    let hub = Hub::fresh().await;
    let mut expected: Vec<String> =
        (0..21).map(|index| format!("{}_{index}", ["-", "B", "a", "_"][index % 4])).collect();
    join_all(expected.iter().map(|id| register(&hub, "s", json!({"instance_id": id})))).await;
    expected.sort();
    for limit in [1, 4, 7, 20, 21, 22, 1000] {
        let pages = pages(&hub, json!({"service_name": "s", "limit": limit})).await;
        assert_eq!(
            pages.len(),
            21_usize.div_ceil(limit),
            "limit {limit}; a last page that is full says that it is the last"
        );
        assert!(pages.iter().all(|page| page.len() <= limit));
        let mut listed = pages.concat();
        listed.sort();
        assert_eq!(listed, expected, "limit {limit}");
    }
    // Many services, and a cursor whose instance has left since.
    for service in ["r", "t", "u"] {
        register(&hub, service, json!({"instance_id": "i"})).await;
    }
    let first = hub.ask("services.list", json!({"limit": 2})).await;
    let last = first["services"][1].clone();
    let (service, instance) = (last["service_name"].as_str().unwrap(), &last["instance_id"]);
    hub.ask(&format!("deregister.{service}"), json!({"instance_id": instance})).await;
    let rest = pages(&hub, json!({"limit": 1000, "cursor": first["next_cursor"]})).await.concat();
    assert_eq!(rest.len(), 1 + 21 + 3 - 2);
}

#[tokio::test]
async fn a_page_ends_where_a_message_would_be_too_large() {
    let hub = Hub::fresh().await;
    let metadata = json!({"x": "m".repeat(30 * 1024)});
    join_all((0..80).map(|index| {
        register(&hub, "s", json!({"instance_id": format!("{index:02}"), "host": "h", "port": 1, "metadata": metadata}))
    }))
    .await;
    let pages = pages(&hub, json!({"service_name": "s", "limit": 1000})).await;
    assert_eq!(pages.len(), 3, "80 × 30 KiB in messages of 1 MiB");
    assert!(pages[0].len() > 30, "and each is as full as it can be");
    let mut listed = pages.concat();
    listed.sort();
    assert_eq!(listed, (0..80).map(|index| format!("{index:02}")).collect::<Vec<_>>());
    assert_eq!(hub.ask("services.get.s", "").await["host"], "h", "even a service of such instances is found");
}

/// A list never ends early without saying so.
#[tokio::test]
async fn an_instance_that_no_message_carries_does_not_end_the_list() {
    let nats = private_nats_with("max_payload: 16384").await;
    let hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    register(&hub, "a", json!({"instance_id": "i", "metadata": {"x": "m".repeat(16_300)}})).await;
    register(&hub, "b", json!({"instance_id": "j"})).await;
    for body in [json!({}), json!({"service_name": "a"}), json!({"limit": 1})] {
        hub.refused("services.list", body, "too_large", "reply").await;
    }
    hub.refused("services.get.a", "", "too_large", "reply").await;
    assert_eq!(ids(&instances(&hub, "b").await), ["j"]);
}

#[tokio::test]
async fn dependencies_are_told_and_may_be_required() {
    let hub = Hub::fresh().await;
    for (service, status) in [("well", "healthy"), ("poor", "degraded"), ("dead", "down"), ("mixed", "down")] {
        register(&hub, service, json!({"instance_id": "1", "status": status})).await;
    }
    register(&hub, "mixed", json!({"instance_id": "2"})).await;
    let names = json!(["nobody", "dead", "poor", "well", "mixed", "central-hub"]);
    let registered = hub.ask("register.a", json!({"instance_id": "i", "dependencies": names})).await;
    let expected = [
        ("nobody", "unknown"),
        ("dead", "down"),
        ("poor", "degraded"),
        ("well", "healthy"),
        ("mixed", "healthy"),
        ("central-hub", "healthy"),
    ];
    let expected: Vec<_> = expected.iter().map(|(name, status)| json!({"name": name, "status": status})).collect();
    assert_eq!(registered["dependencies"], json!(expected), "in the order in which they were named");
    assert_eq!(instances(&hub, "a").await[0]["dependencies"], names);

    let all = json!({"instance_id": "j", "dependencies": names, "require_dependencies": true});
    let details = hub.refused("register.a", all, "dependency_unavailable", "dependencies").await;
    let missing = [("nobody", "unknown"), ("dead", "down")];
    assert_eq!(details["dependencies"], json!(missing.map(|(name, status)| json!({"name": name, "status": status}))));
    assert_eq!(ids(&instances(&hub, "a").await), ["i"], "nothing was written");
    let there = json!({"instance_id": "j", "dependencies": ["poor", "well"], "require_dependencies": true});
    hub.ask("register.a", there).await;

    let odd = json!({"instance_id": "k", "host": "h", "dependencies": ["well", "well", "a"]});
    let warnings = hub.ask("register.a", odd).await["warnings"].to_string();
    for part in ["well is named twice", "depends on itself", "host and port"] {
        assert!(warnings.contains(part), "{warnings}");
    }
}

#[tokio::test]
async fn what_leaves_leaves_its_history() {
    let hub = Hub::fresh().await;
    register(&hub, "a", json!({"instance_id": "i"})).await;
    hub.ask("heartbeat.a", json!({"metrics": {"cpu": 0.5}})).await;
    hub.ask("deregister.a", "").await;
    let database = hub.database().await;
    let count = async |sql: &str| database.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count("SELECT count(*) FROM service_registry WHERE service_name = 'a'").await, 0);
    assert_eq!(count("SELECT count(*) FROM health_metrics WHERE service_name = 'a'").await, 1);
    assert_eq!(count("SELECT count(*) FROM hub_events WHERE service_name = 'a'").await, 2);
}

#[tokio::test]
async fn the_hub_is_in_its_own_registry() {
    let mut hub = Hub::fresh().await;
    let other = Hub::start(hub.process.options().replica()).await;
    let replicas: BTreeSet<_> = [&hub, &other].iter().map(|hub| hub.process.options().replica_id.clone()).collect();
    let found = async || {
        let all = instances(&other, "central-hub").await;
        assert!(all.iter().all(|replica| replica["status"] == "healthy"), "{all:?}");
        ids(&all).into_iter().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    crate::stack::eventually(crate::ask::SOON, || async { found().await == replicas }).await;
    let leaving = hub.process.options().replica_id.clone();
    hub.process.stop().await;
    let left: Vec<_> = replicas.into_iter().filter(|id| *id != leaving).collect();
    assert_eq!(found().await.into_iter().collect::<Vec<_>>(), left, "it says goodbye before it ends");
}
