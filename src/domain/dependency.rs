//! Who needs whom: circles, start order, who suffers, and what is probably behind a failure.
//!
//! Everything here takes time in proportion to names and edges (and to sort them), and nothing recurses: a chain may be
//! as long as the registry.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};

use super::name::ServiceName;

/// Names and who needs whom among them. A node is a position in the sorted names, so the order of nodes is that of names.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    names: Vec<ServiceName>,
    needs: Neighbours,
    needed_by: Neighbours,
}

/// For each node its neighbours in one direction, sorted: those of node `n` lie between `starts[n]` and `starts[n + 1]`.
#[derive(Clone, Debug, Default)]
struct Neighbours {
    starts: Vec<usize>,
    targets: Vec<u32>,
}

impl Neighbours {
    /// From pairs that are sorted and name `nodes` nodes.
    fn of(nodes: usize, pairs: &[(u32, u32)]) -> Self {
        let mut starts = vec![0; nodes + 1];
        for (from, _) in pairs {
            starts[*from as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        Self { starts, targets: pairs.iter().map(|(_, to)| *to).collect() }
    }

    fn of_node(&self, node: usize) -> &[u32] {
        &self.targets[self.starts[node]..self.starts[node + 1]]
    }
}

/// Who suffers when a node goes down. Neither list names the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impact {
    /// Who needs it, sorted.
    pub direct: Vec<ServiceName>,
    /// Who needs it directly or through others, sorted.
    pub transitive: Vec<ServiceName>,
}

impl Graph {
    /// A graph of `nodes`, and of the names that the edges `(from, to)` add: `from` needs `to`. Repetitions do no harm.
    #[must_use]
    pub fn new(
        nodes: impl IntoIterator<Item = ServiceName>,
        edges: impl IntoIterator<Item = (ServiceName, ServiceName)>,
    ) -> Self {
        // Each name is kept once, however many edges name it; first in the order in which they come, then in theirs.
        let mut numbers = HashMap::new();
        let mut number = |name: ServiceName| {
            let next = numbers.len() as u32;
            *numbers.entry(name).or_insert(next)
        };
        for name in nodes {
            number(name);
        }
        let mut pairs: Vec<_> = edges.into_iter().map(|(from, to)| (number(from), number(to))).collect();
        let mut named: Vec<(ServiceName, u32)> = numbers.into_iter().collect();
        named.sort_unstable();
        let mut places = vec![0; named.len()];
        for (place, (_, number)) in named.iter().enumerate() {
            places[*number as usize] = place as u32;
        }
        let names: Vec<_> = named.into_iter().map(|(name, _)| name).collect();
        for (from, to) in &mut pairs {
            (*from, *to) = (places[*from as usize], places[*to as usize]);
        }
        pairs.sort_unstable();
        pairs.dedup();
        let needs = Neighbours::of(names.len(), &pairs);
        pairs.iter_mut().for_each(|(from, to)| std::mem::swap(from, to));
        pairs.sort_unstable();
        let needed_by = Neighbours::of(names.len(), &pairs);
        Self { names, needs, needed_by }
    }

    /// All names, sorted.
    #[must_use]
    pub fn names(&self) -> &[ServiceName] {
        &self.names
    }

    /// The node of a name.
    #[must_use]
    pub fn node(&self, name: &ServiceName) -> Option<usize> {
        self.names.binary_search(name).ok()
    }

    /// How many edges there are.
    #[must_use]
    pub fn edge_count(&self) -> usize {
        self.needs.targets.len()
    }

    /// All edges `(from, to)`, sorted.
    pub fn edges(&self) -> impl Iterator<Item = (&ServiceName, &ServiceName)> {
        (0..self.names.len()).flat_map(move |from| self.needs(from).map(move |to| (&self.names[from], &self.names[to])))
    }

    fn needs(&self, node: usize) -> impl Iterator<Item = usize> {
        self.needs.of_node(node).iter().map(|to| *to as usize)
    }

    fn name_all(&self, nodes: impl IntoIterator<Item = usize>) -> Vec<ServiceName> {
        nodes.into_iter().map(|node| self.names[node].clone()).collect()
    }

    /// Circles: groups of names that need each other, and names that need themselves. Each sorted, and in the order of
    /// their first names.
    #[must_use]
    pub fn cycles(&self) -> Vec<Vec<ServiceName>> {
        let is_cycle =
            |group: &Vec<usize>| group.len() > 1 || group.iter().any(|node| self.needs(*node).any(|n| n == *node));
        let mut cycles: Vec<_> = self.groups(0..self.names.len(), |_| true).into_iter().filter(is_cycle).collect();
        cycles.sort_unstable();
        cycles.into_iter().map(|group| self.name_all(group)).collect()
    }

