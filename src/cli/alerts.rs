//! `central-hub alerts`: what needs attention, and who saw it.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Cell, Color};
use time::OffsetDateTime;

use super::grammar;
use super::session::{Failure, HubArgs, Out};
use super::table::{ago, coloured, table, text};
use crate::domain::alert::Severity;
use crate::domain::name::ServiceName;
use crate::nats::BadOption;
use crate::wire::alert::{Alert, AlertsAck, AlertsList, AlertsPage};

/// What needs attention: the most severe first, each followed by what it is the cause of
#[derive(Args, Clone, Debug)]
pub struct AlertsArgs {
    #[command(subcommand)]
    action: Option<AlertsAction>,
    /// Those that are over, too
    #[arg(long)]
    all: bool,
    /// Only those of this severity
    #[arg(long, value_name = "critical|warning|info")]
    severity: Option<Severity>,
    /// Only those about this service or component
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    /// How many at the most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on after a page: its `next_cursor`
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
enum AlertsAction {
    /// Say that you saw an alert
    Ack {
        /// Its number
        id: i64,
        /// Who you are
        #[arg(long, env = "USER", value_name = "NAME")]
        by: Option<String>,
        /// Should the same come again within this time, it is kept and not sent
        #[arg(long, value_name = "DURATION", value_parser = grammar::duration)]
        silence: Option<Duration>,
    },
}

/// Shows or acknowledges alerts.
///
/// # Errors
/// [`Failure`].
pub async fn alerts(args: AlertsArgs, hub: &HubArgs) -> Result<(), Failure> {
    if let Some(AlertsAction::Ack { id, by, silence }) = args.action {
        if args.all || args.severity.is_some() || args.service.is_some() {
            return Err(BadOption(
                "--all, --severity and --service choose what is listed, not what is acknowledged".into(),
            )
            .into());
        }
        let request = AlertsAck { id, by, silence_seconds: silence.map(|silence| silence.as_secs_f64()) };
        return hub.connect().await?.show(&request, |alert, out| alert_rows(std::slice::from_ref(alert), out)).await;
    }
    let request = AlertsList {
        active: (!args.all).then_some(true),
        severity: args.severity,
        service_name: args.service,
        limit: Some(args.limit),
        cursor: args.cursor,
    };
    let render = |page: &AlertsPage, out: &Out| {
        if page.alerts.is_empty() { "all quiet".into() } else { alert_rows(&page.alerts, out) }
    };
    hub.connect().await?.show(&request, render).await
}

/// Alerts in the order in which a person wants them, and for each whether it only follows from the one before: the most
/// severe first, then as they came, each followed by those that it is the cause of. What is over comes last.
#[must_use]
pub fn by_urgency(alerts: &[Alert]) -> Vec<(&Alert, bool)> {
    let follows = |alert: &Alert| alert.resolved_at.is_none() && alerts.iter().any(|cause| is_cause(cause, alert));
    let (followers, mut first): (Vec<_>, Vec<_>) = alerts.iter().partition(|alert| follows(alert));
    first.sort_by_key(|alert| (alert.resolved_at.is_some(), alert.severity));
    let mut told = BTreeSet::new();
    let mut ordered = Vec::with_capacity(alerts.len());
    for alert in first {
        ordered.push((alert, false));
        let new = followers.iter().copied().filter(|follower| is_cause(alert, follower) && told.insert(follower.id));
        ordered.extend(new.map(|follower| (follower, true)));
    }
    ordered
}

/// Whether nobody was sent it, because the same one was silenced before.
#[must_use]
pub fn is_silenced(alert: &Alert) -> bool {
    alert.details.get("silenced") == Some(&true.into())
}

/// Whether `cause` is an alert of what is behind `alert`. Nothing is behind a cause.
fn is_cause(cause: &Alert, alert: &Alert) -> bool {
    cause.resolved_at.is_none() && cause.cause.is_none() && alert.cause.as_ref() == Some(&cause.name)
}

fn alert_rows(alerts: &[Alert], out: &Out) -> String {
    let now = OffsetDateTime::now_utc();
    let mut rows = table(&["id", "severity", "since", "state", "what"]);
    for (alert, follows) in by_urgency(alerts) {
        let colour = match alert.severity {
            Severity::Critical => Color::Red,
            Severity::Warning => Color::Yellow,
            Severity::Info => Color::Cyan,
        };
        let mut state = match (alert.resolved_at, &alert.acked_by, alert.acked_at) {
            (Some(_), ..) => "over".into(),
            (None, Some(by), _) => format!("seen by {by}"),
            (None, None, Some(_)) => "seen".into(),
            (None, None, None) => "new".into(),
        };
        if let Some(until) = alert.silenced_until.filter(|until| *until > now) {
            state.push_str(&format!(", silent for {}", ago(now, until)));
        } else if is_silenced(alert) {
            state.push_str(", silenced");
        }
        let mark = if follows { "└ " } else { "" };
        rows.add_row([
            Cell::new(alert.id),
            coloured(alert.severity.as_str(), colour, out),
            Cell::new(ago(alert.raised_at, now) + " ago"),
            Cell::new(state),
            Cell::new(format!("{mark}{}", alert.message)),
        ]);
    }
    text(&mut rows)
}
