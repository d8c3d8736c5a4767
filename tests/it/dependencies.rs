//! Who needs whom: the graph that registrations make, who suffers, and what a registration is told of its dependencies.

use serde_json::{Value, json};

use crate::ask::{Asker, Hub, SOON};
use crate::stack::{HubOptions, database, eventually, private_nats_with};

async fn register(hub: &Asker, service: &str, instance: &str, needs: Value) -> Value {
    hub.ask(&format!("register.{service}"), json!({"instance_id": instance, "dependencies": needs})).await
}

/// Has the hub probe nothing, so that a test can say how components are.
pub async fn unprobed(hub: &Asker) {
    let health = json!({"operational": {"health_monitoring": {"infrastructure_components": []}}});
    hub.ask("config.set.central-hub", json!({"config": health})).await;
    eventually(SOON, || async { hub.ask("infra.check", "").await["components"] == json!([]) }).await;
}

/// An infrastructure component as a check leaves it.
pub async fn component(hub: &Asker, name: &str, status: &str, critical: bool) {
    let sql = "INSERT INTO infrastructure_components (component_name, kind, status, critical, error_message)
               VALUES ($1, 'tcp', $2, $3, CASE WHEN $2 = 'down' THEN 'connection refused' END)
               ON CONFLICT (component_name) DO UPDATE SET status = excluded.status, critical = excluded.critical,
                   error_message = excluded.error_message, status_since = clock_timestamp(), checked_at = clock_timestamp()";
    hub.database().await.execute(sql, &[&name, &status, &critical]).await.unwrap();
}

/// A hub and the names of its registry apart from its own replicas.
fn without_the_hub(mut graph: Value) -> Value {
    let own = |name: &Value| *name == "central-hub";
    graph["nodes"].as_array_mut().unwrap().retain(|node| !own(&node["name"]));
    let steps = graph["start_order"].as_array_mut().unwrap();
    steps.iter_mut().for_each(|step| step.as_array_mut().unwrap().retain(|name| !own(name)));
    graph
}

#[tokio::test]
async fn the_graph_says_who_needs_whom_and_in_which_order_to_start() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    component(&hub, "kafka", "down", true).await;
    component(&hub, "idle", "unknown", false).await;
    component(&hub, "engine", "down", false).await;
    register(&hub, "ticks", "1", json!(["kafka"])).await;
    register(&hub, "ticks", "2", json!(["kafka", "vault"])).await;
    register(&hub, "features", "1", json!(["ticks", "features"])).await;
    register(&hub, "engine", "1", json!(["features", "risk"])).await;
    register(&hub, "risk", "1", json!(["engine", "ticks"])).await;
    hub.ask("heartbeat.risk", json!({"status": "degraded"})).await;
    let graph = without_the_hub(hub.ask("deps.graph", "").await);
    let nodes = [
        ("engine", "service", "healthy"),
        ("features", "service", "healthy"),
        ("idle", "infrastructure", "unknown"),
        ("kafka", "infrastructure", "down"),
        ("risk", "service", "degraded"),
        ("ticks", "service", "healthy"),
        ("vault", "unknown", "unknown"),
    ];
    let nodes = nodes.map(|(name, kind, status)| json!({"name": name, "kind": kind, "status": status}));
    assert_eq!(graph["nodes"], json!(nodes), "sorted; a service hides a component of its name");
    let edges = [
        ("engine", "features"),
        ("engine", "risk"),
        ("features", "features"),
        ("features", "ticks"),
        ("risk", "engine"),
        ("risk", "ticks"),
        ("ticks", "kafka"),
        ("ticks", "vault"),
    ];
    assert_eq!(graph["edges"], json!(edges.map(|(from, to)| json!({"from": from, "to": to}))));
    assert_eq!(graph["cycles"], json!([["engine", "risk"], ["features"]]));
    let order = json!([["idle", "kafka", "vault"], ["ticks"], ["features"], ["engine", "risk"]]);
    assert_eq!(graph["start_order"], order);

    // What an instance declared holds until it registers anew or leaves.
    register(&hub, "ticks", "2", json!([])).await;
    hub.ask("deregister.features", "").await;
    let graph = without_the_hub(hub.ask("deps.graph", "").await);
    let kind = |name: &str| {
        graph["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).map(|node| node["kind"].clone())
    };
    assert_eq!((kind("features"), kind("vault")), (Some(json!("unknown")), None));
    assert_eq!(graph["cycles"], json!([["engine", "risk"]]));
}

