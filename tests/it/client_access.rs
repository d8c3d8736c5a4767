//! The Rust client with every way to prove to NATS who one is, and with no more rights than a service needs.

use std::process::Command;

use central_hub::client::{ClientOptions, HubClient, Source};
use central_hub::nats::NatsOptions;
use central_hub::wire::registry::{Register, ServicesList};
use serde_json::json;

use crate::identities::{Guarded, PATIENCE};
use crate::service::{Settings, number_is};
use crate::stack::eventually;

/// The service that the shipped permissions have a user for.
const SERVICE: &str = "tick-aggregator";

/// A process that knows nothing but its environment, and tells whether it came in.
const CHILD: &str = "client_access::connects_as_its_environment_says";

#[tokio::test]
#[ignore = "runs in a process of its own, with an environment"]
async fn connects_as_its_environment_says() {
    let options = ClientOptions::from_env().unwrap();
    assert_eq!((options.subject_prefix.as_str(), options.bucket_prefix.as_str()), ("fleet.a", "fleet_a"));
    let hub = HubClient::connect(options).await.unwrap();
    eventually(PATIENCE, || async { hub.nats().connection_state() == async_nats::connection::State::Connected }).await;
    hub.nats().flush().await.unwrap();
}

/// A program with the Rust client in this environment is let in. (`tests/it/access.rs` has it try every way.)
pub fn is_let_in(nats_url: &str, env: &[(&str, &str)]) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", CHILD])
        .env_clear()
        .env("CENTRAL_HUB_NATS_URL", nats_url)
        .env("CENTRAL_HUB_SUBJECT_PREFIX", "fleet.a")
        .env("CENTRAL_HUB_BUCKET_PREFIX", "fleet_a")
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

/// All that a service does, with the rights that ship for one.
#[tokio::test]
async fn the_rights_of_one_service_are_enough() {
    let guarded = Guarded::start(&[]).await;
    let operator = guarded.caller("operator").await;
    operator.ask("hub.register.other", r#"{"instance_id":"o","host":"h","port":1}"#).await;
    operator.ask(&format!("hub.config.set.{SERVICE}"), r#"{"config":{"number":1}}"#).await;
    let folder = tempfile::tempdir().unwrap();
    let options = ClientOptions {
        nats: NatsOptions {
            user: Some(SERVICE.into()),
            password: guarded.roles.password(SERVICE).map(str::to_owned),
            inbox_prefix: Some(format!("_INBOX.{SERVICE}")),
            ..NatsOptions::new(&guarded.nats.url())
        },
        ..ClientOptions::default()
    };
    // What the server refuses shows in the events of a connection, so this one is made by hand.
    let connect = options.nats.connect_options().await.unwrap();
    let caller = crate::identities::Caller::connect(&guarded.nats, connect).await;
    let by_hand = HubClient::new(caller.client.clone());
    let connected = HubClient::connect(options).await.unwrap();
    for (number, hub) in [(1, by_hand), (3, connected)] {
        let config = hub.config::<Settings>(SERVICE.parse().unwrap()).cache_dir(folder.path()).start().await.unwrap();
        assert_eq!((config.get().source, config.get().number), (Source::Hub, number));
        let me = Register { heartbeat_interval_seconds: Some(0.2), ..Register::new(SERVICE.parse().unwrap()) };
        let me = hub.register(me).await.unwrap();
        me.report_config(&config);
        let mut view = hub.watch_services();
        tokio::time::timeout(PATIENCE, view.loaded()).await.expect("in time");
        eventually(PATIENCE, || async { view.pick(&"other".parse().unwrap()).is_some() }).await;
        assert!(hub.get_service("other".parse().unwrap()).await.unwrap().is_some());
        assert!(hub.get_service("nobody".parse().unwrap()).await.unwrap().is_none());
        assert!(!hub.get_services(ServicesList::default()).await.unwrap().is_empty());
        let set = json!({"config": {"number": number + 1}}).to_string();
        operator.ask(&format!("hub.config.set.{SERVICE}"), &set).await;
        number_is(&config, number + 1, PATIENCE).await;
        eventually(PATIENCE, || async {
            let status = operator.ask(&format!("hub.config.status.{SERVICE}"), "").await;
            if status["converged"] == true { Ok(()) } else { Err(status) }
        })
        .await;
        // As after a push that got lost: it reads its key, and looks at a bucket that it can't watch.
        let set = json!({"config": {"number": number + 2}}).to_string();
        operator.ask(&format!("hub.config.set.{SERVICE}"), &set).await;
        number_is(&config, number + 2, PATIENCE).await;
        me.deregister().await.unwrap();
    }
    assert_eq!(caller.refusals(), Vec::<String>::new(), "all of this is its part");
    assert_eq!(guarded.complaints(), Vec::<String>::new());
}
