//! The rules of alerts, tried on fleets that change at random.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::facts::{Active, Changes, Component, Config, Facts, Hold, Service, Tally};
use super::plan::{Bounds, Plan, plan};
use super::{Kind, Severity};
use crate::domain::dependency::Graph;
use crate::domain::name::ServiceName;
use crate::domain::status::Status;

const UNBOUNDED: Bounds = Bounds { begin: usize::MAX, end: usize::MAX };

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

/// A service that doesn't flap.
fn service(text: &str, in_use: i64, down: i64, degraded: i64) -> Service {
    let tally = Tally { down, degraded };
    let ids =
        |from: i64, count: i64| (from..from + count).map(|number| format!("i{number}").parse().unwrap()).collect();
    Service {
        name: name(text),
        in_use,
        now: tally,
        least: tally,
        most: tally,
        flapping: 0,
        changes: None,
        down_ids: ids(0, down),
        degraded_ids: ids(down, degraded),
        flapping_ids: Vec::new(),
    }
}

/// So many, the last one at this second.
fn changes(count: i64, second: i64) -> Option<Changes> {
    Some(Changes { count, last: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second) })
}

fn component(text: &str, status: Status, critical: bool) -> Component {
    Component {
        name: name(text),
        kind: "tcp".into(),
        critical,
        now: status,
        least: status,
        most: status,
        flapping: None,
        error: Some("connection refused".into()),
    }
}

fn graph(edges: &[(&str, &str)]) -> Graph {
    Graph::new([], edges.iter().map(|(from, to)| (name(from), name(to))))
}

/// An alert that ended a moment ago.
fn ended(text: &str, kind: Kind) -> Active {
    Active {
        id: 0,
        severity: Severity::Critical,
        kind,
        name: name(text),
        instance_id: None,
        message: String::new(),
        details: Map::new(),
        cause: None,
    }
}

/// The table of alerts, as the store keeps it.
#[derive(Clone, Default)]
struct Table {
    active: Vec<Active>,
    begun: i64,
    /// What was told: `+severity source/kind name` and `-…`.
    told: Vec<String>,
}

impl Table {
    fn told(&mut self, sign: char, active: &Active) {
        let (source, kind) = (active.kind.source(), active.kind.as_str());
        self.told.push(format!("{sign}{} {source}/{kind} {}", active.severity, active.name));
    }

    fn apply(&mut self, plan: &Plan) {
        for end in &plan.end {
            let at = self.active.iter().position(|active| active.id == end.id).expect("it is up");
            let over = self.active.remove(at);
            self.told('-', &over);
        }
        for begin in &plan.begin {
            let same = |active: &&Active| (active.kind, &active.name) == (begin.kind, &begin.name);
            assert_eq!(self.active.iter().find(same), None, "one at a time");
            self.begun += 1;
            let active = Active {
                id: self.begun,
                severity: begin.severity,
                kind: begin.kind,
                name: begin.name.clone(),
                instance_id: None,
                message: begin.message.clone(),
                details: begin.details.clone(),
                cause: begin.cause.clone(),
            };
            self.told('+', &active);
            self.active.push(active);
        }
        for change in &plan.change {
            let active = self.active.iter_mut().find(|active| active.id == change.id).expect("it is up");
            (active.message, active.details, active.cause) =
                (change.message.clone(), change.details.clone(), change.cause.clone());
        }
    }

    /// One pass; what was told in it.
    fn pass(&mut self, facts: &Facts, graph: &Graph, bounds: Bounds) -> Vec<String> {
        let facts = Facts { active: self.active.clone(), ..facts.clone() };
        let plan = plan(&facts, graph, bounds);
        assert!(plan.begin.len() <= bounds.begin);
        self.apply(&plan);
        std::mem::take(&mut self.told)
    }

    fn subjects(&self) -> BTreeSet<(Kind, ServiceName)> {
        self.active.iter().map(|active| (active.kind, active.name.clone())).collect()
    }

