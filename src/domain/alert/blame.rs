//! What is probably behind an alert: something that fails as well, at least as badly, and that it depends on.

use std::collections::BTreeMap;

use super::diagnosis::{Finding, trouble_of_component, trouble_of_service};
use super::facts::{Facts, Trouble};
use crate::domain::dependency::Graph;
use crate::domain::name::ServiceName;

/// How likely a failing node is a cause: the worse it is; then, what fails right now; then, what is infrastructure; then,
/// what is critical.
type Likelihood = (Trouble, bool, bool, bool);

/// Causes by the trouble that they explain: what is down is not explained by what is only degraded.
pub(super) struct Blame<'a> {
    graph: &'a Graph,
    levels: Vec<(Trouble, Level)>,
}

struct Level {
    failing: BTreeMap<usize, Likelihood>,
    causes: BTreeMap<usize, usize>,
}

impl<'a> Blame<'a> {
    pub(super) fn new(facts: &Facts, graph: &'a Graph) -> Self {
        let mut failing: BTreeMap<usize, Likelihood> = BTreeMap::new();
        let mut note = |name: &ServiceName, likelihood: Likelihood| {
            if let Some(node) = graph.node(name) {
                failing.entry(node).and_modify(|known| *known = (*known).max(likelihood)).or_insert(likelihood);
            }
        };
        for service in &facts.services {
            if let Some((trouble, now)) = trouble_of_service(service) {
                note(&service.name, (trouble, now, false, false));
            }
        }
        for name in &facts.lost {
            note(name, (Trouble::Down, true, false, false));
        }
        for component in &facts.components {
            if let Some((trouble, now)) = trouble_of_component(component) {
                note(&component.name, (trouble, now, true, component.critical));
            }
        }
        // What is over just now was failing a moment ago.
        for alert in facts.active.iter().chain(&facts.recovered) {
            if let Some(trouble) = alert.trouble_as_a_whole() {
                note(&alert.name, (trouble, false, false, false));
            }
        }
        let level = |least: Trouble| {
            let failing: BTreeMap<_, _> = failing
                .iter()
                .filter(|(_, (trouble, ..))| *trouble >= least)
                .map(|(node, how)| (*node, *how))
                .collect();
            let causes = graph.causes(&failing);
            (least, Level { failing, causes })
        };
        Self { graph, levels: [Trouble::Flapping, Trouble::Degraded, Trouble::Down].map(level).into() }
    }

    /// What is probably behind a finding; `None` where nothing else is.
    pub(super) fn cause(&self, finding: &Finding) -> Option<ServiceName> {
        let trouble = finding.trouble()?;
        let (_, level) = self.levels.iter().find(|(explains, _)| *explains == trouble)?;
        let node = self.graph.node(&finding.name)?;
        let cause = self.graph.cause_of(node, &level.failing, &level.causes)?;
        self.graph.names().get(cause).cloned()
    }
}
