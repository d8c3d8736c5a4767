//! What is too old goes, in small steps that nobody waits for; partitions are there before their day.

use std::time::Duration;

use central_hub::store::sql;
use serde_json::json;
use tokio_postgres::Client;

use crate::ask::{Hub, SOON};
use crate::stack::{HubOptions, eventually};

async fn count(client: &Client, table_and_condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table_and_condition}");
    client.query_one(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// Days, counted back from today, that have a partition.
async fn days(client: &Client) -> Vec<i32> {
    let sql = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date - to_date(right(c.relname, 8), 'YYYYMMDD') AS day
               FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = 'health_metrics'::regclass AND c.relname ~ '[0-9]{8}$' ORDER BY day";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Heartbeats of the last 40 days, with partitions for some of them, and rows as old of every other kind. The partitions
/// are made before their heartbeats, as always.
const OLD: &str = "
    SELECT create_health_partition((now() AT TIME ZONE 'UTC')::date - day) FROM unnest(ARRAY[1, 2, 3, 6, 7, 8, 9, 30]) AS day;
    INSERT INTO health_metrics (service_name, instance_id, status, timestamp)
        SELECT 'old', 'i', 'healthy', now() - day * interval '1 day' FROM generate_series(0, 40) AS day;
    INSERT INTO infrastructure_status (component_name, status, checked_at)
        SELECT 'old', 'healthy', now() - hours * interval '1 hour' FROM generate_series(1, 24 * 40) AS hours;
    INSERT INTO hub_events (topic, kind, service_name, at, origin, published_at)
        SELECT 'service', 'registered', 'old', now() - hours * interval '1 hour', 'x', now() FROM generate_series(1, 24 * 40) AS hours;
    INSERT INTO hub_events (topic, kind, service_name, at, origin) VALUES ('service', 'of-a-newer-hub', 'old', now() - interval '40 days', 'x');
    INSERT INTO hub_alerts (severity, source, kind, name, message, raised_at, resolved_at, silenced_until) VALUES
        ('info', 'x', 'long-over', 'old', '', now() - interval '40 days', now() - interval '39 days', now() - interval '1 day'),
        ('info', 'x', 'silences', 'old', '', now() - interval '40 days', now() - interval '39 days', now() + interval '1 day'),
        ('info', 'x', 'just-over', 'old', '', now() - interval '40 days', now(), NULL),
        ('info', 'x', 'not-over', 'old', '', now() - interval '40 days', NULL, NULL);
    INSERT INTO status_transitions (subject, name, instance_id, status, at)
        SELECT 'instance', 'old', instance, status, now() - days * interval '1 day' FROM (VALUES
            ('stays', 'healthy', 600), ('stays', 'down', 500), ('stays', 'healthy', 450),
            ('changes', 'healthy', 600), ('changes', 'down', 399),
            ('left', 'healthy', 600), ('left', 'gone', 401),
            ('leaves', 'healthy', 600), ('leaves', 'gone', 399)) AS t (instance, status, days);
    INSERT INTO status_transitions (subject, name, status, at) VALUES
        ('component', 'old', 'healthy', now() - interval '600 days'), ('component', 'old', 'down', now() - interval '402 days'),
        ('component', 'old', 'unknown', now() - interval '401 days')";

/// Waits until nothing is left that is older than so many days; what is newer must all be there.
async fn only_newer_is_kept(client: &Client, retention: i32) {
    let partitions: Vec<i32> = [-3, -2, -1, 0, 1, 2, 3, 6, 7].into_iter().filter(|day| *day <= retention).collect();
    eventually(SOON, || async {
        let found = days(client).await;
        if found == partitions { Ok(()) } else { Err(found) }
    })
    .await;
    let hours = i64::from(retention) * 24;
    for (rows, newer) in [
        ("infrastructure_status WHERE component_name = 'old'", hours - 1),
        ("hub_events WHERE service_name = 'old' AND published_at IS NOT NULL", hours - 1),
        // Days four and five have no partition.
        ("health_metrics_default", if retention > 5 { 2 } else { 0 }),
    ] {
        eventually(SOON, || async {
            let found = count(client, rows).await;
            // What comes to be too old while this looks may go with the next pass.
            if (newer..=newer + 1).contains(&found) { Ok(()) } else { Err(format!("{found} of {rows}, not {newer}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_too_old_goes_and_nothing_else() {
    let mut hub = Hub::fresh().await;
    let client = hub.database().await;
    hub.process.stop().await;
    client.batch_execute(OLD).await.unwrap();
    hub.process.restart().await;
    hub.process.ready().await;

    // Seven days, unless the settings say otherwise.
    only_newer_is_kept(&client, 7).await;
    // Today's heartbeat and those of the seven days before.
    assert_eq!(count(&client, "health_metrics WHERE service_name = 'old'").await, 8);
    assert_eq!(count(&client, "hub_events WHERE kind = 'of-a-newer-hub'").await, 1, "who can send it may still come");
    let names = |sql: &'static str| {
        let client = &client;
        async move {
            let rows = client.query(sql, &[]).await.unwrap();
            rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
        }
    };
    let alerts = "SELECT kind FROM hub_alerts WHERE name = 'old' ORDER BY kind";
    eventually(SOON, || async { (names(alerts).await == ["just-over", "not-over", "silences"]).then_some(()) }).await;
    // Of each the newest from before the 400 days, unless it left before: what held at that moment.
    let kept = "SELECT instance_id || ' ' || status FROM status_transitions WHERE name = 'old' ORDER BY 1, at";
    let expected = [" unknown", "changes down", "changes healthy", "leaves gone", "leaves healthy", "stays healthy"];
    eventually(SOON, || async {
        let found = names(kept).await;
        if found == expected { Ok(()) } else { Err(found) }
    })
    .await;
    let year = json!({"window_seconds": 400 * 86_400, "instance_id": "changes"});
    let uptime = hub.ask("uptime.old", year).await;
    assert!((uptime["uptime_pct"].as_f64().unwrap() - 0.25).abs() < 0.01, "{uptime}");

    // A change of the settings is honoured at once.
    let keep = |days: i64| json!({"config": {"operational": {"health_monitoring": {"retention_days": days}}}});
    hub.ask("config.set.central-hub", keep(2)).await;
    only_newer_is_kept(&client, 2).await;
    assert_eq!(count(&client, "health_metrics WHERE service_name = 'old'").await, 3);
}

/// Somebody reads `health_metrics` for long: heartbeats don't queue up behind the partition that can't be dropped meanwhile.
#[tokio::test]
async fn no_heartbeat_waits_for_a_partition_that_is_read() {
    let options = HubOptions::fresh().await.env("CENTRAL_HUB_LOG_LEVEL", "debug");
    let mut hub = Hub::start(options).await;
    let (client, mut reader) = (hub.database().await, hub.database().await);
    hub.process.stop().await;
    client.batch_execute("SELECT create_health_partition((now() AT TIME ZONE 'UTC')::date - 30)").await.unwrap();
    let reading = reader.transaction().await.unwrap();
    reading.query("SELECT count(*) FROM health_metrics", &[]).await.unwrap();
    hub.process.restart().await;
    hub.process.ready().await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;

    let tried = || hub.process.log().contains("partitions are dropped later");
    eventually(SOON, || async {
        // Each is answered while the other transaction goes on.
        hub.ask("heartbeat.a", "").await;
        tried()
    })
    .await;
    assert!(days(&client).await.contains(&30), "it is still read");
    hub.ask("heartbeat.a", "").await;
    reading.commit().await.unwrap();
    eventually(SOON, || async { !days(&client).await.contains(&30) }).await;
}

/// Heartbeats that came before their day had a partition are moved there, unless they are too many.
#[tokio::test]
async fn early_heartbeats_are_moved_to_their_day() {
    let mut hub = Hub::fresh().await;
    let client = hub.database().await;
    hub.process.stop().await;
    let without = async |early: i64| {
        for day in days(&client).await {
            let drop = "DO $$ BEGIN EXECUTE format('DROP TABLE health_metrics_%s', to_char((now() AT TIME ZONE 'UTC')::date - DAY, 'YYYYMMDD')); END $$";
            client.batch_execute(&drop.replace("DAY", &day.to_string())).await.unwrap();
        }
        let insert = "INSERT INTO health_metrics (service_name, instance_id, status, metrics)
                      SELECT 'early', 'i', 'healthy', '{\"n\": 1}' FROM generate_series(1, $1::bigint)";
        client.execute(insert, &[&early]).await.unwrap();
    };
    without(1_000).await;
    let first = "SELECT array_agg(id ORDER BY id) FROM health_metrics WHERE service_name = 'early'";
    let ids: Vec<i64> = client.query_one(first, &[]).await.unwrap().get(0);
    hub.process.restart().await;
    hub.process.ready().await;
    eventually(SOON, || async { days(&client).await == [-3, -2, -1, 0] }).await;
    assert_eq!(count(&client, "health_metrics_default").await, 0);
    assert_eq!(client.query_one(first, &[]).await.unwrap().get::<_, Vec<i64>>(0), ids, "as they were");
    hub.ask("register.a", "").await;
    hub.ask("heartbeat.a", "").await;
    let later = "health_metrics WHERE service_name = 'a' AND id > (SELECT max(id) FROM health_metrics WHERE service_name = 'early')";
    assert_eq!(count(&client, later).await, 1);

    hub.process.stop().await;
    without(20_001).await;
    hub.process.restart().await;
    hub.process.ready().await;
    eventually(SOON, || async { days(&client).await == [-3, -2, -1] }).await;
    assert!(count(&client, "health_metrics_default").await >= 20_001, "today's stay where they are");
    hub.ask("heartbeat.a", "").await;
    eventually(Duration::from_secs(5), || async { hub.process.log().contains("too many heartbeats of a day") }).await;
    assert_eq!(hub.ask("metrics.early", json!({"bucket_seconds": 3600})).await["series"][0]["metric_type"], "n");
    assert!(hub.errors_logged().is_empty(), "{:?}", hub.errors_logged());
}

/// Only who leads removes anything, whatever it thinks of itself.
#[tokio::test]
async fn only_the_leader_removes() {
    let mut hub = Hub::fresh().await;
    let client = hub.database().await;
    hub.process.stop().await;
    client.batch_execute(OLD).await.unwrap();
    let removed = async |statement: &str, who: &str| {
        client.query_one(statement, &[&who, &1, &100_i64]).await.unwrap().get::<_, i64>("removed")
    };
    let lease = "UPDATE hub_leadership SET holder = 'leader', expires_at = clock_timestamp() + interval '1 minute'";
    client.batch_execute(lease).await.unwrap();
    for statement in [
        sql::RETENTION_CHECKS,
        sql::RETENTION_EVENTS,
        sql::RETENTION_ALERTS,
        sql::RETENTION_TRANSITIONS,
        sql::RETENTION_HEARTBEATS,
    ] {
        assert_eq!(removed(statement, "another").await, 0, "{statement}");
        assert!(removed(statement, "leader").await > 0, "{statement}");
    }
    for (statement, given) in [(sql::PARTITION_DROP, 29), (sql::PARTITION_CREATE, 20)] {
        assert!(client.query(statement, &[&"another", &given]).await.unwrap().is_empty(), "{statement}");
        assert_eq!(client.query(statement, &[&"leader", &given]).await.unwrap().len(), 1, "{statement}");
    }
    let days = days(&client).await;
    assert!(days.contains(&-20) && !days.contains(&30) && days.contains(&9), "{days:?}");
}
