//! Dependencies: their states, and the graph that registrations make of them.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Row;

use super::{Store, StoreError, Tx, sql};
use crate::domain::dependency::Graph;
use crate::domain::name::ServiceName;
use crate::wire::dependency::NodeKind;
use crate::wire::registry::{Dependency, DependencyStatus};
use crate::wire::{Error, ErrorCode};

/// Who needs whom, and how those are that the hub knows.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    /// All names that are registered, checked or needed.
    pub graph: Graph,
    /// Services and components. A name that isn't here is only needed by others.
    pub known: BTreeMap<ServiceName, (NodeKind, DependencyStatus)>,
}

impl Store {
    /// The whole graph, in one snapshot.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn dependencies(&self) -> Result<Dependencies, StoreError> {
        let rows = self.query(sql::DEPENDENCY_GRAPH, &[]).await?;
        // Thousands of lists take a while to read.
        tokio::task::spawn_blocking(move || dependencies_from(&rows)).await.map_err(StoreError::defect)
    }
}

/// Rows that were written by hand may hold what is no name: it can't be anybody's, and is left out.
fn dependencies_from(rows: &[Row]) -> Dependencies {
    let name_in = |row: &Row| row.get::<_, &str>("name").parse::<ServiceName>().ok();
    let (declarations, nodes): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get::<_, &str>("kind") == "needs");
    let mut known = BTreeMap::new();
    for row in nodes {
        let Some(name) = name_in(row) else { continue };
        let kind = if row.get::<_, &str>("kind") == "service" { NodeKind::Service } else { NodeKind::Infrastructure };
        // Where a component has the name of a service, the service comes first, and stays.
        known.entry(name).or_insert((kind, status_of(row.get("rank"))));
    }
    let edges = declarations.into_iter().filter_map(|row| {
        let needs = serde_json::from_str::<Vec<String>>(row.get("needs")).ok()?;
        Some((name_in(row)?, needs))
    });
    let edges = edges.flat_map(|(name, needs)| {
        needs.into_iter().filter_map(move |need| Some((name.clone(), need.try_into().ok()?)))
    });
    Dependencies { graph: Graph::new(known.keys().cloned(), edges), known }
}

/// A state from its rank, as `status_rank` in the schema gives it.
fn status_of(rank: Option<i32>) -> DependencyStatus {
    match rank {
        Some(1) => DependencyStatus::Healthy,
        Some(2) => DependencyStatus::Degraded,
        Some(_) => DependencyStatus::Down,
        None => DependencyStatus::Unknown,
    }
}

/// The state of each of these, in their order.
pub(super) async fn dependency_states(tx: &Tx<'_>, names: &[ServiceName]) -> Result<Vec<Dependency>, StoreError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Vec<&str> = names.iter().map(ServiceName::as_str).collect();
    let rows = tx.query(sql::DEPENDENCY_STATUS, &[&wanted]).await?;
    let states: HashMap<&str, _> = rows.iter().map(|row| (row.get("name"), status_of(row.get("rank")))).collect();
    let state = |name: &ServiceName| states.get(name.as_str()).copied().unwrap_or(DependencyStatus::Unknown);
    Ok(names.iter().map(|name| Dependency { name: name.clone(), status: state(name) }).collect())
}

/// Refuses a registration that requires what isn't there.
pub(super) fn check_dependencies(dependencies: &[Dependency]) -> Result<(), Error> {
    let away =
        |dependency: &&Dependency| matches!(dependency.status, DependencyStatus::Down | DependencyStatus::Unknown);
    let missing: Vec<&str> = dependencies.iter().filter(away).map(|dependency| dependency.name.as_str()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::DependencyUnavailable,
        "dependencies: not all of them are there; register again when they are",
    )
    .with("field", "dependencies")
    .with("dependencies", missing))
}
