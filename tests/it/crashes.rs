//! `kill -9` of the hub and of Postgres in the middle of work: what was acknowledged is there, and KV comes to say so.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use central_hub::client::HubClient;
use central_hub::domain::config::Position;
use central_hub::domain::name::ServiceName;
use central_hub::wire::bucket::Bucket;
use central_hub::wire::config::{ConfigGet, ConfigSet};
use futures_util::StreamExt as _;
use futures_util::stream::poll_fn;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::ask::Asker;
use crate::stack::{HubOptions, HubProcess, database, eventually, nats_url, private_nats, private_postgres};
use crate::traffic::{Burst, Outcome, nothing_was_lost};
use crate::witness::{HEALED, SOON, Truth, Watcher, connect, healed, kv_agrees, replicas, values};

/// Kills a hub with SIGKILL after each of these numbers of acknowledgements in a burst of 500 sets.
async fn kill_in_bursts(count: usize, seed: u64, moments: [u64; 3]) {
    let options = HubOptions::fresh().await;
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let mut hubs = replicas(&options, count).await;
    let watcher = Watcher::start(&options).await;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sets = Vec::new();
    for moment in moments {
        let burst = Burst::start(&options, &nats, 12, 500, 40, random.u64(..));
        let reached = || async { (burst.acknowledged() >= moment).then_some(()) };
        eventually(SOON, reached).await;
        let victim = random.usize(..count);
        hubs[victim].kill9().await;
        let mut began = Instant::now();
        if count > 1 {
            // The others go on, and finish what the dead one committed.
            sets.extend(burst.cut().await);
            healed(&nats, &options).await;
            println!("seed {seed}, killed at {moment}: KV agrees {:?} after the kill", began.elapsed());
            hubs[victim].restart().await;
        } else {
            sets.extend(burst.cut().await);
            nothing_was_lost(&truth, &sets).await;
            hubs[victim].restart().await;
            began = Instant::now();
            healed(&nats, &options).await;
            println!("seed {seed}, killed at {moment}: KV agrees {:?} after the restart", began.elapsed());
        }
        hubs[victim].ready().await;
        healed(&nats, &options).await;
        let acknowledged = nothing_was_lost(&truth, &sets).await;
        assert!(acknowledged as u64 >= moment, "{acknowledged}");
    }
    watcher.caught_up(HEALED, &truth).await;
    watcher.never_went_back();
    each_event_is_sent_once(&options).await;
}

/// The stream has the events of all activations, each once.
async fn each_event_is_sent_once(options: &HubOptions) {
    let sql = "SELECT (extract(epoch FROM at) * 1000000)::bigint || '-' || id FROM hub_events WHERE kind = 'published'";
    let rows = Truth::of(options).rows(sql, &[]).await.unwrap();
    let wanted: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let events = Asker::of(options).await.events("config.*.published", wanted.len()).await;
    let sent: BTreeSet<String> = events.into_iter().map(|event| event.id).collect();
    assert_eq!(sent, wanted);
}

#[tokio::test]
async fn a_killed_hub_loses_no_acknowledged_set() {
    kill_in_bursts(1, 11, [1, 137, 402]).await;
}

#[tokio::test]
async fn one_of_two_hubs_killed_loses_no_acknowledged_set() {
    kill_in_bursts(2, 12, [3, 211, 460]).await;
}

