//! `central-hub timeline`: what happened, and what happens now.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use clap::Args;
use futures_util::StreamExt as _;
use tokio::time::sleep;

use super::grammar;
use super::session::{Failure, HubArgs, Out, Session};
use crate::domain::name::ServiceName;
use crate::wire::event::{self, Event};
use crate::wire::timeline::{Timeline, TimelinePage};

/// How often the connection is looked at while events are followed, which costs no message.
const LOOK: Duration = Duration::from_millis(250);

/// Pause after a stream of events that ended, or couldn't be opened again.
const RETRY: Duration = Duration::from_secs(1);

/// Events of which it is known that they were told: two of the largest pages.
const REMEMBERED: usize = 2_000;

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

/// What happened so far, and then each event as it is published. On a connection that was made anew it begins anew, with
/// what happened meanwhile: the client library's consumer takes a quarter of a minute to notice.
async fn follow(session: &Session, request: &Timeline) -> Result<(), Failure> {
    let mut following = Following { session, request, told: VecDeque::new(), has_begun: false };
    let connects = || session.hub.nats().statistics().connects.load(Ordering::Relaxed);
    loop {
        let made = connects();
        let reconnected = async {
            while connects() == made {
                sleep(LOOK).await;
            }
        };
        let ended = tokio::select! {
            ended = following.go_on() => ended,
            () = reconnected => continue,
        };
        match ended {
            Err(failure) if !following.has_begun || matches!(failure, Failure::Io(_)) => return Err(failure),
            Ok(()) | Err(_) => sleep(RETRY).await,
        }
    }
}

struct Following<'a> {
    session: &'a Session,
    request: &'a Timeline,
    /// Ids of the events that were told last: what both the hub and the stream tell is told once.
    told: VecDeque<String>,
    /// Whether the past was told; until then a failure is the answer.
    has_begun: bool,
}

impl Following<'_> {
    /// Tells what wasn't told yet, and each event from now on, until the stream ends.
    async fn go_on(&mut self) -> Result<(), Failure> {
        let name = event::stream_name(&self.session.subject_prefix);
        let unreadable =
            |error: &dyn std::error::Error| Failure::NoAnswer(format!("{name} can't be read: {}", super::chain(error)));
        let stream = jetstream::new(self.session.hub.nats().clone()).get_stream(&name).await;
        let stream = stream.map_err(|error| unreadable(&error))?;
        let before = stream.cached_info().state.last_sequence;
        // Opened before the past is asked for, so that nothing is missed in between.
        let config = OrderedConfig { deliver_policy: DeliverPolicy::New, ..OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.map_err(|error| unreadable(&error))?;
        let mut messages = consumer.messages().await.map_err(|error| unreadable(&error))?;
        for event in self.untold().await?.into_iter().rev() {
            self.tell(&event)?;
        }
        self.has_begun = true;
        while let Some(message) = messages.next().await {
            // The consumer mends itself after an error; one that had nothing to tell yet then begins with all that the
            // stream holds.
            let Ok(message) = message else { continue };
            if message.info().is_ok_and(|info| info.stream_sequence <= before) {
                continue;
            }
            let Ok(event) = serde_json::from_slice::<Event>(&message.payload) else { continue };
            let kinds = &self.request.kinds;
            let is_of_kind = |kind: &String| kind == event.kind.as_str() || kind == event.topic.as_str();
            let wanted = self.request.service_name.as_ref().is_none_or(|name| *name == event.service_name)
                && (kinds.is_empty() || kinds.iter().any(is_of_kind));
            if wanted {
                self.tell(&event)?;
            }
        }
        Ok(())
    }

    /// What the hub knows, newest first: at first one page, later all pages down to one with something that was told.
    async fn untold(&self) -> Result<Vec<Event>, Failure> {
        let mut question = self.request.clone();
        let mut events = Vec::new();
        loop {
            let page = self.session.call(&question).await?;
            let is_joined = self.told.is_empty() || page.events.iter().any(|event| self.told.contains(&event.id));
            events.extend(page.events);
            match page.next_cursor {
                Some(next) if !is_joined && events.len() < REMEMBERED => question.cursor = Some(next),
                _ => return Ok(events),
            }
        }
    }

    fn tell(&mut self, event: &Event) -> Result<(), Failure> {
        if self.told.contains(&event.id) {
            return Ok(());
        }
        self.session.out.print(event, |out| line(event, out))?;
        self.told.push_back(event.id.clone());
        if self.told.len() > REMEMBERED {
            self.told.pop_front();
        }
        Ok(())
    }
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
