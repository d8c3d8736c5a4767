//! The epoch, and what tells that Postgres went back.

use super::{Store, StoreError, sql};

/// Which database this is, and its epoch. When either changes, KV may be wrong in any key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The epoch.
    pub epoch: i64,
    /// Opaque; another one after every event that may have brought older data: a start of the server, a fail-over to
    /// another one, a database or its tables that were made anew.
    pub database: String,
}

impl Store {
    /// Which database this is, and its epoch.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn standing(&self) -> Result<Standing, StoreError> {
        let rows = self.query(sql::STANDING, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::defect("the schema names no epoch"))?;
        Ok(Standing { epoch: row.get("epoch"), database: row.get("database") })
    }

    /// The epoch.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn epoch(&self) -> Result<i64, StoreError> {
        let rows = self.query(sql::META, &[]).await?;
        rows.first().map(|row| row.get("epoch")).ok_or_else(|| StoreError::defect("the schema names no epoch"))
    }

    /// Notes by what this database is recognised; raises the epoch when it was another one before (restored into
    /// another system, or promoted). The new epoch, if it was raised.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn recognise(&self) -> Result<Option<i64>, StoreError> {
        let rows = self.query(sql::EPOCH_RECOGNISE, &[]).await?;
        Ok(rows.first().filter(|row| row.get("raised")).map(|row| row.get("epoch")))
    }

    /// Raises the epoch above `above`, for a piece of evidence that Postgres went back; once for each piece, and with
    /// `hearsay` not again within five minutes. The new epoch, if it was raised.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn raise_epoch(&self, above: i64, evidence: &str, hearsay: bool) -> Result<Option<i64>, StoreError> {
        let rows = self.query(sql::EPOCH_RAISE, &[&above, &evidence, &hearsay]).await?;
        Ok(rows.first().map(|row| row.get("epoch")))
    }

    /// How far a bucket's stream had come when it was last noted.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn stream_sequence(&self, stream: &str) -> Result<Option<i64>, StoreError> {
        let rows = self.query(sql::BUCKET_SEQUENCE_GET, &[&stream]).await?;
        Ok(rows.first().map(|row| row.get("last_sequence")))
    }

    /// Notes how far a bucket's stream has come; it never goes back.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn note_stream_sequence(&self, stream: &str, sequence: i64) -> Result<(), StoreError> {
        self.query(sql::BUCKET_SEQUENCE_NOTE, &[&stream, &sequence]).await.map(|_| ())
    }
}
