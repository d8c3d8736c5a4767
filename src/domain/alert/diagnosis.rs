//! What facts call for.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::facts::{Component, Config, Facts, Hold, Service, Tally, Trouble};
use super::{Case, Kind};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;

/// How much of an error that others worded is repeated, in characters.
const ERROR_CHARS: usize = 300;

/// How many instances a message names; the details name more.
const IDS_IN_TEXT: usize = 3;

/// An alert that facts call for, or forbid to end.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub kind: Kind,
    pub name: ServiceName,
    /// What the facts call for at least: it must be raised.
    pub least: Option<Case>,
    /// What they allow at the most: it need not end.
    pub most: Option<Case>,
    /// Whether it is so right now. While something flaps, an alert may go on without.
    pub now: bool,
    /// What is to be said.
    pub said: Said,
    /// What is the matter, if it is with the service or component as a whole: then others feel it.
    pub whole: Option<Trouble>,
}

/// What an alert says.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub message: String,
    pub details: Map<String, Value>,
}

impl Finding {
    /// One without doubt.
    fn sure(case: Case, name: &ServiceName, message: String, details: Value) -> Self {
        let said = Said { message, details: members(details) };
        Self {
            kind: case.kind(),
            name: name.clone(),
            least: Some(case),
            most: Some(case),
            now: true,
            said,
            whole: None,
        }
    }

    /// The trouble that it tells of: what flaps as a whole is as bad as it was at its worst.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.whole.or(self.kind.trouble())
    }
}

/// What all facts call for; at most one finding of a kind about a name.
pub(super) fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(facts.services.iter().flat_map(of_service));
    findings.extend(facts.lost.iter().map(of_lost));
    findings.extend(facts.components.iter().flat_map(of_component));
    findings.extend(facts.holds.iter().map(of_hold));
    findings.extend(facts.configs.iter().flat_map(of_config));
    // A component may have the name of a service, and a service that of the fleet: whoever comes first speaks.
    findings.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    findings.dedup_by(|b, a| (a.kind, &a.name) == (b.kind, &b.name));
    findings
}

/// What is the matter with a service as a whole, which is what is with the best of its instances; and whether it is so
/// right now. What flaps is taken at its worst: who depends on it may fail at any time.
pub(super) fn trouble_of_service(service: &Service) -> Option<(Trouble, bool)> {
    let trouble = |tally: Tally| {
        if tally.down == service.in_use {
            Some(Trouble::Down)
        } else if tally.down + tally.degraded == service.in_use {
            Some(Trouble::Degraded)
        } else {
            (service.flapping == service.in_use).then_some(Trouble::Flapping)
        }
    };
    let felt = trouble(service.most)?;
    Some((felt, trouble(service.now) == Some(felt)))
}

/// What is the matter with a component, as with a service.
pub(super) fn trouble_of_component(component: &Component) -> Option<(Trouble, bool)> {
    let trouble = |status: Status| match status {
        Status::Down => Some(Trouble::Down),
        Status::Degraded => Some(Trouble::Degraded),
        Status::Healthy => component.flapping.map(|_| Trouble::Flapping),
    };
    let felt = trouble(component.most)?;
    Some((felt, trouble(component.now) == Some(felt)))
}