/// Holds the projection back between the commit of a set and its put to KV, and kills the hub that made the commit right
/// there. The lock that does it is asked for while the set's transaction runs, so it is held from the very commit on.
async fn kill_between_commit_and_publish(count: usize) {
    let options = HubOptions::fresh().await;
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let mut hubs = replicas(&options, count).await;
    let hub = HubClient::new(nats.clone()).with_prefix(options.prefix.clone());
    let set = |number: u32| {
        let content = json!({ "number": number }).as_object().unwrap().clone();
        ConfigSet::new("held".parse().unwrap(), content)
    };
    assert!(hub.call(&set(1)).await.unwrap().published);
    let before = values(&nats, &Bucket::Config.name(&options.prefix)).await.unwrap();

    let (row, table) = (truth.session().await.unwrap(), truth.session().await.unwrap());
    row.batch_execute("BEGIN; SELECT FROM config_heads WHERE service_name = 'held' FOR UPDATE").await.unwrap();
    let second = tokio::spawn({
        let (hub, set) = (hub.clone(), set(2));
        async move { hub.call(&set).await }
    });
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN
                       (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
    eventually(SOON, || async { truth.one::<i64>(waiting, &[]).await >= 1 }).await;
    let table = tokio::spawn(async move {
        table.batch_execute("BEGIN; LOCK TABLE config_heads IN ACCESS EXCLUSIVE MODE").await.unwrap();
        table
    });
    let for_the_table = format!("{waiting} AND mode = 'AccessExclusiveLock'");
    eventually(SOON, || async { truth.one::<i64>(&for_the_table, &[]).await == 1 }).await;
    row.batch_execute("COMMIT").await.unwrap();
    let table = table.await.unwrap();
    let change = second.await.unwrap().unwrap();
    assert_eq!((change.version, change.revision, change.published), (Some(2), 2, false));
    assert_eq!(values(&nats, &Bucket::Config.name(&options.prefix)).await.unwrap(), before, "KV is behind");

    let sql = "SELECT origin FROM hub_events WHERE kind = 'published' ORDER BY id DESC LIMIT 1";
    let author = truth.one::<String>(sql, &[]).await;
    let victim = hubs.iter().position(|hub| hub.options().replica_id == author).unwrap();
    hubs[victim].kill9().await;
    table.batch_execute("ROLLBACK").await.unwrap();
    if count == 1 {
        hubs[victim].restart().await;
    }
    healed(&nats, &options).await;
    let after = values(&nats, &Bucket::Config.name(&options.prefix)).await.unwrap();
    assert_eq!((&after["held"]["version"], &after["held"]["config"]), (&json!(2), &json!({ "number": 2 })));
    let events = Asker::of(&options).await.events("config.held.>", 2).await;
    assert_eq!(events.iter().map(|event| &event.body["details"]["version"]).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_hub_killed_between_commit_and_publish_publishes_when_it_is_back() {
    kill_between_commit_and_publish(1).await;
}

#[tokio::test]
async fn another_hub_publishes_what_a_killed_one_committed() {
    kill_between_commit_and_publish(2).await;
}

/// Kills the hub at the moment in which Postgres tells of a commit, again and again: some of the kills come before the
/// put, some in the middle of it, some after.
#[tokio::test]
async fn a_hub_killed_at_a_commit_again_and_again_goes_on_where_it_was() {
    let options = HubOptions::fresh().await;
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let mut hub = HubProcess::start(options.clone()).await;
    hub.ready().await;
    let watcher = Watcher::start(&options).await;
    let mut commits = commits(&options).await;
    let mut random = fastrand::Rng::with_seed(21);
    let (mut sets, mut behind) = (Vec::new(), 0);
    for _ in 0..8 {
        while commits.try_recv().is_ok() {}
        let burst = Burst::start(&options, &nats, 3, 60, 2, random.u64(..));
        for _ in 0..random.u8(1..30) {
            commits.recv().await.unwrap();
        }
        hub.kill9().await;
        behind += u32::from(kv_agrees(&nats, &options).await.is_err());
        sets.extend(burst.cut().await);
        hub.restart().await;
        healed(&nats, &options).await;
        hub.ready().await;
    }
    println!("{behind} of 8 kills came between a commit and its put");
    nothing_was_lost(&truth, &sets).await;
    watcher.caught_up(HEALED, &truth).await;
    watcher.never_went_back();
}

/// A word for each activation of a config, as soon as it is committed.
async fn commits(options: &HubOptions) -> mpsc::UnboundedReceiver<()> {
    let (client, mut connection) = tokio_postgres::connect(&options.database_url, NoTls).await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(_) = message
                && sender.send(()).is_err()
            {
                return;
            }
        }
    });
    let sql = "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
                   $$ BEGIN PERFORM pg_notify('committed', NEW.service_name || NEW.revision); RETURN NEW; END $$;
               CREATE TRIGGER tell AFTER INSERT ON config_activations FOR EACH ROW EXECUTE FUNCTION tell();
               LISTEN committed";
    client.batch_execute(sql).await.unwrap();
    // The connection ends with its client.
    tokio::spawn(async move {
        let _client = client;
        std::future::pending::<()>().await;
    });
    receiver
}

#[tokio::test]
async fn a_killed_postgres_loses_no_acknowledged_set() {
    let mut postgres = private_postgres().await;
    let options = HubOptions::on(&nats_url(), &postgres.url());
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let hubs = replicas(&options, 2).await;
    let watcher = Watcher::start(&options).await;
    let mut sets = Vec::new();
    for (seed, moment) in [(31, 40), (32, 150)] {
        let burst = Burst::start(&options, &nats, 6, 300, 24, seed);
        eventually(SOON, || async { burst.acknowledged() >= moment }).await;
        postgres.kill9().await;
        postgres.restart().await.unwrap();
        sets.extend(burst.ended().await);
        healed(&nats, &options).await;
        nothing_was_lost(&truth, &sets).await;
    }
    let unknown = sets.iter().filter(|set| set.outcome == Outcome::Unknown).count();
    println!("{} sets, {unknown} of them with an unknown outcome", sets.len());
    watcher.caught_up(HEALED, &truth).await;
    watcher.never_went_back();

    // Memory, too, says what Postgres says.
    let hub = HubClient::new(nats).with_prefix(options.prefix.clone());
    let service_name: ServiceName = "config-0".parse().unwrap();
    let newest = watcher.position(service_name.as_str()).unwrap();
    eventually(HEALED, || async {
        let ask = ConfigGet { service_name: service_name.clone(), version: None, min_revision: None };
        let got = hub.call(&ask).await.unwrap();
        if (Position { epoch: got.epoch, revision: got.revision }) == newest { Ok(()) } else { Err(got.revision) }
    })
    .await;
    drop(hubs);
    tokio::time::timeout(Duration::from_secs(20), postgres.stop()).await.unwrap();
}

#[tokio::test]
async fn a_killed_nats_loses_no_acknowledged_set() {
    let mut server = private_nats().await;
    let options = HubOptions::on(&server.url(), &database().await);
    let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
    let _hubs = replicas(&options, 2).await;
    let watcher = Watcher::start(&options).await;
    let mut sets = Vec::new();
    for (seed, moment) in [(41, 40), (42, 150)] {
        let burst = Burst::start(&options, &nats, 6, 300, 24, seed);
        eventually(SOON, || async { burst.acknowledged() >= moment }).await;
        server.kill9().await;
        server.restart().await.unwrap();
        eventually(SOON, || async { nats.connection_state() == State::Connected }).await;
        healed(&nats, &options).await;
        sets.extend(burst.ended().await);
        healed(&nats, &options).await;
        nothing_was_lost(&truth, &sets).await;
    }
    watcher.caught_up(SOON, &truth).await;
    watcher.never_went_back();
    each_event_is_sent_once(&options).await;
}
