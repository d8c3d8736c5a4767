//! Secrets stay out: a config that carries one is refused, and its value appears nowhere.

use serde_json::{Value, json};

use crate::ask::{Asker, Hub};
use crate::config_life::traces;
use crate::stack::{HubOptions, private_postgres};

/// A part of every secret here that stands nowhere else.
const HUSH: &str = "hUsh4qZ7";

/// A value that is no secret, in configs that are refused for another reason.
const QUIET: &str = "qUiet9vX2";

/// Configs that carry a secret, each with the pointers to it. (Well-known forms are put together here, so that no scanner
/// takes these for somebody's.)
fn secrets() -> Vec<(Value, Vec<&'static str>)> {
    let pem = format!("-----BEGIN {} KEY-----\n{HUSH}\n-----END", "RSA PRIVATE");
    vec![
        (json!({"db": {"password": HUSH}}), vec!["/db/password"]),
        (json!({"API_KEY": HUSH, "n": 1}), vec!["/API_KEY"]),
        (json!({"clientSecret": ["", HUSH, HUSH]}), vec!["/clientSecret/1", "/clientSecret/2"]),
        (json!({"a/b": {"c~d": {"signing-key": HUSH}}}), vec!["/a~1b/c~0d/signing-key"]),
        (json!({"tls": {"cert": pem}}), vec!["/tls/cert"]),
        (json!({"url": format!("postgres://hub:{HUSH}@db/hub")}), vec!["/url"]),
        (json!({"hook": format!("ghp_{}", HUSH.repeat(5))}), vec!["/hook"]),
        (json!({"header": format!("Bearer {HUSH}")}), vec!["/header"]),
        (json!({"token": format!("${{env:A}}{HUSH}"), "other": {"token": "${env:A}"}}), vec!["/token"]),
        (json!({"keys": {format!("ghp_{}", HUSH.repeat(5)): 1}}), vec!["/keys"]),
        (json!({format!("ghp_{}", HUSH.repeat(5)): {"password": HUSH}}), vec![""]),
    ]
}

/// All rows of all tables, as text.
async fn everything(hub: &Asker) -> String {
    let database = hub.database().await;
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
    let mut all = String::new();
    for table in database.query(tables, &[]).await.unwrap() {
        let table: String = table.get(0);
        let rows = database.query(&format!("SELECT t::text FROM \"{table}\" t"), &[]).await.unwrap();
        all.extend(rows.iter().map(|row| row.get::<_, String>(0) + "\n"));
    }
    all
}

#[tokio::test]
async fn no_value_of_a_refused_config_appears_anywhere() {
    // A PostgreSQL that logs each statement with its parameters, and a hub that logs all it can.
    let postgres = private_postgres().await;
    postgres.create_database("guarded", None).await.unwrap();
    let url = postgres.url_of("guarded");
    let options = HubOptions::on(&crate::stack::nats_url(), &url).env("CENTRAL_HUB_LOG_LEVEL", "trace");
    let asker = Asker::of(&options).await;
    asker.database().await.batch_execute("ALTER DATABASE guarded SET log_statement = 'all'").await.unwrap();
    let hub = Hub::start(options).await;
    let strict = json!({"schema": {"additionalProperties": false, "properties": {"n": {"type": "integer"}}}});
    hub.ask("config.schema.set.strict", strict).await;
    hub.ask("config.set.patched", json!({"config": {"kept": 1}})).await;
    hub.ask("config.set.taken", json!({"config": {"marker": "taken-and-logged-by-postgres"}})).await;
    let before = traces(&hub).await;

    let refused = async |call: &str, body: &Value, paths: &Value| {
        let answer = hub.send(call, body.to_string()).await;
        assert!(!format!("{answer:?}").contains(HUSH), "{answer:?}");
        let refusal = answer.result().expect_err(call);
        assert_eq!(refusal.code, "secret_detected", "{call} {body}");
        assert_eq!(&refusal.details["paths"], paths, "{call} {body}");
    };
    for (config, paths) in secrets() {
        let paths = json!(paths);
        for more in [json!({}), json!({"force": true, "request_id": "r"}), json!({"dry_run": true})] {
            let mut body = json!({ "config": config });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            for service in ["fresh", "strict", "patched"] {
                refused(&format!("config.set.{service}"), &body, &paths).await;
            }
        }
        refused("config.patch.patched", &json!({ "patch": config }), &paths).await;
        for service in ["fresh", "strict"] {
            let answer = hub.send(&format!("config.validate.{service}"), json!({ "config": config }).to_string()).await;
            assert!(!format!("{answer:?}").contains(HUSH), "{answer:?}");
            let validation = answer.result().unwrap();
            assert_eq!((&validation["valid"], &validation["secrets"]), (&json!(false), &paths));
        }
    }
    // Nor of one that is refused for another reason.
    let quiet = async |service: &str, body: Value, code: &str| {
        let answer = hub.send(&format!("config.set.{service}"), body.to_string()).await;
        assert!(!format!("{answer:?}").contains(QUIET), "{answer:?}");
        assert_eq!(answer.result().expect_err(code).code, code);
    };
    for config in [json!({"n": QUIET}), json!({"n": [QUIET]}), json!({"n": 1, "x": {"y": QUIET}})] {
        quiet("strict", json!({ "config": config }), "schema_violation").await;
    }
    quiet("fresh", json!({"config": {"n": QUIET.repeat(50_000)}}), "too_large").await;
    quiet("fresh", json!({"config": {"n": QUIET}, "not_secret": ["/m"]}), "bad_request").await;
    quiet("patched", json!({"config": {"n": QUIET}, "expected_version": 7}), "version_conflict").await;

    assert_eq!(traces(&hub).await, before, "nothing was written");
    let rows = everything(&hub).await;
    let taken = "taken-and-logged-by-postgres";
    assert!(rows.contains(taken) && !rows.contains(HUSH) && !rows.contains(QUIET));
    let events = hub.events("config.>", 2).await;
    assert!(events.iter().all(|event| !event.body.to_string().contains(HUSH)));
    let log = hub.process.log();
    assert!(log.contains(" DEBUG ") && log.contains("secret_detected"), "it logs all it can");
    assert!([HUSH, QUIET, taken].iter().all(|value| !log.contains(value)), "configs are never logged");
    let log = std::fs::read_to_string(postgres.folder().join("server.log")).unwrap();
    assert!(log.contains(taken), "PostgreSQL's log shows what it is sent");
    assert!(!log.contains(HUSH), "a secret isn't even sent there");
}

