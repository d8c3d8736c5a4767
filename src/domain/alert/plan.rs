//! What has to begin, to change and to end, so that the alerts say what facts call for.
//!
//! - An alert whose cause has an alert of its own is raised as `info`, and its cause is at least as severe as what it
//!   explains: one failure is one page, whatever depends on it.
//! - Severity says what was sent: an alert that began before its cause was known keeps its severity, and names the cause
//!   from then on. It rises only when nothing else is behind it.
//! - When a severity changes, the alert ends and another begins, in the same transaction.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::blame::Blame;
use super::diagnosis::{Finding, Said, diagnose};
use super::facts::{Active, Facts};
use super::{Case, Kind, Severity};
use crate::domain::dependency::Graph;
use crate::domain::name::ServiceName;

/// How many names a list in the details holds at the most.
const NAMES: usize = 100;

/// How much one plan holds at the most. The rest has its turn in the next one: what is done needn't be done again, and how
/// often one alert comes again is bounded by what counts as flapping, so everything has its turn.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Alerts that begin. The most severe come first.
    pub begin: usize,
    /// Alerts that end, and alerts that change. The oldest come first.
    pub end: usize,
}

/// What to do, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Alerts that end.
    pub end: Vec<End>,
    /// Alerts that begin.
    pub begin: Vec<Begin>,
    /// Alerts that say something new.
    pub change: Vec<Change>,
}

/// An alert that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its number.
    pub id: i64,
    /// Whether another begins in its place, with another severity.
    pub replaced: bool,
}

/// An alert that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Begin {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub kind: Kind,
    /// The service or component.
    pub name: ServiceName,
    /// What people read.
    pub message: String,
    /// Facts by name.
    pub details: Map<String, Value>,
    /// What is probably behind it.
    pub cause: Option<ServiceName>,
    /// The alert in whose place it begins.
    pub replaces: Option<i64>,
}

/// An alert that goes on and says something new. Nothing is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its number.
    pub id: i64,
    /// What people read.
    pub message: String,
    /// Facts by name.
    pub details: Map<String, Value>,
    /// What is probably behind it.
    pub cause: Option<ServiceName>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.is_empty() && self.begin.is_empty() && self.change.is_empty()
    }
}

/// A finding and what becomes of it.
struct Judged<'a> {
    finding: Finding,
    active: Option<&'a Active>,
    /// How much it matters by itself; `None`: it is over, or not there yet.
    own: Option<Severity>,
    cause: Option<ServiceName>,
    /// Whether the cause has an alert of its own, which tells of this one.
    explained: bool,
    /// What this one explains, now or since it began.
    explains: BTreeSet<String>,
    /// How much it matters in the end.
    severity: Option<Severity>,
}

/// What has to be done, at most as much as `bounds` allow.
#[must_use]
pub fn plan(facts: &Facts, graph: &Graph, bounds: Bounds) -> Plan {
    let mut plan = Plan::default();
    let (mut wanted, mut begins) = (BTreeSet::new(), Vec::new());
    for judged in judge(facts, graph) {
        let Some(severity) = judged.severity else { continue };
        wanted.extend(judged.active.map(|active| active.id));
        match judged.active {
            Some(active) if active.severity == severity => plan.change.extend(judged.change(active)),
            _ => begins.push((severity, judged)),
        }
    }
    begins.sort_by_key(|(severity, judged)| (*severity, judged.cause.is_some()));
    begins.truncate(bounds.begin);
    plan.begin = begins.into_iter().map(|(severity, judged)| judged.begin(severity, graph)).collect();
    let replaced: BTreeSet<i64> = plan.begin.iter().filter_map(|begin| begin.replaces).collect();
    // The alert of a forced config is begun and ended by the writes themselves.
    let ours = facts.active.iter().filter(|active| active.kind != Kind::ConfigForced).map(|active| active.id);
    let over: BTreeSet<i64> = ours.filter(|id| !wanted.contains(id)).collect();
    let over = over.into_iter().take(bounds.end).map(|id| End { id, replaced: false });
    plan.end = replaced.into_iter().map(|id| End { id, replaced: true }).chain(over).collect();
    plan.change.sort_by_key(|change| change.id);
    plan.change.truncate(bounds.end);
    plan
}