    /// In which order to start everything: each step needs only what is in the steps before it, save that the members of
    /// a circle stand in one step. Each name stands in the earliest step that it can; steps are sorted.
    #[must_use]
    pub fn start_order(&self) -> Vec<Vec<ServiceName>> {
        let mut step = vec![0; self.names.len()];
        let mut steps: Vec<Vec<usize>> = Vec::new();
        for group in self.groups(0..self.names.len(), |_| true) {
            // What a group needs outside of itself came before it.
            let outside = group.iter().flat_map(|node| self.needs(*node)).filter(|to| group.binary_search(to).is_err());
            let own = outside.map(|to| step[to] + 1).max().unwrap_or(0);
            group.iter().for_each(|node| step[*node] = own);
            if steps.len() <= own {
                steps.resize_with(own + 1, Vec::new);
            }
            steps[own].extend(group);
        }
        let sorted = steps.into_iter().map(|mut nodes| {
            nodes.sort_unstable();
            self.name_all(nodes)
        });
        sorted.collect()
    }

    /// Whether `node` needs one of these, directly or through others.
    #[must_use]
    pub fn needs_any(&self, node: usize, wanted: impl Fn(&ServiceName) -> bool) -> bool {
        self.groups([node], |_| true).into_iter().flatten().any(|needed| needed != node && wanted(&self.names[needed]))
    }

    /// Who suffers when `node` goes down.
    #[must_use]
    pub fn impact(&self, node: usize) -> Impact {
        let (mut all, _) = self.dependents(node, usize::MAX);
        all.sort_unstable();
        let direct = self.needed_by.of_node(node).iter().map(|from| *from as usize).filter(|from| *from != node);
        Impact { direct: self.name_all(direct), transitive: self.name_all(all) }
    }

    /// Who suffers when `node` goes down, the nearest first and at most `limit` of them; whether there are more.
    #[must_use]
    pub fn nearest_dependents(&self, node: usize, limit: usize) -> (Vec<ServiceName>, bool) {
        let (nearest, more) = self.dependents(node, limit);
        (self.name_all(nearest), more)
    }

    fn dependents(&self, node: usize, limit: usize) -> (Vec<usize>, bool) {
        let mut seen = vec![false; self.names.len()];
        seen[node] = true;
        let mut found = vec![node];
        let mut next = 0;
        while next < found.len() {
            for from in self.needed_by.of_node(found[next]) {
                let from = *from as usize;
                if !std::mem::replace(&mut seen[from], true) {
                    if found.len() > limit {
                        return (found.split_off(1), true);
                    }
                    found.push(from);
                }
            }
            next += 1;
        }
        (found.split_off(1), false)
    }

    /// What is probably behind each of these failures: for each failing node, the one that it leads to when one walks
    /// from it to failing dependencies as far as it goes. A node that needs nothing that fails is behind itself.
    ///
    /// `failing` holds the failing nodes and how likely each is a cause by itself. Where a walk ends in several nodes, or
    /// in a circle, the likeliest of them is taken, and of equals the first by name.
    #[must_use]
    pub fn causes<L: Ord>(&self, failing: &BTreeMap<usize, L>) -> BTreeMap<usize, usize> {
        let likelier = |a: &usize, b: &usize| likelier(failing, *a, *b);
        let mut causes: BTreeMap<usize, usize> = BTreeMap::new();
        for group in self.groups(failing.keys().copied(), |node| failing.contains_key(&node)) {
            let outside = group.iter().flat_map(|node| self.needs(*node)).filter(|to| group.binary_search(to).is_err());
            // What a group needs outside of itself came before it, and has its causes.
            let deeper = outside.filter_map(|to| causes.get(&to).copied()).max_by(likelier);
            if let Some(cause) = deeper.or_else(|| group.iter().copied().max_by(likelier)) {
                causes.extend(group.into_iter().map(|node| (node, cause)));
            }
        }
        causes
    }

    /// What is probably behind a failure of `node`, which need not be among the failing ones itself (some of its
    /// instances may be well), by what [`Graph::causes`] gave of `failing`.
    #[must_use]
    pub fn cause_of<L: Ord>(
        &self,
        node: usize,
        failing: &BTreeMap<usize, L>,
        causes: &BTreeMap<usize, usize>,
    ) -> Option<usize> {
        let cause = causes.get(&node).copied().or_else(|| {
            let deeper = self.needs(node).filter_map(|to| causes.get(&to).copied());
            deeper.max_by(|a, b| likelier(failing, *a, *b))
        });
        cause.filter(|cause| *cause != node)
    }

