//! What bad input gets: a documented code and the name of the field, from every route, and nothing else happens.

use std::time::Duration;

use async_nats::RequestErrorKind;
use central_hub::wire::route::{ROUTES, Route};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::ask::{Asker, Hub, SOON};
use crate::stack::{HubOptions, eventually, private_nats_with};

/// A request, and what it gets: the subject after the prefix, the body, the code and `details.field`.
struct Case(&'static str, String, &'static str, &'static str);

fn bad(subject: &'static str, body: impl ToString, field: &'static str) -> Case {
    Case(subject, body.to_string(), "bad_request", field)
}

fn large(subject: &'static str, body: impl ToString, field: &'static str) -> Case {
    Case(subject, body.to_string(), "too_large", field)
}

/// A body with one field.
fn with(field: &str, value: impl Into<Value>) -> Value {
    Value::Object(Map::from_iter([(field.to_owned(), value.into())]))
}

fn nested(levels: usize) -> Value {
    (1..levels).fold(json!({}), |inner, _| json!({ "k": inner }))
}

/// So many keys, as short as they can be.
fn keys(count: usize) -> Value {
    (0..count).map(|index| (format!("{index:x}"), json!(0))).collect::<Map<_, _>>().into()
}

fn metrics(count: usize) -> Value {
    (0..count).map(|index| (format!("m{index}"), json!(index))).collect::<Map<_, _>>().into()
}

/// Metadata of so many bytes in all.
fn metadata(bytes: usize) -> Value {
    json!({"x": "m".repeat(bytes - r#"{"x":""}"#.len())})
}

/// Each rule of each field, broken by as little as possible.
#[rustfmt::skip]
fn broken() -> Vec<Case> {
    let long = |chars: usize| "é".repeat(chars);
    vec![
        // Names: in the body, and those that a subject can't carry.
        bad("register", "", "service_name"),
        bad("register", with("service_name", ""), "service_name"),
        bad("register", with("service_name", "a.b"), "service_name"),
        bad("register", with("service_name", "a b"), "service_name"),
        bad("register", with("service_name", "a*"), "service_name"),
        bad("register", with("service_name", ">"), "service_name"),
        bad("register", with("service_name", "ä"), "service_name"),
        bad("register", with("service_name", "a\n"), "service_name"),
        bad("register", with("service_name", "-a"), "service_name"),
        bad("register", with("service_name", "a".repeat(101)), "service_name"),
        bad("register", with("service_name", 7), "service_name"),
        bad("register.a", with("service_name", "a.b"), "service_name"),
        bad("register.a", with("instance_id", ""), "instance_id"),
        bad("register.a", with("instance_id", "i.j"), "instance_id"),
        bad("register.a", with("instance_id", "i j"), "instance_id"),
        bad("register.a", with("instance_id", "i".repeat(129)), "instance_id"),
        bad("register.a", with("instance_id", "ï"), "instance_id"),
        bad("heartbeat.a", with("instance_id", "*"), "instance_id"),
        bad("deregister.a", with("instance_id", "i\u{1}"), "instance_id"),
        bad("services.drain.a", json!({"instance_id": "i/j", "draining": true}), "instance_id"),
        bad("services.list", with("service_name", "a.>"), "service_name"),
        // Ports.
        bad("register.a", with("port", 0), "port"),
        bad("register.a", with("port", 65_536), "port"),
        bad("register.a", with("port", -1), "port"),
        bad("register.a", with("port", 80.5), "port"),
        bad("register.a", with("port", "80"), "port"),
        bad("register.a", with("port", u64::MAX), "port"),
        // Registrations.
        large("register.a", with("version", long(1_001)), "version"),
        large("register.a", with("host", long(1_001)), "host"),
        bad("register.a", with("host", "h\u{0}"), "host"),
        bad("register.a", with("status", "Healthy"), "status"),
        bad("register.a", with("status", "draining"), "status"),
        bad("register.a", with("heartbeat_interval_seconds", 0.099), "heartbeat_interval_seconds"),
        bad("register.a", with("heartbeat_interval_seconds", 3_600.001), "heartbeat_interval_seconds"),
        bad("register.a", with("heartbeat_interval_seconds", -5), "heartbeat_interval_seconds"),
        bad("register.a", with("heartbeat_interval_seconds", "30"), "heartbeat_interval_seconds"),
        bad("register.a", with("dependencies", "b"), "dependencies"),
        bad("register.a", with("dependencies", json!(["b", 7])), "dependencies"),
        bad("register.a", with("dependencies", json!(["b", "c.d"])), "dependencies"),
        large("register.a", with("dependencies", vec!["b"; 257]), "dependencies"),
        bad("register.a", with("require_dependencies", "yes"), "require_dependencies"),
        bad("register.a", with("metadata", json!([])), "metadata"),
        large("register.a", with("metadata", metadata(32 * 1024 + 1)), "metadata"),
        bad("register.a", with("metadata", nested(65)), "metadata"),
        bad("register.a", with("metadata", nested(200)), "metadata"),
        bad("register.a", r#"{"metadata":{"x":{"y":1,"y":1}}}"#, "metadata"),
        bad("register.a", r#"{"metadata":{"x":1e400}}"#, "metadata"),
        // Heartbeats.
        bad("heartbeat.a", with("incarnation", 0), "incarnation"),
        bad("heartbeat.a", with("incarnation", 1.5), "incarnation"),
        bad("heartbeat.a", with("incarnation", 1u64 << 63), "incarnation"),
        bad("heartbeat.a", with("status", "fine"), "status"),
        bad("heartbeat.a", with("metrics", json!([1])), "metrics"),
        bad("heartbeat.a", with("metrics", with("cpu", "NaN")), "metrics"),
        bad("heartbeat.a", with("metrics", with("cpu", "0.5")), "metrics"),
        bad("heartbeat.a", with("metrics", with("cpu", json!(null))), "metrics"),
        bad("heartbeat.a", with("metrics", with("cpu", true)), "metrics"),
        bad("heartbeat.a", with("metrics", with("cpu", with("p99", 1))), "metrics"),
        bad("heartbeat.a", r#"{"metrics":{"cpu":NaN}}"#, "body"),
        bad("heartbeat.a", r#"{"metrics":{"cpu":-Infinity}}"#, "body"),
        bad("heartbeat.a", r#"{"metrics":{"cpu":1e309}}"#, "metrics"),
        bad("heartbeat.a", r#"{"metrics":{"cpu":-0.0}}"#, "metrics"),
        bad("heartbeat.a", r#"{"metrics":{"cpu":0.1000000000000000055}}"#, "metrics"),
        bad("heartbeat.a", r#"{"metrics":{"cpu":1,"cpu":2}}"#, "metrics"),
        bad("heartbeat.a", with("metrics", with("", 1)), "metrics"),
        bad("heartbeat.a", with("metrics", with("a b", 1)), "metrics"),
        bad("heartbeat.a", with("metrics", with(&"m".repeat(101), 1)), "metrics"),
        large("heartbeat.a", with("metrics", metrics(65)), "metrics"),
        bad("heartbeat.a", with("config_revision", -1), "config_revision"),
        bad("heartbeat.a", with("config_version", "2"), "config_version"),
        large("heartbeat.a", with("config_error", long(1_001)), "config_error"),
        // Goodbyes, drains, lists.
        bad("deregister.a", with("incarnation", -3), "incarnation"),
        bad("deregister.a", with("status", "down"), "status"),
        bad("services.drain.a", "", "draining"),
        bad("services.drain.a", with("draining", 1), "draining"),
        large("services.drain.a", json!({"draining": true, "reason": long(1_001)}), "reason"),
        bad("services.list", with("status", "unknown"), "status"),
        bad("services.list", with("metadata", "zone=a"), "metadata"),
        bad("services.list", with("include_draining", "false"), "include_draining"),
        bad("services.list", with("cursor", "no dot in it"), "cursor"),
        bad("services.list", with("cursor", "a.i"), "cursor"),
        bad("services.list", with("cursor", "instance/a.i.j"), "cursor"),
        bad("services.list", with("cursor", "config/a"), "cursor"),
        bad("config.list", with("cursor", "a"), "cursor"),
        bad("config.list", with("cursor", "config/a.b"), "cursor"),
        bad("config.list", with("cursor", "service/a"), "cursor"),
        bad("alerts.list", with("cursor", "7"), "cursor"),
        bad("timeline", with("cursor", "0-0"), "cursor"),
        bad("timeline", with("cursor", "event/0-0"), "cursor"),
        bad("timeline", with("cursor", "alert/7"), "cursor"),
        // Texts that would move a terminal.
        bad("register.a", with("version", "1\u{1b}[2J"), "version"),
        bad("register.a", with("host", "a\nb"), "host"),
        bad("services.drain.a", json!({"draining": true, "reason": "\u{9b}31m"}), "reason"),
        bad("config.set.a", json!({"config": {}, "comment": "\u{1b}]0;x\u{7}"}), "comment"),
        bad("config.set.a", json!({"config": {}, "created_by": "ann\r"}), "created_by"),
        bad("config.set.a", json!({"config": {}, "created_by": "ann\u{202e}"}), "created_by"),
        bad("config.set.a", json!({"config": {}, "request_id": "a\tb"}), "request_id"),
        bad("alerts.ack", json!({"id": 1, "by": "ann\u{1b}[8m"}), "by"),
        large("services.list", with("cursor", long(1_001)), "cursor"),
        bad("services.list", with("limit", 0), "limit"),
        bad("services.list", with("limit", 1_001), "limit"),
        bad("services.list", with("limit", 2.5), "limit"),
        bad("services.list", with("limit", "10"), "limit"),
        bad("services.get.a", with("instance_id", "i"), "instance_id"),
        // Configs.
        bad("config.get.a", with("version", 0), "version"),
        bad("config.get.a", with("version", "latest"), "version"),
        bad("config.get.a", with("min_revision", -1), "min_revision"),
        bad("config.set.a", "", "config"),
        bad("config.set.a", with("config", json!(null)), "config"),
        bad("config.set.a", with("config", json!([{}])), "config"),
        bad("config.set.a", with("config", "{}"), "config"),
        bad("config.set.a", with("config", nested(65)), "config"),
        bad("config.set.a", r#"{"config":{"a":[{"b":1},{"b":1,"c":2,"b":3}]}}"#, "config"),
        bad("config.set.a", r#"{"config":{"a":"x\u0000y"}}"#, "config"),
        bad("config.set.a", r#"{"config":{"a\u0000":1}}"#, "config"),
        bad("config.set.a", r#"{"config":{"a":12345678901234567890123}}"#, "config"),
        bad("config.set.a", r#"{"config":{"a":"\ud800"}}"#, "body"),
        large("config.set.a", with("config", json!({"x": "c".repeat(400 * 1024)})), "config"),
        large("config.set.a", json!({"config": {}, "created_by": long(1_001)}), "created_by"),
        large("config.set.a", json!({"config": {}, "comment": long(1_001)}), "comment"),
        bad("config.set.a", json!({"config": {}, "expected_version": -1}), "expected_version"),
        bad("config.set.a", json!({"config": {}, "expected_revision": 0.5}), "expected_revision"),
        bad("config.set.a", json!({"config": {}, "dry_run": "true"}), "dry_run"),
        bad("config.set.a", json!({"config": {}, "deadline": "tomorrow"}), "deadline"),
        bad("config.set.a", json!({"config": {}, "deadline": 1_767_603_540}), "deadline"),
        bad("config.set.a", json!({"config": {}, "deadline": "2026-02-30T00:00:00Z"}), "deadline"),
        bad("config.set.a", json!({"config": {}, "Config": {}}), "Config"),
        large("config.set.a", with("config", keys(100_000)), "config"),
        bad("config.set.a", with("config", nested(129)), "config"),
        bad("config.set.a", r#"{"config":{"a":1e309}}"#, "config"),
        bad("config.set.a", r#"{"config":{"a":18446744073709551616}}"#, "config"),
        bad("config.set.a", r#"{"config":{"a":-9223372036854775809}}"#, "config"),
        bad("config.set.a", r#"{"config":{"a":0.10000000000000000001}}"#, "config"),
        bad("config.set.a", "{\"config\":{\"\u{e9}\":1,\"e\u{301}\":2}}", "config"),
        bad("config.set.a", json!({"config": {}, "request_id": ""}), "request_id"),
        bad("config.set.a", json!({"config": {}, "request_id": 7}), "request_id"),
        large("config.set.a", json!({"config": {}, "request_id": long(65)}), "request_id"),
        bad("config.set.a", json!({"config": {}, "not_secret": "/a"}), "not_secret"),
        bad("config.set.a", json!({"config": {}, "not_secret": ["a"]}), "not_secret"),
        bad("config.set.a", json!({"config": {}, "not_secret": [["/a"]]}), "not_secret"),
        bad("config.set.a", json!({"config": {}, "not_secret": ["/a"]}), "not_secret"),
        bad("config.set.a", json!({"config": {}, "force": 1}), "force"),
        bad("config.patch.a", "", "patch"),
        bad("config.patch.a", with("patch", json!([])), "patch"),
        bad("config.patch.a", with("patch", json!([{"op": "remove", "path": "/n"}])), "patch"),
        bad("config.patch.a", with("patch", nested(65)), "patch"),
        bad("config.patch.a", with("patch", json!({"n": null})), "patch"),
        bad("config.patch.a", r#"{"patch":{"a":{"b":1,"b":2}}}"#, "patch"),
        bad("config.patch.a", json!({"patch": {}, "config": {}}), "config"),
        large("config.patch.a", with("patch", keys(100_000)), "patch"),
        bad("config.rollback.a", with("to_version", 0), "to_version"),
        bad("config.rollback.a", with("to_version", -1), "to_version"),
        bad("config.rollback.a", with("to_version", 1.5), "to_version"),
        bad("config.rollback.a", with("to_version", "1"), "to_version"),
        bad("config.rollback.a", with("to_version", 1u64 << 63), "to_version"),
        bad("config.rollback.a", with("version", 1), "version"),
        bad("config.delete.a", with("config", json!({})), "config"),
        bad("config.diff.a", "", "from"),
        bad("config.diff.a", with("from", 0), "from"),
        bad("config.diff.a", with("from", "1"), "from"),
        bad("config.diff.a", json!({"from": 1, "to": -1}), "to"),
        bad("config.validate.a", "", "config"),
        bad("config.validate.a", with("config", json!([])), "config"),
        large("config.validate.a", with("config", keys(100_000)), "config"),
        large("config.validate.a", with("config", json!({"x": "c".repeat(400 * 1024)})), "config"),
        bad("config.schema.set.a", "", "schema"),
        bad("config.schema.set.a", with("schema", "{}"), "schema"),
        bad("config.schema.set.a", with("schema", json!([{}])), "schema"),
        bad("config.schema.set.a", with("schema", json!({"type": "strnig"})), "schema"),
        bad("config.schema.set.a", with("schema", nested(65)), "schema"),
        large("config.schema.set.a", with("schema", json!({"title": "t".repeat(64 * 1024)})), "schema"),
        bad("config.schema.set.a", json!({"schema": {}, "force": true}), "force"),
        bad("config.schema.set.a", json!({"schema": {}, "deadline": 5}), "deadline"),
        bad("config.schema.get.a", with("schema", json!({})), "schema"),
        bad("config.status.a", with("instance_id", "i"), "instance_id"),
        bad("config.history.a", with("before_revision", 0), "before_revision"),
        bad("config.history.a", with("limit", 1_001), "limit"),
        bad("config.list", with("service_name", "a"), "service_name"),
        bad("health", with("verbose", true), "verbose"),
    ]
}

/// What lies exactly on a limit, and is taken.
#[rustfmt::skip]
fn at_the_limit() -> Vec<(&'static str, Value)> {
    let long = |chars: usize| "é".repeat(chars);
    vec![
        ("register", json!({"service_name": "a".repeat(100), "instance_id": "i".repeat(128)})),
        ("register.b", json!({"instance_id": "i", "port": 65_535, "host": long(1_000), "version": long(1_000)})),
        ("register.b", json!({"instance_id": "i", "port": 1, "heartbeat_interval_seconds": 0.1})),
        ("register.b", json!({"instance_id": "i", "heartbeat_interval_seconds": 3_600})),
        ("register.b", json!({"instance_id": "i", "metadata": metadata(32 * 1024)})),
        ("register.b", json!({"instance_id": "i", "dependencies": vec!["d".repeat(100); 256], "metadata": nested(64)})),
        ("heartbeat.b", json!({"metrics": metrics(64), "config_error": long(1_000), "incarnation": null})),
        ("heartbeat.b", json!({"metrics": with(&"m".repeat(100), 1e308), "config_revision": 0, "config_version": 0})),
        ("services.list", json!({"limit": 1_000, "cursor": format!("instance/{}.{}", "a".repeat(100), "i".repeat(128))})),
        ("heartbeat.b", json!({"config_error": "line 1\n\tline 2\u{1b}[2J"})),
        ("services.list", json!({"limit": 1, "metadata": metadata(32 * 1024)})),
        ("services.drain.b", json!({"draining": true, "reason": format!("{}\n", long(999))})),
        ("config.set.b", json!({"config": nested(64), "comment": long(1_000), "created_by": long(1_000)})),
        ("config.get.b", json!({"version": 1, "min_revision": 0})),
        ("config.patch.b", json!({"patch": {"k": nested(63)}, "request_id": long(64), "comment": null})),
        ("config.schema.set.b", json!({"schema": {"title": "t".repeat(64 * 1024 - 12)}})),
        ("config.history.b", json!({"limit": 1_000, "before_revision": i64::MAX})),
        ("deregister.b", json!({"service_name": "b", "instance_id": "i"})),
    ]
}

/// A service with an instance and a config, so that only the input can be what is refused.
async fn prepare(hub: &Asker) {
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
}

/// All that requests can leave behind, counted.
async fn written(hub: &Asker) -> Vec<i64> {
    let sql = "SELECT count(*) FROM service_registry WHERE service_name <> 'central-hub'
        UNION ALL SELECT count(*) FROM health_metrics WHERE service_name <> 'central-hub'
        UNION ALL SELECT sum(incarnation)::bigint FROM service_registry
        UNION ALL SELECT count(*) FROM hub_events WHERE topic NOT IN ('infra', 'alert') UNION ALL SELECT count(*) FROM service_configs
        UNION ALL SELECT count(*) FROM config_heads UNION ALL SELECT count(*) FROM config_activations";
    hub.database().await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The hub is as well as before, and has logged no error.
pub async fn unharmed(hub: &mut Hub) {
    assert_eq!(hub.ask("health", "").await["status"], "healthy");
    assert!(hub.process.is_running());
    assert_eq!(hub.errors_logged(), [] as [String; 0]);
}

#[tokio::test]
async fn each_rule_has_its_code_and_names_its_field() {
    let mut hub = Hub::fresh().await;
    prepare(&hub).await;
    let before = written(&hub).await;
    for Case(subject, body, code, field) in broken() {
        hub.refused(subject, body, code, field).await;
    }
    assert_eq!(written(&hub).await, before, "nothing was written");
    unharmed(&mut hub).await;
    for (subject, body) in at_the_limit() {
        hub.ask(subject, body).await;
    }
    unharmed(&mut hub).await;
}

/// The subject of a route after the prefix, for a service.
pub fn subject_of(route: &Route, service: &str) -> String {
    route.pattern.replace('*', service)
}

/// The body of a route's example.
pub fn example(route: &Route) -> Map<String, Value> {
    serde_json::from_str(if route.request.is_empty() { "{}" } else { route.request }).unwrap()
}

/// What holds for every route, also for those of tomorrow.
#[tokio::test]
async fn every_route_is_strict() {
    let mut hub = Hub::fresh().await;
    prepare(&hub).await;
    let before = written(&hub).await;
    let not_objects = [
        "{",
        "}",
        "nope",
        "[]",
        "[{}]",
        "[[1e999]]",
        "1",
        "\"x\"",
        "null",
        "true",
        "{} {}",
        "{}x",
        "{'a':1}",
        "{\"a\":01}",
        "\u{feff}{}",
    ];
    let members = [
        (r#""x":1"#, "x"),
        (r#""x":1,"x":1"#, "x"),
        (r#""x":{"y":[{"z":1,"\u007a":2}]}"#, "x"),
        (r#""x":"\u0000""#, "x"),
        (r#""x":1e999"#, "x"),
        (r#""x":-123456789012345678901234567890"#, "x"),
        (r#""x":[0.30000000000000000001]"#, "x"),
        (r#""x":NaN"#, "body"),
        (r#""x":"\udc00""#, "body"),
        (
            r#""x":"a line
break""#,
            "body",
        ),
    ];
    for route in ROUTES {
        let subject = subject_of(route, "a");
        for body in not_objects {
            hub.refused(&subject, body, "bad_request", "body").await;
        }
        hub.refused(&subject, "[".repeat(5_000), "bad_request", "body").await;
        for bytes in [&b"\xff"[..], b"{\"x\":\"\xc3\"}", b"\xef\xbb\xbf{}", b"\0", b"{\"x\":1}\0", b"\xff\xfe{\0}\0"] {
            let refusal = hub.send(&subject, bytes).await.result().expect_err("no JSON");
            assert_eq!(
                (refusal.code.as_str(), &refusal.details["field"]),
                ("bad_request", &json!("body")),
                "{bytes:?}"
            );
        }
        let example = example(route);
        let inside = Value::Object(example.clone()).to_string();
        let inside = inside[1..inside.len() - 1].to_owned();
        let comma = if inside.is_empty() { "" } else { "," };
        for (member, field) in members {
            hub.refused(&subject, format!("{{{inside}{comma}{member}}}"), "bad_request", field).await;
        }
        for levels in [64, 200, 100_000] {
            let deep = format!("{{{inside}{comma}\"x\":{}{}}}", "[".repeat(levels + 1), "]".repeat(levels + 1));
            hub.refused(&subject, deep, "bad_request", "x").await;
        }
        for field in route.fields {
            // No kind of field is both; and what was sent isn't sent back.
            let wrong = if field.kind == "list of names" { json!({"k": "s3same!"}) } else { json!(["s3same!"]) };
            let mut body = example.clone();
            body.insert(field.name.to_owned(), wrong);
            let answer = hub.send(&subject, Value::Object(body.clone()).to_string()).await;
            assert!(!String::from_utf8_lossy(&answer.body).contains("s3same!"), "{answer:?}");
            let refusal = answer.result().expect_err(field.name);
            assert_eq!(
                (refusal.code.as_str(), &refusal.details["field"]),
                ("bad_request", &json!(field.name)),
                "{subject}"
            );
            if field.required {
                body.remove(field.name);
                hub.refused(&subject, Value::Object(body), "bad_request", field.name).await;
            }
        }
        if route.endpoint.names_service() {
            let mut body = example.clone();
            body.insert("service_name".to_owned(), json!("b"));
            hub.refused(&subject, Value::Object(body.clone()), "forbidden", "service_name").await;
        }
    }
    assert_eq!(written(&hub).await, before, "nothing was written");
    assert!(!hub.process.log().contains("s3same!"), "nor is what was sent logged");
    unharmed(&mut hub).await;
}

#[tokio::test]
async fn every_token_of_a_subject_is_checked() {
    let mut hub = Hub::fresh().await;
    prepare(&hub).await;
    let before = written(&hub).await;
    let long = "a".repeat(101);
    let tokens = [
        "a*",
        "*",
        ">",
        "a>",
        "*a",
        "a\0b",
        "\0",
        "é",
        "日本",
        "a\u{a0}b",
        "a\u{2028}",
        "\u{7f}",
        "-a",
        "_a",
        "$a",
        "a/b",
        "a:b",
        "a=",
        "{a}",
        "\"a\"",
        &long,
    ];
    for route in ROUTES.iter().filter(|route| route.endpoint.names_service()) {
        let body = Value::Object(example(route));
        for token in tokens {
            hub.refused(&subject_of(route, token), &body, "bad_request", "service_name").await;
        }
        // The server itself sees that nobody listens there.
        for subject in [subject_of(route, "a.b"), route.pattern.replace(".*", ""), route.pattern.replace(".*", "..a")] {
            if ROUTES.iter().any(|route| route.pattern == subject) {
                continue;
            }
            let error = hub.nats.request(hub.subject(&subject), "".into()).await.expect_err("nobody listens");
            assert_eq!(error.kind(), RequestErrorKind::NoResponders, "{subject}");
        }
    }
    assert_eq!(written(&hub).await, before, "nothing was written");
    unharmed(&mut hub).await;
}

#[tokio::test]
async fn a_body_may_have_1_mib() {
    let nats = private_nats_with("max_payload: 4194304").await;
    let mut hub = Hub::start(HubOptions::on(&nats.url(), &crate::stack::database().await)).await;
    let padded = |bytes: usize| {
        let mut body = r#"{"config":{"n":1}"#.to_owned();
        body.push_str(&" ".repeat(bytes - body.len() - 1));
        body + "}"
    };
    let details = hub.refused("config.set.a", padded(1024 * 1024 + 1), "too_large", "body").await;
    assert_eq!(details["limit"], 1024 * 1024);
    hub.refused("health", " ".repeat(4 * 1024 * 1024), "too_large", "body").await;
    hub.refused("config.get.a", "", "not_found", None).await;
    hub.ask("config.set.a", padded(1024 * 1024)).await;
    unharmed(&mut hub).await;
}

/// However much of the input or of the registry a refusal has to speak of: it fits into a message, so it comes.
#[tokio::test]
async fn a_refusal_always_comes() {
    let mut hub = Hub::fresh().await;
    let key = "~".repeat(1024 * 1024 - 40);
    hub.refused("health", format!("{{\"{key}\":1}}"), "bad_request", &key[..100]).await;
    hub.refused("health", format!("{{\"{key}\":\"\\u0000\"}}"), "bad_request", &key[..100]).await;
    hub.refused("health", format!("{{\"x\":{{\"{key}\":\"\\u0000\"}}}}"), "bad_request", "x").await;
    let metric = with("metrics", with(&key, 1));
    hub.refused("heartbeat.a", metric, "bad_request", "metrics").await;

    let database = hub.database().await;
    let many = "INSERT INTO service_registry (service_name, instance_id, status)
                SELECT 'many', repeat('i', 120) || n, 'healthy' FROM generate_series(1, 9000) n";
    database.batch_execute(many).await.unwrap();
    for (subject, body) in
        [("heartbeat.many", "{}"), ("deregister.many", "{}"), ("services.drain.many", r#"{"draining":true}"#)]
    {
        let refusal = hub.send(subject, body).await.result().expect_err("ambiguous");
        assert_eq!(refusal.code, "ambiguous_instance");
    }
    unharmed(&mut hub).await;
}

/// Bytes that no client library would send. The hub's own can't read them and drops its connection; the hub comes back,
/// each time.
#[tokio::test]
async fn messages_that_are_not_utf8_end_nothing() {
    let mut hub = Hub::fresh().await;
    prepare(&hub).await;
    let address = hub.process.options().nats_url.trim_start_matches("nats://").to_owned();
    let health = hub.subject("health").into_bytes();
    let publish = |subject: &[u8], reply: &[u8]| [b"PUB ", subject, b" ", reply, b" 0\r\n\r\n"].concat();
    let with_headers = |headers: &[u8]| {
        let length = headers.len().to_string();
        [b"HPUB ", &health[..], b" _INBOX.x.y ", length.as_bytes(), b" ", length.as_bytes(), b"\r\n", headers, b"\r\n"]
            .concat()
    };
    let messages = [
        publish(&[hub.subject("heartbeat.").as_bytes(), b"\xff"].concat(), b"_INBOX.x.y"),
        publish(&health, b"_INBOX.x.\xfe\xff"),
        with_headers(b"NATS/1.0\r\nName: \xff\r\n\r\n"),
        with_headers(b"NATS/1.0\r\nno header at all\r\n\r\n"),
        with_headers(b"NATS/1.0 many words\r\n\r\n"),
    ];
    for message in messages {
        let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
        socket.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n").await.unwrap();
        socket.write_all(&message).await.unwrap();
        socket.write_all(b"PING\r\n").await.unwrap();
        eventually(SOON, || async {
            let asked = tokio::time::timeout(Duration::from_millis(500), hub.send("heartbeat.a", "")).await;
            asked.is_ok_and(|answer| answer.result().is_ok())
        })
        .await;
    }
    unharmed(&mut hub).await;
}
