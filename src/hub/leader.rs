//! Leadership and the work of the leader: the sweep; and apart from it, the care for configs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::listener::Listener;
use super::nats::{Connection, Interruptions};
use super::throttle::Throttle;
use crate::domain::lease::{self, Token};
use crate::domain::liveness::{Hearing, TROUBLE, Tick};
use crate::domain::mass_expiry::{Holds, Scope};
use crate::domain::name::ServiceName;
use crate::domain::settings::{Retention, Settings};
use crate::store::sweep::{Swept, Vantage};
use crate::store::{Store, StoreError};
use crate::wire::subject::Inboxes;

/// How often the leader looks for versions of configs that needn't be kept.
const PRUNE_PERIOD: Duration = Duration::from_secs(3600);

/// After how long a pass that failed is tried again: whoever died meanwhile has its timeout from the first that succeeds.
const RETRY: Duration = Duration::from_millis(250);

/// Competes for the leadership and does the leader's work.
pub struct Leader {
    /// Where the lease is, and who is silent.
    pub store: Store,
    /// The same, for the work that may wait.
    pub patient: Store,
    /// The connection that hears heartbeats.
    pub requests: Connection,
    /// The subject of all heartbeats.
    pub heartbeats: String,
    /// Where those who beat may want their answers.
    pub inboxes: Inboxes,
    /// Timeouts.
    pub settings: watch::Receiver<Settings>,
    /// What broke the hub's hearing.
    pub interruptions: Arc<Interruptions>,
    /// Says once in a while that heartbeats can't be heard.
    pub deaf: Throttle,
    /// Whether this replica leads, for others to see.
    pub leads: Arc<AtomicBool>,
    /// The leadership that is in force, as far as this replica knows.
    pub token: watch::Sender<Option<Token>>,
    /// Whether it listens. As long as it does, NATS takes a heartbeat for delivered even where nobody answers it; so it
    /// listens only while this replica answers, too.
    pub listens: watch::Sender<bool>,
    /// Wakes the outbox.
    pub committed: Arc<Notify>,
    /// Wakes the pass over alerts.
    pub alerts: Arc<Notify>,
}

/// By which rule versions of configs were removed last, and when.
type Pruned = (Option<Retention>, Instant);

/// What the leader remembers from one pass to the next.
#[derive(Default)]
struct Term {
    token: Option<Token>,
    hearing: Hearing,
    interruptions: u64,
    listener: Option<Listener>,
}

impl Leader {
    /// Runs until `stop`, then gives the leadership up.
    pub async fn run(&self, stop: CancellationToken) {
        // Side by side: nobody's liveness may hang on work that takes long.
        tokio::join!(self.lead(&stop), self.care(&stop));
    }

