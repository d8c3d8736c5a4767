//! `central-hub health`: what it prints, and the exit codes that health checks go by.

use std::process::{Command, Output};

use serde_json::Value;

use crate::identities::{Guarded, PATIENCE};
use crate::stack::{HubOptions, HubProcess, eventually, executable, private_stack};

fn health(nats_url: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(executable())
        .args(["health", "--nats-url", nats_url])
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn the_exit_code_tells_healthy_degraded_and_no_answer() {
    let mut stack = private_stack().await;
    let url = stack.nats_url();
    let options = HubOptions { prefix: "hub".into(), ..HubOptions::on(&url, &stack.database_url()) };
    let mut hub = HubProcess::start(options).await;
    hub.ready().await;
    let replica = hub.options().replica_id.clone();

    let fine = health(&url, &[], &[]);
    assert_eq!((fine.status.code(), text(&fine.stderr)), (Some(0), String::new()));
    let said = text(&fine.stdout);
    assert!(said.starts_with("healthy: central-hub ") && said.contains(&replica), "{said}");
    assert_eq!(said.lines().count(), 4, "{said}");
    let json: Value = serde_json::from_slice(&health(&url, &["--json"], &[]).stdout).unwrap();
    assert_eq!((&json["status"], &json["replica_id"]), (&"healthy".into(), &replica.clone().into()));

    // One replica in particular.
    assert_eq!(health(&url, &["--replica", &replica], &[]).status.code(), Some(0));
    assert_eq!(health(&url, &[], &[("CENTRAL_HUB_REPLICA_ID", &replica)]).status.code(), Some(0));
    let other = health(&url, &["--replica", "other"], &[]);
    assert_eq!(other.status.code(), Some(2));
    assert!(text(&other.stderr).contains("replica other does"), "{other:?}");

    stack.postgres.pause().await;
    let degraded = eventually(PATIENCE, || async {
        let output = health(&url, &[], &[]);
        if output.status.code() == Some(1) { Ok(output) } else { Err(output) }
    })
    .await;
    let said = text(&degraded.stdout);
    assert!(said.starts_with("degraded: ") && said.contains("PostgreSQL  down\n"), "{said}");
    assert_eq!(text(&degraded.stderr), "");
    stack.postgres.resume();
    eventually(PATIENCE, || async { health(&url, &[], &[]).status.success() }).await;

    let nobody = health(&url, &["--subject-prefix", "nobody"], &[]);
    assert_eq!((nobody.status.code(), text(&nobody.stdout)), (Some(2), String::new()));
    assert!(text(&nobody.stderr).contains("no hub listens on nobody.health"), "{nobody:?}");

    hub.pause().await;
    let silent = health(&url, &["--timeout", "500ms", "--json"], &[]);
    assert_eq!(silent.status.code(), Some(2));
    let json: Value = serde_json::from_slice(&silent.stdout).unwrap();
    assert!(json["error"]["message"].as_str().unwrap().contains("no answer on hub.health"), "{json}");
    hub.resume();

    stack.nats.pause().await;
    assert_eq!(health(&url, &["--timeout", "500ms"], &[]).status.code(), Some(2));
    stack.nats.resume();
    stack.nats.stop().await;
    let unreachable = health(&url, &[], &[]);
    assert_eq!(unreachable.status.code(), Some(2));
    assert!(text(&unreachable.stderr).contains(&url), "{unreachable:?}");
}

#[tokio::test]
async fn beside_a_daemon_it_asks_as_another_user() {
    let guarded = Guarded::start(&[]).await;
    let url = guarded.nats.url();
    let password = |user: &str| guarded.roles.password(user).unwrap();
    let daemon = [
        ("CENTRAL_HUB_NATS_USER", "hub-answers"),
        ("CENTRAL_HUB_NATS_PASSWORD", password("hub-answers")),
        ("CENTRAL_HUB_NATS_INBOX_PREFIX", "_INBOX.hub-answers"),
    ];
    let refused = health(&url, &["--timeout", "1s"], &daemon);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("Permissions Violation for Publish to \"hub.health\""), "{refused:?}");

    let own = [
        ("CENTRAL_HUB_HEALTH_NATS_USER", "health"),
        ("CENTRAL_HUB_HEALTH_NATS_PASSWORD", password("health")),
        ("CENTRAL_HUB_HEALTH_NATS_INBOX_PREFIX", "_INBOX.health"),
        ("CENTRAL_HUB_REPLICA_ID", guarded.hub.options().replica_id.as_str()),
    ];
    let fine = health(&url, &[], &[&daemon[..], &own[..]].concat());
    assert_eq!((fine.status.code(), text(&fine.stderr)), (Some(0), String::new()));
}
