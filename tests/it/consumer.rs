//! Events for a program that must not miss any: a durable consumer on the stream, across its own death, the hub's and NATS'.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::{DiscardPolicy, Stream};
use async_nats::jetstream::{self, AckKind};
use central_hub::client::HubClient;
use central_hub::wire::event;
use central_hub::wire::registry::Register;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::ask::{Asker, Hub};
use crate::stack::{HubOptions, HubProcess, database, eventually, private_nats};
use crate::witness::{SOON, Truth, connect};

/// What a notification service remembers: how often each event came, by its id.
type Inbox = Arc<Mutex<BTreeMap<String, u64>>>;

/// How many events a notification service has in its hands: noted, and not acknowledged yet.
const IN_HAND: usize = 5;

/// One life of a notification service.
fn notifier(options: &HubOptions, inbox: &Inbox) -> JoinHandle<()> {
    let (options, inbox) = (options.clone(), Arc::clone(inbox));
    tokio::spawn(async move {
        loop {
            let _ = notify(&options, &inbox).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

async fn notify(options: &HubOptions, inbox: &Inbox) -> Result<(), async_nats::Error> {
    let nats = async_nats::connect(&options.nats_url).await?;
    let stream = jetstream::new(nats).get_stream(event::stream_name(&options.prefix)).await?;
    let config = pull::Config {
        durable_name: Some("notifier".to_owned()),
        ack_wait: Duration::from_secs(1),
        ..pull::Config::default()
    };
    let consumer: PullConsumer = stream.get_or_create_consumer("notifier", config).await?;
    let mut messages = consumer.stream().heartbeat(Duration::from_millis(500)).messages().await?;
    let mut in_hand = VecDeque::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        let body: Value = serde_json::from_slice(&message.payload)?;
        let id = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id")).map(ToString::to_string);
        assert_eq!(id.as_deref(), body["id"].as_str(), "{body}");
        *inbox.lock().unwrap().entry(id.expect("an id")).or_default() += 1;
        in_hand.push_back(message);
        if in_hand.len() > IN_HAND
            && let Some(done) = in_hand.pop_front()
        {
            done.ack_with(AckKind::Ack).await?;
        }
    }
    Ok(())
}

/// Ids of all events that are to be sent, as Postgres knows them.
async fn committed(truth: &Truth) -> BTreeSet<String> {
    let sql = "SELECT (extract(epoch FROM at) * 1000000)::bigint || '-' || id FROM hub_events
               WHERE kind NOT IN ('applied', 'acked')";
    truth.rows(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Registers so many instances, twenty at a time, each again and again until it is answered.
async fn register_all(options: HubOptions, count: usize) {
    let hub = HubClient::new(connect(&options.nats_url).await).with_prefix(options.prefix.clone());
    let hub = hub.with_timeout(Duration::from_millis(500));
    let one = async |number: usize| {
        let instance_id = Some(format!("i{number}").parse().unwrap());
        let register = Register { instance_id, ..Register::new(format!("s{}", number % 10).parse().unwrap()) };
        while hub.call(&register).await.is_err() {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    futures_util::stream::iter((0..count).map(one)).buffer_unordered(20).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn a_durable_consumer_misses_none_and_can_drop_each_duplicate() {
    let mut nats = private_nats().await;
    let options = HubOptions::on(&nats.url(), &database().await);
    let truth = Truth::of(&options);
    let mut hub = HubProcess::start(options.clone()).await;
    hub.ready().await;
    let inbox: Inbox = Arc::default();
    let noted = |inbox: &Inbox| inbox.lock().unwrap().len();
    let unsent = "SELECT count(*) FROM hub_events WHERE published_at IS NULL";
    let mut consumer = notifier(&options, &inbox);
    let work = tokio::spawn(register_all(options.clone(), 1_000));

    for round in 0..3 {
        // The consumer dies with messages in its hands, and is away for a while.
        eventually(SOON, || async { noted(&inbox) > 100 + round * 300 }).await;
        consumer.abort();
        let _ = consumer.await;
        // The hub dies while it sends.
        let sends = || async { truth.one::<i64>(unsent, &[]).await > 0 || work.is_finished() };
        eventually(SOON, sends).await;
        hub.kill9().await;
        hub.restart().await;
        if round == 1 {
            nats.kill9().await;
            nats.restart().await.unwrap();
        }
        hub.ready().await;
        consumer = notifier(&options, &inbox);
        if round == 2 {
            eventually(SOON, || async { noted(&inbox) > 750 }).await;
            nats.kill9().await;
            nats.restart().await.unwrap();
        }
    }
    tokio::time::timeout(SOON * 2, work).await.expect("all get registered").unwrap();
    let wanted = eventually(SOON * 2, || async {
        let wanted = committed(&truth).await;
        let missing: Vec<_> = wanted.iter().filter(|id| !inbox.lock().unwrap().contains_key(*id)).cloned().collect();
        if missing.is_empty() {
            Ok(wanted)
        } else {
            Err(format!("{} of {}: {missing:.5?}", missing.len(), wanted.len()))
        }
    })
    .await;
    consumer.abort();
    let inbox = inbox.lock().unwrap();
    assert_eq!(inbox.keys().cloned().collect::<BTreeSet<_>>(), wanted, "nothing that was never committed");
    assert!(wanted.len() >= 1_000, "{}", wanted.len());
    let repeated = inbox.values().filter(|count| **count > 1).count();
    println!("{} events, of which {repeated} came more than once", wanted.len());
    assert!(repeated >= IN_HAND, "what it had in its hands came again");
}

async fn bytes(stream: &Stream) -> u64 {
    stream.get_info().await.unwrap().state.bytes
}

/// A stream that is full drops the oldest, and holds nothing up; also when somebody has told it to refuse the newest.
#[tokio::test]
async fn a_full_stream_never_blocks_the_hub() {
    const MIB: u64 = 1024 * 1024;
    let hub = Hub::start(HubOptions::fresh().await.env("CENTRAL_HUB_EVENTS_MAX_MIB", "1")).await;
    let client = hub.database().await;
    // Of one instance, so that there is little to do for KV: three times what the stream has room for.
    let fill = async || {
        let many = "INSERT INTO hub_events (topic, kind, service_name, instance_id, details, origin)
            SELECT 'service', 'draining', 'much', 'i', jsonb_build_object('reason', repeat('x', 2500)), 'x'
            FROM generate_series(1, 1200)";
        client.batch_execute(many).await.unwrap();
    };
    let all_sent = async || {
        eventually(SOON, || async {
            let pending = hub.ask("health", "").await["projection"]["pending"].clone();
            if pending == 0 { Ok(()) } else { Err(pending) }
        })
        .await;
    };
    let stream = hub.event_stream().await;
    let first = stream.get_info().await.unwrap().state.first_sequence;
    fill().await;
    hub.ask("register.a", json!({"instance_id": "i"})).await;
    assert_eq!(hub.ask("config.set.a", json!({"config": {"n": 1}})).await["published"], true);
    all_sent().await;
    let state = stream.get_info().await.unwrap().state;
    assert!(state.bytes <= MIB && state.bytes > MIB / 2 && state.first_sequence > first, "{state:?}");

    let mut config = stream.get_info().await.unwrap().config;
    config.discard = DiscardPolicy::New;
    jetstream::new(hub.nats.clone()).update_stream(config).await.unwrap();
    fill().await;
    all_sent().await;
    assert!(bytes(&stream).await <= MIB);
    hub.ask("deregister.a", "").await;
    assert_eq!(hub.events("service.a.deregistered", 1).await.len(), 1);
    assert_eq!(stream.get_info().await.unwrap().config.discard, DiscardPolicy::Old);
}

/// An asker without a hub of its own is enough to see what lies on the stream.
#[tokio::test]
async fn the_stream_keeps_events_for_days_and_recognises_repetitions() {
    let options = HubOptions::fresh().await;
    let mut hub = HubProcess::start(options.clone()).await;
    hub.ready().await;
    let config = Asker::of(&options).await.event_stream().await.get_info().await.unwrap().config;
    assert_eq!(config.max_age, Duration::from_secs(7 * 24 * 3_600));
    assert_eq!(config.duplicate_window, Duration::from_secs(600));
    assert_eq!(config.max_bytes, 8 * 1024 * 1024);
}
