//! NATS, PostgreSQL or both come back with an old copy of their data. In the end KV says what PostgreSQL says, under a
//! higher epoch if PostgreSQL went back; no watcher is sent back, and none is left behind.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use central_hub::cli::servers;
use central_hub::wire::bucket::Bucket;
use serde_json::json;

use crate::ask::Asker;
use crate::backups::{Backup, Old, PATIENCE, World, copy_folder};
use crate::stack::{HubOptions, HubProcess, eventually, executable, private_postgres};
use crate::traffic::{Burst, nothing_was_lost};
use crate::witness::{Truth, healed_within, values};

/// Restores while hubs run, and has them write at once, before they can know.
async fn hubs_run_through(old: Old, count: usize) {
    let mut world = World::new(count).await;
    let copies = world.copy(old).await;
    let before = world.epoch().await;
    world.go_on().await;
    world.restore(old, &copies).await;
    let last_event: i64 = world.truth.one("SELECT max(id) FROM hub_events", &[]).await;
    let health = format!("{}.health", world.options.prefix);
    eventually(PATIENCE, || world.nats.request(health.clone(), "".into())).await;
    let sets = Burst::start(&world.options, &world.nats, 4, 60, 6, 1).ended().await;
    world.is_well().await;
    assert!(nothing_was_lost(&world.truth, &sets).await > 0, "none was acknowledged: {sets:?}");
    world.ends_well().await;
    assert_eq!(world.epoch().await > before, old.has_postgres(), "the epoch is raised when PostgreSQL went back");
    all_events_are_on_the_stream(&world, last_event).await;
}