    async fn lead(&self, stop: &CancellationToken) {
        let started = Instant::now();
        let mut term = Term::default();
        let mut connected = self.requests.generation.clone();
        let mut pass = tokio::time::interval(lease::RENEWAL);
        pass.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = pass.tick() => {}
                // The sooner the hub knows that it hears again, the sooner it finds who is dead.
                Ok(()) = connected.changed() => {}
                () = listen(&mut term.listener, started) => continue,
                () = stop.cancelled() => break,
            }
            let passed = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                passed = self.pass(&mut term, started) => passed,
            };
            if let Err(error) = passed {
                term.hearing.interrupt();
                tracing::debug!(cause = %error.chain(), "the leader's pass will be tried again");
                pass.reset_after(RETRY);
            }
            if term.token.is_none() {
                self.listen_no_more(&mut term).await;
            }
            self.tell_leadership(term.token);
        }
        self.listen_no_more(&mut term).await;
        if term.token.is_some()
            && let Err(error) = self.store.release_lease().await
        {
            tracing::debug!(cause = %error.chain(), "the leadership will run out by itself");
        }
        self.token.send_replace(None);
        self.leads.store(false, Ordering::Relaxed);
    }

    async fn listen_no_more(&self, term: &mut Term) {
        if let Some(listener) = term.listener.take() {
            listener.stop().await;
        }
        self.listens.send_replace(false);
    }

    fn tell_leadership(&self, token: Option<Token>) {
        let leads = token.is_some();
        if self.leads.swap(leads, Ordering::Relaxed) != leads {
            tracing::info!(leads, "leadership");
        }
        self.token.send_if_modified(|known| std::mem::replace(known, token) != token);
    }

    async fn pass(&self, term: &mut Term, started: Instant) -> Result<(), StoreError> {
        let acquired = self.store.acquire_lease().await.inspect_err(|_| term.token = None)?;
        if acquired != term.token {
            // A take-over, or a lease that ran out: what was heard before is another's, or has a gap.
            term.hearing.interrupt();
            term.token = acquired;
        }
        let Some(token) = acquired else { return Ok(()) };
        // A server that stands still, or a network that swallows everything, looks like a connection on which nobody beats.
        let heard = async {
            if term.listener.is_none() {
                self.listens.send_replace(true);
                let (client, subject) = (&self.requests.client, &self.heartbeats);
                term.listener = Some(Listener::start(client, subject, &self.inboxes, &self.settings).await?);
            }
            self.requests.round_trip(TROUBLE).await
        };
        if let Err(why) = heard.await {
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
        let tick = Tick { now, monotonic: started.elapsed() };
        let hearing_since = term.hearing.tick(tick, lease::RENEWAL);
        let Some(listener) = &mut term.listener else { return Ok(()) };
        // All that the server had for this connection before the round trip has arrived by now.
        listener.catch_up(tick.monotonic);
        let settings = self.settings.borrow().service_discovery.clone();
        let vantage = Vantage { token, tick, hearing_since, overheard: listener.overheard(), settings: &settings };
        match self.store.sweep(vantage).await? {
            Some(swept) => self.tell(&swept),
            None => term.token = None,
        }
        Ok(())
    }

    /// The leader's other work, until `stop`: what it does next doesn't depend on what it did last.
    async fn care(&self, stop: &CancellationToken) {
        let mut leadership = self.token.subscribe();
        let mut pruned: Option<Pruned> = None;
        let mut pass = tokio::time::interval(lease::RENEWAL);
        pass.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let caring = async {
            loop {
                pass.tick().await;
                let Ok(token) = leadership.wait_for(Option::is_some).await.map(|token| *token) else { return };
                let Some(token) = token else { continue };
                if let Err(error) = self.care_for_configs(&mut pruned, token).await {
                    tracing::debug!(cause = %error.chain(), "the care for configs will be tried again");
                }
            }
        };
        tokio::select! {
            () = caring => {}
            () = stop.cancelled() => {}
        }
    }

    /// What instances should run follows what is committed, outside a change freeze; alerts of forced configs end;
    /// versions that needn't be kept, and answers that nobody may ask for any more, are forgotten.
    async fn care_for_configs(&self, pruned: &mut Option<Pruned>, token: Token) -> Result<(), StoreError> {
        let settings = self.settings.borrow().clone();
        let frozen = !settings.config_management.enable_hot_reload;
        let pushed = self.patient.push_configs(token, frozen).await?;
        if pushed | self.patient.end_overtaken_forced(token).await? {
            self.committed.notify_one();
        }
        // Each write sees to its own service: this is for a new setting, for what a freeze kept, and for services that nobody
        // writes any more.
        let retention = settings.config_management.retention();
        let is_due = |(kept, at): Pruned| kept != retention || at.elapsed() > PRUNE_PERIOD;
        if pushed || pruned.is_none_or(is_due) {
            if let Some(retention) = retention {
                self.patient.prune_configs(token, retention).await?;
            }
            *pruned = Some((retention, Instant::now()));
        }
        self.patient.forget_requests().await
    }

    fn tell(&self, swept: &Swept) {
        for key in &swept.downed {
            tracing::warn!(instance = key.text(), "marked down: silent for longer than its timeout");
        }
        for key in &swept.removed {
            tracing::warn!(instance = key.text(), "removed: down for too long");
        }
        tell_holds(&swept.began, "a mass expiry is held: so many fell silent at once that it is hardly they who died");
        tell_holds(&swept.ended, "a mass expiry is over");
        if !(swept.downed.is_empty() && swept.removed.is_empty()) {
            self.committed.notify_one();
            self.alerts.notify_one();
        }
    }
}

/// Hears one message, if there is a listener.
async fn listen(listener: &mut Option<Listener>, started: Instant) {
    match listener {
        Some(listener) => listener.hear(started).await,
        None => std::future::pending().await,
    }
}

fn tell_holds(holds: &Holds, what: &'static str) {
    let name = |scope: &Scope| scope.as_ref().map_or("the whole fleet", ServiceName::as_str).to_owned();
    for (scope, hold) in holds {
        tracing::warn!(of = name(scope), instances = hold.instances, until = %hold.until, "{what}");
    }
}
