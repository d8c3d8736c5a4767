//! What is known of the fleet, and what of it is looked at. No clock, no terminal, no NATS.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use ratatui::crossterm::event::KeyEvent;

use crate::domain::config::Position;
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::wire::alert::Alert;
use crate::wire::config::ConvergenceStatus;
use crate::wire::event::Event;
use crate::wire::infra::Component;
use crate::wire::metrics::Series;
use crate::wire::registry::Instance;

/// Events that are kept.
const TIMELINE: usize = 500;

/// Something that changes what is known, or shown.
#[derive(Debug)]
pub enum Update {
    /// An instance's record; `None`: it is gone.
    Instance(ServiceName, InstanceId, Option<Box<Instance>>),
    /// A service's config: where it stands, and its active version.
    Config(ServiceName, Position, Option<i64>),
    /// A component's record; `None`: it is gone.
    Component(ServiceName, Option<Box<Component>>),
    /// All alerts that are not over.
    Alerts(Vec<Alert>),
    /// Events, oldest first.
    Events(Vec<Event>),
    /// What only the hub can tell of one service.
    Detail(Box<Detail>),
    /// Whether NATS and a hub answer.
    Outage(Option<Outage>),
    /// Whether a feed is live, and why not.
    Feed(&'static str, Result<(), String>),
    /// What a person must know.
    Told(String),
    /// A key.
    Key(KeyEvent),
    /// Another size of the terminal.
    Resized,
}

/// Who doesn't answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// There is no connection.
    Nats,
    /// There is one, but no hub.
    Hub,
}

/// A time in which nothing that is shown is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Who doesn't answer.
    pub who: Absent,
    /// When they last did.
    pub since: Instant,
}

/// What only the hub can tell of one service.
#[derive(Debug)]
pub struct Detail {
    /// The service.
    pub service_name: ServiceName,
    /// Its instances, with the times of their last heartbeats.
    pub instances: Vec<Instance>,
    /// What was measured in the last minutes.
    pub series: Vec<Series>,
    /// Who runs what; `None` when it has no config.
    pub config: Option<ConvergenceStatus>,
}

/// A service as one line tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub service_name: ServiceName,
    /// As its best instance is.
    pub status: Status,
    /// Instances that are healthy or degraded.
    pub up: usize,
    /// Instances that an operator took out of use.
    pub draining: usize,
    /// All instances.
    pub all: usize,
    /// Software versions, the newest instance's first.
    pub versions: Vec<String>,
    /// Active version of its config; `None` when there is none.
    pub config: Option<i64>,
    /// Live instances that say that they run it.
    pub current: usize,
    /// Live instances that say why they don't.
    pub refusing: usize,
}

/// What the keys go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// The services, or one service's instances.
    Fleet,
    /// Alerts.
    Alerts,
    /// The timeline.
    Timeline,
}

/// A question that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its text.
    pub text: String,
    /// What a yes does.
    pub command: super::keys::Command,
}

/// What is known and what is looked at.
#[derive(Debug)]
pub struct Model {
    instances: BTreeMap<ServiceName, BTreeMap<InstanceId, Instance>>,
    configs: BTreeMap<ServiceName, (Position, Option<i64>)>,
    /// Components, by name.
    pub components: BTreeMap<ServiceName, Component>,
    /// Alerts that are not over, newest first.
    pub alerts: Vec<Alert>,
    /// Events, newest first.
    pub timeline: VecDeque<Event>,
    /// What the hub told of the service that is looked into.
    pub detail: Option<Detail>,
    /// The service that is looked into.
    pub inside: Option<ServiceName>,
    /// Only services whose name contains this are shown.
    pub filter: String,
    /// Whether keys go to the filter.
    pub filtering: bool,
    /// What the other keys go to.
    pub pane: Pane,
    /// Which line is selected, per pane.
    pub selected: [usize; 3],
    /// An open question.
    pub question: Option<Question>,
    /// The last thing to tell.
    pub told: Option<String>,
    /// Whether the keys are explained.
    pub help: bool,
    /// Set while nothing is live.
    pub outage: Option<Outage>,
    /// Feeds that are not live, and why.
    pub broken: BTreeMap<&'static str, String>,
}

