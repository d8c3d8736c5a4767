//! The timeline: a page of the events' table.

use time::OffsetDateTime;
use tokio_postgres::types::ToSql;

use super::outbox::event_from;
use super::{Store, StoreError, sql};
use crate::wire::event::{Event, Kind, Topic};
use crate::wire::timeline::{DEFAULT_SINCE_SECONDS, Timeline};

impl Store {
    /// Events that a request asks for, before the one at this time and in this row (all when it is `None`), newest first; one
    /// more than `limit`, to tell whether more follow.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn timeline(
        &self,
        request: &Timeline,
        before: Option<(OffsetDateTime, i64)>,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let known_topics = Topic::ALL.map(Topic::as_str);
        let known_kinds = Kind::ALL.map(|(_, text)| text);
        let asked = |known: &[&'static str]| -> Vec<&'static str> {
            known.iter().copied().filter(|text| request.kinds.iter().any(|asked| asked == text)).collect()
        };
        let kinds = asked(&known_kinds);
        let topics = if request.kinds.is_empty() { known_topics.to_vec() } else { asked(&known_topics) };
        let since = request.since_seconds.unwrap_or(DEFAULT_SINCE_SECONDS);
        let (at, row) = before.map_or((None, i64::MAX), |(at, row)| (Some(at), row));
        let rows = i64::from(limit) + 1;
        let (known_topics, known_kinds) = (known_topics.as_slice(), known_kinds.as_slice());
        let params: super::Params<'_> = &[&topics, &kinds, &since, &at, &row, &known_topics, &known_kinds, &rows];
        let _turn = self.turn().await?;
        let rows = match &request.service_name {
            None => self.query(sql::TIMELINE, params).await?,
            Some(service) => {
                let service = service.as_str();
                let params: Vec<_> = params.iter().copied().chain([&service as &(dyn ToSql + Sync)]).collect();
                self.query(sql::TIMELINE_OF_SERVICE, &params).await?
            }
        };
        rows.iter().filter_map(|row| event_from(row).transpose()).collect()
    }
}