/// Those of rows after `row`, each once.
async fn all_events_are_on_the_stream(world: &World, row: i64) {
    let sql = "SELECT kind || ' ' || service_name || ' ' || (extract(epoch FROM at) * 1000000)::bigint FROM hub_events
               WHERE topic = 'config' AND id > $1";
    let wanted: BTreeSet<String> = world.truth.rows(sql, &[&row]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let asker = Asker::of(&world.options).await;
    eventually(PATIENCE, || async {
        let count = asker.event_stream().await.get_info().await.unwrap().state.messages;
        let events = asker.events(">", usize::try_from(count).unwrap()).await;
        let mut ids = BTreeSet::new();
        assert!(events.iter().all(|event| ids.insert(&event.id)), "an id is there twice");
        let found: BTreeSet<String> = events
            .iter()
            .map(|event| {
                let at = event.body["at"].as_str().unwrap();
                let format = &time::format_description::well_known::Rfc3339;
                let micros = time::OffsetDateTime::parse(at, format).unwrap().unix_timestamp_nanos() / 1000;
                format!(
                    "{} {} {micros}",
                    event.body["kind"].as_str().unwrap(),
                    event.body["service_name"].as_str().unwrap()
                )
            })
            .collect();
        let missing: Vec<_> = wanted.difference(&found).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
}

#[tokio::test]
async fn an_old_nats_comes_back_while_a_hub_runs() {
    hubs_run_through(Old::Nats, 1).await;
}

#[tokio::test]
async fn an_old_postgres_comes_back_while_hubs_run_and_nats_has_newer_values() {
    hubs_run_through(Old::Postgres, 2).await;
}

#[tokio::test]
async fn both_come_back_old_while_hubs_run() {
    hubs_run_through(Old::Both, 2).await;
}

/// The hub has much on hand when NATS is back, more than the copy lacks, and is kept from looking what NATS it is.
#[tokio::test]
async fn what_is_written_to_an_old_nats_before_it_is_known_for_one_reaches_all() {
    let mut world = World::new(1).await;
    let copies = world.copy(Old::Nats).await;
    world.go_on().await;
    world.stack.nats.stop().await;
    copies.iter().for_each(Backup::put_back);
    let by_hand = "INSERT INTO service_configs (service_name, config_data) SELECT 'by-hand-' || n, '{}'
                   FROM generate_series(1, 40) n";
    world.truth.rows(by_hand, &[]).await.unwrap();
    let lock = world.truth.session().await.unwrap();
    lock.batch_execute("BEGIN; LOCK TABLE hub_buckets IN ACCESS EXCLUSIVE MODE").await.unwrap();
    world.stack.nats.restart().await.unwrap();
    world.is_connected().await;
    let bucket = Bucket::Config.name(&world.options.prefix);
    eventually(PATIENCE, || async {
        let found = values(&world.nats, &bucket).await?;
        let there = found.keys().filter(|key| key.starts_with("by-hand")).count();
        if there == 40 { Ok(()) } else { Err(format!("{there} are there")) }
    })
    .await;
    lock.batch_execute("COMMIT").await.unwrap();
    world.ends_well().await;
}

/// Restores while no hub runs.
async fn no_hub_ran(old: Old) -> (World, i64) {
    let mut world = World::new(1).await;
    let copies = world.copy(old).await;
    let before = world.epoch().await;
    world.go_on().await;
    world.hubs[0].stop().await;
    world.restore(old, &copies).await;
    world.hubs[0].restart().await;
    world.hubs[0].ready().await;
    (world, before)
}

#[tokio::test]
async fn an_old_nats_came_back_while_no_hub_ran() {
    let (world, before) = no_hub_ran(Old::Nats).await;
    world.ends_well().await;
    assert_eq!(world.epoch().await, before);
}

#[tokio::test]
async fn an_old_postgres_came_back_while_no_hub_ran_and_nats_has_newer_values() {
    let (world, before) = no_hub_ran(Old::Postgres).await;
    world.ends_well().await;
    assert!(world.epoch().await > before);
}

/// Then nothing but the clients knows what there was: an instance's heartbeat tells it.
#[tokio::test]
async fn both_came_back_old_while_no_hub_ran_and_an_instance_tells() {
    let (world, before) = no_hub_ran(Old::Both).await;
    healed_within(PATIENCE, &world.nats, &world.options).await;
    assert_eq!(world.epoch().await, before, "nothing tells");
    world.ask("register.config-0", json!({ "instance_id": "witness" })).await;
    let beat = json!({ "instance_id": "witness", "config_revision": 6 });
    let told = world.ask("heartbeat.config-0", beat.clone()).await;
    assert_eq!(told["config"]["revision"], 2, "what PostgreSQL has");
    eventually(PATIENCE, || async { world.epoch().await > before }).await;
    let raised = world.epoch().await;
    world.is_well().await;

    // It goes on to tell until it took what is in force, and so may others: that is no news, now or later.
    let other = json!({ "instance_id": "other", "config_revision": 5 });
    world.ask("register.config-0", json!({ "instance_id": "other" })).await;
    for _ in 0..2 {
        world.ask("heartbeat.config-0", beat.clone()).await;
        world.ask("heartbeat.config-0", other.clone()).await;
        let later = "UPDATE service_registry SET config_reported_at = '2020-02-29' WHERE service_name = 'config-0'";
        world.truth.rows(later, &[]).await.unwrap();
        let later = "UPDATE hub_meta SET epoch_raised_at = epoch_raised_at - interval '1 hour'";
        world.truth.rows(later, &[]).await.unwrap();
    }
    assert_eq!(world.epoch().await, raised, "once for one piece of evidence");
    world.ends_well().await;
}

/// Or a person does.
#[tokio::test]
async fn both_came_back_old_while_no_hub_ran_and_the_epoch_is_raised_by_hand() {
    let (world, before) = no_hub_ran(Old::Both).await;
    healed_within(PATIENCE, &world.nats, &world.options).await;
    raise_by_hand(&world.options).await;
    assert!(world.epoch().await > before);
    world.ends_well().await;
}

/// As a person would.
pub async fn raise_by_hand(options: &HubOptions) {
    let mut command = tokio::process::Command::new(executable());
    command.args(["epoch", "raise"]).env_clear().env("CENTRAL_HUB_DATABASE_URL", &options.database_url);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let epoch: i64 = Truth::of(options).one("SELECT epoch FROM hub_meta", &[]).await;
    assert!(said.contains(&format!("the epoch is {epoch}")), "{said}");
}

/// A recovery from an archive ends on another timeline, by which the database is recognised: nothing else contradicts.
#[tokio::test]
async fn a_recovered_postgres_is_recognised_by_its_timeline() {
    let mut world = World::new(1).await;
    let before = world.epoch().await;
    world.stack.postgres.stop().await;
    let data = world.stack.postgres.folder().join("data");
    // A copy, so that the owner is right.
    copy_folder(&data.join("PG_VERSION"), &data.join("recovery.signal"));
    let settings = data.join("postgresql.auto.conf");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text + "restore_command = 'false'\n").unwrap();
    world.stack.postgres.restart().await.unwrap();
    eventually(PATIENCE, || async { world.epoch().await > before }).await;
    world.ends_well().await;
}

/// A dump is loaded into another system, for which the hub is started anew. It lacks what came after the dump, and NATS
/// has lost it too.
#[tokio::test]
async fn a_dump_in_another_postgres_is_recognised_by_its_system() {
    let mut world = World::new(1).await;
    let before = world.epoch().await;
    let dump = tool("pg_dump", &[&world.options.database_url], Vec::new()).await;
    world.go_on().await;
    world.hubs[0].stop().await;
    world.stack.nats.stop().await;
    std::fs::remove_dir_all(world.stack.nats.folder().join("store")).unwrap();
    world.stack.nats.restart().await.unwrap();
    world.is_connected().await;

    let postgres = private_postgres().await;
    tool("psql", &["--quiet", "--set=ON_ERROR_STOP=1", &postgres.url()], dump).await;
    world.options.database_url = postgres.url();
    world.truth = Truth::of(&world.options);
    let mut hub = HubProcess::start(world.options.replica()).await;
    hub.ready().await;
    world.hubs.push(hub);
    world.ends_well().await;
    assert!(world.epoch().await > before);
}

/// A dump takes the place of the database under the hubs' feet: the server is the same, and only KV and memory know more.
#[tokio::test]
async fn a_dump_that_replaces_the_database_while_hubs_run() {
    let world = World::new(1).await;
    let before = world.epoch().await;
    let url = &world.options.database_url;
    let dump = tool("pg_dump", &[url], Vec::new()).await;
    world.go_on().await;
    let name = url.rsplit('/').next().unwrap();
    world.stack.postgres.drop_database(name).await.unwrap();
    world.stack.postgres.create_database(name, None).await.unwrap();
    tool("psql", &["--quiet", "--set=ON_ERROR_STOP=1", url], dump).await;
    world.ends_well().await;
    assert!(world.epoch().await > before);
}

/// Runs one of PostgreSQL's own programs.
async fn tool(name: &str, args: &[&str], input: Vec<u8>) -> Vec<u8> {
    let program = servers::postgres(None).unwrap().path.join(name);
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let writing = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut stdin, &input).await.unwrap();
    });
    let output = tokio::time::timeout(Duration::from_secs(60), process.wait_with_output()).await.unwrap().unwrap();
    writing.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