impl Model {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(filter: String) -> Self {
        Self {
            instances: BTreeMap::new(),
            configs: BTreeMap::new(),
            components: BTreeMap::new(),
            alerts: Vec::new(),
            timeline: VecDeque::new(),
            detail: None,
            inside: None,
            filter,
            filtering: false,
            pane: Pane::Fleet,
            selected: [0; 3],
            question: None,
            told: None,
            help: false,
            outage: None,
            broken: BTreeMap::new(),
        }
    }

    /// Takes what a feed says.
    pub fn take(&mut self, update: Update) {
        match update {
            Update::Instance(service, instance, Some(record)) => {
                self.instances.entry(service).or_default().insert(instance, *record);
            }
            Update::Instance(service, instance, None) => {
                if let Some(others) = self.instances.get_mut(&service) {
                    others.remove(&instance);
                    if others.is_empty() {
                        self.instances.remove(&service);
                    }
                }
            }
            Update::Config(service, position, version) => {
                let kept = self.configs.entry(service).or_insert((position, version));
                if position >= kept.0 {
                    *kept = (position, version);
                }
            }
            Update::Component(name, Some(component)) => {
                self.components.insert(name, *component);
            }
            Update::Component(name, None) => {
                self.components.remove(&name);
            }
            Update::Alerts(alerts) => self.alerts = alerts,
            Update::Events(events) => {
                for event in events {
                    if !self.timeline.iter().any(|known| known.id == event.id) {
                        self.timeline.push_front(event);
                    }
                }
                self.timeline.truncate(TIMELINE);
            }
            Update::Detail(detail) => {
                if self.inside.as_ref() == Some(&detail.service_name) {
                    self.detail = Some(*detail);
                }
            }
            Update::Outage(outage) => self.outage = outage,
            Update::Feed(name, Ok(())) => {
                self.broken.remove(name);
            }
            Update::Feed(name, Err(why)) => {
                self.broken.insert(name, why);
            }
            Update::Told(text) => self.told = Some(text),
            Update::Key(_) | Update::Resized => {}
        }
    }

