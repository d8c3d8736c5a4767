//! Steps about what people are told: the alert while a process is lost, and afterwards the timeline.

use std::fmt::Write as _;

use super::report::{Findings, Mismatch, check};
use super::story::{PATIENCE, Story, eventually};
use crate::domain::status::Status;
use crate::wire::alert::{Alert, AlertsList};
use crate::wire::dependency::DepsImpact;
use crate::wire::event::{Event, Kind};
use crate::wire::infra::InfraStatus;
use crate::wire::registry::DependencyStatus;
use crate::wire::timeline::Timeline;
use crate::wire::uptime::UptimeOf;

/// What of the hero's story must stand in the timeline, in this order.
const IN_ORDER: [Kind; 4] = [Kind::Down, Kind::Raised, Kind::Registered, Kind::Resolved];

impl Story {
    /// Waits for the alert about the lost process.
    pub(super) async fn alert(&self) -> Result<Findings, Mismatch> {
        let alert = eventually(PATIENCE, async || self.alert_that(true).await).await?;
        let impact = self.hub.call(&DepsImpact { name: self.hero.clone() }).await?;
        let (direct, all) = (impact.direct.len(), impact.transitive.len());
        let needed: Vec<_> = self.fleet.iter().filter(|service| service.dependencies.contains(&self.hero)).collect();
        check(direct == needed.len() && direct > 0, format!("{} services need {}", needed.len(), self.hero), direct)?;
        Ok(Findings::new(format!("{}: {}", alert.severity, first(&alert.message, 60)))
            .line(format!("were all of it down, {all} services would suffer, {direct} of them directly"))
            .fact("alert", alert.id)
            .fact("severity", alert.severity.as_str())
            .fact("would_suffer", all))
    }

    /// The alert is over, the timeline tells the loss in its order, and the service was up all the time.
    pub(super) async fn timeline(&self) -> Result<Findings, Mismatch> {
        eventually(PATIENCE, async || self.alert_that(false).await).await?;
        let request = Timeline {
            service_name: Some(self.hero.clone()),
            kinds: IN_ORDER.iter().map(|kind| kind.as_str().to_owned()).collect(),
            ..Timeline::default()
        };
        let mut events = self.hub.call(&request).await?.events;
        events.reverse();
        let told = from_the_loss_on(&events);
        let kinds: Vec<Kind> = told.iter().map(|event| event.kind).collect();
        check(kinds == IN_ORDER, format!("{IN_ORDER:?} in the timeline, in this order"), format!("{kinds:?}"))?;
        let mut line = String::new();
        if let Some(loss) = told.first() {
            for event in &told {
                let after = (event.at - loss.at).as_seconds_f64();
                let dash = if line.is_empty() { "" } else { " · " };
                let _ = write!(line, "{dash}{} +{after:.1} s", event.kind.as_str());
            }
        }

        let request = UptimeOf { service_name: self.hero.clone(), instance_id: None, window_seconds: None };
        let uptime = self.hub.call(&request).await?;
        check(uptime.uptime_pct == Some(100.0), format!("{} was up all the time", self.hero), format!("{uptime:?}"))?;
        let components = self.hub.call(&InfraStatus {}).await?.components;
        let well = |name: &str| {
            components.iter().any(|one| one.component_name.as_str() == name && one.status == DependencyStatus::Healthy)
        };
        check(well("postgresql") && well("nats"), "healthy PostgreSQL and NATS", format!("{components:?}"))?;
        Ok(Findings::new(line)
            .line(format!("uptime of {} 100 %: its other processes were {}", self.hero, Status::Healthy))
            .line("postgresql and nats were probed: healthy")
            .fact("events", told.len())
            .fact("uptime_pct", uptime.uptime_pct))
    }

    /// The hero's newest alert, if it is active or over, as asked.
    async fn alert_that(&self, active: bool) -> Result<Alert, Mismatch> {
        let request = AlertsList { service_name: Some(self.hero.clone()), ..AlertsList::default() };
        let newest = self.hub.call(&request).await?.alerts.into_iter().next();
        let word = if active { "active" } else { "over" };
        let expected = format!("an alert about {} that is {word}", self.hero);
        match newest {
            Some(alert) if alert.resolved_at.is_none() == active => Ok(alert),
            other => Err(Mismatch::new(expected, format!("{other:?}"))),
        }
    }
}

/// The first event of each kind, from the first loss on.
fn from_the_loss_on(events: &[Event]) -> Vec<&Event> {
    let mut told: Vec<&Event> = Vec::new();
    let since = events.iter().skip_while(|event| event.kind != Kind::Down);
    for event in since {
        if told.iter().all(|other| other.kind != event.kind) {
            told.push(event);
        }
    }
    told
}

/// As much of a text as fits a line.
fn first(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
