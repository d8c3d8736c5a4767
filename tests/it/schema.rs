//! The database: what operators rely on, how it is migrated, and which hubs may run on it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};

use central_hub::store::migrate::newest_known;
use central_hub::store::sql;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::ask::{Hub, SOON};
use crate::stack::{HubOptions, HubProcess, database, eventually, executable, nats_url};

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// `central-hub migrate`, which ends by itself.
fn migration(database_url: &str) -> Child {
    let mut command = Command::new(executable());
    command.arg("migrate").env("CENTRAL_HUB_DATABASE_URL", database_url);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

/// How a program ended and what it said.
async fn output(program: Child) -> Output {
    tokio::time::timeout(SOON, program.wait_with_output()).await.expect("it runs on").unwrap()
}

/// What a hub says that can't run on its database.
async fn refusal(options: HubOptions) -> String {
    let mut hub = HubProcess::start(options).await;
    let code = tokio::time::timeout(SOON, hub.ended()).await.expect("it runs on");
    assert_eq!(code, Some(1), "{}", hub.log());
    hub.log()
}

async fn migrate(database_url: &str) {
    let output = output(migration(database_url)).await;
    assert!(output.status.success(), "{output:?}");
}

/// A migrated database.
async fn migrated() -> (String, Client) {
    let url = database().await;
    migrate(&url).await;
    let client = connect(&url).await;
    (url, client)
}

#[tokio::test]
async fn every_query_fits_the_schema() {
    let (_, client) = migrated().await;
    for (name, query) in sql::ALL {
        assert!(query.starts_with("-- "), "{name} begins with its purpose");
        client.prepare(query).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/queries");
    let files: BTreeSet<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let known: BTreeSet<_> = sql::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, known, "no file that nobody uses");
}

/// The tables and columns that operators query by hand.
#[tokio::test]
async fn the_tables_have_their_columns_and_rules() {
    let (_, client) = migrated().await;
    let tables = [
        (
            "service_registry",
            "id service_name instance_id incarnation status draining last_heartbeat version host port dependencies \
             metadata created_at updated_at",
        ),
        ("service_configs", "id service_name config_data version active created_by created_at"),
        ("health_metrics", "id service_name instance_id metric_type metric_value status metrics timestamp"),
        ("health_metric_values", "service_name instance_id metric_type metric_value status timestamp"),
        ("infrastructure_status", "id component_name status response_time_ms error_message checked_at"),
    ];
    for (table, columns) in tables {
        let sql = "SELECT column_name::text FROM information_schema.columns WHERE table_name = $1";
        let rows = client.query(sql, &[&table]).await.unwrap();
        let found: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        for column in columns.split(' ') {
            assert!(found.contains(column), "{table}.{column}");
        }
    }
    // As the hub, for which no trigger numbers or deactivates anything.
    client.batch_execute("SET central_hub.writer = 'hub'").await.unwrap();
    let refused = async |rule: &str, first: &str, second: &str| {
        client.batch_execute(first).await.unwrap();
        let error = client.batch_execute(second).await.expect_err(rule);
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION), "{rule}: {error:?}");
    };
    let instance = "INSERT INTO service_registry (service_name, instance_id, status) VALUES ('a', 'i', 'healthy')";
    refused("an instance once", instance, instance).await;
    let config = |version: i64, active: bool| {
        let columns = "service_name, config_data, version, active";
        format!("INSERT INTO service_configs ({columns}) VALUES ('a', '{{}}', {version}, {active})")
    };
    refused("a version once", &config(1, false), &config(1, false)).await;
    refused("one active version", &config(2, true), &config(3, true)).await;
}