#[tokio::test]
async fn a_reference_or_the_writers_word_lets_it_pass() {
    let hub = Hub::fresh().await;
    let config = json!({
        "db": {"password": "${env:TICK_DB_PASSWORD}", "tokens": ["${env:A}"]},
        "password": "", "token": null, "secret": 5, "credentials": {"from": "vault"},
        "tokenizer": "bert", "max_tokens": "100", "password_min_length": 12, "secret_santa": false,
    });
    hub.ask("config.set.a", json!({ "config": config })).await;
    assert_eq!(hub.ask("config.get.a", "").await["config"], config, "the reference, never what it stands for");
    hub.value_once("config", "a", |kept| kept["config"] == config).await;

    let vouched = json!({"config": {"csrf_token": "x-csrf", "n": 1}, "not_secret": ["/csrf_token"]});
    let plain = json!({"config": {"csrf_token": "x-csrf", "n": 1}});
    let details = hub.refused("config.set.b", &plain, "secret_detected", "config").await;
    assert_eq!(details["paths"], json!(["/csrf_token"]));
    assert_eq!(hub.ask("config.validate.b", &plain).await["valid"], false);
    assert_eq!(hub.ask("config.validate.b", &vouched).await["valid"], true);
    hub.ask("config.set.b", &vouched).await;
    let recorded = "SELECT not_secret FROM service_configs WHERE service_name = 'b' ORDER BY version";
    let recorded = async || {
        let rows = hub.database().await.query(recorded, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, Option<Value>>(0)).collect::<Vec<_>>()
    };
    assert_eq!(recorded().await, [Some(json!(["/csrf_token"]))]);
    let events = hub.events("config.b.published", 1).await;
    assert_eq!(events[0].body["details"]["not_secret"], json!(["/csrf_token"]));

    // What is in force under somebody's word stays so, as long as it is the same.
    assert_eq!(hub.ask("config.set.b", &plain).await["changed"], false);
    assert_eq!(hub.ask("config.patch.b", json!({"patch": {"n": 2}})).await["version"], 2);
    assert_eq!(recorded().await[1], Some(json!(["/csrf_token"])), "and the word goes with it");
    for patch in [json!({"csrf_token": "other"}), json!({"csrf_token": "x-csrf", "token": "y"})] {
        hub.refused("config.patch.b", json!({ "patch": patch }), "secret_detected", "config").await;
    }
    hub.refused("config.set.b", json!({"config": {"csrf_token": "x-csrf", "n": 3}}), "secret_detected", "config").await;
    let body = json!({"patch": {"auth": [{"token": "y"}, {"token": "z"}]}, "not_secret": ["/auth/0"]});
    let details = hub.refused("config.patch.b", body, "secret_detected", "config").await;
    assert_eq!(details["paths"], json!(["/auth/1/token"]));
    let body = json!({"patch": {"auth": [{"token": "y"}, {"token": "z"}]}, "not_secret": ["/auth"]});
    assert_eq!(hub.ask("config.patch.b", body).await["version"], 3);
    assert_eq!(recorded().await[2], Some(json!(["/auth", "/csrf_token"])));
    // What comes back into force was vouched for when it was written.
    hub.ask("config.delete.b", "").await;
    assert_eq!(hub.ask("config.rollback.b", "").await["version"], 3);
    assert_eq!(hub.ask("config.rollback.b", json!({"to_version": 1})).await["version"], 1);

    for (pointers, code) in [
        (json!(["/nowhere"]), "bad_request"),
        (json!(["/csrf_token/0"]), "bad_request"),
        (json!(["csrf_token"]), "bad_request"),
        (json!([""]), "bad_request"),
        (json!(["/csrf_token", 5]), "bad_request"),
        (json!("/csrf_token"), "bad_request"),
        (json!(vec!["/csrf_token"; 101]), "too_large"),
    ] {
        for call in ["config.set.c", "config.validate.c"] {
            let body = json!({"config": {"csrf_token": "x"}, "not_secret": pointers});
            hub.refused(call, body, code, "not_secret").await;
        }
    }
}