    /// The groups of nodes that need each other (strongly connected components) among the nodes that `within` admits and
    /// that can be reached from `nodes`. Each sorted; each after all that it needs. Tarjan's algorithm, with a path of its
    /// own in place of the recursion.
    fn groups(&self, nodes: impl IntoIterator<Item = usize>, within: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        const NEW: usize = usize::MAX;
        const DONE: usize = usize::MAX - 1;
        // Of each node, the number of the earliest node that it is known to lead back to, in the order of discovery.
        let mut earliest = vec![NEW; self.names.len()];
        let (mut discovered, mut open, mut groups) = (0, Vec::new(), Vec::new());
        for start in nodes {
            let mut next = Some(start).filter(|start| earliest[*start] == NEW);
            // Each entry: a node, its number, and how many of its neighbours were looked at.
            let mut path = Vec::new();
            loop {
                if let Some(node) = next.take() {
                    earliest[node] = discovered;
                    open.push(node);
                    path.push((node, discovered, 0));
                    discovered += 1;
                }
                let Some((node, number, looked_at)) = path.last_mut() else { break };
                let (node, number, neighbours) = (*node, *number, self.needs.of_node(*node));
                let is_new = |to: &u32| within(*to as usize) && earliest[*to as usize] == NEW;
                if let Some(at) = neighbours[*looked_at..].iter().position(is_new) {
                    next = Some(neighbours[*looked_at + at] as usize);
                    *looked_at += at + 1;
                    continue;
                }
                path.pop();
                let back =
                    self.needs(node).filter(|to| within(*to)).map(|to| earliest[to]).filter(|e| *e != DONE).min();
                earliest[node] = earliest[node].min(back.unwrap_or(NEW));
                if earliest[node] == number {
                    let first = open.iter().rposition(|member| *member == node).unwrap_or_default();
                    let mut group = open.split_off(first);
                    group.iter().for_each(|member| earliest[*member] = DONE);
                    group.sort_unstable();
                    groups.push(group);
                }
            }
        }
        groups
    }
}

/// Of two failing nodes, the one that is the likelier cause; of equals, the first by name.
fn likelier<L: Ord>(failing: &BTreeMap<usize, L>, a: usize, b: usize) -> Ordering {
    (failing.get(&a), Reverse(a)).cmp(&(failing.get(&b), Reverse(b)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(number: usize) -> ServiceName {
        format!("s{number:06}").parse().unwrap()
    }

    fn graph(nodes: usize, edges: &[(usize, usize)]) -> Graph {
        Graph::new((0..nodes).map(name), edges.iter().map(|(from, to)| (name(*from), name(*to))))
    }

    fn names(numbers: &[usize]) -> Vec<ServiceName> {
        numbers.iter().map(|number| name(*number)).collect()
    }

    /// `reach[a][b]`: a leads to b over one edge or more, through admitted nodes only.
    fn reach(nodes: usize, edges: &[(usize, usize)], within: impl Fn(usize) -> bool) -> Vec<Vec<bool>> {
        let mut reach = vec![vec![false; nodes]; nodes];
        for (from, to) in edges.iter().filter(|(from, to)| within(*from) && within(*to)) {
            reach[*from][*to] = true;
        }
        for through in 0..nodes {
            for from in 0..nodes {
                for to in 0..nodes {
                    reach[from][to] |= reach[from][through] && reach[through][to];
                }
            }
        }
        reach
    }

    const NODES: usize = 9;

    fn any_edges() -> impl Strategy<Value = Vec<(usize, usize)>> {
        proptest::collection::vec((0..NODES, 0..NODES), 0..20)
    }

    proptest! {
        #[test]
        fn circles_are_who_lead_back_to_themselves(edges in any_edges()) {
            let reach = reach(NODES, &edges, |_| true);
            let mut expected: Vec<Vec<usize>> = (0..NODES)
                .filter(|node| reach[*node][*node])
                .map(|node| (0..NODES).filter(|other| reach[node][*other] && reach[*other][node]).collect())
                .collect();
            expected.sort();
            expected.dedup();
            let expected: Vec<_> = expected.iter().map(|cycle| names(cycle)).collect();
            prop_assert_eq!(graph(NODES, &edges).cycles(), expected);
        }

        #[test]
        fn everything_starts_as_early_as_it_can(edges in any_edges()) {
            let reach = reach(NODES, &edges, |_| true);
            let together = |a: usize, b: usize| a == b || reach[a][b] && reach[b][a];
            // One step later than the latest of what any member of the circle needs from outside, found by trying.
            let mut step = [0; NODES];
            for _ in 0..NODES {
                for node in 0..NODES {
                    let needs = edges.iter().filter(|(from, to)| together(*from, node) && !together(*to, node));
                    step[node] = needs.map(|(_, to)| step[*to] + 1).max().unwrap_or(0);
                }
            }
            let last = step.iter().max().unwrap();
            let expected: Vec<_> = (0..=*last)
                .map(|at| names(&(0..NODES).filter(|node| step[*node] == at).collect::<Vec<_>>()))
                .collect();
            prop_assert_eq!(graph(NODES, &edges).start_order(), expected);
        }

        #[test]
        fn who_suffers_is_who_leads_there(edges in any_edges(), node in 0..NODES, limit in 0..NODES + 2) {
            let reach = reach(NODES, &edges, |_| true);
            let graph = graph(NODES, &edges);
            let impact = graph.impact(node);
            let direct: Vec<_> = (0..NODES).filter(|from| *from != node && edges.contains(&(*from, node))).collect();
            let all: Vec<_> = (0..NODES).filter(|from| *from != node && reach[*from][node]).collect();
            prop_assert_eq!(&impact, &Impact { direct: names(&direct), transitive: names(&all) });
            let (mut nearest, more) = graph.nearest_dependents(node, limit);
            prop_assert_eq!(nearest.len(), all.len().min(limit));
            prop_assert_eq!(more, all.len() > limit);
            prop_assert!(nearest.iter().take(direct.len()).all(|name| impact.direct.contains(name)), "nearest first");
            nearest.sort();
            nearest.dedup();
            prop_assert!(nearest.iter().all(|name| impact.transitive.contains(name)));
            prop_assert_eq!(nearest.len(), all.len().min(limit), "each once");
        }

        #[test]
        fn a_cause_is_where_walks_end(
            edges in any_edges(),
            failing in proptest::collection::btree_map(0..NODES, 0u8..3, 0..NODES),
            start in 0..NODES,
        ) {
            let reach = reach(NODES, &edges, |node| failing.contains_key(&node));
            let ends = |node: usize| (0..NODES).all(|to| !reach[node][to] || reach[to][node]);
            let best = |nodes: Vec<usize>| nodes.into_iter().max_by_key(|node| (failing[node], Reverse(*node)));
            // The likeliest of those in whose circles walks from here end.
            let walk = |node: usize| {
                let circle = |end: usize| (0..NODES).filter(|n| *n == end || reach[end][*n] && reach[*n][end]).collect();
                let ends = failing.keys().copied().filter(|to| (*to == node || reach[node][*to]) && ends(*to));
                best(ends.filter_map(|end| best(circle(end))).collect())
            };
            let graph = graph(NODES, &edges);
            let causes = graph.causes(&failing);
            let expected: BTreeMap<_, _> = failing.keys().map(|node| (*node, walk(*node).unwrap())).collect();
            prop_assert_eq!(&causes, &expected);
            let from_outside = || {
                best(edges.iter().filter(|(from, to)| *from == start && failing.contains_key(to)).filter_map(|(_, to)| walk(*to)).collect())
            };
            let expected = if failing.contains_key(&start) { walk(start) } else { from_outside() };
            prop_assert_eq!(graph.cause_of(start, &failing, &causes), expected.filter(|cause| *cause != start));
        }
    }

    #[test]
    fn a_graph_knows_what_it_was_given_once() {
        let graph = graph(2, &[(1, 3), (1, 3), (0, 1)]);
        assert_eq!(graph.names(), names(&[0, 1, 3]));
        let edges: Vec<_> = graph.edges().map(|(from, to)| (from.clone(), to.clone())).collect();
        assert_eq!(edges, [(name(0), name(1)), (name(1), name(3))]);
        assert_eq!((graph.edge_count(), graph.node(&name(3)), graph.node(&name(2))), (2, Some(2), None));
        let empty = Graph::new([], []);
        assert!(empty.cycles().is_empty() && empty.start_order().is_empty() && empty.edges().next().is_none());
    }

    /// A recursion would overflow the stack here, and anything quadratic would take hours.
    #[test]
    fn long_chains_and_large_circles_are_walked() {
        const LONG: usize = 100_000;
        let mut edges: Vec<_> = (1..LONG).map(|node| (node, node - 1)).collect();
        let chain = graph(LONG, &edges);
        assert_eq!(chain.start_order().len(), LONG);
        assert_eq!(chain.impact(0).transitive.len(), LONG - 1);
        let failing: BTreeMap<_, _> = (0..LONG).map(|node| (node, ())).collect();
        assert!(chain.causes(&failing).values().all(|cause| *cause == 0));
        edges.push((0, LONG - 1));
        let circle = graph(LONG, &edges);
        assert_eq!(circle.cycles()[0].len(), LONG);
        assert_eq!(circle.start_order().len(), 1);
    }
}
