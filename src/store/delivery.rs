//! How a change was asked for: a request with an id is done once however often it comes, one with a deadline not after it.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::row::Columns as _;
use super::{StoreError, Tx, sql};
use crate::wire::{Error, ErrorCode};

/// A request by what it is recognised when it comes again, and until when it may be done.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The call's subject.
    pub subject: String,
    /// The call's body.
    pub body: Bytes,
    /// The id that the caller gave it.
    pub request_id: Option<String>,
    /// After this it isn't to be done.
    pub deadline: Option<OffsetDateTime>,
}

impl Tx<'_> {
    /// The answer that this request got before, if it carries an id that was used; otherwise it is to be done now. What
    /// two of the same id would change must be locked.
    ///
    /// # Errors
    /// An id that was used for another request; a deadline that has passed.
    pub(super) async fn first_answer<T: DeserializeOwned>(&self, request: &Delivery) -> Result<Option<T>, StoreError> {
        if let Some(request_id) = &request.request_id {
            let body: &[u8] = &request.body;
            let found = self.query_opt(sql::CONFIG_REQUEST_FIND, &[&request.subject, request_id, &body]).await?;
            if let Some(row) = found {
                if !row.read::<bool>("same_body")? {
                    let rule = "was used for another request within ten minutes: take a new one";
                    return Err(Error::field("request_id", rule).into());
                }
                return serde_json::from_value(row.read::<Value>("answer")?).map(Some).map_err(StoreError::defect);
            }
        }
        match request.deadline {
            Some(deadline) => check_deadline(deadline, OffsetDateTime::now_utc()).map(|()| None).map_err(Into::into),
            None => Ok(None),
        }
    }

    /// Keeps the answer for whoever sends the same request again.
    pub(super) async fn keep_answer<T: Serialize>(&self, request: &Delivery, answer: &T) -> Result<(), StoreError> {
        let Some(request_id) = &request.request_id else { return Ok(()) };
        let answer = serde_json::to_value(answer).map_err(StoreError::defect)?;
        let body: &[u8] = &request.body;
        self.execute(sql::CONFIG_REQUEST_KEEP, &[&request.subject, request_id, &body, &answer]).await.map(|_| ())
    }
}

fn check_deadline(deadline: OffsetDateTime, now: OffsetDateTime) -> Result<(), Error> {
    if now <= deadline {
        return Ok(());
    }
    let now = now.format(&Rfc3339).unwrap_or_default();
    Err(Error::new(ErrorCode::Expired, "deadline: it has passed, nothing was done")
        .with("field", "deadline")
        .with("now", now))
}
