//! A hub from its start to its end: what runs in it, and the order in which that stops.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alerts::AlertPass;
use super::buckets::{BucketKeeper, Sight};
use super::graph::GraphReader;
use super::heartbeats::{self, HeartbeatWriter};
use super::inspector::Inspector;
use super::leader::Leader;
use super::memory::Memory;
use super::nats::Interruptions;
use super::outbox::Outbox;
use super::peers::{self, Peers};
use super::presence::Presence;
use super::probe::ProbeContext;
use super::projector::Projector;
use super::retention::Retention;
use super::serve::{self, Responder};
use super::settings::SettingsKeeper;
use super::throttle::Throttle;
use super::{Hub, HubError, Options, discovery, streams, waiting};
use crate::store::Store;
use crate::wire::Endpoint;
use crate::wire::bucket::Bucket;

/// Room for active configs in memory, in bytes.
const MEMORY_BYTES: usize = 64 * 1024 * 1024;

/// How long the last messages of a stopping hub may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a task that died stays down.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A hub that serves, and what it takes to stop it.
pub(super) struct Running {
    hub: Arc<Hub>,
    /// The leadership is competed for while this isn't cancelled.
    leading: CancellationToken,
    /// Requests are taken while this isn't cancelled.
    serving: CancellationToken,
    /// The subscriptions, and the work that they started.
    subscriptions: TaskTracker,
    requests: TaskTracker,
    /// Background passes run while this isn't cancelled.
    passing: CancellationToken,
    passes: TaskTracker,
    /// The outbox and the projection finish what is committed after these are cancelled.
    sending: CancellationToken,
    sender: TaskTracker,
    projecting: CancellationToken,
    projectors: TaskTracker,
    /// Cancelled when a stop has waited long enough.
    give_up: CancellationToken,
}

impl Running {
    /// Connects, migrates, starts the passes, and serves.
    ///
    /// # Errors
    /// As [`run`](super::run).
    pub async fn start(options: Options) -> Result<Self, HubError> {
        let started_at = OffsetDateTime::now_utc();
        let interruptions = Arc::new(Interruptions::default());
        let replica_id = options.replica_id.as_str();
        let writer_options = options.nats_writer.as_ref().unwrap_or(&options.nats);
        let requests = waiting::nats_connection(&options.nats, "answering", replica_id, &interruptions).await;
        let writer = waiting::nats_connection(writer_options, "writing", replica_id, &Arc::default()).await;
        waiting::schema(&options).await?;
        let store = Store::new(&options.database, replica_id, options.database_connections)?;

        let memory = Arc::new(Memory::new(MEMORY_BYTES));
        let own_config = waiting::own_config(&store, &options).await?;
        let committed = Arc::new(Notify::new());
        let (settings_source, settings) = watch::channel(options.settings.clone());
        let settings_keeper = SettingsKeeper::new(&memory, options.settings.clone(), settings_source);
        for active in own_config {
            memory.offer(&active);
        }
        settings_keeper.load();
        let projector = |bucket| Arc::new(Projector::new(bucket, store.clone(), Arc::clone(&memory), writer.clone()));
        let (configs, services) = (projector(Bucket::Config), projector(Bucket::Services));
        let infra = projector(Bucket::Infra);
        let (heartbeats, heartbeat_writer) = heartbeats::queue(
            options.max_heartbeats_waiting,
            store.urgent(),
            settings.clone(),
            Arc::clone(&interruptions),
            Arc::clone(&committed),
        );
        let leads = Arc::new(AtomicBool::new(false));
        let inspector = Arc::new(Inspector::new(
            store.clone(),
            settings.clone(),
            Arc::clone(&leads),
            Arc::clone(&committed),
            Arc::clone(&infra),
            ProbeContext::of_hub(&options),
        ));
        let hub = Arc::new(Hub {
            responder: Responder::new(requests.client.clone(), options.inboxes.clone()),
            config_sight: Arc::new(Sight::default()),
            leads,
            inspector,
            graph: Arc::new(GraphReader::new(store.clone())),
            takes_part: watch::Sender::new(true),
            listens: watch::Sender::new(false),
            started: Instant::now(),
            options,
            store,
            requests,
            writer,
            memory,
            configs,
            heartbeats,
            settings,
            committed,
        });
        let mut running = Self {
            hub,
            leading: CancellationToken::new(),
            serving: CancellationToken::new(),
            subscriptions: TaskTracker::new(),
            requests: TaskTracker::new(),
            passing: CancellationToken::new(),
            passes: TaskTracker::new(),
            sending: CancellationToken::new(),
            sender: TaskTracker::new(),
            projecting: CancellationToken::new(),
            projectors: TaskTracker::new(),
            give_up: CancellationToken::new(),
        };
        running.start_projection(&services, &infra);
        running.start_passes(heartbeat_writer, settings_keeper);
        running.start_serving(started_at).await?;
        running.start_leader(interruptions);
        Ok(running)
    }

