//! The leader's pass over alerts: brings them to what facts call for.
//!
//! Apart from the sweep, and in short transactions: renewing the leadership waits for each that checks it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::graph::{GraphReader, Read};
use super::inspector::Inspector;
use super::throttle::Throttle;
use crate::domain::alert::Severity;
use crate::domain::alert::facts::Facts;
use crate::domain::alert::plan::{Bounds, Plan, plan};
use crate::domain::dependency::Graph;
use crate::domain::lease::Token;
use crate::domain::name::ServiceName;
use crate::domain::settings::Settings;
use crate::store::alert_facts::Registrations;
use crate::store::alerts::Carried;
use crate::store::{Store, StoreError};

/// How often it looks without being woken.
const PERIOD: Duration = Duration::from_secs(1);

/// How much one pass does at the most. What is left has its turn a second later.
const BOUNDS: Bounds = Bounds { begin: 100, end: 1_000 };

/// The graph of dependencies is read again no sooner than after this many times as long as that took: it may be large, and
/// a fleet that starts changes it all the time.
const REST: u32 = 20;

/// And no later than this, however long it took: an alert may name no cause, or another one, until then.
const REST_AT_MOST: Duration = Duration::from_secs(10);

/// How long what a service stands on may take to be looked at before the service's alert begins: it should name its cause
/// from the first.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked at for that, at the most.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Brings alerts to what facts call for, while this replica leads.
pub struct AlertPass {
    store: Store,
    reader: Arc<GraphReader>,
    settings: watch::Receiver<Settings>,
    leadership: watch::Receiver<Option<Token>>,
    graph: Mutex<KnownGraph>,
    inspector: Arc<Inspector>,
    looked: Mutex<Option<Instant>>,
    wake: Arc<Notify>,
    /// Wakes the outbox.
    committed: Arc<Notify>,
    failing: Throttle,
}

/// The graph of dependencies as it was read last.
#[derive(Default)]
struct KnownGraph {
    read: Option<Arc<Read>>,
    of: Option<Registrations>,
    rests_until: Option<Instant>,
}

impl AlertPass {
    /// A pass of this hub that works while `leadership` holds a token.
    #[must_use]
    pub fn new(hub: &Hub, leadership: watch::Receiver<Option<Token>>) -> Self {
        Self {
            store: hub.store.clone(),
            reader: Arc::clone(&hub.graph),
            settings: hub.settings.clone(),
            leadership,
            graph: Mutex::default(),
            inspector: Arc::clone(&hub.inspector),
            looked: Mutex::default(),
            wake: Arc::default(),
            committed: Arc::clone(&hub.committed),
            failing: Throttle::new(Duration::from_secs(60)),
        }
    }

    /// What has it look at once.
    #[must_use]
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Runs until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = period.tick() => {}
                () = self.wake.notified() => {}
                () = stop.cancelled() => return,
            }
            let Some(token) = *self.leadership.borrow() else { continue };
            match self.pass(token).await {
                Ok(()) => {}
                Err(error) if error.is_passing() => tracing::debug!(cause = %error.chain(), "alerts wait for Postgres"),
                Err(error) => {
                    if let Some(unsaid) = self.failing.pass() {
                        tracing::error!(unsaid, cause = %error.chain(), "alerts can't be brought up to date");
                    }
                }
            }
        }
    }

    async fn pass(&self, token: Token) -> Result<(), StoreError> {
        let settings = self.settings.borrow().clone();
        let (mut plan, mut outlasted, suspects) = self.plan(&settings).await?;
        if suspects && self.look().await {
            (plan, outlasted, _) = self.plan(&settings).await?;
        }
        if plan.is_empty() && !outlasted {
            return Ok(());
        }
        let Some(carried) = self.store.carry_out(token, &plan).await? else { return Ok(()) };
        self.tell(&carried);
        Ok(())
    }

    /// What has to be done; whether an alert outlasts its silence; and whether an alert begins whose cause may be a
    /// component that hasn't been looked at since.
    async fn plan(&self, settings: &Settings) -> Result<(Plan, bool, bool), StoreError> {
        let situation = self.store.situation(settings).await?;
        let (facts, outlasted) = (situation.facts, situation.outlasted);
        let read = self.graph(&facts, situation.registrations).await;
        let components = settings.health_monitoring.infrastructure_components.clone();
        // A large graph takes a while to walk.
        let planning = tokio::task::spawn_blocking(move || {
            let none = Graph::default();
            let graph = read.as_ref().map_or(&none, |read| &read.dependencies.graph);
            let plan = plan(&facts, graph, BOUNDS);
            let is_component = |name: &ServiceName| components.iter().any(|component| component.name == *name);
            let suspects = plan.begin.iter().any(|begin| {
                let is_unexplained = begin.severity != Severity::Info && begin.cause.is_none();
                let node = graph.node(&begin.name).filter(|_| is_unexplained && begin.kind.is_about_health());
                node.is_some_and(|node| graph.needs_any(node, is_component))
            });
            (plan, suspects)
        });
        let (plan, suspects) = planning.await.map_err(StoreError::defect)?;
        Ok((plan, outlasted, suspects))
    }

    /// Has the components looked at, unless that was so a moment ago.
    async fn look(&self) -> bool {
        {
            let mut looked = self.looked.lock().await;
            if looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
                return false;
            }
            *looked = Some(Instant::now());
        }
        timeout(LOOK_PATIENCE, self.inspector.inspect()).await.is_ok()
    }

    /// The graph of these registrations, if anything needs it now; an older one when it can't be read, so that alerts come
    /// all the same.
    async fn graph(&self, facts: &Facts, registrations: Registrations) -> Option<Arc<Read>> {
        let mut known = self.graph.lock().await;
        let needed = !(facts.services.is_empty() && facts.components.is_empty() && facts.lost.is_empty());
        let fresh = known.of.as_ref() == Some(&registrations);
        let rests = known.rests_until.is_some_and(|until| Instant::now() < until);
        if needed && !fresh && !rests {
            let started = Instant::now();
            match self.reader.read().await {
                Ok(read) => {
                    known.read = Some(read);
                    // Those that were known before it was read: what came meanwhile is read next time.
                    known.of = Some(registrations);
                }
                Err(error) => tracing::debug!(cause = %error.chain(), "dependencies will be read again"),
            }
            known.rests_until = Some(Instant::now() + (started.elapsed() * REST).min(REST_AT_MOST));
        }
        known.read.clone()
    }

    fn tell(&self, carried: &Carried) {
        for message in &carried.ended {
            tracing::info!(message, "alert is over");
        }
        for (severity, message) in &carried.begun {
            tracing::warn!(severity = severity.as_str(), message, "alert");
        }
        if !(carried.begun.is_empty() && carried.ended.is_empty()) {
            self.committed.notify_one();
        }
    }
}
