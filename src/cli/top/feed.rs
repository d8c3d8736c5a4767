//! Where the screen's facts come from: watches of KV, the stream of events, and a few questions to the hub.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use async_nats::jetstream::kv::Operation;
use futures_util::StreamExt as _;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::link::{self, Link};
use super::model::{Detail, Update};
use crate::cli::session::Session;
use crate::client::{CallError, HubClient};
use crate::domain::name::ServiceName;
use crate::wire::alert::AlertsList;
use crate::wire::bucket::{Bucket, ConfigEntry, Key};
use crate::wire::config::ConfigStatus;
use crate::wire::event::{self, Event, Topic};
use crate::wire::infra::InfraStatus;
use crate::wire::metrics::Metrics;
use crate::wire::registry::{ServicesGet, ServicesList};
use crate::wire::timeline::Timeline;

/// How often the service that is looked into is asked about.
const DETAIL_PERIOD: Duration = Duration::from_secs(2);

/// How often the hub is asked who is there, while somebody is shown whom the watch doesn't know.
const RECONCILE_PERIOD: Duration = Duration::from_secs(3);

/// Time over which screens that lost the same server open their feeds again.
const SPREAD: Duration = Duration::from_millis(400);

/// How far back its metrics go, and how long each of their buckets is, in seconds.
const METRICS: (f64, f64) = (600.0, 20.0);

/// Events of the past that are shown.
const PAST: u32 = 200;

/// Whoever started a feed is gone.
struct Gone;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Starts all feeds. Each goes on whatever happens, and says when it isn't live.
pub fn start(session: &Session, sender: &Sender<Update>) -> Vec<JoinHandle<()>> {
    let (link, at_link) = watch::channel(Link::of(&session.hub));
    let mut feeds = vec![tokio::spawn(link::keep(session.hub.clone(), link, sender.clone()))];
    for bucket in Bucket::ALL {
        let name = bucket.name(&session.bucket_prefix);
        let (hub, updates) = (session.hub.clone(), sender.clone());
        let mut told = BTreeSet::new();
        feeds.push(tokio::spawn(keep_on(label(bucket), sender.clone(), at_link.clone(), async move || {
            watch(&hub, bucket, &name, &mut told, &updates).await
        })));
    }
    let stream = event::stream_name(&session.subject_prefix);
    let (hub, updates) = (session.hub.clone(), sender.clone());
    feeds.push(tokio::spawn(keep_on("events", sender.clone(), at_link, async move || {
        follow(&hub, &stream, &updates).await
    })));
    feeds
}

fn label(bucket: Bucket) -> &'static str {
    match bucket {
        Bucket::Config => "configs",
        Bucket::Services => "services",
        Bucket::Infra => "infrastructure",
    }
}

/// Starts a feed again when it fails: after a second at first, then after up to half a minute, with jitter, so that many
/// screens don't ask a server that comes back all at once. On a connection that was made anew it starts at once: the
/// client library's watches and consumers take up to a quarter of a minute to notice, and may go on from a sequence that
/// a stream without its data reaches much later.
async fn keep_on<F>(label: &'static str, sender: Sender<Update>, mut link: watch::Receiver<Link>, mut feed: F)
where
    F: AsyncFnMut() -> Result<Gone, Failure>,
{
    let mut failures = 0u32;
    loop {
        let Ok(made) = link.wait_for(Link::is_up).await.map(|now| now.made) else { return };
        let began = Instant::now();
        let ended = tokio::select! {
            ended = feed() => Some(ended),
            _ = link.wait_for(|now| !now.is_up() || now.made != made) => None,
        };
        let (why, pause) = match ended {
            Some(Ok(Gone)) => return,
            Some(Err(error)) => {
                failures = if began.elapsed() > Duration::from_secs(60) { 0 } else { failures + 1 };
                let most = Duration::from_millis(1_000 << failures.min(5));
                (crate::cli::chain(error.as_ref()), most.mul_f64(0.5 + fastrand::f64() / 2.0))
            }
            None => {
                failures = 0;
                ("the connection to NATS was lost".into(), SPREAD.mul_f64(fastrand::f64()))
            }
        };
        if sender.send(Update::Feed(label, Err(why))).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            // It may be what the feed lacked that came back.
            _ = link.changed() => failures = 0,
        }
    }
}

/// Tells what a bucket holds, and each change. `told` is what earlier watches told too: whom this one doesn't know
/// any more may have left without a marker, with the data of NATS. Of that the hub has the last word, because a bucket
/// that is made anew is empty at first.
async fn watch(
    hub: &HubClient,
    bucket: Bucket,
    name: &str,
    told: &mut BTreeSet<Key>,
    sender: &Sender<Update>,
) -> Result<Gone, Failure> {
    let kv = jetstream::new(hub.nats().clone()).get_key_value(name).await?;
    let mut entries = kv.watch_with_history(">").await?;
    if sender.send(Update::Feed(label(bucket), Ok(()))).await.is_err() {
        return Ok(Gone);
    }
    let mut unconfirmed = told.clone();
    let mut reconcile = interval_at(Instant::now() + RECONCILE_PERIOD, RECONCILE_PERIOD);
    reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let entry = tokio::select! {
            entry = entries.next() => entry.ok_or("the watch ended")??,
            _ = reconcile.tick(), if !unconfirmed.is_empty() => {
                // Without an answer they stay: that no hub answers is told above them. (Nothing is missed meanwhile, since
                // only the hub writes what is watched.)
                let Ok(there) = who_is_there(hub, bucket).await else { continue };
                for gone in unconfirmed.extract_if(.., |key| !there.contains(key)) {
                    told.remove(&gone);
                    if let Some(update) = update(gone, None)?
                        && sender.send(update).await.is_err()
                    {
                        return Ok(Gone);
                    }
                }
                continue;
            }
        };
        let Some(key) = Key::parse(bucket, &entry.key) else { continue };
        unconfirmed.remove(&key);
        let value = (entry.operation == Operation::Put).then_some(&entry.value[..]);
        match value {
            Some(_) => told.insert(key.clone()),
            None => told.remove(&key),
        };
        if let Some(update) = update(key, value)?
            && sender.send(update).await.is_err()
        {
            return Ok(Gone);
        }
    }
}