    /// The outbox, and for each bucket its keeper and its projector.
    fn start_projection(&self, services: &Arc<Projector>, infra: &Arc<Projector>) {
        let hub = &self.hub;
        let replicas = hub.options.stream_replicas;
        let projectors = [(Bucket::Config, &hub.configs), (Bucket::Services, services), (Bucket::Infra, infra)];
        for (bucket, projector) in projectors {
            let sight = if bucket == Bucket::Config { Arc::clone(&hub.config_sight) } else { Arc::default() };
            let keeper = Arc::new(BucketKeeper {
                bucket,
                config: streams::bucket_config(bucket, &hub.options.bucket_prefix, replicas),
                name: bucket.name(&hub.options.bucket_prefix),
                connection: hub.writer.clone(),
                store: hub.store.clone(),
                projector: Arc::clone(projector),
                sight,
            });
            // As long as there is something to project: a bucket that is lost meanwhile is made again.
            supervise(
                &self.projectors,
                "bucket",
                &self.projecting,
                keeper,
                |it, stop| async move { it.run(stop).await },
            );
            let give_up = self.give_up.clone();
            supervise(&self.projectors, "projection", &self.projecting, Arc::clone(projector), move |it, stop| {
                let give_up = give_up.clone();
                async move { it.run(stop, give_up).await }
            });
        }
        let outbox = Arc::new(Outbox {
            store: hub.store.clone(),
            connection: hub.writer.clone(),
            prefix: hub.options.subject_prefix.clone(),
            config: streams::events_config(
                &hub.options.subject_prefix,
                replicas,
                i64::from(hub.options.events_max_mib) * 1024 * 1024,
            ),
            configs: Arc::clone(&hub.configs),
            services: Arc::clone(services),
            infra: Arc::clone(infra),
            wake: Arc::clone(&hub.committed),
            stuck: Throttle::new(Duration::from_secs(60)),
        });
        let give_up = self.give_up.clone();
        supervise(&self.sender, "outbox", &self.sending, outbox, move |it, stop| {
            let give_up = give_up.clone();
            async move { it.run(stop, give_up).await }
        });
    }

    /// The hub's own settings, the writer of heartbeats, what replicas tell each other, and this replica's own record.
    fn start_passes(&self, writer: HeartbeatWriter, keeper: SettingsKeeper) {
        let hub = &self.hub;
        let applied = keeper.applied();
        let keeper = Arc::new(keeper);
        supervise(&self.passes, "settings", &self.passing, keeper, |it, stop| async move { it.run(stop).await });
        // Behind a lock so that a supervised restart finds the same queue.
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        supervise(&self.passes, "heartbeats", &self.passing, writer, |it, stop| async move {
            it.lock().await.run(stop).await
        });
        let retention = Arc::new(Retention {
            store: hub.store.clone(),
            settings: hub.settings.clone(),
            leads: Arc::clone(&hub.leads),
            crowded: Throttle::new(Duration::from_secs(3600)),
        });
        supervise(&self.passes, "retention", &self.passing, retention, |it, stop| async move { it.run(stop).await });
        let inspector = Arc::clone(&hub.inspector);
        supervise(&self.passes, "inspector", &self.passing, inspector, |it, stop| async move { it.run(stop).await });
        let peers = Arc::new(Peers {
            store: hub.store.urgent(),
            writer: hub.writer.clone(),
            subject: peers::subject(&hub.writer.client, &hub.options.subject_prefix),
            replica_id: hub.options.replica_id.clone(),
            takes_part: hub.takes_part.clone(),
        });
        supervise(&self.passes, "peers", &self.serving, peers, |it, stop| async move { it.run(stop).await });
        let presence = Arc::new(Presence {
            store: hub.store.urgent(),
            heartbeats: hub.heartbeats.clone(),
            replica_id: hub.options.replica_id.clone(),
            host: hub.options.host.clone(),
            applied,
            committed: Arc::clone(&hub.committed),
        });
        supervise(&self.requests, "presence", &self.serving, presence, |it, stop| async move { it.run(stop).await });
    }

