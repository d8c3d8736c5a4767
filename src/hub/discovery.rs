//! The NATS service API: who is there, what it serves, how much it served.
//!
//! Written here because the client library's own answers to whatever reply subject a caller names, with the hub's rights.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt as _;
use serde_json::Map;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Hub;
use crate::wire::micro::{EndpointInfo, EndpointStats, Identity, Info, NAME, QUEUE_GROUP, Stats, Verb};
use crate::wire::route::ROUTES;

/// Answers `$SRV` until `stop`.
///
/// # Errors
/// When a subscription can't be made.
pub async fn serve(
    hub: &Arc<Hub>,
    client: &Client,
    started: OffsetDateTime,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), async_nats::SubscribeError> {
    for verb in Verb::ALL {
        for subject in verb.subjects(hub.options.replica_id.as_str()) {
            let subscriber = client.subscribe(subject).await?;
            tasks.spawn(answer(Arc::clone(hub), verb, started, subscriber, stop.clone()));
        }
    }
    Ok(())
}

async fn answer(
    hub: Arc<Hub>,
    verb: Verb,
    started: OffsetDateTime,
    mut subscriber: Subscriber,
    stop: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = subscriber.next() => message,
            () = stop.cancelled() => return,
        };
        let Some(message) = message else { return };
        let responder = &hub.responder;
        if let Some(reply) = message.reply.filter(|reply| responder.admits(Some(reply))) {
            match describe(&hub, verb, started) {
                Ok(body) => responder.send(reply, body.into()).await,
                Err(error) => tracing::error!(cause = %error, "a description could not be encoded"),
            }
        }
    }
}

fn describe(hub: &Hub, verb: Verb, started: OffsetDateTime) -> serde_json::Result<Vec<u8>> {
    let prefix = &hub.options.subject_prefix;
    let identity = Identity {
        response_type: verb.response_type(),
        name: NAME,
        id: hub.options.replica_id.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        metadata: Map::from_iter([("subject_prefix".to_owned(), prefix.as_str().into())]),
    };
    match verb {
        Verb::Ping => serde_json::to_vec(&identity),
        Verb::Info => serde_json::to_vec(&Info {
            identity,
            description: env!("CARGO_PKG_DESCRIPTION"),
            endpoints: ROUTES
                .iter()
                .map(|route| EndpointInfo {
                    name: route.name,
                    subject: route.endpoint.subject(prefix, None),
                    queue_group: QUEUE_GROUP,
                    metadata: Map::from_iter([("summary".to_owned(), route.summary.into())]),
                })
                .collect(),
        }),
        Verb::Stats => {
            let endpoints = ROUTES.iter().filter_map(|route| {
                let counters = hub.responder.counters(route.endpoint)?;
                let num_requests = counters.requests.load(Ordering::Relaxed);
                let processing_time = counters.nanos.load(Ordering::Relaxed);
                Some(EndpointStats {
                    name: route.name,
                    subject: route.endpoint.subject(prefix, None),
                    queue_group: QUEUE_GROUP,
                    num_requests,
                    num_errors: counters.errors.load(Ordering::Relaxed),
                    last_error: counters.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                    processing_time,
                    average_processing_time: processing_time.checked_div(num_requests).unwrap_or(0),
                })
            });
            serde_json::to_vec(&Stats { identity, started, endpoints: endpoints.collect() })
        }
    }
}