/// The queries of the documentation, as they stand there.
#[tokio::test]
async fn the_three_queries_of_operators_tell_the_truth() {
    let hub = Hub::fresh().await;
    let client = hub.database().await;
    for service in ["tick-aggregator", "steady", "silent"] {
        hub.ask("register", json!({"service_name": service, "host": "10.0.0.5", "port": 8002})).await;
    }
    let quiet =
        "UPDATE service_registry SET last_heartbeat = now() - interval '25 seconds' WHERE service_name = 'silent'";
    client.batch_execute(quiet).await.unwrap();
    for (status, metrics) in [
        ("healthy", json!({})),
        ("degraded", json!({"cpu": 0.93, "lag_ms": 1840})),
        ("healthy", json!({})),
        ("healthy", json!({})),
    ] {
        hub.ask("heartbeat.tick-aggregator", json!({"status": status, "metrics": metrics})).await;
    }
    hub.ask("heartbeat.steady", "").await;
    hub.refused("heartbeat.steady", json!({"instance_id": "nobody"}), "not_registered", None).await;

    let found = rows_of(
        &client,
        "SELECT service_name, status, last_heartbeat, EXTRACT(EPOCH FROM (CURRENT_TIMESTAMP - last_heartbeat)) AS seconds_since_heartbeat
FROM service_registry ORDER BY last_heartbeat DESC;",
        ["service_name", "status", "last_heartbeat", "seconds_since_heartbeat"],
    )
    .await;
    let found: Vec<_> = found.iter().filter(|row| row[0] != "central-hub").collect();
    let names: Vec<_> = found.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(names, [("steady", "healthy"), ("tick-aggregator", "healthy"), ("silent", "healthy")]);
    for (row, (least, most)) in found.iter().zip([(0.0, 20.0), (0.0, 20.0), (25.0, 45.0)]) {
        let seconds: f64 = row[3].parse().unwrap();
        assert!((least..most).contains(&seconds), "{row:?}");
    }

    let checks = "INSERT INTO infrastructure_status (component_name, status, response_time_ms, checked_at) VALUES
        ('operator-nats', 'healthy', 0.5, now() - interval '1 minute'), ('operator-kafka', 'down', NULL, now()),
        ('operator-old', 'healthy', 1, now() - interval '61 minutes')";
    client.batch_execute(checks).await.unwrap();
    let found = rows_of(
        &client,
        "SELECT component_name, status, response_time_ms, checked_at FROM infrastructure_status
WHERE checked_at > CURRENT_TIMESTAMP - INTERVAL '1 hour' ORDER BY checked_at DESC;",
        ["component_name", "status", "response_time_ms", "checked_at"],
    )
    .await;
    let found: Vec<_> = found.iter().filter(|row| row[0].starts_with("operator-")).map(|row| &row[..3]).collect();
    assert_eq!(found, [["operator-kafka", "down", ""], ["operator-nats", "healthy", "0.5"]]);

    let found = rows_of(
        &client,
        "SELECT service_name, COUNT(*) AS total_heartbeats, COUNT(CASE WHEN status = 'healthy' THEN 1 END) AS healthy_count,
       (COUNT(CASE WHEN status = 'healthy' THEN 1 END) * 100.0 / COUNT(*)) AS uptime_pct
FROM health_metrics WHERE timestamp > CURRENT_TIMESTAMP - INTERVAL '24 hours' GROUP BY service_name ORDER BY uptime_pct DESC;",
        ["service_name", "total_heartbeats", "healthy_count", "uptime_pct"],
    )
    .await;
    let found: Vec<_> = found.iter().filter(|row| row[0] != "central-hub").collect();
    let found: Vec<_> = found.iter().map(|row| (&row[0][..], &row[1][..], &row[2][..], row[3].parse())).collect();
    assert_eq!(found, [("steady", "1", "1", Ok(100.0)), ("tick-aggregator", "4", "3", Ok(75.0))]);
}

/// What a query gives when it is sent as it stands: texts, and an empty one for NULL.
async fn rows_of<const N: usize>(client: &Client, query: &str, columns: [&str; N]) -> Vec<[String; N]> {
    let messages = client.simple_query(query).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(columns.map(|column| row.get(column).unwrap_or_default().to_owned())),
        _ => None,
    });
    rows.collect()
}

