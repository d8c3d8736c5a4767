//! Inspects the infrastructure that the fleet stands on: rounds of probes, by the leader in a period and by whichever
//! replica is asked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::probe::{self, ProbeContext};
use super::projector::Projector;
use crate::domain::infra::Component;
use crate::domain::settings::Settings;
use crate::store::infra::Checked;
use crate::store::{Store, StoreError};
use crate::wire::bucket::Key;
use crate::wire::registry::DependencyStatus;

/// How often it looks whether a round is due.
const LOOK: Duration = Duration::from_millis(250);

/// How long after a probe that found a component down another one must find the same: nobody is woken for one lost packet.
const CONFIRMATION: Duration = Duration::from_millis(500);

/// How often it looks at the most while something isn't well, in seconds: who waits for its end needn't wait for long.
const CLOSE: f64 = 5.0;

/// Rounds that wait for PostgreSQL at the most, the newest ones. With the default interval that is more than an hour.
const MAX_UNKEPT: usize = 64;

/// Inspects the infrastructure.
pub struct Inspector {
    store: Store,
    settings: watch::Receiver<Settings>,
    leads: Arc<AtomicBool>,
    committed: Arc<Notify>,
    projector: Arc<Projector>,
    probes: ProbeContext,
    /// Whether it found a component that isn't well.
    unwell: AtomicBool,
    /// The newest round. Its lock makes rounds take turns, so that they never pile up.
    last: tokio::sync::Mutex<Option<Round>>,
    /// Rounds that PostgreSQL doesn't have yet, oldest first.
    unkept: Mutex<VecDeque<Vec<Checked>>>,
    /// The names beside which no other is kept, as far as this process has seen to it.
    names: Mutex<Option<Vec<String>>>,
}

/// One check of every component.
struct Round {
    began: Instant,
    checked: Arc<Vec<Checked>>,
}

/// What a round found, and whether PostgreSQL has it.
pub struct Inspected {
    /// One check per component.
    pub checked: Arc<Vec<Checked>>,
    /// The failure of PostgreSQL that kept it from being stored; it is stored later.
    pub unkept: Option<StoreError>,
}

impl Inspector {
    /// An inspector whose rounds are due while `leads`; it brings what it finds to KV by `projector`.
    #[must_use]
    pub fn new(
        store: Store,
        settings: watch::Receiver<Settings>,
        leads: Arc<AtomicBool>,
        committed: Arc<Notify>,
        projector: Arc<Projector>,
        probes: ProbeContext,
    ) -> Self {
        let (last, unkept, names) = (tokio::sync::Mutex::new(None), Mutex::default(), Mutex::default());
        let unwell = AtomicBool::new(false);
        Self { store, settings, leads, committed, projector, probes, unwell, last, unkept, names }
    }

    /// Inspects in a period until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut settings = self.settings.clone();
        let (mut began, mut jitter, mut led): (Option<Instant>, f64, bool) = (None, 1.0, false);
        let mut watched = settings.borrow_and_update().health_monitoring.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                Ok(()) = settings.changed() => {
                    let now = settings.borrow_and_update().health_monitoring.clone();
                    if now != watched {
                        (watched, began) = (now, None);
                    }
                }
                () = stop.cancelled() => return,
            }
            if self.leads.load(Ordering::Relaxed) {
                led = true;
            } else if led && self.store.now().await.is_ok() {
                // Somebody else leads. While PostgreSQL is away nobody does, and who led goes on: that it is away is
                // what must be found.
                led = false;
            }
            let period = match watched.check_interval_seconds {
                period if self.unwell.load(Ordering::Relaxed) => period.min(CLOSE),
                period => period,
            };
            if !led || began.is_some_and(|began| began.elapsed().as_secs_f64() < period * jitter) {
                continue;
            }
            (began, jitter) = (Some(Instant::now()), 0.9 + 0.2 * fastrand::f64());
            let inspected = tokio::select! {
                inspected = self.inspect() => inspected,
                () = stop.cancelled() => return,
            };
            if let Some(error) = &inspected.unkept {
                tracing::debug!(cause = %error.chain(), "a round of checks will be stored later");
            }
        }
    }

    /// Checks every component now. Callers that come while a round is under way share the next one.
    pub async fn inspect(&self) -> Inspected {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(round) = last.as_ref().filter(|round| round.began >= asked) {
            return Inspected { checked: Arc::clone(&round.checked), unkept: None };
        }
        let began = Instant::now();
        let components = self.settings.borrow().health_monitoring.infrastructure_components.clone();
        let before = last.as_ref().map(|round| Arc::clone(&round.checked)).unwrap_or_default();
        let was_down = |component: &Component| {
            let same = |checked: &&Checked| checked.name == component.name;
            before.iter().find(same).is_some_and(|checked| checked.status == DependencyStatus::Down)
        };
        let checks = components.iter().map(|component| self.check(component, was_down(component)));
        let checked = Arc::new(join_all(checks).await);
        *last = Some(Round { began, checked: Arc::clone(&checked) });
        let is_unwell =
            |checked: &Checked| matches!(checked.status, DependencyStatus::Degraded | DependencyStatus::Down);
        self.unwell.store(checked.iter().any(is_unwell), Ordering::Relaxed);
        let unkept = self.keep(checked.to_vec()).await.err();
        Inspected { checked, unkept }
    }

    /// Checks one component; one that wasn't down is found down only by a second probe, too.
    async fn check(&self, component: &Component, was_down: bool) -> Checked {
        let mut outcome = probe::check(component, &self.probes).await;
        if outcome.status == DependencyStatus::Down && !was_down {
            tokio::time::sleep(CONFIRMATION).await;
            outcome = probe::check(component, &self.probes).await;
        }
        Checked {
            name: component.name.clone(),
            kind: component.kind.as_str(),
            status: outcome.status,
            response_time_ms: outcome.response_time_ms,
            error_message: outcome.error_message,
            critical: component.critical,
            at: Instant::now(),
        }
    }

    /// Stores a round, after those that PostgreSQL doesn't have yet, and brings it to KV.
    async fn keep(&self, round: Vec<Checked>) -> Result<(), StoreError> {
        let names: Vec<String> = round.iter().map(|checked| checked.name.to_string()).collect();
        let keys: Vec<Key> = round.iter().map(|checked| Key::Component(checked.name.clone())).collect();
        {
            let mut unkept = self.unkept();
            unkept.push_back(round);
            while unkept.len() > MAX_UNKEPT {
                unkept.pop_front();
            }
        }
        while let Some(oldest) = self.oldest_unkept() {
            if self.store.record_checks(&oldest).await? {
                self.committed.notify_one();
            }
            self.unkept().pop_front();
        }
        self.projector.mark_all(keys);
        if self.names.lock().unwrap_or_else(PoisonError::into_inner).as_ref() != Some(&names) {
            let others: Vec<&str> = names.iter().map(String::as_str).collect();
            let gone = self.store.forget_components(&others).await?;
            self.projector.mark_all(gone);
            *self.names.lock().unwrap_or_else(PoisonError::into_inner) = Some(names);
        }
        Ok(())
    }

    fn unkept(&self) -> std::sync::MutexGuard<'_, VecDeque<Vec<Checked>>> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn oldest_unkept(&self) -> Option<Vec<Checked>> {
        self.unkept().front().cloned()
    }
}
