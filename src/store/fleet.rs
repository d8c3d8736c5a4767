//! The fleet at a glance, as of one moment.

use tokio_postgres::Row;

use super::infra::component_from;
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
    let counts = |prefix: &str| Counts {
        total: row.get(format!("{prefix}total").as_str()),
        healthy: row.get(format!("{prefix}healthy").as_str()),
        degraded: row.get(format!("{prefix}degraded").as_str()),
        down: row.get(format!("{prefix}down").as_str()),
    };
    Ok(Fleet {
        services: counts(""),
        instances: counts("instances_"),
        draining: row.get("draining"),
        infra: components.iter().map(component_from).collect::<Result<_, _>>()?,
        alerts: AlertCounts {
            critical: row.get("critical"),
            warning: row.get("warning"),
            info: row.get("info"),
            acked: row.get("acked"),
        },
        configs: ConfigCounts {
            total: row.get("configs"),
            not_converged: row.get("not_converged"),
            services: behind(&row)?,
        },
    })
}

fn behind(row: &Row) -> Result<Vec<ServiceName>, StoreError> {
    let names: Vec<String> = row.get("behind");
    names.into_iter().map(|name| name.try_into().map_err(StoreError::defect)).collect()
}