#[tokio::test]
async fn heartbeats_lie_in_the_partition_of_their_day() {
    let hub = Hub::fresh().await;
    let client = hub.database().await;
    hub.ask("register.a", "").await;
    hub.ask("heartbeat.a", "").await;
    let sql = "SELECT tableoid::regclass::text = 'health_metrics_' || to_char(timestamp AT TIME ZONE 'UTC', 'YYYYMMDD')
               FROM health_metrics WHERE service_name = 'a'";
    assert!(client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
    let ahead = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'health_metrics'::regclass";
    assert!(client.query_one(ahead, &[]).await.unwrap().get::<_, i64>(0) >= 4, "today, days ahead, and the rest");
    // A day for which nobody made a partition.
    let odd = "INSERT INTO health_metrics (service_name, instance_id, status, timestamp)
               VALUES ('a', 'i', 'healthy', '2001-01-01Z') RETURNING tableoid::regclass::text";
    assert_eq!(client.query_one(odd, &[]).await.unwrap().get::<_, String>(0), "health_metrics_default");
}

#[tokio::test]
async fn several_migrations_at_once_take_turns() {
    let url = database().await;
    // All of them are held where they look at what was done, so that they meet there.
    let mut client = connect(&url).await;
    let history = "CREATE TABLE refinery_schema_history
                   (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255))";
    client.batch_execute(history).await.unwrap();
    let held = client.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE refinery_schema_history").await.unwrap();
    let programs: Vec<_> = (0..6).map(|_| migration(&url)).collect();
    let observer = connect(&url).await;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(SOON, || async {
        let count: i64 = observer.query_one(waiting, &[]).await.unwrap().get(0);
        if count == 6 { Ok(()) } else { Err(count) }
    })
    .await;
    held.commit().await.unwrap();

    let mut said = Vec::new();
    for program in programs {
        let output = output(program).await;
        assert!(output.status.success(), "{output:?}");
        said.push(String::from_utf8(output.stdout).unwrap());
    }
    let (idle, busy): (Vec<_>, Vec<_>) = said.iter().partition(|said| said.contains("up to date"));
    assert_eq!((idle.len(), busy.len()), (5, 1), "{said:?}");
    assert!(busy[0].contains("V1__baseline"), "{busy:?}");
    let meta = client.query_one("SELECT count(*), max(epoch) FROM hub_meta", &[]).await.unwrap();
    assert_eq!(meta.get::<_, i64>(0), 1);
    assert!(meta.get::<_, i64>(1) > 1_700_000_000, "the epoch starts as Unix seconds");
}

#[tokio::test]
async fn a_hub_that_may_not_migrate_needs_a_finished_schema() {
    let options = HubOptions::fresh().await.env("CENTRAL_HUB_NO_MIGRATE", "true");
    let said = refusal(options.clone()).await;
    assert!(said.contains("central-hub migrate"), "it says what to do: {said}");
    let client = connect(&options.database_url).await;
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(client.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0, "it touched nothing");

    migrate(&options.database_url).await;
    let hub = Hub::start(options).await;
    hub.ask("register.a", "").await;
}

#[tokio::test]
async fn a_schema_says_which_hubs_may_run_on_it() {
    let (url, client) = migrated().await;
    let newer = format!(
        "INSERT INTO refinery_schema_history VALUES ({}, 'of_a_newer_hub', '2030-01-01T00:00:00Z', '1')",
        newest_known() + 1
    );
    client.batch_execute(&newer).await.unwrap();
    // One that has moved on and still serves this hub.
    let options = HubOptions::on(&nats_url(), &url);
    let hub = Hub::start(options.clone()).await;
    hub.ask("register.a", "").await;
    drop(hub);

    client.execute("UPDATE hub_meta SET oldest_schema = $1", &[&(newest_known() + 1)]).await.unwrap();
    for options in [options.clone(), options.env("CENTRAL_HUB_NO_MIGRATE", "true")] {
        let said = refusal(options).await;
        assert!(said.contains("upgrade this hub"), "{said}");
    }
    let output = output(migration(&url)).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("upgrade this hub"), "{said}");
}
