//! Requests in, answers out: subscriptions from the route table, one place that replies, counts and drops.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Message, PublishError, PublishErrorKind, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Hub;
use super::nats::Connection;
use super::throttle::Throttle;
use crate::store::StoreError;
use crate::wire::error::ErrorBody;
use crate::wire::micro::QUEUE_GROUP;
use crate::wire::route::ROUTES;
use crate::wire::subject::Inboxes;
use crate::wire::{Endpoint, Error, ErrorCode};

/// How long a subscription may take to end after it was told to.
const UNSUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Health is answered even when everything else is overloaded, this many at a time.
const HEALTH_IN_FLIGHT: usize = 16;

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Call {
    /// Which subject.
    pub endpoint: Endpoint,
    /// The service that the subject names.
    pub service: Option<String>,
    /// The whole subject.
    pub subject: Subject,
    /// What was asked.
    pub body: Bytes,
    /// Whom NATS vouches for, where the hub is told to believe it.
    pub authenticated_as: Option<String>,
    reply: Option<Subject>,
    started: Instant,
}

/// What an endpoint did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests, refused ones included.
    pub requests: AtomicU64,
    /// Refused requests.
    pub errors: AtomicU64,
    /// Nanoseconds from arrival to answer, all requests together.
    pub nanos: AtomicU64,
    /// Number and text of the last refusal.
    pub last_error: Mutex<String>,
}

/// The one place that answers.
pub struct Responder {
    client: Client,
    inboxes: Inboxes,
    counters: Vec<Counters>,
    dropped: AtomicU64,
    dropped_warning: Throttle,
}

impl Responder {
    /// Answers on `client`, into `inboxes` only.
    #[must_use]
    pub fn new(client: Client, inboxes: Inboxes) -> Self {
        Self {
            client,
            inboxes,
            counters: ROUTES.iter().map(|_| Counters::default()).collect(),
            dropped: AtomicU64::new(0),
            dropped_warning: Throttle::new(Duration::from_secs(60)),
        }
    }

    /// What an endpoint did so far.
    #[must_use]
    pub fn counters(&self, endpoint: Endpoint) -> Option<&Counters> {
        self.counters.get(endpoint as usize)
    }

    /// Whether a request may be served: one that wants its answer outside the inboxes is dropped, counted, and warned
    /// about once a minute.
    pub fn admits(&self, reply: Option<&Subject>) -> bool {
        if reply.is_none_or(|reply| self.inboxes.allow(reply)) {
            return true;
        }
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if self.dropped_warning.pass().is_some() {
            tracing::warn!(
                dropped,
                "dropped a request that wants its answer outside the inboxes; somebody may be misusing the hub"
            );
        }
        false
    }

    /// Ends a call: answers it and counts it.
    pub async fn finish(&self, call: Call, result: Result<Bytes, Error>) {
        let most = self.client.max_payload();
        let result = match result {
            // The client library would refuse to send it, and the caller would wait in vain.
            Ok(body) if call.reply.is_some() && body.len() > most => {
                Err(Error::too_large("reply", most, "bytes, the server's max_payload: ask for a smaller page"))
            }
            result => result,
        };
        if let Some(counters) = self.counters(call.endpoint) {
            counters.requests.fetch_add(1, Ordering::Relaxed);
            let nanos = u64::try_from(call.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            counters.nanos.fetch_add(nanos, Ordering::Relaxed);
            if let Err(error) = &result {
                counters.errors.fetch_add(1, Ordering::Relaxed);
                let text = format!("{}:{}", error.code.number(), error.header_text());
                *counters.last_error.lock().unwrap_or_else(PoisonError::into_inner) = text;
            }
        }
        if let Err(error) = &result {
            tracing::debug!(endpoint = call.endpoint.route().name, service = call.service, code = %error.code, "refused");
        }
        let Some(reply) = call.reply else { return };
        match result {
            Ok(body) => self.send(reply, body).await,
            Err(error) => self.refuse(reply, &error).await,
        }
    }

    async fn refuse(&self, reply: Subject, error: &Error) {
        let sent = self.send_refusal(reply.clone(), error).await;
        let sent = match sent {
            // It lists more than a message can carry; the caller must hear of it all the same.
            Err(failure) if failure.kind() == PublishErrorKind::MaxPayloadExceeded => {
                self.send_refusal(reply, &error.without_details()).await
            }
            sent => sent,
        };
        if let Err(failure) = sent {
            tracing::debug!(cause = %failure, "an answer could not be sent");
        }
    }

    async fn send_refusal(&self, reply: Subject, error: &Error) -> Result<(), PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", error.code.number().to_string());
        headers.insert("Nats-Service-Error", error.header_text());
        let body = serde_json::to_vec(&ErrorBody { error: error.clone() }).unwrap_or_default();
        self.client.publish_with_headers(reply, headers, body.into()).await
    }

    /// Sends an answer that was counted, or isn't an endpoint's.
    pub async fn send(&self, reply: Subject, body: Bytes) {
        if let Err(error) = self.client.publish(reply, body).await {
            tracing::debug!(cause = %error, "an answer could not be sent");
        }
    }
}

