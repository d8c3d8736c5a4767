//! Leadership and the work of the leader: the sweep, and the partitions of `health_metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::nats::{Connection, Interruptions};
use super::throttle::Throttle;
use crate::domain::lease::{self, Token};
use crate::domain::liveness::{Hearing, TROUBLE, Tick};
use crate::domain::settings::{Retention, Settings};
use crate::store::lease::Swept;
use crate::store::{Store, StoreError};

/// How many days of partitions are made ahead.
const PARTITION_DAYS: i32 = 3;

/// How often the leader sees to the partitions.
const PARTITION_PERIOD: Duration = Duration::from_secs(3600);

/// How often the leader looks for versions of configs that needn't be kept.
const PRUNE_PERIOD: Duration = Duration::from_secs(3600);

/// Competes for the leadership and does the leader's work.
pub struct Leader {
    /// Where the lease is.
    pub store: Store,
    /// The connection that hears heartbeats.
    pub requests: Connection,
    /// Timeouts.
    pub settings: watch::Receiver<Settings>,
    /// What broke the hub's hearing.
    pub interruptions: Arc<Interruptions>,
    /// Says once in a while that heartbeats can't be heard.
    pub deaf: Throttle,
    /// Whether this replica leads, for others to see.
    pub leads: Arc<AtomicBool>,
    /// Wakes the outbox.
    pub committed: Arc<Notify>,
}

/// What the leader remembers from one pass to the next.
#[derive(Default)]
struct Term {
    token: Option<Token>,
    hearing: Hearing,
    interruptions: u64,
    partitions_made: Option<Instant>,
    /// By which rule versions of configs were removed last, and when.
    pruned: Option<(Option<Retention>, Instant)>,
}

impl Leader {
    /// Runs until `stop`, then gives the leadership up.
    pub async fn run(&self, stop: CancellationToken) {
        let started = Instant::now();
        let mut term = Term::default();
        let mut pass = tokio::time::interval(lease::RENEWAL);
        pass.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = pass.tick() => {}
                () = stop.cancelled() => break,
            }
            if let Err(error) = self.pass(&mut term, started).await {
                term.hearing.interrupt();
                tracing::debug!(cause = %error.chain(), "the leader's pass will be tried again");
            }
            // Apart from the sweep: nobody's liveness may hang on it.
            if let Some(token) = term.token
                && let Err(error) = self.care_for_configs(&mut term, token).await
            {
                tracing::debug!(cause = %error.chain(), "the care for configs will be tried again");
            }
            let leads = term.token.is_some();
            if self.leads.swap(leads, Ordering::Relaxed) != leads {
                tracing::info!(leads, "leadership");
            }
        }
        if term.token.is_some()
            && let Err(error) = self.store.release_lease().await
        {
            tracing::debug!(cause = %error.chain(), "the leadership will run out by itself");
        }
        self.leads.store(false, Ordering::Relaxed);
    }

    async fn pass(&self, term: &mut Term, started: Instant) -> Result<(), StoreError> {
        let acquired = self.store.acquire_lease().await.inspect_err(|_| term.token = None)?;
        if acquired != term.token {
            // A take-over, or a lease that ran out: what was heard before is another's, or has a gap.
            term.hearing.interrupt();
            term.token = acquired;
        }
        let Some(token) = acquired else { return Ok(()) };
        if term.partitions_made.is_none_or(|made| made.elapsed() > PARTITION_PERIOD) {
            match self.store.create_partitions(PARTITION_DAYS).await {
                // Nobody's liveness may hang on this: rows without a partition of their day have the default one.
                Err(error) if !error.is_outage() => tracing::error!(
                    cause = %error.chain(),
                    "partitions of health_metrics can't be made; heartbeats go to health_metrics_default"
                ),
                made => made?,
            }
            term.partitions_made = Some(Instant::now());
        }
        // A server that stands still, or a network that swallows everything, looks like a connection on which nobody beats.
        if let Err(why) = self.requests.round_trip(TROUBLE).await {
            term.hearing.interrupt();
            if let Some(unsaid) = self.deaf.pass() {
                tracing::warn!(unsaid, why, "heartbeats can't be heard: nobody is marked down meanwhile");
            }
            return Ok(());
        }
        let interruptions = self.interruptions.count();
        if interruptions != term.interruptions {
            term.interruptions = interruptions;
            term.hearing.interrupt();
        }
        let now = self.store.now().await?;
        let hearing_since = term.hearing.tick(Tick { now, monotonic: started.elapsed() }, lease::RENEWAL);
        let settings = self.settings.borrow().service_discovery.clone();
        match self.store.sweep(token, now, hearing_since, &settings).await? {
            Some(swept) => self.tell(&swept),
            None => term.token = None,
        }
        Ok(())
    }

    /// What instances should run follows what is committed, outside a change freeze; who stays behind raises an alert;
    /// versions that needn't be kept, and answers that nobody may ask for any more, are forgotten.
    async fn care_for_configs(&self, term: &mut Term, token: Token) -> Result<(), StoreError> {
        let settings = self.settings.borrow().clone();
        let frozen = !settings.config_management.enable_hot_reload;
        let pushed = self.store.push_configs(token, frozen).await?;
        let default_interval = settings.service_discovery.heartbeat_interval_seconds;
        let alerted = self.store.alert_config_behind(token, default_interval).await?;
        if pushed || alerted {
            self.committed.notify_one();
        }
        // Each write sees to its own service: this is for a new setting, for what a freeze kept, and for services that nobody
        // writes any more.
        let retention = settings.config_management.retention();
        let is_due = |(kept, at): (Option<Retention>, Instant)| kept != retention || at.elapsed() > PRUNE_PERIOD;
        if pushed || term.pruned.is_none_or(is_due) {
            if let Some(retention) = retention {
                self.store.prune_configs(token, retention).await?;
            }
            term.pruned = Some((retention, Instant::now()));
        }
        self.store.forget_requests().await
    }

    fn tell(&self, swept: &Swept) {
        for key in &swept.downed {
            tracing::warn!(instance = key.text(), "marked down: silent for longer than its timeout");
        }
        for key in &swept.removed {
            tracing::warn!(instance = key.text(), "removed: down for too long");
        }
        if !(swept.downed.is_empty() && swept.removed.is_empty()) {
            self.committed.notify_one();
        }
    }
}