#[tokio::test]
async fn impact_names_who_suffers() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    component(&hub, "kafka", "healthy", true).await;
    register(&hub, "ticks", "1", json!(["kafka", "nowhere"])).await;
    register(&hub, "features", "1", json!(["ticks", "features"])).await;
    register(&hub, "engine", "1", json!(["features", "risk"])).await;
    register(&hub, "risk", "1", json!(["engine"])).await;
    register(&hub, "alone", "1", json!([])).await;
    for (name, direct, transitive) in [
        ("kafka", vec!["ticks"], vec!["engine", "features", "risk", "ticks"]),
        ("nowhere", vec!["ticks"], vec!["engine", "features", "risk", "ticks"]),
        ("features", vec!["engine"], vec!["engine", "risk"]),
        ("engine", vec!["risk"], vec!["risk"]),
        ("alone", vec![], vec![]),
    ] {
        let expected = json!({"name": name, "direct": direct, "transitive": transitive});
        assert_eq!(hub.ask(&format!("deps.impact.{name}"), "").await, expected);
    }
    hub.ask("deps.impact.kafka", json!({"service_name": "kafka"})).await;
    hub.refused("deps.impact.kafka", json!({"service_name": "ticks"}), "forbidden", "service_name").await;
    hub.refused("deps.impact.nobody", "", "not_found", "service_name").await;
    hub.refused("deps.impact.no~body", "", "bad_request", "service_name").await;
}

#[tokio::test]
async fn a_registration_is_told_how_its_dependencies_are() {
    let hub = Hub::fresh().await;
    unprobed(&hub).await;
    let told = async |needs: Value| {
        let told = register(&hub, "me", "1", needs).await["dependencies"].clone();
        told.as_array().unwrap().iter().map(|each| each["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (name, status) in [("pg", "healthy"), ("nats", "degraded"), ("kafka", "down"), ("idle", "unknown")] {
        component(&hub, name, status, false).await;
    }
    let all = json!(["kafka", "pg", "idle", "nats", "nobody"]);
    assert_eq!(told(all.clone()).await, ["down", "healthy", "unknown", "degraded", "unknown"]);
    let required = json!({"instance_id": "2", "dependencies": all, "require_dependencies": true});
    let details = hub.refused("register.me", required, "dependency_unavailable", "dependencies").await;
    let missing = [("kafka", "down"), ("idle", "unknown"), ("nobody", "unknown")];
    assert_eq!(details["dependencies"], json!(missing.map(|(name, status)| json!({"name": name, "status": status}))));
    let there = json!({"instance_id": "2", "dependencies": ["pg", "nats"], "require_dependencies": true});
    hub.ask("register.me", there).await;

    // A draining instance counts only while no other is in use: new callers aren't sent to it.
    register(&hub, "db", "1", json!([])).await;
    hub.ask("services.drain.db", json!({"draining": true})).await;
    assert_eq!(told(json!(["db"])).await, ["healthy"], "on its way out, but all that there is");
    hub.ask("register.db", json!({"instance_id": "2", "status": "down"})).await;
    assert_eq!(told(json!(["db"])).await, ["down"]);
    hub.ask("heartbeat.db", json!({"instance_id": "2", "status": "degraded"})).await;
    assert_eq!(told(json!(["db"])).await, ["degraded"]);
}

#[tokio::test]
async fn a_graph_that_no_message_carries_says_what_to_do() {
    let nats = private_nats_with("max_payload: 16384").await;
    let hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    let fill = "INSERT INTO service_registry (service_name, instance_id, status, dependencies)
                SELECT 's' || i, 'i', 'healthy', jsonb_build_array('kafka', 's' || (i + 1)) FROM generate_series(1, $1::int) i";
    let database = hub.database().await;
    for count in [200, 2000] {
        database.execute("DELETE FROM service_registry WHERE service_name LIKE 's%'", &[]).await.unwrap();
        database.execute(fill, &[&count]).await.unwrap();
        hub.refused("deps.graph", "", "too_large", "reply").await;
        let refusal = hub.send("deps.graph", "").await.result().unwrap_err();
        assert!(refusal.message.contains("hub.deps.impact.<name>"), "{}", refusal.message);
    }
    hub.refused("deps.impact.kafka", "", "too_large", "reply").await;
    assert_eq!(hub.ask("deps.impact.s3", "").await["transitive"], json!(["s1", "s2"]));
}

/// Ten thousand instances that declare 256 dependencies each; and rows by hand that are no dependencies at all.
#[tokio::test]
async fn a_large_registry_and_odd_rows_are_read() {
    let hub = Hub::fresh().await;
    let fill = "INSERT INTO service_registry (service_name, instance_id, status, dependencies)
                SELECT 's' || i % 20, 'i' || i, 'healthy',
                       (SELECT jsonb_agg('n' || (i % 20 + k) % 300) FROM generate_series(1, 256) k)
                FROM generate_series(0, 9999) i";
    let odd = "INSERT INTO service_registry (service_name, instance_id, status, dependencies) VALUES
               ('odd', '1', 'healthy', '{\"a\": 1}'), ('odd', '2', 'healthy', '[1, null]'),
               ('odd', '3', 'healthy', '[\"a.b\", \"fine\"]'), ('odd', '4', 'healthy', '\"text\"')";
    let database = hub.database().await;
    database.batch_execute(&format!("{fill}; {odd}")).await.unwrap();
    let graph = hub.ask("deps.graph", "").await;
    assert_eq!(graph["edges"].as_array().unwrap().len(), 20 * 256 + 1);
    assert_eq!(hub.ask("deps.impact.fine", "").await["direct"], json!(["odd"]));
    assert_eq!(hub.ask("deps.impact.n100", "").await["direct"].as_array().unwrap().len(), 20);
}
