//! Dependencies: their states, and the graph that registrations make of them.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tokio_postgres::Row;

use super::row::Columns as _;
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
    /// What Postgres says, and that too many read.
    pub async fn dependencies(&self) -> Result<Dependencies, StoreError> {
        let _turn = self.turn().await?;
        let rows = self.query(sql::DEPENDENCY_GRAPH, &[]).await?;
        // Thousands of lists take a while to read.
        tokio::task::spawn_blocking(move || dependencies_from(&rows)).await.map_err(StoreError::defect)?
    }
}

/// Rows that were written by hand may hold what is no name: it can't be anybody's, and is left out.
fn dependencies_from(rows: &[Row]) -> Result<Dependencies, StoreError> {
    let (mut known, mut edges) = (BTreeMap::new(), Vec::new());
    for row in rows {
        let Ok(name) = row.read::<&str>("name")?.parse::<ServiceName>() else { continue };
        let kind = match row.read("kind")? {
            "needs" => {
                let needs = serde_json::from_str::<Vec<String>>(row.read("needs")?).unwrap_or_default();
                let needs = needs.into_iter().filter_map(|need| ServiceName::try_from(need).ok());
                edges.extend(needs.map(|need| (name.clone(), need)));
                continue;
            }
            "service" => NodeKind::Service,
            _ => NodeKind::Infrastructure,
        };
        // Where a component has the name of a service, the service comes first, and stays.
        known.entry(name).or_insert((kind, status_of(row.read("rank")?)));
    }
    Ok(Dependencies { graph: Graph::new(known.keys().cloned(), edges), known })
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
    let states = rows.iter().map(|row| Ok((row.read("name")?, status_of(row.read("rank")?))));
    let states: HashMap<&str, _> = states.collect::<Result<_, StoreError>>()?;
    let state = |name: &ServiceName| states.get(name.as_str()).copied().unwrap_or(DependencyStatus::Unknown);
    Ok(names.iter().map(|name| Dependency { name: name.clone(), status: state(name) }).collect())
}

/// Refuses a registration that requires what isn't there.
pub(super) fn check_dependencies(dependencies: &[Dependency]) -> Result<(), Error> {
    let away =
        |dependency: &&Dependency| matches!(dependency.status, DependencyStatus::Down | DependencyStatus::Unknown);
    let missing: Vec<Value> = dependencies
        .iter()
        .filter(away)
        .map(|Dependency { name, status }| json!({ "name": name.as_str(), "status": status.as_str() }))
        .collect();
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