    fn find(&self, text: &str) -> &Active {
        self.active.iter().find(|active| active.name.as_str() == text).unwrap()
    }
}

#[test]
fn one_alert_of_a_service_names_its_instances_and_rises_and_falls_with_them() {
    let (mut table, graph) = (Table::default(), graph(&[]));
    let mut pass = |down: i64, degraded: i64| {
        let services = if down + degraded == 0 { vec![] } else { vec![service("a", 3, down, degraded)] };
        let told = table.pass(&Facts { services, ..Facts::default() }, &graph, UNBOUNDED);
        (told, table.active.first().map(|active| (active.message.clone(), active.details.clone())))
    };
    let (told, said) = pass(1, 0);
    assert_eq!(told, ["+warning service/down a"]);
    assert_eq!(said.unwrap().0, "1 of 3 instances of a is down: i0");
    let (told, said) = pass(2, 0);
    assert!(told.is_empty(), "it says more, and isn't told again: {told:?}");
    let (message, details) = said.unwrap();
    assert_eq!(message, "2 of 3 instances of a are down: i0, i1");
    assert_eq!(Value::Object(details), json!({"down": 2, "in_use": 3, "instances": ["i0", "i1"]}));
    let (told, said) = pass(3, 0);
    assert_eq!(told, ["-warning service/down a", "+critical service/down a"]);
    let (message, details) = said.unwrap();
    assert_eq!((message.as_str(), &details["replaces"]), ("a is down: none of its 3 instances is up", &json!(1)));
    assert!(pass(3, 0).0.is_empty());
    assert_eq!(pass(1, 1).0, ["-critical service/down a", "+warning service/down a", "+info service/degraded a"]);
    assert_eq!(pass(1, 2).0, ["-info service/degraded a", "+warning service/degraded a"]);
    assert_eq!(pass(0, 0).0, ["-warning service/down a", "-warning service/degraded a"]);
    assert!(pass(0, 0).0.is_empty());
}

#[test]
fn a_failure_is_one_page_whatever_depends_on_it() {
    let graph = graph(&[("ticks", "kafka"), ("features", "ticks"), ("engine", "features"), ("engine", "pg")]);
    let mut table = Table::default();
    let kafka = |status| component("kafka", status, false);
    let mut facts = Facts { components: vec![kafka(Status::Down)], ..Facts::default() };
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["+warning infra/down kafka"]);
    assert_eq!(table.find("kafka").details["affects"], json!(["ticks", "features", "engine"]), "the nearest first");
    facts.services = vec![service("ticks", 2, 2, 0), service("engine", 3, 0, 1)];
    let told = table.pass(&facts, &graph, UNBOUNDED);
    assert_eq!(
        told,
        [
            "-warning infra/down kafka",
            "+critical infra/down kafka",
            "+info service/degraded engine",
            "+info service/down ticks"
        ],
        "the cause is as severe as what it explains"
    );
    assert_eq!(table.find("ticks").cause, Some(name("kafka")));
    assert_eq!(table.find("engine").cause, None, "what lies between them works");
    assert_eq!(table.find("kafka").details["explains"], json!(["ticks"]));
    assert!(table.find("ticks").message.ends_with("(probably because of kafka)"));
    assert_eq!(table.find("ticks").details.get("affects"), None, "its cause tells that");
    facts.services = vec![service("ticks", 2, 2, 0), service("features", 1, 1, 0), service("engine", 3, 3, 0)];
    let told = table.pass(&facts, &graph, UNBOUNDED);
    assert_eq!(told, ["-info service/degraded engine", "+info service/down engine", "+info service/down features"]);
    // The cause is over; who needs a moment to follow is given it, and so is who needs those.
    facts.components.clear();
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["-critical infra/down kafka"]);
    facts.recovered = vec![ended("kafka", Kind::ComponentDown)];
    facts.services.remove(0);
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["-info service/down ticks"]);
    facts.recovered.push(ended("ticks", Kind::ServiceDown));
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), [""; 0]);
    facts.recovered.remove(0);
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), [""; 0]);
    facts.recovered.clear();
    let told = table.pass(&facts, &graph, UNBOUNDED);
    assert_eq!(
        told,
        ["-info service/down features", "+critical service/down features"],
        "who doesn't follow has a trouble of its own, and explains what depends on it"
    );
    assert_eq!(table.find("engine").cause, Some(name("features")));
}