/// What the value of a key says, or that there is none any more.
fn update(key: Key, value: Option<&[u8]>) -> Result<Option<Update>, serde_json::Error> {
    Ok(match key {
        // Of a config only what the hub put says anything: a marker isn't a delete.
        Key::Config(service) => value.and_then(|value| {
            let config: ConfigEntry = serde_json::from_slice(value).ok()?;
            Some(Update::Config(service, config.position(), config.version))
        }),
        Key::Instance(service, instance) => {
            Some(Update::Instance(service, instance, value.map(serde_json::from_slice).transpose()?))
        }
        Key::Component(component) => Some(Update::Component(component, value.map(serde_json::from_slice).transpose()?)),
    })
}

/// What the hub knows of what a bucket should hold. (Configs are never gone, and so nobody needs to be asked: one that was
/// deleted has a tombstone.)
async fn who_is_there(hub: &HubClient, bucket: Bucket) -> Result<BTreeSet<Key>, CallError> {
    Ok(match bucket {
        Bucket::Config => BTreeSet::new(),
        Bucket::Services => {
            let instances = hub.get_services(ServicesList::default()).await?.into_iter();
            instances.map(|instance| Key::Instance(instance.service_name, instance.instance_id)).collect()
        }
        Bucket::Infra => {
            let components = hub.call(&InfraStatus {}).await?.components.into_iter();
            components.map(|component| Key::Component(component.component_name)).collect()
        }
    })
}

/// The past, and then each event; alerts are asked for again when one of them tells of an alert.
async fn follow(hub: &HubClient, name: &str, sender: &Sender<Update>) -> Result<Gone, Failure> {
    let stream = jetstream::new(hub.nats().clone()).get_stream(name).await?;
    let before = stream.cached_info().state.last_sequence;
    let config = OrderedConfig { deliver_policy: DeliverPolicy::New, ..OrderedConfig::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let request = Timeline { limit: Some(PAST), ..Timeline::default() };
    let mut past = hub.call(&request).await?.events;
    past.reverse();
    let alerts = hub.call(&AlertsList { active: Some(true), limit: Some(PAST), ..AlertsList::default() }).await?.alerts;
    for update in [Update::Events(past), Update::Alerts(alerts), Update::Feed("events", Ok(()))] {
        if sender.send(update).await.is_err() {
            return Ok(Gone);
        }
    }
    while let Some(message) = messages.next().await {
        let message = message?;
        // A consumer that mends itself before it had anything to tell begins with all that the stream holds.
        if message.info().is_ok_and(|info| info.stream_sequence <= before) {
            continue;
        }
        let Ok(event) = serde_json::from_slice::<Event>(&message.payload) else { continue };
        if event.topic == Topic::Alert {
            let request = AlertsList { active: Some(true), limit: Some(PAST), ..AlertsList::default() };
            let alerts = hub.call(&request).await?.alerts;
            if sender.send(Update::Alerts(alerts)).await.is_err() {
                return Ok(Gone);
            }
        }
        if sender.send(Update::Events(vec![event])).await.is_err() {
            return Ok(Gone);
        }
    }
    Err("the stream of events ended".into())
}

/// Asks about one service in a period, until it is aborted.
pub fn detail(session: &Session, service: ServiceName, sender: Sender<Update>) -> JoinHandle<()> {
    let hub = session.hub.clone();
    tokio::spawn(async move {
        loop {
            let update = match look(&hub, &service).await {
                Ok(detail) => Update::Detail(Box::new(detail)),
                Err(error) => Update::Told(crate::cli::chain(&error)),
            };
            if sender.send(update).await.is_err() {
                return;
            }
            sleep(DETAIL_PERIOD).await;
        }
    })
}

async fn look(hub: &HubClient, service: &ServiceName) -> Result<Detail, CallError> {
    let metrics = Metrics {
        service_name: service.clone(),
        metric_type: None,
        instance_id: None,
        since_seconds: Some(METRICS.0),
        bucket_seconds: Some(METRICS.1),
        limit: None,
        cursor: None,
    };
    // A service that is gone, or has no config or metrics, has the rest all the same.
    let instances = found(hub.call(&ServicesGet { service_name: service.clone() }).await)?;
    let series = found(hub.call(&metrics).await)?;
    let config = found(hub.call(&ConfigStatus { service_name: service.clone() }).await)?;
    Ok(Detail {
        service_name: service.clone(),
        instances: instances.map_or_else(Vec::new, |service| service.instances),
        series: series.map_or_else(Vec::new, |metrics| metrics.series),
        config,
    })
}

fn found<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(CallError::Refused(refusal)) if refusal.code == crate::wire::ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
