//! `central-hub health`: asks a hub how it is, for people, scripts and container health checks.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, Event};
use clap::Args;

use super::session::{Failure, HubArgs, NOT_SO, Out, unusable};
use crate::client::{CallError, HubClient};
use crate::domain::name::InstanceId;
use crate::domain::status::Status;
use crate::nats;
use crate::wire::health::{Health, HubHealth};
use crate::wire::micro::Verb;

/// How long everything together may take, unless --timeout says otherwise.
const PATIENCE: Duration = Duration::from_secs(3);

/// Ask a hub how it is
///
/// Exit code: 0 when it is healthy; 1 when it answers and isn't (PostgreSQL or NATS trouble, or KV lags behind); 2 when
/// there is no answer: no hub, no NATS, wrong credentials, a right that is missing, or an option that can't be used.
///
/// It asks as the user of CENTRAL_HUB_NATS_USER and _PASSWORD (or _TOKEN or _NKEY_SEED; each may also come as ..._FILE).
/// In the environment of a daemon whose user may publish to inboxes only, it asks as another one when
/// CENTRAL_HUB_HEALTH_NATS_USER and so on are set.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// Where the answers arrive when CENTRAL_HUB_HEALTH_NATS_... says who asks
    #[arg(long, env = "CENTRAL_HUB_HEALTH_NATS_INBOX_PREFIX", value_name = "PREFIX", help_heading = "NATS", value_parser = nats::inbox_prefix)]
    health_inbox_prefix: Option<String>,
    /// This replica must answer a ping, whichever replica tells the fleet's health
    #[arg(long, env = "CENTRAL_HUB_REPLICA_ID", value_name = "NAME")]
    replica: Option<InstanceId>,
}

/// Asks, prints the report, and tells the exit code.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: HealthArgs, hub: &HubArgs) -> Result<ExitCode, Failure> {
    let patience = hub.timeout.unwrap_or(PATIENCE);
    let asked = tokio::time::timeout(patience, ask(&args, hub, patience)).await;
    let late = || Failure::NoAnswer(format!("no answer within {}", humantime::format_duration(patience)));
    let health = asked.unwrap_or_else(|_| Err(late()))?;
    Out::stdout(hub.json()).print(&health, |_| report(&health))?;
    Ok(if health.status == Status::Healthy { ExitCode::SUCCESS } else { ExitCode::from(NOT_SO) })
}

async fn ask(args: &HealthArgs, hub: &HubArgs, patience: Duration) -> Result<HubHealth, Failure> {
    let own = hub.nats.other_identity("CENTRAL_HUB_HEALTH_NATS", None, args.health_inbox_prefix.as_ref())?;
    let options = own.map_or_else(|| hub.nats_options(), Ok)?;
    // A right that is missing shows in the events and nowhere else.
    let refusal = Arc::new(Mutex::new(None));
    let heard = Arc::clone(&refusal);
    let connect = options.connect_options().await?.name("central-hub health");
    let connect = connect.connection_timeout(patience).event_callback(move |event| {
        if let Event::ServerError(error) = event {
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        std::future::ready(())
    });
    let client = connect.connect(options.urls.clone()).await.map_err(|error| unusable(&options, error))?;
    let prefix = &hub.fleet.subject_prefix;
    let answer = tokio::select! {
        answer = questions(args, &client, prefix, patience) => answer,
        // A little less than there is, so that the reason can still be told.
        () = tokio::time::sleep(patience * 9 / 10) => Err(Failure::NoAnswer(format!("no answer on {prefix}.health"))),
    };
    answer.map_err(|failure| match refusal.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(refusal) => Failure::NoAnswer(format!("{failure}; NATS refused: {refusal}")),
        None => failure,
    })
}

async fn questions(args: &HealthArgs, client: &Client, prefix: &str, patience: Duration) -> Result<HubHealth, Failure> {
    if let Some(replica) = &args.replica {
        let [.., subject] = Verb::Ping.subjects(replica.as_str());
        let pong = client.request(subject, "".into()).await;
        pong.map_err(|error| Failure::NoAnswer(format!("replica {replica} does not answer: {error}")))?;
    }
    let hub = HubClient::new(client.clone()).with_prefix(prefix).with_timeout(patience);
    match hub.call(&Health {}).await {
        Ok(health) => Ok(health),
        Err(CallError::Refused(refusal)) => Err(Failure::NoAnswer(format!("the hub refused to say: {refusal}"))),
        Err(error) => Err(error.into()),
    }
}

fn report(health: &HubHealth) -> String {
    let HubHealth { status, version, replica_id, postgres, nats, projection, .. } = health;
    let leads = if health.leader { ", leads" } else { "" };
    let up = Duration::try_from_secs_f64(health.uptime_seconds.trunc()).unwrap_or_default();
    let up = humantime::format_duration(up);
    let millis = |value: Option<f64>| value.map_or_else(String::new, |value| format!(", {value} ms"));
    let pending = projection.pending.map_or_else(|| "unknown".into(), |pending| format!("{pending} events to publish"));
    format!(
        "{status}: central-hub {version}, replica {replica_id}{leads}, up {up}\n  PostgreSQL  {}{}\n  NATS        {}{}, server {}\n  projection  {pending}\n",
        postgres.status,
        millis(postgres.response_time_ms),
        nats.status,
        millis(nats.rtt_ms),
        nats.server_version,
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::Endpoint;

    #[test]
    fn the_report_says_what_is_wrong() {
        let mut health: HubHealth = serde_json::from_str(Endpoint::Health.route().reply).unwrap();
        assert_eq!(
            report(&health),
            "healthy: central-hub 0.1.0, replica hub-1, leads, up 1day\n  PostgreSQL  healthy, 0.4 ms\n  NATS        \
             healthy, 0.2 ms, server 2.15.1\n  projection  0 events to publish\n"
        );
        (health.status, health.postgres.status) = (Status::Degraded, Status::Down);
        (health.postgres.response_time_ms, health.projection.pending) = (None, None);
        let text = report(&health);
        assert!(text.starts_with("degraded: ") && text.contains("PostgreSQL  down\n"), "{text}");
        assert!(text.ends_with("projection  unknown\n"), "{text}");
    }
}