/// A service whose first instances are back is no cause any more; who depends on it has its moment all the same.
#[test]
fn who_follows_what_is_partly_back_is_given_a_moment() {
    let (mut table, graph) = (Table::default(), graph(&[("b", "a")]));
    let mut facts = Facts { services: vec![service("a", 3, 3, 0), service("b", 1, 1, 0)], ..Facts::default() };
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["+critical service/down a", "+info service/down b"]);
    let before = table.find("a").clone();
    facts.services[0] = service("a", 3, 2, 0);
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["-critical service/down a", "+warning service/down a"]);
    facts.recovered = vec![before];
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), [""; 0]);
    facts.recovered = vec![table.find("a").clone()];
    let told = table.pass(&facts, &graph, UNBOUNDED);
    assert_eq!(told, ["-info service/down b", "+critical service/down b"], "two of three explain nothing");
}

#[test]
fn what_was_told_before_its_cause_was_known_is_not_told_again() {
    let (mut table, graph) = (Table::default(), graph(&[("a", "kafka"), ("b", "a"), ("b", "kafka")]));
    let mut facts = Facts { services: vec![service("b", 1, 1, 0)], ..Facts::default() };
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["+critical service/down b"]);
    facts.services.push(service("a", 2, 2, 0));
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["+critical service/down a"]);
    assert_eq!(table.find("b").cause, Some(name("a")));
    facts.components = vec![component("kafka", Status::Down, true)];
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["+critical infra/down kafka"]);
    assert_eq!((&table.find("a").cause, &table.find("b").cause), (&Some(name("kafka")), &Some(name("kafka"))));
    facts.services[1] = service("a", 2, 1, 0);
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["-critical service/down a", "+warning service/down a"]);
    facts.services[1] = service("a", 2, 2, 0);
    assert!(table.pass(&facts, &graph, UNBOUNDED).is_empty(), "explained, it rises no more");
}

#[test]
fn what_is_down_is_not_explained_by_what_is_slow() {
    let (mut table, graph) = (Table::default(), graph(&[("a", "pg"), ("b", "pg")]));
    let components = vec![component("pg", Status::Degraded, true)];
    let services = vec![service("a", 1, 1, 0), service("b", 1, 0, 1)];
    let told = table.pass(&Facts { components, services, ..Facts::default() }, &graph, UNBOUNDED);
    assert_eq!(told, ["+critical service/down a", "+warning infra/degraded pg", "+info service/degraded b"]);
}

/// What it explained while it was down isn't its doing any more; it just has its moment to follow.
#[test]
fn what_was_down_and_is_slow_is_only_slow() {
    let (mut table, graph) = (Table::default(), graph(&[("a", "pg"), ("b", "pg")]));
    let mut facts = Facts { components: vec![component("pg", Status::Down, true)], ..Facts::default() };
    facts.services = vec![service("a", 1, 1, 0), service("b", 2, 2, 0)];
    let told = table.pass(&facts, &graph, UNBOUNDED);
    assert_eq!(told, ["+critical infra/down pg", "+info service/down a", "+info service/down b"]);
    facts.components = vec![component("pg", Status::Degraded, true)];
    facts.services[1] = service("b", 2, 0, 2);
    let told = table.pass(&facts, &graph, UNBOUNDED);
    let expected =
        ["-critical infra/down pg", "-info service/down b", "+warning infra/degraded pg", "+info service/degraded b"];
    assert_eq!(told, expected);
    facts.recovered = vec![ended("pg", Kind::ComponentDown)];
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), [""; 0]);
    facts.recovered.clear();
    let told = table.pass(&facts, &graph, UNBOUNDED);
    assert_eq!(told, ["-info service/down a", "+critical service/down a"]);
}

