//! Metrics: what instances measured, in buckets that say the same as the view that operators query.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::ask::Hub;
use crate::stack::{HubOptions, database, private_nats_with};

/// One heartbeat with metrics, so many seconds ago.
async fn measured(client: &Client, service: &str, instance: &str, seconds_ago: f64, metrics: Value) {
    let sql = "INSERT INTO health_metrics (service_name, instance_id, status, metrics, timestamp)
               VALUES ($1, $2, 'healthy', $3, clock_timestamp() - $4::double precision * interval '1 second')";
    client.execute(sql, &[&service, &instance, &metrics, &seconds_ago]).await.unwrap();
}

fn names(answer: &Value) -> Vec<&str> {
    answer["series"].as_array().unwrap().iter().map(|series| series["metric_type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn buckets_say_what_the_view_says() {
    let hub = Hub::fresh().await;
    let client = hub.database().await;
    let mut random = fastrand::Rng::with_seed(5);
    for number in 0..400 {
        let ago = random.f64() * 3_000.0;
        let metrics = json!({
            "cpu": (random.f64() * 1e6).round() / 1e6, "lag_ms": number, "odd.name:x-y_z": -random.f64(),
            "huge": if number % 2 == 0 { f64::MAX } else { 1e308 }, "tiny": if number % 2 == 0 { 5e-324 } else { 0.0 },
            "count": 18_446_744_073_709_551_615_u64,
        });
        measured(&client, "a", if number % 3 == 0 { "i" } else { "j" }, ago, metrics).await;
    }
    // Another service, an instance without metrics, and what is too old.
    measured(&client, "b", "i", 1.0, json!({"cpu": 1e9})).await;
    measured(&client, "a", "i", 5_000.0, json!({"cpu": 1e9, "old": 1})).await;
    hub.ask("register.a", json!({"instance_id": "quiet"})).await;
    hub.ask("heartbeat.a", "").await;

    let by_view = async |bucket: f64, instance: Option<&str>| {
        let sql = "SELECT metric_type, to_char(date_bin($1::double precision * interval '1 second', timestamp, 'epoch')
                       AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS'),
                   min(metric_value), avg(metric_value), max(metric_value), count(*)
            FROM health_metric_values
            WHERE service_name = 'a' AND timestamp > now() - interval '1 hour' AND metric_type NOT IN ('huge', 'tiny')
              AND ($2::text IS NULL OR instance_id = $2)
            GROUP BY 1, 2";
        let rows = client.query(sql, &[&bucket, &instance]).await.unwrap();
        let read = |row: &tokio_postgres::Row| {
            let numbers = (row.get::<_, f64>(2), row.get::<_, f64>(3), row.get::<_, f64>(4), row.get::<_, i64>(5));
            ((row.get::<_, String>(0), row.get::<_, String>(1)), numbers)
        };
        rows.iter().map(read).collect::<BTreeMap<_, _>>()
    };
    for (body, bucket, instance) in [
        (json!({}), 60.0, None),
        (json!({"bucket_seconds": 600, "instance_id": "i"}), 600.0, Some("i")),
        (json!({"bucket_seconds": 3600}), 3_600.0, None),
    ] {
        let answer = hub.ask("metrics.a", &body).await;
        assert_eq!(names(&answer), ["count", "cpu", "huge", "lag_ms", "odd.name:x-y_z", "tiny"]);
        let expected = by_view(bucket, instance).await;
        let mut found = 0;
        for series in answer["series"].as_array().unwrap() {
            let points = series["points"].as_array().unwrap();
            assert!(points.windows(2).all(|pair| pair[0]["at"].as_str() < pair[1]["at"].as_str()), "oldest first");
            for point in points.iter().filter(|_| series["metric_type"] != "huge" && series["metric_type"] != "tiny") {
                let key = (
                    series["metric_type"].as_str().unwrap().to_owned(),
                    point["at"].as_str().unwrap().trim_end_matches('Z').to_owned(),
                );
                let (min, avg, max, count) = expected[&key];
                let number = |name: &str| point[name].as_f64().unwrap();
                assert_eq!((number("min"), number("max"), point["count"].as_i64()), (min, max, Some(count)), "{key:?}");
                assert!((number("avg") - avg).abs() <= avg.abs().max(1e-9) * 1e-9, "{key:?}: {avg}, and not {point}");
                found += 1;
            }
        }
        assert_eq!(found, expected.len(), "each bucket of {body}");
    }
    let one =
        hub.ask("metrics.a", json!({"metric_type": "lag_ms", "since_seconds": 3600, "bucket_seconds": 3600})).await;
    assert_eq!(names(&one), ["lag_ms"]);
    let counts = one["series"][0]["points"].as_array().unwrap().iter().map(|point| point["count"].as_i64().unwrap());
    assert_eq!(counts.sum::<i64>(), 400);
    // The largest numbers that there are have a mean, too: their sum doesn't overflow.
    let at_the_edge = hub.ask("metrics.a", json!({"metric_type": "huge", "bucket_seconds": 3600})).await;
    for point in at_the_edge["series"][0]["points"].as_array().unwrap() {
        let number = |name: &str| point[name].as_f64().unwrap();
        assert!(number("min") >= 1e308 && number("avg") >= number("min") && number("max") >= number("avg"), "{point}");
    }
    let tiny = hub.ask("metrics.a", json!({"metric_type": "tiny", "bucket_seconds": 3600})).await;
    assert_eq!(tiny["series"][0]["points"][0]["min"], 0.0);
}

#[tokio::test]
async fn heartbeats_show_in_metrics_at_once() {
    let hub = Hub::fresh().await;
    hub.refused("metrics.a", "", "not_found", None).await;
    hub.ask("config.set.configured", json!({"config": {}})).await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    for service in ["a", "configured", "central-hub"] {
        assert_eq!(
            hub.ask(&format!("metrics.{service}"), "").await,
            json!({"series": []}),
            "known, and measured nothing"
        );
    }
    hub.refused("metrics.a", json!({"instance_id": "j"}), "not_found", "instance_id").await;
    for cpu in [0.25, 0.75, 0.5] {
        hub.ask("heartbeat.a", json!({"metrics": {"cpu": cpu}})).await;
    }
    let answer = hub.ask("metrics.a", json!({"since_seconds": 31_622_400, "bucket_seconds": 31_622_400})).await;
    let points = answer["series"][0]["points"].as_array().unwrap();
    let point = points.last().unwrap();
    assert_eq!(
        (&point["min"], &point["avg"], &point["max"], &point["count"]),
        (&json!(0.25), &json!(0.5), &json!(0.75), &json!(3))
    );
    hub.ask("deregister.a", "").await;
    assert_eq!(names(&hub.ask("metrics.a", "").await), ["cpu"], "history stays");
    assert_eq!(
        hub.ask("metrics.a", json!({"instance_id": "i", "metric_type": "no-such"})).await,
        json!({"series": []})
    );

    for (body, field) in [
        (json!({"since_seconds": 0}), "since_seconds"),
        (json!({"since_seconds": 1e9}), "since_seconds"),
        (json!({"bucket_seconds": 0.01}), "bucket_seconds"),
        (json!({"since_seconds": 10_000, "bucket_seconds": 9}), "bucket_seconds"),
        (json!({"metric_type": "a b"}), "metric_type"),
        (json!({"instance_id": ""}), "instance_id"),
        (json!({"limit": 0}), "limit"),
        (json!({"cursor": "service/a"}), "cursor"),
        (json!({"cursor": "cpu"}), "cursor"),
        (json!({"until": 1}), "until"),
    ] {
        hub.refused("metrics.a", &body, "bad_request", field).await;
    }
}

/// However much was measured, an answer fits a message and tells how to get the rest.
#[tokio::test]
async fn answers_are_bounded_and_pages_leave_nothing_out() {
    let nats = private_nats_with("max_payload: 16384").await;
    let hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    let client = hub.database().await;
    let metric = |number: usize| format!("m{number:03}");
    for ago in 0..20 {
        let metrics: serde_json::Map<_, _> = (0..300).map(|number| (metric(number), json!(number))).collect();
        measured(&client, "a", "i", f64::from(ago), Value::Object(metrics)).await;
    }
    for body in
        [json!({"bucket_seconds": 60}), json!({"bucket_seconds": 60, "limit": 7}), json!({"bucket_seconds": 3.6})]
    {
        let (mut found, mut pages, mut cursor) = (Vec::new(), 0, Value::Null);
        loop {
            let mut body = body.clone();
            body["cursor"] = cursor;
            let page = hub.ask("metrics.a", body).await;
            found.extend(names(&page).into_iter().map(str::to_owned));
            pages += 1;
            match page.get("next_cursor") {
                Some(next) => cursor = next.clone(),
                None => break,
            }
        }
        assert_eq!(found, (0..300).map(metric).collect::<Vec<_>>(), "{body}");
        assert!(pages >= 3, "{pages} pages of {body}");
    }

    let many = "INSERT INTO health_metrics (service_name, instance_id, status, metrics)
        SELECT 'vast', 'i', 'healthy', (SELECT jsonb_object_agg('m' || n, n) FROM generate_series(1, 20000) AS n)
        FROM generate_series(1, 26)";
    client.batch_execute(many).await.unwrap();
    let details = hub.refused("metrics.vast", "", "too_large", "since_seconds").await;
    assert_eq!(details["limit"], 500_000);
    assert_eq!(names(&hub.ask("metrics.vast", json!({"metric_type": "m7"})).await), ["m7"]);
}
