//! Whom NATS vouches for: across an account import that is told to, the server says which user asks.

use async_nats::{ConnectOptions, HeaderMap};
use serde_json::{Value, json};

use crate::ask::{Answer, Hub};
use crate::stack::{HubOptions, database, private_nats_with, unique};

/// A server on which the hub and a fleet have an account each.
fn accounts(prefix: &str) -> String {
    let import = format!("{{ account: HUB, subject: \"{prefix}.>\" }}, share: true");
    format!(
        r#"no_auth_user: hub
        accounts {{
            HUB {{
                jetstream: enabled
                users: [ {{ user: hub, password: hub }} ]
                exports: [ {{ service: "{prefix}.>", response_type: singleton }} ]
            }}
            FLEET {{
                users: [ {{ user: ann, password: ann }}, {{ user: bob, password: bob }} ]
                imports: [ {{ service: {import} }} ]
            }}
        }}"#
    )
}

#[tokio::test]
async fn the_user_that_nats_names_is_kept_beside_the_one_that_the_caller_names() {
    let prefix = unique();
    let nats = private_nats_with(&accounts(&prefix)).await;
    let options = HubOptions { prefix, ..HubOptions::on(&nats.url(), &database().await) };
    let trusting = options.clone().env("CENTRAL_HUB_TRUST_REQUEST_INFO", "true");
    let hub = Hub::start(trusting).await;
    let ask = async |user: &str, call: &str, body: Value| {
        let login = ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned());
        let client = login.connect(nats.url()).await.unwrap();
        let mut headers = HeaderMap::new();
        // What the caller writes there himself is overwritten.
        headers.insert("Nats-Request-Info", r#"{"acc":"HUB","user":"root"}"#);
        let body = body.to_string().into();
        let answer = client.request_with_headers(hub.subject(call), headers, body).await.unwrap();
        Answer::of(answer).result().unwrap()
    };
    ask("ann", "config.set.a", json!({"config": {"n": 1}, "created_by": "deploy-bot"})).await;
    ask("bob", "config.patch.a", json!({"patch": {"n": 2}})).await;
    ask("ann", "config.rollback.a", json!({"created_by": "bob"})).await;
    ask("bob", "config.schema.set.a", json!({"schema": {}})).await;
    hub.ask("config.delete.a", "").await;

    let history = hub.ask("config.history.a", "").await;
    let told: Vec<_> = history["activations"].as_array().unwrap().iter().rev().collect();
    let who: Vec<_> =
        told.iter().map(|told| (told["by"].as_str().unwrap(), told["authenticated_as"].as_str())).collect();
    let (ann, bob) = (Some("FLEET/ann"), Some("FLEET/bob"));
    assert_eq!(who, [("deploy-bot", ann), ("unknown", bob), ("bob", ann), ("unknown", None)]);
    let events = hub.events("config.a.*", 4).await;
    assert_eq!(events[0].body["details"]["authenticated_as"], "FLEET/ann");
    assert_eq!(events[3].body["details"].get("authenticated_as"), None);
    let sql = "SELECT created_by, authenticated_as FROM service_configs ORDER BY version";
    let rows = hub.database().await.query(sql, &[]).await.unwrap();
    let written: Vec<(String, Option<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(written, [("deploy-bot".into(), ann.map(Into::into)), ("unknown".into(), bob.map(Into::into))]);
}