/// An answer's body.
///
/// # Errors
/// [`ErrorCode::Internal`] when it can't be encoded, which would be a defect.
pub fn encode<T: Serialize>(answer: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|error| internal(&error, "encode", None))
}

/// What a caller is told of a failure of the store; the cause goes to the log.
pub fn explain(error: &StoreError, what: &'static str, service: Option<&str>) -> Error {
    static OUTAGE: Throttle = Throttle::new(Duration::from_secs(5));
    match error {
        StoreError::Refused(refusal) => (**refusal).clone(),
        StoreError::OutcomeUnknown(_) => {
            tracing::warn!(what, service, cause = %error.chain(), "the outcome of a change is unknown");
            Error::outcome_unknown()
        }
        StoreError::Busy => {
            static CROWD: Throttle = Throttle::new(Duration::from_secs(5));
            if let Some(unsaid) = CROWD.pass() {
                tracing::warn!(what, service, unsaid, "no connection to Postgres was free in time");
            }
            Error::overloaded()
        }
        StoreError::Defect(_) => internal(&error.chain(), what, service),
        StoreError::Unavailable(_) | StoreError::Broken(_) | StoreError::TimedOut | StoreError::Conflict(_) => {
            if let Some(unsaid) = OUTAGE.pass() {
                tracing::warn!(what, service, unsaid, cause = %error.chain(), "Postgres failed a request");
            }
            Error::unavailable("PostgreSQL can't be reached; try again")
        }
    }
}

fn internal(cause: &dyn std::fmt::Display, what: &'static str, service: Option<&str>) -> Error {
    let request_id = nuid::next().to_string();
    tracing::error!(request_id, what, service, %cause, "a defect of the hub");
    Error::new(ErrorCode::Internal, "a defect of the hub; its log has the cause under this request_id")
        .with("request_id", request_id)
}

/// Ends a subscription and gives what was on its way: the server sent it, so it went to nobody else.
///
/// The client library forgets a subscription that it is told to drain as soon as it wakes again, and with it what is
/// still to come. So the server alone is told first: it takes a count of more than nine digits for none and unsubscribes
/// at once, while the library waits for that many messages. Those that were under way arrive before one that goes to the
/// server and back.
pub async fn unsubscribe(mut subscriber: Subscriber, connection: &Connection) -> Vec<Message> {
    let mut rest = Vec::new();
    let _ = subscriber.unsubscribe_after(u64::MAX).await;
    let mut round_trip = std::pin::pin!(connection.round_trip(UNSUBSCRIBE_TIMEOUT));
    loop {
        tokio::select! {
            message = subscriber.next() => match message {
                Some(message) => rest.push(message),
                None => return rest,
            },
            _ = &mut round_trip => break,
        }
    }
    if subscriber.drain().await.is_ok() {
        let drained = async {
            while let Some(message) = subscriber.next().await {
                rest.push(message);
            }
        };
        let _ = tokio::time::timeout(UNSUBSCRIBE_TIMEOUT, drained).await;
    }
    rest
}

/// Subscribes all routes and serves them until `stop`: the subscriptions in `loops`, the work that they start in
/// `tasks`.
///
/// # Errors
/// When a subscription can't be made.
pub async fn serve(
    hub: &Arc<Hub>,
    client: &Client,
    loops: &TaskTracker,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), async_nats::SubscribeError> {
    let work = Arc::new(Semaphore::new(hub.options.max_in_flight));
    let heartbeats = Arc::new(Semaphore::new(hub.options.max_heartbeats_waiting));
    let health = Arc::new(Semaphore::new(HEALTH_IN_FLIGHT));
    for route in ROUTES {
        let subject = route.endpoint.subject(&hub.options.subject_prefix, None);
        let subscriber = client.queue_subscribe(subject, QUEUE_GROUP.to_owned()).await?;
        let bound = match route.endpoint {
            Endpoint::Health => &health,
            Endpoint::Heartbeat => &heartbeats,
            _ => &work,
        };
        let server = EndpointServer {
            hub: Arc::clone(hub),
            endpoint: route.endpoint,
            bound: Arc::clone(bound),
            tasks: tasks.clone(),
            takes_part: hub.takes_part.subscribe(),
        };
        loops.spawn(server.run(subscriber, stop.clone()));
    }
    Ok(())
}

/// Why a subscription was given up.
enum Leave {
    /// The hub stops.
    Stop,
    /// Other replicas serve what this one can't.
    Meanwhile,
}

struct EndpointServer {
    hub: Arc<Hub>,
    endpoint: Endpoint,
    bound: Arc<Semaphore>,
    tasks: TaskTracker,
    takes_part: watch::Receiver<bool>,
}

impl EndpointServer {
    async fn run(mut self, mut subscriber: Subscriber, stop: CancellationToken) {
        loop {
            let Some(leave) = self.attend(&mut subscriber, &stop).await else { return };
            for message in unsubscribe(subscriber, &self.hub.requests).await {
                self.take(message).await;
            }
            match leave {
                Leave::Stop => return,
                Leave::Meanwhile => match self.rejoin(&stop).await {
                    Some(joined) => subscriber = joined,
                    None => return,
                },
            }
        }
    }

