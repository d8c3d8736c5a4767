//! The leader's pass over alerts: brings them to what facts call for.
//!
//! Apart from the sweep, and in short transactions: renewing the leadership waits for each that checks it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::graph::{GraphReader, Read};
use super::throttle::Throttle;
use crate::domain::alert::facts::Facts;
use crate::domain::alert::plan::{Bounds, plan};
use crate::domain::dependency::Graph;
use crate::domain::lease::Token;
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

/// Brings alerts to what facts call for, while this replica leads.
pub struct AlertPass {
    store: Store,
    reader: Arc<GraphReader>,
    settings: watch::Receiver<Settings>,
    leadership: watch::Receiver<Option<Token>>,
    graph: Mutex<KnownGraph>,
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
        let situation = self.store.situation(&settings).await?;
        let (facts, outlasted) = (situation.facts, situation.outlasted);
        let read = self.graph(&facts, situation.registrations).await;
        // A large graph takes a while to walk.
        let planning = tokio::task::spawn_blocking(move || {
            let none = Graph::default();
            plan(&facts, read.as_ref().map_or(&none, |read| &read.dependencies.graph), BOUNDS)
        });
        let plan = planning.await.map_err(StoreError::defect)?;
        if plan.is_empty() && !outlasted {
            return Ok(());
        }
        let Some(carried) = self.store.carry_out(token, &plan).await? else { return Ok(()) };
        self.tell(&carried);
        Ok(())
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
