//! Leadership.

use super::row::Columns as _;
use super::{Store, StoreError, sql};
use crate::domain::lease::{DURATION, Token};

impl Store {
    /// Takes or renews the leadership for [`DURATION`]; `None` while another replica leads.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn acquire_lease(&self) -> Result<Option<Token>, StoreError> {
        let rows = self.query(sql::LEASE_ACQUIRE, &[&self.replica_id, &DURATION.as_secs_f64()]).await?;
        rows.first().map(|row| row.read("token").map(Token)).transpose()
    }

    /// Gives the leadership up, so that another replica leads at once.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn release_lease(&self) -> Result<(), StoreError> {
        self.query(sql::LEASE_RELEASE, &[&self.replica_id]).await.map(|_| ())
    }
}
