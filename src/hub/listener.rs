//! The leader's own ear: it hears every heartbeat of the fleet, whichever replica it is for.

use std::time::{Duration, Instant};

use async_nats::{Client, Message, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;

use super::throttle::Throttle;
use crate::domain::overheard::{Overheard, Speaker};
use crate::domain::settings::Settings;
use crate::wire::registry::Heartbeat;
use crate::wire::subject::Inboxes;
use crate::wire::{Fields, Request as _};

/// A subscription beside the queue group, which answers nobody, and what it heard.
pub struct Listener {
    subscriber: Subscriber,
    inboxes: Inboxes,
    settings: watch::Receiver<Settings>,
    overheard: Overheard,
    full: Throttle,
}

impl Listener {
    /// Listens on `subject`, to those who want their answers in `inboxes`. What the server gets after the next message
    /// to it is heard.
    ///
    /// # Errors
    /// A text for people, when a subscription can't be made.
    pub async fn start(
        client: &Client,
        subject: &str,
        inboxes: &Inboxes,
        settings: &watch::Receiver<Settings>,
    ) -> Result<Self, String> {
        Ok(Self {
            subscriber: client.subscribe(subject.to_owned()).await.map_err(|error| error.to_string())?,
            inboxes: inboxes.clone(),
            settings: settings.clone(),
            overheard: Overheard::default(),
            full: Throttle::new(Duration::from_secs(60)),
        })
    }

    /// Ends the subscription, before whatever is asked of the server next.
    pub async fn stop(mut self) {
        let _ = self.subscriber.unsubscribe().await;
    }

    /// What it heard, by the clock that its callers gave.
    pub fn overheard(&self) -> &Overheard {
        &self.overheard
    }

    /// Waits for a heartbeat; the time is that since `started`.
    pub async fn hear(&mut self, started: Instant) {
        match self.subscriber.next().await {
            Some(message) => self.note(&message, started.elapsed()),
            // The connection was closed for good: the hub stops.
            None => std::future::pending().await,
        }
    }

    /// Takes all that has arrived by `now`, and forgets what is old.
    pub fn catch_up(&mut self, now: Duration) {
        // Unconstrained: a task that took much already would be told that there is nothing more.
        while let Some(Some(message)) = tokio::task::unconstrained(self.subscriber.next()).now_or_never() {
            self.note(&message, now);
        }
        self.overheard.forget_old(now);
    }

    /// A heartbeat that the hub would refuse, as far as that shows here, is none.
    fn note(&mut self, message: &Message, at: Duration) {
        if message.reply.as_ref().is_some_and(|reply| !self.inboxes.allow(reply)) {
            return;
        }
        let service = message.subject.rsplit('.').next();
        let settings = self.settings.borrow();
        let decoded = Fields::parse(&message.payload, service, &settings.limits).and_then(|mut fields| {
            let heartbeat = Heartbeat::decode(&mut fields)?;
            fields.finish()?;
            Ok(heartbeat)
        });
        drop(settings);
        let Ok(Heartbeat { service_name: service, instance_id: instance, incarnation, .. }) = decoded else { return };
        if !self.overheard.note(Speaker { service, instance, incarnation }, at)
            && let Some(unsaid) = self.full.pass()
        {
            tracing::warn!(unsaid, "so many instances speak that the leader can't remember all of them");
        }
    }
}
