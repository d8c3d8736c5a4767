//! Whether NATS and a hub answer. Watches don't tell: to them a hub that is gone looks like a fleet in which nothing happens.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::model::{Absent, Outage, Update};
use crate::client::{CallError, HubClient};
use crate::wire::health::Health;

/// How often the connection is looked at, which costs no message.
const LOOK: Duration = Duration::from_millis(500);

/// How often a hub is asked.
const PERIOD: Duration = Duration::from_secs(2);

/// How long it may take before the screen says that none answers, however patient the session is. With the period, a hub
/// that falls silent is told of within five seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// The link to the fleet at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// How often the connection was made.
    pub made: u64,
    /// Who doesn't answer.
    pub absent: Option<Absent>,
}

impl Link {
    /// As it is when the connection was just made.
    pub fn of(hub: &HubClient) -> Self {
        Self { made: made(hub), absent: None }
    }

    /// Whether NATS can be talked to.
    pub fn is_up(&self) -> bool {
        self.absent != Some(Absent::Nats)
    }
}

fn made(hub: &HubClient) -> u64 {
    hub.nats().statistics().connects.load(Ordering::Relaxed)
}

fn is_connected(hub: &HubClient) -> bool {
    hub.nats().connection_state() == State::Connected
}

/// Looks for as long as the screen is there.
pub async fn keep(hub: HubClient, link: watch::Sender<Link>, sender: mpsc::Sender<Update>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut connected_at, mut answered_at, mut asked_at) = (Instant::now(), Instant::now(), None::<Instant>);
    let mut shown = None;
    loop {
        looks.tick().await;
        let before = *link.borrow();
        let mut now = Link { made: made(&hub), ..before };
        if !is_connected(&hub) {
            now.absent = Some(Absent::Nats);
        } else if !before.is_up() || now.made != before.made || asked_at.is_none_or(|at| at.elapsed() >= PERIOD) {
            asked_at = Some(Instant::now());
            now.absent = match (answers(&hub).await, is_connected(&hub)) {
                (true, _) => None,
                (false, true) => Some(Absent::Hub),
                (false, false) => Some(Absent::Nats),
            };
            if now.absent.is_none() {
                answered_at = Instant::now();
            }
        }
        if now.is_up() {
            connected_at = Instant::now();
        }
        link.send_if_modified(|known| std::mem::replace(known, now) != now);
        let outage = now.absent.map(|who| match who {
            Absent::Nats => Outage { who, since: connected_at.into_std() },
            Absent::Hub => Outage { who, since: answered_at.into_std() },
        });
        if outage != shown && sender.send(Update::Outage(outage)).await.is_err() {
            return;
        }
        shown = outage;
    }
}

/// Whether a hub answers; a refusal is an answer too.
async fn answers(hub: &HubClient) -> bool {
    matches!(timeout(PATIENCE, hub.call(&Health {})).await, Ok(Ok(_) | Err(CallError::Refused(_))))
}
