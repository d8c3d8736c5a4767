//! The fleet at a glance, as of one moment.

use tokio_postgres::Row;

use super::infra::component_from;
use super::row::Columns as _;
use super::{Store, StoreError, Tx, sql};
use crate::domain::name::ServiceName;
use crate::wire::fleet::{AlertCounts, ConfigCounts, Counts, Fleet};

/// Services that are named as not converged at the most.
const NAMED: i64 = 20;

impl Store {
    /// The fleet at a glance.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn fleet(&self) -> Result<Fleet, StoreError> {
        let _turn = self.turn().await?;
        self.run_tx("fleet", (), |tx, ()| Box::pin(fleet_in(tx))).await
    }
}

async fn fleet_in(tx: &Tx<'_>) -> Result<Fleet, StoreError> {
    tx.execute(sql::SNAPSHOT, &[]).await?;
    let row = tx.query_one(sql::FLEET, &[&NAMED]).await?;
    let components = tx.query(sql::COMPONENTS, &[&None::<Vec<&str>>]).await?;
    let counts = |prefix: &str| {
        let count = |status: &str| row.read(&format!("{prefix}{status}"));
        Ok::<_, StoreError>(Counts {
            total: count("total")?,
            healthy: count("healthy")?,
            degraded: count("degraded")?,
            down: count("down")?,
        })
    };
    Ok(Fleet {
        services: counts("")?,
        instances: counts("instances_")?,
        draining: row.read("draining")?,
        infra: components.iter().map(component_from).collect::<Result<_, _>>()?,
        alerts: AlertCounts {
            critical: row.read("critical")?,
            warning: row.read("warning")?,
            info: row.read("info")?,
            acked: row.read("acked")?,
        },
        configs: ConfigCounts {
            total: row.read("configs")?,
            not_converged: row.read("not_converged")?,
            services: behind(&row)?,
        },
    })
}

fn behind(row: &Row) -> Result<Vec<ServiceName>, StoreError> {
    let names: Vec<String> = row.read("behind")?;
    names.into_iter().map(|name| name.try_into().map_err(StoreError::defect)).collect()
}