    /// The leader's work: once this replica serves, since its leader listens.
    fn start_leader(&self, interruptions: Arc<Interruptions>) {
        let hub = &self.hub;
        let (token, leadership) = watch::channel(None);
        let alerts = Arc::new(AlertPass::new(hub, leadership));
        let leader = Arc::new(Leader {
            store: hub.store.urgent(),
            patient: hub.store.clone(),
            requests: hub.requests.clone(),
            heartbeats: Endpoint::Heartbeat.subject(&hub.options.subject_prefix, None),
            inboxes: hub.options.inboxes.clone(),
            settings: hub.settings.clone(),
            interruptions,
            deaf: Throttle::new(Duration::from_secs(10)),
            leads: Arc::clone(&hub.leads),
            token,
            listens: hub.listens.clone(),
            committed: Arc::clone(&hub.committed),
            alerts: alerts.wake(),
        });
        supervise(&self.passes, "leader", &self.leading, leader, |it, stop| async move { it.run(stop).await });
        supervise(&self.passes, "alerts", &self.passing, alerts, |it, stop| async move { it.run(stop).await });
    }

    async fn start_serving(&mut self, started_at: OffsetDateTime) -> Result<(), HubError> {
        let client = &self.hub.requests.client;
        discovery::serve(&self.hub, client, started_at, &self.subscriptions, &self.serving).await?;
        serve::serve(&self.hub, client, &self.subscriptions, &self.requests, &self.serving).await?;
        self.subscriptions.close();
        // A request that follows the news of readiness must find the subscriptions at the server.
        let _ = self.hub.requests.round_trip(FLUSH_TIMEOUT).await;
        tracing::info!(
            replica = self.hub.options.replica_id.as_str(),
            prefix = self.hub.options.subject_prefix,
            version = env!("CARGO_PKG_VERSION"),
            "serving"
        );
        Ok(())
    }

    /// Stops in the order that loses nothing: take no more, finish what was accepted, publish what is committed, leave.
    pub async fn stop(self) {
        tracing::info!("stopping: finishing what is in flight");
        let give_up = self.give_up.clone();
        let deadline = self.hub.options.drain_timeout;
        let timer = tokio::spawn(async move {
            tokio::time::sleep(deadline).await;
            give_up.cancel();
        });
        // First: while the leader listens to all heartbeats, the server has somebody to give them to, and a caller would
        // wait for an answer instead of hearing that nobody is there.
        self.leading.cancel();
        let mut listens = self.hub.listens.subscribe();
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, listens.wait_for(|listens| !listens)).await;
        for (token, tasks) in [
            (Some(&self.serving), &self.subscriptions),
            (None, &self.requests),
            (Some(&self.passing), &self.passes),
            (Some(&self.sending), &self.sender),
            (Some(&self.projecting), &self.projectors),
        ] {
            if let Some(token) = token {
                token.cancel();
            }
            tasks.close();
            tokio::select! {
                () = tasks.wait() => {}
                () = self.give_up.cancelled() => {}
            }
        }
        timer.abort();
        if self.give_up.is_cancelled() {
            tracing::warn!("gave up waiting; what is committed and unpublished will be published by the next hub");
        }
        for connection in [&self.hub.requests, &self.hub.writer] {
            // Without a server a flush would wait for one.
            if connection.is_up() {
                let _ = tokio::time::timeout(FLUSH_TIMEOUT, connection.client.flush()).await;
                let _ = tokio::time::timeout(FLUSH_TIMEOUT, connection.client.drain()).await;
            }
        }
        self.hub.store.close();
        tracing::info!("stopped");
    }
}

/// Has `it` run until `stop`, anew when it panics, which is said.
fn supervise<T, Fut>(
    tasks: &TaskTracker,
    name: &'static str,
    stop: &CancellationToken,
    it: Arc<T>,
    run: impl Fn(Arc<T>, CancellationToken) -> Fut + Send + 'static,
) where
    T: Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let stop = stop.clone();
    tasks.spawn(async move {
        while let Err(error) = tokio::spawn(run(Arc::clone(&it), stop.clone())).await {
            tracing::error!(task = name, cause = %error, "a task of the hub died; it is started anew");
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    });
}