#[test]
fn who_need_each_other_are_one_page_too() {
    let (mut table, graph) = (Table::default(), graph(&[("a", "b"), ("b", "a"), ("c", "a"), ("d", "d")]));
    let services = ["b", "a", "c", "d"].map(|name| service(name, 1, 1, 0)).to_vec();
    let told = table.pass(&Facts { services, ..Facts::default() }, &graph, UNBOUNDED);
    let expected =
        ["+critical service/down a", "+critical service/down d", "+info service/down b", "+info service/down c"];
    assert_eq!(told, expected);
}

#[test]
fn what_flaps_is_told_once() {
    let (mut table, graph) = (Table::default(), graph(&[]));
    let flapping = |down: bool, settled: bool| Service {
        least: Tally { down: i64::from(down && settled), degraded: 0 },
        most: Tally { down: 1, degraded: 0 },
        flapping: 1,
        changes: changes(3, 0),
        flapping_ids: vec!["i0".parse().unwrap()],
        ..service("a", 1, i64::from(down), 0)
    };
    let mut pass = |services: Vec<Service>| table.pass(&Facts { services, ..Facts::default() }, &graph, UNBOUNDED);
    assert_eq!(pass(vec![service("a", 1, 1, 0)]), ["+critical service/down a"]);
    assert_eq!(pass(vec![]), ["-critical service/down a"]);
    assert_eq!(pass(vec![flapping(true, false)]), ["+warning liveness/flapping a"]);
    for round in 0..10 {
        assert!(pass(vec![flapping(round % 2 == 0, false)]).is_empty());
    }
    assert_eq!(pass(vec![flapping(true, true)]), ["+critical service/down a"], "it stayed down for long");
    for round in 0..10 {
        assert!(pass(vec![flapping(round % 2 == 0, round % 3 == 0)]).is_empty());
    }
    assert_eq!(pass(vec![]), ["-warning liveness/flapping a", "-critical service/down a"]);
}

/// One whose only instance flaps, and was down within the window; the last change was at that second.
fn flapping(text: &str, down: bool, second: i64) -> Service {
    Service {
        least: Tally::default(),
        most: Tally { down: 1, degraded: 0 },
        flapping: 1,
        changes: changes(3, second),
        flapping_ids: vec!["i0".parse().unwrap()],
        ..service(text, 1, i64::from(down), 0)
    }
}

/// Who depends on something that flaps fails whenever it will: that is one page, too.
#[test]
fn what_flaps_explains_what_it_is_at_its_worst() {
    let (mut table, graph) = (Table::default(), graph(&[("b", "a"), ("c", "b")]));
    let mut pass = |services: Vec<Service>| table.pass(&Facts { services, ..Facts::default() }, &graph, UNBOUNDED);
    assert_eq!(pass(vec![flapping("a", true, 0)]), ["+warning liveness/flapping a"]);
    let raised = ["-warning liveness/flapping a", "+critical liveness/flapping a", "+info service/down b"];
    assert_eq!(pass(vec![flapping("a", true, 0), service("b", 1, 1, 0)]), raised);
    assert_eq!(pass(vec![flapping("a", false, 1), service("b", 1, 1, 0)]), [""; 0], "up for a moment, it is no better");
    let told = pass(vec![flapping("a", false, 1), service("b", 1, 1, 0), service("c", 1, 1, 0)]);
    assert_eq!(told, ["+info service/down c"]);
    let slow = Service { most: Tally { down: 0, degraded: 1 }, ..flapping("a", false, 1) };
    let told = pass(vec![slow, service("b", 1, 1, 0), service("c", 1, 1, 0)]);
    assert_eq!(told, ["-info service/down b", "+critical service/down b"], "it has been no worse than slow for long");
    assert_eq!(table.find("a").details["explains"], json!(["b", "c"]));
}