    /// Services that pass the filter, the worst first.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let wanted = |name: &&ServiceName| self.filter.is_empty() || name.as_str().contains(self.filter.as_str());
        let mut rows: Vec<Row> = self.instances.keys().filter(wanted).filter_map(|service| self.row(service)).collect();
        rows.sort_by(|a, b| {
            (b.status, b.all - b.up).cmp(&(a.status, a.all - a.up)).then(a.service_name.cmp(&b.service_name))
        });
        rows
    }

    fn row(&self, service: &ServiceName) -> Option<Row> {
        let instances = self.instances.get(service)?;
        let live = || instances.values().filter(|instance| instance.status != Status::Down);
        let head = self.configs.get(service).filter(|(_, version)| version.is_some());
        let runs = |instance: &&Instance| {
            instance.config_error.is_none() && instance.config_revision == head.map(|(position, _)| position.revision)
        };
        let mut newest: Vec<&Instance> = instances.values().collect();
        newest.sort_by_key(|instance| std::cmp::Reverse(instance.registered_at));
        let mut versions: Vec<String> = newest.iter().filter_map(|instance| instance.version.clone()).collect();
        versions.dedup();
        Some(Row {
            service_name: service.clone(),
            status: Status::best(instances.values().map(|instance| instance.status))?,
            up: live().count(),
            draining: instances.values().filter(|instance| instance.draining).count(),
            all: instances.len(),
            versions,
            config: head.and_then(|(_, version)| *version),
            current: if head.is_some() { live().filter(runs).count() } else { 0 },
            refusing: live().filter(|instance| instance.config_error.is_some()).count(),
        })
    }

    /// Instances of the service that is looked into: with the times of their heartbeats as soon as the hub told them.
    #[must_use]
    pub fn instances_inside(&self) -> Vec<Instance> {
        let Some(service) = &self.inside else { return Vec::new() };
        let told = self.detail.as_ref().filter(|detail| detail.service_name == *service);
        let heard = |id: &InstanceId| {
            let same = told?.instances.iter().find(|instance| instance.instance_id == *id)?;
            same.last_heartbeat
        };
        let known = self.instances.get(service).into_iter().flat_map(BTreeMap::values);
        known.map(|instance| Instance { last_heartbeat: heard(&instance.instance_id), ..instance.clone() }).collect()
    }

    /// How many services are how well, and how many instances there are: healthy, degraded, down, all.
    #[must_use]
    pub fn counts(&self) -> ([usize; 3], usize) {
        let mut counts = [0; 3];
        for instances in self.instances.values() {
            if let Some(status) = Status::best(instances.values().map(|instance| instance.status)) {
                counts[status as usize] += 1;
            }
        }
        (counts, self.instances.values().map(BTreeMap::len).sum())
    }

    /// How many lines the pane has that the keys go to.
    #[must_use]
    pub fn lines(&self) -> usize {
        match self.pane {
            Pane::Fleet if self.inside.is_some() => self.instances_inside().len(),
            Pane::Fleet => self.rows().len(),
            Pane::Alerts => self.alerts.len(),
            Pane::Timeline => self.timeline.len(),
        }
    }

    /// The selected line of the pane that the keys go to.
    pub fn selection(&mut self) -> &mut usize {
        &mut self.selected[self.pane as usize]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::Endpoint;

    fn instance(service: &str, id: &str, status: Status, revision: Option<i64>) -> Update {
        let page: serde_json::Value = serde_json::from_str(Endpoint::ServicesDrain.route().reply).unwrap();
        let mut record: Instance = serde_json::from_value(page).unwrap();
        record.service_name = service.parse().unwrap();
        record.instance_id = id.parse().unwrap();
        (record.status, record.config_revision, record.draining) = (status, revision, false);
        Update::Instance(record.service_name.clone(), record.instance_id.clone(), Some(Box::new(record)))
    }

    #[test]
    fn the_worst_come_first_and_the_filter_holds() {
        let mut model = Model::new(String::new());
        model.take(instance("well", "1", Status::Healthy, None));
        model.take(instance("half", "1", Status::Healthy, None));
        model.take(instance("half", "2", Status::Down, None));
        model.take(instance("dead", "1", Status::Down, None));
        let names = |model: &Model| model.rows().iter().map(|row| row.service_name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&model), ["dead", "half", "well"]);
        assert_eq!(model.counts(), ([2, 0, 1], 4));
        model.filter = "l".into();
        assert_eq!(names(&model), ["half", "well"]);
        model.take(Update::Instance("half".parse().unwrap(), "1".parse().unwrap(), None));
        model.take(Update::Instance("half".parse().unwrap(), "2".parse().unwrap(), None));
        assert_eq!(names(&model), ["well"]);
    }

    #[test]
    fn a_config_never_goes_back_and_says_who_runs_it() {
        let mut model = Model::new(String::new());
        let at = |epoch, revision| Position { epoch, revision };
        model.take(instance("a", "1", Status::Healthy, Some(2)));
        model.take(instance("a", "2", Status::Healthy, Some(1)));
        model.take(Update::Config("a".parse().unwrap(), at(5, 2), Some(2)));
        model.take(Update::Config("a".parse().unwrap(), at(5, 1), Some(1)));
        let row = model.rows().remove(0);
        assert_eq!((row.config, row.current, row.up), (Some(2), 1, 2));
        model.take(Update::Config("a".parse().unwrap(), at(5, 3), None));
        assert_eq!(model.rows().remove(0).config, None, "deleted");
    }
}
