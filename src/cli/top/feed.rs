//! Where the screen's facts come from: watches of KV, the stream of events, and a few questions to the hub.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use async_nats::jetstream::kv::Operation;
use futures_util::StreamExt as _;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

use super::model::{Detail, Update};
use crate::cli::session::Session;
use crate::client::{CallError, HubClient};
use crate::domain::name::ServiceName;
use crate::wire::alert::AlertsList;
use crate::wire::bucket::{Bucket, ConfigEntry, Key};
use crate::wire::config::ConfigStatus;
use crate::wire::event::{self, Event, Topic};
use crate::wire::metrics::Metrics;
use crate::wire::registry::ServicesGet;
use crate::wire::timeline::Timeline;

/// How often the service that is looked into is asked about.
const DETAIL_PERIOD: Duration = Duration::from_secs(2);

/// How far back its metrics go, and how long each of their buckets is, in seconds.
const METRICS: (f64, f64) = (600.0, 20.0);

/// Events of the past that are shown.
const PAST: u32 = 200;

/// Whoever started a feed is gone.
struct Gone;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Starts all feeds. Each goes on whatever happens, and says when it isn't live.
pub fn start(session: &Session, sender: &Sender<Update>) -> Vec<JoinHandle<()>> {
    let mut feeds: Vec<JoinHandle<()>> = Bucket::ALL
        .into_iter()
        .map(|bucket| {
            let name = bucket.name(&session.bucket_prefix);
            let (hub, sender) = (session.hub.clone(), sender.clone());
            let label = match bucket {
                Bucket::Config => "configs",
                Bucket::Services => "services",
                Bucket::Infra => "infrastructure",
            };
            tokio::spawn(keep_on(label, sender.clone(), move || {
                watch(hub.clone(), bucket, name.clone(), sender.clone())
            }))
        })
        .collect();
    let stream = event::stream_name(&session.subject_prefix);
    let (hub, events) = (session.hub.clone(), sender.clone());
    feeds.push(tokio::spawn(keep_on("events", sender.clone(), move || {
        follow(hub.clone(), stream.clone(), events.clone())
    })));
    feeds
}

/// Starts a feed again when it fails: after a second at first, then after up to half a minute, with jitter, so that many
/// screens don't ask a server that comes back all at once.
async fn keep_on<F, Fut>(label: &'static str, sender: Sender<Update>, mut feed: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Gone, Failure>>,
{
    let mut failures = 0u32;
    loop {
        let began = tokio::time::Instant::now();
        let why = match feed().await {
            Ok(Gone) => return,
            Err(error) => crate::cli::chain(error.as_ref()),
        };
        if sender.send(Update::Feed(label, Err(why))).await.is_err() {
            return;
        }
        failures = if began.elapsed() > Duration::from_secs(60) { 0 } else { failures + 1 };
        let most = 1_000u64 << failures.min(5);
        tokio::time::sleep(Duration::from_millis(most / 2 + fastrand::u64(0..=most / 2))).await;
    }
}

async fn watch(hub: HubClient, bucket: Bucket, name: String, sender: Sender<Update>) -> Result<Gone, Failure> {
    let kv = jetstream::new(hub.nats().clone()).get_key_value(&name).await?;
    let mut entries = kv.watch_with_history(">").await?;
    let label = match bucket {
        Bucket::Config => "configs",
        Bucket::Services => "services",
        Bucket::Infra => "infrastructure",
    };
    if sender.send(Update::Feed(label, Ok(()))).await.is_err() {
        return Ok(Gone);
    }
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        let Some(key) = Key::parse(bucket, &entry.key) else { continue };
        let is_there = entry.operation == Operation::Put;
        let update = match key {
            // Of a config only what the hub put says anything: a marker isn't a delete.
            Key::Config(service) => match serde_json::from_slice::<ConfigEntry>(&entry.value) {
                Ok(config) if is_there => Update::Config(service, config.position(), config.version),
                _ => continue,
            },
            Key::Instance(service, instance) => {
                let record = if is_there { Some(Box::new(serde_json::from_slice(&entry.value)?)) } else { None };
                Update::Instance(service, instance, record)
            }
            Key::Component(component) => {
                let record = if is_there { Some(Box::new(serde_json::from_slice(&entry.value)?)) } else { None };
                Update::Component(component, record)
            }
        };
        if sender.send(update).await.is_err() {
            return Ok(Gone);
        }
    }
    Err("the watch ended".into())
}

/// The past, and then each event; alerts are asked for again when one of them tells of an alert.
async fn follow(hub: HubClient, name: String, sender: Sender<Update>) -> Result<Gone, Failure> {
    let stream = jetstream::new(hub.nats().clone()).get_stream(&name).await?;
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
        let Ok(event) = serde_json::from_slice::<Event>(&message?.payload) else { continue };
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
            tokio::time::sleep(DETAIL_PERIOD).await;
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
