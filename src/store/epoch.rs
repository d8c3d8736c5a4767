//! The epoch, and what tells that Postgres went back.

use super::row::Columns as _;
use super::{Store, StoreError, sql};
use crate::domain::name::{InstanceId, ServiceName};

/// Which database this is, and its epoch. When either changes, KV may be wrong in any key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The epoch.
    pub epoch: i64,
    /// Opaque; another one after every event that may have brought older data: a start of the server, a fail-over to
    /// another one, a database or its tables that were made anew.
    pub database: String,
}

/// How far a bucket's stream had come at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The sequence that was last noted; 0 when there was none.
    pub sequence: u64,
    /// When the epoch was last raised, in milliseconds since 1970; 0 when it never was. Then Postgres had gone back, and the
    /// note with it.
    pub raised_ms: u64,
}

impl Store {
    /// Which database this is, and its epoch.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn standing(&self) -> Result<Standing, StoreError> {
        let rows = self.query(sql::STANDING, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::defect("the schema names no epoch"))?;
        Ok(Standing { epoch: row.read("epoch")?, database: row.read("database")? })
    }

    /// The epoch.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn epoch(&self) -> Result<i64, StoreError> {
        let rows = self.query(sql::META, &[]).await?;
        rows.first().ok_or_else(|| StoreError::defect("the schema names no epoch"))?.read("epoch")
    }

    /// Notes by what this database is recognised; raises the epoch when it was another one before (restored into
    /// another system, or promoted). The new epoch, if it was raised.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn recognise(&self) -> Result<Option<i64>, StoreError> {
        let rows = self.query(sql::EPOCH_RECOGNISE, &[]).await?;
        match rows.first() {
            Some(row) if row.read("raised")? => row.read("epoch").map(Some),
            _ => Ok(None),
        }
    }

    /// Raises the epoch above `above`, unless it isn't `seen` any more: then the evidence, which is kept for people, was
    /// held against something else. The new epoch, if it was raised.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn raise_epoch(&self, seen: i64, above: i64, evidence: &str) -> Result<Option<i64>, StoreError> {
        self.raise(seen, above, evidence, None).await
    }

    /// Raises the epoch, if it still is `seen`, because an instance said that it runs something newer than what Postgres
    /// has. That counts once, and not within five minutes of another raise.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn raise_epoch_told_by(
        &self,
        service: &ServiceName,
        instance: &InstanceId,
        seen: i64,
        evidence: &str,
    ) -> Result<Option<i64>, StoreError> {
        self.raise(seen, seen, evidence, Some((service.as_str(), instance.as_str()))).await
    }

    async fn raise(
        &self,
        seen: i64,
        above: i64,
        evidence: &str,
        told_by: Option<(&str, &str)>,
    ) -> Result<Option<i64>, StoreError> {
        let (service, instance) = told_by.unzip();
        let rows = self.query(sql::EPOCH_RAISE, &[&seen, &above, &evidence, &service, &instance]).await?;
        rows.first().map(|row| row.read("epoch")).transpose()
    }

    /// What Postgres knows of how far a bucket's stream had come.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn stream_reached(&self, stream: &str) -> Result<Reached, StoreError> {
        let rows = self.query(sql::BUCKET_SEQUENCE_GET, &[&stream]).await?;
        let row = rows.first().ok_or_else(|| StoreError::defect("the schema names no epoch"))?;
        let number = |column| u64::try_from(row.read::<Option<i64>>(column)?.unwrap_or(0)).map_err(StoreError::defect);
        Ok(Reached { sequence: number("last_sequence")?, raised_ms: number("raised_ms")? })
    }

    /// Notes how far a bucket's stream has come; it never goes back.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn note_stream_sequence(&self, stream: &str, sequence: i64) -> Result<(), StoreError> {
        self.query(sql::BUCKET_SEQUENCE_NOTE, &[&stream, &sequence]).await.map(|_| ())
    }
}