#[test]
fn what_was_flapping_because_of_something_else_is_no_news_when_that_is_over() {
    let (mut table, graph) = (Table::default(), graph(&[("b", "a")]));
    let mut facts = Facts { services: vec![service("a", 1, 1, 0)], ..Facts::default() };
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["+critical service/down a"]);
    facts.recovered = vec![table.find("a").clone()];
    facts.services = vec![flapping("b", false, 10)];
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["-critical service/down a", "+info liveness/flapping b"]);
    facts.recovered.clear();
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), [""; 0], "nothing changed");
    assert_eq!(table.find("b").cause, Some(name("a")));
    facts.services = vec![flapping("b", true, 70)];
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["-info liveness/flapping b", "+warning liveness/flapping b"]);
    assert_eq!(table.find("b").cause, None);
}

#[test]
fn an_alert_that_outlasts_what_it_tells_of_says_so() {
    let (mut table, graph) = (Table::default(), graph(&[]));
    let mut said = |service: Service| {
        table.pass(&Facts { services: vec![service], ..Facts::default() }, &graph, UNBOUNDED);
        let alert = table.active.iter().find(|active| active.kind == Kind::ServiceDown).unwrap();
        (alert.severity, alert.message.clone(), alert.details["down"].clone())
    };
    let down = (Severity::Critical, "a is down: its only instance is".to_owned(), json!(1));
    assert_eq!(said(service("a", 1, 1, 0)), down);
    let up = (Severity::Critical, "a flaps: its only instance isn't down right now".to_owned(), json!(0));
    assert_eq!(said(flapping("a", false, 0)), up);
    assert_eq!(said(flapping("a", true, 1)), down);

    let mut table = Table::default();
    let mut pass = |component: Component| {
        table.pass(&Facts { components: vec![component], ..Facts::default() }, &graph, UNBOUNDED);
        table.find("pg").message.clone()
    };
    assert_eq!(pass(component("pg", Status::Down, true)), "pg is down: connection refused");
    let up = Component { most: Status::Down, flapping: changes(3, 0), ..component("pg", Status::Healthy, true) };
    assert_eq!(pass(up), "pg flaps: it isn't down right now");
}

#[test]
fn what_is_gone_without_a_goodbye_stays_until_somebody_saw_it() {
    let (mut table, graph) = (Table::default(), graph(&[("b", "a")]));
    table.pass(&Facts { services: vec![service("a", 1, 1, 0)], ..Facts::default() }, &graph, UNBOUNDED);
    let gone = Facts { lost: vec![name("a")], services: vec![service("b", 1, 1, 0)], ..Facts::default() };
    assert_eq!(table.pass(&gone, &graph, UNBOUNDED), ["+info service/down b"]);
    assert_eq!(table.find("a").details["removed"], true);
    assert_eq!(table.find("b").cause, Some(name("a")));
    assert_eq!(table.pass(&Facts::default(), &graph, UNBOUNDED), ["-critical service/down a", "-info service/down b"]);
}

