//! One simulated process of the fleet: holds its config from a KV watch, registers, beats, says goodbye.
//!
//! It talks to the hub as any service would, over a connection of its own, so that its sudden end looks like one.

use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream;
use futures_util::StreamExt as _;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::fleet::Service;
use super::gauges::Gauges;
use super::report::Mismatch;
use super::story::PREFIX;
use crate::client::{CallError, HubClient};
use crate::domain::config::Position;
use crate::domain::name::ServiceName;
use crate::wire::ErrorCode;
use crate::wire::bucket::{Bucket, ConfigEntry};
use crate::wire::registry::{Deregister, Heartbeat, Register, Registered};

/// How often a process beats: the hub gives it three times as long before it counts as lost.
pub const BEAT: Duration = Duration::from_millis(500);

/// How long a process waits before it tries again what didn't work.
const RETRY: Duration = Duration::from_millis(100);

/// A config that a process has.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it orders by.
    pub position: Position,
    /// Its version.
    pub version: Option<i64>,
    /// Its content.
    pub config: Option<Value>,
    /// When the process got it.
    pub at: Instant,
}

/// What a process knows.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its newest config.
    pub config: Option<Held>,
    /// The hub's answer to its registration.
    pub registered: Option<Registered>,
    /// How many of its heartbeats the hub acknowledged.
    pub acknowledged: u64,
    /// What the last of them measured.
    pub metrics: Map<String, Value>,
    /// Whether it said goodbye and was heard.
    pub left: bool,
    /// What went wrong last.
    pub trouble: Option<String>,
}

/// A running process. Dropping it ends it as `kill -9` would.
#[derive(Debug)]
pub struct Process {
    /// Its service.
    pub service: ServiceName,
    /// Where it claims to listen.
    pub host: String,
    /// Where it claims to listen.
    pub port: u16,
    seen: watch::Receiver<Seen>,
    leave: CancellationToken,
    task: JoinHandle<()>,
}

impl Process {
    /// Starts a process of `service` on `host`; the same seed gives it the same measurements.
    pub fn start(nats_url: &str, service: &Service, host: &str, seed: u64) -> Process {
        let (seen, receiver) = watch::channel(Seen::default());
        let leave = CancellationToken::new();
        let running = Running {
            nats_url: nats_url.to_owned(),
            service: service.clone(),
            host: host.to_owned(),
            seen,
            news: Notify::new(),
            leave: leave.clone(),
        };
        Process {
            service: service.name.clone(),
            host: host.to_owned(),
            port: service.port,
            seen: receiver,
            leave,
            task: tokio::spawn(running.run(Gauges::new(service.load, seed))),
        }
    }

    /// Where it claims to listen, as `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// What it knows now.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until what it knows satisfies `condition`, and gives that.
    ///
    /// # Errors
    /// When `deadline` has passed or the process has ended, with what it knows then.
    pub async fn until(
        &self,
        deadline: Duration,
        expected: &str,
        condition: impl Fn(&Seen) -> bool,
    ) -> Result<Seen, Mismatch> {
        let mut seen = self.seen.clone();
        if let Ok(Ok(found)) = timeout(deadline, seen.wait_for(|seen| condition(seen))).await {
            return Ok(found.clone());
        }
        let found = self.seen();
        let state = format!(
            "config version {:?}, registered: {}, {} heartbeats acknowledged, trouble: {}",
            found.config.and_then(|held| held.version),
            found.registered.is_some(),
            found.acknowledged,
            found.trouble.as_deref().unwrap_or("none"),
        );
        Err(Mismatch::new(
            format!("{} at {} {expected} within {deadline:?}", self.service, self.address()),
            format!("it is at: {state}"),
        ))
    }