fn of_service(service: &Service) -> Vec<Finding> {
    let (name, in_use) = (&service.name, service.in_use);
    let down = |tally: Tally| match tally.down {
        0 => None,
        down if down == in_use => Some(Case::ServiceDown),
        _ => Some(Case::InstancesDown),
    };
    let degraded = |tally: Tally| match tally.degraded {
        0 => None,
        degraded if degraded + tally.down == in_use => Some(Case::ServiceDegraded),
        _ => Some(Case::InstancesDegraded),
    };
    let whole = trouble_of_service(service).map(|(trouble, _)| trouble);
    let mut findings = Vec::new();
    if service.most.down > 0 {
        let count = service.now.down;
        let message = match down(service.now) {
            None => flaps_but(service, "down"),
            Some(Case::ServiceDown) if in_use == 1 => format!("{name} is down: its only instance is"),
            Some(Case::ServiceDown) => format!("{name} is down: none of its {in_use} instances is up"),
            _ => some_of(service, count, &service.down_ids, ["is down", "are down"]),
        };
        let details = json!({ "down": count, "in_use": in_use, "instances": service.down_ids });
        findings.push(Finding {
            kind: Kind::ServiceDown,
            name: name.clone(),
            least: down(service.least),
            most: down(service.most),
            now: count > 0,
            said: Said { message, details: members(details) },
            whole: whole.filter(|whole| *whole == Trouble::Down),
        });
    }
    if [service.now, service.least, service.most].iter().any(|tally| tally.degraded > 0) {
        let count = service.now.degraded;
        let message = match degraded(service.now) {
            None => flaps_but(service, "degraded"),
            Some(Case::ServiceDegraded) if in_use == 1 => format!("{name} is degraded: its only instance says so"),
            Some(Case::ServiceDegraded) => format!("{name} is degraded: none of its {in_use} instances is healthy"),
            _ => some_of(service, count, &service.degraded_ids, ["is degraded", "are degraded"]),
        };
        let details = json!({ "degraded": count, "in_use": in_use, "instances": service.degraded_ids });
        findings.push(Finding {
            kind: Kind::ServiceDegraded,
            name: name.clone(),
            least: degraded(service.least),
            most: degraded(service.most),
            now: count > 0,
            said: Said { message, details: members(details) },
            whole: whole.filter(|whole| *whole == Trouble::Degraded),
        });
    }
    if let Some(changes) = service.changes {
        let now = match (down(service.now), degraded(service.now)) {
            (Some(Case::ServiceDown), _) => ", and is down right now",
            (_, Some(Case::ServiceDegraded)) => ", and is degraded right now",
            _ => "",
        };
        let message = if in_use == 1 {
            format!("{name} flaps{now}: {} changes of status in a short time", changes.count)
        } else {
            let who = some_of(service, service.flapping, &service.flapping_ids, ["flaps", "flap"]);
            let now = now.replace("and is", "and all of it is");
            format!("{who}; up to {} changes of status in a short time{now}", changes.count)
        };
        let details = json!({
            "flapping": service.flapping, "in_use": in_use, "instances": service.flapping_ids,
            "changes": changes.count, "last_change": rfc3339(changes.last),
        });
        let whole = whole.filter(|_| service.flapping == in_use);
        findings.push(Finding { whole, ..Finding::sure(Case::Flapping, name, message, details) });
    }
    findings
}

fn of_lost(name: &ServiceName) -> Finding {
    let message = format!(
        "{name} is gone: the last of its instances was removed after it had been down for long; acknowledge this if it is meant to be gone"
    );
    let details = json!({ "down": 0, "in_use": 0, "instances": [], "removed": true });
    Finding { whole: Some(Trouble::Down), ..Finding::sure(Case::ServiceDown, name, message, details) }
}

fn of_component(component: &Component) -> Vec<Finding> {
    let name = &component.name;
    let down = |status| match (status, component.critical) {
        (Status::Down, true) => Some(Case::CriticalComponentDown),
        (Status::Down, false) => Some(Case::ComponentDown),
        _ => None,
    };
    let degraded = |status| match (status, component.critical) {
        (Status::Degraded, true) => Some(Case::CriticalComponentDegraded),
        (Status::Degraded, false) => Some(Case::ComponentDegraded),
        _ => None,
    };
    let error = component.error.as_deref().map(shortened);
    let details = json!({ "component_kind": component.kind, "critical": component.critical, "error": error });
    let why = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    let whole = trouble_of_component(component).map(|(trouble, _)| trouble);
    let views = [component.now, component.least, component.most];
    let mut findings = Vec::new();
    for (kind, status, case) in [
        (Kind::ComponentDown, Status::Down, &down as &dyn Fn(Status) -> Option<Case>),
        (Kind::ComponentDegraded, Status::Degraded, &degraded),
    ] {
        if views.contains(&status) {
            let now = component.now == status;
            let message = if now {
                format!("{name} is {status}{why}")
            } else {
                format!("{name} flaps: it isn't {status} right now")
            };
            findings.push(Finding {
                kind,
                name: name.clone(),
                least: case(component.least),
                most: case(component.most),
                now,
                said: Said { message, details: members(details.clone()) },
                whole: whole.filter(|whole| Some(*whole) == kind.trouble()),
            });
        }
    }
    if let Some(changes) = component.flapping {
        let now = match component.now {
            Status::Healthy => String::new(),
            status => format!(", and is {status} right now"),
        };
        let message = format!("{name} flaps{now}: {} changes of status in a short time", changes.count);
        let details = json!({
            "component_kind": component.kind, "critical": component.critical,
            "changes": changes.count, "last_change": rfc3339(changes.last),
        });
        findings.push(Finding { whole, ..Finding::sure(Case::Flapping, name, message, details) });
    }
    findings
}

