//! Leadership.

use super::row::Columns as _;
use super::{Store, StoreError, Tx, sql};
use crate::domain::lease::{DURATION, Token};

/// How long a leader's transaction waits for a lock that another holds, in Postgres' words. Its own lease can't be renewed
/// meanwhile, so what can be done a second later waits for no table that somebody maintains.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// What nobody's liveness hangs on.
    Brief,
    /// The sweep itself.
    Sweep,
}

impl Patience {
    fn lock_timeout(self) -> &'static str {
        match self {
            Self::Brief => "200ms",
            Self::Sweep => "2s",
        }
    }
}

impl Tx<'_> {
    /// Whether this replica leads with `token`. If so, it does to the end of the transaction.
    pub(super) async fn leads(&self, token: Token, patience: Patience) -> Result<bool, StoreError> {
        let fence = self.query_opt(sql::LEASE_FENCE, &[&self.replica_id, &token.0, &patience.lock_timeout()]).await?;
        Ok(fence.is_some())
    }
}

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