#[test]
fn configs_and_holds_have_alerts_and_forced_ones_are_left_alone() {
    let (mut table, graph) = (Table::default(), graph(&[]));
    let config = Config {
        name: name("a"),
        revision: 7,
        rejected: 4,
        rejected_ids: ["p", "q", "r", "s"].map(|id| id.parse().unwrap()).to_vec(),
        error: Some("x".repeat(5_000)),
        behind: 2,
        behind_ids: ["t", "u"].map(|id| id.parse().unwrap()).to_vec(),
        late: 0,
        late_ids: vec![],
    };
    let hold =
        |service: Option<&str>| Hold { service: service.map(name), instances: 12, until: OffsetDateTime::UNIX_EPOCH };
    let holds = vec![hold(None), hold(Some("a")), hold(Some("fleet"))];
    let mut facts = Facts { configs: vec![config], holds, ..Facts::default() };
    let forced = Active {
        id: 1_000,
        severity: Severity::Warning,
        kind: Kind::ConfigForced,
        name: name("a"),
        instance_id: None,
        message: String::new(),
        details: Map::new(),
        cause: None,
    };
    let of_one =
        Active { id: 1_001, kind: Kind::ConfigBehind, instance_id: Some("i".parse().unwrap()), ..forced.clone() };
    table.active = vec![forced, of_one];
    let told = table.pass(&facts, &graph, UNBOUNDED);
    let expected = [
        "-warning config/behind a",
        "+critical liveness/mass_expiry a",
        "+critical liveness/mass_expiry fleet",
        "+warning config/rejected a",
    ];
    assert_eq!(told, expected);
    let rejected = table.active.last().unwrap();
    assert_eq!(rejected.message, "4 instances of a refuse config revision 7: p, q, r and 1 more");
    assert_eq!(rejected.details["error"], "x".repeat(300));
    facts.configs[0].late = 1;
    facts.configs[0].late_ids = vec!["t".parse().unwrap()];
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["+warning config/behind a"]);
    // A newer revision gives all of them time again; the alert stays while any runs an old one.
    (facts.configs[0].late, facts.configs[0].rejected) = (0, 0);
    (facts.configs[0].revision, facts.configs[0].behind) = (8, 1);
    facts.configs[0].behind_ids.truncate(1);
    let told = table.pass(&facts, &graph, UNBOUNDED);
    assert_eq!(told, ["-warning config/rejected a"]);
    let behind = table.active.iter().find(|alert| alert.kind == Kind::ConfigBehind && alert.id < 1_000).unwrap();
    assert_eq!((&behind.details["instances"], &behind.details["revision"]), (&json!(["t"]), &json!(8)));
    assert!(
        behind.message.starts_with("1 instance of a runs an older config than it should: t;"),
        "{}",
        behind.message
    );
    facts.configs.clear();
    assert_eq!(table.pass(&facts, &graph, UNBOUNDED), ["-warning config/behind a"]);
}

const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];
const COMPONENTS: [&str; 3] = ["a", "x", "y"];

/// How it is now, whether it flaps, whether it has been so for long, and how it was at its worst.
type Instance = (Status, bool, bool, Status);

fn any_instance() -> impl Strategy<Value = Instance> {
    let status = || prop_oneof![Just(Status::Healthy), Just(Status::Degraded), Just(Status::Down)];
    (status(), any::<bool>(), any::<bool>(), status())
}

fn any_service(text: &'static str) -> impl Strategy<Value = Option<Service>> {
    proptest::collection::vec(any_instance(), 1..4).prop_map(move |instances| {
        let tally = |seen: &dyn Fn(&Instance) -> Status| {
            let count = |status| instances.iter().filter(|instance| seen(instance) == status).count() as i64;
            Tally { down: count(Status::Down), degraded: count(Status::Degraded) }
        };
        let now = tally(&|(now, ..)| *now);
        // As the facts are made: with good will one that flaps is well until it has settled.
        let least = tally(&|(now, flaps, settled, _)| if *flaps && !settled { Status::Healthy } else { *now });
        let most = tally(&|(now, flaps, _, worst)| if *flaps { (*now).max(*worst) } else { *now });
        let flapping = instances.iter().filter(|(_, flaps, ..)| *flaps).count() as i64;
        let changes = if flapping > 0 { changes(3, 0) } else { None };
        let troubled = now != Tally::default() || flapping > 0;
        let service = service(text, instances.len() as i64, now.down, now.degraded);
        troubled.then_some(Service { least, most, flapping, changes, ..service })
    })
}

fn any_component(text: &'static str) -> impl Strategy<Value = Option<Component>> {
    (0usize..4, any::<bool>()).prop_map(move |(status, critical)| {
        let status = [None, None, Some(Status::Degraded), Some(Status::Down)][status];
        status.map(|status| component(text, status, critical))
    })
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let services = Vec::from(SERVICES.map(any_service));
    let components = Vec::from(COMPONENTS.map(any_component));
    let recovered =
        proptest::option::of((0..COMPONENTS.len()).prop_map(|at| ended(COMPONENTS[at], Kind::ComponentDown)));
    (services, components, recovered).prop_map(|(services, components, recovered)| Facts {
        services: services.into_iter().flatten().collect(),
        components: components.into_iter().flatten().collect(),
        recovered: recovered.into_iter().collect(),
        ..Facts::default()
    })
}

