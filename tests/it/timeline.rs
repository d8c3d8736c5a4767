//! The timeline, which tells what changed just before it broke, and the fleet at a glance.

use serde_json::{Value, json};

use crate::ask::{Hub, SOON};
use crate::stack::{HubOptions, database, eventually, private_nats_with};

/// What a page tells, without the story of the hub and its components, and what the hub makes of it all.
fn told(page: &Value) -> Vec<(&str, &str, &str)> {
    let events = page["events"].as_array().unwrap().iter();
    let rows = events.map(|event| ["service_name", "topic", "kind"].map(|name| event[name].as_str().unwrap()));
    let ours = |row: &[&str; 3]| {
        !["central-hub", "nats", "postgresql"].contains(&row[0]) && (row[0] == "queue" || row[1] != "alert")
    };
    rows.filter(ours).map(|[service, topic, kind]| (service, topic, kind)).collect()
}

#[tokio::test]
async fn everything_that_happened_stands_in_one_order_newest_first() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    hub.ask("heartbeat.a", json!({"status": "degraded"})).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}, "created_by": "ann"})).await;
    hub.ask("register.b", json!({"instance_id": "i"})).await;
    hub.ask("heartbeat.a", json!({"status": "down", "config_revision": 1})).await;
    hub.ask("services.drain.a", json!({"draining": true, "reason": "repair"})).await;
    let others = "INSERT INTO hub_events (topic, kind, service_name, details, origin) VALUES
            ('infra', 'down', 'queue', '{\"from\": \"healthy\"}', 'x'),
            ('alert', 'raised', 'queue', '{\"severity\": \"critical\", \"source\": \"infra\"}', 'x'),
            ('service', 'of-a-newer-hub', 'a', '{}', 'x');
        INSERT INTO hub_events (topic, kind, service_name, at, origin, published_at) VALUES
            ('service', 'registered', 'a', now() - interval '2 hours', 'x', now()),
            ('service', 'registered', 'a', now() - interval '2 days', 'x', now())";
    hub.database().await.batch_execute(others).await.unwrap();

    let story = [
        ("queue", "alert", "raised"),
        ("queue", "infra", "down"),
        ("a", "service", "draining"),
        ("a", "service", "applied"),
        ("a", "service", "down"),
        ("b", "service", "registered"),
        ("a", "config", "published"),
        ("a", "service", "degraded"),
        ("a", "service", "registered"),
        ("a", "service", "registered"),
    ];
    let all = hub.ask("timeline", "").await;
    assert_eq!(told(&all), story);
    let times: Vec<_> = all["events"].as_array().unwrap().iter().map(|event| event["at"].as_str().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] >= pair[1]), "{times:?}");
    let config = all["events"].as_array().unwrap().iter().find(|event| event["topic"] == "config").unwrap();
    assert_eq!((&config["details"]["by"], &config["details"]["version"]), (&json!("ann"), &json!(1)));
    let on_stream = &hub.events("config.a.published", 1).await[0];
    assert_eq!(*config, on_stream.body, "as it lies on the stream");

    let only =
        |fits: &dyn Fn(&(&str, &str, &str)) -> bool| -> Vec<_> { story.into_iter().filter(|row| fits(row)).collect() };
    let kinds = |kinds: Value| json!({"kinds": kinds});
    for (body, expected) in [
        (json!({"service_name": "a"}), only(&|row| row.0 == "a")),
        (json!({"service_name": "queue"}), only(&|row| row.0 == "queue")),
        (json!({"service_name": "nobody"}), Vec::new()),
        (kinds(json!(["config"])), only(&|row| row.1 == "config")),
        (kinds(json!(["down"])), only(&|row| row.2 == "down")),
        (
            kinds(json!(["alert", "down", "registered"])),
            only(&|row| row.1 == "alert" || ["down", "registered"].contains(&row.2)),
        ),
        (json!({"kinds": ["registered"], "service_name": "b"}), only(&|row| row.0 == "b")),
        (kinds(json!([])), story.to_vec()),
        (json!({"since_seconds": 3_600}), story[..9].to_vec()),
    ] {
        assert_eq!(told(&hub.ask("timeline", &body).await), expected, "{body}");
    }
    let older = hub.ask("timeline", json!({"since_seconds": 3 * 86_400, "service_name": "a"})).await;
    assert_eq!(told(&older).len(), 8, "what was two days ago, too");

    for (body, field) in [
        (json!({"kinds": ["exploded"]}), "kinds"),
        (json!({"kinds": "down"}), "kinds"),
        (json!({"cursor": "event/x"}), "cursor"),
        (json!({"cursor": "event/1-x"}), "cursor"),
        (json!({"since_seconds": 0}), "since_seconds"),
        (json!({"service_name": "a.b"}), "service_name"),
        (json!({"limit": 1_001}), "limit"),
    ] {
        hub.refused("timeline", &body, "bad_request", field).await;
    }
}

