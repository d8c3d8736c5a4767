//! SIGTERM: what was delivered is answered, what is committed is published, and it ends in time whatever is away.

use std::time::{Duration, Instant};

use central_hub::client::HubClient;
use central_hub::wire::bucket::Bucket;
use central_hub::wire::config::ConfigSet;
use serde_json::json;

use crate::stack::{HubOptions, HubProcess, database, eventually, nats_url, private_nats, private_postgres};
use crate::traffic::{Account, Load};
use crate::witness::{SOON, Truth, Watcher, connect, healed, kv_agrees, replicas};

/// How long a stop may take when nothing is in its way.
const PROMPT: Duration = Duration::from_secs(5);

/// The drain timeout of a hub that nobody told another.
const DRAIN: Duration = Duration::from_secs(10);

/// How much longer than the drain timeout a stop may take when something is.
const CLOSING: Duration = Duration::from_secs(5);

/// Sends SIGTERM, waits for a good end, and tells how long it took.
async fn stopped(hub: &mut HubProcess, deadline: Duration) -> Duration {
    hub.terminate();
    let told = Instant::now();
    let code = tokio::time::timeout(deadline, hub.ended()).await;
    let took = told.elapsed();
    let code = code.unwrap_or_else(|_| panic!("it still runs {took:?} after SIGTERM"));
    assert_eq!(code, Some(0), "{}", hub.log());
    took
}

/// What a hub that stopped in good order has left: everything published, no record of its own, no leadership.
async fn all_is_done(nats: &async_nats::Client, hub: &HubProcess) {
    let truth = Truth::of(hub.options());
    kv_agrees(nats, hub.options()).await.expect("KV says what Postgres says when the hub has ended");
    assert_eq!(truth.one::<i64>("SELECT count(*) FROM hub_events WHERE published_at IS NULL", &[]).await, 0);
    let own = "SELECT count(*) FROM service_registry WHERE service_name = 'central-hub' AND instance_id = $1";
    assert_eq!(truth.one::<i64>(own, &[&hub.options().replica_id]).await, 0, "its own record");
    let leader = truth.leader().await;
    assert!(leader.is_none_or(|(holder, _)| holder != hub.options().replica_id), "it leads no more");
}