fn any_graph() -> impl Strategy<Value = Graph> {
    let names = || (0..7usize).prop_map(|at| name(["a", "b", "c", "d", "e", "x", "y"][at]));
    proptest::collection::vec((names(), names()), 0..14).prop_map(|edges| Graph::new([], edges))
}

proptest! {
    /// What is done needn't be done again; and in small steps one comes to the same alerts. (Not always to the same severities:
    /// they say what was sent when.)
    #[test]
    fn passes_come_to_rest(history in proptest::collection::vec(any_facts(), 1..5), graph in any_graph(), begin in 1usize..4) {
        let mut table = Table::default();
        for facts in &history {
            let mut slow = table.clone();
            // What ends in one explains others for the last time, and those, others.
            for _ in 0..=SERVICES.len() {
                table.pass(facts, &graph, UNBOUNDED);
            }
            let rested = table.active.clone();
            prop_assert_eq!(table.pass(facts, &graph, UNBOUNDED), Vec::<String>::new());
            prop_assert_eq!(&table.active, &rested, "not even a change");
            let small = Bounds { begin, end: 1 };
            let mut passes = 0;
            while slow.subjects() != table.subjects() && passes < 40 {
                slow.pass(facts, &graph, small);
                passes += 1;
            }
            prop_assert_eq!(slow.subjects(), table.subjects());
        }
    }

    /// Whatever is certainly the matter is told of, and told by somebody as loudly as it deserves.
    #[test]
    fn nothing_is_hidden(history in proptest::collection::vec(any_facts(), 1..5), graph in any_graph()) {
        let mut table = Table::default();
        for facts in &history {
            let told = table.pass(facts, &graph, UNBOUNDED);
            let ends_now = |cause: &ServiceName| told.iter().any(|told| told.starts_with('-') && told.ends_with(&format!(" {cause}")));
            let recent = |cause: &ServiceName| facts.recovered.iter().any(|alert| alert.name == *cause) || ends_now(cause);
            for service in facts.services.iter().filter(|service| service.least.down == service.in_use) {
                let of_service = |active: &&Active| active.kind == Kind::ServiceDown && active.name == service.name;
                let told = table.active.iter().find(of_service).expect("an alert");
                if told.severity == Severity::Critical {
                    continue;
                }
                let cause = told.cause.as_ref().expect("a cause");
                let of_cause = |active: &&Active| active.name == *cause && active.cause.is_none();
                let told_of = |active: &Active| {
                    let names = active.details.get("explains").and_then(Value::as_array);
                    active.severity == Severity::Critical && names.is_some_and(|names| names.contains(&json!(service.name)))
                };
                prop_assert!(recent(cause) || table.active.iter().filter(of_cause).any(told_of), "{told:?}");
            }
            for active in table.active.iter().filter(|active| active.cause.as_ref() == Some(&active.name)) {
                prop_assert!(false, "{} explains itself", active.name);
            }
        }
    }

    /// Once all is well, no alert is left; and each that began has ended.
    #[test]
    fn recovery_ends_all(history in proptest::collection::vec(any_facts(), 1..5), graph in any_graph()) {
        let mut table = Table::default();
        let mut up: BTreeMap<String, i32> = BTreeMap::new();
        for facts in history.iter().chain([&Facts::default()]) {
            for told in table.pass(facts, &graph, UNBOUNDED) {
                *up.entry(told[1..].to_owned()).or_default() += if told.starts_with('+') { 1 } else { -1 };
            }
            prop_assert!(up.values().all(|count| (0..=1).contains(count)), "{up:?}");
        }
        prop_assert!(table.active.is_empty());
        prop_assert!(up.values().all(|count| *count == 0), "{up:?}");
    }
}