    /// Ends it without a goodbye: its connection closes, and nothing more is sent.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Asks it to say goodbye and end; [`until`](Self::until) it has left tells when it did.
    pub fn leave(&self) {
        self.leave.cancel();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The process from the inside.
struct Running {
    nats_url: String,
    service: Service,
    host: String,
    seen: watch::Sender<Seen>,
    /// A new config came: worth a heartbeat at once, so that the hub sees it in force.
    news: Notify,
    leave: CancellationToken,
}

impl Running {
    async fn run(self, gauges: Gauges) {
        if let Err(error) = self.live(gauges).await {
            self.note(error.as_ref());
        }
    }

    fn note(&self, error: &dyn std::error::Error) {
        let text = crate::cli::chain(error);
        self.seen.send_modify(|seen| seen.trouble = Some(text));
    }

    async fn live(&self, gauges: Gauges) -> Result<(), Failure> {
        let name = format!("{} {}:{}", self.service.name, self.host, self.service.port);
        let nats = ConnectOptions::new().name(name).connect(&self.nats_url).await?;
        // A beat that got no answer is repeated at the next tick: waiting longer would only delay that.
        let hub = HubClient::new(nats.clone()).with_timeout(2 * BEAT);
        // Beside each other: a config is taken even while a heartbeat waits for its answer.
        tokio::select! {
            ended = self.follow_config(&nats) => ended,
            ended = self.serve(&hub, gauges) => ended,
        }
    }

    /// Takes each config that is newer than what it has; an answer of the watch that is none changes nothing.
    async fn follow_config(&self, nats: &async_nats::Client) -> Result<(), Failure> {
        let jetstream = jetstream::new(nats.clone());
        let bucket = jetstream.get_key_value(Bucket::Config.name(PREFIX)).await?;
        loop {
            let mut watch = bucket.watch_with_history(self.service.name.as_str()).await?;
            while let Some(entry) = watch.next().await {
                // A hiccup of the connection shows as an error item, after which the watch goes on.
                match entry {
                    Ok(entry) => self.take(&entry.value),
                    Err(error) => self.note(&error),
                }
            }
            sleep(RETRY).await;
        }
    }

    fn take(&self, value: &[u8]) {
        let Ok(entry) = serde_json::from_slice::<ConfigEntry>(value) else { return };
        let position = entry.position();
        let content = entry.config.map(|text| serde_json::from_str(text.get())).transpose();
        let config = match content {
            Ok(config) => config,
            Err(error) => return self.note(&error),
        };
        let taken = self.seen.send_if_modified(|seen| {
            let newer = seen.config.as_ref().is_none_or(|held| held.position < position);
            if newer {
                seen.config = Some(Held { position, version: entry.version, config, at: Instant::now() });
            }
            newer
        });
        if taken {
            self.news.notify_one();
        }
    }

    /// Waits for a config, registers, beats until it shall leave, and says goodbye.
    async fn serve(&self, hub: &HubClient, mut gauges: Gauges) -> Result<(), Failure> {
        self.seen.subscribe().wait_for(|seen| seen.config.is_some()).await?;
        let mut me = self.register(hub).await?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.leave.cancelled() => break,
                () = self.news.notified() => beat.reset(),
                _ = beat.tick() => {}
            }
            match self.beat(hub, &me, gauges.read()).await {
                Err(CallError::Refused(error)) if error.code == ErrorCode::NotRegistered => {
                    me = self.register(hub).await?;
                }
                Err(error) => self.note(&error),
                Ok(()) => {}
            }
        }
        let goodbye = Deregister {
            service_name: self.service.name.clone(),
            instance_id: Some(me.instance_id),
            incarnation: Some(me.incarnation),
        };
        loop {
            match hub.call(&goodbye).await {
                Ok(_) => break,
                // It was heard, and its answer lost.
                Err(CallError::Refused(error)) if error.code == ErrorCode::NotRegistered => break,
                Err(CallError::Refused(error)) => return Err(error.into()),
                Err(error) => self.note(&error),
            }
            sleep(RETRY).await;
        }
        self.seen.send_modify(|seen| seen.left = true);
        Ok(())
    }

    /// Registers; while a dependency is missing, or nobody answers, again and again.
    async fn register(&self, hub: &HubClient) -> Result<Registered, Failure> {
        let request = Register {
            version: Some(self.service.version.clone()),
            host: Some(self.host.clone()),
            port: Some(self.service.port),
            dependencies: self.service.dependencies.clone(),
            metadata: self.service.metadata.clone(),
            heartbeat_interval_seconds: Some(BEAT.as_secs_f64()),
            require_dependencies: true,
            ..Register::new(self.service.name.clone())
        };
        loop {
            match hub.call(&request).await {
                Ok(registered) => {
                    self.seen.send_modify(|seen| seen.registered = Some(registered.clone()));
                    return Ok(registered);
                }
                Err(CallError::Refused(error)) if error.code != ErrorCode::DependencyUnavailable => {
                    return Err(error.into());
                }
                Err(error) => self.note(&error),
            }
            sleep(RETRY).await;
        }
    }

    async fn beat(&self, hub: &HubClient, me: &Registered, metrics: Map<String, Value>) -> Result<(), CallError> {
        let (revision, version) = self
            .seen
            .borrow()
            .config
            .as_ref()
            .map_or((None, None), |held| (Some(held.position.revision), held.version));
        let heartbeat = Heartbeat {
            instance_id: Some(me.instance_id.clone()),
            incarnation: Some(me.incarnation),
            metrics: metrics.clone(),
            config_revision: revision,
            config_version: version,
            ..Heartbeat::new(self.service.name.clone())
        };
        hub.call(&heartbeat).await?;
        self.seen.send_modify(|seen| {
            seen.acknowledged += 1;
            seen.metrics = metrics;
        });
        Ok(())
    }
}
