//! What the dependency calls do.

use bytes::Bytes;

use super::Hub;
use super::serve::{encode, explain};
use crate::domain::name::ServiceName;
use crate::store::dependencies::Dependencies;
use crate::wire::dependency::{DepsGraph, DepsImpact, Edge, Graph, Impact, Node, NodeKind};
use crate::wire::registry::DependencyStatus;
use crate::wire::{Error, ErrorCode};

/// The fewest bytes that an edge takes in an answer: `{"from":"a","to":"b"},`.
const EDGE_BYTES: usize = 22;

impl Hub {
    pub(super) async fn deps_graph(&self, _: DepsGraph) -> Result<Bytes, Error> {
        const NEXT: &str = "hub.deps.impact.<name> tells of one name at a time";
        let failed = |error| explain(&error, "deps graph", None);
        let read = self.graph.read().await.map_err(failed)?;
        if read.dependencies.graph.edge_count() > self.requests.client.max_payload() / EDGE_BYTES {
            return Err(self.over_max_payload(NEXT));
        }
        let making = async {
            let body = self.graph.walk(&read, |dependencies| encode(&answer(dependencies))).await.map_err(failed)?;
            self.whole(body?, NEXT)
        };
        read.whole.get_or_try_init(|| making).await.cloned()
    }

    pub(super) async fn deps_impact(&self, request: DepsImpact) -> Result<Bytes, Error> {
        let name = request.name;
        let failed = |error| explain(&error, "deps impact", Some(name.as_str()));
        let read = self.graph.read().await.map_err(failed)?;
        let node = read.dependencies.graph.node(&name).ok_or_else(|| no_such_name(&name))?;
        let found =
            self.graph.walk(&read, move |dependencies| dependencies.graph.impact(node)).await.map_err(failed)?;
        let impact = Impact { name, direct: found.direct, transitive: found.transitive };
        self.whole(encode(&impact)?, "too many depend on it")
    }

    /// An answer that has no pages.
    fn whole(&self, body: Bytes, next: &str) -> Result<Bytes, Error> {
        if body.len() > self.requests.client.max_payload() { Err(self.over_max_payload(next)) } else { Ok(body) }
    }

    fn over_max_payload(&self, next: &str) -> Error {
        let most = self.requests.client.max_payload();
        let rule =
            format!("bytes, the server's max_payload: {next}; or raise max_payload in the configuration of NATS");
        Error::too_large("reply", most, &rule)
    }
}

fn answer(dependencies: &Dependencies) -> Graph {
    let graph = &dependencies.graph;
    let node = |name: &ServiceName| {
        let unknown = (NodeKind::Unknown, DependencyStatus::Unknown);
        let (kind, status) = dependencies.known.get(name).copied().unwrap_or(unknown);
        Node { name: name.clone(), kind, status }
    };
    Graph {
        nodes: graph.names().iter().map(node).collect(),
        edges: graph.edges().map(|(from, to)| Edge { from: from.clone(), to: to.clone() }).collect(),
        cycles: graph.cycles(),
        start_order: graph.start_order(),
    }
}

fn no_such_name(name: &ServiceName) -> Error {
    let rule = format!("nobody registered as {name}, checks it or depends on it; hub.deps.graph tells all names");
    Error::new(ErrorCode::NotFound, rule).with("field", "service_name")
}