fn print(what: &str, took: Duration, account: &Account) {
    println!(
        "{what}: {took:?}; {} answered, {} undelivered, {:?} refused, {} unanswered",
        account.answered,
        account.undelivered,
        account.refused,
        account.unanswered.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_whatever_was_delivered_is_answered_and_whatever_is_committed_is_published() {
    let options = HubOptions::fresh().await;
    let nats = connect(&options.nats_url).await;
    let mut hub = HubProcess::start(options.clone()).await;
    let watcher = Watcher::start(&options).await;
    let mut unanswered = Vec::new();
    for round in 0..6 {
        hub.ready().await;
        let load = Load::start(&options, &nats, 32, Duration::from_secs(8), 61 + round);
        eventually(SOON, || async { (load.answered() > 600).then_some(()) }).await;
        let took = stopped(&mut hub, PROMPT).await;
        all_is_done(&nats, &hub).await;
        let account = load.stop().await;
        print(&format!("round {round}"), took, &account);
        unanswered.extend(account.unanswered);
        assert!(account.refused.is_empty(), "{:?}", account.refused);
        hub.restart().await;
    }
    assert!(unanswered.is_empty(), "{unanswered:#?}");
    watcher.never_went_back();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_restarted_one_after_the_other_and_no_caller_notices() {
    let options = HubOptions::fresh().await;
    let nats = connect(&options.nats_url).await;
    let mut hubs = replicas(&options, 2).await;
    let load = Load::start(&options, &nats, 16, Duration::from_secs(8), 71);
    let watcher = Watcher::start(&options).await;
    let mut slowest = Duration::ZERO;
    for turn in [0, 1, 0, 1] {
        let before = load.answered();
        eventually(SOON, || async { (load.answered() > before + 300).then_some(()) }).await;
        slowest = slowest.max(stopped(&mut hubs[turn], PROMPT).await);
        hubs[turn].restart().await;
        hubs[turn].ready().await;
    }
    let account = load.stop().await;
    print("rolling restart", slowest, &account);
    assert!(account.unanswered.is_empty(), "{:#?}", account.unanswered);
    assert!(account.refused.is_empty(), "{:?}", account.refused);
    assert_eq!(account.undelivered, 0);
    healed(&nats, &options).await;
    watcher.never_went_back();
}

/// A hub on the shared servers with a set that is stuck behind somebody's lock on `config_heads`.
struct Stuck {
    hub: HubProcess,
    nats: async_nats::Client,
    lock: tokio_postgres::Client,
    set: tokio::task::JoinHandle<Result<central_hub::wire::config::ConfigChange, central_hub::client::CallError>>,
}

impl Stuck {
    async fn start(options: HubOptions) -> Stuck {
        let (truth, nats) = (Truth::of(&options), connect(&options.nats_url).await);
        let hub = replicas(&options, 1).await.remove(0);
        let client = HubClient::new(nats.clone()).with_prefix(options.prefix.clone());
        let set = |number: u32| {
            let content = json!({ "number": number }).as_object().unwrap().clone();
            ConfigSet::new("held".parse().unwrap(), content)
        };
        client.call(&set(1)).await.unwrap();
        let lock = truth.session().await.unwrap();
        lock.batch_execute("BEGIN; SELECT FROM config_heads WHERE service_name = 'held' FOR UPDATE").await.unwrap();
        let second = set(2);
        let set = tokio::spawn(async move { client.call(&second).await });
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually(SOON, || async { truth.one::<i64>(waiting, &[]).await == 1 }).await;
        Stuck { hub, nats, lock, set }
    }
}

#[tokio::test]
async fn a_request_in_flight_is_finished_first() {
    let mut stuck = Stuck::start(HubOptions::fresh().await).await;
    stuck.hub.terminate();
    eventually(SOON, || async { stuck.hub.log().contains("finishing what is in flight") }).await;
    assert!(stuck.hub.is_running());
    stuck.lock.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stuck.hub.ended().await, Some(0));
    let change = stuck.set.await.unwrap().expect("an answer");
    assert_eq!((change.version, change.published), (Some(2), true));
    all_is_done(&stuck.nats, &stuck.hub).await;
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_it() {
    let options = HubOptions::fresh().await.env("CENTRAL_HUB_DRAIN_TIMEOUT", "500ms");
    let mut stuck = Stuck::start(options).await;
    let took = stopped(&mut stuck.hub, Duration::from_millis(500) + CLOSING).await;
    println!("gave up after {took:?}");
    assert!(stuck.hub.log().contains("gave up waiting"));
    stuck.lock.batch_execute("COMMIT").await.unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Away {
    NatsStopped,
    NatsPaused,
    PostgresStopped,
    PostgresPaused,
}

/// Something is committed, can't be published, and the server that would be needed stays away.
async fn ends_without(away: Away) {
    let drain = Duration::from_secs(2);
    let (mut nats, mut postgres) = (None, None);
    let options = match away {
        Away::NatsStopped | Away::NatsPaused => {
            let server = nats.insert(private_nats().await);
            HubOptions::on(&server.url(), &database().await)
        }
        Away::PostgresStopped | Away::PostgresPaused => {
            let server = postgres.insert(private_postgres().await);
            HubOptions::on(&nats_url(), &server.url())
        }
    };
    let options = options.env("CENTRAL_HUB_DRAIN_TIMEOUT", "2s");
    let mut hub = replicas(&options, 1).await.remove(0);
    let truth = Truth::of(&options);
    match (away, &mut nats, &mut postgres) {
        (Away::NatsStopped, Some(nats), _) => nats.stop().await,
        (Away::NatsPaused, Some(nats), _) => nats.pause().await,
        (Away::PostgresStopped, _, Some(postgres)) => postgres.stop().await,
        (_, _, Some(postgres)) => postgres.pause().await,
        _ => unreachable!(),
    }
    if nats.is_some() {
        let event = "INSERT INTO hub_events (topic, kind, service_name, details, origin)
                     VALUES ('config', 'published', 'by-hand', '{}', $1)";
        truth.rows(event, &[&options.replica_id]).await.unwrap();
    }
    let took = stopped(&mut hub, drain + CLOSING).await;
    println!("{away:?}: ended after {took:?}");

    match (away, &mut nats, &mut postgres) {
        (Away::NatsStopped, Some(nats), _) => nats.restart().await.unwrap(),
        (Away::NatsPaused, Some(nats), _) => nats.resume(),
        (Away::PostgresStopped, _, Some(postgres)) => postgres.restart().await.unwrap(),
        (_, _, Some(postgres)) => postgres.resume(),
        _ => unreachable!(),
    }
    hub.restart().await;
    hub.ready().await;
    let unpublished = "SELECT count(*) FROM hub_events WHERE published_at IS NULL";
    eventually(SOON, || async { truth.one::<i64>(unpublished, &[]).await == 0 }).await;
    healed(&connect(&options.nats_url).await, &options).await;
}

#[tokio::test]
async fn it_ends_in_time_without_nats() {
    ends_without(Away::NatsStopped).await;
}

#[tokio::test]
async fn it_ends_in_time_while_nats_stands_still() {
    ends_without(Away::NatsPaused).await;
}

#[tokio::test]
async fn it_ends_in_time_without_postgres() {
    ends_without(Away::PostgresStopped).await;
}

#[tokio::test]
async fn it_ends_in_time_while_postgres_stands_still() {
    ends_without(Away::PostgresPaused).await;
}

#[tokio::test]
async fn while_it_still_waits_for_a_server_it_ends_at_once() {
    let (mut nats, mut postgres) = (private_nats().await, private_postgres().await);
    nats.stop().await;
    postgres.pause().await;
    let waits = [
        (HubOptions::on(&nats.url(), &database().await), "waiting for NATS"),
        (HubOptions::on(&nats_url(), &postgres.url()), "waiting for PostgreSQL"),
    ];
    for (options, said) in waits {
        let mut hub = HubProcess::start(options).await;
        eventually(SOON, || async { hub.log().contains(said) }).await;
        let took = stopped(&mut hub, PROMPT).await;
        println!("{said}: ended after {took:?}");
        assert!(took < Duration::from_secs(1), "{said}: {took:?}");
    }
}

/// Nobody but a hub makes a bucket; so one that stops still does, for what is committed and not published.
#[tokio::test]
async fn a_bucket_that_is_deleted_as_it_stops_is_made_again() {
    let options = HubOptions::fresh().await;
    let nats = connect(&options.nats_url).await;
    let mut hub = replicas(&options, 1).await.remove(0);
    let client = HubClient::new(nats.clone()).with_prefix(options.prefix.clone());
    let set = async |number: u32| {
        let content = json!({ "number": number }).as_object().unwrap().clone();
        client.call(&ConfigSet::new("late".parse().unwrap(), content)).await.unwrap()
    };
    set(1).await;
    let bucket = Bucket::Config.name(&options.prefix);
    async_nats::jetstream::new(nats.clone()).delete_key_value(bucket).await.unwrap();
    set(2).await;
    stopped(&mut hub, DRAIN + CLOSING).await;
    all_is_done(&nats, &hub).await;
}