fn judge<'a>(facts: &'a Facts, graph: &Graph) -> Vec<Judged<'a>> {
    let blame = Blame::new(facts, graph);
    let standing: BTreeMap<_, _> = facts
        .active
        .iter()
        .filter(|active| active.instance_id.is_none())
        .map(|active| ((active.kind, &active.name), active))
        .collect();
    let findings = diagnose(facts).into_iter().map(|finding| {
        let active = standing.get(&(finding.kind, &finding.name)).copied();
        let own = between(finding.least, finding.most, active.map(|active| active.severity));
        let explains = active.map(names_explained).unwrap_or_default();
        let cause = blame.cause(&finding);
        Judged { finding, active, own, cause, explained: false, explains, severity: own }
    });
    let mut judged: Vec<_> = findings.collect();

    // The alert that tells of a cause: the one of its worst trouble.
    let tells = |judged: &&Judged<'_>| judged.cause.is_none() && judged.finding.whole.is_some();
    let mut tellers: BTreeMap<ServiceName, usize> = BTreeMap::new();
    let weight = |judged: &Judged<'_>| {
        let own = judged.own.map(Reverse)?;
        Some((judged.finding.trouble(), judged.finding.kind.trouble(), own))
    };
    for (at, candidate) in judged.iter().enumerate().filter(|(_, judged)| tells(judged)) {
        let Some(weighs) = weight(candidate) else { continue };
        let known = tellers.entry(candidate.finding.name.clone()).or_insert(at);
        if Some(weighs) > weight(&judged[*known]) {
            *known = at;
        }
    }
    // What ended a moment ago, or ends now.
    let goes_on = |judged: &Judged<'_>| {
        let active = judged.active?;
        let falls = judged.own? > active.severity && judged.finding.now && !judged.is_raised_for_others();
        (!falls).then_some(active.id)
    };
    let goes_on: BTreeSet<i64> = judged.iter().filter_map(goes_on).collect();
    let ends = facts.active.iter().filter(|active| !goes_on.contains(&active.id));
    let recovered = facts.recovered.iter().chain(ends).filter(|alert| alert.trouble_as_a_whole().is_some());
    let recovered: BTreeSet<&ServiceName> = recovered.map(|alert| &alert.name).collect();
    for at in 0..judged.len() {
        let Some(cause) = judged[at].cause.clone() else { continue };
        // One that is slow now tells nothing of what failed with it while it was down.
        let as_bad = |teller: &usize| judged[*teller].finding.trouble() >= judged[at].finding.trouble();
        let teller = tellers.get(&cause).copied().filter(as_bad);
        judged[at].explained = teller.is_some() || recovered.contains(&cause);
        let (own, name) = (judged[at].own, judged[at].finding.name.to_string());
        if let (Some(teller), Some(own)) = (teller.map(|teller| &mut judged[teller]), own) {
            teller.explains.insert(name);
            teller.severity = teller.severity.min(Some(own));
        }
    }
    judged.iter_mut().for_each(Judged::settle);
    judged
}