    /// Takes requests until there is a reason to leave; `None` when the connection ended.
    async fn attend(&mut self, subscriber: &mut Subscriber, stop: &CancellationToken) -> Option<Leave> {
        // How this replica is can be asked of it at any time.
        let may_leave = self.endpoint != Endpoint::Health;
        let mut takes_part = self.takes_part.clone();
        loop {
            tokio::select! {
                message = subscriber.next() => self.take(message?).await,
                () = stop.cancelled() => return Some(Leave::Stop),
                () = turns(&mut takes_part, false), if may_leave => return Some(Leave::Meanwhile),
            }
        }
    }

    /// Waits until this replica takes part again, and subscribes; `None` when the hub stops first.
    async fn rejoin(&mut self, stop: &CancellationToken) -> Option<Subscriber> {
        tokio::select! {
            () = turns(&mut self.takes_part, true) => {}
            () = stop.cancelled() => return None,
        }
        let subject = self.endpoint.subject(&self.hub.options.subject_prefix, None);
        let joined = self.hub.requests.client.queue_subscribe(subject, QUEUE_GROUP.to_owned()).await;
        joined.inspect_err(|error| tracing::error!(cause = %error, "a subject can't be subscribed again")).ok()
    }

    /// Takes a request without waiting for anything slow.
    async fn take(&self, message: Message) {
        let responder = &self.hub.responder;
        if !responder.admits(message.reply.as_ref()) {
            return;
        }
        let service = self.endpoint.names_service().then(|| last_token(&message.subject).to_owned());
        let call = Call {
            endpoint: self.endpoint,
            service,
            authenticated_as: self.vouched_for(&message),
            subject: message.subject,
            body: message.payload,
            reply: message.reply,
            started: Instant::now(),
        };
        // What memory can answer isn't worth a task.
        match self.hub.answer_from_memory(&call) {
            Some(answer) => responder.finish(call, Ok(answer)).await,
            None => self.spawn(call).await,
        }
    }

    /// The user that the server names in `Nats-Request-Info`. Inside one account anybody can forge it; only across an
    /// account import with sharing the server sets it itself.
    fn vouched_for(&self, message: &Message) -> Option<String> {
        if !self.hub.options.trust_request_info {
            return None;
        }
        let info = message.headers.as_ref()?.get("Nats-Request-Info")?;
        let info: serde_json::Value = serde_json::from_str(info.as_str()).ok()?;
        let named = |field: &str| info.get(field).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
        let name = match (named("acc"), named("user")) {
            (Some(account), Some(user)) => format!("{account}/{user}"),
            (Some(name), None) | (None, Some(name)) => name.to_owned(),
            (None, None) => return None,
        };
        Some(name.chars().take(self.hub.settings.borrow().limits.text_chars).collect())
    }

    async fn spawn(&self, call: Call) {
        let Ok(permit) = Arc::clone(&self.bound).try_acquire_owned() else {
            self.hub.responder.finish(call, Err(Error::overloaded())).await;
            return;
        };
        let hub = Arc::clone(&self.hub);
        self.tasks.spawn(async move {
            let result = unless_it_panics(hub.answer(&call), call.endpoint, call.service.as_deref()).await;
            hub.responder.finish(call, result).await;
            drop(permit);
        });
    }
}

/// What a handler answers. One that panics, which is a defect, would leave its caller waiting: it is answered too.
async fn unless_it_panics(
    answering: impl Future<Output = Result<Bytes, Error>>,
    endpoint: Endpoint,
    service: Option<&str>,
) -> Result<Bytes, Error> {
    let panic = match AssertUnwindSafe(answering).catch_unwind().await {
        Ok(result) => return result,
        Err(panic) => panic,
    };
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let cause = format!("a handler panicked: {}", said.unwrap_or("without a text"));
    Err(internal(&cause, endpoint.route().name, service))
}

/// Waits until `takes_part` says so.
async fn turns(takes_part: &mut watch::Receiver<bool>, so: bool) {
    if takes_part.wait_for(|takes_part| *takes_part == so).await.is_err() {
        // Nobody can say so any more.
        std::future::pending().await
    }
}

fn last_token(subject: &str) -> &str {
    subject.rsplit('.').next().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_for() {
        let fine = unless_it_panics(async { Ok(Bytes::from_static(b"{}")) }, Endpoint::AlertsList, None).await;
        assert_eq!(fine.unwrap(), "{}");
        let panics = async {
            tokio::task::yield_now().await;
            panic!("a defect")
        };
        let told = unless_it_panics(panics, Endpoint::AlertsList, Some("a")).await.unwrap_err();
        assert_eq!(told.code, ErrorCode::Internal);
        assert!(told.details.contains_key("request_id") && !told.message.contains("a defect:"), "{told}");
    }

    #[test]
    fn too_much_at_once_is_no_outage() {
        let told = explain(&StoreError::Busy, "test", None);
        assert_eq!(told.code, ErrorCode::Overloaded);
        assert!(told.details.contains_key("retry_after_ms"));
        assert!(StoreError::Busy.is_passing() && !StoreError::Busy.is_outage());
    }
}