/// Pages, put together, are the whole, also where events share a moment and while new ones arrive.
#[tokio::test]
async fn pages_of_the_timeline_leave_nothing_out_and_repeat_nothing() {
    let hub = Hub::fresh().await;
    let events = "INSERT INTO hub_events (topic, kind, service_name, instance_id, at, origin, published_at)
        SELECT 'service', 'draining', 's' || n % 3, 'i' || n, now() - n / 10 * interval '1 second', 'x', now()
        FROM generate_series(1, 95) AS n";
    hub.database().await.batch_execute(events).await.unwrap();
    let ids = |page: &Value| -> Vec<String> {
        page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    for filter in [json!({"kinds": ["draining"]}), json!({"kinds": ["draining"], "service_name": "s1"})] {
        let mut body = filter.clone();
        body["limit"] = json!(1_000);
        let whole = ids(&hub.ask("timeline", &body).await);
        assert!(whole.len() >= 30);
        for limit in [1, 7, whole.len()] {
            let (mut found, mut cursor) = (Vec::new(), Value::Null);
            loop {
                body["limit"] = json!(limit);
                body["cursor"] = cursor;
                let page = hub.ask("timeline", &body).await;
                found.extend(ids(&page));
                hub.ask("register.s1", json!({"instance_id": "new"})).await;
                match page.get("next_cursor") {
                    Some(next) => cursor = next.clone(),
                    None => break,
                }
            }
            assert_eq!(found, whole, "{limit} a page of {filter}");
        }
    }
}

/// An event that is larger than any message: an operator's comment may have any length. It is sent, and told, without what
/// doesn't fit, and holds nothing up.
#[tokio::test]
async fn an_event_of_any_size_holds_nothing_up() {
    let nats = private_nats_with("max_payload: 32768").await;
    let hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    let insert =
        "INSERT INTO service_configs (service_name, config_data, comment) VALUES ('a', '{}', repeat('x', 100000))";
    hub.database().await.batch_execute(insert).await.unwrap();
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    assert_eq!(hub.events("service.a.registered", 1).await.len(), 1, "what comes after it is sent");
    let event = hub.events("config.a.published", 1).await.remove(0);
    assert_eq!(
        (&event.body["details"]["left_out"], &event.body["details"]["version"]),
        (&json!(["comment"]), &json!(1))
    );
    let page = hub.ask("timeline", json!({"kinds": ["config"]})).await;
    assert_eq!(page["events"], json!([event.body]));
}

#[tokio::test]
async fn the_fleet_at_a_glance() {
    let hub = Hub::fresh().await;
    let empty = hub.ask("status", "").await;
    let hub_alone = json!({"total": 1, "healthy": 1, "degraded": 0, "down": 0});
    assert_eq!((&empty["services"], &empty["instances"]), (&hub_alone, &hub_alone), "the hub is in its own registry");

    for (service, statuses) in [
        ("mixed", &["healthy", "down", "degraded"][..]),
        ("worse", &["degraded", "down"]),
        ("dead", &["down", "down"]),
        ("well", &["healthy"]),
    ] {
        for (number, status) in statuses.iter().enumerate() {
            let body = json!({"instance_id": format!("i{number}"), "status": status});
            hub.ask(&format!("register.{service}"), body).await;
        }
        hub.ask(&format!("config.set.{service}"), json!({"config": {"n": 1}})).await;
    }
    hub.ask("services.drain.well", json!({"draining": true})).await;
    hub.ask("config.set.nobody-runs-it", json!({"config": {}})).await;
    let by_hand = "INSERT INTO hub_alerts (severity, source, kind, name, message, acked_at, resolved_at) VALUES
            ('critical', 'x', 'a', 'queue', 'm', now(), NULL), ('warning', 'x', 'b', 'dead', 'm', NULL, NULL),
            ('info', 'x', 'c', 'mixed', 'm', now(), now())";
    let client = hub.database().await;
    client.batch_execute(by_hand).await.unwrap();

    let status = hub.ask("status", "").await;
    assert_eq!(status["services"], json!({"total": 5, "healthy": 3, "degraded": 1, "down": 1}));
    assert_eq!(status["instances"], json!({"total": 9, "healthy": 3, "degraded": 2, "down": 4}));
    assert_eq!(status["draining"], 1);
    let wanted =
        json!([["clickhouse", "unknown"], ["kafka", "unknown"], ["nats", "healthy"], ["postgresql", "healthy"]]);
    eventually(SOON, || async {
        let status = hub.ask("status", "").await;
        let told = |component: &Value| json!([component["component_name"], component["status"]]);
        let infra: Vec<_> = status["infra"].as_array().unwrap().iter().map(told).collect();
        if json!(infra) == wanted { Ok(()) } else { Err(status) }
    })
    .await;
    eventually(SOON, || async {
        // The hub raises some of its own meanwhile.
        let sql = "SELECT jsonb_build_object('critical', count(*) FILTER (WHERE severity = 'critical'),
                'warning', count(*) FILTER (WHERE severity = 'warning'), 'info', count(*) FILTER (WHERE severity = 'info'),
                'acked', count(acked_at))
            FROM hub_alerts WHERE resolved_at IS NULL";
        let wanted: Value = client.query_one(sql, &[]).await.unwrap().get(0);
        let found = hub.ask("status", "").await["alerts"].clone();
        if found == wanted { Ok(()) } else { Err((found, wanted)) }
    })
    .await;

    // Which have converged is told by the same rule everywhere, whatever instances say or don't say.
    let agrees = async |expected: &[&str]| {
        let configs = &hub.ask("status", "").await["configs"];
        assert_eq!(configs["total"], 5);
        assert_eq!((&configs["services"], &configs["not_converged"]), (&json!(expected), &json!(expected.len())));
        for service in ["mixed", "worse", "dead", "well", "nobody-runs-it"] {
            let detail = hub.ask(&format!("config.status.{service}"), "").await;
            let instances = detail["instances"].as_array().unwrap();
            let behind = instances.iter().any(|instance| instance["state"] != "current");
            assert_eq!(behind, expected.contains(&service), "{service}: {detail}");
        }
    };
    agrees(&["mixed", "well", "worse"]).await;
    let says = async |service: &str, instance: &str, status: &str, said: Value| {
        let mut body = said;
        body["instance_id"] = json!(instance);
        body["status"] = json!(status);
        hub.ask(&format!("heartbeat.{service}"), body).await;
    };
    says("well", "i0", "healthy", json!({"config_revision": 1})).await;
    says("worse", "i0", "degraded", json!({"config_revision": 1})).await;
    says("mixed", "i0", "healthy", json!({"config_revision": 1})).await;
    agrees(&["mixed"]).await;
    says("mixed", "i2", "degraded", json!({"config_revision": 1, "config_error": "no"})).await;
    agrees(&["mixed"]).await;
    says("mixed", "i2", "degraded", json!({"config_revision": 1})).await;
    agrees(&[]).await;
    hub.ask("config.set.well", json!({"config": {"n": 2}})).await;
    agrees(&["well"]).await;
    hub.ask("config.rollback.well", "").await;
    says("well", "i0", "healthy", json!({"config_revision": 3})).await;
    agrees(&[]).await;
}

/// However many have not converged, the answer is bounded.
#[tokio::test]
async fn the_names_of_those_behind_are_bounded() {
    let hub = Hub::fresh().await;
    let many = "INSERT INTO service_registry (service_name, instance_id, status)
            SELECT 's' || to_char(n, 'FM000'), 'i', 'healthy' FROM generate_series(1, 300) AS n;
        INSERT INTO service_configs (service_name, config_data) SELECT 's' || to_char(n, 'FM000'), '{}' FROM generate_series(1, 300) AS n";
    hub.database().await.batch_execute(many).await.unwrap();
    let configs = hub.ask("status", "").await["configs"].clone();
    let named: Vec<String> = (1..=20).map(|n| format!("s{n:03}")).collect();
    assert_eq!(configs, json!({"total": 300, "not_converged": 300, "services": named}));
}
