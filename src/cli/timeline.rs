//! `central-hub timeline`: what happened, and what happens now.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use clap::Args;
use futures_util::StreamExt as _;

use super::grammar;
use super::session::{Failure, HubArgs, Out, Session};
use crate::domain::name::ServiceName;
use crate::wire::event::{self, Event};
use crate::wire::timeline::{Timeline, TimelinePage};

/// What happened, newest first: what changed just before it broke?
#[derive(Args, Clone, Debug)]
pub struct TimelineArgs {
    /// Only what happened to this service or component
    service: Option<ServiceName>,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = grammar::duration)]
    since: Duration,
    /// Only these topics (service, config, infra, alert) or kinds (down, published, …), separated by commas
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    kinds: Vec<String>,
    /// How many at the most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on after a page, to what was before: its `next_cursor`
    #[arg(long, value_name = "CURSOR", conflicts_with = "follow")]
    cursor: Option<String>,
    /// Go on with what happens now, oldest first, until Ctrl-C
    #[arg(long, short = 'f')]
    follow: bool,
}

/// Shows it.
///
/// # Errors
/// [`Failure`].
pub async fn timeline(args: TimelineArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let request = Timeline {
        service_name: args.service.clone(),
        since_seconds: Some(args.since.as_secs_f64()),
        kinds: args.kinds.clone(),
        limit: Some(args.limit),
        cursor: args.cursor,
    };
    if args.follow {
        return follow(&session, &request).await;
    }
    session
        .show(&request, |page: &TimelinePage, out| {
            let lines: Vec<String> = page.events.iter().map(|event| line(event, out)).collect();
            if lines.is_empty() { "nothing happened in that time".into() } else { lines.join("\n") }
        })
        .await
}

/// What happened so far, and then each event as it is published.
async fn follow(session: &Session, request: &Timeline) -> Result<(), Failure> {
    let name = event::stream_name(&session.subject_prefix);
    let unreadable =
        |error: &dyn std::error::Error| Failure::NoAnswer(format!("{name} can't be read: {}", super::chain(error)));
    let stream = jetstream::new(session.hub.nats().clone()).get_stream(&name).await;
    let stream = stream.map_err(|error| unreadable(&error))?;
    // Opened before the past is asked for, so that nothing is missed in between; what both tell is told once.
    let config = OrderedConfig { deliver_policy: DeliverPolicy::New, ..OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await.map_err(|error| unreadable(&error))?;
    let mut messages = consumer.messages().await.map_err(|error| unreadable(&error))?;
    let past = session.call(request).await?.events;
    for event in past.iter().rev() {
        session.out.print(event, |out| line(event, out))?;
    }
    while let Some(message) = messages.next().await {
        // The consumer mends itself after an error.
        let Ok(message) = message else { continue };
        let Ok(event) = serde_json::from_slice::<Event>(&message.payload) else { continue };
        let wanted = request.service_name.as_ref().is_none_or(|name| *name == event.service_name)
            && (request.kinds.is_empty()
                || request.kinds.iter().any(|kind| kind == event.kind.as_str() || kind == event.topic.as_str()));
        if wanted && !past.iter().any(|told| told.id == event.id) {
            session.out.print(&event, |out| line(&event, out))?;
        }
    }
    Ok(())
}

/// One event in one line.
#[must_use]
pub fn line(event: &Event, out: &Out) -> String {
    const TIME: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]Z");
    let at = event.at.format(TIME).unwrap_or_default();
    let who = match &event.instance_id {
        Some(instance) => format!("{}.{instance}", event.service_name),
        None => event.service_name.to_string(),
    };
    let kind = format!("{} {}", event.topic.as_str(), event.kind.as_str());
    let colour = match event.kind {
        event::Kind::Down | event::Kind::Raised | event::Kind::Rejected => Some("\x1b[31m"),
        event::Kind::Degraded => Some("\x1b[33m"),
        event::Kind::Healthy | event::Kind::Resolved => Some("\x1b[32m"),
        _ => None,
    };
    let kind = match colour.filter(|_| out.colour) {
        Some(colour) => format!("{colour}{kind:<21}\x1b[0m"),
        None => format!("{kind:<21}"),
    };
    format!("{at}  {kind}  {who}  {}", facts(event)).trim_end().to_owned()
}

/// The facts that tell a person most.
fn facts(event: &Event) -> String {
    let told = ["reason", "error", "version", "revision", "by", "comment", "silent_seconds", "cause"];
    let text = |name: &str| {
        let value = event.details.get(name).filter(|value| !value.is_null())?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let message = text("message");
    let unsaid = |value: &String| message.as_ref().is_none_or(|message| !message.contains(value));
    let others = told.iter().filter_map(|name| Some(format!("{name}={}", text(name).filter(unsaid)?)));
    message.iter().cloned().chain(others).collect::<Vec<_>>().join(" ")
}