/// What stands beside configs: schemas and texts for people.
#[tokio::test]
async fn schemas_and_texts_carry_no_secret_either() {
    let hub = Hub::fresh().await;
    hub.ask("register.a", json!({"instance_id": "i", "status": "down"})).await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    let token = format!("ghp_{}", HUSH.repeat(5));
    let schema = json!({"properties": {
        "password": {"type": "string", "default": HUSH},
        "hook": {"const": token},
        "names": {"properties": {&token: {"type": "string"}}},
        "urls": {"enum": ["postgres://db/x", format!("postgres://hub:{HUSH}@db/x")]},
    }});
    let refused = async |subject: &str, body: &Value, field: &str, paths: &[&str]| {
        let details = hub.refused(subject, body, "secret_detected", field).await;
        assert_eq!(details["paths"], json!(paths), "{subject}");
        assert!(!details.to_string().contains(HUSH), "{details}");
    };
    let paths = [
        "/properties/hook/const",
        "/properties/names/properties",
        "/properties/password/default",
        "/properties/urls/enum/1",
    ];
    refused("config.schema.set.a", &json!({ "schema": schema }), "schema", &paths).await;
    refused("register.a", &json!({"instance_id": "j", "config_schema": schema}), "config_schema", &paths).await;
    for (subject, mut body, fields) in [
        ("config.set.a", json!({"config": {"n": 2}}), &["comment", "created_by"][..]),
        ("config.patch.a", json!({"patch": {"n": 2}}), &["comment", "created_by"]),
        ("config.delete.a", json!({}), &["comment", "created_by"]),
        ("config.rollback.a", json!({}), &["comment", "created_by"]),
        ("services.drain.a", json!({"draining": true}), &["reason"]),
        ("alerts.ack", json!({"id": 1}), &["by"]),
    ] {
        for field in fields {
            for text in [format!("rotated {token}"), format!("see postgres://hub:{HUSH}@db/x")] {
                body[field] = text.into();
                refused(subject, &body, field, &[format!("/{field}").as_str()]).await;
            }
            body.as_object_mut().unwrap().remove(*field);
        }
    }
    assert!(!everything(&hub).await.contains(HUSH) && !hub.process.log().contains(HUSH));

    // What a schema says that values must be isn't told to those who break it.
    let quiet = json!({"properties": {
        "a": {"const": QUIET}, "b": {"enum": [QUIET]}, "c": {"not": {"const": QUIET}},
        "d": {"type": "integer", "default": QUIET}, "e": {"propertyNames": {"maxLength": 3}},
    }});
    hub.ask("config.schema.set.a", json!({"schema": quiet, })).await;
    let config = json!({"a": "x", "b": "x", "c": QUIET, "d": "x", "e": {QUIET: 1}});
    let details = hub.refused("config.set.a", json!({ "config": config }), "schema_violation", "config").await;
    assert_eq!(details["violations"].as_array().unwrap().len(), 5, "{details}");
    assert!(!details.to_string().contains(QUIET), "{details}");
    let validation = hub.ask("config.validate.a", json!({ "config": config })).await;
    assert!(!validation.to_string().contains(QUIET), "{validation}");
    // A comment may have lines, and name what is secret.
    let fine = json!({"config": {"n": 3}, "comment": "first line\n\tsecond: the password is in ${env:DB_PASSWORD}"});
    hub.ask("config.set.a", fine).await;
}