fn of_hold(hold: &Hold) -> Finding {
    let (name, whose) = match &hold.service {
        Some(service) => (service.clone(), format!("instances of {service}")),
        None => (ServiceName::fleet(), "instances of the fleet".to_owned()),
    };
    let until = rfc3339(hold.until);
    let message = format!(
        "{} {whose} are silent at the same time: they are marked down only if they stay silent until {until}; look at the network first",
        hold.instances
    );
    Finding::sure(Case::MassExpiry, &name, message, json!({ "held": hold.instances, "until": until }))
}

fn of_config(config: &Config) -> Vec<Finding> {
    let (name, revision) = (&config.name, config.revision);
    let mut findings = Vec::new();
    if config.rejected > 0 {
        let verbs = [format!("refuses config revision {revision}"), format!("refuse config revision {revision}")];
        let message = instances_of(name, config.rejected, &config.rejected_ids, verbs.each_ref().map(String::as_str));
        // What it said stands apart: it may quote the config, and messages are logged.
        let error = config.error.as_deref().map(shortened);
        let details = json!({
            "rejected": config.rejected, "instances": config.rejected_ids, "revision": revision, "error": error,
        });
        findings.push(Finding::sure(Case::ConfigRejected, name, message, details));
    }
    if config.behind > 0 {
        let verbs = ["runs an older config than it should", "run an older config than they should"];
        // It takes one that had time enough to raise the alert. It lasts until none is behind, and names those that are:
        // after yet another config all have time again.
        let (count, ids, since) = match config.late {
            0 => (config.behind, &config.behind_ids, "has been due for less than three heartbeats"),
            late => (late, &config.late_ids, "is due for three heartbeats"),
        };
        let message = format!("{}; revision {revision} {since}", instances_of(name, count, ids, verbs));
        let details = json!({ "behind": count, "instances": ids, "revision": revision });
        findings.push(Finding {
            kind: Kind::ConfigBehind,
            name: name.clone(),
            least: (config.late > 0).then_some(Case::ConfigBehind),
            most: Some(Case::ConfigBehind),
            now: true,
            said: Said { message, details: members(details) },
            whole: None,
        });
    }
    findings
}

/// `2 of 3 instances of x are down: a, b`
fn some_of(service: &Service, count: i64, ids: &[InstanceId], verbs: [&str; 2]) -> String {
    let verb = if count == 1 { verbs[0] } else { verbs[1] };
    let instances = if service.in_use == 1 { "instance" } else { "instances" };
    format!("{count} of {} {instances} of {} {verb}: {}", service.in_use, service.name, listed(count, ids))
}

/// `x flaps: none of its 2 instances is down right now`
fn flaps_but(service: &Service, what: &str) -> String {
    let who = match service.in_use {
        1 => "its only instance isn't".to_owned(),
        in_use => format!("none of its {in_use} instances is"),
    };
    format!("{} flaps: {who} {what} right now", service.name)
}

/// `2 instances of x refuse: a, b`
fn instances_of(name: &ServiceName, count: i64, ids: &[InstanceId], verbs: [&str; 2]) -> String {
    let (instances, verb) = if count == 1 { ("instance", verbs[0]) } else { ("instances", verbs[1]) };
    format!("{count} {instances} of {name} {verb}: {}", listed(count, ids))
}

fn listed(count: i64, ids: &[InstanceId]) -> String {
    let named: Vec<&str> = ids.iter().take(IDS_IN_TEXT).map(InstanceId::as_str).collect();
    match count - named.len() as i64 {
        1.. => format!("{} and {} more", named.join(", "), count - named.len() as i64),
        _ => named.join(", "),
    }
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

fn shortened(text: &str) -> String {
    text.chars().take(ERROR_CHARS).collect()
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
