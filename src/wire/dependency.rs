//! Dependency messages: who needs whom, and who suffers when something goes down.

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::registry::DependencyStatus;
use super::{Endpoint, Fields, Request};
use crate::domain::name::ServiceName;

/// `hub.deps.graph`: who needs whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DepsGraph {}

/// What a node of the graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Instances registered under this name.
    Service,
    /// An infrastructure component that the hub probes.
    Infrastructure,
    /// Somebody depends on it, and nobody knows it.
    Unknown,
}

/// A service, a component, or a name that somebody depends on. Where a component has the name of a service, it is the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: ServiceName,
    /// What it is.
    pub kind: NodeKind,
    /// How it is.
    pub status: DependencyStatus,
}

/// `from` needs `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge {
    /// Who needs.
    pub from: ServiceName,
    /// What is needed.
    pub to: ServiceName,
}

/// Answer to [`DepsGraph`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// All names, sorted.
    pub nodes: Vec<Node>,
    /// All dependencies, sorted; what any registered instance of a service declared.
    pub edges: Vec<Edge>,
    /// Names that need each other in a circle; each circle's members sorted.
    pub cycles: Vec<Vec<ServiceName>>,
    /// In which order to start everything: each step needs only what is in the steps before it. Members of a cycle stand
    /// in one step.
    pub start_order: Vec<Vec<ServiceName>>,
}

/// `hub.deps.impact.<name>`: who suffers if it goes down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DepsImpact {
    /// The service or component.
    #[serde(skip)]
    pub name: ServiceName,
}

/// Answer to [`DepsImpact`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// The service or component.
    pub name: ServiceName,
    /// Who needs it, sorted.
    pub direct: Vec<ServiceName>,
    /// Who needs it directly or through others, sorted.
    pub transitive: Vec<ServiceName>,
}

impl Request for DepsGraph {
    const ENDPOINT: Endpoint = Endpoint::DepsGraph;
    type Reply = Graph;

    fn decode(_: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {})
    }
}

impl Request for DepsImpact {
    const ENDPOINT: Endpoint = Endpoint::DepsImpact;
    type Reply = Impact;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self { name: fields.service()? })
    }
}