impl Judged<'_> {
    fn settle(&mut self) {
        let now = self.active.map(|active| active.severity);
        if !self.explained
            && let Some(cause) = self.explained_since_its_last_change()
        {
            self.explained = true;
            self.cause.get_or_insert(cause);
        }
        self.severity = match (self.severity, now) {
            (None, _) => None,
            // Raised for the sake of what depends on it, it stays so until it is over itself.
            (Some(severity), Some(now)) if self.is_raised_for_others() => Some(severity.min(now)),
            (Some(severity), Some(now)) if self.explained => Some(severity.max(now)),
            (Some(_), None) if self.explained => Some(Severity::Info),
            (severity, _) => severity,
        };
        // While nothing is the matter right now, what stands there stays, unless others fail because of it.
        if !self.finding.now && self.severity.is_some() {
            self.severity = if self.explains.is_empty() { now } else { self.severity.min(now) };
        }
        while self.explains.len() > NAMES {
            self.explains.pop_last();
        }
    }

    /// What was behind something that flapped, and hasn't changed since: its alert only waits for its end, however long
    /// its cause is over.
    fn explained_since_its_last_change(&self) -> Option<ServiceName> {
        let active = self.active.filter(|_| self.finding.kind == Kind::Flapping && self.explains.is_empty())?;
        let last = |details: &Map<String, Value>| details.get("last_change").cloned();
        active.cause.clone().filter(|_| last(&active.details) == last(&self.finding.said.details))
    }

    /// Only these may matter more for others than by themselves: a service that is down is critical anyway.
    fn is_raised_for_others(&self) -> bool {
        let kinds = [Kind::ComponentDown, Kind::ComponentDegraded, Kind::Flapping];
        !self.explains.is_empty() && kinds.contains(&self.finding.kind)
    }

    fn begin(mut self, severity: Severity, graph: &Graph) -> Begin {
        let Said { message, mut details } = std::mem::take(&mut self.finding.said);
        let replaces = self.active.map(|active| active.id);
        if let Some(id) = replaces {
            details.insert("replaces".into(), id.into());
        }
        let node = graph.node(&self.finding.name);
        if let (Some(_), Some(node), false) = (self.finding.whole, node, self.explained) {
            let (nearest, more) = graph.nearest_dependents(node, NAMES);
            details.insert("affects".into(), nearest.iter().map(ServiceName::as_str).collect());
            if more {
                details.insert("affects_more".into(), true.into());
            }
        }
        self.tell_explained(&mut details);
        let Finding { kind, name, .. } = self.finding;
        let message = told(message, self.cause.as_ref());
        Begin { severity, kind, name, message, details, cause: self.cause, replaces }
    }

    fn change(mut self, active: &Active) -> Option<Change> {
        let Said { message, mut details } = std::mem::take(&mut self.finding.said);
        for (name, value) in &active.details {
            if ["affects", "affects_more", "replaces"].contains(&name.as_str()) {
                details.insert(name.clone(), value.clone());
            }
        }
        self.tell_explained(&mut details);
        let silenced = active.details.get("silenced").cloned();
        details.extend(silenced.map(|silenced| ("silenced".to_owned(), silenced)));
        let message = told(message, self.cause.as_ref());
        let same = (&message, &details, &self.cause) == (&active.message, &active.details, &active.cause);
        (!same).then_some(Change { id: active.id, message, details, cause: self.cause })
    }

    fn tell_explained(&self, details: &mut Map<String, Value>) {
        if !self.explains.is_empty() {
            details.insert("explains".into(), self.explains.iter().map(String::as_str).collect());
        }
    }
}

/// How much something matters that calls for `least` and allows for `most`, while it stands at `now`: it moves no further
/// than it must.
fn between(least: Option<Case>, most: Option<Case>, now: Option<Severity>) -> Option<Severity> {
    let weight = |severity: Option<Severity>| severity.map_or(0, |severity| 3 - severity as u8);
    let (least, most) = (least.map(Case::severity), most.map(Case::severity));
    let (low, high) = if weight(least) <= weight(most) { (least, most) } else { (most, least) };
    if weight(now) < weight(low) {
        low
    } else if weight(now) > weight(high) {
        high
    } else {
        now
    }
}

fn told(message: String, cause: Option<&ServiceName>) -> String {
    match cause {
        Some(cause) => format!("{message} (probably because of {cause})"),
        None => message,
    }
}

fn names_explained(active: &Active) -> BTreeSet<String> {
    let names = active.details.get("explains").and_then(Value::as_array).into_iter().flatten();
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}
